//! The facts that rules are decided on: for each command the tip's kind, its origin, and what it
//! brings.

use std::collections::BinaryHeap;
use std::fmt;
use std::fs::File;

use libgit::{ObjectId, ObjectKind};

use super::connectivity::{Connectivity, Gap, MAX_TAGS, Shallow};
use super::had::Had;
use super::index_pack::{self, Indexed, Own};
use super::world::World;
use super::{Stage, Ticker};
use crate::error::Result;
use crate::id::{IdMap, IdSet};
use crate::object::TreeEntries;

/// One reference that is to change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefChange {
    /// Its value by the client's word; null for a creation.
    pub old: ObjectId,
    /// What it shall become; null for a deletion.
    pub new: ObjectId,
}

/// Why a tip cannot be taken, whatever the rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// This object is behind it, or it itself, and nowhere to be found.
    Missing(ObjectId),
    /// Its history ends at commits whose parents the repository lacks.
    Shallow,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Missing(_) => f.write_str("missing necessary objects"),
            Refusal::Shallow => f.write_str("shallow update not allowed"),
        }
    }
}

/// The facts about a command. All fields are empty for a deletion.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// The reason to refuse it.
    pub refusal: Option<Refusal>,
    /// The kind of the new tip.
    pub kind: Option<ObjectKind>,
    /// What the tip finally names, if it is an annotated tag.
    pub peeled: Option<(ObjectId, ObjectKind)>,
    /// Whether the new tip descends from the old one (or is it). `None` unless both are commits.
    pub fast_forward: Option<bool>,
    /// A commit with several parents that is behind the new tip and that no reference reached
    /// before.
    pub merge: Option<ObjectId>,
    /// The largest blob that came for this tip, with its size in bytes. Where all that came is
    /// below the limit that matters ([`IndexOptions::blob_limit`](super::IndexOptions::blob_limit))
    /// and below a megabyte, or a push of several tips is too large to tell them apart, the largest
    /// of the whole push.
    pub largest_blob: Option<(ObjectId, u64)>,
}

/// Checks that nothing is missing behind the new tips and says about each what the rules want to
/// know.
///
/// `had` is what the repository had, as far as the client may know of it, and `tips` are of that
/// alone. `pack` and `idx` are the files that [`index`](super::index()) has filled; `None` if the
/// push came without a pack, or an empty one. `tips` are the values of all references of the
/// repository (and what packed-refs says that tags peel to), and of HEAD.
pub fn facts<'a>(
    indexed: &'a Indexed,
    files: Option<(&File, &File)>,
    had: impl Into<Had<'a>>,
    tips: &[ObjectId],
    commands: &[RefChange],
    shallow: &Shallow,
    ticker: &mut Ticker<'_>,
) -> Result<Vec<Facts>> {
    let own = match files {
        Some((pack, idx)) if indexed.objects > 0 => {
            Some(Own::new(index_pack::open_pack(pack, idx, indexed.hash)?, indexed.hash)?)
        }
        _ => None,
    };
    let mut world = World::new(indexed, own.as_ref(), had.into());
    let mut check = Connectivity::new(&mut world, tips, shallow);
    let pack_whole = check.pack_is_whole(ticker)?;
    let creations = commands.iter().filter(|command| !command.new.is_null()).count();
    let mut all = Vec::with_capacity(commands.len());
    let mut shared =
        Shared { creations, blob_steps: BLOB_STEPS, merges: IdMap::default(), failed: 0, gap: None };
    for command in commands {
        all.push(about(&mut check, command, pack_whole, &mut shared, ticker)?);
    }
    ticker.finish(Stage::Connectivity, commands.len() as u64, commands.len() as u64, 0)?;
    Ok(all)
}

/// Results about one tip that spare work for the next: a push may have thousands of tips.
struct Shared {
    /// Commands that create or change something.
    creations: usize,
    /// How many objects may still be looked at to tell the tips' blobs apart.
    blob_steps: u64,
    /// For commits that were looked at, the merge that their history comes to.
    merges: IdMap<Option<ObjectId>>,
    /// Objects that were looked at in vain, because something turned out to be missing; and what.
    failed: u64,
    gap: Option<Refusal>,
}

/// Objects looked at to tell the tips' blobs apart, for the whole push.
const BLOB_STEPS: u64 = 20_000;
/// Objects looked at in walks that ended at a gap, before all further tips are refused with the
/// last one.
const FAILED_STEPS: u64 = 2_000_000;

fn about(
    check: &mut Connectivity<'_, '_>,
    command: &RefChange,
    pack_whole: bool,
    shared: &mut Shared,
    ticker: &mut Ticker<'_>,
) -> Result<Facts> {
    let mut facts = Facts::default();
    let tip = command.new;
    if tip.is_null() {
        return Ok(facts);
    }
    let Some(place) = check.world.place(&tip, None)? else {
        facts.refusal = Some(Refusal::Missing(tip));
        return Ok(facts);
    };
    facts.kind = Some(place.kind());
    let in_whole_pack = pack_whole && check.world.indexed.kind(&tip).is_some();
    if !in_whole_pack && tip != command.old {
        if shared.failed > FAILED_STEPS {
            facts.refusal = shared.gap;
            return Ok(facts);
        }
        let before = check.steps();
        facts.refusal = check.walk(&tip, ticker)?.map(|gap| match gap {
            Gap::Missing(id) => Refusal::Missing(id),
            Gap::Shallow => Refusal::Shallow,
        });
        if facts.refusal.is_some() {
            shared.failed = shared.failed.saturating_add(check.steps() - before);
            shared.gap = facts.refusal;
            return Ok(facts);
        }
    }
    let mut end = (tip, place.kind());
    for _ in 0..MAX_TAGS {
        match check.world.tag(&end.0)? {
            Some(target) if end.1 == ObjectKind::Tag => end = target,
            _ => break,
        }
    }
    facts.peeled = (end.0 != tip).then_some(end);
    let old_kind = match command.old.is_null() {
        true => None,
        false => check.world.place(&command.old, None)?.map(|place| place.kind()),
    };
    if place.kind() == ObjectKind::Commit && old_kind == Some(ObjectKind::Commit) {
        facts.fast_forward = Some(descends(check.world, &tip, &command.old, ticker)?);
    }
    if end.1 == ObjectKind::Commit {
        facts.merge = new_merge(check, &end.0, &mut shared.merges, ticker)?;
    }
    facts.largest_blob = largest_blob(check, &tip, shared, ticker)?;
    Ok(facts)
}

/// Whether `new` is `old` or descends from it.
///
/// Paints history from both commits, newest first, until no commit is left that only one of them
/// reaches.
fn descends(world: &mut World<'_>, new: &ObjectId, old: &ObjectId, ticker: &mut Ticker<'_>) -> Result<bool> {
    const NEW: u8 = 1;
    const OLD: u8 = 2;
    if new == old {
        return Ok(true);
    }
    let mut paint: IdMap<u8> = IdMap::default();
    let mut queue: BinaryHeap<(u64, ObjectId)> = BinaryHeap::new();
    // Entries of the queue that only one side reaches.
    let mut open = 0_u64;
    let mut queued: IdSet = IdSet::default();
    for (id, colour) in [(new, NEW), (old, OLD)] {
        let Some(commit) = world.commit(id)? else { return Ok(false) };
        paint.insert(*id, colour);
        queue.push((commit.date, *id));
        queued.insert(*id);
        open += 1;
    }
    let mut steps = 0;
    while open > 0 {
        let Some((_, id)) = queue.pop() else { break };
        queued.remove(&id);
        let colour = paint.get(&id).copied().unwrap_or(0);
        if colour != NEW | OLD {
            open -= 1;
        }
        steps += 1;
        ticker.tick(Stage::Connectivity, steps, 0, 0)?;
        let Some(commit) = world.commit(&id)? else { continue };
        for parent in commit.parents {
            let before = paint.get(&parent).copied().unwrap_or(0);
            let after = before | colour;
            if before == after {
                continue;
            }
            if parent == *old && after & NEW != 0 {
                return Ok(true);
            }
            paint.insert(parent, after);
            if queued.contains(&parent) {
                if after == NEW | OLD {
                    open -= 1;
                }
                continue;
            }
            if let Some(commit) = world.commit(&parent)? {
                queue.push((commit.date, parent));
                queued.insert(parent);
                if after != NEW | OLD {
                    open += 1;
                }
            }
        }
    }
    Ok(false)
}

/// A merge behind `tip` that no reference reached before.
///
/// Up to the first merge history is a line, so that all commits on the way share the answer.
fn new_merge(
    check: &mut Connectivity<'_, '_>,
    tip: &ObjectId,
    known: &mut IdMap<Option<ObjectId>>,
    ticker: &mut Ticker<'_>,
) -> Result<Option<ObjectId>> {
    let mut line = Vec::new();
    let mut next = Some(*tip);
    let mut merge = None;
    while let Some(id) = next.take() {
        if let Some(answer) = known.get(&id) {
            merge = *answer;
            break;
        }
        line.push(id);
        ticker.tick(Stage::Connectivity, line.len() as u64, 0, 0)?;
        let Some(commit) = check.world.commit(&id)? else { break };
        if check.world.is_old(&id) && check.is_reached(&id, commit.date, ticker)? {
            break;
        }
        if commit.parents.len() > 1 {
            merge = Some(id);
            break;
        }
        next = commit.parents.first().copied();
    }
    known.extend(line.into_iter().map(|id| (id, merge)));
    Ok(merge)
}

/// The largest blob that came for a tip.
fn largest_blob(
    check: &mut Connectivity<'_, '_>,
    tip: &ObjectId,
    shared: &mut Shared,
    ticker: &mut Ticker<'_>,
) -> Result<Option<(ObjectId, u64)>> {
    let largest = check.world.indexed.findings.largest;
    match largest {
        Some((_, size)) if shared.creations > 1 && size >= check.world.indexed.tell_blobs => {}
        _ => return Ok(largest),
    }
    let sizes: IdMap<u64> = check.world.indexed.findings.blobs.iter().copied().collect();
    let mut found: Option<(ObjectId, u64)> = None;
    let mut seen = IdSet::default();
    let mut stack = vec![*tip];
    while let Some(id) = stack.pop() {
        let Some(kind) = check.world.indexed.kind(&id) else { continue };
        if !seen.insert(id) {
            continue;
        }
        let Some(left) = shared.blob_steps.checked_sub(1) else { return Ok(largest) };
        shared.blob_steps = left;
        ticker.tick(Stage::Connectivity, seen.len() as u64, 0, 0)?;
        match kind {
            ObjectKind::Blob => {
                let size = match sizes.get(&id) {
                    Some(size) => *size,
                    None => check.world.new_header(&id)?.map_or(0, |(_, size)| size),
                };
                if found.is_none_or(|(_, largest)| size > largest) {
                    found = Some((id, size));
                }
            }
            ObjectKind::Tree => {
                let Some(tree) = check.world.read(&id)? else { continue };
                let entries = TreeEntries::new(&tree.data, check.world.indexed.hash).flatten();
                stack.extend(entries.filter(|entry| !entry.is_submodule()).map(|entry| entry.id()));
            }
            ObjectKind::Commit => {
                if let Some(commit) = check.world.commit(&id)? {
                    stack.push(commit.tree);
                    stack.extend(commit.parents);
                }
            }
            ObjectKind::Tag => stack.extend(check.world.tag(&id)?.map(|(target, _)| target)),
        }
    }
    Ok(found)
}
