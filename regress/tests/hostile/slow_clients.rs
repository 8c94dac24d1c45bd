//! Clients that are slow: each is ended after the time that gotd.conf gives it, with a line that
//! names the directive.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use regress::raw::{Connection, End, Session, readable};
use regress::run::wait_until;
use regress::site::present_user;
use regress::{Daemon, Site, history, pkt};

/// A daemon that gives nobody more than two seconds.
fn start() -> (Site, Daemon, String) {
    let site = Site::new();
    let original = history::bulky(&site, "bulk.git", 3);
    let tip = history::tip(&site, &original);
    let daemon = site.start_with(&format!(
        "{}connection {{\n\tlimit per user 32\n\tfirst request timeout 2\n\tidle timeout 2\n\trequest timeout 2\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        present_user()
    ));
    (site, daemon, tip)
}

/// The connection ends by itself, not at once and not late, with these words for the client.
#[track_caller]
fn assert_ended(client: &Connection, start: Instant, words: &str) {
    let end = client.end(12);
    assert!(matches!(&end, End::Exit(1, text) if text.contains(words)), "{words}: {end:?}");
    let took = start.elapsed();
    assert!(took > Duration::from_millis(800) && took < Duration::from_secs(9), "{took:?}");
}

/// After that: nothing of it is left, and the next client is served.
fn assert_over(site: &Site, mut daemon: Daemon) {
    assert!(
        wait_until(12.0, || daemon.role("repo_read").is_empty()),
        "repository processes stay: {:?}",
        daemon.processes()
    );
    daemon.assert_serves();
    site.git(["ls-remote", "gotd:bulk.git"]).good();
}

#[test]
fn nothing_after_the_advertisement() {
    let (site, daemon, _) = start();
    for protocol in [0, 2] {
        let start = Instant::now();
        let mut client = Session::fetch(&site.socket(), "bulk.git", protocol);
        client.read_to_flush();
        assert_ended(&client.connection, start, "(connection ");
    }
    assert_over(&site, daemon);
}

#[test]
fn half_a_request() {
    let (site, daemon, tip) = start();
    for protocol in [0, 2] {
        let request = match protocol {
            0 => pkt::line(format!("want {tip}\n")),
            _ => pkt::v2("fetch", [format!("want {tip}\n")]),
        };
        for length in [2, 20, request.len() - 1] {
            let start = Instant::now();
            let mut client = Session::fetch(&site.socket(), "bulk.git", protocol);
            client.read_to_flush();
            client.write(&request[..length]);
            assert_ended(&client.connection, start, "(connection ");
        }
    }
    assert_over(&site, daemon);
}

/// Sends a request a byte at a time, until the server has had enough of it.
fn spin_out(client: &mut Session, request: &[u8], start: Instant) {
    for byte in request {
        if start.elapsed() > Duration::from_secs(8) || !client.write(&[*byte]) {
            break;
        }
        std::thread::sleep(Duration::from_millis(300));
        if readable(client.connection.fd.as_fd(), Instant::now()) {
            break;
        }
    }
}

/// A byte a moment is progress, but the whole of a request has one time.
#[test]
fn a_byte_at_a_time() {
    let (site, daemon, tip) = start();
    let start = Instant::now();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
    client.read_to_flush();
    spin_out(&mut client, &pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()]), start);
    assert_ended(&client.connection, start, "(connection ");
    assert_over(&site, daemon);
}

/// The second request of a connection may not be spun out either.
#[test]
fn a_byte_at_a_time_in_a_later_request() {
    let (site, daemon, _) = start();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
    client.read_to_flush();
    assert!(client.write(&pkt::v2("ls-refs", ["peel\n"])));
    client.read_to_flush();
    let start = Instant::now();
    spin_out(&mut client, &pkt::v2("ls-refs", [format!("ref-prefix {}\n", "x".repeat(500))]), start);
    assert_ended(&client.connection, start, "(connection ");
    assert_over(&site, daemon);
}

#[test]
fn never_reading_the_pack() {
    let (site, daemon, tip) = start();
    for protocol in [0, 2] {
        let start = Instant::now();
        let mut client = Session::fetch(&site.socket(), "bulk.git", protocol);
        client.read_to_flush();
        match protocol {
            0 => client.write(&[pkt::lines([format!("want {tip}\n")]), pkt::line("done\n")].concat()),
            _ => client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])),
        };
        let end = client.connection.end(15);
        assert!(matches!(&end, End::Exit(1, text) if !text.is_empty()), "{end:?}");
        assert!(start.elapsed() < Duration::from_secs(12), "{:?}", start.elapsed());
    }
    daemon.logged(&["result=failed", "slow"]);
    assert_over(&site, daemon);
}

/// A client that takes some hundred bytes a second for ever is below the minimum rate.
#[test]
fn reading_the_pack_drop_by_drop() {
    let (site, daemon, tip) = start();
    let start = Instant::now();
    let mut client = Session::fetch(&site.socket(), "bulk.git", 2);
    client.read_to_flush();
    client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()]));
    let mut buffer = [0; 20];
    let mut ended = false;
    while !ended && start.elapsed() < Duration::from_secs(12) {
        let _ = std::io::Read::read(&mut client.from, &mut buffer);
        std::thread::sleep(Duration::from_millis(100));
        ended = regress::raw::readable(std::os::fd::AsFd::as_fd(&client.connection.fd), Instant::now());
    }
    let end = client.connection.end(1);
    assert!(matches!(&end, End::Exit(1, text) if !text.is_empty()), "{end:?}");
    assert_over(&site, daemon);
}

/// After a complete answer a client may stay for the idle time; its end is then no failure.
#[test]
fn never_closing_after_the_pack() {
    let (site, daemon, tip) = start();
    for protocol in [0, 2] {
        let mut client = Session::fetch(&site.socket(), "bulk.git", protocol);
        client.read_to_flush();
        let request = match protocol {
            0 => [pkt::lines([format!("want {tip} side-band-64k\n")]), pkt::line("done\n")].concat(),
            _ => pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()]),
        };
        assert!(client.write(&request));
        let start = Instant::now();
        let answer = client.read_to_end(15);
        assert!(answer.len() > 3 << 20, "{}", answer.len());
        assert_eq!(client.connection.end(10), End::Exit(0, String::new()), "protocol {protocol}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    daemon.logged(&["result=ok", "repository=bulk.git"]);
    assert_over(&site, daemon);
}
