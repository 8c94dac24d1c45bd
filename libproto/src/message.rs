//! The messages between processes: one enum for each direction of each link.
//!
//! | link | carries |
//! |---|---|
//! | [`client`] | gotsh or gotctl ↔ `session`: the daemon's unix socket |
//! | [`parent`] | `parent` ↔ every other process |
//! | [`repo`] | `session` ↔ `repo_read` |
//! | [`push`] | `session`, `repo_write` and `verify` among each other |
//! | [`commit`] | `repo_write` ↔ `commit_refs` |
//!
//! What a push may do, [`rules`], travels in a grant.
//!
//! `listen` → `session` is one message, [`parent::ListenToSession`]. `parent` ↔ `sockets` has a
//! format of its own, one byte and fixed lengths, in the file of that role.
//!
//! What each process may receive in which state is in [`crate::states`].

pub mod client;
pub mod commit;
pub mod parent;
pub mod push;
pub mod repo;
pub mod rules;
