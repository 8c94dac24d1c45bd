//! The third process of a push: starting `verify` with the ends that were kept for it, and its end.
//!
//! It is started as soon as the repository process may go on. Before that process hears its session
//! it hands over the quarantine's files and the client's input, and gives up handing over anything.

use std::time::Duration;

use libproto::message::parent::{
    Ending, ParentToRepo, ParentToVerify, VerifyStart, VerifyToParent, VerifyToParentKind,
};
use libproto::states::{JobState, Role, StateTable, VERIFY_TO_PARENT};

use crate::roles::parent::Parent;
use crate::roles::parent::job::{JobOf, JobReply, JobRole};
use crate::roles::parent::queue::Work;
use crate::roles::parent::session::Session;
use crate::roles::parent::session::grant::{Grant, RepoLocation};
use crate::roles::parent::session::process::Process;

/// Role `verify`. Its limits are its session's: it has no time of its own.
#[derive(Debug)]
pub struct Verify;

impl JobRole for Verify {
    type ToJob = ParentToVerify;
    type FromJob = VerifyToParent;
    const ROLE: Role = Role::Verify;
    const TABLE: &'static StateTable<JobState, VerifyToParentKind> = VERIFY_TO_PARENT;
    const PATIENCE: Option<Duration> = None;

    fn of(session: &Session) -> Option<&JobOf<Verify>> {
        session.grant()?.verify.as_ref().and_then(Process::running)
    }

    fn of_mut(session: &mut Session) -> Option<&mut JobOf<Verify>> {
        session.grant_mut()?.verify.as_mut().and_then(Process::running_mut)
    }

    fn on_message(parent: &mut Parent, number: u64, message: VerifyToParent) -> JobReply {
        match message {
            VerifyToParent::Hello(build) => return JobReply::Greeting(build),
            VerifyToParent::NeedTurn(memory) => parent.need_turn(number, Work::Push, memory),
            VerifyToParent::Stalled(memory) => parent.turn_stalled(number, memory),
            VerifyToParent::Finished(refusal) => {
                if let Some(grant) = parent.table.get(number).and_then(Session::grant_mut) {
                    grant.verify_refusal = Some(refusal);
                }
                return JobReply::Last;
            }
        }
        JobReply::More
    }

    /// Not sooner: at this message the repository process sends a client's pipe, which only the
    /// processes of this session may ever close.
    fn started(parent: &mut Parent, number: u64) {
        parent.send_to_repo(number, &ParentToRepo::Verify(true));
    }

    fn ended(parent: &mut Parent, number: u64, ending: Ending) {
        let job = parent.table.get(number).and_then(|session| Verify::of(session));
        let started = job.is_some_and(|job| job.any().ender.pid().is_some());
        if let Some(grant) = parent.table.get(number).and_then(Session::grant_mut) {
            grant.verify = Some(Process::Ended(ending));
            grant.turn = None;
        }
        match started {
            // A repository process that needed no `verify` may be gone already.
            true => {
                let session = parent.table.get(number);
                if let Some(repo) = session.and_then(|session| session.repo.running()) {
                    let reaped = ParentToRepo::Reaped(ending == Ending::Exit(0));
                    let _ = repo.channel.try_send(number, &reaped);
                }
            }
            false => parent.send_to_repo(number, &ParentToRepo::Verify(false)),
        }
        parent.start_commit(number);
    }
}

impl Parent {
    /// Starts the third process of a push, whose repository is open. Its repository process is told
    /// either way, by `started` or by `ended`.
    pub(in crate::roles::parent) fn start_verify(&mut self, number: u64) {
        let repo = self.settings.repo.clone();
        let (limits, file_size) = (self.settings.session.clone(), self.settings.file_size);
        let Some(session) = self.table.get(number) else { return };
        let ends = session.verify_ends.take();
        let (Some(Grant { permit, borrowing, place: RepoLocation::Open(at, found), .. }), Some(ends)) =
            (session.grant(), ends)
        else {
            return self.send_to_repo(number, &ParentToRepo::Verify(false));
        };
        let start = VerifyStart {
            repository: permit.repository.clone(),
            lent: borrowing.lent().to_vec(),
            memory: repo.memory,
            file_size,
            threads: repo.threads,
            limits,
            found: found.clone(),
            place: at.path.clone(),
        };
        let started = self.start_job::<Verify>(number, ends.into(), &ParentToVerify::Start(start));
        let Ok((job, told)) = started else {
            return self.send_to_repo(number, &ParentToRepo::Verify(false));
        };
        if let Some(grant) = self.table.get(number).and_then(Session::grant_mut) {
            grant.verify = Some(Process::Running(job));
        }
        if !told {
            self.end_session(number, "verify: does not listen");
        }
    }
}
