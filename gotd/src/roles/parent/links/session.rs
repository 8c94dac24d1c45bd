//! The messages of sessions. Their content came from a client.

use std::time::Instant;

use libproto::channel::{Message, Received, RecvError};
use libproto::message::client::ClientKind;
use libproto::message::parent::{ParentToAuth, ParentToSession, Pool, SessionToParent, ShellAsk};
use libproto::refusal::{Refusal, Unseen};
use libproto::states::{self, SESSION_TO_PARENT};

use super::super::session::phase::Phase;
use super::super::session::shell::Shell;
use super::super::{LINGER, Parent, same_build};

impl Parent {
    pub(in crate::roles::parent) fn on_session(&mut self, number: u64) {
        loop {
            let Some(session) = self.table.get(number) else { return };
            let Some(child) = session.session.running() else { return };
            match child.channel.try_recv() {
                Ok(received) => self.session_says(number, received),
                Err(e) if e.is_transient() => return,
                // Its process is about to be reaped; that is where its end is noted.
                Err(RecvError::Closed) => {
                    session.phase.end(None);
                    if !session.is_pushing() {
                        session.deadline.get_or_insert(Instant::now() + LINGER);
                    }
                    return;
                }
                Err(e) => return self.end_session(number, &format!("session: {e}")),
            }
        }
    }

    pub(in crate::roles::parent) fn session_says(
        &mut self,
        number: u64,
        received: Received<SessionToParent>,
    ) {
        let Some(session) = self.table.get(number) else { return };
        let message = received.message;
        if !states::allowed(SESSION_TO_PARENT, session.state(), message.kind()) {
            let text = format!("session: {} in state {:?}", message.name(), session.state());
            return self.end_session(number, &text);
        }
        match message {
            SessionToParent::Hello(build) => {
                if !same_build(&build) {
                    return self.end_session(number, "session: another build");
                }
                session.phase = Phase::Waiting;
                self.offer(number);
            }
            SessionToParent::Client(_) if session.pool == Pool::Tcp => {
                self.end_session(number, "session: a greeting over git://");
            }
            SessionToParent::Client(hello) => {
                session.phase = Phase::Greeted;
                session.hello = Some(hello);
                self.consider_user(number);
            }
            SessionToParent::Remote(()) if session.pool == Pool::Tcp => session.phase = Phase::Greeted,
            SessionToParent::Remote(()) => self.end_session(number, "session: not a git:// connection"),
            SessionToParent::Git(ask) => {
                session.phase = Phase::Asked(ask);
                if !session.is_push() {
                    session.drop_push_ends();
                }
                self.consider(number);
            }
            SessionToParent::Control(request) => {
                session.phase = Phase::Control(Some(request));
                session.drop_push_ends();
                self.consider_control(number);
            }
            SessionToParent::Shell(ask) => self.shell_says(number, ask),
            SessionToParent::Begins(commands) => self.begins(number, commands),
            SessionToParent::Silent(silent) => self.client_is_silent(number, silent),
            SessionToParent::Finished(report) => {
                session.phase.end(Some(report));
                session.finished = Some(Instant::now());
                session.deadline = (!session.is_pushing()).then(|| Instant::now() + LINGER);
                self.served = self.served.saturating_add(1);
            }
        }
    }

    /// A request of self-service.
    fn shell_says(&mut self, number: u64, ask: ShellAsk) {
        let Some(session) = self.table.get(number) else { return };
        if session.pool == Pool::Tcp {
            return self.end_session(number, "session: self-service over git://");
        }
        if session.refused.is_some() {
            session.phase = Phase::Ignored;
        } else if session.pool == Pool::Control {
            session.phase = Phase::Ignored;
            self.refuse(number, Refusal::ControlAlone);
        } else {
            session.phase = Phase::Shell(Box::new(Shell::new(ask)));
            session.drop_push_ends();
            self.consider_shell(number);
        }
    }

    /// The session hands on so many commands of a push.
    fn begins(&mut self, number: u64, commands: u32) {
        let most = self.settings.session.commands;
        let Some(session) = self.table.get(number) else { return };
        let push = session.is_push();
        match session.grant_mut() {
            Some(grant) if push && grant.references.is_none() => {
                grant.references = Some(commands.min(most));
            }
            _ => self.end_session(number, "session: a push that begins twice, or is none"),
        }
    }

    /// Asks `auth` once both are known: who it is, and what it wants.
    pub(in crate::roles::parent) fn consider(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.peer().is_none() || !matches!(session.phase, Phase::Asked(_)) {
            return;
        }
        if session.refused.is_some() {
            // Told already.
            return;
        }
        if session.pool == Pool::Control {
            return self.refuse(number, Refusal::ControlAlone);
        }
        if session.told_user().is_err() {
            return self.refuse(number, Refusal::UserName);
        }
        if session.hello.as_ref().is_some_and(|hello| hello.kind != ClientKind::Git) {
            return self.end_session(number, "a Git request of a control client");
        }
        let Some(question) = session.question() else { return };
        self.auth_out.send(&self.auth.channel, number, &ParentToAuth::Ask(question));
    }

    pub(in crate::roles::parent) fn refuse(&mut self, number: u64, refusal: Refusal) {
        let Some(session) = self.table.get(number) else { return };
        session.refused.get_or_insert_with(|| refusal.clone());
        let message = ParentToSession::Refused(refusal);
        let running = session.session.running();
        let sent = running.is_none_or(|child| child.channel.try_send(number, &message).is_ok());
        if !sent {
            self.end_session(number, "does not listen");
        }
    }

    /// Tells a client that it may not see the repository that it asked for.
    pub(in crate::roles::parent) fn not_there(&mut self, number: u64, why: Unseen) {
        let told = self.settings.informative_errors;
        let session = self.table.get(number).filter(|session| told && session.pool == Pool::Tcp);
        let refusal = match session.and_then(|session| session.ask()) {
            Some(ask) => Refusal::Unseen(why, ask.repository.clone()),
            None => Refusal::NoRepository,
        };
        self.refuse(number, refusal);
    }

    /// Answers a control request once `listen` has said whose it is.
    pub(in crate::roles::parent) fn consider_control(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.peer().is_none() {
            return;
        }
        if let Some(request) = session.phase.take_control() {
            self.control(number, &request);
        }
    }
}
