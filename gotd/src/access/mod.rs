//! Decisions about who may do what under a configuration, without a descriptor or a process.

pub mod lending;
pub mod places;
pub mod table;
