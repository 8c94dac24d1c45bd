//! The directory in which locks are made before they are linked to their names. By it the locks of
//! a dead process can be recognised and removed.

use std::collections::HashSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use crate::error::{Error, Result};
use crate::fs_ops::{self, Fs};
use crate::in_order::InOrder;
use crate::transaction::KEPT;
use crate::transaction::packed_change::ROUNDS;

/// A directory of this process's own (the push's quarantine), in which the files that become locks
/// are written.
///
/// `locks` in it lists the names that will be locked, one a line. The files that are linked to
/// these names are `lock-…`: one for each lock that holds a value, and one for many without.
#[derive(Clone, Debug)]
pub struct Staging {
    dir: Vec<u8>,
    /// Whether a lock could not be removed.
    stayed: Arc<AtomicBool>,
}

const LIST: &[u8] = b"locks";
const SOURCES: &[u8] = b"lock-";
/// How many files for the repository's own directory one push makes at most: packed-refs in each
/// round of each of its two groups of updates, three times if names come to be in the way, and HEAD
/// twice.
const STOCK: usize = 2 * ROUNDS * 3 + 2;

/// A file in the repository's own directory.
#[derive(Clone, Copy)]
pub(super) enum Top {
    PackedRefs,
    Head,
}

impl Top {
    const ALL: [Top; 2] = [Top::PackedRefs, Top::Head];

    pub(super) fn lock_name(self) -> &'static [u8] {
        match self {
            Top::PackedRefs => b"packed-refs.lock",
            Top::Head => b"HEAD.lock",
        }
    }

    /// The new file on its way, in the staging directory or, as older versions of this and C git
    /// have it, in the repository's own.
    fn new_name(self) -> &'static [u8] {
        match self {
            Top::PackedRefs => b"packed-refs.new",
            Top::Head => b"HEAD.new",
        }
    }

    /// What is linked to the lock's name, in the staging directory.
    fn staged(self) -> &'static [u8] {
        match self {
            Top::PackedRefs => b"lock-packed",
            Top::Head => b"lock-head",
        }
    }
}

/// Largest list of locks that is believed: as long as the names of the largest push.
const MAX_LIST: u64 = 1 << 30;
/// Most files of a staging directory that are looked at.
const MAX_ENTRIES: usize = 2_000_000;

impl Staging {
    /// Uses the directory at `dir`, which exists and is nobody else's.
    pub fn new(dir: &[u8]) -> Staging {
        Staging { dir: dir.to_vec(), stayed: Arc::default() }
    }

    /// Notes that a lock could not be removed: it is known as ours by this directory alone.
    pub(super) fn lock_stays(&self) {
        self.stayed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn lock_stayed(&self) -> bool {
        self.stayed.load(Ordering::Relaxed)
    }

    fn path(&self, name: &[u8]) -> Vec<u8> {
        [&self.dir, b"/".as_slice(), name].concat()
    }

    /// Makes files that [`Staging::make_top`] will take, if files that are made in this directory get
    /// another group than those in the repository's own. For a caller that will have no right to
    /// make any there.
    pub fn stock(&self, fs: &Fs) -> Result<()> {
        let (first, made) = (self.stocked(0), [b"gotd-new-", self.name()].concat());
        drop(fs.create(&first, 0o666)?);
        let differs = self.group_differs(fs, &first, &made);
        fs.remove(&first)?;
        for number in 0..if differs? { STOCK } else { 0 } {
            drop(fs.create(&made, 0o666)?);
            fs.rename(&made, &self.stocked(number))?;
        }
        Ok(())
    }

    fn name(&self) -> &[u8] {
        self.dir.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
    }

    fn stocked(&self, number: usize) -> Vec<u8> {
        self.path(format!("new-{number}").as_bytes())
    }

    /// Makes the empty file that will be this one, and gives its path in this directory, where it is
    /// written; in the repository's own if this is of another file system. The caller holds the lock.
    pub(super) fn make_top(&self, fs: &Fs, top: Top) -> Result<(Vec<u8>, File)> {
        let device = |path| Ok::<_, Error>(fs.stat_dir(path)?.map(|stat| stat.st_dev));
        if device(&self.dir)? != device(b"")? {
            let new = top.new_name().to_vec();
            fs.remove(&new)?;
            let file = fs.create(&new, 0o666)?;
            return Ok((new, file));
        }
        let new = self.path(top.new_name());
        fs.remove(&new)?;
        for stocked in (0..STOCK).map(|number| self.stocked(number)) {
            if fs.stat(&stocked)?.is_some() {
                fs.rename(&stocked, &new)?;
                break;
            }
        }
        let file = match fs.open_append(&new)? {
            Some(file) => file,
            None => fs.create(&new, 0o666)?,
        };
        Ok((new, file))
    }

    /// Makes the file that becomes the lock of this one, and gives its path.
    pub(super) fn prepare_lock(&self, fs: &Fs, top: Top) -> Result<Vec<u8>> {
        let path = self.path(top.staged());
        fs.remove(&path)?;
        fs.create(&path, 0o666)?;
        self.sync(fs)?;
        Ok(path)
    }

    /// Notes which names are about to be locked, before any of them is.
    pub(super) fn announce<'n>(&self, fs: &Fs, names: impl Iterator<Item = &'n [u8]>) -> Result<()> {
        let list = self.path(LIST);
        fs.remove(&list)?;
        let file = fs.create(&list, 0o600)?;
        let mut text = Vec::new();
        for name in names {
            text.extend_from_slice(name);
            text.push(b'\n');
        }
        fs.append(&file, &list, &text)?;
        fs.sync_file(&file, &list)?;
        self.sync(fs)?;
        fs.sync_dir(&super::parent(&self.dir))
    }

    /// Puts the names in this directory on the disk: those of files that become locks, before the
    /// first of these locks is taken. Others sync the directories in which locks lie, and after a
    /// power cut a lock whose file has no name here would be nobody's.
    pub(super) fn sync(&self, fs: &Fs) -> Result<()> {
        fs.sync_dir(&self.dir)
    }

    /// What becomes the lock of name `number` of the list.
    pub(super) fn source(&self, number: usize) -> Vec<u8> {
        self.path(format!("lock-{number}").as_bytes())
    }

    /// Writes that. A [`Staging::sync`] must follow.
    pub(super) fn prepare(&self, fs: &Fs, number: usize, content: &[u8]) -> Result<()> {
        let path = self.source(number);
        fs.remove(&path)?;
        let file = fs.create(&path, 0o666)?;
        fill(fs, &file, &path, content)
    }

    /// Puts another file in the place of a lock that is held; false if it cannot be one.
    pub(super) fn exchange(&self, fs: &Fs, source: &[u8], lock: &[u8]) -> Result<bool> {
        if self.group_differs(fs, source, lock)? {
            return Ok(false);
        }
        let other = self.path(b"other-name");
        match fs.link(source, &other).and_then(|()| fs.rename(&other, lock)) {
            Ok(()) => Ok(true),
            Err(e) if without_links(&e) => fs.remove(&other).map(|_| false),
            Err(e) => Err(e),
        }
    }

    /// Whether a file that is made in the directory of `path` gets another group than `source`, which
    /// was made in this directory: set-group-id may be set for a part of a repository alone.
    fn group_differs(&self, fs: &Fs, source: &[u8], path: &[u8]) -> Result<bool> {
        let gives_group = |stat: &FileStat| !cfg!(target_os = "linux") || stat.st_mode & 0o2000 != 0;
        let Some(there) = fs.stat_dir(&super::parent(path))? else { return Ok(false) };
        if gives_group(&there) {
            return Ok(fs.stat(source)?.is_some_and(|source| source.st_gid != there.st_gid));
        }
        Ok(fs.stat_dir(&super::parent(&self.dir))?.is_some_and(|objects| gives_group(&objects)))
    }

    /// The file that many locks without a value are further names of: which of these files.
    pub(super) fn shared(&self, number: usize) -> Vec<u8> {
        self.path(format!("lock-shared-{number}").as_bytes())
    }

    /// Makes such a file.
    pub(super) fn prepare_shared(&self, fs: &Fs, number: usize) -> Result<()> {
        let path = self.shared(number);
        fs.remove(&path)?;
        fs.create(&path, 0o666)?;
        self.sync(fs)
    }

    /// Takes a lock without a value: fails with EEXIST while somebody has it, with ENOENT where
    /// there is no directory for it.
    pub(super) fn claim(&self, order: &mut InOrder<'_>, fs: &Fs, source: &[u8], lock: &[u8]) -> Result<()> {
        match order.link(source, lock) {
            Err(e) if without_links(&e) => fs.create(lock, 0o666).map(drop),
            result => result,
        }
    }

    /// Takes a lock: fails with EEXIST while somebody has it.
    pub(super) fn acquire(&self, fs: &Fs, source: &[u8], lock: &[u8]) -> Result<()> {
        // The lock of a file in the repository's own directory never becomes that file.
        if lock.contains(&b'/') && self.group_differs(fs, source, lock)? {
            return make_there(fs, source, lock);
        }
        match fs.link(source, lock) {
            Err(e) if without_links(&e) => make_there(fs, source, lock),
            result => result,
        }
    }
}

/// Makes a lock in its own directory. It works all the same, but after a crash it cannot be
/// recognised as ours.
fn make_there(fs: &Fs, source: &[u8], lock: &[u8]) -> Result<()> {
    let content = fs.read(source, 4096)?.unwrap_or_default();
    let file = fs.create(lock, 0o666)?;
    fill(fs, &file, lock, &content).inspect_err(|_| {
        let _ = fs.remove(lock);
    })
}

/// Whether a file cannot have this further name because of the file system.
fn without_links(error: &Error) -> bool {
    use Errno::{EMLINK, ENOSYS, EOPNOTSUPP, EPERM, EXDEV};
    matches!(fs_ops::errno(error), Some(EPERM | EXDEV | EMLINK | EOPNOTSUPP | ENOSYS))
}

fn fill(fs: &Fs, file: &File, path: &[u8], content: &[u8]) -> Result<()> {
    if content.is_empty() {
        return Ok(());
    }
    fs.append(file, path, content)?;
    fs.sync_file(file, path)
}

/// Removes the locks that the dead owner of the staging directory `dir` left. The caller holds the
/// directory's lock.
pub(crate) fn release_stale(fs: &Fs, dir: &[u8]) -> Result<()> {
    let staging = Staging::new(dir);
    let same = |a: &[u8], b: &[u8]| -> Result<bool> {
        Ok(match (fs.stat(a)?, fs.stat(b)?) {
            (Some(a), Some(b)) => fs_ops::is_file(&a) && fs_ops::identity(&a) == fs_ops::identity(&b),
            _ => false,
        })
    };
    let list = match fs.read(&staging.path(LIST), MAX_LIST) {
        Ok(list) => list.unwrap_or_default(),
        Err(Error::FileTooLarge(..)) => Vec::new(),
        Err(e) => return Err(e),
    };
    let mut ours = HashSet::new();
    for (name, _) in fs.list(dir, MAX_ENTRIES)? {
        if name.starts_with(SOURCES)
            && let Some(stat) = fs.stat(&staging.path(&name))?.filter(fs_ops::is_file)
        {
            ours.insert(fs_ops::identity(&stat));
        }
    }
    for name in list.split(|&byte| byte == b'\n') {
        // Only what a transaction could have listed: somebody else may have written this file.
        if libgit::RefName::parse_for_update(name).is_err() {
            continue;
        }
        let lock = [name, b".lock"].concat();
        if fs.stat(&lock)?.is_some_and(|stat| ours.contains(&fs_ops::identity(&stat))) {
            fs.remove(&lock)?;
            // They may have been made for the lock.
            fs.remove_empty_parents(name, KEPT);
        }
    }
    for top in Top::ALL {
        if same(&staging.path(top.staged()), top.lock_name())? {
            // Half of a new file may lie beside it.
            fs.remove(top.new_name())?;
            fs.remove(top.lock_name())?;
        }
    }
    Ok(())
}
