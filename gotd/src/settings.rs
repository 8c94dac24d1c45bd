//! What a user with the right to write may change of a repository without a push: the branch that HEAD names, and the
//! description.
//!
//! Runs in the repository process in place of `repo_write`, with its rights. Each change is a new file beside the old
//! one, on the disk before it takes its name; for HEAD that is git's own lock.
//!
//! **Invariant:** writes these two files and no other. Nothing is read from the session: what to do came in the grant.

use std::os::fd::AsFd;

use libproto::message::parent::{OpenError, RepoReport, RepoToParent, Serve, Task};
use libproto::names::{RefName, escape};
use librepo::fs_ops::Fs;
use librepo::refs::Head;
use librepo::repository::Repository;
use libsandbox::{Access, Enforcement, Limits, Promise, Promises};

use crate::conf::push::{Change, PushRules};
use crate::repository::{self, Found, Parent};

/// At work.
pub const WORK: Promises = crate::repo_write::WORK.without(Promise::Sendfd);

/// Does what the grant says, and reports.
pub fn run(parent: &Parent, serve: &Serve, found: &Found, enforcement: Enforcement) -> Result<(), String> {
    let rules = PushRules::decode(&serve.push_rules).map_err(|e| format!("rules: {e}"))?;
    repository::narrow(WORK, found, Access::READ_WRITE_CREATE, &[], Limits::UNCHANGED, enforcement)?;
    let repository = match repository::open_repository(found, Vec::new()) {
        Ok(repository) => repository,
        Err(e) => return repository::failed(parent, OpenError::Unusable(e.to_string())),
    };
    repository::announce(parent, found.directory.as_fd(), crate::ids::hash_to_wire(repository.hash()))?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("settings", WORK);
    let directory = found.directory.try_clone().map_err(|e| e.to_string())?;
    let fs = Fs::new(directory, repository.config().shared);
    let done = match &serve.task {
        Task::Git => Err("nothing to do".to_owned()),
        Task::Head(branch) => head(&fs, &repository, &rules, branch),
        Task::Describe(text) => replace(&fs, "description", &format!("{text}\n")),
    };
    let report = RepoReport { text: done.err().unwrap_or_default(), ..RepoReport::default() };
    repository::send(parent, &RepoToParent::Finished(report));
    Ok(())
}

/// Makes HEAD name a branch that is there.
fn head(fs: &Fs, repository: &Repository, rules: &PushRules, branch: &RefName) -> Result<(), String> {
    let text = |e: librepo::Error| e.to_string();
    let name = branch.as_bytes();
    let shown = escape(name);
    let there = !rules.hides(name) && repository.refs().find(name).map_err(text)?.is_some();
    if !there {
        return Err(format!("{shown}: no such branch"));
    }
    // Whoever may not rewrite the branch that clones begin with may not put another in its place either.
    if let Head::Symbolic(now, Some(_)) = repository.refs().head().map_err(text)?
        && now != name
        && rules.refusal(&now, Change::Update { fast_forward: false }, false).is_some()
    {
        return Err(format!("HEAD: {}: reference is protected", escape(&now)));
    }
    replace(fs, "HEAD", &format!("ref: {}\n", String::from_utf8_lossy(name)))
}

/// Puts a new file in the place of another: locked, on the disk, and then by one rename.
fn replace(fs: &Fs, name: &str, text: &str) -> Result<(), String> {
    let lock = format!("{name}.lock");
    let file = fs.create(lock.as_bytes(), 0o666).map_err(|e| e.to_string())?;
    let done = fs
        .append(&file, lock.as_bytes(), text.as_bytes())
        .and_then(|()| fs.sync_file(&file, lock.as_bytes()))
        .and_then(|()| fs.rename(lock.as_bytes(), name.as_bytes()));
    if done.is_err() {
        let _ = fs.remove(lock.as_bytes());
    }
    done.and_then(|()| fs.sync_dir(b"")).map_err(|e| e.to_string())
}
