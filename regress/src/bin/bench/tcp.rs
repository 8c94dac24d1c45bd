//! git:// beside git-daemon: connections served in a second, each an ls-remote of a small
//! repository.

use std::net::SocketAddr;
use std::process::{Child, Stdio};
use std::time::Instant;

use regress::site::Site;
use regress::tcp::{self, Client};
use regress::{history, pkt};

use crate::measure::start;

/// Connections of one measurement, one after another.
const CONNECTIONS: u32 = 200;

/// Measures both in turns; prints the medians and returns a row of JSON.
pub fn bench(pairs: usize, only: &[String]) -> Vec<String> {
    if !crate::wanted(only, "git://") {
        return Vec::new();
    }
    let site = Site::new();
    history::repository(&site, "small.git", 20, "sha1");
    site.hand_over();
    let (ours, theirs) = (tcp::free_v4(), tcp::free_v4());
    let configuration = format!(
        "{}{}connection {{\n\trate per address 100000\n\trate total 100000\n}}\nrepository small {{\n\tpath \"{}\"\n\tpermit ro anonymous\n}}\n",
        site.head(),
        tcp::listen_line(ours),
        site.repository("small.git").display(),
    );
    let _daemon = start(&site, &configuration);
    let Some(mut git_daemon) = start_git_daemon(&site, theirs) else {
        eprintln!("git daemon: did not start");
        return Vec::new();
    };
    let (mut gotd, mut git, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pairs {
        let (a, b) = (per_second(ours), per_second(theirs));
        gotd.push(a);
        git.push(b);
        ratios.push(a / b);
    }
    let _ = git_daemon.kill();
    let _ = git_daemon.wait();
    let (gotd, git, ratio) = (median(gotd), median(git), median(ratios));
    println!(
        "git:// ls-remote  {gotd:.0} connections per second, git-daemon {git:.0}; ratio {ratio:.2}, above 1 is better"
    );
    vec![format!(
        "{{\"workload\": \"git:// ls-remote\", \"gotd_per_second\": {gotd:.1}, \"git_per_second\": {git:.1}, \"ratio\": {ratio:.3}}}"
    )]
}

fn start_git_daemon(site: &Site, address: SocketAddr) -> Option<Child> {
    // Not through git, whose child it would be: what is killed in the end must be the daemon
    // itself.
    let exec = regress::run(site.command("git").arg("--exec-path"), b"", 10).good().text();
    let mut command = site.command(std::path::Path::new(exec.trim()).join("git-daemon"));
    command
        .args(["--export-all", "--reuseaddr", "--max-connections=0"])
        .arg(format!("--listen={}", address.ip()))
        .arg(format!("--port={}", address.port()))
        .arg(format!("--base-path={}", site.path("repositories").display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn().ok()?;
    let up = || std::net::TcpStream::connect(address).is_ok();
    regress::run::wait_until(10.0, up).then_some(child)
}

/// Connections that a server has served in a second.
fn per_second(address: SocketAddr) -> f64 {
    let (request, list) = (tcp::request("/small.git", 2), pkt::v2("ls-refs", ["peel\n", "symrefs\n"]));
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut client = Client::open(address);
        client.stream.set_nodelay(true).expect("sets an option");
        assert!(client.write(&request));
        client.read_to_flush();
        assert!(client.write(&list));
        assert!(client.read_to_flush().windows(15).any(|w| w == b"refs/heads/main"));
        assert!(client.write(b"0000"));
        assert!(client.end(10.0).is_over());
    }
    f64::from(CONNECTIONS) / start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}
