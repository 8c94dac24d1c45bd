//! `config`: reads the configuration, once at the start and once for each reload.
//!
//! Duty: parse gotd.conf and secrets, resolve names to ids, send the typed result. Waits on: the
//! parent's one word. Talks to: the parent alone. At the start of the daemon it still has the
//! privilege to read secrets; at a reload it has the daemon's user.
//!
//! **Invariant:** the only process that reads configuration text; it writes nothing and sees no
//! client.

use std::ffi::OsStr;
use std::fmt;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::channel::{Channel, Received};
use libproto::codec::CodecError;
use libproto::message::parent::{Build, ConfigToParent, ParentToConfig};
use libsandbox::{Access, Enforcement, Promise, Promises, ResourceLimits, Stage, Visible};

use crate::conf::files::{self, Most};
use crate::conf::items::{self, Audience};
use crate::os::error::{SystemError, carries_system_error};
use crate::os::system;
use crate::os::to_parent::send;

/// Reading files, and the system's users and groups.
pub const WORK: Promises = Promises::of(&[Promise::Stdio, Promise::Rpath, Promise::Getpw]);
/// Longest text that the parent is told, in bytes.
const TEXT_MAX: usize = 4000;

type Parent = Channel<ConfigToParent, ParentToConfig>;

/// Why it ends before it has told the configuration.
#[derive(Debug)]
pub enum ConfigFailure {
    /// A system call of it failed.
    System(SystemError),
    /// A block does not fit into a message.
    TooLarge(CodecError),
}

impl fmt::Display for ConfigFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigFailure::System(e) => e.fmt(f),
            ConfigFailure::TooLarge(e) => e.fmt(f),
        }
    }
}

carries_system_error!(ConfigFailure);

/// Runs the role. Only the configuration says whether the sandbox is required. This process reads
/// it, so it uses the sandbox as far as the system has it. That is enough, because no client can
/// have written these files.
pub fn run(parent: OwnedFd) -> Result<(), ConfigFailure> {
    // The first question may load a library of the name service, which the sandbox forbids.
    let _ = nix::unistd::User::from_name("root");
    let _ = nix::unistd::Group::from_name("root");
    // Name services may live anywhere, and files that gotd.conf names too: all stays visible for
    // reading.
    let visible = [Visible::named(Path::new("/"), Access::READ)];
    let limits = ResourceLimits { fsize: Some(0), ..ResourceLimits::UNCHANGED };
    let stage = Stage { promises: WORK, paths: Some(&visible), limits, enforcement: Enforcement::BestEffort };
    libsandbox::enter(&stage)?;
    let parent = Parent::from(parent);
    send(&parent, 0, &ConfigToParent::Hello(Build { id: crate::BUILD.into() }));
    let (load, check) = match parent.recv() {
        Ok(Received { message: ParentToConfig::Load(load), .. }) => (load, false),
        Ok(Received { message: ParentToConfig::Check(load), .. }) => (load, true),
        _ => system::exit_now(0),
    };
    let path = OsStr::from_bytes(&load.path);
    let secrets = (!load.secrets.is_empty()).then(|| OsStr::from_bytes(&load.secrets));
    let mut loaded = files::read(Path::new(path), secrets.map(Path::new));
    if check {
        files::resolve_places(&mut loaded);
        crate::admin::check::check(&mut loaded);
    }
    loaded.bound(if check { Most::OF_CHECK } else { Most::OF_START });
    for note in &loaded.notes {
        send(&parent, 0, &ConfigToParent::Note(bounded(note.as_note())));
    }
    for warning in &loaded.warnings {
        send(&parent, 0, &ConfigToParent::Warning(bounded(warning.as_warning())));
    }
    for error in &loaded.errors {
        send(&parent, 0, &ConfigToParent::Error(bounded(error.to_string())));
    }
    let good = loaded.errors.is_empty();
    if good {
        let mut sink = |batch| -> Result<(), CodecError> {
            send(&parent, 0, &ConfigToParent::Item(batch));
            Ok(())
        };
        items::send(&loaded.config, Audience::Parent, &mut sink).map_err(ConfigFailure::TooLarge)?;
    }
    send(&parent, 0, &ConfigToParent::End(good));
    Ok(())
}

/// A text as the parent is told it.
pub fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(TEXT_MAX));
    text
}
