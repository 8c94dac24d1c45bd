//! Queues of messages to processes that may be slower than the parent. The parent waits for no
//! process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use libproto::channel::{self, Channel, Message};

/// Frames for a process that is slower than we are. The parent never waits for it. There are a few
/// frames for each session at most.
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
        if let Ok(frame) = channel::encode(peer, message) {
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
        if let Ok(frame) = channel::encode(peer, message) {
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

/// The system has no room at this moment: more descriptors are on their way between processes than
/// it lets one user have there, or memory is short.
fn is_crowded(e: &io::Error) -> bool {
    use nix::errno::Errno::{ENOBUFS, ENOMEM, ETOOMANYREFS};
    [ETOOMANYREFS, ENOBUFS, ENOMEM].iter().any(|errno| e.raw_os_error() == Some(*errno as i32))
}

#[cfg(test)]
mod tests {
    use libproto::message::parent::{ListenToParent, ParentToListen, Pool};

    use super::*;

    /// A process that does not read loses nothing: a descriptor waits behind the messages before
    /// it.
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
}
