//! Transactions, their results and C git's view of them.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use tempfile::TempDir;

use super::*;
use crate::config::Shared;
use crate::fs_ops::Op;
use crate::receive::Quarantine;
use crate::receive::quarantine::sweep;

mod beside_pack_refs;
mod crash;
mod names_that_exclude;

use crash::copy;

fn git(dir: &Path, args: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new("git")
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir)
        .env("GIT_AUTHOR_NAME", "A")
        .env("GIT_AUTHOR_EMAIL", "a@x")
        .env("GIT_COMMITTER_NAME", "C")
        .env("GIT_COMMITTER_EMAIL", "c@x")
        .env("GIT_AUTHOR_DATE", "1700000000 +0000")
        .env("GIT_COMMITTER_DATE", "1700000000 +0000")
        .output()
        .unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// A bare repository with three commits in a row and a tag object; gives their ids.
fn repository() -> (TempDir, Vec<ObjectId>) {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path();
    git(p, &["init", "-q", "--bare", "-b", "main"]).unwrap();
    let tree = git(p, &["hash-object", "-t", "tree", "-w", "/dev/null"]).unwrap();
    let mut ids: Vec<String> = Vec::new();
    for i in 0..3 {
        let message = format!("c{i}");
        let mut args = vec!["commit-tree", "-m", &message, &tree];
        if let Some(last) = ids.last() {
            args.extend(["-p", last]);
        }
        ids.push(git(p, &args).unwrap());
    }
    git(p, &["tag", "-a", "-m", "t", "first", &ids[0]]).unwrap();
    ids.push(git(p, &["rev-parse", "first"]).unwrap());
    let ids = ids.iter().map(|hex| ObjectId::from_hex(hex.as_bytes()).unwrap()).collect();
    (dir, ids)
}

fn fs_of(dir: &Path) -> Fs {
    Fs::new(File::open(dir).unwrap().into(), Shared::Umask)
}

fn update(name: &str, old: Option<ObjectId>, new: Option<ObjectId>) -> Update {
    let null = ObjectId::null(HashKind::Sha1);
    Update {
        name: RefName::parse(name.as_bytes()).unwrap(),
        old: old.unwrap_or(null),
        new: new.unwrap_or(null),
        alias_of: Vec::new(),
    }
}

/// The same through a symbolic reference that leads to these names.
fn through(mut update: Update, names: &[&str]) -> Update {
    update.alias_of = names.iter().map(|name| RefName::parse(name.as_bytes()).unwrap()).collect();
    update
}

fn quick<'a>() -> TransactionOptions<'a> {
    TransactionOptions {
        ref_timeout: Duration::from_millis(50),
        packed_timeout: Duration::from_millis(50),
        ..TransactionOptions::default()
    }
}

/// How a push is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Each,
    Atomic,
    /// Each by itself, in one change of packed-refs.
    Together,
}

const WAYS: [Way; 3] = [Way::Each, Way::Atomic, Way::Together];

fn commit_as(fs: &Fs, staging: &Staging, updates: &[Update], way: Way) -> Vec<RefResult> {
    let from = (way == Way::Together).then_some(1);
    let options = TransactionOptions { one_change_from: from, ..quick() };
    match way {
        Way::Atomic => commit_atomic(fs, staging, HashKind::Sha1, updates, &options),
        Way::Each | Way::Together => commit_each(fs, staging, HashKind::Sha1, updates, &options),
    }
}

fn commit_in(dir: &Path, updates: &[Update], way: Way) -> Vec<RefResult> {
    let fs = fs_of(dir);
    let quarantine = Quarantine::create(&fs).unwrap();
    let results = commit_as(&fs, &quarantine.staging(), updates, way);
    quarantine.remove(&fs).unwrap();
    results
}

fn commit(dir: &Path, updates: &[Update], atomic: bool) -> Vec<RefResult> {
    commit_in(dir, updates, if atomic { Way::Atomic } else { Way::Each })
}

/// Enough patience for a git beside us.
fn commit_patiently(fs: &Fs, staging: &Staging, updates: &[Update], way: Way) -> Vec<RefResult> {
    let long = Duration::from_secs(30);
    let options = TransactionOptions {
        ref_timeout: long,
        packed_timeout: long,
        one_change_from: (way == Way::Together).then_some(1),
        ..quick()
    };
    match way {
        Way::Atomic => commit_atomic(fs, staging, HashKind::Sha1, updates, &options),
        Way::Each | Way::Together => commit_each(fs, staging, HashKind::Sha1, updates, &options),
    }
}

/// Makes changes by one `git update-ref --stdin`.
fn update_refs(dir: &Path, lines: &str) {
    use std::io::Write as _;
    let mut command = Command::new("git");
    command.args(["update-ref", "--stdin"]).current_dir(dir).stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// Tells a `git update-ref --stdin` something, and reads so many lines of answer.
fn say(to: &mut ChildStdin, from: &mut ChildStdout, text: &str, answers: usize) -> std::io::Result<()> {
    use std::io::{Read as _, Write as _};
    to.write_all(text.as_bytes())?;
    for _ in 0..answers {
        let mut byte = [0];
        while byte[0] != b'\n' {
            from.read_exact(&mut byte)?;
        }
    }
    Ok(())
}

fn refs(dir: &Path) -> String {
    git(dir, &["for-each-ref", "--format=%(refname) %(objectname)"]).unwrap()
}

/// Every file of the repository but its objects: nothing temporary may be among them.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(at) = stack.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                stack.push(entry.path());
            }
            found.push(entry.path().strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
        }
    }
    found.sort();
    found
}

fn nothing_temporary(dir: &Path) {
    let files = files(dir);
    for file in &files {
        let temporary = [".lock", ".new", ".keep"].iter().any(|end| file.ends_with(end));
        assert!(!temporary && !file.contains("incoming"), "{file}");
        if let Some(stem) = file.strip_suffix(".pack") {
            assert!(files.contains(&format!("{stem}.idx")), "{file} has no index");
        }
    }
}

fn clean(dir: &Path) {
    nothing_temporary(dir);
    git(dir, &["fsck", "--full", "--strict"]).unwrap();
}

#[test]
fn create_change_delete_loose_and_packed() {
    for packed in [false, true] {
        for way in WAYS {
            let (dir, ids) = repository();
            let p = dir.path();
            git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
            git(p, &["update-ref", "refs/heads/old/gone", &ids[0].to_string()]).unwrap();
            if packed {
                git(p, &["pack-refs", "--all"]).unwrap();
            }
            let results = commit_in(
                p,
                &[
                    update("refs/heads/main", Some(ids[0]), Some(ids[1])),
                    update("refs/heads/new/deep/er", None, Some(ids[2])),
                    update("refs/heads/old/gone", Some(ids[0]), None),
                ],
                way,
            );
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            let want = format!(
                "refs/heads/main {}\nrefs/heads/new/deep/er {}\nrefs/tags/first {}",
                ids[1], ids[2], ids[3]
            );
            assert_eq!(refs(p), want, "packed {packed} {way:?}");
            clean(p);
            assert!(!p.join("refs/heads/old").exists());
        }
    }
}

#[test]
fn a_stale_old_value_fails_itself_alone_or_all() {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    let updates = [
        update("refs/heads/main", Some(ids[1]), Some(ids[2])),
        update("refs/heads/b", None, Some(ids[2])),
        update("refs/heads/c", Some(ids[0]), None),
        update("refs/heads/main", None, Some(ids[2])),
    ];
    let before = refs(p);
    let results = commit(p, &updates[..3], true);
    assert!(matches!(results[0], Err(RefError::Other | RefError::Changed(_))), "{results:?}");
    assert!(results.iter().all(Result::is_err));
    assert_eq!(refs(p), before);
    clean(p);
    for way in [Way::Each, Way::Together] {
        let results = commit_in(p, &updates, way);
        assert!(matches!(results[0], Err(RefError::Changed(Some(id))) if id == ids[0]));
        assert!(results[1].is_ok());
        assert!(matches!(results[2], Err(RefError::Changed(None))));
        assert!(matches!(results[3], Err(RefError::Twice)));
        clean(p);
        assert!(commit_in(p, &[update("refs/heads/b", Some(ids[2]), None)], way)[0].is_ok());
    }
}

#[test]
fn names_that_exclude_each_other() {
    for packed in [false, true] {
        for way in WAYS {
            let (dir, ids) = repository();
            let p = dir.path();
            git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
            git(p, &["update-ref", "refs/heads/dir/x", &ids[0].to_string()]).unwrap();
            if packed {
                git(p, &["pack-refs", "--all"]).unwrap();
            }
            for (name, other) in
                [("refs/heads/main/sub", "refs/heads/main"), ("refs/heads/dir", "refs/heads/dir/x")]
            {
                // Two updates, so that `atomic` is more than one by itself.
                let also = update("refs/heads/other", None, Some(ids[0]));
                let results = commit_in(p, &[update(name, None, Some(ids[1])), also.clone()], way);
                match &results[0] {
                    Err(RefError::Conflict(found)) => assert_eq!(found, other.as_bytes()),
                    result => panic!("{name} packed {packed} {way:?}: {result:?}"),
                }
                if way != Way::Atomic {
                    commit_in(p, &[update("refs/heads/other", Some(ids[0]), None)], way);
                }
                clean(p);
            }
            // Empty directories are no reason.
            fs::create_dir_all(p.join("refs/heads/empty/of/all")).unwrap();
            let results = commit_in(p, &[update("refs/heads/empty", None, Some(ids[1]))], way);
            assert!(results[0].is_ok(), "{results:?}");
            let results = commit_in(
                p,
                &[update("refs/heads/p", None, Some(ids[1])), update("refs/heads/p/q", None, Some(ids[1]))],
                way,
            );
            assert!(results.iter().any(Result::is_err));
            clean(p);
        }
    }
}

#[test]
fn locks_of_git_are_respected() {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    git(p, &["pack-refs", "--all"]).unwrap();
    let change = [update("refs/heads/main", Some(ids[0]), Some(ids[1]))];
    let delete = [update("refs/heads/main", Some(ids[0]), None)];
    fs::write(p.join("refs/heads/main.lock"), "").unwrap();
    for updates in [&change, &delete] {
        for way in WAYS {
            assert!(matches!(commit_in(p, updates, way)[0], Err(RefError::Locked)));
        }
    }
    assert!(p.join("refs/heads/main.lock").exists());
    fs::remove_file(p.join("refs/heads/main.lock")).unwrap();
    fs::write(p.join("packed-refs.lock"), "").unwrap();
    assert!(matches!(commit(p, &delete, false)[0], Err(RefError::Locked)));
    assert!(commit(p, &change, false)[0].is_ok());
    assert!(p.join("packed-refs.lock").exists());
}

#[test]
fn symbolic_references_that_were_not_followed_are_left_alone() {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    git(p, &["symbolic-ref", "refs/heads/alias", "refs/heads/main"]).unwrap();
    for atomic in [false, true] {
        for new in [Some(ids[1]), None] {
            let results = commit(p, &[update("refs/heads/alias", Some(ids[0]), new)], atomic);
            assert!(matches!(results[0], Err(RefError::Symbolic)), "{results:?}");
        }
    }
    std::os::unix::fs::symlink("main", p.join("refs/heads/link")).unwrap();
    let link = &commit(p, &[update("refs/heads/link", Some(ids[0]), Some(ids[1]))], false)[0];
    assert!(matches!(link, Err(RefError::Link)), "{link:?}");
    assert_eq!(git(p, &["rev-parse", "main"]).unwrap(), ids[0].to_string());
}

#[test]
fn a_branch_changes_through_its_aliases_and_an_alias_is_deleted_alone() {
    for atomic in [false, true] {
        let (dir, ids) = repository();
        let p = dir.path();
        let main_is = |at: usize| assert_eq!(git(p, &["rev-parse", "main"]), Ok(ids[at].to_string()));
        git(p, &["config", "core.logAllRefUpdates", "true"]).unwrap();
        git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
        git(p, &["symbolic-ref", "refs/heads/b", "refs/heads/main"]).unwrap();
        git(p, &["symbolic-ref", "refs/heads/a", "refs/heads/b"]).unwrap();
        git(p, &["symbolic-ref", "refs/heads/new", "refs/heads/x/unborn"]).unwrap();
        let chain = ["refs/heads/b", "refs/heads/main"];
        let a = |old: usize, new: Option<usize>| {
            through(update("refs/heads/a", Some(ids[old]), new.map(|new| ids[new])), &chain)
        };
        // With something else, so that it is atomic.
        let other = |n: usize| update(&format!("refs/heads/other{n}"), None, Some(ids[0]));
        let reflog =
            Reflog { identity: "P <p@x>".into(), seconds: 1_700_000_000, message: "push".into(), all: false };
        let options = TransactionOptions { reflog: Some(reflog), ..quick() };
        let run = |updates: &[Update]| {
            let fs = fs_of(p);
            let quarantine = Quarantine::create(&fs).unwrap();
            let act = if atomic { commit_atomic } else { commit_each };
            let results = act(&fs, &quarantine.staging(), HashKind::Sha1, updates, &options);
            quarantine.remove(&fs).unwrap();
            results
        };
        let lines = |name: &str| {
            fs::read_to_string(p.join("logs").join(name)).unwrap_or_default().matches("\tpush").count()
        };
        assert!(run(&[a(0, Some(1)), other(0)]).iter().all(Result::is_ok));
        main_is(1);
        for name in ["refs/heads/a", "refs/heads/b", "refs/heads/main", "HEAD"] {
            assert_eq!(lines(name), 1, "{name}");
        }
        // Another value than the client believes; another way than was judged.
        assert!(matches!(run(&[a(0, Some(2)), other(1)])[0], Err(RefError::Changed(Some(_)))));
        let other_way = through(update("refs/heads/a", Some(ids[1]), Some(ids[2])), &["refs/heads/main"]);
        assert!(matches!(run(&[other_way, other(2)])[0], Err(RefError::Elsewhere)));
        // A lock on any of the names.
        for locked in ["a", "b", "main"] {
            let lock = p.join(format!("refs/heads/{locked}.lock"));
            File::create(&lock).unwrap();
            assert!(matches!(run(&[a(1, Some(2)), other(3)])[0], Err(RefError::Locked)), "{locked}");
            fs::remove_file(lock).unwrap();
            let _ = git(p, &["update-ref", "-d", "refs/heads/other3"]);
        }
        main_is(1);
        // To a branch that is not there yet.
        let new = through(update("refs/heads/new", None, Some(ids[2])), &["refs/heads/x/unborn"]);
        assert!(run(&[new, other(4)]).iter().all(Result::is_ok));
        assert_eq!(git(p, &["rev-parse", "refs/heads/x/unborn"]), Ok(ids[2].to_string()));
        assert_eq!(git(p, &["symbolic-ref", "refs/heads/new"]), Ok("refs/heads/x/unborn".into()));
        // Deleted alone.
        assert!(run(&[a(1, None), other(5)]).iter().all(Result::is_ok));
        main_is(1);
        assert!(git(p, &["rev-parse", "--verify", "refs/heads/a"]).is_err());
        assert_eq!(git(p, &["symbolic-ref", "refs/heads/b"]), Ok("refs/heads/main".into()));
        assert!(!p.join("logs/refs/heads/a").exists() && p.join("logs/refs/heads/b").exists());
        clean(p);
    }
}

#[test]
fn head_is_pointed_to_another_branch_only_if_it_names_the_one_it_did() {
    let (dir, _) = repository();
    let p = dir.path();
    let name = |name: &str| RefName::parse(format!("refs/heads/{name}").as_bytes()).unwrap();
    let point = |from: &str, to: &str| {
        let fs = fs_of(p);
        let quarantine = Quarantine::create(&fs).unwrap();
        let pause = Duration::from_millis(50);
        let result = point_head(&fs, &quarantine.staging(), &name(from), &name(to), pause);
        quarantine.remove(&fs).unwrap();
        (result, git(p, &["symbolic-ref", "HEAD"]).unwrap())
    };
    assert!(matches!(point("main", "dev"), (Ok(()), now) if now == "refs/heads/dev"));
    assert!(matches!(point("main", "x"), (Err(RefError::Elsewhere), now) if now == "refs/heads/dev"));
    File::create(p.join("HEAD.lock")).unwrap();
    assert!(matches!(point("dev", "x"), (Err(RefError::Locked), now) if now == "refs/heads/dev"));
    fs::remove_file(p.join("HEAD.lock")).unwrap();
    nothing_temporary(p);
}

#[test]
fn a_no_op_writes_nothing() {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    let ops = Rc::new(RefCell::new(Vec::new()));
    let log = ops.clone();
    let fs = fs_of(p).observed(Box::new(move |op| log.borrow_mut().push(op.clone())));
    let staging = Staging::new(b"objects/none");
    let updates = [update("refs/heads/main", Some(ids[0]), Some(ids[0]))];
    assert!(commit_each(&fs, &staging, HashKind::Sha1, &updates, &quick())[0].is_ok());
    assert!(
        commit_atomic(&fs, &staging, HashKind::Sha1, &[&updates[..], &updates[..]].concat(), &quick())[0]
            .is_ok()
    );
    assert_eq!(*ops.borrow(), []);
}

#[test]
fn reflogs_are_written_and_made_for_branches() {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["config", "core.logAllRefUpdates", "true"]).unwrap();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    let fs = fs_of(p);
    let quarantine = Quarantine::create(&fs).unwrap();
    let reflog =
        Reflog { identity: "P <p@x>".into(), seconds: 1_700_000_000, message: "push\nx".into(), all: false };
    let options = TransactionOptions { reflog: Some(reflog), ..quick() };
    let updates = [
        update("refs/heads/main", Some(ids[0]), Some(ids[1])),
        update("refs/heads/new/branch", None, Some(ids[1])),
        update("refs/tags/none", None, Some(ids[1])),
    ];
    // A directory is left where the log belongs.
    fs::create_dir_all(p.join("logs/refs/heads/new/branch/below")).unwrap();
    let results = commit_each(&fs, &quarantine.staging(), HashKind::Sha1, &updates, &options);
    assert!(results.iter().all(Result::is_ok));
    // A push that fails under its lock takes its lines back, and a log that it made.
    let wrong = [
        update("refs/heads/main", Some(ids[0]), Some(ids[1])),
        update("refs/heads/new/branch/x", None, Some(ids[1])),
    ];
    let results = commit_each(&fs, &quarantine.staging(), HashKind::Sha1, &wrong, &options);
    assert!(results.iter().all(Result::is_err));
    quarantine.remove(&fs).unwrap();
    assert!(!p.join("logs/refs/tags/none").exists() && !p.join("logs/refs/heads/new/branch/x").exists());
    assert_eq!(fs::read_to_string(p.join("logs/refs/heads/new/branch")).unwrap().lines().count(), 1);
    for log in ["main", "HEAD"] {
        let shown = git(p, &["reflog", "show", "--format=%H %gs %gn", log]).unwrap();
        assert_eq!(shown.lines().next().unwrap(), format!("{} pushx P", ids[1]), "{log}");
    }
    assert!(commit(p, &[update("refs/heads/main", Some(ids[1]), None)], false)[0].is_ok());
    assert!(!p.join("logs/refs/heads/main").exists());
}

#[test]
fn peeled_values_are_kept_or_promised_no_more() {
    for known in [true, false] {
        let (dir, ids) = repository();
        let p = dir.path();
        git(p, &["pack-refs", "--all"]).unwrap();
        let fs = fs_of(p);
        let quarantine = Quarantine::create(&fs).unwrap();
        let (tag, target) = (ids[3], ids[0]);
        let peel = move |id: &ObjectId| match (known, *id == tag) {
            (false, _) => Peel::Unknown,
            (true, true) => Peel::To(target),
            (true, false) => Peel::Nothing,
        };
        let options = TransactionOptions { peel: &peel, ..quick() };
        let updates =
            [update("refs/tags/t2", None, Some(tag)), update("refs/heads/main", None, Some(ids[1]))];
        let results = commit_atomic(&fs, &quarantine.staging(), HashKind::Sha1, &updates, &options);
        assert!(results.iter().all(Result::is_ok));
        quarantine.remove(&fs).unwrap();
        let shown = git(p, &["for-each-ref", "--format=%(refname) %(*objectname)", "refs/tags"]).unwrap();
        assert_eq!(shown, format!("refs/tags/first {target}\nrefs/tags/t2 {target}"));
        let text = fs::read_to_string(p.join("packed-refs")).unwrap();
        assert_eq!(text.contains("fully-peeled"), known, "{text}");
        clean(p);
    }
}

#[test]
fn many_at_once_from_many_threads() {
    for from in [None, Some(1)] {
        many_at_once(from);
    }
}

fn many_at_once(one_change_from: Option<usize>) {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    git(p, &["pack-refs", "--all"]).unwrap();
    let ref_timeout = Duration::from_secs(20);
    let patient = || TransactionOptions { ref_timeout, one_change_from, ..TransactionOptions::default() };
    let won: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..12)
            .map(|i| {
                scope.spawn({
                    let (new, old) = (ids[1 + i % 2], ids[0]);
                    move || {
                        let fs = fs_of(p);
                        sweep(&fs).unwrap();
                        let quarantine = Quarantine::create(&fs).unwrap();
                        let updates = [
                            update("refs/heads/main", Some(old), Some(new)),
                            update(&format!("refs/heads/own/{i}"), None, Some(new)),
                        ];
                        let results =
                            commit_each(&fs, &quarantine.staging(), HashKind::Sha1, &updates, &patient());
                        assert!(results[1].is_ok(), "{results:?}");
                        let own = [update(&format!("refs/heads/own/{i}"), Some(new), None)];
                        let gone = commit_each(&fs, &quarantine.staging(), HashKind::Sha1, &own, &patient());
                        assert!(gone[0].is_ok(), "{gone:?}");
                        quarantine.remove(&fs).unwrap();
                        usize::from(results[0].is_ok())
                    }
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(won, 1);
    clean(p);
}

/// Others go on while one waits for a lock, and no more is waited for all locks than for one.
#[test]
fn a_locked_reference_fails_alone_and_nothing_is_held_while_it_is_waited_for() {
    let (dir, ids) = repository();
    let p = dir.path();
    let names: Vec<String> = (0..80).map(|n| format!("refs/heads/many/n{n}")).collect();
    for name in &names {
        git(p, &["update-ref", name, &ids[0].to_string()]).unwrap();
    }
    let locked = [3, 41, 79];
    let lock = |at: usize| p.join(format!("{}.lock", names[at]));
    for new in [Some(ids[1]), None] {
        for at in locked {
            fs::write(lock(at), "").unwrap();
        }
        let old = if new.is_some() { ids[0] } else { ids[1] };
        let updates: Vec<Update> = names.iter().map(|name| update(name, Some(old), new)).collect();
        let began = std::time::Instant::now();
        let (results, free) = std::thread::scope(|scope| {
            let push = scope.spawn(|| {
                let fs = fs_of(p);
                let quarantine = Quarantine::create(&fs).unwrap();
                let patience = Duration::from_secs(2);
                let options =
                    TransactionOptions { ref_timeout: patience, one_change_from: Some(1), ..quick() };
                let staging = quarantine.staging();
                let results = commit_each(&fs, &staging, HashKind::Sha1, &updates, &options);
                quarantine.remove(&fs).unwrap();
                results
            });
            // The others have their new values, and their locks are free, while it still waits.
            let mut free = false;
            while !push.is_finished() && !free {
                let value = |name: &String| git(p, &["rev-parse", "-q", "--verify", name]).ok();
                let is = new.map(|id| id.to_string());
                free = value(&names[0]) == is && !lock(0).exists() && !push.is_finished();
            }
            (push.join().unwrap(), free)
        });
        assert!(free);
        assert!(began.elapsed() < Duration::from_secs(60));
        for (at, result) in results.iter().enumerate() {
            match locked.contains(&at) {
                true => assert!(matches!(result, Err(RefError::Locked)), "{at}: {result:?}"),
                false => assert!(result.is_ok(), "{at}: {result:?}"),
            }
        }
        for at in locked {
            fs::remove_file(lock(at)).unwrap();
            if let Some(new) = new {
                git(p, &["update-ref", &names[at], &new.to_string()]).unwrap();
            }
        }
    }
    clean(p);
}

/// Whoever lists references while all of them change sees each, with one of its two values.
#[test]
fn readers_see_old_or_new_and_never_nothing() {
    let (dir, ids) = repository();
    let p = dir.path();
    let names: Vec<String> = (0..70).map(|n| format!("refs/heads/many/n{n:02}")).collect();
    for name in &names {
        git(p, &["update-ref", name, &ids[0].to_string()]).unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) || rounds == 0 {
                let dir = crate::dir::Dir::new(File::open(p).unwrap().into(), "");
                let ours = crate::Refs::new(dir, HashKind::Sha1).list(&["refs/heads/many/"], None).unwrap();
                let listed: Vec<String> =
                    ours.iter().map(|r| String::from_utf8(r.name.clone()).unwrap()).collect();
                assert_eq!(listed, names);
                assert!(ours.iter().all(|r| r.target == ids[0] || r.target == ids[1]));
                let theirs = git(p, &["for-each-ref", "--format=%(refname)", "refs/heads/many"]).unwrap();
                assert_eq!(theirs.lines().collect::<Vec<_>>(), names);
                rounds += 1;
            }
        });
        for round in 0..24 {
            // Loose ones again, from time to time.
            if round % 3 == 2 {
                for name in &names {
                    fs::create_dir_all(p.join("refs/heads/many")).unwrap();
                    let new = p.join("new-loose");
                    fs::write(&new, format!("{}\n", ids[round % 2])).unwrap();
                    fs::rename(&new, p.join(name)).unwrap();
                }
            }
            if round % 6 == 5 {
                git(p, &["pack-refs", "--all"]).unwrap();
            }
            let (old, new) = (ids[round % 2], ids[(round + 1) % 2]);
            let updates: Vec<Update> = names.iter().map(|name| update(name, Some(old), Some(new))).collect();
            let way = if round % 4 == 3 { Way::Atomic } else { Way::Together };
            let results = commit_in(p, &updates, way);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    clean(p);
}

/// As deep as a name may be long: what is written is listed, read, changed and deleted, and C git
/// agrees.
#[test]
fn names_are_as_deep_as_they_are_long() {
    for depth in [65, 513, 1018] {
        for way in WAYS {
            let (dir, ids) = repository();
            let p = dir.path();
            let name = format!("refs/heads/{}", vec!["d"; depth].join("/"));
            let beside = format!("{}/e", name.trim_end_matches("/d"));
            assert!(name.len() <= libgit::REF_NAME_MAX);
            let above = name.trim_end_matches("/d/d").to_owned();
            let make = [update(&name, None, Some(ids[0])), update(&beside, None, Some(ids[1]))];
            assert!(commit_in(p, &make, way).iter().all(Result::is_ok), "{depth} {way:?}");
            let list = || {
                let dir = crate::dir::Dir::new(File::open(p).unwrap().into(), "");
                let refs = crate::Refs::new(dir, HashKind::Sha1).list(&["refs/heads/"], None).unwrap();
                refs.iter()
                    .map(|r| format!("{} {}", String::from_utf8_lossy(&r.name), r.target))
                    .collect::<Vec<_>>()
                    .join("\n")
            };
            let theirs =
                || git(p, &["for-each-ref", "--format=%(refname) %(objectname)", "refs/heads"]).unwrap();
            assert_eq!(list(), format!("{name} {}\n{beside} {}", ids[0], ids[1]));
            assert_eq!(list(), theirs());
            // What cannot exist beside them.
            let results = commit_in(p, &[update(&above, None, Some(ids[1]))], way);
            assert!(matches!(&results[0], Err(RefError::Conflict(_))), "{depth} {way:?} {results:?}");
            let below = format!("{beside}/x");
            if below.len() <= libgit::REF_NAME_MAX {
                let results = commit_in(p, &[update(&below, None, Some(ids[1]))], way);
                assert!(matches!(&results[0], Err(RefError::Conflict(_))), "{depth} {way:?} {results:?}");
            }
            let change = [update(&name, Some(ids[0]), Some(ids[2])), update(&beside, Some(ids[1]), None)];
            assert!(commit_in(p, &change, way).iter().all(Result::is_ok));
            assert_eq!(list(), format!("{name} {}", ids[2]));
            assert_eq!(list(), theirs());
            assert!(commit_in(p, &[update(&name, Some(ids[2]), None)], way)[0].is_ok());
            assert_eq!(theirs(), "");
            assert_eq!(fs::read_dir(p.join("refs/heads")).unwrap().count(), 0, "{depth} {way:?}");
            // Empty directories are in nobody's way.
            fs::create_dir_all(p.join(&name)).unwrap();
            assert!(commit_in(p, &[update(&above, None, Some(ids[1]))], way)[0].is_ok(), "{depth} {way:?}");
            clean(p);
        }
    }
}

/// A lock that cannot be removed is known by its staging directory alone, which must stay.
#[test]
fn a_lock_that_stays_is_removed_by_the_next_sweep() {
    let attribute = |dir: &Path, flag: &str| {
        Command::new("chattr").arg(flag).arg(dir).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    for way in WAYS {
        let (dir, ids) = repository();
        let p = dir.path();
        let heads = p.join("refs/heads");
        // Names can be made in it, and none removed.
        if !attribute(&heads, "+a") {
            eprintln!("skipped: needs root, and a file system with attributes");
            return;
        }
        let fs = fs_of(p);
        let quarantine = Quarantine::create(&fs).unwrap();
        let updates = [update("refs/heads/x", Some(ids[0]), Some(ids[1]))];
        assert!(commit_as(&fs, &quarantine.staging(), &updates, way)[0].is_err());
        let removed = quarantine.remove(&fs);
        assert!(p.join("refs/heads/x.lock").exists());
        attribute(&heads, "-a");
        assert!(removed.is_err(), "{way:?}");
        let mut swept = 0;
        // A git that another test has just forked may hold the lock until it has executed.
        for _ in 0..200 {
            swept = sweep(&fs).unwrap();
            if swept > 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(swept, 1);
        clean(p);
    }
}

/// Where objects are on another file system nothing can be renamed or linked out of there.
#[test]
fn objects_may_be_on_another_file_system() {
    for way in WAYS {
        let (dir, ids) = repository();
        let p = dir.path();
        git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
        git(p, &["update-ref", "refs/heads/gone", &ids[0].to_string()]).unwrap();
        fs::rename(p.join("objects"), p.join("here")).unwrap();
        fs::create_dir(p.join("objects")).unwrap();
        let mount = |args: &[&std::ffi::OsStr]| {
            let mut command = Command::new(args[0]);
            command.args(&args[1..]).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        let objects = p.join("objects");
        let at = objects.as_os_str();
        if !mount(&["mount".as_ref(), "-t".as_ref(), "tmpfs".as_ref(), "none".as_ref(), at]) {
            eprintln!("skipped: needs the right to mount");
            return;
        }
        copy(&p.join("here"), &objects);
        fs::remove_dir_all(p.join("here")).unwrap();
        let updates = [
            update("refs/heads/main", Some(ids[0]), Some(ids[1])),
            update("refs/heads/new", None, Some(ids[1])),
            update("refs/heads/gone", Some(ids[0]), None),
        ];
        let made = std::panic::catch_unwind(|| {
            let results = commit_in(p, &updates, way);
            assert!(results.iter().all(Result::is_ok), "{way:?}: {results:?}");
            let want =
                format!("refs/heads/main {0}\nrefs/heads/new {0}\nrefs/tags/first {1}", ids[1], ids[3]);
            assert_eq!(refs(p), want);
            clean(p);
        });
        assert!(mount(&["umount".as_ref(), at]));
        made.unwrap();
    }
}
