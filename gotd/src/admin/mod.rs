//! Answers of gotctl and `gotd -n` that need the configuration and the file system, but no daemon.

pub mod authorized;
pub mod check;
pub mod check_alternates;
pub mod explain;
