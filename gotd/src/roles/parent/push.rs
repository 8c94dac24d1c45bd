//! The third process of a push: starting `verify` with the ends that were kept for it, and its end.

use std::os::fd::AsFd;

use libproto::channel::{Message, RecvError};
use libproto::message::parent::{ParentToRepo, ParentToVerify, VerifyStart, VerifyToParent};
use libproto::states::{self, JobState, Role, VERIFY_TO_PARENT};

use super::place::Place;
use super::queue::Work;
use super::table::{Process, VerifyChild};
use super::{Parent, same_build};

impl Parent {
    /// Starts the third process of a push. Its repository process is told either way.
    pub(super) fn start_verify(&mut self, number: u64) {
        let flags = self.settings.flags();
        let repo = self.settings.repo.clone();
        let (limits, file_size) = (self.settings.session.clone(), self.settings.file_size);
        let Some(session) = self.table.get(number) else { return };
        let ends = session.verify_ends.take();
        let (true, Some(permit), Some(found), Place::Right(at), Some(ends)) =
            (session.is_pushing(), &session.permit, &session.opened, &session.place, ends)
        else {
            return self.end_session(number, "repository: asked for verify where none belongs");
        };
        let start = VerifyStart {
            repository: permit.repository.clone(),
            lent: session.borrowing.lent().to_vec(),
            memory: repo.memory,
            file_size,
            threads: repo.threads,
            limits,
            found: found.clone(),
            place: at.path.clone(),
        };
        let fds = ends.each_ref().map(AsFd::as_fd);
        let child: Option<VerifyChild> = self.starter.start(Role::Verify, &flags, &fds).ok();
        let started = child
            .as_ref()
            .is_some_and(|c| c.channel.try_send(0, number, &ParentToVerify::Start(start)).is_ok());
        if let Some(child) = child {
            self.complaints.watch(child.pid, Role::Verify, &child.stderr);
            session.verify = Some(Process::Running(child));
        }
        self.tell_repo(number, &ParentToRepo::Verify(started));
    }

    /// Tells the repository process of a session something; one that does not listen is ended.
    pub(super) fn tell_repo(&mut self, number: u64, message: &ParentToRepo) {
        let Some(session) = self.table.get(number) else { return };
        let sent = session.repo.running().is_none_or(|c| c.channel.try_send(0, number, message).is_ok());
        if !sent {
            self.end_session(number, "does not listen");
        }
    }

    /// What the verify process of a session says.
    pub(super) fn on_verify(&mut self, number: u64) {
        loop {
            let Some(session) = self.table.get(number) else { return };
            let Some(child) = session.verify.as_ref().and_then(Process::running) else { return };
            let message = match child.channel.try_recv() {
                Ok(received) => received.message,
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => {
                    session.verify_state = JobState::Finished;
                    return;
                }
                Err(e) => return self.end_session(number, &format!("verify: {e}")),
            };
            if !states::allowed(VERIFY_TO_PARENT, session.verify_state, message.kind()) {
                let text = format!("verify: {} in state {:?}", message.name(), session.verify_state);
                return self.end_session(number, &text);
            }
            match message {
                VerifyToParent::Hello(build) if same_build(&build) => {
                    session.verify_state = JobState::Working;
                }
                VerifyToParent::Hello(_) => return self.end_session(number, "verify: another build"),
                VerifyToParent::NeedTurn(memory) => self.need_turn(number, Work::Push, memory),
                VerifyToParent::Stalled(memory) => self.turn_stalled(number, memory),
                VerifyToParent::Finished(text) => {
                    session.verify_state = JobState::Finished;
                    session.verify_text = text;
                }
            }
        }
    }
}
