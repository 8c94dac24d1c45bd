//! Reachability bitmaps: for chosen commits, the set of all objects that can be reached from them
//! (`gitformat-bitmap`, version 1, of a pack or of a multi-pack index).
//!
//! A bitmap speeds a fetch up and says nothing that a walk would not: a bitmap with any error is
//! not used. What is checked: the structure, that it belongs to this pack or multi-pack index, the
//! file's own checksum as long as the file is small enough for that to cost little and nobody has
//! done it before (damage in the middle would otherwise make packs that lack objects), and of each
//! commit's set that the commit itself is in it. Pseudo-merges are skipped: they only add more
//! sets.

use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;

use libgit::{HashKind, ObjectKind};

use crate::ewah::Ewah;
use crate::id::FastState;

/// Up to this size (bytes) the file's checksum is verified when it is opened.
const CHECKED_SIZE: usize = 16 << 20;
/// On the way of a chain of differences, each so many sets are kept for other chains that pass
/// there: a difference is applied faster than a set is copied into fresh memory.
const KEPT: usize = 16;
/// How many bytes of expanded bitmaps one fetch keeps.
const EXPANDED_BYTES: usize = 32 << 20;

const FULL_DAG: u16 = 0x1;
const HASH_CACHE: u16 = 0x4;
const LOOKUP_TABLE: u16 = 0x10;
const PSEUDO_MERGES: u16 = 0x20;

/// Why a bitmap file is not used. Never an error of a fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable(pub &'static str);

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Position of the commit in the (multi-pack) index, that is by id.
    commit: u32,
    /// Where the compressed bitmap begins in the file.
    at: usize,
    /// The entry that this one is the difference to.
    xor: Option<u32>,
}

/// An opened bitmap file over its bytes (a map, or a slice).
///
/// Bits count objects in pack order (by offset; for a multi-pack index in its pseudo-pack order),
/// entries and name hashes in index order (by id).
#[derive(Debug)]
pub struct Bitmap<D> {
    data: D,
    /// Where the bitmaps end and the extensions begin.
    end: usize,
    objects: u32,
    entries: Vec<Entry>,
    by_commit: HashMap<u32, u32, FastState>,
    /// Where the sets of commits, trees, blobs and tags begin.
    types: [usize; 4],
    /// Where the name hashes begin.
    hashes: Option<usize>,
}

/// Expanded bitmaps that one fetch has used, bounded.
#[derive(Debug, Default)]
pub struct Expanded {
    sets: HashMap<u32, Rc<[u64]>, FastState>,
    bytes: usize,
}

fn be32(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn be64(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_be_bytes(data.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

fn checksum_matches(hash: HashKind, data: &[u8]) -> bool {
    use sha1::Digest as _;
    let (body, sum) = data.split_at(data.len() - hash.len());
    match hash {
        HashKind::Sha1 => sha1::Sha1::digest(body)[..] == *sum,
        HashKind::Sha256 => sha2::Sha256::digest(body)[..] == *sum,
    }
}

impl<D: Deref<Target = [u8]>> Bitmap<D> {
    /// Opens the file's bytes. `objects` is how many objects the pack or multi-pack index holds and
    /// `checksum` its trailing checksum, by which the bitmap says to what it belongs. The file's
    /// own checksum need not be computed if it was `checked` before.
    ///
    /// # Errors
    /// `Unusable` for anything that keeps the file from being used.
    pub fn parse(
        map: D,
        hash: HashKind,
        objects: u32,
        checksum: &[u8],
        checked: bool,
    ) -> Result<Bitmap<D>, Unusable> {
        let data: &[u8] = &map;
        let header = 12 + hash.len();
        if data.len() < header + hash.len() {
            return Err(Unusable("too short"));
        }
        if data[..4] != *b"BITM" {
            return Err(Unusable("no bitmap file"));
        }
        if data[4..6] != [0, 1] {
            return Err(Unusable("unknown version"));
        }
        let flags = u16::from_be_bytes([data[6], data[7]]);
        if flags & FULL_DAG == 0 || flags & !(FULL_DAG | HASH_CACHE | LOOKUP_TABLE | PSEUDO_MERGES) != 0 {
            return Err(Unusable("unknown flags"));
        }
        let count = be32(data, 8).ok_or(Unusable("too short"))?;
        if data[12..header] != *checksum {
            return Err(Unusable("belongs to another pack"));
        }
        if count > objects {
            return Err(Unusable("more entries than objects"));
        }
        if !checked && data.len() <= CHECKED_SIZE && !checksum_matches(hash, data) {
            return Err(Unusable("checksum mismatch"));
        }
        // Extensions sit at the end, the hash cache last.
        let mut end = data.len() - hash.len();
        let take = |end: &mut usize, size: usize| -> Result<usize, Unusable> {
            let start = end.checked_sub(size).filter(|s| *s >= header).ok_or(Unusable("too short"))?;
            *end = start;
            Ok(start)
        };
        let objects_size = usize::try_from(objects).map_err(|_| Unusable("too large"))?;
        let hashes = if flags & HASH_CACHE != 0 {
            let size = objects_size.checked_mul(4).ok_or(Unusable("too large"))?;
            Some(take(&mut end, size)?)
        } else {
            None
        };
        let rows = usize::try_from(count).map_err(|_| Unusable("too large"))?;
        let table = if flags & LOOKUP_TABLE != 0 {
            let size = rows.checked_mul(16).ok_or(Unusable("too large"))?;
            let start = take(&mut end, size)?;
            data.get(start..start + size)
        } else {
            None
        };
        if flags & PSEUDO_MERGES != 0 {
            let at = end.checked_sub(8).ok_or(Unusable("too short"))?;
            let size = be64(data, at).and_then(|n| usize::try_from(n).ok()).ok_or(Unusable("too large"))?;
            take(&mut end, size)?;
        }

        let body = data.get(..end).ok_or(Unusable("too short"))?;
        let mut at = header;
        let mut next = || -> Result<usize, Unusable> {
            let here = at;
            let (_, used) =
                body.get(at..).and_then(|b| Ewah::parse(b).ok()).ok_or(Unusable("malformed type bitmap"))?;
            at += used;
            Ok(here)
        };
        let types = [next()?, next()?, next()?, next()?];
        let entries = match table {
            Some(table) => entries_from_table(table, body.len(), objects)?,
            None => entries_from_body(body, at, rows, objects)?,
        };
        let mut by_commit = HashMap::with_capacity_and_hasher(entries.len(), FastState::default());
        for (row, entry) in (0u32..).zip(&entries) {
            by_commit.insert(entry.commit, row);
        }
        Ok(Bitmap { data: map, end, objects, entries, by_commit, types, hashes })
    }

    /// How many commits have a bitmap.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no commit has a bitmap.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many objects the bits count.
    #[must_use]
    pub fn objects(&self) -> u32 {
        self.objects
    }

    /// How many 64-bit words an expanded bitmap has.
    #[must_use]
    pub fn words(&self) -> usize {
        self.objects.div_ceil(64) as usize
    }

    /// The entry of the commit at this position of the index (by id), if it has one.
    #[must_use]
    pub fn entry_of(&self, index_position: u32) -> Option<u32> {
        self.by_commit.get(&index_position).copied()
    }

    /// The hash of a path at which the object with this index position (by id) is found; 0 is
    /// unknown.
    #[must_use]
    pub fn name_hash(&self, index_position: u32) -> u32 {
        match self.hashes {
            Some(start) if index_position < self.objects => {
                be32(&self.data, start + index_position as usize * 4).unwrap_or(0)
            }
            _ => 0,
        }
    }

    /// Whether the file has name hashes.
    #[must_use]
    pub fn has_name_hashes(&self) -> bool {
        self.hashes.is_some()
    }

    /// The set of all objects of one kind; `None` when that part of the file is damaged.
    #[must_use]
    pub fn of_kind(&self, kind: ObjectKind) -> Option<Vec<u64>> {
        let at = match kind {
            ObjectKind::Commit => self.types[0],
            ObjectKind::Tree => self.types[1],
            ObjectKind::Blob => self.types[2],
            ObjectKind::Tag => self.types[3],
        };
        let mut out = vec![0; self.words()];
        let body = self.data.get(at..self.end)?;
        Ewah::parse(body).ok()?.0.or_into(&mut out).ok()?;
        Some(out)
    }

    /// The set of an entry, commit and all; `None` when the entry is damaged. `own_bit` is the
    /// position of the commit in bit order, which must be in the set.
    #[must_use]
    pub fn expand(&self, entry: u32, own_bit: u32, cache: &mut Expanded) -> Option<Rc<[u64]>> {
        let set = self.expand_chain(entry, cache)?;
        let word = set.get(usize::try_from(own_bit / 64).ok()?)?;
        (word >> (own_bit % 64) & 1 == 1).then_some(set)
    }

    fn expand_chain(&self, entry: u32, cache: &mut Expanded) -> Option<Rc<[u64]>> {
        let mut chain = Vec::new();
        let mut from = Some(entry);
        let mut known: Option<Rc<[u64]>> = None;
        while let Some(row) = from {
            if let Some(set) = cache.sets.get(&row) {
                known = Some(set.clone());
                break;
            }
            // A lookup table may name later rows: a chain longer than all entries is a cycle.
            if chain.len() >= self.entries.len() {
                return None;
            }
            chain.push(row);
            from = self.entries.get(usize::try_from(row).ok()?)?.xor;
        }
        if chain.is_empty() {
            return known;
        }
        let mut words = known.map_or_else(|| vec![0; self.words()], |set| set.to_vec());
        while let Some(row) = chain.pop() {
            let at = self.entries.get(usize::try_from(row).ok()?)?.at;
            Ewah::parse(self.data.get(at..self.end)?).ok()?.0.xor_into(&mut words).ok()?;
            if !chain.is_empty() && chain.len().is_multiple_of(KEPT) {
                cache.keep(row, &words[..].into());
            }
        }
        let set: Rc<[u64]> = words.into();
        cache.keep(entry, &set);
        Some(set)
    }
}

impl Expanded {
    fn keep(&mut self, row: u32, set: &Rc<[u64]>) {
        let size = set.len() * 8;
        if self.bytes + size > EXPANDED_BYTES {
            self.sets.clear();
            self.bytes = 0;
        }
        if size <= EXPANDED_BYTES {
            self.bytes += size;
            self.sets.insert(row, set.clone());
        }
    }
}

/// All entries by reading them one after the other.
fn entries_from_body(body: &[u8], mut at: usize, count: usize, objects: u32) -> Result<Vec<Entry>, Unusable> {
    const BAD: Unusable = Unusable("malformed entry");
    // An entry has 18 bytes at least, so the file bounds the allocation.
    let mut entries = Vec::with_capacity(count.min(body.len() / 18));
    for row in 0..count {
        let commit = be32(body, at).filter(|c| *c < objects).ok_or(BAD)?;
        let back = usize::from(*body.get(at + 4).ok_or(BAD)?);
        let start = at + 6;
        let (_, used) = body.get(start..).and_then(|b| Ewah::parse(b).ok()).ok_or(BAD)?;
        let xor = match back {
            0 => None,
            back => Some(row.checked_sub(back).ok_or(BAD)?).and_then(|r| u32::try_from(r).ok()),
        };
        entries.push(Entry { commit, at: start, xor });
        at = start + used;
    }
    Ok(entries)
}

/// All entries from the lookup table, without touching the bitmaps themselves.
fn entries_from_table(table: &[u8], end: usize, objects: u32) -> Result<Vec<Entry>, Unusable> {
    const BAD: Unusable = Unusable("malformed lookup table");
    let rows = table.as_chunks::<16>().0;
    let mut entries = Vec::with_capacity(rows.len());
    for row in rows {
        let commit = be32(row, 0).filter(|c| *c < objects).ok_or(BAD)?;
        let offset = be64(row, 4).and_then(|o| usize::try_from(o).ok()).filter(|o| *o < end).ok_or(BAD)?;
        let xor = match be32(row, 12).ok_or(BAD)? {
            u32::MAX => None,
            other => Some(other).filter(|x| (*x as usize) < rows.len()).ok_or(BAD).map(Some)?,
        };
        // The table points at the entry: position, distance and flags come before the bitmap.
        entries.push(Entry { commit, at: offset.checked_add(6).ok_or(BAD)?, xor });
    }
    Ok(entries)
}
