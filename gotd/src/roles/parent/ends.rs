//! The end of processes: signals, reaping, and what the end of each means for its session.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libproto::message::parent::{ParentToListen, ParentToRepo};
use libproto::states::{JobState, RepoState, Role, SessionState};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::reload::Reload;
use super::table::{Ending, Process, Session};
use super::{End, LINGER, Parent, REAP, REPO_ENDED, signals};
use crate::os::log::Level;

impl Parent {
    pub(super) fn on_signals(&mut self) -> Option<End> {
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

    /// Reaps whoever has ended; never waits.
    pub(super) fn reap(&mut self) -> Option<End> {
        loop {
            let status = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            };
            let (Some(pid), Some(ending)) = (status.pid(), Ending::of(status)) else { return None };
            self.complaints.end(pid, &mut self.log);
            for role in [
                (&self.sockets.pid, Role::Sockets),
                (&self.listen.pid, Role::Listen),
                (&self.auth.pid, Role::Auth),
            ] {
                if *role.0 == pid {
                    return Some(End::Lost(format!("{}: {ending}", role.1.name())));
                }
            }
            self.on_session_process_end(pid, ending);
        }
    }

    pub(super) fn on_session_process_end(&mut self, pid: Pid, ending: Ending) {
        let owner = |s: &&Session| s.pids().contains(&pid);
        let Some(number) = self.table.iter().find(owner).map(|s| s.number) else { return };
        // What it said last may still be unread.
        self.on_session(number);
        self.on_repo(number, usize::MAX);
        self.on_verify(number);
        self.on_create(number);
        self.on_list(number);
        let Some(session) = self.table.get(number) else { return };
        let now = Instant::now();
        if session.session.running().is_some_and(|c| c.pid == pid) {
            session.session = Process::Ended(ending);
            session.state = SessionState::Finished;
            // The repository process sees the end of its link, and has this long to take note; a push that is
            // under way is decided without its client, within its own limits.
            session.deadline = (!session.is_pushing()).then_some(now + LINGER);
            if !session.is_pushing() {
                session.verify_ends = None;
            }
            if session.offered || session.peer.is_some() {
                self.listen_out.send(&self.listen.channel, number, &ParentToListen::Gone(()));
            }
            // One that was never told to go on waits for the parent's word alone.
            let told = |s: &&mut Session| {
                let before =
                    [RepoState::Waiting, RepoState::Opening, RepoState::Borrowing, RepoState::Absent];
                !before.contains(&s.repo_state)
            };
            // A pack that nobody waits for any more frees its place.
            let fruitless = |s: &&mut Session| s.turn.is_some() && ending != Ending::Exit(0);
            let idle = self.table.get(number).filter(|s| !told(s) || fruitless(s));
            if let Some(child) = idle.and_then(|s| s.repo.running()) {
                let _ = kill(child.pid, Signal::SIGKILL);
            }
        } else if session.verify.as_ref().and_then(Process::running).is_some_and(|c| c.pid == pid) {
            session.verify = Some(Process::Ended(ending));
            session.verify_state = JobState::Finished;
            session.turn = None;
            self.tell_repo(number, &ParentToRepo::Reaped(ending == Ending::Exit(0)));
        } else if session.create().is_some_and(|c| c.pid == pid) {
            self.create_ended(number, &ending);
        } else if session.list().is_some_and(|c| c.pid == pid) {
            self.list_ended(number);
        } else {
            session.repo = Process::Ended(ending);
            session.repo_state = RepoState::Finished;
            session.turn = None;
            let changing = session.state == SessionState::Shell && session.ask.is_some();
            if session.state == SessionState::Asked || changing && session.repo_report.is_none() {
                self.refuse(number, REPO_ENDED);
            } else if session.peer.is_none() {
                self.end_session(number, "its repository process ended");
            }
        }
        if self.table.get(number).is_some_and(|s| s.is_over())
            && let Some(session) = self.table.remove(number)
        {
            // Not sooner: a process that cannot end counts for whom it served.
            if session.offered || session.peer.is_some() {
                self.listen_out.send(&self.listen.channel, number, &ParentToListen::Over(()));
            }
            self.log_session(&session);
        }
        self.give_turns();
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

    /// Ends both processes of a session, and that session alone.
    pub(super) fn end_session(&mut self, number: u64, why: &str) {
        self.spend_at_end(number);
        let Some(session) = self.table.get(number) else { return };
        if session.killed.is_none() {
            session.killed = Some(why.to_owned());
            session.killed_at = Some(Instant::now());
        }
        session.deadline = Some(Instant::now() + LINGER);
        for pid in session.pids() {
            let _ = kill(pid, Signal::SIGKILL);
        }
    }

    /// Ends every process and waits for them, with a bound.
    pub(super) fn shut_down(&mut self) {
        let _ = libproto::channel::send_record(
            self.sockets.channel.as_fd(),
            &[crate::roles::sockets::ask::TERMINATE],
            false,
        );
        let mut pids = vec![self.listen.pid, self.auth.pid];
        pids.extend(self.reload.as_ref().and_then(Reload::config).map(|child| child.pid));
        for session in self.table.iter() {
            pids.extend(session.pids());
        }
        for pid in pids {
            let _ = kill(pid, Signal::SIGKILL);
        }
        signals::wait_for_all(Duration::from_millis(1500), self.sockets.pid);
        self.log.line(Level::Info, "stopped", &[("sessions", &self.served)]);
        self.log.finish();
    }
}

/// The end of a process that the daemon cannot do without. Its link ends a moment before it can be reaped, and only
/// its status tells why.
pub(super) fn lost(pid: Pid, role: Role, error: &str) -> End {
    let until = Instant::now() + REAP;
    while Instant::now() < until {
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)).map(Ending::of) {
            Ok(Some(ending)) => return End::Lost(format!("{}: {ending}", role.name())),
            Ok(None) => std::thread::sleep(Duration::from_millis(2)),
            Err(_) => break,
        }
    }
    End::Lost(format!("{}: {error}", role.name()))
}
