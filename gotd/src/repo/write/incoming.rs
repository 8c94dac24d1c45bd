//! The place that a push comes into: its quarantine with the empty files of a pack, the directories
//! that it may change, and the right to change these alone. All of it is made before the session is
//! heard.
//!
//! **Invariant:** what cannot be made is no error until a push needs it: a client that only lists
//! the references of a repository that cannot be written gets the list.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use libproto::refusal::Refusal;
use librepo::config::Shared;
use librepo::fs_ops::Fs;
use librepo::receive::quarantine::{self, Quarantine};
use libsandbox::{Access, Visible};
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use super::internal;
use crate::os::error::SystemError;
use crate::repo::find::FoundRepository;

/// Changes files, but makes no directories.
pub(crate) const FILES: Access = Access::READ.and(Access::WRITE).and(Access::FILES);
/// In the directory of objects: an empty quarantine can be removed.
pub(crate) const OBJECTS: Access = Access::READ.and(Access::REMOVE_DIRECTORY);
/// The directories that a push may change, beside the quarantine.
const PLACES: [(&str, Access); 4] = [
    ("objects", OBJECTS),
    ("objects/pack", FILES),
    ("refs", Access::READ_WRITE_CREATE),
    // `logs/HEAD` is no part of it.
    ("logs/refs", Access::READ_WRITE_CREATE),
];

/// What was made for a push.
pub(super) struct Incoming {
    pub(super) fs: Fs,
    quarantine: Result<Quarantine, Refusal>,
    /// Why no pack can come in.
    no_pack: Option<Refusal>,
    /// For the log, if a push begins.
    pub(super) warnings: Vec<String>,
}

impl Incoming {
    /// Removes what crashes left, and makes all that a push needs. Also gives the descriptors of
    /// the pack's two files, for `verify`.
    pub(super) fn prepare(
        found: &FoundRepository,
        shared: Shared,
        reflog: bool,
    ) -> Result<(Incoming, Option<(File, File)>), SystemError> {
        let directory = found.directory.try_clone().map_err(SystemError::Plain)?;
        let fs = Fs::new(directory, shared).within(found.look);
        let mut warnings = Vec::new();
        // A living process holds a lock on its quarantine. A lock file of packed-refs may be among
        // the leftovers.
        if let Err(e) = quarantine::sweep(&fs) {
            warnings.push(format!("quarantine: {e}"));
        }
        if reflog && let Err(e) = fs.make_dir(b"logs").and_then(|_| fs.make_dir(b"logs/refs")) {
            warnings.push(format!("reflog: {e}"));
        }
        let mut quarantine = Quarantine::create(&fs).map_err(internal);
        let files = match &mut quarantine {
            Ok(quarantine) => {
                make_pack_directory(&fs).and_then(|()| quarantine.create_files(&fs)).map_err(internal)
            }
            Err(refusal) => Err(refusal.clone()),
        };
        let (files, no_pack) = match files {
            Ok(files) => (Some(files), None),
            Err(refusal) => (None, Some(refusal)),
        };
        Ok((Incoming { fs, quarantine, no_pack, warnings }, files))
    }

    /// Notes why no pack can come in; the first reason stays.
    pub(super) fn without_pack(&mut self, refusal: Refusal) {
        self.no_pack.get_or_insert(refusal);
    }

    /// Whether a pack can come in.
    pub(super) fn takes_pack(&self) -> Result<(), Refusal> {
        self.no_pack.clone().map_or(Ok(()), Err)
    }

    /// The quarantine. After [`Incoming::discard`] there is none.
    pub(super) fn quarantine(&mut self) -> Result<(&Fs, &mut Quarantine), Refusal> {
        match &mut self.quarantine {
            Ok(quarantine) => Ok((&self.fs, quarantine)),
            Err(refusal) => Err(refusal.clone()),
        }
    }

    /// Takes the quarantine away with all that is left in it.
    pub(super) fn discard(&mut self) -> Result<(), librepo::Error> {
        let gone = Err(Refusal::Internal("quarantine: gone".into()));
        match std::mem::replace(&mut self.quarantine, gone) {
            Ok(quarantine) => quarantine.remove(&self.fs),
            Err(_) => Ok(()),
        }
    }

    /// The directories that this push may change.
    pub(super) fn places(&self, found: &FoundRepository) -> Vec<Place> {
        let own = self.quarantine.as_ref().ok().map(Quarantine::path);
        let own = own.and_then(|path| std::str::from_utf8(path).ok()).map(|path| (path, FILES));
        places(found, PLACES.into_iter().chain(own))
    }
}

/// A directory of a repository, its path, and what may be changed there.
pub(crate) type Place = (OwnedFd, PathBuf, Access);

/// The directories of these names, as far as they exist.
pub(crate) fn places<'n>(
    found: &FoundRepository,
    names: impl Iterator<Item = (&'n str, Access)>,
) -> Vec<Place> {
    names.filter_map(|(name, access)| Some((open(found, name)?, found.path.join(name), access))).collect()
}

/// What is visible of a repository: all of it, and these places to be changed.
pub(crate) fn visible<'a>(found: &'a FoundRepository, top: Access, places: &'a [Place]) -> Vec<Visible<'a>> {
    let top = Visible::opened(found.directory.as_fd(), &found.path, top);
    let places = places.iter().map(|(fd, path, access)| Visible::opened(fd.as_fd(), path, *access));
    std::iter::once(top).chain(places).collect()
}

/// A repository of C git's has none before its first pack.
fn make_pack_directory(fs: &Fs) -> Result<(), librepo::Error> {
    if fs.make_dir(b"objects/pack")? {
        fs.sync_dir(b"objects")?;
    }
    Ok(())
}

/// Opens a directory of the repository by its path, component by component.
fn open(found: &FoundRepository, path: &str) -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut at: Option<OwnedFd> = None;
    for name in path.split('/') {
        let above = at.as_ref().unwrap_or(&found.directory).as_fd();
        at = Some(found.look.open(above, name.as_bytes(), flags, Mode::empty()).ok()?);
    }
    at
}
