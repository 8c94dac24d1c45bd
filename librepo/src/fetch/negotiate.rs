//! What a client wants and has, and when enough is known (`gitprotocol-pack`, "Packfile
//! Negotiation").

use std::collections::HashMap;
use std::sync::Arc;

use libgit::{Deepen, ObjectId, ObjectKind};

use super::bitmapped::PackBitmap;
use super::bits::Bits;
use super::commits::{Commits, Source};
use super::progress::Progress;
use super::reached::Reached;
use super::shallow::{Cuts, ShallowInfo};
use super::space::{First, NO_OBJECT};
use super::{Means, PackOptions, PackStats, Sink, reach, writer};
use crate::error::{Error, Result};
use crate::id::{FastState, IdSet};
use crate::pack::Pack;
use crate::refs::Ref;
use crate::repository::Repository;

/// How many steps one look for [`Fetch::ready`] may take: the answer then is "not yet", which only
/// costs the client another round.
const READY_STEPS: u32 = 200_000;
/// Of [`estimate`], in bytes.
const BASE: u64 = 8 << 20;
const PER_OBJECT: u64 = 16;
const PER_THREAD: u64 = 24 << 20;
/// Reaches something that the client has.
const ALIVE: u8 = 1;

/// What a client may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The tips that were advertised, and what tags among them name.
    Advertised,
    /// Also every commit and tag that can be reached from them. Trees and blobs by themselves are
    /// refused.
    Reachable,
    /// Any object of the repository: partial clones need that.
    Any,
}

/// Bounds of one fetch.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// Bytes for objects that were read and may be needed again, for each thread.
    pub cache_bytes: usize,
    /// How many different objects may be wanted.
    pub wants: usize,
}

impl Default for FetchLimits {
    fn default() -> FetchLimits {
        FetchLimits { cache_bytes: 8 << 20, wants: 1_000_000 }
    }
}

/// The references that a client can see.
#[derive(Clone, Debug, Default)]
pub struct Tips {
    ids: IdSet,
    /// Annotated tags: the tag, and what it names in the end.
    tags: Vec<(ObjectId, ObjectId)>,
    /// Whether there are references that the client cannot see.
    hides: bool,
}

impl Tips {
    /// From the references that were or would be advertised, `HEAD` among them.
    pub fn new<'r>(refs: impl IntoIterator<Item = &'r Ref>) -> Tips {
        let mut tips = Tips::default();
        for r in refs {
            tips.add(&r.name, r.target, r.peeled);
        }
        tips
    }

    /// There are hidden references. Objects that only these reach do not exist for the client,
    /// whatever the policy.
    pub fn hide_others(&mut self) {
        self.hides = true;
    }

    /// Adds a reference, with what it names in the end if that is an annotated tag.
    pub fn add(&mut self, name: &[u8], target: ObjectId, peeled: Option<ObjectId>) {
        self.ids.insert(target);
        if let Some(peeled) = peeled {
            self.ids.insert(peeled);
            if name.starts_with(b"refs/tags/") {
                self.tags.push((target, peeled));
            }
        }
    }
}

/// Why a want is refused.
#[derive(Debug)]
pub enum WantError {
    /// There is no such object.
    NotFound,
    /// The policy does not let it out.
    NotAllowed,
    /// More objects are wanted than the limit allows.
    TooMany(usize),
    /// The repository could not be read.
    Repository(Error),
}

impl std::fmt::Display for WantError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WantError::NotFound => f.write_str("no such object"),
            WantError::NotAllowed => f.write_str("not our ref"),
            WantError::TooMany(limit) => write!(f, "more than {limit} objects wanted"),
            WantError::Repository(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for WantError {}

impl From<Error> for WantError {
    fn from(e: Error) -> WantError {
        WantError::Repository(e)
    }
}

/// Bytes of memory that making a pack takes, roughly: the record of each object, and for each
/// thread its cache, the indexes of bases and the objects under comparison. Small repositories do
/// not fill these. Large objects come on top.
fn estimate(source: &Source<'_>, threads: usize, cache_bytes: usize) -> u64 {
    let objects = u64::from(source.space.packed()).saturating_mul(PER_OBJECT);
    let packs: u64 = source.space.store().packed_bytes();
    let threads = (threads.clamp(1, 8) as u64).saturating_mul(cache_bytes as u64 + PER_THREAD);
    BASE.saturating_add(objects).saturating_add(threads.min(packs.saturating_mul(4)))
}

fn source<'r>(repository: &'r Repository, first: First, limits: FetchLimits) -> Result<Source<'r>> {
    let mut source = Source::new(repository.store(), first, limits.cache_bytes)?;
    source.graph = repository.commit_graph();
    Ok(source)
}

/// One fetch of one client, from its wants to the pack.
pub struct Fetch<'r> {
    pub(super) repository: &'r Repository,
    pub(super) source: Source<'r>,
    tips: Arc<Tips>,
    policy: Policy,
    limits: FetchLimits,
    pub(super) wants: Vec<u32>,
    wanted: Bits,
    pub(super) haves: Vec<u32>,
    /// The client's haves, as far as we have them, too.
    common: Bits,
    /// The client's haves and their parents.
    has: Bits,
    oldest_have: u64,
    reached: Option<Reached>,
    commits: Commits,
    /// In which call of `ready` a commit was last found to reach nothing.
    dead: HashMap<u32, u32, FastState>,
    calls: u32,
    pub(super) shallow: Vec<u32>,
    pub(super) shallow_set: Bits,
    pub(super) deepen: Option<Deepen>,
    /// Whether the haves that the client names come before the boundary is asked for.
    pub(super) haves_first: bool,
    pub(super) cuts: Option<Cuts>,
    options: PackOptions,
    bitmap: Option<PackBitmap>,
    log: Vec<String>,
}

impl<'r> Fetch<'r> {
    /// A fetch that has heard nothing yet.
    ///
    /// # Errors
    /// When the repository holds more objects than can be numbered (some two thousand million).
    pub fn new(
        repository: &'r Repository,
        tips: impl Into<Arc<Tips>>,
        policy: Policy,
        limits: FetchLimits,
    ) -> Result<Fetch<'r>> {
        Ok(Fetch {
            repository,
            source: source(repository, First::None, limits)?,
            tips: tips.into(),
            policy,
            limits,
            wants: Vec::new(),
            wanted: Bits::default(),
            haves: Vec::new(),
            common: Bits::default(),
            has: Bits::default(),
            oldest_have: u64::MAX,
            reached: None,
            commits: Commits::default(),
            dead: HashMap::default(),
            calls: 0,
            shallow: Vec::new(),
            shallow_set: Bits::default(),
            deepen: None,
            haves_first: false,
            cuts: None,
            options: PackOptions::default(),
            bitmap: None,
            log: Vec::new(),
        })
    }

    /// The next negotiation on the same connection. What was learnt about the repository stays:
    /// which commits there are and what the tips reach is walked once, however often a client asks.
    ///
    /// # Errors
    /// As [`Fetch::new`].
    pub fn again(self, tips: impl Into<Arc<Tips>>, policy: Policy, limits: FetchLimits) -> Result<Fetch<'r>> {
        let tips = tips.into();
        let same = Arc::ptr_eq(&tips, &self.tips) || tips.ids == self.tips.ids;
        let mut next = Fetch::new(self.repository, tips, policy, limits)?;
        (next.source, next.bitmap, next.commits) = (self.source, self.bitmap, self.commits);
        next.commits.forget_flags();
        next.reached = self.reached.filter(|_| same);
        next.log = self.log;
        Ok(next)
    }

    /// Opens the bitmaps before the first want, unless objects have been numbered otherwise: those
    /// that bitmaps count have the first numbers.
    fn open_bitmap(&mut self) -> Result<()> {
        let numbered = !self.haves.is_empty() || !self.shallow.is_empty() || self.reached.is_some();
        if numbered || self.bitmap.is_some() || self.commits.len() > 0 {
            return Ok(());
        }
        if let Some(bitmap) = PackBitmap::find(self.repository, &mut self.log) {
            self.source = source(self.repository, bitmap.numbers.clone(), self.limits)?;
            self.bitmap = Some(bitmap);
        }
        Ok(())
    }

    /// The client wants an object. Wanting it again changes nothing.
    ///
    /// # Errors
    /// [`WantError`].
    pub fn want(&mut self, id: ObjectId) -> std::result::Result<(), WantError> {
        let is_tip = self.tips.ids.contains(&id);
        let number = if self.tips.hides && !is_tip {
            self.hidden_want(&id)?
        } else {
            let number = self.source.space.number(&id).ok_or(WantError::NotFound)?;
            // A client that lacks single files or directories asks for them one after the other;
            // bitmaps say nothing about these.
            if self.wants.is_empty()
                && matches!(self.source.kind(number)?, ObjectKind::Commit | ObjectKind::Tag)
            {
                self.open_bitmap()?;
            }
            self.source.space.number(&id).ok_or(WantError::NotFound)?
        };
        if self.wanted.get(number) {
            return Ok(());
        }
        if !is_tip && !self.tips.hides {
            let allowed = match self.policy {
                Policy::Any => true,
                Policy::Reachable => self.is_reachable(number)?,
                Policy::Advertised => false,
            };
            if !allowed {
                return Err(WantError::NotAllowed);
            }
        }
        if self.wants.len() >= self.limits.wants {
            return Err(WantError::TooMany(self.limits.wants));
        }
        self.wanted.set(number);
        self.wants.push(number);
        Ok(())
    }

    /// The number of an object that is no tip, where some references are hidden: nothing about it
    /// is looked at before it is known to be reached.
    fn hidden_want(&mut self, id: &ObjectId) -> std::result::Result<u32, WantError> {
        if self.policy == Policy::Advertised {
            return Err(WantError::NotAllowed);
        }
        if self.wants.is_empty() {
            self.open_bitmap()?;
        }
        self.visible(id)?.ok_or(WantError::NotFound)
    }

    /// The number of an object as far as this client may know of it.
    fn visible(&mut self, id: &ObjectId) -> Result<Option<u32>> {
        if !self.tips.hides || self.tips.ids.contains(id) {
            return Ok(self.source.space.number(id));
        }
        let (source, reached) = self.reached()?;
        Ok(reached.commit(source, id))
    }

    /// What the tips reach.
    fn reached(&mut self) -> Result<(&mut Source<'r>, &mut Reached)> {
        let reached = match self.reached.take() {
            Some(reached) => reached,
            None => Reached::from(&mut self.source, self.tips.ids.iter(), false)?,
        };
        Ok((&mut self.source, self.reached.insert(reached)))
    }

    /// Whether the policy lets the client have a commit and its history.
    pub(super) fn may_see(&mut self, number: u32) -> Result<bool> {
        Ok(self.policy == Policy::Any && !self.tips.hides || self.is_reachable(number)?)
    }

    /// Whether a commit or tag can be reached from the tips. All questions together cost one walk
    /// over the history.
    fn is_reachable(&mut self, number: u32) -> Result<bool> {
        if !matches!(self.source.kind(number)?, ObjectKind::Commit | ObjectKind::Tag) {
            return Ok(false);
        }
        let (source, reached) = self.reached()?;
        while !reached.has(number) {
            if !reached.step(source) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The client says that it has an object; returns whether we have it too, that is whether it is
    /// common. The same one again costs nothing.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn have(&mut self, id: ObjectId) -> Result<bool> {
        let Some(number) = self.visible(&id)? else { return Ok(false) };
        if !self.common.set(number) {
            return Ok(true);
        }
        self.haves.push(number);
        self.has.set(number);
        if self.source.kind(number)? == ObjectKind::Commit {
            let at = self.commits.must(&mut self.source, number)?;
            self.oldest_have = self.oldest_have.min(self.commits.node(at).seconds);
            for parent in self.commits.parents(at) {
                if *parent != NO_OBJECT {
                    self.has.set(*parent);
                }
            }
        }
        Ok(true)
    }

    /// Whether the pack can be made: everything wanted has an ancestor that the client has (`ready`
    /// of the protocol). As in git only commits not older than the oldest common one are looked at.
    ///
    /// # Errors
    /// When the repository cannot be read.
    pub fn ready(&mut self) -> Result<bool> {
        if self.haves.is_empty() {
            return Ok(false);
        }
        self.calls += 1;
        let mut steps = READY_STEPS;
        for want in 0..self.wants.len() {
            let (_, target) = self.source.peel(self.wants[want])?;
            // Whether a tree or blob is behind something the client has cannot be told.
            let Some((commit, ObjectKind::Commit)) = target else { continue };
            if !self.reaches_common(commit, &mut steps)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Depth first; all of the way to something the client has is marked, and what leads nowhere,
    /// too.
    fn reaches_common(&mut self, start: u32, steps: &mut u32) -> Result<bool> {
        let first = self.commits.must(&mut self.source, start)?;
        // A commit and which of its parents is next.
        let mut path: Vec<(u32, usize)> = vec![(first, 0)];
        while let Some((at, slot)) = path.last_mut() {
            let node = *self.commits.node(*at);
            if node.flags & ALIVE != 0 || self.has.get(node.number) {
                for (at, _) in &path {
                    self.commits.node_mut(*at).flags |= ALIVE;
                }
                return Ok(true);
            }
            let parent = self.commits.parents(*at).get(*slot).copied();
            *slot += 1;
            let Some(parent) = parent else {
                self.dead.insert(*at, self.calls);
                path.pop();
                continue;
            };
            if parent == NO_OBJECT {
                continue;
            }
            if *steps == 0 {
                return Ok(false);
            }
            *steps -= 1;
            let parent = self.commits.must(&mut self.source, parent)?;
            let old = self.commits.node(parent).seconds < self.oldest_have;
            if !old && self.dead.get(&parent) != Some(&self.calls) {
                path.push((parent, 0));
            }
        }
        Ok(false)
    }

    /// The client has this commit but not its parents.
    ///
    /// # Errors
    /// `Invalid` if the object is no commit. An object that is not here is passed over, as in git.
    pub fn shallow(&mut self, id: ObjectId) -> Result<()> {
        let Some(number) = self.visible(&id)? else { return Ok(()) };
        if self.shallow_set.get(number) {
            return Ok(());
        }
        if self.source.kind(number)? != ObjectKind::Commit {
            return Err(Error::Invalid(format!("invalid shallow object {id}")));
        }
        self.shallow_set.set(number);
        self.shallow.push(number);
        self.cuts = None;
        Ok(())
    }

    /// The client says what it has before it is told its boundary, as in protocol v2.
    pub fn haves_come_first(&mut self) {
        self.haves_first = true;
    }

    /// Where the client wants its history cut.
    pub fn deepen(&mut self, deepen: Deepen) {
        self.deepen = Some(deepen);
        self.cuts = None;
    }

    /// The changes of the client's shallow boundary, for the protocol's `shallow-info`. To be
    /// called after all wants and shallow lines. With protocol v0 it is sent only if the client
    /// asked to deepen.
    ///
    /// # Errors
    /// When the repository cannot be read, or nothing is left after the cut (`Invalid`).
    pub fn shallow_info(&mut self) -> Result<ShallowInfo> {
        self.resolve_shallow()?;
        Ok(self.cuts.as_ref().map(|cuts| cuts.info.clone()).unwrap_or_default())
    }

    /// What the client understands and asks for.
    pub fn options(&mut self, options: PackOptions) {
        self.options = options;
    }

    /// The file of bitmaps that is used as far as it goes, for benchmarks and tests.
    #[must_use]
    pub fn bitmap_name(&self) -> Option<&str> {
        self.bitmap.as_ref().map(|bitmap| &bitmap.name[..])
    }

    /// Files that were passed over so far because they are damaged or foreign, one line each, for
    /// the log.
    pub fn take_log(&mut self) -> Vec<String> {
        let mut log = std::mem::take(&mut self.log);
        log.extend(self.repository.store().opened_packs().filter_map(Pack::order_note));
        log
    }

    /// Writes the pack. `threads` is how many threads may work at it.
    ///
    /// # Errors
    /// `Missing` when something that must be sent is not here, `Io` when the sink fails, and
    /// whatever reading the repository yields. A pack that was begun is then incomplete.
    pub fn write_pack(&mut self, sink: &mut dyn Sink, threads: usize) -> Result<PackStats> {
        self.resolve_shallow()?;
        let mut progress = Progress::new(sink);
        progress.start("Enumerating objects", 0);
        let cuts = self.cuts.take().unwrap_or_default();
        let mut wants = self.wants.clone();
        wants.extend(&cuts.wants);
        let mut haves = self.haves.clone();
        haves.extend(self.had_at_boundary(&cuts)?);
        let memory = estimate(&self.source, threads, self.limits.cache_bytes);
        let request = reach::ReachRequest {
            wants: &wants,
            haves: &haves,
            cut: &cuts.cut,
            filter: self.options.filter.as_ref(),
            all_edges: cuts.cut.count() > 0,
            tags: if self.options.include_tag { &self.tips.tags } else { &[] },
            threads,
            cache_bytes: self.limits.cache_bytes,
            memory,
        };
        let bitmap = self.bitmap.as_ref();
        // A clone that bitmaps answer is often a copy of one file, which costs nothing; the bitmaps
        // tell at once whether it is.
        let quick = bitmap.is_some() && haves.is_empty() && cuts.cut.count() == 0 && request.filter.is_none();
        if !quick {
            progress.turn(memory)?;
        }
        let plan = reach::plan(&mut self.source, bitmap, &request, &mut progress)?;
        self.cuts = Some(cuts);
        progress.came_to(plan.wanted.count());
        progress.finish()?;
        let means = Means { threads, cache_bytes: self.limits.cache_bytes, memory, z: writer::compressor() };
        super::send(&mut self.source, plan, bitmap, &self.options, means, &mut progress)
    }
}
