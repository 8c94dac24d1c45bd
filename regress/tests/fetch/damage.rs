//! What is damaged in a repository is never answered as if it were not there: a client that mirrors
//! would delete its own copy, and a clone of the only branch would say "empty repository". C git
//! lists a damaged reference with an id of zeros, and refuses to send it; so do we.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use regress::clients::python;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, is_root, pkt, run};

const URL: &str = "gotd:r.git";

struct Place {
    site: Site,
    repository: PathBuf,
    tip: String,
}

fn place() -> Place {
    place_in(Site::new())
}

fn place_in(site: Site) -> Place {
    let repository = history::repository(&site, "r.git", 12, "sha1");
    let tip = history::tip(&site, &repository);
    site.git_in(&repository, ["pack-refs", "--all"]);
    Place { site, repository, tip }
}

impl Place {
    fn listed(&self, from: &str, version: u8) -> Vec<String> {
        let version = format!("protocol.version={version}");
        let out = self.site.git(["-c", &version, "ls-remote", from]).good().text();
        out.lines().map(str::to_owned).collect()
    }

    /// C git's list of the same repository.
    fn git_s(&self, version: u8) -> Vec<String> {
        self.listed(&format!("file://{}", self.repository.display()), version)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.repository.join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("makes directories");
        fs::write(path, content).expect("writes");
    }

    fn start(&self) -> Daemon {
        self.site.start()
    }
}

/// How often the log has a line with all these words.
fn times(daemon: &Daemon, words: &[&str]) -> usize {
    daemon.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
}

/// All that a file of a reference can hold instead of an id.
fn damages(tip: &str) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("empty", Vec::new()),
        ("nul", vec![0; 41]),
        ("formfeed", format!("{tip}\x0c").into_bytes()),
        ("line", b"\n".to_vec()),
        ("text", b"hello\n".to_vec()),
        ("short", tip.as_bytes()[..39].to_vec()),
        ("joined", format!("{tip}x\n").into_bytes()),
        ("zeros", format!("{}\n", "0".repeat(40)).into_bytes()),
        ("blank-first", format!(" {tip}\n").into_bytes()),
        ("large", vec![b'a'; 10_000]),
        ("sha256", "ab".repeat(32).into_bytes()),
        ("conflict", format!("<<<<<<< HEAD\n{tip}\n").into_bytes()),
        ("deep/er/one", b"garbage".to_vec()),
    ]
}

/// As C git lists them, in every protocol, loose alone and over a packed value; the log says why.
#[test]
fn damaged_references_are_listed_with_zeros_as_c_git_lists_them() {
    let place = place();
    let mut lines = fs::read_to_string(place.repository.join("packed-refs")).expect("reads");
    lines = lines.replace(" sorted", "");
    for (name, _) in damages(&place.tip) {
        for above in ["refs/heads/packed", "refs/tags/packed"] {
            lines.push_str(&format!("{} {above}-{name}\n", place.tip));
        }
    }
    place.write("packed-refs", lines);
    place.site.git_in(&place.repository, ["pack-refs", "--all"]);
    for (name, content) in damages(&place.tip) {
        for above in ["refs/heads/a", "refs/heads/packed", "refs/tags/packed"] {
            place.write(&format!("{above}-{name}"), &content);
        }
    }
    // Fine ones, that look odd.
    place.write("refs/heads/fine-blank", format!("{} x\n", place.tip));
    place.write("refs/heads/fine-nul", [place.tip.as_bytes(), &[0; 9]].concat());
    place.write("refs/heads/fine-symbolic", b"ref:\t refs/heads/main\0x\n");
    place.write("refs/heads/fine-upper", format!("{}\n", place.tip.to_uppercase()));
    place.write("refs/heads/fine-missing", format!("{}\n", "1".repeat(40)));
    // Symbolic references that lead nowhere, or to a damaged one.
    for (name, target) in [
        ("dangling", "refs/heads/nowhere"),
        ("broken", "refs/heads/a-empty"),
        ("circle", "refs/heads/s-circle"),
        ("bad", "refs/heads/no name"),
        ("nothing", ""),
    ] {
        place.write(&format!("refs/heads/s-{name}"), format!("ref: {target}\n"));
    }
    let daemon = place.start();
    for version in [0, 1, 2] {
        let (want, ours) = (place.git_s(version), place.listed(URL, version));
        assert_eq!(want.iter().filter(|line| line.starts_with("0000")).count(), 3 * 13, "{want:?}");
        assert_eq!(ours, want, "version {version}");
    }
    daemon.logged(&["repository=r.git", "warning=\"refs/heads/a-empty: damaged: an empty file\""]);
    let line = ["repository", "refs/tags/packed-text: damaged: neither an object id"];
    assert_eq!(times(&daemon, &line), 0, "the log takes 16 lines of a session");
}

/// What can be fetched by name is; what needs the damaged one is refused and says so, and nothing
/// is lost on either side.
#[test]
fn a_want_of_a_damaged_reference_is_refused_by_its_name_and_a_mirror_loses_nothing() {
    let place = place();
    let Place { site, repository, tip } = &place;
    site.git_in(repository, ["branch", "other", "main~1"]);
    let daemon = place.start();
    let mirror = site.clone_path("mirror.git");
    let mirrored = |site: &Site| site.git_in(&mirror, ["for-each-ref"]);
    site.git(["clone", "-q", "--mirror", URL, &mirror.to_string_lossy()]).good();
    let before = mirrored(site);
    place.write("refs/heads/main", "");
    for version in ["0", "2"] {
        let version = format!("protocol.version={version}");
        let said = "refs/heads/main is damaged on the server";
        let fetch = |arguments: &[&str]| {
            let first =
                ["-C", &*mirror.to_string_lossy(), "-c", &version, "fetch", "-q", URL].map(str::to_owned);
            site.git(first.into_iter().chain(arguments.iter().map(|word| (*word).to_owned())))
        };
        fetch(&["--prune", "+refs/*:refs/*"]).bad(said);
        fetch(&["+refs/heads/*:refs/heads/*"]).bad(said);
        fetch(&["refs/heads/main"]).bad(said);
        fetch(&["refs/heads/other"]).good();
        fetch(&["--prune", "+refs/tags/*:refs/tags/*"]).good();
        assert_eq!(mirrored(site), before);
        let clone = site.clone_path("refused").to_string_lossy().into_owned();
        for more in ["--bare", "--mirror", "--branch=main"] {
            site.git(["-c", &version, "clone", "-q", more, URL, &clone]).bad(said);
        }
    }
    // Nor do pushes take it for absent: they are refused, and the others go on.
    let work = site.work_tree(&mirror);
    site.commit(&work, "new", "new");
    for refused in ["HEAD:main", ":main", "+HEAD:main"] {
        site.push(&work, &[URL, refused]).bad("is damaged on the server");
    }
    site.push(&work, &["-q", URL, "HEAD:refs/heads/pushed"]).good();
    assert_eq!(fs::read(repository.join("refs/heads/main")).expect("reads"), b"");
    // Once mended, all is well.
    place.write("refs/heads/main", format!("{tip}\n"));
    site.git(["clone", "-q", URL, &*site.clone_path("mended").to_string_lossy()]).good();
    assert!(times(&daemon, &["refs/heads/main: damaged: an empty file"]) > 10);
}

/// Alone in its repository, and under HEAD: no "empty repository".
#[test]
fn a_clone_of_a_damaged_only_branch_is_no_empty_repository() {
    let place = place();
    let (site, repository) = (&place.site, &place.repository);
    let _ = fs::remove_file(repository.join("packed-refs"));
    for name in ["refs/tags", "refs/heads"] {
        fs::remove_dir_all(repository.join(name)).expect("removes");
    }
    place.write("refs/heads/main", vec![0; 41]);
    let _daemon = place.start();
    for version in ["0", "2"] {
        let version = format!("protocol.version={version}");
        for from in [URL.to_owned(), format!("file://{}", repository.display())] {
            let clone = site.clone_path("one").to_string_lossy().into_owned();
            let done = site.git(["-c", &version, "clone", "-q", &from, &clone]);
            assert!(done.status != 0 && !done.err.contains("empty repository"), "{from}");
        }
    }
    // HEAD itself.
    place.write("refs/heads/main", format!("{}\n", place.tip));
    place.write("HEAD", "");
    let clone = site.clone_path("two").to_string_lossy().into_owned();
    site.git(["clone", "-q", URL, &clone]).bad("HEAD is damaged on the server");
    site.git(["clone", "-q", "--mirror", URL, &clone]).bad("HEAD is damaged on the server");
}

/// Files that are no references are left out, and said so once for each session.
#[test]
fn files_of_no_reference_s_name_are_left_out_with_a_line() {
    let place = place();
    let id = format!("{}\n", place.tip);
    let before = place.listed(&place.repository.to_string_lossy(), 2);
    for name in ["main (conflicted copy)", "main.lock", ".DS_Store", "dir.lock/x", "a~1", "x..y"] {
        place.write(&format!("refs/heads/{name}"), &id);
    }
    let packed = place.repository.join("packed-refs");
    let mut lines = fs::read_to_string(&packed).expect("reads").replace(" sorted", "");
    lines.push_str(&format!("{} refs/heads/packed copy\n", place.tip));
    fs::write(&packed, lines).expect("writes");
    nix::unistd::mkfifo(&place.repository.join("refs/heads/fifo"), nix::sys::stat::Mode::S_IRWXU)
        .expect("makes a FIFO");
    let daemon = place.start();
    assert_eq!(place.listed(URL, 2), before);
    for name in
        ["main (conflicted copy)", "main.lock", ".DS_Store", "dir.lock/x", "a~1", "x..y", "packed copy"]
    {
        let said = format!("refs/heads/{name}: left out");
        daemon.logged(&["repository=r.git", &said]);
        assert_eq!(times(&daemon, &[&said]), 1, "{name}");
    }
    daemon.logged(&["refs/heads/fifo: left out: not a regular file"]);
}

/// What gotd's account may not read is damaged for its clients; a directory has names in it that
/// nobody knows, so that there is no list.
#[test]
fn unreadable_files_are_damaged_and_unreadable_directories_refuse_the_list() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let place = place();
    place.write("refs/heads/secret", format!("{}\n", place.tip));
    place.write("refs/heads/team/x", format!("{}\n", place.tip));
    let daemon = place.start();
    let mode = |name: &str, bits: u32| {
        fs::set_permissions(place.repository.join(name), fs::Permissions::from_mode(bits)).expect("chmod");
    };
    mode("refs/heads/secret", 0o000);
    let zeros = format!("{}\trefs/heads/secret", "0".repeat(40));
    assert!(place.listed(URL, 2).contains(&zeros));
    daemon.logged(&["refs/heads/secret: damaged: cannot be read: Permission denied"]);
    mode("refs/heads/secret", 0o644);
    for (name, good) in [("refs/heads/team", 0o755), ("packed-refs", 0o644), ("refs", 0o755)] {
        mode(name, 0o000);
        place.site.git(["ls-remote", URL]).bad(name);
        mode(name, good);
        place.site.git(["ls-remote", URL]).good();
    }
}

/// A line that makes no sense cuts history off elsewhere than it is: C git refuses, too.
#[test]
fn a_damaged_shallow_file_is_refused() {
    let place = place();
    let (site, repository) = (&place.site, &place.repository);
    let _daemon = place.start();
    let file = repository.join("shallow");
    let whole = site.git_in(repository, ["rev-parse", "main~2"]).trim().to_owned();
    for (text, good) in [
        (format!("{whole}\n"), true),
        (whole.clone(), true),
        (String::new(), true),
        ("garbage\n".to_owned(), false),
        (format!("{whole}\n\n"), false),
        (format!("{whole}\n{}\n", &whole[..30]), false),
    ] {
        fs::write(&file, &text).expect("writes");
        for (version, from) in
            [("0", URL.to_owned()), ("2", URL.to_owned()), ("2", format!("file://{}", repository.display()))]
        {
            let clone = site.clone_path("shallow.git");
            let _ = fs::remove_dir_all(&clone);
            let version = format!("protocol.version={version}");
            let done = site.git(["-c", &version, "clone", "-q", "--bare", &from, &*clone.to_string_lossy()]);
            assert_eq!(done.status == 0, good, "{text:?} {version} {from}: {}", done.err);
            if !good && from == URL {
                done.bad("shallow: damaged: a line names no object");
            }
        }
    }
}

/// Makes a repository of three packs: of all history to `main~2`, of the next commit, and of the
/// newest. Their paths without `.pack`, in that order.
fn three_packs(place: &Place) -> Vec<PathBuf> {
    let (site, repository) = (&place.site, &place.repository);
    site.git_in(repository, ["repack", "-adq"]);
    let packs = || -> Vec<PathBuf> {
        let entries = fs::read_dir(repository.join("objects/pack")).expect("lists");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|e| e == "pack")).collect()
    };
    let mut all: Vec<PathBuf> = packs();
    for n in 0..2 {
        history::grow(site, repository, 1, 50 + n);
        site.git_in(repository, ["repack", "-dq"]);
        let new: Vec<_> = packs().into_iter().filter(|path| !all.contains(path)).collect();
        all.extend(new);
    }
    assert_eq!(all.len(), 3);
    all.iter().map(|path| path.with_extension("")).collect()
}

/// A pack whose name is not `pack-ID` is a pack, as for C git: other writers have other names.
#[test]
fn packs_of_any_name_are_used() {
    let place = place();
    let packs = three_packs(&place);
    let renamed: [&[u8]; 3] = [b"all", b"tmp_\xff.x y", b".hidden"];
    for (from, to) in packs.iter().zip(renamed) {
        for extension in ["pack", "idx"] {
            let name = [to, b".", extension.as_bytes()].concat();
            let to = from.with_file_name(std::ffi::OsStr::from_bytes(&name));
            fs::rename(from.with_extension(extension), to).expect("renames");
        }
        let _ = fs::remove_file(from.with_extension("rev"));
    }
    place.site.git_in(&place.repository, ["fsck"]);
    let daemon = place.start();
    let clone = place.site.clone_path("all.git");
    place.site.git(["clone", "-q", "--mirror", URL, &clone.to_string_lossy()]).good();
    regress::compare::assert_mirror(&place.site, &place.repository, &clone);
    daemon.logged(&["repository=r.git", "result=ok"]);
    assert_eq!(times(&daemon, &["warning="]), 0, "{}", daemon.log());
}

/// What lies in another pack is served; what lies there alone is refused, with the pack's name; and
/// so is a push that is built upon it.
#[test]
fn an_unreadable_pack_fails_only_what_needs_it_and_is_named() {
    unreadable_pack(&place());
}

/// Where nobody else can change anything, files are asked about by opening them.
#[test]
fn an_unreadable_pack_in_a_trusted_directory_fails_only_what_needs_it() {
    if let Some(site) = Site::trusted(env!("CARGO_TARGET_TMPDIR")) {
        unreadable_pack(&place_in(site));
    }
}

fn unreadable_pack(place: &Place) {
    if !is_root() {
        regress::skipped("files that the daemon may not read: needs root");
    }
    let packs = three_packs(place);
    let (site, repository) = (&place.site, &place.repository);
    site.git_in(repository, ["branch", "-f", "side", "main~2"]);
    let work = site.work_tree(repository);
    let middle = &packs[1];
    let stem = middle.file_name().expect("a name").to_string_lossy().into_owned();
    let daemon = place.start();
    let [pack, idx] = ["pack", "idx"].map(|extension| middle.with_extension(extension));
    let whole = [&pack, &idx].map(|path| fs::read(path).expect("reads"));
    let aside = |path: &PathBuf| fs::rename(path, path.with_extension("aside")).expect("renames");
    let put_back = || {
        for (path, bytes) in [&pack, &idx].into_iter().zip(&whole) {
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir(path);
            let _ = fs::remove_file(path.with_extension("aside"));
            fs::write(path, bytes).expect("writes");
        }
        site.hand_over();
    };
    let cut = |path: &PathBuf| {
        let bytes = fs::read(path).expect("reads");
        let _ = fs::remove_file(path);
        fs::write(path, &bytes[..bytes.len() / 2]).expect("writes");
        site.hand_over();
    };
    let lock = |path: &PathBuf| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o000)).expect("chmod");
    };
    let damages: [(&str, &dyn Fn(), String); 8] = [
        ("cut pack", &|| cut(&pack), format!("{stem}.pack: index of another pack")),
        ("cut index", &|| cut(&idx), format!("{stem}.idx: ")),
        ("no index", &|| aside(&idx), format!("{stem}.pack: without an index")),
        ("no pack", &|| aside(&pack), format!("{stem}.idx: without its pack")),
        ("empty pack", &|| fs::write(&pack, "").expect("writes"), format!("{stem}.pack: ")),
        (
            "a directory",
            &|| {
                aside(&pack);
                fs::create_dir(&pack).expect("makes");
            },
            "not a regular file".into(),
        ),
        ("locked pack", &|| lock(&pack), format!("{stem}.pack: cannot open: Permission denied")),
        ("locked index", &|| lock(&idx), format!("{stem}.idx: cannot open: Permission denied")),
    ];
    for (n, (what, damage, said)) in damages.iter().enumerate() {
        if what.starts_with("locked") && !is_root() {
            continue;
        }
        put_back();
        damage();
        for version in ["protocol.version=0", "protocol.version=2"] {
            let clone = site.clone_path("pieces.git").to_string_lossy().into_owned();
            let _ = fs::remove_dir_all(&clone);
            let words = ["-c", version, "clone", "-q", "--bare"];
            site.git(words.iter().chain(&["--no-tags", "--single-branch", "--branch=side", URL, &clone]))
                .good();
            let done = site.git(words.iter().chain(&[URL, "refused.git"]));
            assert!(done.status != 0 && done.err.contains(said), "{what} {version}: {}", done.err);
        }
        // The client has it all, and sends only what is new.
        site.git_in(&work, ["checkout", "-q", "--detach", "origin/main~1"]);
        site.commit(&work, &format!("f{n}"), "x");
        let branch = format!("HEAD:refs/heads/new-{n}");
        let done = site.push(&work, &["-q", URL, &branch]);
        assert!(done.status != 0 && done.err.contains(said), "{what}: push: {}", done.err);
    }
    put_back();
    site.git(["clone", "-q", "--bare", URL, "whole.git"]).good();
    daemon.logged(&["result=failed", "missing", &format!("{stem}.pack: without an index")]);
}

/// A directory of loose objects that cannot be read is named, too.
#[test]
fn an_unreadable_directory_of_objects_is_named() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let place = place();
    let (site, repository) = (&place.site, &place.repository);
    let tree = site.git_in(repository, ["rev-parse", "main^{tree}"]).trim().to_owned();
    site.git_in(repository, ["repack", "-adq"]);
    for path in fs::read_dir(repository.join("objects/pack")).expect("lists") {
        let path = path.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "pack") {
            let aside = site.path("aside.pack");
            fs::rename(&path, &aside).expect("renames");
            fs::remove_file(path.with_extension("idx")).expect("removes");
            let mut command = site.command("git");
            command.arg("-C").arg(repository).args(["unpack-objects", "-q"]);
            run(&mut command, &fs::read(&aside).expect("reads"), 60).good();
        }
    }
    let _daemon = place.start();
    site.git(["clone", "-q", "--bare", URL, "one.git"]).good();
    let name = format!("objects/{}", &tree[..2]);
    let dir = repository.join(&name);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o000)).expect("chmod");
    site.git(["clone", "-q", "--bare", URL, "two.git"]).bad(&name);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
    let pack = repository.join("objects/pack");
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o000)).expect("chmod");
    site.git(["clone", "-q", "--bare", URL, "three.git"]).bad("objects/pack");
}

/// Of a directory that is no repository a client is told that there is none, and the administrator
/// the reason.
#[test]
fn why_a_directory_is_no_repository_stands_in_the_log_alone() {
    let place = place();
    let (site, repository) = (&place.site, &place.repository);
    let linked = site.repository("linked");
    site.git_in(repository, ["worktree", "add", "-q", "-b", "l", &linked.to_string_lossy(), "main"]);
    let copy = |name: &str| {
        let path = site.repository(name);
        run(site.command("cp").arg("-a").arg(repository).arg(&path), b"", 60).good();
        path
    };
    fs::remove_file(copy("headless.git").join("HEAD")).expect("removes");
    fs::remove_dir_all(copy("refless.git").join("refs")).expect("removes");
    let links = copy("links.git");
    fs::rename(links.join("objects"), links.join("elsewhere")).expect("renames");
    std::os::unix::fs::symlink("elsewhere", links.join("objects")).expect("links");
    fs::create_dir(site.repository("empty")).expect("makes");
    let daemon = place.start();
    for (name, why) in [
        ("linked", "linked: no repository: .git is a file: a linked worktree"),
        ("headless", "headless.git: no repository: no HEAD"),
        ("refless.git", "refless.git: no repository: no refs"),
        ("links.git", "links.git: no repository: objects is a symbolic link, which is not followed"),
        ("empty", "empty: no repository: no HEAD, no objects, no refs"),
        ("nothing", "no git repository found"),
    ] {
        let done = site.git(["ls-remote", &format!("gotd:{name}")]).bad("no git repository found");
        assert!(!done.err.contains("no repository:"), "{name}: {}", done.err);
        daemon.logged(&["result=refused", &format!("repository={name}"), why]);
    }
}

/// Other clients take such a list: they fetch what is sound, and none says that a branch is gone.
#[test]
fn dulwich_and_libgit2_take_a_list_with_a_damaged_reference() {
    let place = place();
    place.write("refs/heads/broken", "");
    let address = tcp::free_v4();
    let _daemon = place.site.start_with(&place.site.serve_strangers(address, "", ""));
    let url = format!("git://127.0.0.1:{}/r.git", address.port());
    let mut client = Client::open(address);
    client.write(&tcp::request("/r.git", 2));
    client.read_to_flush();
    client.write(&pkt::v2("fetch", [format!("want {}\n", "0".repeat(40)), "done\n".into()]));
    let answer = client.end(20.0).text();
    assert!(answer.contains("refs/heads/broken is damaged on the server"), "{answer}");
    let dulwich = "\
import sys
from dulwich import client, repo
c, name = client.get_transport_and_path(sys.argv[1])
r = repo.Repo.init_bare(sys.argv[2], mkdir=True)
result = c.fetch(name, r, determine_wants=lambda refs, depth=None: [refs[b'refs/heads/main']])
assert b'refs/heads/broken' in result.refs
print(result.refs[b'refs/heads/main'].decode())
";
    let libgit2 = "\
import sys, pygit2
r = pygit2.init_repository(sys.argv[2], bare=True)
remote = r.remotes.create('there', sys.argv[1])
remote.fetch(['refs/heads/main:refs/heads/main'])
print(r.references['refs/heads/main'].target)
";
    for (module, script) in [("dulwich", dulwich), ("pygit2", libgit2)] {
        let Some(python) = python(module) else { continue };
        let mut command = place.site.command(python);
        command.args(["-c", script, &url]).arg(place.site.clone_path(module));
        assert_eq!(run(&mut command, b"", 60).good().text().trim(), place.tip, "{module}");
    }
}
