//! Fetches of every kind through a real sshd, in the three ways that gotsh can be set up, in every
//! version of the protocol, compared with what C git's own server gives.

use std::path::Path;

use regress::compare::{assert_clone, assert_mirror, assert_whole, listing, objects, references};
use regress::history::{self, FIRST, STEP};
use regress::site::present_user;
use regress::{Done, Setup, Site, Sshd};

const COMMITS: u64 = 40;

/// Everything with one set-up of sshd.
fn all_fetches(setup: Setup, tag: &str) {
    if !Sshd::available() {
        return;
    }
    let site = Site::new();
    let original = history::repository(&site, "demo.git", COMMITS, "sha1");
    let temporary = Sshd::account(setup, tag);
    // First, because the account must be there when the daemon reads its name.
    let sshd = Sshd::start(&site, setup, temporary);
    let daemon = site.start_with(&format!(
        "{}connection {{ limit user \"{user}\" 64 }}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{user}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        user = sshd.user,
    ));
    let before = listing(&original);
    for version in ["0", "1", "2"] {
        let there = Fetches { site: &site, sshd: &sshd, original: &original, version };
        there.list();
        there.clone();
        there.mirror();
        there.shallow("--depth=3");
        there.shallow(&format!("--shallow-since={}", FIRST + (COMMITS - 12) * STEP));
        there.single_branch();
    }
    assert_eq!(before, listing(&original), "a fetch changed the repository");
    for version in ["0", "2"] {
        Fetches { site: &site, sshd: &sshd, original: &original, version }.increment();
    }
    let line = daemon.logged(&["session", "result=ok", "repository=demo.git", "service=git-upload-pack"]);
    assert!(line.contains(&format!("who={}", sshd.user)), "{line}");
    assert!(line.contains("told-address=\"127.0.0.1"), "{line}");
    // Only with AcceptEnv does the version get through.
    daemon.logged(&["result=ok", "protocol=2"]);
    daemon.logged(&["result=ok", "agent=git/"]);
}

struct Fetches<'a> {
    site: &'a Site,
    sshd: &'a Sshd,
    original: &'a Path,
    version: &'a str,
}

impl Fetches<'_> {
    /// git with this version through gotd.
    fn ours(&self, arguments: &[&str]) -> Done {
        let version = format!("protocol.version={}", self.version);
        self.sshd.git(self.site, ["-c", &version].iter().chain(arguments))
    }

    /// git with this version through C git's upload-pack.
    fn theirs(&self, arguments: &[&str]) -> Done {
        let version = format!("protocol.version={}", self.version);
        self.site.git(["-c", &version].iter().chain(arguments))
    }

    fn original(&self) -> String {
        format!("file://{}", self.original.display())
    }

    fn fresh(&self, name: &str) -> std::path::PathBuf {
        let path = self.site.clone_path(name);
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    fn list(&self) {
        let ours = self.ours(&["ls-remote", "--symref", "gotd:demo.git"]).good();
        assert_eq!(ours.text(), self.theirs(&["ls-remote", "--symref", &self.original()]).good().text());
        assert_eq!(ours.err, "");
        let some = self.ours(&["ls-remote", "gotd:/demo", "refs/heads/*"]).good();
        assert_eq!(some.text(), self.theirs(&["ls-remote", &self.original(), "refs/heads/*"]).good().text());
    }

    fn clone(&self) {
        let path = self.fresh("clone");
        self.ours(&["clone", "-q", "gotd:demo.git", &path.to_string_lossy()]).good();
        assert_clone(self.site, self.original, &path);
        assert!(path.join("main-file").exists(), "HEAD was not checked out");
    }

    fn mirror(&self) {
        let path = self.fresh("mirror");
        self.ours(&["clone", "-q", "--mirror", "gotd:demo.git", &path.to_string_lossy()]).good();
        assert_mirror(self.site, self.original, &path);
    }

    /// A shallow clone is cut where git's own is, and becomes whole.
    fn shallow(&self, option: &str) {
        let (ours, theirs) = (self.fresh("ours"), self.fresh("theirs"));
        let arguments = ["clone", "-q", "--no-single-branch", option];
        self.ours(&[&arguments[..], &["gotd:demo.git", &ours.to_string_lossy()]].concat()).good();
        self.theirs(&[&arguments[..], &[&self.original(), &theirs.to_string_lossy()]].concat()).good();
        assert_whole(self.site, &ours);
        assert_eq!(boundary(&ours), boundary(&theirs));
        assert!(!boundary(&ours).is_empty());
        assert_eq!(references(self.site, &ours), references(self.site, &theirs));
        assert_eq!(objects(self.site, &ours), objects(self.site, &theirs));
        let commits = |path: &Path| self.site.git_in(path, ["rev-list", "--all"]);
        let before = commits(&ours);
        self.ours(&["-C", &ours.to_string_lossy(), "fetch", "-q", "--deepen=2"]).good();
        if self.version == "2" {
            // Before 2.54 git takes history away by that, so that its boundary is another one.
            assert_whole(self.site, &ours);
            let after = commits(&ours);
            let lost: Vec<_> = before.lines().filter(|id| !after.contains(id)).collect();
            assert!(lost.is_empty() && after.len() > before.len(), "lost {lost:?}");
        } else {
            self.theirs(&["-C", &theirs.to_string_lossy(), "fetch", "-q", "--deepen=2"]).good();
            assert_eq!(boundary(&ours), boundary(&theirs));
        }
        self.ours(&["-C", &ours.to_string_lossy(), "fetch", "-q", "--unshallow"]).good();
        assert!(boundary(&ours).is_empty());
        assert_clone(self.site, self.original, &ours);
    }

    fn single_branch(&self) {
        let (ours, theirs) = (self.fresh("ours"), self.fresh("theirs"));
        let arguments = ["clone", "-q", "--single-branch", "--branch", "side"];
        self.ours(&[&arguments[..], &["gotd:demo.git", &ours.to_string_lossy()]].concat()).good();
        self.theirs(&[&arguments[..], &[&self.original(), &theirs.to_string_lossy()]].concat()).good();
        assert_whole(self.site, &ours);
        assert_eq!(references(self.site, &ours), references(self.site, &theirs));
        assert_eq!(objects(self.site, &ours), objects(self.site, &theirs));
    }

    /// What came since is fetched, and only that.
    fn increment(&self) {
        let path = self.fresh("increment");
        let clone = path.to_string_lossy();
        self.ours(&["clone", "-q", "gotd:demo.git", &clone]).good();
        // The client has something that the server does not know, so not every have is common.
        let me = ["-C", &clone, "commit", "-q", "--allow-empty", "-m", "mine"];
        self.site.git(me).good();
        let count = self.site.git_in(self.original, ["rev-list", "--count", "main"]);
        let from = 1000 + count.trim().parse::<u64>().expect("a number");
        history::grow(self.site, self.original, 3, from);
        self.site.hand_over();
        let done = self.ours(&["-C", &clone, "fetch", "--progress", "origin"]).good();
        assert!(done.err.contains("Enumerating objects: "), "{}", done.err);
        let total = done.err.split("Total ").nth(1).and_then(|rest| rest.split(' ').next());
        // Three commits with two trees and a blob each; whether blobs of the same content are among
        // what the client has is more than a server must find out.
        assert!(matches!(total.map(str::parse), Some(Ok(9..=12))), "{}", done.err);
        self.site.git(["-C", &clone, "reset", "-q", "--hard", "origin/main"]).good();
        self.site.git(["-C", &clone, "reflog", "expire", "--expire=now", "--all"]).good();
        assert_clone(self.site, self.original, &path);
        // Nothing new: nothing comes.
        self.ours(&["-C", &clone, "fetch", "-q"]).good();
    }
}

/// The shallow boundary of a clone.
fn boundary(clone: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(clone.join(".git/shallow")).unwrap_or_default();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn as_a_forced_command() {
    all_fetches(Setup::ForcedCommand, "f");
}

#[test]
fn as_a_login_shell() {
    all_fetches(Setup::LoginShell, "l");
}

#[test]
fn under_the_names_of_gits_programs() {
    all_fetches(Setup::Names, "n");
}

/// Without `AcceptEnv GIT_PROTOCOL` the server never hears of version 2 and speaks version 0.
#[test]
fn without_the_environment_variable_it_is_version_0() {
    let site = Site::new();
    let original = history::repository(&site, "demo.git", 5, "sha1");
    let daemon = site.start();
    let mut command = site.command("git");
    command.args(["clone", "-q", "--mirror", "gotd:demo.git"]).arg(site.clone_path("m"));
    // A stand-in for ssh which drops the variable, as sshd does unless it is told otherwise.
    let script = format!("#!/bin/sh\nunset GIT_PROTOCOL\nexec {} \"$@\"\n", site.path("ssh").display());
    let script = site.script("ssh-without", &script);
    regress::run(command.env("GIT_SSH_COMMAND", script), b"", 30).good();
    assert_mirror(&site, &original, &site.clone_path("m"));
    daemon.logged(&["result=ok", "protocol=0", &format!("who={}", present_user())]);
}
