//! Connections of the unix sockets, from accept to the end of their session: their users, the next
//! to be served, the one that gives way.
//!
//! A connection gets a session only after its uid, by the kernel's word, has been admitted and
//! counted. It counts for its uid until all processes of its session have been reaped and its
//! client has read, or thrown away, everything it was sent.

use std::collections::{HashMap, HashSet, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libproto::message::parent::{ListenLimits, NoSession, Peer, UidRange, UserLimits};
use nix::sys::socket::{Shutdown, shutdown};

use crate::fairness::Bucket;
use crate::fairness::owners::Owners;
use crate::fairness::users::{PerUser, Users, Waiting};
use crate::os::system;

const ROOT: u32 = 0;

/// A connection that waits for a session.
#[derive(Debug)]
pub struct Queued {
    id: u64,
    /// The uid that it counts for.
    pub uid: u32,
    /// The kernel's word about the peer.
    pub peer: Peer,
    /// It.
    pub connection: OwnedFd,
    /// When it was accepted.
    pub since: Instant,
    /// Since when it waits for a session, and not until its own user has fewer of them.
    due: Option<Instant>,
}

/// A connection that a session has.
#[derive(Debug)]
struct Served {
    uid: u32,
    /// A copy of the connection; none for a session that only closes connections (see `reaper`).
    connection: Option<OwnedFd>,
}

/// All connections of unix sockets.
#[derive(Debug, Default)]
pub struct Locals {
    queue: VecDeque<Queued>,
    /// Sessions that have one.
    sessions: HashMap<u64, Served>,
    /// Connections whose session is over, but whose client has not read everything it was sent.
    /// They count for their uid.
    untaken: Vec<(u32, OwnedFd)>,
    users: Users,
    /// New sessions per second, over all uids.
    rate: Bucket,
    last: u64,
    /// What the configuration says about users.
    known: Known,
    /// The same of a configuration whose messages are still coming. Until the last message the old
    /// configuration is in force: a user with a larger limit must not be refused in between.
    coming: Known,
    forgot: Option<Instant>,
}

/// What the configuration says about users.
#[derive(Debug, Default)]
struct Known {
    /// Connections of uids for which it has numbers of their own.
    own: HashMap<u32, u32>,
    accounts: HashSet<u32>,
    /// Whom subordinate uids count as.
    owners: Owners,
}

impl Locals {
    /// Some limits of users, of a configuration that is coming.
    pub fn learn(&mut self, limits: UserLimits) {
        self.coming.own.extend(limits.connections);
        self.coming.accounts.extend(limits.accounts);
    }

    /// Some uids that count as others, of a configuration that is coming.
    pub fn learn_ranges(&mut self, ranges: Vec<UidRange>) {
        self.coming.owners.extend(ranges);
    }

    /// The configuration is complete: from here on it is in force.
    pub fn learnt(&mut self) {
        self.known = std::mem::take(&mut self.coming);
    }

    fn may(&self, uid: u32, limits: &ListenLimits) -> PerUser {
        if self.known.accounts.contains(&uid) {
            return PerUser { connections: None, queue: 0, rate: None };
        }
        let own = self.known.own.get(&uid).copied();
        PerUser {
            connections: Some(own.unwrap_or(limits.per_user)),
            queue: if own.is_none() { limits.user_queue } else { 0 },
            rate: (uid != ROOT).then_some(limits.rate_per_user),
        }
    }

    /// Connections that wait for a session.
    fn waiting(&self, limits: &ListenLimits) -> Vec<Waiting> {
        let of = |q: &Queued| Waiting { id: q.id, uid: q.uid, may: self.may(q.uid, limits) };
        self.queue.iter().filter(|q| q.due.is_some()).map(of).collect()
    }

    /// Looks which connections wait for a session, and which until their users have fewer: of each
    /// user the first ones in line are due.
    pub fn look(&mut self, limits: &ListenLimits, now: Instant) {
        let mut free = HashMap::new();
        for at in 0..self.queue.len() {
            let uid = self.queue[at].uid;
            let left = free.entry(uid).or_insert_with(|| self.users.free(uid, self.may(uid, limits)));
            let due = (*left > 0).then_some(now);
            *left = left.saturating_sub(1);
            let queued = &mut self.queue[at];
            queued.due = due.map(|now| queued.due.unwrap_or(now));
        }
    }

    /// Takes an accepted connection. An error: it is refused.
    pub fn come(
        &mut self,
        connection: OwnedFd,
        limits: &ListenLimits,
        now: Instant,
    ) -> Result<(), (OwnedFd, NoSession, u32)> {
        self.last = self.last.saturating_add(1);
        // Asked once, and before a session is spent on it.
        let (peer, uid) = match system::peer(connection.as_fd()) {
            Ok(peer) => peer,
            Err(uid) => return Err((connection, NoSession::Groups, self.known.owners.of(uid))),
        };
        // From here on the connection counts for this uid; its rights are still those of the uid
        // that the kernel reported.
        let uid = self.known.owners.of(uid);
        let own = self.known.own.contains_key(&uid);
        if !self.users.come(uid, self.may(uid, limits), now) {
            let why = match limits.user_queue {
                _ if own => NoSession::OwnPerUser,
                0 => NoSession::PerUser,
                _ => NoSession::UserQueueLength,
            };
            return Err((connection, why, uid));
        }
        let queued = Queued { id: self.last, uid, peer, connection, since: now, due: None };
        self.queue.push_back(queued);
        self.look(limits, now);
        Ok(())
    }

    /// Whether more wait for a session than may.
    pub fn is_crowded(&self, limits: &ListenLimits) -> bool {
        count(self.queue.iter().filter(|queued| queued.due.is_some()).count()) > limits.queue
    }

    /// Takes out the connection to refuse, if too many wait: for a session, or in all. The second
    /// is a bound on descriptors: more than all places never wait until their users have fewer.
    pub fn shorten(&mut self, limits: &ListenLimits) -> Option<Queued> {
        let id = if self.is_crowded(limits) {
            self.users.gives_way(&self.waiting(limits))?
        } else if count(self.queue.len()) > limits.queue.saturating_add(limits.connections) {
            self.queue.iter().rfind(|queued| queued.due.is_none())?.id
        } else {
            return None;
        };
        self.take(id)
    }

    fn take(&mut self, id: u64) -> Option<Queued> {
        let at = self.queue.iter().position(|queued| queued.id == id)?;
        let queued = self.queue.remove(at)?;
        self.users.give_up(queued.uid);
        Some(queued)
    }

    /// The connection to serve next, if the rates allow one.
    pub fn next(&mut self, limits: &ListenLimits, now: Instant) -> Option<u64> {
        if self.queue.is_empty() || !self.rate.has(limits.rate, now) {
            return None;
        }
        let waiting = self.waiting(limits);
        self.users.next(waiting.into_iter(), now)
    }

    /// The session of that number has it.
    pub fn serve(&mut self, id: u64, number: u64, limits: &ListenLimits) -> Option<(Peer, BorrowedFd<'_>)> {
        let at = self.queue.iter().position(|queued| queued.id == id)?;
        let Queued { uid, peer, connection, .. } = self.queue.remove(at)?;
        self.users.serve(uid, self.may(uid, limits));
        self.rate.take();
        let served = self.sessions.entry(number).insert_entry(Served { uid, connection: Some(connection) });
        let connection = served.into_mut().connection.as_ref()?;
        Some((peer, connection.as_fd()))
    }

    /// Takes out the connections that have waited too long, each with the limit that made it wait;
    /// `otherwise` if no rate did.
    pub fn expire(
        &mut self,
        limits: &ListenLimits,
        otherwise: NoSession,
        now: Instant,
    ) -> Vec<(Queued, NoSession)> {
        if self.forgot.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1)) {
            self.forgot = Some(now);
            self.users.forget(now);
        }
        let late_by = |queued: &Queued| {
            let (since, ms) = match queued.due {
                Some(due) => (due, limits.queue_ms),
                None => (queued.since, limits.user_queue_ms),
            };
            now.saturating_duration_since(since) >= Duration::from_millis(ms.into())
        };
        let ids: Vec<u64> = self.queue.iter().filter(|queued| late_by(queued)).map(|q| q.id).collect();
        let mut late = Vec::new();
        for queued in ids.into_iter().filter_map(|id| self.take(id)).collect::<Vec<_>>() {
            let may = self.may(queued.uid, limits);
            let why = match otherwise {
                _ if queued.due.is_none() => NoSession::UserQueueTimeout,
                NoSession::Queue if !self.rate.has(limits.rate, now) => NoSession::Rate,
                NoSession::Queue if !self.users.has_turn(queued.uid, may, now) => NoSession::RatePerUser,
                other => other,
            };
            late.push((queued, why));
        }
        late
    }

    /// The session of that number ends with connections of this uid.
    pub fn ends_with(&mut self, number: u64, uid: u32) {
        self.users.enter(uid);
        self.sessions.insert(number, Served { uid, connection: None });
    }

    /// A session is over; whether it was one of these.
    pub fn over(&mut self, number: u64) -> bool {
        self.gone(number);
        match self.sessions.remove(&number) {
            Some(Served { uid, connection: Some(connection) }) => self.untaken.push((uid, connection)),
            Some(Served { uid, connection: None }) => self.users.over(uid),
            None => return false,
        }
        true
    }

    /// The process that had a connection is gone: our copy must not keep its client from seeing the
    /// end.
    pub fn gone(&self, number: u64) {
        if let Some(connection) = self.sessions.get(&number).and_then(|served| served.connection.as_ref()) {
            let _ = shutdown(connection.as_raw_fd(), Shutdown::Both);
        }
    }

    /// Connections whose session is over, and whose clients have taken all that they were sent.
    /// What a client has not taken, such as the ends of its two pipes, counts against a limit that
    /// the system sets our user. Until it has, the connection counts for its uid, but not in the
    /// total.
    pub fn taken(&mut self) -> Vec<(u32, OwnedFd)> {
        let all = |(_, connection): &mut (u32, OwnedFd)| system::has_taken_all(connection.as_fd());
        let taken: Vec<_> = self.untaken.extract_if(.., all).collect();
        taken.iter().for_each(|(uid, _)| self.users.over(*uid));
        taken
    }

    /// Whether nothing is waited for to be taken.
    pub fn is_all_taken(&self) -> bool {
        self.untaken.is_empty()
    }

    /// Sessions that have a connection.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// The number of sessions of the uid whose connection would be served next, its rate
    /// considered; 0 for a shared account.
    pub fn sessions_of_first(&mut self, limits: &ListenLimits, now: Instant) -> Option<u32> {
        let waiting = self.waiting(limits);
        let id = self.users.next(waiting.into_iter(), now)?;
        let uid = self.queue.iter().find(|queued| queued.id == id)?.uid;
        Some(self.may(uid, limits).connections.map_or(0, |_| self.users.sessions(uid)))
    }

    /// Whether nobody waits.
    pub fn is_nobody_waiting(&self) -> bool {
        self.queue.is_empty()
    }

    /// Time until the total rate allows another session.
    pub fn pause(&mut self, limits: &ListenLimits, now: Instant) -> Option<Duration> {
        if self.queue.is_empty() || self.rate.has(limits.rate, now) {
            return None;
        }
        Some(Duration::from_secs(1) / limits.rate.max(1))
    }
}

/// A number of connections, as limits have it.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
