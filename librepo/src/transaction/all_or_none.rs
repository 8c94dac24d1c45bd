//! Updates of which all are made, or none.
//!
//! One rename of packed-refs shows all new values, so nothing may hide them there: the loose files of these
//! references go before it, when packed-refs has the values that they had. Each gets its loose file back, with the
//! new value, before packed-refs is given back: see `packed_change` for what C git's `pack-refs` would
//! do otherwise.

use std::collections::BTreeSet;
use std::time::Instant;

use libgit::RefName;

use super::packed::Packed;
use super::packed_change::{Judged, excluded_by};
use super::trees::Below;
use super::{RefError, RefResult, Update, Work, lock_name, parent};
use crate::in_order::InOrder;

/// Which update it was, and why.
type Failed = (usize, RefError);

impl Work<'_> {
    /// Makes all updates, or none.
    pub(super) fn atomic(&mut self, updates: &[Update], changing: &[usize]) -> Result<(), Failed> {
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
        let back = self.locks_with_values(&mut order, updates, &sorted)?;
        for &at in &sorted {
            self.wait_for_others(&mut order, &updates[at]).map_err(|e| (at, e))?;
        }
        self.lock_packed().map_err(|e| (first, e))?;
        let mut packed = self.packed_to_change().map_err(|e| (first, e.into()))?;
        let mut loose = Vec::new();
        for &at in &sorted {
            let update = &updates[at];
            let judged = self
                .look(&mut order, update)
                .and_then(|place| self.judge(update, place, &packed, &BTreeSet::new()));
            match judged {
                // Somebody made it without the lock.
                Ok(Judged::Good(true)) if !update.is_deletion() && !back.contains(&at) => {
                    return Err((at, RefError::Locked));
                }
                Ok(Judged::Good(is_loose)) => loose.extend(is_loose.then_some(at)),
                Ok(Judged::Wait(_)) => return Err((at, RefError::Locked)),
                Err(e) => return Err((at, e)),
            }
        }
        self.flip(updates, &sorted, &loose, &mut packed, &mut order)?;
        // Before a lock becomes the reference.
        self.log_changed(updates, &sorted);
        loose.retain(|at| back.contains(at));
        self.give_loose_back(updates, &loose, &mut packed);
        self.unlock_packed();
        // They are on the disk; the logs need not be.
        let _ = self.sync();
        self.sync_logs();
        Ok(())
    }

    /// Puts the new values into the locks of references that have a loose file and keep one, and
    /// gives these references.
    fn locks_with_values(
        &mut self,
        order: &mut InOrder<'_>,
        updates: &[Update],
        sorted: &[usize],
    ) -> Result<BTreeSet<usize>, Failed> {
        let mut loose = Vec::new();
        for &at in sorted.iter().filter(|&&at| !updates[at].is_deletion()) {
            let place = self.look(order, &updates[at]).map_err(|e| (at, e))?;
            loose.extend(place.is_loose().then_some(at));
        }
        for &at in &loose {
            self.prepare_one(&updates[at], at).map_err(|e| (at, e))?;
        }
        if let Some(&at) = loose.first() {
            self.staging.sync(self.fs).map_err(|e| (at, e.into()))?;
        }
        for &at in &loose {
            let name = updates[at].target().as_bytes();
            let (source, lock) = (self.staging.source(at), lock_name(name));
            if !self.staging.exchange(self.fs, &source, &lock).map_err(|e| (at, e.into()))? {
                self.release(&lock);
                self.lock(at, name).map_err(|e| (at, e))?;
            }
        }
        // A directory may have gone while its lock was not ours.
        order.forget();
        Ok(loose.into_iter().collect())
    }

    /// Waits for locks of names that a new one cannot exist beside, before packed-refs is locked.
    fn wait_for_others(&mut self, order: &mut InOrder<'_>, update: &Update) -> RefResult {
        loop {
            let began = Instant::now();
            match self.in_the_way(order, update, &mut BTreeSet::new())? {
                Below::Lock(_) if self.for_refs.wait(began) => {}
                Below::Lock(_) => return Err(RefError::Locked),
                Below::Nothing | Below::Reference(_) => break,
            }
        }
        self.for_refs.succeeded();
        Ok(())
    }

    /// With everything locked: moves the old values into packed-refs, removes the loose files, and
    /// shows all new values by one rename.
    fn flip(
        &mut self,
        updates: &[Update],
        sorted: &[usize],
        loose: &[usize],
        packed: &mut Packed,
        order: &mut InOrder<'_>,
    ) -> Result<(), Failed> {
        let first = sorted.first().copied().unwrap_or(0);
        self.move_loose(updates, loose, packed, order).map_err(|e| (first, e))?;
        if !self.enter(updates, sorted, packed) {
            return Ok(());
        }
        let new = self.write_new_packed(packed).map_err(|e| (first, e))?;
        // So that it seldom has to be taken back.
        if let Err(e) = self.nothing_in_the_way(order, updates, sorted) {
            let _ = self.fs.remove(&new.path);
            return Err(e);
        }
        self.forget_logs(updates, sorted);
        self.show_packed(&new).map_err(|e| (first, e))?;
        self.nothing_in_the_way(order, updates, sorted).map_err(|(at, reason)| {
            for update in sorted.iter().map(|&at| &updates[at]) {
                packed.keep(update.target().as_bytes());
            }
            self.enter_old(updates, loose, packed);
            match self.write_packed(packed) {
                Ok(()) => (at, reason),
                Err(e) => {
                    let text = format!("{reason}, and what was changed cannot be taken back: {e}");
                    (at, RefError::Failed(crate::error::Error::Limit(text)))
                }
            }
        })
    }

    fn enter_old(&self, updates: &[Update], loose: &[usize], packed: &mut Packed) {
        for update in loose.iter().map(|&at| &updates[at]) {
            packed.set(update.target().as_bytes(), &update.old, (self.options.peel)(&update.old));
        }
    }

    fn move_loose(
        &mut self,
        updates: &[Update],
        loose: &[usize],
        packed: &mut Packed,
        order: &mut InOrder<'_>,
    ) -> RefResult {
        if loose.is_empty() {
            return Ok(());
        }
        self.enter_old(updates, loose, packed);
        self.write_packed(packed)?;
        for &at in loose {
            let name = updates[at].target().as_bytes();
            order.remove(name)?;
            self.dirty.insert(parent(name));
        }
        Ok(self.sync()?)
    }

    fn nothing_in_the_way(
        &self,
        order: &mut InOrder<'_>,
        updates: &[Update],
        sorted: &[usize],
    ) -> Result<(), Failed> {
        let mut passed = BTreeSet::new();
        for &at in sorted {
            match self.in_the_way(order, &updates[at], &mut passed) {
                Ok(Below::Nothing) => {}
                Ok(Below::Lock(_)) => return Err((at, RefError::Locked)),
                Ok(Below::Reference(other)) => return Err((at, RefError::Conflict(other))),
                Err(e) => return Err((at, e)),
            }
        }
        Ok(())
    }

    /// Renames the locks of these references, which hold the new values, into their places.
    /// packed-refs has the new values too, so that a failure loses nothing.
    ///
    /// Where it said what the loose file said, it says that again at last: a `pack-refs` that has
    /// written it may be about to remove a loose file with that value, which must then be true. A
    /// reader that found no loose file sees the old value.
    fn give_loose_back(&mut self, updates: &[Update], loose: &[usize], packed: &mut Packed) {
        let mut all = true;
        for &at in loose {
            let name = updates[at].target().as_bytes();
            match self.move_lock_in(name) {
                Ok(()) => all &= self.locks.remove(&lock_name(name)),
                Err(_) => all = false,
            }
        }
        let as_packed = |update: &&Update| packed.find(update.target().as_bytes()) == Some(update.old);
        let same: Vec<&Update> = loose.iter().map(|&at| &updates[at]).filter(as_packed).collect();
        // Not before the loose files are on the disk, which hide it.
        if all && !same.is_empty() && self.sync().is_ok() {
            for update in same {
                packed.keep(update.target().as_bytes());
            }
            let _ = self.write_packed(packed);
        }
    }
}
