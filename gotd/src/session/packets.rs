//! The client's two pipes as packets. It reads exactly or ahead, and gathers output in a buffer
//! that is written before every read that could wait.

use std::io::{self, Read, Write};

use libproto::pktline::{Decoder, Packet};
use libproto::refusal::Refusal;
use libproto::wire_error::WireError;
use nix::poll::PollFlags;

use crate::os::watchdog::{self, Phase};
use crate::session::conversation::Failure;
use crate::session::pipes::{self, Input, Output};

/// How long a client has had nothing to say that is taken to be at leisure, in milliseconds.
const LEISURE_MS: u16 = 1000;
/// Bytes that are read at once.
const READ_AHEAD: usize = 16 * 1024;
/// Bytes of a long answer that may wait for the first write: the client is to begin early.
const WRITE_FIRST: usize = 4 * 1024;
/// Bytes of it that may wait for a further write.
const WRITE_LATE: usize = 48 * 1024;

/// Why a conversation ended early.
#[derive(Debug)]
pub enum TalkError {
    /// The client broke the protocol or a limit.
    Wire(WireError),
    /// The repository process said no.
    Refused(Refusal),
    /// The repository process failed after it was given the client's output.
    Pack(Refusal),
    /// The client's pipes failed.
    Client(io::Error),
    /// The link to the repository process failed, or it said what does not belong there.
    Link(String),
}

impl From<WireError> for TalkError {
    fn from(error: WireError) -> TalkError {
        TalkError::Wire(error)
    }
}

impl TalkError {
    /// What the session reports, and whether an `ERR` packet is still to be sent.
    pub fn failure(self) -> Failure {
        match self {
            TalkError::Wire(error) => Failure::new(Refusal::from(&error)),
            TalkError::Refused(refusal) => Failure::new(refusal),
            TalkError::Pack(refusal) => Failure::told(refusal),
            TalkError::Client(error) => Failure::told(Refusal::Connection(error.to_string())),
            TalkError::Link(text) => Failure::told(Refusal::Internal(text)),
        }
    }
}

/// Packets from and to one client.
pub struct Wire<'a> {
    input: &'a mut Input,
    output: &'a mut Output,
    decoder: Decoder,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// A pack may follow on the same pipe: read no byte beyond the packet.
    exact: bool,
    /// What the client is expected to do next, for the watchdog.
    waiting: Phase,
    /// Bytes that may gather before they are written.
    late: usize,
    /// Packets that are to be written.
    pub out: Vec<u8>,
}

impl<'a> Wire<'a> {
    /// The pipes of a client whose input no other process reads: reads ahead.
    pub fn new(input: &'a mut Input, output: &'a mut Output) -> Wire<'a> {
        let (decoder, buffer) = (Decoder::new(), vec![0; READ_AHEAD]);
        Wire {
            input,
            output,
            decoder,
            buffer,
            start: 0,
            end: 0,
            exact: false,
            waiting: Phase::Idle,
            late: WRITE_FIRST,
            out: Vec::new(),
        }
    }

    /// The pipes of a client whose input somebody else reads on from: reads exactly.
    pub fn exact(input: &'a mut Input, output: &'a mut Output) -> Wire<'a> {
        Wire { exact: true, ..Wire::new(input, output) }
    }

    /// A complete answer is out: the client may stay idle, and its going is no failure.
    pub fn answered(&mut self) {
        self.waiting = Phase::Done;
    }

    /// The next packet; `None` at the end of the input, if no packet has begun.
    ///
    /// # Errors
    /// The error in the packet, or [`WireError::UnexpectedEof`] in the middle of one.
    pub fn packet(&mut self) -> Result<Option<Packet<'_>>, TalkError> {
        Ok(if self.advance()? { self.decoder.packet() } else { None })
    }

    /// The packet that [`Wire::advance`] has read.
    pub fn current(&self) -> Option<Packet<'_>> {
        self.decoder.packet()
    }

    /// Reads the next packet; `false` at the end of the input.
    ///
    /// # Errors
    /// As [`Wire::packet`].
    pub fn advance(&mut self) -> Result<bool, TalkError> {
        loop {
            if self.start < self.end {
                let (taken, complete) = match self.decoder.push(&self.buffer[self.start..self.end]) {
                    Ok((taken, packet)) => (taken, packet.is_some()),
                    Err(error) => return Err(error.into()),
                };
                self.start += taken;
                if complete {
                    break;
                }
            }
            if !self.fill()? {
                return if self.decoder.at_boundary() {
                    Ok(false)
                } else {
                    Err(WireError::UnexpectedEof.into())
                };
            }
        }
        self.waiting = Phase::Idle;
        Ok(true)
    }

    /// Reads what is there; `false` at the end of the input.
    fn fill(&mut self) -> Result<bool, TalkError> {
        self.flush()?;
        self.late = WRITE_FIRST;
        // Between packets the client thinks: it runs a hook, or chooses what it wants. Within a
        // packet it sends.
        let phase = if self.decoder.at_boundary() { self.waiting } else { Phase::Transfer };
        if watchdog::current() != phase {
            watchdog::phase(phase);
        }
        if phase == Phase::Done {
            self.narrow();
        }
        let most = if self.exact { self.decoder.need().min(self.buffer.len()) } else { self.buffer.len() };
        let n = self.input.read(&mut self.buffer[..most]).map_err(TalkError::Client)?;
        (self.start, self.end) = (0, n);
        Ok(n > 0)
    }

    /// After a pack a client may stay connected for long: its pipe is made small again once the
    /// pack is read.
    fn narrow(&mut self) {
        while !pipes::ready_within(self.input.fd(), PollFlags::POLLIN, LEISURE_MS) {
            if self.output.narrow() {
                return;
            }
        }
    }

    /// Writes the gathered output.
    pub fn flush(&mut self) -> Result<(), TalkError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = watchdog::during(Phase::Transfer, || self.output.write_all(&self.out));
        self.out.clear();
        written.map_err(TalkError::Client)
    }

    /// Writes if much has gathered.
    pub fn flush_if_large(&mut self) -> Result<(), TalkError> {
        if self.out.len() < self.late {
            return Ok(());
        }
        self.late = WRITE_LATE;
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use libgit::ObjectId;
    use libgit::RefName;
    use libproto::limits::Counted;
    use libproto::refusal::Lender;

    use super::*;

    /// What a client and the log are told, byte by byte, and whether it is still to be told.
    #[test]
    fn the_texts_of_failures() {
        let id = ObjectId::from_hex(&[b'a'; 40]).unwrap();
        let name = RefName::parse(b"refs/heads/x").unwrap();
        let a = "a".repeat(40);
        let wire = |what, most| TalkError::Wire(WireError::Limit(what, most));
        for (error, text, told) in [
            (wire(Counted::Wants, 7), "too many wants: at most 7 (limit wants)".to_owned(), false),
            (wire(Counted::Haves, 7), "too many haves: at most 7 (limit haves)".into(), false),
            (wire(Counted::Shallows, 7), "too many shallow lines: at most 7 (limit shallows)".into(), false),
            (wire(Counted::Commands, 7), "too many commands: at most 7 (limit commands)".into(), false),
            (
                wire(Counted::CommandBytes, 7),
                "too many bytes of reference names and push options: at most 7 (limit command bytes)".into(),
                false,
            ),
            (wire(Counted::PushOptions, 7), "too many push options: at most 7".into(), false),
            (wire(Counted::Capabilities, 7), "too many capabilities: at most 7".into(), false),
            (TalkError::Wire(WireError::UnexpectedEof), "unexpected end of file".into(), false),
            (
                TalkError::Wire(WireError::Unknown("capability", "(limit packs total)".into())),
                "unknown capability '(limit packs total)'".into(),
                false,
            ),
            (TalkError::Refused(Refusal::NotFound(id)), format!("object {a} not found"), false),
            (TalkError::Refused(Refusal::Missing(id)), format!("object {a}: missing"), false),
            (
                TalkError::Refused(Refusal::Withheld(id, Lender::Denied)),
                format!("object {a}: missing: the repository borrows from a repository you may not read"),
                false,
            ),
            (
                TalkError::Refused(Refusal::Withheld(id, Lender::Absent)),
                format!("object {a}: missing: the repository borrows from a repository that is not there"),
                false,
            ),
            (
                TalkError::Refused(Refusal::NoSuchRef(name)),
                "deepen-not is not a ref: refs/heads/x".into(),
                false,
            ),
            (TalkError::Refused(Refusal::ClientGone), "connection closed by client".into(), false),
            (
                TalkError::Client(io::Error::from(io::ErrorKind::BrokenPipe)),
                "client's connection: broken pipe".into(),
                true,
            ),
            (
                TalkError::Link("repository: unexpected Done".into()),
                "repository: unexpected Done".into(),
                true,
            ),
        ] {
            let failure = error.failure();
            assert_eq!((failure.refusal.to_string(), failure.told), (text, told));
        }
    }
}
