//! Processes that are killed, daemons that are stopped, and sockets that are left.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use regress::raw::{End, Session};
use regress::run::wait_until;
use regress::{Daemon, Site, history, run};

/// A `git clone` whose data stops in the middle until [`Stalled::go_on`].
struct Stalled {
    git: Child,
    go: std::path::PathBuf,
    err: std::path::PathBuf,
    status: std::path::PathBuf,
}

impl Stalled {
    /// Starts it and waits until it has stopped.
    fn start(site: &Site, name: &str) -> Stalled {
        let path = |end: &str| site.path(&format!("stalled-{name}.{end}"));
        let (go, flowing, err, status) = (path("go"), path("flowing"), path("err"), path("status"));
        let script = format!(
            "#!/bin/sh\n{{ {ssh} \"$@\"; echo $? >{status}; }} | {{ dd bs=4096 count=80 2>/dev/null; : >{flowing}; \
             n=0; while [ ! -e {go} ] && [ $n -lt 1200 ]; do n=$((n + 1)); sleep 0.05; done; cat; }}\n",
            ssh = site.path("ssh").display(),
            status = status.display(),
            flowing = flowing.display(),
            go = go.display()
        );
        let script = site.script(&format!("stalled-{name}"), &script);
        let mut command: Command = site.command("git");
        command.env("GIT_SSH_COMMAND", script).args(["clone", "gotd:bulk.git"]).arg(site.clone_path(name));
        let file = fs::File::create(&err).expect("makes a file");
        let git =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("starts git");
        let stalled = Stalled { git, go, err, status };
        assert!(wait_until(20.0, || flowing.exists()), "no data came");
        stalled
    }

    /// Lets the data flow again, and returns git's success, what was said on standard error, and
    /// gotsh's status.
    fn go_on(&mut self) -> (bool, String, String) {
        fs::write(&self.go, b"").expect("makes a file");
        let mut success = None;
        let ended = wait_until(20.0, || {
            success = self.git.try_wait().expect("waits").map(|status| status.success());
            success.is_some()
        });
        assert!(ended, "git clone hangs");
        let status = fs::read_to_string(&self.status).unwrap_or_default();
        (success == Some(true), fs::read_to_string(&self.err).unwrap_or_default(), status.trim().into())
    }
}

/// A test that fails in the middle leaves no script that waits for ever.
impl Drop for Stalled {
    fn drop(&mut self) {
        let _ = fs::write(&self.go, b"");
        if !matches!(self.git.try_wait(), Ok(Some(_))) {
            let _ = self.git.kill();
            let _ = self.git.wait();
        }
    }
}

fn bulky() -> Site {
    let site = Site::new();
    history::bulky(&site, "bulk.git", 4);
    site
}

/// One client's clone, whole, as the proof that the next one is served.
fn assert_clones(site: &Site, name: &str) {
    let path = site.clone_path(name);
    site.git(["clone", "-q", "gotd:bulk.git", &path.to_string_lossy()]).good();
    assert!(path.join("bulk/3").exists());
}

/// The processes of the one session that is under way, from `gotctl info`: session, repository
/// process.
fn pids(daemon: &Daemon) -> (i32, i32) {
    let info = daemon.gotctl(&["info"]).good().text();
    let line = info.lines().find(|l| l.contains("git-upload-pack")).expect("a session is under way");
    let pids = line.rsplit_once("pids ").expect("its processes").1;
    let pids: Vec<i32> = pids.split(' ').map(|p| p.parse().expect("a pid")).collect();
    assert_eq!(pids.len(), 2, "{line}");
    (pids[0], pids[1])
}

#[test]
fn a_clone_that_is_stalled_and_goes_on_is_whole() {
    let site = bulky();
    let daemon = site.start();
    let mut clone = Stalled::start(&site, "a");
    let (session, repository) = pids(&daemon);
    assert!(daemon.role("session").contains(&session));
    assert!(daemon.role("repo_read").contains(&repository));
    let (good, err, status) = clone.go_on();
    assert!(good, "{err}");
    assert_eq!(status, "0");
    daemon.logged(&["result=ok", "repository=bulk.git", "objects=7"]);
}

#[test]
fn a_session_killed_during_a_clone() {
    let site = bulky();
    let mut daemon = site.start();
    let mut clone = Stalled::start(&site, "a");
    let (session, repository) = pids(&daemon);
    daemon.kill(session);
    assert!(
        wait_until(12.0, || !daemon.processes().iter().any(|p| p.pid == repository)),
        "its repository process stays: {:?}",
        daemon.processes()
    );
    let (good, err, status) = clone.go_on();
    assert!(!good, "git took half a pack for a whole one");
    assert!(err.contains("gotsh: the session ended unexpectedly"), "{err}");
    assert_eq!(status, "1");
    daemon.logged(&["session", "result=lost", "repository=bulk.git", "session signal 9"]);
    daemon.assert_serves();
    assert_clones(&site, "b");
}

#[test]
fn a_repository_process_killed_during_a_clone() {
    let site = bulky();
    let mut daemon = site.start();
    let mut clone = Stalled::start(&site, "a");
    let (_, repository) = pids(&daemon);
    daemon.kill(repository);
    let (good, err, status) = clone.go_on();
    assert!(!good, "git took half a pack for a whole one");
    assert!(err.contains("gotsh: "), "nothing was said: {err}");
    assert_eq!(status, "1");
    daemon.logged(&["session", "result=failed", "repository=bulk.git", "repository signal 9"]);
    daemon.assert_serves();
    assert_clones(&site, "b");
}

#[test]
fn waiting_processes_that_are_killed_are_replaced() {
    let site = bulky();
    let mut daemon = site.start();
    for role in ["session", "repository"] {
        // One of them may be ending by itself: it served what came before.
        let before = daemon.role(role);
        let killed = before.iter().filter(|pid| daemon.kill_if_there(**pid)).count();
        assert!(killed > 0, "{role}: nobody waits");
        assert!(
            wait_until(5.0, || {
                let now = daemon.role(role);
                now.len() + 1 >= before.len() && now.iter().all(|pid| !before.contains(pid))
            }),
            "{role}: {before:?} became {:?}",
            daemon.role(role)
        );
        daemon.logged(&["waiting session lost", "signal 9"]);
        daemon.assert_serves();
        assert_clones(&site, role);
    }
}

/// Kills a process that the daemon cannot do without while a clone runs.
fn fatal(role: &str) {
    fatal_of(role, 0);
}

/// The same, of several processes of a role the one at this place.
fn fatal_of(role: &str, at: usize) {
    let site = bulky();
    let mut daemon = site.start();
    let mut clone = Stalled::start(&site, "a");
    let pid = match role {
        "parent" => daemon.pid(),
        role => *daemon.role(role).get(at).expect("there is one"),
    };
    daemon.kill(pid);
    assert!(daemon.gone_within(2.0), "{role}: left after two seconds: {:?}", daemon.processes());
    let (good, err, status) = clone.go_on();
    assert!(!good, "git took half a pack for a whole one");
    // Spawners end their processes in any order: a session that outlives its repository process for
    // a moment says so.
    let told = err.contains("gotsh: the session ended unexpectedly")
        || ["parent", "spawn"].contains(&role)
            && err.contains("gotsh: repository process ended before it answered");
    assert!(told, "{err}");
    assert_eq!(status, "1");
    if role != "parent" {
        // What the parent started itself it cannot wait for.
        let words: &[&str] = match role {
            "sockets" => &["fatal", "sockets: ended"],
            "spawn" => &["fatal", "spawn (", "): ended"],
            _ => &["fatal", &format!("{role}: signal 9")],
        };
        daemon.logged(words);
    }
    drop(daemon);
    let mut daemon = site.start();
    assert_clones(&site, "b");
    daemon.stop();
}

#[test]
fn a_killed_listen_ends_the_daemon() {
    fatal("listen");
}

#[test]
fn each_killed_spawner_ends_the_daemon() {
    for spawner in 0..3 {
        fatal_of("spawn", spawner);
    }
}

#[test]
fn a_killed_auth_ends_the_daemon() {
    fatal("auth");
}

#[test]
fn a_killed_sockets_ends_the_daemon() {
    fatal("sockets");
}

#[test]
fn a_killed_parent_ends_the_daemon() {
    fatal("parent");
}

#[test]
fn a_live_socket_refuses_a_second_start_and_a_stale_one_is_replaced() {
    let site = bulky();
    let mut daemon = site.start();
    let conf = fs::read_to_string(site.path("gotd.conf")).expect("reads");
    let refused = Daemon::start(&site, &conf).expect_err("must not start");
    assert!(refused.contains("gotd.sock: another daemon is listening"), "{refused}");
    daemon.assert_serves();
    daemon.stop();
    // A socket that nobody answers on.
    drop(std::os::unix::net::UnixListener::bind(site.socket()).expect("binds"));
    assert!(site.socket().exists());
    let mut daemon = site.start();
    assert_clones(&site, "a");
    daemon.stop();
    // Something else is nobody's to replace.
    fs::write(site.socket(), b"precious").expect("writes");
    let refused = Daemon::start(&site, &conf).expect_err("must not start");
    assert!(refused.contains("gotd.sock: exists and is not a socket"), "{refused}");
    assert_eq!(fs::read(site.socket()).expect("reads"), b"precious");
}

/// Ends a daemon with a clone under way; nothing may be left but what was there.
fn stopped_by(end: impl Fn(&Daemon)) {
    let site = bulky();
    let before = names(&site.path("repositories"));
    let mut daemon = site.start();
    let mut clone = Stalled::start(&site, "a");
    end(&daemon);
    daemon.assert_nothing_is_left(3.0);
    let (good, ..) = clone.go_on();
    assert!(!good);
    assert_eq!(before, names(&site.path("repositories")));
    daemon.logged(&["stopped"]);
}

fn names(directory: &Path) -> Vec<String> {
    regress::compare::listing(directory).into_keys().collect()
}

#[test]
fn sigterm_leaves_nothing() {
    stopped_by(|daemon| daemon.signal(Signal::SIGTERM));
}

#[test]
fn sigint_leaves_nothing() {
    stopped_by(|daemon| daemon.signal(Signal::SIGINT));
}

#[test]
fn gotctl_stop_now_leaves_nothing() {
    stopped_by(|daemon| assert_eq!(daemon.gotctl(&["stop", "--now"]).status, 0));
}

#[test]
fn gotctl_stop_waits_for_a_clone_under_way() {
    let site = bulky();
    let mut daemon = site.start();
    let mut clone = Stalled::start(&site, "a");
    let gotctl = regress::binaries().join("gotctl");
    let stop = || site.command(&gotctl).arg("-f").arg(site.socket()).arg("stop").spawn().expect("starts");
    let mut stop = stop();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    assert!(!daemon.ended(), "it did not wait");
    assert!(stop.try_wait().expect("is ours").is_none(), "gotctl did not wait");
    let (good, err, _) = clone.go_on();
    assert!(good, "{err}");
    assert!(stop.wait().expect("ends").success());
    assert!(!site.socket().exists());
    daemon.assert_nothing_is_left(3.0);
}

#[test]
fn gotctl_is_for_the_daemons_own_people() {
    if !regress::is_root() {
        return regress::skipped("needs root");
    }
    let site = bulky();
    let mut daemon = site.start();
    let gotctl = regress::binaries().join("gotctl");
    for command in ["info", "stop"] {
        let mut other = site.command("setpriv");
        other.args(["--reuid=12345", "--regid=12345", "--clear-groups"]).arg(&gotctl);
        let done = run(other.arg("-f").arg(site.socket()).arg(command), b"", 20);
        done.bad("Permission denied");
    }
    daemon.assert_serves();
}

/// C gotd was wedged by this once.
#[test]
fn ten_gotsh_without_an_argument_in_a_row() {
    let site = bulky();
    let mut daemon = site.start();
    for _ in 0..10 {
        let mut command = site.command(regress::binaries().join("gotsh"));
        let done = run(command.env("GOTD_UNIX_SOCKET", site.socket()), b"", 10);
        assert_eq!(done.status, 1);
        assert!(done.err.starts_with("usage: gotsh "), "{}", done.err);
    }
    daemon.assert_serves();
    assert_clones(&site, "a");
}

#[test]
fn without_a_daemon_gotsh_says_so() {
    let site = Site::new();
    let done = run(&mut site.gotsh("git-upload-pack 'x'"), b"", 10);
    assert_eq!((done.status, done.text().as_str()), (1, ""));
    assert!(done.err.starts_with("gotsh: connect: "), "{}", done.err);
    assert!(done.err.trim_end().ends_with("gotd.sock: No such file or directory"), "{}", done.err);
}

/// The session of a client that vanishes ends, whatever it was doing.
#[test]
fn a_client_that_goes_away_ends_its_session() {
    let site = bulky();
    let mut daemon = site.start();
    let tip = history::tip(&site, &site.repository("bulk.git"));
    for how in 0..3 {
        let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
        match how {
            0 => {}
            1 => client.begin_clone(&tip, 0),
            _ => client.begin_clone(&tip, 100_000),
        }
        drop(client);
        assert!(
            wait_until(5.0, || !daemon.gotctl(&["info"]).text().contains("git-upload-pack")),
            "its session stays"
        );
    }
    daemon.assert_serves();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 0);
    client.read_to_flush();
    assert!(client.write(b"0000"));
    client.close();
    assert_eq!(client.connection.end(5), End::Exit(0, String::new()));
}

/// Without `-d` gotd leaves its terminal: when the command returns, clients are served, and `gotctl
/// stop` frees the socket.
#[test]
fn a_daemon_in_the_background_listens_when_its_command_returns() {
    let site = bulky();
    site.hand_over();
    let conf = site.path("gotd.conf");
    fs::write(&conf, site.serve_all()).expect("writes");
    let start =
        || run(site.command(regress::binaries().join("gotd")).args(["-vv", "-f"]).arg(&conf), b"", 20);
    let gotctl = |command: &str| {
        let mut gotctl = site.command(regress::binaries().join("gotctl"));
        run(gotctl.arg("-f").arg(site.socket()).arg(command), b"", 40)
    };
    start().good();
    let info = gotctl("info").good().text();
    let pid = info.split(" pid ").nth(1).and_then(|rest| rest.lines().next()).expect("a pid");
    let pid: i32 = pid.parse().expect("a pid");
    assert_clones(&site, "a");
    start().bad("another daemon is listening");
    gotctl("stop").good();
    assert!(wait_until(5.0, || !site.socket().exists()), "the socket stays");
    assert!(
        wait_until(3.0, || regress::process::group(pid).is_empty()),
        "left: {:?}",
        regress::process::group(pid)
    );
    // A mistake is told before the command returns.
    fs::write(&conf, "bogus\n").expect("writes");
    start().bad("gotd.conf:1:");
}
