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
    let mut last = 0;
    rev[HEADER_LEN..HEADER_LEN + count * 4].chunks_exact(4).all(|bytes| {
        let offset = index.offset_at(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
        let grows = offset > last && offset != u64::MAX;
        last = offset;
        grows
    })
}

/// Sorts the entries by offset.
fn compute(index: &PackIndex) -> Vec<u32> {
    let mut order: Vec<(u64, u32)> = (0..index.count()).map(|i| (index.offset_at(i), i)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}
