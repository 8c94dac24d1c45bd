//! Running a program to its end, with a bound.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// How a program ended and what it said.
#[derive(Debug, Clone)]
pub struct Done {
    /// Its exit status; 128 and the signal's number when a signal ended it.
    pub status: i32,
    /// Its standard output.
    pub out: Vec<u8>,
    /// Its standard error.
    pub err: String,
}

impl Done {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// Fails the test unless the status is 0; hands the output on.
    #[track_caller]
    pub fn good(self) -> Done {
        assert_eq!(self.status, 0, "standard error: {}\nstandard output: {}", self.err, self.text());
        self
    }

    /// Fails the test unless the status is not 0 and `words` are in what it said on standard error.
    #[track_caller]
    pub fn bad(self, words: &str) -> Done {
        assert_ne!(self.status, 0, "must have failed with {words}; it said {}{}", self.err, self.text());
        assert!(self.err.contains(words), "{words}: not in {:?}", self.err);
        self
    }
}

/// Runs `command` with `input`, at most `seconds`: one that takes longer is ended with all of its
/// process group, and the test fails.
#[track_caller]
pub fn run(command: &mut Command, input: &[u8], seconds: u64) -> Done {
    let mut stdin = tempfile::tempfile().expect("a temporary file");
    stdin.write_all(input).expect("writes");
    stdin.seek(SeekFrom::Start(0)).expect("seeks");
    let (out, err) = (file(), file());
    let mut child = command
        .stdin(stdin)
        .stdout(copy(&out))
        .stderr(copy(&err))
        .process_group(0)
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if Instant::now() >= end {
            let _ = killpg(Pid::from_raw(i32::try_from(child.id()).expect("a pid")), Signal::SIGKILL);
            let _ = child.wait();
            panic!("{command:?}: not done after {seconds} seconds: {}", String::from_utf8_lossy(&read(&err)));
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let status = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Done { status, out: read(&out), err: String::from_utf8_lossy(&read(&err)).into_owned() }
}

fn file() -> File {
    tempfile::tempfile().expect("a temporary file")
}

fn copy(file: &File) -> Stdio {
    file.try_clone().expect("a descriptor").into()
}

/// What was written. Without moving the place where the program writes: one that it started may
/// still be there, and would overwrite what it said.
fn read(file: &File) -> Vec<u8> {
    let length = file.metadata().expect("a length").len();
    let mut bytes = vec![0; usize::try_from(length).expect("fits into memory")];
    file.read_exact_at(&mut bytes, 0).expect("reads");
    bytes
}

/// Waits until `done` says so, at most `seconds`; false when the time is over.
pub fn wait_until(seconds: f64, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
