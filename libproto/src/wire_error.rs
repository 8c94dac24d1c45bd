//! Errors in bytes of Git's wire protocol. The text of a [`WireError`] goes to the client as it is
//! (`ERR` packet, side band 3 or gotsh's stderr), so several of them are C gotd's words, which
//! sites know.

use std::fmt;

use libgit::{ObjectId, RefName};

use crate::limits::Counted;
use crate::names::{NameError, escape};

/// A violation of Git's protocol, or of one of our limits on it, by a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WireError {
    /// A packet length that is not four hexadecimal digits.
    LengthFormat,
    /// A packet length of 2 or 3, or an empty packet where a line must be.
    TooShort,
    /// A packet length above 65,520.
    TooLong,
    /// The connection ended inside a packet or inside a request.
    UnexpectedEof,
    /// A flush packet where none belongs.
    UnexpectedFlush,
    /// A delimiter packet where none belongs.
    UnexpectedDelim,
    /// A response-end packet where none belongs.
    UnexpectedResponseEnd,
    /// A want line that names capabilities, none of which we know.
    WantLine,
    /// A line that is no line of this state of the conversation; holds its beginning, escaped.
    UnexpectedLine(String),
    /// A value that its line must not have: the line's word, and the value's beginning, escaped.
    BadValue(&'static str, String),
    /// A capability, command or service nobody advertised: what it is, and its beginning, escaped.
    Unknown(&'static str, String),
    /// Something that may be said once only.
    Duplicate(&'static str),
    /// Two things that exclude each other.
    Conflict(&'static str),
    /// Something that must be there and is not.
    Missing(&'static str),
    /// More of something than the configuration allows: what, and how many.
    Limit(Counted, u64),
    /// An object format other than the repository's: ours, and the client's.
    ObjectFormat(&'static str, String),
    /// A wanted object that is not there, or that the client may not have.
    NotFound(ObjectId),
    /// A reference that a push must not name.
    RefName(String),
    /// A request to exclude the history of a reference that does not exist.
    NoSuchRef(RefName),
    /// A name that is none.
    Name(NameError),
}

/// Most bytes of a client's own text that an error repeats.
const QUOTE_MAX: usize = 60;

/// The beginning of a client's text, safe to repeat.
pub(crate) fn quote(text: &[u8]) -> String {
    escape(&text[..text.len().min(QUOTE_MAX)])
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::LengthFormat => f.write_str("packet length has invalid format"),
            WireError::TooShort => f.write_str("packet too short"),
            WireError::TooLong => f.write_str("packet too long"),
            WireError::UnexpectedEof => f.write_str("unexpected end of file"),
            WireError::UnexpectedFlush => f.write_str("unexpected flush packet received"),
            WireError::UnexpectedDelim => f.write_str("unexpected delimiter packet received"),
            WireError::UnexpectedResponseEnd => f.write_str("unexpected response-end packet received"),
            WireError::WantLine => f.write_str("unexpected want-line received"),
            WireError::UnexpectedLine(line) => write!(f, "unexpected line: '{line}'"),
            WireError::BadValue(what, value) => write!(f, "invalid {what}: '{value}'"),
            WireError::Unknown(what, name) => write!(f, "unknown {what} '{name}'"),
            WireError::Duplicate(what) => write!(f, "{what}: given more than once"),
            WireError::Conflict(what) => write!(f, "{what} cannot be used together"),
            WireError::Missing(what) => write!(f, "no {what}"),
            WireError::Limit(what, limit) => write!(f, "too many {what}: at most {limit}"),
            WireError::ObjectFormat(ours, theirs) => {
                write!(f, "mismatched object format: server {ours}; client {theirs}")
            }
            WireError::NotFound(id) => write!(f, "object {id} not found"),
            WireError::RefName(name) => write!(f, "{name}: invalid reference name"),
            WireError::NoSuchRef(name) => write!(f, "deepen-not is not a ref: {name}"),
            WireError::Name(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for WireError {}

impl From<NameError> for WireError {
    fn from(error: NameError) -> WireError {
        WireError::Name(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_that_sites_know() {
        let id = ObjectId::from_hex(&[b'a'; 40]).unwrap();
        assert_eq!(WireError::NotFound(id).to_string(), format!("object {id} not found"));
        assert_eq!(WireError::UnexpectedFlush.to_string(), "unexpected flush packet received");
        assert_eq!(WireError::TooShort.to_string(), "packet too short");
        assert_eq!(WireError::UnexpectedEof.to_string(), "unexpected end of file");
        assert_eq!(WireError::WantLine.to_string(), "unexpected want-line received");
    }

    #[test]
    fn a_quoted_text_is_short_and_harmless() {
        assert_eq!(quote(b"\x1b[31m"), "\\x1b[31m");
        assert!(quote(&[0x1b; 100_000]).len() <= 4 * QUOTE_MAX);
    }
}
