//! The daemon's socket, which any local user may connect to: garbage, wrong descriptors, half a
//! message, nothing, and very many of them. (One malformed message ended OpenSMTPD:
//! CVE-2025-62875.)

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use libproto::frame::{HEADER_LEN, Header, MAX_FRAME};
use libproto::message::client::{ClientKind, Hello, VERSION};
use regress::raw::{Connection, End, Session, fetch_request, frame};
use regress::run::wait_until;
use regress::{Daemon, Site, history, own_process, pkt};

fn start() -> (Site, Daemon) {
    let site = Site::new();
    history::repository(&site, "demo.git", 4, "sha1");
    let daemon = site.start();
    (site, daemon)
}

/// The next client is served.
fn assert_serves(site: &Site, daemon: &mut Daemon) {
    daemon.assert_serves();
    site.git(["ls-remote", "gotd:demo.git"]).good();
}

#[test]
fn garbage_frames() {
    let (site, mut daemon) = start();
    let hello = Hello::new(ClientKind::Git, None).expect("fits").encode();
    let request = frame(&fetch_request("demo.git", 0));
    let header = |kind, fds, length| Header { kind, fds, length, peer: 0 }.encode().to_vec();
    let mut records: Vec<Vec<Vec<u8>>> = vec![
        vec![b"x".to_vec()],
        vec![vec![0; 10]],
        vec![vec![0xff; hello.len()]],
        vec![hello[..hello.len() - 1].to_vec()],
        vec![[&hello[..], b"x"].concat()],
        vec![vec![b'A'; 60_000]],
        vec![b"GET / HTTP/1.1\r\n\r\n".to_vec()],
        // A request without a greeting.
        vec![request.clone()],
    ];
    let after_hello = [
        b"x".to_vec(),
        hello.to_vec(),
        vec![0; HEADER_LEN],
        vec![0xff; 24],
        vec![0xff; MAX_FRAME + 1],
        vec![0; 100_000],
        header(1, 0, 0),
        header(1, 2, 0),
        header(1, 0, u32::MAX),
        header(2, 0, 0),
        header(99, 0, 0),
        header(u16::MAX, u16::MAX, u32::MAX),
        request.clone(),
        request[..request.len() - 1].to_vec(),
        [&request[..], b"x"].concat(),
        // A string of 2^60 bytes: type, length and a number that the decoder must not believe.
        [&header(2, 0, 9)[..], &[253, 0, 0, 0, 0, 0, 0, 0, 16]].concat(),
        [&header(1, 0, 9)[..], &[253, 255, 255, 255, 255, 255, 255, 255, 127]].concat(),
    ];
    records.extend(after_hello.into_iter().map(|record| vec![hello.to_vec(), record]));
    for case in &records {
        let connection = Connection::open(&site.socket());
        for record in case {
            let _ = connection.send(record, &[]);
        }
        let end = connection.end(10);
        assert!(matches!(end, End::Closed | End::Exit(1, _)), "{:?}: {end:?}", case.last());
    }
    assert_serves(&site, &mut daemon);
    assert!(daemon.log().contains("result=failed"));
}

#[test]
fn another_version_is_told_so() {
    let (site, mut daemon) = start();
    let open = |version: u16| {
        let mut hello = Hello::new(ClientKind::Git, None).expect("fits").encode();
        hello[4..6].copy_from_slice(&version.to_le_bytes());
        let connection = Connection::open(&site.socket());
        connection.send(&hello, &[]).expect("sends");
        connection
    };
    let End::Exit(1, text) = open(VERSION + 7).end(10) else { panic!("no clear error") };
    assert!(text.contains("install the same version of both"), "{text}");
    // The header of version 2 was longer: its client is told with that.
    let connection = open(2);
    let (_pipes, mut record) = (connection.pipes(10).expect("pipes"), vec![0; 1024]);
    let n = libproto::channel::recv_record(connection.fd.as_fd(), &mut record).expect("a record");
    record.truncate(n);
    assert_eq!(record[4..8], u32::try_from(record.len() - 24).expect("short").to_le_bytes());
    assert!(record.ends_with(b"install the same version of both"), "{record:?}");
    assert_serves(&site, &mut daemon);
}

/// The daemon takes no descriptor of anybody's. With a greeting, a request or garbage, few or many:
/// they are refused to whoever sends them or dropped, and the session goes on as if there had been
/// none.
#[test]
fn descriptors_are_not_taken() {
    let (site, mut daemon) = start();
    let directory: OwnedFd = File::open("/").expect("opens").into();
    let device: OwnedFd = File::options().read(true).write(true).open("/dev/zero").expect("opens").into();
    let (socket, _peer) = UnixStream::pair().expect("a pair");
    let socket: OwnedFd = socket.into();
    let (input, _to) = std::io::pipe().expect("a pipe");
    let sets: Vec<(&str, Vec<BorrowedFd<'_>>)> = vec![
        ("one", vec![input.as_fd()]),
        ("two", vec![input.as_fd(), input.as_fd()]),
        ("many", vec![input.as_fd(); 200]),
        ("directories", vec![directory.as_fd(), directory.as_fd()]),
        ("a device and a socket", vec![device.as_fd(), socket.as_fd()]),
    ];
    let hello = Hello::new(ClientKind::Git, None).expect("fits").encode();
    let request = frame(&fetch_request("demo.git", 0));
    for (what, fds) in &sets {
        for with_greeting in [true, false] {
            let connection = Connection::open(&site.socket());
            // Where the system lets the receiver say so, the sender is told, and the record has not
            // gone out.
            let send = |record: &[u8], with: bool| {
                if !with || connection.send(record, fds).is_err() {
                    connection.send(record, &[]).expect("goes out");
                }
            };
            send(&hello, with_greeting);
            send(&request, !with_greeting);
            let (_to, from) = connection.pipes(10).expect("pipes");
            let mut line = [0; 4];
            std::io::Read::read_exact(&mut File::from(from), &mut line).expect("an answer");
            assert_ne!(&line, b"0000", "{what}");
        }
    }
    // A frame that claims to have some ends its sender.
    let connection = Connection::open(&site.socket());
    connection.greet();
    let mut claims = request.clone();
    claims[2..4].copy_from_slice(&2u16.to_le_bytes());
    let _ = connection.send(&claims, &[]);
    assert!(matches!(connection.end(10), End::Exit(1, _) | End::Closed));
    assert_serves(&site, &mut daemon);
}

/// What a client sends along is gone at once, and does not stay open in a session until that ends.
#[test]
fn a_descriptor_that_was_sent_is_held_by_nobody() {
    let (site, mut daemon) = start();
    let connection = Connection::open(&site.socket());
    connection.greet();
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    if connection.request(&fetch_request("demo.git", 0), &[theirs.as_fd()]).is_err() {
        connection.request(&fetch_request("demo.git", 0), &[]).expect("goes out");
    }
    drop(theirs);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    assert!(regress::raw::readable(ours.as_fd(), deadline), "it is still open somewhere");
    assert_eq!(std::io::Read::read(&mut &ours, &mut [0; 1]).expect("the end"), 0);
    // The session is there all the same.
    assert!(connection.pipes(10).is_some());
    assert_serves(&site, &mut daemon);
}

/// The daemon's own socket as a descriptor that travels through it: descriptors in flight must not
/// pile up.
#[test]
fn the_connection_itself_as_a_descriptor() {
    let (site, mut daemon) = start();
    for _ in 0..50 {
        let (a, b) = (Connection::open(&site.socket()), Connection::open(&site.socket()));
        let _ = a.send(b"x", &[b.fd.as_fd()]);
        let _ = b.send(b"x", &[a.fd.as_fd()]);
    }
    assert_serves(&site, &mut daemon);
}

#[test]
fn half_a_message_and_nothing_at_all() {
    let site = Site::new();
    history::repository(&site, "demo.git", 4, "sha1");
    let conf = site.serve_all().replace("\trate total", "\tfirst request timeout 2\n\trate total");
    let mut daemon = site.start_with(&conf);
    let nothing = Connection::open(&site.socket());
    let greeted = Connection::open(&site.socket());
    greeted.greet();
    let gone = Connection::open(&site.socket());
    gone.greet();
    drop(gone);
    for connection in [nothing, greeted] {
        let end = connection.end(8);
        let End::Exit(1, text) = end else { panic!("{end:?}") };
        assert!(text.contains("no request within 2 seconds"), "{text}");
        assert!(text.contains("first request"), "which line to change: {text}");
    }
    assert_serves(&site, &mut daemon);
}

#[test]
fn a_thousand_connections() {
    // Its limit of open files is raised.
    if !own_process::is_this() {
        return own_process::again(module_path!(), "a_thousand_connections", None, 300);
    }
    let site = Site::new();
    history::repository(&site, "demo.git", 4, "sha1");
    let conf = site.serve_all().replace("\trate total", "\tfirst request timeout 3\n\trate total");
    let mut daemon = site.start_with(&conf);
    // Some machines allow a process fewer.
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("asks");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(4096), hard).expect("sets");
    let mut open = Vec::new();
    let mut refused = 0;
    for n in 0..1000 {
        // Where the queue is full, connecting does not wait.
        match Connection::try_open_now(&site.socket()) {
            Ok(connection) => {
                if n % 3 == 0 {
                    connection.greet();
                }
                open.push(connection);
            }
            Err(_) => refused += 1,
        }
    }
    println!("{} connections open, {refused} refused by the kernel", open.len());
    assert!(open.len() > 100, "{}", open.len());
    assert!(!daemon.ended(), "{}", daemon.log());
    drop(open);
    assert!(
        wait_until(40.0, || site.git(["ls-remote", "gotd:demo.git"]).status == 0),
        "nobody is served any more:\n{}",
        daemon.log()
    );
    daemon.assert_serves();
    // Sessions of those that left are not left.
    assert!(
        wait_until(30.0, || daemon.role("session").len() <= 17 && daemon.processes().len() < 43),
        "{} processes",
        daemon.processes().len()
    );
}

/// Clients in a row that say everything right but leave at each point.
#[test]
fn leaving_at_every_point() {
    let (site, mut daemon) = start();
    for n in 0..60 {
        let mut client = Session::fetch(&site.socket(), "demo.git", (n % 3) as u8);
        match n % 4 {
            0 => {}
            1 => client.close(),
            2 => drop(client.read_to_flush()),
            _ => {
                client.write(&pkt::line("command=ls-refs")[..n % 15]);
            }
        }
    }
    assert_serves(&site, &mut daemon);
}
