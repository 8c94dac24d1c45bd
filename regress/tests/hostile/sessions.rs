//! Clients that try what sessions rest on: the hand-over of connections, the two pipes, the limits.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::compare::assert_whole;
use regress::raw::{Connection, End, Session, fetch_request};
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Site, history, is_root, pkt, run, tcp};

fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) {
    let flags = if on { OFlag::O_NONBLOCK } else { OFlag::empty() };
    fcntl(fd, FcntlArg::F_SETFL(flags)).expect("sets a flag");
}

/// A configuration with these lines in its `connection` block.
fn with_limits(site: &Site, lines: &str) -> String {
    format!(
        "{}connection {{\n{lines}\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    )
}

/// A session that dies between the offer and the connection must not pass its client on to another
/// one: a channel that several sessions shared gave one client's connection to the next session,
/// under the next one's credentials.
#[test]
fn a_session_that_dies_before_it_receives_takes_its_client_along() {
    let site = Site::new();
    for n in 0..4 {
        let path = history::repository(&site, &format!("r{n}.git"), 3 + n, "sha1");
        site.git_in(&path, ["update-ref", &format!("refs/heads/only-in-{n}"), "main"]);
    }
    let mut daemon = site.start();
    let mut lost = 0;
    for round in 0..6 {
        let mut waiting = daemon.role("session");
        waiting.truncate(3);
        let clients: Vec<_> = (0..4)
            .map(|n| {
                if let Some(pid) = waiting.pop() {
                    // It may have ended by itself meanwhile.
                    if daemon.processes().iter().any(|p| p.pid == pid) {
                        daemon.kill(pid);
                    }
                }
                (n, Session::fetch(&site.socket(), &format!("r{n}.git"), 0))
            })
            .collect();
        for (n, mut client) in clients {
            let answer = client.read_to_flush();
            if answer.is_empty() {
                // Its session was killed; that is all that may happen.
                lost += 1;
                continue;
            }
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(text.contains(&format!("refs/heads/only-in-{n}\n")), "round {round}: {text}");
            assert_eq!(text.matches("only-in-").count(), 1, "round {round}: {text}");
        }
        daemon.assert_serves();
    }
    println!("{lost} of 24 clients lost their session");
    assert!(lost < 24);
}

#[test]
fn connections_per_user_are_limited() {
    let site = Site::new();
    history::repository(&site, "demo.git", 5, "sha1");
    let mut daemon = site.start_with(&with_limits(&site, "limit per user 2\nuser queue length 0"));
    let mut first = Session::fetch(&site.socket(), "demo.git", 0);
    let mut second = Session::fetch(&site.socket(), "demo.git", 0);
    assert!(!first.read_to_flush().is_empty() && !second.read_to_flush().is_empty());
    let mut third = Session::fetch(&site.socket(), "demo.git", 0);
    assert_eq!(
        pkt::error(&third.read_to_end(10)).as_deref(),
        Some("connection limit exceeded (connection limit per user)")
    );
    assert_eq!(
        third.connection.end(5),
        End::Exit(1, "connection limit exceeded (connection limit per user)".into())
    );
    site.git(["ls-remote", "gotd:demo.git"]).bad("remote error: connection limit exceeded");
    // The log names the line to change.
    daemon.logged(&["result=refused", "connection limit exceeded (connection limit per user)"]);
    drop(first);
    assert!(
        wait_until(5.0, || site.git(["ls-remote", "gotd:demo.git"]).status == 0),
        "the place stays taken"
    );
    drop(second);
    daemon.assert_serves();
}

/// A connection that has no name yet counts too, or silent ones would take every place.
#[test]
fn silent_connections_of_one_user_do_not_take_every_place() {
    let site = Site::new();
    history::repository(&site, "demo.git", 5, "sha1");
    let mut daemon = site
        .start_with(&with_limits(&site, "limit per user 2\nuser queue length 0\nfirst request timeout 2"));
    let silent: Vec<Connection> = (0..30).filter_map(|_| Connection::try_open(&site.socket()).ok()).collect();
    // They take what they are sent: whoever does not keeps places of their own for it.
    let take = || {
        for connection in &silent {
            if regress::raw::readable(connection.fd.as_fd(), Instant::now()) {
                let _ = connection.pipes(1);
            }
        }
    };
    let served = || {
        take();
        site.git(["ls-remote", "gotd:demo.git"]).status == 0
    };
    assert!(wait_until(10.0, served), "silent connections keep others out:\n{}", daemon.log());
    drop(silent);
    daemon.assert_serves();
}

/// A client has one end of each pipe. It may switch its own ends to any mode, and make both pipes
/// as small or as large as the system lets it while a clone runs: the pack is whole.
#[test]
fn pipes_that_the_client_resizes_and_switches_while_a_clone_runs() {
    let site = Site::new();
    let original = history::bulky(&site, "bulk.git", 3);
    let tip = history::tip(&site, &original);
    let mut daemon = site.start();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 0);
    client.read_to_flush();
    let mut round = 0;
    let mut change = |client: &Session| {
        round += 1;
        set_nonblocking(client.from.as_fd(), round % 2 == 0);
        set_nonblocking(client.to.as_ref().expect("open").as_fd(), round % 2 == 0);
        let size = [4096, 65_536, 8192, 1 << 20][round % 4];
        for fd in [client.from.as_fd(), client.to.as_ref().expect("open").as_fd()] {
            // EBUSY: more is in it; EPERM: the quota is used up.
            let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(size));
        }
    };
    // Each part of the request arrives under other circumstances.
    let request = [pkt::lines([format!("want {tip} ofs-delta\n")]), pkt::line("done\n")].concat();
    for byte in request.chunks(3) {
        change(&client);
        assert!(client.write(byte));
    }
    let mut pack = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut buffer = [0; 40_000];
    loop {
        change(&client);
        assert!(regress::raw::readable(client.from.as_fd(), deadline), "nothing comes any more");
        match std::io::Read::read(&mut client.from, &mut buffer) {
            Ok(0) => break,
            Ok(n) => pack.extend_from_slice(&buffer[..n]),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!(client.connection.end(5), End::Exit(0, String::new()));
    assert_eq!(&pack[..12], b"0008NAK\nPACK");
    let clone = site.clone_path("bare.git");
    history::init(&site, &clone, "--quiet");
    let mut command = site.command("git");
    run(command.arg("-C").arg(&clone).args(["index-pack", "--stdin"]), &pack[8..], 60).good();
    site.git_in(&clone, ["update-ref", "refs/heads/main", &tip]);
    assert_whole(&site, &clone);
    daemon.assert_serves();
}

/// A pipe can be opened anew through /proc, at either end. The daemon's belong to its own user and
/// to nobody else, so that a client cannot fill its own output, read what it wrote, or keep either
/// from ending.
#[test]
fn a_client_cannot_open_the_other_end_of_its_pipes() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    history::repository(&site, "demo.git", 5, "sha1");
    let mut daemon = site.start();
    let client = Session::fetch(&site.socket(), "demo.git", 0);
    let to = client.to.as_ref().expect("open").as_raw_fd();
    let paths = [to, client.from.as_raw_fd()].map(|fd| format!("/proc/{}/fd/{fd}", std::process::id()));
    let opened: Vec<_> = std::thread::spawn(move || {
        // Of this thread alone: the rights of an ordinary user at files.
        nix::unistd::setfsuid(nix::unistd::Uid::from_raw(4711));
        let open = |path: &String, write: bool| std::fs::File::options().read(!write).write(write).open(path);
        paths.iter().flat_map(|path| [open(path, false), open(path, true)]).collect()
    })
    .join()
    .expect("ends");
    for result in opened {
        assert_eq!(result.expect_err("opened").kind(), std::io::ErrorKind::PermissionDenied);
    }
    drop(client);
    daemon.assert_serves();
}

/// Clients that ask for something and never take their ends of the pipes, which stay on their way:
/// they are ended for saying nothing, others are served meanwhile, and nothing of them is left.
#[test]
fn clients_that_never_take_their_ends() {
    let site = Site::new();
    history::repository(&site, "demo.git", 5, "sha1");
    let mut daemon =
        site.start_with(&with_limits(&site, "idle timeout 2\nfirst request timeout 2\nlimit per user 40"));
    let start = Instant::now();
    let clients: Vec<Connection> = (0..20)
        .map(|n| {
            let connection = Connection::open(&site.socket());
            connection.greet();
            let _ = connection.request(&fetch_request("demo.git", n % 3), &[]);
            connection
        })
        .collect();
    site.git(["ls-remote", "gotd:demo.git"]).good();
    assert!(
        wait_until(20.0, || !daemon.gotctl(&["info"]).text().contains("git-upload-pack")),
        "{}",
        daemon.gotctl(&["info"]).text()
    );
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    // Taken late, they have ended.
    for connection in &clients {
        let (_to, from) = connection.pipes(5).expect("they were sent");
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut std::fs::File::from(from), &mut rest).expect("ends");
    }
    drop(clients);
    daemon.assert_serves();
}

/// Every client makes its pipes as large as it may, and the quota that they use up is that of the
/// daemon's user. What is left for others are pipes of two pages: slower, and whole all the same.
#[test]
fn a_quota_of_pipes_that_clients_use_up() {
    // It is that of all daemons here.
    let site = Site::alone();
    let original = history::bulky(&site, "bulk.git", 2);
    let mut daemon = site.start_with(&with_limits(&site, "limit per user 60\nlimit total 80"));
    let limit = std::fs::read_to_string("/proc/sys/fs/pipe-user-pages-soft").unwrap_or_default();
    let clients: Vec<Session> = (0..40)
        .map(|_| {
            let client = Session::fetch(&site.socket(), "bulk.git", 2);
            for fd in [client.from.as_fd(), client.to.as_ref().expect("open").as_fd()] {
                let _ = fcntl(fd, FcntlArg::F_SETPIPE_SZ(1 << 20));
            }
            client
        })
        .collect();
    println!("{} clients with 2 pipes of 1 MB, of {} pages", clients.len(), limit.trim());
    let clone = site.clone_path("bulk");
    site.git([std::ffi::OsStr::new("clone"), std::ffi::OsStr::new("gotd:bulk.git"), clone.as_os_str()])
        .good();
    assert_eq!(history::tip(&site, &clone), history::tip(&site, &original));
    drop(clients);
    daemon.assert_serves();
}

/// Descriptors that hang whoever closes them, sent along with a request: nobody but their sender
/// waits, and what its session has of them goes with the process.
#[test]
fn descriptors_whose_close_hangs() {
    // A program that another test starts has a copy of them for a moment, and would hang instead.
    let site = Site::alone();
    history::repository(&site, "demo.git", 5, "sha1");
    let mut daemon = site.start();
    let mut sockets = Vec::new();
    let start = Instant::now();
    for n in 0..6 {
        let (hanging, far) = tcp::lingering(60);
        sockets.push(far);
        // The session sleeps until it has the last one: closing it here would hang this test. The
        // one that took the place of the last one is the next, and has to be there by now.
        std::thread::sleep(Duration::from_millis(300));
        let waiting = daemon.role("session");
        let tell = |signal| {
            for pid in &waiting {
                let _ = kill(Pid::from_raw(*pid), signal);
            }
        };
        tell(Signal::SIGSTOP);
        let connection = Connection::open(&site.socket());
        connection.greet();
        let sent = connection.request(&fetch_request("demo.git", 0), &[hanging.as_fd()]);
        if sent.is_err() {
            // The system refuses it to the sender, whose copy is the last one: a program that is
            // started meanwhile would hang.
            let no = libc::linger { l_onoff: 0, l_linger: 0 };
            nix::sys::socket::setsockopt(&hanging, nix::sys::socket::sockopt::Linger, &no).expect("sets");
        }
        drop(hanging);
        tell(Signal::SIGCONT);
        site.git(["ls-remote", "gotd:demo.git"]).good();
        assert!(connection.pipes(10).is_some(), "{n}");
        drop(connection);
    }
    daemon.assert_serves();
    let ours = |daemon: &regress::Daemon| daemon.gotctl(&["info"]).text().contains("git-upload-pack");
    assert!(wait_until(20.0, || !ours(&daemon)), "{}", daemon.gotctl(&["info"]).text());
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
}
