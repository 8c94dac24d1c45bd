//! First packets as all clients write them: gotd serves what git-daemon serves, in the same version
//! of the protocol.

use std::net::SocketAddr;

use regress::clients::python;
use regress::compare::objects;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt, run};

/// A daemon that serves everything to everybody.
fn start() -> (Site, Daemon, SocketAddr) {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::repository(&site, "demo.git", 5, "sha1");
    let room = "\tlimit per address 200\n\trate per address 2000\n\tlimit git total 200";
    let daemon = site.start_with(&site.serve_strangers(address, room, ""));
    (site, daemon, address)
}

/// The version of the protocol in which an answer is; `None` for a refusal or none.
fn version(answer: &[u8]) -> Option<u8> {
    let text = String::from_utf8_lossy(answer.get(4..).unwrap_or_default()).into_owned();
    match text {
        text if text.starts_with("version 2\n") => Some(2),
        text if text.starts_with("version 1\n") => Some(1),
        text if text.contains(" HEAD\0") => Some(0),
        _ => None,
    }
}

/// What `git daemon` says to this request.
fn git_daemon(site: &Site, payload: &[u8]) -> Option<u8> {
    let mut command = site.command("git");
    command.args(["daemon", "--inetd", "--export-all"]);
    command.arg(format!("--base-path={}", site.path("repositories").display()));
    version(&run(&mut command, &[pkt::line(payload), b"0000".to_vec()].concat(), 20).out)
}

/// What gotd says to it.
fn ours(address: SocketAddr, payload: &[u8]) -> Option<u8> {
    let mut client = Client::open(address);
    assert!(client.write(&[pkt::line(payload), b"0000".to_vec()].concat()));
    client.stream.shutdown(std::net::Shutdown::Write).expect("the connection is there");
    let end = client.end(20.0);
    assert!(end.is_over(), "{payload:?}: {end:?}");
    version(end.text().as_bytes())
}

/// Requests as clients wrote them on the wire, with the version in which they are answered.
#[test]
fn requests_of_every_client() {
    let (site, daemon, address) = start();
    let requests: [(&str, &[u8], u8); 14] = [
        ("git 2.17 and older", b"git-upload-pack /demo.git\0host=localhost\0", 0),
        ("git", b"git-upload-pack /demo.git\0host=localhost:9418\0\0version=2\0", 2),
        ("git, protocol.version=1", b"git-upload-pack /demo.git\0host=localhost:9418\0\0version=1\0", 1),
        ("dulwich 0.21", b"git-upload-pack /demo.git\0host=localhost\0", 0),
        ("dulwich 0.22", b"git-upload-pack /demo.git\0host=localhost\0\0version=2\0\0", 2),
        ("go-git", b"git-upload-pack /demo.git\0host=localhost:9418\0", 0),
        ("go-git, with a version", b"git-upload-pack /demo.git\0host=localhost:9418\0\0version=2\0", 2),
        ("go-git, without a host", b"git-upload-pack /demo.git\0\0version=2\0", 2),
        ("JGit", b"git-upload-pack /demo.git\0host=localhost:9418\0\0version=2\0", 2),
        ("libgit2", b"git-upload-pack /demo.git\0host=localhost\0", 0),
        ("gitoxide", b"git-upload-pack /demo.git\0host=localhost:9418\0\0version=2\0", 2),
        ("gitoxide, without a host", b"git-upload-pack /demo.git\0\0version=2\0", 2),
        ("gitoxide, with more keys", b"git-upload-pack /demo.git\0host=h\0\0version=2\0key=value\0flag\0", 2),
        ("a script that ends no field", b"git-upload-pack /demo.git\0host=h\0\0version=2", 2),
    ];
    for (client, payload, expected) in requests {
        assert_eq!(ours(address, payload), Some(expected), "{client}: {:?}", daemon.log());
        assert_eq!(git_daemon(&site, payload), Some(expected), "{client}: git daemon");
    }
}

/// All ways to put fields behind the path: up to three of them, and some longer ones.
#[test]
fn fields_behind_the_path_are_read_as_git_daemon_reads_them() {
    let (site, _daemon, address) = start();
    let fields: [&str; 6] = ["", "host=h", "HOST=h:9418", "version=1", "version=2", "key"];
    let mut requests: Vec<Vec<usize>> = vec![vec![]];
    let mut longest = requests.clone();
    for _ in 0..3 {
        longest = longest
            .iter()
            .flat_map(|before| (0..fields.len()).map(|field| [before.as_slice(), &[field]].concat()))
            .collect();
        requests.extend(longest.iter().cloned());
    }
    // Longer ones, from a small generator: every run asks the same.
    let mut seed = 7_usize;
    for length in (4..9).flat_map(|length| std::iter::repeat_n(length, 12)) {
        let next = |_| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % fields.len()
        };
        let rest: Vec<usize> = (0..length).map(next).collect();
        // A good beginning, else nearly all are refused for it.
        requests.push([&[1, 0], rest.as_slice()].concat());
    }
    let mut served = 0;
    for request in &requests {
        let joined: Vec<&str> = request.iter().map(|&field| fields[field]).collect();
        for end in ["", "\0"] {
            let behind = if joined.is_empty() { String::new() } else { format!("\0{}", joined.join("\0")) };
            let payload = format!("git-upload-pack /demo.git{behind}{end}");
            let (ours, theirs) = (ours(address, payload.as_bytes()), git_daemon(&site, payload.as_bytes()));
            assert_eq!(ours, theirs, "{payload:?}");
            served += u32::from(ours.is_some());
        }
    }
    assert!(served > 150, "only {served} of {} were served", 2 * requests.len());
}

/// dulwich as it is here, in each version of the protocol. (The packaged one may be older than the
/// newest: see `REGRESS_PYTHON`.)
#[test]
fn dulwich_is_served_in_the_version_it_asks_for() {
    let Some(python) = python("dulwich") else { return };
    let (site, _daemon, address) = start();
    let script = "\
import inspect, sys
from dulwich import client, repo
url, path = sys.argv[1:3]
for version in (None, 0, 2):
    more = {} if version is None else {'protocol_version': version}
    c, name = client.get_transport_and_path(url)
    if more and 'protocol_version' not in inspect.signature(c.fetch).parameters:
        continue
    r = repo.Repo.init_bare(path + str(version), mkdir=True)
    assert all(value in r for value in c.fetch(name, r, **more).refs.values())
    print(len(set(r.object_store)))
";
    let clone = site.clone_path("dulwich");
    let mut command = site.command(python);
    command.args(["-c", script, &format!("git://{address}/demo.git")]).arg(&clone);
    // The packaged one cannot be asked for a version.
    let counts = run(&mut command, b"", 60).good().text();
    let expected = objects(&site, &site.repository("demo.git")).len().to_string();
    assert!(!counts.is_empty() && counts.lines().all(|count| count == expected), "{counts}: {expected}");
}
