//! What a user may ask about a repository without git, and, with the right to write, change without
//! a push: the branch that HEAD names, and the description.
//!
//! Runs in the repository process in place of `repo_read` or `repo_write`, with no more than their
//! rights. Each change is a new file beside the old one, on the disk before it takes its name; for
//! HEAD that is git's own lock.
//!
//! **Invariant:** writes these two files and no other. Nothing is read from the session: what to do
//! came in the grant.

use std::os::fd::AsFd;

use libgit::{ObjectKind, RefName};
use libproto::message::parent::{OpenError, RepoInfo, RepoReport, RepoToParent, Serve};
use libproto::message::rules::PushRules;
use libproto::names::escape;
use libproto::refusal::{Refusal, Rule};
use libproto::self_service::Task;
use librepo::dir::{Dir, EntryType};
use librepo::fs_ops::Fs;
use librepo::object::Commit;
use librepo::reader::Reader;
use librepo::refs::{Head, Ref};
use librepo::repository::Repository;
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits};

use crate::os::error::SystemError;
use crate::repo::error::RepoError;
use crate::repo::find::FoundRepository;
use crate::repo::hidden::Hidden;
use crate::repo::opened::{self, Parent};
use crate::repo::own_rules;
use crate::repo::write::judge::{Change, rule};

/// At work.
pub const WORK: Promises = crate::repo::write::WORK.calls(Calls::RepoDescribe);

/// Telling about a repository.
pub const LOOK: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath]).calls(Calls::RepoInfo);
/// Largest description that is read, and how many bytes of it are told.
const DESCRIPTION_READ: u64 = 64 * 1024;
const DESCRIPTION_TOLD: usize = 500;
/// Branches whose commits are looked at for the last change, and files whose sizes are added up.
const MOST_BRANCHES: usize = 10_000;
const MOST_FILES: usize = 200_000;
/// Bytes of objects that are kept while commits are read.
const CACHE: usize = 4 << 20;

/// Does what the grant says, and reports.
pub fn run(
    parent: &Parent,
    serve: &Serve,
    found: &FoundRepository,
    enforcement: Enforcement,
) -> Result<(), RepoError> {
    let rules = serve.push_rules.as_ref().ok_or(RepoError::NoRules)?;
    opened::narrow(WORK, found, Access::READ_WRITE_CREATE, &[], ResourceLimits::UNCHANGED, enforcement)?;
    let repository = match opened::open_repository(found, Vec::new()) {
        Ok(repository) => repository,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    let own = match repository.safeguards().for_pushes() {
        Ok(own) => own,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    own_rules::send(parent, repository.dir(), own, serve.fetch, &serve.hidden);
    opened::announce(parent, found.directory.as_fd(), repository.hash())?;
    let hidden = own_rules::hidden(own.hidden_from_pushes(), &serve.hidden);
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("describe", WORK);
    let directory = found.directory.try_clone().map_err(SystemError::Plain)?;
    let fs = Fs::new(directory, repository.config().shared).within(found.look);
    let done = match &serve.task {
        Task::Git | Task::Info => Err(Refusal::Internal("nothing to do".into())),
        Task::Head(branch) => head(&fs, &repository, rules, Hidden(&hidden), branch),
        Task::Describe(text) => replace(&fs, "description", &format!("{text}\n")).map_err(damaged),
    };
    let report = RepoReport { refusal: done.err(), ..RepoReport::default() };
    opened::send(parent, &RepoToParent::Finished(report));
    Ok(())
}

/// Tells what there is to know, without writing anything.
pub fn send_info(
    parent: &Parent,
    serve: &Serve,
    found: &FoundRepository,
    enforcement: Enforcement,
) -> Result<(), RepoError> {
    opened::narrow(
        LOOK,
        found,
        Access::READ,
        &[],
        ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED },
        enforcement,
    )?;
    let repository = match opened::open_repository(found, Vec::new()) {
        Ok(repository) => repository,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    let own = match repository.safeguards().for_fetches() {
        Ok(own) => own,
        Err(e) => return opened::failed(parent, OpenError::Unusable(e.to_string())),
    };
    own_rules::send(parent, repository.dir(), own, serve.fetch, &serve.hidden);
    opened::announce(parent, found.directory.as_fd(), repository.hash())?;
    let refusal = match info(&repository, &own_rules::hidden(own.hidden_from_fetches(), &serve.hidden)) {
        Ok(info) => {
            opened::send(parent, &RepoToParent::Info(info));
            None
        }
        Err(e) => Some(Refusal::Damaged(e.to_string())),
    };
    opened::send(parent, &RepoToParent::Finished(RepoReport { refusal, ..RepoReport::default() }));
    Ok(())
}

fn info(repository: &Repository, hidden: &[Vec<u8>]) -> librepo::Result<RepoInfo> {
    let hidden = Hidden(hidden);
    let listing = repository.refs().listing::<&[u8]>(&[])?;
    let refs: librepo::Result<Vec<Ref>> = hidden
        .shown(&listing)
        .filter_map(|listed| listed.map(|listed| listed.to_ref(None)).transpose())
        .collect();
    let mut refs = refs?;
    refs.retain(|r| r.name.starts_with(b"refs/"));
    let below = |namespace: &[u8]| refs.iter().filter(|r| r.name.starts_with(namespace)).count() as u64;
    let (head, born) = match hidden.head(repository.refs())? {
        Head::Symbolic(name, value) => (name, value.is_some()),
        Head::Detached(id) => (id.to_string().into_bytes(), true),
        _ => (Vec::new(), false),
    };
    // The first DESCRIPTION_TOLD bytes are shown; a file above DESCRIPTION_READ is shown as empty.
    let description =
        repository.dir().read(b"description", DESCRIPTION_READ).ok().flatten().unwrap_or_default();
    let description = description.get(..DESCRIPTION_TOLD).unwrap_or(&description).to_vec();
    Ok(RepoInfo {
        head,
        born,
        references: refs.len() as u64,
        branches: below(b"refs/heads/"),
        tags: below(b"refs/tags/"),
        changed: changed(repository, &refs),
        // The size would tell of hidden references: their files grow, too.
        size: if hidden.is_empty() { size(repository.dir())? } else { None },
        description,
    })
}

/// When the newest of the commits that branches name was committed, by its own word. Of very many
/// branches the first count.
fn changed(repository: &Repository, refs: &[Ref]) -> Option<u64> {
    let mut reader = Reader::new(repository.store(), CACHE);
    let branches = refs.iter().filter(|r| r.name.starts_with(b"refs/heads/")).take(MOST_BRANCHES);
    branches
        .filter_map(|branch| {
            let object = reader.read(&branch.target).ok().flatten()?;
            let commit = Commit::parse(&object.data, repository.hash()).ok()?;
            (object.kind == ObjectKind::Commit).then(|| commit.committer_seconds())
        })
        .max()
}

/// Bytes of the files below `objects`, without those of alternates.
fn size(repository: &Dir) -> librepo::Result<Option<u64>> {
    let mut left = MOST_FILES;
    let mut waiting: Vec<Dir> = repository.open_dir(b"objects")?.into_iter().collect();
    let mut size = 0u64;
    while let Some(directory) = waiting.pop() {
        let entries = match directory.entries(left) {
            Ok(entries) => entries,
            Err(librepo::Error::Limit(_)) => return Ok(None),
            Err(e) => return Err(e),
        };
        left -= entries.len();
        for (name, kind) in entries {
            match kind {
                // A file that has gone in the meantime does not count.
                EntryType::Dir => waiting.extend(directory.open_dir(&name).ok().flatten()),
                EntryType::File => {
                    // The size of a file that cannot be looked at is not known, nor is the sum.
                    let Ok(looked) = directory.stat(&name) else { return Ok(None) };
                    let bytes = looked.and_then(|(_, stat)| u64::try_from(stat.st_size).ok());
                    size = size.saturating_add(bytes.unwrap_or(0));
                }
                _ => {}
            }
        }
    }
    Ok(Some(size))
}

/// Makes HEAD name a branch that is there.
fn head(
    fs: &Fs,
    repository: &Repository,
    rules: &PushRules,
    hidden: Hidden<'_>,
    branch: &RefName,
) -> Result<(), Refusal> {
    let name = branch.as_bytes();
    let shown = escape(name);
    if hidden.find(repository.refs(), name).map_err(damaged)?.is_none() {
        return Err(Refusal::NoBranch(shown));
    }
    // A user who may not rewrite the branch that clones begin with may not replace it by another
    // branch either.
    if let Head::Symbolic(now, Some(_)) = repository.refs().head().map_err(damaged)?
        && now != name
        && rule(rules, &now, Change::Update { fast_forward: false }, false).is_err()
    {
        // The error must not name a hidden branch.
        let shown = match hidden.covers(&now) {
            true => "HEAD".into(),
            false => format!("HEAD: {}", escape(&now)),
        };
        return Err(Refusal::Protected(Rule::Reference, shown));
    }
    replace(fs, "HEAD", &format!("ref: {}\n", String::from_utf8_lossy(name))).map_err(not_written)
}

fn not_written(e: librepo::Error) -> Refusal {
    Refusal::Internal(e.to_string())
}

fn damaged(e: librepo::Error) -> Refusal {
    Refusal::Damaged(e.to_string())
}

/// Puts a new file in the place of another: locked, on the disk, and then by one rename.
fn replace(fs: &Fs, name: &str, text: &str) -> librepo::Result<()> {
    let lock = format!("{name}.lock");
    let file = fs.create(lock.as_bytes(), 0o666)?;
    let done = fs
        .append(&file, lock.as_bytes(), text.as_bytes())
        .and_then(|()| fs.sync_file(&file, lock.as_bytes()))
        .and_then(|()| fs.rename(lock.as_bytes(), name.as_bytes()));
    if done.is_err() {
        let _ = fs.remove(lock.as_bytes());
    }
    done.and_then(|()| fs.sync_dir(b""))
}
