//! A real gotd in the foreground.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{self, Process};
use crate::run::{Done, run, wait_until};
use crate::{Site, binaries};

/// The command that records the system calls of a daemon that is started through it.
pub fn recorder(file: &std::path::Path) -> [String; 2] {
    [binaries().join("calls").display().to_string(), file.display().to_string()]
}

/// A running daemon. It is stopped at the end of its life, and must then leave no process and no
/// socket.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
    socket: PathBuf,
    site: PathBuf,
}

impl Daemon {
    /// Starts gotd and waits until it answers. An error is what it wrote.
    ///
    /// With `GOTD_CALLS` in the environment the system calls of its roles are recorded, each
    /// daemon's in a file in that directory (see `src/bin/calls.rs`).
    pub fn start(site: &Site, configuration: &str) -> Result<Daemon, String> {
        match std::env::var_os("GOTD_CALLS") {
            Some(directory) => {
                let site_name = site.path("").file_name().unwrap_or_default().to_owned();
                let file = PathBuf::from(directory).join(site_name);
                Daemon::start_through(site, configuration, &recorder(&file))
            }
            None => Daemon::start_through(site, configuration, &[]),
        }
    }

    /// The same by a program that becomes gotd, which is given gotd's command line behind its own.
    pub fn start_through(site: &Site, configuration: &str, program: &[String]) -> Result<Daemon, String> {
        let conf = site.path("gotd.conf");
        fs::write(&conf, configuration).map_err(|e| e.to_string())?;
        let log = site.path("gotd.log");
        let file =
            fs::File::options().create(true).append(true).open(&log).map_err(|e| format!("log: {e}"))?;
        let gotd = binaries().join("gotd");
        let mut command = match program {
            [first, rest @ ..] => {
                let mut command = site.command(first);
                command.args(rest).arg(gotd);
                command
            }
            [] => site.command(gotd),
        };
        let child = command
            .args(["-d", "-v", "-f"])
            .arg(&conf)
            .stdin(std::process::Stdio::null())
            .stdout(file.try_clone().map_err(|e| e.to_string())?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{}: {e}", binaries().display()))?;
        let mut daemon = Daemon { child, status: None, log, socket: site.socket(), site: site.path("") };
        let ready = wait_until(20.0, || daemon.ended() || daemon.answers());
        if !ready || daemon.status.is_some() {
            let log = daemon.log();
            daemon.end();
            return Err(log);
        }
        Ok(daemon)
    }

    /// The parent's process id, which is the group's of all its processes too.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits for a line of the log that holds all of `words`, and returns it.
    #[track_caller]
    pub fn logged(&self, words: &[&str]) -> String {
        let mut found = None;
        // Some lines tell what takes seconds by itself, and the machine may have more to do.
        wait_until(20.0, || {
            let log = self.log();
            found = log.lines().find(|line| words.iter().all(|w| line.contains(w))).map(str::to_owned);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("{words:?}: in no line of the log:\n{}", self.log()))
    }

    /// Where gotctl goes.
    pub fn control_socket(&self) -> PathBuf {
        let mut name = self.socket.clone().into_os_string();
        name.push(".ctl");
        name.into()
    }

    /// gotctl with the daemon's socket.
    pub fn gotctl(&self, arguments: &[&str]) -> Done {
        let mut command = std::process::Command::new(binaries().join("gotctl"));
        run(command.arg("-f").arg(&self.socket).args(arguments), b"", 40)
    }

    /// One sample of `gotctl metrics`; 0 when there is none of this name and these labels.
    #[track_caller]
    pub fn metric(&self, sample: &str) -> u64 {
        let text = self.gotctl(&["metrics"]).good().text();
        let mut lines = text.lines().filter_map(|line| line.rsplit_once(' '));
        let value = lines.find(|(name, _)| *name == sample).map_or("0", |(_, value)| value);
        value.parse().expect("a number")
    }

    /// Waits until a sample of `gotctl metrics` has this value.
    #[track_caller]
    pub fn assert_metric(&self, sample: &str, value: u64) {
        let mut last = 0;
        let there = wait_until(10.0, || {
            last = self.metric(sample);
            last == value
        });
        assert!(there, "{sample} is {last}, not {value}:\n{}", self.log());
    }

    /// How many clients ran into the limit that this directive sets.
    #[track_caller]
    pub fn reached(&self, directive: &str) -> u64 {
        self.metric(&format!("gotd_limits_reached_total{{directive=\"{directive}\"}}"))
    }

    /// Waits until at least so many clients ran into the limit that this directive sets: the daemon
    /// counts them when their sessions have ended.
    #[track_caller]
    pub fn assert_reached(&self, directive: &str, least: u64) {
        let mut last = 0;
        let there = wait_until(10.0, || {
            last = self.reached(directive);
            last >= least
        });
        assert!(there, "{directive} was reached {last} times, not {least}:\n{}", self.log());
    }

    /// The samples of `gotctl metrics`, checked for the form that OpenMetrics gives them.
    #[track_caller]
    pub fn metrics(&self) -> BTreeMap<String, u64> {
        let text = self.gotctl(&["metrics"]).good().text();
        assert!(text.ends_with("# EOF\n"), "{text}");
        let mut families = Vec::new();
        let mut samples = BTreeMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("name and kind");
                assert!(["counter", "gauge", "info"].contains(&kind), "{line}");
                families.push(name.to_owned());
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                let family = families.last().expect("behind its family");
                assert!(name.starts_with(family.as_str()), "{name} in {family}");
                assert!(
                    samples.insert(name.to_owned(), value.parse().expect("a number")).is_none(),
                    "{line}"
                );
            }
        }
        let mut unique = families.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), families.len());
        samples
    }

    /// Whether `gotctl info` is answered, by this daemon and no other.
    pub fn answers(&self) -> bool {
        let me = format!(" pid {}\n", self.pid());
        self.socket.exists() && self.gotctl(&["info"]).text().contains(&me)
    }

    /// Its processes, without those that have ended and wait to be reaped.
    pub fn processes(&self) -> Vec<Process> {
        let mut all = process::group(self.pid());
        all.retain(|p| p.state != 'Z');
        all
    }

    /// The same when all of them wait, twice in a row. One that is just starting has no name, limit
    /// or sandbox of its own yet.
    #[track_caller]
    pub fn processes_at_rest(&self) -> Vec<Process> {
        let mut before = Vec::new();
        let rests = wait_until(20.0, || {
            let now = self.processes();
            let rests = now.iter().all(|process| process.state == 'S') && now == before;
            before = now;
            rests
        });
        assert!(rests, "still at work: {before:?}");
        before
    }

    /// Its processes with this name; names are roles.
    pub fn role(&self, name: &str) -> Vec<i32> {
        self.processes()
            .into_iter()
            .filter(|p| p.name == name && p.pid != self.pid())
            .map(|p| p.pid)
            .collect()
    }

    /// Kills one of its processes, as a crash would.
    #[track_caller]
    pub fn kill(&self, pid: i32) {
        assert!(self.kill_if_there(pid), "{pid}: not a process of this daemon");
    }

    /// The same for a process that may have ended meanwhile; whether it was there.
    pub fn kill_if_there(&self, pid: i32) -> bool {
        let there = self.processes().iter().any(|p| p.pid == pid);
        there && kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok()
    }

    /// Sends a signal to the parent.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }

    /// Whether the parent has ended.
    pub fn ended(&mut self) -> bool {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status.is_some()
    }

    /// Waits until every process is gone, at most this many seconds.
    pub fn gone_within(&mut self, seconds: f64) -> bool {
        wait_until(seconds, || self.ended() && self.processes().is_empty())
    }

    /// Stops it by SIGTERM; a process or a socket that is left after two seconds fails the test.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        self.assert_nothing_is_left(3.0);
    }

    /// Fails the test if a process or the socket is left after this many seconds.
    #[track_caller]
    pub fn assert_nothing_is_left(&mut self, seconds: f64) {
        let gone = self.gone_within(seconds);
        let left = self.processes();
        assert!(gone, "left after the end: {left:?}\n{}", self.log());
        for socket in [self.socket.clone(), self.control_socket()] {
            assert!(wait_until(1.0, || !socket.exists()), "{}: left after the end", socket.display());
        }
    }

    /// Fails the test unless the daemon lives and serves a client.
    #[track_caller]
    pub fn assert_serves(&mut self) {
        assert!(!self.ended(), "the daemon has ended:\n{}", self.log());
        assert!(wait_until(10.0, || self.answers()), "the daemon does not answer:\n{}", self.log());
    }

    /// The end without looking at what is left.
    fn end(&mut self) {
        if !self.ended() {
            self.signal(Signal::SIGTERM);
            if !wait_until(4.0, || self.ended()) {
                let _ = self.child.kill();
            }
        }
        for process in self.processes() {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        if !self.ended() {
            let _ = self.child.wait();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("gotd's log ({}):\n{}", self.site.display(), self.log());
            return self.end();
        }
        if !self.ended() {
            self.signal(Signal::SIGTERM);
        }
        let gone = self.gone_within(4.0);
        let left = self.processes();
        self.end();
        assert!(gone, "left after the end: {left:?}\n{}", self.log());
        // Such a line: the table of calls lacks a call that a role makes.
        let log = self.log();
        assert!(!log.contains("forbidden system call"), "{log}");
    }
}
