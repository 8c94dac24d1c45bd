//! A private sshd on the loopback interface, with its own keys.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use crate::run::{run, wait_until};
use crate::site::{GIT_SECONDS, UNPRIVILEGED, present_user};
use crate::{Done, Site, binaries, is_root, tcp};

/// How gotsh comes into play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// `command="gotsh"` in authorized_keys.
    ForcedCommand,
    /// gotsh as the account's login shell: as root with an account of its own that lives as long as
    /// the test; otherwise `ForceCommand gotsh -c "$SSH_ORIGINAL_COMMAND"`, which is what sshd does
    /// for a shell.
    LoginShell,
    /// An ordinary shell which finds gotsh under the names of git's programs.
    Names,
    /// The account's own shell, and git as it is installed: what gotd is compared with.
    Git,
    /// sshd asks `gotctl authorized-keys` and `authorized-principals`, which stand in this
    /// directory of root's beside gotsh, and takes certificates of the key `ca`. The account was
    /// made by the caller.
    KeysCommand(&'static str),
}

/// An account that lives as long as a test.
#[derive(Debug)]
pub struct Account(pub String);

impl Drop for Account {
    fn drop(&mut self) {
        remove_account(&self.0);
    }
}

/// A running sshd, and what a client needs for it.
#[derive(Debug)]
pub struct Sshd {
    child: Child,
    log: PathBuf,
    /// Its port on 127.0.0.1.
    pub port: u16,
    /// The account that a client logs in to.
    pub user: String,
    /// The client's private key.
    pub key: PathBuf,
    /// `ssh -F file`, which knows the host `gotd`.
    pub command: String,
    temporary: Option<String>,
}

impl Sshd {
    /// Whether there is an sshd here; says so if not.
    pub fn available() -> bool {
        let there = program().is_some();
        if !there {
            crate::skipped("needs sshd");
        }
        there
    }

    /// Who will log in: `permit` must name this account. Makes the account where one is needed, so
    /// call it before the daemon reads its configuration.
    pub fn account(setup: Setup, tag: &str) -> Option<String> {
        if setup != Setup::LoginShell || !is_root() {
            return None;
        }
        let name = format!("gotd{tag}{}", std::process::id() % 100_000);
        Some(name)
    }

    /// Starts sshd for the daemon at the site's socket. `temporary`: what [`Sshd::account`] said;
    /// the account is made here, with gotsh as its shell, and removed at the end.
    #[track_caller]
    pub fn start(site: &Site, setup: Setup, temporary: Option<String>) -> Sshd {
        let sshd = program().expect("there is an sshd");
        let dir = site.path("ssh.d");
        let _ = fs::create_dir(&dir);
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("changes a mode");
        for key in ["host", "client"] {
            let mut keygen = Command::new("ssh-keygen");
            let file = dir.join(key);
            if !file.exists() {
                run(keygen.args(["-q", "-t", "ecdsa", "-N", "", "-C", key, "-f"]).arg(&file), b"", 30).good();
            }
        }
        // A copy where everybody can execute it.
        let gotsh = dir.join("gotsh");
        if !gotsh.exists() {
            fs::copy(binaries().join("gotsh"), &gotsh).expect("copies gotsh");
            fs::set_permissions(&gotsh, fs::Permissions::from_mode(0o755)).expect("changes a mode");
        }
        let public = fs::read_to_string(dir.join("client.pub")).expect("reads");
        let (option, force) = match (setup, &temporary) {
            (Setup::ForcedCommand, _) => (format!("restrict,command=\"{}\" ", gotsh.display()), None),
            (Setup::LoginShell, Some(name)) => {
                make_account(name, &gotsh, &dir);
                (String::new(), None)
            }
            (Setup::LoginShell, None) => {
                (String::new(), Some(format!("{} -c \"$SSH_ORIGINAL_COMMAND\"", gotsh.display())))
            }
            (Setup::KeysCommand(_) | Setup::Git, _) => (String::new(), None),
            (Setup::Names, _) => {
                let names = dir.join("names");
                let _ = fs::create_dir(&names);
                for name in ["git-upload-pack", "git-receive-pack"] {
                    let _ = std::os::unix::fs::symlink(&gotsh, names.join(name));
                }
                let path = names.display();
                // sh -c as sshd would start it, but without what a shell's own files would do to
                // PATH.
                (String::new(), Some(format!("env PATH={path} /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"")))
            }
        };
        let more = match setup {
            Setup::KeysCommand(programs) => Some(keys_command(site, &dir, programs)),
            _ => force.map(|force| format!("ForceCommand {force}\n")),
        };
        let keys = dir.join("authorized_keys");
        fs::write(&keys, format!("{option}{public}")).expect("writes");
        fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).expect("changes a mode");
        let user = temporary.clone().unwrap_or_else(present_user);
        let log = dir.join("sshd.log");
        if is_root() {
            // Where sshd locks its unprivileged half up.
            let _ = fs::create_dir_all("/run/sshd");
        }
        let mut last = String::new();
        for _ in 0..5 {
            let port = tcp::free_v4().port();
            let config = configuration(site, &dir, port, more.as_deref());
            let file = dir.join("sshd_config");
            fs::write(&file, config).expect("writes");
            let child = Command::new(&sshd)
                .args(["-D", "-f"])
                .arg(&file)
                .arg("-E")
                .arg(&log)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("starts sshd");
            let command = client(&dir, port, &user);
            let key = dir.join("client");
            let mut sshd =
                Sshd { child, log: log.clone(), port, user: user.clone(), key, command, temporary: None };
            let up = wait_until(10.0, || {
                !matches!(sshd.child.try_wait(), Ok(None))
                    || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
            });
            if up && matches!(sshd.child.try_wait(), Ok(None)) {
                sshd.temporary = temporary;
                return sshd;
            }
            last = sshd.log();
        }
        panic!("sshd did not start: {last}");
    }

    /// git, which reaches the daemon as `gotd:NAME` through this sshd.
    pub fn git<S: AsRef<std::ffi::OsStr>>(
        &self,
        site: &Site,
        arguments: impl IntoIterator<Item = S>,
    ) -> Done {
        let mut command = site.command("git");
        run(command.env("GIT_SSH_COMMAND", &self.command).args(arguments), b"", GIT_SECONDS)
    }

    /// ssh itself with more options and a command.
    pub fn ssh<S: AsRef<std::ffi::OsStr>>(
        &self,
        site: &Site,
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let mut command = site.command("ssh");
        let config = self.command.strip_prefix("ssh -F ").expect("our own command");
        command.args(["-F", config]).args(arguments);
        command
    }

    /// Its process, which reaps those of the connections.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("sshd's log:\n{}", self.log());
        }
        if let Some(name) = &self.temporary {
            remove_account(name);
        }
    }
}

fn program() -> Option<PathBuf> {
    ["/usr/sbin/sshd", "/usr/local/sbin/sshd", "/usr/bin/sshd"]
        .map(PathBuf::from)
        .into_iter()
        .find(|p| p.exists())
}

fn configuration(site: &Site, dir: &Path, port: u16, more: Option<&str>) -> String {
    let dir = dir.display();
    let mut text = format!(
        "ListenAddress 127.0.0.1:{port}\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized_keys\nPidFile none\n\
         StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitUserRC no\nPermitUserEnvironment no\nPrintMotd no\nAcceptEnv GIT_PROTOCOL\n\
         MaxStartups 100\nLogLevel VERBOSE\nSetEnv GOTD_UNIX_SOCKET={}\n",
        site.socket().display()
    );
    // The first word about something counts.
    text.insert_str(0, more.unwrap_or_default());
    text
}

/// Lines by which sshd asks gotctl for keys and principals.
fn keys_command(site: &Site, dir: &Path, programs: &str) -> String {
    let conf = site.path("gotd.conf");
    let ask =
        |what: &str| format!("{programs}/gotctl {what} -c {} --gotsh {programs}/gotsh %u", conf.display());
    let (keys, principals) = (ask("authorized-keys"), ask("authorized-principals"));
    format!(
        // OpenSSH 9.2 ignores the command for principals behind the one for keys.
        "TrustedUserCAKeys {}/ca.pub\nAuthorizedPrincipalsCommand {principals}\nAuthorizedKeysFile none\n\
         AuthorizedKeysCommand {keys} %t %k\nAuthorizedKeysCommandUser {UNPRIVILEGED}\n\
         AuthorizedPrincipalsCommandUser {UNPRIVILEGED}\nDisableForwarding yes\nPermitTTY no\n",
        dir.display()
    )
}

/// Writes the client's configuration and returns its command.
fn client(dir: &Path, port: u16, user: &str) -> String {
    let file = dir.join("client_config");
    let dir = dir.display();
    let text = format!(
        "Host gotd 127.0.0.1\n\tHostName 127.0.0.1\n\tPort {port}\n\tUser {user}\n\tIdentityFile {dir}/client\n\tIdentitiesOnly yes\n\
         \tIdentityAgent none\n\tBatchMode yes\n\tStrictHostKeyChecking no\n\tUserKnownHostsFile /dev/null\n\tLogLevel ERROR\n"
    );
    fs::write(&file, text).expect("writes");
    format!("ssh -F {}", file.display())
}

/// useradd and userdel do not wait for each other: the second one fails.
static ACCOUNTS: Mutex<()> = Mutex::new(());

/// Makes an account that the daemon can be told about.
pub fn make_account(name: &str, shell: &Path, home: &Path) {
    make(name, shell, home, &[]);
}

/// Makes an account that is a member of this group too.
pub fn make_member(name: &str, shell: &Path, home: &Path, group: &str) {
    make(name, shell, home, &["-G", group]);
}

fn make(name: &str, shell: &Path, home: &Path, more: &[&str]) {
    let _one_at_a_time = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut command = Command::new("useradd");
    // `*` is no password at all, and not a locked account, which sshd would refuse.
    command.args(more).args(["-M", "-N", "-r", "-p", "*", "-s"]).arg(shell).arg("-d").arg(home).arg(name);
    let done = run(&mut command, b"", 30);
    // 9: it is there already, made for this test before the daemon was started.
    assert!(matches!(done.status, 0 | 9), "useradd: {}", done.err);
}

/// Removes an account that [`make_account`] made.
fn remove_account(name: &str) {
    let _one_at_a_time = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
    let _ = run(Command::new("userdel").arg(name), b"", 30);
}
