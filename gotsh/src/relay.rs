//! Pipes between a standard input and output that are no pipes and the session, which takes nothing else.
//!
//! sshd with a terminal, an inetd, or a test may start us on sockets or files. Both directions are copied in
//! one poll loop, each with one buffer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libsandbox::fstat;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::SFlag;

use crate::Session;

/// Bytes that each direction may hold.
const BUFFER: usize = 64 * 1024;
/// How long output that is still in the pipe is waited for after the session has ended, in milliseconds.
const FLUSH_MS: u16 = 60_000;

/// The pipes of a relay.
pub struct Relay {
    our_input: OwnedFd,
    our_output: OwnedFd,
    to_session: OwnedFd,
    from_session: OwnedFd,
    session_input: OwnedFd,
    session_output: OwnedFd,
}

/// `None`: both descriptors are pipes in the right direction and can be handed over as they are.
pub fn prepare(input: BorrowedFd<'_>, output: BorrowedFd<'_>) -> nix::Result<Option<Relay>> {
    if fits(input, OFlag::O_RDONLY) && fits(output, OFlag::O_WRONLY) && !same(input, output) {
        return Ok(None);
    }
    let (session_input, to_session) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (from_session, session_output) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let our_input = input.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    let our_output = output.try_clone_to_owned().map_err(|_| Errno::EMFILE)?;
    // The pipe's own descriptions are ours alone, so this changes nobody else's descriptors.
    for fd in [&to_session, &from_session] {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok(Some(Relay { our_input, our_output, to_session, from_session, session_input, session_output }))
}

fn fits(fd: BorrowedFd<'_>, mode: OFlag) -> bool {
    let pipe =
        fstat(fd).is_ok_and(|s| SFlag::from_bits_truncate(s.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO);
    pipe && fcntl(fd, FcntlArg::F_GETFL)
        .is_ok_and(|f| OFlag::from_bits_truncate(f) & OFlag::O_ACCMODE == mode)
}

fn same(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    matches!((fstat(a), fstat(b)), (Ok(a), Ok(b)) if a.st_dev == b.st_dev && a.st_ino == b.st_ino)
}

/// One direction: what was read and not yet written.
struct Direction {
    from: Option<OwnedFd>,
    to: Option<OwnedFd>,
    bytes: Vec<u8>,
}

impl Direction {
    fn new(from: OwnedFd, to: OwnedFd) -> Direction {
        Direction { from: Some(from), to: Some(to), bytes: Vec::new() }
    }

    /// What to poll for: reading when the buffer is empty, else writing.
    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match (&self.from, &self.to) {
            (_, Some(to)) if !self.bytes.is_empty() => Some((to.as_fd(), PollFlags::POLLOUT)),
            (Some(from), Some(_)) => Some((from.as_fd(), PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// One read or one write; closes both ends at the end of the input, and when nobody takes the output.
    fn step(&mut self) {
        let (Some(from), Some(to)) = (&self.from, &self.to) else { return };
        if self.bytes.is_empty() {
            let mut buffer = vec![0; BUFFER];
            match nix::unistd::read(from, &mut buffer) {
                Ok(0) => self.close(),
                Ok(n) => {
                    buffer.truncate(n);
                    self.bytes = buffer;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => self.close(),
            }
            return;
        }
        match nix::unistd::write(to, &self.bytes) {
            Ok(n) => {
                self.bytes.drain(..n);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.close(),
        }
    }

    fn close(&mut self) {
        self.from = None;
        self.to = None;
        self.bytes.clear();
    }
}

impl Relay {
    /// The ends that the session gets: its input and its output.
    pub fn theirs(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.session_input.as_fd(), self.session_output.as_fd())
    }

    /// Copies in both directions until the session has told its status and its output has been passed on.
    pub fn run(self, session: &Session) -> Result<u8, String> {
        // The session has its own copies; ours would keep its pipes open for ever.
        drop((self.session_input, self.session_output));
        let mut up = Direction::new(self.our_input, self.to_session);
        let mut down = Direction::new(self.from_session, self.our_output);
        let mut status: Option<Result<u8, String>> = None;
        loop {
            if let (Some(status), None) = (&status, down.interest()) {
                return status.clone();
            }
            let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
            let listening = status.is_none();
            if listening {
                fds.push(PollFd::new(session.as_fd(), PollFlags::POLLIN));
            }
            let up_at = up.interest().filter(|_| listening).map(|(fd, events)| {
                fds.push(PollFd::new(fd, events));
                fds.len() - 1
            });
            let down_at = down.interest().map(|(fd, events)| {
                fds.push(PollFd::new(fd, events));
                fds.len() - 1
            });
            let timeout = if listening { PollTimeout::NONE } else { PollTimeout::from(FLUSH_MS) };
            match poll(&mut fds, timeout) {
                Ok(0) => return status.unwrap_or(Ok(1)),
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(format!("poll: {e}")),
            }
            let ready = |at: Option<usize>| {
                at.and_then(|at| fds.get(at)).and_then(PollFd::revents).is_some_and(|r| !r.is_empty())
            };
            let (told, up_ready, down_ready) = (listening && ready(Some(0)), ready(up_at), ready(down_at));
            drop(fds);
            if told {
                match crate::hear(session) {
                    Ok(Some(end)) => status = Some(Ok(end)),
                    Ok(None) => {}
                    Err(text) => status = Some(Err(text)),
                }
            }
            if up_ready {
                up.step();
            }
            if down_ready {
                down.step();
            }
        }
    }
}
