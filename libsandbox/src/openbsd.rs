//! OpenBSD: the calls of [`crate::words`], made through the `pledge` and `unveil` crates.

use std::io;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::words::{Call, openbsd_calls};
use crate::{Coverage, Error, Report, Stage};

/// What earlier stages of this process made visible.
static VISIBLE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub(crate) fn enter(stage: &Stage<'_>) -> Result<Report, Error> {
    use std::os::unix::ffi::OsStrExt;

    crate::limits::set(&stage.limits, stage.promises)?;
    let mut visible = VISIBLE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for call in openbsd_calls(stage, &visible) {
        match call {
            Call::Unveil(path, letters) => {
                unveil::unveil(path.as_os_str().as_bytes(), &letters)
                    .map_err(|e| Error::Path(path.clone(), unveil_cause(e)))?;
                visible.push(path);
            }
            Call::Lock => unveil::unveil("", "").map_err(|e| Error::Call("unveil", unveil_cause(e)))?,
            Call::Pledge(words) => pledge::pledge(words.as_str(), None).map_err(|e| match e {
                pledge::Error::Other(errno) => Error::Call("pledge", io::Error::from_raw_os_error(errno)),
                other => Error::Kernel(other.to_string()),
            })?,
        }
    }
    Ok(report())
}

pub(crate) fn check_platform(_: crate::Enforcement) -> Result<Report, Error> {
    Ok(report())
}

/// Nothing to do here: no process can trace another one or gain privilege by exec once it is
/// pledged.
pub(crate) fn harden_process(_: &'static str) -> Result<(), Error> {
    Ok(())
}

/// Directories that programs need to start: unveil(2) does not hide them from the kernel's own
/// loading of ld.so, and exec'ed programs start without the unveils of their parent.
pub(crate) fn loader_paths() -> Vec<(PathBuf, crate::Access)> {
    Vec::new()
}

fn report() -> Report {
    Report { seccomp: true, landlock: Coverage::None, ..Report::default() }
}

fn unveil_cause(e: unveil::Error) -> io::Error {
    match e {
        unveil::Error::Os(errno) => io::Error::from_raw_os_error(errno),
        other => io::Error::other(other.to_string()),
    }
}

pub(crate) fn fstat(fd: std::os::fd::BorrowedFd<'_>) -> io::Result<libc::stat> {
    use std::os::fd::AsRawFd;

    let mut stat = std::mem::MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: fstat fills one stat through a valid pointer.
    if unsafe { libc::fstat(fd.as_raw_fd(), stat.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zeroes is a valid stat, and fstat has filled it.
    Ok(unsafe { stat.assume_init() })
}
