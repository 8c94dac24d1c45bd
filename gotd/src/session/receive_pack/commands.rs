//! Reads the commands of a push: the client's lines up to the pack (`gitprotocol-pack`, "Reference
//! Update Request"), handed on to `repo_write` in batches as they come.

use libgit::{HashKind, ObjectId, RefName};
use libproto::limits::Counted;
use libproto::message::push::{BATCH_COMMANDS, BATCH_NAME_BYTES, RefCommand, SessionToWriter};
use libproto::message::repo::BATCH_IDS;
use libproto::names::escape;
use libproto::pktline::Packet;
use libproto::refusal::Refusal;
use libproto::request::push::{self, Capabilities, Line, PushCommand, Target};
use libproto::request::{Counter, RequestLimits};
use libproto::wire_error::WireError;

use super::writer::{Taken, Writer};
use crate::session::packets::{TalkError, Wire};

/// Most bytes of one push option, escaped, that go to the log.
const OPTION_LOG_MAX: usize = 1024;
/// Most bytes of all of them.
const OPTIONS_LOG_MAX: usize = 8 * 1024;

/// A command, as far as the report needs it.
#[derive(Debug)]
pub(super) struct ReportedCommand {
    /// The name as the report says it.
    pub name: Box<[u8]>,
    /// `repo_write` was not asked, because no reference can have this name.
    pub funny: bool,
}

/// A whole request.
#[derive(Debug, Default)]
pub(super) struct PushRequest {
    /// What the client chose.
    pub caps: Capabilities,
    /// All commands in the client's order.
    pub commands: Vec<ReportedCommand>,
    /// How many of them are [`ReportedCommand::funny`].
    pub funny: usize,
    /// A pack follows.
    pub pack: bool,
    /// The push options, for the log.
    pub options: Vec<String>,
    /// Why `repo_write` takes nothing of it.
    pub refused: Option<Refusal>,
    /// The link to `repo_write` failed.
    pub broken: Option<Refusal>,
}

impl PushRequest {
    /// Whether `repo_write` takes part no more.
    pub(super) fn is_over(&self) -> bool {
        self.refused.is_some() || self.broken.is_some()
    }
}

/// Reads one request.
pub(super) struct Reader<'w, 'a> {
    wire: &'w mut Wire<'a>,
    writer: &'w Writer<'w>,
    hash: HashKind,
    commands: Counter,
    shallows: Counter,
    options: Counter,
    /// Bytes of names, which are kept for the report, and of options, and how many there may be.
    bytes: (u64, u64),
    batch: Vec<RefCommand>,
    batch_bytes: usize,
    shallow_batch: Vec<ObjectId>,
    request: PushRequest,
    /// The client named its capabilities, and a side band is among them.
    side_band: bool,
}

impl<'w, 'a> Reader<'w, 'a> {
    pub(super) fn new(
        wire: &'w mut Wire<'a>,
        writer: &'w Writer<'w>,
        hash: HashKind,
        limits: &RequestLimits,
    ) -> Reader<'w, 'a> {
        Reader {
            wire,
            writer,
            hash,
            commands: Counter::new(Counted::Commands, limits.commands),
            shallows: Counter::new(Counted::Shallows, limits.shallows),
            options: Counter::new(Counted::PushOptions, limits.push_options),
            bytes: (0, limits.command_bytes),
            batch: Vec::new(),
            batch_bytes: 0,
            shallow_batch: Vec::new(),
            request: PushRequest::default(),
            side_band: false,
        }
    }

    /// What was read, and whether the client expects side bands, also after an error.
    pub(super) fn finish(self) -> (PushRequest, bool) {
        (self.request, self.side_band)
    }

    /// Reads up to the first byte of the pack, and not beyond.
    pub(super) fn read(&mut self) -> Result<(), TalkError> {
        let mut begun = false;
        while self.next_line(begun)? {
            begun = true;
        }
        self.hand_on_commands();
        self.hand_on_shallows();
        if self.request.caps.push_options && !self.request.commands.is_empty() {
            while self.next_option()? {}
        }
        Ok(())
    }

    /// Reads a command or a shallow line; `false` at their end.
    fn next_line(&mut self, begun: bool) -> Result<bool, TalkError> {
        if !self.wire.advance()? {
            // A client that only looked at the references may simply go.
            return if begun { Err(WireError::UnexpectedEof.into()) } else { Ok(false) };
        }
        let payload = match self.wire.current() {
            Some(Packet::Data(payload)) => payload,
            Some(Packet::Flush) | None => return Ok(false),
            // In v0 the lengths 1 and 2 are no packets of their own.
            Some(Packet::Delim | Packet::ResponseEnd) => return Err(WireError::TooShort.into()),
        };
        let first = self.request.commands.is_empty();
        if first {
            // Known even if the rest of the line cannot be understood: the refusal has to reach the
            // client.
            self.side_band = names_side_band(payload);
        }
        match Line::parse(payload, first, self.hash)? {
            Line::Shallow(id) => {
                self.shallows.add()?;
                self.shallow_batch.push(id);
                if self.shallow_batch.len() >= BATCH_IDS {
                    self.hand_on_shallows();
                }
            }
            Line::Command(command, caps) => {
                if let Some(caps) = caps {
                    self.request.caps = caps;
                }
                self.commands.add()?;
                self.command(command)?;
            }
        }
        Ok(true)
    }

    fn command(&mut self, command: PushCommand) -> Result<(), TalkError> {
        self.request.pack |= !command.new.is_null();
        let (name, funny) = match &command.target {
            Target::Ref(name) => (name.as_bytes(), false),
            Target::Bad(name) => (name.as_bytes(), true),
        };
        let length = name.len();
        self.request.commands.push(ReportedCommand { name: name.into(), funny });
        count_bytes(&mut self.bytes, length)?;
        match command.target {
            Target::Ref(name) => self.batch(command.old, command.new, name),
            Target::Bad(_) => self.request.funny += 1,
        }
        Ok(())
    }

    fn batch(&mut self, old: ObjectId, new: ObjectId, name: RefName) {
        self.batch_bytes += name.as_bytes().len();
        self.batch.push(RefCommand { old, new, name });
        if self.batch.len() >= BATCH_COMMANDS || self.batch_bytes >= BATCH_NAME_BYTES {
            self.hand_on_commands();
        }
    }

    fn hand_on_commands(&mut self) {
        self.batch_bytes = 0;
        if !self.batch.is_empty() {
            let batch = std::mem::take(&mut self.batch);
            self.send_batch(&SessionToWriter::Commands(batch));
        }
    }

    fn hand_on_shallows(&mut self) {
        if !self.shallow_batch.is_empty() {
            let batch = std::mem::take(&mut self.shallow_batch);
            self.send_batch(&SessionToWriter::Shallows(batch));
        }
    }

    /// Hands a batch on. After a refusal the rest is read all the same, because the report names
    /// every command.
    fn send_batch(&mut self, batch: &SessionToWriter) {
        if self.request.is_over() {
            return;
        }
        match self.writer.send_batch(batch) {
            Ok(Taken::Yes) => {}
            Ok(Taken::Refused(refusal)) => self.request.refused = Some(refusal),
            Err(error) => self.request.broken = Some(error.failure().refusal),
        }
    }

    /// Reads a push option; `false` at their end.
    fn next_option(&mut self) -> Result<bool, TalkError> {
        let packet = match self.wire.packet()? {
            Some(Packet::Flush) => return Ok(false),
            Some(Packet::Data(payload)) => payload,
            Some(Packet::Delim | Packet::ResponseEnd) => return Err(WireError::TooShort.into()),
            None => return Err(WireError::UnexpectedEof.into()),
        };
        let option = push::option(packet)?;
        count_bytes(&mut self.bytes, option.len())?;
        let mut option = escape(option);
        self.options.add()?;
        option.truncate(option.floor_char_boundary(OPTION_LOG_MAX));
        let logged: usize = self.request.options.iter().map(|o| o.len() + 8).sum();
        if logged + option.len() <= OPTIONS_LOG_MAX {
            self.request.options.push(option);
        }
        Ok(true)
    }
}

/// Counts bytes of names and options against their limit.
fn count_bytes((bytes, most): &mut (u64, u64), more: usize) -> Result<(), WireError> {
    *bytes = bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
    if bytes > most { Err(WireError::Limit(Counted::CommandBytes, *most)) } else { Ok(()) }
}

/// Whether the capabilities in a command line name `side-band-64k`.
fn names_side_band(payload: &[u8]) -> bool {
    let mut parts = payload.splitn(2, |&b| b == 0);
    let (_, list) = (parts.next(), parts.next());
    list.is_some_and(|list| list.split(|b| b.is_ascii_whitespace()).any(|word| word == b"side-band-64k"))
}
