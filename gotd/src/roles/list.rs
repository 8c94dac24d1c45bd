//! `list`: finds the repositories below one `repositories` directory.
//!
//! Duty: sends the names of the repositories in a directory, in bounded batches. `auth` decides
//! which of them a user may see, and the parent writes the answer. Waits on: the parent, once.
//! Talks to: the parent alone.
//!
//! **Invariant:** sees that one directory, reads no file in it, and knows nothing of the client.

use std::os::fd::{AsFd, OwnedFd};

use libproto::channel::{Channel, Received};
use libproto::message::parent::{
    Build, DIRECTORY_BYTES, ListStart, ListToParent, ListedRepository, MOST_LISTED, ParentToList, SEEN_MAX,
};
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};

use crate::os::system;
use crate::os::to_parent::send;
use crate::repo::find;
use crate::repo::walk_repositories::{Below, each_repository};
use crate::roles::job_error::JobError;

/// From the first message on.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath]).calls(Calls::List);

/// Most bytes of one batch; a message has room for 16 kB. A repository takes more bytes the deeper
/// it lies.
const BATCH_BYTES: usize = 12_000;

type Parent = Channel<ListToParent, ParentToList>;

/// Runs the role.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), JobError> {
    let parent = Parent::from(parent);
    let start = match parent.recv() {
        Ok(Received { message: ParentToList::Start(start), .. }) => start,
        _ => system::exit_now(0),
    };
    list(&parent, &start, enforcement)
}

fn list(parent: &Parent, start: &ListStart, enforcement: Enforcement) -> Result<(), JobError> {
    let root = find::root(&start.path, &start.place).map_err(JobError::NoDirectory)?;
    let visible = [Visible::opened(root.directory.as_fd(), &root.path, Access::READ)];
    let limits = ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })?;
    #[cfg(feature = "escapes")]
    crate::escapes::attempt("list", WORK);
    send(parent, 0, &ListToParent::Hello(Build { id: crate::BUILD.into() }));
    let mut names = Names { parent, batch: Vec::new(), bytes: 0, left: MOST_LISTED };
    let whole = each_repository(&root, &mut |below| names.found(below));
    names.flush();
    send(parent, 0, &ListToParent::Done(whole));
    Ok(())
}

/// What is told.
struct Names<'p> {
    parent: &'p Parent,
    batch: Vec<ListedRepository>,
    /// About so many bytes.
    bytes: usize,
    /// How many may still be told.
    left: usize,
}

impl Names<'_> {
    fn flush(&mut self) {
        self.bytes = 0;
        if !self.batch.is_empty() {
            send(self.parent, 0, &ListToParent::Names(std::mem::take(&mut self.batch)));
        }
    }

    /// Takes one; `false`: there is room for no more.
    fn found(&mut self, Below { found, name, below }: Below) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        let listed = ListedRepository { name, below, directories: found.directories };
        if self.bytes + bytes(&listed) > BATCH_BYTES {
            self.flush();
        }
        self.bytes += bytes(&listed);
        self.batch.push(listed);
        if self.batch.len() >= SEEN_MAX {
            self.flush();
        }
        true
    }
}

fn bytes(listed: &ListedRepository) -> usize {
    listed.name.as_bytes().len() + listed.below.as_bytes().len() + DIRECTORY_BYTES * listed.directories.len()
}
