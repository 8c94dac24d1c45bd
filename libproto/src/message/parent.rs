//! Between `parent` and the processes it started.
//!
//! The header's `peer` field is the session number wherever a message is about one session.

use serde::{Deserialize, Serialize};

use super::client::{ClientKind, ControlRequest};
use crate::command::Service;
use crate::names::{HashKind, RefName, RepoName, UserName};

/// The kernel's word about who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// `SO_PEERCRED` and `SO_PEERGROUPS`, or `getpeereid`.
    Unix {
        /// Process id of the client, 0 when the system does not tell.
        pid: i32,
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
        /// Supplementary groups; at most 1,024, a peer with more is refused.
        groups: Vec<u32>,
    },
    /// The address of a TCP connection.
    Tcp {
        /// IPv6, or IPv4 mapped into it.
        address: [u8; 16],
        /// Port number.
        port: u16,
    },
}

/// Most supplementary groups of a peer.
pub const MAX_GROUPS: usize = 1024;

/// First message of every process: proves that parent and child are the same build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The child's build id.
    pub id: String,
}

// --- listen

/// Which waiting sessions a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pool {
    /// Connections of the daemon's unix socket.
    Unix,
    /// git:// connections.
    Tcp,
}

/// What `listen` needs to know before it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenLimits {
    /// Connections at once, waiting ones included.
    pub connections: u32,
    /// New connections per second, over all.
    pub rate: u32,
    /// How long a connection may wait for a session before it is refused, in milliseconds.
    pub queue_ms: u32,
    /// How many connections may wait for a session.
    pub queue: u32,
    /// git:// connections at once, silent and waiting ones included.
    pub git: u32,
    /// Of these, from one address.
    pub per_address: u32,
    /// New ones per second from one address.
    pub rate_per_address: u32,
    /// How long one may say nothing, in milliseconds.
    pub silent_ms: u32,
    /// Bytes per second that a session's client must take.
    pub minimum_rate: u32,
    /// Bytes per second that one address may take; 0: any number.
    pub bandwidth: u64,
}

/// Why a connection got no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NoSession {
    /// All places are taken.
    Total,
    /// All new connections of this second have been served.
    Rate,
    /// No session was free for too long.
    Queue,
    /// As many as may wait for a session do.
    QueueLength,
    /// Its network has all the connections that it may have.
    PerAddress,
    /// Its network had too many new ones in a short time.
    RatePerAddress,
    /// All places of git:// are taken by others that do not give way.
    GitTotal,
    /// It said nothing for too long.
    FirstRequest,
    /// It went without having said anything: its own doing.
    Silent,
    /// It was accepted, and ended for one of a network that has fewer.
    GaveWay,
}

impl NoSession {
    /// The directive of gotd.conf that says so, if one does.
    pub fn directive(self) -> Option<&'static str> {
        match self {
            NoSession::Total => Some("connection limit total"),
            NoSession::Rate => Some("connection rate total"),
            NoSession::Queue => Some("connection queue timeout"),
            NoSession::QueueLength => Some("connection queue length"),
            NoSession::PerAddress => Some("connection limit per address"),
            NoSession::RatePerAddress => Some("connection rate per address"),
            NoSession::GitTotal | NoSession::GaveWay => Some("connection limit git total"),
            NoSession::FirstRequest => Some("connection first request timeout"),
            NoSession::Silent => None,
        }
    }

    /// The same in words, for client and log.
    pub fn text(self) -> &'static str {
        match self {
            NoSession::GaveWay => "gave way to another address (connection limit git total)",
            other => other.directive().unwrap_or("left without a word"),
        }
    }
}

/// git:// connections, for the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitCounts {
    /// Accepted since the start.
    pub accepted: u64,
    /// There at this moment, and have not sent a request.
    pub silent: u32,
    /// There, and wait for a session.
    pub waiting: u32,
    /// There, and have one.
    pub served: u32,
}

/// Connections that got no session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// How many.
    pub connections: u32,
    /// Why.
    pub why: NoSession,
    /// Over which kind of socket they came.
    pub pool: Pool,
    /// From where; `None`: from several addresses, or over the unix socket.
    pub address: Option<[u8; 16]>,
}

crate::messages! {
    /// What `parent` tells `listen`.
    pub enum ParentToListen: "parent to listen" {
        /// Limits, before the first listener.
        1 => Limits(ListenLimits),
        /// A listening socket; the header's peer is its number, which never repeats.
        2 => Listener(Pool) with 1,
        /// A waiting session (the header's peer): the parent's end of its private socketpair.
        3 => Waiting(Pool) with 1,
        /// A session that was handed a connection is over.
        4 => Over(()),
        /// Accept no more.
        5 => Drain(()),
        /// The waiting session of the header's peer must not be given a client any more.
        6 => Recall(()),
        /// The listening socket of that number is to be closed, once all who have come to it are accepted.
        7 => Close(()),
    }
}

crate::messages! {
    /// What `listen` tells `parent`.
    pub enum ListenToParent: "listen to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The session of the header's peer was handed a connection from this client.
        2 => Accepted(Peer),
        /// Connections were refused since the last word.
        3 => Refused(Refusals),
        /// The session of the header's peer could not be handed its connection; it must end.
        4 => HandoverFailed(String),
        /// The session of the header's peer was taken from the waiting ones; it never had a client.
        5 => Recalled(()),
        /// No git:// client can come any more: the last of their listening sockets is closed, and nobody who came to it
        /// waits for a session.
        6 => Deserted(()),
        /// The git:// connections, when something has changed; at most once a second.
        7 => Git(GitCounts),
    }
}

crate::messages! {
    /// The one message of `listen` to a waiting session.
    pub enum ListenToSession: "listen to session" {
        /// The accepted connection.
        1 => Connection(Pool) with 1,
    }
}

// --- session

/// Limits and times of one session, from gotd.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStart {
    /// Seconds until the request has been read.
    pub first_request: u32,
    /// Seconds that a client may be idle while it is its turn.
    pub idle: u32,
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

/// A command of self-service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ShellCommand {
    /// None: a greeting, and the repositories of this user.
    Greet,
    /// The repositories of this user.
    List,
    /// What there is to know about a repository.
    Info(RepoName),
    /// Make HEAD of a repository name this branch.
    Head(RepoName, RefName),
    /// Give a repository this description, one line without control bytes.
    Describe(RepoName, String),
}

impl ShellCommand {
    /// The word for it, for log lines.
    pub const fn name(&self) -> &'static str {
        match self {
            ShellCommand::Greet => "greet",
            ShellCommand::List => "list",
            ShellCommand::Info(_) => "info",
            ShellCommand::Head(..) => "head",
            ShellCommand::Describe(..) => "describe",
        }
    }

    /// The service that is permitted to whom this is.
    pub const fn service(&self) -> Service {
        match self {
            ShellCommand::Greet | ShellCommand::List | ShellCommand::Info(_) => Service::UploadPack,
            ShellCommand::Head(..) | ShellCommand::Describe(..) => Service::ReceivePack,
        }
    }

    /// The repository that this is about, and what to do there.
    pub fn task(&self) -> Option<(&RepoName, Task)> {
        match self {
            ShellCommand::Greet | ShellCommand::List => None,
            ShellCommand::Info(repository) => Some((repository, Task::Info)),
            ShellCommand::Head(repository, branch) => Some((repository, Task::Head(branch.clone()))),
            ShellCommand::Describe(repository, text) => Some((repository, Task::Describe(text.clone()))),
        }
    }
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
    /// The error text given to the client; empty: none.
    pub text: String,
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
    pub enum ParentToSession: "parent to session" {
        /// Limits, queued before the process runs.
        1 => Start(SessionStart),
        /// Go on: the repository process is told.
        2 => Granted(Grant),
        /// Say this to the client and end.
        3 => Refused(String),
        /// One line of the answer to a control request.
        4 => Line(String),
        /// The answer to a control request is complete.
        5 => Done(()),
        /// The repository process is gone, with this word for the client.
        6 => RepoGone(String),
    }
}

crate::messages! {
    /// What a `session` tells `parent`.
    pub enum SessionToParent: "session to parent" {
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
    }
}

// --- repository processes

/// What a repository process does once it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Fetches: `repo_read`.
    Read,
    /// Pushes: `repo_write`.
    Write,
}

/// Where a repository is: a configured path, and for a `repositories` directory the name below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoAddress {
    /// Absolute path from the configuration.
    pub path: Vec<u8>,
    /// The name below that directory, for a `repositories` block.
    pub below: Option<RepoName>,
    /// For a `repositories` block: serve only what holds git-daemon's export marker.
    pub export_ok: bool,
}

/// At the start of a repository process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoStart {
    /// The directories that hold all repositories, absolute.
    pub roots: Vec<Vec<u8>>,
    /// Bytes of anonymous memory (`RLIMIT_DATA`).
    pub memory: u64,
    /// Threads that may work on one pack.
    pub threads: u8,
}

/// What a repository process is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// What its session says.
    Git,
    /// Tell about the repository.
    Info,
    /// Make HEAD name this branch.
    Head(RefName),
    /// Put this text in the file `description`.
    Describe(String),
}

/// A grant, for the repository process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serve {
    /// Read or write.
    pub access: Access,
    /// Which repository.
    pub repository: RepoAddress,
    /// What fetches may ask for.
    pub fetch: FetchRules,
    /// Reference namespaces that do not exist for this client.
    pub hidden: Vec<Vec<u8>>,
    /// Times and limits, as for the session.
    pub limits: SessionStart,
    /// Rules of a push, encoded by the configuration's own module; empty for reading.
    pub push_rules: Vec<u8>,
    /// Whom this is for, for reference logs.
    pub who: String,
    /// What the client's input and output are: pipes, or one TCP connection.
    pub pool: Pool,
    /// What to do.
    pub task: Task,
}

/// The repository as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Device number of its directory.
    pub device: u64,
    /// Inode number of its directory.
    pub inode: u64,
    /// Hash of its object ids.
    pub hash: HashKind,
}

/// Why a repository could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenError {
    /// Nothing that is a repository has this name.
    NotFound,
    /// There is one, but only what `git-daemon-export-ok` marks was granted.
    NotExported,
    /// There is one, but it cannot be served: the reason, for client and log.
    Unusable(String),
}

/// What a repository process did, for the log line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoReport {
    /// Objects sent or received.
    pub objects: u64,
    /// Bytes of packs sent or received.
    pub bytes: u64,
    /// What went wrong, for the log; empty: nothing.
    pub text: String,
    /// Auxiliary files that were ignored, for the log.
    pub warnings: Vec<String>,
}

/// What keeps a pack from being made at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackWait {
    /// Packs that are being made.
    pub made: u32,
    /// Other packs that wait.
    pub others: u32,
    /// The directive that bounds them.
    pub limit: String,
}

/// What a user is told about a repository.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoInfo {
    /// What HEAD names, or the id that it is at.
    pub head: Vec<u8>,
    /// That is there.
    pub born: bool,
    /// References that the user may see.
    pub references: u64,
    /// How many of them are branches.
    pub branches: u64,
    /// How many of them are tags.
    pub tags: u64,
    /// When the newest commit that a branch names was committed, in seconds since 1970; `None`: there is none.
    pub changed: Option<u64>,
    /// Bytes of the files that hold its objects; `None`: too many files to count.
    pub size: Option<u64>,
    /// The beginning of the file `description`.
    pub description: Vec<u8>,
}

/// What became of one reference, for the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefReport {
    /// Name of the reference.
    pub name: Vec<u8>,
    /// Old object id in hexadecimal digits; zeros: created.
    pub old: String,
    /// New object id in hexadecimal digits; zeros: deleted.
    pub new: String,
    /// Why it was refused; empty: done.
    pub refused: String,
}

crate::messages! {
    /// What `parent` tells a repository process.
    pub enum ParentToRepo: "parent to repository" {
        /// Where repositories are.
        1 => Start(RepoStart),
        /// The one repository of this process.
        2 => Serve(Serve),
        /// The repository that was found is the right one: answer its session.
        3 => Go(()),
        /// The verify process of this push runs, or could not be started.
        4 => Verify(bool),
        /// The verify process has ended: whether with status 0.
        5 => Reaped(bool),
        /// Make the pack that was asked for.
        6 => Pack(()),
        /// The pack has to wait; may be said again when the numbers have changed.
        7 => Waits(PackWait),
        /// The pack is not made, with this word for the client.
        8 => NoPack(String),
        /// What was not found has been made since: look again.
        9 => Again(()),
    }
}

crate::messages! {
    /// What a repository process tells `parent`.
    pub enum RepoToParent: "repository to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// Found.
        2 => Opened(Opened),
        /// Not found, or not usable.
        3 => OpenFailed(OpenError),
        /// The work is over.
        4 => Finished(RepoReport),
        /// One reference changed or was refused.
        5 => Ref(RefReport),
        /// The pack of this push is about to come: start `verify`.
        6 => NeedVerify(()),
        /// A pack is due: wait for the word to make it.
        7 => NeedPack(()),
        /// That pack is made, or will not be.
        8 => PackDone(()),
        /// What was asked about the repository.
        9 => Info(RepoInfo),
    }
}

// --- verify

/// What a `verify` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStart {
    /// The repository.
    pub repository: RepoAddress,
    /// The directories that hold all repositories, absolute: alternates may lie there.
    pub roots: Vec<Vec<u8>>,
    /// Bytes of anonymous memory (`RLIMIT_DATA`).
    pub memory: u64,
    /// Bytes of the largest file it may write (`RLIMIT_FSIZE`).
    pub file_size: u64,
    /// Threads that may work on one pack.
    pub threads: u8,
    /// Times, as for the session.
    pub limits: SessionStart,
    /// Device and inode of the repository, as its writing process found it.
    pub found: Opened,
}

crate::messages! {
    /// What `parent` tells `verify`.
    pub enum ParentToVerify: "parent to verify" {
        /// The one repository of this process.
        1 => Start(VerifyStart),
    }
}

crate::messages! {
    /// What `verify` tells `parent`.
    pub enum VerifyToParent: "verify to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// What went wrong, for the log.
        2 => Finished(String),
    }
}

// --- create

/// What a `create` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateStart {
    /// Absolute path of the `repositories` directory.
    pub path: Vec<u8>,
    /// The name below it.
    pub name: RepoName,
    /// Who makes it.
    pub who: String,
    /// Under which conditions.
    pub rules: CreateRules,
}

/// What is to hold when a repository is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRules {
    /// Bytes of the disk that stay free.
    pub reserve: u64,
    /// Repositories that this user may have made in this directory, this one included; 0: any number.
    pub most: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Created {
    /// It is there now.
    Made,
    /// Something has this name, or has got it meanwhile.
    Exists,
    /// No repository may get this name: the reason, for the log.
    Refused(String),
    /// It could not be made: the reason, for client and log.
    Failed(String),
}

crate::messages! {
    /// What `parent` tells `create`.
    pub enum ParentToCreate: "parent to create" {
        /// The one repository of this process.
        1 => Start(CreateStart),
    }
}

crate::messages! {
    /// What `create` tells `parent`.
    pub enum CreateToParent: "create to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The work is over.
        2 => Done(Created),
    }
}

// --- list

/// Most repositories that one answer lists.
pub const MOST_LISTED: usize = 10_000;
/// Most names in one message.
pub const SEEN_MAX: usize = 24;

/// What a `list` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStart {
    /// Absolute path of the `repositories` directory.
    pub path: Vec<u8>,
}

/// A repository that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRepository {
    /// Its name below the directory.
    pub name: RepoName,
    /// Device number of its directory.
    pub device: u64,
    /// Inode number of its directory.
    pub inode: u64,
}

crate::messages! {
    /// What `parent` tells `list`.
    pub enum ParentToList: "parent to list" {
        /// The one directory of this process.
        1 => Start(ListStart),
    }
}

crate::messages! {
    /// What `list` tells `parent`.
    pub enum ListToParent: "list to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// Repositories, at most [`SEEN_MAX`].
        2 => Names(Vec<ListedRepository>),
        /// That was all: whether nothing was left out.
        3 => Done(bool),
    }
}

// --- auth

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The kernel's word.
    pub peer: Peer,
    /// Whom the client was told to speak for; believed only from an account's uid.
    pub told_user: Option<UserName>,
}

/// Which of these may this user see?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Who asks.
    pub who: Who,
    /// The path of the `repositories` directory that they are in.
    pub path: Vec<u8>,
    /// Names as a request has them; at most [`SEEN_MAX`].
    pub names: Vec<RepoName>,
}

/// A repository that a user may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its name in a request.
    pub name: RepoName,
    /// The user may write too.
    pub write: bool,
}

/// A directory of repositories that a user may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRoot {
    /// Absolute path from the configuration.
    pub path: Vec<u8>,
    /// The prefix of the names of what is in it.
    pub prefix: Option<RepoName>,
}

/// The end of what a configuration has for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overview {
    /// It is a user who may ask.
    Known {
        /// Whom limits and logs count.
        identity: String,
        /// Connections at once of this identity.
        connections: u32,
    },
    /// No answer under this identity: the reason.
    NoIdentity(String),
}

/// May this client do this to that repository?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The kernel's word.
    pub peer: Peer,
    /// Whom the client was told to speak for; believed only from an account's uid.
    pub told_user: Option<UserName>,
    /// What it wants.
    pub service: Service,
    /// Where.
    pub repository: RepoName,
}

/// The answer of `auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Granted.
    Granted(Permit),
    /// No such repository, or no rule matched, which must look the same unless the administrator wants it told.
    NotFound {
        /// Whom logs name.
        identity: String,
        /// The name leads to a block, but no rule of it is about them.
        no_rule: bool,
    },
    /// A rule matched and says no.
    Denied {
        /// Whom logs name.
        identity: String,
        /// For the client.
        text: String,
        /// `file:line` of the rule.
        rule: String,
    },
    /// No answer under this identity: the reason.
    NoIdentity(String),
}

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// Whom limits and logs count: `user:NAME`, `account:NAME`, `anonymous`.
    pub identity: String,
    /// Connections at once of this identity.
    pub connections: u32,
    /// `limit user` says so, and not `limit per user`.
    pub own_connections: bool,
    /// `file:line` of the rule that decided.
    pub rule: String,
    /// Where the repository is.
    pub repository: RepoAddress,
    /// What fetches may ask for.
    pub fetch: FetchRules,
    /// Packs that may be made of the repository at a time.
    pub packs: u32,
    /// Hidden reference namespaces.
    pub hidden: Vec<Vec<u8>>,
    /// Rules of a push, encoded by the configuration's own module.
    pub push_rules: Vec<u8>,
    /// The rule that decided permits writing.
    pub write: bool,
    /// The push may make the repository, if these hold.
    pub create: Option<CreateRules>,
}

crate::messages! {
    /// What `parent` tells `auth`.
    pub enum ParentToAuth: "parent to auth" {
        /// One item of the configuration, in order; the last one completes it.
        1 => Config(Vec<u8>),
        /// A question about the session of the header's peer.
        2 => Ask(Question),
        /// What is there for the user of the session of the header's peer? Answered by any number of `Seen` and `Root`,
        /// and one `Overview`.
        3 => Overview(Who),
        /// Which of these? Answered by one `Seen`.
        4 => Filter(Filter),
    }
}

crate::messages! {
    /// What `auth` tells `parent`.
    pub enum AuthToParent: "auth to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The configuration is complete and in force.
        2 => Configured(()),
        /// The answer about the session of the header's peer.
        3 => Verdict(Verdict),
        /// A request type that this process does not know.
        4 => NotSupported(u16),
        /// Repositories that the user may read; at most [`SEEN_MAX`].
        5 => Seen(Vec<Seen>),
        /// A directory of repositories that the user may read.
        6 => Root(SeenRoot),
        /// That was all of the configuration.
        7 => Overview(Overview),
    }
}

// --- config

/// What the `config` process is to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadConfig {
    /// Absolute path of gotd.conf.
    pub path: Vec<u8>,
    /// Absolute path of the secrets file; empty: the default one, which need not exist.
    pub secrets: Vec<u8>,
}

crate::messages! {
    /// What `parent` tells `config`.
    pub enum ParentToConfig: "parent to config" {
        /// Read these files.
        1 => Load(LoadConfig),
    }
}

/// Most repositories in one message.
pub const OWN_BLOCKS_MAX: usize = 500;

crate::messages! {
    /// What `config` tells `parent`.
    pub enum ConfigToParent: "config to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// One item of the configuration, in order.
        2 => Item(Vec<u8>),
        /// A warning: `file:line:column: text`.
        3 => Warning(String),
        /// An error: `file:line:column: text`.
        4 => Error(String),
        /// All was sent: whether the configuration is good.
        5 => End(bool),
        /// Device and inode of repositories that have a block of their own; at most [`OWN_BLOCKS_MAX`] of them.
        6 => OwnBlocks(Vec<(u64, u64)>),
    }
}
