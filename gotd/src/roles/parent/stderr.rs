//! The standard errors of all children: what they write becomes lines of the log, few and short.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libproto::states::Role;

use crate::os::log::{Level, Log};

/// Bytes that one process may put into the log through its standard error.
const COMPLAINT_BYTES: usize = 16 * 1024;
/// Lines that it may put there: each is longer in the log than it was.
const COMPLAINT_LINES: usize = 100;

struct StderrPipe {
    role: Role,
    /// 0 until it is known.
    pid: i32,
    fd: OwnedFd,
    rest: Vec<u8>,
    left: usize,
    lines: usize,
    dropped: usize,
}

/// The standard errors of all children: drained, bounded, escaped.
#[derive(Default)]
pub struct StderrPipes {
    pipes: HashMap<u64, StderrPipe>,
}

impl StderrPipes {
    /// Listens to the process of this number. Its own descriptor stays with the child's record;
    /// this is a copy.
    pub fn watch(&mut self, number: u64, role: Role, stderr: &OwnedFd) {
        if let Ok(fd) = stderr.try_clone() {
            let (left, lines) = (COMPLAINT_BYTES, COMPLAINT_LINES);
            self.pipes
                .insert(number, StderrPipe { role, pid: 0, fd, rest: Vec::new(), left, lines, dropped: 0 });
        }
    }

    /// What the system calls a process, for the log.
    pub fn started(&mut self, number: u64, pid: i32) {
        if let Some(pipe) = self.pipes.get_mut(&number) {
            pipe.pid = pid;
        }
    }

    /// Descriptors to poll.
    pub fn iter(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.pipes.iter().map(|(number, pipe)| (*number, pipe.fd.as_fd()))
    }

    /// Reads what a process wrote.
    pub fn read(&mut self, number: u64, log: &mut Log) {
        let Some(pipe) = self.pipes.get_mut(&number) else { return };
        let mut buffer = [0; 4096];
        match nix::unistd::read(&pipe.fd, &mut buffer) {
            Ok(0) => {
                pipe.say(log, true);
                self.pipes.remove(&number);
            }
            Ok(n) => pipe.hear(&buffer[..n], log),
            Err(_) => {}
        }
    }

    /// The process was reaped: what is left in its pipe, then no more.
    pub fn end(&mut self, number: u64, log: &mut Log) {
        for _ in 0..32 {
            if !self.pipes.contains_key(&number) {
                return;
            }
            let before = self.pipes.get(&number).map(|v| v.left + v.rest.len());
            self.read(number, log);
            if before == self.pipes.get(&number).map(|v| v.left + v.rest.len()) {
                break;
            }
        }
        if let Some(mut pipe) = self.pipes.remove(&number) {
            pipe.say(log, true);
        }
    }
}

impl StderrPipe {
    fn hear(&mut self, bytes: &[u8], log: &mut Log) {
        let taken = bytes.len().min(self.left);
        self.left -= taken;
        self.dropped += bytes.len() - taken;
        self.rest.extend_from_slice(&bytes[..taken]);
        self.say(log, false);
    }

    /// Logs whole lines; with `all` the rest too.
    fn say(&mut self, log: &mut Log, all: bool) {
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            self.line(&line[..end], log);
        }
        if all {
            let rest = std::mem::take(&mut self.rest);
            self.line(&rest, log);
            if self.dropped > 0 {
                log.line(
                    Level::Warning,
                    self.role.name(),
                    &[("pid", &self.pid), ("dropped-bytes", &std::mem::take(&mut self.dropped))],
                );
            }
        }
    }

    fn line(&mut self, line: &[u8], log: &mut Log) {
        if self.lines == 0 {
            self.dropped += line.len();
        } else if !line.is_empty() {
            self.lines -= 1;
            log.line(
                Level::Warning,
                self.role.name(),
                &[("pid", &self.pid), ("says", &String::from_utf8_lossy(line))],
            );
        }
    }
}

/// What a child that failed to start wrote.
pub(super) fn last_words(stderr: &OwnedFd) -> String {
    let mut buffer = [0; 1024];
    match nix::unistd::read(stderr, &mut buffer) {
        Ok(n) if n > 0 => format!(": {}", String::from_utf8_lossy(&buffer[..n]).trim()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process that was taken over writes one byte a line, each of which is a long line of the
    /// log.
    #[test]
    fn lines_of_standard_error_are_counted_and_not_only_their_bytes() {
        let (_read, write) = nix::unistd::pipe().expect("a pipe");
        let mut pipe = StderrPipe {
            role: Role::Session,
            pid: 1,
            fd: write,
            rest: Vec::new(),
            left: 16_000,
            lines: 3,
            dropped: 0,
        };
        pipe.hear(&b"xy\n".repeat(100), &mut Log::stderr(false));
        assert_eq!((pipe.lines, pipe.dropped), (0, 97 * 2));
    }
}
