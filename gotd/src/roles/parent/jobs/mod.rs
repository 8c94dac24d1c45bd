//! The table of roles whose processes do one thing and end, and the operations on all of them.

pub mod commit_refs;
pub mod create;
pub mod list;
pub mod verify;

use std::time::Instant;

use libproto::message::parent::Ending;

use self::commit_refs::CommitRefs;
use self::create::Create;
use self::list::List;
use self::verify::Verify;
use super::Parent;
use super::job::Row;
use super::session::Session;
use super::session::job::AnyJob;
use super::spawners::{Child, Ender};

/// A row for each such role.
pub static JOBS: [Row; 4] =
    [Row::of::<Verify>(), Row::of::<CommitRefs>(), Row::of::<Create>(), Row::of::<List>()];

impl Session {
    /// The jobs that are under way for it.
    pub(super) fn jobs(&self) -> impl Iterator<Item = (&'static Row, AnyJob<'_>)> {
        JOBS.iter().filter_map(|row| Some((row, (row.of)(self)?)))
    }

    /// The processes that have not been reaped.
    pub(super) fn processes(&self) -> impl Iterator<Item = Ender> {
        let session = self.session.running().map(Child::ender);
        let repo = self.repo.running().map(Child::ender);
        session.into_iter().chain(repo).chain(self.jobs().map(|(_, job)| job.ender))
    }

    /// Whether all its processes have been reaped.
    pub(super) fn is_over(&self) -> bool {
        self.processes().next().is_none()
    }
}

impl Parent {
    /// Reads the unread messages of a session's jobs.
    pub(super) fn recv_from_jobs(&mut self, number: u64) {
        for row in &JOBS {
            (row.recv)(self, number);
        }
    }

    /// The process of a session's job, of this number, was started.
    pub(super) fn job_started(&mut self, number: u64, job: u64) {
        if let Some(row) = self.row_of(number, job) {
            (row.started)(self, number);
        }
    }

    /// The process of a session's job, of this number, has been reaped.
    pub(super) fn job_ended(&mut self, number: u64, job: u64, ending: Ending) {
        if let Some(row) = self.row_of(number, job) {
            (row.ended)(self, number, ending);
        }
    }

    fn row_of(&mut self, number: u64, job: u64) -> Option<&'static Row> {
        let session = self.table.get(number)?;
        session.jobs().find(|(_, any)| any.ender.number() == job).map(|(row, _)| row)
    }

    /// Ends jobs that take too long.
    pub(super) fn expire_jobs(&mut self) {
        let now = Instant::now();
        for (_, job) in self.table.iter().flat_map(Session::jobs) {
            if job.until.is_some_and(|until| until <= now) {
                job.ender.end();
            }
        }
    }
}
