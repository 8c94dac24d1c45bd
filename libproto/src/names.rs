//! Names that arrive from outside, as types.
//!
//! A byte string from a client, a configuration file or another process becomes one of these at the place where it
//! arrives, and from then on cannot be anything else: no type here can hold a NUL, a control byte, a `..` component
//! or a leading `-`. Deserialising checks again, because the other end of a message may have been taken over.

use std::fmt;

use libgit::as_checked_bytes;
use smallvec::SmallVec;

/// Longest repository name in a request, in bytes. C gotd's buffer is 255 bytes with its NUL, and a site's scripts
/// know the answer to a longer one.
pub const REPO_NAME_MAX: usize = 254;
/// Longest reference name, in bytes: what fits into a path below any repository.
pub const REF_NAME_MAX: usize = 3500;
/// A reference name of up to so many bytes is kept without an allocation.
const REF_NAME_USUAL: usize = 40;
/// Longest component of a reference that is to be written, in bytes: a file name with room for `.lock`.
pub const REF_COMPONENT_MAX: usize = 250;
/// Longest user name, in bytes.
pub const USER_NAME_MAX: usize = 64;

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// Nothing is left of the name.
    Empty,
    /// Longer than the limit of its type.
    TooLong,
    /// NUL, a control byte, or a byte that Git forbids in reference names.
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

/// The name of a reference: `HEAD`, or `refs/…` by the rules of git-check-ref-format(1). Any bytes that those rules
/// allow, not only UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(SmallVec<[u8; REF_NAME_USUAL]>);

impl RefName {
    /// Checks a name as git-check-ref-format(1) with `--allow-onelevel` does; and refuses a leading `-` and names of
    /// more than [`REF_NAME_MAX`] bytes.
    pub fn parse(name: &[u8]) -> Result<RefName, NameError> {
        if name.is_empty() {
            return Err(NameError::Empty);
        }
        if name.len() > REF_NAME_MAX {
            return Err(NameError::TooLong);
        }
        if name[0] == b'-' {
            return Err(NameError::LeadingDash);
        }
        if name == b"@" || name.ends_with(b".") {
            return Err(NameError::Component);
        }
        // The beginning counts as the end of a component before it.
        let mut last = b'/';
        for (at, &b) in name.iter().enumerate() {
            match b {
                0..=0x20 | 0x7f | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\' => {
                    return Err(NameError::Byte(b));
                }
                b'.' if last == b'.' || last == b'/' => return Err(NameError::Component),
                b'{' if last == b'@' => return Err(NameError::Component),
                b'/' if last == b'/' || name[..at].ends_with(b".lock") => return Err(NameError::Component),
                _ => last = b,
            }
        }
        if last == b'/' || name.ends_with(b".lock") {
            return Err(NameError::Component);
        }
        Ok(RefName(SmallVec::from_slice(name)))
    }

    /// A name that a push may create, change or delete: below `refs/` with at least one more component, every
    /// component short enough for a lock file beside it.
    pub fn parse_for_update(name: &[u8]) -> Result<RefName, NameError> {
        let parsed = RefName::parse(name)?;
        if !parsed.is_below_refs() {
            return Err(NameError::Component);
        }
        if name.split(|&b| b == b'/').any(|c| c.len() > REF_COMPONENT_MAX) {
            return Err(NameError::TooLong);
        }
        Ok(parsed)
    }

    /// The name's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether the name lies below `refs/`.
    pub fn is_below_refs(&self) -> bool {
        self.0.starts_with(b"refs/")
    }
}

/// The name of a repository as a request gives it: one leading and one trailing slash are dropped, and so is a last
/// component `.git` (git's own clients name a worktree's directory like that); a trailing `.git` of the last component
/// stays. Components are not empty and do not start with a dot, the whole does not start with a dash.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoName(Vec<u8>);

impl RepoName {
    /// Checks the name in a request.
    ///
    /// # Errors
    /// [`NameError::TooLong`] (whose text is C gotd's `buffer too small`) from 255 bytes on, whatever they are.
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
        // A component that starts with a dot could be `.git`, `.`, `..` or the server's own hidden directories.
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

/// The name of a user of a shared account, or of a Unix account: 1 to 64 bytes of `A-Za-z0-9._-`, of `@` and `+` as in
/// the names that directory services give (`alice@example.org`), and a Unix account's trailing `$`; not starting with
/// `-` or a dot.
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

/// Makes text from outside safe for a log line, a terminal and a message to a client: letters and digits of every
/// script and printable ASCII stay, everything else (control bytes, terminal escapes, bidirectional marks, quotes,
/// backslashes, bytes that are not UTF-8) becomes `\xNN`. The result is at most four times as long as the input.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let plain = if c.is_ascii() {
                !c.is_ascii_control() && c != '"' && c != '\\'
            } else {
                c.is_alphanumeric()
            };
            if plain {
                out.push(c);
            } else {
                let mut utf8 = [0; 4];
                push_hex(&mut out, c.encode_utf8(&mut utf8).as_bytes());
            }
        }
        push_hex(&mut out, chunk.invalid());
    }
    out
}

fn push_hex(out: &mut String, bytes: &[u8]) {
    use fmt::Write;
    for b in bytes {
        // Writing to a string cannot fail.
        let _ = write!(out, "\\x{b:02x}");
    }
}

as_checked_bytes!(RefName, RefName::parse, "a reference name");
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

shown_escaped!(RefName, RepoName, UserName);

#[cfg(test)]
mod tests {
    use super::*;
    use serde::{Serialize, Serializer};

    #[test]
    fn reference_names_as_git_checks_them() {
        for good in [
            "HEAD",
            "refs/heads/main",
            "refs/heads/a.b",
            "refs/heads/@",
            "refs/heads/\u{e9}",
            "refs/a/-x",
            "a@b",
        ] {
            assert!(RefName::parse(good.as_bytes()).is_ok(), "{good}");
        }
        assert!(RefName::parse(b"refs/heads/\xff\xfe").is_ok());
        for bad in [
            "",
            "@",
            "-x",
            "/",
            "refs/",
            "refs//x",
            "/refs/x",
            "refs/.x",
            "refs/x.",
            "refs/x.lock",
            "refs/x.lock/y",
            "refs/heads/../../config",
            "refs/a..b",
            "refs/@{0}",
            "refs/a b",
            "refs/a\x07",
            "refs/a\x7f",
            "refs/a~b",
            "refs/a^b",
            "refs/a:b",
            "refs/a?b",
            "refs/a*",
            "refs/a[b",
            "refs/a\\b",
            "refs/a\0b",
            "refs/a\nb",
        ] {
            assert!(RefName::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(RefName::parse(&[b'x'; REF_NAME_MAX + 1]).is_err());
    }

    #[test]
    fn git_agrees_about_reference_names() {
        use std::os::unix::ffi::OsStrExt;
        let pieces: [&[u8]; 14] = [
            b"refs", b"a", b"/", b".", b"..", b"@", b"@{", b"{", b".lock", b"lock", b"-", b"\x7f", b"\xff",
            b"~",
        ];
        let mut state: u32 = 1;
        let mut compared = 0;
        while compared < 150 {
            let mut name = Vec::new();
            for _ in 0..5 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                name.extend_from_slice(pieces[(state >> 16) as usize % pieces.len()]);
            }
            if name[0] == b'-' {
                continue;
            }
            let Ok(git) = std::process::Command::new("git")
                .args(["check-ref-format", "--allow-onelevel"])
                .arg(std::ffi::OsStr::from_bytes(&name))
                .status()
            else {
                return;
            };
            assert_eq!(RefName::parse(&name).is_ok(), git.success(), "{}", escape(&name));
            compared += 1;
        }
    }

    #[test]
    fn only_references_below_refs_are_updated() {
        assert!(RefName::parse_for_update(b"refs/heads/main").is_ok());
        assert!(RefName::parse_for_update(b"refs/stash").is_ok());
        for bad in [&b"HEAD"[..], b"refs", b"config", b"refs/heads/../../config", b"logs/refs/heads/x"] {
            assert!(RefName::parse_for_update(bad).is_err());
        }
        let long = [b"refs/heads/".as_slice(), &[b'x'; 300]].concat();
        assert_eq!(RefName::parse_for_update(&long), Err(NameError::TooLong));
    }

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
    fn escapes_leave_nothing_that_a_terminal_obeys() {
        assert_eq!(escape(b"refs/heads/main x"), "refs/heads/main x");
        assert_eq!(escape(b"\x1b]0;x\x07\n\"\\"), "\\x1b]0;x\\x07\\x0a\\x22\\x5c");
        assert_eq!(escape("\u{e9}\u{202e}\u{9b}".as_bytes()), "\u{e9}\\xe2\\x80\\xae\\xc2\\x9b");
        assert_eq!(escape(b"a\xffb"), "a\\xffb");
    }

    #[test]
    fn messages_bring_back_only_names_that_parse() {
        let config = bincode::config::standard().with_limit::<16384>();
        let encode = |bytes: &[u8]| bincode::serde::encode_to_vec(RawBytes(bytes), config).unwrap();
        let good = encode(b"refs/heads/main");
        let (name, used): (RefName, usize) = bincode::serde::decode_from_slice(&good, config).unwrap();
        assert_eq!((name.as_bytes(), used), (&b"refs/heads/main"[..], good.len()));
        assert_eq!(bincode::serde::encode_to_vec(&name, config).unwrap(), good);
        assert!(bincode::serde::decode_from_slice::<RefName, _>(&encode(b"refs/../x"), config).is_err());
        assert!(bincode::serde::decode_from_slice::<RepoName, _>(&encode(b"../x"), config).is_err());
    }

    struct RawBytes<'a>(&'a [u8]);
    impl Serialize for RawBytes<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
}
