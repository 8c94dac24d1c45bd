//! Which block a directory belongs to: the one whose place is the longest that contains it.
//!
//! A place is a path as it was walked (`librepo::place`), without links. Whoever can rename a directory changes what is
//! found under a path, and never whose rules hold there.
//!
//! **Invariant:** nothing here looks at the file system; of inodes it knows nothing.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

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

    /// The blocks with the longest place that contains `walked`; none for a path that no walk has as its result.
    pub fn of(&self, walked: &Path) -> &[usize] {
        let plain = |c: Component<'_>| matches!(c, Component::RootDir | Component::Normal(_));
        if !walked.is_absolute() || !walked.components().all(plain) {
            return &[];
        }
        walked.ancestors().find_map(|place| self.blocks.get(place)).map_or(&[], Vec::as_slice)
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
}
