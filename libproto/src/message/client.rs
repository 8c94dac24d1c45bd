//! Between gotsh (or gotctl) and a `session`, over the daemon's unix socket.
//!
//! The session speaks first: [`pipes_record`] carries the client's ends of two pipes, input and
//! output. The client sends a [`Hello`] of fixed size, then one [`ClientToSession`] frame, without
//! waiting for the pipes. The session answers with frames of [`SessionToClient`]; the last one is
//! `Exit`.
//!
//! No descriptor ever goes from a client to the daemon: closing a hostile file's descriptor can
//! hang the process that closes it. And a client gets pipes, because a socket could carry
//! descriptors again.

use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::channel::{self, Received, RecvError};

/// Version of this protocol. A difference is answered with an [`exit_record`] that says so. `Hello`
/// keeps its shape in all versions.
pub const VERSION: u16 = 3;

/// First bytes of a [`Hello`].
const MAGIC: [u8; 4] = *b"GOTD";
/// Room for the user's name in a [`Hello`], in bytes; the rest is zero.
pub const HELLO_USER: usize = 64;
/// Length of a [`Hello`] in bytes.
pub const HELLO_LEN: usize = 4 + 2 + 1 + 1 + HELLO_USER;

/// What the client wants to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientKind {
    /// gotsh: one Git request.
    Git,
    /// gotctl: control of the daemon.
    Control,
    /// gotsh: a command of a user of a shared account that is none of Git's.
    Shell,
}

/// The greeting. It has a fixed size, so that the session can forward the claimed user name before
/// it decodes a single string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The sender's [`VERSION`].
    pub version: u16,
    /// What the client wants to be.
    pub kind: ClientKind,
    /// The name given with `--user`, zero-padded; all zero when none was.
    pub user: [u8; HELLO_USER],
}

impl Hello {
    /// The greeting of this version. `None`: the name is longer than [`HELLO_USER`] bytes or holds
    /// a NUL.
    pub fn new(kind: ClientKind, user: Option<&str>) -> Option<Hello> {
        let name = user.unwrap_or_default().as_bytes();
        if name.contains(&0) {
            return None;
        }
        let mut padded = [0; HELLO_USER];
        padded.get_mut(..name.len())?.copy_from_slice(name);
        Some(Hello { version: VERSION, kind, user: padded })
    }

    /// The bytes on the socket.
    pub fn encode(&self) -> [u8; HELLO_LEN] {
        let mut out = [0; HELLO_LEN];
        out[..4].copy_from_slice(&MAGIC);
        out[4..6].copy_from_slice(&self.version.to_le_bytes());
        out[6] = match self.kind {
            ClientKind::Git => 1,
            ClientKind::Control => 2,
            ClientKind::Shell => 3,
        };
        out[8..].copy_from_slice(&self.user);
        out
    }

    /// `None`: not a greeting.
    pub fn decode(record: &[u8]) -> Option<Hello> {
        let record: &[u8; HELLO_LEN] = record.try_into().ok()?;
        let kind = match (record[6], record[7]) {
            (1, 0) => ClientKind::Git,
            (2, 0) => ClientKind::Control,
            (3, 0) => ClientKind::Shell,
            _ => return None,
        };
        if record[..4] != MAGIC {
            return None;
        }
        let version = u16::from_le_bytes([record[4], record[5]]);
        let user = record[8..].try_into().ok()?;
        Some(Hello { version, kind, user })
    }

    /// The bytes of the name, without padding; `None`: no name. Nonsense behind the first NUL is
    /// refused by returning the whole field, which no `UserName` can hold.
    pub fn user(&self) -> Option<&[u8]> {
        let end = self.user.iter().position(|b| *b == 0).unwrap_or(HELLO_USER);
        if self.user[end..].iter().any(|b| *b != 0) {
            return Some(&self.user);
        }
        (end > 0).then(|| &self.user[..end])
    }
}

/// The service that a client asks for, as untrusted strings; `session` turns them into types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitRequest {
    /// `git-upload-pack` or `git-receive-pack`.
    pub service: String,
    /// The repository's name as the client gave it, unquoted.
    pub repository: Vec<u8>,
    /// The environment variable `GIT_PROTOCOL`; empty when not set.
    pub git_protocol: Vec<u8>,
    /// The environment variable `SSH_CONNECTION`: the address that the client is said to come from.
    pub ssh_connection: Vec<u8>,
}

/// A command of self-service, as untrusted strings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellRequest {
    /// What the client typed behind the host; empty: nothing.
    pub line: Vec<u8>,
    /// The environment variable `SSH_CONNECTION`: the address that the client is said to come from.
    pub ssh_connection: Vec<u8>,
}

/// What gotctl asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlRequest {
    /// Tell about processes, sessions and limits.
    Info {
        /// As JSON.
        json: bool,
    },
    /// Tell what was counted, as text in the format of OpenMetrics.
    Metrics,
    /// Log more, or as the configuration says.
    Log {
        /// More.
        verbose: bool,
    },
    /// End the daemon: drain with a bound, or at once.
    Stop {
        /// Do not wait for sessions under way.
        now: bool,
    },
    /// Read the configuration anew.
    Reload {
        /// Absolute paths of gotd.conf and of the secrets, where they are to change; empty: as
        /// before.
        files: [Vec<u8>; 2],
    },
}

crate::messages! {
    /// What a client tells the session after its greeting.
    pub enum ClientToSession, ClientToSessionKind: "client to session" {
        /// A Git request.
        1 => Git(GitRequest),
        /// A control request.
        2 => Control(ControlRequest),
        /// A command of self-service.
        3 => Shell(ShellRequest),
    }
}

/// The end of a session, for the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The status to exit with.
    pub status: u8,
    /// What to say on standard error, without the program's name; empty: nothing.
    pub text: String,
}

crate::messages! {
    /// What the session tells its client.
    pub enum SessionToClient, SessionToClientKind: "session to client" {
        /// The end: exit with this.
        1 => Exit(Exit),
        /// A line for the client's standard error, while work goes on (already free of control
        /// bytes).
        2 => Note(String),
        /// Lines for the client's standard output.
        3 => Line(String),
    }
}

/// What a client of version 1 makes of [`pipes_record`].
const TOO_OLD: &str =
    "client speaks version 1 of gotd's protocol, the daemon a later one: install the same version of both";

/// The record with which a session gives its client two descriptors: the writing end of the pipe
/// that it reads from, and the reading end of the one that it writes to. The frame in the same
/// record is an `Exit` message. A client of version 1, which takes no descriptors, prints its text
/// and ends.
pub fn pipes_record() -> Vec<u8> {
    exit_record(1, Exit { status: 1, text: TOO_OLD.into() })
}

/// The end of a session as a client of this version reads it. Up to version 2 a header had eight
/// bytes more, behind the length.
pub fn exit_record(version: u16, exit: Exit) -> Vec<u8> {
    let record = channel::encode(0, &SessionToClient::Exit(exit)).unwrap_or_default();
    match record.split_at_checked(8) {
        Some((before, after)) if version < 3 => [before, &[0; 8], after].concat(),
        _ => record,
    }
}

/// The first record that a client receives.
#[derive(Debug)]
pub enum First {
    /// Where the client writes, and where it reads.
    Pipes(OwnedFd, OwnedFd),
    /// An ordinary message: `listen` has no session for the connection and says why.
    Message(SessionToClient),
}

impl First {
    /// Decodes a record that came with `fds`.
    ///
    /// # Errors
    /// As [`channel::decode`].
    pub fn decode(record: &[u8], fds: Vec<OwnedFd>) -> Result<First, RecvError> {
        match <[OwnedFd; 2]>::try_from(fds) {
            Ok([to, from]) => Ok(First::Pipes(to, from)),
            Err(fds) => {
                let Received { message, .. } = channel::decode::<SessionToClient>(record, fds)?;
                Ok(First::Message(message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_with_the_pipes_is_a_clear_end_for_an_old_client() {
        let record = pipes_record();
        assert_eq!(record[4..8], u32::try_from(record.len() - 24).expect("short").to_le_bytes());
        let record = [&record[..8], &record[16..]].concat();
        let received = channel::decode::<SessionToClient>(&record, Vec::new()).expect("a frame");
        let SessionToClient::Exit(exit) = received.message else { panic!("not an end") };
        assert!(exit.status == 1 && exit.text.contains("install the same version of both"));
    }

    #[test]
    fn a_first_record_is_pipes_or_a_message() {
        let record = pipes_record();
        let null = || OwnedFd::from(std::fs::File::open("/dev/null").expect("opens"));
        assert!(matches!(First::decode(&record, vec![null(), null()]), Ok(First::Pipes(..))));
        let exit = exit_record(VERSION, Exit { status: 0, text: String::new() });
        assert!(matches!(First::decode(&exit, vec![]), Ok(First::Message(SessionToClient::Exit(_)))));
        assert!(First::decode(&record, vec![null()]).is_err());
        assert!(First::decode(b"x", vec![]).is_err());
    }

    #[test]
    fn hello_round_trip() {
        let hello = Hello::new(ClientKind::Git, Some("alice")).expect("fits");
        assert_eq!(Hello::decode(&hello.encode()), Some(hello));
        assert_eq!(hello.user(), Some(&b"alice"[..]));
        assert_eq!(Hello::new(ClientKind::Control, None).expect("fits").user(), None);
    }

    #[test]
    fn what_is_not_a_hello_is_refused() {
        let good = Hello::new(ClientKind::Git, None).expect("fits").encode();
        assert_eq!(Hello::decode(&good[1..]), None);
        for (at, byte) in [(0, b'X'), (6, 0), (6, 4), (7, 1)] {
            let mut bad = good;
            bad[at] = byte;
            assert_eq!(Hello::decode(&bad), None);
        }
        assert_eq!(Hello::new(ClientKind::Git, Some(&"x".repeat(65))), None);
        assert_eq!(Hello::new(ClientKind::Git, Some("a\0b")), None);
    }

    #[test]
    fn bytes_behind_the_name_make_it_no_name() {
        let mut hello = Hello::new(ClientKind::Git, Some("alice")).expect("fits");
        hello.user[20] = b'x';
        assert_eq!(hello.user().map(<[u8]>::len), Some(HELLO_USER));
    }
}
