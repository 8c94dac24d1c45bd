//! `commit_refs` changes the references of a push that needs packed-refs, at its end. Here somebody
//! else's lock keeps it waiting, while it is looked at and killed. And a push that sets nothing
//! leaves nothing, though its quarantine is made before its client is heard.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::run::wait_until;
use regress::{Daemon, Site, history, is_root, run};

/// Quarantines, and git's locks.
fn leftovers(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("lists").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("gotd-incoming-") || name.ends_with(".lock") {
            found.push(name);
        } else if entry.path().is_dir() {
            found.extend(leftovers(&entry.path()));
        }
    }
    found
}

/// An atomic push of two references, which waits for packed-refs.
fn waiting_push(site: &Site, daemon: &Daemon, work: &Path, repository: &Path) -> Child {
    fs::write(repository.join("packed-refs.lock"), "").expect("locks");
    let mut push = site.command("git");
    push.arg("-C").arg(work).args(["push", "-q", "--atomic", "gotd:r.git", "HEAD:refs/heads/a"]);
    push.arg("HEAD:refs/heads/b").stdout(Stdio::piped()).stderr(Stdio::piped());
    let push = push.spawn().expect("git starts");
    assert!(wait_until(20.0, || daemon.role("commit_refs").len() == 1), "{}", daemon.log());
    let locked = || leftovers(&repository.join("refs")).len() == 2;
    assert!(wait_until(20.0, locked), "it holds no locks: {}", daemon.log());
    push
}

fn ends(push: Child) -> String {
    let done = push.wait_with_output().expect("git ends");
    assert!(!done.status.success());
    String::from_utf8_lossy(&done.stderr).into_owned()
}

#[test]
fn what_it_is_asked_for_is_all_or_nothing_when_it_is_killed() {
    let site = Site::new();
    let repository = history::repository(&site, "r.git", 3, "sha1");
    let daemon = site.start();
    let work = site.work_tree(&repository);
    site.commit(&work, "new", "new");
    let absent = |name: &str| !repository.join("refs/heads").join(name).exists();
    for victim in ["commit_refs", "repo_write"] {
        let push = waiting_push(&site, &daemon, &work, &repository);
        assert!(daemon.role("verify").is_empty(), "verify is there while references change");
        let pid = daemon.role(victim)[0];
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kills");
        let told = ends(push);
        if victim == "commit_refs" {
            assert!(told.contains("commit_refs: ended early"), "{told}");
        }
        // No process changes references later, when the client was told of a failure.
        assert!(wait_until(5.0, || daemon.role("commit_refs").is_empty()), "{victim}: {}", daemon.log());
        fs::remove_file(repository.join("packed-refs.lock")).expect("unlocks");
        assert!(absent("a") && absent("b"), "{victim}");
    }
    let mut push = site.command("git");
    push.arg("-C").arg(&work).args(["push", "-q", "--atomic", "gotd:r.git"]);
    run(push.args(["HEAD:refs/heads/a", "HEAD:refs/heads/b"]), b"", 60).good();
    assert_eq!(leftovers(&repository), Vec::<String>::new());
    let tip = site.git_in(&work, ["rev-parse", "HEAD"]);
    assert_eq!(site.git_in(&repository, ["rev-parse", "a"]), tip);
}

#[test]
fn it_has_no_descriptor_of_a_client() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    let repository = history::repository(&site, "r.git", 3, "sha1");
    let daemon = site.start();
    let work = site.work_tree(&repository);
    site.commit(&work, "new", "new");
    let push = waiting_push(&site, &daemon, &work, &repository);
    let pid = daemon.role("commit_refs")[0];
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("root lists").flatten();
    let open: Vec<String> =
        open.map(|fd| fs::read_link(fd.path()).unwrap_or_default().display().to_string()).collect();
    // Its standard error is the only pipe; its two links are the only sockets.
    assert_eq!(open.iter().filter(|what| what.starts_with("pipe:")).count(), 1, "{open:?}");
    assert_eq!(open.iter().filter(|what| what.starts_with("socket:")).count(), 2, "{open:?}");
    let elsewhere = open.iter().filter(|what| what.starts_with('/') && *what != "/dev/null");
    let root = site.path("").display().to_string();
    assert!(elsewhere.clone().all(|what| what.starts_with(&root)), "{open:?}");
    fs::remove_file(repository.join("packed-refs.lock")).expect("unlocks");
    assert!(push.wait_with_output().expect("git ends").status.success(), "{}", daemon.log());
}

#[test]
fn a_push_that_sets_nothing_leaves_nothing_and_a_waiting_process_makes_nothing() {
    let site = Site::new();
    let repository = history::repository(&site, "r.git", 3, "sha1");
    let daemon = site.start_with(&site.serve_all().replace("\tpermit", "\tprotect branch main\n\tpermit"));
    assert!(wait_until(20.0, || !daemon.role("repository").is_empty()), "{}", daemon.log());
    assert_eq!(leftovers(&repository), Vec::<String>::new());
    let work = site.work_tree(&repository);
    let push = |arguments: &[&str]| {
        let mut push = site.command("git");
        let done = run(push.arg("-C").arg(&work).args(["push", "-q", "gotd:r.git"]).args(arguments), b"", 60);
        let gone = || ["repo_write", "verify", "commit_refs"].iter().all(|role| daemon.role(role).is_empty());
        assert!(wait_until(10.0, gone), "{arguments:?}: {}", daemon.log());
        assert_eq!(leftovers(&repository), Vec::<String>::new(), "{arguments:?}");
        done
    };
    push(&["HEAD:refs/heads/new"]).good();
    // Up to date, only looked, deleted, refused.
    push(&["HEAD:refs/heads/new"]).good();
    push(&["--dry-run", "HEAD:refs/heads/newer"]).good();
    push(&[":refs/heads/new"]).good();
    assert_ne!(push(&[":main"]).status, 0, "a protected branch was deleted");
    assert!(!daemon.log().contains("verify "), "{}", daemon.log());
}
