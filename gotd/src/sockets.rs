//! `sockets`: the socket creator.
//!
//! Duty: binds unix sockets of its start-up table by number and TCP sockets by address, and unlinks the former at the end.
//! Waits on: the parent, one request at a time. Talks to: the parent alone.
//!
//! **Invariant:** a request is one byte and what belongs to it, of a fixed length; after the start nothing is allocated,
//! no configuration text and no client is ever seen. It is the only process that keeps a privilege.
//!
//! | request | what belongs to it | answer |
//! |---|---|---|
//! | [`BIND`] | number of a path | the socket |
//! | [`REPLACE`] | number of a path where a dead daemon left a socket | the socket |
//! | [`TCP`] | 4 or 6, port (2 bytes, high one first), address (16 bytes; IPv4: 4, then zeros) | the socket |
//! | [`TERMINATE`] | | none: it unlinks and ends |
//!
//! An answer has [`ANSWER_LEN`] bytes: which call failed (an index of [`CALLS`]; 0: none) and its errno, with the
//! listening socket where one was made. Nonsense is answered with [`NONSENSE`] and is fatal for this process.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, bind,
    listen, recv, send, sendmsg, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, fchdir, getegid, geteuid, unlinkat};

use crate::system;

/// What binding and unlinking needs.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Cpath, Promise::Bind, Promise::Sendfd]);

/// Bind a path where nothing may be.
pub const BIND: u8 = b'B';
/// Bind a path after removing the socket that a dead daemon left there.
pub const REPLACE: u8 = b'R';
/// Bind a TCP address.
pub const TCP: u8 = b'C';
/// Unlink what was bound and end.
pub const TERMINATE: u8 = b'T';
/// Length of a request for a TCP socket, the longest one, in bytes.
pub const TCP_LEN: usize = 20;
/// Length of an answer in bytes: the call that failed, and its errno in little-endian order.
pub const ANSWER_LEN: usize = 5;
/// The first byte of the answer to what is no request.
pub const NONSENSE: u8 = 0xff;
/// Most entries of the start-up table.
pub const MOST: usize = 64;
/// The calls that an answer can name.
pub const CALLS: [&str; 7] = ["none", "unlink", "socket", "bind", "listen", "chdir", "setsockopt"];

/// Ports below this one are bound only if the start-up table has them.
const FIRST_FREE_PORT: u16 = 1024;
/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// CAP_NET_BIND_SERVICE: low ports.
const LOW_PORTS: u64 = 1 << 10;
/// CAP_DAC_OVERRIDE: writing to a directory of somebody else, of those that Landlock leaves.
const ANY_DIRECTORY: u64 = 1 << 1;

/// A path of the start-up table: its directory, opened once, and the name in it.
pub struct Place {
    directory: OwnedFd,
    name: PathBuf,
    bound: bool,
}

/// Runs the role. `table`: absolute paths of unix sockets, and each TCP address with a low port as `ADDRESS:PORT`.
pub fn run(parent: OwnedFd, table: &[String], enforcement: Enforcement) -> Result<(), String> {
    if table.len() > MOST {
        return Err(format!("{} sockets, more than {MOST}", table.len()));
    }
    let (mut places, mut directories, mut low) = (Vec::new(), Vec::new(), Vec::new());
    for word in table {
        if word.starts_with('/') {
            let (directory, place) = open_place(Path::new(word))?;
            directories.push(directory);
            places.push(place);
        } else {
            low.push(word.parse().map_err(|_| format!("{word}: neither a path nor an address"))?);
        }
    }
    let foreign = !places.iter().all(|place| may_write(&place.directory));
    let keep = if low.is_empty() { 0 } else { LOW_PORTS } | if foreign { ANY_DIRECTORY } else { 0 };
    system::keep_capabilities(keep).map_err(|e| format!("capabilities: {e}"))?;
    let visible: Vec<Visible<'_>> = places
        .iter()
        .zip(&directories)
        .map(|(place, name)| Visible::opened(place.directory.as_fd(), name, Access::SOCKET))
        .collect();
    // Connecting needs the right to write: anybody may connect, rules decide about the rest.
    umask(Mode::from_bits_truncate(0o111));
    let limits = Limits::UNCHANGED;
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })
        .map_err(|e| e.to_string())?;
    serve(parent.as_fd(), &mut places, &low);
    for place in places.iter().filter(|place| place.bound) {
        let _ = unlinkat(&place.directory, &place.name, UnlinkatFlags::NoRemoveDir);
    }
    Ok(())
}

/// Opens the directory of a path.
pub fn open_place(path: &Path) -> Result<(PathBuf, Place), String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{}: not the name of a socket", path.display()));
    };
    let directory = open(parent, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty())
        .map_err(|e| format!("{}: {e}", parent.display()))?;
    Ok((parent.to_owned(), Place { directory, name: name.into(), bound: false }))
}

/// Whether our ids alone let us make files in a directory.
fn may_write(directory: &OwnedFd) -> bool {
    let class =
        |stat: libc::stat| match (stat.st_uid == geteuid().as_raw(), stat.st_gid == getegid().as_raw()) {
            (true, _) => stat.st_mode >> 6,
            (_, true) => stat.st_mode >> 3,
            _ => stat.st_mode,
        };
    libsandbox::fstat(directory.as_fd()).is_ok_and(|stat| class(stat) & 0o3 == 0o3)
}

/// Answers requests until the parent says so, is gone, or talks nonsense.
pub fn serve(parent: BorrowedFd<'_>, places: &mut [Place], low: &[SocketAddr]) {
    let mut request = [0; TCP_LEN + 1];
    loop {
        let request = match recv(parent.as_raw_fd(), &mut request, MsgFlags::empty()) {
            Ok(0) => return,
            Ok(n) => &request[..n],
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        let answer = match request {
            [command @ (BIND | REPLACE), number] => match places.get_mut(usize::from(*number)) {
                Some(place) if !place.bound => Some(create(place, *command == REPLACE)),
                _ => None,
            },
            [TCP, family, high, port, address @ ..] => {
                tcp_address(*family, [*high, *port], address).map(|address| create_tcp(address, low))
            }
            [TERMINATE] => return,
            _ => None,
        };
        let Some(answer) = answer else {
            let _ = send(parent.as_raw_fd(), &[NONSENSE, 0, 0, 0, 0], MsgFlags::MSG_NOSIGNAL);
            return;
        };
        if reply(parent, answer).is_err() {
            return;
        }
    }
}

/// A socket, or the call that failed (an index of [`CALLS`]) and its errno.
type Answer = Result<OwnedFd, (u8, Errno)>;

/// Makes one listening unix socket.
fn create(place: &mut Place, replace: bool) -> Answer {
    // There is no bind beneath a directory descriptor; the working directory stands for it.
    fchdir(&place.directory).map_err(|e| (5, e))?;
    if replace {
        match unlinkat(AT_FDCWD, &place.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err((1, e)),
        }
    }
    let cloexec = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, cloexec, None).map_err(|e| (2, e))?;
    let address = UnixAddr::new(&place.name).map_err(|e| (3, e))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| (3, e))?;
    place.bound = true;
    listening(fd)
}

/// The address of a request; `None`: nonsense.
fn tcp_address(family: u8, port: [u8; 2], address: &[u8]) -> Option<SocketAddr> {
    let octets: [u8; 16] = address.try_into().ok()?;
    let ip = match (family, octets) {
        (4, [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        (6, octets) => IpAddr::V6(Ipv6Addr::from(octets)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(port))).filter(|address| address.port() != 0)
}

/// Makes one listening TCP socket: IPv6 for IPv6 alone, so that both can have the same port.
fn create_tcp(address: SocketAddr, low: &[SocketAddr]) -> Answer {
    if address.port() < FIRST_FREE_PORT && !low.contains(&address) {
        return Err((3, Errno::EACCES));
    }
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).map_err(|e| (2, e))?;
    // Connections of a daemon that has ended keep the address busy for minutes otherwise.
    setsockopt(&fd, sockopt::ReuseAddr, &true).map_err(|e| (6, e))?;
    if address.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true).map_err(|e| (6, e))?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address)).map_err(|e| (3, e))?;
    listening(fd)
}

fn listening(fd: OwnedFd) -> Answer {
    listen(&fd, Backlog::new(BACKLOG).unwrap_or(Backlog::MAXCONN)).map_err(|e| (4, e))?;
    Ok(fd)
}

fn reply(parent: BorrowedFd<'_>, answer: Answer) -> nix::Result<()> {
    let mut bytes = [0; ANSWER_LEN];
    if let Err((call, errno)) = &answer {
        bytes[0] = *call;
        bytes[1..].copy_from_slice(&(*errno as i32).to_le_bytes());
    }
    let raw: [RawFd; 1] = [answer.as_ref().map_or(-1, AsRawFd::as_raw_fd)];
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if answer.is_ok() { &rights[..] } else { &[] };
    sendmsg::<()>(parent.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

#[cfg(test)]
mod tests;
