//! A process of a session: there, or how it ended.

use libproto::message::parent::Ending;

/// A process of a session: there, or how it ended.
#[derive(Debug)]
pub enum Process<C> {
    /// Not reaped yet.
    Running(C),
    /// Reaped.
    Ended(Ending),
}

impl<C> Process<C> {
    /// The process, while it runs.
    pub fn running(&self) -> Option<&C> {
        match self {
            Process::Running(child) => Some(child),
            Process::Ended(_) => None,
        }
    }

    /// The process, while it runs, to change it.
    pub fn running_mut(&mut self) -> Option<&mut C> {
        match self {
            Process::Running(child) => Some(child),
            Process::Ended(_) => None,
        }
    }
}
