//! What the log and the client are told of a push: first of each command to the log, then to the
//! session, in the client's order, and at last of the pack.

use libproto::message::parent::RefReport;
use libproto::message::push::{BATCH_COMMANDS, BATCH_NAME_BYTES, CommandResult, RefCommand, WriterToSession};
use libproto::refusal::Refusal;

use super::aliases::{Aliases, behind};
use super::judge::Verdict;

/// Most bytes of the reason in a client's report about one command.
const REASON_MAX: usize = 500;

/// A piece of the answer.
pub(super) enum Told {
    /// For the log.
    Log(RefReport),
    /// For the session.
    Session(WriterToSession),
}

/// Tells what became of each command. `aliases`: those among their names; `unpack`: why the pack was refused.
pub(super) fn answer(
    commands: &[RefCommand],
    verdicts: &[Verdict],
    aliases: &Aliases,
    unpack: Option<&Refusal>,
    tell: &mut dyn FnMut(Told),
) {
    let (mut batch, mut bytes) = (Vec::new(), 0usize);
    for (command, verdict) in commands.iter().zip(verdicts) {
        let refused = verdict.as_ref().err();
        let behind = if command.new.is_null() { None } else { behind(aliases, command).last() };
        tell(Told::Log(RefReport {
            name: command.name.as_bytes().to_vec(),
            target: behind.map_or_else(Vec::new, |name| name.as_bytes().to_vec()),
            old: command.old.to_string(),
            new: command.new.to_string(),
            refused: refused.cloned(),
        }));
        let refused = refused.cloned().map(|refusal| refusal.bounded(REASON_MAX));
        bytes = bytes.saturating_add(command.name.as_bytes().len());
        batch.push(CommandResult { name: command.name.clone(), refused });
        if batch.len() >= BATCH_COMMANDS / 4 || bytes >= BATCH_NAME_BYTES {
            tell(Told::Session(WriterToSession::Results(std::mem::take(&mut batch))));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        tell(Told::Session(WriterToSession::Results(batch)));
    }
    tell(Told::Session(WriterToSession::End(unpack.cloned())));
}
