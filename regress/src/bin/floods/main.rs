//! `make floods`: what an honest client notices while others flood the daemon, and what one
//! stranger can cost it.
//!
//! `floods` measures clones of an ssh user (gotsh, as sshd runs it) and of a git:// client
//! undisturbed, and again in each flood. A flood passes when both clones take at most [`MOST`]
//! times as long, the processes stay below what the limits allow, and everything is gone a little
//! after the flood's end. `floods --stranger SECONDS` lets one address send the worst requests that
//! we know, each kind for so many seconds, and prints the daemon's memory and processor time.

mod flooders;
mod measure;
mod stranger;

use std::net::SocketAddr;
use std::time::Duration;

use regress::run::{run, wait_until};
use regress::site::Site;
use regress::{Daemon, history, tcp};

use flooders::{Flood, Flooders};
use measure::Usage;

/// A clone in a flood may take so many times as long as without.
const MOST: f64 = 1.5;
/// The honest user's id, where root can become it.
const HONEST: u32 = 61_010;
/// Seconds after which a clone counts as refused.
const CLONE_SECONDS: &str = "60";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        // Started by ourselves, as another user.
        ["--local", socket, connections] => flooders::local(socket, connections),
        ["--stranger", seconds] => stranger::run_each(seconds.parse().unwrap_or(60)),
        [] => floods(3),
        ["--rounds", rounds] => floods(rounds.parse().unwrap_or(3)),
        _ => {
            eprintln!("usage: floods [--rounds n | --stranger seconds]");
            std::process::exit(2);
        }
    }
}

/// The site of all floods: one repository that a clone takes a while for.
fn start() -> (Site, Daemon, SocketAddr) {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 48);
    history::repository(&site, "small.git", 200, "sha1");
    let configuration = format!(
        "{}{}repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit ro {}\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        honest_uid(),
    );
    let daemon = site.start_with(&configuration);
    (site, daemon, address)
}

fn honest_uid() -> u32 {
    if regress::is_root() { HONEST } else { nix::unistd::geteuid().as_raw() }
}

/// Clones once over each way; seconds of wall time, without an end for a clone that is refused.
fn clone_both(site: &Site, address: SocketAddr) -> [f64; 2] {
    let urls = ["gotd:bulk.git".to_owned(), format!("git://{address}/bulk.git")];
    urls.map(|url| {
        let path = site.path("honest/clone");
        let _ = std::fs::remove_dir_all(&path);
        let mut command = site.command("timeout");
        command.args([CLONE_SECONDS, "git", "clone", "-q", "--bare", &url]).arg(&path);
        command.env("HOME", site.path("honest"));
        if regress::is_root() {
            use std::os::unix::process::CommandExt;
            command.uid(HONEST).gid(HONEST);
        }
        let begin = std::time::Instant::now();
        let done = run(&mut command, b"", 90);
        if done.status == 0 {
            return begin.elapsed().as_secs_f64();
        }
        let why = done.err.lines().next().unwrap_or("no answer");
        println!("  a clone of {url} is refused: {why}");
        f64::INFINITY
    })
}

fn honest_home(site: &Site) {
    let home = site.path("honest");
    std::fs::create_dir_all(&home).expect("makes a directory");
    if regress::is_root() {
        std::os::unix::fs::chown(&home, Some(HONEST), Some(HONEST)).expect("changes an owner");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn floods(rounds: usize) {
    let (site, daemon, address) = start();
    honest_home(&site);
    clone_both(&site, address);
    let before = daemon.processes().len();
    let (mut passed, mut failed) = (0, 0);
    println!(
        "flood: ssh and git:// clones against undisturbed ones; most processes, most memory of their own"
    );
    for flood in Flood::ALL {
        if flood.needs_root() && !regress::is_root() {
            println!("{}: skipped: needs root", flood.name());
            continue;
        }
        let (mut quiet, mut flooded) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
        for _ in 0..rounds {
            for (all, took) in quiet.iter_mut().zip(clone_both(&site, address)) {
                all.push(took);
            }
        }
        let flooders = Flooders::start(flood, &site, address);
        let usage = Usage::watch(daemon.pid());
        for _ in 0..rounds {
            for (all, took) in flooded.iter_mut().zip(clone_both(&site, address)) {
                all.push(took);
            }
        }
        let usage = usage.end();
        let connections = flooders.stop();
        let settled = wait_until(30.0, || daemon.processes().len() <= before + 2);
        let ratios: Vec<f64> =
            flooded.into_iter().zip(quiet).map(|(flooded, quiet)| median(flooded) / median(quiet)).collect();
        let good = settled && ratios.iter().all(|ratio| *ratio <= MOST);
        println!(
            "{}: {:.2} {:.2}; {} processes ({before} before), {} MiB; {connections} connections made{}",
            flood.name(),
            ratios[0],
            ratios[1],
            usage.processes,
            usage.memory >> 20,
            if settled { "" } else { "; not gone after 30 s" },
        );
        if good {
            passed += 1
        } else {
            failed += 1
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        std::process::exit(1);
    }
}
