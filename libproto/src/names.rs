//! Names that arrive from outside, as types.
//!
//! A byte string from a client, a configuration file or another process becomes one of these at the
//! place where it arrives, and from then on cannot be anything else: no type here can hold a NUL, a
//! control byte, a `..` component or a leading `-`. Deserialising checks again, because the other
//! end of a message may have been taken over.

use std::fmt;

use libgit::as_checked_bytes;
pub use libgit::escape;

/// Longest repository name in a request, in bytes. C gotd's buffer is 255 bytes with its NUL, and a
/// site's scripts know the answer to a longer one.
pub const REPO_NAME_MAX: usize = 254;
/// Longest user name, in bytes.
pub const USER_NAME_MAX: usize = 64;

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Nothing is left of the name.
    Empty,
    /// Longer than the limit of its type.
    TooLong,
    /// NUL, a control byte, or a byte that no user name has.
    Byte(u8),
    /// An empty component, `.`, `..` or another component that its type forbids.
    Component,
    /// The whole name starts with `-`, so that a program could take it for an option.
    LeadingDash,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => f.write_str("empty name"),
            NameError::TooLong => f.write_str("buffer too small"),
            NameError::Byte(b) => write!(f, "forbidden byte 0x{b:02x} in name"),
            NameError::Component => f.write_str("forbidden component in name"),
            NameError::LeadingDash => f.write_str("name starts with a dash"),
        }
    }
}

impl std::error::Error for NameError {}

/// The name of a repository as a request gives it: one leading and one trailing slash are dropped,
/// and so is a last component `.git` (git's own clients name a worktree's directory like that); a
/// trailing `.git` of the last component stays. Components are not empty and do not start with a
/// dot, the whole does not start with a dash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoName(Vec<u8>);

impl RepoName {
    /// Checks the name in a request.
    ///
    /// # Errors
    /// [`NameError::TooLong`] (whose text is C gotd's `buffer too small`) from 255 bytes on,
    /// whatever they are.
    pub fn parse(request: &[u8]) -> Result<RepoName, NameError> {
        let name = request.strip_prefix(b"/").unwrap_or(request);
        let name = name.strip_suffix(b"/").unwrap_or(name);
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > REPO_NAME_MAX {
            return Err(NameError::TooLong);
        }
        // The server finds a worktree's `.git` by itself.
        let name = name.strip_suffix(b"/.git").unwrap_or(name);
        if name.is_empty() {
            return Err(NameError::Component);
        }
        if name[0] == b'-' {
            return Err(NameError::LeadingDash);
        }
        if let Some(&b) = name.iter().find(|b| b.is_ascii_control()) {
            return Err(NameError::Byte(b));
        }
        // A component that starts with a dot could be `.git`, `.`, `..` or the server's own hidden
        // directories.
        if name.split(|&b| b == b'/').any(|c| c.is_empty() || c[0] == b'.') {
            return Err(NameError::Component);
        }
        Ok(RepoName(name.to_vec()))
    }

    /// The name's bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name without a trailing `.git`, if something is left of its last component.
    pub fn without_suffix(&self) -> &[u8] {
        match self.0.strip_suffix(b".git") {
            Some(stem) if !stem.is_empty() && !stem.ends_with(b"/") => stem,
            _ => &self.0,
        }
    }

    /// The name with `.git` at its end.
    pub fn with_suffix(&self) -> Vec<u8> {
        let mut name = self.without_suffix().to_vec();
        name.extend_from_slice(b".git");
        name
    }
}

/// The name of a user of a shared account, or of a Unix account: 1 to 64 bytes of `A-Za-z0-9._-`,
/// of `@` and `+` as in the names that directory services give (`alice@example.org`), and a Unix
/// account's trailing `$`; not starting with `-` or a dot.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Checks a user's name.
    pub fn parse(name: &[u8]) -> Result<UserName, NameError> {
        match name {
            [] => return Err(NameError::Empty),
            [b'-', ..] => return Err(NameError::LeadingDash),
            [b'.', ..] => return Err(NameError::Component),
            _ if name.len() > USER_NAME_MAX => return Err(NameError::TooLong),
            _ => {}
        }
        let body = name.strip_suffix(b"$").unwrap_or(name);
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'@' | b'+');
        if let Some(&b) = body.iter().find(|b| !allowed(b)) {
            return Err(NameError::Byte(b));
        }
        Ok(UserName(name.iter().map(|&b| char::from(b)).collect()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

as_checked_bytes!(RepoName, RepoName::parse, "a repository name");
as_checked_bytes!(UserName, UserName::parse, "a user name");

macro_rules! shown_escaped {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&escape(self.as_bytes()))
            }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"{}\"", escape(self.as_bytes()))
            }
        }
    )*};
}

shown_escaped!(RepoName, UserName);

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Serialize, Serializer};

    #[test]
    fn repository_names() {
        for (request, name) in [
            ("/a", "a"),
            ("a", "a"),
            ("/a/b c.git", "a/b c.git"),
            ("/a.git/", "a.git"),
            ("~u/x", "~u/x"),
            ("/a/b/.git", "a/b"),
            ("a/.git/", "a"),
        ] {
            assert_eq!(RepoName::parse(request.as_bytes()).unwrap().as_bytes(), name.as_bytes());
        }
        for bad in [
            "",
            "/",
            "//",
            "//a",
            "a//b",
            "a//",
            ".",
            "..",
            "../a",
            "a/..",
            "a/../b",
            "a/./b",
            "/.git",
            "a/.git/x",
            "a/.git/.git",
            "/.git/",
            "-x",
            "/-x",
            "--help",
            "a\nb",
            "a\0b",
            "a\x1b[0m",
            "a\x7f",
        ] {
            assert!(RepoName::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RepoName::parse(&[b'A'; 254]).is_ok());
        let long = RepoName::parse(&[b'A'; 255]).unwrap_err();
        assert_eq!(long.to_string(), "buffer too small");
    }

    #[test]
    fn both_spellings_of_a_repository_name() {
        let with = RepoName::parse(b"x/a.git").unwrap();
        let without = RepoName::parse(b"x/a").unwrap();
        assert_eq!(with.without_suffix(), b"x/a");
        assert_eq!(without.without_suffix(), b"x/a");
        assert_eq!(with.with_suffix(), b"x/a.git");
        assert_eq!(without.with_suffix(), b"x/a.git");
    }

    #[test]
    fn user_names() {
        for good in ["alice", "_gotd", "a-b.c", "host$", "0", "alice@example.org", "ex+alice"] {
            assert!(UserName::parse(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a$b", "a:b", "a/b", "a\n", "\u{e9}"] {
            assert!(UserName::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(UserName::parse(&[b'a'; 65]).is_err());
    }

    #[test]
    fn messages_bring_back_only_names_that_parse() {
        let config = bincode::config::standard().with_limit::<16384>();
        let encode = |bytes: &[u8]| bincode::serde::encode_to_vec(RawBytes(bytes), config).unwrap();
        let good = encode(b"a/b.git");
        let (name, used): (RepoName, usize) = bincode::serde::decode_from_slice(&good, config).unwrap();
        assert_eq!((name.as_bytes(), used), (&b"a/b.git"[..], good.len()));
        assert_eq!(bincode::serde::encode_to_vec(&name, config).unwrap(), good);
        assert!(bincode::serde::decode_from_slice::<UserName, _>(&encode(b"-x"), config).is_err());
        assert!(bincode::serde::decode_from_slice::<RepoName, _>(&encode(b"../x"), config).is_err());
    }

    struct RawBytes<'a>(&'a [u8]);
    impl Serialize for RawBytes<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
}
