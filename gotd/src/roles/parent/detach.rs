//! Leaving the terminal: the process that the shell started waits until the daemon listens, and
//! prints the daemon's messages until then.

use std::io::Read;

use super::error::StartupError;
use crate::os::error::SystemError;
use crate::os::spawn::Starter;

/// Starts the daemon, with these arguments, in a session of its own (setsid(2)), waits until it
/// listens, and prints its messages until then.
pub(super) fn detach(starter: &Starter, arguments: &[String]) -> Result<(), StartupError> {
    let (status, stderr) = starter.start_daemon(arguments).map_err(|e| SystemError::Io("start", e))?;
    let mut said = String::new();
    let _ = std::fs::File::from(stderr).take(64 * 1024).read_to_string(&mut said);
    eprint!("{said}");
    let mut byte = [0];
    match std::fs::File::from(status).read(&mut byte) {
        Ok(1) => Ok(()),
        _ => Err(StartupError::NotDetached),
    }
}

/// Tells the process that started us that clients are served from now on, and lets go of its
/// terminal.
pub(super) fn ready(starter: &Starter) {
    if let Ok(status) = crate::os::system::inherited(crate::os::spawn::PARENT_FD) {
        let _ = nix::unistd::write(&status, b"r");
    }
    let _ = crate::os::system::silence_stderr(starter.null());
}
