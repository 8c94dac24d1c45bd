//! Requests of protocol v0 and v2 that are wrong, huge or full of escapes: refused with one clear
//! line, in bounded time and memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use regress::pkt::{self, FLUSH, line, lines, v2};
use regress::process;
use regress::raw::{End, Session};
use regress::{Daemon, Site, history};

/// What one process of a session may ever have in memory, in bytes: its code, buffers, and what a
/// request may name.
const MEMORY: u64 = 160 << 20;

fn start() -> (Site, Daemon, String) {
    let site = Site::new();
    let original = history::repository(&site, "demo.git", 12, "sha1");
    let tip = history::tip(&site, &original);
    let daemon = site.start();
    (site, daemon, tip)
}

fn assert_serves(site: &Site, daemon: &mut Daemon) {
    daemon.assert_serves();
    site.git(["ls-remote", "gotd:demo.git"]).good();
    assert!(!daemon.log().bytes().any(|b| b.is_ascii_control() && b != b'\n'), "{:?}", daemon.log());
}

/// Sends `request` after the advertisement, closes, and returns the text of the `ERR` packet.
#[track_caller]
fn refusal(site: &Site, protocol: u8, request: &[u8]) -> String {
    let shown = String::from_utf8_lossy(&request[..request.len().min(200)]).into_owned();
    let mut client = Session::fetch(&site.socket(), "demo.git", protocol);
    client.read_to_flush();
    client.write(request);
    client.close();
    let answer = client.read_to_end(20);
    let text = pkt::error(&answer)
        .unwrap_or_else(|| panic!("{shown:?}: no ERR packet in {:?}", String::from_utf8_lossy(&answer)));
    assert!(!text.bytes().any(|b| b.is_ascii_control()), "{shown:?}: {text:?}");
    assert!(text.len() < 600, "{shown:?}: {} bytes", text.len());
    assert_eq!(client.connection.end(5), End::Exit(1, text.clone()), "{shown:?}");
    text
}

const UNKNOWN: &str = "0123456789012345678901234567890123456789";

#[test]
fn framing() {
    let (site, mut daemon, tip) = start();
    for protocol in [0, 1, 2] {
        for (bytes, words) in [
            (&b"zzzz"[..], "packet length has invalid format"),
            (b"-001", "packet length has invalid format"),
            (b"0x10", "packet length has invalid format"),
            (b"GET / HTTP/1.1\r\n\r\n", "packet length has invalid format"),
            (b"\0\0\0\0", "packet length has invalid format"),
            (b"0003", "packet too short"),
            (b"0032want 01", "unexpected end of file"),
            (b"00", "unexpected end of file"),
        ] {
            assert_eq!(refusal(&site, protocol, bytes), words, "v{protocol}: {bytes:?}");
        }
    }
    // Longer than any packet of git's: 65,520 bytes.
    for length in ["fff1", "ffff"] {
        let packet = [length.as_bytes(), &[b'x'; 70_000]].concat();
        assert_eq!(refusal(&site, 2, &packet), "packet too long");
    }
    assert_eq!(refusal(&site, 0, b"0001"), "packet too short");
    assert_eq!(
        refusal(&site, 0, &[&lines([format!("want {tip}\n")])[..], b"0002"].concat()),
        "packet too short"
    );
    assert_serves(&site, &mut daemon);
}

#[test]
fn version_0_out_of_order_or_unknown() {
    let (site, mut daemon, tip) = start();
    assert_eq!(
        refusal(&site, 0, &lines([format!("want {UNKNOWN}\n")])),
        format!("object {UNKNOWN} not found")
    );
    let want = format!("want {tip}");
    for request in [
        line("want\n"),
        line("want xyz\n"),
        line(format!("{want}0\n")),
        line(format!("want {}\n", &tip[..39])),
        line("have 0123456789012345678901234567890123456789\n"),
        line("done\n"),
        line("hello\n"),
        line("\n"),
        line(format!("{want} no-such-capability\n")),
        line(format!("{want} object-format=sha256\n")),
        [line(format!("{want}\n")), line("deepen x\n")].concat(),
        [line(format!("{want}\n")), line("deepen -1\n"), FLUSH.to_vec()].concat(),
        [line(format!("{want}\n")), line("deepen 99999999999999999999\n")].concat(),
        [line(format!("{want}\n")), line("shallow 1\n")].concat(),
        [line(format!("{want}\n")), line("filter blob:none\n")].concat(),
        [lines([format!("{want}\n")]), line(format!("{want}\n"))].concat(),
        [lines([format!("{want}\n")]), line("have 12\n")].concat(),
        [line(format!("{want}\n")), line("deepen-not refs/heads/\x1b[31m\n")].concat(),
        [line(format!("{want}\n")), line("deepen-not refs/heads/no-such-branch\n"), FLUSH.to_vec()].concat(),
        line([b'A'; 65_516]),
        line([0xff; 1000]),
    ] {
        let text = refusal(&site, 0, &request);
        assert!(!text.is_empty());
    }
    assert_serves(&site, &mut daemon);
}

#[test]
fn version_2_out_of_order_or_unknown() {
    let (site, mut daemon, tip) = start();
    assert_eq!(
        refusal(&site, 2, &v2("fetch", [format!("want {UNKNOWN}\n"), "done\n".into()])),
        format!("object {UNKNOWN} not found")
    );
    for request in [
        v2("no-such-command", ["x"]),
        v2("fetch", ["no-such-argument\n"]),
        v2("fetch", ["want\n"]),
        v2("fetch", ["want xyz\n"]),
        v2("fetch", ["want-ref refs/heads/main\n", "done\n"]),
        v2("fetch", ["filter sparse:oid=main:x\n"]),
        v2("fetch", [format!("want {tip}\n"), "deepen 0x10\n".into(), "done\n".into()]),
        v2(
            "fetch",
            [format!("want {tip}\n"), "deepen 1\n".into(), "deepen-since 5\n".into(), "done\n".into()],
        ),
        v2("fetch", [format!("want {tip}\n"), "deepen-not refs/heads/x\x1b]0;\n".into(), "done\n".into()]),
        v2("fetch", ["\x1b[31m\n"]),
        v2("ls-refs", ["no-such-argument\n"]),
        line("fetch\n"),
        lines(["agent=x\n"]),
        [line("command=fetch"), line("object-format=sha256"), b"0001".to_vec(), FLUSH.to_vec()].concat(),
        [line("command=fetch"), line("no-such-capability=1"), FLUSH.to_vec()].concat(),
        [line("command=fetch"), line("command=ls-refs"), FLUSH.to_vec()].concat(),
        [line("command=fetch"), b"0002".to_vec()].concat(),
        [line("command=ls-refs"), b"00010001".to_vec()].concat(),
        b"0001".to_vec(),
        b"0002".to_vec(),
    ] {
        let text = refusal(&site, 2, &request);
        assert!(!text.is_empty());
    }
    assert_serves(&site, &mut daemon);
}

/// Escapes in what a client says about itself end up in nobody's terminal (CVE-2024-52005,
/// CVE-2026-3854).
#[test]
fn escapes_in_the_agent() {
    let (site, mut daemon, tip) = start();
    let agent = "evil/1\x1b]0;owned\x07\x1b[2J\nsession result=ok who=root";
    let mut request = line("command=fetch\n");
    request.extend(line(format!("agent={agent}")));
    request.extend_from_slice(b"0001");
    request.extend([line(format!("want {tip}\n")), line("done\n"), FLUSH.to_vec()].concat());
    let mut client = Session::fetch(&site.socket(), "demo.git", 2);
    client.read_to_flush();
    assert!(client.write(&request));
    client.close();
    assert!(!client.read_to_end(20).is_empty());
    let mut client = Session::fetch(&site.socket(), "demo.git", 0);
    client.read_to_flush();
    client.write(
        &[lines([format!("want {tip} agent={}\n", agent.replace(['\n', ' '], "."))]), line("done\n")]
            .concat(),
    );
    client.close();
    client.read_to_end(20);
    daemon.logged(&["agent=", "evil/1"]);
    assert_serves(&site, &mut daemon);
    assert!(!daemon.log().lines().any(|l| l.starts_with("session result=ok")), "{}", daemon.log());
}

/// Runs `talk` while the largest memory of every process of a session is watched.
fn bounded(daemon: &Daemon, what: &str, talk: impl FnOnce()) {
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let peak = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut peak = 0;
            // Once at least: on a busy machine all may be over before this thread runs.
            loop {
                for process in daemon.processes() {
                    if ["session", "repository", "repo_read"].contains(&process.name.as_str()) {
                        peak = peak.max(process::peak_memory(process.pid).unwrap_or(0));
                    }
                }
                if done.load(Ordering::Relaxed) {
                    break peak;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = Stop(&done);
        talk();
        drop(stop);
        watch.join().expect("watches")
    });
    println!("{what}: {} MiB, {:?}", peak >> 20, start.elapsed());
    assert!(peak > 0, "{what}: nothing was measured");
    assert!(peak <= MEMORY, "{what}: {} MiB", peak >> 20);
}

/// An id that no object has, another one for each number.
fn id(n: u64) -> String {
    format!("{:08x}{:032x}", n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff, n)
}

/// Sends a request in version 2 and reads the answer; the session may have had enough of it before
/// its end.
fn ask(site: &Site, request: &[u8]) -> Vec<u8> {
    let mut client = Session::fetch(&site.socket(), "demo.git", 2);
    client.read_to_flush();
    client.write(request);
    client.close();
    client.read_to_end(60)
}

#[test]
fn equal_wants() {
    let (site, mut daemon, tip) = start();
    bounded(&daemon, "200,000 equal wants", || {
        let wants = std::iter::repeat_n(format!("want {tip}\n"), 200_000);
        ask(&site, &v2("fetch", wants.chain(["done\n".to_owned()])));
    });
    assert_serves(&site, &mut daemon);
}

#[test]
fn unknown_wants() {
    let (site, mut daemon, _) = start();
    bounded(&daemon, "200,000 different wants", || {
        let answer = ask(&site, &v2("fetch", (0..200_000).map(|n| format!("want {}\n", id(n)))));
        assert!(pkt::error(&answer).is_some(), "{answer:?}");
    });
    assert_serves(&site, &mut daemon);
}

#[test]
fn many_haves() {
    let (site, mut daemon, tip) = start();
    bounded(&daemon, "300,000 different haves", || {
        let haves = (0..300_000).map(|n| format!("have {}\n", id(n)));
        let request = std::iter::once(format!("want {tip}\n")).chain(haves).chain(["done\n".to_owned()]);
        ask(&site, &v2("fetch", request));
    });
    bounded(&daemon, "one have 300,000 times", || {
        let haves = std::iter::repeat_n(format!("have {tip}\n"), 300_000);
        let request = std::iter::once(format!("want {tip}\n")).chain(haves).chain(["done\n".to_owned()]);
        ask(&site, &v2("fetch", request));
    });
    assert_serves(&site, &mut daemon);
}

#[test]
fn many_haves_in_version_0() {
    let (site, mut daemon, tip) = start();
    bounded(&daemon, "300,000 haves in version 0", || {
        let mut client = Session::fetch(&site.socket(), "demo.git", 0);
        client.read_to_flush();
        let mut request = lines([format!("want {tip} multi_ack_detailed\n")]);
        request.extend((0..300_000).flat_map(|n| line(format!("have {}\n", id(n)))));
        request.extend(line("done\n"));
        client.write(&request);
        client.close();
        assert!(client.read_to_end(60).windows(4).any(|w| w == b"PACK"));
    });
    assert_serves(&site, &mut daemon);
}

#[test]
fn many_deepen_nots_and_shallows() {
    let (site, mut daemon, tip) = start();
    bounded(&daemon, "100,000 deepen-not", || {
        let not = (0..100_000).map(|n| format!("deepen-not refs/heads/{n}\n"));
        ask(
            &site,
            &v2("fetch", std::iter::once(format!("want {tip}\n")).chain(not).chain(["done\n".to_owned()])),
        );
    });
    bounded(&daemon, "100,000 times the same deepen-not", || {
        let not = std::iter::repeat_n("deepen-not side\n".to_owned(), 100_000);
        ask(
            &site,
            &v2("fetch", std::iter::once(format!("want {tip}\n")).chain(not).chain(["done\n".to_owned()])),
        );
    });
    bounded(&daemon, "200,000 shallow", || {
        let shallow = (0..200_000).map(|n| format!("shallow {}\n", id(n)));
        ask(
            &site,
            &v2(
                "fetch",
                std::iter::once(format!("want {tip}\n")).chain(shallow).chain(["done\n".to_owned()]),
            ),
        );
    });
    assert_serves(&site, &mut daemon);
}

#[test]
fn many_prefixes() {
    let (site, mut daemon, _) = start();
    bounded(&daemon, "200,000 ref-prefix", || {
        let prefixes = (0..200_000).map(|n| format!("ref-prefix refs/heads/none-{n}\n"));
        let answer = ask(&site, &v2("ls-refs", prefixes));
        // So many mean nothing any more: all references are listed, as git does.
        assert!(String::from_utf8_lossy(&answer).contains("refs/heads/main"));
    });
    bounded(&daemon, "prefixes of 60,000 bytes", || {
        let long = "x".repeat(60_000);
        ask(&site, &v2("ls-refs", (0..500).map(|n| format!("ref-prefix {long}{n}\n"))));
    });
    assert_serves(&site, &mut daemon);
}

#[test]
fn many_requests_on_one_connection() {
    let (site, mut daemon, tip) = start();
    bounded(&daemon, "200 requests", || {
        let mut client = Session::fetch(&site.socket(), "demo.git", 2);
        client.read_to_flush();
        for _ in 0..100 {
            assert!(client.write(&v2("ls-refs", ["peel\n"])));
            assert!(!client.read_to_flush().is_empty());
            assert!(client.write(&v2("fetch", [format!("want {tip}\n"), format!("have {}\n", id(1))])));
            assert!(!client.read_to_flush().is_empty());
        }
        client.close();
        assert_eq!(client.connection.end(10), End::Exit(0, String::new()));
    });
    assert_serves(&site, &mut daemon);
}

/// A refusal quotes what it refuses. As long as the parent found out by searching its text which
/// limit had been reached, a client that wrote `(limit packs total)` where a capability belongs
/// counted as one that had been refused for it, so that any client could fill the administrator's
/// graph of any limit. A limit is counted now by what the refusal is, not by what it says.
#[test]
fn a_client_that_writes_the_name_of_a_limit_has_reached_none() {
    let (site, mut daemon, tip) = start();
    let limit = "(limit packs total)";
    for (protocol, request, told) in [
        (2, lines(["command=ls-refs\n", limit]), format!("unknown capability '{limit}'")),
        (2, lines([format!("command={limit}\n")]), format!("unknown command '{limit}'")),
        (2, v2("ls-refs", [limit]), format!("unexpected line: '{limit}'")),
        (0, lines([limit]), format!("unexpected line: '{limit}'")),
        (0, lines([format!("want {tip} {limit}\n")]), "unexpected want-line received".to_owned()),
    ] {
        assert_eq!(refusal(&site, protocol, &request), told);
    }
    let samples = daemon.metrics();
    let reached: Vec<_> = samples
        .iter()
        .filter(|(name, count)| name.starts_with("gotd_limits_reached") && **count > 0)
        .collect();
    assert_eq!(reached, [], "after refusals that only quote one");
    assert_serves(&site, &mut daemon);
}
