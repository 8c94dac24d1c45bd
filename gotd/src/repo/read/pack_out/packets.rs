//! Packets to the client: bytes that wait for it, and small ones that do not.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Instant;

use libproto::pktline::{self, Band, KEEPALIVE};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{HEADER, PackOut, Turn};
use crate::os::watchdog::{self, Phase};
use crate::session::pipes::Output;

/// Bytes that a pipe or connection with any room takes at once.
const SMALL: usize = 4096;

impl PackOut<'_> {
    /// Sends something by one try after the other, and waits for the client between them. `send` is
    /// given how many of the `len` bytes have been sent, and sends more.
    pub(super) fn send(
        &mut self,
        len: usize,
        mut send: impl FnMut(&mut Output, usize) -> io::Result<usize>,
    ) -> io::Result<()> {
        let mut done = 0;
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
        sent
    }

    /// Sends bytes, and has a turn again if others had the place meanwhile.
    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(bytes.len(), |output, done| output.write_now(bytes.get(done..).unwrap_or_default()))?;
        if self.turn == Turn::Stalled { self.take_turn() } else { Ok(()) }
    }

    /// Sends a small, optional packet if there is room for it now.
    pub(super) fn offer(&mut self, packet: &[u8]) -> io::Result<()> {
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
    pub(super) fn sign_of_life(&mut self) -> io::Result<()> {
        if self.band.is_some() { self.offer(KEEPALIVE) } else { Ok(()) }
    }

    /// Sends the packet under way, if it holds anything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
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
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes of data were put into the room.
    pub(super) fn put(&mut self, n: usize) -> io::Result<()> {
        self.filled += n;
        if self.room().is_empty() { self.flush() } else { Ok(()) }
    }

    /// Sends a packet whose `len` bytes of data the kernel takes from the file.
    pub(super) fn send_packet(&mut self, file: BorrowedFd<'_>, offset: u64, len: usize) -> io::Result<usize> {
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
}

/// Reads at least one byte of a file that must not end yet.
pub(super) fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
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
