//! gotd(8): parses flags and calls a role, nothing else.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use gotd::parent::start::{self, Options};
use gotd::roles;
use libproto::states::Role;

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
    /// Log more; may be given twice.
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    verbose: u8,
    /// Secrets file.
    #[arg(short = 's', value_name = "file")]
    secrets: Option<PathBuf>,
    /// Run one role; only the daemon itself says this.
    #[arg(short = 'T', value_name = "role", hide = true)]
    role: Option<String>,
    /// The daemon that has left its terminal; only the daemon itself says this.
    #[arg(long, hide = true)]
    detached: bool,
    /// Go on where the sandbox cannot be enforced; only the daemon itself says this.
    #[arg(long, hide = true)]
    best_effort: bool,
    /// What the role is given.
    #[arg(hide = true, requires = "role")]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let result = match &flags.role {
        Some(name) => match Role::from_name(name) {
            Some(role) => roles::run(role, &flags.arguments, flags.best_effort),
            None => Err(format!("{name}: not a role")),
        },
        None => start::run(&Options {
            foreground: flags.foreground,
            detached: flags.detached,
            check: flags.check,
            verbose: flags.verbose,
            config: flags.config.clone(),
            secrets: flags.secrets.clone(),
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            // Nobody may be listening any more.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("gotd: {text}\n").as_bytes());
            ExitCode::FAILURE
        }
    }
}
