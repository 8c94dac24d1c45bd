//! `repo_write`: owns quarantine, installing packs and reference transactions of one push.
//!
//! Duty: advertise the references, decide about each command by the rules it was granted and the
//! facts that `verify` reports, and make what is accepted durable. Waits on: its session, `verify`,
//! the parent's word that `verify` is gone, and `commit_refs`. Talks to: all four.
//!
//! **Invariant:** never parses a pack; never writes `config`, `hooks`, packed-refs or HEAD; the
//! session counts as hostile: a table says which message is allowed when, and every rule is applied
//! here. Nothing that a client sent is visible before it is proven and on the disk.

pub(crate) mod aliases;
mod answer;
pub(crate) mod commit;
mod committer;
pub(crate) mod first_branch;
pub(crate) mod incoming;
pub mod judge;
mod verifier;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use libgit::ObjectId;
use libproto::channel::{Channel, Message, Received, RecvError};
use libproto::limits::{Counted, Limit};
use libproto::message::parent::{OpenError, ParentToRepo, RepoReport, RepoToParent, Serve};
use libproto::message::push::{
    BATCH_COMMANDS, CommandFacts, IndexedPack, PushBegin, RefCommand, SessionToWriter, WRITE_STATES,
    WriteState, WriterToSession,
};
use libproto::message::repo::{BATCH_IDS, ListAsk};
use libproto::message::rules::PushRules;
use libproto::refusal::Refusal;
use libproto::states::allowed;
use librepo::refs::Head;
use librepo::repository::Repository;
use librepo::safeguards::LogRefs;
use librepo::worktrees;
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage};

use crate::os::free_space::check_reserve;
use crate::repo::borrowing;
use crate::repo::error::RepoError;
use crate::repo::find::FoundRepository;
use crate::repo::hidden::Hidden;
use crate::repo::opened::{self, Parent};
use crate::repo::own_rules;
use crate::repo::read::refs::Advertised;
use crate::repo::role::PushEnds;
use aliases::Aliases;
use answer::Told;
use commit::{HeadLog, Transaction};
use committer::Committer;
use incoming::Incoming;
use judge::{CommandList, OwnDenials, Verdict, World};
use verifier::Verifier;

/// From the moment its repository is known, until `verify` has its files.
pub const SET_UP: Promises = WORK.with(Promise::Sendfd).with(Promise::Unveil).calls(Calls::RepoWriteSetUp);
/// From then on: before it hears its session.
pub const WORK: Promises = Promises::of(&[
    Promise::Stdio,
    Promise::Rpath,
    Promise::Wpath,
    Promise::Cpath,
    Promise::Fattr,
    Promise::Flock,
])
.calls(Calls::RepoWrite);

type Session = Channel<WriterToSession, SessionToWriter>;

/// Everything about one push.
struct Push<'a> {
    parent: &'a Parent,
    session: Session,
    verifier: Option<Verifier>,
    committer: Committer,
    serve: &'a Serve,
    rules: PushRules,
    /// What is hidden from the client, by gotd.conf and by the repository.
    hidden: Vec<Vec<u8>>,
    repository: Repository,
    found: &'a FoundRepository,
    incoming: Incoming,
    enforcement: Enforcement,
    head: Option<Vec<u8>>,
    commands: Vec<RefCommand>,
    shallows: Vec<ObjectId>,
    report: RepoReport,
}

/// Runs the role. Called by the waiting repository process when it was told that this is a push.
pub fn run(
    parent: &Parent,
    session: OwnedFd,
    PushEnds { verify, input, commit }: PushEnds,
    serve: &Serve,
    found: &FoundRepository,
    enforcement: Enforcement,
) -> Result<(), RepoError> {
    let mut rules = *serve.push_rules.clone().ok_or(RepoError::NoRules)?;
    let alternates = match borrowing::from_parent(parent, found, &serve.who) {
        Ok(alternates) => alternates,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    let warnings = borrowing::warnings(&alternates).collect();
    let limits = ResourceLimits::UNCHANGED;
    let work = found.walked(WORK, &alternates.dirs);
    opened::narrow(SET_UP, found, Access::READ_WRITE_CREATE, &alternates.dirs, limits, enforcement)?;
    let repository = match opened::open_repository(found, alternates.dirs) {
        Ok(repository) => repository,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    let own = match repository.safeguards().for_pushes() {
        Ok(own) => own,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    own_rules::tighten_push(&mut rules, own);
    let hidden = own_rules::hidden(own.hidden_from_pushes(), &serve.hidden);
    own_rules::send(parent, repository.dir(), own, serve.fetch, &serve.hidden);
    opened::announce(parent, found.directory.as_fd(), repository.hash())?;
    let head = match repository.refs().head() {
        Ok(Head::Symbolic(target, _)) => Some(target),
        _ => None,
    };
    let session = Session::from(session);
    // What is sent needs nothing that a session says, so that no client waits for what follows.
    let listed = list(&session, &repository, &hidden);
    let (mut incoming, files) = Incoming::prepare(found, repository.config().shared, rules.reflog)?;
    let verifier = Verifier::new(verify);
    match (await_verify(parent), files) {
        (false, _) => incoming.without_pack(verifier::failed("not started")),
        (true, None) => {}
        (true, Some((pack, idx))) => {
            if let Err(refusal) = verifier.hand_over(&pack, &idx, &input) {
                incoming.without_pack(refusal);
            }
        }
    }
    // With this end closed, a client that goes on writing gets a broken pipe as soon as session and
    // `verify` are gone.
    drop(input);
    let mut push = Push {
        parent,
        session,
        verifier: Some(verifier),
        committer: Committer::new(commit),
        serve,
        rules,
        hidden,
        repository,
        found,
        incoming,
        enforcement,
        head,
        commands: Vec::new(),
        shallows: Vec::new(),
        report: RepoReport { warnings, ..RepoReport::default() },
    };
    push.restrict(work)?;
    #[cfg(feature = "escapes")]
    {
        crate::escapes::attempt("repo_write", work);
        crate::escapes::attempt_in("repo_write in its repository", &found.path, false);
    }
    let end = push.converse(listed);
    // Once more when its session, `verify` and `commit_refs` have been heard.
    #[cfg(feature = "escapes")]
    {
        crate::escapes::attempt("repo_write at its end", work);
        crate::escapes::attempt_in("repo_write in its repository at its end", &found.path, false);
    }
    push.discard();
    let mut report = push.report;
    report.refusal = end.err();
    opened::send(parent, &RepoToParent::Finished(report));
    Ok(())
}

impl Push<'_> {
    /// From the commands to the results, once the references were sent. An error ends the push, with
    /// nothing changed.
    fn converse(&mut self, listed: Result<Vec<String>, Refusal>) -> Result<(), Refusal> {
        match listed {
            Ok(troubles) => self.report.warnings.extend(troubles),
            Err(refusal) => return self.refuse(refusal),
        }
        let mut state = WriteState::Listed;
        loop {
            let message = match self.session.recv() {
                Ok(Received { message, .. }) => message,
                Err(e) if e.is_transient() => continue,
                // A client that only looked.
                Err(RecvError::Closed) => return Ok(()),
                Err(e) => return Err(Refusal::Internal(format!("session: {e}"))),
            };
            if !allowed(WRITE_STATES, state, message.kind()) {
                return Err(Refusal::Internal(format!("session: {} in state {state:?}", message.name())));
            }
            match message {
                SessionToWriter::Commands(batch) => {
                    self.take(batch)?;
                    state = WriteState::Commands;
                }
                SessionToWriter::Shallows(batch) => {
                    self.shallows.extend(batch.into_iter().take(BATCH_IDS));
                    let most = self.rules.limit(Limit::Shallows);
                    if self.shallows.len() as u64 > most {
                        return self.refuse(Refusal::TooMany(Counted::Shallows, most));
                    }
                    state = WriteState::Commands;
                    self.send(&WriterToSession::Taken(()));
                }
                SessionToWriter::Begin(begin) => return self.push(&begin),
            }
        }
    }

    fn send(&self, message: &WriterToSession) {
        // A session that is gone does not stop a push that was decided.
        let _ = self.session.send(0, message);
    }

    /// Nothing was changed, and this is why.
    fn refuse(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        self.discard();
        self.send(&WriterToSession::Refused(refusal.clone()));
        Err(refusal)
    }

    fn take(&mut self, batch: Vec<RefCommand>) -> Result<(), Refusal> {
        if batch.len() > BATCH_COMMANDS {
            return Err(Refusal::Internal("session: too many commands in one message".into()));
        }
        let commands = self.commands.len().saturating_add(batch.len());
        if let Err(refusal) = judge::judge_count(commands, &self.rules) {
            return self.refuse(refusal);
        }
        let hash = self.repository.hash();
        if batch.iter().any(|command| command.old.kind() != hash || command.new.kind() != hash) {
            return Err(Refusal::Internal("session: object id of another hash".into()));
        }
        self.commands.extend(batch);
        self.send(&WriterToSession::Taken(()));
        Ok(())
    }

    // --- the stages

    /// The whole push.
    fn push(&mut self, begin: &PushBegin) -> Result<(), Refusal> {
        let commands = std::mem::take(&mut self.commands);
        let asked = CommandList { commands: &commands, atomic: begin.atomic };
        let world =
            world(&self.repository, self.found, self.head.clone(), &self.hidden, &self.rules, &commands);
        let mut verdicts = judge::judge(asked, &[], &self.rules, &world);
        self.report.warnings.append(&mut self.incoming.warnings);
        let open = commands.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
        let nothing = open.count() == 0;
        let questions = verifier::questions(&commands, &verdicts);
        if questions.is_empty() {
            // It ends, and with it the last end of the pipe from the client but its session's.
            self.verifier = None;
        }
        let result = match nothing {
            true => Ok(()),
            false => self.receive_and_commit(asked, &questions, (&world, begin), &mut verdicts),
        };
        self.discard();
        match result {
            Ok(()) => {
                self.answer(&commands, &verdicts, &world.aliases, None);
                Ok(())
            }
            Err(refusal) => {
                // The pack was refused, and with it every command that needed it.
                for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
                    *verdict = Err(Refusal::Unpacker);
                }
                self.answer(&commands, &verdicts, &world.aliases, Some(&refusal));
                Err(refusal)
            }
        }
    }

    /// From the empty quarantine to the changed references. An error refuses the pack, and nothing
    /// is changed.
    fn receive_and_commit(
        &mut self,
        asked: CommandList<'_>,
        questions: &[usize],
        (world, begin): (&World, &PushBegin),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Refusal> {
        self.reserve()?;
        self.incoming.quarantine()?;
        let (mut pack, mut facts) = (None, Vec::new());
        if !questions.is_empty() {
            (pack, facts) = self.verify(asked.commands, questions, begin)?;
            *verdicts = judge::judge(asked, &facts, &self.rules, world);
        }
        let needs_pack = asked.commands.iter().zip(verdicts.iter()).any(|(command, verdict)| {
            verdict.is_ok() && command.old != command.new && !command.new.is_null()
        });
        if let (Some(pack), true) = (&pack, needs_pack) {
            self.reserve()?;
            let hash = self.repository.hash();
            let (fs, quarantine) = self.incoming.quarantine()?;
            quarantine.install(fs, hash, &pack.checksum).map_err(internal)?;
        }
        if asked.atomic && verdicts.iter().any(Result::is_err) {
            judge::all_or_none(verdicts);
            return Ok(());
        }
        let peels = commit::peels(asked.commands, &facts);
        // Where packed-refs cannot be read, each command is told so.
        let lines = || self.repository.refs().packed_lines().unwrap_or(usize::MAX);
        let first = first_branch::choose(asked.commands, verdicts);
        let head_changes = first.is_some_and(|first| first.as_bytes() != first_branch::NEW.as_bytes())
            && first_branch::is_awaited(&self.repository);
        if head_changes || commit::needs_commit_refs(asked, verdicts, self.rules.reflog, world, lines) {
            self.await_commit_refs()?;
            self.committer.commit(asked, &peels, verdicts);
            return Ok(());
        }
        let hash = self.repository.hash();
        let (fs, quarantine) = self.incoming.quarantine()?;
        let transaction = Transaction {
            fs,
            staging: quarantine.staging(),
            hash,
            who: &self.serve.who,
            reflog: self.rules.reflog,
            head_log: HeadLog::LeftAlone,
            one_change_from: None,
            log_all: self.repository.safeguards().log == LogRefs::All,
            hides: !self.hidden.is_empty(),
        };
        transaction.commit(asked, &world.aliases, &peels, verdicts);
        Ok(())
    }

    /// Has `commit_refs` started: `verify` has been reaped by then.
    fn await_commit_refs(&mut self) -> Result<(), Refusal> {
        self.verifier = None;
        opened::send(self.parent, &RepoToParent::NeedCommit(()));
        loop {
            match self.parent.recv() {
                Ok(Received { message: ParentToRepo::Commit(true), .. }) => return Ok(()),
                Ok(Received { message: ParentToRepo::Commit(false), .. }) => {
                    return Err(Refusal::Internal("commit_refs: not started".into()));
                }
                Ok(Received { message: ParentToRepo::Reaped(_), .. }) => {}
                Err(e) if e.is_transient() => {}
                _ => crate::os::system::exit_now(1),
            }
        }
    }

    /// Has `verify` receive and check the pack, and waits until that process is gone. Facts are by
    /// command, `None` for commands that were not asked about.
    fn verify(
        &mut self,
        commands: &[RefCommand],
        questions: &[usize],
        begin: &PushBegin,
    ) -> Result<(Option<IndexedPack>, Vec<Option<CommandFacts>>), Refusal> {
        self.incoming.takes_pack()?;
        let Some(verifier) = &self.verifier else { return Err(verifier::failed("given up")) };
        let task = verifier::task(&self.rules, begin.pack, &self.serve.hidden);
        let asked: Vec<_> = questions
            .iter()
            .filter_map(|&at| commands.get(at))
            .map(|command| (command.old, command.new))
            .collect();
        verifier.instruct(task, &asked, &self.shallows)?;
        if begin.pack {
            self.send(&WriterToSession::TakePack(()));
        }
        let facts = verifier.facts(questions.len());
        // Only when it is gone nobody can change the files any more.
        let clean = loop {
            match self.parent.recv() {
                Ok(Received { message: ParentToRepo::Reaped(clean), .. }) => break clean,
                Err(e) if e.is_transient() => {}
                _ => crate::os::system::exit_now(1),
            }
        };
        let (indexed, facts) = facts?;
        if !clean {
            return Err(verifier::failed("ended early"));
        }
        let mut of_each = vec![None; commands.len()];
        for (&at, facts) in questions.iter().zip(facts) {
            if let Some(slot) = of_each.get_mut(at) {
                *slot = Some(facts);
            }
        }
        self.report.objects = indexed.received;
        self.report.bytes = indexed.bytes;
        Ok(((indexed.objects > 0).then_some(indexed), of_each))
    }

    /// The log first: what the client is told has been noted.
    fn answer(
        &self,
        commands: &[RefCommand],
        verdicts: &[Verdict],
        aliases: &Aliases,
        unpack: Option<&Refusal>,
    ) {
        answer::answer(commands, verdicts, aliases, unpack, &mut |told| match told {
            Told::Log(report) => opened::send(self.parent, &RepoToParent::Ref(report)),
            Told::Session(message) => self.send(&message),
        });
    }

    // --- the sandbox and the disk

    /// Narrows this process to the places of this push; the rest of the repository is to be read.
    fn restrict(&self, promises: Promises) -> Result<(), libsandbox::Error> {
        let places = self.incoming.places(self.found);
        let visible = incoming::visible(self.found, Access::READ, &places);
        let (limits, enforcement) = (ResourceLimits::UNCHANGED, self.enforcement);
        libsandbox::enter(&Stage { promises, paths: Some(&visible), limits, enforcement })?;
        Ok(())
    }

    /// Takes the quarantine away.
    fn discard(&mut self) {
        if let Err(e) = self.incoming.discard() {
            self.report.warnings.push(format!("quarantine: {e}"));
        }
    }

    /// Whether the disk has the configured reserve.
    fn reserve(&self) -> Result<(), Refusal> {
        let reserve = self.rules.limit(Limit::DiskReserve);
        if reserve == 0 {
            return Ok(());
        }
        let flags =
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
        let (directory, look) = (self.found.directory.as_fd(), self.found.look);
        let objects = look
            .open(directory, b"objects", flags, nix::sys::stat::Mode::empty())
            .map_err(|e| internal(format!("objects: {e}")))?;
        check_reserve(&objects, reserve)
            .map_err(|e| Refusal::carried_by(&e).cloned().unwrap_or_else(|| internal(e)))
    }
}

/// Sends the session the references that its client may know of. Returns what is wrong with some,
/// for the log.
fn list(session: &Session, repository: &Repository, hidden: &[Vec<u8>]) -> Result<Vec<String>, Refusal> {
    let mut advertised = Advertised::new(repository, hidden);
    let ask = ListAsk { prefixed: false, peel: false };
    let damaged = |e: librepo::Error| Refusal::Damaged(format!("references: {e}"));
    let looked = advertised.look(ask).map_err(damaged)?;
    for batch in advertised.batches(looked) {
        let mut batch = batch.map_err(damaged)?;
        batch.refs.retain(|line| line.name.as_bytes().starts_with(b"refs/") && line.id.is_some());
        // A session that is gone is noticed when it is heard.
        let _ = session.send(0, &WriterToSession::Refs(batch));
    }
    Ok(advertised.take_troubles())
}

/// The repository's present state, as far as the decision depends on it. `head`: the branch that
/// HEAD names; `hidden`: what is hidden from the client.
pub(crate) fn world(
    repository: &Repository,
    found: &FoundRepository,
    head: Option<Vec<u8>>,
    hidden: &[Vec<u8>],
    rules: &PushRules,
    commands: &[RefCommand],
) -> World {
    // A symbolic reference that leads into a hidden namespace is absent, whatever it leads to.
    let hidden = Hidden(hidden);
    let (mut absent, mut damaged) = (BTreeSet::new(), BTreeSet::new());
    for command in commands.iter().filter(|command| judge::must_be_absent(command, rules)) {
        let name = command.name.as_bytes();
        match hidden.find(repository.refs(), name) {
            Ok(None) => absent.insert(name.to_vec()),
            Err(librepo::Error::DamagedRef(..)) => damaged.insert(name.to_vec()),
            _ => false,
        };
    }
    let checked_out = found.worktree || repository.config().bare == Some(false);
    let own = repository.safeguards();
    let mut head_aliases = repository.refs().chain(b"HEAD").ok().flatten().unwrap_or_default();
    head_aliases.pop();
    World {
        own: OwnDenials {
            deny_deletes: own.deny_deletes,
            deny_rewrites: own.deny_rewrites,
            hidden: own.hidden_from_pushes().to_vec(),
        },
        head,
        head_aliases,
        aliases: aliases::look(repository.refs(), commands),
        checked_out,
        worked_on: worktrees::worked_on(repository, checked_out).map_err(|e| e.to_string()),
        absent,
        damaged,
    }
}

/// Waits for the parent's word whether `verify` runs.
fn await_verify(parent: &Parent) -> bool {
    match parent.recv() {
        Ok(Received { message: ParentToRepo::Verify(started), .. }) => started,
        _ => crate::os::system::exit_now(1),
    }
}

/// What went wrong here, not by anything that the client did.
fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::Internal(error.to_string())
}
