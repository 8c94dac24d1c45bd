//! Ends a process whose client is too slow, whatever the process is stuck in.
//!
//! A timer signal looks once a second at a few atomics, so it works inside a blocking read or write of a
//! descriptor that the client has switched to blocking under us. One process serves one client: the state is
//! the process's.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use libproto::message::parent::SessionStart;

use crate::system;

/// Exit status of a process that its watchdog ended.
pub const EXPIRED_STATUS: i32 = 3;

/// What the process is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Nothing that a client could delay.
    Off = 0,
    /// The client's first request; the whole of it counts, not each byte.
    FirstRequest = 1,
    /// The client's next words, when it is its turn.
    Idle = 2,
    /// Our own work: the client's silence is no reason to end it.
    Work = 3,
    /// Bytes that the client must take or give.
    Transfer = 4,
    /// After a complete answer: the client may stay a while, and its going is no failure.
    Done = 5,
}

/// What is said when a phase lasts too long: one record for each, sent to one descriptor.
#[derive(Debug)]
pub struct Words {
    /// For [`Phase::FirstRequest`].
    pub first_request: Vec<u8>,
    /// For [`Phase::Idle`].
    pub idle: Vec<u8>,
    /// For [`Phase::Work`].
    pub work: Vec<u8>,
    /// For [`Phase::Transfer`].
    pub transfer: Vec<u8>,
    /// For [`Phase::Done`].
    pub done: Vec<u8>,
}

struct Dog {
    fd: i32,
    words: Words,
    limits: SessionStart,
}

static DOG: OnceLock<Dog> = OnceLock::new();
static PHASE: AtomicU8 = AtomicU8::new(0);
/// Seconds in this phase, or since the last progress of work.
static SECONDS: AtomicU32 = AtomicU32::new(0);
/// Bytes moved in this window.
static BYTES: AtomicU64 = AtomicU64::new(0);

/// Starts the watchdog. `speaker` stays open as long as the process lives.
pub fn start(limits: SessionStart, speaker: impl AsFd, words: Words) -> std::io::Result<()> {
    let fd = speaker.as_fd().as_raw_fd();
    if DOG.set(Dog { fd, words, limits }).is_err() {
        return Ok(());
    }
    system::tick_every_second(tick)
}

/// Enters a phase, and starts counting its seconds.
pub fn phase(phase: Phase) {
    SECONDS.store(0, Ordering::Relaxed);
    BYTES.store(0, Ordering::Relaxed);
    PHASE.store(phase as u8, Ordering::Relaxed);
}

/// The phase that the process is in.
pub fn current() -> Phase {
    match PHASE.load(Ordering::Relaxed) {
        1 => Phase::FirstRequest,
        2 => Phase::Idle,
        3 => Phase::Work,
        4 => Phase::Transfer,
        5 => Phase::Done,
        _ => Phase::Off,
    }
}

/// Work went on.
pub fn worked() {
    if current() == Phase::Work {
        SECONDS.store(0, Ordering::Relaxed);
    }
}

/// The client gave or took this many bytes.
pub fn moved(bytes: usize) {
    BYTES.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    if current() == Phase::Idle {
        SECONDS.store(0, Ordering::Relaxed);
    }
}

/// Runs `f` in `inner`, then returns to the phase before.
pub fn during<T>(inner: Phase, f: impl FnOnce() -> T) -> T {
    let outer = current();
    phase(inner);
    let result = f();
    phase(outer);
    result
}

/// Once a second, from the signal handler: atomics and last words only.
fn tick() {
    let Some(dog) = DOG.get() else { return };
    let now = SECONDS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let limits = &dog.limits;
    let (over, words): (bool, &[u8]) = match current() {
        Phase::Off => (false, &[]),
        Phase::FirstRequest => (now >= limits.first_request, &dog.words.first_request),
        Phase::Idle => (now >= limits.idle, &dog.words.idle),
        Phase::Work => (now >= limits.work, &dog.words.work),
        Phase::Transfer => (window_is_slow(now, limits), &dog.words.transfer),
        Phase::Done => (now >= limits.idle, &dog.words.done),
    };
    if over {
        let status = if current() == Phase::Done { 0 } else { EXPIRED_STATUS };
        system::last_words(dog.fd, words, status);
    }
}

/// At the end of each window: whether it moved too little. Starts the next window.
fn window_is_slow(now: u32, limits: &SessionStart) -> bool {
    if now < limits.rate_window.min(limits.work) {
        return false;
    }
    SECONDS.store(0, Ordering::Relaxed);
    let least = u64::from(limits.minimum_rate).saturating_mul(u64::from(now)).max(1);
    BYTES.swap(0, Ordering::Relaxed) < least
}
