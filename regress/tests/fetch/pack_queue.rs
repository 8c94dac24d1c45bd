//! Who gets a pack when only so many are made at a time: the others wait, in turns, and hear about
//! it; and a refusal names the limit. A place is held only while something is computed: who holds
//! one here has been stopped in the middle of it.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill as kill_with};
use nix::unistd::Pid;
use regress::compare::assert_mirror;
use regress::raw::{End, Session};
use regress::run::wait_until;
use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Daemon, Done, Setup, Site, Sshd, history, pkt, run};

/// A site with a repository that takes a while, one that does not, users of an account, and
/// strangers.
struct Place {
    site: Site,
    daemon: Daemon,
    address: SocketAddr,
    tip: String,
}

fn start(limits: &str) -> Place {
    let (site, address) = (Site::new(), tcp::free_v4());
    let bulk = history::bulky(&site, "bulk.git", 24);
    history::repository(&site, "small.git", 12, "sha1");
    let tip = history::tip(&site, &bulk);
    let daemon = site.start_with(&format!(
        "{}{}account \"{me}\" {{\n\tuser alice principal alice\n\tuser bob principal bob\n}}\n{limits}\n\
         connection {{\n\tlimit per user 64\n\tlimit per address 64\n\trate per address 200\n}}\n\
         repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro alice\n\tpermit ro bob\n\tpermit ro anonymous\n}}\n",
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display(),
        me = present_user(),
    ));
    for user in ["alice", "bob"] {
        site.ssh_as(user);
    }
    Place { site, daemon, address, tip }
}

impl Place {
    /// git as one of the users.
    fn git(&self, user: &str, arguments: &[&str]) -> std::process::Command {
        let mut command = self.site.command("git");
        command.env("GIT_SSH_COMMAND", self.site.path(&format!("ssh-{user}"))).args(arguments);
        command
    }

    fn clone_of(&self, user: &str, version: u8, url: &str, name: &str) -> Done {
        let path = self.site.clone_path(name).to_string_lossy().into_owned();
        let version = format!("protocol.version={version}");
        let arguments = ["-c", &version, "clone", "--progress", "--mirror", url, &path];
        run(&mut self.git(user, &arguments), b"", 60)
    }

    /// A client whose pack has a place for as long as this lives: the process that makes it is
    /// stopped while it has one.
    fn holder(&self, user: &str) -> Holder {
        let mut client = Session::fetch_as(&self.site.socket(), "bulk.git", 2, user);
        client.read_to_flush();
        let process = Pid::from_raw(self.process_of(user));
        assert!(client.write(&self.request(2, "")));
        let deadline = Instant::now() + Duration::from_secs(20);
        // It leaves its place when nothing was taken for a tenth of a second: it has to be stopped
        // before that.
        while Instant::now() < deadline {
            assert!(client.fill(&mut [0; 70_000], deadline), "ended early: {}", self.daemon.log());
            kill_with(process, Signal::SIGSTOP).expect("stops");
            if self.daemon.metric("gotd_packs_active") == 1 {
                return Holder { client, process };
            }
            kill_with(process, Signal::SIGCONT).expect("goes on");
        }
        panic!("never at work: {}", self.daemon.log())
    }

    /// The repository process of the one session that this user has.
    fn process_of(&self, user: &str) -> i32 {
        let mut found = None;
        wait_until(10.0, || {
            found = sessions_of(self, &format!("/{user}"), "repo_read");
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("{user} has no session: {}", self.daemon.log()))
    }

    /// A client that has asked for a pack and not got it.
    fn waiting(&self, user: &str, version: u8, capabilities: &str) -> Session {
        let before = self.daemon.metric("gotd_packs_waiting");
        let mut client = Session::fetch_as(&self.site.socket(), "bulk.git", version, user);
        client.read_to_flush();
        assert!(client.write(&self.request(version, capabilities)));
        self.assert_waiting(before + 1);
        client
    }

    fn request(&self, version: u8, capabilities: &str) -> Vec<u8> {
        let want = format!("want {}", self.tip);
        match version {
            0 => [pkt::lines([format!("{want} {capabilities}\n")]), pkt::line("done\n")].concat(),
            _ => pkt::v2("fetch", [format!("{want}\n"), "done\n".into()]),
        }
    }

    /// A client of git:// that has asked for a pack.
    fn stranger(&self, from: &str) -> Client {
        let mut client = Client::open_from(self.address, from.parse().expect("an address"));
        nix::sys::socket::setsockopt(&client.stream, nix::sys::socket::sockopt::RcvBuf, &4096).expect("sets");
        assert!(client.write(&tcp::request("/bulk.git", 2)));
        client.read_to_flush();
        assert!(client.write(&self.request(2, "")));
        client
    }

    #[track_caller]
    fn assert_waiting(&self, packs: u64) {
        self.daemon.assert_metric("gotd_packs_waiting", packs);
    }
}

/// A client whose pack has a place.
struct Holder {
    client: Session,
    process: Pid,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.client.close();
        let _ = kill_with(self.process, Signal::SIGCONT);
    }
}

fn url(place: &Place, name: &str) -> String {
    format!("git://{}/{name}", place.address)
}

/// The kernel's word that a child has ended.
fn kill(mut child: Child) {
    child.kill().expect("kills");
    child.wait().expect("is waited for");
}

#[test]
fn clones_of_one_moment_all_end_well_one_after_the_other() {
    let place = start("limit packs total 1");
    let original = place.site.repository("bulk.git");
    for version in [0, 2] {
        let first = place.holder("alice");
        let git_url = url(&place, "bulk.git");
        let clients = [("alice", "gotd:bulk.git"), ("bob", "gotd:bulk.git"), ("", &git_url), ("", &git_url)];
        std::thread::scope(|scope| {
            let place = &place;
            let all: Vec<_> = (0..)
                .zip(clients)
                .map(|(n, (user, url))| {
                    scope.spawn(move || place.clone_of(user, version, url, &format!("v{version}-{n}")))
                })
                .collect();
            place.assert_waiting(4);
            assert_eq!(place.daemon.metric("gotd_packs_active"), 1);
            drop(first);
            for done in all {
                let done = done.join().expect("a clone").good();
                assert!(done.err.contains("remote: waiting for other packs: 1 being made"), "{}", done.err);
                assert!(done.err.contains("(limit packs total)"), "{}", done.err);
            }
        });
        for n in 0..4 {
            assert_mirror(&place.site, &original, &place.site.clone_path(&format!("v{version}-{n}")));
        }
        assert_eq!(place.daemon.metric("gotd_packs_active") + place.daemon.metric("gotd_packs_waiting"), 0);
    }
    place.daemon.logged(&["pack waits", "who=anonymous", "limit=\"limit packs total\""]);
    place.daemon.logged(&["pack waits", "/bob", "made=1"]);
    place.daemon.assert_reached("limit packs total", 8);
    assert_eq!(place.daemon.reached("limit packs total"), 8);
}

#[test]
fn the_limit_of_one_repository_holds_up_no_other() {
    let place = start("limit packs per repository 1");
    let _first = place.holder("alice");
    let _second = place.waiting("alice", 2, "");
    place.clone_of("bob", 2, "gotd:small.git", "small").good();
    place.daemon.logged(&["pack waits", "limit=\"limit packs per repository\""]);
    place.daemon.assert_reached("limit packs per repository", 1);
    assert_eq!(place.daemon.reached("limit packs per repository"), 1);
}

/// A place more by a reload is taken by who waits.
#[test]
fn a_reload_that_gives_more_places_ends_the_wait() {
    let place = start("limit packs total 1");
    let _first = place.holder("alice");
    let mut second = place.waiting("bob", 2, "");
    let file = place.site.path("gotd.conf");
    let text = std::fs::read_to_string(&file).expect("reads");
    std::fs::write(&file, text.replace("limit packs total 1", "limit packs total 5")).expect("writes");
    place.daemon.gotctl(&["reload"]).good();
    let mut bytes = vec![0; 100_000];
    assert!(second.fill(&mut bytes, Instant::now() + Duration::from_secs(10)), "{}", place.daemon.log());
}

/// What has no pack to make does not wait for others.
#[test]
fn listing_references_and_fetching_nothing_never_waits() {
    let place = start("limit packs total 1\nlimit packs queue length 0");
    place.clone_of("bob", 2, "gotd:bulk.git", "clone").good();
    let _first = place.holder("alice");
    let path = place.site.clone_path("clone").to_string_lossy().into_owned();
    for version in ["protocol.version=0", "protocol.version=2"] {
        for arguments in [&["ls-remote", "gotd:bulk.git"][..], &["-C", &path, "fetch", "-q"]] {
            let arguments = [&["-c", version][..], arguments].concat();
            run(&mut place.git("bob", &arguments), b"", 20).good();
        }
    }
    run(&mut place.git("", &["ls-remote", &url(&place, "bulk.git")]), b"", 20).good();
}

#[test]
fn beyond_the_queue_a_client_is_refused_and_told_which_line_to_change() {
    let place = start("limit packs total 1\nlimit packs queue length 1");
    let words = "too many packs wait to be made: at most 1 (limit packs queue length)";
    let _first = place.holder("alice");
    let _second = place.waiting("bob", 2, "");
    // Each kind of clients has a queue of its own.
    let _stranger = place.stranger("127.0.0.2");
    place.assert_waiting(2);
    for version in [0, 2] {
        // Of whom has as many, the newcomer.
        let refused = place.clone_of("bob", version, "gotd:bulk.git", &format!("v{version}"));
        refused.bad(words);
        place.clone_of("", version, &url(&place, "bulk.git"), &format!("g{version}")).bad(words);
    }
    // Without a side band there is no place in the protocol: gotsh tells.
    let mut raw = Session::fetch_as(&place.site.socket(), "bulk.git", 0, "bob");
    raw.read_to_flush();
    assert!(raw.write(&place.request(0, "ofs-delta")));
    assert!(!raw.read_to_end(20).windows(4).any(|four| four == b"PACK"));
    assert_eq!(raw.connection.end(10), End::Exit(1, words.into()));
    place.assert_waiting(2);
    place.daemon.logged(&["session ", "result=failed", "/bob", words]);
    place.daemon.logged(&["session ", "result=failed", "who=anonymous", words]);
    place.daemon.assert_reached("limit packs queue length", 5);
    assert_eq!(place.daemon.reached("limit packs queue length"), 5);
}

#[test]
fn whoever_waits_too_long_is_refused() {
    let place = start("limit packs total 1\nlimit packs queue timeout 2s");
    let words = "no turn to make a pack within 2 seconds (limit packs queue timeout)";
    let _first = place.holder("alice");
    for (user, address) in [("bob", "gotd:bulk.git".to_owned()), ("", url(&place, "bulk.git"))] {
        let start = Instant::now();
        place.clone_of(user, 2, &address, "late").bad(words);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(8), "{took:?}");
    }
    place.daemon.logged(&["session ", "result=failed", "/bob", words]);
    place.daemon.assert_reached("limit packs queue timeout", 2);
    assert_eq!(place.daemon.reached("limit packs queue timeout"), 2);
}

#[test]
fn a_client_that_goes_away_leaves_the_queue_at_once() {
    let place = start("limit packs total 1");
    let first = place.holder("alice");
    for (user, url) in [("bob", "gotd:bulk.git".to_owned()), ("", url(&place, "bulk.git"))] {
        for quiet in ["--progress", "-q"] {
            let path = place.site.clone_path(&format!("gone{user}{quiet}")).to_string_lossy().into_owned();
            let mut command = place.git(user, &["clone", quiet, "--bare", &url, &path]);
            let client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
            place.assert_waiting(1);
            kill(client);
            let start = Instant::now();
            place.assert_waiting(0);
            assert!(start.elapsed() < Duration::from_secs(3), "{url}: {:?}", start.elapsed());
        }
    }
    // And a place that nobody holds any more is given to the next one.
    let mut second = place.waiting("bob", 2, "");
    drop(first);
    let mut bytes = vec![0; 100_000];
    assert!(second.fill(&mut bytes, Instant::now() + Duration::from_secs(10)), "{}", place.daemon.log());
}

#[test]
fn a_session_that_dies_frees_its_place() {
    let place = start("limit packs total 1");
    for process in ["session", "repo_read"] {
        let _first = place.holder("alice");
        let holding = sessions_of(&place, "/alice", process).expect("a process of that role");
        let mut second = place.waiting("bob", 2, "");
        let start = Instant::now();
        place.daemon.kill(holding);
        let mut bytes = vec![0; 100_000];
        assert!(second.fill(&mut bytes, Instant::now() + Duration::from_secs(10)), "{}", place.daemon.log());
        assert!(start.elapsed() < Duration::from_secs(5), "{process}: {:?}", start.elapsed());
        drop(second);
        place.assert_waiting(0);
        // One that waits leaves the queue as well.
        let _third = place.holder("bob");
        let _fourth = place.waiting("alice", 2, "");
        place.daemon.kill(sessions_of(&place, "/alice", process).expect("a process of that role"));
        place.assert_waiting(0);
    }
}

/// The process of the one session that this user has, by `gotctl info --json`.
fn sessions_of(place: &Place, who: &str, process: &str) -> Option<i32> {
    let json = place.daemon.gotctl(&["info", "--json"]).good().text();
    let line = json.lines().find(|line| line.contains(who))?;
    let (_, pids) = line.split_once("\"processes\":[").expect("processes");
    let (pids, _) = pids.split_once(']').expect("a list");
    let pids: Vec<i32> = pids.split(',').map(|pid| pid.parse().expect("a pid")).collect();
    let role = place.daemon.role(process);
    pids.into_iter().find(|pid| role.contains(pid))
}

/// One user floods, another one comes last and is next; a stranger is not behind the flood either,
/// nor a user behind a crowd of strangers.
#[test]
fn a_flood_does_not_starve_the_others() {
    let place = start("limit packs total 1\nlimit packs queue length 6");
    let first = place.holder("alice");
    let mut flood: Vec<Session> = (0..6).map(|_| place.waiting("alice", 2, "")).collect();
    // One after the other, so that it is known who came first.
    let come = |n: u64| {
        let client = place.stranger(&format!("127.0.0.{n}"));
        place.assert_waiting(5 + n);
        client
    };
    let crowd: Vec<Client> = (2..8).map(come).collect();
    // The queue of users is full of her packs: the last of them gives way to him, and she is told.
    let mut bob = Session::fetch_as(&place.site.socket(), "bulk.git", 2, "bob");
    bob.read_to_flush();
    assert!(bob.write(&place.request(2, "")));
    let mut last = flood.pop().expect("six");
    let told = String::from_utf8_lossy(&last.read_to_end(10)).into_owned();
    assert!(told.contains("(limit packs queue length)"), "{told}");
    place.assert_waiting(12);
    drop(first);
    // Nobody takes more than the beginning, and each leaves the place for the next one: whose
    // beginning comes when.
    let mut begun: Vec<&str> = Vec::new();
    let mut all: Vec<(&str, BorrowedFd<'_>, usize)> = vec![("bob", bob.from.as_fd(), 0)];
    all.extend(flood.iter().map(|client| ("alice", client.from.as_fd(), 0)));
    all.extend(crowd.iter().map(|client| ("stranger", client.stream.as_fd(), 0)));
    wait_until(20.0, || {
        all.retain_mut(|(who, fd, come)| {
            if regress::raw::readable(*fd, Instant::now()) {
                *come += nix::unistd::read(*fd, &mut [0; 4096]).expect("reads");
            }
            // More than what who waits is told.
            let pack = *come > 2500;
            if pack {
                begun.push(who);
            }
            !pack
        });
        begun.len() >= 5
    });
    // Strangers have had no turn, then it is the users' turn again, and his before hers.
    assert_eq!(begun[..5], ["stranger", "bob", "stranger", "alice", "stranger"], "{}", place.daemon.log());
}

/// Who wants no progress gets signs of life.
#[test]
fn a_connection_that_waits_does_not_look_dead() {
    let place = start("limit packs total 1");
    let _first = place.holder("alice");
    let mut client = Session::fetch_as(&place.site.socket(), "bulk.git", 0, "bob");
    client.read_to_flush();
    assert!(client.write(&place.request(0, "side-band-64k no-progress")));
    let mut said = [0; 13];
    assert!(client.fill(&mut said, Instant::now() + Duration::from_secs(10)));
    assert_eq!(String::from_utf8_lossy(&said), "0008NAK\n0005\u{1}");
}

/// The pipes of a client that is gone are sshd's: closing them is what tells.
#[test]
fn a_client_behind_sshd_that_goes_away_leaves_the_queue_at_once() {
    if !Sshd::available() {
        return;
    }
    let site = Site::new();
    let tip = history::tip(&site, &history::bulky(&site, "bulk.git", 24));
    let sshd = Sshd::start(&site, Setup::ForcedCommand, None);
    let daemon = site.start_with(&format!(
        "{}limit packs total 1\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro \"{}\"\n}}\n",
        site.head(),
        site.path("repositories").display(),
        sshd.user
    ));
    let mut first = Session::fetch(&site.socket(), "bulk.git", 2);
    first.begin_clone(&tip, 1000);
    // Its process is stopped while it has a place.
    let maker = Pid::from_raw(*daemon.role("repo_read").first().expect("one"));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        kill_with(maker, Signal::SIGSTOP).expect("stops");
        if daemon.metric("gotd_packs_active") == 1 {
            break;
        }
        kill_with(maker, Signal::SIGCONT).expect("goes on");
        assert!(first.fill(&mut [0; 70_000], deadline), "ended early: {}", daemon.log());
    }
    let path = site.clone_path("gone").to_string_lossy().into_owned();
    let mut command = site.command("git");
    command.env("GIT_SSH_COMMAND", &sshd.command).args(["clone", "-q", "--bare", "gotd:bulk.git", &path]);
    let client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    let waiting = |packs: u64| wait_until(15.0, || daemon.metric("gotd_packs_waiting") == packs);
    assert!(waiting(1), "{}", daemon.log());
    kill(client);
    let start = Instant::now();
    assert!(waiting(0), "{}", daemon.log());
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    kill_with(maker, Signal::SIGCONT).expect("goes on");
}

/// A user whose clones stall keeps what they have reserved; where the total is small four of them
/// kept everybody else waiting. Now each user has a share, and one more is left for a newcomer.
#[test]
fn a_user_whose_clones_stall_leaves_memory_to_others() {
    let place = start("limit memory total 64M");
    let stalled: Vec<Session> = (0..6)
        .map(|_| {
            let mut client = Session::fetch_as(&place.site.socket(), "bulk.git", 2, "alice");
            client.read_to_flush();
            assert!(client.write(&place.request(2, "")));
            client
        })
        .collect();
    let metric = |name: &str| place.daemon.metric(name);
    let settled = || metric("gotd_packs_stalled") >= 1 && metric("gotd_packs_waiting") >= 1;
    let reserved = || metric("gotd_memory_reserved_bytes");
    assert!(wait_until(20.0, settled), "{} reserved:\n{}", reserved(), place.daemon.log());
    place.daemon.logged(&["pack waits", "/alice", "limit=\"limit memory total\""]);
    for n in 0..2 {
        place.clone_of("bob", 2, "gotd:bulk.git", &format!("bob-{n}")).good();
        assert_mirror(
            &place.site,
            &place.site.repository("bulk.git"),
            &place.site.clone_path(&format!("bob-{n}")),
        );
    }
    drop(stalled);
}
