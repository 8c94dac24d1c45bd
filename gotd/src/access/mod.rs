//! Who may do what: decisions about a configuration, without a descriptor or a process.

pub mod lending;
pub mod places;
pub mod table;
