//! Opening files beneath a directory descriptor, following no symbolic link.
//!
//! Everything this crate reads is opened here, each component with `openat(O_NOFOLLOW)`, so that
//! neither a link in a repository nor a directory swapped for one leads out of it; nor, where
//! others may have made it, a mount point (see [`Look`]). The only memory maps are made here as
//! well.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::checked::FileId;
use crate::error::{Error, Result};
use crate::mounts::{DIRECTORY, Look};

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryType {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// Anything else.
    Other,
}

/// An open directory, and the name it has in error texts.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    name: PathBuf,
    look: Look,
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn io(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

/// Whether the error says that there is no such thing (a component that is no directory included).
fn absent(errno: Errno) -> bool {
    matches!(errno, Errno::ENOENT | Errno::ENOTDIR)
}

/// Whether every component is a plain name: no empty one, no `.` or `..`.
fn plain(path: &[u8]) -> bool {
    path.split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."))
}

impl Dir {
    /// A directory from its descriptor (`O_PATH` will do); `name` is for error texts and may be
    /// empty.
    pub fn new(fd: OwnedFd, name: impl Into<PathBuf>) -> Dir {
        Dir::within(fd, name, Look::ANYWHERE)
    }

    /// The same; of the entries below it only those that `look` permits are visible.
    pub fn within(fd: OwnedFd, name: impl Into<PathBuf>, look: Look) -> Dir {
        Dir { fd, name: name.into(), look }
    }

    /// How entries below it are opened.
    pub fn look(&self) -> Look {
        self.look
    }

    /// The name of something in this directory, for error texts.
    pub fn name_of(&self, path: &[u8]) -> PathBuf {
        self.name.join(OsStr::from_bytes(path))
    }

    /// A second descriptor of the same directory.
    pub fn try_clone(&self) -> Result<Dir> {
        let fd = self.fd.try_clone().map_err(|e| Error::Open(self.name.clone(), e))?;
        Ok(Dir { fd, name: self.name.clone(), look: self.look })
    }

    fn open(&self, path: &[u8], flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
        if !plain(path) {
            return Err(Errno::EINVAL);
        }
        let mut parent: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
            let at = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            parent = Some(self.look.open(at, &rest[..slash], DIRECTORY, Mode::empty())?);
            rest = &rest[slash + 1..];
        }
        let at = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        self.look.open(at, rest, flags, Mode::empty())
    }

    /// Opens a directory below this one; `None` if there is none. A symbolic link is not one.
    pub fn open_dir(&self, path: &[u8]) -> Result<Option<Dir>> {
        match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => Ok(Some(Dir::within(fd, self.name_of(path), self.look))),
            // A link to a directory is an error, and not treated as absent: the entries behind it
            // would silently be missed.
            Err(Errno::ENOTDIR) if matches!(self.stat(path)?, Some((EntryType::Symlink, _))) => {
                Err(Error::Corrupt(self.name_of(path), "symbolic link, which is not followed"))
            }
            Err(errno) if absent(errno) => Ok(None),
            Err(errno) => Err(Error::Open(self.name_of(path), io(errno))),
        }
    }

    /// Opens a regular file for reading; `None` if there is none. A symbolic link is an error.
    pub fn open_file(&self, path: &[u8]) -> Result<Option<File>> {
        Ok(self.open_and_stat(path)?.map(|(file, _)| file))
    }

    fn open_and_stat(&self, path: &[u8]) -> Result<Option<(File, FileStat)>> {
        // Without O_NONBLOCK somebody's FIFO in a repository would hang us here.
        let fd = match self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => fd,
            Err(errno) if absent(errno) => return Ok(None),
            Err(Errno::ELOOP) => {
                return Err(Error::Corrupt(self.name_of(path), "symbolic link, which is not followed"));
            }
            Err(errno) => return Err(Error::Open(self.name_of(path), io(errno))),
        };
        let stat = fstat(&fd).map_err(|errno| Error::Open(self.name_of(path), io(errno)))?;
        if EntryType::of_stat(&stat) != EntryType::File {
            return Err(Error::Corrupt(self.name_of(path), "not a regular file"));
        }
        Ok(Some((File::from(fd), stat)))
    }

    /// Reads a whole file of at most `limit` bytes; `None` if there is none.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(path)? else { return Ok(None) };
        let mut data = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut data)
            .map_err(|e| Error::Read(self.name_of(path), e))?;
        if data.len() as u64 > limit {
            return Err(Error::FileTooLarge(self.name_of(path), limit));
        }
        Ok(Some(data))
    }

    /// Maps a whole file into memory, read-only; `None` if there is none.
    pub fn map(&self, path: &[u8]) -> Result<Option<Map>> {
        let Some((file, stat)) = self.open_and_stat(path)? else { return Ok(None) };
        let map = Map::of_len(&file, &stat).map_err(|e| Error::Read(self.name_of(path), e))?;
        Ok(Some(Map { id: Some(FileId::of(&stat)), ..map }))
    }

    /// What `path` is, not following a link at its end; `None` if there is nothing.
    pub fn stat(&self, path: &[u8]) -> Result<Option<(EntryType, FileStat)>> {
        let (parent, last) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => match self.open_dir(&path[..slash])? {
                Some(parent) => (Some(parent), &path[slash + 1..]),
                None => return Ok(None),
            },
            None => (None, path),
        };
        let at = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
        match self.look.stat(at, last) {
            Ok(stat) => Ok(Some((EntryType::of_stat(&stat), stat))),
            Err(errno) if absent(errno) => Ok(None),
            Err(errno) => Err(Error::Open(self.name_of(path), io(errno))),
        }
    }

    /// The target of a symbolic link in this very directory, not followed; `None` if it is none. A
    /// link is an error where this process can do nothing with names but open them: it is there,
    /// and what it names is not to be taken for absent.
    pub fn link_target(&self, name: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.look.read_link(self.fd.as_fd(), name) {
            Ok(target) => Ok(Some(target)),
            Err(Errno::EACCES) if self.look.kind(self.fd.as_fd(), name) == Ok(EntryType::Symlink) => Err(
                Error::Corrupt(self.name_of(name), "symbolic link, which is not read: see git symbolic-ref"),
            ),
            Err(_) => Ok(None),
        }
    }

    /// The names in this directory, `.` and `..` left out, in no order, `limit` of them at most.
    pub fn entries(&self, limit: usize) -> Result<Vec<(Vec<u8>, EntryType)>> {
        Ok(self.numbered_entries(limit)?.into_iter().map(|(name, kind, _)| (name, kind)).collect())
    }

    /// The same, each with the number of its inode.
    pub(crate) fn numbered_entries(&self, limit: usize) -> Result<Vec<(Vec<u8>, EntryType, u64)>> {
        let fail = |errno| Error::Read(self.name.clone(), io(errno));
        // A fresh open file description: a shared one would start at the position where another
        // reader left it.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = nix::dir::Dir::openat(&self.fd, ".", flags, Mode::empty()).map_err(fail)?;
        let mut names = Vec::new();
        for entry in listing.iter() {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name().to_bytes();
            if matches!(name, b"." | b"..") {
                continue;
            }
            if names.len() >= limit {
                return Err(Error::Limit(format!("{}: more than {limit} entries", self.name.display())));
            }
            let kind = match entry.file_type() {
                Some(nix::dir::Type::File) => EntryType::File,
                Some(nix::dir::Type::Directory) => EntryType::Dir,
                Some(nix::dir::Type::Symlink) => EntryType::Symlink,
                Some(_) => EntryType::Other,
                // Some file systems do not say.
                None => match self.look.kind(self.fd.as_fd(), name) {
                    Ok(kind) => kind,
                    Err(errno) if absent(errno) => continue,
                    Err(errno) => return Err(Error::Open(self.name_of(name), io(errno))),
                },
            };
            names.push((name.to_vec(), kind, entry.ino()));
        }
        Ok(names)
    }

    /// The name of the directory itself in error texts.
    pub fn name(&self) -> &Path {
        &self.name
    }
}

impl EntryType {
    pub(crate) fn of_stat(stat: &FileStat) -> EntryType {
        EntryType::of_bits(SFlag::from_bits_truncate(stat.st_mode))
    }

    fn of_bits(bits: SFlag) -> EntryType {
        match bits & SFlag::S_IFMT {
            SFlag::S_IFREG => EntryType::File,
            SFlag::S_IFDIR => EntryType::Dir,
            SFlag::S_IFLNK => EntryType::Symlink,
            _ => EntryType::Other,
        }
    }

    /// From what [`facts`](crate::mounts::facts) told.
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    pub(crate) fn of_mode(mode: u32) -> EntryType {
        EntryType::of_bits(SFlag::from_bits_truncate(mode as nix::libc::mode_t))
    }
}

/// A file in memory, read-only and private: nothing that this process does could ever reach the
/// file.
///
/// Git never changes a pack, index or packed-refs file in place: it renames a new one over it,
/// which leaves this one as it was. A user who truncates a mapped file all the same ends only the
/// process that reads it (SIGBUS).
#[derive(Debug)]
pub struct Map {
    bytes: memmap2::Mmap,
    id: Option<FileId>,
}

impl Map {
    /// Maps a whole file.
    pub fn of_file(file: &File) -> io::Result<Map> {
        Map::of_len(file, &fstat(file)?)
    }

    /// The same of a file whose status is known.
    fn of_len(file: &File, stat: &FileStat) -> io::Result<Map> {
        let length = usize::try_from(stat.st_size).map_err(io::Error::other)?;
        // SAFETY: the map is read-only and private. That the bytes stay as they are while borrowed
        // is Git's rule for these files (see above); code that reads them checks every length and
        // offset against the map's own length and keeps no assumption about content across reads.
        unsafe { memmap2::MmapOptions::new().len(length).map_copy_read_only(file) }
            .map(|bytes| Map { bytes, id: None })
    }

    /// The same from bytes in memory, for tests and fuzzing.
    pub fn of_bytes(bytes: &[u8]) -> io::Result<Map> {
        let mut map = memmap2::MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        map.make_read_only().map(|bytes| Map { bytes, id: None })
    }

    /// The file's identity, if it was opened by its name.
    pub(crate) fn file_id(&self) -> Option<FileId> {
        self.id
    }
}

impl Deref for Map {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The big-endian number at `at`, if it lies within.
#[inline]
pub(crate) fn be32(data: &[u8], at: usize) -> Option<u32> {
    let bytes = data.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// The big-endian number at `at`, if it lies within.
#[inline]
pub(crate) fn be64(data: &[u8], at: usize) -> Option<u64> {
    Some((u64::from(be32(data, at)?) << 32) | u64::from(be32(data, at.checked_add(4)?)?))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// The kernel's own word about each map of the process: `r--p` is read-only and private.
    #[test]
    fn a_map_of_a_file_is_private_and_cannot_be_written() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        io::Write::write_all(&mut file, &[7; 10_000]).expect("writes");
        let map = Map::of_file(file.as_file()).expect("maps");
        assert_eq!(map.len(), 10_000);
        let maps = std::fs::read_to_string("/proc/self/maps").expect("reads");
        let name = file.path().to_string_lossy().into_owned();
        let rights: Vec<&str> = maps
            .lines()
            .filter(|line| line.ends_with(&name))
            .filter_map(|line| line.split(' ').nth(1))
            .collect();
        assert_eq!(rights, ["r--p"]);
    }
}
