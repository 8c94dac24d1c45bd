//! The repositories below one directory, as `list` and `create` find them.
//!
//! Links are not followed, and what no request can name is passed over.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libproto::names::RepoName;
use librepo::beneath::{Dir, EntryType};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use crate::repository::repository_at;

/// Directories within each other that are looked into.
const MOST_LEVELS: usize = 9;
/// Names in one directory.
const MOST_ENTRIES: usize = 100_000;
const DIRECTORY: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC).union(OFlag::O_NOFOLLOW);

/// Shows each repository, by its directory and the name that a client may use, until one is not wanted any more. Returns
/// whether these were all.
pub fn each_repository(root: OwnedFd, wanted: &mut dyn FnMut(&OwnedFd, RepoName) -> bool) -> bool {
    let mut walk = Walk { wanted, going: true, whole: true };
    walk.directory(root, b"", MOST_LEVELS);
    walk.whole && walk.going
}

struct Walk<'w> {
    wanted: &'w mut dyn FnMut(&OwnedFd, RepoName) -> bool,
    going: bool,
    whole: bool,
}

impl Walk<'_> {
    /// Looks at what a directory holds. `prefix` is its name with a slash behind it, or nothing.
    fn directory(&mut self, directory: OwnedFd, prefix: &[u8], levels: usize) {
        let Some(levels) = levels.checked_sub(1) else { return self.whole = false };
        let dir = Dir::new(directory, PathBuf::from(OsStr::from_bytes(prefix)));
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
            let Ok(next) = openat(dir.as_fd(), name.as_slice(), DIRECTORY, Mode::empty()) else { continue };
            let Ok(copy) = next.try_clone() else { return self.whole = false };
            match repository_at(copy, PathBuf::new()) {
                Some(found) => {
                    let stem = name.strip_suffix(b".git").filter(|stem| !names.contains(*stem));
                    let short = stem.and_then(|stem| RepoName::parse(&[prefix, stem].concat()).ok());
                    self.going = (self.wanted)(&found.directory, short.unwrap_or(parsed));
                }
                None => self.directory(next, &[&full, b"/".as_slice()].concat(), levels),
            }
        }
    }
}
