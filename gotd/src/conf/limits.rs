//! The limits that a configuration sets. What there is to set is the table of [`libproto::limits`].

pub use libproto::limits::{Limit, Row, Scope, TABLE, Unit};

use super::position::Position;

/// All limits of a configuration and where they were set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredLimits {
    values: Vec<(u64, Option<Position>)>,
}

impl Default for ConfiguredLimits {
    fn default() -> ConfiguredLimits {
        ConfiguredLimits { values: TABLE.iter().map(|row| (row.default, None)).collect() }
    }
}

impl ConfiguredLimits {
    /// The value, in the limit's unit; 0 is "no limit" where the table says so.
    pub fn get(&self, limit: Limit) -> u64 {
        self.values[limit as usize].0
    }

    /// The same as a size in memory, at most `usize::MAX`.
    pub fn size(&self, limit: Limit) -> usize {
        usize::try_from(self.get(limit)).unwrap_or(usize::MAX)
    }

    /// Where it was set, if it was.
    pub fn set_at(&self, limit: Limit) -> Option<Position> {
        self.values[limit as usize].1
    }

    /// Sets it. Returns false and changes nothing if the value is out of range, or the limit is one
    /// of a user's own.
    pub fn set(&mut self, limit: Limit, value: u64, at: Position) -> bool {
        let row = limit.row();
        let allowed = row.allows(value) && row.scope != Scope::User;
        if allowed {
            self.values[limit as usize] = (value, Some(at));
        }
        allowed
    }

    /// The limits that were set, in the order of the table.
    pub fn changed(&self) -> impl Iterator<Item = (Limit, u64, Position)> + '_ {
        TABLE.iter().filter_map(|row| self.set_at(row.limit).map(|at| (row.limit, self.get(row.limit), at)))
    }
}
