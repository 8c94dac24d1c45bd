//! Commits as a walk needs them: parents, tree and date, each read once.

use std::collections::HashMap;

use libgit::{ObjectId, ObjectKind};

use super::space::{First, NO_OBJECT, ObjectPlace, Space};
use crate::commit_graph::CommitGraph;
use crate::error::{Error, Result};
use crate::id::FastState;
use crate::object::{Commit, Tag};
use crate::reader::{Object, Reader};
use crate::store::{Location, Store};

/// How many tags of tags are followed.
const MOST_TAGS: usize = 1000;

/// The tags on the way, and what they name in the end with its kind, if that is here.
pub(crate) type Peeled = (Vec<u32>, Option<(u32, ObjectKind)>);

/// The repository as a fetch reads it: numbers, and objects by number.
pub(crate) struct Source<'s> {
    pub(crate) space: Space<'s>,
    pub(crate) reader: Reader<'s>,
    /// Knows parents, trees and dates of commits without reading them.
    pub(crate) graph: Option<&'s CommitGraph>,
    /// Kind and size in bytes of the loose objects that were asked about. Several steps of a
    /// fetch ask again, and each time the file would be opened.
    loose: HashMap<u32, (ObjectKind, u64), FastState>,
}

impl<'s> Source<'s> {
    pub(crate) fn new(store: &'s Store, first: First, cache_bytes: usize) -> Result<Source<'s>> {
        Ok(Source::of(Space::new(store, first)?, Reader::new(store, cache_bytes)))
    }

    /// A source without a commit graph, of numbers that others use too.
    pub(crate) fn of(space: Space<'s>, reader: Reader<'s>) -> Source<'s> {
        Source { space, reader, graph: None, loose: HashMap::default() }
    }

    /// The number of an object that must be here.
    pub(crate) fn number(&mut self, id: &ObjectId) -> Result<u32> {
        self.space.number(id).ok_or(Error::Missing(*id))
    }

    fn location(&self, number: u32) -> Result<(Location, ObjectId)> {
        match self.space.place(number) {
            Some(ObjectPlace::Pack { pack, index, offset }) => {
                Ok((Location::Pack { pack, index, offset }, ObjectId::null(self.space.store().hash())))
            }
            Some(ObjectPlace::Loose { id, dir }) => Ok((Location::Loose { dir }, id)),
            None => Err(Error::Limit(format!("no object with the number {number}"))),
        }
    }

    /// The object with this number.
    pub(crate) fn read(&mut self, number: u32) -> Result<Object> {
        let (location, id) = self.location(number)?;
        self.reader.read_at(location, &id)?.ok_or(Error::Missing(id))
    }

    /// The same, if neither the object nor any of its bases has more than `limit` bytes.
    pub(crate) fn read_within(&mut self, number: u32, limit: u64) -> Result<Option<Object>> {
        let (location, id) = self.location(number)?;
        self.reader.read_at_within(location, &id, limit)
    }

    /// Kind and size of the object with this number.
    pub(crate) fn header(&mut self, number: u32) -> Result<(ObjectKind, u64)> {
        if let Some(header) = self.loose.get(&number) {
            return Ok(*header);
        }
        let (location, id) = self.location(number)?;
        let header = self.reader.header_at(location, &id)?.ok_or(Error::Missing(id))?;
        if matches!(location, Location::Loose { .. }) {
            self.loose.insert(number, header);
        }
        Ok(header)
    }

    /// Kind of the object with this number.
    pub(crate) fn kind(&mut self, number: u32) -> Result<ObjectKind> {
        match self.space.place(number) {
            Some(ObjectPlace::Pack { pack, offset, .. }) => self.reader.kind_packed(pack, offset),
            _ => Ok(self.header(number)?.0),
        }
    }

    /// Follows tags to what they name in the end: every tag on the way, then the object with its
    /// kind. `None` where that is not here.
    pub(crate) fn peel(&mut self, number: u32) -> Result<Peeled> {
        let mut tags = Vec::new();
        let mut at = number;
        loop {
            let kind = self.kind(at)?;
            if kind != ObjectKind::Tag {
                return Ok((tags, Some((at, kind))));
            }
            if tags.len() >= MOST_TAGS {
                return Err(Error::Limit("too many tags of tags".to_owned()));
            }
            tags.push(at);
            let object = self.read(at)?;
            let target = Tag::parse(&object.data, self.space.store().hash())
                .map_err(|e| Error::CorruptObject(self.space.id(at), e.0))?
                .target();
            match self.space.number(&target) {
                Some(next) => at = next,
                None => return Ok((tags, None)),
            }
        }
    }
}

/// A commit that was read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(crate) number: u32,
    /// The number of its tree, or [`NO_OBJECT`] if that is not here; see [`Commits::tree`].
    tree: u32,
    pub(crate) seconds: u64,
    first_parent: u32,
    parent_count: u32,
    /// Whether the tree was looked for.
    tree_known: bool,
    /// Free for the walk's use.
    pub(crate) flags: u8,
}

/// The commits read so far, in the order in which they were asked for.
#[derive(Default)]
pub(crate) struct Commits {
    nodes: Vec<Node>,
    parents: Vec<u32>,
    by_number: HashMap<u32, u32, FastState>,
}

impl Commits {
    /// The commit with this number, read if it was not yet. `None` if the object is no commit.
    pub(crate) fn load(&mut self, source: &mut Source<'_>, number: u32) -> Result<Option<u32>> {
        self.load_as(source, number, false)
    }

    /// The same; with `with_tree` its tree is looked up at once. The tree of a commit that the
    /// client has is hardly ever needed.
    fn load_as(&mut self, source: &mut Source<'_>, number: u32, with_tree: bool) -> Result<Option<u32>> {
        if let Some(at) = self.by_number.get(&number) {
            return Ok(Some(*at));
        }
        let first_parent = self.parents.len() as u32;
        let (tree, seconds) = match self.ask_graph(source, number) {
            Some(found) => found,
            None => {
                self.parents.truncate(first_parent as usize);
                let object = source.read(number)?;
                if object.kind != ObjectKind::Commit {
                    return Ok(None);
                }
                let commit = Commit::parse(&object.data, source.space.store().hash())
                    .map_err(|e| Error::CorruptObject(source.space.id(number), e.0))?;
                for parent in commit.parents() {
                    self.parents.push(source.space.number(&parent).unwrap_or(NO_OBJECT));
                }
                (commit.tree(), commit.committer_seconds())
            }
        };
        let node = Node {
            number,
            tree: Some(tree)
                .filter(|_| with_tree)
                .and_then(|tree| source.space.number(&tree))
                .unwrap_or(NO_OBJECT),
            tree_known: with_tree,
            seconds,
            first_parent,
            parent_count: self.parents.len() as u32 - first_parent,
            flags: 0,
        };
        let at = self.nodes.len() as u32;
        self.nodes.push(node);
        self.by_number.insert(number, at);
        Ok(Some(at))
    }

    /// Tree and date of a commit that the commit graph knows; its parents are appended.
    fn ask_graph(&mut self, source: &Source<'_>, number: u32) -> Option<(ObjectId, u64)> {
        let graph = source.graph?;
        let commit = graph.commit(graph.lookup(&source.space.id(number))?)?;
        for parent in commit.parents() {
            self.parents.push(source.space.number(&graph.id_at(parent)).unwrap_or(NO_OBJECT));
        }
        Some((commit.tree, commit.date))
    }

    /// The same for an object that must be a commit.
    pub(crate) fn must(&mut self, source: &mut Source<'_>, number: u32) -> Result<u32> {
        self.must_as(source, number, false)
    }

    /// The same for a commit whose tree will be asked for.
    pub(crate) fn must_with_tree(&mut self, source: &mut Source<'_>, number: u32) -> Result<u32> {
        self.must_as(source, number, true)
    }

    fn must_as(&mut self, source: &mut Source<'_>, number: u32, with_tree: bool) -> Result<u32> {
        self.load_as(source, number, with_tree)?
            .ok_or_else(|| Error::CorruptObject(source.space.id(number), "not the commit that it should be"))
    }

    /// The number of a commit's tree; `None` if that is not here.
    pub(crate) fn tree(&mut self, source: &mut Source<'_>, at: u32) -> Result<Option<u32>> {
        let node = *self.node(at);
        if node.tree_known {
            return Ok(Some(node.tree).filter(|tree| *tree != NO_OBJECT));
        }
        let mut again = Commits::default();
        let found = again.must_with_tree(source, node.number)?;
        let tree = again.node(found).tree;
        (self.node_mut(at).tree, self.node_mut(at).tree_known) = (tree, true);
        Ok(Some(tree).filter(|tree| *tree != NO_OBJECT))
    }

    pub(crate) fn node(&self, at: u32) -> &Node {
        &self.nodes[at as usize]
    }

    pub(crate) fn node_mut(&mut self, at: u32) -> &mut Node {
        &mut self.nodes[at as usize]
    }

    /// The numbers of a commit's parents; [`NO_OBJECT`] for those that are not here.
    pub(crate) fn parents(&self, at: u32) -> &[u32] {
        let node = self.node(at);
        let first = node.first_parent as usize;
        &self.parents[first..first + node.parent_count as usize]
    }

    /// The commit with this number, if it was read.
    pub(crate) fn find(&self, number: u32) -> Option<u32> {
        self.by_number.get(&number).copied()
    }

    /// Makes the walk's marks free for the next one.
    pub(crate) fn forget_flags(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.flags = 0);
    }

    pub(crate) fn len(&self) -> u32 {
        self.nodes.len() as u32
    }
}

/// The error for a parent or tree that is not here: reads the commit again for its name.
pub(crate) fn missing_below(source: &mut Source<'_>, commit: u32) -> Error {
    let hash = source.space.store().hash();
    let object = match source.read(commit) {
        Ok(object) => object,
        Err(e) => return e,
    };
    let Ok(parsed) = Commit::parse(&object.data, hash) else {
        return Error::Missing(source.space.id(commit));
    };
    let tree = parsed.tree();
    let mut needed = std::iter::once(tree).chain(parsed.parents());
    let lost = needed.find(|id| !source.space.store().contains(id));
    Error::Missing(lost.unwrap_or(tree))
}
