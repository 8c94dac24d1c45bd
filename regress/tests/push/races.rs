//! Pushes beside each other, beside fetches and repacking, and clients that die at any moment of
//! one.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regress::compare::{assert_clone, assert_whole, leftovers, references};
use regress::raw::Session;
use regress::run::{Done, wait_until};
use regress::{Daemon, Site, history, pkt, run};

fn work_tree(site: &Site) -> (PathBuf, PathBuf) {
    let repository = history::repository(site, "r.git", 12, "sha1");
    (site.work_tree(&repository), repository)
}

/// A commit on top of main that no branch names.
fn commit(site: &Site, work: &Path, text: &str) -> String {
    site.git_in(work, ["commit-tree", "-p", "main", "-m", text, "main^{tree}"]).trim().to_owned()
}

fn push_in_background(site: &Site, work: &Path, what: String) -> std::thread::JoinHandle<Done> {
    let mut command = site.command("git");
    command.arg("-C").arg(work).args(["push", "-q", "gotd:r.git", &what]);
    std::thread::spawn(move || run(&mut command, b"", 180))
}

fn start(site: &Site) -> Daemon {
    let me = regress::site::present_user();
    site.start_with(&format!(
        "{}connection {{\n\tlimit user \"{me}\" 256\n\trate total 2000\n\tqueue length 256\n\tqueue timeout 120s\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
    ))
}

#[test]
fn a_hundred_pushes_to_different_references_all_win() {
    let site = Site::new();
    let (work, repository) = work_tree(&site);
    let tips: Vec<String> = (0..100).map(|n| commit(&site, &work, &format!("number {n}"))).collect();
    let mut daemon = start(&site);
    let threads: Vec<_> = tips
        .iter()
        .enumerate()
        .map(|(n, tip)| push_in_background(&site, &work, format!("{tip}:refs/heads/many/{n}")))
        .collect();
    for thread in threads {
        thread.join().expect("ends").good();
    }
    for (n, tip) in tips.iter().enumerate() {
        let name = format!("refs/heads/many/{n}");
        assert_eq!(site.git_in(&repository, ["rev-parse", &name]).trim(), tip);
    }
    assert_eq!(leftovers(&repository), Vec::<PathBuf>::new());
    assert_whole(&site, &repository);
    daemon.assert_serves();
}

/// Eight of them, ten times: exactly one wins, and the others are told.
#[test]
fn of_pushes_to_one_reference_exactly_one_wins() {
    let site = Site::new();
    let (work, repository) = work_tree(&site);
    let tips: Vec<String> = (0..8).map(|n| commit(&site, &work, &format!("rival {n}"))).collect();
    let mut daemon = start(&site);
    for round in 0..10 {
        let name = format!("refs/heads/race/{round}");
        let threads: Vec<_> =
            tips.iter().map(|tip| push_in_background(&site, &work, format!("{tip}:{name}"))).collect();
        let ends: Vec<Done> = threads.into_iter().map(|t| t.join().expect("ends")).collect();
        let winners: Vec<&String> =
            tips.iter().zip(&ends).filter(|(_, e)| e.status == 0).map(|(t, _)| t).collect();
        assert_eq!(winners.len(), 1, "{round}: {:?}", ends.iter().map(|e| &e.err).collect::<Vec<_>>());
        assert_eq!(site.git_in(&repository, ["rev-parse", &name]).trim(), winners[0]);
        for end in ends.iter().filter(|e| e.status != 0) {
            assert!(end.err.contains("rejected") || end.err.contains("failed to update ref"), "{}", end.err);
        }
    }
    assert_eq!(leftovers(&repository), Vec::<PathBuf>::new());
    assert_whole(&site, &repository);
    daemon.assert_serves();
}

#[test]
fn a_push_during_a_fetch() {
    let site = Site::new();
    let bulky = history::bulky(&site, "bulk.git", 3);
    let (work, _) = work_tree(&site);
    let tip = history::tip(&site, &bulky);
    let daemon = start(&site);
    let mut fetch = Session::fetch(&site.socket(), "bulk.git", 2);
    fetch.begin_clone(&tip, 100_000);
    let mut push = site.command("git");
    push.arg("-C").arg(&work).args(["push", "-q", "gotd:bulk.git", "main:refs/heads/during"]);
    run(&mut push, b"", 60).good();
    // And a deletion, which rewrites what the fetch may still want to read.
    site.git_in(&bulky, ["pack-refs", "--all"]);
    site.hand_over();
    let mut push = site.command("git");
    push.arg("-C").arg(&work).args(["push", "-q", "gotd:bulk.git", ":refs/heads/during"]);
    run(&mut push, b"", 60).good();
    fetch.close();
    assert!(fetch.read_to_end(30).len() > 3_000_000, "the fetch lost something");
    daemon.logged(&["result=ok", "service=git-upload-pack", "repository=bulk.git"]);
    assert_whole(&site, &bulky);
}

/// The line of the manual's timer, as often as it can run, while pushes come in three at a time.
#[test]
fn the_timer_of_the_manual_while_pushes_run() {
    let site = Site::new();
    let (work, repository) = work_tree(&site);
    let manual = include_str!("../../../man/gotd.8");
    let line = ["repack", "-q", "--geometric=2", "-d", "--write-midx"];
    assert!(manual.contains(&line.join(" ")), "the manual says something else");
    let mut daemon = start(&site);
    let stop = Arc::new(AtomicBool::new(false));
    let mut repack = site.command("git");
    repack.arg("-C").arg(&repository).args(line);
    // As the account that gotd runs as, which is who owns the repository.
    if regress::is_root() {
        let arguments: Vec<_> = repack.get_args().map(ToOwned::to_owned).collect();
        let user = regress::site::UNPRIVILEGED;
        repack = site.command("setpriv");
        repack.args([format!("--reuid={user}"), "--clear-groups".into(), "git".into()]).args(arguments);
    }
    let flag = stop.clone();
    let keeper = std::thread::spawn(move || {
        let mut rounds = 0;
        while !flag.load(Ordering::Relaxed) {
            run(&mut repack, b"", 60).good();
            rounds += 1;
        }
        run(&mut repack, b"", 60).good();
        rounds
    });
    for round in 0..12 {
        let threads: Vec<_> = (0..3)
            .map(|n| {
                let tip = commit(&site, &work, &format!("{round} {n}"));
                push_in_background(&site, &work, format!("{tip}:refs/heads/timer/{round}-{n}"))
            })
            .collect();
        for thread in threads {
            thread.join().expect("ends").good();
        }
    }
    stop.store(true, Ordering::Relaxed);
    let rounds = keeper.join().expect("every repack works");
    let packs = fs::read_dir(repository.join("objects/pack")).expect("lists").flatten();
    let packs = packs.filter(|e| e.path().extension().is_some_and(|e| e == "pack")).count();
    println!("36 pushes during {rounds} repacks, {packs} packs at the end");
    assert!(rounds >= 2, "the repacking never ran beside a push");
    assert!(packs <= 8, "{packs} packs: they pile up");
    assert!(repository.join("objects/pack/multi-pack-index").exists());
    site.git_in(&repository, ["multi-pack-index", "verify"]);
    assert_eq!(references(&site, &repository).matches("refs/heads/timer/").count(), 36);
    assert_whole(&site, &repository);
    let clone = site.clone_path("clone");
    site.git(["clone", "-q", "gotd:r.git", &clone.to_string_lossy()]).good();
    assert_clone(&site, &repository, &clone);
    daemon.assert_serves();
}

/// A client that pushes by hand.
struct Pusher {
    gotsh: Child,
}

impl Pusher {
    fn start(site: &Site) -> Pusher {
        let mut gotsh = site.gotsh("git-receive-pack 'target.git'");
        gotsh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Pusher { gotsh: gotsh.spawn().expect("gotsh starts") }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.gotsh.stdin.as_mut().expect("a pipe").write_all(bytes).expect("it is taken");
    }

    /// As a machine that loses its network: both pipes and the process are gone at once.
    fn die(mut self) {
        let _ = self.gotsh.kill();
        drop((self.gotsh.stdin.take(), self.gotsh.stdout.take()));
        let _ = self.gotsh.wait();
    }
}

#[test]
fn clients_that_die() {
    let site = Site::new();
    let bulky = history::bulky(&site, "bulk.git", 2);
    let target = history::repository(&site, "target.git", 3, "sha1");
    let tip = history::tip(&site, &bulky);
    let mut daemon = start(&site);
    let mut objects = site.command("git");
    objects.arg("-C").arg(&bulky).args(["pack-objects", "--all", "--stdout", "-q"]);
    let pack = run(&mut objects, b"", 60).good().out;
    let settled = |daemon: &Daemon| {
        assert!(
            wait_until(20.0, || !daemon.gotctl(&["info"]).text().contains("git-receive-pack")
                && daemon.role("verify").is_empty()),
            "the push does not end: {}",
            daemon.log()
        );
        assert_eq!(leftovers(&target), Vec::<PathBuf>::new());
        assert_whole(&site, &target);
    };
    let value = |name: &str| {
        let mut command = site.command("git");
        command.arg("-C").arg(&target).args(["rev-parse", "-q", "--verify", name]);
        run(&mut command, b"", 20).text().trim().to_owned()
    };
    let head = |name: &str| {
        let line = format!("{} {tip} {name}\0report-status side-band-64k", "0".repeat(40));
        [pkt::line(line), pkt::FLUSH.to_vec()].concat()
    };
    // In the commands, behind them, and in the pack.
    for (number, share) in [0, 0, 1, 5, 9].into_iter().enumerate() {
        let name = format!("refs/heads/dead/{number}");
        let mut client = Pusher::start(&site);
        let head = head(&name);
        client.write(if number == 0 { &head[..head.len() / 2] } else { &head });
        client.write(&pack[..pack.len() * share / 10]);
        client.die();
        settled(&daemon);
        assert_eq!(value(&name), "", "{number}");
    }
    // After the last byte of the pack: decided without the client, one way or the other.
    for number in 0..10 {
        let name = format!("refs/heads/late/{number}");
        let mut client = Pusher::start(&site);
        client.write(&head(&name));
        client.write(&pack);
        client.die();
        settled(&daemon);
        let now = value(&name);
        assert!(now.is_empty() || now == tip, "{number}: {now}");
    }
    // It never reads its answer: the push is done all the same.
    let mut client = Pusher::start(&site);
    client.write(&head("refs/heads/unread"));
    client.write(&pack);
    assert!(wait_until(20.0, || value("refs/heads/unread") == tip), "{}", daemon.log());
    client.die();
    settled(&daemon);
    daemon.assert_serves();
}
