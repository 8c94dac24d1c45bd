//! What `parent` and `verify` say to each other.

use serde::{Deserialize, Serialize};

use super::{Build, Lent, Opened, PackWait, RepoAddress, SessionStart};
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
