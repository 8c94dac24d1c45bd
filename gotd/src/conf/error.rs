//! An error in a configuration, with its place.

use std::fmt;

/// Most characters of a message that are shown.
const SHOWN_MAX: usize = 600;

/// One error or warning about a configuration file. Displays as `file:line:column: message`, where
/// a line and column of 0 mean the file as a whole and are left out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigError {
    /// The file as it was named; empty when the error belongs to none.
    pub file: String,
    /// Line, counted from 1; 0 for the file as a whole.
    pub line: u32,
    /// Column in characters, counted from 1; 0 for the file as a whole.
    pub column: u32,
    /// What was expected or what is wrong, lower case, without a full stop.
    pub message: String,
}

impl ConfigError {
    /// An error about a file as a whole.
    pub fn whole(file: &str, message: impl Into<String>) -> ConfigError {
        ConfigError { file: file.to_owned(), line: 0, column: 0, message: message.into() }
    }

    /// Formats it as a warning, which is no reason to refuse the file: `file:line:column: warning:
    /// message`.
    pub fn as_warning(&self) -> String {
        ConfigError { message: format!("warning: {}", self.message), ..self.clone() }.to_string()
    }

    /// The text of something that is as it should be, and may be worth knowing.
    pub fn as_note(&self) -> String {
        ConfigError { message: format!("note: {}", self.message), ..self.clone() }.to_string()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&libproto::names::escape(self.file.as_bytes()))?;
            f.write_str(":")?;
            if self.line > 0 {
                write!(f, "{}:{}:", self.line, self.column)?;
            }
            f.write_str(" ")?;
        }
        // What was found may be a word of many thousand bytes, and a message between processes is
        // bounded.
        match self.message.char_indices().nth(SHOWN_MAX) {
            None => f.write_str(&self.message),
            Some((cut, _)) => write!(f, "{}…", &self.message[..cut]),
        }
    }
}

impl std::error::Error for ConfigError {}
