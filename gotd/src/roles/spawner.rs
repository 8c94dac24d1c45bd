//! `spawn`: starts the processes of one account.
//!
//! Duty: takes on its account before anything else, then executes gotd as the role that an order
//! names, with the descriptors that came with it, kills by number, and reports every end. Waits
//! on: the parent and its own children. Talks to: the parent alone.
//!
//! **Invariant:** started as root and dropped before anything else happens; an order has a fixed
//! size, comes from the parent only, and names one of the roles of this account; never sees a byte
//! of a client, although descriptors of clients pass through it unread. It has closed its copies of
//! a process's descriptors before it says that the process was started.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use libproto::channel::{Channel, Message, Received, RecvError};
use libproto::message::parent::{Build, Ending, Order, ParentToSpawner, SpawnerStart, SpawnerToParent};
use libproto::states::{Account, Role};
use libsandbox::{Access, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::os::credentials::TakeOnError;
use crate::os::error::{SystemError, carries_system_error};
use crate::os::spawn::{GIT, Starter};
use crate::os::system;
use crate::os::to_parent::send;
use crate::os::{credentials, signals};

/// At work. On Linux the filter also holds what the children need, since they inherit it.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Proc, Promise::Exec, Promise::Sendfd, Promise::Recvfd]);
/// Bytes of memory that a spawner may take. Its children begin with the same, and each sets its
/// own: so only the lower of the two limits is set.
pub const MEMORY: u64 = 64 << 20;

/// Why a spawner ends, and with it all that it started.
#[derive(Debug)]
pub enum SpawnerError {
    /// A system call of it failed, or its link.
    System(SystemError),
    /// It has not become its account.
    TakeOn(TakeOnError),
    /// A message that orders nothing from the spawner of this account.
    NoOrder(&'static str, Account),
    /// An order with the number of a process that is there.
    NumberInUse(&'static str, u64),
}

impl std::fmt::Display for SpawnerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SpawnerError::System(e) => e.fmt(f),
            SpawnerError::TakeOn(e) => e.fmt(f),
            SpawnerError::NoOrder(message, account) => {
                write!(f, "{message} is no order for account {}", account.name())
            }
            SpawnerError::NumberInUse(message, number) => {
                write!(f, "{message}: number {number} is another process's")
            }
        }
    }
}

carries_system_error!(SpawnerError);

impl From<TakeOnError> for SpawnerError {
    fn from(e: TakeOnError) -> SpawnerError {
        SpawnerError::TakeOn(e)
    }
}

type Parent = Channel<SpawnerToParent, ParentToSpawner>;

/// Runs the role: takes on its account and serves until the parent ends, and kills what it started.
pub fn run(parent: OwnedFd, starter: Starter, programs: Vec<OwnedFd>) -> Result<(), SpawnerError> {
    // A daemon that is stopped from its terminal is stopped by its parent, which tells its
    // spawners. `listen` and `auth` inherit this.
    system::ignore_signals(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE]);
    let starter = with_programs(starter, programs).map_err(|e| SystemError::Io("programs", e))?;
    let parent = Parent::from(parent);
    let start = match parent.recv() {
        Ok(Received { message: ParentToSpawner::Begin(start), .. }) => start,
        _ => system::exit_now(0),
    };
    credentials::take_on(start.credentials.as_ref())?;
    let signals = signals::catch(&[Signal::SIGCHLD]).map_err(|e| SystemError::Io("signals", e))?;
    system::limit_memory(MEMORY);
    restrict(&starter, &start)?;
    // The other two see files: what an attempt removes there, later attempts would miss.
    #[cfg(feature = "escapes")]
    if start.account == Account::Client {
        crate::escapes::attempt("spawn", WORK);
    }
    send(&parent, 0, &SpawnerToParent::Hello(Build { id: crate::BUILD.into() }));
    Spawner { parent, starter, start, signals, children: HashMap::new() }.serve()
}

#[cfg(target_os = "linux")]
fn with_programs(starter: Starter, programs: Vec<OwnedFd>) -> std::io::Result<Starter> {
    let [quick, own] = programs.try_into().map_err(|_| std::io::ErrorKind::InvalidInput)?;
    starter.with_programs(quick, own)
}

#[cfg(not(target_os = "linux"))]
fn with_programs(starter: Starter, _: Vec<OwnedFd>) -> std::io::Result<Starter> {
    Ok(starter)
}

/// The spawner of sessions sees no more of the file system than it executes. The daemon's own
/// processes read the configuration and what name services need. Processes that open repositories
/// narrow themselves, to directories that a reload may have brought: their spawner sees all. Its
/// rule for `/` is written out, because on Linux a layer without rules forbids links between
/// directories.
fn restrict(starter: &Starter, start: &SpawnerStart) -> Result<(), SpawnerError> {
    // There the program is executed by its name, and its loader finds it by that.
    #[cfg(not(target_os = "linux"))]
    let own = std::env::current_exe().unwrap_or_default();
    let mut named: Vec<(PathBuf, Access)> = libsandbox::loader_paths();
    match start.account {
        Account::Client => {}
        Account::Daemon => named.push((PathBuf::from("/"), Access::READ)),
        Account::Repositories => {
            named.push(("/".into(), Access::READ_WRITE_CREATE.and(Access::EXECUTE)));
        }
    }
    named.retain(|(path, _)| path.exists());
    let mut visible: Vec<Visible<'_>> =
        named.iter().map(|(path, access)| Visible::named(path, *access)).collect();
    #[cfg(target_os = "linux")]
    for binary in starter.binaries() {
        visible.push(Visible::opened(binary, Path::new("/proc/self/exe"), Access::EXECUTE));
    }
    #[cfg(not(target_os = "linux"))]
    if start.account != Account::Repositories {
        visible.push(Visible::named(&own, Access::EXECUTE));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (starter, Path::new(""));
    let enforcement = enforcement(start);
    let limits = ResourceLimits::UNCHANGED;
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })?;
    Ok(())
}

fn enforcement(start: &SpawnerStart) -> Enforcement {
    if start.best_effort { Enforcement::BestEffort } else { Enforcement::Required }
}

struct Spawner {
    parent: Parent,
    starter: Starter,
    start: SpawnerStart,
    signals: UnixStream,
    /// The number of each process that has not been reaped.
    children: HashMap<Pid, u64>,
}

impl Spawner {
    fn serve(mut self) -> Result<(), SpawnerError> {
        let result = loop {
            let mut fds = [
                PollFd::new(self.parent.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => break Err(SystemError::Call("poll", e).into()),
            }
            let ready = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if ready[1] {
                signals::drain(&mut self.signals);
                self.reap();
            }
            if !ready[0] {
                continue;
            }
            match self.parent.recv_with_fds() {
                Ok(received) => match self.obey(received) {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(e) => break Err(e),
                },
                Err(e) if e.is_transient() => {}
                Err(RecvError::Closed) => break Ok(()),
                Err(e) => break Err(SystemError::Received(e).into()),
            }
        };
        self.end_all();
        result
    }

    /// Does what the parent says; `false`: it is to end. An error: the parent says what it never
    /// would.
    fn obey(&mut self, received: Received<ParentToSpawner>) -> Result<bool, SpawnerError> {
        let Received { peer: number, message, fds, .. } = received;
        if message == ParentToSpawner::Stop(()) {
            return Ok(false);
        }
        if message == ParentToSpawner::Kill(()) {
            let child = self.children.iter().find(|(_, of)| **of == number).map(|(pid, _)| *pid);
            if let Some(pid) = child {
                let _ = kill(pid, Signal::SIGKILL);
            }
            return Ok(true);
        }
        let Some(order) = message.order(self.start.account) else {
            return Err(SpawnerError::NoOrder(message.name(), self.start.account));
        };
        if self.children.values().any(|of| *of == number) {
            return Err(SpawnerError::NumberInUse(message.name(), number));
        }
        let answer = match self.execute(order, &fds) {
            Ok(pid) => {
                self.children.insert(pid, number);
                SpawnerToParent::Started(pid.as_raw())
            }
            Err(e) => SpawnerToParent::Failed(e.raw_os_error().unwrap_or(0)),
        };
        // Not later than this: the parent offers nobody a process while there are copies here.
        drop(fds);
        send(&self.parent, number, &answer);
        Ok(true)
    }

    fn execute(&self, order: Order, fds: &[OwnedFd]) -> std::io::Result<Pid> {
        let mut arguments = Vec::new();
        // `config` does not know yet what the configuration says of it.
        if self.start.best_effort && order.role != Role::Config {
            arguments.push("--best-effort");
        }
        if order.git {
            arguments.push(GIT);
        }
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        self.starter.start_with(order.role, &arguments, &fds)
    }

    /// Reports those that have ended.
    fn reap(&mut self) {
        while let Some((pid, ending)) = ended() {
            if let Some(number) = self.children.remove(&pid) {
                send(&self.parent, number, &SpawnerToParent::Ended(ending));
            }
        }
    }

    /// Nothing outlives its spawner: on Linux the kernel sees to that too.
    fn end_all(&mut self) {
        for pid in self.children.keys() {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        // One that hangs in the kernel is left to it.
        for _ in 0..100 {
            while let Some((pid, _)) = ended() {
                self.children.remove(&pid);
            }
            if self.children.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// A child that has ended; never waits.
fn ended() -> Option<(Pid, Ending)> {
    loop {
        return match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => Some((pid, Ending::Exit(status))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => Some((pid, Ending::Signal(signal as i32))),
            Err(Errno::EINTR) => continue,
            _ => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use libproto::message::parent::ORDERS;
    use libproto::states::PLAIN_JOBS;

    use super::*;

    fn spawner(account: Account) -> (Spawner, Channel<ParentToSpawner, SpawnerToParent>) {
        let (ours, theirs) = crate::os::spawn::pair().expect("a pair");
        let spawner = Spawner {
            parent: ours.into(),
            starter: Starter::new().expect("opens its own binary"),
            start: SpawnerStart { account, credentials: None, best_effort: false },
            signals: UnixStream::pair().expect("a pair").0,
            children: HashMap::new(),
        };
        (spawner, theirs.into())
    }

    fn received(peer: u64, message: ParentToSpawner) -> Received<ParentToSpawner> {
        Received { peer, message, fds: Vec::new() }
    }

    #[test]
    fn an_order_for_another_account_or_with_a_number_in_use_ends_it() {
        for account in Account::ALL {
            let (mut spawner, _parent) = spawner(account);
            let jobs = PLAIN_JOBS.iter().map(|(role, _)| ParentToSpawner::Job(*role));
            let orders = ORDERS.iter().map(|(message, ..)| message.clone()).chain(jobs);
            for message in orders.chain([ParentToSpawner::Begin(spawner.start.clone())]) {
                let own = message.order(account).is_some();
                spawner.children.insert(Pid::this(), 7);
                let refused = spawner.obey(received(7, message));
                match refused {
                    Err(SpawnerError::NumberInUse(_, 7)) => assert!(own),
                    Err(SpawnerError::NoOrder(_, of)) => assert!(!own && of == account),
                    other => panic!("{other:?}"),
                }
                spawner.children.clear();
            }
        }
    }

    #[test]
    fn a_process_that_is_gone_is_not_killed_and_stop_is_heard() {
        let (mut spawner, _parent) = spawner(Account::Client);
        assert!(matches!(spawner.obey(received(1, ParentToSpawner::Kill(()))), Ok(true)));
        assert!(matches!(spawner.obey(received(0, ParentToSpawner::Stop(()))), Ok(false)));
    }
}
