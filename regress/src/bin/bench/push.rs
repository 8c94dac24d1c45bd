//! Pushes. Both servers are fed with the same commands and the same pack, made beforehand, so that
//! what a client does to make them is not measured.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use regress::daemon::Daemon;
use regress::run;
use regress::site::Site;
use regress::{history, pkt};

use crate::fetch::skip_advertisement;
use crate::measure::{Cost, Watch, cpu, head, row, served, wait_served};

/// Commands and pack of one push.
struct Load {
    commands: Vec<u8>,
    pack: PathBuf,
}

/// What is pushed, and where to.
struct Workload {
    name: &'static str,
    /// One after another, into the same repository; a single one goes into a new, empty repository
    /// each time.
    loads: Vec<Load>,
    /// Whether gotd looks for findings of fsck.
    fsck: bool,
    /// What C git is told.
    options: &'static [&'static str],
    /// How many pushes are one measurement.
    repeat: usize,
}

/// Megabytes of the large blob.
const BLOB: usize = 500;
/// What all pushes ask for.
const CAPABILITIES: &str = "report-status side-band-64k agent=bench";

/// All workloads with one repository; prints a table and returns rows of JSON.
pub fn bench(repository: &Path, pairs: usize, only: &[String]) -> Vec<String> {
    let wanted = |name: &str| crate::wanted(only, name);
    let site = Site::new();
    let mut workloads = Vec::new();
    if wanted("push all") || wanted("push all fsck") {
        let load = || everything(&site, repository);
        let all = |name, fsck, options| Workload { name, loads: vec![load()], fsck, options, repeat: 1 };
        workloads.push(all("push all", false, &[]));
        workloads.push(all("push all fsck", true, &["-c", "receive.fsckObjects=true"]));
    }
    if wanted("push commit") {
        const REPEAT: usize = 5;
        let loads = commits(&site, repository, 1 + pairs * REPEAT);
        let options = &["-c", "core.fsync=all", "-c", "receive.unpackLimit=1"];
        workloads.push(Workload { name: "push commit", loads, fsck: true, options, repeat: REPEAT });
    }
    if wanted("push blob") {
        let loads = vec![blob(&site)];
        workloads.push(Workload { name: "push blob", loads, fsck: true, options: &[], repeat: 1 });
    }
    workloads.retain(|workload| wanted(workload.name));
    if workloads.is_empty() {
        return Vec::new();
    }
    for directory in ["plain", "fsck"] {
        fs::create_dir_all(site.repository(directory)).expect("makes a directory");
    }
    let daemon = start(&site);
    head(&format!("{}: pushes", repository.display()), pairs);
    workloads.iter().map(|workload| measure_all(&site, &daemon, repository, workload, pairs)).collect()
}

/// Two directories of repositories: as they are by default, and without a look for findings of
/// fsck.
fn start(site: &Site) -> Daemon {
    let me = regress::site::present_user();
    let mut configuration =
        format!("{}connection {{\n\tlimit per user 1000\n\trate total 10000\n}}\n", site.head());
    for (name, option) in [("plain", "\tfsck off\n"), ("fsck", "")] {
        configuration += &format!(
            "repositories \"{name}\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n{option}}}\n",
            site.repository(name).display()
        );
    }
    site.start_with(&configuration)
}

/// One of the two servers, with its repository.
enum Server<'a> {
    Gotd(&'a Daemon, String, PathBuf),
    Git(&'static [&'static str], PathBuf),
}

fn measure_all(site: &Site, daemon: &Daemon, repository: &Path, workload: &Workload, pairs: usize) -> String {
    let name = format!("{}/bench.git", if workload.fsck { "fsck" } else { "plain" });
    let ours = Server::Gotd(daemon, name.clone(), site.repository(&name));
    let theirs = Server::Git(workload.options, site.clone_path("bench.git"));
    let new = workload.loads.len() == 1;
    if !new {
        for server in [&ours, &theirs] {
            copy(site, repository, server.path());
        }
    }
    let mut loads = workload.loads.iter().cycle();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for pair in 0..=pairs {
        // The first of each does not count, so that both find the files in memory.
        let repeat = if pair == 0 { 1 } else { workload.repeat };
        let batch: Vec<&Load> = loads.by_ref().take(repeat).collect();
        for (server, costs) in [(&ours, &mut a), (&theirs, &mut b)] {
            if new {
                let _ = fs::remove_dir_all(server.path());
                history::init(site, server.path(), "--object-format=sha1");
                site.hand_over();
            }
            let cost = measure(site, server, &batch);
            if pair > 0 {
                costs.push(cost);
            }
        }
    }
    for server in [&ours, &theirs] {
        let _ = fs::remove_dir_all(server.path());
    }
    row(&repository.display().to_string(), workload.name, &a, &b)
}

impl Server<'_> {
    fn path(&self) -> &Path {
        match self {
            Server::Gotd(_, _, path) | Server::Git(_, path) => path,
        }
    }

    fn daemon(&self) -> Option<&Daemon> {
        match self {
            Server::Gotd(daemon, ..) => Some(daemon),
            Server::Git(..) => None,
        }
    }
}

/// A copy of a repository for a server to change.
fn copy(site: &Site, repository: &Path, to: &Path) {
    run(site.command("cp").arg("-r").arg(repository).arg(to), b"", 600).good();
    site.hand_over();
}

/// The mean of each figure (the most, of memory).
fn measure(site: &Site, server: &Server<'_>, loads: &[&Load]) -> Cost {
    let mut sum = Cost::default();
    let before = cpu(server.daemon().map(Daemon::pid));
    for load in loads {
        let one = once(site, server, load, loads.len() == 1);
        sum.wall += one.wall;
        sum.first_byte += one.first_byte;
        sum.bytes += one.bytes;
        sum.memory = sum.memory.max(one.memory);
    }
    let times = loads.len() as f64;
    sum.cpu = (cpu(server.daemon().map(Daemon::pid)) - before) / times;
    sum.wall /= times;
    sum.first_byte /= times;
    sum.bytes /= loads.len() as u64;
    sum
}

/// One push.
fn once(site: &Site, server: &Server<'_>, load: &Load, watch: bool) -> Cost {
    let sessions = server.daemon().map_or(0, served);
    let mut command = match server {
        Server::Gotd(_, name, _) => site.gotsh(format!("git-receive-pack '{name}'")),
        Server::Git(options, path) => {
            let mut command = site.command("git");
            command.args(*options).arg("receive-pack").arg(path);
            command
        }
    };
    let mut pack = File::open(&load.pack).expect("a pack");
    let bytes = load.commands.len() as u64 + pack.metadata().map_or(0, |metadata| metadata.len());
    let commands = load.commands.clone();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let start = Instant::now();
    let mut child = command.spawn().expect("a server");
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        panic!("no pipes");
    };
    let watched = server.daemon().map(Daemon::pid).into_iter().chain([child.id() as i32]).collect();
    let watch = watch.then(|| Watch::start(watched));
    let mut first = [0; 4];
    output.read_exact(&mut first).expect("an advertisement");
    let first_byte = start.elapsed().as_secs_f64();
    skip_advertisement(&mut output, first);
    let writer = std::thread::spawn(move || {
        let _ = input.write_all(&commands).and_then(|()| io::copy(&mut pack, &mut input).map(|_| ()));
    });
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).expect("an answer");
    let wall = start.elapsed().as_secs_f64();
    let _ = writer.join();
    let _ = child.wait();
    let memory = watch.map_or(0, Watch::stop);
    if let Some(daemon) = server.daemon() {
        wait_served(daemon, sessions);
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.contains("unpack ok") && !answer.contains("ng refs/"), "{answer}");
    Cost { cpu: 0.0, wall, first_byte, bytes, memory }
}

/// The packets that create or change references: old id, new id, name.
fn commands<'a>(changes: impl IntoIterator<Item = (String, String, &'a str)>) -> Vec<u8> {
    let lines = changes.into_iter().enumerate().map(|(at, (old, new, name))| {
        let capabilities = if at == 0 { format!("\0 {CAPABILITIES}") } else { String::new() };
        format!("{old} {new} {name}{capabilities}")
    });
    pkt::lines(lines)
}

const NOTHING: &str = "0000000000000000000000000000000000000000";

/// All references of a repository, and its pack if it has just one.
fn everything(site: &Site, repository: &Path) -> Load {
    let refs = site.git_in(repository, ["for-each-ref", "--format=%(objectname) %(refname)"]);
    let commands = commands(
        refs.lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(id, name)| (NOTHING.to_owned(), id.to_owned(), name)),
    );
    let packs: Vec<PathBuf> = fs::read_dir(repository.join("objects/pack"))
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    let mut packs = packs.into_iter().filter(|path| path.extension().is_some_and(|name| name == "pack"));
    let pack = match (packs.next(), packs.next()) {
        (Some(pack), None) => pack,
        _ => pack_objects(site, repository, "all", &["--all"], ""),
    };
    Load { commands, pack }
}

/// `git pack-objects` as a push runs it, into a file.
fn pack_objects(site: &Site, repository: &Path, name: &str, arguments: &[&str], input: &str) -> PathBuf {
    let path = site.path(&format!("{name}.pack"));
    let mut command: Command = site.command("git");
    command.arg("-C").arg(repository).args(["pack-objects", "--revs", "--stdout", "-q", "--thin"]);
    command.arg("--delta-base-offset").args(arguments).stdin(Stdio::piped());
    command.stdout(File::create(&path).expect("makes a file"));
    let mut child = command.spawn().expect("git");
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).expect("writes");
    }
    assert!(child.wait().is_ok_and(|status| status.success()), "pack-objects failed");
    path
}

/// Pushes of one small commit each, one on top of the other, to a branch of their own.
fn commits(site: &Site, repository: &Path, count: usize) -> Vec<Load> {
    const BRANCH: &str = "refs/heads/bench-push";
    let scratch = site.path("scratch.git");
    let (from, to) = (repository.to_string_lossy(), scratch.to_string_lossy());
    site.git(["clone", "-q", "--bare", "--shared", &from, &to]).good();
    let head = site.git_in(&scratch, ["rev-parse", "HEAD"]);
    let mut stream = String::new();
    for n in 0..count {
        let time = history::FIRST + n as u64;
        let text = format!("{n}\n").repeat(20);
        let message = format!("commit {n}\n");
        stream += &format!("commit {BRANCH}\ncommitter C <c@example.org> {time} +0000\n");
        stream += &format!("data {}\n{message}", message.len());
        if n == 0 {
            stream += &format!("from {head}");
        }
        stream += &format!("M 100644 inline bench/file\ndata {}\n{text}\n", text.len());
    }
    let mut command = site.command("git");
    command.arg("-C").arg(&scratch).args(["fast-import", "--quiet"]);
    run(&mut command, stream.as_bytes(), 600).good();
    let ids = site.git_in(&scratch, ["rev-list", "--reverse", &format!("{}..{BRANCH}", head.trim())]);
    let mut old = (head.trim().to_owned(), NOTHING.to_owned());
    let mut loads = Vec::new();
    for (n, id) in ids.lines().enumerate() {
        let revisions = format!("{id}\n^{}\n", old.0);
        let pack = pack_objects(site, &scratch, &format!("commit-{n}"), &[], &revisions);
        loads.push(Load { commands: commands([(old.1, id.to_owned(), BRANCH)]), pack });
        old = (id.to_owned(), id.to_owned());
    }
    loads
}

/// A commit with one blob of [`BLOB`] megabytes that do not compress.
fn blob(site: &Site) -> Load {
    let scratch = site.path("blob.git");
    history::init(site, &scratch, "--object-format=sha1");
    let mut command = site.command("git");
    command
        .args(["-c", "pack.compression=1", "-c", "fastimport.unpackLimit=1", "-C"])
        .arg(&scratch)
        .args(["fast-import", "--quiet"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("git");
    if let Some(input) = child.stdin.take() {
        let mut input = io::BufWriter::new(input);
        let head = "commit refs/heads/main\ncommitter C <c@example.org> 1700000000 +0000\ndata 5\nblob\n";
        write!(input, "{head}M 100644 inline blob\ndata {}\n", BLOB << 20).expect("writes");
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..(BLOB << 20) / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            input.write_all(&state.to_le_bytes()).expect("writes");
        }
        input.write_all(b"\n").expect("writes");
    }
    assert!(child.wait().is_ok_and(|status| status.success()), "fast-import failed");
    everything(site, &scratch)
}
