//! The sockets that clients come to: those that the service manager passed, and those that `sockets` binds.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libproto::message::parent::{ListenToParent, ParentToListen, Pool};
use libproto::states::Role;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockname, getsockopt, socket,
    sockopt,
};

use super::start::{Settings, last_words};
use crate::sockets::{self, ANSWER_LEN, CALLS, TCP, TCP_LEN};
use crate::spawn::{Child, PARENT_FD, Starter};

/// Most sockets that a service manager may pass.
const MOST_PASSED: i32 = 64;

/// Where a listening socket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A path.
    Unix(PathBuf),
    /// An address.
    Tcp(SocketAddr),
}

/// A socket that the service manager passed.
pub type Passed = (Place, OwnedFd);

/// The socket creator, and every listening socket.
pub type Bound = (Child<ParentToListen, ListenToParent>, Vec<(Pool, OwnedFd)>);

/// How many sockets the service manager passed to this very process (sd_listen_fds(3)).
pub fn passed_count() -> i32 {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return 0;
    }
    number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0).clamp(0, MOST_PASSED)
}

/// Takes over the sockets that were passed. An error: one of them is not what clients can come to.
pub fn passed_sockets(count: i32) -> Result<Vec<Passed>, String> {
    let take = |number: i32| {
        let text = |e: &dyn std::fmt::Display| format!("descriptor {number} of the service manager: {e}");
        let fd = crate::system::inherited(number).map_err(|e| text(&e))?;
        Ok((place_of(fd.as_fd()).map_err(|e| text(&e))?, fd))
    };
    (PARENT_FD..PARENT_FD.saturating_add(count)).map(take).collect()
}

/// Where a listening socket is.
fn place_of(fd: BorrowedFd<'_>) -> Result<Place, String> {
    let text = |e: Errno| e.desc().to_owned();
    if !getsockopt(&fd, sockopt::AcceptConn).map_err(text)? {
        return Err("a socket that does not listen".into());
    }
    let kind = getsockopt(&fd, sockopt::SockType).map_err(text)?;
    let name: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(text)?;
    match (kind, name.as_sockaddr_in(), name.as_sockaddr_in6(), name.as_unix_addr()) {
        (SockType::Stream, Some(v4), _, _) => Ok(Place::Tcp((v4.ip(), v4.port()).into())),
        (SockType::Stream, _, Some(v6), _) => Ok(Place::Tcp((v6.ip(), v6.port()).into())),
        (SockType::SeqPacket, _, _, Some(unix)) => unix
            .path()
            .map(|path| Place::Unix(path.to_owned()))
            .ok_or_else(|| "a socket without a path".into()),
        _ => Err("neither a TCP socket nor a unix socket of sequential packets".into()),
    }
}

/// Starts `sockets` with its privilege and has it bind whatever was not passed.
pub fn bind(starter: &Starter, settings: &Settings, passed: Vec<Passed>) -> Result<Bound, String> {
    let is_passed = |place: &Place| passed.iter().any(|(other, _)| other == place);
    let unix = settings.sockets.iter().filter(|path| !is_passed(&Place::Unix(path.into())));
    let unix: Vec<&String> = unix.collect();
    let tcp: Vec<SocketAddr> =
        settings.git.iter().copied().filter(|address| !is_passed(&Place::Tcp(*address))).collect();
    let commands: Vec<u8> = unix.iter().map(|path| may_bind(Path::new(path))).collect::<Result<_, _>>()?;
    let low: Vec<String> =
        tcp.iter().filter(|address| address.port() < 1024).map(ToString::to_string).collect();
    let mut arguments = settings.flags();
    arguments.push("--");
    arguments.extend(unix.iter().map(|path| path.as_str()));
    arguments.extend(low.iter().map(String::as_str));
    let child: Child<ParentToListen, ListenToParent> =
        starter.start(Role::Sockets, &arguments, &[]).map_err(|e| format!("sockets: {e}"))?;
    let text = |place: &str, e: String| format!("{place}: {e}{}", last_words(&child.stderr));
    let mut listeners = Vec::with_capacity(unix.len() + tcp.len() + passed.len());
    for (number, (command, path)) in (0u8..).zip(commands.into_iter().zip(&unix)) {
        let listener = ask(child.channel.as_fd(), command, number).map_err(|e| text(path, e))?;
        listeners.push((Pool::Unix, listener));
    }
    for address in tcp {
        let listener = ask_tcp(child.channel.as_fd(), address).map_err(|e| text(&address.to_string(), e))?;
        listeners.push((Pool::Tcp, listener));
    }
    let pool = |place: &Place| if matches!(place, Place::Unix(_)) { Pool::Unix } else { Pool::Tcp };
    listeners.extend(passed.into_iter().map(|(place, fd)| (pool(&place), fd)));
    Ok((child, listeners))
}

/// A socket file that nobody answers on is a dead daemon's and is replaced; a live one refuses the start.
fn may_bind(path: &Path) -> Result<u8, String> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(sockets::BIND) };
    if !meta.file_type().is_socket() {
        return Err(format!("{}: exists and is not a socket", path.display()));
    }
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| format!("socket: {e}"))?;
    let address = UnixAddr::new(path).map_err(|e| format!("{}: {e}", path.display()))?;
    match connect(fd.as_raw_fd(), &address) {
        Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOENT) => Ok(sockets::REPLACE),
        _ => Err(format!("{}: another daemon is listening", path.display())),
    }
}

/// Asks `sockets` for the socket with that number of the table. An error is a text for the admin.
pub fn ask(to: BorrowedFd<'_>, command: u8, number: u8) -> Result<OwnedFd, String> {
    ask_for(to, &[command, number])
}

/// Asks `sockets` for a TCP socket. An error is a text for the admin.
pub fn ask_tcp(to: BorrowedFd<'_>, address: SocketAddr) -> Result<OwnedFd, String> {
    let mut request = [0; TCP_LEN];
    request[0] = TCP;
    request[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address.ip() {
        IpAddr::V4(ip) => request[4..8].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => request[4..].copy_from_slice(&ip.octets()),
    }
    request[1] = if address.is_ipv4() { 4 } else { 6 };
    ask_for(to, &request)
}

fn ask_for(to: BorrowedFd<'_>, request: &[u8]) -> Result<OwnedFd, String> {
    libproto::channel::send_record(to, request, true).map_err(|e| format!("sockets: {e}"))?;
    let mut buffer = [0; ANSWER_LEN + 1];
    let (n, mut fds) =
        libproto::channel::recv_record_with_fds(to, &mut buffer).map_err(|e| format!("sockets: {e}"))?;
    match (&buffer[..n], fds.pop()) {
        ([0, 0, 0, 0, 0], Some(fd)) if fds.is_empty() => Ok(fd),
        ([call, errno @ ..], None) if n == ANSWER_LEN => {
            let errno = errno.try_into().map_or(Errno::EINVAL, |e| Errno::from_raw(i32::from_le_bytes(e)));
            Err(format!("{}: {}", CALLS.get(usize::from(*call)).unwrap_or(&"?"), errno.desc()))
        }
        _ => Err("sockets: an answer that is none".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_a_service_manager_are_told_by_what_they_are() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = tcp.local_addr().expect("bound");
        assert_eq!(place_of(tcp.as_fd()), Ok(Place::Tcp(address)));
        let connection = std::net::TcpStream::connect(address).expect("connects");
        assert!(place_of(connection.as_fd()).is_err());
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        // Packets without bounds: a stream.
        let stream = std::os::unix::net::UnixListener::bind(&path).expect("binds");
        assert!(place_of(stream.as_fd()).is_err());
        let packets =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("one");
        let path = directory.path().join("p");
        nix::sys::socket::bind(packets.as_raw_fd(), &UnixAddr::new(&path).expect("short")).expect("binds");
        assert!(place_of(packets.as_fd()).is_err());
        nix::sys::socket::listen(&packets, nix::sys::socket::Backlog::new(1).expect("small"))
            .expect("listens");
        assert_eq!(place_of(packets.as_fd()), Ok(Place::Unix(path)));
        assert!(place_of(std::fs::File::open("/").expect("opens").as_fd()).is_err());
    }
}
