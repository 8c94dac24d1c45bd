//! `parent`: starts every other process and keeps the table of sessions.
//!
//! Duty: owns the configuration, the table of sessions, timers and the log. Waits on: its children and
//! signals. Talks to: every process it started.
//!
//! **Invariant:** never reads a byte that a client wrote, never opens a repository, never holds a client's
//! connection. What a session reports came from a client and is treated as hostile: bounded, typed, and allowed
//! only in the state that the table in `libproto::states` says.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libproto::channel::{Message, Received, RecvError};
use libproto::command::Service;
use libproto::message::client::ClientKind;
use libproto::message::parent::{
    Access, AuthToParent, Build, ListenToParent, LoadConfig, ParentToAuth, ParentToListen, ParentToRepo,
    ParentToSession, Peer, Permit, Pool, Question, RefReport, RepoToParent, Serve, SessionToParent, Verdict,
};
use libproto::names::UserName;
use libproto::request::daemon;
use libproto::states::{self, JobState, REPO_TO_PARENT, RepoState, Role, SESSION_TO_PARENT, SessionState};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use self::checked::Checked;
use self::listeners::Listeners;
use self::metrics::Metrics;
use self::outbox::Outbox;
use self::queue::Work;
use self::reload::Reload;
use self::stderr::Complaints;
use self::table::{Creation, Ending, Process, Session, Table};
use crate::conf::limits::Limit;
use crate::os::log::{Level, Log};
use crate::os::spawn::{Child, Starter};

pub mod bind;
pub mod borrow;
pub mod checked;
pub mod control;
pub mod create;
pub mod crowd;
pub mod detach;
pub mod listen_place;
pub mod listeners;
pub mod metrics;
pub mod negotiation;
pub mod outbox;
pub mod place;
pub mod push;
pub mod queue;
pub mod reload;
pub mod report;
pub mod sd_notify;
pub mod selfservice;
pub mod set_limits;
pub mod settings;
pub mod signals;
pub mod startup;
pub mod stderr;
pub mod table;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod waiting_pool;

/// How long a session may take to be over once it has reported its end, or its repository process once the
/// session is gone.
const LINGER: Duration = Duration::from_secs(10);
/// How long the end of a process is waited for whose link has ended.
const REAP: Duration = Duration::from_millis(200);
/// How long those may not be heard who hardly ever speak, while there is more to do: standard errors, and repository processes that
/// wait. Each descriptor costs its part every time the parent waits, and there are several for each session.
const SELDOM: Duration = Duration::from_millis(100);
/// Messages of one repository process that are read before others are listened to again: one that was taken over and
/// never stops must not be all that the parent hears. Once it has ended, what it left is read to the end.
const AT_ONCE: usize = 64;

/// What the client of a repository that it may not see is told.
const NOT_FOUND: &str = "no git repository found";
/// Why it may not, in git-daemon's words: for those who come over git://, where the administrator wants them told.
const NO_SUCH: &str = "no such repository";
const NOT_EXPORTED: &str = "repository not exported";
const NOT_PERMITTED: &str = "access denied or repository not exported";
/// What a client is told whose repository process is no more.
const REPO_ENDED: &str = "the repository process ended";
/// For the log and gotctl.
const TAKES_DESCRIPTORS: &str = "clients can send descriptors: only Linux 6.16 and newer refuse them";
/// What a client of Git is told at a control socket.
const CONTROL_ALONE: &str = "a control socket serves gotctl alone";

/// What a client beyond its number of connections is told; `own` is whether its user has a number of their own.
fn too_many(own: bool) -> String {
    let limit = if own { Limit::ConnectionsOfUser } else { Limit::ConnectionsPerUser };
    format!("connection limit exceeded {}", limit.hint())
}

/// Everything the parent knows.
pub struct Parent {
    starter: Starter,
    log: Log,
    settings: settings::Settings,
    signals: UnixStream,
    sockets: Child<ParentToListen, ListenToParent>,
    listeners: Listeners,
    listen: Child<ParentToListen, ListenToParent>,
    listen_out: Outbox,
    auth: Child<ParentToAuth, AuthToParent>,
    auth_out: Outbox,
    complaints: Complaints,
    table: Table,
    started: Instant,
    served: u64,
    metrics: Metrics,
    checked: Checked,
    /// When those who hardly ever speak were last listened to.
    listened: Instant,
    draining: Option<control::Drain>,
    /// Whose turn it was for costly work, the last one at the end.
    turns: std::collections::VecDeque<queue::Whose>,
    /// Who has used how much processor time before anything was granted.
    spent: negotiation::Spent,
    /// The files that the configuration came from.
    files: LoadConfig,
    /// `-v`, whatever the configuration says.
    verbose: bool,
    reload: Option<Reload>,
    /// When a waiting session may be started after some that did not live.
    pauses: waiting_pool::Pauses,
    /// Why the daemon cannot go on, found while something else was done.
    unsound: Option<String>,
    /// Clients can send descriptors, because the kernel cannot refuse them.
    takes_descriptors: bool,
}

/// Why the loop ended.
enum End {
    /// As asked.
    Stopped,
    /// A process that the daemon cannot do without is gone.
    Lost(String),
}

/// One thing that poll can report.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listen,
    Auth,
    Sockets,
    Config,
    Session(u64),
    Repo(u64),
    Verify(u64),
    Create(u64),
    List(u64),
    Stderr(Pid),
    Log,
}

impl Parent {
    /// Serves until the daemon is told to stop or cannot go on.
    pub fn serve(mut self) -> Result<(), String> {
        self.refill();
        let end = loop {
            if let Some(end) = self.turn() {
                break end;
            }
        };
        let result = match end {
            End::Stopped => Ok(()),
            End::Lost(what) => {
                self.log.line(Level::Error, "fatal", &[("error", &what)]);
                Err(what)
            }
        };
        self.shut_down();
        result
    }

    /// One turn of the loop.
    fn turn(&mut self) -> Option<End> {
        let all = self.listened.elapsed() >= SELDOM;
        let (sources, ready) = self.wait(all);
        if all {
            self.listened = Instant::now();
        }
        for (source, events) in sources.into_iter().zip(ready) {
            if events.is_empty() {
                continue;
            }
            let end = match source {
                Source::Signals => self.on_signals(),
                Source::Listen => self.on_listen(events),
                Source::Auth => self.on_auth(events),
                Source::Sockets => Some(lost(self.sockets.pid, Role::Sockets, "ended")),
                Source::Config => {
                    self.on_config();
                    None
                }
                Source::Session(number) => {
                    self.flush_shell(number);
                    self.on_session(number);
                    None
                }
                Source::Repo(number) => {
                    self.on_repo(number, AT_ONCE);
                    None
                }
                Source::Verify(number) => {
                    self.on_verify(number);
                    None
                }
                Source::Create(number) => {
                    self.on_create(number);
                    None
                }
                Source::List(number) => {
                    self.on_list(number);
                    None
                }
                Source::Stderr(pid) => {
                    self.complaints.read(pid, &mut self.log);
                    None
                }
                Source::Log => {
                    self.log.flush();
                    None
                }
            };
            if end.is_some() {
                return end;
            }
        }
        self.expire();
        self.expire_turns();
        self.expire_reload();
        self.expire_creations();
        self.expire_lists();
        self.refill();
        self.unsound.take().map(End::Lost).or_else(|| self.drained())
    }

    /// Waits for something to happen; at most a second, for the timers. Unless it listens to `all`, at most until that
    /// is due again.
    fn wait<'a>(&'a self, all: bool) -> (Vec<Source>, Vec<PollFlags>) {
        let mut sources = vec![Source::Signals, Source::Listen, Source::Auth, Source::Sockets];
        let out = |outbox: &Outbox| {
            if outbox.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
        };
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listen.channel.as_fd(), out(&self.listen_out)),
            PollFd::new(self.auth.channel.as_fd(), out(&self.auth_out)),
            // It never speaks unasked: only its end is of interest.
            PollFd::new(self.sockets.channel.as_fd(), PollFlags::empty()),
        ];
        if let Some(child) = self.reload.as_ref().and_then(Reload::config) {
            sources.push(Source::Config);
            fds.push(PollFd::new(child.channel.as_fd(), PollFlags::POLLIN));
        }
        // A link that has said its last word would report its end at once and for ever: that of the process is awaited
        // by its signal.
        let mut watch = |source: Source, finished: bool, link: Option<BorrowedFd<'a>>| {
            if let (Some(link), false) = (link, finished) {
                sources.push(source);
                fds.push(PollFd::new(link, PollFlags::POLLIN));
            }
        };
        for session in self.table.iter() {
            let number = session.number;
            let link = session.session.running().map(|child| child.channel.as_fd());
            watch(Source::Session(number), session.state == SessionState::Finished, link);
            let link = session.repo.running().map(|child| child.channel.as_fd());
            // One that waits says nothing, and if it ends there is a signal.
            let silent = session.repo_state == RepoState::Waiting && !all;
            watch(Source::Repo(number), session.repo_state == RepoState::Finished || silent, link);
        }
        for session in self.table.iter() {
            let verify = session.verify.as_ref().and_then(Process::running);
            let link = verify.map(|child| child.channel.as_fd());
            watch(Source::Verify(session.number), session.verify_state == JobState::Finished, link);
        }
        for session in self.table.iter() {
            if let Some(Creation::Running { child, state, .. }) = &session.creation {
                let finished = *state == JobState::Finished;
                watch(Source::Create(session.number), finished, Some(child.channel.as_fd()));
            }
            if let Some(shell) = &session.shell {
                let link = shell.list.as_ref().map(|child| child.channel.as_fd());
                watch(Source::List(session.number), shell.state == JobState::Finished, link);
            }
        }
        for (pid, fd) in self.complaints.iter().filter(|_| all) {
            sources.push(Source::Stderr(pid));
            fds.push(PollFd::new(fd, PollFlags::POLLIN));
        }
        if let Some(fd) = self.log.waits_for() {
            sources.push(Source::Log);
            fds.push(PollFd::new(fd, PollFlags::POLLOUT));
        }
        for (source, fd) in sources.iter().zip(&mut fds) {
            // Those that have more of an answer to take.
            if let Source::Session(number) = source
                && self.table.has_answer(*number)
            {
                fd.set_events(PollFlags::POLLIN | PollFlags::POLLOUT);
            }
        }
        // A refill that was put off is due when the one it was put off for has been answered.
        let longest: u16 = if self.table.is_anybody_waiting() {
            5
        } else if all {
            1000
        } else {
            SELDOM.saturating_sub(self.listened.elapsed()).as_millis() as u16 + 1
        };
        let pause = self.pauses.left(Instant::now()).and_then(|left| u16::try_from(left.as_millis()).ok());
        let timeout = PollTimeout::from(pause.map_or(longest, |pause| longest.min(pause.saturating_add(1))));
        let ready = match poll(&mut fds, timeout) {
            Ok(_) => fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect(),
            Err(_) => vec![PollFlags::empty(); fds.len()],
        };
        (sources, ready)
    }

    // --- signals and the end of processes

    fn on_signals(&mut self) -> Option<End> {
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
    fn reap(&mut self) -> Option<End> {
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

    fn on_session_process_end(&mut self, pid: Pid, ending: Ending) {
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
    fn expire(&mut self) {
        let now = Instant::now();
        let late: Vec<u64> =
            self.table.iter().filter(|s| s.deadline.is_some_and(|d| d <= now)).map(|s| s.number).collect();
        for number in late {
            self.end_session(number, "did not end by itself");
        }
    }

    /// Ends both processes of a session, and that session alone.
    fn end_session(&mut self, number: u64, why: &str) {
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

    // --- listen

    fn on_listen(&mut self, events: PollFlags) -> Option<End> {
        if events.contains(PollFlags::POLLOUT) {
            self.listen_out.flush(&self.listen.channel);
        }
        loop {
            let received = match self.listen.channel.try_recv() {
                Ok(received) => received,
                Err(e) if e.is_transient() => return None,
                Err(e) => return Some(lost(self.listen.pid, Role::Listen, &e.to_string())),
            };
            match received.message {
                ListenToParent::Hello(_) => return Some(End::Lost("listen: greeted twice".into())),
                ListenToParent::Accepted(peer) => self.accepted(received.peer, peer),
                ListenToParent::Refused(refusals) => self.log_refusals(&refusals),
                ListenToParent::Recalled(()) => self.recalled(received.peer),
                ListenToParent::Deserted(()) => self.deserted(),
                ListenToParent::Git(counts) => self.metrics.git.connections = counts,
                ListenToParent::EndsWith(uid) => self.ends_with(received.peer, uid),
                ListenToParent::Full(newcomer) => self.make_room(newcomer),
                ListenToParent::HandoverFailed(text) => self.handover_failed(received.peer, &text),
            }
        }
    }

    /// A session that was already gone when it was to be given a connection. Whoever connects can bring it about, and no other
    /// connection waits for that.
    fn handover_failed(&mut self, number: u64, why: &str) {
        self.log.line(Level::Warning, "handover", &[("session", &number), ("error", &why)]);
        if let Some(session) = self.table.get(number) {
            session.recalled = true;
        }
        self.end_session(number, why);
    }

    /// `listen`'s word about a session: only now anything is decided for it.
    fn accepted(&mut self, number: u64, peer: Peer) {
        let Some(session) = self.table.get(number) else { return };
        if session.peer.is_some() || !session.offered {
            return self.end_session(number, "a second word about its connection");
        }
        session.accepted = Some(Instant::now());
        session.peer = Some(peer.clone());
        let pool = session.pool;
        self.pauses.of(pool).served();
        self.log.line(Level::Debug, "accepted", &[("number", &number), ("peer", &report::peer_name(&peer))]);
        if self.table.get(number).is_some_and(|s| s.pool == Pool::Control) && !self.may_control(&peer) {
            return self.end_session(number, "control by somebody who does not control the daemon");
        }
        self.consider_user(number);
        self.consider(number);
        self.consider_control(number);
        self.consider_shell(number);
    }

    // --- sessions

    fn on_session(&mut self, number: u64) {
        loop {
            let Some(session) = self.table.get(number) else { return };
            let Some(child) = session.session.running() else { return };
            match child.channel.try_recv() {
                Ok(received) => self.session_says(number, received),
                Err(e) if e.is_transient() => return,
                // Its process is about to be reaped; that is where its end is noted.
                Err(RecvError::Closed) => {
                    session.state = SessionState::Finished;
                    if !session.is_pushing() {
                        session.deadline.get_or_insert(Instant::now() + LINGER);
                    }
                    return;
                }
                Err(e) => return self.end_session(number, &format!("session: {e}")),
            }
        }
    }

    fn session_says(&mut self, number: u64, received: Received<SessionToParent>) {
        let Some(session) = self.table.get(number) else { return };
        let message = received.message;
        if !states::allowed(SESSION_TO_PARENT, session.state, message.kind()) {
            let text = format!("session: {} in state {:?}", message.name(), session.state);
            return self.end_session(number, &text);
        }
        match message {
            SessionToParent::Hello(build) => {
                if !same_build(&build) {
                    return self.end_session(number, "session: another build");
                }
                session.state = SessionState::Waiting;
                self.offer(number);
            }
            SessionToParent::Client(_) if session.pool == Pool::Tcp => {
                self.end_session(number, "session: a greeting over git://");
            }
            SessionToParent::Client(hello) => {
                session.state = SessionState::Greeted;
                session.hello = Some(hello);
                self.consider_user(number);
            }
            SessionToParent::Remote(()) if session.pool == Pool::Tcp => session.state = SessionState::Greeted,
            SessionToParent::Remote(()) => self.end_session(number, "session: not a git:// connection"),
            SessionToParent::Git(ask) => {
                session.state = SessionState::Asked;
                session.ask = Some(ask);
                if !session.is_push() {
                    session.verify_ends = None;
                }
                self.consider(number);
            }
            SessionToParent::Control(request) => {
                session.state = SessionState::Control;
                session.verify_ends = None;
                session.asked_control = Some(request);
                self.consider_control(number);
            }
            SessionToParent::Shell(_) if session.pool == Pool::Tcp => {
                self.end_session(number, "session: self-service over git://");
            }
            SessionToParent::Shell(_) if session.refused.is_some() => session.state = SessionState::Shell,
            SessionToParent::Shell(_) if session.pool == Pool::Control => {
                session.state = SessionState::Shell;
                self.refuse(number, CONTROL_ALONE);
            }
            SessionToParent::Shell(ask) => {
                session.state = SessionState::Shell;
                session.verify_ends = None;
                self.shell(number, ask);
            }
            SessionToParent::Begins(commands) => {
                if !session.is_push() || session.references.is_some() {
                    return self.end_session(number, "session: a push that begins twice, or is none");
                }
                session.references = Some(commands.min(self.settings.session.commands));
            }
            SessionToParent::Finished(report) => {
                session.state = SessionState::Finished;
                session.report = Some(report);
                session.deadline = (!session.is_pushing()).then(|| Instant::now() + LINGER);
                self.served = self.served.saturating_add(1);
            }
        }
    }

    /// Asks `auth` once both are known: who it is, and what it wants.
    fn consider(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        let (Some(peer), Some(ask), SessionState::Asked) = (&session.peer, &session.ask, session.state)
        else {
            return;
        };
        if session.refused.is_some() {
            // Told already.
            return;
        }
        if session.pool == Pool::Control {
            return self.refuse(number, CONTROL_ALONE);
        }
        let told = session.hello.as_ref().and_then(|hello| hello.user.clone());
        let told_user = match told.map(|name| UserName::parse(&name)).transpose() {
            Ok(told_user) => told_user,
            Err(_) => return self.refuse(number, "--user: not a user name"),
        };
        if session.hello.as_ref().is_some_and(|hello| hello.kind != ClientKind::Git) {
            return self.end_session(number, "a Git request of a control client");
        }
        let question = Question {
            peer: peer.clone(),
            told_user,
            service: ask.service,
            repository: ask.repository.clone(),
        };
        self.auth_out.send(&self.auth.channel, number, &ParentToAuth::Ask(question));
    }

    fn refuse(&mut self, number: u64, text: &str) {
        let Some(session) = self.table.get(number) else { return };
        session.refused.get_or_insert_with(|| text.to_owned());
        let sent = session.session.running().is_none_or(|child| {
            child.channel.try_send(0, number, &ParentToSession::Refused(text.into())).is_ok()
        });
        if !sent {
            self.end_session(number, "does not listen");
        }
    }

    /// Tells a client that it may not see the repository that it asked for.
    fn not_there(&mut self, number: u64, why: &str) {
        let told = self.settings.informative_errors;
        let session = self.table.get(number).filter(|session| told && session.pool == Pool::Tcp);
        let text = match session.and_then(|session| session.ask.as_ref()) {
            Some(ask) => format!("{why}: {}", daemon::path(&ask.repository)),
            None => NOT_FOUND.into(),
        };
        self.refuse(number, &text);
    }

    // --- auth

    fn on_auth(&mut self, events: PollFlags) -> Option<End> {
        if events.contains(PollFlags::POLLOUT) {
            self.auth_out.flush(&self.auth.channel);
        }
        loop {
            let received = match self.auth.channel.try_recv() {
                Ok(received) => received,
                Err(e) if e.is_transient() => return None,
                Err(e) => return Some(lost(self.auth.pid, Role::Auth, &e.to_string())),
            };
            match received.message {
                AuthToParent::Verdict(verdict) => self.decided(received.peer, verdict),
                AuthToParent::Placed(placed) => self.placed(received.peer, placed),
                AuthToParent::Configured(()) => self.configured(),
                AuthToParent::Seen(batch) => self.shell_seen(received.peer, batch),
                AuthToParent::Root(root) => self.shell_root(received.peer, root),
                AuthToParent::Overview(overview) => self.shell_told(received.peer, overview),
                AuthToParent::Lent(answers) => self.lent(received.peer, answers),
                AuthToParent::Hello(_) => return Some(End::Lost("auth: greeted twice".into())),
                AuthToParent::NotSupported(kind) => {
                    return Some(End::Lost(format!("auth: does not know message type {kind}")));
                }
            }
        }
    }

    fn decided(&mut self, number: u64, verdict: Verdict) {
        match verdict {
            Verdict::Granted(permit) => self.granted(number, permit),
            Verdict::NotFound { identity, no_rule } => {
                if let Some(session) = self.table.get(number) {
                    session.turned_away = Some(identity);
                }
                self.not_there(number, if no_rule { NOT_PERMITTED } else { NO_SUCH });
            }
            Verdict::Denied { identity, text, rule } => {
                if let Some(session) = self.table.get(number) {
                    session.turned_away = Some(identity);
                    session.refused = Some(format!("{text} ({rule})"));
                }
                self.refuse(number, &text);
            }
            Verdict::NoIdentity(text) => self.refuse(number, &text),
        }
    }

    fn granted(&mut self, number: u64, mut permit: Permit) {
        let limit = usize::try_from(permit.connections).unwrap_or(usize::MAX);
        if self.table.of_identity(&permit.counted) >= limit {
            let told = too_many(permit.own_connections);
            if let Some(session) = self.table.get(number) {
                session.refused = Some(format!("{}: {told}", permit.identity));
            }
            return self.refuse(number, &told);
        }
        let negotiation = match self.negotiation(number, &permit.counted) {
            Ok(negotiation) => negotiation,
            Err(text) => return self.refuse(number, &text),
        };
        let limits = self.settings.session.clone();
        let fields: [(&str, &dyn std::fmt::Display); 3] =
            [("number", &number), ("who", &permit.identity), ("rule", &permit.rule)];
        self.log.line(Level::Debug, "granted", &fields);
        let Some(session) = self.table.get(number) else { return };
        let (Some(ask), Some(_), None) = (&session.ask, &session.peer, &session.permit) else {
            return self.end_session(number, "a verdict that nobody asked for");
        };
        let serve = Serve {
            access: match ask.service {
                Service::UploadPack => Access::Read,
                Service::ReceivePack => Access::Write,
            },
            repository: permit.repository.clone(),
            fetch: permit.fetch,
            hidden: permit.hidden.clone(),
            limits,
            push_rules: permit.push_rules.clone(),
            who: permit.identity.clone(),
            task: selfservice::task(session),
            negotiation,
        };
        if session.shell.is_some() {
            // Only a push makes a repository.
            permit.create = None;
        }
        session.permit = Some(permit);
        session.repo_state = RepoState::Opening;
        let sent = session
            .repo
            .running()
            .is_some_and(|child| child.channel.try_send(0, number, &ParentToRepo::Serve(serve)).is_ok());
        if !sent {
            self.refuse(number, REPO_ENDED);
        }
    }

    // --- repository processes

    /// What a repository process says, at most so many messages.
    fn on_repo(&mut self, number: u64, most: usize) {
        for _ in 0..most {
            let Some(session) = self.table.get(number) else { return };
            let Some(child) = session.repo.running() else { return };
            match child.channel.try_recv() {
                Ok(received) => self.repo_says(number, received.message),
                Err(e) if e.is_transient() => return,
                Err(RecvError::Closed) => {
                    session.repo_state = RepoState::Finished;
                    return;
                }
                Err(e) => return self.end_session(number, &format!("repository: {e}")),
            }
        }
    }

    fn repo_says(&mut self, number: u64, message: RepoToParent) {
        let Some(session) = self.table.get(number) else { return };
        if !states::allowed(REPO_TO_PARENT, session.repo_state, message.kind()) {
            let text = format!("repository: {} in state {:?}", message.name(), session.repo_state);
            return self.end_session(number, &text);
        }
        match message {
            RepoToParent::Hello(build) => {
                if !same_build(&build) {
                    return self.end_session(number, "repository: another build");
                }
                session.repo_state = RepoState::Waiting;
                self.offer(number);
            }
            RepoToParent::Found(at) => self.found(number, at),
            RepoToParent::Opened(opened) => self.looked(number, Ok(opened)),
            RepoToParent::OpenFailed(error) => self.looked(number, Err(error)),
            RepoToParent::Borrow(places) => self.borrow(number, places),
            RepoToParent::Finished(report) => {
                session.repo_state = RepoState::Finished;
                let text = report.text.clone();
                let negotiated = report.negotiated;
                if let Some(opened) = &session.opened {
                    self.checked.add(opened, &report.checked, Instant::now());
                }
                session.repo_report = Some(report);
                self.spend(number, negotiated);
                self.shell_changed(number, &text);
            }
            RepoToParent::Ref(report) => self.reference(number, &report),
            RepoToParent::Info(info) => self.shell_info(number, &info),
            RepoToParent::NeedVerify(()) => self.start_verify(number),
            RepoToParent::NeedPack(memory) => self.need_turn(number, Work::Pack, memory),
            RepoToParent::PackStalled(memory) => self.turn_stalled(number, memory),
            RepoToParent::PackDone(()) => self.turn_over(number),
            RepoToParent::NeedTurn(ms) => self.negotiation_turn(number, ms),
        }
    }

    /// One reference of a push, for the log: as many as the session has handed on commands. Whoever has taken over a
    /// repository process could fill the disk with lines otherwise.
    fn reference(&mut self, number: u64, report: &RefReport) {
        if self.table.get(number).is_some_and(|session| session.references.is_none()) {
            // What the session said before it told the repository process to begin may be unread.
            self.on_session(number);
        }
        let Some(session) = self.table.get(number) else { return };
        let Some(left) = session.references.and_then(|left| left.checked_sub(1)) else {
            return self
                .end_session(number, "repository: reports on more references than there were commands");
        };
        session.references = Some(left);
        self.log_ref(number, report);
    }

    // --- control

    /// Answers a control request once `listen` has said whose it is.
    fn consider_control(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        if session.peer.is_none() {
            return;
        }
        if let Some(request) = session.asked_control.take() {
            self.control(number, &request);
        }
    }

    // --- the end

    /// Ends every process and waits for them, with a bound.
    fn shut_down(&mut self) {
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
fn lost(pid: Pid, role: Role, error: &str) -> End {
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

fn same_build(build: &Build) -> bool {
    build.id == crate::BUILD
}
