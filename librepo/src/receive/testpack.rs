//! Packs for tests, good ones and bad ones: nothing here checks that what it builds makes sense.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use libgit::{HashKind, ObjectId, ObjectKind};

use super::hasher::Checksum;
use crate::id::hash_object;

/// A pack under construction.
pub struct TestPack {
    hash: HashKind,
    bytes: Vec<u8>,
    count: u32,
}

impl TestPack {
    /// An empty pack.
    pub fn new(hash: HashKind) -> TestPack {
        TestPack { hash, bytes: b"PACK\0\0\0\x02\0\0\0\0".to_vec(), count: 0 }
    }

    /// Adds a whole object, and gives its id and the offset of its entry.
    pub fn object(&mut self, kind: ObjectKind, data: &[u8]) -> (ObjectId, u64) {
        let offset = self.raw(kind as u8, data.len() as u64, &[], data);
        (hash_object(self.hash, kind, data), offset)
    }

    /// Adds a delta on the entry at `base`, and gives its own offset.
    pub fn ofs_delta(&mut self, base: u64, delta: &[u8]) -> u64 {
        let mut distance = self.bytes.len() as u64 - base;
        let mut reference = vec![(distance & 0x7f) as u8];
        while distance >> 7 != 0 {
            distance = (distance >> 7) - 1;
            reference.insert(0, 0x80 | (distance & 0x7f) as u8);
        }
        self.raw(6, delta.len() as u64, &reference, delta)
    }

    /// Adds a delta on the object `base`, and gives its own offset.
    pub fn ref_delta(&mut self, base: &ObjectId, delta: &[u8]) -> u64 {
        self.raw(7, delta.len() as u64, base.as_bytes(), delta)
    }

    /// Adds an entry of any type with any declared size.
    pub fn raw(&mut self, number: u8, size: u64, reference: &[u8], data: &[u8]) -> u64 {
        let mut deflate = ZlibEncoder::new(Vec::new(), Compression::fast());
        let _ = deflate.write_all(data);
        let stream = deflate.finish().unwrap_or_default();
        self.stream(number, size, reference, &stream)
    }

    /// Adds an entry whose deflate stream is given.
    pub fn stream(&mut self, number: u8, size: u64, reference: &[u8], stream: &[u8]) -> u64 {
        let offset = self.bytes.len() as u64;
        let mut byte = (number << 4) | (size & 15) as u8;
        let mut rest = size >> 4;
        while rest != 0 {
            self.bytes.push(byte | 0x80);
            byte = (rest & 0x7f) as u8;
            rest >>= 7;
        }
        self.bytes.push(byte);
        self.bytes.extend_from_slice(reference);
        self.bytes.extend_from_slice(stream);
        self.count += 1;
        offset
    }

    /// The pack, with the right count and checksum.
    pub fn finish(self) -> Vec<u8> {
        let count = self.count;
        self.finish_with(count)
    }

    /// The pack, declaring this many objects, with the right checksum.
    pub fn finish_with(self, count: u32) -> Vec<u8> {
        sealed(self.hash, count, &self.bytes[12..])
    }
}

/// A pack of these entries' bytes, declaring this many objects, with the right checksum.
pub fn sealed(hash: HashKind, count: u32, entries: &[u8]) -> Vec<u8> {
    let mut bytes = [b"PACK\0\0\0\x02".as_slice(), &count.to_be_bytes(), entries].concat();
    let mut sum = Checksum::new(hash);
    sum.update(&bytes);
    bytes.extend_from_slice(sum.finish().as_bytes());
    bytes
}

/// A delta under construction.
pub struct TestDelta(Vec<u8>);

impl TestDelta {
    /// A delta that declares these sizes in bytes.
    pub fn new(base: u64, result: u64) -> TestDelta {
        let mut bytes = Vec::new();
        for mut size in [base, result] {
            while size >= 0x80 {
                bytes.push(0x80 | (size & 0x7f) as u8);
                size >>= 7;
            }
            bytes.push(size as u8);
        }
        TestDelta(bytes)
    }

    /// Copies from the base.
    pub fn copy(mut self, offset: u32, length: u32) -> TestDelta {
        self.0.push(0xff);
        self.0.extend_from_slice(&offset.to_le_bytes());
        self.0.extend_from_slice(&length.to_le_bytes()[..3]);
        self
    }

    /// Inserts bytes.
    pub fn insert(mut self, data: &[u8]) -> TestDelta {
        for chunk in data.chunks(127) {
            self.0.push(chunk.len() as u8);
            self.0.extend_from_slice(chunk);
        }
        self
    }

    /// The delta.
    pub fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A tree's content from entries: mode, name, id.
pub fn tree(entries: &[(&str, &[u8], ObjectId)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (mode, name, id) in entries {
        data.extend_from_slice(mode.as_bytes());
        data.push(b' ');
        data.extend_from_slice(name);
        data.push(0);
        data.extend_from_slice(id.as_bytes());
    }
    data
}

/// A commit's content.
pub fn commit(tree: &ObjectId, parents: &[ObjectId], seconds: u64) -> Vec<u8> {
    let mut text = format!("tree {tree}\n");
    for parent in parents {
        text += &format!("parent {parent}\n");
    }
    text += &format!("author A <a@x> {seconds} +0000\ncommitter C <c@x> {seconds} +0000\n\nmessage\n");
    text.into_bytes()
}
