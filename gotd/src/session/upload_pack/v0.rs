//! A fetch in v0 and v1 (`gitprotocol-pack`): advertisement, needs, haves, pack.

use libgit::{Filter, ObjectId};
use libproto::advertise::{self, FetchOffer};
use libproto::limits::Counted;
use libproto::message::repo::{BATCH_IDS, Begin, HaveStatus, PackAsk, SessionToRepo};
use libproto::pktline::{self, FLUSH, Packet};
use libproto::request::Counter;
use libproto::request::v0::{Capabilities, Common, MultiAck, Need};
use libproto::wire_error::WireError;

use super::{ADVERTISEMENT, Needs, Session};
use crate::session::packets::TalkError;

/// How far acknowledging is.
#[derive(Default)]
struct Acks {
    /// The last object that is common.
    last: Option<ObjectId>,
    /// The number of distinct common objects.
    count: u64,
    /// Since the last flush packet: a have was common, a have was not.
    got_common: bool,
    got_other: bool,
    /// `ready` was said.
    sent_ready: bool,
}

impl Session<'_> {
    /// Holds the whole conversation.
    pub(super) fn v0(&mut self, v1: bool) -> Result<(), TalkError> {
        if v1 {
            pktline::write(&mut self.wire.out, b"version 1\n")?;
        }
        self.advertise()?;
        let Some((needs, caps, filter)) = self.needs()? else { return Ok(()) };
        if needs.wants.count() == 0 {
            return Ok(());
        }
        self.negotiate(&caps)?;
        self.pack(PackAsk {
            thin: caps.thin_pack,
            ofs_delta: caps.ofs_delta,
            include_tag: caps.include_tag,
            filter,
            side_band: caps.side_band,
            progress: !caps.no_progress,
        })
    }

    fn advertise(&mut self) -> Result<(), TalkError> {
        let (hash, any, filter) = (self.hash, self.any, self.filter);
        let allow_reachable = self.reachable || any;
        let wire = &mut self.wire;
        let mut capabilities = None;
        let mut first = true;
        self.repo.list(ADVERTISEMENT, |batch| {
            if std::mem::take(&mut first) {
                // HEAD comes first, and so its target is known before the first line is written.
                let head = batch.refs.first().filter(|r| r.name.as_bytes() == b"HEAD" && r.id.is_some());
                let head = head.and_then(|r| r.target.as_ref());
                let offer = FetchOffer { hash, head, allow_tip: any, allow_reachable, filter };
                capabilities = Some(offer.capabilities());
            }
            for line in &batch.refs {
                let Some(id) = &line.id else { continue };
                advertise::v0_ref(&mut wire.out, id, line.name.as_bytes(), &mut capabilities)?;
                if let Some(peeled) = &line.peeled {
                    advertise::v0_peeled(&mut wire.out, peeled, line.name.as_bytes())?;
                }
            }
            if !batch.shallow.is_empty() || batch.last {
                advertise::v0_before_shallow(&mut wire.out, hash, &mut capabilities)?;
                advertise::v0_shallow(&mut wire.out, &batch.shallow)?;
            }
            wire.flush_if_large()
        })?;
        self.wire.out.extend_from_slice(FLUSH);
        self.wire.flush()
    }

    /// Reads wants and depth; `None` if the client wants nothing.
    fn needs(&mut self) -> Result<Option<(Needs, Capabilities, Option<Filter>)>, TalkError> {
        let mut needs = Needs::new(&self.limits);
        let mut caps = None;
        let mut filter = None;
        let mut begun = false;
        loop {
            match self.wire.advance() {
                Ok(true) => {}
                Ok(false) if !begun => return Ok(None),
                ended => {
                    // The client may have gone because it got its answer: its wants are judged
                    // first.
                    self.flush_wants(&mut needs)?;
                    ended?;
                    return Err(WireError::UnexpectedEof.into());
                }
            }
            let Some(packet) = self.wire.current() else { return Err(WireError::UnexpectedEof.into()) };
            let line = match packet {
                Packet::Flush if !begun => return self.nothing_wanted(),
                Packet::Flush => break,
                // In v0 the lengths 1 and 2 are no packets of their own.
                Packet::Delim | Packet::ResponseEnd => return Err(WireError::TooShort.into()),
                Packet::Data(_) => packet.line()?.unwrap_or_default(),
            };
            let need = Need::parse(line, caps.is_none(), self.hash)?;
            if !std::mem::replace(&mut begun, true) {
                self.repo.done(&SessionToRepo::Begin(Begin { v2: false }))?;
            }
            match need {
                Need::Want(id, chosen) => {
                    caps = caps.or(chosen);
                    self.want(&mut needs, id)?;
                }
                Need::Shallow(line) => self.shallow(&mut needs, line)?,
                Need::Filter(_) if filter.is_some() => return Err(WireError::Duplicate("filter").into()),
                Need::Filter(wanted) => {
                    if !self.filter || !caps.as_ref().is_some_and(|c| c.filter) {
                        return Err(WireError::Unknown("capability", "filter".into()).into());
                    }
                    filter = Some(wanted);
                }
            }
        }
        let caps = caps.unwrap_or_default();
        if let Some(agent) = &caps.agent {
            self.agent.clone_from(agent);
        }
        needs.relative = caps.deepen_relative;
        if needs.wants.count() > 0 {
            let tell = needs.deepens();
            self.resolve_boundary(&mut needs, tell)?;
            if tell {
                self.wire.out.extend_from_slice(FLUSH);
            }
        }
        Ok(Some((needs, caps, filter)))
    }

    /// A flush packet in place of wants is the end, and nothing may follow it.
    fn nothing_wanted<T>(&mut self) -> Result<Option<T>, TalkError> {
        self.wire.answered();
        match self.wire.packet() {
            Ok(None) => Ok(None),
            // A client that is gone takes no harm.
            Err(TalkError::Client(_)) => Ok(None),
            Ok(Some(_)) | Err(TalkError::Wire(_)) => Err(WireError::UnexpectedFlush.into()),
            Err(error) => Err(error),
        }
    }

    /// Reads haves and acknowledges them, until the client is done or enough is common.
    fn negotiate(&mut self, caps: &Capabilities) -> Result<(), TalkError> {
        let mut acks = Acks::default();
        let mut haves = Counter::new(Counted::Haves, self.limits.haves);
        let mut rounds = Counter::new(Counted::Rounds, self.limits.rounds);
        let mut batch = Vec::new();
        loop {
            let Some(packet) = self.wire.packet()? else { return Err(WireError::UnexpectedEof.into()) };
            let line = match packet {
                Packet::Flush => {
                    rounds.add()?;
                    self.acknowledge(caps, &mut acks, &mut batch)?;
                    if self.end_of_round(caps, &mut acks)? {
                        return Ok(());
                    }
                    continue;
                }
                Packet::Delim | Packet::ResponseEnd => return Err(WireError::TooShort.into()),
                Packet::Data(_) => packet.line()?.unwrap_or_default(),
            };
            match Common::parse(line, self.hash)? {
                Common::Have(id) => {
                    haves.add()?;
                    batch.push(id);
                    if batch.len() >= BATCH_IDS {
                        self.acknowledge(caps, &mut acks, &mut batch)?;
                    }
                }
                Common::Done => {
                    self.acknowledge(caps, &mut acks, &mut batch)?;
                    return self.end_of_haves(caps, &acks);
                }
            }
        }
    }

    fn acknowledge(
        &mut self,
        caps: &Capabilities,
        acks: &mut Acks,
        batch: &mut Vec<ObjectId>,
    ) -> Result<(), TalkError> {
        if batch.is_empty() {
            return Ok(());
        }
        let statuses = self.repo.haves(batch, caps.multi_ack != MultiAck::Off)?;
        for (id, status) in batch.drain(..).zip(statuses) {
            let word = match (status, caps.multi_ack) {
                (HaveStatus::Missing, _) => {
                    acks.got_other = true;
                    continue;
                }
                (HaveStatus::Ready, MultiAck::Off) => {
                    acks.got_other = true;
                    continue;
                }
                (HaveStatus::Ready, multi_ack) => {
                    acks.got_other = true;
                    acks.sent_ready |= multi_ack == MultiAck::Detailed;
                    if multi_ack == MultiAck::Detailed { " ready" } else { " continue" }
                }
                (HaveStatus::Common | HaveStatus::Known, multi_ack) => {
                    acks.got_common = true;
                    acks.last = Some(id);
                    acks.count += u64::from(status == HaveStatus::Common);
                    match multi_ack {
                        MultiAck::Detailed => " common",
                        MultiAck::On => " continue",
                        MultiAck::Off if acks.count == 1 && status == HaveStatus::Common => "",
                        MultiAck::Off => continue,
                    }
                }
            };
            pktline::write(&mut self.wire.out, format!("ACK {id}{word}\n").as_bytes())?;
        }
        self.wire.flush_if_large()
    }

    /// The client waits for an answer to its haves. `true`: the pack follows without a `done`.
    fn end_of_round(&mut self, caps: &Capabilities, acks: &mut Acks) -> Result<bool, TalkError> {
        let detailed = caps.multi_ack == MultiAck::Detailed;
        if let Some(last) = acks.last
            && detailed
            && acks.got_common
            && !acks.got_other
            && self.repo.ready()?
        {
            acks.sent_ready = true;
            pktline::write(&mut self.wire.out, format!("ACK {last} ready\n").as_bytes())?;
        }
        if acks.count == 0 || caps.multi_ack != MultiAck::Off {
            pktline::write(&mut self.wire.out, b"NAK\n")?;
        }
        (acks.got_common, acks.got_other) = (false, false);
        if let Some(last) = acks.last
            && caps.no_done
            && acks.sent_ready
        {
            pktline::write(&mut self.wire.out, format!("ACK {last}\n").as_bytes())?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The client is done: the last word before the pack.
    fn end_of_haves(&mut self, caps: &Capabilities, acks: &Acks) -> Result<(), TalkError> {
        match acks.last {
            None => pktline::write(&mut self.wire.out, b"NAK\n")?,
            Some(last) if caps.multi_ack != MultiAck::Off => {
                pktline::write(&mut self.wire.out, format!("ACK {last}\n").as_bytes())?;
            }
            Some(_) => {}
        }
        Ok(())
    }
}
