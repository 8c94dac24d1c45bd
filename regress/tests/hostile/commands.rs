//! What a client can type where gotsh listens, and what it can put into the environment.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use regress::compare::{assert_mirror, listing};
use regress::{Setup, Site, Sshd, history, pkt, run};

/// One site with a repository that nothing here may reach by a wrong name.
fn site() -> (Site, regress::Daemon) {
    let site = Site::new();
    history::repository(&site, "demo.git", 4, "sha1");
    history::repository(&site, "sub/inner.git", 4, "sha1");
    history::repository(&site, "a b.git", 4, "sha1");
    // Beside the root, where `..` would lead.
    history::repository(&site, "../outside.git", 4, "sha1");
    let daemon = site.start();
    (site, daemon)
}

/// Runs `gotsh -c LINE`; it must fail at once, with one line and without a control byte.
#[track_caller]
fn refused(site: &Site, line: &[u8], words: &str) {
    let done = run(&mut site.gotsh(OsStr::from_bytes(line)), b"", 10);
    let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
    assert_eq!(done.status, 1, "{shown:?}: {}", done.err);
    assert!(done.err.contains(words), "{shown:?}: {}", done.err);
    let bad = |b: u8| b.is_ascii_control() && b != b'\n';
    assert!(!done.err.bytes().any(bad), "{shown:?}: {:?}", done.err);
    assert!(done.err.len() < 1000, "{shown:?}: {} bytes of error", done.err.len());
    if !words.starts_with("usage") {
        let text = pkt::error(&done.out).unwrap_or_else(|| panic!("{shown:?}: no ERR packet"));
        assert!(!text.bytes().any(|b| b.is_ascii_control()), "{shown:?}: {text:?}");
    }
}

#[test]
fn names_that_are_options_or_lead_elsewhere() {
    let (site, mut daemon) = site();
    for name in [
        "--help",
        "-x",
        "--upload-pack=/bin/sh",
        "../outside.git",
        "/../outside.git",
        "demo.git/../../outside.git",
        "sub/../demo.git",
        "./demo.git",
        "sub/./inner.git",
        "sub//inner.git",
        "//demo.git",
        "%2e%2e/outside.git",
        "..%2foutside.git",
        "demo.git/objects",
        "demo.git/refs/heads",
        "sub",
        ".",
        "..",
        "/",
        "~/demo.git",
        "~root/demo.git",
        "$HOME/demo.git",
        "`id`",
        "nothing.git",
    ] {
        for line in [format!("git-upload-pack '{name}'"), format!("git-receive-pack '{name}'")] {
            refused(&site, line.as_bytes(), "no git repository found");
        }
    }
    let root = format!("git-upload-pack '{}'", site.repository("demo.git").display());
    refused(&site, root.as_bytes(), "no git repository found");
    refused(&site, b"git-upload-pack ''", "no git repository found");
    daemon.assert_serves();
    for name in ["demo.git", "/demo", "demo", "sub/inner", "a b.git", "a b"] {
        site.git(["ls-remote", &format!("gotd:{name}")]).good();
    }
}

#[test]
fn bytes_that_no_name_has() {
    let (site, mut daemon) = site();
    for name in [&b"de\nmo"[..], b"demo.git\n", b"\x1b[31mdemo", b"demo\x7f", b"demo\t", b"\x01", b"demo\r"] {
        let line = [b"git-upload-pack '", name, b"'"].concat();
        refused(&site, &line, "no git repository found");
    }
    // Bytes that are not UTF-8 are only bytes.
    refused(&site, b"git-upload-pack '\xff\xfe'", "no git repository found");
    refused(&site, format!("git-upload-pack '{}'", "x".repeat(255)).as_bytes(), "buffer too small");
    refused(&site, format!("git-upload-pack '{}'", "x".repeat(120_000)).as_bytes(), "buffer too small");
    refused(&site, format!("git-upload-pack '{}'", "a/".repeat(120)).as_bytes(), "no git repository found");
    daemon.assert_serves();
    // And no control byte came into the log.
    assert!(!daemon.log().bytes().any(|b| b.is_ascii_control() && b != b'\n'), "{:?}", daemon.log());
}

#[test]
fn quotes() {
    let (site, mut daemon) = site();
    for line in [
        &b"git-upload-pack 'demo.git"[..],
        b"git-upload-pack demo.git'",
        b"git-upload-pack 'demo.git' 'sub/inner.git'",
        b"git-upload-pack 'demo.git'; id",
        b"git-upload-pack 'demo'\\''.git' x",
        b"git-upload-pack \"demo.git\\\"\"",
        b"git-upload-pack \"$HOME\"",
        b"git-upload-pack 'de'mo.git",
        b"git-upload-pack 'demo.git'\n",
        b"git-upload-pack --strict 'demo.git'",
        b"git-upload-pack  'demo.git'",
    ] {
        refused(&site, line, "bad quoting");
    }
    // As git, C gotd's clients and people write it.
    for line in [
        "git-upload-pack 'demo.git'",
        "git-upload-pack demo.git",
        "git-upload-pack \"/demo\"",
        "git upload-pack 'demo'",
    ] {
        let done = run(&mut site.gotsh(line), b"0000", 10).good();
        assert!(done.text().contains("refs/heads/main"), "{line}: {}", done.text());
    }
    daemon.assert_serves();
}

#[test]
fn an_error_is_one_write() {
    // Game of Trees' client has the same standard error, and its words came between `gotsh: ` and
    // the rest.
    let (site, mut daemon) = site();
    let (reader, writer) = UnixDatagram::pair().unwrap();
    reader.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let status = site
        .gotsh("git-upload-pack 'nothing'")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(OwnedFd::from(writer))
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
    let mut text = [0; 100];
    let length = reader.recv(&mut text).unwrap();
    assert_eq!(text[..length], *b"gotsh: no git repository found\n");
    daemon.stop();
}

#[test]
fn other_commands() {
    let (site, mut daemon) = site();
    for line in [
        &b""[..],
        b" ",
        b"id",
        b"/bin/sh",
        b"git-upload-archive 'demo.git'",
        b"git-shell -c x",
        b"git-upload-pack",
        b"git-upload-pack ",
        b"git-upload-packx 'demo.git'",
        b"GIT-UPLOAD-PACK 'demo.git'",
        b"/usr/bin/git-upload-pack 'demo.git'",
        b"scp -f x",
        b"gotsh --user alice",
        b"--user alice",
    ] {
        let done = run(&mut site.gotsh(OsStr::from_bytes(line)), b"", 10);
        let shown = String::from_utf8_lossy(line).into_owned();
        assert_eq!((done.status, done.text().as_str()), (1, ""), "{shown:?}");
        assert!(done.err.starts_with("usage: gotsh "), "{shown:?}: {}", done.err);
    }
    for arguments in
        [&["--help"][..], &["-x"], &["-c"], &["-c", "a", "b"], &["--user"], &["--user", "a", "b"]]
    {
        let mut command = site.command(regress::binaries().join("gotsh"));
        let done = run(command.env("GOTD_UNIX_SOCKET", site.socket()).args(arguments), b"", 10);
        assert_eq!((done.status, done.text().as_str()), (1, ""), "{arguments:?}");
        assert!(done.err.starts_with("usage: gotsh "), "{arguments:?}: {}", done.err);
    }
    daemon.assert_serves();
}

/// CVE-2022-39260: a command of a megabyte ended git-shell. Through sshd it may be as long as a
/// client likes.
#[test]
fn a_command_of_a_megabyte_through_sshd() {
    if !Sshd::available() {
        return;
    }
    let (site, mut daemon) = site();
    let sshd = Sshd::start(&site, Setup::ForcedCommand, None);
    let part = "x".repeat(100_000);
    let mut words = vec!["gotd", "git-upload-pack"];
    words.extend(std::iter::repeat_n(part.as_str(), 11));
    let done = run(&mut sshd.ssh(&site, &words), b"", 20);
    assert_ne!(done.status, 0);
    let done = run(&mut sshd.ssh(&site, ["gotd", "git-upload-pack", &part]), b"", 20);
    assert_eq!(done.status, 1);
    assert!(done.err.contains("gotsh: buffer too small"), "{}", done.err);
    // A shell's own words mean nothing.
    for line in ["git-upload-pack 'demo.git'; id", "git-upload-pack 'demo.git' && id", "$(id)", "id"] {
        let done = run(&mut sshd.ssh(&site, ["gotd", line]), b"", 20);
        assert_eq!(done.status, 1, "{line}");
        assert!(!done.text().contains("uid=") && !done.err.contains("uid="), "{line}: {}", done.err);
    }
    sshd.git(&site, ["ls-remote", "gotd:demo.git"]).good();
    daemon.assert_serves();
}

/// Variables that make git or the loader run or read something. Only `GIT_PROTOCOL` may have any
/// effect.
fn hostile_environment(site: &Site) -> Vec<(String, String)> {
    let marker = site.path("marker");
    site.script("evil", &format!("#!/bin/sh\n: >{}\nexit 0\n", marker.display()));
    let evil = site.path("evil").display().to_string();
    let marker = marker.display().to_string();
    [
        ("LD_LIBRARY_PATH", "/nowhere"),
        ("GIT_DIR", "/etc"),
        ("GIT_EXEC_PATH", site.path("").to_str().expect("a temporary path is text")),
        ("GIT_OBJECT_DIRECTORY", "/etc"),
        ("GIT_ALTERNATE_OBJECT_DIRECTORIES", "/etc"),
        ("GIT_TRACE", &marker),
        ("GIT_TRACE2_EVENT", &marker),
        ("GIT_CONFIG_COUNT", "1"),
        ("GIT_CONFIG_KEY_0", "uploadpack.packObjectsHook"),
        ("GIT_CONFIG_VALUE_0", &evil),
        ("GIT_CONFIG_PARAMETERS", "'core.fsmonitor=/bin/false'"),
        ("BASH_ENV", &evil),
        ("ENV", &evil),
        ("PATH", "/nowhere"),
        ("GOTD_LOG", &marker),
        ("RUST_BACKTRACE", "full"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .to_vec()
}

#[test]
fn the_environment_of_gotsh_changes_nothing() {
    let (site, mut daemon) = site();
    let variables = hostile_environment(&site);
    let before = listing(&site.path("repositories"));
    let mut command = site.gotsh("git-upload-pack 'demo.git'");
    let done = run(command.envs(variables), b"0000", 10).good();
    assert!(done.text().contains("refs/heads/main"));
    assert!(!site.path("marker").exists(), "a variable had an effect");
    for value in [
        "version=2:\n\x1b[31m",
        "version=99999999999999999999",
        "version=2=3",
        ":::::",
        "version=1:version=2",
    ] {
        let mut command = site.gotsh("git-upload-pack 'demo.git'");
        run(command.env("GIT_PROTOCOL", value), b"0000", 10).good();
    }
    let mut command = site.gotsh("git-upload-pack 'demo.git'");
    let long = format!("version=2:{}", "x".repeat(100_000));
    run(command.env("GIT_PROTOCOL", long).env("SSH_CONNECTION", "\x1b[31m".repeat(1000)), b"0000", 10).good();
    daemon.assert_serves();
    assert_eq!(before, listing(&site.path("repositories")));
    assert!(!daemon.log().contains('\x1b'));
}

#[test]
fn variables_sent_by_ssh_do_not_arrive() {
    if !Sshd::available() {
        return;
    }
    let (site, mut daemon) = site();
    let sshd = Sshd::start(&site, Setup::ForcedCommand, None);
    let variables = hostile_environment(&site);
    let mut arguments: Vec<String> = Vec::new();
    for (key, value) in &variables {
        arguments.extend(["-o".into(), format!("SetEnv={key}={value}")]);
    }
    arguments.extend(["gotd".into(), "git-upload-pack 'demo.git'".into()]);
    let done = run(&mut sshd.ssh(&site, &arguments), b"0000", 20).good();
    assert!(done.text().contains("refs/heads/main"));
    assert!(!site.path("marker").exists(), "a variable had an effect");
    // A variable that claims who it is means nothing: the kernel says it.
    let spoof =
        ["-o", "SetEnv=SSH_ORIGINAL_COMMAND=id", "-o", "SetEnv=USER=alice", "gotd", "git-upload-pack 'demo'"];
    run(&mut sshd.ssh(&site, spoof), b"0000", 20).good();
    daemon.assert_serves();
}

/// The daemon's own environment ends with it: its children have none.
#[test]
fn the_daemons_children_have_no_environment() {
    if !regress::is_root() {
        return regress::skipped("needs root");
    }
    let (_site, daemon) = site();
    let mut seen = 0;
    // One that is called as the parent is has not executed its program yet.
    for process in daemon.processes().into_iter().filter(|p| p.name != "gotd") {
        let environment = match fs::read(format!("/proc/{}/environ", process.pid)) {
            Ok(environment) => environment,
            // The session that answered gotctl may just be ending.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => panic!("{process:?}: {e}"),
        };
        assert_eq!(environment, b"", "{process:?}");
        seen += 1;
    }
    assert!(seen >= 5, "{seen}");
}

/// Where standard input and output are no pipes, gotsh relays.
#[test]
fn standard_input_and_output_that_are_no_pipes() {
    let (site, mut daemon) = site();
    let out = fs::File::create(site.path("out")).expect("makes a file");
    fs::write(site.path("in"), b"0000").expect("writes");
    let input = fs::File::open(site.path("in")).expect("opens");
    let mut command = site.gotsh("git-upload-pack 'demo.git'");
    let status = command.stdin(input).stdout(out).status().expect("runs");
    assert!(status.success());
    assert!(fs::read_to_string(site.path("out")).expect("reads").contains("refs/heads/main"));
    // One socket for both, as an inetd gives.
    let mirror = site.clone_path("mirror");
    let script = format!(
        "#!/usr/bin/env python3\n\
         import os, socket, subprocess, sys, threading\n\
         a, b = socket.socketpair()\n\
         p = subprocess.Popen([{:?}] + sys.argv[1:], stdin=b, stdout=b)\n\
         b.close()\n\
         def up():\n\
         \x20   while True:\n\
         \x20       d = os.read(0, 65536)\n\
         \x20       if not d: break\n\
         \x20       a.sendall(d)\n\
         \x20   a.shutdown(socket.SHUT_WR)\n\
         threading.Thread(target=up, daemon=True).start()\n\
         while True:\n\
         \x20   d = a.recv(65536)\n\
         \x20   if not d: break\n\
         \x20   while d: d = d[os.write(1, d):]\n\
         os._exit(p.wait())\n",
        site.path("ssh").display().to_string()
    );
    let script = site.script("ssh-socket", &script);
    let mut command = site.command("git");
    command.env("GIT_SSH_COMMAND", script).args(["clone", "-q", "--mirror", "gotd:demo.git"]).arg(&mirror);
    run(&mut command, b"", 30).good();
    assert_mirror(&site, &site.repository("demo.git"), &mirror);
    daemon.assert_serves();
}
