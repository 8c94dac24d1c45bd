//! `listen`: accepts connections and hands each to a waiting session.
//!
//! Duty: accept, take the kernel's word about the peer, apply rate and queue limits, hand over.
//! Waits on: the parent and the listening sockets. Talks to: the parent, and once to each waiting session.
//!
//! **Invariant:** never reads from a connection; of the sockets only accept4(2). It receives descriptors from
//! the parent alone.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libproto::channel::{Channel, RecvError};
use libproto::message::client::{Exit, SessionToClient};
use libproto::message::parent::{
    Build, ListenLimits, ListenToParent, ListenToSession, MAX_GROUPS, ParentToListen, Peer, Pool,
};
use libsandbox::{Enforcement, Limits, Promise, Promises, Stage};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockaddrStorage, getpeername};

use crate::system;

/// Accept, hand over, and nothing of the file system.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Accept, Promise::Sendfd, Promise::Recvfd]);

/// The directives that refusals name.
const LIMIT_TOTAL: &str = "connection { limit total }";
const LIMIT_QUEUE: &str = "connection { queue time }";

type Parent = Channel<ListenToParent, ParentToListen>;

/// A connection that waits for a session.
struct Queued {
    pool: Pool,
    connection: OwnedFd,
    since: Instant,
}

/// The role's whole state.
struct Listen {
    parent: Parent,
    limits: ListenLimits,
    listeners: Vec<(Pool, OwnedFd)>,
    waiting: VecDeque<(u64, Pool, Channel<ListenToSession, ListenToSession>)>,
    queue: VecDeque<Queued>,
    /// Connections that sessions have.
    active: u32,
    second: Instant,
    this_second: u32,
    refused: u32,
    refused_by: &'static str,
    refused_told: Instant,
    draining: bool,
}

/// Runs the role until the parent is gone.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), String> {
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&[]), limits: Limits::UNCHANGED, enforcement })
        .map_err(|e| e.to_string())?;
    let parent = Parent::from(parent);
    parent
        .send(0, 0, &ListenToParent::Hello(Build { id: crate::BUILD.into() }))
        .map_err(|e| e.to_string())?;
    let now = Instant::now();
    let mut role = Listen {
        parent,
        limits: ListenLimits { connections: 0, rate: 0, queue_ms: 0, queue: 0 },
        listeners: Vec::new(),
        waiting: VecDeque::new(),
        queue: VecDeque::new(),
        active: 0,
        second: now,
        this_second: 0,
        refused: 0,
        refused_by: LIMIT_QUEUE,
        refused_told: now,
        draining: false,
    };
    loop {
        role.turn()?;
    }
}

impl Listen {
    /// One turn of the loop: wait, then the parent's words, then connections.
    fn turn(&mut self) -> Result<(), String> {
        let accepting = self.may_accept();
        let mut fds = vec![PollFd::new(self.parent.as_fd(), PollFlags::POLLIN)];
        if accepting {
            fds.extend(self.listeners.iter().map(|(_, fd)| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        }
        match poll(&mut fds, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(format!("poll: {e}")),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let parent_ready = fds.first().is_some_and(ready);
        let listeners: Vec<usize> =
            fds.iter().skip(1).enumerate().filter(|(_, fd)| ready(fd)).map(|(at, _)| at).collect();
        if parent_ready {
            self.parent_says()?;
        }
        for at in listeners {
            self.accept(at);
        }
        self.serve_queue();
        self.report_refusals();
        Ok(())
    }

    /// Whether a connection that is accepted now would find a place.
    fn may_accept(&self) -> bool {
        !self.draining
            && self.this_second < self.limits.rate
            && self.queue.len() < usize::try_from(self.limits.queue).unwrap_or(usize::MAX)
    }

    /// How long nothing can happen without an event.
    fn timeout(&self) -> PollTimeout {
        if self.queue.is_empty() && self.refused == 0 && self.this_second == 0 {
            return PollTimeout::NONE;
        }
        PollTimeout::from(100u8)
    }

    fn parent_says(&mut self) -> Result<(), String> {
        let mut received = match self.parent.recv_with_fds() {
            Ok(received) => received,
            // The parent is gone: nothing is left to serve.
            Err(RecvError::Closed) => system::exit_now(0),
            Err(e) if e.is_transient() => return Ok(()),
            Err(e) => return Err(e.to_string()),
        };
        match (received.message, received.fds.pop()) {
            (ParentToListen::Limits(limits), None) => self.limits = limits,
            (ParentToListen::Listener(pool), Some(fd)) => {
                nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .map_err(|e| format!("listener: {e}"))?;
                self.listeners.push((pool, fd));
            }
            (ParentToListen::Waiting(pool), Some(fd)) => {
                self.waiting.push_back((received.peer, pool, fd.into()));
            }
            (ParentToListen::Over(()), None) => {
                let before = self.waiting.len();
                self.waiting.retain(|(number, _, _)| *number != received.peer);
                if self.waiting.len() == before {
                    self.active = self.active.saturating_sub(1);
                }
            }
            (ParentToListen::Recall(()), None) => {
                let before = self.waiting.len();
                self.waiting.retain(|(number, _, _)| *number != received.peer);
                let known = self.waiting.len() != before;
                // One that is not here has been handed a connection, and the parent was told.
                if known && self.parent.send(0, received.peer, &ListenToParent::Recalled(())).is_err() {
                    system::exit_now(1);
                }
            }
            (ParentToListen::Drain(()), None) => {
                self.draining = true;
                self.listeners.clear();
            }
            (message, _) => return Err(format!("{message:?}: wrong descriptors")),
        }
        Ok(())
    }

    /// Accepts one connection from the listener at `at`, if there is one.
    fn accept(&mut self, at: usize) {
        if !self.may_accept() {
            return;
        }
        let Some((pool, listener)) = self.listeners.get(at) else { return };
        let pool = *pool;
        // An error: the client is gone already, or all descriptors are in use; the next turn tries again.
        if let Ok(connection) = system::accept(listener.as_fd()) {
            self.this_second = self.this_second.saturating_add(1);
            self.queue.push_back(Queued { pool, connection, since: Instant::now() });
        }
    }

    /// Hands queued connections to waiting sessions, and refuses those that waited too long.
    fn serve_queue(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.this_second = 0;
        }
        let longest = Duration::from_millis(u64::from(self.limits.queue_ms));
        for queued in std::mem::take(&mut self.queue) {
            let full = self.active >= self.limits.connections;
            let place = self.waiting.iter().position(|(_, pool, _)| !full && *pool == queued.pool);
            if let Some((number, _, session)) = place.and_then(|at| self.waiting.remove(at)) {
                self.hand_over(number, &session, queued);
            } else if now.duration_since(queued.since) >= longest {
                self.refuse(queued, if full { LIMIT_TOTAL } else { LIMIT_QUEUE });
            } else {
                self.queue.push_back(queued);
            }
        }
    }

    fn hand_over(
        &mut self,
        number: u64,
        session: &Channel<ListenToSession, ListenToSession>,
        queued: Queued,
    ) {
        self.active = self.active.saturating_add(1);
        #[cfg(feature = "escapes")]
        crate::escapes::attempt("listen", WORK);
        if queued.pool == Pool::Tcp {
            system::prepare_tcp(queued.connection.as_fd());
        }
        let told = peer(queued.connection.as_fd(), queued.pool).and_then(|peer| {
            session
                .send_with_fds(
                    0,
                    number,
                    &ListenToSession::Connection(queued.pool),
                    &[queued.connection.as_fd()],
                )
                .map_err(|e| e.to_string())?;
            Ok(peer)
        });
        let message = match told {
            Ok(peer) => ListenToParent::Accepted(peer),
            Err(text) => ListenToParent::HandoverFailed(text),
        };
        if self.parent.send(0, number, &message).is_err() {
            system::exit_now(1);
        }
    }

    /// Tells a client that nobody can serve it. Nothing is read from it.
    fn refuse(&mut self, queued: Queued, limit: &'static str) {
        if queued.pool == Pool::Unix {
            let text = format!("too many connections ({limit})");
            let client = Channel::<SessionToClient, SessionToClient>::from(queued.connection);
            let _ = client.try_send(0, 0, &SessionToClient::Exit(Exit { status: 1, text }));
        }
        self.refused = self.refused.saturating_add(1);
        self.refused_by = limit;
    }

    /// One line a second at most, however many were refused.
    fn report_refusals(&mut self) {
        let now = Instant::now();
        if self.refused > 0 && now.duration_since(self.refused_told) >= Duration::from_secs(1) {
            let message = ListenToParent::Refused((self.refused, self.refused_by.into()));
            self.refused = 0;
            self.refused_told = now;
            if self.parent.send(0, 0, &message).is_err() {
                system::exit_now(1);
            }
        }
    }
}

/// The kernel's word about the other end.
fn peer(connection: BorrowedFd<'_>, pool: Pool) -> Result<Peer, String> {
    match pool {
        Pool::Unix => {
            let (pid, uid, gid) =
                system::peer_credentials(connection).map_err(|e| format!("credentials: {e}"))?;
            let groups = system::peer_groups(connection, MAX_GROUPS).map_err(|e| format!("groups: {e}"))?;
            Ok(Peer::Unix { pid, uid, gid, groups })
        }
        Pool::Tcp => {
            let name: SockaddrStorage =
                getpeername(connection.as_raw_fd()).map_err(|e| format!("address: {e}"))?;
            if let Some(v4) = name.as_sockaddr_in() {
                Ok(Peer::Tcp { address: v4.ip().to_ipv6_mapped().octets(), port: v4.port() })
            } else if let Some(v6) = name.as_sockaddr_in6() {
                Ok(Peer::Tcp { address: v6.ip().octets(), port: v6.port() })
            } else {
                Err("address: neither IPv4 nor IPv6".into())
            }
        }
    }
}
