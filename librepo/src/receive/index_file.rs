//! Writing a pack index, version 2 (`gitformat-pack`).

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use libgit::{HashKind, ObjectId};

use super::hasher::Checksum;
use super::stream::Entry;
use crate::error::{Error, Result};

/// Writes the index of a pack with these entries, sorted by id by way of `order`, into an empty
/// file.
pub(super) fn write(
    file: &File,
    hash: HashKind,
    entries: &[Entry],
    order: &[u32],
    pack_sum: &ObjectId,
) -> Result<()> {
    write_to(
        Summed { inner: io::BufWriter::with_capacity(128 << 10, file), sum: Checksum::new(hash) },
        entries,
        order,
        pack_sum,
    )
    .map_err(|e| Error::Write(PathBuf::from("incoming index"), e))
}

fn write_to(mut out: Summed<'_>, entries: &[Entry], order: &[u32], pack_sum: &ObjectId) -> io::Result<()> {
    let sorted = || order.iter().filter_map(|&number| entries.get(number as usize));
    out.put(b"\xfftOc\0\0\0\x02")?;
    let mut fanout = [0_u32; 256];
    for entry in sorted() {
        fanout[usize::from(entry.id.as_bytes()[0])] += 1;
    }
    let mut sum = 0_u32;
    for count in fanout {
        sum += count;
        out.put(&sum.to_be_bytes())?;
    }
    for entry in sorted() {
        out.put(entry.id.as_bytes())?;
    }
    for entry in sorted() {
        out.put(&entry.crc.to_be_bytes())?;
    }
    // Offsets beyond 31 bits go to a table of their own.
    let mut large = Vec::new();
    for entry in sorted() {
        let word = match u32::try_from(entry.offset) {
            Ok(offset) if offset < 1 << 31 => offset,
            _ => {
                large.push(entry.offset);
                (1 << 31) | (large.len() as u32 - 1)
            }
        };
        out.put(&word.to_be_bytes())?;
    }
    for offset in large {
        out.put(&offset.to_be_bytes())?;
    }
    out.put(pack_sum.as_bytes())?;
    let sum = out.sum.clone().finish();
    out.inner.write_all(sum.as_bytes())?;
    out.inner.flush()
}

struct Summed<'f> {
    inner: io::BufWriter<&'f File>,
    sum: Checksum,
}

impl Summed<'_> {
    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.inner.write_all(bytes)
    }
}
