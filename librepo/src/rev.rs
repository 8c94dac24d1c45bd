//! The order of a pack's entries: `.rev` files (`gitformat-pack`), or computed.

use crate::beneath::{Map, be32};
use crate::pack_index::PackIndex;

const HEADER_LEN: usize = 12;

/// The indexes of a pack's entries in the order of their offsets.
#[derive(Debug)]
pub enum Order {
    /// As the `.rev` file has it.
    File,
    /// Computed here.
    Computed(Vec<u32>),
}

impl Order {
    /// The order of a pack's entries. A `.rev` file is used only if every number in it is where it
    /// belongs, which one pass shows: `n` indexes whose offsets grow are the order, and no others are.
    pub fn of(index: &PackIndex, rev: Option<&Map>) -> Order {
        match rev {
            Some(rev) if good(index, rev) => Order::File,
            _ => Order::Computed(compute(index)),
        }
    }

    /// The index at a position; `rev` must be the file that [`Order::of`] got.
    #[inline]
    pub fn index_at(&self, rev: Option<&Map>, position: u32) -> Option<u32> {
        match self {
            Order::File => be32(rev?, HEADER_LEN + position as usize * 4),
            Order::Computed(order) => order.get(position as usize).copied(),
        }
    }

    /// Whether the `.rev` file is in use.
    pub fn is_from_file(&self) -> bool {
        matches!(self, Order::File)
    }
}

/// Whether the file is the order of this index's entries.
fn good(index: &PackIndex, rev: &[u8]) -> bool {
    let (count, width) = (index.count() as usize, index.hash().len());
    let header = [0x5249_4458, 1, u32::from(index.hash().format_number())];
    if rev.len() != HEADER_LEN + count * 4 + 2 * width
        || (0..3).any(|i| be32(rev, i * 4) != Some(header[i]))
        || rev[rev.len() - 2 * width..rev.len() - width] != *index.pack_checksum()
    {
        return false;
    }
    let small = index.small_offsets();
    let mut last = 0;
    rev[HEADER_LEN..HEADER_LEN + count * 4].chunks_exact(4).all(|bytes| {
        let i = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let offset = match be32(small, i as usize * 4) {
            Some(small) if small & 0x8000_0000 == 0 => u64::from(small),
            _ => index.offset_at(i),
        };
        let grows = offset > last && offset != u64::MAX;
        last = offset;
        grows
    })
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
    // Few are compared faster than counted; and offsets with more digits than those of any real pack
    // are a damaged index's.
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
    use crate::id::HashKind;

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
