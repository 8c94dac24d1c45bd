//! The last words to a client, which may still be writing the pack of a push that was decided
//! without it.
//!
//! If the pipe were closed while it sends, it would end with a broken pipe and never read the
//! reason. So its bytes are read and dropped while the last words are written and for a while
//! after, within bounds.

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::watchdog::{self, Phase};
use crate::session::pipes::{Input, Output};

/// Most bytes that are dropped.
const DROP_BYTES: u64 = 256 << 20;
/// Longest time for it.
const DROP_TIME: Duration = Duration::from_secs(60);
/// Longest silence after the last words before we give up waiting for the end of the input: some
/// clients (JGit) wait for us to close first. A client that is only slow has its report by then,
/// and git reads the report when its pack is refused.
const DROP_SILENCE: Duration = Duration::from_millis(700);
/// A pipe that has room at all has room for so many bytes: pipe(7), `PIPE_BUF`.
pub(super) const ROOM: usize = 4096;

/// Writes all that `more` appends until it returns `false`. `drain`: the client may be writing,
/// too.
///
/// # Errors
/// The client is gone, or its pipe failed.
pub(super) fn write(
    input: &mut Input,
    output: &mut Output,
    more: &mut dyn FnMut(&mut Vec<u8>) -> bool,
    drain: bool,
) -> io::Result<()> {
    let mut pending = Vec::new();
    watchdog::phase(Phase::Transfer);
    if drain {
        let words = write_and_drain(input, output, more, &mut pending);
        watchdog::phase(Phase::Transfer);
        words?;
    }
    // Writes the rest after the bounds, or everything if the client only reads.
    loop {
        output.write_all(&pending)?;
        pending.clear();
        if !more(&mut pending) {
            return Ok(());
        }
    }
}

/// Writes while it drops what comes in. Leaves in `pending` what it has not written when a bound is
/// reached.
fn write_and_drain(
    input: &mut Input,
    output: &mut Output,
    more: &mut dyn FnMut(&mut Vec<u8>) -> bool,
    pending: &mut Vec<u8>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut sent = 0;
    let mut talking = true;
    let mut open = true;
    let mut dropped = 0_u64;
    let deadline = Instant::now() + DROP_TIME;
    let mut last_byte = Instant::now();
    while open {
        if talking && sent == pending.len() {
            sent = 0;
            pending.clear();
            talking = more(pending);
            if !talking {
                // All is said. From here on a client that goes, or does nothing, does no harm.
                watchdog::phase(Phase::Done);
                last_byte = Instant::now();
            }
        }
        let now = Instant::now();
        let end = if talking { deadline } else { deadline.min(last_byte + DROP_SILENCE) };
        if now >= end || dropped >= DROP_BYTES {
            break;
        }
        let (readable, writable) = ready(input.fd(), output.fd(), talking, end - now)?;
        if readable {
            let n = input.read(&mut buffer)?;
            open = n > 0;
            dropped = dropped.saturating_add(u64::try_from(n).unwrap_or(u64::MAX));
            last_byte = Instant::now();
        }
        if writable {
            let piece = &pending[sent..pending.len().min(sent + ROOM)];
            sent += output.write(piece)?;
        }
    }
    pending.drain(..sent.min(pending.len()));
    Ok(())
}

/// Waits until one of them is ready, at most for `time`.
fn ready(
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    talking: bool,
    time: Duration,
) -> io::Result<(bool, bool)> {
    let mut fds = [PollFd::new(input, PollFlags::POLLIN), PollFd::new(output, PollFlags::POLLOUT)];
    let most = if talking { fds.len() } else { 1 };
    match poll(&mut fds[..most], timeout(time)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok((false, false)),
        Err(e) => return Err(e.into()),
    }
    let is_ready = |at: usize| fds.get(at).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
    Ok((is_ready(0), talking && is_ready(1)))
}

/// Rounds up to milliseconds, so that a wait never ends before its time.
pub(super) fn timeout(time: Duration) -> PollTimeout {
    let millis = time.as_millis().saturating_add(1);
    PollTimeout::try_from(i32::try_from(millis).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX)
}
