//! A fresh directory with repositories, a configuration and everything that clients need.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::neighbours::{self, Presence};
use crate::run::{Done, run};
use crate::{Daemon, binaries, is_root, tcp};

/// The account that owns the repositories when root starts gotd.
pub const UNPRIVILEGED: &str = "nobody";
/// What sessions run as in tests that root runs; every Debian has it.
pub const CLIENT: &str = "games";
/// What `parent`, `listen` and `auth` run as then.
pub const DAEMON: &str = "bin";
/// Longest that one git command may take, in seconds.
pub const GIT_SECONDS: u64 = 60;
/// The same for a push, which may have to wait for others.
const PUSH_SECONDS: u64 = 120;

/// The directory of one test. It is removed at the end, and kept when the test fails.
#[derive(Debug)]
pub struct Site {
    dir: Option<TempDir>,
    root: PathBuf,
    _presence: Presence,
}

impl Site {
    /// Makes the directory, with an empty `repositories` in it, and the stand-in for ssh.
    pub fn new() -> Site {
        Site::made(neighbours::beside_others())
    }

    /// The same for a test that no other test of this process may stand beside: waits until there
    /// is none.
    pub fn alone() -> Site {
        Site::made(neighbours::alone())
    }

    /// The same below `above`, the test's own `CARGO_TARGET_TMPDIR`, where only root and the
    /// present user can change any directory on the way; everybody can in the usual one for
    /// temporary files. `None`: others can here too, and the test has said so.
    pub fn trusted(above: &str) -> Option<Site> {
        if let Some(loose) = loose(Path::new(above)) {
            crate::skipped(&format!("{} can be changed by others, or is closed to them", loose.display()));
            return None;
        }
        Some(Site::made_in(Path::new(above), neighbours::beside_others()))
    }

    fn made(presence: Presence) -> Site {
        Site::made_in(&std::env::temp_dir(), presence)
    }

    fn made_in(above: &Path, presence: Presence) -> Site {
        let made = tempfile::Builder::new().prefix("gotd-regress.").tempdir_in(above);
        let dir = made.expect("a temporary directory");
        let root = dir.path().to_owned();
        let site = Site { dir: Some(dir), root, _presence: presence };
        open_to_all(&site.root);
        for name in ["repositories", "home", "clones"] {
            fs::create_dir(site.path(name)).expect("makes a directory");
            open_to_all(&site.path(name));
        }
        // The repositories belong to gotd's account, and git asks whose they are.
        fs::write(site.path("home/.gitconfig"), "[safe]\n\tdirectory = *\n").expect("writes");
        site.script("ssh", &stand_in(&site.socket(), &binaries().join("gotsh")));
        site
    }

    /// A path in the directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A path below the directory of repositories.
    pub fn repository(&self, name: &str) -> PathBuf {
        self.root.join("repositories").join(name)
    }

    /// A path for a clone.
    pub fn clone_path(&self, name: &str) -> PathBuf {
        self.root.join("clones").join(name)
    }

    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.path("gotd.sock")
    }

    /// Writes an executable script.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("writes a script");
        open_to_all(&path);
        path
    }

    /// What git is given for ssh: it runs gotsh as sshd's forced command for this user of an
    /// account does. The script's name is `ssh-` and that of the user.
    pub fn ssh_as(&self, user: &str) -> PathBuf {
        let text = format!(
            "#!/bin/sh\nwhile [ \"${{1#-}}\" != \"$1\" ]; do shift 2; done\n\
             GOTD_UNIX_SOCKET=\"{}\" SSH_ORIGINAL_COMMAND=\"$2\" exec \"{}\" --user {user}\n",
            self.socket().display(),
            crate::binaries().join("gotsh").display()
        );
        self.script(&format!("ssh-{user}"), &text)
    }

    /// A program with a clean environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env_clear().current_dir(&self.root);
        command.envs([
            ("PATH", std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into())),
            ("HOME", self.path("home").to_string_lossy().into_owned()),
            ("LC_ALL", "C".into()),
            ("GIT_CONFIG_NOSYSTEM", "1".into()),
            ("GIT_TERMINAL_PROMPT", "0".into()),
            ("GIT_AUTHOR_NAME", "A U Thor".into()),
            ("GIT_AUTHOR_EMAIL", "author@example.org".into()),
            ("GIT_COMMITTER_NAME", "C O Mitter".into()),
            ("GIT_COMMITTER_EMAIL", "committer@example.org".into()),
            ("GIT_SSH_COMMAND", self.path("ssh").to_string_lossy().into_owned()),
            ("GIT_SSH_VARIANT", "ssh".into()),
        ]);
        command
    }

    /// git with a clean environment, which reaches the daemon as `gotd:NAME` through the stand-in
    /// for ssh.
    pub fn git<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Done {
        run(self.command("git").args(arguments), b"", GIT_SECONDS)
    }

    /// Runs git in a directory and returns what it prints; a failure fails the test.
    #[track_caller]
    pub fn git_in<S: AsRef<std::ffi::OsStr>>(
        &self,
        dir: &Path,
        arguments: impl IntoIterator<Item = S>,
    ) -> String {
        run(self.command("git").arg("-C").arg(dir).args(arguments), b"", GIT_SECONDS).good().text()
    }

    /// A work tree of a repository, for commits that are to be pushed.
    pub fn work_tree(&self, repository: &Path) -> PathBuf {
        let work = self.clone_path("work");
        self.git(["clone", "-q", &repository.to_string_lossy(), &work.to_string_lossy()]).good();
        work
    }

    /// Commits a file with this content, and whatever else has changed in a work tree; the commit's
    /// id.
    pub fn commit(&self, work: &Path, file: &str, content: impl AsRef<[u8]>) -> String {
        fs::write(work.join(file), content).expect("writes");
        self.commit_all(work, file)
    }

    /// Commits whatever has changed in a work tree; the commit's id.
    pub fn commit_all(&self, work: &Path, message: &str) -> String {
        self.git_in(work, ["add", "-A"]);
        self.git_in(work, ["commit", "-q", "-m", message]);
        self.git_in(work, ["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// `git push` in a work tree.
    pub fn push(&self, work: &Path, arguments: &[&str]) -> Done {
        run(self.command("git").arg("-C").arg(work).arg("push").args(arguments), b"", PUSH_SECONDS)
    }

    /// `gotsh -c LINE`, as a login shell gets it.
    pub fn gotsh(&self, line: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.command(binaries().join("gotsh"));
        command.env("GOTD_UNIX_SOCKET", self.socket()).arg("-c").arg(line);
        command
    }

    /// The lines of a configuration that every one of ours needs: user and socket.
    pub fn head(&self) -> String {
        format!("{}listen on \"{}\"\n", users(), self.socket().display())
    }

    /// The same, with so many connections for the present user that no test meets a limit of them
    /// by chance.
    pub fn roomy_head(&self) -> String {
        format!(
            "{}connection {{\n\tlimit user \"{}\" 64\n\trate total 2000\n{}}}\n",
            self.head(),
            present_user(),
            // Root has no such rate.
            if is_root() { "" } else { "\trate per user 2000\n" },
        )
    }

    /// A configuration that serves everything in `repositories` to the present user.
    pub fn serve_all(&self) -> String {
        format!(
            "{}repositories \"\" {{\n\tpath \"{}\"\n\tpermit rw \"{}\"\n}}\n",
            self.roomy_head(),
            self.path("repositories").display(),
            present_user(),
        )
    }

    /// A configuration that serves everything in `repositories` to the present user, and over
    /// git:// to everybody. `connection`: lines of the block about connections; `more`: further
    /// directives.
    pub fn serve_strangers(&self, address: SocketAddr, connection: &str, more: &str) -> String {
        format!(
            "{}{}{more}\nconnection {{\n{connection}\n}}\n\
             repositories \"\" {{\n\tpath \"{}\"\n\tpermit ro anonymous\n\tpermit rw \"{}\"\n}}\n",
            self.head(),
            tcp::listen_line(address),
            self.path("repositories").display(),
            present_user(),
        )
    }

    /// Gives the repositories to gotd's account.
    pub fn hand_over(&self) {
        if is_root() {
            let mut command = self.command("chown");
            run(command.args(["-hR", UNPRIVILEGED]).arg(self.path("repositories")), b"", 30).good();
        }
    }

    /// Starts a daemon that serves everything in `repositories` to the present user.
    #[track_caller]
    pub fn start(&self) -> Daemon {
        self.start_with(&self.serve_all())
    }

    /// Starts a daemon with this configuration; one that does not start fails the test.
    #[track_caller]
    pub fn start_with(&self, configuration: &str) -> Daemon {
        self.hand_over();
        match Daemon::start(self, configuration) {
            Ok(daemon) => daemon,
            Err(log) => panic!("gotd did not start: {log}\n{configuration}"),
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Site::new()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(dir) = self.dir.take()
        {
            eprintln!("kept: {}", dir.keep().display());
        }
    }
}

/// The name of whoever runs the tests.
pub fn present_user() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    user.expect("the present user has a name").name
}

/// The line that says which accounts gotd runs as: three where root starts it.
pub fn users() -> String {
    match is_root() {
        true => format!("user \"{UNPRIVILEGED}\" client \"{CLIENT}\" daemon \"{DAEMON}\"\n"),
        false => format!("user \"{}\"\n", present_user()),
    }
}

/// The account that owns repositories.
pub fn account() -> String {
    if is_root() { UNPRIVILEGED.into() } else { present_user() }
}

/// The first directory on the way up that others than root and the present user can change, or that
/// not all may go through.
pub(crate) fn loose(directory: &Path) -> Option<&Path> {
    use std::os::unix::fs::MetadataExt;
    let own = |meta: &fs::Metadata| meta.uid() == 0 || meta.uid() == nix::unistd::geteuid().as_raw();
    let trusted = |path: &Path| {
        fs::metadata(path)
            .is_ok_and(|meta| own(&meta) && meta.mode() & 0o022 == 0 && meta.mode() & 0o001 != 0)
    };
    directory.ancestors().find(|path| !trusted(path))
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("changes a mode");
}

/// What takes ssh's options, host and command, and runs gotsh as sshd would.
fn stand_in(socket: &Path, gotsh: &Path) -> String {
    format!(
        "#!/bin/sh\nwhile [ \"${{1#-}}\" != \"$1\" ]; do shift 2; done\n\
         GOTD_UNIX_SOCKET=\"{}\" exec \"{}\" -c \"$2\"\n",
        socket.display(),
        gotsh.display()
    )
}
