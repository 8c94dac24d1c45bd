//! The sockets that clients come to: those that the service manager passed, and those that
//! `sockets` binds.

use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use libproto::message::parent::{ListenToParent, ParentToListen, Pool};
use libproto::states::Role;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, connect, getsockname, getsockopt, socket,
    sockopt,
};

use super::error::{ChildError, PassedError, StartupError};
use super::listen_place::ListenPlace;
use super::listeners::{Listeners, Origin};
use super::settings::Settings;
use super::stderr::last_words;
use crate::os::error::SystemError;
use crate::os::spawn::{PARENT_FD, Started, Starter};
use crate::roles::sockets::ask::{self, BIND, FIRST_FREE_PORT, REPLACE, Unmade};

/// Most sockets that a service manager may pass.
const MOST_PASSED: i32 = 64;

/// A socket that the service manager passed.
pub type Passed = (ListenPlace, OwnedFd);

/// The socket creator, every listening socket as it is known, and each with its number and kind.
pub type Bound = (Started<ParentToListen, ListenToParent>, Listeners, Vec<(u64, Pool, OwnedFd)>);

/// How many sockets the service manager passed to this very process (sd_listen_fds(3)).
pub fn passed_count() -> i32 {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return 0;
    }
    number("LISTEN_FDS").and_then(|count| i32::try_from(count).ok()).unwrap_or(0).clamp(0, MOST_PASSED)
}

/// Takes over the sockets that the service manager passed. Fails if clients cannot connect to one
/// of them.
pub fn passed_sockets(count: i32) -> Result<Vec<Passed>, StartupError> {
    let take = |number: i32| {
        let unfit = |e| StartupError::Passed(number, e);
        let fd = crate::os::system::inherited(number).map_err(|e| unfit(PassedError::Io(e)))?;
        let place = place_of(fd.as_fd()).map_err(unfit)?;
        if place.pool() == Pool::Unix {
            crate::os::system::take_no_descriptors(fd.as_fd()).map_err(|e| unfit(PassedError::Io(e)))?;
        }
        Ok((place, fd))
    };
    (PARENT_FD..PARENT_FD.saturating_add(count)).map(take).collect()
}

/// Where a listening socket is.
fn place_of(fd: BorrowedFd<'_>) -> Result<ListenPlace, PassedError> {
    if !getsockopt(&fd, sockopt::AcceptConn).map_err(PassedError::Call)? {
        return Err(PassedError::NotListening);
    }
    let kind = getsockopt(&fd, sockopt::SockType).map_err(PassedError::Call)?;
    let name: SockaddrStorage = getsockname(fd.as_raw_fd()).map_err(PassedError::Call)?;
    match (kind, name.as_sockaddr_in(), name.as_sockaddr_in6(), name.as_unix_addr()) {
        (SockType::Stream, Some(v4), _, _) => Ok(ListenPlace::Tcp((v4.ip(), v4.port()).into())),
        (SockType::Stream, _, Some(v6), _) => Ok(ListenPlace::Tcp((v6.ip(), v6.port()).into())),
        (SockType::SeqPacket, _, _, Some(unix)) => {
            unix.path().map(ListenPlace::of_path).ok_or(PassedError::NoPath)
        }
        _ => Err(PassedError::OtherKind),
    }
}

/// Starts `sockets` with its privilege and has it bind whatever was not passed.
pub fn bind(starter: &Starter, settings: &Settings, passed: Vec<Passed>) -> Result<Bound, StartupError> {
    let (mut unix, mut tcp): (Vec<&Path>, Vec<SocketAddr>) = Default::default();
    let to_bind = settings.places.iter().map(|(place, _)| place);
    for place in to_bind.filter(|place| !passed.iter().any(|(other, _)| other == *place)) {
        match place {
            ListenPlace::Unix(path) | ListenPlace::Control(path) => unix.push(path),
            ListenPlace::Tcp(address) => tcp.push(*address),
        }
    }
    let commands: Vec<u8> = unix.iter().map(|path| may_bind(path)).collect::<Result<_, _>>()?;
    let low: Vec<SocketAddr> = tcp.iter().copied().filter(|a| a.port() < FIRST_FREE_PORT).collect();
    let words: Vec<String> = unix.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let words: Vec<String> = words.into_iter().chain(low.iter().map(ToString::to_string)).collect();
    let mut arguments = settings.flags();
    arguments.push("--");
    arguments.extend(words.iter().map(String::as_str));
    let child: Started<ParentToListen, ListenToParent> = starter
        .start(Role::Sockets, &arguments, &[])
        .map_err(|e| StartupError::Child(Role::Sockets, ChildError::Start(e), String::new()))?;
    let directories = unix.iter().map(|path| path.parent().unwrap_or(path).to_owned()).collect();
    let mut known = Listeners::new(directories, low);
    let mut listeners = Vec::with_capacity(unix.len() + tcp.len() + passed.len());
    let mut add = |place: ListenPlace, origin: Origin, made: Result<OwnedFd, Unmade>| {
        let fd = match made {
            Ok(fd) => fd,
            Err(e) => return Err(StartupError::Listener(place, e, last_words(&child.stderr))),
        };
        let pool = place.pool();
        listeners.push((known.add(place, origin), pool, fd));
        Ok::<(), StartupError>(())
    };
    for (number, (command, path)) in (0u8..).zip(commands.into_iter().zip(&unix)) {
        let made = ask::listed(child.channel.as_fd(), command, number);
        add(ListenPlace::of_path(path), Origin::Sockets(Some(number)), made)?;
    }
    for address in tcp {
        let made = ask::tcp(child.channel.as_fd(), address);
        add(ListenPlace::Tcp(address), Origin::Sockets(None), made)?;
    }
    for (place, fd) in passed {
        add(place, Origin::ServiceManager, Ok(fd))?;
    }
    Ok((child, known, listeners))
}

/// A socket file that nobody answers on is a dead daemon's and is replaced; a live one refuses the
/// start.
fn may_bind(path: &Path) -> Result<u8, StartupError> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(meta) = std::fs::symlink_metadata(path) else { return Ok(BIND) };
    if !meta.file_type().is_socket() {
        return Err(StartupError::NoSocket(path.to_owned()));
    }
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|e| SystemError::Call("socket", e))?;
    let address = UnixAddr::new(path).map_err(|e| StartupError::Address(path.to_owned(), e))?;
    match connect(fd.as_raw_fd(), &address) {
        Err(nix::errno::Errno::ECONNREFUSED | nix::errno::Errno::ENOENT) => Ok(REPLACE),
        Err(e @ nix::errno::Errno::EACCES) => Err(StartupError::Untried(path.to_owned(), e)),
        _ => Err(StartupError::Taken(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_a_service_manager_are_told_by_what_they_are() {
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = tcp.local_addr().expect("bound");
        assert_eq!(place_of(tcp.as_fd()).ok(), Some(ListenPlace::Tcp(address)));
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
        assert_eq!(place_of(packets.as_fd()).ok(), Some(ListenPlace::Unix(path)));
        assert!(place_of(std::fs::File::open("/").expect("opens").as_fd()).is_err());
    }
}
