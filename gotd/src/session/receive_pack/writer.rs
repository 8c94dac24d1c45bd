//! The session's end of the link to `repo_write`.

use std::os::fd::{AsFd, BorrowedFd};

use libproto::channel::{Message, RecvError};
use libproto::message::push::{SessionToWriter, WriterToSession};
use libproto::message::repo::RefBatch;
use libproto::refusal::Refusal;

use super::WriterLink;
use crate::os::watchdog::{self, Phase};
use crate::session::packets::TalkError;

/// How a batch was taken.
pub(super) enum Taken {
    /// Go on.
    Yes,
    /// The push cannot be taken at all.
    Refused(Refusal),
}

/// One end of the link.
#[derive(Clone, Copy)]
pub(super) struct Writer<'a> {
    link: &'a WriterLink,
}

impl AsFd for Writer<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(link: &'a WriterLink) -> Writer<'a> {
        Writer { link }
    }

    /// Sends a message without waiting for its answer.
    pub(super) fn send(&self, message: &SessionToWriter) -> Result<(), TalkError> {
        self.link.send(0, message).map_err(|e| TalkError::Link(format!("repository: {e}")))
    }

    /// Waits for the next message.
    fn receive(&self) -> Result<WriterToSession, TalkError> {
        loop {
            match self.link.recv() {
                Ok(received) => return Ok(received.message),
                Err(e) if e.is_transient() => {}
                Err(e) => return Err(broken(&e)),
            }
        }
    }

    /// The next message if there is one.
    pub(super) fn try_receive(&self) -> Result<Option<WriterToSession>, TalkError> {
        match self.link.try_recv() {
            Ok(received) => Ok(Some(received.message)),
            Err(e) if e.is_transient() => Ok(None),
            Err(e) => Err(broken(&e)),
        }
    }

    /// Takes the references, which come unasked, a batch at a time.
    pub(super) fn list(
        &self,
        mut each: impl FnMut(RefBatch) -> Result<(), TalkError>,
    ) -> Result<(), TalkError> {
        watchdog::phase(Phase::Work);
        loop {
            match self.receive()? {
                WriterToSession::Refs(batch) => {
                    let last = batch.last;
                    each(batch)?;
                    if last {
                        return Ok(());
                    }
                }
                WriterToSession::Refused(refusal) => {
                    return Err(TalkError::Refused(refusal.map_text(super::one_line::one_line)));
                }
                answer => return Err(unexpected(&answer)),
            }
        }
    }

    /// Hands on a batch of what the client said.
    pub(super) fn send_batch(&self, batch: &SessionToWriter) -> Result<Taken, TalkError> {
        watchdog::phase(Phase::Work);
        self.send(batch)?;
        match self.receive()? {
            WriterToSession::Taken(()) => Ok(Taken::Yes),
            WriterToSession::Refused(refusal) => Ok(Taken::Refused(refusal)),
            answer => Err(unexpected(&answer)),
        }
    }
}

fn broken(error: &RecvError) -> TalkError {
    TalkError::Link(match error {
        RecvError::Closed => "repository process ended before it answered".into(),
        error => format!("repository: {error}"),
    })
}

/// An answer that does not belong there.
pub(super) fn unexpected(answer: &WriterToSession) -> TalkError {
    TalkError::Link(format!("repository: unexpected {}", answer.name()))
}
