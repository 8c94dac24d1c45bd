//! The kernel's knowledge of mounts, and ways to open a file without crossing into one.
//!
//! The owner of a directory can mount a file system in user space on it, or on a file in it. Its
//! server may never answer, and then a process that asks it something hangs beyond SIGKILL. So in a
//! place that others may change no mount point is crossed, down to the last file ([`Look`]).
//!
//! A mount point is recognised without asking the mounted file system: `O_PATH` opens its root,
//! which the kernel knows, and statx(2) with `AT_STATX_DONT_SYNC` tells the id of its mount. The
//! look-up of a name does ask the file system that contains the name. That is the repository's own,
//! which the walk has reached already.
//!
//! Where nobody else can have mounted anything, a name is asked about by opening it: a process that
//! works on a repository there has given up every call that looks at a name in another way.
//!
//! openat2(2) with `RESOLVE_NO_XDEV` would do it in one call. Its flags lie behind a pointer, where
//! a system call filter cannot see them: a process that may only read could open files for writing
//! with it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::dir::EntryType;

/// Flags to look at a directory without asking its file system.
#[cfg(target_os = "linux")]
pub(crate) const DIRECTORY: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
#[cfg(not(target_os = "linux"))]
pub(crate) const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// Flags to look at any entry of a directory without asking its file system.
#[cfg(target_os = "linux")]
pub(crate) const ENTRY: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
#[cfg(not(target_os = "linux"))]
pub(crate) const ENTRY: OFlag = OFlag::O_NOFOLLOW.union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);
/// A file that must be new.
const NEW: OFlag = OFlag::O_CREAT.union(OFlag::O_EXCL);

/// How entries of a directory are opened: without restriction, or without asking a file system that
/// others may have mounted there, since it may never answer.
#[derive(Clone, Copy, Debug, Default)]
pub struct Look {
    /// Only what lies on this one.
    mount: Option<Mount>,
}

impl Look {
    /// Mount points are crossed: nobody but root and the repositories' owner can have made them.
    pub const ANYWHERE: Look = Look { mount: None };

    /// Only what lies on this mount, if there is one.
    pub(crate) fn only(mount: Option<Mount>) -> Look {
        Look { mount }
    }

    /// Whether it crosses mount points.
    pub fn is_anywhere(self) -> bool {
        self.mount.is_none()
    }

    /// Opens one component of a directory, as openat(2) does. A link is not followed.
    ///
    /// # Errors
    /// `EXDEV`: something is mounted there.
    pub fn open(
        self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        flags: OFlag,
        mode: Mode,
    ) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        if self.mount.is_none() {
            // Whatever is there may be opened, and a process that works on a repository can do
            // nothing but open.
            #[cfg(target_os = "linux")]
            let flags = flags & !OFlag::O_PATH;
            return openat(directory, name, flags, mode);
        }
        // A new file cannot be a mount point, and a directory's own descriptor is not behind one.
        if flags.contains(NEW) || name == b"." {
            return openat(directory, name, flags, mode);
        }
        self.open_here(directory, name, flags)
    }

    /// Opens an existing entry, but only if nothing is mounted on it. The entry is opened through
    /// the descriptor by which it was checked, so that nothing can be mounted between check and
    /// open.
    #[cfg(target_os = "linux")]
    fn open_here(self, directory: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        use std::os::fd::AsRawFd as _;

        let (found, facts) = self.entry(directory, name, ENTRY | (flags & OFlag::O_DIRECTORY))?;
        if flags.contains(OFlag::O_PATH) {
            return Ok(found);
        }
        match EntryType::of_mode(facts.mode) {
            EntryType::Dir => openat(&found, ".", flags, Mode::empty()),
            EntryType::Symlink => Err(Errno::ELOOP),
            EntryType::File | EntryType::Other => {
                let by_descriptor = format!("/proc/self/fd/{}", found.as_raw_fd());
                match nix::fcntl::open(&*by_descriptor, flags & !OFlag::O_NOFOLLOW, Mode::empty()) {
                    // Without /proc there is only the name: a mount made between check and open
                    // goes unnoticed.
                    Err(Errno::ENOENT) => openat(directory, name, flags, Mode::empty()),
                    done => done,
                }
            }
        }
    }

    /// Where only root mounts anything, nothing hangs.
    #[cfg(not(target_os = "linux"))]
    fn open_here(self, directory: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        Ok(self.entry(directory, name, flags)?.0)
    }

    /// What one component of a directory is, as fstatat(2) tells it of what is no link to be
    /// followed.
    ///
    /// # Errors
    /// `EXDEV`: something is mounted there.
    pub fn stat(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<FileStat, Errno> {
        match self.mount {
            None if cfg!(target_os = "linux") => stat_by_opening(directory, name),
            None => fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW),
            Some(_) if cfg!(target_os = "linux") => fstat(self.entry(directory, name, ENTRY)?.0),
            Some(mount) => {
                let stat = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
                if stat.st_dev as u64 == mount.device { Ok(stat) } else { Err(Errno::EXDEV) }
            }
        }
    }

    /// The target of a link.
    ///
    /// # Errors
    /// It is none. `EACCES`: this process can do nothing with names but open them.
    pub fn read_link(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let target = match self.mount {
            Some(_) if cfg!(target_os = "linux") => {
                readlinkat(self.entry(directory, name, ENTRY)?.0, &b""[..])
            }
            _ => readlinkat(directory, name),
        };
        Ok(target?.as_bytes().to_vec())
    }

    /// What one component of a directory is. Nobody is asked but the kernel.
    ///
    /// # Errors
    /// `EXDEV`: something is mounted there.
    pub(crate) fn kind(self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<EntryType, Errno> {
        if self.mount.is_none() {
            return Ok(EntryType::of_stat(&self.stat(directory, name)?));
        }
        Ok(EntryType::of_mode(self.entry(directory, name, ENTRY)?.1.mode))
    }

    /// What this path is in a directory, which is the one that this is about. Links are not
    /// followed.
    ///
    /// # Errors
    /// `ENOENT`: nothing. `EXDEV`: it lies behind a mount point.
    pub fn at(self, directory: &OwnedFd, path: &str) -> Result<EntryType, Errno> {
        Ok(EntryType::of_mode(self.facts_of(directory, path)?.mode))
    }

    /// Who may do what in the directory that has this path in another one. As for [`at`](Self::at),
    /// nobody is asked but the kernel, and what is told is of what was looked at, whatever has its
    /// name by then.
    ///
    /// # Errors
    /// As for `at`. `ENOTDIR`: it is no directory.
    pub fn directory(self, directory: &OwnedFd, path: &str) -> Result<Permissions, Errno> {
        let facts = self.facts_of(directory, path)?;
        match EntryType::of_mode(facts.mode) {
            EntryType::Dir => Ok(facts.permissions()),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn facts_of(self, directory: &OwnedFd, path: &str) -> Result<Facts, Errno> {
        let mut above: Option<OwnedFd> = None;
        let mut names = path.split('/').peekable();
        while let Some(name) = names.next() {
            let flags = if names.peek().is_some() { DIRECTORY } else { ENTRY };
            let at = above.as_ref().unwrap_or(directory).as_fd();
            let (found, facts) = self.entry(at, name.as_bytes(), flags)?;
            if names.peek().is_none() {
                return Ok(facts);
            }
            above = Some(found);
        }
        Err(Errno::ENOENT)
    }

    /// Opens an entry and looks where it lies. With [`ENTRY`] nobody is asked but the kernel.
    fn entry(self, directory: BorrowedFd<'_>, name: &[u8], flags: OFlag) -> Result<(OwnedFd, Facts), Errno> {
        let found = openat(directory, name, flags, Mode::empty())?;
        let facts = facts(found.as_fd())?;
        match self.mount {
            Some(mount) if !facts.mounted().is(mount) => Err(Errno::EXDEV),
            _ => Ok((found, facts)),
        }
    }
}

/// What a name is, by opening it: a process that works on a repository can do nothing else with it.
/// Of a link or a socket, which cannot be opened, nothing is told but its type.
fn stat_by_opening(directory: BorrowedFd<'_>, name: &[u8]) -> Result<FileStat, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match openat(directory, name, flags, Mode::empty()) {
        Ok(file) => fstat(file),
        Err(Errno::ELOOP) => Ok(only_type(SFlag::S_IFLNK)),
        Err(Errno::ENXIO) => Ok(only_type(SFlag::S_IFSOCK)),
        Err(errno) => Err(errno),
    }
}

fn only_type(kind: SFlag) -> FileStat {
    // SAFETY: plain numbers, for which zeros are good.
    let mut stat: FileStat = unsafe { std::mem::zeroed() };
    stat.st_mode = kind.bits();
    stat
}

/// The identity of a mount: its id or, where the kernel does not tell that, the device. With the
/// device a bind mount of the same file system goes unnoticed; the path is still known as it was
/// walked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mount {
    id: Option<u64>,
    device: u64,
}

impl Mount {
    pub(crate) fn is(self, other: Mount) -> bool {
        match (self.id, other.id) {
            (Some(one), Some(other)) => one == other,
            _ => self.device == other.device,
        }
    }
}

/// Owner, group and mode of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its permissions, without its type.
    pub mode: u32,
}

/// What the kernel knows of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
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

impl Facts {
    /// Who may do what there.
    pub(crate) fn permissions(&self) -> Permissions {
        Permissions { uid: self.uid, gid: self.gid, mode: self.mode & 0o7777 }
    }

    /// Which mount it was reached through.
    pub(crate) fn mounted(&self) -> Mount {
        Mount { id: self.mount, device: self.device }
    }
}

/// Looks at a directory by its descriptor. Nobody is asked but the kernel itself: the server of a
/// file system in user space, or a network's, may never answer.
#[cfg(target_os = "linux")]
pub(crate) fn facts(directory: BorrowedFd<'_>) -> Result<Facts, Errno> {
    use nix::libc;
    use std::os::fd::AsRawFd as _;

    let mut buffer = std::mem::MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | libc::AT_STATX_DONT_SYNC;
    let wanted = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID | STATX_MNT_ID_UNIQUE;
    // SAFETY: the descriptor is open, the path is an empty string with its end, and the buffer is
    // one `struct statx`, which the call fills in.
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
        gid: found.stx_gid,
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

/// The same by fstat(2), where there is nothing else.
#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
pub(crate) fn facts(directory: BorrowedFd<'_>) -> Result<Facts, Errno> {
    let found = fstat(directory)?;
    Ok(Facts {
        uid: found.st_uid,
        gid: found.st_gid,
        mode: found.st_mode as u32,
        device: found.st_dev as u64,
        inode: found.st_ino as u64,
        born: 0,
        mount: None,
        unique: false,
    })
}

/// For statx(2), since Linux 6.8: an older kernel does not look at this bit.
#[cfg(target_os = "linux")]
const STATX_MNT_ID_UNIQUE: nix::libc::c_uint = 0x4000;

/// The user who has mounted a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MountedBy {
    /// Only root can have.
    Root,
    /// Its server in user space belongs, or may belong, to another user than root.
    User,
    /// The kernel does not say, and the file system may be one in user space.
    NotKnown,
}

/// Finds which user has mounted the file system on which a directory lies. Only the kernel is
/// asked, by statmount(2): statfs(2) would ask the server of a file system in user space.
#[cfg(target_os = "linux")]
pub(crate) fn mounted_by(facts: &Facts) -> MountedBy {
    // A file system in user space has no device, but for one that only root can have mounted.
    let unknown = if nix::libc::major(facts.device) == 0 { MountedBy::NotKnown } else { MountedBy::Root };
    let Some(mount) = facts.mount.filter(|_| facts.unique) else { return unknown };
    match statmount(mount, SB_BASIC) {
        Ok(basic) if basic.has(SB_BASIC) && basic.number(24) != FUSE_SUPER_MAGIC => MountedBy::Root,
        Ok(basic) if basic.has(SB_BASIC) => match statmount(mount, FS_TYPE | MNT_OPTS) {
            Ok(fuse) if fuse.is_roots() => MountedBy::Root,
            // Or the kernel does not say which user has mounted it (Linux before 6.11).
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

/// An answer of statmount(2): a header of 512 bytes with numbers and the places of texts, which
/// follow it.
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

    /// Whether a file system of the family of FUSE was mounted by root. That of a virtual machine's
    /// host has no user.
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
fn statmount(mount: u64, wanted: u64) -> Result<Statmount, Errno> {
    use nix::libc;

    /// The same on every architecture.
    const SYS_STATMOUNT: libc::c_long = 457;
    // `struct mnt_id_req`: its size and nothing, the mount, what is wanted.
    let size_first = [24u32.to_ne_bytes(), 0u32.to_ne_bytes()].concat();
    let request = [size_first, mount.to_ne_bytes().to_vec(), wanted.to_ne_bytes().to_vec()].concat();
    let mut answer = Statmount(Box::new([0; Statmount::SIZE]));
    let (room, no_flags): (libc::size_t, libc::c_uint) = (Statmount::SIZE, 0);
    // SAFETY: the request has the 24 bytes that it says, and the kernel writes as many bytes into
    // the buffer as it is told that there is room for. It copies both, so that they need no
    // alignment.
    let done =
        unsafe { libc::syscall(SYS_STATMOUNT, request.as_ptr(), answer.0.as_mut_ptr(), room, no_flags) };
    Errno::result(done)?;
    Ok(answer)
}
