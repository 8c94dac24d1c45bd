//! gotsh between whatever it finds as standard input and output and the two pipes that the daemon
//! gave it. The client closes one side or both, takes nothing, is killed; the ends are pipes,
//! files, sockets, a terminal.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use regress::compare::{assert_whole, references};
use regress::raw::readable;
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Daemon, Site, history, is_root, pkt, run};

/// A request of version 0 for all of a branch, as raw as it can be: what follows `NAK` is the pack.
fn request(tip: &str) -> Vec<u8> {
    [pkt::lines([format!("want {tip} ofs-delta\n")]), pkt::line("done\n")].concat()
}

/// What stands behind the advertisement and `NAK`.
fn pack(output: &[u8]) -> &[u8] {
    let at = output.windows(12).position(|w| w == b"0008NAK\nPACK").expect("a pack");
    &output[at + 8..]
}

/// A pack that git takes, with everything behind this tip.
fn assert_pack(site: &Site, tip: &str, output: &[u8]) {
    let bare = site.clone_path(&format!("bare{}", output.as_ptr().addr()));
    history::init(site, &bare, "--quiet");
    let mut command = site.command("git");
    run(command.arg("-C").arg(&bare).args(["index-pack", "--stdin"]), pack(output), 60).good();
    site.git_in(&bare, ["update-ref", "refs/heads/main", tip]);
    assert_whole(site, &bare);
}

fn piped(site: &Site, line: &str) -> (Child, ChildStdin, ChildStdout) {
    let mut gotsh = site.gotsh(line);
    gotsh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut gotsh = gotsh.spawn().expect("gotsh starts");
    let (to, from) = (gotsh.stdin.take().expect("a pipe"), gotsh.stdout.take().expect("a pipe"));
    (gotsh, to, from)
}

/// Waits for the end, at most this many seconds; the status and what was said on standard error.
#[track_caller]
fn ended(gotsh: &mut Child, seconds: f64) -> (i32, String) {
    let mut status = None;
    assert!(
        wait_until(seconds, || {
            status = gotsh.try_wait().expect("a child");
            status.is_some()
        }),
        "gotsh is still there after {seconds} s"
    );
    let mut said = String::new();
    if let Some(stderr) = &mut gotsh.stderr {
        stderr.read_to_string(&mut said).expect("reads");
    }
    (status.and_then(|status| status.code()).unwrap_or(-1), said)
}

fn bulky() -> (Site, String, Daemon) {
    let site = Site::new();
    let tip = {
        let path = history::bulky(&site, "bulk.git", 3);
        history::tip(&site, &path)
    };
    let daemon = site.start();
    (site, tip, daemon)
}

fn all_objects(site: &Site, repository: &Path) -> Vec<u8> {
    let mut objects = site.command("git");
    objects.arg("-C").arg(repository).args(["pack-objects", "--all", "--stdout", "-q"]);
    run(&mut objects, b"", 60).good().out
}

/// A client that closes its writing end behind the pack still hears what became of it; one that
/// closes it within the pack is told so and changes nothing.
#[test]
fn a_push_whose_client_has_closed_its_writing_end() {
    let (site, tip, mut daemon) = bulky();
    let repository = history::repository(&site, "r.git", 3, "sha1");
    site.hand_over();
    let objects = all_objects(&site, &site.repository("bulk.git"));
    let before = references(&site, &repository);
    for (name, bytes) in [("cut", &objects[..objects.len() / 2]), ("whole", &objects[..])] {
        let (mut gotsh, mut to, mut from) = piped(&site, "git-receive-pack 'r.git'");
        let line = format!("{} {tip} refs/heads/{name}\0report-status", "0".repeat(40));
        to.write_all(&[&pkt::line(line)[..], pkt::FLUSH, bytes].concat()).expect("writes");
        drop(to);
        let mut said = Vec::new();
        from.read_to_end(&mut said).expect("reads");
        let said = String::from_utf8_lossy(&said).into_owned();
        let (status, text) = ended(&mut gotsh, 20.0);
        let there = references(&site, &repository);
        if name == "whole" {
            assert!(said.contains("unpack ok") && said.contains("ok refs/heads/whole"), "{said}");
            assert_eq!((status, text.as_str()), (0, ""));
            assert!(there.contains("refs/heads/whole"));
        } else {
            assert!(said.contains("ng refs/heads/cut"), "{said}");
            assert_eq!(there, before);
        }
    }
    assert_whole(&site, &repository);
    daemon.assert_serves();
}

/// sshd closes its ends when its client is gone. gotsh, which holds the only ends that the daemon
/// knows, closes them too, and both end soon, in the middle of a pack as before it.
#[test]
fn a_client_that_is_killed_midway() {
    let (site, tip, mut daemon) = bulky();
    for bytes in [0, 10, 100_000] {
        let (mut gotsh, mut to, mut from) = piped(&site, "git-upload-pack 'bulk.git'");
        if bytes > 0 {
            to.write_all(&request(&tip)).expect("writes");
        }
        let mut some = vec![0; bytes.max(4)];
        from.read_exact(&mut some).expect("an answer");
        let begun = Instant::now();
        drop((to, from));
        ended(&mut gotsh, 10.0);
        assert!(begun.elapsed() < Duration::from_secs(10), "{bytes}: {:?}", begun.elapsed());
    }
    // gotsh itself: the daemon sees the end of its pipes and of the connection.
    let (mut gotsh, mut to, mut from) = piped(&site, "git-upload-pack 'bulk.git'");
    to.write_all(&request(&tip)).expect("writes");
    from.read_exact(&mut [0; 5000]).expect("an answer");
    gotsh.kill().expect("it is there");
    gotsh.wait().expect("reaped");
    assert!(wait_until(15.0, || daemon.role("repo_read").is_empty()), "{:?}", daemon.processes());
    assert!(wait_until(5.0, || !daemon.gotctl(&["info"]).text().contains("git-upload-pack")));
    daemon.assert_serves();
}

/// A client that only stops reading, and keeps writing: what it wrote is not what its end is judged
/// by. Nobody reads standard output any more, so that both directions are closed.
#[test]
fn a_client_that_closes_its_reading_end_alone() {
    let (site, tip, mut daemon) = bulky();
    let (mut gotsh, mut to, mut from) = piped(&site, "git-upload-pack 'bulk.git'");
    from.read_exact(&mut [0; 4]).expect("an answer");
    drop(from);
    let _ = to.write_all(&request(&tip));
    ended(&mut gotsh, 10.0);
    drop(to);
    daemon.assert_serves();
}

/// Configured so that a client that takes nothing is ended soon.
fn impatient(site: &Site) -> String {
    format!(
        "{}connection {{\n\tlimit user \"{me}\" 64\n\tminimum rate 4096\n\trate window 5\n\trequest timeout 3\n\tidle timeout 3\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        me = present_user(),
    )
}

/// The output is full and nobody takes it: the text is heard at once on standard error, and the
/// status once the output has been taken, behind which there is nothing.
#[test]
fn text_and_status_behind_a_full_pipe() {
    let site = Site::new();
    let path = history::bulky(&site, "bulk.git", 8);
    let tip = history::tip(&site, &path);
    let mut daemon = site.start_with(&impatient(&site));
    let (mut gotsh, mut to, mut from) = piped(&site, "git-upload-pack 'bulk.git'");
    to.write_all(&request(&tip)).expect("writes");
    let stderr = gotsh.stderr.take().expect("a pipe");
    let deadline = Instant::now() + Duration::from_secs(40);
    assert!(readable(stderr.as_fd(), deadline), "nothing is said");
    let mut stderr = File::from(OwnedFd::from(stderr));
    let mut text = vec![0; 4096];
    let n = stderr.read(&mut text).expect("reads");
    let text = String::from_utf8_lossy(&text[..n]).into_owned();
    assert!(text.contains("too slow"), "{text}");
    assert!(gotsh.try_wait().expect("a child").is_none(), "ended before its output was taken");
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).expect("reads");
    assert!(rest.len() > 64 * 1024, "{} bytes were there", rest.len());
    let (status, _) = ended(&mut gotsh, 10.0);
    assert_eq!(status, 1);
    daemon.assert_serves();
}

/// What is never taken is given up after a minute, and the status is that of the session.
#[test]
fn output_that_is_never_taken_is_given_up() {
    let site = Site::new();
    let path = history::bulky(&site, "bulk.git", 8);
    let tip = history::tip(&site, &path);
    let _daemon = site.start_with(&impatient(&site));
    let (mut gotsh, mut to, from) = piped(&site, "git-upload-pack 'bulk.git'");
    to.write_all(&request(&tip)).expect("writes");
    let (status, text) = ended(&mut gotsh, 120.0);
    assert_eq!(status, 1);
    assert!(text.contains("too slow"), "{text}");
    drop(from);
}

/// A refusal goes by the text and the status, also where there is no repository process that could
/// say anything.
#[test]
fn a_refusal_has_its_text_and_its_status() {
    let (site, _tip, _daemon) = bulky();
    let done = run(&mut site.gotsh("git-upload-pack 'nothing.git'"), b"", 20);
    assert_eq!((done.status, done.err.as_str()), (1, "gotsh: no git repository found\n"));
    assert_eq!(pkt::error(&done.out).as_deref(), Some("no git repository found"));
}

/// Standard input and output are files: an ordinary one, one that is appended to, where splice(2)
/// does not work, and /dev/null.
#[test]
fn files_as_input_and_output() {
    let (site, tip, mut daemon) = bulky();
    let input = site.path("request");
    std::fs::write(&input, request(&tip)).expect("writes");
    for append in [false, true] {
        let output = site.path(&format!("answer{append}"));
        std::fs::write(&output, b"").expect("writes");
        let mut options = File::options();
        let out = options.read(true).write(!append).append(append).open(&output).expect("opens");
        let mut gotsh = site.gotsh("git-upload-pack 'bulk.git'");
        gotsh.stdin(File::open(&input).expect("opens")).stdout(out).stderr(Stdio::piped());
        let mut gotsh = gotsh.spawn().expect("starts");
        assert_eq!(ended(&mut gotsh, 60.0), (0, String::new()), "{append}");
        assert_pack(&site, &tip, &std::fs::read(&output).expect("reads"));
    }
    let mut gotsh = site.gotsh("git-upload-pack 'bulk.git'");
    gotsh.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    ended(&mut gotsh.spawn().expect("starts"), 20.0);
    daemon.assert_serves();
}

/// A file as input whose reader has begun in the middle, as a service manager's may: not a byte
/// before or after is the session's.
#[test]
fn a_file_is_read_from_where_it_is() {
    let (site, tip, _daemon) = bulky();
    let mut input = tempfile::tempfile().expect("a file");
    input.write_all(&[b"not this", &request(&tip)[..]].concat()).expect("writes");
    input.seek(SeekFrom::Start(8)).expect("seeks");
    let mut gotsh = site.gotsh("git-upload-pack 'bulk.git'");
    gotsh.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut gotsh = gotsh.spawn().expect("starts");
    let mut output = Vec::new();
    gotsh.stdout.take().expect("a pipe").read_to_end(&mut output).expect("reads");
    assert_eq!(ended(&mut gotsh, 20.0), (0, String::new()));
    assert_pack(&site, &tip, &output);
}

/// A connection over TCP, in both its ends.
fn tcp_pair() -> (OwnedFd, OwnedFd) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let far = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    (far.into(), listener.accept().expect("accepts").0.into())
}

fn unix_pair() -> (OwnedFd, OwnedFd) {
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    (ours.into(), theirs.into())
}

/// One socket that is both, as from inetd(8), whose splice(2) would wait for more than has come;
/// and two. The answer fills the socket before it is looked at, and the client still has something
/// to say then.
#[test]
fn sockets_as_input_and_output() {
    let (site, tip, mut daemon) = bulky();
    for (pair, both) in
        [(tcp_pair as fn() -> _, true), (tcp_pair, false), (unix_pair, true), (unix_pair, false)]
    {
        let (ours, theirs) = pair();
        let (writes, reads) = if both {
            (ours.try_clone().expect("a copy"), theirs.try_clone().expect("a copy"))
        } else {
            pair()
        };
        let mut gotsh = site.gotsh("git-upload-pack 'bulk.git'");
        gotsh.stdin(reads).stdout(theirs).stderr(Stdio::piped());
        let mut child = gotsh.spawn().expect("starts");
        // The command has copies.
        drop(gotsh);
        let (mut writes, mut ours) = (File::from(writes), File::from(ours));
        let request = request(&tip);
        writes.write_all(&request[..20]).expect("writes");
        std::thread::sleep(Duration::from_millis(200));
        writes.write_all(&request[20..]).expect("writes");
        std::thread::sleep(Duration::from_millis(500));
        let mut output = Vec::new();
        ours.read_to_end(&mut output).expect("reads");
        assert_eq!(ended(&mut child, 20.0), (0, String::new()), "{both}");
        assert_pack(&site, &tip, &output);
    }
    daemon.assert_serves();
}

/// A terminal in raw mode.
#[test]
fn a_terminal_as_input_and_output() {
    let (site, tip, mut daemon) = bulky();
    let expected = run(&mut site.gotsh("git-upload-pack 'bulk.git'"), b"0000", 20).good().out;
    // Not by openpty(3): programs that other tests start would keep its ends.
    let mut master =
        nix::pty::posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).expect("a terminal");
    nix::pty::grantpt(&master).and_then(|()| nix::pty::unlockpt(&master)).expect("its other end");
    let name = nix::pty::ptsname_r(&master).expect("its name");
    let slave =
        File::options().read(true).write(true).custom_flags(libc::O_NOCTTY).open(name).expect("opens");
    let mut mode = nix::sys::termios::tcgetattr(&slave).expect("its mode");
    nix::sys::termios::cfmakeraw(&mut mode);
    nix::sys::termios::tcsetattr(&slave, nix::sys::termios::SetArg::TCSANOW, &mode).expect("sets");
    let mut gotsh = site.gotsh("git-upload-pack 'bulk.git'");
    gotsh.stdin(slave.try_clone().expect("a copy")).stdout(slave.try_clone().expect("a copy"));
    gotsh.stderr(Stdio::piped());
    let mut child = gotsh.spawn().expect("starts");
    drop((gotsh, slave));
    let mut said = vec![0; expected.len()];
    master.read_exact(&mut said).expect("reads");
    assert_eq!(said, expected);
    master.write_all(&request(&tip)).expect("writes");
    let mut all = said;
    let mut buffer = vec![0; 65536];
    // The end of a terminal is an error.
    while let Ok(n @ 1..) = master.read(&mut buffer) {
        all.extend_from_slice(&buffer[..n]);
    }
    assert_eq!(ended(&mut child, 20.0), (0, String::new()));
    assert_pack(&site, &tip, &all);
    daemon.assert_serves();
}

/// gotsh and session do nothing but relay: while a clone is under way neither may send or receive a
/// descriptor, and the session holds no file.
#[test]
fn what_a_session_at_work_and_its_client_hold() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let (site, tip, daemon) = bulky();
    let (mut gotsh, mut to, mut from) = piped(&site, "git-upload-pack 'bulk.git'");
    to.write_all(&request(&tip)).expect("writes");
    from.read_exact(&mut [0; 5000]).expect("an answer");
    let info = daemon.gotctl(&["info"]).good().text();
    let line = info.lines().find(|line| line.contains("git-upload-pack")).expect("it is under way");
    let pids: Vec<i32> = line
        .rsplit_once("pids ")
        .expect("its processes")
        .1
        .split(' ')
        .filter_map(|pid| pid.parse().ok())
        .collect();
    let links = |pid: i32| -> Vec<String> {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("root lists").flatten();
        fds.filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .map(|link| link.display().to_string())
            .collect()
    };
    let pipes = |pid: i32| -> Vec<String> {
        let mut pipes: Vec<String> =
            links(pid).into_iter().filter(|link| link.starts_with("pipe:")).collect();
        pipes.sort_unstable();
        pipes
    };
    let from_here = pipes(std::process::id().cast_signed());
    let mut theirs = pipes(gotsh.id().cast_signed());
    theirs.retain(|pipe| !from_here.contains(pipe));
    assert_eq!(theirs.len(), 2, "{theirs:?}");
    for pid in pids {
        let name = regress::process::status(pid).remove("Name").unwrap_or_default();
        let shared = pipes(pid).into_iter().filter(|pipe| theirs.contains(pipe)).count();
        // The output is theirs both, the input the session's alone.
        assert_eq!(shared, if name == "session" { 2 } else { 1 }, "{name}: {:?} {theirs:?}", links(pid));
    }
    let mut rest = Vec::new();
    from.read_to_end(&mut rest).expect("reads");
    drop(to);
    ended(&mut gotsh, 20.0);
}
