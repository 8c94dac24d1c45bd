//! Short sessions, one by one and many at once: what is measured is the start of a session, not the
//! work in it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use regress::daemon::Daemon;
use regress::pkt;
use regress::site::Site;

use crate::fetch::skip_advertisement;
use crate::measure::{Cost, cpu, head, row, served, start, wait_rested, wait_served};

/// References of the large repository.
const MANY: usize = 50_000;
/// Sessions at once.
const CROWD: usize = 50;

/// What is asked, of which repository, and by how many at once.
struct Workload {
    name: &'static str,
    repository: PathBuf,
    version: u8,
    request: Vec<u8>,
    crowd: usize,
    repeat: usize,
}

/// All workloads; prints a table and returns rows of JSON.
pub fn bench(repository: &Path, pairs: usize, only: &[String]) -> Vec<String> {
    let site = Site::new();
    let all: Vec<Workload> = workloads(&site, repository)
        .into_iter()
        .filter(|workload| crate::wanted(only, workload.name))
        .collect();
    if all.is_empty() {
        return Vec::new();
    }
    site.hand_over();
    let mut configuration = format!(
        "{}connection {{\n\tlimit per user 1000\n\trate total 10000\n\tqueue timeout 60s\n}}\n",
        site.head()
    );
    for (number, workload) in all.iter().enumerate() {
        configuration += &format!(
            "repository \"{number}\" {{\n\tpath \"{}\"\n\tpermit ro {}\n}}\n",
            workload.repository.display(),
            nix::unistd::geteuid().as_raw(),
        );
    }
    let daemon = start(&site, &configuration);
    head("short sessions", pairs);
    let mut rows = Vec::new();
    for (number, workload) in all.iter().enumerate() {
        let ours = || measure(workload, || site.gotsh(format!("git-upload-pack '{number}'")), Some(&daemon));
        let theirs = || {
            let git = || {
                let mut command = site.command("git");
                command.arg("upload-pack").arg(&workload.repository);
                command
            };
            measure(workload, git, None)
        };
        // One of each that does not count, so that both find the files in memory.
        ours();
        wait_rested(&daemon);
        theirs();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            a.push(ours());
            wait_rested(&daemon);
            b.push(theirs());
        }
        rows.push(row(&repository.display().to_string(), workload.name, &a, &b));
    }
    rows
}

fn workloads(site: &Site, repository: &Path) -> Vec<Workload> {
    let (small, tip) = small_repository(site);
    let many = site.repository("many.git");
    let copied = Command::new("cp").arg("-R").arg(&small).arg(&many).status().is_ok_and(|s| s.success());
    assert!(copied, "{}: not copied", many.display());
    let mut packed = String::from("# pack-refs with: peeled fully-peeled sorted \n");
    for number in 0..MANY {
        packed += &format!("{tip} refs/heads/many/{number:05}\n");
    }
    std::fs::write(many.join("packed-refs"), packed).expect("writes references");
    let prefixed = |prefixes: &[&str]| {
        let mut request = pkt::line("command=ls-refs\n");
        request.extend(b"0001");
        for line in ["peel\n", "symrefs\n"] {
            request.extend(pkt::line(line));
        }
        for prefix in prefixes {
            request.extend(pkt::line(format!("ref-prefix {prefix}\n")));
        }
        request.extend(b"00000000");
        request
    };
    let mut clone = pkt::line(format!("want {tip} side-band-64k ofs-delta no-progress agent=bench\n"));
    clone.extend(b"0000");
    clone.extend(pkt::line("done\n"));
    let up_to_date = prefixed(&["HEAD", "refs/heads/", "refs/tags/"]);
    let work = |name, repository: &Path, version, request: &[u8], crowd, repeat| Workload {
        name,
        repository: repository.to_owned(),
        version,
        request: request.to_vec(),
        crowd,
        repeat,
    };
    vec![
        work("ls-remote v0", repository, 0, b"0000", 1, 20),
        work("ls-remote v2", repository, 2, &prefixed(&[]), 1, 20),
        work("no-op fetch", repository, 2, &up_to_date, 1, 20),
        work("50000 refs v0", &many, 0, b"0000", 1, 3),
        work("50000 refs v2", &many, 2, &prefixed(&[]), 1, 3),
        work("50000 refs prefix", &many, 2, &prefixed(&["refs/heads/many/0000"]), 1, 10),
        work("50 ls-remotes", &small, 0, b"0000", CROWD, 1),
        work("50 clones", &small, 0, &clone, CROWD, 1),
    ]
}

/// A bare repository of a few commits; its path and the newest commit.
fn small_repository(site: &Site) -> (PathBuf, String) {
    let work = site.path("small");
    let bare = site.repository("small.git");
    site.git(["init", "-q", "-b", "main", &work.to_string_lossy()]).good();
    for number in 0..20 {
        std::fs::write(work.join("file"), format!("{number}\n").repeat(200)).expect("writes a file");
        site.git_in(&work, ["add", "file"]);
        site.git_in(&work, ["commit", "-q", "-m", &format!("change {number}")]);
    }
    site.git(["clone", "-q", "--bare", &work.to_string_lossy(), &bare.to_string_lossy()]).good();
    let tip = site.git_in(&bare, ["rev-parse", "HEAD"]).trim().to_owned();
    (bare, tip)
}

/// Runs a workload as often as it says, and gives the mean of each figure.
fn measure(workload: &Workload, server: impl Fn() -> Command + Sync, daemon: Option<&Daemon>) -> Cost {
    let mut sum = Cost::default();
    let before = cpu(daemon.map(Daemon::pid));
    for _ in 0..workload.repeat {
        let sessions = daemon.map_or(0, served);
        let start = Instant::now();
        let costs: Vec<Cost> = std::thread::scope(|scope| {
            let one = || session(server(), workload);
            let crowd: Vec<_> = (0..workload.crowd).map(|_| scope.spawn(one)).collect();
            crowd.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        assert_eq!(costs.len(), workload.crowd, "{}: sessions failed", workload.name);
        sum.wall += start.elapsed().as_secs_f64();
        sum.first_byte += costs.iter().map(|cost| cost.first_byte).sum::<f64>() / workload.crowd as f64;
        sum.bytes += costs.iter().map(|cost| cost.bytes).sum::<u64>();
        if let Some(daemon) = daemon {
            wait_served(daemon, sessions + workload.crowd - 1);
        }
    }
    let times = workload.repeat as f64;
    sum.cpu = (cpu(daemon.map(Daemon::pid)) - before) / times;
    sum.wall /= times;
    sum.first_byte /= times;
    sum.bytes /= workload.repeat as u64;
    sum
}

/// One session to its end.
fn session(mut command: Command, workload: &Workload) -> Cost {
    if workload.version == 2 {
        command.env("GIT_PROTOCOL", "version=2");
    }
    let start = Instant::now();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("a server");
    let (Some(mut input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
        panic!("no pipes");
    };
    let mut header = [0; 4];
    output.read_exact(&mut header).expect("an advertisement");
    let first_byte = start.elapsed().as_secs_f64();
    let advertised = 4 + skip_advertisement(&mut output, header);
    input.write_all(&workload.request).expect("writes a request");
    drop(input);
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).expect("an answer");
    let status = child.wait().expect("its end");
    assert!(status.success(), "{}: {status}", workload.name);
    Cost { first_byte, bytes: advertised + answer.len() as u64, ..Cost::default() }
}
