//! Descriptors that clients send: none is ever under way to the daemon.
//!
//! Whoever closes a connection last closes what was sent over it, received or not, and that can
//! take as long as the sender likes: a file of a hostile file system, or, as here, a TCP socket
//! that lingers over what nobody reads. With `limit total 6` nine such connections stopped
//! `listen`, which closed those that it refused, and so everybody; the sessions of the others could
//! not be ended.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use regress::others::{self, Other, STRANGER};
use regress::raw::Connection;
use regress::run::wait_until;
use regress::{Daemon, Site, history, tcp};

/// A daemon with six places.
fn configuration(site: &Site) -> String {
    history::repository(site, "demo.git", 3, "sha1");
    let limits =
        "connection {\n\tlimit total 6\n\tqueue length 2\n\tqueue timeout 1\n\tfirst request timeout 5\n}\n";
    format!("{limits}{}", site.serve_all())
}

/// Whether the kernel lets a socket refuse descriptors.
fn can_refuse(site: &Site) -> bool {
    let connection = Connection::open(&site.socket());
    let pipe = std::io::pipe().expect("a pipe");
    let refused = connection.send(b"x", &[pipe.0.as_fd()]) == Err(Errno::EPERM);
    let release = nix::sys::utsname::uname().map(|name| name.release().to_owned());
    let release = release.unwrap_or_default().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|word| word.parse::<u32>().unwrap_or(0));
    let new = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 16);
    assert!(refused || !new, "Linux {release} refuses no descriptor");
    refused
}

/// A program that holds every place and has so many connections beyond that which have sent one
/// each, where they can, and the peers of those sockets. Which copy of a socket is closed last is
/// nobody's choice, so that they must not be in this process.
fn attack(site: &Site, count: usize) -> (Other, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let program = format!(
        "\
import threading
held = [connect() for n in range(6)]
time.sleep(0.3)
for n in range({count}):
    s = socket.create_connection(('127.0.0.1', {port}))
    s.setblocking(False)
    try:
        while True: s.send(bytes(65536))
    except BlockingIOError:
        pass
    s.setblocking(True)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 600))
    c = connect()
    if not isinstance(c, int):
        send(c, b'x', [s.fileno()])
        held.append(c)
    threading.Thread(target=s.close, daemon=True).start()
# Until those that wait are refused, after a second.
time.sleep(2)
print(len(held) - 6, flush=True)
time.sleep(300)
",
        port = listener.local_addr().expect("bound").port()
    );
    let mut attacker = others::python(STRANGER, &site.socket(), &program);
    let peers = (0..count).map(|_| listener.accept().expect("accepts").0).collect();
    assert_eq!(attacker.line(), count.to_string());
    (attacker, peers)
}

#[track_caller]
fn assert_all_works(site: &Site, daemon: &mut Daemon) {
    for _ in 0..3 {
        daemon.gotctl(&["info"]).good();
    }
    let served = || site.git(["ls-remote", "gotd:demo.git"]).status == 0;
    assert!(wait_until(30.0, served), "nobody is served:\n{}", daemon.log());
    daemon.assert_serves();
}

#[test]
fn no_client_can_send_one() {
    let site = Site::new();
    let daemon = site.start_with(&configuration(&site));
    if !can_refuse(&site) {
        return regress::skipped("needs Linux 6.16");
    }
    let connection = Connection::open(&site.socket());
    let file = std::fs::File::open("/").expect("opens");
    let pipe = std::io::pipe().expect("a pipe");
    let (tcp, _peer) = tcp::lingering(600);
    let own = Connection::open(&site.socket());
    for fd in [file.as_fd(), pipe.0.as_fd(), own.fd.as_fd()] {
        assert_eq!(connection.send(b"x", &[fd]), Err(Errno::EPERM));
    }
    assert_eq!(connection.send(b"x", &[tcp.as_fd(), pipe.1.as_fd()]), Err(Errno::EPERM));
    setsockopt(&tcp, sockopt::Linger, &libc::linger { l_onoff: 0, l_linger: 0 }).expect("sets");
    let text = daemon.gotctl(&["info"]).good().text();
    assert!(!text.contains("can send descriptors"), "{text}");
    // Root's own way takes them.
    let control = Connection::open(&daemon.control_socket());
    assert_eq!(control.send(b"x", &[pipe.0.as_fd()]), Ok(()));
}

#[test]
fn refused_connections_with_sockets_that_linger_stop_nobody() {
    if !others::possible() {
        return;
    }
    let site = Site::new();
    let mut daemon = site.start_with(&configuration(&site));
    let (open, _peers) = attack(&site, 9);
    drop(open);
    assert_all_works(&site, &mut daemon);
    let (open, _peers) = attack(&site, 40);
    daemon.gotctl(&["info"]).good();
    drop(open);
    assert_all_works(&site, &mut daemon);
}

/// A daemon on a kernel that does not know the option, which a filter pretends.
fn start_on_an_older_kernel(site: &Site) -> Option<Daemon> {
    if !cfg!(target_arch = "x86_64") || !others::possible() {
        regress::skipped("needs x86-64, root and python3");
        return None;
    }
    let program = "\
import ctypes, os, struct, sys
SETSOCKOPT, GETSOCKOPT, PASSRIGHTS, ENOPROTOOPT = 54, 55, 83, 92
code = [
    (0x20, 0, 0, 0),                         # the call's number
    (0x15, 1, 0, SETSOCKOPT), (0x15, 0, 3, GETSOCKOPT),
    (0x20, 0, 0, 32),                        # its third argument
    (0x15, 0, 1, PASSRIGHTS), (0x06, 0, 0, 0x00050000 | ENOPROTOOPT),
    (0x06, 0, 0, 0x7fff0000),
]
raw = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *line) for line in code))
prog = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', len(code), ctypes.addressof(raw)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(prog), 0, 0) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[1], sys.argv[1:])
";
    site.hand_over();
    let wrapper = ["python3", "-c", program].map(str::to_owned);
    match Daemon::start_through(site, &configuration(site), &wrapper) {
        Ok(daemon) => Some(daemon),
        Err(log) => panic!("gotd did not start: {log}"),
    }
}

#[test]
fn on_an_older_kernel_they_stop_nobody_either_and_the_administrator_is_told() {
    let site = Site::new();
    let Some(mut daemon) = start_on_an_older_kernel(&site) else { return };
    daemon.logged(&["descriptors", "Linux 6.16"]);
    let text = daemon.gotctl(&["info"]).good().text();
    assert!(text.contains("clients can send descriptors"), "{text}");
    for count in [9, 40] {
        let (open, _peers) = attack(&site, count);
        daemon.gotctl(&["info"]).good();
        drop(open);
        assert_all_works(&site, &mut daemon);
    }
    // What was refused has gone with a process by then, and nothing is left of either.
    assert!(wait_until(20.0, || descriptors_of(&daemon, "listen") < 40), "listen holds what it refused");
    daemon.assert_serves();
}

fn descriptors_of(daemon: &Daemon, role: &str) -> usize {
    let pid = daemon.role(role).first().copied().unwrap_or_default();
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Thousands of sessions, half of them with something under way, as a user whom no rule names.
#[test]
fn a_thousand_connections_with_descriptors_of_a_user_without_rules() {
    if !others::possible() {
        return;
    }
    let site = Site::new();
    let mut daemon = site.start_with(&configuration(&site));
    let program = "\
held, codes = [], set()
r, w = os.pipe()
for n in range(1024):
    c = connect()
    if not isinstance(c, int):
        codes.add(send(c, b'x', [r]))
        held.append(c)
print(len(held) > 100, flush=True)
time.sleep(120)
";
    let mut stranger = others::python(STRANGER, &site.socket(), program);
    assert_eq!(stranger.line(), "True");
    std::thread::sleep(Duration::from_millis(500));
    for command in ["info", "metrics"] {
        daemon.gotctl(&[command]).good();
    }
    drop(stranger);
    assert_all_works(&site, &mut daemon);
}
