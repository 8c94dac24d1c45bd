//! Fetches.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use regress::daemon::Daemon;
use regress::pkt;
use regress::site::Site;

use crate::c_gotd::CGotd;
use crate::check;
use crate::measure::{
    Cost, Watch, configuration, cpu, git, head, head_beside, median, row, row_beside, served, start,
    wait_served,
};
use crate::wanted;

/// What a client asks for.
struct Workload {
    name: String,
    wants: Vec<String>,
    haves: Vec<String>,
    depth: Option<u32>,
    /// How often it is repeated in one measurement, so that the kernel's clock ticks suffice.
    repeat: u32,
}

/// One of the two servers.
enum Server<'a> {
    Gotd(&'a Site, &'a Daemon, String),
    Git(&'a Path),
    CGotd(&'a CGotd),
    /// No server, but `cat` of a pack.
    Cat(&'a Path),
}

impl Server<'_> {
    fn daemon(&self) -> Option<&Daemon> {
        match self {
            Server::Gotd(_, daemon, _) => Some(daemon),
            _ => None,
        }
    }

    /// The process whose children serve.
    fn parent(&self) -> Option<i32> {
        match self {
            Server::Gotd(_, daemon, _) => Some(daemon.pid()),
            Server::CGotd(c_gotd) => Some(c_gotd.pid()),
            _ => None,
        }
    }
}

/// A workload's name, with what it cost gotd and git, pair by pair.
pub type Measured = (String, Vec<Cost>, Vec<Cost>);

/// All workloads of one repository; prints a table and returns rows of JSON. C git may serve
/// another one, which must hold the same objects: with bitmaps, or without.
pub fn bench(repository: &Path, against: Option<&Path>, pairs: usize, only: &[String]) -> Vec<String> {
    let what = match against {
        Some(against) => format!("{} ({} with C git)", repository.display(), against.display()),
        None => repository.display().to_string(),
    };
    head(&what, pairs);
    let mut rows = Vec::new();
    measure_pairs(repository, against.unwrap_or(repository), pairs, only, &mut |(name, a, b)| {
        rows.push(row(&what, &name, &a, &b));
    });
    rows.extend(bench_cat(repository, pairs, only));
    rows
}

/// A clone of everything beside `cat` of the pack into the same client's pipe, where the clone is
/// the pack as it lies.
fn bench_cat(repository: &Path, pairs: usize, only: &[String]) -> Option<String> {
    const NAME: &str = "cat";
    let packs = std::fs::read_dir(repository.join("objects/pack")).ok()?.flatten().map(|entry| entry.path());
    let packs: Vec<_> = packs.filter(|path| path.extension().is_some_and(|ext| ext == "pack")).collect();
    let [pack] = &packs[..] else { return None };
    if !wanted(only, NAME) {
        return None;
    }
    let workload = workloads(repository).into_iter().find(|workload| workload.name == "clone")?;
    let (mut a, mut b) = (Vec::new(), Vec::new());
    beside(repository, &Server::Cat(pack), pairs, &workload, &mut a, &mut b);
    let bytes = |costs: &[Cost]| median(costs.iter().map(|cost| cost.bytes as f64).collect());
    // Side bands and references come to less than a hundredth; a pack that was made anew has
    // another size.
    if bytes(&a) / bytes(&b).max(1.0) > 1.01 || bytes(&a) < bytes(&b) {
        println!("cat: not compared: the clone is not the pack as it lies");
        return None;
    }
    let what = format!("{}: the whole pack", repository.display());
    head_beside(NAME, &what, pairs);
    Some(row_beside(NAME, &what, "clone", &a, &b))
}

/// All workloads that C gotd has part in, beside it.
pub fn bench_c_gotd(tree: &Path, repository: &Path, pairs: usize, only: &[String]) -> Vec<String> {
    const NAME: &str = "C gotd";
    let c_gotd = CGotd::start(tree, repository).unwrap_or_else(|text| {
        eprintln!("C gotd: {text}");
        std::process::exit(1)
    });
    let what = format!("{} beside C gotd", repository.display());
    head_beside(NAME, &what, pairs);
    let mut rows = Vec::new();
    // It knows no shallow clones.
    for workload in workloads(repository).into_iter().filter(|workload| workload.depth.is_none()) {
        if wanted(only, &workload.name) {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            beside(repository, &Server::CGotd(&c_gotd), pairs, &workload, &mut a, &mut b);
            rows.push(row_beside(NAME, &what, &workload.name, &a, &b));
        }
    }
    rows
}

/// Measures workloads in turns, gotd with one repository and C git with another, and gives each to
/// `done`.
pub fn measure_pairs(
    repository: &Path,
    against: &Path,
    pairs: usize,
    only: &[String],
    done: &mut dyn FnMut(Measured),
) {
    for workload in workloads(repository) {
        if wanted(only, &workload.name) {
            let (mut a, mut b) = (Vec::new(), Vec::new());
            beside(repository, &Server::Git(against), pairs, &workload, &mut a, &mut b);
            done((workload.name, a, b));
        }
    }
}

/// Measures one workload in turns, gotd with a repository and another server.
fn beside(
    repository: &Path,
    theirs: &Server<'_>,
    pairs: usize,
    workload: &Workload,
    a: &mut Vec<Cost>,
    b: &mut Vec<Cost>,
) {
    let site = Site::new();
    let daemon = start(&site, &configuration(&site, repository));
    let ours = Server::Gotd(&site, &daemon, "bench".into());
    // One of each that does not count, so that both find the files in memory.
    measure(&ours, workload, 1);
    measure(theirs, workload, 1);
    for _ in 0..pairs {
        a.push(measure(&ours, workload, workload.repeat));
        b.push(measure(theirs, workload, workload.repeat));
    }
}

/// Looks at what gotd answers to each workload with a pack, instead of measuring it. Prints a
/// table; whether all is well.
pub fn check(repository: &Path, only: &[String]) -> bool {
    let site = Site::new();
    let daemon = start(&site, &configuration(&site, repository));
    let server = Server::Gotd(&site, &daemon, "bench".into());
    check::head(repository);
    let workloads =
        workloads(repository).into_iter().filter(|w| !w.wants.is_empty() && wanted(only, &w.name));
    workloads.fold(true, |well, workload| {
        let mut answer = Vec::new();
        once(&server, &workload, &mut |bytes| answer.extend_from_slice(bytes));
        let Workload { name, wants, haves, depth, .. } = &workload;
        check::row(&site, repository, name, &check::Asked { wants, haves, depth: *depth }, &answer) && well
    })
}

/// The workloads that a repository is large enough for.
fn workloads(repository: &Path) -> Vec<Workload> {
    let mut tips = git(repository, &["for-each-ref", "--format=%(objectname)"]);
    tips.sort();
    tips.dedup();
    let mut tags = git(repository, &["for-each-ref", "--format=%(objectname)", "refs/tags/"]);
    tags.sort();
    tags.dedup();
    let head = git(repository, &["rev-parse", "HEAD"]);
    let count: usize =
        git(repository, &["rev-list", "--count", "HEAD"]).first().and_then(|n| n.parse().ok()).unwrap_or(0);
    // Small ones take less than a tick of the clock.
    let clones = (20_000 / count.max(1)).clamp(1, 10) as u32;
    let work = |name: &str, wants: &[String], haves: Vec<String>, depth, repeat| Workload {
        name: name.into(),
        wants: wants.to_vec(),
        haves,
        depth,
        repeat,
    };
    let mut all = vec![
        work("ls-remote", &[], Vec::new(), None, 40),
        work("clone", &tips, Vec::new(), None, clones),
        work("clone tags", &tags, Vec::new(), None, clones),
        work("clone HEAD", &head, Vec::new(), None, clones),
        work("depth 1", &head, Vec::new(), Some(1), clones),
    ];
    // Without tags it would be another ls-remote.
    all.retain(|workload| workload.name == "ls-remote" || !workload.wants.is_empty());
    for (back, repeat) in [(3usize, 40), (100, 10), (1000, 5)] {
        if count > back {
            let base = git(repository, &["rev-parse", &format!("HEAD~{back}")]);
            if !base.is_empty() {
                all.push(work(&format!("fetch {back}"), &head, base, None, repeat));
            }
        }
    }
    all
}

/// Runs a workload `repeat` times and returns the mean of each figure (the most, of memory).
fn measure(server: &Server<'_>, workload: &Workload, repeat: u32) -> Cost {
    let mut sum = Cost::default();
    let before = cpu(server.parent());
    for _ in 0..repeat {
        let one = once(server, workload, &mut |_| {});
        sum.wall += one.wall;
        sum.first_byte += one.first_byte;
        sum.bytes += one.bytes;
        sum.memory = sum.memory.max(one.memory);
    }
    let times = f64::from(repeat);
    sum.cpu = (cpu(server.parent()) - before) / times;
    sum.wall /= times;
    sum.first_byte /= times;
    sum.bytes /= u64::from(repeat.max(1));
    sum
}

/// One session. What comes after the advertisement is given to `each`.
fn once(server: &Server<'_>, workload: &Workload, each: &mut dyn FnMut(&[u8])) -> Cost {
    let daemon = server.daemon();
    let sessions = daemon.map_or(0, served);
    let start = Instant::now();
    let mut child = spawn(server);
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        panic!("no pipes");
    };
    let watched = server.parent().into_iter().chain([child.id() as i32]).collect();
    let watch = workload.name.starts_with("clone").then(|| Watch::start(watched));
    let mut first = [0; 4];
    output.read_exact(&mut first).expect("an advertisement");
    let first_byte = start.elapsed().as_secs_f64();
    let mut bytes = 4;
    if !matches!(server, Server::Cat(_)) {
        bytes += skip_advertisement(&mut output, first);
    }
    let request = request(workload);
    // Written by a thread of its own: a server may answer before it has read all.
    let writer = std::thread::spawn(move || {
        let _ = input.write_all(&request);
    });
    let mut buffer = vec![0; 1 << 20];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                bytes += n as u64;
                each(&buffer[..n]);
            }
            Err(e) => panic!("reading the answer: {e}"),
        }
    }
    let wall = start.elapsed().as_secs_f64();
    let _ = writer.join();
    let _ = child.wait();
    let memory = watch.map_or(0, Watch::stop);
    if let Some(daemon) = daemon {
        wait_served(daemon, sessions);
    }
    if let Server::CGotd(c_gotd) = server {
        c_gotd.settled();
    }
    Cost { cpu: 0.0, wall, first_byte, bytes, memory }
}

fn spawn(server: &Server<'_>) -> Child {
    let mut command = match server {
        Server::Gotd(site, _, name) => site.gotsh(format!("git-upload-pack '{name}'")),
        Server::Git(repository) => {
            let mut command = Command::new("git");
            command.args(["-c", "safe.directory=*", "upload-pack"]).arg(repository);
            command
        }
        Server::CGotd(c_gotd) => c_gotd.client(),
        Server::Cat(pack) => {
            let mut command = Command::new("cat");
            command.arg(pack);
            command
        }
    };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a server")
}

/// Reads packets until the flush that ends the advertisement; `header` has been read already.
pub fn skip_advertisement(output: &mut impl Read, mut header: [u8; 4]) -> u64 {
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
