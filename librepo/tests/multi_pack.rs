//! Fetches answered by the bitmap of a multi-pack index, whatever state its files are in.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use common::random::Random;
use common::{Collect, Scratch, count};
use libgit::ObjectId;
use librepo::Repository;
use librepo::fetch::{Fetch, FetchLimits, PackOptions, PackStats, Policy, Tips};

/// Several packs, one object of each branch in two of them, and the wanted commits: the tips of
/// both branches.
fn several_packs(options: &[&str]) -> (Scratch, Vec<ObjectId>) {
    let scratch = Scratch::bare(options);
    scratch.git(&["config", "fastimport.unpackLimit", "0"]);
    scratch.git(&["config", "pack.writeBitmapHashCache", "true"]);
    scratch.history("main", 60, 1);
    scratch.history("other", 30, 2);
    // The same objects once more, in a pack of their own.
    let some = scratch.git(&["rev-list", "--objects", "--no-object-names", "-20", "main"]);
    let pack = scratch.dir.join("objects/pack/pack");
    scratch.git_with(&["pack-objects", "-q", pack.to_str().unwrap()], some.as_bytes());
    scratch.history("main", 20, 3);
    let tips = ["main", "other"].map(|branch| id(&scratch, branch));
    (scratch, tips.to_vec())
}

fn id(scratch: &Scratch, name: &str) -> ObjectId {
    ObjectId::from_hex(scratch.git(&["rev-parse", name]).trim().as_bytes()).unwrap()
}

struct Fetched {
    stats: PackStats,
    bitmap: Option<String>,
    /// What the repository and the fetch had to say.
    log: Vec<String>,
    sent: BTreeSet<ObjectId>,
}

/// Fetches, and lets git complete and check the pack in a clone that has the haves.
fn fetch(scratch: &Scratch, wants: &[ObjectId], haves: &[ObjectId]) -> Fetched {
    let repository: Repository = scratch.open();
    let mut log: Vec<String> = repository.notes();
    let mut fetch = Fetch::new(&repository, Tips::default(), Policy::Any, FetchLimits::default()).unwrap();
    for want in wants {
        fetch.want(*want).unwrap();
    }
    for have in haves {
        assert!(fetch.have(*have).unwrap());
    }
    fetch.options(PackOptions { thin: true, ofs_delta: true, ..PackOptions::default() });
    let mut sink = Collect::default();
    let stats = fetch.write_pack(&mut sink, 1).unwrap();
    assert_eq!(stats.objects, count(&sink.pack) as u64);
    log.extend(fetch.take_log());
    let bitmap = fetch.bitmap_name().map(str::to_owned);

    let client = scratch.top().join("client.git");
    let format = format!("--object-format={}", repository.hash().name());
    scratch.git_in(scratch.top(), &["init", "-q", "--bare", &format, "client.git"]);
    let objects = |excluded: &[ObjectId]| -> BTreeSet<ObjectId> {
        let listed = scratch.git_in(
            &client,
            &["cat-file", "--batch-all-objects", "--unordered", "--batch-check=%(objectname)"],
        );
        let ids = listed.lines().map(|line| ObjectId::from_hex(line.as_bytes()).unwrap());
        ids.filter(|id| !excluded.contains(id)).collect()
    };
    if !haves.is_empty() {
        let hex: Vec<String> = haves.iter().map(ObjectId::to_hex).collect();
        let args = ["-c", "core.multiPackIndex=false", "pack-objects", "-q", "--revs", "--stdout"];
        let had = scratch.git_with(&args, hex.join("\n").as_bytes());
        index(scratch, &client, &had);
    }
    let had: Vec<ObjectId> = objects(&[]).into_iter().collect();
    index(scratch, &client, &sink.pack);
    let sent = objects(&had);
    fs::remove_dir_all(client).unwrap();
    Fetched { stats, bitmap, log, sent }
}

fn index(scratch: &Scratch, client: &Path, pack: &[u8]) {
    let dir = client.to_str().unwrap();
    scratch.git_with(&["-C", dir, "index-pack", "--stdin", "--fix-thin", "--strict"], pack);
}

/// What git counts.
fn counted(scratch: &Scratch, wants: &[ObjectId], haves: &[ObjectId]) -> BTreeSet<ObjectId> {
    let mut input = String::new();
    for (ids, before) in [(wants, ""), (haves, "^")] {
        input.extend(ids.iter().map(|id| format!("{before}{id}\n")));
    }
    let args = ["rev-list", "--objects", "--no-object-names", "--use-bitmap-index", "--stdin"];
    let listed = scratch.git_with(&args, input.as_bytes());
    listed.split(|byte| *byte == b'\n').filter_map(ObjectId::from_hex).collect()
}

fn pack_file(scratch: &Scratch, is: impl Fn(&str) -> bool) -> PathBuf {
    let listing = fs::read_dir(scratch.dir.join("objects/pack")).unwrap();
    let mut paths = listing.map(|entry| entry.unwrap().path());
    paths.find(|path| is(path.file_name().unwrap().to_str().unwrap())).unwrap()
}

fn bitmap_file(scratch: &Scratch) -> PathBuf {
    pack_file(scratch, |name| name.starts_with("multi-pack-index-") && name.ends_with(".bitmap"))
}

/// Files of git's are not writable.
fn replace(file: &Path, bytes: &[u8]) {
    let _ = fs::remove_file(file);
    fs::write(file, bytes).unwrap();
}

/// Several questions; what they have in common is given.
fn questions(scratch: &Scratch, tips: &[ObjectId], log: &[&str]) {
    let older = id(scratch, "main~30");
    for (wants, haves) in
        [(tips, &[][..]), (&tips[..1], &[]), (tips, &[older]), (&tips[1..], &tips[..1]), (&tips[..1], tips)]
    {
        let got = fetch(scratch, wants, haves);
        assert_eq!(got.log, log);
        assert_eq!(got.bitmap.is_some_and(|name| name.starts_with("multi-pack-index-")), log.is_empty());
        let counted = counted(scratch, wants, haves);
        assert!(got.sent.is_superset(&counted), "{:?}", counted.difference(&got.sent));
        if log.is_empty() {
            assert_eq!((got.sent.len(), got.stats.objects), (counted.len(), counted.len() as u64));
        }
    }
}

#[test]
fn several_packs_are_served_as_one() {
    for format in ["--object-format=sha1", "--object-format=sha256"] {
        let (scratch, tips) = several_packs(&[format]);
        for table in ["false", "true"] {
            scratch.git(&["config", "pack.writeBitmapLookupTable", table]);
            scratch.git(&["multi-pack-index", "write", "--bitmap"]);
            questions(&scratch, &tips, &[]);
        }
        // Any pack may be the first, the one with the copies too.
        let listing = fs::read_dir(scratch.dir.join("objects/pack")).unwrap();
        let names = listing.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        for name in names.filter(|name| name.ends_with(".pack")) {
            scratch.git(&["multi-pack-index", "write", "--bitmap", &format!("--preferred-pack={name}")]);
            questions(&scratch, &tips, &[]);
        }
        // All of it goes out as it lies on disk.
        let all = fetch(&scratch, &tips, &[]).stats;
        assert_eq!((all.reused, all.new_deltas), (all.objects, 0));

        scratch.history("other", 5, 4);
        scratch.git(&["repack", "-qdb", "--geometric=2", "--write-midx"]);
        questions(&scratch, &tips, &[]);
        // New packs, and one that the multi-pack index does not know.
        scratch.history("main", 5, 5);
        questions(&scratch, &[id(&scratch, "main"), id(&scratch, "other")], &[]);
    }
}

#[test]
fn a_bitmap_of_its_own_pack_is_used_where_there_is_no_other() {
    let (scratch, tips) = several_packs(&[]);
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    scratch.git(&["repack", "-qadb"]);
    let got = fetch(&scratch, &tips, &[]);
    assert!(got.bitmap.unwrap().starts_with("pack-"));
    assert_eq!((got.log, got.stats.whole_pack), (Vec::<String>::new(), true));
}

/// Older versions of git wrote the order into a file of its own.
#[test]
fn the_order_may_lie_beside() {
    let (scratch, tips) = several_packs(&[]);
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    let midx = scratch.dir.join("objects/pack/multi-pack-index");
    let mut bytes = fs::read(&midx).unwrap();
    let repository = scratch.open();
    let (file, _) = repository.store().multi_pack_indexes().next().unwrap();
    let order = file.order().unwrap().to_vec();
    let entry = bytes.windows(4).position(|name| name == b"RIDX").unwrap();
    bytes[entry..entry + 4].copy_from_slice(b"XXXX");
    replace(&midx, &bytes);
    let rev = bitmap_file(&scratch).with_extension("rev");
    let bitmap = bitmap_file(&scratch).file_name().unwrap().to_str().unwrap().to_owned();
    questions(&scratch, &tips, &[&format!("{bitmap}: ignored: no order of its objects")]);
    let mut text = b"RIDX\0\0\0\x01\0\0\0\x01".to_vec();
    text.extend(&order);
    text.extend(file.checksum());
    text.extend([0; 20]);
    fs::write(&rev, &text).unwrap();
    questions(&scratch, &tips, &[]);
    // One that belongs to another multi-pack index.
    let at = text.len() - 21;
    text[at] ^= 1;
    fs::write(&rev, &text).unwrap();
    questions(&scratch, &tips, &[&format!("{bitmap}: ignored: no order of its objects")]);
}

#[test]
fn stale_and_foreign_files_are_ignored() {
    let (scratch, tips) = several_packs(&[]);
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    let old = fs::read(bitmap_file(&scratch)).unwrap();
    scratch.history("other", 5, 6);
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    let file = bitmap_file(&scratch);
    let name = file.file_name().unwrap().to_str().unwrap().to_owned();
    replace(&file, &old);
    questions(&scratch, &tips, &[&format!("{name}: ignored: belongs to another pack")]);
    // Two indexes that change places in the order.
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    fs::remove_file(&file).unwrap();
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    let repository = scratch.open();
    let order = repository.store().multi_pack_indexes().next().unwrap().0.order().unwrap().to_vec();
    let midx = scratch.dir.join("objects/pack/multi-pack-index");
    let mut bytes = fs::read(&midx).unwrap();
    let at = bytes.windows(order.len()).position(|part| part == order).unwrap();
    for byte in 400..404 {
        bytes.swap(at + byte, at + byte + 4);
    }
    replace(&midx, &bytes);
    questions(&scratch, &tips, &[&format!("{name}: ignored: malformed order of its objects")]);
}

#[test]
fn an_index_in_layers_is_not_used() {
    let (scratch, tips) = several_packs(&[]);
    scratch.git(&["multi-pack-index", "write", "--incremental"]);
    questions(
        &scratch,
        &tips,
        &["objects/pack/multi-pack-index.d/multi-pack-index-chain: not used: multi-pack index in layers"],
    );
}

/// Whatever the two files hold: every fetch is complete.
#[test]
fn damage_breaks_no_fetch() {
    let (scratch, tips) = several_packs(&[]);
    scratch.git(&["multi-pack-index", "write", "--bitmap"]);
    let older = id(&scratch, "main~30");
    let cases = [(&tips[..], &[][..]), (&tips[..1], &[older])];
    let counted = cases.map(|(wants, haves)| counted(&scratch, wants, haves));
    let mut random = Random::new(1);
    let mut used = 0;
    for file in [scratch.dir.join("objects/pack/multi-pack-index"), bitmap_file(&scratch)] {
        let good = fs::read(&file).unwrap();
        for round in 0..60 {
            let mut bad = good.clone();
            match round {
                0..10 => bad.truncate(random.below(good.len())),
                10..50 => {
                    let at = random.below(bad.len());
                    bad[at] ^= 1 << random.below(8);
                }
                _ => {
                    for _ in 0..random.below(50) {
                        let at = random.below(bad.len());
                        bad[at] = random.below(256) as u8;
                    }
                }
            }
            replace(&file, &bad);
            let case = round % cases.len();
            let got = fetch(&scratch, cases[case].0, cases[case].1);
            assert!(got.sent.is_superset(&counted[case]), "{} round {round}", file.display());
            assert!(got.bitmap.is_some() || !got.log.is_empty(), "{} round {round}", file.display());
            used += usize::from(got.bitmap.is_some());
        }
        replace(&file, &good);
    }
    assert!(used > 10, "{used}");
}
