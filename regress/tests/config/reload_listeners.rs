//! A reload that adds listening sockets and takes others away: nobody who comes to one that is
//! there is turned away, and what cannot be done leaves everything as it was.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::raw::{Connection, End, Session, fetch_request};
use regress::run::wait_until;
use regress::site::{present_user, users};
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, is_root};

/// Sessions that wait for clients of the unix socket by default, and the one that waits for gotctl.
const WAITING: usize = 17;

/// A configuration that listens there and serves `one.git` to everybody.
fn configuration(site: &Site, sockets: &[&Path], addresses: &[SocketAddr]) -> String {
    let unix: String = sockets.iter().map(|path| format!("listen on \"{}\"\n", path.display())).collect();
    let git: String = addresses.iter().map(|address| tcp::listen_line(*address)).collect();
    format!(
        "{}{unix}{git}connection {{\n\tlimit user \"{me}\" 64\n\tlimit per address 200\n\trate per address 2000\n\
         \trate total 2000\n\twaiting git sessions 3\n}}\nrepository \"one\" {{\n\tpath \"{}\"\n\tpermit ro \"{me}\"\n\tpermit ro anonymous\n}}\n",
        users(),
        site.repository("one.git").display(),
        me = present_user(),
    )
}

/// A daemon with its usual socket and these addresses.
fn start(addresses: &[SocketAddr]) -> (Site, Daemon) {
    let site = Site::new();
    history::repository(&site, "one.git", 3, "sha1");
    let daemon = site.start_with(&configuration(&site, &[&site.socket()], addresses));
    (site, daemon)
}

fn write(site: &Site, sockets: &[&Path], addresses: &[SocketAddr]) {
    fs::write(site.path("gotd.conf"), configuration(site, sockets, addresses)).expect("writes");
}

#[track_caller]
fn reload(daemon: &Daemon, site: &Site, sockets: &[&Path], addresses: &[SocketAddr]) -> String {
    write(site, sockets, addresses);
    daemon.gotctl(&["reload"]).good().text()
}

#[track_caller]
fn assert_git(site: &Site, address: SocketAddr) {
    site.git(["ls-remote", &format!("git://{address}/one")]).good();
}

fn refuses(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused)
}

/// The inode of the socket that listens there: another one is another socket.
fn listening_inode(address: SocketAddr) -> Option<String> {
    let text = fs::read_to_string("/proc/net/tcp").expect("reads");
    let port = format!(":{:04X}", address.port());
    let line = text.lines().find(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(1).is_some_and(|local| local.ends_with(&port)) && fields.get(3) == Some(&"0A")
    })?;
    line.split_whitespace().nth(9).map(str::to_owned)
}

#[test]
fn a_git_address_comes_and_goes_and_another_stays() {
    let (first, second) = (tcp::free_v4(), tcp::free_v4());
    let (site, mut daemon) = start(&[]);
    let socket = site.socket();
    assert!(wait_until(5.0, || daemon.role("session").len() == WAITING), "{:?}", daemon.processes());
    let said = reload(&daemon, &site, &[&socket], &[first]);
    assert!(said.contains(&format!("listening on {first}")), "{said}");
    assert_git(&site, first);
    let kept = listening_inode(first).expect("listens");
    // In another order, which is no change.
    let said = reload(&daemon, &site, &[&socket], &[second, first]);
    assert!(said.contains(&format!("listening on {second}")) && !said.contains(&first.to_string()), "{said}");
    assert_git(&site, first);
    assert_git(&site, second);
    let info = daemon.gotctl(&["info"]).good().text();
    assert!(info.contains(&format!("listening on {second}\n")), "{info}");
    // Whoever is being served goes on.
    let mut client = Client::open(second);
    assert!(client.write(&tcp::request("/one", 2)));
    client.read_to_flush();
    let said = reload(&daemon, &site, &[&socket], &[first]);
    assert!(said.contains(&format!("no longer listening on {second}")), "{said}");
    assert!(wait_until(5.0, || refuses(second)));
    assert_eq!(listening_inode(first), Some(kept), "the one that stays was made anew");
    assert!(client.write(&regress::pkt::v2("ls-refs", ["peel\n"])));
    assert!(String::from_utf8_lossy(&client.read_to_flush()).contains("refs/heads/main"));
    assert!(client.write(b"0000"));
    assert_eq!(client.end(10.0), tcp::End::Closed(Vec::new()));
    // Without any, nothing waits for git:// clients.
    reload(&daemon, &site, &[&socket], &[]);
    assert!(
        wait_until(5.0, || refuses(first) && daemon.role("session").len() == WAITING),
        "{}",
        daemon.log()
    );
    reload(&daemon, &site, &[&socket], &[second]);
    assert_git(&site, second);
    daemon.assert_serves();
    let log = daemon.log();
    assert!(!log.contains("result=lost") && !log.contains("waiting session lost"), "{log}");
}

#[test]
fn a_unix_socket_comes_and_goes() {
    let (site, mut daemon) = start(&[]);
    let (first, second) = (site.socket(), site.path("second.sock"));
    let at = |socket: &Path| {
        let mut command = site.command(regress::binaries().join("gotctl"));
        regress::run(command.arg("-f").arg(socket).arg("info"), b"", 20)
    };
    reload(&daemon, &site, &[&first, &second], &[]);
    at(&first).good();
    assert!(at(&second).good().text().contains(&format!("listening on {}\n", second.display())));
    // A session that came by the one that goes.
    let mut client = Session::fetch(&first, "one", 2);
    client.read_to_flush();
    reload(&daemon, &site, &[&second], &[]);
    assert!(!first.exists() && second.exists());
    client.close();
    client.read_to_end(20);
    assert_eq!(client.connection.end(10), End::Exit(0, String::new()));
    at(&second).good();
    // Back again, by the same name, asked for at the other one.
    write(&site, &[&first], &[]);
    let mut command = site.command(regress::binaries().join("gotctl"));
    regress::run(command.arg("-f").arg(&second).arg("reload"), b"", 40).good();
    assert!(first.exists() && !second.exists());
    // Once more, to be removed at the end.
    reload(&daemon, &site, &[&first, &second], &[]);
    daemon.assert_serves();
    daemon.stop();
    assert!(!second.exists(), "left behind");
}

/// Each of these is refused with its reason, and the good socket beside it is not made either.
#[test]
fn what_cannot_be_listened_on_changes_nothing() {
    let kept = tcp::free_v4();
    let (site, mut daemon) = start(&[kept]);
    let (socket, beside) = (site.socket(), site.path("beside.sock"));
    let taken = TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = taken.local_addr().map(|address| (address, taken)).expect("bound");
    let (foreign, elsewhere) = (site.path("foreign.sock"), site.path("clones/other.sock"));
    fs::write(&foreign, b"somebody else's").expect("writes");
    let everywhere = SocketAddr::new("0.0.0.0".parse().expect("an address"), kept.port());
    let low: SocketAddr = "127.0.41.19:9".parse().expect("an address");
    let free = tcp::free_v4();
    let cases: [(&[&Path], &[SocketAddr], &str); 5] = [
        (&[&socket, &beside], &[kept, free, taken.0], "bind: Address already in use"),
        (&[&socket, &beside, &foreign], &[kept, free], "bind: Address already in use"),
        (
            &[&socket, &beside, &elsewhere],
            &[kept, free],
            "had none of gotd's at the start: it needs a restart",
        ),
        (&[&socket, &beside], &[kept, free, low], "a port below 1024 that was not there at the start"),
        (&[&socket, &beside], &[free, everywhere], "has to go by a reload of its own first"),
    ];
    for (sockets, addresses, words) in cases {
        let inode = listening_inode(kept);
        write(&site, sockets, addresses);
        let done = daemon.gotctl(&["reload"]).bad(words);
        assert!(done.err.contains("nothing has changed") && done.err.contains("gotd.conf:"), "{}", done.err);
        assert!(refuses(free) && !beside.exists(), "{words}: left behind");
        assert_eq!(listening_inode(kept), inode, "{words}");
        assert_git(&site, kept);
        let info = daemon.gotctl(&["info"]).good().text();
        assert_eq!(info.matches("listening on").count(), 2, "{info}");
    }
    assert_eq!(fs::read(&foreign).expect("is there"), b"somebody else's");
    assert!(refuses(everywhere) || TcpStream::connect(kept).is_ok());
    // In two steps the last one can be done.
    reload(&daemon, &site, &[&socket], &[]);
    assert!(wait_until(5.0, || refuses(kept)));
    reload(&daemon, &site, &[&socket, &beside], &[everywhere]);
    assert_git(&site, kept);
    assert!(beside.exists());
    daemon.assert_serves();
}

/// A low port of the start can go and come back, and `sockets` has the capability for that alone.
#[test]
fn a_low_port_of_the_start_can_come_back() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let low: SocketAddr = "127.0.41.81:81".parse().expect("an address");
    let (site, daemon) = start(&[low]);
    let socket = site.socket();
    assert_git(&site, low);
    reload(&daemon, &site, &[&socket], &[]);
    assert!(wait_until(5.0, || refuses(low)));
    reload(&daemon, &site, &[&socket], &[low]);
    assert_git(&site, low);
    let status = regress::process::status(daemon.role("sockets")[0]);
    assert_eq!(status["CapEff"], "0000000000000400");
    // Another one is not his.
    let other: SocketAddr = "127.0.41.81:82".parse().expect("an address");
    write(&site, &[&socket], &[low, other]);
    daemon.gotctl(&["reload"]).bad("a port below 1024");
    assert_git(&site, low);
}

/// `listen` is held while clients come and the sockets they came to are taken away, the last git://
/// address among them: each of them is served.
#[test]
fn who_has_come_before_a_socket_is_closed_is_served() {
    const CLIENTS: usize = 80;
    let address = tcp::free_v4();
    let (site, mut daemon) = start(&[address]);
    let (socket, other) = (site.socket(), site.path("other.sock"));
    reload(&daemon, &site, &[&socket, &other], &[address]);
    assert_git(&site, address);
    let listen = Pid::from_raw(daemon.role("listen")[0]);
    kill(listen, Signal::SIGSTOP).expect("stops");
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::open(address)).collect();
    // They are given their pipes when they are accepted.
    let come = || {
        let connection = Connection::open(&other);
        connection.greet();
        connection
    };
    let others: Vec<Connection> = (0..10).map(|_| come()).collect();
    write(&site, &[&socket], &[]);
    let before = daemon.log().matches("reload result=ok").count();
    daemon.signal(Signal::SIGHUP);
    let done = wait_until(10.0, || daemon.log().matches("reload result=ok").count() > before);
    // Some speak before they are accepted, some after it.
    let (early, late) = clients.split_at_mut(CLIENTS / 2);
    let spoken = early.iter_mut().all(|client| client.write(&tcp::request("/one", 2)));
    kill(listen, Signal::SIGCONT).expect("goes on");
    assert!(done && spoken, "{}", daemon.log());
    assert!(!other.exists());
    assert!(wait_until(5.0, || refuses(address)));
    for client in late.iter_mut() {
        assert!(client.write(&tcp::request("/one", 2)));
    }
    for client in &mut clients {
        assert!(String::from_utf8_lossy(&client.read_to_flush()).contains("version 2"));
        assert!(client.write(b"0000"));
        assert_eq!(client.end(10.0), tcp::End::Closed(Vec::new()));
    }
    for connection in others {
        let mut client = Session::ask(connection, &fetch_request("one", 2));
        client.read_to_flush();
        client.close();
        client.read_to_end(20);
        assert_eq!(client.connection.end(10), End::Exit(0, String::new()));
    }
    // When nobody is left, nothing waits for git:// clients.
    assert!(wait_until(10.0, || daemon.role("session").len() == WAITING), "{}", daemon.log());
    daemon.assert_serves();
}

/// Listening sockets come and go in the middle of many sessions by two others that stay: no
/// connection to these is refused, and no session fails.
#[test]
fn under_load_nobody_is_turned_away() {
    let (kept, passing) = (tcp::free_v4(), tcp::free_v4());
    let (site, mut daemon) = start(&[kept]);
    let (socket, beside) = (site.socket(), site.path("beside.sock"));
    let (served, connected, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let git = format!("git://{kept}/one");
    std::thread::scope(|scope| {
        for url in [&git, "gotd:one", &git, "gotd:one"] {
            let (site, served, over) = (&site, &served, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    site.git(["ls-remote", url]).good();
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                TcpStream::connect(kept).expect("refused over TCP");
                Connection::try_open(&socket).expect("refused at the unix socket");
                connected.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        });
        let mut reloads = 0;
        while reloads < 20 || served.load(Ordering::Relaxed) < 100 {
            if reloads % 2 == 0 {
                write(&site, &[&socket, &beside], &[passing, kept]);
            } else {
                write(&site, &[&socket], &[kept]);
            }
            let done = daemon.gotctl(&["reload"]);
            if done.status != 0 {
                over.store(true, Ordering::Relaxed);
            }
            done.good();
            reloads += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    eprintln!("{} sessions, {} connections", served.into_inner(), connected.into_inner());
    let log = daemon.log();
    // Those who only connect leave without a word over TCP, and before their request at the unix
    // socket.
    let turned_away = |line: &&str| {
        line.contains("refused ") && !line.contains("left without a word")
            || line.contains("result=") && !line.contains("result=ok") && !line.contains("before its request")
    };
    assert_eq!(log.lines().filter(turned_away).collect::<Vec<_>>(), [""; 0]);
    daemon.assert_serves();
}
