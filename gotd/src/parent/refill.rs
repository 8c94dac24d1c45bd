//! Waiting sessions: starting them ahead of time, and offering them to `listen`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use libproto::message::parent::{ParentToListen, ParentToRepo, ParentToSession, Pool};
use libproto::states::{RepoState, Role, SessionState};
use nix::sys::signal::{Signal, kill};

use super::Parent;
use super::table::{RepoChild, Session, SessionChild};
use crate::log::Level;
use crate::spawn;

/// The pause after the first waiting session that did not live until it could be offered; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so long without a loss the next pause is a short one again.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Keeps the parent from starting processes as fast as they die: where none can live, as on a system whose C library needs a call
/// that the sandbox refuses, it would do nothing else and fill the log.
#[derive(Debug, Default)]
pub struct Pause {
    until: Option<Instant>,
    /// Pauses, less the sessions that have served somebody since.
    losses: u32,
}

impl Pause {
    /// A waiting session has ended before anybody was served. Those that end together make one pause.
    pub fn lost(&mut self, now: Instant) {
        if self.is_on(now) {
            return;
        }
        if self.until.is_some_and(|until| now.saturating_duration_since(until) > FORGOTTEN) {
            self.losses = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.losses.min(10)).min(LONGEST_PAUSE);
        self.losses = self.losses.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// One was taken by a client. That it was offered says nothing yet: it can still be lost before, and a pause that is
    /// forgotten with each offer never grows. One that serves makes up for one pause and no more, so that whoever
    /// connects as fast as he can does not keep the pauses short while the others die.
    pub fn served(&mut self) {
        self.losses = self.losses.saturating_sub(1);
    }

    fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// How long it still is.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

impl Parent {
    /// Starts sessions until enough are waiting.
    pub(super) fn refill(&mut self) {
        if self.pause.is_on(Instant::now()) {
            return;
        }
        for (pool, wanted) in self.settings.pools.clone() {
            // A daemon that is told to stop can be told to hurry.
            if self.draining.is_some() && pool != Pool::Control {
                continue;
            }
            // At most one in each turn, and while somebody waits for an answer only the last reserve is
            // replaced at once: whoever is being served comes first.
            if self.table.free(pool) < if self.table.is_anybody_waiting() { 1 } else { wanted }
                && let Err(e) = self.start_session(pool)
            {
                self.log.line(Level::Warning, "session start", &[("error", &e)]);
            }
        }
    }

    fn start_session(&mut self, pool: Pool) -> Result<(), String> {
        let number = self.table.next_number();
        let text = |e: std::io::Error| e.to_string();
        let (session_end, repo_end) = spawn::pair().map_err(text)?;
        let (session_verify, verify_session) = spawn::pair().map_err(text)?;
        let (repo_verify, verify_repo) = spawn::pair().map_err(text)?;
        let (listen_end, from_listen) = spawn::pair().map_err(text)?;
        let flags = self.settings.flags();
        let session: SessionChild = self
            .starter
            .start(Role::Session, &flags, &[from_listen.as_fd(), session_end.as_fd(), session_verify.as_fd()])
            .map_err(text)?;
        drop((from_listen, session_end, session_verify));
        let repo: RepoChild =
            match self.starter.start(Role::Repository, &flags, &[repo_end.as_fd(), repo_verify.as_fd()]) {
                Ok(repo) => repo,
                Err(e) => {
                    let _ = kill(session.pid, Signal::SIGKILL);
                    return Err(text(e));
                }
            };
        self.complaints.watch(session.pid, Role::Session, &session.stderr);
        self.complaints.watch(repo.pid, Role::Repository, &repo.stderr);
        let _ = session.channel.try_send(0, number, &ParentToSession::Start(self.settings.session.clone()));
        let _ = repo.channel.try_send(0, number, &ParentToRepo::Start(self.settings.repo.clone()));
        let verify_ends = (verify_session, verify_repo);
        self.table.insert(Session::waiting(number, pool, (session, repo), verify_ends, listen_end));
        Ok(())
    }

    /// Offers a session to `listen` once both of its processes have greeted.
    pub(super) fn offer(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.state != SessionState::Waiting
            || session.repo_state != RepoState::Waiting
            || session.offered
            || session.killed.is_some()
        {
            return;
        }
        let Some(end) = session.listen_end.take() else { return };
        session.offered = true;
        let message = ParentToListen::Waiting(session.pool);
        // One that `listen` cannot take yet stays, and waits in line: to end it and start the next would do nothing else.
        self.listen_out.send_fd(&self.listen.channel, number, &message, end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_shrink_with_those_that_serve() {
        let mut now = Instant::now();
        let mut pause = Pause::default();
        assert!(!pause.is_on(now));
        let mut lengths = Vec::new();
        for _ in 0..12 {
            for _ in 0..16 {
                pause.lost(now);
            }
            let left = pause.left(now).expect("a pause");
            lengths.push(left.as_millis());
            now += left;
        }
        pause.lost(now);
        assert_eq!(lengths[..4], [20, 40, 80, 160]);
        assert_eq!(lengths.last(), Some(&5000));
        assert!(pause.is_on(now) && !pause.is_on(now + LONGEST_PAUSE));
        // One that serves makes up for one pause.
        now += LONGEST_PAUSE;
        (0..pause.losses).for_each(|_| pause.served());
        pause.lost(now);
        assert_eq!(pause.left(now), Some(FIRST_PAUSE));
        // So does time for all of them.
        for _ in 0..12 {
            now += pause.left(now).unwrap_or_default();
            pause.lost(now);
        }
        now += LONGEST_PAUSE + FORGOTTEN + FIRST_PAUSE;
        pause.lost(now);
        assert_eq!(pause.left(now), Some(FIRST_PAUSE));
    }
}
