//! Clients that are not git: dulwich, libgit2 (pygit2) and gitoxide (gix), through a real sshd.

use std::path::PathBuf;

use regress::clients::{DULWICH_FETCH, gix, python};
use regress::compare::{assert_clone, assert_mirror, assert_whole, listing, objects};
use regress::history;
use regress::{Daemon, Setup, Site, Sshd, run};

/// A repository behind gotd and an sshd.
struct Served {
    site: Site,
    original: PathBuf,
    url: String,
    daemon: Daemon,
    sshd: Sshd,
}

/// `None` where there is no sshd.
fn served() -> Option<Served> {
    if !Sshd::available() {
        return None;
    }
    let site = Site::new();
    let original = history::repository(&site, "demo.git", 30, "sha1");
    let daemon = site.start();
    let sshd = Sshd::start(&site, Setup::ForcedCommand, None);
    let url = format!("ssh://{}@127.0.0.1:{}/demo.git", sshd.user, sshd.port);
    Some(Served { site, original, url, daemon, sshd })
}

#[test]
fn dulwich_clones_and_fetches() {
    let Some(python) = python("dulwich") else { return };
    let Some(Served { site, original, url, daemon, sshd }) = served() else { return };
    let before = listing(&original);
    let clone = site.clone_path("dulwich.git");
    let mut command = site.command(python);
    command.env("GIT_SSH_COMMAND", &sshd.command).args(["-c", DULWICH_FETCH, &url]).arg(&clone);
    assert_eq!(run(&mut command, b"", 60).good().text(), "refs/heads/main\n");
    assert_mirror(&site, &original, &clone);
    assert_eq!(before, listing(&original));
    daemon.logged(&["result=ok", "protocol=0", "repository=demo.git"]);
}

#[test]
fn pygit2_clones_and_fetches() {
    let Some(python) = python("pygit2") else { return };
    let Some(Served { site, original, url, daemon, sshd }) = served() else { return };
    let script = "\
import sys, pygit2
url, path, key, user = sys.argv[1:5]
class Callbacks(pygit2.RemoteCallbacks):
    def credentials(self, url, username, allowed):
        return pygit2.Keypair(user, key + '.pub', key, '')
    def certificate_check(self, certificate, valid, host):
        return True
r = pygit2.clone_repository(url, path, bare=True, callbacks=Callbacks())
r.remotes['origin'].fetch(callbacks=Callbacks())
print(r.head.name)
";
    let clone = site.clone_path("pygit2.git");
    let fetch = |seconds| {
        let mut command = site.command(python);
        command.args(["-c", script, &url]).arg(&clone).arg(&sshd.key).arg(&sshd.user);
        run(&mut command, b"", seconds)
    };
    assert_eq!(fetch(60).good().text(), "refs/heads/main\n");
    assert_whole(&site, &clone);
    assert_eq!(objects(&site, &original), objects(&site, &clone));
    // libgit2 speaks version 0 only.
    daemon.logged(&["result=ok", "protocol=0", "repository=demo.git"]);
}

#[test]
fn gix_clones_and_fetches() {
    let Some(gix) = gix() else { return };
    let Some(Served { site, original, url, daemon, sshd }) = served() else { return };
    let clone = site.clone_path("gix");
    let command = || {
        let mut command = site.command(gix);
        command.env("GIT_SSH_COMMAND", &sshd.command).arg("--no-verbose");
        command
    };
    run(command().arg("clone").arg(&url).arg(&clone), b"", 60).good();
    assert_clone(&site, &original, &clone);
    history::grow(&site, &original, 5, 30);
    site.hand_over();
    run(command().arg("-r").arg(&clone).arg("fetch"), b"", 60).good();
    assert_clone(&site, &original, &clone);
    daemon.logged(&["result=ok", "repository=demo.git", "agent=git/oxide"]);
}
