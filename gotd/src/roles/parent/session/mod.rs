//! The parent's record of a session: its two processes (three or four for a push) and their reports.

pub mod borrowing;
pub mod grant;
pub mod job;
pub mod phase;
pub mod process;
pub mod shell;
pub mod table;

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use libproto::command::Service;
use libproto::limits::Limit;
use libproto::message::parent::{
    ClientHello, GitAsk, ParentToRepo, ParentToSession, Peer, Permit, Pool, Question, RepoReport,
    RepoToParent, SessionToParent,
};
use libproto::names::{NameError, UserName};
use libproto::refusal::Refusal;
use libproto::states::{RepoState, SessionState};

use self::grant::Grant;
use self::job::Kept;
use self::phase::{Connection, Phase};
use self::process::Process;
use self::shell::{Overview, Shell};
use super::queue::Turn;
use super::spawners::Child;
use super::user_queue::WaitsForUser;

/// Processes that have not ended so long after they were killed hang in the kernel.
const GIVEN_UP: Duration = Duration::from_secs(10);
/// How long the processes of a session may take to end before they count for their user again.
const ENDING: Duration = Duration::from_millis(500);

/// The ends that are kept for `verify`: its links to session and repository process.
pub type VerifyEnds = [OwnedFd; 2];

/// A `session` process.
pub type SessionChild = Child<ParentToSession, SessionToParent>;
/// A repository process.
pub type RepoChild = Child<ParentToRepo, RepoToParent>;

/// Why the parent ended a session, and when it first did.
#[derive(Debug)]
pub struct Killed {
    /// For the log.
    pub why: String,
    /// When the parent first killed its processes.
    pub at: Instant,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// Never repeats while the daemon runs.
    pub number: u64,
    /// The kind of connections that it may take.
    pub pool: Pool,
    /// The `session` process.
    pub session: Process<SessionChild>,
    /// The repository process.
    pub repo: Process<RepoChild>,
    /// How far that is.
    pub repo_state: RepoState,
    /// What it said at its end.
    pub repo_report: Option<RepoReport>,
    /// The ends of `verify`'s links to session and repository process, until it is started or
    /// cannot be any more. None for git://.
    pub verify_ends: Option<VerifyEnds>,
    /// The end of `commit_refs`' link to the repository process, as long.
    pub commit_end: Option<OwnedFd>,
    /// How far it is with `listen`.
    pub connection: Connection,
    /// The client's greeting; over git:// there is none.
    pub hello: Option<ClientHello>,
    /// How far it is with its client.
    pub phase: Phase,
    /// Its jobs, but those of a grant.
    pub kept: Kept,
    /// When it said that its client has been silent for long in its turn.
    pub silent: Option<Instant>,
    /// How often it has spoken about that.
    pub silences: u32,
    /// When it was asked to give way to another client.
    pub asked_to_give_way: Option<Instant>,
    /// The limit for which it was ended to make room.
    pub gave_way: Option<Limit>,
    /// Why it was refused.
    pub refused: Option<Refusal>,
    /// What `auth` answered, while its user has as many sessions as they may have.
    pub user_queue: Option<WaitsForUser>,
    /// The user whom a rule, or the lack of one, kept out; only for the log, no limit counts it.
    pub turned_away: Option<String>,
    /// When this session has to be over, once it is ending.
    pub deadline: Option<Instant>,
    /// The parent has ended it.
    pub killed: Option<Killed>,
    /// When it reported its end.
    pub finished: Option<Instant>,
}

impl Session {
    /// A session whose two processes have just been started. `listen_end` is offered to `listen`
    /// once they have greeted.
    pub fn waiting(
        number: u64,
        pool: Pool,
        (session, repo): (SessionChild, RepoChild),
        (verify_ends, commit_end): (Option<VerifyEnds>, Option<OwnedFd>),
        listen_end: Vec<OwnedFd>,
    ) -> Session {
        Session {
            number,
            pool,
            session: Process::Running(session),
            repo: Process::Running(repo),
            repo_state: RepoState::Starting,
            repo_report: None,
            verify_ends,
            commit_end,
            connection: Connection::Kept(listen_end),
            hello: None,
            phase: Phase::Starting,
            kept: Kept::default(),
            silent: None,
            silences: 0,
            asked_to_give_way: None,
            gave_way: None,
            user_queue: None,
            refused: None,
            turned_away: None,
            deadline: None,
            killed: None,
            finished: None,
        }
    }

    /// Which messages the session may send.
    pub fn state(&self) -> SessionState {
        self.phase.state()
    }

    /// It does not push, or not any more.
    pub fn drop_push_ends(&mut self) {
        self.verify_ends = None;
        self.commit_end = None;
    }

    /// `listen`'s word about its client, once it was said.
    pub fn peer(&self) -> Option<&Peer> {
        match &self.connection {
            Connection::Taken(peer, _) => Some(peer),
            _ => None,
        }
    }

    /// When that was said.
    pub fn accepted(&self) -> Option<Instant> {
        match self.connection {
            Connection::Taken(_, at) => Some(at),
            _ => None,
        }
    }

    /// `listen` must not give it a client any more, or failed to. A session that has a client keeps
    /// it.
    pub fn recall(&mut self) {
        if self.peer().is_none() {
            self.connection = Connection::Recalled;
        }
    }

    /// The name that the client said is theirs.
    pub fn told_user(&self) -> Result<Option<UserName>, NameError> {
        let told = self.hello.as_ref().and_then(|hello| hello.user.as_ref());
        told.map(|name| UserName::parse(name)).transpose()
    }

    /// The request for a repository.
    pub fn ask(&self) -> Option<&GitAsk> {
        self.phase.ask()
    }

    /// What `auth` is asked about it; `None`: its client, or what that wants, is not known.
    pub fn question(&self) -> Option<Question> {
        let ask = self.ask()?;
        let told_user = self.told_user().ok()?;
        let (peer, repository) = (self.peer().cloned()?, ask.repository.clone());
        Some(Question { peer, told_user, service: ask.service, repository })
    }

    /// What was granted, and what is done with it.
    pub fn grant(&self) -> Option<&Grant> {
        self.phase.granted()
    }

    /// What was granted, to change it.
    pub fn grant_mut(&mut self) -> Option<&mut Grant> {
        self.phase.granted_mut()
    }

    /// What was granted.
    pub fn permit(&self) -> Option<&Permit> {
        self.grant().map(|grant| &grant.permit)
    }

    /// A request of self-service.
    pub fn shell(&self) -> Option<&Shell> {
        self.phase.shell()
    }

    /// Its request of self-service for the list of repositories.
    pub fn overview(&self) -> Option<&Overview> {
        self.phase.shell().and_then(Shell::overview)
    }

    /// The request for the list of repositories, to change it.
    pub fn overview_mut(&mut self) -> Option<&mut Overview> {
        self.phase.shell_mut().and_then(Shell::overview_mut)
    }

    /// Its turn for costly work, under way or waited for.
    pub fn turn(&self) -> Option<Turn> {
        self.grant().and_then(|grant| grant.turn)
    }

    /// Its turn, to change it.
    pub fn turn_mut(&mut self) -> Option<&mut Turn> {
        self.grant_mut().and_then(|grant| grant.turn.as_mut())
    }

    /// Its turn is over, if it had one.
    pub fn end_turn(&mut self) {
        if let Some(grant) = self.grant_mut() {
            grant.turn = None;
        }
    }

    /// The identity in the log, once it is known.
    pub fn identity(&self) -> Option<&str> {
        self.permit().map(|permit| permit.identity.as_str()).or(self.overview_identity())
    }

    /// The identity that limits count, once it is known.
    pub fn counted(&self) -> Option<&str> {
        self.permit().map(|permit| permit.counted.as_str()).or(self.overview_identity())
    }

    fn overview_identity(&self) -> Option<&str> {
        self.overview()?.identity.as_deref().filter(|who| !who.is_empty())
    }

    /// Whether the client asked to push.
    pub fn is_push(&self) -> bool {
        self.ask().is_some_and(|ask| ask.service == Service::ReceivePack)
    }

    /// Whether a push is under way that goes on without its client.
    pub fn is_pushing(&self) -> bool {
        self.repo_state == RepoState::Serving && self.is_push()
    }

    /// Whether it was killed so long ago that its process must be stuck in the kernel, waiting for
    /// a file system or for a client. Such a process has no memory and computes nothing, so it must
    /// not keep others from their turns.
    pub fn is_given_up(&self, now: Instant) -> bool {
        self.killed.as_ref().is_some_and(|killed| now.saturating_duration_since(killed.at) >= GIVEN_UP)
    }

    /// Whether it reported its end by itself a moment ago, and was not killed since.
    pub fn has_just_ended(&self, now: Instant) -> bool {
        let finished = self.finished.filter(|_| self.killed.is_none());
        finished.is_some_and(|at| now.saturating_duration_since(at) < ENDING)
    }

    /// It has a client, and its process runs.
    pub fn is_under_way(&self) -> bool {
        self.peer().is_some() && self.session.running().is_some()
    }

    /// Whether it could still be handed a connection.
    pub fn is_free(&self) -> bool {
        matches!(self.connection, Connection::Kept(_) | Connection::Offered)
            && self.session.running().is_some()
            && self.killed.is_none()
            && self.deadline.is_none()
    }
}
