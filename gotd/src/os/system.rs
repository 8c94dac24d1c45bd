//! Calls that nix does not have, and what differs between Linux and OpenBSD outside the sandbox.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use libproto::message::parent::{MAX_GROUPS, Peer};
use nix::errno::Errno;

use crate::os::error::SystemError;

/// Takes over a descriptor that this process was started with.
///
/// Call it once for each number, first thing: later the number may be somebody else's.
/// Fails with `EBADF` when there is no such descriptor.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(F_GETFD) only looks the number up.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
    if flags == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; the flag makes nothing unsound, whatever the descriptor is.
    if unsafe { libc::fcntl(fd, libc::F_SETFD, flags | libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and by this function's contract nobody else in this process
    // owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Closes every descriptor from `first` on: a child keeps exactly the descriptors that it was
/// given.
pub fn close_from(first: RawFd) {
    #[cfg(target_os = "linux")]
    // SAFETY: called before any descriptor above `first` is owned by a value in this process.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
    }
    #[cfg(target_os = "openbsd")]
    // SAFETY: as above.
    unsafe {
        libc::closefrom(first);
    }
}

/// Asks for `SIGKILL` when the process that started this one dies, and exits at once if that
/// process, of id `starter`, is dead already. OpenBSD has no such request: there the end of
/// descriptor 3 tells.
pub fn die_with_parent(starter: Option<u32>) {
    #[cfg(not(target_os = "linux"))]
    let _ = starter;
    #[cfg(target_os = "linux")]
    {
        if let Err(e) = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL) {
            eprintln!("PR_SET_PDEATHSIG: {e}");
            std::process::exit(1);
        }
        if starter.is_some_and(|starter| std::os::unix::process::parent_id() != starter) {
            std::process::exit(1);
        }
    }
}

/// Bytes of memory that the machine has, where the system tells.
pub fn physical_memory() -> Option<u64> {
    // SAFETY: sysconf only looks numbers up.
    let (pages, size) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(size).ok()?).filter(|bytes| *bytes > 0)
}

/// Sets the name that `ps -o comm` shows, at most 15 bytes.
pub fn set_name(name: &CStr) {
    #[cfg(target_os = "linux")]
    let _ = nix::sys::prctl::set_name(name);
    #[cfg(not(target_os = "linux"))]
    let _ = name;
}

/// Processor time that this process has used, as the kernel counts it. May be asked in a signal
/// handler.
pub fn cpu_time() -> std::time::Duration {
    use nix::sys::time::TimeValLike;
    let Ok(usage) = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF) else {
        return std::time::Duration::ZERO;
    };
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    std::time::Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Microseconds of the monotonic clock. May be asked in a signal handler.
pub fn monotonic_micros() -> u64 {
    let Ok(now) = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC) else { return 0 };
    let micros = |n: i64| u64::try_from(n).unwrap_or(0);
    micros(now.tv_sec()).saturating_mul(1_000_000).saturating_add(micros(now.tv_nsec()) / 1000)
}

/// The processor time of another process; `None` where the system does not tell.
pub fn cpu_time_of(pid: i32) -> Option<std::time::Duration> {
    #[cfg(target_os = "linux")]
    {
        let clock = nix::time::ClockId::pid_cpu_clock_id(nix::unistd::Pid::from_raw(pid)).ok()?;
        Some(std::time::Duration::from(nix::time::clock_gettime(clock).ok()?))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pid;
        None
    }
}

/// Makes this process and its threads wait for others where processors are short.
pub fn give_way() {
    // SAFETY: only this process's own priority is lowered, which everybody may do.
    unsafe {
        libc::nice(5);
    }
}

/// Bounds the bytes of private memory that this process may take from here on. The filter of each
/// stage refuses memory that this limit does not count.
pub fn bound_memory(most: u64) -> Result<(), SystemError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let failed = |e| SystemError::Call("RLIMIT_DATA", e);
    let (_, hard) = getrlimit(Resource::RLIMIT_DATA).map_err(failed)?;
    let most = most.min(hard);
    setrlimit(Resource::RLIMIT_DATA, most, most).map_err(failed)
}

/// Accepts one connection, close-on-exec.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let raw = nix::sys::socket::accept4(listener.as_raw_fd(), nix::sys::socket::SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: accept4 just returned this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Copies up to `len` bytes of a file from `offset` on into a pipe or socket, within the kernel. 0:
/// the file ends there. `ENOSYS` where there is no such call, `EINVAL` where it is not for such a
/// file.
pub fn send_file(out: BorrowedFd<'_>, file: BorrowedFd<'_>, offset: u64, len: usize) -> nix::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        let mut offset = i64::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
        nix::sys::sendfile::sendfile(out, file, Some(&mut offset), len)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (out, file, offset, len);
        Err(Errno::ENOSYS)
    }
}

/// Sends over a connection to which more is sent at once.
pub fn send_more(fd: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<usize> {
    use nix::sys::socket::{MsgFlags, send};
    #[cfg(target_os = "linux")]
    let more = MsgFlags::from_bits_retain(libc::MSG_MORE);
    #[cfg(not(target_os = "linux"))]
    let more = MsgFlags::empty();
    send(fd.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | more)
}

/// The kernel's word about the process at the other end of a connected unix socket:
/// process id (0: unknown), user id, group id.
pub fn peer_credentials(fd: BorrowedFd<'_>) -> io::Result<(i32, u32, u32)> {
    #[cfg(target_os = "linux")]
    {
        let cred = nix::sys::socket::getsockopt(&fd, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok((cred.pid(), cred.uid(), cred.gid()))
    }
    #[cfg(not(target_os = "linux"))]
    {
        let (uid, gid) = nix::unistd::getpeereid(fd)?;
        Ok((0, uid.as_raw(), gid.as_raw()))
    }
}

/// The supplementary groups of the process at the other end of a connected unix socket, as they
/// were when it connected. `ERANGE`: more than `most`. OpenBSD does not tell: empty, and rules for
/// groups use the membership resolved when the configuration was read.
pub fn peer_groups(fd: BorrowedFd<'_>, most: usize) -> io::Result<Vec<u32>> {
    #[cfg(target_os = "linux")]
    {
        const SO_PEERGROUPS: libc::c_int = 59;
        let mut groups: Vec<libc::gid_t> = vec![0; most];
        let size = most.checked_mul(size_of::<libc::gid_t>()).and_then(|n| libc::socklen_t::try_from(n).ok());
        let mut length = size.ok_or_else(|| io::Error::from(Errno::EINVAL))?;
        // SAFETY: the buffer has `length` bytes and lives through the call; the kernel writes at
        // most that many and answers ERANGE when it needs more.
        let rc = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if rc == -1 {
            return Err(io::Error::last_os_error());
        }
        let count = usize::try_from(length).map_or(0, |n| n / size_of::<libc::gid_t>());
        groups.truncate(count);
        Ok(groups)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (fd, most);
        Ok(Vec::new())
    }
}

/// The kernel's word about the other end of a unix connection, and its uid; an error: all that it
/// says is this uid.
pub fn peer(connection: BorrowedFd<'_>) -> Result<(Peer, u32), u32> {
    let (pid, uid, gid) = peer_credentials(connection).map_err(|_| u32::MAX)?;
    let groups = peer_groups(connection, MAX_GROUPS).map_err(|_| uid)?;
    Ok((Peer::Unix { pid, uid, gid, groups }, uid))
}

/// SO_PASSRIGHTS of Linux 6.16, in all architectures that use asm-generic/socket.h.
#[cfg(target_os = "linux")]
const SO_PASSRIGHTS: libc::c_int = 83;

/// Makes the kernel refuse descriptors that clients of a listening unix socket send: closing such a
/// descriptor may take for ever. Returns whether the kernel can.
pub fn take_no_descriptors(listener: BorrowedFd<'_>) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    {
        let no: libc::c_int = 0;
        let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
        // SAFETY: the option takes a number of this size, which lives through the call.
        let rc = unsafe {
            let no = (&raw const no).cast();
            libc::setsockopt(listener.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, no, size)
        };
        match Errno::result(rc) {
            Ok(_) => Ok(true),
            Err(Errno::ENOPROTOOPT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = listener;
        Ok(false)
    }
}

/// Whether descriptors can come over a unix socket.
pub fn takes_descriptors(fd: BorrowedFd<'_>) -> bool {
    #[cfg(target_os = "linux")]
    {
        let mut takes: libc::c_int = 1;
        let mut size = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(4);
        // SAFETY: the option stores a number of this size, which lives through the call.
        let rc = unsafe {
            let takes = (&raw mut takes).cast();
            libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, takes, &mut size)
        };
        rc == -1 || takes != 0
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd;
        true
    }
}

/// The bytes that a pipe can hold; an error: it is no pipe.
fn pipe_size(fd: BorrowedFd<'_>) -> io::Result<usize> {
    #[cfg(target_os = "linux")]
    {
        let size = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETPIPE_SZ)?;
        usize::try_from(size).map_err(|_| io::Error::from(Errno::EINVAL))
    }
    #[cfg(not(target_os = "linux"))]
    {
        use nix::sys::stat::{SFlag, fstat};
        let stat = fstat(fd)?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO {
            Ok(usize::try_from(stat.st_blksize).unwrap_or(4096))
        } else {
            Err(Errno::EBADF.into())
        }
    }
}

/// Makes a pipe hold this many bytes, more or fewer. `EBUSY`: more are in it now.
pub fn resize_pipe(fd: BorrowedFd<'_>, bytes: usize) -> nix::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let wanted = i32::try_from(bytes).map_err(|_| Errno::EINVAL)?;
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(wanted)).map(drop)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (fd, bytes);
        Ok(())
    }
}

/// Makes a pipe hold at least this many bytes, if its owner's quota has room for that; returns how
/// many it holds then.
pub fn widen_pipe(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    let size = pipe_size(fd)?;
    #[cfg(target_os = "linux")]
    if size < bytes {
        let wanted = i32::try_from(bytes).map_err(|_| io::Error::from(Errno::EINVAL))?;
        let size = nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETPIPE_SZ(wanted))?;
        return usize::try_from(size).map_err(|_| io::Error::from(Errno::EINVAL));
    }
    #[cfg(not(target_os = "linux"))]
    let _ = bytes;
    Ok(size)
}

/// Whether this is a TCP socket, over IPv4 or IPv6. An error: it is no socket at all.
pub fn is_tcp(fd: BorrowedFd<'_>) -> io::Result<bool> {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    let kind = getsockopt(&fd, sockopt::SockType)?;
    let family = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrStorage>(fd.as_raw_fd())?;
    Ok(kind == SockType::Stream && (family.as_sockaddr_in().is_some() || family.as_sockaddr_in6().is_some()))
}

/// Prepares a git:// connection: answers are written whole, so nothing waits for more, and a peer
/// that is gone without a word is noticed. Failures are harmless.
pub fn prepare_tcp(fd: BorrowedFd<'_>) {
    use nix::sys::socket::{setsockopt, sockopt};
    let _ = setsockopt(&fd, sockopt::TcpNoDelay, &true);
    let _ = setsockopt(&fd, sockopt::KeepAlive, &true);
}

/// Bytes that have arrived on a connection and were not read. Nothing is read.
pub fn unread(fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD stores one int, which lives through the call.
    if unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut count) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Whether the peer of a unix connection has taken, or thrown away, all that was sent to it,
/// descriptors too. Where the system does not tell, it has.
pub fn has_taken_all(fd: BorrowedFd<'_>) -> bool {
    #[cfg(target_os = "linux")]
    {
        let mut bytes: libc::c_int = 0;
        // SAFETY: TIOCOUTQ, which is SIOCOUTQ, stores one int, which lives through the call.
        let rc = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        rc == -1 || bytes == 0
    }
    // pledge(2) of OpenBSD ends a process that asks this of a socket.
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd;
        true
    }
}

/// How far the peer of a TCP connection is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that it has acknowledged since the connection was made.
    pub taken: u64,
    /// Bytes that have come from it since then.
    pub given: u64,
    /// Something is on its way to it, or waits to be sent.
    pub owed: bool,
}

/// Asks the kernel how far the peer of a TCP connection is; `None` where the system does not tell.
pub fn progress(fd: BorrowedFd<'_>) -> Option<Progress> {
    #[cfg(target_os = "linux")]
    {
        // `struct tcp_info` of linux/tcp.h, of which libc knows only the beginning: tcpi_unacked,
        // tcpi_bytes_acked, tcpi_bytes_received, tcpi_notsent_bytes.
        const UNACKED: usize = 24;
        const ACKED: usize = 120;
        const RECEIVED: usize = 128;
        const NOT_SENT: usize = 144;
        let mut info = [0u8; 256];
        let mut length = libc::socklen_t::try_from(info.len()).ok()?;
        // SAFETY: the buffer has `length` bytes and lives through the call; the kernel writes at
        // most that many.
        let rc = unsafe {
            let buffer = info.as_mut_ptr().cast();
            libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, buffer, &mut length)
        };
        if rc == -1 || usize::try_from(length).ok()? < NOT_SENT + 4 {
            return None;
        }
        let word = |at: usize| info[at..at + 4].try_into().map(u32::from_ne_bytes).unwrap_or(0);
        let count = |at: usize| info[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or(0);
        let (taken, given) = (count(ACKED), count(RECEIVED));
        Some(Progress { taken, given, owed: word(UNACKED) > 0 || word(NOT_SENT) > 0 })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = fd;
        None
    }
}

/// Has the kernel send no more than this many bytes per second on a connection, where the system
/// can.
pub fn pace(fd: BorrowedFd<'_>, rate: u64) {
    #[cfg(target_os = "linux")]
    {
        let size = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
        // SAFETY: the option takes a number of this size, which lives through the call. A failure
        // is harmless.
        unsafe {
            let rate = (&raw const rate).cast();
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, rate, size);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (fd, rate);
}

/// Gives up every capability but those in `keep` (bits of capability(7)) that it has, also for
/// programs executed later.
pub fn keep_capabilities(keep: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        const VERSION_3: u32 = 0x2008_0522;
        const LAST: u32 = 63;
        // SAFETY: plain numbers; what the kernel does not know or does not let go of is an error
        // that changes nothing.
        unsafe {
            libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
            for capability in (0..=LAST).filter(|n| keep & (1 << n) == 0) {
                libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0);
            }
        }
        let header: [u32; 2] = [VERSION_3, 0];
        // Effective, permitted and inheritable, for the low and the high half.
        let mut data = [0u32; 6];
        // SAFETY: both arrays have the layout of capget(2)'s structures and live through the call.
        if unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) } == -1 {
            return Err(io::Error::last_os_error());
        }
        let half = |shift: u32, have: u32| have & u32::try_from(keep >> shift & 0xffff_ffff).unwrap_or(0);
        let (low, high) = (half(0, data[1]), half(32, data[4]));
        let data = [low, low, 0, high, high, 0];
        // SAFETY: as above.
        if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = keep;
    Ok(())
}

/// Whether our ids alone let us make files in a directory.
pub fn may_write(directory: BorrowedFd<'_>) -> bool {
    use nix::unistd::{getegid, geteuid};
    let class =
        |stat: libc::stat| match (stat.st_uid == geteuid().as_raw(), stat.st_gid == getegid().as_raw()) {
            (true, _) => stat.st_mode >> 6,
            (_, true) => stat.st_mode >> 3,
            _ => stat.st_mode,
        };
    libsandbox::fstat(directory).is_ok_and(|stat| class(stat) & 0o3 == 0o3)
}

/// The function that [`tick_every_second`] calls.
static TICK: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_alarm(_: libc::c_int) {
    let tick = TICK.load(Ordering::Acquire);
    if tick != 0 {
        // SAFETY: only tick_every_second stores here, and only a value of this type.
        let tick: fn() = unsafe { std::mem::transmute::<usize, fn()>(tick) };
        tick();
    }
}

/// Calls `tick` once a second from a signal handler, whatever the process is stuck in. `tick` must
/// do nothing but look at atomics and call [`send_record`] and [`exit_now`]. No thread is started.
pub fn tick_every_second(tick: fn()) -> io::Result<()> {
    TICK.store(tick as usize, Ordering::Release);
    let second = libc::timeval { tv_sec: 1, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: second, it_value: second };
    // SAFETY: the handler is async-signal-safe by this function's contract; the structures are
    // initialised.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_alarm as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        if libc::sigaction(libc::SIGALRM, &action, std::ptr::null_mut()) == -1
            || libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) == -1
        {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The function that [`before_abort`] calls.
static ABORT: AtomicUsize = AtomicUsize::new(0);

extern "C" fn on_abort(_: libc::c_int) {
    let last = ABORT.load(Ordering::Acquire);
    if last != 0 {
        // SAFETY: only before_abort stores here, and only a value of this type.
        let last: fn() = unsafe { std::mem::transmute::<usize, fn()>(last) };
        last();
    }
}

/// Calls `last` when the process aborts, from the signal's handler; when it returns, the process
/// ends by the signal. It must do nothing but look at atomics and call [`send_record`] and
/// [`exit_now`].
pub fn before_abort(last: fn()) -> io::Result<()> {
    ABORT.store(last as usize, Ordering::Release);
    // SAFETY: the handler is async-signal-safe by this function's contract; the structure is
    // initialised.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_abort as *const () as usize;
        libc::sigaction(libc::SIGABRT, &action, std::ptr::null_mut())
    };
    if set == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends one record without waiting. For signal handlers: nothing here allocates or locks.
pub fn send_record(fd: RawFd, record: &[u8]) {
    if !record.is_empty() {
        // SAFETY: send(2) is async-signal-safe; a bad descriptor only makes it fail.
        unsafe {
            libc::send(fd, record.as_ptr().cast(), record.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
        }
    }
}

/// Takes one record off a link without waiting, and says whether there was one. For signal
/// handlers, as [`send_record`].
pub fn take_record(fd: RawFd) -> bool {
    let mut first = 0_u8;
    // SAFETY: recv(2) is async-signal-safe, and writes at most the one byte that is there.
    unsafe { libc::recv(fd, (&raw mut first).cast(), 1, libc::MSG_DONTWAIT) > 0 }
}

/// Ends the process at once, without running anything and without closing descriptors one by one:
/// the close of a descriptor that a client chose may hang, and then only this process hangs with
/// it.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) is async-signal-safe and returns to nobody.
    unsafe { libc::_exit(status) }
}

/// abort(3), in place of musl's, which raises the signal by tkill(2): a filter cannot tell whose
/// thread that names. The handler of the watchdog says what happened.
#[cfg(target_env = "musl")]
#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    // SAFETY: only this process's own signals are touched, by calls that are async-signal-safe.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&mut set, libc::SIGABRT);
        libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), libc::SIGABRT);
        libc::_exit(128 + libc::SIGABRT)
    }
}

/// Ignores these signals from now on. Children ignore them too, but for those that serve one
/// session, if the [`Starter`](super::spawn::Starter) was made after this.
pub fn ignore_signals(signals: &[nix::sys::signal::Signal]) {
    for signal in signals {
        // SAFETY: ignoring runs no code of ours.
        let _ = unsafe { nix::sys::signal::signal(*signal, nix::sys::signal::SigHandler::SigIgn) };
    }
}

/// Bytes of memory that this process may take. Its children begin with the same, and each sets its
/// own: so only the lower of the two limits is set.
pub fn limit_memory(most: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) {
        let _ = setrlimit(Resource::RLIMIT_DATA, hard.min(most), hard);
    }
}

/// The signals that this process ignores, which its children would ignore too.
pub fn ignored_signals() -> nix::sys::signal::SigSet {
    let mut set = nix::sys::signal::SigSet::empty();
    for signal in nix::sys::signal::Signal::iterator() {
        // SAFETY: all zeroes is a valid sigaction, and without a new action the call only fills it.
        let ignored = unsafe {
            let mut now: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal as libc::c_int, std::ptr::null(), &mut now) == 0
                && now.sa_sigaction == libc::SIG_IGN
        };
        if ignored {
            set.add(signal);
        }
    }
    set
}

/// The address of a unix socket. On Linux a name that begins with `@` is no path.
pub fn unix_address(name: &[u8]) -> io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::ffi::OsStrExt;
    #[cfg(target_os = "linux")]
    if let Some(rest) = name.strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return std::os::unix::net::SocketAddr::from_abstract_name(rest);
    }
    std::os::unix::net::SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))
}

/// Puts an open /dev/null where standard error was: behind the sandbox nothing can be opened for
/// writing.
pub fn silence_stderr(null: BorrowedFd<'_>) -> io::Result<()> {
    nix::unistd::dup2_stderr(null)?;
    Ok(())
}

/// A descriptor's copy with a number of at least `least`, close-on-exec.
pub fn duplicate_above(fd: impl AsFd, least: RawFd) -> io::Result<OwnedFd> {
    let raw = nix::fcntl::fcntl(fd.as_fd(), nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(least))?;
    // SAFETY: fcntl just made this descriptor and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Renames a directory to a name that nothing has; fails with `EEXIST` or `ENOTEMPTY` where
/// something has it.
///
/// Where the system or the file system has no such flag, plain rename(2) suffices for a directory:
/// it replaces an empty directory and nothing else.
pub fn rename_new(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>, new: &[u8]) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let (old_name, new_name) = (std::ffi::CString::new(name)?, std::ffi::CString::new(new)?);
        // SAFETY: both names end with a NUL and live until the call returns.
        let renamed = unsafe {
            libc::syscall(
                libc::SYS_renameat2,
                from.as_raw_fd(),
                old_name.as_ptr(),
                to.as_raw_fd(),
                new_name.as_ptr(),
                libc::RENAME_NOREPLACE,
            )
        };
        match Errno::result(renamed) {
            Ok(_) => return Ok(()),
            // EINVAL: this file system does not know the flag.
            Err(Errno::EINVAL | Errno::ENOSYS) => {}
            Err(e) => return Err(e.into()),
        }
    }
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    match nix::sys::stat::fstatat(to, new, flags) {
        Err(Errno::ENOENT) => Ok(nix::fcntl::renameat(from, name, to, new)?),
        Ok(_) => Err(Errno::EEXIST.into()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pipes_are_told_from_other_files() {
        let (read, _write) = nix::unistd::pipe().expect("a pipe");
        assert!(pipe_size(read.as_fd()).is_ok_and(|n| n > 0));
        let null = std::fs::File::open("/dev/null").expect("opens");
        assert!(pipe_size(null.as_fd()).is_err());
    }

    #[test]
    fn the_kernel_tells_who_is_at_the_other_end() {
        let (a, _b) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let (_, uid, gid) = peer_credentials(a.as_fd()).expect("credentials");
        assert_eq!((uid, gid), (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw()));
        peer_groups(a.as_fd(), 1024).expect("groups");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_tells_how_far_a_client_is() {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let mut client =
            std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let (mut server, _) = listener.accept().expect("accepts");
        let now = |server: &std::net::TcpStream| progress(server.as_fd()).expect("TCP");
        assert_eq!(now(&server), Progress::default());
        client.write_all(b"seven b").expect("writes");
        server.read_exact(&mut [0; 7]).expect("reads");
        assert_eq!(now(&server), Progress { taken: 0, given: 7, owed: false });
        server.write_all(b"three").expect("writes");
        client.read_exact(&mut [0; 5]).expect("reads");
        let taken = std::iter::repeat_with(|| now(&server)).take(1000).find(|progress| !progress.owed);
        assert_eq!(taken, Some(Progress { taken: 5, given: 7, owed: false }));
    }

    #[test]
    fn what_is_ignored_is_found() {
        use nix::sys::signal::Signal;
        // Rust's own start ignores it, and nothing else.
        assert!(ignored_signals().contains(Signal::SIGPIPE));
        assert!(!ignored_signals().contains(Signal::SIGTERM));
    }

    #[test]
    fn a_rename_replaces_nothing() {
        let place = tempfile::tempdir().expect("a directory");
        let dir = std::fs::File::open(place.path()).expect("opens");
        let rename = |from: &str, to: &str| {
            rename_new(dir.as_fd(), from.as_bytes(), dir.as_fd(), to.as_bytes()).map_err(|e| e.kind())
        };
        for name in ["a", "b", "c"] {
            std::fs::create_dir(place.path().join(name)).expect("makes");
        }
        std::fs::write(place.path().join("f"), "").expect("writes");
        for there in ["b", "f"] {
            assert_eq!(rename("a", there), Err(io::ErrorKind::AlreadyExists), "{there}");
        }
        assert_eq!(rename("a", "new"), Ok(()));
        assert_eq!(rename("a", "newer"), Err(io::ErrorKind::NotFound));
    }

    #[test]
    fn a_descriptor_that_is_not_there_is_refused() {
        assert!(inherited(999).is_err());
    }
}
