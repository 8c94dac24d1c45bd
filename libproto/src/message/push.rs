//! A push: `session`, `repo_write` and `verify` among each other; `commit_refs` is in
//! [`commit`](super::commit).
//!
//! The session parses commands; `repo_write` decides and changes references; `verify` alone reads
//! the pack.
//!
//! ```text
//! repo_write → session   Refs*                      references to advertise, unasked
//! session → repo_write   Commands*, Shallows*, Begin  what the client wants
//! repo_write → session   TakePack                   (a pack is coming, and verify runs)
//! session → verify       Input                      the client's input is verify's, from the pack's first byte on
//! repo_write → verify    Files + three descriptors     (before the session is heard)
//!                        Task, Commands*, Shallows*, Go
//! verify → session       Progress*                  for the client
//! verify → repo_write    Indexed, Facts*, or Failed
//! repo_write → session   Results*, End
//! ```

use libgit::{ObjectId, ObjectKind, RefName};
use serde::{Deserialize, Serialize};

use super::repo::RefBatch;
use crate::refusal::Refusal;
use crate::states::StateTable;

/// Most commands in one message.
pub const BATCH_COMMANDS: usize = 64;
/// Most bytes of names in one batch of commands; one more command always fits.
pub const BATCH_NAME_BYTES: usize = 8 * 1024;

/// One reference that the client wants to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefCommand {
    /// Its value by the client's word; null: it does not exist.
    pub old: ObjectId,
    /// Its new value; null: delete it.
    pub new: ObjectId,
    /// Its name, below `refs/`.
    pub name: RefName,
}

/// All commands have been said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushBegin {
    /// All or none.
    pub atomic: bool,
    /// A pack follows on the client's input (there is a command that is no deletion).
    pub pack: bool,
    /// The client's push options, free of control bytes, for the log.
    pub options: Vec<String>,
}

crate::messages! {
    /// What a `session` tells `repo_write`.
    pub enum SessionToWriter, SessionToWriterKind: "session to repo_write" {
        /// Some commands, in the client's order.
        1 => Commands(Vec<RefCommand>),
        /// Commits that the client's history ends at.
        2 => Shallows(Vec<ObjectId>),
        /// The request is complete: begin.
        3 => Begin(PushBegin),
    }
}

/// What became of one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandResult {
    /// The reference.
    pub name: RefName,
    /// Why it was refused; `None`: done.
    pub refused: Option<Refusal>,
}

crate::messages! {
    /// What `repo_write` tells its `session`.
    pub enum WriterToSession, WriterToSessionKind: "repo_write to session" {
        /// Some references.
        1 => Refs(RefBatch),
        /// The message was taken.
        2 => Taken(()),
        /// `verify` is ready: the session reads no more of the client's input and tells `verify`
        /// so.
        3 => TakePack(()),
        /// Some results, in the order of the commands.
        4 => Results(Vec<CommandResult>),
        /// The push is over: why the pack was refused; `None`: it was not.
        5 => End(Option<Refusal>),
        /// The push cannot be taken at all: for the client, and nothing was changed.
        6 => Refused(Refusal),
    }
}

crate::messages! {
    /// What a `session` tells `verify`.
    pub enum SessionToVerify, SessionToVerifyKind: "session to verify" {
        /// The client's input, which `repo_write` gave to `verify`, is at the first byte of the
        /// pack: read on from there.
        1 => Input(()),
    }
}

crate::messages! {
    /// What `verify` tells its `session`.
    pub enum VerifyToSession, VerifyToSessionKind: "verify to session" {
        /// A line of progress, without a line end; the flag marks the last line of a stage.
        1 => Progress((String, bool)),
        /// The pack has been read to its end; a client that sends more breaks the protocol.
        2 => InputEnd(u64),
    }
}

/// What `verify` is to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyTask {
    /// Bytes of a pack.
    pub pack_bytes: u64,
    /// Objects in a pack.
    pub objects: u64,
    /// Bytes of one object, inflated.
    pub object_bytes: u64,
    /// Bytes of the result of a delta.
    pub delta_bytes: u64,
    /// Length of a chain of deltas.
    pub chain: u32,
    /// Bytes that the pack's deltas may unpack to for each byte of it; 0: any number.
    pub delta_ratio: u64,
    /// Objects that a thin pack may leave out.
    pub external_bases: u64,
    /// How deep directories may be nested.
    pub tree_depth: u32,
    /// Largest blob that a tip may bring, in bytes; 0: any. Judged by `repo_write`, for which tips
    /// must be told apart.
    pub blob_bytes: u64,
    /// Check objects as `git fsck` does.
    pub fsck: bool,
    /// Message ids of findings that are let through.
    pub tolerated: Vec<String>,
    /// Bytes that must stay free on the disk.
    pub disk_reserve: u64,
    /// Whether a pack comes at all.
    pub pack: bool,
    /// Namespaces of references that the client may not know of: what only they reach does not
    /// exist for it.
    pub hidden: Vec<Vec<u8>>,
}

crate::messages! {
    /// What `repo_write` tells `verify`.
    pub enum WriterToVerify, WriterToVerifyKind: "repo_write to verify" {
        /// The empty files for pack and index, and the client's input.
        1 => Files(()) with 3,
        /// Some of the commands that no rule has refused yet.
        2 => Commands(Vec<(ObjectId, ObjectId)>),
        /// Commits that the client's history ends at.
        3 => Shallows(Vec<ObjectId>),
        /// All was said.
        4 => Go(()),
        /// What to do.
        5 => Task(VerifyTask),
    }
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexedPack {
    /// Objects in the pack file, appended ones included; 0: there is no pack to keep.
    pub objects: u64,
    /// Objects that came in.
    pub received: u64,
    /// Bytes of the pack file.
    pub bytes: u64,
    /// Its checksum: the last bytes of the file.
    pub checksum: ObjectId,
}

/// What is known about one command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandFacts {
    /// The reason to refuse it whatever the rules say.
    pub refused: Option<Refusal>,
    /// The kind of the new tip; `None` for a deletion.
    pub kind: Option<ObjectKind>,
    /// What an annotated tag finally names, and its kind.
    pub peeled: Option<(ObjectId, ObjectKind)>,
    /// Whether the new tip descends from the old one; `None` unless both are commits.
    pub fast_forward: Option<bool>,
    /// Whether it brings merge commits that no reference reached.
    pub merges: bool,
    /// Bytes of the largest blob that came for it.
    pub largest_blob: Option<u64>,
}

crate::messages! {
    /// What `verify` tells `repo_write`.
    pub enum VerifyToWriter, VerifyToWriterKind: "verify to repo_write" {
        /// The pack is received and every object in it is good.
        1 => Indexed(IndexedPack),
        /// Facts, in the order of the commands.
        2 => Facts(Vec<CommandFacts>),
        /// All facts were said.
        3 => Done(()),
        /// The pack is refused: why, for the client.
        4 => Failed(Refusal),
    }
}

/// The state of a push, as `repo_write` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteState {
    /// The references were sent.
    Listed,
    /// Commands are coming. When the last message of this state was said, nothing more is read.
    Commands,
}

/// Which messages of a session `repo_write` takes in which state.
pub const WRITE_STATES: &StateTable<WriteState, SessionToWriterKind> = {
    use SessionToWriterKind::{Begin, Commands, Shallows};
    &[(WriteState::Listed, &[Commands, Shallows]), (WriteState::Commands, &[Commands, Shallows, Begin])]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Message;
    use crate::states::allowed;
    use libgit::HashKind;
    use libgit::REF_NAME_MAX;

    #[test]
    fn the_largest_batches_fit_into_a_frame() {
        let id = ObjectId::from_bytes(HashKind::Sha256, &[7; 32]).expect("an id");
        let command = |n: usize| RefCommand {
            old: id,
            new: id,
            name: RefName::parse(format!("refs/{}", "x".repeat(n)).as_bytes()).expect("a name"),
        };
        let mut batch: Vec<RefCommand> = (0..BATCH_COMMANDS - 1).map(|_| command(100)).collect();
        batch.push(RefCommand {
            name: RefName::parse(
                &[b"refs/".as_slice(), "x/".repeat(REF_NAME_MAX / 2 - 3).as_bytes(), b"x"].concat(),
            )
            .expect("a name"),
            ..command(1)
        });
        let mut out = Vec::new();
        SessionToWriter::Commands(batch).encode_body(&mut out).expect("fits");
        let facts = CommandFacts {
            refused: Some(Refusal::Objects("missing necessary objects".into())),
            kind: Some(ObjectKind::Tag),
            peeled: Some((id, ObjectKind::Commit)),
            fast_forward: Some(true),
            merges: true,
            largest_blob: Some(u64::MAX),
        };
        let mut out = Vec::new();
        VerifyToWriter::Facts(vec![facts; BATCH_COMMANDS]).encode_body(&mut out).expect("fits");
    }

    #[test]
    fn beginning_needs_commands() {
        for &kind in SessionToWriter::KINDS {
            let begins = kind == SessionToWriterKind::Begin;
            assert_eq!(allowed(WRITE_STATES, WriteState::Listed, kind), !begins);
            assert!(allowed(WRITE_STATES, WriteState::Commands, kind));
        }
    }
}
