//! What the owner of a repository has forbidden in its own `config` holds, as with C git, whatever
//! gotd.conf permits; what is set there and not honoured is told.
//!
//! `git init --shared` sets `receive.denyNonFastForwards` by itself, and administrators who came
//! from C git took it for in force.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use regress::compare::references;
use regress::run::Done;
use regress::site::present_user;
use regress::{Daemon, Site, history, run, tcp};

/// Branches, a tag, and a branch whose tree has a mode that fsck complains of.
fn origin(site: &Site) -> PathBuf {
    let bare = history::repository(site, "history.git", 12, "sha1");
    let work = site.work_tree(&bare);
    let mut noise = Vec::new();
    let mut state = 1_u64;
    for _ in 0..20_000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        noise.push(state.to_be_bytes()[0]);
    }
    site.git_in(&work, ["checkout", "-q", "-b", "large"]);
    site.commit(&work, "noise", noise);
    site.git_in(&work, ["checkout", "-q", "main"]);
    // `040000` instead of `40000`.
    let blob = site.git_in(&work, ["rev-parse", "main:"]);
    let raw: Vec<u8> =
        (0..20).map(|at| u8::from_str_radix(&blob[2 * at..2 * at + 2], 16).expect("hex")).collect();
    let tree = [b"040000 d\0".as_slice(), &raw].concat();
    let mut write = site.command("git");
    write.arg("-C").arg(&work).args(["hash-object", "-t", "tree", "-w", "--literally", "--stdin"]);
    let tree = run(&mut write, &tree, 30).good().text();
    let odd = site.git_in(&work, ["commit-tree", "-m", "odd", "-p", "main", tree.trim()]);
    site.git_in(&work, ["update-ref", "refs/heads/odd", odd.trim()]);
    // A tag without a tagger, which fsck lets pass.
    let head = site.git_in(&work, ["rev-parse", "main"]);
    let tag = format!("object {}\ntype commit\ntag bare\n\nno tagger\n", head.trim());
    let mut write = site.command("git");
    write.arg("-C").arg(&work).args(["hash-object", "-t", "tag", "-w", "--literally", "--stdin"]);
    let tag = run(&mut write, tag.as_bytes(), 30).good().text();
    site.git_in(&work, ["update-ref", "refs/tags/bare", tag.trim()]);
    work
}

/// Two equal repositories with these lines in their `config`.
fn pair(site: &Site, work: &Path, name: &str, config: &str) -> (PathBuf, PathBuf) {
    let make = |path: PathBuf| {
        history::init(site, &path, "--object-format=sha1");
        let remote = path.display().to_string();
        let what = ["main", "main~2:refs/heads/topic", "main~3:refs/heads/secret", "main~1:refs/tags/v1"];
        site.push(work, &[&["-q", &remote][..], &what].concat()).good();
        let file = path.join("config");
        let text = std::fs::read_to_string(&file).expect("reads") + config;
        std::fs::write(&file, text).expect("writes");
        path
    };
    (make(site.repository(&format!("{name}.git"))), make(site.path(&format!("c-{name}.git"))))
}

/// gotd.conf permits all that it can.
fn configuration(site: &Site, git: std::net::SocketAddr) -> String {
    format!(
        "{}{}repositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{}\"\n\tpermit ro anonymous\n\tpartial clone\n\tfsck off\n}}\n",
        site.roomy_head(),
        tcp::listen_line(git),
        site.path("repositories").display(),
        present_user()
    )
}

/// Files below `logs`.
fn logs(repository: &Path) -> BTreeSet<String> {
    let found = regress::compare::listing(repository);
    found.into_keys().filter(|name| name.starts_with("logs/") && repository.join(name).is_file()).collect()
}

/// The lines of a listing.
fn listed(done: &Done) -> Vec<String> {
    done.text().lines().map(str::to_owned).collect()
}

#[test]
fn a_push_that_the_repository_forbids_is_refused_as_by_c_git() {
    let site = Site::new();
    let work = origin(&site);
    let deny = "[receive]\n\tdenyDeletes = true\n\tdenyNonFastForwards\n";
    let hides = "[transfer]\n\thideRefs = refs/\n\thideRefs = !refs/heads\n\thideRefs = refs/heads/secret/\n";
    let cases: &[(&str, &str, &[&str])] = &[
        ("delete", deny, &[":refs/heads/topic"]),
        ("delete-tag", deny, &[":refs/tags/v1"]),
        ("delete-none", deny, &[":refs/heads/nothing"]),
        ("rewrite", deny, &["+main~4:refs/heads/topic"]),
        ("forward", deny, &["main:refs/heads/topic"]),
        ("move-tag", deny, &["+main~4:refs/tags/v1"]),
        ("atomic", deny, &["--atomic", "main:refs/heads/new", "+main~4:refs/heads/topic"]),
        ("atomic-deletion", deny, &["--atomic", "main:refs/heads/new", ":refs/heads/topic"]),
        ("beside", deny, &["main:refs/heads/new", "+main~4:refs/heads/topic", ":refs/heads/secret"]),
        ("not-denied", "[receive]\n\tdenyDeletes = true\n\tdenyDeletes = no\n", &[":refs/heads/topic"]),
        ("shared", "[receive]\n\tdenyNonFastforwards = 1\n", &["+main~4:refs/heads/topic"]),
        ("old-form", "[RECEIVE]\n\tDENYDELETES = Yes\n", &[":refs/heads/topic"]),
        ("subsection", "[receive \"x\"]\n\tdenyDeletes = yes\n", &[":refs/heads/topic"]),
        ("hidden", hides, &["main:refs/heads/secret"]),
        ("hidden-new", hides, &["main:refs/heads/secret/new"]),
        ("hidden-not", hides, &["main:refs/heads/secrets"]),
        ("hidden-deletion", hides, &[":refs/heads/secret"]),
        ("hidden-tag", hides, &["main:refs/tags/new"]),
        ("shown", hides, &["main:refs/heads/new"]),
        ("receive-hides", "[receive]\n\thideRefs = refs/heads/topic\n", &["main:refs/heads/topic"]),
        ("upload-hides", "[uploadpack]\n\thideRefs = refs/heads/topic\n", &["main:refs/heads/topic"]),
        ("full", "[receive]\n\thideRefs = ^refs/heads/topic\n", &["main:refs/heads/topic"]),
        ("too-large", "[receive]\n\tmaxInputSize = 10k\n", &["large"]),
        ("large", "[receive]\n\tmaxInputSize = 1m\n", &["large"]),
        ("any-size", "[receive]\n\tmaxInputSize = 0\n", &["large"]),
        ("unchecked", "", &["odd"]),
        ("checked", "[receive]\n\tfsckObjects = true\n", &["odd"]),
        ("checked-too", "[transfer]\n\tfsckObjects = true\n", &["odd"]),
        ("unchecked-too", "[transfer]\n\tfsckObjects = true\n[receive]\n\tfsckObjects = no\n", &["odd"]),
        ("info", "[transfer]\n\tfsckObjects = true\n", &["refs/tags/bare"]),
        (
            "error",
            "[transfer]\n\tfsckObjects = true\n[receive \"fsck\"]\n\tmissingTaggerEntry = error\n",
            &["refs/tags/bare"],
        ),
        ("bad-value", "[receive]\n\tdenyDeletes = maybe\n", &["main:refs/heads/new"]),
        ("bad-of-fetches", "[uploadpack]\n\tallowFilter = maybe\n", &["main:refs/heads/new"]),
        ("bad-log", "[core]\n\tlogAllRefUpdates = maybe\n", &["main:refs/heads/new"]),
        ("logged", "[core]\n\tlogAllRefUpdates = true\n", &["main:refs/heads/topic", "main:refs/tags/new"]),
        ("all-logged", "[core]\n\tlogAllRefUpdates = always\n", &["main:refs/x/y", "main:refs/tags/new"]),
        ("not-logged", "[core]\n\tlogAllRefUpdates = false\n", &["main:refs/heads/topic"]),
        (
            "deletion-logged",
            "[core]\n\tlogAllRefUpdates = true\n",
            &["main:refs/heads/topic", ":refs/heads/secret"],
        ),
    ];
    let pairs: Vec<_> = cases.iter().map(|(name, config, _)| pair(&site, &work, name, config)).collect();
    let mut daemon = site.start_with(&configuration(&site, tcp::free_v4()));
    let mut wrong = Vec::new();
    for ((name, _, what), (ours, theirs)) in cases.iter().zip(&pairs) {
        let ask = |remote: &str| site.push(&work, &[&["--porcelain", remote][..], what].concat());
        let (a, b) = (ask(&format!("gotd:{name}.git")), ask(&theirs.display().to_string()));
        // git reads nothing where a value is bad.
        for repository in [ours, theirs] {
            let config = repository.join("config");
            let text = std::fs::read_to_string(&config).expect("reads");
            std::fs::write(&config, text.replace("maybe", "true")).expect("writes");
        }
        let same = (a.status == 0) == (b.status == 0)
            && references(&site, ours) == references(&site, theirs)
            && logs(ours) == logs(theirs);
        if !same {
            wrong.push(format!("{name}: {}{}\nC git: {}{}\n", a.text(), a.err, b.text(), b.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    daemon.logged(&["reference refused", "receive.denyDeletes"]);
    daemon.logged(&["reference refused", "receive.denyNonFastForwards"]);
    daemon.logged(&["10240 (receive.maxInputSize)"]);
    daemon.assert_serves();
}

/// Configurations that permit one way to write a filter, and that forbid one.
const ONLY_NONE: &str = "[uploadpackfilter]\n\tallow = false\n[uploadpackfilter \"blob:none\"]\n\tallow\n";
const NO_LIMIT: &str = "[uploadpackfilter \"blob:limit\"]\n\tallow = false\n";

#[test]
fn a_fetch_gets_what_c_git_gives_it() {
    let site = Site::new();
    let work = origin(&site);
    let filter = "[uploadpack]\n\tallowFilter = true\n";
    let cases: &[(&str, &str)] = &[
        ("plain", ""),
        ("transfer", "[transfer]\n\thideRefs = refs/heads/secret\n"),
        ("upload", "[uploadpack]\n\thideRefs = refs/heads/secret\n\thideRefs = refs/tags/\n"),
        ("receive", "[receive]\n\thideRefs = refs/heads/secret\n"),
        (
            "patterns",
            "[transfer]\n\thideRefs = refs\n\thideRefs = !refs/heads/\n\thideRefs = refs/heads/topic\n",
        ),
        ("bad-of-pushes", "[receive]\n\tdenyDeletes = maybe\n"),
        ("bad-value", "[uploadpack]\n\tallowFilter = maybe\n"),
        ("no-value", "[transfer]\n\thideRefs\n"),
    ];
    let pairs: Vec<_> = cases.iter().map(|(name, config)| pair(&site, &work, name, config)).collect();
    let filters: &[(&str, &str, &str)] = &[
        ("filter", "", "blob:none"),
        ("no-filter", "[uploadpack]\n\tallowFilter = false\n", "blob:none"),
        ("no-kind", "[uploadpackfilter \"blob:none\"]\n\tallow = false\n", "blob:none"),
        ("other-kind", "[uploadpackfilter \"blob:none\"]\n\tallow = false\n", "blob:limit=10"),
        ("one-kind", "[uploadpackfilter]\n\tallow = no\n[uploadpackfilter \"tree\"]\n\tallow\n", "tree:0"),
        (
            "no-other",
            "[uploadpackfilter]\n\tallow = no\n[uploadpackfilter \"tree\"]\n\tallow\n",
            "blob:limit=10",
        ),
        ("deep", "[uploadpackfilter \"tree\"]\n\tmaxDepth = 2\n", "tree:3"),
        ("not-deep", "[uploadpackfilter \"tree\"]\n\tmaxDepth = 2\n", "tree:2"),
        // Other spellings of what is permitted, and of what is not.
        ("only-1", ONLY_NONE, "blob:none"),
        ("only-2", ONLY_NONE, "blob:limit=0"),
        ("only-3", ONLY_NONE, "combine:blob:none"),
        ("only-4", ONLY_NONE, "combine:blob:none+blob:none"),
        ("only-5", ONLY_NONE, "combine:blob:none+blob:limit=5"),
        ("no-limit-1", NO_LIMIT, "blob:limit=0"),
        ("no-limit-2", NO_LIMIT, "combine:tree:1+combine:blob:limit=9%2bblob:none"),
        ("no-limit-3", NO_LIMIT, "combine:tree:1+blob:none"),
        ("deep-part", "[uploadpackfilter \"tree\"]\n\tmaxDepth = 2\n", "combine:tree:1+tree:3"),
    ];
    let filtered: Vec<_> = filters
        .iter()
        .map(|(name, config, _)| pair(&site, &work, name, &format!("{filter}{config}")))
        .collect();
    let address = tcp::free_v4();
    let mut daemon = site.start_with(&configuration(&site, address));
    let mut wrong = Vec::new();
    for ((name, _), (_, theirs)) in cases.iter().zip(&pairs) {
        for version in ["0", "2"] {
            let ask = |remote: &str| {
                let option = format!("protocol.version={version}");
                site.git(["-c", &option, "ls-remote", remote])
            };
            let (a, b) = (ask(&format!("gotd:{name}.git")), ask(&theirs.display().to_string()));
            if (a.status == 0) != (b.status == 0) || listed(&a) != listed(&b) {
                wrong.push(format!("{name}: {}{}\nC git: {}{}\n", a.text(), a.err, b.text(), b.err));
            }
        }
    }
    for ((name, _, spec), (_, theirs)) in filters.iter().zip(&filtered) {
        let ask = |remote: &str, to: &str| {
            let (to, spec) = (site.clone_path(to), format!("--filter={spec}"));
            let done = site.git(["clone", "-q", "--bare", &spec, remote, &to.display().to_string()]);
            // What is there, without a fetch of what is not.
            let all = ["cat-file", "--batch-all-objects", "--batch-check", "--unordered"];
            let got = if done.status == 0 { site.git_in(&to, all).lines().count() } else { 0 };
            (done, got)
        };
        let (a, ours) = ask(&format!("gotd:{name}.git"), &format!("ours-{name}"));
        let (b, c) = ask(&format!("file://{}", theirs.display()), &format!("theirs-{name}"));
        if (a.status == 0, ours) != (b.status == 0, c) {
            wrong.push(format!("{name}: {ours} {}{}\nC git: {c} {}{}\n", a.text(), a.err, b.text(), b.err));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    daemon.assert_serves();
}

#[test]
fn what_is_hidden_by_the_repository_cannot_be_had_by_its_id() {
    let site = Site::new();
    let work = origin(&site);
    let (ours, _) = pair(&site, &work, "r", "[transfer]\n\thideRefs = refs/heads/only\n");
    site.git_in(&work, ["checkout", "-q", "-b", "only"]);
    let hidden = site.commit(&work, "only", "the secret\n");
    site.git_in(&work, ["push", "-q", &ours.display().to_string(), "main~1:refs/heads/x"]);
    site.git_in(&ours, ["fetch", "-q", &work.display().to_string(), "+only:refs/heads/only"]);
    let address = tcp::free_v4();
    let _daemon = site.start_with(&configuration(&site, address));
    let fetch = |remote: &str| {
        let to = site.clone_path("to");
        let _ = std::fs::remove_dir_all(&to);
        history::init(&site, &to, "--object-format=sha1");
        run(site.command("git").arg("-C").arg(&to).args(["fetch", "-q", remote, &hidden]), b"", 60)
    };
    for remote in ["gotd:r.git".to_owned(), format!("git://{address}/r.git")] {
        let refused = fetch(&remote);
        assert!(refused.status != 0 && refused.err.contains("not found"), "{remote}: {}", refused.err);
    }
    // A push that brings it along makes it visible.
    site.git_in(&work, ["checkout", "-q", "main"]);
    site.push(&work, &["gotd:r.git", &format!("{hidden}:refs/heads/mine")]).good();
    fetch("gotd:r.git").good();
}

#[test]
fn a_repository_that_is_not_for_git_daemon_is_not_there_over_git() {
    let site = Site::new();
    let work = origin(&site);
    pair(&site, &work, "closed", "[daemon]\n\tuploadpack = false\n");
    pair(&site, &work, "open", "[daemon]\n\tuploadpack = true\n");
    let address = tcp::free_v4();
    let daemon = site.start_with(&configuration(&site, address));
    site.git(["ls-remote", &format!("git://{address}/open.git")]).good();
    site.git(["ls-remote", &format!("git://{address}/closed.git")]).bad("no git repository found");
    daemon.logged(&["repository=closed.git", "daemon.uploadpack is false in the repository"]);
    site.git(["ls-remote", "gotd:closed.git"]).good();
}

#[test]
fn what_is_set_and_not_honoured_is_told_once_for_each_change_of_the_file() {
    let site = Site::new();
    let work = origin(&site);
    let text = "[include]\n\tpath = /etc/gitconfig\n[receive]\n\tdenyCurrentBranch = updateInstead\n";
    let (ours, _) = pair(&site, &work, "r", text);
    let conf = configuration(&site, tcp::free_v4()).replace("\tpartial clone\n", "");
    let daemon = site.start_with(&conf);
    let told = |daemon: &Daemon| {
        let log = daemon.log();
        log.lines().filter(|line| line.contains("not honoured: receive.denyCurrentBranch=")).count()
    };
    for _ in 0..3 {
        site.git(["ls-remote", "gotd:r.git"]).good();
    }
    site.push(&work, &["-q", "gotd:r.git", "main:refs/heads/new"]).good();
    daemon.logged(&["repository=r.git", "service=git-receive-pack", "result=ok"]);
    assert_eq!(told(&daemon), 1, "{}", daemon.log());
    daemon.logged(&["repository=r.git", "not honoured: include.path=/etc/gitconfig: is not read"]);
    let said = format!("not honoured in {}: receive.denyCurrentBranch=updateInstead", ours.display());
    let info = daemon.gotctl(&["info"]).good().text();
    assert!(info.contains(&said), "{info}");
    let json = daemon.gotctl(&["info", "--json"]).good().text();
    assert!(json.contains("\"not_honoured\":[") && json.contains("updateInstead"), "{json}");
    let config = ours.join("config");
    let changed = std::fs::read_to_string(&config).expect("reads") + "# more\n";
    std::fs::write(&config, &changed).expect("writes");
    site.git(["ls-remote", "gotd:r.git"]).good();
    daemon.logged(&["number=", "session", "result=ok"]);
    assert!(regress::run::wait_until(20.0, || told(&daemon) == 2), "{}", daemon.log());
    std::fs::write(&config, changed.replace("updateInstead", "refuse").replace("[include]", "[x]"))
        .expect("writes");
    site.git(["ls-remote", "gotd:r.git"]).good();
    let clean = || !daemon.gotctl(&["info"]).good().text().contains("not honoured");
    assert!(regress::run::wait_until(20.0, clean));
    assert_eq!(told(&daemon), 2);
    // A hook that git would run is news, too; one that git would not run is none.
    let hook = ours.join("hooks/update");
    std::fs::create_dir_all(ours.join("hooks")).expect("makes");
    for (mode, there) in [(0o644, false), (0o755, true)] {
        std::fs::write(&hook, "#!/bin/sh\nexit 1\n").expect("writes");
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(mode)).expect("sets");
        site.git(["ls-remote", "gotd:r.git"]).good();
        let said = || {
            daemon
                .gotctl(&["info"])
                .good()
                .text()
                .contains(": hooks/update: nothing in a repository is executed")
        };
        assert_eq!(regress::run::wait_until(if there { 20.0 } else { 1.0 }, said), there, "{mode:o}");
    }
    site.push(&work, &["-q", "gotd:r.git", "main:refs/heads/not-hooked"]).good();
    // Nor does the file permit a filter.
    let changed = changed + "[uploadpack]\n\tallowFilter = true\n";
    std::fs::write(&config, changed).expect("writes");
    site.git(["ls-remote", "gotd:r.git"]).good();
    let words = "not honoured: uploadpack.allowFilter=true: partial clone in gotd.conf decides";
    daemon.logged(&["repository=r.git", words]);
}
