//! The search for deltas: for objects that nothing on disk makes small.
//!
//! Whatever can be copied from disk is copied, with four exceptions: a delta whose base is not
//! sent, an object in a file of its own, one that is whole in a small pack (as a push leaves it)
//! beside other versions in other packs, and (thin packs) one that is whole on disk, or a delta not
//! much smaller than that, although the client has an older version. For these, objects of the same
//! kind and path are tried as bases: versions that come earlier in this pack, and versions that the
//! client has. Candidates are few, the first good one wins, and the work has a bound: a client that
//! asks for much gets a larger pack, not a busier server.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use flate2::Compress;
use libgit::ObjectKind;

use super::commits::Source;
use super::delta::DeltaIndex;
use super::plan::Plan;
use super::progress::Progress;
use super::space::SMALL;
use super::writer::{Made, MadeDeltas, Part, compressor, deflate_delta, pack_of};
use super::{Means, PackOptions};
use crate::error::Result;
use crate::id::FastState;
use crate::pack::{Entry, EntryKind, Pack};

/// Smaller objects (bytes) are not worth a delta.
const SMALLEST: u64 = 50;
/// Larger objects are not worth the memory.
const LARGEST: u64 = 16 << 20;
/// A delta or object that occupies fewer bytes than this on disk is good enough.
const GOOD_ENOUGH: u64 = 1024;
/// A delta whose base is sent is tried again if it occupies more than this part of its object. In
/// large fetches of git/git, gitoxide and got, trying all of more than a kilobyte doubled the time,
/// and few of the others became smaller.
const SMALL_PART: u64 = 4;
/// How many versions before an object are tried, and how many that the client has.
const WINDOW: usize = 8;
const EDGES: usize = 4;
/// How many times smaller a delta may become by compression: its insertions are mostly text.
const COMPRESSES: u64 = 4;
/// How many deltas made here build upon each other.
const DEEPEST: u8 = 40;
/// How many deltas of small packs build upon each other, each in a pack of its own, until one is
/// made anew; a base that may get a new delta counts as [`DEEPEST`]. Nothing but this bounds them:
/// each push builds upon the one before.
const LONGEST: u8 = 90;
/// How far back shallow versions are looked for, if all that are near are too deep.
const LOOK_BACK: usize = 500;
const SHALLOW: u8 = DEEPEST / 4;
/// Bytes scanned before the search ends, and bytes of deltas kept.
const WORK: u64 = 8 << 30;
const KEPT: u64 = 192 << 20;
/// Bytes of versions, and of their indexes as bases, that a thread keeps of a path.
const VERSIONS: usize = 16 << 20;
/// Bytes scanned by one thread before others help it: they read bases anew that it has read, so
/// that short searches with two threads take a tenth more of the processors and end hardly earlier.
const ALONE: u64 = 8 << 20;
/// How often progress is looked at while other threads end.
const LOOK: Duration = Duration::from_millis(20);

/// How many deltas an object of a small pack is built upon, by its number.
type Chains = HashMap<u32, u8, FastState>;
/// Objects of one kind and path.
type Key = (u32, ObjectKind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It would go out whole: any base is welcome.
    Whole,
    /// It lies on disk with this many bytes: only what the client has could make it smaller.
    Large(u64),
    /// The same, as a delta against an object that is not sent: versions that are sent could make
    /// it smaller, too.
    Foreign(u64),
    /// It lies on disk with this many bytes, whole in a pack of few objects: it was hardly compared
    /// with any other.
    Apart(u64),
}

/// One version of a path that is sent, in the order of the pack.
#[derive(Clone, Copy)]
struct Version {
    number: u32,
    why: Option<Why>,
    /// How many deltas it is built upon, if it is sent as it lies in a small pack.
    depth: u8,
}

#[derive(Default)]
struct Group {
    versions: Vec<Version>,
    edges: Vec<u32>,
}

/// Makes deltas for those objects of the plan that profit. `parts` is what is sent of each pack.
pub(super) fn search(
    source: &mut Source<'_>,
    plan: &Plan,
    parts: &[Part],
    options: &PackOptions,
    means: &mut Means,
    progress: &mut Progress<'_>,
) -> Result<MadeDeltas> {
    let mut groups: HashMap<Key, Group, FastState> = HashMap::default();
    if options.thin {
        for edge in &plan.edges {
            groups.entry((edge.name, edge.kind)).or_default().edges.push(edge.number);
        }
    }
    let (targets, chains) = targets(source, plan, parts, options, &groups, progress)?;
    if targets.is_empty() {
        return Ok(MadeDeltas::default());
    }
    let mut total = 0;
    let mut names: HashMap<u32, u8, FastState> = HashMap::default();
    let mut whys: HashMap<u32, Why, FastState> = HashMap::default();
    for (number, why) in &targets {
        let kind = source.kind(*number)?;
        // Commits and tags share little; blobs of unknown path are strangers to each other.
        let name = plan.name(*number);
        if matches!(kind, ObjectKind::Commit | ObjectKind::Tag) || (kind == ObjectKind::Blob && name == 0) {
            continue;
        }
        groups.entry((name, kind)).or_default();
        *names.entry(name).or_default() |= 1 << kind as u8;
        whys.insert(*number, *why);
        total += 1;
    }
    if total == 0 {
        return Ok(MadeDeltas::default());
    }
    for number in in_order(source, plan, parts)? {
        let name = plan.name(number);
        let Some(kinds) = names.get(&name) else { continue };
        let kind = source.kind(number)?;
        if kinds >> kind as u8 & 1 == 1
            && let Some(group) = groups.get_mut(&(name, kind))
        {
            let depth = chains.get(&number).copied().unwrap_or(0);
            group.versions.push(Version { number, why: whys.get(&number).copied(), depth });
        }
    }
    let worth = |group: &Group| {
        group.versions.iter().any(|version| version.why.is_some())
            && group.versions.len() + group.edges.len() > 1
    };
    let (mut trees, mut blobs) = (Vec::new(), Vec::new());
    for ((_, kind), group) in groups.into_iter().filter(|(_, group)| worth(group)) {
        if kind == ObjectKind::Tree { &mut trees } else { &mut blobs }.push(group);
    }
    for queue in [&mut trees, &mut blobs] {
        // The longest first, so that the threads end together.
        queue.sort_by_key(|group| std::cmp::Reverse(group.versions.len()));
    }
    progress.start("Compressing objects", total);
    let made = run(source, &[trees, blobs], means, progress)?;
    progress.finish()?;
    Ok(made)
}

/// The wanted objects in the order in which they are written.
fn in_order(source: &Source<'_>, plan: &Plan, parts: &[Part]) -> Result<Vec<u32>> {
    let mut order = Vec::new();
    for part in parts {
        for position in part.positions() {
            order.extend(source.space.number_of_position(part.pack, position));
        }
    }
    let packed = source.space.packed();
    order.extend(plan.wanted.between(packed, u32::MAX - packed).map(|n| packed + n));
    Ok(order)
}

/// The objects that may profit, and how long the chains of small packs become.
fn targets(
    source: &mut Source<'_>,
    plan: &Plan,
    parts: &[Part],
    options: &PackOptions,
    edges: &HashMap<Key, Group, FastState>,
    progress: &mut Progress<'_>,
) -> Result<(Vec<(u32, Why)>, Chains)> {
    let mut named: std::collections::HashSet<u32, FastState> = Default::default();
    named.extend(edges.keys().map(|(name, _)| *name));
    let (mut targets, mut chains) = (Vec::new(), Chains::default());
    for part in parts {
        let pack = pack_of(source, part.pack)?;
        let small = parts.len() > 1 && pack.count() < SMALL;
        // The run of neighbours that are all sent.
        let (mut run_start, mut run_end) = (0, 0);
        for position in part.positions() {
            progress.step(0)?;
            let (Some(offset), Some(end)) =
                (pack.offset_of_position(position), pack.end_of_position(position))
            else {
                continue;
            };
            if run_end != offset {
                run_start = offset;
            }
            run_end = end;
            let entry = pack.entry(offset)?;
            let number = || source.space.number_of_position(part.pack, position);
            let stored = end - offset;
            // Whether the client has versions of the object's path.
            let known = || number().filter(|number| named.contains(&plan.name(*number)));
            if let EntryKind::Base(kind) = entry.kind {
                let may = matches!(kind, ObjectKind::Tree | ObjectKind::Blob)
                    && (SMALLEST..LARGEST).contains(&entry.size);
                if may && small {
                    if let Some(number) = number() {
                        targets.push((number, Why::Apart(stored)));
                        chains.insert(number, DEEPEST);
                    }
                } else if may && !named.is_empty() {
                    targets.extend(known().map(|number| (number, Why::Large(stored))));
                }
                continue;
            }
            match base_of(source, plan, part, options, &entry, run_start)? {
                Base::Sent => {
                    if small && let Some(number) = number() {
                        let depth = base_number(source, pack, &entry)
                            .and_then(|base| chains.get(&base).copied())
                            .unwrap_or(0);
                        if depth >= LONGEST {
                            targets.push((number, Why::Whole));
                            chains.insert(number, DEEPEST);
                            continue;
                        }
                        chains.insert(number, depth + 1);
                    }
                    if stored > GOOD_ENOUGH
                        && !named.is_empty()
                        && let Some(number) = known()
                        && stored > source.header(number)?.1 / SMALL_PART
                    {
                        targets.push((number, Why::Large(stored)));
                    }
                }
                Base::Had if stored > GOOD_ENOUGH => {
                    targets.extend(number().map(|number| (number, Why::Foreign(stored))));
                }
                Base::Left => targets.extend(number().map(|number| (number, Why::Whole))),
                Base::Had | Base::Unknown => {}
            }
        }
    }
    let packed = source.space.packed();
    for number in plan.wanted.between(packed, u32::MAX - packed).map(|n| packed + n) {
        progress.step(0)?;
        let (kind, size) = source.header(number)?;
        if matches!(kind, ObjectKind::Tree | ObjectKind::Blob) && (SMALLEST..LARGEST).contains(&size) {
            targets.push((number, Why::Whole));
        }
    }
    Ok((targets, chains))
}

/// The number of the base of a delta.
fn base_number(source: &Source<'_>, pack: &Pack, entry: &Entry) -> Option<u32> {
    let id = match entry.kind {
        EntryKind::Base(_) => return None,
        EntryKind::RefDelta(id) => id,
        EntryKind::OfsDelta(base) => pack.id_at(pack.index_of_position(pack.position_of_offset(base)?)?),
    };
    source.space.packed_number(&id)
}

/// What becomes of a delta's base.
enum Base {
    /// It is in the pack.
    Sent,
    /// The client has it, and understands that.
    Had,
    /// Neither, so that the delta cannot be used.
    Left,
    /// The pack on disk is damaged here, which writing will find out.
    Unknown,
}

/// What becomes of the base of a part's delta. All that lies from `run_start` to the delta is sent.
fn base_of(
    source: &Source<'_>,
    plan: &Plan,
    part: &Part,
    options: &PackOptions,
    entry: &Entry,
    run_start: u64,
) -> Result<Base> {
    let pack = pack_of(source, part.pack)?;
    let position = match entry.kind {
        EntryKind::OfsDelta(base) if base >= run_start => return Ok(Base::Sent),
        EntryKind::OfsDelta(base) => pack.position_of_offset(base),
        EntryKind::RefDelta(id) => {
            pack.lookup(id.as_bytes()).and_then(|index| pack.position_of_offset(pack.offset_at(index)))
        }
        EntryKind::Base(_) => None,
    };
    let Some(position) = position else { return Ok(Base::Unknown) };
    if part.wants(position) {
        return Ok(Base::Sent);
    }
    let id = pack.index_of_position(position).map(|index| pack.id_at(index));
    let number = id.and_then(|id| source.space.packed_number(&id));
    Ok(match number {
        Some(number) if plan.wanted.get(number) => Base::Sent,
        Some(number) if options.thin && plan.client.get(number) => Base::Had,
        _ => Base::Left,
    })
}

/// What the threads share.
struct Shared<'g> {
    /// Trees, and blobs.
    queues: [Queue<'g>; 2],
    work: AtomicU64,
    kept: AtomicU64,
    done: AtomicU64,
    made: Mutex<MadeDeltas>,
}

/// Groups that wait for a thread.
struct Queue<'g> {
    groups: &'g [Group],
    next: AtomicUsize,
}

impl<'g> Queue<'g> {
    /// How many are left, about.
    fn len(&self) -> usize {
        self.groups.len().saturating_sub(self.next.load(Relaxed))
    }

    fn take(&self) -> Option<&'g Group> {
        self.groups.get(self.next.fetch_add(1, Relaxed))
    }
}

fn run(
    source: &mut Source<'_>,
    queues: &[Vec<Group>; 2],
    means: &mut Means,
    progress: &mut Progress<'_>,
) -> Result<MadeDeltas> {
    let shared = Shared {
        queues: queues.each_ref().map(|groups| Queue { groups, next: AtomicUsize::new(0) }),
        work: AtomicU64::new(0),
        kept: AtomicU64::new(0),
        done: AtomicU64::new(0),
        made: Mutex::new(MadeDeltas::default()),
    };
    let (store, space) = (source.space.store(), source.space.clone());
    let (cache_bytes, helpers) = (means.cache_bytes, means.threads.saturating_sub(1).min(7));
    let outcome = std::thread::scope(|scope| {
        let (at_work, ended) = channel::<()>();
        let mut at_work = Some(at_work);
        let mut running = Vec::new();
        let mut get_help = || {
            let Some(at_work) = at_work.take() else { return };
            for _ in 0..helpers.min(shared.queues.iter().map(Queue::len).sum()) {
                let (shared, space, at_work) = (&shared, space.clone(), at_work.clone());
                running.push(scope.spawn(move || -> Result<()> {
                    let reader = crate::reader::Reader::new(store, cache_bytes);
                    let mut source = Source::of(space, reader);
                    let mut z = compressor();
                    let [trees, blobs] = &shared.queues;
                    let result = Worker::new(&mut source, shared, &mut z).run([blobs, trees], &mut || Ok(()));
                    drop(at_work);
                    result
                }));
            }
        };
        let mut told = 0;
        let [trees, blobs] = &shared.queues;
        // Its reader has read the trees that decide what is sent.
        let mut outcome = Worker::new(source, &shared, &mut means.z).run([trees, blobs], &mut || {
            if shared.work.load(Relaxed) > ALONE {
                get_help();
            }
            let done = shared.done.load(Relaxed);
            progress.step(done.saturating_sub(told))?;
            told = done;
            Ok(())
        });
        drop(at_work);
        loop {
            if outcome.is_err() {
                // The others need not go on.
                shared.work.store(u64::MAX / 2, Relaxed);
            }
            if ended.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                break;
            }
            if outcome.is_ok() {
                outcome = progress.long_step(0);
            }
        }
        for thread in running {
            match thread.join() {
                Ok(result) => outcome = outcome.and(result),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        outcome
    });
    outcome?;
    Ok(shared.made.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// A version that was read, and its index once it was tried as a base.
struct Read {
    data: Rc<Vec<u8>>,
    index: Option<Rc<DeltaIndex>>,
}

/// One thread of the search.
struct Worker<'w, 's, 'g> {
    source: &'w mut Source<'s>,
    shared: &'w Shared<'g>,
    read: HashMap<u32, Read, FastState>,
    read_bytes: usize,
    z: &'w mut LazyCell<Compress>,
}

impl<'w, 's, 'g> Worker<'w, 's, 'g> {
    fn new(
        source: &'w mut Source<'s>,
        shared: &'w Shared<'g>,
        z: &'w mut LazyCell<Compress>,
    ) -> Worker<'w, 's, 'g> {
        Worker { source, shared, read: HashMap::default(), read_bytes: 0, z }
    }

    fn run(&mut self, queues: [&Queue<'g>; 2], step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        for queue in queues {
            while let Some(group) = queue.take() {
                self.group(group, step)?;
                self.forget();
            }
        }
        Ok(())
    }

    fn group(&mut self, group: &Group, step: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        // How deep the new delta of each version lies.
        let mut depths = vec![0u8; group.versions.len()];
        for (at, version) in group.versions.iter().enumerate() {
            let Some(why) = version.why else { continue };
            let spent = self.shared.work.load(Relaxed) > WORK || self.shared.kept.load(Relaxed) > KEPT;
            if !spent && let Some((made, depth)) = self.best(group, at, why, &depths)? {
                depths[at] = depth;
                self.shared.kept.fetch_add(made.compressed.len() as u64, Relaxed);
                let mut all = self.shared.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                all.insert(version.number, made);
            }
            self.shared.done.fetch_add(1, Relaxed);
            step()?;
        }
        Ok(())
    }

    /// The best delta for a version, and how deep it lies.
    fn best(&mut self, group: &Group, at: usize, why: Why, depths: &[u8]) -> Result<Option<(Made, u8)>> {
        let number = group.versions[at].number;
        let Some(target) = self.version(number)? else { return Ok(None) };
        if !(SMALLEST..LARGEST).contains(&(target.len() as u64)) {
            return Ok(None);
        }
        let earlier = group.versions[..at].iter().zip(depths).rev();
        let earlier = earlier.filter(|_| !matches!(why, Why::Large(_))).take(LOOK_BACK);
        let earlier = earlier.map(|(v, depth)| (v.number, if v.why.is_some() { *depth } else { v.depth }));
        let mut near: Vec<(u32, u8)> =
            earlier.clone().take(WINDOW).filter(|(_, depth)| *depth < DEEPEST).collect();
        if near.is_empty() {
            // A shallow one further back is worse a base, but those that follow are near again.
            near.extend(earlier.filter(|(_, depth)| *depth < SHALLOW).take(WINDOW));
        }
        let near = near.into_iter().map(|(number, depth)| (number, false, depth + 1));
        let edges = group.edges.iter().take(EDGES).map(|edge| (*edge, true, 1));
        let enough = target.len() / 64 + 32;
        // A delta that could not compress to less than the entry on disk is given up on the way.
        let worth = match why {
            Why::Whole => target.len() / 2,
            Why::Large(stored) | Why::Foreign(stored) | Why::Apart(stored) => {
                usize::try_from(stored.saturating_mul(COMPRESSES))
                    .map_or(usize::MAX, |most| most.min(target.len() / 2))
            }
        };
        let mut best: Option<(u32, bool, u8, Vec<u8>)> = None;
        for (base, thin, depth) in near.chain(edges) {
            // An object that the client has may be unreadable here: then it is no base.
            let Ok(Some(base_data)) = self.version(base) else { continue };
            let limit = best.as_ref().map_or(worth, |(.., delta)| delta.len().saturating_sub(8));
            let grows = target.len().saturating_sub(base_data.len());
            if base_data.len() as u64 >= LARGEST || grows > limit || base_data.len() / 32 > target.len() {
                continue;
            }
            let work = (target.len() + base_data.len()) as u64;
            self.shared.work.fetch_add(work, Relaxed);
            let Some(index) = self.index(base, &base_data) else { continue };
            if let Some(delta) = index.encode(&base_data, &target, limit) {
                let good = delta.len() <= enough;
                best = Some((base, thin, depth, delta));
                if good {
                    break;
                }
            }
        }
        let Some((base, thin, depth, delta)) = best else { return Ok(None) };
        let compressed = deflate_delta(self.z, &delta)?;
        // A base by name costs its name.
        if let Why::Large(stored) | Why::Foreign(stored) | Why::Apart(stored) = why
            && compressed.len() as u64 + 40 > stored
        {
            return Ok(None);
        }
        Ok(Some((Made { base, thin, compressed, size: delta.len() as u64 }, depth)))
    }

    /// The content of a version; `None` if it is too large. It is kept: a version is a target once
    /// and then a base for several others, and a loose object would be opened and inflated for each
    /// of them.
    fn version(&mut self, number: u32) -> Result<Option<Rc<Vec<u8>>>> {
        if let Some(read) = self.read.get(&number) {
            return Ok(Some(read.data.clone()));
        }
        let Some(object) = self.source.read_within(number, LARGEST)? else { return Ok(None) };
        self.keep(object.data.len());
        self.read.insert(number, Read { data: object.data.clone(), index: None });
        Ok(Some(object.data))
    }

    fn index(&mut self, number: u32, data: &Rc<Vec<u8>>) -> Option<Rc<DeltaIndex>> {
        if let Some(index) = self.read.get(&number).and_then(|read| read.index.clone()) {
            return Some(index);
        }
        let index = Rc::new(DeltaIndex::new(data)?);
        self.keep(index.size());
        if !self.read.contains_key(&number) {
            // Both are kept together: the index was too much beside what was kept before.
            self.keep(data.len());
        }
        self.read.insert(number, Read { data: data.clone(), index: Some(index.clone()) });
        Some(index)
    }

    /// Makes room for so many bytes more.
    fn keep(&mut self, bytes: usize) {
        if self.read_bytes.saturating_add(bytes) > VERSIONS {
            self.forget();
        }
        self.read_bytes = self.read_bytes.saturating_add(bytes);
    }

    fn forget(&mut self) {
        self.read.clear();
        self.read_bytes = 0;
    }
}
