//! References as C git lists them.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod common;

use std::fs;
use std::os::unix::fs::symlink;

use common::Scratch;
use libgit::ObjectId;
use librepo::{Head, Reader, Ref, Repository};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// `show-ref -d`'s lines, `HEAD` left out.
fn ours(repository: &Repository, prefixes: &[&str]) -> Vec<String> {
    let mut reader = Reader::new(repository.store(), 1 << 20);
    let listed = repository.refs().list(prefixes, Some(&mut reader)).unwrap();
    let lines = |found: &Ref| {
        let line = format!("{} {}", found.target, text(&found.name));
        let peeled = found.peeled.map(|peeled| format!("{peeled} {}^{{}}", text(&found.name)));
        [Some(line), peeled].into_iter().flatten()
    };
    listed.iter().filter(|found| found.name != b"HEAD").flat_map(lines).collect()
}

fn same_refs(scratch: &Scratch) {
    let repository = scratch.open();
    let shown = scratch.git(&["show-ref", "-d"]);
    let all: Vec<String> = shown.lines().map(str::to_owned).collect();
    assert_eq!(ours(&repository, &[]), all);
    for prefixes in [
        &["refs/heads/"][..],
        &["refs/heads/", "refs/tags/"],
        &["refs/tags/", "refs/heads/", "refs/heads/a", "HEAD"],
        &["refs/heads/a"],
        &["refs/heads/a/"],
        &["refs/heads/main", "refs/tags/v1"],
        &["refs/tags/v"],
        &["refs/none/"],
        &["ref"],
        &["refs/heads/m", "refs/zz"],
        &["HEAD"],
        &["x"],
    ] {
        let begins = |line: &&String| {
            prefixes.iter().any(|prefix| line.split(' ').nth(1).unwrap().starts_with(prefix))
        };
        let want: Vec<String> = all.iter().filter(begins).cloned().collect();
        assert_eq!(ours(&repository, prefixes), want, "{prefixes:?}");
    }
    for line in scratch.git(&["for-each-ref", "--format=%(objectname) %(refname)"]).lines() {
        let (id, name) = line.split_once(' ').unwrap();
        let found = repository.refs().find(name.as_bytes()).unwrap().unwrap();
        assert_eq!(found.target.to_string(), id);
    }
}

#[test]
fn loose_packed_nested_and_tags_of_tags() {
    for options in [&[][..], &["--object-format=sha256"]] {
        let scratch = Scratch::bare(options);
        scratch.history("main", 5, 1);
        for (i, name) in ["a", "a-b", "a/b/c", "z.x", "m\u{e4}rz", "refs/heads/x", "0"].iter().enumerate() {
            if *name != "a" {
                scratch.git(&["update-ref", &format!("refs/heads/{name}"), &format!("main~{}", i % 4)]);
            }
        }
        scratch.git(&["tag", "light"]);
        scratch.git(&["tag", "-a", "-m", "one", "v1", "main~1"]);
        scratch.git(&["tag", "-a", "-m", "two", "v2", "v1"]);
        scratch.git(&["tag", "-a", "-m", "tree", "tree", "main^{tree}"]);
        scratch.git(&["update-ref", "refs/notes/tag", "v2"]);
        same_refs(&scratch);
        scratch.git(&["pack-refs", "--all"]);
        assert!(!scratch.dir.join("refs/heads/a").exists());
        same_refs(&scratch);
        // Loose over packed, and beside it.
        scratch.git(&["update-ref", "refs/heads/main", "main~2"]);
        scratch.git(&["update-ref", "refs/heads/new", "main"]);
        scratch.git(&["tag", "-f", "-a", "-m", "again", "v1", "main"]);
        scratch.git(&["update-ref", "-d", "refs/heads/0"]);
        same_refs(&scratch);
        // A file that is not sorted and not peeled, as very old ones are.
        let file = scratch.dir.join("packed-refs");
        let lines = fs::read_to_string(&file).unwrap();
        let mut plain: Vec<&str> =
            lines.lines().filter(|line| !line.starts_with('#') && !line.starts_with('^')).collect();
        plain.reverse();
        fs::write(&file, plain.join("\n") + "\n").unwrap();
        same_refs(&scratch);
        fs::write(&file, "").unwrap();
        same_refs(&scratch);
    }
}

#[test]
fn head_in_all_its_forms() {
    let scratch = Scratch::bare(&[]);
    let head = || scratch.open().refs().head().unwrap();
    let listed = || scratch.open().refs().list(&["HEAD"], None).unwrap();
    assert_eq!(head(), Head::Symbolic(b"refs/heads/main".to_vec(), None));
    assert!(listed().is_empty());
    scratch.history("main", 3, 1);
    let tip = ObjectId::from_hex(scratch.git(&["rev-parse", "main"]).trim().as_bytes()).unwrap();
    assert_eq!(head(), Head::Symbolic(b"refs/heads/main".to_vec(), Some(tip)));
    let want = Ref {
        name: b"HEAD".to_vec(),
        target: tip,
        peeled: None,
        symref_target: Some(b"refs/heads/main".to_vec()),
    };
    assert_eq!(listed(), std::slice::from_ref(&want));
    let all = scratch.open().refs().list::<&[u8]>(&[], None).unwrap();
    assert_eq!((all.len(), &all[0]), (2, &want));
    // A symbolic reference to another one: the last counts, as in C git.
    scratch.git(&["symbolic-ref", "refs/heads/alias", "refs/heads/main"]);
    scratch.git(&["symbolic-ref", "HEAD", "refs/heads/alias"]);
    assert_eq!(head(), Head::Symbolic(b"refs/heads/main".to_vec(), Some(tip)));
    scratch.git(&["pack-refs", "--all"]);
    assert_eq!(head(), Head::Symbolic(b"refs/heads/main".to_vec(), Some(tip)));
    same_refs(&scratch);
    fs::write(scratch.dir.join("HEAD"), format!("{tip}\n")).unwrap();
    assert_eq!(head(), Head::Detached(tip));
    assert_eq!(listed(), [Ref { symref_target: None, ..want }]);
    fs::remove_file(scratch.dir.join("HEAD")).unwrap();
    symlink("refs/heads/main", scratch.dir.join("HEAD")).unwrap();
    assert_eq!(head(), Head::Symbolic(b"refs/heads/main".to_vec(), Some(tip)));
    for broken in ["", "ref: ", "ref: ../../etc/passwd", "ref: refs/heads/../x", "xyz\n"] {
        fs::remove_file(scratch.dir.join("HEAD")).unwrap();
        fs::write(scratch.dir.join("HEAD"), broken).unwrap();
        assert_eq!(head(), Head::Broken, "{broken}");
        assert!(listed().is_empty());
    }
}

/// Damaged references are listed with zeros, as C git does; what has no reference's name is told of
/// in the log alone.
#[test]
fn damaged_references_are_listed_with_zeros_and_never_with_what_is_packed() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 3, 1);
    let tip = scratch.git(&["rev-parse", "main"]);
    scratch.git(&["update-ref", "refs/heads/hidden", "main"]);
    scratch.git(&["pack-refs", "--all"]);
    let heads = scratch.dir.join("refs/heads");
    fs::create_dir_all(heads.join("deep/empty/dir")).unwrap();
    fs::create_dir_all(heads.join(".dot")).unwrap();
    for (name, value) in [
        ("zero", "0000000000000000000000000000000000000000\n"),
        ("short", "1234\n"),
        ("empty", ""),
        ("absent", "1234567890123456789012345678901234567890\n"),
        ("dangling", "ref: refs/heads/nowhere\n"),
        ("circle", "ref: refs/heads/circle\n"),
        ("round1", "ref: refs/heads/round2\n"),
        ("round2", "ref: refs/heads/round1\n"),
        ("outside", "ref: ../../../etc/passwd\n"),
        ("main.lock", &tip),
        (".dot/x", &tip),
        ("a..b", &tip),
        ("with space", &tip),
        ("hidden", "garbage that hides what is packed\n"),
    ] {
        fs::write(heads.join(name), value).unwrap();
    }
    let out = scratch.git(&["ls-remote", "--refs", "."]);
    // C git lists bad names too.
    let good = |line: &&str| !line.contains("a..b") && !line.contains("heads/with");
    let want: Vec<String> = out.lines().filter(good).map(|line| line.replace('\t', " ")).collect();
    assert_eq!(want.iter().filter(|line| line.starts_with("0000")).count(), 4);
    let repository = scratch.open();
    let listing = repository.refs().listing(&["refs/"]).unwrap();
    let entries: Vec<_> = listing.iter().map(Result::unwrap).collect();
    let line = |id: ObjectId, name: &[u8]| format!("{id} {}", text(name));
    let shown: Vec<String> = entries
        .iter()
        .filter_map(|entry| Some(line(entry.shown_id(repository.hash())?, entry.name)))
        .collect();
    assert_eq!(shown, want);
    let troubles: Vec<String> = entries.iter().filter_map(|entry| entry.trouble()).collect();
    for (name, why) in [
        ("zero", "damaged: an id of zeros"),
        ("short", "damaged: neither an object id nor a reference"),
        ("empty", "damaged: an empty file"),
        ("hidden", "damaged: neither an object id nor a reference"),
        ("circle", "left out: symbolic references in a circle, or too many"),
        ("outside", "left out: leads to '../../../etc/passwd', which is no reference"),
        ("main.lock", "left out: no reference can have this name"),
        ("a..b", "left out: no reference can have this name"),
        ("with space", "left out: no reference can have this name"),
    ] {
        let said = format!("refs/heads/{name}: {why}");
        assert!(troubles.contains(&said), "{said} {troubles:?}");
    }
    assert!(!troubles.iter().any(|trouble| trouble.contains("dangling")), "{troubles:?}");
    let listed = ours(&repository, &[]);
    assert_eq!(listed.len(), 2);
    assert!(repository.refs().find(b"refs/heads/hidden").is_err());
    assert!(scratch.open().refs().find(b"refs/heads/circle").unwrap().is_none());
    assert!(scratch.open().refs().find(b"refs/heads/../../HEAD").unwrap().is_none());
    // A directory in the place of a packed reference.
    fs::create_dir_all(scratch.dir.join("refs/heads/main")).unwrap();
    assert_eq!(ours(&scratch.open(), &["refs/heads/main"]), listed[1..]);
    assert!(scratch.open().refs().find(b"refs/heads/main").unwrap().is_some());
}

#[test]
fn references_of_linked_worktrees_are_not_shown() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 3, 1);
    scratch.git(&["worktree", "add", "-q", "../linked", "main"]);
    let linked = scratch.top().join("linked");
    scratch.git_in(&linked, &["update-ref", "refs/bisect/bad", "HEAD"]);
    scratch.git_in(&linked, &["update-ref", "refs/worktree/x", "HEAD"]);
    same_refs(&scratch);
    assert_eq!(ours(&scratch.open(), &[]).len(), 1);
}

#[test]
fn a_bad_packed_refs_is_an_error_and_never_a_short_list() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 3, 1);
    scratch.git(&["tag", "-a", "-m", "x", "v1", "main"]);
    scratch.git(&["pack-refs", "--all"]);
    let file = scratch.dir.join("packed-refs");
    let good = fs::read(&file).unwrap();
    let list = || scratch.open().refs().list::<&str>(&[], None);
    let count = list().unwrap().len();
    for cut in 1..good.len() {
        fs::write(&file, &good[..cut]).unwrap();
        let whole_line = good[cut - 1] == b'\n';
        assert_eq!(list().is_ok(), whole_line, "cut at {cut}");
    }
    for at in 0..good.len() {
        for flip in [1, 0x20, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            fs::write(&file, &bad).unwrap();
            let _ = list().map(|refs| assert!(refs.len() <= count + 1));
            let _ = scratch.open().refs().find(b"refs/tags/v1");
        }
    }
}

/// 50,000 references, of which the prefix wants one: neither read through nor walked.
#[test]
fn a_prefix_reads_no_more_than_it_asks_for() {
    let scratch = Scratch::bare(&[]);
    scratch.history("main", 3, 1);
    let tip = scratch.git(&["rev-parse", "main"]);
    let mut lines = "# pack-refs with: peeled fully-peeled sorted \n".to_owned();
    for i in 0..50_000 {
        lines.push_str(&format!("{} refs/changes/{i:06}\n", tip.trim()));
    }
    lines.push_str(&format!("{} refs/heads/main\n", tip.trim()));
    fs::write(scratch.dir.join("packed-refs"), &lines).unwrap();
    let repository = scratch.open();
    let one = || ours(&repository, &["refs/changes/040000"]).len();
    let heads = || ours(&repository, &["refs/heads/"]).len();
    assert_eq!((one(), heads(), ours(&repository, &[]).len()), (1, 1, 50_001));
    // A line that makes no sense is only seen by who reads it.
    let bad =
        lines.replace("refs/changes/000100\n", "refs/changes/0001\0\n").replacen(tip.trim(), "garbage", 1);
    fs::write(scratch.dir.join("packed-refs"), bad).unwrap();
    assert_eq!((one(), heads()), (1, 1));
    assert!(repository.refs().list::<&str>(&[], None).is_err());
}
