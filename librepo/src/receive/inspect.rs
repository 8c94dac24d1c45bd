//! Inspects every object as soon as its content is known: hashes it, checks it, notes the objects
//! that it names, and compares it with an existing copy.

use std::sync::Arc;

use libgit::{HashKind, ObjectId, ObjectKind};

use super::bad;
use super::check::{self, Policy, Special};
use super::hasher::{HashJob, ObjectHasher};
use super::links::Links;
use crate::dir::EntryType;
use crate::error::{Error, Result};
use crate::id::IdSet;
use crate::object::{Commit, Tag};
use crate::reader::Reader;
use crate::store::{Location, Store};

/// A commit of the pack.
#[derive(Clone, Debug)]
pub(super) struct NewCommit {
    pub(super) id: ObjectId,
    pub(super) tree: ObjectId,
    /// Seconds since 1970.
    pub(super) date: u64,
    /// Its parents are `parents[first_parent..first_parent + parents]` of the list beside.
    pub(super) first_parent: u32,
    pub(super) parents: u32,
}

/// What all objects together gave.
pub(super) struct Findings {
    pub(super) links: Links,
    pub(super) commits: Vec<NewCommit>,
    pub(super) parents: Vec<ObjectId>,
    /// Tags, with what they name.
    pub(super) tags: Vec<(ObjectId, ObjectId, ObjectKind)>,
    /// Files whose content has rules of its own.
    pub(super) modules: IdSet,
    pub(super) attributes: IdSet,
    /// Blobs of at least [`LARGE_BLOB`] bytes, and the largest whatever its size.
    pub(super) blobs: Vec<(ObjectId, u64)>,
    pub(super) largest: Option<(ObjectId, u64)>,
    /// Entries with the id of an object that is already there, too large to compare on the way.
    pub(super) compare: Vec<u32>,
}

/// Blobs of at least this many bytes are remembered one by one.
pub const LARGE_BLOB: u64 = 1 << 20;

impl Findings {
    fn new(hash: HashKind) -> Self {
        Findings {
            links: Links::new(hash),
            commits: Vec::new(),
            parents: Vec::new(),
            tags: Vec::new(),
            modules: IdSet::default(),
            attributes: IdSet::default(),
            blobs: Vec::new(),
            largest: None,
            compare: Vec::new(),
        }
    }

    /// Adds what another thread found.
    pub(super) fn merge(&mut self, mut other: Findings) {
        if self.links.len() < other.links.len() {
            std::mem::swap(&mut self.links, &mut other.links);
        }
        self.links.merge(&other.links);
        let shift = self.parents.len() as u32;
        self.parents.append(&mut other.parents);
        self.commits.extend(other.commits.into_iter().map(|mut commit| {
            commit.first_parent = commit.first_parent.saturating_add(shift);
            commit
        }));
        self.tags.append(&mut other.tags);
        self.modules.extend(other.modules);
        self.attributes.extend(other.attributes);
        self.blobs.append(&mut other.blobs);
        self.compare.append(&mut other.compare);
        if other.largest.is_some_and(|(_, size)| self.largest.is_none_or(|(_, largest)| size > largest)) {
            self.largest = other.largest;
        }
    }

    fn blob(&mut self, id: ObjectId, size: u64) {
        if size >= LARGE_BLOB {
            self.blobs.push((id, size));
        }
        if self.largest.is_none_or(|(_, largest)| size > largest) {
            self.largest = Some((id, size));
        }
    }
}

/// Inspects objects; every thread has its own.
pub(super) struct Inspector<'s> {
    hash: HashKind,
    policy: Arc<Policy>,
    existing: Option<Reader<'s>>,
    loose: Option<Arc<IdSet>>,
    pub(super) hasher: ObjectHasher,
    pub(super) findings: Findings,
    ids: Vec<Option<ObjectId>>,
}

/// Bytes of objects that are collected before they are inspected together: many at once are hashed
/// several times faster.
pub(super) const BATCH_BYTES: usize = 1 << 20;
/// Objects above this many bytes are inspected by themselves.
pub(super) const BATCH_OBJECT: usize = 1 << 20;
/// How many objects are inspected together at most.
pub(super) const BATCH_OBJECTS: usize = 1024;

/// Bytes of cache for reading existing objects of the same id: there are next to none.
const CACHE: usize = 2 << 20;

impl<'s> Inspector<'s> {
    /// `loose` are the ids of [`loose_ids`].
    pub(super) fn new(
        hash: HashKind,
        policy: Arc<Policy>,
        store: Option<&'s Store>,
        loose: Option<Arc<IdSet>>,
    ) -> Self {
        let existing = store.map(|store| Reader::new(store, CACHE));
        Inspector {
            hash,
            policy,
            existing,
            loose,
            hasher: ObjectHasher::new(hash),
            findings: Findings::new(hash),
            ids: Vec::new(),
        }
    }

    /// Where the repository has an object of this id already.
    fn locate(&self, id: &ObjectId) -> Option<Location> {
        let store = self.existing.as_ref()?.store();
        match &self.loose {
            Some(loose) if !loose.contains(id) => store.locate_packed(id),
            _ => store.locate(id),
        }
    }

    /// A whole object of the pack: gives its id.
    pub(super) fn object(&mut self, index: u32, kind: ObjectKind, data: &[u8]) -> Result<ObjectId> {
        let id = self.hasher.object(kind, data).ok_or_else(collision_attack)?;
        self.named(index, id, kind, data)
    }

    /// Many whole objects of the pack at once: `done` is given the number, the kind and the id of
    /// each.
    pub(super) fn objects(
        &mut self,
        numbers: &[u32],
        jobs: &[HashJob<'_>],
        mut done: impl FnMut(u32, ObjectKind, ObjectId),
    ) -> Result<()> {
        let mut ids = std::mem::take(&mut self.ids);
        self.hasher.objects(jobs, &mut ids);
        for ((number, job), id) in numbers.iter().zip(jobs).zip(&ids) {
            let id = id.ok_or_else(collision_attack)?;
            self.named(*number, id, job.kind, job.data)?;
            done(*number, job.kind, id);
        }
        self.ids = ids;
        Ok(())
    }

    fn named(&mut self, index: u32, id: ObjectId, kind: ObjectKind, data: &[u8]) -> Result<ObjectId> {
        match kind {
            ObjectKind::Blob => self.findings.blob(id, data.len() as u64),
            ObjectKind::Tree => self.tree(id, data)?,
            ObjectKind::Commit => self.commit(id, data)?,
            ObjectKind::Tag => self.tag(id, data)?,
        }
        self.compare(index, id, kind, data)?;
        Ok(id)
    }

    /// A blob that was hashed as it streamed by.
    pub(super) fn streamed_blob(&mut self, index: u32, size: u64, id: Option<ObjectId>) -> Result<ObjectId> {
        let id = id.ok_or_else(collision_attack)?;
        self.findings.blob(id, size);
        if let Some(location) = self.locate(&id)
            && let Some(existing) = &mut self.existing
            && let Some(header) = existing.header_at(location, &id)?
        {
            if header != (ObjectKind::Blob, size) {
                return Err(collision(&id));
            }
            self.findings.compare.push(index);
        }
        Ok(id)
    }

    fn tree(&mut self, id: ObjectId, data: &[u8]) -> Result<()> {
        let Findings { links, modules, attributes, .. } = &mut self.findings;
        let hash = self.hash;
        let entry = |mode: u32, target: &[u8]| match mode & 0o170_000 {
            0o040_000 => links.add(target, ObjectKind::Tree),
            0o160_000 => {}
            _ => links.add(target, ObjectKind::Blob),
        };
        let special = |special: Special, target: &[u8]| {
            if let Some(target) = ObjectId::from_bytes(hash, target) {
                match special {
                    Special::Modules => modules.insert(target),
                    Special::Attributes => attributes.insert(target),
                };
            }
        };
        check::tree(&self.policy, data, hash, entry, special).map_err(|problem| refused(&id, &problem))
    }

    fn commit(&mut self, id: ObjectId, data: &[u8]) -> Result<()> {
        check::commit(&self.policy, data, self.hash).map_err(|problem| refused(&id, &problem))?;
        let commit = Commit::parse(data, self.hash).map_err(|e| bad(format!("object {id}: {e}")))?;
        let findings = &mut self.findings;
        findings.links.add(commit.tree().as_bytes(), ObjectKind::Tree);
        let first_parent = findings.parents.len() as u32;
        for parent in commit.parents() {
            findings.links.add(parent.as_bytes(), ObjectKind::Commit);
            findings.parents.push(parent);
        }
        let parents = findings.parents.len() as u32 - first_parent;
        let (tree, date) = (commit.tree(), commit.committer_seconds());
        findings.commits.push(NewCommit { id, tree, date, first_parent, parents });
        Ok(())
    }

    fn tag(&mut self, id: ObjectId, data: &[u8]) -> Result<()> {
        check::tag(&self.policy, data, self.hash).map_err(|problem| refused(&id, &problem))?;
        let tag = Tag::parse(data, self.hash).map_err(|e| bad(format!("object {id}: {e}")))?;
        self.findings.links.add(tag.target().as_bytes(), tag.kind());
        self.findings.tags.push((id, tag.target(), tag.kind()));
        Ok(())
    }

    /// The same id must mean the same content: an attacker with two files of one hash must not be
    /// able to exchange them.
    fn compare(&mut self, index: u32, id: ObjectId, kind: ObjectKind, data: &[u8]) -> Result<()> {
        let Some(location) = self.locate(&id) else { return Ok(()) };
        let Some(existing) = &mut self.existing else { return Ok(()) };
        match existing.read_at(location, &id) {
            Ok(Some(object)) if object.kind == kind && object.data.as_slice() == data => Ok(()),
            Ok(Some(_)) => Err(collision(&id)),
            Ok(None) => Ok(()),
            Err(Error::ObjectTooLarge(..)) => {
                self.findings.compare.push(index);
                Ok(())
            }
            // A damaged copy is replaced by the good one that arrived, as in C git.
            Err(Error::CorruptObject(..) | Error::CorruptEntry(..)) => Ok(()),
            Err(e) => Err(e),
        }
    }
}

/// The most loose objects that are listed; with more, each id is looked up in the file system.
const MAX_LOOSE: usize = 100_000;

/// The ids of all loose objects, so that the many objects of a pack need no look into the file
/// system each. `None` if there are too many, or a directory cannot be listed.
pub(super) fn loose_ids(store: &Store) -> Option<IdSet> {
    let mut ids = IdSet::default();
    for dir in store.object_dirs() {
        for (fan, kind) in dir.entries(MAX_LOOSE).ok()? {
            if kind != EntryType::Dir || fan.len() != 2 || !fan.iter().all(u8::is_ascii_hexdigit) {
                continue;
            }
            let Some(sub) = dir.open_dir(&fan).ok()? else { continue };
            for (name, _) in sub.entries(MAX_LOOSE).ok()? {
                ids.extend(ObjectId::from_hex(&[fan.as_slice(), &name].concat()));
            }
            if ids.len() > MAX_LOOSE {
                return None;
            }
        }
    }
    Some(ids)
}

/// git's words for an object that fails its checks.
pub(super) fn refused(id: &ObjectId, problem: &check::Problem) -> Error {
    bad(format!("object {id}: {problem}"))
}

pub(super) fn collision(id: &ObjectId) -> Error {
    bad(format!("object {id}: collides with an object of other content"))
}

fn collision_attack() -> Error {
    bad("pack: an object bears the marks of a SHA-1 collision attack")
}
