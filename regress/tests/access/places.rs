//! Who owns a path owns what is found there, and not whose rules hold.
//!
//! The story: a configured path was resolved by the kernel at each request. alice, who may write
//! the directory that holds her repositories, put a symbolic link where one of them had been. Under
//! her own block she then read and wrote the repository of somebody else: one whose block denies
//! her, and one that no line of the configuration names. A check for repositories with a block of
//! their own went by the inodes of the start: one that was restored or cloned anew under the same
//! path had other ones, and so lost its rules until the next reload.
//!
//! As root alice is a user of her own here; else there is nobody whose directories are not the
//! daemon's too.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use regress::binaries;
use regress::ground::{ALICE, BOB, Ground, Hang, Mounted};
use regress::run::run;
use regress::site::UNPRIVILEGED;

const BLOCKS: &str = "repositories \"~alice\" {\n\tpath \"GROUND/home/alice/public_git\"\n\tpermit rw 12001\n}\n\
    repository \"mine\" {\n\tpath \"GROUND/home/alice/mine.git\"\n\tpermit rw 12001\n}\n\
    repository \"secret\" {\n\tpath \"GROUND/srv/secret.git\"\n\tpermit rw 12002\n\tdeny 12001\n}\n\
    repositories \"team\" {\n\tpath \"GROUND/srv/team\"\n\tpermit rw 12002\n}\n";

fn neighbours(ground: &Ground) -> (String, String, String, String) {
    let x = ground.alices("home/alice/public_git/x.git", 1);
    let mine = ground.alices("home/alice/mine.git", 2);
    ground.give("home/alice", ALICE);
    let secret = ground.repository("srv/secret.git", 3);
    let team = ground.repository("srv/team/t.git", 4);
    ground.repository("srv/unnamed.git", 5);
    (x, mine, secret, team)
}

#[test]
fn a_link_in_the_place_of_a_repository_leads_nowhere() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let (x, mine, secret, _) = neighbours(&ground);
    let mut daemon = ground.start(BLOCKS);
    assert_eq!(ground.reads(ALICE, "~alice/x").as_ref(), Ok(&x));
    assert_eq!(ground.reads(ALICE, "mine").as_ref(), Ok(&mine));
    assert_eq!(ground.reads(BOB, "secret").as_ref(), Ok(&secret));
    ground.assert_hidden(ALICE, "team/t");
    ground.alice("mv mine.git away.git; mv public_git away");
    for target in ["srv/secret.git", "srv/unnamed.git", "srv/team/t.git", "home/alice/away.git"] {
        let target = ground.path(target);
        ground.alice(&format!("ln -sfn {} mine.git", target.display()));
        ground.assert_hidden(ALICE, "mine");
        daemon.logged(&["mine.git: symbolic link, which is not followed", "owner 12001, mode 0755"]);
        let push = ground.git(
            ALICE,
            &[
                "-C",
                &ground.site.repository("made-srv-secret.git").to_string_lossy(),
                "push",
                "gotd:mine",
                "HEAD:refs/heads/evil",
            ],
        );
        push.bad("no git repository found");
        let evil = ground.site.git_in(&target, ["for-each-ref", "refs/heads/evil"]);
        assert_eq!(evil, "", "{}", target.display());
    }
    for target in ["srv", "srv/team"] {
        ground.alice(&format!("ln -sfn {} public_git", ground.path(target).display()));
        for name in ["~alice/secret", "~alice/unnamed", "~alice/t", "~alice/secret.git", "~alice/team/t"] {
            ground.assert_hidden(ALICE, name);
        }
    }
    // Nor one inside of a directory that is no link itself.
    ground.alice("rm public_git; mv away public_git");
    for target in ["srv/unnamed.git", "srv/team", "srv/team/t.git"] {
        ground.alice(&format!("ln -sfn {} public_git/y.git", ground.path(target).display()));
        ground.assert_hidden(ALICE, "~alice/y");
        ground.assert_hidden(ALICE, "~alice/y.git/t");
    }
    // The other way round: what is hers is served again once it is a directory.
    ground.alice("rm mine.git; mv away.git mine.git");
    assert_eq!(ground.reads(ALICE, "mine"), Ok(mine));
    assert_eq!(ground.reads(ALICE, "~alice/x"), Ok(x));
    daemon.assert_serves();
}

#[test]
fn an_ancestor_that_becomes_a_link_leads_nowhere() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let deep = ground.alices("home/alice/a/b/c.git", 1);
    ground.give("home/alice", ALICE);
    ground.repository("srv/b/c.git", 2);
    let mut daemon = ground.start(
        "repository \"deep\" {\n\tpath \"GROUND/home/alice/a/b/c.git\"\n\tpermit rw 12001\n}\n\
         repository \"other\" {\n\tpath \"GROUND/srv/b/c.git\"\n\tpermit rw 12002\n}\n",
    );
    assert_eq!(ground.reads(ALICE, "deep"), Ok(deep));
    ground.alice(&format!("mv a away; ln -s {} a", ground.path("srv").display()));
    ground.assert_hidden(ALICE, "deep");
    // A link that leads up and down again, and one of a relative path.
    ground.alice("ln -sfn ../../srv a");
    ground.assert_hidden(ALICE, "deep");
    ground.alice("rm a; mkdir a; ln -s ../../../srv/b a/b");
    ground.assert_hidden(ALICE, "deep");
    ground.alice("rm a/b; ln -s b a/b");
    ground.assert_hidden(ALICE, "deep");
    daemon.assert_serves();
}

#[test]
fn whose_rules_hold_is_said_by_the_longest_place() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let own = ground.repository("srv/own.git", 1);
    let free = ground.repository("srv/free.git", 2);
    let inner = ground.repository("srv/team/t.git", 3);
    let mut daemon = ground.start(
        "repositories \"\" {\n\tpath \"GROUND/srv\"\n\tpermit rw 12001\n}\n\
         repository \"x\" {\n\tpath \"GROUND/srv/own.git\"\n\tpermit rw 12002\n}\n\
         repositories \"t\" {\n\tpath \"GROUND/srv/team\"\n\tpermit rw 12002\n}\n",
    );
    let asked = || {
        assert_eq!(ground.reads(ALICE, "free").as_ref(), Ok(&free));
        for name in ["own", "own.git", "own.git.git", "x.git.git", "team/t", "team/t.git", "team/t.git.git"] {
            ground.assert_hidden(ALICE, name);
        }
    };
    asked();
    daemon.logged(&["own.git: has a block of its own"]);
    assert_eq!(ground.reads(BOB, "x").as_ref(), Ok(&own));
    assert_eq!(ground.reads(BOB, "t/t").as_ref(), Ok(&inner));
    // Restored, or cloned anew, under the same path: other inodes, the same rules, and no reload.
    for name in ["own.git", "team/t.git"] {
        let path = ground.path("srv").join(name);
        let copy = path.with_extension("copy");
        run(Command::new("cp").arg("-a").arg(&path).arg(&copy), b"", 30).good();
        fs::remove_dir_all(&path).expect("removes");
        asked();
        fs::rename(&copy, &path).expect("restores");
        asked();
        // The sessions that wait were started before.
        for _ in 0..12 {
            assert_eq!(ground.reads(BOB, "x").as_ref(), Ok(&own));
        }
        assert_eq!(ground.reads(BOB, "t/t").as_ref(), Ok(&inner));
    }
    // Two that change places have the rules of where they are.
    fs::rename(ground.path("srv/own.git"), ground.path("srv/between")).expect("moves");
    fs::rename(ground.path("srv/free.git"), ground.path("srv/own.git")).expect("moves");
    fs::rename(ground.path("srv/between"), ground.path("srv/free.git")).expect("moves");
    assert_eq!(ground.reads(BOB, "x"), Ok(free));
    ground.assert_hidden(ALICE, "own");
    daemon.assert_serves();
}

#[test]
fn a_link_of_the_administrators_is_followed_until_it_is_turned() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let one = ground.repository("disk1/r.git", 1);
    let two = ground.repository("disk2/r.git", 2);
    std::os::unix::fs::symlink("disk1", ground.path("git")).expect("links");
    std::os::unix::fs::symlink(ground.path("disk1/r.git"), ground.path("r.git")).expect("links");
    let mut daemon = ground.start(
        "repositories \"\" {\n\tpath \"GROUND/git\"\n\tpermit rw 12001\n\tcreate\n}\n\
         repository \"single\" {\n\tpath \"GROUND/r.git\"\n\tpermit rw 12001\n}\n",
    );
    // One name leads to a place that has a block of its own, the other is that block's.
    ground.assert_hidden(ALICE, "r");
    assert_eq!(ground.reads(ALICE, "single").as_ref(), Ok(&one));
    let turn = |name: &str, target: &str| {
        let new = ground.path("new-link");
        std::os::unix::fs::symlink(target, &new).expect("links");
        fs::rename(&new, ground.path(name)).expect("turns");
    };
    turn("r.git", "disk2/r.git");
    turn("git", "disk2");
    ground.assert_hidden(ALICE, "single");
    ground.assert_hidden(ALICE, "r");
    daemon.logged(&["disk2/r.git", "gotctl reload"]);
    // Nothing is made there either.
    let source = ground.site.repository("made-disk1-r.git");
    ground
        .git(ALICE, &["-C", &source.to_string_lossy(), "push", "gotd:fresh", "HEAD:refs/heads/main"])
        .bad("no git repository found");
    assert!(!ground.path("disk2/fresh.git").exists() && !ground.path("disk1/fresh.git").exists());
    daemon.gotctl(&["reload"]).good();
    assert_eq!(ground.reads(ALICE, "single"), Ok(two));
    daemon.assert_serves();
}

#[test]
fn what_was_absent_at_the_start_is_served_once_it_is_there() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    fs::create_dir(ground.path("disk")).expect("makes");
    let mut daemon = ground.start(
        "repository \"later\" {\n\tpath \"GROUND/srv/later/r.git\"\n\tpermit rw 12001\n}\n\
         repositories \"disk\" {\n\tpath \"GROUND/disk\"\n\tpermit rw 12001\n}\n\
         repositories \"tree\" {\n\tpath \"GROUND/srv/tree\"\n\tpermit rw 12001\n}\n",
    );
    for name in ["later", "disk/d", "tree/t"] {
        ground.assert_hidden(ALICE, name);
    }
    let later = ground.repository("srv/later/r.git", 1);
    let tree = ground.repository("srv/tree/t.git", 2);
    let disk = ground.repository("other/d.git", 3);
    let mounted = ground.bind("other", "disk");
    for _ in 0..12 {
        assert_eq!(ground.reads(ALICE, "later").as_ref(), Ok(&later));
        assert_eq!(ground.reads(ALICE, "tree/t").as_ref(), Ok(&tree));
        if mounted.is_some() {
            assert_eq!(ground.reads(ALICE, "disk/d").as_ref(), Ok(&disk));
        }
    }
    if mounted.is_none() {
        regress::skipped("nothing can be mounted here: a disk was not tried");
    }
    drop(mounted);
    daemon.assert_serves();
}

#[test]
fn shared_and_sticky_directories_are_served_and_lose_their_links_alone() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let mut tips = Vec::new();
    for (name, bits) in [("setgid", 0o2775), ("sticky", 0o1777), ("plain", 0o777)] {
        fs::create_dir(ground.path(name)).expect("makes");
        tips.push((name, ground.repository(&format!("{name}/r.git"), tips.len() as u64 + 1)));
        std::os::unix::fs::symlink("r.git", ground.path(name).join("link.git")).expect("links");
        run(Command::new("chgrp").arg("nogroup").arg(ground.path(name)), b"", 30).good();
        ground.mode(name, bits);
    }
    let blocks: String = tips
        .iter()
        .map(|(name, _)| {
            format!(
                "repositories \"{name}\" {{\n\tpath \"GROUND/{name}\"\n\tpermit rw 12001\n\tcreate\n}}\n\
                 repository \"{name}-link\" {{\n\tpath \"GROUND/{name}/link.git\"\n\tpermit rw 12001\n}}\n"
            )
        })
        .collect();
    let mut daemon = ground.start(&blocks);
    let source = ground.site.repository("made-setgid-r.git");
    for (name, tip) in &tips {
        assert_eq!(ground.reads(ALICE, &format!("{name}/r")).as_ref(), Ok(tip), "{name}");
        ground.assert_hidden(ALICE, &format!("{name}-link"));
        let push = format!("gotd:{name}/team/new");
        ground.git(ALICE, &["-C", &source.to_string_lossy(), "push", &push, "HEAD:refs/heads/main"]).good();
        assert!(ground.path(name).join("team/new.git/HEAD").is_file());
    }
    // What others can change is named where the administrator looks.
    let note = "its group can change what lies there; what this block serves there is served all the same, but no symbolic link is followed";
    daemon.logged(&["place note=", "setgid (owner root, mode 2775): ", note]);
    let mut check = Command::new(binaries().join("gotd"));
    let said = run(check.arg("-n").arg("-f").arg(ground.site.path("gotd.conf")), b"", 30).good();
    for words in [
        "sticky (owner root, mode 1777)",
        "plain (owner root, mode 0777): its group and everybody can change what lies there",
        "link.git: symbolic link",
    ] {
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    daemon.assert_serves();
}

#[test]
fn a_mount_point_in_a_foreign_directory_is_not_crossed() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    neighbours(&ground);
    ground.repository("pub/p.git", 6);
    ground.alice("mkdir public_git/bound.git public_git/dir");
    fs::create_dir(ground.path("pub/bound")).expect("makes");
    let blocks = format!("{BLOCKS}repositories \"pub\" {{\n\tpath \"GROUND/pub\"\n\tpermit rw 12001\n}}\n");
    let mut daemon = ground.start(&blocks);
    let mounts = [
        ("srv/unnamed.git", "home/alice/public_git/bound.git"),
        ("srv/team", "home/alice/public_git/dir"),
        // Where only root can change anything a mount is root's own, but the rules of what is
        // mounted stay.
        ("srv/team", "pub/bound"),
    ];
    let all: Option<Vec<Mounted>> = mounts.iter().map(|(from, to)| ground.bind(from, to)).collect();
    if all.is_none() {
        return regress::skipped("nothing can be mounted here");
    }
    for name in ["~alice/bound", "~alice/dir/t", "pub/bound/t"] {
        ground.assert_hidden(ALICE, name);
    }
    daemon.logged(&["bound.git: mount point, which is not crossed"]);
    daemon.logged(&["has a block of its own", "srv/team"]);
    drop(all);
    daemon.assert_serves();
}

/// Somebody's file system in user space whose server never answers: whoever asks it something hangs
/// beyond SIGKILL. It is mounted where alice may mount it, and seen for what it is without a
/// question to its server.
#[test]
fn a_file_system_that_never_answers_hangs_nobody() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let (x, ..) = neighbours(&ground);
    ground.alice("mkdir public_git/hang.git public_git/hang");
    let mut daemon = ground.start(BLOCKS);
    let names = ["home/alice/public_git/hang.git", "home/alice/public_git/hang"];
    let hangs: Option<Vec<Hang>> = names.iter().map(|name| ground.hang(name)).collect();
    if hangs.is_none() {
        return regress::skipped("no file system in user space can be mounted here");
    }
    for _ in 0..20 {
        for name in ["~alice/hang", "~alice/hang.git", "~alice/hang/deeper"] {
            ground.assert_hidden(ALICE, name);
        }
    }
    assert_eq!(ground.reads(ALICE, "~alice/x").as_ref(), Ok(&x));
    drop(hangs);
    daemon.assert_serves();
}

/// The same over her home, which root's own directory holds: what a file system says of its own
/// directory, its owner as well, is what its server likes. It looked like root's, links in it were
/// followed, and whatever waited for it did so for ever.
#[test]
fn a_users_file_system_over_his_home_is_not_entered() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let (x, _, secret, team) = neighbours(&ground);
    let mut daemon = ground.start(BLOCKS);
    let hang = ground.hang("home/alice");
    if hang.is_none() {
        return regress::skipped("no file system in user space can be mounted here");
    }
    // More often than there are processes that wait.
    for _ in 0..12 {
        ground.assert_hidden(ALICE, "~alice/x");
        ground.assert_hidden(ALICE, "mine");
        assert_eq!(ground.reads(BOB, "secret").as_ref(), Ok(&secret));
        assert_eq!(ground.reads(BOB, "team/t").as_ref(), Ok(&team));
    }
    daemon.logged(&["home/alice: file system in user space that root has not mounted"]);
    // Neither a check nor a reload nor a start waits for it or fails.
    let mut check = Command::new(binaries().join("gotd"));
    let said = run(check.arg("-n").arg("-f").arg(ground.site.path("gotd.conf")), b"", 30).good();
    assert!(said.err.contains("file system in user space that root has not mounted"), "{}", said.err);
    daemon.gotctl(&["reload"]).good();
    assert_eq!(ground.reads(BOB, "secret").as_ref(), Ok(&secret));
    ground.assert_hidden(ALICE, "mine");
    drop(hang);
    // Processes that were started meanwhile have not been granted what is around it, and refuse one
    // session each.
    // The one that was started last comes first, so some of them come late.
    let served = || ground.reads(ALICE, "~alice/x").as_ref() == Ok(&x);
    assert!((0..8).any(|_| (0..12).all(|_| served())), "{}", daemon.log());
    daemon.assert_serves();
}

/// alice turns a directory into a link and back as fast as she can, while she fetches and pushes:
/// the walk holds what it walked to, so that no moment is the right one.
#[test]
fn a_race_between_directory_and_link_is_won_by_nobody() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let (_, mine, secret, _) = neighbours(&ground);
    // A repository that is made in the middle of it is made below her directory or not at all.
    let blocks = BLOCKS.replacen("permit rw 12001", "permit rw 12001\n\tcreate", 1);
    let mut daemon = ground.start(&blocks);
    ground.alice("chmod 777 public_git; mkdir public_git/made; chmod 777 public_git/made");
    run(Command::new("chown").arg(UNPRIVILEGED).arg(ground.path("srv/team")), b"", 30).good();
    let turning = format!(
        "end=$(( $(date +%s) + 12 )); ln -s {srv} link; ln -s {team} out; \
         while [ $(date +%s) -lt $end ]; do \
         mv mine.git m; mv -T link mine.git; mv -T mine.git link; mv m mine.git; \
         mv public_git/made k; mv -T out public_git/made; mv -T public_git/made out; mv k public_git/made; done",
        srv = ground.path("srv/secret.git").display(),
        team = ground.path("srv/team").display()
    );
    let mut shell = ground.site.command("sh");
    shell.arg("-c").arg(turning).current_dir(ground.path("home/alice")).uid(ALICE).gid(ALICE);
    let mut turner = shell.spawn().expect("starts");
    let source = ground.site.repository("made-home-alice-mine.git");
    let (mut found, mut tries) = (0, 0);
    while turner.try_wait().expect("waits").is_none() && tries < 400 {
        tries += 1;
        match ground.reads(ALICE, "mine") {
            Ok(tip) => {
                assert_eq!(tip, mine);
                found += 1;
            }
            Err(text) => assert!(!text.contains(&secret), "{text}"),
        }
        if tries % 4 == 0 {
            let branch = format!("HEAD:refs/heads/evil-{tries}");
            ground.git(ALICE, &["-C", &source.to_string_lossy(), "push", "-q", "gotd:mine", &branch]);
            let made = format!("gotd:~alice/made/new-{tries}");
            ground.git(ALICE, &["-C", &source.to_string_lossy(), "push", "-q", &made, &branch]);
        }
    }
    turner.wait().expect("ends");
    let there: Vec<_> =
        fs::read_dir(ground.path("srv/team")).expect("lists").flatten().map(|e| e.file_name()).collect();
    assert_eq!(there, ["t.git"]);
    assert!(found > 0, "the right one was never found in {tries} tries");
    assert_eq!(ground.site.git_in(&ground.path("srv/secret.git"), ["for-each-ref", "refs/heads/evil*"]), "");
    daemon.assert_serves();
}

/// A session is refused, and not more than that.
#[test]
fn a_refused_place_costs_its_own_session_alone() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    neighbours(&ground);
    let mut daemon = ground.start(BLOCKS);
    ground
        .alice(&format!("mv mine.git away.git; ln -s {} mine.git", ground.path("srv/secret.git").display()));
    for _ in 0..30 {
        ground.assert_hidden(ALICE, "mine");
    }
    daemon.assert_serves();
}
