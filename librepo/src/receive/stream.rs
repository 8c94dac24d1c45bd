//! First pass over a pack: read it from the client, write it to the quarantine file, and look at
//! every entry on the way.
//!
//! The bytes are read once, into this process's own memory, and everything is computed from there:
//! a client that still holds the pages of its pipe could otherwise change them after they were
//! checked.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::FileExt;

use flate2::{Crc, Decompress, FlushDecompress, Status};
use libgit::{HashKind, ObjectId, ObjectKind};

use super::hasher::{Checksum, HashJob};
use super::inspect::{BATCH_BYTES, BATCH_OBJECT, BATCH_OBJECTS, Inspector};
use super::{ReceiveLimits, Stage, Ticker, bad, limit, pack_error};
use crate::delta_apply;
use crate::error::{Error, Result};

/// Marks "none" in columns of entry numbers.
pub(super) const NONE: u32 = u32::MAX;
/// Blobs above this many bytes are hashed as they stream by and never held as a whole.
const STREAM_BLOB: u64 = 1 << 20;
/// Bytes read from the client and written to the file at a time.
const INPUT: usize = 256 << 10;
/// Bytes inflated at a time.
const OUTPUT: usize = 128 << 10;

/// One entry of the pack, in pack order.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the entry begins in the pack.
    pub(super) offset: u64,
    /// CRC-32 of the entry's bytes in the pack.
    pub(super) crc: u32,
    /// The entry number of an OFS_DELTA's base, or [`NONE`].
    pub(super) base: u32,
    /// The object's kind, once it is known.
    pub(super) kind: Option<ObjectKind>,
    /// The object's id; null until it is known.
    pub(super) id: ObjectId,
    /// Whether it was appended to complete a thin pack.
    pub(super) external: bool,
}

/// What the first pass found.
pub(super) struct PackEntries {
    pub(super) hash: HashKind,
    /// All entries, sorted by offset.
    pub(super) entries: Vec<Entry>,
    /// REF_DELTA entries: the base's id and the entry's number.
    pub(super) refs: Vec<(ObjectId, u32)>,
    /// Where the trailer begins.
    pub(super) end: u64,
    /// The trailer.
    pub(super) trailer: ObjectId,
}

/// Reads one pack from `src` into `file`, which must be empty.
pub(super) fn receive<R: Read + ?Sized>(
    src: &mut R,
    file: &File,
    hash: HashKind,
    limits: &ReceiveLimits,
    inspector: &mut Inspector<'_>,
    ticker: &mut Ticker<'_>,
) -> Result<PackEntries> {
    let mut input = Input::new(src, file, hash, (limits.pack_bytes, limits.pack_bytes_by));
    let count = header(&mut input, limits)?;
    let mut pass = Pass {
        table: PackEntries {
            hash,
            entries: Vec::new(),
            refs: Vec::new(),
            end: 0,
            trailer: ObjectId::null(hash),
        },
        z: Decompress::new(true),
        out: vec![0; OUTPUT].into_boxed_slice(),
        batch: Batch::new(),
        limits,
    };
    for done in 0..count {
        ticker.tick(Stage::Receiving, u64::from(done), u64::from(count), input.offset)?;
        pass.entry(&mut input, inspector, ticker)?;
        if pass.batch.is_full() {
            pass.inspect(inspector)?;
        }
    }
    pass.inspect(inspector)?;
    ticker.finish(Stage::Receiving, u64::from(count), u64::from(count), input.offset)?;
    let mut table = pass.table;
    table.end = input.offset;
    table.trailer = input.trailer()?;
    Ok(table)
}

/// Checks the twelve bytes at the start and gives the number of entries.
fn header<R: Read + ?Sized>(input: &mut Input<'_, R>, limits: &ReceiveLimits) -> Result<u32> {
    let mut header = [0; 12];
    for byte in &mut header {
        *byte = input.byte()?;
    }
    if &header[..4] != b"PACK" {
        return Err(bad("pack: no pack signature"));
    }
    let version = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    if version != 2 && version != 3 {
        return Err(bad(format!("pack: version {version} is not supported")));
    }
    let count = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
    if u64::from(count) > limits.objects {
        return Err(limit("pack", u64::from(count), "objects", limits.objects, "pack objects"));
    }
    Ok(count)
}

struct Pass<'l> {
    table: PackEntries,
    z: Decompress,
    out: Box<[u8]>,
    batch: Batch,
    limits: &'l ReceiveLimits,
}

/// Whole objects that wait to be inspected together.
struct Batch {
    /// Their contents, one behind the other.
    data: Box<[u8]>,
    used: usize,
    numbers: Vec<u32>,
    /// Kinds, and where the contents lie.
    objects: Vec<(ObjectKind, Range<usize>)>,
}

impl Batch {
    fn new() -> Self {
        // One byte more than the last object may have: see [`Inflate::step`].
        let data = vec![0; BATCH_BYTES + BATCH_OBJECT + 1].into_boxed_slice();
        Batch { data, used: 0, numbers: Vec::new(), objects: Vec::new() }
    }

    fn is_full(&self) -> bool {
        self.used >= BATCH_BYTES || self.numbers.len() >= BATCH_OBJECTS
    }
}

impl Pass<'_> {
    /// Inspects the objects that wait, and gives them their ids.
    fn inspect(&mut self, inspector: &mut Inspector<'_>) -> Result<()> {
        let Batch { data, used, numbers, objects } = &mut self.batch;
        let jobs: Vec<HashJob<'_>> =
            objects.iter().map(|(kind, place)| HashJob { kind: *kind, data: &data[place.clone()] }).collect();
        let entries = &mut self.table.entries;
        inspector.objects(numbers, &jobs, |number, _, id| entries[number as usize].id = id)?;
        *used = 0;
        numbers.clear();
        objects.clear();
        Ok(())
    }

    fn entry<R: Read + ?Sized>(
        &mut self,
        input: &mut Input<'_, R>,
        inspector: &mut Inspector<'_>,
        ticker: &mut Ticker<'_>,
    ) -> Result<()> {
        let offset = input.offset;
        input.crc.reset();
        let (number, size) = entry_header(input)?;
        let index = u32::try_from(self.table.entries.len()).map_err(|_| bad("pack: too many objects"))?;
        let mut entry = Entry {
            offset,
            crc: 0,
            base: NONE,
            kind: ObjectKind::from_number(number),
            id: ObjectId::null(self.table.hash),
            external: false,
        };
        match (entry.kind, number) {
            (Some(ObjectKind::Blob), _) if size > STREAM_BLOB => {
                entry.id = self.large_blob(input, size, index, inspector, ticker)?;
            }
            (Some(kind), _) => entry.id = self.whole(input, kind, size, index, inspector)?,
            (None, 6) => {
                let back = offset_varint(input)?;
                let base = offset.checked_sub(back).filter(|_| back != 0);
                let base = base.and_then(|base| {
                    self.table.entries.binary_search_by_key(&base, |entry| entry.offset).ok()
                });
                let base = base.ok_or_else(|| at(offset, "delta base offset is out of bounds"))?;
                entry.base = base as u32;
                self.delta(input, offset, size, ticker)?;
            }
            (None, 7) => {
                let mut raw = [0; 32];
                let raw = &mut raw[..self.table.hash.len()];
                for byte in raw.iter_mut() {
                    *byte = input.byte()?;
                }
                let id =
                    ObjectId::from_bytes(self.table.hash, raw).unwrap_or(ObjectId::null(self.table.hash));
                self.table.refs.push((id, index));
                self.delta(input, offset, size, ticker)?;
            }
            (None, _) => return Err(at(offset, "unknown object type")),
        }
        entry.crc = input.crc.sum();
        self.table.entries.push(entry);
        Ok(())
    }

    /// A whole object that fits into memory. Its id is null if it is to be inspected together with
    /// others.
    fn whole<R: Read + ?Sized>(
        &mut self,
        input: &mut Input<'_, R>,
        kind: ObjectKind,
        size: u64,
        index: u32,
        inspector: &mut Inspector<'_>,
    ) -> Result<ObjectId> {
        let ReceiveLimits { object_bytes, delta_bytes, .. } = *self.limits;
        // All but blobs are held in memory, whether they come as deltas or not.
        let (allowed, name) = match kind {
            ObjectKind::Blob => (object_bytes, "object size"),
            _ if delta_bytes < object_bytes => (delta_bytes, "delta result"),
            _ => (object_bytes, "object size"),
        };
        if size > allowed {
            let what = format!("pack: {} at {}", kind.name(), input.offset);
            return Err(limit(&what, size, "bytes", allowed, name));
        }
        if size <= BATCH_OBJECT as u64 {
            // The common case: one call of inflate, no copy.
            let batch = &mut self.batch;
            let mut filled = batch.used;
            inflate(&mut self.z, input, size, |z, bytes| {
                let used = z.step(bytes, &mut batch.data[filled..])?;
                filled += used.produced;
                Ok(used)
            })?;
            batch.objects.push((kind, batch.used..filled));
            batch.numbers.push(index);
            batch.used = filled;
            return Ok(ObjectId::null(self.table.hash));
        }
        let mut data = Vec::new();
        self.chunks(input, size, |chunk| {
            data.extend_from_slice(chunk);
            Ok(())
        })?;
        inspector.object(index, kind, &data)
    }

    /// A blob that is hashed as it streams by.
    fn large_blob<R: Read + ?Sized>(
        &mut self,
        input: &mut Input<'_, R>,
        size: u64,
        index: u32,
        inspector: &mut Inspector<'_>,
        ticker: &mut Ticker<'_>,
    ) -> Result<ObjectId> {
        if size > self.limits.object_bytes {
            return Err(limit(
                &format!("pack: blob at {}", input.offset),
                size,
                "bytes",
                self.limits.object_bytes,
                "object size",
            ));
        }
        inspector.hasher.start(ObjectKind::Blob, size);
        self.chunks(input, size, |chunk| {
            inspector.hasher.update(chunk);
            ticker.poll()
        })?;
        let id = inspector.hasher.finish();
        inspector.streamed_blob(index, size, id)
    }

    /// A delta, of which only the declared sizes matter now.
    fn delta<R: Read + ?Sized>(
        &mut self,
        input: &mut Input<'_, R>,
        offset: u64,
        size: u64,
        ticker: &mut Ticker<'_>,
    ) -> Result<()> {
        let allowed = self.limits.delta_bytes;
        if size > allowed {
            return Err(limit(&format!("pack: delta at {offset}"), size, "bytes", allowed, "delta result"));
        }
        let mut start = [0; 32];
        let mut have = 0;
        self.chunks(input, size, |chunk| {
            let take = chunk.len().min(start.len() - have);
            start[have..have + take].copy_from_slice(&chunk[..take]);
            have += take;
            ticker.poll()
        })?;
        let (base, result, _) = delta_apply::sizes(&start[..have]).map_err(|why| at(offset, why))?;
        for declared in [base, result] {
            if declared > allowed {
                return Err(limit(
                    &format!("pack: delta at {offset}"),
                    declared,
                    "bytes",
                    allowed,
                    "delta result",
                ));
            }
        }
        Ok(())
    }

    /// Inflates `size` bytes piece by piece.
    fn chunks<R: Read + ?Sized>(
        &mut self,
        input: &mut Input<'_, R>,
        size: u64,
        mut each: impl FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let out = &mut self.out;
        inflate(&mut self.z, input, size, |z, bytes| {
            let used = z.step(bytes, out)?;
            each(&out[..used.produced])?;
            Ok(used)
        })
    }
}

/// Bytes that one step of inflating consumed and produced.
struct Step {
    consumed: usize,
    produced: usize,
    end: bool,
}

/// Inflates, and knows how much may still come.
struct Inflate<'z> {
    z: &'z mut Decompress,
    left: u64,
}

impl Inflate<'_> {
    /// One call of inflate into `out`, of which it uses one byte more than is due at most: enough
    /// to see that a stream is too long, too little to be a bomb.
    fn step(&mut self, input: &[u8], out: &mut [u8]) -> Result<Step> {
        let room = usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX).min(out.len());
        let (before_in, before_out) = (self.z.total_in(), self.z.total_out());
        let status = self.z.decompress(input, &mut out[..room], FlushDecompress::Finish);
        let status = status.map_err(|_| bad("deflate stream is damaged"))?;
        let consumed = (self.z.total_in() - before_in) as usize;
        let produced = (self.z.total_out() - before_out) as usize;
        if produced as u64 > self.left {
            return Err(bad("object is larger than it declares"));
        }
        self.left -= produced as u64;
        Ok(Step { consumed, produced, end: status == Status::StreamEnd })
    }
}

/// Drives `step` over the input until the stream ends, and checks that it gave exactly `size`
/// bytes.
fn inflate<R: Read + ?Sized>(
    z: &mut Decompress,
    input: &mut Input<'_, R>,
    size: u64,
    mut step: impl FnMut(&mut Inflate<'_>, &[u8]) -> Result<Step>,
) -> Result<()> {
    z.reset(true);
    let begin = input.offset;
    let mut inflate = Inflate { z, left: size };
    loop {
        let bytes = input.fill()?;
        let used = step(&mut inflate, bytes).map_err(|e| match e {
            Error::Invalid(why) => at(begin, &why),
            other => other,
        })?;
        input.consume(used.consumed);
        if used.end {
            break;
        }
        if used.consumed == 0 && used.produced == 0 {
            return Err(at(begin, "deflate stream is damaged"));
        }
    }
    if inflate.left != 0 {
        return Err(at(begin, "object is smaller than it declares"));
    }
    Ok(())
}

/// Type number and size at the start of an entry.
fn entry_header<R: Read + ?Sized>(input: &mut Input<'_, R>) -> Result<(u8, u64)> {
    let begin = input.offset;
    let mut byte = input.byte()?;
    let number = (byte >> 4) & 7;
    let mut size = u64::from(byte & 15);
    let mut shift = 4;
    while byte & 0x80 != 0 {
        byte = input.byte()?;
        // 4 + 8 * 7 = 60 bits; the limits are far below.
        if shift > 53 {
            return Err(at(begin, "object size is out of bounds"));
        }
        size |= u64::from(byte & 0x7f) << shift;
        shift += 7;
    }
    Ok((number, size))
}

/// The distance of an OFS_DELTA to its base.
fn offset_varint<R: Read + ?Sized>(input: &mut Input<'_, R>) -> Result<u64> {
    let begin = input.offset;
    let mut byte = input.byte()?;
    let mut value = u64::from(byte & 0x7f);
    while byte & 0x80 != 0 {
        byte = input.byte()?;
        value = value
            .checked_add(1)
            .and_then(|value| value.checked_mul(128))
            .and_then(|value| value.checked_add(u64::from(byte & 0x7f)))
            .ok_or_else(|| at(begin, "delta base offset is out of bounds"))?;
    }
    Ok(value)
}

/// A malformed entry: where, and why.
pub(super) fn at(offset: u64, why: &str) -> Error {
    bad(format!("pack: entry at {offset}: {why}"))
}

/// The client's stream: buffered, counted, summed, and copied to the file.
struct Input<'s, R: ?Sized> {
    src: &'s mut R,
    file: &'s File,
    buf: Box<[u8]>,
    pos: usize,
    end: usize,
    /// Bytes of the pack consumed.
    offset: u64,
    /// Bytes of the pack written to the file.
    written: u64,
    crc: Crc,
    sum: Checksum,
    hash: HashKind,
    /// Most bytes, and where that is set.
    max: (u64, &'static str),
}

impl<'s, R: Read + ?Sized> Input<'s, R> {
    fn new(src: &'s mut R, file: &'s File, hash: HashKind, max: (u64, &'static str)) -> Self {
        let buf = vec![0; INPUT].into_boxed_slice();
        let (crc, sum) = (Crc::new(), Checksum::new(hash));
        Input { src, file, buf, pos: 0, end: 0, offset: 0, written: 0, crc, sum, hash, max }
    }

    /// At least one byte, or an error at the end.
    fn fill(&mut self) -> Result<&[u8]> {
        if self.pos == self.end {
            self.flush()?;
            self.pos = 0;
            self.end = read_some(self.src, &mut self.buf)?;
            if self.end == 0 {
                return Err(bad(format!("pack: cut short after {} bytes", self.offset)));
            }
        }
        Ok(&self.buf[self.pos..self.end])
    }

    fn consume(&mut self, n: usize) {
        self.crc.update(&self.buf[self.pos..self.pos + n]);
        self.pos += n;
        self.offset += n as u64;
    }

    fn byte(&mut self) -> Result<u8> {
        let byte = self.fill()?[0];
        self.consume(1);
        Ok(byte)
    }

    /// Sums and writes what was consumed since the last time.
    fn flush(&mut self) -> Result<()> {
        if self.offset > self.max.0 {
            return Err(limit("pack", self.offset, "bytes", self.max.0, self.max.1));
        }
        // Consumed bytes always lie at the buffer's start: it is refilled only after this.
        let done = &self.buf[..self.pos];
        self.sum.update(done);
        self.file.write_all_at(done, self.written).map_err(pack_error)?;
        self.written += done.len() as u64;
        Ok(())
    }

    /// Checks the trailer, and that nothing visible follows it.
    fn trailer(&mut self) -> Result<ObjectId> {
        self.flush()?;
        let sum = self.sum.clone().finish();
        self.buf.copy_within(self.pos..self.end, 0);
        self.end -= self.pos;
        self.pos = 0;
        while self.end < self.hash.len() {
            let n = read_some(self.src, &mut self.buf[self.end..self.hash.len()])?;
            if n == 0 {
                return Err(bad(format!("pack: cut short after {} bytes", self.offset + self.end as u64)));
            }
            self.end += n;
        }
        let trailer = &self.buf[..self.hash.len()];
        if trailer != sum.as_bytes() {
            return Err(bad("pack: checksum does not match"));
        }
        if self.end > self.hash.len() {
            return Err(bad("pack: bytes after the end of the pack"));
        }
        self.file.write_all_at(trailer, self.written).map_err(pack_error)?;
        Ok(sum)
    }
}

fn read_some<R: Read + ?Sized>(src: &mut R, buf: &mut [u8]) -> Result<usize> {
    loop {
        match src.read(buf) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(Error::Io),
        }
    }
}
