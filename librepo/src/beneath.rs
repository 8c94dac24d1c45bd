//! Opening files beneath a directory descriptor, following no symbolic link.
//!
//! Everything this crate reads is opened here, each component with `openat(O_NOFOLLOW)`, so that
//! neither a link in a repository nor a directory swapped for one leads out of it. The only
//! memory maps are made here as well.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::checked::FileId;
use crate::error::{Error, Result};

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// A directory from its descriptor (`O_PATH` will do); `name` is for error texts and may be empty.
    pub fn new(fd: OwnedFd, name: impl Into<PathBuf>) -> Dir {
        Dir { fd, name: name.into() }
    }

    /// The name of something in this directory, for error texts.
    pub fn name_of(&self, path: &[u8]) -> PathBuf {
        self.name.join(OsStr::from_bytes(path))
    }

    /// A second descriptor of the same directory.
    pub fn try_clone(&self) -> Result<Dir> {
        let fd = self.fd.try_clone().map_err(|e| Error::Open(self.name.clone(), e))?;
        Ok(Dir { fd, name: self.name.clone() })
    }

    fn open(&self, path: &[u8], flags: OFlag) -> std::result::Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if !plain(path) {
            return Err(Errno::EINVAL);
        }
        let mut parent: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
            let at = parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd);
            let walk = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            parent = Some(openat(at, &rest[..slash], walk, Mode::empty())?);
            rest = &rest[slash + 1..];
        }
        openat(parent.as_ref().map_or(self.fd.as_fd(), AsFd::as_fd), rest, flags, Mode::empty())
    }

    /// Opens a directory below this one; `None` if there is none. A symbolic link is not one.
    pub fn open_dir(&self, path: &[u8]) -> Result<Option<Dir>> {
        match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(fd) => Ok(Some(Dir { fd, name: self.name_of(path) })),
            // A link to a directory is told from nothing at all: what lies behind it would silently be missed.
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
        if file_type(&stat) != EntryType::File {
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
        let map = Map::of_file(&file).map_err(|e| Error::Read(self.name_of(path), e))?;
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
        match fstatat(at, last, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some((file_type(&stat), stat))),
            Err(errno) if absent(errno) => Ok(None),
            Err(errno) => Err(Error::Open(self.name_of(path), io(errno))),
        }
    }

    /// The target of a symbolic link in this very directory, not followed; `None` if it is none.
    pub fn link_target(&self, name: &[u8]) -> Option<Vec<u8>> {
        readlinkat(&self.fd, name).ok().map(|target| target.as_bytes().to_vec())
    }

    /// The names in this directory, `.` and `..` left out, in no order, `limit` of them at most.
    pub fn entries(&self, limit: usize) -> Result<Vec<(Vec<u8>, EntryType)>> {
        let fail = |errno| Error::Read(self.name.clone(), io(errno));
        // A fresh description: the position of a shared one would be left wherever it was.
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
                None => match self.stat(name)? {
                    Some((kind, _)) => kind,
                    None => continue,
                },
            };
            names.push((name.to_vec(), kind));
        }
        Ok(names)
    }

    /// The name of the directory itself in error texts.
    pub fn name(&self) -> &Path {
        &self.name
    }
}

fn file_type(stat: &FileStat) -> EntryType {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => EntryType::File,
        SFlag::S_IFDIR => EntryType::Dir,
        SFlag::S_IFLNK => EntryType::Symlink,
        _ => EntryType::Other,
    }
}

/// A file in memory, read-only and private: nothing that this process does could ever reach the file.
///
/// Git never changes a pack, index or packed-refs file in place: it renames a new one over it, which
/// leaves this one as it was. Whoever truncates one all the same ends the process that reads it
/// (SIGBUS), and no other.
#[derive(Debug)]
pub struct Map {
    bytes: memmap2::Mmap,
    id: Option<FileId>,
}

impl Map {
    /// Maps a whole file.
    pub fn of_file(file: &File) -> io::Result<Map> {
        // SAFETY: the map is read-only and private. That the bytes stay as they are while borrowed
        // is Git's rule for these files (see above); code that reads them checks every length and
        // offset against the map's own length and keeps no assumption about content across reads.
        unsafe { memmap2::MmapOptions::new().map_copy_read_only(file) }.map(|bytes| Map { bytes, id: None })
    }

    /// The same from bytes in memory, for tests and fuzzing.
    pub fn of_bytes(bytes: &[u8]) -> io::Result<Map> {
        let mut map = memmap2::MmapMut::map_anon(bytes.len())?;
        map.copy_from_slice(bytes);
        map.make_read_only().map(|bytes| Map { bytes, id: None })
    }

    /// Which file it is, if it was opened by its name.
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

/// What the kernel knows of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Its owner.
    pub uid: u32,
    /// Its type and permissions.
    pub mode: u32,
    /// Its device number.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970; 0: not known.
    pub born: u64,
    /// The id of the mount that it was reached through; `None`: the kernel does not say.
    pub mount: Option<u64>,
}

/// Looks at a directory by its descriptor. Nobody is asked but the kernel itself: the server of a file system in user
/// space, or a network's, may never answer.
#[cfg(target_os = "linux")]
pub(crate) fn facts(directory: BorrowedFd<'_>) -> std::result::Result<Facts, Errno> {
    use nix::libc;
    use std::os::fd::AsRawFd as _;

    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC;
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;
    // SAFETY: the descriptor is open, the path is an empty string with its end, and the buffer is one `struct statx`,
    // which the call fills in.
    let done =
        unsafe { libc::statx(directory.as_raw_fd(), c"".as_ptr(), flags, wanted, buffer.as_mut_ptr()) };
    Errno::result(done)?;
    // SAFETY: plain numbers, for which zeros are good, and the call has filled them in.
    let found = unsafe { buffer.assume_init() };
    let seconds = u64::try_from(found.stx_btime.tv_sec).unwrap_or_default();
    let nanoseconds = u64::from(found.stx_btime.tv_nsec);
    let has = |bit: libc::c_uint| found.stx_mask & bit != 0;
    Ok(Facts {
        uid: found.stx_uid,
        mode: u32::from(found.stx_mode),
        device: libc::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        born: if has(libc::STATX_BTIME) {
            seconds.wrapping_mul(1_000_000_000).wrapping_add(nanoseconds)
        } else {
            0
        },
        mount: has(libc::STATX_MNT_ID).then_some(found.stx_mnt_id),
    })
}

/// The same by fstat(2), where there is nothing else.
#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
pub(crate) fn facts(directory: BorrowedFd<'_>) -> std::result::Result<Facts, Errno> {
    let found = fstat(directory)?;
    Ok(Facts {
        uid: found.st_uid,
        mode: found.st_mode as u32,
        device: found.st_dev as u64,
        inode: found.st_ino as u64,
        born: 0,
        mount: None,
    })
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
