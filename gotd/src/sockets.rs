//! `sockets`: the socket creator.
//!
//! Duty: binds the unix sockets that it was started with, by number, and unlinks them at the end.
//! Waits on: the parent, one request at a time. Talks to: the parent alone.
//!
//! **Invariant:** requests have a fixed length; after the start nothing is allocated, no configuration text
//! and no client is ever seen. It is the only process that keeps a privilege.
//!
//! A request is two bytes: a command and the number of a path of the start-up table. The answer is
//! [`ANSWER_LEN`] bytes: which call failed (0: none) and its errno, with the listening socket where one was
//! made. Nonsense is answered with [`NONSENSE`] and is fatal for this process.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen, recv, send,
    sendmsg, socket,
};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{UnlinkatFlags, fchdir, unlinkat};

/// What binding and unlinking needs.
const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Cpath, Promise::Bind, Promise::Sendfd]);

/// Bind a path where nothing may be.
pub const BIND: u8 = b'B';
/// Bind a path after removing the socket that a dead daemon left there.
pub const REPLACE: u8 = b'R';
/// Unlink what was bound and end.
pub const TERMINATE: u8 = b'T';
/// Length of a request in bytes.
pub const REQUEST_LEN: usize = 2;
/// Length of an answer in bytes: the call that failed, and its errno in little-endian order.
pub const ANSWER_LEN: usize = 5;
/// The first byte of the answer to what is no request.
pub const NONSENSE: u8 = 0xff;
/// Most paths in the start-up table.
pub const MOST_PATHS: usize = 16;

/// The calls that an answer can name.
pub const CALLS: [&str; 6] = ["none", "unlink", "socket", "bind", "listen", "chdir"];

/// A path of the start-up table: its directory, opened once, and the name in it.
struct Place {
    directory: OwnedFd,
    name: PathBuf,
    bound: bool,
}

/// Runs the role. `paths`: the start-up table.
pub fn run(parent: OwnedFd, paths: &[String], enforcement: Enforcement) -> Result<(), String> {
    if paths.len() > MOST_PATHS {
        return Err(format!("{} sockets, more than {MOST_PATHS}", paths.len()));
    }
    let mut places = Vec::with_capacity(paths.len());
    let mut directories = Vec::with_capacity(paths.len());
    for path in paths {
        let (directory, place) = open_place(Path::new(path))?;
        directories.push(directory);
        places.push(place);
    }
    let visible: Vec<Visible<'_>> = places
        .iter()
        .zip(&directories)
        .map(|(place, name)| Visible::opened(place.directory.as_fd(), name, Access::SOCKET))
        .collect();
    // Connecting needs the right to write: anybody may connect, rules decide about the rest.
    umask(Mode::from_bits_truncate(0o111));
    libsandbox::enter(&Stage {
        promises: WORK,
        paths: Some(&visible),
        limits: Limits::UNCHANGED,
        enforcement,
    })
    .map_err(|e| e.to_string())?;
    serve(parent.as_fd(), &mut places);
    for place in &mut places {
        if place.bound {
            let _ = unlinkat(&place.directory, &place.name, UnlinkatFlags::NoRemoveDir);
        }
    }
    Ok(())
}

fn open_place(path: &Path) -> Result<(PathBuf, Place), String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(format!("{}: not the name of a socket", path.display()));
    };
    let parent = if parent == OsStr::from_bytes(b"") { Path::new(".") } else { parent };
    let directory = open(parent, OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_RDONLY, Mode::empty())
        .map_err(|e| format!("{}: {e}", parent.display()))?;
    Ok((parent.to_owned(), Place { directory, name: name.into(), bound: false }))
}

/// Answers requests until the parent says so, is gone, or talks nonsense.
fn serve(parent: BorrowedFd<'_>, places: &mut [Place]) {
    loop {
        let mut request = [0; REQUEST_LEN + 1];
        let n = match recv(parent.as_raw_fd(), &mut request, MsgFlags::empty()) {
            Ok(0) => return,
            Ok(n) => n,
            Err(Errno::EINTR) => continue,
            Err(_) => return,
        };
        let place = places.get_mut(usize::from(request[1]));
        match (n, request[0], place) {
            (REQUEST_LEN, command @ (BIND | REPLACE), Some(place)) if !place.bound => {
                let answer = create(place, command == REPLACE);
                if reply(parent, answer).is_err() {
                    return;
                }
            }
            (REQUEST_LEN, TERMINATE, _) => return,
            _ => {
                let _ = send(parent.as_raw_fd(), &[NONSENSE, 0, 0, 0, 0], MsgFlags::MSG_NOSIGNAL);
                return;
            }
        }
    }
}

/// Makes one listening socket; an error names the call (an index of [`CALLS`]) and its errno.
fn create(place: &mut Place, replace: bool) -> Result<OwnedFd, (u8, Errno)> {
    // There is no bind beneath a directory descriptor; the working directory stands for it.
    fchdir(&place.directory).map_err(|e| (5, e))?;
    if replace {
        match unlinkat(AT_FDCWD, &place.name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(e) => return Err((1, e)),
        }
    }
    let fd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(|e| (2, e))?;
    let address = UnixAddr::new(&place.name).map_err(|e| (3, e))?;
    bind(fd.as_raw_fd(), &address).map_err(|e| (3, e))?;
    place.bound = true;
    listen(&fd, Backlog::new(511).unwrap_or(Backlog::MAXCONN)).map_err(|e| (4, e))?;
    Ok(fd)
}

fn reply(parent: BorrowedFd<'_>, answer: Result<OwnedFd, (u8, Errno)>) -> nix::Result<()> {
    let mut bytes = [0; ANSWER_LEN];
    let fd = match answer {
        Ok(fd) => Some(fd),
        Err((call, errno)) => {
            bytes[0] = call;
            bytes[1..].copy_from_slice(&(errno as i32).to_le_bytes());
            None
        }
    };
    let raw: [RawFd; 1] = [fd.as_ref().map_or(-1, AsRawFd::as_raw_fd)];
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if fd.is_some() { &rights[..] } else { &[] };
    sendmsg::<()>(parent.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// The parent's side: asks for the socket with that number of the table. An error is a text for the admin.
pub fn ask(sockets: BorrowedFd<'_>, command: u8, number: u8) -> Result<OwnedFd, String> {
    libproto::channel::send_record(sockets, &[command, number], true).map_err(|e| format!("sockets: {e}"))?;
    let mut buffer = [0; ANSWER_LEN + 1];
    let (n, mut fds) =
        libproto::channel::recv_record_with_fds(sockets, &mut buffer).map_err(|e| format!("sockets: {e}"))?;
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
    use libproto::channel::{recv_record, send_record};

    /// Runs `serve` in a thread on a table of one path in a fresh directory.
    fn served(test: impl FnOnce(BorrowedFd<'_>, &Path)) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let (ours, theirs) = crate::spawn::pair().expect("a pair");
        // fchdir is the process's: nothing else in these tests uses relative names.
        let (_, place) = open_place(&path).expect("opens");
        let role = std::thread::spawn(move || serve(theirs.as_fd(), &mut [place]));
        test(ours.as_fd(), &path);
        drop(ours);
        role.join().expect("ends");
    }

    #[test]
    fn every_answer() {
        served(|fd, path| {
            std::fs::write(path, b"in the way").expect("writes");
            assert_eq!(ask(fd, BIND, 0).err(), Some("bind: Address already in use".into()));
            let socket = ask(fd, REPLACE, 0).expect("a socket");
            assert!(
                nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::AcceptConn).expect("asks")
            );
            assert!(std::os::unix::fs::FileTypeExt::is_socket(
                &std::fs::symlink_metadata(path).expect("stat").file_type()
            ));
            // A second time for the same number is nonsense, and fatal.
            assert!(ask(fd, BIND, 0).is_err_and(|text| text.starts_with("?: ")));
            assert!(ask(fd, BIND, 0).is_err_and(|text| text.starts_with("sockets: ")));
        });
    }

    #[test]
    fn nonsense_is_fatal() {
        for bad in [&b"X\0"[..], b"B", b"B\x01", b"B\0\0", b"\0\0\0\0\0\0\0"] {
            served(|fd, _| {
                send_record(fd, bad, true).expect("sends");
                let mut buffer = [0; 16];
                assert_eq!(recv_record(fd, &mut buffer).expect("an answer"), ANSWER_LEN);
                assert_eq!(buffer[0], NONSENSE);
                assert!(recv_record(fd, &mut buffer).is_err(), "it must have ended after {bad:?}");
            });
        }
    }
}
