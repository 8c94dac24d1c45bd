//! The branches that somebody works on: those that are checked out in the repository's own worktree
//! or in a linked one (`git-worktree`), or that a rebase or a bisection under way there will come
//! back to. C git refuses a push to these, because it would change history under somebody's hands.

use std::collections::BTreeSet;

use libgit::ObjectId;

use crate::dir::{Dir, EntryType};
use crate::error::{Error, Result};
use crate::refs::{Head, head_of};
use crate::repository::Repository;

/// The most linked worktrees that are looked at.
const MAX_WORKTREES: usize = 10_000;
/// The largest file that holds the name of a branch, in bytes.
const MAX_NAME: u64 = 8192;

/// The branches that somebody works on. `own`: the repository has a worktree of its own; it is not
/// bare.
///
/// # Errors
/// A directory or file that would say so cannot be read.
pub fn worked_on(repository: &Repository, own: bool) -> Result<BTreeSet<Vec<u8>>> {
    let mut found = BTreeSet::new();
    if own {
        look(repository, repository.dir(), &mut found)?;
    }
    let Some(linked) = repository.dir().open_dir(b"worktrees")? else { return Ok(found) };
    for (name, kind) in linked.entries(MAX_WORKTREES)? {
        if kind == EntryType::Dir
            && let Some(dir) = linked.open_dir(&name)?
            // Without it, git knows of no worktree.
            && dir.stat(b"gitdir")?.is_some_and(|(_, stat)| stat.st_size > 0)
        {
            look(repository, &dir, &mut found)?;
        }
    }
    Ok(found)
}

/// Adds the branches of one worktree, whose own files are in `dir`.
fn look(repository: &Repository, dir: &Dir, found: &mut BTreeSet<Vec<u8>>) -> Result<()> {
    match head_of(dir, repository.refs())? {
        Head::Symbolic(branch, _) => {
            found.insert(branch);
        }
        Head::Detached(_) | Head::Broken => {
            found.extend(rebased(dir)?);
            found.extend(bisected(dir)?);
        }
    }
    Ok(())
}

/// The branch that a rebase under way will change.
fn rebased(dir: &Dir) -> Result<Option<Vec<u8>>> {
    if dir.stat(b"rebase-apply")?.is_some() {
        // A series of mails that is being applied has no branch of its own.
        return match dir.stat(b"rebase-apply/applying")? {
            Some(_) => Ok(None),
            None => branch(dir, b"rebase-apply/head-name"),
        };
    }
    branch(dir, b"rebase-merge/head-name")
}

/// The branch that a bisection under way began at.
fn bisected(dir: &Dir) -> Result<Option<Vec<u8>>> {
    match dir.stat(b"BISECT_LOG")? {
        Some(_) => branch(dir, b"BISECT_START"),
        None => Ok(None),
    }
}

/// The branch that a file names, in full or without `refs/heads/`.
fn branch(dir: &Dir, file: &[u8]) -> Result<Option<Vec<u8>>> {
    let text = match dir.read(file, MAX_NAME) {
        Ok(text) => text.unwrap_or_default(),
        Err(Error::FileTooLarge(..)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let name = text.trim_ascii();
    if name.is_empty() || name == b"detached HEAD" || ObjectId::from_hex(name).is_some() {
        return Ok(None);
    }
    let short = name.strip_prefix(b"refs/heads/").unwrap_or(name);
    Ok(Some([b"refs/heads/", short].concat()))
}
