//! The directory in which locks are made before they are linked to their names. By it the locks of
//! a dead process can be recognised and removed.

use std::fs::File;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::fs_ops::{self, Fs};

/// A directory of this process's own (the push's quarantine), in which the files that become locks
/// are written.
///
/// `locks` in it lists the names that will be locked, one a line; `lock-N` is the file that is
/// linked to line N's name.
#[derive(Debug)]
pub struct Staging {
    dir: Vec<u8>,
}

const LIST: &[u8] = b"locks";
const PACKED: &[u8] = b"lock-packed";
/// Largest list of locks that is believed.
const MAX_LIST: u64 = 256 << 20;

impl Staging {
    /// Uses the directory at `dir`, which exists and is nobody else's.
    pub fn new(dir: &[u8]) -> Staging {
        Staging { dir: dir.to_vec() }
    }

    fn path(&self, name: &[u8]) -> Vec<u8> {
        [&self.dir, b"/".as_slice(), name].concat()
    }

    /// Where a new packed-refs is written before it moves to its name.
    pub(super) fn packed_new(&self) -> Vec<u8> {
        self.path(b"packed-refs.new")
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
        fs.sync_dir(&self.dir)
    }

    /// Writes what will become the lock of update `number` (`None`: of packed-refs), and gives its
    /// path.
    pub(super) fn prepare(&self, fs: &Fs, number: Option<usize>, content: &[u8]) -> Result<Vec<u8>> {
        let path = match number {
            Some(number) => self.path(format!("lock-{number}").as_bytes()),
            None => self.path(PACKED),
        };
        fs.remove(&path)?;
        let file = fs.create(&path, 0o666)?;
        fill(fs, &file, &path, content)?;
        Ok(path)
    }

    /// Takes a lock: fails with EEXIST while somebody has it.
    pub(super) fn acquire(&self, fs: &Fs, source: &[u8], lock: &[u8]) -> Result<()> {
        match fs.link(source, lock) {
            // A file system without hard links: the lock works all the same, but after a crash it
            // cannot be recognised as ours.
            Err(e)
                if matches!(
                    fs_ops::errno(&e),
                    Some(Errno::EPERM | Errno::EXDEV | Errno::EMLINK | Errno::EOPNOTSUPP | Errno::ENOSYS)
                ) =>
            {
                let content = fs.read(source, 4096)?.unwrap_or_default();
                let file = fs.create(lock, 0o666)?;
                fill(fs, &file, lock, &content).inspect_err(|_| {
                    let _ = fs.remove(lock);
                })
            }
            result => result,
        }
    }
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
    for (number, name) in list.split(|&byte| byte == b'\n').enumerate() {
        // Only what a transaction could have listed: somebody else may have written this file.
        if libgit::RefName::parse_for_update(name).is_err() {
            continue;
        }
        let lock = [name, b".lock"].concat();
        if same(&staging.path(format!("lock-{number}").as_bytes()), &lock)? {
            fs.remove(&lock)?;
        }
    }
    if same(&staging.path(PACKED), b"packed-refs.lock")? {
        // Half of a new packed-refs may lie beside it.
        fs.remove(b"packed-refs.new")?;
        fs.remove(b"packed-refs.lock")?;
    }
    Ok(())
}
