//! The order in which the bitmap of a multi-pack index counts objects: as if its packs were one,
//! the preferred pack first (`gitformat-pack`, "multi-pack-index reverse indexes").
//!
//! An object that lies in several packs is counted once, in the pack that the index names for it.
//! The order is checked as a whole when it is opened; beyond that nothing is believed: where an
//! object lies, its pack's own index says.

use crate::dir::{Map, be32};
use crate::midx::MultiPackIndex;
use crate::rev::{self, Starts};
use crate::store::Store;

/// Where a pack's objects are in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The pack, as the store numbers it.
    pub(crate) pack: u32,
    /// Position of its first object.
    pub(crate) first: u32,
    /// How many of its objects are counted here.
    pub(crate) count: u32,
}

/// The objects of a multi-pack index in the order of its bitmap.
#[derive(Debug)]
pub(crate) struct PseudoPack {
    /// Which objects directory has the index.
    dir: usize,
    /// The order, where the index itself does not hold it.
    rev: Option<Map>,
    starts: Starts,
    /// For each pack of the index, where it would begin if all of them were one file.
    begins: Vec<u64>,
    stretches: Vec<Stretch>,
    count: u32,
}

impl PseudoPack {
    /// Takes the order from the index of an objects directory, or from the `.rev` file beside it;
    /// the error is the reason not to use it.
    pub(crate) fn of(store: &Store, dir: usize, rev: Option<Map>) -> Result<PseudoPack, &'static str> {
        const NONE: &str = "no order of its objects";
        const BAD: &str = "malformed order of its objects";
        let (midx, packs) = store.multi_pack_index(dir).ok_or("no multi-pack index")?;
        let rev = rev.filter(|_| midx.order().is_none());
        let order = order_of(midx, rev.as_ref()).ok_or(NONE)?;
        let count = midx.count();
        let size = |at: usize| {
            packs.get(at).and_then(|pack| store.pack(*pack)).map_or(0, |p| p.bytes().len() as u64)
        };
        let first = be32(order, 0).and_then(|index| midx.entry_at(index)).ok_or(NONE)?.0 as usize;
        let mut begins = vec![0; packs.len()];
        let mut begin = size(first);
        for at in (0..packs.len()).filter(|at| *at != first) {
            begins[at] = begin;
            begin = begin.checked_add(size(at)).ok_or(BAD)?;
        }
        let key = |index: u32| match midx.entry_at(index) {
            Some((pack, offset)) if offset < size(pack as usize) => begins[pack as usize] + offset,
            _ => u64::MAX,
        };
        let starts = rev::check_order(order, key).ok_or(BAD)?;
        let mut this = PseudoPack { dir, rev, starts, begins, stretches: Vec::new(), count };
        let others = (0..packs.len()).filter(|at| *at != first);
        let mut at = 0;
        for pack in std::iter::once(first).chain(others) {
            let end = this.position_of_key(midx, this.begins[pack] + size(pack));
            let end = end.unwrap_or_else(|position| position);
            this.stretches.push(Stretch { pack: packs[pack], first: at, count: end - at });
            at = end;
        }
        Ok(this)
    }

    /// How many objects are counted.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    /// The packs, in order.
    pub(crate) fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// Whether the pack is one of those counted here.
    pub(crate) fn holds(&self, pack: u32) -> bool {
        self.stretches.iter().any(|stretch| stretch.pack == pack)
    }

    fn midx<'s>(&self, store: &'s Store) -> Option<&'s MultiPackIndex> {
        Some(store.multi_pack_index(self.dir)?.0)
    }

    /// The index, in the order of ids, of the object at a position.
    pub(crate) fn index_at(&self, store: &Store, position: u32) -> Option<u32> {
        index_at(order_of(self.midx(store)?, self.rev.as_ref())?, position)
    }

    fn key_at(&self, midx: &MultiPackIndex, position: u32) -> Option<u64> {
        let index = index_at(order_of(midx, self.rev.as_ref())?, position)?;
        let (pack, offset) = midx.entry_at(index)?;
        Some(self.begins.get(pack as usize)? + offset)
    }

    /// The position of the object at a place of the file that all packs would make; else where it
    /// would be.
    fn position_of_key(&self, midx: &MultiPackIndex, key: u64) -> Result<u32, u32> {
        let near = self.starts.near(key);
        let (mut low, mut high) = if near.is_empty() { (0, self.count) } else { (near.start, near.end) };
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key_at(midx, middle).unwrap_or(u64::MAX).cmp(&key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// The position of an object.
    pub(crate) fn position_of(&self, store: &Store, id: &[u8]) -> Option<u32> {
        let midx = self.midx(store)?;
        let (pack, offset) = midx.entry_at(midx.lookup(id)?)?;
        self.position_of_key(midx, self.begins.get(pack as usize)? + offset).ok()
    }

    /// The position of the object whose entry begins at `offset` of a pack, if it is that copy
    /// which counts.
    pub(crate) fn position_of_copy(&self, store: &Store, pack: u32, offset: u64) -> Option<u32> {
        let (midx, packs) = store.multi_pack_index(self.dir)?;
        let at = packs.iter().position(|other| *other == pack)?;
        self.position_of_key(midx, self.begins.get(at)? + offset).ok()
    }

    /// Where the object at a position lies by its index: the pack, as the store numbers it, and the
    /// offset. To be checked against that pack.
    pub(crate) fn copy_at(&self, store: &Store, position: u32) -> Option<(u32, u64)> {
        let (midx, packs) = store.multi_pack_index(self.dir)?;
        let (pack, offset) = midx.entry_at(self.index_at(store, position)?)?;
        Some((*packs.get(pack as usize)?, offset))
    }

    /// The pack of the object at a position, and its index there.
    pub(crate) fn place(&self, store: &Store, position: u32) -> Option<(u32, u32)> {
        let midx = self.midx(store)?;
        let (pack, offset) = self.copy_at(store, position)?;
        let id = midx.id_at(self.index_at(store, position)?);
        let p = store.pack(pack)?;
        // One of the two will do: a damaged index may have the offset or the id wrong.
        let by_id = p.lookup(id.as_bytes());
        let index = by_id.or_else(|| p.index_of_position(p.position_of_offset(offset)?))?;
        Some((pack, index))
    }
}

fn order_of<'m>(midx: &'m MultiPackIndex, rev: Option<&'m Map>) -> Option<&'m [u8]> {
    match rev {
        Some(rev) => rev::numbers(rev, midx.count(), midx.hash(), midx.checksum()),
        None => midx.order(),
    }
}

fn index_at(order: &[u8], position: u32) -> Option<u32> {
    be32(order, usize::try_from(position).ok()?.checked_mul(4)?)
}
