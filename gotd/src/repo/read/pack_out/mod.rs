//! The pack on its way to the client: side-band framing, progress, keepalives, and an end for a
//! client that takes too little.

mod packets;
#[cfg(test)]
mod tests;
mod turns;

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use libproto::names::escape;
use libproto::pktline::{self, Band, FLUSH};
use libproto::request::v0::SideBand;
use librepo::fetch::Sink;

use self::packets::read_at;
use super::queue::PackQueue;
use crate::os::watchdog;
use crate::session::pipes::Output;

/// How long a side band may be silent, as in C git.
const QUIET: Duration = Duration::from_secs(5);
/// Room for the length and the band in front of data.
const HEADER: usize = 5;
/// Bytes of a raw pack that are gathered for one write.
const RAW: usize = 64 * 1024;
/// From this many bytes of a file on, sendfile(2) copies them inside the kernel.
const DIRECT: u64 = 1 << 20;
/// Memory for a pack that is only copied, in bytes.
const COPIED: u64 = 4 << 20;

/// The state of this pack's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nothing costly was done yet.
    Unasked,
    /// A place is ours: we compute.
    Held,
    /// The client took nothing for a while, and others have the place. What was made still goes
    /// out; before more is made, another turn is waited for.
    Stalled,
    /// Nothing costly follows: no place is needed, and the parent knows how much memory is kept.
    Copies,
    /// The same, and the parent knows that the client takes nothing.
    CopyStalled,
    /// Nothing costly follows that the parent knows of.
    Over,
}

/// Writes a pack to the client.
///
/// Computed bytes go into a buffer, and a full buffer goes to the client. The two never happen at
/// the same time, because no other thread works while the pack is written. So the place can be
/// given back whenever the client does not take the buffer. Progress and keepalives are optional:
/// they go out only where there is room at once, because other threads may be at work then, and
/// need the place.
pub(super) struct PackOut<'a> {
    output: &'a mut Output,
    /// Most data in one packet; `None`: raw, and then there is no room for progress, keepalives and
    /// errors.
    band: Option<usize>,
    progress: bool,
    /// A packet under way: its header's place, and data, up to `filled`. As long as the longest
    /// packet.
    buffer: Vec<u8>,
    filled: usize,
    last_sent: Instant,
    /// Whether the kernel takes bytes from files by itself, once that was asked.
    direct: Option<bool>,
    /// A packet was begun and not completed: nothing that follows would be understood.
    cut: bool,
    /// The queue that gives turns; `None`: this process always has one.
    queue: Option<PackQueue<'a>>,
    turn: Turn,
    /// How long the client was waited for in this turn.
    waited: Duration,
    /// Bytes of memory that the pack takes.
    memory: u64,
}

impl<'a> PackOut<'a> {
    /// A pack that has not begun.
    pub(super) fn new(
        output: &'a mut Output,
        side_band: SideBand,
        progress: bool,
        queue: Option<PackQueue<'a>>,
    ) -> PackOut<'a> {
        let band = side_band.max();
        let buffer = vec![0; HEADER + band.unwrap_or(RAW)];
        output.never_wait();
        PackOut {
            output,
            band,
            progress,
            buffer,
            filled: HEADER,
            last_sent: Instant::now(),
            direct: None,
            cut: false,
            queue,
            turn: Turn::Unasked,
            waited: Duration::ZERO,
            memory: COPIED,
        }
    }

    /// The pack is complete.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.release();
        self.flush()?;
        match self.band {
            Some(_) => self.send_bytes(FLUSH),
            None => Ok(()),
        }
    }

    /// The pack cannot be completed. What was not sent of it is dropped, and the client is told why
    /// on side band 3, if no packet is cut short.
    pub(super) fn fail(mut self, text: &str) {
        self.release();
        let Some(max) = self.band.filter(|_| !self.cut) else { return };
        let mut packet = Vec::new();
        pktline::write_band(&mut packet, Band::Error, escape(text.as_bytes()).as_bytes(), max);
        let _ = self.send_bytes(&packet);
    }
}

impl Sink for PackOut<'_> {
    fn pack(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = self.room();
            let n = bytes.len().min(room.len());
            room[..n].copy_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            self.put(n)?;
        }
        Ok(())
    }

    fn progress(&mut self, text: &str) -> io::Result<()> {
        let Some(max) = self.band.filter(|_| self.progress) else { return Ok(()) };
        let mut packet = Vec::with_capacity(text.len() + HEADER);
        pktline::write_band(&mut packet, Band::Progress, text.as_bytes(), max);
        self.offer(&packet)
    }

    fn tick(&mut self) -> io::Result<()> {
        watchdog::worked();
        // Finding out what to send was to be quick, and is not.
        if self.turn == Turn::Unasked {
            self.take_turn()?;
        }
        if self.band.is_none() || self.last_sent.elapsed() < QUIET {
            return Ok(());
        }
        if self.filled > HEADER {
            return self.flush();
        }
        self.sign_of_life()
    }

    fn turn(&mut self, memory: u64) -> io::Result<()> {
        let more = memory > self.memory;
        self.memory = memory;
        match self.turn {
            Turn::Unasked => self.take_turn(),
            Turn::Held | Turn::Stalled if more => self.take_turn(),
            _ => Ok(()),
        }
    }

    fn copies(&mut self) -> io::Result<()> {
        match (&self.queue, self.turn) {
            (Some(queue), Turn::Held) => {
                self.memory = COPIED;
                queue.copies(COPIED);
                self.turn = Turn::Copies;
            }
            (_, Turn::Unasked) => {
                // The parent need not know of it at all.
                self.queue = None;
                self.turn = Turn::Over;
            }
            _ => self.turn = Turn::Over,
        }
        Ok(())
    }

    fn splice(&mut self, file: BorrowedFd<'_>, mut offset: u64, mut len: u64) -> io::Result<()> {
        let much = len >= DIRECT;
        if much && self.direct.is_none() {
            self.direct = Some(self.output.takes_files());
        }
        while len > 0 {
            let most = usize::try_from(len).unwrap_or(usize::MAX);
            let n = if much && self.direct == Some(true) {
                self.flush()?;
                self.send_packet(file, offset, most.min(self.band.unwrap_or(RAW)))?
            } else {
                // The file's bytes go straight into the packet under way.
                let room = self.room();
                let most = most.min(room.len());
                let n = read_at(file, &mut room[..most], offset)?;
                self.put(n)?;
                n
            };
            (offset, len) = (offset.saturating_add(n as u64), len.saturating_sub(n as u64));
            watchdog::worked();
        }
        Ok(())
    }
}
