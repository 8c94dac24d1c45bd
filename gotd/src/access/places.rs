//! The block that a directory belongs to: of all blocks whose place contains it, the one with the
//! longest place.
//!
//! A place is a path as it was walked (`librepo::place`), without links. A user who can rename a
//! directory changes what lies under a path, but never which block's rules hold there.
//!
//! Inodes are a second opinion, which can only refuse: see [`Recorded`].

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use libproto::message::parent::{DirectoryId, OwnDirectory};

use crate::conf::model::Repository;

/// The places of all blocks.
#[derive(Debug, Default)]
pub struct Places {
    /// Blocks by their place; several may have the same.
    blocks: HashMap<PathBuf, Vec<usize>>,
}

impl Places {
    /// Of a configuration's blocks, which are numbered in their order.
    pub fn new(blocks: &[Repository]) -> Places {
        let mut places = Places::default();
        for (index, block) in blocks.iter().enumerate() {
            places.blocks.entry(block.place().into()).or_default().push(index);
        }
        places
    }

    /// The blocks with the longest place that contains `walked`; none for a path that no walk has
    /// as its result.
    pub fn of(&self, walked: &Path) -> &[usize] {
        let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
        if !walked.is_absolute() || !walked.components().all(plain) {
            return &[];
        }
        walked.ancestors().find_map(|place| self.blocks.get(place)).map_or(&[], Vec::as_slice)
    }
}

/// The directories of the blocks, recorded when the configuration was loaded. If such a directory
/// is reached by another path (a bind mount, a file system that does not tell `a` from `A`), that
/// path would evade its rules.
///
/// A directory that is gone leaves its inode number to others, but not its time of birth.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    paths: HashMap<DirectoryId, Vec<PathBuf>>,
}

impl Recorded {
    /// Builds the table from what role `config` saw of the blocks' directories.
    pub fn new(blocks: &[Repository], seen: &[OwnDirectory]) -> Recorded {
        let mut paths: HashMap<DirectoryId, Vec<PathBuf>> = HashMap::new();
        for own in seen {
            let Some(block) = usize::try_from(own.block).ok().and_then(|number| blocks.get(number)) else {
                continue;
            };
            let place = Path::new(block.place());
            let path = if own.worktree { place.join(".git") } else { place.components().collect() };
            paths.entry(own.id).or_default().push(path);
        }
        Recorded { paths }
    }

    /// The recorded path, if some directory on the way to `walked` was recorded under another path.
    /// `directories` are the directory `walked`, its parent and so on.
    pub fn other_path(&self, walked: &Path, directories: &[DirectoryId]) -> Option<&Path> {
        walked.ancestors().zip(directories).find_map(|(path, id)| {
            let known = self.paths.get(id)?;
            if known.iter().any(|known| known == path) { None } else { known.first().map(PathBuf::as_path) }
        })
    }

    /// The same for a path below a directory.
    pub fn other_path_below(&self, root: &[u8], below: &[u8], directories: &[DirectoryId]) -> Option<&Path> {
        let path = Path::new(std::ffi::OsStr::from_bytes(root)).join(std::ffi::OsStr::from_bytes(below));
        // A worktree's repository is one level deeper.
        let deeper = path.components().count() < directories.len();
        self.other_path(&if deeper { path.join(".git") } else { path }, directories)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::model::{Position, RepositoryKind};

    #[test]
    fn the_longest_place_that_contains_it() {
        let blocks: Vec<Repository> =
            ["/srv/git", "/srv/git/own.git", "/srv/git", "/srv/git/team", "/home/a/"]
                .map(|place| {
                    let kind = RepositoryKind::Below { create: false };
                    let mut block = Repository::new(None, kind, Position::default());
                    block.path = place.to_owned();
                    block
                })
                .into();
        let places = Places::new(&blocks);
        for (walked, expected) in [
            ("/srv/git/x.git", &[0, 2][..]),
            ("/srv/git", &[0, 2]),
            ("/srv/git/own.git", &[1]),
            ("/srv/git/own.git/.git", &[1]),
            ("/srv/git/own.git/objects", &[1]),
            ("/srv/git/own.github", &[0, 2]),
            ("/srv/git/team/a/b.git", &[3]),
            ("/home/a/x", &[4]),
            ("/srv/gitx", &[]),
            ("/srv", &[]),
            ("/", &[]),
            ("srv/git/x", &[]),
            ("/srv/git/team/../own.git", &[]),
            ("", &[]),
        ] {
            assert_eq!(places.of(Path::new(walked)), expected, "{walked}");
        }
    }

    #[test]
    fn where_it_was_walked_to_counts_and_not_what_is_written() {
        let mut block = Repository::new(None, RepositoryKind::One, Position::default());
        block.path = "/link/x.git".to_owned();
        block.place = "/srv/x.git".to_owned();
        let places = Places::new(&[block]);
        assert_eq!(places.of(Path::new("/srv/x.git")), [0]);
        assert!(places.of(Path::new("/link/x.git")).is_empty());
    }

    #[test]
    fn a_recorded_directory_is_known_by_its_own_path_alone() {
        let block = |place: &str, kind| {
            let mut block = Repository::new(None, kind, Position::default());
            block.path = place.to_owned();
            block
        };
        let blocks = [
            block("/srv/own.git", RepositoryKind::One),
            block("/srv/team", RepositoryKind::Below { create: false }),
        ];
        let id = |inode| DirectoryId { device: 1, inode, born: 7 };
        let own = |block, inode, worktree| OwnDirectory { block, id: id(inode), worktree, stays: false };
        let recorded = Recorded::new(
            &blocks,
            &[own(0, 10, false), own(0, 11, true), own(1, 20, false), own(9, 1, false)],
        );
        let other = |path: &str, inodes: &[u64]| {
            let directories: Vec<DirectoryId> = inodes.iter().map(|inode| id(*inode)).collect();
            recorded.other_path(Path::new(path), &directories).map(|path| path.display().to_string())
        };
        assert_eq!(other("/srv/own.git", &[10, 2]), None);
        assert_eq!(other("/srv/own.git/.git", &[11, 10, 2]), None);
        assert_eq!(other("/srv/x.git", &[10, 2]).as_deref(), Some("/srv/own.git"));
        assert_eq!(other("/srv/x/.git", &[11, 3, 2]).as_deref(), Some("/srv/own.git/.git"));
        // A whole directory of repositories under another name.
        assert_eq!(other("/srv/pub/bound/x.git", &[30, 20, 2]).as_deref(), Some("/srv/team"));
        assert_eq!(other("/srv/team/x.git", &[30, 20, 2]), None);
        // The number was used again.
        let newer = [DirectoryId { born: 8, ..id(10) }];
        assert_eq!(recorded.other_path(Path::new("/srv/x.git"), &newer), None);
        let deep = [id(11), id(3), id(2), id(1)];
        assert!(recorded.other_path_below(b"/srv", b"x", &deep).is_some());
        assert!(recorded.other_path_below(b"/srv", b"own.git", &[id(10), id(2), id(1)]).is_none());
        // And above the directory that the configuration names.
        assert!(
            recorded
                .other_path_below(b"/pub/bound/deep", b"x", &[id(9), id(8), id(20), id(7), id(1)])
                .is_some()
        );
    }
}
