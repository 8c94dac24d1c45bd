//! Why the program ends with a failure: the one error that all others of the crate become.

use std::fmt;

use crate::roles::error::RoleError;
use crate::roles::parent::error::StartupError;

/// Why the program ends.
#[derive(Debug)]
pub enum Error {
    /// No role has this name.
    NoRole(String),
    /// A process that the daemon started fails.
    Role(RoleError),
    /// The daemon is not started, or has lost what it cannot do without.
    Daemon(StartupError),
}

impl Error {
    /// The exit status.
    pub fn status(&self) -> u8 {
        match self {
            Error::NoRole(_) | Error::Role(_) => 1,
            Error::Daemon(e) => e.status(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NoRole(name) => write!(f, "{name}: not a role"),
            Error::Role(e) => e.fmt(f),
            Error::Daemon(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<RoleError> for Error {
    fn from(e: RoleError) -> Error {
        Error::Role(e)
    }
}

impl From<StartupError> for Error {
    fn from(e: StartupError) -> Error {
        Error::Daemon(e)
    }
}
