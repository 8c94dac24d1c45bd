//! Clients that break the protocol, that go, that do not read; and processes that fail.

use std::time::{Duration, Instant};

use super::*;
use proptest::prelude::*;

/// The answer to a request that is refused before anything is asked of `repo_write`.
fn refusal(bytes: &[u8]) -> (Vec<String>, Failure) {
    let (answer, end) = converse(0, bytes, |writer, _| {
        assert!(receive_push(writer, &[]).begin.is_none());
    });
    (after_advertisement(&answer), end.result.unwrap_err())
}

#[test]
fn a_request_that_breaks_the_protocol_is_told_so_where_its_client_listens() {
    let command = format!("{NULL} {ONE} refs/heads/a");
    for (lines, text) in [
        (vec!["push-cert\0push-options"], "unknown capability 'push-cert'"),
        (
            vec![&*format!("{command}\0report-status object-format=sha256")],
            "mismatched object format: server sha1; client sha256",
        ),
        (vec![&*command.clone(), "nonsense"], "unexpected line: 'nonsense'"),
        (vec![&*command.clone(), "shallow x"], "invalid shallow: 'x'"),
        (vec![&*command.clone()], "unexpected end of file"),
        (vec!["\n"], "packet too short"),
        (
            vec![&*format!("{command}\0push-options"), "0000", "a\nb", "0000"],
            "invalid push option: 'a\\x0ab'",
        ),
        (vec![&*format!("{command}\0push-options"), "0000", "a"], "unexpected end of file"),
    ] {
        let (answer, failure) = refusal(&request(&lines));
        assert_eq!(shown(&failure), (text.to_owned(), true));
        assert_eq!(answer, [format!("ERR {text}")]);
        let banded: Vec<String> = lines
            .iter()
            .map(|l| l.replace('\0', "\0side-band-64k "))
            .map(|l| match l.strip_suffix(ONE) {
                Some(_) => l,
                None if l == command => format!("{l}\0side-band-64k"),
                None => l,
            })
            .collect();
        if banded.iter().any(|l| l.contains("side-band-64k")) && !lines[0].starts_with("push-cert") {
            let (answer, _) = refusal(&request(&banded.iter().map(String::as_str).collect::<Vec<_>>()));
            assert_eq!(answer, [format!("3: {text}"), "0000".into()], "{lines:?}");
        }
    }
    for (bytes, text) in [
        (&b"zzzz"[..], "packet length has invalid format"),
        (b"0003", "packet too short"),
        (b"0001", "packet too short"),
        (b"000", "unexpected end of file"),
        (b"00ff0000", "unexpected end of file"),
    ] {
        assert_eq!(shown(&refusal(bytes).1), (text.to_owned(), true));
    }
}

#[test]
fn too_many_commands_or_options() {
    let first = format!("{NULL} {ONE} refs/heads/x\0side-band-64k push-options");
    let names: Vec<String> = (0..5000).map(|n| format!("{NULL} {ONE} refs/heads/b{n}")).collect();
    let mut lines = vec![first.as_str()];
    lines.extend(names.iter().map(String::as_str));
    // A client that writes all before it reads gets to read: nothing it writes breaks its pipe.
    let bytes = [request(&lines), vec![b'x'; 3 << 20]].concat();
    assert_eq!(refusal(&bytes).0, ["3: too many commands: at most 5000 (limit commands)", "0000"]);
    let mut lines = vec![first.as_str(), "0000"];
    lines.extend(std::iter::repeat_n("o", 65));
    assert_eq!(refusal(&request(&lines)).0, ["3: too many push options: at most 64", "0000"]);
    // 64 options of the largest size are taken, and the log gets a part of them that fits into one
    // message.
    let option = "\"".repeat(4000);
    let mut lines = vec![first.as_str(), "0000"];
    lines.extend(std::iter::repeat_n(option.as_str(), 64));
    lines.push("0000");
    let bytes = [request(&lines), EMPTY_PACK.to_vec()].concat();
    let (_, end) = converse(0, &bytes, |writer, verify| {
        let asked = receive_push(writer, &[]);
        let options = asked.begin.clone().unwrap().options;
        assert!(!options.is_empty() && options.iter().map(String::len).sum::<usize>() <= 8192);
        take_empty_pack(writer, verify);
        decide(writer, &asked, &[]);
    });
    assert_eq!(end.result, Ok(()));
}

#[test]
fn a_push_that_is_refused_before_its_pack_is_read_is_reported_to_a_client_that_only_writes() {
    for side_band in ["", " side-band-64k"] {
        // The report is larger than a pipe, and so is the pack: neither may wait for the other.
        let pad = "p".repeat(60);
        let lines: Vec<String> = (0..2000)
            .map(|n| {
                format!(
                    "{NULL} {ONE} refs/heads/{pad}{n}{}",
                    if n == 0 { format!("\0report-status{side_band}") } else { String::new() }
                )
            })
            .collect();
        let mut lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        lines.push("0000");
        let bytes = [request(&lines), vec![7; 5 << 20]].concat();
        let Stage { mut input, mut output, writer, verify, session } = stage(0);
        let others = std::thread::spawn(move || {
            let asked = receive_push(&writer, &[]);
            assert_eq!(asked.commands.len(), 2000);
            send(&writer, WriterToSession::End(Some(Refusal::Internal("no space left on the disk".into()))));
            drop((writer, verify));
        });
        // It closes only when it has read everything, as libgit2 does.
        input.write_all(&bytes).expect("no broken pipe");
        let (closer, mut answer) = (input, Vec::new());
        let started = Instant::now();
        loop {
            let mut buffer = [0; 4096];
            let n = output.read(&mut buffer).unwrap();
            answer.extend_from_slice(&buffer[..n]);
            let whole = if side_band.is_empty() {
                b"unpacker error\n0000".as_slice()
            } else {
                b"unpacker error\n00000000"
            };
            if n == 0 || answer.ends_with(whole) {
                break;
            }
        }
        drop(closer);
        assert!(started.elapsed() < Duration::from_secs(5));
        others.join().unwrap();
        let end = session.join().unwrap();
        let lines = after_advertisement(&answer);
        assert_eq!(lines[0], "unpack no space left on the disk\n");
        assert_eq!(lines[1], format!("ng refs/heads/{pad}0 unpacker error\n"));
        assert_eq!(lines.iter().filter(|l| l.ends_with("unpacker error\n")).count(), 2000);
        // Without a side band the reason would be lost to clients that read no more than `ok`.
        assert_eq!(end.result.is_ok(), !side_band.is_empty());
    }
}

#[test]
fn a_push_that_repo_write_does_not_take_is_reported_by_command() {
    let bytes = request(&[&format!("{ONE} {NULL} refs/heads/a\0report-status side-band-64k"), "0000"]);
    let (answer, end) = converse(0, &bytes, |writer, _| {
        list(writer, &[]);
        writer.recv().unwrap();
        send(writer, WriterToSession::Refused(Refusal::Internal("disk is full".into())));
        assert!(writer.recv().is_err(), "nothing more is asked");
    });
    let expected = ["unpack disk is full\n", "ng refs/heads/a unpacker error\n", "0000", "band end"];
    assert_eq!(after_advertisement(&answer), expected);
    assert_eq!(end.result, Ok(()));
    let (answer, end) = converse(0, &bytes, |writer, _| {
        receive_push(writer, &[]);
        send(writer, WriterToSession::Refused(Refusal::Internal("disk is full".into())));
    });
    assert_eq!(after_advertisement(&answer), expected);
    assert_eq!(end.result, Ok(()));
    // Not even a list: the client has said nothing yet, and an `ERR` packet is what it understands.
    let (answer, end) = converse(0, &bytes, |writer, _| {
        send(writer, WriterToSession::Refused(Refusal::Internal("repository is busy".into())));
    });
    assert_eq!(packets(&answer), ["ERR repository is busy"]);
    assert_eq!(end.result.as_ref().map_err(shown), Err(("repository is busy".to_owned(), false)));
}

#[test]
fn protected_references_are_told_on_standard_error_too() {
    for (reason, told) in [
        ("refs/heads/main: reference is protected", "refs/heads/main: reference is protected"),
        ("refs/heads/: reference namespace is protected", "refs/heads/: reference namespace is protected"),
    ] {
        let bytes = request(&[&format!("{ONE} {NULL} refs/heads/main\0report-status"), "0000"]);
        let (answer, end) = converse(0, &bytes, |writer, _| {
            let asked = receive_push(writer, &[]);
            decide(writer, &asked, &[("refs/heads/main", reason)]);
        });
        assert_eq!(after_advertisement(&answer)[1], format!("ng refs/heads/main {reason}\n"));
        assert_eq!(end.result.as_ref().map_err(shown), Err((told.to_owned(), true)));
    }
}

#[test]
fn a_got_client_is_told_of_protected_references_by_an_error() {
    // It takes `ng` for a success; what was done besides is reported before.
    let bytes = request(&[
        &format!("{ONE} {NULL} refs/heads/main\0report-status agent=got/0.117"),
        &format!("{ONE} {NULL} refs/heads/a"),
        &format!("{ONE} {NULL} refs/heads/b"),
        "0000",
    ]);
    let (answer, end) = converse(0, &bytes, |writer, _| {
        let asked = receive_push(writer, &[]);
        decide(
            writer,
            &asked,
            &[
                ("refs/heads/main", "refs/heads/main: reference is protected"),
                ("refs/heads/b", "no such reference"),
            ],
        );
    });
    let lines = ["unpack ok\n", "ok refs/heads/a\n", "ng refs/heads/b no such reference\n"];
    let error = "ERR refs/heads/main: reference is protected";
    assert_eq!(after_advertisement(&answer), [&lines[..], &[error, "0000"]].concat());
    assert_eq!(
        end.result.as_ref().map_err(shown),
        Err(("refs/heads/main: reference is protected".to_owned(), true))
    );
}

#[test]
fn an_impossible_name_in_an_atomic_push_refuses_all_of_it() {
    let bytes = request(&[
        &format!("{ONE} {NULL} refs/heads/a\0report-status atomic"),
        &format!("{ONE} {NULL} refs/heads/../../config"),
        &format!("{ONE} {NULL} refs/heads/b"),
        "0000",
    ]);
    let (answer, end) = converse(0, &bytes, |writer, _| {
        assert!(receive_push(writer, &[]).begin.is_none(), "nothing is begun");
    });
    assert_eq!(
        after_advertisement(&answer),
        [
            "unpack ok\n",
            "ng refs/heads/a atomic push failure\n",
            "ng refs/heads/../../config funny refname\n",
            "ng refs/heads/b atomic push failure\n",
            "0000"
        ]
    );
    assert_eq!(end.result, Ok(()));
}

#[test]
fn a_failing_process_is_reported_and_what_was_decided_is_not_lost() {
    let lines = [
        &*format!("{NULL} {ONE} refs/heads/a\0report-status side-band-64k"),
        &format!("{NULL} {ONE} refs/heads/b"),
        "0000",
    ];
    let bytes = [request(&lines), EMPTY_PACK.to_vec()].concat();
    let ended = "repository process ended before it answered";
    // Before it heard everything: nothing was done.
    let (answer, end) = converse(0, &bytes, |writer, _| {
        list(writer, &[]);
    });
    assert_eq!(after_advertisement(&answer)[1], "ng refs/heads/a unpacker error\n");
    assert!(end.result.unwrap_err().told);
    // After it was told to begin.
    let (answer, end) = converse(0, &bytes, |writer, verify| {
        let asked = receive_push(writer, &[]);
        take_empty_pack(writer, verify);
        let done = CommandResult { name: asked.commands[0].name.clone(), refused: None };
        send(writer, WriterToSession::Results(vec![done]));
    });
    let answer = after_advertisement(&answer);
    assert_eq!(answer[0], format!("unpack {ended}\n"));
    assert!(answer[1] == "ok refs/heads/a\n" && answer[2].starts_with("ng refs/heads/b no answer"));
    assert_eq!(end.result.as_ref().map_err(shown), Err((ended.to_owned(), true)));
    // `verify` failed, and `repo_write` says so; the client's pack is still under way.
    let long = [request(&lines), vec![1; 3 << 20]].concat();
    let (answer, end) = converse(0, &long, |writer, verify| {
        receive_push(writer, &[]);
        send(writer, WriterToSession::TakePack(()));
        drop(take_input(verify));
        send(writer, WriterToSession::End(Some(Refusal::Internal("pack is damaged: bad checksum".into()))));
    });
    let answer = after_advertisement(&answer);
    assert_eq!(answer[..2], ["unpack pack is damaged: bad checksum\n", "ng refs/heads/a unpacker error\n"]);
    assert_eq!(end.result, Ok(()));
}

#[test]
fn a_repository_process_that_answers_out_of_turn_is_not_believed() {
    let bytes = request(&[&format!("{ONE} {NULL} refs/heads/a\0report-status"), "0000"]);
    let result = |n: &str| WriterToSession::Results(vec![CommandResult { name: name(n), refused: None }]);
    let none = "ng refs/heads/a no answer";
    for (messages, told) in [
        (vec![result("refs/heads/b"), WriterToSession::End(None)], none),
        (vec![result("refs/heads/a"), result("refs/heads/a")], "ok refs/heads/a"),
        (vec![WriterToSession::TakePack(()), WriterToSession::End(None)], none),
        (vec![WriterToSession::Taken(())], none),
    ] {
        let (answer, end) = converse(0, &bytes, move |writer, _| {
            receive_push(writer, &[]);
            messages.into_iter().for_each(|message| send(writer, message));
        });
        let answer = after_advertisement(&answer);
        assert!(answer[0] != "unpack ok\n" && answer[1].starts_with(told), "{answer:?}");
        assert!(end.result.is_err());
    }
    let (answer, _) = converse(0, &bytes, |writer, _| {
        receive_push(writer, &[]);
        send(writer, WriterToSession::End(None));
    });
    assert!(after_advertisement(&answer)[1].starts_with(none));
}

#[test]
fn a_client_that_goes_or_does_not_read_stops_nobody() {
    let bytes = [
        request(&[&format!("{NULL} {ONE} refs/heads/a\0report-status side-band-64k"), "0000"]),
        EMPTY_PACK.to_vec(),
    ]
    .concat();
    for goes in [true, false] {
        let Stage { mut input, output, writer, verify, session } = stage(0);
        input.write_all(&bytes).unwrap();
        let asked = receive_push(&writer, &[]);
        take_empty_pack(&writer, &verify);
        let mut output = Some(output);
        if goes {
            drop(output.take());
        }
        // Far more progress than a pipe holds: `verify` is never kept waiting.
        for n in 0..5000 {
            let line = format!("{n} {}", "x".repeat(100));
            verify.send(0, &VerifyToSession::Progress((line, true))).unwrap();
        }
        decide(&writer, &asked, &[]);
        if let Some(mut output) = output {
            let mut answer = Vec::new();
            output.read_to_end(&mut answer).unwrap();
            assert!(after_advertisement(&answer).contains(&"ok refs/heads/a\n".into()));
            assert_eq!(session.join().unwrap().result, Ok(()));
        } else {
            assert!(session.join().unwrap().result.unwrap_err().told);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), framed: bool, banded: bool) {
        let mut all = Vec::new();
        if framed {
            let first = format!("{NULL} {ONE} refs/heads/a\0report-status {}", if banded { "side-band-64k push-options" } else { "" });
            all = request(&[&first]);
            libproto::pktline::write(&mut all, &bytes).unwrap();
            all.extend_from_slice(b"0000");
        }
        all.extend_from_slice(&bytes);
        let (answer, _) = converse(0, &all, |writer, _| {
            let asked = receive_push(writer, &[]);
            if asked.begin.is_some() {
                decide(writer, &asked, &[]);
            }
        });
        packets(&answer);
    }
}
