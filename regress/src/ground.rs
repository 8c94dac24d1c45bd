//! Several users, and places that are nobody's but root's: for tests about whose directories they
//! are.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::run::run;
use crate::site::{UNPRIVILEGED, loose};
use crate::{Daemon, Done, Site, history, is_root};

/// alice, and somebody whom she may not read.
pub const ALICE: u32 = 12_001;
/// That one.
pub const BOB: u32 = 12_002;

/// A site, and a directory on the way to which only root can change anything: the usual one for
/// temporary files is everybody's.
pub struct Ground {
    /// The daemon's.
    pub site: Site,
    dir: tempfile::TempDir,
}

impl Ground {
    /// Below this directory, which is the test's own `CARGO_TARGET_TMPDIR`. `None`: the test cannot
    /// be made here, and has said so.
    pub fn new(above: &str) -> Option<Ground> {
        if !is_root() {
            crate::skipped("needs root, to be several users");
            return None;
        }
        let above = Path::new(above);
        if let Some(loose) = loose(above) {
            crate::skipped(&format!("{} is not root's alone, or closed to others", loose.display()));
            return None;
        }
        let dir = tempfile::tempdir_in(above).expect("a directory");
        let ground = Ground { site: Site::new(), dir };
        ground.mode("", 0o755);
        for name in ["srv", "home", "home/alice"] {
            fs::create_dir(ground.path(name)).expect("makes");
        }
        ground.give("home/alice", ALICE);
        Some(ground)
    }

    /// Where something is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().canonicalize().expect("is there").join(name)
    }

    /// Changes permissions.
    pub fn mode(&self, name: &str, bits: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(bits)).expect("changes a mode");
    }

    /// Changes the owner of all that is there.
    pub fn give(&self, name: &str, uid: u32) {
        let mut command = Command::new("chown");
        run(command.args(["-hR", &format!("{uid}:{uid}")]).arg(self.path(name)), b"", 30).good();
    }

    /// A repository of the daemon's, with so many commits that its tip is known by it.
    pub fn repository(&self, name: &str, commits: u64) -> String {
        let made =
            history::repository(&self.site, &format!("made-{}", name.replace('/', "-")), commits, "sha1");
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("makes");
        run(Command::new("cp").arg("-a").arg(&made).arg(&path), b"", 30).good();
        run(Command::new("chown").args(["-hR", UNPRIVILEGED]).arg(&path), b"", 30).good();
        history::tip(&self.site, &path)
    }

    /// The same in a place of alice's: she owns the directory, and lets the daemon write in it.
    pub fn alices(&self, name: &str, commits: u64) -> String {
        let tip = self.repository(name, commits);
        self.give(name, ALICE);
        run(Command::new("chmod").args(["-R", "a+rwX"]).arg(self.path(name)), b"", 30).good();
        tip
    }

    /// What alice types.
    pub fn alice(&self, line: &str) {
        let mut shell = self.site.command("sh");
        shell.arg("-c").arg(line).current_dir(self.path("home/alice")).uid(ALICE).gid(ALICE);
        run(&mut shell, b"", 30).good();
    }

    /// git, run by this user.
    pub fn git(&self, uid: u32, arguments: &[&str]) -> Done {
        let mut git = self.site.command("git");
        run(git.args(arguments).uid(uid).gid(uid), b"", 60)
    }

    /// What a user finds under a name: the tip, or why not.
    pub fn reads(&self, uid: u32, name: &str) -> Result<String, String> {
        let done = self.git(uid, &["ls-remote", &format!("gotd:{name}"), "HEAD"]);
        let text = done.text();
        match (done.status, text.split_whitespace().next()) {
            (0, Some(tip)) => Ok(tip.to_owned()),
            _ => Err(done.err),
        }
    }

    /// The user is told that there is nothing of this name.
    #[track_caller]
    pub fn assert_hidden(&self, uid: u32, name: &str) {
        let found = self.reads(uid, name);
        assert!(found.as_ref().is_err_and(|e| e.contains("no git repository found")), "{name}: {found:?}");
    }

    /// Starts the daemon; `GROUND` in the blocks is this directory.
    pub fn start(&self, blocks: &str) -> Daemon {
        let ground = self.path("");
        let blocks = blocks.replace("GROUND", ground.to_string_lossy().trim_end_matches('/'));
        let head = self.site.head();
        self.site
            .start_with(&format!("{head}connection {{\n\tlimit per user 50\n\trate total 2000\n}}\n{blocks}"))
    }
}

/// A directory that is mounted at another place, too, for as long as this lives.
pub struct Mounted(PathBuf);

impl Mounted {
    /// What has been mounted there.
    pub fn there(at: PathBuf) -> Mounted {
        Mounted(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

impl Ground {
    /// Mounts a directory at another place, as root does. `None`: that cannot be done here.
    pub fn bind(&self, from: &str, to: &str) -> Option<Mounted> {
        let to = self.path(to);
        let mut mount = Command::new("mount");
        let done = mount.arg("--bind").arg(self.path(from)).arg(&to).status();
        done.is_ok_and(|status| status.success()).then(|| Mounted::there(to))
    }
}

/// Somebody's file system in user space whose server never answers: whoever asks it something hangs
/// beyond SIGKILL.
pub struct Hang {
    server: Child,
    _mounted: Mounted,
}

impl Ground {
    /// Mounts one of alice's over a directory or a file. `None`: that cannot be done here.
    pub fn hang(&self, name: &str) -> Option<Hang> {
        let at = self.path(name);
        let mode = if at.is_dir() { "40755" } else { "100644" };
        let line = format!(
            "exec 3<>/dev/fuse && \
             mount -i -t fuse -o fd=3,rootmode={mode},user_id={ALICE},group_id={ALICE},allow_other none '{}' \
             && echo mounted && exec sleep 300",
            at.display()
        );
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(line).stdout(Stdio::piped()).stderr(Stdio::null());
        let server = shell.spawn().expect("starts");
        let mut hang = Hang { server, _mounted: Mounted::there(at) };
        let mut said = [0; 8];
        let count = hang.server.stdout.as_mut().and_then(|out| out.read(&mut said).ok());
        count.is_some_and(|count| count > 0).then_some(hang)
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        // Its end is what lets go of whoever waits for it.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}
