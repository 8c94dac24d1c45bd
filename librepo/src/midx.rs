//! Multi-pack indexes (`gitformat-pack`).

use libgit::{HashKind, ObjectId};

use crate::chunks::{Chunks, IdTable};
use crate::dir::{Map, be32, be64};

/// A multi-pack index: the ids of several packs in one order.
#[derive(Debug)]
pub struct MultiPackIndex {
    map: Map,
    hash: HashKind,
    ids: IdTable,
    packs: Vec<String>,
    offsets: usize,
    large: std::ops::Range<usize>,
    chunks: Chunks,
}

impl MultiPackIndex {
    /// Checks sizes, the fan-out table and the names of the packs; the error is the reason to
    /// ignore the file.
    pub fn parse(map: Map, hash: HashKind) -> Result<MultiPackIndex, &'static str> {
        const CUT: &str = "multi-pack index cut short";
        let data: &[u8] = &map;
        let width = hash.len();
        let header = data.get(..12).ok_or(CUT)?;
        if header[..6] != [b'M', b'I', b'D', b'X', 1, hash.format_number()] || header[7] != 0 {
            return Err("multi-pack index of unknown version");
        }
        let chunks = Chunks::parse(data, 12, header[6], width)?;
        let fanout = chunks.sized(b"OIDF", Some(1024)).ok_or("multi-pack index without a fan-out table")?;
        let ids = chunks.find(b"OIDL").ok_or("multi-pack index without ids")?;
        let table = IdTable::parse(data, fanout.start, ids.start, width, width)?;
        let n = table.count() as usize;
        if Some(ids.len()) != n.checked_mul(width) {
            return Err("multi-pack index of the wrong size");
        }
        let offsets =
            chunks.sized(b"OOFF", n.checked_mul(8)).ok_or("multi-pack index without offsets")?.start;
        let large = chunks.find(b"LOFF").unwrap_or(0..0);
        let names = &data[chunks.find(b"PNAM").ok_or("multi-pack index without names")?];
        let count = be32(data, 8).ok_or(CUT)? as usize;
        // Every name takes two bytes at least, so that this bounds what is collected.
        let mut packs = Vec::new();
        for name in names.split(|&byte| byte == 0).take(count) {
            let stem = name.strip_suffix(b".idx").or(name.strip_suffix(b".pack"));
            let stem =
                stem.filter(|stem| !stem.contains(&b'/')).and_then(|stem| std::str::from_utf8(stem).ok());
            packs.push(stem.ok_or("multi-pack index with a bad name of a pack")?.to_owned());
        }
        if packs.len() != count {
            return Err("multi-pack index with too few names");
        }
        Ok(MultiPackIndex { hash, ids: table, packs, offsets, large, chunks, map })
    }

    /// The algorithm of the ids.
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// How many objects there are.
    pub fn count(&self) -> u32 {
        self.ids.count()
    }

    /// The packs' names, without `.idx`, in the order of their numbers.
    pub fn packs(&self) -> &[String] {
        &self.packs
    }

    /// The id at `index`, in the order of ids; null beyond the last.
    pub fn id_at(&self, index: u32) -> ObjectId {
        ObjectId::from_bytes(self.hash, self.ids.id(&self.map, index)).unwrap_or(ObjectId::null(self.hash))
    }

    /// The index of an id.
    #[inline]
    pub fn lookup(&self, id: &[u8]) -> Option<u32> {
        self.ids.lookup(&self.map, id)
    }

    /// The number of the pack (of [`MultiPackIndex::packs`]) that has the object at `index`, and
    /// the offset of its entry. Not checked against that pack.
    #[inline]
    pub fn entry_at(&self, index: u32) -> Option<(u32, u64)> {
        if index >= self.count() {
            return None;
        }
        let at = self.offsets + index as usize * 8;
        let (pack, word) = (be32(&self.map, at)?, be32(&self.map, at + 4)?);
        if pack as usize >= self.packs.len() {
            return None;
        }
        // Without a table of large offsets all 32 bits are the offset.
        if word & 0x8000_0000 == 0 || self.large.is_empty() {
            return Some((pack, u64::from(word)));
        }
        let large = self.map.get(self.large.clone())?;
        Some((pack, be64(large, (word & 0x7fff_ffff) as usize * 8)?))
    }

    /// The indexes of all objects in the pseudo-pack's order (32 bits each), if the file has that
    /// order.
    pub fn order(&self) -> Option<&[u8]> {
        self.map.get(self.chunks.sized(b"RIDX", (self.count() as usize).checked_mul(4))?)
    }

    /// A chunk's bytes by its name.
    pub fn chunk(&self, name: &[u8; 4]) -> Option<&[u8]> {
        self.map.get(self.chunks.find(name)?)
    }

    /// The checksum at the file's end, by which a `.bitmap` names it.
    pub fn checksum(&self) -> &[u8] {
        &self.map[self.map.len() - self.hash.len()..]
    }
}
