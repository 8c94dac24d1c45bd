//! The client's two pipes, or its one TCP connection, as a session or repository process uses them.
//!
//! The open file description is shared with the client, who can switch `O_NONBLOCK` on it at any time: every
//! read and write handles both, and the watchdog handles a pipe that was filled after poll said it had room.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{system, watchdog};

/// How large a pipe is made that has much to carry, in bytes. In one of the usual size, 64 kB, the two sides wait for each other
/// more often than copying takes.
const PIPE: usize = 256 << 10;
/// Whoever writes so many bytes at once has much to send.
const MUCH: usize = 32 << 10;

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

    /// The descriptor, to be handed on to a process that reads on from here.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl io::Read for Input {
    /// Reads what is there, at least one byte; 0: the client has closed its end. Never reads more than the
    /// buffer holds: what follows may be for another process.
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

    /// The descriptor, to be handed to a process that writes an answer of its own.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether [`Output::send_file`] is worth using: it is not with a pipe that cannot hold a few packets.
    pub fn takes_files(&mut self) -> bool {
        self.tcp || self.widen()
    }

    /// Makes a pipe larger, once; whether it could be.
    fn widen(&mut self) -> bool {
        let fd = self.fd.as_fd();
        *self.wide.get_or_insert_with(|| system::widen_pipe(fd, PIPE).is_ok_and(|size| size >= PIPE))
    }

    /// Sends up to `len` bytes of a file from `offset` on without reading them; 0: the file ends there. An error of the kind
    /// `Unsupported` says that the system cannot, and nothing was sent.
    pub fn send_file(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        self.attempt(|fd| system::send_file(fd, file, offset, len)).map_err(|e| match e.raw_os_error() {
            Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
            _ => e,
        })
    }

    /// Writes what more follows at once, so that a connection need not carry it alone.
    pub fn write_ahead(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.tcp {
            return self.write_all(bytes);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let n = self.attempt(|fd| system::send_more(fd, rest))?;
            rest = rest.get(n..).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until something could be sent.
    fn attempt(&mut self, mut send: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>) -> io::Result<usize> {
        loop {
            match send(self.fd.as_fd()) {
                Ok(n) => {
                    self.sent = self.sent.saturating_add(u64::try_from(n).unwrap_or(0));
                    watchdog::moved(n);
                    return Ok(n);
                }
                Err(Errno::EAGAIN) => wait_for(self.fd.as_fd(), PollFlags::POLLOUT)?,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
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

/// Why a pair of descriptors cannot be a client's input and output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// One of them is no pipe.
    NotAPipe,
    /// The input cannot be read, or the output cannot be written, or one of them allows both.
    WrongDirection,
    /// Both are the same pipe.
    SamePipe,
    /// It is no TCP connection.
    NotTcp,
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Unfit::NotAPipe => "standard input and output must be pipes",
            Unfit::WrongDirection => "standard input must be read-only and standard output write-only",
            Unfit::SamePipe => "standard input and output are the same pipe",
            Unfit::NotTcp => "not a TCP connection",
        })
    }
}

/// Checks that this is a TCP connection, before anything else is done with it. No file system is asked: what is no
/// socket is told apart by the kernel before it looks further.
pub fn check_tcp(fd: BorrowedFd<'_>) -> Result<(), Unfit> {
    let tcp = system::is_tcp(fd).map_err(|_| Unfit::NotTcp)?;
    if tcp { Ok(()) } else { Err(Unfit::NotTcp) }
}

/// Checks the descriptors of an input, an output, or both, before anything else is done with them.
pub fn check(input: Option<BorrowedFd<'_>>, output: Option<BorrowedFd<'_>>) -> Result<(), Unfit> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    for (fd, wanted) in [(input, OFlag::O_RDONLY), (output, OFlag::O_WRONLY)] {
        let Some(fd) = fd else { continue };
        // First, because nothing else may be asked of a file that could hang the asker.
        system::pipe_size(fd).map_err(|_| Unfit::NotAPipe)?;
        let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|_| Unfit::WrongDirection)?;
        if OFlag::from_bits_truncate(flags) & OFlag::O_ACCMODE != wanted {
            return Err(Unfit::WrongDirection);
        }
    }
    match (input, output) {
        (Some(a), Some(b)) if system::same_file(a, b).map_err(|_| Unfit::NotAPipe)? => Err(Unfit::SamePipe),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::pipe;

    #[test]
    fn two_pipes_in_the_right_direction_are_fit() {
        let ((r, _w), (_r, w)) = (pipe().expect("a pipe"), pipe().expect("a pipe"));
        assert_eq!(check(Some(r.as_fd()), Some(w.as_fd())), Ok(()));
        assert_eq!(check(Some(w.as_fd()), Some(r.as_fd())), Err(Unfit::WrongDirection));
    }

    #[test]
    fn files_sockets_and_one_pipe_twice_are_not() {
        let (r, w) = pipe().expect("a pipe");
        assert_eq!(check(Some(r.as_fd()), Some(w.as_fd())), Err(Unfit::SamePipe));
        let file = tempfile::tempfile().expect("a file");
        assert_eq!(check(Some(file.as_fd()), Some(w.as_fd())), Err(Unfit::NotAPipe));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(check(Some(r.as_fd()), Some(socket.as_fd())), Err(Unfit::NotAPipe));
        let directory = std::fs::File::open("/").expect("opens");
        assert_eq!(check(Some(directory.as_fd()), Some(w.as_fd())), Err(Unfit::NotAPipe));
    }

    #[test]
    fn a_tcp_connection_is_told_from_everything_else() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let tcp = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        assert_eq!(check_tcp(tcp.as_fd()), Ok(()));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
        assert_eq!(check_tcp(udp.as_fd()), Err(Unfit::NotTcp));
        let (unix, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(check_tcp(unix.as_fd()), Err(Unfit::NotTcp));
        let (r, _w) = pipe().expect("a pipe");
        assert_eq!(check_tcp(r.as_fd()), Err(Unfit::NotTcp));
        let directory = std::fs::File::open("/").expect("opens");
        assert_eq!(check_tcp(directory.as_fd()), Err(Unfit::NotTcp));
    }
}
