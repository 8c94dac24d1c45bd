//! `make bench`: gotd beside C git's upload-pack, in turns, in one run. See regress/bench/README.md.
//!
//! Both servers are started by the same code on a pair of pipes and speak to the same client, which is this
//! program: it sends one request, reads the answer and drops it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use regress::daemon::Daemon;
use regress::pkt;
use regress::site::Site;

/// What a client asks for.
struct Workload {
    name: String,
    wants: Vec<String>,
    haves: Vec<String>,
    depth: Option<u32>,
    /// How often it is repeated in one measurement, so that the kernel's clock ticks suffice.
    repeat: u32,
}

/// What one measurement cost.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu: f64,
    wall: f64,
    first_byte: f64,
    bytes: u64,
    memory: u64,
}

/// One of the two servers.
enum Server<'a> {
    Gotd(&'a Site, &'a Daemon, String),
    Git(&'a Path),
}

fn main() {
    let mut repositories: Vec<PathBuf> = Vec::new();
    let mut pairs = 5usize;
    let mut json: Option<PathBuf> = None;
    let mut only: Option<String> = None;
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--repo" => repositories.extend(arguments.next().map(PathBuf::from)),
            "--pairs" => pairs = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(pairs),
            "--json" => json = arguments.next().map(PathBuf::from),
            "--only" => only = arguments.next(),
            _ => usage(),
        }
    }
    if repositories.is_empty() {
        usage();
    }
    let mut rows: Vec<String> = Vec::new();
    for repository in &repositories {
        let Ok(repository) = std::path::absolute(repository) else { usage() };
        rows.extend(bench(&repository, pairs.max(1), only.as_deref()));
    }
    if let Some(path) = json {
        let text = format!("[\n  {}\n]\n", rows.join(",\n  "));
        if let Err(e) = std::fs::write(&path, text) {
            eprintln!("{}: {e}", path.display());
            std::process::exit(1);
        }
    }
}

fn usage() -> ! {
    eprintln!("usage: bench --repo path [--repo path ...] [--pairs n] [--only workload] [--json file]");
    std::process::exit(2)
}

/// All workloads of one repository; prints a table and returns rows of JSON.
fn bench(repository: &Path, pairs: usize, only: Option<&str>) -> Vec<String> {
    let site = Site::new();
    let configuration = format!(
        "{}connection {{\n\tlimit per user 1000\n\trate total 10000\n}}\nrepository \"bench\" {{\n\tpath \"{}\"\n\tpermit ro {}\n}}\n",
        site.head(),
        repository.display(),
        nix::unistd::geteuid().as_raw(),
    );
    let daemon = match Daemon::start(&site, &configuration) {
        Ok(daemon) => daemon,
        Err(text) => {
            eprintln!("gotd: {text}");
            std::process::exit(1)
        }
    };
    println!("\n{}  (median of {pairs} pairs; ratio gotd/git, below 1 is better)", repository.display());
    println!(
        "{:<18}{:>9}{:>9}{:>7}{:>9}{:>9}{:>7}{:>9}{:>9}{:>7}{:>11}{:>11}{:>7}{:>8}{:>8}{:>7}",
        "workload",
        "cpu gotd",
        "git",
        "ratio",
        "wall gotd",
        "git",
        "ratio",
        "1st gotd",
        "git",
        "ratio",
        "kB gotd",
        "git",
        "ratio",
        "MB gotd",
        "git",
        "ratio"
    );
    let mut rows = Vec::new();
    for workload in workloads(repository) {
        if only.is_some_and(|only| only != workload.name) {
            continue;
        }
        let ours = Server::Gotd(&site, &daemon, "bench".into());
        let theirs = Server::Git(repository);
        let (mut a, mut b) = (Vec::new(), Vec::new());
        // One of each that does not count, so that both find the files in memory.
        measure(&ours, &workload, 1);
        measure(&theirs, &workload, 1);
        for _ in 0..pairs {
            a.push(measure(&ours, &workload, workload.repeat));
            b.push(measure(&theirs, &workload, workload.repeat));
        }
        rows.push(row(repository, &workload, &a, &b));
    }
    rows
}

/// A column: its name, its value, and what the value is multiplied with in the table.
type Field = (&'static str, fn(&Cost) -> f64, f64);

/// The middle value.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

fn row(repository: &Path, workload: &Workload, a: &[Cost], b: &[Cost]) -> String {
    let fields: [Field; 5] = [
        ("cpu", |c| c.cpu, 1.0),
        ("wall", |c| c.wall, 1.0),
        ("first_byte", |c| c.first_byte, 1.0),
        ("bytes", |c| c.bytes as f64, 1.0 / 1024.0),
        ("anonymous_memory", |c| c.memory as f64, 1.0 / 1024.0),
    ];
    let mut line = format!("{:<18}", workload.name);
    let mut json = format!(
        "{{\"repository\": {:?}, \"workload\": {:?}",
        repository.display().to_string(),
        workload.name
    );
    for (at, (name, of, scale)) in fields.into_iter().enumerate() {
        let ours = median(a.iter().map(of).collect());
        let theirs = median(b.iter().map(of).collect());
        // Pair by pair, so that a machine that slows down slows both.
        let ratio = median(a.iter().zip(b).map(|(x, y)| of(x) / of(y).max(1e-9)).collect());
        let digits = if at < 3 { 4 } else { 0 };
        let width = [9, 9, 9, 11, 8].get(at).copied().unwrap_or(9);
        line += &format!("{:>width$.digits$}{:>width$.digits$}{ratio:>7.2}", ours * scale, theirs * scale);
        json += &format!(", \"{name}\": {{\"gotd\": {ours}, \"git\": {theirs}, \"ratio\": {ratio:.4}}}");
    }
    println!("{line}");
    json + "}"
}

fn git(repository: &Path, arguments: &[&str]) -> Vec<String> {
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

/// The workloads that a repository is large enough for.
fn workloads(repository: &Path) -> Vec<Workload> {
    let mut tips = git(repository, &["for-each-ref", "--format=%(objectname)"]);
    tips.sort();
    tips.dedup();
    let head = git(repository, &["rev-parse", "HEAD"]);
    let count: usize =
        git(repository, &["rev-list", "--count", "HEAD"]).first().and_then(|n| n.parse().ok()).unwrap_or(0);
    let work = |name: &str, wants: &[String], haves: Vec<String>, depth, repeat| Workload {
        name: name.into(),
        wants: wants.to_vec(),
        haves,
        depth,
        repeat,
    };
    let mut all = vec![
        work("ls-remote", &[], Vec::new(), None, 20),
        work("clone", &tips, Vec::new(), None, 1),
        work("clone HEAD", &head, Vec::new(), None, 1),
        work("depth 1", &head, Vec::new(), Some(1), 3),
    ];
    for back in [3usize, 100, 1000] {
        if count > back {
            let base = git(repository, &["rev-parse", &format!("HEAD~{back}")]);
            if !base.is_empty() {
                all.push(work(&format!("fetch {back}"), &head, base, None, 5));
            }
        }
    }
    all
}

/// Runs a workload `repeat` times and returns the mean of each figure (the most, of memory).
fn measure(server: &Server<'_>, workload: &Workload, repeat: u32) -> Cost {
    let mut sum = Cost::default();
    let before = cpu(server);
    for _ in 0..repeat {
        let one = once(server, workload);
        sum.wall += one.wall;
        sum.first_byte += one.first_byte;
        sum.bytes += one.bytes;
        sum.memory = sum.memory.max(one.memory);
    }
    let times = f64::from(repeat);
    sum.cpu = (cpu(server) - before) / times;
    sum.wall /= times;
    sum.first_byte /= times;
    sum.bytes /= u64::from(repeat.max(1));
    sum
}

/// Seconds of processor time of everything that has served so far.
fn cpu(server: &Server<'_>) -> f64 {
    let own = getrusage(UsageWho::RUSAGE_CHILDREN).map_or(0.0, |usage| {
        let seconds = |t: nix::sys::time::TimeVal| t.tv_sec() as f64 + t.tv_usec() as f64 / 1e6;
        seconds(usage.user_time()) + seconds(usage.system_time())
    });
    match server {
        Server::Git(_) => own,
        // The daemon is a child that has not ended: its own time and that of those it has reaped.
        Server::Gotd(_, daemon, _) => own + daemon_cpu(daemon.pid()),
    }
}

fn daemon_cpu(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    // utime, stime, cutime and cstime are fields 14 to 17; two stand before the name's end.
    let ticks: f64 = after.split_whitespace().skip(11).take(4).filter_map(|n| n.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// One session.
fn once(server: &Server<'_>, workload: &Workload) -> Cost {
    let sessions = served(server);
    let start = Instant::now();
    let mut child = spawn(server);
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        panic!("no pipes");
    };
    let watched = match server {
        Server::Git(_) => child.id() as i32,
        Server::Gotd(_, daemon, _) => daemon.pid(),
    };
    let watch = (workload.repeat == 1).then(|| Watch::start(watched));
    let mut first = [0; 4];
    output.read_exact(&mut first).expect("an advertisement");
    let first_byte = start.elapsed().as_secs_f64();
    let mut bytes = 4 + skip_advertisement(&mut output, first);
    let request = request(workload);
    // Written by a thread of its own: a server may answer before it has read all.
    let writer = std::thread::spawn(move || {
        let _ = input.write_all(&request);
    });
    let mut buffer = vec![0; 1 << 20];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => bytes += n as u64,
            Err(e) => panic!("reading the answer: {e}"),
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let _ = writer.join();
    let _ = child.wait();
    let memory = watch.map_or(0, Watch::stop);
    if let Server::Gotd(..) = server {
        // Its processes count when they are reaped, and that is when the daemon logs the session.
        let end = Instant::now() + Duration::from_secs(20);
        while served(server) <= sessions && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Cost { cpu: 0.0, wall, first_byte, bytes, memory }
}

fn served(server: &Server<'_>) -> usize {
    match server {
        Server::Git(_) => 0,
        Server::Gotd(_, daemon, _) => daemon.log().matches("gotd: session number=").count(),
    }
}

fn spawn(server: &Server<'_>) -> Child {
    let mut command = match server {
        Server::Gotd(site, _, name) => site.gotsh(format!("git-upload-pack '{name}'")),
        Server::Git(repository) => {
            let mut command = Command::new("git");
            command.args(["-c", "safe.directory=*", "upload-pack"]).arg(repository);
            command
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a server")
}

/// Reads packets until the flush that ends the advertisement; `header` has been read already.
fn skip_advertisement(output: &mut impl Read, mut header: [u8; 4]) -> u64 {
    let mut bytes = 0;
    loop {
        let length = std::str::from_utf8(&header)
            .ok()
            .and_then(|h| usize::from_str_radix(h, 16).ok())
            .expect("a packet");
        if length < 4 {
            return bytes;
        }
        let mut payload = vec![0; length - 4];
        output.read_exact(&mut payload).expect("a packet");
        assert!(!payload.starts_with(b"ERR "), "{}", String::from_utf8_lossy(&payload));
        output.read_exact(&mut header).expect("a packet");
        bytes += length as u64;
    }
}

/// A v0 request; v0 needs one round for everything that is measured here.
fn request(workload: &Workload) -> Vec<u8> {
    const CAPABILITIES: &str = "multi_ack_detailed side-band-64k thin-pack ofs-delta no-progress agent=bench";
    let mut out = Vec::new();
    if workload.wants.is_empty() {
        return b"0000".to_vec();
    }
    for (at, want) in workload.wants.iter().enumerate() {
        let capabilities = if at == 0 { format!(" {CAPABILITIES}") } else { String::new() };
        out.extend(pkt::line(format!("want {want}{capabilities}\n")));
    }
    if let Some(depth) = workload.depth {
        out.extend(pkt::line(format!("deepen {depth}")));
    }
    out.extend(b"0000");
    for have in &workload.haves {
        out.extend(pkt::line(format!("have {have}\n")));
    }
    out.extend(pkt::line("done\n"));
    out
}

/// Looks every few milliseconds at the anonymous memory of a process's descendants.
struct Watch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Watch {
    fn start(pid: i32) -> Watch {
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (s, m) = (stop.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !s.load(Ordering::Relaxed) {
                let largest = family(pid).into_iter().filter_map(anonymous).max().unwrap_or(0);
                m.fetch_max(largest, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Watch { stop, most, thread }
    }

    /// Kilobytes of the largest process.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        self.most.load(Ordering::Relaxed)
    }
}

fn family(pid: i32) -> Vec<i32> {
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
