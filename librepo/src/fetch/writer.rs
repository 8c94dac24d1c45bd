//! Writing the pack: as far as possible in the very bytes that lie on disk (`gitformat-pack`).
//!
//! Entries of a pack are taken in its order. As long as neighbours follow each other their bytes
//! are one run, copied without another look; a delta's distance to its base is rewritten only where
//! something between the two was left out. A delta is kept if its base is sent too or (thin) the
//! client has it, else the object is written anew. Bases always come before what is built upon
//! them, whatever packs they lie in, so deltas cannot form a cycle.
//!
//! The index's CRC of copied entries is not compared: as in C git when it writes to a client, who
//! hashes every object anyway.

use std::cell::LazyCell;
use std::collections::HashMap;

use flate2::{Compress, Compression, FlushCompress, Status};
use libgit::{HashKind, ObjectId, ObjectKind};
use sha1::Digest as _;

use super::bits::bits_of;
use super::commits::Source;
use super::plan::Plan;
use super::progress::Progress;
use super::pseudo_pack::PseudoPack;
use super::space::{First, ObjectPlace};
use super::{Means, PackOptions, PackStats};
use crate::error::{Error, Result};
use crate::id::FastState;
use crate::pack::{Entry, EntryKind, HEADER_LEN, Pack};
use crate::reader::Piece;

/// Bytes hashed and handed out at a time: small enough to stay in the processor's cache between the
/// two.
const PIECE: usize = 128 << 10;
/// Objects from this size on are compressed as they are read, never whole in memory.
const STREAMED: u64 = 16 << 20;
/// Git's level of compression, and the one that makes no tables.
const GIT_S: Compression = Compression::new(6);
const FASTEST: Compression = Compression::new(1);
/// Deltas of fewer bytes than this are compressed at the latter: packs of fetches from git,
/// gitoxide and got grew by 0.02 % at most.
const FEW: usize = 256;
/// Bases that are written ahead of their turn nest this deep at most.
const DEEPEST: usize = 10_000;

/// A delta made for this pack.
#[derive(Debug)]
pub(crate) struct Made {
    /// The number of its base.
    pub(crate) base: u32,
    /// Whether the client has the base, so that it is not in the pack.
    pub(crate) thin: bool,
    /// The compressed delta.
    pub(crate) compressed: Vec<u8>,
    /// Its size before it was compressed.
    pub(crate) size: u64,
}

/// Deltas made for this pack, by the number of the object.
pub(crate) type MadeDeltas = HashMap<u32, Made, FastState>;

enum Checksum {
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

/// The pack on its way out.
struct Output<'p, 'k> {
    progress: &'p mut Progress<'k>,
    checksum: Checksum,
    buffer: Vec<u8>,
    /// Bytes so far, those in the buffer included.
    length: u64,
}

impl Output<'_, '_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.length += bytes.len() as u64;
        if self.buffer.len() + bytes.len() <= PIECE {
            self.buffer.extend_from_slice(bytes);
            return Ok(());
        }
        self.flush()?;
        for piece in bytes.chunks(PIECE) {
            self.send(piece)?;
        }
        Ok(())
    }

    fn send(&mut self, piece: &[u8]) -> Result<()> {
        match &mut self.checksum {
            Checksum::Sha1(sum) => sum.update(piece),
            Checksum::Sha256(sum) => sum.update(piece),
        }
        self.progress.pack(piece)?;
        self.progress.long_step(0)
    }

    fn flush(&mut self) -> Result<()> {
        let full = std::mem::take(&mut self.buffer);
        self.send(&full)?;
        self.buffer = full;
        self.buffer.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<u64> {
        self.flush()?;
        let sum = match self.checksum {
            Checksum::Sha1(sum) => sum.finalize().to_vec(),
            Checksum::Sha256(sum) => sum.finalize().to_vec(),
        };
        self.progress.pack(&sum)?;
        Ok(self.length + sum.len() as u64)
    }
}

/// Appends an entry's header: number of its kind and size of what the data yields.
fn put_header(out: &mut Vec<u8>, number: u8, mut size: u64) {
    let mut byte = number << 4 | (size & 15) as u8;
    size >>= 4;
    while size > 0 {
        out.push(byte | 0x80);
        byte = (size & 0x7f) as u8;
        size >>= 7;
    }
    out.push(byte);
}

/// Appends the distance to a base.
fn put_distance(out: &mut Vec<u8>, mut distance: u64) {
    let mut bytes = [0; 10];
    let mut at = bytes.len() - 1;
    bytes[at] = (distance & 0x7f) as u8;
    distance >>= 7;
    while distance > 0 {
        distance -= 1;
        at -= 1;
        bytes[at] = 0x80 | (distance & 0x7f) as u8;
        distance >>= 7;
    }
    out.extend_from_slice(&bytes[at..]);
}

/// Makes a compressor ready for a stream of its own.
fn begin(z: &mut Compress, level: Compression) -> Result<()> {
    z.reset();
    z.set_level(level).map_err(|e| Error::Io(std::io::Error::other(e)))
}

/// Compresses a delta. For a small one a code of its own gains no more than its tables take, and
/// making those tables is most of the work.
pub(super) fn deflate_delta(z: &mut Compress, delta: &[u8]) -> Result<Vec<u8>> {
    deflate(z, delta, if delta.len() < FEW { FASTEST } else { GIT_S })
}

/// Compresses a buffer.
fn deflate(z: &mut Compress, data: &[u8], level: Compression) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(data.len() / 2 + 64);
    begin(z, level)?;
    loop {
        let read = usize::try_from(z.total_in()).unwrap_or(usize::MAX).min(data.len());
        let status = z
            .compress_vec(&data[read..], &mut out, FlushCompress::Finish)
            .map_err(|e| Error::Io(std::io::Error::other(e)))?;
        if status == Status::StreamEnd {
            return Ok(out);
        }
        out.reserve(data.len() / 4 + 1024);
    }
}

/// A compressor; [`begin`] sets its level. Its tables are not small, and many packs are copied
/// whole.
pub(crate) fn compressor() -> LazyCell<Compress> {
    LazyCell::new(|| Compress::new(GIT_S, true))
}

/// The objects of one pack that are sent.
pub(super) struct Part {
    pub(super) pack: u32,
    /// The wanted positions.
    bits: Vec<u64>,
    /// Where runs began: offset in the pack on disk, offset in the pack sent. Both grow.
    runs: Vec<(u64, u64)>,
    /// All wanted positions below this have been written.
    next: u32,
}

impl Part {
    pub(super) fn wants(&self, position: u32) -> bool {
        bit(&self.bits, position)
    }

    /// The wanted positions, in order.
    pub(super) fn positions(&self) -> impl Iterator<Item = u32> + '_ {
        bits_of(&self.bits)
    }
}

fn bit(words: &[u64], at: u32) -> bool {
    words.get((at / 64) as usize).is_some_and(|word| word >> (at % 64) & 1 == 1)
}

/// How an object goes out.
enum Way {
    /// The bytes on disk.
    Verbatim,
    /// The data on disk behind a new header: a delta against an object at this offset of the pack
    /// sent.
    Near(u64),
    /// The data on disk behind a new header: a delta against an object of this name.
    Named(ObjectId),
    /// As a delta made for this pack, against an object in it at this offset.
    MadeNear(u64),
    /// The same against an object that the client has, by name.
    MadeNamed(ObjectId),
    /// Compressed anew.
    Whole,
    /// After this position of the same pack.
    After(u32, u32),
}

/// A run of bytes of a pack on disk that is still to be written.
#[derive(Clone, Copy, Default)]
struct Run {
    start: u64,
    end: u64,
}

struct Writer<'w, 's, 'p, 'k> {
    source: &'w mut Source<'s>,
    plan: &'w Plan,
    options: &'w PackOptions,
    made: &'w MadeDeltas,
    out: Output<'p, 'k>,
    parts: Vec<Part>,
    run: Run,
    /// Offsets of what was written out of its order, by part and position.
    moved: HashMap<(u32, u32), u64, FastState>,
    /// Offsets of objects that no pack holds, by number.
    loose: HashMap<u32, u64, FastState>,
    /// The objects being written: bases ahead of their turn.
    stack: Vec<(u32, u32)>,
    head: Vec<u8>,
    z: &'w mut LazyCell<Compress>,
    /// Bytes of memory that the whole pack takes, large objects left out.
    memory: u64,
    stats: PackStats,
}

/// Writes the pack with everything that the plan wants. `made` holds new deltas: a base among them
/// that is not `thin` must be wanted too.
pub(super) fn write(
    source: &mut Source<'_>,
    plan: &Plan,
    parts: Vec<Part>,
    made: &MadeDeltas,
    options: &PackOptions,
    means: &mut Means,
    progress: &mut Progress<'_>,
) -> Result<PackStats> {
    let hash = source.space.store().hash();
    let count = plan.wanted.count();
    let header_count =
        u32::try_from(count).map_err(|_| Error::Limit("more objects than a pack can hold".to_owned()))?;
    let checksum = match hash {
        HashKind::Sha1 => Checksum::Sha1(sha1::Sha1::new()),
        HashKind::Sha256 => Checksum::Sha256(sha2::Sha256::new()),
    };
    let mut writer = Writer {
        source,
        plan,
        options,
        made,
        out: Output { progress, checksum, buffer: Vec::with_capacity(PIECE), length: 0 },
        parts,
        run: Run::default(),
        moved: HashMap::default(),
        loose: HashMap::default(),
        stack: Vec::new(),
        head: Vec::new(),
        z: &mut means.z,
        memory: means.memory,
        stats: PackStats { objects: count, ..PackStats::default() },
    };
    writer.out.put(b"PACK\0\0\0\x02")?;
    writer.out.put(&header_count.to_be_bytes())?;
    for part in 0..writer.parts.len() {
        writer.part(part as u32)?;
    }
    let packed = writer.source.space.packed();
    let loose: Vec<u32> = plan.wanted.iter().filter(|number| *number >= packed).collect();
    for number in loose {
        writer.loose(number)?;
    }
    writer.stats.bytes = writer.out.finish()?;
    Ok(writer.stats)
}

/// The wanted objects of each pack, in pack order.
pub(super) fn parts(source: &Source<'_>, plan: &Plan) -> Result<Vec<Part>> {
    let space = &source.space;
    let words = plan.wanted.words();
    let mut shared = match space.first() {
        First::Packs(packs) => of_packs(source, packs, plan)?,
        _ => HashMap::default(),
    };
    let mut parts = Vec::new();
    for (pack, base, count) in space.packs() {
        let shared = shared.remove(&pack);
        if shared.is_none() && plan.wanted.between(base, count).next().is_none() {
            continue;
        }
        let p = pack_of(source, pack)?;
        let mut bits = shared.unwrap_or_else(|| vec![0u64; count.div_ceil(64) as usize]);
        if matches!(space.first(), First::Pack(first) if *first == pack) {
            // Its numbers begin at 0: the words are the same but for the bits of the next pack.
            let have = bits.len().min(words.len());
            bits[..have].copy_from_slice(&words[..have]);
            if count % 64 != 0
                && let Some(last) = bits.get_mut((count / 64) as usize)
            {
                *last &= (1 << (count % 64)) - 1;
            }
        } else {
            let wanted = plan.wanted.between(base, count).count() as u64;
            if wanted > u64::from(count / 32) {
                for position in 0..count {
                    let index = p.index_of_position(position).ok_or_else(|| order_broken(p))?;
                    if plan.wanted.get(base + index) {
                        bits[(position / 64) as usize] |= 1 << (position % 64);
                    }
                }
            } else {
                for index in plan.wanted.between(base, count) {
                    let position = p.position_of_offset(p.offset_at(index)).ok_or_else(|| order_broken(p))?;
                    bits[(position / 64) as usize] |= 1 << (position % 64);
                }
            }
        }
        if bits.iter().any(|word| *word != 0) {
            parts.push(Part { pack, bits, runs: Vec::new(), next: 0 });
        }
    }
    Ok(parts)
}

/// The wanted objects of the packs of a multi-pack index, as bits by position in each.
fn of_packs(
    source: &Source<'_>,
    packs: &PseudoPack,
    plan: &Plan,
) -> Result<HashMap<u32, Vec<u64>, FastState>> {
    let store = source.space.store();
    let mut all: HashMap<u32, Vec<u64>, FastState> = HashMap::default();
    for stretch in packs.stretches() {
        let p = pack_of(source, stretch.pack)?;
        // Its objects come in the order of the pack, some of them perhaps left out.
        let mut next = 0;
        for number in plan.wanted.between(stretch.first, stretch.count) {
            let number = stretch.first + number;
            let copy = packs.copy_at(store, number).filter(|(pack, _)| *pack == stretch.pack);
            let copy = copy.and_then(|(_, offset)| {
                let follows = p.offset_of_position(next) == Some(offset);
                if follows { Some(next) } else { p.position_of_offset(offset) }
            });
            let (pack, position) = match copy {
                Some(position) => (stretch.pack, position),
                // The index has it wrong, and the packs know better.
                None => {
                    let (pack, index) = packs.place(store, number).ok_or_else(|| order_broken(p))?;
                    let other = pack_of(source, pack)?;
                    let found = other.position_of_offset(other.offset_at(index));
                    (pack, found.ok_or_else(|| order_broken(other))?)
                }
            };
            next = position + 1;
            let count = pack_of(source, pack)?.count();
            let bits = all.entry(pack).or_insert_with(|| vec![0; count.div_ceil(64) as usize]);
            bits[(position / 64) as usize] |= 1 << (position % 64);
        }
    }
    Ok(all)
}

fn order_broken(pack: &Pack) -> Error {
    Error::CorruptEntry(pack.name().to_owned(), 0, "index with two entries at one place")
}

pub(super) fn pack_of<'s>(source: &Source<'s>, pack: u32) -> Result<&'s Pack> {
    let found = source.space.store().pack(pack);
    found.ok_or_else(|| Error::Limit(format!("no pack with the number {pack}")))
}

/// If one whole pack is wanted and nothing else, its file is the answer, trailer and all.
pub(super) fn whole_pack(
    source: &Source<'_>,
    options: &PackOptions,
    parts: &[Part],
    count: u64,
    progress: &mut Progress<'_>,
) -> Result<Option<PackStats>> {
    let [part] = parts else { return Ok(None) };
    let pack = pack_of(source, part.pack)?;
    let wanted: u64 = part.bits.iter().map(|word| u64::from(word.count_ones())).sum();
    let same = wanted == count && u64::from(pack.count()) == count;
    if !same || !options.ofs_delta || !pack.bytes().starts_with(b"PACK\0\0\0\x02") {
        return Ok(None);
    }
    let bytes = pack.bytes();
    progress.copies()?;
    match pack.file() {
        Some(file) => progress.splice(file, 0, bytes.len() as u64)?,
        None => {
            for piece in bytes.chunks(PIECE) {
                progress.pack(piece)?;
            }
        }
    }
    Ok(Some(PackStats {
        objects: count,
        reused: count,
        bytes: bytes.len() as u64,
        whole_pack: true,
        ..PackStats::default()
    }))
}

impl Writer<'_, '_, '_, '_> {
    /// Everything that is wanted of one pack.
    fn part(&mut self, part: u32) -> Result<()> {
        let mut word_at = 0;
        loop {
            let words = &self.parts[part as usize].bits;
            let Some(word) = words.get(word_at).copied() else { break };
            let mut left = word;
            while left != 0 {
                let position = word_at as u32 * 64 + left.trailing_zeros();
                left &= left - 1;
                if self.moved.is_empty() || !self.moved.contains_key(&(part, position)) {
                    self.one(part, position)?;
                }
                self.parts[part as usize].next = position + 1;
            }
            word_at += 1;
        }
        self.end_run(part)
    }

    /// Writes an object, after the bases that it builds upon.
    fn one(&mut self, part: u32, position: u32) -> Result<()> {
        self.stack.clear();
        self.stack.push((part, position));
        while let Some((part, position)) = self.stack.last().copied() {
            let first = self.stack.len() == 1;
            if let Way::After(part, position) = self.try_one(part, position, first)? {
                self.stack.push((part, position));
                continue;
            }
            self.stack.pop();
        }
        Ok(())
    }

    /// Writes an object unless another must come first, which is then returned.
    fn try_one(&mut self, part: u32, position: u32, in_order: bool) -> Result<Way> {
        let pack_number = self.parts[part as usize].pack;
        let pack = pack_of(self.source, pack_number)?;
        let broken = || order_broken(pack);
        let offset = pack.offset_of_position(position).ok_or_else(broken)?;
        let end = pack.end_of_position(position).filter(|end| *end > offset).ok_or_else(broken)?;
        let entry = pack.entry(offset)?;
        let way = self.way(part, position, offset, &entry)?;
        if let Way::After(..) = way {
            return Ok(way);
        }
        if !in_order {
            self.end_run(self.stack[0].0)?;
        }
        let here = self.out.length + (self.run.end - self.run.start);
        if in_order {
            if matches!(way, Way::Verbatim) {
                if self.run.end != offset || self.run.start == self.run.end {
                    self.end_run(part)?;
                    self.run = Run { start: offset, end: offset };
                    self.parts[part as usize].runs.push((offset, here));
                }
                self.run.end = end;
            } else {
                self.end_run(part)?;
                self.parts[part as usize].runs.push((offset, here));
            }
        } else {
            self.moved.insert((part, position), here);
            if matches!(way, Way::Verbatim) {
                self.out.put(between(pack, offset, end)?)?;
            }
        }
        self.count(&way, &entry);
        let data = between(pack, entry.data_offset, end)?;
        self.head.clear();
        match &way {
            Way::Verbatim | Way::After(..) => {}
            Way::Near(base) => self.delta_near(entry.size, here - base, data)?,
            Way::Named(id) => self.delta_named(entry.size, id, data)?,
            Way::MadeNear(_) | Way::MadeNamed(_) => {
                let number = self.number(part, position)?;
                let made = &self.made;
                if let Some(made) = made.get(&number) {
                    match &way {
                        Way::MadeNear(base) => self.delta_near(made.size, here - base, &made.compressed)?,
                        Way::MadeNamed(id) => self.delta_named(made.size, id, &made.compressed)?,
                        _ => {}
                    }
                }
            }
            Way::Whole => match self.source.reader.read_packed_within(pack_number, offset, STREAMED)? {
                Some(object) => self.whole(object.kind, &object.data)?,
                None => self.streamed_packed(pack_number, offset)?,
            },
        }
        self.out.progress.step(1)?;
        Ok(way)
    }

    fn count(&mut self, way: &Way, entry: &Entry) {
        let was_delta = !matches!(entry.kind, EntryKind::Base(_));
        match way {
            Way::Verbatim | Way::Near(_) | Way::Named(_) => {
                self.stats.reused += 1;
                self.stats.reused_deltas += u64::from(was_delta);
                self.stats.deltas += u64::from(was_delta);
            }
            Way::MadeNear(_) | Way::MadeNamed(_) => {
                self.stats.deltas += 1;
                self.stats.new_deltas += 1;
            }
            Way::Whole | Way::After(..) => {}
        }
    }

    fn number(&self, part: u32, position: u32) -> Result<u32> {
        let pack = self.parts[part as usize].pack;
        let number = self.source.space.number_of_position(pack, position);
        number.ok_or_else(|| Error::Limit(format!("no object at position {position} of a pack")))
    }

    /// How an object goes out.
    fn way(&mut self, part: u32, position: u32, offset: u64, entry: &Entry) -> Result<Way> {
        let this = &self.parts[part as usize];
        let pack = pack_of(self.source, this.pack)?;
        if !self.made.is_empty() {
            let number = self.number(part, position)?;
            if let Some(made) = self.made.get(&number) {
                if made.thin {
                    return Ok(Way::MadeNamed(self.source.space.id(made.base)));
                }
                if let Some(way) = self.near_number(made.base, Way::MadeNear, Way::MadeNamed)? {
                    return Ok(way);
                }
            }
        }
        let base = match entry.kind {
            EntryKind::Base(_) => return Ok(Way::Verbatim),
            EntryKind::OfsDelta(base) => {
                // The base is in the same run: nothing between the two was left out.
                if self.options.ofs_delta
                    && self.run.end == offset
                    && base >= self.run.start
                    && self.stack.len() == 1
                {
                    return Ok(Way::Verbatim);
                }
                base
            }
            EntryKind::RefDelta(id) => match pack.lookup(id.as_bytes()) {
                Some(index) => pack.offset_at(index),
                None => return Ok(Way::Whole),
            },
        };
        let Some(base_position) = pack.position_of_offset(base) else {
            return Err(Error::CorruptEntry(pack.name().to_owned(), offset, "base of a delta missing"));
        };
        if this.wants(base_position) {
            let Some(new_base) = self.written(part, base_position, base) else {
                if self.stack.contains(&(part, base_position)) || self.stack.len() >= DEEPEST {
                    return Ok(Way::Whole);
                }
                return Ok(Way::After(part, base_position));
            };
            return Ok(match entry.kind {
                EntryKind::RefDelta(_) => Way::Verbatim,
                _ if !self.options.ofs_delta => Way::Named(pack.id_at(index_at(pack, base_position)?)),
                _ => {
                    let here = self.out.length + (self.run.end - self.run.start);
                    if here - new_base == offset - base { Way::Verbatim } else { Way::Near(new_base) }
                }
            });
        }
        // The base is not sent from this pack: from another one, or not at all.
        let id = pack.id_at(index_at(pack, base_position)?);
        if let Some(number) = self.source.space.packed_number(&id) {
            if self.plan.wanted.get(number) {
                if let Some(way) = self.near_number(number, Way::Near, Way::Named)?
                    && !matches!(way, Way::After(..))
                {
                    return Ok(way);
                }
                return Ok(Way::Whole);
            }
            if self.options.thin && self.plan.client.get(number) {
                return Ok(Way::Named(id));
            }
        }
        Ok(Way::Whole)
    }

    /// The way to a base with this number: near if it has been written, after it if it can be;
    /// `None` if neither.
    fn near_number(
        &self,
        number: u32,
        near: fn(u64) -> Way,
        named: fn(ObjectId) -> Way,
    ) -> Result<Option<Way>> {
        let written = match self.source.space.place(number) {
            Some(_) if number >= self.source.space.packed() => self.loose.get(&number).copied(),
            Some(ObjectPlace::Pack { pack, offset, .. }) => {
                let Some(part) = self.parts.iter().position(|part| part.pack == pack) else {
                    return Ok(None);
                };
                let part = part as u32;
                let p = pack_of(self.source, pack)?;
                let Some(position) = p.position_of_offset(offset) else { return Ok(None) };
                match self.written(part, position, offset) {
                    Some(written) => Some(written),
                    None if !self.parts[part as usize].wants(position)
                        || self.stack.contains(&(part, position))
                        || self.stack.len() >= DEEPEST =>
                    {
                        None
                    }
                    None => return Ok(Some(Way::After(part, position))),
                }
            }
            _ => None,
        };
        Ok(written
            .map(|at| if self.options.ofs_delta { near(at) } else { named(self.source.space.id(number)) }))
    }

    /// Where a wanted object of a pack was written, if it was.
    fn written(&self, part: u32, position: u32, offset: u64) -> Option<u64> {
        if !self.moved.is_empty()
            && let Some(at) = self.moved.get(&(part, position))
        {
            return Some(*at);
        }
        let this = &self.parts[part as usize];
        if position >= this.next || !this.wants(position) {
            return None;
        }
        let run = this.runs.partition_point(|(start, _)| *start <= offset).checked_sub(1)?;
        let (start, new) = this.runs[run];
        Some(new + (offset - start))
    }

    fn end_run(&mut self, part: u32) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        if run.start == run.end {
            return Ok(());
        }
        let pack = pack_of(self.source, self.parts[part as usize].pack)?;
        self.out.put(between(pack, run.start, run.end)?)
    }

    fn delta_near(&mut self, size: u64, distance: u64, data: &[u8]) -> Result<()> {
        self.head.clear();
        put_header(&mut self.head, 6, size);
        put_distance(&mut self.head, distance);
        self.out.put(&self.head)?;
        self.out.put(data)
    }

    fn delta_named(&mut self, size: u64, base: &ObjectId, data: &[u8]) -> Result<()> {
        self.head.clear();
        put_header(&mut self.head, 7, size);
        self.head.extend_from_slice(base.as_bytes());
        self.out.put(&self.head)?;
        self.out.put(data)
    }

    fn whole(&mut self, kind: ObjectKind, data: &[u8]) -> Result<()> {
        self.head.clear();
        put_header(&mut self.head, kind as u8, data.len() as u64);
        self.out.put(&self.head)?;
        let compressed = deflate(self.z, data, GIT_S)?;
        self.out.put(&compressed)
    }

    /// An object that lies in a file of its own.
    fn loose(&mut self, number: u32) -> Result<()> {
        let here = self.out.length;
        let id = self.source.space.id(number);
        let mut way = Way::Whole;
        if let Some(made) = self.made.get(&number) {
            if made.thin {
                way = Way::MadeNamed(self.source.space.id(made.base));
            } else if let Some(found) = self.near_number(made.base, Way::MadeNear, Way::MadeNamed)?
                && !matches!(found, Way::After(..))
            {
                way = found;
            }
            match &way {
                Way::MadeNear(base) => self.delta_near(made.size, here - base, &made.compressed)?,
                Way::MadeNamed(base) => self.delta_named(made.size, base, &made.compressed)?,
                _ => {}
            }
        }
        if matches!(way, Way::Whole) {
            match self.source.read_within(number, STREAMED - 1)? {
                Some(object) => self.whole(object.kind, &object.data)?,
                None => {
                    let (kind, size) = self.source.reader.header(&id)?.ok_or(Error::Missing(id))?;
                    self.streamed(&id, kind, size)?;
                }
            }
        } else {
            self.stats.deltas += 1;
            self.stats.new_deltas += 1;
        }
        self.loose.insert(number, here);
        self.out.progress.step(1)
    }

    fn streamed(&mut self, id: &ObjectId, kind: ObjectKind, size: u64) -> Result<()> {
        self.begin_stream(kind, size)?;
        let mut room = Vec::with_capacity(PIECE);
        let (out, z) = (&mut self.out, &mut *self.z);
        let mut feed = |bytes: &[u8]| compress(z, bytes, FlushCompress::None, &mut room, out);
        let read = self.source.reader.read_stream(id, &mut feed)?;
        if read != Some((kind, size)) {
            return Err(Error::Missing(*id));
        }
        compress(z, &[], FlushCompress::Finish, &mut room, out)
    }

    /// Writes a packed object whose delta's base is not sent, where one of the two is large: it is
    /// never in memory as a whole.
    fn streamed_packed(&mut self, pack: u32, offset: u64) -> Result<()> {
        let (kind, size) = self.source.reader.header_packed(pack, offset)?;
        self.begin_stream(kind, size)?;
        let mut room = Vec::with_capacity(PIECE);
        let (out, z, memory) = (&mut self.out, &mut *self.z, self.memory);
        self.source.reader.read_packed_in_pieces(pack, offset, &mut |piece| match piece {
            Piece::Content(bytes) => compress(z, bytes, FlushCompress::None, &mut room, out),
            Piece::Memory(more) => out.progress.turn(memory.saturating_add(more)),
        })?;
        compress(z, &[], FlushCompress::Finish, &mut room, out)?;
        out.progress.turn(memory)
    }

    fn begin_stream(&mut self, kind: ObjectKind, size: u64) -> Result<()> {
        self.head.clear();
        put_header(&mut self.head, kind as u8, size);
        self.out.put(&self.head)?;
        begin(self.z, GIT_S)
    }
}

/// Compresses more of a stream, by way of some room, into the pack.
fn compress(
    z: &mut Compress,
    mut bytes: &[u8],
    flush: FlushCompress,
    room: &mut Vec<u8>,
    out: &mut Output<'_, '_>,
) -> Result<()> {
    loop {
        let before = z.total_in();
        let status = z.compress_vec(bytes, room, flush).map_err(|e| Error::Io(std::io::Error::other(e)))?;
        bytes = &bytes[(z.total_in() - before) as usize..];
        let full = room.len() == room.capacity();
        out.put(room)?;
        room.clear();
        let done = match flush {
            FlushCompress::Finish => status == Status::StreamEnd,
            _ => bytes.is_empty() && !full,
        };
        if done {
            return Ok(());
        }
    }
}

fn index_at(pack: &Pack, position: u32) -> Result<u32> {
    pack.index_of_position(position).ok_or_else(|| order_broken(pack))
}

fn between(pack: &Pack, start: u64, end: u64) -> Result<&[u8]> {
    let cut = || Error::CorruptEntry(pack.name().to_owned(), start, "entry cut short");
    let length = end.checked_sub(start).and_then(|n| usize::try_from(n).ok()).ok_or_else(cut)?;
    debug_assert!(start >= HEADER_LEN as u64);
    pack.data_from(start).get(..length).ok_or_else(cut)
}
