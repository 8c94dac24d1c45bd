//! A flood over git://: a thousand connections at once from one address, while an honest client of
//! another one clones.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use regress::run::wait_until;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history};

const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 66, 6);
const CONNECTIONS: usize = 1000;
const PER_ADDRESS: usize = 8;

fn start() -> (Site, Daemon, SocketAddr) {
    // Times are compared.
    let (site, address) = (Site::alone(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 48);
    let limits =
        format!("\tlimit git total 40\n\tlimit per address {PER_ADDRESS}\n\tfirst request timeout 3");
    let daemon = site.start_with(&site.serve_strangers(address, &limits, ""));
    (site, daemon, address)
}

fn clone(site: &Site, address: SocketAddr, name: &str) -> Duration {
    let start = Instant::now();
    let path = site.clone_path(name);
    site.git(["clone", "-q", "--bare", &format!("git://{address}/bulk.git"), &path.to_string_lossy()]).good();
    let took = start.elapsed();
    std::fs::remove_dir_all(path).expect("removes");
    took
}

/// Resident memory of all processes of the daemon that is theirs alone, in KiB.
fn memory(daemon: &Daemon) -> u64 {
    let own = |pid: i32| {
        let line = regress::process::status(pid).get("RssAnon").cloned().unwrap_or_default();
        line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
    };
    daemon.processes().iter().map(|p| own(p.pid)).sum()
}

#[test]
fn an_honest_client_is_served_in_a_flood() {
    let (site, mut daemon, address) = start();
    clone(&site, address, "warm");
    let before = daemon.processes().len();
    let mut quiet: Vec<Duration> = Vec::new();
    let mut flooded: Vec<Duration> = Vec::new();
    let (mut most_processes, mut most_memory) = (0, 0);
    for round in 0..3 {
        quiet.push(clone(&site, address, &format!("quiet{round}")));
        let (stop, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // All at once, kept open; some say something, most nothing.
                let mut all = Vec::with_capacity(CONNECTIONS);
                for n in 0..CONNECTIONS {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let mut client = Client::open_from(address, FLOODER);
                    if n % 3 == 0 {
                        client.write(&tcp::request("/bulk.git", 2));
                    }
                    all.push(client);
                    opened.fetch_add(1, Ordering::Relaxed);
                }
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
            assert!(wait_until(20.0, || opened.load(Ordering::Relaxed) >= 100), "the flood does not begin");
            flooded.push(clone(&site, address, &format!("flooded{round}")));
            most_processes = most_processes.max(daemon.processes().len());
            most_memory = most_memory.max(memory(&daemon));
            assert!(wait_until(30.0, || opened.load(Ordering::Relaxed) == CONNECTIONS), "the flood is stuck");
            stop.store(true, Ordering::Relaxed);
        });
    }
    let best = |times: &[Duration]| times.iter().min().copied().unwrap_or_default().as_secs_f64();
    let ratio = best(&flooded) / best(&quiet);
    eprintln!(
        "clone {:.2} s undisturbed, {:.2} s in the flood: {ratio:.2}; {most_processes} processes and {} MiB at most",
        best(&quiet),
        best(&flooded),
        most_memory / 1024
    );
    assert!(ratio <= 1.5, "{quiet:?} {flooded:?}");
    // What the flooder may have at a time, and the honest client: two processes each, and those
    // that wait.
    assert!(
        most_processes <= before + 2 * (PER_ADDRESS + 1) + 4,
        "{most_processes} processes, {before} before"
    );
    daemon.logged(&["refused", "limit per address", "address=127.0.66.6"]);
    let lines = daemon.log().lines().filter(|line| line.contains("refused")).count();
    assert!(lines < 300, "{lines} lines about {CONNECTIONS} refused connections");
    // Nothing is left when it is over.
    assert!(wait_until(15.0, || daemon.processes().len() <= before + 2), "{:?}", daemon.processes());
    assert!(daemon.role("repo_read").is_empty(), "{:?}", daemon.processes());
    daemon.assert_serves();
}
