//! What role `places` says of the places that a configuration names, at the start and at a reload.

use libproto::message::parent::{OwnDirectory, PlacesToParent, SettledPlace};

use super::error::ChildError;
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
    /// Takes a message, and puts into the configuration where its blocks lead. `Some`: that was all,
    /// and whether the configuration can be used.
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
            PlacesToParent::OwnBlocks(blocks) => self.seen.extend(blocks),
            PlacesToParent::Note(text) => self.notes.push(text),
            PlacesToParent::Warning(text) => self.warnings.push(text),
            PlacesToParent::Error(text) => self.errors.push(text),
            PlacesToParent::End(good) => return Ok(Some(good && self.errors.is_empty())),
        }
        Ok(None)
    }
}
