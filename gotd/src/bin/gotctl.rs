//! gotctl(8): asks the running daemon.
//!
//! It connects and greets like gotsh; its session becomes a control session only by the kernel's
//! credentials.

#![forbid(unsafe_code)]

use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gotd::admin::authorized::{self, ShellPath};
use gotd::admin::explain::ExplainError;
use gotd::conf::ConfigError;
use gotd::conf::files::Most;
use gotd::conf::model::Config;
use libproto::channel::{Channel, RecvError, SendError, recv_record_with_fds};
use libproto::frame::MAX_FRAME;
use libproto::message::client::{ClientKind, ClientToSession, ControlRequest, First, Hello, SessionToClient};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect};

/// Where gotd listens when nothing else is said.
const DEFAULT_SOCKET: &str = "/var/run/gotd.sock";
/// How long a daemon that has said that it ends may take to remove its socket.
const GONE: std::time::Duration = std::time::Duration::from_secs(2);

/// Controls gotd(8).
#[derive(Debug, Parser)]
#[command(name = "gotctl", version, about)]
struct Flags {
    /// The daemon's socket, or its control socket, which is the one of that name with `.ctl` behind
    /// it.
    #[arg(short = 'f', value_name = "socket", env = "GOTD_UNIX_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: GotctlCommand,
}

#[derive(Debug, Subcommand)]
enum GotctlCommand {
    /// Tell about the daemon and its sessions.
    Info {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell what was counted since the start, as OpenMetrics text.
    Metrics,
    /// How much is logged until the daemon ends.
    Log {
        /// Lines for debugging too, or as the configuration says.
        #[arg(value_parser = ["verbose", "brief"])]
        level: String,
    },
    /// End the daemon when the sessions under way are over, at most half a minute later, and wait
    /// for that.
    Stop {
        /// Do not wait for sessions under way.
        #[arg(long)]
        now: bool,
    },
    /// Read the configuration anew. If anything in it is wrong, nothing changes.
    Reload {
        /// Another configuration file from now on; the daemon's user must be able to read it.
        #[arg(short = 'c', value_name = "file")]
        config: Option<PathBuf>,
        /// Another secrets file from now on.
        #[arg(short = 's', value_name = "file")]
        secrets: Option<PathBuf>,
        /// Only check the file, here and now; asks no daemon.
        #[arg(short = 'n')]
        check: bool,
    },
    /// For sshd's AuthorizedKeysCommand: which keys lead to which user of a shared account.
    AuthorizedKeys {
        /// Configuration file.
        #[arg(short = 'c', value_name = "file", default_value = gotd::conf::files::DEFAULT_PATH)]
        config: PathBuf,
        /// Where gotsh is; by default beside this program.
        #[arg(long, value_name = "path")]
        gotsh: Option<PathBuf>,
        /// The Unix account (%u).
        account: String,
        /// Kind of the one key that is asked for (%t).
        #[arg(requires = "key")]
        kind: Option<String>,
        /// That key in base64 (%k).
        key: Option<String>,
    },
    /// For sshd's AuthorizedPrincipalsCommand: which certificates lead to which user of a shared
    /// account.
    AuthorizedPrincipals {
        /// Configuration file.
        #[arg(short = 'c', value_name = "file", default_value = gotd::conf::files::DEFAULT_PATH)]
        config: PathBuf,
        /// Where gotsh is; by default beside this program.
        #[arg(long, value_name = "path")]
        gotsh: Option<PathBuf>,
        /// The Unix account (%u).
        account: String,
    },
    /// Tell what a user may do with a repository, and which line of a configuration says so; asks
    /// no daemon.
    Explain {
        /// Configuration file.
        #[arg(short = 'c', value_name = "file", default_value = gotd::conf::files::DEFAULT_PATH)]
        config: PathBuf,
        /// A Unix user's name or number, the name of a user of an account, or anonymous.
        user: String,
        /// As a client would name it.
        repository: String,
    },
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let result = match &flags.command {
        GotctlCommand::Info { json } => ask(&flags.socket, ControlRequest::Info { json: *json }),
        GotctlCommand::Metrics => ask(&flags.socket, ControlRequest::Metrics),
        GotctlCommand::Log { level } => {
            ask(&flags.socket, ControlRequest::Log { verbose: level == "verbose" })
        }
        GotctlCommand::Stop { now } => stop(&flags.socket, *now),
        GotctlCommand::Reload { config, secrets, check: true } => {
            check(config.as_deref(), secrets.as_deref())
        }
        GotctlCommand::Reload { config, secrets, check: false } => {
            reload(&flags.socket, config.as_deref(), secrets.as_deref())
        }
        GotctlCommand::AuthorizedKeys { config, gotsh, account, kind, key } => {
            let key = kind.as_deref().zip(key.as_deref());
            authorized(config, gotsh.as_deref(), |config, gotsh| {
                authorized::keys(config, account, key, gotsh)
            })
        }
        GotctlCommand::AuthorizedPrincipals { config, gotsh, account } => {
            authorized(config, gotsh.as_deref(), |config, gotsh| {
                authorized::principals(config, account, gotsh)
            })
        }
        GotctlCommand::Explain { config, user, repository } => explain(config, user, repository),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            let _ = writeln!(std::io::stderr(), "gotctl: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Why a command fails.
#[derive(Debug)]
enum Failure {
    /// A file has no absolute path.
    Path(PathBuf, std::io::Error),
    /// A configuration has errors, which were told.
    Unusable(PathBuf),
    /// The path of the configuration is not UTF-8.
    NotText,
    /// gotsh has a path that cannot stand in a forced command.
    NoShell(PathBuf),
    /// Nothing can be printed.
    Output(std::io::Error),
    /// There is nothing to explain.
    Explain(ExplainError),
    /// A daemon listens, and has no control socket.
    NoControl(PathBuf, nix::Error),
    /// The control socket takes no connection.
    Connect(PathBuf, nix::Error),
    /// There is no greeting.
    Greeting,
    /// The request does not fit into a message.
    Request(SendError),
    /// The daemon cannot be sent to.
    Send(std::io::Error),
    /// The daemon cannot be received from.
    Receive(RecvError),
    /// It has gone without a last word.
    SessionEnded,
    /// What the daemon says.
    Told(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Path(path, e) => write!(f, "{}: {e}", path.display()),
            Failure::Unusable(path) => write!(f, "{}: not usable", path.display()),
            Failure::NotText => f.write_str("expected a path in UTF-8"),
            Failure::NoShell(path) => write!(f, "{}: not a path for a forced command", path.display()),
            Failure::Output(e) => write!(f, "standard output: {e}"),
            Failure::Explain(e) => e.fmt(f),
            Failure::NoControl(path, e) => write!(
                f,
                "{}: {} (a gotd that is older has none: use its own gotctl, or SIGTERM)",
                path.display(),
                e.desc()
            ),
            Failure::Connect(path, e) => write!(f, "{}: {}", path.display(), e.desc()),
            Failure::Greeting => f.write_str("greeting"),
            Failure::Request(e) => e.fmt(f),
            Failure::Send(e) => e.fmt(f),
            Failure::Receive(e) => e.fmt(f),
            Failure::SessionEnded => f.write_str("the session ended unexpectedly"),
            Failure::Told(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

impl From<ExplainError> for Failure {
    fn from(e: ExplainError) -> Failure {
        Failure::Explain(e)
    }
}

fn reload(socket: &Path, config: Option<&Path>, secrets: Option<&Path>) -> Result<u8, Failure> {
    let absolute = |path: Option<&Path>| match path {
        Some(path) => std::path::absolute(path)
            .map(|path| path.into_os_string().into_vec())
            .map_err(|e| Failure::Path(path.to_owned(), e)),
        None => Ok(Vec::new()),
    };
    let files = [absolute(config)?, absolute(secrets)?];
    ask(socket, ControlRequest::Reload { files })
}

/// Checks a configuration that is read here and now.
fn check(config: Option<&Path>, secrets: Option<&Path>) -> Result<u8, Failure> {
    let path = config.unwrap_or(Path::new(gotd::conf::files::DEFAULT_PATH));
    if config.is_none() {
        let text = "this is the file that is checked; a daemon that was started with -f reads another one, which -c names";
        let _ = writeln!(std::io::stderr(), "{}: note: {text}", path.display());
    }
    let mut loaded = gotd::conf::files::load(path, secrets);
    gotd::admin::check::check(&mut loaded);
    loaded.bound(Most::OF_CHECK);
    let (warnings, errors) = (loaded.warnings.iter(), loaded.errors.iter());
    let before = loaded.notes.iter().map(ConfigError::as_note).chain(warnings.map(ConfigError::as_warning));
    for text in before.chain(errors.map(ToString::to_string)) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }
    if !loaded.errors.is_empty() {
        return Err(Failure::Unusable(path.to_owned()));
    }
    writeln!(std::io::stdout(), "configuration OK").map_err(Failure::Output)?;
    Ok(0)
}

/// Prints lines for sshd. A configuration with errors must not lock out those whom it names well:
/// the daemon decides by the last good one.
fn authorized(
    config: &Path,
    gotsh: Option<&Path>,
    lines: impl FnOnce(&Config, &ShellPath) -> String,
) -> Result<u8, Failure> {
    let path = gotsh.map_or_else(beside, Path::to_owned);
    let gotsh = path.to_str().and_then(ShellPath::parse);
    let gotsh = gotsh.ok_or_else(|| Failure::NoShell(path.clone()))?;
    let parsed = gotd::conf::files::read_only(config.to_str().ok_or(Failure::NotText)?);
    for error in &parsed.errors {
        let _ = writeln!(std::io::stderr(), "{error}");
    }
    let lines = lines(&parsed.config, &gotsh);
    std::io::stdout().write_all(lines.as_bytes()).map_err(Failure::Output)?;
    Ok(0)
}

/// gotsh as it is installed: in `bin` beside the `sbin` of this program, or in the same directory.
fn beside() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let directory = own.parent().unwrap_or(Path::new("/usr/bin"));
    let candidates = [directory.with_file_name("bin").join("gotsh"), directory.join("gotsh")];
    let found = candidates.iter().find(|path| path.exists());
    found.unwrap_or(&candidates[1]).clone()
}

/// Prints the verdict of a configuration that is read here and now.
fn explain(config: &Path, user: &str, repository: &str) -> Result<u8, Failure> {
    let mut loaded = gotd::conf::files::load(config, None);
    loaded.bound(Most::OF_CHECK);
    if !loaded.errors.is_empty() {
        for error in &loaded.errors {
            let _ = writeln!(std::io::stderr(), "{error}");
        }
        return Err(Failure::Unusable(config.to_owned()));
    }
    let table = gotd::access::table::AccessTable::new(loaded.config);
    let groups = gotd::os::passwd::groups_of;
    let verdict =
        gotd::admin::explain::explain(&table, user, repository, &mut gotd::os::passwd::System, &groups)?;
    writeln!(std::io::stdout(), "{verdict}").map_err(Failure::Output)?;
    Ok(0)
}

/// Asks the daemon to stop and waits until its sockets are gone; returns the status to exit with.
fn stop(path: &Path, now: bool) -> Result<u8, Failure> {
    let status = ask(path, ControlRequest::Stop { now })?;
    // The answer is the last but one thing that the daemon does. A socket of a service manager's
    // stays.
    let until = std::time::Instant::now() + GONE;
    let control = gotd::roles::sockets::ask::control_named_by(path);
    while status == 0 && (path.exists() || control.exists()) && std::time::Instant::now() < until {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    Ok(status)
}

/// Sends one request and prints what comes back; returns the status to exit with. `socket` is that
/// of the daemon's clients, or the control socket beside it.
fn ask(socket: &Path, request: ControlRequest) -> Result<u8, Failure> {
    let path = &gotd::roles::sockets::ask::control_named_by(socket);
    let failed = |e: nix::Error| match e {
        nix::Error::ENOENT if socket.exists() => Failure::NoControl(path.clone(), e),
        _ => Failure::Connect(path.clone(), e),
    };
    let fd: OwnedFd =
        nix::sys::socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)
            .map_err(failed)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path).map_err(failed)?).map_err(failed)?;
    let session = Channel::<ClientToSession, SessionToClient>::from(fd);
    let hello = Hello::new(ClientKind::Control, None).ok_or(Failure::Greeting)?;
    let request =
        libproto::channel::encode(0, &ClientToSession::Control(request)).map_err(Failure::Request)?;
    for record in [hello.encode().as_slice(), request.as_slice()] {
        libproto::channel::send_first_words(session.as_fd(), record).map_err(Failure::Send)?;
    }
    let mut out = std::io::stdout().lock();
    let mut buffer = [0; MAX_FRAME + 1];
    loop {
        let received = recv_record_with_fds(session.as_fd(), &mut buffer);
        match received.and_then(|(n, fds)| First::decode(&buffer[..n], fds)) {
            // For Git, which is not what is spoken here.
            Ok(First::Pipes(..)) => {}
            Ok(First::Message(SessionToClient::Line(line) | SessionToClient::Note(line))) => {
                writeln!(out, "{line}").map_err(Failure::Output)?;
            }
            Ok(First::Message(SessionToClient::Exit(exit))) => {
                return if exit.text.is_empty() { Ok(exit.status) } else { Err(Failure::Told(exit.text)) };
            }
            Err(e) if e.is_transient() => {}
            Err(RecvError::Closed) => return Err(Failure::SessionEnded),
            Err(e) => return Err(Failure::Receive(e)),
        }
    }
}
