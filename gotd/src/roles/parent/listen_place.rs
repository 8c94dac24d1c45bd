//! Where the daemon listens.

use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::message::parent::Pool;
use libproto::names::escape;

use crate::roles::sockets::ask;

/// Where a listening socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenPlace {
    /// A path.
    Unix(PathBuf),
    /// The path of a control socket.
    Control(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

impl ListenPlace {
    /// The unix socket, or control socket, of this path.
    pub fn of_path(path: &Path) -> ListenPlace {
        let control = ask::is_control(path.as_os_str().as_bytes());
        if control { ListenPlace::Control(path.to_owned()) } else { ListenPlace::Unix(path.to_owned()) }
    }

    /// Which waiting sessions its connections take.
    pub fn pool(&self) -> Pool {
        match self {
            ListenPlace::Unix(_) => Pool::Unix,
            ListenPlace::Control(_) => Pool::Control,
            ListenPlace::Tcp(_) => Pool::Tcp,
        }
    }
}

impl std::fmt::Display for ListenPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ListenPlace::Unix(path) | ListenPlace::Control(path) => {
                f.write_str(&escape(path.as_os_str().as_bytes()))
            }
            ListenPlace::Tcp(address) => address.fmt(f),
        }
    }
}
