//! Receiving, compared with git and tried with packs that nobody means well with.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use libgit::{HashKind, ObjectId, ObjectKind};
use tempfile::TempDir;

use super::check::{Message, Policy};
use super::connectivity::Shallow;
use super::testpack::{TestDelta, TestPack, commit, tree};
use super::*;
use crate::id::hash_object;
use crate::repository::Repository;

mod fsck;
mod reached;

const SHA1: HashKind = HashKind::Sha1;

fn git(dir: &Path, args: &[&str], input: &[u8]) -> std::result::Result<Vec<u8>, String> {
    let mut child = Process::new("git")
        .args(args)
        .current_dir(dir)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir)
        .env("GIT_AUTHOR_NAME", "A")
        .env("GIT_AUTHOR_EMAIL", "a@x")
        .env("GIT_COMMITTER_NAME", "C")
        .env("GIT_COMMITTER_EMAIL", "c@x")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap().trim().to_owned()
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.trim().as_bytes()).unwrap()
}

/// A bare repository with a few commits of a directory tree on `main`; gives their ids, oldest
/// first.
fn repository(format: &str) -> (TempDir, Vec<ObjectId>) {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "--bare", "-b", "main", &format!("--object-format={format}")], b"")
        .unwrap();
    let mut stream = String::new();
    for i in 0..6 {
        stream += &format!("commit refs/heads/main\ncommitter C <c@x> {} +0000\ndata 2\nm\n", 1_000_000 + i);
        for file in 0..30 {
            if i == 0 || file % 6 == i {
                let data = format!("file {file} at {i}\n").repeat(50 + file);
                stream += &format!("M 644 inline d{}/s/f{file}\ndata {}\n{data}\n", file % 4, data.len());
            }
        }
    }
    git(dir.path(), &["fast-import", "--quiet"], stream.as_bytes()).unwrap();
    let list = text(git(dir.path(), &["rev-list", "--reverse", "main"], b"").unwrap());
    let ids = list.lines().map(id).collect();
    (dir, ids)
}

fn open(dir: &Path) -> Repository {
    Repository::open(File::open(dir).unwrap().into(), crate::Options::default()).unwrap()
}

struct Received {
    dir: TempDir,
    pack: File,
    idx: File,
    indexed: Indexed,
}

fn receive_with(
    pack_bytes: &[u8],
    hash: HashKind,
    repository: Option<&Repository>,
    options: &IndexOptions,
) -> std::result::Result<Received, String> {
    let dir = tempfile::tempdir().unwrap();
    let create = |name: &str| {
        OpenOptions::new().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap()
    };
    let (pack, idx) = (create("p.pack"), create("p.idx"));
    let mut quiet = |_: &Progress| Ok(());
    let store = repository.map(Repository::store);
    let mut input = pack_bytes;
    let start = Instant::now();
    let result = index(&mut input, &pack, &idx, hash, store, options, &mut Ticker::new(&mut quiet));
    assert!(start.elapsed() < Duration::from_secs(20), "took {:?}", start.elapsed());
    match result {
        Ok(indexed) => Ok(Received { dir, pack, idx, indexed }),
        Err(e) => Err(e.to_string()),
    }
}

fn receive(pack: &[u8]) -> std::result::Result<Received, String> {
    receive_with(pack, SHA1, None, &IndexOptions::default())
}

fn refused(pack: &[u8]) -> String {
    match receive(pack) {
        Ok(_) => panic!("taken"),
        Err(text) => text,
    }
}

fn about(
    received: Option<&Received>,
    repository: &Repository,
    tips: &[ObjectId],
    commands: &[RefChange],
    shallow: &Shallow,
) -> std::result::Result<Vec<Facts>, String> {
    let mut quiet = |_: &Progress| Ok(());
    let nothing = Indexed::nothing(repository.hash());
    let indexed = received.map_or(&nothing, |received| &received.indexed);
    let files = received.map(|received| (&received.pack, &received.idx));
    facts(indexed, files, Some(repository.store()), tips, commands, shallow, &mut Ticker::new(&mut quiet))
        .map_err(|e| e.to_string())
}

#[test]
fn packs_and_indexes_are_those_of_git() {
    for format in ["sha1", "sha256"] {
        let (repo, ids) = repository(format);
        let hash = ids[0].kind();
        for flags in [&["--delta-base-offset"][..], &[], &["--no-reuse-delta", "--depth=3"]] {
            let args = [&["pack-objects", "--all", "--stdout", "-q"], flags].concat();
            let pack = git(repo.path(), &args, b"").unwrap();
            for threads in [1, 3] {
                let options = IndexOptions { threads, ..IndexOptions::default() };
                let ours = receive_with(&pack, hash, None, &options).unwrap();
                assert!(ours.indexed.deltas > 0);
                let theirs = ours.dir.path().join("g.pack");
                fs::write(&theirs, &pack).unwrap();
                git(repo.path(), &["index-pack", theirs.to_str().unwrap()], b"").unwrap();
                assert_eq!(fs::read(ours.dir.path().join("p.pack")).unwrap(), pack);
                assert_eq!(
                    fs::read(ours.dir.path().join("p.idx")).unwrap(),
                    fs::read(ours.dir.path().join("g.idx")).unwrap()
                );
            }
        }
    }
}

#[test]
fn thin_packs_are_completed() {
    for format in ["sha1", "sha256"] {
        let (repo, ids) = repository(format);
        let input = format!("{}\n^{}\n", ids[5], ids[2]);
        let args = ["pack-objects", "--revs", "--thin", "--stdout", "-q", "--no-reuse-delta"];
        let pack = git(repo.path(), &args, input.as_bytes()).unwrap();
        let repository = open(repo.path());
        let ours = receive_with(&pack, ids[0].kind(), Some(&repository), &IndexOptions::default()).unwrap();
        assert!(ours.indexed.objects > ours.indexed.received, "not a thin pack");
        git(repo.path(), &["verify-pack", ours.dir.path().join("p.idx").to_str().unwrap()], b"").unwrap();
        // Without the repository the bases are missing; with a limit they are too many.
        let alone = receive_with(&pack, ids[0].kind(), None, &IndexOptions::default()).err().unwrap();
        assert!(alone.contains("bases are missing"), "{alone}");
        let mut few = IndexOptions::default();
        few.limits.external_bases = 1;
        let many = receive_with(&pack, ids[0].kind(), Some(&repository), &few).err().unwrap();
        assert!(many.contains("exceed the limit of 1"), "{many}");
    }
}

/// A base that is missing at first sight, in the repository, and in the pack as a delta on another
/// missing base.
#[test]
fn a_base_that_the_pack_has_after_all_is_not_appended() {
    let (repo, _) = repository("sha1");
    let first = b"the first content, long enough to be copied from".to_vec();
    let extend = |base: &[u8], n: usize| {
        TestDelta::new(base.len() as u64, (base.len() + n) as u64)
            .copy(0, base.len() as u32)
            .insert(&vec![b'x'; n])
            .bytes()
    };
    let second = [first.as_slice(), b"xxx"].concat();
    for data in [&first, &second] {
        git(repo.path(), &["hash-object", "-w", "--stdin"], data).unwrap();
    }
    let mut pack = TestPack::new(SHA1);
    pack.ref_delta(&hash_object(SHA1, ObjectKind::Blob, &second), &extend(&second, 5));
    pack.ref_delta(&hash_object(SHA1, ObjectKind::Blob, &first), &extend(&first, 3));
    let ours =
        receive_with(&pack.finish(), SHA1, Some(&open(repo.path())), &IndexOptions::default()).unwrap();
    assert_eq!((ours.indexed.objects, ours.indexed.received), (3, 2));
    git(repo.path(), &["verify-pack", ours.dir.path().join("p.idx").to_str().unwrap()], b"").unwrap();
}

#[test]
fn deltas_by_name_come_in_any_order_and_may_lie_on_each_other() {
    let base = b"a base that is long enough to be copied from".to_vec();
    let extend = |from: usize, n: usize| {
        TestDelta::new(from as u64, (from + n) as u64).copy(0, from as u32).insert(&vec![b'x'; n]).bytes()
    };
    let one = [base.as_slice(), &[b'x'; 3]].concat();
    let two = [one.as_slice(), &[b'x'; 5]].concat();
    let mut pack = TestPack::new(SHA1);
    pack.ref_delta(&hash_object(SHA1, ObjectKind::Blob, &one), &extend(one.len(), 5));
    let second = pack.ref_delta(&hash_object(SHA1, ObjectKind::Blob, &base), &extend(base.len(), 3));
    pack.ofs_delta(second, &extend(one.len(), 7));
    pack.object(ObjectKind::Blob, &base);
    let ours = receive(&pack.finish()).unwrap();
    for data in [&base, &one, &two] {
        assert_eq!(ours.indexed.kind(&hash_object(SHA1, ObjectKind::Blob, data)), Some(ObjectKind::Blob));
    }
    assert_eq!((ours.indexed.objects, ours.indexed.deltas), (4, 3));
}

#[test]
fn malformed_packs_are_refused() {
    let good = {
        let mut pack = TestPack::new(SHA1);
        pack.object(ObjectKind::Blob, b"hello");
        pack.object(ObjectKind::Blob, &[b'x'; 100_000]);
        pack.finish()
    };
    receive(&good).unwrap();
    for cut in [0, 3, 11, 12, 13, 20, good.len() - 21, good.len() - 20, good.len() - 1] {
        assert!(refused(&good[..cut]).contains("cut short"), "{cut}");
    }
    for at in (12..good.len()).chain([0, 5, 7]) {
        let mut bad = good.clone();
        bad[at] ^= 0x55;
        refused(&bad);
    }
    assert!(refused(&[good.as_slice(), b"x"].concat()).contains("bytes after the end"));
    let count = |n| {
        let mut pack = TestPack::new(SHA1);
        pack.object(ObjectKind::Blob, b"hello");
        pack.finish_with(n)
    };
    refused(&count(0));
    refused(&count(2));
    assert!(refused(&count(u32::MAX)).contains("4294967295 objects exceed the limit of 20000000"));
    for number in [0, 5] {
        let mut pack = TestPack::new(SHA1);
        pack.raw(number, 5, &[], b"hello");
        assert!(refused(&pack.finish()).contains("unknown object type"));
    }
    let mut twice = TestPack::new(SHA1);
    twice.object(ObjectKind::Blob, b"hello");
    twice.object(ObjectKind::Blob, b"hello");
    let twice = twice.finish();
    assert!(refused(&twice).contains("appears twice"));
    let lax = IndexOptions { allow_duplicates: true, ..IndexOptions::default() };
    receive_with(&twice, SHA1, None, &lax).unwrap();
}

#[test]
fn sizes_that_lie_are_refused_before_they_cost_anything() {
    let declared = |kind: u8, size: u64, data: &[u8]| {
        let mut pack = TestPack::new(SHA1);
        pack.raw(kind, size, &[], data);
        refused(&pack.finish())
    };
    for kind in 1..=4 {
        assert!(declared(kind, 1 << 59, b"x").contains("exceed the limit"), "{kind}");
    }
    assert!(declared(3, (1 << 60) - 1, b"x").contains("exceed the limit"));
    assert!(declared(3, u64::MAX, b"x").contains("out of bounds"));
    assert!(declared(3, 6, b"hello").contains("smaller than it declares"));
    assert!(declared(3, 4, b"hello").contains("larger than it declares"));
    assert!(declared(3, 0, b"hello").contains("larger than it declares"));
    assert!(declared(3, 2 << 20, b"hello").contains("smaller than it declares"));
    // Some hundred megabytes behind a declared size of ten bytes.
    assert!(declared(3, 10, &vec![0; 200 << 20]).contains("larger than it declares"));
    let mut stream = TestPack::new(SHA1);
    stream.stream(3, 5, &[], b"not deflate");
    assert!(refused(&stream.finish()).contains("damaged"));
}

#[test]
fn deltas_that_lie_are_refused() {
    let with = |delta: Vec<u8>| {
        let mut pack = TestPack::new(SHA1);
        let (_, base) = pack.object(ObjectKind::Blob, &[b'x'; 1000]);
        pack.ofs_delta(base, &delta);
        refused(&pack.finish())
    };
    assert!(
        with(TestDelta::new(1000, 1 << 60).copy(0, 1000).bytes()).contains("exceed the limit of 536870912")
    );
    assert!(with(TestDelta::new(1 << 60, 10).copy(0, 10).bytes()).contains("exceed the limit"));
    with(TestDelta::new(999, 10).copy(0, 10).bytes());
    with(TestDelta::new(1000, 11).copy(0, 10).bytes());
    with(TestDelta::new(1000, 9).copy(0, 10).bytes());
    with(TestDelta::new(1000, 10).copy(991, 10).bytes());
    with(TestDelta::new(1000, 10).copy(u32::MAX, 10).bytes());
    with(vec![]);
    with(vec![0xff; 40]);
    let mut before = TestPack::new(SHA1);
    before.raw(6, 5, &[0x7f], b"hello");
    assert!(refused(&before.finish()).contains("base offset"));
    let mut far = TestPack::new(SHA1);
    far.raw(6, 5, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], b"hello");
    assert!(refused(&far.finish()).contains("base offset"));
    let mut between = TestPack::new(SHA1);
    let (_, base) = between.object(ObjectKind::Blob, b"hello");
    between.ofs_delta(base + 1, &TestDelta::new(5, 5).copy(0, 5).bytes());
    assert!(refused(&between.finish()).contains("base offset"));
}

#[test]
fn cycles_of_deltas_are_refused() {
    let (a, b) = (hash_object(SHA1, ObjectKind::Blob, b"aa"), hash_object(SHA1, ObjectKind::Blob, b"bb"));
    let mut pack = TestPack::new(SHA1);
    pack.ref_delta(&a, &TestDelta::new(2, 2).insert(b"bb").bytes());
    pack.ref_delta(&b, &TestDelta::new(2, 2).insert(b"aa").bytes());
    let pack = pack.finish();
    assert!(refused(&pack).contains("bases are missing"));
    let (repo, _) = repository("sha1");
    let repository = open(repo.path());
    assert!(receive_with(&pack, SHA1, Some(&repository), &IndexOptions::default()).is_err());
}

#[test]
fn a_bomb_of_deltas_is_refused() {
    // Two kilobytes that unpack to six gigabytes: each delta doubles the one before, or repeats a
    // large one.
    let mut pack = TestPack::new(SHA1);
    let mut size = 1_u64 << 20;
    let (_, mut at) = pack.object(ObjectKind::Blob, &vec![0; 1 << 20]);
    for _ in 0..13 {
        let delta = TestDelta::new(size, size * 2);
        let delta = (0..size / (8 << 20) + 1).fold(delta, |delta, i| {
            let length = size.min(8 << 20) as u32;
            delta.copy((i * (8 << 20)).min(size - u64::from(length)) as u32, length)
        });
        at = pack.ofs_delta(at, &delta.bytes());
        size *= 2;
    }
    let pack = pack.finish();
    assert!(pack.len() < 20_000, "{}", pack.len());
    let text = refused(&pack);
    assert!(text.contains("1073741824 bytes exceed the limit of 536870912"), "{text}");

    let mut wide = TestPack::new(SHA1);
    let (_, base) = wide.object(ObjectKind::Blob, &vec![0; 16 << 20]);
    for i in 0..400_u32 {
        let delta = TestDelta::new(16 << 20, (15 << 20) + 4).copy(0, 15 << 20).insert(&i.to_be_bytes());
        wide.ofs_delta(base, &delta.bytes());
    }
    let wide = wide.finish();
    assert!(wide.len() < 300_000);
    let mut options = IndexOptions::default();
    // The limit scaled down like the test's patience.
    options.limits.delta_floor = 32 << 20;
    let text = receive_with(&wide, SHA1, None, &options).err().unwrap();
    assert!(text.contains("its deltas unpack to") && text.contains("(limit delta ratio)"), "{text}");
}

#[test]
fn a_directory_may_be_as_large_as_what_deltas_make() {
    // As large as one with 1.7 million names of usual length.
    let mut tree = Vec::new();
    for entry in 0..260_000 {
        tree.extend_from_slice(format!("100644 {entry:0250}\0").as_bytes());
        tree.extend_from_slice(&[1; 20]);
    }
    let mut pack = TestPack::new(SHA1);
    pack.object(ObjectKind::Tree, &tree);
    let pack = pack.finish();
    assert!(tree.len() > 64 << 20 && receive(&pack).is_ok());
    let mut options = IndexOptions::default();
    options.limits.delta_bytes = 64 << 20;
    let text = receive_with(&pack, SHA1, None, &options).err().unwrap();
    assert!(text.contains("bytes exceed the limit of 67108864 (limit delta result)"), "{text}");
}

fn chain(length: u32) -> Vec<u8> {
    let mut pack = TestPack::new(SHA1);
    let (_, mut at) = pack.object(ObjectKind::Blob, &[b'x'; 64]);
    for i in 0..length {
        at = pack.ofs_delta(at, &TestDelta::new(64, 64).copy(0, 60).insert(&i.to_be_bytes()).bytes());
    }
    pack.finish()
}

#[test]
fn chains_of_deltas_have_a_limit() {
    assert_eq!(receive(&chain(4095)).unwrap().indexed.deltas, 4095);
    let text = refused(&chain(50_000));
    assert!(text.contains("4097 deltas in a chain exceed the limit of 4096"), "{text}");
}

#[test]
fn objects_dropped_for_lack_of_memory_are_made_again() {
    // A comb: every object of a chain has a second child, so that all would have to be kept.
    let mut pack = TestPack::new(SHA1);
    let (_, mut at) = pack.object(ObjectKind::Blob, &[b'x'; 10_000]);
    for i in 0..60_u32 {
        let step = |tag: u32| {
            let end = [i.to_be_bytes(), tag.to_be_bytes()].concat();
            TestDelta::new(10_000, 10_000).copy(0, 9_992).insert(&end).bytes()
        };
        let left = pack.ofs_delta(at, &step(1));
        let right = pack.ofs_delta(at, &step(2));
        let mut tail = right;
        for j in 0..i % 4 {
            tail = pack.ofs_delta(tail, &step(j + 3));
        }
        at = left;
    }
    let pack = pack.finish();
    let plenty = receive(&pack).unwrap();
    for resolve_bytes in [0, 15_000, 100_000] {
        let mut options = IndexOptions::default();
        options.limits.resolve_bytes = resolve_bytes;
        let tight = receive_with(&pack, SHA1, None, &options).unwrap();
        assert_eq!(tight.indexed.contents, plenty.indexed.contents);
    }
}

#[test]
fn a_limit_on_each_number() {
    let pack = {
        let mut pack = TestPack::new(SHA1);
        let mut state = 1_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let noise: Vec<u8> = (0..600_000).map(|_| next()).collect();
        pack.object(ObjectKind::Blob, &noise);
        pack.object(ObjectKind::Blob, b"x");
        pack.finish()
    };
    let with = |set: fn(&mut ReceiveLimits)| {
        let mut options = IndexOptions::default();
        set(&mut options.limits);
        receive_with(&pack, SHA1, None, &options).err().unwrap()
    };
    assert!(with(|limits| limits.pack_bytes = 100_000).contains("exceed the limit of 100000"));
    assert!(with(|limits| limits.objects = 1).contains("2 objects exceed the limit of 1"));
    assert!(with(|limits| limits.object_bytes = 599_999).contains("600000 bytes exceed the limit of 599999"));
}

#[test]
fn the_callback_can_end_the_work() {
    let pack = {
        let mut pack = TestPack::new(SHA1);
        for i in 0..200_u32 {
            pack.object(ObjectKind::Blob, &i.to_be_bytes());
        }
        pack.finish()
    };
    let dir = tempfile::tempdir().unwrap();
    let create = |name: &str| {
        OpenOptions::new().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap()
    };
    let mut stop = |_: &Progress| Err(std::io::Error::other("enough"));
    let result = index(
        &mut pack.as_slice(),
        &create("p"),
        &create("i"),
        SHA1,
        None,
        &IndexOptions::default(),
        &mut Ticker::new(&mut stop),
    );
    assert_eq!(result.err().unwrap().to_string(), "enough");
}

#[test]
fn large_and_odd_but_honest_objects_are_taken() {
    let mut pack = TestPack::new(SHA1);
    let (blob, _) = pack.object(ObjectKind::Blob, &vec![7; 40 << 20]);
    let (inner, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", blob)]));
    let mut deep = inner;
    for _ in 0..20_000 {
        deep = pack.object(ObjectKind::Tree, &tree(&[("40000", b"d", deep)])).0;
    }
    let (tip, _) = pack.object(ObjectKind::Commit, &commit(&deep, &[], 5));
    let pack = pack.finish();
    let received = receive(&pack).unwrap();
    assert_eq!(received.indexed.largest_blob(), Some((blob, 40 << 20)));
    let (repo, _) = repository("sha1");
    let repository = open(repo.path());
    let commands = [RefChange { old: ObjectId::null(SHA1), new: tip }];
    let facts = about(Some(&received), &repository, &[], &commands, &Shallow::default()).unwrap();
    assert_eq!((facts[0].refusal, facts[0].kind), (None, Some(ObjectKind::Commit)));
    // A name of a megabyte is a warning of git's, which it makes an error for what comes in.
    let mut long = TestPack::new(SHA1);
    let (blob, _) = long.object(ObjectKind::Blob, b"x");
    long.object(ObjectKind::Tree, &tree(&[("100644", &vec![b'n'; 1 << 20], blob)]));
    let long = long.finish();
    assert!(refused(&long).contains("largePathname"));
    let lenient = IndexOptions { policy: Policy::lenient(), ..IndexOptions::default() };
    receive_with(&long, SHA1, None, &lenient).unwrap();
}

#[test]
fn the_same_id_with_other_content_is_refused() {
    // Nobody can make such objects, so the repository's copy is damaged instead: another blob under
    // this one's name.
    let (repo, _) = repository("sha1");
    let hex = |id: &ObjectId| {
        let hex = id.to_string();
        repo.path().join("objects").join(&hex[..2]).join(&hex[2..])
    };
    let write = |data: &[u8]| text(git(repo.path(), &["hash-object", "-w", "--stdin"], data).unwrap());
    let (good, other) = (id(&write(b"good")), id(&write(b"evil")));
    let mut pack = TestPack::new(SHA1);
    pack.object(ObjectKind::Blob, b"good");
    let pack = pack.finish();
    receive_with(&pack, SHA1, Some(&open(repo.path())), &IndexOptions::default()).unwrap();
    fs::remove_file(hex(&good)).unwrap();
    fs::copy(hex(&other), hex(&good)).unwrap();
    let text = receive_with(&pack, SHA1, Some(&open(repo.path())), &IndexOptions::default()).err().unwrap();
    assert!(text.contains("collides"), "{text}");
    // The same for one that is compared as it streams by.
    let large = vec![b'a'; 3 << 20];
    let large_id = id(&write(&large));
    let mut evil = large.clone();
    evil[2_999_999] = b'b';
    let mut pack = TestPack::new(SHA1);
    pack.object(ObjectKind::Blob, &large);
    let pack = pack.finish();
    receive_with(&pack, SHA1, Some(&open(repo.path())), &IndexOptions::default()).unwrap();
    let evil_id = id(&write(&evil));
    fs::remove_file(hex(&large_id)).unwrap();
    fs::copy(hex(&evil_id), hex(&large_id)).unwrap();
    let text = receive_with(&pack, SHA1, Some(&open(repo.path())), &IndexOptions::default()).err().unwrap();
    assert!(text.contains("collides"), "{text}");
}

/// Verdicts of git's own strict check and of ours must agree, down to the message's id.
#[test]
fn objects_are_judged_as_git_judges_them() {
    let null = ObjectId::null(SHA1);
    let blob = hash_object(SHA1, ObjectKind::Blob, b"x");
    let empty = hash_object(SHA1, ObjectKind::Tree, b"");
    let ident = "A <a@x> 5 +0000";
    let commit_of =
        |author: &str| format!("tree {empty}\nauthor {author}\ncommitter {ident}\n\nm\n").into_bytes();
    let tag_of = |rest: &str| format!("object {blob}\ntype blob\n{rest}").into_bytes();
    let mut cases: Vec<(ObjectKind, Vec<u8>)> = Vec::new();
    for author in [
        ident,
        "<a@x> 5 +0000",
        "A a@x 5 +0000",
        "A> <a@x> 5 +0000",
        "A<a@x> 5 +0000",
        "A <a<@x> 5 +0000",
        "A <a@x 5 +0000",
        "A <a@x>5 +0000",
        "A <a@x> x +0000",
        "A <a@x> 05 +0000",
        "A <a@x> 0 +0000",
        "A <a@x> 99999999999999999999 +0000",
        "A <a@x> 9223372036854775807 +0000",
        "A <a@x> 9223372036854775808 +0000",
        "A <a@x> 5+0000",
        "A <a@x> 5 0000",
        "A <a@x> 5 +000",
        "A <a@x> 5 +00000",
        "A <a@x> 5 +0000 ",
        "A <a@x>",
        "A <a@x> ",
        " <a@x> 5 +0000",
        "A <> 5 +0000",
        "A <a@x>  \t5 +0000",
        "",
    ] {
        cases.push((ObjectKind::Commit, commit_of(author)));
    }
    for text in [
        format!("tree {empty}\ncommitter {ident}\n\nm\n"),
        format!("tree {empty}\nauthor {ident}\n\nm\n"),
        format!("tree {empty}\nauthor {ident}\nauthor {ident}\ncommitter {ident}\n\nm\n"),
        format!("tree {empty}\nauthor {ident}\ncommitter {ident}\n\nm\0\n"),
        format!("tree {empty}\nauthor {ident}\ncommitter {ident}\n"),
        format!("tree {empty}\nauthor {ident}\ncommitter {ident}"),
        format!("tree {empty}\nauthor {ident}\0\ncommitter {ident}\n\n"),
        format!("tree {empty}\nauthor {ident}\ncommitter {ident}\nextra x\n\n"),
        format!("tree {}\nauthor {ident}\ncommitter {ident}\n\n", "x".repeat(40)),
        format!("tree {empty}\nparent {}\nauthor {ident}\ncommitter {ident}\n\n", "x".repeat(40)),
        format!("author {ident}\ncommitter {ident}\n\n"),
    ] {
        cases.push((ObjectKind::Commit, text.into_bytes()));
    }
    for rest in [
        format!("tag v1\ntagger {ident}\n\nm\n"),
        "tag v1\n\nm\n".to_owned(),
        format!("tag v 1\ntagger {ident}\n\nm\n"),
        format!("tag v1\ntagger {ident}\nextra\n\nm\n"),
        "tag v1\ntagger A\n\nm\n".to_owned(),
        format!("tagger {ident}\n\nm\n"),
    ] {
        cases.push((ObjectKind::Tag, tag_of(&rest)));
    }
    cases.push((ObjectKind::Tag, format!("object {blob}\ntype bolb\ntag x\n\n").into_bytes()));
    cases.push((ObjectKind::Tag, format!("object {blob}\ntag x\n\n").into_bytes()));
    cases.push((ObjectKind::Tag, b"object 12\ntype blob\ntag x\n\n".to_vec()));
    for entries in [
        &[("100644", &b"a"[..], blob), ("100755", b"b", blob)][..],
        &[("100644", b"b", blob), ("100644", b"a", blob)],
        &[("100644", b"a", blob), ("100644", b"a", blob)],
        &[("100644", b"a", blob), ("40000", b"a", empty)],
        &[("100644", b"a", blob), ("100644", b"a.b", blob), ("40000", b"a", empty)],
        &[
            ("100644", b"a", blob),
            ("100644", b"a.b", blob),
            ("100644", b"a.b.c", blob),
            ("40000", b"a.b", empty),
        ],
        &[("40000", b"a", empty), ("100644", b"a.b", blob)],
        &[("100644", b"a.b", blob), ("40000", b"a", empty)],
        &[("040000", b"a", empty)],
        &[("0100644", b"a", blob)],
        &[("100664", b"a", blob)],
        &[("100600", b"a", blob)],
        &[("100644", b".", blob)],
        &[("40000", b"..", empty)],
        &[("40000", b".git", empty)],
        &[("40000", b".GiT", empty)],
        &[("40000", b"git~1", empty)],
        &[("40000", b".git ", empty)],
        &[("40000", b".git::$INDEX_ALLOCATION", empty)],
        &[("40000", "\u{200c}.git".as_bytes(), empty)],
        &[("40000", b".g\xe2\x80\x8cit", empty)],
        &[("40000", b".git\xff", empty)],
        &[("40000", b"a\\.git", empty)],
        &[("100644", b"a/b", blob)],
        &[("100644", b"", blob)],
        &[("100644", b"a", null)],
        &[("120000", b".gitmodules", blob)],
        &[("120000", b"GITMOD~1", blob)],
        &[("120000", b".gitattributes", blob)],
        &[("120000", b".gitignore", blob)],
        &[("160000", b"sub", blob)],
        &[("100644", &[b'n'; 4096], blob)],
        &[("100644", &[b'n'; 4097], blob)],
    ] {
        cases.push((ObjectKind::Tree, tree(entries)));
    }
    cases.push((ObjectKind::Tree, b"100644 a\0short".to_vec()));
    cases.push((ObjectKind::Tree, b"100844 a\0aaaaaaaaaaaaaaaaaaaa".to_vec()));
    cases.push((ObjectKind::Tree, b"junk".to_vec()));
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "--bare"], b"").unwrap();
    let mut known = TestPack::new(SHA1);
    known.object(ObjectKind::Blob, b"x");
    known.object(ObjectKind::Tree, b"");
    git(dir.path(), &["index-pack", "--stdin"], &known.finish()).unwrap();
    let mut seen = std::collections::HashSet::new();
    for (kind, data) in &cases {
        let mut pack = TestPack::new(SHA1);
        pack.object(*kind, data);
        let pack = pack.finish();
        let theirs = git(dir.path(), &["index-pack", "--stdin", "--fsck-objects"], &pack);
        let ours = receive(&pack).map(|_| ());
        let shown = String::from_utf8_lossy(data);
        match (&theirs, &ours) {
            (Ok(_), Ok(())) => {}
            (Err(theirs), Err(ours)) => {
                // git says what it found as a warning on the way to refusing.
                let word = ours.split(": ").nth(1).unwrap_or("");
                // What its parser cannot take git refuses before it checks.
                let same = theirs.contains(&format!("{word}:")) || theirs.contains("fatal: invalid");
                assert!(same, "{shown:?}: git {theirs}, ours {ours}");
                seen.insert(word.to_owned());
            }
            _ => panic!("{shown:?}: git {theirs:?}, ours {ours:?}"),
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
}

#[test]
fn modules_are_checked_wherever_their_blob_is() {
    let evil = b"[submodule \"a\"]\n\turl = -oProxyCommand=x\n";
    let blob = hash_object(SHA1, ObjectKind::Blob, evil);
    let root = tree(&[("100644", b".gitmodules", blob)]);
    for order in [true, false] {
        let mut pack = TestPack::new(SHA1);
        if order {
            pack.object(ObjectKind::Blob, evil);
        }
        pack.object(ObjectKind::Tree, &root);
        if !order {
            pack.object(ObjectKind::Blob, evil);
        }
        assert!(refused(&pack.finish()).contains("gitmodulesUrl"), "{order}");
    }
    // The blob alone is harmless, and in the repository already when the tree comes.
    let (repo, _) = repository("sha1");
    git(repo.path(), &["hash-object", "-w", "--stdin"], evil).unwrap();
    let mut pack = TestPack::new(SHA1);
    pack.object(ObjectKind::Tree, &root);
    let pack = pack.finish();
    let text = receive_with(&pack, SHA1, Some(&open(repo.path())), &IndexOptions::default()).err().unwrap();
    assert!(text.contains("gitmodulesUrl"), "{text}");
    let mut policy = Policy::default();
    assert!(policy.tolerate(Message::GitmodulesUrl) && !policy.tolerate(Message::BadTree));
    let options = IndexOptions { policy, ..IndexOptions::default() };
    receive_with(&pack, SHA1, Some(&open(repo.path())), &options).unwrap();
}
