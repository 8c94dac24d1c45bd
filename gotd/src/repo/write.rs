//! `repo_write`: owns quarantine, installing packs and reference transactions of one push.
//!
//! Duty: advertise the references, decide about each command by the rules it was granted and the facts that
//! `verify` reports, and make what is accepted durable. Waits on: its session, `verify`, and the parent's word
//! that `verify` is gone. Talks to: all three.
//!
//! **Invariant:** never parses a pack; never writes `config` or `hooks`; the session is hostile: what it may say when
//! is a table, and every rule is applied here. Nothing that a client sent is visible before it is proven and on
//! the disk.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libproto::channel::{Channel, Message, Received};
use libproto::message::parent::{ParentToRepo, RefReport, RepoReport, RepoToParent, Serve};
use libproto::message::push::{
    BATCH_COMMANDS, BATCH_NAME_BYTES, Command, CommandFacts, CommandResult, IndexedPack, ObjectKind,
    PushBegin, SessionToWriter, VerifyTask, VerifyToWriter, WRITE_STATES, WriteState, WriterToSession,
    WriterToVerify,
};
use libproto::message::repo::{BATCH_IDS, ListAsk};
use libproto::names::{ObjectId, escape};
use libproto::states::allowed;
use librepo::fs_ops::Fs;
use librepo::receive::quarantine::{self, Quarantine};
use librepo::ref_name::RefName;
use librepo::refs::Head;
use librepo::repository::Repository;
use librepo::transaction::{self, Options, Peel, RefError, RefResult, Reflog, Update};
use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};

use crate::conf::limits::Limit;
use crate::conf::push_rules::{Change, PushRules};
use crate::os::free_space::check_reserve;
use crate::repo::borrowing;
use crate::repo::ids::to_repo;
use crate::repo::read::refs::Advertised;
use crate::repo::role::{self, Found, Parent};

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
    let rules = PushRules::decode(&serve.push_rules).map_err(|e| format!("rules: {e}"))?;
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
    role::announce(parent, found.directory.as_fd(), crate::repo::ids::hash_to_wire(repository.hash()))?;
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
        let hash = crate::repo::ids::hash_to_wire(self.repository.hash());
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
        self.judge_names();
        if begin.atomic {
            self.all_or_none();
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
        self.judge_facts();
        if begin.atomic {
            self.all_or_none();
        }
        let effective = |c: &Item| c.refused.is_none() && c.command.old != c.command.new;
        let needs_pack = self.changes.iter().any(|c| effective(c) && !c.command.new.is_null());
        if let (Some(pack), true) = (&pack, needs_pack) {
            self.reserve()?;
            let hash = self.repository.hash();
            quarantine.install(fs, hash, &to_repo(&pack.checksum)).map_err(|e| e.to_string())?;
        }
        self.commit(fs, quarantine, begin);
        Ok(())
    }

    /// What can be said about each command without looking at objects.
    fn judge_names(&mut self) {
        let checked_out = self.found.worktree || self.repository.config().bare == Some(false);
        let mut seen: BTreeSet<Vec<u8>> = BTreeSet::new();
        for change in &mut self.changes {
            let (name, command) = (change.command.name.as_bytes(), &change.command);
            let is_head = self.head.as_deref() == Some(name);
            let kind = match (command.old.is_null(), command.new.is_null()) {
                (_, true) => Change::Delete,
                (true, false) => Change::Create,
                // Whether it is one is decided by facts; here only what holds for every update.
                (false, false) => Change::Update { fast_forward: true },
            };
            // As git: what has only one level below refs/ may be removed, but not made.
            let one_level = name.iter().filter(|b| **b == b'/').count() < 2 && kind != Change::Delete;
            change.refused = if !change.command.name.is_below_refs() || one_level {
                Some("funny refname".into())
            } else if !seen.insert(name.to_vec()) {
                Some("multiple updates for ref".into())
            } else if let Some(hidden) = self.rules.hidden_refusal(name) {
                // Before anything is looked up: a hidden reference that is there is refused like one that is not.
                Some(hidden)
            } else if command.old.is_null() && command.new.is_null() {
                // What is not there is gone already, as for C git.
                match self.repository.refs().find(name) {
                    Ok(None) => None,
                    _ => Some("failed to update ref: it exists".into()),
                }
            } else if kind == Change::Delete && is_head {
                // A rule is the better reason: it says what was configured, in the words that C gotd has for it.
                let rule = self.rules.refusal(name, kind, false);
                rule.or_else(|| Some("deletion of the current branch prohibited".into()))
            } else if is_head && checked_out {
                Some("branch is currently checked out".into())
            } else if command.old == command.new && !command.new.is_null() {
                // Changes nothing: no rule can be broken by it, but always-protected names stay a refusal.
                self.rules.refusal(name, Change::Create, false).filter(|_| !is_open(name))
            } else {
                self.rules.refusal(name, kind, false)
            };
        }
    }

    /// What facts about objects say.
    fn judge_facts(&mut self) {
        let blob_limit = self.rules.limit(Limit::BlobSize);
        for change in &mut self.changes {
            let (Some(facts), None) = (&change.facts, &change.refused) else { continue };
            let (name, command) = (change.command.name.as_bytes(), &change.command);
            let kind = if command.old.is_null() {
                Change::Create
            } else {
                Change::Update { fast_forward: facts.fast_forward == Some(true) }
            };
            change.refused = if let Some(refused) = &facts.refused {
                Some(refused.clone())
            } else if name.starts_with(b"refs/heads/") && facts.kind != Some(ObjectKind::Commit) {
                // C git's words; only commits are branches.
                Some("invalid new value provided".into())
            } else if blob_limit > 0 && facts.largest_blob.is_some_and(|bytes| bytes > blob_limit) {
                Some(format!(
                    "blob of {} bytes, at most {blob_limit} are permitted (limit blob size)",
                    facts.largest_blob.unwrap_or_default()
                ))
            } else if command.old == command.new {
                None
            } else {
                self.rules.refusal(name, kind, facts.merges)
            };
        }
    }

    /// An atomic push with one refusal is refused as a whole.
    fn all_or_none(&mut self) {
        if self.changes.iter().any(|c| c.refused.is_some()) {
            for change in &mut self.changes {
                change.refused.get_or_insert_with(|| "atomic push failure".into());
            }
        }
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
        libsandbox::enter(&stage).map(drop).map_err(|e| e.to_string())
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

    // --- verify

    /// Has the pack received and checked, and waits until whoever did it is gone.
    fn verify(
        &mut self,
        fs: &Fs,
        quarantine: &mut Quarantine,
        begin: &PushBegin,
    ) -> Result<Option<IndexedPack>, String> {
        let (pack, idx) = quarantine.create_files(fs).map_err(|e| e.to_string())?;
        role::send(self.parent, &RepoToParent::NeedVerify(()));
        match self.parent.recv() {
            Ok(Received { message: ParentToRepo::Verify(true), .. }) => {}
            Ok(Received { message: ParentToRepo::Verify(false), .. }) => {
                return Err("verify: not started".into());
            }
            _ => crate::os::system::exit_now(1),
        }
        let input = self.input.take().ok_or("verify: asked for twice")?;
        let sent = self.instruct(&pack, &idx, input.as_fd(), begin);
        drop((pack, idx, input));
        self.give_up_sending()?;
        if let Err(e) = sent {
            return Err(format!("verify: {e}"));
        }
        if begin.pack {
            self.say(&WriterToSession::TakePack(()));
        }
        let facts = self.facts();
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
            return Err("verify: ended early".into());
        }
        let asked = self.changes.iter_mut().filter(|c| c.refused.is_none() && !c.command.new.is_null());
        let mut facts = facts.into_iter();
        for change in asked {
            change.facts = Some(facts.next().ok_or("verify: too few facts")?);
        }
        if facts.next().is_some() {
            return Err("verify: too many facts".into());
        }
        self.report.objects = indexed.received;
        self.report.bytes = indexed.bytes;
        Ok((indexed.objects > 0).then_some(indexed))
    }

    fn instruct(
        &self,
        pack: &std::fs::File,
        idx: &std::fs::File,
        input: BorrowedFd<'_>,
        begin: &PushBegin,
    ) -> Result<(), libproto::channel::SendError> {
        let limit = |limit: Limit| self.rules.limit(limit);
        let task = VerifyTask {
            pack_bytes: limit(Limit::PackSize),
            objects: limit(Limit::PackObjects),
            object_bytes: limit(Limit::ObjectSize),
            delta_bytes: limit(Limit::DeltaResult),
            chain: u32::try_from(limit(Limit::DeltaDepth)).unwrap_or(u32::MAX),
            external_bases: limit(Limit::ThinBases),
            tree_depth: u32::try_from(limit(Limit::TreeDepth)).unwrap_or(u32::MAX),
            blob_bytes: limit(Limit::BlobSize),
            fsck: self.rules.fsck,
            tolerated: self.rules.tolerated.clone(),
            disk_reserve: limit(Limit::DiskReserve),
            pack: begin.pack,
            hidden: self.serve.hidden.clone(),
        };
        let fds = [pack.as_fd(), idx.as_fd(), input];
        self.verify.send_with_fds(0, 0, &WriterToVerify::Files(task), &fds)?;
        let asked: Vec<_> = self
            .changes
            .iter()
            .filter(|c| c.refused.is_none() && !c.command.new.is_null())
            .map(|c| (c.command.old, c.command.new))
            .collect();
        for batch in asked.chunks(BATCH_COMMANDS) {
            self.verify.send(0, 0, &WriterToVerify::Commands(batch.to_vec()))?;
        }
        for batch in self.shallows.chunks(BATCH_IDS) {
            self.verify.send(0, 0, &WriterToVerify::Shallows(batch.to_vec()))?;
        }
        self.verify.send(0, 0, &WriterToVerify::Go(()))
    }

    /// What verify reports. Its own error texts are for the client.
    fn facts(&self) -> Result<(IndexedPack, Vec<CommandFacts>), String> {
        let (mut indexed, mut facts) = (None, Vec::new());
        loop {
            match self.verify.recv() {
                Ok(Received { message: VerifyToWriter::Indexed(pack), .. }) if indexed.is_none() => {
                    indexed = Some(pack);
                }
                Ok(Received { message: VerifyToWriter::Facts(batch), .. }) => {
                    if facts.len() > self.changes.len() {
                        return Err("verify: too many facts".into());
                    }
                    facts.extend(batch);
                }
                Ok(Received { message: VerifyToWriter::Done(()), .. }) => {
                    return Ok((indexed.ok_or("verify: no pack")?, facts));
                }
                Ok(Received { message: VerifyToWriter::Failed(text), .. }) => {
                    let mut text = escape(text.as_bytes());
                    text.truncate(text.floor_char_boundary(1000));
                    return Err(text);
                }
                Ok(Received { message: VerifyToWriter::Indexed(_), .. }) => {
                    return Err("verify: two packs".into());
                }
                Err(e) if e.is_transient() => {}
                Err(_) => return Err("the pack could not be checked".into()),
            }
        }
    }

    // --- references

    fn commit(&mut self, fs: &Fs, quarantine: &Quarantine, begin: &PushBegin) {
        let mut updates = Vec::new();
        let mut places = Vec::new();
        for (at, change) in self.changes.iter_mut().enumerate().filter(|(_, c)| c.refused.is_none()) {
            match RefName::new(change.command.name.as_bytes()) {
                Ok(name) => {
                    updates.push(Update {
                        name,
                        old: to_repo(&change.command.old),
                        new: to_repo(&change.command.new),
                    });
                    places.push(at);
                }
                Err(_) => change.refused = Some("funny refname".into()),
            }
        }
        if begin.atomic && places.len() != self.changes.len() {
            return self.all_or_none();
        }
        let peels: HashMap<ObjectId, Peel> = self
            .changes
            .iter()
            .filter_map(|c| {
                let facts = c.facts.as_ref()?;
                let peel = facts.peeled.map_or(Peel::Nothing, |(id, _)| Peel::To(to_repo(&id)));
                Some((c.command.new, peel))
            })
            .collect();
        let peel = |id: &librepo::id::ObjectId| {
            peels.get(&crate::repo::ids::to_wire(id)).copied().unwrap_or(Peel::Unknown)
        };
        let reflog = self.rules.reflog.then(|| Reflog {
            identity: format!("{} <{}@gotd>", self.serve.who, self.serve.who),
            seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            message: "push".into(),
        });
        let options = Options {
            ref_timeout: Duration::from_secs(5),
            packed_timeout: Duration::from_secs(30),
            reflog,
            peel: &peel,
        };
        let staging = quarantine.staging();
        let hash = self.repository.hash();
        let results: Vec<RefResult> = if begin.atomic {
            transaction::commit_atomic(fs, &staging, hash, &updates, &options)
        } else {
            transaction::commit_each(fs, &staging, hash, &updates, &options)
        };
        for (at, result) in places.into_iter().zip(results) {
            if let (Err(e), Some(change)) = (result, self.changes.get_mut(at)) {
                // A name that stands in the way may be a hidden one.
                let tells = matches!(e, RefError::Conflict(_) | RefError::Symbolic);
                let told = match tells && !self.serve.hidden.is_empty() {
                    true => "failed to update ref".into(),
                    false => escape(e.to_string().as_bytes()),
                };
                change.refused = Some(told);
            }
        }
    }

    // --- the answer

    /// The pack was refused, and with it every command that needed it.
    fn unpack_failed(&mut self, text: &str) -> Result<(), String> {
        for change in &mut self.changes {
            change.refused.get_or_insert_with(|| "unpacker error".into());
        }
        self.report.text = text.to_owned();
        self.answer(text)?;
        Err(text.to_owned())
    }

    fn answer(&mut self, unpack: &str) -> Result<(), String> {
        let (mut batch, mut bytes) = (Vec::new(), 0usize);
        for change in &self.changes {
            let command = &change.command;
            // The log first: what the client is told has been noted.
            let report = RefReport {
                name: command.name.as_bytes().to_vec(),
                old: command.old.to_string(),
                new: command.new.to_string(),
                refused: change.refused.clone().unwrap_or_default(),
            };
            role::send(self.parent, &RepoToParent::Ref(report));
            let refused = change.refused.as_ref().map(|text| {
                let mut text = escape(text.as_bytes());
                text.truncate(text.floor_char_boundary(500));
                text
            });
            bytes = bytes.saturating_add(command.name.as_bytes().len());
            batch.push(CommandResult { name: command.name.clone(), refused });
            if batch.len() >= BATCH_COMMANDS / 4 || bytes >= BATCH_NAME_BYTES {
                self.say(&WriterToSession::Results(std::mem::take(&mut batch)));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.say(&WriterToSession::Results(batch));
        }
        self.say(&WriterToSession::End(unpack.to_owned()));
        Ok(())
    }
}

/// A reference that is not in a namespace that nobody may write to.
fn is_open(name: &[u8]) -> bool {
    !crate::conf::push_rules::ALWAYS_PROTECTED.iter().any(|n| name.starts_with(n.as_bytes()))
}
