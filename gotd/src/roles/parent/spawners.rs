//! The parent's side of its spawners: what it orders, and what it knows of the processes that they
//! started.
//!
//! The parent itself can start, wait for and kill nothing: it knows each process by a number.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use libproto::channel::{Channel, Message, RecvError, SendError};
use libproto::message::parent::{Credentials, Ending, Order, ParentToSpawner, SpawnerStart, SpawnerToParent};
use libproto::states::{Account, Role};
use libsandbox::Enforcement;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::outbox::Outbox;
use super::stderr::last_words;
use crate::os::spawn::{ParentLink, Started, Starter};

/// The link to one spawner.
#[derive(Debug)]
struct Link {
    account: Account,
    channel: Channel<ParentToSpawner, SpawnerToParent>,
    out: RefCell<Outbox>,
}

#[derive(Debug)]
struct Known {
    number: u64,
    pid: Cell<Option<i32>>,
    killed: Cell<bool>,
    link: Rc<Link>,
}

/// A handle to a process: ends it, and tells it from others.
#[derive(Debug, Clone)]
pub struct Ender(Rc<Known>);

impl Ender {
    /// Has its spawner end it.
    pub fn end(&self) {
        let Known { number, killed, link, .. } = &*self.0;
        if !killed.replace(true) {
            link.out.borrow_mut().send(&link.channel, *number, &ParentToSpawner::Kill(()));
        }
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// Its process id, for people, once its spawner has said that it was started.
    pub fn pid(&self) -> Option<i32> {
        self.0.pid.get()
    }
}

/// A process that a spawner was told to start.
#[derive(Debug)]
pub struct Child<S, R> {
    /// Its role.
    pub role: Role,
    /// Our end of the channel.
    pub channel: Channel<S, R>,
    /// The reading end of its standard error, not blocking.
    pub stderr: OwnedFd,
    ender: Ender,
}

impl<S, R> Child<S, R> {
    /// How it is ended.
    pub fn ender(&self) -> Ender {
        self.ender.clone()
    }

    /// Ends it.
    pub fn end(&self) {
        self.ender.end();
    }

    /// Its number.
    pub fn number(&self) -> u64 {
        self.ender.number()
    }

    /// Its process id, once it is known.
    pub fn pid(&self) -> Option<i32> {
        self.ender.pid()
    }

    /// A child whose order goes to an end that a test holds.
    #[cfg(test)]
    pub fn forged(role: Role, number: u64) -> (Self, OwnedFd, Channel<SpawnerToParent, ParentToSpawner>) {
        let (ours, theirs) = crate::os::spawn::pair().expect("a pair");
        let (orders, spawner) = crate::os::spawn::pair().expect("a pair");
        let (stderr, _) = nix::unistd::pipe().expect("a pipe");
        let link = Link { account: Account::Client, channel: orders.into(), out: RefCell::default() };
        let known = Known { number, pid: Cell::new(Some(1)), killed: Cell::new(false), link: Rc::new(link) };
        let ender = Ender(Rc::new(known));
        (Child { role, channel: ours.into(), stderr, ender }, theirs, spawner.into())
    }
}

/// What a spawner says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It was started; nobody but it has its descriptors.
    Started,
    /// It has ended, or could not be started: the errno.
    Ended(Ending, Option<i32>),
}

/// A spawner that cannot be gone on with.
#[derive(Debug)]
pub struct SpawnerLost {
    /// Whose processes it starts.
    pub account: Account,
    /// What became of it.
    pub why: SpawnerFault,
}

/// Why a spawner cannot be gone on with.
#[derive(Debug)]
pub enum SpawnerFault {
    /// The system does not start it.
    Start(io::Error),
    /// It cannot be told something.
    Send(SendError),
    /// It cannot be heard, and what it said last on its standard error.
    Recv(RecvError, String),
    /// It is of another build.
    OtherBuild,
    /// It has ended.
    Ended,
    /// It says this of a process that it does not have, or not in this order.
    Lies(&'static str, u64),
}

impl std::fmt::Display for SpawnerLost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): ", Role::Spawner.name(), self.account.name())?;
        match &self.why {
            SpawnerFault::Start(e) => e.fmt(f),
            SpawnerFault::Send(e) => e.fmt(f),
            SpawnerFault::Recv(e, last) => write!(f, "{e}{last}"),
            SpawnerFault::OtherBuild => f.write_str("another build"),
            SpawnerFault::Ended => f.write_str("ended"),
            SpawnerFault::Lies(message, number) => write!(f, "{message} about process {number}"),
        }
    }
}

impl std::error::Error for SpawnerLost {}

/// A spawner's own process, for its standard error.
pub type SpawnerProcess = Started<ParentToSpawner, SpawnerToParent>;

/// The spawners, and every process that they started and have not reaped.
#[derive(Debug, Default)]
pub struct Spawners {
    links: Vec<Rc<Link>>,
    running: HashMap<u64, Ender>,
    last: u64,
}

impl Spawners {
    /// Starts the spawner of an account and waits until it has dropped to it. Returns its number,
    /// its process id and its standard error.
    pub fn add(
        &mut self,
        starter: &Starter,
        account: Account,
        credentials: Option<Credentials>,
        enforcement: Enforcement,
    ) -> Result<(u64, i32, OwnedFd), SpawnerLost> {
        let lost = |why| SpawnerLost { account, why };
        #[cfg(target_os = "linux")]
        let programs = starter.binaries();
        #[cfg(not(target_os = "linux"))]
        let programs: [BorrowedFd<'_>; 0] = [];
        let process: SpawnerProcess = match account {
            Account::Daemon => starter.start_own(Role::Spawner, &[], &programs),
            Account::Client | Account::Repositories => starter.start(Role::Spawner, &[], &programs),
        }
        .map_err(|e| lost(SpawnerFault::Start(e)))?;
        let Started { pid, channel, stderr, .. } = process;
        let best_effort = enforcement == Enforcement::BestEffort;
        let start = SpawnerStart { account, credentials, best_effort };
        let begin = ParentToSpawner::Begin(start);
        channel.send(0, &begin).map_err(|e| lost(SpawnerFault::Send(e)))?;
        loop {
            match channel.recv() {
                Ok(received) => match received.message {
                    SpawnerToParent::Hello(build) if build.id == crate::BUILD => break,
                    _ => return Err(lost(SpawnerFault::OtherBuild)),
                },
                Err(e) if e.is_transient() => {}
                Err(e) => return Err(lost(SpawnerFault::Recv(e, last_words(&stderr)))),
            }
        }
        self.links.push(Rc::new(Link { account, channel, out: RefCell::default() }));
        Ok((self.next_number(), pid.as_raw(), stderr))
    }

    /// A number that no process ever had.
    pub fn next_number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Orders a process. That it could not be started is told as its end.
    ///
    /// # Errors
    /// The system has no more descriptors for its links.
    pub fn start<S: Message, R: Message>(
        &mut self,
        order: Order,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Child<S, R>> {
        let (message, account) = order.message().ok_or(io::ErrorKind::Unsupported)?;
        let link =
            self.links.iter().find(|link| link.account == account).ok_or(io::ErrorKind::NotConnected)?;
        let link = link.clone();
        let ParentLink { channel, stderr, theirs } = ParentLink::new()?;
        let number = self.next_number();
        let all: Vec<OwnedFd> = theirs.into_iter().chain(fds).collect();
        link.out.borrow_mut().send_fds(&link.channel, number, &message, all);
        let known = Known { number, pid: Cell::new(None), killed: Cell::new(false), link };
        let ender = Ender(Rc::new(known));
        self.running.insert(number, ender.clone());
        Ok(Child { role: order.role, channel, stderr, ender })
    }

    /// The links, and what to poll each for.
    pub fn sources(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.links.iter().map(|link| {
            let more = if link.out.borrow().is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
            (link.channel.as_fd(), PollFlags::POLLIN | more)
        })
    }

    /// Sends what waited, and reads what the spawners have said: the process, and what of it.
    ///
    /// # Errors
    /// A spawner that ended or lies: the daemon cannot go on.
    pub fn recv(&mut self) -> Result<Vec<(Ender, Event)>, SpawnerLost> {
        let mut events = Vec::new();
        for link in self.links.clone() {
            link.out.borrow_mut().flush(&link.channel);
            let lost = |why| SpawnerLost { account: link.account, why };
            loop {
                let received = match link.channel.try_recv() {
                    Ok(received) => received,
                    Err(e) if e.is_transient() => break,
                    Err(RecvError::Closed) => return Err(lost(SpawnerFault::Ended)),
                    Err(e) => return Err(lost(SpawnerFault::Recv(e, String::new()))),
                };
                let number = received.peer;
                let known = self.running.get(&number).filter(|ender| Rc::ptr_eq(&ender.0.link, &link));
                let Some(ender) = known.cloned() else {
                    return Err(lost(SpawnerFault::Lies(received.message.name(), number)));
                };
                let started = ender.pid().is_some();
                let event = match received.message {
                    SpawnerToParent::Started(pid) if !started => {
                        ender.0.pid.set(Some(pid));
                        Event::Started
                    }
                    SpawnerToParent::Failed(errno) if !started => {
                        Event::Ended(Ending::Exit(127), Some(errno))
                    }
                    SpawnerToParent::Ended(ending) if started => Event::Ended(ending, None),
                    other => return Err(lost(SpawnerFault::Lies(other.name(), number))),
                };
                if matches!(event, Event::Ended(..)) {
                    self.running.remove(&number);
                }
                events.push((ender, event));
            }
        }
        Ok(events)
    }

    /// How a process ended whose link has, as soon as its spawner says so, at most this long. What
    /// else is said until then is lost: this is for the end of the daemon.
    ///
    /// # Errors
    /// A spawner has ended, and has taken the process with it.
    pub fn await_end(&mut self, number: u64, patience: Duration) -> Result<Option<Ending>, SpawnerLost> {
        let until = Instant::now() + patience;
        while Instant::now() < until {
            for (ender, event) in self.recv()? {
                match event {
                    Event::Ended(ending, _) if ender.number() == number => return Ok(Some(ending)),
                    _ => {}
                }
            }
            self.wait(Duration::from_millis(20));
        }
        Ok(None)
    }

    /// Why a process could not be started whose link has ended, if its spawner says so in a moment.
    /// What else is said until then is lost: this is for a start that fails.
    pub fn why_not_started(&mut self, number: u64) -> Option<io::Error> {
        self.wait(Duration::from_millis(200));
        let events = self.recv().ok()?;
        events.into_iter().find_map(|(ender, event)| match event {
            Event::Ended(_, Some(errno)) if ender.number() == number => {
                Some(io::Error::from_raw_os_error(errno))
            }
            _ => None,
        })
    }

    /// Has every spawner kill its processes and end, and waits for that, at most until then.
    /// Sessions go first: a client is not told of the end of processes that its session needs.
    pub fn end_all(&mut self, until: Instant) {
        for account in [Account::Client, Account::Repositories, Account::Daemon] {
            self.end_account(account, until);
        }
    }

    fn end_account(&mut self, account: Account, until: Instant) {
        for link in self.links.iter().filter(|link| link.account == account) {
            link.out.borrow_mut().send(&link.channel, 0, &ParentToSpawner::Stop(()));
        }
        while self.links.iter().any(|link| link.account == account) && Instant::now() < until {
            self.links.retain(|link| {
                if link.account != account {
                    return true;
                }
                link.out.borrow_mut().flush(&link.channel);
                loop {
                    match link.channel.try_recv() {
                        Ok(_) => {}
                        Err(e) if e.is_transient() => return true,
                        Err(_) => return false,
                    }
                }
            });
            self.wait(Duration::from_millis(5));
        }
    }

    fn wait(&self, longest: Duration) {
        let mut fds: Vec<PollFd<'_>> =
            self.links.iter().map(|link| PollFd::new(link.channel.as_fd(), PollFlags::POLLIN)).collect();
        let _ = poll(&mut fds, PollTimeout::try_from(longest).unwrap_or(PollTimeout::ZERO));
    }
}
