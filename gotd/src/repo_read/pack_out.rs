//! The pack on its way to the client: side-band framing, progress, keepalives, and an end for a client that takes
//! too little.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use libproto::names::escape;
use libproto::pktline::{self, Band, FLUSH, KEEPALIVE};
use libproto::request::v0::SideBand;
use librepo::fetch::Sink;

use crate::client::Output;
use crate::watchdog::{self, Phase};

/// How long a side band may be silent, as in C git.
const QUIET: Duration = Duration::from_secs(5);
/// Room for the length and the band in front of data.
const HEADER: usize = 5;
/// Bytes of a raw pack that are gathered for one write.
const RAW: usize = 64 * 1024;
/// From this many bytes of a file on the kernel is asked to take them by itself.
const DIRECT: u64 = 1 << 20;

/// Writes a pack to the client.
pub(super) struct PackOut<'a> {
    output: &'a mut Output,
    /// Most data in one packet; `None`: raw, and then there is no room for progress, keepalives and errors.
    band: Option<usize>,
    progress: bool,
    /// A packet under way: its header's place, and data, up to `filled`. As long as the longest packet.
    buffer: Vec<u8>,
    filled: usize,
    last_sent: Instant,
    pace: Pace,
    /// Whether the kernel takes bytes from files by itself, once that was asked.
    direct: Option<bool>,
    /// A packet was begun and not completed: nothing that follows would be understood.
    cut: bool,
}

impl<'a> PackOut<'a> {
    /// A pack that has not begun. `minimum_rate` is in bytes per second on average over `window` seconds.
    pub(super) fn new(
        output: &'a mut Output,
        side_band: SideBand,
        progress: bool,
        minimum_rate: u32,
        window: u32,
    ) -> PackOut<'a> {
        let band = side_band.max();
        let buffer = vec![0; HEADER + band.unwrap_or(RAW)];
        let pace = Pace::new(minimum_rate, window);
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
        }
    }

    /// The client's output, to be asked whether it is still there.
    pub(super) fn client(&self) -> BorrowedFd<'_> {
        self.output.fd()
    }

    /// A packet without data, where there is a side band.
    pub(super) fn sign_of_life(&mut self) -> io::Result<()> {
        if self.band.is_none() {
            return Ok(());
        }
        self.last_sent = Instant::now();
        send(self.output, &mut self.pace, KEEPALIVE)
    }

    /// Sends the packet under way, if it holds anything.
    fn flush(&mut self) -> io::Result<()> {
        let data = self.filled.saturating_sub(HEADER);
        if data == 0 {
            return Ok(());
        }
        let from = match self.band {
            Some(_) => {
                let header = pktline::band_header(Band::Data, data).map_err(io::Error::other)?;
                self.buffer[..HEADER].copy_from_slice(&header);
                0
            }
            None => HEADER,
        };
        let sent = send(self.output, &mut self.pace, &self.buffer[from..self.filled]);
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
            timed(&mut self.pace, || self.output.write_ahead(&header).map(|()| header.len()))?;
        }
        let mut done = 0;
        while done < len {
            let at = offset.saturating_add(done as u64);
            if self.direct == Some(true) {
                match timed(&mut self.pace, || self.output.send_file(file, at, len - done)) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => done += n,
                    Err(e) if e.kind() == io::ErrorKind::Unsupported => self.direct = Some(false),
                    Err(e) => return Err(e),
                }
            } else {
                let n = read_at(file, &mut self.buffer[HEADER..HEADER + len - done], at)?;
                send(self.output, &mut self.pace, &self.buffer[HEADER..HEADER + n])?;
                done += n;
            }
        }
        self.cut = false;
        self.last_sent = Instant::now();
        Ok(len)
    }

    fn message(&mut self, band: Band, text: &[u8]) -> io::Result<()> {
        let Some(max) = self.band else { return Ok(()) };
        let mut packet = Vec::with_capacity(text.len() + HEADER);
        pktline::write_band(&mut packet, band, text, max);
        self.last_sent = Instant::now();
        send(self.output, &mut self.pace, &packet)
    }

    /// The pack is complete.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        match self.band {
            Some(_) => send(self.output, &mut self.pace, FLUSH),
            None => Ok(()),
        }
    }

    /// The pack cannot be completed. What was not sent of it is dropped, and the client is told why on side band 3, if no packet
    /// is cut short.
    pub(super) fn fail(mut self, text: &str) {
        if self.cut {
            return;
        }
        let _ = self.message(Band::Error, escape(text.as_bytes()).as_bytes());
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
        if self.progress { self.message(Band::Progress, text.as_bytes()) } else { Ok(()) }
    }

    fn tick(&mut self) -> io::Result<()> {
        watchdog::worked();
        if self.band.is_none() || self.last_sent.elapsed() < QUIET {
            return Ok(());
        }
        if self.filled > HEADER {
            return self.flush();
        }
        self.sign_of_life()
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
            self.pace.worked();
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

fn send(output: &mut Output, pace: &mut Pace, bytes: &[u8]) -> io::Result<()> {
    timed(pace, || output.write_all(bytes).map(|()| bytes.len())).map(drop)
}

/// Does something that sends so many bytes, or waits for a client who does not take them.
fn timed(pace: &mut Pace, send: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
    let begun = Instant::now();
    let sent = watchdog::during(Phase::Transfer, send);
    pace.sent(sent.as_ref().map_or(0, |n| *n), begun.elapsed())?;
    sent
}

/// What the client took, against the time that we waited for it. Our own work does not count: the watchdog looks
/// into each single write, this adds them up.
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
        if slow { Err(io::Error::from(io::ErrorKind::TimedOut)) } else { Ok(()) }
    }

    fn worked(&self) {
        watchdog::worked();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::fd::AsFd;

    fn sent(side_band: SideBand, write: impl FnOnce(PackOut<'_>) + Send + 'static) -> Vec<u8> {
        let (r, w) = nix::unistd::pipe().unwrap();
        let writer = std::thread::spawn(move || {
            let mut output = Output::new(w);
            write(PackOut::new(&mut output, side_band, true, 0, 60));
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
            let mut out = PackOut::new(&mut output, SideBand::Large, true, 0, 60);
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
            let mut out = PackOut::new(&mut output, SideBand::None, false, 0, 60);
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
        let mut out = PackOut::new(&mut output, SideBand::Large, true, 0, 60);
        assert!(out.progress("x\r").is_err());
        out.fail("nobody hears this");
    }

    #[test]
    fn a_client_that_takes_too_little_is_too_slow() {
        let mut pace = Pace::new(100, 60);
        assert!(pace.sent(10, Duration::from_secs(59)).is_ok());
        assert!(pace.sent(10, Duration::from_secs(2)).is_err());
        assert!(pace.sent(100_000, Duration::from_secs(61)).is_ok());
    }
}
