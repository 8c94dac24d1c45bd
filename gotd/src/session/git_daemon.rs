//! A session over git://: the connection is the client's input and output at once, and its first
//! packet is the request.
//!
//! Duty: read that packet, refuse any service but fetching, and go on as every session does. Such a
//! client has proven nothing: it is anonymous, by `listen`'s word to the parent and not by ours.
//!
//! **Invariant:** no byte is read while a descriptor can still be sent or received.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libproto::command::Service;
use libproto::message::parent::{GitAsk, SessionReport, SessionStart, SessionToParent};
use libproto::pktline::{self, Decoder, Packet};
use libproto::refusal::Refusal;
use libproto::request::daemon::{DaemonRequest, REQUEST_MAX};
use libproto::wire_error::WireError;
use libsandbox::{Enforcement, ResourceLimits, Stage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};

use crate::os::error::SystemError;
use crate::os::watchdog::{self, Phase, Words};
use crate::session::conversation::{Parent, Pipes, WORK, memory, refused, report, send, words_for_log};
use crate::session::error::SessionError;
use crate::session::pipes::{self, Input, Output};
use crate::session::talk::talk;

/// Milliseconds that a client may take to hear why it was refused, before its connection is closed
/// for good.
const FAREWELL_MS: u16 = 1000;
/// Most bytes that are read and dropped meanwhile: unread bytes at the close of a connection would
/// take the answer with them.
const FAREWELL_BYTES: usize = 1 << 20;

/// Serves one connection.
pub fn serve(
    parent: &Parent,
    connection: OwnedFd,
    repo: OwnedFd,
    limits: SessionStart,
    enforcement: Enforcement,
) -> Result<(), SessionError> {
    let most = ResourceLimits { data: Some(memory(&limits)), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: None, limits: most, enforcement })?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("session", WORK);
    if !pipes::is_tcp(connection.as_fd()) {
        return Err(SessionError::NotTcp);
    }
    send(parent, &SessionToParent::Remote(()));
    watchdog::phase(Phase::FirstRequest);
    let for_client = Words::new(&limits, err_packet, Vec::new()).in_its_turn();
    watchdog::start(
        limits.clone(),
        vec![(parent.as_fd(), words_for_log(&limits)), (connection.as_fd(), for_client)],
    )
    .map_err(|e| SystemError::Io("watchdog", e))?;
    let duplicate = || connection.try_clone().map_err(|e| SystemError::Io("connection", e));
    let (mut input, mut output) = (Input::new(duplicate()?), Output::new(duplicate()?));
    let report = match request(&mut input) {
        Ok(None) => report(0, Some(Refusal::Silent)),
        Ok(Some((ask, protocol))) => {
            talk(parent, connection.as_fd(), (repo, None), limits, Pipes { input, output }, (ask, protocol))
        }
        Err(refusal) => SessionReport { received: input.received, ..refused(&mut output, refusal) },
    };
    let failed = report.status != 0;
    send(parent, &SessionToParent::Finished(report));
    watchdog::phase(Phase::Off);
    // `listen` has a copy: only this tells the client that there is no more.
    let _ = shutdown(connection.as_raw_fd(), Shutdown::Write);
    if failed {
        farewell(&connection);
    }
    Ok(())
}

/// A refusal as the client reads it.
fn err_packet(refusal: Refusal) -> Vec<u8> {
    let mut packet = Vec::new();
    pktline::write_err(&mut packet, &refusal.to_string());
    packet
}

/// Reads the first packet and turns it into types. `None`: the client has closed its end without a
/// word.
fn request(input: &mut Input) -> Result<Option<(GitAsk, u8)>, Refusal> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; REQUEST_MAX];
    loop {
        let need = decoder.need();
        if need > buffer.len() {
            return Err(Refusal::from(&WireError::TooLong));
        }
        let n = match input.read(&mut buffer[..need]) {
            Ok(0) if decoder.at_boundary() => return Ok(None),
            Ok(0) => return Err(Refusal::from(&WireError::UnexpectedEof)),
            Ok(n) => n,
            Err(e) => return Err(Refusal::Connection(e.to_string())),
        };
        match decoder.push(&buffer[..n]).map_err(|e| Refusal::from(&e))? {
            (_, None) => {}
            (_, Some(Packet::Data(payload))) => return decode(payload).map(Some),
            (_, Some(packet)) => return Err(Refusal::from(&packet.unexpected())),
        }
    }
}

/// Decodes the request of a fetch.
fn decode(payload: &[u8]) -> Result<(GitAsk, u8), Refusal> {
    let request = DaemonRequest::parse(payload).map_err(|e| Refusal::from(&e))?;
    if request.service != Service::UploadPack {
        return Err(Refusal::NotEnabled(request.repo));
    }
    let protocol = request.parameters.version_for(request.service) as u8;
    let (service, repository) = (request.service, request.repo);
    Ok((GitAsk { service, repository, protocol, told_address: String::new() }, protocol))
}

/// Lets the refusal reach the client: reads and drops what the client still sends, with a bound.
fn farewell(connection: &OwnedFd) {
    let end = std::time::Instant::now() + std::time::Duration::from_millis(FAREWELL_MS.into());
    let mut buffer = [0; 16 * 1024];
    let mut dropped = 0usize;
    while dropped < FAREWELL_BYTES {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let Ok(timeout @ 1..) = u16::try_from(left.as_millis()) else { return };
        let mut fds = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut fds, PollTimeout::from(timeout)), Ok(1..)) {
            return;
        }
        match recv(connection.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(n @ 1..) => dropped = dropped.saturating_add(n),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(bytes: &[u8]) -> Result<Option<(GitAsk, u8)>, Refusal> {
        let (r, w) = nix::unistd::pipe().expect("a pipe");
        let mut w = std::fs::File::from(w);
        w.write_all(bytes).expect("fits into a pipe");
        drop(w);
        request(&mut Input::new(r))
    }

    #[test]
    fn the_first_packet_is_the_request() {
        let (ask, protocol) =
            read(b"002dgit-upload-pack /x.git\0host=h\0\0version=2\0").expect("good").expect("there");
        assert_eq!((ask.repository.as_bytes(), protocol), (&b"x.git"[..], 2));
        assert_eq!(ask.told_address, "");
        assert_eq!(read(b""), Ok(None));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bad in [
            &b"0000"[..],
            b"0001",
            b"0004",
            b"00",
            b"zzzz",
            b"GET / HTTP/1.0\r\n\r\n",
            b"0020git-upload-pack /x",
            b"001agit-receive-pack /x\0ho",
            b"fff0git-upload-pack /x",
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        let told = "service not enabled: /x: git:// is for fetching only";
        assert_eq!(read(b"0018git-receive-pack /x\0").expect_err("a push").to_string(), told);
    }
}
