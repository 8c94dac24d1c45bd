//! The order of a pack's entries: `.rev` files (`gitformat-pack`), or computed.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use libgit::HashKind;

use crate::checked::{Checked, Seal};
use crate::dir::{Map, be32};
use crate::pack_index::PackIndex;

const HEADER_LEN: usize = 12;
/// A stretch of a pack in which no entry was met so far.
const NO_ENTRY: u32 = u32::MAX;

/// How far apart the entries are of which the offset is kept where the whole order is not read.
const SAMPLED: usize = 64;
/// After a search for every so many entries the whole order is read after all.
const MANY: u32 = 16;

/// The indexes of a pack's entries in the order of their offsets.
#[derive(Debug)]
pub struct Order {
    /// The order as computed here; none if the `.rev` file has it.
    computed: Option<Vec<u32>>,
    /// From the start, or once it is worth it.
    starts: OnceLock<Starts>,
    /// The offset of every [`SAMPLED`]th entry, until then.
    samples: Vec<u64>,
    searches: AtomicU32,
}

impl Order {
    /// The order of a pack's entries. A `.rev` file is used only if every number in it is where it
    /// belongs, which one pass shows: `n` indexes whose offsets grow are the order, and no others
    /// are. If that was `checked` before, a few of them do.
    pub fn of(index: &PackIndex, rev: Option<&Map>, checked: &Checked) -> Order {
        let seal = rev.and_then(|rev| Seal::of("order", &[index.map(), rev]));
        if checked.knows(seal)
            && let Some(order) = rev.and_then(|rev| numbers_of(index, rev))
        {
            let sampled = order.as_chunks::<4>().0.iter().step_by(SAMPLED);
            let samples = sampled.map(|i| index.offset_at(u32::from_be_bytes(*i))).collect();
            return Order { computed: None, starts: OnceLock::new(), samples, searches: AtomicU32::new(0) };
        }
        let whole = |computed, starts: Starts| Order {
            computed,
            starts: starts.into(),
            samples: Vec::new(),
            searches: AtomicU32::new(0),
        };
        if let Some(starts) = rev.and_then(|rev| check(index, rev)) {
            checked.is_right(seal);
            return whole(None, starts);
        }
        let order = compute(index);
        let starts = Starts::of(index, order.iter().copied());
        whole(Some(order), starts)
    }

    /// The index at a position; `rev` must be the file that [`Order::of`] got.
    #[inline]
    pub fn index_at(&self, rev: Option<&Map>, position: u32) -> Option<u32> {
        match &self.computed {
            None => be32(rev?, HEADER_LEN + position as usize * 4),
            Some(order) => order.get(position as usize).copied(),
        }
    }

    /// The few positions among which an entry with this offset must be; both files those that
    /// [`Order::of`] got.
    #[inline]
    pub fn near(&self, index: &PackIndex, rev: Option<&Map>, offset: u64) -> Range<u32> {
        match self.starts.get() {
            Some(starts) => starts.near(offset),
            None => self.sampled(index, rev, offset),
        }
    }

    /// The same by the samples, as long as few ask.
    fn sampled(&self, index: &PackIndex, rev: Option<&Map>, offset: u64) -> Range<u32> {
        if self.searches.fetch_add(1, Relaxed) >= index.count() / MANY {
            let order = rev.and_then(|rev| numbers_of(index, rev)).unwrap_or_default().as_chunks::<4>().0;
            let starts = || Starts::of(index, order.iter().map(|i| u32::from_be_bytes(*i)));
            return self.starts.get_or_init(starts).near(offset);
        }
        let above = self.samples.partition_point(|sample| *sample <= offset);
        let low = above.saturating_sub(1) * SAMPLED;
        low as u32..index.count().min((above * SAMPLED) as u32)
    }

    /// Whether the `.rev` file is in use.
    pub fn is_from_file(&self) -> bool {
        self.computed.is_none()
    }
}

/// For every stretch of a pack the first position in it, about one for four entries: a binary
/// search over all of them would miss the cache at most of its steps.
#[derive(Debug)]
pub(crate) struct Starts {
    shift: u32,
    count: u32,
    first: Vec<u32>,
}

impl Starts {
    fn new(count: u32, largest: u64) -> Starts {
        let most = u64::from(count / 4).max(1);
        let mut shift = 0;
        while largest >> shift > most {
            shift += 1;
        }
        Starts { shift, count, first: vec![NO_ENTRY; (largest >> shift) as usize + 1] }
    }

    /// Those of an index's entries, which come in the order of their offsets.
    fn of(index: &PackIndex, order: impl DoubleEndedIterator<Item = u32> + ExactSizeIterator) -> Starts {
        let mut order = order.zip(0..index.count()).rev().peekable();
        let largest = order.peek().map_or(0, |(i, _)| index.offset_at(*i));
        let mut starts = Starts::new(index.count(), largest);
        for (i, position) in order {
            starts.add(index.offset_at(i), position);
        }
        starts.fill();
        starts
    }

    /// Adds an entry; the last comes first, so that the first of a stretch is what stays, without a
    /// question that a processor would guess wrong for every fourth.
    #[inline]
    fn add(&mut self, offset: u64, position: u32) {
        if let Some(first) = self.first.get_mut((offset >> self.shift) as usize) {
            *first = position;
        }
    }

    /// When all were added: where no entry begins, the next one does.
    fn fill(&mut self) {
        let mut next = self.count;
        for first in self.first.iter_mut().rev() {
            next = if *first == NO_ENTRY { next } else { *first };
            *first = next;
        }
    }

    /// The positions among which an entry with this offset must be.
    #[inline]
    pub(crate) fn near(&self, offset: u64) -> Range<u32> {
        let stretch = usize::try_from(offset >> self.shift).unwrap_or(usize::MAX);
        let Some(&low) = self.first.get(stretch) else { return 0..0 };
        low..self.first.get(stretch + 1).copied().unwrap_or(self.count)
    }
}

/// Whether the file is the order of this index's entries.
fn check(index: &PackIndex, rev: &[u8]) -> Option<Starts> {
    let order = numbers_of(index, rev)?;
    let small = index.small_offsets();
    let offset_at = |i: u32| match be32(small, i as usize * 4) {
        Some(small) if small & 0x8000_0000 == 0 => u64::from(small),
        _ => index.offset_at(i),
    };
    check_order(order, offset_at)
}

/// The numbers in the `.rev` file of an index, as far as its frame is right.
fn numbers_of<'r>(index: &PackIndex, rev: &'r [u8]) -> Option<&'r [u8]> {
    numbers(rev, index.count(), index.hash(), index.pack_checksum())
}

/// Whether these numbers (32 bits each) are all indexes of entries in the order of their offsets.
/// An offset of `u64::MAX` is none.
pub(crate) fn check_order(order: &[u8], offset_at: impl Fn(u32) -> u64) -> Option<Starts> {
    let order = order.as_chunks::<4>().0;
    let largest = order.last().map_or(0, |last| offset_at(u32::from_be_bytes(*last)));
    if largest == u64::MAX {
        return None;
    }
    let count = u32::try_from(order.len()).ok()?;
    let mut starts = Starts::new(count, largest);
    // From the end, as `Starts` wants it.
    let mut next = largest.checked_add(1)?;
    for (bytes, position) in order.iter().zip(0..count).rev() {
        let offset = offset_at(u32::from_be_bytes(*bytes));
        if offset >= next {
            return None;
        }
        next = offset;
        starts.add(offset, position);
    }
    if next == 0 {
        return None;
    }
    starts.fill();
    Some(starts)
}

/// The numbers in a `.rev` file of `count` entries, if it is well-formed and belongs to the file
/// with this checksum.
pub(crate) fn numbers<'r>(rev: &'r [u8], count: u32, hash: HashKind, checksum: &[u8]) -> Option<&'r [u8]> {
    let header = [0x5249_4458, 1, u32::from(hash.format_number())];
    let end = HEADER_LEN + count as usize * 4;
    let good = rev.len() == end + 2 * hash.len()
        && (0..3).all(|i| be32(rev, i * 4) == Some(header[i]))
        && rev[end..end + hash.len()] == *checksum;
    good.then(|| &rev[HEADER_LEN..end])
}

/// Sorts the entries by offset.
fn compute(index: &PackIndex) -> Vec<u32> {
    let offsets = || (0..index.count()).map(|i| index.offset_at(i));
    let largest = offsets().max().unwrap_or(0);
    if largest >> 32 == 0 {
        // Offset and index in one word.
        let order: Vec<u64> = offsets().zip(0..).map(|(offset, i): (_, u64)| (offset << 32) | i).collect();
        return sort(order, |word| word >> 32, largest).into_iter().map(|word| word as u32).collect();
    }
    let order: Vec<(u64, u32)> = offsets().zip(0..).collect();
    sort(order, |entry| entry.0, largest).into_iter().map(|(_, i)| i).collect()
}

const DIGIT: u32 = 11;

/// Sorts by a key, digit after digit, leaving those with the same key in their order.
fn sort<T: Copy + Default>(mut order: Vec<T>, key: impl Fn(&T) -> u64, largest: u64) -> Vec<T> {
    // Few are compared faster than counted; and offsets with more digits than those of any real
    // pack are a damaged index's.
    if order.len() < 2048 || largest >> 55 != 0 {
        order.sort_by_key(key);
        return order;
    }
    let digit = |entry: &T, shift| (key(entry) >> shift) as usize & ((1 << DIGIT) - 1);
    let mut sorted = vec![T::default(); order.len()];
    let mut shift = 0;
    while largest >> shift != 0 {
        let mut starts = [0usize; (1 << DIGIT) + 1];
        for entry in &order {
            starts[digit(entry, shift) + 1] += 1;
        }
        for i in 0..1 << DIGIT {
            starts[i + 1] += starts[i];
        }
        for entry in &order {
            let at = &mut starts[digit(entry, shift)];
            sorted[*at] = *entry;
            *at += 1;
        }
        std::mem::swap(&mut order, &mut sorted);
        shift += DIGIT;
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An index with these offsets, some of them in the table of large ones.
    fn index(offsets: &[u64]) -> PackIndex {
        let mut data = b"\xfftOc\0\0\0\x02".to_vec();
        let count = offsets.len() as u32;
        data.extend((0..256).flat_map(|_| count.to_be_bytes()));
        data.extend((0..count).flat_map(|i| {
            let mut id = [0; 20];
            id[16..].copy_from_slice(&i.to_be_bytes());
            id
        }));
        data.extend(vec![0; offsets.len() * 4]);
        let mut large = Vec::new();
        for &offset in offsets {
            let small = u32::try_from(offset).ok().filter(|small| small >> 31 == 0);
            data.extend(small.unwrap_or(0x8000_0000 | (large.len() / 8) as u32).to_be_bytes());
            if small.is_none() {
                large.extend(offset.to_be_bytes());
            }
        }
        data.extend(large);
        data.extend([0; 40]);
        PackIndex::parse(Map::of_bytes(&data).unwrap(), HashKind::Sha1).unwrap()
    }

    #[test]
    fn sorted_by_digits_and_by_comparison_alike() {
        for (count, step) in [(100u64, 13), (5000, 1 << 20), (5000, 1 << 24), (3000, 1 << 50), (0, 0)] {
            let offsets: Vec<u64> = (0..count).map(|i| 12 + (i * 7919 % count.max(1)) * step).collect();
            let index = index(&offsets);
            let mut want: Vec<u32> = (0..count as u32).collect();
            want.sort_by_key(|&i| offsets[i as usize]);
            assert_eq!(compute(&index), want, "{count} {step}");
        }
    }
}
