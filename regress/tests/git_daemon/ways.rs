//! Other ways to come over git://: through inetd, to a home directory, and with clients that are
//! not git.

use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use regress::clients::{DULWICH_FETCH, gix, python};
use regress::compare::{assert_clone, assert_mirror, assert_whole, listing, objects};
use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, run};

/// A daemon that serves everything to everybody, over IPv4 and, where there is any, over IPv6.
fn start() -> (Site, Daemon, Vec<SocketAddr>) {
    let site = Site::new();
    let addresses: Vec<SocketAddr> = [Some(tcp::free_v4()), tcp::free_v6()].into_iter().flatten().collect();
    if addresses.len() == 1 {
        regress::skipped("the part about IPv6 needs it on the loopback interface");
    }
    history::repository(&site, "demo.git", 30, "sha1");
    let repositories = site.path("repositories").display().to_string();
    std::fs::create_dir(site.path("repositories/home")).expect("makes a directory");
    history::repository(&site, "home/own.git", 3, "sha1");
    std::fs::write(site.path("repositories/home/own.git/git-daemon-export-ok"), b"").expect("writes");
    let daemon = site.start_with(&format!(
        "{}{}repository demo {{\n\tpath \"{repositories}/demo.git\"\n\tpermit ro anonymous\n\tpermit rw \"{}\"\n}}\n\
         repositories \"~alice\" {{\n\tpath \"{repositories}/home\"\n\texport-ok\n}}\n",
        site.head(),
        addresses.iter().copied().map(tcp::listen_line).collect::<String>(),
        present_user(),
    ));
    (site, daemon, addresses)
}

/// How the log names a client at the same address.
fn from(address: SocketAddr) -> String {
    let text = address.to_string();
    format!("address={}", text.trim_end_matches(char::is_numeric))
}

/// Accepts connections and runs `gotsh --inetd` on each, as inetd does; ends with its value.
struct Inetd {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Inetd {
    fn start(site: &Site) -> Inetd {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::new(AtomicBool::new(false));
        let (socket, stopped) = (site.socket(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut children = Vec::new();
            for connection in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let fd = std::os::fd::OwnedFd::from(connection.expect("a connection"));
                let stdio = || Stdio::from(fd.try_clone().expect("a copy"));
                let mut command = Command::new(regress::binaries().join("gotsh"));
                command.env_clear().env("GOTD_UNIX_SOCKET", &socket).arg("--inetd");
                children
                    .push(command.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("starts"));
            }
            for mut child in children {
                child.wait().expect("ends");
            }
        });
        Inetd { address, stop, thread: Some(thread) }
    }
}

impl Drop for Inetd {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn through_inetd() {
    let (site, daemon, _) = start();
    let inetd = Inetd::start(&site);
    let original = site.repository("demo.git");
    for version in ["0", "1", "2"] {
        let path = site.clone_path(&format!("inetd-{version}"));
        let option = format!("protocol.version={version}");
        let url = format!("git://{}/demo.git", inetd.address);
        site.git(["-c", &option, "clone", "-q", "--mirror", &url, &path.to_string_lossy()]).good();
        assert_mirror(&site, &original, &path);
        daemon.logged(&["result=ok", &format!("protocol={version}"), "told-address=127.0.0.1:"]);
    }
    site.git(["ls-remote", &format!("git://{}/nothing", inetd.address)]).bad("no git repository found");
    // Not even to one who may push otherwise.
    let mut client = Client::open(inetd.address);
    assert!(client.write(&regress::pkt::line("git-receive-pack /demo.git\0host=h\0")));
    let end = client.end(5.0);
    assert!(end.is_over() && end.text().contains("fetching only"), "{end:?}");
}

#[test]
fn home_directories_are_repositories_with_a_prefix() {
    let (site, _daemon, addresses) = start();
    for address in addresses {
        site.git(["ls-remote", &format!("git://{address}/~alice/own")]).good();
        site.git(["ls-remote", &format!("git://{address}/~bob/own")]).bad("no git repository found");
    }
}

#[test]
fn dulwich_clones_and_fetches() {
    let Some(python) = python("dulwich") else { return };
    let (site, daemon, addresses) = start();
    let original = site.repository("demo.git");
    let before = listing(&original);
    for address in addresses {
        let clone = site.clone_path(if address.is_ipv4() { "dulwich4.git" } else { "dulwich6.git" });
        let mut command = site.command(python);
        command.args(["-c", DULWICH_FETCH, &format!("git://{address}/demo.git")]).arg(&clone);
        run(&mut command, b"", 60).good();
        assert_mirror(&site, &original, &clone);
        assert_eq!(before, listing(&original));
        daemon.logged(&["result=ok", "who=anonymous", "repository=demo.git", &from(address)]);
    }
}

#[test]
fn libgit2_clones_and_fetches() {
    let Some(python) = python("pygit2") else { return };
    let (site, daemon, addresses) = start();
    let script = "\
import sys, pygit2
r = pygit2.clone_repository(sys.argv[1], sys.argv[2], bare=True)
r.remotes['origin'].fetch()
";
    for address in addresses {
        let clone = site.clone_path(if address.is_ipv4() { "libgit4.git" } else { "libgit6.git" });
        let mut command = site.command(python);
        command.args(["-c", script, &format!("git://{address}/demo.git")]).arg(&clone);
        run(&mut command, b"", 60).good();
        assert_whole(&site, &clone);
        assert_eq!(objects(&site, &site.repository("demo.git")), objects(&site, &clone));
        daemon.logged(&["result=ok", "who=anonymous", "protocol=0", "repository=demo.git", &from(address)]);
    }
}

/// gix cannot be given an IPv6 address as such: a name of the loopback interface's, if the system
/// has one.
fn name_of_v6() -> Option<&'static str> {
    use std::net::ToSocketAddrs;
    let found = ["ip6-localhost", "localhost"].into_iter().find(|name| {
        let addresses: Vec<SocketAddr> =
            (*name, 0).to_socket_addrs().map(Iterator::collect).unwrap_or_default();
        addresses.iter().any(|address| address.ip() == std::net::Ipv6Addr::LOCALHOST)
    });
    if found.is_none() {
        regress::skipped("the part about IPv6 needs a name for ::1");
    }
    found
}

#[test]
fn gix_clones_and_fetches() {
    let Some(gix) = gix() else { return };
    let (site, v4) = (Site::new(), tcp::free_v4());
    let original = history::repository(&site, "demo.git", 30, "sha1");
    let v6 = tcp::free_v6();
    let listen: String = [Some(v4), v6].into_iter().flatten().map(tcp::listen_line).collect();
    let daemon = site.start_with(&format!(
        "{}{listen}repository demo {{\n\tpath \"{}\"\n\tpermit ro anonymous\n}}\n",
        site.head(),
        original.display(),
    ));
    let mut hosts = vec![v4.to_string()];
    hosts.extend(v6.and_then(|address| Some(format!("{}:{}", name_of_v6()?, address.port()))));
    let mut commits = 30;
    for host in &hosts {
        // Asked for version 1, it says none, and is answered in version 0.
        for (asked, spoken) in [("0", "0"), ("1", "0"), ("2", "2")] {
            let clone = site.clone_path(&format!("gix-{commits}"));
            let version = format!("protocol.version={asked}");
            let command = || {
                let mut command = site.command(gix);
                command.args(["--no-verbose", "-c", &version]);
                command
            };
            let url = format!("git://{host}/demo.git");
            run(command().arg("clone").arg(url).arg(&clone), b"", 60).good();
            assert_clone(&site, &original, &clone);
            history::grow(&site, &original, 5, commits);
            commits += 5;
            site.hand_over();
            run(command().arg("-r").arg(&clone).arg("fetch"), b"", 60).good();
            assert_clone(&site, &original, &clone);
            daemon.logged(&["result=ok", "who=anonymous", &format!("protocol={spoken}"), "agent=git/oxide"]);
        }
    }
    assert!(!daemon.log().contains("result=lost"), "{}", daemon.log());
}
