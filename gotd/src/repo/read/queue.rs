//! Turns to make a pack: the parent says whose it is.

use std::os::fd::{AsFd, BorrowedFd};

use libproto::channel::Received;
use libproto::message::parent::{PackWait, ParentToRepo, RepoToParent};
use libproto::refusal::Refusal;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::{system, watchdog};
use crate::repo::opened::{Parent, send};

/// Milliseconds between signs that a process which waits for a turn is alive.
const TICK_MS: u16 = 1000;

/// The way to the parent.
#[derive(Debug, Clone, Copy)]
pub struct PackQueue<'a> {
    /// The link to it.
    pub parent: &'a Parent,
}

/// What the parent said.
pub(super) enum Word {
    /// It is our turn.
    Begin,
    /// It is not yet, for this reason.
    Wait(String),
    /// The pack is not to be made, or not to its end.
    Refused(Refusal),
    /// Nothing yet.
    Nothing,
}

impl<'a> PackQueue<'a> {
    /// Asks for a turn: a pack is due, or goes on, and takes `memory` bytes.
    pub(super) fn need(&self, memory: u64) {
        send(self.parent, &RepoToParent::NeedPack(memory));
    }

    /// The client does not take the pack: others may have the place. So many bytes of memory stay
    /// in use.
    pub(super) fn stalled(&self, memory: u64) {
        send(self.parent, &RepoToParent::PackStalled(memory));
    }

    /// The pack is only copied from here on, or its client takes it again. So many bytes of memory
    /// stay in use.
    pub(super) fn copies(&self, memory: u64) {
        send(self.parent, &RepoToParent::PackCopied(memory));
    }

    /// The pack is made, or will not be.
    pub(super) fn end(&self) {
        send(self.parent, &RepoToParent::PackDone(()));
    }

    /// Waits for a turn of negotiation, to be ended by [`PackQueue::end`]. `used` are the
    /// milliseconds of processor time used so far. The client can be told nothing in this place of
    /// the protocol; when it goes away, its session ends the link.
    ///
    /// # Errors
    /// There is none: the session is gone, or the parent's reason.
    pub(super) fn turn(&self, session: BorrowedFd<'_>, used: u32) -> Result<(), Refusal> {
        send(self.parent, &RepoToParent::NeedTurn(used));
        let refused = loop {
            let mut fds = [
                PollFd::new(self.parent.as_fd(), PollFlags::POLLIN),
                // Only its end counts: a session that speaks out of turn is heard later.
                PollFd::new(session, PollFlags::empty()),
            ];
            if !matches!(poll(&mut fds, PollTimeout::from(TICK_MS)), Ok(_) | Err(Errno::EINTR)) {
                break Refusal::ClientGone;
            }
            if fds[1].revents().is_none_or(|events| !events.is_empty()) {
                break Refusal::ClientGone;
            }
            watchdog::worked();
            match self.recv() {
                Word::Begin => return Ok(()),
                Word::Refused(refusal) => break refusal,
                Word::Wait(_) | Word::Nothing => {}
            }
        };
        self.end();
        Err(refused)
    }

    /// Where the parent's words come.
    pub(super) fn fd(&self) -> BorrowedFd<'a> {
        self.parent.as_fd()
    }

    /// Takes a word of the parent. Without a parent there is nothing left to do.
    pub(super) fn recv(&self) -> Word {
        match self.parent.try_recv() {
            Ok(Received { message: ParentToRepo::Pack(()), .. }) => Word::Begin,
            Ok(Received { message: ParentToRepo::NoPack(refusal), .. }) => Word::Refused(refusal),
            Ok(Received { message: ParentToRepo::Waits(wait), .. }) => Word::Wait(words(&wait)),
            Err(e) if e.is_transient() => Word::Nothing,
            _ => system::exit_now(1),
        }
    }
}

/// What the client's user reads.
fn words(wait: &PackWait) -> String {
    let PackWait { made, others, limit } = wait;
    format!("waiting for other packs: {made} being made, {others} more in the queue ({limit})\n")
}
