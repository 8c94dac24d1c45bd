//! What a stranger's request may cost in memory.
//!
//! A repository has two versions of a file of 200 MB, of which the older one lies there as a delta
//! against the newer. Whoever asks for the older one alone gets it as a whole, and for that both
//! versions and the compressed result were held in memory: some hundred bytes over git:// cost more
//! than twice the size of the file, and a second connection as much again.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt, run};

/// Bytes of the file.
const HUGE: usize = 200 << 20;
/// Bytes that the process may have had in memory, at most: what is mapped of the pack, too.
const MOST: u64 = 96 << 20;

/// A repository whose older version of a large file is a delta; the id of the older commit.
fn repository(site: &Site) -> (PathBuf, String) {
    let path = site.repository("huge.git");
    history::init(site, &path, "--object-format=sha1");
    let work = site.work_tree(&path);
    let mut content = vec![0; HUGE];
    for version in 0..2u8 {
        // Most of it is the same, and what differs lies in front, in the middle and at the end.
        for at in [0, HUGE / 2, HUGE - 1] {
            content[at] = b'0' + version;
        }
        if version == 1 {
            content.truncate(HUGE - 1000);
        }
        site.commit(&work, "huge", &content);
        // The one that the other is a delta of, for git, is the larger.
        content.resize(HUGE + 1000, 1);
    }
    site.git_in(&work, ["push", "-q", "origin", "HEAD:refs/heads/main"]);
    let older = site.git_in(&work, ["rev-parse", "HEAD~1"]).trim().to_owned();
    site.git_in(&path, ["update-ref", "refs/heads/older", &older]);
    site.git_in(&path, ["repack", "-adqf"]);
    (path, older)
}

/// The largest resident size that a process had that reads a repository, while `over` is not set,
/// in bytes.
fn peak(daemon: &Daemon, over: &AtomicBool) -> u64 {
    let mut most = 0;
    while !over.load(Ordering::Relaxed) {
        for pid in daemon.role("repo_read") {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
            most = most.max(kilobytes.unwrap_or(0) << 10);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    most
}

#[test]
fn an_object_whose_delta_cannot_be_sent_is_not_held_in_memory() {
    let (site, address) = (Site::new(), tcp::free_v4());
    let (path, older) = repository(&site);
    let blobs =
        ["main:huge", "older:huge"].map(|name| site.git_in(&path, ["rev-parse", name]).trim().to_owned());
    let pack =
        site.git_in(&path, ["cat-file", "--batch-check=%(objectname) %(deltabase)", "--batch-all-objects"]);
    let delta =
        blobs.iter().find(|blob| pack.lines().any(|line| line.starts_with(*blob) && !line.ends_with("0000")));
    let wanted = delta.unwrap_or_else(|| panic!("neither is a delta: {pack}"));
    let commit = if *wanted == blobs[1] { older } else { history::tip(&site, &path) };
    let daemon = site.start_with(&format!(
        "{}{}repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        present_user()
    ));
    let over = AtomicBool::new(false);
    let (answer, most) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| peak(&daemon, &over));
        let mut client = Client::open(address);
        assert!(client.write(&tcp::request("/huge.git", 2)));
        client.read_to_flush();
        let request = pkt::v2(
            "fetch",
            [format!("want {commit}\n"), "deepen 1\n".into(), "ofs-delta\n".into(), "done\n".into()],
        );
        assert!(client.write(&request));
        let answer = client.read_to_flush();
        over.store(true, Ordering::Relaxed);
        (answer, watching.join().expect("watched"))
    });
    // The pack holds the wanted version, under its name.
    let file = site.path("taken.pack");
    std::fs::write(&file, pkt::pack_of(&answer)).expect("writes");
    run(site.command("git").args(["index-pack"]).arg(&file), b"", 120).good();
    let listed = run(site.command("git").args(["verify-pack", "-v"]).arg(&file), b"", 120).good().text();
    assert!(listed.contains(wanted.as_str()), "{listed}");
    assert!(most > 0 && most < MOST, "{} MB in memory", most >> 20);
}
