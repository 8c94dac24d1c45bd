//! What is mounted inside of a repository by whoever owns it.
//!
//! The story: the walk to a repository stopped at a mount point, and below the repository nothing
//! looked for one. alice, who owns a repository, mounted a file system in user space on
//! `objects/pack`, or on a single file. Its server never answered, and each process of a session
//! that asked it something hung beyond SIGKILL, with its place. On the directory in which new
//! repositories are made it was worse: one is made at a time, for everybody.
//!
//! Root's own check of a configuration (`gotd -n`) looked at each directory on the way once more by
//! its path, after the walk. Who mounted something there between the two had root's process hang.
//!
//! As root alice is a user of her own here.

use std::fs;
use std::process::Command;

use regress::Daemon;
use regress::binaries;
use regress::ground::{ALICE, BOB, Ground, Mounted};
use regress::run::{run, wait_until};

const BLOCKS: &str = "repositories \"~alice\" {\n\tpath \"GROUND/home/alice/public_git\"\n\tpermit rw 12001\n\tcreate\n}\n\
    repositories \"team\" {\n\tpath \"GROUND/srv/team\"\n\tpermit rw 12002\n\tcreate\n}\n";
const CROSSED: &str = "mount point, which is not crossed";

fn ground() -> Option<Ground> {
    let ground = Ground::new(env!("CARGO_TARGET_TMPDIR"))?;
    ground.alices("home/alice/public_git/x.git", 3);
    ground.give("home/alice", ALICE);
    ground.mode("home/alice/public_git", 0o777);
    Some(ground)
}

#[test]
fn a_file_system_inside_of_a_repository_hangs_nobody() {
    let Some(ground) = ground() else { return };
    let team = ground.repository("srv/team/t.git", 4);
    let x = "home/alice/public_git/x.git";
    let tip = ground.site.git_in(&ground.path(x), ["rev-parse", "HEAD"]).trim().to_owned();
    // One of each kind that is read: loose objects, a pack, an index, packed references, a loose
    // one, a description.
    ground.site.git_in(&ground.path(x), ["repack", "-adq"]);
    ground.site.git_in(&ground.path(x), ["pack-refs", "--all"]);
    ground.site.git_in(&ground.path(x), ["update-ref", "refs/heads/loose", &tip]);
    ground.site.git_in(&ground.path(x), ["update-ref", "refs/heads/some/where", &tip]);
    fs::write(ground.path(x).join("objects/info/alternates"), "").expect("writes");
    fs::create_dir_all(ground.path(x).join("logs/refs/heads")).expect("makes");
    fs::create_dir_all(ground.path(x).join("objects/ab")).expect("makes");
    let pack = |ending: &str| {
        let found = fs::read_dir(ground.path(x).join("objects/pack")).expect("lists").flatten();
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        found.map(name).find(|name| name.ends_with(ending)).map(|name| format!("objects/pack/{name}"))
    };
    let packs = [pack(".pack").expect("a pack"), pack(".idx").expect("an index")];
    ground.give(x, ALICE);
    run(Command::new("chmod").args(["-R", "a+rwX"]).arg(ground.path(x)), b"", 30).good();
    let mut daemon = ground.start(BLOCKS);
    assert_eq!(ground.reads(ALICE, "~alice/x").as_ref(), Ok(&tip));
    let source = ground.site.repository("made-srv-team-t.git").to_string_lossy().into_owned();
    // The places that are mounted over, and whether clones and pushes work without them.
    let mut places = vec![
        ("objects", false),
        ("objects/pack", false),
        ("objects/info", false),
        ("objects/info/alternates", false),
        ("refs", false),
        ("refs/heads", false),
        ("refs/heads/some", false),
        ("refs/heads/loose", false),
        ("HEAD", false),
        ("config", false),
        ("packed-refs", false),
        ("objects/ab", true),
        ("logs", true),
    ];
    places.extend(packs.iter().map(|name| (name.as_str(), false)));
    for (n, (place, works)) in places.into_iter().enumerate() {
        let Some(hang) = ground.hang(&format!("{x}/{place}")) else {
            return regress::skipped("no file system in user space can be mounted here");
        };
        let into = ground.path("home/alice").join(format!("clone-{n}")).to_string_lossy().into_owned();
        let clone = ground.git(ALICE, &["clone", "-q", "--mirror", "gotd:~alice/x", &into]);
        let branch = format!("HEAD:refs/heads/new-{n}");
        let push = ground.git(ALICE, &["-C", &source, "push", "-q", "gotd:~alice/x", &branch]);
        for (what, done) in [("clone", &clone), ("push", &push)] {
            let clear = done.err.contains(CROSSED) || done.err.contains("no git repository found");
            // An index that cannot be read is passed over, and the log says why.
            let clear = clear || place.ends_with(".idx");
            assert!(done.status == 0 || clear, "{place}: {what}: {}", done.err);
            assert!(!works || done.status == 0, "{place}: {what}: {}", done.err);
            eprintln!("{place}: {what}: {} {}", done.status, done.err.trim().replace('\n', " | "));
        }
        assert!(place != "objects/pack" || clone.status != 0, "a repository without its packs");
        // Whoever else is served meanwhile, and no process waits for that file system.
        assert_eq!(ground.reads(BOB, "team/t").as_ref(), Ok(&team));
        assert_nobody_hangs(&daemon, place);
        drop(hang);
    }
    daemon.logged(&["repository=~alice/x", CROSSED]);
    assert_eq!(ground.reads(ALICE, "~alice/x").as_ref(), Ok(&tip));
    daemon.assert_serves();
}

/// No process waits in the kernel, where it could not be killed either.
#[track_caller]
fn assert_nobody_hangs(daemon: &Daemon, place: &str) {
    let waits = || daemon.processes().into_iter().find(|process| process.state == 'D');
    assert!(wait_until(5.0, || waits().is_none()), "{place}: {:?} hangs", waits());
}

#[test]
fn a_file_system_where_repositories_are_made_keeps_nobody_from_making_one() {
    let Some(ground) = ground() else { return };
    ground.repository("srv/team/t.git", 4);
    run(Command::new("chown").arg(regress::site::UNPRIVILEGED).arg(ground.path("srv/team")), b"", 30).good();
    ground.alice("mkdir -m 777 public_git/.gotd-create public_git/deep");
    let mut daemon = ground.start(BLOCKS);
    let source = ground.site.repository("made-srv-team-t.git").to_string_lossy().into_owned();
    let push = |uid, name: &str| {
        ground.git(uid, &["-C", &source, "push", "-q", &format!("gotd:{name}"), "HEAD:refs/heads/main"])
    };
    for place in ["home/alice/public_git/.gotd-create", "home/alice/public_git/deep"] {
        let Some(hang) = ground.hang(place) else {
            return regress::skipped("no file system in user space can be mounted here");
        };
        for n in 0..3 {
            for name in [format!("~alice/deep/new-{n}"), format!("~alice/new-{n}")] {
                let done = push(ALICE, &name);
                assert!(done.status == 0 || place.ends_with("deep") && name.contains("deep"), "{}", done.err);
            }
        }
        push(BOB, &format!("team/new-{}", place.len())).good();
        assert_nobody_hangs(&daemon, place);
        drop(hang);
    }
    daemon.assert_serves();
}

/// What the administrator mounts where only root can change anything is served as ever: objects on
/// another disk, say.
#[test]
fn a_mount_of_the_administrators_inside_of_a_repository_is_served() {
    let Some(ground) = ground() else { return };
    let tip = ground.repository("srv/team/t.git", 4);
    fs::rename(ground.path("srv/team/t.git/objects"), ground.path("srv/objects")).expect("moves");
    fs::create_dir(ground.path("srv/team/t.git/objects")).expect("makes");
    let mut daemon = ground.start(BLOCKS);
    let Some(mounted) = ground.bind("srv/objects", "srv/team/t.git/objects") else {
        return regress::skipped("nothing can be mounted here");
    };
    fs::create_dir(ground.path("home/bob")).expect("makes");
    ground.give("home/bob", BOB);
    let into = ground.path("home/bob/t").to_string_lossy().into_owned();
    let clone = ground.git(BOB, &["clone", "-q", "--mirror", "gotd:team/t", &into]);
    let push = ground.git(BOB, &["-C", &into, "push", "-q", "gotd:team/t", "HEAD:refs/heads/new"]);
    drop(mounted);
    clone.good();
    push.good();
    assert_eq!(ground.git(BOB, &["-C", &into, "rev-parse", "HEAD"]).text().trim(), tip);
    daemon.assert_serves();
}

/// A file system that does not tell `a` from `A`: a repository that is asked for by another
/// spelling has the rules of its block all the same, because its directory is known.
#[test]
fn another_spelling_of_a_name_has_the_same_rules() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    ground.repository("free.git", 2);
    ground.repository("secret.git", 3);
    let image = ground.path("image");
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("makes");
    fs::create_dir(ground.path("disk")).expect("makes");
    let line = format!(
        "mkfs.ext4 -q -O casefold -E encoding=utf8 '{image}' && mount -o loop '{image}' '{disk}' && \
         chmod 755 '{disk}' && mkdir '{disk}/git' && chattr +F '{disk}/git' && \
         cp -a '{ground}/free.git' '{ground}/secret.git' '{disk}/git' && test -d '{disk}/git/SECRET.git'",
        image = image.display(),
        disk = ground.path("disk").display(),
        ground = ground.path("").display().to_string().trim_end_matches('/'),
    );
    let made = run(Command::new("sh").arg("-c").arg(line), b"", 60).status == 0;
    // Perhaps it came no further than to mount it.
    let _mounted = Mounted::there(ground.path("disk"));
    if !made {
        return regress::skipped("the kernel has no ext4 that folds case");
    }
    let mut daemon = ground.start(
        "repositories \"\" {\n\tpath \"GROUND/disk/git\"\n\tpermit rw 12001\n}\n\
         repository \"secret\" {\n\tpath \"GROUND/disk/git/secret.git\"\n\tpermit rw 12002\n}\n",
    );
    assert!(ground.reads(ALICE, "FREE").is_ok());
    for name in ["secret", "Secret", "SECRET.git", "sEcReT.GIT"] {
        ground.assert_hidden(ALICE, name);
    }
    assert!(ground.reads(BOB, "secret").is_ok());
    daemon.assert_serves();
}

/// Root checks a configuration, and alice waits for it to come to her directory: then she mounts
/// her file system there.
#[test]
fn a_file_system_that_is_mounted_during_a_check_hangs_nobody() {
    let Some(ground) = Ground::new(env!("CARGO_TARGET_TMPDIR")) else { return };
    if !regress::others::has_python() {
        return regress::skipped("needs python3");
    }
    let conf = ground.path("check.conf");
    let place = ground.path("home/alice/git");
    for n in 0..300 {
        let made = place.join(format!("r{n:03}.git"));
        for name in ["objects/pack", "objects/info", "refs/heads"] {
            fs::create_dir_all(made.join(name)).expect("makes");
        }
        fs::write(made.join("HEAD"), "ref: refs/heads/main\n").expect("writes");
    }
    ground.give("home/alice", ALICE);
    let _mounted = Mounted::there(place.clone());
    let text = format!(
        "user nobody\nrepositories \"~alice\" {{\n\tpath \"{}\"\n\tpermit rw {ALICE}\n}}\n",
        place.display()
    );
    fs::write(&conf, text).expect("writes");
    let check = |arguments: &[&str]| -> Vec<String> {
        let program = binaries().join(arguments[0]).to_string_lossy().into_owned();
        let rest = arguments[1..].iter().map(|&word| word.to_owned());
        [program].into_iter().chain(rest).chain([conf.to_string_lossy().into_owned()]).collect()
    };
    // Quiet directories first: what is found without anybody who mounts.
    let checks = [check(&["gotd", "-n", "-f"]), check(&["gotctl", "reload", "-n", "-c"])];
    for check in &checks {
        let said = run(Command::new(&check[0]).args(&check[1..]), b"", 60).good().err;
        assert!(said.contains("cannot write in this directory"), "{said}");
    }
    for check in &checks {
        // The place is opened to see whether it is empty, and then to list it; each is told when it
        // is opened and read.
        for event in [1, 2, 3, 4, 5, 6] {
            let mut race = Command::new("python3");
            race.arg("-c").arg(RACE).arg(&place).arg(event.to_string()).arg(ALICE.to_string()).args(check);
            let said = run(&mut race, b"", 90).good().text();
            if said.starts_with("no mount") {
                return regress::skipped("no file system in user space can be mounted here");
            }
            assert!(said.starts_with("ended 0"), "mounted at event {event} of {}: {said}", check[0]);
            eprintln!("{} event {event}: {}", check[0], said.trim());
        }
    }
}

/// Starts a check, waits until it has opened or read a directory so many times, and mounts a file
/// system there that never answers.
const RACE: &str = r#"
import ctypes, os, select, subprocess, sys
place, event, uid, check = sys.argv[1].encode(), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
libc = ctypes.CDLL(None, use_errno=True)
try:
    fuse = os.open('/dev/fuse', os.O_RDWR)
except OSError:
    sys.exit(print('no mount'))
watch = libc.inotify_init1(0)
libc.inotify_add_watch(watch, place, 0x21)
process = subprocess.Popen(check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
seen = 0
while seen < event and select.select([watch], [], [], 5)[0]:
    seen += len(os.read(watch, 16)) // 16
options = f'fd={fuse},rootmode=40755,user_id={uid},group_id={uid},allow_other'
if libc.mount(b'none', place, b'fuse', 6, options.encode()):
    process.wait()
    sys.exit(print('no mount'))
running = process.poll() is None
try:
    print('ended', process.wait(20), 'was running' if running else '')
except subprocess.TimeoutExpired:
    print('hangs')
# Its end is what lets go of whoever waits for it.
os.close(fuse)
libc.umount2(place, 2)
process.kill()
process.wait()
"#;
