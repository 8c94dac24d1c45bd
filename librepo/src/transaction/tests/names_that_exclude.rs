//! Names that cannot exist beside each other, made by two processes at one time.

use std::cell::Cell;
use std::process::{Child, Stdio};

use super::*;

/// A git that has locked this reference to create it, and has looked at packed-refs; `None` if it
/// was refused.
fn creating(dir: &Path, name: &str, value: &ObjectId) -> Option<Child> {
    let mut child = Command::new("git")
        .args(["update-ref", "--stdin"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    if say(&mut to, &mut from, &format!("start\ncreate {name} {value}\nprepare\n"), 2).is_err() {
        child.wait().unwrap();
        return None;
    }
    (child.stdin, child.stdout) = (Some(to), Some(from));
    Some(child)
}

fn commits(mut child: Child) {
    use std::io::Write as _;
    let mut to = child.stdin.take().unwrap();
    let _ = to.write_all(b"commit\n");
    drop(to);
    child.wait().unwrap();
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Other {
    /// It is made.
    Made,
    /// It is about to be made, and is after the push.
    Locked,
    /// It is made while the push waits for its lock.
    MadeMeanwhile,
}

/// Another process makes `other` while a push makes `ours`: at no time are both there afterwards, and
/// who is told that it is there finds it.
#[test]
fn two_names_that_exclude_each_other_are_not_both_made() {
    let moments: [fn(&Op) -> bool; 4] = [
        // Before the first lock of ours.
        |op| matches!(op, Op::SyncFile(path) if path.ends_with(b"/locks")),
        |op| matches!(op, Op::Link(_, to) if to == Top::PackedRefs.lock_name()),
        // All are found good, and not yet shown.
        |op| matches!(op, Op::Append(path, _) if path.ends_with(b"/packed-refs.new")),
        |op| matches!(op, Op::SyncFile(path) if path.ends_with(b"/packed-refs.new")),
    ];
    for (moment, reached) in moments.into_iter().enumerate() {
        for way in [Way::Together, Way::Atomic] {
            for (ours, theirs) in [
                ("refs/heads/a", "refs/heads/a/b"),
                ("refs/heads/a/b", "refs/heads/a"),
                ("refs/heads/a", "refs/heads/a/b/c"),
            ] {
                for other in [Other::Made, Other::Locked, Other::MadeMeanwhile] {
                    let shown = format!("{moment} {way:?} {ours} {theirs} {other:?}");
                    let (dir, ids) = repository();
                    let p = dir.path();
                    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
                    git(p, &["update-ref", "refs/heads/gone", &ids[0].to_string()]).unwrap();
                    let (root, first, value) = (p.to_owned(), Cell::new(true), ids[1]);
                    let held = Rc::new(RefCell::new(None));
                    let holder = held.clone();
                    let fs = fs_of(p).observed(Box::new(move |op| {
                        if matches!(op, Op::Rename(_, to) if to == PACKED)
                            && other == Other::MadeMeanwhile
                            && let Some(child) = holder.borrow_mut().take()
                        {
                            commits(child);
                        }
                        if !first.get() || !reached(op) {
                            return;
                        }
                        first.set(false);
                        match other {
                            // Below a name of ours there is a lock of ours in its way.
                            Other::Made => drop(git(&root, &["update-ref", theirs, &value.to_string()])),
                            _ => *holder.borrow_mut() = creating(&root, theirs, &value),
                        }
                    }));
                    let quarantine = Quarantine::create(&fs).unwrap();
                    let updates = [
                        update("refs/heads/main", Some(ids[0]), Some(ids[1])),
                        update(ours, None, Some(ids[2])),
                        update("refs/heads/beside", None, Some(ids[2])),
                        update("refs/heads/gone", Some(ids[0]), None),
                    ];
                    let results = commit_as(&fs, &quarantine.staging(), &updates, way);
                    quarantine.remove(&fs).unwrap();
                    if let Some(child) = held.borrow_mut().take() {
                        commits(child);
                    }
                    let there = refs(p);
                    let is = |name: &str| there.lines().any(|line| line.starts_with(&format!("{name} ")));
                    assert!(!is(ours) || !is(theirs), "{shown}: {there}");
                    let made = results[1].is_ok();
                    assert_eq!(made, is(ours), "{shown}: {results:?}");
                    assert_eq!(made || way == Way::Together, is("refs/heads/beside"), "{shown}: {results:?}");
                    assert_eq!(made || way == Way::Together, !is("refs/heads/gone"), "{shown}: {results:?}");
                    let main = if made || way == Way::Together { ids[1] } else { ids[0] };
                    assert_eq!(git(p, &["rev-parse", "main"]).unwrap(), main.to_string(), "{shown}");
                    assert_eq!(results[0].is_ok(), made || way == Way::Together, "{shown}: {results:?}");
                    let _ = fs::remove_dir(p.join("refs/heads/a"));
                    clean(p);
                    let clone = tempfile::tempdir().unwrap();
                    git(clone.path(), &["clone", "-q", "--mirror", p.to_str().unwrap(), "c.git"]).unwrap();
                }
            }
        }
    }
}

/// Another process has locked a name that cannot exist beside ours, and gives up: that is waited for.
#[test]
fn a_lock_below_or_above_a_new_name_is_waited_for() {
    for way in [Way::Together, Way::Atomic] {
        for (ours, theirs) in [("refs/heads/a", "refs/heads/a/b"), ("refs/heads/a/b", "refs/heads/a")] {
            let (dir, ids) = repository();
            let p = dir.path();
            let held = creating(p, theirs, &ids[1]).expect("nothing is in its way");
            let results = std::thread::scope(|scope| {
                scope.spawn(|| {
                    std::thread::sleep(Duration::from_millis(400));
                    // What is not committed when its input ends is given up.
                    let mut held = held;
                    drop(held.stdin.take());
                    held.wait().unwrap();
                });
                let fs = fs_of(p);
                let quarantine = Quarantine::create(&fs).unwrap();
                let updates =
                    [update(ours, None, Some(ids[2])), update("refs/heads/beside", None, Some(ids[2]))];
                let results = commit_patiently(&fs, &quarantine.staging(), &updates, way);
                quarantine.remove(&fs).unwrap();
                results
            });
            assert!(results.iter().all(Result::is_ok), "{way:?} {ours}: {results:?}");
            clean(p);
        }
    }
}
