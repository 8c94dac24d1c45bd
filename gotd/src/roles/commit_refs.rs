//! `commit_refs`: changes packed-refs, and HEAD and its log, for one push.
//!
//! Duty: takes the changes of references that `repo_write` has decided on, judges their names once
//! more by the rules of the grant, and makes them under git's own locks; says what became of each.
//! Started when `verify` has been reaped, and only for a push that deletes references, is atomic,
//! changes very many, or the branch whose log is HEAD's too, or brings the first branches of a
//! repository that `create` made, of which HEAD comes to name one. Waits on: `repo_write`. Talks to: `repo_write` and
//! the parent.
//!
//! **Invariant:** hears no client, sees no pack and has no descriptor of either. It takes typed
//! changes of references, as many as a push may have, once, and who pushes by the parent's word.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::Duration;

use libgit::{ObjectId, RefName};
use libproto::channel::{Channel, Message, Received, RecvError};
use libproto::message::commit::{
    BATCH_RESULTS, BATCH_UPDATES, COMMIT_STATES, CommitState, CommitToWriter, Peeled, RESULT_MAX,
    WriterToCommit,
};
use libproto::message::parent::{Build, CommitStart, CommitToParent, ParentToCommit};
use libproto::message::push::RefCommand;
use libproto::refusal::Refusal;
use libproto::states::allowed;
use librepo::fs_ops::Fs;
use librepo::receive::quarantine::{self, Quarantine};
use librepo::refs::Head;
use librepo::repository::Repository;
use librepo::safeguards::LogRefs;
use librepo::transaction::{ONE_CHANGE_FROM, Peel, RefError, Staging, point_head};
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage};

use crate::os::error::{SystemError, carries_system_error};
use crate::os::system;
use crate::os::to_parent::send;
use crate::repo::find::{self, AgainError, FoundRepository};
use crate::repo::opened;
use crate::repo::own_rules;
use crate::repo::write::commit::{HeadLog, Transaction};
use crate::repo::write::first_branch;
use crate::repo::write::incoming::{self, FILES, OBJECTS};
use crate::repo::write::judge::{self, CommandList, Verdict};
use crate::repo::write::world;

/// Until its own directory for locks is made.
pub const SET_UP: Promises = WORK.with(Promise::Unveil).calls(Calls::CommitRefsSetUp);
/// From the first message of `repo_write` on.
pub const WORK: Promises = Promises::of(&[
    Promise::Stdio,
    Promise::Rpath,
    Promise::Wpath,
    Promise::Cpath,
    Promise::Fattr,
    Promise::Flock,
])
.calls(Calls::CommitRefs);
/// What it may change: names of files in the top directory, which Landlock cannot tell from those
/// further down, and files of references and logs.
const TOP: Access = Access::READ.and(Access::FILES);
const PLACES: [(&str, Access); 3] =
    [("objects", OBJECTS), ("refs", Access::READ_WRITE_CREATE), ("logs", Access::READ_WRITE_CREATE)];

/// How long to wait for HEAD if another process has locked it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

type Parent = Channel<CommitToParent, ParentToCommit>;
type Writer = Channel<CommitToWriter, WriterToCommit>;

/// Why it ends before it has changed anything.
#[derive(Debug)]
pub enum CommitError {
    /// A system call of this process failed.
    System(SystemError),
    /// The repository is not there, or is another one.
    Again(AgainError),
    /// The repository cannot be opened, or its own `config` lets nobody push.
    Open(librepo::Error),
    /// The repository has no room for locks.
    Repository(librepo::Error),
    /// The link to `repo_write`.
    Writer(RecvError),
    /// A message of `repo_write` that this state does not allow.
    OutOfOrder(&'static str, CommitState),
    /// More changes than a push, or one message, may have.
    TooMany,
    /// An object id of another kind than the repository's.
    OtherHash,
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitError::System(e) => e.fmt(f),
            CommitError::Again(e) => e.fmt(f),
            CommitError::Open(e) | CommitError::Repository(e) => e.fmt(f),
            CommitError::Writer(e) => write!(f, "repo_write: {e}"),
            CommitError::OutOfOrder(name, state) => write!(f, "repo_write: {name} in state {state:?}"),
            CommitError::TooMany => f.write_str("repo_write: too many changes"),
            CommitError::OtherHash => f.write_str("repo_write: object id of another hash"),
        }
    }
}

carries_system_error!(CommitError);

/// What `repo_write` asks for.
struct Changes {
    commands: Vec<RefCommand>,
    peels: HashMap<ObjectId, Peel>,
    atomic: bool,
}

/// Runs the role.
pub fn run(parent: OwnedFd, writer: OwnedFd, enforcement: Enforcement) -> Result<(), CommitError> {
    let (parent, writer) = (Parent::from(parent), Writer::from(writer));
    let start = match parent.recv() {
        Ok(Received { message: ParentToCommit::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    let result = prepare_and_work(&parent, &writer, &start, enforcement);
    send(&parent, 0, &CommitToParent::Done(()));
    // `repo_write` may be gone: what is done is done.
    match result {
        Ok(verdicts) => {
            for results in verdicts.chunks(BATCH_RESULTS) {
                let refusals = results.iter().map(|verdict| verdict.as_ref().err().cloned());
                let results = refusals.map(|refusal| refusal.map(|why| why.bounded(RESULT_MAX)));
                let _ = writer.send(0, &CommitToWriter::Results(results.collect()));
            }
            Ok(())
        }
        // A full disk is no failure of this process.
        Err(CommitError::Repository(e)) => {
            let refusal = Refusal::Internal(e.to_string()).bounded(RESULT_MAX);
            let _ = writer.send(0, &CommitToWriter::Failed(refusal));
            Ok(())
        }
        Err(e) => Err(e),
    }
}

/// Makes the directory for its locks, gives up the right to make directories there, receives the
/// changes and makes them.
fn prepare_and_work(
    parent: &Parent,
    writer: &Writer,
    start: &CommitStart,
    enforcement: Enforcement,
) -> Result<Vec<Verdict>, CommitError> {
    let found = find::again(&start.repository, &start.place, &start.found).map_err(CommitError::Again)?;
    let limits = ResourceLimits { data: Some(start.memory), ..ResourceLimits::UNCHANGED };
    opened::narrow(SET_UP, &found, Access::READ_WRITE_CREATE, &[], limits, enforcement)?;
    let repository = opened::open_repository(&found, Vec::new()).map_err(CommitError::Open)?;
    // `config` may have changed since `repo_write` read it.
    repository.safeguards().for_pushes().map_err(CommitError::Open)?;
    let directory = found.directory.try_clone().map_err(SystemError::Plain)?;
    let fs = Fs::new(directory, repository.config().shared).within(found.look);
    // Another push may have died since this one swept, and its locks would only be waited for.
    let _ = quarantine::sweep(&fs);
    // A directory of its own: its locks count as left behind exactly when this process is gone. What
    // it cannot make later is made now.
    let quarantine = Quarantine::create(&fs).and_then(|made| match made.staging().stock(&fs) {
        Ok(()) => Ok(made),
        Err(e) => {
            let _ = made.remove(&fs);
            Err(e)
        }
    });
    let own = quarantine.as_ref().ok().and_then(|made| std::str::from_utf8(made.path()).ok());
    let places = incoming::places(&found, PLACES.into_iter().chain(own.map(|path| (path, FILES))));
    let visible = incoming::visible(&found, TOP, &places);
    let limits = ResourceLimits::UNCHANGED;
    let promises = found.walked(WORK, &[]);
    libsandbox::enter(&Stage { promises, paths: Some(&visible), limits, enforcement })?;
    drop(visible);
    drop(places);
    #[cfg(feature = "escapes")]
    {
        crate::escapes::attempt("commit_refs", promises);
        crate::escapes::attempt_in("commit_refs in its repository", &found.path, true);
    }
    send(parent, 0, &CommitToParent::Hello(Build { id: crate::BUILD.into() }));
    // Received even if nothing can be done: with messages left unread, `repo_write` would get an
    // error of the link in place of the answer.
    let changes = changes(writer, start);
    let quarantine = quarantine.map_err(CommitError::Repository)?;
    let result = changes.map(|changes| make(&changes, start, &found, &repository, (&fs, &quarantine)));
    // What cannot be removed is left to the next push.
    let _ = quarantine.remove(&fs);
    result
}

/// Makes the changes.
fn make(
    Changes { commands, peels, atomic }: &Changes,
    start: &CommitStart,
    found: &FoundRepository,
    repository: &Repository,
    (fs, quarantine): (&Fs, &Quarantine),
) -> Vec<Verdict> {
    let asked = CommandList { commands, atomic: *atomic };
    let head = match repository.refs().head() {
        Ok(Head::Symbolic(target, _)) => Some(target),
        _ => None,
    };
    // `repo_write` has judged these changes, by facts too. It is not believed: once taken over it
    // could ask for any name.
    let own = repository.safeguards();
    let mut rules = start.rules.clone();
    own_rules::tighten_push(&mut rules, own);
    let configured: Vec<Vec<u8>> = rules.hidden.iter().map(|name| name.clone().into_bytes()).collect();
    let hidden = own_rules::hidden(own.hidden_from_pushes(), &configured);
    let world = world(repository, found, head, &hidden, &rules, commands);
    let mut verdicts = judge::judge(asked, &[], &rules, &world);
    let transaction = Transaction {
        fs,
        staging: quarantine.staging(),
        hash: repository.hash(),
        who: &start.who,
        reflog: rules.reflog,
        log_all: own.log == LogRefs::All,
        head_log: HeadLog::Written,
        one_change_from: Some(ONE_CHANGE_FROM),
        hides: !hidden.is_empty(),
    };
    let mut new = NewHead::of(repository, &transaction);
    if let Err(e) = new.point_to(commands, &verdicts) {
        let refusal = Refusal::Internal(format!("HEAD: {e}"));
        verdicts.iter_mut().filter(|verdict| verdict.is_ok()).for_each(|v| *v = Err(refusal.clone()));
        return verdicts;
    }
    transaction.commit(asked, &world.aliases, peels, &mut verdicts);
    // A branch that could not be made is none to name. What was made stays, whatever HEAD says.
    let _ = new.point_to(commands, &verdicts);
    verdicts
}

/// HEAD of a repository that `create` made, before its first branch is there. It names that branch
/// already when the branch is made, so that its log gets the line.
struct NewHead<'a> {
    fs: &'a Fs,
    staging: &'a Staging,
    /// What it names; `None`: it is not to be changed.
    now: Option<RefName>,
}

impl<'a> NewHead<'a> {
    fn of(repository: &Repository, transaction: &'a Transaction<'a>) -> NewHead<'a> {
        let new = RefName::parse(first_branch::NEW.as_bytes()).ok();
        let now = new.filter(|_| first_branch::is_awaited(repository));
        NewHead { fs: transaction.fs, staging: &transaction.staging, now }
    }

    /// Makes it name one of the branches that the commands make; without any, what it did before.
    fn point_to(&mut self, commands: &[RefCommand], verdicts: &[Verdict]) -> Result<(), RefError> {
        let Some(now) = &self.now else { return Ok(()) };
        let chosen = first_branch::choose(commands, verdicts).cloned();
        let to = chosen.or_else(|| RefName::parse(first_branch::NEW.as_bytes()).ok());
        let Some(to) = to.filter(|to| to != now) else { return Ok(()) };
        self.now = match point_head(self.fs, self.staging, now, &to, HEAD_TIMEOUT) {
            Ok(()) => Some(to),
            // Another push, or the administrator, has decided meanwhile.
            Err(RefError::Elsewhere) => None,
            Err(e) => return Err(e),
        };
        Ok(())
    }
}

/// Receives what `repo_write` asks for.
fn changes(writer: &Writer, start: &CommitStart) -> Result<Changes, CommitError> {
    let mut state = CommitState::Idle;
    let mut changes = Changes { commands: Vec::new(), peels: HashMap::new(), atomic: false };
    while state != CommitState::Committed {
        let message = match writer.recv() {
            Ok(Received { message, .. }) => message,
            Err(e) if e.is_transient() => continue,
            Err(e) => return Err(CommitError::Writer(e)),
        };
        if !allowed(COMMIT_STATES, state, message.kind()) {
            return Err(CommitError::OutOfOrder(message.name(), state));
        }
        match message {
            WriterToCommit::Updates(batch) => {
                let commands = changes.commands.len().saturating_add(batch.len());
                if batch.len() > BATCH_UPDATES || judge::judge_count(commands, &start.rules).is_err() {
                    return Err(CommitError::TooMany);
                }
                let hash = start.found.hash;
                for update in batch {
                    let (command, peeled) = (update.command, update.peeled);
                    let kinds = [Some(command.old), Some(command.new), target(peeled)];
                    if kinds.into_iter().flatten().any(|id| id.kind() != hash) {
                        return Err(CommitError::OtherHash);
                    }
                    changes.peels.insert(command.new, peel(peeled));
                    changes.commands.push(command);
                }
                state = CommitState::Updates;
            }
            WriterToCommit::Commit(atomic) => {
                changes.atomic = atomic;
                state = CommitState::Committed;
            }
        }
    }
    Ok(changes)
}

fn target(peeled: Peeled) -> Option<ObjectId> {
    match peeled {
        Peeled::To(id) => Some(id),
        Peeled::Nothing | Peeled::Unknown => None,
    }
}

fn peel(peeled: Peeled) -> Peel {
    match peeled {
        Peeled::To(id) => Peel::To(id),
        Peeled::Nothing => Peel::Nothing,
        Peeled::Unknown => Peel::Unknown,
    }
}
