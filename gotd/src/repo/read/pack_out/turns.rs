//! The place of a pack among others: waiting for it, and giving it back while the client takes
//! nothing.

use std::io;
use std::time::{Duration, Instant};

use librepo::fetch::Sink;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::super::queue::Word;
use super::{PackOut, Turn};
use crate::os::watchdog;

/// How long one turn may wait for its client, all waits together, before others get its place.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time between signs of life for a client that waits for its turn. So many, because a program
/// between it and us, such as ssh or another system, notices that it is gone only when it is given
/// something.
const TICK: Duration = Duration::from_secs(1);

impl PackOut<'_> {
    /// Waits for a turn. The client is told meanwhile that it waits and for what, and leaves the
    /// queue when it goes away.
    pub(super) fn take_turn(&mut self) -> io::Result<()> {
        let Some(queue) = self.queue else {
            self.turn = Turn::Held;
            return Ok(());
        };
        queue.need(self.memory);
        // An error ends the pack, and then nothing costly follows.
        self.turn = Turn::Stalled;
        loop {
            let mut fds = [
                PollFd::new(queue.fd(), PollFlags::POLLIN),
                PollFd::new(self.output.fd(), PollFlags::empty()),
            ];
            match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [word, client] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if client {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            watchdog::worked();
            if !word {
                self.sign_of_life()?;
                continue;
            }
            match queue.recv() {
                Word::Begin => break,
                Word::Wait(text) => self.progress(&text)?,
                Word::Refused(refusal) => return Err(refusal.into()),
                Word::Nothing => {}
            }
        }
        (self.turn, self.waited) = (Turn::Held, Duration::ZERO);
        Ok(())
    }

    /// Gives the turn back: what follows is nothing that others have to wait for.
    pub(in crate::repo::read) fn release(&mut self) {
        if let Some(queue) = self.queue.filter(|_| self.turn != Turn::Unasked) {
            queue.end();
        }
        self.turn = Turn::Over;
        self.queue = None;
    }

    /// Waits until the client takes more. After a while others get the place, however often it took
    /// a little meanwhile.
    pub(super) fn await_client(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let waited = self.waited.saturating_add(begun.elapsed());
            let patience = if self.turn == Turn::Held && self.queue.is_some() {
                PATIENCE.saturating_sub(waited)
            } else {
                TICK
            };
            let mut fds = vec![PollFd::new(self.output.fd(), PollFlags::POLLOUT)];
            fds.extend(self.queue.as_ref().map(|queue| PollFd::new(queue.fd(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready =
                |at: usize| fds.get(at).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
            let (client, word) = (ready(0), ready(1));
            let waited = self.waited.saturating_add(begun.elapsed());
            if let Some(queue) = &self.queue {
                if !client && self.turn == Turn::Held && waited >= PATIENCE {
                    queue.stalled(self.memory);
                    self.turn = Turn::Stalled;
                }
                // A client that takes nothing may be ended when others wait for the memory; a
                // client that keeps taking a copied pack may not.
                if !client && self.turn == Turn::Copies && begun.elapsed() >= TICK {
                    queue.stalled(self.memory);
                    self.turn = Turn::CopyStalled;
                } else if client && self.turn == Turn::CopyStalled {
                    queue.copies(self.memory);
                    self.turn = Turn::Copies;
                }
                if word && let Word::Refused(refusal) = queue.recv() {
                    return Err(refusal.into());
                }
            }
            if client {
                self.waited = waited;
                return Ok(());
            }
        }
    }
}
