//! What gotctl answers from the configuration alone, without the daemon.

pub mod authorized;
pub mod explain;
