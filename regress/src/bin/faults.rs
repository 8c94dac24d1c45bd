//! `make faults`: kills every process of a push at random moments, fills the disk, and looks at
//! what is left. A third of the pushes change so many references that these are one change of
//! packed-refs.
//!
//! After each run: `git fsck --full --strict` is clean; every reference is at its old or its new
//! value, with `--atomic` all at the same; a push that was answered "ok" is there. After one more
//! push nothing temporary is left.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regress::daemon::Daemon;
use regress::history;
use regress::run::run;
use regress::site::Site;

/// Roles of a push, and how many runs in a hundred each is killed in. The last four end the daemon.
const VICTIMS: &[(&str, u32)] = &[
    ("session", 24),
    ("repo_write", 24),
    ("verify", 20),
    ("commit_refs", 20),
    ("listen", 3),
    ("auth", 3),
    ("sockets", 3),
    ("gotd", 3),
];

/// How many more branches a push of many changes.
const MANY: usize = 70;

/// A small generator: runs must be repeatable from their seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

/// What was seen.
#[derive(Debug, Default)]
struct Tally {
    runs: u32,
    killed: u32,
    answered_ok: u32,
    answered_not: u32,
    at_new: u32,
    at_old: u32,
    restarts: u32,
}

fn main() {
    let mut runs = 500u32;
    let mut seed = 20_240_817u64;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let number = arguments.next().and_then(|n| n.parse::<u64>().ok());
        match (argument.as_str(), number) {
            ("--runs", Some(n)) => runs = u32::try_from(n).unwrap_or(runs),
            ("--seed", Some(n)) => seed = n.max(1),
            _ => {
                eprintln!("usage: faults [--runs n] [--seed n]");
                std::process::exit(2);
            }
        }
    }
    println!("seed {seed}");
    let tally = kills(runs, &mut Random(seed));
    println!("{tally:?}");
    println!("{} passed, 0 failed", tally.runs);
}

/// The branches: most pushes change the first two.
fn names() -> Vec<String> {
    let many = (0..MANY).map(|n| format!("refs/heads/many/{}/n{n}", n % 7));
    ["refs/heads/a", "refs/heads/b"].map(str::to_owned).into_iter().chain(many).collect()
}

/// Their values; nothing for those that do not exist.
fn values(site: &Site, repository: &Path) -> Vec<String> {
    let mut list = site.command("git");
    list.arg("-C").arg(repository).args(["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads"]);
    let text = run(&mut list, b"", 20).good().text();
    let of_name: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(' ')).collect();
    names().iter().map(|name| of_name.get(name.as_str()).copied().unwrap_or_default().to_owned()).collect()
}

/// A new commit on the work tree's branch with some content that does not compress.
fn commit(site: &Site, work: &Path, random: &mut Random) -> String {
    let size = 20_000 + random.next(200_000);
    let noise: Vec<u8> = (0..size).map(|_| random.next(256) as u8).collect();
    std::fs::write(work.join(format!("file{}", random.next(20))), noise).expect("writes");
    site.git_in(work, ["add", "-A"]);
    site.git_in(work, ["commit", "-q", "-m", "more"]);
    site.git_in(work, ["rev-parse", "HEAD"]).trim().to_owned()
}

fn victim(random: &mut Random) -> &'static str {
    let mut at = random.next(100) as u32;
    for (name, share) in VICTIMS {
        if at < *share {
            return name;
        }
        at -= share;
    }
    "verify"
}

fn kills(runs: u32, random: &mut Random) -> Tally {
    let site = Site::new();
    let repository = site.repository("r.git");
    history::init(&site, &repository, "--bare");
    let work = site.clone_path("work");
    site.git(["init", "-q", "--initial-branch=main", &work.to_string_lossy()]);
    let mut daemon = site.start();
    let mut tally = Tally::default();
    let names = names();
    let mut old = vec![String::new(); names.len()];
    for number in 0..runs {
        let new = commit(&site, &work, random);
        let atomic = number % 2 == 0;
        let pushed = if number % 3 == 0 { names.len() } else { 2 };
        let name = victim(random);
        let delay = Duration::from_micros(random.next(90_000));
        let mut push = site.command("git");
        push.arg("-C").arg(&work).arg("push").arg("-q");
        if atomic {
            push.arg("--atomic");
        }
        push.arg("gotd:r.git").args(names[..pushed].iter().map(|name| format!("HEAD:{name}")));
        let thread = std::thread::spawn(move || run(&mut push, b"", 60));
        std::thread::sleep(delay);
        if kill_one(&daemon, name, random) {
            tally.killed += 1;
        }
        let done = thread.join().expect("git ends");
        let ok = done.status == 0;
        if matches!(name, "listen" | "auth" | "sockets" | "gotd") {
            // Whether or not it was hit in time: all is gone within 2 s, or still serves.
            if daemon.gone_within(2.5) {
                drop(daemon);
                daemon = site.start_with(&site.serve_all());
                tally.restarts += 1;
            }
        }
        settle(&daemon);
        let now = values(&site, &repository);
        check(&site, &repository, (&old, &now, pushed), &new, atomic, ok, number, name);
        tally.runs += 1;
        *(if ok { &mut tally.answered_ok } else { &mut tally.answered_not }) += 1;
        *(if now[0] == new { &mut tally.at_new } else { &mut tally.at_old }) += 1;
        old = now;
    }
    commit(&site, &work, random);
    site.git_in(&work, ["push", "-q", "gotd:r.git", "HEAD:refs/heads/a", "HEAD:refs/heads/b"]);
    let left = leftovers(&repository);
    assert!(left.is_empty(), "left behind: {left:?}");
    daemon.stop();
    tally
}

/// Kills one process of that role, if there is one that serves; of the waiting ones none is.
fn kill_one(daemon: &Daemon, name: &str, random: &mut Random) -> bool {
    let pids = if name == "gotd" { vec![daemon.pid()] } else { daemon.role(name) };
    // Waiting sessions are as good as the one at work: the daemon must replace them.
    let Some(pid) = pids.get(random.next(pids.len() as u64) as usize) else { return false };
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL).is_ok()
}

/// Waits until no push is under way any more: a push that lost its client is still decided.
fn settle(daemon: &Daemon) {
    let end = Instant::now() + Duration::from_secs(30);
    let busy = || ["repo_write", "verify", "commit_refs"].iter().any(|role| !daemon.role(role).is_empty());
    while Instant::now() < end && busy() {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[allow(clippy::too_many_arguments, reason = "one check of everything that is known about a run")]
fn check(
    site: &Site,
    repository: &Path,
    (old, now, pushed): (&[String], &[String], usize),
    new: &str,
    atomic: bool,
    ok: bool,
    number: u32,
    victim: &str,
) {
    let what = format!(
        "run {number}, {victim} killed, atomic {atomic}, answered ok {ok}: {old:?} -> {now:?}, new {new}"
    );
    for (at, (before, after)) in old.iter().zip(now).enumerate() {
        assert!(after == before || (at < pushed && after == new), "{what}");
    }
    let (old, now) = (&old[..pushed], &now[..pushed]);
    if ok {
        assert!(now.iter().all(|value| value == new), "an answered push is missing: {what}");
    }
    if atomic {
        let changes = old.iter().zip(now).filter(|(before, after)| before != after).count();
        assert!(changes == 0 || changes == pushed, "half of an atomic push: {what}");
    }
    let fsck = run(
        site.command("git").arg("-C").arg(repository).args(["fsck", "--full", "--strict", "--no-dangling"]),
        b"",
        60,
    );
    assert!(fsck.status == 0 && fsck.text().is_empty(), "fsck: {what}\n{}{:?}", fsck.text(), fsck.err);
}

/// Whatever is in the repository and looks temporary.
fn leftovers(repository: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut stack = vec![repository.to_owned()];
    while let Some(directory) = stack.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let temporary = name.starts_with("gotd-incoming-")
                || name.ends_with(".lock")
                || name.ends_with(".new")
                || name.ends_with(".keep")
                || name.starts_with("tmp_");
            if temporary {
                found.push(path.clone());
            }
            if path.is_dir() {
                stack.push(path);
            }
        }
    }
    found
}
