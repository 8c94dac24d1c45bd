//! Clients that try what sessions rest on: the hand-over of connections, the two pipes, the limits.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::compare::assert_whole;
use regress::raw::{Connection, End, Session, fetch_request};
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Site, history, pkt, run};

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

/// A session that dies between the offer and the connection must not pass its client on to another one: a channel
/// that several sessions shared gave one client's connection to the next session, under the next one's credentials.
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
    let mut daemon = site.start_with(&with_limits(&site, "limit per user 2"));
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
    let mut daemon = site.start_with(&with_limits(&site, "limit per user 2\nfirst request timeout 2"));
    let silent: Vec<Connection> = (0..30).filter_map(|_| Connection::try_open(&site.socket()).ok()).collect();
    assert!(
        wait_until(10.0, || site.git(["ls-remote", "gotd:demo.git"]).status == 0),
        "silent connections keep others out:\n{}",
        daemon.log()
    );
    drop(silent);
    daemon.assert_serves();
}

#[test]
fn o_nonblock_toggled_while_a_clone_runs() {
    let site = Site::new();
    let original = history::bulky(&site, "bulk.git", 3);
    let tip = history::tip(&site, &original);
    let mut daemon = site.start();
    let mut client = Session::fetch_and_keep(&site.socket(), "bulk.git", 0);
    let (input, output) = client.kept.take().expect("kept");
    client.read_to_flush();
    let mut on = false;
    let mut toggle = || {
        on = !on;
        set_nonblocking(input.as_fd(), on);
        set_nonblocking(output.as_fd(), on);
    };
    // Each part of the request arrives under another flag.
    let request = [pkt::lines([format!("want {tip} ofs-delta\n")]), pkt::line("done\n")].concat();
    for byte in request.chunks(3) {
        toggle();
        assert!(client.write(byte));
    }
    let mut pack = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut buffer = [0; 40_000];
    loop {
        toggle();
        if client_is_done(&client, deadline) {
            break;
        }
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

/// Nothing more to read and the session is over: we hold an end of the pipe ourselves, so no end of file comes.
fn client_is_done(client: &Session, deadline: Instant) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        let mut fds = [
            PollFd::new(client.from.as_fd(), PollFlags::POLLIN),
            PollFd::new(client.connection.fd.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut fds, PollTimeout::from(100u8)).expect("polls");
        if fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN)) {
            return false;
        }
        if fds[1].revents().is_some_and(|r| !r.is_empty()) {
            return true;
        }
        assert!(Instant::now() < deadline, "nothing comes any more");
    }
}

/// The client fills the pipe itself, in blocking mode, after the daemon's poll said that there is room: the daemon
/// hangs in write(2), and only its watchdog can end it.
#[test]
fn a_pipe_that_the_client_fills_itself() {
    let site = Site::new();
    let original = history::bulky(&site, "bulk.git", 1);
    let tip = history::tip(&site, &original);
    let mut daemon = site.start_with(&with_limits(&site, "request timeout 2\nidle timeout 2"));
    for before in [true, false] {
        let mut client = Session::fetch_and_keep(&site.socket(), "bulk.git", 0);
        let (_input, output) = client.kept.take().expect("kept");
        let fill = || {
            set_nonblocking(output.as_fd(), true);
            while nix::unistd::write(&output, &[b'x'; 4096]).is_ok() {}
            set_nonblocking(output.as_fd(), false);
        };
        if before {
            fill();
        } else {
            client.read_to_flush();
            fill();
            client.write(&[pkt::lines([format!("want {tip}\n")]), pkt::line("done\n")].concat());
        }
        let start = Instant::now();
        let end = client.connection.end(15);
        assert!(matches!(&end, End::Exit(1, text) if text.contains("(connection ")), "{end:?}");
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }
    daemon.assert_serves();
    assert!(wait_until(12.0, || !daemon.gotctl(&["info"]).text().contains("git-upload-pack")));
    assert!(wait_until(12.0, || daemon.role("repo_read").is_empty()), "{:?}", daemon.processes());
    site.git(["ls-remote", "gotd:bulk.git"]).good();
}

/// A TCP socket whose close(2) waits a minute: it lingers for bytes that its other end never takes.
fn lingering() -> (OwnedFd, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let far = TcpStream::connect(listener.local_addr().expect("an address")).expect("connects");
    let (mut near, _) = listener.accept().expect("accepts");
    near.set_nonblocking(true).expect("sets a flag");
    while near.write(&[b'x'; 65_536]).is_ok() {}
    near.set_nonblocking(false).expect("sets a flag");
    let linger = libc::linger { l_onoff: 1, l_linger: 60 };
    nix::sys::socket::setsockopt(&near, nix::sys::socket::sockopt::Linger, &linger).expect("sets an option");
    (near.into(), far)
}

/// Descriptors that hang whoever closes them, in place of the pipes: the client is refused at once, what its session
/// left open goes with the process, and nobody else waits.
#[test]
fn descriptors_whose_close_hangs_in_place_of_the_pipes() {
    let site = Site::new();
    history::repository(&site, "demo.git", 5, "sha1");
    let mut daemon = site.start();
    let (hanging, _far) = lingering();
    let (closed, closing) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        drop(hanging);
        let _ = closed.send(());
    });
    let (_, pipe) = nix::unistd::pipe().expect("a pipe");
    let mut sockets = Vec::new();
    let start = Instant::now();
    for both in [false, true].repeat(4) {
        let (hanging, far) = lingering();
        sockets.push(far);
        // The session sleeps until it has the last one: closing it here would hang this test. The one that took the place of the
        // last one is the next, and has to be there by now.
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
        let fds = [hanging.as_fd(), if both { hanging.as_fd() } else { pipe.as_fd() }];
        connection.request(&fetch_request("demo.git", 0), &fds).expect("sends");
        drop(hanging);
        tell(Signal::SIGCONT);
        assert_eq!(connection.end(10), End::Exit(1, "standard input and output must be pipes".into()));
        site.git(["ls-remote", "gotd:demo.git"]).good();
    }
    daemon.assert_serves();
    let ours = |daemon: &regress::Daemon| daemon.gotctl(&["info"]).text().contains("git-upload-pack");
    assert!(wait_until(10.0, || !ours(&daemon)), "{}", daemon.gotctl(&["info"]).text());
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(closing.try_recv().is_err(), "closing such a socket does not hang");
}
