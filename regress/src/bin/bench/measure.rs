//! What one measurement costs, and how two are put side by side.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use regress::daemon::Daemon;
use regress::process::daemon_cpu;
use regress::site::Site;

/// What one measurement cost.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    /// Seconds of processor time.
    pub cpu: f64,
    /// Seconds to the end of the answer.
    pub wall: f64,
    /// Seconds to the first byte.
    pub first_byte: f64,
    /// Bytes of the answer, or of the push.
    pub bytes: u64,
    /// Kilobytes of anonymous memory of the largest process, at most.
    pub memory: u64,
}

/// A column: its name, its value, and what the value is multiplied with in the table.
type Field = (&'static str, fn(&Cost) -> f64, f64);

/// The middle value.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Prints a line of the table and returns a row of JSON.
pub fn row(repository: &str, workload: &str, a: &[Cost], b: &[Cost]) -> String {
    row_beside("git", repository, workload, a, b)
}

/// The same with the name of what gotd is compared with.
pub fn row_beside(other: &str, repository: &str, workload: &str, a: &[Cost], b: &[Cost]) -> String {
    let fields: [Field; 5] = [
        ("cpu", |c| c.cpu, 1.0),
        ("wall", |c| c.wall, 1.0),
        ("first_byte", |c| c.first_byte, 1.0),
        ("bytes", |c| c.bytes as f64, 1.0 / 1024.0),
        ("anonymous_memory", |c| c.memory as f64, 1.0 / 1024.0),
    ];
    let mut line = format!("{workload:<18}");
    let mut json = format!("{{\"repository\": {:?}, \"workload\": {:?}", repository, workload);
    for (at, (name, of, scale)) in fields.into_iter().enumerate() {
        let ours = median(a.iter().map(of).collect());
        let theirs = median(b.iter().map(of).collect());
        // Pair by pair, so that a machine that slows down slows both.
        let ratio = median(a.iter().zip(b).map(|(x, y)| of(x) / of(y).max(1e-9)).collect());
        let digits = if at < 3 { 4 } else { 0 };
        let width = [9, 9, 9, 11, 8].get(at).copied().unwrap_or(9);
        line += &format!("{:>width$.digits$}{:>width$.digits$}{ratio:>7.2}", ours * scale, theirs * scale);
        json += &format!(", \"{name}\": {{\"gotd\": {ours}, {other:?}: {theirs}, \"ratio\": {ratio:.4}}}");
    }
    println!("{line}");
    json + "}"
}

/// Prints the table's head.
pub fn head(what: &str, pairs: usize) {
    head_beside("git", what, pairs);
}

/// The same with the name of what gotd is compared with.
pub fn head_beside(other: &str, what: &str, pairs: usize) {
    println!("\n{what}  (median of {pairs} pairs; ratio gotd/{other}, below 1 is better)");
    println!(
        "{:<18}{:>9}{:>9}{:>7}{:>9}{:>9}{:>7}{:>9}{:>9}{:>7}{:>11}{:>11}{:>7}{:>8}{:>8}{:>7}",
        "workload",
        "cpu gotd",
        other,
        "ratio",
        "wall gotd",
        other,
        "ratio",
        "1st gotd",
        other,
        "ratio",
        "kB gotd",
        other,
        "ratio",
        "MB gotd",
        other,
        "ratio"
    );
}

/// A configuration that lets the present user read the repository `bench` as often as they like.
pub fn configuration(site: &Site, repository: &Path) -> String {
    format!(
        "{}connection {{\n\tlimit per user 1000\n\trate total 10000\n}}\nrepository \"bench\" {{\n\tpath \"{}\"\n\tpermit ro {}\n}}\n",
        site.head(),
        repository.display(),
        nix::unistd::geteuid().as_raw(),
    )
}

/// Starts the daemon that is measured; without it there is nothing to do.
pub fn start(site: &Site, configuration: &str) -> Daemon {
    Daemon::start(site, configuration).unwrap_or_else(|text| {
        eprintln!("gotd: {text}");
        std::process::exit(1)
    })
}

/// Seconds of processor time of all children that have ended, and of the daemon with its own.
pub fn cpu(daemon: Option<i32>) -> f64 {
    let own = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0.0, |usage| {
        let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    });
    // The daemon is a child that has not ended: its own time and that of those it has reaped.
    own + daemon.map_or(0.0, daemon_cpu)
}

/// Sessions that the daemon has logged.
pub fn served(daemon: &Daemon) -> usize {
    daemon.log().matches("gotd: session number=").count()
}

/// Waits until the daemon has logged more sessions than these. Its processes count when they are
/// reaped, and that is when it logs the session.
pub fn wait_served(daemon: &Daemon, before: usize) {
    let end = Instant::now() + Duration::from_secs(20);
    while served(daemon) <= before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until the daemon has replaced the sessions that were taken, so that this is not part of
/// what git's turn takes.
pub fn wait_rested(daemon: &Daemon) {
    let end = Instant::now() + Duration::from_secs(2);
    let mut before = Vec::new();
    loop {
        let now = family(daemon.pid());
        if now == before || Instant::now() > end {
            return;
        }
        before = now;
        std::thread::sleep(Duration::from_millis(15));
    }
}

/// The lines that git prints in a repository.
pub fn git(repository: &Path, arguments: &[&str]) -> Vec<String> {
    let output = Command::new("git")
        .arg("-c")
        .arg("safe.directory=*")
        .arg("-C")
        .arg(repository)
        .args(arguments)
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    output.lines().map(str::to_owned).collect()
}

/// Looks every few milliseconds at the anonymous memory of a process's descendants.
pub struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    /// Starts looking at the families of these processes.
    pub fn start(pids: Vec<i32>) -> Watch {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (s, m) = (stop.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                let largest =
                    pids.iter().flat_map(|pid| family(*pid)).filter_map(anonymous).max().unwrap_or(0);
                m.fetch_max(largest, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Watch { stop, most, thread }
    }

    /// Kilobytes of the largest process.
    pub fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.most.load(Ordering::Relaxed)
    }
}

/// A process and all that descend from it.
pub fn family(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&parent) = all.get(at) {
        let children =
            std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|n| n.parse::<i32>().ok()));
        at += 1;
        if all.len() > 10_000 {
            break;
        }
    }
    all
}

fn anonymous(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
