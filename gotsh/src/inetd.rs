//! `gotsh --inetd`: a git:// connection that inetd(8) or a service manager accepted and put on
//! standard input and output.
//!
//! The first packet is read here, strictly and within a time limit, and only a fetch goes on. For
//! gotd the client is the Unix user as which the service manager runs this program.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libproto::command::{Service, ServiceCommand, Version};
use libproto::pktline::{Decoder, Packet};
use libproto::request::daemon::{DaemonRequest, REQUEST_MAX};
use libproto::wire_error::WireError;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::CommandLine;
use crate::error::Error;

/// How long the whole first packet may take.
const FIRST_REQUEST: Duration = Duration::from_secs(30);

/// The address at the other end, for the log; nothing when there is none.
pub fn peer(connection: BorrowedFd<'_>) -> Vec<u8> {
    let peer = connection.try_clone_to_owned().and_then(|fd| std::net::TcpStream::from(fd).peer_addr());
    peer.map(|address| address.to_string().into_bytes()).unwrap_or_default()
}

/// Reads the request from a connection; the error is a text for the client.
pub fn wish<C: AsFd + Read>(connection: &mut C, from: Vec<u8>) -> Result<CommandLine, Error> {
    let request = DaemonRequest::parse(&first_packet(connection)?)?;
    if request.service != Service::UploadPack {
        return Err(Error::NotEnabled(request.repo));
    }
    let git_protocol = match request.parameters.version {
        Version::V0 => Vec::new(),
        version => format!("version={}", version as u8).into_bytes(),
    };
    Ok(CommandLine {
        command: ServiceCommand { service: request.service, repo: request.repo },
        user: None,
        git_protocol,
        from,
    })
}

/// The payload of the first packet, and no byte more.
fn first_packet<C: AsFd + Read>(connection: &mut C) -> Result<Vec<u8>, Error> {
    let (mut decoder, mut buffer) = (Decoder::new(), [0; REQUEST_MAX]);
    let end = Instant::now() + FIRST_REQUEST;
    loop {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()));
        let left = left.unwrap_or(PollTimeout::ZERO);
        match poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)], left) {
            Ok(0) => return Err(Error::NoRequest(FIRST_REQUEST.as_secs())),
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => continue,
            Err(e) => return Err(Error::System("poll", e)),
        }
        let need = buffer.get_mut(..decoder.need()).ok_or(WireError::TooLong)?;
        let n = match connection.read(need) {
            Ok(0) => return Err(WireError::UnexpectedEof.into()),
            Ok(n) => n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::Io("client's connection", e)),
        };
        match decoder.push(&buffer[..n])? {
            (_, None) => {}
            (_, Some(Packet::Data(payload))) => return Ok(payload.to_vec()),
            (_, Some(packet)) => return Err(packet.unexpected().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn wish_of(bytes: &[u8]) -> (Result<CommandLine, Error>, Vec<u8>) {
        let (mut ours, mut theirs) = UnixStream::pair().expect("a pair");
        ours.write_all(bytes).expect("fits");
        drop(ours);
        let wish = wish(&mut theirs, Vec::new());
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).expect("reads");
        (wish, rest)
    }

    #[test]
    fn the_request_is_read_and_not_a_byte_more() {
        let (wish, rest) = wish_of(b"002dgit-upload-pack /x.git\0host=h\0\0version=2\0more");
        let wish = wish.expect("good");
        assert_eq!((wish.command.repo.as_bytes(), wish.git_protocol), (&b"x.git"[..], b"version=2".to_vec()));
        assert_eq!(rest, b"more");
    }

    #[test]
    fn what_is_no_fetch_is_refused() {
        for bad in [
            &b""[..],
            b"0000",
            b"0018git-receive-pack /x\0",
            b"0019git-upload-archive /x\0",
            b"fff0git-upload-pack /x\0",
            b"GET / HTTP/1.1\r\n",
        ] {
            assert!(wish_of(bad).0.is_err(), "{bad:?}");
        }
    }
}
