//! Git's words as types, for everything that speaks of one repository's content: the messages between
//! processes and Git's protocol (`libproto`), and the engine (`librepo`), which do not know each other.
//!
//! **Invariant:** nothing here opens a file, looks at a clock or starts I/O, and there is no `unsafe`.
//! Deserialising checks again what parsing checks, because the other end of a message may have been
//! taken over.

#![forbid(unsafe_code)]

mod checked_bytes;
mod id;
mod kind;

pub use id::{HEX_MAX, HashKind, ObjectId};
pub use kind::ObjectKind;
