//! Alternates: a repository borrows only from what its reader may read, or from what `borrow`
//! names.
//!
//! The story: `objects/info/alternates` is part of a repository, and so belongs to whoever may
//! write there. One line in it and one commit id in `refs/heads` were enough to have the daemon
//! read any repository below its roots and hand it over, one that denies the reader or that no line
//! of gotd.conf names. The daemon was the deputy: it may read them all.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use regress::compare::assert_mirror;
use regress::ground::{self, Ground};
use regress::history;
use regress::raw::Session;
use regress::site::{GIT_SECONDS, present_user};
use regress::tcp;
use regress::{Daemon, Done, Site, is_root, pkt, run};

/// What a client is told that misses an object for want of an alternate.
const BORROWS: &str = "borrows from a repository you may not read";
/// Two users without accounts.
const ALICE: u32 = 61_001;
const BOB: u32 = 61_002;

/// Makes a repository with a history of its own: the commit that its main branch names is in no
/// other one.
fn repository(site: &Site, name: &str, commits: u64) -> (PathBuf, String) {
    let path = history::repository(site, name, commits, "sha1");
    history::grow(site, &path, 1, 1000 + name.bytes().map(u64::from).sum::<u64>());
    site.git_in(&path, ["repack", "-adq"]);
    let tip = history::tip(site, &path);
    (path, tip)
}

/// Lets `of` borrow from these object directories, and names a commit as one of its branches.
fn borrow(of: &Path, lines: &str, stolen: &str) {
    fs::write(of.join("objects/info/alternates"), lines).expect("writes");
    if !stolen.is_empty() {
        fs::write(of.join("refs/heads/stolen"), format!("{stolen}\n")).expect("writes");
    }
}

fn objects(of: &Path) -> String {
    format!("{}/objects\n", of.display())
}

fn fetch(site: &Site, url: &str, version: &str, what: &str) -> Done {
    let into = tempfile::tempdir_in(site.path("clones")).expect("a directory");
    let into = into.path();
    site.git(["init", "-q", &into.to_string_lossy()]).good();
    let option = format!("protocol.version={version}");
    let refspec = format!("{what}:refs/heads/fetched");
    let done = site.git(["-C", &into.to_string_lossy(), "-c", &option, "fetch", "-q", url, &refspec]);
    if done.status == 0 {
        site.git_in(into, ["rev-list", "--objects", "refs/heads/fetched"]);
    }
    done
}

/// A block for one repository.
fn block(name: &str, path: &Path, rules: &str) -> String {
    format!("repository \"{name}\" {{\n\tpath \"{}\"\n{rules}}}\n", path.display())
}

fn mine() -> String {
    format!("\tpermit rw \"{}\"\n", present_user())
}

fn start(site: &Site, blocks: &[String]) -> Daemon {
    site.start_with(&format!("{}{}", site.roomy_head(), blocks.concat()))
}

/// A program as another user, with a directory for its clones.
fn as_user(site: &Site, uid: u32, arguments: &[&str]) -> Done {
    let clones = site.path("clones").join(uid.to_string());
    if !clones.exists() {
        fs::create_dir(&clones).expect("makes a directory");
        std::os::unix::fs::chown(&clones, Some(uid), Some(uid)).expect("changes an owner");
    }
    let mut command = site.command("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into(), "git".into()]);
    run(command.args(arguments).current_dir(&clones), b"", GIT_SECONDS)
}

/// Alice's own repository, in her own directory, which she may change as she likes; bob's, which no
/// rule lets her read; and one that no line names. Neither can she read with her own rights.
#[test]
fn alice_does_not_read_her_neighbours_repository_through_her_own() {
    if !is_root() {
        return regress::skipped("needs root");
    }
    let site = Site::new();
    let (bob, secret) = repository(&site, "bob.git", 6);
    let (unnamed, hidden) = repository(&site, "unnamed.git", 7);
    let (own, tip) = repository(&site, "alice.git", 5);
    symlink(&bob, site.repository("link")).expect("links");
    let people = format!("\tpermit rw {ALICE}\n\tpermit ro {BOB}\n");
    let blocks = [block("own", &own, &people), block("bob", &bob, &format!("\tpermit rw {BOB}\n"))];
    let mut daemon = start(&site, &blocks);
    for closed in [&bob, &unnamed] {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(closed, mode).expect("changes a mode");
    }
    as_user(&site, ALICE, &["ls-remote", "gotd:bob"]).bad("no git repository found");
    let cases = [
        ("absolute", objects(&bob), &secret),
        ("relative", "../../bob.git/objects\n".to_owned(), &secret),
        ("dotted", format!("{}/../bob.git/./objects/\n", own.display()), &secret),
        ("quoted", format!("\"{}/\\157bjects\"\n", bob.display()), &secret),
        ("through a link", format!("{}/objects\n", site.repository("link").display()), &secret),
        ("second", format!("{}../../bob.git/objects\n", objects(&own)), &secret),
        ("unnamed", objects(&unnamed), &hidden),
        // What is not there looks the same: who may not read a place does not learn that.
        ("absent", "../../absent.git/objects\n".to_owned(), &secret),
        ("long", format!("{}\n", "../objects/".repeat(90_000)), &secret),
    ];
    for (n, (case, lines, stolen)) in cases.iter().enumerate() {
        borrow(&own, lines, stolen);
        for version in ["0", "2"] {
            let option = format!("protocol.version={version}");
            let clone = format!("{n}-{version}");
            as_user(&site, ALICE, &["-c", &option, "clone", "-q", "--mirror", "gotd:own", &clone])
                .bad(BORROWS);
            // What is hers is served all the same.
            let clone = format!("{clone}-main");
            let main = [
                "-c",
                &option,
                "clone",
                "-q",
                "--single-branch",
                "--no-tags",
                "-b",
                "main",
                "gotd:own",
                &clone,
            ];
            as_user(&site, ALICE, &main).good();
        }
        eprintln!("{case}: refused");
    }
    daemon.logged(&["repository", "warning=", "bob.git/objects", "may not read it"]);
    daemon.logged(&["repository", "warning=", "unnamed.git/objects"]);
    // Bob may read both, and so what the one has from the other.
    borrow(&own, &objects(&bob), &secret);
    as_user(&site, BOB, &["clone", "-q", "--mirror", "gotd:own", "both"]).good();
    let log = as_user(&site, BOB, &["-C", "both", "rev-list", "--objects", &secret]).good();
    assert!(log.text().lines().count() > 5);
    // A push is checked with the same eyes: nothing of bob's can be had by naming it.
    fs::remove_file(own.join("refs/heads/stolen")).expect("removes");
    as_user(&site, ALICE, &["clone", "-q", "gotd:own", "work"]).good();
    as_user(&site, ALICE, &["-C", "work", "push", "-q", "origin", &format!("{tip}:refs/heads/again")]).good();
    daemon.assert_serves();
}

/// The same through a bind mount: in a place where only root mounts anything, the path leads into a
/// directory that alice may read, and the directory is that of bob's repository.
#[test]
fn a_bind_mount_of_a_repository_is_no_other_repository() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    let secret = ground.repository("srv/bob.git", 7);
    ground.repository("pub/own.git", 3);
    let open = ground.repository("pub/open.git", 9);
    fs::create_dir_all(ground.path("pub/bound.git")).expect("makes");
    let own = ground.path("pub/own.git");
    let mut daemon = ground.start(
        "repositories \"pub\" {\n\tpath \"GROUND/pub\"\n\tpermit ro 12001\n}\n\
         repository \"bob\" {\n\tpath \"GROUND/srv/bob.git\"\n\tpermit ro 12002\n\tdeny 12001\n}\n",
    );
    let bound = ground.path("pub/bound.git");
    let Some(mounted) = ground.bind("srv/bob.git", "pub/bound.git") else {
        return regress::skipped("nothing can be mounted here");
    };
    let clone = |n: &str| {
        let into = ground.path("home/alice").join(n).to_string_lossy().into_owned();
        ground.git(ground::ALICE, &["clone", "-q", "--mirror", "gotd:pub/own", &into])
    };
    for (n, lines) in [objects(&bound), "../../bound.git/objects\n".to_owned()].iter().enumerate() {
        borrow(&own, lines, &secret);
        clone(&format!("bound-{n}")).bad(BORROWS);
    }
    daemon.logged(&["repository", "warning=", "bound.git/objects", "has a block under another path"]);
    // What is reached by its own path is borrowed from.
    borrow(&own, "../../open.git/objects\n", &open);
    clone("open").good();
    drop(mounted);
    daemon.assert_serves();
}

/// Each level is asked about: whom one may read may borrow from whom one may not. The sixth level
/// is no level.
#[test]
fn alternates_of_alternates_are_asked_about_too() {
    let site = Site::new();
    let (bob, secret) = repository(&site, "bob.git", 6);
    let (own, _) = repository(&site, "own.git", 5);
    let mut before = bob.clone();
    let mut blocks = vec![
        block("own", &own, &mine()),
        block("bob", &bob, &format!("{}\tdeny \"{}\"\n", mine(), present_user())),
    ];
    for n in 1..=6 {
        let path = site.repository(&format!("level{n}.git"));
        history::init(&site, &path, "--quiet");
        borrow(&path, &objects(&before), "");
        blocks.push(block(&format!("level{n}"), &path, &mine()));
        before = path;
    }
    let _daemon = start(&site, &blocks);
    for n in 1..=6 {
        borrow(&own, &format!("../../level{n}.git/objects\n"), &secret);
        for version in ["0", "2"] {
            fetch(&site, "gotd:own", version, "refs/heads/stolen").bad(BORROWS);
        }
    }
}

#[test]
fn whoever_may_read_all_of_them_has_all_of_them() {
    let site = Site::new();
    let (pool, tip) = repository(&site, "pool.git", 6);
    let (own, _) = repository(&site, "own.git", 5);
    let blocks = [block("own", &own, &mine()), block("pool", &pool, &mine())];
    // As git itself makes them.
    let shared = site.repository("shared.git");
    let reference = site.repository("reference.git");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    site.git(["clone", "-q", "--mirror", "--shared", &text(&pool), &text(&shared)]).good();
    site.git([
        "clone",
        "-q",
        "--mirror",
        "--no-local",
        "--reference",
        &text(&pool),
        &text(&own),
        &text(&reference),
    ])
    .good();
    history::grow(&site, &shared, 3, 500);
    let levels: Vec<String> = (1..=4).map(|n| format!("level{n}.git")).collect();
    let mut before = shared.clone();
    let mut more = vec![block("shared", &shared, &mine()), block("reference", &reference, &mine())];
    for name in &levels {
        let path = site.repository(name);
        history::init(&site, &path, "--quiet");
        borrow(&path, &objects(&before), "");
        fs::write(path.join("refs/heads/main"), format!("{tip}\n")).expect("writes");
        more.push(block(name, &path, &mine()));
        before = path;
    }
    let _daemon = start(&site, &[blocks.to_vec(), more].concat());
    for (name, path) in [("shared", &shared), ("reference", &reference), ("level4", &before)] {
        for version in ["0", "2"] {
            let mirror = site.clone_path(&format!("{name}-{version}"));
            let option = format!("protocol.version={version}");
            site.git(["-c", &option, "clone", "-q", "--mirror", &format!("gotd:{name}"), &text(&mirror)])
                .good();
            assert_mirror(&site, path, &mirror);
        }
    }
}

/// `borrow` is the administrator's word: whoever reads the fork gets what it has from the pool,
/// which nobody may read.
#[test]
fn a_fork_borrows_from_the_pool_that_borrow_names() {
    let site = Site::new();
    let (pool, _) = repository(&site, "pools/pool.git", 9);
    let fork = site.repository("forks/fork.git");
    let other = site.repository("forks/other.git");
    fs::create_dir_all(site.repository("forks")).expect("makes a directory");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    for path in [&fork, &other] {
        site.git(["clone", "-q", "--bare", "--shared", &text(&pool), &text(path)]).good();
    }
    let forks = |borrow: &str| {
        [
            block("pool", &pool, ""),
            block("fork", &fork, &format!("{}{borrow}", mine())),
            format!(
                "repositories \"all\" {{\n\tpath \"{}\"\n{}}}\n",
                site.repository("forks").display(),
                mine()
            ),
        ]
    };
    let conf = |borrow: &str| {
        let me = present_user();
        format!("{}connection limit user \"{me}\" 64\n{}", site.head(), forks(borrow).concat())
    };
    let mut daemon = site.start_with(&conf(""));
    site.git(["ls-remote", "gotd:pool"]).bad("no git repository found");
    fetch(&site, "gotd:fork", "2", "refs/heads/main").bad(BORROWS);
    fetch(&site, "gotd:fork", "0", "refs/heads/main").bad(BORROWS);
    // A push that builds on what is in the pool.
    let work = site.clone_path("work");
    site.git(["clone", "-q", &text(&fork), &text(&work)]).good();
    fs::write(
        work.join("large"),
        format!("{}one more line\n", fs::read_to_string(work.join("large")).expect("reads")),
    )
    .expect("writes");
    site.git_in(&work, ["commit", "-qam", "on top of the pool"]);
    let push =
        |to: &str| site.git(["-C", &text(&work), "push", "gotd:fork", &format!("main:refs/heads/{to}")]);
    push("new").bad(BORROWS);
    let line = daemon.logged(&[
        "repository session=",
        " repository=fork ",
        "warning=",
        "pool.git/objects",
        "borrow",
    ]);
    assert!(!line.contains("\\x22") && !line.contains("\\\""), "{line}");
    fs::write(site.path("gotd.conf"), conf("\tborrow \"pool\"\n")).expect("writes");
    daemon.gotctl(&["reload"]).good();
    for version in ["0", "2"] {
        fetch(&site, "gotd:fork", version, "refs/heads/main").good();
    }
    push("new").good();
    let mirror = site.clone_path("mirror");
    site.git(["clone", "-q", "--mirror", "gotd:fork", &text(&mirror)]).good();
    assert_mirror(&site, &fork, &mirror);
    site.git_in(&fork, ["fsck", "--strict"]);
    // It is about that block and no other one.
    fetch(&site, "gotd:all/other", "2", "refs/heads/main").bad(BORROWS);
    daemon.assert_serves();
}

/// What a client says that it has is not told to be there, if it is only in what it may not read;
/// and no delta is taken against it.
#[test]
fn a_have_and_a_thin_base_in_a_place_that_is_not_lent_are_unknown() {
    let site = Site::new();
    let (bob, secret) = repository(&site, "bob.git", 6);
    let (own, tip) = repository(&site, "own.git", 5);
    borrow(&own, &objects(&bob), "");
    let _daemon = start(&site, &[block("own", &own, &mine()), block("bob", &bob, "")]);
    let mut session = Session::fetch(&site.socket(), "own", 0);
    session.read_to_flush();
    let request = [
        pkt::line(format!("want {tip} ofs-delta\n")),
        b"0000".to_vec(),
        pkt::line(format!("have {secret}\n")),
        pkt::line("done\n"),
    ];
    assert!(session.write(&request.concat()));
    let answer = session.read_to_end(20);
    assert!(answer.starts_with(b"0008NAK\n"), "{}", answer[..answer.len().min(80)].escape_ascii());
    // The same as a thin pack, whose base is bob's.
    let work = site.clone_path("work");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    site.git(["clone", "-q", &text(&bob), &text(&work)]).good();
    let large = fs::read_to_string(work.join("large")).expect("reads");
    fs::write(work.join("large"), format!("{large}one more line\n")).expect("writes");
    site.git_in(&work, ["commit", "-qam", "on top"]);
    let pack = run(
        site.command("git").arg("-C").arg(&work).args(["pack-objects", "-q", "--thin", "--stdout", "--revs"]),
        format!("main\n^{secret}\n").as_bytes(),
        GIT_SECONDS,
    )
    .good();
    let new = site.git_in(&work, ["rev-parse", "main"]).trim().to_owned();
    let zeros = "0".repeat(40);
    let command = pkt::line(format!("{zeros} {new} refs/heads/thin\0report-status\n"));
    let input = [command, b"0000".to_vec(), pack.out].concat();
    let done = run(&mut site.gotsh("git-receive-pack 'own'"), &input, GIT_SECONDS);
    assert!(done.text().contains(BORROWS), "{}", done.text());
    // And nothing but the name of what is bob's.
    let command = pkt::line(format!("{zeros} {secret} refs/heads/named\0report-status\n"));
    let empty = run(
        site.command("git").arg("-C").arg(&work).args(["pack-objects", "-q", "--stdout"]),
        b"",
        GIT_SECONDS,
    )
    .good();
    let input = [command, b"0000".to_vec(), empty.out].concat();
    let done = run(&mut site.gotsh("git-receive-pack 'own'"), &input, GIT_SECONDS);
    assert!(
        done.text()
            .contains(&format!("ng refs/heads/named missing necessary objects: the repository {BORROWS}")),
        "{}",
        done.text()
    );
    assert!(!own.join("refs/heads/thin").exists() && !own.join("refs/heads/named").exists());
}

/// Users of one account have one uid: who it is, the greeting says.
#[test]
fn users_of_a_shared_account_are_told_apart() {
    let site = Site::new();
    let (bob, secret) = repository(&site, "bob.git", 6);
    let (own, _) = repository(&site, "own.git", 5);
    borrow(&own, &objects(&bob), &secret);
    let me = present_user();
    let blocks = [
        format!("account \"{me}\" {{\n\tuser alice principal a\n\tuser bob principal b\n}}\n"),
        block("own", &own, "\tpermit rw alice\n\tpermit ro bob\n"),
        block("bob", &bob, "\tpermit rw bob\n"),
    ];
    let _daemon = site.start_with(&format!("{}{}", site.head(), blocks.concat()));
    let fetch = |user: &str| {
        let mut command = site.command(regress::binaries().join("gotsh"));
        command.env("GOTD_UNIX_SOCKET", site.socket()).args(["--user", user]);
        command.env("SSH_ORIGINAL_COMMAND", "git-upload-pack 'own'");
        let input = [pkt::line(format!("want {secret}\n")), b"0000".to_vec(), pkt::line("done\n")];
        run(&mut command, &input.concat(), GIT_SECONDS)
    };
    let packed = |done: &Done| done.out.windows(8).any(|part| part == b"PACK\0\0\0\x02");
    let bobs = fetch("bob").good();
    assert!(packed(&bobs), "{}", bobs.text());
    let alices = fetch("alice");
    assert!(!packed(&alices) && alices.text().contains(BORROWS), "{}", alices.text());
}

/// Who may read a repository does not see what is hidden in there; its objects have no names that
/// could be hidden.
#[test]
fn what_hides_something_is_not_lent() {
    let site = Site::new();
    let (open, _) = repository(&site, "open.git", 6);
    history::grow(&site, &open, 1, 3000);
    let hidden = history::tip(&site, &open);
    site.git_in(&open, ["update-ref", "refs/hidden/x", &hidden]);
    site.git_in(&open, ["update-ref", "refs/heads/main", &format!("{hidden}~1")]);
    let (own, _) = repository(&site, "own.git", 5);
    borrow(&own, &objects(&open), &hidden);
    let rules = format!("{}\thide namespace refs/hidden\n", mine());
    let _daemon = start(&site, &[block("own", &own, &mine()), block("open", &open, &rules)]);
    fetch(&site, "gotd:open", "2", "refs/heads/main").good();
    fetch(&site, "gotd:own", "2", "refs/heads/stolen").bad(BORROWS);
}

/// The file changes while it is read, checked and used, in turns with one that is permitted.
#[test]
fn a_file_that_changes_all_the_time_lends_nothing() {
    let site = Site::new();
    let (bob, secret) = repository(&site, "bob.git", 6);
    let (open, _) = repository(&site, "open.git", 6);
    let (own, _) = repository(&site, "own.git", 5);
    borrow(&own, &objects(&bob), &secret);
    let mut daemon =
        start(&site, &[block("own", &own, &mine()), block("open", &open, &mine()), block("bob", &bob, "")]);
    let work = site.clone_path("work");
    site.git(["clone", "-q", "-b", "main", "--single-branch", "gotd:own", &work.to_string_lossy()]).good();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (file, new) = (own.join("objects/info/alternates"), own.join("objects/info/new"));
            for turn in 0..2_000_000 {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                fs::write(&new, objects(if turn % 2 == 0 { &bob } else { &open })).expect("writes");
                fs::rename(&new, &file).expect("renames");
            }
        });
        // Whatever fails in here, the other one ends.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&over);
        for n in 0..30 {
            let done = fetch(&site, "gotd:own", if n % 2 == 0 { "0" } else { "2" }, "refs/heads/stolen");
            assert_ne!(done.status, 0, "bob's repository was read");
            let name = format!("{secret}:refs/heads/named{n}");
            let done = site.git(["-C", &work.to_string_lossy(), "push", "gotd:own", &name]);
            assert_ne!(done.status, 0);
            assert!(!own.join(format!("refs/heads/named{n}")).exists());
        }
    });
    daemon.assert_serves();
}

/// Strangers have what is open to them, and of marked repositories what is in marked ones.
#[test]
fn strangers_borrow_from_what_is_open_to_strangers() {
    let (site, address) = (Site::new(), tcp::free_v4());
    let (open, open_tip) = repository(&site, "open.git", 6);
    let (closed, closed_tip) = repository(&site, "closed.git", 6);
    let (marked, marked_tip) = repository(&site, "marked/marked.git", 6);
    let (bare, bare_tip) = repository(&site, "marked/bare.git", 7);
    fs::write(marked.join("git-daemon-export-ok"), "").expect("writes");
    let own: Vec<PathBuf> =
        [(&open, &open_tip), (&closed, &closed_tip), (&marked, &marked_tip), (&bare, &bare_tip)]
            .into_iter()
            .enumerate()
            .map(|(n, (from, tip))| {
                let (own, _) = repository(&site, &format!("own{n}.git"), 4);
                borrow(&own, &objects(from), tip);
                own
            })
            .collect();
    let anonymous = "\tpermit ro anonymous\n";
    let mut blocks = vec![
        tcp::listen_line(address),
        block("open", &open, anonymous),
        block("closed", &closed, &mine()),
        format!(
            "repositories \"marked\" {{\n\tpath \"{}\"\n\texport-ok\n}}\n",
            site.repository("marked").display()
        ),
    ];
    blocks.extend(own.iter().enumerate().map(|(n, path)| block(&format!("own{n}"), path, anonymous)));
    let _daemon = start(&site, &blocks);
    for (n, lent) in [true, false, true, false].into_iter().enumerate() {
        for version in ["0", "2"] {
            let done = fetch(&site, &format!("git://{address}/own{n}"), version, "refs/heads/stolen");
            if lent {
                done.good()
            } else {
                done.bad(BORROWS)
            };
        }
    }
}

#[test]
fn gotd_n_says_where_borrow_is_missing() {
    let site = Site::new();
    let (pool, _) = repository(&site, "pool.git", 4);
    let (fork, _) = repository(&site, "fork.git", 4);
    borrow(&fork, &objects(&pool), "");
    let check = |borrow: &str| {
        let conf = site.path("checked.conf");
        let blocks = [block("pool", &pool, ""), block("fork", &fork, &format!("{}{borrow}", mine()))];
        fs::write(&conf, format!("{}{}", site.head(), blocks.concat())).expect("writes");
        site.hand_over();
        run(site.command(regress::binaries().join("gotd")).args(["-n", "-f"]).arg(&conf), b"", 20)
    };
    let done = check("").good();
    assert!(
        done.err.contains("repository \"fork\": borrows from")
            && done.err.contains("expected borrow \"pool\""),
        "{}",
        done.err
    );
    let done = check("\tborrow \"pool\"\n").good();
    assert!(!done.err.contains("borrows from"), "{}", done.err);
    check("\tborrow \"pol\"\n").bad("pol: no block of this configuration has this repository");
}

/// Only `repository` blocks were looked at, and a line was advised that is an error.
#[test]
fn gotd_n_looks_below_roots_and_advises_what_helps() {
    let site = Site::new();
    let (pool, _) = repository(&site, "pool.git", 4);
    let (fork, _) = repository(&site, "forks/team/fork.git", 4);
    borrow(&fork, &objects(&pool), "");
    let check = |of_pool: &str, of_forks: &str| {
        let conf = site.path("checked.conf");
        let forks = format!(
            "repositories \"forks\" {{\n\tpath \"{}\"\n{}{of_forks}}}\n",
            site.repository("forks").display(),
            mine()
        );
        fs::write(&conf, format!("{}{}{forks}", site.head(), block("pool", &pool, of_pool))).expect("writes");
        site.hand_over();
        run(site.command(regress::binaries().join("gotd")).args(["-n", "-f"]).arg(&conf), b"", 20)
    };
    let said = check("", "").good().err;
    let name = "repository \"forks/team/fork\": borrows from";
    assert!(said.contains(name) && said.contains("expected borrow \"pool\""), "{said}");
    let said = check("", "\tborrow \"pool\"\n").good().err;
    assert!(!said.contains("borrows from"), "{said}");
    let hides = "\thide namespace refs/secret\n";
    let said = check(hides, "").good().err;
    assert!(said.contains(name) && said.contains("lends nothing"), "{said}");
    // Root walks to no place that no block can contain, however a user's line leads there.
    for line in ["/net/host/x.git/objects", "../../../../../net/host/objects"] {
        fs::write(fork.join("objects/info/alternates"), format!("{line}\n")).expect("writes");
        let said = check("", "").good().err;
        assert!(said.contains(name) && said.contains("it was not looked at"), "{said}");
    }
    assert!(!said.contains("expected borrow"), "{said}");
    check(hides, "\tborrow \"pool\"\n").bad("contradict each other");
}

/// Whoever may read the lender is told that it is gone; nobody else learns whether it is there.
#[test]
fn a_lender_that_is_gone_is_told_to_whoever_may_read_it() {
    const GONE: &str = "borrows from a repository that is not there";
    let site = Site::new();
    let (pool, tip) = repository(&site, "pool.git", 4);
    let (closed, _) = repository(&site, "closed.git", 4);
    let (own, _) = repository(&site, "own.git", 4);
    borrow(&own, &objects(&pool), &tip);
    let blocks = [block("pool", &pool, &mine()), block("closed", &closed, ""), block("own", &own, &mine())];
    let daemon = start(&site, &blocks);
    fetch(&site, "gotd:own", "2", "refs/heads/stolen").good();
    fs::rename(&pool, site.path("elsewhere.git")).expect("moves");
    for version in ["0", "2"] {
        fetch(&site, "gotd:own", version, "refs/heads/stolen").bad(GONE);
    }
    daemon.logged(&["repository session=", " repository=own ", "no such directory"]);
    borrow(&own, &format!("{}{}", objects(&pool), objects(&closed)), &tip);
    fetch(&site, "gotd:own", "2", "refs/heads/stolen").bad(BORROWS);
    // One that may not be read is the same, there or not.
    borrow(&own, &objects(&closed), &tip);
    fetch(&site, "gotd:own", "2", "refs/heads/stolen").bad(BORROWS);
    fs::rename(&closed, site.path("closed-elsewhere.git")).expect("moves");
    fetch(&site, "gotd:own", "2", "refs/heads/stolen").bad(BORROWS);
}
