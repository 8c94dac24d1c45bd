//! `repo_write`: owns quarantine, installing packs and reference transactions of one push.
//!
//! Duty: advertise the references, decide about each command by the rules it was granted and the
//! facts that `verify` reports, and make what is accepted durable. Waits on: its session, `verify`,
//! and the parent's word that `verify` is gone. Talks to: all three.
//!
//! **Invariant:** never parses a pack; never writes `config` or `hooks`; the session counts as
//! hostile: a table says which message is allowed when, and every rule is applied here. Nothing
//! that a client sent is visible before it is proven and on the disk.

mod answer;
mod commit;
pub mod judge;
mod verifier;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use libgit::ObjectId;
use libproto::channel::{Channel, Message, Received, RecvError};
use libproto::limits::Limit;
use libproto::message::parent::{ParentToRepo, RepoReport, RepoToParent, Serve};
use libproto::message::push::{
    BATCH_COMMANDS, CommandFacts, IndexedPack, PushBegin, RefCommand, SessionToWriter, WRITE_STATES,
    WriteState, WriterToSession,
};
use libproto::message::repo::{BATCH_IDS, ListAsk};
use libproto::message::rules::PushRules;
use libproto::refusal::Refusal;
use libproto::states::allowed;
use librepo::fs_ops::Fs;
use librepo::receive::quarantine::{self, Quarantine};
use librepo::refs::Head;
use librepo::repository::Repository;
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};

use crate::os::free_space::check_reserve;
use crate::repo::borrowing;
use crate::repo::error::RepoError;
use crate::repo::find::FoundRepository;
use crate::repo::hidden::Hidden;
use crate::repo::opened::{self, Parent};
use crate::repo::read::refs::Advertised;
use answer::Told;
use commit::Transaction;
use judge::{CommandList, Verdict, World};
use verifier::Verifier;

/// From the moment its repository is known.
pub const SET_UP: Promises = Promises::of(&[
    Promise::Stdio,
    Promise::Rpath,
    Promise::Wpath,
    Promise::Cpath,
    Promise::Fattr,
    Promise::Flock,
    Promise::Sendfd,
    Promise::Unveil,
])
.calls(Calls::RepoWriteSetUp);
/// From the moment it is known whether packed-refs must change.
pub const WORK: Promises = Promises::of(&[
    Promise::Stdio,
    Promise::Rpath,
    Promise::Wpath,
    Promise::Cpath,
    Promise::Fattr,
    Promise::Flock,
    Promise::Sendfd,
    Promise::Narrow,
])
.calls(Calls::RepoWrite);
/// From the moment `verify` has its files, or none are needed: before any of its reports is read.
pub const COMMIT: Promises =
    WORK.without(Promise::Sendfd).without(Promise::Narrow).calls(Calls::RepoWriteCommit);

type Session = Channel<WriterToSession, SessionToWriter>;

/// Everything about one push.
struct Push<'a> {
    parent: &'a Parent,
    session: Session,
    verifier: Verifier,
    serve: &'a Serve,
    rules: PushRules,
    repository: Repository,
    found: &'a FoundRepository,
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
    (verify, input): (OwnedFd, OwnedFd),
    serve: &Serve,
    found: &FoundRepository,
    enforcement: Enforcement,
) -> Result<(), RepoError> {
    let rules = *serve.push_rules.clone().ok_or(RepoError::NoRules)?;
    let alternates = match borrowing::from_parent(parent, found, &serve.who) {
        Ok(alternates) => alternates,
        Err(e) => {
            return opened::failed(parent, libproto::message::parent::OpenError::Unusable(e.to_string()));
        }
    };
    let warnings = borrowing::warnings(&alternates).collect();
    let limits = ResourceLimits::UNCHANGED;
    opened::narrow(SET_UP, found, Access::READ_WRITE_CREATE, &alternates.dirs, limits, enforcement)?;
    let repository = match opened::open_repository(found, alternates.dirs) {
        Ok(repository) => repository,
        Err(e) => {
            return opened::failed(parent, libproto::message::parent::OpenError::Unusable(e.to_string()));
        }
    };
    opened::announce(parent, found.directory.as_fd(), repository.hash())?;
    let head = match repository.refs().head() {
        Ok(Head::Symbolic(target, _)) => Some(target),
        _ => None,
    };
    let mut push = Push {
        parent,
        session: session.into(),
        verifier: Verifier::new(verify, input),
        serve,
        rules,
        repository,
        found,
        enforcement,
        head,
        commands: Vec::new(),
        shallows: Vec::new(),
        report: RepoReport { warnings, ..RepoReport::default() },
    };
    let end = push.converse();
    let mut report = push.report;
    report.refusal = end.err();
    opened::send(parent, &RepoToParent::Finished(report));
    Ok(())
}

impl Push<'_> {
    /// From the list of references to the results. An error ends the push, with nothing changed.
    fn converse(&mut self) -> Result<(), Refusal> {
        let mut state = WriteState::Idle;
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
                SessionToWriter::List(()) => {
                    self.list()?;
                    state = WriteState::Listed;
                }
                SessionToWriter::Commands(batch) => {
                    self.take(batch)?;
                    state = WriteState::Commands;
                }
                SessionToWriter::Shallows(batch) => {
                    self.shallows.extend(batch.into_iter().take(BATCH_IDS));
                    if self.shallows.len() > BATCH_IDS * 1000 {
                        return self.refuse(Refusal::Internal("too many shallow lines".into()));
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
    fn refuse(&self, refusal: Refusal) -> Result<(), Refusal> {
        self.send(&WriterToSession::Refused(refusal.clone()));
        Err(refusal)
    }

    fn list(&self) -> Result<(), Refusal> {
        let mut advertised = Advertised::new(&self.repository, &self.serve.hidden);
        let ask = ListAsk { prefixed: false, peel: false };
        let damaged = |e: librepo::Error| Refusal::Damaged(format!("references: {e}"));
        let looked = match advertised.look(ask) {
            Ok(looked) => looked,
            Err(e) => return self.refuse(damaged(e)),
        };
        for batch in advertised.batches(looked) {
            let mut batch = match batch {
                Ok(batch) => batch,
                Err(e) => return self.refuse(damaged(e)),
            };
            batch.refs.retain(|line| line.name.as_bytes().starts_with(b"refs/") && line.id.is_some());
            self.send(&WriterToSession::Refs(batch));
        }
        Ok(())
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
        let world = self.world(&commands);
        let mut verdicts = judge::judge(asked, &[], &self.rules, &world);
        let directory = self.found.directory.try_clone().map_err(internal)?;
        let fs = Fs::new(directory, self.repository.config().shared).within(self.found.look);
        // Leftovers of crashes are removed first; a living process holds a lock on its quarantine.
        // This comes before the sandbox is narrowed, because a lock file of packed-refs may be
        // among the leftovers.
        if let Err(e) = quarantine::sweep(&fs) {
            self.report.warnings.push(format!("quarantine: {e}"));
        }
        // Where reflogs will be made, while the top directory can still be changed.
        if self.rules.reflog
            && let Err(e) = fs.make_dir(b"logs")
        {
            self.report.warnings.push(format!("reflog: {e}"));
        }
        let open = commands.iter().zip(&verdicts).filter(|(_, verdict)| verdict.is_ok());
        let deletes = open.clone().any(|(command, _)| command.new.is_null());
        let nothing = open.count() == 0;
        self.restrict(begin.atomic || deletes)?;
        let questions = verifier::questions(&commands, &verdicts);
        if questions.is_empty() {
            // With this end closed, a client that goes on writing gets a broken pipe as soon as its
            // session is gone.
            self.verifier.give_up_input();
            self.give_up_sending()?;
        }
        if nothing {
            self.answer(&commands, &verdicts, None);
            return Ok(());
        }
        match self.receive_and_commit(&fs, asked, &questions, (&world, begin), &mut verdicts) {
            Ok(()) => {
                self.answer(&commands, &verdicts, None);
                Ok(())
            }
            Err(refusal) => {
                // The pack was refused, and with it every command that needed it.
                for verdict in verdicts.iter_mut().filter(|verdict| verdict.is_ok()) {
                    *verdict = Err(Refusal::Unpacker);
                }
                self.answer(&commands, &verdicts, Some(&refusal));
                Err(refusal)
            }
        }
    }

    /// The repository's present state, as far as the decision depends on it.
    fn world(&self, commands: &[RefCommand]) -> World {
        // A symbolic reference that leads into a hidden namespace is absent, whatever it leads to.
        let hidden = Hidden(&self.serve.hidden);
        let absent = |name: &[u8]| matches!(hidden.find(self.repository.refs(), name), Ok(None));
        let asked = commands.iter().filter(|command| judge::must_be_absent(command, &self.rules));
        World {
            head: self.head.clone(),
            checked_out: self.found.worktree || self.repository.config().bare == Some(false),
            absent: asked
                .map(|command| command.name.as_bytes())
                .filter(|name| absent(name))
                .map(<[u8]>::to_vec)
                .collect(),
        }
    }

    /// From the empty quarantine to the changed references. An error refuses the pack, and nothing
    /// is changed.
    fn receive_and_commit(
        &mut self,
        fs: &Fs,
        asked: CommandList<'_>,
        questions: &[usize],
        (world, begin): (&World, &PushBegin),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Refusal> {
        self.reserve()?;
        let mut quarantine = Quarantine::create(fs).map_err(internal)?;
        let result = self.in_quarantine(fs, &mut quarantine, asked, questions, (world, begin), verdicts);
        if let Err(e) = quarantine.remove(fs) {
            self.report.warnings.push(format!("quarantine: {e}"));
        }
        result
    }

    fn in_quarantine(
        &mut self,
        fs: &Fs,
        quarantine: &mut Quarantine,
        asked: CommandList<'_>,
        questions: &[usize],
        (world, begin): (&World, &PushBegin),
        verdicts: &mut Vec<Verdict>,
    ) -> Result<(), Refusal> {
        let (mut pack, mut facts) = (None, Vec::new());
        if !questions.is_empty() {
            (pack, facts) = self.verify(fs, quarantine, asked.commands, questions, begin)?;
            *verdicts = judge::judge(asked, &facts, &self.rules, world);
        }
        let needs_pack = asked.commands.iter().zip(verdicts.iter()).any(|(command, verdict)| {
            verdict.is_ok() && command.old != command.new && !command.new.is_null()
        });
        if let (Some(pack), true) = (&pack, needs_pack) {
            self.reserve()?;
            let hash = self.repository.hash();
            quarantine.install(fs, hash, &pack.checksum).map_err(internal)?;
        }
        let transaction = Transaction {
            fs,
            staging: quarantine.staging(),
            hash: self.repository.hash(),
            who: &self.serve.who,
            reflog: self.rules.reflog,
            hides: !self.serve.hidden.is_empty(),
        };
        transaction.commit(asked, &facts, verdicts);
        Ok(())
    }

    /// Has `verify` receive and check the pack, and waits until that process is gone. Facts are by
    /// command, `None` for commands that were not asked about.
    fn verify(
        &mut self,
        fs: &Fs,
        quarantine: &mut Quarantine,
        commands: &[RefCommand],
        questions: &[usize],
        begin: &PushBegin,
    ) -> Result<(Option<IndexedPack>, Vec<Option<CommandFacts>>), Refusal> {
        let failed = |text: &str| Err(Refusal::Internal(format!("verify: {text}")));
        let (pack, idx) = quarantine.create_files(fs).map_err(internal)?;
        opened::send(self.parent, &RepoToParent::NeedVerify(()));
        match self.parent.recv() {
            Ok(Received { message: ParentToRepo::Verify(true), .. }) => {}
            Ok(Received { message: ParentToRepo::Verify(false), .. }) => return failed("not started"),
            _ => crate::os::system::exit_now(1),
        }
        let task = verifier::task(&self.rules, begin.pack, &self.serve.hidden);
        let asked: Vec<_> = questions
            .iter()
            .filter_map(|&at| commands.get(at))
            .map(|command| (command.old, command.new))
            .collect();
        let sent = self.verifier.instruct(task, (&pack, &idx), &asked, &self.shallows);
        drop((pack, idx));
        self.give_up_sending()?;
        sent?;
        if begin.pack {
            self.send(&WriterToSession::TakePack(()));
        }
        let facts = self.verifier.facts(questions.len());
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
            return failed("ended early");
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
    fn answer(&self, commands: &[RefCommand], verdicts: &[Verdict], unpack: Option<&Refusal>) {
        answer::answer(commands, verdicts, unpack, &mut |told| match told {
            Told::Log(report) => opened::send(self.parent, &RepoToParent::Ref(report)),
            Told::Session(message) => self.send(&message),
        });
    }

    // --- the sandbox and the disk

    /// Narrows this process once more: its top directory can change only when packed-refs must
    /// (`packed`).
    fn restrict(&self, packed: bool) -> Result<(), Refusal> {
        let top = if packed { Access::READ.and(Access::CREATE) } else { Access::READ };
        let flags = nix::fcntl::OFlag::O_PATH
            | nix::fcntl::OFlag::O_DIRECTORY
            | nix::fcntl::OFlag::O_NOFOLLOW
            | nix::fcntl::OFlag::O_CLOEXEC;
        let mut opened: Vec<(OwnedFd, PathBuf)> = Vec::new();
        for name in ["objects", "refs", "logs"] {
            if let Ok(fd) = self.open(name, flags) {
                opened.push((fd, self.found.path.join(name)));
            }
        }
        let mut visible = vec![Visible::opened(self.found.directory.as_fd(), &self.found.path, top)];
        visible.extend(
            opened.iter().map(|(fd, path)| Visible::opened(fd.as_fd(), path, Access::READ_WRITE_CREATE)),
        );
        let stage = Stage {
            promises: WORK,
            paths: Some(&visible),
            limits: ResourceLimits::UNCHANGED,
            enforcement: self.enforcement,
        };
        libsandbox::enter(&stage).map_err(internal)?;
        #[cfg(feature = "escapes")]
        crate::escapes::attempt("repo_write", WORK);
        Ok(())
    }

    /// Opens a directory of the repository.
    fn open(&self, name: &str, flags: nix::fcntl::OFlag) -> nix::Result<OwnedFd> {
        let directory = self.found.directory.as_fd();
        self.found.look.open(directory, name.as_bytes(), flags, nix::sys::stat::Mode::empty())
    }

    /// Nothing is handed to anybody any more.
    fn give_up_sending(&self) -> Result<(), Refusal> {
        let (limits, enforcement) = (ResourceLimits::UNCHANGED, self.enforcement);
        let stage = Stage { promises: COMMIT, paths: None, limits, enforcement };
        libsandbox::enter(&stage).map_err(internal)?;
        #[cfg(feature = "escapes")]
        crate::escapes::attempt("repo_write without verify", COMMIT);
        Ok(())
    }

    /// Whether the disk has the configured reserve.
    fn reserve(&self) -> Result<(), Refusal> {
        let reserve = self.rules.limit(Limit::DiskReserve);
        if reserve == 0 {
            return Ok(());
        }
        let flags =
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
        let objects = self.open("objects", flags).map_err(|e| internal(format!("objects: {e}")))?;
        check_reserve(&objects, reserve)
            .map_err(|e| Refusal::carried_by(&e).cloned().unwrap_or_else(|| internal(e)))
    }
}

/// What went wrong here, not by anything that the client did.
fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::Internal(error.to_string())
}
