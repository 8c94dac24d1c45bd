//! The link to `verify`: its task, and its reports.
//!
//! **Invariant:** its facts are taken by position, so that there are exactly as many as it was
//! asked for, or none.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use libgit::ObjectId;
use libproto::channel::{Channel, Received};
use libproto::limits::Limit;
use libproto::message::push::{
    BATCH_COMMANDS, CommandFacts, IndexedPack, RefCommand, VerifyTask, VerifyToWriter, WriterToVerify,
};
use libproto::message::repo::BATCH_IDS;
use libproto::message::rules::PushRules;
use libproto::refusal::Refusal;

use super::judge::Verdict;

/// Most bytes of its text about an error in a pack.
const REASON_MAX: usize = 1000;

/// The positions of the commands that `verify` is asked about: those that set a reference, and that
/// were not refused so far.
pub(super) fn questions(commands: &[RefCommand], verdicts: &[Verdict]) -> Vec<usize> {
    let asked = commands.iter().zip(verdicts).enumerate();
    asked
        .filter(|(_, (command, verdict))| verdict.is_ok() && !command.new.is_null())
        .map(|(at, _)| at)
        .collect()
}

/// The task for `verify`. `pack`: a pack is coming.
pub(super) fn task(rules: &PushRules, pack: bool, hidden: &[Vec<u8>]) -> VerifyTask {
    let limit = |limit: Limit| rules.limit(limit);
    VerifyTask {
        pack_bytes: limit(Limit::PackSize),
        objects: limit(Limit::PackObjects),
        object_bytes: limit(Limit::ObjectSize),
        delta_bytes: limit(Limit::DeltaResult),
        chain: u32::try_from(limit(Limit::DeltaDepth)).unwrap_or(u32::MAX),
        delta_ratio: limit(Limit::DeltaRatio),
        external_bases: limit(Limit::ThinBases),
        tree_depth: u32::try_from(limit(Limit::TreeDepth)).unwrap_or(u32::MAX),
        blob_bytes: limit(Limit::BlobSize),
        fsck: rules.fsck,
        tolerated: rules.tolerated.clone(),
        disk_reserve: limit(Limit::DiskReserve),
        pack,
        hidden: hidden.to_vec(),
    }
}

/// One end of the link.
pub(super) struct Verifier {
    link: Channel<WriterToVerify, VerifyToWriter>,
}

impl Verifier {
    pub(super) fn new(link: OwnedFd) -> Verifier {
        Verifier { link: link.into() }
    }

    /// Gives it the empty files and the client's input, of which not a byte is read here.
    pub(super) fn hand_over(&self, pack: &File, idx: &File, input: &OwnedFd) -> Result<(), Refusal> {
        let fds = [pack.as_fd(), idx.as_fd(), input.as_fd()];
        self.link.send_with_fds(0, &WriterToVerify::Files(()), &fds).map_err(|e| failed(&e.to_string()))
    }

    /// Tells it all that it has to know.
    pub(super) fn instruct(
        &self,
        task: VerifyTask,
        asked: &[(ObjectId, ObjectId)],
        shallows: &[ObjectId],
    ) -> Result<(), Refusal> {
        let send = || {
            self.link.send(0, &WriterToVerify::Task(task))?;
            for batch in asked.chunks(BATCH_COMMANDS) {
                self.link.send(0, &WriterToVerify::Commands(batch.to_vec()))?;
            }
            for batch in shallows.chunks(BATCH_IDS) {
                self.link.send(0, &WriterToVerify::Shallows(batch.to_vec()))?;
            }
            self.link.send(0, &WriterToVerify::Go(()))
        };
        send().map_err(|e: libproto::channel::SendError| failed(&e.to_string()))
    }

    /// Receives its reports: about the pack, and about each of the `asked` commands. Its error
    /// texts are for the client.
    pub(super) fn facts(&self, asked: usize) -> Result<(IndexedPack, Vec<CommandFacts>), Refusal> {
        let (mut indexed, mut facts) = (None, Vec::new());
        loop {
            match self.link.recv() {
                Ok(Received { message: VerifyToWriter::Indexed(pack), .. }) if indexed.is_none() => {
                    indexed = Some(pack);
                }
                Ok(Received { message: VerifyToWriter::Facts(batch), .. }) => {
                    facts.extend(batch);
                    if facts.len() > asked {
                        return Err(failed("too many facts"));
                    }
                }
                Ok(Received { message: VerifyToWriter::Done(()), .. }) if facts.len() < asked => {
                    return Err(failed("too few facts"));
                }
                Ok(Received { message: VerifyToWriter::Done(()), .. }) => {
                    return Ok((indexed.ok_or_else(|| failed("no pack"))?, facts));
                }
                Ok(Received { message: VerifyToWriter::Failed(refusal), .. }) => {
                    return Err(refusal.bounded(REASON_MAX));
                }
                Ok(Received { message: VerifyToWriter::Indexed(_), .. }) => return Err(failed("two packs")),
                Err(e) if e.is_transient() => {}
                Err(_) => return Err(Refusal::Internal("the pack could not be checked".into())),
            }
        }
    }
}

/// What is said of a push that it failed.
pub(super) fn failed(text: &str) -> Refusal {
    Refusal::Internal(format!("verify: {text}"))
}
