//! The state of a request of self-service.

use std::collections::VecDeque;

use libproto::message::parent::{GitAsk, MOST_LISTED, Permit, SeenRoot, ShellAsk};
use libproto::self_service::ShellCommand;

use super::super::outbox::Outbox;
use super::grant::Grant;

/// A request of self-service under way.
#[derive(Debug)]
pub struct Shell {
    /// What was asked.
    pub ask: ShellAsk,
    /// How far it is.
    pub work: ShellWork,
}

/// How far a request of self-service is.
#[derive(Debug)]
pub enum ShellWork {
    /// `auth` was not asked.
    New,
    /// Which repositories there are.
    Overview(Box<Overview>),
    /// About one repository: `auth` decides.
    Asked(GitAsk),
    /// The repository process does it.
    Granted {
        /// What was granted.
        grant: Box<Grant>,
        /// What the repository process told.
        info: Vec<String>,
    },
}

/// The repositories that there are for a user, as far as they are known.
#[derive(Debug, Default)]
pub struct Overview {
    /// The identity for limits and logs, and the configured repositories, once `auth` has answered.
    pub identity: Option<String>,
    seen: Vec<(String, bool)>,
    /// Directories that are still to be listed.
    pub roots: VecDeque<SeenRoot>,
    /// The directory that is being listed, or was last.
    pub current: Option<SeenRoot>,
    /// Batches that `auth` has not answered.
    pub pending: usize,
    /// Something was left out.
    pub incomplete: bool,
    /// The answer, as far as the session has not taken it.
    pub out: Outbox,
}

impl Shell {
    /// A request that `auth` was not asked about yet.
    pub fn new(ask: ShellAsk) -> Shell {
        Shell { ask, work: ShellWork::New }
    }

    /// The list of repositories that was asked for.
    pub fn overview(&self) -> Option<&Overview> {
        match &self.work {
            ShellWork::Overview(overview) => Some(overview),
            _ => None,
        }
    }

    /// The same overview, to change it.
    pub fn overview_mut(&mut self) -> Option<&mut Overview> {
        match &mut self.work {
            ShellWork::Overview(overview) => Some(overview),
            _ => None,
        }
    }

    /// Notes what was granted; `false`: there was nothing to grant, or it has been.
    pub fn grant(&mut self, permit: Permit) -> bool {
        let ShellWork::Asked(ask) = &self.work else { return false };
        let grant = Box::new(Grant::new(ask.clone(), permit));
        self.work = ShellWork::Granted { grant, info: Vec::new() };
        true
    }
}

impl Overview {
    /// Notes a repository that the user may see, and whether they may write there.
    pub fn see(&mut self, name: String, write: bool) {
        if self.seen.len() < MOST_LISTED {
            self.seen.push((name, write));
        } else {
            self.incomplete = true;
        }
    }

    /// The lines of the answer.
    pub fn lines(&mut self, command: &ShellCommand) -> Vec<String> {
        self.seen.sort();
        self.seen.dedup();
        let mut lines = Vec::new();
        if *command == ShellCommand::Greet {
            lines.push(format!("hello {}, this is gotd", self.identity.as_deref().unwrap_or_default()));
            lines.push(match self.seen.len() {
                0 => "there is no repository for you".to_owned(),
                1 => "there is one repository for you:".to_owned(),
                n => format!("there are {n} repositories for you:"),
            });
        }
        let words = |write: &bool| if *write { "rw" } else { "ro" };
        lines.extend(self.seen.iter().map(|(name, write)| format!("{}\t{name}", words(write))));
        if self.incomplete {
            lines.push("and more, which are not listed".to_owned());
        }
        lines
    }
}
