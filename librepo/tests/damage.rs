//! Damaged files: never a panic, never a wrong object, and auxiliary ones do not matter.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::Scratch;
use libgit::{HashKind, ObjectId};
use librepo::Reader;
use librepo::id::hash_object;

/// A small deterministic generator, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

fn scratch() -> (Scratch, Vec<ObjectId>) {
    let scratch = Scratch::bare(&[]);
    scratch.git(&["config", "fastimport.unpackLimit", "0"]);
    scratch.history("main", 40, 1);
    scratch.git(&["repack", "-adfq"]);
    scratch.history("other", 20, 2);
    scratch.git(&["commit-graph", "write", "--reachable"]);
    scratch.git(&["-c", "pack.writeReverseIndex=true", "multi-pack-index", "write"]);
    let listed = scratch.git(&["cat-file", "--batch-all-objects", "--batch-check=%(objectname)"]);
    let ids = listed.lines().map(|line| ObjectId::from_hex(line.as_bytes()).unwrap()).collect();
    (scratch, ids)
}

fn find(scratch: &Scratch, extension: &str) -> PathBuf {
    let listing = fs::read_dir(scratch.dir.join("objects/pack")).unwrap();
    let mut paths: Vec<PathBuf> = listing.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().find(|path| path.extension().is_some_and(|found| found == extension)).unwrap()
}

/// Reads everything that can be read; gives how many objects were. One that is read must be the
/// right one, unless `lies` (a pack's own bytes may be damaged so that its checksums alone would
/// show it).
fn read_all(scratch: &Scratch, ids: &[ObjectId], lies: bool) -> usize {
    let Ok(repository) = scratch.try_open() else { return 0 };
    let mut reader = Reader::new(repository.store(), 1 << 20);
    let mut good = 0;
    for id in ids {
        let _ = reader.header(id);
        let _ = reader.read_stream(id, &mut |_| Ok(()));
        if let Ok(Some(object)) = reader.read(id) {
            let right = hash_object(HashKind::Sha1, object.kind, &object.data) == *id;
            assert!(right || lies, "{id}");
            good += usize::from(right);
        }
    }
    for pack in repository.store().packs() {
        let _ = (0..=pack.count()).filter_map(|at| pack.end_of(pack.offset_of_position(at)?)).count();
        let _ = pack.entry(u64::MAX);
        let _ = pack.entry(pack.bytes().len() as u64);
    }
    if let Some(graph) = repository.commit_graph() {
        for number in 0..=graph.count() {
            let _ = graph.commit(number).map(|commit| commit.parents().count());
            let _ = (graph.generation(number), graph.id_at(number));
        }
    }
    good
}

/// Cuts and flips a file in many ways, and gives the fewest objects that could be read with it.
fn worst(scratch: &Scratch, ids: &[ObjectId], file: &Path, lies: bool) -> usize {
    let good = fs::read(file).unwrap();
    fs::remove_file(file).unwrap();
    let mut dice = Dice(0x1234_5678_9abc_def1);
    let mut worst = usize::MAX;
    for round in 0..160 {
        let mut bad = good.clone();
        match round {
            0..40 => bad.truncate(if round < 20 { round * 4 } else { dice.roll(good.len()) }),
            40..80 => {
                let at = dice.roll(bad.len().min(1200));
                bad[at] ^= 1 << dice.roll(8);
            }
            80..110 => {
                let at = dice.roll(bad.len() - 4);
                bad[at..at + 4].copy_from_slice(&[[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0; 4]][dice.roll(3)]);
            }
            _ => {
                for _ in 0..dice.roll(200) {
                    let at = dice.roll(bad.len());
                    bad[at] = dice.roll(256) as u8;
                }
            }
        }
        fs::write(file, bad).unwrap();
        worst = worst.min(read_all(scratch, ids, lies));
    }
    fs::write(file, good).unwrap();
    worst
}

#[test]
fn auxiliary_files_do_not_matter() {
    let (scratch, ids) = scratch();
    assert_eq!(read_all(&scratch, &ids, false), ids.len());
    for file in [
        find(&scratch, "rev"),
        scratch.dir.join("objects/pack/multi-pack-index"),
        scratch.dir.join("objects/info/commit-graph"),
    ] {
        assert_eq!(worst(&scratch, &ids, &file, false), ids.len(), "{}", file.display());
    }
}

/// A `.rev` that is wrong in one number is not used.
#[test]
fn a_wrong_order_is_noticed() {
    let (scratch, _) = scratch();
    let file = find(&scratch, "rev");
    let mut bytes = fs::read(&file).unwrap();
    bytes.swap(12 + 3, 12 + 7);
    bytes.swap(12 + 2, 12 + 6);
    fs::remove_file(&file).unwrap();
    fs::write(&file, bytes).unwrap();
    let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
    let repository = scratch.open();
    let pack = repository.store().packs().into_iter().find(|pack| pack.name() == name).unwrap();
    assert!(!pack.order().is_from_file());
    let mut at = 12;
    while let Some(end) = pack.end_of(at) {
        at = end;
    }
    assert_eq!(at as usize + 20, pack.bytes().len());
}

#[test]
fn a_damaged_index_never_panics() {
    let (scratch, ids) = scratch();
    let file = find(&scratch, "idx");
    worst(&scratch, &ids, &file, true);
}

#[test]
fn a_damaged_pack_never_panics() {
    let (scratch, ids) = scratch();
    let file = find(&scratch, "pack");
    worst(&scratch, &ids, &file, true);
}

#[test]
fn a_damaged_loose_object_never_panics() {
    let (scratch, _) = scratch();
    let id = scratch.git_with(&["hash-object", "-w", "--stdin"], &[b'x'; 5000]);
    let id = ObjectId::from_hex(id.trim_ascii()).unwrap();
    let file = scratch.dir.join("objects").join(librepo::loose::path_of(&id));
    worst(&scratch, &[id], &file, true);
    // Sizes that lie, in both directions and beyond all bounds.
    for text in
        ["blob 5\0abcdef", "blob 7\0abcdef", "blob 18446744073709551615\0abcdef", "blob 99999999999\0"]
    {
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut z, text.as_bytes()).unwrap();
        fs::remove_file(&file).unwrap();
        fs::write(&file, z.finish().unwrap()).unwrap();
        let repository = scratch.open();
        let mut reader = Reader::new(repository.store(), 0);
        assert!(reader.read(&id).is_err(), "{text}");
        assert!(reader.read_stream(&id, &mut |_| Ok(())).is_err(), "{text}");
    }
}

/// Two deltas that name each other as base.
#[test]
fn a_circle_of_deltas_ends() {
    let scratch = Scratch::bare(&[]);
    let ids = [[0x11; 20], [0x22; 20]];
    let mut pack = b"PACK\0\0\0\x02\0\0\0\x02".to_vec();
    let mut offsets = Vec::new();
    for i in 0..2 {
        offsets.push(pack.len() as u32);
        pack.push((7 << 4) | 4);
        pack.extend(ids[1 - i]);
        let mut z = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut z, &[1, 1, 1, b'x']).unwrap();
        pack.extend(z.finish().unwrap());
    }
    pack.extend([7; 20]);
    let mut index = b"\xfftOc\0\0\0\x02".to_vec();
    for byte in 0..256u32 {
        index.extend((u32::from(byte >= 0x11) + u32::from(byte >= 0x22)).to_be_bytes());
    }
    index.extend(ids.concat());
    index.extend([0; 8]);
    index.extend(offsets.iter().flat_map(|offset| offset.to_be_bytes()));
    index.extend([7; 40]);
    let name = scratch.dir.join("objects/pack/pack-1111111111111111111111111111111111111111");
    fs::write(name.with_extension("pack"), pack).unwrap();
    fs::write(name.with_extension("idx"), index).unwrap();
    let repository = scratch.open();
    assert_eq!(repository.store().packs().len(), 1);
    let mut reader = Reader::new(repository.store(), 1 << 20);
    let id = ObjectId::from_bytes(HashKind::Sha1, &ids[0]).unwrap();
    for result in [reader.read(&id).map(drop), reader.header(&id).map(drop)] {
        assert!(result.unwrap_err().to_string().ends_with("delta chain too long"));
    }
}
