//! Who floods: local users by processes of their own, strangers by addresses of the loopback
//! network.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use regress::pkt;
use regress::raw::Connection;
use regress::site::Site;
use regress::tcp::{self, Client};

/// Connections of one flood.
const CONNECTIONS: usize = 1000;
/// Connections that a flooder opens anew in a second, for those that were ended.
const AGAIN_PER_SECOND: usize = 100;
/// The first of the flooding users' ids.
const FIRST_UID: u32 = 61_020;
/// Bytes in a second that each slow reader takes.
const SLOW: usize = 1500;

/// The kinds of floods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flood {
    /// A thousand connections of one local user.
    OneUser,
    /// As many of eight.
    EightUsers,
    /// As many from eight addresses.
    EightAddresses,
    /// Clones from eight addresses that hardly take anything.
    SlowReaders,
}

impl Flood {
    /// All of them.
    pub const ALL: [Flood; 4] =
        [Flood::OneUser, Flood::EightUsers, Flood::EightAddresses, Flood::SlowReaders];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Flood::OneUser => "1,000 connections of one user",
            Flood::EightUsers => "1,000 connections of eight users",
            Flood::EightAddresses => "1,000 connections from eight addresses",
            Flood::SlowReaders => "slow readers from eight addresses",
        }
    }

    /// Whether it needs other users.
    pub fn needs_root(self) -> bool {
        matches!(self, Flood::OneUser | Flood::EightUsers)
    }
}

/// A flood under way.
pub struct Flooders {
    children: Vec<Child>,
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    made: Arc<AtomicUsize>,
}

impl Flooders {
    /// Starts a flood, and returns once it has begun.
    pub fn start(flood: Flood, site: &Site, address: SocketAddr) -> Flooders {
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        let (mut children, mut threads) = (Vec::new(), Vec::new());
        let users = match flood {
            Flood::OneUser => 1,
            Flood::EightUsers => 8,
            _ => 0,
        };
        for user in 0..users {
            children.push(start_local(site, FIRST_UID + user, CONNECTIONS / users as usize));
        }
        if users == 0 {
            for last in 1..=8 {
                let from = Ipv4Addr::new(127, 0, 66, last);
                let (stop, made) = (stop.clone(), made.clone());
                threads.push(std::thread::spawn(move || match flood {
                    Flood::SlowReaders => slow(address, from, &stop, &made),
                    _ => many(address, from, CONNECTIONS / 8, &stop, &made),
                }));
            }
        }
        std::thread::sleep(Duration::from_secs(3));
        Flooders { children, threads, stop, made }
    }

    /// Ends it. How many connections were made.
    pub fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a flooder does not panic");
        }
        let mut made = self.made.load(Ordering::Relaxed);
        for mut child in self.children {
            // The end of its standard input tells it.
            drop(child.stdin.take());
            let mut said = String::new();
            if let Some(mut out) = child.stdout.take() {
                let _ = out.read_to_string(&mut said);
            }
            let _ = child.wait();
            made += said.trim().parse::<usize>().unwrap_or(0);
        }
        made
    }
}

fn start_local(site: &Site, uid: u32, connections: usize) -> Child {
    // A copy where everybody can execute it.
    let program = site.path("floods");
    if !program.exists() {
        std::fs::copy(std::env::current_exe().expect("we run"), &program).expect("copies");
    }
    let mut command = Command::new(program);
    command.arg("--local").arg(site.socket()).arg(connections.to_string());
    command.uid(uid).gid(uid).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("starts")
}

/// The flood of one local user, in a process of theirs: some greet, most say nothing; whoever was
/// ended comes again.
pub fn local(socket: &str, connections: &str) {
    let most: usize = connections.parse().unwrap_or(0);
    let socket = Path::new(socket);
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 4096, 4096);
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    });
    let mut made = 0_usize;
    let mut open: Vec<Connection> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        open.retain(|connection| !is_over(connection));
        let tries = if made < most { most } else { AGAIN_PER_SECOND / 10 };
        for _ in 0..tries.min(most.saturating_sub(open.len())) {
            // The backlog is full: later.
            let Ok(connection) = Connection::try_open_now(socket) else { break };
            if made.is_multiple_of(3) {
                connection.greet();
            }
            made += 1;
            open.push(connection);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // Nobody reads it where the measurement has failed.
    let _ = writeln!(std::io::stdout(), "{made}");
}

fn is_over(connection: &Connection) -> bool {
    use std::os::fd::AsRawFd;
    let mut byte = [0; 1];
    let flags = nix::sys::socket::MsgFlags::MSG_DONTWAIT;
    nix::sys::socket::recv(connection.fd.as_raw_fd(), &mut byte, flags) != Err(nix::errno::Errno::EAGAIN)
}

/// Connections from one address, kept open; a third sends a request.
fn many(address: SocketAddr, from: Ipv4Addr, most: usize, stop: &AtomicBool, made: &AtomicUsize) {
    let mut open: Vec<Client> = Vec::new();
    let mut first = true;
    while !stop.load(Ordering::Relaxed) {
        open.retain_mut(|client| {
            client.stream.set_nonblocking(true).expect("sets an option");
            let mut byte = [0; 1];
            let again =
                matches!(client.stream.peek(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock);
            client.stream.set_nonblocking(false).expect("sets an option");
            again
        });
        let tries = if first { most } else { AGAIN_PER_SECOND / 80 + 1 };
        first = false;
        for n in 0..tries.min(most.saturating_sub(open.len())) {
            let mut client = Client::open_from(address, from);
            if n % 3 == 0 {
                client.write(&tcp::request("/bulk.git", 2));
            }
            made.fetch_add(1, Ordering::Relaxed);
            open.push(client);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Eight clones from one address, which take some bytes a second each; whoever was ended comes
/// again.
fn slow(address: SocketAddr, from: Ipv4Addr, stop: &AtomicBool, made: &AtomicUsize) {
    let mut open: Vec<Client> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        while open.len() < 8 {
            let mut client = Client::open_from(address, from);
            made.fetch_add(1, Ordering::Relaxed);
            // A shallow one is never the file as it lies on the disk.
            if client.write(&tcp::request("/bulk.git", 2))
                && let Some(tip) = tip(&mut client)
            {
                client.write(&pkt::v2(
                    "fetch",
                    [format!("want {tip}\n"), "deepen 1\n".into(), "done\n".into()],
                ));
                open.push(client);
            } else {
                break;
            }
        }
        for _ in 0..10 {
            open.retain_mut(|client| take(client, SLOW / 10));
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Reads the advertisement and asks for the tip.
fn tip(client: &mut Client) -> Option<String> {
    client.try_read_to_flush()?;
    client.write(&pkt::v2("ls-refs", ["ref-prefix refs/heads/main\n"]));
    let listed = client.try_read_to_flush()?;
    String::from_utf8(listed.get(4..44)?.to_vec()).ok()
}

/// Takes what is there, at most so many bytes. Whether the connection is still open.
fn take(client: &mut Client, bytes: usize) -> bool {
    client.stream.set_nonblocking(true).expect("sets an option");
    let mut buffer = vec![0; bytes];
    let taken = client.stream.read(&mut buffer);
    client.stream.set_nonblocking(false).expect("sets an option");
    match taken {
        Ok(n) => n > 0,
        Err(e) => e.kind() == std::io::ErrorKind::WouldBlock,
    }
}
