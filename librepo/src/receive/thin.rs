//! Completing a thin pack: the bases that the client left out, because the repository has them, are
//! appended.

use std::fs::File;
use std::os::unix::fs::FileExt;

use flate2::{Compress, Compression, Crc, FlushCompress, Status};
use libgit::{ObjectId, ObjectKind};

use super::had::Had;
use super::hasher::Checksum;
use super::stream::{Entry, NONE, PackEntries};
use super::{ReceiveLimits, bad, limit, pack_error};
use crate::error::Result;
use crate::reader::Reader;

/// Bytes of cache for reading the bases. They often lie on one chain.
const CACHE: usize = 16 << 20;

/// Appends the objects `ids` of the repository to the pack. Each is read and written once, so that
/// this is linear in their size.
pub(super) fn append(
    table: &mut PackEntries,
    file: &File,
    had: Had<'_>,
    ids: &[ObjectId],
    limits: &ReceiveLimits,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    let Some(store) = had.everything() else { return Err(missing(ids)) };
    if ids.len() as u64 > limits.external_bases {
        return Err(limit(
            "pack",
            ids.len() as u64,
            "bases that it does not contain",
            limits.external_bases,
            "thin bases",
        ));
    }
    // All of them before any is read or looked for. Most are trees and blobs of the newest commits.
    let hidden: Vec<ObjectId> =
        ids.iter().filter(|id| !had.shows(id, Some(ObjectKind::Blob))).copied().collect();
    if !hidden.is_empty() {
        return Err(missing(&hidden));
    }
    let mut reader = Reader::new(store, CACHE);
    // Neighbours in the repository's packs share delta chains: read them in the order in which they
    // lie.
    let mut order: Vec<(crate::store::Location, ObjectId)> =
        ids.iter().filter_map(|id| store.locate(id).map(|at| (at, *id))).collect();
    if order.len() != ids.len() {
        let gone: Vec<ObjectId> = ids.iter().filter(|id| !store.contains(id)).copied().collect();
        return Err(missing(&gone));
    }
    order.sort_by_key(|(at, _)| match at {
        crate::store::Location::Pack { pack, offset, .. } => (*pack, *offset),
        crate::store::Location::Loose { dir } => (u32::MAX, u64::from(*dir)),
    });
    let mut deflate = Compress::new(Compression::fast(), true);
    let mut out = Vec::new();
    for (at, id) in order {
        let (kind, size) = reader.header_at(at, &id)?.ok_or_else(|| missing(&[id]))?;
        if size > limits.delta_bytes {
            return Err(limit(
                &format!("object {id}, a delta's base"),
                size,
                "bytes",
                limits.delta_bytes,
                "delta result",
            ));
        }
        let object = reader.read_at(at, &id)?.ok_or_else(|| missing(&[id]))?;
        out.clear();
        put_header(&mut out, kind, object.data.len() as u64);
        deflate.reset();
        compress(&mut deflate, &object.data, &mut out)?;
        let mut crc = Crc::new();
        crc.update(&out);
        file.write_all_at(&out, table.end).map_err(pack_error)?;
        let entry =
            Entry { offset: table.end, crc: crc.sum(), base: NONE, kind: Some(kind), id, external: true };
        table.entries.push(entry);
        table.end += out.len() as u64;
        tick()?;
    }
    Ok(())
}

fn missing(ids: &[ObjectId]) -> crate::error::Error {
    match ids {
        [id, ..] => crate::error::Error::MissingBases(ids.len() as u64, *id),
        [] => bad("pack: deltas' bases are missing"),
    }
}

/// Type and size as at the start of an entry.
fn put_header(out: &mut Vec<u8>, kind: ObjectKind, size: u64) {
    let mut byte = ((kind as u8) << 4) | (size & 15) as u8;
    let mut rest = size >> 4;
    while rest != 0 {
        out.push(byte | 0x80);
        byte = (rest & 0x7f) as u8;
        rest >>= 7;
    }
    out.push(byte);
}

fn compress(deflate: &mut Compress, data: &[u8], out: &mut Vec<u8>) -> Result<()> {
    loop {
        let used = usize::try_from(deflate.total_in()).unwrap_or(data.len());
        out.reserve((data.len() - used) / 2 + 128);
        let status = deflate.compress_vec(&data[used..], out, FlushCompress::Finish);
        match status {
            Ok(Status::StreamEnd) => return Ok(()),
            Ok(_) => {}
            Err(_) => return Err(bad("pack: an object cannot be compressed")),
        }
    }
}

/// Writes the final number of objects and the checksum of a pack that has grown, and gives the
/// checksum.
pub(super) fn seal(
    table: &PackEntries,
    file: &File,
    tick: &mut dyn FnMut() -> Result<()>,
) -> Result<ObjectId> {
    let count = u32::try_from(table.entries.len()).map_err(|_| bad("pack: too many objects"))?;
    file.write_all_at(&count.to_be_bytes(), 8).map_err(pack_error)?;
    let mut sum = Checksum::new(table.hash);
    let mut buf = vec![0; 256 << 10];
    let mut at = 0;
    while at < table.end {
        let want = usize::try_from(table.end - at).unwrap_or(usize::MAX).min(buf.len());
        file.read_exact_at(&mut buf[..want], at).map_err(pack_error)?;
        sum.update(&buf[..want]);
        at += want as u64;
        tick()?;
    }
    let sum = sum.finish();
    file.write_all_at(sum.as_bytes(), table.end).map_err(pack_error)?;
    // A longer attempt may have been there before.
    file.set_len(table.end + table.hash.len() as u64).map_err(pack_error)?;
    Ok(sum)
}
