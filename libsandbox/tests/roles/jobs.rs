//! What each role has to be able to do in its sandbox. A process makes its own counterparts before
//! it enters: a client that waits in the queue of a listening socket, messages that wait in a
//! socket pair.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut, IsTerminal, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libsandbox::{Access, Coverage, Enforcement, Promises, ResourceLimits, Stage, Visible};
use nix::fcntl::{FcntlArg, Flock, FlockArg, OFlag, fcntl};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    accept4, bind, getpeername, getsockopt, listen, recvmsg, sendmsg, socket, socketpair, sockopt,
};
use nix::unistd::pipe2;

use crate::{run, table};

/// The directories that the stages name.
pub(crate) fn fill(directory: &Path) {
    fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).expect("mode");
    for name in ["roots/x.git/objects/pack", "roots/x.git/refs/heads", "roots/y.git", "sockets", "conf"] {
        fs::create_dir_all(directory.join(name)).expect("directory");
    }
    for (name, bytes) in [
        ("roots/x.git/HEAD", &b"ref: refs/heads/main\n"[..]),
        ("roots/x.git/config", b"[core]\n"),
        ("roots/x.git/objects/pack/p.pack", &[0x5a; 200_000]),
        ("roots/y.git/HEAD", b"ref: refs/heads/other\n"),
        ("conf/gotd.conf", b"user git\n"),
    ] {
        fs::write(directory.join(name), bytes).expect("file");
    }
}

/// A place as a role walks to it: a descriptor that opens nothing.
pub(crate) fn open_place(path: &Path) -> OwnedFd {
    let flags = libc::O_PATH | libc::O_NOFOLLOW;
    OpenOptions::new().read(true).custom_flags(flags).open(path).expect("a visible place").into()
}

/// `job ROLE DIRECTORY`.
pub(crate) fn child(arguments: &[String]) -> ExitCode {
    let [role, directory] = arguments else { return ExitCode::FAILURE };
    let directory = Path::new(directory);
    let (ours, theirs) = pair();
    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    match role.as_str() {
        "spawn" => {
            enter(role, directory);
            start_children(directory);
        }
        "parent" => {
            enter(role, directory);
            let (one, _other) = pair();
            send_descriptors(&ours, &[one.as_raw_fd()]);
            assert_eq!(receive_descriptors(&theirs).len(), 1);
        }
        "sockets" => {
            enter(role, directory);
            bind_and_remove(directory, &ours);
        }
        "listen" => {
            let path = directory.join("sockets/gotd.sock");
            let unix = UnixListener::bind(&path).expect("bind");
            let tcp = TcpListener::bind("127.0.0.1:0").expect("bind");
            let _clients = (
                UnixStream::connect(&path).expect("connect"),
                TcpStream::connect(tcp.local_addr().expect("address")),
            );
            send_descriptors(&theirs, &[theirs.as_raw_fd()]);
            enter(role, directory);
            accept_and_hand_over(&unix, &tcp, &ours);
        }
        "session" => {
            let (client, far) = pair();
            send_descriptors(&theirs, &[client.as_raw_fd()]);
            table::enter(role, directory, |stage| {
                if stage == 0 {
                    // Its client's connection, over which the client is given the ends of two
                    // pipes.
                    let connection = receive_descriptors(&ours);
                    send_descriptors(&connection[0], &[read_end.as_raw_fd(), write_end.as_raw_fd()]);
                    assert_eq!(receive_descriptors(&far).len(), 2);
                }
            });
            assert!(fcntl(&write_end, FcntlArg::F_SETPIPE_SZ(8192)).is_ok_and(|size| size > 0));
            assert_eq!(nix::unistd::write(&write_end, b"0008NAK\n"), Ok(8));
            assert_eq!(nix::unistd::read(&read_end, &mut [0; 16]), Ok(8));
        }
        "repo_read" | "verify" => {
            let output = directory.join("roots/given");
            let given = OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(output)
                .expect("a given file");
            send_descriptors(&theirs, &[write_end.as_raw_fd(), given.as_raw_fd()]);
            let mut fds = Vec::new();
            table::enter(role, directory, |stage| {
                if stage == 0 {
                    fds = receive_descriptors(&ours);
                    ask_about_mount(&directory.join("roots/x.git"));
                }
            });
            read_repository(directory, &fds[0]);
            if role == "verify" {
                let mut given = File::from(fds[1].try_clone().expect("dup"));
                given.write_all(b"PACK").expect("write");
                given.set_len(2).expect("truncate");
                given.sync_all().expect("fsync");
            }
        }
        "repo_write" | "maintain" => {
            enter(role, directory);
            write_repository(&directory.join("roots/x.git"), role == "repo_write");
            if role == "repo_write" {
                send_descriptors(&ours, &[read_end.as_raw_fd()]);
            }
        }
        "create" => {
            enter(role, directory);
            let new = directory.join("roots/.new");
            fs::DirBuilder::new().mode(0o755).create(&new).expect("mkdir");
            fs::write(new.join("HEAD"), "ref: refs/heads/main\n").expect("write");
            change_mode(&new, 0o2775);
            fs::rename(&new, directory.join("roots/z.git")).expect("rename");
        }
        "list" => {
            enter(role, directory);
            assert_eq!(fs::read_dir(directory.join("roots")).expect("list").count(), 2);
        }
        "send" => {
            let server = TcpListener::bind("127.0.0.1:0").expect("bind");
            let port = server.local_addr().expect("address").port();
            enter(role, directory);
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
            stream.write_all(b"POST").expect("write");
            let resolved =
                std::net::ToSocketAddrs::to_socket_addrs(&("localhost", port)).map(Iterator::count);
            println!("localhost has {resolved:?} addresses");
        }
        "config" => {
            enter(role, directory);
            assert_eq!(fs::read(directory.join("conf/gotd.conf")).expect("read"), b"user git\n");
            let root = nix::unistd::User::from_name("root").expect("account database");
            assert!(root.is_some_and(|root| root.uid.is_root()));
            assert!(nix::unistd::User::from_name("no-such-user-at-all").expect("account database").is_none());
            assert!(nix::unistd::Group::from_name("root").expect("group database").is_some());
        }
        "gotsh" => {
            let path = directory.join("sockets/gotd.sock");
            let server = UnixListener::bind(&path).expect("bind");
            send_descriptors(&theirs, &[read_end.as_raw_fd()]);
            let mut fds = Vec::new();
            table::enter(role, directory, |stage| {
                if stage == 0 {
                    let _stream = UnixStream::connect(&path).expect("connect");
                    fds = receive_descriptors(&ours);
                }
            });
            drop(server);
            assert_eq!(nix::unistd::write(&write_end, b"0008NAK\n"), Ok(8));
            assert_eq!(nix::unistd::read(&fds[0], &mut [0; 16]), Ok(8));
            let (reads, writes) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
            assert_eq!(nix::unistd::write(&write_end, b"PACK"), Ok(4));
            // SAFETY: no offsets are given.
            let spliced = unsafe {
                let (from, to) = (fds[0].as_raw_fd(), writes.as_raw_fd());
                libc::splice(
                    from,
                    std::ptr::null_mut(),
                    to,
                    std::ptr::null_mut(),
                    64,
                    libc::SPLICE_F_NONBLOCK,
                )
            };
            assert_eq!(spliced, 4);
            drop(reads);
        }
        "auth" | "notify" => enter(role, directory),
        other => panic!("{other}: no such job"),
    }
    everyday_work(table::starts_threads(role));
    ExitCode::SUCCESS
}

fn enter(role: &str, directory: &Path) {
    table::enter(role, directory, |_| ());
}

fn pair() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair")
}

fn send_descriptors(socket: &OwnedFd, fds: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(fds)];
    let sent =
        sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"x")], &rights, MsgFlags::MSG_NOSIGNAL, None);
    assert_eq!(sent, Ok(1));
}

fn receive_descriptors(socket: &OwnedFd) -> Vec<OwnedFd> {
    let mut byte = [0; 16];
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)
        .expect("recvmsg");
    let mut fds = Vec::new();
    for control in message.cmsgs().expect("control messages fit") {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for us.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    fds
}

/// What the C library and Rust's own do behind everyone's back, and what every role may use:
/// hash maps, clocks, sleeping, pipes, poll, signals and a timer, large allocations, the
/// terminal question, a look at files that fails.
fn everyday_work(starts_threads: bool) {
    let before = Instant::now();
    assert_eq!((0..1000).map(|i| (i, i)).collect::<HashMap<u64, u64>>().len(), 1000);
    let some = if starts_threads { 3 } else { 0 };
    let threads: Vec<_> = (0..some)
        .map(|number| {
            std::thread::Builder::new()
                .name(format!("worker {number}"))
                .spawn(move || (0..1000).map(|i| (i, i * number)).collect::<HashMap<u64, u64>>().len())
                .expect("a thread starts")
        })
        .collect();
    assert_eq!(
        threads.into_iter().map(|thread| thread.join().expect("it ends")).sum::<usize>(),
        1000 * some as usize
    );
    std::thread::sleep(Duration::from_millis(1));
    assert!(before.elapsed() >= Duration::from_millis(1));
    assert!(std::thread::available_parallelism().is_ok());
    assert!(!io::stdin().is_terminal());
    let large = vec![1_u8; 64 << 20];
    assert_eq!(large.iter().step_by(4096).map(|&b| usize::from(b)).sum::<usize>(), 16384);
    drop(large);
    let _ =
        (std::env::current_dir(), std::env::current_exe(), fs::metadata("/nowhere"), File::open("/nowhere"));

    let (read_end, write_end) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    let mut pipe = File::from(write_end);
    pipe.write_all(b"hello").expect("write");
    let mut ready = [nix::poll::PollFd::new(read_end.as_fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut ready, 1000_u16), Ok(1));
    let (other_end, other) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    assert_eq!(
        nix::fcntl::splice(&read_end, None, &other, None, 5, nix::fcntl::SpliceFFlags::empty()),
        Ok(5)
    );
    drop(other);
    let mut text = String::new();
    File::from(other_end).read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    fcntl(&read_end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("F_SETFL");
    fcntl(&read_end, FcntlArg::F_SETPIPE_SZ(1 << 16)).expect("F_SETPIPE_SZ");

    watchdog();
    // SAFETY: integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) }, 0);
}

static ALARMS: AtomicU32 = AtomicU32::new(0);

extern "C" fn alarm(_: i32) {
    ALARMS.fetch_add(1, Ordering::SeqCst);
}

/// A timer interrupts a read that would never end.
fn watchdog() {
    let action = SigAction::new(SigHandler::Handler(alarm), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler only adds to an atomic number.
    unsafe { sigaction(Signal::SIGALRM, &action) }.expect("sigaction");
    // Again and again: the first may come before the read begins.
    let soon = libc::timeval { tv_sec: 0, tv_usec: 2000 };
    let often = libc::itimerval { it_interval: soon, it_value: soon };
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let off = libc::itimerval { it_interval: never, it_value: never };
    let (silent, _open) = pipe2(OFlag::O_CLOEXEC).expect("pipe");
    // SAFETY: the timer's value is valid.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const often, std::ptr::null_mut()) }, 0);
    assert_eq!(nix::unistd::read(&silent, &mut [0; 1]), Err(nix::Error::EINTR));
    // SAFETY: the same.
    assert_eq!(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const off, std::ptr::null_mut()) }, 0);
    assert!(ALARMS.load(Ordering::SeqCst) >= 1);
}

/// The children are this binary, loaded dynamically, in the sandboxes of their own roles.
fn start_children(directory: &Path) {
    let place = directory.to_str().expect("a name in UTF-8");
    for role in ["session", "repo_read", "repo_write", "verify", "auth", "list"] {
        let output = run(&["job", role, place]);
        assert!(
            output.status.success(),
            "{role}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        let _ = fs::remove_file(directory.join("roots/given"));
    }
    let binary = std::env::current_exe().expect("own name");
    let mut child = Command::new(binary).arg("--list").stdout(Stdio::piped()).spawn().expect("spawn");
    child.kill().expect("kill");
    child.wait().expect("wait");
    assert!(Command::new("/bin/sh").arg("-c").arg("true").status().is_err(), "no other program");
}

fn bind_and_remove(directory: &Path, parent: &OwnedFd) {
    let path = directory.join("sockets/new.sock");
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o117));
    let unix =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bind(unix.as_raw_fd(), &UnixAddr::new(&path).expect("address")).expect("bind");
    listen(&unix, Backlog::MAXCONN).expect("listen");
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a TCP socket");
    send_descriptors(parent, &[unix.as_raw_fd(), tcp.as_raw_fd()]);
    fs::remove_file(&path).expect("unlink");
    assert!(fs::write(directory.join("sockets/file"), "x").is_err(), "sockets only");
}

fn accept_and_hand_over(unix: &UnixListener, tcp: &TcpListener, parent: &OwnedFd) {
    assert_eq!(receive_descriptors(parent).len(), 1);
    for listener in [unix.as_fd(), tcp.as_fd()] {
        let fd =
            accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).expect("accept");
        // SAFETY: accept4 has just made this descriptor for us.
        let client = unsafe { OwnedFd::from_raw_fd(fd) };
        getpeername::<nix::sys::socket::SockaddrStorage>(client.as_raw_fd()).expect("getpeername");
        if listener.as_raw_fd() == unix.as_raw_fd() {
            let credentials = getsockopt(&client, sockopt::PeerCredentials).expect("SO_PEERCRED");
            assert_eq!(credentials.uid(), nix::unistd::geteuid().as_raw());
            option(&client, 59);
            option(&client, 77);
        }
        // Nothing was sent to it, so that it has taken everything.
        let mut unsent: libc::c_int = -1;
        // SAFETY: TIOCOUTQ stores one int, which lives through the call.
        let asked = unsafe { libc::ioctl(client.as_raw_fd(), libc::TIOCOUTQ, &raw mut unsent) };
        assert_eq!((asked, unsent), (0, 0), "TIOCOUTQ");
        send_descriptors(parent, &[client.as_raw_fd()]);
    }
}

/// An option that may not exist on this kernel, but must not be refused by the filter.
fn option(fd: &OwnedFd, number: libc::c_int) {
    let mut bytes = [0_u32; 1024];
    let mut length = size_of_val(&bytes) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into the buffer.
    unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            number,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        );
    }
}

/// Asks the kernel about the mount of a place, as a walk does: statmount(2) since Linux 6.8.
fn ask_about_mount(place: &Path) {
    const STATX_MNT_ID_UNIQUE: u32 = 0x4000;
    const STATMOUNT: libc::c_long = 457;
    const SB_BASIC: u64 = 1;
    let file = File::open(place).expect("opens");
    // SAFETY: all zero is a value of this structure.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: the path is an empty C string, and the structure lives through the call.
    let done = unsafe {
        libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, STATX_MNT_ID_UNIQUE, &raw mut status)
    };
    assert_eq!(done, 0, "statx");
    if status.stx_mask & STATX_MNT_ID_UNIQUE == 0 {
        return println!("this kernel has no statmount");
    }
    // `struct mnt_id_req`: its size, nothing, the mount, what is wanted.
    let request: [u64; 3] = [
        u64::from_ne_bytes([[24, 0, 0, 0], [0; 4]].concat().try_into().expect("eight bytes")),
        status.stx_mnt_id,
        SB_BASIC,
    ];
    let mut answer = [0_u64; 128];
    // SAFETY: the request has the 24 bytes that it says, the answer the room that is told.
    let done =
        unsafe { libc::syscall(STATMOUNT, request.as_ptr(), answer.as_mut_ptr(), size_of_val(&answer), 0) };
    assert_eq!(done, 0, "statmount: {}", io::Error::last_os_error());
    assert_eq!(answer[1] & SB_BASIC, SB_BASIC);
}

fn read_repository(directory: &Path, output: &OwnedFd) {
    let repository = directory.join("roots/x.git");
    for entry in fs::read_dir(&repository).expect("list") {
        let open = File::open(entry.expect("entry").path()).expect("opens");
        nix::sys::stat::fstat(&open).expect("fstat");
    }
    assert_eq!(fs::read_to_string(repository.join("HEAD")).expect("HEAD"), "ref: refs/heads/main\n");
    assert!(File::open(directory.join("roots/y.git/HEAD")).is_err(), "another repository");
    let pack = File::open(repository.join("objects/pack/p.pack")).expect("pack");
    assert_eq!(nix::sys::stat::fstat(&pack).expect("fstat").st_size, 200_000);
    // SAFETY: a private, read-only mapping of a file that nobody changes, of its length.
    let mapped = unsafe {
        let flags = libc::MAP_PRIVATE;
        let start = libc::mmap(std::ptr::null_mut(), 200_000, libc::PROT_READ, flags, pack.as_raw_fd(), 0);
        assert_ne!(start, libc::MAP_FAILED);
        std::slice::from_raw_parts(start.cast::<u8>(), 200_000)
    };
    std::thread::scope(|scope| {
        let half = scope.spawn(|| mapped[..100_000].iter().all(|&byte| byte == 0x5a));
        assert!(half.join().expect("it ends") && mapped[100_000..].iter().all(|&byte| byte == 0x5a));
    });
    let mut offset = 0;
    let fd: BorrowedFd<'_> = output.as_fd();
    // SAFETY: the offset is valid; nothing else is a pointer.
    let sent = unsafe { libc::sendfile(fd.as_raw_fd(), pack.as_raw_fd(), &raw mut offset, 4096) };
    assert_eq!(sent, 4096);
    let mut offset = 4096;
    assert_eq!(
        nix::fcntl::splice(&pack, Some(&mut offset), fd, None, 4096, nix::fcntl::SpliceFFlags::empty()),
        Ok(4096)
    );
    fcntl(fd, FcntlArg::F_GETFL).expect("F_GETFL");
}

/// By a descriptor: no role changes modes by a path.
fn change_mode(path: &Path, mode: u32) {
    let open = File::open(path).expect("opens");
    open.set_permissions(PermissionsExt::from_mode(mode)).expect("fchmod");
}

fn write_repository(repository: &Path, quarantine: bool) {
    let lock = repository.join("refs/heads/main.lock");
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o444).open(&lock).expect("lock file");
    file.write_all(b"0123\n").expect("write");
    file.sync_all().expect("fsync");
    let file = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e).expect("flock");
    fs::rename(&lock, repository.join("refs/heads/main")).expect("rename");
    drop(file);
    let directory = repository.join("objects/incoming-1");
    if quarantine {
        fs::create_dir(&directory).expect("mkdir");
        fs::write(directory.join("p.pack"), b"PACK").expect("write");
        change_mode(&directory.join("p.pack"), 0o444);
        // From one directory to another, as a pack is installed.
        fs::rename(directory.join("p.pack"), repository.join("objects/pack/q.pack")).expect("rename");
        File::open(&directory).and_then(|open| open.sync_all()).expect("fsync of a directory");
        fs::remove_dir(&directory).expect("rmdir");
    }
    assert!(fs::write(repository.join("config"), "x").is_err(), "config is not for writing");
    assert!(fs::write(repository.join("new"), "x").is_err(), "nor is the top directory");
    assert!(fs::rename(repository.join("refs/heads/main"), repository.join("HEAD")).is_err());
}

/// Limits are in force, are not raised by a later stage, and core dumps are off.
pub(crate) fn limits() -> ExitCode {
    let stage = |nofile, words: &str| Stage {
        promises: words.parse::<Promises>().expect("words of the test"),
        paths: None,
        limits: ResourceLimits {
            nofile: Some(nofile),
            data: Some(256 << 20),
            fsize: Some(1000),
            stack: Some(4 << 20),
        },
        enforcement: Enforcement::Required,
    };
    let limit = |resource| {
        let mut limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: getrlimit writes one rlimit through a valid pointer.
        assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
        (limit.rlim_cur, limit.rlim_max)
    };
    let mut file = tempfile::tempfile().expect("a file");
    let processes = limit(libc::RLIMIT_NPROC);
    libsandbox::enter(&stage(32, "stdio narrow threads")).expect("entered");
    assert_eq!(limit(libc::RLIMIT_NPROC), processes, "threads are still to be started");
    libsandbox::enter(&stage(64, "stdio")).expect("entered again");
    assert_eq!(limit(libc::RLIMIT_NOFILE), (32, 32));
    assert_eq!(limit(libc::RLIMIT_CORE), (0, 0));
    assert_eq!(limit(libc::RLIMIT_NPROC), (0, 0), "no thread is promised");
    assert!(Vec::<u8>::new().try_reserve_exact(512 << 20).is_err(), "data");
    assert_eq!(limit(libc::RLIMIT_AS), (1280 << 20, 1280 << 20), "no file is mapped");
    let action = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: ignoring a signal runs no code.
    unsafe { sigaction(Signal::SIGXFSZ, &action) }.expect("sigaction");
    assert!(file.write_all(&[0; 1001]).is_err(), "fsize");
    ExitCode::SUCCESS
}

/// What the report says of three stages in one process, and how long they took.
pub(crate) fn report() -> ExitCode {
    libsandbox::harden_process("report").expect("hardened");
    libsandbox::check_platform(Enforcement::Required).expect("a kernel that will do");
    let root = [Visible::named(Path::new("/"), Access::READ)];
    let stages: [(&str, Option<&[Visible<'_>]>); 3] =
        [("stdio rpath unveil recvfd", Some(&root)), ("stdio rpath narrow", Some(&[])), ("stdio", None)];
    for (words, paths) in stages {
        let begun = Instant::now();
        let report = libsandbox::enter(&Stage {
            promises: words.parse().expect("words of the test"),
            paths,
            limits: ResourceLimits::UNCHANGED,
            enforcement: Enforcement::Required,
        })
        .expect("entered");
        let elapsed = begun.elapsed();
        assert!(report.seccomp && report.instructions > 4);
        assert_ne!(report.landlock, Coverage::None);
        assert_eq!(report.warnings.is_empty(), report.landlock == Coverage::Full);
        println!(
            "{words}: {elapsed:?}, {} instructions, Landlock {}",
            report.instructions, report.landlock_abi
        );
    }
    ExitCode::SUCCESS
}

/// Makes the kernel an older one for this process: it does not know one system call.
fn take_away(call: libc::c_long) {
    let instruction = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut program = [
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, u32::try_from(call).expect("a call's number")),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        instruction(0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: integers only, and then a program that lives until after the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0_u64, &raw const program),
            0
        );
    }
}

/// First the kernel loses Landlock, then seccomp.
pub(crate) fn unfit() -> ExitCode {
    let stage = |enforcement| Stage {
        promises: "stdio narrow".parse().expect("words of the test"),
        paths: Some(&[]),
        limits: ResourceLimits::UNCHANGED,
        enforcement,
    };
    take_away(libc::SYS_landlock_create_ruleset);
    for refused in
        [libsandbox::check_platform(Enforcement::Required), libsandbox::enter(&stage(Enforcement::Required))]
    {
        let text = refused.expect_err("no Landlock").to_string();
        assert_eq!(text, "sandbox: the kernel has no Landlock, or it is switched off");
    }
    for report in [
        libsandbox::check_platform(Enforcement::BestEffort),
        libsandbox::enter(&stage(Enforcement::BestEffort)),
    ] {
        let report = report.expect("best effort");
        assert_eq!((report.landlock, report.seccomp, report.warnings.len()), (Coverage::None, true, 1));
    }
    take_away(libc::SYS_seccomp);
    for refused in
        [libsandbox::check_platform(Enforcement::Required), libsandbox::enter(&stage(Enforcement::Required))]
    {
        assert!(refused.is_err());
    }
    for report in [
        libsandbox::check_platform(Enforcement::BestEffort),
        libsandbox::enter(&stage(Enforcement::BestEffort)),
    ] {
        let report = report.expect("best effort");
        assert_eq!((report.landlock, report.seccomp, report.warnings.len()), (Coverage::None, false, 2));
    }
    ExitCode::SUCCESS
}
