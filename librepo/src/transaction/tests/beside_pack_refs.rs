//! C git's `pack-refs` beside a transaction, at the moments where each could undo the other.

use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// C git's `pack-refs` may have read a loose reference before we remove it, and writes its value
/// into packed-refs afterwards: so packed-refs is locked for every deletion, as by C git.
#[test]
fn a_loose_reference_is_not_deleted_while_others_write_packed_refs() {
    let (dir, ids) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    fs::write(p.join("packed-refs.lock"), "").unwrap();
    assert!(git(p, &["update-ref", "-d", "refs/heads/main"]).is_err());
    for way in WAYS {
        let results = commit_in(p, &[update("refs/heads/main", Some(ids[0]), None)], way);
        assert!(matches!(results[0], Err(RefError::Locked)), "{results:?}");
    }
    assert!(p.join("refs/heads/main").exists());
    fs::remove_file(p.join("packed-refs.lock")).unwrap();
}

/// The moment between the new packed-refs and the removal of a loose file: whoever packs references
/// then would put the old value into packed-refs, and nothing would hide it.
#[test]
fn packing_between_rename_and_removal_brings_nothing_back() {
    for way in [Way::Together, Way::Atomic] {
        let (dir, ids) = repository();
        let p = dir.path();
        for name in ["changed", "deleted"] {
            git(p, &["update-ref", &format!("refs/heads/{name}"), &ids[0].to_string()]).unwrap();
        }
        let (root, seen) = (p.to_owned(), Rc::new(RefCell::new(0)));
        let count = seen.clone();
        let fs = fs_of(p).observed(Box::new(move |op| {
            if matches!(op, Op::Rename(_, to) if to == PACKED) {
                *count.borrow_mut() += 1;
                let _ = git(&root, &["-c", "core.packedRefsTimeout=0", "pack-refs", "--all", "--prune"]);
            }
        }));
        let quarantine = Quarantine::create(&fs).unwrap();
        let updates = [
            update("refs/heads/changed", Some(ids[0]), Some(ids[1])),
            update("refs/heads/deleted", Some(ids[0]), None),
            update("refs/heads/made", None, Some(ids[2])),
        ];
        let results = commit_as(&fs, &quarantine.staging(), &updates, way);
        quarantine.remove(&fs).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert!(*seen.borrow() > 0);
        let want =
            format!("refs/heads/changed {}\nrefs/heads/made {}\nrefs/tags/first {}", ids[1], ids[2], ids[3]);
        assert_eq!(refs(p), want, "{way:?}");
        clean(p);
    }
}

/// Starts `git pack-refs`, which waits for locks as long as it takes.
fn pack_refs(dir: &Path, options: &[&str]) -> Child {
    Command::new("git")
        .args(["-c", "core.packedRefsTimeout=-1", "-c", "core.filesRefLockTimeout=-1", "pack-refs"])
        .args(options)
        .current_dir(dir)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", dir)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Waits until this git sleeps between two attempts to take a lock.
fn until_it_waits(child: &Child) {
    let (wchan, began) = (format!("/proc/{}/wchan", child.id()), Instant::now());
    while began.elapsed() < Duration::from_secs(3) {
        let place = fs::read_to_string(&wchan).unwrap_or_default();
        if place.contains("poll") || place.contains("nanosleep") {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// With `--auto`, C git reads all loose references to decide whether there are enough, then waits for
/// the lock, and packs what it has read.
#[test]
fn what_was_read_before_the_lock_is_not_written_over_what_was_pushed() {
    for way in WAYS {
        let (dir, ids) = repository();
        let p = dir.path();
        let names: Vec<String> = (0..60).map(|n| format!("refs/heads/many/n{n:02}")).collect();
        let mut lines: String = names.iter().map(|name| format!("create {name} {}\n", ids[0])).collect();
        update_refs(p, &lines);
        // Some have an old value in packed-refs too, and some are nowhere else.
        git(p, &["pack-refs", "--all"]).unwrap();
        lines = names[..50].iter().map(|name| format!("update {name} {}\n", ids[1])).collect();
        update_refs(p, &lines);
        let packing = Rc::new(RefCell::new(None));
        let (root, started) = (p.to_owned(), packing.clone());
        let fs = fs_of(p).observed(Box::new(move |op| {
            // Its lock is ours: the last moment before references change.
            let reached = match way {
                Way::Each => matches!(op, Op::Link(_, to) if to == b"refs/heads/many/n00.lock"),
                _ => matches!(op, Op::Link(_, to) if to == Top::PackedRefs.lock_name()),
            };
            if reached && started.borrow().is_none() {
                let child = pack_refs(&root, &["--all", "--prune", "--auto"]);
                if way != Way::Each {
                    until_it_waits(&child);
                }
                *started.borrow_mut() = Some(child);
            }
        }));
        let quarantine = Quarantine::create(&fs).unwrap();
        let changed = names.iter().enumerate();
        let updates: Vec<Update> = changed
            .map(|(n, name)| update(name, Some(if n < 50 { ids[1] } else { ids[0] }), Some(ids[2])))
            .collect();
        let results = commit_patiently(&fs, &quarantine.staging(), &updates, way);
        quarantine.remove(&fs).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let child = packing.borrow_mut().take();
        assert!(child.expect("was started").wait().unwrap().success());
        for name in &names {
            assert_eq!(git(p, &["rev-parse", name]).unwrap(), ids[2].to_string(), "{way:?} {name}");
        }
        clean(p);
    }
}

/// After packed-refs is written, `pack-refs --prune` removes a loose file if it has the value that was
/// packed: also if it had another one in between.
#[test]
fn pruning_a_value_that_came_back_removes_no_later_change() {
    for way in WAYS {
        let (dir, ids) = repository();
        let p = dir.path();
        // It begins to prune at an end of the list, where it waits.
        let ends = ["refs/heads/aaa", "refs/tags/zzz"];
        for name in ends.iter().chain(&["refs/heads/main", "refs/heads/other"]) {
            git(p, &["update-ref", name, &ids[0].to_string()]).unwrap();
        }
        for name in ends {
            fs::write(p.join(format!("{name}.lock")), "").unwrap();
        }
        let mut child = pack_refs(p, &["--all", "--prune"]);
        let began = Instant::now();
        while !p.join("packed-refs").exists() || p.join("packed-refs.lock").exists() {
            assert!(began.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(5));
        }
        until_it_waits(&child);
        assert!(p.join("refs/heads/main").exists());
        let fs = fs_of(p);
        let quarantine = Quarantine::create(&fs).unwrap();
        let names = ["refs/heads/main", "refs/heads/other"];
        let updates = names.map(|name| update(name, Some(ids[0]), Some(ids[1])));
        let results = commit_patiently(&fs, &quarantine.staging(), &updates, way);
        quarantine.remove(&fs).unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        git(p, &["update-ref", "refs/heads/main", &ids[0].to_string(), &ids[1].to_string()]).unwrap();
        for name in ends {
            fs::remove_file(p.join(format!("{name}.lock"))).unwrap();
        }
        assert!(child.wait().unwrap().success());
        assert_eq!(git(p, &["rev-parse", "refs/heads/main"]).unwrap(), ids[0].to_string(), "{way:?}");
        assert_eq!(git(p, &["rev-parse", "refs/heads/other"]).unwrap(), ids[1].to_string(), "{way:?}");
        clean(p);
    }
}

/// C git takes packed-refs for unchanged if its inode, size and time in whole seconds are: no two
/// files in a row have one time.
#[test]
fn packed_refs_is_a_second_younger_each_time() {
    for way in [Way::Together, Way::Atomic] {
        let (dir, ids) = repository();
        let p = dir.path();
        let names = ["refs/heads/a", "refs/heads/b"];
        for name in names {
            git(p, &["update-ref", name, &ids[0].to_string()]).unwrap();
        }
        git(p, &["pack-refs", "--all"]).unwrap();
        // This git has read packed-refs, and goes on.
        let mut reader = Command::new("git")
            .args(["update-ref", "--stdin"])
            .current_dir(p)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut to, mut from) = (reader.stdin.take().unwrap(), reader.stdout.take().unwrap());
        say(&mut to, &mut from, &format!("start\nverify refs/heads/a {}\nprepare\ncommit\n", ids[0]), 3)
            .unwrap();
        let mut before = fs::metadata(p.join("packed-refs")).unwrap().mtime();
        for round in 0..4 {
            let updates = names.map(|name| update(name, Some(ids[round % 2]), Some(ids[(round + 1) % 2])));
            assert!(commit_in(p, &updates, way).iter().all(Result::is_ok));
            let now = fs::metadata(p.join("packed-refs")).unwrap().mtime();
            assert!(now > before, "{way:?}: {now} after {before}");
            before = now;
        }
        let updates = names.map(|name| update(name, Some(ids[0]), Some(ids[1])));
        assert!(commit_in(p, &updates, way).iter().all(Result::is_ok));
        use std::io::Write as _;
        write!(to, "start\nupdate refs/heads/a {} {}\nprepare\ncommit\n", ids[2], ids[0]).unwrap();
        drop(to);
        assert!(!reader.wait().unwrap().success(), "it knows the new value");
        assert_eq!(git(p, &["rev-parse", "refs/heads/a"]).unwrap(), ids[1].to_string());
        clean(p);
    }
}
