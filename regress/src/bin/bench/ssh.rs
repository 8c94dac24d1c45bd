//! Through a real sshd: git's own client with gotsh as forced command beside `git-upload-pack`, in
//! turns.
//!
//! Each server has an sshd of its own, of the same program and settings. What sshd, gotsh and the
//! daemon, or sshd, the account's shell and git, take is counted; the client is not.

use std::path::Path;
use std::time::Instant;

use regress::daemon::Daemon;
use regress::process::daemon_cpu;
use regress::run::wait_until;
use regress::site::Site;
use regress::sshd::{Setup, Sshd};

use crate::measure::{Cost, configuration, family, head, row, served, start, wait_rested, wait_served};

/// One of the two.
struct Server<'a> {
    sshd: Sshd,
    daemon: Option<&'a Daemon>,
    url: String,
}

/// All workloads; prints a table and returns rows of JSON.
pub fn bench(repository: &Path, pairs: usize, only: &[String]) -> Vec<String> {
    let names = ["ssh ls-remote", "ssh clone"];
    if !names.iter().any(|name| crate::wanted(only, name)) {
        return Vec::new();
    }
    if !Sshd::available() {
        println!("ssh: not measured: no sshd");
        return Vec::new();
    }
    let (site, other) = (Site::new(), Site::new());
    let daemon = start(&site, &configuration(&site, repository));
    let ours = Server {
        sshd: Sshd::start(&site, Setup::ForcedCommand, None),
        daemon: Some(&daemon),
        url: "gotd:bench".to_owned(),
    };
    let theirs = Server {
        sshd: Sshd::start(&other, Setup::Git, None),
        daemon: None,
        url: format!("gotd:{}", repository.display()),
    };
    head(&format!("{} through sshd", repository.display()), pairs);
    let mut rows = Vec::new();
    for name in names.into_iter().filter(|name| crate::wanted(only, name)) {
        let repeat = if name.ends_with("clone") { 3 } else { 20 };
        // One of each that does not count, so that both find the files in memory.
        measure(&site, &ours, name, 1);
        wait_rested(&daemon);
        measure(&other, &theirs, name, 1);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            a.push(measure(&site, &ours, name, repeat));
            wait_rested(&daemon);
            b.push(measure(&other, &theirs, name, repeat));
        }
        rows.push(row(&repository.display().to_string(), name, &a, &b));
    }
    rows
}

/// Runs git's client `repeat` times and gives the mean of what the servers took.
fn measure(site: &Site, server: &Server<'_>, name: &str, repeat: usize) -> Cost {
    let pids = || [Some(server.sshd.pid()), server.daemon.map(Daemon::pid)];
    let cpu = || pids().into_iter().flatten().map(daemon_cpu).sum::<f64>();
    let (before, mut wall) = (cpu(), 0.0);
    for _ in 0..repeat {
        let sessions = server.daemon.map_or(0, served);
        let start = Instant::now();
        if name.ends_with("clone") {
            let copy = site.path("copy.git");
            server
                .sshd
                .git(site, ["clone", "--quiet", "--mirror", &server.url, &copy.to_string_lossy()])
                .good();
            wall += start.elapsed().as_secs_f64();
            std::fs::remove_dir_all(&copy).expect("removes the copy");
        } else {
            server.sshd.git(site, ["ls-remote", "--quiet", &server.url]).good();
            wall += start.elapsed().as_secs_f64();
        }
        if let Some(daemon) = server.daemon {
            wait_served(daemon, sessions);
        }
    }
    // sshd reaps the last connection's process a moment after the client has its answer, and counts
    // it from then on.
    wait_until(10.0, || family(server.sshd.pid()).len() <= 1);
    let times = repeat as f64;
    Cost { cpu: (cpu() - before) / times, wall: wall / times, ..Cost::default() }
}
