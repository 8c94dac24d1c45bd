//! A stage: everything a process asks to be held to, as plain data.

use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use crate::Promises;

/// What may be done below a path: the letters of unveil(2), and `s`, `f`, `d`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Access(u8);

impl Access {
    /// Nothing: the path is named only to hide it.
    pub const NONE: Access = Access(0);
    /// `r`: read files and directories.
    pub const READ: Access = Access(1);
    /// `w`: write existing files.
    pub const WRITE: Access = Access(2);
    /// `c`: create, rename, link and remove files and directories.
    pub const CREATE: Access = Access(4);
    /// `x`: execute (and, as the loader needs it, read).
    pub const EXECUTE: Access = Access(8);
    /// `s`: make unix sockets and remove names; with unveil(2) this is `c`.
    pub const SOCKET: Access = Access(16);
    /// `f`: create, rename, link and remove files, but no directories; with unveil(2) this is `c`.
    pub const FILES: Access = Access(32);
    /// `d`: remove empty directories; with unveil(2) this is `c`.
    pub const REMOVE_DIRECTORY: Access = Access(64);
    /// `rwc`.
    pub const READ_WRITE_CREATE: Access = Access::READ.and(Access::WRITE).and(Access::CREATE);

    /// Both of these.
    #[must_use]
    pub const fn and(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    /// Does this hold all of the other?
    #[must_use]
    pub const fn has(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (access, letter) in [
            (Access::READ, "r"),
            (Access::WRITE, "w"),
            (Access::CREATE, "c"),
            (Access::EXECUTE, "x"),
            (Access::SOCKET, "s"),
            (Access::FILES, "f"),
            (Access::REMOVE_DIRECTORY, "d"),
        ] {
            if self.has(access) {
                f.write_str(letter)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Access({self})")
    }
}

/// A place in the file system that stays visible, and how.
#[derive(Clone, Copy, Debug)]
pub struct Visible<'a> {
    /// The name of a file, or of a directory for everything below it.
    pub name: &'a Path,
    /// The same place as an open descriptor (`O_PATH` will do), if it was reached by one. Linux
    /// puts its rule there and does not look at the name, which another process may have changed
    /// meanwhile; unveil(2) knows only names.
    pub open: Option<BorrowedFd<'a>>,
    /// The access that is permitted there.
    pub access: Access,
}

impl<'a> Visible<'a> {
    /// A place by its name. It must exist when the stage is entered.
    #[must_use]
    pub const fn named(name: &'a Path, access: Access) -> Visible<'a> {
        Visible { name, open: None, access }
    }

    /// A place by an open descriptor; the name is for unveil(2) and for error texts.
    #[must_use]
    pub const fn opened(open: BorrowedFd<'a>, name: &'a Path, access: Access) -> Visible<'a> {
        Visible { name, open: Some(open), access }
    }
}

/// Resource limits, soft and hard at once. `None` leaves a limit as it is, and none is ever raised.
/// Core dumps are always off, and a stage that promises neither processes nor threads can start
/// none. A stage that executes no program has at most 8 MiB of stack. On Linux `data` also bounds
/// the address space, but for stages that may map a large pack.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct ResourceLimits {
    /// Highest descriptor number plus one (`RLIMIT_NOFILE`).
    pub nofile: Option<u64>,
    /// Largest file that can be written, in bytes (`RLIMIT_FSIZE`).
    pub fsize: Option<u64>,
    /// Private writable memory, in bytes (`RLIMIT_DATA`).
    pub data: Option<u64>,
    /// Stack of the main thread, in bytes (`RLIMIT_STACK`).
    pub stack: Option<u64>,
}

impl ResourceLimits {
    /// Leaves every limit as it is.
    pub const UNCHANGED: ResourceLimits =
        ResourceLimits { nofile: None, fsize: None, data: None, stack: None };
}

/// What happens on a kernel that cannot enforce a stage.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Enforcement {
    /// Refuse to go on.
    #[default]
    Required,
    /// Enforce as much as the kernel can, and report the rest.
    BestEffort,
}

/// One stage of a process's life. Entering a stage only ever takes rights away.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// What the process will do from now on.
    pub promises: Promises,
    /// The visible part of the file system: `None` changes nothing, `Some(&[])` is nothing at all.
    pub paths: Option<&'a [Visible<'a>]>,
    /// Resource limits.
    pub limits: ResourceLimits,
    /// May the stage be weaker on an old kernel?
    pub enforcement: Enforcement,
}

/// How much of the requested restrictions Landlock enforces.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Coverage {
    /// All of it.
    Full,
    /// The kernel is too old for some of the request: the warnings name the missing parts.
    Partial,
    /// None (no Landlock, or another system).
    #[default]
    None,
}

/// The restrictions that are really in force.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Report {
    /// The kernel's version of Landlock, 0 where there is none.
    pub landlock_abi: u32,
    /// How much of the stage Landlock enforces.
    pub landlock: Coverage,
    /// Is the system-call filter (on OpenBSD, the pledge) in force?
    pub seccomp: bool,
    /// Length of the filter, in instructions.
    pub instructions: usize,
    /// One line for the log for each thing that is weaker than asked.
    pub warnings: Vec<String>,
}

/// Why a stage was not entered. The process must not go on.
#[derive(Debug)]
pub enum Error {
    /// More than one thread runs, and Landlock restricts only one.
    Threads,
    /// The kernel lacks what enforcement requires.
    Kernel(String),
    /// A visible path could not be opened or made a rule.
    Path(PathBuf, io::Error),
    /// A resource limit could not be set.
    Limit(&'static str, u64, io::Error),
    /// A system call of the sandbox itself failed.
    Call(&'static str, io::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Threads => write!(f, "sandbox: threads are running already"),
            Error::Kernel(what) => write!(f, "sandbox: {what}"),
            Error::Path(path, e) => write!(f, "sandbox: {}: {e}", path.display()),
            Error::Limit(name, value, e) => write!(f, "sandbox: {name} {value}: {e}"),
            Error::Call(name, e) => write!(f, "sandbox: {name}: {e}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Threads | Error::Kernel(_) => None,
            Error::Path(_, e) | Error::Limit(_, _, e) | Error::Call(_, e) => Some(e),
        }
    }
}
