//! What root and a service manager see of a running daemon, and how they reach it.

mod gotctl;
mod log;
mod service_manager;
mod socket;
