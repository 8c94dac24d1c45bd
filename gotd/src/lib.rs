//! gotd: a Git server of many small processes.
//!
//! One file per process role, and the file is the role: its duty, its sandbox, its loop. `parent` starts all
//! others; [`roles`] maps names to entry functions; `libproto::states` holds who may talk to whom.

pub mod access;
pub mod admin;
pub mod auth;
pub mod check;
pub mod check_alternates;
pub mod conf;
pub mod config;
pub mod create;
#[cfg(feature = "escapes")]
pub mod escapes;
pub mod fairness;
pub mod list;
pub mod listen;
pub mod os;
pub mod parent;
pub mod repo;
pub mod roles;
pub mod session;
pub mod sockets;
pub mod verify;

/// The version, for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What parent and child compare at their greeting: they must be the same build. A number of all sources, see build.rs.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-", env!("GOTD_BUILD"));
