//! `repository`: waits to become `repo_read` or `repo_write`.
//!
//! Duty: started ahead of time and restricted to the directories that hold repositories; when the
//! parent names its one repository, finds it, narrows itself to it, and answers its session from
//! then on. Waits on: the parent. Talks to: the parent and its session.
//!
//! **Invariant:** has parsed nothing from a client while it can see more than one repository.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use libproto::channel::{self, Channel, Received};
use libproto::message::parent::{
    Access, Build, FoundAt, ListenToSession, OpenError, ParentToRepo, RepoReport, RepoStart, RepoToParent,
    Serve,
};
use libproto::message::repo::RepoToSession;
use libproto::refusal::Refusal;
use libproto::self_service::Task;
use librepo::checked::{Checked, Seal};
use librepo::dir::EntryType;
use librepo::repository::{Opening, Options};
use libsandbox::{Calls, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};

use crate::os::error::SystemError;
use crate::os::system;
use crate::os::watchdog::{self, Words};
use crate::repo::error::RepoError;
use crate::repo::find::{self, FoundRepository};
use crate::repo::opened::{Parent, await_go, failed, narrow, send, send_opened};
use crate::repo::{borrowing, describe, own_rules, read, write};
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
])
.with(Promise::Threads)
.calls(Calls::RepositoryWaiting);
/// While waiting for a client of git://. It can only fetch, and its connection is still to come.
pub const WAITING_GIT: Promises =
    Promises::of(&[Promise::Stdio, Promise::Rpath, Promise::Recvfd, Promise::Unveil])
        .with(Promise::Threads)
        .calls(Calls::RepositoryWaitingGit);

/// `repo_read`.
pub const READING: Promises =
    Promises::of(&[Promise::Stdio, Promise::Rpath]).with(Promise::Threads).calls(Calls::RepoRead);
/// Bytes of unpacked objects that each thread keeps. Directories are read with all their versions
/// at a time, so that more makes nothing faster: small fetches it makes slower, by the fresh
/// memory. Half as much made a fetch of git's last thousand commits a tenth slower.
const CACHE_BYTES: usize = 8 << 20;

/// What a repository process is given beside its link to its session.
#[derive(Debug)]
pub enum Ends {
    /// For a client of the unix socket.
    Unix {
        /// The writing end of the pipe that the client reads.
        output: OwnedFd,
        /// For a push.
        push: PushEnds,
    },
    /// For a client of git://: the link to `listen`.
    Git {
        /// On which the connection comes.
        listen: OwnedFd,
    },
}

/// What a push needs.
#[derive(Debug)]
pub struct PushEnds {
    /// The link to `verify`.
    pub verify: OwnedFd,
    /// The reading end of the pipe that the client writes, kept for `verify`.
    pub input: OwnedFd,
    /// The link to `commit_refs`.
    pub commit: OwnedFd,
}

/// Runs the role.
pub fn run(parent: OwnedFd, session: OwnedFd, ends: Ends, enforcement: Enforcement) -> Result<(), RepoError> {
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
    let granted = find::visible(&granted);
    let visible: Vec<Visible<'_>> =
        granted.iter().map(|(path, dir)| Visible::opened(dir.as_fd(), path, access)).collect();
    if start.strangers {
        system::give_way();
    }
    let limits = ResourceLimits { data: Some(start.memory), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises, paths: Some(&visible), limits, enforcement })?;
    send(&parent, &RepoToParent::Hello(Build { id: crate::BUILD.into() }));
    let serve = match parent.recv() {
        Ok(Received { message: ParentToRepo::Serve(serve), .. }) => serve,
        // The daemon or the session ended before there was anything to do.
        _ => system::exit_now(0),
    };
    let over_git = matches!(ends, Ends::Git { .. });
    let (output, for_push) = match ends {
        Ends::Unix { output, push } => {
            (output, (serve.access == Access::Write && serve.task == Task::Git).then_some(push))
        }
        Ends::Git { listen } => (connection(listen), None),
    };
    match serve.access {
        Access::Read => system::set_name(c"repo_read"),
        Access::Write => system::set_name(c"repo_write"),
    }
    let found = loop {
        match find::find(&serve.repository) {
            Ok(found) => break found,
            Err(error @ (OpenError::NotFound | OpenError::NoRepository(_))) => {
                if !is_made(&parent, error) {
                    return Ok(());
                }
            }
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
        Access::Read if serve.task != Task::Git => describe::send_info(&parent, &serve, &found, enforcement),
        Access::Read => {
            let output = (output, over_git);
            read(&parent, session, output, &start, &serve, found, enforcement)
        }
        Access::Write if serve.task != Task::Git => describe::run(&parent, &serve, &found, enforcement),
        Access::Write => {
            let ends = for_push.ok_or(RepoError::FetchOnly)?;
            // A process that writes to the repository sends its client nothing.
            drop(output);
            write::run(&parent, session, ends, &serve, &found, enforcement)
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

/// Becomes `repo_read`. The client reads `output`; whether it came over git:// is beside it.
fn read(
    parent: &Parent,
    session: OwnedFd,
    (output, over_git): (OwnedFd, bool),
    start: &RepoStart,
    serve: &Serve,
    found: FoundRepository,
    enforcement: Enforcement,
) -> Result<(), RepoError> {
    let mut alternates = match borrowing::from_parent(parent, &found, &serve.who) {
        Ok(alternates) => alternates,
        Err(e) => return failed(parent, OpenError::Unusable(e.to_string())),
    };
    let limits = ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED };
    // Where there is one thread, it needs no right to start others.
    let promises = if start.threads > 1 { READING } else { READING.without(Promise::Threads) };
    let promises = found.walked(promises, &alternates.dirs);
    narrow(promises, &found, libsandbox::Access::READ, &alternates.dirs, limits, enforcement)?;
    let directory = found.directory.try_clone().map_err(SystemError::Plain)?;
    let opening = match Opening::new(directory, found.look) {
        Ok(opening) => opening,
        Err(e) => return failed(parent, OpenError::Unusable(e.to_string())),
    };
    let own = match opening.safeguards().for_fetches() {
        Ok(own) if own.no_git_daemon && over_git => return failed(parent, OpenError::NotDaemon),
        Ok(own) => own.clone(),
        Err(e) => return failed(parent, OpenError::Unusable(e.to_string())),
    };
    own_rules::send(parent, opening.dir(), &own, serve.fetch, &serve.hidden);
    send_opened(parent, found.directory.as_fd(), opening.hash())?;
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
    let hidden = own_rules::hidden(own.hidden_from_fetches(), &serve.hidden);
    let grant = read::Grant {
        rules: own_rules::tighten_fetch(serve.fetch, &own),
        hidden: &hidden,
        limits: &serve.limits,
        threads: start.threads.into(),
        withheld: alternates.withheld(),
        cache_bytes: CACHE_BYTES,
        queue: Some(read::PackQueue { parent }),
        negotiation: serve.negotiation,
    };
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("repo_read", promises);
    let mut report = read::serve(&session, &repository, &grant, Output::new(output));
    report.warnings.extend(repository.notes().into_iter().take(16));
    report.warnings.extend(borrowing::warnings(&alternates));
    report.checked = checked.found().iter().map(|seal| *seal.as_bytes()).collect();
    send(parent, &RepoToParent::Finished(report));
    Ok(())
}

/// Starts the watchdog of `repo_read`: the parent hears of it for the log, and the session for its
/// client.
fn watch(parent: &Parent, session: &read::Session, serve: &Serve) -> Result<(), SystemError> {
    let limits = &serve.limits;
    let (allowed, cpu) = read::budget::first_reached(&serve.negotiation);
    let for_log = |refusal: Refusal| {
        let report = RepoReport { refusal: Some(refusal), ..RepoReport::default() };
        channel::encode(0, &RepoToParent::Finished(report)).unwrap_or_default()
    };
    let for_client =
        |refusal: Refusal| channel::encode(0, &RepoToSession::Refused(refusal)).unwrap_or_default();
    let spent = RepoReport {
        refusal: Some(cpu.clone()),
        negotiated: read::budget::milliseconds(allowed),
        ..RepoReport::default()
    };
    let spent = channel::encode(0, &RepoToParent::Finished(spent)).unwrap_or_default();
    let told = vec![
        (parent.as_fd(), Words::new(limits, for_log, Vec::new()).with_cpu(spent)),
        (session.as_fd(), Words::new(limits, for_client, Vec::new()).with_cpu(for_client(cpu))),
    ];
    watchdog::start(limits.clone(), told).map_err(|e| SystemError::Io("watchdog", e))
}

/// Reports that there is no repository, and waits: whether the parent has had it made.
fn is_made(parent: &Parent, why: OpenError) -> bool {
    send(parent, &RepoToParent::OpenFailed(why));
    matches!(parent.recv(), Ok(Received { message: ParentToRepo::Again(()), .. }))
}
