//! Where the daemon listens.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::message::parent::Pool;
use libproto::names::escape;

use crate::roles::sockets::ask;

/// Where a listening socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path.
    Unix(PathBuf),
    /// The path of a control socket.
    Control(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

impl Place {
    /// The unix socket, or control socket, of this path.
    pub fn of_path(path: &Path) -> Place {
        let control = ask::is_control(path.as_os_str().as_bytes());
        if control { Place::Control(path.to_owned()) } else { Place::Unix(path.to_owned()) }
    }

    /// Which waiting sessions its connections take.
    pub fn pool(&self) -> Pool {
        match self {
            Place::Unix(_) => Pool::Unix,
            Place::Control(_) => Pool::Control,
            Place::Tcp(_) => Pool::Tcp,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Unix(path) | Place::Control(path) => f.write_str(&escape(path.as_os_str().as_bytes())),
            Place::Tcp(address) => address.fmt(f),
        }
    }
}
