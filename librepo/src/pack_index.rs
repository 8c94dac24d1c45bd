//! Pack indexes, versions 1 and 2 (`gitformat-pack`).

use libgit::{HashKind, ObjectId};

use crate::chunks::{FANOUT_LEN, IdTable};
use crate::dir::{Map, be32, be64};

const MAGIC: &[u8; 4] = b"\xfftOc";

/// A pack's index: its ids in order, each with the offset of its entry.
#[derive(Debug)]
pub struct PackIndex {
    map: Map,
    hash: HashKind,
    version: u8,
    ids: IdTable,
    /// How far apart the records of version 1 are.
    stride: usize,
    crcs: usize,
    offsets: usize,
    large: usize,
    large_end: usize,
}

impl PackIndex {
    /// Checks sizes and the fan-out table; the error is the reason to ignore the file.
    pub fn parse(map: Map, hash: HashKind) -> Result<PackIndex, &'static str> {
        let data: &[u8] = &map;
        let width = hash.len();
        let (version, table) = if data.starts_with(MAGIC) {
            match be32(data, 4) {
                Some(2) => (2, 8),
                _ => return Err("index of unknown version"),
            }
        } else {
            (1, 0)
        };
        let start = table + FANOUT_LEN;
        let (ids, stride) = if version == 1 { (start + 4, 4 + width) } else { (start, width) };
        let ids = IdTable::parse(data, table, ids, stride, width)?;
        let n = ids.count() as usize;
        let end = data.len().checked_sub(2 * width).ok_or("index cut short")?;
        let (crcs, offsets, large) = if version == 1 {
            let size = n.checked_mul(4 + width).and_then(|size| size.checked_add(start));
            if size != Some(end) {
                return Err("index of the wrong size");
            }
            (0, start, end)
        } else {
            let fixed = n.checked_mul(width + 8).and_then(|size| size.checked_add(start));
            let large = fixed.filter(|&large| large <= end).ok_or("index cut short")?;
            if !(end - large).is_multiple_of(8) || (end - large) / 8 > n {
                return Err("index of the wrong size");
            }
            let crcs = start + n * width;
            (crcs, crcs + n * 4, large)
        };
        Ok(PackIndex { hash, version, ids, stride, crcs, offsets, large, large_end: end, map })
    }

    /// The whole file.
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// When its file was written, in seconds since 1970 and nanoseconds.
    pub(crate) fn written(&self) -> Option<(i64, i64)> {
        Some(self.map.file_id()?.modified())
    }

    /// How many objects there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.ids.count()
    }

    /// The bytes of the id at `index`, counted in the order of ids; empty beyond the last.
    #[inline]
    pub fn id_bytes(&self, index: u32) -> &[u8] {
        self.ids.id(&self.map, index)
    }

    /// The id at `index`; null beyond the last.
    pub fn id_at(&self, index: u32) -> ObjectId {
        ObjectId::from_bytes(self.hash, self.id_bytes(index)).unwrap_or(ObjectId::null(self.hash))
    }

    /// The offset of the entry at `index` in the pack; `u64::MAX` (where no pack has an entry) if
    /// the index is damaged there.
    #[inline]
    pub fn offset_at(&self, index: u32) -> u64 {
        if index >= self.count() {
            return u64::MAX;
        }
        let i = index as usize;
        if self.version == 1 {
            return be32(&self.map, self.offsets + i * self.stride).map_or(u64::MAX, u64::from);
        }
        match be32(&self.map, self.offsets + i * 4) {
            Some(small) if small & 0x8000_0000 == 0 => u64::from(small),
            Some(link) => {
                let at = self.large + (link & 0x7fff_ffff) as usize * 8;
                if at + 8 > self.large_end { u64::MAX } else { be64(&self.map, at).unwrap_or(u64::MAX) }
            }
            None => u64::MAX,
        }
    }

    /// The table of 32-bit offsets of version 2, empty for version 1.
    pub(crate) fn small_offsets(&self) -> &[u8] {
        if self.version == 1 { &[] } else { &self.map[self.offsets..self.large] }
    }

    /// The CRC-32 of the entry's bytes in the pack; version 1 has none.
    pub fn crc_at(&self, index: u32) -> Option<u32> {
        if self.version == 1 || index >= self.count() {
            return None;
        }
        be32(&self.map, self.crcs + index as usize * 4)
    }

    /// The index of an id.
    #[inline]
    pub fn lookup(&self, id: &[u8]) -> Option<u32> {
        self.ids.lookup(&self.map, id)
    }

    /// The indexes of all ids that begin with these bytes.
    pub fn with_prefix(&self, prefix: &[u8]) -> std::ops::Range<u32> {
        self.ids.with_prefix(&self.map, prefix)
    }

    /// The checksum of the pack that this index belongs to.
    pub fn pack_checksum(&self) -> &[u8] {
        &self.map[self.large_end..self.large_end + self.hash.len()]
    }

    /// The algorithm of the ids.
    pub fn hash(&self) -> HashKind {
        self.hash
    }
}
