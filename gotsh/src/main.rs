//! gotsh(1): what sshd runs in place of `git-upload-pack` and `git-receive-pack`.
//!
//! Duty: find out what the client asks for, connect to gotd, take two pipes from it, relay between
//! them and standard input and output, and exit with the status that comes back.
//!
//! **Invariant:** decides nothing: the kernel tells gotd which user runs gotsh, and gotd decides
//! what is allowed. gotsh sends no descriptor.

#![forbid(unsafe_code)]

mod error;
mod inetd;
mod relay;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use libproto::channel::{Channel, Received};
use libproto::command::{self, CommandError, Service, ServiceCommand};
use libproto::frame::MAX_FRAME;
use libproto::message::client::{
    ClientKind, ClientToSession, First, GitRequest, Hello, SessionToClient, ShellRequest,
};
use libproto::names::escape;
use libproto::pktline;
use libsandbox::{Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use self::error::Error;

/// musl's own gives every page back at once and asks for it again.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// Where gotd listens when `GOTD_UNIX_SOCKET` does not say.
const DEFAULT_SOCKET: &str = "/var/run/gotd.sock";
/// A longer value cannot be the name of a repository.
const VARIABLE_MAX: usize = 4096;

/// Once connected, until the pipes are here.
const SET_UP: Promises = Promises::of(&[Promise::Stdio, Promise::Recvfd, Promise::Narrow]);
/// From then on.
const WORK: Promises = Promises::of(&[Promise::Stdio]);

type Session = Channel<ClientToSession, SessionToClient>;

/// What the command line says.
struct CommandLine {
    command: ServiceCommand,
    user: Option<String>,
    /// The versions of Git's protocol that the client can speak.
    git_protocol: Vec<u8>,
    /// The client's address, by sshd's word.
    from: Vec<u8>,
}

fn main() -> ExitCode {
    let _ = libsandbox::harden_process("gotsh");
    if std::env::args_os().nth(1).is_some_and(|word| word == "--inetd") {
        return inetd();
    }
    let wish = match wish() {
        Ok(wish) => wish,
        Err(CommandError::Usage) => {
            if let Some(user) = self_service_user() {
                return shell(&user);
            }
            let _ = writeln!(std::io::stderr(), "{USAGE}");
            return ExitCode::from(1);
        }
        Err(error) => {
            send_err_packet(&error.to_string());
            complain(&error.to_string());
            return ExitCode::from(1);
        }
    };
    match run(wish.user.clone().as_deref(), || Ok(wish)) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(1)
        }
    }
}

/// The user of a shared account that a forced command names. For such a user gotd answers all
/// commands that are not Git's.
fn self_service_user() -> Option<String> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).take(3).collect();
    match arguments.as_slice() {
        [flag, user] if flag == "--user" => Some(user.to_string_lossy().into_owned()),
        _ => None,
    }
}

/// Asks gotd for what the client typed, and prints the answer.
fn shell(user: &str) -> ExitCode {
    let line = original_command().unwrap_or_default();
    let ask = || -> Result<u8, Error> {
        if line.len() > command::COMMAND_MAX {
            return Err(Error::LongCommand);
        }
        let hello = Hello::new(ClientKind::Shell, Some(user)).ok_or(Error::UserName)?;
        let path = std::env::var_os("GOTD_UNIX_SOCKET").unwrap_or_else(|| DEFAULT_SOCKET.into());
        let session = dial(path.as_ref())?;
        sandbox(SET_UP, Some(&[]));
        let request = ClientToSession::Shell(ShellRequest {
            line: line.clone(),
            ssh_connection: variable("SSH_CONNECTION"),
        });
        ask_for(&session, &hello, &request)?;
        match first(&session)? {
            First::Message(message) => print_message(message).map_or_else(|| wait(&session), Ok),
            // There is nothing to relay: the answer comes in messages.
            First::Pipes(..) => wait(&session),
        }
    };
    ask().map_or_else(
        |error| {
            complain(&error.to_string());
            ExitCode::from(1)
        },
        ExitCode::from,
    )
}

/// Writes an ERR packet: a Git client waits for Git's protocol, and shows the packet's text.
fn send_err_packet(text: &str) {
    let mut packet = Vec::new();
    pktline::write_err(&mut packet, text);
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(&packet).and_then(|()| stdout.flush());
}

/// Serves the connection on standard input and output.
fn inetd() -> ExitCode {
    // inetd puts the connection on standard error too, where nobody's text belongs.
    SILENT.store(true, Ordering::Relaxed);
    let from = inetd::peer(std::io::stdin().as_fd());
    let wish = || {
        // Not through Stdin, which reads ahead: what follows the request is for the session.
        let fd = std::io::stdin().as_fd().try_clone_to_owned().map_err(Error::Input)?;
        inetd::wish(&mut std::fs::File::from(fd), from)
    };
    run(None, wish).map_or_else(|error| refuse(&error.to_string()), ExitCode::from)
}

/// Tells a client of git:// why it is not served.
fn refuse(text: &str) -> ExitCode {
    send_err_packet(text);
    ExitCode::from(1)
}

/// Nothing is said on standard error.
static SILENT: AtomicBool = AtomicBool::new(false);

const USAGE: &str = "\
usage: gotsh -c \"git-upload-pack|git-receive-pack 'repository'\"
       gotsh [--user name]    as a forced command
       gotsh --inetd          on a connection of git://";

/// Finds the request: `-c` of a login shell, the environment of a forced command, or our own name.
fn wish() -> Result<CommandLine, CommandError> {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<OsString> = arguments.take(8).collect();
    let base = name.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let words: Vec<&[u8]> = arguments.iter().map(|a| a.as_bytes()).collect();
    if let Some(service) = Service::from_name(base) {
        let [path] = words.as_slice() else { return Err(CommandError::Usage) };
        return Ok(CommandLine::of_ssh(command::parse_argument(service, path)?, None));
    }
    let (line, user) = match words.as_slice() {
        // A login shell. What a client types after -c is never an option of ours.
        [b"-c", line] => (line.to_vec(), None),
        [] => (original_command()?, None),
        [b"--user", user] => (original_command()?, Some(String::from_utf8_lossy(user).into_owned())),
        _ => return Err(CommandError::Usage),
    };
    Ok(CommandLine::of_ssh(command::parse(&line)?, user))
}

impl CommandLine {
    /// What sshd runs has the rest in its environment.
    fn of_ssh(command: ServiceCommand, user: Option<String>) -> CommandLine {
        CommandLine {
            command,
            user,
            git_protocol: variable("GIT_PROTOCOL"),
            from: variable("SSH_CONNECTION"),
        }
    }
}

/// What the client of a forced command asked for.
fn original_command() -> Result<Vec<u8>, CommandError> {
    std::env::var_os("SSH_ORIGINAL_COMMAND").map(OsString::into_vec).ok_or(CommandError::Usage)
}

/// A variable of the environment; empty if it is absent or too long to be honest.
fn variable(name: &str) -> Vec<u8> {
    std::env::var_os(name).map(OsString::into_vec).filter(|v| v.len() <= VARIABLE_MAX).unwrap_or_default()
}

/// Connects, and asks for what `wish` says, which is made in the sandbox.
fn run(user: Option<&str>, wish: impl FnOnce() -> Result<CommandLine, Error>) -> Result<u8, Error> {
    let hello = Hello::new(ClientKind::Git, user).ok_or(Error::UserName)?;
    let path = std::env::var_os("GOTD_UNIX_SOCKET").unwrap_or_else(|| DEFAULT_SOCKET.into());
    let session = dial(path.as_ref())?;
    // While the daemon finds a session for us. Nothing that the client chose has left this process
    // yet.
    sandbox(SET_UP, Some(&[]));
    let wish = wish()?;
    let request = ClientToSession::Git(GitRequest {
        service: wish.command.service.name().into(),
        repository: wish.command.repo.as_bytes().to_vec(),
        git_protocol: wish.git_protocol,
        ssh_connection: wish.from,
    });
    ask_for(&session, &hello, &request)?;
    let (to, from) = match first(&session)? {
        First::Pipes(to, from) => (to, from),
        First::Message(message) => return print_message(message).map_or_else(|| wait(&session), Ok),
    };
    // While the daemon looks at the request.
    sandbox(WORK, None);
    relay::run(&session, to, from)
}

/// Sends the greeting and the request. The daemon may already have refused and closed the
/// connection. That is no error here, because its reason can still be received.
fn ask_for(session: &Session, hello: &Hello, request: &ClientToSession) -> Result<(), Error> {
    let request = libproto::channel::encode(0, request).map_err(Error::Request)?;
    [hello.encode().as_slice(), request.as_slice()]
        .into_iter()
        .try_for_each(|record| libproto::channel::send_first_words(session.as_fd(), record))
        .map_err(Error::Send)
}

/// Receives the first record: the pipes, or why there are none.
fn first(session: &Session) -> Result<First, Error> {
    let mut buffer = [0; MAX_FRAME + 1];
    loop {
        match libproto::channel::recv_record_with_fds(session.as_fd(), &mut buffer) {
            Ok((n, fds)) => return First::decode(&buffer[..n], fds).map_err(Error::Received),
            Err(e) if e.is_transient() => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// A sandbox of our own is a second line: where the system has none, gotd's own processes decide.
fn sandbox(promises: Promises, paths: Option<&[Visible<'_>]>) {
    let stage =
        Stage { promises, paths, limits: ResourceLimits::UNCHANGED, enforcement: Enforcement::BestEffort };
    if let Err(e) = libsandbox::enter(&stage) {
        complain(&e.to_string());
    }
}

fn dial(path: &std::ffi::OsStr) -> Result<Session, Error> {
    let failed = |e: nix::Error| Error::Connect(path.to_owned(), e);
    let fd: OwnedFd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(failed)?;
    let address = UnixAddr::new(path).map_err(failed)?;
    connect(std::os::fd::AsRawFd::as_raw_fd(&fd), &address).map_err(failed)?;
    Ok(fd.into())
}

/// Waits for the end of the session.
fn wait(session: &Session) -> Result<u8, Error> {
    loop {
        if let Some(status) = receive(session)? {
            return Ok(status);
        }
    }
}

/// Receives one message; the status when it was the last.
fn receive(session: &Session) -> Result<Option<u8>, Error> {
    match session.recv() {
        Ok(Received { message, .. }) => Ok(print_message(message)),
        Err(e) if e.is_transient() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Prints what a message says; the status when it was the last.
fn print_message(message: SessionToClient) -> Option<u8> {
    match message {
        SessionToClient::Exit(exit) => {
            if !exit.text.is_empty() {
                complain(&exit.text);
            }
            return Some(exit.status);
        }
        SessionToClient::Note(text) => complain(&text),
        SessionToClient::Line(text) => print(&text),
    }
    None
}

/// Lines of an answer, which gotd has made harmless to a terminal; should it not have, they are
/// now.
fn print(text: &str) {
    let harmless: String = text.chars().filter(|c| matches!(c, '\n' | '\t') || !c.is_control()).collect();
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{harmless}").and_then(|()| stdout.flush());
}

/// One line on standard error, harmless to a terminal, and no panic when nobody reads it. It is a
/// single write, because the Git client writes there, too, and its text could come in between.
fn complain(text: &str) {
    if SILENT.load(Ordering::Relaxed) {
        return;
    }
    let line = format!("gotsh: {}\n", escape(text.as_bytes()));
    let _ = std::io::stderr().write_all(line.as_bytes());
}
