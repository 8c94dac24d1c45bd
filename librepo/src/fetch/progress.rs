//! What the client's user sees while work goes on, and the caller's heartbeat.

use std::io;
use std::time::{Duration, Instant};

use super::Sink;
use crate::error::{Error, Result};

/// How often a line of progress is renewed.
const RENEW: Duration = Duration::from_millis(500);
/// How often the caller hears that work goes on.
const BEAT: Duration = Duration::from_millis(150);
/// How many small steps are counted before the clock is read.
const STEPS: u32 = 32;

/// The sink with a clock: progress lines in the words that git's users know, and ticks.
pub(crate) struct Progress<'a> {
    sink: &'a mut dyn Sink,
    beat: Instant,
    renewed: Instant,
    steps: u32,
    title: &'static str,
    done: u64,
    total: u64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(sink: &'a mut dyn Sink) -> Progress<'a> {
        let now = Instant::now();
        Progress { sink, beat: now, renewed: now, steps: 0, title: "", done: 0, total: 0 }
    }

    /// Begins a phase. `total` is 0 where it is not known.
    pub(crate) fn start(&mut self, title: &'static str, total: u64) {
        self.title = title;
        self.total = total;
        self.done = 0;
        self.renewed = Instant::now();
    }

    /// `count` more of the phase's things are done. Cheap; call it for every one.
    pub(crate) fn step(&mut self, count: u64) -> Result<()> {
        self.done = self.done.saturating_add(count);
        self.steps += 1;
        if self.steps < STEPS { Ok(()) } else { self.look_at_clock() }
    }

    /// As [`Progress::step`] for something that took long.
    pub(crate) fn long_step(&mut self, count: u64) -> Result<()> {
        self.done = self.done.saturating_add(count);
        self.look_at_clock()
    }

    fn look_at_clock(&mut self) -> Result<()> {
        self.steps = 0;
        let now = Instant::now();
        if now.duration_since(self.beat) >= BEAT {
            self.beat = now;
            self.sink.tick().map_err(Error::Io)?;
        }
        if !self.title.is_empty() && now.duration_since(self.renewed) >= RENEW {
            self.renewed = now;
            let line = self.line();
            self.sink.progress(&format!("{line}\r")).map_err(Error::Io)?;
        }
        Ok(())
    }

    /// What the phase came to, where steps alone do not tell.
    pub(crate) fn came_to(&mut self, count: u64) {
        self.done = count;
    }

    /// Ends the phase; its last line always goes out. An empty phase says nothing.
    pub(crate) fn finish(&mut self) -> Result<()> {
        if self.done > 0 {
            if self.total > 0 {
                self.done = self.total;
            }
            let line = self.line();
            self.sink.progress(&format!("{line}, done.\n")).map_err(Error::Io)?;
        }
        self.title = "";
        Ok(())
    }

    /// A line of its own.
    pub(crate) fn send_line(&mut self, line: &str) -> Result<()> {
        self.sink.progress(line).map_err(Error::Io)
    }

    fn line(&self) -> String {
        match self.done.saturating_mul(100).checked_div(self.total) {
            None => format!("{}: {}", self.title, self.done),
            Some(percent) => {
                format!("{}: {:3}% ({}/{})", self.title, percent.min(100), self.done, self.total)
            }
        }
    }

    pub(crate) fn pack(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink.pack(bytes).map_err(Error::Io)
    }

    /// Costly work follows: see [`Sink::turn`].
    pub(crate) fn turn(&mut self, memory: u64) -> Result<()> {
        self.sink.turn(memory).map_err(Error::Io)
    }

    /// Nothing but copying follows: see [`Sink::copies`].
    pub(crate) fn copies(&mut self) -> Result<()> {
        self.sink.copies().map_err(Error::Io)
    }

    pub(crate) fn splice(&mut self, file: std::os::fd::BorrowedFd<'_>, offset: u64, len: u64) -> Result<()> {
        self.sink.splice(file, offset, len).map_err(Error::Io)
    }
}

/// Copies part of a file to a sink through memory: what [`Sink::splice`] does by itself.
pub(crate) fn copy_range(
    sink: &mut (impl Sink + ?Sized),
    file: std::os::fd::BorrowedFd<'_>,
    mut offset: u64,
    mut len: u64,
) -> io::Result<()> {
    let mut buffer = vec![0; 1 << 17];
    while len > 0 {
        let want = usize::try_from(len).unwrap_or(usize::MAX).min(buffer.len());
        let at = i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let got = match nix::sys::uio::pread(file, &mut buffer[..want], at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        };
        sink.pack(&buffer[..got])?;
        offset = offset.saturating_add(got as u64);
        len -= got as u64;
    }
    Ok(())
}
