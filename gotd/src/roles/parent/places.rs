//! What role `places` says of the places that a configuration names, at the start and at a reload.

use libproto::message::parent::{OwnDirectory, PlacesToParent, SettledPlace};

use super::error::ChildError;
use crate::conf::files::Most;
use crate::conf::model::Config;

/// What was said so far.
#[derive(Debug, Default)]
pub struct Said {
    /// Directories that are there.
    pub seen: Vec<OwnDirectory>,
    /// What an administrator may want to know.
    pub notes: Vec<String>,
    /// What may not be what was meant.
    pub warnings: Vec<String>,
    /// What keeps the configuration from being used.
    pub errors: Vec<String>,
}

impl Said {
    /// Takes a message, and puts into the configuration where its blocks lead. `Some`: that was
    /// all, and whether the configuration can be used.
    ///
    /// # Errors
    /// What `places` never says.
    pub fn take(&mut self, message: PlacesToParent, config: &mut Config) -> Result<Option<bool>, ChildError> {
        match message {
            PlacesToParent::Hello(build) if build.id == crate::BUILD => {}
            PlacesToParent::Hello(_) => return Err(ChildError::OtherBuild),
            PlacesToParent::Place(SettledPlace { block, place }) => {
                let own = usize::try_from(block).ok().and_then(|at| config.repositories.get_mut(at));
                own.ok_or(ChildError::NoBlock(block))?.place = place;
            }
            // Two at most for each block, and as many texts as `places` shows.
            PlacesToParent::OwnBlocks(blocks) => {
                let most = config.repositories.len().saturating_mul(2).saturating_sub(self.seen.len());
                self.seen.extend(blocks.into_iter().take(most));
            }
            PlacesToParent::Note(text) => note(&mut self.notes, text),
            PlacesToParent::Warning(text) => note(&mut self.warnings, text),
            PlacesToParent::Error(text) => note(&mut self.errors, text),
            PlacesToParent::End(good) => return Ok(Some(good && self.errors.is_empty())),
        }
        Ok(None)
    }
}

fn note(list: &mut Vec<String>, text: String) {
    if list.len() < Most::OF_START.lines() {
        list.push(text);
    }
}
