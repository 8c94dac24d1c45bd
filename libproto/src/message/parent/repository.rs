//! What `parent` and a repository process say to each other.

use libgit::HashKind;
use serde::{Deserialize, Serialize};

use super::{Build, FetchRules, SessionStart};
use crate::message::rules::PushRules;
use crate::names::RepoName;
use crate::refusal::Refusal;
use crate::self_service::Task;

/// The task of a repository process.
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
    /// Absolute path from the configuration, to be walked.
    pub path: Vec<u8>,
    /// What that walk led to when the configuration was loaded, and has to lead to now.
    pub place: Vec<u8>,
    /// The name below that directory, for a `repositories` block.
    pub below: Option<RepoName>,
    /// For a `repositories` block: serve only repositories with git-daemon's export marker.
    pub export_ok: bool,
}

/// At the start of a repository process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoStart {
    /// The directories that a process sees which does not know its repository yet.
    pub granted: Vec<Vec<u8>>,
    /// Bytes of anonymous memory (`RLIMIT_DATA`).
    pub memory: u64,
    /// Threads that may work on one pack.
    pub threads: u8,
    /// For strangers: users with an account come first where processors are short.
    pub strangers: bool,
}

/// Processor time that a connection's negotiation may use, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Negotiation {
    /// Of one connection.
    pub connection: u32,
    /// What is left for this client.
    pub left: u32,
    /// Of one client in ten minutes.
    pub per_client: u32,
}

impl Default for Negotiation {
    /// Without a bound.
    fn default() -> Negotiation {
        Negotiation { connection: u32::MAX, left: u32::MAX, per_client: u32::MAX }
    }
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
    /// Rules of a push; `None`: reading.
    pub push_rules: Option<Box<PushRules>>,
    /// The user, for reference logs.
    pub who: String,
    /// What to do.
    pub task: Task,
    /// What may be used before a pack is granted.
    pub negotiation: Negotiation,
}

/// A directory's inode number and its time of birth. The time tells it from a removed directory
/// that had the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DirectoryId {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Nanoseconds since 1970; 0: not known.
    pub born: u64,
}

/// The end of a walk, sent before anything there is opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundAt {
    /// The repository's path as it was walked: absolute, without links.
    pub path: Vec<u8>,
    /// That directory, the one above it and so on, to the one at the top.
    pub directories: Vec<DirectoryId>,
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

/// What the `config` of a repository itself comes to, as far as others must know of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnRules {
    /// What a fetch may ask for.
    pub fetch: FetchRules,
    /// Tells the file from what it was: its time of change in nanoseconds, its
    /// size, its inode; and how many hooks there are.
    pub changed: [u64; 4],
    /// What is set and not honoured, a line each.
    pub notes: Vec<String>,
}

impl OwnRules {
    /// Most notes.
    pub const NOTES: usize = 24;
    /// Most bytes of one.
    pub const NOTE: usize = 240;
}

/// Questions about places to borrow from that a repository process may ask: one for each level of
/// alternates.
pub const BORROW_QUESTIONS: u8 = 5;
/// Most places in all of its questions, and bytes of their paths and directories.
pub const BORROW_PLACES: usize = 64;
/// See [`BORROW_PLACES`].
pub const BORROW_BYTES: usize = 12_000;
/// Bytes that one directory counts there.
pub const DIRECTORY_BYTES: usize = 28;

/// Whether objects may be borrowed from a place, for the client of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lend {
    /// The client may read the repository that it belongs to, or `borrow` names it.
    Permitted,
    /// The client may, where the marker file of git-daemon stands.
    Exported,
    /// It is not the objects directory of any repository of the configuration.
    NoRepository,
    /// It, or a directory above it, belongs to another block's place: this path would evade that
    /// block's rules.
    Elsewhere,
    /// No rule lets the client read it, and no `borrow` names it.
    Denied,
    /// Some of its references are hidden, and a borrower would read their objects; no `borrow`
    /// names it.
    Hides,
}

/// A place that was lent to a push.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// The path of an objects directory, as walked.
    pub place: Vec<u8>,
    /// Only where the marker file of git-daemon stands.
    pub exported: bool,
}

/// The names of checks of a repository's files, 32 bytes each, that need not be made again while
/// those files stay as they are.
pub type Checks = Vec<[u8; 32]>;

/// Why a repository could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OpenError {
    /// Nothing has this name.
    NotFound,
    /// A directory has this name, and is no repository: why, for the log alone.
    NoRepository(String),
    /// It exists, but lacks the file `git-daemon-export-ok`, which the grant requires.
    NotExported,
    /// It exists, but its own `config` has it not served over git://.
    NotDaemon,
    /// It exists, but cannot be served: the reason, for client and log.
    Unusable(String),
    /// The path may not be walked: the reason, for the log alone.
    Unreachable(String),
}

/// What a repository process did, for the log line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoReport {
    /// Objects sent or received.
    pub objects: u64,
    /// Bytes of packs sent or received.
    pub bytes: u64,
    /// What went wrong, for the log.
    pub refusal: Option<Refusal>,
    /// Auxiliary files that were ignored, for the log.
    pub warnings: Vec<String>,
    /// What it checked and found right, for the next process.
    pub checked: Checks,
    /// Milliseconds of processor time that negotiation has used in all.
    pub negotiated: u32,
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
    /// The branch that HEAD names, or the id of a detached HEAD.
    pub head: Vec<u8>,
    /// That is there.
    pub born: bool,
    /// References that the user may see.
    pub references: u64,
    /// How many of them are branches.
    pub branches: u64,
    /// How many of them are tags.
    pub tags: u64,
    /// When the newest commit that a branch names was committed, in seconds since 1970; `None`:
    /// there is none.
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
    /// The branch that changes, if that is an alias; empty: it is none, or it is deleted.
    pub target: Vec<u8>,
    /// Old object id in hexadecimal digits; zeros: created.
    pub old: String,
    /// New object id in hexadecimal digits; zeros: deleted.
    pub new: String,
    /// Why it was refused; `None`: done.
    pub refused: Option<Refusal>,
}

crate::messages! {
    /// What `parent` tells a repository process.
    pub enum ParentToRepo, ParentToRepoKind: "parent to repository" {
        /// Where repositories are.
        1 => Start(RepoStart),
        /// The one repository of this process.
        2 => Serve(Serve),
        /// The repository that was found is the right one: answer its session. What others checked
        /// comes along.
        3 => Go(Checks),
        /// The verify process of this push runs, or could not be started. Said once, right after
        /// [`Go`](ParentToRepo::Go).
        4 => Verify(bool),
        /// The verify process has ended: whether with status 0.
        5 => Reaped(bool),
        /// Make the pack that was asked for, or go on with it.
        6 => Pack(()),
        /// The pack has to wait; may be said again when the numbers have changed.
        7 => Waits(PackWait),
        /// The pack is not made, or not to its end, with this word for the client.
        8 => NoPack(Refusal),
        /// What was not found has been made since: look again.
        9 => Again(()),
        /// The answers to a question about alternates, in its order.
        10 => Lent(Vec<Lend>),
        /// The `commit_refs` process of this push runs, or could not be started.
        11 => Commit(bool),
    }
}

crate::messages! {
    /// What a repository process tells `parent`.
    pub enum RepoToParent, RepoToParentKind: "repository to parent" {
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
        /// There are changes that packed-refs or the log of HEAD is needed for: start `commit_refs`
        /// once `verify` has ended.
        6 => NeedCommit(()),
        /// A pack is due, or goes on, and takes this many bytes of memory: the process waits for
        /// its turn.
        7 => NeedPack(u64),
        /// That pack is made, or will not be.
        8 => PackDone(()),
        /// What was asked about the repository.
        9 => Info(RepoInfo),
        /// Where the repository was found; sent before the message that it was opened.
        10 => Found(FoundAt),
        /// May the client read what lies at these places, objects directories as walked? Asked
        /// before they are opened; at most [`BORROW_PLACES`].
        11 => Borrow(Vec<FoundAt>),
        /// The client does not take the pack under way: its place is free, so many bytes of memory
        /// are not.
        12 => PackStalled(u64),
        /// Negotiation has used so many milliseconds of processor time in all: wait for a turn,
        /// given and ended as for a pack.
        13 => NeedTurn(u32),
        /// The rest is only copied, or its client reads again: no place is needed, and this many
        /// bytes of memory are.
        14 => PackCopied(u64),
        /// What its own `config` comes to; sent before the message that it was opened.
        15 => Own(OwnRules),
    }
}
