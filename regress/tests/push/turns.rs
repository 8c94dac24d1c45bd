//! Pushes that are indexed and checked at a time: the others wait and finish, and who sends slowly
//! keeps nobody waiting.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::run::Done;
use regress::{Daemon, Site, history, run};

struct Place {
    site: Site,
    daemon: Daemon,
    work: PathBuf,
}

fn start(limits: &str) -> Place {
    let site = Site::new();
    for name in ["a.git", "b.git"] {
        history::init(&site, &site.repository(name), "--object-format=sha1");
    }
    let bulk = history::bulky(&site, "bulk.git", 12);
    let work = site.work_tree(&bulk);
    let daemon = site.start_with(&format!("{}{limits}\n", site.serve_all()));
    Place { site, daemon, work }
}

impl Place {
    fn push(&self, to: &str, branch: &str) -> std::process::Command {
        let mut command = self.site.command("git");
        command.arg("-C").arg(&self.work).args(["push", "--progress", &format!("gotd:{to}")]);
        command.arg(format!("main:refs/heads/{branch}"));
        command
    }

    /// A push whose pack has been begun and is being checked: the process that does it was stopped.
    fn held(&self, to: &str) -> (Child, Pid) {
        let deadline = Instant::now() + Duration::from_secs(60);
        for n in 0.. {
            assert!(Instant::now() < deadline, "never seen at work: {}", self.daemon.log());
            let mut command = self.push(to, &format!("held{n}"));
            let mut push = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            while push.try_wait().expect("is there").is_none() {
                let Some(verify) = self.daemon.role("verify").first().copied().map(Pid::from_raw) else {
                    continue;
                };
                if kill(verify, Signal::SIGSTOP).is_err() {
                    continue;
                }
                if self.daemon.metric("gotd_pushes_active") == 1 {
                    return (push, verify);
                }
                let _ = kill(verify, Signal::SIGCONT);
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        unreachable!("the loop has no end")
    }
}

#[track_caller]
fn assert_pushed(place: &Place, to: &str, branch: &str) {
    let path = place.site.repository(to);
    let theirs = place.site.git_in(&path, ["rev-parse", &format!("refs/heads/{branch}")]);
    assert_eq!(theirs, place.site.git_in(&place.work, ["rev-parse", "main"]));
}

/// A push that has to wait is told so, waits, and ends well; another repository's limit is its own.
#[test]
fn pushes_beyond_the_limit_wait_and_finish() {
    for (limits, directive) in [
        ("limit pushes total 1", "limit pushes total"),
        ("limit pushes per repository 1", "limit pushes per repository"),
    ] {
        let place = start(limits);
        let (mut held, verify) = place.held("a.git");
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| run(&mut place.push("a.git", "second"), b"", 120));
            place.daemon.assert_metric("gotd_pushes_waiting", 1);
            if directive == "limit pushes per repository" {
                run(&mut place.push("b.git", "beside"), b"", 60).good();
                assert_pushed(&place, "b.git", "beside");
            }
            place.daemon.assert_metric("gotd_pushes_waiting", 1);
            kill(verify, Signal::SIGCONT).expect("goes on");
            second.join().expect("a push")
        });
        let told = second.good().err;
        assert!(told.contains(&format!("({directive})")), "{told}");
        assert!(told.contains("waiting for other pushes: 1 being checked"), "{told}");
        assert!(held.wait().expect("is waited for").success(), "{}", place.daemon.log());
        assert_pushed(&place, "a.git", "second");
        place.daemon.logged(&["push waits", &format!("limit=\"{directive}\"")]);
        place.daemon.assert_reached(directive, 1);
        place.daemon.assert_metric("gotd_pushes_active", 0);
    }
}

/// Who sends the beginning of a pack and then nothing has no place meanwhile; what he sends later
/// is taken all the same.
#[test]
fn a_slow_pusher_does_not_hold_a_place() {
    let place = start("limit pushes total 1");
    let gotsh = regress::binaries().join("gotsh");
    let flag = place.site.path("go-on");
    let text = format!(
        "#!/bin/sh\nwhile [ \"${{1#-}}\" != \"$1\" ]; do shift 2; done\n\
         {{ head -c 300000; while [ ! -e \"{}\" ]; do sleep 0.1; done; cat; }} |\n\
         GOTD_UNIX_SOCKET=\"{}\" \"{}\" -c \"$2\"\n",
        flag.display(),
        place.site.socket().display(),
        gotsh.display()
    );
    let script = place.site.script("slow-ssh", &text);
    let slow = place
        .push("a.git", "slow")
        .env("GIT_SSH_COMMAND", script)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let mut slow = slow.expect("starts");
    place.daemon.assert_metric("gotd_pushes_stalled", 1);
    for (to, branch) in [("a.git", "fast"), ("b.git", "fast")] {
        let done: Done = run(&mut place.push(to, branch), b"", 60);
        done.good();
        assert_pushed(&place, to, branch);
    }
    assert_eq!(place.daemon.metric("gotd_pushes_stalled"), 1);
    std::fs::write(&flag, "").expect("writes");
    assert!(slow.wait().expect("is waited for").success(), "{}", place.daemon.log());
    assert_pushed(&place, "a.git", "slow");
    assert_whole(&place.site, &place.site.repository("a.git"));
    place.daemon.assert_metric("gotd_memory_reserved_bytes", 0);
}

fn assert_whole(site: &Site, repository: &Path) {
    site.git_in(repository, ["fsck", "--strict", "--no-dangling"]);
}
