//! Signals that a process handles, through a pipe that it polls.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use nix::sys::signal::Signal;

/// All that a process may want to handle.
const HANDLED: [Signal; 4] = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

static FLAGS: LazyLock<[Arc<AtomicBool>; HANDLED.len()]> = LazyLock::new(Default::default);

/// Handles these signals from now on; the pipe that is returned can be read when one has come. Once
/// for each process.
///
/// # Errors
/// What the system says of the pipe or of a handler.
pub fn catch(wanted: &[Signal]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    for (signal, flag) in HANDLED.iter().zip(FLAGS.iter()).filter(|(signal, _)| wanted.contains(signal)) {
        let pipe = theirs.try_clone()?;
        pipe.set_nonblocking(true)?;
        // signal-hook writes one byte 'X' whatever the signal; one flag per signal tells them
        // apart.
        signal_hook::flag::register(*signal as i32, flag.clone())?;
        signal_hook::low_level::pipe::register(*signal as i32, pipe)?;
    }
    Ok(ours)
}

/// The signals that came since the last call.
pub fn drain(pipe: &mut UnixStream) -> Vec<Signal> {
    let mut buffer = [0; 256];
    while pipe.read(&mut buffer).is_ok_and(|n| n == buffer.len()) {}
    let came = HANDLED.iter().zip(FLAGS.iter()).filter(|(_, flag)| flag.swap(false, Ordering::AcqRel));
    came.map(|(signal, _)| *signal).collect()
}
