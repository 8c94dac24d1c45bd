//! `list`: finds the repositories below one `repositories` directory.
//!
//! Duty: the names of what is there, in bounded batches; who may see which of them is `auth`'s to say, and what is told
//! the parent's. Waits on: the parent, once. Talks to: the parent alone.
//!
//! **Invariant:** sees that one directory, reads no file in it, and knows nothing of the client.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::channel::{Channel, Received};
use libproto::message::parent::{
    Build, ListStart, ListToParent, ListedRepository, MOST_LISTED, ParentToList, SEEN_MAX,
};
use libproto::names::RepoName;
use libsandbox::{Access, Enforcement, Limits, Promise, Promises, Stage, Visible};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::below::each_repository;
use crate::system;

/// From the first message on.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath]);
const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

type Parent = Channel<ListToParent, ParentToList>;

/// Runs the role.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), String> {
    let parent = Parent::from(parent);
    let start = match parent.recv() {
        Ok(Received { message: ParentToList::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    list(&parent, &start, enforcement)
}

fn list(parent: &Parent, start: &ListStart, enforcement: Enforcement) -> Result<(), String> {
    let path = Path::new(OsStr::from_bytes(&start.path));
    // A configured path may lead through symbolic links, which are the admin's.
    let root = open(path, DIRECTORY, Mode::empty()).map_err(|e| format!("{}: {e}", path.display()))?;
    let visible = [Visible::opened(root.as_fd(), path, Access::READ)];
    let limits = Limits { fsize: Some(0), ..Limits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })
        .map_err(|e| e.to_string())?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("list", WORK);
    say(parent, &ListToParent::Hello(Build { id: crate::BUILD.into() }));
    let mut names = Names { parent, batch: Vec::new(), left: MOST_LISTED };
    let whole = each_repository(root, &mut |directory, name| names.found(directory, name));
    names.flush();
    say(parent, &ListToParent::Done(whole));
    Ok(())
}

fn say(parent: &Parent, message: &ListToParent) {
    if parent.send(0, 0, message).is_err() {
        system::exit_now(1);
    }
}

/// What is told.
struct Names<'p> {
    parent: &'p Parent,
    batch: Vec<ListedRepository>,
    /// How many may still be told.
    left: usize,
}

impl Names<'_> {
    fn flush(&mut self) {
        if !self.batch.is_empty() {
            say(self.parent, &ListToParent::Names(std::mem::take(&mut self.batch)));
        }
    }

    /// Takes one; `false`: there is room for no more.
    fn found(&mut self, directory: &OwnedFd, name: RepoName) -> bool {
        let Ok(stat) = libsandbox::fstat(directory.as_fd()) else { return true };
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        self.batch.push(ListedRepository { name, device: stat.st_dev, inode: stat.st_ino });
        if self.batch.len() >= SEEN_MAX {
            self.flush();
        }
        true
    }
}
