//! A process of a session: there, or how it ended.

use nix::sys::wait::WaitStatus;

/// A process of a session: there, or how it ended.
#[derive(Debug)]
pub enum Process<C> {
    /// Not reaped yet.
    Running(C),
    /// Reaped.
    Ended(Ending),
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl Ending {
    /// From wait(2); `None`: still running.
    pub fn of(status: WaitStatus) -> Option<Ending> {
        match status {
            WaitStatus::Exited(_, status) => Some(Ending::Exit(status)),
            WaitStatus::Signaled(_, signal, _) => Some(Ending::Signal(signal as i32)),
            _ => None,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exit(status) => write!(f, "exit {status}"),
            Ending::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl<C> Process<C> {
    /// The process, while it runs.
    pub fn running(&self) -> Option<&C> {
        match self {
            Process::Running(child) => Some(child),
            Process::Ended(_) => None,
        }
    }

    /// The same.
    pub fn running_mut(&mut self) -> Option<&mut C> {
        match self {
            Process::Running(child) => Some(child),
            Process::Ended(_) => None,
        }
    }
}
