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

/// Milliseconds after which it is looked at whether a client that waits needs a sign of life, or is gone.
const TICK_MS: u16 = 500;

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
        let mut asked = false;
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
            if client.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL) {
                return Err(self.gone());
            }
            let mut told = out.tick();
            if !asked && system::peer_has_closed(out.client()) {
                // It may read on. The system of one that is gone refuses this, and then the connection is broken.
                asked = true;
                told = told.and_then(|()| out.sign_of_life());
            }
            if word {
                match self.parent.try_recv() {
                    Ok(Received { message: ParentToRepo::Pack(()), .. }) => return Ok(()),
                    Ok(Received { message: ParentToRepo::NoPack(text), .. }) => {
                        return Err(Refusal::Limited(text));
                    }
                    Ok(Received { message: ParentToRepo::Waits(wait), .. }) => {
                        told = told.and_then(|()| out.progress(&words(&wait)));
                    }
                    Err(e) if e.is_transient() => {}
                    _ => system::exit_now(1),
                }
            }
            if told.is_err() {
                return Err(self.gone());
            }
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

/// What the client's user reads.
fn words(wait: &PackWait) -> String {
    let PackWait { made, others, limit } = wait;
    format!("waiting for other packs: {made} being made, {others} more in the queue ({limit})\n")
}
