//! Git's words as types, for everything that speaks of one repository's content: the messages
//! between processes and Git's protocol (`libproto`), and the engine (`librepo`), which do not know
//! each other.
//!
//! **Invariant:** nothing here opens a file, looks at a clock or starts I/O, and there is no
//! `unsafe`. Deserialising checks again what parsing checks, because the other end of a message may
//! have been taken over.

#![forbid(unsafe_code)]

mod checked_bytes;
mod deepen;
mod escape;
mod filter;
mod id;
mod kind;
mod ref_name;

pub use deepen::{Deepen, DeepenLine, Depth};
pub use escape::escape;
pub use filter::{FILTER_PARTS_MAX, Filter, FilterError, FilterKind};
pub use id::{HEX_MAX, HashKind, ObjectId};
pub use kind::ObjectKind;
pub use ref_name::{REF_COMPONENT_MAX, REF_NAME_MAX, RefName, RefNameError};
