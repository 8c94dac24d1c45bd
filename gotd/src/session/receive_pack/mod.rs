//! A session's conversation with a client that pushes: `git-receive-pack` in v0 and v1
//! (`gitprotocol-pack`).
//!
//! The session advertises what `repo_write` lists, turns the client's commands into typed, bounded
//! batches, hands the client's input to `verify` where the pack begins, passes progress on, and
//! reports what `repo_write` decided.
//!
//! A push goes on when its client is gone: the session waits for `repo_write` all the same.
//!
//! **Invariant:** no byte of a pack is looked at here, and no reference is decided on: names that
//! no reference can have are the only refusals that come from here.

mod commands;
mod farewell;
mod indexing;
mod one_line;
mod report;
mod writer;

#[cfg(test)]
mod tests;

use libgit::HashKind;
use libproto::advertise::{self, PushOffer};
use libproto::channel::Channel;
use libproto::message::push::{SessionToVerify, SessionToWriter, VerifyToSession, WriterToSession};
use libproto::pktline::{self, Band, FLUSH};
use libproto::refusal::Refusal;

use crate::os::watchdog::{self, Phase};
use crate::session::conversation::{Conversation, Failure};
use crate::session::packets::{TalkError, Wire};
use commands::{PushRequest, Reader};
use indexing::Outcome;
use report::Report;
use writer::Writer;

/// The link to `repo_write`.
pub type WriterLink = Channel<SessionToWriter, WriterToSession>;
/// The link to `verify`.
pub type VerifyLink = Channel<SessionToVerify, VerifyToSession>;

/// Holds the conversation to its end.
///
/// References that were refused are no failure of the conversation, as with C git; the client's
/// report has them.
///
/// `begins` is called with the number of commands that `repo_write` was given, before it is told to
/// begin.
///
/// # Errors
/// What went wrong with the conversation itself, and what the client's standard error has to say
/// because its report cannot.
pub fn serve(
    talk: &mut Conversation,
    writer: &WriterLink,
    verify: &VerifyLink,
    begins: &dyn Fn(u32),
) -> Result<(), Failure> {
    let hash = talk.grant.hash;
    let writer = Writer::new(writer);
    let limits = talk.limits.request();
    let mut wire = Wire::exact(&mut talk.input, &mut talk.output);
    let advertised = advertise(&mut wire, &writer, hash, talk.protocol == 1);
    // What was written before the error belongs before it.
    let flushed = wire.flush();
    advertised.and(flushed).map_err(TalkError::failure)?;
    let mut reader = Reader::new(&mut wire, &writer, hash, &limits);
    let read = reader.read();
    let (request, side_band) = reader.finish();
    drop(wire);
    match read {
        Ok(()) => {}
        Err(error @ TalkError::Client(_)) => return Err(error.failure()),
        Err(error) => return Err(refuse(talk, side_band, error.failure().refusal)),
    }
    if let Some(agent) = &request.caps.agent {
        talk.agent.clone_from(agent);
    }
    if request.commands.is_empty() {
        return Ok(());
    }
    let outcome = indexing::run(talk, &request, &writer, verify, begins);
    watchdog::phase(Phase::Transfer);
    answer(talk, request, outcome)
}

/// Tells references, `.have` lines and capabilities.
fn advertise(wire: &mut Wire<'_>, writer: &Writer<'_>, hash: HashKind, v1: bool) -> Result<(), TalkError> {
    if v1 {
        pktline::write(&mut wire.out, b"version 1\n")?;
    }
    let mut capabilities = Some(PushOffer { hash, push_options: true }.capabilities());
    let mut shallow = Vec::new();
    writer.list(|batch| {
        // A push is told no `HEAD`, and nothing peeled.
        for line in batch.refs.iter().filter(|line| line.name.is_below_refs()) {
            let Some(id) = &line.id else { continue };
            advertise::v0_ref(&mut wire.out, id, line.name.as_bytes(), &mut capabilities)?;
        }
        // Behind all references, where clients look for them.
        shallow.extend(batch.shallow);
        wire.flush_if_large()
    })?;
    advertise::v0_before_shallow(&mut wire.out, hash, &mut capabilities)?;
    for ids in shallow.chunks(libproto::message::repo::BATCH_IDS) {
        advertise::v0_shallow(&mut wire.out, ids)?;
        wire.flush_if_large()?;
    }
    wire.out.extend_from_slice(FLUSH);
    wire.flush()
}

/// Tells a client why its request cannot be understood, and takes what it is still sending.
fn refuse(talk: &mut Conversation, side_band: bool, refusal: Refusal) -> Failure {
    let text = refusal.to_string();
    let mut packet = Vec::new();
    if side_band {
        // A client that demultiplexes takes an `ERR` packet for a band of that number.
        pktline::write_band(&mut packet, Band::Error, text.as_bytes(), pktline::BAND_MAX);
        packet.extend_from_slice(FLUSH);
    } else {
        pktline::write_err(&mut packet, &text);
    }
    let mut packet = Some(packet);
    // Whether the client still hears it changes nothing.
    let _ = farewell::write(
        &mut talk.input,
        &mut talk.output,
        &mut |out| {
            packet.take().is_some_and(|packet| {
                out.extend_from_slice(&packet);
                true
            })
        },
        true,
    );
    Failure::told(refusal)
}

/// Reports what became of the push.
fn answer(talk: &mut Conversation, request: PushRequest, outcome: Outcome) -> Result<(), Failure> {
    let drain = request.pack && !outcome.input_ended;
    let report = Report::new(request, outcome);
    let aside = report.aside();
    let mut lines = report.lines();
    let told = farewell::write(&mut talk.input, &mut talk.output, &mut |out| lines.more(out), drain);
    match (aside, told) {
        (Some(refusal), _) => Err(Failure::told(refusal)),
        (None, Err(error)) => Err(TalkError::Client(error).failure()),
        (None, Ok(())) => Ok(()),
    }
}
