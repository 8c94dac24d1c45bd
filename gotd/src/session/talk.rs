//! Asks the parent, and holds the conversation if it is granted: the fetch or the push.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libproto::channel::{self, Received, RecvError};
use libproto::command::Service;
use libproto::message::parent::{
    GitAsk, Grant, ParentToSession, SessionReport, SessionStart, SessionToParent,
};
use libproto::refusal::Refusal;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::system;
use crate::os::watchdog::{self, Phase};
use crate::session::conversation::{
    Conversation, Failure, Parent, Pipes, Repo, failed, refused, report, send,
};

/// Asks the parent, and holds the conversation if it is granted. A hang-up on `client` means that
/// the client left.
pub(crate) fn talk(
    parent: &Parent,
    client: BorrowedFd<'_>,
    links: (OwnedFd, Option<OwnedFd>),
    limits: SessionStart,
    Pipes { input, mut output }: Pipes,
    (ask, protocol): (GitAsk, u8),
) -> SessionReport {
    let service = ask.service;
    send(parent, &SessionToParent::Git(ask));
    let (repo, verify): (Repo, Option<OwnedFd>) = (links.0.into(), links.1);
    let listing =
        service == Service::UploadPack && protocol < 2 && crate::session::upload_pack::ask_ahead(&repo);
    // A user may have to wait for an end of its other sessions, and the parent has a limit for that.
    watchdog::phase(Phase::Off);
    let grant = match answer(parent, client) {
        Ok(grant) => grant,
        Err(refusal) => return refused(&mut output, refusal),
    };
    let silent = |silent| channel::encode(0, &SessionToParent::Silent(silent)).unwrap_or_default();
    watchdog::may_give_way(parent.as_fd(), silent);
    let agent = String::new();
    let mut talk = Conversation { input, output, grant, service, protocol, listing, limits, agent };
    let end = converse(&mut talk, repo, verify, parent);
    watchdog::phase(Phase::Off);
    let mut done = match end {
        Ok(()) => report(0, None),
        Err(Failure { refusal, told: true }) => failed(refusal),
        Err(Failure { refusal, told: false }) => refused(&mut talk.output, refusal),
    };
    done.agent = talk.agent;
    done.received = talk.input.received;
    done.sent = talk.output.sent;
    done
}

/// Waits for the parent's verdict, and notices a client that has gone meanwhile.
fn answer(parent: &Parent, client: BorrowedFd<'_>) -> Result<Grant, Refusal> {
    loop {
        let mut fds =
            [PollFd::new(parent.as_fd(), PollFlags::POLLIN), PollFd::new(client, PollFlags::empty())];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        if fds.get(1).and_then(PollFd::revents).is_some_and(|r| r.contains(PollFlags::POLLHUP)) {
            return Err(Refusal::ClientLeft);
        }
        match parent.recv() {
            Ok(Received { message: ParentToSession::Granted(grant), .. }) => return Ok(grant),
            Ok(Received { message: ParentToSession::Refused(refusal), .. }) => return Err(refusal),
            Ok(_) | Err(RecvError::Closed) => system::exit_now(1),
            Err(e) if e.is_transient() => {}
            Err(_) => system::exit_now(1),
        }
    }
}

/// The conversation itself.
fn converse(
    talk: &mut Conversation,
    repo: Repo,
    verify: Option<OwnedFd>,
    parent: &Parent,
) -> Result<(), Failure> {
    match (talk.service, verify) {
        (Service::UploadPack, _) => crate::session::upload_pack::serve(talk, &repo),
        (Service::ReceivePack, Some(verify)) => {
            let begins = |commands| send(parent, &SessionToParent::Begins(commands));
            crate::session::receive_pack::serve(talk, &OwnedFd::from(repo).into(), &verify.into(), &begins)
        }
        (Service::ReceivePack, None) => Err(Failure::new(Refusal::FetchOnly)),
    }
}
