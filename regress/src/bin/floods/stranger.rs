//! The most that one anonymous address can cost: as many connections as it may have, each with the
//! worst requests that we know, without a pause.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use regress::process::daemon_cpu;
use regress::run::run;
use regress::site::Site;
use regress::tcp::{self, Client};
use regress::{Daemon, history, pkt};

use crate::measure::Usage;

/// Connections at a time; more than one address may have, so that the limit is what holds.
const CONNECTIONS: usize = 16;
/// Bytes of the object that is the base of a small delta.
const BASE: usize = 450 << 20;
/// A branch that shares nothing with main: git's own repository has one of this name.
const UNRELATED: &str = "todo";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 6);

/// A kind of request.
#[derive(Debug, Clone, Copy)]
enum Request {
    /// A clone whose client takes nothing.
    CloneNeverTaken,
    /// An object that is stored as a delta, whose base is large and is not sent.
    LargeBase,
    /// Questions about a history that share nothing with what the client has, on one connection.
    Negotiate,
    /// Questions about something that is there and has no history in common, on one connection.
    Unrelated,
    /// Listings, on one connection.
    List,
    /// A small clone after the other, each taken whole.
    Clones,
}

const ALL: [Request; 6] = [
    Request::CloneNeverTaken,
    Request::LargeBase,
    Request::Negotiate,
    Request::Unrelated,
    Request::List,
    Request::Clones,
];

/// Lets each kind run so many seconds.
pub fn run_each(seconds: u64) {
    let (site, daemon, address) = start();
    println!("one address, {CONNECTIONS} connections, {seconds} s of each request");
    for kind in ALL {
        let (before, usage) = (daemon_cpu(daemon.pid()), Usage::watch(daemon.pid()));
        let end = Instant::now() + Duration::from_secs(seconds);
        let requests = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..CONNECTIONS {
                scope.spawn(|| {
                    while Instant::now() < end {
                        ask(kind, address, end, &requests);
                        std::thread::sleep(Duration::from_millis(20));
                    }
                });
            }
        });
        let most = usage.end();
        // What still runs is counted when it has ended.
        let settled = regress::run::wait_until(30.0, || daemon.role("repo_read").is_empty());
        let cpu = daemon_cpu(daemon.pid()) - before;
        println!(
            "{kind:?}: {} requests, {cpu:.1} s of processor time ({:.0} % of one core), {} MiB, {} processes{}",
            requests.load(Ordering::Relaxed),
            100.0 * cpu / seconds as f64,
            most.memory >> 20,
            most.processes,
            if settled { "" } else { "; not gone after 30 s" },
        );
    }
    drop(site);
}

/// A site with a repository of some history (`REPO`, a bare one, or a small one made here) and one
/// with a large base.
fn start() -> (Site, Daemon, SocketAddr) {
    let (site, address) = (Site::new(), tcp::free_v4());
    match std::env::var_os("REPO") {
        Some(repo) => {
            let to = site.repository("history.git");
            site.git(["clone", "-q", "--mirror", &repo.to_string_lossy(), &to.to_string_lossy()]).good();
        }
        None => {
            let path = history::repository(&site, "history.git", 4000, "sha1");
            let tree = site.git_in(&path, ["rev-parse", "refs/heads/main^{tree}"]);
            let commit = site.git_in(&path, ["commit-tree", "-m", "unrelated", tree.trim()]);
            site.git_in(&path, ["branch", UNRELATED, commit.trim()]);
        }
    }
    large_base(&site);
    let configuration = format!(
        "{}{}repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\twants reachable\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
    );
    let daemon = site.start_with(&configuration);
    (site, daemon, address)
}

/// Two commits: the older one's file is a delta against the newer one's, which compresses well.
fn large_base(site: &Site) {
    let work = site.clone_path("large");
    site.git(["init", "-q", "-b", "main", &work.to_string_lossy()]).good();
    let line = b"The same line again and again, so that a large object is a small file.\n";
    let mut text: Vec<u8> = line.iter().copied().cycle().take(BASE).collect();
    let commit = |text: &[u8], message: &str| {
        fs::write(work.join("file"), text).expect("writes");
        site.git_in(&work, ["add", "file"]);
        site.git_in(&work, ["commit", "-q", "-m", message]);
    };
    commit(&text[..BASE - 100], "first");
    site.git_in(&work, ["branch", "first"]);
    text[0] = b't';
    commit(&text, "second");
    let to = site.repository("large.git");
    site.git(["clone", "-q", "--bare", &work.to_string_lossy(), &to.to_string_lossy()]).good();
    let mut command = site.command("git");
    command.arg("-C").arg(&to).args(["-c", "core.bigFileThreshold=1g", "-c", "pack.windowMemory=0"]);
    run(command.args(["repack", "-adfq", "--depth=2", "--window=10"]), b"", 300).good();
}

fn ask(kind: Request, address: SocketAddr, end: Instant, requests: &AtomicUsize) {
    let repository = if matches!(kind, Request::LargeBase) { "/large.git" } else { "/history.git" };
    let mut client = Client::open_from(address, ADDRESS);
    if !client.write(&tcp::request(repository, 2)) || client.try_read_to_flush().is_none() {
        return;
    }
    let branch = if matches!(kind, Request::LargeBase) { "first" } else { "main" };
    let mut tip = |branch: &str| {
        client.write(&pkt::v2("ls-refs", [format!("ref-prefix refs/heads/{branch}\n")]));
        let listed = client.try_read_to_flush()?;
        Some(String::from_utf8_lossy(listed.get(4..44)?).into_owned())
    };
    let Some(want) = tip(branch).map(|tip| format!("want {tip}\n")) else { return };
    let other = tip(UNRELATED).unwrap_or_else(|| "1".repeat(40));
    let mut unknown = 0_u64;
    while Instant::now() < end {
        requests.fetch_add(1, Ordering::Relaxed);
        let request = match kind {
            Request::CloneNeverTaken => {
                client.write(&pkt::v2("fetch", [want.clone(), "deepen 100000\n".into(), "done\n".into()]));
                // Held as long as the daemon lets us.
                while Instant::now() < end && !is_over(&client) {
                    std::thread::sleep(Duration::from_millis(100));
                }
                return;
            }
            Request::LargeBase | Request::Clones => {
                client.write(&pkt::v2("fetch", [want.clone(), "deepen 1\n".into(), "done\n".into()]));
                client.write(pkt::FLUSH);
                let left = end.saturating_duration_since(Instant::now()).as_secs_f64();
                client.end(left.max(0.1));
                return;
            }
            Request::Negotiate => {
                let haves = (0..256).map(|_| {
                    unknown += 1;
                    format!("have {unknown:040x}\n")
                });
                pkt::v2("fetch", std::iter::once(want.clone()).chain(haves))
            }
            Request::Unrelated => pkt::v2("fetch", [want.clone(), format!("have {other}\n")]),
            Request::List => pkt::v2("ls-refs", ["peel\n", "symrefs\n"]),
        };
        if !client.write(&request) || client.try_read_to_flush().is_none() {
            return;
        }
    }
}

/// Whether the daemon has closed a connection whose answer is not read.
fn is_over(client: &Client) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;
    let hang_up = PollFlags::from_bits_retain(libc::POLLRDHUP);
    let mut fds = [PollFd::new(client.stream.as_fd(), hang_up)];
    poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
