//! What the three processes of a push hold while its pack is coming in, as root sees it in /proc.
//! The table is printed: `cargo test -p regress --test process push_privileges:: -- --nocapture`.
//! That each of them cannot get more is what the test `escapes` tries.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::Stdio;

use regress::run::wait_until;
use regress::{Site, history, is_root, pkt, process, run};

/// One open descriptor.
struct Open {
    number: i32,
    what: String,
    /// `r`, `w`, `rw`, or `path` for one that only names something.
    access: &'static str,
}

impl Open {
    fn is_file(&self) -> bool {
        self.what.starts_with('/') && self.what != "/dev/null"
    }
}

fn open(pid: i32) -> Vec<Open> {
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("root lists").flatten() {
        let number: i32 = entry.file_name().to_string_lossy().parse().expect("a number");
        let what = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap_or("0");
        let flags = i32::from_str_radix(flags.trim(), 8).expect("octal flags");
        let access = match flags {
            _ if flags & libc::O_PATH != 0 => "path",
            _ => ["r", "w", "rw", "?"][(flags & libc::O_ACCMODE) as usize],
        };
        all.push(Open { number, what, access });
    }
    all.sort_by_key(|open| open.number);
    all
}

/// A line of /proc/PID/maps that can be neither written nor executed.
fn only_read(line: &str) -> bool {
    line.split_whitespace().nth(1).is_some_and(|access| access.starts_with("r--"))
}

#[test]
fn what_the_processes_of_a_push_hold() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    let bulky = history::bulky(&site, "bulk.git", 3);
    let repository = history::repository(&site, "r.git", 5, "sha1");
    let tip = history::tip(&site, &bulky);
    let daemon = site.start();
    let mut objects = site.command("git");
    objects.arg("-C").arg(&bulky).args(["pack-objects", "--all", "--stdout", "-q"]);
    let pack = run(&mut objects, b"", 60).good().out;
    let mut gotsh = site.gotsh("git-receive-pack 'r.git'");
    gotsh.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut gotsh = gotsh.spawn().expect("gotsh starts");
    let mut to = gotsh.stdin.take().expect("a pipe");
    let own = [to.as_raw_fd(), gotsh.stdout.as_ref().expect("a pipe").as_raw_fd()];
    let own =
        own.map(|fd| fs::read_link(format!("/proc/self/fd/{fd}")).expect("a link").display().to_string());
    let line = format!("{} {tip} refs/heads/new\0report-status", "0".repeat(40));
    to.write_all(&pkt::line(line)).expect("writes");
    to.write_all(pkt::FLUSH).expect("writes");
    to.write_all(&pack[..pack.len() / 2]).expect("writes");
    // What came has gone into the quarantine.
    let store = repository.join("objects");
    let incoming = || {
        let names = fs::read_dir(&store).expect("lists").flatten().map(|entry| entry.path());
        let mut quarantine = names.filter(|path| path.display().to_string().contains("gotd-incoming-"));
        quarantine.next().and_then(|q| fs::metadata(q.join("pack")).ok()).map_or(0, |meta| meta.len())
    };
    assert!(wait_until(20.0, || incoming() > 1 << 20), "nothing comes in: {}", daemon.log());

    // What gotsh was given, beside what it got from here.
    let from_here: Vec<String> =
        open(std::process::id().cast_signed()).into_iter().map(|fd| fd.what).collect();
    let given = open(gotsh.id().cast_signed());
    let given = |access: &str| {
        let pipes = given.iter().filter(|fd| fd.what.starts_with("pipe:") && fd.access == access);
        let pipes: Vec<&str> =
            pipes.map(|fd| fd.what.as_str()).filter(|what| !from_here.iter().any(|o| o == what)).collect();
        let [pipe] = pipes[..] else { panic!("{access}: {pipes:?}") };
        pipe.to_owned()
    };
    let clients = [given("w"), given("r")];
    let info = daemon.gotctl(&["info"]).good().text();
    let line = info.lines().find(|line| line.contains("git-receive-pack")).expect("it is under way");
    let pids = line.rsplit_once("pids ").expect("its processes").1.split(' ');
    let pids: Vec<i32> = pids.map(|pid| pid.parse().expect("a pid")).collect();
    let name = |pid: &i32| process::status(*pid).remove("Name").unwrap_or_default();
    let roles: BTreeMap<String, i32> = pids.iter().map(|pid| (name(pid), *pid)).collect();
    let verify = daemon.role("verify");
    assert_eq!(verify.len(), 1);
    let root = site.path("").display().to_string();
    let at = |role: &str| *roles.get(role).unwrap_or_else(|| panic!("{role}: not in {line}"));
    for (role, pid) in [("session", at("session")), ("repo_write", at("repo_write")), ("verify", verify[0])] {
        let status = process::status(pid);
        let field = |key: &str| status.get(key).cloned().unwrap_or_default();
        println!(
            "{role}: uid {}, CapEff {}, NoNewPrivs {}, Seccomp {}",
            field("Uid").split_whitespace().next().unwrap_or_default(),
            field("CapEff"),
            field("NoNewPrivs"),
            field("Seccomp"),
        );
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{role}");
        assert!(field("Uid").split_whitespace().all(|uid| uid != "0"), "{role}");
        assert_eq!(field("CapEff"), "0000000000000000", "{role}");
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("root reads");
        let mapped: Vec<&str> = maps.lines().filter(|line| line.contains(&root)).collect();
        let open = open(pid);
        for fd in &open {
            let from = if clients.contains(&fd.what) { "  (the client's)" } else { "" };
            println!("  {:>3} {:<4} {}{from}", fd.number, fd.access, fd.what.replace(&root, ""));
            assert!(!own.contains(&fd.what), "{role}: a descriptor of the client's own");
        }
        for line in &mapped {
            let fields: Vec<&str> = line.split_whitespace().collect();
            println!("  map {:<4} {}", fields[1], fields[5].replace(&root, ""));
        }
        let files: Vec<&Open> = open.iter().filter(|fd| fd.is_file()).collect();
        let writable: Vec<&&Open> = files.iter().filter(|fd| ["w", "rw"].contains(&fd.access)).collect();
        let from_client = |number: usize| open.iter().any(|fd| fd.what == clients[number]);
        match role {
            "session" => {
                assert!(
                    files.is_empty(),
                    "session: {:?}",
                    files.iter().map(|fd| &fd.what).collect::<Vec<_>>()
                );
                assert!(mapped.is_empty(), "session: {mapped:?}");
                assert!(from_client(1), "it answers the client");
            }
            "repo_write" => {
                // The two that it created, and nothing of the client's own.
                assert!(writable.iter().all(|fd| fd.what.contains("/gotd-incoming-")));
                assert!(!mapped.iter().any(|line| line.contains("gotd-incoming-")), "{mapped:?}");
                assert!(mapped.iter().all(|line| only_read(line)), "{mapped:?}");
                assert!(!from_client(0) && !from_client(1), "it has the client's pipes");
            }
            _ => {
                let mut names: Vec<&str> =
                    writable.iter().filter_map(|fd| fd.what.rsplit('/').next()).collect();
                names.sort_unstable();
                assert_eq!(names, ["idx", "pack"], "only what it was given");
                assert!(writable.iter().all(|fd| fd.what.contains("/objects/gotd-incoming-")));
                assert!(mapped.iter().all(|line| only_read(line)), "{mapped:?}");
                assert!(from_client(0) && !from_client(1), "it reads from the client, and never answers");
            }
        }
    }
    to.write_all(&pack[pack.len() / 2..]).expect("writes");
    drop(to);
    assert!(gotsh.wait().expect("ends").success(), "{}", daemon.log());
}
