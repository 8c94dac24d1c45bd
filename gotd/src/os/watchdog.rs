//! Ends a process whose client is too slow, whatever the process is stuck in, or that gets no more
//! memory.
//!
//! A timer signal looks once a second at a few atomics. So it works even inside a blocking read or
//! write, on a descriptor that the client has switched to blocking under us. One process serves one
//! client, so the state is global.
//!
//! **Every moment of a conversation has an owner, and only its owner can be too slow.** A client
//! that thinks ([`Phase::Idle`]) has the idle timeout. A client that sends or takes bytes
//! ([`Phase::Transfer`]) has the minimum rate, over the time that we waited for it and no other.
//! The server at work ([`Phase::Work`]) has the request timeout.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use libproto::limits::Limit;
use libproto::message::parent::SessionStart;
use libproto::refusal::Refusal;

use crate::os::system;

/// Exit status of a process that its watchdog ended.
pub const EXPIRED_STATUS: i32 = 3;
/// Exit status of a process that got no more memory.
pub const NO_MEMORY_STATUS: i32 = 4;

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
    /// The process waits for bytes that the client must take or give.
    Transfer = 4,
    /// After a complete answer: the client may stay a while, and its going is no failure.
    Done = 5,
}

/// The last words for one descriptor: a record for each phase that may last too long.
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
    /// When the process gets no more memory.
    pub memory: Vec<u8>,
    /// When it has used up its processor time; empty where there is no such limit.
    pub cpu: Vec<u8>,
    /// When it is silent, and gives way to another client.
    pub gives_way: Vec<u8>,
}

impl Words {
    /// The texts that all processes use. `record` encodes a refusal for the listener, and `done` is
    /// sent after a complete answer.
    pub fn new(limits: &SessionStart, record: impl Fn(Refusal) -> Vec<u8>, done: Vec<u8>) -> Words {
        let SessionStart { first_request, idle, idle_limit, work, .. } = limits;
        let reached = |limit, text| record(Refusal::Limit(limit, text));
        Words {
            first_request: reached(Limit::FirstRequest, format!("no request within {first_request} seconds")),
            idle: reached(*idle_limit, format!("idle for {idle} seconds")),
            work: reached(Limit::RequestTimeout, format!("no progress for {work} seconds")),
            transfer: record(Refusal::TooSlow),
            done,
            memory: reached(Limit::ProcessMemory, "out of memory".into()),
            cpu: Vec::new(),
            gives_way: reached(Limit::ConnectionsTotal, GAVE_WAY.into()),
        }
    }

    /// For a client that hears nothing but what is said while it is its turn: in the middle of
    /// anything else no word of ours would be understood.
    pub fn in_its_turn(self) -> Words {
        let nothing = Vec::new;
        Words {
            first_request: nothing(),
            work: nothing(),
            transfer: nothing(),
            done: nothing(),
            memory: nothing(),
            cpu: nothing(),
            ..self
        }
    }

    /// The same, with a record for a process that has used up its processor time.
    pub fn with_cpu(self, cpu: Vec<u8>) -> Words {
        Words { cpu, ..self }
    }
}

/// Why a silent session ends before its time.
const GAVE_WAY: &str = "silent for long, and gave way to another client";

struct Watchdog {
    /// The descriptors that get the last words, in this order.
    told: Vec<(i32, Words)>,
    limits: SessionStart,
}

/// How a process says that its client is silent, and hears that it is to give way.
struct Silence {
    /// The link to the parent, on which nothing but `GiveWay` comes any more.
    parent: i32,
    begins: Vec<u8>,
    ends: Vec<u8>,
}

static WATCHDOG: OnceLock<Watchdog> = OnceLock::new();
static SILENCE: OnceLock<Silence> = OnceLock::new();
/// The parent was told that the client is silent.
static SILENT: AtomicBool = AtomicBool::new(false);
static PHASE: AtomicU8 = AtomicU8::new(0);
/// Seconds in this phase, or since the last progress of work.
static SECONDS: AtomicU32 = AtomicU32::new(0);
/// Processor time of the process, in microseconds, at which it is ended; 0: none.
static CPU_LIMIT: AtomicU64 = AtomicU64::new(0);
/// Bytes moved in this window.
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Microseconds of this window in which the client was waited for, without a wait under way.
static WAITED: AtomicU64 = AtomicU64::new(0);
/// When the wait under way began, by [`system::monotonic_micros`].
static SINCE: AtomicU64 = AtomicU64::new(0);

/// Starts the watchdog. The descriptors in `told` must stay open as long as the process lives.
pub fn start(limits: SessionStart, told: Vec<(BorrowedFd<'_>, Words)>) -> std::io::Result<()> {
    let told = told.into_iter().map(|(fd, words)| (fd.as_raw_fd(), words)).collect();
    if WATCHDOG.set(Watchdog { told, limits }).is_err() {
        return Ok(());
    }
    system::before_abort(no_memory)?;
    system::tick_every_second(tick)
}

/// From here on the parent is told when the client has been silent for long, and may ask the
/// process to give way. `record` encodes what it is told; nothing else may come on `parent`.
pub fn may_give_way(parent: BorrowedFd<'_>, record: impl Fn(bool) -> Vec<u8>) {
    let silence = Silence { parent: parent.as_raw_fd(), begins: record(true), ends: record(false) };
    // A process serves one client.
    let _ = SILENCE.set(silence);
}

/// The process aborts. Where it does not panic, it got no memory.
fn no_memory() {
    if let (Some(dog), false) = (WATCHDOG.get(), std::thread::panicking()) {
        bark(dog, |words| &words.memory, NO_MEMORY_STATUS);
    }
}

/// Says the last words, and ends the process.
fn bark(dog: &Watchdog, which: impl Fn(&Words) -> &[u8], status: i32) -> ! {
    for (fd, words) in &dog.told {
        system::send_record(*fd, which(words));
    }
    system::exit_now(status)
}

/// Enters a phase, and starts counting its seconds. The window of the minimum rate goes on: it
/// counts what all waits for the client have in common.
pub fn phase(next: Phase) {
    let before = current();
    SECONDS.store(0, Ordering::Relaxed);
    if before == Phase::Transfer && next != Phase::Transfer {
        // In this order: the signal handler does not touch the time outside of a wait.
        PHASE.store(next as u8, Ordering::Relaxed);
        let waited = system::monotonic_micros().saturating_sub(SINCE.load(Ordering::Relaxed));
        WAITED.fetch_add(waited, Ordering::Relaxed);
    } else if before != Phase::Transfer && next == Phase::Transfer {
        SINCE.store(system::monotonic_micros(), Ordering::Relaxed);
    }
    PHASE.store(next as u8, Ordering::Relaxed);
    silence_ends();
}

/// Tells the parent that the client is not silent any more, if it was told that it is.
fn silence_ends() {
    if SILENT.load(Ordering::Relaxed)
        && SILENT.swap(false, Ordering::Relaxed)
        && let Some(silence) = SILENCE.get()
    {
        system::send_record(silence.parent, &silence.ends);
    }
}

/// Ends the process when it has used so much processor time, looked at once a second.
pub fn cpu_limit(limit: Option<std::time::Duration>) {
    let micros = limit.map_or(0, |limit| u64::try_from(limit.as_micros()).unwrap_or(u64::MAX).max(1));
    CPU_LIMIT.store(micros, Ordering::Relaxed);
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
        silence_ends();
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
    let Some(dog) = WATCHDOG.get() else { return };
    let cpu = CPU_LIMIT.load(Ordering::Relaxed);
    if cpu != 0 && system::cpu_time().as_micros() >= u128::from(cpu) {
        bark(dog, |words| &words.cpu, EXPIRED_STATUS);
    }
    let now = SECONDS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let limits = &dog.limits;
    let (over, which): (bool, fn(&Words) -> &[u8]) = match current() {
        Phase::Off => return,
        Phase::FirstRequest => (now >= limits.first_request, |words| &words.first_request),
        Phase::Idle => (now >= limits.idle, |words| &words.idle),
        Phase::Work => (now >= limits.work, |words| &words.work),
        Phase::Transfer => (window_is_slow(limits), |words| &words.transfer),
        Phase::Done => (now >= limits.idle, |words| &words.done),
    };
    let status = if current() == Phase::Done { 0 } else { EXPIRED_STATUS };
    if over {
        bark(dog, which, status);
    }
    if matches!(current(), Phase::Idle | Phase::Done) && now >= limits.long_silence() && gives_way() {
        let which: fn(&Words) -> &[u8] =
            if status == 0 { |words| &words.done } else { |words| &words.gives_way };
        bark(dog, which, status);
    }
}

/// Whether a client that has been silent for long gives way. Tells the parent about it first.
fn gives_way() -> bool {
    let Some(silence) = SILENCE.get() else { return false };
    if !SILENT.swap(true, Ordering::Relaxed) {
        // What was said to an earlier silence is not meant for this one.
        while system::take_record(silence.parent) {}
        system::send_record(silence.parent, &silence.begins);
        return false;
    }
    system::take_record(silence.parent)
}

/// At the end of each window: whether it moved too little. Starts the next window.
fn window_is_slow(limits: &SessionStart) -> bool {
    let now = system::monotonic_micros();
    let under_way = now.saturating_sub(SINCE.load(Ordering::Relaxed));
    let seconds = WAITED.load(Ordering::Relaxed).saturating_add(under_way) / 1_000_000;
    if seconds < u64::from(limits.rate_window.min(limits.work)) {
        return false;
    }
    SINCE.store(now, Ordering::Relaxed);
    WAITED.store(0, Ordering::Relaxed);
    let least = u64::from(limits.minimum_rate).saturating_mul(seconds).max(1);
    BYTES.swap(0, Ordering::Relaxed) < least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_when_something_lasts_too_long() {
        let limits = SessionStart::default();
        let words = Words::new(&limits, |said| said.to_string().into_bytes(), b"done".to_vec());
        for (said, text) in [
            (&words.first_request, "no request within 30 seconds (connection first request timeout)"),
            (&words.idle, "idle for 3600 seconds (connection idle timeout)"),
            (&words.work, "no progress for 3600 seconds (connection request timeout)"),
            (&words.transfer, "transfer is too slow (connection minimum rate)"),
            (&words.memory, "out of memory (limit process memory)"),
            (&words.done, "done"),
            (&words.cpu, ""),
            (&words.gives_way, "silent for long, and gave way to another client (connection limit total)"),
        ] {
            assert_eq!(String::from_utf8_lossy(said), text);
        }
    }
}
