//! git:// connections, from accept to the end of their session: which has a place, which is next,
//! which gives way.
//!
//! `listen` keeps a copy of each such connection while it is served: to ask the kernel how far its
//! peer is, to pace it, and to end it. It never reads from one; whether something has arrived the
//! kernel tells too.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libproto::message::parent::{GitCounts, ListenLimits, NoSession};
use libproto::pktline;
use nix::sys::socket::{MsgFlags, Shutdown, SockaddrStorage, getpeername, send, shutdown};

use crate::fairness::{Candidate, PerAddress, Refused, Standing, Strangers};
use crate::os::system::{self, Progress};

/// A peer's progress is measured over this time: a peer that read, or sent, less than the minimum
/// rate may be slow.
const LOOK: Duration = Duration::from_secs(10);

/// Why a connection got no session, and where it came from.
pub type RefusedPeer = (NoSession, [u8; 16]);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RemoteState {
    /// Nothing has arrived.
    Silent,
    /// Something has, at this time.
    Waiting(Instant),
    /// The session of that number has it.
    Served(u64),
    /// The session of that number had it, and `listen` ended it. It counts until its session is
    /// over, and cannot give way again.
    Ended(u64),
}

#[derive(Debug)]
struct Remote {
    address: [u8; 16],
    port: u16,
    fd: OwnedFd,
    since: Instant,
    state: RemoteState,
    /// The peer's progress at the last look.
    seen: (Progress, Instant),
    slow: bool,
    /// Its session has begun to answer.
    answered: bool,
    /// When its session said that it has been silent for long in its turn.
    silent: Option<Instant>,
}

/// All git:// connections.
#[derive(Debug, Default)]
pub struct Remotes {
    all: BTreeMap<u64, Remote>,
    strangers: Strangers,
    accepted: u64,
    last: u64,
    looked: Option<Instant>,
}

impl Remotes {
    /// Nobody is here.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Somebody has not been handed to a session yet.
    pub fn is_anybody_waiting(&self) -> bool {
        self.all.values().any(|r| matches!(r.state, RemoteState::Silent | RemoteState::Waiting(_)))
    }

    /// Counts of connections: all that came, and those present in each state.
    pub fn counts(&self) -> GitCounts {
        let mut counts = GitCounts { accepted: self.accepted, ..GitCounts::default() };
        for remote in self.all.values() {
            let count = match remote.state {
                RemoteState::Silent => &mut counts.silent,
                RemoteState::Waiting(_) => &mut counts.waiting,
                RemoteState::Served(_) => &mut counts.served,
                RemoteState::Ended(_) => continue,
            };
            *count = count.saturating_add(1);
        }
        counts
    }

    /// Connections that are here, those included that were ended and whose session may still
    /// compute.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// Connections that hold a place of git://.
    fn places(&self) -> usize {
        self.all.values().filter(|r| !matches!(r.state, RemoteState::Ended(_))).count()
    }

    /// Whether another one may get a session: no more compute at a time than have places.
    pub fn may_be_served(&self, limits: &ListenLimits) -> bool {
        let has_session = |r: &&Remote| matches!(r.state, RemoteState::Served(_) | RemoteState::Ended(_));
        super::local::count(self.all.values().filter(has_session).count()) < limits.git
    }

    /// Takes an accepted connection. Error: the connection that was refused because of it, perhaps
    /// itself.
    pub fn come(&mut self, fd: OwnedFd, limits: &ListenLimits, now: Instant) -> Result<(), RefusedPeer> {
        self.accepted = self.accepted.saturating_add(1);
        // A peer that is gone already has no address.
        let Some((address, port)) = peer(fd.as_fd()) else { return Ok(()) };
        let per = PerAddress { connections: limits.per_address, rate: limits.rate_per_address };
        if let Err(refused) = self.strangers.admit(address, per, now) {
            let why = match refused {
                Refused::Connections => NoSession::PerAddress,
                Refused::Rate => NoSession::RatePerAddress,
                Refused::Networks => NoSession::GitTotal,
            };
            send_refusal(&fd, why);
            return Err((why, address));
        }
        let mut turned = Ok(());
        if self.places() >= usize::try_from(limits.git).unwrap_or(usize::MAX) {
            // The newcomer has been counted above: without it the comparison is as the rule says.
            self.strangers.leave(address);
            self.all.values_mut().for_each(Remote::look_for_answer);
            let Some(victim) = self.strangers.gives_way(self.candidates(), address) else {
                send_refusal(&fd, NoSession::GitTotal);
                return Err((NoSession::GitTotal, address));
            };
            self.strangers.enter(address);
            self.end(victim.id);
            turned = Err((NoSession::GaveWay, victim.address));
        }
        system::prepare_tcp(fd.as_fd());
        self.last = self.last.saturating_add(1);
        let seen = (Progress::default(), now);
        let state = RemoteState::Silent;
        let remote =
            Remote { address, port, fd, since: now, state, seen, slow: false, answered: false, silent: None };
        self.all.insert(self.last, remote);
        self.pace(address, limits);
        turned
    }

    fn candidates(&self) -> impl Iterator<Item = Candidate> {
        self.all.iter().filter_map(|(id, remote)| {
            let standing = match remote.state {
                RemoteState::Silent => Standing::Silent,
                RemoteState::Waiting(_) => Standing::Waiting,
                // A single byte gets a session, and is no request yet.
                RemoteState::Served(_) if remote.silent.is_some() => Standing::Thinking,
                RemoteState::Served(_) if !remote.answered => Standing::Waiting,
                RemoteState::Served(_) if remote.slow => Standing::Slow,
                RemoteState::Served(_) | RemoteState::Ended(_) => return None,
            };
            let since = remote.silent.unwrap_or(remote.since);
            Some(Candidate { id: *id, address: remote.address, standing, since })
        })
    }

    /// Ends a connection: at once if no session has it, else by the kernel, and its session
    /// notices.
    fn end(&mut self, id: u64) {
        let Some(remote) = self.all.get_mut(&id) else { return };
        match remote.state {
            RemoteState::Served(number) => {
                // A client that is silent in its turn reads this next.
                if !remote.answered || remote.silent.is_some() {
                    send_refusal(&remote.fd, NoSession::GaveWay);
                }
                let _ = shutdown(remote.fd.as_raw_fd(), Shutdown::Both);
                remote.state = RemoteState::Ended(number);
            }
            RemoteState::Ended(_) => {}
            RemoteState::Silent | RemoteState::Waiting(_) => {
                send_refusal(&remote.fd, NoSession::GaveWay);
                self.forget(id);
            }
        }
    }

    fn forget(&mut self, id: u64) {
        if let Some(remote) = self.all.remove(&id) {
            self.strangers.leave(remote.address);
        }
    }

    /// Connections that have sent nothing yet.
    pub fn silent(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.all.iter().filter(|(_, r)| r.state == RemoteState::Silent).map(|(id, r)| (*id, r.fd.as_fd()))
    }

    /// The session of that number says whether its client has been silent for long in its turn.
    pub fn silent_in_turn(&mut self, number: u64, silent: bool, now: Instant) {
        let its = |r: &&mut Remote| r.state == RemoteState::Served(number);
        if let Some(remote) = self.all.values_mut().find(its) {
            remote.silent = silent.then_some(now);
        }
    }

    /// Something has happened to a silent one: bytes, or its end.
    pub fn stirred(&mut self, id: u64, now: Instant) -> Option<RefusedPeer> {
        let remote = self.all.get_mut(&id)?;
        if system::unread(remote.fd.as_fd()).is_ok_and(|bytes| bytes > 0) {
            remote.state = RemoteState::Waiting(now);
            return None;
        }
        let address = remote.address;
        self.forget(id);
        Some((NoSession::Silent, address))
    }

    /// Refuses connections that were silent, or waited, for too long, and measures the progress of
    /// the others. `why` is the reason why connections wait.
    pub fn expire(&mut self, limits: &ListenLimits, why: NoSession, now: Instant) -> Vec<RefusedPeer> {
        let over = |since: Instant, ms: u32| {
            now.saturating_duration_since(since) >= Duration::from_millis(ms.into())
        };
        let late: Vec<(u64, NoSession, [u8; 16])> = self
            .all
            .iter()
            .filter_map(|(id, remote)| match remote.state {
                RemoteState::Silent if over(remote.since, limits.silent_ms) => {
                    Some((*id, NoSession::FirstRequest, remote.address))
                }
                RemoteState::Waiting(at) if over(at, limits.queue_ms) => Some((*id, why, remote.address)),
                _ => None,
            })
            .collect();
        for (id, why, _) in &late {
            if let Some(remote) = self.all.get(id) {
                send_refusal(&remote.fd, *why);
            }
            self.forget(*id);
        }
        if self.looked.is_none_or(|at| now.saturating_duration_since(at) >= Duration::from_secs(1)) {
            self.looked = Some(now);
            self.strangers.forget(now);
            for remote in self.all.values_mut().filter(|r| matches!(r.state, RemoteState::Served(_))) {
                remote.look(limits.minimum_rate, now);
            }
        }
        late.into_iter().map(|(_, why, address)| (why, address)).collect()
    }

    /// The connection to serve next: of the address with the fewest sessions, the one that has
    /// waited longest.
    pub fn next(&self) -> Option<u64> {
        let served = |address: [u8; 16]| {
            let its = |r: &&Remote| {
                matches!(r.state, RemoteState::Served(_)) && Strangers::are_one(r.address, address)
            };
            self.all.values().filter(its).count()
        };
        self.all
            .iter()
            .filter_map(|(id, remote)| match remote.state {
                RemoteState::Waiting(at) => Some((served(remote.address), at, *id)),
                _ => None,
            })
            .min()
            .map(|(_, _, id)| id)
    }

    /// Its connection and its address.
    pub fn get(&self, id: u64) -> Option<(BorrowedFd<'_>, [u8; 16], u16)> {
        self.all.get(&id).map(|r| (r.fd.as_fd(), r.address, r.port))
    }

    /// The connection was handed to a session.
    pub fn served(&mut self, id: u64, number: u64) {
        if let Some(remote) = self.all.get_mut(&id) {
            remote.state = RemoteState::Served(number);
        }
    }

    /// A session is over; whether it was one of these.
    pub fn over(&mut self, number: u64, limits: &ListenLimits) -> bool {
        let its =
            |r: &Remote| matches!(r.state, RemoteState::Served(n) | RemoteState::Ended(n) if n == number);
        let Some((id, address)) = self.all.iter().find(|(_, r)| its(r)).map(|(id, r)| (*id, r.address))
        else {
            return false;
        };
        self.forget(id);
        self.pace(address, limits);
        true
    }

    /// Shares what an address may take among its connections.
    fn pace(&self, address: [u8; 16], limits: &ListenLimits) {
        if limits.bandwidth == 0 {
            return;
        }
        let count = u64::from(self.strangers.of_address(address).max(1));
        let share = (limits.bandwidth / count).max(1);
        for remote in self.all.values().filter(|r| Strangers::are_one(r.address, address)) {
            system::pace(remote.fd.as_fd(), share);
        }
    }

    /// Refuses all connections that are not being served.
    pub fn drain(&mut self) {
        self.all.retain(|_, r| matches!(r.state, RemoteState::Served(_) | RemoteState::Ended(_)));
    }
}

impl Remote {
    /// Whether its session has begun to answer; where the kernel does not tell, it may have.
    fn look_for_answer(&mut self) {
        if matches!(self.state, RemoteState::Served(_)) && !self.answered {
            let silent = system::progress(self.fd.as_fd()).is_some_and(|p| p.taken == 0 && !p.owed);
            self.answered = !silent;
        }
    }

    /// Looks whether the peer, since the last look, read at least the minimum rate of our pending
    /// output or, with none pending, sent that much. A peer that reads all there is waits for the
    /// server.
    fn look(&mut self, minimum_rate: u32, now: Instant) {
        let (before, at) = self.seen;
        let passed = now.saturating_duration_since(at);
        if passed < LOOK {
            return;
        }
        let Some(progress) = system::progress(self.fd.as_fd()) else { return };
        let least = u64::from(minimum_rate).saturating_mul(passed.as_secs());
        let taken = progress.taken.saturating_sub(before.taken);
        let given = progress.given.saturating_sub(before.given);
        let idle = !progress.owed && taken == 0 && given < least;
        self.slow = idle || before.owed && progress.owed && taken < least;
        self.seen = (progress, now);
    }
}

/// Tells a client which line of the configuration refuses it, if that needs no waiting. Nothing is
/// read from it.
fn send_refusal(fd: &OwnedFd, why: NoSession) {
    let mut packet = Vec::new();
    pktline::write_err(&mut packet, &format!("too many connections ({})", why.text()));
    let _ = send(fd.as_raw_fd(), &packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
}

/// The kernel's word about the other end.
fn peer(fd: BorrowedFd<'_>) -> Option<([u8; 16], u16)> {
    let name: SockaddrStorage = getpeername(fd.as_raw_fd()).ok()?;
    match (name.as_sockaddr_in(), name.as_sockaddr_in6()) {
        (Some(v4), _) => Some((v4.ip().to_ipv6_mapped().octets(), v4.port())),
        (_, Some(v6)) => Some((v6.ip().octets(), v6.port())),
        _ => None,
    }
}
