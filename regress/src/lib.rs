//! Integration tests of gotd: the harness.
//!
//! A test makes a [`Site`] (a fresh directory with repositories and a configuration), starts a real
//! [`Daemon`] on it, and talks to it through git and a stand-in for ssh, through a real [`Sshd`],
//! or byte by byte as a [`raw`] client. Everything happens in temporary directories and on the
//! loopback interface; every wait has a bound. When a test fails its directory is kept and its path
//! printed.
//!
//! The binaries are those in the directory `GOTD_BIN`, or else those beside the test's own
//! executable: `cargo build --workspace` comes first.

#![forbid(unsafe_code)]

pub mod clients;
pub mod compare;
pub mod daemon;
pub mod ground;
pub mod history;
mod neighbours;
pub mod others;
pub mod own_process;
pub mod pkt;
pub mod process;
pub mod raw;
pub mod run;
pub mod site;
pub mod sockets;
pub mod sshd;
pub mod tcp;

pub use daemon::Daemon;
pub use run::{Done, run};
pub use site::Site;
pub use sshd::{Setup, Sshd};

/// Says why a test does nothing here. libtest counts it as passed; the line is what tells.
pub fn skipped(why: &str) {
    // Written past libtest's capture, so that it is seen in a run that passes.
    let name = std::thread::current().name().unwrap_or("?").to_owned();
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("{name}: skipped: {why}\n").as_bytes());
}

/// Whether the tests run as root, and gotd so drops its privilege.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// The directory of the binaries under test.
pub fn binaries() -> std::path::PathBuf {
    if let Some(dir) = std::env::var_os("GOTD_BIN") {
        return dir.into();
    }
    let exe = std::env::current_exe().expect("a running executable has a path");
    // target/PROFILE/deps/test-0123 or target/PROFILE/program
    let dir = exe.parent().expect("a file is in a directory");
    let dir = if dir.ends_with("deps") { dir.parent().expect("deps is in a directory") } else { dir };
    dir.to_owned()
}
