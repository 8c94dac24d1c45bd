//! `repo_write` and `commit_refs`: the changes of references of one push that need packed-refs, or
//! the log of HEAD.
//!
//! ```text
//! repo_write → commit_refs   Updates*, Commit
//! commit_refs → repo_write   Results*, or Failed
//! ```

use libgit::ObjectId;
use serde::{Deserialize, Serialize};

use super::push::{BATCH_NAME_BYTES, RefCommand};
use crate::refusal::Refusal;
use crate::states::StateTable;

/// Most changes in one message.
pub const BATCH_UPDATES: usize = 32;
/// Most bytes of names in one message; the name of one more change always fits.
pub const BATCH_UPDATE_BYTES: usize = BATCH_NAME_BYTES;
/// Most results in one message.
pub const BATCH_RESULTS: usize = 8;
/// Most bytes of the text of a result.
pub const RESULT_MAX: usize = 1000;

/// What the new value of a reference finally names, for packed-refs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peeled {
    /// It is an annotated tag of this object.
    To(ObjectId),
    /// It is no tag.
    Nothing,
    /// Nobody looked.
    Unknown,
}

/// A change that no rule has refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefUpdate {
    /// The change.
    pub command: RefCommand,
    /// What its new value names.
    pub peeled: Peeled,
}

crate::messages! {
    /// What `repo_write` tells `commit_refs`.
    pub enum WriterToCommit, WriterToCommitKind: "repo_write to commit_refs" {
        /// Some changes, in the client's order; at most [`BATCH_UPDATES`].
        1 => Updates(Vec<RefUpdate>),
        /// All have been said. Make them: each by itself or, if this is true, all or none.
        2 => Commit(bool),
    }
}

crate::messages! {
    /// What `commit_refs` tells `repo_write`.
    pub enum CommitToWriter, CommitToWriterKind: "commit_refs to repo_write" {
        /// Some results, in the order of the changes: why it was not made, or `None`. At most
        /// [`BATCH_RESULTS`].
        1 => Results(Vec<Option<Refusal>>),
        /// Nothing was changed, for this reason.
        2 => Failed(Refusal),
    }
}

/// How far `commit_refs` is with what it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitState {
    /// Nothing was said yet.
    Idle,
    /// Changes are coming.
    Updates,
    /// All have been said: nothing more is read.
    Committed,
}

/// Which messages `commit_refs` takes in which state.
pub const COMMIT_STATES: &StateTable<CommitState, WriterToCommitKind> = {
    use WriterToCommitKind::{Commit, Updates};
    &[
        (CommitState::Idle, &[Updates]),
        (CommitState::Updates, &[Updates, Commit]),
        (CommitState::Committed, &[]),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Message;
    use crate::states::allowed;
    use libgit::{HashKind, REF_NAME_MAX, RefName};

    #[test]
    fn the_largest_batches_fit_into_a_frame() {
        let id = ObjectId::from_bytes(HashKind::Sha256, &[7; 32]).expect("an id");
        let update = |name: Vec<u8>| {
            let name = RefName::parse(&name).expect("a name");
            RefUpdate { command: RefCommand { old: id, new: id, name }, peeled: Peeled::To(id) }
        };
        let longest = [b"refs/".as_slice(), "x/".repeat(REF_NAME_MAX / 2 - 3).as_bytes(), b"x"].concat();
        let each = BATCH_UPDATE_BYTES / (BATCH_UPDATES - 1);
        let name = |n: usize| [b"refs/", "x".repeat(n - 5).as_bytes()].concat();
        let mut updates: Vec<RefUpdate> = (0..BATCH_UPDATES - 1).map(|_| update(name(each))).collect();
        updates.push(update(longest));
        WriterToCommit::Updates(updates).encode_body(&mut Vec::new()).expect("fits");
        let result = Some(Refusal::Reference("x".repeat(RESULT_MAX)));
        CommitToWriter::Results(vec![result; BATCH_RESULTS]).encode_body(&mut Vec::new()).expect("fits");
    }

    #[test]
    fn nothing_is_asked_for_after_the_commit_and_no_commit_without_changes() {
        for &kind in WriterToCommit::KINDS {
            assert_eq!(allowed(COMMIT_STATES, CommitState::Idle, kind), kind == WriterToCommitKind::Updates);
            assert!(allowed(COMMIT_STATES, CommitState::Updates, kind));
            assert!(!allowed(COMMIT_STATES, CommitState::Committed, kind));
        }
    }
}
