//! gotd(8): parses flags and calls a role, nothing else.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gotd::error::Error;
use gotd::os::spawn::{OF, TELL_BUILD};
use gotd::roles;
use gotd::roles::parent::startup::{self, DaemonOptions};
use libproto::states::Role;

/// musl's own gives every page back at once and asks for it again.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A Git server of many small processes.
#[derive(Debug, Parser)]
#[command(name = "gotd", version, about)]
struct Flags {
    /// Stay in the foreground and log to standard error.
    #[arg(short = 'd')]
    foreground: bool,
    /// Configuration file.
    #[arg(short = 'f', value_name = "file", default_value = "/etc/gotd.conf")]
    config: PathBuf,
    /// Check the configuration and exit.
    #[arg(short = 'n')]
    check: bool,
    /// Log more; twice with -n prints the configuration.
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    verbose: u8,
    /// Secrets file.
    #[arg(short = 's', value_name = "file")]
    secrets: Option<PathBuf>,
    /// The daemon that has left its terminal; only the daemon itself says this.
    #[arg(long, hide = true)]
    detached: bool,
}

fn main() -> ExitCode {
    let result = match role() {
        Some(result) => result,
        None => daemon(&Flags::parse()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The reader of standard error may be gone, or not read.
            gotd::os::log::write_to_stderr(&format!("gotd: {error}"));
            ExitCode::from(error.status())
        }
    }
}

/// Runs one role, if that is what the daemon started us for: `-T role [--of pid] [--best-effort]
/// [--] arguments`. Before the flags are looked at in earnest, which takes as long as a short
/// session.
fn role() -> Option<Result<(), Error>> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != "-T" {
        return None;
    }
    let arguments: Vec<String> = arguments.map(|a| a.to_string_lossy().into_owned()).collect();
    let (name, mut rest) = arguments.split_first()?;
    if name == TELL_BUILD {
        eprint!("{}", gotd::BUILD);
        return Some(Ok(()));
    }
    let of = match rest {
        [flag, pid, others @ ..] if flag == OF => {
            rest = others;
            pid.parse().ok()
        }
        _ => None,
    };
    let best_effort = rest.first().is_some_and(|first| first == "--best-effort");
    if best_effort {
        rest = &rest[1..];
    }
    if rest.first().is_some_and(|first| first == "--") {
        rest = &rest[1..];
    }
    Some(match Role::from_name(name) {
        Some(role) => roles::run(role, rest, best_effort, of).map_err(Error::from),
        None => Err(Error::NoRole(name.clone())),
    })
}

/// Starts the daemon.
fn daemon(flags: &Flags) -> Result<(), Error> {
    let options = DaemonOptions {
        foreground: flags.foreground,
        detached: flags.detached,
        check: flags.check,
        verbose: flags.verbose,
        config: flags.config.clone(),
        secrets: flags.secrets.clone(),
    };
    Ok(startup::run(&options)?)
}
