//! The repositories below one directory, as `list` and `create` find them.
//!
//! Links are not followed, and what no request can name is passed over.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::ErrorKind::PermissionDenied;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libproto::names::RepoName;
use librepo::Error;
use librepo::dir::{Dir, EntryType};
use librepo::place::Walked;

use crate::repo::find::{FoundRepository, repository_at};

/// Directories within each other that are looked into.
const MOST_LEVELS: usize = 9;
/// Names in one directory.
const MOST_ENTRIES: usize = 100_000;

/// A repository and its two names.
pub struct Below {
    /// Where it is.
    pub found: FoundRepository,
    /// The name that a client may use.
    pub name: RepoName,
    /// The name that it has there.
    pub below: RepoName,
}

/// How much may still be read. It counts down.
#[derive(Debug, Clone, Copy)]
pub struct Most {
    /// Directories, including those of repositories.
    pub directories: usize,
    /// Names in them, whatever they are.
    pub names: usize,
}

impl Most {
    /// Whether a bound was reached: there may be more.
    pub fn is_used_up(self) -> bool {
        self.directories == 0 || self.names == 0
    }
}

/// Shows each repository until one is not wanted any more. Returns whether these were all.
pub fn each_repository(root: &Walked, wanted: &mut dyn FnMut(Below) -> bool) -> bool {
    each_repository_of(root, &mut Most { directories: usize::MAX, names: usize::MAX }, wanted)
}

/// As [`each_repository`], with bounds, for a caller that no watchdog ends.
pub fn each_repository_of(root: &Walked, most: &mut Most, wanted: &mut dyn FnMut(Below) -> bool) -> bool {
    let mut walk = Walk { wanted, most, going: true, whole: true };
    walk.directory(root, b"", MOST_LEVELS);
    walk.whole && walk.going
}

struct Walk<'w> {
    wanted: &'w mut dyn FnMut(Below) -> bool,
    most: &'w mut Most,
    going: bool,
    whole: bool,
}

impl Walk<'_> {
    /// Looks at what a directory holds. `prefix` is its name with a slash behind it, or nothing.
    fn directory(&mut self, directory: &Walked, prefix: &[u8], levels: usize) {
        let Some(levels) = levels.checked_sub(1) else { return self.whole = false };
        let Ok(copy) = directory.directory.try_clone() else { return self.whole = false };
        let dir = Dir::within(copy, PathBuf::from(OsStr::from_bytes(prefix)), directory.look());
        let room = self.most.names.min(MOST_ENTRIES);
        let entries = dir.entries(room);
        self.most.names -= match &entries {
            Ok(entries) => entries.len(),
            // It was not opened, and costs nothing.
            Err(Error::Open(_, e) | Error::Read(_, e)) if e.kind() == PermissionDenied => 0,
            Err(_) => room,
        };
        let Ok(entries) = entries else { return self.whole = false };
        let names: BTreeSet<Vec<u8>> =
            entries.into_iter().filter(|(_, kind)| *kind == EntryType::Dir).map(|(name, _)| name).collect();
        for name in &names {
            if !self.going {
                return;
            }
            let full = [prefix, name].concat();
            // What no request can name is not told either.
            let Some(parsed) = RepoName::parse(&full).ok().filter(|n| n.as_bytes() == full) else { continue };
            let Some(left) = self.most.directories.checked_sub(1) else { return self.going = false };
            self.most.directories = left;
            // Links are not followed, and mount points not crossed where a request would not cross
            // them.
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

#[cfg(test)]
mod tests {
    use librepo::place::{Trust, walk};

    use super::*;

    #[test]
    fn a_tree_of_any_size_is_looked_at_so_far_and_no_further() {
        let temp = tempfile::tempdir().expect("a directory");
        let root = temp.path().canonicalize().expect("is there");
        for name in ["a/b/c", "d/e", "f"] {
            std::fs::create_dir_all(root.join(name)).expect("makes");
        }
        for name in ["objects", "refs"] {
            std::fs::create_dir_all(root.join("g.git").join(name)).expect("makes");
        }
        std::fs::write(root.join("g.git/HEAD"), "").expect("writes");
        let root = walk(&root, Trust::of_process()).expect("is there");
        // Seven directories, one of which is a repository's, and seven names.
        for (directories, names, all) in [(7, 7, true), (6, 7, false), (7, 3, false), (0, 0, false)] {
            let (mut most, mut found) = (Most { directories, names }, 0);
            let whole = each_repository_of(&root, &mut most, &mut |_| {
                found += 1;
                true
            });
            assert_eq!((whole, found == 1), (all, all), "{directories} {names}");
        }
        let mut most = Most { directories: 100, names: 100 };
        assert!(each_repository_of(&root, &mut most, &mut |_| true) && !most.is_used_up());
        assert_eq!((most.directories, most.names), (93, 93));
    }
}
