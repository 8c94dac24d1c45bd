//! Where something stands in the files of a configuration.

use serde::{Deserialize, Serialize};

/// A place in the configuration: which of [`Config::files`](super::model::Config::files), and line
/// and column counted from 1. A line of 0 is no place (a default).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// Index into [`Config::files`](super::model::Config::files).
    pub file: u32,
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
}

impl Position {
    /// Moves behind a character.
    pub fn advance(&mut self, c: char) {
        if c == '\n' {
            self.line = self.line.saturating_add(1);
            self.column = 1;
        } else {
            self.column = self.column.saturating_add(1);
        }
    }
}
