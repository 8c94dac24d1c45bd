//! What is asked before a pack is granted costs processor time, and had no limit: 144 bytes made
//! the server walk over all history, and one connection could send them a hundred thousand times,
//! from every address anew. Now a connection has so much and its client has so much in ten minutes;
//! what was granted, and pushes, go on, and nobody else notices.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use regress::run::wait_until;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt};

struct Place {
    site: Site,
    daemon: Daemon,
    address: SocketAddr,
    repository: PathBuf,
    tip: String,
}

fn start(limits: &str) -> Place {
    let (site, address) = (Site::new(), tcp::free_v4());
    let repository = history::repository(&site, "r.git", 12, "sha1");
    history::grow(&site, &repository, 2000, 100);
    let tip = history::tip(&site, &repository);
    let room = "\tlimit per user 64\n\tlimit per address 64\n\trate per address 200";
    let daemon = site.start_with(&site.serve_strangers(address, room, limits));
    Place { site, daemon, address, repository, tip }
}

const REQUESTS: usize = 100_000;

impl Place {
    /// Begins a negotiation again and again, and never asks for the pack; returns the error and how
    /// many were answered.
    fn burn_from(&self, from: Ipv4Addr) -> (Option<String>, usize) {
        let mut client = Client::open_from(self.address, from);
        client.write(&tcp::request("/r.git", 2));
        let to = client.stream.try_clone().expect("a copy");
        client.stream.set_read_timeout(Some(Duration::from_secs(60))).expect("sets a timeout");
        burn(&self.tip, to, &mut client.stream, |to| drop(to.shutdown(Shutdown::Write)))
    }

    /// The same as a user who comes by ssh.
    fn burn_as_user(&self) -> (Option<String>, usize) {
        let gotsh = self.site.gotsh("git-upload-pack 'r.git'");
        let mut command = self.site.command("timeout");
        command.arg("60").arg(gotsh.get_program()).args(gotsh.get_args());
        command.envs(gotsh.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
            .env("GIT_PROTOCOL", "version=2")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("starts");
        let (to, mut from) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
        let end = burn(&self.tip, to, &mut from, |_| {});
        let _ = child.wait();
        end
    }

    fn url(&self) -> String {
        format!("git://127.0.0.1:{}/r.git", self.address.port())
    }
}

fn burn<W: Write + Send>(
    tip: &str,
    mut to: W,
    from: &mut impl Read,
    close: impl FnOnce(&mut W) + Send,
) -> (Option<String>, usize) {
    let request = |n: usize| pkt::v2("fetch", [format!("want {tip}\n"), format!("have {:040x}\n", n + 1)]);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for n in 0..REQUESTS {
                if to.write_all(&request(n)).is_err() {
                    break;
                }
            }
            close(&mut to);
        });
        let mut all = Vec::new();
        let _ = from.read_to_end(&mut all);
        let answered = all.windows(3).filter(|window| window == b"NAK").count();
        (pkt::error(&all), answered)
    })
}

#[test]
fn a_hundred_thousand_requests_on_one_connection_end_with_the_limit() {
    let mut place = start("limit negotiation cpu 1");
    let directive = "limit negotiation cpu";
    for (n, (text, answered)) in
        [place.burn_from(Ipv4Addr::LOCALHOST), place.burn_as_user()].into_iter().enumerate()
    {
        let text = text.unwrap_or_default();
        assert_eq!(text, format!("negotiation: more than 1 seconds of processor time ({directive})"));
        assert!((10..REQUESTS).contains(&answered), "{answered} answered");
        assert!(wait_until(10.0, || place.daemon.reached(directive) > n as u64), "not counted");
    }
    let used = place.daemon.metric("gotd_negotiation_milliseconds_total");
    assert!((1_900..30_000).contains(&used), "{used} ms are counted");
    place.site.git(["clone", "-q", &place.url(), "clones/c"]).good();
    place.daemon.assert_serves();
}

#[test]
fn a_client_that_has_used_its_ten_minutes_is_told_so_and_no_other() {
    let place = start("limit negotiation cpu 1\nlimit negotiation cpu per client 2");
    let (greedy, other) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let per_client = "(limit negotiation cpu per client)";
    let mut told = Vec::new();
    // Two connections' worth; the third has what the clock's grain has left, or nothing.
    for _ in 0..4 {
        told.push(place.burn_from(greedy).0.unwrap_or_default());
    }
    assert!(told[0].contains("(limit negotiation cpu)"), "{told:?}");
    assert!(told[3].contains(per_client) && told[3].contains("in 10 minutes"), "{told:?}");
    let mut refused = Client::open_from(place.address, greedy);
    refused.write(&tcp::request("/r.git", 2));
    assert!(refused.end(20.0).text().contains(per_client));
    let mut served = Client::open_from(place.address, other);
    served.write(&tcp::request("/r.git", 2));
    assert!(String::from_utf8_lossy(&served.read_to_flush()).contains("version 2"));
    place.site.git(["clone", "-q", "gotd:r.git", "clones/user"]).good();
    place.daemon.assert_reached("limit negotiation cpu per client", 2);
}

#[test]
fn pushes_go_on_for_a_user_who_has_negotiated_too_much() {
    let place = start("limit negotiation cpu 1\nlimit negotiation cpu per client 1");
    place.site.git(["clone", "-q", "gotd:r.git", "clones/w"]).good();
    let work = place.site.clone_path("w");
    for _ in 0..2 {
        place.burn_as_user();
    }
    place.site.git(["ls-remote", "gotd:r.git"]).bad("(limit negotiation cpu per client)");
    place.site.commit(&work, "new", "new\n");
    place.site.push(&work, &["-q", "origin", "HEAD:refs/heads/new"]).good();
    assert!(!place.site.git_in(&place.repository, ["rev-parse", "refs/heads/new"]).is_empty());
    // A stranger is somebody else.
    place.site.git(["clone", "-q", &place.url(), "clones/c"]).good();
}

#[test]
fn whoever_hangs_up_pays_all_the_same() {
    let place = &start("limit negotiation cpu 20");
    for _ in 0..3 {
        let mut client = Client::open(place.address);
        client.write(&tcp::request("/r.git", 2));
        let mut to = client.stream.try_clone().expect("a copy");
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let want = format!("want {}\n", place.tip);
                let request = |n| pkt::v2("fetch", [want.clone(), format!("have {n:040x}\n")]);
                (1..REQUESTS).all(|n| to.write_all(&request(n)).is_ok())
            });
            client.read_exactly(100_000).expect("answers");
            client.stream.shutdown(Shutdown::Both).expect("hangs up");
        });
    }
    let used = || place.daemon.metric("gotd_negotiation_milliseconds_total");
    assert!(wait_until(20.0, || used() >= 100), "{} ms are counted", used());
}

#[test]
fn strangers_wait_for_users_where_processors_are_short() {
    let place = start("");
    let nice = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        after.split(' ').nth(16).and_then(|nice| nice.parse::<i32>().ok())
    };
    let all = || {
        let pids = place.daemon.role("repository");
        pids.into_iter().filter_map(nice).collect::<std::collections::BTreeSet<i32>>()
    };
    let own = nice(place.daemon.pid()).unwrap_or(0);
    let expected = std::collections::BTreeSet::from([own, (own + 5).min(19)]);
    assert!(wait_until(20.0, || all() == expected), "{:?}, expected {expected:?}", all());
}
