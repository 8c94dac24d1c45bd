//! The parts of a conversation with a client, and the ways it ends.

use std::io::Write;

use libproto::channel::{self, Channel};
use libproto::command::Service;
use libproto::message::parent::{Grant, ParentToSession, SessionReport, SessionStart, SessionToParent};
use libproto::message::repo::{RepoToSession, SessionToRepo};
use libproto::pktline;
use libproto::refusal::Refusal;
use libsandbox::{Calls, Promise, Promises};

use crate::os::to_parent;
use crate::os::watchdog::{self, Phase, Words};
use crate::session::pipes::{Input, Output};

/// The promises of a session at work.
pub const WORK: Promises = Promises::of(&[Promise::Stdio]).calls(Calls::Session);

/// The link to the parent.
pub(crate) type Parent = Channel<SessionToParent, ParentToSession>;

/// The link to the repository process.
pub type Repo = Channel<SessionToRepo, RepoToSession>;

/// How a conversation failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For the client, on its standard error.
    pub refusal: Refusal,
    /// The client has been told in Git's protocol already, or nothing can be told any more.
    pub told: bool,
}

impl Failure {
    /// A failure that the client still has to be told as an `ERR` packet.
    pub fn new(refusal: Refusal) -> Failure {
        Failure { refusal, told: false }
    }

    /// A failure that the client knows already, or cannot be told.
    pub fn told(refusal: Refusal) -> Failure {
        Failure { refusal, told: true }
    }
}

/// What a conversation works with.
#[derive(Debug)]
pub struct Conversation {
    /// The client's input; `received` counts.
    pub input: Input,
    /// The client's output; `sent` counts.
    pub output: Output,
    /// What was granted.
    pub grant: Grant,
    /// The service.
    pub service: Service,
    /// Version of Git's protocol: 0, 1 or 2.
    pub protocol: u8,
    /// The repository process was asked for the advertisement already.
    pub listing: bool,
    /// Limits of one request.
    pub limits: SessionStart,
    /// The client's agent once it is known, free of control bytes.
    pub agent: String,
}

/// Bytes of memory that a session may take, far above its needs for the largest request that
/// gotd.conf permits.
pub fn memory(start: &SessionStart) -> u64 {
    const BASE: u64 = 256 << 20;
    // Wants, shallow lines and prefixes are handed on in batches; of haves it keeps the common ones
    // until they are acknowledged, and of commands the names until the report.
    BASE.saturating_add(start.command_bytes.saturating_mul(4))
        .saturating_add(u64::from(start.commands).saturating_mul(256))
        .saturating_add(u64::from(start.haves).saturating_mul(128))
}

/// The client's two directions.
pub(crate) struct Pipes {
    pub(crate) input: Input,
    pub(crate) output: Output,
}

pub(crate) fn report(status: u8, refusal: Option<Refusal>) -> SessionReport {
    SessionReport { status, refusal, agent: String::new(), received: 0, sent: 0 }
}

/// It did not end well.
pub(crate) fn failed(refusal: Refusal) -> SessionReport {
    report(1, Some(refusal))
}

/// Tells the client in Git's own way; gotsh will repeat it on standard error.
pub(crate) fn refused(output: &mut Output, refusal: Refusal) -> SessionReport {
    let mut packet = Vec::new();
    pktline::write_err(&mut packet, &refusal.to_string());
    let _ = watchdog::during(Phase::Transfer, || output.write_all(&packet));
    SessionReport { sent: output.sent, ..failed(refusal) }
}

/// What the watchdog tells the parent.
pub(crate) fn words_for_log(limits: &SessionStart) -> Words {
    let said = |report| channel::encode(0, &SessionToParent::Finished(report)).unwrap_or_default();
    Words::new(limits, |refusal| said(failed(refusal)), said(report(0, None)))
}

/// A session without a parent has nothing left to do.
pub(crate) fn send(parent: &Parent, message: &SessionToParent) {
    to_parent::send(parent, 0, message);
}
