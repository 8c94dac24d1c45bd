//! From the command line to a running daemon: configuration, sockets, the loss of privilege, the sandbox, and
//! the processes that live as long as the daemon.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsStr;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use libproto::channel::{Channel, Message, RecvError};
use libproto::message::parent::{
    AuthToParent, BATCH_RANGES, BATCH_USERS, ConfigToParent, ListenLimits, ListenToParent, LoadConfig,
    OwnDirectory, ParentToAuth, ParentToConfig, ParentToListen, Pool, RepoStart, SessionStart, UidRange,
    UserLimits,
};
use libproto::names::escape;
use libproto::states::Role;
use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::bind::{Place, bind, passed_count, passed_sockets};
use super::checked::Checked;
use super::children::{self, Complaints, Outbox};
use super::metrics::Metrics;
use super::sd_notify::Manager;
use super::set_limits::SetLimits;
use super::table::Table;
use super::{Parent, same_build};
use crate::access::places::Recorded;
use crate::conf::items::{Assembler, Audience, send};
use crate::conf::limits::Limit;
use crate::conf::model::{self, Config, ListenAddress, LogTo, RepositoryKind, Sandbox};
use crate::fairness::owners::Owners;
use crate::os::log::{Level, Log};
use crate::os::spawn::{Child, Starter};
use crate::roles::sockets::ask;

/// At work. On Linux the filter also holds what the children need, since they inherit it.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Proc, Promise::Exec, Promise::Sendfd, Promise::Recvfd]);
/// Connections that nobody has been granted anything for are refused beyond this many times what their user may have: a
/// session that has ended counts until its processes have.
const UNNAMED_FACTOR: u32 = 4;
/// Sessions started ahead of time for control sockets: whoever controls the daemon waits for the next one, if need be.
const CONTROLS_WAITING: usize = 1;
/// Bytes of memory that the parent may take: the configuration, and some kilobytes for each session.
const MEMORY: u64 = 1 << 30;
/// Most directories that a waiting repository process is restricted to; with more, their parents.
const MOST_ROOTS: usize = 48;
/// What the children need of the system, for reading: name services and time zones.
const SYSTEM_PATHS: [&str; 2] = ["/etc", "/usr/share/zoneinfo"];

/// The command line.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stay in the foreground.
    pub foreground: bool,
    /// This is the process that has left the terminal.
    pub detached: bool,
    /// Check the configuration and end.
    pub check: bool,
    /// Log more.
    pub verbose: u8,
    /// gotd.conf.
    pub config: PathBuf,
    /// The secrets file.
    pub secrets: Option<PathBuf>,
}

/// What the parent takes from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where to listen, and the lines that say so.
    pub places: Vec<(Place, String)>,
    /// Waiting sessions of each pool that has a listener.
    pub pools: Vec<(Pool, usize)>,
    /// Limits of a session.
    pub session: SessionStart,
    /// What each repository process is told.
    pub repo: RepoStart,
    /// Largest file that a `verify` process may write, in bytes.
    pub file_size: u64,
    /// Limits of `listen`.
    pub listen: ListenLimits,
    /// Costly work that is done at a time, and that waits.
    pub turns: super::queue::Rules,
    /// `connection informative errors`.
    pub informative_errors: bool,
    /// The directories that blocks were about when they were loaded.
    pub recorded: Recorded,
    /// Uids of shared accounts: their users are counted by name.
    accounts: BTreeSet<u32>,
    /// Whom subordinate uids count as.
    pub owners: Owners,
    subordinates: Vec<UidRange>,
    /// Connections of a Unix user, and of some in particular.
    per_user: usize,
    users: Vec<(u32, usize)>,
    /// The same of users of shared accounts, by name.
    named: HashMap<String, usize>,
    /// For gotctl.
    pub repository_names: Vec<String>,
    /// `sandbox best-effort`.
    pub enforcement: Enforcement,
    /// Numbers.
    pub limits: crate::conf::limits::Limits,
    /// Those that were set, for gotctl.
    pub set: SetLimits,
    /// `log verbose`.
    pub log_verbose: bool,
    /// What cannot change without a restart: `user`, `log to`.
    pub(super) user: String,
    pub(super) log_to: LogTo,
    /// Directories in which all repositories must be, because the sandbox of the parent has no others.
    pub(super) granted: Vec<PathBuf>,
}

impl Settings {
    /// Flags that each role is started with.
    pub fn flags(&self) -> Vec<&'static str> {
        if self.enforcement == Enforcement::BestEffort { vec!["--best-effort"] } else { Vec::new() }
    }

    /// What `listen` is told, in this order.
    pub fn for_listen(&self) -> Vec<ParentToListen> {
        let factor = |limit: usize| count(limit).saturating_mul(UNNAMED_FACTOR);
        let own: Vec<(u32, u32)> = self.users.iter().map(|(uid, limit)| (*uid, factor(*limit))).collect();
        let accounts: Vec<u32> = self.accounts.iter().copied().collect();
        let own =
            own.chunks(BATCH_USERS).map(|some| UserLimits { connections: some.to_vec(), accounts: vec![] });
        let accounts = accounts
            .chunks(BATCH_USERS)
            .map(|some| UserLimits { accounts: some.to_vec(), connections: vec![] });
        let users = own.chain(accounts).map(ParentToListen::Users);
        let ranges = self.subordinates.chunks(BATCH_RANGES).map(|some| ParentToListen::Ranges(some.to_vec()));
        std::iter::once(ParentToListen::Limits(self.listen.clone())).chain(users).chain(ranges).collect()
    }

    /// Whether a uid is that of a shared account.
    pub fn is_account(&self, uid: u32) -> bool {
        self.accounts.contains(&uid)
    }

    /// Connections that somebody who says this name may have before it is known what they want, and whether a line of the
    /// configuration is about them.
    pub fn limit_of_name(&self, name: &str) -> (usize, bool) {
        let own = self.named.get(name);
        let limit = own.copied().unwrap_or(self.per_user);
        (limit.saturating_mul(UNNAMED_FACTOR as usize), own.is_some())
    }

    /// From a configuration; `seen` is what role `config` found of its directories.
    pub(super) fn new(config: &Config, seen: &[OwnDirectory]) -> Settings {
        let limits = &config.limits;
        let number = |limit: Limit| u32::try_from(limits.get(limit)).unwrap_or(u32::MAX);
        let session = SessionStart {
            first_request: number(Limit::FirstRequest),
            idle: number(Limit::IdleTimeout),
            work: number(Limit::RequestTimeout),
            minimum_rate: number(Limit::MinimumRate),
            rate_window: number(Limit::RateWindow),
            wants: number(Limit::Wants),
            haves: number(Limit::Haves),
            prefixes: number(Limit::Prefixes),
            shallows: number(Limit::Shallows),
            commands: number(Limit::Commands),
            command_bytes: limits.get(Limit::CommandBytes),
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let granted = granted(config, seen);
        let bytes = |paths: Vec<PathBuf>| -> Vec<Vec<u8>> {
            paths.into_iter().map(|path| path.into_os_string().into_vec()).collect()
        };
        let repo = RepoStart {
            granted: bytes(granted.clone()),
            memory: limits.get(Limit::ProcessMemory),
            threads: u8::try_from(threads.min(4)).unwrap_or(1),
            strangers: false,
        };
        let total = number(Limit::ConnectionsTotal);
        let listen = ListenLimits {
            controllers: vec![0, nix::unistd::geteuid().as_raw()],
            connections: number(Limit::ConnectionsTotal),
            rate: number(Limit::RateTotal),
            per_user: number(Limit::ConnectionsPerUser).saturating_mul(UNNAMED_FACTOR),
            rate_per_user: number(Limit::RatePerUser),
            queue_ms: number(Limit::QueueTimeout).saturating_mul(1000),
            queue: number(Limit::QueueLength),
            // A quarter of all places is never git://'s.
            git: number(Limit::ConnectionsGit).min(total.saturating_sub(total / 4)).max(1),
            per_address: number(Limit::ConnectionsPerAddress),
            rate_per_address: number(Limit::RatePerAddress),
            silent_ms: number(Limit::FirstRequest).saturating_mul(1000),
            minimum_rate: number(Limit::MinimumRate),
            bandwidth: limits.get(Limit::Bandwidth),
        };
        let uids = config.user_limits.iter().filter_map(|limit| match limit.who {
            model::Who::Uid(uid) => Some((uid, usize::try_from(limit.connections).unwrap_or(usize::MAX))),
            _ => None,
        });
        let named = config.user_limits.iter().filter_map(|limit| match limit.who {
            model::Who::AccountUser(_) => Some((
                limit.subject.name.to_string(),
                usize::try_from(limit.connections).unwrap_or(usize::MAX),
            )),
            _ => None,
        });
        let names = config.repositories.iter().take(256).map(|r| {
            let name = r.name.as_ref().map(ToString::to_string).unwrap_or_default();
            match r.kind {
                RepositoryKind::One => format!("repository \"{name}\" path {}", r.path),
                RepositoryKind::Below { .. } => format!("repositories \"{name}\" path {}", r.path),
            }
        });
        // Each block may have a limit of its own; verify enforces that one, this is the kernel's bound.
        let own_sizes = config.repositories.iter().map(|r| r.limit(Limit::PackSize, limits));
        let file_size = own_sizes.max().unwrap_or_else(|| limits.get(Limit::PackSize)).saturating_mul(2);
        Settings {
            file_size,
            places: places(config),
            pools: vec![
                (Pool::Unix, limits.size(Limit::Waiting)),
                (Pool::Tcp, limits.size(Limit::WaitingGit)),
                (Pool::Control, CONTROLS_WAITING),
            ],
            session,
            repo,
            listen,
            turns: super::queue::Rules {
                packs: limits.size(Limit::PacksTotal),
                pushes: limits.size(Limit::PushesTotal),
                memory: memory_total(limits),
                queue: limits.size(Limit::PacksQueue),
                longest: Duration::from_secs(limits.get(Limit::PacksQueueTimeout)),
                // Known once it is known which listeners there are.
                both: false,
            },
            informative_errors: config.informative_errors,
            recorded: Recorded::new(&config.repositories, seen),
            accounts: config.accounts.iter().filter_map(|account| account.uid).collect(),
            owners: Owners::new(&config.subordinates),
            subordinates: config.subordinates.clone(),
            per_user: limits.size(Limit::ConnectionsPerUser),
            users: uids.collect(),
            named: named.collect(),
            repository_names: names.collect(),
            enforcement: match config.sandbox {
                Sandbox::Required => Enforcement::Required,
                Sandbox::BestEffort => Enforcement::BestEffort,
            },
            limits: limits.clone(),
            set: SetLimits::of(config),
            log_verbose: config.log_verbose,
            user: config.user_name().to_owned(),
            log_to: config.log_to,
            granted,
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Bytes of memory for all packs and pushes.
fn memory_total(limits: &crate::conf::limits::Limits) -> u64 {
    match limits.get(Limit::MemoryTotal) {
        0 => crate::os::memory::at_start() / 2,
        most => most,
    }
}

/// Where a configuration wants to listen, and the line of each: control sockets come with those of clients.
fn places(config: &Config) -> Vec<(Place, String)> {
    let mut places: Vec<(Place, String)> = Vec::new();
    for listener in &config.listeners {
        let place = match &listener.address {
            ListenAddress::Unix(path) => Place::Unix(path.into()),
            ListenAddress::Git(ip, port) => Place::Tcp(SocketAddr::new(*ip, *port)),
        };
        places.push((place, config.place(listener.at)));
    }
    // Without a unix socket of its own a daemon could not even be stopped.
    if !places.iter().any(|(place, _)| place.pool() == Pool::Unix) {
        places.push((Place::Unix(model::DEFAULT_SOCKET.into()), "default".into()));
    }
    let controls: Vec<(Place, String)> = places
        .iter()
        .filter_map(|(place, line)| match place {
            Place::Unix(path) => Some((Place::Control(ask::control_of(path)), line.clone())),
            Place::Control(_) | Place::Tcp(_) => None,
        })
        .collect();
    places.extend(controls);
    places
}

/// The directories that the sandbox lets repository processes reach before they know which repository is theirs. A rule of
/// the kernel's is about a directory and not about its path, so for one that may be replaced while the daemon runs it is about
/// the directory above: for each `repository`, and for a directory of repositories that is not there, empty, a mount point or behind a link.
fn granted(config: &Config, seen: &[OwnDirectory]) -> Vec<PathBuf> {
    let stays: HashSet<u32> = seen.iter().filter(|own| own.stays).map(|own| own.block).collect();
    let blocks = (0..).zip(&config.repositories);
    few(blocks
        .map(|(number, block)| {
            let place = Path::new(block.place());
            match place.parent() {
                Some(parent) if !stays.contains(&number) && parent.parent().is_some() => parent.into(),
                _ => place.into(),
            }
        })
        .collect())
}

/// At most [`MOST_ROOTS`] directories that hold these: themselves, or those above them when they are many, the deepest first.
/// Never all of the file system: rather there are more.
fn few(mut roots: BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let depth = |root: &Path| root.components().count();
    loop {
        // What lies below another root is granted by that one.
        let all = roots.clone();
        roots.retain(|root| !root.ancestors().skip(1).any(|above| all.contains(above)));
        let deepest = roots.iter().map(|root| depth(root)).max().unwrap_or_default();
        // The root directory counts as one: what lies in it stays as it is.
        if roots.len() <= MOST_ROOTS || deepest <= 2 {
            return roots.into_iter().collect();
        }
        let above = |root: PathBuf| match root.parent() {
            Some(parent) if depth(&root) == deepest => parent.to_owned(),
            _ => root,
        };
        roots = roots.into_iter().map(above).collect();
    }
}

/// Why the daemon ends, and its exit status.
#[derive(Debug)]
pub struct Failure {
    /// For standard error.
    pub text: String,
    /// What a service manager goes by.
    pub status: u8,
}

impl From<String> for Failure {
    fn from(text: String) -> Failure {
        Failure { text, status: 1 }
    }
}

/// The exit status of a daemon that was not started because of its configuration; trying again would not help.
/// `EX_CONFIG` of sysexits(3).
const UNUSABLE: u8 = 78;

/// Starts the daemon and serves until it ends.
pub fn run(options: &Options) -> Result<(), Failure> {
    let passed = if options.detached { 0 } else { passed_count() };
    // Whatever else the starter of this process had open is none of ours, nor of our children. A daemon that has left
    // its terminal was given one descriptor.
    crate::os::system::close_from(crate::os::spawn::PARENT_FD + i32::from(options.detached) + passed);
    if passed > 0 && !options.foreground && !options.check {
        return Err("sockets were passed by the service manager: start with -d".to_owned().into());
    }
    let passed = passed_sockets(passed)?;
    let mut starter = Starter::new().map_err(|e| format!("start: {e}"))?;
    if !options.foreground && !options.detached && !options.check {
        return Ok(detach(&starter, options)?);
    }
    if options.detached {
        nix::unistd::setsid().map_err(|e| format!("setsid: {e}"))?;
    }
    let files = files(options)?;
    let loaded = load(&starter, &files, options.check);
    // Who only asks is told no more than that it is wrong.
    let Loaded { config, seen, notes, warnings } =
        if options.check { loaded.map_err(|e| Failure { status: 1, ..e })? } else { loaded? };
    if options.check {
        // A second -v is about the configuration itself: what includes, macros and defaults came to.
        if options.verbose > 1 {
            print!("{}", crate::conf::print::print(&config));
        }
        println!("configuration OK");
        return Ok(());
    }
    let mut settings = Settings::new(&config, &seen);
    let report = libsandbox::check_platform(settings.enforcement).map_err(|e| e.to_string())?;
    let verbose = options.verbose > 0 || config.log_verbose;
    let mut log = match config.log_to {
        LogTo::Stderr => Log::stderr(verbose),
        LogTo::Syslog => Log::syslog(verbose),
        LogTo::Auto if options.foreground => Log::stderr(verbose),
        LogTo::Auto => Log::syslog(verbose),
    };
    for warning in &report.warnings {
        log.line(Level::Warning, "sandbox", &[("warning", warning)]);
    }
    for warning in warnings.iter().take(MOST_WARNINGS) {
        log.line(Level::Warning, "configuration", &[("warning", warning)]);
    }
    // Whoever starts a daemon that leaves the terminal is still there.
    if options.detached {
        warnings.iter().for_each(|text| eprintln!("{text}"));
    }
    for note in notes.iter().take(MOST_NOTES) {
        log.line(Level::Info, "place", &[("note", &escape(note.as_bytes()))]);
    }
    let quick = starter.quicken().unwrap_or_else(|why| {
        log.line(Level::Warning, "not used", &[("why", &why)]);
        false
    });
    raise_descriptor_limit();
    limit_memory();
    let signals = children::catch_signals().map_err(|e| format!("signals: {e}"))?;
    let bound = bind(&starter, &settings, passed)?;
    let open = |(_, pool, fd): &(u64, Pool, OwnedFd)| {
        *pool == Pool::Unix && crate::os::system::takes_descriptors(fd.as_fd())
    };
    let takes_descriptors = bound.2.iter().any(open);
    if takes_descriptors {
        log.line(Level::Warning, "descriptors", &[("warning", &super::TAKES_DESCRIPTORS)]);
    }
    let manager = Manager::of_environment();
    settings.pools.retain(|(pool, _)| bound.1.has(*pool));
    drop_privilege(&config)?;
    restrict(&starter, &settings, options)?;
    let parent = connect_roles(starter, log, settings, signals, bound, &config, files);
    let mut parent = parent?;
    parent.verbose = options.verbose > 0;
    parent.takes_descriptors = takes_descriptors;
    parent.log.line(
        Level::Info,
        "started",
        &[
            ("version", &crate::VERSION),
            ("uid", &nix::unistd::geteuid()),
            ("landlock", &report.landlock_abi),
            ("seccomp", &report.seccomp),
            ("static", &quick),
        ],
    );
    if options.detached {
        ready(&parent.starter);
        parent.log.stderr_moved();
    }
    manager.ready();
    parent.serve().map_err(Failure::from)
}

/// The files that the command line names, as absolute paths.
fn files(options: &Options) -> Result<LoadConfig, String> {
    let absolute = |path: &Path| std::path::absolute(path).map_err(|e| format!("{}: {e}", path.display()));
    let secrets = options.secrets.as_deref().map(absolute).transpose()?;
    Ok(LoadConfig {
        path: absolute(&options.config)?.into_os_string().into_vec(),
        secrets: secrets.map(|path| path.into_os_string().into_vec()).unwrap_or_default(),
    })
}

/// Most warnings about the configuration that are logged.
const MOST_WARNINGS: usize = 100;
/// Most notes about places that are logged.
pub(super) const MOST_NOTES: usize = 20;

/// A configuration, and what role `config` found of its directories.
struct Loaded {
    config: Config,
    seen: Vec<OwnDirectory>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

/// Reads the configuration in a process of its own; prints every error and warning, and notes for who `asks`.
fn load(starter: &Starter, files: &LoadConfig, asks: bool) -> Result<Loaded, Failure> {
    let child: Child<ParentToConfig, ConfigToParent> =
        starter.start(Role::Config, &[], &[]).map_err(|e| format!("config: {e}"))?;
    let message = match asks {
        true => ParentToConfig::Check(files.clone()),
        false => ParentToConfig::Load(files.clone()),
    };
    child.channel.send(0, 0, &message).map_err(|e| format!("config: {e}"))?;
    let (mut assembler, mut config) = (Assembler::default(), None);
    let (mut errors, mut seen, mut notes, mut warnings) = (0usize, Vec::new(), Vec::new(), Vec::new());
    let good = loop {
        let received = match child.channel.recv() {
            Ok(received) => received,
            Err(e) if e.is_transient() => continue,
            Err(RecvError::Closed) => {
                return Err(format!("config: ended early{}", last_words(&child.stderr)).into());
            }
            Err(e) => return Err(format!("config: {e}").into()),
        };
        match received.message {
            ConfigToParent::Hello(build) if same_build(&build) => {}
            ConfigToParent::Hello(_) => return Err("config: another build".to_owned().into()),
            ConfigToParent::Item(item) => {
                config = assembler.item(&item).map_err(|e| format!("config: {e}"))?;
            }
            ConfigToParent::OwnBlocks(blocks) => seen.extend(blocks),
            ConfigToParent::Note(text) if asks => eprintln!("{text}"),
            ConfigToParent::Note(text) => notes.push(text),
            ConfigToParent::Warning(text) if asks => eprintln!("{text}"),
            ConfigToParent::Warning(text) => warnings.push(text),
            ConfigToParent::Error(text) => {
                errors = errors.saturating_add(1);
                eprintln!("{text}");
            }
            ConfigToParent::End(good) => break good,
        }
    };
    let _ = nix::sys::wait::waitpid(child.pid, None);
    if !good || errors > 0 {
        warnings.iter().for_each(|text| eprintln!("{text}"));
        let text = format!("{}: not usable", OsStr::from_bytes(&files.path).display());
        return Err(Failure { text, status: UNUSABLE });
    }
    let loaded = config.map(|config| Loaded { config, seen, notes, warnings });
    loaded.ok_or_else(|| "config: ended early".to_owned().into())
}

/// What a child that failed to start wrote.
pub(super) fn last_words(stderr: &OwnedFd) -> String {
    let mut buffer = [0; 1024];
    match nix::unistd::read(stderr, &mut buffer) {
        Ok(n) if n > 0 => format!(": {}", String::from_utf8_lossy(&buffer[..n]).trim()),
        _ => String::new(),
    }
}

/// As many descriptors as the system allows: four for each session.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

/// The parent's own memory. Its children begin with the same, and each sets its own: so only the lower of the two limits is set.
fn limit_memory() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) {
        let _ = setrlimit(Resource::RLIMIT_DATA, hard.min(MEMORY), hard);
    }
}

/// From here on nothing but `sockets` has a privilege. Started as an ordinary user there is none to drop.
fn drop_privilege(config: &Config) -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        // It may have been started with the one capability that `sockets` needs.
        return crate::os::system::keep_capabilities(0).map_err(|e| format!("capabilities: {e}"));
    }
    let name = config.user.as_ref().map_or(model::DEFAULT_USER, |user| user.name.as_str());
    let ids = match config.user.as_ref().and_then(|user| user.ids) {
        Some(ids) => ids,
        None => nix::unistd::User::from_name(name)
            .ok()
            .flatten()
            .map(|user| (user.uid.as_raw(), user.gid.as_raw()))
            .ok_or_else(|| format!("user {name}: no such user; see `user` in gotd.conf(5)"))?,
    };
    let (uid, gid) = (Uid::from_raw(ids.0), Gid::from_raw(ids.1));
    if uid.is_root() {
        return Err("user: gotd does not run as root".into());
    }
    setgroups(&[gid]).map_err(|e| format!("setgroups: {e}"))?;
    setresgid(gid, gid, gid).map_err(|e| format!("setresgid: {e}"))?;
    setresuid(uid, uid, uid).map_err(|e| format!("setresuid: {e}"))?;
    Ok(())
}

/// The parent's own sandbox, which holds for all its children.
fn restrict(starter: &Starter, settings: &Settings, options: &Options) -> Result<(), String> {
    libsandbox::harden_process("parent").map_err(|e| e.to_string())?;
    let mut named: Vec<(PathBuf, Access)> = libsandbox::loader_paths();
    named.extend(SYSTEM_PATHS.iter().map(|path| (PathBuf::from(path), Access::READ)));
    for file in [Some(&options.config), options.secrets.as_ref()].into_iter().flatten() {
        let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        named.push((directory.to_owned(), Access::READ));
    }
    named.retain(|(path, _)| path.exists());
    let mut visible: Vec<Visible<'_>> =
        named.iter().map(|(path, access)| Visible::named(path, *access)).collect();
    let granted = crate::access::places::visible(&settings.granted);
    for (path, directory) in &granted {
        visible.push(Visible::opened(directory.as_fd(), path, Access::READ_WRITE_CREATE));
    }
    #[cfg(target_os = "linux")]
    for binary in starter.binaries() {
        visible.push(Visible::opened(binary, Path::new("/proc/self/exe"), Access::EXECUTE));
    }
    let enforcement = settings.enforcement;
    libsandbox::enter(&Stage {
        promises: WORK,
        paths: Some(&visible),
        limits: Limits::UNCHANGED,
        enforcement,
    })
    .map_err(|e| e.to_string())?;
    Ok(())
}

/// Starts `listen` and `auth` and tells them what they need.
fn connect_roles(
    starter: Starter,
    log: Log,
    settings: Settings,
    signals: std::os::unix::net::UnixStream,
    (sockets, listeners, listening): super::bind::Bound,
    config: &Config,
    files: LoadConfig,
) -> Result<Parent, String> {
    let flags = settings.flags();
    let auth: Child<ParentToAuth, AuthToParent> =
        starter.start(Role::Auth, &flags, &[]).map_err(|e| format!("auth: {e}"))?;
    let listen: Child<ParentToListen, ListenToParent> =
        starter.start(Role::Listen, &flags, &[]).map_err(|e| format!("listen: {e}"))?;
    match greeting(&auth)? {
        AuthToParent::Hello(build) if same_build(&build) => {}
        _ => return Err("auth: another build".into()),
    }
    let mut tell = |batch| -> Result<(), Untold> {
        auth.channel.send(0, 0, &ParentToAuth::Config(batch)).map_err(|e| Untold(format!("auth: {e}")))
    };
    send(config, Audience::Parent, &mut tell)
        .map_err(|Untold(e)| format!("{e}{}", last_words(&auth.stderr)))?;
    match greeting(&auth)? {
        AuthToParent::Configured(()) => {}
        _ => return Err("auth: not configured".into()),
    }
    match greeting(&listen)? {
        ListenToParent::Hello(build) if same_build(&build) => {}
        _ => return Err("listen: another build".into()),
    }
    let text = |e: libproto::channel::SendError| format!("listen: {e}");
    for message in settings.for_listen() {
        listen.channel.send(0, 0, &message).map_err(text)?;
    }
    for (number, pool, listener) in &listening {
        listen
            .channel
            .send_with_fds(0, *number, &ParentToListen::Listener(*pool), &[listener.as_fd()])
            .map_err(text)?;
    }
    let mut complaints = Complaints::default();
    complaints.watch(sockets.pid, Role::Sockets, &sockets.stderr);
    complaints.watch(auth.pid, Role::Auth, &auth.stderr);
    complaints.watch(listen.pid, Role::Listen, &listen.stderr);
    Ok(Parent {
        starter,
        log,
        settings,
        signals,
        sockets,
        listeners,
        listen,
        listen_out: Outbox::default(),
        auth,
        auth_out: Outbox::default(),
        complaints,
        table: Table::default(),
        started: Instant::now(),
        served: 0,
        metrics: Metrics::default(),
        checked: Checked::default(),
        listened: Instant::now(),
        draining: None,
        turns: std::collections::VecDeque::new(),
        spent: super::negotiation::Spent::default(),
        files,
        verbose: false,
        reload: None,
        pauses: super::waiting_pool::Pauses::default(),
        unsound: None,
        takes_descriptors: false,
    })
}

/// Why `auth` could not be told the configuration.
struct Untold(String);

impl From<libproto::codec::CodecError> for Untold {
    fn from(e: libproto::codec::CodecError) -> Untold {
        Untold(format!("auth: configuration: {e}"))
    }
}

/// The next message of a process that is being started.
fn greeting<S: Message, R: Message>(child: &Child<S, R>) -> Result<R, String> {
    loop {
        match Channel::<S, R>::recv(&child.channel) {
            Ok(received) => return Ok(received.message),
            Err(e) if e.is_transient() => {}
            Err(e) => return Err(format!("{}: {e}{}", child.role.name(), last_words(&child.stderr))),
        }
    }
}

// --- leaving the terminal

/// Starts the daemon as a process of its own session, waits until it listens, and passes on what it has to say
/// until then.
fn detach(starter: &Starter, options: &Options) -> Result<(), String> {
    let config = std::path::absolute(&options.config).map_err(|e| e.to_string())?;
    let secrets =
        options.secrets.as_deref().map(std::path::absolute).transpose().map_err(|e| e.to_string())?;
    let mut arguments = vec!["--detached".to_owned(), "-f".to_owned(), config.to_string_lossy().into_owned()];
    arguments.extend(std::iter::repeat_n("-v".to_owned(), options.verbose.into()));
    if let Some(secrets) = secrets {
        arguments.extend(["-s".to_owned(), secrets.to_string_lossy().into_owned()]);
    }
    let (status, stderr) = starter.start_daemon(&arguments).map_err(|e| format!("start: {e}"))?;
    let mut said = String::new();
    let _ = std::fs::File::from(stderr).take(64 * 1024).read_to_string(&mut said);
    eprint!("{said}");
    let mut byte = [0];
    match std::fs::File::from(status).read(&mut byte) {
        Ok(1) => Ok(()),
        _ => Err("not started".into()),
    }
}

/// Tells the process that started us that clients are served from now on, and lets go of its terminal.
fn ready(starter: &Starter) {
    if let Ok(status) = crate::os::system::inherited(crate::os::spawn::PARENT_FD) {
        let _ = nix::unistd::write(&status, b"r");
    }
    let _ = crate::os::system::silence_stderr(starter.null());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roots(paths: impl IntoIterator<Item = String>) -> Vec<String> {
        let few = few(paths.into_iter().map(PathBuf::from).collect());
        few.iter().map(|path| path.display().to_string()).collect()
    }

    #[test]
    fn many_directories_become_those_above_them_and_never_the_whole_file_system() {
        let homes = |count: usize| (0..count).map(|n| format!("/home/user-{n:02}/git"));
        assert_eq!(roots(homes(48)).len(), 48);
        let below = ["/srv/git", "/srv/git/a"].map(str::to_owned);
        assert_eq!(roots(below), ["/srv/git"]);
        // Neither "/" nor its directories, of which there are not too many.
        let own = ["/srv/git".to_owned(), "/data".to_owned()];
        assert_eq!(roots(homes(60).chain(own)), ["/data", "/home", "/srv"]);
        assert_eq!(roots((0..60).map(|n| format!("/disk-{n:02}/a/git"))).len(), 60);
        assert_eq!(roots((0..60).map(|n| format!("/disk-{n:02}"))).len(), 60);
        assert_eq!(roots(["/".to_owned()]), ["/"]);
    }
}
