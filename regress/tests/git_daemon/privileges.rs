//! What the kernel says about every process of a daemon that serves git://: who it runs as, what it
//! may, what it has open.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use regress::site::{CLIENT, DAEMON, UNPRIVILEGED, present_user};
use regress::sockets::{self, Socket};
use regress::tcp::{self, Client};
use regress::{Site, history, is_root, own_process, process, run};

/// Bits of capability(7), as /proc/PID/status prints them.
const NONE: &str = "0000000000000000";
const NET_BIND_SERVICE: &str = "0000000000000400";

/// One line of the table.
#[derive(Debug)]
struct Row {
    role: String,
    status: std::collections::HashMap<String, String>,
    sockets: Vec<Socket>,
}

impl Row {
    fn field(&self, key: &str) -> &str {
        self.status.get(key).map_or("", String::as_str)
    }

    fn has(&self, wanted: impl Fn(&Socket) -> bool) -> usize {
        self.sockets.iter().filter(|socket| wanted(socket)).count()
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for socket in &self.sockets {
            *kinds.entry(socket.to_string()).or_default() += 1;
        }
        let kinds: Vec<String> = kinds.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let ids = |key| self.field(key).split_whitespace().next().unwrap_or_default();
        write!(
            f,
            "{:<11} uid {:<6} gid {:<6} CapEff {} CapBnd {} NoNewPrivs {} Seccomp {}  {}",
            self.role,
            ids("Uid"),
            ids("Gid"),
            self.field("CapEff"),
            self.field("CapBnd"),
            self.field("NoNewPrivs"),
            self.field("Seccomp"),
            kinds.join(", ")
        )
    }
}

/// A program that runs another one in a network of its own, in which every port is free; an error
/// tells that there cannot be one here.
fn own_network() -> Result<Command, String> {
    let program = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]);
        unshare
    };
    let probe = run(program().arg("true"), b"", 20);
    if probe.status == 0 {
        Ok(program())
    } else {
        Err(format!("no network of its own: {}", probe.err.trim()))
    }
}

/// With an ordinary port, and with a low one that only a privilege binds: nobody but `sockets` has
/// one, it has that one alone, nobody but `listen` waits for clients, and only the client's own
/// session and repository process have its connection besides.
#[test]
fn privileges_and_sockets_of_every_process() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    if !own_process::is_this() {
        let network = match own_network() {
            Ok(network) => network,
            Err(why) => return regress::skipped(&why),
        };
        let test = "privileges_and_sockets_of_every_process";
        return own_process::again(module_path!(), test, Some(network), 300);
    }
    for (port, kept) in [(9418, NONE), (80, NET_BIND_SERVICE)] {
        for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            table_of(SocketAddr::new(any, port), kept);
        }
    }
}

fn table_of(address: SocketAddr, kept: &str) {
    let site = Site::new();
    history::repository(&site, "open.git", 12, "sha1");
    let daemon = site.start_with(&format!(
        "{}{}connection {{\n\twaiting sessions 2\n\twaiting git sessions 1\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit rw \"{}\"\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        present_user(),
    ));
    let here: IpAddr =
        if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    let mut client = Client::open(SocketAddr::new(here, address.port()));
    assert!(client.write(&tcp::request("/open.git", 2)));
    client.read_to_flush();
    // The one that serves, those that wait again, and the one that waits for gotctl.
    let expected = [("auth", 1), ("gotd", 1), ("listen", 1), ("repo_read", 1), ("repository", 4)];
    let expected = expected.into_iter().chain([("session", 5), ("sockets", 1), ("spawn", 3)]);
    let expected: Vec<&str> = expected.flat_map(|(role, n)| std::iter::repeat_n(role, n)).collect();
    let mut processes = Vec::new();
    let complete = regress::run::wait_until(10.0, || {
        processes = daemon.processes();
        let mut roles: Vec<&str> = processes.iter().map(|p| p.name.as_str()).collect();
        roles.sort_unstable();
        roles == expected
    });
    assert!(complete, "{processes:?}");
    let row = |p: process::Process| Row {
        role: p.name,
        status: process::status(p.pid),
        sockets: sockets::of(p.pid),
    };
    let rows: Vec<Row> = processes.into_iter().map(row).collect();
    let table: String = rows.iter().map(|row| format!("{row}\n")).collect();
    eprintln!("listen on git {address}\n{table}");

    let mut spawners = Vec::new();
    for row in &rows {
        let creator = row.role == "sockets";
        let ids = |id: u32| vec![id.to_string(); 4];
        let account = match row.role.as_str() {
            "sockets" => None,
            "spawn" => {
                let uid = row.field("Uid").split_whitespace().next().unwrap_or_default().to_owned();
                spawners.push(uid.clone());
                Some(uid)
            }
            "gotd" | "listen" | "auth" => Some(DAEMON.to_owned()),
            "session" => Some(CLIENT.to_owned()),
            _ => Some(UNPRIVILEGED.to_owned()),
        };
        let known = |name: &String| {
            let uid = name.parse().map(nix::unistd::Uid::from_raw);
            let user = uid.map_or_else(|_| nix::unistd::User::from_name(name), nix::unistd::User::from_uid);
            user.ok().flatten().expect("gotd's account")
        };
        let user = account.as_ref().map(known);
        let (uid, gid) = user.map_or((0, 0), |user| (user.uid.as_raw(), user.gid.as_raw()));
        assert!(creator || uid != 0, "{row}");
        // A session has no group that its account may be in.
        assert!(row.role != "session" || row.field("Groups").is_empty(), "{row}");
        assert_eq!(row.field("Uid").split_whitespace().collect::<Vec<_>>(), ids(uid), "{row}");
        assert_eq!(row.field("Gid").split_whitespace().collect::<Vec<_>>(), ids(gid), "{row}");
        for key in ["CapPrm", "CapEff"] {
            assert_eq!(row.field(key), if creator { kept } else { NONE }, "{key} {row}");
        }
        for key in ["CapInh", "CapAmb"] {
            assert_eq!(row.field(key), NONE, "{key} {row}");
        }
        assert!(!creator || row.field("CapBnd") == kept, "{row}");
        assert_eq!((row.field("NoNewPrivs"), row.field("Seccomp")), ("1", "2"), "{row}");

        let waits = |socket: &Socket| matches!(socket, Socket::TcpListening(_) | Socket::UnixListening(_));
        let connected = row.has(|socket| matches!(socket, Socket::Tcp(_)));
        match row.role.as_str() {
            "listen" => {
                // `sockets` binds in the directory that it has open.
                let name = site.socket().file_name().map(Into::into).expect("a name");
                let control = daemon.control_socket().file_name().map(Into::into).expect("a name");
                let unix = [name, control].map(Socket::UnixListening);
                let places = [&[Socket::TcpListening(address)][..], &unix].concat();
                assert_eq!(row.has(waits), places.len(), "{row}");
                assert!(places.iter().all(|place| row.has(|socket| socket == place) == 1), "{row}");
                assert_eq!(connected, 1, "{row}");
            }
            "session" | "repo_read" => assert_eq!(row.has(waits), 0, "{row}"),
            _ => assert_eq!((row.has(waits), connected), (0, 0), "{row}"),
        }
        // To the parent and nobody else.
        assert!(!creator || row.sockets == [Socket::Unix], "{row}");
    }
    // Each spawner has an account of its own.
    let uid = |name: &str| {
        let user = nix::unistd::User::from_name(name).ok().flatten();
        user.expect("an account").uid.to_string()
    };
    let mut accounts = [DAEMON, CLIENT, UNPRIVILEGED].map(uid).to_vec();
    accounts.sort();
    spawners.sort();
    assert_eq!(spawners, accounts, "{table}");
    let served = rows.iter().filter(|r| r.role == "session" && r.has(|s| matches!(s, Socket::Tcp(_))) > 0);
    assert_eq!(served.count(), 1, "{table}");
    let sends = rows.iter().filter(|r| r.role == "repo_read" && r.has(|s| matches!(s, Socket::Tcp(_))) == 1);
    assert_eq!(sends.count(), 1, "{table}");
}
