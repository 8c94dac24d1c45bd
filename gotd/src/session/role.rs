//! `session`: speaks Git's wire protocol with one client.
//!
//! Duty: receive one connection and give its client the ends of two pipes (a git:// connection is
//! both itself), decode what the client wants, ask the parent, then hold the conversation with
//! client and repository process. Waits on: one connection from `listen`, then on the client. Talks
//! to: the parent, its repository process, its client.
//!
//! **Invariant:** never opens a repository, sees no file system, and can neither send nor receive a
//! descriptor once it reads what a client wrote. It parses everything a client sends except packs.

use std::os::fd::{AsFd, IntoRawFd, OwnedFd};

use libproto::channel::{self, Channel, Received, RecvError};
use libproto::command::{CommandError, Parameters, Service};
use libproto::frame::MAX_FRAME;
use libproto::message::client::{
    ClientToSession, Exit, GitRequest, HELLO_LEN, Hello, SessionToClient, ShellRequest, VERSION, exit_record,
    pipes_record,
};
use libproto::message::parent::{
    Build, ClientHello, GitAsk, ListenToSession, ParentToSession, Pool, SessionReport, SessionStart,
    SessionToParent, ShellAsk,
};
use libproto::names::{RepoName, escape};
use libproto::refusal::Refusal;
use libproto::self_service::ShellCommand;
use libsandbox::{Calls, Enforcement, Promise, Promises, ResourceLimits, Stage};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::os::error::SystemError;
use crate::os::spawn::ClientPipes;
use crate::os::system;
use crate::os::watchdog::{self, Phase, Words};
use crate::session::conversation::{
    Parent, Pipes, WORK, failed, memory, refused, report, send, words_for_log,
};
use crate::session::error::SessionError;
use crate::session::pipes::{self, Input, Output};
use crate::session::talk::talk;

/// Until the connection is here and the client has been sent its pipes. Not a byte of a client's is
/// read in this stage.
pub const SET_UP: Promises =
    Promises::of(&[Promise::Stdio, Promise::Sendfd, Promise::Recvfd, Promise::Narrow])
        .calls(Calls::SessionWaiting);

type Listen = Channel<ListenToSession, ListenToSession>;
type ClientSocket = Channel<SessionToClient, ClientToSession>;

/// What a session is given beside its links to `listen` and its repository process.
#[derive(Debug)]
pub enum Ends {
    /// For a client of the unix socket: the link to `verify`, and the client's pipes.
    Unix {
        /// The link to `verify`.
        verify: OwnedFd,
        /// Both ends of both pipes.
        pipes: ClientPipes,
    },
    /// For a client of git://: the connection is its only link.
    Git,
}

/// Runs the role.
pub fn run(
    parent: OwnedFd,
    listen: OwnedFd,
    repo: OwnedFd,
    ends: Ends,
    enforcement: Enforcement,
) -> Result<(), SessionError> {
    // No limit on descriptors: the kernel compares a sender's with all that its user has under way
    // in sockets.
    let limits = ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: SET_UP, paths: Some(&[]), limits, enforcement })?;
    let (parent, listen) = (Parent::from(parent), Listen::from(listen));
    send(&parent, &SessionToParent::Hello(Build { id: crate::BUILD.into() }));
    let start = match parent.recv() {
        Ok(Received { message: ParentToSession::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    system::bound_memory(memory(&start))?;
    let (client, verify, input, output) = match (connection(&parent, listen), ends) {
        ((pool @ (Pool::Unix | Pool::Control), connection), Ends::Unix { verify, pipes }) => {
            let client = ClientSocket::from(connection);
            // gotctl's answers come in messages.
            if pool == Pool::Unix {
                send_pipes(&parent, &client, pipes.theirs);
            }
            (client, verify, Input::new(pipes.input), Output::new(pipes.output))
        }
        ((Pool::Tcp, connection), Ends::Git) => {
            return crate::session::git_daemon::serve(&parent, connection, repo, start, enforcement);
        }
        _ => return Err(SessionError::OtherConnection),
    };
    // From here on no descriptor comes or goes, and only now anything is read from the client.
    let limits = ResourceLimits { data: Some(memory(&start)), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: None, limits, enforcement })?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("session", WORK);
    watchdog::phase(Phase::FirstRequest);
    let for_client = Words::new(&start, |refusal| last_word(&refusal.to_string(), 1), last_word("", 0));
    // The log's line first, as at every end.
    let told = vec![(parent.as_fd(), words_for_log(&start)), (client.as_fd(), for_client)];
    watchdog::start(start.clone(), told).map_err(|e| SystemError::Io("watchdog", e))?;
    let request = receive(&parent, &client);
    let report = match channel::decode::<ClientToSession>(&request, Vec::new()) {
        Ok(Received { message: ClientToSession::Git(request), .. }) => {
            git(&parent, &client, (repo, verify), start, request, Pipes { input, output })
        }
        Ok(Received { message: ClientToSession::Control(request), .. }) => {
            send(&parent, &SessionToParent::Control(request));
            pass_on(&parent, &client)
        }
        Ok(Received { message: ClientToSession::Shell(request), .. }) => shell(&parent, &client, &request),
        Err(e) => failed(Refusal::Malformed(format!("request: {e}"))),
    };
    finish(&parent, &client, report);
    Ok(())
}

/// Waits for the one connection of this process.
fn connection(parent: &Parent, listen: Listen) -> (Pool, OwnedFd) {
    loop {
        let mut fds =
            [PollFd::new(listen.as_fd(), PollFlags::POLLIN), PollFd::new(parent.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue;
        }
        let ready = |at: usize| fds.get(at).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        if ready(1) {
            // The parent has nothing to say now but that it is gone.
            system::exit_now(0);
        }
        if !ready(0) {
            continue;
        }
        match listen.recv_with_fds() {
            Ok(mut received) => match (received.message, received.fds.pop()) {
                (ListenToSession::Connection(pool), Some(fd)) => return (pool, fd),
                // More descriptors are in the queue of the link, and are closed with this process
                // as well.
                (ListenToSession::EndWith(()), Some(fd)) => {
                    let _ = fd.into_raw_fd();
                    wait_for_end(&listen);
                    system::exit_now(0)
                }
                (_, None) => system::exit_now(1),
            },
            Err(e) if e.is_transient() => {}
            Err(_) => system::exit_now(0),
        }
    }
}

/// Waits until `listen` has said all that it has to say, and let go of the link.
fn wait_for_end(listen: &Listen) {
    while let Ok(0) | Err(nix::errno::Errno::EINTR) =
        poll(&mut [PollFd::new(listen.as_fd(), PollFlags::empty())], PollTimeout::NONE)
    {}
}

/// Sends the client its ends of the pipes, and keeps none. If the client never receives them, they
/// stay in its queue until it closes the connection, and count as our user's: `listen` counts the
/// connection until then.
fn send_pipes(parent: &Parent, client: &ClientSocket, (to, from): (OwnedFd, OwnedFd)) {
    let sent = channel::send_record_with_fds(client.as_fd(), &pipes_record(), &[to.as_fd(), from.as_fd()]);
    if let Err(e) = sent {
        let refusal = match e.kind() {
            std::io::ErrorKind::BrokenPipe => Refusal::NoRequest,
            _ => Refusal::Internal(format!("pipes: {e}")),
        };
        finish(parent, client, failed(refusal));
        system::exit_now(1);
    }
}

/// Receives the greeting, forwards it, and receives the request without decoding it. Descriptors
/// that came along are dropped by the kernel.
fn receive(parent: &Parent, client: &ClientSocket) -> Vec<u8> {
    let mut buffer = [0; HELLO_LEN + 1];
    let n = receive_record(parent, client, &mut buffer);
    let Some(hello) = Hello::decode(&buffer[..n]) else {
        send(parent, &SessionToParent::Finished(failed(Refusal::Malformed("not a greeting".into()))));
        system::exit_now(1);
    };
    let user = hello.user().map(<[u8]>::to_vec);
    send(parent, &SessionToParent::Client(ClientHello { version: hello.version, kind: hello.kind, user }));
    if hello.version != VERSION {
        let refusal = Refusal::Version(hello.version, VERSION);
        let text = refusal.to_string();
        send(parent, &SessionToParent::Finished(failed(refusal)));
        let record = exit_record(hello.version, Exit { status: 1, text });
        let _ = channel::send_record(client.as_fd(), &record, false);
        system::exit_now(1);
    }
    let mut buffer = vec![0; MAX_FRAME + 1];
    let n = receive_record(parent, client, &mut buffer);
    buffer.truncate(n);
    buffer
}

fn receive_record(parent: &Parent, client: &ClientSocket, buffer: &mut [u8]) -> usize {
    loop {
        match channel::recv_record(client.as_fd(), buffer) {
            Ok(received) => return received,
            Err(e) if e.is_transient() => {
                let _ = pipes::wait_for(client.as_fd(), PollFlags::POLLIN);
            }
            Err(e) => {
                let refusal = match e {
                    RecvError::Closed => Refusal::NoRequest,
                    e => Refusal::Malformed(format!("request: {e}")),
                };
                send(parent, &SessionToParent::Finished(failed(refusal)));
                system::exit_now(1);
            }
        }
    }
}

/// One Git request.
fn git(
    parent: &Parent,
    client: &ClientSocket,
    (repo, verify): (OwnedFd, OwnedFd),
    limits: SessionStart,
    request: GitRequest,
    mut pipes: Pipes,
) -> SessionReport {
    match decode(request) {
        Ok((ask, protocol)) => {
            talk(parent, client.as_fd(), (repo, Some(verify)), limits, pipes, (ask, protocol))
        }
        Err(text) => refused(&mut pipes.output, text),
    }
}

/// Turns the client's strings into types.
fn decode(request: GitRequest) -> Result<(GitAsk, u8), Refusal> {
    let service = Service::from_name(request.service.as_bytes()).ok_or_else(|| {
        Refusal::Malformed(format!("{}: not a service of this server", escape(request.service.as_bytes())))
    })?;
    let repository = RepoName::parse(&request.repository)
        .map_err(|e| Refusal::Malformed(CommandError::Name(e).to_string()))?;
    let protocol = Parameters::parse(&request.git_protocol).version_for(service) as u8;
    let told_address = told_address(&request.ssh_connection);
    Ok((GitAsk { service, repository, protocol, told_address }, protocol))
}

/// What a client says about its address, fit for the log.
fn told_address(said: &[u8]) -> String {
    let mut told = escape(said);
    told.truncate(told.floor_char_boundary(128));
    told
}

/// One request of self-service.
fn shell(parent: &Parent, client: &ClientSocket, request: &ShellRequest) -> SessionReport {
    let command = ShellCommand::parse(request.line.trim_ascii()).unwrap_or(ShellCommand::Unknown);
    let ask = ShellAsk { command, told_address: told_address(&request.ssh_connection) };
    send(parent, &SessionToParent::Shell(ask));
    pass_on(parent, client)
}

/// Passes the lines of an answer on.
fn pass_on(parent: &Parent, client: &ClientSocket) -> SessionReport {
    watchdog::phase(Phase::Work);
    loop {
        match parent.recv() {
            Ok(Received { message: ParentToSession::Line(line), .. }) => {
                if client.send(0, &SessionToClient::Line(line)).is_err() {
                    return failed(Refusal::ClientLeft);
                }
            }
            Ok(Received { message: ParentToSession::Done(()), .. }) => return report(0, None),
            Ok(Received { message: ParentToSession::Refused(refusal), .. }) => return failed(refusal),
            Err(e) if e.is_transient() => {}
            _ => system::exit_now(1),
        }
    }
}

fn send_exit(client: &ClientSocket, status: u8, text: &str) {
    let _ = client.try_send(0, &SessionToClient::Exit(Exit { status, text: text.into() }));
}

/// The record that a watchdog sends to the client.
fn last_word(text: &str, status: u8) -> Vec<u8> {
    channel::encode(0, &SessionToClient::Exit(Exit { status, text: text.into() })).unwrap_or_default()
}

/// The end: the parent's log line first, so that it is there when the client has gone on.
fn finish(parent: &Parent, client: &ClientSocket, report: SessionReport) {
    send(parent, &SessionToParent::Finished(report.clone()));
    send_exit(client, report.status, &report.refusal.map(|r| r.to_string()).unwrap_or_default());
}
