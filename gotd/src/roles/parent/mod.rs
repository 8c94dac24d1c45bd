//! `parent`: has every other process started and keeps the table of sessions.
//!
//! Duty: owns the configuration, the table of sessions, timers and the log. Waits on: its links and
//! signals. Talks to: every other process.
//!
//! **Invariant:** never reads a byte that a client wrote, never opens a repository, never holds a
//! client's connection. What a session reports came from a client and is treated as hostile:
//! bounded, typed, and allowed only in the state that the table in `libproto::states` says.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use libproto::message::parent::{
    AuthToParent, Build, ListenToParent, LoadConfig, ParentToAuth, ParentToListen,
};
use libproto::refusal::Refusal;
use libproto::states::{RepoState, Role, SessionState};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::checked::Checked;
use self::error::{Fatal, Loss};
use self::listeners::Listeners;
use self::metrics::Metrics;
use self::outbox::Outbox;
use self::own_rules::OwnConfigs;
use self::pauses::Pauses;
use self::queue::Party;
use self::reloading::Reload;
use self::session::table::SessionTable;
use self::settings::Settings;
use self::spawners::{Child, Spawners};
use self::spent::Spent;
use self::stderr::StderrPipes;
use crate::conf::limits::Limit;
use crate::os::log::{Level, Log};
use crate::os::spawn::Started;

pub mod bind;
pub mod borrow;
pub mod checked;
pub mod control;
pub mod crowd;
pub mod detach;
pub mod ends;
pub mod error;
pub mod job;
pub mod jobs;
pub mod links;
pub mod listen_place;
pub mod listeners;
pub mod metrics;
pub mod negotiation;
pub mod outbox;
pub mod own_rules;
pub mod pauses;
pub mod place;
pub mod places;
pub mod queue;
pub mod relisten;
pub mod reload;
pub mod reloading;
pub mod report;
pub mod sd_notify;
pub mod selfservice;
pub mod session;
pub mod set_limits;
pub mod settings;
pub mod spawners;
pub mod spent;
pub mod startup;
pub mod stderr;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod user_queue;
mod waiting_pool;

/// How long a session may take to be over once it has reported its end, or its repository process
/// once the session is gone.
const LINGER: Duration = Duration::from_secs(10);
/// How long the end of a process is waited for whose link has ended.
const REAP: Duration = Duration::from_millis(200);
/// How often the parent polls rarely active descriptors (standard errors, waiting repository
/// processes) while it is busy. Each descriptor costs its part of every poll, and each session has
/// several.
const SELDOM: Duration = Duration::from_millis(100);
/// Messages of one repository process that are read before others are listened to again: one that
/// was taken over and never stops must not be all that the parent hears. Once it has ended, what it
/// left is read to the end.
const AT_ONCE: usize = 64;

/// For the log and gotctl.
const TAKES_DESCRIPTORS: &str = "clients can send descriptors: only Linux 6.16 and newer refuse them";

/// What a client beyond its number of connections is told; `own`: a `limit user` line names its
/// user.
fn too_many(own: bool) -> Refusal {
    let limit = if own { Limit::ConnectionsOfUser } else { Limit::ConnectionsPerUser };
    Refusal::Limit(limit, "connection limit exceeded".into())
}

/// Everything the parent knows.
pub struct Parent {
    spawners: Spawners,
    log: Log,
    settings: Settings,
    signals: UnixStream,
    sockets: Started<ParentToListen, ListenToParent>,
    listeners: Listeners,
    listen: Child<ParentToListen, ListenToParent>,
    listen_out: Outbox,
    auth: Child<ParentToAuth, AuthToParent>,
    auth_out: Outbox,
    stderr_pipes: StderrPipes,
    table: SessionTable,
    started: Instant,
    served: u64,
    metrics: Metrics,
    checked: Checked,
    own_configs: OwnConfigs,
    /// When rarely active descriptors were last polled; see [`SELDOM`].
    listened: Instant,
    draining: Option<Drain>,
    /// Whose turn it was for costly work, the last one at the end.
    turns: std::collections::VecDeque<Party>,
    /// Who has used how much processor time before anything was granted.
    spent: Spent,
    /// The files that the configuration came from.
    files: LoadConfig,
    /// `-v`, whatever the configuration says.
    verbose: bool,
    reload: Option<Reload>,
    /// When a waiting session may be started after some that did not live.
    pauses: Pauses,
    /// Why the daemon cannot go on, found while something else was done.
    unsound: Option<Fatal>,
    /// Clients can send descriptors, because the kernel cannot refuse them.
    takes_descriptors: bool,
    /// Why all processes have one uid, if they have.
    one_uid: Option<String>,
}

/// `gotctl stop` was asked for.
#[derive(Debug)]
struct Drain {
    /// When it is waited no longer.
    until: Instant,
    /// The control sessions that asked for the stop, and get an answer when it is done.
    asking: Vec<u64>,
}

/// Why the loop ended.
enum End {
    /// As asked.
    Stopped,
    /// A process that the daemon cannot do without is gone.
    Lost(Fatal),
}

/// What is done when a descriptor is ready: each is listed once, with this.
#[derive(Clone, Copy)]
enum Then {
    /// Something that concerns the daemon.
    Daemon(fn(&mut Parent, PollFlags) -> Option<End>),
    /// Something that concerns the session of this number.
    Session(u64, fn(&mut Parent, u64)),
    /// The standard error of this process is read.
    Stderr(u64),
}

/// Descriptors to wait for.
type Sources<'p> = Vec<(Then, PollFd<'p>)>;

impl Parent {
    /// Serves until the daemon is told to stop or cannot go on.
    pub fn serve(mut self) -> Result<(), Fatal> {
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
        let ready = self.wait(all);
        if all {
            self.listened = Instant::now();
        }
        for (then, events) in ready {
            let end = match then {
                Then::Daemon(act) => act(self, events),
                Then::Session(number, act) => {
                    act(self, number);
                    None
                }
                Then::Stderr(process) => {
                    self.stderr_pipes.read(process, &mut self.log);
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
        self.expire_jobs();
        self.serve_user_queues();
        self.start_creation();
        self.refill();
        self.unsound.take().map(End::Lost).or_else(|| self.drained())
    }

    /// Waits for something to happen; at most a second, for the timers. Unless it listens to `all`,
    /// at most until that is due again.
    fn wait(&self, all: bool) -> Vec<(Then, PollFlags)> {
        let mut sources = self.lasting();
        self.add_sessions(&mut sources, all);
        for (process, fd) in self.stderr_pipes.iter().filter(|_| all) {
            sources.push((Then::Stderr(process), PollFd::new(fd, PollFlags::POLLIN)));
        }
        if let Some(fd) = self.log.waits_for() {
            sources.push((Then::Daemon(Parent::flush_log), PollFd::new(fd, PollFlags::POLLOUT)));
        }
        let (thens, mut fds): (Vec<Then>, Vec<PollFd<'_>>) = sources.into_iter().unzip();
        if poll(&mut fds, self.longest_wait(all)).is_err() {
            return Vec::new();
        }
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        thens.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect()
    }

    /// The links and signals that are there for as long as the daemon, and during a reload the link
    /// to `config` or `places`.
    fn lasting(&self) -> Sources<'_> {
        let out = |outbox: &Outbox| {
            if outbox.is_empty() { PollFlags::POLLIN } else { PollFlags::POLLIN | PollFlags::POLLOUT }
        };
        let (listen, auth) = (self.listen.channel.as_fd(), self.auth.channel.as_fd());
        let sockets = self.sockets.channel.as_fd();
        let mut sources = vec![
            (Then::Daemon(Parent::on_signals), PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)),
            (Then::Daemon(Parent::on_listen), PollFd::new(listen, out(&self.listen_out))),
            (Then::Daemon(Parent::on_auth), PollFd::new(auth, out(&self.auth_out))),
            // It never speaks unasked: only its end is of interest.
            (Then::Daemon(Parent::on_sockets), PollFd::new(sockets, PollFlags::empty())),
        ];
        for (fd, events) in self.spawners.sources() {
            sources.push((Then::Daemon(Parent::on_spawners), PollFd::new(fd, events)));
        }
        if let Some((fd, events)) = self.reload.as_ref().and_then(Reload::link) {
            sources.push((Then::Daemon(Parent::on_reload), PollFd::new(fd, events)));
        }
        sources
    }

    /// The links to processes of sessions. One that has said its last word would report its end at
    /// once and for ever: that of the process is awaited by its signal.
    fn add_sessions<'p>(&'p self, sources: &mut Sources<'p>, all: bool) {
        let mut add = |number, act, link: Option<BorrowedFd<'p>>, events| {
            sources.extend(link.map(|fd| (Then::Session(number, act), PollFd::new(fd, events))));
        };
        for session in self.table.iter() {
            let number = session.number;
            let child = session.session.running().filter(|_| session.state() != SessionState::Finished);
            // It may have more of an answer to take.
            let answer = session.overview().is_some_and(|overview| !overview.out.is_empty());
            let events = if answer { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            add(number, Parent::recv_from_session, child.map(|child| child.channel.as_fd()), events);
            // A waiting repository process says nothing, and its spawner reports its end.
            let silent = session.repo_state == RepoState::Waiting && !all;
            let finished = session.repo_state == RepoState::Finished;
            let child = session.repo.running().filter(|_| !silent && !finished);
            add(number, Parent::recv_from_repo, child.map(|child| child.channel.as_fd()), PollFlags::POLLIN);
        }
        for session in self.table.iter() {
            for (row, job) in session.jobs() {
                add(session.number, row.recv, job.link, PollFlags::POLLIN);
            }
        }
    }

    fn longest_wait(&self, all: bool) -> PollTimeout {
        // A refill that was put off is due when the one it was put off for has been answered.
        let longest: u16 = if self.table.is_anybody_waiting() {
            5
        } else if all {
            1000
        } else {
            SELDOM.saturating_sub(self.listened.elapsed()).as_millis() as u16 + 1
        };
        let pause = self.pauses.left(Instant::now()).and_then(|left| u16::try_from(left.as_millis()).ok());
        PollTimeout::from(pause.map_or(longest, |pause| longest.min(pause.saturating_add(1))))
    }

    fn on_sockets(&mut self, _: PollFlags) -> Option<End> {
        Some(End::Lost(Fatal { role: Role::Sockets, why: Loss::Unlinked }))
    }

    fn flush_log(&mut self, _: PollFlags) -> Option<End> {
        self.log.flush();
        None
    }

    fn recv_from_session(&mut self, number: u64) {
        self.flush_shell(number);
        self.on_session(number);
    }

    fn recv_from_repo(&mut self, number: u64) {
        self.on_repo(number, AT_ONCE);
    }
}

fn same_build(build: &Build) -> bool {
    build.id == crate::BUILD
}
