//! git://: what is served over TCP, to whom, and that it is the same as over ssh.

use std::net::SocketAddr;

use regress::compare::{assert_mirror, listing};
use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt};

/// A configuration that serves `open.git` to everybody, `closed.git` to the present user alone, and
/// below `pub/` what is marked.
fn configuration(site: &Site, addresses: &[SocketAddr], more: &str) -> String {
    let listen: String = addresses.iter().map(|address| tcp::listen_line(*address)).collect();
    let (head, me, dir) = (site.head(), present_user(), site.path("repositories").display().to_string());
    format!(
        "{head}{listen}{more}repository \"open\" {{\n\tpath \"{dir}/open.git\"\n\tpermit rw {me}\n\tpermit ro anonymous\n}}\n\
         repository \"closed\" {{\n\tpath \"{dir}/closed.git\"\n\tpermit rw {me}\n}}\n\
         repository \"denied\" {{\n\tpath \"{dir}/denied.git\"\n\tpermit rw {me}\n\tdeny anonymous\n}}\n\
         repositories \"pub\" {{\n\tpath \"{dir}/pub\"\n\tpermit rw {me}\n\texport-ok\n}}\n"
    )
}

/// The repositories of that configuration; in `pub`, one is marked and one is not.
fn site() -> Site {
    let site = Site::new();
    for name in ["open.git", "closed.git", "denied.git"] {
        history::repository(&site, name, 12, "sha1");
    }
    std::fs::create_dir(site.repository("pub")).expect("makes a directory");
    for name in ["pub/marked.git", "pub/unmarked.git"] {
        history::repository(&site, name, 3, "sha1");
    }
    std::fs::write(site.repository("pub/marked.git").join("git-daemon-export-ok"), b"").expect("writes");
    site
}

fn start(more: &str) -> (Site, Daemon, SocketAddr) {
    let (site, address) = (site(), tcp::free_v4());
    let daemon = site.start_with(&configuration(&site, &[address], more));
    (site, daemon, address)
}

#[test]
fn clones_over_both_kinds_of_addresses_in_every_version() {
    let site = site();
    let mut addresses = vec![tcp::free_v4()];
    match tcp::free_v6() {
        Some(address) => addresses.push(address),
        None => regress::skipped("the part about IPv6 needs it on the loopback interface"),
    }
    let daemon = site.start_with(&configuration(&site, &addresses, ""));
    let original = site.repository("open.git");
    let before = listing(&original);
    for (at, address) in addresses.iter().enumerate() {
        for version in ["0", "1", "2"] {
            let path = site.clone_path(&format!("clone-{at}-{version}"));
            let url = format!("git://{address}/open.git");
            let option = format!("protocol.version={version}");
            let path_text = path.to_string_lossy();
            site.git(["-c", &option, "clone", "-q", "--mirror", &url, &path_text]).good();
            assert_mirror(&site, &original, &path);
            let words = ["result=ok", "who=anonymous", &format!("protocol={version}"), "repository=open.git"];
            let line = daemon.logged(&words);
            assert!(line.contains("address="), "{line}");
        }
    }
    // A fetch into a clone that has something, and the same over ssh.
    site.git(["clone", "-q", "--mirror", "gotd:open", &site.clone_path("ssh").to_string_lossy()]).good();
    assert_mirror(&site, &original, &site.clone_path("ssh"));
    assert_eq!(before, listing(&original));
}

#[test]
fn only_what_anonymous_clients_may_read_is_there() {
    let (site, daemon, address) = start("");
    let remote = |path: &str| site.git(["ls-remote", &format!("git://{address}/{path}")]);
    remote("open").good();
    remote("pub/marked").good();
    remote("pub/marked.git").good();
    let missing = remote("nothing").bad("no git repository found").err;
    for path in ["closed", "closed.git", "denied", "pub/unmarked", "pub/unmarked.git", "pub/nothing", "pub"] {
        let answer = remote(path).bad("no git repository found").err;
        assert_eq!(answer, missing, "{path}: the answer tells that it is there");
    }
    daemon.logged(&[
        "result=refused",
        "who=anonymous",
        "repository=pub/unmarked.git",
        "no git-daemon-export-ok",
    ]);
    // By another way the same are there.
    for path in ["closed", "denied", "pub/unmarked"] {
        site.git(["ls-remote", &format!("gotd:{path}")]).good();
    }
}

#[test]
fn an_administrator_may_have_it_told() {
    let (site, _daemon, address) = start("connection informative errors\n");
    let remote = |path: &str| site.git(["ls-remote", &format!("git://{address}/{path}")]);
    remote("denied").bad("Permission denied");
    // In git-daemon's words. Where no rule is about anonymous clients nothing is looked up, so it
    // may not be there at all.
    for (path, told) in [
        ("nothing.git", "no such repository: /nothing.git"),
        ("pub/nothing", "no such repository: /pub/nothing"),
        ("pub/unmarked.git", "repository not exported: /pub/unmarked.git"),
        ("closed", "access denied or repository not exported: /closed"),
    ] {
        remote(path).bad(&format!("fatal: remote error: {told}\n"));
    }
    // Those who have proven who they are need no such words.
    site.git(["ls-remote", "gotd:nothing"]).bad("no git repository found");
}

#[test]
fn nobody_writes() {
    let (site, daemon, address) = start("");
    let work = site.clone_path("work");
    site.git(["clone", "-q", &format!("git://{address}/open"), &work.to_string_lossy()]).good();
    site.git_in(&work, ["commit", "-q", "--allow-empty", "-m", "more"]);
    let before = listing(&site.repository("open.git"));
    for path in ["open", "closed", "nothing"] {
        let url = format!("git://{address}/{path}");
        let mut push = site.command("git");
        push.arg("-C").arg(&work).args(["push", &url, "HEAD:refs/heads/new"]);
        let told = format!("remote error: service not enabled: /{path}: git:// is for fetching only");
        regress::run(&mut push, b"", 60).bad(&told);
    }
    assert_eq!(before, listing(&site.repository("open.git")));
    daemon.logged(&["git:// is for fetching only"]);
}

/// Waiting sessions of the one kind are not those of the other.
#[test]
fn each_kind_of_connection_has_waiting_sessions_of_its_own() {
    let more = "connection {\n\twaiting sessions 2\n\twaiting git sessions 1\n}\n";
    let (site, daemon, address) = start(more);
    assert!(regress::run::wait_until(5.0, || daemon.role("session").len() >= 3), "{:?}", daemon.processes());
    site.git(["ls-remote", "gotd:open"]).good();
    site.git(["ls-remote", &format!("git://{address}/open")]).good();
}

/// A client that takes the whole conversation byte by byte is served like any other.
#[test]
fn a_request_in_pieces_is_one_request() {
    let (_site, _daemon, address) = start("");
    let mut client = Client::open(address);
    for byte in tcp::request("/open.git", 2) {
        assert!(client.write(&[byte]));
    }
    assert!(String::from_utf8_lossy(&client.read_to_flush()).contains("version 2"));
    assert!(client.write(&pkt::v2("ls-refs", ["peel\n"])));
    assert!(String::from_utf8_lossy(&client.read_to_flush()).contains("refs/heads/main"));
    assert!(client.write(b"0000"));
    assert_eq!(client.end(10.0), tcp::End::Closed(Vec::new()));
}

/// A service manager's sockets, without any privilege: the daemon binds nothing itself.
#[test]
fn sockets_of_a_service_manager_are_served() {
    let site = site();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    let conf = site.path("gotd.conf");
    let passed = Passed::start(&site, &listener, &configuration(&site, &[address], ""));
    let url = format!("git://{address}/open");
    let answer = site.git(["ls-remote", &url]);
    // A reload does not take it away, nor bind it once more.
    let reload = |configuration: String| {
        std::fs::write(&conf, configuration).expect("writes");
        let mut command = site.command(regress::binaries().join("gotctl"));
        regress::run(command.arg("-f").arg(site.socket()).arg("reload"), b"", 40)
    };
    let reloads = [reload(configuration(&site, &[], "")), reload(configuration(&site, &[address], ""))];
    let again = site.git(["ls-remote", &url]);
    let log = passed.end();
    for done in reloads.into_iter().chain([answer, again]) {
        done.good();
    }
    assert!(!site.socket().exists(), "{log}");
}

/// A socket for both kinds of addresses, as service managers make them: whoever comes over IPv4 has
/// an IPv4 address, and not one of the network that all of these are written in.
#[test]
fn over_a_socket_for_both_kinds_ipv4_clients_are_told_apart() {
    use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn6, bind, listen, socket};
    use nix::sys::socket::{setsockopt, sockopt};
    use std::os::fd::AsRawFd;
    if tcp::free_v6().is_none() {
        return regress::skipped("needs IPv6");
    }
    let site = site();
    let listener =
        socket(AddressFamily::Inet6, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&listener, sockopt::Ipv6V6Only, &false).expect("sets");
    let any = std::net::SocketAddrV6::new(std::net::Ipv6Addr::UNSPECIFIED, 0, 0, 0);
    bind(listener.as_raw_fd(), &SockaddrIn6::from(any)).expect("binds");
    listen(&listener, Backlog::new(64).expect("small")).expect("listens");
    let bound: SockaddrIn6 = nix::sys::socket::getsockname(listener.as_raw_fd()).expect("bound");
    let (port, any) = (bound.port(), SocketAddr::V6(bound.into()));
    let more = "connection {\n\tlimit per address 3\n\trate per address 100\n}\n";
    let passed = Passed::start(&site, &listener, &configuration(&site, &[any], more));
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let open = |last: u8| Client::open_from(address, std::net::Ipv4Addr::new(127, 0, 0, last));
    let kept: Vec<Client> = (0..3).map(|_| open(2)).collect();
    let refused = open(2).end(5.0);
    let mut others: Vec<Client> = (3..20).map(open).collect();
    let answers: Vec<bool> = others.iter_mut().map(|c| c.write(&tcp::request("/open.git", 2))).collect();
    let served: Vec<Vec<u8>> = others.iter_mut().map(Client::read_to_flush).collect();
    let over_v6 = site.git(["ls-remote", &format!("git://[::1]:{port}/open")]);
    // What is refused is logged a second later.
    let logged =
        regress::run::wait_until(5.0, || passed.log().contains("refused connections=1 address=127.0.0.2 "));
    drop((kept, others));
    let log = passed.end();
    assert!(refused.text().contains("limit per address"), "{refused:?}\n{log}");
    assert!(answers.iter().all(|written| *written) && served.len() == 17, "{log}");
    over_v6.good();
    assert!(logged, "{log}");
}

/// A daemon that was started with a listening socket, as sd_listen_fds(3) says.
struct Passed {
    child: std::process::Child,
    log: std::path::PathBuf,
}

impl Passed {
    fn start(site: &Site, listener: &impl std::os::fd::AsFd, conf: &str) -> Passed {
        let (gotd, log) = (regress::binaries().join("gotd"), site.path("passed.log"));
        site.hand_over();
        std::fs::write(site.path("gotd.conf"), conf).expect("writes");
        // The socket comes as standard input and becomes descriptor 3: dash(1) does not know the
        // number of a descriptor beyond 9, which the socket has here when many tests run.
        let script = format!(
            "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec {gotd} -d -f {conf} 2>{log}",
            gotd = gotd.display(),
            conf = site.path("gotd.conf").display(),
            log = log.display()
        );
        let socket = listener.as_fd().try_clone_to_owned().expect("is copied");
        let child = site
            .command("/bin/sh")
            .args(["-c", &script])
            .stdin(socket)
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starts");
        let passed = Passed { child, log };
        if !regress::run::wait_until(20.0, || site.socket().exists()) {
            panic!("gotd did not start: {}", passed.end());
        }
        passed
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Stops it; what it has logged.
    fn end(mut self) -> String {
        self.stop();
        self.log()
    }

    fn stop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("is there");
            self.child.wait().expect("ends");
        }
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What one address may take in a second is shared by its connections, and nobody else's.
#[test]
fn an_address_takes_so_many_bytes_in_a_second() {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 6);
    let _daemon = site.start_with(&format!(
        "{}{}connection bandwidth per address 2M\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
    ));
    let start = std::time::Instant::now();
    let path = site.clone_path("paced");
    site.git(["clone", "-q", "--bare", &format!("git://{address}/bulk.git"), &path.to_string_lossy()]).good();
    let took = start.elapsed().as_secs_f64();
    // What the kernel sends before it begins to pace is not much.
    assert!(took > 1.8, "{took} s for 6 MiB at 2 MiB/s");
}

/// Asks for the pack of a bulky repository, and reads nothing of it.
fn stalled(site: &Site, address: SocketAddr, name: &str, from: &str) -> Client {
    let tip = history::tip(site, &site.repository(name));
    let mut client = Client::open_from(address, from.parse().expect("an address"));
    nix::sys::socket::setsockopt(&client.stream, nix::sys::socket::sockopt::RcvBuf, &4096).expect("sets");
    assert!(client.write(&tcp::request(&format!("/{name}"), 2)));
    client.read_to_flush();
    assert!(client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])));
    client
}

/// Who came, who is there, who was turned away and what waits is counted for monitoring.
#[test]
fn metrics_and_info_tell_about_git_clients() {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 24);
    let daemon = site.start_with(&format!(
        "{}{}limit packs total 1\nconnection {{\n\tlimit git total 5\n\tlimit per address 3\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        present_user(),
    ));
    let mut first = stalled(&site, address, "bulk.git", "127.0.0.2");
    assert!(first.read_exactly(1000).is_some());
    let second = stalled(&site, address, "bulk.git", "127.0.0.3");
    let open = |from: &str| Client::open_from(address, from.parse().expect("an address"));
    let mut many: Vec<Client> = (0..3).map(|_| open("127.0.0.4")).collect();
    let refused = open("127.0.0.4").end(5.0);
    assert!(refused.text().contains("limit per address"), "{refused:?}");
    // All places are taken: of the busiest address the one that has been silent longest gives way.
    let _newcomer = open("127.0.0.5");
    assert!(many[0].end(5.0).is_over());
    let labelled =
        |family: &str, label: &str, value: &str| format!("gotd_git_{family}{{{label}=\"{value}\"}}");
    let expected = [
        ("gotd_git_accepted_total".to_owned(), 7),
        (labelled("refused_total", "reason", "connection limit per address"), 1),
        ("gotd_git_evicted_total".to_owned(), 1),
        (labelled("connections", "state", "silent"), 3),
        (labelled("connections", "state", "waiting"), 0),
        (labelled("connections", "state", "served"), 2),
        (labelled("packs", "state", "running"), 0),
        (labelled("packs", "state", "waiting"), 0),
        // Neither takes anything, so neither has the one place.
        (labelled("packs", "state", "stalled"), 2),
        ("gotd_git_sent_bytes_total".to_owned(), 0),
    ];
    let mut now = daemon.metrics();
    regress::run::wait_until(10.0, || {
        now = daemon.metrics();
        expected.iter().all(|(name, value)| now.get(name) == Some(value))
    });
    for (name, value) in &expected {
        assert_eq!(now.get(name), Some(value), "{name}: {now:?}\n{}", daemon.log());
    }
    let info = daemon.gotctl(&["info"]).good().text();
    for line in [
        "git:// connections: 7 accepted, 3 silent, 0 waiting for a session, 2 served\n",
        "git:// packs: 0 at work, 0 waiting, 2 whose client takes nothing\n",
        "packs: 0 at work, 0 waiting, 2 whose client takes nothing\n",
        "pushes: 0 at work, 0 waiting, 0 whose client gives nothing\n",
        ": anonymous from 127.0.0.2:",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
    let json = daemon.gotctl(&["info", "--json"]).good().text();
    assert!(json.contains("\"git\":{\"accepted\":7,\"silent\":3,\"waiting\":0,\"served\":2,"), "{json}");
    drop((first, second, many));
    let path = site.clone_path("counted").to_string_lossy().into_owned();
    site.git(["clone", "-q", "--bare", &format!("git://{address}/bulk.git"), &path]).good();
    regress::run::wait_until(15.0, || {
        now = daemon.metrics();
        now["gotd_git_sent_bytes_total"] > 24 << 20 && now[&expected[5].0] == 0
    });
    assert!(now["gotd_git_sent_bytes_total"] > 24 << 20, "{now:?}");
    assert!(now["gotd_git_received_bytes_total"] > 100, "{now:?}");
    for (at, value) in [(0, 8), (3, 1), (5, 0), (6, 0), (7, 0), (8, 0)] {
        assert_eq!(now.get(&expected[at].0), Some(&value), "{}: {now:?}", expected[at].0);
    }
}
