//! The end of a process at a forbidden call: the kernel does not make the call and raises `SIGSYS`.
//! The handler names process and call on standard error, and exits with [`FORBIDDEN_STATUS`].
//! (Killed by the filter itself, the number would be lost, and a call that a newer C library makes
//! would have to be found by a debugger.)
//!
//! The process cannot get around the handler. The filter lets nobody set another one. Blocking or
//! ignoring `SIGSYS` only takes the message away: the kernel forces this signal, and if it is
//! blocked, the process ends at once. (The C library blocks all signals while it starts a thread or
//! a process, so a refused clone ends without a line.) If the handler could not run at all, the
//! call still would not have been made.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::OnceLock;

use crate::Error;
#[cfg(not(feature = "escapes"))]
use crate::FORBIDDEN_STATUS;

/// The name of the process in the report. Reading a set `OnceLock` is one atomic load, which a
/// signal handler may do.
static NAME: OnceLock<&'static str> = OnceLock::new();

/// Names the process for the handler's line. The first name stays.
pub(super) fn set_name(name: &'static str) {
    let _ = NAME.set(name);
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);

/// Sets the handler, unless it is set: a process in a stage may not set it again.
pub(super) fn install() -> Result<(), Error> {
    let failed = || Error::Call("sigaction", io::Error::last_os_error());
    let handler: Handler = forbidden;
    let mut present = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null action the call only fills the third argument, a valid pointer.
    if unsafe { libc::sigaction(libc::SIGSYS, ptr::null(), present.as_mut_ptr()) } != 0 {
        return Err(failed());
    }
    // SAFETY: all zeroes is a valid sigaction, and the call has filled it.
    if unsafe { present.assume_init() }.sa_sigaction == handler as usize {
        return Ok(());
    }
    // SAFETY: all zeroes is a valid sigaction (no flags, empty mask), whose fields are set below.
    let mut action = unsafe { MaybeUninit::<libc::sigaction>::zeroed().assume_init() };
    action.sa_sigaction = handler as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: the mask is a valid pointer; nothing may interrupt the handler.
    unsafe { libc::sigfillset(&raw mut action.sa_mask) };
    // SAFETY: the action is initialised, and its handler has the signature that SA_SIGINFO asks for
    // and does only what is safe in a signal handler.
    if unsafe { libc::sigaction(libc::SIGSYS, &raw const action, ptr::null_mut()) } != 0 {
        return Err(failed());
    }
    Ok(())
}

/// The beginning of a `siginfo_t` of `SIGSYS`, which libc does not name: see sigaction(2).
#[repr(C)]
struct SigSys {
    signo: c_int,
    errno: c_int,
    code: c_int,
    call_addr: *mut libc::c_void,
    syscall: c_int,
    arch: u32,
}

#[cfg(not(feature = "escapes"))]
extern "C" fn forbidden(_: c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t, which is larger than SigSys and begins like it.
    let call = unsafe { (*info.cast::<SigSys>()).syscall };
    let mut line = Line { bytes: [0; 160], len: 0 };
    line.text(NAME.get().copied().unwrap_or("sandbox"));
    line.text(": forbidden system call ");
    line.number(call.unsigned_abs());
    line.text("\n");
    // SAFETY: the buffer is valid for its length. Both calls may be made in a signal handler and
    // are in every stage.
    unsafe {
        libc::write(2, line.bytes.as_ptr().cast(), line.len);
        libc::_exit(FORBIDDEN_STATUS);
    }
}

/// A line that is built without allocating. It is cut where it does not fit.
#[cfg_attr(feature = "escapes", allow(dead_code))]
struct Line {
    bytes: [u8; 160],
    len: usize,
}

#[cfg_attr(feature = "escapes", allow(dead_code))]
impl Line {
    fn text(&mut self, text: &str) {
        for &byte in text.as_bytes() {
            if let Some(free) = self.bytes.get_mut(self.len) {
                *free = byte;
                self.len += 1;
            }
        }
    }

    fn number(&mut self, mut number: u32) {
        let mut digits = [0; 10];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text(std::str::from_utf8(&digits[first..]).unwrap_or_default());
    }
}

/// Builds for tests: the call fails with EPERM and its number is kept, so that one process can try
/// one escape after another.
#[cfg(feature = "escapes")]
extern "C" fn forbidden(_: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a siginfo_t, which is larger than SigSys and begins like it.
    let call = unsafe { (*info.cast::<SigSys>()).syscall };
    crate::escape::TRAPPED.store(call, std::sync::atomic::Ordering::SeqCst);
    let context = context.cast::<libc::ucontext_t>();
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the kernel passes the interrupted context; this is the register of a call's result.
    unsafe {
        (*context).uc_mcontext.gregs[libc::REG_RAX as usize] = -i64::from(libc::EPERM);
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: the kernel passes the interrupted context; this is the register of a call's result.
    unsafe {
        (*context).uc_mcontext.regs[0] = (-i64::from(libc::EPERM)) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_put_together_without_allocating() {
        let mut line = Line { bytes: [0; 160], len: 0 };
        line.text("repo_read: forbidden system call ");
        line.number(0);
        line.text(" ");
        line.number(u32::MAX);
        assert_eq!(&line.bytes[..line.len], b"repo_read: forbidden system call 0 4294967295");
        line.text(&"x".repeat(500));
        assert_eq!(line.len, line.bytes.len());
    }

    #[test]
    fn the_kernel_fills_the_struct_where_it_is_read() {
        assert_eq!(std::mem::offset_of!(SigSys, syscall), 24);
        assert!(size_of::<SigSys>() <= size_of::<libc::siginfo_t>());
    }
}
