//! `listen`: accepts connections and hands each to a waiting session.
//!
//! Duty: accept, take the kernel's word about the peer, apply rate and queue limits, hand over.
//! Waits on: the parent and the listening sockets. Talks to: the parent, and once to each waiting
//! session.
//!
//! **Invariant:** never reads from a connection; of the sockets only accept4(2). It receives
//! descriptors from the parent alone.
//!
//! The kinds of connections share nothing but the total, and those of [`control`] sockets not even
//! that. [`local`] gives places to the users of unix sockets, [`remote`] to the strangers of
//! git://.

mod control;
mod local;
mod reaper;
mod remote;

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libproto::channel::{Channel, Received, RecvError};
use libproto::message::client::{Exit, SessionToClient};
use libproto::message::parent::{
    Build, GitCounts, ListenLimits, ListenToParent, ListenToSession, NoSession, ParentToListen, Peer, Pool,
    Refusals,
};
use libsandbox::{Calls, Enforcement, Promise, Promises, ResourceLimits, Stage};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{Shutdown, shutdown};

use self::control::Controls;
use self::local::Locals;
use self::reaper::Reaper;
use self::remote::{RefusedPeer, Remotes};
use crate::os::error::{SystemError, carries_system_error};
use crate::os::system;
use crate::os::to_parent::send;
use crate::roles::sockets::BACKLOG;

/// Accept, hand over, and nothing of the file system.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Accept, Promise::Sendfd, Promise::Recvfd]).calls(Calls::Listen);

/// git:// connections that one turn accepts: those that are refused cost next to nothing.
const ACCEPT_AT_ONCE: usize = 64;
/// Connections that can have come to a listening socket before it is closed: there is no room for
/// more.
const MOST_COME: usize = BACKLOG as usize + 1;
/// Pause before the next accept after there was no descriptor left for a connection.
const NO_ROOM: Duration = Duration::from_millis(100);
/// Different refusals that are told apart within a second.
const MOST_REFUSALS: usize = 16;

/// Stands for a user that is not counted.
const NOBODY: u32 = u32::MAX;

type Parent = Channel<ListenToParent, ParentToListen>;

type Link = Channel<ListenToSession, ListenToSession>;

/// A session that waits for a client.
struct Waiting {
    number: u64,
    pool: Pool,
    session: Link,
    /// The link to its repository process, which over git:// is given the connection too.
    repo: Option<Link>,
}

/// A listening socket.
struct Listener {
    number: u64,
    pool: Pool,
    fd: OwnedFd,
    /// It is to be closed when its backlog is accepted; at most this many connections more.
    closing: Option<usize>,
}

/// The role's whole state.
struct Listen {
    parent: Parent,
    limits: ListenLimits,
    listeners: Vec<Listener>,
    /// git:// clients can come, or have come and wait.
    git: bool,
    waiting: VecDeque<Waiting>,
    locals: Locals,
    remotes: Remotes,
    controls: Controls,
    reaper: Reaper,
    /// When there was no descriptor left for a connection. The connection stays in the backlog, so
    /// asking again at once would only fail again.
    no_room: Option<Instant>,
    second: Instant,
    /// git:// connections handed over in this second.
    git_this_second: u32,
    /// When the parent was last told that somebody waits for a place.
    full_told: Option<Instant>,
    refusals: Vec<Refusals>,
    counts_told: GitCounts,
    /// Since when the parent has not been told something.
    untold: Option<Instant>,
    draining: bool,
}

/// Why it ends while the parent is there.
#[derive(Debug)]
pub enum ListenError {
    /// A system call of it failed, or its link.
    System(SystemError),
    /// The parent's first word is not about limits.
    NoLimits,
    /// A message has too many descriptors, or too few.
    Descriptors(Box<ParentToListen>),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenError::System(e) => e.fmt(f),
            ListenError::NoLimits => f.write_str("limits come first"),
            ListenError::Descriptors(message) => write!(f, "{message:?}: wrong descriptors"),
        }
    }
}

carries_system_error!(ListenError);

/// Runs the role until the parent is gone.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), ListenError> {
    libsandbox::enter(&Stage {
        promises: WORK,
        paths: Some(&[]),
        limits: ResourceLimits::UNCHANGED,
        enforcement,
    })?;
    let parent = Parent::from(parent);
    send(&parent, 0, &ListenToParent::Hello(Build { id: crate::BUILD.into() }));
    let mut locals = Locals::default();
    let limits = loop {
        match parent.recv() {
            Ok(Received { message: ParentToListen::Limits(limits), .. }) => break limits,
            Ok(Received { message: ParentToListen::Users(users), .. }) => locals.learn(users),
            Ok(Received { message: ParentToListen::Ranges(ranges), .. }) => locals.learn_ranges(ranges),
            Err(e) if e.is_transient() => {}
            Err(RecvError::Closed) => system::exit_now(0),
            Ok(_) => return Err(ListenError::NoLimits),
            Err(e) => return Err(SystemError::Received(e).into()),
        }
    };
    locals.learnt();
    let now = Instant::now();
    let mut role = Listen {
        parent,
        limits,
        listeners: Vec::new(),
        git: false,
        waiting: VecDeque::new(),
        locals,
        remotes: Remotes::default(),
        controls: Controls::default(),
        reaper: Reaper::default(),
        no_room: None,
        second: now,
        git_this_second: 0,
        full_told: None,
        refusals: Vec::new(),
        counts_told: GitCounts::default(),
        untold: None,
        draining: false,
    };
    loop {
        role.turn()?;
    }
}

/// The descriptors that poll(2) found ready.
#[derive(Clone, Copy)]
enum Source {
    Parent,
    Listener(usize),
    Remote(u64),
}

impl Listen {
    /// One turn of the loop: wait, then the parent's words, then connections.
    fn turn(&mut self) -> Result<(), ListenError> {
        let timeout = self.timeout();
        let mut sources = vec![Source::Parent];
        let mut fds = vec![PollFd::new(self.parent.as_fd(), PollFlags::POLLIN)];
        let full = self.reaper.is_full();
        self.no_room = self.no_room.filter(|at| at.elapsed() < NO_ROOM);
        for (at, listener) in self.listeners.iter().enumerate() {
            if full && listener.pool == Pool::Unix || self.no_room.is_some() {
                continue;
            }
            sources.push(Source::Listener(at));
            fds.push(PollFd::new(listener.fd.as_fd(), PollFlags::POLLIN));
        }
        for (id, fd) in self.remotes.silent() {
            sources.push(Source::Remote(id));
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(SystemError::Call("poll", e).into()),
        }
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|r| !r.is_empty());
        let ready: Vec<Source> =
            sources.into_iter().zip(&fds).filter(|(_, fd)| ready(fd)).map(|(source, _)| source).collect();
        let now = Instant::now();
        for source in ready {
            match source {
                Source::Parent => self.parent_says()?,
                Source::Listener(at) => {
                    self.accept(at, now);
                }
                Source::Remote(id) => {
                    let turned = self.remotes.stirred(id, now);
                    self.turned(turned);
                }
            }
        }
        self.close_listeners(now);
        let why = self.why(self.git_this_second, NoSession::Queue);
        let turned = self.remotes.expire(&self.limits, why, now);
        self.turned(turned);
        for (uid, connection) in self.locals.taken() {
            self.hand_to_reaper(connection, Some(uid));
        }
        self.serve_queue(now);
        self.reap(now);
        self.report_deserted();
        self.report(now);
        Ok(())
    }

    /// How long nothing can happen without an event.
    fn timeout(&mut self) -> PollTimeout {
        if self.locals.is_nobody_waiting()
            && self.controls.is_nobody_waiting()
            && self.reaper.is_empty()
            && self.locals.is_all_taken()
            && self.no_room.is_none()
            && self.refusals.is_empty()
            && self.remotes.is_empty()
            && self.remotes.counts() == self.counts_told
            && !self.listeners.iter().any(|listener| listener.closing.is_some())
        {
            return PollTimeout::NONE;
        }
        // A connection that waits only for the rate waits no longer than that.
        let pause = self.locals.pause(&self.limits, Instant::now());
        let pause = pause.and_then(|pause| u8::try_from(pause.as_millis()).ok());
        PollTimeout::from(pause.map_or(100, |pause| pause.clamp(1, 100)))
    }

    fn parent_says(&mut self) -> Result<(), ListenError> {
        let mut received = match self.parent.recv_with_fds() {
            Ok(received) => received,
            // The parent is gone: nothing is left to serve.
            Err(RecvError::Closed) => system::exit_now(0),
            Err(e) if e.is_transient() => return Ok(()),
            Err(e) => return Err(SystemError::Received(e).into()),
        };
        if received.message == ParentToListen::WaitingGit(()) {
            let fds = received.fds.drain(..).map(Link::from).collect::<Vec<_>>();
            if let Ok([session, repo]) = <[Link; 2]>::try_from(fds) {
                let (number, pool, repo) = (received.peer, Pool::Tcp, Some(repo));
                self.waiting.push_back(Waiting { number, pool, session, repo });
            }
            return Ok(());
        }
        match (received.message, received.fds.pop()) {
            (ParentToListen::Limits(limits), None) => {
                self.limits = limits;
                self.locals.learnt();
            }
            (ParentToListen::Users(users), None) => self.locals.learn(users),
            (ParentToListen::Ranges(ranges), None) => self.locals.learn_ranges(ranges),
            (ParentToListen::Listener(_), Some(_)) if self.draining => {}
            (ParentToListen::Listener(pool), Some(fd)) => {
                nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))
                    .map_err(|e| SystemError::Call("listener", e))?;
                self.listeners.push(Listener { number: received.peer, pool, fd, closing: None });
                self.git |= pool == Pool::Tcp;
            }
            (ParentToListen::Close(()), None) => {
                let that = self.listeners.iter_mut().find(|listener| listener.number == received.peer);
                if let Some(listener) = that {
                    listener.closing = Some(MOST_COME);
                }
            }
            (ParentToListen::Waiting(pool), Some(fd)) => {
                let (number, session) = (received.peer, fd.into());
                self.waiting.push_back(Waiting { number, pool, session, repo: None });
            }
            (ParentToListen::Over(()), None) => {
                self.waiting.retain(|waiting| waiting.number != received.peer);
                self.reaper.over(received.peer);
                if !self.locals.over(received.peer) && !self.controls.over(received.peer) {
                    self.remotes.over(received.peer, &self.limits);
                }
            }
            (ParentToListen::Silent(silent), None) => {
                self.remotes.silent_in_turn(received.peer, silent, Instant::now());
            }
            (ParentToListen::Gone(()), None) => {
                self.waiting.retain(|waiting| waiting.number != received.peer);
                self.locals.gone(received.peer);
            }
            (ParentToListen::Recall(()), None) => {
                let before = self.waiting.len();
                self.waiting.retain(|waiting| waiting.number != received.peer);
                let known = self.waiting.len() != before;
                // A session that is not here has been handed a connection, and the parent was told.
                if known {
                    send(&self.parent, received.peer, &ListenToParent::Recalled(()));
                }
            }
            (ParentToListen::Drain(()), None) => {
                self.draining = true;
                // Root may still connect to a control socket, to hurry a stop.
                let (stay, go) = std::mem::take(&mut self.listeners)
                    .into_iter()
                    .partition(|listener| listener.pool == Pool::Control);
                self.listeners = stay;
                go.into_iter().for_each(|listener: Listener| self.close(listener));
                self.remotes.drain();
            }
            (message, _) => return Err(ListenError::Descriptors(Box::new(message))),
        }
        Ok(())
    }

    /// Accepts from the listener at `at`: one unix connection, or several git:// ones. Returns
    /// whether its backlog is empty.
    fn accept(&mut self, at: usize, now: Instant) -> bool {
        let Some(pool) = self.listeners.get(at).map(|listener| listener.pool) else { return true };
        for _ in 0..if pool == Pool::Tcp { ACCEPT_AT_ONCE } else { 1 } {
            let Some(listener) = self.listeners.get_mut(at) else { return true };
            if listener.closing == Some(0) {
                return true;
            }
            let connection = match system::accept(listener.fd.as_fd()) {
                Ok(connection) => connection,
                Err(e) => {
                    // Else the client is gone already.
                    let full = [Errno::EMFILE, Errno::ENFILE, Errno::ENOBUFS, Errno::ENOMEM];
                    if full.contains(&Errno::from_raw(e.raw_os_error().unwrap_or(0))) {
                        self.no_room = Some(now);
                    }
                    return e.kind() == std::io::ErrorKind::WouldBlock;
                }
            };
            listener.closing = listener.closing.map(|left| left.saturating_sub(1));
            match pool {
                Pool::Unix => {
                    if let Err((connection, why, uid)) = self.locals.come(connection, &self.limits, now) {
                        self.refuse(connection, Pool::Unix, why, Some(uid));
                    }
                    self.shorten_queue(now);
                }
                Pool::Control => {
                    if let Err((connection, why)) = self.controls.come(connection, &self.limits, now) {
                        self.refuse(connection, Pool::Control, why, Some(NOBODY));
                    }
                }
                Pool::Tcp => {
                    // Strangers get what users leave of the total.
                    let left = self.limits.connections.saturating_sub(local::count(self.locals.count()));
                    let limits = ListenLimits { git: self.limits.git.min(left), ..self.limits.clone() };
                    let turned = self.remotes.come(connection, &limits, now).err();
                    self.turned(turned);
                }
            }
        }
        false
    }

    /// Closes the listening sockets that are to be, once nobody is left in their backlog.
    fn close_listeners(&mut self, now: Instant) {
        for at in (0..self.listeners.len()).rev() {
            if self.listeners[at].closing.is_some() && self.accept(at, now) {
                let listener = self.listeners.remove(at);
                self.close(listener);
            }
        }
    }

    /// Closes a listening socket, to which somebody may have come at the last moment.
    fn close(&mut self, listener: Listener) {
        if listener.pool != Pool::Tcp {
            self.hand_to_reaper(listener.fd, Some(NOBODY));
        }
    }

    /// Tells the parent when no git:// client can come any more and none waits.
    fn report_deserted(&mut self) {
        let can_come = self.listeners.iter().any(|listener| listener.pool == Pool::Tcp);
        if !self.git || can_come || self.remotes.is_anybody_waiting() {
            return;
        }
        self.git = false;
        send(&self.parent, 0, &ListenToParent::Deserted(()));
    }

    /// Refuses a connection if the queue is too long.
    fn shorten_queue(&mut self, now: Instant) {
        if self.locals.is_crowded(&self.limits) {
            self.serve_queue(now);
        }
        let why = if self.is_full() { NoSession::Total } else { NoSession::QueueLength };
        while let Some(queued) = self.locals.shorten(&self.limits) {
            self.refuse(queued.connection, Pool::Unix, why, Some(queued.uid));
        }
    }

    /// Why connections wait: the limits of number and rate, else what `otherwise` names.
    fn why(&self, this_second: u32, otherwise: NoSession) -> NoSession {
        if self.is_full() {
            NoSession::Total
        } else if this_second >= self.limits.rate {
            NoSession::Rate
        } else {
            otherwise
        }
    }

    fn is_full(&self) -> bool {
        local::count(self.locals.count().saturating_add(self.remotes.count())) >= self.limits.connections
    }

    /// Hands connections to waiting sessions, and refuses connections that waited too long.
    fn serve_queue(&mut self, now: Instant) {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.git_this_second = 0;
        }
        self.locals.look(&self.limits, now);
        while !self.is_full()
            && self.has_waiting(Pool::Unix)
            && let Some(id) = self.locals.next(&self.limits, now)
            && let Some(session) = self.session(Pool::Unix)
            && let Some((peer, connection)) = self.locals.serve(id, session.number, &self.limits)
        {
            hand_over(&self.parent, &session, connection, peer);
        }
        let otherwise = if self.is_full() { NoSession::Total } else { NoSession::Queue };
        for (queued, why) in self.locals.expire(&self.limits, otherwise, now) {
            self.refuse(queued.connection, Pool::Unix, why, Some(queued.uid));
        }
        self.ask_for_room(now);
        let longest = Duration::from_millis(u64::from(self.limits.queue_ms));
        self.serve_controls(longest, now);
        while self.git_this_second < self.limits.rate
            && self.remotes.may_be_served(&self.limits)
            && let Some(id) = self.remotes.next()
            && let Some(session) = self.session(Pool::Tcp)
        {
            self.git_this_second = self.git_this_second.saturating_add(1);
            self.remotes.served(id, session.number);
            if let Some((connection, address, port)) = self.remotes.get(id) {
                hand_over(&self.parent, &session, connection, Peer::Tcp { address, port });
            }
        }
    }

    /// Hands connections of control sockets to sessions of their own.
    fn serve_controls(&mut self, longest: Duration, now: Instant) {
        while self.controls.may_be_served()
            && let Some(session) = self.session(Pool::Control)
            && let Some((connection, peer)) = self.controls.serve(session.number)
        {
            hand_over(&self.parent, &session, connection.as_fd(), peer);
        }
        for connection in self.controls.expire(longest, now) {
            self.refuse(connection, Pool::Control, NoSession::Queue, Some(NOBODY));
        }
    }

    /// Tells the parent that somebody waits while all places are taken, ten times a second at most.
    fn ask_for_room(&mut self, now: Instant) {
        let told = |at: Instant| now.saturating_duration_since(at) < Duration::from_millis(100);
        if !self.is_full() || self.full_told.is_some_and(told) {
            return;
        }
        let Some(sessions) = self.locals.sessions_of_first(&self.limits, now) else { return };
        self.full_told = Some(now);
        send(&self.parent, 0, &ListenToParent::Full(sessions));
    }

    fn has_waiting(&self, pool: Pool) -> bool {
        self.waiting.iter().any(|waiting| waiting.pool == pool)
    }

    /// Takes a waiting session: the one that was started last, whose memory the processor's caches
    /// are likely to have still.
    fn session(&mut self, pool: Pool) -> Option<Waiting> {
        let at = self.waiting.iter().rposition(|waiting| waiting.pool == pool)?;
        self.waiting.remove(at)
    }

    /// Tells a client of a unix socket that nobody can serve it. Nothing is read from it.
    fn refuse(&mut self, connection: OwnedFd, pool: Pool, why: NoSession, uid: Option<u32>) {
        let text = match why {
            NoSession::NotController | NoSession::Groups => format!("Permission denied ({})", why.text()),
            NoSession::PerUser
            | NoSession::OwnPerUser
            | NoSession::UserQueueLength
            | NoSession::UserQueueTimeout => {
                format!("connection limit exceeded ({})", why.text())
            }
            why => format!("too many connections ({})", why.text()),
        };
        let client = Channel::<SessionToClient, SessionToClient>::from(connection);
        let _ = client.try_send(0, &SessionToClient::Exit(Exit { status: 1, text }));
        self.hand_to_reaper(client.into(), uid);
        self.note(why, pool, None, uid);
    }

    /// Is done with a connection, or a listening socket, that clients may have sent descriptors to.
    fn hand_to_reaper(&mut self, socket: OwnedFd, uid: Option<u32>) {
        if let Some(uid) = uid
            && system::takes_descriptors(socket.as_fd())
        {
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
            self.reaper.add(uid, socket, Instant::now());
        }
    }

    /// Hands connections that `listen` must not close to waiting sessions, which exit and so close
    /// them.
    fn reap(&mut self, now: Instant) {
        while let Some(uid) = self.reaper.due(now)
            && let Some(Waiting { number, session, .. }) = self.session(Pool::Unix)
        {
            self.locals.ends_with(number, uid);
            for connection in self.reaper.take(uid, number) {
                let sent =
                    session.send_with_fds(number, &ListenToSession::EndWith(()), &[connection.as_fd()]);
                // The copy here is not the last one: the session waits for the end of the link.
                if sent.is_err() {
                    self.reaper.add(uid, connection, now);
                }
            }
            send(&self.parent, number, &ListenToParent::EndsWith(uid));
        }
    }

    /// Notes refused git:// connections.
    fn turned(&mut self, turned: impl IntoIterator<Item = RefusedPeer>) {
        for (why, address) in turned {
            self.note(why, Pool::Tcp, Some(address), None);
        }
    }

    /// Counts a refusal: each reason, address and user by itself, as far as there is room.
    fn note(&mut self, why: NoSession, pool: Pool, address: Option<[u8; 16]>, uid: Option<u32>) {
        let room = self.refusals.len() < MOST_REFUSALS;
        let (address, uid) = if room { (address, uid) } else { (None, None) };
        let same = |r: &&mut Refusals| r.why == why && r.pool == pool && r.address == address && r.uid == uid;
        match self.refusals.iter_mut().find(same) {
            Some(refusals) => refusals.connections = refusals.connections.saturating_add(1),
            None => self.refusals.push(Refusals { connections: 1, why, pool, address, uid }),
        }
    }

    /// Reports the refusals of the last second: a few messages at most, however many connections
    /// were refused. They are not reported at once, because serving a new connection comes first.
    fn report(&mut self, now: Instant) {
        let counts = self.remotes.counts();
        if self.refusals.is_empty() && counts == self.counts_told {
            self.untold = None;
            return;
        }
        if now.duration_since(*self.untold.get_or_insert(now)) < Duration::from_secs(1) {
            return;
        }
        self.untold = None;
        let mut messages: Vec<ListenToParent> =
            std::mem::take(&mut self.refusals).into_iter().map(ListenToParent::Refused).collect();
        if counts != self.counts_told {
            self.counts_told = counts;
            messages.push(ListenToParent::Git(counts));
        }
        for message in messages {
            send(&self.parent, 0, &message);
        }
    }
}

/// Gives a connection to the processes of a session. The repository process comes first: it looks
/// for the connection when it is told what it is for, and that is after the session has read from
/// it.
fn hand_over(parent: &Parent, waiting: &Waiting, connection: BorrowedFd<'_>, peer: Peer) {
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("listen", WORK);
    let Waiting { number, pool, session, repo } = waiting;
    let (number, message) = (*number, ListenToSession::Connection(*pool));
    let mut links = repo.iter().chain([session]);
    let sent = links.try_for_each(|link| link.send_with_fds(number, &message, &[connection]));
    let message = match sent {
        Ok(()) => ListenToParent::Accepted(peer),
        Err(e) => ListenToParent::HandoverFailed(e.to_string()),
    };
    send(parent, number, &message);
}
