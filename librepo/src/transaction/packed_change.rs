//! Changes that packed-refs takes part in: deletions, and many references at once.
//!
//! packed-refs is changed under its lock, by one new file that is renamed over it; the locks on the
//! references are taken before.
//!
//! **A change never removes a loose file.** C git's `pack-refs --auto` reads all loose references
//! before it waits for the lock of packed-refs, and then writes the values it has read; and with
//! `--prune` it removes, after it has given that lock back, each loose file that has the value it
//! wrote. Both are harmless to a loose file with another value, which hides packed-refs, and lose a
//! change that is in packed-refs alone. So a reference that has a loose file is changed in that file,
//! by itself, and only those without are part of the one change. A deletion removes loose file and line, as in
//! C git, which can bring it back in the same way.
//!
//! **What a reader sees:** it looks at a loose file first, and where there is none, at packed-refs as
//! it is by then. So the loose file of a deleted reference goes after the line in packed-refs, which
//! it hides until then, and with that lock held: a `pack-refs` that came between would write its value
//! into packed-refs, where nothing would hide it.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::packed::Packed;
use super::trees::{self, Below};
use super::{
    Loose, MAX_LOOSE, MAX_PACKED, RefError, RefResult, Update, Work, is_directory_of, lock_name,
    not_known_on_disk, parent,
};
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
pub(super) fn excluded_by<'n>(names: &BTreeSet<&'n [u8]>, name: &[u8]) -> Option<&'n [u8]> {
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

/// What lies in the place of a locked reference. Under its lock nobody else changes that.
pub(super) struct Place<'u> {
    /// Its name, or what that leads to.
    name: &'u [u8],
    loose: Loose,
    directory: bool,
}

impl Place<'_> {
    pub(super) fn is_loose(&self) -> bool {
        !matches!(self.loose, Loose::Absent)
    }
}

/// What a locked reference is found to be.
pub(super) enum Judged {
    /// As the update says; whether it has a loose file.
    Good(bool),
    /// Another process is about to make something that it cannot exist beside: the lock of that.
    Wait(Vec<u8>),
}

/// Updates that wait, each with the lock that it waits for.
type Waiting = Vec<(usize, Vec<u8>)>;

impl Work<'_> {
    /// Makes these updates, each by itself.
    pub(super) fn change_each(&mut self, updates: &[Update], groups: Groups, results: &mut [RefResult]) {
        for group in [groups.first, groups.later] {
            self.change_group(updates, group, results);
        }
    }

    /// Makes those whose locks are free, as one change but for those with a loose file, then tries the
    /// others again: no lock is held while this waits for another reference's.
    fn change_group(&mut self, updates: &[Update], mut numbers: Vec<usize>, results: &mut [RefResult]) {
        let mut patient = true;
        for _ in 0..ROUNDS {
            // So that what lies in one directory comes together.
            numbers.sort_by(|&a, &b| updates[a].name.cmp(&updates[b].name));
            let mut waiting = Waiting::new();
            let mut locked = self.lock_free(updates, &numbers, &mut waiting, results);
            let loose = self.leave_loose(updates, &mut locked, results);
            if let Err(e) = self.change_locked(updates, &mut locked, &mut waiting, results) {
                fail(&e, &locked, results);
            }
            self.unlock_all();
            self.set_each(updates, loose, results);
            numbers = waiting.iter().map(|(at, _)| *at).collect();
            if numbers.is_empty() || !patient {
                break;
            }
            patient = self.wait_until_free(waiting.iter().map(|(_, lock)| lock.as_slice()));
        }
        for at in numbers {
            results[at] = Err(RefError::Locked);
        }
    }

    /// Locks those that nobody else has locked, and gives them.
    fn lock_free(
        &mut self,
        updates: &[Update],
        numbers: &[usize],
        waiting: &mut Waiting,
        results: &mut [RefResult],
    ) -> Vec<usize> {
        let mut locked = Vec::new();
        let mut order = match InOrder::new(self.fs) {
            Ok(order) => order,
            Err(e) => {
                fail(&e.into(), numbers, results);
                return locked;
            }
        };
        for &at in numbers {
            match self.try_lock_names(&mut order, &updates[at]) {
                Ok(None) => locked.push(at),
                Ok(Some(name)) => waiting.push((at, lock_name(name.as_bytes()))),
                Err(e) => results[at] = Err(e),
            }
        }
        locked
    }

    /// Takes what is to be changed and has a loose file out of `locked`, gives its lock back, and gives
    /// it.
    fn leave_loose(
        &mut self,
        updates: &[Update],
        locked: &mut Vec<usize>,
        results: &mut [RefResult],
    ) -> Vec<usize> {
        let mut loose = Vec::new();
        let mut order = match InOrder::new(self.fs) {
            Ok(order) => order,
            Err(e) => {
                fail(&e.into(), locked, results);
                locked.clear();
                return loose;
            }
        };
        locked.retain(|&at| {
            if updates[at].is_deletion() {
                return true;
            }
            match self.look(&mut order, &updates[at]) {
                Ok(place) if place.is_loose() => loose.push(at),
                Ok(_) => return true,
                Err(e) => results[at] = Err(e),
            }
            for lock in updates[at].names().map(|name| lock_name(name.as_bytes())) {
                if order.remove(&lock).is_ok() {
                    self.locks.remove(&lock);
                }
            }
            false
        });
        loose
    }

    /// Changes references that are locked, as far as each is what its update says, and leaves those
    /// that it changed in `locked`. An error is about all of these.
    fn change_locked(
        &mut self,
        updates: &[Update],
        locked: &mut Vec<usize>,
        waiting: &mut Waiting,
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
            let judged =
                self.look(&mut order, update).and_then(|place| self.judge(update, place, &packed, &created));
            match judged {
                // Somebody made it without the lock.
                Ok(Judged::Good(true)) if !update.is_deletion() => results[at] = Err(RefError::Locked),
                Ok(Judged::Good(is_loose)) => {
                    if update.old.is_null() {
                        created.insert(update.target().as_bytes());
                    }
                    loose.extend(is_loose.then_some(at));
                    return true;
                }
                Ok(Judged::Wait(lock)) => waiting.push((at, lock)),
                Err(e) => results[at] = Err(e),
            }
            false
        });
        if self.enter(updates, locked, &mut packed) {
            self.show_each(&mut order, updates, locked, &mut packed, waiting, results)?;
        } else {
            self.forget_logs(updates, locked);
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
        self.sync().map_err(|e| RefError::Failed(not_known_on_disk(&e)))
    }

    /// Shows what was entered, but for new names that something else has come to be in the way of;
    /// these are taken out of `locked`.
    fn show_each(
        &mut self,
        order: &mut InOrder<'_>,
        updates: &[Update],
        locked: &mut Vec<usize>,
        packed: &mut Packed,
        waiting: &mut Waiting,
        results: &mut [RefResult],
    ) -> RefResult {
        let mut new = self.write_new_packed(packed)?;
        // So that it seldom has to be done afterwards.
        if !self.leave_blocked(order, updates, locked, packed, waiting, results).is_empty() {
            new = self.write_new_packed(packed)?;
        }
        self.forget_logs(updates, locked);
        self.show_packed(&new)?;
        let out = self.leave_blocked(order, updates, locked, packed, waiting, results);
        if !out.is_empty()
            && let Err(e) = self.write_packed(packed)
        {
            waiting.retain(|(at, _)| !out.contains(at));
            let text = format!("it is there beside another and cannot be taken back: {e}");
            fail(&RefError::Failed(Error::Limit(text)), &out, results);
        }
        Ok(())
    }

    /// Takes new names that something is in the way of out of `locked` and of packed-refs, and gives
    /// them.
    fn leave_blocked(
        &self,
        order: &mut InOrder<'_>,
        updates: &[Update],
        locked: &mut Vec<usize>,
        packed: &mut Packed,
        waiting: &mut Waiting,
        results: &mut [RefResult],
    ) -> Vec<usize> {
        let mut out = Vec::new();
        let mut passed = BTreeSet::new();
        locked.retain(|&at| {
            match self.in_the_way(order, &updates[at], &mut passed) {
                Ok(Below::Nothing) => return true,
                Ok(Below::Lock(lock)) => waiting.push((at, lock)),
                Ok(Below::Reference(other)) => results[at] = Err(RefError::Conflict(other)),
                Err(e) => results[at] = Err(e),
            }
            packed.keep(updates[at].target().as_bytes());
            out.push(at);
            false
        });
        out
    }

    /// What a new name that goes into packed-refs cannot exist beside, made or locked by others since
    /// it was judged.
    ///
    /// All take the lock of a name first and look at packed-refs then. Whoever took it before
    /// packed-refs was renamed has not seen our name there, and is found here: below the name, or, for
    /// a directory on the way to it, beside that. Whoever took it later sees our name. `passed`: directories
    /// that are known to be free.
    pub(super) fn in_the_way<'n>(
        &self,
        order: &mut InOrder<'_>,
        update: &'n Update,
        passed: &mut BTreeSet<&'n [u8]>,
    ) -> Result<Below, RefError> {
        if !update.old.is_null() {
            return Ok(Below::Nothing);
        }
        let name = update.target().as_bytes();
        // Nothing is called as the first one, `refs`.
        for dir in slashes(name).skip(1).map(|at| &name[..at]) {
            let lock = lock_name(dir);
            if passed.insert(dir) && !self.locks.contains(&lock) && self.fs.stat(&lock)?.is_some() {
                passed.remove(dir);
                return Ok(Below::Lock(lock));
            }
        }
        match order.read(name, MAX_LOOSE)? {
            Found::Directory => Ok(trees::below(self.fs, name)?),
            Found::Nothing | Found::File(_) => Ok(Below::Nothing),
        }
    }

    /// Enters the new values; false if nothing changes by that.
    pub(super) fn enter(&self, updates: &[Update], numbers: &[usize], packed: &mut Packed) -> bool {
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

    /// packed-refs, to be changed under its lock: as it is by then, whatever was read before.
    pub(super) fn packed_to_change(&mut self) -> Result<Packed, Error> {
        self.packed = None;
        Packed::read(self.fs, self.hash, MAX_PACKED).map(|(_, packed)| packed)
    }

    /// Looks at the place of a locked reference.
    pub(super) fn look<'u>(
        &self,
        order: &mut InOrder<'_>,
        update: &'u Update,
    ) -> Result<Place<'u>, RefError> {
        if !update.alias_of.is_empty() {
            // What an alias that is deleted leads to is not locked: it is walked to.
            let (last, loose) = self.follow(update)?;
            return Ok(Place { name: last.as_bytes(), loose, directory: true });
        }
        let name = update.name.as_bytes();
        let (loose, directory) = match order.read(name, MAX_LOOSE) {
            Ok(Found::File(data)) => (self.parse_loose(&data), false),
            Ok(Found::Nothing) => (Loose::Absent, false),
            Ok(Found::Directory) => (Loose::Absent, true),
            Err(e) if fs_ops::errno(&e) == Some(nix::errno::Errno::ELOOP) => return Err(RefError::Link),
            Err(e) => return Err(e.into()),
        };
        Ok(Place { name, loose, directory })
    }

    /// Compares the value of a locked reference, and what else exists. `created`: names that come
    /// into packed-refs with it.
    pub(super) fn judge(
        &self,
        update: &Update,
        place: Place<'_>,
        packed: &Packed,
        created: &BTreeSet<&[u8]>,
    ) -> Result<Judged, RefError> {
        let name = place.name;
        let value = self.compare(update, name, place.loose, packed)?;
        if update.old.is_null() {
            if let Some(other) = excluded_by(created, name) {
                return Err(RefError::Conflict(other.to_vec()));
            }
            self.available(name, packed)?;
            if place.directory {
                match trees::below(self.fs, name)? {
                    Below::Nothing => {}
                    Below::Lock(lock) => return Ok(Judged::Wait(lock)),
                    Below::Reference(other) => return Err(RefError::Conflict(other)),
                }
            }
        }
        // The file of an alias goes in any case.
        Ok(Judged::Good(update.deletes_alias() || value.is_some()))
    }

    /// Removes the logs of references that are about to be deleted: not later, since who makes one of
    /// that name again would get the old log.
    pub(super) fn forget_logs(&mut self, updates: &[Update], numbers: &[usize]) {
        for update in numbers.iter().map(|&at| &updates[at]).filter(|update| update.is_deletion()) {
            self.forget_log(update.name.as_bytes());
        }
    }

    /// The logs of changes that are made: a log that cannot be written changes nothing about that.
    pub(super) fn log_changed(&mut self, updates: &[Update], numbers: &[usize]) {
        for update in numbers.iter().map(|&at| &updates[at]).filter(|update| !update.is_deletion()) {
            self.log_committed(update);
        }
    }
}

/// Says of all of these why they failed.
pub(super) fn fail(error: &RefError, numbers: &[usize], results: &mut [RefResult]) {
    for &at in numbers {
        results[at] = Err(match error {
            RefError::Locked => RefError::Locked,
            // What shows it adds the reference's name to the text.
            RefError::Failed(why) => RefError::Failed(Error::Limit(why.to_string())),
            other => RefError::Failed(Error::Limit(other.to_string())),
        });
    }
}
