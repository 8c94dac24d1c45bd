//! What repository processes say.

use std::time::Instant;

use libproto::channel::{Message, RecvError};
use libproto::message::parent::{ParentToRepo, RefReport, RepoToParent};
use libproto::states::{self, REPO_TO_PARENT, RepoState};

use super::super::queue::Work;
use super::super::session::Session;
use super::super::session::grant::Grant;
use super::super::{Parent, same_build};

impl Parent {
    /// Reads messages of a repository process, a bounded number at a time.
    pub(in crate::roles::parent) fn on_repo(&mut self, number: u64, most: usize) {
        for _ in 0..most {
            let Some(session) = self.table.get(number) else { return };
            let Some(child) = session.repo.running() else { return };
            match child.channel.try_recv() {
                Ok(received) => self.repo_says(number, received.message),
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => {
                    session.repo_state = RepoState::Finished;
                    return;
                }
                Err(e) => return self.end_session(number, &format!("repository: {e}")),
            }
        }
    }

    pub(in crate::roles::parent) fn repo_says(&mut self, number: u64, message: RepoToParent) {
        let Some(session) = self.table.get(number) else { return };
        if !states::allowed(REPO_TO_PARENT, session.repo_state, message.kind()) {
            let text = format!("repository: {} in state {:?}", message.name(), session.repo_state);
            return self.end_session(number, &text);
        }
        match message {
            RepoToParent::Hello(build) => {
                if !same_build(&build) {
                    return self.end_session(number, "repository: another build");
                }
                session.repo_state = RepoState::Waiting;
                self.offer(number);
            }
            RepoToParent::Found(at) => self.found(number, at),
            RepoToParent::Opened(opened) => self.looked(number, Ok(opened)),
            RepoToParent::Own(own) => {
                if let Some(grant) = session.grant_mut() {
                    grant.own = Some(own);
                }
            }
            RepoToParent::OpenFailed(error) => self.looked(number, Err(error)),
            RepoToParent::Borrow(places) => self.borrow(number, places),
            RepoToParent::Finished(report) => {
                session.repo_state = RepoState::Finished;
                let refusal = report.refusal.clone();
                let negotiated = report.negotiated;
                if let Some(opened) = session.grant().and_then(Grant::opened) {
                    self.checked.add(opened, &report.checked, Instant::now());
                }
                session.repo_report = Some(report);
                self.spend(number, negotiated);
                self.shell_changed(number, refusal);
            }
            RepoToParent::Ref(report) => self.reference(number, &report),
            RepoToParent::Info(info) => self.shell_info(number, &info),
            RepoToParent::NeedCommit(()) => self.need_commit(number),
            RepoToParent::NeedPack(memory) => self.need_turn(number, Work::Pack, memory),
            RepoToParent::PackStalled(memory) => self.turn_stalled(number, memory),
            RepoToParent::PackCopied(memory) => self.turn_copies(number, memory),
            RepoToParent::PackDone(()) => self.turn_over(number),
            RepoToParent::NeedTurn(ms) => self.negotiation_turn(number, ms),
        }
    }

    /// Sends a message to a session's repository process. A process that does not read its messages
    /// is ended with its session.
    pub(in crate::roles::parent) fn send_to_repo(&mut self, number: u64, message: &ParentToRepo) {
        let Some(session) = self.table.get(number) else { return };
        let sent = session.repo.running().is_none_or(|c| c.channel.try_send(number, message).is_ok());
        if !sent {
            self.end_session(number, "does not listen");
        }
    }

    /// Logs one reference of a push. There are at most as many lines as the session handed on
    /// commands: a repository process that was taken over could fill the disk with lines otherwise.
    pub(in crate::roles::parent) fn reference(&mut self, number: u64, report: &RefReport) {
        let begun = |session: &mut Session| session.grant().is_some_and(|grant| grant.references.is_some());
        if !self.table.get(number).is_some_and(begun) {
            // Messages that the session sent before it told the repository process to begin may be
            // unread.
            self.on_session(number);
        }
        let grant = self.table.get(number).and_then(Session::grant_mut);
        let one_less = grant.and_then(|grant| {
            grant.references = Some(grant.references?.checked_sub(1)?);
            grant.references
        });
        if one_less.is_none() {
            return self
                .end_session(number, "repository: reports on more references than there were commands");
        }
        self.log_ref(number, report);
    }
}
