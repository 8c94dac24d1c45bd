//! The requests to `sockets`, and how the parent makes them: one at a time, each answered before
//! the next.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libproto::channel::{RecvError, recv_record_with_fds, send_record};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bind a path where nothing may be.
pub const BIND: u8 = b'B';
/// Bind a path after removing the socket that a dead daemon left there.
pub const REPLACE: u8 = b'R';
/// Bind a name that is not in the table, in a directory that is, where nothing may be.
pub const NEW: u8 = b'N';
/// Unlink what was bound.
pub const UNLINK: u8 = b'U';
/// Bind a TCP address.
pub const TCP: u8 = b'C';
/// Unlink what was bound and end.
pub const TERMINATE: u8 = b'T';
/// Length of a request for a TCP socket, in bytes.
pub const TCP_LEN: usize = 20;
/// Room for the name of a socket and at least one zero, in bytes.
pub const NAME_LEN: usize = 104;
/// Length of a request for a new name, the longest one, in bytes.
pub const NEW_LEN: usize = 3 + NAME_LEN;
/// Length of an answer in bytes: the call that failed, and its errno in little-endian order.
pub const ANSWER_LEN: usize = 5;
/// The first byte of the answer to a record that is no request.
pub const NONSENSE: u8 = 0xff;
/// Most unix sockets, control sockets included, and most entries of the start-up table.
pub const MOST: usize = 128;
/// The ending of a control socket's name; no other socket may have it.
pub const CONTROL: &str = ".ctl";
/// The calls that an answer can name.
pub const CALLS: [&str; 7] = ["none", "unlink", "socket", "bind", "listen", "chdir", "setsockopt"];

/// Ports below this one are bound only if the start-up table has them.
pub const FIRST_FREE_PORT: u16 = 1024;
/// How long an answer may take, in milliseconds: the parent serves nobody meanwhile.
const PATIENCE: u16 = 5000;

/// The control socket that belongs to a socket: `PATH.ctl`.
pub fn control_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(CONTROL);
    name.into()
}

/// The control socket that a path names: the one beside it, or itself. No socket of clients has
/// such a name.
pub fn control_named_by(path: &Path) -> PathBuf {
    if is_control(path.as_os_str().as_encoded_bytes()) { path.to_owned() } else { control_of(path) }
}

/// Whether a unix socket of this name is a control socket.
pub fn is_control(name: &[u8]) -> bool {
    name.ends_with(CONTROL.as_bytes())
}

/// Why there is no socket.
#[derive(Debug, Clone)]
pub enum Unmade {
    /// A call failed: which, and why.
    Call(&'static str, Errno),
    /// The name does not fit into a request.
    LongName,
    /// There was no answer, or one that is none: `sockets` cannot be asked again.
    Broken(Broken),
}

/// What is wrong with the link to `sockets`.
#[derive(Debug, Clone)]
pub enum Broken {
    /// It cannot be sent to.
    Send(Arc<io::Error>),
    /// It cannot be received from.
    Recv(Arc<RecvError>),
    /// It does not answer in time.
    Silent,
    /// It has no answer to such a request.
    Nonsense,
    /// The answer makes no sense.
    NoAnswer,
    /// The answer has no socket.
    NoSocket,
    /// The answer has a socket where none was due.
    Unasked,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Broken::Send(e) => e.fmt(f),
            Broken::Recv(e) => e.fmt(f),
            Broken::Silent => f.write_str("does not answer"),
            Broken::Nonsense => f.write_str("took a request for nonsense"),
            Broken::NoAnswer => f.write_str("an answer that is none"),
            Broken::NoSocket => f.write_str("no socket in the answer"),
            Broken::Unasked => f.write_str("a socket that nobody asked for"),
        }
    }
}

impl std::fmt::Display for Unmade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unmade::Call(call, errno) => write!(f, "{call}: {}", errno.desc()),
            Unmade::LongName => f.write_str("the name is too long"),
            Unmade::Broken(broken) => write!(f, "sockets: {broken}"),
        }
    }
}

impl std::error::Error for Unmade {}

impl From<Broken> for Unmade {
    fn from(broken: Broken) -> Unmade {
        Unmade::Broken(broken)
    }
}

/// Asks for the socket with that number of the table, by [`BIND`] or [`REPLACE`].
pub fn listed(to: BorrowedFd<'_>, command: u8, number: u8) -> Result<OwnedFd, Unmade> {
    socket(ask(to, &[command, number]))
}

/// Asks for a socket of this name beside that with number `like` of the table, to be known as
/// `number`.
pub fn new(to: BorrowedFd<'_>, number: u8, like: u8, name: &[u8]) -> Result<OwnedFd, Unmade> {
    let mut request = [0; NEW_LEN];
    request[..3].copy_from_slice(&[NEW, number, like]);
    let room = request[3..NEW_LEN - 1].get_mut(..name.len());
    room.ok_or(Unmade::LongName)?.copy_from_slice(name);
    socket(ask(to, &request))
}

/// Has the name of a unix socket removed.
pub fn unlink(to: BorrowedFd<'_>, number: u8) -> Result<(), Unmade> {
    match ask(to, &[UNLINK, number])? {
        None => Ok(()),
        Some(_) => Err(Broken::Unasked.into()),
    }
}

/// Asks for a TCP socket.
pub fn tcp(to: BorrowedFd<'_>, address: SocketAddr) -> Result<OwnedFd, Unmade> {
    let mut request = [0; TCP_LEN];
    request[0] = TCP;
    request[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => request[4..8].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => request[4..].copy_from_slice(&ip.octets()),
    }
    request[1] = if address.is_ipv4() { 4 } else { 6 };
    socket(ask(to, &request))
}

fn socket(answer: Result<Option<OwnedFd>, Unmade>) -> Result<OwnedFd, Unmade> {
    answer?.ok_or(Unmade::Broken(Broken::NoSocket))
}

fn ask(to: BorrowedFd<'_>, request: &[u8]) -> Result<Option<OwnedFd>, Unmade> {
    send_record(to, request, true).map_err(|e| Broken::Send(Arc::new(e)))?;
    loop {
        match poll(&mut [PollFd::new(to, PollFlags::POLLIN)], PollTimeout::from(PATIENCE)) {
            Ok(0) => return Err(Broken::Silent.into()),
            Err(Errno::EINTR) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let mut buffer = [0; ANSWER_LEN + 1];
    let (n, mut fds) = recv_record_with_fds(to, &mut buffer).map_err(|e| Broken::Recv(Arc::new(e)))?;
    match (&buffer[..n], fds.pop()) {
        ([0, 0, 0, 0, 0], fd) if fds.is_empty() => Ok(fd),
        ([call, errno @ ..], None) if n == ANSWER_LEN => {
            let errno = errno.try_into().map_or(Errno::EINVAL, |e| Errno::from_raw(i32::from_le_bytes(e)));
            let name = CALLS.get(usize::from(*call)).ok_or(Broken::Nonsense)?;
            Err(Unmade::Call(name, errno))
        }
        _ => Err(Broken::NoAnswer.into()),
    }
}
