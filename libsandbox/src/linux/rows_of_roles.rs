//! The rows of the table: see `rows.rs`.

use libc::*;

use super::calls::{
    IOCTL_FIONBIO, IOCTL_FIONREAD, IOCTL_TIOCOUTQ, MAX_PACING_RATE, PASS_RIGHTS, PEER_GROUPS, PRCTL_SET_VMA,
    SET_MODE_FILTER, SYS_STATMOUNT,
};
use super::rows::{Row, Use, made, made_of, rare, rare_of};
use crate::Calls;

const fn row(parts: &'static [&'static [Use]]) -> Row {
    Row { parts, later: &[] }
}

const fn before(later: &'static [usize], parts: &'static [&'static [Use]]) -> Row {
    Row { parts, later }
}

/// By [`Calls`].
pub(super) static ROWS: [Row; Calls::ALL.len()] = [
    row(&[]),
    row(&[ALWAYS, HASHES, POLL, PARENT]),
    row(&[ALWAYS, HASHES, READ]),
    row(&[ALWAYS, SOCKETS]),
    row(&[ALWAYS, HASHES, POLL, LISTEN]),
    row(&[ALWAYS, HASHES]),
    before(&[Calls::Session as usize], &[ALWAYS, STAGE, POLL, OUTPUT, CONNECTION]),
    row(&[ALWAYS, HASHES, WATCHDOG, POLL, OUTPUT, SESSION]),
    before(
        &[
            Calls::RepoRead as usize,
            Calls::RepoInfo as usize,
            Calls::RepoWriteSetUp as usize,
            Calls::RepoDescribe as usize,
        ],
        &[ALWAYS, HASHES, STAGE, LAYER, READ, NAMING],
    ),
    before(
        &[Calls::RepoRead as usize, Calls::RepoInfo as usize],
        &[ALWAYS, HASHES, STAGE, LAYER, READ, NAMING, GIT_CONNECTION],
    ),
    row(&[ALWAYS, HASHES, WATCHDOG, POLL, THREADS, READ, OUTPUT, READER]),
    row(&[ALWAYS, HASHES, READ]),
    before(&[Calls::RepoWrite as usize], &[ALWAYS, HASHES, STAGE, LAYER, READ, QUARANTINE, HAND_OVER]),
    row(&[ALWAYS, HASHES, READ, FILES, WRITER, INSTALLER]),
    row(&[ALWAYS, HASHES, READ, FILES, WRITER]),
    before(&[Calls::Verify as usize], &[ALWAYS, HASHES, STAGE, READ, TAKE_FILES]),
    row(&[ALWAYS, HASHES, WATCHDOG, POLL, THREADS, READ, VERIFIER]),
    before(&[Calls::CommitRefs as usize], &[ALWAYS, HASHES, STAGE, LAYER, READ, QUARANTINE, STOCK]),
    row(&[ALWAYS, HASHES, READ, FILES, WRITER, PACKED_REFS]),
    row(&[ALWAYS, HASHES, READ, FILES, MAKER]),
    row(&[ALWAYS, HASHES, READ]),
];

/// Of every role: its link to the parent, its memory, its end.
const ALWAYS: &[Use] = &[
    rare(SYS_sendto, "messages to the parent"),
    rare(SYS_recvfrom, "messages from the parent"),
    rare(SYS_close, "descriptors that it is done with"),
    rare(SYS_exit_group, "the end"),
    rare(SYS_munmap, "memory that is given back; Rust's stack for signals at the end"),
    rare(SYS_sigaltstack, "Rust's stack for signals at the end"),
    rare_of(SYS_fcntl, &[F_GETFD], "Rust's debug builds ask whether a descriptor that they close is open"),
    rare(SYS_brk, "memory, by either C library"),
    rare(SYS_mmap, "memory, by either C library"),
    rare(SYS_mremap, "a large piece of memory that grows"),
    rare(SYS_madvise, "musl gives pages back that it does not need now"),
    rare(SYS_mprotect, "glibc's memory beyond the first heap; stacks of threads"),
    rare(SYS_write, "standard error: a panic, a forbidden call"),
    rare(SYS_writev, "standard error in several pieces"),
    rare(SYS_futex, "a lock of Rust's that is held, standard error's among them"),
    rare(SYS_clock_gettime, "where the kernel's page for clocks does not answer"),
    rare(SYS_restart_syscall, "a wait with a time goes on after the process was stopped"),
    rare(SYS_rt_sigreturn, "the end of a signal's handler"),
    rare(SYS_rt_sigprocmask, "abort(3): a panic, memory that is not given"),
    rare(SYS_rt_sigaction, "abort(3) sets the default again"),
    rare(SYS_getpid, "abort(3)"),
    rare(SYS_gettid, "abort(3)"),
    rare(SYS_tgkill, "abort(3)"),
];

/// HashMap's keys, and names of temporary files.
const HASHES: &[Use] = &[rare(SYS_getrandom, "the keys of the first hash table")];

/// A further stage is entered.
const STAGE: &[Use] = &[
    made_of(SYS_seccomp, &[SET_MODE_FILTER], "the next stage's filter"),
    made_of(SYS_prctl, &[PR_SET_NO_NEW_PRIVS], "asked for again by each stage"),
    made(SYS_landlock_create_ruleset, "asks for Landlock's version"),
    made(SYS_prlimit64, "the next stage's limits"),
    made(SYS_unshare, "asks whether there is a second thread"),
];

/// A further stage that sees less.
const LAYER: &[Use] = &[
    made(SYS_landlock_add_rule, "what the next stage sees"),
    made(SYS_landlock_restrict_self, "what the next stage sees"),
];

/// The watchdog.
const WATCHDOG: &[Use] = &[made(SYS_setitimer, "the watchdog's second")];

/// Waiting for several descriptors at once.
const POLL: &[Use] = &[
    #[cfg(target_arch = "x86_64")]
    made(SYS_poll, "waits for a client and for others at once"),
    #[cfg(not(target_arch = "x86_64"))]
    made(SYS_ppoll, "waits for a client and for others at once"),
];

/// parent.
const PARENT: &[Use] = &[
    made(SYS_sendmsg, "descriptors for a spawner's order"),
    rare(SYS_recvmsg, "sockets that are bound for a reload"),
    made_of(SYS_socketpair, &[AF_UNIX], "the link to a process that is to be started"),
    made(SYS_pipe2, "standard error of a process; a client's pipes"),
    made(SYS_read, "standard error of the others; its own signals"),
    rare_of(SYS_fcntl, &[F_DUPFD_CLOEXEC], "a copy of a descriptor for an order"),
    rare_of(SYS_fcntl, &[F_SETFD], "close-on-exec of a new descriptor"),
    rare_of(SYS_fcntl, &[F_GETFL], "before a change of the next one"),
    rare_of(SYS_fcntl, &[F_SETFL], "a pipe that nobody waits at"),
    rare_of(SYS_fcntl, &[F_GETPIPE_SZ], "the size of a client's pipe"),
    rare_of(SYS_fcntl, &[F_SETPIPE_SZ], "a smaller pipe, where there are many"),
    rare_of(SYS_ioctl, &[IOCTL_FIONBIO], "Rust's way to a socket that nobody waits at"),
    rare(SYS_clock_nanosleep, "a short wait for the end of the others"),
    rare(SYS_sysinfo, "glibc's qsort(3) asks for the memory of the machine"),
    rare(SYS_shutdown, "a link that is given up"),
    rare(SYS_fstat, "what standard error is, once the daemon is in the background"),
    rare(SYS_clock_getres, "the clock of a repository process, for its budget of processor time"),
    #[cfg(target_arch = "x86_64")]
    rare(SYS_dup2, "a daemon in the background parts from its terminal"),
    #[cfg(not(target_arch = "x86_64"))]
    rare(SYS_dup3, "a daemon in the background parts from its terminal"),
    made(SYS_geteuid, "its uid, for the log's first line and for the users that may control it"),
];

/// sockets.
const SOCKETS: &[Use] = &[
    made_of(SYS_socket, &[AF_UNIX], "a configured socket"),
    made_of(SYS_socket, &[AF_INET], "a configured socket"),
    rare_of(SYS_socket, &[AF_INET6], "a configured socket, where the machine has IPv6"),
    made(SYS_bind, "its address"),
    made(SYS_listen, "its queue"),
    made_of(SYS_setsockopt, &[SOL_SOCKET, PASS_RIGHTS], "no client's descriptors are taken"),
    made_of(SYS_setsockopt, &[SOL_SOCKET, SO_REUSEADDR], "an address of a daemon that has just ended"),
    rare_of(SYS_setsockopt, &[IPPROTO_IPV6, IPV6_V6ONLY], "where the machine has IPv6"),
    made(SYS_sendmsg, "a socket for the parent"),
    made(SYS_umask, "a socket's mode, for the time of its making"),
    made(SYS_fchdir, "the directory of a socket, whose whole path may be too long for an address"),
    rare(SYS_unlinkat, "a socket that is no longer served"),
];

/// listen.
const LISTEN: &[Use] = &[
    made(SYS_accept4, "a connection"),
    made(SYS_recvmsg, "sockets and links from the parent"),
    made(SYS_sendmsg, "a connection for a session"),
    made(SYS_getpeername, "the address of a client of git://"),
    made_of(SYS_getsockopt, &[SOL_SOCKET, SO_PEERCRED], "who a client is"),
    made_of(SYS_getsockopt, &[SOL_SOCKET, PEER_GROUPS], "who a client is"),
    made_of(SYS_getsockopt, &[SOL_SOCKET, PASS_RIGHTS], "whether a connection can carry descriptors"),
    rare_of(SYS_getsockopt, &[IPPROTO_TCP, TCP_INFO], "how far a client of git:// is"),
    made_of(SYS_setsockopt, &[IPPROTO_TCP, TCP_NODELAY], "an answer over git:// goes out at once"),
    made_of(SYS_setsockopt, &[SOL_SOCKET, SO_KEEPALIVE], "a client of git:// that is gone"),
    rare_of(SYS_setsockopt, &[SOL_SOCKET, MAX_PACING_RATE], "a stranger who takes more than its part"),
    made_of(SYS_ioctl, &[IOCTL_TIOCOUTQ], "whether a client has taken its ends of the pipes"),
    rare_of(SYS_ioctl, &[IOCTL_FIONREAD], "whether a client of git:// has sent something"),
    made(SYS_shutdown, "the end of a connection that is not served"),
    made_of(SYS_fcntl, &[F_SETFL], "a listening socket that nobody waits at"),
];

/// session, before it reads a byte.
const CONNECTION: &[Use] =
    &[made(SYS_recvmsg, "its connection"), made(SYS_sendmsg, "the client's ends of its pipes")];

/// session.
const SESSION: &[Use] = &[
    made(SYS_read, "the client's bytes"),
    made(SYS_shutdown, "the end of a connection of git://, of which listen has a copy"),
    made_of(SYS_fcntl, &[F_DUPFD_CLOEXEC], "a connection of git:// is input and output"),
    rare_of(SYS_fcntl, &[F_SETFD], "musl sets close-on-exec again after each copy"),
];

/// The kind of a client's descriptor, and the room in its pipe.
const OUTPUT: &[Use] = &[
    made_of(SYS_getsockopt, &[SOL_SOCKET, SO_TYPE], "whether the client's end is a pipe or a connection"),
    made(SYS_getsockname, "whether a connection is TCP"),
    rare_of(SYS_fcntl, &[F_GETPIPE_SZ], "the size of the client's pipe"),
    rare_of(SYS_fcntl, &[F_SETPIPE_SZ], "a larger pipe for a large pack, and the first size again"),
];

/// A repository process that waits for a client of git://.
const GIT_CONNECTION: &[Use] = &[made(SYS_recvmsg, "its connection")];

/// A repository process that becomes `repo_read` or `repo_write`.
const NAMING: &[Use] = &[made_of(SYS_prctl, &[PR_SET_NAME], "the name of what it becomes")];

/// Threads.
const THREADS: &[Use] = &[
    rare(SYS_clone, "a thread that makes deltas or resolves them"),
    rare(SYS_exit, "a thread ends"),
    rare(SYS_rseq, "a thread begins, with glibc"),
    rare(SYS_set_robust_list, "a thread begins, with glibc"),
    rare(SYS_sched_getaffinity, "the bounds of a thread's stack, by Rust's"),
    rare(SYS_sched_yield, "a queue between threads that is contended"),
    rare_of(SYS_prctl, &[PR_SET_NAME], "a thread with a name"),
    rare_of(SYS_prctl, &[PRCTL_SET_VMA], "glibc names a stack where it is told to"),
];

/// Files of a repository.
const READ: &[Use] = &[
    made(SYS_openat, "a file or a directory of the repository"),
    #[cfg(target_arch = "x86_64")]
    rare(SYS_open, "the same by musl, which has its own call there"),
    rare(SYS_fstat, "its size and whose it is"),
    rare(SYS_newfstatat, "glibc's fstat(3) before 2.39; who owns a directory that is not opened yet"),
    rare(SYS_statx, "Rust's fstat(3), and which mount a descriptor is of, where names are looked at"),
    made(SYS_getdents64, "the names in a directory"),
    made(SYS_lseek, "where a file or a listing is read"),
    rare(SYS_read, "a file"),
    rare_of(SYS_fcntl, &[F_DUPFD_CLOEXEC], "a descriptor for a listing of its own"),
    rare_of(SYS_fcntl, &[F_SETFD], "opendir(3); musl sets close-on-exec again after each copy"),
    rare_of(SYS_fcntl, &[F_GETFL], "fdopendir(3)"),
    rare(SYS_readlinkat, "a symbolic reference that is a link; which mount a descriptor is of"),
    rare(SYS_STATMOUNT, "who has mounted what lies below a place"),
    rare(SYS_geteuid, "whether a directory is its own user's"),
];

/// repo_read.
const READER: &[Use] = &[
    made(SYS_getrusage, "its budget of processor time"),
    rare(SYS_sendfile, "the kernel copies a pack that is sent as it is"),
    rare(SYS_pread64, "a part of a pack"),
    rare_of(SYS_fcntl, &[F_SETFL], "whether writing to the client waits"),
];

/// repo_write and commit_refs, while objects can change.
const QUARANTINE: &[Use] = &[
    made(SYS_mkdirat, "a quarantine; the directories of packs and reflogs"),
    made(SYS_flock, "a quarantine is alive; whether one that is left is another's"),
    rare(SYS_unlinkat, "a quarantine that is left"),
    rare(SYS_fchmod, "modes in a shared repository"),
    rare(SYS_fsync, "the name of the directory of packs"),
];

/// commit_refs, before it hears repo_write.
const STOCK: &[Use] =
    &[rare(SYS_renameat, "new files that have the group of the repository's own directory")];

/// repo_write, before it hears its session.
const HAND_OVER: &[Use] = &[made(SYS_sendmsg, "the quarantine's files and the client's pipe for verify")];

/// Files that are written, and their names.
const FILES: &[Use] = &[
    rare(SYS_mkdirat, "a directory"),
    made(SYS_fsync, "what is written is on the disk"),
    rare(SYS_unlinkat, "a name of a quarantine, a lock or a reference"),
    rare(SYS_renameat, "a file takes the place of another one"),
    rare(SYS_fchmod, "modes of a shared repository"),
];

/// repo_write: a pack takes its place.
const INSTALLER: &[Use] = &[
    rare(SYS_flock, "no other process of ours moves packs meanwhile"),
    rare(SYS_pread64, "the end of a pack and of its index"),
    rare(SYS_fstatfs, "the disk's reserve"),
];

/// repo_write, commit_refs.
const WRITER: &[Use] = &[
    rare(SYS_linkat, "a pack takes its name; a lock"),
    rare(SYS_ftruncate, "a reflog as it was before"),
    rare(SYS_clock_nanosleep, "a pause before the next try for a lock"),
];

/// commit_refs.
const PACKED_REFS: &[Use] =
    &[rare(SYS_utimensat, "a new packed-refs in the same second as the one before gets a later one")];

/// verify, until it has its files.
const TAKE_FILES: &[Use] = &[made(SYS_recvmsg, "the quarantine's files and the client's pipe")];

/// verify.
const VERIFIER: &[Use] = &[
    made(SYS_pwrite64, "the pack and its index"),
    made(SYS_ftruncate, "a pack's trailer that does not count"),
    made(SYS_fstatfs, "the disk's reserve"),
    rare(SYS_pread64, "a part of the pack"),
];

/// create.
const MAKER: &[Use] = &[
    rare(SYS_fstatfs, "the disk's reserve"),
    made(SYS_renameat2, "the whole repository takes its name, which must be free"),
];
