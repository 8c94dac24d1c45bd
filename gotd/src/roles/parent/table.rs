//! The table of sessions: what the parent knows about each, and how far it is.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libproto::command::Service;
use libproto::message::client::ControlRequest;
use libproto::message::parent::{
    ClientHello, CreateToParent, GitAsk, Opened, ParentToCreate, ParentToRepo, ParentToSession,
    ParentToVerify, Peer, Permit, Pool, RepoReport, RepoToParent, SessionReport, SessionToParent,
    VerifyToParent,
};
use libproto::states::{RepoState, SessionState};
use nix::sys::wait::WaitStatus;

use super::job::Job;
use crate::os::spawn::Child;

/// How long a first answer takes, generously.
const FIRST_ANSWER: Duration = Duration::from_millis(15);

/// Processes that have not ended so long after they were killed hang in the kernel.
const GIVEN_UP: Duration = Duration::from_secs(10);

/// The ends that are kept for `verify`: its links to session and repository process.
pub type VerifyEnds = [OwnedFd; 2];

/// A `session` process.
pub type SessionChild = Child<ParentToSession, SessionToParent>;
/// A repository process.
pub type RepoChild = Child<ParentToRepo, RepoToParent>;

/// A repository that a push makes.
#[derive(Debug)]
pub enum Creation {
    /// Since then, for those before it.
    Waiting(Instant),
    /// Being made by this process.
    Running(Job<ParentToCreate, CreateToParent>),
    /// Its process has been reaped, or there was none.
    Over,
}

/// A process of a session: there, or how it ended.
#[derive(Debug)]
pub enum Process<C> {
    /// Not reaped yet.
    Running(C),
    /// Reaped.
    Ended(Ending),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl Ending {
    /// From wait(2); `None`: still running.
    pub fn of(status: WaitStatus) -> Option<Ending> {
        match status {
            WaitStatus::Exited(_, status) => Some(Ending::Exit(status)),
            WaitStatus::Signaled(_, signal, _) => Some(Ending::Signal(signal as i32)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exit(status) => write!(f, "exit {status}"),
            Ending::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl<C> Process<C> {
    /// The process, while it runs.
    pub fn running(&self) -> Option<&C> {
        match self {
            Process::Running(child) => Some(child),
            Process::Ended(_) => None,
        }
    }

    /// The same.
    pub fn running_mut(&mut self) -> Option<&mut C> {
        match self {
            Process::Running(child) => Some(child),
            Process::Ended(_) => None,
        }
    }
}

/// One session: two processes, three for a push, and what they said.
#[derive(Debug)]
pub struct Session {
    /// Never repeats while the daemon runs.
    pub number: u64,
    /// Which connections it may take.
    pub pool: Pool,
    /// The `session` process.
    pub session: Process<SessionChild>,
    /// The repository process.
    pub repo: Process<RepoChild>,
    /// The `verify` process of a push, once it was needed.
    pub verify: Option<Process<Job<ParentToVerify, VerifyToParent>>>,
    /// Its ends of the links to session and repository process, until it is started or cannot be any more. None for git://.
    pub verify_ends: Option<VerifyEnds>,
    /// What the verify process said at its end, for the log.
    pub verify_text: String,
    /// Where the repository was found.
    pub place: super::place::Place,
    /// The repository, as it was opened.
    pub opened: Option<Opened>,
    /// How far the session is.
    pub state: SessionState,
    /// How far the repository process is.
    pub repo_state: RepoState,
    /// `listen` was given the other end of its socketpair.
    pub offered: bool,
    /// `listen` was told not to give it a client.
    pub recalled: bool,
    /// `listen`'s ends of the links to the session, and for git:// to its repository process, until they are offered.
    pub listen_end: Option<Vec<OwnedFd>>,
    /// `listen`'s word, once.
    pub peer: Option<Peer>,
    /// When `listen`'s word came.
    pub accepted: Option<Instant>,
    /// The client's greeting.
    pub hello: Option<ClientHello>,
    /// The Git request.
    pub ask: Option<GitAsk>,
    /// A control request that is not answered yet.
    pub asked_control: Option<ControlRequest>,
    /// What was granted.
    pub permit: Option<Permit>,
    /// Why it was refused.
    pub refused: Option<String>,
    /// Whom a rule, or the lack of one, kept out; only for the log, no limit counts them.
    pub turned_away: Option<String>,
    /// What the session said at its end.
    pub report: Option<SessionReport>,
    /// What the repository process said at its end.
    pub repo_report: Option<RepoReport>,
    /// When this session has to be over, once it is ending.
    pub deadline: Option<Instant>,
    /// Why the parent ended it.
    pub killed: Option<String>,
    /// And when.
    pub killed_at: Option<Instant>,
    /// How many references its repository process may still report on; `None`: its session has not said that it begins.
    pub references: Option<u32>,
    /// The log has told that it had to wait for others.
    pub wait_logged: bool,
    /// Its turn for costly work: under way or waited for.
    pub turn: Option<super::queue::Turn>,
    /// The repository that it makes, once it was not there.
    pub creation: Option<Creation>,
    /// What the repository asked to borrow from.
    pub borrowing: super::borrow::Borrowing,
    /// Milliseconds of processor time that its negotiation has used, as far as is known.
    pub negotiated: u32,
    /// A request of self-service.
    pub shell: Option<Box<super::selfservice::Shell>>,
}

impl Session {
    /// A session whose two processes have just been started. `listen_end` is offered to `listen` once they have
    /// greeted.
    pub fn waiting(
        number: u64,
        pool: Pool,
        (session, repo): (SessionChild, RepoChild),
        verify_ends: Option<VerifyEnds>,
        listen_end: Vec<OwnedFd>,
    ) -> Session {
        Session {
            number,
            pool,
            session: Process::Running(session),
            repo: Process::Running(repo),
            verify: None,
            verify_ends,
            verify_text: String::new(),
            place: super::place::Place::default(),
            opened: None,
            state: SessionState::Starting,
            repo_state: RepoState::Starting,
            offered: false,
            recalled: false,
            listen_end: Some(listen_end),
            peer: None,
            accepted: None,
            hello: None,
            ask: None,
            asked_control: None,
            permit: None,
            refused: None,
            turned_away: None,
            report: None,
            repo_report: None,
            deadline: None,
            killed: None,
            killed_at: None,
            references: None,
            wait_logged: false,
            turn: None,
            creation: None,
            borrowing: super::borrow::Borrowing::default(),
            negotiated: 0,
            shell: None,
        }
    }

    /// Whom logs name, once it is known.
    pub fn identity(&self) -> Option<&str> {
        let shell = self.shell.as_ref().map(|shell| shell.identity.as_str()).filter(|who| !who.is_empty());
        self.permit.as_ref().map(|permit| permit.identity.as_str()).or(shell)
    }

    /// Whom limits count, once it is known.
    pub fn counted(&self) -> Option<&str> {
        let shell = self.shell.as_ref().map(|shell| shell.identity.as_str()).filter(|who| !who.is_empty());
        self.permit.as_ref().map(|permit| permit.counted.as_str()).or(shell)
    }

    /// Whether the client asked to push.
    pub fn is_push(&self) -> bool {
        self.ask.as_ref().is_some_and(|ask| ask.service == Service::ReceivePack)
    }

    /// Whether a push is under way that goes on without its client.
    pub fn is_pushing(&self) -> bool {
        self.repo_state == RepoState::Serving && self.is_push()
    }

    /// Whether it was killed so long ago that what is left of it waits in the kernel, for a file system or a client that does
    /// not let go: it has no memory any more and computes nothing, and must not keep others from their turns for ever.
    pub fn is_given_up(&self, now: Instant) -> bool {
        self.killed_at.is_some_and(|at| now.saturating_duration_since(at) >= GIVEN_UP)
    }

    /// Whether it could still be handed a connection.
    pub fn is_free(&self) -> bool {
        self.peer.is_none()
            && !self.recalled
            && self.session.running().is_some()
            && self.killed.is_none()
            && self.deadline.is_none()
    }
}

/// All sessions by number.
#[derive(Debug, Default)]
pub struct Table {
    sessions: HashMap<u64, Session>,
    last: u64,
    last_job: u64,
}

impl Table {
    /// A number that was never used.
    pub fn next_number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// A number that no job ever had.
    pub fn next_job(&mut self) -> u64 {
        self.last_job = self.last_job.saturating_add(1);
        self.last_job
    }

    /// Adds a session.
    pub fn insert(&mut self, session: Session) {
        self.sessions.insert(session.number, session);
    }

    /// The session of that number.
    pub fn get(&mut self, number: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&number)
    }

    /// Whether a session has not taken all of the answer to its request of self-service.
    pub fn has_answer(&self, number: u64) -> bool {
        let shell = self.sessions.get(&number).and_then(|session| session.shell.as_ref());
        shell.is_some_and(|shell| !shell.out.is_empty())
    }

    /// Takes a session out.
    pub fn remove(&mut self, number: u64) -> Option<Session> {
        self.sessions.remove(&number)
    }

    /// All sessions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// Sessions of a pool that can still be handed a connection.
    pub fn free(&self, pool: Pool) -> usize {
        self.iter().filter(|s| s.pool == pool && s.is_free()).count()
    }

    /// Whether a client was accepted a moment ago, so that its first answer is still being made.
    pub fn is_anybody_waiting(&self) -> bool {
        self.iter().any(|s| {
            s.accepted.is_some_and(|at| at.elapsed() < FIRST_ANSWER) && s.session.running().is_some()
        })
    }

    /// Sessions that an identity has at this moment, those included of which a process is still there.
    pub fn of_identity(&self, identity: &str) -> usize {
        self.iter().filter(|s| s.counted() == Some(identity)).count()
    }
}
