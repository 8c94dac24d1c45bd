//! Connections of control sockets: their users, and which of them are served.
//!
//! They have places of their own, so that no number of clients keeps root from asking the daemon
//! what they do, or from stopping it.

use std::collections::{HashSet, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use libproto::message::parent::{ListenLimits, NoSession, Peer};

use crate::os::system;

/// Control sessions at a time.
const PLACES: usize = 4;
/// Connections that may wait for one.
const QUEUE: usize = 16;

/// All of them.
#[derive(Debug, Default)]
pub struct Controls {
    queue: VecDeque<(OwnedFd, Peer, Instant)>,
    /// Numbers of the sessions that have one.
    served: HashSet<u64>,
}

impl Controls {
    /// Takes an accepted connection. Only the kernel's word about the peer decides, and nothing
    /// that the client could send.
    pub fn come(
        &mut self,
        connection: OwnedFd,
        limits: &ListenLimits,
        now: Instant,
    ) -> Result<(), (OwnedFd, NoSession)> {
        let peer = match system::peer(connection.as_fd()) {
            Ok((peer, uid)) if limits.controllers.contains(&uid) => peer,
            Err(uid) if limits.controllers.contains(&uid) => return Err((connection, NoSession::Groups)),
            _ => return Err((connection, NoSession::NotController)),
        };
        if self.queue.len() >= QUEUE {
            return Err((connection, NoSession::Controls));
        }
        self.queue.push_back((connection, peer, now));
        Ok(())
    }

    /// Whether somebody waits and has a place.
    pub fn may_be_served(&self) -> bool {
        !self.queue.is_empty() && self.served.len() < PLACES
    }

    /// The next one; the session of that number has it.
    pub fn serve(&mut self, number: u64) -> Option<(OwnedFd, Peer)> {
        let (next, peer, _) = self.queue.pop_front()?;
        self.served.insert(number);
        Some((next, peer))
    }

    /// A session is over; whether it was one of these.
    pub fn over(&mut self, number: u64) -> bool {
        self.served.remove(&number)
    }

    /// Takes out who has waited too long.
    pub fn expire(&mut self, longest: Duration, now: Instant) -> Vec<OwnedFd> {
        let is_late =
            |(_, _, since): &&(OwnedFd, Peer, Instant)| now.saturating_duration_since(*since) >= longest;
        let late = self.queue.iter().take_while(is_late).count();
        self.queue.drain(..late).map(|(connection, ..)| connection).collect()
    }

    /// Whether nobody waits for a session.
    pub fn is_nobody_waiting(&self) -> bool {
        self.queue.is_empty()
    }
}
