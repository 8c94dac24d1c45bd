//! Starting processes: `posix_spawn`, always an exec of our own binary, never a bare fork.
//!
//! A child gets an empty environment, /dev/null as 0 and 1, a pipe to the parent as 2, its channel to the
//! parent as 3, and from 4 on exactly the descriptors that its role is given.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use libproto::channel::Channel;
use libproto::states::Role;
use nix::fcntl::{OFlag, open};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};

use crate::system;

/// The descriptor of a child's channel to the parent.
pub const PARENT_FD: RawFd = 3;
/// First descriptor of those that a role is given.
pub const FIRST_FD: RawFd = 4;
/// Below this number no descriptor is kept that is to be placed in a child, so that placing one never
/// overwrites another.
const SAFE_FD: RawFd = 32;

/// Makes a connected pair of `SOCK_SEQPACKET` sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// What is needed to start a process: our own binary, opened once, so that an upgrade on disk never mixes
/// versions.
#[derive(Debug)]
pub struct Starter {
    #[cfg(target_os = "linux")]
    binary: OwnedFd,
    path: CString,
    null: OwnedFd,
    /// What exec(2) does not set back by itself.
    ignored: SigSet,
}

/// A started process, as its parent sees it.
#[derive(Debug)]
pub struct Child<S, R> {
    /// Its process id.
    pub pid: Pid,
    /// Its role.
    pub role: Role,
    /// Our end of the channel.
    pub channel: Channel<S, R>,
    /// The reading end of its standard error, not blocking.
    pub stderr: OwnedFd,
}

impl Starter {
    /// Opens the running binary.
    pub fn new() -> io::Result<Starter> {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let null = system::duplicate_above(null, SAFE_FD)?;
        let ignored = system::ignored_signals();
        #[cfg(target_os = "linux")]
        {
            let binary = open("/proc/self/exe", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            let binary = system::duplicate_above(binary, SAFE_FD)?;
            let path = CString::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))?;
            Ok(Starter { binary, path, null, ignored })
        }
        #[cfg(not(target_os = "linux"))]
        {
            use std::os::unix::ffi::OsStrExt;
            let path = CString::new(std::env::current_exe()?.as_os_str().as_bytes())?;
            Ok(Starter { path, null, ignored })
        }
    }

    /// The opened binary, for the parent's own file system rules.
    #[cfg(target_os = "linux")]
    pub fn binary(&self) -> BorrowedFd<'_> {
        self.binary.as_fd()
    }

    /// An open /dev/null.
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Starts the daemon itself, for a caller that goes away. Returns a pipe that holds one byte once it listens,
    /// and its standard error until then.
    pub fn start_daemon(&self, arguments: &[String]) -> io::Result<(OwnedFd, OwnedFd)> {
        let (status, status_child) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_child) = pipe2(OFlag::O_CLOEXEC)?;
        let mut argv = vec![CString::new("gotd")?];
        for argument in arguments {
            argv.push(CString::new(argument.as_str())?);
        }
        self.exec(&argv, &[stderr_child.as_fd(), status_child.as_fd()])?;
        Ok((status, stderr))
    }

    /// Starts `gotd -T role arguments…` with the given descriptors from 4 on.
    pub fn start<S, R>(
        &self,
        role: Role,
        arguments: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Child<S, R>> {
        let (ours, theirs) = pair()?;
        let (stderr, stderr_child) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let mut argv = vec![CString::new("gotd")?, CString::new("-T")?, CString::new(role.name())?];
        for argument in arguments {
            argv.push(CString::new(*argument)?);
        }
        let mut placed = vec![stderr_child.as_fd(), theirs.as_fd()];
        placed.extend(fds);
        let pid = self.exec(&argv, &placed)?;
        Ok(Child { pid, role, channel: ours.into(), stderr })
    }

    /// Executes our binary with /dev/null as 0 and 1 and the given descriptors from 2 on.
    fn exec(&self, argv: &[CString], fds: &[BorrowedFd<'_>]) -> io::Result<Pid> {
        let mut actions = PosixSpawnFileActions::init()?;
        let mut placed = Vec::with_capacity(fds.len());
        actions.add_dup2(self.null.as_raw_fd(), 0)?;
        actions.add_dup2(self.null.as_raw_fd(), 1)?;
        for (fd, number) in fds.iter().zip(2..) {
            let safe = system::duplicate_above(fd, SAFE_FD)?;
            actions.add_dup2(safe.as_raw_fd(), number)?;
            placed.push(safe);
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes
            .set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
        attributes.set_sigdefault(&self.ignored)?;
        attributes.set_sigmask(&SigSet::empty())?;
        let environment: [CString; 0] = [];
        Ok(posix_spawn(self.path.as_c_str(), &actions, &attributes, argv, &environment)?)
    }
}
