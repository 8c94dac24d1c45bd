//! Between a `session` and its repository process: what a fetch asks and what the repository
//! answers.
//!
//! The session asks, and the repository process answers each message with exactly one message. Only
//! references and shallow boundaries come in several batches; the last batch is marked. The
//! repository process treats the session as hostile: [`READ_STATES`] says which message is allowed
//! when, and every batch is bounded by the size of a frame and by [`BATCH_IDS`].

use libgit::{DeepenLine, Filter, ObjectId, RefName};
use serde::{Deserialize, Serialize};

use crate::refusal::Refusal;
use crate::request::v0::SideBand;
use crate::states::StateTable;

/// Most object ids in one message.
pub const BATCH_IDS: usize = 400;
/// A sender of references begins a new batch when this many bytes are full; one more reference
/// always fits.
pub const BATCH_BYTES: usize = 8 * 1024;

/// References that begin with one of these are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefixes {
    /// Beginnings of names, any bytes, none longer than a reference name can be.
    pub prefixes: Vec<Vec<u8>>,
}

/// Which references to list, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListAsk {
    /// Only references that the [`Prefixes`] before this message name.
    pub prefixed: bool,
    /// Look up what annotated tags point to.
    pub peel: bool,
}

/// One reference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefLine {
    /// Its name: `HEAD` comes first, the others are sorted.
    pub name: RefName,
    /// What it points to; `None` only for a `HEAD` whose branch does not exist yet.
    pub id: Option<ObjectId>,
    /// What an annotated tag points to in the end, if that was asked.
    pub peeled: Option<ObjectId>,
    /// The reference that a symbolic one names.
    pub target: Option<RefName>,
}

impl RefLine {
    /// Bytes that it takes in a message, at most.
    pub fn weight(&self) -> usize {
        self.name.as_bytes().len() + self.target.as_ref().map_or(0, |t| t.as_bytes().len()) + 80
    }
}

/// Some references.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefBatch {
    /// The references.
    pub refs: Vec<RefLine>,
    /// Commits without parents here, because the repository itself is shallow; in batches behind
    /// the references.
    pub shallow: Vec<ObjectId>,
    /// No batch follows.
    pub last: bool,
}

/// The beginning of a negotiation. Nothing of an earlier one on this connection is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// The client speaks v2, where anything reachable may be wanted; else only what was advertised.
    pub v2: bool,
}

/// Objects that the client has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Haves {
    /// At most [`BATCH_IDS`].
    pub ids: Vec<ObjectId>,
    /// For unknown haves, say whether enough is common already.
    pub judge: bool,
}

/// The status of a have in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HaveStatus {
    /// Not here.
    Missing,
    /// Not here, but enough is common to build the pack.
    Ready,
    /// Here.
    Common,
    /// Here, and told before.
    Known,
}

/// Some of the commits where the client's history is to end, or no longer ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundaryBatch {
    /// Commits that the client gets without their parents.
    pub shallow: Vec<ObjectId>,
    /// Commits whose parents the client gets now.
    pub unshallow: Vec<ObjectId>,
    /// No batch follows.
    pub last: bool,
}

/// How the pack is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackAsk {
    /// It may hold deltas against objects that the client has.
    pub thin: bool,
    /// Deltas may name their base by an offset.
    pub ofs_delta: bool,
    /// Tags that point to what is sent come along.
    pub include_tag: bool,
    /// What to leave out.
    pub filter: Option<Filter>,
    /// How it is framed.
    pub side_band: SideBand,
    /// Progress for the user, where there is a side band.
    pub progress: bool,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackReport {
    /// Objects.
    pub objects: u64,
    /// Bytes of the pack, without framing.
    pub bytes: u64,
}

crate::messages! {
    /// What a session asks of the repository process of a fetch.
    pub enum SessionToRepo, SessionToRepoKind: "session to repository" {
        /// Some prefixes for the next [`SessionToRepo::List`]; answered by `Done`.
        1 => Prefixes(Prefixes),
        /// The references; answered by `Refs` batches.
        2 => List(ListAsk),
        /// A new negotiation; answered by `Done`.
        3 => Begin(Begin),
        /// Wanted objects; answered by `Done`.
        4 => Wants(Vec<ObjectId>),
        /// Commits that the client has without their parents; answered by `Done`.
        5 => Shallows(Vec<ObjectId>),
        /// How deep the answer is to reach; answered by `Done`.
        6 => Deepen(DeepenLine),
        /// Everything about wants and depth was said; `true`: the depth counts from the client's
        /// boundary. Answered by `Boundary` batches.
        7 => Bound(bool),
        /// Objects that the client has; answered by `Haved`.
        8 => Haves(Haves),
        /// Is enough common to build the pack? Answered by `Ready`.
        9 => Judge(()),
        /// Write the pack to the client's output, which the repository process has had from its
        /// start; answered by `Packed` when its last byte is out.
        10 => Pack(PackAsk),
    }
}

crate::messages! {
    /// What the repository process of a fetch answers. Any question may be answered by `Refused`.
    pub enum RepoToSession, RepoToSessionKind: "repository to session" {
        /// Some references.
        1 => Refs(RefBatch),
        /// Done.
        2 => Done(()),
        /// No.
        3 => Refused(Refusal),
        /// What is known of each have, in their order.
        4 => Haved(Vec<HaveStatus>),
        /// Whether enough is common.
        5 => Ready(bool),
        /// Some of the shallow boundary.
        6 => Boundary(BoundaryBatch),
        /// The pack is complete.
        7 => Packed(PackReport),
    }
}

/// The state of a fetch, as the repository process sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadState {
    /// No negotiation is under way.
    Idle,
    /// Prefixes were given, and a list must follow.
    Listing,
    /// Wants and depth, and in v2 haves among them.
    Needs,
    /// Haves only: the boundary is settled.
    Common,
}

/// Which messages of a session the repository process of a fetch takes in which state.
pub const READ_STATES: &StateTable<ReadState, SessionToRepoKind> = {
    use SessionToRepoKind::{Begin, Bound, Deepen, Haves, Judge, List, Pack, Prefixes, Shallows, Wants};
    &[
        (ReadState::Idle, &[Prefixes, List, Begin]),
        (ReadState::Listing, &[Prefixes, List]),
        (ReadState::Needs, &[Prefixes, List, Begin, Wants, Shallows, Deepen, Bound, Haves, Judge]),
        (ReadState::Common, &[Prefixes, List, Begin, Haves, Judge, Pack]),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Message;
    use crate::states::allowed;
    use libgit::HashKind;

    #[test]
    fn the_largest_batches_fit_into_a_frame() {
        let ids = vec![ObjectId::from_bytes(HashKind::Sha256, &[7; 32]).unwrap(); BATCH_IDS];
        let name = RefName::parse(&[b'x'; libgit::REF_NAME_MAX]).unwrap();
        let line = RefLine { name: name.clone(), id: Some(ids[0]), peeled: Some(ids[0]), target: Some(name) };
        let short = RefLine {
            name: RefName::parse(b"x").unwrap(),
            id: Some(ids[0]),
            peeled: Some(ids[0]),
            target: None,
        };
        let mut refs = Vec::new();
        let mut weight = 0;
        while weight + short.weight() < BATCH_BYTES {
            weight += short.weight();
            refs.push(short.clone());
        }
        refs.push(line);
        let batch = RefBatch { refs, shallow: Vec::new(), last: true };
        let mut out = Vec::new();
        RepoToSession::Refs(batch).encode_body(&mut out).unwrap();
        SessionToRepo::Wants(ids.clone()).encode_body(&mut out).unwrap();
        SessionToRepo::Haves(Haves { ids: ids.clone(), judge: true }).encode_body(&mut out).unwrap();
        let half = BATCH_IDS / 2;
        let boundary =
            BoundaryBatch { shallow: ids[..half].to_vec(), unshallow: ids[half..].to_vec(), last: true };
        RepoToSession::Boundary(boundary).encode_body(&mut out).unwrap();
    }

    #[test]
    fn a_pack_needs_a_settled_negotiation() {
        let pack = SessionToRepoKind::Pack;
        for state in [ReadState::Idle, ReadState::Listing, ReadState::Needs] {
            assert!(!allowed(READ_STATES, state, pack));
        }
        assert!(allowed(READ_STATES, ReadState::Common, pack));
    }
}
