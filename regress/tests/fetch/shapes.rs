//! Repositories in every shape that a store can have are served whole, and left as they were.

use std::fs;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use regress::compare::{assert_mirror, assert_whole, listing};
use regress::history;
use regress::raw::Session;
use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Site, pkt};

/// Mirrors `name` in versions 0 and 2, and compares; the repository must stay what it was.
fn assert_served(site: &Site, name: &str, original: &Path) {
    site.hand_over();
    let before = listing(original);
    for version in ["0", "2"] {
        let mirror = site.clone_path(&format!("{}-{version}", name.replace('/', "_")));
        let option = format!("protocol.version={version}");
        let url = format!("gotd:{name}");
        site.git(["-c", &option, "clone", "-q", "--mirror", &url, &mirror.to_string_lossy()]).good();
        assert_mirror(site, original, &mirror);
    }
    assert_eq!(before, listing(original), "{name}: changed by a fetch");
}

#[test]
fn packed_loose_several_packs_and_a_multi_pack_index() {
    let site = Site::new();
    let packed = history::repository(&site, "packed.git", 30, "sha1");
    site.git_in(&packed, ["pack-refs", "--all"]);

    let loose = history::repository(&site, "loose.git", 12, "sha1");
    let pack = fs::read_dir(loose.join("objects/pack")).expect("lists").flatten();
    let pack = pack.map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "pack")).expect("a pack");
    let bytes = fs::read(&pack).expect("reads");
    for end in ["pack", "idx", "rev"] {
        let _ = fs::remove_file(pack.with_extension(end));
    }
    regress::run(site.command("git").arg("-C").arg(&loose).args(["unpack-objects", "-q"]), &bytes, 60).good();

    let several = history::repository(&site, "several.git", 20, "sha1");
    for n in 0..4 {
        history::grow(&site, &several, 2, 100 + n * 10);
    }
    let midx = site.repository("midx.git");
    site.git(["clone", "-q", "--mirror", "--no-local", &several.to_string_lossy(), &midx.to_string_lossy()])
        .good();
    for n in 0..3 {
        history::grow(&site, &midx, 2, 200 + n * 10);
    }
    site.git_in(&midx, ["multi-pack-index", "write"]);
    // An index for several packs that is all there is.
    assert!(midx.join("objects/pack/multi-pack-index").exists());
    let _daemon = site.start();
    for (name, path) in [("packed", &packed), ("loose", &loose), ("several", &several), ("midx", &midx)] {
        assert_served(&site, &format!("{name}.git"), path);
    }
}

#[test]
fn with_bitmaps_a_commit_graph_and_reverse_indexes_and_with_broken_ones() {
    let site = Site::new();
    let good = history::repository(&site, "good.git", 60, "sha1");
    site.git_in(&good, ["repack", "-adqb"]);
    site.git_in(&good, ["commit-graph", "write", "--reachable"]);
    let bad = site.repository("bad.git");
    site.git(["clone", "-q", "--mirror", "--no-local", &good.to_string_lossy(), &bad.to_string_lossy()])
        .good();
    site.git_in(&bad, ["repack", "-adqb"]);
    site.git_in(&bad, ["commit-graph", "write", "--reachable"]);
    // Auxiliary files are ignored when they are bad: here they are cut off in the middle.
    let files = fs::read_dir(bad.join("objects/pack")).expect("lists").flatten().map(|e| e.path());
    let files = files.filter(|p| p.extension().is_some_and(|e| e == "bitmap" || e == "rev"));
    let mut cut = 0;
    for file in files.chain([bad.join("objects/info/commit-graph")]) {
        let bytes = fs::read(&file).expect("reads");
        fs::remove_file(&file).expect("removes");
        fs::write(&file, &bytes[..bytes.len() / 2]).expect("writes");
        cut += 1;
    }
    assert!(cut >= 2, "there must be something to break");
    site.hand_over();
    let daemon = site.start();
    assert_served(&site, "good.git", &good);
    let before = listing(&bad);
    let mirror = site.clone_path("bad");
    site.git(["clone", "-q", "--mirror", "gotd:bad.git", &mirror.to_string_lossy()]).good();
    assert_eq!(before, listing(&bad));
    // C git's fsck says something about the broken files, so compare with the good one.
    assert_mirror(&site, &good, &mirror);
    drop(daemon);
}

/// What one session found right the next one believes, but not of a file that has changed since:
/// not even in place.
#[test]
fn a_bitmap_and_an_order_that_are_damaged_between_two_sessions() {
    let site = Site::new();
    let original = history::repository(&site, "good.git", 120, "sha1");
    site.git_in(&original, ["-c", "pack.writeReverseIndex=true", "repack", "-adqb"]);
    site.hand_over();
    let daemon = site.start();
    // A file that has changed just now is always checked.
    std::thread::sleep(std::time::Duration::from_millis(3200));
    let whole = |name: &str| {
        let mirror = site.clone_path(name);
        site.git(["clone", "-q", "--mirror", "gotd:good.git", &mirror.to_string_lossy()]).good();
        assert_mirror(&site, &original, &mirror);
    };
    whole("first");
    whole("second");
    let files = fs::read_dir(original.join("objects/pack")).expect("lists").flatten().map(|e| e.path());
    let mut damaged = 0;
    for file in files {
        let mut bytes = fs::read(&file).expect("reads");
        let length = bytes.len();
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("bitmap") => bytes[length / 2..length / 2 + 8].fill(0x5a),
            Some("rev") => bytes.copy_within(16..20, 12),
            _ => continue,
        }
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).expect("permits");
        fs::write(&file, bytes).expect("writes in place");
        damaged += 1;
    }
    assert_eq!(damaged, 2);
    // C git itself would believe them.
    let mirror = site.clone_path("third");
    site.git(["clone", "-q", "--mirror", "gotd:good.git", &mirror.to_string_lossy()]).good();
    assert_mirror(&site, &site.clone_path("second"), &mirror);
    daemon.logged(&["bitmap", "ignored", "checksum mismatch"]);
    daemon.logged(&["rev", "ignored", "not the order of its pack"]);
}

#[test]
fn sha256() {
    let site = Site::new();
    let original = history::repository(&site, "new.git", 25, "sha256");
    let _daemon = site.start();
    assert_served(&site, "new.git", &original);
    let shallow = site.clone_path("shallow");
    site.git(["clone", "-q", "--depth=2", "gotd:new.git", &shallow.to_string_lossy()]).good();
    assert_whole(&site, &shallow);
    site.git_in(&shallow, ["fetch", "-q", "--unshallow"]);
    assert_whole(&site, &shallow);
}

#[test]
fn an_empty_repository() {
    let site = Site::new();
    let original = site.repository("empty.git");
    history::init(&site, &original, "--quiet");
    site.git_in(&original, ["symbolic-ref", "HEAD", "refs/heads/unborn-branch"]);
    let _daemon = site.start();
    let before = listing(&original);
    for version in ["0", "1", "2"] {
        let option = format!("protocol.version={version}");
        let clone = site.clone_path(version);
        site.git(["-c", &option, "clone", "-q", "gotd:empty.git", &clone.to_string_lossy()]).good();
        assert_eq!(site.git(["-c", &option, "ls-remote", "gotd:empty.git"]).good().text(), "");
        if version == "2" {
            let head = site.git_in(&clone, ["symbolic-ref", "HEAD"]);
            assert_eq!(head, "refs/heads/unborn-branch\n", "the unborn branch's name is told");
        }
    }
    assert_eq!(before, listing(&original));
}

#[test]
fn a_detached_head() {
    let site = Site::new();
    let original = history::repository(&site, "detached.git", 10, "sha1");
    site.git_in(&original, ["update-ref", "--no-deref", "HEAD", "main~2"]);
    let _daemon = site.start();
    assert_served(&site, "detached.git", &original);
    let clone = site.clone_path("clone");
    site.git(["clone", "-q", "gotd:detached.git", &clone.to_string_lossy()]).good();
    let head = |dir: &Path| site.git_in(dir, ["rev-parse", "HEAD"]);
    assert_eq!(head(&original), head(&clone));
    assert_ne!(site.git(["-C", &clone.to_string_lossy(), "symbolic-ref", "-q", "HEAD"]).status, 0);
}

#[test]
fn the_git_directory_of_a_worktree() {
    let site = Site::new();
    let bare = history::repository(&site, "bare.git", 10, "sha1");
    let tree = site.repository("tree");
    site.git(["clone", "-q", &bare.to_string_lossy(), &tree.to_string_lossy()]).good();
    let _daemon = site.start();
    site.hand_over();
    assert_served(&site, "tree", &tree.join(".git"));
    // As in a path that git is given; what lies in there is nobody's to ask for.
    site.git(["ls-remote", "gotd:tree/.git"]).good();
    site.git(["ls-remote", "gotd:tree/.git/refs"]).bad("no git repository found");
}

#[test]
fn alternates_within_the_roots() {
    let site = Site::new();
    let base = history::repository(&site, "base.git", 15, "sha1");
    let fork = site.repository("fork.git");
    site.git(["clone", "-q", "--bare", "--shared", &base.to_string_lossy(), &fork.to_string_lossy()]).good();
    history::grow(&site, &fork, 3, 500);
    assert!(fork.join("objects/info/alternates").exists());
    let _daemon = site.start();
    assert_served(&site, "fork.git", &fork);
}

#[test]
fn many_references() {
    let site = Site::new();
    let original = history::repository(&site, "many.git", 10, "sha1");
    let tip = site.git_in(&original, ["rev-parse", "main"]);
    let mut input = String::new();
    for n in 0..3000 {
        input.push_str(&format!("create refs/heads/topic/{n:04} {tip}"));
    }
    let mut command = site.command("git");
    regress::run(command.arg("-C").arg(&original).args(["update-ref", "--stdin"]), input.as_bytes(), 60)
        .good();
    site.git_in(&original, ["pack-refs", "--all"]);
    let _daemon = site.start();
    assert_served(&site, "many.git", &original);
}

#[test]
fn a_whole_pack_comes_as_it_lies_over_a_pipe_of_any_size_and_over_tcp() {
    let (site, address) = (Site::new(), tcp::free_v4());
    let original = history::bulky(&site, "bulky.git", 3);
    site.git_in(&original, ["repack", "-adq"]);
    site.hand_over();
    let packs =
        fs::read_dir(original.join("objects/pack")).expect("lists").flatten().map(|entry| entry.path());
    let packs: Vec<_> = packs.filter(|path| path.extension().is_some_and(|e| e == "pack")).collect();
    let [path] = &packs[..] else { panic!("one pack: {packs:?}") };
    let pack = fs::read(path).expect("reads");
    let tip = history::tip(&site, &original);
    let want = pkt::v2("fetch", [format!("want {tip}\n"), "ofs-delta\n".into(), "done\n".into()]);
    let configuration = format!(
        "{}{}repository \"bulky.git\" {{\n\tpath \"{}\"\n\tpermit rw {}\n\tpermit ro anonymous\n}}\n",
        site.head(),
        tcp::listen_line(address),
        original.display(),
        present_user(),
    );
    let _daemon = site.start_with(&configuration);

    // What is too small for a packet is made larger, what is larger than needed stays.
    for (before, after) in [(4096, 256 << 10), (64 << 10, 256 << 10), (1 << 20, 1 << 20)] {
        let mut session = Session::fetch(&site.socket(), "bulky.git", 2);
        assert_eq!(fcntl(&session.from, FcntlArg::F_SETPIPE_SZ(before)), Ok(before));
        session.read_to_flush();
        assert!(session.write(&want));
        session.close();
        let answer = session.read_to_end(20);
        assert!(pkt::pack_of(&answer) == pack, "{before}: {} bytes", answer.len());
        assert_eq!(fcntl(&session.from, FcntlArg::F_GETPIPE_SZ), Ok(after));
    }
    let mut client = Client::open(address);
    assert!(client.write(&tcp::request("/bulky.git", 2)));
    client.read_to_flush();
    assert!(client.write(&want) && client.write(pkt::FLUSH));
    let tcp::End::Closed(answer) = client.end(20.0) else { panic!("not closed") };
    assert!(pkt::pack_of(&answer) == pack, "{} bytes", answer.len());
}
