//! What is answered from the configuration and the file system, without the daemon: by gotctl, and
//! by `gotd -n`.

pub mod authorized;
pub mod check;
pub mod check_alternates;
pub mod explain;
