//! The one repository of this process: opened, told of to the parent, and all that is left to see.

use std::os::fd::{AsFd, BorrowedFd};

use libgit::HashKind;
use libproto::channel::{Channel, Received};
use libproto::message::parent::{Checks, OpenError, Opened, ParentToRepo, RepoToParent};
use librepo::alternates::Alternate;
use librepo::repository::{Options, Repository};
use libsandbox::{Enforcement, Promises, ResourceLimits, Stage, Visible};

use crate::os::error::SystemError;
use crate::os::{system, to_parent};
use crate::repo::error::RepoError;
use crate::repo::find::FoundRepository;

/// The link to the parent.
pub type Parent = Channel<RepoToParent, ParentToRepo>;

/// Opens a repository that was found.
pub fn open_repository(
    found: &FoundRepository,
    alternates: Vec<Alternate>,
) -> librepo::error::Result<Repository> {
    let directory = found.directory.try_clone().map_err(librepo::error::Error::Io)?;
    Repository::open(directory, Options { alternates, look: found.look, ..Options::default() })
}

/// Reports a repository that cannot be served, and ends.
pub fn failed(parent: &Parent, error: OpenError) -> Result<(), RepoError> {
    send(parent, &RepoToParent::OpenFailed(error));
    // The session ends when it has told its client; the parent then ends this process.
    let _ = parent.recv();
    Ok(())
}

/// A repository process without a parent has nothing left to do.
pub fn send(parent: &Parent, message: &RepoToParent) {
    to_parent::send(parent, 0, message);
}

/// Tells the parent what was found and waits for its word that this is the right one.
pub fn announce(parent: &Parent, found: BorrowedFd<'_>, hash: HashKind) -> Result<(), SystemError> {
    send_opened(parent, found, hash)?;
    await_go(parent);
    Ok(())
}

/// Tells the parent what was found.
pub(crate) fn send_opened(parent: &Parent, found: BorrowedFd<'_>, hash: HashKind) -> Result<(), SystemError> {
    let stat = libsandbox::fstat(found).map_err(|e| SystemError::Io("stat", e))?;
    let opened = Opened { device: stat.st_dev, inode: stat.st_ino, hash };
    send(parent, &RepoToParent::Opened(opened));
    Ok(())
}

/// Waits for the parent's word that this is the right one; before it, nothing the session says is
/// listened to. With it comes what others checked.
pub(crate) fn await_go(parent: &Parent) -> Checks {
    match parent.recv() {
        Ok(Received { message: ParentToRepo::Go(checked), .. }) => checked,
        _ => system::exit_now(0),
    }
}

/// The final stage of a repository process: its one repository (and allowed alternates), and its
/// own words.
pub fn narrow(
    promises: Promises,
    found: &FoundRepository,
    access: libsandbox::Access,
    alternates: &[Alternate],
    limits: ResourceLimits,
    enforcement: Enforcement,
) -> Result<(), SystemError> {
    let mut visible = vec![Visible::opened(found.directory.as_fd(), &found.path, access)];
    for alternate in alternates {
        visible.push(Visible::opened(alternate.dir.as_fd(), &alternate.path, libsandbox::Access::READ));
    }
    libsandbox::enter(&Stage { promises, paths: Some(&visible), limits, enforcement })?;
    Ok(())
}
