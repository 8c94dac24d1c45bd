//! Tables that the linker wants written once, and read from then on (`PT_GNU_RELRO`): addresses of
//! functions, methods of traits, what runs at exit.
//!
//! glibc makes them read-only itself. musl leaves that to its dynamic loader, which a static
//! program does not have: its header promises read-only tables, and without this file they stay
//! writable, a target for whoever can write one wrong word.

use std::ffi::{c_int, c_void};
use std::io;

use crate::Error;

/// Makes the program's own tables read-only. Costs one system call.
pub(super) fn protect() -> Result<(), Error> {
    let mut result: io::Result<()> = Ok(());
    // SAFETY: the callback is called before this returns, with the pointer to `result`, which lives
    // as long and is not used meanwhile.
    unsafe { libc::dl_iterate_phdr(Some(protect_program), (&raw mut result).cast()) };
    result.map_err(|e| Error::Call("mprotect", e))
}

/// Called for each object of the process. The program itself is the first, and the only one of a
/// static program.
extern "C" fn protect_program(info: *mut libc::dl_phdr_info, _: usize, result: *mut c_void) -> c_int {
    // SAFETY: dl_iterate_phdr hands over a valid description, and `protect` the pointer to its
    // result.
    let (info, result) = unsafe { (&*info, &mut *result.cast::<io::Result<()>>()) };
    // SAFETY: sysconf takes an integer. The size of a page is always known.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as u64;
    if info.dlpi_phdr.is_null() {
        return 1;
    }
    // SAFETY: the program's headers are mapped as long as it runs, and these are so many.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_GNU_RELRO) {
        let start = info.dlpi_addr.wrapping_add(header.p_vaddr);
        // The page at the end is left out unless all of it belongs to the tables, as in glibc. The
        // linker ends them at a page.
        let (from, to) = (start / page * page, start.wrapping_add(header.p_memsz) / page * page);
        let length = to.saturating_sub(from) as usize;
        // SAFETY: the range lies within the program's own data. Its linker says that nothing there
        // is written after the start, and the start is over when Rust code runs.
        if length > 0 && unsafe { libc::mprotect(from as *mut c_void, length, libc::PROT_READ) } != 0 {
            *result = Err(io::Error::last_os_error());
        }
    }
    1
}

#[cfg(test)]
mod tests {
    /// With glibc they are protected already. `regress/tests/config/hardening.rs` shows that they
    /// are read-only in processes at work.
    #[test]
    fn tables_may_be_protected_twice() {
        super::protect().expect("protects");
        super::protect().expect("protects");
    }
}
