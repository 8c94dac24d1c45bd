//! The end of processes: signals, reaping, and what the end of each means for its session.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libproto::message::parent::{Ending, ParentToListen};
use libproto::refusal::Refusal;
use libproto::states::{RepoState, Role, SessionState};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::error::{Fatal, Loss};
use super::job::JobRole;
use super::jobs::commit_refs::CommitRefs;
use super::jobs::verify::Verify;
use super::session::process::Process;
use super::session::{Killed, Session};
use super::spawners::{Ender, Event};
use super::{End, LINGER, Parent, REAP};
use crate::os::log::Level;
use crate::os::signals;

/// A process of a session.
enum SessionProcess {
    Session,
    Repository,
    /// The job of this number.
    Job(u64),
}

impl Session {
    /// Which of its processes has this number.
    fn process(&self, process: u64) -> Option<SessionProcess> {
        if self.session.running().is_some_and(|child| child.number() == process) {
            return Some(SessionProcess::Session);
        }
        if self.repo.running().is_some_and(|child| child.number() == process) {
            return Some(SessionProcess::Repository);
        }
        self.jobs().find(|(_, job)| job.ender.number() == process).map(|_| SessionProcess::Job(process))
    }
}

impl Parent {
    pub(super) fn on_signals(&mut self, _: PollFlags) -> Option<End> {
        let mut end = None;
        for signal in signals::drain(&mut self.signals) {
            match signal {
                Signal::SIGHUP => self.reload(None, None),
                Signal::SIGTERM | Signal::SIGINT => end = Some(End::Stopped),
                _ => {}
            }
        }
        end
    }

    /// What the spawners say: processes that were started, and that have ended.
    pub(super) fn on_spawners(&mut self, _: PollFlags) -> Option<End> {
        let events = match self.spawners.recv() {
            Ok(events) => events,
            Err(e) => return Some(End::Lost(Fatal { role: Role::Spawner, why: Loss::Spawner(e) })),
        };
        let mut end = None;
        for (process, event) in events {
            match event {
                Event::Started => self.process_started(&process),
                Event::Ended(ending, errno) => {
                    let number = process.number();
                    self.stderr_pipes.end(number, &mut self.log);
                    if let Some(errno) = errno {
                        let error = std::io::Error::from_raw_os_error(errno);
                        self.log.line(Level::Warning, "process start", &[("error", &error)]);
                    }
                    let lasting = [(self.listen.number(), Role::Listen), (self.auth.number(), Role::Auth)];
                    if let Some((_, role)) = lasting.into_iter().find(|(other, _)| *other == number) {
                        end = Some(End::Lost(Fatal { role, why: Loss::Ended(ending) }));
                    }
                    self.process_ended(number, ending);
                }
            }
        }
        end
    }

    /// A process was started, and no other process has its descriptors any more.
    fn process_started(&mut self, process: &Ender) {
        if let Some(pid) = process.pid() {
            self.stderr_pipes.started(process.number(), pid);
        }
        match self.process_of(process.number()) {
            Some((number, SessionProcess::Job(job))) => self.job_started(number, job),
            Some((number, SessionProcess::Session | SessionProcess::Repository)) => self.offer(number),
            None => {}
        }
    }

    /// The session that a process belongs to, and which of its processes it is.
    fn process_of(&self, process: u64) -> Option<(u64, SessionProcess)> {
        self.table.iter().find_map(|session| Some((session.number, session.process(process)?)))
    }

    /// Finds what a process that has ended belonged to, and takes the consequences.
    fn process_ended(&mut self, process: u64, ending: Ending) {
        let Some((number, process)) = self.process_of(process) else { return };
        // The session's last message may still be unread.
        self.on_session(number);
        self.on_repo(number, usize::MAX);
        self.recv_from_jobs(number);
        match process {
            SessionProcess::Session => self.session_ended(number, ending),
            SessionProcess::Repository => self.repo_ended(number, ending),
            SessionProcess::Job(job) => self.job_ended(number, job, ending),
        }
        if self.table.get(number).is_some_and(|s| s.is_over())
            && let Some(session) = self.table.remove(number)
        {
            // Not sooner: a process that cannot end still counts for the user it served.
            if session.connection.is_known() {
                self.listen_out.send(&self.listen.channel, number, &ParentToListen::Over(()));
            }
            self.log_session(&session);
        }
        self.start_turns();
    }

    fn session_ended(&mut self, number: u64, ending: Ending) {
        let Some(session) = self.table.get(number) else { return };
        session.session = Process::Ended(ending);
        session.phase.end(None);
        // The repository process sees the end of its link, and has this long to take note; a push
        // that is under way is decided without its client, within its own limits.
        session.deadline = (!session.is_pushing()).then_some(Instant::now() + LINGER);
        if !session.is_pushing() {
            session.drop_push_ends();
        }
        if session.connection.is_known() {
            self.listen_out.send(&self.listen.channel, number, &ParentToListen::Gone(()));
        }
        // A repository process that was never told to go on waits only for the parent's word.
        let before = [RepoState::Waiting, RepoState::Opening, RepoState::Borrowing, RepoState::Absent];
        let told = !before.contains(&session.repo_state);
        // A pack that nobody waits for any more frees its place.
        let fruitless = session.turn().is_some() && ending != Ending::Exit(0);
        match Verify::of(session) {
            // Without `verify` its repository process takes the quarantine away and ends.
            Some(verify) if told && fruitless => {
                verify.any().ender.end();
                session.deadline = Some(Instant::now() + LINGER);
            }
            _ if !told || fruitless => {
                session.repo.running().inspect(|child| child.end());
            }
            _ => {}
        }
    }

    fn repo_ended(&mut self, number: u64, ending: Ending) {
        let Some(session) = self.table.get(number) else { return };
        session.repo = Process::Ended(ending);
        session.repo_state = RepoState::Finished;
        session.end_turn();
        // What its client was not told is not to be done later.
        if let Some(job) = CommitRefs::of(session).filter(|job| !job.is_done()) {
            job.any().ender.end();
        }
        let changing = session.state() == SessionState::Shell && session.ask().is_some();
        if session.state() == SessionState::Asked || changing && session.repo_report.is_none() {
            self.refuse(number, Refusal::RepositoryEnded);
        } else if session.peer().is_none() {
            self.end_session(number, "its repository process ended");
        }
    }

    /// Ends what should have ended by itself.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> =
            self.table.iter().filter(|s| s.deadline.is_some_and(|d| d <= now)).map(|s| s.number).collect();
        for number in late {
            self.end_session(number, "did not end by itself");
        }
    }

    /// Ends every process of a session, and that session alone.
    pub(super) fn end_session(&mut self, number: u64, why: &str) {
        self.spend_at_end(number);
        let Some(session) = self.table.get(number) else { return };
        session.killed.get_or_insert_with(|| Killed { why: why.to_owned(), at: Instant::now() });
        session.deadline = Some(Instant::now() + LINGER);
        session.processes().for_each(|process| process.end());
    }

    /// Ends every process and waits for them, with a bound.
    pub(super) fn shut_down(&mut self) {
        let _ = libproto::channel::send_record(
            self.sockets.channel.as_fd(),
            &[crate::roles::sockets::ask::TERMINATE],
            false,
        );
        let until = Instant::now() + Duration::from_millis(1500);
        self.spawners.end_all(until);
        // It unlinks its sockets, by names that the next daemon's may have.
        let mut sockets = [PollFd::new(self.sockets.channel.as_fd(), PollFlags::empty())];
        let left = until.saturating_duration_since(Instant::now());
        let _ = poll(&mut sockets, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO));
        self.log.line(Level::Info, "stopped", &[("sessions", &self.served)]);
        self.log.finish();
    }

    /// The end of a process that the daemon cannot do without. Its link ends a moment before its
    /// spawner can reap it, and only its status tells why.
    pub(super) fn lost(&mut self, process: u64, role: Role, why: Loss) -> End {
        End::Lost(match self.spawners.await_end(process, REAP) {
            Ok(ending) => Fatal { role, why: ending.map_or(why, Loss::Ended) },
            Err(lost) => Fatal { role: Role::Spawner, why: Loss::Spawner(lost) },
        })
    }
}
