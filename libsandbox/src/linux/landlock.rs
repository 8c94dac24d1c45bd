//! Landlock by its three system calls. See landlock(7) and the kernel's `userspace-api/landlock`.
//!
//! By hand rather than by the `landlock` crate: its best effort answers yes where nothing is
//! enforced, and it asks fstat(3) about a descriptor, which is a path call in glibc before 2.39 and
//! refused to a process without `rpath`.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Access, Coverage, Enforcement, Error, Promise, Report, Stage, Visible};

/// What a rule set restricts, or a rule allows, in the file system: `LANDLOCK_ACCESS_FS_*`.
mod fs {
    pub(super) const EXECUTE: u64 = 1 << 0;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REMOVE_DIR: u64 = 1 << 4;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_DIR: u64 = 1 << 7;
    pub(super) const MAKE_REG: u64 = 1 << 8;
    pub(super) const MAKE_SOCK: u64 = 1 << 9;
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;
    /// What a rule on something else than a directory may hold.
    pub(super) const ON_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV;
    /// ABI 1: the thirteen first ones.
    pub(super) const ALL_1: u64 = (1 << 13) - 1;
}

/// `LANDLOCK_ACCESS_NET_*`, ABI 4.
mod net {
    pub(super) const BIND_TCP: u64 = 1 << 0;
    pub(super) const CONNECT_TCP: u64 = 1 << 1;
}

/// `LANDLOCK_SCOPE_*`, ABI 6.
mod scope {
    pub(super) const ABSTRACT_UNIX_SOCKET: u64 = 1 << 0;
    pub(super) const SIGNAL: u64 = 1 << 1;
}

/// The oldest version that enforcement accepts: with version 1 nothing can be renamed from one
/// directory to another, which is how a pack is installed.
const REQUIRED_ABI: u32 = 2;

const CREATE_RULESET_VERSION: u32 = 1;
const RULE_PATH_BENEATH: u32 = 1;

/// `struct landlock_ruleset_attr`. A kernel that knows fewer fields is given a shorter struct.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Handled {
    fs: u64,
    net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct PathBeneath {
    allowed: u64,
    parent: RawFd,
}

/// The kernel's version of Landlock; 0 if it has none or has it switched off.
pub(super) fn abi() -> u32 {
    // SAFETY: with this flag the pointer must be null and the size 0; nothing is read or written.
    let version = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<Handled>(),
            0_usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).unwrap_or(0)
}

/// Is this kernel's Landlock enough? Says in the report what it lacks.
pub(super) fn check(enforcement: Enforcement, report: &mut Report) -> Result<(), Error> {
    let abi = report.landlock_abi;
    if abi < REQUIRED_ABI {
        let what = match abi {
            0 => "the kernel has no Landlock, or it is switched off".to_owned(),
            _ => format!("the kernel's Landlock is of version {abi}, {REQUIRED_ABI} is needed"),
        };
        if enforcement == Enforcement::Required {
            return Err(Error::Kernel(what));
        }
        report.warnings.push(format!("{what}: paths are not restricted"));
        report.landlock = Coverage::None;
        return Ok(());
    }
    for (since, what) in [
        (3, "truncate is left to the system-call filter"),
        (4, "TCP ports are left to the system-call filter"),
        (5, "ioctl on devices is left to the system-call filter"),
        (6, "abstract sockets and signals are left to the system-call filter"),
    ] {
        if abi < since {
            report.warnings.push(format!("Landlock is of version {abi}: {what}"));
        }
    }
    report.landlock = if abi >= 6 { Coverage::Full } else { Coverage::Partial };
    Ok(())
}

/// Puts a stage's paths, ports and scopes in force for this thread and all that it starts.
pub(super) fn restrict(stage: &Stage<'_>, report: &mut Report) -> Result<(), Error> {
    report.landlock_abi = abi();
    check(stage.enforcement, report)?;
    if report.landlock == Coverage::None {
        return Ok(());
    }
    let abi = report.landlock_abi;
    let handled = handled(stage, abi);
    if handled == Handled::default() || adds_nothing(&handled) {
        return Ok(());
    }
    let ruleset = create(&handled, abi)?;
    for visible in stage.paths.unwrap_or_default() {
        allow(&ruleset, visible, handled.fs)?;
    }
    for (name, promise) in SYSTEM_FILES {
        // These paths are part of the promise, as on OpenBSD. A path that does not exist is not
        // needed.
        if stage.promises.has(*promise) && stage.paths.is_some() && Path::new(name).exists() {
            allow(&ruleset, &Visible::named(Path::new(name), Access::READ), handled.fs)?;
        }
    }
    // SAFETY: takes a descriptor and flags, no pointer.
    if unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0_u32) } != 0 {
        return Err(Error::Call("landlock_restrict_self", io::Error::last_os_error()));
    }
    NET_DENIED.fetch_or(handled.net, Ordering::Relaxed);
    SCOPED.fetch_or(handled.scoped, Ordering::Relaxed);
    Ok(())
}

/// Ports and scopes that this process has denied itself. There are no rules about them: once
/// denied, they stay denied.
static NET_DENIED: AtomicU64 = AtomicU64::new(0);
static SCOPED: AtomicU64 = AtomicU64::new(0);

/// A stage that leaves the paths as they are and restricts nothing else that is still free needs no
/// layer of its own.
fn adds_nothing(handled: &Handled) -> bool {
    handled.fs == 0
        && handled.net & !NET_DENIED.load(Ordering::Relaxed) == 0
        && handled.scoped & !SCOPED.load(Ordering::Relaxed) == 0
}

/// Files that a promise opens by itself.
const SYSTEM_FILES: &[(&str, Promise)] = &[
    ("/etc/passwd", Promise::Getpw),
    ("/etc/group", Promise::Getpw),
    ("/etc/nsswitch.conf", Promise::Getpw),
    ("/etc/nsswitch.conf", Promise::Dns),
    ("/etc/resolv.conf", Promise::Dns),
    ("/etc/hosts", Promise::Dns),
    ("/etc/host.conf", Promise::Dns),
    ("/etc/gai.conf", Promise::Dns),
    ("/etc/services", Promise::Dns),
];

/// The rights that a stage restricts, as far as this version of Landlock knows them.
fn handled(stage: &Stage<'_>, abi: u32) -> Handled {
    let has = |promise| stage.promises.has(promise);
    let mut handled = Handled::default();
    if stage.paths.is_some() {
        handled.fs = fs::ALL_1;
        for (since, right) in [(2, fs::REFER), (3, fs::TRUNCATE), (5, fs::IOCTL_DEV)] {
            if abi >= since {
                handled.fs |= right;
            }
        }
    }
    if abi >= 4 {
        if !has(Promise::Bind) {
            handled.net |= net::BIND_TCP;
        }
        // A right denied here is denied to all children, and one of them will deliver
        // notifications.
        if !has(Promise::Inet) && !has(Promise::Exec) {
            handled.net |= net::CONNECT_TCP;
        }
    }
    if abi >= 6 {
        handled.scoped |= scope::ABSTRACT_UNIX_SOCKET;
        if !has(Promise::Proc) {
            handled.scoped |= scope::SIGNAL;
        }
    }
    handled
}

fn create(handled: &Handled, abi: u32) -> Result<OwnedFd, Error> {
    let size: usize = match abi {
        0..=3 => 8,
        4..=5 => 16,
        _ => size_of::<Handled>(),
    };
    // SAFETY: the kernel reads `size` bytes, which is at most the size of the struct.
    let fd =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::from_ref(handled), size, 0_u32) };
    let fd = RawFd::try_from(fd).unwrap_or(-1);
    if fd < 0 {
        return Err(Error::Call("landlock_create_ruleset", io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Adds the rule for one visible place.
fn allow(ruleset: &OwnedFd, visible: &Visible<'_>, handled: u64) -> Result<(), Error> {
    let fail = |e| Error::Path(visible.name.to_owned(), e);
    let opened;
    let parent = match visible.open {
        Some(fd) => fd.as_raw_fd(),
        None => {
            opened = open_path(visible.name).map_err(fail)?;
            opened.as_raw_fd()
        }
    };
    let mut allowed = rights(visible.access) & handled;
    if allowed == 0 {
        // An empty rule is an error for the kernel; without a rule the place is hidden, as
        // intended.
        return Ok(());
    }
    if let Err(e) = add_rule(ruleset, allowed, parent) {
        // The kernel refuses rights of directories on anything else, so this may be a file: its
        // rights alone.
        allowed &= fs::ON_FILES;
        if e.raw_os_error() != Some(libc::EINVAL) || allowed == 0 {
            return Err(fail(e));
        }
        add_rule(ruleset, allowed, parent).map_err(fail)?;
    }
    Ok(())
}

fn add_rule(ruleset: &OwnedFd, allowed: u64, parent: RawFd) -> io::Result<()> {
    let rule = PathBeneath { allowed, parent };
    // SAFETY: the kernel reads one struct of this rule type through a valid pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset.as_raw_fd(),
            RULE_PATH_BENEATH,
            std::ptr::from_ref(&rule),
            0_u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A descriptor that names a place and opens nothing: Landlock and permissions ask for no right to
/// it.
fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: the path is a C string that outlives the call.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: open has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An access in Landlock's rights. Devices, FIFOs and symbolic links are made by nobody.
fn rights(access: Access) -> u64 {
    let mut rights = 0;
    for (letter, bits) in [
        (Access::READ, fs::READ_FILE | fs::READ_DIR),
        (Access::WRITE, fs::WRITE_FILE | fs::TRUNCATE),
        (Access::CREATE, fs::MAKE_REG | fs::MAKE_DIR | fs::REMOVE_FILE | fs::REMOVE_DIR | fs::REFER),
        (Access::EXECUTE, fs::EXECUTE | fs::READ_FILE),
        (Access::SOCKET, fs::MAKE_SOCK | fs::REMOVE_FILE),
        (Access::FILES, fs::MAKE_REG | fs::REMOVE_FILE | fs::REFER),
        (Access::REMOVE_DIRECTORY, fs::REMOVE_DIR),
    ] {
        if access.has(letter) {
            rights |= bits;
        }
    }
    rights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Promises, ResourceLimits};

    fn stage(words: &str) -> Stage<'static> {
        Stage {
            promises: words.parse::<Promises>().expect("words of the test"),
            paths: Some(&[]),
            limits: ResourceLimits::UNCHANGED,
            enforcement: Enforcement::Required,
        }
    }

    #[test]
    fn an_old_kernel_is_asked_only_for_what_it_knows() {
        let at = |abi| handled(&stage("stdio"), abi);
        assert_eq!(at(2), Handled { fs: (1 << 14) - 1, net: 0, scoped: 0 });
        assert_eq!(at(4), Handled { fs: (1 << 15) - 1, net: 3, scoped: 0 });
        assert_eq!(at(6), Handled { fs: (1 << 16) - 1, net: 3, scoped: 3 });
    }

    #[test]
    fn promises_leave_their_own_rights_free() {
        assert_eq!(handled(&stage("stdio inet"), 6).net, net::BIND_TCP);
        assert_eq!(handled(&stage("stdio bind"), 6).net, net::CONNECT_TCP);
        assert_eq!(handled(&stage("stdio proc"), 6).scoped, scope::ABSTRACT_UNIX_SOCKET);
    }

    #[test]
    fn a_kernel_without_landlock_is_refused_unless_best_effort() {
        for abi in [0, 1] {
            let mut report = Report { landlock_abi: abi, ..Report::default() };
            assert!(matches!(check(Enforcement::Required, &mut report), Err(Error::Kernel(_))));
            check(Enforcement::BestEffort, &mut report).expect("best effort");
            assert_eq!((report.landlock, report.warnings.len()), (Coverage::None, 1));
        }
        let mut report = Report { landlock_abi: 2, ..Report::default() };
        check(Enforcement::Required, &mut report).expect("the oldest one that will do");
        assert_eq!((report.landlock, report.warnings.len()), (Coverage::Partial, 4));
    }
}
