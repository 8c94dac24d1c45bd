//! The conversation of a push, with `repo_write` and `verify` played by the test: compared with C
//! git's receive-pack where the server answers, and held with C git's own client in [`client`].

mod bad;
mod client;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use libgit::{HashKind, ObjectId, RefName};
use libproto::channel::Channel;
use libproto::command::Service;
use libproto::message::parent::{Grant, SessionStart};
use libproto::message::push::{
    CommandResult, PushBegin, RefCommand, SessionToVerify, SessionToWriter, VerifyToSession, WriterToSession,
};
use libproto::message::repo::{RefBatch, RefLine};
use libproto::pktline::{Decoder, Packet};
use libproto::refusal::{Refusal, Rule};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::session::conversation::{Conversation, Failure};
use crate::session::pipes::{Input, Output};

const NULL: &str = "0000000000000000000000000000000000000000";
const ONE: &str = "1111111111111111111111111111111111111111";
const TWO: &str = "2222222222222222222222222222222222222222";
const EMPTY_PACK: &[u8] =
    b"PACK\0\0\0\x02\0\0\0\0\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e";

type WriterEnd = Channel<WriterToSession, SessionToWriter>;

/// `verify`'s ends: its link, and the client's input, which it has from its start.
struct VerifyEnd {
    link: Channel<VerifyToSession, SessionToVerify>,
    input: OwnedFd,
}

impl std::ops::Deref for VerifyEnd {
    type Target = Channel<VerifyToSession, SessionToVerify>;

    fn deref(&self) -> &Self::Target {
        &self.link
    }
}

/// What a session said to its end.
struct End {
    result: Result<(), Failure>,
    agent: String,
    received: u64,
}

/// A session under way, and everybody else's ends.
struct Stage {
    input: File,
    output: File,
    writer: WriterEnd,
    verify: VerifyEnd,
    session: JoinHandle<End>,
}

fn link() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

fn limits() -> SessionStart {
    SessionStart { minimum_rate: 0, commands: 5000, ..SessionStart::default() }
}

/// Starts a session on these pipes.
fn session(input: OwnedFd, output: OwnedFd, protocol: u8) -> (WriterEnd, VerifyEnd, JoinHandle<End>) {
    let (writer, writer_end) = link();
    let (verify, verify_end) = link();
    let verify_input = input.try_clone().unwrap();
    let session = std::thread::spawn(move || {
        let mut talk = Conversation {
            input: Input::new(input),
            output: Output::new(output),
            grant: Grant { hash: HashKind::Sha1, fetch: Default::default() },
            service: Service::ReceivePack,
            protocol,
            listing: false,
            limits: limits(),
            agent: String::new(),
        };
        let result = super::serve(&mut talk, &writer.into(), &verify.into(), &|_| ());
        if let Err(Failure { refusal, told: false }) = &result {
            let text = &refusal.to_string();
            let mut packet = Vec::new();
            libproto::pktline::write_err(&mut packet, text);
            let _ = talk.output.write_all(&packet);
        }
        End { result, agent: talk.agent, received: talk.input.received }
    });
    let verify_end = VerifyEnd { link: verify_end.into(), input: verify_input };
    (writer_end.into(), verify_end, session)
}

fn stage(protocol: u8) -> Stage {
    let (in_r, input) = nix::unistd::pipe().unwrap();
    let (output, out_w) = nix::unistd::pipe().unwrap();
    let (writer, verify, session) = session(in_r, out_w, protocol);
    Stage { input: input.into(), output: output.into(), writer, verify, session }
}

fn id(hex: &str) -> ObjectId {
    ObjectId::from_hex(hex.as_bytes()).unwrap()
}

fn name(name: &str) -> RefName {
    RefName::parse(name.as_bytes()).unwrap()
}

/// A played `repo_write`: what it heard before `Begin`.
#[derive(Default)]
struct ReceivedPush {
    commands: Vec<RefCommand>,
    shallows: Vec<ObjectId>,
    begin: Option<PushBegin>,
}

/// Lists the references and takes everything up to `Begin`, or the session's end.
fn receive_push(writer: &WriterEnd, refs: &[(&str, &str)]) -> ReceivedPush {
    let mut asked = ReceivedPush::default();
    list(writer, refs);
    while let Ok(received) = writer.recv() {
        match received.message {
            SessionToWriter::Commands(batch) => {
                asked.commands.extend(batch);
                send(writer, WriterToSession::Taken(()));
            }
            SessionToWriter::Shallows(batch) => {
                asked.shallows.extend(batch);
                send(writer, WriterToSession::Taken(()));
            }
            SessionToWriter::Begin(begin) => {
                asked.begin = Some(begin);
                break;
            }
        }
    }
    asked
}

fn list(writer: &WriterEnd, refs: &[(&str, &str)]) {
    let line = |&(id_hex, ref_name): &(&str, &str)| RefLine {
        name: name(ref_name),
        id: Some(id(id_hex)),
        peeled: None,
        target: None,
    };
    let refs = refs.iter().map(line).collect();
    send(writer, WriterToSession::Refs(RefBatch { refs, shallow: Vec::new(), last: true }));
}

fn send(writer: &WriterEnd, message: WriterToSession) {
    let _ = writer.send(0, &message);
}

/// A refusal with this text.
fn refusal_of(text: &str) -> Refusal {
    let protected = |rule, end| text.strip_suffix(end).map(|name| Refusal::Protected(rule, name.to_owned()));
    protected(Rule::Reference, ": reference is protected")
        .or_else(|| protected(Rule::Namespace, ": reference namespace is protected"))
        .unwrap_or_else(|| Refusal::Internal(text.to_owned()))
}

/// What a failure tells, and whether that was told already.
fn shown(failure: &Failure) -> (String, bool) {
    (failure.refusal.to_string(), failure.told)
}

/// All commands done, but those whose names are refused here.
fn decide(writer: &WriterEnd, asked: &ReceivedPush, refused: &[(&str, &str)]) {
    for batch in asked.commands.chunks(7) {
        let result = |command: &RefCommand| CommandResult {
            name: command.name.clone(),
            refused: refused
                .iter()
                .find(|(name, _)| name.as_bytes() == command.name.as_bytes())
                .map(|(_, reason)| refusal_of(reason)),
        };
        send(writer, WriterToSession::Results(batch.iter().map(result).collect()));
    }
    send(writer, WriterToSession::End(None));
}

/// A played `verify`: takes the client's input.
fn take_input(verify: &VerifyEnd) -> File {
    assert_eq!(verify.recv().unwrap().message, SessionToVerify::Input(()));
    verify.input.try_clone().unwrap().into()
}

/// Reads an empty pack, as `verify` does.
fn take_empty_pack(writer: &WriterEnd, verify: &VerifyEnd) {
    send(writer, WriterToSession::TakePack(()));
    let mut pack = [0; 32];
    take_input(verify).read_exact(&mut pack).unwrap();
    assert_eq!(pack, EMPTY_PACK);
    verify.send(0, &VerifyToSession::InputEnd(32)).unwrap();
}

/// Lines of a request; the capabilities stand behind the first command.
fn request(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        match *line {
            "0000" => out.extend_from_slice(b"0000"),
            line => libproto::pktline::write(&mut out, line.as_bytes()).unwrap(),
        }
    }
    out
}

/// What a client sees: packets of the advertisement, then of the answer; those within side band 1
/// as if there were none, but with their end as `band end`; others with the number of their band.
fn packets(bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut report = Vec::new();
    let mut advertised = false;
    for packet in split(bytes) {
        match packet.as_deref() {
            Some([1]) if advertised => lines.push("keepalive".into()),
            Some([1, data @ ..]) if advertised => report.extend_from_slice(data),
            Some([band @ (2 | 3), data @ ..]) if advertised => {
                lines.push(format!("{band}: {}", String::from_utf8_lossy(data)));
            }
            Some(data) => lines.push(String::from_utf8_lossy(data).into_owned()),
            None => {
                let nested = split(&std::mem::take(&mut report));
                let banded = !nested.is_empty();
                lines.extend(nested.into_iter().map(|packet| {
                    packet.map_or("0000".into(), |data| String::from_utf8_lossy(&data).into_owned())
                }));
                lines.push(if banded { "band end".into() } else { "0000".into() });
                advertised = true;
            }
        }
    }
    lines
}

fn split(mut rest: &[u8]) -> Vec<Option<Vec<u8>>> {
    let mut decoder = Decoder::new();
    let mut packets = Vec::new();
    while !rest.is_empty() {
        let (taken, packet) = decoder.push(rest).unwrap();
        rest = &rest[taken..];
        match packet {
            Some(Packet::Data(data)) => packets.push(Some(data.to_vec())),
            Some(Packet::Flush) => packets.push(None),
            Some(other) => panic!("{other:?}"),
            None => assert!(rest.is_empty()),
        }
    }
    assert!(decoder.at_boundary(), "ends within a packet");
    packets
}

/// The answer behind the advertisement.
fn after_advertisement(bytes: &[u8]) -> Vec<String> {
    let mut lines = packets(bytes);
    let end = lines.iter().position(|line| line == "0000").expect("an advertisement");
    lines.split_off(end + 1)
}

/// Holds a whole conversation: the client writes all at once and then reads; `others` plays the
/// rest.
fn converse(
    protocol: u8,
    bytes: &[u8],
    others: impl FnOnce(&WriterEnd, &VerifyEnd) + Send + 'static,
) -> (Vec<u8>, End) {
    let Stage { mut input, mut output, writer, verify, session } = stage(protocol);
    let bytes = bytes.to_vec();
    let client = std::thread::spawn(move || input.write_all(&bytes));
    let others = std::thread::spawn(move || others(&writer, &verify));
    let mut answer = Vec::new();
    output.read_to_end(&mut answer).unwrap();
    let _ = client.join().unwrap();
    let end = session.join().unwrap();
    others.join().unwrap();
    (answer, end)
}

fn git(args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(args).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent").env_remove("GIT_PROTOCOL");
    for (who, mail) in
        [("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL"), ("GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")]
    {
        command.env(who, "C").env(mail, "c@example.org");
    }
    command.env("GIT_AUTHOR_DATE", "1700000000 +0000").env("GIT_COMMITTER_DATE", "1700000000 +0000");
    command
}

/// Runs git, which must succeed.
fn run(dir: &Path, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = git(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn line(dir: &Path, args: &[&str]) -> String {
    String::from_utf8(run(dir, args, b"")).unwrap().trim().to_owned()
}

/// A bare repository with three branches at one empty commit.
fn repository() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), &["init", "-q", "--bare", "-b", "main", "."], b"");
    let tree =
        String::from_utf8(run(dir.path(), &["hash-object", "-t", "tree", "-w", "--stdin"], b"")).unwrap();
    let commit = line(dir.path(), &["commit-tree", "-m", "one", tree.trim()]);
    for branch in ["main", "old", "other"] {
        run(dir.path(), &["update-ref", &format!("refs/heads/{branch}"), &commit], b"");
    }
    (dir, commit)
}

/// What C git's server answers.
fn oracle(dir: &Path, version: u8, bytes: &[u8]) -> Vec<u8> {
    let mut child = git(&["-c", "receive.advertisePushOptions=true", "receive-pack", "."])
        .current_dir(dir)
        .env("GIT_PROTOCOL", format!("version={version}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(bytes).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    output.stdout
}

/// Leaves out what differs by design: the agent's name and the order of capabilities.
fn normal(lines: Vec<String>) -> Vec<String> {
    lines
        .into_iter()
        .map(|line| match line.split_once('\0') {
            None => line,
            Some((front, list)) => {
                let mut words: Vec<&str> = list
                    .split_whitespace()
                    .map(|w| if w.starts_with("agent=") { "agent" } else { w })
                    .collect();
                words.sort_unstable();
                format!("{front} {words:?}")
            }
        })
        .collect()
}

#[test]
fn references_are_told_as_c_git_tells_them_and_a_client_may_go() {
    let (dir, commit) = repository();
    for version in [0, 1] {
        for bytes in [&b"0000"[..], b""] {
            let theirs = oracle(dir.path(), version, bytes);
            let commit = commit.clone();
            let (ours, end) = converse(version, bytes, move |writer, _| {
                let refs = ["HEAD", "refs/heads/main", "refs/heads/old", "refs/heads/other"];
                let refs: Vec<(&str, &str)> = refs.iter().map(|name| (commit.as_str(), *name)).collect();
                assert!(receive_push(writer, &refs).begin.is_none());
            });
            assert_eq!(normal(packets(&ours)), normal(packets(&theirs)), "version {version}");
            assert_eq!(end.result, Ok(()));
        }
    }
}

#[test]
fn an_empty_a_shallow_and_a_borrowing_repository() {
    let empty = tempfile::tempdir().unwrap();
    run(empty.path(), &["init", "-q", "--bare", "."], b"");
    let theirs = oracle(empty.path(), 0, b"0000");
    let (ours, _) = converse(0, b"0000", |writer, _| drop(receive_push(writer, &[])));
    assert_eq!(normal(packets(&ours)), normal(packets(&theirs)));
    // Clients take no reference behind a shallow line, whatever order the repository process has.
    let (ours, end) = converse(0, b"0000", |writer, _| {
        let batch = |refs: &[(&str, &str)], shallow: &[&str], last| {
            let line = |&(id_hex, ref_name): &(&str, &str)| RefLine {
                name: name(ref_name),
                id: Some(id(id_hex)),
                peeled: None,
                target: None,
            };
            WriterToSession::Refs(RefBatch {
                refs: refs.iter().map(line).collect(),
                shallow: shallow.iter().map(|hex| id(hex)).collect(),
                last,
            })
        };
        send(writer, batch(&[(ONE, "refs/heads/a")], &[], false));
        send(writer, batch(&[], &[ONE], false));
        send(writer, batch(&[(TWO, "refs/heads/b")], &[TWO], true));
    });
    let lines = packets(&ours);
    assert!(lines[0].starts_with(&format!("{ONE} refs/heads/a\0")), "{lines:?}");
    assert_eq!(
        lines[1..],
        [format!("{TWO} refs/heads/b\n"), format!("shallow {ONE}"), format!("shallow {TWO}"), "0000".into()]
    );
    assert_eq!(end.result, Ok(()));
}

#[test]
fn reports_are_c_gits_byte_by_byte() {
    for caps in [
        "report-status-v2 side-band-64k quiet object-format=sha1 agent=git/2.47",
        "report-status side-band-64k quiet",
        "report-status report-status-v2",
        "report-status",
        "side-band-64k quiet",
        "",
    ] {
        let (dir, commit) = repository();
        let mut bytes = request(&[
            &format!("{NULL} {commit} refs/heads/new\0 {caps}"),
            &format!("{commit} {NULL} refs/heads/old"),
            &format!("{NULL} {commit} config\n"),
            &format!("{TWO} {commit} refs/heads/other"),
            "0000",
        ]);
        bytes.extend_from_slice(EMPTY_PACK);
        let theirs = after_advertisement(&oracle(dir.path(), 0, &bytes));
        // What C git says about a stale old id names the two values; it is the one refusal that
        // `repo_write` makes here.
        let stale =
            theirs.iter().find_map(|l| l.strip_prefix("ng refs/heads/other ")).unwrap_or("stale").to_owned();
        let (ours, end) = converse(0, &bytes, move |writer, verify| {
            let asked = receive_push(writer, &[]);
            assert_eq!(asked.commands.len(), 3);
            assert_eq!(asked.begin.as_ref().map(|b| (b.atomic, b.pack)), Some((false, true)));
            take_empty_pack(writer, verify);
            decide(writer, &asked, &[("refs/heads/other", &stale)]);
        });
        let ours: Vec<_> = after_advertisement(&ours).into_iter().filter(|l| !l.starts_with("2: ")).collect();
        let theirs: Vec<_> = theirs.into_iter().filter(|l| !l.starts_with("2: ")).collect();
        assert_eq!(ours, theirs, "{caps}");
        if caps.contains("report") {
            assert!(
                ours.contains(&"ng config funny refname\n".into()) && ours.contains(&"unpack ok\n".into())
            );
            assert_eq!(end.result, Ok(()), "refused references are no failure, as with C git");
        } else {
            assert!(end.result.unwrap_err().told, "standard error is all that is left");
        }
        assert_eq!(end.agent, if caps.contains("agent") { "git/2.47" } else { "" });
        assert_eq!(end.received, bytes.len() as u64);
    }
}

#[test]
fn the_pack_is_left_to_verify_from_its_first_byte_on() {
    let lines = [
        &format!("shallow {ONE}\n"),
        &*format!("{NULL} {ONE} refs/heads/a\0report-status push-options atomic"),
        "0000",
        "ci.skip",
        "with \"quotes\"",
        "0000",
    ];
    let pack: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let bytes = [request(&lines), pack.clone()].concat();
    let (answer, end) = converse(1, &bytes, move |writer, verify| {
        let asked = receive_push(writer, &[]);
        assert_eq!(asked.shallows, [id(ONE)]);
        let begin = asked.begin.clone().unwrap();
        assert!(begin.atomic && begin.pack);
        assert_eq!(begin.options, ["ci.skip", "with \\x22quotes\\x22"]);
        send(writer, WriterToSession::TakePack(()));
        let mut read = Vec::new();
        take_input(verify).read_to_end(&mut read).unwrap();
        assert!(read == pack, "verify reads the pack and nothing else");
        decide(writer, &asked, &[]);
    });
    assert_eq!(after_advertisement(&answer), ["unpack ok\n", "ok refs/heads/a\n", "0000"]);
    assert_eq!(end.result, Ok(()));
}

#[test]
fn deletions_come_without_a_pack_and_in_the_order_sent() {
    let lines: Vec<String> = (0..300)
        .rev()
        .map(|n| format!("{ONE} {NULL} refs/heads/b{n}{}", if n == 299 { "\0report-status" } else { "" }))
        .collect();
    let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    lines.push("0000");
    let (answer, end) = converse(0, &request(&lines), |writer, _| {
        let asked = receive_push(writer, &[]);
        assert!(!asked.begin.as_ref().unwrap().pack);
        decide(writer, &asked, &[("refs/heads/b7", "deletion\nprohibited\x1b[2J")]);
    });
    let expected: Vec<String> = std::iter::once("unpack ok\n".to_owned())
        .chain((0..300).rev().map(|n| match n {
            7 => "ng refs/heads/b7 deletion prohibited?[2J\n".to_owned(),
            n => format!("ok refs/heads/b{n}\n"),
        }))
        .chain(["0000".to_owned()])
        .collect();
    assert_eq!(after_advertisement(&answer), expected);
    assert_eq!(end.result, Ok(()));
}

#[test]
fn progress_and_keepalives_reach_the_client_unless_it_wants_quiet() {
    for quiet in ["", " quiet"] {
        let line = format!("{NULL} {ONE} refs/heads/a\0report-status side-band-64k{quiet}");
        let bytes = [request(&[&line, "0000"]), EMPTY_PACK.to_vec()].concat();
        let (answer, _) = converse(0, &bytes, |writer, verify| {
            let asked = receive_push(writer, &[]);
            take_empty_pack(writer, verify);
            let progress = |line: &str, last| {
                verify.send(0, &VerifyToSession::Progress((line.into(), last))).unwrap();
            };
            progress("Indexing objects:   0% (0/9)", false);
            progress("Indexing objects:  11% (1/9)", false);
            progress("Indexing objects: 100% (9/9), done.", true);
            progress("Receiving", false);
            for _ in 0..9 {
                progress("Receiving", false);
                std::thread::sleep(std::time::Duration::from_millis(500));
            }
            progress("Checking \x1b]0;evil\x07objects:  50%", false);
            decide(writer, &asked, &[]);
        });
        let lines = after_advertisement(&answer);
        let (progress, rest): (Vec<&str>, Vec<&str>) =
            lines.iter().map(String::as_str).partition(|l| l.starts_with("2: "));
        if quiet.is_empty() {
            assert_eq!(
                progress,
                [
                    "2: Indexing objects:   0% (0/9)\r",
                    "2: Indexing objects: 100% (9/9), done.\n",
                    "2: Receiving\r",
                    "2: Checking ?]0;evil?objects:  50%\r",
                    "2: Checking ?]0;evil?objects:  50%\n",
                ]
            );
        } else {
            assert!(progress.is_empty());
        }
        assert_eq!(rest, ["keepalive", "unpack ok\n", "ok refs/heads/a\n", "0000", "band end"]);
    }
}
