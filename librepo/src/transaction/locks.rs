//! Locks on references and on packed-refs.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::packed_change::fail;
use super::staging::Top;
use super::{RefError, RefResult, Update, Work};
use crate::error::Error;
use crate::fs_ops;
use crate::in_order::InOrder;

/// How often a lock is tried whose directory goes away between making and using it, because
/// somebody deletes the last reference in it.
const TRIES: usize = 100;
/// How many locks are names of one file. File systems permit some 32,000 names.
const SHARED: usize = 1000;

/// How long a push will still wait for what others have locked: for all of its references together,
/// since it may hold some while it waits for more.
pub(super) struct Patience {
    left: Duration,
    pause: Duration,
}

impl Patience {
    pub(super) fn of(left: Duration) -> Patience {
        Patience { left, pause: Duration::ZERO }
    }

    /// Waits a little after an attempt in vain that began at `began`; false if it has waited
    /// enough.
    pub(super) fn wait(&mut self, began: Instant) -> bool {
        if self.left.is_zero() {
            return false;
        }
        self.pause = (self.pause * 2).clamp(Duration::from_millis(1), Duration::from_millis(50));
        // Not in step with others that wait for the same lock.
        let spread = Duration::from_millis(u64::from(std::process::id()).wrapping_mul(7919) % 8);
        std::thread::sleep((self.pause + spread.min(self.pause)).min(self.left));
        self.left = self.left.saturating_sub(began.elapsed());
        true
    }

    /// The next wait begins with short pauses again.
    pub(super) fn succeeded(&mut self) {
        self.pause = Duration::ZERO;
    }
}

impl Work<'_> {
    pub(super) fn lock_packed(&mut self) -> RefResult {
        self.lock_top(Top::PackedRefs)
    }

    pub(super) fn unlock_packed(&mut self) {
        self.unlock_top(Top::PackedRefs);
    }

    pub(super) fn lock_top(&mut self, top: Top) -> RefResult {
        let source = self.staging.prepare_lock(self.fs, top)?;
        let lock = top.lock_name();
        loop {
            let began = Instant::now();
            match self.staging.acquire(self.fs, &source, lock) {
                Ok(()) => {
                    self.for_packed.succeeded();
                    self.locks.insert(lock.to_vec());
                    return Ok(());
                }
                Err(e) if fs_ops::errno(&e) != Some(Errno::EEXIST) => return Err(e.into()),
                Err(_) if self.for_packed.wait(began) => {}
                Err(_) => return Err(RefError::Locked),
            }
        }
    }

    pub(super) fn unlock_top(&mut self, top: Top) {
        self.release(top.lock_name());
    }

    /// Writes the files that become locks with the new values of these updates, and leaves those in
    /// `numbers` that have one.
    pub(super) fn prepare(
        &mut self,
        updates: &[Update],
        numbers: &mut Vec<usize>,
        results: &mut [RefResult],
    ) {
        numbers.retain(|&at| {
            let prepared = self.prepare_one(&updates[at], at);
            prepared.map_err(|e| results[at] = Err(e)).is_ok()
        });
        if !numbers.is_empty()
            && let Err(e) = self.staging.sync(self.fs)
        {
            fail(&e.into(), numbers, results);
            numbers.clear();
        }
    }

    pub(super) fn prepare_one(&self, update: &Update, at: usize) -> RefResult {
        let value = format!("{}\n", update.new);
        Ok(self.staging.prepare(self.fs, at, value.as_bytes())?)
    }

    /// Locks one reference by the file that was prepared for it: the lock already holds the new value,
    /// on the disk.
    pub(super) fn lock(&mut self, at: usize, name: &[u8]) -> RefResult {
        let lock = lock_name(name);
        let source = self.staging.source(at);
        for _ in 0..TRIES {
            match self.make_parents(name) {
                Ok(made) => self.made(made),
                Err(RefError::Failed(e)) if fs_ops::errno(&e) == Some(Errno::ENOENT) => continue,
                Err(e) => return Err(e),
            }
            loop {
                let began = Instant::now();
                let e = match self.staging.acquire(self.fs, &source, &lock) {
                    Ok(()) => {
                        self.for_refs.succeeded();
                        self.locks.insert(lock);
                        return Ok(());
                    }
                    Err(e) => e,
                };
                match fs_ops::errno(&e) {
                    Some(Errno::EEXIST) if self.for_refs.wait(began) => {}
                    Some(Errno::EEXIST) => return Err(RefError::Locked),
                    // A directory went away.
                    Some(Errno::ENOENT) => break,
                    _ => return Err(self.not_a_directory(name).unwrap_or(RefError::Failed(e))),
                }
            }
        }
        Err(RefError::Locked)
    }

    /// Locks one reference if nobody else has, without a value: what packed-refs will say is not
    /// said by the lock. False: somebody has.
    pub(super) fn try_lock(&mut self, order: &mut InOrder<'_>, name: &[u8]) -> Result<bool, RefError> {
        let lock = lock_name(name);
        let source = self.shared_source()?;
        for _ in 0..TRIES {
            let e = match self.staging.claim(order, self.fs, &source, &lock) {
                Ok(()) => {
                    self.shared_used += 1;
                    self.locks.insert(lock);
                    return Ok(true);
                }
                Err(e) => e,
            };
            match fs_ops::errno(&e) {
                Some(Errno::EEXIST) => return Ok(false),
                Some(Errno::ENOENT) => {}
                _ => return Err(self.not_a_directory(name).unwrap_or(RefError::Failed(e))),
            }
            order.forget();
            // They hold no reference, and are removed with the lock: they need not be on the disk.
            match self.make_parents(name) {
                Ok(_) => {}
                Err(RefError::Failed(e)) if fs_ops::errno(&e) == Some(Errno::ENOENT) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    /// Waits until none of these locks is held; false if some still are when it has waited enough.
    pub(super) fn wait_until_free<'l>(&mut self, locks: impl Iterator<Item = &'l [u8]> + Clone) -> bool {
        loop {
            let began = Instant::now();
            if !self.for_refs.wait(began) {
                return false;
            }
            if !locks.clone().any(|lock| matches!(self.fs.stat(lock), Ok(Some(_)))) {
                return true;
            }
        }
    }

    fn make_parents(&self, name: &[u8]) -> Result<Vec<Vec<u8>>, RefError> {
        self.fs.make_parents(name).map_err(|e| self.not_a_directory(name).unwrap_or(RefError::Failed(e)))
    }

    /// An empty file that becomes the next lock.
    fn shared_source(&mut self) -> Result<Vec<u8>, Error> {
        let number = self.shared_used / SHARED;
        if self.shared_made <= number {
            self.staging.prepare_shared(self.fs, number)?;
            self.shared_made = number + 1;
        }
        Ok(self.staging.shared(number))
    }

    /// The reference that lies where a directory on the way to `name` should be.
    fn not_a_directory(&self, name: &[u8]) -> Option<RefError> {
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut dirs = slashes.map(|at| &name[..at]);
        let file = dirs.find(|dir| matches!(self.fs.stat(dir), Ok(Some(stat)) if !fs_ops::is_dir(&stat)))?;
        Some(RefError::Conflict(file.to_vec()))
    }

    /// Gives a lock back, with the directories that were made for it.
    pub(super) fn unlock(&mut self, name: &[u8]) {
        self.release(&lock_name(name));
        self.remove_empty_parents(name);
    }

    pub(super) fn release(&mut self, lock: &[u8]) {
        if self.locks.remove(lock) && self.fs.remove(lock).is_err() {
            self.staging.lock_stays();
        }
    }

    /// Gives all locks back.
    pub(super) fn unlock_all(&mut self) {
        let locks = std::mem::take(&mut self.locks);
        let mut order = InOrder::new(self.fs).ok();
        for lock in &locks {
            let removed = match &mut order {
                Some(order) => order.remove(lock),
                None => self.fs.remove(lock),
            };
            if removed.is_err() {
                self.staging.lock_stays();
            }
        }
        for name in locks.iter().filter_map(|lock| lock.strip_suffix(b".lock")) {
            if name.starts_with(b"refs/") {
                self.remove_empty_parents(name);
            }
        }
    }
}

pub(super) fn lock_name(name: &[u8]) -> Vec<u8> {
    [name, b".lock"].concat()
}
