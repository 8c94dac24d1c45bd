//! What `parent` and the processes of its jobs say to each other: each process is told its one
//! task, greets, works and says its last word. The messages of `verify` come first, then those of
//! `commit_refs`, of `create` and of `list`.

use serde::{Deserialize, Serialize};

use super::{Build, DirectoryId, Lent, Opened, PackWait, RepoAddress, SessionStart};
use crate::message::rules::PushRules;
use crate::names::RepoName;
use crate::refusal::Refusal;

/// What a `verify` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyStart {
    /// The repository.
    pub repository: RepoAddress,
    /// What the repository may borrow from, as its writing process was told.
    pub lent: Vec<Lent>,
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
    /// Its path as walked, which `auth` has agreed to.
    pub place: Vec<u8>,
}

crate::messages! {
    /// What `parent` tells `verify`.
    pub enum ParentToVerify, ParentToVerifyKind: "parent to verify" {
        /// The one repository of this process.
        1 => Start(VerifyStart),
        /// Index and check what comes in, or go on with it.
        2 => Turn(()),
        /// The push has to wait; may be said again when the numbers have changed.
        3 => Waits(PackWait),
        /// The push is refused, with this word for the client.
        4 => NoTurn(Refusal),
    }
}

crate::messages! {
    /// What `verify` tells `parent`.
    pub enum VerifyToParent, VerifyToParentKind: "verify to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// What went wrong, for the log.
        2 => Finished(Refusal),
        /// Work is due, or goes on, which takes so many bytes of memory: wait for the word to do
        /// it.
        3 => NeedTurn(u64),
        /// The client sends nothing: the place is free, so many bytes of memory are not.
        4 => Stalled(u64),
    }
}

/// What a `commit_refs` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommitStart {
    /// The repository.
    pub repository: RepoAddress,
    /// Device and inode of the repository, as its writing process found it, and its hash.
    pub found: Opened,
    /// Its path as walked, which `auth` has agreed to.
    pub place: Vec<u8>,
    /// Bytes of anonymous memory (`RLIMIT_DATA`).
    pub memory: u64,
    /// The user, for reference logs.
    pub who: String,
    /// Rules of the push.
    pub rules: Box<PushRules>,
}

crate::messages! {
    /// What `parent` tells `commit_refs`.
    pub enum ParentToCommit, ParentToCommitKind: "parent to commit_refs" {
        /// The one repository of this process.
        1 => Start(CommitStart),
    }
}

crate::messages! {
    /// What `commit_refs` tells `parent`.
    pub enum CommitToParent, CommitToParentKind: "commit_refs to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The work is over.
        2 => Done(()),
    }
}

/// What a `create` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateStart {
    /// Absolute path of the `repositories` directory, to be walked.
    pub path: Vec<u8>,
    /// The path without links at which the walk must end; anything else is refused.
    pub place: Vec<u8>,
    /// The name below it.
    pub name: RepoName,
    /// Who makes it.
    pub who: String,
    /// Under which conditions.
    pub rules: CreateRules,
}

/// The conditions under which a repository is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRules {
    /// Bytes of the disk that stay free.
    pub reserve: u64,
    /// Repositories that this user may have made in this directory, this one included; 0: any
    /// number.
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
    Refused(Refusal),
    /// It could not be made: the reason, for client and log.
    Failed(Refusal),
}

crate::messages! {
    /// What `parent` tells `create`.
    pub enum ParentToCreate, ParentToCreateKind: "parent to create" {
        /// The one repository of this process.
        1 => Start(CreateStart),
    }
}

crate::messages! {
    /// What `create` tells `parent`.
    pub enum CreateToParent, CreateToParentKind: "create to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The work is over.
        2 => Done(Created),
    }
}

/// Most repositories that one answer lists.
pub const MOST_LISTED: usize = 10_000;
/// Most names in one message.
pub const SEEN_MAX: usize = 16;

/// What a `list` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStart {
    /// Absolute path of the `repositories` directory, to be walked.
    pub path: Vec<u8>,
    /// The path without links at which the walk must end; anything else is refused.
    pub place: Vec<u8>,
}

/// A repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRepository {
    /// Its name in a request, below the directory.
    pub name: RepoName,
    /// The name that it has there.
    pub below: RepoName,
    /// Its directory, the one above it and so on, to the one at the top.
    pub directories: Vec<DirectoryId>,
}

crate::messages! {
    /// What `parent` tells `list`.
    pub enum ParentToList, ParentToListKind: "parent to list" {
        /// The one directory of this process.
        1 => Start(ListStart),
    }
}

crate::messages! {
    /// What `list` tells `parent`.
    pub enum ListToParent, ListToParentKind: "list to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// Repositories, at most [`SEEN_MAX`].
        2 => Names(Vec<ListedRepository>),
        /// That was all: whether nothing was left out.
        3 => Done(bool),
    }
}
