//! Clients that speak to the daemon's socket themselves, well or badly.

use std::cell::RefCell;
use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use libproto::channel;
use libproto::message::client::{
    ClientKind, ClientToSession, Exit, First, GitRequest, Hello, SessionToClient,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};

use crate::pkt;

/// A connection to the daemon's socket that has said nothing yet.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub fd: OwnedFd,
    /// The end that came in place of the pipes.
    refused: RefCell<Option<End>>,
}

/// How the daemon ended a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With a status and a text for standard error.
    Exit(u8, String),
    /// It just closed.
    Closed,
}

impl Connection {
    /// Connects.
    #[track_caller]
    pub fn open(path: &Path) -> Connection {
        Connection::try_open(path).expect("connects")
    }

    /// Connects, or tells why not.
    pub fn try_open(path: &Path) -> nix::Result<Connection> {
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Connection { fd, refused: RefCell::default() })
    }

    /// Connects unless it would have to wait.
    pub fn try_open_now(path: &Path) -> nix::Result<Connection> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Connection { fd, refused: RefCell::default() })
    }

    /// Sends one record with any descriptors; the error tells that the daemon has closed.
    pub fn send(&self, record: &[u8], fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.fd.as_raw_fd(), &[IoSlice::new(record)], control, flags, None).map(|_| ())
    }

    /// Sends a proper greeting.
    pub fn greet(&self) {
        self.greet_as(ClientKind::Git, None);
    }

    /// The same for another kind of client, or in the name of a user.
    pub fn greet_as(&self, kind: ClientKind, user: Option<&str>) {
        let hello = Hello::new(kind, user).expect("a name that fits");
        let _ = self.send(&hello.encode(), &[]);
    }

    /// Sends a request with these descriptors, of which the frame says nothing.
    pub fn request(&self, request: &GitRequest, fds: &[BorrowedFd<'_>]) -> nix::Result<()> {
        self.send(&frame(request), fds)
    }

    /// Takes the first record: where the client writes, and where it reads. `None`: there are none,
    /// and this was the end.
    #[track_caller]
    pub fn pipes(&self, seconds: u64) -> Option<(OwnedFd, OwnedFd)> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        assert!(readable(self.fd.as_fd(), deadline), "no pipes after {seconds} seconds");
        let mut buffer = vec![0; 64 * 1024];
        let (n, fds) = channel::recv_record_with_fds(self.fd.as_fd(), &mut buffer).ok()?;
        match First::decode(&buffer[..n], fds).expect("a first record") {
            First::Pipes(to, from) => Some((to, from)),
            First::Message(SessionToClient::Exit(Exit { status, text })) => {
                self.refused.replace(Some(End::Exit(status, text)));
                None
            }
            First::Message(_) => None,
        }
    }

    /// Waits for the end of the connection, at most this many seconds; pipes and notes before it
    /// are left out.
    #[track_caller]
    pub fn end(&self, seconds: u64) -> End {
        if let Some(end) = self.refused.take() {
            return end;
        }
        let deadline = Instant::now() + Duration::from_secs(seconds);
        loop {
            assert!(readable(self.fd.as_fd(), deadline), "not ended after {seconds} seconds");
            let mut buffer = vec![0; 64 * 1024];
            let Ok((n, fds)) = channel::recv_record_with_fds(self.fd.as_fd(), &mut buffer) else {
                return End::Closed;
            };
            let first = First::decode(&buffer[..n], fds).expect("a message");
            if let First::Message(SessionToClient::Exit(Exit { status, text })) = first {
                return End::Exit(status, text);
            }
        }
    }
}

/// The record of a request.
pub fn frame(request: &GitRequest) -> Vec<u8> {
    channel::encode(0, &ClientToSession::Git(request.clone())).expect("encodes")
}

/// A request for a fetch.
pub fn fetch_request(repository: &str, protocol: u8) -> GitRequest {
    GitRequest {
        service: "git-upload-pack".into(),
        repository: repository.as_bytes().to_vec(),
        git_protocol: if protocol == 0 { Vec::new() } else { format!("version={protocol}").into_bytes() },
        ssh_connection: Vec::new(),
    }
}

/// A request for a push.
pub fn push_request(repository: &str) -> GitRequest {
    GitRequest { service: "git-receive-pack".into(), ..fetch_request(repository, 0) }
}

/// A session and its two pipes, as gotsh has them.
#[derive(Debug)]
pub struct Session {
    /// The connection to the daemon.
    pub connection: Connection,
    /// Where the client writes; `None` once it has closed it.
    pub to: Option<File>,
    /// Where the client reads.
    pub from: File,
}

impl Session {
    /// As [`Session::fetch`], as gotsh does it for a user of a shared account.
    #[track_caller]
    pub fn fetch_as(socket: &Path, repository: &str, protocol: u8, user: &str) -> Session {
        let connection = Connection::open(socket);
        connection.greet_as(ClientKind::Git, Some(user));
        Session::ask(connection, &fetch_request(repository, protocol))
    }

    /// Connects, greets and asks to fetch from a repository.
    #[track_caller]
    pub fn fetch(socket: &Path, repository: &str, protocol: u8) -> Session {
        let connection = Connection::open(socket);
        connection.greet();
        Session::ask(connection, &fetch_request(repository, protocol))
    }

    /// Asks for something on a connection that has greeted.
    #[track_caller]
    pub fn ask(connection: Connection, request: &GitRequest) -> Session {
        // Whether there is still a session to receive it, the answer tells.
        let _ = connection.request(request, &[]);
        match connection.pipes(20) {
            Some((to, from)) => Session { connection, to: Some(to.into()), from: from.into() },
            // Nobody serves it: what is read ends at once.
            None => {
                let (from, _) = std::io::pipe().expect("a pipe");
                Session { connection, to: None, from: OwnedFd::from(from).into() }
            }
        }
    }

    /// Asks for everything that `tip` reaches, in version 2, and reads the first `bytes` bytes of
    /// the answer.
    #[track_caller]
    pub fn begin_clone(&mut self, tip: &str, bytes: usize) {
        self.read_to_flush();
        assert!(
            self.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])),
            "the daemon has gone"
        );
        let mut start = vec![0; bytes];
        assert!(self.fill(&mut start, Instant::now() + Duration::from_secs(20)), "ended early");
    }

    /// Writes; false when the daemon has closed its end. Never blocks for more than ten seconds: a
    /// pipe that stays full that long is a false too.
    pub fn write(&mut self, mut bytes: &[u8]) -> bool {
        let Some(to) = self.to.as_mut() else { return false };
        let deadline = Instant::now() + Duration::from_secs(10);
        while !bytes.is_empty() {
            if !ready(to.as_fd(), PollFlags::POLLOUT, deadline) {
                return false;
            }
            // No more than a pipe is sure to take without blocking once it has room.
            let part = bytes.len().min(4096);
            match to.write(&bytes[..part]) {
                Ok(n) => bytes = &bytes[n..],
                Err(_) => return false,
            }
        }
        true
    }

    /// Closes the client's writing end.
    pub fn close(&mut self) {
        self.to = None;
    }

    /// Reads up to and with a flush packet, or to the end.
    #[track_caller]
    pub fn read_to_flush(&mut self) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut out = Vec::new();
        loop {
            let mut head = [0; 4];
            if !self.fill(&mut head, deadline) {
                return out;
            }
            out.extend_from_slice(&head);
            let text = std::str::from_utf8(&head).expect("a packet's length");
            let length = usize::from_str_radix(text, 16).expect("a packet's length");
            if length == 0 {
                return out;
            }
            let mut payload = vec![0; length.saturating_sub(4)];
            assert!(self.fill(&mut payload, deadline), "the end within a packet");
            out.extend_from_slice(&payload);
        }
    }

    /// Reads to the end, at most this many seconds.
    #[track_caller]
    pub fn read_to_end(&mut self, seconds: u64) -> Vec<u8> {
        let deadline = Instant::now() + Duration::from_secs(seconds);
        let mut out = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            assert!(readable(self.from.as_fd(), deadline), "not ended after {seconds} seconds");
            match self.from.read(&mut buffer) {
                Ok(0) => return out,
                Ok(n) => out.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => panic!("read: {e}"),
            }
        }
    }

    /// Fills the buffer; false at the end of the input.
    #[track_caller]
    pub fn fill(&mut self, buffer: &mut [u8], deadline: Instant) -> bool {
        let mut at = 0;
        while at < buffer.len() {
            assert!(readable(self.from.as_fd(), deadline), "nothing comes");
            match self.from.read(&mut buffer[at..]) {
                Ok(0) => return false,
                Ok(n) => at += n,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(e) => panic!("read: {e}"),
            }
        }
        true
    }
}

/// Waits until something can be read, or the end; false at the deadline.
pub fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> bool {
    ready(fd, PollFlags::POLLIN, deadline)
}

fn ready(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd, events)], timeout) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}
