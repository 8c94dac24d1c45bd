//! The client's two pipes, or its one TCP connection, as a session or repository process uses them.
//!
//! The pipes are our own: nobody else can switch our ends to another mode. But the client can make
//! a pipe smaller or larger from its end, leave it full, and keep its ends for ever: the watchdog
//! ends a process that waits too long for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::{system, watchdog};

/// Size in bytes of a pipe that has much to carry. With the usual 64 kB the two sides wait for each
/// other longer than they copy.
const PIPE: usize = 256 << 10;
/// Size in bytes of other pipes. Larger pipes count against the limit on pipe memory of the
/// daemon's user.
const NARROW: usize = 64 << 10;
/// A single write of this many bytes shows that there is much to send.
const MUCH: usize = 32 << 10;

/// Whether `fd` is ready for `events`, or never will be, before these milliseconds have passed.
pub fn ready_within(fd: BorrowedFd<'_>, events: PollFlags, milliseconds: u16) -> bool {
    !matches!(poll(&mut [PollFd::new(fd, events)], PollTimeout::from(milliseconds)), Ok(0))
}

/// Waits until `fd` is ready for `events`, or until it never will be.
pub fn wait_for(fd: BorrowedFd<'_>, events: PollFlags) -> io::Result<()> {
    let mut fds = [PollFd::new(fd, events)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// The reading end of the client's input.
#[derive(Debug)]
pub struct Input {
    fd: OwnedFd,
    /// Bytes read so far.
    pub received: u64,
}

impl Input {
    /// Takes the descriptor over.
    pub fn new(fd: OwnedFd) -> Input {
        Input { fd, received: 0 }
    }

    /// The descriptor, for poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits until there is something to read, or the client has closed its end.
    pub fn await_bytes(&self) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl io::Read for Input {
    /// Reads the available bytes, at least one; 0: the client has closed its end. Never reads more
    /// than the buffer holds: the following bytes may be for another process.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.fd, buffer) {
                Ok(n) => {
                    self.received = self.received.saturating_add(u64::try_from(n).unwrap_or(0));
                    watchdog::moved(n);
                    return Ok(n);
                }
                Err(Errno::EAGAIN) => wait_for(self.fd.as_fd(), PollFlags::POLLIN)?,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The writing end of the client's output.
#[derive(Debug)]
pub struct Output {
    fd: OwnedFd,
    tcp: bool,
    /// Whether a pipe holds [`PIPE`] bytes, once that was worth a try.
    wide: Option<bool>,
    /// Bytes written so far.
    pub sent: u64,
}

impl Output {
    /// Takes the descriptor over.
    pub fn new(fd: OwnedFd) -> Output {
        let tcp = system::is_tcp(fd.as_fd()).unwrap_or(false);
        Output { fd, tcp, wide: None, sent: 0 }
    }

    /// The descriptor, for poll(2).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Makes sure that nothing here waits in the kernel, so that the `_now` functions can tell that
    /// they would.
    pub fn never_wait(&self) {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        if let Ok(flags) = fcntl(&self.fd, FcntlArg::F_GETFL) {
            let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
            let _ = fcntl(&self.fd, FcntlArg::F_SETFL(flags));
        }
    }

    /// Whether [`Output::send_file_now`] is worth using: it is not with a pipe that cannot hold a
    /// few packets.
    pub fn takes_files(&mut self) -> bool {
        self.tcp || self.widen()
    }

    /// Much may be about to come, again.
    pub fn begin(&mut self) {
        self.wide = None;
    }

    /// Makes a pipe that carried much as small as it was; `false`: there is too much in it still.
    pub fn narrow(&mut self) -> bool {
        self.wide = None;
        self.tcp || !matches!(system::resize_pipe(self.fd.as_fd(), NARROW), Err(Errno::EBUSY))
    }

    /// Makes a pipe larger, once; whether it could be.
    fn widen(&mut self) -> bool {
        let fd = self.fd.as_fd();
        *self.wide.get_or_insert_with(|| system::widen_pipe(fd, PIPE).is_ok_and(|size| size >= PIPE))
    }

    /// Sends up to `len` bytes of a file from `offset` on without reading them; 0: the file ends
    /// there. An error of the kind `Unsupported` says that the system cannot, and nothing was sent.
    /// As [`Output::write_now`] otherwise.
    pub fn send_file_now(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        self.try_once(|fd| system::send_file(fd, file, offset, len)).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
            _ => e,
        })
    }

    /// Writes as many bytes as fit. More output follows them immediately (`MSG_MORE`), so TCP need
    /// not send them as a packet of their own.
    pub fn write_ahead_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tcp { self.try_once(|fd| system::send_more(fd, bytes)) } else { self.write_now(bytes) }
    }

    /// Writes what fits; an error of the kind `WouldBlock` says that nothing does.
    pub fn write_now(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() >= MUCH && !self.tcp {
            self.widen();
        }
        self.try_once(|fd| nix::unistd::write(fd, bytes))
    }

    /// Sends what can be sent without waiting.
    fn try_once(&mut self, mut send: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>) -> io::Result<usize> {
        loop {
            match send(self.fd.as_fd()) {
                Ok(n) => {
                    self.sent = self.sent.saturating_add(u64::try_from(n).unwrap_or(0));
                    watchdog::moved(n);
                    return Ok(n);
                }
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Waits until something could be sent.
    fn attempt(&mut self, mut send: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>) -> io::Result<usize> {
        loop {
            match self.try_once(&mut send) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(self.fd.as_fd(), PollFlags::POLLOUT)?;
                }
                done => return done,
            }
        }
    }
}

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() >= MUCH && !self.tcp {
            self.widen();
        }
        self.attempt(|fd| nix::unistd::write(fd, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether this is a TCP connection; checked before anything else is done with it. No file system
/// is asked: the kernel refuses the call for anything but a socket.
pub fn is_tcp(fd: BorrowedFd<'_>) -> bool {
    system::is_tcp(fd).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::pipe;

    #[test]
    fn a_tcp_connection_is_told_from_everything_else() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let tcp = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        assert!(is_tcp(tcp.as_fd()));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        assert!(!is_tcp(udp.as_fd()));
        let (unix, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert!(!is_tcp(unix.as_fd()));
        let (r, _w) = pipe().expect("a pipe");
        assert!(!is_tcp(r.as_fd()));
        let directory = std::fs::File::open("/").expect("opens");
        assert!(!is_tcp(directory.as_fd()));
    }
}
