//! Reading objects, with a cache of what lies on the way of a delta chain.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::rc::Rc;

use flate2::{Decompress, FlushDecompress, Status};
use libgit::{ObjectId, ObjectKind};

use crate::delta_apply;
use crate::dir::Map;
use crate::error::{Error, Result};
use crate::id::FastState;
use crate::inflate::Inflater;
use crate::layers::{self, Layers, Stop};
use crate::loose;
use crate::pack::{EntryKind, Pack};
use crate::store::{Location, Store};

/// The longest delta chain that is followed. C git makes chains of 4,095 at most; a cycle of
/// deltas by name ends here too.
pub const MAX_CHAIN: usize = 10_000;

/// Of objects from this size on (bytes) only every other one on the way of a chain is kept: filling
/// fresh memory with all of them costs more than making some again.
const LARGE: usize = 8 << 10;

/// The largest object (bytes) that even a small cache keeps, as a generation of its own: versions
/// of a large file are read one after the other, and each would take its whole chain again.
const LARGEST: usize = 3 << 20;

/// zlib cannot do better than 1032 : 1, so that a size beyond that is a lie before any memory is
/// spent on it.
const MAX_RATIO: u64 = 1040;

/// Bytes of content that are handed out at a time.
const PIECE: u64 = 128 << 10;
/// Bytes of memory for an object that is given in pieces, beside its deltas.
const LAYERS: u64 = 9 << 20;

/// What [`Reader::read_packed_in_pieces`] gives.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// The next bytes of the object.
    Content(&'a [u8]),
    /// From here on so many bytes of memory are needed.
    Memory(u64),
}

/// An object in memory. Cloning shares the content.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its content.
    pub data: Rc<Vec<u8>>,
}

/// Where a packed object lies: number of the pack, offset in bytes.
type Key = (u32, u64);

/// Two generations of objects: when the young have used up their half of the bytes they become
/// the old, and the old that nobody asked for since are dropped.
#[derive(Debug, Default)]
struct Cache {
    young: HashMap<Key, Object, FastState>,
    old: HashMap<Key, Object, FastState>,
    bytes: usize,
    limit: usize,
}

impl Cache {
    /// What an entry costs beside its content.
    const OVERHEAD: usize = 96;

    fn find(&mut self, key: Key) -> Option<Object> {
        if let Some(object) = self.young.get(&key) {
            return Some(object.clone());
        }
        let object = self.old.remove(&key)?;
        self.insert(key, object.clone());
        Some(object)
    }

    fn insert(&mut self, key: Key, object: Object) {
        let cost = object.data.len() + Self::OVERHEAD;
        // Of what is larger, too few would find room to be of use.
        if cost > (self.limit / 2).max(LARGEST) {
            return;
        }
        if self.bytes + cost > self.limit {
            self.old = std::mem::take(&mut self.young);
            self.bytes = 0;
        }
        self.bytes += cost;
        self.young.insert(key, object);
    }
}

/// Reads objects of one [`Store`]; every thread has its own.
#[derive(Debug)]
pub struct Reader<'s> {
    store: &'s Store,
    cache: Cache,
    /// For what lies in files of its own and for sizes of deltas: many fetches need neither.
    inflate: LazyCell<Decompress>,
    inflater: Inflater,
    chain: Vec<Step>,
    delta: Vec<u8>,
}

/// A delta on the way to its base.
#[derive(Clone, Copy, Debug)]
struct Step {
    offset: u64,
    data_offset: u64,
    size: u64,
}

impl<'s> Reader<'s> {
    /// A reader whose cache holds `cache_bytes` at most, or two large objects.
    pub fn new(store: &'s Store, cache_bytes: usize) -> Reader<'s> {
        Reader {
            store,
            cache: Cache { limit: cache_bytes / 2, ..Cache::default() },
            inflate: LazyCell::new(|| Decompress::new(true)),
            inflater: Inflater::default(),
            chain: Vec::new(),
            delta: Vec::new(),
        }
    }

    /// The store.
    pub fn store(&self) -> &'s Store {
        self.store
    }

    /// Reads an object; `None` if it is not here.
    pub fn read(&mut self, id: &ObjectId) -> Result<Option<Object>> {
        match self.store.locate(id) {
            Some(at) => self.read_at(at, id),
            None => Ok(None),
        }
    }

    /// Reads an object that was located. `None` only for a loose one that has gone since.
    pub fn read_at(&mut self, at: Location, id: &ObjectId) -> Result<Option<Object>> {
        match at {
            Location::Pack { pack, offset, .. } => match self.read_packed(pack, offset) {
                Err(Error::EntryTooLarge(_, _, size, limit)) => Err(Error::ObjectTooLarge(*id, size, limit)),
                result => result.map(Some),
            },
            Location::Loose { dir } => self.read_loose(dir, id, self.store.limits().object_bytes),
        }
    }

    /// The object of [`Reader::read_packed`]; `None` if it, or an object that it is built upon, has
    /// more than `limit` bytes.
    pub(crate) fn read_packed_within(
        &mut self,
        pack: u32,
        offset: u64,
        limit: u64,
    ) -> Result<Option<Object>> {
        within(self.rebuild(pack, offset, limit.min(self.store.limits().object_bytes)))
    }

    /// The object of [`Reader::read_at`]; `None` if it, or an object that it is built upon, has
    /// more than `limit` bytes.
    pub(crate) fn read_at_within(
        &mut self,
        at: Location,
        id: &ObjectId,
        limit: u64,
    ) -> Result<Option<Object>> {
        match at {
            Location::Pack { pack, offset, .. } => self.read_packed_within(pack, offset, limit),
            Location::Loose { dir } => {
                let limit = limit.min(self.store.limits().object_bytes);
                within(self.read_loose(dir, id, limit).and_then(|read| read.ok_or(Error::Missing(*id))))
            }
        }
    }

    fn pack(&self, number: u32) -> Result<&'s Pack> {
        let pack = self.store.pack(number);
        pack.ok_or_else(|| Error::Limit(format!("no pack with the number {number}")))
    }

    /// Reads the object whose entry begins at `offset` of a pack.
    pub fn read_packed(&mut self, pack_number: u32, offset: u64) -> Result<Object> {
        self.rebuild(pack_number, offset, self.store.limits().object_bytes)
    }

    fn rebuild(&mut self, pack_number: u32, offset: u64, limit: u64) -> Result<Object> {
        let pack = self.pack(pack_number)?;
        self.chain.clear();
        let mut at = offset;
        let mut object = loop {
            if let Some(object) = self.cache.find((pack_number, at)) {
                break object;
            }
            let entry = pack.entry(at)?;
            if entry.size > limit {
                return Err(Error::EntryTooLarge(pack.name().to_owned(), at, entry.size, limit));
            }
            let base = match entry.kind {
                EntryKind::Base(kind) => {
                    let mut data = Vec::new();
                    inflate_all(&mut self.inflater, pack.data_from(entry.data_offset), entry.size, &mut data)
                        .map_err(|why| pack.corrupt(at, why))?;
                    let object = Object { kind, data: Rc::new(data) };
                    self.cache.insert((pack_number, at), object.clone());
                    break object;
                }
                EntryKind::OfsDelta(base) => base,
                EntryKind::RefDelta(id) => base_by_name(pack, at, &id)?,
            };
            if self.chain.len() >= MAX_CHAIN {
                return Err(pack.corrupt(offset, "delta chain too long"));
            }
            self.chain.push(Step { offset: at, data_offset: entry.data_offset, size: entry.size });
            at = base;
        };
        let mut room = Vec::new();
        while let Some(step) = self.chain.pop() {
            let input = pack.data_from(step.data_offset);
            let data = inflate_all(&mut self.inflater, input, step.size, &mut self.delta)
                .and_then(|()| {
                    delta_apply::apply(&object.data, &self.delta, limit, std::mem::take(&mut room))
                })
                .map_err(|why| pack.corrupt(step.offset, why))?;
            let next = Object { kind: object.kind, data: Rc::new(data) };
            let base = std::mem::replace(&mut object, next);
            room = Rc::try_unwrap(base.data).unwrap_or_default();
            if object.data.len() < LARGE || self.chain.len().is_multiple_of(2) {
                self.cache.insert((pack_number, step.offset), object.clone());
            }
        }
        Ok(object)
    }

    /// Gives the content of a packed object in pieces. Neither it nor what it is built upon is in
    /// memory as a whole, unless its deltas jump back and forth too much. For what it does take,
    /// memory is asked for first.
    pub(crate) fn read_packed_in_pieces(
        &mut self,
        pack_number: u32,
        offset: u64,
        out: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        let pack = self.pack(pack_number)?;
        let limit = self.store.limits().object_bytes;
        let (mut at, mut steps, mut memory) = (offset, Vec::new(), LAYERS);
        let (input, size) = loop {
            let entry = pack.entry(at)?;
            if entry.size > limit {
                return Err(Error::EntryTooLarge(pack.name().to_owned(), at, entry.size, limit));
            }
            let base = match entry.kind {
                EntryKind::Base(_) => break (pack.data_from(entry.data_offset), entry.size),
                EntryKind::OfsDelta(base) => base,
                EntryKind::RefDelta(id) => base_by_name(pack, at, &id)?,
            };
            steps.push(Step { offset: at, data_offset: entry.data_offset, size: entry.size });
            memory = memory.saturating_add(entry.size.saturating_mul(2));
            if steps.len() > layers::DEEPEST {
                return self.whole_in_pieces(pack_number, offset, out);
            }
            at = base;
        };
        out(Piece::Memory(memory))?;
        let mut deltas = Vec::with_capacity(steps.len());
        for step in steps.iter().rev() {
            let mut delta = Vec::new();
            inflate_all(&mut self.inflater, pack.data_from(step.data_offset), step.size, &mut delta)
                .map_err(|why| pack.corrupt(step.offset, why))?;
            deltas.push(delta);
        }
        let corrupt = |why| pack.corrupt(offset, why);
        let mut layers = Layers::new(input, size, deltas).map_err(corrupt)?;
        if layers.size() > limit {
            return Err(Error::EntryTooLarge(pack.name().to_owned(), offset, layers.size(), limit));
        }
        let (mut done, mut piece) = (0, Vec::new());
        while done < layers.size() {
            let len = (layers.size() - done).min(PIECE);
            piece.clear();
            match layers.read(done, len, &mut piece) {
                Ok(()) => {
                    out(Piece::Content(&piece))?;
                    done += len;
                }
                Err(Stop::Scattered) => {
                    out(Piece::Memory(memory.saturating_add(size)))?;
                    layers.hold_base();
                }
                Err(Stop::Corrupt(why)) => return Err(corrupt(why)),
            }
        }
        Ok(())
    }

    /// Builds the object in memory as a whole and gives it out in pieces: for a chain with too many
    /// deltas to read them all at once.
    fn whole_in_pieces(
        &mut self,
        pack_number: u32,
        offset: u64,
        out: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        let (_, size) = self.header_packed(pack_number, offset)?;
        // It, and what it is made from, which is about as large.
        out(Piece::Memory(size.saturating_mul(2)))?;
        let object = self.read_packed(pack_number, offset)?;
        object.data.chunks(PIECE as usize).try_for_each(|piece| out(Piece::Content(piece)))
    }

    /// Kind and size in bytes of an object; `None` if it is not here. Reads only headers.
    pub fn header(&mut self, id: &ObjectId) -> Result<Option<(ObjectKind, u64)>> {
        match self.store.locate(id) {
            Some(at) => self.header_at(at, id),
            None => Ok(None),
        }
    }

    /// The kind and size of an object that was located before.
    pub fn header_at(&mut self, at: Location, id: &ObjectId) -> Result<Option<(ObjectKind, u64)>> {
        match at {
            Location::Pack { pack, offset, .. } => self.header_packed(pack, offset).map(Some),
            Location::Loose { dir } => {
                let Some(file) = self.map_loose(dir, id)? else { return Ok(None) };
                let mut start = [0; loose::MAX_HEADER];
                let (kind, size, _) = self.start_loose(&file, id, &mut start)?.0;
                Ok(Some((kind, size)))
            }
        }
    }

    /// The kind of a packed object, by following its chain of deltas without inflating anything.
    pub fn kind_packed(&mut self, pack_number: u32, offset: u64) -> Result<ObjectKind> {
        let pack = self.pack(pack_number)?;
        let mut at = offset;
        for _ in 0..=MAX_CHAIN {
            if let Some(object) = self.cache.young.get(&(pack_number, at)) {
                return Ok(object.kind);
            }
            match pack.entry(at)?.kind {
                EntryKind::Base(kind) => return Ok(kind),
                EntryKind::OfsDelta(base) => at = base,
                EntryKind::RefDelta(id) => at = base_by_name(pack, at, &id)?,
            }
        }
        Err(pack.corrupt(offset, "delta chain too long"))
    }

    /// Kind and size in bytes of a packed object.
    pub fn header_packed(&mut self, pack_number: u32, offset: u64) -> Result<(ObjectKind, u64)> {
        let pack = self.pack(pack_number)?;
        let entry = pack.entry(offset)?;
        if let EntryKind::Base(kind) = entry.kind {
            return Ok((kind, entry.size));
        }
        let kind = self.kind_packed(pack_number, offset)?;
        let mut start = [0; 32];
        self.inflate.reset(true);
        let got = match self.inflate.decompress(
            pack.data_from(entry.data_offset),
            &mut start,
            FlushDecompress::None,
        ) {
            Ok(_) => self.inflate.total_out() as usize,
            Err(_) => return Err(pack.corrupt(offset, "bad compressed data")),
        };
        let sizes = delta_apply::sizes(&start[..got.min(start.len())]);
        let (_, size, _) = sizes.map_err(|why| pack.corrupt(offset, why))?;
        Ok((kind, size))
    }

    fn map_loose(&self, dir: u16, id: &ObjectId) -> Result<Option<Map>> {
        match self.store.object_dir(dir) {
            Some(dir) => loose::map(dir, id),
            None => Ok(None),
        }
    }

    /// Inflates the first bytes of a loose object: its header, how many bytes came out, whether
    /// they are all.
    #[allow(clippy::type_complexity, reason = "private, named where it is taken apart")]
    fn start_loose(
        &mut self,
        file: &[u8],
        id: &ObjectId,
        start: &mut [u8; loose::MAX_HEADER],
    ) -> Result<((ObjectKind, u64, usize), usize, bool)> {
        self.inflate.reset(true);
        let status = self.inflate.decompress(file, start, FlushDecompress::None);
        let status = status.map_err(|_| loose::corrupt(id, "bad compressed data"))?;
        let got = self.inflate.total_out() as usize;
        let header = loose::parse_header(&start[..got]);
        let header = header.ok_or_else(|| loose::corrupt(id, "bad header"))?;
        Ok((header, got, status == Status::StreamEnd))
    }

    fn read_loose(&mut self, dir: u16, id: &ObjectId, limit: u64) -> Result<Option<Object>> {
        let Some(file) = self.map_loose(dir, id)? else { return Ok(None) };
        let mut start = [0; loose::MAX_HEADER];
        let ((kind, size, skip), got, ended) = self.start_loose(&file, id, &mut start)?;
        if size > limit {
            return Err(Error::ObjectTooLarge(*id, size, limit));
        }
        if size / MAX_RATIO > file.len() as u64 {
            return Err(loose::corrupt(id, "size too large for the file"));
        }
        let size = usize::try_from(size).map_err(|_| loose::corrupt(id, "larger than memory"))?;
        let mut data = Vec::with_capacity(size + 1);
        data.extend_from_slice(&start[skip..got]);
        if !ended {
            let rest = file.get(self.inflate.total_in() as usize..).unwrap_or(&[]);
            finish(&mut self.inflate, rest, &mut data).map_err(|why| loose::corrupt(id, why))?;
        }
        if data.len() != size {
            return Err(loose::corrupt(id, "not of the declared size"));
        }
        Ok(Some(Object { kind, data: Rc::new(data) }))
    }

    /// Gives an object's content in pieces: kind and size in bytes, or `None` if it is not here.
    /// One that is stored whole never is in memory as a whole; a delta is made in memory, within
    /// the limit.
    ///
    /// The size is right by the time this returns; ask [`Reader::header`] before if it is needed
    /// first.
    pub fn read_stream(
        &mut self,
        id: &ObjectId,
        out: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<(ObjectKind, u64)>> {
        match self.store.locate(id) {
            Some(Location::Pack { pack: number, offset, .. }) => {
                let pack = self.pack(number)?;
                let entry = pack.entry(offset)?;
                let EntryKind::Base(kind) = entry.kind else {
                    let object = self.read_packed(number, offset)?;
                    out(&object.data)?;
                    return Ok(Some((object.kind, object.data.len() as u64)));
                };
                self.inflate.reset(true);
                let input = pack.data_from(entry.data_offset);
                stream(&mut self.inflate, input, entry.size, out, &|why| pack.corrupt(offset, why))?;
                Ok(Some((kind, entry.size)))
            }
            Some(Location::Loose { dir }) => {
                let Some(file) = self.map_loose(dir, id)? else { return Ok(None) };
                let mut start = [0; loose::MAX_HEADER];
                let ((kind, size, skip), got, ended) = self.start_loose(&file, id, &mut start)?;
                let first = &start[skip..got];
                let left = size.checked_sub(first.len() as u64);
                let left = left.ok_or_else(|| loose::corrupt(id, "not of the declared size"))?;
                if ended && left > 0 {
                    return Err(loose::corrupt(id, "not of the declared size"));
                }
                out(first)?;
                if !ended {
                    let rest = file.get(self.inflate.total_in() as usize..).unwrap_or(&[]);
                    stream(&mut self.inflate, rest, left, out, &|why| loose::corrupt(id, why))?;
                }
                Ok(Some((kind, size)))
            }
            None => Ok(None),
        }
    }
}

/// The entry of a delta's base in the same pack.
fn base_by_name(pack: &Pack, offset: u64, id: &ObjectId) -> Result<u64> {
    let index = pack.lookup(id.as_bytes());
    index.map(|index| pack.offset_at(index)).ok_or_else(|| pack.corrupt(offset, "base of a delta missing"))
}

/// Inflates to the end of the stream, into the spare capacity of `out`.
fn finish(z: &mut Decompress, input: &[u8], out: &mut Vec<u8>) -> std::result::Result<(), &'static str> {
    match z.decompress_vec(input, out, FlushDecompress::Finish) {
        Ok(Status::StreamEnd) => Ok(()),
        Ok(_) => Err("compressed data of another size than declared"),
        Err(_) => Err("bad compressed data"),
    }
}

/// Inflates one stream of exactly `size` bytes into `out`, which is emptied first.
fn inflate_all(
    inflater: &mut Inflater,
    input: &[u8],
    size: u64,
    out: &mut Vec<u8>,
) -> std::result::Result<(), &'static str> {
    if size / MAX_RATIO > input.len() as u64 {
        return Err("size too large for the pack");
    }
    let size = usize::try_from(size).map_err(|_| "larger than memory")?;
    inflater.inflate(input, size, out).map(drop)
}

/// Inflates `size` bytes, to the end of the stream, in pieces.
fn stream(
    z: &mut Decompress,
    mut input: &[u8],
    size: u64,
    out: &mut dyn FnMut(&[u8]) -> Result<()>,
    corrupt: &dyn Fn(&'static str) -> Error,
) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut left = size;
    loop {
        let (had_in, had_out) = (z.total_in(), z.total_out());
        let status = z.decompress(input, &mut buffer, FlushDecompress::None);
        let status = status.map_err(|_| corrupt("bad compressed data"))?;
        let used = (z.total_in() - had_in) as usize;
        let got = (z.total_out() - had_out) as usize;
        input = &input[used..];
        left = left.checked_sub(got as u64).ok_or_else(|| corrupt("not of the declared size"))?;
        if got > 0 {
            out(&buffer[..got])?;
        }
        match status {
            Status::StreamEnd if left == 0 => return Ok(()),
            Status::StreamEnd => return Err(corrupt("not of the declared size")),
            _ if used == 0 && got == 0 => return Err(corrupt("compressed data cut short")),
            _ => {}
        }
    }
}

/// No object where it, or what it is built upon, is larger than the caller wants.
fn within(read: Result<Object>) -> Result<Option<Object>> {
    match read {
        Err(Error::ObjectTooLarge(..) | Error::EntryTooLarge(..)) => Ok(None),
        Err(Error::CorruptEntry(_, _, delta_apply::TOO_LARGE)) => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_cache_keeps_the_last_two_large_objects() {
        let mut cache = Cache { limit: 1 << 20, ..Cache::default() };
        let object = |bytes: usize| Object { kind: ObjectKind::Blob, data: Rc::new(vec![0; bytes]) };
        for (n, bytes) in [(1, 2 << 20), (2, 3 << 20), (3, 5 << 19), (4, 1000), (5, 5 << 19)] {
            cache.insert((0, n), object(bytes));
        }
        let kept: Vec<u64> = (1..=5).filter(|n| cache.find((0, *n)).is_some()).collect();
        // The second, with what its place in the cache costs, is too large.
        assert_eq!(kept, [4, 5]);
        let mut cache = Cache { limit: 1 << 20, ..Cache::default() };
        for n in 1..=4 {
            cache.insert((0, n), object(2 << 20));
        }
        assert!(cache.find((0, 2)).is_none() && cache.find((0, 3)).is_some() && cache.find((0, 4)).is_some());
    }
}
