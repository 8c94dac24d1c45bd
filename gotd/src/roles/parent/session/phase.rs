//! The phase of a session, with the facts that are known only from that phase on.

use std::os::fd::OwnedFd;
use std::time::Instant;

use libproto::message::client::ControlRequest;
use libproto::message::parent::{GitAsk, Peer, Permit, SessionReport};
use libproto::states::SessionState;

use super::grant::Grant;
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

impl Connection {
    /// Whether `listen` knows of it.
    pub fn is_known(&self) -> bool {
        !matches!(self, Connection::Kept(_))
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

    /// What was granted, to change it.
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

    /// The request of self-service, to change it.
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
