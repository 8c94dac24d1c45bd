//! Waiting sessions: starting them ahead of time, and offering them to `listen`.

use std::os::fd::OwnedFd;
use std::time::Instant;

use libproto::message::parent::{Order, ParentToListen, ParentToRepo, ParentToSession, Pool, RepoStart};
use libproto::states::{RepoState, Role, SessionState};

use super::Parent;
use super::session::phase::Connection;
use super::session::{RepoChild, Session, SessionChild, VerifyEnds};
use super::settings::Settings;
use crate::os::log::Level;
use crate::os::spawn::{self, ClientPipes};

/// The sockets and pipes that join the processes of one session. They are made before the processes
/// start.
struct Links {
    /// In the order in which role `session` takes them.
    session: Vec<OwnedFd>,
    /// In the order in which role `repository` takes them.
    repo: Vec<OwnedFd>,
    verify: Option<VerifyEnds>,
    commit: Option<OwnedFd>,
    listen: Vec<OwnedFd>,
}

impl Links {
    /// For a client of the unix socket with two pipes; for one of git:// with a link on which
    /// `listen` gives the connection to the repository process as well.
    ///
    /// The parent closes its copies of the pipes' ends as soon as its spawners have them. The
    /// spawners close theirs before they say that a process was started, and before that no client
    /// has one. From then on no process that serves more than one session holds an end. The reason:
    /// closing an end of a pipe waits, even beyond SIGKILL, for a read or write at the
    /// other end, and a client can make that last for ever with memory of its choice, such as a
    /// mapped file of a dead server. The repository process has the copy for `verify`.
    fn new(pool: Pool) -> std::io::Result<Links> {
        let (session_end, repo_end) = spawn::pair()?;
        let (listen_session, from_listen) = spawn::pair()?;
        if pool == Pool::Tcp {
            let (listen_repo, to_repo) = spawn::pair()?;
            return Ok(Links {
                session: vec![from_listen, session_end],
                repo: vec![repo_end, to_repo],
                verify: None,
                commit: None,
                listen: vec![listen_session, listen_repo],
            });
        }
        let (session_verify, verify_session) = spawn::pair()?;
        let (repo_verify, verify_repo) = spawn::pair()?;
        let (repo_commit, commit_repo) = spawn::pair()?;
        let ClientPipes { input, output, theirs: (to, from) } = ClientPipes::new()?;
        Ok(Links {
            repo: vec![repo_end, repo_verify, output.try_clone()?, input.try_clone()?, repo_commit],
            verify: Some([verify_session, verify_repo]),
            commit: Some(commit_repo),
            session: vec![from_listen, session_end, session_verify, input, output, to, from],
            listen: vec![listen_session],
        })
    }
}

impl Parent {
    /// Starts sessions until enough are waiting.
    pub(super) fn refill(&mut self) {
        let now = Instant::now();
        for (pool, wanted) in self.settings.pools.clone() {
            if self.pauses.of(pool).is_on(now) {
                continue;
            }
            // A daemon that is told to stop can be told to hurry.
            if self.draining.is_some() && pool != Pool::Control {
                continue;
            }
            // At most one in each turn, and while somebody waits for an answer only the last
            // reserve is replaced at once: clients that are being served come first.
            if self.table.free(pool) < if self.table.is_anybody_waiting() { 1 } else { wanted }
                && let Err(e) = self.start_session(pool)
            {
                self.log.line(Level::Warning, "session start", &[("error", &e)]);
            }
        }
    }

    fn start_session(&mut self, pool: Pool) -> std::io::Result<()> {
        let number = self.table.next_number();
        let Links { session, repo, verify, commit, listen } = Links::new(pool)?;
        let order = |role| Order { role, git: pool == Pool::Tcp };
        let session: SessionChild = self.spawners.start(order(Role::Session), session)?;
        let repo: RepoChild = match self.spawners.start(order(Role::Repository), repo) {
            Ok(repo) => repo,
            Err(e) => {
                session.end();
                return Err(e);
            }
        };
        self.stderr_pipes.watch(session.number(), Role::Session, &session.stderr);
        self.stderr_pipes.watch(repo.number(), Role::Repository, &repo.stderr);
        let Settings { session: of_users, session_git: of_strangers, .. } = &self.settings;
        let limits = if pool == Pool::Tcp { of_strangers } else { of_users };
        let _ = session.channel.try_send(number, &ParentToSession::Start(limits.clone()));
        let start = RepoStart { strangers: pool == Pool::Tcp, ..self.settings.repo.clone() };
        let _ = repo.channel.try_send(number, &ParentToRepo::Start(start));
        self.table.insert(Session::waiting(number, pool, (session, repo), (verify, commit), listen));
        Ok(())
    }

    /// Offers a session to `listen` once both of its processes have greeted, and their spawners
    /// have said that they were started.
    pub(super) fn offer(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.state() != SessionState::Waiting
            || session.repo_state != RepoState::Waiting
            || session.killed.is_some()
            || !session.processes().all(|process| process.pid().is_some())
        {
            return;
        }
        let Connection::Kept(end) = &mut session.connection else { return };
        let end = std::mem::take(end);
        session.connection = Connection::Offered;
        let message = match session.pool {
            Pool::Tcp => ParentToListen::WaitingGit(()),
            pool => ParentToListen::Waiting(pool),
        };
        // A session that `listen` cannot take yet waits in the queue. Ending it would only start
        // another, which would wait too.
        self.listen_out.send_fds(&self.listen.channel, number, &message, end);
    }
}
