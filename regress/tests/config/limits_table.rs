//! Every limit of gotd.conf, one case each: a client reaches it, is told which line to change, and
//! so are the log and `gotctl metrics`. `gotd/tests/limits_table.rs` sees to it that none is left
//! out.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::others;
use regress::raw::{Connection, End, Session};
use regress::run::wait_until;
use regress::site::present_user;
use regress::tcp::{self, Client};
use regress::{Daemon, Site, history, pkt, run};

/// Limits that refuse nobody, or whose cases are somewhere else: where what they do is shown.
const ELSEWHERE: &[(&str, &str, &str)] = &[
    ("connection rate window", "config/limits.rs", "the_window_of_the_minimum_rate"),
    (
        "connection bandwidth per address",
        "git_daemon/serving.rs",
        "an_address_takes_so_many_bytes_in_a_second",
    ),
    ("connection waiting sessions", "config/limits_table.rs", "sessions_wait_as_many_as_they_are_to"),
    ("connection waiting git sessions", "config/limits_table.rs", "sessions_wait_as_many_as_they_are_to"),
    ("limit prefixes", "config/limits.rs", "more_prefixes_than_by_default_where_the_limit_is_higher"),
    ("limit packs total", "fetch/pack_queue.rs", "clones_of_one_moment_all_end_well_one_after_the_other"),
    ("limit packs per repository", "fetch/pack_queue.rs", "the_limit_of_one_repository_holds_up_no_other"),
    (
        "limit packs queue length",
        "fetch/pack_queue.rs",
        "beyond_the_queue_a_client_is_refused_and_told_which_line_to_change",
    ),
    (
        "limit negotiation cpu",
        "fetch/negotiation.rs",
        "a_hundred_thousand_requests_on_one_connection_end_with_the_limit",
    ),
    (
        "limit negotiation cpu per client",
        "fetch/negotiation.rs",
        "a_client_that_has_used_its_ten_minutes_is_told_so_and_no_other",
    ),
    ("limit packs queue timeout", "fetch/pack_queue.rs", "whoever_waits_too_long_is_refused"),
    ("limit pushes total", "push/turns.rs", "pushes_beyond_the_limit_wait_and_finish"),
    ("limit pushes per repository", "push/turns.rs", "pushes_beyond_the_limit_wait_and_finish"),
    (
        "limit memory total",
        "fetch/pack_turns.rs",
        "who_holds_the_memory_for_longest_is_ended_when_others_wait_for_it",
    ),
];

/// A daemon with one of its limits set low.
struct Place {
    site: Site,
    daemon: Daemon,
    address: SocketAddr,
}

/// Reaches a limit, and returns what the client was told.
type Reach = fn(&Place) -> String;

macro_rules! cases {
    ($($name:ident: $directive:literal, $configuration:literal, $reach:expr;)+) => {$(
        #[test]
        fn $name() {
            reached($directive, $configuration, $reach);
        }
    )+};
}

cases! {
    request_timeout: "connection request timeout", "connection request timeout 2", work_that_stands_still;
    first_request: "connection first request timeout", "connection first request timeout 2",
        |place| words(Connection::open(&place.site.socket()).end(10));
    first_request_over_tcp: "connection first request timeout", "connection first request timeout 2",
        |place| Client::open(place.address).end(10.0).text();
    idle: "connection idle timeout", "connection idle timeout 2", |place| {
        let mut client = place.fetch();
        assert!(client.write(&pkt::v2("ls-refs", ["peel\n"])));
        client.read_to_flush();
        words(client.connection.end(10))
    };
    idle_anonymous: "connection idle timeout anonymous", "connection idle timeout anonymous 2", |place| {
        let mut client = Client::open(place.address);
        assert!(client.write(&tcp::request("/bulk.git", 2)));
        client.read_to_flush();
        client.end(10.0).text()
    };
    minimum_rate: "connection minimum rate", "connection { minimum rate 4K\nrate window 5 }", |place| {
        let client = place.clone_that_stays();
        words(client.connection.end(20))
    };
    connections_total: "connection limit total", "connection { limit total 2\nqueue timeout 1 }", |place| {
        let held = [place.clone_that_stays(), place.clone_that_stays()];
        let told = words(Connection::open(&place.site.socket()).end(10));
        drop(held);
        told
    };
    connections_git: "connection limit git total", "connection limit git total 2", |place| {
        let _held = [place.stranger(), place.stranger()];
        Client::open(place.address).end(10.0).text()
    };
    connections_per_user: "connection limit per user",
        "connection { limit per user 1\nuser queue length 0 }", |place| {
        let _held = place.clone_that_stays();
        words(Session::fetch(&place.site.socket(), "bulk.git", 2).connection.end(10))
    };
    user_queue_length: "connection user queue length",
        "connection { limit per user 1\nuser queue length 1 }", |place| {
        let _held = place.clone_that_stays();
        let _waits = Connection::open(&place.site.socket());
        words(Connection::open(&place.site.socket()).end(10))
    };
    user_queue_timeout: "connection user queue timeout",
        "connection { limit per user 1\nuser queue timeout 2 }", |place| {
        let _held = place.clone_that_stays();
        words(Connection::open(&place.site.socket()).end(10))
    };
    connections_of_user: "connection limit user", "connection limit user $me 1", |place| {
        let _held = place.clone_that_stays();
        let mut second = Session::fetch(&place.site.socket(), "bulk.git", 2);
        let said = pkt::error(&second.read_to_end(10)).expect("an ERR packet");
        assert_eq!(second.connection.end(5), End::Exit(1, said.clone()));
        said
    };
    connections_per_address: "connection limit per address", "connection limit per address 1", |place| {
        let _held = place.stranger();
        Client::open(place.address).end(10.0).text()
    };
    rate_total: "connection rate total", "connection { rate total 1\nqueue timeout 1\nlimit per user 16 }", |place| {
        let all: Vec<Connection> = (0..8).map(|_| Connection::open(&place.site.socket())).collect();
        words(all.last().expect("eight").end(10))
    };
    rate_total_over_tcp: "connection rate total", "connection { rate total 1\nqueue timeout 1 }", |place| {
        let mut all: Vec<Client> = (0..8).map(|_| Client::open(place.address)).collect();
        for client in &mut all {
            client.write(&tcp::request("/bulk.git", 2));
        }
        let last = all.pop();
        last.expect("eight").end(10.0).text()
    };
    rate_per_address: "connection rate per address", "connection rate per address 1", |place| {
        let mut all: Vec<Client> = (0..3).map(|_| Client::open(place.address)).collect();
        all.last_mut().expect("three").end(10.0).text()
    };
    rate_per_user: "connection rate per user", "connection { rate per user 1\nqueue timeout 1\nlimit per user 16 }", |place| {
        // Root has no such rate.
        if !others::possible() {
            let all: Vec<Connection> = (0..8).map(|_| Connection::open(&place.site.socket())).collect();
            return words(all.last().expect("eight").end(10));
        }
        let program = "\
all = [connect() for _ in range(8)]
all[-1].setblocking(True)
print(all[-1].recv(4096)[24:].decode('latin-1'), flush=True)
";
        others::python(others::STRANGER, &place.site.socket(), program).line()
    };
    queue_length: "connection queue length", "connection { queue length 0\nwaiting sessions 1 }", |place| {
        // Nothing replaces a session that was taken.
        place.daemon.signal(Signal::SIGSTOP);
        let all: Vec<Connection> = (0..3).map(|_| Connection::open(&place.site.socket())).collect();
        let told = words(all.last().expect("three").end(10));
        place.daemon.signal(Signal::SIGCONT);
        told
    };
    queue_timeout: "connection queue timeout", "connection { queue timeout 1\nwaiting sessions 1 }", |place| {
        place.daemon.signal(Signal::SIGSTOP);
        let all: Vec<Connection> = (0..3).map(|_| Connection::open(&place.site.socket())).collect();
        let told = words(all.last().expect("three").end(10));
        place.daemon.signal(Signal::SIGCONT);
        told
    };
    queue_timeout_over_tcp: "connection queue timeout", "connection { queue timeout 1\nwaiting git sessions 1 }",
        |place| {
            place.daemon.signal(Signal::SIGSTOP);
            let mut all: Vec<Client> = (0..3).map(|_| Client::open(place.address)).collect();
            for client in &mut all {
                client.write(&tcp::request("/bulk.git", 2));
            }
            let told = all.last_mut().expect("three").end(10.0).text();
            place.daemon.signal(Signal::SIGCONT);
            told
        };
    wants: "limit wants", "limit wants 7", |place| place.asks(|n| format!("want {n:040x}\n"), 8);
    haves: "limit haves", "limit haves 7", |place| place.asks(|n| format!("have {n:040x}\n"), 8);
    shallows: "limit shallows", "limit shallows 7", |place| place.asks(|n| format!("shallow {n:040x}\n"), 8);
    commands: "limit commands", "limit commands 2",
        |place| place.pushes(|_| {}, &["main:refs/heads/a", "main:refs/heads/b", "main:refs/heads/c"]);
    command_bytes: "limit command bytes", "limit command bytes 64K", |place| {
        let names: Vec<String> = (0..700).map(|n| format!("main:refs/heads/{}{n}", "x".repeat(100))).collect();
        place.pushes(|_| {}, &names.iter().map(String::as_str).collect::<Vec<_>>())
    };
    pack_size: "limit pack size", "limit pack size 4K", |place| place.pushes(|work| random(work, 8 << 10), MAIN);
    pack_objects: "limit pack objects", "limit pack objects 2", |place| place.pushes(|work| random(work, 9), MAIN);
    object_size: "limit object size", "limit object size 4K",
        |place| place.pushes(|work| random(work, 8 << 10), MAIN);
    // One that is read while it comes in.
    large_object_size: "limit object size", "limit object size 20M",
        |place| place.pushes(|work| random(work, 24 << 20), MAIN);
    blob_size: "limit blob size", "limit blob size 4K", |place| place.pushes(|work| random(work, 8 << 10), MAIN);
    delta_result: "limit delta result", "limit delta result 4K",
        |place| place.pushes(|work| versions(work, 2), MAIN);
    delta_depth: "limit delta depth", "limit delta depth 1", |place| place.pushes(|work| rolling(work, 6), MAIN);
    delta_ratio: "limit delta ratio", "limit delta ratio 1", |place| {
        let zeros = |work: &Path| {
            for version in [b"1", b"2", b"3", b"4"] {
                commit_text(work, hollow(version));
            }
        };
        place.pushes(zeros, MAIN)
    };
    thin_bases: "limit thin bases", "limit thin bases 0", |place| place.pushes(|work| versions(work, 1), MAIN);
    tree_depth: "limit tree depth", "limit tree depth 4", |place| {
        let deep = |work: &Path| {
            std::fs::create_dir_all(work.join("a/b/c/d/e/f")).expect("makes directories");
            std::fs::write(work.join("a/b/c/d/e/f/g"), "deep").expect("writes");
        };
        place.pushes(deep, MAIN)
    };
    disk_reserve: "limit disk reserve", "limit disk reserve 60T", |place| place.pushes(|work| random(work, 9), MAIN);
    repositories_per_user: "limit repositories per user", "limit repositories per user 1", |place| {
        let work = place.site.clone_path("source");
        let push = |name: &str| place.site.git(["-C", &work.to_string_lossy(), "push", "-q", name, "main"]);
        push("gotd:first").good();
        let told = push("gotd:second").bad("").err;
        assert!(!place.site.repository("second.git").exists());
        told
    };
    process_memory_of_a_push: "limit process memory", "limit process memory 64M", |place| {
        place.pushes(|work| std::fs::write(work.join("huge"), hollow(b"1")).expect("writes"), MAIN)
    };
    process_memory_of_a_fetch: "limit process memory", "limit process memory 64M", |place| {
        let url = "gotd:huge.git";
        let path = place.site.clone_path("shallow");
        place.site.git(["clone", "-q", "--bare", "--depth", "1", "-b", "wordy", url, &path.to_string_lossy()]).bad("").err
    };
}

const MAIN: &[&str] = &["main"];
/// More than `limit process memory` in the cases about it.
const HUGE: usize = 100 << 20;

/// Reaches a limit, and looks at everybody who has to know.
fn reached(directive: &str, configuration: &str, reach: Reach) {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::bulky(&site, "bulk.git", 3);
    prepare(&site, directive);
    let daemon = site.start_with(&format!(
        "me = \"{}\"\n{}{}{configuration}\nrepositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit rw $me\n\tcreate\n}}\n",
        present_user(),
        site.head(),
        tcp::listen_line(address),
        site.path("repositories").display()
    ));
    let mut place = Place { site, daemon, address };
    let told = reach(&place);
    assert!(told.contains(&format!("({directive})")), "told: {told}\n{}", place.daemon.log());
    place.daemon.logged(&[directive]);
    assert!(wait_until(10.0, || place.daemon.reached(directive) > 0), "not counted:\n{}", place.daemon.log());
    place.daemon.assert_serves();
}

/// A repository with a file that has some versions, and a work tree of it that can push thin packs.
fn prepare(site: &Site, directive: &str) {
    let source = site.clone_path("source");
    site.git(["init", "-q", "-b", "main", &source.to_string_lossy()]).good();
    std::fs::write(source.join("text"), text(0)).expect("writes");
    let huge = directive == "limit process memory";
    if huge {
        std::fs::write(source.join("huge"), hollow(b"0")).expect("writes");
    }
    site.commit_all(&source, "next");
    let clone = |name: &str| {
        let (from, to) = (source.to_string_lossy(), site.repository(name));
        site.git(["clone", "-q", "--bare", &from, &to.to_string_lossy()]).good();
    };
    clone("r.git");
    if huge {
        // A commit whose message is as large: it is read as a whole.
        clone("huge.git");
        let (words, huge) = (site.path("words"), site.repository("huge.git"));
        std::fs::write(&words, vec![b'x'; HUGE]).expect("writes");
        let wordy = site.git_in(&huge, ["commit-tree", "main^{tree}", "-F", &words.to_string_lossy()]);
        site.git_in(&huge, ["update-ref", "refs/heads/wordy", wordy.trim()]);
    }
}

/// Twenty kilobytes that differ a little in each version.
fn text(version: usize) -> String {
    (0..1000)
        .map(|n| if n == 500 { format!("version {version}\n") } else { format!("the line {n}\n") })
        .collect()
}

/// Commits versions of the file that differ in one line.
fn versions(work: &Path, count: usize) {
    for version in 1..=count {
        commit_text(work, text(version));
    }
}

/// Commits versions of the file that are like their neighbours only: lines leave at the top and
/// come at the end.
fn rolling(work: &Path, count: usize) {
    for version in 1..=count {
        let lines = 300 * version..300 * version + 1000;
        let line = |n: usize| format!("{:x}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        commit_text(work, lines.map(line).collect::<String>());
    }
}

fn commit_text(work: &Path, text: impl AsRef<[u8]>) {
    std::fs::write(work.join("text"), text).expect("writes");
    let mut command = std::process::Command::new("git");
    command.arg("-C").arg(work).args(["-c", "user.name=c", "-c", "user.email=c@example.org"]);
    run(command.args(["commit", "-q", "-a", "-m", "version"]), b"", 30).good();
}

/// A file that does not compress.
fn random(work: &Path, bytes: usize) {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut content = Vec::with_capacity(bytes);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(work.join("random"), content).expect("writes");
}

/// A large file of nothing.
fn hollow(beginning: &[u8]) -> Vec<u8> {
    let mut content = beginning.to_vec();
    content.resize(HUGE, 0);
    content
}

fn words(end: End) -> String {
    match end {
        End::Exit(1, text) => text,
        other => panic!("{other:?}"),
    }
}

/// The server is at work, and nothing comes of it.
fn work_that_stands_still(place: &Place) -> String {
    let client = place.clone_that_stays();
    drop(client);
    let mut client = place.fetch();
    let mut worker = None;
    assert!(wait_until(10.0, || {
        worker = place.daemon.role("repo_read").first().copied();
        worker.is_some()
    }));
    // One of a clone before it may take a moment to go.
    for pid in place.daemon.role("repo_read") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGSTOP);
    }
    assert!(client.write(&pkt::v2("ls-refs", ["peel\n"])));
    let told = words(client.connection.end(10));
    for pid in place.daemon.role("repo_read") {
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
    told
}

impl Place {
    fn fetch(&self) -> Session {
        let mut client = Session::fetch(&self.site.socket(), "bulk.git", 2);
        client.read_to_flush();
        client
    }

    /// A client that does not take its pack.
    fn clone_that_stays(&self) -> Session {
        let tip = history::tip(&self.site, &self.site.repository("bulk.git"));
        let mut client = Session::fetch(&self.site.socket(), "bulk.git", 2);
        client.begin_clone(&tip, 1000);
        client
    }

    /// The same over git://.
    fn stranger(&self) -> Client {
        let tip = history::tip(&self.site, &self.site.repository("bulk.git"));
        let mut client = Client::open_from(self.address, Ipv4Addr::LOCALHOST);
        nix::sys::socket::setsockopt(&client.stream, nix::sys::socket::sockopt::RcvBuf, &4096).expect("sets");
        assert!(client.write(&tcp::request("/bulk.git", 2)));
        client.read_to_flush();
        assert!(client.write(&pkt::v2("fetch", [format!("want {tip}\n"), "done\n".into()])));
        assert!(client.read_exactly(1000).is_some());
        client
    }

    /// A fetch with so many lines of one kind, which is good with one less.
    fn asks(&self, line: fn(usize) -> String, count: usize) -> String {
        let tip = history::tip(&self.site, &self.site.repository("bulk.git"));
        let answer = |count: usize| {
            let mut client = self.fetch();
            let lines = (1..=count).map(line).chain([format!("want {tip}\n")]);
            client.write(&pkt::v2("fetch", lines));
            client.close();
            pkt::error(&client.read_to_end(20)).unwrap_or_default()
        };
        let fewer = answer(if line(0).starts_with("want") { count - 2 } else { count - 1 });
        assert!(!fewer.contains("too many"), "{fewer}");
        answer(count)
    }

    /// A push of what `change` leaves in the work tree.
    fn pushes(&self, change: fn(&Path), what: &[&str]) -> String {
        let work: PathBuf = self.site.clone_path("source");
        change(&work);
        if !self.site.git_in(&work, ["status", "--porcelain"]).is_empty() {
            self.site.commit_all(&work, "next");
        }
        let work = work.to_string_lossy();
        let arguments = ["-C", &work, "push", "--thin", "-q", "gotd:r.git"].into_iter();
        self.site.git(arguments.chain(what.iter().copied())).bad("").err
    }
}

/// New connections are taken so many a second, over both kinds of sockets; those that have to wait
/// are served then.
#[test]
fn more_connections_than_the_rate_are_served_one_second_after_the_other() {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::repository(&site, "r.git", 3, "sha1");
    let limits = "\trate total 4\n\tlimit per user 64";
    let daemon = site.start_with(&site.serve_strangers(address, limits, ""));
    for url in ["gotd:r.git".to_owned(), format!("git://{address}/r.git")] {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| site.git(["ls-remote", &url]).good());
            }
        });
        let took = start.elapsed();
        assert!(took > Duration::from_millis(1900) && took < Duration::from_secs(9), "{url}: {took:?}");
    }
    assert_eq!(daemon.reached("connection rate total"), 0, "{}", daemon.log());
}

/// Not refused by anything, but kept: as many processes wait.
#[test]
fn sessions_wait_as_many_as_they_are_to() {
    let (site, address) = (Site::new(), tcp::free_v4());
    history::repository(&site, "r.git", 3, "sha1");
    let configuration = format!(
        "{}connection {{\n\twaiting sessions 7\n\twaiting git sessions 2\n}}\n",
        site.serve_all().replacen('\n', &format!("\n{}", tcp::listen_line(address)), 1)
    );
    let daemon = site.start_with(&configuration);
    // Of those for unix sockets, gotctl takes one.
    let mut last = 0;
    let as_many = wait_until(10.0, || {
        last = daemon.metric("gotd_sessions_waiting");
        last == 8 || last == 9
    });
    assert!(as_many, "{last} sessions wait");
    let start = Instant::now();
    site.git(["ls-remote", "gotd:r.git"]).good();
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn what_is_shown_elsewhere_is_there() {
    for (directive, file, test) in ELSEWHERE {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert!(text.contains(&format!("#[test]\nfn {test}() {{")), "{directive}: no test {test} in {file}");
        let (_, body) = text.split_once(&format!("fn {test}()")).expect("there");
        let body = body.split("\n}\n").next().unwrap_or_default();
        let last = directive.split_once(' ').map_or(*directive, |(_, words)| words);
        assert!(body.contains(last), "{directive}: not in {test}");
    }
}
