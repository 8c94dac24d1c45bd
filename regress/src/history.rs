//! Repositories to serve: always the same history, in every shape that a store can have.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::Site;
use crate::run::run;
use crate::site::GIT_SECONDS;

/// Seconds since the epoch of the first commit; each following one is a day later.
pub const FIRST: u64 = 1_700_000_000;
/// Seconds between two commits.
pub const STEP: u64 = 86_400;

/// Makes a bare repository `name` with `commits` on main and some on two branches, merges, tags of
/// both kinds, directories and a file of some size that changes a little each time. `format` is
/// `sha1` or `sha256`.
pub fn repository(site: &Site, name: &str, commits: u64, format: &str) -> PathBuf {
    let path = site.repository(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).expect("makes directories");
    }
    init(site, &path, &format!("--object-format={format}"));
    let stream = stream(commits);
    let mut command = site.command("git");
    run(command.arg("-C").arg(&path).args(["fast-import", "--quiet"]), stream.as_bytes(), GIT_SECONDS).good();
    site.git_in(&path, ["repack", "-adq"]);
    path
}

/// Makes a bare repository of one commit with this many MiB that do not compress, so that a clone
/// is still under way when its client has stopped reading.
pub fn bulky(site: &Site, name: &str, mib: usize) -> PathBuf {
    let path = site.repository(name);
    init(site, &path, "--object-format=sha1");
    let mut stream =
        format!("commit refs/heads/main\ncommitter C <c@example.org> {FIRST} +0000\ndata 4\nbulk\n")
            .into_bytes();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for n in 0..mib {
        stream.extend_from_slice(format!("M 100644 inline bulk/{n}\ndata {}\n", 1 << 20).as_bytes());
        for _ in 0..(1 << 20) / 8 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            stream.extend_from_slice(&state.to_le_bytes());
        }
        stream.push(b'\n');
    }
    let mut command = site.command("git");
    run(command.arg("-C").arg(&path).args(["fast-import", "--quiet"]), &stream, GIT_SECONDS).good();
    path
}

/// The id of a repository's main branch.
pub fn tip(site: &Site, repository: &Path) -> String {
    site.git_in(repository, ["rev-parse", "refs/heads/main"]).trim().to_owned()
}

/// Makes an empty bare repository.
pub fn init(site: &Site, path: &Path, option: &str) {
    site.git(
        ["init", "-q", "--bare", "-b", "main", option]
            .map(std::ffi::OsStr::new)
            .into_iter()
            .chain([path.as_os_str()]),
    )
    .good();
}

/// Adds `count` commits on top of main, as loose objects or as one more pack.
pub fn grow(site: &Site, path: &Path, count: u64, from: u64) {
    let mut stream = String::new();
    for n in from..from + count {
        let _ = write!(
            stream,
            "commit refs/heads/main\ncommitter C <c@example.org> {} +0000\ndata 4\nmore\n{}M 100644 inline grown/{n}\ndata 2\n{}\n",
            FIRST + n * STEP,
            if n == from { "from refs/heads/main^0\n" } else { "" },
            n % 10
        );
    }
    let mut command = site.command("git");
    command.arg("-C").arg(path).args(["-c", "fastimport.unpackLimit=0", "fast-import", "--quiet"]);
    run(&mut command, stream.as_bytes(), GIT_SECONDS).good();
}

/// The history as git-fast-import(1) reads it.
fn stream(commits: u64) -> String {
    let mut out = String::new();
    for n in 0..commits {
        let branch = if n % 5 == 3 { "side" } else { "main" };
        let _ = write!(
            out,
            "commit refs/heads/{branch}\nmark :{}\ncommitter C <c@example.org> {} +0000\ndata <<END\ncommit {n}\nEND\n",
            n + 1,
            FIRST + n * STEP
        );
        match (branch, n) {
            ("side", 3) => out.push_str("from :3\n"),
            ("main", 6..) if n % 5 == 1 => {
                let _ = writeln!(out, "merge refs/heads/side");
            }
            _ => {}
        }
        let _ = write!(out, "M 100644 inline {branch}-file\ndata <<END\n{n}\nEND\n");
        let _ = write!(out, "M 100755 inline dir/{}/sub/{n}\ndata <<END\ncontent {}\nEND\n", n % 7, n * 7919);
        let mut large = String::new();
        for i in 0..400u64 {
            let _ = writeln!(large, "line {i} {}", if i == n % 400 { n } else { i * i });
        }
        let _ = write!(out, "M 100644 inline large\ndata {}\n{large}\n", large.len());
        if n % 10 == 9 {
            let _ = write!(
                out,
                "tag v{n}\nfrom :{}\ntagger C <c@example.org> {} +0000\ndata 4\ntag\n\n",
                n + 1,
                FIRST + n * STEP
            );
        }
        if n % 10 == 4 {
            let _ = write!(out, "reset refs/tags/light-{n}\nfrom :{}\n\n", n + 1);
        }
    }
    let _ = write!(out, "reset refs/heads/deep/er/name\nfrom :{}\n\n", commits / 2 + 1);
    out
}
