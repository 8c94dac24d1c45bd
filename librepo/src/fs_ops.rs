//! Every change to a repository, as one operation each: create, write, synchronise, rename, link,
//! remove.
//!
//! All paths are relative to the repository's directory and are walked component by component
//! without following symbolic links. An observer sees the operations in their order. With it the
//! tests replay every state that a power cut could leave.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::config::Shared;
use crate::descent::Descent;
use crate::dir::Dir;
use crate::error::{Error, Result};
use crate::in_order;
use crate::mounts::{self, Look};

/// One change that was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// A new, empty file.
    Create(Vec<u8>),
    /// Bytes appended to a file.
    Append(Vec<u8>, Vec<u8>),
    /// A file cut to so many bytes.
    Cut(Vec<u8>, u64),
    /// A file that another process filled through a descriptor: its name only.
    Filled(Vec<u8>),
    /// A file's content is on the disk.
    SyncFile(Vec<u8>),
    /// A directory's entries are on the disk.
    SyncDir(Vec<u8>),
    /// A new directory.
    MakeDir(Vec<u8>),
    /// An empty directory was removed.
    RemoveDir(Vec<u8>),
    /// A file got a second name: from, to.
    Link(Vec<u8>, Vec<u8>),
    /// A file moved over whatever was there: from, to.
    Rename(Vec<u8>, Vec<u8>),
    /// A name was removed.
    Remove(Vec<u8>),
}

/// The repository's directory, for changing it.
pub struct Fs {
    root: OwnedFd,
    look: Look,
    shared: Shared,
    observer: Option<Observer>,
}

/// Is told every change right after it was made.
pub type Observer = Box<dyn Fn(&Op)>;

/// Device and inode: which file a name means.
pub type Identity = (u64, u64);

impl Fs {
    /// Changes what is beneath `root`, a directory's descriptor; new files get modes as `shared`
    /// says.
    pub fn new(root: OwnedFd, shared: Shared) -> Fs {
        Fs { root, look: Look::ANYWHERE, shared, observer: None }
    }

    /// Changes only what `look` lets see. Names are made, renamed and removed in directories that
    /// were opened by it; the kernel does none of that with a mount point.
    #[must_use]
    pub fn within(self, look: Look) -> Fs {
        Fs { look, ..self }
    }

    /// Tells `observer` every change right after it was made.
    pub fn observed(self, observer: Observer) -> Fs {
        Fs { observer: Some(observer), ..self }
    }

    /// The directory that all paths are relative to.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Tells the observer of a change that was made through a descriptor.
    pub fn note(&self, op: &Op) {
        if let Some(observer) = &self.observer {
            observer(op);
        }
    }

    /// Opens the directory that holds `path`, and gives the last component.
    fn parent<'p>(&self, path: &'p [u8]) -> std::result::Result<(Option<OwnedFd>, &'p [u8]), Errno> {
        if !path.split(|&byte| byte == b'/').all(|part| !matches!(part, b"" | b"." | b"..")) {
            return Err(Errno::EINVAL);
        }
        let mut parent: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some(slash) = rest.iter().position(|&byte| byte == b'/') {
            parent =
                Some(self.look.open(self.at(&parent), &rest[..slash], mounts::DIRECTORY, Mode::empty())?);
            rest = &rest[slash + 1..];
        }
        Ok((parent, rest))
    }

    fn at<'s>(&'s self, parent: &'s Option<OwnedFd>) -> BorrowedFd<'s> {
        parent.as_ref().map_or(self.root.as_fd(), AsFd::as_fd)
    }

    /// Creates a file that must not exist, open for reading and writing.
    pub fn create(&self, path: &[u8], mode: u32) -> Result<File> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || {
            let (parent, name) = self.parent(path)?;
            self.look.open(self.at(&parent), name, flags, Mode::from_bits_truncate(mode))
        };
        let file = File::from(open().map_err(|errno| failed(path, errno))?);
        self.share(&file, false).map_err(|errno| failed(path, errno))?;
        self.note(&Op::Create(path.to_vec()));
        Ok(file)
    }

    /// Appends to a file that [`Fs::create`] gave.
    pub fn append(&self, file: &File, path: &[u8], bytes: &[u8]) -> Result<()> {
        let mut file = file;
        file.write_all(bytes).map_err(|e| Error::Write(name(path), e))?;
        self.note(&Op::Append(path.to_vec(), bytes.to_vec()));
        Ok(())
    }

    /// Gives a file that [`Fs::create`] gave, and that is written, a time of change that is in another
    /// second than that of the file `before`, and later.
    pub(crate) fn make_younger(&self, file: &File, path: &[u8], before: &[u8]) -> Result<()> {
        let Some(before) = self.stat(before)? else { return Ok(()) };
        let own = fstat(file).map_err(|errno| failed(path, errno))?;
        if own.st_mtime > before.st_mtime {
            return Ok(());
        }
        let seconds = u64::try_from(before.st_mtime).unwrap_or(0).saturating_add(1);
        let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        time.map_or(Ok(()), |time| file.set_modified(time)).map_err(|e| Error::Write(name(path), e))
    }

    /// Cuts a file that is open for writing to this many bytes.
    pub fn cut(&self, file: &File, path: &[u8], length: u64) -> Result<()> {
        file.set_len(length).map_err(|e| Error::Write(name(path), e))?;
        self.note(&Op::Cut(path.to_vec(), length));
        Ok(())
    }

    /// Puts a file's content on the disk.
    pub fn sync_file(&self, file: &File, path: &[u8]) -> Result<()> {
        file.sync_all().map_err(|e| Error::Write(name(path), e))?;
        self.note(&Op::SyncFile(path.to_vec()));
        Ok(())
    }

    /// Puts a directory's entries on the disk; the empty path is the repository's own directory.
    pub fn sync_dir(&self, path: &[u8]) -> Result<()> {
        let sync = || {
            let dir = self.open_dir_raw(path)?;
            nix::unistd::fsync(&dir)
        };
        sync().map_err(|errno| failed(path, errno))?;
        self.note(&Op::SyncDir(path.to_vec()));
        Ok(())
    }

    /// Puts the entries of many directories on the disk. Those that are there no more have gone
    /// with all that was in them.
    pub fn sync_dirs<'p>(&self, paths: impl Iterator<Item = &'p [u8]>) -> Result<()> {
        let mut descent = self.descent()?;
        for path in paths {
            if path.is_empty() {
                self.sync_dir(path)?;
                continue;
            }
            match descent.dir(path) {
                Ok(Some(dir)) => {
                    nix::unistd::fsync(dir).map_err(|errno| failed(path, errno))?;
                    self.note(&Op::SyncDir(path.to_vec()));
                }
                Ok(None) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// For going through a tree of directories.
    pub(crate) fn descent(&self) -> Result<Descent> {
        Ok(Descent::new(Dir::within(self.open_dir(b"")?, "", self.look)))
    }

    fn open_dir_raw(&self, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
        if path.is_empty() {
            // A descriptor that can be synchronised, even where ours is O_PATH.
            return self.look.open(self.root.as_fd(), b".", DIRECTORY, Mode::empty());
        }
        let (parent, name) = self.parent(path)?;
        self.look.open(self.at(&parent), name, DIRECTORY, Mode::empty())
    }

    /// Opens a directory.
    pub fn open_dir(&self, path: &[u8]) -> Result<OwnedFd> {
        self.open_dir_raw(path).map_err(|errno| failed(path, errno))
    }

    /// Creates a directory; false if there is something of that name.
    pub fn make_dir(&self, path: &[u8]) -> Result<bool> {
        let make = || {
            let (parent, name) = self.parent(path)?;
            mkdirat(self.at(&parent), name, Mode::from_bits_truncate(0o777))
        };
        match make() {
            Ok(()) => {
                if self.shared != Shared::Umask {
                    let dir = self.open_dir(path)?;
                    self.share(&dir, true).map_err(|errno| failed(path, errno))?;
                }
                self.note(&Op::MakeDir(path.to_vec()));
                Ok(true)
            }
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// Creates a directory for this user alone, also in a shared repository; false if there is
    /// something of that name. What is made in it gets the group that it gets in the directory
    /// above: changing a mode could take that away.
    pub fn make_own_dir(&self, path: &[u8]) -> Result<bool> {
        let make = || {
            let (parent, name) = self.parent(path)?;
            mkdirat(self.at(&parent), name, Mode::S_IRWXU)
        };
        match make() {
            Ok(()) => {
                self.note(&Op::MakeDir(path.to_vec()));
                Ok(true)
            }
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// Creates the directories on the way to `path` that are missing, and gives them, outermost
    /// first.
    pub fn make_parents(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let mut made = Vec::new();
        let (mut above, mut start) = (None, 0);
        while let Some(slash) = path[start..].iter().position(|&byte| byte == b'/') {
            let (name, dir) = (&path[start..start + slash], &path[..start + slash]);
            if matches!(name, b"" | b"." | b"..") {
                return Err(failed(path, Errno::EINVAL));
            }
            above = Some(self.enter_or_make(&above, name, dir, &mut made)?);
            start += slash + 1;
        }
        Ok(made)
    }

    /// Opens the directory `name` in `above`, made if it is missing. Its path is `dir`.
    fn enter_or_make(
        &self,
        above: &Option<OwnedFd>,
        name: &[u8],
        dir: &[u8],
        made: &mut Vec<Vec<u8>>,
    ) -> Result<OwnedFd> {
        let open = |flags| self.look.open(self.at(above), name, flags, Mode::empty());
        match open(mounts::DIRECTORY) {
            Err(Errno::ENOENT) => {}
            opened => return opened.map_err(|errno| failed(dir, errno)),
        }
        match mkdirat(self.at(above), name, Mode::from_bits_truncate(0o777)) {
            Ok(()) => {
                let opened = open(DIRECTORY);
                if let Ok(opened) = &opened {
                    self.share(opened, true).map_err(|errno| failed(dir, errno))?;
                }
                self.note(&Op::MakeDir(dir.to_vec()));
                made.push(dir.to_vec());
                opened.map_err(|errno| failed(dir, errno))
            }
            // Somebody else was faster.
            Err(Errno::EEXIST) => open(mounts::DIRECTORY).map_err(|errno| failed(dir, errno)),
            Err(errno) => Err(failed(dir, errno)),
        }
    }

    /// Removes the directories on the way to `path`, innermost first, as far as they are empty. The
    /// outermost `keep` of them stay.
    pub fn remove_empty_parents(&self, path: &[u8], keep: usize) {
        let mut depth = path.iter().filter(|&&byte| byte == b'/').count();
        if depth <= keep {
            return;
        }
        let Ok(mut descent) = self.descent() else { return };
        let (mut path, _) = in_order::split(path);
        while depth > keep && self.remove_dir_in(&mut descent, path).is_ok_and(|removed| removed) {
            (path, depth) = (in_order::split(path).0, depth - 1);
        }
    }

    /// The same as [`Fs::remove_dir`], from the place where a walk has come to.
    pub(crate) fn remove_dir_in(&self, descent: &mut Descent, path: &[u8]) -> Result<bool> {
        let (above, name) = in_order::split(path);
        let Some(above) = descent.dir(above)? else { return Ok(false) };
        self.removed_dir(path, unlinkat(above, name, UnlinkatFlags::RemoveDir))
    }

    /// Removes an empty directory; false if it is not there or not empty.
    pub fn remove_dir(&self, path: &[u8]) -> Result<bool> {
        let remove = || {
            let (parent, name) = self.parent(path)?;
            unlinkat(self.at(&parent), name, UnlinkatFlags::RemoveDir)
        };
        self.removed_dir(path, remove())
    }

    fn removed_dir(&self, path: &[u8], removed: std::result::Result<(), Errno>) -> Result<bool> {
        match removed {
            Ok(()) => {
                self.note(&Op::RemoveDir(path.to_vec()));
                Ok(true)
            }
            Err(Errno::ENOTEMPTY | Errno::EEXIST | Errno::ENOENT | Errno::ENOTDIR | Errno::EBUSY) => {
                Ok(false)
            }
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// Gives a file a second name, which must not exist.
    pub fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let link = || {
            let (old, old_name) = self.parent(from)?;
            let (new, new_name) = self.parent(to)?;
            linkat(self.at(&old), old_name, self.at(&new), new_name, AtFlags::empty())
        };
        link().map_err(|errno| failed(to, errno))?;
        self.note(&Op::Link(from.to_vec(), to.to_vec()));
        Ok(())
    }

    /// Moves a file over whatever file is there.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let rename = || {
            let (old, old_name) = self.parent(from)?;
            let (new, new_name) = self.parent(to)?;
            renameat(self.at(&old), old_name, self.at(&new), new_name)
        };
        rename().map_err(|errno| failed(to, errno))?;
        self.note(&Op::Rename(from.to_vec(), to.to_vec()));
        Ok(())
    }

    /// Removes a name; false if it is not there.
    pub fn remove(&self, path: &[u8]) -> Result<bool> {
        let remove = || {
            let (parent, name) = self.parent(path)?;
            unlinkat(self.at(&parent), name, UnlinkatFlags::NoRemoveDir)
        };
        match remove() {
            Ok(()) => {
                self.note(&Op::Remove(path.to_vec()));
                Ok(true)
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(false),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// What a name means, not following a link at its end; `None` if nothing.
    pub fn stat(&self, path: &[u8]) -> Result<Option<FileStat>> {
        let stat = || {
            let (parent, name) = self.parent(path)?;
            self.look.stat(self.at(&parent), name)
        };
        match stat() {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// The same of a directory; the empty path is the repository's own.
    pub fn stat_dir(&self, path: &[u8]) -> Result<Option<FileStat>> {
        match path {
            b"" => fstat(&self.root).map(Some).map_err(|errno| failed(b".", errno)),
            path => self.stat(path),
        }
    }

    /// Reads a regular file of at most `limit` bytes; `None` if there is none, or a directory in
    /// its place.
    pub fn read(&self, path: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        Ok(self.read_and_keep(path, limit)?.map(|(_, data)| data))
    }

    /// The same, with the open file: while it is kept, no other file can be taken for it, since its
    /// inode is not used again.
    pub(crate) fn read_and_keep(&self, path: &[u8], limit: u64) -> Result<Option<(File, Vec<u8>)>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let open = || {
            let (parent, name) = self.parent(path)?;
            self.look.open(self.at(&parent), name, flags, Mode::empty())
        };
        match open() {
            Ok(fd) => self.read_opened(fd, path, limit),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(errno) => Err(Error::Read(name(path), io_error(errno))),
        }
    }

    /// The content of what was opened at `path`; `None` if it is a directory.
    pub(crate) fn read_opened(
        &self,
        fd: OwnedFd,
        path: &[u8],
        limit: u64,
    ) -> Result<Option<(File, Vec<u8>)>> {
        let file = File::from(fd);
        let stat = fstat(&file).map_err(|errno| Error::Read(name(path), io_error(errno)))?;
        if is(&stat, SFlag::S_IFDIR) {
            return Ok(None);
        }
        if !is(&stat, SFlag::S_IFREG) {
            return Err(Error::Corrupt(name(path), "not a regular file"));
        }
        let mut data = Vec::new();
        let mut most = (&file).take(limit.saturating_add(1));
        most.read_to_end(&mut data).map_err(|e| Error::Read(name(path), e))?;
        if data.len() as u64 > limit {
            return Err(Error::FileTooLarge(name(path), limit));
        }
        Ok(Some((file, data)))
    }

    /// Opens a file that exists for appending; `None` if there is none.
    pub fn open_append(&self, path: &[u8]) -> Result<Option<File>> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let open = || {
            let (parent, name) = self.parent(path)?;
            self.look.open(self.at(&parent), name, flags, Mode::empty())
        };
        match open() {
            Ok(fd) => {
                let file = File::from(fd);
                // It may be from before the repository was shared. Only its owner can change it.
                let _ = self.share(&file, false);
                Ok(Some(file))
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR) => Ok(None),
            Err(errno) => Err(failed(path, errno)),
        }
    }

    /// Names in a directory with whether each is a directory itself, `limit` of them at most; none
    /// if there is no such directory.
    pub fn list(&self, path: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, bool)>> {
        let dir = match self.open_dir_raw(path) {
            Ok(fd) => Dir::within(fd, name(path), self.look),
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(Vec::new()),
            Err(errno) => return Err(Error::Open(name(path), io_error(errno))),
        };
        let entries = dir.entries(limit)?;
        Ok(entries.into_iter().map(|(name, kind)| (name, kind == crate::dir::EntryType::Dir)).collect())
    }

    /// Gives what was created the mode that a shared repository asks for.
    fn share(&self, file: &impl AsFd, dir: bool) -> std::result::Result<(), Errno> {
        let bits = match self.shared {
            Shared::Umask => return Ok(()),
            Shared::Group => 0o660,
            Shared::All => 0o664,
            Shared::Mode(mode) => mode,
        };
        let now = fstat(file)?.st_mode & 0o7777;
        // Sharing gives no right to write where the owner has none: packs stay read-only.
        let bits = if now & 0o200 == 0 && !dir { bits & !0o222 } else { bits };
        let mut mode = match self.shared {
            Shared::Mode(_) => (now & !0o777) | bits,
            _ => now | bits,
        };
        if dir {
            // The right to read a directory includes the right to enter it, and where the group has
            // any right, new files belong to the directory's group.
            mode |= (mode & 0o444) >> 2;
            if mode & 0o060 != 0 {
                mode |= 0o2000;
            }
        }
        // Where its group is none of ours, the kernel would take the set-group-id bit away.
        if mode == now { Ok(()) } else { fchmod(file, Mode::from_bits_truncate(mode)) }
    }
}

const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Whether this is a regular file.
pub fn is_file(stat: &FileStat) -> bool {
    is(stat, SFlag::S_IFREG)
}

/// Whether this is a directory.
pub fn is_dir(stat: &FileStat) -> bool {
    is(stat, SFlag::S_IFDIR)
}

fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

/// Which file this is.
pub fn identity(stat: &FileStat) -> Identity {
    #[allow(clippy::unnecessary_cast, reason = "the types differ between systems")]
    (stat.st_dev as u64, stat.st_ino as u64)
}

fn name(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(path))
}

fn io_error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno as i32)
}

pub(crate) fn failed(path: &[u8], errno: Errno) -> Error {
    Error::Write(name(path), io_error(errno))
}

/// The kind of failure behind an error of this module.
pub(crate) fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::Write(_, e) | Error::Read(_, e) | Error::Open(_, e) => e.raw_os_error().map(Errno::from_raw),
        _ => None,
    }
}
