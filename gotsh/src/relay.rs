//! Between our standard input and output and the two pipes that the daemon gave us.
//!
//! One loop copies in both directions. Where one side is able to, the kernel moves the bytes by
//! splice(2). Otherwise they are read and written: with terminals, files opened for appending, and
//! output sockets, because a splice into a socket can block. No descriptor of ours leaves this
//! process.

use std::io::{Stdout, stdin, stdout};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use libsandbox::fstat;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::SFlag;

use crate::Session;
use crate::error::Error;

/// Most bytes that one splice may move. Pipes hold less.
const MUCH: usize = 1 << 20;
/// Bytes that are read at once where they are copied.
const BUFFER: usize = 64 * 1024;
/// Bytes that may be written to something that blocks once it has said that it has room
/// (`PIPE_BUF`).
const SURE: usize = 4096;
/// Fewer bytes than this are little: behind them poll(2) is asked what comes next.
const LITTLE: usize = 16 * 1024;
/// How long a direction rests whose output was full and then took little, in milliseconds.
const REST_MS: u8 = 1;
/// Rounds of one direction before the other one has its turn.
const ROUNDS: usize = 16;
/// How large the pipe to sshd is made that has much to carry, in bytes: as large as the daemon
/// makes its own.
#[cfg(target_os = "linux")]
const WIDE: i32 = 256 << 10;
/// So many bytes are much.
const WORTH_WIDENING: usize = 32 << 10;
/// How long nothing of the output may be taken after the session has ended.
const FLUSH: Duration = Duration::from_secs(60);

/// What became of an attempt to move bytes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Some were moved.
    Moved(usize),
    /// There is nothing to move.
    Empty,
    /// There is no room for bytes.
    Full,
    /// The input has ended and all of it was moved.
    Ended,
    /// Nobody takes the output any more.
    Refused,
}

/// The event to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    Input,
    Room,
}

/// How bytes are written where the kernel does not move them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sink {
    /// It never blocks: one of our pipes, or a file.
    Ready,
    /// A socket, which can be told not to block.
    Socket,
    /// It blocks when it is full.
    Blocking,
}

/// One of our pipes, or standard input or output, which stays open.
type End = Box<dyn AsFd>;

/// One direction.
struct Direction {
    from: End,
    to: End,
    sink: Sink,
    splice: bool,
    /// A splice from it can block even with SPLICE_F_NONBLOCK: TCP looks at the mode of the socket,
    /// which other processes share.
    blocks: bool,
    /// What was read and not yet written, where the bytes are copied.
    bytes: Vec<u8>,
    waits: Waits,
    /// The output was full and then took little: a client that reads packet by packet frees a page
    /// at a time. Filling each at once would wake us, the session and the client for every page, so
    /// the next attempt comes a little later, while it still has much to read.
    rests: bool,
    /// Rounds in a row in which poll(2) promised what splice(2) did not keep.
    fruitless: u32,
    moved: usize,
}

impl Direction {
    fn new(from: End, to: End) -> Direction {
        let (source, target) = (kind(from.as_fd()), kind(to.as_fd()));
        let sink = sink(to.as_fd(), target);
        let terminal = [source, target].contains(&Some(SFlag::S_IFCHR));
        let splice = cfg!(target_os = "linux") && sink != Sink::Socket && !terminal;
        Direction {
            from,
            to,
            sink,
            splice,
            blocks: source == Some(SFlag::S_IFSOCK),
            bytes: Vec::new(),
            waits: Waits::Input,
            rests: false,
            fruitless: 0,
            moved: 0,
        }
    }

    /// What to poll for.
    fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match self.waits {
            Waits::Input => (self.from.as_fd(), PollFlags::POLLIN),
            Waits::Room => (self.to.as_fd(), PollFlags::POLLOUT),
        }
    }

    /// Moves bytes until there are none or there is no room, a bounded number of times.
    fn turn(&mut self) -> Step {
        let was_full = self.splice && self.waits == Waits::Room;
        let before = self.moved;
        let last = self.rounds();
        let moved = self.moved.saturating_sub(before);
        self.rests = was_full && (1..LITTLE).contains(&moved) && matches!(last, Step::Moved(_) | Step::Full);
        if self.rests {
            self.waits = Waits::Room;
        }
        last
    }

    fn rounds(&mut self) -> Step {
        let mut last = Step::Empty;
        for round in 0..ROUNDS {
            last = self.step();
            match last {
                Step::Moved(n) => {
                    self.moved = self.moved.saturating_add(n);
                    self.fruitless = 0;
                    self.waits = if self.bytes.is_empty() { Waits::Input } else { Waits::Room };
                    if self.splice && n < LITTLE {
                        break;
                    }
                    continue;
                }
                Step::Empty => self.waits = Waits::Input,
                Step::Full => self.waits = Waits::Room,
                Step::Ended | Step::Refused => return last,
            }
            if round == 0 {
                self.fruitless = self.fruitless.saturating_add(1);
                self.splice &= self.fruitless < 8;
            }
            break;
        }
        last
    }

    /// Moves bytes once.
    fn step(&mut self) -> Step {
        if self.blocks && self.bytes.is_empty() && !ready(self.from.as_fd(), PollFlags::POLLIN) {
            return Step::Empty;
        }
        if self.splice && self.bytes.is_empty() {
            match splice(self.from.as_fd(), self.to.as_fd()) {
                Ok(0) => return Step::Ended,
                Ok(n) => return Step::Moved(n),
                Err(Errno::EAGAIN) if ready(self.from.as_fd(), PollFlags::POLLIN) => return Step::Full,
                Err(Errno::EAGAIN) => return Step::Empty,
                Err(Errno::EINTR) => return Step::Moved(0),
                Err(Errno::EINVAL | Errno::ENOSYS) => self.splice = false,
                Err(_) => return Step::Refused,
            }
        }
        if self.bytes.is_empty() { self.read() } else { self.write() }
    }

    fn read(&mut self) -> Step {
        // Standard input may block, and poll(2) may have looked at the other side.
        if !ready(self.from.as_fd(), PollFlags::POLLIN) {
            return Step::Empty;
        }
        let mut buffer = vec![0; BUFFER];
        match nix::unistd::read(self.from.as_fd(), &mut buffer) {
            Ok(0) => Step::Ended,
            Ok(n) => {
                buffer.truncate(n);
                self.bytes = buffer;
                self.write()
            }
            Err(Errno::EAGAIN) => Step::Empty,
            Err(Errno::EINTR) => Step::Moved(0),
            // A connection that was reset, a terminal that is gone: nothing more comes.
            Err(_) => Step::Ended,
        }
    }

    fn write(&mut self) -> Step {
        let written = match self.sink {
            Sink::Ready => nix::unistd::write(self.to.as_fd(), &self.bytes),
            Sink::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(self.to.as_fd().as_raw_fd(), &self.bytes, flags)
            }
            Sink::Blocking if !ready(self.to.as_fd(), PollFlags::POLLOUT) => return Step::Full,
            Sink::Blocking => nix::unistd::write(self.to.as_fd(), &self.bytes[..self.bytes.len().min(SURE)]),
        };
        match written {
            Ok(n) => {
                self.bytes.drain(..n);
                Step::Moved(n)
            }
            Err(Errno::EAGAIN) => Step::Full,
            Err(Errno::EINTR) => Step::Moved(0),
            Err(_) => Step::Refused,
        }
    }
}

#[cfg(target_os = "linux")]
fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> nix::Result<usize> {
    use nix::fcntl::SpliceFFlags;
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    nix::fcntl::splice(from, None, to, None, MUCH, flags)
}

#[cfg(not(target_os = "linux"))]
fn splice(_: BorrowedFd<'_>, _: BorrowedFd<'_>) -> nix::Result<usize> {
    let _ = MUCH;
    Err(Errno::ENOSYS)
}

/// What a descriptor is.
fn kind(fd: BorrowedFd<'_>) -> Option<SFlag> {
    fstat(fd).ok().map(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT)
}

/// How bytes are written to an output of this kind.
fn sink(to: BorrowedFd<'_>, kind: Option<SFlag>) -> Sink {
    let blocks = || {
        let flags = fcntl(to, FcntlArg::F_GETFL).map(OFlag::from_bits_truncate);
        !flags.is_ok_and(|flags| flags.contains(OFlag::O_NONBLOCK))
    };
    match kind {
        Some(SFlag::S_IFSOCK) => Sink::Socket,
        Some(SFlag::S_IFREG) => Sink::Ready,
        _ if !blocks() => Sink::Ready,
        _ => Sink::Blocking,
    }
}

/// Whether something is so now, or will never be.
fn ready(fd: BorrowedFd<'_>, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(fd, events)], PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

/// Makes a pipe hold more, where it is one and its owner's quota has room.
fn widen(fd: BorrowedFd<'_>) {
    #[cfg(target_os = "linux")]
    let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(WIDE));
    #[cfg(not(target_os = "linux"))]
    let _ = fd;
}

/// The two directions, and what the session has told.
struct Relay {
    up: Option<Direction>,
    down: Option<Direction>,
    /// Our own standard output; poll(2) tells whether it still has a reader.
    stdout: Stdout,
    wide: bool,
    status: Option<Result<u8, Error>>,
}

/// What poll(2) has found.
#[derive(Default)]
struct Polled {
    session: bool,
    up: bool,
    down: bool,
    /// Nobody reads standard output any more.
    gone: bool,
}

/// Copies in both directions until the session has told its status and its output has been passed
/// on, or was not taken for too long. The end of standard input closes the pipe to the daemon and
/// nothing else; when nobody reads standard output any more, both are closed.
pub fn run(session: &Session, to: OwnedFd, from: OwnedFd) -> Result<u8, Error> {
    // The descriptions of our ends are ours alone: this changes nobody else's.
    for fd in [&to, &from] {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|e| Error::System("pipe", e))?;
    }
    let mut relay = Relay {
        stdout: stdout(),
        up: Some(Direction::new(Box::new(stdin()), Box::new(to))),
        down: Some(Direction::new(Box::new(from), Box::new(stdout()))),
        wide: false,
        status: None,
    };
    loop {
        if let Some(end) = relay.turn(session)? {
            return end;
        }
    }
}

impl Relay {
    /// One turn of the loop; returns the result at the end.
    fn turn(&mut self, session: &Session) -> Result<Option<Result<u8, Error>>, Error> {
        let found = self.wait(session)?;
        let Some(found) = found else { return Ok(self.status.take()) };
        if found.gone {
            (self.up, self.down) = (None, None);
        }
        if found.session {
            self.status = crate::receive(session).transpose();
        }
        if self.status.is_some() {
            // The session has said its status: nobody reads what the client still sends.
            self.up = None;
        }
        if found.up
            && let Some(up) = &mut self.up
            && matches!(up.turn(), Step::Ended | Step::Refused)
        {
            self.up = None;
        }
        // What the session has written last may have come with its status.
        if found.down || self.status.is_some() {
            self.pass_down();
        }
        let drained =
            self.down.as_ref().is_none_or(|down| down.waits == Waits::Input && down.bytes.is_empty());
        Ok(if drained { self.status.take() } else { None })
    }

    /// Passes the daemon's output on.
    fn pass_down(&mut self) {
        let Some(down) = &mut self.down else { return };
        let step = loop {
            let step = down.turn();
            if !self.wide && down.moved >= WORTH_WIDENING {
                self.wide = true;
                widen(down.to.as_fd());
            }
            // After the status there is nobody else to listen to.
            if self.status.is_none() || down.rests || !matches!(step, Step::Moved(_)) {
                break step;
            }
        };
        match step {
            Step::Ended => self.down = None,
            Step::Refused => (self.up, self.down) = (None, None),
            Step::Moved(_) | Step::Empty | Step::Full => {}
        }
    }

    /// Waits for something to do; `None`: after the session's end nothing was taken for too long.
    fn wait(&self, session: &Session) -> Result<Option<Polled>, Error> {
        let listening = self.status.is_none();
        let mut fds = Vec::with_capacity(4);
        let mut watch = |fd, events| {
            fds.push(PollFd::new(fd, events));
            fds.len() - 1
        };
        let told = listening.then(|| watch(session.as_fd(), PollFlags::POLLIN));
        let rests = |direction: &Option<Direction>| direction.as_ref().is_some_and(|d| d.rests);
        let (up_rests, down_rests) = (rests(&self.up), rests(&self.down));
        let up = self.up.as_ref().filter(|up| !up.rests).map(Direction::interest);
        let up = up.map(|(fd, events)| watch(fd, events));
        let down = self.down.as_ref().filter(|down| !down.rests).map(Direction::interest);
        let down = down.map(|(fd, events)| watch(fd, events));
        // No events: that its reader is gone is told all the same.
        let stdout = self.down.as_ref().map(|_| watch(self.stdout.as_fd(), PollFlags::empty()));
        let timeout = if up_rests || down_rests {
            PollTimeout::from(REST_MS)
        } else if listening {
            PollTimeout::NONE
        } else {
            PollTimeout::try_from(FLUSH).unwrap_or(PollTimeout::MAX)
        };
        match poll(&mut fds, timeout) {
            Ok(0) if !up_rests && !down_rests => return Ok(None),
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Some(Polled::default())),
            Err(e) => return Err(Error::System("poll", e)),
        }
        let is_ready = |at: Option<usize>| {
            at.and_then(|at| fds.get(at)).and_then(PollFd::revents).is_some_and(|events| !events.is_empty())
        };
        Ok(Some(Polled {
            session: is_ready(told),
            // A direction that has rested tries again.
            up: up_rests || is_ready(up),
            down: down_rests || is_ready(down),
            gone: is_ready(stdout),
        }))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// A client that reads packet by packet made gotsh, session and client wake for every page of a
    /// listing: 50,000 references cost a sixth more than without us.
    #[test]
    fn an_output_that_takes_little_is_left_alone_for_a_while() {
        let pipe = || nix::unistd::pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        let ((from, input), (output, to)) = (pipe(), pipe());
        let fill = || while nix::unistd::write(&input, &[1; 4096]).is_ok() {};
        let take = |bytes: usize| nix::unistd::read(&output, &mut vec![0; bytes]).expect("bytes");
        let mut down = Direction::new(Box::new(from), Box::new(to));
        fill();
        while down.turn() != Step::Full {
            fill();
        }
        assert_eq!((down.waits, down.rests), (Waits::Room, false));
        assert_eq!(take(4096), 4096);
        assert_eq!(down.turn(), Step::Moved(4096));
        assert_eq!((down.waits, down.rests), (Waits::Room, true));
        // Nothing was taken meanwhile: it waits for room, and no more for the time.
        assert_eq!(down.turn(), Step::Full);
        assert_eq!((down.waits, down.rests), (Waits::Room, false));
        // Much was taken: there is nothing to be spared.
        assert_eq!(take(2 * LITTLE), 2 * LITTLE);
        assert_eq!(down.turn(), Step::Full);
        assert!(!down.rests && down.waits == Waits::Room);
    }
}
