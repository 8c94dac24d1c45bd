//! `repo_write`: owns quarantine, installing packs and reference transactions of one push.
//!
//! Duty: advertise the references, decide about each command by the rules it was granted and the facts that
//! `verify` reports, and make what is accepted durable. Waits on: its session, `verify`, and the parent's word
//! that `verify` is gone. Talks to: all three.
//!
//! **Invariant:** never parses a pack; never writes `config` or `hooks`; the session is hostile: what it may say when
//! is a table, and every rule is applied here. Nothing that a client sent is visible before it is proven and on
//! the disk.

mod answer;
mod commit;
pub mod judge;
mod verifier;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libgit::ObjectId;
use libproto::channel::{Channel, Message, Received};
use libproto::limits::Limit;
use libproto::message::parent::{ParentToRepo, RefReport, RepoReport, RepoToParent, Serve};
use libproto::message::push::{
    BATCH_COMMANDS, BATCH_NAME_BYTES, Command, CommandFacts, CommandResult, IndexedPack, PushBegin,
    SessionToWriter, VerifyTask, VerifyToWriter, WRITE_STATES, WriteState, WriterToSession, WriterToVerify,
};
use libproto::message::repo::{BATCH_IDS, ListAsk};
use libproto::message::rules::PushRules;
use libproto::names::escape;
use libproto::states::allowed;
use librepo::fs_ops::Fs;
use librepo::receive::quarantine::{self, Quarantine};
use librepo::ref_name::RefName;
use librepo::refs::Head;
use librepo::repository::Repository;
use librepo::transaction::{self, Options, Peel, RefError, RefResult, Reflog, Update};
use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};

use crate::os::free_space::check_reserve;
use crate::repo::borrowing;
use crate::repo::read::refs::Advertised;
use crate::repo::role::{self, Found, Parent};
use judge::World;

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
]);
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
]);
/// From the moment `verify` has its files, or none are needed: before anything that it says about them is heard.
pub const COMMIT: Promises = WORK.without(Promise::Sendfd).without(Promise::Narrow);

type Session = Channel<WriterToSession, SessionToWriter>;
type Verify = Channel<WriterToVerify, VerifyToWriter>;

/// One command and what became of it.
struct Item {
    command: Command,
    refused: Option<String>,
    facts: Option<CommandFacts>,
}

/// Everything about one push.
struct Push<'a> {
    parent: &'a Parent,
    session: Session,
    verify: Verify,
    /// The client's input, until `verify` has it or nobody needs it. Not a byte is read from it here.
    input: Option<OwnedFd>,
    serve: &'a Serve,
    rules: PushRules,
    repository: Repository,
    found: &'a Found,
    enforcement: Enforcement,
    head: Option<Vec<u8>>,
    changes: Vec<Item>,
    shallows: Vec<ObjectId>,
    report: RepoReport,
}

/// Runs the role. Called by the waiting repository process when it was told that this is a push.
pub fn run(
    parent: &Parent,
    session: OwnedFd,
    (verify, input): (OwnedFd, OwnedFd),
    serve: &Serve,
    found: &Found,
    enforcement: Enforcement,
) -> Result<(), String> {
    let rules = *serve.push_rules.clone().ok_or("rules: none")?;
    let alternates = match borrowing::from_parent(parent, found, &serve.who) {
        Ok(alternates) => alternates,
        Err(text) => return role::failed(parent, libproto::message::parent::OpenError::Unusable(text)),
    };
    let warnings = borrowing::warnings(&alternates).collect();
    let limits = Limits::UNCHANGED;
    role::narrow(SET_UP, found, Access::READ_WRITE_CREATE, &alternates.dirs, limits, enforcement)?;
    let repository = match role::open_repository(found, alternates.dirs) {
        Ok(repository) => repository,
        Err(e) => {
            return role::failed(parent, libproto::message::parent::OpenError::Unusable(e.to_string()));
        }
    };
    role::announce(parent, found.directory.as_fd(), repository.hash())?;
    let head = match repository.refs().head() {
        Ok(Head::Symbolic(target, _)) => Some(target),
        _ => None,
    };
    let mut push = Push {
        parent,
        session: session.into(),
        verify: verify.into(),
        input: Some(input),
        serve,
        rules,
        repository,
        found,
        enforcement,
        head,
        changes: Vec::new(),
        shallows: Vec::new(),
        report: RepoReport { warnings, ..RepoReport::default() },
    };
    let end = push.converse();
    let mut report = push.report;
    if let Err(text) = end {
        report.text = text;
    }
    role::send(parent, &RepoToParent::Finished(report));
    Ok(())
}

impl Push<'_> {
    /// From the list of references to the results. An error ends the push, with nothing changed.
    fn converse(&mut self) -> Result<(), String> {
        let mut state = WriteState::Idle;
        loop {
            let message = match self.session.recv() {
                Ok(Received { message, .. }) => message,
                Err(e) if e.is_transient() => continue,
                // A client that only looked.
                Err(libproto::channel::RecvError::Closed) => return Ok(()),
                Err(e) => return Err(format!("session: {e}")),
            };
            if !allowed(WRITE_STATES, state, message.kind()) {
                return Err(format!("session: {} in state {state:?}", message.name()));
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
                        return self.refuse("too many shallow lines");
                    }
                    state = WriteState::Commands;
                    self.say(&WriterToSession::Taken(()));
                }
                SessionToWriter::Begin(begin) => return self.push(&begin),
            }
        }
    }

    fn say(&self, message: &WriterToSession) {
        // A session that is gone does not stop a push that was decided.
        let _ = self.session.send(0, 0, message);
    }

    /// Nothing was changed, and this is why.
    fn refuse(&self, text: &str) -> Result<(), String> {
        self.say(&WriterToSession::Refused(text.to_owned()));
        Err(text.to_owned())
    }

    fn list(&self) -> Result<(), String> {
        let mut advertised = Advertised::new(&self.repository, &self.serve.hidden);
        let ask = ListAsk { prefixed: false, peel: false };
        let looked = match advertised.look(ask) {
            Ok(looked) => looked,
            Err(e) => return self.refuse(&format!("references: {e}")),
        };
        for batch in advertised.batches(looked) {
            let mut batch = match batch {
                Ok(batch) => batch,
                Err(e) => return self.refuse(&format!("references: {e}")),
            };
            batch.refs.retain(|line| line.name.as_bytes().starts_with(b"refs/") && line.id.is_some());
            self.say(&WriterToSession::Refs(batch));
        }
        Ok(())
    }

    fn take(&mut self, batch: Vec<Command>) -> Result<(), String> {
        let limit = self.rules.limit(Limit::Commands);
        if batch.len() > BATCH_COMMANDS || self.changes.len().saturating_add(batch.len()) as u64 > limit {
            return self.refuse(&format!("more than {limit} references in one push (limit commands)"));
        }
        let hash = self.repository.hash();
        for command in batch {
            if command.old.kind() != hash || command.new.kind() != hash {
                return Err("session: object id of another hash".into());
            }
            self.changes.push(Item { command, refused: None, facts: None });
        }
        self.say(&WriterToSession::Taken(()));
        Ok(())
    }

    // --- decisions

    /// The whole push.
    fn push(&mut self, begin: &PushBegin) -> Result<(), String> {
        let exists = |name: &[u8]| !matches!(self.repository.refs().find(name), Ok(None));
        let world = World {
            head: self.head.as_deref(),
            checked_out: self.found.worktree || self.repository.config().bare == Some(false),
            exists: &exists,
        };
        judge::judge_names(&mut self.changes, &self.rules, &world);
        if begin.atomic {
            judge::all_or_none(&mut self.changes);
        }
        let directory = self.found.directory.try_clone().map_err(|e| e.to_string())?;
        let fs = Fs::new(directory, self.repository.config().shared).within(self.found.look);
        // What a crash left is removed first; whoever is alive holds a lock on his. Before the sandbox is narrowed:
        // a lock on packed-refs may be among it.
        if let Err(e) = quarantine::sweep(&fs) {
            self.report.warnings.push(format!("quarantine: {e}"));
        }
        // Where reflogs will be made, while the top directory can still be changed.
        if self.rules.reflog
            && let Err(e) = fs.make_dir(b"logs")
        {
            self.report.warnings.push(format!("reflog: {e}"));
        }
        self.restrict(begin)?;
        let wanted = self.changes.iter().any(|c| c.refused.is_none() && !c.command.new.is_null());
        if !wanted {
            // A client that goes on writing hears that nobody reads as soon as its session is gone.
            self.input = None;
            self.give_up_sending()?;
        }
        if !self.changes.iter().any(|c| c.refused.is_none()) {
            return self.answer("ok");
        }
        let mut quarantine =
            match self.reserve().and_then(|()| Quarantine::create(&fs).map_err(|e| e.to_string())) {
                Ok(quarantine) => quarantine,
                Err(text) => return self.unpack_failed(&text),
            };
        let result = self.receive_and_commit(&fs, &mut quarantine, begin, wanted);
        if let Err(e) = quarantine.remove(&fs) {
            self.report.warnings.push(format!("quarantine: {e}"));
        }
        match result {
            Ok(()) => self.answer("ok"),
            Err(text) => self.unpack_failed(&text),
        }
    }

    fn receive_and_commit(
        &mut self,
        fs: &Fs,
        quarantine: &mut Quarantine,
        begin: &PushBegin,
        wanted: bool,
    ) -> Result<(), String> {
        let pack = if wanted { self.verify(fs, quarantine, begin)? } else { None };
        judge::judge_facts(&mut self.changes, &self.rules);
        if begin.atomic {
            judge::all_or_none(&mut self.changes);
        }
        let effective = |c: &Item| c.refused.is_none() && c.command.old != c.command.new;
        let needs_pack = self.changes.iter().any(|c| effective(c) && !c.command.new.is_null());
        if let (Some(pack), true) = (&pack, needs_pack) {
            self.reserve()?;
            let hash = self.repository.hash();
            quarantine.install(fs, hash, &pack.checksum).map_err(|e| e.to_string())?;
        }
        self.commit(fs, quarantine, begin);
        Ok(())
    }

    // --- the sandbox and the disk

    /// Narrows this process once more: its top directory can change only when packed-refs must.
    fn restrict(&self, begin: &PushBegin) -> Result<(), String> {
        let packed =
            begin.atomic || self.changes.iter().any(|c| c.refused.is_none() && c.command.new.is_null());
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
            limits: Limits::UNCHANGED,
            enforcement: self.enforcement,
        };
        libsandbox::enter(&stage).map_err(|e| e.to_string())?;
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
    fn give_up_sending(&self) -> Result<(), String> {
        let (limits, enforcement) = (Limits::UNCHANGED, self.enforcement);
        let stage = Stage { promises: COMMIT, paths: None, limits, enforcement };
        libsandbox::enter(&stage).map_err(|e| e.to_string())?;
        #[cfg(feature = "escapes")]
        crate::escapes::attempt("repo_write without verify", COMMIT);
        Ok(())
    }

    /// Whether the disk has the configured reserve.
    fn reserve(&self) -> Result<(), String> {
        let reserve = self.rules.limit(Limit::DiskReserve);
        if reserve == 0 {
            return Ok(());
        }
        let flags =
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC;
        let objects = self.open("objects", flags).map_err(|e| format!("objects: {e}"))?;
        check_reserve(&objects, reserve).map_err(|e| e.to_string())
    }
}
