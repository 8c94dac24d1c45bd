//! Pushes of very many references, which are one change of packed-refs, and of names as deep as
//! they may be long.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use regress::compare::{assert_whole, leftovers, references};
use regress::{Site, history, run};

/// Two empty repositories, ours and C git's, and a work tree with 20 commits.
fn places(site: &Site) -> (PathBuf, PathBuf, PathBuf) {
    let bare = history::repository(site, "history.git", 20, "sha1");
    let work = site.work_tree(&bare);
    let (ours, theirs) = (site.repository("ours.git"), site.path("theirs.git"));
    for path in [&ours, &theirs] {
        history::init(site, path, "--object-format=sha1");
    }
    (work, ours, theirs)
}

/// Changes references of a repository by git's own hand.
fn update(site: &Site, repository: &Path, lines: &str) {
    let mut command = site.command("git");
    command.arg("-C").arg(repository).args(["update-ref", "--stdin"]);
    run(&mut command, lines.as_bytes(), 60).good();
    site.hand_over();
}

fn ids(site: &Site, work: &Path) -> Vec<String> {
    let revisions = site.git_in(work, ["rev-list", "main"]);
    let mut ids: Vec<String> = revisions.lines().map(str::to_owned).collect();
    // An annotated tag, whose peeled value packed-refs tells.
    site.git_in(work, ["tag", "-a", "-m", "annotated", "annotated", "main"]);
    ids.push(site.git_in(work, ["rev-parse", "annotated"]).trim().to_owned());
    site.git_in(work, ["tag", "-d", "annotated"]);
    ids
}

/// The references that are files of their own.
fn loose(repository: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![repository.join("refs")];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(directory).expect("reads").flatten() {
            match entry.path().is_dir() {
                true => waiting.push(entry.path()),
                false => {
                    let path = entry.path();
                    let name = path.strip_prefix(repository).expect("is below");
                    found.insert(name.to_string_lossy().into_owned());
                }
            }
        }
    }
    found
}

fn push(site: &Site, work: &Path, to: &str, what: &[String], options: &[&str]) -> regress::run::Done {
    let mut arguments = vec!["-q"];
    arguments.extend(options);
    arguments.push(to);
    arguments.extend(what.iter().map(String::as_str));
    site.push(work, &arguments)
}

#[test]
fn many_references_are_one_change_of_packed_refs() {
    let site = Site::new();
    let (work, ours, theirs) = places(&site);
    let ids = ids(&site, &work);
    let mut daemon = site.start();
    let theirs_url = theirs.to_string_lossy().into_owned();
    let both = |what: &[String], options: &[&str]| {
        let (a, b) = (
            push(&site, &work, "gotd:ours.git", what, options),
            push(&site, &work, &theirs_url, what, options),
        );
        assert_eq!(a.status, b.status, "{}\n{}", a.err, b.err);
        assert_eq!(references(&site, &ours), references(&site, &theirs));
        assert_eq!(leftovers(&ours), Vec::<PathBuf>::new());
        a
    };
    let set =
        |name: &str, n: usize, shift: usize| format!("+{}:refs/{name}/n{n}", ids[(n + shift) % ids.len()]);
    both(&["main:refs/heads/main".into()], &[]).good();
    // One fewer than it takes, and one that is enough.
    both(&(0..63).map(|n| set("tags/few", n, 0)).collect::<Vec<_>>(), &[]).good();
    assert_eq!(loose(&ours).len(), 64);
    both(&(0..64).map(|n| set("tags/enough", n, 0)).collect::<Vec<_>>(), &[]).good();
    assert_eq!(loose(&ours).len(), 64);
    let lines = fs::read_to_string(ours.join("packed-refs")).expect("reads");
    let packed = lines.lines().filter(|line| line.contains("refs/tags/enough/")).count();
    assert_eq!(packed, 64);
    assert!(lines.starts_with("# pack-refs with: peeled fully-peeled sorted"), "{lines}");
    assert!(!ours.join("refs/tags/enough").exists());
    // Loose ones, packed ones, both; new ones, and some that go.
    let mixed: Vec<String> = (0..63)
        .map(|n| set("tags/few", n, 1))
        .chain((0..40).map(|n| set("tags/enough", n, 1)))
        .chain((40..64).map(|n| format!(":refs/tags/enough/n{n}")))
        .chain((0..30).map(|n| set("heads/new/deep", n % 20, n / 20 + n)).take(20))
        .collect();
    for options in [&[][..], &["--atomic"]] {
        both(&mixed, options);
    }
    // What has a file of its own keeps it.
    let few = (0..63).map(|n| format!("refs/tags/few/n{n}"));
    assert_eq!(loose(&ours), few.chain(["refs/heads/main".to_owned()]).collect());
    // Names that exclude each other, and what is deleted to make room for others.
    let room: Vec<String> = (0..40)
        .map(|n| format!(":refs/tags/enough/n{n}"))
        .chain((0..40).map(|n| set("tags/enough/n1", n, 0)))
        .chain(["main:refs/heads/new".into(), "main:refs/heads/main/below".into()])
        .collect();
    both(&room, &[]).bad("failed to update ref");
    // A hundredth of packed-refs is too little.
    let many: String = (0..7000).map(|n| format!("create refs/mass/n{n} {}\n", ids[0])).collect();
    for repository in [&ours, &theirs] {
        run(
            site.command("git").arg("-C").arg(repository).args(["fetch", "-q"]).arg(&work).arg("main"),
            b"",
            60,
        )
        .good();
        update(&site, repository, &many);
        site.git_in(repository, ["pack-refs", "--all"]);
    }
    site.hand_over();
    both(&(0..64).map(|n| set("tags/again", n, 0)).collect::<Vec<_>>(), &[]).good();
    assert_eq!(loose(&ours).len(), 64);
    both(&(0..80).map(|n| set("tags/more", n, 0)).collect::<Vec<_>>(), &[]).good();
    assert_eq!(loose(&ours).len(), 64);
    assert_whole(&site, &ours);
    let mirror = site.clone_path("mirror.git");
    site.git(["clone", "-q", "--mirror", "gotd:ours.git", &mirror.to_string_lossy()]).good();
    assert_eq!(references(&site, &ours), references(&site, &mirror));
    daemon.assert_serves();
}

/// C git beside us holds some locks: these references fail, the others have their new values long
/// before the push gives up, and it does not wait for each.
#[test]
fn locked_references_fail_alone_and_are_waited_for_together() {
    let site = Site::new();
    let (work, ours, _) = places(&site);
    let ids = ids(&site, &work);
    let daemon = site.start();
    let name = |n: usize| format!("refs/tags/n{n}");
    push(&site, &work, "gotd:ours.git", &["main".into()], &[]).good();
    for (round, id) in ids.iter().enumerate().take(3) {
        let what: Vec<String> = (0..100)
            .map(|n| match round {
                2 => format!(":{}", name(n)),
                _ => format!("+{id}:{}", name(n)),
            })
            .collect();
        let before = references(&site, &ours);
        let locked: Vec<PathBuf> = (0..100).step_by(9).map(|n| ours.join(name(n) + ".lock")).collect();
        fs::create_dir_all(ours.join("refs/tags")).expect("makes");
        for lock in &locked {
            fs::write(lock, "").expect("writes");
        }
        let began = Instant::now();
        let done = push(&site, &work, "gotd:ours.git", &what, &[]).bad("it is locked");
        assert!(began.elapsed() < Duration::from_secs(40), "12 locks were waited for one after the other");
        assert_eq!(done.err.matches("it is locked").count(), locked.len(), "{}", done.err);
        let after = references(&site, &ours);
        for n in 0..100 {
            let line = |text: &str| {
                let ends = format!(" {}", name(n));
                text.lines().find(|line| line.ends_with(&ends)).map(str::to_owned)
            };
            match n % 9 {
                0 => assert_eq!(line(&after), line(&before), "{n}"),
                _ if round == 2 => assert_eq!(line(&after), None, "{n}"),
                _ => assert!(line(&after).is_some_and(|line| line.starts_with(id)), "{n}"),
            }
        }
        for lock in &locked {
            fs::remove_file(lock).expect("is there");
        }
        if round < 2 {
            push(&site, &work, "gotd:ours.git", &what, &[]).good();
        }
    }
    assert_eq!(leftovers(&ours), Vec::<PathBuf>::new());
    assert_whole(&site, &ours);
    daemon.logged(&["reference ", "name=refs/tags/n9", "locked"]);
}

/// `depth` components below refs/heads, the last of them `end`.
fn deep(depth: usize, end: &str) -> String {
    format!("refs/heads/{}{end}", "d/".repeat(depth - 1))
}

#[test]
fn names_are_as_deep_as_they_are_long() {
    let site = Site::new();
    let (work, ours, theirs) = places(&site);
    let _daemon = site.start();
    let theirs_url = theirs.to_string_lossy().into_owned();
    // The last has 2,048 bytes, which is the most.
    let names: Vec<String> = [61, 62, 63, 64, 65, 509, 511, 513].map(|depth| deep(depth, "x")).into();
    let longest = deep(1018, &"x".repeat(2048 - 11 - 2034));
    assert_eq!(longest.len(), 2048);
    let names: Vec<String> = names.into_iter().chain([longest]).collect();
    let make: Vec<String> = names.iter().map(|name| format!("main:{name}")).collect();
    let ask = |what: &[String], options: &[&str]| {
        for to in ["gotd:ours.git", &theirs_url] {
            push(&site, &work, to, what, options).good();
        }
        assert_eq!(references(&site, &ours), references(&site, &theirs));
    };
    for (options, packed) in [(&[][..], false), (&["--atomic"][..], false), (&[][..], true)] {
        ask(&make, options);
        if packed {
            site.git_in(&ours, ["pack-refs", "--all"]);
            site.hand_over();
        }
        for version in ["0", "1", "2"] {
            let list = |url: &str| {
                site.git(["-c", &format!("protocol.version={version}"), "ls-remote", url]).good().text()
            };
            let listed = list("gotd:ours.git");
            assert_eq!(listed, list(&theirs_url), "{version}");
            assert_eq!(names.iter().filter(|name| listed.contains(*name)).count(), names.len());
            let copy = site.clone_path(&format!("copy{version}"));
            let config = format!("protocol.version={version}");
            site.git(["-c", &config, "clone", "-q", "--mirror", "gotd:ours.git", &copy.to_string_lossy()])
                .good();
            assert_eq!(references(&site, &ours), references(&site, &copy));
            fs::remove_dir_all(&copy).expect("removes");
        }
        // What cannot exist beside them, above and below.
        let conflicts =
            [deep(62, "x/below"), deep(62, "d"), deep(500, "d")].map(|name| format!("main:{name}"));
        for conflict in conflicts {
            for to in ["gotd:ours.git", &theirs_url] {
                push(&site, &work, to, std::slice::from_ref(&conflict), options).bad("remote rejected");
            }
        }
        let change: Vec<String> = names.iter().map(|name| format!("+main~1:{name}")).collect();
        ask(&change, options);
        let delete: Vec<String> = names.iter().map(|name| format!(":{name}")).collect();
        ask(&delete, options);
        assert_eq!(references(&site, &ours), "");
        assert_eq!(loose(&ours), BTreeSet::new());
        assert!(!ours.join("refs/heads/d").exists(), "empty directories are left");
        // A name where these directories were.
        ask(&["main:refs/heads/d".into()], options);
        ask(&[":refs/heads/d".into()], options);
    }
    assert_eq!(leftovers(&ours), Vec::<PathBuf>::new());
}

/// Names that no file can have are refused before anything is written, and the reason is told.
#[test]
fn what_no_file_can_be_named_is_refused_with_a_reason() {
    let site = Site::new();
    let (work, ours, theirs) = places(&site);
    let _daemon = site.start();
    let theirs_url = theirs.to_string_lossy().into_owned();
    let component = |bytes: usize| format!("refs/heads/c/{}", "x".repeat(bytes));
    let long = |bytes: usize| {
        let mut name = deep(1000, "");
        name.extend(std::iter::repeat_n('x', bytes - name.len()));
        name
    };
    for (name, reason) in [
        (component(250), None),
        (component(251), Some("reference name with a component of more than 250 bytes")),
        (component(256), Some("reference name with a component of more than 250 bytes")),
        (long(2048), None),
        (long(2049), Some("reference name of more than 2048 bytes")),
        (long(4000), Some("reference name of more than 2048 bytes")),
    ] {
        let what = [format!("main:{name}"), "main:refs/heads/beside".into()];
        for options in [&[][..], &["--atomic"]] {
            let done = push(&site, &work, "gotd:ours.git", &what, options);
            match reason {
                None => drop(done.good()),
                Some(reason) => drop(done.bad(reason)),
            }
            let there = references(&site, &ours);
            assert_eq!(there.contains(&name), reason.is_none(), "{name}");
            assert_eq!(there.contains("refs/heads/beside"), reason.is_none() || options.is_empty(), "{name}");
            // C git has no limit for the whole; a component's is the same.
            if reason.is_some_and(|reason| reason.contains("component")) {
                push(&site, &work, &theirs_url, &what, options).bad("remote rejected");
            }
            for name in there.lines().filter_map(|line| line.split(' ').next_back()) {
                site.git_in(&ours, ["update-ref", "-d", name]);
            }
            site.hand_over();
            assert_eq!(loose(&ours), BTreeSet::new());
            assert!(!ours.join("refs/heads/c").exists() && !ours.join("refs/heads/d").exists());
        }
    }
}
