//! What a crash at every single operation leaves, and a repack between a pack and its references.

use super::*;

/// Copies a repository's directory tree.
pub(super) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir_all(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Does one recorded operation on a copy. A file whose content was not synchronised yet is `torn`:
/// it lost what was written.
fn replay(root: &Path, op: &Op) {
    use std::os::unix::ffi::OsStrExt as _;
    let at = |path: &[u8]| root.join(std::ffi::OsStr::from_bytes(path));
    match op {
        Op::Create(path) => drop(File::create_new(at(path)).unwrap()),
        Op::Append(path, bytes) => {
            use std::io::Write as _;
            fs::OpenOptions::new().append(true).open(at(path)).unwrap().write_all(bytes).unwrap();
        }
        Op::Cut(path, length) => {
            fs::File::options().write(true).open(at(path)).unwrap().set_len(*length).unwrap();
        }
        Op::MakeDir(path) => fs::create_dir(at(path)).unwrap(),
        Op::RemoveDir(path) => fs::remove_dir(at(path)).unwrap(),
        Op::Link(from, to) => fs::hard_link(at(from), at(to)).unwrap(),
        Op::Rename(from, to) => fs::rename(at(from), at(to)).unwrap(),
        Op::Remove(path) => fs::remove_file(at(path)).unwrap(),
        Op::SyncFile(_) | Op::SyncDir(_) | Op::Filled(_) => {}
    }
}

/// The model: operations on names reach the disk in their order, any number of the last ones may be
/// lost unless the directory was synchronised; what was written to a file may be lost unless the
/// file was synchronised, whatever became of its names.
#[test]
fn a_crash_at_any_operation_leaves_old_or_new() {
    for packed in [false, true] {
        for way in WAYS {
            let atomic = way == Way::Atomic;
            let (dir, ids) = repository();
            let p = dir.path();
            for name in ["main", "b/two", "gone/x"] {
                git(p, &["update-ref", &format!("refs/heads/{name}"), &ids[0].to_string()]).unwrap();
            }
            if packed {
                git(p, &["pack-refs", "--all"]).unwrap();
                git(p, &["update-ref", "refs/heads/b/two", &ids[1].to_string()]).unwrap();
            }
            let two = if packed { ids[1] } else { ids[0] };
            let start = tempfile::tempdir().unwrap();
            copy(p, start.path());
            let updates = [
                update("refs/heads/main", Some(ids[0]), Some(ids[1])),
                update("refs/heads/b/two", Some(two), Some(ids[2])),
                update("refs/heads/new/n", None, Some(ids[2])),
                update("refs/heads/gone/x", Some(ids[0]), None),
            ];
            let ops = Rc::new(RefCell::new(Vec::new()));
            let log = ops.clone();
            let fs = fs_of(p).observed(Box::new(move |op| log.borrow_mut().push(op.clone())));
            let quarantine = Quarantine::create(&fs).unwrap();
            let staging = quarantine.staging();
            let results = commit_as(&fs, &staging, &updates, way);
            assert!(results.iter().all(Result::is_ok), "{results:?}");
            let answered = ops.borrow().len();
            quarantine.remove(&fs).unwrap();
            let ops = ops.borrow();
            let old = refs(start.path());
            let new = refs(p);
            for cut in 0..=ops.len() {
                let copied = tempfile::tempdir().unwrap();
                let root = copied.path();
                copy(start.path(), root);
                for (at, op) in ops[..cut].iter().enumerate() {
                    // Content that no later operation (before the crash) synchronised is gone.
                    if let Op::Append(path, _) = op
                        && !ops[at..cut]
                            .iter()
                            .any(|later| matches!(later, Op::SyncFile(synced) if synced == path))
                    {
                        continue;
                    }
                    replay(root, op);
                }
                let now = refs(root);
                if atomic {
                    assert!(now == old || now == new, "cut at {cut}, {:?}:\n{now}", ops.get(cut));
                } else {
                    for line in now.lines() {
                        assert!(old.contains(line) || new.contains(line), "cut at {cut}: {line}");
                    }
                    for line in old.lines().filter(|line| new.contains(*line)) {
                        assert!(now.contains(line), "cut at {cut}: lost {line}");
                    }
                }
                if cut >= answered {
                    assert_eq!(now, new, "cut at {cut} after the answer");
                }
                // The next push finds the owner gone, and removes all that it left.
                let fs = fs_of(root);
                sweep(&fs).unwrap();
                assert_eq!(refs(root), now);
                nothing_temporary(root);
                let next = commit(root, &[update("refs/heads/after", None, Some(ids[0]))], false);
                assert!(next[0].is_ok(), "cut at {cut}: {next:?}");
            }
        }
    }
}

/// A push with a pack: create the files, receive, install, change references. The same model; files
/// that another process fills lose all of their content unless they were synchronised.
#[test]
fn a_crash_at_any_operation_of_a_push_leaves_a_whole_repository() {
    let (other, ids) = repository();
    let (dir, _) = repository();
    let p = dir.path();
    git(p, &["update-ref", "refs/heads/main", &ids[0].to_string()]).unwrap();
    let o = other.path();
    let tree = git(o, &["rev-parse", &format!("{}^{{tree}}", ids[0])]).unwrap();
    let new = git(o, &["commit-tree", "-m", "pushed", "-p", &ids[2].to_string(), &tree]).unwrap();
    git(o, &["update-ref", "refs/heads/main", &new]).unwrap();
    let packed = git(o, &["pack-objects", "--all", "-q", "objects/pack/all"]).unwrap();
    let pack_bytes = fs::read(o.join(format!("objects/pack/all-{packed}.pack"))).unwrap();
    let new = ObjectId::from_hex(new.as_bytes()).unwrap();
    let start = tempfile::tempdir().unwrap();
    copy(p, start.path());

    let ops = Rc::new(RefCell::new(Vec::new()));
    let (log, root) = (ops.clone(), p.to_owned());
    let fs = fs_of(p).observed(Box::new(move |op| {
        use std::os::unix::ffi::OsStrExt as _;
        let content = match op {
            Op::Filled(path) => fs::read(root.join(std::ffi::OsStr::from_bytes(path))).unwrap(),
            _ => Vec::new(),
        };
        log.borrow_mut().push((op.clone(), content));
    }));
    let mut quarantine = Quarantine::create(&fs).unwrap();
    let (pack, idx) = quarantine.create_files(&fs).unwrap();
    let mut quiet = |_: &crate::receive::Progress| Ok(());
    let indexed = crate::receive::index(
        &mut pack_bytes.as_slice(),
        &pack,
        &idx,
        HashKind::Sha1,
        None,
        &crate::receive::IndexOptions::default(),
        &mut crate::receive::Ticker::new(&mut quiet),
    )
    .unwrap();
    quarantine.install(&fs, HashKind::Sha1, &indexed.checksum).unwrap();
    let updates =
        [update("refs/heads/main", Some(ids[0]), Some(new)), update("refs/heads/second", None, Some(new))];
    let results = commit_each(&fs, &quarantine.staging(), HashKind::Sha1, &updates, &quick());
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let answered = ops.borrow().len();
    quarantine.remove(&fs).unwrap();
    clean(p);
    let (old, done) = (refs(start.path()), refs(p));
    let ops = ops.borrow();
    for cut in 0..=ops.len() {
        let copied = tempfile::tempdir().unwrap();
        let root = copied.path();
        copy(start.path(), root);
        for (at, (op, content)) in ops[..cut].iter().enumerate() {
            let synced = |path: &Vec<u8>| {
                ops[at..cut].iter().any(|(later, _)| matches!(later, Op::SyncFile(synced) if synced == path))
            };
            match op {
                Op::Append(path, _) if !synced(path) => {}
                Op::Filled(path) if synced(path) => {
                    use std::os::unix::ffi::OsStrExt as _;
                    fs::write(root.join(std::ffi::OsStr::from_bytes(path)), content).unwrap();
                }
                op => replay(root, op),
            }
        }
        let now = refs(root);
        for line in now.lines() {
            assert!(old.contains(line) || done.contains(line), "cut at {cut}: {line}");
        }
        if cut >= answered {
            assert_eq!(now, done, "cut at {cut} after the answer");
        }
        git(root, &["fsck", "--full", "--strict"]).unwrap();
        sweep(&fs_of(root)).unwrap();
        assert_eq!(refs(root), now);
        clean(root);
    }
}

/// C git drops what no reference leads to when it repacks, so a pack that moved in must be kept
/// until its references are there: also from a repacking that began with an older pack of the same
/// name on its list.
#[test]
fn a_repack_between_pack_and_references_loses_nothing() {
    let (other, _) = repository();
    let (dir, ids) = repository();
    let (p, o) = (dir.path(), other.path());
    let tree = git(o, &["rev-parse", &format!("{}^{{tree}}", ids[0])]).unwrap();
    let new = git(o, &["commit-tree", "-m", "pushed", "-p", &ids[2].to_string(), &tree]).unwrap();
    git(o, &["update-ref", "refs/heads/main", &new]).unwrap();
    let packed = git(o, &["pack-objects", "--all", "-q", "objects/pack/all"]).unwrap();
    let bytes = fs::read(o.join(format!("objects/pack/all-{packed}.pack"))).unwrap();
    let new = ObjectId::from_hex(new.as_bytes()).unwrap();
    let fs = fs_of(p);
    let install = || {
        let mut quarantine = Quarantine::create(&fs).unwrap();
        let (pack, idx) = quarantine.create_files(&fs).unwrap();
        let mut quiet = |_: &crate::receive::Progress| Ok(());
        let mut ticker = crate::receive::Ticker::new(&mut quiet);
        let options = crate::receive::IndexOptions::default();
        let input = &mut bytes.as_slice();
        let indexed =
            crate::receive::index(input, &pack, &idx, HashKind::Sha1, None, &options, &mut ticker).unwrap();
        quarantine.install(&fs, HashKind::Sha1, &indexed.checksum).unwrap();
        quarantine
    };
    let names = |end: &str| {
        let names = fs::read_dir(p.join("objects/pack")).unwrap().flatten().map(|e| e.file_name());
        let mut names: Vec<String> =
            names.map(|n| n.into_string().unwrap()).filter(|n| n.ends_with(end)).collect();
        names.sort();
        names
    };
    let first = install();
    assert_eq!(names(".keep").len(), 1);
    git(p, &["repack", "-a", "-d", "-q"]).unwrap();
    let made = commit_each(
        &fs,
        &first.staging(),
        HashKind::Sha1,
        &[update("refs/heads/pushed", None, Some(new))],
        &quick(),
    );
    assert!(made[0].is_ok());
    first.remove(&fs).unwrap();
    git(p, &["fsck", "--full", "--strict"]).unwrap();
    git(p, &["cat-file", "-e", &new.to_string()]).unwrap();
    nothing_temporary(p);
    // The very same pack once more has files of its own.
    let packs = names(".pack");
    let second = install();
    assert_eq!(names(".pack").len(), packs.len() + 1);
    // Its owner dies here: the next push finds what it left.
    drop(second);
    // A git that another test has just forked may hold the lock until it has executed.
    let mut swept = 0;
    for _ in 0..200 {
        swept = sweep(&fs).unwrap();
        if swept > 0 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    assert_eq!(swept, 1);
    nothing_temporary(p);
    git(p, &["fsck", "--full", "--strict"]).unwrap();
}

/// Whatever is synchronised of a lock's directory, by anybody: the file by which the lock is known
/// has its name on the disk before the lock is taken.
#[test]
fn what_locks_are_known_by_is_on_the_disk_before_them() {
    for way in WAYS {
        let (dir, ids) = repository();
        let p = dir.path();
        for name in ["main", "gone", "x/two"] {
            git(p, &["update-ref", &format!("refs/heads/{name}"), &ids[0].to_string()]).unwrap();
        }
        let ops = Rc::new(RefCell::new(Vec::new()));
        let log = ops.clone();
        let fs = fs_of(p).observed(Box::new(move |op| log.borrow_mut().push(op.clone())));
        let quarantine = Quarantine::create(&fs).unwrap();
        let updates = [
            update("refs/heads/main", Some(ids[0]), Some(ids[1])),
            update("refs/heads/x/two", Some(ids[0]), Some(ids[1])),
            update("refs/heads/new/n", None, Some(ids[2])),
            update("refs/heads/gone", Some(ids[0]), None),
        ];
        let results = commit_as(&fs, &quarantine.staging(), &updates, way);
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let ops = ops.borrow().clone();
        let staging = ops.iter().find_map(|op| match op {
            Op::MakeDir(path) if path.starts_with(b"objects/") => Some(path.clone()),
            _ => None,
        });
        let staging = staging.expect("was made");
        let synced = |dir: &[u8], from: usize, to: usize| {
            ops[from..to].iter().any(|op| matches!(op, Op::SyncDir(path) if path == dir))
        };
        let mut locks = 0;
        for (at, op) in ops.iter().enumerate() {
            // A lock: linked, or put in the place of another one.
            let lock = match op {
                Op::Link(from, to) | Op::Rename(from, to) if to.ends_with(b".lock") => Some(from),
                _ => None,
            };
            let Some(source) = lock else { continue };
            let made = |path: &[u8]| {
                let is = |op: &Op| match op {
                    Op::Create(made) | Op::MakeDir(made) => made == path,
                    _ => false,
                };
                ops[..at].iter().rposition(is)
            };
            locks += 1;
            assert!(synced(b"objects", made(&staging).expect("was made"), at), "{way:?} {op:?}");
            if let Some(made) = made(source) {
                assert!(synced(&staging, made, at), "{way:?} {op:?}");
            }
        }
        assert!(locks >= 3);
        // A directory that another process made for a lock need not be on the disk yet.
        let last = |name: &[u8]| ops.iter().rposition(|op| matches!(op, Op::Rename(_, to) if to == name));
        if let Some(moved) = last(b"refs/heads/x/two") {
            for dir in ["refs", "refs/heads", "refs/heads/x"] {
                assert!(synced(dir.as_bytes(), moved, ops.len()), "{way:?} {dir}");
            }
        }
        quarantine.remove(&fs).unwrap();
    }
}
