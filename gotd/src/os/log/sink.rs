//! Where bytes of the log go. A write never waits for the reader.
//!
//! Standard error is often shared with others: a terminal with its shell, a pipe with the rest of a
//! script. So it is not made non-blocking where there is another way: a pipe or a terminal is
//! opened once more, for this process alone, and a socket is sent to with a flag.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::Mode;

/// Bytes that a terminal or pipe which says that it has room takes without waiting.
const TERMINAL_ROOM: usize = 256;

/// Something that takes lines.
#[derive(Debug)]
pub(super) enum Sink {
    /// Nothing that can be written to: everything is lost.
    Nowhere,
    /// A file, or what does not block by itself.
    File(File),
    /// A device or pipe whose descriptor is shared and must stay as it is: asked for room before
    /// each write.
    Device(File),
    /// The journal's socket, or that of another manager.
    Socket(OwnedFd),
    /// syslog(3)'s: one record a line.
    Syslog(UnixDatagram),
}

impl Sink {
    /// Standard error, whatever it is.
    pub(super) fn stderr() -> Sink {
        let stderr = io::stderr();
        let Ok(fd) = stderr.as_fd().try_clone_to_owned() else { return Sink::Nowhere };
        let kind = libsandbox::fstat(fd.as_fd()).map_or(0, |stat| stat.st_mode & libc::S_IFMT);
        match kind {
            libc::S_IFSOCK => Sink::Socket(fd),
            libc::S_IFIFO => {
                if let Some(own) = once_more() {
                    return Sink::File(own);
                }
                // A pipe of the user that this process ran as before: only its writers share the
                // flag that is set here.
                let flags = fcntl(&fd, FcntlArg::F_GETFL).map_or(OFlag::empty(), OFlag::from_bits_retain);
                match fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)) {
                    Ok(_) => Sink::File(fd.into()),
                    Err(_) => Sink::Nowhere,
                }
            }
            libc::S_IFCHR => match once_more() {
                Some(own) => Sink::File(own),
                None => Sink::Device(fd.into()),
            },
            _ => Sink::File(fd.into()),
        }
    }

    /// Standard error as it is, without opening anything: for a process in its sandbox, which would
    /// be ended for trying.
    pub(super) fn shared_stderr() -> Sink {
        let stderr = io::stderr();
        let Ok(fd) = stderr.as_fd().try_clone_to_owned() else { return Sink::Nowhere };
        let kind = libsandbox::fstat(fd.as_fd()).map_or(0, |stat| stat.st_mode & libc::S_IFMT);
        if kind == libc::S_IFSOCK { Sink::Socket(fd) } else { Sink::Device(fd.into()) }
    }

    /// syslog's socket, if somebody listens there.
    pub(super) fn syslog() -> Option<Sink> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect("/dev/log").ok()?;
        socket.set_nonblocking(true).ok()?;
        Some(Sink::Syslog(socket))
    }

    /// Whether lines get syslog's form.
    pub(super) fn is_syslog(&self) -> bool {
        matches!(self, Sink::Syslog(_))
    }

    /// What to poll for room.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::Nowhere => None,
            Sink::File(file) | Sink::Device(file) => Some(file.as_fd()),
            Sink::Socket(fd) => Some(fd.as_fd()),
            Sink::Syslog(socket) => Some(socket.as_fd()),
        }
    }

    /// Writes as much as fits at once; `WouldBlock` if nothing does.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wrote = match self {
            Sink::Nowhere => Err(io::ErrorKind::BrokenPipe.into()),
            Sink::File(file) => file.write(bytes),
            Sink::Device(file) => {
                if !has_room(file.as_fd(), 0) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                file.write(&bytes[..bytes.len().min(TERMINAL_ROOM)])
            }
            Sink::Socket(fd) => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(std::os::fd::AsRawFd::as_raw_fd(fd), bytes, flags).map_err(io::Error::from)
            }
            Sink::Syslog(socket) => socket.send(bytes),
        };
        match wrote {
            // As BSDs say that the receiver's queue is full.
            Err(e) if e.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                Err(io::ErrorKind::WouldBlock.into())
            }
            wrote => wrote,
        }
    }
}

/// Opens what standard error is once more: with flags of its own, which nobody shares.
fn once_more() -> Option<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let opened = if cfg!(target_os = "linux") {
        open("/proc/self/fd/2", flags, Mode::empty()).ok()?
    } else {
        return None;
    };
    Some(opened.into())
}

/// Waits until there is room, at most this many milliseconds.
pub(super) fn has_room(fd: BorrowedFd<'_>, milliseconds: u8) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLOUT)];
    matches!(poll(&mut fds, PollTimeout::from(milliseconds)), Ok(1..))
}
