//! C git's own client against this conversation, and the same pushes against C git's server: both
//! must end alike.
//!
//! `repo_write` and `verify` are played with C git's commands; the client reaches the session
//! through two named pipes.

use std::fs::OpenOptions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::*;

/// A client's repository, and two equal servers: one for each side of the comparison.
struct Pair {
    dir: tempfile::TempDir,
    pushes: std::cell::Cell<u32>,
}

impl Pair {
    fn new() -> Pair {
        let dir = tempfile::tempdir().unwrap();
        for server in ["ours.git", "theirs.git"] {
            run(dir.path(), &["init", "-q", "--bare", "-b", "main", server], b"");
            run(&dir.path().join(server), &["config", "receive.advertisePushOptions", "true"], b"");
        }
        run(dir.path(), &["init", "-q", "-b", "main", "work"], b"");
        let pair = Pair { dir, pushes: Default::default() };
        for n in 0..5 {
            pair.commit(n);
        }
        pair
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn commit(&self, n: u32) {
        std::fs::write(self.path(&format!("work/file{n}")), format!("{n}\n").repeat(2000)).unwrap();
        run(&self.path("work"), &["add", "."], b"");
        run(&self.path("work"), &["commit", "-q", "-m", &n.to_string()], b"");
    }

    fn refs(&self, server: &str) -> String {
        line(&self.path(server), &["for-each-ref", "--format=%(objectname) %(refname)"])
    }

    /// Pushes to both, from this repository, and compares; returns standard output and error of
    /// ours.
    fn push(&self, from: &str, args: &[&str]) -> (bool, String, String) {
        let number = self.pushes.replace(self.pushes.get() + 1);
        let theirs = self.git_push(from, "theirs.git", args, None);
        let pipes = self.path(&format!("pipes{number}"));
        std::fs::create_dir(&pipes).unwrap();
        for pipe in ["in", "out"] {
            nix::unistd::mkfifo(&pipes.join(pipe), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        let script = pipes.join("receive-pack");
        let (input, output) = (pipes.join("in"), pipes.join("out"));
        let text = format!("#!/bin/sh\ncat <'{}' &\ncat >'{}'\nwait\n", output.display(), input.display());
        std::fs::write(&script, text).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let server = self.path("ours.git");
        let served = std::thread::spawn(move || {
            let output = OpenOptions::new().write(true).open(output).unwrap();
            let input = File::open(input).unwrap();
            let (writer, verify, session) = session(input.into(), output.into(), 0);
            play(&server, &writer, &verify);
            drop((writer, verify));
            session.join().unwrap().result
        });
        let ours = self.git_push(from, "ours.git", args, Some(&script));
        let result = served.join().unwrap();
        assert_eq!(result, Ok(()), "{args:?}: {ours:?}");
        assert_eq!(ours.0, theirs.0, "{args:?}: {ours:?} {theirs:?}");
        assert_eq!(ours.1.replace("ours.git", "theirs.git"), theirs.1, "{args:?}");
        assert_eq!(self.refs("ours.git"), self.refs("theirs.git"), "{args:?}");
        run(&self.path("ours.git"), &["fsck", "--full", "--strict", "--connectivity-only"], b"");
        ours
    }

    fn git_push(
        &self,
        from: &str,
        to: &str,
        args: &[&str],
        program: Option<&Path>,
    ) -> (bool, String, String) {
        let mut command = git(&["push", "--porcelain"]);
        if let Some(program) = program {
            command.arg(format!("--receive-pack={}", program.display()));
        }
        let split = args.iter().position(|a| !a.starts_with('-')).unwrap_or(args.len());
        command.args(&args[..split]).arg(self.path(to)).args(&args[split..]);
        let output = command.current_dir(self.path(from)).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// Plays `repo_write` and `verify` on this repository.
fn play(server: &Path, writer: &WriterEnd, verify: &VerifyEnd) {
    let refs = line(server, &["for-each-ref", "--format=%(objectname) %(refname)"]);
    let refs: Vec<(&str, &str)> = refs.lines().filter_map(|l| l.split_once(' ')).collect();
    let asked = receive_push(writer, &refs);
    let Some(begin) = &asked.begin else { return };
    if begin.pack {
        send(writer, WriterToSession::TakePack(()));
        verify.send(0, &VerifyToSession::Progress(("Receiving".into(), true))).unwrap();
        let output = git(&["index-pack", "--stdin", "--fix-thin"])
            .current_dir(server)
            .stdin(take_input(verify))
            .output()
            .unwrap();
        if !output.status.success() {
            return send(
                writer,
                WriterToSession::End(Some(Refusal::Internal("index-pack abnormal exit".into()))),
            );
        }
        verify.send(0, &VerifyToSession::InputEnd(0)).unwrap();
    }
    let current = |name: &str| refs.iter().find(|(_, n)| *n == name).map_or(NULL, |(id, _)| id).to_owned();
    let stale = |c: &RefCommand| current(&String::from_utf8_lossy(c.name.as_bytes())) != c.old.to_string();
    let mut refused = Vec::new();
    for command in &asked.commands {
        let name = String::from_utf8(command.name.as_bytes().to_vec()).unwrap();
        if begin.atomic && asked.commands.iter().any(stale) {
            refused.push((name, "atomic push failure"));
        } else if stale(command) {
            refused.push((name, "failed to update ref"));
        } else if command.new.is_null() {
            run(server, &["update-ref", "-d", &name], b"");
        } else {
            run(server, &["update-ref", &name, &command.new.to_string()], b"");
        }
    }
    let shallow: String = asked.shallows.iter().map(|id| format!("{id}\n")).collect();
    if !shallow.is_empty() {
        std::fs::write(server.join("shallow"), shallow).unwrap();
    }
    let refused: Vec<(&str, &str)> = refused.iter().map(|(name, reason)| (name.as_str(), *reason)).collect();
    decide(writer, &asked, &refused);
}

#[test]
fn pushes_of_every_kind_end_as_with_c_git() {
    let pair = Pair::new();
    let (ok, _, said) = pair.push("work", &["--progress", "main"]);
    assert!(ok && said.contains("remote: Receiving"), "{said}");
    pair.commit(5);
    assert!(pair.push("work", &["main:main", "main~2:refs/heads/new", "main~1:refs/tags/t"]).0);
    assert!(pair.push("work", &["main"]).1.contains("[up to date]"));
    // An existing commit under a new name, and a forced step back.
    assert!(pair.push("work", &["main~3:refs/heads/existing"]).0);
    assert!(!pair.push("work", &["main~4:main"]).0);
    assert!(pair.push("work", &["--force", "main~4:main"]).0);
    assert!(pair.push("work", &["--dry-run", "main"]).0);
    assert!(pair.push("work", &["-q", "--push-option=ci.skip", "main"]).0);
    assert!(
        pair.push("work", &["--atomic", "main~2:refs/heads/x", "main:refs/heads/y", ":refs/heads/new"]).0
    );
    assert!(pair.push("work", &["--delete", "x", "y"]).0);
    run(&pair.path("work"), &["tag", "-a", "-m", "tag", "v1"], b"");
    assert!(pair.push("work", &["--tags"]).0);
    assert!(pair.push("work", &["--mirror"]).0);
}

#[test]
fn a_push_from_a_shallow_clone() {
    let pair = Pair::new();
    assert!(pair.push("work", &["main"]).0);
    let origin = format!("file://{}", pair.path("theirs.git").display());
    run(pair.dir.path(), &["clone", "-q", "--depth", "1", &origin, "shallow"], b"");
    std::fs::write(pair.path("shallow/more"), "more").unwrap();
    run(&pair.path("shallow"), &["add", "."], b"");
    run(&pair.path("shallow"), &["commit", "-q", "-m", "more"], b"");
    let (ok, ..) = pair.push("shallow", &["HEAD:refs/heads/from-shallow"]);
    assert!(ok);
}

#[test]
fn what_a_refused_client_shows() {
    let pair = Pair::new();
    let (input, output) = (pair.path("in"), pair.path("out"));
    for pipe in [&input, &output] {
        nix::unistd::mkfifo(pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let program = format!("f() {{ cat <'{}' & cat >'{}'; wait; }}; f", output.display(), input.display());
    // Refused before the pack is read; refused by the session itself; not even listed.
    for case in 0..3 {
        let (input, output) = (input.clone(), output.clone());
        let served = std::thread::spawn(move || {
            let output = OpenOptions::new().write(true).open(output).unwrap();
            let input = File::open(input).unwrap();
            let (writer, _verify, session) = session(input.into(), output.into(), 0);
            if case == 2 {
                send(&writer, WriterToSession::Refused(Refusal::Internal("repository is busy".into())));
            } else if receive_push(&writer, &[]).begin.is_some() {
                send(
                    &writer,
                    WriterToSession::End(Some(Refusal::Internal("no space left on the disk".into()))),
                );
            }
            session.join().unwrap()
        });
        let mut command = git(&["push", &format!("--receive-pack={program}")]);
        command.arg(pair.path("ours.git")).arg("main");
        if case == 1 {
            command.args((0..65).map(|n| format!("-oa{n}")));
        }
        let said = command.current_dir(pair.path("work")).output().unwrap();
        served.join().unwrap();
        let said = String::from_utf8(said.stderr).unwrap();
        let expected: &[&str] = match case {
            0 => &[
                "error: remote unpack failed: no space left on the disk\n",
                "main -> main (unpacker error)\n",
            ],
            1 => &["remote: too many push options: at most 64"],
            _ => &["fatal: remote error: repository is busy\n"],
        };
        assert!(expected.iter().all(|text| said.contains(text)), "{said}");
        assert!(!said.contains("died of signal"), "{said}");
    }
}
