//! Changes that packed-refs takes part in: deletions, many references at once, and all or none.
//!
//! packed-refs is changed under its lock, by one new file that is renamed over it; the locks on the
//! references are taken before. **What a reader sees:** it looks at a loose file first, and where
//! there is none, at packed-refs as it is by then. So a loose file is removed only after the rename
//! that shows the new value: until then it hides that, and a reader sees the old value, later the
//! new one, and never none. That lock is held until the loose files are gone: C git's `pack-refs`
//! would write their old values into packed-refs in between, where nothing would hide them.

use std::collections::BTreeSet;
use std::ops::Bound;

use libgit::{ObjectId, RefName};

use super::packed::Packed;
use super::trees::{self, Below};
use super::{Loose, MAX_LOOSE, MAX_PACKED, RefError, RefResult, Update, Work, is_directory_of, parent};
use crate::error::Error;
use crate::fs_ops;
use crate::in_order::{Found, InOrder};

/// Fewer changes than these are not made as one change of packed-refs, unless they have to be.
pub const ONE_CHANGE_FROM: usize = 64;
/// How often a push changes packed-refs at most for one group of updates, while others lock some of
/// these.
pub(super) const ROUNDS: usize = 4;

/// Whether so many changes are worth writing packed-refs anew, if it has so many lines: they are
/// more than a hundredth.
#[must_use]
pub fn worth_packing(changes: usize, lines: usize) -> bool {
    changes as u128 * 100 > lines as u128
}

/// The updates that go into packed-refs, by their numbers.
#[derive(Default)]
pub(super) struct Groups {
    /// One change.
    first: Vec<usize>,
    /// What cannot exist beside something in the first one, and is tried after it.
    later: Vec<usize>,
}

impl Groups {
    /// Groups the updates of these numbers.
    pub(super) fn of(updates: &[Update], numbers: impl Iterator<Item = usize>) -> Groups {
        let mut groups = Groups::default();
        let mut names: BTreeSet<&[u8]> = BTreeSet::new();
        let (deleted, set): (Vec<usize>, Vec<usize>) = numbers.partition(|&at| updates[at].is_deletion());
        for at in deleted.into_iter().chain(set) {
            let name = updates[at].target().as_bytes();
            if excluded_by(&names, name).is_some() {
                groups.later.push(at);
            } else {
                names.insert(name);
                groups.first.push(at);
            }
        }
        groups
    }
}

/// A name of these that this one cannot exist beside.
fn excluded_by<'n>(names: &BTreeSet<&'n [u8]>, name: &[u8]) -> Option<&'n [u8]> {
    if names.is_empty() {
        return None;
    }
    let above = slashes(name).find_map(|at| names.get(&name[..at]));
    let inside = [name, b"/"].concat();
    let after = (Bound::Included(&inside[..]), Bound::Unbounded);
    let below = names.range::<[u8], _>(after).next().filter(|other| is_directory_of(name, other));
    above.or(below).copied()
}

/// Where the slashes are in a name.
pub(super) fn slashes(name: &[u8]) -> impl Iterator<Item = usize> {
    name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at)
}

/// What a locked reference is found to be.
enum Judged {
    /// As the update says: its loose value, if it has one.
    Good(Option<ObjectId>),
    /// Another process is about to make something that it cannot exist beside.
    Wait,
}

impl Work<'_> {
    /// Makes these updates, each by itself.
    pub(super) fn change_each(&mut self, updates: &[Update], groups: Groups, results: &mut [RefResult]) {
        for group in [groups.first, groups.later] {
            self.change_group(updates, group, results);
        }
    }

    /// Makes those whose locks are free as one change, then tries the others again: no lock is held
    /// while this waits for another reference's.
    fn change_group(&mut self, updates: &[Update], mut waiting: Vec<usize>, results: &mut [RefResult]) {
        let mut patient = true;
        for _ in 0..ROUNDS {
            // So that what lies in one directory comes together.
            waiting.sort_by(|&a, &b| updates[a].name.cmp(&updates[b].name));
            let mut locked = self.lock_free(updates, &mut waiting, results);
            if let Err(e) = self.change_locked(updates, &mut locked, &mut waiting, results) {
                fail(&e, &locked, results);
            }
            self.unlock_all();
            if waiting.is_empty() || !patient {
                break;
            }
            let names = waiting.iter().flat_map(|&at| updates[at].names().map(|n| n.as_bytes().to_vec()));
            patient = self.wait_until_free(names);
        }
        for at in waiting {
            results[at] = Err(RefError::Locked);
        }
    }

    /// Locks those that nobody else has locked, and takes them out of `waiting`.
    fn lock_free(
        &mut self,
        updates: &[Update],
        waiting: &mut Vec<usize>,
        results: &mut [RefResult],
    ) -> Vec<usize> {
        let mut locked = Vec::new();
        let mut order = match InOrder::new(self.fs) {
            Ok(order) => order,
            Err(e) => {
                fail(&e.into(), waiting, results);
                waiting.clear();
                return locked;
            }
        };
        waiting.retain(|&at| match self.try_lock_names(&mut order, &updates[at]) {
            Ok(true) => {
                locked.push(at);
                false
            }
            Ok(false) => true,
            Err(e) => {
                results[at] = Err(e);
                false
            }
        });
        locked
    }

    /// Changes references that are locked, as far as each is what its update says, and leaves those
    /// that it changed in `locked`. An error is about all of these.
    fn change_locked(
        &mut self,
        updates: &[Update],
        locked: &mut Vec<usize>,
        waiting: &mut Vec<usize>,
        results: &mut [RefResult],
    ) -> RefResult {
        if locked.is_empty() {
            return Ok(());
        }
        // Also if nothing in it changes: a `pack-refs` under way would bring back what is deleted.
        self.lock_packed()?;
        let mut packed = self.packed_to_change()?;
        let mut order = InOrder::new(self.fs)?;
        let (mut loose, mut created) = (Vec::new(), BTreeSet::new());
        locked.retain(|&at| {
            let update = &updates[at];
            match self.judge(&mut order, update, &packed, &created) {
                Ok(Judged::Good(value)) => {
                    if update.old.is_null() {
                        created.insert(update.target().as_bytes());
                    }
                    loose.extend(value.map(|_| at));
                    return true;
                }
                Ok(Judged::Wait) => waiting.push(at),
                Err(e) => results[at] = Err(e),
            }
            false
        });
        if self.enter(updates, locked, &mut packed) {
            self.write_packed(&packed)?;
        }
        for &at in &loose {
            let name = updates[at].target().as_bytes();
            match order.remove(name) {
                Ok(_) => {
                    self.dirty.insert(parent(name));
                }
                // It goes on hiding what packed-refs says by now.
                Err(e) => results[at] = Err(e.into()),
            }
        }
        self.unlock_packed();
        locked.retain(|&at| results[at].is_ok());
        self.log_changed(updates, locked);
        // The names must be gone for good before anybody hears of it, and before the directories go
        // that held them.
        self.sync().map_err(RefError::from)
    }

    /// Makes all updates, or none.
    pub(super) fn atomic(&mut self, updates: &[Update], changing: &[usize]) -> Result<(), (usize, RefError)> {
        let first = changing.first().copied().unwrap_or(0);
        let mut names = BTreeSet::new();
        let mut to_lock = Vec::with_capacity(changing.len());
        for &at in changing {
            for name in updates[at].names().map(RefName::as_bytes) {
                if names.contains(name) || excluded_by(&names, name).is_some() {
                    return Err((at, RefError::Twice));
                }
                names.insert(name);
                to_lock.push((name, at));
            }
        }
        if changing.is_empty() {
            return Ok(());
        }
        self.announce(updates).map_err(|e| (first, e.into()))?;
        // No-ops still promise that the reference is what the client believes.
        for (at, update) in updates.iter().enumerate().filter(|(_, update)| update.is_noop()) {
            self.check(update).map_err(|e| (at, e))?;
        }
        let mut sorted = changing.to_vec();
        sorted.sort_by(|&a, &b| updates[a].name.cmp(&updates[b].name));
        let mut order = InOrder::new(self.fs).map_err(|e| (first, e.into()))?;
        // In the order of names, so that two such pushes cannot wait for each other.
        to_lock.sort_unstable();
        for (name, at) in to_lock {
            self.lock_empty(&mut order, name).map_err(|e| (at, e))?;
        }
        self.lock_packed().map_err(|e| (first, e))?;
        let mut packed = self.packed_to_change().map_err(|e| (first, e.into()))?;
        let mut loose = Vec::new();
        for &at in &sorted {
            match self.judge(&mut order, &updates[at], &packed, &BTreeSet::new()) {
                Ok(Judged::Good(value)) => loose.extend(value.map(|value| (at, value))),
                Ok(Judged::Wait) => return Err((at, RefError::Locked)),
                Err(e) => return Err((at, e)),
            }
        }
        self.flip(updates, &sorted, &loose, &mut packed, &mut order).map_err(|e| (first, e))?;
        self.unlock_packed();
        self.log_changed(updates, &sorted);
        // They are on the disk; the logs need not be.
        let _ = self.sync();
        Ok(())
    }

    /// With everything locked: move the old values into packed-refs, remove the loose files, and
    /// show all new values by one rename.
    fn flip(
        &mut self,
        updates: &[Update],
        sorted: &[usize],
        loose: &[(usize, ObjectId)],
        packed: &mut Packed,
        order: &mut InOrder<'_>,
    ) -> RefResult {
        if !loose.is_empty() {
            for (at, value) in loose {
                packed.set(updates[*at].target().as_bytes(), value, (self.options.peel)(value));
            }
            self.write_packed(packed)?;
            for (at, _) in loose {
                let name = updates[*at].target().as_bytes();
                order.remove(name)?;
                self.dirty.insert(parent(name));
            }
            self.sync()?;
        }
        match self.enter(updates, sorted, packed) {
            true => self.write_packed(packed),
            false => Ok(()),
        }
    }

    /// Enters the new values; false if nothing changes by that.
    fn enter(&self, updates: &[Update], numbers: &[usize], packed: &mut Packed) -> bool {
        let mut changes = false;
        for update in numbers.iter().map(|&at| &updates[at]) {
            let name = update.target().as_bytes();
            if !update.is_deletion() {
                packed.set(name, &update.new, (self.options.peel)(&update.new));
                changes = true;
            } else if packed.has(name) {
                packed.remove(name);
                changes = true;
            }
        }
        changes
    }

    /// packed-refs, to be changed under its lock.
    fn packed_to_change(&mut self) -> Result<Packed, Error> {
        let known = self.packed()?;
        // What is in memory already is not read again.
        self.packed = None;
        match std::rc::Rc::try_unwrap(known) {
            Ok(packed) => Ok(packed),
            Err(_) => Packed::read(self.fs, self.hash, MAX_PACKED),
        }
    }

    /// Compares the value of a locked reference, and what else exists. `created`: names that come
    /// into packed-refs with it.
    fn judge(
        &self,
        order: &mut InOrder<'_>,
        update: &Update,
        packed: &Packed,
        created: &BTreeSet<&[u8]>,
    ) -> Result<Judged, RefError> {
        let (name, loose, directory) = match update.alias_of.is_empty() {
            true => self.look(order, &update.name)?,
            // What an alias that is deleted leads to is not locked: it is walked to.
            false => self.follow(update).map(|(last, loose)| (last.as_bytes(), loose, true))?,
        };
        let value = self.compare(update, name, loose, packed)?;
        if update.old.is_null() {
            if let Some(other) = excluded_by(created, name) {
                return Err(RefError::Conflict(other.to_vec()));
            }
            self.available(name, packed)?;
            if directory {
                match trees::below(self.fs, name)? {
                    Below::Nothing => {}
                    Below::Locks => return Ok(Judged::Wait),
                    Below::Reference(other) => return Err(RefError::Conflict(other)),
                }
            }
        }
        // Its file goes in any case, and until then it has that value.
        Ok(Judged::Good(if update.deletes_alias() { Some(update.old) } else { value }))
    }

    /// The file of a locked reference, and whether a directory is in its place.
    fn look<'n>(
        &self,
        order: &mut InOrder<'_>,
        name: &'n RefName,
    ) -> Result<(&'n [u8], Loose, bool), RefError> {
        let name = name.as_bytes();
        match order.read(name, MAX_LOOSE) {
            Ok(Found::File(data)) => Ok((name, self.parse_loose(&data), false)),
            Ok(Found::Nothing) => Ok((name, Loose::Absent, false)),
            Ok(Found::Directory) => Ok((name, Loose::Absent, true)),
            Err(e) if fs_ops::errno(&e) == Some(nix::errno::Errno::ELOOP) => Err(RefError::Link),
            Err(e) => Err(e.into()),
        }
    }

    /// The logs of changes that are made: a log that cannot be written changes nothing about that.
    fn log_changed(&mut self, updates: &[Update], numbers: &[usize]) {
        for update in numbers.iter().map(|&at| &updates[at]) {
            if update.is_deletion() {
                self.forget_log(update.name.as_bytes());
            } else {
                self.log_committed(update);
            }
        }
    }
}

/// Says of all of these why they failed.
fn fail(error: &RefError, numbers: &[usize], results: &mut [RefResult]) {
    for &at in numbers {
        results[at] = Err(match error {
            RefError::Locked => RefError::Locked,
            // What shows it adds the reference's name to the text.
            RefError::Failed(why) => RefError::Failed(Error::Limit(why.to_string())),
            other => RefError::Failed(Error::Limit(other.to_string())),
        });
    }
}
