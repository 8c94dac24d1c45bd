//! Starting processes: `posix_spawn`, always an exec of our own program, never a bare fork.
//!
//! Beside the program there may be the same build linked statically. It starts in a sixth of the
//! time, and starting is most of the cost of a short session. `config` always runs the dynamic
//! program, because name services are modules that a static program cannot load, and so does the
//! spawner that starts it.
//!
//! A child gets an empty environment, /dev/null as 0 and 1, a pipe to the parent as 2, its channel
//! to the parent as 3, and from 4 on exactly the descriptors that its role is given.

mod oom;

use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
#[cfg(target_os = "linux")]
use std::path::Path;
use std::path::PathBuf;

use libproto::channel::Channel;
use libproto::states::Role;
use nix::fcntl::{OFlag, open};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::SigSet;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, pipe2};

use self::oom::OomScore;
use crate::os::system;

/// The descriptor of a child's channel to the parent.
pub const PARENT_FD: RawFd = 3;
/// First of the descriptors that a role gets.
pub const FIRST_FD: RawFd = 4;
/// Below this number no descriptor is kept that is to be placed in a child, so that placing one
/// never overwrites another.
const SAFE_FD: RawFd = 32;

/// Makes a connected pair of `SOCK_SEQPACKET` sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Bytes that a standard error holds. Its pipe is there for as long as the process, and what a uid
/// has in pipes is counted.
const STDERR: usize = 4096;

/// The two pipes of a client. Each is a description of our own at our end, so that nobody else can
/// switch it to another mode.
#[derive(Debug)]
pub struct ClientPipes {
    /// The pipe's end from which the daemon reads the client's bytes.
    pub input: OwnedFd,
    /// The pipe's end to which the daemon writes bytes for the client.
    pub output: OwnedFd,
    /// The client's ends: where it writes, and where it reads.
    pub theirs: (OwnedFd, OwnedFd),
}

impl ClientPipes {
    /// Makes them.
    pub fn new() -> io::Result<ClientPipes> {
        let (input, to) = pipe2(OFlag::O_CLOEXEC)?;
        let (from, output) = pipe2(OFlag::O_CLOEXEC)?;
        Ok(ClientPipes { input, output, theirs: (to, from) })
    }
}

/// The name of our program where it is linked statically, beside our own binary or in `../libexec`.
#[cfg(target_os = "linux")]
const STATIC: &str = "gotd-static";
/// What a program is started with to tell its build, in place of a role.
pub const TELL_BUILD: &str = "build";
/// The flag before the process id of the process that started a role.
pub const OF: &str = "--of";
/// The argument of a session, and of its repository process, that wait for a client of git://.
pub const GIT: &str = "git";

/// Whether processes of a role serve one session: the system ends them first when memory is short,
/// and they ignore no signal that their spawner ignores.
const fn serves_a_session(role: Role) -> bool {
    match role {
        Role::Session | Role::Repository | Role::Verify | Role::CommitRefs | Role::Create | Role::List => {
            true
        }
        Role::Parent
        | Role::Sockets
        | Role::Listen
        | Role::Auth
        | Role::Config
        | Role::Places
        | Role::Spawner => false,
    }
}

/// A program, opened once, so that an upgrade on disk never mixes versions.
#[derive(Debug)]
struct Program {
    #[cfg(target_os = "linux")]
    binary: OwnedFd,
    path: CString,
}

#[cfg(target_os = "linux")]
impl Program {
    fn open(path: &Path) -> io::Result<Program> {
        let binary = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let binary = system::duplicate_above(binary, SAFE_FD)?;
        let path = CString::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))?;
        Ok(Program { binary, path })
    }

    /// Whether every user who can change the other program can change this one, too.
    fn is_as_safe(&self, other: &Program) -> io::Result<bool> {
        let (own, other) =
            (libsandbox::fstat(self.binary.as_fd())?, libsandbox::fstat(other.binary.as_fd())?);
        Ok((other.st_uid == 0 || other.st_uid == own.st_uid) && other.st_mode & 0o022 == 0)
    }
}

/// Everything that starting a process takes.
#[derive(Debug)]
pub struct Starter {
    own: Program,
    /// The same build, linked statically.
    quick: Option<Program>,
    null: OwnedFd,
    /// What exec(2) does not set back by itself.
    ignored: SigSet,
    /// Sets which processes the system ends first.
    oom: Option<OomScore>,
}

/// A process that this one started itself.
#[derive(Debug)]
pub struct Started<S, R> {
    /// Its process id.
    pub pid: Pid,
    /// Its role.
    pub role: Role,
    /// Our end of the channel.
    pub channel: Channel<S, R>,
    /// The reading end of its standard error, not blocking.
    pub stderr: OwnedFd,
}

/// Both ends of what joins a process to the parent.
#[derive(Debug)]
pub struct ParentLink<S, R> {
    /// The parent's end of the channel.
    pub channel: Channel<S, R>,
    /// Where the parent reads the process's standard error, not blocking.
    pub stderr: OwnedFd,
    /// The process's ends: of its standard error, and of the channel.
    pub theirs: [OwnedFd; 2],
}

impl<S, R> ParentLink<S, R> {
    /// Makes it.
    pub fn new() -> io::Result<ParentLink<S, R>> {
        let (ours, channel) = pair()?;
        let (stderr, writing) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A failure costs quota and nothing else.
        let _ = system::resize_pipe(stderr.as_fd(), STDERR);
        Ok(ParentLink { channel: ours.into(), stderr, theirs: [writing, channel] })
    }
}

/// Why our program linked statically is there and not used.
#[derive(Debug)]
pub enum QuickError {
    /// It cannot be looked at or asked what it is.
    Io(PathBuf, io::Error),
    /// Somebody could have put another program there who could not replace this one.
    Foreign(PathBuf),
    /// It is of another build.
    OtherBuild(PathBuf),
}

impl fmt::Display for QuickError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            QuickError::Io(path, e) => write!(f, "{}: {e}", path.display()),
            QuickError::Foreign(path) => {
                write!(f, "{}: belongs to somebody else, or others may write it", path.display())
            }
            QuickError::OtherBuild(path) => write!(f, "{}: another build", path.display()),
        }
    }
}

impl std::error::Error for QuickError {}

impl Starter {
    /// Opens the running binary.
    pub fn new() -> io::Result<Starter> {
        let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let null = system::duplicate_above(null, SAFE_FD)?;
        let ignored = system::ignored_signals();
        #[cfg(target_os = "linux")]
        let own = Program::open(Path::new("/proc/self/exe"))?;
        #[cfg(not(target_os = "linux"))]
        let own = {
            use std::os::unix::ffi::OsStrExt;
            Program { path: CString::new(std::env::current_exe()?.as_os_str().as_bytes())? }
        };
        Ok(Starter { own, quick: None, null, ignored, oom: OomScore::open() })
    }

    /// Looks for the statically linked program, and uses it from then on. Returns whether it was
    /// found; the error says why a program that is there is not used.
    #[cfg(target_os = "linux")]
    pub fn quicken(&mut self) -> Result<bool, QuickError> {
        let own = std::env::current_exe().unwrap_or_default();
        let Some(directory) = own.parent() else { return Ok(false) };
        for path in [directory.join(STATIC), directory.join("../libexec").join(STATIC)] {
            let Ok(program) = Program::open(&path) else { continue };
            let failed = |e| QuickError::Io(path.clone(), e);
            if !self.own.is_as_safe(&program).map_err(failed)? {
                return Err(QuickError::Foreign(path));
            }
            if self.build_of(&program).map_err(failed)? != crate::BUILD.as_bytes() {
                return Err(QuickError::OtherBuild(path));
            }
            self.quick = Some(program);
            return Ok(true);
        }
        Ok(false)
    }

    /// Without Linux's ways to execute a descriptor, two files could be of two versions.
    #[cfg(not(target_os = "linux"))]
    pub fn quicken(&mut self) -> Result<bool, QuickError> {
        Ok(false)
    }

    /// What a program says of itself.
    #[cfg(target_os = "linux")]
    fn build_of(&self, program: &Program) -> io::Result<Vec<u8>> {
        let (said, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let argv = [CString::new("gotd")?, CString::new("-T")?, CString::new(TELL_BUILD)?];
        let pid = self.exec(program, &argv, &[stderr.as_fd()], &self.ignored)?;
        drop(stderr);
        let mut build = Vec::new();
        let read = io::Read::read_to_end(&mut io::Read::take(std::fs::File::from(said), 256), &mut build);
        nix::sys::wait::waitpid(pid, None)?;
        read.map(|_| build)
    }

    /// The opened programs, for file system rules: any role's, and `config`'s own.
    #[cfg(target_os = "linux")]
    pub fn binaries(&self) -> [BorrowedFd<'_>; 2] {
        [self.quick.as_ref().unwrap_or(&self.own), &self.own].map(|program| program.binary.as_fd())
    }

    /// An open /dev/null.
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Starts the daemon itself, for a caller that goes away. Returns a pipe that holds one byte
    /// once it listens, and its standard error until then.
    pub fn start_daemon(&self, arguments: &[String]) -> io::Result<(OwnedFd, OwnedFd)> {
        let (status, status_child) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_child) = pipe2(OFlag::O_CLOEXEC)?;
        let mut argv = vec![CString::new("gotd")?];
        for argument in arguments {
            argv.push(CString::new(argument.as_str())?);
        }
        self.exec(&self.own, &argv, &[stderr_child.as_fd(), status_child.as_fd()], &self.ignored)?;
        Ok((status, stderr))
    }

    /// The starter of a spawner, which has its programs from the parent as descriptors: one for any
    /// role, and one for `config`. The signals that this process ignores now, its sessions do not
    /// ignore.
    #[cfg(target_os = "linux")]
    pub fn with_programs(self, quick: OwnedFd, own: OwnedFd) -> io::Result<Starter> {
        let program = |binary: OwnedFd| -> io::Result<Program> {
            let binary = system::duplicate_above(binary, SAFE_FD)?;
            let path = CString::new(format!("/proc/self/fd/{}", binary.as_raw_fd()))?;
            Ok(Program { binary, path })
        };
        let ignored = system::ignored_signals();
        Ok(Starter { own: program(own)?, quick: Some(program(quick)?), ignored, ..self })
    }

    /// Starts `gotd -T role arguments…` with the given descriptors from 4 on.
    pub fn start<S, R>(
        &self,
        role: Role,
        arguments: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Started<S, R>> {
        self.start_from(self.program_of(role), role, arguments, fds)
    }

    /// The same from our own binary, and never from the static one: a process that starts `config`
    /// has to know where the libraries of that binary are.
    pub fn start_own<S, R>(
        &self,
        role: Role,
        arguments: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Started<S, R>> {
        self.start_from(&self.own, role, arguments, fds)
    }

    /// The same with all its descriptors from 2 on: standard error, channel, and those of the role.
    pub fn start_with(&self, role: Role, arguments: &[&str], fds: &[BorrowedFd<'_>]) -> io::Result<Pid> {
        self.execute(self.program_of(role), role, arguments, fds)
    }

    /// The static program, but for the one role that asks the system's name services.
    fn program_of(&self, role: Role) -> &Program {
        self.quick.as_ref().filter(|_| role != Role::Config).unwrap_or(&self.own)
    }

    fn start_from<S, R>(
        &self,
        program: &Program,
        role: Role,
        arguments: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Started<S, R>> {
        let ParentLink { channel, stderr, theirs } = ParentLink::new()?;
        let mut placed: Vec<BorrowedFd<'_>> = theirs.iter().map(AsFd::as_fd).collect();
        placed.extend(fds);
        let pid = self.execute(program, role, arguments, &placed)?;
        Ok(Started { pid, role, channel, stderr })
    }

    fn execute(
        &self,
        program: &Program,
        role: Role,
        arguments: &[&str],
        fds: &[BorrowedFd<'_>],
    ) -> io::Result<Pid> {
        let own = std::process::id().to_string();
        let mut argv = vec![CString::new("gotd")?];
        for argument in ["-T", role.name(), OF, own.as_str()].iter().chain(arguments) {
            argv.push(CString::new(*argument)?);
        }
        let reset = if serves_a_session(role) { self.ignored } else { SigSet::empty() };
        let exec = || self.exec(program, &argv, fds, &reset);
        match self.oom.as_ref().filter(|_| serves_a_session(role)) {
            Some(oom) => oom.as_session(exec),
            None => exec(),
        }
    }

    /// Executes a program with /dev/null as 0 and 1 and the given descriptors from 2 on.
    /// Signals that are `reset` are not ignored by it.
    fn exec(
        &self,
        program: &Program,
        argv: &[CString],
        fds: &[BorrowedFd<'_>],
        reset: &SigSet,
    ) -> io::Result<Pid> {
        let mut actions = PosixSpawnFileActions::init()?;
        let mut placed = Vec::with_capacity(fds.len());
        actions.add_dup2(self.null.as_raw_fd(), 0)?;
        actions.add_dup2(self.null.as_raw_fd(), 1)?;
        for (fd, number) in fds.iter().zip(2..) {
            if fd.as_raw_fd() >= SAFE_FD {
                actions.add_dup2(fd.as_raw_fd(), number)?;
                continue;
            }
            let safe = system::duplicate_above(fd, SAFE_FD)?;
            actions.add_dup2(safe.as_raw_fd(), number)?;
            placed.push(safe);
        }
        let mut attributes = PosixSpawnAttr::init()?;
        attributes
            .set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
        attributes.set_sigdefault(reset)?;
        attributes.set_sigmask(&SigSet::empty())?;
        let environment: [CString; 0] = [];
        Ok(posix_spawn(program.path.as_c_str(), &actions, &attributes, argv, &environment)?)
    }
}
