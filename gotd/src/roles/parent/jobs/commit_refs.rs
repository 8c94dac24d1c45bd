//! The last process of a push that changes packed-refs or the log of HEAD: `commit_refs`. It is
//! started when its repository process asks for it and `verify` has been reaped.

use std::time::Duration;

use libproto::message::parent::{
    CommitStart, CommitToParent, CommitToParentKind, Ending, ParentToCommit, ParentToRepo,
};
use libproto::states::{COMMIT_TO_PARENT, JobState, Role, StateTable};

use crate::roles::parent::Parent;
use crate::roles::parent::job::{JobOf, JobReply, JobRole};
use crate::roles::parent::session::Session;
use crate::roles::parent::session::grant::{Commit, Grant, RepoLocation};
use crate::roles::parent::session::process::Process;

/// Role `commit_refs`. It waits for locks of references, each within its own time.
#[derive(Debug)]
pub struct CommitRefs;

impl JobRole for CommitRefs {
    type ToJob = ParentToCommit;
    type FromJob = CommitToParent;
    const ROLE: Role = Role::CommitRefs;
    const TABLE: &'static StateTable<JobState, CommitToParentKind> = COMMIT_TO_PARENT;
    const PATIENCE: Option<Duration> = None;

    fn of(session: &Session) -> Option<&JobOf<CommitRefs>> {
        match &session.grant()?.commit {
            Commit::Started(process) => process.running(),
            Commit::Not | Commit::Wanted => None,
        }
    }

    fn of_mut(session: &mut Session) -> Option<&mut JobOf<CommitRefs>> {
        match &mut session.grant_mut()?.commit {
            Commit::Started(process) => process.running_mut(),
            Commit::Not | Commit::Wanted => None,
        }
    }

    fn on_message(_: &mut Parent, _: u64, message: CommitToParent) -> JobReply {
        match message {
            CommitToParent::Hello(build) => JobReply::Greeting(build),
            CommitToParent::Done(()) => JobReply::Last,
        }
    }

    fn started(parent: &mut Parent, number: u64) {
        parent.send_to_repo(number, &ParentToRepo::Commit(true));
    }

    fn ended(parent: &mut Parent, number: u64, ending: Ending) {
        let job = parent.table.get(number).and_then(|session| CommitRefs::of(session));
        let started = job.is_some_and(|job| job.any().ender.pid().is_some());
        parent.set_commit(number, Commit::Started(Process::Ended(ending)));
        if !started {
            parent.send_to_repo(number, &ParentToRepo::Commit(false));
        }
    }
}

impl Parent {
    /// The repository process of a push has changes for `commit_refs`.
    pub(in crate::roles::parent) fn need_commit(&mut self, number: u64) {
        let session = self.table.get(number);
        let grant = session.filter(|session| session.is_pushing()).and_then(|session| session.grant());
        if !grant.is_some_and(|grant| matches!(grant.commit, Commit::Not)) {
            return self.end_session(number, "repository: asked for commit_refs where none belongs");
        }
        self.set_commit(number, Commit::Wanted);
        self.start_commit(number);
    }

    fn set_commit(&mut self, number: u64, commit: Commit) {
        if let Some(grant) = self.table.get(number).and_then(Session::grant_mut) {
            grant.commit = commit;
        }
    }

    /// Starts `commit_refs`, if it is wanted and `verify` has been reaped. The repository process is
    /// told either way, by `started` or by `ended`.
    pub(in crate::roles::parent) fn start_commit(&mut self, number: u64) {
        let memory = self.settings.repo.memory;
        let Some(session) = self.table.get(number) else { return };
        let Some(Grant { commit: Commit::Wanted, verify, .. }) = session.grant() else { return };
        if verify.as_ref().is_some_and(|verify| verify.running().is_some())
            || session.repo.running().is_none()
        {
            return;
        }
        let end = session.commit_end.take();
        let (Some(Grant { permit, place: RepoLocation::Open(at, found), .. }), Some(end)) =
            (session.grant(), end)
        else {
            return self.send_to_repo(number, &ParentToRepo::Commit(false));
        };
        let Some(rules) = permit.push_rules.clone() else {
            return self.send_to_repo(number, &ParentToRepo::Commit(false));
        };
        let start = CommitStart {
            repository: permit.repository.clone(),
            found: found.clone(),
            place: at.path.clone(),
            memory,
            who: permit.identity.clone(),
            rules,
        };
        let started = self.start_job::<CommitRefs>(number, vec![end], &ParentToCommit::Start(start));
        let Ok((job, told)) = started else {
            return self.send_to_repo(number, &ParentToRepo::Commit(false));
        };
        self.set_commit(number, Commit::Started(Process::Running(job)));
        if !told {
            self.end_session(number, "commit_refs: does not listen");
        }
    }
}
