//! Why a session ends with a failure of its own.

use std::fmt;

use crate::os::error::{SystemError, carries_system_error};

/// Why it ends. What a client does wrong is told the client and the parent instead.
#[derive(Debug)]
pub enum SessionError {
    /// A system call of this process failed.
    System(SystemError),
    /// `listen` gave a connection of the kind that this process did not wait for.
    OtherConnection,
    /// The connection over git:// is not one of TCP.
    NotTcp,
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SessionError::System(e) => e.fmt(f),
            SessionError::OtherConnection => f.write_str("listen: a connection of the other kind"),
            SessionError::NotTcp => f.write_str("not a TCP connection"),
        }
    }
}

carries_system_error!(SessionError);
