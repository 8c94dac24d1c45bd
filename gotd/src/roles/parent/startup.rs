//! From the command line to a running daemon: configuration, sockets, the loss of privilege, the
//! sandbox, and the processes that live as long as the daemon.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use libproto::channel::{Channel, Message, RecvError};
use libproto::message::parent::{
    AuthToParent, ConfigToParent, ListenToParent, LoadConfig, OwnDirectory, ParentToAuth, ParentToConfig,
    ParentToListen, Pool,
};
use libproto::names::escape;
use libproto::states::Role;
use libsandbox::{Access, Promise, Promises, ResourceLimits, Stage, Visible};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};

use super::bind::{Passed, bind, passed_count, passed_sockets};
use super::checked::Checked;
use super::detach::{detach, ready};
use super::error::{ChildError, StartupError};
use super::metrics::Metrics;
use super::outbox::Outbox;
use super::sd_notify::Manager;
use super::session::table::SessionTable;
use super::settings::Settings;
use super::signals::catch_signals;
use super::stderr::{StderrPipes, last_words};
use super::{Parent, same_build};
use crate::conf::items::{Assembler, Audience, send};
use crate::conf::model::{self, Config, LogTo};
use crate::os::error::SystemError;
use crate::os::log::{Level, Log};
use crate::os::spawn::{Child, Starter};

/// At work. On Linux the filter also holds what the children need, since they inherit it.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Proc, Promise::Exec, Promise::Sendfd, Promise::Recvfd]);
/// Bytes of memory that the parent may take: the configuration, and some kilobytes for each
/// session.
const MEMORY: u64 = 1 << 30;
/// What the children need of the system, for reading: name services and time zones.
const SYSTEM_PATHS: [&str; 2] = ["/etc", "/usr/share/zoneinfo"];

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
    fn detached_arguments(&self) -> std::io::Result<Vec<String>> {
        let config = std::path::absolute(&self.config)?;
        let secrets = self.secrets.as_deref().map(std::path::absolute).transpose()?;
        let mut arguments =
            vec!["--detached".to_owned(), "-f".to_owned(), config.to_string_lossy().into_owned()];
        arguments.extend(std::iter::repeat_n("-v".to_owned(), self.verbose.into()));
        if let Some(secrets) = secrets {
            arguments.extend(["-s".to_owned(), secrets.to_string_lossy().into_owned()]);
        }
        Ok(arguments)
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
    if !options.foreground && !options.detached && !options.check {
        let arguments = options.detached_arguments().map_err(SystemError::Plain)?;
        return detach(&starter, &arguments);
    }
    if options.detached {
        nix::unistd::setsid().map_err(|e| SystemError::Call("setsid", e))?;
    }
    let files = files(options)?;
    let loaded = load(&starter, &files, options.check);
    let Loaded { config, seen, notes, warnings } = loaded?;
    if options.check {
        // A second -v shows the configuration itself, with includes, macros and defaults resolved.
        if options.verbose > 1 {
            print!("{}", crate::conf::print::print(&config));
        }
        println!("configuration OK");
        return Ok(());
    }
    let mut settings = Settings::new(&config, &seen);
    let report = libsandbox::check_platform(settings.enforcement)?;
    let verbose = options.verbose > 0 || config.log_verbose;
    let mut log = open_log(&config, options, verbose);
    log_findings(&mut log, &report.warnings, &warnings, &notes, options);
    let quick = starter.quicken().unwrap_or_else(|why| {
        log.line(Level::Warning, "not used", &[("why", &why)]);
        false
    });
    raise_descriptor_limit();
    limit_memory();
    let signals = catch_signals().map_err(|e| SystemError::Io("signals", e))?;
    let bound = bind(&starter, &settings, passed)?;
    let takes_descriptors = warn_of_descriptors(&mut log, &bound.2);
    let manager = Manager::of_environment();
    settings.pools.retain(|(pool, _)| bound.1.has(*pool));
    drop_privilege(&config)?;
    restrict(&starter, &settings, options)?;
    let mut parent = connect_roles(starter, log, settings, signals, bound, &config, files)?;
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
    // `config` has bounded both.
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

/// A configuration, and what role `config` found of its directories.
struct Loaded {
    config: Config,
    seen: Vec<OwnDirectory>,
    notes: Vec<String>,
    warnings: Vec<String>,
}

/// Reads the configuration in a process of its own; prints every error and warning, and with `asks`
/// the notes.
fn load(starter: &Starter, files: &LoadConfig, asks: bool) -> Result<Loaded, StartupError> {
    let failed = |e| no_child(Role::Config, e);
    let child: Child<ParentToConfig, ConfigToParent> =
        starter.start(Role::Config, &[], &[]).map_err(|e| failed(ChildError::Start(e)))?;
    let message = match asks {
        true => ParentToConfig::Check(files.clone()),
        false => ParentToConfig::Load(files.clone()),
    };
    child.channel.send(0, &message).map_err(|e| failed(ChildError::Send(e)))?;
    let (mut assembler, mut config) = (Assembler::default(), None);
    let (mut errors, mut seen, mut notes, mut warnings) = (0usize, Vec::new(), Vec::new(), Vec::new());
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
        let path = OsStr::from_bytes(&files.path).into();
        return Err(StartupError::Unusable { path, checked: asks });
    }
    let loaded = config.map(|config| Loaded { config, seen, notes, warnings });
    loaded.ok_or_else(|| failed(ChildError::EndedEarly))
}

/// As many descriptors as the system allows: four for each session.
fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard);
    }
}

/// The parent's own memory. Its children begin with the same, and each sets its own: so only the
/// lower of the two limits is set.
fn limit_memory() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_DATA) {
        let _ = setrlimit(Resource::RLIMIT_DATA, hard.min(MEMORY), hard);
    }
}

/// From here on nothing but `sockets` has a privilege. Started as an ordinary user there is none to
/// drop.
fn drop_privilege(config: &Config) -> Result<(), StartupError> {
    if !nix::unistd::geteuid().is_root() {
        // It may have been started with the one capability that `sockets` needs.
        crate::os::system::keep_capabilities(0).map_err(|e| SystemError::Io("capabilities", e))?;
        return Ok(());
    }
    let name = config.user.as_ref().map_or(model::DEFAULT_USER, |user| user.name.as_str());
    let ids = match config.user.as_ref().and_then(|user| user.ids) {
        Some(ids) => ids,
        None => nix::unistd::User::from_name(name)
            .ok()
            .flatten()
            .map(|user| (user.uid.as_raw(), user.gid.as_raw()))
            .ok_or_else(|| StartupError::NoUser(name.to_owned()))?,
    };
    let (uid, gid) = (Uid::from_raw(ids.0), Gid::from_raw(ids.1));
    if uid.is_root() {
        return Err(StartupError::RootUser);
    }
    setgroups(&[gid]).map_err(|e| SystemError::Call("setgroups", e))?;
    setresgid(gid, gid, gid).map_err(|e| SystemError::Call("setresgid", e))?;
    setresuid(uid, uid, uid).map_err(|e| SystemError::Call("setresuid", e))?;
    Ok(())
}

/// The parent's own sandbox, which holds for all its children.
fn restrict(starter: &Starter, settings: &Settings, options: &DaemonOptions) -> Result<(), StartupError> {
    libsandbox::harden_process("parent")?;
    let mut named: Vec<(PathBuf, Access)> = libsandbox::loader_paths();
    named.extend(SYSTEM_PATHS.iter().map(|path| (PathBuf::from(path), Access::READ)));
    for file in [Some(&options.config), options.secrets.as_ref()].into_iter().flatten() {
        let directory = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        named.push((directory.to_owned(), Access::READ));
    }
    named.retain(|(path, _)| path.exists());
    let mut visible: Vec<Visible<'_>> =
        named.iter().map(|(path, access)| Visible::named(path, *access)).collect();
    let granted = crate::repo::find::visible(&settings.granted);
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
        limits: ResourceLimits::UNCHANGED,
        enforcement,
    })?;
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
) -> Result<Parent, StartupError> {
    let flags = settings.flags();
    let auth: Child<ParentToAuth, AuthToParent> =
        starter.start(Role::Auth, &flags, &[]).map_err(|e| no_child(Role::Auth, ChildError::Start(e)))?;
    let listen: Child<ParentToListen, ListenToParent> =
        starter.start(Role::Listen, &flags, &[]).map_err(|e| no_child(Role::Listen, ChildError::Start(e)))?;
    configure_auth(&auth, config)?;
    configure_listen(&listen, &settings, &listening)?;
    let mut stderr_pipes = StderrPipes::default();
    stderr_pipes.watch(sockets.pid, Role::Sockets, &sockets.stderr);
    stderr_pipes.watch(auth.pid, Role::Auth, &auth.stderr);
    stderr_pipes.watch(listen.pid, Role::Listen, &listen.stderr);
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
        stderr_pipes,
        table: SessionTable::default(),
        started: Instant::now(),
        served: 0,
        metrics: Metrics::default(),
        checked: Checked::default(),
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
    })
}

/// Without anything that the process said.
fn no_child(role: Role, e: ChildError) -> StartupError {
    StartupError::Child(role, e, String::new())
}

fn configure_auth(auth: &Child<ParentToAuth, AuthToParent>, config: &Config) -> Result<(), StartupError> {
    match greeting(auth)? {
        AuthToParent::Hello(build) if same_build(&build) => {}
        _ => return Err(no_child(Role::Auth, ChildError::OtherBuild)),
    }
    let mut tell = |batch| -> Result<(), ChildError> {
        auth.channel.send(0, &ParentToAuth::Config(batch)).map_err(ChildError::Send)
    };
    send(config, Audience::Parent, &mut tell)
        .map_err(|e| StartupError::Child(Role::Auth, e, last_words(&auth.stderr)))?;
    match greeting(auth)? {
        AuthToParent::Configured(()) => {}
        _ => return Err(no_child(Role::Auth, ChildError::NotConfigured)),
    }
    Ok(())
}

fn configure_listen(
    listen: &Child<ParentToListen, ListenToParent>,
    settings: &Settings,
    listening: &[(u64, Pool, OwnedFd)],
) -> Result<(), StartupError> {
    match greeting(listen)? {
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
fn greeting<S: Message, R: Message>(child: &Child<S, R>) -> Result<R, StartupError> {
    loop {
        match Channel::<S, R>::recv(&child.channel) {
            Ok(received) => return Ok(received.message),
            Err(e) if e.is_transient() => {}
            Err(e) => {
                let last = last_words(&child.stderr);
                return Err(StartupError::Child(child.role, ChildError::Recv(e), last));
            }
        }
    }
}
