//! A job: a process that is started for one thing, answers, and ends.
//!
//! A role with such processes is a file that implements [`JobRole`] and a row in
//! [`JOBS`](super::jobs::JOBS). This file has what these roles share: start, greeting, table of
//! states, deadline. Reaping is in [`ends`](super::ends).

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use libproto::channel::{Message, RecvError};
use libproto::message::parent::{Build, Ending, Order};
use libproto::states::{self, JobState, Role};

use super::session::Session;
use super::session::job::{AnyJob, Job};
use super::spawners::Child;
use super::{Parent, same_build};

/// The place of a message in a job's conversation.
pub enum JobReply {
    /// Its first one.
    Greeting(Build),
    /// Part of its answer; more follows.
    More,
    /// The last one.
    Last,
}

/// The job of a role.
pub type JobOf<J> = Job<<J as JobRole>::ToJob, <J as JobRole>::FromJob>;

/// A role whose processes do one thing and end; a session has one of them at a time.
pub trait JobRole {
    /// Messages to the process.
    type ToJob: Message + 'static;
    /// What it says.
    type FromJob: Message + 'static;
    /// The role.
    const ROLE: Role;
    /// The messages that the process may send in each state.
    const TABLE: &'static states::StateTable<JobState, <Self::FromJob as Message>::Kind>;
    /// How long it may take; without it, as long as its session.
    const PATIENCE: Option<Duration>;

    /// The job of a session, until it is reaped. A role that keeps it elsewhere says where.
    fn of(session: &Session) -> Option<&JobOf<Self>> {
        session.kept.of()
    }

    /// The job of a session, to change it.
    fn of_mut(session: &mut Session) -> Option<&mut JobOf<Self>> {
        session.kept.of_mut()
    }

    /// Takes a message that is allowed now.
    fn on_message(parent: &mut Parent, number: u64, message: Self::FromJob) -> JobReply;
    /// Its process was started, and no other process has its descriptors any more.
    fn started(_: &mut Parent, _: u64) {}
    /// Takes the job out of its session: its process has been reaped, or could not be started.
    fn ended(parent: &mut Parent, number: u64, ending: Ending);
}

/// A row of the table of job roles: the operations that do not depend on the role's messages.
pub struct Row {
    /// The job of a session.
    pub of: for<'s> fn(&'s Session) -> Option<AnyJob<'s>>,
    /// Reads the job's messages.
    pub recv: fn(&mut Parent, u64),
    /// Its process was started.
    pub started: fn(&mut Parent, u64),
    /// Its process has been reaped, or could not be started.
    pub ended: fn(&mut Parent, u64, Ending),
}

impl Row {
    /// The row of a role.
    pub const fn of<J: JobRole>() -> Row {
        Row { of: any_of::<J>, recv: Parent::recv_from_job::<J>, started: J::started, ended: J::ended }
    }
}

fn any_of<J: JobRole>(session: &Session) -> Option<AnyJob<'_>> {
    J::of(session).map(Job::any)
}

impl Parent {
    /// Starts the process of a job and sends it its task; returns whether that could be sent. The
    /// caller keeps the job, until it has ended, where [`JobRole::of`] finds it.
    pub(super) fn start_job<J: JobRole>(
        &mut self,
        number: u64,
        fds: Vec<OwnedFd>,
        task: &J::ToJob,
    ) -> io::Result<(JobOf<J>, bool)> {
        let child: Child<J::ToJob, J::FromJob> = self.spawners.start(Order::of(J::ROLE), fds)?;
        self.stderr_pipes.watch(child.number(), J::ROLE, &child.stderr);
        let job = Job::new(child, J::PATIENCE);
        // The socket is empty: there is room for one message.
        let told = job.send(number, task).is_ok();
        Ok((job, told))
    }

    /// Tells the job of a session, if there is one, something more.
    pub(super) fn send_to_job<J: JobRole>(&mut self, number: u64, message: &J::ToJob) {
        let job = self.table.get(number).and_then(|session| J::of(session));
        if job.is_some_and(|job| job.send(number, message).is_err()) {
            self.end_session(number, "does not listen");
        }
    }

    /// Reads the messages of a session's job. A message out of order ends the session.
    fn recv_from_job<J: JobRole>(&mut self, number: u64) {
        let role = J::ROLE.name();
        loop {
            let Some(job) = self.table.get(number).and_then(J::of_mut) else { return };
            let message = match job.channel.try_recv() {
                Ok(received) => received.message,
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => {
                    job.closed = true;
                    return;
                }
                Err(e) => return self.end_session(number, &format!("{role}: {e}")),
            };
            if !states::allowed(J::TABLE, job.state, message.kind()) {
                let text = format!("{role}: {} in state {:?}", message.name(), job.state);
                return self.end_session(number, &text);
            }
            let state = match J::on_message(self, number, message) {
                JobReply::Greeting(build) if same_build(&build) => JobState::Working,
                JobReply::Greeting(_) => return self.end_session(number, &format!("{role}: another build")),
                JobReply::More => continue,
                JobReply::Last => JobState::Finished,
            };
            if let Some(job) = self.table.get(number).and_then(J::of_mut) {
                job.state = state;
            }
        }
    }
}
