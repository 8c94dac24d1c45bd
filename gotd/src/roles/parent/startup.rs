//! From the command line to a running daemon: configuration, spawners, sockets, the loss of
//! privilege, the sandbox, and the processes that live as long as the daemon.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use libproto::channel::{Channel, Message, RecvError};
use libproto::message::parent::{
    AuthToParent, ConfigToParent, ListenToParent, LoadConfig, Order, ParentToAuth, ParentToConfig,
    ParentToListen, ParentToPlaces, PlacesToParent, Pool,
};
use libproto::names::escape;
use libproto::states::{Account, Role};
use libsandbox::{Calls, Enforcement, Promise, Promises, ResourceLimits, Stage};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;

use super::bind::{Passed, bind, passed_count, passed_sockets};
use super::checked::Checked;
use super::detach::{detach, ready};
use super::error::{ChildError, StartupError};
use super::metrics::Metrics;
use super::outbox::Outbox;
use super::own_rules::OwnConfigs;
use super::places::Said;
use super::sd_notify::Manager;
use super::session::table::SessionTable;
use super::settings::{Settings, enforcement};
use super::spawners::{Child, Spawners};
use super::stderr::{StderrPipes, last_words};
use super::{Parent, same_build};
use crate::conf::files::DEFAULT_SECRETS;
use crate::conf::items::{Assembler, Audience, send};
use crate::conf::model::{Config, LogTo};
use crate::os::accounts::Accounts;
use crate::os::error::SystemError;
use crate::os::log::{Level, Log};
use crate::os::spawn::{Started, Starter};
use crate::os::{credentials, signals};

/// At work.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Sendfd, Promise::Recvfd, Promise::Pair]).calls(Calls::Parent);
/// Bytes of memory that the parent may take: the configuration, and some kilobytes for each
/// session.
const MEMORY: u64 = 1 << 30;

/// The command line.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
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

impl DaemonOptions {
    /// The command line of the process that leaves the terminal.
    fn detached_arguments(&self, files: &LoadConfig) -> Vec<String> {
        let text = |path: &[u8]| OsStr::from_bytes(path).to_string_lossy().into_owned();
        let mut arguments = vec!["--detached".to_owned(), "-f".to_owned(), text(&files.path)];
        arguments.extend(std::iter::repeat_n("-v".to_owned(), self.verbose.into()));
        if !files.secrets.is_empty() {
            arguments.extend(["-s".to_owned(), text(&files.secrets)]);
        }
        arguments
    }
}

/// What the service manager passed; everything else that was open is closed.
fn inherited(options: &DaemonOptions) -> Result<Vec<Passed>, StartupError> {
    let passed = if options.detached { 0 } else { passed_count() };
    // Whatever else the starter of this process had open is none of ours, nor of our children. A
    // daemon that has left its terminal was given one descriptor.
    crate::os::system::close_from(crate::os::spawn::PARENT_FD + i32::from(options.detached) + passed);
    if passed > 0 && !options.foreground && !options.check {
        return Err(StartupError::PassedToDetach);
    }
    passed_sockets(passed)
}

/// Starts the daemon and serves until it ends.
pub fn run(options: &DaemonOptions) -> Result<(), StartupError> {
    let passed = inherited(options)?;
    let mut starter = Starter::new().map_err(|e| SystemError::Io("start", e))?;
    let files = files(options)?;
    if !options.foreground && !options.detached && !options.check {
        return detach(&starter, &options.detached_arguments(&files));
    }
    if options.detached {
        nix::unistd::setsid().map_err(|e| SystemError::Call("setsid", e))?;
    }
    let loaded = load(&starter, &files, options.check);
    let Loaded { mut config, mut warnings } = loaded?;
    if options.check {
        // A second -v shows the configuration itself, with includes, macros and defaults resolved.
        if options.verbose > 1 {
            print!("{}", crate::conf::print::print(&config));
        }
        if nix::unistd::geteuid().is_root()
            && let Some(why) = Accounts::of(&config, &[])?.one
        {
            eprintln!("gotd: {why}");
        }
        println!("configuration OK");
        return Ok(());
    }
    let enforcement = enforcement(&config);
    let report = libsandbox::check_platform(enforcement)?;
    let verbose = options.verbose > 0 || config.log_verbose;
    let mut log = open_log(&config, options, verbose);
    let quick = starter.quicken().unwrap_or_else(|why| {
        log.line(Level::Warning, "not used", &[("why", &why)]);
        false
    });
    raise_descriptor_limit();
    crate::os::system::limit_memory(MEMORY);
    let signals = signals::catch(&[Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP])
        .map_err(|e| SystemError::Io("signals", e))?;
    let accounts = accounts(&config, &files)?;
    let mut stderr_pipes = StderrPipes::default();
    let mut spawners = start_spawners(&starter, &accounts, enforcement, &mut stderr_pipes)?;
    let places = places(&mut spawners, &mut config)?;
    warnings.extend(places.warnings);
    log_findings(&mut log, &report.warnings, &warnings, &places.notes, options);
    if let Some(why) = accounts.one.as_ref().filter(|_| accounts.get(Account::Daemon).is_some()) {
        log.line(Level::Warning, "accounts", &[("warning", why)]);
    }
    let mut settings = Settings::new(&config, &places.seen);
    let bound = bind(&starter, &settings, passed)?;
    let takes_descriptors = warn_of_descriptors(&mut log, &bound.2);
    let manager = Manager::of_environment();
    settings.pools.retain(|(pool, _)| bound.1.has(*pool));
    // From here on nothing but `sockets` has a privilege.
    credentials::take_on(accounts.get(Account::Daemon))?;
    restrict(enforcement)?;
    let mut parent = connect_roles((spawners, stderr_pipes), log, settings, signals, bound, &config, files)?;
    parent.one_uid = accounts.one;
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
        ready(&starter);
        parent.log.stderr_moved();
    }
    manager.ready();
    parent.serve().map_err(StartupError::Lost)
}

fn open_log(config: &Config, options: &DaemonOptions, verbose: bool) -> Log {
    match config.log_to {
        LogTo::Stderr => Log::stderr(verbose),
        LogTo::Syslog => Log::syslog(verbose),
        LogTo::Auto if options.foreground => Log::stderr(verbose),
        LogTo::Auto => Log::syslog(verbose),
    }
}

/// What the platform and the configuration gave rise to, before anything is served.
fn log_findings(
    log: &mut Log,
    sandbox: &[String],
    configuration: &[String],
    places: &[String],
    options: &DaemonOptions,
) {
    for warning in sandbox {
        log.line(Level::Warning, "sandbox", &[("warning", warning)]);
    }
    // `config` and `places` have bounded them.
    for warning in configuration {
        log.line(Level::Warning, "configuration", &[("warning", warning)]);
    }
    // The process that started the daemon from the terminal is still there.
    if options.detached {
        configuration.iter().for_each(|text| eprintln!("{text}"));
    }
    for note in places {
        log.line(Level::Info, "place", &[("note", &escape(note.as_bytes()))]);
    }
}

/// Whether clients can send descriptors to one of these.
fn warn_of_descriptors(log: &mut Log, listening: &[(u64, Pool, OwnedFd)]) -> bool {
    let open = |(_, pool, fd): &(u64, Pool, OwnedFd)| {
        *pool == Pool::Unix && crate::os::system::takes_descriptors(fd.as_fd())
    };
    let takes_descriptors = listening.iter().any(open);
    if takes_descriptors {
        log.line(Level::Warning, "descriptors", &[("warning", &super::TAKES_DESCRIPTORS)]);
    }
    takes_descriptors
}

/// The files that the command line names, as absolute paths.
fn files(options: &DaemonOptions) -> Result<LoadConfig, StartupError> {
    let absolute =
        |path: &Path| std::path::absolute(path).map_err(|e| StartupError::Path(path.to_owned(), e));
    let secrets = options.secrets.as_deref().map(absolute).transpose()?;
    Ok(LoadConfig {
        path: absolute(&options.config)?.into_os_string().into_vec(),
        secrets: secrets.map(|path| path.into_os_string().into_vec()).unwrap_or_default(),
    })
}

/// A configuration that was read.
struct Loaded {
    config: Config,
    warnings: Vec<String>,
}

/// Reads the configuration in a process of its own; prints every error and warning, and with `asks`
/// the notes.
fn load(starter: &Starter, files: &LoadConfig, asks: bool) -> Result<Loaded, StartupError> {
    let failed = |e| no_child(Role::Config, e);
    let child: Started<ParentToConfig, ConfigToParent> =
        starter.start(Role::Config, &[], &[]).map_err(|e| failed(ChildError::Start(e)))?;
    let message = match asks {
        true => ParentToConfig::Check(files.clone()),
        false => ParentToConfig::Load(files.clone()),
    };
    child.channel.send(0, &message).map_err(|e| failed(ChildError::Send(e)))?;
    let (mut assembler, mut config) = (Assembler::default(), None);
    let (mut errors, mut warnings) = (0usize, Vec::new());
    let good = loop {
        let received = match child.channel.recv() {
            Ok(received) => received,
            Err(e) if e.is_transient() => continue,
            Err(RecvError::Closed) => {
                let last = last_words(&child.stderr);
                return Err(StartupError::Child(Role::Config, ChildError::EndedEarly, last));
            }
            Err(e) => return Err(failed(ChildError::Recv(e))),
        };
        match received.message {
            ConfigToParent::Hello(build) if same_build(&build) => {}
            ConfigToParent::Hello(_) => return Err(failed(ChildError::OtherBuild)),
            ConfigToParent::Item(item) => {
                config = assembler.item(&item).map_err(|e| failed(ChildError::Item(e)))?;
            }
            ConfigToParent::Note(text) => eprintln!("{text}"),
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
        let path = OsStr::from_bytes(&files.path).into();
        return Err(StartupError::Unusable { path, checked: asks });
    }
    let loaded = config.map(|config| Loaded { config, warnings });
    loaded.ok_or_else(|| failed(ChildError::EndedEarly))
}

/// As many descriptors as the system allows: four for each session.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

/// The accounts, with those groups by which a reload can read the files.
fn accounts(config: &Config, files: &LoadConfig) -> Result<Accounts, StartupError> {
    let secrets = std::str::from_utf8(&files.secrets).ok().filter(|path| !path.is_empty());
    let secrets = secrets.unwrap_or(DEFAULT_SECRETS);
    let files: Vec<&str> = config.files.iter().map(String::as_str).chain([secrets]).collect();
    Ok(Accounts::of(config, &files)?)
}

fn start_spawners(
    starter: &Starter,
    accounts: &Accounts,
    enforcement: Enforcement,
    stderr_pipes: &mut StderrPipes,
) -> Result<Spawners, StartupError> {
    let mut spawners = Spawners::default();
    for account in Account::ALL {
        let credentials = accounts.get(account).cloned();
        let (number, pid, stderr) =
            spawners.add(starter, account, credentials, enforcement).map_err(StartupError::Spawner)?;
        stderr_pipes.watch(number, Role::Spawner, &stderr);
        stderr_pipes.started(number, pid);
    }
    Ok(spawners)
}

/// Has role `places` walk to the places of the configuration.
fn places(spawners: &mut Spawners, config: &mut Config) -> Result<Said, StartupError> {
    let failed = |e| no_child(Role::Places, e);
    let child: Child<ParentToPlaces, PlacesToParent> =
        spawners.start(Order::of(Role::Places), Vec::new()).map_err(|e| failed(ChildError::Start(e)))?;
    let mut tell = |batch| -> Result<(), ChildError> {
        child.channel.send(0, &ParentToPlaces::Item(batch)).map_err(ChildError::Send)
    };
    send(config, Audience::Parent, &mut tell)
        .map_err(|e| StartupError::Child(Role::Places, e, last_words(&child.stderr)))?;
    let mut said = Said::default();
    let good = loop {
        let message = greeting(&child, spawners)?;
        if let Some(good) = said.take(message, config).map_err(failed)? {
            break good;
        }
    };
    said.errors.iter().for_each(|text| eprintln!("{text}"));
    if good {
        return Ok(said);
    }
    said.warnings.iter().for_each(|text| eprintln!("{text}"));
    let path = config.files.first().map(PathBuf::from).unwrap_or_default();
    Err(StartupError::Unusable { path, checked: false })
}

/// The parent's own sandbox: it opens nothing and starts nothing any more.
fn restrict(enforcement: Enforcement) -> Result<(), StartupError> {
    libsandbox::harden_process(Role::Parent.name())?;
    libsandbox::enter(&Stage {
        promises: WORK,
        paths: Some(&[]),
        limits: ResourceLimits { data: Some(MEMORY), ..ResourceLimits::UNCHANGED },
        enforcement,
    })?;
    Ok(())
}

/// Starts `listen` and `auth` and tells them what they need.
fn connect_roles(
    (mut spawners, mut stderr_pipes): (Spawners, StderrPipes),
    log: Log,
    settings: Settings,
    signals: std::os::unix::net::UnixStream,
    (sockets, listeners, listening): super::bind::Bound,
    config: &Config,
    files: LoadConfig,
) -> Result<Parent, StartupError> {
    let auth: Child<ParentToAuth, AuthToParent> = spawners
        .start(Order::of(Role::Auth), Vec::new())
        .map_err(|e| no_child(Role::Auth, ChildError::Start(e)))?;
    let listen: Child<ParentToListen, ListenToParent> =
        spawners
            .start(Order::of(Role::Listen), Vec::new())
            .map_err(|e| no_child(Role::Listen, ChildError::Start(e)))?;
    configure_auth(&auth, &mut spawners, config)?;
    configure_listen(&listen, &mut spawners, &settings, &listening)?;
    let number = spawners.next_number();
    stderr_pipes.watch(number, Role::Sockets, &sockets.stderr);
    stderr_pipes.started(number, sockets.pid.as_raw());
    stderr_pipes.watch(auth.number(), Role::Auth, &auth.stderr);
    stderr_pipes.watch(listen.number(), Role::Listen, &listen.stderr);
    Ok(Parent {
        spawners,
        log,
        settings,
        signals,
        sockets,
        listeners,
        listen,
        listen_out: Outbox::default(),
        auth,
        auth_out: Outbox::default(),
        stderr_pipes,
        table: SessionTable::default(),
        started: Instant::now(),
        served: 0,
        metrics: Metrics::default(),
        checked: Checked::default(),
        own_configs: OwnConfigs::default(),
        listened: Instant::now(),
        draining: None,
        turns: std::collections::VecDeque::new(),
        spent: super::spent::Spent::default(),
        files,
        verbose: false,
        reload: None,
        pauses: super::pauses::Pauses::default(),
        unsound: None,
        takes_descriptors: false,
        one_uid: None,
    })
}

/// Without anything that the process said.
fn no_child(role: Role, e: ChildError) -> StartupError {
    StartupError::Child(role, e, String::new())
}

fn configure_auth(
    auth: &Child<ParentToAuth, AuthToParent>,
    spawners: &mut Spawners,
    config: &Config,
) -> Result<(), StartupError> {
    match greeting(auth, spawners)? {
        AuthToParent::Hello(build) if same_build(&build) => {}
        _ => return Err(no_child(Role::Auth, ChildError::OtherBuild)),
    }
    let mut tell = |batch| -> Result<(), ChildError> {
        auth.channel.send(0, &ParentToAuth::Config(batch)).map_err(ChildError::Send)
    };
    send(config, Audience::Parent, &mut tell)
        .map_err(|e| StartupError::Child(Role::Auth, e, last_words(&auth.stderr)))?;
    match greeting(auth, spawners)? {
        AuthToParent::Configured(()) => {}
        _ => return Err(no_child(Role::Auth, ChildError::NotConfigured)),
    }
    Ok(())
}

fn configure_listen(
    listen: &Child<ParentToListen, ListenToParent>,
    spawners: &mut Spawners,
    settings: &Settings,
    listening: &[(u64, Pool, OwnedFd)],
) -> Result<(), StartupError> {
    match greeting(listen, spawners)? {
        ListenToParent::Hello(build) if same_build(&build) => {}
        _ => return Err(no_child(Role::Listen, ChildError::OtherBuild)),
    }
    let untold = |e| no_child(Role::Listen, ChildError::Send(e));
    for message in settings.for_listen() {
        listen.channel.send(0, &message).map_err(untold)?;
    }
    for (number, pool, listener) in listening {
        listen
            .channel
            .send_with_fds(*number, &ParentToListen::Listener(*pool), &[listener.as_fd()])
            .map_err(untold)?;
    }
    Ok(())
}

/// The next message of a process that is being started.
/// A link that ends before that may belong to a process that its spawner could not start.
fn greeting<S: Message, R: Message>(child: &Child<S, R>, spawners: &mut Spawners) -> Result<R, StartupError> {
    loop {
        match Channel::<S, R>::recv(&child.channel) {
            Ok(received) => return Ok(received.message),
            Err(e) if e.is_transient() => {}
            Err(e) => {
                let why =
                    spawners.why_not_started(child.number()).map_or(ChildError::Recv(e), ChildError::Start);
                return Err(StartupError::Child(child.role, why, last_words(&child.stderr)));
            }
        }
    }
}
