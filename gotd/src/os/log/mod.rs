//! Where log lines go: standard error in the foreground, syslog(3)'s socket otherwise.
//!
//! Lines are built by `parent` from typed values; values are escaped here, so that nothing a client
//! or a child wrote can look like a line of its own. The daemon never waits for the reader of its
//! log, which may stop, as a pager does. Lines that the reader does not take wait here, up to a
//! bound. Lines lost beyond that are counted, and the count is logged.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libproto::names::escape;

use self::sink::{Sink, has_room};

mod sink;

/// Most bytes of lines that wait for a slow reader.
const WAITING_BYTES: usize = 256 * 1024;
/// Longest value in a line, in bytes: the longest name of a reference fits.
const VALUE_BYTES: usize = 4096;
/// How long the end of the daemon may be put off for the last lines.
const LAST_WORDS: Duration = Duration::from_millis(300);

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

/// The log.
#[derive(Debug)]
pub struct Log {
    sink: Sink,
    /// Standard error is the journal, which takes the level from the beginning of a line
    /// (sd-daemon(3)).
    journal: bool,
    verbose: bool,
    queue: Queue,
}

/// Lines that were not taken yet.
#[derive(Debug, Default)]
struct Queue {
    records: VecDeque<Record>,
    /// Bytes in them.
    bytes: usize,
    /// Bytes of the first that were taken.
    taken: usize,
    /// Lines that are lost.
    dropped: u64,
    /// Lost lines that no log line has counted yet.
    untold: u64,
}

/// One line in its final form.
#[derive(Debug)]
struct Record {
    bytes: Vec<u8>,
    /// The lost lines that it tells of.
    tells: u64,
}

impl Log {
    /// Lines go to standard error.
    pub fn stderr(verbose: bool) -> Log {
        Log::to(Sink::stderr(), verbose)
    }

    /// Lines go to syslog; to standard error when there is none.
    pub fn syslog(verbose: bool) -> Log {
        Log::to(Sink::syslog().unwrap_or_else(Sink::stderr), verbose)
    }

    fn to(sink: Sink, verbose: bool) -> Log {
        Log { sink, journal: stderr_is_journal(), verbose, queue: Queue::default() }
    }

    /// Standard error is something else now.
    pub fn stderr_moved(&mut self) {
        if !self.sink.is_syslog() {
            self.sink = Sink::shared_stderr();
        }
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
        if self.queue.has_room(line.len()) {
            self.queue_dropped();
            let bytes = self.form(level, &line);
            self.queue.push(Record { bytes, tells: 0 });
        } else {
            self.queue.lose(1);
        }
        self.flush();
    }

    /// Writes as many waiting lines as the reader takes.
    pub fn flush(&mut self) {
        while let Some(record) = self.queue.records.front() {
            match self.sink.write(&record.bytes[self.queue.taken..]) {
                Ok(0) => return,
                Ok(n) => self.queue.taken += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                // The log has no reader any more.
                Err(_) => return self.queue.lose_all(),
            }
            if self.queue.taken >= record.bytes.len() {
                self.queue.pop();
            }
            if self.queue.records.is_empty() {
                self.queue_dropped();
            }
        }
    }

    /// What to poll for room, while lines wait.
    pub fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        if self.queue.records.is_empty() { None } else { self.sink.fd() }
    }

    /// Waits, within a bound, until the lines that are left are taken.
    pub fn finish(&mut self) {
        let end = Instant::now() + LAST_WORDS;
        self.flush();
        while let Some(fd) = self.waits_for().filter(|_| Instant::now() < end) {
            has_room(fd, 20);
            self.flush();
        }
    }

    /// Whether lines for debugging are written from now on.
    pub fn set_verbose(&mut self, verbose: bool) {
        self.verbose = verbose;
    }

    /// Lines that nobody took.
    pub fn dropped(&self) -> u64 {
        self.queue.dropped
    }

    /// Queues a line with the number of lost lines.
    fn queue_dropped(&mut self) {
        let tells = std::mem::take(&mut self.queue.untold);
        if tells > 0 {
            let bytes = self.form(Level::Warning, &format!("log dropped={tells}"));
            self.queue.push(Record { bytes, tells });
        }
    }

    /// A line as it is written.
    fn form(&self, level: Level, line: &str) -> Vec<u8> {
        if self.sink.is_syslog() {
            // Facility daemon (3).
            return format!("<{}>gotd[{}]: {line}", 3 * 8 + level as u8, std::process::id()).into_bytes();
        }
        let level = if self.journal { format!("<{}>", level as u8) } else { String::new() };
        format!("{level}gotd: {line}\n").into_bytes()
    }
}

impl Queue {
    fn lose_all(&mut self) {
        while !self.records.is_empty() {
            self.pop();
        }
    }

    /// Whether there is room for a line of this length. Once lines were lost, there is room only
    /// when half of the queue is free again: so a reader that is a little too slow gets one count
    /// of many lost lines.
    fn has_room(&self, length: usize) -> bool {
        let most = if self.untold > 0 { WAITING_BYTES / 2 } else { WAITING_BYTES };
        self.bytes.saturating_add(length) <= most
    }

    fn push(&mut self, record: Record) {
        self.bytes += record.bytes.len();
        self.records.push_back(record);
    }

    /// The first has been taken, or, if not all of it was, is lost.
    fn pop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        let Some(record) = self.records.pop_front() else { return };
        self.bytes -= record.bytes.len();
        if taken < record.bytes.len() {
            self.dropped = self.dropped.saturating_add(u64::from(record.tells == 0));
            self.untold = self.untold.saturating_add(record.tells.max(1));
        }
    }

    fn lose(&mut self, lines: u64) {
        self.dropped = self.dropped.saturating_add(lines);
        self.untold = self.untold.saturating_add(lines);
    }
}

/// Writes a line to standard error from outside of the log, in any process of the daemon, and waits
/// no longer than the last words of a daemon may take.
pub fn write_to_stderr(text: &str) {
    let mut log = Log::to(Sink::shared_stderr(), false);
    log.queue.push(Record { bytes: format!("{text}\n").into_bytes(), tells: 0 });
    log.finish();
}

/// Whether what systemd says about its journal is about standard error of this process: device and
/// inode.
fn stderr_is_journal() -> bool {
    let named = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let known = libsandbox::fstat(io::stderr().as_fd());
    known.is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Forms a value for a line: escaped, bounded, and in quotes when it would otherwise run into the
/// next field. A value that was escaped before is not escaped again.
fn quote(value: &str) -> String {
    let harmless = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b'"';
    let mut text = if value.bytes().all(harmless) { value.to_owned() } else { escape(value.as_bytes()) };
    if text.len() > VALUE_BYTES {
        text.truncate(text.floor_char_boundary(VALUE_BYTES));
        text.push_str("...");
    }
    if text.contains([' ', '=']) { format!("\"{text}\"") } else { text }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};

    use super::*;

    /// A log into a pipe of one page, and its reader.
    fn piped() -> (Log, std::fs::File) {
        let (read, write) = nix::unistd::pipe2(OFlag::O_NONBLOCK).expect("a pipe");
        fcntl(&write, FcntlArg::F_SETPIPE_SZ(4096)).expect("a small pipe");
        (Log { journal: false, ..Log::to(Sink::File(write.into()), false) }, read.into())
    }

    /// Reads what is there, and flushes, until nothing comes any more.
    fn drain(log: &mut Log, reader: &mut std::fs::File) -> String {
        let (mut text, mut buffer) = (Vec::new(), [0; 1000]);
        loop {
            match reader.read(&mut buffer) {
                Ok(n) => text.extend_from_slice(&buffer[..n]),
                Err(_) if log.waits_for().is_none() => return String::from_utf8(text).expect("text"),
                Err(_) => log.flush(),
            }
        }
    }

    #[test]
    fn a_reader_that_stops_costs_lines_and_no_time() {
        let (mut log, mut reader) = piped();
        for n in 0..10_000 {
            log.line(Level::Info, "started", &[("number", &n), ("text", &"x".repeat(200))]);
        }
        assert!(log.queue.bytes <= WAITING_BYTES + 1000, "{}", log.queue.bytes);
        let lost = log.dropped();
        assert!(lost > 8000, "{lost}");
        let text = drain(&mut log, &mut reader);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.last(), Some(&format!("gotd: log dropped={lost}").as_str()));
        assert_eq!(lines.len() as u64 - 1, 10_000 - lost);
        for (n, line) in lines[..lines.len() - 1].iter().enumerate() {
            assert!(line.starts_with(&format!("gotd: started number={n} text=xxx")), "{line}");
        }
        log.line(Level::Info, "started", &[("number", &"last")]);
        assert_eq!(drain(&mut log, &mut reader), "gotd: started number=last\n");
        assert_eq!(log.dropped(), lost);
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_no_memory() {
        let (mut log, reader) = piped();
        drop(reader);
        for _ in 0..100 {
            log.line(Level::Info, "started", &[]);
        }
        assert_eq!((log.dropped(), log.queue.bytes, log.queue.records.len()), (100, 0, 0));
        log.finish();
    }

    #[test]
    fn a_syslog_that_stops_costs_lines_and_no_time() {
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().expect("a pair");
        ours.set_nonblocking(true).expect("a flag");
        theirs.set_nonblocking(true).expect("a flag");
        let mut log = Log { journal: false, ..Log::to(Sink::Syslog(ours), false) };
        for n in 0..5000 {
            log.line(Level::Info, "started", &[("number", &n), ("text", &"x".repeat(200))]);
        }
        let (lost, mut told) = (log.dropped(), String::new());
        assert!(lost > 1000 && log.queue.bytes <= WAITING_BYTES + 1000, "{lost} {}", log.queue.bytes);
        while log.waits_for().is_some() {
            let mut buffer = [0; 1000];
            while let Ok(n) = theirs.recv(&mut buffer) {
                told = String::from_utf8_lossy(&buffer[..n]).into_owned();
            }
            log.flush();
        }
        let mut buffer = [0; 1000];
        while let Ok(n) = theirs.recv(&mut buffer) {
            told = String::from_utf8_lossy(&buffer[..n]).into_owned();
        }
        assert!(told.starts_with("<28>gotd[") && told.ends_with(&format!(": log dropped={lost}")), "{told}");
    }

    #[test]
    fn a_long_value_is_cut() {
        assert_eq!(quote(&"x".repeat(VALUE_BYTES)).len(), VALUE_BYTES);
        assert_eq!(quote(&"\n".repeat(VALUE_BYTES)).len(), VALUE_BYTES + 3);
    }

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
