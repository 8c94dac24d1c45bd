//! Pushes of every kind: the same as to C git where git can answer, and nothing changed where they
//! are refused.

use std::path::{Path, PathBuf};
use std::process::Command;

use regress::compare::{assert_whole, listing, references};
use regress::run::Done;
use regress::{Site, history, run};

/// A work tree with two branches, a tag of each kind and some history.
fn work_tree(site: &Site, format: &str) -> PathBuf {
    let bare = history::repository(site, "history.git", 20, format);
    site.work_tree(&bare)
}

fn empty(site: &Site, name: &str) -> PathBuf {
    let path = site.repository(name);
    history::init(site, &path, "--object-format=sha1");
    path
}

/// Names of packs and indexes; whatever else lies in the object store is an error.
fn packs(repository: &Path) -> usize {
    let names = listing(&repository.join("objects"));
    let odd: Vec<&String> = names
        .keys()
        .filter(|n| !(n.ends_with(".pack") || n.ends_with(".idx") || matches!(n.as_str(), "pack" | "info")))
        .collect();
    assert!(odd.is_empty(), "not only packs and their indexes: {odd:?}");
    names.keys().filter(|n| n.ends_with(".pack")).count()
}

#[test]
fn every_kind_of_push_ends_as_with_c_git() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let ours = empty(&site, "ours.git");
    let theirs = site.path("theirs.git");
    history::init(&site, &theirs, "--object-format=sha1");
    let mut daemon = site.start();
    let theirs_url = theirs.to_string_lossy().into_owned();
    let steps: &[&[&str]] = &[
        &["main"],
        &["main:refs/heads/other", "main~3:refs/heads/third"],
        &["main~1:refs/heads/main"],
        &["-f", "main~1:refs/heads/main"],
        &["main"],
        &["--tags"],
        &["--atomic", ":refs/heads/third", "main~2:refs/heads/fourth", "main:refs/heads/other"],
        &["--atomic", "main~5:refs/heads/other", "main:refs/heads/fifth"],
        &["main:refs/heads/same-commit-other-name"],
        &["main"],
        &[":refs/heads/not-there"],
        &[":refs/heads/fourth", "main:refs/heads/fourth/below"],
        &["main~4:refs/tags/light", "main:refs/notes/commits"],
        &["main:refs/heads/other/below"],
        &[":refs/heads/main"],
        &["main^{tree}:refs/heads/tree"],
    ];
    for step in steps {
        let ask = |url: &str| {
            let mut arguments = vec!["--porcelain", url];
            arguments.extend(*step);
            site.push(&work, &arguments)
        };
        let (a, b) = (ask("gotd:ours.git"), ask(&theirs_url));
        assert_eq!(a.status, b.status, "{step:?}\n{}{}\n{}{}", a.text(), a.err, b.text(), b.err);
        assert_eq!(references(&site, &ours), references(&site, &theirs), "{step:?}");
    }
    packs(&ours);
    assert_whole(&site, &ours);
    site.push(&work, &["-q", "--mirror", "gotd:mirror.git"]).bad("no git repository found");
    daemon.assert_serves();
}

#[test]
fn one_pack_for_each_push_and_none_for_nothing() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let daemon = site.start();
    site.push(&work, &["-q", "gotd:r.git", "main"]).good();
    assert_eq!(packs(&repository), 1);
    let before = listing(&repository);
    site.push(&work, &["-q", "gotd:r.git", "main"]).good();
    site.push(&work, &["-q", "gotd:r.git", "main:refs/heads/again"]).good();
    assert_eq!(packs(&repository), 1, "an existing commit under a new name needs no pack");
    site.push(&work, &["-q", "gotd:r.git", ":refs/heads/again"]).good();
    for (name, entry) in &before {
        if name.starts_with("objects/pack/") {
            assert_eq!(listing(&repository).get(name), Some(entry), "{name}: touched");
        }
    }
    site.commit(&work, "pushed", "one more");
    site.push(&work, &["-q", "-o", "ci.skip", "gotd:r.git", "main"]).good();
    assert_eq!(packs(&repository), 2);
    assert_whole(&site, &repository);
    daemon.logged(&["reference ", "name=refs/heads/main", "who="]);
}

#[test]
fn long_ids_shallow_clones_and_work_trees() {
    let site = Site::new();
    let work = work_tree(&site, "sha256");
    let long = site.repository("long.git");
    history::init(&site, &long, "--object-format=sha256");
    let tree = site.repository("tree");
    site.git(["init", "-q", "-b", "main", &tree.to_string_lossy()]).good();
    let short = history::repository(&site, "short.git", 10, "sha1");
    let _daemon = site.start();
    site.push(&work, &["-q", "gotd:long.git", "main", "--tags"]).good();
    assert_whole(&site, &long);

    let shallow = site.clone_path("shallow");
    site.git(["clone", "-q", "--depth=2", "gotd:short.git", &shallow.to_string_lossy()]).good();
    let tip = site.commit(&shallow, "pushed", "from a shallow clone");
    site.push(&shallow, &["-q", "gotd:short.git", "main"]).good();
    assert_eq!(history::tip(&site, &short), tip);
    assert_whole(&site, &short);

    site.push(&shallow, &["gotd:tree", "main"]).bad("checked out");
    site.push(&shallow, &["gotd:tree", "HEAD:refs/heads/side"]).bad("shallow");
}

#[test]
fn what_is_refused_changes_nothing_and_says_why() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = history::repository(&site, "r.git", 20, "sha1");
    let path = site.path("repositories").join("r.git");
    let me = regress::site::present_user();
    let rules = "protect {\n\tbranch \"main\"\n\tbranch \"side\"\n\ttag namespace \"refs/tags/\"\n\tcreate namespace \"refs/heads/closed/\"\n\tlinear branch \"straight\"\n}\nlimit blob size 10K\nhide namespace \"refs/secret/\"\n";
    let configuration = format!(
        "{}repository \"r\" {{\npath \"{}\"\npermit rw \"{me}\"\n{rules}}}\nrepository \"ro\" {{\npath \"{}\"\npermit ro \"{me}\"\n}}\nrepository \"open\" {{\npath \"{}\"\npermit rw \"{me}\"\n}}\n",
        site.head(),
        path.display(),
        path.display(),
        path.display()
    );
    let _daemon = site.start_with(&configuration);
    site.push(&work, &["-q", "gotd:r", "main:refs/heads/straight", "main~1:refs/tags/v99"]).good();
    // A quarantine came and went: the time of the directory that held it is no change.
    let contents = || {
        let mut all = listing(&repository);
        all.remove("objects");
        all
    };
    let before = contents();
    let tag = site.git_in(&work, ["tag", "--list"]).lines().next().unwrap_or_default().to_owned();
    let to_tag = format!("+main~5:refs/tags/{tag}");
    for (arguments, words) in [
        (vec!["gotd:r", "+main~2:main"], "refs/heads/main: reference is protected"),
        (vec!["gotd:r", ":main"], "refs/heads/main: reference is protected"),
        (vec!["gotd:open", ":main"], "deletion of the current branch prohibited"),
        (vec!["gotd:r", ":side"], "refs/heads/side: reference is protected"),
        (vec!["gotd:r", "main:refs/onelevel"], "funny refname"),
        (vec!["gotd:r", "+main~3:refs/tags/v99"], "refs/tags/: reference namespace is protected"),
        (vec!["gotd:r", ":refs/tags/v99"], "refs/tags/: reference namespace is protected"),
        (vec!["gotd:r", to_tag.as_str()], "refs/tags/: reference namespace is protected"),
        (vec!["gotd:r", "main:refs/heads/closed/x"], "not permitted in this namespace"),
        (vec!["gotd:r", "main:refs/secret/x"], "hidden"),
        (vec!["gotd:r", "main:refs/remotes/o/x"], "refs/remotes/: reference namespace is protected"),
        (vec!["gotd:r", "main:refs/got/x"], "refs/got/: reference namespace is protected"),
        (vec!["gotd:r", "--atomic", "main:refs/heads/fine", "main:refs/got/x"], "atomic"),
        (vec!["gotd:ro", "main:refs/heads/x"], "Permission denied"),
    ] {
        site.push(&work, &arguments).bad(words);
        assert!(before == contents(), "{arguments:?}: changed something");
    }
    std::fs::write(work.join("large"), vec![7; 20_000]).expect("writes");
    site.git_in(&work, ["add", "large"]);
    site.git_in(&work, ["commit", "-q", "-m", "large"]);
    site.push(&work, &["gotd:r", "HEAD:refs/heads/large"]).bad("limit blob size");
    site.git_in(&work, ["reset", "-q", "--hard", "HEAD~1"]);
    site.git_in(&work, ["checkout", "-q", "-b", "aside", "HEAD~2"]);
    site.commit(&work, "pushed", "aside");
    site.git_in(&work, ["merge", "-q", "-m", "merged", "main"]);
    site.push(&work, &["gotd:r", "HEAD:refs/heads/straight"]).bad("merge commits are not permitted");
    assert!(before == contents());
}

#[test]
fn a_disk_reserve_refuses_a_push_and_leaves_nothing() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let configuration = format!("limit disk reserve 60T\n{}", site.serve_all());
    let mut daemon = site.start_with(&configuration);
    site.push(&work, &["gotd:r.git", "main"]).bad("limit disk reserve");
    assert_eq!(packs(&repository), 0);
    daemon.assert_serves();
}

#[test]
fn of_two_pushes_to_one_reference_one_wins_and_many_to_different_ones_all_do() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let mut daemon = site.start();
    site.push(&work, &["-q", "gotd:r.git", "main"]).good();
    let base = site.git_in(&work, ["rev-parse", "HEAD"]).trim().to_owned();
    let tips: Vec<String> = (0..2)
        .map(|n| {
            site.git_in(&work, ["checkout", "-q", "--detach", &base]);
            site.commit(&work, "pushed", format!("rival {n}"))
        })
        .collect();
    let start = |arguments: Vec<String>| {
        let mut command = site.command("git");
        command.arg("-C").arg(&work).args(["push", "-q"]).args(arguments);
        std::thread::spawn(move || run(&mut command, b"", 120))
    };
    for round in 0..5 {
        let reference = format!("refs/heads/race{round}");
        let rivals: Vec<_> =
            tips.iter().map(|tip| start(vec!["gotd:r.git".into(), format!("{tip}:{reference}")])).collect();
        let ends: Vec<Done> = rivals.into_iter().map(|t| t.join().expect("ends")).collect();
        let won: Vec<usize> = (0..2).filter(|n| ends[*n].status == 0).collect();
        let now = site.git_in(&repository, ["rev-parse", &reference]).trim().to_owned();
        // The slower one may have seen the faster one's value already, and then it is no race but a
        // refused rewind.
        assert_eq!(won.len(), 1, "{round}: {:?}", ends.iter().map(|e| e.err.clone()).collect::<Vec<_>>());
        assert_eq!(now, tips[won[0]]);
    }
    let many: Vec<_> =
        (0..24).map(|n| start(vec!["gotd:r.git".into(), format!("HEAD~1:refs/heads/many/{n}")])).collect();
    for thread in many {
        thread.join().expect("ends").good();
    }
    let heads = site.git_in(&repository, ["for-each-ref", "--format=%(refname)", "refs/heads/many/"]);
    assert_eq!(heads.lines().count(), 24);
    assert_whole(&site, &repository);
    daemon.assert_serves();
}

#[test]
fn pushes_fetches_and_repacking_at_once() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let mut daemon = site.start();
    site.push(&work, &["-q", "gotd:r.git", "main"]).good();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (flag, dir) = (stop.clone(), repository.clone());
    let mut commands: Vec<Command> = Vec::new();
    for arguments in
        [&["repack", "-adq"][..], &["gc", "-q"], &["repack", "--geometric=2", "-dq", "--write-midx"]]
    {
        let mut command = site.command("git");
        command.arg("-C").arg(&dir).args(arguments);
        commands.push(command);
    }
    let keeper = std::thread::spawn(move || {
        let mut rounds = 0;
        while !flag.load(std::sync::atomic::Ordering::Relaxed) && rounds < 200 {
            for command in &mut commands {
                let _ = run(command, b"", 60);
            }
            rounds += 1;
        }
    });
    for n in 0..12 {
        site.commit(&work, "pushed", format!("while repacking {n}"));
        site.push(&work, &["-q", "gotd:r.git", "main", &format!("main:refs/heads/b{n}")]).good();
        if n % 4 == 0 {
            let clone = site.clone_path(&format!("clone{n}"));
            site.git(["clone", "-q", "gotd:r.git", &clone.to_string_lossy()]).good();
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    keeper.join().expect("ends");
    assert_whole(&site, &repository);
    daemon.assert_serves();
}

#[test]
fn a_client_that_dies_in_the_middle_of_its_pack_leaves_nothing() {
    let site = Site::new();
    let bulky = history::bulky(&site, "bulk.git", 12);
    let repository = empty(&site, "r.git");
    let mut daemon = site.start();
    let pack = site.git_in(&bulky, ["rev-parse", "refs/heads/main"]);
    let tip = pack.trim();
    let mut objects = site.command("git");
    objects.arg("-C").arg(&bulky).args(["pack-objects", "--all", "--stdout", "-q"]);
    let pack = run(&mut objects, b"", 60).good().out;
    let zeros = "0".repeat(40);
    let command = format!("{zeros} {tip} refs/heads/main\0report-status side-band-64k");
    for share in [0, 1, 4, 9] {
        let mut input = regress::pkt::line(command.as_bytes());
        input.extend(b"0000");
        input.extend(&pack[..pack.len() / 10 * share]);
        let done = run(&mut site.gotsh("git-receive-pack 'r.git'"), &input, 60);
        let said = String::from_utf8_lossy(&done.out).into_owned();
        assert!(said.contains("ng refs/heads/main"), "{share}: {said} {}", done.err);
    }
    assert_eq!(references(&site, &repository), "");
    let mut input = regress::pkt::line(command.as_bytes());
    input.extend(b"0000");
    input.extend(&pack);
    let done = run(&mut site.gotsh("git-receive-pack 'r.git'"), &input, 60).good();
    assert!(String::from_utf8_lossy(&done.out).contains("ok refs/heads/main"));
    assert_eq!(packs(&repository), 1);
    assert_whole(&site, &repository);
    daemon.assert_serves();
}

#[test]
fn other_clients_push_too() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let _daemon = site.start();
    let script = "\
import os, sys
from dulwich import client, repo
path, ssh = sys.argv[1:3]
r = repo.Repo(path)
c = client.SSHGitClient('gotd', ssh_command=ssh)
tip = r.refs[b'refs/heads/main']
result = c.send_pack('r.git', lambda refs: {b'refs/heads/dulwich': tip}, r.generate_pack_data)
assert not any((result.ref_status or {}).values()), result.ref_status
";
    let python = "/usr/bin/python3";
    let mut probe = Command::new(python);
    probe.args(["-c", "import dulwich"]).stderr(std::process::Stdio::null());
    if !probe.status().is_ok_and(|status| status.success()) {
        return regress::skipped("needs python3-dulwich");
    }
    // It gives options of its own; the command is the last word.
    let ssh = site.script(
        "last-word",
        &format!(
            "#!/bin/sh\nfor last; do :; done\nGOTD_UNIX_SOCKET='{}' exec '{}' -c \"$last\"\n",
            site.socket().display(),
            regress::binaries().join("gotsh").display()
        ),
    );
    let mut command = site.command(python);
    command.args(["-c", script]).arg(&work).arg(ssh);
    run(&mut command, b"", 60).good();
    assert!(references(&site, &repository).contains("refs/heads/dulwich"));
    site.push(&work, &["-q", "gotd:r.git", "main"]).good();
    assert_whole(&site, &repository);
}

/// As JGit: it has sent all, keeps its end open, and waits for the end of ours.
#[test]
fn a_client_that_waits_for_the_servers_end_is_not_kept_waiting() {
    use std::io::{Read, Write};
    let site = Site::new();
    let bulky = history::bulky(&site, "bulk.git", 1);
    let mut daemon = site.start();
    let tip = history::tip(&site, &bulky);
    let mut objects = site.command("git");
    objects.arg("-C").arg(&bulky).args(["pack-objects", "--all", "--stdout", "-q"]);
    let pack = run(&mut objects, b"", 60).good().out;
    let mut gotsh = site.gotsh("git-receive-pack 'bulk.git'");
    gotsh.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut gotsh = gotsh.spawn().expect("gotsh starts");
    let mut to = gotsh.stdin.take().expect("a pipe");
    // Refused by its name, before anybody looks at the pack.
    let line = format!("{} {tip} refs/got/x\0report-status side-band-64k", "0".repeat(40));
    to.write_all(&regress::pkt::line(line)).expect("writes");
    to.write_all(regress::pkt::FLUSH).expect("writes");
    to.write_all(&pack).expect("all of it is taken");
    let begun = std::time::Instant::now();
    let mut said = Vec::new();
    gotsh.stdout.take().expect("a pipe").read_to_end(&mut said).expect("reads");
    let took = begun.elapsed();
    assert!(String::from_utf8_lossy(&said).contains("ng refs/got/x"));
    assert!(took < std::time::Duration::from_secs(3), "{took:?}");
    drop(to);
    let _ = gotsh.wait();
    daemon.assert_serves();
}

/// A limit of blobs is about each reference by itself.
#[test]
fn a_large_blob_refuses_only_the_reference_that_brings_it() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let configuration = site.serve_all().replace("permit rw", "limit blob size 50K\n\tpermit rw");
    let _daemon = site.start_with(&configuration);
    site.push(&work, &["-q", "gotd:r.git", "main"]).good();
    site.git_in(&work, ["checkout", "-q", "-b", "large"]);
    std::fs::write(work.join("large"), vec![7; 60_000]).expect("writes");
    site.git_in(&work, ["add", "large"]);
    site.git_in(&work, ["commit", "-q", "-m", "large"]);
    site.git_in(&work, ["checkout", "-q", "-b", "small", "main"]);
    site.commit(&work, "pushed", "small");
    site.push(&work, &["gotd:r.git", "large", "small"]).bad("blob of 60000 bytes, at most 51200");
    let there = references(&site, &repository);
    assert!(there.contains("refs/heads/small") && !there.contains("refs/heads/large"), "{there}");
    site.push(&work, &["--atomic", "gotd:r.git", "large", "small:refs/heads/other"]).bad("atomic");
    assert_eq!(references(&site, &repository), there);
    assert_whole(&site, &repository);
}

#[test]
fn reflogs_are_written_where_they_are_asked_for_and_hidden_references_are_nowhere() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let repository = empty(&site, "r.git");
    let path = site.path("repositories");
    let me = regress::site::present_user();
    let block = |name: &str, more: &str| {
        format!("repositories \"{name}\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n{more}}}\n", path.display())
    };
    let plain = block("plain", "\thide namespace \"refs/secret/\"\n");
    let _daemon = site.start_with(&format!("{}{plain}{}", site.head(), block("logged", "\treflog\n")));
    site.push(&work, &["-q", "gotd:plain/r.git", "main~2:refs/heads/main"]).good();
    assert!(!repository.join("logs").exists(), "nobody asked for a reflog");
    site.push(&work, &["-q", "gotd:logged/r.git", "main~1:main", "main~1:refs/heads/x/y"]).good();
    site.push(&work, &["-q", "gotd:logged/r.git", "main", "main:refs/secret/x"]).good();
    site.push(&work, &["gotd:logged/r.git", "main~3:main"]).bad("rejected");
    let tips = ["main", "main~1", "main~2"].map(|name| site.git_in(&work, ["rev-parse", name]));
    for log in ["refs/heads/main", "HEAD"] {
        let shown = site.git_in(&repository, ["reflog", "show", "--format=%H", log]);
        assert_eq!(shown, tips[..2].concat(), "{log}");
    }
    let text = std::fs::read_to_string(repository.join("logs/refs/heads/main")).expect("a log");
    assert!(text.starts_with(tips[2].trim()) && text.contains(&format!("{me} <{me}@gotd>")), "{text}");
    site.push(&work, &["-q", "gotd:logged/r.git", ":refs/heads/x/y", "main:refs/heads/x"]).good();
    let shown = site.git_in(&repository, ["reflog", "show", "--format=%H", "refs/heads/x"]);
    assert_eq!(shown, tips[0]);
    // The same repository under a name by which it hides a namespace.
    for (name, shows) in [("plain", false), ("logged", true)] {
        let fetch = site.git(["ls-remote", &format!("gotd:{name}/r.git")]).good().text();
        let done = run(&mut site.gotsh(format!("git-receive-pack '{name}/r.git'")), b"0000", 20).good();
        for said in [fetch, done.text()] {
            assert!(said.contains("refs/heads/main"), "{said}");
            assert_eq!(said.contains("refs/secret/x"), shows, "{name}: {said}");
        }
    }
    site.push(&work, &["gotd:plain/r.git", ":refs/secret/x"]).bad("");
    assert!(references(&site, &repository).contains("refs/secret/x"));
    assert_whole(&site, &repository);
}

/// A name may have 2048 bytes. One of 2100 was refused only when its pack had been received,
/// checked and installed: a client could fill the object store with packs that no reference needs.
#[test]
fn a_name_that_is_too_long_is_refused_before_its_pack_is_read() {
    let site = Site::new();
    let work = work_tree(&site, "sha1");
    let ours = empty(&site, "ours.git");
    let mut daemon = site.start();
    let name = |length: usize| {
        let mut name = "refs/heads".to_owned();
        while name.len() < length {
            let component = "a".repeat((length - name.len() - 1).min(200));
            name = format!("{name}/{component}");
        }
        name
    };
    let asked = format!("main:{}", name(2100));
    for atomic in [&["--atomic"][..], &[]] {
        let mut arguments = atomic.to_vec();
        arguments.extend(["--porcelain", "gotd:ours.git", &asked]);
        let done = site.push(&work, &arguments);
        assert_ne!(done.status, 0);
        let told = done.text();
        assert!(told.contains("[remote rejected] (reference name of more than 2048 bytes)"), "{told}");
        assert_eq!((packs(&ours), references(&site, &ours)), (0, String::new()));
    }
    // Beside a good one only the bad one fails.
    let done = site.push(&work, &["--porcelain", "gotd:ours.git", "main", &asked]);
    let told = done.text();
    assert!(done.status != 0 && told.contains("(reference name of more than 2048 bytes)"), "{told}");
    assert_eq!((packs(&ours), references(&site, &ours).lines().count()), (1, 1));
    let longest = format!("main~1:{}", name(2048));
    site.push(&work, &["gotd:ours.git", &longest]).good();
    assert_eq!(references(&site, &ours).lines().count(), 2);
    assert!(daemon.answers());
    daemon.stop();
}
