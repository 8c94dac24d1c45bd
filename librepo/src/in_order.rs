//! Operations on many files that lie beside each other, as of a push that changes thousands of
//! references: what [`Fs`] does, without walking to each file from the top.
//!
//! The directory of the last file stays open. It may have been removed meanwhile, and another made
//! in its place, unless something of ours lies in it: so files are looked at and removed here only
//! beside a lock of ours. Making a name in a directory that was removed fails.

use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::descent::Descent;
use crate::error::Result;
use crate::fs_ops::{Fs, Op, failed};

/// What has a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    /// A file of at most so many bytes.
    File(Vec<u8>),
}

/// See the head of this file.
pub(crate) struct InOrder<'f> {
    fs: &'f Fs,
    at: Descent,
    sources: Descent,
}

impl<'f> InOrder<'f> {
    pub(crate) fn new(fs: &'f Fs) -> Result<InOrder<'f>> {
        Ok(InOrder { fs, at: fs.descent()?, sources: fs.descent()? })
    }

    /// Forgets which directories were there.
    pub(crate) fn forget(&mut self) {
        self.at.forget();
    }

    /// Gives the file `from` a second name. ENOENT if the directory for it is missing.
    pub(crate) fn link(&mut self, from: &[u8], to: &[u8]) -> Result<()> {
        let ((old_dir, old), (new_dir, new)) = (split(from), split(to));
        let (Some(old_dir), Some(new_dir)) = (self.sources.dir(old_dir)?, self.at.dir(new_dir)?) else {
            return Err(failed(to, Errno::ENOENT));
        };
        linkat(old_dir, old, new_dir, new, AtFlags::empty()).map_err(|errno| failed(to, errno))?;
        self.fs.note(&Op::Link(from.to_vec(), to.to_vec()));
        Ok(())
    }

    /// Removes a name; false if it is not there.
    pub(crate) fn remove(&mut self, path: &[u8]) -> Result<bool> {
        let (dir, name) = split(path);
        let Some(dir) = self.at.dir(dir)? else { return Ok(false) };
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) => {
                self.fs.note(&Op::Remove(path.to_vec()));
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// Reads a regular file of at most `limit` bytes. A link is an error, ELOOP.
    pub(crate) fn read(&mut self, path: &[u8], limit: u64) -> Result<Found> {
        let (above, name) = split(path);
        let Some(above) = self.at.dir(above)? else { return Ok(Found::Nothing) };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match above.look().open(above.as_fd(), name, flags, Mode::empty()) {
            Ok(fd) => {
                let read = self.fs.read_opened(fd, path, limit)?;
                Ok(read.map_or(Found::Directory, |(_, data)| Found::File(data)))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Found::Nothing),
            Err(errno) => Err(failed(path, errno)),
        }
    }
}

/// The directory and the name of a path in it.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}
