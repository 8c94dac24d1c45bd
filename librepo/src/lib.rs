//! One Git repository: references, objects, packs.
//!
//! Knows no process and no socket, and reads no configuration but the few keys of [`config`] and
//! [`safeguards`].
//! Nothing here starts a program, follows a symbolic link or trusts a file: whatever a repository
//! holds, the worst it can do is to be refused.
//!
//! - [`repository`] opens one beneath a directory descriptor; [`refs`] and [`store`] are its two
//!   halves.
//! - [`reader`] reads objects; every thread has its own.
//! - [`place`] walks from a path to a directory, following no link that others can have put there.
//! - [`alternates`] finds the object directories that a repository borrows from.

pub mod alternates;
pub mod bitmap;
pub mod checked;
pub mod chunks;
pub mod commit_graph;
pub mod config;
pub mod create;
pub mod delta_apply;
mod descent;
pub mod dir;
pub mod error;
pub mod ewah;
pub mod fetch;
pub mod fs_ops;
pub mod id;
mod in_order;
pub mod inflate;
mod layers;
pub mod listing;
pub mod loose;
pub mod midx;
pub mod mounts;
pub mod object;
pub mod pack;
mod pack_files;
pub mod pack_index;
pub mod packed_refs;
pub mod place;
pub mod prefixes;
pub mod reader;
pub mod receive;
pub mod refs;
pub mod repository;
pub mod rev;
pub mod safeguards;
pub mod shallow_file;
pub mod store;
pub mod transaction;
pub mod worktrees;

pub use error::{Error, Result};
pub use id::{IdMap, IdSet};
pub use reader::{Object, Reader};
pub use refs::{Head, Ref, Refs};
pub use repository::{Options, Repository};
pub use store::{Location, Store};
