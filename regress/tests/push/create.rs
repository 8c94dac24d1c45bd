//! `create`: a permitted push makes the repository that it names, and nothing else ever does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use regress::compare::{assert_clone, assert_whole, leftovers, listing};
use regress::run::{Done, wait_until};
use regress::site::present_user;
use regress::{Daemon, Site, history, run};

/// A work tree with some history, made beside the daemon.
fn work_tree(site: &Site) -> PathBuf {
    let origin = site.path("origin.git");
    fs::rename(history::repository(site, "origin.git", 5, "sha1"), &origin).expect("renames");
    site.work_tree(&origin)
}

fn block(site: &Site, prefix: &str, below: &str, directives: &str) -> String {
    let path = site.path("repositories").join(below);
    format!("repositories \"{prefix}\" {{\n\tpath \"{}\"\n{directives}}}\n", path.display())
}

/// A daemon that creates in `repositories`, and has these blocks too.
fn start(site: &Site, more: &str) -> Daemon {
    let me = present_user();
    site.start_with(&format!(
        "{}{}{more}",
        site.roomy_head(),
        block(site, "", "", &format!("\tpermit rw \"{me}\"\n\tcreate\n")),
    ))
}

fn push(site: &Site, work: &Path, name: &str, what: &str) -> Done {
    site.push(work, &["-q", &format!("gotd:{name}"), what])
}

/// Everything below the directory of repositories, without what is in a repository.
fn names(site: &Site) -> Vec<String> {
    fn list(dir: &Path, prefix: &str, out: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("lists").flatten() {
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.file_type().expect("is there").is_dir() && !entry.path().join("objects").exists() {
                list(&entry.path(), &format!("{name}/"), out);
            }
            out.push(name);
        }
    }
    let mut out = Vec::new();
    list(&site.path("repositories"), "", &mut out);
    out.sort();
    out
}

#[test]
fn a_push_makes_the_repository_and_goes_on() {
    let site = Site::new();
    let work = work_tree(&site);
    let daemon = start(&site, "");
    for (name, file) in
        [("new", "new.git"), ("suffix.git", "suffix.git"), ("team/sub/deep", "team/sub/deep.git")]
    {
        push(&site, &work, name, "main").good();
        let repository = site.repository(file);
        assert_eq!(history::tip(&site, &repository), site.git_in(&work, ["rev-parse", "main"]).trim());
        assert_whole(&site, &repository);
        assert_eq!(leftovers(&repository), Vec::<PathBuf>::new());
        let mode =
            |name: &str| fs::metadata(repository.join(name)).expect("is there").permissions().mode() & 0o7777;
        let modes = ["", "HEAD", "config", "objects/pack", "refs/heads"].map(mode);
        assert_eq!(modes, [0o755, 0o644, 0o644, 0o755, 0o755], "{name}");
        let clone = site.clone_path(&format!("clone-{}", file.replace('/', "-")));
        site.git(["clone", "-q", &format!("gotd:{name}"), &clone.to_string_lossy()]).good();
        assert_clone(&site, &repository, &clone);
        let path = format!("path={}", repository.display());
        daemon.logged(&["created number=", "who=", &format!("repository={name} "), &path, "rule="]);
    }
    assert_eq!(names(&site), ["new.git", "suffix.git", "team", "team/sub", "team/sub/deep.git"]);
    // Another spelling is the same repository, and so is the next push.
    push(&site, &work, "new.git", "main:refs/heads/other").good();
    push(&site, &work, "suffix", "main:refs/heads/other").good();
    assert_eq!(names(&site).len(), 5);
    assert_eq!(daemon.log().matches(": created ").count(), 3);
    let metrics = daemon.gotctl(&["metrics"]).good().text();
    assert!(metrics.contains("gotd_repositories_created_total 3\n"), "{metrics}");
}

/// HEAD names the branch that the first push brings, so that a clone has files. Only where HEAD names
/// no branch yet, and only in a repository that a push made.
#[test]
fn head_names_a_branch_that_the_first_push_brought() {
    let site = Site::new();
    let work = work_tree(&site);
    history::init(&site, &site.repository("by-hand.git"), "--object-format=sha1");
    let rules = format!("\tpermit rw \"{}\"\n\tcreate\n\treflog\n", present_user());
    let daemon = site.start_with(&format!("{}{}", site.roomy_head(), block(&site, "", "", &rules)));
    let all = |names: &[&str]| names.iter().map(|name| format!("main~1:refs/{name}")).collect::<Vec<_>>();
    for (name, pushes, head) in [
        ("one", &[&["heads/dev"][..]][..], "dev"),
        ("deep", &[&["heads/team/dev"]], "team/dev"),
        ("several", &[&["heads/zeta", "heads/beta", "tags/alpha", "notes/a"]], "beta"),
        ("main", &[&["heads/a", "heads/main", "heads/master"]], "main"),
        ("master", &[&["heads/a", "heads/master"]], "master"),
        // Only the first that brings branches counts.
        ("later", &[&["heads/dev"], &["heads/main", "heads/a"]], "dev"),
        ("tags", &[&["tags/v1"]], "main"),
        ("tags-first", &[&["tags/v1"], &["heads/dev", "tags/v2"]], "dev"),
        ("atomic", &[&["heads/b", "heads/a"]], "a"),
        ("by-hand", &[&["heads/dev"]], "main"),
    ] {
        for what in pushes {
            let what = all(what);
            let remote = format!("gotd:{name}");
            let mut words = vec!["-q"];
            words.extend((name == "atomic").then_some("--atomic"));
            words.push(&remote);
            words.extend(what.iter().map(String::as_str));
            site.push(&work, &words).good();
        }
        let repository = site.repository(&format!("{name}.git"));
        let names = site.git_in(&repository, ["symbolic-ref", "HEAD"]);
        assert_eq!(names.trim(), format!("refs/heads/{head}"), "{name}");
        assert_eq!(leftovers(&repository), Vec::<PathBuf>::new());
        let born = regress::compare::references(&site, &repository).contains(&format!("refs/heads/{head}\n"));
        assert_eq!(repository.join("logs/HEAD").exists(), born, "{name}");
        let clone = site.clone_path(&format!("clone-{name}"));
        site.git(["clone", "-q", &format!("gotd:{name}"), &clone.to_string_lossy()]).good();
        assert_eq!(clone.join("README").exists() || fs::read_dir(&clone).expect("lists").count() > 1, born);
    }
    // A branch that is refused is none to name: here because a commit is no tree.
    let tree = site.git_in(&work, ["rev-parse", "main^{tree}"]);
    let what = format!("{}:refs/heads/a", tree.trim());
    site.push(&work, &["gotd:refused", &what, "main:refs/heads/b"]).bad("");
    let head = |name: &str| fs::read_to_string(site.repository(name).join("HEAD")).expect("reads");
    assert_eq!(head("refused.git"), "ref: refs/heads/b\n");
    // Nor one that could not be made at the end: somebody holds its lock.
    push(&site, &work, "locked", "main:refs/tags/v1").good();
    fs::create_dir_all(site.repository("locked.git/refs/heads")).expect("makes");
    fs::write(site.repository("locked.git/refs/heads/a.lock"), "").expect("writes");
    site.push(&work, &["gotd:locked", "main:refs/heads/a", "main:refs/heads/b"]).bad("it is locked");
    assert_eq!(head("locked.git"), "ref: refs/heads/b\n");
    assert_eq!(daemon.log().matches("forbidden").count(), 0);
}

/// What is not there and cannot be made answers like what is not there.
#[test]
fn names_that_nobody_can_create() {
    let site = Site::new();
    let work = work_tree(&site);
    history::repository(&site, "bare", 2, "sha1");
    fs::create_dir(site.repository("plain")).expect("makes");
    fs::write(site.repository("file"), "").expect("writes");
    std::os::unix::fs::symlink("/tmp", site.repository("out")).expect("links");
    let me = present_user();
    fs::create_dir(site.repository("secret")).expect("makes");
    let more = format!(
        "repository \"special\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n}}\n{}",
        site.repository("team/own.git").display(),
        block(&site, "elsewhere", "secret", &format!("\tpermit ro \"{me}\"\n")),
    );
    let mut daemon = start(&site, &more);
    // Within repositories too.
    let everything = || listing(&site.path("repositories")).into_keys().collect::<Vec<_>>();
    let before = everything();
    for name in [
        ".hidden",
        "a/.hidden",
        "../x",
        "a/../../x",
        "a//.git",
        ".gotd-create/x",
        "new.git/x",
        "bare/x",
        "bare/refs/heads/x",
        "bare/objects/x.git",
        "out/x",
        "file/x",
        "plain",
        "plain.git",
        "1/2/3/4/5/6/7/8/9/10/x",
        // A block of its own is about these.
        "special",
        "team/own",
        "team/own.git",
        "team/own.git/x",
        "secret/x",
        "secret",
    ] {
        let done = push(&site, &work, name, "main");
        assert!(done.err.contains("no git repository found"), "{name}: {} {}", done.status, done.err);
        assert_eq!(everything(), before, "{name}");
    }
    for name in ["n".repeat(252), format!("d/{}", "n".repeat(252))] {
        push(&site, &work, &name, "main").bad("no git repository found");
    }
    assert_eq!(everything(), before);
    daemon.assert_serves();
}

#[test]
fn who_may_not_write_creates_nothing() {
    let site = Site::new();
    let work = work_tree(&site);
    let me = present_user();
    for dir in ["ro", "none", "plain"] {
        fs::create_dir(site.repository(dir)).expect("makes");
    }
    let more = [
        block(&site, "ro", "ro", &format!("\tpermit ro \"{me}\"\n\tcreate\n")),
        block(&site, "none", "none", "\tpermit rw 4711\n\tcreate\n"),
        block(&site, "plain", "plain", &format!("\tpermit rw \"{me}\"\n")),
    ];
    let mut daemon = start(&site, &more.concat());
    let before = names(&site);
    push(&site, &work, "ro/x", "main").bad("ro/x: Permission denied");
    push(&site, &work, "none/x", "main").bad("no git repository found");
    push(&site, &work, "plain/x", "main").bad("no git repository found");
    // Reading makes nothing, whoever may write.
    for name in ["x", "ro/x", "none/x", "plain/x"] {
        site.git(["ls-remote", &format!("gotd:{name}")]).bad("no git repository found");
        let clone = site.clone_path("none").to_string_lossy().into_owned();
        site.git(["clone", &format!("gotd:{name}"), &clone]).bad("no git repository found");
    }
    assert_eq!(names(&site), before);
    assert!(!daemon.log().contains(": created "));
    daemon.assert_serves();
}

#[test]
fn of_twenty_pushes_one_makes_it_and_all_go_on() {
    let site = Site::new();
    let work = work_tree(&site);
    let mut daemon = start(&site, "");
    for round in 0..3 {
        let threads: Vec<_> = (0..20)
            .map(|n| {
                let mut command = site.command("git");
                // Both spellings are one repository.
                let name = format!("gotd:race{round}/x{}", if n % 2 == 0 { "" } else { ".git" });
                command.arg("-C").arg(&work).args(["push", "-q", &name, &format!("main:refs/heads/{n}")]);
                std::thread::spawn(move || run(&mut command, b"", 120))
            })
            .collect();
        for thread in threads {
            thread.join().expect("ends").good();
        }
        let repository = site.repository(&format!("race{round}/x.git"));
        push(&site, &work, &format!("race{round}/x"), "main").good();
        let branches = site.git_in(&repository, ["for-each-ref", "--format=%(refname)"]);
        assert_eq!(branches.lines().count(), 21, "{branches}");
        assert_whole(&site, &repository);
    }
    assert_eq!(daemon.log().matches(": created ").count(), 3, "{}", daemon.log());
    let expected: Vec<String> = (0..3).flat_map(|n| [format!("race{n}"), format!("race{n}/x.git")]).collect();
    assert_eq!(names(&site), expected);
    daemon.assert_serves();
}

/// Whatever a killed process left, no half of a repository has a name, and the next push makes it.
#[test]
fn a_crash_leaves_no_half_of_a_repository() {
    let site = Site::new();
    let work = work_tree(&site);
    let left = site.repository(".gotd-create/new-0123456789abcdef");
    fs::create_dir_all(left.join("objects/pack")).expect("makes");
    fs::write(left.join("HEAD"), "ref: refs/he").expect("writes");
    let mut daemon = start(&site, "");
    let mut killed = 0;
    for round in 0..12 {
        let name = format!("crash{round}");
        let mut command = site.command("git");
        command.arg("-C").arg(&work).args(["push", "-q", &format!("gotd:{name}"), "main"]);
        let pushing = std::thread::spawn(move || run(&mut command, b"", 120));
        // At another moment of its life each time.
        let seen = wait_until(5.0, || pushing.is_finished() || !daemon.role("create").is_empty());
        assert!(seen, "neither a process nor an end");
        std::thread::sleep(std::time::Duration::from_millis(round / 3));
        killed += daemon.role("create").into_iter().filter(|pid| daemon.kill_if_there(*pid)).count();
        let done = pushing.join().expect("ends");
        let repository = site.repository(&format!("{name}.git"));
        if done.status != 0 {
            assert!(done.err.contains("cannot be created"), "{}", done.err);
        }
        if repository.exists() {
            // Perhaps without a reference, but nothing that git misses.
            site.git_in(&repository, ["fsck", "--strict"]);
        }
        push(&site, &work, &name, "main").good();
        assert_whole(&site, &repository);
    }
    push(&site, &work, "last", "main").good();
    assert!(!site.repository(".gotd-create").exists(), "{:?}", names(&site));
    eprintln!("killed {killed} of 12 processes");
    daemon.assert_serves();
}

#[test]
fn a_directory_that_takes_nothing_is_told() {
    let site = Site::new();
    let work = work_tree(&site);
    let me = present_user();
    // Not handed over: gotd's account may not write there, unless it is root's.
    let full = site.path("repositories");
    let conf = format!(
        "{}limit disk reserve 64T\n{}",
        site.head(),
        block(&site, "", "", &format!("\tpermit rw \"{me}\"\n\tcreate\n"))
    );
    let daemon = site.start_with(&conf);
    push(&site, &work, "x", "main").bad("limit disk reserve");
    drop(daemon);
    fs::set_permissions(&full, fs::Permissions::from_mode(0o555)).expect("changes");
    let daemon = start(&site, "");
    push(&site, &work, "x", "main").bad("x: cannot be created: ");
    daemon.logged(&["session", "result=refused", "cannot be created"]);
    fs::set_permissions(&full, fs::Permissions::from_mode(0o755)).expect("changes");
    push(&site, &work, "x", "main").good();
    assert_eq!(names(&site), ["x.git"]);
}

/// Users of a shared account are counted one by one, by what they made and is still there.
#[test]
fn a_user_makes_so_many_repositories() {
    let site = Site::new();
    let work = work_tree(&site);
    // One that nobody made by pushing.
    for directory in ["mine", "more"] {
        fs::create_dir(site.repository(directory)).expect("makes");
    }
    history::repository(&site, "mine/there.git", 1, "sha1");
    let me = present_user();
    let directives = "\tpermit rw alice\n\tpermit rw bob\n\tcreate\n";
    let mut daemon = site.start_with(&format!(
        "{}account \"{me}\" {{\n\tuser alice principal a\n\tuser bob principal b\n}}\n{}{}limit repositories per user 2\n",
        site.head(),
        block(&site, "", "mine", directives),
        block(&site, "more", "more", &format!("{directives}\tlimit repositories per user 3\n")),
    ));
    let push = |user: &str, name: &str| {
        let gotsh = regress::binaries().join("gotsh");
        let mut command = site.command("git");
        // As sshd runs a forced command.
        let script =
            format!("#!/bin/sh\nshift\nSSH_ORIGINAL_COMMAND=\"$*\" exec {} --user {user}\n", gotsh.display());
        let ssh = site.path(&format!("ssh-{user}"));
        fs::write(&ssh, script).expect("writes");
        fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).expect("sets");
        command
            .env("GIT_SSH_COMMAND", &ssh)
            .env("GIT_SSH_VARIANT", "simple")
            .env("GOTD_UNIX_SOCKET", site.socket());
        command.arg("-C").arg(&work).args(["push", "-q", &format!("ssh://host/{name}"), "main"]);
        run(&mut command, b"", 120)
    };
    push("alice", "one").good();
    push("alice", "deep/er/two").good();
    let refused = push("alice", "three");
    refused.bad("three: cannot be created: you have made 2 repositories here (limit repositories per user)");
    assert!(!site.repository("mine/three.git").exists());
    // What is there is hers as before, others have their own number, and so has another directory.
    push("alice", "one").good();
    push("alice", "there").good();
    push("bob", "three").good();
    for name in ["more/one", "more/two", "more/three"] {
        push("alice", name).good();
    }
    push("alice", "more/four").bad("you have made 3 repositories here");
    daemon.logged(&[
        "result=refused",
        &format!("who={me}/alice"),
        "repository=three",
        "(limit repositories per user)",
    ]);
    daemon.assert_reached("limit repositories per user", 2);
    assert_eq!(daemon.reached("limit repositories per user"), 2);
    let creator = fs::read_to_string(site.repository("mine/three.git/gotd-creator")).expect("reads");
    assert_eq!(creator, format!("{me}/bob\n"));
    fs::remove_dir_all(site.repository("mine/deep/er/two.git")).expect("removes");
    push("alice", "four").good();
    push("alice", "five").bad("you have made 2 repositories here");
    daemon.assert_serves();
}
