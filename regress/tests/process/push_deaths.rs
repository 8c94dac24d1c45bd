//! Every process of the daemon is killed in every state of a push: the client has the list and
//! thinks, half of its pack has come, its references wait for `commit_refs`. The client is told of
//! a failure, within two seconds no process and no file of that push is left, and nothing changed.
//!
//! A table of what the clients were told is printed:
//! `cargo test -p regress --test process push_deaths:: -- --nocapture`.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Stdio};
use std::thread::JoinHandle;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::run::wait_until;
use regress::{Daemon, Site, history, pkt, run};

/// A repository, the pack of another one with the same history and more, and its tip.
struct Ground {
    site: Site,
    repository: PathBuf,
    pack: Vec<u8>,
    tip: String,
}

impl Ground {
    fn new() -> Ground {
        let site = Site::new();
        let bulky = history::bulky(&site, "bulk.git", 3);
        let repository = history::repository(&site, "r.git", 3, "sha1");
        let mut objects = site.command("git");
        objects.arg("-C").arg(&bulky).args(["pack-objects", "--all", "--stdout", "-q"]);
        let pack = run(&mut objects, b"", 60).good().out;
        let tip = history::tip(&site, &bulky);
        Ground { site, repository, pack, tip }
    }

    /// What the client sends until it is in this state, and the rest.
    fn input(&self, state: State) -> (Vec<u8>, Vec<u8>) {
        let zero = "0".repeat(40);
        let mut all = [
            pkt::line(format!("{zero} {} refs/heads/a\0report-status atomic", self.tip)),
            pkt::line(format!("{zero} {} refs/heads/b", self.tip)),
            pkt::FLUSH.to_vec(),
        ]
        .concat();
        let commands = all.len();
        all.extend_from_slice(&self.pack);
        let rest = all.split_off(match state {
            State::Listed => 0,
            State::Pack => commands + self.pack.len() / 2,
            State::Commit => all.len(),
        });
        (all, rest)
    }

    fn incoming(&self) -> u64 {
        let names = fs::read_dir(self.repository.join("objects")).expect("lists").flatten();
        let mut quarantine = names.filter(|e| e.file_name().to_string_lossy().starts_with("gotd-incoming-"));
        let pack = quarantine.next().and_then(|q| fs::metadata(q.path().join("pack")).ok());
        pack.map_or(0, |meta| meta.len())
    }

    /// References, as git sees them, and what no push may leave.
    fn state(&self) -> (String, Vec<String>) {
        let refs = self.site.git_in(&self.repository, ["for-each-ref"]);
        let mut left: Vec<String> = regress::compare::listing(&self.repository).into_keys().collect();
        left.retain(|name| name.contains("gotd-incoming-") || name.ends_with(".lock"));
        (refs, left)
    }
}

/// How far a push is.
#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    /// The list of references has come; the client thinks.
    Listed,
    /// Half of the pack was sent.
    Pack,
    /// `commit_refs` waits for a lock that somebody holds.
    Commit,
}

/// A push by gotsh in the middle.
struct Push {
    gotsh: Child,
    to: Option<ChildStdin>,
    err: ChildStderr,
    /// What the client reads after the beginning of the list.
    told: Option<JoinHandle<Vec<u8>>>,
    /// What the client has not sent yet.
    after: Vec<u8>,
}

impl Push {
    fn start(ground: &Ground, daemon: &Daemon, state: State) -> Push {
        let mut gotsh = ground.site.gotsh("git-receive-pack 'r.git'");
        gotsh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut gotsh = gotsh.spawn().expect("gotsh starts");
        let mut to = gotsh.stdin.take().expect("a pipe");
        let mut from = gotsh.stdout.take().expect("a pipe");
        let err = gotsh.stderr.take().expect("a pipe");
        let mut head = [0; 4];
        from.read_exact(&mut head).expect("a list comes");
        // What gotsh writes later must not stop it.
        let told = std::thread::spawn(move || {
            let mut told = Vec::new();
            let _ = from.read_to_end(&mut told);
            told
        });
        if state == State::Commit {
            fs::write(ground.repository.join("packed-refs.lock"), "").expect("locks");
        }
        let (before, after) = ground.input(state);
        to.write_all(&before).expect("writes");
        let reached = || match state {
            State::Listed => daemon.role("verify").len() == 1,
            State::Pack => ground.incoming() > 1 << 20,
            State::Commit => !daemon.role("commit_refs").is_empty(),
        };
        assert!(wait_until(20.0, reached), "{state:?}: {}", daemon.log());
        Push { gotsh, to: Some(to), err, after, told: Some(told) }
    }

    /// The client goes on and closes its end, as git does. Returns whether it was told of a failure,
    /// and the words.
    fn end(mut self) -> (bool, String) {
        if let Some(mut to) = self.to.take() {
            let after = std::mem::take(&mut self.after);
            // It may block where nobody reads.
            std::thread::spawn(move || to.write_all(&after));
        }
        let mut status = None;
        let ended = wait_until(20.0, || {
            status = self.gotsh.try_wait().expect("waits");
            status.is_some()
        });
        if !ended {
            let _ = self.gotsh.kill();
        }
        assert!(ended, "gotsh hangs");
        let mut said = String::new();
        let _ = self.err.read_to_string(&mut said);
        let told = self.told.take().and_then(|told| told.join().ok()).unwrap_or_default();
        let report = String::from_utf8_lossy(&told);
        let refused = report.lines().filter(|line| line.contains("ng refs/")).map(str::to_owned);
        said.extend(refused);
        let ok = status.is_some_and(|status| status.success());
        (!ok || said.contains("ng refs/heads/a"), said)
    }
}

/// A test that fails in the middle leaves no gotsh.
impl Drop for Push {
    fn drop(&mut self) {
        let _ = self.gotsh.kill();
        let _ = self.gotsh.wait();
    }
}

fn of_the_push(daemon: &Daemon) -> Vec<i32> {
    let roles = ["repo_write", "verify", "commit_refs"];
    roles.iter().flat_map(|role| daemon.role(role)).collect()
}

/// The session of the push, by what `gotctl info` says.
fn session_of_the_push(daemon: &Daemon) -> i32 {
    let info = daemon.gotctl(&["info"]).good().text();
    let line = info.lines().find(|line| line.contains("git-receive-pack")).expect("it is under way");
    let pids = line.rsplit_once("pids ").expect("its processes").1.split(' ');
    let pids: Vec<i32> = pids.map(|pid| pid.parse().expect("a pid")).collect();
    *pids.iter().find(|pid| daemon.role("session").contains(pid)).expect("a session")
}

/// One victim of a state, which is a process of this push alone: others are served on.
fn killed_of_the_push(state: State, role: &str) {
    let ground = Ground::new();
    let mut daemon = ground.site.start();
    let before = ground.state();
    let push = Push::start(&ground, &daemon, state);
    let session = session_of_the_push(&daemon);
    let victim = match role {
        "session" => session,
        role => daemon.role(role)[0],
    };
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("kills");
    unlock(&ground, state);
    let (failed, said) = push.end();
    println!("{state:?} | {role} | {}", said.trim());
    let gone = || of_the_push(&daemon).is_empty() && !daemon.role("session").contains(&session);
    assert!(wait_until(2.0, gone), "{state:?} {role}: {:?}\n{}", daemon.processes(), daemon.log());
    daemon.assert_serves();
    if ["repo_write", "commit_refs"].contains(&role) {
        // These files are its own, and the locks: the next push takes them away.
        assert_pushes(&ground);
        return assert_unchanged(&ground, state, role, &before, failed);
    }
    assert_unchanged(&ground, state, role, &before, failed);
    assert_pushes(&ground);
}

/// One victim of a state that the daemon cannot do without.
fn killed_of_the_daemon(state: State, role: &str, at: usize) {
    let ground = Ground::new();
    let mut daemon = ground.site.start();
    let before = ground.state();
    let push = Push::start(&ground, &daemon, state);
    let victim = match role {
        "parent" => daemon.pid(),
        role => daemon.role(role)[at],
    };
    kill(Pid::from_raw(victim), Signal::SIGKILL).expect("kills");
    assert!(daemon.gone_within(2.0), "{state:?} {role}: left: {:?}", daemon.processes());
    unlock(&ground, state);
    let (failed, said) = push.end();
    println!("{state:?} | {role} {at} | {}", said.trim());
    assert!(said.contains("gotsh: "), "{state:?} {role}: {said}");
    // The next push takes what a daemon that has gone could not.
    drop(daemon);
    let daemon = ground.site.start();
    assert_pushes(&ground);
    drop(daemon);
    assert_unchanged(&ground, state, role, &before, failed);
}

/// Takes the lock of the one in whose way it stood.
fn unlock(ground: &Ground, state: State) {
    if state == State::Commit {
        fs::remove_file(ground.repository.join("packed-refs.lock")).expect("unlocks");
    }
}

/// No reference of the push is there, and git finds nothing wrong. `commit_refs` may have had its
/// lock before its session died: then both are there.
fn assert_unchanged(ground: &Ground, state: State, role: &str, before: &(String, Vec<String>), failed: bool) {
    let (refs, left) = ground.state();
    let refs: String = refs.lines().filter(|line| !line.ends_with("refs/heads/after")).collect();
    let old: String = before.0.lines().collect();
    let made = ["refs/heads/a", "refs/heads/b"].map(|name| refs.contains(name));
    assert_eq!(made[0], made[1], "{state:?} {role}: one of two: {refs}");
    match (state, made[0]) {
        (State::Commit, true) => {}
        (_, made) => assert_eq!((made, refs), (false, old), "{state:?} {role}"),
    }
    assert!(failed, "{state:?} {role}: the client was told of no failure");
    assert_eq!(left, Vec::<String>::new(), "{state:?} {role}");
    run(ground.site.command("git").arg("-C").arg(&ground.repository).args(["fsck", "--strict"]), b"", 60)
        .good();
}

fn assert_pushes(ground: &Ground) {
    let work = ground.site.path("after");
    clone(&ground.site, &work);
    ground.site.git_in(&work, ["push", "-q", "origin", "HEAD:refs/heads/after"]);
}

fn clone(site: &Site, work: &Path) {
    site.git(["clone", "-q", "gotd:r.git", &work.to_string_lossy()]).good();
}

#[test]
fn a_client_that_thinks_loses_any_of_its_processes() {
    for role in ["session", "repo_write", "verify"] {
        killed_of_the_push(State::Listed, role);
    }
}

#[test]
fn half_a_pack_loses_any_of_its_processes() {
    for role in ["session", "repo_write", "verify"] {
        killed_of_the_push(State::Pack, role);
    }
}

#[test]
fn waiting_references_lose_any_of_their_processes() {
    for role in ["session", "repo_write", "commit_refs"] {
        killed_of_the_push(State::Commit, role);
    }
}

#[test]
fn a_client_that_thinks_loses_its_daemon() {
    of_the_daemon(State::Listed);
}

#[test]
fn half_a_pack_loses_its_daemon() {
    of_the_daemon(State::Pack);
}

#[test]
fn waiting_references_lose_their_daemon() {
    of_the_daemon(State::Commit);
}

fn of_the_daemon(state: State) {
    for role in ["parent", "listen", "auth", "sockets"] {
        killed_of_the_daemon(state, role, 0);
    }
    for spawner in 0..3 {
        killed_of_the_daemon(state, "spawn", spawner);
    }
}
