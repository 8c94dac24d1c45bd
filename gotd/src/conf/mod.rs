//! gotd.conf(5): its text, its typed form, and the small items in which the typed form travels.
//!
//! Architecture invariant: nothing here opens a file, asks the system for a name or knows a process. Text comes from
//! a [`loader::Loader`], names are resolved by a [`resolve::NameService`]; role `config` (`crate::config`) brings both.
//! The grammar is the one of Game of Trees' gotd.conf and a superset of it: a file written for C gotd means the same
//! here. gotd.conf(5) in `man/` is the specification.

pub mod accounts;
pub mod error;
pub mod keywords;
pub mod lexer;
pub mod limits;
pub mod load;
pub mod loader;
pub mod model;
pub mod parser;
pub mod print;
pub mod push;
pub mod repository;
pub mod resolve;
pub mod secrets;
pub mod subuid;
pub mod wire;

pub use error::ConfigError;
pub use limits::{Limit, Limits};
pub use loader::Loader;
pub use model::{Config, Position};
pub use parser::{Parsed, parse};
