//! Why a process cannot go on: what it asked of the system, or heard on a link.

use std::fmt;
use std::io;

use libproto::channel::RecvError;
use nix::errno::Errno;

/// What failed, with what it was for where the system's words alone do not tell.
#[derive(Debug)]
pub enum SystemError {
    /// The sandbox cannot be entered.
    Sandbox(libsandbox::Error),
    /// A call failed: what for.
    Call(&'static str, Errno),
    /// A call failed, as the standard library tells it: what for.
    Io(&'static str, io::Error),
    /// A call failed, and its error says enough.
    Plain(io::Error),
    /// Nothing can be received.
    Received(RecvError),
}

impl fmt::Display for SystemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SystemError::Sandbox(e) => e.fmt(f),
            SystemError::Call(what, e) => write!(f, "{what}: {e}"),
            SystemError::Io(what, e) => write!(f, "{what}: {e}"),
            SystemError::Plain(e) => e.fmt(f),
            SystemError::Received(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for SystemError {}

impl From<libsandbox::Error> for SystemError {
    fn from(e: libsandbox::Error) -> SystemError {
        SystemError::Sandbox(e)
    }
}

/// Makes an enum with a variant `System` an error that such a failure can become.
macro_rules! carries_system_error {
    ($error:ident) => {
        impl std::error::Error for $error {}

        impl From<$crate::os::error::SystemError> for $error {
            fn from(e: $crate::os::error::SystemError) -> $error {
                $error::System(e)
            }
        }

        impl From<libsandbox::Error> for $error {
            fn from(e: libsandbox::Error) -> $error {
                $error::System(e.into())
            }
        }
    };
}
pub(crate) use carries_system_error;
