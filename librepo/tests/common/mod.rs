//! Temporary repositories made by git, which is also the oracle.

#![allow(dead_code, reason = "every test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

pub mod history;
pub mod random;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use librepo::fetch::Sink;
use librepo::{Options, Repository};

/// A temporary directory with a repository in it.
pub struct Scratch {
    temp: tempfile::TempDir,
    /// The repository.
    pub dir: PathBuf,
}

impl Scratch {
    /// A bare repository with `git init`'s further options.
    pub fn bare(options: &[&str]) -> Scratch {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().canonicalize().unwrap().join("repo.git");
        let scratch = Scratch { temp, dir };
        let mut args = vec!["init", "-q", "--bare", "-b", "main"];
        args.extend(options);
        args.push("repo.git");
        scratch.git_in(scratch.temp.path(), &args);
        scratch
    }

    /// Leaves the directory behind, to look into after a failure.
    pub fn keep(&mut self) {
        self.temp.disable_cleanup(true);
        eprintln!("kept: {}", self.top().display());
    }

    pub fn top(&self) -> &Path {
        self.dir.parent().unwrap()
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("git");
        command.args(args).current_dir(dir).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.temp.path()).env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
        for who in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{who}_NAME"), "A U Thor")
                .env(format!("GIT_{who}_EMAIL"), "a@example.org");
            command.env(format!("GIT_{who}_DATE"), "1700000000 +0000");
        }
        command
    }

    /// Runs git in a directory, and gives what it prints.
    pub fn git_in(&self, dir: &Path, args: &[&str]) -> String {
        let out = self.command(dir, args).output().unwrap();
        assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// Runs git in the repository; whether it succeeds.
    pub fn git_may_fail(&self, args: &[&str]) -> bool {
        self.command(&self.dir, args).output().unwrap().status.success()
    }

    /// Runs git in the repository, and gives what it prints.
    pub fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.dir, args)
    }

    /// Runs git in the repository with some input.
    pub fn git_with(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut child =
            self.command(&self.dir, args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let out = std::thread::scope(|scope| {
            scope.spawn(move || {
                use std::io::Write as _;
                let _ = stdin.write_all(input);
            });
            child.wait_with_output().unwrap()
        });
        assert!(out.status.success(), "git {args:?}");
        out.stdout
    }

    /// Adds `count` commits to a branch, by fast-import: files that grow, in directories, one
    /// merge.
    pub fn history(&self, branch: &str, count: usize, seed: usize) {
        let mut input = Vec::new();
        for i in 0..count {
            let text: String = (0..50 + i)
                .map(|line| format!("line {line} of {seed}, as of {}\n", (line * 7 + i / 3) % 50))
                .collect();
            input.extend(format!("commit refs/heads/{branch}\nmark :{}\n", i + 1).bytes());
            input.extend(
                format!("committer C <c@example.org> {} +0000\n", 1_600_000_000 + i * 60 + seed).bytes(),
            );
            input.extend(format!("data <<END\ncommit {i} of {seed}\nEND\n").bytes());
            if i == 0 && !self.git(&["for-each-ref", &format!("refs/heads/{branch}")]).is_empty() {
                input.extend(format!("from refs/heads/{branch}^0\n").bytes());
            }
            if i > 8 && i % 10 == 9 {
                input.extend(format!("merge :{}\n", i - 7).bytes());
            }
            for name in [format!("file{}", i % 5), format!("dir/sub{}/file", i % 3)] {
                input.extend(format!("M 100644 inline {name}\ndata {}\n{text}\n", text.len()).bytes());
            }
        }
        self.git_with(&["fast-import", "--quiet", "--force"], &input);
    }

    pub fn open(&self) -> Repository {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> librepo::Result<Repository> {
        open(&self.dir)
    }
}

/// Keeps a pack and the text beside it.
#[derive(Default)]
pub struct Collect {
    pub pack: Vec<u8>,
    pub text: String,
}

impl Sink for Collect {
    fn pack(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.pack.extend_from_slice(bytes);
        Ok(())
    }
    fn progress(&mut self, text: &str) -> std::io::Result<()> {
        self.text += text;
        Ok(())
    }
}

/// How many objects a pack says that it holds.
pub fn count(pack: &[u8]) -> usize {
    u32::from_be_bytes(pack[8..12].try_into().unwrap()) as usize
}

pub fn open(dir: &Path) -> librepo::Result<Repository> {
    Repository::open(std::fs::File::open(dir).unwrap().into(), Options::default())
}
