//! How deep the directories of a push are nested: C git walks trees by recursion, and gives up on a
//! repository with a tree that is deeper than its `core.maxTreeDepth`, so that not even `git gc`
//! works there any more.

use std::fs::File;

use libgit::{HashKind, ObjectId, ObjectKind};

use super::had::Had;
use super::index_pack::{self, Indexed, Own};
use super::world::World;
use super::{Stage, Ticker, limit};
use crate::error::Result;
use crate::id::IdMap;
use crate::object::TreeEntries;

/// This many levels are no attack: trees that the repository had are read only below more levels.
const USUAL: usize = 64;
/// Most trees that are read for this, newest commits first: the rest of a larger import is not
/// checked.
const BUDGET: usize = 20_000;

/// Refuses trees that are nested more than `most` deep: those of the pack, and those of the
/// repository far below them.
pub fn check_depth<'a>(
    indexed: &'a Indexed,
    files: Option<(&File, &File)>,
    had: impl Into<Had<'a>>,
    most: usize,
    ticker: &mut Ticker<'_>,
) -> Result<()> {
    let trees = indexed.contents.iter().filter(|(_, kind, external)| *kind == ObjectKind::Tree && !external);
    // Each level is a distinct object, so a small honest push has few.
    let (Some((pack, idx)), true) = (files, trees.take(USUAL + 1).count() > most.min(USUAL)) else {
        return Ok(());
    };
    let own = Own::new(index_pack::open_pack(pack, idx, indexed.hash)?, indexed.hash)?;
    let mut world = World::new(indexed, Some(&own), had.into());
    let mut commits: Vec<(u64, ObjectId)> =
        indexed.findings.commits.iter().map(|commit| (commit.date, commit.tree)).collect();
    commits.sort_unstable();
    // Tips may be trees, or tags of trees.
    let mut roots: Vec<ObjectId> = indexed.contents.iter().map(|(id, ..)| *id).take(BUDGET).collect();
    roots.extend(commits.into_iter().map(|(_, tree)| tree));
    let mut walk = Walk { world: &mut world, heights: IdMap::default(), left: BUDGET, most };
    while let Some(root) = roots.pop() {
        walk.from(root, ticker)?;
        if walk.left == 0 {
            break;
        }
    }
    Ok(())
}

/// A tree on the way down.
struct Level {
    id: ObjectId,
    /// Directories in it that are still to be looked at.
    below: Vec<ObjectId>,
    /// Levels below it, as far as they were read.
    height: usize,
}

struct Walk<'w, 'a> {
    world: &'w mut World<'a>,
    heights: IdMap<usize>,
    left: usize,
    most: usize,
}

impl Walk<'_, '_> {
    fn from(&mut self, root: ObjectId, ticker: &mut Ticker<'_>) -> Result<()> {
        let mut path: Vec<Level> = Vec::new();
        let mut next = Some(root);
        loop {
            if let Some(id) = next.take() {
                let height = match self.heights.get(&id) {
                    Some(height) => Some(*height),
                    None => match self.level(id, path.len(), ticker)? {
                        Some(level) => {
                            path.push(level);
                            None
                        }
                        None => Some(0),
                    },
                };
                let deep = path.len() + height.unwrap_or(0);
                if deep > self.most {
                    return Err(limit("directories", deep as u64, "levels", self.most as u64, "tree depth"));
                }
                if let (Some(height), Some(above)) = (height, path.last_mut()) {
                    above.height = above.height.max(height);
                }
            }
            let Some(last) = path.last_mut() else { return Ok(()) };
            next = last.below.pop();
            if next.is_none() {
                let height = last.height + 1;
                self.heights.insert(last.id, height);
                path.pop();
                if let Some(above) = path.last_mut() {
                    above.height = above.height.max(height);
                }
            }
        }
    }

    /// The directories in a tree; `None` if it is not looked into.
    fn level(&mut self, id: ObjectId, depth: usize, ticker: &mut Ticker<'_>) -> Result<Option<Level>> {
        let new = self.world.indexed.kind(&id) == Some(ObjectKind::Tree);
        if self.left == 0 || !(new || depth > USUAL) {
            return Ok(None);
        }
        self.left -= 1;
        ticker.tick(Stage::Connectivity, (BUDGET - self.left) as u64, 0, 0)?;
        let hash: HashKind = self.world.indexed.hash;
        let Some(tree) = self.world.read(&id)?.filter(|object| object.kind == ObjectKind::Tree) else {
            return Ok(None);
        };
        let entries = TreeEntries::new(&tree.data, hash).flatten().filter(|entry| entry.is_tree());
        let mut below: Vec<ObjectId> = entries.map(|entry| entry.id()).collect();
        // A tree may name one directory a million times.
        below.sort_unstable();
        below.dedup();
        Ok(Some(Level { id, below, height: 0 }))
    }
}
