//! Objects as C git sees them, from every kind of storage.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::symlink;

use common::{Scratch, open};
use libgit::{HashKind, ObjectId, ObjectKind};
use librepo::alternates::{self, Lender, Lending};
use librepo::id::hash_object;
use librepo::mounts::Look;
use librepo::place::Trust;
use librepo::{IdSet, Location, Options, Reader, Repository, Store};

/// A descriptor that only names the directory is enough.
#[test]
#[cfg(target_os = "linux")]
fn opened_by_a_path_descriptor() {
    use nix::fcntl::{OFlag, open};
    let scratch = Scratch::bare(&[]);
    several_packs(&scratch);
    scratch.git(&["pack-refs", "--all"]);
    let dir = open(&scratch.dir, OFlag::O_PATH | OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).unwrap();
    let repository = Repository::open(dir, Options::default()).unwrap();
    same_objects(&scratch, &repository);
    assert_eq!(repository.refs().list::<&str>(&["refs/heads/"], None).unwrap().len(), 4);
}

/// Compares all objects with `git cat-file --batch-all-objects`, reads and hashes every one.
fn same_objects(scratch: &Scratch, repository: &Repository) {
    let listed = scratch.git(&["cat-file", "--batch-all-objects", "--batch-check"]);
    assert!(!listed.is_empty());
    let store = repository.store();
    for cache in [0, 1 << 20] {
        let mut reader = Reader::new(store, cache);
        for line in listed.lines() {
            let mut words = line.split(' ');
            let id = ObjectId::from_hex(words.next().unwrap().as_bytes()).unwrap();
            let kind = ObjectKind::from_name(words.next().unwrap().as_bytes()).unwrap();
            let size: u64 = words.next().unwrap().parse().unwrap();
            assert!(store.contains(&id));
            assert_eq!(reader.header(&id).unwrap(), Some((kind, size)), "{line}");
            let object = reader.read(&id).unwrap().unwrap();
            assert_eq!((object.kind, object.data.len() as u64), (kind, size), "{line}");
            assert_eq!(hash_object(repository.hash(), kind, &object.data), id);
            let mut streamed = Vec::new();
            let told = reader.read_stream(&id, &mut |bytes| {
                streamed.extend_from_slice(bytes);
                Ok(())
            });
            assert_eq!(told.unwrap(), Some((kind, size)));
            assert!(streamed == *object.data);
        }
    }
    let absent = ObjectId::from_bytes(repository.hash(), &vec![0x5a; repository.hash().len()]).unwrap();
    assert!(!store.contains(&absent));
    assert!(Reader::new(store, 0).read(&absent).unwrap().is_none());
    assert!(!store.contains(&ObjectId::null(repository.hash())));
}

fn each_hash(test: impl Fn(Scratch)) {
    test(Scratch::bare(&[]));
    test(Scratch::bare(&["--object-format=sha256"]));
}

/// Some history in several packs and loose.
fn several_packs(scratch: &Scratch) {
    for seed in 0..3 {
        scratch.git(&["config", "fastimport.unpackLimit", "0"]);
        scratch.history(&format!("b{seed}"), 40, seed);
    }
    scratch.git(&["config", "fastimport.unpackLimit", "1000"]);
    scratch.history("loose", 5, 9);
    scratch.git(&["tag", "-a", "-m", "one", "v1", "b0"]);
    scratch.git(&["tag", "-a", "-m", "two", "v2", "v1"]);
}

fn packs(repository: &Repository) -> usize {
    repository.store().packs().len()
}

#[test]
fn packs_and_loose_objects() {
    each_hash(|scratch| {
        several_packs(&scratch);
        let repository = scratch.open();
        assert_eq!(packs(&repository), 3);
        let loose = librepo::loose::list(repository.store().object_dirs().next().unwrap(), repository.hash());
        assert!(loose.unwrap().len() >= 15);
        same_objects(&scratch, &repository);
        let found =
            repository.store().locate(&repository.refs().find(b"refs/tags/v2").unwrap().unwrap().target);
        assert_eq!(found, Some(Location::Loose { dir: 0 }));
    });
}

#[test]
fn one_pack_with_long_chains() {
    each_hash(|scratch| {
        scratch.history("main", 120, 1);
        scratch.git(&["repack", "-adfq", "--depth=200", "--window=20"]);
        let repository = scratch.open();
        assert_eq!(packs(&repository), 1);
        same_objects(&scratch, &repository);
    });
}

/// Deltas by name: what git makes for clients without `ofs-delta`.
#[test]
fn deltas_by_name() {
    let scratch = Scratch::bare(&[]);
    scratch.git(&["config", "repack.useDeltaBaseOffset", "false"]);
    scratch.history("main", 60, 1);
    scratch.git(&["repack", "-adfq"]);
    same_objects(&scratch, &scratch.open());
}

#[test]
fn index_version_1() {
    let scratch = Scratch::bare(&[]);
    scratch.git(&["config", "pack.indexVersion", "1"]);
    scratch.history("main", 60, 1);
    scratch.git(&["repack", "-adfq"]);
    let repository = scratch.open();
    assert_eq!(repository.store().packs()[0].crc_at(0), None);
    same_objects(&scratch, &repository);
}

/// An index whose offsets are all written as if the pack were larger than 2 GiB.
#[test]
fn large_offsets() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 60, 1);
    scratch.git(&["repack", "-adfq"]);
    let pack = files(&scratch, "pack").remove(0);
    let index = pack.with_extension("idx");
    fs::remove_file(&index).unwrap();
    scratch.git(&[
        "index-pack",
        "--index-version=2,0x40",
        "-o",
        index.to_str().unwrap(),
        pack.to_str().unwrap(),
    ]);
    same_objects(&scratch, &scratch.open());
}

fn files(scratch: &Scratch, extension: &str) -> Vec<std::path::PathBuf> {
    let listing = fs::read_dir(scratch.dir.join("objects/pack")).unwrap();
    let paths = listing.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|found| found == extension)).collect()
}

#[test]
fn the_order_in_a_pack_is_the_same_from_the_file_and_computed() {
    each_hash(|scratch| {
        scratch.history("main", 80, 1);
        scratch.git(&["-c", "pack.writeReverseIndex=true", "repack", "-adfq"]);
        let repository = scratch.open();
        let pack = &repository.store().packs()[0];
        assert!(pack.order().is_from_file());
        fs::remove_file(files(&scratch, "rev").remove(0)).unwrap();
        let again = scratch.open();
        let other = &again.store().packs()[0];
        assert!(!other.order().is_from_file());
        let mut end = 12;
        for position in 0..pack.count() {
            let index = pack.index_of_position(position).unwrap();
            assert_eq!(other.index_of_position(position), Some(index));
            let offset = pack.offset_at(index);
            assert_eq!(offset, end);
            assert_eq!(pack.position_of_offset(offset), Some(position));
            assert_eq!(pack.position_of_offset(offset + 1), None);
            end = pack.end_of(offset).unwrap();
        }
        assert_eq!(end as usize + repository.hash().len(), pack.bytes().len());
        assert_eq!(pack.index_of_position(pack.count()), None);
    });
}

#[test]
fn a_multi_pack_index() {
    each_hash(|scratch| {
        several_packs(&scratch);
        scratch.git(&["multi-pack-index", "write"]);
        let repository = scratch.open();
        let (midx, numbers) = repository.store().multi_pack_indexes().next().unwrap();
        assert_eq!((midx.packs().len(), numbers.len()), (3, 3));
        for index in 0..midx.count() {
            let id = midx.id_at(index);
            assert_eq!(midx.lookup(id.as_bytes()), Some(index));
            let (pack, offset) = midx.entry_at(index).unwrap();
            let pack = &repository.store().packs()[numbers[pack as usize] as usize];
            assert_eq!(pack.lookup(id.as_bytes()).map(|index| pack.offset_at(index)), Some(offset));
        }
        same_objects(&scratch, &repository);
        // A pack that the multi-pack index does not know.
        scratch.git(&["config", "fastimport.unpackLimit", "0"]);
        scratch.history("more", 20, 77);
        same_objects(&scratch, &scratch.open());
        // A multi-pack index whose pack is gone counts for nothing.
        scratch.git(&["repack", "-adq"]);
        scratch.git(&["multi-pack-index", "write"]);
        let midx = fs::read(scratch.dir.join("objects/pack/multi-pack-index")).unwrap();
        scratch.history("again", 20, 78);
        scratch.git(&["repack", "-adq"]);
        fs::write(scratch.dir.join("objects/pack/multi-pack-index"), midx).unwrap();
        let repository = scratch.open();
        assert_eq!(repository.store().multi_pack_indexes().count(), 0);
        assert_eq!(repository.notes().len(), 1);
        fs::remove_file(scratch.dir.join("objects/pack/multi-pack-index")).unwrap();
        same_objects(&scratch, &repository);
    });
}

#[test]
fn packs_that_appear_later() {
    let scratch = Scratch::bare(&[]);
    scratch.git(&["config", "fastimport.unpackLimit", "0"]);
    scratch.history("main", 20, 1);
    let mut repository = scratch.open();
    scratch.history("other", 20, 2);
    let tip = repository.refs().find(b"refs/heads/other").unwrap().unwrap().target;
    assert!(!repository.store().contains(&tip));
    let name = repository.store().packs()[0].name().to_owned();
    assert_eq!(repository.store_mut().refresh().unwrap(), 1);
    assert!(repository.store().contains(&tip));
    assert_eq!(repository.store().packs()[0].name(), name);
    assert_eq!(repository.store_mut().refresh().unwrap(), 0);
    // What was removed since can still be read.
    let ids: Vec<ObjectId> =
        repository.store().packs().iter().flat_map(|pack| (0..pack.count()).map(|i| pack.id_at(i))).collect();
    scratch.git(&["repack", "-adq"]);
    let mut reader = Reader::new(repository.store(), 1 << 20);
    assert!(ids.iter().all(|id| reader.read(id).unwrap().is_some()));
}

/// Removes a pack with what belongs to it.
fn remove(pack: &std::path::Path) {
    for extension in ["pack", "idx", "rev"] {
        let _ = fs::remove_file(pack.with_extension(extension));
    }
}

/// Cuts history into packs of a commit each, the oldest first.
fn a_pack_for_each_commit(scratch: &Scratch) -> usize {
    let commits = scratch.git(&["rev-list", "--reverse", "--topo-order", "--all"]);
    let (mut before, mut packs) = (String::new(), 0);
    let old = files(scratch, "pack");
    for commit in commits.lines() {
        let revs = format!("{commit}\n{before}");
        let name = scratch.git_with(&["pack-objects", "-q", "--revs", "made"], revs.as_bytes());
        let name = String::from_utf8(name.trim_ascii().to_vec()).unwrap();
        for extension in ["pack", "idx"] {
            let to = scratch.dir.join(format!("objects/pack/pack-{name}.{extension}"));
            fs::rename(scratch.dir.join(format!("made-{name}.{extension}")), to).unwrap();
        }
        before += &format!("^{commit}\n");
        packs += 1;
    }
    old.iter().for_each(|pack| remove(pack));
    scratch.git(&["prune-packed"]);
    packs
}

#[test]
fn an_index_is_opened_when_something_is_looked_for_in_it() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 60, 1);
    scratch.git(&["repack", "-adq"]);
    let count = a_pack_for_each_commit(&scratch);
    let odd = scratch.dir.join("objects/pack/odd.idx");
    for path in [&odd, &odd.with_extension("pack")] {
        fs::write(path, "nothing").unwrap();
    }
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(1 << 20);
    let odd_pack = fs::File::options().write(true).open(odd.with_extension("pack")).unwrap();
    odd_pack.set_modified(long_ago).unwrap();
    let repository = scratch.open();
    let store = repository.store();
    assert_eq!(store.pack_numbers().len(), count + 1);
    assert_eq!((store.opened_packs().count(), store.notes()), (0, Vec::new()));
    let tip = repository.refs().find(b"refs/heads/main").unwrap().unwrap().target;
    assert!(store.contains(&tip));
    assert_eq!(store.opened_packs().count(), 1);
    let absent = ObjectId::from_hex(&[b'7'; 40]).unwrap();
    assert!(!store.contains(&absent) && store.opened_packs().count() == 1);
    assert!(store.notes()[0].contains("odd.idx: "), "{:?}", store.notes());
    assert!(store.why_missing(Some(&absent)).unwrap().contains("odd.idx: "));
    same_objects(&scratch, &repository);
    assert_eq!((store.packs().len(), store.notes().len()), (count, 1));
}

/// C git removes packs that were listed and not opened yet: what they held is found where it lies
/// now, as often as that happens.
#[test]
fn packs_that_go_away_before_they_are_opened() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 60, 1);
    scratch.git(&["repack", "-adq"]);
    a_pack_for_each_commit(&scratch);
    let repository = scratch.open();
    let tip = repository.refs().find(b"refs/heads/main").unwrap().unwrap().target;
    assert!(repository.store().contains(&tip));
    scratch.git(&["repack", "-adq"]);
    same_objects(&scratch, &repository);
    let repository = scratch.open();
    scratch.git(&["repack", "-adfq", "--depth=1"]);
    same_objects(&scratch, &repository);
    let repository = scratch.open();
    files(&scratch, "pack").iter().for_each(|pack| remove(pack));
    assert!(!repository.store().contains(&tip));
}

/// Lends everything or nothing.
struct All(bool);

impl Lender for All {
    fn ask(&mut self, places: &[alternates::AlternatePlace<'_>]) -> Vec<Lending> {
        let answer = if self.0 { Lending::Yes } else { Lending::No("not lent".into()) };
        vec![answer; places.len()]
    }
}

#[test]
fn alternates_that_are_lent() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 30, 1);
    scratch.git_in(scratch.top(), &["clone", "-q", "--bare", "--shared", "repo.git", "fork.git"]);
    let fork = scratch.top().join("fork.git");
    let dir = fs::File::open(&fork).unwrap();
    let objects = fork.join("objects");
    let opened = fs::File::open(&objects).unwrap();
    let resolve = |lend| {
        alternates::resolve(opened.as_fd(), Look::ANYWHERE, &objects, Trust::of_process(), &mut All(lend))
            .unwrap()
    };
    let found = resolve(true);
    assert_eq!((found.dirs.len(), found.refused.len()), (1, 0));
    let options = Options { alternates: found.dirs, ..Options::default() };
    let repository = Repository::open(dir.into(), options).unwrap();
    assert!(!repository.store().is_local(0));
    same_objects(&scratch, &repository);
    // Not resolved, not borrowed.
    let tip = repository.refs().find(b"refs/heads/main").unwrap().unwrap().target;
    assert!(!open(&fork).unwrap().store().contains(&tip));
    let none = resolve(false);
    assert_eq!((none.dirs.len(), none.refused.len()), (0, 1));
}

/// A repository whose `objects`, fan-out directory or packs are links to elsewhere must not be read
/// through them.
#[test]
fn symbolic_links_are_not_followed() {
    let victim = Scratch::bare(&[]);
    victim.history("main", 10, 1);
    let tip = victim.open().refs().find(b"refs/heads/main").unwrap().unwrap().target;
    for name in ["objects", "objects/pack", "refs"] {
        let scratch = Scratch::bare(&[]);
        fs::remove_dir_all(scratch.dir.join(name)).unwrap();
        symlink(victim.dir.join(name), scratch.dir.join(name)).unwrap();
        assert!(scratch.try_open().is_err(), "{name}");
    }
    let fan = &tip.to_hex()[..2];
    let scratch = Scratch::bare(&[]);
    symlink(victim.dir.join("objects").join(fan), scratch.dir.join("objects").join(fan)).unwrap();
    assert!(victim.open().store().contains(&tip));
    assert!(!scratch.open().store().contains(&tip));
    victim.git(&["repack", "-adq"]);
    for file in fs::read_dir(victim.dir.join("objects/pack")).unwrap() {
        let file = file.unwrap();
        symlink(file.path(), scratch.dir.join("objects/pack").join(file.file_name())).unwrap();
    }
    assert_eq!((packs(&scratch.open()), scratch.open().notes().len()), (0, 1));
    symlink(victim.dir.join("config"), scratch.dir.join("config.link")).unwrap();
    fs::rename(scratch.dir.join("config.link"), scratch.dir.join("config")).unwrap();
    assert!(scratch.try_open().is_err());
}

/// FIFOs, directories and devices in the place of files: an error or passed over, and never a wait.
#[test]
fn odd_files_do_not_hang() {
    let scratch = Scratch::bare(&[]);
    several_packs(&scratch);
    scratch.git(&["pack-refs", "--all"]);
    scratch.git(&["commit-graph", "write", "--reachable"]);
    scratch.git(&["multi-pack-index", "write"]);
    let id = scratch.git_with(&["hash-object", "-w", "--stdin"], b"odd");
    let id = ObjectId::from_hex(id.trim_ascii()).unwrap();
    let loose = format!("objects/{}", librepo::loose::path_of(&id));
    let pack = files(&scratch, "pack").remove(0);
    let pack = pack.strip_prefix(&scratch.dir).unwrap().to_owned();
    let mut names: Vec<_> = ["pack", "idx", "rev"].map(|extension| pack.with_extension(extension)).into();
    let more =
        ["packed-refs", "config", "HEAD", "shallow", "refs/heads/odd", "objects/info/commit-graph", &loose];
    names.extend(more.map(std::path::PathBuf::from));
    names.push("objects/pack/multi-pack-index".into());
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o600);
    for name in names {
        let (path, aside) = (scratch.dir.join(&name), scratch.top().join("aside"));
        let there = fs::rename(&path, &aside).is_ok();
        for round in 0..2 {
            match round {
                0 => nix::unistd::mkfifo(&path, mode).unwrap(),
                _ => fs::create_dir(&path).unwrap(),
            }
            if let Ok(repository) = scratch.try_open() {
                let mut reader = Reader::new(repository.store(), 0);
                let _ = repository.refs().list::<&str>(&[], Some(&mut reader));
                let _ = (repository.refs().head(), repository.refs().find(b"refs/heads/odd"));
                assert!(!matches!(reader.read(&id), Ok(None)) || name.as_os_str() == &loose[..]);
            }
            fs::remove_file(&path).or_else(|_| fs::remove_dir(&path)).unwrap();
        }
        if there {
            fs::rename(&aside, &path).unwrap();
        }
    }
    same_objects(&scratch, &scratch.open());
}

#[test]
fn what_is_no_repository_is_refused() {
    let scratch = Scratch::bare(&[]);
    let text = |dir: &std::path::Path| open(dir).err().map(|e| e.to_string());
    assert_eq!(text(&scratch.dir), None);
    assert_eq!(text(scratch.top()).as_deref(), Some("not a repository: no HEAD"));
    scratch.git_in(scratch.top(), &["init", "-q", "-b", "main", "work"]);
    let work = scratch.top().join("work");
    scratch.git_in(&work, &["commit", "-q", "--allow-empty", "-m", "x"]);
    assert_eq!(text(&work.join(".git")), None);
    assert_eq!(open(&work.join(".git")).unwrap().config().bare, Some(false));
    scratch.git_in(&work, &["worktree", "add", "-q", "-b", "side", "../linked"]);
    let linked = work.join(".git/worktrees/linked");
    assert_eq!(text(&linked).as_deref(), Some("not a repository: a linked worktree"));
    scratch.git(&["config", "core.repositoryFormatVersion", "1"]);
    scratch.git(&["config", "extensions.frotz", "true"]);
    assert_eq!(text(&scratch.dir).as_deref(), Some("repository not supported: extension frotz"));
}

#[test]
fn shared_store_between_threads() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 60, 1);
    scratch.git(&["repack", "-adq"]);
    let repository = scratch.open();
    let store: &Store = repository.store();
    let pack = &store.packs()[0];
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = Reader::new(store, 1 << 20);
                for index in 0..pack.count() {
                    let object = reader.read(&pack.id_at(index)).unwrap().unwrap();
                    assert_eq!(hash_object(HashKind::Sha1, object.kind, &object.data), pack.id_at(index));
                }
            });
        }
    });
}

/// A graph knows what the commits say, single and as a chain, with levels and with dates.
#[test]
fn commit_graphs() {
    each_hash(|scratch| {
        let mut seen = IdSet::default();
        for (round, options) in [
            &[
                "-c",
                "commitGraph.generationVersion=2",
                "commit-graph",
                "write",
                "--reachable",
                "--split=no-merge",
            ][..],
            &[
                "-c",
                "commitGraph.generationVersion=2",
                "commit-graph",
                "write",
                "--reachable",
                "--split=no-merge",
            ],
            &[
                "-c",
                "commitGraph.generationVersion=1",
                "commit-graph",
                "write",
                "--reachable",
                "--split=no-merge",
            ],
            &["-c", "commitGraph.generationVersion=2", "commit-graph", "write", "--reachable"],
            &["-c", "commitGraph.generationVersion=1", "commit-graph", "write", "--reachable"],
        ]
        .iter()
        .enumerate()
        {
            scratch.history("main", 30, round);
            octopus(&scratch);
            if round >= 3 {
                let _ = fs::remove_dir_all(scratch.dir.join("objects/info/commit-graphs"));
            }
            scratch.git(options);
            let repository = scratch.open();
            let graph = repository.commit_graph().expect("a graph");
            assert_eq!(repository.notes().len(), 0);
            assert_eq!(graph.has_corrected_dates(), matches!(round, 0 | 1 | 3), "round {round}");
            let listed = scratch.git(&["log", "--all", "--format=%H %ct %T %P"]);
            assert_eq!(listed.lines().count(), graph.count() as usize);
            for line in listed.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                let id = |word: &str| ObjectId::from_hex(word.as_bytes()).unwrap();
                let number = graph.lookup(&id(words[0])).unwrap();
                assert_eq!(graph.id_at(number), id(words[0]));
                let commit = graph.commit(number).unwrap();
                assert_eq!((commit.date, commit.tree), (words[1].parse().unwrap(), id(words[2])));
                let parents: Vec<ObjectId> = commit.parents().map(|parent| graph.id_at(parent)).collect();
                assert_eq!(parents, words[3..].iter().map(|word| id(word)).collect::<Vec<_>>());
                for parent in commit.parents() {
                    assert!(graph.generation(parent) < graph.generation(number));
                    assert!(graph.commit(parent).unwrap().level < commit.level);
                }
                assert_eq!(Some(commit.generation), graph.generation(number));
                seen.insert(id(words[0]));
            }
            assert_eq!(graph.lookup(&ObjectId::null(repository.hash())), None);
        }
        // Where history is cut off, the graph does not count.
        let tip = scratch.git(&["rev-parse", "main"]);
        fs::write(scratch.dir.join("shallow"), tip).unwrap();
        let repository = scratch.open();
        assert!(repository.is_shallow() && repository.commit_graph().is_none());
    });
}

/// A merge of five.
fn octopus(scratch: &Scratch) {
    let tree = scratch.git(&["rev-parse", "main^{tree}"]);
    let mut args = vec!["commit-tree".to_owned(), "-m".into(), "octopus".into(), tree.trim().into()];
    for back in ["main", "main~2", "main~4", "main~6", "main~8"] {
        args.extend(["-p".to_owned(), scratch.git(&["rev-parse", back]).trim().to_owned()]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let merge = scratch.git(&args);
    scratch.git(&["update-ref", "refs/heads/main", merge.trim()]);
}

/// An object larger than the limit is refused whole, and can be streamed.
#[test]
fn large_objects() {
    let scratch = Scratch::bare(&[]);
    let blob: Vec<u8> = (0..3_000_000u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let id = scratch.git_with(&["hash-object", "-w", "--stdin"], &blob);
    let id = ObjectId::from_hex(id.trim_ascii()).unwrap();
    for packed in [false, true] {
        if packed {
            scratch.git(&["update-ref", "refs/tags/blob", &id.to_string()]);
            scratch.git(&["repack", "-adq"]);
        }
        let options =
            Options { limits: librepo::store::StoreLimits { object_bytes: 1 << 20 }, ..Options::default() };
        let repository = Repository::open(fs::File::open(&scratch.dir).unwrap().into(), options).unwrap();
        let mut reader = Reader::new(repository.store(), 1 << 20);
        let refused = reader.read(&id).unwrap_err().to_string();
        assert_eq!(refused, format!("object {id}: 12000000 bytes, larger than the limit of 1048576"));
        let (mut got, mut largest) = (0, 0);
        let told = reader.read_stream(&id, &mut |bytes| {
            assert_eq!(bytes, &blob[got..got + bytes.len()]);
            got += bytes.len();
            largest = largest.max(bytes.len());
            Ok(())
        });
        assert_eq!(told.unwrap(), Some((ObjectKind::Blob, blob.len() as u64)));
        assert!(got == blob.len() && largest <= 1 << 16);
    }
}

/// What one process found right the next need not check: until the files change.
#[test]
fn checks_are_handed_on() {
    use librepo::checked::Checked;
    use std::sync::Arc;

    let scratch = Scratch::bare(&[]);
    scratch.history("main", 400, 1);
    scratch.git(&["-c", "pack.writeReverseIndex=true", "repack", "-adfq"]);
    let open = |checked: &Arc<Checked>| {
        let options = Options { checked: checked.clone(), ..Options::default() };
        Repository::open(fs::File::open(&scratch.dir).unwrap().into(), options).unwrap()
    };
    // What changed just now could change again unseen.
    let first = Arc::<Checked>::default();
    let repository = open(&first);
    let pack = &repository.store().packs()[0];
    assert!(pack.order().is_from_file() && first.found().is_empty());
    std::thread::sleep(std::time::Duration::from_millis(3100));
    let second = Arc::<Checked>::default();
    let again = open(&second);
    assert!(again.store().packs()[0].order().is_from_file());
    assert_eq!(second.found().len(), 1);
    let third = Arc::<Checked>::default();
    third.vouch(second.found());
    let unchecked = open(&third);
    let other = &unchecked.store().packs()[0];
    assert!(other.order().is_from_file() && third.found().is_empty());
    // Few questions, then so many that the order is read after all.
    for step in [97, 1] {
        for position in (0..pack.count()).step_by(step) {
            let offset = pack.offset_of_position(position).unwrap();
            assert_eq!(other.position_of_offset(offset), Some(position), "{step}");
            assert_eq!(other.position_of_offset(offset + 1), None);
            assert_eq!(other.end_of(offset), pack.end_of(offset));
        }
        assert_eq!(other.position_of_offset(0), None);
        assert_eq!(other.position_of_offset(u64::MAX), None);
    }
    // A changed file is another one.
    let rev = files(&scratch, "rev").remove(0);
    let mut bytes = fs::read(&rev).unwrap();
    bytes.swap(15, 19);
    fs::set_permissions(&rev, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(&rev, bytes).unwrap();
    let fourth = Arc::<Checked>::default();
    fourth.vouch(second.found());
    let changed = open(&fourth);
    assert!(!changed.store().packs()[0].order().is_from_file() && fourth.found().is_empty());
}
