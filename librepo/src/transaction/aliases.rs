//! Changing a branch through a symbolic reference to it, as C git does: every name on the way is
//! locked, the last one gets the value, and all get a line in their logs. Deleting removes the
//! symbolic reference alone.
//!
//! **Invariant:** the names on the way are the caller's, who has judged them. If they are others by
//! now, nothing is changed.

use std::time::Instant;

use libgit::RefName;

use super::{Loose, RefError, RefResult, Update, Work};
use crate::in_order::InOrder;

impl Update {
    /// The reference whose value changes.
    pub(super) fn target(&self) -> &RefName {
        match self.is_deletion() {
            true => &self.name,
            false => self.alias_of.last().unwrap_or(&self.name),
        }
    }

    /// Whether it takes a symbolic reference away.
    pub(super) fn deletes_alias(&self) -> bool {
        self.is_deletion() && !self.alias_of.is_empty()
    }

    /// All references that are locked, and logged if they get a value. The last is the
    /// [`Update::target`].
    pub(super) fn names(&self) -> impl Iterator<Item = &RefName> + Clone {
        let on: &[RefName] = if self.is_deletion() { &[] } else { &self.alias_of };
        std::iter::once(&self.name).chain(on)
    }

    /// Those of them that lead to the target.
    pub(super) fn aliases(&self) -> impl Iterator<Item = &RefName> {
        self.names().take_while(|name| *name != self.target())
    }
}

impl Work<'_> {
    /// Locks the names that lead to an update's target, and waits for them.
    pub(super) fn lock_aliases(&mut self, update: &Update) -> RefResult {
        if update.aliases().next().is_none() {
            return Ok(());
        }
        let mut order = InOrder::new(self.fs)?;
        update.aliases().try_for_each(|name| self.lock_empty(&mut order, name.as_bytes()))
    }

    /// Locks one reference without a value, and waits for it.
    pub(super) fn lock_empty(&mut self, order: &mut InOrder<'_>, name: &[u8]) -> RefResult {
        loop {
            let began = Instant::now();
            match self.try_lock(order, name)? {
                true => {
                    self.for_refs.succeeded();
                    return Ok(());
                }
                false if self.for_refs.wait(began) => {}
                false => return Err(RefError::Locked),
            }
        }
    }

    /// Locks all that an update needs, or nothing if somebody else has locked this name.
    pub(super) fn try_lock_names<'u>(
        &mut self,
        order: &mut InOrder<'_>,
        update: &'u Update,
    ) -> Result<Option<&'u RefName>, RefError> {
        for (held, name) in update.names().enumerate() {
            let locked = self.try_lock(order, name.as_bytes());
            if !matches!(locked, Ok(true)) {
                update.names().take(held).for_each(|name| self.unlock(name.as_bytes()));
                return locked.map(|_| Some(name));
            }
        }
        Ok(None)
    }

    /// Follows the names behind a symbolic reference, and gives the last, and what its file holds.
    pub(super) fn follow<'u>(&self, update: &'u Update) -> Result<(&'u RefName, Loose), RefError> {
        let mut name = &update.name;
        for next in &update.alias_of {
            match self.loose(name.as_bytes())? {
                Loose::Link => return Err(RefError::Link),
                Loose::Symbolic(to) if to == next.as_bytes() => name = next,
                _ => return Err(RefError::Elsewhere),
            }
        }
        Ok((name, self.loose(name.as_bytes())?))
    }
}
