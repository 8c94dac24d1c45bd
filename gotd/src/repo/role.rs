//! `repository`: waits to become `repo_read` or `repo_write`.
//!
//! Duty: started ahead of time and restricted to the directories that hold repositories; when the
//! parent names its one repository, finds it, narrows itself to it, and answers its session from
//! then on. Waits on: the parent. Talks to: the parent and its session.
//!
//! **Invariant:** has parsed nothing from a client while it can see more than one repository.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libgit::HashKind;
use libproto::channel::{self, Channel, Received};
use libproto::message::parent::{
    Access, Build, Checks, DirectoryId, FoundAt, ListenToSession, OpenError, Opened, ParentToRepo,
    RepoAddress, RepoReport, RepoStart, RepoToParent, Serve, Task,
};
use libproto::message::repo::{Refusal, RepoToSession};
use librepo::alternates::Alternate;
use librepo::beneath::EntryType;
use librepo::checked::{Checked, Seal};
use librepo::mounts::Look;
use librepo::place::{self, Inode, Permissions, Stopped, Trust, Walked, Why};
use librepo::repository::{Opening, Options, Repository};
use libsandbox::{Enforcement, Limits, Promise, Promises, Stage, Visible};

use crate::access::places;
use crate::os::system;
use crate::os::watchdog::{self, Words};
use crate::repo::borrowing;
use crate::repo::describe;
use crate::repo::read;
use crate::repo::write;
use crate::session::pipes::Output;

/// While waiting.
pub const WAITING: Promises = Promises::of(&[
    Promise::Stdio,
    Promise::Rpath,
    Promise::Wpath,
    Promise::Cpath,
    Promise::Fattr,
    Promise::Flock,
    Promise::Sendfd,
    Promise::Unveil,
]);
/// While waiting for a client of git://, who can only fetch, and whose connection is still to come.
pub const WAITING_GIT: Promises =
    Promises::of(&[Promise::Stdio, Promise::Rpath, Promise::Recvfd, Promise::Unveil]);

/// `repo_read`.
pub const READING: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath]);
/// Bytes of unpacked objects that each thread keeps. Directories are read with all their versions
/// at a time, so that more makes nothing faster: small fetches it makes slower, by the fresh
/// memory. Half as much made a fetch of git's last thousand commits a tenth slower.
const CACHE_BYTES: usize = 8 << 20;

/// What a repository process is given beside its link to its session.
#[derive(Debug)]
pub enum Ends {
    /// For a client of the unix socket: the link to `verify`, where the client reads, and where it
    /// writes.
    Unix {
        /// The link to `verify`.
        verify: OwnedFd,
        /// The writing end of the pipe that the client reads.
        output: OwnedFd,
        /// The reading end of the pipe that the client writes, kept for `verify`.
        input: OwnedFd,
    },
    /// For a client of git://: the link to `listen`.
    Git {
        /// On which the connection comes.
        listen: OwnedFd,
    },
}

/// The link to the parent.
pub type Parent = Channel<RepoToParent, ParentToRepo>;

/// A repository that was found, and where.
#[derive(Debug)]
pub struct Found {
    /// `O_PATH` descriptor of the directory that holds `HEAD`, `objects` and `refs`.
    pub directory: OwnedFd,
    /// Its path, for unveil(2) and the log.
    pub path: PathBuf,
    /// It is the `.git` directory of a worktree.
    pub worktree: bool,
    /// How its entries are looked at.
    pub look: Look,
    /// It, the directory above it and so on, to the one at the top.
    pub directories: Vec<DirectoryId>,
    /// Who may do what in each of them.
    pub permissions: Vec<Permissions>,
    here: Look,
}

impl Found {
    /// The same, as far as it lies on the mount of its directory.
    #[must_use]
    pub fn on_its_mount(mut self) -> Found {
        self.look = self.here;
        self
    }
}

/// Runs the role.
pub fn run(parent: OwnedFd, session: OwnedFd, ends: Ends, enforcement: Enforcement) -> Result<(), String> {
    let parent = Parent::from(parent);
    let (promises, access) = match ends {
        Ends::Unix { .. } => (WAITING, libsandbox::Access::READ_WRITE_CREATE),
        Ends::Git { .. } => (WAITING_GIT, libsandbox::Access::READ),
    };
    let start = match parent.recv() {
        Ok(Received { message: ParentToRepo::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    let granted: Vec<PathBuf> = start.granted.iter().map(|path| OsStr::from_bytes(path).into()).collect();
    let granted = places::visible(&granted);
    let visible: Vec<Visible<'_>> =
        granted.iter().map(|(path, dir)| Visible::opened(dir.as_fd(), path, access)).collect();
    if start.strangers {
        system::give_way();
    }
    let limits = Limits { data: Some(start.memory), ..Limits::UNCHANGED };
    libsandbox::enter(&Stage { promises, paths: Some(&visible), limits, enforcement })
        .map_err(|e| e.to_string())?;
    send(&parent, &RepoToParent::Hello(Build { id: crate::BUILD.into() }));
    let serve = match parent.recv() {
        Ok(Received { message: ParentToRepo::Serve(serve), .. }) => serve,
        // The daemon or the session ended before there was anything to do.
        _ => system::exit_now(0),
    };
    let (output, for_push) = match ends {
        Ends::Unix { verify, output, input } => {
            // For a push alone.
            (output, (serve.access == Access::Write && serve.task == Task::Git).then_some((verify, input)))
        }
        Ends::Git { listen } => (connection(listen), None),
    };
    match serve.access {
        Access::Read => system::set_name(c"repo_read"),
        Access::Write => system::set_name(c"repo_write"),
    }
    let found = loop {
        match find(&serve.repository) {
            Ok(found) => break found,
            Err(OpenError::NotFound) if is_made(&parent) => {}
            Err(OpenError::NotFound) => return Ok(()),
            Err(error) => return failed(&parent, error),
        }
    };
    if !granted.keys().any(|visible| found.path.starts_with(visible)) {
        let path = found.path.display();
        let text = format!("{path}: was not to be reached when this process was started, as it is now");
        return failed(&parent, OpenError::Unreachable(text));
    }
    drop(granted);
    // The parent asks whether this is the place while it is being opened; nothing is told of it
    // before.
    let at =
        FoundAt { path: found.path.as_os_str().as_bytes().to_vec(), directories: found.directories.clone() };
    send(&parent, &RepoToParent::Found(at));
    if serve.repository.export_ok
        && found.look.at(&found.directory, "git-daemon-export-ok") != Ok(EntryType::File)
    {
        return failed(&parent, OpenError::NotExported);
    }
    match serve.access {
        Access::Read if serve.task != Task::Git => describe::tell(&parent, &serve, &found, enforcement),
        Access::Read => read(&parent, session, output, &start, &serve, found, enforcement),
        Access::Write if serve.task != Task::Git => describe::run(&parent, &serve, &found, enforcement),
        Access::Write => {
            let for_verify = for_push.ok_or("git:// is for fetching only")?;
            // Whoever writes to the repository says nothing to its client.
            drop(output);
            write::run(&parent, session, for_verify, &serve, &found, enforcement)
        }
    }
}

/// The connection of a client of git://. `listen` sent it before it told anybody of that client.
fn connection(listen: OwnedFd) -> OwnedFd {
    let listen = Channel::<ListenToSession, ListenToSession>::from(listen);
    loop {
        match listen.recv_with_fds() {
            Ok(mut received) => match received.fds.pop() {
                Some(fd) => return fd,
                None => system::exit_now(1),
            },
            Err(e) if e.is_transient() => {}
            Err(_) => system::exit_now(0),
        }
    }
}

/// Becomes `repo_read`.
fn read(
    parent: &Parent,
    session: OwnedFd,
    output: OwnedFd,
    start: &RepoStart,
    serve: &Serve,
    found: Found,
    enforcement: Enforcement,
) -> Result<(), String> {
    let mut alternates = match borrowing::from_parent(parent, &found, &serve.who) {
        Ok(alternates) => alternates,
        Err(text) => return failed(parent, OpenError::Unusable(text)),
    };
    let limits = Limits { fsize: Some(0), ..Limits::UNCHANGED };
    narrow(READING, &found, libsandbox::Access::READ, &alternates.dirs, limits, enforcement)?;
    let directory = found.directory.try_clone().map_err(|e| e.to_string())?;
    let opening = match Opening::new(directory, found.look) {
        Ok(opening) => opening,
        Err(e) => return failed(parent, OpenError::Unusable(e.to_string())),
    };
    tell(parent, found.directory.as_fd(), opening.hash())?;
    // While the parent looks at what was found.
    let checked = Arc::<Checked>::default();
    let dirs = std::mem::take(&mut alternates.dirs);
    let options =
        Options { alternates: dirs, look: found.look, checked: checked.clone(), ..Options::default() };
    let repository = opening.finish(options);
    let session = session.into();
    watch(parent, &session, serve)?;
    checked.vouch(await_go(parent).into_iter().map(Seal::from_bytes));
    let repository = match repository {
        Ok(repository) => repository,
        Err(e) => {
            send(parent, &RepoToParent::Finished(read::refuse(&session, &e.to_string())));
            return Ok(());
        }
    };
    let grant = read::Grant {
        rules: serve.fetch,
        hidden: &serve.hidden,
        limits: &serve.limits,
        threads: start.threads.into(),
        withheld: alternates.withheld(),
        cache_bytes: CACHE_BYTES,
        queue: Some(read::PackQueue { parent }),
        negotiation: serve.negotiation,
    };
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("repo_read", READING);
    let mut report = read::serve(&session, &repository, &grant, Output::new(output));
    report.warnings.extend(repository.notes().take(16).map(str::to_owned));
    report.warnings.extend(borrowing::warnings(&alternates));
    report.checked = checked.found().iter().map(|seal| *seal.as_bytes()).collect();
    send(parent, &RepoToParent::Finished(report));
    Ok(())
}

/// Starts the watchdog of `repo_read`: the parent hears of it for the log, and the session for its
/// client.
fn watch(parent: &Parent, session: &read::Session, serve: &Serve) -> Result<(), String> {
    let limits = &serve.limits;
    let (allowed, cpu) = read::budget::first_reached(&serve.negotiation);
    let for_log = |refusal: Refusal| {
        let report = RepoReport { refusal: Some(refusal), ..RepoReport::default() };
        channel::encode(0, 0, &RepoToParent::Finished(report)).unwrap_or_default()
    };
    let for_client =
        |refusal: Refusal| channel::encode(0, 0, &RepoToSession::Refused(refusal)).unwrap_or_default();
    let spent = RepoReport {
        refusal: Some(cpu.clone()),
        negotiated: u32::try_from(allowed.as_millis()).unwrap_or(u32::MAX),
        ..RepoReport::default()
    };
    let spent = channel::encode(0, 0, &RepoToParent::Finished(spent)).unwrap_or_default();
    let told = vec![
        (parent.as_fd(), Words::new(limits, for_log, Vec::new()).with_cpu(spent)),
        (session.as_fd(), Words::new(limits, for_client, Vec::new()).with_cpu(for_client(cpu))),
    ];
    watchdog::start(limits.clone(), told).map_err(|e| format!("watchdog: {e}"))
}

/// Opens a repository that was found.
pub fn open_repository(found: &Found, alternates: Vec<Alternate>) -> librepo::error::Result<Repository> {
    let directory = found.directory.try_clone().map_err(librepo::error::Error::Io)?;
    Repository::open(directory, Options { alternates, look: found.look, ..Options::default() })
}

/// Reports a repository that cannot be served, and ends.
pub fn failed(parent: &Parent, error: OpenError) -> Result<(), String> {
    send(parent, &RepoToParent::OpenFailed(error));
    // The session ends when it has told its client; the parent then ends this process.
    let _ = parent.recv();
    Ok(())
}

/// Reports that there is no repository, and waits: whether the parent has had it made.
fn is_made(parent: &Parent) -> bool {
    send(parent, &RepoToParent::OpenFailed(OpenError::NotFound));
    matches!(parent.recv(), Ok(Received { message: ParentToRepo::Again(()), .. }))
}

/// A repository process without a parent has nothing left to do.
pub fn send(parent: &Parent, message: &RepoToParent) {
    if parent.send(0, 0, message).is_err() {
        system::exit_now(1);
    }
}

/// Tells the parent what was found and waits for its word that this is the right one.
pub fn announce(parent: &Parent, found: BorrowedFd<'_>, hash: HashKind) -> Result<(), String> {
    tell(parent, found, hash)?;
    await_go(parent);
    Ok(())
}

/// Tells the parent what was found.
fn tell(parent: &Parent, found: BorrowedFd<'_>, hash: HashKind) -> Result<(), String> {
    let stat = libsandbox::fstat(found).map_err(|e| format!("stat: {e}"))?;
    let opened = Opened { device: stat.st_dev, inode: stat.st_ino, hash };
    send(parent, &RepoToParent::Opened(opened));
    Ok(())
}

/// Waits for the parent's word that this is the right one; before it, nothing the session says is
/// listened to. With it comes what others checked.
fn await_go(parent: &Parent) -> Checks {
    match parent.recv() {
        Ok(Received { message: ParentToRepo::Go(checked), .. }) => checked,
        _ => system::exit_now(0),
    }
}

/// Walks to the repository of an address.
///
/// A configured path may hold symbolic links where nobody but root and the daemon's user can have
/// put them; nothing below a `repositories` directory may. The name was checked when it became a
/// `RepoName`, and again here.
pub fn find(address: &RepoAddress) -> Result<Found, OpenError> {
    let root = root(&address.path, &address.place)?;
    let Some(below) = &address.below else {
        return repository_at(root).ok_or(OpenError::NotFound);
    };
    // The name as it was asked for comes first, as with git; then the other spelling.
    let other = match below.without_suffix() {
        stem if stem.len() == below.as_bytes().len() => below.with_suffix(),
        stem => stem.to_vec(),
    };
    for name in [below.as_bytes().to_vec(), other] {
        let Some(directory) = descend(&root, &name)? else { continue };
        if let Some(found) = repository_at(directory) {
            return Ok(found);
        }
    }
    Err(OpenError::NotFound)
}

/// Walks to a configured directory, which has to be the one that it was when the configuration was
/// loaded.
pub fn root(path: &[u8], place: &[u8]) -> Result<Walked, OpenError> {
    let path = Path::new(OsStr::from_bytes(path));
    match place::walk(path, Trust::of_process()) {
        Ok(walked) if walked.path.as_os_str().as_bytes() == place => Ok(walked),
        Ok(walked) => Err(OpenError::Unreachable(format!(
            "{}: leads to {}, and did not when the configuration was loaded; see gotctl reload",
            path.display(),
            walked.path.display()
        ))),
        Err(Stopped { why: Why::Absent | Why::NotADirectory, .. }) => Err(OpenError::NotFound),
        Err(stopped) => Err(OpenError::Unreachable(stopped.to_string())),
    }
}

/// Follows a name component by component, never through a symbolic link, never into a repository.
fn descend(root: &Walked, name: &[u8]) -> Result<Option<Walked>, OpenError> {
    let mut at = root.try_clone().map_err(|e| OpenError::Unusable(e.to_string()))?;
    let mut components = name.split(|b| *b == b'/').peekable();
    while let Some(component) = components.next() {
        if component.is_empty() || component.starts_with(b".") || component.contains(&0) {
            return Ok(None);
        }
        at = match at.child(component) {
            Ok(next) => next,
            Err(why @ (Why::Mount | Why::UserSpace)) => {
                let name = at.path.join(OsStr::from_bytes(component));
                return Err(OpenError::Unreachable(format!("{}: {why}", name.display())));
            }
            Err(_) => return Ok(None),
        };
        // Below a work tree there can be other repositories, as git itself serves them.
        if components.peek().is_some() && is_repository(&at) {
            return Ok(None);
        }
    }
    Ok(Some(at))
}

/// A directory as messages have it.
pub fn directory_id(inode: Inode) -> DirectoryId {
    DirectoryId { device: inode.device, inode: inode.inode, born: inode.born }
}

/// The repository in a directory: bare, or the `.git` directory of a worktree.
pub fn repository_at(directory: Walked) -> Option<Found> {
    let inner = worktree(&directory);
    let worktree = inner.is_some();
    let found = inner.or_else(|| is_repository(&directory).then_some(directory))?;
    let directories = found.directories().into_iter().map(directory_id).collect();
    Some(Found {
        look: found.look(),
        here: found.look_here(),
        permissions: found.permissions(),
        directory: found.directory,
        path: found.path,
        worktree,
        directories,
    })
}

/// The `.git` directory of a worktree.
fn worktree(directory: &Walked) -> Option<Walked> {
    directory.child(b".git").ok().filter(is_repository)
}

/// Whether what is in this directory lies inside of a repository.
pub fn is_in_repository(directory: &Walked) -> bool {
    is_repository(directory) || worktree(directory).is_some()
}

/// As git's own test: HEAD, objects and refs; a shared `commondir` is not followed.
fn is_repository(directory: &Walked) -> bool {
    let is = |name, kind| directory.entry(name) == Some(kind);
    is("objects", EntryType::Dir)
        && is("refs", EntryType::Dir)
        && (is("HEAD", EntryType::File) || is("HEAD", EntryType::Symlink))
        && !is("commondir", EntryType::File)
}

/// The final stage of a repository process: its one repository (and allowed alternates), and its
/// own words.
pub fn narrow(
    promises: Promises,
    found: &Found,
    access: libsandbox::Access,
    alternates: &[Alternate],
    limits: Limits,
    enforcement: Enforcement,
) -> Result<(), String> {
    let mut visible = vec![Visible::opened(found.directory.as_fd(), &found.path, access)];
    for alternate in alternates {
        visible.push(Visible::opened(alternate.dir.as_fd(), &alternate.path, libsandbox::Access::READ));
    }
    libsandbox::enter(&Stage { promises, paths: Some(&visible), limits, enforcement })
        .map_err(|e| e.to_string())?;
    Ok(())
}
