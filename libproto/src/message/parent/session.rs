//! What `parent` and a `session` say to each other.

use libgit::HashKind;
use serde::{Deserialize, Serialize};

use super::Build;
use crate::command::Service;
use crate::limits::Limit;
use crate::message::client::{ClientKind, ControlRequest};
use crate::names::RepoName;
use crate::refusal::Refusal;
use crate::request::RequestLimits;
use crate::self_service::ShellCommand;

/// Limits and times of one session, from gotd.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    /// Seconds until the request has been read.
    pub first_request: u32,
    /// Seconds that a client may be idle while it is its turn.
    pub idle: u32,
    /// The limit that says so.
    pub idle_limit: Limit,
    /// Seconds without any progress while there is work (`request timeout`).
    pub work: u32,
    /// Bytes per second that a transfer must reach over a window.
    pub minimum_rate: u32,
    /// Length of that window in seconds.
    pub rate_window: u32,
    /// Wants of one request.
    pub wants: u32,
    /// Haves of one request.
    pub haves: u32,
    /// Reference prefixes of one request.
    pub prefixes: u32,
    /// Shallow lines of one request.
    pub shallows: u32,
    /// Commands of one push.
    pub commands: u32,
    /// Bytes of the names in the commands and of the options of one push.
    pub command_bytes: u64,
}

/// Most seconds of silence before a client gives way to another one.
const LONG_SILENCE: u32 = 60;

impl SessionStart {
    /// Those of a configuration, of which `get` tells each limit.
    pub fn of(get: impl Fn(Limit) -> u64) -> SessionStart {
        let number = |limit| u32::try_from(get(limit)).unwrap_or(u32::MAX);
        SessionStart {
            first_request: number(Limit::FirstRequest),
            idle: number(Limit::IdleTimeout),
            idle_limit: Limit::IdleTimeout,
            work: number(Limit::RequestTimeout),
            minimum_rate: number(Limit::MinimumRate),
            rate_window: number(Limit::RateWindow),
            wants: number(Limit::Wants),
            haves: number(Limit::Haves),
            prefixes: number(Limit::Prefixes),
            shallows: number(Limit::Shallows),
            commands: number(Limit::Commands),
            command_bytes: get(Limit::CommandBytes),
        }
    }

    /// The same for a client of git://, who is anonymous.
    pub fn anonymous(self, get: impl Fn(Limit) -> u64) -> SessionStart {
        let idle = u32::try_from(get(Limit::IdleTimeoutAnonymous)).unwrap_or(u32::MAX);
        if idle >= self.idle {
            return self;
        }
        SessionStart { idle, idle_limit: Limit::IdleTimeoutAnonymous, ..self }
    }

    /// Seconds after which a silent client gives way when another one waits for a session.
    pub fn long_silence(&self) -> u32 {
        LONG_SILENCE.min(self.idle / 2).max(1)
    }

    /// Those of one request or push.
    pub fn request(&self) -> RequestLimits {
        RequestLimits {
            wants: self.wants.into(),
            haves: self.haves.into(),
            prefixes: self.prefixes.into(),
            shallows: self.shallows.into(),
            commands: self.commands.into(),
            command_bytes: self.command_bytes,
            ..RequestLimits::default()
        }
    }
}

impl Default for SessionStart {
    /// Those of a configuration that sets none.
    fn default() -> SessionStart {
        SessionStart::of(|limit| limit.row().default)
    }
}

/// What the greeting of a client said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// The client's protocol version.
    pub version: u16,
    /// What it wants to be.
    pub kind: ClientKind,
    /// The 64 bytes of the name it was told to speak for, not decoded yet, without padding.
    pub user: Option<Vec<u8>>,
}

/// A decoded Git request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitAsk {
    /// The service.
    pub service: Service,
    /// The repository, as a request names it.
    pub repository: RepoName,
    /// Version of Git's protocol: 0, 1 or 2.
    pub protocol: u8,
    /// The address that the client says it comes from; empty when it says nothing.
    pub told_address: String,
}

/// A decoded request of self-service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShellAsk {
    /// What is asked.
    pub command: ShellCommand,
    /// The address that the client says it comes from; empty when it says nothing.
    pub told_address: String,
}

/// How a session ended, for the log line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionReport {
    /// Status given to the client.
    pub status: u8,
    /// What the client was told of an error; `None`: nothing.
    pub refusal: Option<Refusal>,
    /// The client's agent, already free of control bytes, at most 128 bytes.
    pub agent: String,
    /// Bytes read from the client.
    pub received: u64,
    /// Bytes written to the client by the session itself.
    pub sent: u64,
}

/// What a granted session may count on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Hash of the repository's object ids.
    pub hash: HashKind,
    /// What the configuration allows beyond plain fetches.
    pub fetch: FetchRules,
}

/// What the configuration allows a fetch beyond advertised tips.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchRules {
    /// Objects that are reachable from advertised references may be asked for (v0 too).
    pub reachable: bool,
    /// Any object that is there may be asked for.
    pub any: bool,
    /// `filter` is offered, for partial clones.
    pub filter: bool,
}

crate::messages! {
    /// What `parent` tells a `session`.
    pub enum ParentToSession, ParentToSessionKind: "parent to session" {
        /// Limits, queued before the process runs.
        1 => Start(SessionStart),
        /// Go on: the repository process is told.
        2 => Granted(Grant),
        /// Say this to the client and end.
        3 => Refused(Refusal),
        /// One line of the answer to a control request.
        4 => Line(String),
        /// The answer to a control request is complete.
        5 => Done(()),
        /// Another client waits for the place: end now if your client is still silent.
        6 => GiveWay(()),
    }
}

crate::messages! {
    /// What a `session` tells `parent`.
    pub enum SessionToParent, SessionToParentKind: "session to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The client's greeting, forwarded before anything else is read.
        2 => Client(ClientHello),
        /// A Git request.
        3 => Git(GitAsk),
        /// A control request.
        4 => Control(ControlRequest),
        /// The session is over.
        5 => Finished(SessionReport),
        /// The connection is one of git://, which greets with nothing of ours.
        6 => Remote(()),
        /// A request of self-service.
        7 => Shell(ShellAsk),
        /// This many commands were handed to `repo_write`, which is told to begin next. It may
        /// report on as many references.
        8 => Begins(u32),
        /// Whether the client has been silent, in its turn, for [`SessionStart::long_silence`].
        9 => Silent(bool),
    }
}
