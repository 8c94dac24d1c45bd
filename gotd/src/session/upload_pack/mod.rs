//! A session's conversation with a client that fetches: `git-upload-pack` in v0, v1 and v2.
//!
//! The client's lines become typed, bounded batches for the repository process; its answers become
//! lines again. Nothing is collected here but the acknowledgments of one v2 request, and those the
//! repository vouches for.
//!
//! **Invariant:** no byte of a pack passes through here.

mod link;
mod v0;
mod v2;

#[cfg(test)]
mod tests;

use libgit::{DeepenLine, ObjectId};
use libproto::limits::Counted;
use libproto::message::repo::{BATCH_IDS, BoundaryBatch, ListAsk, PackAsk, SessionToRepo};
use libproto::pktline;
use libproto::request::{Counter, RequestLimits, ShallowLine};
use libproto::wire_error::WireError;

use crate::session::conversation::{Conversation, Failure, Repo};
use link::Link;

use crate::session::packets::{TalkError, Wire};

/// What a conversation in v0 and v1 begins with.
const ADVERTISEMENT: ListAsk = ListAsk { prefixed: false, peel: true };

/// Asks for the references that v0 and v1 begin with, before it is known whether anything is
/// granted: the repository process looks at its link when the parent has told it to, and not
/// before. `false`: it is not there any more.
pub fn ask_ahead(repo: &Repo) -> bool {
    repo.try_send(0, &SessionToRepo::List(ADVERTISEMENT)).is_ok()
}

/// Holds the conversation to its end.
pub fn serve(talk: &mut Conversation, repo: &Repo) -> Result<(), Failure> {
    let mut session = Session {
        hash: talk.grant.hash,
        reachable: talk.grant.fetch.reachable,
        any: talk.grant.fetch.any,
        filter: talk.grant.fetch.filter,
        limits: talk.limits.request(),
        wire: Wire::new(&mut talk.input, &mut talk.output),
        repo: Link::new(repo, talk.listing),
        agent: &mut talk.agent,
    };
    let result = match talk.protocol {
        2 => session.v2(),
        version => session.v0(version == 1),
    };
    // What was answered before the error belongs before it.
    let flushed = session.wire.flush();
    result.and(flushed).map_err(TalkError::failure)
}

/// One conversation.
struct Session<'a> {
    hash: libgit::HashKind,
    /// Anything reachable may be wanted in v0 too.
    reachable: bool,
    /// Anything at all may be wanted.
    any: bool,
    /// Partial clones are served.
    filter: bool,
    limits: RequestLimits,
    wire: Wire<'a>,
    repo: Link<'a>,
    agent: &'a mut String,
}

impl Session<'_> {
    /// Hands wants on, a batch at a time.
    fn want(&mut self, needs: &mut Needs, id: ObjectId) -> Result<(), TalkError> {
        needs.wants.add()?;
        needs.want_batch.push(id);
        if needs.want_batch.len() >= BATCH_IDS {
            self.flush_wants(needs)?;
        }
        Ok(())
    }

    fn flush_wants(&mut self, needs: &mut Needs) -> Result<(), TalkError> {
        if needs.want_batch.is_empty() {
            return Ok(());
        }
        self.repo.done(&SessionToRepo::Wants(std::mem::take(&mut needs.want_batch)))
    }

    /// Hands on a line about shallow history.
    fn shallow(&mut self, needs: &mut Needs, line: ShallowLine) -> Result<(), TalkError> {
        match line {
            ShallowLine::Shallow(id) => {
                needs.shallows.add()?;
                needs.shallow_batch.push(id);
                if needs.shallow_batch.len() >= BATCH_IDS {
                    self.flush_shallows(needs)?;
                }
                Ok(())
            }
            ShallowLine::Deepen(line) => {
                match line {
                    DeepenLine::Depth(_) => needs.depth = true,
                    DeepenLine::Since(_) => needs.cut = true,
                    DeepenLine::Not(_) => {
                        needs.cut = true;
                        needs.nots.add()?;
                    }
                }
                self.repo.done(&SessionToRepo::Deepen(line))
            }
        }
    }

    fn flush_shallows(&mut self, needs: &mut Needs) -> Result<(), TalkError> {
        if needs.shallow_batch.is_empty() {
            return Ok(());
        }
        self.repo.done(&SessionToRepo::Shallows(std::mem::take(&mut needs.shallow_batch)))
    }

    /// Says that wants and depth are complete. With `tell`, writes the boundary's lines for the
    /// client, and returns whether there were any.
    fn resolve_boundary(&mut self, needs: &mut Needs, tell: bool) -> Result<bool, TalkError> {
        self.flush_wants(needs)?;
        self.flush_shallows(needs)?;
        if needs.depth && needs.cut {
            return Err(WireError::Conflict("deepen and deepen-since (or deepen-not)").into());
        }
        let wire = &mut self.wire;
        let mut told = false;
        self.repo.boundary(needs.relative, |batch: BoundaryBatch| {
            if tell {
                told |= !batch.shallow.is_empty() || !batch.unshallow.is_empty();
                for id in &batch.shallow {
                    pktline::write(&mut wire.out, format!("shallow {id}").as_bytes())?;
                }
                for id in &batch.unshallow {
                    pktline::write(&mut wire.out, format!("unshallow {id}").as_bytes())?;
                }
            }
            // The caller may take back the beginning of a section in which nothing was told.
            if told { wire.flush_if_large() } else { Ok(()) }
        })?;
        Ok(told)
    }

    /// Lets the repository process write the pack, and waits until it has.
    fn pack(&mut self, ask: PackAsk) -> Result<(), TalkError> {
        self.wire.flush()?;
        self.repo.pack(ask)?;
        self.wire.answered();
        Ok(())
    }
}

/// What one request wants, as far as it came: counters, and batches that are not handed on yet.
struct Needs {
    wants: Counter,
    shallows: Counter,
    nots: Counter,
    want_batch: Vec<ObjectId>,
    shallow_batch: Vec<ObjectId>,
    depth: bool,
    cut: bool,
    relative: bool,
}

impl Needs {
    fn new(limits: &RequestLimits) -> Needs {
        Needs {
            wants: Counter::new(Counted::Wants, limits.wants),
            shallows: Counter::new(Counted::Shallows, limits.shallows),
            nots: Counter::new(Counted::DeepenNots, limits.deepen_nots),
            want_batch: Vec::new(),
            shallow_batch: Vec::new(),
            depth: false,
            cut: false,
            relative: false,
        }
    }

    /// Whether the client is told where its history ends.
    fn deepens(&self) -> bool {
        self.depth || self.cut
    }
}
