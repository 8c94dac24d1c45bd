//! What the parent does for its children: queues for those that must not be lost, their standard error,
//! signals, and their end.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libproto::channel::{self, Channel, Message};
use libproto::states::Role;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::os::log::{Level, Log};

/// Frames for a process that is slower than we are. The parent never waits for it; there are at most as many
/// frames as sessions.
#[derive(Debug, Default)]
pub struct Outbox {
    frames: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
}

impl Outbox {
    /// Nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Sends a message about a session, behind those that wait.
    pub fn send<S: Message, R: Message>(&mut self, channel: &Channel<S, R>, peer: u64, message: &S) {
        if let Ok(frame) = channel::encode(0, peer, message) {
            self.frames.push_back((frame, Vec::new()));
            self.flush(channel);
        }
    }

    /// The same for a message that carries descriptors.
    pub fn send_fds<S: Message, R: Message>(
        &mut self,
        channel: &Channel<S, R>,
        peer: u64,
        message: &S,
        fds: Vec<OwnedFd>,
    ) {
        if let Ok(frame) = channel::encode(0, peer, message) {
            self.frames.push_back((frame, fds));
            self.flush(channel);
        }
    }

    /// Sends what the other end takes.
    pub fn flush<S, R>(&mut self, channel: &Channel<S, R>) {
        while let Some((frame, fds)) = self.frames.front() {
            let sent = match fds.as_slice() {
                [] => channel::send_record(channel.as_fd(), frame, false),
                fds => {
                    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
                    channel::send_record_with_fds(channel.as_fd(), frame, &fds)
                }
            };
            match sent {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock || is_crowded(&e) => return,
                // A broken link is noticed where it is read.
                Ok(()) | Err(_) => self.frames.pop_front(),
            };
        }
    }
}

/// More descriptors are on their way between processes than the system lets one user have there.
fn is_crowded(e: &io::Error) -> bool {
    e.raw_os_error() == Some(nix::errno::Errno::ETOOMANYREFS as i32)
}

/// Bytes that one process may put into the log through its standard error.
const COMPLAINT_BYTES: usize = 16 * 1024;
/// Lines that it may put there: each is longer in the log than it was.
const COMPLAINT_LINES: usize = 100;

struct Voice {
    role: Role,
    fd: OwnedFd,
    rest: Vec<u8>,
    left: usize,
    lines: usize,
    dropped: usize,
}

/// The standard errors of all children: drained, bounded, escaped.
#[derive(Default)]
pub struct Complaints {
    voices: HashMap<Pid, Voice>,
}

impl Complaints {
    /// Listens to a process. Its own descriptor stays with the child's record; this is a copy.
    pub fn watch(&mut self, pid: Pid, role: Role, stderr: &OwnedFd) {
        if let Ok(fd) = stderr.try_clone() {
            let (left, lines) = (COMPLAINT_BYTES, COMPLAINT_LINES);
            self.voices.insert(pid, Voice { role, fd, rest: Vec::new(), left, lines, dropped: 0 });
        }
    }

    /// Descriptors to poll.
    pub fn iter(&self) -> impl Iterator<Item = (Pid, BorrowedFd<'_>)> {
        self.voices.iter().map(|(pid, voice)| (*pid, voice.fd.as_fd()))
    }

    /// Reads what a process wrote.
    pub fn read(&mut self, pid: Pid, log: &mut Log) {
        let Some(voice) = self.voices.get_mut(&pid) else { return };
        let mut buffer = [0; 4096];
        match nix::unistd::read(&voice.fd, &mut buffer) {
            Ok(0) => {
                voice.say(pid, log, true);
                self.voices.remove(&pid);
            }
            Ok(n) => voice.hear(&buffer[..n], pid, log),
            Err(_) => {}
        }
    }

    /// The process was reaped: what is left in its pipe, then no more.
    pub fn end(&mut self, pid: Pid, log: &mut Log) {
        for _ in 0..32 {
            if !self.voices.contains_key(&pid) {
                return;
            }
            let before = self.voices.get(&pid).map(|v| v.left + v.rest.len());
            self.read(pid, log);
            if before == self.voices.get(&pid).map(|v| v.left + v.rest.len()) {
                break;
            }
        }
        if let Some(mut voice) = self.voices.remove(&pid) {
            voice.say(pid, log, true);
        }
    }
}

impl Voice {
    fn hear(&mut self, bytes: &[u8], pid: Pid, log: &mut Log) {
        let taken = bytes.len().min(self.left);
        self.left -= taken;
        self.dropped += bytes.len() - taken;
        self.rest.extend_from_slice(&bytes[..taken]);
        self.say(pid, log, false);
    }

    /// Logs whole lines; with `all` the rest too.
    fn say(&mut self, pid: Pid, log: &mut Log, all: bool) {
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&line[..end], pid, log);
        }
        if all {
            let rest = std::mem::take(&mut self.rest);
            self.line(&rest, pid, log);
            if self.dropped > 0 {
                log.line(
                    Level::Warning,
                    self.role.name(),
                    &[("pid", &pid), ("dropped-bytes", &std::mem::take(&mut self.dropped))],
                );
            }
        }
    }

    fn line(&mut self, line: &[u8], pid: Pid, log: &mut Log) {
        if self.lines == 0 {
            self.dropped += line.len();
        } else if !line.is_empty() {
            self.lines -= 1;
            log.line(
                Level::Warning,
                self.role.name(),
                &[("pid", &pid), ("says", &String::from_utf8_lossy(line))],
            );
        }
    }
}

/// The signals that the parent handles, through a pipe.
pub fn catch_signals() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for (signal, byte) in HANDLED {
        let pipe = theirs.try_clone()?;
        pipe.set_nonblocking(true)?;
        // signal-hook writes one byte 'X' whatever the signal; one flag per signal tells them apart.
        signal_hook::flag::register(*signal as i32, FLAGS[usize::from(*byte)].clone())?;
        signal_hook::low_level::pipe::register(*signal as i32, pipe)?;
    }
    Ok(ours)
}

const HANDLED: &[(Signal, u8)] =
    &[(Signal::SIGCHLD, 0), (Signal::SIGTERM, 1), (Signal::SIGINT, 2), (Signal::SIGHUP, 3)];

static FLAGS: std::sync::LazyLock<[std::sync::Arc<std::sync::atomic::AtomicBool>; 4]> =
    std::sync::LazyLock::new(Default::default);

/// The signals that came since the last call.
pub fn drain_signals(pipe: &mut UnixStream) -> Vec<Signal> {
    let mut buffer = [0; 256];
    while pipe.read(&mut buffer).is_ok_and(|n| n == buffer.len()) {}
    HANDLED
        .iter()
        .filter(|(_, at)| FLAGS[usize::from(*at)].swap(false, std::sync::atomic::Ordering::AcqRel))
        .map(|(signal, _)| *signal)
        .collect()
}

/// Waits until no child is left, at most `bound`; then kills `last`, which was asked to end by itself.
pub fn wait_for_all(bound: Duration, last: Pid) {
    let end = Instant::now() + bound;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => continue,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        if Instant::now() >= end {
            let _ = kill(last, Signal::SIGKILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use libproto::message::parent::{ListenToParent, ParentToListen, Pool};

    use super::*;

    /// A process that does not read loses nothing: a descriptor waits behind the messages before it.
    #[test]
    fn a_descriptor_waits_for_room() {
        let (ours, theirs) = crate::os::spawn::pair().expect("a pair");
        let ours: Channel<ParentToListen, ListenToParent> = ours.into();
        let theirs: Channel<ListenToParent, ParentToListen> = theirs.into();
        let mut outbox = Outbox::default();
        let mut before = 0;
        while outbox.is_empty() {
            outbox.send(&ours, before, &ParentToListen::Over(()));
            before += 1;
        }
        let (socket, _other) = crate::os::spawn::pair().expect("a pair");
        outbox.send_fds(&ours, before, &ParentToListen::Listener(Pool::Tcp), vec![socket]);
        for number in 0..before {
            let received = theirs.recv_with_fds().expect("a message");
            assert_eq!((received.peer, received.message), (number, ParentToListen::Over(())));
            outbox.flush(&ours);
        }
        let received = theirs.recv_with_fds().expect("a message");
        assert_eq!((received.peer, received.fds.len()), (before, 1));
        assert!(outbox.is_empty());
    }

    /// A process that was taken over writes one byte a line, each of which is a long line of the log.
    #[test]
    fn lines_of_standard_error_are_counted_and_not_only_their_bytes() {
        let (_read, write) = nix::unistd::pipe().expect("a pipe");
        let mut voice =
            Voice { role: Role::Session, fd: write, rest: Vec::new(), left: 16_000, lines: 3, dropped: 0 };
        voice.hear(&b"xy\n".repeat(100), Pid::from_raw(1), &mut Log::stderr(false));
        assert_eq!((voice.lines, voice.dropped), (0, 97 * 2));
    }
}
