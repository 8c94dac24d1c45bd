//! A log that nobody reads. Whoever starts `gotd -d 2>&1 | less` and looks at the first page stops
//! the reader: the pipe fills, and a daemon that writes its lines as if somebody took them stands
//! still with its next line, and with it all who come.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::run::wait_until;
use regress::{Done, Site, binaries, history, run};

/// Commands of the push that fills the log: more lines than wait for a reader.
const REFERENCES: usize = 3000;

/// A daemon whose standard error nobody reads yet.
struct Unread {
    child: Child,
}

impl Unread {
    fn start(site: &Site, stderr: OwnedFd) -> Unread {
        std::fs::write(site.path("gotd.conf"), site.serve_all()).expect("writes");
        let mut command = site.command(binaries().join("gotd"));
        command
            .args(["-d", "-v", "-f"])
            .arg(site.path("gotd.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.stderr(stderr).process_group(0).spawn().expect("starts");
        let unread = Unread { child };
        assert!(wait_until(20.0, || site.socket().exists() && gotctl(site, "info").status == 0), "no start");
        unread
    }
}

/// A test that fails leaves nobody.
impl Drop for Unread {
    fn drop(&mut self) {
        if let (Ok(None), Ok(pid)) = (self.child.try_wait(), i32::try_from(self.child.id())) {
            let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn gotctl(site: &Site, what: &str) -> Done {
    run(Command::new(binaries().join("gotctl")).arg("-f").arg(site.socket()).arg(what), b"", 20)
}

/// git, with less patience than other tests have: a daemon that stands still never answers.
fn git(site: &Site, arguments: &[&str]) -> Done {
    run(site.command("git").args(arguments), b"", 30)
}

/// A push with a line in the log for each of its many references.
fn fill(site: &Site) {
    let work = site.clone_path("work");
    git(site, &["clone", "-q", "gotd:log.git", &work.to_string_lossy()]).good();
    let tip = site.git_in(&work, ["rev-parse", "HEAD"]);
    let lines: String =
        (0..REFERENCES).map(|n| format!("create refs/tags/t{n:0>100} {}\n", tip.trim())).collect();
    let update = ["-C", &work.to_string_lossy(), "update-ref", "--stdin"].map(str::to_owned);
    run(site.command("git").args(update), lines.as_bytes(), 30).good();
    git(site, &["-C", &work.to_string_lossy(), "push", "-q", "--tags", "origin"]).good();
}

/// The daemon serves while its log is stuck, and stops when told to. Returns how many lines are
/// lost.
fn serves_without_a_reader(site: &Site, unread: &mut Unread) -> u64 {
    fill(site);
    for _ in 0..3 {
        git(site, &["ls-remote", "gotd:log.git", "refs/heads/main"]).good();
    }
    let metrics = gotctl(site, "metrics").good().text();
    let lost = metrics.lines().find_map(|line| line.strip_prefix("gotd_log_lines_dropped_total "));
    let pid = i32::try_from(unread.child.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGTERM).expect("is there");
    assert!(
        wait_until(5.0, || unread.child.try_wait().is_ok_and(|status| status.is_some())),
        "does not stop"
    );
    lost.expect("a count").parse().expect("a number")
}

fn site() -> Site {
    let site = Site::new();
    history::repository(&site, "log.git", 3, "sha1");
    site.hand_over();
    site
}

#[test]
fn a_reader_of_standard_error_that_stops_keeps_nobody_waiting() {
    let site = site();
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let mut unread = Unread::start(&site, writer);
    let lost = serves_without_a_reader(&site, &mut unread);
    assert!(lost > 100, "{lost}: the log was not full");
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).expect("text");
    assert!(text.contains("gotd: started "), "{text}");
    // What was written is whole.
    assert!(text.lines().all(|line| line.starts_with("gotd: ")), "{text}");
}

#[test]
fn lines_that_were_lost_are_counted_in_the_log_when_its_reader_goes_on() {
    let site = site();
    let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    // The pipe of another program too, which must find it as it was.
    let shared = writer.try_clone().expect("a descriptor");
    let unread = Unread::start(&site, writer);
    fill(&site);
    let flags = fcntl(shared.as_fd(), FcntlArg::F_GETFL).map(OFlag::from_bits_retain).expect("flags");
    assert!(!flags.contains(OFlag::O_NONBLOCK), "{flags:?}");
    drop(shared);
    // Read from here on, the log tells how many lines are missing, and each of the others is there.
    let mut reader = File::from(reader);
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    let told = wait_until(20.0, || {
        let n = reader.read(&mut buffer).expect("reads");
        text.extend_from_slice(&buffer[..n]);
        String::from_utf8_lossy(&text).contains("gotd: log dropped=")
    });
    let text = String::from_utf8(text).expect("text");
    assert!(told, "{text}");
    let lost = text.split_once("gotd: log dropped=").and_then(|(_, rest)| rest.lines().next());
    let lost: usize = lost.expect("a count").parse().expect("a number");
    let references = text.lines().filter(|line| line.starts_with("gotd: reference ")).count();
    assert!(references + lost >= REFERENCES, "{references} lines, {lost} lost");
    drop(unread);
}

#[test]
fn a_socket_that_nobody_reads_keeps_nobody_waiting() {
    let site = site();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let mut unread = Unread::start(&site, theirs.into());
    let lost = serves_without_a_reader(&site, &mut unread);
    assert!(lost > 100, "{lost}: the log was not full");
    drop(ours);
}
