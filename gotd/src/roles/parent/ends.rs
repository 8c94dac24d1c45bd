//! The end of processes: signals, reaping, and what the end of each means for its session.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libproto::message::parent::ParentToListen;
use libproto::refusal::Refusal;
use libproto::states::{RepoState, Role, SessionState};
use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::error::{Fatal, Loss};
use super::reloading::Reload;
use super::session::process::{Ending, Process};
use super::session::{Killed, Session};
use super::{End, LINGER, Parent, signals};
use crate::os::log::Level;
use crate::os::spawn::{Child, Ender};

/// A process of a session.
enum SessionProcess {
    Session,
    Repository,
    /// The job of this number.
    Job(u64),
}

impl Session {
    /// Which of its processes the system knows by this pid.
    fn process(&self, pid: Pid) -> Option<SessionProcess> {
        let is = |ender: Option<Ender>| ender.is_some_and(|ender| ender.is(pid));
        if is(self.session.running().map(Child::ender)) {
            return Some(SessionProcess::Session);
        }
        if is(self.repo.running().map(Child::ender)) {
            return Some(SessionProcess::Repository);
        }
        self.jobs().find(|(_, job)| job.ender.is(pid)).map(|(_, job)| SessionProcess::Job(job.number))
    }
}

impl Parent {
    pub(super) fn on_signals(&mut self, _: PollFlags) -> Option<End> {
        let mut end = None;
        for signal in signals::drain_signals(&mut self.signals) {
            match signal {
                Signal::SIGCHLD => end = self.reap().or(end),
                Signal::SIGHUP => self.reload(None, None),
                Signal::SIGTERM | Signal::SIGINT => end = Some(End::Stopped),
                _ => {}
            }
        }
        end
    }

    /// Reaps all processes that have ended; never waits.
    pub(super) fn reap(&mut self) -> Option<End> {
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let (Some(pid), Some(ending)) = (status.pid(), Ending::of(status)) else { return None };
            self.stderr_pipes.end(pid, &mut self.log);
            for role in [
                (&self.sockets.pid, Role::Sockets),
                (&self.listen.pid, Role::Listen),
                (&self.auth.pid, Role::Auth),
            ] {
                if *role.0 == pid {
                    return Some(End::Lost(Fatal { role: role.1, why: Loss::Ended(ending) }));
                }
            }
            self.process_ended(pid, ending);
        }
    }

    /// Finds what a reaped process belonged to, and takes the consequences.
    fn process_ended(&mut self, pid: Pid, ending: Ending) {
        let Some((number, process)) = self.table.iter().find_map(|s| Some((s.number, s.process(pid)?)))
        else {
            return;
        };
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
            session.verify_ends = None;
        }
        if session.connection.is_known() {
            self.listen_out.send(&self.listen.channel, number, &ParentToListen::Gone(()));
        }
        // A repository process that was never told to go on waits only for the parent's word.
        let before = [RepoState::Waiting, RepoState::Opening, RepoState::Borrowing, RepoState::Absent];
        let told = !before.contains(&session.repo_state);
        // A pack that nobody waits for any more frees its place.
        let fruitless = session.turn().is_some() && ending != Ending::Exit(0);
        if !told || fruitless {
            session.repo.running().inspect(|child| child.end());
        }
    }

    fn repo_ended(&mut self, number: u64, ending: Ending) {
        let Some(session) = self.table.get(number) else { return };
        session.repo = Process::Ended(ending);
        session.repo_state = RepoState::Finished;
        session.end_turn();
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
        session.processes().for_each(Ender::end);
    }

    /// Ends every process and waits for them, with a bound.
    pub(super) fn shut_down(&mut self) {
        let _ = libproto::channel::send_record(
            self.sockets.channel.as_fd(),
            &[crate::roles::sockets::ask::TERMINATE],
            false,
        );
        let config = self.reload.as_ref().and_then(Reload::config).map(Child::ender);
        let lasting = [self.listen.ender(), self.auth.ender()].into_iter().chain(config);
        lasting.chain(self.table.iter().flat_map(Session::processes)).for_each(Ender::end);
        signals::wait_for_all(Duration::from_millis(1500), self.sockets.pid);
        self.log.line(Level::Info, "stopped", &[("sessions", &self.served)]);
        self.log.finish();
    }
}
