//! Finds by walking which objects a client lacks. First it walks commits by date from both sides,
//! until only commits that the client has are left. Then it compares the trees of the new commits,
//! path by path, with those of the nearest commits that the client has.
//!
//! As in C git the result may hold a few objects more than are missing (an old version that came
//! back, a copy of a file in a directory that did not change): only trees at the border are
//! compared, and in them only directories with something new. A client never gets objects that C
//! git would not send, except where C git reads all trees of a shallow client's commits, which
//! costs more than it saves.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use libgit::{Filter, ObjectKind};

use super::bits::Bits;
use super::commits::{Commits, Node, Source, missing_below};
use super::full;
use super::plan::{Edge, Plan, name_hash};
use super::progress::Progress;
use super::space::NO_OBJECT;
use crate::error::{Error, Result};
use crate::id::{FastState, IdSet};
use crate::object::{TreeEntries, TreeEntry};

/// A commit that the client wants.
const WANT: u8 = 1;
/// A commit that the client has.
const HAVE: u8 = 2;
/// In the queue, or was.
const SEEN: u8 = 4;
/// Taken from the queue.
const DONE: u8 = 8;

/// How many commits that the client has are read after the last commit that it lacks, in case the
/// dates lie. C git reads five.
const SLOP: u32 = 32;

/// How many trees are read once more because they lie at another path, too, where the client has
/// something else. A tree of trees that are all the same has more paths than anybody can walk.
const AGAIN: u32 = 10_000;

/// How many commits that seemed to be new are compared with those that are.
const MOST_TAKEN_BACK: usize = 256;

/// From this many new commits on, helpers are worth starting.
const THREADED: usize = 64;

/// What a walk starts from, in object numbers.
pub(crate) struct WalkRequest<'a> {
    /// What the client wants: objects of any kind.
    pub(crate) wants: &'a [u32],
    /// What the client has: objects of any kind.
    pub(crate) haves: &'a [u32],
    /// Commits without parents for the client: its shallow boundary, old and new, and the
    /// repository's own.
    pub(crate) cut: &'a Bits,
    /// What the client can do without.
    pub(crate) filter: Option<&'a Filter>,
    /// Whether the trees of all haves count, not only of those at the border (shallow clients).
    pub(crate) all_edges: bool,
    /// How many threads may work.
    pub(crate) threads: usize,
    /// Bytes of cache for each thread.
    pub(crate) cache_bytes: usize,
    /// All objects of the client, where bitmaps tell them; else empty.
    pub(crate) client: Bits,
}

/// Walks. `plan` may hold objects already; they stay.
pub(crate) fn walk(
    source: &mut Source<'_>,
    mut request: WalkRequest<'_>,
    progress: &mut Progress<'_>,
) -> Result<Plan> {
    let client = std::mem::take(&mut request.client);
    let request = &request;
    let mut walk = Walk {
        commits: Commits::default(),
        plan: Plan::default(),
        filter: request.filter,
        depths: HashMap::default(),
        named: Bits::default(),
        named_content: Bits::default(),
        complete: false,
        edge_trees: Bits::default(),
        had: IdSet::default(),
        again: AGAIN,
    };
    walk.plan.wanted = Bits::with_room(source.space.count());
    // The trees of the border must still be read, for what lies at which path.
    walk.complete = client.count() > 0;
    walk.plan.client = if walk.complete { client } else { Bits::with_room(source.space.count()) };
    let mut roots = Roots::default();
    let haves = walk.take_haves(source, request.haves, &mut roots)?;
    let wants = walk.take_wants(source, request.wants, &mut roots)?;
    let known = walk.complete.then_some(&walk.plan.client);
    let limits = Painting { cut: request.cut, since: None, known };
    let (new, taken_back) =
        paint(&mut walk.commits, source, &wants, &haves, &limits, &mut |n| progress.step(n))?;
    let edges = walk.border(request, &new, &haves, &taken_back);
    for at in new {
        let node = *walk.commits.node(at);
        if request.filter.is_none_or(|f| f.passes_kind(ObjectKind::Commit)) || walk.named.get(node.number) {
            walk.want(node.number, 0);
        }
        progress.step(1)?;
        match walk.commits.tree(source, at)? {
            Some(tree) => roots.wanted.push(tree),
            None if walk.leaves_out(source, ObjectKind::Tree, 0) => {}
            None => return Err(missing_below(source, node.number)),
        }
    }
    for at in edges {
        // The client's object may be damaged or gone here: then it is no help, and no harm.
        roots.client.extend(walk.commits.tree(source, at).ok().flatten());
    }
    let plain = request.filter.is_none() && roots.client.is_empty() && !walk.complete;
    if plain && request.threads > 1 && roots.wanted.len() > THREADED {
        full::trees(source, &mut walk.plan, roots.wanted, request.threads, request.cache_bytes, progress)?;
    } else {
        walk.trees(source, roots, progress)?;
        walk.forget_had(source, progress)?;
    }
    let mut plan = walk.plan;
    plan.walked = true;
    plan.wanted.subtract(plan.client.words());
    if request.filter.is_some() {
        plan.wanted.or(walk.named_content.words());
    }
    Ok(plan)
}

/// What bounds a walk over commits.
pub(super) struct Painting<'a> {
    /// Commits whose parents are not followed.
    pub(super) cut: &'a Bits,
    /// Commits older than this (seconds since 1970) count as had.
    pub(super) since: Option<u64>,
    /// All that the client has, if that is known.
    pub(super) known: Option<&'a Bits>,
}

impl Painting<'_> {
    fn has(&self, node: &Node) -> bool {
        self.since.is_some_and(|since| node.seconds < since)
            || self.known.is_some_and(|known| known.get(node.number))
    }
}

/// The commits that can be reached from `wants` and not from `haves`, newest first. May include
/// commits that the client has: skewed dates can make that known only after they were given.
/// Afterwards `commits` holds all commits that were looked at; `step` is called for each.
pub(super) fn paint(
    commits: &mut Commits,
    source: &mut Source<'_>,
    wants: &[u32],
    haves: &[u32],
    limits: &Painting<'_>,
    step: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<(Vec<u32>, Vec<u32>)> {
    let cut = limits.cut;
    let mut queue: BinaryHeap<(u64, Reverse<u32>)> = BinaryHeap::new();
    // How many in the queue the client lacks.
    let mut open = 0u64;
    for (list, flag) in [(haves, HAVE), (wants, WANT)] {
        for number in list {
            let at = if flag == WANT {
                commits.must_with_tree(source, *number)?
            } else {
                commits.must(source, *number)?
            };
            let node = commits.node_mut(at);
            let flag = if limits.has(node) { HAVE } else { flag };
            // Where all objects of the client are known, none of them need be walked.
            let queued = flag == WANT || limits.known.is_none();
            if node.flags & SEEN == 0 && queued {
                queue.push((node.seconds, Reverse(at)));
                open += u64::from(flag == WANT);
            }
            node.flags |= flag | SEEN;
        }
    }
    // Commits that the client has, known before they were met.
    let mut ahead = Bits::default();
    let mut new = Vec::new();
    let mut oldest = None;
    let mut slop = SLOP;
    while let Some((seconds, Reverse(at))) = queue.pop() {
        step(0)?;
        let node = *commits.node(at);
        let has = node.flags & HAVE != 0;
        commits.node_mut(at).flags |= DONE;
        if !has {
            open -= 1;
            oldest = Some(seconds);
            new.push(at);
        }
        let parents = if cut.get(node.number) { 0 } else { commits.parents(at).len() };
        for slot in 0..parents {
            let parent = commits.parents(at)[slot];
            if parent == NO_OBJECT {
                // Of a commit that the client has, the history may well be gone here.
                if has {
                    continue;
                }
                return Err(missing_below(source, node.number));
            }
            let parent = if has {
                let Ok(parent) = commits.must(source, parent) else { continue };
                open -= mark_had(commits, cut, parent);
                // A parent with a date far too old waits in the queue until too late: its own
                // parents are marked now.
                let known = commits.node(parent).number;
                let above = if cut.get(known) { 0 } else { commits.parents(parent).len() };
                for slot in 0..above {
                    let number = commits.parents(parent)[slot];
                    match commits.find(number).filter(|at| commits.node(*at).flags & SEEN != 0) {
                        Some(at) => open -= mark_had(commits, cut, at),
                        None if number != NO_OBJECT => drop(ahead.set(number)),
                        None => {}
                    }
                }
                parent
            } else {
                commits.must_with_tree(source, parent)?
            };
            let node = commits.node_mut(parent);
            if node.flags & SEEN == 0 {
                let had = has || limits.has(node) || ahead.get(node.number);
                node.flags |= SEEN | if had { HAVE } else { WANT };
                if !had || limits.known.is_none() {
                    queue.push((node.seconds, Reverse(parent)));
                    open += u64::from(!had);
                }
            }
        }
        // With only what the client has left: look a little further, dates may lie.
        let Some(oldest) = oldest.or((open > 0).then_some(0)) else { break };
        if open > 0 || queue.peek().is_some_and(|(next, _)| oldest <= *next) {
            slop = SLOP;
        } else if slop == 0 {
            break;
        } else {
            slop -= 1;
        }
    }
    let had = |at: &u32| commits.node(*at).flags & HAVE != 0;
    let taken_back = new.iter().copied().filter(had).take(MOST_TAKEN_BACK).collect();
    new.retain(|at| !had(at));
    Ok((new, taken_back))
}

/// The client has this commit, and so its ancestors among those already looked at. Returns how many
/// of them were in the queue as lacking.
fn mark_had(commits: &mut Commits, cut: &Bits, at: u32) -> u64 {
    let mut closed = 0;
    let mut stack = vec![at];
    while let Some(at) = stack.pop() {
        let node = commits.node_mut(at);
        if node.flags & HAVE != 0 || node.flags & SEEN == 0 {
            continue;
        }
        node.flags |= HAVE;
        let node = *node;
        if node.flags & DONE == 0 {
            closed += 1;
        } else if !cut.get(node.number) {
            let parents = commits.parents(at).to_vec();
            stack.extend(parents.into_iter().filter_map(|parent| commits.find(parent)));
        }
    }
    closed
}

/// Trees to begin with.
#[derive(Default)]
struct Roots {
    wanted: Vec<u32>,
    client: Vec<u32>,
}

struct Walk<'a> {
    commits: Commits,
    plan: Plan,
    filter: Option<&'a Filter>,
    /// The least depth at which a tree was read, where a filter asks for depths.
    depths: HashMap<u32, i64, FastState>,
    /// Asked for by name, and so sent whatever the filter says.
    named: Bits,
    /// The trees and blobs among the wants. A client that filters may lack objects that its haves
    /// imply, and asks for them in this way.
    named_content: Bits,
    /// Whether `plan.client` was complete from the start.
    complete: bool,
    /// Trees of the client's that are or will be read.
    edge_trees: Bits,
    /// The entries of the client's trees that were read.
    had: IdSet,
    /// How many trees may still be read once more.
    again: u32,
}

/// All versions of one directory.
struct Directory {
    /// Hash of its path.
    name: u32,
    /// Hash of its path with the slash, from which its entries' go on.
    prefix: u32,
    depth: i64,
    wanted: Vec<u32>,
    client: Vec<u32>,
}

impl Directory {
    fn new(name: u32, prefix: u32, depth: i64) -> Directory {
        Directory { name, prefix, depth, wanted: Vec::new(), client: Vec::new() }
    }
}

impl Walk<'_> {
    fn want(&mut self, number: u32, name: u32) -> bool {
        let new = self.plan.wanted.set(number);
        if new && name != 0 {
            self.plan.set_name(number, name);
        }
        new
    }

    /// A tree that the client named, with all that is below it: which path it belongs to is not
    /// known.
    fn take_whole(&mut self, source: &mut Source<'_>, tree: u32) {
        let hash = source.space.store().hash();
        let mut stack = vec![tree];
        while let Some(tree) = stack.pop() {
            if !self.plan.client.set(tree) {
                continue;
            }
            let Ok(object) = source.read(tree) else { continue };
            for entry in TreeEntries::new(&object.data, hash).map_while(std::result::Result::ok) {
                match source.space.number(&entry.id()) {
                    Some(number) if entry.is_tree() => stack.push(number),
                    Some(number) if !entry.is_submodule() => {
                        self.plan.client.set(number);
                    }
                    _ => {}
                }
            }
        }
    }

    /// Sorts the haves: commits are returned, trees become roots, blobs and tags are marked.
    fn take_haves(&mut self, source: &mut Source<'_>, haves: &[u32], roots: &mut Roots) -> Result<Vec<u32>> {
        let mut commits = Vec::new();
        for have in haves {
            let (tags, target) = source.peel(*have)?;
            for tag in tags {
                self.plan.client.set(tag);
            }
            match target {
                Some((number, ObjectKind::Commit)) => commits.push(number),
                Some((number, ObjectKind::Tree)) => {
                    self.take_whole(source, number);
                    roots.client.push(number);
                }
                Some((number, _)) => {
                    self.plan.client.set(number);
                }
                None => {}
            }
        }
        Ok(commits)
    }

    fn take_wants(&mut self, source: &mut Source<'_>, wants: &[u32], roots: &mut Roots) -> Result<Vec<u32>> {
        let mut commits = Vec::new();
        for want in wants {
            // As in git, what a wanted tag names counts as asked for too.
            let (tags, target) = source.peel(*want)?;
            for tag in &tags {
                self.named.set(*tag);
                self.want(*tag, 0);
            }
            match target {
                Some((number, ObjectKind::Commit)) => {
                    self.named.set(number);
                    commits.push(number);
                }
                Some((number, ObjectKind::Tree)) => {
                    self.named.set(number);
                    self.named_content.set(number);
                    roots.wanted.push(number);
                }
                Some((number, _)) => {
                    self.named_content.set(number);
                    self.want(number, 0);
                }
                None => return Err(tag_without_target(source, tags.last().copied().unwrap_or(*want))),
            }
        }
        Ok(commits)
    }

    /// The commits that the client has and that are parents of commits it lacks, followed by
    /// `more`.
    fn border(&mut self, request: &WalkRequest<'_>, new: &[u32], haves: &[u32], more: &[u32]) -> Vec<u32> {
        let mut edges = Vec::new();
        let mut known = Bits::with_room(self.commits.len());
        for at in new {
            let node = *self.commits.node(*at);
            if request.cut.get(node.number) {
                continue;
            }
            for parent in self.commits.parents(*at) {
                if let Some(parent) = self.commits.find(*parent)
                    && self.commits.node(parent).flags & HAVE != 0
                    && known.set(parent)
                {
                    edges.push(parent);
                }
            }
        }
        if request.all_edges {
            for have in haves {
                if let Some(have) = self.commits.find(*have)
                    && known.set(have)
                {
                    edges.push(have);
                }
            }
        }
        edges.extend(more.iter().filter(|at| known.set(**at)));
        for at in 0..self.commits.len() {
            let node = *self.commits.node(at);
            if node.flags & HAVE != 0 {
                self.plan.client.set(node.number);
            }
        }
        edges
    }

    /// Walks all wanted trees, a directory with all its versions at a time: their deltas build upon
    /// each other, so that the reader's cache need hold little else.
    fn trees(&mut self, source: &mut Source<'_>, roots: Roots, progress: &mut Progress<'_>) -> Result<()> {
        let mut top = Directory::new(0, 0, 0);
        for tree in roots.client {
            self.plan.client.set(tree);
            if self.edge_trees.set(tree) {
                top.client.push(tree);
            }
        }
        // As git's manual has it, depth begins with the entries of a tree that was asked for by
        // name.
        let mut asked = Directory::new(0, 0, -1);
        let deep = self.filter.is_some_and(Filter::needs_depth);
        for tree in roots.wanted {
            let by_name = deep && self.named.get(tree);
            self.take_tree(if by_name { &mut asked } else { &mut top }, tree, progress)?;
        }
        let mut stack = vec![top, asked];
        while let Some(directory) = stack.pop() {
            // Where nothing is wanted, it does not matter what the client has.
            if !directory.wanted.is_empty() {
                self.directory(source, directory, &mut stack, progress)?;
            }
        }
        Ok(())
    }

    /// A version of a directory: counted, and noted to be read unless it was.
    fn take_tree(&mut self, directory: &mut Directory, tree: u32, progress: &mut Progress<'_>) -> Result<()> {
        if self.plan.client.get(tree) {
            return Ok(());
        }
        let Some(filter) = self.filter else {
            if self.want(tree, directory.name) {
                progress.step(1)?;
                directory.wanted.push(tree);
            }
            return Ok(());
        };
        let named = self.named.get(tree);
        if named || (filter.passes_kind(ObjectKind::Tree) && filter.passes_depth(directory.depth)) {
            progress.step(u64::from(self.want(tree, directory.name)))?;
        }
        if !filter.reads_tree(directory.depth) {
            return Ok(());
        }
        let depth = if filter.needs_depth() { directory.depth } else { 0 };
        let least = self.depths.entry(tree).or_insert(i64::MAX);
        if depth < *least {
            *least = depth;
            directory.wanted.push(tree);
        }
        Ok(())
    }

    fn directory(
        &mut self,
        source: &mut Source<'_>,
        directory: Directory,
        stack: &mut Vec<Directory>,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let hash = source.space.store().hash();
        let mut below: HashMap<Vec<u8>, usize> = HashMap::new();
        let mut children: Vec<Directory> = Vec::new();
        let depth = directory.depth.saturating_add(1);
        let child = |children: &mut Vec<Directory>, below: &mut HashMap<Vec<u8>, usize>, name: &[u8]| {
            if let Some(at) = below.get(name) {
                return *at;
            }
            let name_of = name_hash(directory.prefix, name);
            below.insert(name.to_vec(), children.len());
            children.push(Directory::new(name_of, name_hash(name_of, b"/"), depth));
            children.len() - 1
        };

        // The client's entries here, by name alone: most of them are unchanged and need not be
        // looked up.
        let mut old = Vec::new();
        let mut had = IdSet::default();
        let mut recent = Recent::new(directory.client.len());
        for tree in &directory.client {
            progress.step(0)?;
            // The client's object may be damaged or gone here: then it is no help, and no harm.
            let Ok(object) = source.read(*tree) else { continue };
            for entry in TreeEntries::new(&object.data, hash) {
                let Ok(entry) = entry else { break };
                if !recent.seen(entry.id_bytes) && !entry.is_submodule() {
                    had.insert(entry.id());
                }
            }
            old.push(object);
        }

        let mut changed: std::collections::HashSet<u32, FastState> = Default::default();
        // Trees that were met at another path before.
        let mut again = Vec::new();
        let mut recent = Recent::new(directory.wanted.len());
        for tree in &directory.wanted {
            let object = source.read(*tree)?;
            if object.kind != ObjectKind::Tree {
                return Err(Error::CorruptObject(source.space.id(*tree), "not the tree that it should be"));
            }
            for entry in TreeEntries::new(&object.data, hash) {
                let entry = entry.map_err(|e| Error::CorruptObject(source.space.id(*tree), e.0))?;
                if entry.is_submodule() {
                    continue;
                }
                if recent.seen_at(entry.id_bytes, entry.name) {
                    continue;
                }
                let id = entry.id();
                if had.contains(&id) {
                    continue;
                }
                let number = match source.space.number(&id) {
                    Some(number) => number,
                    None if self.leaves_out(source, entry_kind(&entry), depth) => continue,
                    None => return Err(Error::Missing(id)),
                };
                if self.had.contains(&id) || self.plan.client.get(number) {
                    // From somewhere else: here it is one more version to compare with.
                    if entry.is_tree() && !self.complete && (self.edge_trees.set(number) || self.once_more())
                    {
                        let at = child(&mut children, &mut below, entry.name);
                        children[at].client.push(number);
                    }
                    continue;
                }
                if entry.is_tree() {
                    let at = child(&mut children, &mut below, entry.name);
                    let before = children[at].wanted.len();
                    self.take_tree(&mut children[at], number, progress)?;
                    if children[at].wanted.len() > before {
                        changed.insert(children[at].name);
                    } else if self.filter.is_none_or(|f| f.reads_tree(depth)) && !directory.client.is_empty()
                    {
                        changed.insert(children[at].name);
                        again.push((at, number));
                    }
                    continue;
                }
                if let Some(filter) = self.filter
                    && !self.blob_passes(source, filter, number, depth)?
                {
                    continue;
                }
                let name = name_hash(directory.prefix, entry.name);
                if self.want(number, name) {
                    progress.step(1)?;
                    changed.insert(name);
                }
            }
        }
        let mut met = Recent::new(directory.client.len());
        for object in &old {
            for entry in TreeEntries::new(&object.data, hash) {
                let Ok(entry) = entry else { break };
                if entry.is_submodule() || met.seen_at(entry.id_bytes, entry.name) {
                    continue;
                }
                let name = name_hash(directory.prefix, entry.name);
                let changes = changed.contains(&name);
                // An unchanged entry is no base for anything; an entry that changed or went away
                // may turn up elsewhere.
                if !changes && recent.has(entry.id_bytes) {
                    continue;
                }
                let Some(number) = source.space.number(&entry.id()) else { continue };
                self.plan.client.set(number);
                if changes {
                    let kind = if entry.is_tree() { ObjectKind::Tree } else { ObjectKind::Blob };
                    self.plan.edges.push(Edge { number, kind, name });
                }
                if entry.is_tree()
                    && let Some(at) = below.get(entry.name)
                    && (self.edge_trees.set(number) || self.once_more())
                {
                    children[*at].client.push(number);
                }
            }
        }
        self.had.extend(had);
        for (at, number) in again {
            if !children[at].client.is_empty() && self.once_more() {
                children[at].wanted.push(number);
            }
        }
        // A subtree is noted with its parent directory; a root tree has none.
        for tree in directory.client.iter().filter(|_| directory.depth == 0) {
            self.plan.edges.push(Edge { number: *tree, kind: ObjectKind::Tree, name: directory.name });
        }
        stack.append(&mut children);
        Ok(())
    }

    fn once_more(&mut self) -> bool {
        let may = self.again > 0;
        self.again -= u32::from(may);
        may
    }

    /// Takes back what turned out to be somewhere else in the client's trees: files and directories
    /// that were moved or copied to a place that was read before the one where they lay.
    fn forget_had(&mut self, source: &mut Source<'_>, progress: &mut Progress<'_>) -> Result<()> {
        if self.had.is_empty() || self.complete {
            return Ok(());
        }
        let hash = source.space.store().hash();
        let mut seen = Bits::default();
        let known = |n: &u32| self.plan.client.get(*n) || self.had.contains(&source.space.id(*n));
        // With a filter trees are read that are not sent themselves.
        let read = self.depths.keys().copied();
        let mut stack: Vec<u32> = self.plan.wanted.iter().chain(read).filter(known).collect();
        // A client that has the same tree with another depth need not have the entries below it.
        let deep = self.filter.is_some_and(Filter::needs_depth);
        while let Some(number) = stack.pop() {
            progress.step(0)?;
            if !seen.set(number) {
                continue;
            }
            self.plan.client.set(number);
            if deep || source.kind(number)? != ObjectKind::Tree {
                continue;
            }
            let object = source.read(number)?;
            for entry in TreeEntries::new(&object.data, hash).map_while(std::result::Result::ok) {
                let below = source.space.number(&entry.id()).filter(|_| !entry.is_submodule());
                let met = |n: &u32| self.plan.wanted.get(*n) || self.depths.contains_key(n);
                stack.extend(below.filter(met));
            }
        }
        Ok(())
    }

    /// Whether the filter leaves out an object that is not here, so that nobody need look for it: a
    /// repository that is a partial clone itself lacks what its own filter leaves out. The size of
    /// such a blob is not known; a client with a filter of that kind can ask for it later.
    fn leaves_out(&self, source: &Source<'_>, kind: ObjectKind, depth: i64) -> bool {
        let Some(filter) = self.filter else { return false };
        let passes = filter.passes_kind(kind) && filter.passes_depth(depth);
        match kind {
            ObjectKind::Tree => !passes && !filter.reads_tree(depth),
            _ => !passes || filter.needs_size() && source.space.store().is_partial(),
        }
    }

    fn blob_passes(&self, source: &mut Source<'_>, filter: &Filter, number: u32, depth: i64) -> Result<bool> {
        if self.named.get(number) || self.plan.wanted.get(number) {
            return Ok(true);
        }
        if !filter.passes_kind(ObjectKind::Blob) || !filter.passes_depth(depth) {
            return Ok(false);
        }
        Ok(!filter.needs_size() || filter.passes_size(source.header(number)?.1))
    }
}

fn entry_kind(entry: &TreeEntry<'_>) -> ObjectKind {
    if entry.is_tree() { ObjectKind::Tree } else { ObjectKind::Blob }
}

/// Entries met lately: versions of a directory share most of theirs.
pub(super) struct Recent {
    slots: Vec<[u8; 32]>,
    /// What the name at which an id was met ends with.
    names: Vec<u32>,
}

impl Recent {
    /// For a directory with this many versions.
    pub(super) fn new(versions: usize) -> Recent {
        let size = match versions {
            0 => 0,
            1..=16 => 1 << 9,
            _ => 1 << 12,
        };
        Recent { slots: vec![[0; 32]; size], names: vec![0; size] }
    }

    /// For whole trees, of this many commits, and ids alone.
    pub(super) fn of_trees(commits: usize) -> Recent {
        let size = match commits {
            0 => 0,
            1..=16 => 1 << 9,
            17..=64 => 1 << 12,
            _ => 1 << 15,
        };
        Recent { slots: vec![[0; 32]; size], names: Vec::new() }
    }

    /// Whether this id was met, as far as remembered.
    fn has(&self, id: &[u8]) -> bool {
        let hash = usize::from(id[4]) | usize::from(id[5]) << 8;
        let slot = self.slots.get(hash & self.slots.len().wrapping_sub(1));
        slot.is_some_and(|slot| slot[..id.len()] == *id)
    }

    /// Whether this id was met at this name, as far as remembered; it is then.
    fn seen_at(&mut self, id: &[u8], name: &[u8]) -> bool {
        let end = name.last_chunk::<4>().map_or(0, |end| u32::from_le_bytes(*end)) ^ name.len() as u32;
        let hash = usize::from(id[4]) | usize::from(id[5]) << 8;
        let slot = hash & self.names.len().wrapping_sub(1);
        let met = self.seen(id);
        match self.names.get_mut(slot) {
            Some(last) => std::mem::replace(last, end) == end && met,
            None => false,
        }
    }

    /// Whether this id was met, as far as remembered; it is then.
    pub(super) fn seen(&mut self, id: &[u8]) -> bool {
        let hash = usize::from(id[4]) | usize::from(id[5]) << 8;
        let mask = self.slots.len().wrapping_sub(1);
        let Some(slot) = self.slots.get_mut(hash & mask) else { return false };
        if slot[..id.len()] == *id {
            return true;
        }
        slot[..id.len()].copy_from_slice(id);
        false
    }
}

fn tag_without_target(source: &mut Source<'_>, tag: u32) -> Error {
    let hash = source.space.store().hash();
    match source.read(tag) {
        Ok(object) => match crate::object::Tag::parse(&object.data, hash) {
            Ok(parsed) => Error::Missing(parsed.target()),
            Err(e) => Error::CorruptObject(source.space.id(tag), e.0),
        },
        Err(e) => e,
    }
}
