//! From wants and haves to the plan of a pack: by bitmaps where there are any, else by walking.

use libgit::{Filter, ObjectId, ObjectKind};

use super::bitmapped::{self, PackBitmap};
use super::bits::Bits;
use super::commits::Source;
use super::plan::Plan;
use super::progress::Progress;
use super::walk;
use crate::error::Result;

/// The request, in object numbers.
pub(crate) struct ReachRequest<'a> {
    /// What the client wants: objects of any kind.
    pub(crate) wants: &'a [u32],
    /// What the client has: objects of any kind.
    pub(crate) haves: &'a [u32],
    /// Commits without parents: the client's shallow boundary, old and new, and the repository's
    /// own.
    pub(crate) cut: &'a Bits,
    /// What the client can do without.
    pub(crate) filter: Option<&'a Filter>,
    /// Whether the trees of all haves count, not only of those at the border (shallow clients).
    pub(crate) all_edges: bool,
    /// Annotated tags that come along with what they name: the tag, and what it names in the end.
    pub(crate) tags: &'a [(ObjectId, ObjectId)],
    /// How many threads may work.
    pub(crate) threads: usize,
    /// Bytes of cache for each thread.
    pub(crate) cache_bytes: usize,
    /// Bytes of memory that the whole pack takes, roughly.
    pub(crate) memory: u64,
}

/// Finds out what to send.
pub(crate) fn plan(
    source: &mut Source<'_>,
    bitmap: Option<&PackBitmap>,
    request: &ReachRequest<'_>,
    progress: &mut Progress<'_>,
) -> Result<Plan> {
    // Bitmaps describe no cut history, and know neither sizes nor depths.
    let measured = request.filter.is_some_and(|filter| filter.needs_size() || filter.needs_depth());
    let bitmap = bitmap.filter(|_| request.cut.count() == 0 && !measured);
    let mut plan = None;
    let mut client = Bits::default();
    if let Some(bitmap) = bitmap
        && let Some(found) = bitmapped::reach(source, bitmap, request, progress)?
    {
        match found {
            bitmapped::BitmapAnswer::Everything(all) => plan = Some(all),
            bitmapped::BitmapAnswer::Client(had) => client = had,
        }
    }
    let mut plan = match plan {
        Some(plan) => plan,
        None => {
            let walk = walk::WalkRequest {
                wants: request.wants,
                haves: request.haves,
                cut: request.cut,
                filter: request.filter,
                all_edges: request.all_edges,
                threads: request.threads,
                cache_bytes: request.cache_bytes,
                client,
            };
            progress.turn(request.memory)?;
            walk::walk(source, walk, progress)?
        }
    };
    add_tags(source, request, &mut plan, progress)?;
    if let Some(filter) = request.filter {
        forget_filtered(source, bitmap, filter, &mut plan)?;
    }
    Ok(plan)
}

/// Adds the tags, and tags of tags, of what is sent.
fn add_tags(
    source: &mut Source<'_>,
    request: &ReachRequest<'_>,
    plan: &mut Plan,
    progress: &mut Progress<'_>,
) -> Result<()> {
    for (tag, target) in request.tags {
        let sent = source.space.number(target).is_some_and(|number| plan.wanted.get(number));
        let Some(tag) = source.space.number(tag).filter(|_| sent) else { continue };
        if plan.wanted.get(tag) || plan.client.get(tag) {
            continue;
        }
        for number in source.peel(tag)?.0 {
            if !plan.client.get(number) && plan.wanted.set(number) {
                progress.step(1)?;
            }
        }
    }
    Ok(())
}

/// A client that asks for a filter may have asked for one before: it need not have all objects that
/// its haves imply.
fn forget_filtered(
    source: &mut Source<'_>,
    bitmap: Option<&PackBitmap>,
    filter: &Filter,
    plan: &mut Plan,
) -> Result<()> {
    let keeps = |kind| filter.passes_kind(kind) && !filter.needs_depth() && !filter.needs_size();
    plan.edges.retain(|edge| keeps(edge.kind));
    if let Some(bitmap) = bitmap {
        for kind in [ObjectKind::Tree, ObjectKind::Blob] {
            match bitmap.bitmap.of_kind(kind) {
                Some(all) if !keeps(kind) => plan.client.subtract(&all),
                Some(_) => {}
                None => plan.client = Bits::default(),
            }
        }
    }
    let had: Vec<u32> = plan.client.iter().collect();
    for number in had {
        if bitmap.is_some_and(|bitmap| number < bitmap.bitmap.objects()) {
            continue;
        }
        let kind = source.kind(number)?;
        if matches!(kind, ObjectKind::Tree | ObjectKind::Blob) && !keeps(kind) {
            plan.client.clear(number);
        }
    }
    Ok(())
}
