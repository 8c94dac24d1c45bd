//! gotd.conf(5): its text, its typed form, and the small items in which the typed form travels.
//!
//! Architecture invariant: [`files`] alone meets the system: it opens files and asks for names.
//! Nothing else here does, and nothing knows a process. Text comes from a [`source::Loader`], names
//! are resolved by a [`resolve::NameService`]. The grammar is the one of Game of Trees'
//! gotd.conf and a superset of it: a file written for C gotd means the same here. gotd.conf(5) in
//! `man/` is the specification.

pub mod accounts;
pub mod bounded;
pub mod error;
pub mod files;
pub mod items;
pub mod keywords;
pub mod lexer;
pub mod limits;
pub mod model;
pub mod parser;
pub mod position;
pub mod print;
pub mod push_rules;
pub mod repository_blocks;
pub mod resolve;
pub mod secrets;
pub mod source;
pub mod subuid;

pub use error::ConfigError;
pub use limits::{ConfiguredLimits, Limit};
pub use model::{Config, Position};
pub use parser::{Parsed, parse};
pub use source::Loader;
