//! What systemd is told and what it goes by: readiness, levels in its journal, exit status, and the
//! wait for `gotctl stop`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use regress::run::wait_until;
use regress::{Site, binaries, history, run};

fn site() -> Site {
    let site = Site::new();
    history::repository(&site, "a.git", 1, "sha1");
    site.hand_over();
    site
}

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// gotd in the foreground, as a unit starts it; its standard error is a file that it may take for
/// the journal.
fn start(site: &Site, configuration: &str, notify: Option<&str>, journal: bool) -> Running {
    let conf = site.path("gotd.conf");
    fs::write(&conf, configuration).expect("writes");
    let log = fs::File::create(site.path("journal")).expect("creates");
    let meta = log.metadata().expect("is there");
    let mut command: Command = site.command(binaries().join("gotd"));
    command.args(["-d", "-f"]).arg(&conf);
    command.env_remove("NOTIFY_SOCKET").env_remove("JOURNAL_STREAM");
    if let Some(notify) = notify {
        command.env("NOTIFY_SOCKET", notify);
    }
    let inode = if journal { meta.ino() } else { meta.ino() + 1 };
    command.env("JOURNAL_STREAM", format!("{}:{inode}", meta.dev()));
    Running(command.stderr(log).spawn().expect("starts"))
}

fn end(Running(child): &mut Running) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    kill(pid, Signal::SIGTERM).expect("is there");
    assert!(child.wait().expect("ends").success());
}

#[test]
fn a_manager_is_told_once_clients_are_served() {
    let site = site();
    let path = site.path("notify");
    let manager = UnixDatagram::bind(&path).expect("binds");
    manager.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    let mut gotd = start(&site, &site.serve_all(), path.to_str(), false);
    let mut said = [0; 64];
    let length = manager.recv(&mut said).expect("is told");
    assert_eq!(&said[..length], b"READY=1\n");
    // From this moment on; no process inherits the way to the manager.
    let mut gotctl = site.command(binaries().join("gotctl"));
    run(gotctl.arg("-f").arg(site.socket()).arg("info"), b"", 20).good();
    manager.set_read_timeout(Some(Duration::from_millis(200))).expect("sets");
    assert!(manager.recv(&mut said).is_err());
    end(&mut gotd);
    // One that is not there is no reason not to start.
    drop(manager);
    let mut gotd = start(&site, &site.serve_all(), path.to_str(), false);
    let gotctl = || {
        let mut gotctl = site.command(binaries().join("gotctl"));
        run(gotctl.arg("-f").arg(site.socket()).arg("info"), b"", 20).status
    };
    assert!(wait_until(20.0, || gotctl() == 0));
    end(&mut gotd);
}

/// The journal takes the level from the line; nothing else is to see it.
#[test]
fn lines_for_the_journal_have_levels() {
    let site = site();
    for (journal, first) in [(true, "<6>gotd: started "), (false, "gotd: started ")] {
        let mut gotd = start(&site, &site.serve_all(), None, journal);
        let log = || fs::read_to_string(site.path("journal")).unwrap_or_default();
        assert!(wait_until(20.0, || log().lines().any(|line| line.starts_with(first))), "{}", log());
        end(&mut gotd);
        let levels = log().lines().filter(|line| line.starts_with("<6>gotd: ")).count();
        assert_eq!(levels, if journal { log().lines().count() } else { 0 }, "{}", log());
    }
}

/// So that a unit is not started again and again with a file that cannot be used.
#[test]
fn a_configuration_that_cannot_be_used_has_an_exit_status_of_its_own() {
    let site = site();
    let mut gotd = start(&site, "repositry \"a\" {\n}\n", None, false);
    assert_eq!(gotd.0.wait().expect("ends").code(), Some(78));
    let mut check = site.command(binaries().join("gotd"));
    assert_eq!(run(check.args(["-n", "-f"]).arg(site.path("gotd.conf")), b"", 20).status, 1);
    // What may be otherwise in a moment is worth another try.
    fs::write(site.socket(), "in the way").expect("writes");
    let mut gotd = start(&site, &site.serve_all(), None, false);
    assert_eq!(gotd.0.wait().expect("ends").code(), Some(1));
}
