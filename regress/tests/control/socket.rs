//! The control socket: root's own way to the daemon.
//!
//! There was one socket for everybody. A user whom no rule names opened as many connections as
//! `limit total` has places, and root's `gotctl` waited in the same line as everybody else until it
//! was refused: nobody could ask the daemon who that was, nor stop it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use libproto::channel;
use libproto::message::client::{ClientKind, ClientToSession, ControlRequest};
use regress::others::{self, STRANGER};
use regress::raw::{Connection, End, Session};
use regress::run::wait_until;
use regress::{Daemon, Site, history};

fn start(connection: &str) -> (Site, Daemon) {
    let site = Site::new();
    history::repository(&site, "demo.git", 3, "sha1");
    let daemon = site.start_with(&format!("connection {{\n{connection}\n}}\n{}", site.serve_all()));
    (site, daemon)
}

/// Says what gotctl says.
fn asks_for_info(connection: &Connection) {
    connection.greet_as(ClientKind::Control, None);
    let request = ClientToSession::Control(ControlRequest::Info { json: false });
    let _ = connection.send(&channel::encode(0, &request).expect("encodes"), &[]);
}

#[test]
fn it_is_its_owners_alone() {
    let (site, daemon) = start("limit total 64");
    let meta = fs::symlink_metadata(daemon.control_socket()).expect("is there");
    assert!(meta.file_type().is_socket());
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(meta.uid(), nix::unistd::geteuid().as_raw());
    let clients = fs::symlink_metadata(site.socket()).expect("is there");
    assert_eq!(clients.permissions().mode() & 0o777, 0o666);
    if !others::possible() {
        return;
    }
    // A flood of somebody else ends at the file system.
    let program = "print(sorted({connect() for _ in range(5000)}), flush=True)\n";
    let mut stranger = others::python(STRANGER, &daemon.control_socket(), program);
    assert_eq!(stranger.line(), format!("[{}]", nix::errno::Errno::EACCES as i32));
    daemon.gotctl(&["info"]).good();
}

/// Whoever is refused at the socket of clients is told the name of the control socket, and types
/// it.
#[test]
fn gotctl_takes_the_name_of_either_socket() {
    let (site, daemon) = start("limit total 64");
    for socket in [site.socket(), daemon.control_socket()] {
        let mut gotctl = site.command(regress::binaries().join("gotctl"));
        let done = regress::run(gotctl.arg("-f").arg(&socket).arg("info"), b"", 20).good();
        assert!(done.text().contains("sessions under way"), "{}", done.text());
    }
}

#[test]
fn control_at_the_clients_socket_is_refused_by_the_name_of_the_other() {
    let (site, daemon) = start("limit total 64");
    let connection = Connection::open(&site.socket());
    asks_for_info(&connection);
    let End::Exit(1, text) = connection.end(10) else { panic!("not refused:\n{}", daemon.log()) };
    assert_eq!(text, format!("control requests are taken at {} alone", daemon.control_socket().display()));
    let connection = Connection::open(&daemon.control_socket());
    asks_for_info(&connection);
    assert_eq!(connection.end(10), End::Exit(0, String::new()));
}

#[test]
fn git_at_a_control_socket_is_refused() {
    let (_site, daemon) = start("limit total 64");
    let client = Session::fetch(&daemon.control_socket(), "demo.git", 2);
    assert_eq!(client.connection.end(10), End::Exit(1, "a control socket serves gotctl alone".into()));
}

/// Places, queue and rate are used up by somebody whom no rule names.
#[test]
fn root_is_heard_when_clients_have_every_place() {
    let (site, mut daemon) =
        start("limit total 6\nlimit per user 16\nqueue length 4\nqueue timeout 1\nfirst request timeout 60");
    let program = "\
held = [c for c in (connect() for _ in range(64)) if not isinstance(c, int)]
print(len(held), flush=True)
time.sleep(120)
";
    let mut stranger;
    let mut own = Vec::new();
    if others::possible() {
        stranger = others::python(STRANGER, &site.socket(), program);
        assert_eq!(stranger.line(), "64");
    } else {
        own.extend((0..64).map(|_| Connection::open(&site.socket())));
    }
    assert!(wait_until(10.0, || daemon.log().contains("connection limit")), "{}", daemon.log());
    for command in ["info", "metrics", "reload"] {
        daemon.gotctl(&[command]).good();
    }
    // A daemon that waits for them can be told to hurry.
    let socket = site.socket();
    let waits = std::thread::spawn(move || {
        let mut command = std::process::Command::new(regress::binaries().join("gotctl"));
        regress::run(command.arg("-f").arg(socket).arg("stop"), b"", 40)
    });
    std::thread::sleep(std::time::Duration::from_millis(300));
    daemon.gotctl(&["stop", "--now"]).good();
    let _ = waits.join();
    daemon.assert_nothing_is_left(3.0);
}

#[test]
fn more_control_requests_than_places_wait_for_each_other() {
    let (_site, mut daemon) = start("limit total 64");
    let silent: Vec<Connection> = (0..3).map(|_| Connection::open(&daemon.control_socket())).collect();
    for _ in 0..12 {
        daemon.gotctl(&["info"]).good();
    }
    drop(silent);
    daemon.assert_serves();
}

#[test]
fn it_comes_and_goes_with_its_socket_and_a_stale_one_is_replaced() {
    let site = Site::new();
    history::repository(&site, "demo.git", 3, "sha1");
    let stale = site.path("gotd.sock.ctl");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("binds"));
    let daemon = site.start();
    let second = site.path("second.sock");
    let control = site.path("second.sock.ctl");
    let more = format!("{}listen on \"{}\"\n", site.serve_all(), second.display());
    fs::write(site.path("gotd.conf"), more).expect("writes");
    daemon.gotctl(&["reload"]).good();
    let mode = fs::symlink_metadata(&control).expect("is there").permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let info = |path: &std::path::Path| {
        let mut command = std::process::Command::new(regress::binaries().join("gotctl"));
        regress::run(command.arg("-f").arg(path).arg("info"), b"", 20)
    };
    let text = info(&second).good().text();
    assert!(text.contains(&format!("controlled at {}\n", control.display())), "{text}");
    fs::write(site.path("gotd.conf"), site.serve_all()).expect("writes");
    // By the socket that goes.
    let mut command = std::process::Command::new(regress::binaries().join("gotctl"));
    regress::run(command.arg("-f").arg(&second).arg("reload"), b"", 20).good();
    assert!(!second.exists() && !control.exists());
    info(&site.socket()).good();
}

#[test]
fn no_clients_socket_has_the_name_of_a_control_socket() {
    let site = Site::new();
    let conf = format!("{}listen on \"{}\"\n", site.serve_all(), site.path("x.ctl").display());
    let refused = Daemon::start(&site, &conf).expect_err("a configuration with an error");
    assert!(refused.contains("one that ends in .ctl is its control socket"), "{refused}");
}
