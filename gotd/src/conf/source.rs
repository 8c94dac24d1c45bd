//! Where the text of the configuration comes from.

use std::collections::BTreeMap;
use std::fmt;
use std::io;

/// Largest size of one configuration file, in bytes.
pub const FILE_MAX: usize = 16 << 20;
/// Largest size of all configuration files together, in bytes.
pub const TOTAL_MAX: usize = 64 << 20;
/// Most files that one configuration may consist of.
pub const FILES_MAX: usize = 20_000;

/// Gives the parser the text of files. Role `config` implements it on the file system, with checks
/// of owner and mode; [`Texts`] implements it for tests and for files that arrive as open
/// descriptors.
pub trait Loader {
    /// The content of the file with this path, at most [`FILE_MAX`] bytes of it; or why it cannot
    /// be had.
    fn load(&mut self, path: &str) -> Result<Vec<u8>, FileError>;

    /// The paths that match a pattern whose last component may hold `*` and `?`, sorted by name, at
    /// most [`FILES_MAX`]. No match is an empty list, not an error.
    fn expand(&mut self, pattern: &str) -> Result<Vec<String>, FileError>;
}

/// Why a file cannot be had. Displays as words that follow `PATH: `.
#[derive(Debug)]
pub enum FileError {
    /// The system says so.
    Io(io::Error),
    /// This process may not read it: it has this user and this group.
    Unreadable {
        /// What the system says.
        error: io::Error,
        /// The user's name.
        user: String,
        /// The group's name.
        group: String,
    },
    /// There is none, of those in memory.
    Absent,
    /// A directory, a device or the like.
    NotRegular,
    /// More than so many bytes.
    TooLarge(usize),
    /// It, or all of them together.
    AllTooLarge,
    /// A pattern matches more than [`FILES_MAX`].
    TooMany,
    /// Not UTF-8.
    NotText,
    /// Somebody else owns it.
    Foreign,
    /// Others than its owner can write to it.
    Loose,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileError::Io(e) => e.fmt(f),
            // Of gotd's own processes it is the `daemon` user that reads it, at a reload.
            FileError::Unreadable { error, user, group } => write!(
                f,
                "{error}: user {user} cannot read it: expected a file that this user and the daemon user of gotd \
                 can read, of mode 0644, or of a group that both have (such as {group}) with mode 0640, in a \
                 directory that they can search"
            ),
            FileError::Absent => f.write_str("no such file"),
            FileError::NotRegular => f.write_str("not a regular file"),
            FileError::TooLarge(most) => write!(f, "larger than {most} bytes"),
            FileError::AllTooLarge => {
                write!(f, "larger than {FILE_MAX} bytes, or all files than {TOTAL_MAX}")
            }
            FileError::TooMany => write!(f, "more than {FILES_MAX} files"),
            FileError::NotText => f.write_str("expected UTF-8 text"),
            FileError::Foreign => f.write_str("expected a file of root or of the user that runs this"),
            FileError::Loose => f.write_str("expected a file that only its owner can write to"),
        }
    }
}

impl std::error::Error for FileError {}

impl From<io::Error> for FileError {
    fn from(e: io::Error) -> FileError {
        FileError::Io(e)
    }
}

/// Files that are already in memory, by path.
#[derive(Debug, Clone, Default)]
pub struct Texts(pub BTreeMap<String, Vec<u8>>);

impl Texts {
    /// One file with this path and content.
    pub fn one(path: &str, text: impl Into<Vec<u8>>) -> Texts {
        Texts(BTreeMap::from([(path.to_owned(), text.into())]))
    }
}

impl Loader for Texts {
    fn load(&mut self, path: &str) -> Result<Vec<u8>, FileError> {
        self.0.get(path).cloned().ok_or(FileError::Absent)
    }

    fn expand(&mut self, pattern: &str) -> Result<Vec<String>, FileError> {
        let (directory, last) = split_last(pattern);
        let matching = |path: &&String| {
            let (there, name) = split_last(path);
            there == directory && matches(last, name)
        };
        Ok(self.0.keys().filter(matching).take(FILES_MAX).cloned().collect())
    }
}

/// Splits a path at its last slash: `/etc/gotd.d/*.conf` becomes `/etc/gotd.d` and `*.conf`.
pub fn split_last(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", last)) => ("/", last),
        Some((directory, last)) => (directory, last),
        None => (".", path),
    }
}

/// Whether a pattern has `*` or `?` in it.
pub fn is_pattern(path: &str) -> bool {
    path.contains(['*', '?'])
}

/// Whether a file name matches a pattern of ordinary characters, `*` (any number of any) and `?`
/// (any one). A leading dot is matched by a dot only, as a shell does it. Takes time proportional
/// to the product of both lengths at most.
pub fn matches(pattern: &str, name: &str) -> bool {
    if name.starts_with('.') && !pattern.starts_with('.') {
        return false;
    }
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                // Let the last star take one character more, and try again from there.
                Some((after, from)) => {
                    star = Some((after, from + 1));
                    (p, n) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, yes) in [
            ("*.conf", "a.conf", true),
            ("*.conf", ".a.conf", false),
            (".*.conf", ".a.conf", true),
            ("*.conf", "a.conf~", false),
            ("?", "ab", false),
            ("a*b*c", "a--b-b--c", true),
            ("a*b*c", "a--b-b--", false),
            ("*", "", true),
            ("***", "x", true),
            ("é?", "éx", true),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_pattern_ends_soon() {
        let pattern = "*a".repeat(200);
        assert!(!matches(&pattern, &"a".repeat(199)));
        assert!(!matches(&format!("{pattern}b"), &"a".repeat(5000)));
    }
}
