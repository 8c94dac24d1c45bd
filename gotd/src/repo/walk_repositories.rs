//! The repositories below one directory, as `list` and `create` find them.
//!
//! Links are not followed, and what no request can name is passed over.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libproto::names::RepoName;
use librepo::beneath::{Dir, EntryType};
use librepo::place::Walked;

use crate::repo::role::{Found, repository_at};

/// Directories within each other that are looked into.
const MOST_LEVELS: usize = 9;
/// Names in one directory.
const MOST_ENTRIES: usize = 100_000;

/// A repository and its two names.
pub struct Below {
    /// Where it is.
    pub found: Found,
    /// The name that a client may use.
    pub name: RepoName,
    /// The name that it has there.
    pub below: RepoName,
}

/// Shows each repository until one is not wanted any more. Returns whether these were all.
pub fn each_repository(root: &Walked, wanted: &mut dyn FnMut(Below) -> bool) -> bool {
    let mut walk = Walk { wanted, going: true, whole: true };
    walk.directory(root, b"", MOST_LEVELS);
    walk.whole && walk.going
}

struct Walk<'w> {
    wanted: &'w mut dyn FnMut(Below) -> bool,
    going: bool,
    whole: bool,
}

impl Walk<'_> {
    /// Looks at what a directory holds. `prefix` is its name with a slash behind it, or nothing.
    fn directory(&mut self, directory: &Walked, prefix: &[u8], levels: usize) {
        let Some(levels) = levels.checked_sub(1) else { return self.whole = false };
        let Ok(copy) = directory.directory.try_clone() else { return self.whole = false };
        let dir = Dir::within(copy, PathBuf::from(OsStr::from_bytes(prefix)), directory.look());
        let Ok(entries) = dir.entries(MOST_ENTRIES) else { return self.whole = false };
        let names: BTreeSet<Vec<u8>> =
            entries.into_iter().filter(|(_, kind)| *kind == EntryType::Dir).map(|(name, _)| name).collect();
        for name in &names {
            if !self.going {
                return;
            }
            let full = [prefix, name].concat();
            // What no request can name is not told either.
            let Some(parsed) = RepoName::parse(&full).ok().filter(|n| n.as_bytes() == full) else { continue };
            // Links are not followed, and mount points not crossed where a request would not cross them.
            let Ok(next) = directory.child(name) else { continue };
            let Ok(copy) = next.try_clone() else { return self.whole = false };
            match repository_at(copy) {
                Some(found) => {
                    let stem = parsed.without_suffix();
                    let free = stem.len() < full.len() && !names.contains(&stem[prefix.len()..]);
                    let short = free.then(|| RepoName::parse(stem).ok()).flatten();
                    let name = short.unwrap_or_else(|| parsed.clone());
                    self.going = (self.wanted)(Below { found, name, below: parsed });
                }
                None => self.directory(&next, &[&full, b"/".as_slice()].concat(), levels),
            }
        }
    }
}
