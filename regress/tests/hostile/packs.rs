//! Packs, references and trees that have sunk Git servers, each pushed to a real daemon. The list
//! of what each was answered, how long it took and how much memory `verify` used is printed: `cargo
//! test -p regress --test hostile packs:: -- --nocapture`.
//!
//! After each of them the repository is exactly what it was.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use libgit::{HashKind, ObjectId, ObjectKind};
use librepo::id::hash_object;
use librepo::receive::testpack::{TestDelta, TestPack, commit, sealed, tree};
use regress::compare::{assert_whole, listing, references};
use regress::run::wait_until;
use regress::{Daemon, Site, history, pkt, run};

const SHA1: HashKind = HashKind::Sha1;
/// Longest that any of them may take here, in milliseconds.
const MS_MAX: u128 = 20_000;
/// Most memory of `verify` (resident, with what it shares), in bytes.
const MEMORY_MAX: u64 = 700 << 20;

struct Target {
    site: Site,
    repository: PathBuf,
    daemon: Daemon,
    tip: String,
}

impl Target {
    fn new() -> Target {
        Target::with("")
    }

    /// With more lines for the repositories' block.
    fn with(rules: &str) -> Target {
        let site = Site::new();
        let repository = history::repository(&site, "r.git", 10, "sha1");
        let me = regress::site::present_user();
        let configuration = format!(
            "{}repositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n{rules}}}\n",
            site.roomy_head(),
            site.path("repositories").display(),
        );
        // The cases go beyond these.
        let configuration = format!("{configuration}limit commands 50000\nlimit delta result 64M\n");
        let daemon = site.start_with(&configuration);
        let tip = history::tip(&site, &repository);
        Target { site, repository, daemon, tip }
    }

    /// What must not change: everything but the times of directories, in which locks and the
    /// quarantine come and go. Each push has one, which goes after its client was answered.
    fn state(&self) -> (String, BTreeMap<String, impl PartialEq>) {
        let names = || std::fs::read_dir(self.repository.join("objects")).expect("lists").flatten();
        let is_left = || names().any(|one| one.file_name().to_string_lossy().starts_with("gotd-incoming-"));
        wait_until(5.0, || !is_left());
        let mut files = listing(&self.repository);
        for (name, entry) in &mut files {
            if self.repository.join(name).is_dir() {
                (entry.2, entry.5, entry.6) = (0, 0, 0);
            }
        }
        (references(&self.site, &self.repository), files)
    }

    /// Sends these bytes to a receive-pack, and says what it was answered; with it the time in
    /// milliseconds and the largest memory of `verify` that was seen.
    fn send(&self, input: &[u8]) -> (String, u128, u64) {
        let mut gotsh = self.site.gotsh("git-receive-pack 'r.git'");
        let begun = Instant::now();
        let input = input.to_vec();
        let thread = std::thread::spawn(move || run(&mut gotsh, &input, 90));
        let mut peak = 0;
        while !thread.is_finished() {
            for pid in self.daemon.role("verify") {
                peak = peak.max(regress::process::peak_memory(pid).unwrap_or(0));
            }
            std::thread::sleep(std::time::Duration::from_millis(4));
        }
        let done = thread.join().expect("gotsh ends");
        (answer(&done.out, &done.err), begun.elapsed().as_millis(), peak)
    }
}

/// The server's last words, on one line: an error packet, or the report, or what gotsh said.
fn answer(out: &[u8], err: &str) -> String {
    if let Some(text) = pkt::error(out) {
        return text;
    }
    let mut lines = Vec::new();
    for packet in pkt::split(out).into_iter().flatten() {
        let text = String::from_utf8_lossy(&packet).trim_end().to_owned();
        if ["unpack ", "ok ", "ng "].iter().any(|start| text.starts_with(start)) {
            lines.push(text);
        }
    }
    match lines.first().map(String::as_str) {
        Some("unpack ok") => lines.get(1).cloned().unwrap_or_else(|| lines.remove(0)),
        Some(_) => lines.remove(0),
        None => err.trim().to_owned(),
    }
}

fn request(commands: &[(&str, &str, &[u8])], capabilities: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, (old, new, name)) in commands.iter().enumerate() {
        let mut line = format!("{old} {new} ").into_bytes();
        line.extend_from_slice(name);
        if at == 0 {
            line.push(0);
            line.extend_from_slice(capabilities.as_bytes());
        }
        out.extend(pkt::line(line));
    }
    out.extend_from_slice(pkt::FLUSH);
    out
}

const ZEROS: &str = "0000000000000000000000000000000000000000";

/// A push of this pack, with a new branch at `tip`.
fn push(tip: &str, pack: &[u8]) -> Vec<u8> {
    let mut out = request(&[(ZEROS, tip, b"refs/heads/new")], "report-status");
    out.extend_from_slice(pack);
    out
}

/// One row of the list.
struct Case {
    name: &'static str,
    input: Vec<u8>,
    /// What the answer must hold; `None`: it is taken.
    refused: Option<&'static str>,
}

fn case(name: &'static str, input: Vec<u8>, refused: &'static str) -> Case {
    Case { name, input, refused: Some(refused) }
}

fn taken(name: &'static str, input: Vec<u8>) -> Case {
    Case { name, input, refused: None }
}

fn judge(target: &mut Target, cases: Vec<Case>) {
    println!("{:<44} {:>6} {:>7}  answer", "what", "ms", "MiB");
    let mut failures = Vec::new();
    for Case { name, input, refused } in cases {
        let before = target.state();
        let (said, ms, peak) = target.send(&input);
        let mut shown = said.clone();
        shown.truncate(shown.floor_char_boundary(110));
        println!("{:<44} {ms:>6} {:>7}  {shown}", name.escape_debug().to_string(), peak >> 20);
        let mut wrong = |what: &str| failures.push(format!("{name}: {what}: {said:?}"));
        match refused {
            Some(words) => {
                if !said.contains(words) {
                    wrong(&format!("{words:?} is not in the answer"));
                }
                if before != target.state() {
                    wrong("changed something");
                }
            }
            None if said.starts_with("ok ") => {
                assert_whole(&target.site, &target.repository);
                target.site.git_in(&target.repository, ["update-ref", "-d", "refs/heads/new"]);
            }
            None => wrong("was refused"),
        }
        if said.bytes().any(|b| b.is_ascii_control()) {
            wrong("control bytes");
        }
        if ms >= MS_MAX {
            wrong("took too long");
        }
        if peak >= MEMORY_MAX {
            wrong("used too much memory");
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(!target.daemon.log().bytes().any(|b| b.is_ascii_control() && b != b'\n'));
    assert_whole(&target.site, &target.repository);
    target.daemon.assert_serves();
}

/// Makes a pack, and pushes a new branch at the object that `build` names.
fn of(build: impl FnOnce(&mut TestPack) -> ObjectId) -> Vec<u8> {
    let mut pack = TestPack::new(SHA1);
    let tip = build(&mut pack);
    push(&tip.to_string(), &pack.finish())
}

/// The same with a commit of the tree that `build` names.
fn of_root(build: impl FnOnce(&mut TestPack) -> ObjectId) -> Vec<u8> {
    of(|pack| {
        let root = build(pack);
        pack.object(ObjectKind::Commit, &commit(&root, &[], 1_700_000_000)).0
    })
}

/// A commit of one tree, with these blobs beside it.
fn of_tree(entries: &[(&str, &[u8], ObjectId)], blobs: &[&[u8]]) -> Vec<u8> {
    of_root(|pack| {
        for blob in blobs {
            pack.object(ObjectKind::Blob, blob);
        }
        pack.object(ObjectKind::Tree, &tree(entries)).0
    })
}

fn blob_id(data: &[u8]) -> ObjectId {
    hash_object(SHA1, ObjectKind::Blob, data)
}

fn declared(kind: u8, size: u64, data: &[u8]) -> Vec<u8> {
    of(|pack| {
        pack.raw(kind, size, &[], data);
        blob_id(b"x")
    })
}

fn counted(count: u32) -> Vec<u8> {
    let mut pack = TestPack::new(SHA1);
    pack.object(ObjectKind::Blob, b"hello");
    push(&blob_id(b"hello").to_string(), &pack.finish_with(count))
}

fn chain(length: u32) -> Vec<u8> {
    of(|pack| {
        let (_, mut at) = pack.object(ObjectKind::Blob, &[b'x'; 64]);
        for i in 0..length {
            at = pack.ofs_delta(at, &TestDelta::new(64, 64).copy(0, 60).insert(&i.to_be_bytes()).bytes());
        }
        blob_id(b"x")
    })
}

/// Some two kilobytes that unpack to six gigabytes: each delta is twice the one before it, or the
/// largest one again.
fn bomb() -> Vec<u8> {
    let copies = |base: u64, result: u64| {
        let piece = base.min(8 << 20);
        let length = u32::try_from(piece).expect("small");
        (0..result / piece).fold(TestDelta::new(base, result), |delta, _| delta.copy(0, length)).bytes()
    };
    of(|pack| {
        let mut size = 1_u64 << 20;
        let (_, mut at) = pack.object(ObjectKind::Blob, &vec![0; 1 << 20]);
        for _ in 0..8 {
            at = pack.ofs_delta(at, &copies(size, size * 2));
            size *= 2;
        }
        for _ in 0..22 {
            at = pack.ofs_delta(at, &copies(size, size));
        }
        blob_id(b"x")
    })
}

fn deep_trees(depth: u32) -> Vec<u8> {
    of_root(|pack| {
        let (blob, _) = pack.object(ObjectKind::Blob, b"x");
        let (mut at, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", blob)]));
        for _ in 0..depth {
            at = pack.object(ObjectKind::Tree, &tree(&[("40000", b"d", at)])).0;
        }
        at
    })
}

/// By name, the delta before its base, one upon another.
fn by_name_in_any_order() -> Vec<u8> {
    let (one, two, three) = (&b"one one one one"[..], &b"two one one one"[..], &b"333 one one one"[..]);
    of_root(|pack| {
        pack.ref_delta(&blob_id(two), &TestDelta::new(15, 15).insert(b"333").copy(3, 12).bytes());
        pack.ref_delta(&blob_id(one), &TestDelta::new(15, 15).insert(b"two").copy(3, 12).bytes());
        pack.object(ObjectKind::Blob, one);
        let entries = [
            ("100644", &b"a"[..], blob_id(one)),
            ("100644", b"b", blob_id(two)),
            ("100644", b"c", blob_id(three)),
        ];
        pack.object(ObjectKind::Tree, &tree(&entries)).0
    })
}

fn on_a_delta(delta: TestDelta) -> Vec<u8> {
    of(|pack| {
        let (_, base) = pack.object(ObjectKind::Blob, &[b'x'; 1000]);
        pack.ofs_delta(base, &delta.bytes());
        blob_id(b"x")
    })
}

#[test]
fn packs_whose_numbers_lie() {
    let huge_tree = of(|pack| {
        pack.raw(2, 100 << 20, &[], &vec![0; 100 << 20]);
        blob_id(b"x")
    });
    judge(
        &mut Target::new(),
        vec![
            case("declared size 2^60, blob", declared(3, 1 << 60, b"x"), "out of bounds"),
            case("declared size 2^60 - 1, blob", declared(3, (1 << 60) - 1, b"x"), "exceed the limit"),
            case("declared size 2^59, commit", declared(1, 1 << 59, b"x"), "exceed the limit"),
            case("declared size 2^64 - 1", declared(3, u64::MAX, b"x"), "out of bounds"),
            case("declared smaller than it is", declared(3, 4, b"hello"), "larger than it declares"),
            case("declared larger than it is", declared(3, 6, b"hello"), "smaller than it declares"),
            case("zip bomb: 200 MB said to be 10 bytes", declared(3, 10, &vec![0; 200 << 20]), "larger than"),
            case("zip bomb: honest tree of 100 MB", huge_tree, "exceed the limit"),
            case("count: one too many", counted(2), "unpack "),
            case("count: one too few", counted(0), "unpack "),
            case("count: 2^32 - 1", counted(u32::MAX), "objects exceed the limit"),
            case("unknown type 5", declared(5, 5, b"hello"), "unknown object type"),
        ],
    );
}

#[test]
fn packs_of_hostile_deltas() {
    let (a, b) = (blob_id(b"aa"), blob_id(b"bb"));
    let cycle = of(|pack| {
        pack.ref_delta(&a, &TestDelta::new(2, 2).insert(b"bb").bytes());
        pack.ref_delta(&b, &TestDelta::new(2, 2).insert(b"aa").bytes());
        a
    });
    let on_itself = of(|pack| {
        pack.raw(6, 8, &[0], &TestDelta::new(2, 2).insert(b"bb").bytes());
        b
    });
    let missing = of(|pack| {
        for n in 0..1000_u32 {
            pack.ref_delta(&blob_id(&n.to_le_bytes()), &TestDelta::new(2, 2).insert(b"bb").bytes());
        }
        b
    });
    judge(
        &mut Target::new(),
        vec![
            case("delta cycle of two", cycle, "bases are missing"),
            case("delta on itself", on_itself, "base offset"),
            case("a thousand missing bases", missing, "bases are missing"),
            case("delta chain 50,000 deep", chain(50_000), "deltas in a chain exceed the limit"),
            case("delta bomb: 2 KB for 6 GB", bomb(), "exceed the limit"),
            case(
                "delta result 2^60",
                on_a_delta(TestDelta::new(1000, 1 << 60).copy(0, 1000)),
                "exceed the limit",
            ),
            case(
                "delta copies beyond its base",
                on_a_delta(TestDelta::new(1000, 10).copy(991, 10)),
                "unpack ",
            ),
            case("delta shorter than it says", on_a_delta(TestDelta::new(1000, 11).copy(0, 10)), "unpack "),
            taken("deltas by name in any order", by_name_in_any_order()),
        ],
    );
}

#[test]
fn packs_of_odd_shape() {
    let x = blob_id(b"x");
    let good = of_tree(&[("100644", b"f", x)], &[b"x"]);
    let start = good.windows(4).position(|w| w == b"PACK").expect("a pack");
    let changed = |at: usize, by: u8| {
        let mut bad = good.clone();
        bad[at] ^= by;
        bad
    };
    let twice = of(|pack| {
        pack.object(ObjectKind::Blob, b"hello");
        pack.object(ObjectKind::Blob, b"hello").0
    });
    let many_tiny = of(|pack| {
        for n in 0..200_000_u32 {
            pack.object(ObjectKind::Blob, &n.to_be_bytes());
        }
        x
    });
    let not_deflate = of(|pack| {
        pack.stream(3, 5, &[], b"not deflate");
        x
    });
    let wide = of_root(|pack| {
        let (blob, _) = pack.object(ObjectKind::Blob, b"x");
        let names: Vec<String> = (0..400_000).map(|n| format!("{n:06}")).collect();
        let entries: Vec<_> = names.iter().map(|name| ("100644", name.as_bytes(), blob)).collect();
        pack.object(ObjectKind::Tree, &tree(&entries)).0
    });
    let long_name = of_tree(&[("100644", &vec![b'n'; 1 << 20], x)], &[b"x"]);
    judge(
        &mut Target::new(),
        vec![
            case("duplicate object", twice, "appears twice"),
            case("200,000 tiny blobs, tip not among them", many_tiny, "missing necessary objects"),
            case("no deflate stream", not_deflate, "damaged"),
            case("trailing garbage", [good.as_slice(), b"x"].concat(), "bytes after the end"),
            case("bad checksum", changed(good.len() - 1, 1), "checksum"),
            case("one bit of an object wrong", changed(start + 16, 1), "unpack "),
            case("another signature", changed(start, 0x20), "unpack "),
            case("version 5", changed(start + 7, 7), "unpack "),
            case("nothing where a pack belongs", push(&x.to_string(), b""), "cut short"),
            case(
                "empty pack, tip not there",
                push(&x.to_string(), &sealed(SHA1, 0, b"")),
                "missing necessary objects",
            ),
            case("half a pack", good[..good.len() - 30].to_vec(), "cut short"),
            case("path name of 2^20 bytes", long_name, "largePathname"),
            taken("a tree of 400,000 entries", wide),
            case("trees nested 20,000 deep", deep_trees(20_000), "(limit tree depth)"),
            taken("trees nested 2,000 deep", deep_trees(2_000)),
        ],
    );
}

#[test]
fn trees_and_what_is_behind_them() {
    let mut target = Target::new();
    let x = blob_id(b"x");
    let here = ObjectId::from_hex(target.tip.as_bytes()).expect("an id");
    let gone = ObjectId::from_hex(&[b'1'; 40]).expect("an id");
    let empty = hash_object(SHA1, ObjectKind::Tree, b"");
    let one = |name: &[u8]| of_tree(&[("100644", name, x)], &[b"x"]);
    let modules = |text: &str| {
        let text = format!("[submodule \"{text}\n");
        of_tree(&[("100644", b".gitmodules", blob_id(text.as_bytes()))], &[text.as_bytes()])
    };
    let object = |kind: ObjectKind, data: &[u8]| of(|pack| pack.object(kind, data).0);
    let parentless = of(|pack| {
        let (root, _) = pack.object(ObjectKind::Tree, b"");
        pack.object(ObjectKind::Commit, &commit(&root, &[gone], 5)).0
    });
    let of_a_blob = of(|pack| {
        let (blob, _) = pack.object(ObjectKind::Blob, b"y");
        pack.object(ObjectKind::Commit, &commit(&blob, &[here], 5)).0
    });
    let no_author = format!("tree {empty}\ncommitter C <c@x> 5 +0000\n\nm\n");
    let unsorted = [("100644", &b"b"[..], x), ("100644", b"a", x)];
    let double = [("100644", &b"a"[..], x), ("100644", b"a", x)];
    judge(
        &mut target,
        vec![
            case(".git", one(b".git"), "hasDotgit"),
            case(".GIT", one(b".GIT"), "hasDotgit"),
            case(".git::$INDEX_ALLOCATION", one(b".git::$INDEX_ALLOCATION"), "hasDotgit"),
            case("git~1", one(b"git~1"), "hasDotgit"),
            case(".g<zero width non-joiner>it", one(b".g\xe2\x80\x8cit"), "hasDotgit"),
            case("..", one(b".."), "hasDotdot"),
            case("a name with a slash", one(b"a/b"), "fullPathname"),
            case("an empty name", one(b""), "badTree"),
            case("not sorted", of_tree(&unsorted, &[b"x"]), "treeNotSorted"),
            case("the same name twice", of_tree(&double, &[b"x"]), "duplicateEntries"),
            case("a null id", of_tree(&[("100644", b"a", ObjectId::null(SHA1))], &[]), "nullSha1"),
            case("no tree at all", object(ObjectKind::Tree, b"junk"), "badTree"),
            case(
                ".gitmodules a symlink",
                of_tree(&[("120000", b".gitmodules", x)], &[b"x"]),
                "gitmodulesSymlink",
            ),
            case(
                ".gitmodules: name with ../",
                modules("../../x\"]\n\tpath = x\n\turl = y"),
                "gitmodulesName",
            ),
            case(
                ".gitmodules: url like an option",
                modules("x\"]\n\turl = -oProxyCommand=x"),
                "gitmodulesUrl",
            ),
            case(
                ".gitmodules: url that leaves its root, with backslashes",
                modules("x\"]\n\turl = ..\\\\../.\\\\../:one.example.com/foo.git"),
                "gitmodulesUrl",
            ),
            case(
                ".gitmodules: url with an encoded line feed behind a backslash",
                modules("x\"]\n\turl = .\\\\%0ahost=one.example.com"),
                "gitmodulesUrl",
            ),
            case(
                ".gitmodules: a name of which the section has the first part",
                modules("x\"]\n\turl = y\n[submodule.x \"/../y\"]\n\turl = y"),
                "gitmodulesName",
            ),
            case(
                ".gitmodules: path like an option",
                modules("x\"]\n\tpath = -x\n\turl = y"),
                "gitmodulesPath",
            ),
            case(".gitmodules: update runs a command", modules("x\"]\n\tupdate = !id"), "gitmodulesUpdate"),
            case("blob missing", of_tree(&[("100644", b"a", gone)], &[]), "missing necessary objects"),
            case(
                "tree missing",
                object(ObjectKind::Commit, &commit(&gone, &[], 5)),
                "missing necessary objects",
            ),
            case("parent missing", parentless, "missing necessary objects"),
            case("a commit of a blob", of_a_blob, "named as something else"),
            case("a branch at a blob", object(ObjectKind::Blob, b"y"), "invalid new value"),
            case("a branch at a tree", object(ObjectKind::Tree, b""), "invalid new value"),
            case(
                "a commit without an author",
                object(ObjectKind::Commit, no_author.as_bytes()),
                "missingAuthor",
            ),
        ],
    );
}

/// What a repository's block says it tolerates is let through, and nothing else.
#[test]
fn tolerated_findings() {
    let x = blob_id(b"x");
    let padded = || of_tree(&[("0100644", b"f", x)], &[b"x"]);
    let both = of_tree(&[("0100644", b"f", x), ("100644", b".git", x)], &[b"x"]);
    let (said, ..) = Target::new().send(&padded());
    assert!(said.contains("zeroPaddedFilemode"), "{said}");
    let mut target = Target::with("\tfsck ignore zeroPaddedFilemode\n");
    let (said, ..) = target.send(&both);
    assert!(said.contains("hasDotgit"), "{said}");
    let (said, ..) = target.send(&padded());
    assert_eq!(said, "ok refs/heads/new");
    target.daemon.assert_serves();
    let (said, ..) = Target::with("\tfsck off\n").send(&of_tree(&[("100644", b".git", x)], &[b"x"]));
    assert_eq!(said, "ok refs/heads/new");
    // What is no tree at all is nobody's to tolerate.
    let (said, ..) = Target::with("\tfsck off\n").send(&of(|pack| pack.object(ObjectKind::Tree, b"junk").0));
    assert!(said.starts_with("unpack "), "{said}");
}

#[test]
fn references_and_commands() {
    let mut target = Target::new();
    let tip = target.tip.clone();
    let create = |name: &[u8]| request_with_pack(&[(ZEROS, &tip, name)], "report-status");
    let mut cases = Vec::new();
    for name in [
        "refs/heads/../../config",
        "refs/heads/x.lock",
        "refs/heads/a.lock/b",
        "refs/heads/@{0}",
        "refs/heads/a\x01b",
        "refs/heads/\x1b[31mred",
        "refs/heads/a\x7fb",
        "refs/heads/a b",
        "refs/heads/a~1",
        "refs/heads/a\\b",
        "refs/heads//a",
        "refs/heads/a/",
        "refs/heads/.hidden",
        "refs/heads/a.",
        "HEAD",
        "config",
        "hooks/update",
        "objects/info/alternates",
        "refs/x",
        "/etc/passwd",
        "../outside",
        "-option",
    ] {
        cases.push(case(name, create(name.as_bytes()), "funny refname"));
    }
    let component = [b"refs/heads/".as_slice(), &[b'n'; 300]].concat();
    let long = [b"refs/heads/".as_slice(), &b"n/".repeat(20_000), b"n"].concat();
    let other = "1".repeat(40);
    let main = b"refs/heads/main".as_slice();
    let twice: [(&str, &str, &[u8]); 2] = [(ZEROS, &tip, b"refs/heads/2"), (ZEROS, &tip, b"refs/heads/2")];
    let names: Vec<String> = (0..100_000).map(|n| format!("refs/heads/many/{n}")).collect();
    let many: Vec<(&str, &str, &[u8])> = names.iter().map(|n| (ZEROS, tip.as_str(), n.as_bytes())).collect();
    let report = "report-status";
    let mut certificate = pkt::line("push-cert\0 report-status\n");
    certificate.extend(pkt::line("certificate version 0.1\n"));
    certificate.extend_from_slice(pkt::FLUSH);
    let escapes = request(&[(&tip, ZEROS, main)], "report-status agent=\x1b[31mevil;id\n");
    cases.extend([
        case("a component of 300 bytes", create(&component), "ng "),
        case("a name of 40,000 bytes", create(&long), "ng "),
        case("an old value that is a lie", request_with_pack(&[(&other, &tip, main)], report), "it is at"),
        case("creation of what exists", request_with_pack(&[(ZEROS, &tip, main)], report), "it is at"),
        case("a branch below a branch", create(b"refs/heads/main/below"), "refs/heads/main exists"),
        case(
            "twice in one atomic push",
            request_with_pack(&twice, "report-status atomic"),
            "ng refs/heads/2",
        ),
        case(
            "a tip that is nowhere",
            request_with_pack(&[(ZEROS, &other, b"refs/heads/x")], report),
            "missing",
        ),
        case("deletion of HEAD's branch", request(&[(&tip, ZEROS, main)], report), "prohibited"),
        case("100,000 commands", request_with_pack(&many, report), "50000"),
        case("a push certificate", certificate, ""),
        case("an agent with escapes", escapes, "prohibited"),
        case("a command cut short", b"00ff0000".to_vec(), ""),
        case("length 0003", b"0003".to_vec(), ""),
        case("a length that is none", b"zzzz".to_vec(), ""),
    ]);
    judge(&mut target, cases);
    for option in ["a=b;rm -rf /\nX-Header: y", "\x1b]0;title\x07"] {
        let mut input = request(&[(ZEROS, &tip, b"refs/heads/opt")], "report-status push-options");
        input.extend(pkt::line(option));
        input.extend_from_slice(pkt::FLUSH);
        input.extend(sealed(SHA1, 0, b""));
        let (said, ..) = target.send(&input);
        assert!(said.starts_with("ok ") || said.contains("option"), "{said}");
        target.site.git_in(&target.repository, ["update-ref", "-d", "refs/heads/opt"]);
    }
    assert!(!target.daemon.log().bytes().any(|b| b.is_ascii_control() && b != b'\n'));
}

/// Commands and an empty pack.
fn request_with_pack(commands: &[(&str, &str, &[u8])], capabilities: &str) -> Vec<u8> {
    let mut out = request(commands, capabilities);
    out.extend(sealed(SHA1, 0, b""));
    out
}

/// An object of the same id and other content: nobody can make one, so the repository's own is
/// damaged instead.
#[test]
fn the_same_id_with_other_content() {
    let mut target = Target::new();
    let (site, repository) = (&target.site, &target.repository);
    let write = |data: &[u8]| {
        let mut command = site.command("git");
        command.arg("-C").arg(repository).args(["hash-object", "-w", "--stdin"]);
        run(&mut command, data, 20).good().text().trim().to_owned()
    };
    let file = |hex: &str| repository.join("objects").join(&hex[..2]).join(&hex[2..]);
    let (good, evil) = (write(b"good"), write(b"evil"));
    std::fs::remove_file(file(&good)).expect("removes");
    std::fs::copy(file(&evil), file(&good)).expect("copies");
    target.site.hand_over();
    let input = of_tree(&[("100644", b"f", blob_id(b"good"))], &[b"good"]);
    let before = references(&target.site, &target.repository);
    let (said, ms, _) = target.send(&input);
    println!("{:<44} {ms:>6}          {said}", "the same id with other content");
    assert!(said.contains("collides"), "{said}");
    assert_eq!(before, references(&target.site, &target.repository));
    target.daemon.assert_serves();
}
