//! The process of a job, as its session knows it.

use std::any::Any;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use libproto::channel::{Channel, Message, SendError};
use libproto::states::JobState;

use super::super::spawners::{Child, Ender};

/// A process that does one thing and ends.
#[derive(Debug)]
pub struct Job<S, R> {
    ender: Ender,
    /// The link to it.
    pub channel: Channel<S, R>,
    /// The log has a copy; without a reader, whatever the process says would end it.
    _stderr: OwnedFd,
    /// What it may say now.
    pub state: JobState,
    /// Its link has ended.
    pub closed: bool,
    until: Option<Instant>,
}

/// The jobs that a session keeps, at most one of each type of messages, until they are reaped.
#[derive(Debug, Default)]
pub struct Kept(Vec<Box<dyn Any>>);

/// A job, whatever its role.
#[derive(Debug, Clone)]
pub struct AnyJob<'j> {
    /// How it is ended.
    pub ender: Ender,
    /// Its link, until its last word.
    pub link: Option<BorrowedFd<'j>>,
    /// When it has to be over.
    pub until: Option<Instant>,
}

impl Kept {
    /// Keeps one.
    pub fn keep<S: 'static, R: 'static>(&mut self, job: Job<S, R>) {
        self.0.push(Box::new(job));
    }

    /// The job with these messages.
    pub fn of<S: 'static, R: 'static>(&self) -> Option<&Job<S, R>> {
        self.0.iter().find_map(|job| job.downcast_ref())
    }

    /// The job with these messages, to change it.
    pub fn of_mut<S: 'static, R: 'static>(&mut self) -> Option<&mut Job<S, R>> {
        self.0.iter_mut().find_map(|job| job.downcast_mut())
    }

    /// Takes it out.
    pub fn take<S: 'static, R: 'static>(&mut self) -> Option<Job<S, R>> {
        let at = self.0.iter().position(|job| job.is::<Job<S, R>>())?;
        self.0.swap_remove(at).downcast().ok().map(|job| *job)
    }
}

impl<S: Message, R: Message> Job<S, R> {
    /// Of a process that has just been started.
    pub fn new(child: Child<S, R>, patience: Option<Duration>) -> Job<S, R> {
        let (ender, until) = (child.ender(), patience.map(|patience| Instant::now() + patience));
        let Child { channel, stderr, .. } = child;
        Job { ender, channel, _stderr: stderr, state: JobState::Starting, closed: false, until }
    }

    /// Whether it has said all that it had to.
    pub fn is_done(&self) -> bool {
        self.state == JobState::Finished
    }

    /// Whether it has had all the time that it may take.
    pub fn is_late(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Sends it a message; does not wait for room.
    pub fn send(&self, session: u64, message: &S) -> Result<(), SendError> {
        self.channel.try_send(session, message)
    }

    /// What is known without its messages.
    pub fn any(&self) -> AnyJob<'_> {
        // A link that has said its last word would report its end at once and for ever.
        let link = (!self.closed && !self.is_done()).then(|| self.channel.as_fd());
        AnyJob { ender: self.ender.clone(), link, until: self.until }
    }
}
