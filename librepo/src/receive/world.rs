//! The objects of a push and those of the repository side by side.

use libgit::{ObjectId, ObjectKind};

use super::had::Had;
use super::index_pack::{Indexed, Own};
use super::{Ticker, promised};
use crate::error::Result;
use crate::id::IdSet;
use crate::object::{Commit, Tag};
use crate::reader::{Object, Reader};

/// A commit, wherever it lies.
#[derive(Clone, Debug)]
pub(super) struct CommitInfo {
    pub(super) tree: ObjectId,
    pub(super) parents: Vec<ObjectId>,
    /// Seconds since 1970.
    pub(super) date: u64,
}

/// Where an object lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ObjectOrigin {
    /// It came with the push.
    New(ObjectKind),
    /// The repository had it before.
    Old(ObjectKind),
}

impl ObjectOrigin {
    pub(super) fn kind(self) -> ObjectKind {
        match self {
            ObjectOrigin::New(kind) | ObjectOrigin::Old(kind) => kind,
        }
    }
}

/// Reads both.
pub(super) struct World<'a> {
    pub(super) indexed: &'a Indexed,
    new: Option<Reader<'a>>,
    old: Option<Reader<'a>>,
    had: Had<'a>,
    /// Positions in the findings' commits, sorted by id.
    commits: Vec<u32>,
    /// What is not here and was promised, once it was asked for.
    promised: Option<IdSet>,
}

/// Bytes of cache for each side.
const CACHE: usize = 8 << 20;

impl<'a> World<'a> {
    pub(super) fn new(indexed: &'a Indexed, own: Option<&'a Own>, had: Had<'a>) -> Self {
        let list = &indexed.findings.commits;
        let mut commits: Vec<u32> = (0..list.len() as u32).collect();
        commits.sort_unstable_by_key(|&at| list[at as usize].id);
        World {
            indexed,
            new: own.map(|own| Reader::new(&own.0, CACHE)),
            old: had.everything().map(|store| Reader::new(store, CACHE)),
            had,
            commits,
            promised: None,
        }
    }

    /// Whether another server has promised an object that is not here. Where references are hidden,
    /// nothing counts as promised: what only they name must not show.
    pub(super) fn is_promised(&mut self, id: &ObjectId, ticker: &mut Ticker<'_>) -> Result<bool> {
        let Some(store) = self.had.everything().filter(|store| store.is_partial()) else { return Ok(false) };
        if self.had.hides() {
            return Ok(false);
        }
        if self.promised.is_none() {
            self.promised = Some(promised::absent(store, ticker)?);
        }
        Ok(self.promised.as_ref().is_some_and(|ids| ids.contains(id)))
    }

    /// Whether an object came from the server that has what is missing: it and all that it names
    /// are there.
    pub(super) fn is_promisor_object(&self, id: &ObjectId) -> bool {
        !self.had.hides() && self.had.everything().is_some_and(|store| store.is_promisor_object(id))
    }

    /// The origin of an object; `None` if it is nowhere. `named` is the kind that the naming object
    /// expects, if that is known.
    pub(super) fn place(&mut self, id: &ObjectId, named: Option<ObjectKind>) -> Result<Option<ObjectOrigin>> {
        if let Some((_, kind, false)) = self.indexed.find(id) {
            return Ok(Some(ObjectOrigin::New(*kind)));
        }
        if !self.had.shows(id, named) {
            return Ok(None);
        }
        match &mut self.old {
            Some(old) => Ok(old.header(id)?.map(|(kind, _)| ObjectOrigin::Old(kind))),
            None => Ok(None),
        }
    }

    /// Whether all that lies in the repository is known to be whole, because what no reference
    /// reaches does not exist.
    pub(super) fn old_is_whole(&self) -> bool {
        self.had.hides()
    }

    /// Whether the repository had the object before. With hidden references the answer is only
    /// "perhaps": the caller must then ask whether visible references reach it.
    pub(super) fn is_old(&self, id: &ObjectId) -> bool {
        self.had.hides() || self.old.as_ref().is_some_and(|old| old.store().contains(id))
    }

    /// Kind and size of an object that came with the push.
    pub(super) fn new_header(&mut self, id: &ObjectId) -> Result<Option<(ObjectKind, u64)>> {
        match &mut self.new {
            Some(new) => new.header(id),
            None => Ok(None),
        }
    }

    /// An object's content; `None` if it is nowhere.
    pub(super) fn read(&mut self, id: &ObjectId) -> Result<Option<Object>> {
        self.read_as(id, None)
    }

    fn read_as(&mut self, id: &ObjectId, named: Option<ObjectKind>) -> Result<Option<Object>> {
        if let (Some((_, _, false)), Some(new)) = (self.indexed.find(id), &mut self.new) {
            return new.read(id);
        }
        if !self.had.shows(id, named) {
            return Ok(None);
        }
        match &mut self.old {
            Some(old) => old.read(id),
            None => Ok(None),
        }
    }

    /// The commit of this id; `None` if there is none, or it is something else.
    pub(super) fn commit(&mut self, id: &ObjectId) -> Result<Option<CommitInfo>> {
        let findings = &self.indexed.findings;
        let found = self.commits.binary_search_by_key(id, |&at| findings.commits[at as usize].id);
        if let Some(commit) = found.ok().and_then(|at| findings.commits.get(self.commits[at] as usize)) {
            let from = commit.first_parent as usize;
            let parents = findings.parents.get(from..from + commit.parents as usize).unwrap_or(&[]).to_vec();
            return Ok(Some(CommitInfo { tree: commit.tree, parents, date: commit.date }));
        }
        let object = self.read_as(id, Some(ObjectKind::Commit))?;
        let Some(object) = object.filter(|object| object.kind == ObjectKind::Commit) else {
            return Ok(None);
        };
        Ok(Commit::parse(&object.data, self.indexed.hash).ok().map(|commit| CommitInfo {
            tree: commit.tree(),
            parents: commit.parents().collect(),
            date: commit.committer_seconds(),
        }))
    }

    /// What an annotated tag names; `None` if this is none.
    pub(super) fn tag(&mut self, id: &ObjectId) -> Result<Option<(ObjectId, ObjectKind)>> {
        let object = self.read_as(id, Some(ObjectKind::Tag))?;
        let Some(object) = object.filter(|object| object.kind == ObjectKind::Tag) else { return Ok(None) };
        Ok(Tag::parse(&object.data, self.indexed.hash).ok().map(|tag| (tag.target(), tag.kind())))
    }
}
