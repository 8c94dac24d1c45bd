//! Repositories whose owners mean harm: nothing in them runs, and nothing outside of them is read.
//! (CVE-2022-39253, CVE-2024-32004, CVE-2024-32465.)

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use regress::compare::{assert_mirror, listing, objects};
use regress::{Site, history};

/// A repository outside of what gotd serves, with a commit that is nowhere else, and the id of that
/// commit.
fn secret(site: &Site) -> (PathBuf, String) {
    let path = history::repository(site, "../secret.git", 7, "sha1");
    history::grow(site, &path, 1, 9_000);
    let tip = history::tip(site, &path);
    // Everybody may read it: only gotd's own rules keep it from being served.
    (path, tip)
}

/// Whatever a client does, it does not get this object.
#[track_caller]
fn assert_secret(site: &Site, name: &str, id: &str) {
    let clone = site.clone_path(&format!("thief-{}", name.replace('/', "_")));
    let url = format!("gotd:{name}");
    let _ = site.git(["clone", "-q", "--mirror", &url, &clone.to_string_lossy()]);
    if clone.exists() {
        assert!(!has(site, &clone, id), "{name}: an object from outside was served");
        let _ = fs::remove_dir_all(&clone);
    }
    site.git(["init", "-q", "--bare", &clone.to_string_lossy()]).good();
    for version in ["0", "2"] {
        let option = format!("protocol.version={version}");
        let done = site.git(["-C", &clone.to_string_lossy(), "-c", &option, "fetch", "-q", &url, id]);
        assert_ne!(done.status, 0, "{name}: fetched an object from outside in version {version}");
    }
    assert!(!has(site, &clone, id));
}

fn has(site: &Site, repository: &Path, id: &str) -> bool {
    site.git(["-C", &repository.to_string_lossy(), "cat-file", "-e", id]).status == 0
}

#[test]
fn nothing_runs() {
    let site = Site::new();
    let original = history::repository(&site, "evil.git", 12, "sha1");
    let pristine = objects(&site, &original);
    let marker = site.path("marker");
    let evil = site.script("evil", &format!("#!/bin/sh\n: >>{}\ncat\nexit 0\n", marker.display()));
    fs::set_permissions(site.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o777))
        .expect("changes a mode");
    let evil = evil.display();
    for hook in [
        "pre-receive",
        "update",
        "post-receive",
        "post-update",
        "reference-transaction",
        "proc-receive",
        "post-checkout",
        "fsmonitor-watchman",
        "pre-upload",
        "post-upload",
    ] {
        fs::copy(site.path("evil"), original.join("hooks").join(hook)).expect("copies");
    }
    let included = original.join("included");
    fs::write(&included, format!("[uploadpack]\n\tpackObjectsHook = {evil}\n")).expect("writes");
    let mut config = fs::read_to_string(original.join("config")).expect("reads");
    config.push_str(&format!(
        "[include]\n\tpath = included\n\tpath = /etc/passwd\n[includeIf \"gitdir:/\"]\n\tpath = included\n\
         [core]\n\tfsmonitor = {evil}\n\thooksPath = {dir}\n\tsshCommand = {evil}\n\tpager = {evil}\n\teditor = {evil}\n\
         \talternateRefsCommand = {evil}\n\tgitProxy = {evil}\n\taskPass = {evil}\n\tattributesFile = /etc/passwd\n\
         [uploadpack]\n\tpackObjectsHook = {evil}\n\tallowAnySHA1InWant = true\n\
         [remote \"origin\"]\n\turl = ext::{evil}\n\tpromisor = true\n\tuploadpack = {evil}\n\
         [filter \"x\"]\n\tclean = {evil}\n\tsmudge = {evil}\n[diff \"x\"]\n\ttextconv = {evil}\n\
         [gc]\n\trecentObjectsHook = {evil}\n[credential]\n\thelper = {evil}\n[alias]\n\tupload-pack = !{evil}\n",
        dir = site.path("").display()
    ));
    fs::write(original.join("config"), config).expect("writes");
    let mut daemon = site.start();
    let before = listing(&original);
    for version in ["0", "2"] {
        let clone = site.clone_path(version);
        let option = format!("protocol.version={version}");
        site.git(["-c", &option, "clone", "-q", "--mirror", "gotd:evil.git", &clone.to_string_lossy()])
            .good();
        assert_eq!(pristine, objects(&site, &clone));
    }
    assert!(!marker.exists(), "something ran");
    assert_eq!(before, listing(&original));
    daemon.assert_serves();
}

/// `extensions.*` change what a repository means: unknown ones are refused, and so is what is not
/// files.
#[test]
fn unknown_extensions_are_refused() {
    let site = Site::new();
    for (name, key, value) in [
        ("unknown", "extensions.noSuchThing", "true"),
        ("reftable", "extensions.refStorage", "reftable"),
        ("format", "extensions.objectFormat", "sha512"),
    ] {
        let path = history::repository(&site, &format!("{name}.git"), 3, "sha1");
        fs::write(
            path.join("config"),
            format!(
                "[core]\n\trepositoryformatversion = 1\n\tbare = true\n[extensions]\n\t{} = {value}\n",
                key.split_once('.').expect("a section").1
            ),
        )
        .expect("writes");
    }
    let version = history::repository(&site, "version.git", 3, "sha1");
    fs::write(version.join("config"), "[core]\n\trepositoryformatversion = 99\n").expect("writes");
    let broken = history::repository(&site, "broken.git", 3, "sha1");
    fs::write(broken.join("config"), "[core\n\0\0garbage").expect("writes");
    let mut daemon = site.start();
    for name in ["unknown", "reftable", "format", "version", "broken"] {
        let done = site.git(["ls-remote", &format!("gotd:{name}.git")]);
        assert_ne!(done.status, 0, "{name}: {}", done.text());
        assert!(done.err.contains("remote error: "), "{name}: {}", done.err);
    }
    daemon.assert_serves();
}

#[test]
fn alternates_out_of_the_roots_are_not_followed() {
    let site = Site::new();
    let (outside, id) = secret(&site);
    let lines = [
        ("absolute", format!("{}/objects\n", outside.display())),
        ("relative", "../../../secret.git/objects\n".to_owned()),
        ("dotted", format!("{}/../secret.git/objects\n", site.path("repositories").display())),
        ("quoted", format!("\"{}/objects\"\n", outside.display())),
        ("root", "/\n/etc\n/proc/self/cwd\n".to_owned()),
        ("many", format!("{}/objects\n", outside.display()).repeat(5000)),
        ("link", format!("{}/objects\n", site.repository("stepping-stone").display())),
    ];
    symlink(&outside, site.repository("stepping-stone")).expect("links");
    for (name, text) in &lines {
        let path = history::repository(&site, &format!("{name}.git"), 3, "sha1");
        fs::write(path.join("objects/info/alternates"), text).expect("writes");
        fs::write(path.join("objects/info/http-alternates"), text).expect("writes");
        // A reference that only the alternate could satisfy.
        fs::write(path.join("refs/heads/stolen"), format!("{id}\n")).expect("writes");
    }
    let mut daemon = site.start();
    for (name, _) in &lines {
        assert_secret(&site, &format!("{name}.git"), &id);
    }
    daemon.logged(&["repository", "warning=", "alternate"]);
    daemon.assert_serves();
}

/// Two repositories that are each other's alternates, and a chain of many.
#[test]
fn circles_and_chains_of_alternates_end() {
    let site = Site::new();
    let a = history::repository(&site, "a.git", 3, "sha1");
    let b = history::repository(&site, "b.git", 4, "sha1");
    fs::write(a.join("objects/info/alternates"), format!("{}/objects\n", b.display())).expect("writes");
    fs::write(b.join("objects/info/alternates"), format!("{}/objects\n", a.display())).expect("writes");
    let own = history::repository(&site, "own.git", 3, "sha1");
    fs::write(own.join("objects/info/alternates"), format!("{}/objects\n", own.display())).expect("writes");
    let mut before = a.clone();
    for n in 0..30 {
        let path = site.repository(&format!("chain{n}.git"));
        history::init(&site, &path, "--quiet");
        fs::write(path.join("objects/info/alternates"), format!("{}/objects\n", before.display()))
            .expect("writes");
        before = path;
    }
    let mut daemon = site.start();
    for name in ["a.git", "b.git", "own.git"] {
        site.git([
            "clone",
            "-q",
            "--mirror",
            &format!("gotd:{name}"),
            &site.clone_path(name).to_string_lossy(),
        ])
        .good();
    }
    site.git(["ls-remote", "gotd:chain29.git"]);
    daemon.assert_serves();
}

#[test]
fn symbolic_links_among_the_objects_are_not_followed() {
    let site = Site::new();
    let (outside, id) = secret(&site);
    let loose = site.path("loose.git");
    history::init(&site, &loose, "--quiet");
    let pack = fs::read_dir(outside.join("objects/pack")).expect("lists").flatten().map(|e| e.path());
    for pack in pack.filter(|p| p.extension().is_some_and(|e| e == "pack")) {
        let bytes = fs::read(&pack).expect("reads");
        regress::run(site.command("git").arg("-C").arg(&loose).args(["unpack-objects", "-q"]), &bytes, 60)
            .good();
    }
    let fresh = |name: &str| {
        let path = history::repository(&site, name, 3, "sha1");
        fs::write(path.join("refs/heads/stolen"), format!("{id}\n")).expect("writes");
        path
    };
    // The whole directory of packs, single packs, a fan-out directory, a single object, the
    // multi-pack index.
    let packs = fresh("packs.git");
    fs::remove_dir_all(packs.join("objects/pack")).expect("removes");
    symlink(outside.join("objects/pack"), packs.join("objects/pack")).expect("links");
    let single = fresh("single.git");
    for entry in fs::read_dir(outside.join("objects/pack")).expect("lists").flatten() {
        symlink(entry.path(), single.join("objects/pack").join(entry.file_name())).expect("links");
    }
    let fan = fresh("fan.git");
    for entry in fs::read_dir(loose.join("objects")).expect("lists").flatten() {
        if entry.file_name().len() == 2 && !fan.join("objects").join(entry.file_name()).exists() {
            symlink(entry.path(), fan.join("objects").join(entry.file_name())).expect("links");
        }
    }
    let object = fresh("object.git");
    let (directory, file) = id.split_at(2);
    let _ = fs::create_dir(object.join("objects").join(directory));
    symlink(
        loose.join("objects").join(directory).join(file),
        object.join("objects").join(directory).join(file),
    )
    .expect("links");
    let all = fresh("all.git");
    fs::remove_dir_all(all.join("objects")).expect("removes");
    symlink(outside.join("objects"), all.join("objects")).expect("links");
    let mut daemon = site.start();
    for name in ["packs.git", "single.git", "fan.git", "object.git", "all.git"] {
        assert_secret(&site, name, &id);
    }
    daemon.assert_serves();
}

/// Whether no line of a list of references that holds `name` has an id, but zeros.
fn no_id(list: &str, name: &str) -> bool {
    list.lines().filter(|line| line.contains(name)).all(|line| line.starts_with(&"0".repeat(40)))
}

#[test]
fn symbolic_links_among_the_references_are_not_followed() {
    let site = Site::new();
    let (outside, _) = secret(&site);
    let original = history::repository(&site, "evil.git", 6, "sha1");
    let tip = history::tip(&site, &original);
    site.git_in(&original, ["pack-refs", "--all"]);
    // A file outside that holds an id which this repository has: only following the link could list
    // it.
    fs::write(site.path("id"), format!("{tip}\n")).expect("writes");
    fs::create_dir(site.path("ids")).expect("makes a directory");
    fs::write(site.path("ids/inner"), format!("{tip}\n")).expect("writes");
    symlink(site.path("id"), original.join("refs/heads/link")).expect("links");
    symlink("/etc/passwd", original.join("refs/heads/passwd")).expect("links");
    symlink(site.path("ids"), original.join("refs/heads/dir")).expect("links");
    symlink(outside.join("refs"), original.join("refs/outside")).expect("links");
    symlink("/dev/zero", original.join("refs/heads/zero")).expect("links");
    symlink("loop", original.join("refs/heads/loop")).expect("links");
    nix::unistd::mkfifo(&original.join("refs/heads/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644))
        .expect("makes a FIFO");
    let packed = history::repository(&site, "packed.git", 6, "sha1");
    let tip = history::tip(&site, &packed);
    site.git_in(&packed, ["pack-refs", "--all"]);
    fs::write(site.path("packed"), format!("{tip} refs/heads/from-outside\n")).expect("writes");
    fs::remove_file(packed.join("packed-refs")).expect("removes");
    symlink(site.path("packed"), packed.join("packed-refs")).expect("links");
    let head = history::repository(&site, "head.git", 6, "sha1");
    fs::remove_file(head.join("HEAD")).expect("removes");
    symlink("/etc/passwd", head.join("HEAD")).expect("links");
    let mut daemon = site.start();
    let text = site.git(["ls-remote", "gotd:evil.git"]).good().text();
    assert!(text.contains("refs/heads/main\n"), "{text}");
    // A link counts as a damaged reference: its name is listed, without an id.
    for name in ["link", "passwd", "dir", "outside", "zero", "loop", "fifo"] {
        assert!(no_id(&text, name), "{name}: {text}");
    }
    let done = site.git(["ls-remote", "gotd:packed.git"]);
    assert!(!done.text().contains("from-outside"), "{}", done.text());
    let done = site.git(["ls-remote", "gotd:head.git"]);
    assert!(!done.text().contains("root:") && !done.err.contains("root:"), "{}{}", done.text(), done.err);
    daemon.assert_serves();
}

#[test]
fn names_of_references_that_none_may_have() {
    let site = Site::new();
    let original = history::repository(&site, "evil.git", 6, "sha1");
    let tip = history::tip(&site, &original);
    site.git_in(&original, ["pack-refs", "--all"]);
    let mut packed = fs::read(original.join("packed-refs")).expect("reads");
    for name in [
        &b"refs/heads/\x1b[31mred"[..],
        b"refs/heads/../../config",
        b"refs/heads/x..y",
        b"refs/heads/x.lock",
        b"refs/heads/@{0}",
        b"refs/heads/a b",
        b"refs/heads/.x",
        b"../outside",
        b"HEAD",
        b"refs/heads/zz\xff\xfe",
    ] {
        packed.extend_from_slice(&[tip.as_bytes(), b" ", name, b"\n"].concat());
    }
    fs::write(original.join("packed-refs"), packed).expect("writes");
    fs::write(original.join("refs/heads/a\x1b]0;x"), format!("{tip}\n")).expect("writes");
    fs::write(original.join("refs/heads/\u{7}"), format!("{tip}\n")).expect("writes");
    fs::write(original.join("refs/heads/self"), "ref: refs/heads/self\n").expect("writes");
    fs::write(original.join("refs/heads/out"), "ref: ../../../../etc/passwd\n").expect("writes");
    fs::write(original.join("refs/heads/empty"), "").expect("writes");
    fs::write(original.join("refs/heads/huge"), vec![b'a'; 1 << 20]).expect("writes");
    let mut daemon = site.start();
    for version in ["0", "2"] {
        let option = format!("protocol.version={version}");
        let done = site.git(["-c", &option, "ls-remote", "gotd:evil.git"]).good();
        assert!(
            done.out.iter().all(|b| !b.is_ascii_control() || matches!(b, b'\n' | b'\t')),
            "{}",
            done.text()
        );
        assert!(done.text().contains("refs/heads/main\n"), "{}", done.text());
        for name in ["red", "config", "..", "lock", "@{", "outside"] {
            assert!(!done.text().contains(name), "{name}: {}", done.text());
        }
        for name in ["self", "/out", "empty", "huge"] {
            assert!(no_id(&done.text(), name), "{name}: {}", done.text());
        }
    }
    daemon.assert_serves();
    assert!(!daemon.log().contains('\x1b'));
}

/// Damaged objects end one session with a clear line, whatever is damaged.
#[test]
fn damaged_packs_and_objects() {
    let site = Site::new();
    let good = history::repository(&site, "good.git", 8, "sha1");
    let mut names = Vec::new();
    for (n, at) in [0usize, 9, 40, 1000, 5000].into_iter().enumerate() {
        for (end, cut) in [("pack", false), ("pack", true), ("idx", false), ("idx", true)] {
            let name = format!("bad-{n}-{end}-{cut}.git");
            let path = site.repository(&name);
            regress::run(site.command("cp").arg("-a").arg(&good).arg(&path), b"", 20).good();
            let file = fs::read_dir(path.join("objects/pack")).expect("lists").flatten().map(|e| e.path());
            let file =
                file.into_iter().find(|p| p.extension().is_some_and(|e| e == end)).expect("there is one");
            let mut bytes = fs::read(&file).expect("reads");
            let at = at.min(bytes.len() - 1);
            if cut {
                bytes.truncate(at);
            } else {
                for byte in bytes.iter_mut().skip(at).take(7) {
                    *byte ^= 0x5a;
                }
            }
            fs::remove_file(&file).expect("removes");
            fs::write(&file, bytes).expect("writes");
            names.push(name);
        }
    }
    let mut daemon = site.start();
    for name in &names {
        let clone = site.clone_path(name);
        let done = site.git(["clone", "-q", "--mirror", &format!("gotd:{name}"), &clone.to_string_lossy()]);
        // Either it did not matter, or it is said; never is a wrong object taken for a right one.
        if done.status == 0 {
            regress::compare::assert_whole(&site, &clone);
        } else {
            assert!(done.err.contains("gotsh: ") || done.err.contains("fatal: "), "{name}: {}", done.err);
        }
    }
    let clone = site.clone_path("good");
    site.git(["clone", "-q", "--mirror", "gotd:good.git", &clone.to_string_lossy()]).good();
    assert_mirror(&site, &good, &clone);
    daemon.assert_serves();
}

/// A line of `packed-refs` that makes no sense, behind more references than one message holds: the
/// client is told, and does not take those that come after it for deleted.
#[test]
fn a_bad_line_in_a_long_list_of_references_is_no_shorter_list() {
    let site = Site::new();
    let original = history::repository(&site, "long.git", 3, "sha1");
    let tip = history::tip(&site, &original);
    let lines: Vec<String> = (0..2000).map(|n| format!("{tip} refs/many/{n:04}\n")).collect();
    let write = |middle: &str| {
        let header = "# pack-refs with: peeled fully-peeled sorted \n";
        let text = [header, &lines[..1000].concat(), middle, &lines[1000..].concat()].concat();
        fs::write(original.join("packed-refs"), text).expect("writes");
        site.hand_over();
    };
    write("");
    let _daemon = site.start();
    let mirror = site.clone_path("mirror");
    site.git(["clone", "-q", "--mirror", "gotd:long.git", &mirror.to_string_lossy()]).good();
    let count = || site.git_in(&mirror, ["for-each-ref", "refs/many"]).lines().count();
    assert_eq!(count(), 2000);
    write("no reference at all\n");
    for version in ["0", "2"] {
        let option = format!("protocol.version={version}");
        let done = site.git(["-C", &mirror.to_string_lossy(), "-c", &option, "fetch", "-q", "--prune"]);
        done.bad("packed-refs").bad("bad line");
        assert_eq!(count(), 2000, "version {version}");
    }
}
