//! gotctl(8): asks the running daemon.
//!
//! It connects and greets like gotsh; its session becomes a control session only by the kernel's credentials.

#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use libproto::channel::{Channel, Received, RecvError};
use libproto::message::client::{ClientKind, ClientToSession, ControlRequest, Hello, SessionToClient};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Where gotd listens when nothing else is said.
const DEFAULT_SOCKET: &str = "/var/run/gotd.sock";

/// Controls gotd(8).
#[derive(Debug, Parser)]
#[command(name = "gotctl", version, about)]
struct Flags {
    /// The daemon's socket.
    #[arg(short = 'f', value_name = "socket", env = "GOTD_UNIX_SOCKET", default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell about the daemon and its sessions.
    Info,
    /// End the daemon when the sessions under way are over, at most half a minute later.
    Stop {
        /// Do not wait for sessions under way.
        #[arg(long)]
        now: bool,
    },
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let request = match flags.command {
        Command::Info => ControlRequest::Info,
        Command::Stop { now } => ControlRequest::Stop { now },
    };
    match ask(&flags.socket, request) {
        Ok(status) => ExitCode::from(status),
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "gotctl: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Sends one request and prints what comes back; returns the status to exit with.
fn ask(path: &Path, request: ControlRequest) -> Result<u8, String> {
    let text = |e: nix::Error| format!("{}: {}", path.display(), e.desc());
    let fd: OwnedFd =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).map_err(text)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path).map_err(text)?).map_err(text)?;
    let session = Channel::<ClientToSession, SessionToClient>::from(fd);
    let hello = Hello::new(ClientKind::Control, None).ok_or("greeting")?;
    libproto::channel::send_record(session.as_fd(), &hello.encode(), true).map_err(|e| e.to_string())?;
    session.send(0, 0, &ClientToSession::Control(request)).map_err(|e| e.to_string())?;
    let mut out = std::io::stdout().lock();
    loop {
        match session.recv() {
            Ok(Received { message: SessionToClient::Line(line) | SessionToClient::Note(line), .. }) => {
                writeln!(out, "{line}").map_err(|e| format!("standard output: {e}"))?;
            }
            Ok(Received { message: SessionToClient::Exit(exit), .. }) => {
                return if exit.text.is_empty() { Ok(exit.status) } else { Err(exit.text) };
            }
            Err(e) if e.is_transient() => {}
            Err(RecvError::Closed) => return Err("the session ended unexpectedly".into()),
            Err(e) => return Err(e.to_string()),
        }
    }
}
