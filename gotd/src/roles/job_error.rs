//! Why a process that does one thing below a `repositories` directory fails.

use std::fmt;

use libproto::message::parent::OpenError;

use crate::os::error::{SystemError, carries_system_error};
use crate::repo::find::Unopened;

/// Why it fails before it begins.
#[derive(Debug)]
pub enum JobError {
    /// A system call of this process failed.
    System(SystemError),
    /// The directory cannot be opened.
    NoDirectory(OpenError),
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JobError::System(e) => e.fmt(f),
            JobError::NoDirectory(e) => Unopened { error: e, absent: "no such directory" }.fmt(f),
        }
    }
}

carries_system_error!(JobError);
