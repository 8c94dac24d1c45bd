//! The session's end of the link to the repository process: questions, and the answers that belong
//! to them.

use std::cell::Cell;

use libgit::ObjectId;
use libproto::channel::RecvError;
use libproto::message::repo::{
    BoundaryBatch, HaveStatus, Haves, ListAsk, PackAsk, RefBatch, RepoToSession, SessionToRepo,
};

use crate::os::watchdog::{self, Phase};
use crate::session::conversation::Repo;
use crate::session::packets::TalkError;

/// One end of the link.
pub(super) struct Link<'a> {
    repo: &'a Repo,
    /// The first list was asked for before there was a conversation.
    listing: Cell<bool>,
}

impl<'a> Link<'a> {
    pub(super) fn new(repo: &'a Repo, listing: bool) -> Link<'a> {
        Link { repo, listing: Cell::new(listing) }
    }

    fn send(&self, question: &SessionToRepo) -> Result<(), TalkError> {
        self.repo.send(0, question).map_err(|e| TalkError::Link(format!("repository: {e}")))
    }

    fn receive(&self) -> Result<RepoToSession, TalkError> {
        loop {
            match self.repo.recv() {
                Ok(received) => match received.message {
                    RepoToSession::Refused(refusal) => return Err(TalkError::Refused(refusal)),
                    answer => return Ok(answer),
                },
                Err(e) if e.is_transient() => {}
                Err(RecvError::Closed) => {
                    return Err(TalkError::Link("repository process ended before it answered".into()));
                }
                Err(e) => return Err(TalkError::Link(format!("repository: {e}"))),
            }
        }
    }

    fn ask(&self, question: &SessionToRepo) -> Result<RepoToSession, TalkError> {
        watchdog::phase(Phase::Work);
        self.send(question)?;
        self.receive()
    }

    /// Asks something whose answer is that it was done.
    pub(super) fn done(&self, question: &SessionToRepo) -> Result<(), TalkError> {
        match self.ask(question)? {
            RepoToSession::Done(()) => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Lists references, a batch at a time.
    pub(super) fn list(
        &self,
        ask: ListAsk,
        mut each: impl FnMut(RefBatch) -> Result<(), TalkError>,
    ) -> Result<(), TalkError> {
        let mut answer = if self.listing.take() {
            watchdog::phase(Phase::Work);
            self.receive()?
        } else {
            self.ask(&SessionToRepo::List(ask))?
        };
        loop {
            let RepoToSession::Refs(batch) = answer else { return Err(unexpected(&answer)) };
            let last = batch.last;
            each(batch)?;
            if last {
                return Ok(());
            }
            answer = self.receive()?;
        }
    }

    /// Settles the shallow boundary, and hears about it a batch at a time.
    pub(super) fn boundary(
        &self,
        relative: bool,
        mut each: impl FnMut(BoundaryBatch) -> Result<(), TalkError>,
    ) -> Result<(), TalkError> {
        let mut answer = self.ask(&SessionToRepo::Bound(relative))?;
        loop {
            let RepoToSession::Boundary(batch) = answer else { return Err(unexpected(&answer)) };
            let last = batch.last;
            each(batch)?;
            if last {
                return Ok(());
            }
            answer = self.receive()?;
        }
    }

    /// What the repository knows of each of these objects.
    pub(super) fn haves(&self, ids: &[ObjectId], judge: bool) -> Result<Vec<HaveStatus>, TalkError> {
        match self.ask(&SessionToRepo::Haves(Haves { ids: ids.to_vec(), judge }))? {
            RepoToSession::Haved(statuses) if statuses.len() == ids.len() => Ok(statuses),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Whether enough is common to build the pack.
    pub(super) fn ready(&self) -> Result<bool, TalkError> {
        match self.ask(&SessionToRepo::Judge(()))? {
            RepoToSession::Ready(ready) => Ok(ready),
            answer => Err(unexpected(&answer)),
        }
    }

    /// Lets the pack be written. How long that takes is the repository process's business and its
    /// watchdog's.
    pub(super) fn pack(&self, ask: PackAsk) -> Result<(), TalkError> {
        self.send(&SessionToRepo::Pack(ask))?;
        let answer = watchdog::during(Phase::Off, || self.receive());
        match answer {
            Ok(RepoToSession::Packed(_)) => Ok(()),
            Ok(answer) => Err(unexpected(&answer)),
            Err(TalkError::Refused(refusal)) => Err(TalkError::Pack(refusal)),
            Err(error) => Err(error),
        }
    }
}

fn unexpected(answer: &RepoToSession) -> TalkError {
    use libproto::channel::Message;
    TalkError::Link(format!("repository: unexpected {}", answer.name()))
}
