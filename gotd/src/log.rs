//! Where log lines go: standard error in the foreground, syslog(3)'s socket otherwise.
//!
//! Lines are built by `parent` from typed values; values are escaped here, so that nothing a client or a child
//! wrote can look like a line of its own. Nobody waits for a log.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;

use libproto::names::escape;

/// How grave a line is, in syslog's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// The daemon cannot go on.
    Error = 3,
    /// Something an admin should look at.
    Warning = 4,
    /// One line per event.
    Info = 6,
    /// With `-v`.
    Debug = 7,
}

/// The sink.
#[derive(Debug)]
pub struct Log {
    syslog: Option<UnixDatagram>,
    /// Standard error is the journal, which takes the level from the beginning of a line (sd-daemon(3)).
    journal: bool,
    verbose: bool,
    dropped: u64,
}

impl Log {
    /// Lines go to standard error.
    pub fn stderr(verbose: bool) -> Log {
        Log { syslog: None, journal: stderr_is_journal(), verbose, dropped: 0 }
    }

    /// Lines go to syslog; to standard error when there is none.
    pub fn syslog(verbose: bool) -> Log {
        let syslog = UnixDatagram::unbound().and_then(|socket| {
            socket.connect("/dev/log")?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Log { syslog: syslog.ok(), journal: stderr_is_journal(), verbose, dropped: 0 }
    }

    /// Writes one line: a word for the event and its fields.
    pub fn line(&mut self, level: Level, event: &str, fields: &[(&str, &dyn std::fmt::Display)]) {
        if level == Level::Debug && !self.verbose {
            return;
        }
        let mut line = String::from(event);
        for (key, value) in fields {
            let value = value.to_string();
            if !value.is_empty() {
                let _ = write!(line, " {key}={}", quote(&value));
            }
        }
        let sent = match &self.syslog {
            // Facility daemon (3).
            Some(socket) => socket
                .send(format!("<{}>gotd[{}]: {line}", 3 * 8 + level as u8, std::process::id()).as_bytes())
                .map(|_| ()),
            None => {
                let level = if self.journal { format!("<{}>", level as u8) } else { String::new() };
                std::io::stderr().write_all(format!("{level}gotd: {line}\n").as_bytes())
            }
        };
        if sent.is_err() {
            self.dropped = self.dropped.saturating_add(1);
        }
    }

    /// Whether lines for debugging are written from now on.
    pub fn set_verbose(&mut self, verbose: bool) {
        self.verbose = verbose;
    }

    /// Lines that nobody took.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// Whether what systemd says about its journal is about standard error of this process: device and inode.
fn stderr_is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let known = libsandbox::fstat(std::io::stderr().as_fd());
    known.is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// A value as it stands in a line: harmless, and in quotes when it would otherwise run into the next field. A value
/// that was escaped before is not escaped again.
fn quote(value: &str) -> String {
    let harmless = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b'"';
    let text = if value.bytes().all(harmless) { value.to_owned() } else { escape(value.as_bytes()) };
    if text.contains([' ', '=']) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_look_like_a_field_or_a_line() {
        assert_eq!(quote("refs/heads/main"), "refs/heads/main");
        assert_eq!(quote("a b"), "\"a b\"");
        assert!(!quote("a\nsession end who=root").contains('\n'));
        assert!(quote("a\" who=root").starts_with('"'));
        assert_eq!(quote("a\" who=root").matches('"').count(), 2);
        assert_eq!(quote("a\\x22b"), "a\\x22b");
        assert!(!quote("\x1b[31m").contains('\x1b'));
    }
}
