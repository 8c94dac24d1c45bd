//! A Git server of many small processes.
pub mod auth;
pub mod conf;
