//! The state of a reload under way.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use libproto::message::parent::{ConfigToParent, LoadConfig, ParentToConfig, ParentToPlaces, PlacesToParent};
use libproto::states::Role;
use nix::poll::PollFlags;

use super::listeners::Change;
use super::outbox::Outbox;
use super::places::Said;
use super::settings::Settings;
use super::spawners::Child;
use crate::conf::files::Most;
use crate::conf::items::Assembler;
use crate::conf::model::Config;

/// Longest that reading a configuration may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most lines about errors and warnings that `config` sends, and that gotctl prints.
const LINES: usize = Most::OF_START.lines();

/// The process that is at work for a reload: one after the other.
pub enum Reader {
    /// Reads the files.
    Config(Child<ParentToConfig, ConfigToParent>),
    /// Walks to the places, once it has been told all of the configuration.
    Places(Child<ParentToPlaces, PlacesToParent>, Outbox),
}

impl Reader {
    /// Its role.
    pub fn role(&self) -> Role {
        match self {
            Reader::Config(_) => Role::Config,
            Reader::Places(..) => Role::Places,
        }
    }

    /// Ends it.
    pub fn end(&self) {
        match self {
            Reader::Config(child) => child.end(),
            Reader::Places(child, _) => child.end(),
        }
    }
}

/// A reload under way.
pub struct Reload {
    /// The process that is at work.
    pub reader: Reader,
    /// What it has sent.
    pub assembler: Assembler,
    /// The configuration, once it is whole.
    pub config: Option<Config>,
    /// What is known of its places.
    pub places: Said,
    /// Warnings and errors, for whoever asked.
    pub lines: Vec<String>,
    /// Whether there were errors.
    pub errors: bool,
    /// The session of gotctl, if it was not a signal.
    pub asked_by: Option<u64>,
    /// The files that are read.
    pub files: LoadConfig,
    /// When it has to be over.
    pub until: Instant,
    /// What comes into force when `auth` has taken the configuration.
    pub settings: Option<Box<(Settings, Change)>>,
}

impl Reload {
    /// One that has just begun.
    pub fn new(
        child: Child<ParentToConfig, ConfigToParent>,
        asked_by: Option<u64>,
        files: LoadConfig,
    ) -> Reload {
        Reload {
            reader: Reader::Config(child),
            assembler: Assembler::default(),
            config: None,
            places: Said::default(),
            lines: Vec::new(),
            errors: false,
            asked_by,
            files,
            until: Instant::now() + PATIENCE,
            settings: None,
        }
    }

    /// The link to the process that is at work, as long as it is of interest, and what to poll it
    /// for.
    pub fn link(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match &self.reader {
            _ if self.settings.is_some() => None,
            Reader::Config(child) => Some((child.channel.as_fd(), PollFlags::POLLIN)),
            Reader::Places(child, out) if out.is_empty() => Some((child.channel.as_fd(), PollFlags::POLLIN)),
            Reader::Places(child, _) => Some((child.channel.as_fd(), PollFlags::POLLIN | PollFlags::POLLOUT)),
        }
    }

    /// Notes a warning or an error.
    pub fn note(&mut self, text: String) {
        if self.lines.len() < LINES {
            self.lines.push(text);
        }
    }
}
