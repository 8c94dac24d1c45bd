//! A fetch in v2 (`gitprotocol-v2`): any number of requests on one connection, each a command with
//! its arguments.

use libgit::{Filter, ObjectId, REF_NAME_MAX};
use libproto::advertise;
use libproto::limits::Counted;
use libproto::message::repo::{
    BATCH_BYTES, BATCH_IDS, Begin, HaveStatus, ListAsk, PackAsk, Prefixes, SessionToRepo,
};
use libproto::pktline::{self, DELIM, FLUSH, Packet};
use libproto::request::Counter;
use libproto::request::v0::SideBand;
use libproto::request::v2::{Fetch, Head, LsRefs, V2Command};
use libproto::wire_error::WireError;

use super::{Needs, Session};
use crate::session::packets::TalkError;

impl Session<'_> {
    /// Holds the whole conversation.
    pub(super) fn v2(&mut self) -> Result<(), TalkError> {
        advertise::v2_capabilities(&mut self.wire.out, self.hash, self.filter)?;
        let mut requests = Counter::new(Counted::Requests, self.limits.rounds);
        let mut haves = Counter::new(Counted::Haves, self.limits.haves);
        while let Some((command, arguments)) = self.head()? {
            requests.add()?;
            match command {
                V2Command::LsRefs => self.ls_refs(arguments)?,
                V2Command::Fetch => self.fetch(arguments, &mut haves)?,
            }
            self.wire.flush()?;
        }
        Ok(())
    }

    /// Reads a request up to its arguments. `None`: the client wants nothing more. The flag says
    /// whether a delimiter announced arguments.
    fn head(&mut self) -> Result<Option<(V2Command, bool)>, TalkError> {
        let mut head = Head::new(self.hash, self.limits.capability_lines);
        let arguments = loop {
            let Some(packet) = self.wire.packet()? else {
                return if head.is_empty() { Ok(None) } else { Err(WireError::UnexpectedEof.into()) };
            };
            match packet {
                Packet::Flush if head.is_empty() => return Ok(None),
                Packet::Flush => break false,
                Packet::Delim if head.is_empty() => return Err(WireError::UnexpectedDelim.into()),
                Packet::Delim => break true,
                Packet::ResponseEnd => return Err(WireError::UnexpectedResponseEnd.into()),
                Packet::Data(_) => head.line(packet.line()?.unwrap_or_default())?,
            }
        };
        if let Some(agent) = &head.agent {
            self.agent.clone_from(agent);
        }
        Ok(Some((head.finish()?, arguments)))
    }

    fn ls_refs(&mut self, arguments: bool) -> Result<(), TalkError> {
        let (mut peel, mut symrefs, mut unborn) = (false, false, false);
        let mut prefixes = PrefixList::new(self);
        loop {
            let packet = if arguments { self.wire.packet()? } else { Some(Packet::Flush) };
            let Some(line) = argument(packet)? else { break };
            match LsRefs::parse(line)? {
                LsRefs::Peel => peel = true,
                LsRefs::Symrefs => symrefs = true,
                LsRefs::Unborn => unborn = true,
                LsRefs::Prefix(prefix) => {
                    if prefixes.add(prefix) {
                        let batch = std::mem::take(&mut prefixes.batch);
                        self.repo.done(&SessionToRepo::Prefixes(Prefixes { prefixes: batch }))?;
                        prefixes.batch_bytes = 0;
                    }
                }
            }
        }
        let prefixed = prefixes.restricts();
        if prefixed && !prefixes.batch.is_empty() {
            let batch = std::mem::take(&mut prefixes.batch);
            self.repo.done(&SessionToRepo::Prefixes(Prefixes { prefixes: batch }))?;
        }
        let wire = &mut self.wire;
        self.repo.list(ListAsk { prefixed, peel }, |batch| {
            for line in &batch.refs {
                if line.id.is_none() && !(unborn && symrefs) {
                    continue;
                }
                let target = line.target.as_ref().filter(|_| symrefs);
                let peeled = line.peeled.as_ref().filter(|_| peel);
                advertise::v2_ref(&mut wire.out, line.id.as_ref(), &line.name, target, peeled)?;
            }
            wire.flush_if_large()
        })?;
        self.wire.out.extend_from_slice(FLUSH);
        Ok(())
    }

    fn fetch(&mut self, arguments: bool, haves: &mut Counter) -> Result<(), TalkError> {
        self.repo.done(&SessionToRepo::Begin(Begin { v2: true }))?;
        let mut needs = Needs::new(&self.limits);
        let mut asked = FetchArguments::default();
        loop {
            let packet = if arguments { self.wire.packet() } else { Ok(Some(Packet::Flush)) };
            let line = match packet {
                Ok(packet) => argument(packet)?,
                Err(error) => {
                    self.flush_wants(&mut needs)?;
                    return Err(error);
                }
            };
            let Some(line) = line else { break };
            match Fetch::parse(line, self.hash)? {
                Fetch::Want(id) => self.want(&mut needs, id)?,
                Fetch::Have(id) => {
                    haves.add()?;
                    asked.seen_haves = true;
                    asked.haves.push(id);
                    if asked.haves.len() >= BATCH_IDS {
                        // Wants go first, so that "enough in common" is judged by all wants so far.
                        self.flush_wants(&mut needs)?;
                        self.have(&mut asked)?;
                    }
                }
                Fetch::Shallow(line) => self.shallow(&mut needs, line)?,
                Fetch::DeepenRelative => needs.relative = true,
                Fetch::Filter(_) if !self.filter => {
                    return Err(WireError::UnexpectedLine("filter".into()).into());
                }
                Fetch::Filter(_) if asked.filter.is_some() => {
                    return Err(WireError::Duplicate("filter").into());
                }
                Fetch::Filter(filter) => asked.filter = Some(filter),
                Fetch::Done => asked.done = true,
                Fetch::ThinPack => asked.thin = true,
                Fetch::NoProgress => asked.no_progress = true,
                Fetch::IncludeTag => asked.include_tag = true,
                Fetch::OfsDelta => asked.ofs_delta = true,
                Fetch::WaitForDone => asked.wait_for_done = true,
            }
        }
        self.flush_wants(&mut needs)?;
        self.have(&mut asked)?;
        if needs.wants.count() == 0 && !asked.wait_for_done {
            // Nothing is wanted and nothing is answered, as C git does.
            return Ok(());
        }
        if asked.seen_haves && !asked.done && !self.acknowledgments(&asked)? {
            self.wire.out.extend_from_slice(FLUSH);
            return Ok(());
        }
        if needs.wants.count() == 0 {
            return Ok(());
        }
        self.shallow_info(&mut needs)?;
        pktline::write(&mut self.wire.out, b"packfile\n")?;
        self.pack(PackAsk {
            thin: asked.thin,
            ofs_delta: asked.ofs_delta,
            include_tag: asked.include_tag,
            filter: asked.filter,
            side_band: SideBand::Large,
            progress: !asked.no_progress,
        })
    }

    fn have(&mut self, asked: &mut FetchArguments) -> Result<(), TalkError> {
        if asked.haves.is_empty() {
            return Ok(());
        }
        let statuses = self.repo.haves(&asked.haves, false)?;
        // After a `done` the client is not told which commits are common.
        let known = asked.haves.drain(..).zip(statuses);
        asked.common.extend(known.filter(|(_, status)| *status == HaveStatus::Common).map(|(id, _)| id));
        Ok(())
    }

    /// Writes the section of acknowledgments. `false`: the client has to go on negotiating.
    fn acknowledgments(&mut self, asked: &FetchArguments) -> Result<bool, TalkError> {
        pktline::write(&mut self.wire.out, b"acknowledgments\n")?;
        if asked.common.is_empty() {
            pktline::write(&mut self.wire.out, b"NAK\n")?;
        }
        for id in &asked.common {
            pktline::write(&mut self.wire.out, format!("ACK {id}\n").as_bytes())?;
            self.wire.flush_if_large()?;
        }
        if asked.wait_for_done || !self.repo.ready()? {
            return Ok(false);
        }
        pktline::write(&mut self.wire.out, b"ready\n")?;
        self.wire.out.extend_from_slice(DELIM);
        Ok(true)
    }

    /// Settles the shallow boundary, and writes its section if there is anything about it to say:
    /// also when the repository itself is shallow and the client did not know.
    fn shallow_info(&mut self, needs: &mut Needs) -> Result<(), TalkError> {
        let before = self.wire.out.len();
        pktline::write(&mut self.wire.out, b"shallow-info\n")?;
        let told = self.resolve_boundary(needs, true)?;
        if told || needs.deepens() || needs.shallows.count() > 0 {
            self.wire.out.extend_from_slice(DELIM);
        } else {
            self.wire.out.truncate(before);
        }
        Ok(())
    }
}

/// What a fetch asked for beside wants and depth.
#[derive(Default)]
struct FetchArguments {
    haves: Vec<ObjectId>,
    common: Vec<ObjectId>,
    seen_haves: bool,
    done: bool,
    wait_for_done: bool,
    thin: bool,
    ofs_delta: bool,
    include_tag: bool,
    no_progress: bool,
    filter: Option<Filter>,
}

/// A packet among arguments: a line, or `None` for the flush packet that ends them.
fn argument(packet: Option<Packet<'_>>) -> Result<Option<&[u8]>, WireError> {
    match packet {
        None => Err(WireError::UnexpectedEof),
        Some(Packet::Flush) => Ok(None),
        Some(Packet::Data(_)) => packet.map_or(Ok(None), Packet::line),
        Some(packet) => Err(packet.unexpected()),
    }
}

/// The prefixes of one `ls-refs`, as far as they were not handed on yet.
struct PrefixList {
    count: u64,
    bytes: u64,
    batch: Vec<Vec<u8>>,
    batch_bytes: usize,
    /// There is an empty prefix, or there are too many: everything is listed.
    all: bool,
    most: u64,
    most_bytes: u64,
}

impl PrefixList {
    fn new(session: &Session<'_>) -> PrefixList {
        let (most, most_bytes) = (session.limits.prefixes, session.limits.prefix_bytes);
        PrefixList { count: 0, bytes: 0, batch: Vec::new(), batch_bytes: 0, all: false, most, most_bytes }
    }

    /// Takes a prefix; `true` if the batch is full.
    fn add(&mut self, prefix: &[u8]) -> bool {
        self.count = self.count.saturating_add(1);
        self.bytes = self.bytes.saturating_add(prefix.len() as u64);
        self.all |= prefix.is_empty() || self.count >= self.most || self.bytes > self.most_bytes;
        if self.all {
            self.batch = Vec::new();
            return false;
        }
        // No name is that long, so it restricts without matching.
        if prefix.len() <= REF_NAME_MAX {
            self.batch_bytes = self.batch_bytes.saturating_add(prefix.len() + 4);
            self.batch.push(prefix.to_vec());
        }
        self.batch_bytes >= BATCH_BYTES
    }

    fn restricts(&self) -> bool {
        self.count > 0 && !self.all
    }
}
