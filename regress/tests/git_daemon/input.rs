//! Bad input over git://: first packets of every wrong kind, clients that are slow, silent or gone.
//! Each loses its own connection, quickly, and the next client is served.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use regress::run::wait_until;
use regress::tcp::{self, Client, End};
use regress::{Daemon, Site, history, pkt};

/// A daemon that serves everything to everybody, with short times.
fn start(more: &str) -> (Site, Daemon, SocketAddr) {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 3);
    let room = "\tlimit per address 200\n\trate per address 2000\n\tlimit git total 200";
    let daemon = site.start_with(&site.serve_strangers(address, room, more));
    (site, daemon, address)
}

/// The daemon lives, nothing of the bad client is left, and the next one is served.
fn assert_fine(site: &Site, daemon: &mut Daemon, address: SocketAddr) {
    assert!(wait_until(12.0, || daemon.role("repo_read").is_empty()), "{:?}", daemon.processes());
    daemon.assert_serves();
    site.git(["ls-remote", &format!("git://{address}/bulk.git")]).good();
}

fn framed(payload: &[u8]) -> Vec<u8> {
    pkt::line(payload)
}

#[test]
fn first_packets_of_every_wrong_kind() {
    let (site, mut daemon, address) = start("");
    let long = |bytes: usize| [b"git-upload-pack /".to_vec(), vec![b'a'; bytes], b"\0".to_vec()].concat();
    let mut wrong: Vec<Vec<u8>> = [
        &b"git-upload-archive /bulk.git\0host=h\0"[..],
        b"git-receive-pack /bulk.git\0host=h\0",
        b"upload-pack /bulk.git\0",
        b"git-upload-pack\0",
        b"git-upload-pack ",
        b"git-upload-pack bulk.git\0",
        b"git-upload-pack /bulk.git\0argument=1\0",
        b"git-upload-pack /bulk.git\0host=h\0other\0",
        b"git-upload-pack /bulk.git\0host=h\0version=2\0",
        b"git-upload-pack /bulk.git\0version=2\0",
        b"git-upload-pack /bulk.git\0host=a b\0",
        b"git-upload-pack /bulk.git\0host=../../etc/passwd\0",
        b"git-upload-pack /bulk.git\0host=$(id)\0",
        b"git-upload-pack /bulk.git\0host=\x1b[2J\0",
        b"git-upload-pack /bulk\x1b[2J.git\0",
        b"git-upload-pack /bulk\x7f.git\0",
        b"git-upload-pack /bulk\n.git\0",
        b"git-upload-pack /../bulk.git\0",
        b"git-upload-pack /x/../bulk.git\0",
        b"git-upload-pack //bulk.git\0",
        b"git-upload-pack /x//bulk.git\0",
        b"git-upload-pack /./bulk.git\0",
        b"git-upload-pack /bulk.git/.\0",
        b"git-upload-pack /bulk.git/..\0",
        b"git-upload-pack /--help\0",
        b"git-upload-pack /\0",
        b"\0\0\0\0",
    ]
    .into_iter()
    .map(framed)
    .collect();
    wrong.push(framed(&long(3000)));
    wrong.push(framed(&long(65_000)));
    wrong.push(framed(&[b"git-upload-pack /bulk.git\0host=h\0\0".to_vec(), b"k=v\0".repeat(500)].concat()));
    wrong.push(framed(format!("git-upload-pack /bulk.git\0host={}\0", "h".repeat(2000)).as_bytes()));
    for raw in [
        &b"0000"[..],
        b"0001",
        b"0002",
        b"0003",
        b"0004",
        b"fff1git-upload-pack /bulk.git\0",
        b"ffffgit-upload-pack /bulk.git\0",
        b"00-1git-upload-pack /bulk.git\0",
        b" 021git-upload-pack /bulk.git\0",
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        wrong.push(raw.to_vec());
    }
    for bytes in &wrong {
        let start = Instant::now();
        let mut client = Client::open(address);
        // What is too long is refused before its end.
        let _ = client.write(bytes);
        let end = client.end(8.0);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert!(end.is_over(), "{shown:?}: {end:?}");
        assert!(!end.text().contains("refs/heads"), "{shown:?}: was served");
        assert!(end.text().is_empty() || end.text()[4..].starts_with("ERR "), "{shown:?}: {end:?}");
        assert!(!end.text().contains('\u{1b}'), "{shown:?}: {end:?}");
        assert!(start.elapsed() < Duration::from_secs(5), "{shown:?}: {:?}", start.elapsed());
    }
    assert!(!daemon.log().contains('\u{1b}'));
    assert_fine(&site, &mut daemon, address);
}

/// A length that promises more than comes: the connection ends with the client's end.
#[test]
fn a_packet_that_breaks_off() {
    let (site, mut daemon, address) = start("");
    let whole = tcp::request("/bulk.git", 2);
    for length in [1, 3, 4, 5, whole.len() - 1] {
        let mut client = Client::open(address);
        assert!(client.write(&whole[..length]));
        client.stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
        let end = client.end(8.0);
        assert!(end.is_over() && end.text().contains("ERR"), "{length}: {end:?}");
    }
    assert_fine(&site, &mut daemon, address);
}

#[test]
fn silence_ends_and_costs_no_session() {
    let (site, mut daemon, address) = start("connection first request timeout 2\n");
    let start = Instant::now();
    let mut silent: Vec<Client> = (0..20).map(|_| Client::open(address)).collect();
    assert_fine(&site, &mut daemon, address);
    for client in &mut silent {
        let end = client.end(8.0);
        assert!(end.is_over(), "{end:?}");
    }
    assert!(start.elapsed() > Duration::from_millis(1500), "{:?}", start.elapsed());
    let line = daemon.logged(&["refused", "first request timeout"]);
    assert!(line.contains("address=127.0.0.1"), "{line}");
    assert!(!daemon.log().contains("said nothing"), "a session was used:\n{}", daemon.log());
}

#[test]
fn who_connects_and_leaves_costs_no_session() {
    let (site, mut daemon, address) = start("");
    for _ in 0..30 {
        drop(Client::open(address));
    }
    daemon.logged(&["refused", "left without a word"]);
    assert!(!daemon.log().contains("said nothing"), "{}", daemon.log());
    assert_fine(&site, &mut daemon, address);
}

/// A byte a moment is progress, but the whole of a request has one time.
#[test]
fn a_byte_at_a_time() {
    let (site, mut daemon, address) = start("connection first request timeout 2\n");
    let start = Instant::now();
    let mut client = Client::open(address);
    let mut ended = false;
    for byte in tcp::request("/bulk.git", 2) {
        if !client.write(&[byte]) || client.end(0.25).is_over() {
            ended = true;
            break;
        }
    }
    assert!(ended && start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    daemon.logged(&["no request within 2 seconds"]);
    assert_fine(&site, &mut daemon, address);
}

#[test]
fn nothing_after_the_advertisement() {
    let (site, mut daemon, address) = start("connection {\n\tfirst request timeout 2\n\tidle timeout 2\n}\n");
    for protocol in [0, 1, 2] {
        let mut client = Client::open(address);
        assert!(client.write(&tcp::request("/bulk.git", protocol)));
        client.read_to_flush();
        assert!(client.end(8.0).is_over(), "{protocol}");
    }
    assert_fine(&site, &mut daemon, address);
}

/// A client that asks for a pack and never reads it.
#[test]
fn a_client_that_never_reads() {
    let (site, mut daemon, address) = start("connection request timeout 2\n");
    // More than the kernel keeps of the pack for it.
    let tip = history::tip(&site, &history::bulky(&site, "huge.git", 24));
    site.hand_over();
    let mut client = Client::open(address);
    nix::sys::socket::setsockopt(&client.stream, nix::sys::socket::sockopt::RcvBuf, &4096).expect("sets");
    assert!(client.write(&tcp::request("/huge.git", 2)));
    client.read_to_flush();
    assert!(client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])));
    daemon.logged(&["result=", "too slow"]);
    assert_fine(&site, &mut daemon, address);
    drop(client);
}

/// A client that resets its connection at any point ends its own session and nothing else.
#[test]
fn a_client_that_resets() {
    let (site, mut daemon, address) = start("");
    let tip = history::tip(&site, &site.repository("bulk.git"));
    let reset = |client: Client| {
        let now = libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&client.stream, nix::sys::socket::sockopt::Linger, &now).expect("sets");
    };
    let request = tcp::request("/bulk.git", 2);
    for length in [0, 2, request.len()] {
        let mut client = Client::open(address);
        assert!(client.write(&request[..length]));
        reset(client);
    }
    let mut client = Client::open(address);
    assert!(client.write(&request));
    client.read_to_flush();
    assert!(client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])));
    assert!(client.read_exactly(50_000).is_some());
    reset(client);
    assert_fine(&site, &mut daemon, address);
}

/// What the clients of ssh may send wrongly is no better over TCP.
#[test]
fn bad_requests_later_on() {
    let (site, mut daemon, address) = start("");
    for bytes in [
        &b"zzzz"[..],
        b"0004",
        b"0002",
        b"0013command=nothing0000",
        b"fff5",
        b"0014command=ls-refs\n0001000adead\n0000",
    ] {
        let mut client = Client::open(address);
        assert!(client.write(&tcp::request("/bulk.git", 2)));
        client.read_to_flush();
        let _ = client.write(bytes);
        client.stream.shutdown(std::net::Shutdown::Write).expect("shuts down");
        let end = client.end(8.0);
        assert!(end.is_over() && end.text().contains("ERR "), "{bytes:?}: {end:?}");
    }
    assert_fine(&site, &mut daemon, address);
}

/// One address has so many places and no more; who is refused is told by which line of the
/// configuration.
#[test]
fn an_address_has_so_many_places() {
    let site = Site::new();
    let address = tcp::free_v4();
    history::bulky(&site, "bulk.git", 3);
    let daemon = site.start_with(&format!(
        "{}{}connection {{\n\tlimit per address 3\n\trate per address 100\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
    ));
    let kept: Vec<Client> = (0..3).map(|_| Client::open(address)).collect();
    let mut one_more = Client::open(address);
    let end = one_more.end(5.0);
    assert!(end.is_over() && end.text().contains("limit per address"), "{end:?}");
    daemon.logged(&["refused", "limit per address", "address=127.0.0.1"]);
    // Another address is another stranger.
    let mut other = Client::open_from(address, "127.0.0.2".parse().expect("an address"));
    assert!(other.write(&tcp::request("/bulk.git", 2)));
    assert!(String::from_utf8_lossy(&other.read_to_flush()).contains("version 2"));
    drop(kept);
    assert!(wait_until(5.0, || {
        let mut client = Client::open(address);
        client.write(&tcp::request("/bulk.git", 2)) && client.read_exactly(4).is_some()
    }));
}

/// When all places are taken by silent ones, whoever speaks gets one.
#[test]
fn silent_ones_give_way() {
    let site = Site::new();
    let address = tcp::free_v4();
    history::bulky(&site, "bulk.git", 3);
    let daemon = site.start_with(&format!(
        "{}{}connection {{\n\tlimit git total 8\n\tlimit per address 16\n\trate per address 1000\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
    ));
    let mut silent: Vec<Client> =
        (0..8).map(|_| Client::open_from(address, "127.0.0.66".parse().expect("an address"))).collect();
    site.git(["clone", "-q", &format!("git://{address}/bulk.git"), &site.clone_path("c").to_string_lossy()])
        .good();
    daemon.logged(&["refused", "gave way", "address=127.0.0.66"]);
    // The one that has been silent longest went.
    assert!(silent[0].end(2.0).is_over());
    assert!(matches!(silent[7].end(0.2), End::Open(_)));
}

/// A daemon with so few places that two addresses can take them all.
fn eight_places() -> (Site, Daemon, SocketAddr) {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 3);
    let daemon = site.start_with(&format!(
        "{}{}connection {{\n\tlimit git total 8\n\tlimit per address 4\n\trate per address 100\n\t\
         first request timeout 5m\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        regress::site::present_user(),
    ));
    (site, daemon, address)
}

/// Connections from two addresses, four each.
fn eight(address: SocketAddr) -> Vec<Client> {
    let from = |n: u8| std::net::Ipv4Addr::new(127, 0, 66, n / 4 + 1);
    (0..8).map(|n| Client::open_from(address, from(n))).collect()
}

/// One byte takes a session from those that wait, but it is no request, and keeps no place from
/// whoever comes with a whole one.
#[test]
fn the_beginning_of_a_request_keeps_no_place() {
    let (site, mut daemon, address) = eight_places();
    let mut all = eight(address);
    for client in &mut all {
        assert!(client.write(b"0"));
    }
    let served = || daemon.metric("gotd_git_connections{state=\"served\"}") == 8;
    assert!(wait_until(10.0, served), "{}", daemon.log());
    site.git(["ls-remote", &format!("git://{address}/bulk.git")]).good();
    daemon.logged(&["refused", "gave way", "address=127.0.66."]);
    let ended: Vec<String> =
        all.iter_mut().map(|client| client.end(0.3)).filter(End::is_over).map(|end| end.text()).collect();
    assert!(
        !ended.is_empty() && ended.iter().all(|text| text.contains("ERR too many connections (gave way"))
    );
    drop(all);
    assert_fine(&site, &mut daemon, address);
}

/// Who has been told what there is and then says nothing loses the place to whoever comes, long
/// before the time for idle clients is over. Who asks on, however little, is never ended.
#[test]
fn idle_ones_give_way() {
    let (site, mut daemon, address) = eight_places();
    let mut all = eight(address);
    for client in &mut all {
        assert!(client.write(&tcp::request("/bulk.git", 2)));
        client.read_to_flush();
    }
    let mut busy = all.remove(0);
    let mut ask = || {
        assert!(busy.write(&pkt::v2("ls-refs", ["peel\n"])));
        assert!(String::from_utf8_lossy(&busy.read_to_flush()).contains("refs/heads/main"));
    };
    let start = Instant::now();
    let got_in = || {
        ask();
        site.git(["ls-remote", &format!("git://{address}/bulk.git")]).status == 0
    };
    assert!(wait_until(40.0, got_in), "{}", daemon.log());
    assert!(start.elapsed() > Duration::from_secs(8), "{:?}", start.elapsed());
    // As many newcomers as there are idle ones.
    let newcomer = |n: u8| Client::open_from(address, std::net::Ipv4Addr::new(127, 0, 67, n));
    let newcomers: Vec<Client> = (1..8).map(newcomer).collect();
    assert!(
        wait_until(10.0, || all.iter_mut().filter_map(|c| c.end(0.05).is_over().then_some(())).count() >= 5)
    );
    ask();
    drop((newcomers, all, busy));
    assert_fine(&site, &mut daemon, address);
}
