//! The conversation compared with C git's upload-pack, packet by packet; and what it must refuse.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libgit::{HashKind, ObjectId};
use libproto::command::Service;
use libproto::limits::Counted;
use libproto::message::parent::{FetchRules, Grant, SessionStart};
use libproto::message::repo::{Begin, Haves, PackAsk, RepoToSession, SessionToRepo};
use libproto::pktline::{Decoder, Packet};
use libproto::refusal::Refusal;
use libproto::request::v0::SideBand;
use librepo::repository::{Options, Repository};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::repo::read;
use crate::session::conversation::{Conversation, Failure, Repo};
use crate::session::pipes::{Input, Output};

const UNKNOWN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn limits() -> SessionStart {
    SessionStart { minimum_rate: 0, wants: 1000, haves: 2000, ..SessionStart::default() }
}

/// A repository with forty commits on `main`, a side branch, a merge, and tags of both kinds.
struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new(hash: &str) -> Fixture {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        fixture.git(&["init", "-q", "--bare", "--object-format", hash, "-b", "main", "."], b"");
        let mut script = String::new();
        for n in 1..=40 {
            script += &format!(
                "commit refs/heads/main\ncommitter C <c@example.org> {} +0000\ndata 2\nc\nM 100644 inline file{}\ndata 5\n{n:04}\n\n",
                1_700_000_000 + n * 1000,
                n % 7,
            );
            if n == 10 || n == 20 {
                script += &format!(
                    "reset refs/heads/side{n}\nfrom refs/heads/main\n\nreset refs/tags/light{n}\nfrom refs/heads/main\n\n"
                );
                script += &format!(
                    "tag v{n}\nfrom refs/heads/main\ntagger C <c@example.org> {} +0000\ndata 2\nt\n",
                    1_700_000_000 + n * 1000
                );
            }
        }
        fixture.git(&["fast-import", "--quiet"], script.as_bytes());
        fixture
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn git(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let output = run(git(args).current_dir(self.path()), input);
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn id(&self, name: &str) -> String {
        String::from_utf8(self.git(&["rev-parse", name], b"")).unwrap().trim().to_owned()
    }

    fn open(&self) -> Repository {
        Repository::open(std::fs::File::open(self.path()).unwrap().into(), Options::default()).unwrap()
    }
}

fn git(args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(args).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent").env_remove("GIT_PROTOCOL");
    command
}

fn run(command: &mut Command, input: &[u8]) -> std::process::Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// What C git answers.
fn oracle(path: &Path, version: u8, request: &[u8]) -> Vec<u8> {
    let command = format!("version={version}");
    run(git(&["upload-pack"]).arg(path).env("GIT_PROTOCOL", command), request).stdout
}

fn link() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// What we answer, with any `ERR` packet that the session would add.
fn answer(path: &Path, version: u8, request: &[u8], rules: FetchRules) -> (Vec<u8>, Result<(), Failure>) {
    let (ours, theirs) = link();
    let repository = Repository::open(std::fs::File::open(path).unwrap().into(), Options::default()).unwrap();
    let hash = repository.hash();
    let (out_r, out_w) = nix::unistd::pipe().unwrap();
    let theirs_out = out_w.try_clone().unwrap();
    let server = std::thread::spawn(move || {
        let limits = limits();
        let hidden = [b"refs/hidden".to_vec()];
        let grant = read::Grant {
            rules,
            hidden: &hidden,
            limits: &limits,
            threads: 1,
            cache_bytes: 1 << 20,
            withheld: None,
            queue: None,
            negotiation: libproto::message::parent::Negotiation::default(),
        };
        read::serve(&theirs.into(), &repository, &grant, Output::new(theirs_out))
    });
    let (in_r, in_w) = nix::unistd::pipe().unwrap();
    let request = request.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = std::fs::File::from(in_w).write_all(&request);
    });
    let session = std::thread::spawn(move || {
        let repo = Repo::from(ours);
        let mut talk = Conversation {
            input: Input::new(in_r),
            output: Output::new(out_w),
            grant: Grant { hash, fetch: rules },
            service: Service::UploadPack,
            protocol: version,
            listing: false,
            limits: limits(),
            agent: String::new(),
        };
        let end = super::serve(&mut talk, &repo);
        if let Err(Failure { refusal, told: false }) = &end {
            let text = &refusal.to_string();
            let mut packet = Vec::new();
            libproto::pktline::write_err(&mut packet, text);
            talk.output.write_all(&packet).unwrap();
        }
        end
    });
    let mut output = Vec::new();
    std::fs::File::from(out_r).read_to_end(&mut output).unwrap();
    writer.join().unwrap();
    let end = session.join().unwrap();
    server.join().unwrap();
    (output, end)
}

/// Packets as text, with our agent's name in place of C git's; what side band 1 carries is put
/// together, progress and keepalives are left out.
fn packets(bytes: &[u8], with_band: bool) -> (Vec<String>, Vec<u8>) {
    let mut decoder = Decoder::new();
    let (mut lines, mut pack, mut rest) = (Vec::new(), Vec::new(), bytes);
    while !rest.is_empty() {
        if rest.starts_with(b"PACK") {
            pack.extend_from_slice(rest);
            break;
        }
        let (taken, packet) = decoder.push(rest).unwrap();
        rest = &rest[taken..];
        match packet {
            Some(Packet::Data([1, data @ ..])) if with_band => pack.extend_from_slice(data),
            Some(Packet::Data([2, ..])) if with_band => {}
            Some(Packet::Data(data)) => {
                let text = String::from_utf8_lossy(data).into_owned();
                let agent =
                    text.split(' ').find_map(|w| w.trim_end().strip_prefix("agent=")).map(str::to_owned);
                lines.push(agent.map_or(text.clone(), |agent| text.replace(&agent, "AGENT")));
            }
            Some(Packet::Flush) => lines.push("0000".into()),
            Some(Packet::Delim) => lines.push("0001".into()),
            Some(Packet::ResponseEnd) => lines.push("0002".into()),
            None => {}
        }
    }
    (lines, pack)
}

fn request(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        match *line {
            "0000" | "0001" | "0002" => out.extend_from_slice(line.as_bytes()),
            line => libproto::pktline::write(&mut out, format!("{line}\n").as_bytes()).unwrap(),
        }
    }
    out
}

/// Both servers must say the same, and both packs must hold the same objects, given what the client
/// has.
fn same(fixture: &Fixture, version: u8, lines: &[&str]) -> Vec<String> {
    let request = request(lines);
    let band = version == 2 || lines.iter().any(|l| l.contains("side-band"));
    let (theirs, their_pack) = packets(&oracle(fixture.path(), version, &request), band);
    let (ours, end) = answer(fixture.path(), version, &request, FetchRules::default());
    let (ours, our_pack) = packets(&ours, band);
    assert_eq!(ours, theirs, "version {version}, {lines:?}");
    assert_eq!(end, Ok(()));
    assert_eq!(our_pack.is_empty(), their_pack.is_empty());
    if !our_pack.is_empty() {
        assert_eq!(
            objects(fixture, &our_pack),
            objects(fixture, &their_pack),
            "version {version}, {lines:?}"
        );
    }
    ours
}

/// The ids of a pack's own objects, sorted.
fn objects(fixture: &Fixture, pack: &[u8]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let objects = std::fs::canonicalize(fixture.path().join("objects")).unwrap();
    let here = dir.path().join("here.git");
    let format = if fixture.id("main").len() == 40 { "sha1" } else { "sha256" };
    assert!(git(&["init", "-q", "--bare", "--object-format", format]).arg(&here).status().unwrap().success());
    std::fs::write(
        here.join("objects/info/alternates"),
        [objects.as_os_str().as_encoded_bytes(), b"\n"].concat(),
    )
    .unwrap();
    let count = u32::from_be_bytes(pack[8..12].try_into().unwrap()) as usize;
    let output = run(git(&["index-pack", "--stdin", "--fix-thin"]).current_dir(&here), pack);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pack_dir: Vec<PathBuf> =
        std::fs::read_dir(here.join("objects/pack")).unwrap().map(|e| e.unwrap().path()).collect();
    let idx = pack_dir.iter().find(|p| p.extension().is_some_and(|e| e == "idx")).unwrap();
    let listing = run(&mut git(&["show-index", "--object-format", format]), &std::fs::read(idx).unwrap());
    let text = String::from_utf8(listing.stdout).unwrap();
    // Bases that were appended come after the pack's own objects.
    let mut by_offset: Vec<(u64, String)> = text
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned())
        })
        .collect();
    by_offset.sort();
    let mut ids: Vec<String> = by_offset.into_iter().take(count).map(|(_, id)| id).collect();
    ids.sort();
    ids
}

#[test]
fn references_are_told_as_c_git_tells_them() {
    let fixture = Fixture::new("sha1");
    for version in [0, 1] {
        same(&fixture, version, &["0000"]);
    }
    same(&fixture, 2, &["0000"]);
    for arguments in [
        &[][..],
        &["0001"],
        &["0001", "peel", "symrefs", "unborn"],
        &["0001", "ref-prefix refs/heads/", "ref-prefix refs/heads/side1", "ref-prefix HEAD", "symrefs"],
        &["0001", "peel", "ref-prefix refs/tags/v"],
        &["0001", "ref-prefix refs/none/"],
        &["0001", "ref-prefix "],
    ] {
        let lines = [&["command=ls-refs", "agent=x/1", "object-format=sha1"], arguments, &["0000"]].concat();
        same(&fixture, 2, &lines);
    }
    // Several requests on one connection, and a server option.
    same(
        &fixture,
        2,
        &["command=ls-refs", "server-option=x", "0000", "command=ls-refs", "0001", "peel", "0000", "0000"],
    );
}

#[test]
fn an_empty_repository_and_an_unborn_branch() {
    for hash in ["sha1", "sha256"] {
        let fixture = Fixture { dir: tempfile::tempdir().unwrap() };
        fixture.git(&["init", "-q", "--bare", "--object-format", hash, "-b", "trunk", "."], b"");
        let format = format!("object-format={hash}");
        same(&fixture, 0, &["0000"]);
        same(
            &fixture,
            2,
            &["command=ls-refs", &format, "0001", "symrefs", "unborn", "ref-prefix HEAD", "0000"],
        );
        same(&fixture, 2, &["command=ls-refs", &format, "0001", "symrefs", "0000"]);
        same(&fixture, 2, &["command=ls-refs", &format, "0001", "unborn", "0000"]);
    }
}

#[test]
fn a_detached_head_and_a_hidden_namespace() {
    let fixture = Fixture::new("sha1");
    fixture.git(&["update-ref", "--no-deref", "HEAD", &fixture.id("side10")], b"");
    same(&fixture, 0, &["0000"]);
    same(&fixture, 2, &["command=ls-refs", "0001", "symrefs", "0000"]);
    fixture.git(&["update-ref", "refs/hidden/x", &fixture.id("main")], b"");
    let (text, _) = answer(fixture.path(), 0, b"0000", FetchRules::default());
    assert!(!String::from_utf8_lossy(&text).contains("hidden"));
}

#[test]
fn v0_negotiations_go_as_with_c_git() {
    let fixture = Fixture::new("sha1");
    let (main, side10, side20) = (fixture.id("main"), fixture.id("side10"), fixture.id("side20"));
    let have10 = format!("have {side10}");
    let have20 = format!("have {side20}");
    let other = format!("have {UNKNOWN}");
    for caps in [
        "multi_ack_detailed side-band-64k thin-pack ofs-delta agent=git/2.47",
        "multi_ack side-band-64k",
        "side-band-64k include-tag",
        "multi_ack_detailed side-band no-progress include-tag",
        "multi_ack_detailed",
        "multi_ack thin-pack",
        "ofs-delta",
    ] {
        let want = format!("want {main} {caps}");
        let tag = format!("want {}", fixture.id("v20"));
        for version in [0, 1] {
            same(&fixture, version, &[&want, "0000", "done"]);
            same(&fixture, version, &[&want, &want, &tag, "0000", "done"]);
            same(&fixture, version, &[&want, "0000", &other, "0000", "done"]);
            same(&fixture, version, &[&want, "0000", &have20, "0000", "done"]);
            same(&fixture, version, &[&want, "0000", &other, &have20, &other, "0000", "done"]);
            same(
                &fixture,
                version,
                &[&want, "0000", &have10, "0000", &other, "0000", &have20, &other, "done"],
            );
            same(&fixture, version, &[&want, "0000", &have20, &other, "0000", "done"]);
        }
    }
}

#[test]
fn v0_shallow_fetches_go_as_with_c_git() {
    let fixture = Fixture::new("sha1");
    let main = fixture.id("main");
    let want = format!("want {main} multi_ack_detailed side-band-64k thin-pack ofs-delta");
    let shallow = format!("shallow {}", fixture.id("main~2"));
    let have = format!("have {main}");
    same(&fixture, 0, &[&want, "deepen 3", "0000", "done"]);
    // No flush packet here: C git is not ready before it has found ancestors of what is no longer
    // on the boundary, and we say so a round earlier.
    same(&fixture, 0, &[&want, &shallow, "deepen 5", "0000", &have, "done"]);
    same(&fixture, 0, &[&want, &shallow, "deepen 2147483647", "0000", &have, "done"]);
    same(&fixture, 0, &[&want, &shallow, "0000", &have, "done"]);
    same(&fixture, 0, &[&want, "deepen-since 1700030500", "0000", "done"]);
    same(&fixture, 0, &[&want, "deepen-not v20", "0000", "done"]);
    same(&fixture, 0, &[&want, "deepen-not light10", "deepen-not refs/heads/side20", "0000", "done"]);
    let relative = format!("{want} deepen-relative");
    same(&fixture, 0, &[&relative, &shallow, "deepen 2", "0000", &have, "done"]);
}

#[test]
fn v2_fetches_go_as_with_c_git() {
    for hash in ["sha1", "sha256"] {
        let fixture = Fixture::new(hash);
        let main = fixture.id("main");
        let format = format!("object-format={hash}");
        let head = ["command=fetch", "agent=git/2.47", &format, "0001", "thin-pack", "ofs-delta"];
        let want = format!("want {main}");
        let have10 = format!("have {}", fixture.id("side10"));
        let have20 = format!("have {}", fixture.id("side20"));
        let other = format!("have {}", "a".repeat(main.len()));
        let shallow = format!("shallow {}", fixture.id("main~2"));
        let have = format!("have {main}");
        for arguments in [
            &[want.as_str(), &want, "done"][..],
            &[&want],
            &[],
            &["done"],
            &[&want, "no-progress", "include-tag", "done"],
            &[&want, &have20],
            &[&want, &other],
            &[&want, &have10, &other, &have20, "done"],
            &[&want, &other, &have10, &have20],
            &[&want, &have20, "wait-for-done"],
            &[&have20, &have10, "wait-for-done"],
            &[&want, "deepen 3", "done"],
            &[&want, &shallow, &have, "done"],
            &[&want, &shallow, "deepen 5", &have, "done"],
            &[&want, &shallow, "deepen 2", "deepen-relative", &have, "done"],
            &[&want, &shallow, "deepen 2147483647", &have, "done"],
            &[&want, "deepen-since 1700030500", "done"],
            &[&want, "deepen-not v20", "done"],
            &[&want, "deepen-not side10", "deepen-since 1700015500", "done"],
        ] {
            same(&fixture, 2, &[&head, arguments, &["0000"]].concat());
        }
        // Two rounds on one connection, then a list.
        let first = [&head[..], &[&want, &other, "0000"]].concat();
        let second = [&head[..], &[&want, &other, &have20, "0000"]].concat();
        same(&fixture, 2, &[first, second, vec!["command=ls-refs", &format, "0000"]].concat());
    }
}

/// Acknowledgments that end about where an answer is first written: the section behind them is
/// there only if it says something.
#[test]
fn a_section_that_is_not_told_is_not_begun() {
    let fixture = Fixture::new("sha1");
    let commits: String = (1..=100)
        .map(|n| format!("commit refs/heads/long\ncommitter C <c@example.org> {n} +0000\ndata 0\n"))
        .collect();
    fixture.git(&["fast-import", "--quiet"], commits.as_bytes());
    let listed = String::from_utf8(fixture.git(&["rev-list", "long"], b"")).unwrap();
    let ids: Vec<&str> = listed.lines().collect();
    let want = format!("want {}", ids[0]);
    let haves: Vec<String> = ids[1..].iter().rev().map(|id| format!("have {id}")).collect();
    for count in 78..90 {
        let haves: Vec<&str> = haves[..count].iter().map(String::as_str).collect();
        let told = same(&fixture, 2, &[&["command=fetch", "0001", &want], &haves[..], &["0000"]].concat());
        assert!(told.contains(&"ready\n".to_owned()), "{count}");
    }
}

#[test]
fn an_object_that_is_reachable_may_be_wanted_in_v2_only() {
    let fixture = Fixture::new("sha1");
    let inner = fixture.id("main~3");
    same(&fixture, 2, &["command=fetch", "0001", &format!("want {inner}"), "done", "0000"]);
    let want = request(&[&format!("want {inner} side-band-64k"), "0000", "done"]);
    let (_, end) = answer(fixture.path(), 0, &want, FetchRules::default());
    assert_eq!(
        end.map_err(|f| (f.refusal.to_string(), f.told)),
        Err((format!("object {inner} not found"), false))
    );
    let (_, end) = answer(fixture.path(), 0, &want, FetchRules { reachable: true, ..FetchRules::default() });
    assert_eq!(end, Ok(()));
    // An object that nothing leads to is not given out, whatever the client says.
    let dangling = fixture.git(&["hash-object", "-w", "--stdin"], b"secret");
    let dangling = String::from_utf8(dangling).unwrap().trim().to_owned();
    for version in [0, 2] {
        let lines = match version {
            0 => request(&[&format!("want {dangling} side-band-64k"), "0000", "done"]),
            _ => request(&["command=fetch", "0001", &format!("want {dangling}"), "done", "0000"]),
        };
        let (output, end) = answer(fixture.path(), version, &lines, FetchRules::default());
        assert_eq!(
            end.map_err(|f| (f.refusal.to_string(), f.told)),
            Err((format!("object {dangling} not found"), false))
        );
        assert!(output.ends_with(format!("0041ERR object {dangling} not found").as_bytes()));
    }
}

#[test]
fn bad_requests_are_answered_in_the_words_that_sites_know() {
    let fixture = Fixture::new("sha1");
    let line = format!("want {UNKNOWN} multi_ack side-band-64k ofs-delta\n");
    let nonsense = format!("0054want {UNKNOWN} aaaaaaaaa bbbbbbbbbbbbb ccccccccc\n");
    for (sent, text) in [
        (format!("0054{line}"), format!("object {UNKNOWN} not found")),
        (format!("0000{line}"), "unexpected flush packet received".into()),
        (format!("0004{line}"), "packet too short".into()),
        (format!("0002{line}"), "packet too short".into()),
        (format!("ffff{line}"), "unexpected end of file".into()),
        (format!("0055{line}"), "unexpected end of file".into()),
        (nonsense, "unexpected want-line received".into()),
    ] {
        let (output, end) = answer(fixture.path(), 0, sent.as_bytes(), FetchRules::default());
        assert_eq!(end.map_err(|f| (f.refusal.to_string(), f.told)), Err((text.clone(), false)), "{sent:?}");
        let error = format!("0000{:04x}ERR {text}", text.len() + 8);
        assert!(output.ends_with(error.as_bytes()), "{sent:?}");
    }
}

#[test]
fn what_else_is_refused() {
    let fixture = Fixture::new("sha1");
    let main = fixture.id("main");
    let want = format!("want {main} multi_ack_detailed side-band-64k");
    let have = format!("have {main}");
    let refused = |version: u8, lines: &[&str]| {
        let (_, end) = answer(fixture.path(), version, &request(lines), FetchRules::default());
        end.unwrap_err().refusal.to_string()
    };
    assert_eq!(refused(0, &["done"]), "unexpected line: 'done'");
    assert_eq!(refused(0, &[&want, "0001"]), "packet too short");
    assert_eq!(refused(0, &[&want, "0000", &want]), format!("unexpected line: '{}'", &want[..60]));
    assert_eq!(refused(0, &[&want, "0000"]), "unexpected end of file");
    assert_eq!(refused(0, &[&want, "filter blob:none", "0000"]), "unknown capability 'filter'");
    assert_eq!(refused(0, &[&want, "deepen-not nothing", "0000"]), "deepen-not is not a ref: nothing");
    assert_eq!(
        refused(0, &[&want, "deepen 1", "deepen-since 5", "0000"]),
        "deepen and deepen-since (or deepen-not) cannot be used together"
    );
    let many: Vec<&str> =
        [want.as_str(), "0000"].into_iter().chain(std::iter::repeat_n(have.as_str(), 2001)).collect();
    assert_eq!(refused(0, &many), "too many haves: at most 2000 (limit haves)");
    let many = vec![want.as_str(); 1001];
    assert_eq!(refused(0, &many), "too many wants: at most 1000 (limit wants)");
    let many: Vec<&str> =
        [want.as_str()].into_iter().chain(std::iter::repeat_n("deepen-not v10", 1001)).collect();
    assert_eq!(refused(0, &many), "too many deepen-not lines: at most 1000");
    assert_eq!(refused(2, &["command=push", "0000"]), "unknown command 'push'");
    assert_eq!(refused(2, &["command=ls-refs", "0002"]), "unexpected response-end packet received");
    assert_eq!(refused(2, &["0001", "command=ls-refs", "0000"]), "unexpected delimiter packet received");
    assert_eq!(refused(2, &["command=ls-refs", "0001", "0001"]), "unexpected delimiter packet received");
    assert_eq!(refused(2, &["command=ls-refs", "0001", "peel"]), "unexpected end of file");
    assert_eq!(
        refused(2, &["command=fetch", "0001", "sideband-all", "0000"]),
        "unexpected line: 'sideband-all'"
    );
    assert_eq!(
        refused(2, &["command=fetch", "0001", "filter blob:none", "0000"]),
        "unexpected line: 'filter'"
    );
    assert_eq!(refused(2, &["agent=x", "0000"]), "no command requested");
    assert_eq!(
        refused(2, &["command=fetch", "object-format=sha256", "0000"]),
        "mismatched object format: server sha1; client sha256"
    );
}

#[test]
fn too_many_prefixes_list_everything() {
    let fixture = Fixture::new("sha1");
    let prefixes: Vec<String> = (0..65_600).map(|n| format!("ref-prefix refs/x{n}")).collect();
    let lines: Vec<&str> = ["command=ls-refs", "0001"]
        .into_iter()
        .chain(prefixes.iter().map(String::as_str))
        .chain(["0000"])
        .collect();
    same(&fixture, 2, &lines);
    let fewer = [&lines[..60_000], &["0000"]].concat();
    same(&fixture, 2, &fewer);
}

#[test]
fn a_request_in_single_bytes_is_the_same_request() {
    let fixture = Fixture::new("sha1");
    let lines = request(&[&format!("want {} side-band-64k ofs-delta", fixture.id("main")), "0000", "done"]);
    let (in_r, in_w) = nix::unistd::pipe().unwrap();
    let (out_r, out_w) = nix::unistd::pipe().unwrap();
    let mut writer = std::fs::File::from(in_w);
    let slow = std::thread::spawn(move || {
        for byte in lines {
            writer.write_all(&[byte]).unwrap();
            std::thread::yield_now();
        }
    });
    let mut input = Input::new(in_r);
    let mut output = Output::new(out_w);
    drop(out_r);
    let mut wire = crate::session::packets::Wire::new(&mut input, &mut output);
    let mut count = 0;
    while wire.advance().unwrap() {
        count += 1;
    }
    assert_eq!(count, 3);
    slow.join().unwrap();
}

#[test]
fn any_conversation_ends() {
    let fixture = Fixture::new("sha1");
    let (main, side) = (fixture.id("main"), fixture.id("side10"));
    let words = [
        "0000".to_owned(),
        "0001".into(),
        "0002".into(),
        format!("want {main} side-band-64k multi_ack_detailed"),
        format!("want {main}"),
        format!("want {UNKNOWN}"),
        format!("have {side}"),
        format!("have {UNKNOWN}"),
        format!("shallow {side}"),
        format!("shallow {}", fixture.id("main^{tree}")),
        "deepen 1".into(),
        "deepen-since 1700030500".into(),
        "deepen-not v10".into(),
        "deepen-relative".into(),
        "command=fetch".into(),
        "command=ls-refs".into(),
        "object-format=sha1".into(),
        "ref-prefix refs/heads/".into(),
        "symrefs".into(),
        "done".into(),
        "wait-for-done".into(),
        "filter blob:none".into(),
        "\u{1b}]0;x\u{7}".into(),
    ];
    let mut state: u32 = 7;
    let mut pick = |most: usize| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as usize % most
    };
    for round in 0..400 {
        let version = [0, 1, 2, 2][round % 4];
        let begin: &[&str] = if version == 2 && pick(3) > 0 { &["command=fetch", "0001"] } else { &[] };
        let lines: Vec<&str> =
            begin.iter().copied().chain((0..pick(9)).map(|_| words[pick(words.len())].as_str())).collect();
        let rules = FetchRules { reachable: pick(2) == 0, any: pick(4) == 0, filter: pick(2) == 0 };
        let (_, end) = answer(fixture.path(), version, &request(&lines), rules);
        if let Err(failure) = end {
            assert!(!failure.refusal.to_string().contains(char::is_control), "{lines:?}");
            assert!(
                !failure.refusal.to_string().is_empty()
                    && !failure.refusal.to_string().contains("process ended"),
                "{lines:?}: {failure:?}"
            );
        }
    }
}

/// A session that was taken over talks to the repository process by itself.
fn hostile(fixture: &Fixture) -> (Repo, std::thread::JoinHandle<String>) {
    let (ours, theirs) = link();
    let repository = fixture.open();
    let server = std::thread::spawn(move || {
        let limits = limits();
        let rules = FetchRules::default();
        let grant = read::Grant {
            rules,
            hidden: &[],
            limits: &limits,
            threads: 1,
            cache_bytes: 1 << 20,
            withheld: None,
            queue: None,
            negotiation: libproto::message::parent::Negotiation::default(),
        };
        let (_client, output) = nix::unistd::pipe().unwrap();
        read::serve(&theirs.into(), &repository, &grant, Output::new(output))
            .refusal
            .map(|r| r.to_string())
            .unwrap_or_default()
    });
    (ours.into(), server)
}

#[test]
fn the_repository_process_does_not_take_a_pack_before_its_wants_are_settled() {
    let fixture = Fixture::new("sha1");
    let (repo, server) = hostile(&fixture);
    let side_band = SideBand::Large;
    let ask = PackAsk {
        thin: false,
        ofs_delta: false,
        include_tag: false,
        filter: None,
        side_band,
        progress: false,
    };
    repo.send(0, &SessionToRepo::Pack(ask)).unwrap();
    assert!(repo.recv().is_err());
    assert_eq!(server.join().unwrap(), "session: Pack in state Idle");
}

#[test]
fn the_repository_process_judges_wants_and_counts_haves_itself() {
    let fixture = Fixture::new("sha1");
    let (repo, server) = hostile(&fixture);
    let ask = |question: SessionToRepo| {
        repo.send(0, &question).unwrap();
        repo.recv().unwrap().message
    };
    let id = |name: &str| ObjectId::from_hex(fixture.id(name).as_bytes()).unwrap();
    assert_eq!(ask(SessionToRepo::Begin(Begin { v2: false })), RepoToSession::Done(()));
    assert_eq!(ask(SessionToRepo::Wants(vec![id("main"), id("v10"), id("v10^0")])), RepoToSession::Done(()));
    let inner = id("main~3");
    assert_eq!(ask(SessionToRepo::Wants(vec![inner])), RepoToSession::Refused(Refusal::NotFound(inner)));
    let tree = id("main^{tree}");
    assert_eq!(ask(SessionToRepo::Wants(vec![tree])), RepoToSession::Refused(Refusal::NotFound(tree)));
    for _ in 0..5 {
        let haves = Haves { ids: vec![inner; 400], judge: true };
        assert!(matches!(ask(SessionToRepo::Haves(haves)), RepoToSession::Haved(_)));
    }
    let one = Haves { ids: vec![inner], judge: true };
    assert_eq!(
        ask(SessionToRepo::Haves(one)),
        RepoToSession::Refused(Refusal::TooMany(Counted::Haves, 2000))
    );
    let sha256 = ObjectId::null(HashKind::Sha256);
    assert_eq!(ask(SessionToRepo::Wants(vec![sha256])), RepoToSession::Refused(Refusal::NotFound(sha256)));
    drop(repo);
    server.join().unwrap();
}
