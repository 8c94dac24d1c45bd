//! Wants and haves answered by bitmaps, with a walk for what they do not cover.
//!
//! A fetch that brings few objects only takes the client's side from them, and walks its own: that
//! yields the paths, by which good bases for deltas are found. A clone, or a fetch of much, is the
//! difference of two sets.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use libgit::ObjectKind;

use super::PackOptions;
use super::bits::{Bits, bits_of};
use super::commits::{Commits, Source, missing_below};
use super::plan::{Edge, Plan, name_hash};
use super::progress::Progress;
use super::pseudo_pack::PseudoPack;
use super::reach::ReachRequest;
use super::space::{First, NO_OBJECT};
use super::walk::Recent;
use crate::bitmap::{Bitmap, Expanded};
use crate::checked::Seal;
use crate::dir::{Dir, Map};
use crate::error::{Error, Result};
use crate::id::FastState;
use crate::object::TreeEntries;
use crate::pack_index::PackIndex;
use crate::repository::Repository;
use crate::store::Store;

/// Up to this many new commits are walked for their paths, if the client has something to build
/// upon.
const FEW: u32 = 16_000;
/// Above this many objects no bases are looked for among what the client has.
const MANY: u64 = 100_000;
/// How many versions of a path that the client has are noted.
const VERSIONS: u8 = 4;

/// The bitmap of a pack or of a multi-pack index.
#[derive(Debug)]
pub(crate) struct PackBitmap {
    /// The file's name.
    pub(crate) name: String,
    pub(crate) bitmap: Bitmap<Map>,
    /// The objects that its bits count: their numbers are from 0 on.
    pub(crate) numbers: First,
}

/// What bitmaps could say.
pub(crate) enum BitmapAnswer {
    /// The whole plan, but for paths.
    Everything(Plan),
    /// Only what the client has: the rest is better walked.
    Client(Bits),
}

impl PackBitmap {
    /// The bitmap of a multi-pack index, or of the largest pack that has one. A file
    /// with a fault is noted and passed over.
    pub(crate) fn find(repository: &Repository, log: &mut Vec<String>) -> Option<PackBitmap> {
        let store = repository.store();
        let dirs = store.object_dirs().map(|dir| dir.open_dir(b"pack").ok().flatten());
        let dirs: Vec<Option<Dir>> = dirs.collect();
        for (number, dir) in dirs.iter().enumerate() {
            let Some(dir) = dir else { continue };
            let Some((midx, _)) = store.multi_pack_index(number) else { continue };
            let stem = format!("multi-pack-index-{}", hex(midx.checksum()));
            let name = format!("{stem}.bitmap");
            let parsed = match dir.map(name.as_bytes()) {
                Ok(None) => continue,
                Ok(Some(map)) => parse(store, map, midx.count(), midx.checksum()).and_then(|bitmap| {
                    let rev = dir.map(format!("{stem}.rev").as_bytes()).ok().flatten();
                    Ok((bitmap, PseudoPack::of(store, number, rev)?))
                }),
                Err(e) => Err(e.to_string()),
            };
            match parsed {
                Ok((bitmap, packs)) => {
                    return Some(PackBitmap { name, bitmap, numbers: First::Packs(Arc::new(packs)) });
                }
                Err(why) => log.push(format!("{name}: ignored: {why}")),
            }
        }
        let mut packs: Vec<(u32, u16, Vec<u8>)> = store.packs_with_bitmaps().collect();
        // The largest first, and the repository's own before those that it borrows.
        let count = |number: u32| store.index(number).map_or(0, PackIndex::count);
        packs.sort_by_key(|(number, dir, _)| (*dir, Reverse(count(*number))));
        for (number, dir, file) in packs {
            let Some(dir) = dirs.get(usize::from(dir)).and_then(Option::as_ref) else { continue };
            let Some(pack) = store.pack(number) else { continue };
            let name = format!("{}.bitmap", pack.name());
            let parsed = match dir.map(&file) {
                Ok(None) => continue,
                Ok(Some(map)) => parse(store, map, pack.count(), pack.trailer()),
                Err(e) => Err(e.to_string()),
            };
            match parsed {
                Ok(bitmap) => return Some(PackBitmap { name, bitmap, numbers: First::Pack(number) }),
                Err(why) => log.push(format!("{name}: ignored: {why}")),
            }
        }
        None
    }

    /// The position of an object's set in the bitmap's file.
    fn index_of(&self, source: &Source<'_>, number: u32) -> Option<u32> {
        let store = source.space.store();
        match &self.numbers {
            First::None => None,
            First::Pack(pack) => store.pack(*pack)?.index_of_position(number),
            First::Packs(packs) => packs.index_at(store, number),
        }
    }

    /// Adds what the search for deltas needs to a plan that no walk made: hashes of paths, and
    /// versions of the same paths that the client has.
    pub(crate) fn complete(
        &self,
        source: &Source<'_>,
        plan: &mut Plan,
        options: &PackOptions,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        if plan.walked || !self.bitmap.has_name_hashes() {
            return Ok(());
        }
        let count = self.bitmap.objects();
        let mut sent: HashSet<u32, FastState> = HashSet::default();
        let few = plan.wanted.count() <= MANY;
        for number in plan.wanted.between(0, count).collect::<Vec<_>>() {
            if let Some(index) = self.index_of(source, number) {
                let name = self.bitmap.name_hash(index);
                plan.set_name(number, name);
                if few && name != 0 {
                    sent.insert(name);
                }
            }
        }
        if !options.thin || plan.client.count() == 0 || sent.is_empty() {
            return Ok(());
        }
        let (Some(trees), Some(blobs)) =
            (self.bitmap.of_kind(ObjectKind::Tree), self.bitmap.of_kind(ObjectKind::Blob))
        else {
            return Ok(());
        };
        let mut versions: HashMap<(u32, ObjectKind), u8, FastState> = HashMap::default();
        for (kind, all) in [(ObjectKind::Tree, trees), (ObjectKind::Blob, blobs)] {
            let mut had = all;
            for (word, client) in had.iter_mut().zip(plan.client.words()) {
                *word &= client;
            }
            for number in bits_of(&had) {
                progress.step(0)?;
                let Some(index) = self.index_of(source, number) else { continue };
                let name = self.bitmap.name_hash(index);
                if sent.contains(&name) {
                    let seen = versions.entry((name, kind)).or_default();
                    if *seen < VERSIONS {
                        *seen += 1;
                        plan.edges.push(Edge { number, kind, name });
                    }
                }
            }
        }
        Ok(())
    }
}

/// Opens a bitmap's bytes, and checks them unless that was done before.
fn parse(store: &Store, map: Map, objects: u32, checksum: &[u8]) -> std::result::Result<Bitmap<Map>, String> {
    let seal = Seal::of("bitmap", &[&map]);
    let checked = store.checked();
    let bitmap = Bitmap::parse(map, store.hash(), objects, checksum, checked.knows(seal));
    if bitmap.is_ok() {
        checked.is_right(seal);
    }
    bitmap.map_err(|e| e.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Answers a request as far as bitmaps can; `None` if they turn out damaged.
pub(crate) fn reach(
    source: &mut Source<'_>,
    bitmap: &PackBitmap,
    request: &ReachRequest<'_>,
    progress: &mut Progress<'_>,
) -> Result<Option<BitmapAnswer>> {
    let mut walker = Walker { bitmap, expanded: Expanded::default(), names: Vec::new() };
    let mut client = Bits::with_room(source.space.count());
    if !request.haves.is_empty() && !walker.reach(source, request.haves, None, &mut client, progress)? {
        return Ok(None);
    }
    if !request.haves.is_empty() && few(source, request, &client, progress)? {
        return Ok(Some(BitmapAnswer::Client(client)));
    }
    walker.names.clear();
    let mut wanted = Bits::with_room(source.space.count());
    if !walker.reach(source, request.wants, Some(&client), &mut wanted, progress)? {
        return Ok(None);
    }
    wanted.subtract(client.words());
    if let Some(filter) = request.filter {
        let mut named = Bits::default();
        for want in request.wants {
            let (tags, target) = source.peel(*want)?;
            for number in tags.into_iter().chain(target.map(|(number, _)| number)) {
                if wanted.get(number) {
                    named.set(number);
                }
            }
            // A client that filters may lack objects that its haves imply, and asks for them in
            // this way.
            if let Some((number, ObjectKind::Tree | ObjectKind::Blob)) = target {
                named.set(number);
            }
        }
        for kind in [ObjectKind::Commit, ObjectKind::Tree, ObjectKind::Blob, ObjectKind::Tag] {
            if !filter.passes_kind(kind) {
                let Some(all) = bitmap.bitmap.of_kind(kind) else { return Ok(None) };
                wanted.subtract(&all);
            }
        }
        let objects = bitmap.bitmap.objects();
        for number in wanted.iter().filter(|number| *number >= objects).collect::<Vec<_>>() {
            if !filter.passes_kind(source.kind(number)?) {
                wanted.clear(number);
            }
        }
        wanted.or(named.words());
    }
    progress.step(wanted.count())?;
    let mut plan = Plan { wanted, client, ..Plan::default() };
    for (number, name) in walker.names {
        plan.set_name(number, name);
    }
    Ok(Some(BitmapAnswer::Everything(plan)))
}

/// Whether so few commits are new that walking their trees is cheap.
fn few(
    source: &mut Source<'_>,
    request: &ReachRequest<'_>,
    client: &Bits,
    progress: &mut Progress<'_>,
) -> Result<bool> {
    let mut commits = Commits::default();
    let mut seen = Bits::default();
    let mut stack = request.wants.to_vec();
    let mut count = 0;
    while let Some(number) = stack.pop() {
        if client.get(number) || !seen.set(number) {
            continue;
        }
        progress.step(0)?;
        count += 1;
        if count > FEW {
            return Ok(false);
        }
        if let Some(at) = commits.load(source, number)? {
            stack.extend(commits.parents(at).iter().filter(|parent| **parent != NO_OBJECT));
        } else {
            stack.extend(
                source.peel(number)?.1.filter(|(target, _)| *target != number).map(|(target, _)| target),
            );
        }
    }
    Ok(true)
}

struct Walker<'b> {
    bitmap: &'b PackBitmap,
    expanded: Expanded,
    /// Hashes of the paths of walked objects.
    names: Vec<(u32, u32)>,
}

impl Walker<'_> {
    /// Adds to `set` what can be reached from the tips and is not in `stop`, which must be closed
    /// under reachability. False if a bitmap is damaged; `set` is of no use then.
    fn reach(
        &mut self,
        source: &mut Source<'_>,
        tips: &[u32],
        stop: Option<&Bits>,
        set: &mut Bits,
        progress: &mut Progress<'_>,
    ) -> Result<bool> {
        // Bitmaps that count a tag count its target, too: once all targets are reached, no tag need
        // be read. A clone may want thousands of tags.
        let counted = self.bitmap.bitmap.objects();
        let (mut tags, mut others) = (Vec::new(), Vec::new());
        for tip in tips {
            let waits = stop.is_some() && *tip < counted && source.kind(*tip)? == ObjectKind::Tag;
            if waits { &mut tags } else { &mut others }.push(*tip);
        }
        if !self.reach_from(source, &others, stop, set, progress)? {
            return Ok(false);
        }
        for tag in &tags {
            set.set(*tag);
        }
        Ok(set.count_below(counted) == counted || self.reach_from(source, &tags, stop, set, progress)?)
    }

    /// The same, tip by tip.
    fn reach_from(
        &mut self,
        source: &mut Source<'_>,
        tips: &[u32],
        stop: Option<&Bits>,
        set: &mut Bits,
        progress: &mut Progress<'_>,
    ) -> Result<bool> {
        // As a client's side may be incomplete here, its damage is no error.
        let lenient = stop.is_none();
        let stopped = |number: u32| stop.is_some_and(|stop| stop.get(number));
        let mut commits = Commits::default();
        let mut queue: BinaryHeap<(u64, u32)> = BinaryHeap::new();
        let mut trees = Vec::new();
        let mut rest = Vec::new();
        for tip in tips {
            progress.step(0)?;
            let (tags, target) = source.peel(*tip)?;
            for tag in &tags {
                set.set(*tag);
            }
            match target {
                // Bitmaps of tips first: they swallow most of the other tips.
                Some((number, ObjectKind::Commit)) if self.bitmap_of(source, number).is_some() => {
                    if !set.get(number) && !stopped(number) && !self.merge(source, number, set) {
                        return Ok(false);
                    }
                }
                Some((number, ObjectKind::Commit)) => rest.push(number),
                Some((number, ObjectKind::Tree)) => trees.push(number),
                Some((number, _)) => {
                    set.set(number);
                }
                None if lenient => {}
                None => return Err(Error::Missing(source.space.id(*tip))),
            }
        }
        let mut seen = Bits::default();
        for number in rest {
            if !set.get(number) && !stopped(number) && seen.set(number) {
                let at = commits.must(source, number)?;
                queue.push((commits.node(at).seconds, at));
            }
        }
        while let Some((_, at)) = queue.pop() {
            progress.step(0)?;
            let node = *commits.node(at);
            if set.get(node.number) || stopped(node.number) {
                continue;
            }
            if self.bitmap_of(source, node.number).is_some() {
                if !self.merge(source, node.number, set) {
                    return Ok(false);
                }
                continue;
            }
            set.set(node.number);
            match commits.tree(source, at)? {
                Some(tree) => trees.push(tree),
                None if lenient => {}
                None => return Err(missing_below(source, node.number)),
            }
            for slot in 0..commits.parents(at).len() {
                let parent = commits.parents(at)[slot];
                if parent == NO_OBJECT {
                    if lenient {
                        continue;
                    }
                    return Err(missing_below(source, node.number));
                }
                if seen.set(parent) && !set.get(parent) && !stopped(parent) {
                    let parent = commits.must(source, parent)?;
                    queue.push((commits.node(parent).seconds, parent));
                }
            }
        }
        self.trees(source, trees, lenient, &stopped, set, progress)?;
        Ok(true)
    }

    /// The bitmap entry of a commit.
    fn bitmap_of(&self, source: &Source<'_>, number: u32) -> Option<u32> {
        if number >= self.bitmap.bitmap.objects() {
            return None;
        }
        self.bitmap.bitmap.entry_of(self.bitmap.index_of(source, number)?)
    }

    fn merge(&mut self, source: &Source<'_>, number: u32, set: &mut Bits) -> bool {
        let Some(entry) = self.bitmap_of(source, number) else { return false };
        match self.bitmap.bitmap.expand(entry, number, &mut self.expanded) {
            Some(words) => {
                set.or(&words);
                true
            }
            None => false,
        }
    }

    fn trees(
        &mut self,
        source: &mut Source<'_>,
        roots: Vec<u32>,
        lenient: bool,
        stopped: &dyn Fn(u32) -> bool,
        set: &mut Bits,
        progress: &mut Progress<'_>,
    ) -> Result<()> {
        let hash = source.space.store().hash();
        let mut recent = Recent::of_trees(roots.len());
        let mut stack: Vec<(u32, u32)> = roots.into_iter().rev().map(|root| (root, 0)).collect();
        while let Some((tree, name)) = stack.pop() {
            if stopped(tree) || !set.set(tree) {
                continue;
            }
            progress.step(0)?;
            self.note(tree, name);
            let object = match source.read(tree) {
                Ok(object) => object,
                Err(_) if lenient => continue,
                Err(e) => return Err(e),
            };
            if object.kind != ObjectKind::Tree {
                return Err(Error::CorruptObject(source.space.id(tree), "not the tree that it should be"));
            }
            let prefix = if name == 0 { 0 } else { name_hash(name, b"/") };
            for entry in TreeEntries::new(&object.data, hash) {
                let entry = entry.map_err(|e| Error::CorruptObject(source.space.id(tree), e.0))?;
                if entry.is_submodule() || recent.seen(entry.id_bytes) {
                    continue;
                }
                let id = entry.id();
                let number = match source.space.number(&id) {
                    Some(number) => number,
                    None if lenient => continue,
                    None => return Err(Error::Missing(id)),
                };
                if stopped(number) || set.get(number) {
                    continue;
                }
                let name = name_hash(prefix, entry.name);
                if entry.is_tree() {
                    stack.push((number, name));
                } else {
                    set.set(number);
                    self.note(number, name);
                }
            }
        }
        Ok(())
    }

    /// Objects of the pack have their path's hash in the bitmap file.
    fn note(&mut self, number: u32, name: u32) {
        if number >= self.bitmap.bitmap.objects() && name != 0 {
            self.names.push((number, name));
        }
    }
}
