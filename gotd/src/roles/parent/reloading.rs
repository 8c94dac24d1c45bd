//! A reload under way, as far as it is.

use std::time::{Duration, Instant};

use libproto::message::parent::{ConfigToParent, LoadConfig, OwnDirectory, ParentToConfig};

use super::listeners::Change;
use super::settings::Settings;
use crate::conf::files::Most;
use crate::conf::items::Assembler;
use crate::conf::model::Config;
use crate::os::spawn::Child;

/// Longest that reading a configuration may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Most lines about errors and warnings that `config` sends, and that gotctl prints.
const LINES: usize = Most::OF_START.lines();

/// A reload under way.
pub struct Reload {
    /// The process that reads.
    pub child: Child<ParentToConfig, ConfigToParent>,
    /// What it has sent.
    pub assembler: Assembler,
    /// The configuration, once it is whole.
    pub config: Option<Config>,
    /// Directories with a block of their own.
    pub seen: Vec<OwnDirectory>,
    /// For the log, when all is well.
    pub notes: Vec<String>,
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
            child,
            assembler: Assembler::default(),
            config: None,
            seen: Vec::new(),
            notes: Vec::new(),
            lines: Vec::new(),
            errors: false,
            asked_by,
            files,
            until: Instant::now() + PATIENCE,
            settings: None,
        }
    }

    /// The process that reads, as long as it is of interest.
    pub fn config(&self) -> Option<&Child<ParentToConfig, ConfigToParent>> {
        self.settings.is_none().then_some(&self.child)
    }

    /// Notes a warning or an error.
    pub fn note(&mut self, text: String) {
        if self.lines.len() < LINES {
            self.lines.push(text);
        }
    }
}
