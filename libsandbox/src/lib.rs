//! pledge(2) and unveil(2) under one roof: the system's own on OpenBSD; on Linux resource limits,
//! Landlock and one seccomp filter per stage, in the same words.
//!
//! A process declares its operations ([`Promises`]) and the part of the file system that it needs
//! ([`Visible`]) as a [`Stage`], and calls [`enter`]. Later it may enter further stages. Every
//! stage only takes rights away.
//!
//! What each promise allows is in the tables of `linux/calls.rs`, each group with the roles that
//! need it. A role's stage names a row of a second table ([`Promises::calls`],
//! `linux/rows_of_roles.rs`): of what its promises give, the filter lets through only what the row
//! names. Beyond them:
//!
//! - A stage has to be entered **before any thread is started**; otherwise [`Error::Threads`].
//! - On Linux a process can never do what its starter gave up, since filters and Landlock survive
//!   exec. So a process that promises [`Promise::Exec`] keeps everything its children need,
//!   including the dynamic loader. It must see every part of the file system that they see
//!   ([`loader_paths`] names the libraries).
//! - A forbidden system call is not made: it ends the process with [`FORBIDDEN_STATUS`] and a line
//!   that names the call. Calls that libraries only try are answered with an error instead, and
//!   with [`Promise::Getpw`] and [`Promise::Dns`] all of them are, because modules of the name
//!   services run then. Such modules cannot be loaded any more (memory is never executable): look
//!   up one name before the stage.
//! - Landlock has no right for looking at names (stat, readlink, `O_PATH`), nor for modes and
//!   times: a role with `rpath` can ask whether any file exists, unless its stage may only open
//!   names ([`Promises::by_opening`]). Modes and times are changed by descriptors alone, so only of
//!   files that a process may open.
//! - A stage that promises neither processes nor threads starts none: `RLIMIT_NPROC` is 0 then.
//! - Nothing here keeps a process that was taken over from switching off its own timers: a time
//!   limit must be enforced by another process.
//! - Descriptors that a process has are its own: a stage takes none away.
//!
//! ```no_run
//! use libsandbox::{Enforcement, Promise, Promises, ResourceLimits, Stage};
//!
//! libsandbox::harden_process("session")?;
//! libsandbox::enter(&Stage {
//!     promises: Promises::of(&[Promise::Stdio, Promise::Sendfd]),
//!     paths: Some(&[]),
//!     limits: ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED },
//!     enforcement: Enforcement::Required,
//! })?;
//! # Ok::<(), libsandbox::Error>(())
//! ```

mod limits;
mod promise;
mod rows;
mod stage;
mod words;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
use linux as system;

#[cfg(target_os = "linux")]
pub use linux::rows::Use;

#[cfg(target_os = "openbsd")]
mod openbsd;
#[cfg(target_os = "openbsd")]
use openbsd as system;

#[cfg(not(any(target_os = "linux", target_os = "openbsd")))]
compile_error!("this system has no sandbox that libsandbox knows");

#[cfg(all(feature = "escapes", target_os = "linux"))]
pub mod escape;

pub use promise::{Promise, Promises, UnknownPromise};
pub use rows::Calls;
pub use stage::{Access, Coverage, Enforcement, Error, Report, ResourceLimits, Stage, Visible};
pub use words::{Call, openbsd_calls, openbsd_words};

/// Exit status of a process that made a system call outside its promises (128 + `SIGSYS`). Its
/// standard error then ends in one line with the name given to [`harden_process`] and the call's
/// number.
pub const FORBIDDEN_STATUS: i32 = 159;

/// The first thing each process does: no core dumps; on Linux no new privileges by exec, not
/// dumpable (so that no process of the same user can ptrace it or read its memory), and the
/// linker's tables read-only. `name` is what a forbidden call is reported under.
pub fn harden_process(name: &'static str) -> Result<(), Error> {
    limits::no_core()?;
    system::harden_process(name)
}

/// Enters a stage: from here on the process is held to its promises, its paths and its limits. Call
/// it before any thread is started. May be called again by a stage that promised
/// [`Promise::Narrow`] or [`Promise::Unveil`].
pub fn enter(stage: &Stage<'_>) -> Result<Report, Error> {
    system::enter(stage)
}

/// Can this kernel enforce a stage? The parent asks at start, so that a daemon on an unfit kernel
/// does not come up at all rather than end at its first client. An error means no, with the reason.
pub fn check_platform(enforcement: Enforcement) -> Result<Report, Error> {
    system::check_platform(enforcement)
}

/// The paths that a process holding [`Promise::Exec`] has to keep visible so that its children,
/// which run the same binary as it does, can be loaded: the directories of the shared libraries
/// that this process itself has loaded. The binary itself is not among them.
#[must_use]
pub fn loader_paths() -> Vec<(std::path::PathBuf, Access)> {
    system::loader_paths()
}

/// How many system calls a process with these promises can make, with some arguments at least.
#[cfg(target_os = "linux")]
#[must_use]
pub fn allowed_calls(promises: Promises) -> usize {
    system::allowed_calls(promises)
}

/// The uses of system calls that a row of the table names, for the test that records what is made.
#[cfg(target_os = "linux")]
pub fn uses_of_calls(row: Calls) -> impl Iterator<Item = Use> {
    system::rows::uses(row as usize)
}

/// The rows of later stages of a row's process, whose uses its filter lets through too.
#[cfg(target_os = "linux")]
pub fn later_rows(row: Calls) -> impl Iterator<Item = Calls> {
    system::rows::later(row as usize).iter().map(|&later| Calls::ALL[later].0)
}

/// fstat(2) by descriptor alone. glibc before 2.39 makes fstat(3) a lookup of the empty path, which
/// a process without `rpath` may not do: whether a path is empty is not visible to a filter.
pub fn fstat(fd: std::os::fd::BorrowedFd<'_>) -> std::io::Result<libc::stat> {
    system::fstat(fd)
}
