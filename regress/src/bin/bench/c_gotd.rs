//! The gotd of Game of Trees, from a built tree of its portable version.
//!
//! Its repository process calls chroot(2) after its parent took another user, which Linux allows
//! nobody without a capability. It is given this one: ambient, so that it outlives exec, and kept
//! when the user changes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use regress::run::wait_until;
use regress::site::Site;

use crate::measure::family;

/// Whom C gotd runs as. It refuses to be root.
const USER: &str = "nobody";

/// A running C gotd, which serves one repository as `bench`.
pub struct CGotd {
    child: Child,
    site: Site,
    gotsh: PathBuf,
    /// How many processes it has while nobody is served.
    idle: usize,
}

impl CGotd {
    /// Starts the one built in `tree`; the error is what it wrote.
    pub fn start(tree: &Path, repository: &Path) -> Result<CGotd, String> {
        let site = Site::new();
        let (conf, log) = (site.path("c-gotd.conf"), site.path("c-gotd.log"));
        let dir = site.path("c-gotd");
        std::fs::create_dir(&dir).map_err(|e| e.to_string())?;
        // The socket is made by the user that it changes to.
        let owner = site.command("chown").arg(USER).arg(&dir).status();
        if !owner.is_ok_and(|status| status.success()) {
            return Err(format!("C gotd is started as root, to become {USER}"));
        }
        let text = format!(
            "user \"{USER}\"\nlisten on \"{}\"\nconnection {{\n\tlimit user root 1000\n}}\nrepository \"bench\" {{\n\tpath \"{}\"\n\tpermit ro root\n}}\n",
            dir.join("gotd.sock").display(),
            repository.display(),
        );
        std::fs::write(&conf, text).map_err(|e| e.to_string())?;
        let file = std::fs::File::create(&log).map_err(|e| e.to_string())?;
        let child = site
            .command("setpriv")
            .args([
                "--securebits=+no_setuid_fixup",
                "--inh-caps=+sys_chroot",
                "--ambient-caps=+sys_chroot",
                "--",
            ])
            .arg(tree.join("gotd/gotd"))
            .args(["-d", "-f"])
            .arg(&conf)
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(|e| e.to_string())?)
            .stderr(file)
            .spawn()
            .map_err(|e| e.to_string())?;
        let mut this = CGotd { child, site, gotsh: tree.join("gotsh/gotsh"), idle: 0 };
        let socket = dir.join("gotd.sock");
        if !wait_until(10.0, || std::os::unix::net::UnixStream::connect(&socket).is_ok()) {
            return Err(std::fs::read_to_string(&log).unwrap_or_default());
        }
        // What that connection started has to end first.
        std::thread::sleep(Duration::from_millis(500));
        this.idle = this.processes();
        Ok(this)
    }

    /// Its first process.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    fn processes(&self) -> usize {
        family(self.pid()).len()
    }

    /// A client of it.
    pub fn client(&self) -> Command {
        let mut command = self.site.command(&self.gotsh);
        command.env("GOTD_UNIX_SOCKET", self.site.path("c-gotd/gotd.sock"));
        command.args(["-c", "git-upload-pack 'bench'"]);
        command
    }

    /// Waits until the processes of the last session were reaped: only then do they count.
    pub fn settled(&self) {
        wait_until(20.0, || self.processes() <= self.idle);
    }
}

impl Drop for CGotd {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}
