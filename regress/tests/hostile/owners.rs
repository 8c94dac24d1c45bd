//! Every moment of a conversation has an owner: the client thinks, the client sends, the server
//! works, the client takes. Only its owner can be too slow. git computes for minutes before the
//! first byte of a large pack, and a server needs longer for some packs than a window of the minimum
//! rate lasts: both were ended as "transfer is too slow".

use std::time::{Duration, Instant};

use libgit::{HashKind, ObjectKind};
use librepo::receive::testpack::{TestDelta, TestPack, commit, tree};
use regress::raw::{Connection, End, Session, push_request};
use regress::run::wait_until;
use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt};

/// A daemon with these lines about connections; the repository `r.git` may be pushed to.
fn start(lines: &str) -> (Site, Daemon, String) {
    start_with(lines, "")
}

/// The same with more directives.
fn start_with(lines: &str, more: &str) -> (Site, Daemon, String) {
    let site = Site::new();
    let repository = history::repository(&site, "r.git", 10, "sha1");
    let tip = history::tip(&site, &repository);
    let configuration = format!(
        "{}{more}connection {{\n{lines}\n}}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{}\"\n\tpermit ro anonymous\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    );
    let daemon = site.start_with(&configuration);
    (site, daemon, tip)
}

/// The commands of a push that makes the branch `new` at `tip`.
fn commands(tip: &str) -> Vec<u8> {
    let line = format!("{} {tip} refs/heads/new\0report-status", "0".repeat(40));
    [pkt::line(line), pkt::FLUSH.to_vec()].concat()
}

fn push(site: &Site) -> Session {
    let connection = Connection::open(&site.socket());
    connection.greet();
    Session::ask(connection, &push_request("r.git"))
}

/// Bytes that do not deflate.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A client counts and compresses for longer than the window of the minimum rate. Meanwhile no turn
/// is held for it: its `verify` waits and has opened nothing, and another one pushes, though one
/// pack is worked on at a time.
#[test]
fn a_client_thinks_before_its_pack() {
    let (site, daemon, _) = start_with("\tminimum rate 4K\n\trate window 5s", "limit pushes total 1\n");
    let work = site.work_tree(&site.repository("r.git"));
    site.commit(&work, "meanwhile", "by another");
    let mut pack = TestPack::new(HashKind::Sha1);
    let (blob, _) = pack.object(ObjectKind::Blob, b"thought about\n");
    let (root, _) = pack.object(ObjectKind::Tree, &tree(&[("100644", b"f", blob)]));
    let (tip, _) = pack.object(ObjectKind::Commit, &commit(&root, &[], 1_000_000_000));
    let mut client = push(&site);
    client.read_to_flush();
    assert!(client.write(&commands(&tip.to_string())));
    let until = Instant::now() + Duration::from_secs(8);
    site.push(&work, &["-q", "gotd:r.git", "HEAD:refs/heads/meanwhile"]).good();
    let waiting = daemon.role("verify");
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
    assert_eq!(daemon.role("verify"), waiting);
    assert!(client.write(&pack.finish()));
    let said = client.read_to_end(20);
    assert!(
        String::from_utf8_lossy(&said).contains("ok refs/heads/new"),
        "{}",
        String::from_utf8_lossy(&said)
    );
    assert_eq!(client.connection.end(5), End::Exit(0, String::new()));
}

/// A pack that is here as a whole takes the server longer than the window: C git takes it.
#[test]
fn the_servers_work_is_not_the_clients_time() {
    const SIZE: u32 = 8 << 20;
    let (site, daemon, _) = start("\tminimum rate 4K\n\trate window 5s");
    let mut pack = TestPack::new(HashKind::Sha1);
    let (_, base) = pack.object(ObjectKind::Blob, &noise(SIZE as usize));
    for n in 0..250_u32 {
        let delta = TestDelta::new(SIZE.into(), u64::from(SIZE) + 4);
        let delta = delta.insert(&n.to_be_bytes()).copy(0, SIZE);
        pack.ofs_delta(base, &delta.bytes());
    }
    let (root, _) = pack.object(ObjectKind::Tree, b"");
    let (tip, _) = pack.object(ObjectKind::Commit, &commit(&root, &[], 1_000_000_000));
    let input = [commands(&tip.to_string()), pack.finish()].concat();
    let begun = Instant::now();
    for mut server in [site.gotsh("git-receive-pack 'r.git'"), {
        let bare = site.path("c-git.git");
        history::init(&site, &bare, "--object-format=sha1");
        let mut git = site.command("git");
        git.arg("receive-pack").arg(bare);
        git
    }] {
        let done = regress::run(&mut server, &input, 120);
        let said = String::from_utf8_lossy(&done.out);
        assert!(said.contains("ok refs/heads/new"), "{said}\n{}\n{}", done.err, daemon.log());
    }
    println!("both servers together: {} ms", begun.elapsed().as_millis());
}

/// A client that sends its pack, and stops in the middle of it, is too slow.
#[test]
fn a_client_that_stops_sending_is_too_slow() {
    let (site, daemon, _) = start("\tminimum rate 4K\n\trate window 5s");
    let mut pack = TestPack::new(HashKind::Sha1);
    pack.object(ObjectKind::Blob, &noise(1 << 16));
    let pack = pack.finish();
    let mut client = push(&site);
    client.read_to_flush();
    assert!(client.write(&commands(&"1".repeat(40))));
    assert!(client.write(&pack[..40_000]));
    let said = client.read_to_end(30);
    assert!(String::from_utf8_lossy(&said).contains("too slow"), "{}", String::from_utf8_lossy(&said));
    daemon.logged(&["too slow (connection minimum rate)"]);
}

/// Between the references and its wants a client chooses: in every version it has the idle timeout,
/// not the time for a first request.
#[test]
fn a_client_thinks_between_references_and_wants() {
    let (site, _daemon, tip) = start("\tfirst request timeout 2");
    for protocol in [0, 1, 2] {
        let mut client = Session::fetch(&site.socket(), "r.git", protocol);
        client.read_to_flush();
        std::thread::sleep(Duration::from_secs(4));
        let request = match protocol {
            2 => pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()]),
            _ => [pkt::lines([format!("want {tip}\n")]), pkt::line("done\n")].concat(),
        };
        assert!(client.write(&request));
        client.close();
        let said = client.read_to_end(20);
        assert!(said.windows(4).any(|four| four == b"PACK"), "version {protocol}");
    }
}

/// When all places are taken, the client that has been silent for longest gives way to one that
/// waits, and a client that goes on in time does not.
#[test]
fn a_silent_user_gives_way() {
    let (site, daemon, tip) =
        start("\tlimit total 2\n\tlimit per user 10\n\tidle timeout 8\n\tqueue timeout 20s");
    let silent = || {
        let mut client = Session::fetch(&site.socket(), "r.git", 2);
        client.read_to_flush();
        client
    };
    let first = silent();
    std::thread::sleep(Duration::from_millis(1500));
    let mut second = silent();
    let begun = Instant::now();
    let mut third = silent();
    let waited = begun.elapsed();
    let words = "silent for long, and gave way to another client (connection limit total)";
    assert_eq!(first.connection.end(5), End::Exit(1, words.into()));
    assert!(waited < Duration::from_secs(7), "{waited:?}: before the idle timeout");
    daemon.logged(&["session", "result=failed", words]);
    daemon.assert_reached("connection limit total", 1);
    assert_eq!(daemon.reached("connection limit total"), 1);
    for client in [&mut second, &mut third] {
        assert!(client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])));
        client.close();
        assert!(client.read_to_end(20).windows(4).any(|four| four == b"PACK"));
    }
}

/// The same over git://, where a stranger gives way to another one, and to a user.
#[test]
fn a_silent_stranger_gives_way() {
    let address = tcp::free_v4();
    let site = Site::new();
    history::repository(&site, "r.git", 10, "sha1");
    let daemon = site.start_with(&format!(
        "{}{}connection {{\n\tlimit git total 2\n\tlimit total 3\n\tidle timeout anonymous 6\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        present_user()
    ));
    let silent = |last: u8| {
        let mut client = Client::open_from(address, std::net::Ipv4Addr::new(127, 0, 0, last));
        assert!(client.write(&tcp::request("/r.git", 2)));
        client.read_to_flush();
        client
    };
    let mut first = silent(2);
    std::thread::sleep(Duration::from_millis(1500));
    let mut second = silent(3);
    // Longer than half the idle timeout: the first is silent for long by then.
    std::thread::sleep(Duration::from_millis(2700));
    let _third = silent(4);
    assert!(first.end(5.0).text().contains("gave way to another address (connection limit git total)"));
    // A user fills the last place, and another one needs a stranger's.
    let mut users: Vec<Session> = Vec::new();
    for _ in 0..2 {
        let mut user = Session::fetch(&site.socket(), "r.git", 2);
        assert!(!user.read_to_flush().is_empty(), "{}", daemon.log());
        users.push(user);
    }
    assert!(second.end(5.0).text().contains("gave way to another client (connection limit total)"));
    assert!(wait_until(5.0, || daemon.reached("connection limit total") == 1));
}
