//! Attempts to do what no promise of a role names, to be made from inside its sandbox. For tests
//! only: as part of the crate it exists under the feature `escapes`, with which no binary may be
//! installed.
//!
//! An attempt is arranged so that it has no effect worth mentioning even where it succeeds, and so
//! that the kernel's answer tells whether it was kept from happening: arguments are often bad on
//! purpose, because "bad address" or "bad descriptor" means that the kernel went ahead.

use std::ffi::{CString, c_int, c_long, c_void};
use std::fmt;
use std::io;
use std::mem::{size_of_val, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

use std::sync::atomic::{AtomicI32, Ordering};

use crate::{Promise, Promises};

/// The number of the last call that the filter trapped, or -1. In a build with this feature the
/// handler stores it here and lets the call fail, so that one process can make all attempts.
pub static TRAPPED: AtomicI32 = AtomicI32::new(-1);

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The kernel answered with this error, which means no.
    Refused(i32),
    /// The filter trapped this system call.
    Trapped(i32),
    /// The kernel did it, or failed for a reason that has nothing to do with rights.
    Succeeded,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Refused(errno) => write!(f, "refused({})", errno_name(*errno)),
            Outcome::Trapped(nr) => write!(f, "trapped({nr})"),
            Outcome::Succeeded => f.write_str("SUCCEEDED"),
        }
    }
}

fn errno_name(errno: i32) -> String {
    match errno {
        libc::EPERM => "EPERM".to_owned(),
        libc::EACCES => "EACCES".to_owned(),
        libc::ENOSYS => "ENOSYS".to_owned(),
        libc::EXDEV => "EXDEV".to_owned(),
        other => other.to_string(),
    }
}

/// Something to try.
#[derive(Clone, Copy)]
pub struct Attempt {
    /// Its name in a table.
    pub name: &'static str,
    /// It is no escape for a process that holds any of these.
    allowed_by: Promises,
    /// A call, with the values of its arguments that tell its uses apart: the row of the table has
    /// to name it too.
    named: Option<(c_long, &'static [c_int])>,
    /// It is an escape for a process that can do nothing with names but open them.
    looks: bool,
    run: fn(&Path) -> c_long,
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attempt({})", self.name)
    }
}

impl Attempt {
    /// May it succeed in a process with these promises? (With [`Promise::Exec`] on Linux all others
    /// are held too.)
    #[must_use]
    pub fn may_succeed(&self, promises: Promises) -> bool {
        let promised = self.allowed_by.iter().any(|promise| {
            promises.has(promise)
                || (promises.has(Promise::Exec)
                    && !matches!(promise, Promise::Bind | Promise::Id | Promise::Pair))
        });
        // glibc's fstat(3) is a call that takes a name, before 2.39.
        let opens_only =
            promises.opens_only() && !(cfg!(target_env = "gnu") && self.name == STAT_BY_OLD_CALL);
        promised
            && !(self.looks && opens_only)
            && self.named.is_none_or(|(call, of)| promises.names(call, of))
    }

    /// Makes the attempt. `targets` is the directory that [`Targets::prepare`] filled.
    #[must_use]
    pub fn make(&self, targets: &Path) -> Outcome {
        TRAPPED.store(-1, Ordering::SeqCst);
        let result = (self.run)(targets);
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        match TRAPPED.swap(-1, Ordering::SeqCst) {
            -1 => match (result, errno) {
                (-1, libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EXDEV) => Outcome::Refused(errno),
                _ => Outcome::Succeeded,
            },
            nr => Outcome::Trapped(nr),
        }
    }
}

/// Makes every attempt, in order, and returns what became of each.
#[must_use]
pub fn make_all(targets: &Path) -> Vec<(&'static Attempt, Outcome)> {
    make_each(ATTEMPTS, targets)
}

/// Makes these attempts, in order, and returns what became of each.
#[must_use]
pub fn make_each(attempts: &'static [Attempt], targets: &Path) -> Vec<(&'static Attempt, Outcome)> {
    attempts.iter().map(|attempt| (attempt, attempt.make(targets))).collect()
}

/// What the attempts aim at: a directory with files and listening sockets that any user may use.
#[derive(Debug)]
pub struct Targets {
    directory: PathBuf,
    _sockets: (UnixListener, UnixListener),
    datagrams: UnixDatagram,
}

impl Targets {
    /// Fills an empty directory, outside of any sandbox. Keep the value while attempts are made.
    pub fn prepare(directory: &Path) -> io::Result<Targets> {
        std::fs::create_dir_all(directory)?;
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777))?;
        for (name, mode) in [("file", 0o666), ("victim", 0o666), ("mode", 0o666), ("program", 0o777)] {
            let file = directory.join(name);
            std::fs::write(&file, "for everybody\n")?;
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode))?;
        }
        let stream = UnixListener::bind(directory.join("stream"))?;
        let datagrams = UnixDatagram::bind(directory.join("datagram"))?;
        for name in ["stream", "datagram"] {
            std::fs::set_permissions(directory.join(name), PermissionsExt::from_mode(0o777))?;
        }
        datagrams.set_nonblocking(true)?;
        let address = SocketAddr::from_abstract_name(directory.as_os_str().as_bytes())?;
        let hidden = UnixListener::bind_addr(&address)?;
        Ok(Targets { directory: directory.to_owned(), _sockets: (stream, hidden), datagrams })
    }

    /// Where they are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Has a datagram come out of a sandbox since the last time?
    #[must_use]
    pub fn datagram_arrived(&self) -> bool {
        self.datagrams.recv(&mut [0; 16]).is_ok()
    }
}

const NOBODY: Promises = Promises::NONE;

const fn by(promises: &[Promise]) -> Promises {
    Promises::of(promises)
}

const fn attempt(name: &'static str, allowed_by: Promises, run: fn(&Path) -> c_long) -> Attempt {
    Attempt { name, allowed_by, named: None, looks: false, run }
}

/// An attempt to ask what a name is, without opening it.
const fn attempt_look(name: &'static str, run: fn(&Path) -> c_long) -> Attempt {
    let allowed_by = by(&[Promise::Rpath, Promise::Getpw, Promise::Dns]);
    Attempt { name, allowed_by, named: None, looks: true, run }
}

const STAT_BY_OLD_CALL: &str = "stat elsewhere by the older call";

/// An attempt that is no escape for a stage whose row of the table names this use of a call.
const fn attempt_named(
    name: &'static str,
    named: (c_long, &'static [c_int]),
    run: fn(&Path) -> c_long,
) -> Attempt {
    Attempt { name, allowed_by: by(&[Promise::Stdio]), named: Some(named), looks: false, run }
}

/// statmount(2), the same on every architecture.
const STATMOUNT: c_long = 457;

/// Every attempt. Those on files aim outside of what a role sees, so that no promise allows them.
pub const ATTEMPTS: &[Attempt] = &[
    // Files.
    attempt("read another file", NOBODY, |t| open(t, "file", libc::O_RDONLY)),
    attempt("read /etc/passwd", by(&[Promise::Getpw]), |_| {
        open(Path::new("/"), "etc/passwd", libc::O_RDONLY)
    }),
    attempt("list a directory", NOBODY, |t| open(t, ".", libc::O_RDONLY | libc::O_DIRECTORY)),
    attempt("read own memory file", NOBODY, |_| open(Path::new("/proc"), "self/mem", libc::O_RDONLY)),
    attempt("write own memory file", NOBODY, |_| open(Path::new("/proc"), "self/mem", libc::O_RDWR)),
    attempt("open for writing", NOBODY, |t| open(t, "file", libc::O_WRONLY)),
    attempt("open and truncate", NOBODY, |t| open(t, "file", libc::O_RDONLY | libc::O_TRUNC)),
    attempt("create a file", NOBODY, |t| open(t, "created", libc::O_WRONLY | libc::O_CREAT)),
    attempt("create a nameless file", NOBODY, |t| open(t, ".", libc::O_RDWR | libc::O_TMPFILE)),
    attempt("truncate", NOBODY, |t| path1(t, "file", |p| call(libc::SYS_truncate, [p, 0, 0, 0, 0, 0]))),
    attempt("unlink", NOBODY, |t| path1(t, "victim", |p| call(libc::SYS_unlinkat, [CWD, p, 0, 0, 0, 0]))),
    attempt("rename", NOBODY, |t| {
        path2(t, "file", "renamed", |a, b| call(libc::SYS_renameat2, [CWD, a, CWD, b, 0, 0]))
    }),
    attempt("hard link", NOBODY, |t| {
        path2(t, "file", "linked", |a, b| call(libc::SYS_linkat, [CWD, a, CWD, b, 0, 0]))
    }),
    attempt("symbolic link", NOBODY, |t| {
        path2(t, "file", "symlinked", |a, b| call(libc::SYS_symlinkat, [a, CWD, b, 0, 0, 0]))
    }),
    attempt("make a directory", NOBODY, |t| {
        path1(t, "made", |p| call(libc::SYS_mkdirat, [CWD, p, 0o777, 0, 0, 0]))
    }),
    attempt("make a fifo", NOBODY, |t| {
        path1(t, "fifo", |p| call(libc::SYS_mknodat, [CWD, p, c_long::from(libc::S_IFIFO | 0o666), 0, 0, 0]))
    }),
    // Landlock has no right for modes and times: the filter lets nobody change them by a path.
    attempt("chmod", NOBODY, |t| path1(t, "mode", |p| call(libc::SYS_fchmodat, [CWD, p, 0o666, 0, 0, 0]))),
    attempt("chmod to set-user-id", NOBODY, |t| {
        path1(t, "mode", |p| call(libc::SYS_fchmodat, [CWD, p, 0o4755, 0, 0, 0]))
    }),
    attempt("change times", NOBODY, |t| {
        path1(t, "mode", |p| call(libc::SYS_utimensat, [CWD, p, 0, 0, 0, 0]))
    }),
    attempt("chown", NOBODY, |t| path1(t, "mode", |p| call(libc::SYS_fchownat, [CWD, p, -1, -1, 0, 0]))),
    attempt("set an attribute", NOBODY, |t| {
        path2(t, "mode", "user.x", |p, _| {
            call(libc::SYS_setxattr, [p, c"user.x".as_ptr() as c_long, p, 1, 0, 0])
        })
    }),
    // Landlock has no right for looking at names: a process that works on one repository opens
    // them.
    attempt_look("stat elsewhere", |t| {
        let mut stat = [0_u64; 32];
        path1(t, "file", |p| call(libc::SYS_statx, [CWD, p, 0, 0, stat.as_mut_ptr() as c_long, 0]))
    }),
    attempt_look(STAT_BY_OLD_CALL, |t| {
        let mut stat = [0_u64; 32];
        path1(t, "file", |p| call(libc::SYS_newfstatat, [CWD, p, stat.as_mut_ptr() as c_long, 0, 0, 0]))
    }),
    attempt_look("read a link elsewhere", |t| {
        path1(t, "file", |p| call(libc::SYS_readlinkat, [CWD, p, p, 0, 0, 0]))
    }),
    attempt_look("may a file be read elsewhere", |t| {
        path1(t, "file", |p| call(libc::SYS_faccessat, [CWD, p, 4, 0, 0, 0]))
    }),
    attempt_look("open without a right elsewhere", |t| open(t, "file", libc::O_PATH)),
    // The kernel ignores the flags for writing then, so the words for writing must not let it
    // through.
    attempt_look("open without a right and for writing", |t| open(t, "file", libc::O_PATH | libc::O_RDWR)),
    attempt_look("open a directory without a right elsewhere", |t| {
        open(t, ".", libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW)
    }),
    attempt("inotify", NOBODY, |_| keep(call(libc::SYS_inotify_init1, [0; 6]))),
    attempt("fanotify", NOBODY, |_| keep(call(libc::SYS_fanotify_init, [0; 6]))),
    attempt("open by handle", NOBODY, |_| call(libc::SYS_open_by_handle_at, [CWD, 1, 0, 0, 0, 0])),
    attempt("ask about a mount", by(&[Promise::Rpath, Promise::Getpw, Promise::Dns]), |_| {
        call(STATMOUNT, [0; 6])
    }),
    attempt("openat2", NOBODY, |t| {
        path1(t, "file", |p| {
            let how = [0_u64; 3];
            call(libc::SYS_openat2, [CWD, p, how.as_ptr() as c_long, size_of_val(&how) as c_long, 0, 0])
        })
    }),
    attempt("memory file", NOBODY, |_| {
        keep(call(libc::SYS_memfd_create, [c"x".as_ptr() as c_long, 0, 0, 0, 0, 0]))
    }),
    // Sockets.
    attempt("unix socket", by(&[Promise::Unix, Promise::Bind, Promise::Getpw]), |_| {
        keep(call(libc::SYS_socket, [c_long::from(libc::AF_UNIX), STREAM, 0, 0, 0, 0]))
    }),
    attempt("unix datagram socket", NOBODY, |_| {
        keep(call(libc::SYS_socket, [c_long::from(libc::AF_UNIX), DATAGRAM, 0, 0, 0, 0]))
    }),
    attempt("TCP socket", by(&[Promise::Inet, Promise::Dns, Promise::Bind]), |_| {
        keep(call(libc::SYS_socket, [c_long::from(libc::AF_INET), STREAM, 0, 0, 0, 0]))
    }),
    attempt("raw socket", NOBODY, |_| {
        keep(call(libc::SYS_socket, [c_long::from(libc::AF_INET), c_long::from(libc::SOCK_RAW), 1, 0, 0, 0]))
    }),
    attempt("netlink socket", NOBODY, |_| {
        keep(call(libc::SYS_socket, [c_long::from(libc::AF_NETLINK), DATAGRAM, 0, 0, 0, 0]))
    }),
    attempt("connect to a unix socket", by(&[Promise::Unix, Promise::Getpw]), |t| {
        unix(libc::SYS_connect, t.join("stream").as_os_str().as_bytes())
    }),
    attempt("connect to an abstract socket", NOBODY, |t| {
        unix(libc::SYS_connect, &[b"\0", t.as_os_str().as_bytes()].concat())
    }),
    attempt("connect by TCP", by(&[Promise::Inet]), |_| tcp(libc::SYS_connect, 9)),
    attempt("bind a unix socket", NOBODY, |t| unix(libc::SYS_bind, t.join("bound").as_os_str().as_bytes())),
    attempt("bind a TCP port", by(&[Promise::Bind]), |_| tcp(libc::SYS_bind, 0)),
    // What a client has not taken yet: only who accepts connections asks.
    attempt("ask what is unsent", by(&[Promise::Accept]), |_| {
        call(libc::SYS_ioctl, [-1, libc::TIOCOUTQ as c_long, 0, 0, 0, 0])
    }),
    attempt("accept", by(&[Promise::Accept]), |_| call(libc::SYS_accept4, [-1, 0, 0, 0, 0, 0])),
    attempt("datagram to an address", NOBODY, datagram_to_address),
    attempt("make a pair of sockets", by(&[Promise::Pair]), |_| {
        let mut pair = [-1 as c_int; 2];
        let kind = c_long::from(libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC);
        let made = (&raw mut pair) as c_long;
        call(libc::SYS_socketpair, [c_long::from(libc::AF_UNIX), kind, 0, made, 0, 0])
    }),
    attempt("send to an address", by(&[Promise::Dns]), |_| call(libc::SYS_sendto, [-1, 0, 0, 0, 1, 16])),
    attempt("send a descriptor", by(&[Promise::Sendfd]), |_| call(libc::SYS_sendmsg, [-1, 0, 0, 0, 0, 0])),
    attempt("receive a descriptor", by(&[Promise::Recvfd]), |_| call(libc::SYS_recvmsg, [-1, 0, 0, 0, 0, 0])),
    // The kernel counts a user's pipes: a process that makes many slows down all others of its
    // user.
    attempt_named("make a pipe", (libc::SYS_pipe2, &[]), |_| {
        let mut ends = [-1 as c_int; 2];
        let made = call(libc::SYS_pipe2, [(&raw mut ends) as c_long, 0, 0, 0, 0, 0]);
        for end in ends {
            keep(c_long::from(end));
        }
        made
    }),
    attempt_named("make a pipe larger", (libc::SYS_fcntl, &[libc::F_SETPIPE_SZ]), |_| {
        call(libc::SYS_fcntl, [-1, c_long::from(libc::F_SETPIPE_SZ), 1 << 20, 0, 0, 0])
    }),
    // TCP Fast Open: a connect(2) within a send.
    attempt("connect by sendto", NOBODY, |_| call(libc::SYS_sendto, [-1, 0, 0, FAST_OPEN, 0, 0])),
    attempt("connect by sendto to an address", NOBODY, |_| {
        call(libc::SYS_sendto, [-1, 0, 0, FAST_OPEN, 1, 16])
    }),
    attempt("connect by sendmsg", NOBODY, |_| call(libc::SYS_sendmsg, [-1, 0, FAST_OPEN, 0, 0, 0])),
    attempt("connect by sendmmsg", NOBODY, |_| call(libc::SYS_sendmmsg, [-1, 0, 1, FAST_OPEN, 0, 0])),
    // Processes.
    // A file that may be executed and is no program: the kernel says so when it has opened it.
    attempt("exec", NOBODY, |t| path1(t, "program", |p| call(libc::SYS_execve, [p, 0, 0, 0, 0, 0]))),
    attempt("exec at", NOBODY, |t| path1(t, "program", |p| call(libc::SYS_execveat, [CWD, p, 0, 0, 0, 0]))),
    attempt("fork", by(&[Promise::Proc]), |_| clone_and_exit(0)),
    attempt("thread", by(&[Promise::Threads, Promise::Proc]), |_| {
        // Two flags that the kernel does not take together, so that nothing is started.
        let thread = libc::CLONE_THREAD | libc::CLONE_VM | libc::CLONE_SIGHAND;
        let never = libc::CLONE_PIDFD | libc::CLONE_PARENT_SETTID;
        call(libc::SYS_clone, [c_long::from(thread | never), 0, 0, 0, 0, 0])
    }),
    attempt("clone with a namespace", NOBODY, |_| clone_and_exit(libc::CLONE_NEWUSER)),
    attempt("clone3", NOBODY, |_| call(libc::SYS_clone3, [0; 6])),
    attempt("unshare", NOBODY, |_| {
        call(libc::SYS_unshare, [c_long::from(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0])
    }),
    attempt("setns", NOBODY, |_| call(libc::SYS_setns, [-1, 0, 0, 0, 0, 0])),
    attempt("ptrace the parent", NOBODY, |_| {
        call(libc::SYS_ptrace, [c_long::from(libc::PTRACE_SEIZE), parent(), 1, 0, 0, 0])
    }),
    attempt("read the parent's memory", NOBODY, |_| {
        call(libc::SYS_process_vm_readv, [parent(), 0, 0, 0, 0, 0])
    }),
    attempt("kill the parent", by(&[Promise::Proc]), |_| call(libc::SYS_kill, [parent(), 0, 0, 0, 0, 0])),
    attempt("kill a thread of the parent", by(&[Promise::Proc]), |_| {
        call(libc::SYS_tgkill, [parent(), parent(), 0, 0, 0, 0])
    }),
    attempt("kill its group", by(&[Promise::Proc]), |_| call(libc::SYS_kill, [0; 6])),
    attempt("pidfd", by(&[Promise::Proc]), |_| keep(call(libc::SYS_pidfd_open, [parent(), 0, 0, 0, 0, 0]))),
    attempt("take a descriptor", NOBODY, |_| call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0, 0])),
    attempt("limits of the parent", NOBODY, |_| {
        call(libc::SYS_prlimit64, [parent(), c_long::from(libc::RLIMIT_NOFILE), 0, 0, 0, 0])
    }),
    attempt("schedule the parent", NOBODY, |_| call(libc::SYS_sched_setscheduler, [parent(), 0, 0, 0, 0, 0])),
    // Memory.
    attempt("map executable", by(&[Promise::Exec]), |_| {
        let flags = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        call(libc::SYS_mmap, [0, 4096, 7, flags, -1, 0])
    }),
    attempt("make memory executable", by(&[Promise::Exec]), |_| call(libc::SYS_mprotect, [0, 0, 5, 0, 0, 0])),
    attempt("make memory executable by key", NOBODY, |_| call(libc::SYS_pkey_mprotect, [0, 0, 5, -1, 0, 0])),
    attempt("shared memory without a file", NOBODY, |_| map(libc::MAP_SHARED | libc::MAP_ANONYMOUS)),
    attempt("memory that grows down", NOBODY, |_| {
        map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_GROWSDOWN)
    }),
    attempt("grow the stack by moving it", by(&[Promise::Exec]), |_| {
        let here = 0_u8;
        // The page is the stack's, and so many do not exist.
        call(libc::SYS_mremap, [(&raw const here as c_long) & !4095, 4096, c_long::MIN, 1, 0, 0])
    }),
    attempt("3 GiB of memory", NOBODY, |_| bounded(map_of(3 << 30, WRITABLE, |_| 0))),
    attempt("3 GiB of memory in two steps", NOBODY, |_| {
        let writable = c_long::from(WRITABLE);
        bounded(map_of(3 << 30, libc::PROT_NONE, |at| {
            call(libc::SYS_mprotect, [at, 3 << 30, writable, 0, 0, 0])
        }))
    }),
    // Pages of zeroes count as no memory, but their page tables take 2 MiB for each GiB. A stage
    // that maps files of any size has no such limit.
    attempt("1 TiB to read", by(&[Promise::Rpath, Promise::Exec]), |_| {
        bounded(map_of(1 << 40, libc::PROT_READ, |_| 0))
    }),
    attempt("lock memory", NOBODY, |_| call(libc::SYS_mlock, [0; 6])),
    attempt("shared memory", NOBODY, |_| call(libc::SYS_shmget, [0, 0, 0, 0, 0, 0])),
    attempt("userfaultfd", NOBODY, |_| keep(call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]))),
    attempt("personality", NOBODY, |_| call(libc::SYS_personality, [0xffff_ffff, 0, 0, 0, 0, 0])),
    // Rights.
    attempt("set user id", by(&[Promise::Id]), |_| call(libc::SYS_setresuid, [-1, -1, -1, 0, 0, 0])),
    attempt("set groups", by(&[Promise::Id]), |_| call(libc::SYS_setgroups, [-1, 0, 0, 0, 0, 0])),
    attempt("set capabilities", by(&[Promise::Id]), |_| call(libc::SYS_capset, [0; 6])),
    attempt("become dumpable", NOBODY, |_| prctl(libc::PR_SET_DUMPABLE, 1)),
    attempt("outlive the parent", by(&[Promise::Exec]), |_| prctl(libc::PR_SET_PDEATHSIG, 0)),
    attempt("secure bits", NOBODY, |_| prctl(libc::PR_SET_SECUREBITS, -1)),
    attempt("raise a limit", by(&[Promise::Narrow, Promise::Unveil]), |_| {
        let limit = [u64::MAX; 2];
        let core = c_long::from(libc::RLIMIT_CORE);
        call(libc::SYS_prlimit64, [0, core, limit.as_ptr() as c_long, 0, 0, 0])
    }),
    attempt("catch SIGSYS", by(&[Promise::Exec]), |_| {
        call(libc::SYS_rt_sigaction, [c_long::from(libc::SIGSYS), 1, 0, 8, 0, 0])
    }),
    attempt("filter with a listener", NOBODY, |_| call(libc::SYS_seccomp, [1, 8, 0, 0, 0, 0])),
    attempt("signals to another owner", NOBODY, |_| {
        call(libc::SYS_fcntl, [0, c_long::from(libc::F_SETOWN), parent(), 0, 0, 0])
    }),
    attempt("type into the terminal", NOBODY, |_| {
        call(libc::SYS_ioctl, [0, libc::TIOCSTI as c_long, c"x".as_ptr() as c_long, 0, 0, 0])
    }),
    // The system.
    attempt("mount", NOBODY, |_| call(libc::SYS_mount, [1, 1, 1, 0, 0, 0])),
    attempt("unmount", NOBODY, |_| call(libc::SYS_umount2, [1, 0, 0, 0, 0, 0])),
    attempt("pivot root", NOBODY, |_| call(libc::SYS_pivot_root, [1, 1, 0, 0, 0, 0])),
    attempt("open a mount", NOBODY, |_| call(libc::SYS_open_tree, [CWD, 1, 0, 0, 0, 0])),
    attempt("chroot", NOBODY, |_| call(libc::SYS_chroot, [1, 0, 0, 0, 0, 0])),
    attempt("bpf", NOBODY, |_| call(libc::SYS_bpf, [0; 6])),
    attempt("perf events", NOBODY, |_| call(libc::SYS_perf_event_open, [1, 0, -1, -1, 0, 0])),
    attempt("keys", NOBODY, |_| call(libc::SYS_keyctl, [0, -3, 0, 0, 0, 0])),
    attempt("add a key", NOBODY, |_| call(libc::SYS_add_key, [1, 1, 0, 0, 0, 0])),
    attempt("io_uring", NOBODY, |_| call(libc::SYS_io_uring_setup, [1, 1, 0, 0, 0, 0])),
    attempt("io_uring_enter", NOBODY, |_| call(libc::SYS_io_uring_enter, [-1, 0, 0, 0, 0, 0])),
    attempt("load a module", NOBODY, |_| call(libc::SYS_finit_module, [-1, 1, 0, 0, 0, 0])),
    attempt("load a kernel", NOBODY, |_| call(libc::SYS_kexec_load, [0, 1, 1, -1, 0, 0])),
    attempt("set the clock", NOBODY, |_| call(libc::SYS_clock_settime, [0, 1, 0, 0, 0, 0])),
    attempt("set the host name", NOBODY, |_| call(libc::SYS_sethostname, [1, -1, 0, 0, 0, 0])),
    attempt("swap", NOBODY, |_| call(libc::SYS_swapoff, [1, 0, 0, 0, 0, 0])),
    attempt("kernel log", NOBODY, |_| call(libc::SYS_syslog, [10, 0, 0, 0, 0, 0])),
    #[cfg(target_arch = "x86_64")]
    attempt("ports of the machine", NOBODY, |_| call(libc::SYS_ioperm, [0, 0, 0, 0, 0, 0])),
    #[cfg(target_arch = "x86_64")]
    attempt("local descriptor table", NOBODY, |_| call(libc::SYS_modify_ldt, [0; 6])),
    #[cfg(target_arch = "x86_64")]
    attempt("x32 system call", NOBODY, |_| call(0x4000_0000 | libc::SYS_getppid, [0; 6])),
];

/// Attempts of a process that may write in the repository that it works on. Their targets are in
/// every repository that C git makes; where a template left out `hooks`, the test makes them.
pub const IN_REPOSITORY: &[Attempt] = &[
    attempt("write the configuration", NOBODY, |r| open(r, "config", libc::O_WRONLY | libc::O_APPEND)),
    attempt("write HEAD", NOBODY, |r| open(r, "HEAD", libc::O_WRONLY | libc::O_APPEND)),
    attempt("write the description", NOBODY, |r| open(r, "description", libc::O_WRONLY | libc::O_APPEND)),
    attempt("make a hook", NOBODY, |r| open(r, "hooks/escape", libc::O_WRONLY | libc::O_CREAT)),
    attempt("make alternates", NOBODY, |r| {
        open(r, "objects/info/alternates", libc::O_WRONLY | libc::O_CREAT)
    }),
    attempt("make a nameless file", NOBODY, |r| open(r, "hooks", libc::O_RDWR | libc::O_TMPFILE)),
    attempt("truncate the configuration", NOBODY, |r| {
        path1(r, "config", |p| call(libc::SYS_truncate, [p, 0, 0, 0, 0, 0]))
    }),
    attempt("make a directory", NOBODY, |r| {
        path1(r, "made", |p| call(libc::SYS_mkdirat, [CWD, p, 0o777, 0, 0, 0]))
    }),
    attempt("make a directory of objects", NOBODY, |r| {
        path1(r, "objects/made", |p| call(libc::SYS_mkdirat, [CWD, p, 0o777, 0, 0, 0]))
    }),
    attempt("symbolic link to the configuration", NOBODY, |r| {
        path2(r, "config", "refs/heads/escape", |a, b| call(libc::SYS_symlinkat, [a, CWD, b, 0, 0, 0]))
    }),
    attempt("make hooks executable", NOBODY, |r| {
        path1(r, "hooks", |p| call(libc::SYS_fchmodat, [CWD, p, 0o777, 0, 0, 0]))
    }),
    attempt("change times of the configuration", NOBODY, |r| {
        path1(r, "config", |p| call(libc::SYS_utimensat, [CWD, p, 0, 0, 0, 0]))
    }),
];

/// More of these, for a process that makes no names in the repository's own directory.
pub const NAMES_IN_REPOSITORY: &[Attempt] = &[
    attempt("lock packed-refs", NOBODY, |r| open(r, "packed-refs.lock", libc::O_RDWR | libc::O_CREAT)),
    attempt("remove the configuration", NOBODY, |r| {
        path1(r, "config", |p| call(libc::SYS_unlinkat, [CWD, p, 0, 0, 0, 0]))
    }),
    attempt("move the configuration", NOBODY, |r| {
        path2(r, "config", "hooks/escape", |a, b| call(libc::SYS_renameat2, [CWD, a, CWD, b, 0, 0]))
    }),
    attempt("take the configuration for a reference", NOBODY, |r| {
        path2(r, "config", "refs/heads/escape", |a, b| call(libc::SYS_linkat, [CWD, a, CWD, b, 0, 0]))
    }),
    attempt("move HEAD", NOBODY, |r| {
        path2(r, "HEAD", "refs/heads/escape", |a, b| call(libc::SYS_renameat, [CWD, a, CWD, b, 0, 0]))
    }),
];

const CWD: c_long = libc::AT_FDCWD as c_long;
const STREAM: c_long = libc::SOCK_STREAM as c_long;
const DATAGRAM: c_long = libc::SOCK_DGRAM as c_long;
const FAST_OPEN: c_long = libc::MSG_FASTOPEN as c_long;

fn call(nr: c_long, a: [c_long; 6]) -> c_long {
    // SAFETY: pointers among the arguments are either valid for the call or bad on purpose, for the
    // kernel to refuse; no call made here writes to this process's memory, except where its caller
    // says so.
    unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) }
}

/// Closes a descriptor that an attempt gained.
fn keep(fd: c_long) -> c_long {
    if let Ok(raw @ 0..) = c_int::try_from(fd) {
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        drop(unsafe { OwnedFd::from_raw_fd(raw) });
    }
    fd
}

fn parent() -> c_long {
    call(libc::SYS_getppid, [0; 6])
}

fn prctl(option: c_int, value: c_long) -> c_long {
    call(libc::SYS_prctl, [c_long::from(option), value, 0, 0, 0, 0])
}

fn path1(directory: &Path, name: &str, attempt: impl FnOnce(c_long) -> c_long) -> c_long {
    match CString::new(directory.join(name).as_os_str().as_bytes()) {
        Ok(path) => attempt(path.as_ptr() as c_long),
        Err(_) => 0,
    }
}

fn path2(directory: &Path, one: &str, two: &str, attempt: impl FnOnce(c_long, c_long) -> c_long) -> c_long {
    path1(directory, one, |one| path1(directory, two, |two| attempt(one, two)))
}

fn open(directory: &Path, name: &str, flags: c_int) -> c_long {
    path1(directory, name, |path| {
        keep(call(libc::SYS_openat, [CWD, path, c_long::from(flags | libc::O_CLOEXEC), 0o666, 0, 0]))
    })
}

const WRITABLE: c_int = libc::PROT_READ | libc::PROT_WRITE;

/// Maps private memory, uses it and gives it back.
fn map_of(bytes: c_long, access: c_int, then: impl FnOnce(c_long) -> c_long) -> c_long {
    let flags = c_long::from(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    let at = call(libc::SYS_mmap, [0, bytes, c_long::from(access), flags, -1, 0]);
    if at == -1 {
        return -1;
    }
    let result = then(at);
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
    call(libc::SYS_munmap, [at, bytes, 0, 0, 0, 0]);
    set_errno(errno);
    result
}

/// For attempts that a limit refuses: its answer, `ENOMEM`, counts as a refusal too.
fn bounded(result: c_long) -> c_long {
    if result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::ENOMEM) {
        set_errno(libc::EPERM);
    }
    result
}

fn set_errno(errno: c_int) {
    // SAFETY: the place is this thread's own, and always there.
    unsafe { *libc::__errno_location() = errno };
}

/// Maps a page, and gives it back where that succeeds.
fn map(flags: c_int) -> c_long {
    let page = call(libc::SYS_mmap, [0, 4096, 3, c_long::from(flags), -1, 0]);
    if page != -1 {
        call(libc::SYS_munmap, [page, 4096, 0, 0, 0, 0]);
    }
    page
}

/// Starts a child that ends at once; waits for it if it was started.
fn clone_and_exit(flags: c_int) -> c_long {
    let pid = call(libc::SYS_clone, [c_long::from(flags | libc::SIGCHLD), 0, 0, 0, 0, 0]);
    if pid == 0 {
        call(libc::SYS_exit_group, [0; 6]);
    }
    if pid > 0 {
        call(libc::SYS_wait4, [pid, 0, 0, 0, 0, 0]);
    }
    pid
}

/// A stream socket, connected or bound to a path, or to an abstract name if it begins with a NUL.
fn unix(nr: c_long, name: &[u8]) -> c_long {
    let (address, length) = unix_address(name);
    with_socket(libc::AF_UNIX, |socket| {
        call(nr, [socket, (&raw const address) as c_long, length as c_long, 0, 0, 0])
    })
}

/// A stream socket, connected or bound on the loopback interface.
fn tcp(nr: c_long, port: u16) -> c_long {
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes([127, 0, 0, 1]) },
        sin_zero: [0; 8],
    };
    with_socket(libc::AF_INET, |socket| {
        call(nr, [socket, (&raw const address) as c_long, size_of_val(&address) as c_long, 0, 0, 0])
    })
}

fn with_socket(family: c_int, attempt: impl FnOnce(c_long) -> c_long) -> c_long {
    let socket = call(libc::SYS_socket, [c_long::from(family), STREAM, 0, 0, 0, 0]);
    let Ok(raw @ 0..) = c_int::try_from(socket) else { return -1 };
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let result = attempt(c_long::from(socket.as_raw_fd()));
    let error = io::Error::last_os_error().raw_os_error();
    drop(socket);
    restore(error);
    result
}

/// Puts errno back after a call that may have changed it.
fn restore(error: Option<i32>) {
    if let Some(error) = error {
        // SAFETY: errno of this thread is always valid to write.
        unsafe { *libc::__errno_location() = error };
    }
}

fn unix_address(name: &[u8]) -> (libc::sockaddr_un, usize) {
    // SAFETY: all zeroes is a valid sockaddr_un.
    let mut address: libc::sockaddr_un = unsafe { zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (to, from) in address.sun_path.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let named = size_of::<libc::sa_family_t>() + name.len().min(address.sun_path.len());
    // A path is ended by its NUL, an abstract name by its length.
    (address, if name.first() == Some(&0) { named } else { size_of::<libc::sockaddr_un>() })
}

/// A datagram gets out without socket(2) and connect(2): one end of a pair, and an address in the
/// message.
fn datagram_to_address(targets: &Path) -> c_long {
    let mut pair = [-1 as c_int; 2];
    // SAFETY: the kernel writes two descriptors through a valid pointer.
    let made = unsafe {
        libc::socketpair(libc::AF_UNIX, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0, pair.as_mut_ptr())
    };
    if made != 0 {
        return -1;
    }
    // SAFETY: the kernel has just made both.
    let (one, _other) = unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) };
    let (mut address, length) = unix_address(targets.join("datagram").as_os_str().as_bytes());
    let mut part = libc::iovec { iov_base: c"out".as_ptr() as *mut c_void, iov_len: 3 };
    // SAFETY: all zeroes is a valid msghdr.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_name = (&raw mut address).cast();
    message.msg_namelen = length as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;

    call(libc::SYS_sendmsg, [c_long::from(one.as_raw_fd()), (&raw const message) as c_long, 0, 0, 0, 0])
}
