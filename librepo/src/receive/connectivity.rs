//! Whether anything is missing behind the new tips.
//!
//! Only history behind an existing reference is taken to be whole. An object that exists but that
//! no reference reaches may lack anything, and is walked like a new one. The common case needs no
//! walk at all: while the pack was indexed, every name in every object was noted. If all of them
//! are in the pack, or in trees and commits that references reach, everything is there.

use std::collections::BinaryHeap;

use libgit::{ObjectId, ObjectKind};

use super::links::Wanted;
use super::world::{CommitInfo, ObjectOrigin, World};
use super::{Stage, Ticker, bad};
use crate::error::Result;
use crate::id::{IdMap, IdSet};
use crate::object::TreeEntries;

/// What a walk found missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Gap {
    /// This object.
    Missing(ObjectId),
    /// Parents of a commit that the client said it has no parents of itself.
    Shallow,
}

/// Where history ends by declaration.
#[derive(Clone, Debug, Default)]
pub struct Shallow {
    /// Commits that the client said its history ends at.
    pub client: IdSet,
    /// Commits that the repository's own history ends at.
    pub own: IdSet,
}

/// The check, with its results so far.
pub(super) struct Connectivity<'w, 'a> {
    pub(super) world: &'w mut World<'a>,
    tips: &'w [ObjectId],
    shallow: &'w Shallow,
    /// Commits that references reach.
    reached: IdSet,
    reached_queue: BinaryHeap<(u64, ObjectId)>,
    started: bool,
    /// Objects of the repository that are known to be whole.
    trusted: IdSet,
    /// Objects from which a walk has come to its end: they and all behind them are there.
    whole: IdSet,
    steps: u64,
}

impl<'w, 'a> Connectivity<'w, 'a> {
    pub(super) fn new(world: &'w mut World<'a>, tips: &'w [ObjectId], shallow: &'w Shallow) -> Self {
        Connectivity {
            world,
            tips,
            shallow,
            reached: tips.iter().copied().collect(),
            reached_queue: BinaryHeap::new(),
            started: false,
            trusted: IdSet::default(),
            whole: IdSet::default(),
            steps: 0,
        }
    }

    /// Objects looked at so far.
    pub(super) fn steps(&self) -> u64 {
        self.steps
    }

    fn step(&mut self, ticker: &mut Ticker<'_>) -> Result<()> {
        self.steps += 1;
        ticker.tick(Stage::Connectivity, self.steps, 0, 0)
    }

    /// Whether references reach this commit. Follows history from them only as far back as its
    /// date.
    pub(super) fn is_reached(&mut self, id: &ObjectId, date: u64, ticker: &mut Ticker<'_>) -> Result<bool> {
        if self.reached.contains(id) {
            return Ok(true);
        }
        if !self.started {
            self.started = true;
            for tip in self.tips {
                self.step(ticker)?;
                self.reach_tip(*tip)?;
            }
        }
        // Clocks are not reliable to the day; objects missed here are walked instead.
        const SLOP: u64 = 3 * 86_400;
        while let Some(&(newest, next)) = self.reached_queue.peek() {
            if self.reached.contains(id) {
                return Ok(true);
            }
            if newest < date.saturating_sub(SLOP) {
                break;
            }
            self.reached_queue.pop();
            self.step(ticker)?;
            let Some(commit) = self.world.commit(&next)? else { continue };
            for parent in commit.parents {
                self.reach(parent)?;
            }
        }
        Ok(self.reached.contains(id))
    }

    fn reach_tip(&mut self, tip: ObjectId) -> Result<()> {
        let mut id = tip;
        for _ in 0..MAX_TAGS {
            match self.world.place(&id, Some(ObjectKind::Commit))? {
                Some(ObjectOrigin::Old(ObjectKind::Tag)) => match self.world.tag(&id)? {
                    Some((target, _)) => id = target,
                    None => return Ok(()),
                },
                Some(ObjectOrigin::Old(ObjectKind::Commit) | ObjectOrigin::New(ObjectKind::Commit)) => {
                    self.reached.remove(&id);
                    return self.reach(id);
                }
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    fn reach(&mut self, id: ObjectId) -> Result<()> {
        if self.reached.insert(id)
            && let Some(commit) = self.world.commit(&id)?
        {
            self.reached_queue.push((commit.date, id));
        }
        Ok(())
    }

    /// Whether everything that objects of the pack name is in the pack, or is known to be whole in
    /// the repository. Then all of the pack's objects are whole. An error if an object is named as
    /// another kind than it is.
    pub(super) fn pack_is_whole(&mut self, ticker: &mut Ticker<'_>) -> Result<bool> {
        let mut outside: IdMap<Wanted> = IdMap::default();
        for (id, wanted) in self.world.indexed.findings.links.iter() {
            match self.world.indexed.find(&id) {
                Some((_, kind, false)) => expect(&id, wanted, *kind)?,
                _ => {
                    outside.insert(id, wanted);
                }
            }
            ticker.poll()?;
        }
        let mut trees: IdSet = IdSet::default();
        let mut commits = Vec::new();
        let mut whole = true;
        for (id, wanted) in &outside {
            self.step(ticker)?;
            match self.world.place(id, wanted.as_kind())? {
                None => whole = false,
                Some(place) => {
                    expect(id, *wanted, place.kind())?;
                    match place.kind() {
                        // A blob names nothing: its existence is all that counts.
                        ObjectKind::Blob => {
                            self.trusted.insert(*id);
                        }
                        ObjectKind::Tree if self.world.old_is_whole() => {
                            self.trusted.insert(*id);
                        }
                        ObjectKind::Tree => {
                            trees.insert(*id);
                        }
                        ObjectKind::Commit | ObjectKind::Tag => commits.push(*id),
                    }
                }
            }
        }
        if !whole {
            return Ok(false);
        }
        for id in commits {
            if self.walk(&id, ticker)?.is_some() {
                return Ok(false);
            }
        }
        self.learn_from_parents(&mut trees, ticker)?;
        for id in trees {
            if !self.trusted.contains(&id) && self.walk(&id, ticker)?.is_some() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Trees outside of the pack are mostly those that a new commit shares with its parent: compare
    /// the two, top down, instead of walking them.
    fn learn_from_parents(&mut self, trees: &mut IdSet, ticker: &mut Ticker<'_>) -> Result<()> {
        let mut order: Vec<(u64, ObjectId)> =
            self.world.indexed.findings.commits.iter().map(|commit| (commit.date, commit.id)).collect();
        order.sort_unstable();
        let mut seen: std::collections::HashSet<(ObjectId, ObjectId)> = std::collections::HashSet::new();
        for (_, id) in order {
            if trees.is_empty() {
                return Ok(());
            }
            let Some(commit) = self.world.commit(&id)? else { continue };
            for parent in commit.parents {
                let Some(old) = self.world.commit(&parent)? else { continue };
                // A parent that the repository had is whole, or this push would have been walked
                // above.
                if self.world.indexed.kind(&parent).is_none() {
                    self.trusted.insert(old.tree);
                    trees.remove(&old.tree);
                }
                let mut pairs = vec![(commit.tree, old.tree)];
                while let Some((new, old)) = pairs.pop() {
                    if new == old || trees.is_empty() || !seen.insert((new, old)) {
                        continue;
                    }
                    self.step(ticker)?;
                    self.compare(&new, &old, trees, &mut pairs)?;
                }
            }
        }
        Ok(())
    }

    fn compare(
        &mut self,
        new: &ObjectId,
        old: &ObjectId,
        trees: &mut IdSet,
        pairs: &mut Vec<(ObjectId, ObjectId)>,
    ) -> Result<()> {
        // Only new trees name things that are still to be trusted.
        if self.world.indexed.kind(new) != Some(ObjectKind::Tree) {
            return Ok(());
        }
        let hash = self.world.indexed.hash;
        let (Some(new_tree), Some(old_tree)) = (self.world.read(new)?, self.world.read(old)?) else {
            return Ok(());
        };
        let whole = self.trusted.contains(old);
        let mut before: std::collections::HashMap<&[u8], ObjectId> = std::collections::HashMap::new();
        for entry in TreeEntries::new(&old_tree.data, hash).flatten().filter(|entry| entry.is_tree()) {
            let id = entry.id();
            if whole {
                self.trusted.insert(id);
                trees.remove(&id);
            }
            before.insert(entry.name, id);
        }
        for entry in TreeEntries::new(&new_tree.data, hash).flatten().filter(|entry| entry.is_tree()) {
            if let Some(old) = before.get(entry.name) {
                pairs.push((entry.id(), *old));
            }
        }
        Ok(())
    }

    /// Walks everything behind an object, up to objects that are known to be whole. Returns a
    /// missing object, if there is one.
    pub(super) fn walk(&mut self, start: &ObjectId, ticker: &mut Ticker<'_>) -> Result<Option<Gap>> {
        let mut seen = IdSet::default();
        let mut stack: Vec<(ObjectId, Option<ObjectKind>)> = vec![(*start, None)];
        let mut shallow = false;
        while let Some((id, wanted)) = stack.pop() {
            if self.whole.contains(&id) || self.trusted.contains(&id) || !seen.insert(id) {
                continue;
            }
            self.step(ticker)?;
            let Some(place) = self.world.place(&id, wanted)? else {
                if wanted.is_some() && self.world.is_promised(&id, ticker)? {
                    continue;
                }
                return Ok(Some(Gap::Missing(id)));
            };
            if let Some(wanted) = wanted {
                expect(&id, Wanted::of(wanted), place.kind())?;
            }
            match place.kind() {
                _ if matches!(place, ObjectOrigin::Old(_))
                    && (self.world.old_is_whole() || self.world.is_promisor_object(&id)) => {}
                ObjectKind::Blob => {}
                ObjectKind::Tree => {
                    let Some(tree) = self.world.read(&id)? else { return Ok(Some(Gap::Missing(id))) };
                    for entry in TreeEntries::new(&tree.data, self.world.indexed.hash) {
                        let entry = entry.map_err(|e| bad(format!("object {id}: {e}")))?;
                        if !entry.is_submodule() {
                            let kind = if entry.is_tree() { ObjectKind::Tree } else { ObjectKind::Blob };
                            stack.push((entry.id(), Some(kind)));
                        }
                    }
                }
                ObjectKind::Tag => match self.world.tag(&id)? {
                    Some((target, kind)) => stack.push((target, Some(kind))),
                    None => return Err(bad(format!("object {id}: malformed tag"))),
                },
                ObjectKind::Commit => {
                    let Some(commit) = self.world.commit(&id)? else {
                        return Err(bad(format!("object {id}: malformed commit")));
                    };
                    let old = matches!(place, ObjectOrigin::Old(_)) || self.world.is_old(&id);
                    if old && self.is_reached(&id, commit.date, ticker)? {
                        continue;
                    }
                    stack.push((commit.tree, Some(ObjectKind::Tree)));
                    shallow |= self.parents(&id, &commit, &mut stack)?;
                }
            }
        }
        if shallow {
            return Ok(Some(Gap::Shallow));
        }
        self.whole.extend(seen);
        Ok(None)
    }

    /// Puts a commit's parents on the stack. True if some are missing and the client said so.
    fn parents(
        &mut self,
        id: &ObjectId,
        commit: &CommitInfo,
        stack: &mut Vec<(ObjectId, Option<ObjectKind>)>,
    ) -> Result<bool> {
        if self.shallow.own.contains(id) {
            return Ok(false);
        }
        let mut cut = false;
        for parent in &commit.parents {
            if self.shallow.client.contains(id)
                && self.world.place(parent, Some(ObjectKind::Commit))?.is_none()
            {
                cut = true;
            } else {
                stack.push((*parent, Some(ObjectKind::Commit)));
            }
        }
        Ok(cut)
    }
}

/// How many tags may name each other in a row.
pub(super) const MAX_TAGS: usize = 1000;

fn expect(id: &ObjectId, wanted: Wanted, kind: ObjectKind) -> Result<()> {
    if wanted.is_only(kind) {
        return Ok(());
    }
    Err(bad(format!("object {id}: is a {}, but named as something else", kind.name())))
}
