//! The file `shallow`: commits at which the repository's own history is cut off
//! (`gitrepository-layout`).
//!
//! A line that makes no sense is an error, as in C git: without it, history would be looked for
//! that is not here, or a client would take what it gets for the whole.

use libgit::{HashKind, ObjectId};

use crate::dir::Dir;
use crate::error::{Error, Result};

/// The largest file that is read, in bytes.
const MOST: u64 = 64 << 20;

/// The commits that the file names; none where there is no file.
///
/// # Errors
/// It cannot be read, or a line of it names no object.
pub fn read(repository: &Dir, hash: HashKind) -> Result<Vec<ObjectId>> {
    let text = repository.read(b"shallow", MOST)?.unwrap_or_default();
    let lines = text.strip_suffix(b"\n").unwrap_or(&text);
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let id = |line: &[u8]| line.get(..hash.hex_len()).and_then(ObjectId::from_hex);
    let ids: Option<Vec<ObjectId>> = lines.split(|byte| *byte == b'\n').map(id).collect();
    ids.ok_or_else(|| Error::Corrupt(repository.name_of(b"shallow"), "damaged: a line names no object"))
}
