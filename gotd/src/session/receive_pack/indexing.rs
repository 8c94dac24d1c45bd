//! While `verify` and `repo_write` work: progress for the client, keepalives, and results as they
//! come.

use std::io::Write;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libproto::message::push::{
    CommandResult, PushBegin, SessionToVerify, SessionToWriter, VerifyToSession, WriterToSession,
};
use libproto::pktline::{self, BAND_MAX, Band, KEEPALIVE};
use libproto::refusal::Refusal;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::VerifyLink;
use super::commands::PushRequest;
use super::farewell::{ROOM, timeout};
use super::one_line::one_line;
use super::writer::{self, Writer};
use crate::os::watchdog::{self, Phase};
use crate::session::conversation::Conversation;
use crate::session::packets::TalkError;
use crate::session::pipes::{Input, Output};

/// Silence after which the client is told that work goes on, below the five seconds that git uses.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(4);
/// Shortest time between two lines of one stage.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Longest line of progress in bytes.
const PROGRESS_MAX: usize = 200;
/// Names that cannot be that are told one by one.
const FUNNY_TOLD: usize = 16;

/// The result of a command that `repo_write` was asked for.
pub(super) type Done = Result<(), Refusal>;

/// What became of a push.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Why the pack was refused; `None`: it was not.
    pub unpack: Option<Refusal>,
    /// The result of each command, if it is known.
    pub results: Vec<Option<Done>>,
    /// `repo_write` had all it needs to do it.
    pub begun: bool,
    /// `repo_write` or `verify` failed us.
    pub broken: bool,
    /// The pack has been read to its end.
    pub input_ended: bool,
}

/// Lets the push be done, and waits until it is.
pub(super) fn run(
    talk: &mut Conversation,
    request: &PushRequest,
    writer: &Writer<'_>,
    verify: &VerifyLink,
    begins: &dyn Fn(u32),
) -> Outcome {
    let mut outcome = Outcome { results: Vec::new(), ..Outcome::default() };
    outcome.results.resize_with(request.commands.len(), || None);
    let mut screen = Screen::new(&mut talk.output, request);
    screen.funny(request);
    if let Some(refusal) = &request.broken {
        outcome.fail(refusal.clone());
    } else if let Some(refusal) = &request.refused {
        outcome.unpack = Some(refusal.clone().map_text(one_line));
    } else if request.funny > 0 && request.caps.atomic {
        // `repo_write` never hears of the name, so all or none is decided here.
        outcome.results.fill_with(|| Some(Err(Refusal::Atomic)));
    } else if request.funny < request.commands.len() {
        if request.pack
            && let Err(error) = await_pack(&talk.input)
        {
            screen.close();
            outcome.fail(TalkError::Client(error).failure().refusal);
            return outcome;
        }
        watchdog::phase(Phase::Work);
        begins(u32::try_from(request.commands.len() - request.funny).unwrap_or(u32::MAX));
        let mut work =
            Work { input: &mut talk.input, screen, request, writer, verify, outcome, next: 0, given: false };
        let done = work.run();
        work.verify_said();
        work.screen.close();
        outcome = work.outcome;
        if let Err(error) = done {
            outcome.fail(error.failure().refusal);
        }
    }
    outcome
}

/// Waits for the first byte of the pack, or the end of the input. Until then the client thinks: it
/// counts and compresses, for minutes perhaps. No place is held for it, and its `verify` has opened
/// nothing.
fn await_pack(input: &Input) -> std::io::Result<()> {
    watchdog::phase(Phase::Idle);
    input.await_bytes()
}

impl Outcome {
    /// A process failed us.
    fn fail(&mut self, refusal: Refusal) {
        self.broken = true;
        self.unpack = Some(refusal.map_text(one_line));
    }
}

/// A push under way.
struct Work<'a> {
    input: &'a mut Input,
    screen: Screen<'a>,
    request: &'a PushRequest,
    writer: &'a Writer<'a>,
    verify: &'a VerifyLink,
    outcome: Outcome,
    /// The command whose result comes next.
    next: usize,
    /// `verify` has the client's input.
    given: bool,
}

impl Work<'_> {
    fn run(&mut self) -> Result<(), TalkError> {
        let begin = PushBegin {
            atomic: self.request.caps.atomic,
            pack: self.request.pack,
            options: self.request.options.clone(),
        };
        self.writer.send(&SessionToWriter::Begin(begin))?;
        self.outcome.begun = true;
        // Whether `verify` is still there; what its end means is for `repo_write` to judge.
        let mut listening = true;
        loop {
            let (from_writer, from_verify) = self.wait(listening)?;
            if from_verify {
                listening = self.recv_from_verify();
            }
            if from_writer
                && let Some(message) = self.writer.try_receive()?
                && self.on_writer_message(message)?
            {
                return Ok(());
            }
            self.screen.keepalive();
        }
    }

    /// Waits until one of the two says something, or it is time for a keepalive.
    fn wait(&self, listening: bool) -> Result<(bool, bool), TalkError> {
        let time = self.screen.until_keepalive().map_or(PollTimeout::NONE, timeout);
        let mut fds = [
            PollFd::new(self.writer.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.verify.as_fd(), PollFlags::POLLIN),
        ];
        let most = if listening { fds.len() } else { 1 };
        match poll(&mut fds[..most], time) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok((false, false)),
            Err(e) => return Err(TalkError::Link(format!("poll: {e}"))),
        }
        let is_ready = |at: usize| fds.get(at).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        Ok((is_ready(0), listening && is_ready(1)))
    }

    /// Hears one message of `repo_write`; `true`: the push is over.
    fn on_writer_message(&mut self, message: WriterToSession) -> Result<bool, TalkError> {
        watchdog::worked();
        match message {
            WriterToSession::TakePack(()) if self.request.pack && !self.given => self.send_input()?,
            WriterToSession::Results(results) => self.results(results)?,
            WriterToSession::End(refused) => {
                self.outcome.input_ended |= self.given && refused.is_none();
                self.outcome.unpack = refused.map(|refusal| refusal.map_text(one_line));
                return Ok(true);
            }
            WriterToSession::Refused(refusal) => {
                self.outcome.unpack = Some(refusal.map_text(one_line));
                return Ok(true);
            }
            WriterToSession::Taken(()) => {}
            message => return Err(writer::unexpected(&message)),
        }
        Ok(false)
    }

    /// From here on the client's input is `verify`'s.
    fn send_input(&mut self) -> Result<(), TalkError> {
        self.given = true;
        self.verify.send(0, &SessionToVerify::Input(())).map_err(|e| TalkError::Link(format!("verify: {e}")))
    }

    /// Takes results, which come in the order of the commands that `repo_write` was asked.
    fn results(&mut self, results: Vec<CommandResult>) -> Result<(), TalkError> {
        for result in results {
            while self.request.commands.get(self.next).is_some_and(|asked| asked.funny) {
                self.next += 1;
            }
            let asked = self.request.commands.get(self.next);
            if asked.is_none_or(|asked| *asked.name != *result.name.as_bytes()) {
                return Err(TalkError::Link("repository: result of a command that is not its turn".into()));
            }
            if let Some(slot) = self.outcome.results.get_mut(self.next) {
                *slot = Some(result.refused.map_or(Ok(()), |refusal| Err(refusal.map_text(one_line))));
            }
            self.next += 1;
        }
        Ok(())
    }

    /// Hears one message of `verify`; `false`: it says no more.
    fn recv_from_verify(&mut self) -> bool {
        match self.verify.try_recv() {
            Ok(received) => {
                watchdog::worked();
                match received.message {
                    VerifyToSession::Progress((line, last)) => self.screen.progress(&line, last),
                    VerifyToSession::InputEnd(bytes) => {
                        self.outcome.input_ended = true;
                        self.input.received = self.input.received.saturating_add(bytes);
                    }
                }
                true
            }
            Err(e) => e.is_transient(),
        }
    }

    /// Takes what `verify` said before `repo_write`'s last word, a bounded part of it.
    fn verify_said(&mut self) {
        for _ in 0..1024 {
            let mut fds = [PollFd::new(self.verify.as_fd(), PollFlags::POLLIN)];
            let waiting = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0);
            if !waiting || !self.recv_from_verify() {
                return;
            }
        }
    }
}

/// The client's side band, on which nothing that may be lost is ever waited for.
struct Screen<'a> {
    output: &'a mut Output,
    /// There is a side band, and the client reads it.
    open: bool,
    /// No progress.
    quiet: bool,
    /// When something was last written.
    last: Instant,
    /// When an unfinished line was last written.
    last_progress: Option<Instant>,
    /// The line that has no end yet.
    unfinished: Option<String>,
}

impl<'a> Screen<'a> {
    fn new(output: &'a mut Output, request: &PushRequest) -> Screen<'a> {
        Screen {
            output,
            open: request.caps.side_band,
            quiet: request.caps.quiet,
            last: Instant::now(),
            last_progress: None,
            unfinished: None,
        }
    }

    /// Time left until the next keepalive; `None`: there are none.
    fn until_keepalive(&self) -> Option<Duration> {
        self.open.then(|| KEEPALIVE_AFTER.saturating_sub(self.last.elapsed()))
    }

    fn keepalive(&mut self) {
        if self.open && self.last.elapsed() >= KEEPALIVE_AFTER {
            self.offer(KEEPALIVE);
            // Also if there was no room: a client that has unread bytes needs no other sign.
            self.last = Instant::now();
        }
    }

    /// Tells what C git tells of names that no reference can have.
    fn funny(&mut self, request: &PushRequest) {
        for asked in request.commands.iter().filter(|asked| asked.funny).take(FUNNY_TOLD) {
            let name = String::from_utf8_lossy(&asked.name);
            self.send_progress(&format!("error: refusing to update funny ref '{name}' remotely\n"));
        }
    }

    /// Shows a line of progress.
    fn progress(&mut self, line: &str, last: bool) {
        if self.quiet {
            return;
        }
        let too_soon = self.last_progress.is_some_and(|at| at.elapsed() < PROGRESS_EVERY);
        if !last && too_soon {
            return;
        }
        let mut line = one_line(line);
        line.truncate(line.floor_char_boundary(PROGRESS_MAX));
        if !last && self.unfinished.as_ref() == Some(&line) {
            return;
        }
        self.send_progress(&format!("{line}{}", if last { '\n' } else { '\r' }));
        (self.last_progress, self.unfinished) =
            if last { (None, None) } else { (Some(Instant::now()), Some(line)) };
    }

    /// Ends an unfinished line, so that the report has one of its own.
    fn close(&mut self) {
        if let Some(line) = self.unfinished.take() {
            self.send_progress(&format!("{line}\n"));
        }
    }

    fn send_progress(&mut self, text: &str) {
        let mut packet = Vec::new();
        pktline::write_band(&mut packet, Band::Progress, text.as_bytes(), BAND_MAX);
        self.offer(&packet);
    }

    /// Writes a packet if there is room for it now, and else drops it: a client that does not read
    /// must not keep `verify` and `repo_write` waiting.
    fn offer(&mut self, packet: &[u8]) {
        if !self.open || packet.is_empty() || packet.len() > ROOM {
            return;
        }
        let mut fds = [PollFd::new(self.output.fd(), PollFlags::POLLOUT)];
        if poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0) {
            self.open = self.output.write_all(packet).is_ok();
            self.last = Instant::now();
        }
    }
}
