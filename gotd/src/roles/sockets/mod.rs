//! `sockets`: the socket creator.
//!
//! Duty: binds unix sockets in the directories of its start-up table and TCP sockets by address,
//! and unlinks the former. Waits on: the parent, one request at a time. Talks to: the parent alone.
//!
//! **Invariant:** a request is one byte and what belongs to it, of a fixed length; after the start
//! nothing is allocated, no configuration text and no client is ever seen. It is the only process
//! that keeps a privilege.
//!
//! | request | what belongs to it | answer |
//! |---|---|---|
//! | [`BIND`] | number of a path of the table | the socket |
//! | [`REPLACE`] | number of a path of the table where a dead daemon left a socket | the socket |
//! | [`NEW`] | number to be known by, number of the path whose directory it is, name ([`NAME_LEN`] bytes, zeros at the end) | the socket |
//! | [`UNLINK`] | number of what was bound | that it is gone |
//! | [`TCP`] | 4 or 6, port (2 bytes, high one first), address (16 bytes; IPv4: 4, then zeros) | the socket |
//! | [`TERMINATE`] | | none: it unlinks all and ends |
//!
//! A unix socket whose name ends in `.ctl` is a control socket: only its owner and root may
//! connect.
//!
//! An answer has five bytes: which call failed (an index of [`CALLS`](ask::CALLS); 0: none) and its
//! errno, with the listening socket where one was made. Nonsense is answered with [`NONSENSE`] and
//! is fatal for this process.

use std::ffi::CStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libproto::channel::send_record_with_fds;
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, listen, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, fchdir, unlinkat};

use self::ask::{BIND, MOST, NAME_LEN, NEW, NEW_LEN, NONSENSE, REPLACE, TCP, TERMINATE, UNLINK};
use crate::os::error::{SystemError, carries_system_error};
use crate::os::system;

pub mod ask;

/// What binding and unlinking needs.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Cpath, Promise::Bind, Promise::Sendfd]).calls(Calls::Sockets);

/// Connections that the kernel keeps until they are accepted.
pub const BACKLOG: i32 = 4096;
/// Connecting needs the right to write: anybody may connect, rules decide about the rest.
const FOR_ALL: Mode = Mode::from_bits_truncate(0o111);
/// To a control socket only its owner connects, and root.
const FOR_OWNER: Mode = Mode::from_bits_truncate(0o177);
/// CAP_NET_BIND_SERVICE: low ports.
const LOW_PORTS: u64 = 1 << 10;
/// CAP_DAC_OVERRIDE: writing to another user's directory, among those that Landlock allows.
const ANY_DIRECTORY: u64 = 1 << 1;

/// The sockets that may be bound. The table has its full size from the start.
pub struct BindTable {
    /// The directories of the command line's paths, in their order, each opened once, with its
    /// name.
    directories: Vec<(OwnedFd, PathBuf)>,
    places: [SocketPath; MOST],
    /// TCP addresses with a low port.
    low: Vec<SocketAddr>,
}

/// A unix socket: its directory's number and its name there, empty when this place is free.
#[derive(Clone, Copy)]
struct SocketPath {
    directory: usize,
    name: [u8; NAME_LEN],
    bound: bool,
}

const NOTHING: SocketPath = SocketPath { directory: 0, name: [0; NAME_LEN], bound: false };

/// A socket, nothing, or the call that failed (an index of [`CALLS`](ask::CALLS)) and its errno.
type Answer = Result<Option<OwnedFd>, (u8, Errno)>;

/// Why it ends before it serves.
#[derive(Debug)]
pub enum SocketsError {
    /// A system call of it failed.
    System(SystemError),
    /// A word is neither a path nor an address.
    NoPlace(String),
    /// A path is not one of a socket.
    NoName(String),
    /// Its name is too long for the table.
    TooLong(String),
    /// There are more than [`MOST`].
    TooMany,
    /// A directory cannot be opened.
    Directory(PathBuf, Errno),
}

impl fmt::Display for SocketsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketsError::System(e) => e.fmt(f),
            SocketsError::NoPlace(word) => write!(f, "{word}: neither a path nor an address"),
            SocketsError::NoName(word) => write!(f, "{word}: not the name of a socket"),
            SocketsError::TooLong(word) => write!(f, "{word}: too long"),
            SocketsError::TooMany => write!(f, "more than {MOST} sockets"),
            SocketsError::Directory(path, e) => write!(f, "{}: {e}", path.display()),
        }
    }
}

carries_system_error!(SocketsError);

/// Runs the role. `words`: absolute paths of unix sockets, and each TCP address with a low port as
/// `ADDRESS:PORT`.
pub fn run(parent: OwnedFd, words: &[String], enforcement: Enforcement) -> Result<(), SocketsError> {
    let mut table = BindTable::open(words)?;
    let foreign = !table.directories.iter().all(|(directory, _)| system::may_write(directory.as_fd()));
    let keep = if table.low.is_empty() { 0 } else { LOW_PORTS } | if foreign { ANY_DIRECTORY } else { 0 };
    system::keep_capabilities(keep).map_err(|e| SystemError::Io("capabilities", e))?;
    let visible =
        table.directories.iter().map(|(fd, name)| Visible::opened(fd.as_fd(), name, Access::SOCKET));
    let visible: Vec<Visible<'_>> = visible.collect();
    umask(FOR_ALL);
    let stage =
        Stage { promises: WORK, paths: Some(&visible), limits: ResourceLimits::UNCHANGED, enforcement };
    libsandbox::enter(&stage)?;
    serve(parent.as_fd(), &mut table);
    Ok(())
}

/// Answers requests until the parent ends the role, is gone, or sends nonsense; then unlinks the
/// bound sockets.
pub fn serve(parent: BorrowedFd<'_>, table: &mut BindTable) {
    let mut request = [0; NEW_LEN + 1];
    loop {
        let request = match recv(parent.as_raw_fd(), &mut request, MsgFlags::empty()) {
            Ok(n) if n > 0 => &request[..n],
            Err(Errno::EINTR) => continue,
            Ok(_) | Err(_) => break,
        };
        let answer = match request {
            [command @ (BIND | REPLACE), number] => table.bind_listed(*number, *command == REPLACE),
            [NEW, number, like, name @ ..] => table.bind_new(*number, *like, name),
            [UNLINK, number] => table.unlink(*number),
            [TCP, family, high, port, address @ ..] => {
                tcp_address(*family, [*high, *port], address).map(|address| create_tcp(address, &table.low))
            }
            [TERMINATE] => break,
            _ => None,
        };
        let Some(answer) = answer else {
            let _ = send(parent.as_raw_fd(), &[NONSENSE, 0, 0, 0, 0], MsgFlags::MSG_NOSIGNAL);
            break;
        };
        if reply(parent, answer).is_err() {
            break;
        }
    }
    for place in table.places.iter().filter(|place| place.bound) {
        let _ = unlinkat(&table.directories[place.directory].0, place.name(), UnlinkatFlags::NoRemoveDir);
    }
}

impl BindTable {
    /// Opens the directories of the paths.
    pub fn open(words: &[String]) -> Result<BindTable, SocketsError> {
        let mut table = BindTable { directories: Vec::new(), places: [NOTHING; MOST], low: Vec::new() };
        for word in words {
            if !word.starts_with('/') {
                table.low.push(word.parse().map_err(|_| SocketsError::NoPlace(word.clone()))?);
                continue;
            }
            let (Some(parent), Some(name)) = (Path::new(word).parent(), Path::new(word).file_name()) else {
                return Err(SocketsError::NoName(word.clone()));
            };
            let directory = table.directories.len();
            let place = table.places.get_mut(directory).ok_or(SocketsError::TooMany)?;
            place.directory = directory;
            let room = place.name[..NAME_LEN - 1].get_mut(..name.len());
            room.ok_or_else(|| SocketsError::TooLong(word.clone()))?.copy_from_slice(name.as_bytes());
            let opened = open(parent, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty());
            let opened = opened.map_err(|e| SocketsError::Directory(parent.to_owned(), e))?;
            table.directories.push((opened, parent.to_owned()));
        }
        Ok(table)
    }

    /// `None`, here and below: nonsense.
    fn bind_listed(&mut self, number: u8, replace: bool) -> Option<Answer> {
        let listed = |place: &&mut SocketPath| !place.bound && place.name[0] != 0;
        let place = self.places.get_mut(usize::from(number)).filter(listed)?;
        let answer = create(&self.directories[place.directory].0, place.name(), replace);
        place.bound = answer.is_ok();
        Some(answer)
    }

    fn bind_new(&mut self, number: u8, like: u8, name: &[u8]) -> Option<Answer> {
        let new = SocketPath { directory: like.into(), name: name.try_into().ok()?, bound: true };
        let (name, rest) = name.split_at(name.iter().position(|byte| *byte == 0)?);
        if name.is_empty() || name.contains(&b'/') || rest.iter().any(|byte| *byte != 0) {
            return None;
        }
        let place = self.places.get_mut(usize::from(number)).filter(|place| !place.bound)?;
        let answer = create(&self.directories.get(new.directory)?.0, new.name(), false);
        if answer.is_ok() {
            *place = new;
        }
        Some(answer)
    }

    fn unlink(&mut self, number: u8) -> Option<Answer> {
        let place = self.places.get_mut(usize::from(number)).filter(|place| place.bound)?;
        let gone = unlinkat(&self.directories[place.directory].0, place.name(), UnlinkatFlags::NoRemoveDir);
        *place = NOTHING;
        Some(gone.or_else(|e| if e == Errno::ENOENT { Ok(()) } else { Err((1, e)) }).map(|()| None))
    }
}

impl SocketPath {
    fn name(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.name).unwrap_or_default()
    }
}

/// Makes one listening unix socket.
fn create(directory: &OwnedFd, name: &CStr, replace: bool) -> Answer {
    // There is no bind(2) relative to a directory descriptor; the working directory stands in for
    // it.
    fchdir(directory).map_err(|e| (5, e))?;
    if replace {
        match unlinkat(AT_FDCWD, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err((1, e)),
        }
    }
    let cloexec = SockFlag::SOCK_CLOEXEC;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, cloexec, None).map_err(|e| (2, e))?;
    // Clients' descriptors are refused by the kernel, for the whole life of the socket.
    if !ask::is_control(name.to_bytes()) {
        let failed = |e: std::io::Error| (6, Errno::from_raw(e.raw_os_error().unwrap_or(libc::EINVAL)));
        system::take_no_descriptors(fd.as_fd()).map_err(failed)?;
    }
    let address = UnixAddr::new(name).map_err(|e| (3, e))?;
    // The mode is there from the beginning: nobody can connect before it is changed.
    if ask::is_control(name.to_bytes()) {
        umask(FOR_OWNER);
    }
    let bound = bind(fd.as_raw_fd(), &address);
    umask(FOR_ALL);
    bound.map_err(|e| (3, e))?;
    listening(fd).inspect_err(|_| _ = unlinkat(AT_FDCWD, name, UnlinkatFlags::NoRemoveDir))
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
    if address.port() < ask::FIRST_FREE_PORT && !low.contains(&address) {
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
    Ok(Some(fd))
}

fn reply(parent: BorrowedFd<'_>, answer: Answer) -> std::io::Result<()> {
    let mut bytes = [0; ask::ANSWER_LEN];
    if let Err((call, errno)) = &answer {
        bytes[0] = *call;
        bytes[1..].copy_from_slice(&(*errno as i32).to_le_bytes());
    }
    let made = answer.ok().flatten();
    let rights = made.as_ref().map(AsFd::as_fd);
    send_record_with_fds(parent, &bytes, rights.as_slice())
}

#[cfg(test)]
mod tests;
