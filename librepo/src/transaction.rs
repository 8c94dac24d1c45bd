//! Changing references, with git's own lock files, so that C git and this may work on one
//! repository at the same time.
//!
//! A reference is locked by creating `<name>.lock`, packed-refs by `packed-refs.lock`. What the
//! lock will become is written and synchronised first, in a [`Staging`] directory, and then
//! *linked* to the lock's name: so a lock that a crash left behind can be told from one that C git
//! holds, since it is the same file as one in a staging directory whose owner is gone.
//!
//! Each update is a transaction of its own ([`commit_each`]); very many that have no loose file are
//! written into packed-refs at once all the same, where each can fail by itself. Or all are one
//! ([`commit_atomic`]): then the values that the references have are first moved into packed-refs
//! (nothing visible changes) and their loose files removed, and one rename of packed-refs shows all new
//! values at once. A crash leaves all old or all new ones. Each reference that had a loose file has one
//! again when packed-refs is given back.
//!
//! **Invariant:** a reference's old value is compared under its lock; every new value is on the
//! disk before it is visible, and visible names are on the disk before a caller hears of success.
//! An update that changes nothing writes nothing.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs::File;
use std::rc::Rc;
use std::time::Duration;

use libgit::{HashKind, ObjectId, RefName, RefNameError};
use nix::errno::Errno;
use nix::sys::stat::fstat;

use crate::error::Error;
use crate::fs_ops::{self, Fs};
use crate::refs::{id_ends, symbolic_target};

mod aliases;
mod all_or_none;
mod head;
mod locks;
mod logs;
mod packed;
mod packed_change;
mod staging;
mod trees;

pub use head::point_head;
use locks::{Patience, lock_name};
use packed::Packed;
pub use packed::Peel;
use packed_change::Groups;
use packed_change::slashes;
pub use packed_change::{ONE_CHANGE_FROM, worth_packing};
pub use staging::Staging;
use staging::Top;
pub(crate) use staging::release_stale;
use trees::Below;

/// One change of one reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which.
    pub name: RefName,
    /// The value it must have now; null: it must not exist.
    pub old: ObjectId,
    /// The new value; null: it is deleted.
    pub new: ObjectId,
    /// The names that it leads through, if it is a symbolic reference; the last is none, and need not
    /// exist. A new value goes to the last. A deletion takes only `name` away.
    pub alias_of: Vec<RefName>,
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
    /// How long to wait for references that other processes have locked: for all together, since
    /// this process holds locks as well.
    pub ref_timeout: Duration,
    /// How long to wait for packed-refs, however often it is changed.
    pub packed_timeout: Duration,
    /// So many changes, if they are [`worth_packing`], become one of packed-refs. `None`: this
    /// process may not write packed-refs.
    pub one_change_from: Option<usize>,
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
            one_change_from: None,
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
    /// It leads elsewhere than when it was looked at.
    Elsewhere,
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
            RefError::Elsewhere => f.write_str("failed to update ref: it leads elsewhere by now"),
            RefError::Broken => f.write_str("is damaged on the server"),
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
    if let Err(e) = work.announce(updates) {
        let text = e.to_string();
        return updates.iter().map(|_| Err(RefError::Failed(Error::Limit(text.clone())))).collect();
    }
    let mut names = HashSet::with_capacity(updates.len());
    for (at, update) in updates.iter().enumerate() {
        if let Err(e) = update.names().try_for_each(RefName::check_update) {
            results[at] = Err(RefError::Name(e));
        } else if !names.insert(&update.name) {
            results[at] = Err(RefError::Twice);
        }
    }
    let open: Vec<usize> =
        (0..updates.len()).filter(|&at| results[at].is_ok() && !updates[at].is_noop()).collect();
    let together = work.makes_one_change(open.len());
    // Deletions first: a deleted name may stand in the way of a new one.
    let (packed, single): (Vec<usize>, Vec<usize>) = open.into_iter().partition(|&at| {
        updates[at].is_deletion() || together && !of_one_work_tree(updates[at].target().as_bytes())
    });
    work.change_each(updates, Groups::of(updates, packed.into_iter()), &mut results);
    work.set_each(updates, single, &mut results);
    work.sync_logs();
    if let Err(e) = work.sync() {
        for (result, update) in results.iter_mut().zip(updates) {
            if result.is_ok() && !update.is_noop() {
                *result = Err(RefError::Failed(not_known_on_disk(&e)));
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
    let names = updates.iter().enumerate().try_for_each(|(at, update)| {
        update.names().try_for_each(RefName::check_update).map_err(|e| (at, RefError::Name(e)))
    });
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
    /// It leads to this name.
    Symbolic(Vec<u8>),
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
    locks: BTreeSet<Vec<u8>>,
    /// How many files in the staging directory were made for locks without a value, and how many
    /// such locks there have been.
    shared_made: usize,
    shared_used: usize,
    for_refs: Patience,
    for_packed: Patience,
    /// Directories whose entries changed, and such of logs.
    dirty: BTreeSet<Vec<u8>>,
    dirty_logs: BTreeSet<Vec<u8>>,
    /// What HEAD names, once asked.
    head: Option<Option<Vec<u8>>>,
    /// packed-refs as it was last read.
    packed: Option<Known>,
}

struct Known {
    /// The file, still open: no other has its identity. `None`: there was none.
    file: Option<(File, fs_ops::Identity)>,
    packed: Rc<Packed>,
}

/// How many directories on the way to a reference stay when they are empty: `refs/heads`.
const KEPT: usize = 2;
/// The most bytes of a loose reference.
const MAX_LOOSE: u64 = 4096;
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
            locks: BTreeSet::new(),
            shared_made: 0,
            shared_used: 0,
            for_refs: Patience::of(options.ref_timeout),
            for_packed: Patience::of(options.packed_timeout),
            dirty: BTreeSet::new(),
            dirty_logs: BTreeSet::new(),
            head: None,
            packed: None,
        }
    }

    /// Notes all names that will be locked.
    fn announce(&self, updates: &[Update]) -> Result<(), Error> {
        self.staging.announce(self.fs, updates.iter().flat_map(Update::names).map(RefName::as_bytes))
    }

    /// Makes these updates, each by itself, as loose files.
    fn set_each(&mut self, updates: &[Update], mut numbers: Vec<usize>, results: &mut [RefResult]) {
        self.prepare(updates, &mut numbers, results);
        for at in numbers {
            results[at] = self.set(at, &updates[at]);
        }
    }

    /// Creates or changes one reference.
    fn set(&mut self, at: usize, update: &Update) -> RefResult {
        let target = update.target().as_bytes();
        let result = self
            .lock_aliases(update)
            .and_then(|()| self.lock(at, target))
            .and_then(|()| self.check(update))
            .and_then(|()| self.logged(update, |work| work.move_lock_in(target)));
        match result {
            Ok(()) => {
                self.locks.remove(&lock_name(target));
            }
            Err(_) => self.unlock(target),
        }
        update.aliases().for_each(|name| self.unlock(name.as_bytes()));
        result
    }

    /// Whether so many changes are made as one.
    fn makes_one_change(&mut self, changes: usize) -> bool {
        self.options.one_change_from.is_some_and(|from| changes >= from)
            && self.packed().is_ok_and(|packed| worth_packing(changes, packed.line_count()))
    }

    /// Renames the lock over the reference, clearing away empty directories in its place.
    fn move_lock_in(&mut self, name: &[u8]) -> RefResult {
        let lock = lock_name(name);
        for _ in 0..3 {
            match self.fs.rename(&lock, name) {
                Ok(()) => {
                    // Those above too: another process may have made one for a lock that it has given
                    // back, and does not sync it.
                    self.dirty.extend(slashes(name).map(|at| name[..at].to_vec()));
                    return Ok(());
                }
                Err(e)
                    if matches!(
                        fs_ops::errno(&e),
                        Some(Errno::EISDIR | Errno::ENOTEMPTY | Errno::EEXIST)
                    ) =>
                {
                    if !trees::remove_empty(self.fs, name)? {
                        return Err(RefError::Conflict([name, b"/"].concat()));
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(RefError::Conflict([name, b"/"].concat()))
    }

    /// The packed references as they are now. A file that did not change is not read again: a push
    /// may have thousands of updates.
    fn packed(&mut self) -> Result<Rc<Packed>, Error> {
        let there = self.fs.stat(PACKED)?.map(|stat| fs_ops::identity(&stat));
        if let Some(known) = &self.packed
            && known.file.as_ref().map(|(_, identity)| *identity) == there
        {
            return Ok(known.packed.clone());
        }
        let (file, packed) = Packed::read(self.fs, self.hash, MAX_PACKED)?;
        let file = match file {
            Some(file) => {
                let stat = fstat(&file).map_err(|errno| fs_ops::failed(PACKED, errno))?;
                Some((file, fs_ops::identity(&stat)))
            }
            None => None,
        };
        let packed = Rc::new(packed);
        self.packed = Some(Known { file, packed: packed.clone() });
        Ok(packed)
    }

    /// Writes a new packed-refs under its lock: when this returns it is visible and on the disk.
    fn write_packed(&mut self, packed: &Packed) -> RefResult {
        let new = self.write_new_packed(packed)?;
        self.show_packed(&new)
    }

    /// Writes what becomes packed-refs, in the staging directory, so that the repository's top
    /// directory need not be writable but for names.
    fn write_new_packed(&mut self, packed: &Packed) -> Result<NewPacked, RefError> {
        let bytes = packed.to_bytes();
        if bytes.len() as u64 > MAX_PACKED {
            // It would not be read again.
            return Err(Error::FileTooLarge("packed-refs".into(), MAX_PACKED).into());
        }
        let (path, file) = self.staging.make_top(self.fs, Top::PackedRefs)?;
        let new = NewPacked { path, file };
        match self.fs.append(&new.file, &new.path, &bytes) {
            Ok(()) => Ok(new),
            Err(e) => {
                let _ = self.fs.remove(&new.path);
                Err(e.into())
            }
        }
    }

    /// Renames it over packed-refs. C git takes that for unchanged if inode, size and time in seconds
    /// are, and an inode is soon used again: so no two of our files have one time.
    fn show_packed(&mut self, new: &NewPacked) -> RefResult {
        let shown = self
            .fs
            .make_younger(&new.file, &new.path, PACKED)
            .and_then(|()| self.fs.sync_file(&new.file, &new.path))
            .and_then(|()| self.fs.rename(&new.path, PACKED));
        if let Err(e) = shown {
            let _ = self.fs.remove(&new.path);
            return Err(e.into());
        }
        self.fs.sync_dir(b"").map_err(|e| RefError::Failed(not_known_on_disk(&e)))
    }

    /// Compares the value under the lock, and what else exists.
    fn check(&mut self, update: &Update) -> RefResult {
        let packed = self.packed()?;
        let (last, loose) = self.follow(update)?;
        let name = last.as_bytes();
        self.compare(update, name, loose, &packed)?;
        if update.old.is_null() {
            self.available(name, &packed)?;
            // What others hold locks for does not exist yet: the file system will say who is first.
            if let Below::Reference(other) = trees::below(self.fs, name)? {
                return Err(RefError::Conflict(other));
            }
        }
        Ok(())
    }

    /// Whether a reference has the value that it is to be changed from, and the value of its loose
    /// file. `name`: its own, or what that leads to.
    fn compare(
        &self,
        update: &Update,
        name: &[u8],
        loose: Loose,
        packed: &Packed,
    ) -> Result<Option<ObjectId>, RefError> {
        let loose = match loose {
            Loose::Value(id) => Some(id),
            Loose::Absent => None,
            Loose::Symbolic(_) => return Err(RefError::Symbolic),
            Loose::Link => return Err(RefError::Link),
            Loose::Broken => return Err(RefError::Broken),
        };
        let current = loose.or_else(|| packed.find(name));
        match current == Some(update.old).filter(|id| !id.is_null()) {
            true => Ok(loose),
            false => Err(RefError::Changed(current)),
        }
    }

    /// Whether a new reference may exist beside those in packed-refs.
    fn available(&self, name: &[u8], packed: &Packed) -> RefResult {
        for at in slashes(name) {
            let dir = &name[..at];
            if packed.find(dir).is_some() {
                return Err(RefError::Conflict(dir.to_vec()));
            }
        }
        let below = [name, b"/"].concat();
        match packed.first_at_or_after(&below).filter(|other| is_directory_of(name, other)) {
            // A packed reference may have been deleted since, but not without leaving packed-refs.
            Some(other) => Err(RefError::Conflict(other.to_vec())),
            None => Ok(()),
        }
    }

    fn loose(&self, name: &[u8]) -> Result<Loose, RefError> {
        let data = match self.fs.read(name, MAX_LOOSE) {
            Ok(Some(data)) => data,
            Ok(None) => return Ok(Loose::Absent),
            Err(e) if fs_ops::errno(&e) == Some(Errno::ELOOP) => return Ok(Loose::Link),
            Err(e) => return Err(e.into()),
        };
        Ok(self.parse_loose(&data))
    }

    fn parse_loose(&self, data: &[u8]) -> Loose {
        if let Some(target) = symbolic_target(data) {
            return Loose::Symbolic(target.to_vec());
        }
        let hex = data.get(..self.hash.hex_len());
        let end = data.get(self.hash.hex_len());
        match hex.and_then(ObjectId::from_hex) {
            Some(id) if id_ends(end) && !id.is_null() => Loose::Value(id),
            _ => Loose::Broken,
        }
    }

    /// Removes directories that hold nothing any more, but never `refs/heads` and its like.
    fn remove_empty_parents(&self, name: &[u8]) {
        self.fs.remove_empty_parents(name, KEPT);
    }

    /// Directories that were made.
    fn made(&mut self, dirs: Vec<Vec<u8>>) {
        for dir in dirs {
            self.dirty.insert(parent(&dir));
            self.dirty.insert(dir);
        }
    }

    /// Syncs every directory whose entries changed.
    fn sync(&mut self) -> Result<(), Error> {
        let dirty = std::mem::take(&mut self.dirty);
        self.fs.sync_dirs(dirty.iter().map(Vec::as_slice))
    }
}

/// The new packed-refs on its way.
struct NewPacked {
    path: Vec<u8>,
    file: File,
}

/// Something is visible, and nobody knows whether a power cut will take it back.
fn not_known_on_disk(error: &Error) -> Error {
    Error::Limit(format!("not known to be on the disk: {error}"))
}

/// Whether a reference belongs to one work tree alone: C git does not look for it in packed-refs.
fn of_one_work_tree(name: &[u8]) -> bool {
    let namespaces: [&[u8]; 3] = [b"refs/bisect/", b"refs/worktree/", b"refs/rewritten/"];
    namespaces.iter().any(|namespace| name.starts_with(namespace))
}

fn parent(path: &[u8]) -> Vec<u8> {
    path.iter().rposition(|&byte| byte == b'/').map_or(Vec::new(), |slash| path[..slash].to_vec())
}

#[cfg(test)]
mod tests;
