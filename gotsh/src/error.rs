//! Why gotsh cannot do what it was asked. The texts are what the client reads.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;

use libproto::channel::{RecvError, SendError};
use libproto::command::CommandError;
use libproto::names::{RepoName, escape};
use libproto::request::daemon;
use libproto::wire_error::WireError;
use nix::errno::Errno;

/// Why gotsh ends without what it was asked for.
#[derive(Debug)]
pub enum Error {
    /// The client's command is not one that gotsh knows.
    Command(CommandError),
    /// The command is too long.
    LongCommand,
    /// What follows `--user` is no user's name.
    UserName,
    /// The socket of this path takes no connection.
    Connect(OsString, Errno),
    /// The session is gone, and has told no status.
    SessionEnded,
    /// What the session sends makes no sense, or cannot be received.
    Received(RecvError),
    /// The request does not fit into a message.
    Request(SendError),
    /// The session cannot be written to.
    Send(io::Error),
    /// A system call failed: what for.
    System(&'static str, Errno),
    /// The same, as the standard library tells it.
    Io(&'static str, io::Error),
    /// Standard input cannot be copied.
    Input(io::Error),
    /// Over git://: nothing came within so many seconds.
    NoRequest(u64),
    /// Over git://: the first packet is wrong.
    Wire(WireError),
    /// Over git://: the service is not offered for this repository.
    NotEnabled(RepoName),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Command(e) => e.fmt(f),
            Error::LongCommand => f.write_str("too long a command"),
            Error::UserName => f.write_str("--user: not a user name"),
            Error::Connect(path, e) => write!(f, "connect: {}: {}", escape(path.as_bytes()), e.desc()),
            Error::SessionEnded => f.write_str("the session ended unexpectedly"),
            Error::Received(e) => write!(f, "gotd: {e}"),
            Error::Request(e) => write!(f, "gotd: {e}"),
            Error::Send(e) => write!(f, "gotd: {e}"),
            Error::System(what, e) => write!(f, "{what}: {e}"),
            Error::Io(what, e) => write!(f, "{what}: {e}"),
            Error::Input(e) => e.fmt(f),
            Error::NoRequest(seconds) => write!(f, "no request within {seconds} seconds"),
            Error::Wire(e) => e.fmt(f),
            Error::NotEnabled(repo) => f.write_str(&daemon::not_enabled(repo)),
        }
    }
}

impl std::error::Error for Error {}

impl From<CommandError> for Error {
    fn from(e: CommandError) -> Error {
        Error::Command(e)
    }
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Error {
        Error::Wire(e)
    }
}

impl From<RecvError> for Error {
    fn from(e: RecvError) -> Error {
        match e {
            RecvError::Closed => Error::SessionEnded,
            e => Error::Received(e),
        }
    }
}
