//! Linux: resource limits, Landlock for paths, ports and scopes, and one seccomp filter per stage
//! for everything else.
//!
//! Neither half is enough. Landlock lets a process connect to unix sockets by path, map memory
//! executable and send datagrams with an address; seccomp cannot tell one path from another.

mod calls;
mod filter;
mod landlock;
mod lines;
#[cfg(any(target_env = "musl", test))]
mod relro;
pub(crate) mod rows;
mod rows_of_roles;
mod trap;

use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Access, Enforcement, Error, Promises, Report, Stage};

pub(crate) fn harden_process(name: &'static str) -> Result<(), Error> {
    prctl("no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    prctl("dumpable", libc::PR_SET_DUMPABLE, 0)?;
    #[cfg(target_env = "musl")]
    relro::protect()?;
    trap::set_name(name);
    trap::install()
}

pub(crate) fn enter(stage: &Stage<'_>) -> Result<Report, Error> {
    refuse_threads()?;
    prctl("no_new_privs", libc::PR_SET_NO_NEW_PRIVS, 1)?;
    trap::install()?;
    crate::limits::set(&stage.limits, stage.promises)?;
    let mut report = Report::default();
    landlock::restrict(stage, &mut report)?;
    restrict_calls(stage, &mut report)?;
    Ok(report)
}

pub(crate) fn check_platform(enforcement: Enforcement) -> Result<Report, Error> {
    let mut report = Report { landlock_abi: landlock::abi(), ..Report::default() };
    landlock::check(enforcement, &mut report)?;
    let action = libc::SECCOMP_RET_TRAP;
    // SAFETY: the operation reads one u32 through a valid pointer.
    let available =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u32, &raw const action) };
    if available == 0 {
        report.seccomp = true;
    } else {
        without_filter(io::Error::last_os_error(), enforcement, &mut report)?;
    }
    Ok(report)
}

/// The process's id and the promises of the filter it installed last; 0: none. Kept together with
/// the id because a filter refers to it, and a process that was merely forked has another one.
static IN_FORCE: AtomicU64 = AtomicU64::new(0);

/// Installs the filter of a stage. It comes last, since it may take away what installing needs.
fn restrict_calls(stage: &Stage<'_>, report: &mut Report) -> Result<(), Error> {
    let pid = std::process::id();
    let known = IN_FORCE.load(Ordering::Relaxed);
    let in_force = (known >> 32 == u64::from(pid)).then(|| Promises::of_bits(known as u32));
    let mut program = filter::build(stage.promises, in_force, pid);
    report.instructions = program.len();
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("a filter has at most 4096 instructions"),
        filter: program.as_mut_ptr(),
    };
    // The kernel takes three arguments. The fourth tells a tracer, in the test of the table, which
    // row of it is in force from here on.
    let row = stage.promises.row();
    // SAFETY: the kernel reads the program, which lives until after the call.
    let result = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u32, &raw const program, row)
    };
    if result == 0 {
        IN_FORCE.store(u64::from(pid) << 32 | u64::from(stage.promises.bits()), Ordering::Relaxed);
        report.seccomp = true;
        return Ok(());
    }
    report.instructions = 0;
    without_filter(io::Error::last_os_error(), stage.enforcement, report)
}

/// The kernel takes no filter: the end, or a warning.
fn without_filter(cause: io::Error, enforcement: Enforcement, report: &mut Report) -> Result<(), Error> {
    match (enforcement, cause.raw_os_error()) {
        (Enforcement::BestEffort, Some(libc::ENOSYS | libc::EINVAL | libc::EPERM)) => {
            report.warnings.push(format!("seccomp: {cause}: system calls are not restricted"));
            Ok(())
        }
        _ => Err(Error::Call("seccomp", cause)),
    }
}

/// Landlock restricts one thread only (before its ABI 8), and a filter is put on one thread, so a
/// thread that runs already would be left free. unshare(CLONE_THREAD) changes nothing and fails
/// exactly when there is a second thread.
fn refuse_threads() -> Result<(), Error> {
    // SAFETY: no pointer is passed, and CLONE_THREAD alone changes nothing.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error().raw_os_error() {
        Some(libc::EINVAL) => Err(Error::Threads),
        // A container's own filter may forbid unshare(2) whatever its flags: ask /proc, and if that
        // is not there either, the caller's word that no thread runs has to do.
        _ => match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
            Ok(tasks) if tasks > 1 => Err(Error::Threads),
            _ => Ok(()),
        },
    }
}

pub(crate) fn allowed_calls(promises: Promises) -> usize {
    filter::allowed(promises)
}

fn prctl(name: &'static str, option: libc::c_int, value: libc::c_ulong) -> Result<(), Error> {
    // SAFETY: the options used here take integers only.
    if unsafe { libc::prctl(option, value, 0, 0, 0) } != 0 {
        return Err(Error::Call(name, io::Error::last_os_error()));
    }
    Ok(())
}

pub(crate) fn fstat(fd: BorrowedFd<'_>) -> io::Result<libc::stat> {
    let mut stat = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: on 64-bit Linux libc's stat is the kernel's; the call fills one through a valid
    // pointer.
    if unsafe { libc::syscall(libc::SYS_fstat, fd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a valid stat, and the kernel has filled it.
    Ok(unsafe { stat.assume_init() })
}

/// The directories of the objects that are mapped executable now, and the loader's cache.
/// Directories rather than the files themselves, so that an upgrade of the C library does not keep
/// children from starting.
pub(crate) fn loader_paths() -> Vec<(PathBuf, Access)> {
    let mut maps = Vec::new();
    if std::fs::File::open("/proc/self/maps").and_then(|mut f| f.read_to_end(&mut maps)).is_err() {
        maps.clear();
    }
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let mut found: Vec<(PathBuf, Access)> = Vec::new();
    for line in maps.split(|&b| b == b'\n') {
        let mut fields = line.splitn(6, |&b| b == b' ');
        let executable = fields.nth(1).is_some_and(|mode| mode.contains(&b'x'));
        let Some(name) = fields.nth(3).map(<[u8]>::trim_ascii_start) else { continue };
        let path = Path::new(std::ffi::OsStr::from_bytes(name));
        if !executable || !path.is_absolute() || path == own {
            continue;
        }
        if let Some(directory) = path.parent()
            && !found.iter().any(|(seen, _)| seen == directory)
        {
            found.push((directory.to_owned(), Access::EXECUTE));
        }
    }
    let cache = Path::new("/etc/ld.so.cache");
    if cache.exists() {
        found.push((cache.to_owned(), Access::READ));
    }
    found
}
