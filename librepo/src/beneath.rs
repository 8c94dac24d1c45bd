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
    EntryType::of_bits(SFlag::from_bits_truncate(stat.st_mode))
}

impl EntryType {
    fn of_bits(bits: SFlag) -> EntryType {
        match bits & SFlag::S_IFMT {
            SFlag::S_IFREG => EntryType::File,
            SFlag::S_IFDIR => EntryType::Dir,
            SFlag::S_IFLNK => EntryType::Symlink,
            _ => EntryType::Other,
        }
    }

    /// From what [`facts`] told.
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    pub(crate) fn of_mode(mode: u32) -> EntryType {
        EntryType::of_bits(SFlag::from_bits_truncate(mode as nix::libc::mode_t))
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
    /// That id is never used again, so that [`mounted_by`] can be asked about it (Linux 6.8).
    pub unique: bool,
}

/// Looks at a directory by its descriptor. Nobody is asked but the kernel itself: the server of a file system in user
/// space, or a network's, may never answer.
#[cfg(target_os = "linux")]
pub(crate) fn facts(directory: BorrowedFd<'_>) -> std::result::Result<Facts, Errno> {
    use nix::libc;
    use std::os::fd::AsRawFd as _;

    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC;
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
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
        mount: has(libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE).then_some(found.stx_mnt_id),
        unique: has(STATX_MNT_ID_UNIQUE),
    })
}

/// For statx(2), since Linux 6.8: an older kernel does not look at this bit.
#[cfg(target_os = "linux")]
const STATX_MNT_ID_UNIQUE: nix::libc::c_uint = 0x4000;

/// Who has mounted a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountedBy {
    /// Only root can have.
    Root,
    /// Its server in user space is that of somebody else, or may be.
    User,
    /// The kernel does not say, and the file system may be one in user space.
    NotKnown,
}

/// Who has mounted the file system on which a directory lies. The kernel alone is asked, by statmount(2): statfs(2) would ask
/// the server of a file system in user space.
#[cfg(target_os = "linux")]
pub(crate) fn mounted_by(facts: &Facts) -> MountedBy {
    // A file system in user space has no device, but for one that only root can have mounted.
    let unknown = if nix::libc::major(facts.device) == 0 { MountedBy::NotKnown } else { MountedBy::Root };
    let Some(mount) = facts.mount.filter(|_| facts.unique) else { return unknown };
    match statmount(mount, SB_BASIC) {
        Ok(basic) if basic.has(SB_BASIC) && basic.number(24) != FUSE_SUPER_MAGIC => MountedBy::Root,
        Ok(basic) if basic.has(SB_BASIC) => match statmount(mount, FS_TYPE | MNT_OPTS) {
            Ok(fuse) if fuse.is_roots() => MountedBy::Root,
            // Or nobody says who has mounted it (Linux before 6.11).
            _ => MountedBy::User,
        },
        Err(Errno::ENOSYS) => unknown,
        // It was unmounted meanwhile.
        _ => MountedBy::User,
    }
}

/// Elsewhere only root mounts anything.
#[cfg(not(target_os = "linux"))]
pub(crate) fn mounted_by(_: &Facts) -> MountedBy {
    MountedBy::Root
}

#[cfg(target_os = "linux")]
const FUSE_SUPER_MAGIC: u64 = 0x6573_5546;
/// What statmount(2) can tell.
#[cfg(target_os = "linux")]
const SB_BASIC: u64 = 1;
#[cfg(target_os = "linux")]
const FS_TYPE: u64 = 0x20;
#[cfg(target_os = "linux")]
const MNT_OPTS: u64 = 0x80;

/// An answer of statmount(2): a header of 512 bytes with numbers and the places of texts, which follow it.
#[cfg(target_os = "linux")]
struct Statmount(Box<[u8; Statmount::SIZE]>);

#[cfg(target_os = "linux")]
impl Statmount {
    /// With room for the options: the kernel has a page for those of a file system.
    const SIZE: usize = HEADER + 8192;

    fn number(&self, at: usize) -> u64 {
        self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes)
    }

    fn has(&self, bits: u64) -> bool {
        self.number(8) & bits == bits
    }

    /// The text whose place is told at `at`.
    fn text(&self, at: usize) -> &[u8] {
        let place =
            self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes);
        let start = HEADER.saturating_add(usize::try_from(place).unwrap_or(usize::MAX));
        let rest = self.0.get(start..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Whether a file system of the family of FUSE was mounted by root. That of a virtual machine's host has no user.
    fn is_roots(&self) -> bool {
        let users = |options: &[u8]| -> Vec<Vec<u8>> {
            options
                .split(|&byte| byte == b',')
                .filter_map(|one| one.strip_prefix(b"user_id="))
                .map(<[u8]>::to_vec)
                .collect()
        };
        self.has(FS_TYPE) && self.text(36) == b"virtiofs"
            || self.has(FS_TYPE | MNT_OPTS) && users(self.text(4)) == [b"0"]
    }
}

/// Bytes of the header.
#[cfg(target_os = "linux")]
const HEADER: usize = 512;

/// What the kernel knows of a mount.
#[cfg(target_os = "linux")]
fn statmount(mount: u64, wanted: u64) -> std::result::Result<Statmount, Errno> {
    use nix::libc;

    /// The same on every architecture.
    const SYS_STATMOUNT: libc::c_long = 457;
    // `struct mnt_id_req`: its size and nothing, the mount, what is wanted.
    let size_first = [24u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
    let request = [size_first, mount.to_ne_bytes().to_vec(), wanted.to_ne_bytes().to_vec()].concat();
    let mut answer = Statmount(Box::new([0; Statmount::SIZE]));
    let (room, no_flags): (libc::size_t, libc::c_uint) = (Statmount::SIZE, 0);
    // SAFETY: the request has the 24 bytes that it says, and the kernel writes as many bytes into the buffer as it is told that
    // there is room for. It copies both, so that they need no alignment.
    let done =
        unsafe { libc::syscall(SYS_STATMOUNT, request.as_ptr(), answer.0.as_mut_ptr(), room, no_flags) };
    Errno::result(done)?;
    Ok(answer)
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
        unique: false,
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
