//! Why the daemon does not start, does not go on, or does not take a new configuration.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use libproto::channel::{RecvError, SendError};
use libproto::codec::CodecError;
use libproto::message::parent::Ending;
use libproto::names::escape;
use libproto::states::Role;
use nix::errno::Errno;

use super::listen_place::ListenPlace;
use super::spawners::SpawnerLost;
use crate::conf::items::WireError;
use crate::os::accounts::AccountsError;
use crate::os::credentials::TakeOnError;
use crate::os::error::{SystemError, carries_system_error};
use crate::roles::sockets::ask::{Broken, Unmade};

/// The exit status of a daemon that was not started because of its configuration; trying again
/// would not help. `EX_CONFIG` of sysexits(3).
const UNUSABLE: u8 = 78;

/// Why the daemon is not started, or has ended.
#[derive(Debug)]
pub enum StartupError {
    /// A system call of it failed.
    System(SystemError),
    /// A daemon that leaves its terminal cannot have sockets of a service manager.
    PassedToDetach,
    /// A descriptor of the service manager is of no use.
    Passed(i32, PassedError),
    /// A file of the command line has no absolute path.
    Path(PathBuf, io::Error),
    /// The daemon that leaves the terminal has not started. It has said why.
    NotDetached,
    /// A process of the daemon's cannot be started, and what it said last.
    Child(Role, ChildError, String),
    /// The configuration has errors, which were told.
    Unusable {
        /// The file.
        path: PathBuf,
        /// Nothing else was asked, and nothing was to be started.
        checked: bool,
    },
    /// It cannot run under the accounts of its configuration.
    Accounts(AccountsError),
    /// The parent cannot become its account.
    TakeOn(TakeOnError),
    /// A spawner does not start.
    Spawner(SpawnerLost),
    /// A listening socket cannot be made, and what `sockets` said last.
    Listener(ListenPlace, Unmade, String),
    /// Something that is no socket has the path of one.
    NoSocket(PathBuf),
    /// Somebody listens there already.
    Taken(PathBuf),
    /// It cannot be found out whether somebody listens there.
    Untried(PathBuf, Errno),
    /// The path is not that of a socket.
    Address(PathBuf, Errno),
    /// It served, and lost what it cannot do without.
    Lost(Fatal),
}

impl StartupError {
    /// The exit status, which a service manager goes by.
    pub fn status(&self) -> u8 {
        match self {
            StartupError::Unusable { checked: false, .. } | StartupError::Accounts(_) => UNUSABLE,
            _ => 1,
        }
    }
}

impl fmt::Display for StartupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartupError::System(e) => e.fmt(f),
            StartupError::PassedToDetach => {
                f.write_str("sockets were passed by the service manager: start with -d")
            }
            StartupError::Passed(number, e) => write!(f, "descriptor {number} of the service manager: {e}"),
            StartupError::Path(path, e) => write!(f, "{}: {e}", path.display()),
            StartupError::NotDetached => f.write_str("not started"),
            StartupError::Child(role, e, last) => write!(f, "{}: {e}{last}", role.name()),
            StartupError::Unusable { path, .. } => write!(f, "{}: not usable", path.display()),
            StartupError::Accounts(e) => e.fmt(f),
            StartupError::TakeOn(e) => e.fmt(f),
            StartupError::Spawner(e) => e.fmt(f),
            StartupError::Listener(place, e, last) => write!(f, "{place}: {e}{last}"),
            StartupError::NoSocket(path) => write!(f, "{}: exists and is not a socket", path.display()),
            StartupError::Taken(path) => write!(f, "{}: another daemon is listening", path.display()),
            StartupError::Untried(path, e) => write!(f, "{}: {}", path.display(), e.desc()),
            StartupError::Address(path, e) => write!(f, "{}: {e}", path.display()),
            StartupError::Lost(fatal) => fatal.fmt(f),
        }
    }
}

carries_system_error!(StartupError);

impl From<AccountsError> for StartupError {
    fn from(e: AccountsError) -> StartupError {
        StartupError::Accounts(e)
    }
}

impl From<TakeOnError> for StartupError {
    fn from(e: TakeOnError) -> StartupError {
        StartupError::TakeOn(e)
    }
}

/// Why a descriptor of the service manager is of no use.
#[derive(Debug)]
pub enum PassedError {
    /// It is not there, or cannot be made to refuse descriptors.
    Io(io::Error),
    /// It cannot be asked what it is.
    Call(Errno),
    /// A connection, or a socket that was only bound.
    NotListening,
    /// A unix socket of no name.
    NoPath,
    /// Another kind of socket.
    OtherKind,
}

impl fmt::Display for PassedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PassedError::Io(e) => e.fmt(f),
            PassedError::Call(e) => f.write_str(e.desc()),
            PassedError::NotListening => f.write_str("a socket that does not listen"),
            PassedError::NoPath => f.write_str("a socket without a path"),
            PassedError::OtherKind => {
                f.write_str("neither a TCP socket nor a unix socket of sequential packets")
            }
        }
    }
}

impl std::error::Error for PassedError {}

/// Why a process that is being started, or asked for the configuration, is of no use.
#[derive(Debug)]
pub enum ChildError {
    /// The system does not start it.
    Start(io::Error),
    /// It cannot be told something.
    Send(SendError),
    /// It cannot be heard.
    Recv(RecvError),
    /// It has ended before its last word.
    EndedEarly,
    /// It is of another build.
    OtherBuild,
    /// It does not say that it has taken the configuration.
    NotConfigured,
    /// A block of the configuration does not fit into a message.
    TooLarge(CodecError),
    /// What it sends is no configuration.
    Item(WireError),
    /// It names a block that the configuration does not have.
    NoBlock(u32),
    /// It does not get done.
    TooLong,
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChildError::Start(e) => e.fmt(f),
            ChildError::Send(e) => e.fmt(f),
            ChildError::Recv(e) => e.fmt(f),
            ChildError::EndedEarly => f.write_str("ended early"),
            ChildError::OtherBuild => f.write_str("another build"),
            ChildError::NotConfigured => f.write_str("not configured"),
            ChildError::TooLarge(e) => write!(f, "configuration: {e}"),
            ChildError::Item(e) => e.fmt(f),
            ChildError::NoBlock(block) => write!(f, "block {block}: the configuration has none"),
            ChildError::TooLong => f.write_str("takes too long"),
        }
    }
}

impl std::error::Error for ChildError {}

impl From<CodecError> for ChildError {
    fn from(e: CodecError) -> ChildError {
        ChildError::TooLarge(e)
    }
}

/// What the daemon cannot go on without: a process, and what became of it.
#[derive(Debug)]
pub struct Fatal {
    /// The role of the process.
    pub role: Role,
    /// What became of it.
    pub why: Loss,
}

/// Why a process that the daemon cannot do without is lost.
#[derive(Debug)]
pub enum Loss {
    /// It has ended so.
    Ended(Ending),
    /// Its link has ended.
    Unlinked,
    /// Nothing can be received from it.
    Recv(RecvError),
    /// It greets a second time.
    GreetedTwice,
    /// It does not know messages of this type.
    UnknownType(u16),
    /// It has half of a configuration, of which a block does not fit into a message.
    TooLarge(CodecError),
    /// It cannot be asked again.
    Broken(Broken),
    /// A spawner, and with it all that it started.
    Spawner(SpawnerLost),
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = self.role.name();
        match &self.why {
            Loss::Spawner(e) => e.fmt(f),
            Loss::Ended(ending) => write!(f, "{role}: {ending}"),
            Loss::Unlinked => write!(f, "{role}: ended"),
            Loss::Recv(e) => write!(f, "{role}: {e}"),
            Loss::GreetedTwice => write!(f, "{role}: greeted twice"),
            Loss::UnknownType(kind) => write!(f, "{role}: does not know message type {kind}"),
            Loss::TooLarge(e) => write!(f, "{role}: configuration: {e}"),
            Loss::Broken(e) => write!(f, "{role}: {e}"),
        }
    }
}

impl std::error::Error for Fatal {}

/// Why a new configuration cannot come into force.
#[derive(Debug)]
pub enum ReloadError {
    /// It has errors, which were told: the file.
    Unusable(Vec<u8>),
    /// A reload is under way.
    Busy,
    /// The process that reads it, or that walks to its places.
    Child(Role, ChildError),
    /// What a directive says needs a restart.
    Restart(&'static str),
    /// A listening socket cannot be made: the place of its line, and its own.
    Listener(String, ListenPlace, NoListener),
}

impl fmt::Display for ReloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReloadError::Unusable(path) => write!(f, "{}: not usable", escape(path))?,
            ReloadError::Restart(what) => write!(f, "{what}: a change needs a restart")?,
            ReloadError::Listener(line, place, why) => write!(f, "{line}: {place}: {why}")?,
            ReloadError::Busy => return f.write_str("a reload is under way"),
            ReloadError::Child(role, e) => return write!(f, "{}: {e}", role.name()),
        }
        f.write_str(", nothing has changed")
    }
}

impl std::error::Error for ReloadError {}

/// Why there is no listening socket for a line of the configuration.
#[derive(Debug)]
pub enum NoListener {
    /// `sockets` has not opened its directory.
    Directory,
    /// There are as many as there can be.
    TooMany,
    /// `sockets` may not bind this port.
    LowPort,
    /// Another one is in the way until it has gone.
    Overlaps(SocketAddr),
    /// `sockets` has not made it.
    Unmade(Unmade),
}

impl fmt::Display for NoListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoListener::Directory => f.write_str(
                "a unix socket in a directory that had none of gotd's at the start: it needs a restart",
            ),
            NoListener::TooMany => f.write_str("more unix sockets at a time than there can be"),
            NoListener::LowPort => {
                f.write_str("a port below 1024 that was not there at the start: it needs a restart")
            }
            NoListener::Overlaps(other) => {
                write!(f, "overlaps with {other}, which has to go by a reload of its own first")
            }
            NoListener::Unmade(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for NoListener {}
