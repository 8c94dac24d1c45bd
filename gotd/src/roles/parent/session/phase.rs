//! The phase of a session, with the facts that are known only from that phase on.

use std::os::fd::OwnedFd;
use std::time::Instant;

use libproto::message::client::ControlRequest;
use libproto::message::parent::{
    CreateToParent, FoundAt, GitAsk, OpenError, Opened, ParentToCreate, ParentToVerify, Peer, Permit,
    SessionReport, VerifyToParent,
};
use libproto::refusal::Refusal;
use libproto::states::SessionState;

use super::super::job::Job;
use super::super::queue::Turn;
use super::Process;
use super::borrowing::Borrowing;
use super::shell::{Shell, ShellWork};

/// How far a session is with `listen`.
#[derive(Debug)]
pub enum Connection {
    /// Not offered yet. These are `listen`'s ends of the links to the session, and for git:// to
    /// its repository process.
    Kept(Vec<OwnedFd>),
    /// `listen` may give it a client at any time.
    Offered,
    /// `listen` was told not to give it a client, or failed to.
    Recalled,
    /// It has a client: `listen`'s word, said once, and when that was.
    Taken(Peer, Instant),
}

/// The phase of a session with its client. Facts of one phase that the next one needs move on with
/// it.
#[derive(Debug)]
pub enum Phase {
    /// The process has not greeted.
    Starting,
    /// It waits for a connection.
    Waiting,
    /// The client's greeting was forwarded, or there is none to come.
    Greeted,
    /// A Git request was forwarded: `auth` decides.
    Asked(GitAsk),
    /// `auth` has granted it.
    Granted(Box<Grant>),
    /// A control request was forwarded; it is here until it is answered.
    Control(Option<ControlRequest>),
    /// A request of self-service was forwarded.
    Shell(Box<Shell>),
    /// A session whose client had been refused forwarded a request of self-service. It is ignored.
    Ignored,
    /// The session has reported its end, or is gone. A push goes on without it, and the log line
    /// needs its last phase.
    Over(Box<Over>),
}

/// What is left of a session that is over.
#[derive(Debug)]
pub struct Over {
    /// Its phase before; never this one.
    was: Phase,
    /// What it said at its end.
    report: Option<SessionReport>,
}

/// A repository that was granted, and what is done there.
#[derive(Debug)]
pub struct Grant {
    /// The Git request, or what one of self-service comes to.
    pub ask: GitAsk,
    /// What was granted.
    pub permit: Permit,
    /// Where the repository was found.
    pub place: RepoLocation,
    /// What the repository asked to borrow from.
    pub borrowing: Borrowing,
    /// The repository that is made, once it was not there.
    pub creation: Option<Creation>,
    /// Its turn for costly work: under way or waited for.
    pub turn: Option<Turn>,
    /// The log has told that it had to wait for others.
    pub wait_logged: bool,
    /// Milliseconds of processor time that its negotiation has used, as far as is known.
    pub negotiated: u32,
    /// How many references the repository process may still report on; `None`: the session has not
    /// begun the push.
    pub references: Option<u32>,
    /// The `verify` process of a push, once it was needed.
    pub verify: Option<Process<Job<ParentToVerify, VerifyToParent>>>,
    /// What that said at its end, for the log.
    pub verify_refusal: Option<Refusal>,
}

/// How far the location of a repository is known and confirmed.
#[derive(Debug)]
pub enum RepoLocation {
    /// The repository process has not found it.
    Unknown,
    /// `auth` was asked about this path. The repository process may have tried to open it
    /// meanwhile.
    Asked(FoundAt, Option<Result<Opened, OpenError>>),
    /// The repository is confirmed, and not open yet.
    Right(FoundAt),
    /// The repository is confirmed and open.
    Open(FoundAt, Opened),
    /// It is not the permitted repository; the client was told that there is none.
    Wrong,
}

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

impl Connection {
    /// Whether `listen` knows of it.
    pub fn is_known(&self) -> bool {
        !matches!(self, Connection::Kept(_))
    }
}

impl Grant {
    /// Nothing was done yet.
    pub fn new(ask: GitAsk, permit: Permit) -> Grant {
        Grant {
            ask,
            permit,
            place: RepoLocation::Unknown,
            borrowing: Borrowing::default(),
            creation: None,
            turn: None,
            wait_logged: false,
            negotiated: 0,
            references: None,
            verify: None,
            verify_refusal: None,
        }
    }

    /// The repository, as it was opened.
    pub fn opened(&self) -> Option<&Opened> {
        match &self.place {
            RepoLocation::Open(_, opened) => Some(opened),
            _ => None,
        }
    }
}

impl Phase {
    /// Which messages the session may send.
    pub fn state(&self) -> SessionState {
        match self {
            Phase::Starting => SessionState::Starting,
            Phase::Waiting => SessionState::Waiting,
            Phase::Greeted => SessionState::Greeted,
            Phase::Asked(_) => SessionState::Asked,
            // A session gets its grant only when the repository is open.
            Phase::Granted(grant) if grant.opened().is_none() => SessionState::Asked,
            Phase::Granted(_) => SessionState::Granted,
            Phase::Control(_) => SessionState::Control,
            Phase::Shell(_) | Phase::Ignored => SessionState::Shell,
            Phase::Over(_) => SessionState::Finished,
        }
    }

    /// The session is over. What it has reported stays.
    pub fn end(&mut self, report: Option<SessionReport>) {
        match self {
            Phase::Over(over) => over.report = over.report.take().or(report),
            _ => {
                let was = std::mem::replace(self, Phase::Ignored);
                *self = Phase::Over(Box::new(Over { was, report }));
            }
        }
    }

    /// What it said at its end.
    pub fn report(&self) -> Option<&SessionReport> {
        match self {
            Phase::Over(over) => over.report.as_ref(),
            _ => None,
        }
    }

    /// The phase that it is in, or was in at its end.
    fn known(&self) -> &Phase {
        match self {
            Phase::Over(over) => &over.was,
            phase => phase,
        }
    }

    fn known_mut(&mut self) -> &mut Phase {
        match self {
            Phase::Over(over) => &mut over.was,
            phase => phase,
        }
    }

    /// The request for a repository.
    pub fn ask(&self) -> Option<&GitAsk> {
        match self.known() {
            Phase::Asked(ask) => Some(ask),
            Phase::Granted(grant) => Some(&grant.ask),
            Phase::Shell(shell) => match &shell.work {
                ShellWork::Asked(ask) => Some(ask),
                ShellWork::Granted { grant, .. } => Some(&grant.ask),
                ShellWork::New | ShellWork::Overview(_) => None,
            },
            _ => None,
        }
    }

    /// Notes what was granted; `false`: there was nothing to grant, or it has been.
    pub fn grant(&mut self, permit: Permit) -> bool {
        let phase = self.known_mut();
        match std::mem::replace(phase, Phase::Ignored) {
            Phase::Asked(ask) => *phase = Phase::Granted(Box::new(Grant::new(ask, permit))),
            Phase::Shell(mut shell) => {
                let granted = shell.grant(permit);
                *phase = Phase::Shell(shell);
                return granted;
            }
            other => {
                *phase = other;
                return false;
            }
        }
        true
    }

    /// What was granted.
    pub fn granted(&self) -> Option<&Grant> {
        match self.known() {
            Phase::Granted(grant) => Some(grant),
            Phase::Shell(shell) => match &shell.work {
                ShellWork::Granted { grant, .. } => Some(grant),
                _ => None,
            },
            _ => None,
        }
    }

    /// The same.
    pub fn granted_mut(&mut self) -> Option<&mut Grant> {
        match self.known_mut() {
            Phase::Granted(grant) => Some(grant),
            Phase::Shell(shell) => match &mut shell.work {
                ShellWork::Granted { grant, .. } => Some(grant),
                _ => None,
            },
            _ => None,
        }
    }

    /// The request of self-service.
    pub fn shell(&self) -> Option<&Shell> {
        match self.known() {
            Phase::Shell(shell) => Some(shell),
            _ => None,
        }
    }

    /// The same.
    pub fn shell_mut(&mut self) -> Option<&mut Shell> {
        match self.known_mut() {
            Phase::Shell(shell) => Some(shell),
            _ => None,
        }
    }

    /// The control request that is not answered yet.
    pub fn take_control(&mut self) -> Option<ControlRequest> {
        match self.known_mut() {
            Phase::Control(request) => request.take(),
            _ => None,
        }
    }
}
