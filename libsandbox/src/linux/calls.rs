//! The system calls that each promise stands for. Every group names the roles that need it. A call
//! that is not in these tables is refused.
//!
//! The calls that have no `at` in their name are x86_64's own; aarch64 never had them, and its C
//! library makes the others.

use libc::*;

use crate::Promise;

/// The calls of a promise.
pub(super) struct Group {
    pub(super) promise: Promise,
    /// Promises that need this group too.
    pub(super) implied_by: &'static [Promise],
    /// Allowed whatever the arguments.
    pub(super) always: &'static [c_long],
    /// Allowed when all conditions hold. One call may stand here several times.
    pub(super) when: &'static [(c_long, &'static [Cond])],
}

/// A condition on one argument: the bits of the mask equal the value, or differ from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cond {
    pub(super) arg: u8,
    pub(super) mask: u64,
    pub(super) value: Value,
    pub(super) differs: bool,
}

impl Cond {
    /// Whether it asks for exactly this value of an `int`.
    pub(super) const fn names(&self, value: c_int) -> bool {
        match self.value {
            Value::Is(is) => self.mask == INT && !self.differs && is == value as u32 as u64,
            Value::OwnPid | Value::BelowStack => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Value {
    Is(u64),
    /// The id of the process that the filter is built for.
    OwnPid,
    /// Any address below the main thread's stack.
    BelowStack,
}

/// The flags of sendto(2) and sendmmsg(2), in the fourth argument, do not ask for TCP Fast Open:
/// that connects a socket, to an address that a filter cannot see, without connect(2), which is the
/// call that other promises and Landlock stand guard at.
const NO_CONNECT_BY_SEND: Cond = bits(3, MSG_FASTOPEN, 0);
/// The same for sendmsg(2), which has them in the third.
const NO_CONNECT_BY_SENDMSG: Cond = bits(2, MSG_FASTOPEN, 0);

/// mremap(2) moves or grows a mapping that is not the stack. No limit counts memory that it makes
/// from the stack: with `RLIMIT_DATA` at 64 MiB, one page of it became a gigabyte.
const BELOW_STACK: Cond = Cond { arg: 0, mask: u64::MAX, value: Value::BelowStack, differs: false };

/// No condition.
pub(super) const ALWAYS: &[Cond] = &[];

/// The low 32 bits: for what the kernel takes as an `int`.
const INT: u64 = u32::MAX as u64;

/// An `int` argument has this value.
const fn is(arg: u8, value: c_int) -> Cond {
    Cond { arg, mask: INT, value: Value::Is(value as u32 as u64), differs: false }
}

/// An `int` argument has another value.
const fn is_not(arg: u8, value: c_int) -> Cond {
    Cond { arg, mask: INT, value: Value::Is(value as u32 as u64), differs: true }
}

/// Of the bits in the mask, exactly these are set.
const fn bits(arg: u8, mask: c_int, set: c_int) -> Cond {
    Cond { arg, mask: mask as u32 as u64, value: Value::Is(set as u32 as u64), differs: false }
}

/// A pointer is null, or a `long` is zero: all 64 bits.
const fn null(arg: u8) -> Cond {
    Cond { arg, mask: u64::MAX, value: Value::Is(0), differs: false }
}

/// An `int` argument is the process's own id.
const fn own_pid(arg: u8) -> Cond {
    Cond { arg, mask: INT, value: Value::OwnPid, differs: false }
}

/// From this number on, a call that no promise names is answered with ENOSYS rather than refused:
/// it is newer than Linux 5.15, so its caller copes with a kernel that lacks it. (From 424 on the
/// numbers are the same everywhere.)
pub(super) const NEWER: u32 = SYS_futex_waitv as u32;

/// Answered with EACCES without `rpath`: C library and Rust's own try them and cope.
pub(super) const LOOKUPS: &[c_long] = &[
    SYS_openat,
    SYS_newfstatat,
    SYS_statx,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_readlinkat,
    SYS_getcwd,
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_stat,
    #[cfg(target_arch = "x86_64")]
    SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    SYS_access,
    #[cfg(target_arch = "x86_64")]
    SYS_readlink,
];

/// Whether a call of [`LOOKUPS`] opens a file: it is allowed with `rpath`, even where a stage may
/// only open names.
pub(super) const fn opens(nr: c_long) -> bool {
    #[cfg(target_arch = "x86_64")]
    if nr == SYS_open {
        return true;
    }
    nr == SYS_openat
}

/// Answered with an error unless a promise allows them, because their caller has another way.
pub(super) const ANSWERED: &[(c_long, &[Cond], c_int)] = &[
    // The C library falls back to clone, whose flags a filter can see.
    (SYS_clone3, ALWAYS, ENOSYS),
    // Its flags are behind a pointer: openat is used instead.
    (SYS_openat2, ALWAYS, ENOSYS),
    (SYS_io_uring_setup, ALWAYS, ENOSYS),
    // isatty(3).
    (SYS_ioctl, &[is(1, TCGETS as c_int)], ENOTTY),
    // Where a stage may open names but not look at them.
    (SYS_openat, &[bits(2, O_PATH, O_PATH)], EACCES),
    #[cfg(target_arch = "x86_64")]
    (SYS_open, &[bits(1, O_PATH, O_PATH)], EACCES),
];

/// statmount(2), since Linux 6.8: `libc` does not name it everywhere.
pub(super) const SYS_STATMOUNT: c_long = 457;

/// ioctl and prctl numbers that have other types in libc.
pub(super) const IOCTL_FIONREAD: c_int = FIONREAD as c_int;
pub(super) const IOCTL_TIOCOUTQ: c_int = TIOCOUTQ as c_int;
pub(super) const IOCTL_FIONBIO: c_int = FIONBIO as c_int;
const IOCTL_FIOCLEX: c_int = FIOCLEX as c_int;
/// Names anonymous memory: glibc's allocator when it is told to.
pub(super) const PRCTL_SET_VMA: c_int = 0x5356_4d41;
/// Socket options that libc may not know.
pub(super) const PEER_GROUPS: c_int = 59;
pub(super) const PEER_PIDFD: c_int = 77;
pub(super) const PASS_RIGHTS: c_int = 83;
pub(super) const MAX_PACING_RATE: c_int = 47;
/// seccomp(2)'s operations.
pub(super) const SET_MODE_FILTER: c_int = 1;
const GET_ACTION_AVAIL: c_int = 2;
/// How a file is opened: reading, writing or both. Not `O_ACCMODE`, to which musl adds `O_PATH`.
const ACCESS_MODE: c_int = O_RDONLY | O_WRONLY | O_RDWR;
/// `O_TMPFILE` without the `O_DIRECTORY` that is part of it.
const TMPFILE: c_int = O_TMPFILE & !O_DIRECTORY;
/// The type in socket(2)'s second argument; the rest are flags.
const SOCK_TYPE: c_int = 0xf;
/// New namespaces, and being traced by the parent's tracer.
const NAMESPACES: c_int = CLONE_NEWNS
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET
    | CLONE_NEWIPC
    | CLONE_NEWUTS
    | CLONE_NEWCGROUP
    | CLONE_PTRACE;
/// The kind of a mapping in mmap(2)'s flags, and flags of memory that no limit of a role counts.
const UNCOUNTED: c_int = MAP_TYPE | MAP_GROWSDOWN | MAP_HUGETLB | MAP_LOCKED;
/// What makes a clone a thread.
const THREAD: c_int = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND;
/// Two calls of aarch64 that libc does not name (`asm-generic/unistd.h`).
#[cfg(target_arch = "aarch64")]
#[expect(non_upper_case_globals, reason = "named as libc names the others")]
const SYS_renameat: c_long = 38;
#[cfg(target_arch = "aarch64")]
#[expect(non_upper_case_globals, reason = "named as libc names the others")]
const SYS_getrlimit: c_long = 163;

/// The tables.
pub(super) const GROUPS: &[Group] = &[
    STDIO, THREADS, MEMORY, SIGNALS, SOCKETS, RPATH, LOOK, WPATH, CPATH, FATTR, FLOCK, UNIX, INET, CONNECT,
    DNS, RECVFD, SENDFD, PROC, PAIR, EXEC, ID, NARROW, ACCEPT, BIND,
];

/// Every role: descriptors that are open already, clocks, its own identity, the end.
const STDIO: Group = Group {
    promise: Promise::Stdio,
    implied_by: &[],
    always: &[
        // Descriptors. ftruncate needs one that was opened for writing.
        SYS_read,
        SYS_write,
        SYS_readv,
        SYS_writev,
        SYS_pread64,
        SYS_pwrite64,
        SYS_preadv,
        SYS_pwritev,
        SYS_lseek,
        SYS_close,
        SYS_close_range,
        SYS_fstat,
        SYS_fstatfs,
        SYS_fsync,
        SYS_fdatasync,
        SYS_ftruncate,
        // An open directory; `sockets` binds relative to one, and there is no other way.
        SYS_fchdir,
        SYS_fadvise64,
        SYS_dup,
        SYS_dup3,
        SYS_pipe2,
        // repo_read puts packs into the client's pipe without reading them, gotsh passes them on;
        // std::io::copy tries all three.
        SYS_splice,
        SYS_sendfile,
        SYS_copy_file_range,
        // Waiting.
        SYS_ppoll,
        SYS_pselect6,
        SYS_eventfd2,
        SYS_signalfd4,
        SYS_timerfd_create,
        SYS_timerfd_settime,
        SYS_timerfd_gettime,
        SYS_clock_nanosleep,
        SYS_nanosleep,
        // Clocks (where the vdso does not answer) and random numbers (HashMap).
        SYS_clock_gettime,
        SYS_clock_getres,
        SYS_gettimeofday,
        SYS_getrandom,
        // Locks, by Rust's and the C library.
        SYS_futex,
        SYS_membarrier,
        SYS_sched_yield,
        SYS_sched_getaffinity,
        SYS_getcpu,
        SYS_gettid,
        // About oneself.
        SYS_getpid,
        SYS_getppid,
        SYS_getpgid,
        SYS_getuid,
        SYS_geteuid,
        SYS_getgid,
        SYS_getegid,
        SYS_getresuid,
        SYS_getresgid,
        SYS_getgroups,
        SYS_getrusage,
        SYS_getrlimit,
        SYS_times,
        SYS_uname,
        SYS_sysinfo,
        SYS_umask,
        SYS_restart_syscall,
        SYS_exit,
        SYS_exit_group,
        #[cfg(target_arch = "x86_64")]
        SYS_poll,
        #[cfg(target_arch = "x86_64")]
        SYS_select,
        #[cfg(target_arch = "x86_64")]
        SYS_dup2,
        #[cfg(target_arch = "x86_64")]
        SYS_pipe,
        #[cfg(target_arch = "x86_64")]
        SYS_time,
        #[cfg(target_arch = "x86_64")]
        SYS_getpgrp,
    ],
    when: &[
        // Not F_SETOWN, F_SETSIG, F_NOTIFY: signals to others, news of other files.
        (SYS_fcntl, &[is(1, F_DUPFD)]),
        (SYS_fcntl, &[is(1, F_DUPFD_CLOEXEC)]),
        (SYS_fcntl, &[is(1, F_GETFD)]),
        (SYS_fcntl, &[is(1, F_SETFD)]),
        (SYS_fcntl, &[is(1, F_GETFL)]),
        (SYS_fcntl, &[is(1, F_SETFL)]),
        // session and repo_read make the client's pipe larger and smaller.
        (SYS_fcntl, &[is(1, F_GETPIPE_SZ)]),
        (SYS_fcntl, &[is(1, F_SETPIPE_SZ)]),
        (SYS_ioctl, &[is(1, IOCTL_FIONREAD)]),
        (SYS_ioctl, &[is(1, IOCTL_FIONBIO)]),
        (SYS_ioctl, &[is(1, IOCTL_FIOCLEX)]),
        (SYS_prctl, &[is(0, PR_SET_NAME)]),
        (SYS_prctl, &[is(0, PR_GET_NAME)]),
        (SYS_prctl, &[is(0, PRCTL_SET_VMA)]),
        // To die with the parent, and never to stop dying with it.
        (SYS_prctl, &[is(0, PR_SET_PDEATHSIG), is(1, SIGKILL)]),
        // Reading one's limits.
        (SYS_prlimit64, &[is(0, 0), null(2)]),
    ],
};

/// repo_read and verify: the threads that make deltas and resolve them, and a repository process
/// until it knows that it is neither.
const THREADS: Group = Group {
    promise: Promise::Threads,
    implied_by: &[],
    always: &[SYS_set_robust_list, SYS_rseq],
    when: &[(SYS_clone, &[bits(0, THREAD | NAMESPACES, THREAD)])],
};

/// Every role: memory of its own, never executable. `RLIMIT_DATA` counts private writable memory
/// alone: neither shared memory, nor mappings that grow down like a stack (256 MiB were had with a
/// limit of 64), nor huge pages, which are the machine's. So all of these are refused.
const MEMORY: Group = Group {
    promise: Promise::Stdio,
    implied_by: &[],
    always: &[SYS_brk, SYS_munmap, SYS_madvise, SYS_msync],
    when: &[
        (SYS_mmap, &[bits(2, PROT_EXEC, 0), bits(3, UNCOUNTED, MAP_PRIVATE)]),
        (SYS_mprotect, &[bits(2, PROT_EXEC, 0)]),
        (SYS_mremap, &[bits(3, !MREMAP_MAYMOVE, 0), BELOW_STACK]),
    ],
};

/// Every role: its own signals and timers (the watchdog), except what the trap's handler stands on.
const SIGNALS: Group = Group {
    promise: Promise::Stdio,
    implied_by: &[],
    always: &[
        SYS_rt_sigreturn,
        SYS_rt_sigprocmask,
        SYS_rt_sigtimedwait,
        SYS_rt_sigsuspend,
        SYS_rt_sigpending,
        SYS_sigaltstack,
        SYS_setitimer,
        SYS_getitimer,
        #[cfg(target_arch = "x86_64")]
        SYS_alarm,
        #[cfg(target_arch = "x86_64")]
        SYS_pause,
    ],
    when: &[
        (SYS_rt_sigaction, &[is_not(0, SIGSYS)]),
        (SYS_rt_sigaction, &[null(1)]),
        // abort(3) and raise(3).
        (SYS_kill, &[own_pid(0)]),
        (SYS_tgkill, &[own_pid(0)]),
    ],
};

/// Every role: sockets that it was given. No addresses; sendmsg and recvmsg, which carry
/// descriptors, are promises of their own.
const SOCKETS: Group = Group {
    promise: Promise::Stdio,
    implied_by: &[],
    always: &[SYS_shutdown, SYS_getsockname],
    when: &[
        (SYS_sendto, &[null(4), NO_CONNECT_BY_SEND]),
        (SYS_recvfrom, &[null(4)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, SO_ERROR)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, SO_TYPE)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, SO_DOMAIN)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, SO_SNDBUF)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, SO_RCVBUF)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, SO_PEERCRED)]),
        // session sets these on a git:// connection.
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, SO_SNDBUF)]),
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, SO_RCVBUF)]),
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, SO_SNDTIMEO)]),
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, SO_RCVTIMEO)]),
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, SO_KEEPALIVE)]),
        (SYS_setsockopt, &[is(1, IPPROTO_TCP), is(2, TCP_NODELAY)]),
        (SYS_setsockopt, &[is(1, IPPROTO_TCP), is(2, TCP_CORK)]),
        (SYS_setsockopt, &[is(1, IPPROTO_TCP), is(2, TCP_USER_TIMEOUT)]),
    ],
};

/// repo_read, repo_write, verify, create, list: names and directories; config: its files.
const RPATH: Group = Group {
    promise: Promise::Rpath,
    implied_by: &[Promise::Getpw, Promise::Dns],
    always: &[
        // Its fstat(3), before 2.39.
        #[cfg(target_env = "gnu")]
        SYS_newfstatat,
        SYS_getdents64,
        SYS_statfs,
        SYS_chdir,
    ],
    when: &[
        // O_TRUNC truncates even a file opened for reading, which Landlock sees only from ABI 3 on.
        (SYS_openat, &[bits(2, ACCESS_MODE | O_CREAT | O_TRUNC | TMPFILE | O_PATH, O_RDONLY)]),
        #[cfg(target_arch = "x86_64")]
        (SYS_open, &[bits(1, ACCESS_MODE | O_CREAT | O_TRUNC | TMPFILE | O_PATH, O_RDONLY)]),
    ],
};

/// The same roles, while they walk to a place: looking at a name without opening it. Landlock has
/// no right for that, so repo_read, repo_write, verify and commit_refs give it up
/// ([`Promises::by_opening`](crate::Promises::by_opening)).
const LOOK: Group = Group {
    promise: Promise::Rpath,
    implied_by: &[Promise::Getpw, Promise::Dns],
    always: &[
        #[cfg(not(target_env = "gnu"))]
        SYS_newfstatat,
        SYS_statx,
        // Tells which user has mounted a file system on the way to a place: only mounts that the
        // process can reach are shown.
        SYS_STATMOUNT,
        SYS_faccessat,
        SYS_faccessat2,
        SYS_readlinkat,
        SYS_getcwd,
        #[cfg(target_arch = "x86_64")]
        SYS_stat,
        #[cfg(target_arch = "x86_64")]
        SYS_lstat,
        #[cfg(target_arch = "x86_64")]
        SYS_access,
        #[cfg(target_arch = "x86_64")]
        SYS_readlink,
    ],
    // The kernel looks at no other flag then but O_DIRECTORY and O_NOFOLLOW.
    when: &[
        (SYS_openat, &[bits(2, O_PATH, O_PATH)]),
        #[cfg(target_arch = "x86_64")]
        (SYS_open, &[bits(1, O_PATH, O_PATH)]),
    ],
};

impl Group {
    /// Whether [`Promises::by_opening`](crate::Promises::by_opening) takes this group away.
    pub(super) const fn is_look(&self) -> bool {
        let mut n = 0;
        while n < self.always.len() {
            if self.always[n] == SYS_statx {
                return true;
            }
            n += 1;
        }
        false
    }
}

/// repo_write, create: existing files. Never truncate(2): before ABI 3 Landlock does not see it.
const WPATH: Group = Group {
    promise: Promise::Wpath,
    implied_by: &[],
    always: &[SYS_fallocate],
    when: &[
        (SYS_openat, &[bits(2, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_WRONLY)]),
        (SYS_openat, &[bits(2, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_RDWR)]),
        #[cfg(target_arch = "x86_64")]
        (SYS_open, &[bits(1, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_WRONLY)]),
        #[cfg(target_arch = "x86_64")]
        (SYS_open, &[bits(1, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_RDWR)]),
    ],
};

/// repo_write, create: lock files, packs, references; sockets: removing its own. No symbolic links,
/// devices or FIFOs, and no set-id bits.
const CPATH: Group = Group {
    promise: Promise::Cpath,
    implied_by: &[],
    always: &[
        SYS_renameat,
        SYS_renameat2,
        SYS_linkat,
        SYS_unlinkat,
        SYS_mkdirat,
        #[cfg(target_arch = "x86_64")]
        SYS_rename,
        #[cfg(target_arch = "x86_64")]
        SYS_link,
        #[cfg(target_arch = "x86_64")]
        SYS_unlink,
        #[cfg(target_arch = "x86_64")]
        SYS_mkdir,
        #[cfg(target_arch = "x86_64")]
        SYS_rmdir,
    ],
    when: &[
        (
            SYS_openat,
            &[bits(2, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_CREAT | O_WRONLY), bits(3, 0o6000, 0)],
        ),
        (
            SYS_openat,
            &[bits(2, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_CREAT | O_RDWR), bits(3, 0o6000, 0)],
        ),
        #[cfg(target_arch = "x86_64")]
        (
            SYS_open,
            &[bits(1, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_CREAT | O_WRONLY), bits(2, 0o6000, 0)],
        ),
        #[cfg(target_arch = "x86_64")]
        (
            SYS_open,
            &[bits(1, ACCESS_MODE | O_CREAT | TMPFILE | O_PATH, O_CREAT | O_RDWR), bits(2, 0o6000, 0)],
        ),
    ],
};

/// repo_write, create: modes of shared repositories (their directories are set-group-id, so that
/// bit is free; set-user-id never is) and times.
const FATTR: Group = Group {
    promise: Promise::Fattr,
    implied_by: &[],
    always: &[],
    // By a descriptor alone: Landlock has no right for modes and times, so by a path a process
    // could change those of any file of its user. Files elsewhere it cannot open.
    when: &[(SYS_fchmod, &[bits(1, 0o4000, 0)]), (SYS_utimensat, &[null(1)])],
};

/// repo_write: a quarantine is alive as long as its lock is held.
const FLOCK: Group = Group {
    promise: Promise::Flock,
    implied_by: &[],
    always: &[SYS_flock],
    when: &[
        (SYS_fcntl, &[is(1, F_GETLK)]),
        (SYS_fcntl, &[is(1, F_SETLK)]),
        (SYS_fcntl, &[is(1, F_SETLKW)]),
        (SYS_fcntl, &[is(1, F_OFD_GETLK)]),
        (SYS_fcntl, &[is(1, F_OFD_SETLK)]),
        (SYS_fcntl, &[is(1, F_OFD_SETLKW)]),
    ],
};

/// gotsh, gotctl: the daemon's socket; name services behind one (nscd, sssd, systemd).
const UNIX: Group = Group {
    promise: Promise::Unix,
    implied_by: &[Promise::Getpw],
    always: &[],
    when: &[
        (SYS_socket, &[is(0, AF_UNIX), bits(1, SOCK_TYPE, SOCK_STREAM)]),
        (SYS_socket, &[is(0, AF_UNIX), bits(1, SOCK_TYPE, SOCK_SEQPACKET)]),
    ],
};

/// For a role that is not built yet, which sends notifications over TCP.
const INET: Group = Group {
    promise: Promise::Inet,
    implied_by: &[],
    always: &[],
    when: &[
        (SYS_socket, &[is(0, AF_INET), bits(1, SOCK_TYPE, SOCK_STREAM)]),
        (SYS_socket, &[is(0, AF_INET6), bits(1, SOCK_TYPE, SOCK_STREAM)]),
    ],
};

/// Roles that may make a socket to speak through.
const CONNECT: Group = Group {
    promise: Promise::Unix,
    implied_by: &[Promise::Inet, Promise::Dns, Promise::Getpw],
    always: &[SYS_connect, SYS_getpeername],
    when: &[],
};

/// For the same role: the C library's resolver, over UDP.
const DNS: Group = Group {
    promise: Promise::Dns,
    implied_by: &[],
    always: &[SYS_recvfrom],
    when: &[
        (SYS_sendto, &[NO_CONNECT_BY_SEND]),
        (SYS_sendmmsg, &[NO_CONNECT_BY_SEND]),
        (SYS_socket, &[is(0, AF_INET), bits(1, SOCK_TYPE, SOCK_DGRAM)]),
        (SYS_socket, &[is(0, AF_INET6), bits(1, SOCK_TYPE, SOCK_DGRAM)]),
        // Answers to a query that is too long for UDP.
        (SYS_socket, &[is(0, AF_INET), bits(1, SOCK_TYPE, SOCK_STREAM)]),
        (SYS_socket, &[is(0, AF_INET6), bits(1, SOCK_TYPE, SOCK_STREAM)]),
    ],
};

/// parent, listen, verify, gotsh, session before it reads a byte, and a repository process that
/// waits for a client of git://.
const RECVFD: Group = Group { promise: Promise::Recvfd, implied_by: &[], always: &[SYS_recvmsg], when: &[] };

/// parent, listen, sockets, session before it reads a byte, repo_write.
const SENDFD: Group = Group {
    promise: Promise::Sendfd,
    implied_by: &[],
    always: &[],
    when: &[(SYS_sendmsg, &[NO_CONNECT_BY_SENDMSG])],
};

/// spawn: starting the others (posix_spawn is a clone or vfork) and ending them.
const PROC: Group = Group {
    promise: Promise::Proc,
    implied_by: &[],
    always: &[
        SYS_kill,
        SYS_tgkill,
        SYS_pidfd_open,
        SYS_pidfd_send_signal,
        SYS_wait4,
        SYS_waitid,
        SYS_setpgid,
        SYS_setsid,
        SYS_setpriority,
        SYS_getpriority,
        #[cfg(target_arch = "x86_64")]
        SYS_fork,
        #[cfg(target_arch = "x86_64")]
        SYS_vfork,
    ],
    when: &[(SYS_clone, &[bits(0, NAMESPACES, 0)])],
};

/// parent: the links between processes.
const PAIR: Group = Group {
    promise: Promise::Pair,
    implied_by: &[],
    always: &[],
    when: &[(SYS_socketpair, &[is(0, AF_UNIX), bits(1, SOCK_TYPE, SOCK_SEQPACKET)])],
};

/// spawn: exec, and what a program does until it enters its own stage: the loader, the C library's
/// and Rust's start, the signal handlers that posix_spawn resets (that of SIGSYS too).
const EXEC: Group = Group {
    promise: Promise::Exec,
    implied_by: &[],
    always: &[
        SYS_execve,
        SYS_execveat,
        SYS_mprotect,
        SYS_rt_sigaction,
        SYS_set_tid_address,
        SYS_ioprio_set,
        SYS_sched_setaffinity,
        #[cfg(target_arch = "x86_64")]
        SYS_arch_prctl,
    ],
    when: &[
        (SYS_prctl, &[is(0, PR_SET_PDEATHSIG)]),
        (SYS_mmap, &[bits(3, UNCOUNTED, MAP_PRIVATE)]),
        // A child's stack lies elsewhere: its own filter knows where.
        (SYS_mremap, &[bits(3, !MREMAP_MAYMOVE, 0)]),
    ],
};

/// Started as root: becoming the daemon's user, and giving up all capabilities but one.
const ID: Group = Group {
    promise: Promise::Id,
    implied_by: &[],
    always: &[
        SYS_setuid,
        SYS_setgid,
        SYS_setreuid,
        SYS_setregid,
        SYS_setresuid,
        SYS_setresgid,
        SYS_setgroups,
        SYS_capget,
        SYS_capset,
    ],
    when: &[
        (SYS_prctl, &[is(0, PR_CAPBSET_DROP)]),
        (SYS_prctl, &[is(0, PR_CAP_AMBIENT)]),
        (SYS_prctl, &[is(0, PR_SET_KEEPCAPS)]),
    ],
};

/// Any role between its stages: all of these only ever take rights away.
const NARROW: Group = Group {
    promise: Promise::Narrow,
    implied_by: &[Promise::Unveil],
    always: &[SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self],
    when: &[
        // No flags are allowed: one of them would make a listener that answers calls in the
        // kernel's place.
        (SYS_seccomp, &[is(0, SET_MODE_FILTER), is(1, 0)]),
        (SYS_seccomp, &[is(0, GET_ACTION_AVAIL)]),
        (SYS_prctl, &[is(0, PR_SET_NO_NEW_PRIVS)]),
        (SYS_prctl, &[is(0, PR_SET_DUMPABLE), null(1)]),
        (SYS_prlimit64, &[is(0, 0)]),
        // Asks whether there is a second thread.
        (SYS_unshare, &[bits(0, -1, CLONE_THREAD)]),
    ],
};

/// listen: connections and the kernel's word about the peer.
const ACCEPT: Group = Group {
    promise: Promise::Accept,
    implied_by: &[],
    always: &[SYS_accept4, SYS_getpeername],
    when: &[
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, PEER_GROUPS)]),
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, PEER_PIDFD)]),
        // Whether a connection can carry descriptors.
        (SYS_getsockopt, &[is(1, SOL_SOCKET), is(2, PASS_RIGHTS)]),
        // Tells whether a client has read all that it was sent, and so has taken its ends of the
        // pipes.
        (SYS_ioctl, &[is(1, IOCTL_TIOCOUTQ)]),
        // The progress of the peer of a git:// connection, and its rate.
        (SYS_getsockopt, &[is(1, IPPROTO_TCP), is(2, TCP_INFO)]),
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, MAX_PACING_RATE)]),
    ],
};

/// sockets: the configured ones, which it never connects.
const BIND: Group = Group {
    promise: Promise::Bind,
    implied_by: &[],
    always: &[SYS_bind, SYS_listen],
    when: &[
        (SYS_socket, &[is(0, AF_UNIX), bits(1, SOCK_TYPE, SOCK_STREAM)]),
        (SYS_socket, &[is(0, AF_UNIX), bits(1, SOCK_TYPE, SOCK_SEQPACKET)]),
        (SYS_socket, &[is(0, AF_INET), bits(1, SOCK_TYPE, SOCK_STREAM)]),
        (SYS_socket, &[is(0, AF_INET6), bits(1, SOCK_TYPE, SOCK_STREAM)]),
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, SO_REUSEADDR)]),
        (SYS_setsockopt, &[is(1, IPPROTO_IPV6), is(2, IPV6_V6ONLY)]),
        // Descriptors that clients send are refused by the kernel.
        (SYS_setsockopt, &[is(1, SOL_SOCKET), is(2, PASS_RIGHTS)]),
    ],
};
