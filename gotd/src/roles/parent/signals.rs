//! The signals that the parent handles, and waiting for its last children.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The signals that the parent handles, through a pipe.
pub fn catch_signals() -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for (signal, byte) in HANDLED {
        let pipe = theirs.try_clone()?;
        pipe.set_nonblocking(true)?;
        // signal-hook writes one byte 'X' whatever the signal; one flag per signal tells them
        // apart.
        signal_hook::flag::register(*signal as i32, FLAGS[usize::from(*byte)].clone())?;
        signal_hook::low_level::pipe::register(*signal as i32, pipe)?;
    }
    Ok(ours)
}

const HANDLED: &[(Signal, u8)] =
    &[(Signal::SIGCHLD, 0), (Signal::SIGTERM, 1), (Signal::SIGINT, 2), (Signal::SIGHUP, 3)];

static FLAGS: std::sync::LazyLock<[std::sync::Arc<std::sync::atomic::AtomicBool>; 4]> =
    std::sync::LazyLock::new(Default::default);

/// The signals that came since the last call.
pub fn drain_signals(pipe: &mut UnixStream) -> Vec<Signal> {
    let mut buffer = [0; 256];
    while pipe.read(&mut buffer).is_ok_and(|n| n == buffer.len()) {}
    HANDLED
        .iter()
        .filter(|(_, at)| FLAGS[usize::from(*at)].swap(false, std::sync::atomic::Ordering::AcqRel))
        .map(|(signal, _)| *signal)
        .collect()
}

/// Waits until no child is left, at most `bound`; then kills `last`, which was asked to end by
/// itself.
pub fn wait_for_all(bound: Duration, last: Pid) {
    let end = Instant::now() + bound;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(_) => continue,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        }
        if Instant::now() >= end {
            let _ = kill(last, Signal::SIGKILL);
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
