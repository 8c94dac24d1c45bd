//! The pack on its way to the client: side-band framing, progress, keepalives, and an end for a
//! client that takes too little.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use libproto::names::escape;
use libproto::pktline::{self, Band, FLUSH, KEEPALIVE};
use libproto::refusal::Refusal;
use libproto::request::v0::SideBand;
use librepo::fetch::Sink;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::queue::{PackQueue, Word};
use crate::os::watchdog::{self, Phase};
use crate::session::pipes::Output;

/// How long a side band may be silent, as in C git.
const QUIET: Duration = Duration::from_secs(5);
/// How long one turn may wait for its client, all waits together, before others get its place.
const PATIENCE: Duration = Duration::from_millis(100);
/// Time between signs of life for a client that waits for its turn. So many, because a program
/// between it and us, such as ssh or another system, notices that it is gone only when it is given
/// something.
const TICK: Duration = Duration::from_secs(1);
/// Room for the length and the band in front of data.
const HEADER: usize = 5;
/// Bytes of a raw pack that are gathered for one write.
const RAW: usize = 64 * 1024;
/// From this many bytes of a file on, sendfile(2) copies them inside the kernel.
const DIRECT: u64 = 1 << 20;
/// Bytes that a pipe or connection with any room takes at once.
const SMALL: usize = 4096;
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
    pace: Pace,
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
    /// A pack that has not begun. `minimum_rate` is in bytes per second on average over `window`
    /// seconds.
    pub(super) fn new(
        output: &'a mut Output,
        side_band: SideBand,
        progress: bool,
        (minimum_rate, window): (u32, u32),
        queue: Option<PackQueue<'a>>,
    ) -> PackOut<'a> {
        let band = side_band.max();
        let buffer = vec![0; HEADER + band.unwrap_or(RAW)];
        let pace = Pace::new(minimum_rate, window);
        output.never_wait();
        PackOut {
            output,
            band,
            progress,
            buffer,
            filled: HEADER,
            last_sent: Instant::now(),
            pace,
            direct: None,
            cut: false,
            queue,
            turn: Turn::Unasked,
            waited: Duration::ZERO,
            memory: COPIED,
        }
    }

    // --- turns

    /// Waits for a turn. The client is told meanwhile that it waits and for what, and leaves the
    /// queue when it goes away.
    fn take_turn(&mut self) -> io::Result<()> {
        let Some(queue) = self.queue else {
            self.turn = Turn::Held;
            return Ok(());
        };
        queue.need(self.memory);
        // An error ends the pack, and then nothing costly follows.
        self.turn = Turn::Stalled;
        loop {
            let mut fds = [
                PollFd::new(queue.fd(), PollFlags::POLLIN),
                PollFd::new(self.output.fd(), PollFlags::empty()),
            ];
            match poll(&mut fds, PollTimeout::try_from(TICK).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let [word, client] = fds.map(|fd| fd.revents().is_some_and(|events| !events.is_empty()));
            if client {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            watchdog::worked();
            if !word {
                self.sign_of_life()?;
                continue;
            }
            match queue.recv() {
                Word::Begin => break,
                Word::Wait(text) => self.progress(&text)?,
                Word::Refused(refusal) => return Err(refusal.into()),
                Word::Nothing => {}
            }
        }
        (self.turn, self.waited) = (Turn::Held, Duration::ZERO);
        Ok(())
    }

    /// Gives the turn back: what follows is nothing that others have to wait for.
    pub(super) fn release(&mut self) {
        if let Some(queue) = self.queue.filter(|_| self.turn != Turn::Unasked) {
            queue.end();
        }
        self.turn = Turn::Over;
        self.queue = None;
    }

    /// Waits until the client takes more. After a while others get the place, however often it took
    /// a little meanwhile.
    fn await_client(&mut self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let waited = self.waited.saturating_add(begun.elapsed());
            let patience = if self.turn == Turn::Held && self.queue.is_some() {
                PATIENCE.saturating_sub(waited)
            } else {
                TICK
            };
            let mut fds = vec![PollFd::new(self.output.fd(), PollFlags::POLLOUT)];
            fds.extend(self.queue.as_ref().map(|queue| PollFd::new(queue.fd(), PollFlags::POLLIN)));
            match poll(&mut fds, PollTimeout::try_from(patience).unwrap_or(PollTimeout::ZERO)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            let ready =
                |at: usize| fds.get(at).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
            let (client, word) = (ready(0), ready(1));
            let waited = self.waited.saturating_add(begun.elapsed());
            if let Some(queue) = &self.queue {
                if !client && self.turn == Turn::Held && waited >= PATIENCE {
                    queue.stalled(self.memory);
                    self.turn = Turn::Stalled;
                }
                // A client that takes nothing may be ended when others wait for the memory; a client
                // that keeps taking a copied pack may not.
                if !client && self.turn == Turn::Copies && begun.elapsed() >= TICK {
                    queue.stalled(self.memory);
                    self.turn = Turn::CopyStalled;
                } else if client && self.turn == Turn::CopyStalled {
                    queue.copies(self.memory);
                    self.turn = Turn::Copies;
                }
                if word && let Word::Refused(refusal) = queue.recv() {
                    return Err(refusal.into());
                }
            }
            if client {
                self.waited = waited;
                return Ok(());
            }
        }
    }

    // --- bytes

    /// Sends something by one try after the other, and waits for the client between them. `send` is
    /// given how many of the `len` bytes have been sent, and sends more.
    fn send(
        &mut self,
        len: usize,
        mut send: impl FnMut(&mut Output, usize) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (begun, mut done) = (Instant::now(), 0);
        let sent = watchdog::during(Phase::Transfer, || {
            while done < len {
                match send(self.output, done) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => done = done.saturating_add(n),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.await_client()?,
                    Err(e) => return Err(e),
                }
            }
            Ok(())
        });
        self.cut |= sent.is_err() && done > 0;
        self.pace.sent(done, begun.elapsed())?;
        sent
    }

    /// Sends bytes, and has a turn again if others had the place meanwhile.
    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes.len(), |output, done| output.write_now(bytes.get(done..).unwrap_or_default()))?;
        if self.turn == Turn::Stalled { self.take_turn() } else { Ok(()) }
    }

    /// Sends a small, optional packet if there is room for it now.
    fn offer(&mut self, packet: &[u8]) -> io::Result<()> {
        let mut fds = [PollFd::new(self.output.fd(), PollFlags::POLLOUT)];
        let room = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|n| n > 0);
        if !room || packet.len() > SMALL {
            return Ok(());
        }
        self.last_sent = Instant::now();
        match self.output.write_now(packet) {
            Ok(n) if n == packet.len() => Ok(()),
            // A connection may take only a part of the packet.
            Ok(n) => self.send_bytes(packet.get(n..).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// A packet without data, where there is a side band.
    fn sign_of_life(&mut self) -> io::Result<()> {
        if self.band.is_some() { self.offer(KEEPALIVE) } else { Ok(()) }
    }

    /// Sends the packet under way, if it holds anything.
    fn flush(&mut self) -> io::Result<()> {
        let data = self.filled.saturating_sub(HEADER);
        if data == 0 {
            return Ok(());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let from = match self.band {
            Some(_) => {
                let header = pktline::band_header(Band::Data, data).map_err(io::Error::other)?;
                buffer[..HEADER].copy_from_slice(&header);
                0
            }
            None => HEADER,
        };
        let sent = self.send_bytes(&buffer[from..self.filled]);
        self.buffer = buffer;
        self.filled = HEADER;
        self.last_sent = Instant::now();
        sent
    }

    /// Where the next data of the packet under way go.
    fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes of data were put into the room.
    fn put(&mut self, n: usize) -> io::Result<()> {
        self.filled += n;
        if self.room().is_empty() { self.flush() } else { Ok(()) }
    }

    /// Sends a packet whose `len` bytes of data the kernel takes from the file.
    fn send_packet(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
        self.cut = true;
        if self.band.is_some() {
            let header = pktline::band_header(Band::Data, len).map_err(io::Error::other)?;
            self.send(header.len(), |output, done| {
                output.write_ahead_now(header.get(done..).unwrap_or_default())
            })?;
        }
        let mut done = 0;
        if self.direct == Some(true) {
            let sent = self.send(len, |output, sent| {
                let n = output.send_file_now(file, offset.saturating_add(sent as u64), len - sent)?;
                done = sent.saturating_add(n);
                Ok(n)
            });
            match sent {
                Err(e) if e.kind() == io::ErrorKind::Unsupported => self.direct = Some(false),
                sent => sent?,
            }
        }
        while done < len {
            let at = offset.saturating_add(done as u64);
            let mut buffer = std::mem::take(&mut self.buffer);
            let n = read_at(file, &mut buffer[HEADER..HEADER + len - done], at);
            let sent = n.and_then(|n| self.send_bytes(&buffer[HEADER..HEADER + n]).map(|()| n));
            self.buffer = buffer;
            done += sent?;
        }
        self.cut = false;
        self.last_sent = Instant::now();
        Ok(len)
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

/// Reads at least one byte of a file that must not end yet.
fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let offset = i64::try_from(offset).map_err(io::Error::other)?;
    loop {
        match nix::sys::uio::pread(file, buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => return Ok(n),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// The bytes that the client took, against the time that we waited for it. Our own work does not
/// count. The watchdog bounds each single write; this bounds their sum.
struct Pace {
    rate: u64,
    window: Duration,
    bytes: u64,
    waited: Duration,
}

impl Pace {
    fn new(rate: u32, window: u32) -> Pace {
        Pace {
            rate: rate.into(),
            window: Duration::from_secs(window.into()),
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    fn sent(&mut self, bytes: usize, waited: Duration) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return Ok(());
        }
        let least = self.waited.as_secs().saturating_mul(self.rate);
        let slow = self.bytes < least;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        if slow { Err(Refusal::TooSlow.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use libproto::limits::Limit;

    use super::*;
    use libproto::channel::Channel;
    use libproto::message::parent::{ParentToRepo, RepoToParent};
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    fn sent(side_band: SideBand, write: impl FnOnce(PackOut<'_>) + Send + 'static) -> Vec<u8> {
        let (r, w) = nix::unistd::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            let mut output = Output::new(w);
            write(PackOut::new(&mut output, side_band, true, (0, 60), None));
        });
        let mut all = Vec::new();
        std::fs::File::from(r).read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        all
    }

    #[test]
    fn data_is_cut_into_packets() {
        let all = sent(SideBand::Large, |mut out| {
            out.pack(&[7; 65510]).unwrap();
            out.pack(&[8; 10]).unwrap();
            out.progress("x\r").unwrap();
            out.finish().unwrap();
        });
        assert_eq!(&all[..6], b"fff0\x01\x07");
        assert_eq!(
            &all[65520..],
            b"0006\x02x\r000a\x01\x08\x08\x08\x08\x080000".as_slice().replace_first(b"0006", b"0007")
        );
        let small = sent(SideBand::Small, |mut out| {
            out.pack(&[7; 996]).unwrap();
            out.finish().unwrap();
        });
        assert_eq!((&small[..5], &small[1000..]), (&b"03e8\x01"[..], &b"0006\x01\x070000"[..]));
    }

    trait ReplaceFirst {
        fn replace_first(&self, from: &[u8], to: &[u8]) -> Vec<u8>;
    }
    impl ReplaceFirst for [u8] {
        fn replace_first(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
            let at = self.windows(from.len()).position(|w| w == from).unwrap();
            [&self[..at], to, &self[at + from.len()..]].concat()
        }
    }

    #[test]
    fn without_side_band_there_is_nothing_but_the_pack() {
        let all = sent(SideBand::None, |mut out| {
            out.progress("Counting\r").unwrap();
            out.pack(b"PACK").unwrap();
            out.tick().unwrap();
            out.finish().unwrap();
        });
        assert_eq!(all, b"PACK");
        assert_eq!(sent(SideBand::None, |out| out.fail("broken")), b"");
    }

    #[test]
    fn a_failure_is_told_on_band_three_and_nothing_follows() {
        let all = sent(SideBand::Large, |mut out| {
            out.pack(b"PA").unwrap();
            out.fail("object x: missing\x1b");
        });
        assert_eq!(all, b"001a\x03object x: missing\\x1b");
    }

    fn file_of(content: &[u8]) -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file
    }

    /// The data of packets on band 1, up to a flush.
    fn data_of(mut packets: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some((length, rest)) = packets.split_at_checked(4) {
            let length = usize::from_str_radix(std::str::from_utf8(length).unwrap(), 16).unwrap();
            if length == 0 {
                assert!(rest.is_empty());
                return all;
            }
            assert_eq!(rest[0], 1);
            all.extend_from_slice(&rest[1..length - 4]);
            packets = &rest[length - 4..];
        }
        panic!("no flush");
    }

    #[test]
    fn parts_of_a_file_go_out_as_they_lie() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let expected = [b"first", &content[10..2_500_010], b"between", &content[3..4], b"last"].concat();
        for direct in [None, Some(false)] {
            for side_band in [SideBand::None, SideBand::Small, SideBand::Large] {
                let file = file_of(&content);
                let all = sent(side_band, move |mut out| {
                    out.direct = direct;
                    out.pack(b"first").unwrap();
                    out.splice(file.as_fd(), 10, 2_500_000).unwrap();
                    out.pack(b"between").unwrap();
                    out.splice(file.as_fd(), 3, 1).unwrap();
                    out.pack(b"last").unwrap();
                    assert_eq!(out.direct, direct.or(Some(true)));
                    out.finish().unwrap();
                });
                let data = if side_band == SideBand::None { all } else { data_of(&all) };
                assert!(data == expected, "{direct:?} {side_band:?}");
            }
        }
    }

    #[test]
    fn a_file_that_the_kernel_does_not_send_is_read() {
        // It can be read and not sent.
        let file = std::fs::File::open("/proc/self/auxv").unwrap();
        let content = std::fs::read("/proc/self/auxv").unwrap();
        let length = content.len();
        let all = sent(SideBand::Large, move |mut out| {
            out.direct = Some(true);
            assert_eq!(out.send_packet(file.as_fd(), 0, length).unwrap(), length);
            assert_eq!(out.direct, Some(false));
            out.splice(file.as_fd(), 0, length as u64).unwrap();
            out.finish().unwrap();
        });
        assert_eq!(data_of(&all), content.repeat(2));
    }

    #[test]
    fn a_file_that_ends_early_cuts_the_packet_and_nothing_follows() {
        let file = file_of(b"0123456789");
        let all = sent(SideBand::Large, move |mut out| {
            out.direct = Some(true);
            out.send_packet(file.as_fd(), 0, 5).unwrap();
            let e = out.send_packet(file.as_fd(), 5, 6).unwrap_err();
            assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
            out.fail("too short");
        });
        assert_eq!(all, b"000a\x0101234000b\x0156789");
    }

    #[test]
    fn a_connection_gets_what_a_pipe_gets() {
        let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let file = file_of(&content);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = listener.accept().unwrap().0;
        let writer = std::thread::spawn(move || {
            let mut output = Output::new(server.into());
            let mut out = PackOut::new(&mut output, SideBand::Large, true, (0, 60), None);
            out.splice(file.as_fd(), 0, 3_000_000).unwrap();
            assert_eq!(out.direct, Some(true));
            out.finish().unwrap();
        });
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        writer.join().unwrap();
        assert!(data_of(&all) == content);
    }

    #[test]
    fn a_client_that_switches_blocking_off_and_on_gets_the_same_pack() {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let (r, w) = nix::unistd::pipe().unwrap();
        // The client's own descriptor of the same open file description.
        let theirs = w.try_clone().unwrap();
        let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let stop = std::sync::Arc::clone(&done);
        let toggler = std::thread::spawn(move || {
            let mut flags = OFlag::O_NONBLOCK;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                fcntl(&theirs, FcntlArg::F_SETFL(flags)).unwrap();
                flags ^= OFlag::O_NONBLOCK;
            }
        });
        let content: Vec<u8> = (0..2_000_000_u32).map(|n| n as u8).collect();
        let expected = content.repeat(2);
        let writer = std::thread::spawn(move || {
            let file = file_of(&content);
            let mut output = Output::new(w);
            let mut out = PackOut::new(&mut output, SideBand::None, false, (0, 60), None);
            out.pack(&content).unwrap();
            out.splice(file.as_fd(), 0, 2_000_000).unwrap();
            out.finish().unwrap();
        });
        let mut all = vec![0; expected.len()];
        std::fs::File::from(r).read_exact(&mut all).unwrap();
        writer.join().unwrap();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        toggler.join().unwrap();
        assert!(all == expected);
    }

    #[test]
    fn a_client_that_is_gone_is_an_error_and_no_signal() {
        let (r, w) = nix::unistd::pipe().unwrap();
        drop(r);
        let mut output = Output::new(w);
        let mut out = PackOut::new(&mut output, SideBand::Large, true, (0, 60), None);
        assert!(out.progress("x\r").is_err());
        out.fail("nobody hears this");
    }

    type Parent = Channel<ParentToRepo, RepoToParent>;

    /// A thread that writes a pack: its parent, its client's end, and itself.
    fn writing(
        write: impl FnOnce(PackOut<'_>) + Send + 'static,
    ) -> (Parent, std::fs::File, std::thread::JoinHandle<()>) {
        let (theirs, ours) = crate::os::spawn::pair().unwrap();
        let ours = ours.into();
        let (r, w) = nix::unistd::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            let mut output = Output::new(w);
            let queue = PackQueue { parent: &ours };
            write(PackOut::new(&mut output, SideBand::Large, true, (0, 60), Some(queue)));
        });
        (theirs.into(), r.into(), writer)
    }

    /// Sends a pack of noise by turns of this parent, to a client who reads when his pack has been
    /// stalled; what he got, and how often that was.
    fn by_turns(
        write: impl FnOnce(PackOut<'_>) + Send + 'static,
        mut parent: impl FnMut(RepoToParent) -> Option<ParentToRepo>,
    ) -> (Vec<u8>, usize) {
        let (theirs, mut r, writer) = writing(write);
        let (mut all, mut stalls, mut copy) = (Vec::new(), 0, None);
        while let Ok(received) = theirs.recv() {
            match received.message {
                // Nothing more is said until all of it was taken.
                RepoToParent::PackCopied(COPIED) if copy.is_none() => {
                    let mut r = r.try_clone().unwrap();
                    copy = Some(std::thread::spawn(move || {
                        let mut all = Vec::new();
                        r.read_to_end(&mut all).unwrap();
                        all
                    }));
                }
                RepoToParent::PackStalled(_) => {
                    stalls += 1;
                    let mut buffer = vec![0; 150_000];
                    let n = r.read(&mut buffer).unwrap();
                    all.extend_from_slice(&buffer[..n]);
                }
                _ => {}
            }
            let over = matches!(received.message, RepoToParent::PackDone(()));
            if let Some(answer) = parent(received.message) {
                theirs.send(0, &answer).unwrap();
            }
            if over {
                break;
            }
        }
        match copy {
            Some(copy) => all.extend(copy.join().unwrap()),
            None => drop(r.read_to_end(&mut all).unwrap()),
        }
        writer.join().unwrap();
        (all, stalls)
    }

    fn noise(len: u32) -> Vec<u8> {
        (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
    }

    #[test]
    fn a_client_that_takes_nothing_loses_its_place_and_gets_every_byte() {
        let mut asked = 0;
        let (all, stalls) = by_turns(
            |mut out| {
                out.turn(50 << 20).unwrap();
                for part in noise(2_000_000).chunks(10_000) {
                    out.pack(part).unwrap();
                }
                out.finish().unwrap();
            },
            |message| match message {
                RepoToParent::NeedPack(memory) => {
                    assert_eq!(memory, 50 << 20);
                    asked += 1;
                    Some(ParentToRepo::Pack(()))
                }
                RepoToParent::PackStalled(memory) => {
                    assert_eq!(memory, 50 << 20);
                    None
                }
                _ => None,
            },
        );
        assert!(data_of(&all) == noise(2_000_000));
        assert!(stalls > 3 && (asked == stalls || asked == stalls + 1), "{stalls} {asked}");
    }

    /// The place would be his for ever if only a whole tenth of a second without a byte counted.
    #[test]
    fn a_client_that_takes_a_little_at_a_time_loses_its_place_too() {
        let (theirs, mut r, writer) = writing(|mut out| {
            out.turn(1 << 20).unwrap();
            while out.pack(&[0; 60_000]).is_ok() {}
        });
        std::thread::spawn(move || {
            let mut page = [0; 4096];
            for _ in 0..1000 {
                r.read_exact(&mut page).unwrap();
                std::thread::sleep(Duration::from_millis(25));
            }
        });
        assert!(matches!(theirs.recv().unwrap().message, RepoToParent::NeedPack(_)));
        theirs.send(0, &ParentToRepo::Pack(())).unwrap();
        let begun = Instant::now();
        assert!(matches!(theirs.recv().unwrap().message, RepoToParent::PackStalled(_)));
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        // Without a place it ends like one that is refused.
        theirs.send(0, &ParentToRepo::NoPack(Refusal::Said("over".into()))).unwrap();
        writer.join().unwrap();
    }

    #[test]
    fn a_copy_keeps_no_place_and_little_memory() {
        let mut said = Vec::new();
        let (all, _) = by_turns(
            |mut out| {
                let file = file_of(&noise(3_000_000));
                out.turn(50 << 20).unwrap();
                out.copies().unwrap();
                out.splice(file.as_fd(), 0, 3_000_000).unwrap();
                out.finish().unwrap();
            },
            |message| {
                said.push(format!("{message:?}"));
                matches!(message, RepoToParent::NeedPack(_)).then_some(ParentToRepo::Pack(()))
            },
        );
        assert!(data_of(&all) == noise(3_000_000));
        assert_eq!(said, ["NeedPack(52428800)", "PackCopied(4194304)", "PackDone(())"]);
    }

    /// Who takes a copied pack steadily is not said to stall, who takes nothing is, and who goes on
    /// no more.
    #[test]
    fn a_copy_that_is_not_taken_stalls_and_goes_on() {
        let (theirs, mut r, writer) = writing(|mut out| {
            out.turn(50 << 20).unwrap();
            out.copies().unwrap();
            out.splice(file_of(&noise(3_000_000)).as_fd(), 0, 3_000_000).unwrap();
            out.finish().unwrap();
        });
        let next = || theirs.recv().unwrap().message;
        assert!(matches!(next(), RepoToParent::NeedPack(_)));
        theirs.send(0, &ParentToRepo::Pack(())).unwrap();
        assert!(matches!(next(), RepoToParent::PackCopied(COPIED)));
        assert!(matches!(next(), RepoToParent::PackStalled(COPIED)));
        let mut all = vec![0; 300_000];
        r.read_exact(&mut all).unwrap();
        assert!(matches!(next(), RepoToParent::PackCopied(COPIED)));
        r.read_to_end(&mut all).unwrap();
        assert!(matches!(next(), RepoToParent::PackDone(())));
        writer.join().unwrap();
        assert!(data_of(&all) == noise(3_000_000));
    }

    #[test]
    fn who_is_refused_in_the_middle_is_told_if_no_packet_is_cut() {
        let (all, _) = by_turns(
            |mut out| {
                out.turn(1).unwrap();
                out.pack(&noise(100)).unwrap();
                let refused = out.turn(1 << 30).unwrap_err();
                let refusal = Refusal::carried_by(&refused).unwrap();
                out.fail(&refusal.to_string());
            },
            |message| match message {
                RepoToParent::NeedPack(1) => Some(ParentToRepo::Pack(())),
                RepoToParent::NeedPack(_) => {
                    Some(ParentToRepo::NoPack(Refusal::Limit(Limit::MemoryTotal, "no".into())))
                }
                _ => None,
            },
        );
        assert_eq!(String::from_utf8_lossy(&all), "001c\u{3}no (limit memory total)");
    }

    #[test]
    fn a_client_that_takes_too_little_is_too_slow() {
        let mut pace = Pace::new(100, 60);
        assert!(pace.sent(10, Duration::from_secs(59)).is_ok());
        assert!(pace.sent(10, Duration::from_secs(2)).is_err());
        assert!(pace.sent(100_000, Duration::from_secs(61)).is_ok());
    }
}
