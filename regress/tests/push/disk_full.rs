//! The disk fills at every stage of a push: while the pack comes in, at its index, where it moves
//! in, at locks, references, reflogs and packed-refs. `make disk-full` shows what was seen.
//!
//! As root: the repositories lie on small file systems of the test's own, in a mount namespace of
//! its own: tmpfs with few bytes, tmpfs with few inodes, and (where there is mkfs.ext4) ext4 on a
//! loop device. For each number of bytes or inodes that may be left, from none to more than the
//! push needs: the client is told that the disk is full, nothing temporary is left, the repository
//! is whole, each reference is at its old or its new value, and the same push works once there is
//! room again.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::statvfs;
use regress::compare::leftovers;
use regress::run::{Done, wait_until};
use regress::{Daemon, Site, history, is_root, own_process, pkt, run};

/// Where the inner run finds its file systems.
const PLACE: &str = "GOTD_REGRESS_SMALL_DISKS";
/// Small, so that filling it is quick.
const MOUNT: &str = "\
set -e
mkdir \"$1/bytes\" \"$1/inodes\" \"$1/ext4\"
mount -t tmpfs -o size=24m,mode=755 tmpfs \"$1/bytes\"
mount -t tmpfs -o size=48m,nr_inodes=700,mode=755 tmpfs \"$1/inodes\"
if truncate -s 24m \"$1/image\" &&
	mkfs.ext4 -q -F -m 0 -I 256 \"$1/image\" && mount -o loop \"$1/image\" \"$1/ext4\"; then
	rmdir \"$1/ext4/lost+found\"
fi >/dev/null 2>&1
shift
exec \"$@\"
";

/// Runs this test again where it may mount; `None`: this is that run, and here are the file
/// systems.
fn small_disks(name: &str) -> Option<PathBuf> {
    if let Some(place) = std::env::var_os(PLACE) {
        return Some(place.into());
    }
    if !is_root() {
        // In a user namespace root's directories belong to nobody, and gotd crosses no mount point
        // below them.
        regress::skipped("needs root");
        return None;
    }
    // Not below /tmp, where others can write: gotd crosses no mount point there.
    let dir = tempfile::Builder::new().prefix("gotd-regress-disks.").tempdir_in("/run").expect("a directory");
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private"]);
    let probe = run(Command::new("unshare").args(command.get_args()).arg("true"), b"", 20);
    if probe.status != 0 {
        regress::skipped(&format!("cannot make a mount namespace: {}", probe.err.trim()));
        return None;
    }
    command.args(["sh", "-c", MOUNT, "sh"]).arg(dir.path()).env(PLACE, dir.path());
    own_process::again(module_path!(), name, Some(command), 900);
    None
}

/// A small file system.
struct Disk {
    path: PathBuf,
    fillers: u32,
}

impl Disk {
    fn new(path: PathBuf) -> Disk {
        let disk = Disk { path, fillers: 0 };
        let _ = fs::create_dir(disk.filler());
        disk
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    fn free_bytes(&self) -> u64 {
        let stat = statvfs(&self.path).expect("statvfs");
        stat.blocks_available() * stat.fragment_size()
    }

    fn free_inodes(&self) -> u64 {
        statvfs(&self.path).expect("statvfs").files_available()
    }

    /// Leaves this many bytes, rounded down to what the file system counts in.
    fn leave_bytes(&mut self, bytes: u64) {
        for _ in 0..64 {
            let Some(more) = self.free_bytes().checked_sub(bytes).filter(|more| *more > 0) else { return };
            self.fillers += 1;
            let name = self.filler().join(format!("bytes{}", self.fillers));
            let file = fs::File::create(name).expect("a filler");
            // The file's own tables take room as well.
            let mut size = more;
            while size > 0 && fallocate(&file, FallocateFlags::empty(), 0, size as i64).is_err() {
                size = size.saturating_sub(4096);
            }
        }
    }

    fn leave_inodes(&mut self, inodes: u64) {
        while self.free_inodes() > inodes {
            self.fillers += 1;
            fs::File::create(self.filler().join(format!("inode{}", self.fillers))).expect("a filler");
        }
    }

    fn empty(&self) {
        for entry in fs::read_dir(self.filler()).expect("lists").flatten() {
            fs::remove_file(entry.path()).expect("removes");
        }
    }
}

/// What is pushed, and onto what.
struct Kind {
    name: &'static str,
    /// Arguments of `git push` after the repository.
    push: &'static [&'static str],
    /// Whether all of it is one transaction.
    atomic: bool,
    /// Whether all references are in a packed-refs file of some pages.
    packed: bool,
    /// Whether there are reflogs.
    logs: bool,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "two references",
        push: &["next:main", "next:refs/heads/deep/er/new"],
        atomic: false,
        packed: false,
        logs: false,
    },
    Kind {
        name: "reflogs",
        push: &["next:main", "next:refs/heads/other"],
        atomic: false,
        packed: false,
        logs: true,
    },
    Kind {
        name: "atomic",
        push: &["--atomic", "next:main", "next:refs/heads/new", ":refs/heads/old"],
        atomic: true,
        packed: true,
        logs: true,
    },
    Kind {
        name: "deletion",
        push: &[":refs/heads/old", ":refs/tags/v1"],
        atomic: false,
        packed: true,
        logs: false,
    },
];

struct Bench<'s> {
    site: &'s Site,
    work: PathBuf,
    template: PathBuf,
    disk: Disk,
    /// The name that the disk's repository has for clients.
    url: String,
}

impl Bench<'_> {
    fn repository(&self) -> PathBuf {
        self.disk.path.join("r.git")
    }

    fn push(&self, arguments: &[&str]) -> Done {
        let mut command = self.site.command("git");
        command.arg("-C").arg(&self.work).args(["push", "-q", &self.url]).args(arguments);
        run(&mut command, b"", 120)
    }

    /// A fresh copy of the repository, with nothing else on the disk.
    fn reset(&self, kind: &Kind) {
        self.disk.empty();
        let _ = fs::remove_dir_all(self.repository());
        run(self.site.command("cp").arg("-a").arg(&self.template).arg(self.repository()), b"", 30).good();
        let repository = self.repository();
        if kind.packed {
            self.site.git_in(&repository, ["pack-refs", "--all"]);
        }
        if kind.logs {
            fs::create_dir_all(repository.join("logs/refs/heads")).expect("makes");
            for name in ["logs/HEAD", "logs/refs/heads/main", "logs/refs/heads/other"] {
                // So full that a line more needs a page more.
                let line = format!("{0} {0} A <a@x> 1700000000 +0000\tearlier\n", "1".repeat(40));
                let mut text = line.repeat(4000 / line.len());
                let rest = 4090 - text.len();
                text.insert_str(
                    0,
                    &format!(
                        "{0} {0} A <a@x> 1700000000 +0000\t{1}\n",
                        "1".repeat(40),
                        "x".repeat(rest - 107 + 1)
                    ),
                );
                fs::write(repository.join(name), text).expect("writes");
            }
        }
        if is_root() {
            let owner = regress::site::UNPRIVILEGED;
            run(self.site.command("chown").args(["-R", owner]).arg(&repository), b"", 30).good();
        }
    }

    fn references(&self) -> BTreeMap<String, String> {
        let text =
            self.site.git_in(&self.repository(), ["for-each-ref", "--format=%(refname) %(objectname)"]);
        text.lines().filter_map(|l| l.split_once(' ')).map(|(a, b)| (a.into(), b.into())).collect()
    }

    /// One push with so little room; true if it worked.
    fn once(&mut self, kind: &Kind, inodes: bool, left: u64, seen: &mut Seen) -> bool {
        self.reset(kind);
        let old = self.references();
        match inodes {
            true => self.disk.leave_inodes(left),
            false => self.disk.leave_bytes(left),
        }
        let done = self.push(kind.push);
        let what = format!("{}, {left} left: status {}\n{}", kind.name, done.status, done.err);
        // Reading goes on on a full disk.
        self.site.git(["ls-remote", &self.url]).good();
        self.disk.empty();
        let left_behind = leftovers(&self.repository());
        assert!(left_behind.is_empty(), "{what}left behind: {left_behind:?}");
        self.whole(&what);
        let now = self.references();
        if done.status != 0 {
            assert!(done.err.contains("the disk is full"), "{what}");
            seen.refused(&done.err);
        }
        // What is wanted, seen from a run with room.
        self.push(kind.push);
        let new = self.references();
        let mut changed = 0;
        for name in old.keys().chain(new.keys()).collect::<std::collections::BTreeSet<_>>() {
            let (before, between, after) = (old.get(name), now.get(name), new.get(name));
            assert!(between == before || between == after, "{what}{name}: {between:?}");
            assert!(done.status != 0 || between == after, "{what}{name}: answered ok and is not there");
            changed += u32::from(before != after && between == after);
        }
        assert_ne!(old, new, "{what}after it there was room, and nothing changed");
        if kind.atomic && done.status != 0 {
            assert_eq!(changed, 0, "{what}half of an atomic push");
        }
        seen.partly += u32::from(done.status != 0 && changed > 0);
        // The client of a push that finds nothing to do is gone sooner than its quarantine.
        let clean = wait_until(5.0, || leftovers(&self.repository()).is_empty());
        assert!(clean, "{what}left behind: {:?}", leftovers(&self.repository()));
        self.whole(&what);
        self.logs_are_lines(kind, &what);
        done.status == 0
    }

    #[track_caller]
    fn whole(&self, what: &str) {
        let mut command = self.site.command("git");
        command.arg("-C").arg(self.repository()).args([
            "fsck",
            "--full",
            "--strict",
            "--no-dangling",
            "--no-reflogs",
        ]);
        let done = run(&mut command, b"", 60);
        assert!(done.status == 0 && done.err.is_empty(), "{what}fsck: {}{}", done.text(), done.err);
    }

    /// Half a line in a reflog would spoil the next one, too.
    #[track_caller]
    fn logs_are_lines(&self, kind: &Kind, what: &str) {
        for name in ["logs/HEAD", "logs/refs/heads/main", "logs/refs/heads/other"] {
            let text = fs::read_to_string(self.repository().join(name)).unwrap_or_default();
            assert!(!kind.logs || text.ends_with('\n'), "{what}{name}: no whole line at the end");
            for line in text.lines() {
                let ids: Vec<&str> = line.splitn(3, ' ').take(2).collect();
                assert!(ids.iter().all(|id| id.len() == 40) && line.contains('\t'), "{what}{name}: {line}");
            }
        }
    }
}

/// What clients were told, and how often.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<String, u32>,
    runs: u32,
    partly: u32,
}

impl Seen {
    fn refused(&mut self, err: &str) {
        let mut told: Vec<String> = Vec::new();
        for line in err.lines().filter(|line| line.contains("the disk is full")) {
            let words = line.split("the disk is full").next().unwrap_or_default();
            let words = words.trim_start_matches("remote: ").trim_end_matches(": ");
            let mut words: String = words
                .split("gotd-incoming-")
                .enumerate()
                .map(|(at, part)| {
                    if at == 0 {
                        part.to_owned()
                    } else {
                        format!("QUARANTINE{}", part.get(16..).unwrap_or_default())
                    }
                })
                .collect();
            if let Some(at) = words.find("pack-") {
                words.replace_range(at.., "pack-ID");
            }
            told.push(words.trim().to_owned());
        }
        told.dedup();
        for words in told {
            *self.answers.entry(words).or_default() += 1;
        }
    }
}

/// A work tree with history and a commit `next` on top, and the repository that has all but that.
fn sources(site: &Site) -> (PathBuf, PathBuf) {
    let template = history::repository(site, "template.git", 12, "sha1");
    let work = site.work_tree(&template);
    for n in 0..150 {
        site.git_in(&template, ["update-ref", &format!("refs/heads/many/branch-{n:03}"), "main"]);
    }
    for name in ["old", "other"] {
        site.git_in(&template, ["update-ref", &format!("refs/heads/{name}"), "main~2"]);
    }
    site.git_in(&template, ["update-ref", "refs/tags/v1", "main~3"]);
    site.git_in(&template, ["pack-refs", "--all"]);
    for name in ["main", "other", "old"] {
        let value = site.git_in(&template, ["rev-parse", name]);
        fs::create_dir_all(template.join("refs/heads")).expect("makes");
        fs::write(template.join("refs/heads").join(name), value).expect("writes");
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = Vec::new();
    for _ in 0..6000 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    site.commit(&work, "noise", noise);
    site.git_in(&work, ["branch", "next"]);
    (work, template)
}

#[test]
fn the_disk_fills_at_every_stage_of_a_push() {
    let Some(place) = small_disks("the_disk_fills_at_every_stage_of_a_push") else { return };
    let site = Site::new();
    let (work, template) = sources(&site);
    let me = regress::site::present_user();
    let mut configuration = format!("{}limit disk reserve none\n", site.roomy_head());
    for name in ["bytes", "inodes", "ext4"] {
        let path = place.join(name);
        configuration += &format!(
            "repositories \"{name}\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n\treflog\n}}\n",
            path.display()
        );
    }
    if is_root() {
        for name in ["bytes", "inodes", "ext4"] {
            run(site.command("chown").arg(regress::site::UNPRIVILEGED).arg(place.join(name)), b"", 20).good();
        }
    }
    let mut daemon = site.start_with(&configuration);
    println!("{:<8} {:<15} {:>5} {:>8} {:>7}  needs", "disk", "push", "runs", "refused", "partly");
    for name in ["bytes", "inodes", "ext4"] {
        let path = place.join(name);
        let stat = statvfs(&path).expect("statvfs");
        let mounted = stat.blocks() * stat.fragment_size() < 64 << 20;
        if !mounted {
            regress::skipped(&format!("{name}: not mounted"));
            continue;
        }
        let mut bench = Bench {
            site: &site,
            work: work.clone(),
            template: template.clone(),
            disk: Disk::new(path),
            url: format!("gotd:{name}/r.git"),
        };
        for kind in KINDS {
            sweep(&mut bench, &daemon, name, kind);
        }
    }
    daemon.assert_serves();
}

/// From nothing left to more than is needed.
fn sweep(bench: &mut Bench<'_>, daemon: &Daemon, disk: &str, kind: &Kind) {
    let inodes = disk == "inodes";
    let (step, most) = if inodes { (1, 60) } else { (4096, 1 << 20) };
    let mut seen = Seen::default();
    let (mut left, mut good) = (0, 0);
    let mut needs = 0;
    while left <= most && good < 3 {
        seen.runs += 1;
        match bench.once(kind, inodes, left, &mut seen) {
            true => good += 1,
            false => (good, needs) = (0, left + step),
        }
        left += step;
    }
    assert_eq!(good, 3, "{disk}, {}: does not work with {left} left\n{}", kind.name, daemon.log());
    assert!(seen.runs > 3, "{disk}, {}: works with nothing left", kind.name);
    let unit = if inodes { "inodes" } else { "bytes" };
    println!(
        "{disk:<8} {:<15} {:>5} {:>8} {:>7}  {needs} {unit}",
        kind.name,
        seen.runs,
        seen.runs - 3,
        seen.partly
    );
    for (words, count) in seen.answers {
        println!("         {count:>4} x {words}");
    }
}

/// The reserve is looked at while the pack comes in: the disk fills under a client that is slow.
#[test]
fn the_reserve_holds_while_a_pack_comes_in() {
    let Some(place) = small_disks("the_reserve_holds_while_a_pack_comes_in") else { return };
    let site = Site::new();
    let bulky = history::bulky(&site, "bulk.git", 4);
    let tip = history::tip(&site, &bulky);
    let me = regress::site::present_user();
    let path = place.join("bytes");
    let configuration = format!(
        "{}limit disk reserve 8M\nrepositories \"bytes\" {{\n\tpath \"{}\"\n\tpermit rw \"{me}\"\n}}\n",
        site.head(),
        path.display()
    );
    let mut disk = Disk::new(path.clone());
    let repository = path.join("r.git");
    history::init(&site, &repository, "--object-format=sha1");
    if is_root() {
        let owner = regress::site::UNPRIVILEGED;
        run(site.command("chown").args(["-R", owner]).arg(&path), b"", 20).good();
    }
    let mut daemon = site.start_with(&configuration);
    let mut objects = site.command("git");
    objects.arg("-C").arg(&bulky).args(["pack-objects", "--all", "--stdout", "-q"]);
    let pack = run(&mut objects, b"", 60).good().out;
    let mut head = pkt::line(format!("{} {tip} refs/heads/main\0report-status", "0".repeat(40)));
    head.extend(b"0000");

    let mut client = site.gotsh("git-receive-pack 'bytes/r.git'");
    client.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().expect("gotsh starts");
    let mut to = client.stdin.take().expect("a pipe");
    let mut from = client.stdout.take().expect("a pipe");
    to.write_all(&head).expect("writes");
    to.write_all(&pack[..pack.len() / 2]).expect("writes");
    // It has come in, and there is room; now somebody else fills the disk.
    let incoming = || {
        let names = fs::read_dir(repository.join("objects")).expect("lists").flatten().map(|e| e.path());
        let mut quarantine = names
            .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("gotd-incoming-")));
        quarantine.next().and_then(|q| fs::metadata(q.join("pack")).ok()).map_or(0, |m| m.len())
    };
    assert!(wait_until(20.0, || incoming() > 1 << 20), "nothing comes in: {}", daemon.log());
    disk.leave_bytes(7 << 20);
    // The rest, until nobody takes it any more.
    for part in pack[pack.len() / 2..].chunks(16 << 10) {
        if to.write_all(part).is_err() {
            break;
        }
        // A slow client: the look at the disk is about time, not bytes.
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(to);
    let mut said = Vec::new();
    from.read_to_end(&mut said).expect("reads");
    let status = client.wait().expect("ends");
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(!status.success() && said.contains("(limit disk reserve)"), "{said}");
    assert!(said.contains("ng refs/heads/main"), "{said}");
    assert!(disk.free_bytes() >= 7 << 20, "it took what was reserved");
    assert!(wait_until(5.0, || leftovers(&repository).is_empty()), "{:?}", leftovers(&repository));
    // Before a pack, too.
    let work = site.work_tree(&bulky);
    let push = || {
        run(
            site.command("git").arg("-C").arg(&work).args(["push", "-q", "gotd:bytes/r.git", "main"]),
            b"",
            60,
        )
    };
    push().bad("(limit disk reserve)");
    disk.empty();
    push().good();
    daemon.assert_serves();
}
