//! The link to `commit_refs`: the changes that it makes for this push, and what became of them.
//!
//! **Invariant:** its results are taken by position, so that there are exactly as many as it was
//! asked for. What it has not said is not done.

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use libgit::ObjectId;
use libproto::channel::{Channel, Received, SendError};
use libproto::message::commit::{
    BATCH_UPDATE_BYTES, BATCH_UPDATES, CommitToWriter, Peeled, RefUpdate, WriterToCommit,
};
use libproto::message::push::RefCommand;
use libproto::refusal::Refusal;
use librepo::transaction::Peel;

use super::judge::{CommandList, Verdict};

/// One end of the link.
pub(super) struct Committer {
    link: Channel<WriterToCommit, CommitToWriter>,
}

impl Committer {
    pub(super) fn new(link: OwnedFd) -> Committer {
        Committer { link: link.into() }
    }

    /// Has all changes made that nothing is known against, and adds to the verdicts what could not
    /// be done.
    pub(super) fn commit(
        &self,
        asked: CommandList<'_>,
        peels: &HashMap<ObjectId, Peel>,
        verdicts: &mut [Verdict],
    ) {
        let open = asked.commands.iter().zip(verdicts.iter()).enumerate();
        let open = open.filter(|(_, (_, verdict))| verdict.is_ok());
        let (places, updates): (Vec<usize>, Vec<RefUpdate>) =
            open.map(|(at, (command, _))| (at, update(command, peels))).unzip();
        // If it is gone there is no answer either.
        let _ = self.send(updates, asked.atomic);
        let (mut results, mut failed) = (Vec::new(), None);
        while results.len() < places.len() {
            match self.link.recv() {
                Ok(Received { message: CommitToWriter::Results(batch), .. }) => results.extend(batch),
                Ok(Received { message: CommitToWriter::Failed(refusal), .. }) => {
                    failed = Some(refusal);
                    break;
                }
                Err(e) if e.is_transient() => {}
                Err(_) => break,
            }
        }
        let mut results = results.into_iter();
        for at in places {
            let refusal = match results.next() {
                Some(None) => continue,
                Some(Some(refusal)) => refusal,
                None => failed.clone().unwrap_or_else(unknown),
            };
            if let Some(verdict) = verdicts.get_mut(at) {
                *verdict = Err(refusal);
            }
        }
    }

    fn send(&self, updates: Vec<RefUpdate>, atomic: bool) -> Result<(), SendError> {
        let (mut batch, mut bytes) = (Vec::new(), 0usize);
        for update in updates {
            bytes = bytes.saturating_add(update.command.name.as_bytes().len());
            batch.push(update);
            if batch.len() >= BATCH_UPDATES || bytes >= BATCH_UPDATE_BYTES {
                self.link.send(0, &WriterToCommit::Updates(std::mem::take(&mut batch)))?;
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.link.send(0, &WriterToCommit::Updates(batch))?;
        }
        self.link.send(0, &WriterToCommit::Commit(atomic))
    }
}

fn update(command: &RefCommand, peels: &HashMap<ObjectId, Peel>) -> RefUpdate {
    let peeled = match peels.get(&command.new) {
        Some(Peel::To(id)) => Peeled::To(*id),
        Some(Peel::Nothing) => Peeled::Nothing,
        Some(Peel::Unknown) | None => Peeled::Unknown,
    };
    RefUpdate { command: command.clone(), peeled }
}

/// `commit_refs` ended: the reference may have its old value or its new one.
fn unknown() -> Refusal {
    Refusal::Internal("commit_refs: ended early".into())
}
