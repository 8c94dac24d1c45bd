//! Packs: entries, and the order in which they lie (`gitformat-pack`).

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, OnceLock};

use libgit::{HashKind, ObjectId, ObjectKind};

use crate::checked::Checked;
use crate::dir::{Map, be32};
use crate::error::Error;
use crate::pack_index::PackIndex;
use crate::rev::Order;

/// Bytes before the first entry.
pub const HEADER_LEN: usize = 12;

/// What a pack entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A whole object.
    Base(ObjectKind),
    /// A delta against the entry at this offset of the same pack.
    OfsDelta(u64),
    /// A delta against the object of this name.
    RefDelta(ObjectId),
}

/// The header of a pack entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it holds.
    pub kind: EntryKind,
    /// How many bytes the compressed data yields: the object's size, or the delta's.
    pub size: u64,
    /// Length in bytes of the header, the reference to a base included.
    pub header_len: usize,
    /// Where the compressed data begins.
    pub data_offset: u64,
}

impl Entry {
    /// Parses the entry at `offset` of `data`, a pack with `trailer` bytes of checksum at its end
    /// (or none).
    pub fn parse(data: &[u8], offset: u64, hash: HashKind) -> Result<Entry, &'static str> {
        const CUT: &str = "entry cut short";
        let start = usize::try_from(offset).map_err(|_| "offset beyond the end")?;
        let rest = data.get(start..).ok_or("offset beyond the end")?;
        let first = *rest.first().ok_or(CUT)?;
        let mut size = u64::from(first & 15);
        let mut shift = 4;
        let mut at = 1;
        let mut byte = first;
        while byte & 0x80 != 0 {
            byte = *rest.get(at).ok_or(CUT)?;
            at += 1;
            let part = u64::from(byte & 0x7f);
            // Ten bytes give 67 bits: what does not fit is no size.
            if shift > 63 || (part << shift) >> shift != part {
                return Err("entry with a size of more than 64 bits");
            }
            size |= part << shift;
            shift += 7;
        }
        let kind = match (first >> 4) & 7 {
            6 => {
                let mut byte = *rest.get(at).ok_or(CUT)?;
                at += 1;
                let mut distance = u64::from(byte & 0x7f);
                while byte & 0x80 != 0 {
                    byte = *rest.get(at).ok_or(CUT)?;
                    at += 1;
                    distance = distance
                        .checked_add(1)
                        .filter(|distance| distance >> 57 == 0)
                        .map(|distance| (distance << 7) | u64::from(byte & 0x7f))
                        .ok_or("entry with a base too far away")?;
                }
                match offset.checked_sub(distance) {
                    Some(base) if distance > 0 && base >= HEADER_LEN as u64 => EntryKind::OfsDelta(base),
                    _ => return Err("entry with a base outside of the pack"),
                }
            }
            7 => {
                let id = rest.get(at..at + hash.len()).ok_or(CUT)?;
                at += hash.len();
                EntryKind::RefDelta(ObjectId::from_bytes(hash, id).ok_or(CUT)?)
            }
            number => EntryKind::Base(ObjectKind::from_number(number).ok_or("entry of unknown kind")?),
        };
        Ok(Entry { kind, size, header_len: at, data_offset: offset + at as u64 })
    }
}

/// One pack with its index, mapped.
#[derive(Debug)]
pub struct Pack {
    name: String,
    map: Map,
    file: Option<File>,
    index: Arc<PackIndex>,
    rev: Option<Map>,
    order: OnceLock<Order>,
    checked: Arc<Checked>,
    hash: HashKind,
}

impl Pack {
    /// Puts a pack together from its maps; the error is the reason to ignore it. `name` is the
    /// file's name without `.pack`; `rev` is the `.rev` file, not believed until it is checked.
    pub fn new(name: String, map: Map, index: PackIndex, rev: Option<Map>) -> Result<Pack, &'static str> {
        Pack::with_index(name, map, Arc::new(index), rev)
    }

    /// The same with an index that others use, too.
    pub(crate) fn with_index(
        name: String,
        map: Map,
        index: Arc<PackIndex>,
        rev: Option<Map>,
    ) -> Result<Pack, &'static str> {
        let hash = index.hash();
        if map.len() < HEADER_LEN + hash.len() || !map.starts_with(b"PACK") {
            return Err("not a pack");
        }
        if !matches!(be32(&map, 4), Some(2 | 3)) {
            return Err("pack of unknown version");
        }
        if be32(&map, 8) != Some(index.count()) {
            return Err("pack and index do not agree on the number of objects");
        }
        if map[map.len() - hash.len()..] != *index.pack_checksum() {
            return Err("index of another pack");
        }
        let checked = Arc::default();
        Ok(Pack { name, map, file: None, index, rev, order: OnceLock::new(), checked, hash })
    }

    /// Shares what is known of files that were checked before.
    pub fn with_checked(self, checked: Arc<Checked>) -> Pack {
        Pack { checked, ..self }
    }

    /// Keeps the file itself for those who want to copy from it inside the kernel.
    pub fn with_file(mut self, file: File) -> Pack {
        self.file = Some(file);
        self
    }

    /// The file, if its descriptor was kept: the largest packs' are.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// The file's name without `.pack`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole file.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// The checksum at its end.
    pub fn trailer(&self) -> &[u8] {
        &self.map[self.map.len() - self.hash.len()..]
    }

    /// The index.
    #[inline]
    pub fn index(&self) -> &PackIndex {
        &self.index
    }

    /// The index, to be kept.
    pub(crate) fn shared_index(&self) -> Arc<PackIndex> {
        self.index.clone()
    }

    /// The algorithm of the ids.
    #[inline]
    pub fn hash(&self) -> HashKind {
        self.hash
    }

    /// How many objects there are.
    #[inline]
    pub fn count(&self) -> u32 {
        self.index.count()
    }

    /// The id at `index`, in the order of ids.
    #[inline]
    pub fn id_at(&self, index: u32) -> ObjectId {
        self.index.id_at(index)
    }

    /// The offset of the entry at `index`; see [`PackIndex::offset_at`].
    #[inline]
    pub fn offset_at(&self, index: u32) -> u64 {
        self.index.offset_at(index)
    }

    /// The CRC-32 of the entry at `index`, if the index has it.
    pub fn crc_at(&self, index: u32) -> Option<u32> {
        self.index.crc_at(index)
    }

    /// The index of an id.
    #[inline]
    pub fn lookup(&self, id: &[u8]) -> Option<u32> {
        self.index.lookup(id)
    }

    /// The header of the entry at `offset`.
    #[inline]
    pub fn entry(&self, offset: u64) -> Result<Entry, Error> {
        let entries = &self.map[..self.map.len() - self.hash.len()];
        if offset < HEADER_LEN as u64 {
            return Err(self.corrupt(offset, "offset before the first entry"));
        }
        Entry::parse(entries, offset, self.hash).map_err(|why| self.corrupt(offset, why))
    }

    /// The bytes from `offset` up to the checksum; empty beyond.
    #[inline]
    pub fn data_from(&self, offset: u64) -> &[u8] {
        let entries = &self.map[..self.map.len() - self.hash.len()];
        usize::try_from(offset).ok().and_then(|at| entries.get(at..)).unwrap_or(&[])
    }

    pub(crate) fn corrupt(&self, offset: u64, why: &'static str) -> Error {
        Error::CorruptEntry(self.name.clone(), offset, why)
    }

    /// The order of the entries in the pack: read from the `.rev` file if it is right in every
    /// place, else computed, once.
    pub fn order(&self) -> &Order {
        self.order.get_or_init(|| Order::of(&self.index, self.rev.as_ref(), &self.checked))
    }

    /// Why its `.rev` file is passed over, one line for the log, if it is and somebody has asked
    /// for the order.
    pub(crate) fn order_note(&self) -> Option<String> {
        let computed = self.rev.is_some() && self.order.get().is_some_and(|order| !order.is_from_file());
        computed.then(|| format!("{}.rev: ignored: not the order of its pack", self.name))
    }

    /// The index of the entry that comes `position`th in the pack.
    #[inline]
    pub fn index_of_position(&self, position: u32) -> Option<u32> {
        if position >= self.count() {
            return None;
        }
        self.order().index_at(self.rev.as_ref(), position)
    }

    /// The offset of the entry that comes `position`th in the pack.
    #[inline]
    pub fn offset_of_position(&self, position: u32) -> Option<u64> {
        self.index_of_position(position).map(|index| self.offset_at(index))
    }

    /// The position of the entry that begins at `offset`.
    pub fn position_of_offset(&self, offset: u64) -> Option<u32> {
        let near = self.order().near(&self.index, self.rev.as_ref(), offset);
        let Range { start: mut low, end: mut high } = near;
        while low < high {
            let middle = low + (high - low) / 2;
            let found = self.offset_of_position(middle)?;
            match found.cmp(&offset) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(middle),
            }
        }
        None
    }

    /// Where the entry at `offset` ends: where the next begins, or the checksum. `None` if no entry
    /// begins at `offset` or the index is damaged.
    pub fn end_of(&self, offset: u64) -> Option<u64> {
        self.end_of_position(self.position_of_offset(offset)?)
    }

    /// The same for the entry that comes `position`th.
    #[inline]
    pub fn end_of_position(&self, position: u32) -> Option<u64> {
        let limit = (self.map.len() - self.hash.len()) as u64;
        let next = position.checked_add(1)?;
        let end = if next == self.count() { limit } else { self.offset_of_position(next)? };
        (end <= limit).then_some(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA1: HashKind = HashKind::Sha1;

    fn parse(bytes: &[u8]) -> Result<Entry, &'static str> {
        let mut data = vec![0; 300];
        data.extend(bytes);
        Entry::parse(&data, 300, SHA1)
    }

    #[test]
    fn whole_objects() {
        let entry = parse(&[0x35, 9, 9]).unwrap();
        assert_eq!((entry.kind, entry.size), (EntryKind::Base(ObjectKind::Blob), 5));
        assert_eq!((entry.header_len, entry.data_offset), (1, 301));
        // 5 + (3 << 4) + (1 << 11)
        assert_eq!(parse(&[0x95, 0x83, 0x01]).unwrap().size, 5 + 48 + 2048);
        let most = [0x9f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(parse(&most).unwrap().size, u64::MAX);
    }

    #[test]
    fn deltas() {
        assert_eq!(parse(&[0x61, 100]).unwrap().kind, EntryKind::OfsDelta(200));
        // The distance's encoding skips what a shorter one could say: 0x80 0x00 is 128.
        assert_eq!(parse(&[0x61, 0x80, 0]).unwrap().kind, EntryKind::OfsDelta(172));
        let mut by_name = vec![0x72];
        by_name.extend([7; 20]);
        let entry = parse(&by_name).unwrap();
        assert_eq!(entry.kind, EntryKind::RefDelta(ObjectId::from_bytes(SHA1, &[7; 20]).unwrap()));
        assert_eq!(entry.header_len, 21);
    }

    #[test]
    fn every_lie_is_refused() {
        for (bytes, why) in [
            (&[][..], "entry cut short"),
            (&[0x95], "entry cut short"),
            (&[0x61], "entry cut short"),
            (&[0x61, 0x80], "entry cut short"),
            (&[0x72, 1, 2], "entry cut short"),
            (&[0x05], "entry of unknown kind"),
            (&[0x55], "entry of unknown kind"),
            (&[0x61, 0], "entry with a base outside of the pack"),
            (&[0x61, 0x81, 0x40], "entry with a base outside of the pack"),
            (&[0x61, 0x81, 0x22], "entry with a base outside of the pack"),
            (
                &[0x61, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
                "entry with a base too far away",
            ),
            (
                &[0x9f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x1f],
                "entry with a size of more than 64 bits",
            ),
            (&[0xff; 30], "entry with a size of more than 64 bits"),
        ] {
            assert_eq!(parse(bytes), Err(why), "{bytes:?}");
        }
        assert!(Entry::parse(&[0x35], u64::MAX, SHA1).is_err());
    }
}
