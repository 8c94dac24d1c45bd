//! Resource limits: soft and hard at once, never raised.

use std::io;

use crate::{Error, Promise, Promises, ResourceLimits};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Sets the limits of a stage. Core dumps are off, and so are new processes and threads where the
/// stage promises neither.
pub(crate) fn set(limits: &ResourceLimits, promises: Promises) -> Result<(), Error> {
    no_core()?;
    let starts = [Promise::Proc, Promise::Exec, Promise::Threads].iter().any(|&word| promises.has(word));
    if !starts {
        no_processes()?;
    }
    if !promises.has(Promise::Exec) {
        small_stack()?;
    }
    for (name, resource, value) in [
        ("RLIMIT_NOFILE", libc::RLIMIT_NOFILE, limits.nofile),
        ("RLIMIT_FSIZE", libc::RLIMIT_FSIZE, limits.fsize),
        ("RLIMIT_DATA", libc::RLIMIT_DATA, limits.data),
        ("RLIMIT_STACK", libc::RLIMIT_STACK, limits.stack),
    ] {
        if let Some(value) = value {
            lower(name, resource, value)?;
        }
    }
    #[cfg(target_os = "linux")]
    if !MAPS_FILES.iter().any(|&word| promises.has(word)) {
        few_addresses()?;
    }
    Ok(())
}

/// Promises of stages that map files of any size, or have a later stage or a child that does.
#[cfg(target_os = "linux")]
const MAPS_FILES: [Promise; 5] =
    [Promise::Rpath, Promise::Exec, Promise::Getpw, Promise::Narrow, Promise::Unveil];

/// Addresses beyond those of the memory that is counted: the program, its libraries, its stack.
#[cfg(target_os = "linux")]
const UNCOUNTED: u64 = 1 << 30;

/// Read-only memory is not counted as data, and pages of zeroes take no memory. But their page
/// tables do, 2 MiB for each GiB, and no other limit counts those.
#[cfg(target_os = "linux")]
fn few_addresses() -> Result<(), Error> {
    let data = now("RLIMIT_DATA", libc::RLIMIT_DATA)?.rlim_cur;
    if data == libc::RLIM_INFINITY {
        return Ok(());
    }
    lower("RLIMIT_AS", libc::RLIMIT_AS, data.saturating_add(UNCOUNTED))
}

fn now(name: &'static str, resource: Resource) -> Result<libc::rlimit, Error> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through a valid pointer.
    if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
        return Err(Error::Limit(name, 0, io::Error::last_os_error()));
    }
    Ok(now)
}

/// No core dump: it would put a client's data on the disk.
pub(crate) fn no_core() -> Result<(), Error> {
    lower("RLIMIT_CORE", libc::RLIMIT_CORE, 0)
}

/// No further process or thread. The kernel compares the limit of the process that asks with all
/// that its user runs: 0 limits no other process.
pub(crate) fn no_processes() -> Result<(), Error> {
    lower("RLIMIT_NPROC", libc::RLIMIT_NPROC, 0)
}

/// Most bytes of a role's stack: the usual default of Linux.
const STACK: u64 = 8 << 20;

/// The main thread's stack is not counted as data.
fn small_stack() -> Result<(), Error> {
    let now = now("RLIMIT_STACK", libc::RLIMIT_STACK)?;
    lower("RLIMIT_STACK", libc::RLIMIT_STACK, STACK.min(now.rlim_cur))
}

fn lower(name: &'static str, resource: Resource, value: u64) -> Result<(), Error> {
    let now = now(name, resource)?;
    let value = value.min(now.rlim_max);
    if now.rlim_cur == value && now.rlim_max == value {
        return Ok(());
    }
    let wanted = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: setrlimit reads one rlimit through a valid pointer.
    if unsafe { libc::setrlimit(resource, &raw const wanted) } != 0 {
        return Err(Error::Limit(name, value, io::Error::last_os_error()));
    }
    Ok(())
}
