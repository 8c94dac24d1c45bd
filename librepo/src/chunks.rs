//! What multi-pack indexes and commit graphs have in common: a table of chunks (`gitformat-chunk`), and ids
//! in order behind a fan-out table, as pack indexes have them too.

use std::cmp::Ordering;
use std::ops::Range;

use crate::beneath::{be32, be64};

/// Length of a fan-out table in bytes.
pub const FANOUT_LEN: usize = 256 * 4;

/// The chunks of a file, found by the table at `at`.
#[derive(Clone, Debug)]
pub struct Chunks(Vec<([u8; 4], Range<usize>)>);

impl Chunks {
    /// Parses the table of `count` chunks and the end; everything must lie before the last `trailer` bytes.
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

    /// The same, if it has exactly this many bytes.
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
    /// Reads the fan-out table at `fanout`. The first id begins at `ids`, the next `stride` bytes further on, and
    /// each has `width` bytes. That all of them lie within the file is for the caller to check, by [`IdTable::count`].
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

    /// The index of an id.
    #[inline]
    pub fn lookup(&self, data: &[u8], id: &[u8]) -> Option<u32> {
        let first = usize::from(*id.first()?);
        let (mut low, mut high) = (self.fanout[first], self.fanout[first + 1]);
        // Ids are evenly spread. The few steps below begin where the second to fourth byte says it should be.
        if let Some(&[_, a, b, c]) = id.get(..4).and_then(|start| <&[u8; 4]>::try_from(start).ok()) {
            let spread = u64::from(high - low);
            let part = u64::from(u32::from_be_bytes([0, a, b, c]));
            let guess = low + ((spread * part) >> 24) as u32;
            // The spread of a binomial distribution: beyond four times its deviation only one in 15,000 lies.
            let reach = 2 + 2 * (spread as f32).sqrt() as u32;
            let (near, far) = (guess.saturating_sub(reach).max(low), guess.saturating_add(reach).min(high));
            if near > low && self.id(data, near) > id {
                high = near;
            } else {
                low = near;
                if far < high {
                    if self.id(data, far) > id { high = far } else { low = far }
                }
            }
        }
        while low < high {
            let middle = low + (high - low) / 2;
            match self.id(data, middle).cmp(id) {
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
