//! The common parts of multi-pack indexes and commit graphs: a table of chunks (`gitformat-chunk`),
//! and sorted ids behind a fan-out table, which pack indexes have, too.

use std::cmp::Ordering;
use std::ops::Range;

use crate::dir::{be32, be64};

/// Length of a fan-out table in bytes.
pub const FANOUT_LEN: usize = 256 * 4;

/// The chunks of a file, found by the table at `at`.
#[derive(Clone, Debug)]
pub struct Chunks(Vec<([u8; 4], Range<usize>)>);

impl Chunks {
    /// Parses a table of `count` chunks and one last entry, which ends it. All chunks must lie
    /// before the last `trailer` bytes of the file.
    pub fn parse(data: &[u8], at: usize, count: u8, trailer: usize) -> Result<Chunks, &'static str> {
        let end = data.len().checked_sub(trailer).ok_or("file cut short")?;
        let mut chunks: Vec<([u8; 4], Range<usize>)> = Vec::with_capacity(usize::from(count));
        let mut from = at + (usize::from(count) + 1) * 12;
        for i in 0..=usize::from(count) {
            let entry = at + i * 12;
            let name = data.get(entry..entry + 4).ok_or("file cut short")?;
            let offset = be64(data, entry + 4).ok_or("file cut short")?;
            let offset = usize::try_from(offset).map_err(|_| "chunk outside of the file")?;
            if offset < from || offset > end {
                return Err("chunk outside of the file");
            }
            if let Some((_, range)) = chunks.last_mut() {
                range.end = offset;
            }
            from = offset;
            if i == usize::from(count) {
                if name != [0; 4] {
                    return Err("table of chunks without an end");
                }
                break;
            }
            if chunks.iter().any(|(other, _)| other == name) {
                return Err("chunk that occurs twice");
            }
            chunks.push(([name[0], name[1], name[2], name[3]], offset..offset));
        }
        Ok(Chunks(chunks))
    }

    /// Where a chunk lies in the file.
    pub fn find(&self, name: &[u8; 4]) -> Option<Range<usize>> {
        self.0.iter().find(|(other, _)| other == name).map(|(_, range)| range.clone())
    }

    /// Where a chunk lies in the file, if it has exactly `len` bytes.
    pub fn sized(&self, name: &[u8; 4], len: Option<usize>) -> Option<Range<usize>> {
        self.find(name).filter(|range| Some(range.len()) == len)
    }
}

/// Ids in ascending order, at equal distances, behind a fan-out table.
#[derive(Clone, Debug)]
pub struct IdTable {
    fanout: Box<[u32; 257]>,
    ids: usize,
    stride: usize,
    width: usize,
}

impl IdTable {
    /// Reads the fan-out table at `fanout`. The first id begins at `ids`, the next `stride` bytes
    /// further on, and each has `width` bytes. That all of them lie within the file is for the
    /// caller to check, by [`IdTable::count`].
    pub fn parse(
        data: &[u8],
        at: usize,
        ids: usize,
        stride: usize,
        width: usize,
    ) -> Result<IdTable, &'static str> {
        let mut fanout = Box::new([0; 257]);
        for i in 0..256 {
            let value = be32(data, at + i * 4).ok_or("file cut short")?;
            if value < fanout[i] {
                return Err("fan-out that does not grow");
            }
            fanout[i + 1] = value;
        }
        Ok(IdTable { fanout, ids, stride, width })
    }

    /// How many ids there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.fanout[256]
    }

    /// The id at `index`; empty beyond the last.
    #[inline]
    pub fn id<'d>(&self, data: &'d [u8], index: u32) -> &'d [u8] {
        if index >= self.count() {
            return &[];
        }
        let at = self.ids + index as usize * self.stride;
        data.get(at..at + self.width).unwrap_or(&[])
    }

    /// The first eight bytes of an id, to compare.
    #[inline]
    fn key(&self, data: &[u8], index: u32) -> u64 {
        be64(data, self.ids + index as usize * self.stride).unwrap_or(u64::MAX)
    }

    /// The index of an id.
    ///
    /// Ids are evenly spread, so that the value of one says where in its part of the table it is to
    /// be found: two guesses, each by what the one before saw, come within a few ids of it, and
    /// most often within a line of cache.
    pub fn lookup(&self, data: &[u8], id: &[u8]) -> Option<u32> {
        let key = be64(id, 0)?;
        let first = usize::from(id[0]);
        let (mut low, mut high) = (self.fanout[first], self.fanout[first + 1]);
        if low == high {
            return None;
        }
        let (mut low_key, mut high_key) = ((first as u64) << 56, ((first as u64) << 56) | (u64::MAX >> 8));
        let mut guess = low;
        for _ in 0..2 {
            let part = key.saturating_sub(low_key) as f64 / (high_key.saturating_sub(low_key) as f64 + 1.0);
            // A conversion from a float saturates, whatever a damaged table made of it.
            guess = low.saturating_add((f64::from(high - low) * part) as u32).min(high - 1);
            let found = self.key(data, guess);
            match found.cmp(&key) {
                Ordering::Less => (low, low_key) = (guess + 1, found),
                Ordering::Greater => (high, high_key) = (guess, found),
                Ordering::Equal if self.id(data, guess) == id => return Some(guess),
                Ordering::Equal => break,
            }
            if low >= high {
                return None;
            }
        }
        // From there in growing steps, until the id lies between two of them. Ids can share eight
        // bytes, so that an equal key only ends the search for bounds.
        let mut step = 1;
        while high - low > step {
            let next = if guess < low { low + step } else { high - step };
            match self.key(data, next).cmp(&key) {
                Ordering::Less if guess < low => low = next,
                Ordering::Less => {
                    low = next;
                    break;
                }
                Ordering::Greater if guess >= low => high = next,
                Ordering::Greater => {
                    high = next;
                    break;
                }
                Ordering::Equal => break,
            }
            step *= 2;
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.key(data, middle).cmp(&key).then_with(|| self.id(data, middle).cmp(id)) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// The indexes of all ids that begin with `prefix`.
    pub fn with_prefix(&self, data: &[u8], prefix: &[u8]) -> Range<u32> {
        let part = |mut low: u32, mut high: u32, below: &dyn Fn(&[u8]) -> bool| {
            while low < high {
                let middle = low + (high - low) / 2;
                if below(self.id(data, middle)) { low = middle + 1 } else { high = middle }
            }
            low
        };
        let cut = &prefix[..prefix.len().min(self.width)];
        let start = part(0, self.count(), &|id| id < cut);
        start..part(start, self.count(), &|id| id.starts_with(cut))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table of these ids, of 20 bytes each.
    fn table(ids: &[[u8; 20]]) -> (Vec<u8>, IdTable) {
        let mut data = Vec::new();
        for first in 0..256 {
            data.extend((ids.iter().filter(|id| usize::from(id[0]) <= first).count() as u32).to_be_bytes());
        }
        data.extend(ids.concat());
        let table = IdTable::parse(&data, 0, FANOUT_LEN, 20, 20).unwrap();
        (data, table)
    }

    proptest::proptest! {
        /// Ids that crowd together, share long beginnings or lie far apart are all found, and no
        /// others.
        #[test]
        fn lookup_finds_exactly_what_is_there(
            seeds in proptest::collection::vec((0u8..4, 0u8..4, 0u8..3, 0u8..=255), 0..200),
            absent: [u8; 20],
        ) {
            let spread = [0, 1, 0x7f, 0xff];
            let make = |(a, b, shape, c): (u8, u8, u8, u8)| {
                let mut id = [0; 20];
                match shape {
                    0 => (id[0], id[1], id[2]) = (spread[usize::from(a)], spread[usize::from(b)], c),
                    1 => (id[0], id[8], id[19]) = (spread[usize::from(a)], spread[usize::from(b)], c),
                    _ => id = [c.wrapping_mul(a.wrapping_add(b)); 20],
                }
                id
            };
            let mut ids: Vec<[u8; 20]> = seeds.into_iter().map(make).collect();
            ids.sort_unstable();
            ids.dedup();
            let (data, table) = table(&ids);
            for (index, id) in ids.iter().enumerate() {
                assert_eq!(table.lookup(&data, id), Some(index as u32));
                let mut near = *id;
                near[19] ^= 1;
                assert_eq!(table.lookup(&data, &near), ids.binary_search(&near).ok().map(|at| at as u32));
                assert_eq!(table.with_prefix(&data, id), index as u32..index as u32 + 1);
            }
            assert_eq!(table.lookup(&data, &absent), ids.binary_search(&absent).ok().map(|at| at as u32));
            let zeros = ids.iter().filter(|id| id[0] == 0).count() as u32;
            assert_eq!(table.with_prefix(&data, &[0]), 0..zeros);
        }

        #[test]
        fn damaged_tables_end_the_search(data in proptest::collection::vec(0u8..=255, 1024..3000), id: [u8; 20]) {
            let mut data = data;
            for (at, chunk) in (0u32..).zip(data[..1024].chunks_exact_mut(4)) {
                chunk.copy_from_slice(&(at * 3).to_be_bytes());
            }
            let table = IdTable::parse(&data, 0, FANOUT_LEN, 20, 20).unwrap();
            let _ = table.lookup(&data, &id);
            let _ = table.with_prefix(&data, &id[..4]);
        }
    }
}
