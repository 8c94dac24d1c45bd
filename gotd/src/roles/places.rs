//! `places`: walks to the places that the configuration names, as the user who will open them.
//!
//! Duty: where each block's path leads, the directories that are there, and what an administrator
//! should know of them. Waits on: the parent, for the configuration. Talks to: the parent alone.
//!
//! **Invariant:** opens directories and no file in them, and sees no client.

use std::os::fd::OwnedFd;
use std::path::Path;

use libproto::channel::{Channel, RecvError};
use libproto::message::parent::{Build, OWN_BLOCKS_MAX, ParentToPlaces, PlacesToParent, SettledPlace};
use libsandbox::{Access, Calls, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};

use crate::conf::files::{Loaded, Most, resolve_places};
use crate::conf::items::{Assembler, WireError};
use crate::os::error::{SystemError, carries_system_error};
use crate::os::system;
use crate::os::to_parent::send;
use crate::roles::config::bounded;

/// From the first message on.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath]).calls(Calls::Places);

/// Why it ends before it has told what it found.
#[derive(Debug)]
pub enum PlacesError {
    /// A system call of it failed.
    System(SystemError),
    /// What it is told is no configuration.
    Item(WireError),
}

impl std::fmt::Display for PlacesError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PlacesError::System(e) => e.fmt(f),
            PlacesError::Item(e) => write!(f, "configuration: {e}"),
        }
    }
}

carries_system_error!(PlacesError);

type Parent = Channel<PlacesToParent, ParentToPlaces>;

/// Runs the role.
pub fn run(parent: OwnedFd, enforcement: Enforcement) -> Result<(), PlacesError> {
    let parent = Parent::from(parent);
    // A place may be anywhere.
    let visible = [Visible::named(Path::new("/"), Access::READ)];
    let limits = ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED };
    libsandbox::enter(&Stage { promises: WORK, paths: Some(&visible), limits, enforcement })?;
    send(&parent, 0, &PlacesToParent::Hello(Build { id: crate::BUILD.into() }));
    let mut assembler = Assembler::default();
    let config = loop {
        let ParentToPlaces::Item(item) = match parent.recv() {
            Ok(received) => received.message,
            Err(e) if e.is_transient() => continue,
            Err(RecvError::Closed) => system::exit_now(0),
            Err(e) => return Err(SystemError::Received(e).into()),
        };
        if let Some(config) = assembler.item(&item).map_err(PlacesError::Item)? {
            break config;
        }
    };
    let mut loaded = Loaded::of(config);
    resolve_places(&mut loaded);
    loaded.bound(Most::OF_START);
    for (block, repository) in (0..).zip(&loaded.config.repositories) {
        let place = repository.place.clone();
        send(&parent, 0, &PlacesToParent::Place(SettledPlace { block, place }));
    }
    for blocks in loaded.directories.chunks(OWN_BLOCKS_MAX) {
        send(&parent, 0, &PlacesToParent::OwnBlocks(blocks.to_vec()));
    }
    for note in &loaded.notes {
        send(&parent, 0, &PlacesToParent::Note(bounded(note.as_note())));
    }
    for warning in &loaded.warnings {
        send(&parent, 0, &PlacesToParent::Warning(bounded(warning.as_warning())));
    }
    for error in &loaded.errors {
        send(&parent, 0, &PlacesToParent::Error(bounded(error.to_string())));
    }
    send(&parent, 0, &PlacesToParent::End(loaded.errors.is_empty()));
    Ok(())
}
