//! The quarantine: a push lies there until it is proven, and then moves into the repository.
//!
//! The directory lies in the repository's own object store, so that moving in is a matter of names.
//! Readers do not look into it, C git's `prune` does not know its name, and a lock on it lives
//! exactly as long as its owner: what a dead process left can be told from what a living one is
//! filling.

use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use libgit::{HashKind, ObjectId, ObjectKind};
use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::bad;
use crate::error::{Error, Result};
use crate::fs_ops::{self, Fs, Op};
use crate::id::hash_object;
use crate::transaction::{self, Staging};

/// How the directories are named, below `objects`; sixteen hexadecimal digits follow.
const PREFIX: &[u8] = b"gotd-incoming-";
const DIGITS: usize = 16;
/// The file in it that becomes the pack's `.keep` file.
const KEEP: &str = "keep";
/// How long to wait for another push's pack that is just moving in, which takes two renames.
const MOVING: Duration = Duration::from_secs(2);
/// How many names in `objects` are looked at.
const MAX_ENTRIES: usize = 1_000_000;

/// One push's quarantine. Dropping it leaves the directory to the next [`sweep`];
/// [`Quarantine::remove`] takes it away.
#[derive(Debug)]
pub struct Quarantine {
    dir: Vec<u8>,
    /// Holds the lock.
    _alive: File,
    files: Option<(File, File)>,
    /// The file beside an installed pack that keeps C git from removing it, while no reference
    /// leads to its objects.
    keep: Option<Vec<u8>>,
    staging: Staging,
}

impl Quarantine {
    /// Makes a new one.
    pub fn create(fs: &Fs) -> Result<Quarantine> {
        // Another process's sweep may take the directory in the moment before it is locked.
        for _ in 0..16 {
            let number = RandomState::new().hash_one(std::process::id());
            let dir = [b"objects/".as_slice(), PREFIX, format!("{number:016x}").as_bytes()].concat();
            if !fs.make_own_dir(&dir)? {
                continue;
            }
            if let Some(alive) = lock(fs, &dir)? {
                let staging = Staging::new(&dir);
                return Ok(Quarantine { dir, _alive: alive, files: None, keep: None, staging });
            }
        }
        Err(Error::Limit("objects: cannot create a quarantine directory".into()))
    }

    /// The directory, relative to the repository.
    pub fn path(&self) -> &[u8] {
        &self.dir
    }

    /// Where locks are staged.
    pub fn staging(&self) -> Staging {
        self.staging.clone()
    }

    fn file(&self, name: &str) -> Vec<u8> {
        [&self.dir, b"/".as_slice(), name.as_bytes()].concat()
    }

    /// Creates the two files that a pack will be received into, and gives further descriptors of
    /// them: pack, index.
    pub fn create_files(&mut self, fs: &Fs) -> Result<(File, File)> {
        let pack = fs.create(&self.file("pack"), 0o444)?;
        let idx = fs.create(&self.file("idx"), 0o444)?;
        let copy = |file: &File| file.try_clone().map_err(|e| Error::Open(PathBuf::from("incoming pack"), e));
        let copies = (copy(&pack)?, copy(&idx)?);
        self.files = Some((pack, idx));
        Ok(copies)
    }

    /// Makes the pack one of the repository's: synchronises both files, names them, and
    /// synchronises the names. When this returns they survive a power cut.
    ///
    /// Until [`Quarantine::remove`] a `.keep` file lies beside it, as with C git: a `git repack -a
    /// -d` that began before a reference led to the new objects would remove them. For the same
    /// reason a pack of that name which is there already is left alone, and this one gets another
    /// name: a repacking under way may have the old one on its list.
    ///
    /// To be called when the process that filled the files is gone. `checksum` is the pack's
    /// checksum by that process's word; it is compared with the end of both files.
    pub fn install(&mut self, fs: &Fs, hash: HashKind, checksum: &ObjectId) -> Result<()> {
        let (pack, idx) = self.files.take().ok_or_else(|| bad("incoming pack: not created"))?;
        let (pack_path, idx_path) = (self.file("pack"), self.file("idx"));
        for (file, path) in [(&pack, &pack_path), (&idx, &idx_path)] {
            self.still_ours(fs, file, path)?;
        }
        let width = hash.len() as u64;
        let said = |file: &File, from_end: u64| -> Result<bool> {
            let mut found = vec![0; hash.len()];
            let fail = |e| Error::Read(PathBuf::from("incoming pack"), e);
            let size = fstat(file).map_err(|errno| fail(errno.into()))?.st_size as u64;
            let Some(at) = size.checked_sub(from_end) else { return Ok(false) };
            file.read_exact_at(&mut found, at).map_err(fail)?;
            Ok(found == checksum.as_bytes())
        };
        if checksum.kind() != hash || !said(&pack, width)? || !said(&idx, 2 * width)? {
            return Err(bad("incoming pack: not what it was said to be"));
        }
        for (file, path) in [(&pack, &pack_path), (&idx, &idx_path)] {
            fs.note(&Op::Filled(path.clone()));
            fs.sync_file(file, path)?;
        }
        if fs.make_dir(b"objects/pack")? {
            fs.sync_dir(b"objects")?;
        }
        // Between the two names others must not take the first for a crash's leftover, nor we
        // theirs.
        let _moving = lock_packs(fs)?;
        let number = RandomState::new().hash_one(std::process::id());
        let other =
            hash_object(hash, ObjectKind::Blob, &[checksum.as_bytes(), &number.to_be_bytes()].concat());
        let path = |id: &ObjectId, suffix: &str| format!("objects/pack/pack-{id}{suffix}").into_bytes();
        let is_free = |id: &ObjectId| -> Result<bool> {
            Ok(fs.stat(&path(id, ".pack"))?.is_none()
                && fs.stat(&path(id, ".idx"))?.is_none()
                && fs.stat(&path(id, ".keep"))?.is_none())
        };
        let id = if is_free(checksum)? { checksum } else { &other };
        let (pack_name, idx_name) = (path(id, ".pack"), path(id, ".idx"));
        let (keep_path, keep_name) = (self.file(KEEP), path(id, ".keep"));
        drop(fs.create(&keep_path, 0o444)?);
        self.move_in(fs, &keep_path, &keep_name)?;
        self.keep = Some(keep_name);
        // The pack first: readers find packs by their indexes.
        self.move_in(fs, &pack_path, &pack_name)?;
        if let Err(e) = self.move_in(fs, &idx_path, &idx_name) {
            // A full disk can refuse the second name.
            let _ = half_installed(fs, &self.dir);
            return Err(e);
        }
        fs.sync_dir(b"objects/pack")?;
        Ok(())
    }

    /// The file is still what was created: regular, with one name, and that name means it.
    fn still_ours(&self, fs: &Fs, file: &File, path: &[u8]) -> Result<()> {
        let stat = fstat(file).map_err(|e| Error::Read(PathBuf::from("incoming pack"), e.into()))?;
        let named = fs.stat(path)?;
        let same = named.is_some_and(|named| fs_ops::identity(&named) == fs_ops::identity(&stat));
        if fs_ops::is_file(&stat) && stat.st_nlink == 1 && same {
            return Ok(());
        }
        Err(bad("incoming pack: not the file that was created"))
    }

    /// Gives the file its final name, which must not be anybody's.
    fn move_in(&self, fs: &Fs, from: &[u8], to: &[u8]) -> Result<()> {
        match fs.link(from, to) {
            // The old name stays until the quarantine goes: by it a pack that got no index is known
            // after a crash.
            Ok(()) => Ok(()),
            Err(e)
                if matches!(
                    fs_ops::errno(&e),
                    Some(Errno::EPERM | Errno::EXDEV | Errno::EMLINK | Errno::EOPNOTSUPP | Errno::ENOSYS)
                ) =>
            {
                fs.rename(from, to)
            }
            Err(e) => Err(e),
        }
    }

    /// Removes the directory with all that is in it, and gives an installed pack up to C git's
    /// care. It stays, for the next [`sweep`], as long as a lock lies somewhere that is known by it.
    pub fn remove(self, fs: &Fs) -> Result<()> {
        let given_up = self.keep.as_ref().map_or(Ok(true), |keep| fs.remove(keep));
        if self.staging.lock_stayed() {
            transaction::release_stale(fs, &self.dir)?;
        }
        empty(fs, &self.dir)?;
        given_up.map(|_| ())
    }
}

/// Removes quarantines whose owners are gone, with the locks on references that they left, and
/// gives their number. Those of living processes are left alone.
pub fn sweep(fs: &Fs) -> Result<usize> {
    let mut removed = 0;
    for (name, is_dir) in fs.list(b"objects", MAX_ENTRIES)? {
        let ours = name.strip_prefix(PREFIX).is_some_and(|digits| {
            digits.len() == DIGITS && digits.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        });
        if !is_dir || !ours {
            continue;
        }
        let dir = [b"objects/".as_slice(), &name].concat();
        if let Some(_lock) = lock(fs, &dir)? {
            transaction::release_stale(fs, &dir)?;
            {
                let _moving = lock_packs(fs)?;
                half_installed(fs, &dir)?;
            }
            empty(fs, &dir)?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Keeps every other process of ours from moving packs in; for as long as the file is open.
fn lock_packs(fs: &Fs) -> Result<Option<File>> {
    let dir: &[u8] = b"objects/pack";
    if fs.stat(dir)?.is_none() {
        return Ok(None);
    }
    let file = File::from(fs.open_dir(dir)?);
    let deadline = Instant::now() + MOVING;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            // A user who may read the directory can hold a lock on it, which must not stop pushes
            // for long.
            Err(std::fs::TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
            Err(std::fs::TryLockError::Error(e)) => {
                return Err(Error::Open(PathBuf::from("objects/pack"), e));
            }
        }
    }
}

/// Removes the `.keep` file of this quarantine's pack, and a pack that got its name from this
/// quarantine, but whose index did not. Under [`lock_packs`].
fn half_installed(fs: &Fs, dir: &[u8]) -> Result<()> {
    if let Some(ours) = linked(fs, dir, KEEP)? {
        for (name, _) in fs.list(b"objects/pack", MAX_ENTRIES)? {
            let path = [b"objects/pack/".as_slice(), &name].concat();
            if name.ends_with(b".keep") && fs.stat(&path)?.is_some_and(|stat| fs_ops::identity(&stat) == ours)
            {
                fs.remove(&path)?;
            }
        }
    }
    let Some(ours) = linked(fs, dir, "pack")? else { return Ok(()) };
    for (name, _) in fs.list(b"objects/pack", MAX_ENTRIES)? {
        let Some(stem) = name.strip_suffix(b".pack") else { continue };
        let path = |suffix: &[u8]| [b"objects/pack/", stem, suffix].concat();
        let same = fs.stat(&path(b".pack"))?.is_some_and(|stat| fs_ops::identity(&stat) == ours);
        if same && fs.stat(&path(b".idx"))?.is_none() {
            fs.remove(&path(b".pack"))?;
        }
    }
    Ok(())
}

/// Which file this is of a quarantine, if it has another name elsewhere.
fn linked(fs: &Fs, dir: &[u8], name: &str) -> Result<Option<fs_ops::Identity>> {
    let stat = fs.stat(&[dir, b"/", name.as_bytes()].concat())?;
    Ok(stat.filter(|stat| fs_ops::is_file(stat) && stat.st_nlink > 1).map(|stat| fs_ops::identity(&stat)))
}

/// Locks a quarantine; `None` while its owner lives, or if it has gone meanwhile.
fn lock(fs: &Fs, dir: &[u8]) -> Result<Option<File>> {
    let file = match fs.open_dir(dir) {
        Ok(fd) => File::from(fd),
        Err(e) if fs_ops::errno(&e) == Some(Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(e),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
        Err(std::fs::TryLockError::Error(e)) => {
            return Err(Error::Open(PathBuf::from(OsStr::from_bytes(dir)), e));
        }
    }
    let stat = fstat(&file).map_err(|e| Error::Open(PathBuf::from(OsStr::from_bytes(dir)), e.into()))?;
    let named = fs.stat(dir)?;
    let same = named.is_some_and(|named| fs_ops::identity(&named) == fs_ops::identity(&stat));
    Ok(same.then_some(file))
}

fn empty(fs: &Fs, dir: &[u8]) -> Result<()> {
    for (name, _) in fs.list(dir, MAX_ENTRIES)? {
        fs.remove(&[dir, b"/", &name].concat())?;
    }
    fs.remove_dir(dir)?;
    Ok(())
}
