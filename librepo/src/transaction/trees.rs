//! Going through directories of references, as deep as names may be long.

use crate::dir::EntryType;
use crate::error::Error;
use crate::fs_ops::Fs;

/// How many entries a directory of references may have.
const MAX_ENTRIES: usize = 2_000_000;

/// What lies below a directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// Directories at most.
    Nothing,
    /// Locks, and no reference: the path of one.
    Lock(Vec<u8>),
    /// A reference, by its path.
    Reference(Vec<u8>),
}

/// Whether there is a loose reference below a directory.
pub(super) fn below(fs: &Fs, dir: &[u8]) -> Result<Below, Error> {
    let mut descent = fs.descent()?;
    let mut waiting = vec![dir.to_vec()];
    let mut lock = None;
    while let Some(path) = waiting.pop() {
        let Some(dir) = descent.dir(&path)? else { continue };
        for (name, kind) in dir.entries(MAX_ENTRIES)? {
            let inner = [&path, b"/".as_slice(), &name].concat();
            match kind {
                EntryType::Dir => waiting.push(inner),
                _ if name.ends_with(b".lock") => lock = Some(inner),
                _ => return Ok(Below::Reference(inner)),
            }
        }
    }
    Ok(lock.map_or(Below::Nothing, Below::Lock))
}

/// Removes a tree of empty directories; false, with nothing removed, if there is anything else in
/// it.
pub(super) fn remove_empty(fs: &Fs, dir: &[u8]) -> Result<bool, Error> {
    let mut descent = fs.descent()?;
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_vec()];
    while let Some(path) = waiting.pop() {
        if let Some(dir) = descent.dir(&path)? {
            for (name, kind) in dir.entries(MAX_ENTRIES)? {
                if kind != EntryType::Dir {
                    return Ok(false);
                }
                waiting.push([&path, b"/".as_slice(), &name].concat());
            }
        }
        found.push(path);
    }
    // Each directory was found before those in it.
    let mut removed = false;
    for path in found.iter().rev() {
        removed = fs.remove_dir_in(&mut descent, path)?;
        if !removed {
            break;
        }
    }
    Ok(removed)
}
