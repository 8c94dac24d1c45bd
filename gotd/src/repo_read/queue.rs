//! The line of those who wait to make a pack: the parent says whose turn it is.

use std::os::fd::AsFd;

use libproto::channel::Received;
use libproto::message::parent::{PackWait, ParentToRepo, RepoToParent};
use libproto::message::repo::Refusal;
use librepo::fetch::Sink;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::pack_out::PackOut;
use crate::repository::{Parent, send};
use crate::system;
use crate::watchdog;

/// Milliseconds between signs of life for a client that waits. So many, because a program between it and us, such as ssh or
/// another system, notices that it is gone only when it is given something.
const TICK_MS: u16 = 1000;

/// The way to the parent.
#[derive(Debug)]
pub struct PackQueue<'a> {
    /// The link to it.
    pub parent: &'a Parent,
}

impl PackQueue<'_> {
    /// Waits until a pack may be made. The client is told meanwhile that it waits and for what, and leaves the queue
    /// when it goes away.
    ///
    /// # Errors
    /// The pack is not to be made: the client is gone, or the parent's reason.
    pub(super) fn begin(&self, out: &mut PackOut<'_>) -> Result<(), Refusal> {
        self.say(&RepoToParent::NeedPack(()));
        loop {
            let mut fds = [
                PollFd::new(self.parent.as_fd(), PollFlags::POLLIN),
                PollFd::new(out.client(), PollFlags::empty()),
            ];
            if !matches!(poll(&mut fds, PollTimeout::from(TICK_MS)), Ok(_) | Err(Errno::EINTR)) {
                return Err(self.gone());
            }
            let ready = |at: usize| fds.get(at).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
            let (word, client) = (!ready(0).is_empty(), ready(1));
            if !client.is_empty() {
                return Err(self.gone());
            }
            watchdog::worked();
            let told = if word { self.hear(out)? } else { out.sign_of_life().map(|()| Next::Wait) };
            match told {
                Ok(Next::Wait) => {}
                Ok(Next::Begin) => return Ok(()),
                Err(_) => return Err(self.gone()),
            }
        }
    }

    /// Takes a word of the parent. The inner error: the client is gone.
    fn hear(&self, out: &mut PackOut<'_>) -> Result<std::io::Result<Next>, Refusal> {
        match self.parent.try_recv() {
            Ok(Received { message: ParentToRepo::Pack(()), .. }) => Ok(Ok(Next::Begin)),
            Ok(Received { message: ParentToRepo::NoPack(text), .. }) => Err(Refusal::Limited(text)),
            Ok(Received { message: ParentToRepo::Waits(wait), .. }) => {
                Ok(out.progress(&words(&wait)).map(|()| Next::Wait))
            }
            Err(e) if e.is_transient() => Ok(Ok(Next::Wait)),
            _ => system::exit_now(1),
        }
    }

    /// The pack is made, or will not be.
    pub(super) fn end(&self) {
        self.say(&RepoToParent::PackDone(()));
    }

    fn gone(&self) -> Refusal {
        self.end();
        Refusal::ClientGone
    }

    fn say(&self, message: &RepoToParent) {
        send(self.parent, message);
    }
}

/// What follows on a word of the parent.
enum Next {
    Wait,
    Begin,
}

/// What the client's user reads.
fn words(wait: &PackWait) -> String {
    let PackWait { made, others, limit } = wait;
    format!("waiting for other packs: {made} being made, {others} more in the queue ({limit})\n")
}
