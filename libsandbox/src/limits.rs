//! Resource limits: soft and hard at once, never raised.

use std::io;

use crate::{Error, Promise, Promises, ResourceLimits};

#[cfg(all(target_os = "linux", target_env = "gnu"))]
type Resource = libc::__rlimit_resource_t;
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
type Resource = libc::c_int;

/// Sets the limits of a stage, and core dumps to nothing; processes too, where none and no thread is
/// promised.
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
    Ok(())
}

/// No core dump: it would put a client's data on the disk.
pub(crate) fn no_core() -> Result<(), Error> {
    lower("RLIMIT_CORE", libc::RLIMIT_CORE, 0)
}

/// No process and no thread more. The kernel compares the limit of the process that asks with all
/// that its user runs: 0 concerns nobody else.
pub(crate) fn no_processes() -> Result<(), Error> {
    lower("RLIMIT_NPROC", libc::RLIMIT_NPROC, 0)
}

/// Most bytes of a role's stack, as programs have it everywhere.
const STACK: u64 = 8 << 20;

/// The main thread's stack is not counted as data.
fn small_stack() -> Result<(), Error> {
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through a valid pointer.
    if unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut now) } != 0 {
        return Err(Error::Limit("RLIMIT_STACK", STACK, io::Error::last_os_error()));
    }
    lower("RLIMIT_STACK", libc::RLIMIT_STACK, STACK.min(now.rlim_cur))
}

fn lower(name: &'static str, resource: Resource, value: u64) -> Result<(), Error> {
    let fail = || Error::Limit(name, value, io::Error::last_os_error());
    let mut now = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit writes one rlimit through a valid pointer.
    if unsafe { libc::getrlimit(resource, &raw mut now) } != 0 {
        return Err(fail());
    }
    let value = value.min(now.rlim_max);
    if now.rlim_cur == value && now.rlim_max == value {
        return Ok(());
    }
    let wanted = libc::rlimit { rlim_cur: value, rlim_max: value };
    // SAFETY: setrlimit reads one rlimit through a valid pointer.
    if unsafe { libc::setrlimit(resource, &raw const wanted) } != 0 {
        return Err(fail());
    }
    Ok(())
}
