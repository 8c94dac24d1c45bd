//! The same pushes by git, dulwich and libgit2 (pygit2): what is in the repository afterwards is
//! what git's own server makes of them.

use std::path::{Path, PathBuf};

use regress::clients::python;
use regress::compare::{assert_whole, leftovers, references};
use regress::run::Done;
use regress::{Setup, Site, Sshd, history, run};

/// Pushes as refspecs of full names; a plus forces.
const STEPS: &[&[&str]] = &[
    // New branches.
    &["refs/heads/main:refs/heads/main", "refs/heads/main:refs/heads/new"],
    // Several at once, and a tag.
    &["refs/heads/main:refs/heads/a", "refs/heads/back:refs/heads/b", "refs/tags/v1:refs/tags/v1"],
    // A fast-forward.
    &["refs/heads/main:refs/heads/b"],
    // Backwards.
    &["+refs/heads/back:refs/heads/a"],
    &[":refs/heads/new"],
    // An existing commit under a new name.
    &["refs/heads/main:refs/heads/again"],
    // Another history in its place, and everything else together.
    &["+refs/heads/side:refs/heads/b", ":refs/heads/a", "refs/heads/side:refs/heads/third"],
    // Nothing.
    &["refs/heads/side:refs/heads/third"],
];

/// A work tree with the branches of [`STEPS`], and two empty repositories.
fn site() -> (Site, PathBuf, PathBuf, PathBuf) {
    let site = Site::new();
    let bare = history::repository(&site, "history.git", 20, "sha1");
    let work = site.work_tree(&bare);
    site.git_in(&work, ["branch", "back", "main~4"]);
    site.git_in(&work, ["checkout", "-q", "-b", "side", "main~2"]);
    site.commit(&work, "aside", "aside\n");
    site.git_in(&work, ["tag", "-f", "-a", "-m", "one", "v1", "main"]);
    let (ours, theirs) = (site.repository("ours.git"), site.path("theirs.git"));
    for path in [&ours, &theirs] {
        history::init(&site, path, "--object-format=sha1");
    }
    (site, work, ours, theirs)
}

fn git_push(site: &Site, from: &Path, url: &str, arguments: &[&str]) -> Done {
    site.push(from, &[&["-q", url], arguments].concat())
}

/// Makes each push by `client` to gotd and by git to git's own server, and compares.
fn compare((site, work, ours, theirs): &(Site, PathBuf, PathBuf, PathBuf), client: &dyn Fn(&[&str]) -> Done) {
    for step in STEPS {
        client(step).good();
        git_push(site, work, &theirs.to_string_lossy(), step).good();
        assert_eq!(references(site, ours), references(site, theirs), "{step:?}");
    }
    assert_eq!(leftovers(ours), Vec::<PathBuf>::new());
    assert_whole(site, ours);
}

#[test]
fn git_pushes() {
    let all = site();
    let _daemon = all.0.start();
    compare(&all, &|step| git_push(&all.0, &all.1, "gotd:ours.git", step));
}

#[test]
fn dulwich_pushes() {
    let (Some(python), true) = (python("dulwich"), Sshd::available()) else { return };
    let all = site();
    let daemon = all.0.start();
    let sshd = Sshd::start(&all.0, Setup::ForcedCommand, None);
    let script = "\
import sys
from dulwich import client, repo
url, path = sys.argv[1:3]
c, name = client.get_transport_and_path(url)
r = repo.Repo(path)
new = {}
for spec in sys.argv[3:]:
    source, target = spec.lstrip('+').split(':')
    new[target.encode()] = r.refs[source.encode()] if source else b'0' * 40
result = c.send_pack(name, lambda refs: new, r.generate_pack_data)
assert not any((result.ref_status or {}).values()), result.ref_status
";
    let url = format!("ssh://{}@127.0.0.1:{}/ours.git", sshd.user, sshd.port);
    compare(&all, &|step| {
        let mut command = all.0.command(python);
        command.env("GIT_SSH_COMMAND", &sshd.command).args(["-c", script, &url]).arg(&all.1).args(step);
        run(&mut command, b"", 60)
    });
    daemon.logged(&["result=ok", "service=git-receive-pack", "objects=151"]);
}

#[test]
fn pygit2_pushes() {
    let (Some(python), true) = (python("pygit2"), Sshd::available()) else { return };
    let all = site();
    let daemon = all.0.start();
    let sshd = Sshd::start(&all.0, Setup::ForcedCommand, None);
    let script = "\
import sys, pygit2
url, path, key, user = sys.argv[1:5]
class Callbacks(pygit2.RemoteCallbacks):
    def credentials(self, url, username, allowed):
        return pygit2.Keypair(user, key + '.pub', key, '')
    def certificate_check(self, certificate, valid, host):
        return True
    def push_update_reference(self, name, message):
        assert message is None, (name, message)
r = pygit2.Repository(path)
r.remotes.create('target', url).push(sys.argv[5:], callbacks=Callbacks())
r.remotes.delete('target')
";
    let url = format!("ssh://{}@127.0.0.1:{}/ours.git", sshd.user, sshd.port);
    compare(&all, &|step| {
        let mut command = all.0.command(python);
        command.args(["-c", script, &url]).arg(&all.1).arg(&sshd.key).arg(&sshd.user).args(step);
        run(&mut command, b"", 60)
    });
    daemon.logged(&["result=ok", "service=git-receive-pack", "objects=151"]);
}

/// Options of `git push`, each to both servers: the same status and the same references.
#[test]
fn options_of_git_push() {
    let (site, work, ours, theirs) = site();
    let mirror = site.clone_path("mirror.git");
    site.git(["clone", "-q", "--mirror", &work.to_string_lossy(), &mirror.to_string_lossy()]).good();
    site.git_in(&mirror, ["notes", "add", "-m", "a note", "main"]);
    let refs = site.git_in(&mirror, ["for-each-ref", "--format=delete %(refname)", "refs/remotes/"]);
    let mut command = site.command("git");
    run(command.arg("-C").arg(&mirror).args(["update-ref", "--stdin"]), refs.as_bytes(), 20).good();
    site.git_in(&theirs, ["config", "receive.advertisePushOptions", "true"]);
    site.git_in(&theirs, ["config", "receive.fsckObjects", "true"]);
    let _daemon = site.start();
    let lease = format!("--force-with-lease=refs/heads/back:{}", "1".repeat(40));
    let steps: &[(&Path, &[&str])] = &[
        (&mirror, &["--mirror"]),
        (&work, &["--tags"]),
        (&work, &["--follow-tags", "main:refs/heads/followed"]),
        (&work, &["-o", "ci.skip", "-o", "topic=a b", "side:refs/heads/optional"]),
        (&work, &["--atomic", "main:refs/heads/x", "side:refs/heads/y", ":refs/heads/optional"]),
        (&work, &["--atomic", "back:refs/heads/x", "side:refs/heads/z"]),
        (&work, &["--force-with-lease", "back:refs/heads/x"]),
        (&work, &[&lease, "+main:refs/heads/back"]),
        (&work, &["--no-thin", "side:refs/heads/fat"]),
        (&work, &["--prune", "refs/heads/*:refs/heads/*"]),
        (&work, &["-f", "--all"]),
        (&work, &["main~3:refs/tags/light"]),
        (&work, &["-d", "refs/tags/light"]),
        (&mirror, &["--mirror"]),
        (&work, &["-c", "x"]),
    ];
    for (from, arguments) in steps {
        for version in ["0", "1"] {
            let once = |url: &str| {
                let mut command = site.command("git");
                command.env("GIT_PROTOCOL", format!("version={version}"));
                command.arg("-C").arg(from).arg("-c").arg(format!("protocol.version={version}"));
                run(command.args(["push", "-q", url]).args(*arguments), b"", 60)
            };
            // With options and nothing to push, git writes on behind what ends the request, and
            // dies of SIGPIPE if the server, C git's as well, has gone by then.
            let push = |url: &str| {
                (0..30).map(|_| once(url)).find(|done| done.status != 141).expect("SIGPIPE each time")
            };
            let (a, b) = (push("gotd:ours.git"), push(&theirs.to_string_lossy()));
            assert_eq!(a.status, b.status, "{arguments:?} version {version}\n{}\n{}", a.err, b.err);
            assert_eq!(references(&site, &ours), references(&site, &theirs), "{arguments:?}");
        }
    }
    assert_whole(&site, &ours);
}

/// From a shallow clone: what the server can complete is taken; what would make it shallow is
/// refused, as git does unless `receive.shallowUpdate` says otherwise.
#[test]
fn pushes_from_shallow_clones() {
    let (site, work, ours, theirs) = site();
    let _daemon = site.start();
    for url in ["gotd:ours.git", &theirs.to_string_lossy()] {
        git_push(&site, &work, url, &["main"]).good();
    }
    // A branch of which the server has nothing when its last commit comes alone. (Where the server
    // has what is behind such a commit, gotd takes it, and git does not.)
    site.git_in(&work, ["commit", "-q", "--allow-empty", "-m", "further aside"]);
    let shallow = site.clone_path("shallow");
    let from = format!("file://{}", work.display());
    site.git(["clone", "-q", "--depth=3", "-b", "main", &from, &shallow.to_string_lossy()]).good();
    site.git_in(&shallow, ["fetch", "-q", "--depth=1", &from, "side:aside"]);
    std::fs::write(shallow.join("more"), "more\n").expect("writes");
    site.git_in(&shallow, ["add", "more"]);
    site.git_in(&shallow, ["commit", "-q", "-m", "more"]);
    let steps: &[&[&str]] = &[
        &["main"],
        &["HEAD~1:refs/heads/known"],
        &["aside:refs/heads/aside"],
        &["main:refs/heads/second", "aside:refs/heads/aside"],
        &[":refs/heads/known"],
    ];
    for step in steps {
        let a = git_push(&site, &shallow, "gotd:ours.git", step);
        let b = git_push(&site, &shallow, &theirs.to_string_lossy(), step);
        assert_eq!(a.status, b.status, "{step:?}\n{}\n{}", a.err, b.err);
        assert_eq!(references(&site, &ours), references(&site, &theirs), "{step:?}");
        assert!(a.status == 0 || a.err.contains("shallow update not allowed"), "{step:?}: {}", a.err);
    }
    // Here git itself takes the one and refuses the other.
    let before = references(&site, &ours);
    let both = ["--atomic", "main:refs/heads/third", "aside:refs/heads/aside"];
    git_push(&site, &shallow, "gotd:ours.git", &both).bad("shallow update not allowed");
    assert_eq!(references(&site, &ours), before);
    assert!(!ours.join("shallow").exists());
    assert_whole(&site, &ours);
}
