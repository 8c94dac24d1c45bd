//! `verify`: indexes and checks one incoming pack.
//!
//! Duty: read the pack from the client into the files it was given, check every object and
//! everything behind the new tips, and report facts about each command. Waits on: `repo_write` for
//! its task, the session for the client's input, then on the client. Talks to: both of them, and
//! the parent.
//!
//! **Invariant:** opens nothing for writing and never touches a reference; once it reads what a
//! client sent, it can receive no descriptor. It reads with read(2) into memory of its own, once: a
//! client may change the pages that it put into the pipe after they were checked.

mod turn;

use std::cell::RefCell;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use libgit::{ObjectId, ObjectKind};
use libproto::channel::{self, Channel, Received, RecvError};
use libproto::limits::Limit as SetLimit;
use libproto::message::parent::{Build, ParentToVerify, VerifyToParent};
use libproto::message::push::{
    BATCH_COMMANDS, CommandFacts, IndexedPack, SessionToVerify, VerifyTask, VerifyToSession, VerifyToWriter,
    WriterToVerify,
};
use libproto::refusal::Refusal;
use librepo::alternates::Withheld;
use librepo::error::Error;
use librepo::fetch::Visible;
use librepo::id::IdSet;
use librepo::reader::Reader;
use librepo::receive::check::{Message, Policy};
use librepo::receive::connectivity::Shallow;
use librepo::receive::{
    self, Facts, Had, IndexOptions, Indexed, Progress, ReceiveLimits, RefChange, Stage as Step, Ticker,
};
use librepo::repository::Repository;
use librepo::safeguards::Safeguards;
use librepo::shallow_file;
use libsandbox::{Calls, Enforcement, Promise, Promises, Stage};

use crate::os::error::{SystemError, carries_system_error};
use crate::os::free_space::check_reserve;
use crate::os::system;
use crate::os::to_parent::send;
use crate::os::watchdog::{self, Phase, Words};
use crate::repo::borrowing::{self, BorrowError};
use crate::repo::find::{self, AgainError};
use crate::repo::hidden::Hidden;
use crate::repo::lacking;
use crate::repo::opened;
use crate::repo::own_rules;
use crate::session::pipes::Input;
use turn::{InTurn, PushTurn};

/// Until the two files and the client's input have come, which is before the session is heard.
pub const SET_UP: Promises =
    Promises::of(&[Promise::Stdio, Promise::Rpath, Promise::Recvfd, Promise::Unveil])
        .with(Promise::Threads)
        .calls(Calls::VerifySetUp);
/// While it waits for its task, and reads what the client sent.
pub const WORK: Promises =
    Promises::of(&[Promise::Stdio, Promise::Rpath]).with(Promise::Threads).calls(Calls::Verify);
/// Bytes of objects that are kept while history is walked.
const CACHE_BYTES: usize = 16 << 20;
/// How often the client is told how far the work is.
const TELL: Duration = Duration::from_millis(200);

/// Most bytes of the text that says what is wrong with a pack.
const REASON_MAX: usize = 1000;
/// Why the base of a delta may be missing that the client was right to leave out.
const PARTIAL: &str = "the repository is a partial clone; push with --no-thin";

type Parent = Channel<VerifyToParent, ParentToVerify>;
type Session = Channel<VerifyToSession, SessionToVerify>;
type Writer = Channel<VerifyToWriter, WriterToVerify>;

/// What `repo_write` wants to know.
struct Task {
    task: VerifyTask,
    pack: File,
    idx: File,
    commands: Vec<RefChange>,
    shallow: IdSet,
}

/// Why it ends before it has looked at anything.
#[derive(Debug)]
pub enum VerifyError {
    /// A system call of this process failed.
    System(SystemError),
    /// The repository is not there, or is another one.
    Again(AgainError),
    /// What the repository may borrow is not known.
    Borrow(BorrowError),
    /// The repository cannot be opened.
    Open(librepo::Error),
    /// The link to `repo_write`.
    Writer(RecvError),
    /// The first message on it has no files.
    NoFiles,
    /// The second one is no task.
    NoTask,
    /// A later one has files, or is a task.
    Twice,
    /// The link to the session.
    Session(RecvError),
}

impl fmt::Display for VerifyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VerifyError::System(e) => e.fmt(f),
            VerifyError::Again(e) => e.fmt(f),
            VerifyError::Borrow(e) => e.fmt(f),
            VerifyError::Open(e) => e.fmt(f),
            VerifyError::Writer(e) => write!(f, "repo_write: {e}"),
            VerifyError::NoFiles => f.write_str("repo_write: no files"),
            VerifyError::NoTask => f.write_str("repo_write: no task"),
            VerifyError::Twice => f.write_str("repo_write: files or task twice"),
            VerifyError::Session(e) => write!(f, "session: {e}"),
        }
    }
}

carries_system_error!(VerifyError);

/// Runs the role.
pub fn run(
    parent: OwnedFd,
    session: OwnedFd,
    writer: OwnedFd,
    enforcement: Enforcement,
) -> Result<(), VerifyError> {
    let (parent, session, writer) = (Parent::from(parent), Session::from(session), Writer::from(writer));
    let start = match parent.recv() {
        Ok(Received { message: ParentToVerify::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    let found = find::again(&start.repository, &start.place, &start.found).map_err(VerifyError::Again)?;
    let alternates = borrowing::from_list(&start.lent, &found).map_err(VerifyError::Borrow)?;
    let withheld = alternates.withheld();
    let limits = libsandbox::ResourceLimits {
        data: Some(start.memory),
        fsize: Some(start.file_size),
        ..libsandbox::ResourceLimits::UNCHANGED
    };
    opened::narrow(SET_UP, &found, libsandbox::Access::READ, &alternates.dirs, limits, enforcement)?;
    send(&parent, 0, &VerifyToParent::Hello(Build { id: crate::BUILD.into() }));
    let (pack, idx, input) = files(&writer)?;
    // Where there is one thread, it needs no right to start others.
    let promises = if start.threads > 1 { WORK } else { WORK.without(Promise::Threads) };
    let promises = found.walked(promises, &alternates.dirs);
    let stage = Stage { promises, paths: None, limits: libsandbox::ResourceLimits::UNCHANGED, enforcement };
    libsandbox::enter(&stage)?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("verify", promises);
    let task = task(&writer, pack, idx)?;
    // Not sooner: others push while the client of this one thinks.
    let repository = opened::open_repository(&found, alternates.dirs).map_err(VerifyError::Open)?;
    let input = if task.task.pack {
        await_input(&session)?;
        Some(Input::new(input))
    } else {
        None
    };
    let expired = |refusal: Refusal| channel::encode(0, &VerifyToWriter::Failed(refusal)).unwrap_or_default();
    let words = Words::new(&start.limits, expired, Vec::new());
    watchdog::start(start.limits.clone(), vec![(writer.as_fd(), words)])
        .map_err(|e| SystemError::Io("watchdog", e))?;
    let turn = PushTurn::new(&parent, &session);
    match work(&repository, &session, &writer, task, input, (start.threads, withheld), &turn) {
        Ok(()) => Ok(()),
        Err(e) => {
            let why = match &e {
                Error::Missing(id) | Error::MissingBases(_, id) => {
                    let partial = || repository.store().is_partial().then(|| PARTIAL.to_owned());
                    lacking::words(repository.store(), withheld, Some(id)).or_else(partial)
                }
                _ => None,
            };
            let told = why.map_or_else(|| refusal(&e), |why| Refusal::Pack(format!("{e}: {why}")));
            watchdog::phase(Phase::Off);
            // The writer first: it waits. The parent's log has the long form.
            let _ = writer.send(0, &VerifyToWriter::Failed(told.bounded(REASON_MAX)));
            send(&parent, 0, &VerifyToParent::Finished(refusal(&e).bounded(REASON_MAX)));
            Ok(())
        }
    }
}

/// Receives the files for pack and index, and the client's input.
fn files(writer: &Writer) -> Result<(File, File, OwnedFd), VerifyError> {
    let first = match writer.recv_with_fds() {
        Err(RecvError::Closed) => system::exit_now(0),
        first => first.map_err(VerifyError::Writer)?,
    };
    match (first.message, <[OwnedFd; 3]>::try_from(first.fds)) {
        (WriterToVerify::Files(()), Ok([pack, idx, input])) => Ok((pack.into(), idx.into(), input)),
        _ => Err(VerifyError::NoFiles),
    }
}

/// Receives the task, the commands and where the client's history ends. A push that sets nothing
/// has no task.
fn task(writer: &Writer, pack: File, idx: File) -> Result<Task, VerifyError> {
    let task = match writer.recv() {
        Err(RecvError::Closed) => system::exit_now(0),
        Ok(Received { message: WriterToVerify::Task(task), .. }) => task,
        Ok(_) => return Err(VerifyError::NoTask),
        Err(e) => return Err(VerifyError::Writer(e)),
    };
    let mut whole = Task { task, pack, idx, commands: Vec::new(), shallow: IdSet::default() };
    loop {
        match writer.recv().map_err(VerifyError::Writer)?.message {
            WriterToVerify::Commands(batch) => {
                for (old, new) in batch {
                    whole.commands.push(RefChange { old, new });
                }
            }
            WriterToVerify::Shallows(batch) => {
                for id in batch {
                    whole.shallow.insert(id);
                }
            }
            WriterToVerify::Go(()) => return Ok(whole),
            WriterToVerify::Files(()) | WriterToVerify::Task(_) => return Err(VerifyError::Twice),
        }
    }
}

/// Waits for the session's word that it has read the client's input up to the pack.
fn await_input(session: &Session) -> Result<(), VerifyError> {
    let SessionToVerify::Input(()) = session.recv().map_err(VerifyError::Session)?.message;
    Ok(())
}

/// Tells the session how far the work is, feeds the watchdog, and looks at the disk.
struct ProgressReporter<'a> {
    session: &'a Session,
    turn: &'a PushTurn<'a>,
    pack: &'a File,
    reserve: u64,
    told: Instant,
}

impl ProgressReporter<'_> {
    fn tick(&mut self, progress: &Progress) -> std::io::Result<()> {
        watchdog::worked();
        let now = Instant::now();
        if !progress.finished && now.duration_since(self.told) < TELL {
            return Ok(());
        }
        self.told = now;
        if progress.stage == Step::Receiving {
            self.turn.objects(progress.done, progress.total)?;
        }
        // A session that does not read is no reason to give up: the push is decided without it.
        let _ =
            self.session.try_send(0, &VerifyToSession::Progress((progress.to_string(), progress.finished)));
        check_reserve(self.pack, self.reserve)
    }
}

/// The work itself.
fn work(
    repository: &Repository,
    session: &Session,
    writer: &Writer,
    task: Task,
    input: Option<Input>,
    (threads, withheld): (u8, Option<Withheld>),
    turn: &PushTurn<'_>,
) -> Result<(), Error> {
    let hash = repository.hash();
    let mut teller = ProgressReporter {
        session,
        turn,
        pack: &task.pack,
        reserve: task.task.disk_reserve,
        told: Instant::now(),
    };
    let mut callback = |progress: &Progress| teller.tick(progress);
    let mut ticker = Ticker::new(&mut callback);
    // `config` may have changed since `repo_write` read it.
    let own = repository.safeguards().for_pushes()?;
    let mut policy = policy(&task.task);
    if task.task.fsck {
        own.tighten(&mut policy);
    }
    let options = IndexOptions {
        limits: limits(&task.task, own),
        policy,
        threads: threads.into(),
        blob_limit: task.task.blob_bytes,
        ..IndexOptions::default()
    };
    let hidden = own_rules::hidden(own.hidden_from_pushes(), &task.task.hidden);
    let hidden = Hidden(&hidden);
    let visible = match hidden.is_empty() {
        true => None,
        false => {
            // The walk may be long.
            turn.take().map_err(Error::Io)?;
            Some(RefCell::new(Visible::new(repository, &tips(repository, hidden)?)?))
        }
    };
    let shows = |id: &ObjectId, kind: Option<ObjectKind>| {
        let Some(visible) = &visible else { return true };
        let mut visible = visible.borrow_mut();
        match kind {
            Some(ObjectKind::Commit | ObjectKind::Tag) => visible.has_commit(id),
            Some(ObjectKind::Tree | ObjectKind::Blob) => visible.has(id),
            // History is walked sooner than everything.
            None => visible.has_commit(id) || visible.has(id),
        }
    };
    let store = repository.store();
    let had = if visible.is_none() { Had::from(Some(store)) } else { Had::shown(store, &shows) };
    let indexed = match input {
        Some(input) => {
            watchdog::phase(Phase::Work);
            let mut input = InTurn { input, turn };
            let indexed =
                receive::index(&mut input, &task.pack, &task.idx, hash, had, &options, &mut ticker)?;
            let _ = session.try_send(0, &VerifyToSession::InputEnd(input.input.received));
            indexed
        }
        None => Indexed::nothing(hash),
    };
    watchdog::phase(Phase::Work);
    // A push without a pack has not asked for one.
    turn.take().map_err(Error::Io)?;
    let files = (indexed.objects > 0).then_some((&task.pack, &task.idx));
    receive::check_depth(&indexed, files, had, task.task.tree_depth as usize, &mut ticker)?;
    let tips = tips(repository, hidden)?;
    let own = own_shallow(repository)?;
    let shallow = Shallow { client: task.shallow, own };
    let facts = receive::facts(&indexed, files, had, &tips, &task.commands, &shallow, &mut ticker)?;
    watchdog::phase(Phase::Off);
    let said =
        send_facts(writer, &indexed, &facts, &|id| lacking::words(repository.store(), withheld, Some(id)));
    said.map_err(|e| Error::Limit(format!("repo_write: {e}")))
}

fn send_facts(
    writer: &Writer,
    indexed: &Indexed,
    facts: &[Facts],
    why_missing: &dyn Fn(&ObjectId) -> Option<String>,
) -> Result<(), channel::SendError> {
    writer.send(
        0,
        &VerifyToWriter::Indexed(IndexedPack {
            objects: indexed.objects,
            received: indexed.received,
            bytes: indexed.bytes,
            checksum: indexed.checksum,
        }),
    )?;
    for batch in facts.chunks(BATCH_COMMANDS) {
        let batch = batch.iter().map(|facts| command_facts(facts, why_missing)).collect();
        writer.send(0, &VerifyToWriter::Facts(batch))?;
    }
    writer.send(0, &VerifyToWriter::Done(()))
}

fn command_facts(facts: &Facts, why_missing: &dyn Fn(&ObjectId) -> Option<String>) -> CommandFacts {
    let refused = facts.refusal.map(|refusal| {
        Refusal::Objects(match refusal {
            receive::Refusal::Missing(id) => {
                let why = why_missing(&id).map(|why| format!(": {why}"));
                format!("{refusal}{}", why.unwrap_or_default())
            }
            _ => refusal.to_string(),
        })
    });
    CommandFacts {
        refused,
        kind: facts.kind,
        peeled: facts.peeled,
        fast_forward: facts.fast_forward,
        merges: facts.merge.is_some(),
        largest_blob: facts.largest_blob.map(|(_, bytes)| bytes),
    }
}

fn limits(task: &VerifyTask, own: &Safeguards) -> ReceiveLimits {
    let default = ReceiveLimits::default();
    let (pack_bytes, pack_bytes_by) = match own.max_input {
        Some(most) if most < task.pack_bytes => (most, "receive.maxInputSize"),
        _ => (task.pack_bytes, default.pack_bytes_by),
    };
    ReceiveLimits {
        pack_bytes,
        pack_bytes_by,
        objects: task.objects,
        object_bytes: task.object_bytes,
        delta_bytes: task.delta_bytes,
        chain: task.chain,
        delta_ratio: if task.delta_ratio == 0 { u64::MAX } else { task.delta_ratio },
        external_bases: task.external_bases,
        ..default
    }
}

fn policy(task: &VerifyTask) -> Policy {
    let mut policy = if task.fsck { Policy::default() } else { Policy::lenient() };
    for kind in &task.tolerated {
        if let Some(message) = Message::from_name(kind) {
            policy.tolerate(message);
        }
    }
    policy
}

/// Commits that the repository's own history ends at.
fn own_shallow(repository: &Repository) -> Result<IdSet, Error> {
    Ok(shallow_file::read(repository.dir(), repository.hash())?.into_iter().collect())
}

/// The values of all references that the client may know of, what packed-refs says that tags peel
/// to, and HEAD.
fn tips(repository: &Repository, hidden: Hidden<'_>) -> Result<Vec<ObjectId>, Error> {
    let mut reader = Reader::new(repository.store(), CACHE_BYTES);
    let listing = repository.refs().listing::<&[u8]>(&[])?;
    let mut tips = Vec::new();
    for listed in hidden.shown(&listing) {
        let listed = listed?;
        tips.extend(listed.target());
        tips.extend(listed.peeled(&mut reader));
    }
    Ok(tips)
}

/// Why a pack is refused.
fn refusal(error: &Error) -> Refusal {
    let carried = match error {
        Error::Io(e) => Refusal::carried_by(e).cloned(),
        Error::SetLimit(text, words) => {
            SetLimit::from_words(words).map(|limit| Refusal::Limit(limit, text.clone()))
        }
        _ => None,
    };
    carried.unwrap_or_else(|| Refusal::Pack(error.to_string()))
}
