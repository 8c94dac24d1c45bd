//! Changing references, with git's own lock files, so that C git and this may work on one
//! repository at the same time.
//!
//! A reference is locked by creating `<name>.lock`, packed-refs by `packed-refs.lock`. What the
//! lock will become is written and synchronised first, in a [`Staging`] directory, and then
//! *linked* to the lock's name: so a lock that a crash left behind can be told from one that C git
//! holds, since it is the same file as one in a staging directory whose owner is gone.
//!
//! Each update is a transaction of its own ([`commit_each`]), or all are one ([`commit_atomic`]):
//! then the values that the references have are first moved into packed-refs (nothing visible
//! changes) and their loose files removed, and one rename of packed-refs shows all new values at
//! once. A crash leaves all old or all new ones.
//!
//! **Invariant:** a reference's old value is compared under its lock; every new value is on the
//! disk before it is visible, and visible names are on the disk before a caller hears of success.
//! An update that changes nothing writes nothing.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::rc::Rc;
use std::time::{Duration, Instant};

use libgit::{HashKind, ObjectId, RefName, RefNameError};
use nix::errno::Errno;

use crate::error::Error;
use crate::fs_ops::{self, Fs};
use crate::refs::id_ends;

mod logs;
mod packed;
mod staging;

use packed::Packed;
pub use packed::Peel;
pub use staging::Staging;
use staging::Top;
pub(crate) use staging::release_stale;

/// One change of one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which.
    pub name: RefName,
    /// The value it must have now; null: it must not exist.
    pub old: ObjectId,
    /// The new value; null: it is deleted.
    pub new: ObjectId,
}

impl Update {
    fn is_deletion(&self) -> bool {
        self.new.is_null()
    }

    fn is_noop(&self) -> bool {
        self.old == self.new
    }
}

/// The author and message of reflog entries. Branches and notes without a reflog get one, as with
/// git's `core.logAllRefUpdates`.
#[derive(Clone, Debug)]
pub struct Reflog {
    /// `name <mail>` of the pushing user; control bytes and other angle brackets are left out.
    pub identity: String,
    /// Seconds since 1970.
    pub seconds: u64,
    /// Why, in a word: git has `push`.
    pub message: String,
    /// Whether every reference gets one, as where that key says `always`.
    pub all: bool,
}

/// How references are changed.
pub struct TransactionOptions<'a> {
    /// How long to wait for a reference that another process has locked.
    pub ref_timeout: Duration,
    /// How long to wait for packed-refs.
    pub packed_timeout: Duration,
    /// What to append to reflogs.
    pub reflog: Option<Reflog>,
    /// Whether the log of HEAD is one of them. A process that may not write it says no.
    pub head_log: bool,
    /// What an annotated tag finally names, for packed-refs.
    pub peel: &'a dyn Fn(&ObjectId) -> Peel,
}

impl Default for TransactionOptions<'_> {
    fn default() -> Self {
        TransactionOptions {
            ref_timeout: Duration::from_secs(2),
            packed_timeout: Duration::from_secs(20),
            reflog: None,
            head_log: true,
            peel: &|_| Peel::Unknown,
        }
    }
}

/// Why one reference was not changed.
#[derive(Debug)]
pub enum RefError {
    /// Another process holds its lock, or that of packed-refs.
    Locked,
    /// It has another value by now; `None`: it does not exist.
    Changed(Option<ObjectId>),
    /// It cannot exist beside this reference.
    Conflict(Vec<u8>),
    /// It is a symbolic reference.
    Symbolic,
    /// It is a symbolic link, which is not read here.
    Link,
    /// Its file makes no sense.
    Broken,
    /// The update appears twice, or beside one that it conflicts with.
    Twice,
    /// Another update of the same atomic push failed.
    Other,
    /// No reference of this name may be written.
    Name(RefNameError),
    /// The file system refused.
    Failed(Error),
}

impl fmt::Display for RefError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RefError::Locked => f.write_str("failed to update ref: it is locked"),
            RefError::Changed(None) => f.write_str("failed to update ref: it does not exist"),
            RefError::Changed(Some(id)) => write!(f, "failed to update ref: it is at {id}"),
            RefError::Conflict(other) => {
                write!(f, "failed to update ref: {} exists", String::from_utf8_lossy(other))
            }
            RefError::Symbolic => f.write_str("is a symbolic reference"),
            RefError::Link => f.write_str("failed to update ref: it is a symbolic link, which is not read"),
            RefError::Broken => f.write_str("failed to update ref: it is broken"),
            RefError::Twice => f.write_str("multiple updates for ref"),
            RefError::Other => f.write_str("atomic push failure"),
            RefError::Name(e) => e.fmt(f),
            RefError::Failed(e) => write!(f, "failed to update ref: {e}"),
        }
    }
}

impl std::error::Error for RefError {}

impl From<Error> for RefError {
    fn from(error: Error) -> Self {
        RefError::Failed(error)
    }
}

/// Result of one update.
pub type RefResult = Result<(), RefError>;

/// Makes each update by itself: an update that fails does not affect the others. The results come
/// in the order of `updates`.
///
/// When this returns, everything that succeeded is on the disk.
pub fn commit_each(
    fs: &Fs,
    staging: &Staging,
    hash: HashKind,
    updates: &[Update],
    options: &TransactionOptions<'_>,
) -> Vec<RefResult> {
    let mut work = Work::new(fs, staging, hash, options);
    let mut results: Vec<RefResult> = updates.iter().map(|_| Ok(())).collect();
    if updates.iter().all(Update::is_noop) {
        return results;
    }
    if let Err(e) = staging.announce(fs, updates.iter().map(|update| update.name.as_bytes())) {
        let text = e.to_string();
        return updates.iter().map(|_| Err(RefError::Failed(Error::Limit(text.clone())))).collect();
    }
    let mut names = HashSet::with_capacity(updates.len());
    for (at, update) in updates.iter().enumerate() {
        if let Err(e) = update.name.check_update() {
            results[at] = Err(RefError::Name(e));
        } else if !names.insert(&update.name) {
            results[at] = Err(RefError::Twice);
        }
    }
    // Deletions first: a deleted name may stand in the way of a new one.
    work.delete(updates, &mut results);
    for (at, update) in updates.iter().enumerate() {
        if results[at].is_ok() && !update.is_noop() && !update.is_deletion() {
            results[at] = work.set(at, update);
        }
    }
    if let Err(e) = work.sync() {
        let text = e.to_string();
        for (result, update) in results.iter_mut().zip(updates) {
            if result.is_ok() && !update.is_noop() {
                *result = Err(RefError::Failed(Error::Limit(format!("not known to be on the disk: {text}"))));
            }
        }
    }
    results
}

/// Makes all updates, or none: the results are all good, or name at least one reason.
pub fn commit_atomic(
    fs: &Fs,
    staging: &Staging,
    hash: HashKind,
    updates: &[Update],
    options: &TransactionOptions<'_>,
) -> Vec<RefResult> {
    let changing: Vec<usize> = (0..updates.len()).filter(|&at| !updates[at].is_noop()).collect();
    if let ([_], 1) = (changing.as_slice(), updates.len()) {
        return commit_each(fs, staging, hash, updates, options);
    }
    let mut work = Work::new(fs, staging, hash, options);
    let names = updates
        .iter()
        .enumerate()
        .try_for_each(|(at, update)| update.name.check_update().map_err(|e| (at, RefError::Name(e))));
    let failed = names.and_then(|()| work.atomic(updates, &changing));
    work.unlock_all();
    match failed {
        Ok(()) => updates.iter().map(|_| Ok(())).collect(),
        Err((at, reason)) => {
            let mut results: Vec<RefResult> = updates.iter().map(|_| Err(RefError::Other)).collect();
            if let Some(result) = results.get_mut(at) {
                *result = Err(reason);
            }
            results
        }
    }
}

/// What a loose reference's file holds.
enum Loose {
    Absent,
    Value(ObjectId),
    Symbolic,
    Link,
    Broken,
}

/// Whether `dir` names a directory on the way to `name`.
fn is_directory_of(dir: &[u8], name: &[u8]) -> bool {
    name.len() > dir.len() && name.starts_with(dir) && name.get(dir.len()) == Some(&b'/')
}

struct Work<'a> {
    fs: &'a Fs,
    staging: &'a Staging,
    hash: HashKind,
    options: &'a TransactionOptions<'a>,
    /// Lock files held, by their names.
    locks: Vec<Vec<u8>>,
    /// Directories whose entries changed.
    dirty: BTreeSet<Vec<u8>>,
    /// What HEAD names, once asked.
    head: Option<Option<Vec<u8>>>,
    /// packed-refs as it was last read, and what told it from others.
    packed: Option<(Stamp, Rc<Packed>)>,
}

/// Inode, size and time of change to the nanosecond: what a new file under an old name differs in.
type Stamp = Option<(fs_ops::Identity, i64, i64, i64)>;

const PACKED: &[u8] = b"packed-refs";
/// Largest packed-refs file that is rewritten, in bytes.
const MAX_PACKED: u64 = 1 << 30;

impl<'a> Work<'a> {
    fn new(fs: &'a Fs, staging: &'a Staging, hash: HashKind, options: &'a TransactionOptions<'a>) -> Self {
        Work {
            fs,
            staging,
            hash,
            options,
            locks: Vec::new(),
            dirty: BTreeSet::new(),
            head: None,
            packed: None,
        }
    }

    /// Creates or changes one reference.
    fn set(&mut self, at: usize, update: &Update) -> RefResult {
        let name = update.name.as_bytes();
        self.lock(at, name, Some(&update.new))?;
        let result = self.check(update).and_then(|()| self.logged(update, |work| work.move_lock_in(name)));
        match result {
            Ok(()) => self.locks.retain(|lock| *lock != lock_name(name)),
            Err(_) => {
                self.unlock(name);
                self.remove_empty_parents(name);
            }
        }
        result
    }

    /// Renames the lock over the reference, clearing away empty directories in its place.
    fn move_lock_in(&mut self, name: &[u8]) -> RefResult {
        let lock = lock_name(name);
        for _ in 0..3 {
            match self.fs.rename(&lock, name) {
                Ok(()) => {
                    self.dirty.insert(parent(name));
                    return Ok(());
                }
                Err(e)
                    if matches!(
                        fs_ops::errno(&e),
                        Some(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST)
                    ) =>
                {
                    if !remove_empty_tree(self.fs, name, 0)? {
                        return Err(RefError::Conflict([name, b"/"].concat()));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(RefError::Conflict([name, b"/"].concat()))
    }

    /// Deletes what is to be deleted: packed-refs is rewritten once, then the loose files go.
    fn delete(&mut self, updates: &[Update], results: &mut [RefResult]) {
        let mut held = Vec::new();
        for (at, update) in updates.iter().enumerate() {
            if results[at].is_ok() && update.is_deletion() && !update.is_noop() {
                let name = update.name.as_bytes();
                match self.lock(at, name, None).and_then(|()| self.check(update)) {
                    Ok(()) => held.push(at),
                    Err(e) => {
                        self.unlock(name);
                        self.remove_empty_parents(name);
                        results[at] = Err(e);
                    }
                }
            }
        }
        if held.is_empty() {
            return;
        }
        if let Err(e) = self.unpack(updates, &held) {
            let text = match &e {
                // The caller adds the reference's name to the text.
                RefError::Failed(why) => why.to_string(),
                e => e.to_string(),
            };
            for &at in &held {
                let locked = matches!(e, RefError::Locked);
                results[at] =
                    Err(if locked { RefError::Locked } else { RefError::Failed(Error::Limit(text.clone())) });
                self.unlock(updates[at].name.as_bytes());
            }
            return;
        }
        for &at in &held {
            let name = updates[at].name.as_bytes();
            match self.fs.remove(name) {
                Ok(true) => {
                    self.dirty.insert(parent(name));
                }
                Ok(false) => {}
                Err(e) => results[at] = Err(e.into()),
            }
            if results[at].is_ok() {
                self.forget_log(name);
            }
        }
        // The names must be gone for good before anybody hears of it, and before the directories go
        // that held them.
        if let Err(e) = self.sync() {
            for &at in &held {
                results[at] = Err(RefError::Failed(Error::Limit(e.to_string())));
            }
        }
        for &at in &held {
            let name = updates[at].name.as_bytes();
            self.unlock(name);
            self.remove_empty_parents(name);
        }
    }

    /// Rewrites packed-refs without these references, if any of them is in it.
    fn unpack(&mut self, updates: &[Update], held: &[usize]) -> RefResult {
        let names: Vec<&[u8]> = held.iter().map(|&at| updates[at].name.as_bytes()).collect();
        let packed = self.packed()?;
        if !names.iter().any(|name| packed.find(name).is_some()) {
            return Ok(());
        }
        self.lock_packed()?;
        let result =
            Packed::read(self.fs, self.hash, MAX_PACKED).map_err(RefError::from).and_then(|mut packed| {
                for name in &names {
                    packed.remove(name);
                }
                self.write_packed(&packed)
            });
        self.unlock_packed();
        result
    }

    /// The packed references as they are now. A file that did not change is not read again: a push
    /// may have thousands of updates.
    fn packed(&mut self) -> Result<Rc<Packed>, Error> {
        let stamp: Stamp = self
            .fs
            .stat(PACKED)?
            .map(|stat| (fs_ops::identity(&stat), stat.st_size, stat.st_ctime, stat.st_ctime_nsec));
        if let Some((known, packed)) = &self.packed
            && *known == stamp
        {
            return Ok(packed.clone());
        }
        let packed = Rc::new(Packed::read(self.fs, self.hash, MAX_PACKED)?);
        self.packed = Some((stamp, packed.clone()));
        Ok(packed)
    }

    fn atomic(&mut self, updates: &[Update], changing: &[usize]) -> Result<(), (usize, RefError)> {
        let first = changing.first().copied().unwrap_or(0);
        let mut names = HashSet::with_capacity(changing.len());
        for &at in changing {
            if !names.insert(updates[at].name.as_bytes()) {
                return Err((at, RefError::Twice));
            }
        }
        for &at in changing {
            let name = updates[at].name.as_bytes();
            let mut above =
                name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(end, _)| &name[..end]);
            if above.any(|dir| names.contains(dir)) {
                return Err((at, RefError::Twice));
            }
        }
        if changing.is_empty() {
            return Ok(());
        }
        let names = updates.iter().map(|update| update.name.as_bytes());
        self.staging.announce(self.fs, names).map_err(|e| (first, e.into()))?;
        // No-ops still promise that the reference is what the client believes.
        for (at, update) in updates.iter().enumerate().filter(|(_, update)| update.is_noop()) {
            self.check(update).map_err(|e| (at, e))?;
        }
        // In the order of names, so that two such pushes cannot wait for each other.
        let mut order = changing.to_vec();
        order.sort_by(|&a, &b| updates[a].name.cmp(&updates[b].name));
        for &at in &order {
            self.lock(at, updates[at].name.as_bytes(), None).map_err(|e| (at, e))?;
            self.check(&updates[at]).map_err(|e| (at, e))?;
        }
        self.lock_packed().map_err(|e| (first, e))?;
        let result = self.flip(updates, &order).map_err(|e| (first, e));
        self.unlock_packed();
        result?;
        for &at in &order {
            let name = updates[at].name.as_bytes();
            if updates[at].is_deletion() {
                self.forget_log(name);
            } else {
                self.log_committed(&updates[at]);
            }
        }
        Ok(())
    }

    /// With everything locked: move the old values into packed-refs, remove the loose files, and
    /// show all new values by one rename.
    fn flip(&mut self, updates: &[Update], order: &[usize]) -> RefResult {
        let mut packed = Packed::read(self.fs, self.hash, MAX_PACKED)?;
        let mut loose = Vec::new();
        for &at in order {
            let name = updates[at].name.as_bytes();
            if let Loose::Value(value) = self.loose(name)? {
                packed.set(name, &value, (self.options.peel)(&value));
                loose.push(name);
            }
        }
        if !loose.is_empty() {
            self.write_packed(&packed)?;
            for name in loose {
                self.fs.remove(name)?;
                self.dirty.insert(parent(name));
            }
            self.sync()?;
        }
        for &at in order {
            let update = &updates[at];
            if update.is_deletion() {
                packed.remove(update.name.as_bytes());
            } else {
                packed.set(update.name.as_bytes(), &update.new, (self.options.peel)(&update.new));
            }
        }
        self.write_packed(&packed)
    }

    /// Writes a new packed-refs under its lock: when this returns it is visible and on the disk. It
    /// is written in the staging directory, so that the repository's top directory need not be
    /// writable but for names.
    fn write_packed(&mut self, packed: &Packed) -> RefResult {
        let (new, file) = self.staging.make_top(self.fs, Top::PackedRefs)?;
        let written = self
            .fs
            .append(&file, &new, &packed.to_bytes())
            .and_then(|()| self.fs.sync_file(&file, &new))
            .and_then(|()| self.fs.rename(&new, PACKED));
        if let Err(e) = written {
            let _ = self.fs.remove(&new);
            return Err(e.into());
        }
        self.fs.sync_dir(b"")?;
        Ok(())
    }

    fn lock_packed(&mut self) -> RefResult {
        let lock = self.staging.prepare_lock(self.fs, Top::PackedRefs)?;
        self.wait_for(&lock, Top::PackedRefs.lock_name(), self.options.packed_timeout)
    }

    fn unlock_packed(&mut self) {
        self.release(Top::PackedRefs.lock_name());
    }

    /// Locks one reference; the lock already holds the new value, on the disk.
    fn lock(&mut self, at: usize, name: &[u8], value: Option<&ObjectId>) -> RefResult {
        let content = value.map_or(String::new(), |id| format!("{id}\n"));
        let lock = lock_name(name);
        let source = self.staging.prepare(self.fs, at, content.as_bytes())?;
        let deadline = Instant::now() + self.options.ref_timeout;
        loop {
            match self.fs.make_parents(name) {
                Ok(made) => {
                    for dir in made {
                        self.dirty.insert(parent(&dir));
                        self.dirty.insert(dir);
                    }
                }
                Err(e) => return Err(self.not_a_directory(name).unwrap_or(RefError::Failed(e))),
            }
            match self.wait_for(&source, &lock, self.options.ref_timeout) {
                // A directory went away between making it and using it: somebody deleted the last
                // reference in it.
                Err(RefError::Failed(e))
                    if fs_ops::errno(&e) == Some(Errno::ENOENT) && Instant::now() < deadline => {}
                Err(RefError::Failed(e)) if fs_ops::errno(&e) == Some(Errno::ENOTDIR) => {
                    return Err(self.not_a_directory(name).unwrap_or(RefError::Failed(e)));
                }
                result => return result,
            }
        }
    }

    /// The reference that lies where a directory on the way to `name` should be.
    fn not_a_directory(&self, name: &[u8]) -> Option<RefError> {
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut dirs = slashes.map(|at| &name[..at]);
        let file = dirs.find(|dir| matches!(self.fs.stat(dir), Ok(Some(stat)) if !fs_ops::is_dir(&stat)))?;
        Some(RefError::Conflict(file.to_vec()))
    }

    /// Links `source` to `lock`, waiting while somebody else holds it.
    fn wait_for(&mut self, source: &[u8], lock: &[u8], timeout: Duration) -> RefResult {
        let deadline = Instant::now() + timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            match self.staging.acquire(self.fs, source, lock) {
                Ok(()) => {
                    self.locks.push(lock.to_vec());
                    return Ok(());
                }
                Err(e) if fs_ops::errno(&e) == Some(Errno::EEXIST) => {
                    if Instant::now() >= deadline {
                        return Err(RefError::Locked);
                    }
                    // Not in step with others that wait for the same lock.
                    let spread = u64::from(std::process::id()).wrapping_mul(7919) % 8;
                    std::thread::sleep(pause + Duration::from_millis(spread).min(pause));
                    pause = (pause * 2).min(Duration::from_millis(50));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn unlock(&mut self, name: &[u8]) {
        self.release(&lock_name(name));
    }

    fn release(&mut self, lock: &[u8]) {
        if let Some(at) = self.locks.iter().position(|held| held == lock) {
            self.locks.swap_remove(at);
            // A lock that cannot be removed is known as ours by the staging directory.
            let _ = self.fs.remove(lock);
        }
    }

    fn unlock_all(&mut self) {
        while let Some(lock) = self.locks.pop() {
            let _ = self.fs.remove(&lock);
            if let Some(name) = lock.strip_suffix(b".lock").filter(|name| name.starts_with(b"refs/")) {
                self.remove_empty_parents(name);
            }
        }
    }

    /// Compares the value under the lock, and what else exists.
    fn check(&mut self, update: &Update) -> RefResult {
        let name = update.name.as_bytes();
        let packed = self.packed()?;
        let current = match self.loose(name)? {
            Loose::Value(id) => Some(id),
            Loose::Absent => packed.find(name),
            Loose::Symbolic => return Err(RefError::Symbolic),
            Loose::Link => return Err(RefError::Link),
            Loose::Broken => return Err(RefError::Broken),
        };
        let expected = Some(update.old).filter(|id| !id.is_null());
        if current != expected {
            return Err(RefError::Changed(current));
        }
        if expected.is_none() {
            self.available(name, &packed)?;
        }
        Ok(())
    }

    /// Whether a new reference may exist beside the existing ones.
    fn available(&self, name: &[u8], packed: &Packed) -> RefResult {
        for (at, _) in name.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let dir = &name[..at];
            if packed.find(dir).is_some() {
                return Err(RefError::Conflict(dir.to_vec()));
            }
        }
        let below = [name, b"/"].concat();
        let inside = packed.first_at_or_after(&below).filter(|other| is_directory_of(name, other));
        if let Some(other) = inside {
            // A packed reference may have been deleted since, but not without leaving packed-refs.
            return Err(RefError::Conflict(other.to_vec()));
        }
        match first_loose_below(self.fs, name, 0)? {
            Some(other) => Err(RefError::Conflict(other)),
            None => Ok(()),
        }
    }

    fn loose(&self, name: &[u8]) -> Result<Loose, RefError> {
        let data = match self.fs.read(name, 4096) {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(Loose::Absent),
            Err(e) if fs_ops::errno(&e) == Some(Errno::ELOOP) => return Ok(Loose::Link),
            Err(e) => return Err(e.into()),
        };
        if data.starts_with(b"ref:") {
            return Ok(Loose::Symbolic);
        }
        let hex = data.get(..self.hash.hex_len());
        let end = data.get(self.hash.hex_len());
        match hex.and_then(ObjectId::from_hex) {
            Some(id) if id_ends(end) && !id.is_null() => Ok(Loose::Value(id)),
            _ => Ok(Loose::Broken),
        }
    }

    /// Removes directories that hold nothing any more, but never `refs/heads` and its like.
    fn remove_empty_parents(&self, name: &[u8]) {
        let mut dir = parent(name);
        while dir.iter().filter(|&&byte| byte == b'/').count() >= 2
            && matches!(self.fs.remove_dir(&dir), Ok(true))
        {
            dir = parent(&dir);
        }
    }

    /// Syncs every directory whose entries changed.
    fn sync(&mut self) -> Result<(), Error> {
        for dir in std::mem::take(&mut self.dirty) {
            match self.fs.sync_dir(&dir) {
                // Removed since, with all that was in it.
                Err(e) if matches!(fs_ops::errno(&e), Some(Errno::ENOENT | Errno::ENOTDIR)) => {}
                result => result?,
            }
        }
        Ok(())
    }
}

fn lock_name(name: &[u8]) -> Vec<u8> {
    [name, b".lock"].concat()
}

fn parent(path: &[u8]) -> Vec<u8> {
    path.iter().rposition(|&byte| byte == b'/').map_or(Vec::new(), |slash| path[..slash].to_vec())
}

/// How deep directories of references are followed.
const MAX_DEPTH: usize = 512;
/// How many entries a directory of references may have.
const MAX_ENTRIES: usize = 2_000_000;

/// Removes a tree of empty directories; false if there is anything in it.
fn remove_empty_tree(fs: &Fs, dir: &[u8], depth: usize) -> Result<bool, Error> {
    if depth > MAX_DEPTH {
        return Ok(false);
    }
    for (name, is_dir) in fs.list(dir, MAX_ENTRIES)? {
        if !is_dir || !remove_empty_tree(fs, &[dir, b"/", &name].concat(), depth + 1)? {
            return Ok(false);
        }
    }
    fs.remove_dir(dir)
}

/// Any loose reference below a directory; lock files are none.
fn first_loose_below(fs: &Fs, dir: &[u8], depth: usize) -> Result<Option<Vec<u8>>, Error> {
    if depth > MAX_DEPTH {
        return Ok(None);
    }
    for (name, is_dir) in fs.list(dir, MAX_ENTRIES)? {
        let path = [dir, b"/", &name].concat();
        if is_dir {
            if let Some(found) = first_loose_below(fs, &path, depth + 1)? {
                return Ok(Some(found));
            }
        } else if !name.ends_with(b".lock") {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
