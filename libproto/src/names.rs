//! Names that arrive from outside, as types.
//!
//! A byte string from a client, a configuration file or another process becomes one of these at the place where it
//! arrives, and from then on cannot be anything else: no type here can hold a NUL, a control byte, a `..` component
//! or a leading `-`. Deserialising checks again, because the other end of a message may have been taken over.

use std::fmt;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
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
/// Most hexadecimal digits of an object id.
pub const HEX_MAX: usize = 64;
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
    /// Not a full hexadecimal object id.
    ObjectId,
    /// Not the name of a hash function.
    HashKind,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Empty => f.write_str("empty name"),
            NameError::TooLong => f.write_str("buffer too small"),
            NameError::Byte(b) => write!(f, "forbidden byte 0x{b:02x} in name"),
            NameError::Component => f.write_str("forbidden component in name"),
            NameError::LeadingDash => f.write_str("name starts with a dash"),
            NameError::ObjectId => f.write_str("bad object id"),
            NameError::HashKind => f.write_str("unknown object format"),
        }
    }
}

impl std::error::Error for NameError {}

/// The hash function of a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum HashKind {
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
}

impl HashKind {
    /// Length of an id in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no id is empty")]
    pub const fn len(self) -> usize {
        match self {
            HashKind::Sha1 => 20,
            HashKind::Sha256 => 32,
        }
    }

    /// Length of an id in hexadecimal digits.
    pub const fn hex_len(self) -> usize {
        self.len() * 2
    }

    /// Git's word for it, as in the `object-format` capability.
    pub const fn name(self) -> &'static str {
        match self {
            HashKind::Sha1 => "sha1",
            HashKind::Sha256 => "sha256",
        }
    }

    /// The hash function with this name in the `object-format` capability.
    pub fn from_name(name: &[u8]) -> Result<HashKind, NameError> {
        match name {
            b"sha1" => Ok(HashKind::Sha1),
            b"sha256" => Ok(HashKind::Sha256),
            _ => Err(NameError::HashKind),
        }
    }
}

/// An object id with room for SHA-256. Displays as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    kind: HashKind,
    bytes: [u8; 32],
}

impl ObjectId {
    /// The id with these raw bytes; `None` unless there are exactly as many as `kind` has.
    pub fn from_bytes(kind: HashKind, raw: &[u8]) -> Option<ObjectId> {
        if raw.len() != kind.len() {
            return None;
        }
        let mut bytes = [0; 32];
        bytes[..raw.len()].copy_from_slice(raw);
        Some(ObjectId { kind, bytes })
    }

    /// The id written in exactly 40 or 64 hexadecimal digits, either case, as Git reads them.
    pub fn from_hex(hex: &[u8]) -> Result<ObjectId, NameError> {
        let kind = match hex.len() {
            40 => HashKind::Sha1,
            64 => HashKind::Sha256,
            _ => return Err(NameError::ObjectId),
        };
        let mut bytes = [0; 32];
        for (pair, byte) in hex.chunks_exact(2).zip(bytes.iter_mut()) {
            *byte = (hex_digit(pair[0])? << 4) | hex_digit(pair[1])?;
        }
        Ok(ObjectId { kind, bytes })
    }

    /// The id of all zeros, which stands for "no object".
    pub const fn null(kind: HashKind) -> ObjectId {
        ObjectId { kind, bytes: [0; 32] }
    }

    /// Whether this is the id of all zeros.
    pub fn is_null(&self) -> bool {
        self.bytes == [0; 32]
    }

    /// The raw bytes, 20 or 32 of them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.kind.len()]
    }

    /// The hash function it belongs to.
    pub const fn kind(&self) -> HashKind {
        self.kind
    }

    /// The id in lower-case hexadecimal digits, 40 or 64 of them, which are put into `digits`.
    pub fn hex<'d>(&self, digits: &'d mut [u8; HEX_MAX]) -> &'d [u8] {
        const PAIRS: [[u8; 2]; 256] = {
            let (digits, mut pairs, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
            while byte < 256 {
                pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
                byte += 1;
            }
            pairs
        };
        for (byte, pair) in self.as_bytes().iter().zip(digits.as_chunks_mut().0) {
            *pair = PAIRS[usize::from(*byte)];
        }
        &digits[..self.kind.hex_len()]
    }
}

fn hex_digit(c: u8) -> Result<u8, NameError> {
    match c {
        b'0'..=b'9' => Ok(c - b'0'),
        b'a'..=b'f' => Ok(c - b'a' + 10),
        b'A'..=b'F' => Ok(c - b'A' + 10),
        _ => Err(NameError::ObjectId),
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; HEX_MAX];
        f.pad(std::str::from_utf8(self.hex(&mut digits)).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ObjectId {
    fn from_message(raw: &[u8]) -> Result<ObjectId, NameError> {
        let kind = match raw.len() {
            20 => HashKind::Sha1,
            32 => HashKind::Sha256,
            _ => return Err(NameError::ObjectId),
        };
        ObjectId::from_bytes(kind, raw).ok_or(NameError::ObjectId)
    }
}

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

/// Serialisation as a byte string, checked by the type's own parser when it comes back.
macro_rules! as_checked_bytes {
    ($type:ty, $parse:path, $what:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(self.as_bytes())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Checked;
                impl<'de> Visitor<'de> for Checked {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($what)
                    }
                    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<$type, E> {
                        $parse(bytes).map_err(E::custom)
                    }
                }
                deserializer.deserialize_bytes(Checked).map_err(D::Error::custom)
            }
        }
    };
}

as_checked_bytes!(ObjectId, ObjectId::from_message, "an object id");
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

    #[test]
    fn object_ids_in_both_sizes() {
        let hex = b"0123456789abcdef0123456789ABCDEF01234567";
        let id = ObjectId::from_hex(hex).unwrap();
        assert_eq!(id.to_string().as_bytes(), hex.to_ascii_lowercase());
        assert_eq!(id.kind(), HashKind::Sha1);
        assert_eq!(ObjectId::from_bytes(HashKind::Sha1, id.as_bytes()), Some(id));
        assert_eq!(ObjectId::from_bytes(HashKind::Sha256, id.as_bytes()), None);
        assert_eq!(ObjectId::from_hex(&[b'a'; 64]).unwrap().kind(), HashKind::Sha256);
        for bad in [&hex[..39], b"", &[b'g'; 40], &[b'a'; 41], &[b'a'; 65]] {
            assert_eq!(ObjectId::from_hex(bad), Err(NameError::ObjectId));
        }
        assert!(ObjectId::null(HashKind::Sha256).is_null() && !id.is_null());
    }

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
        assert!(bincode::serde::decode_from_slice::<ObjectId, _>(&encode(&[7; 21]), config).is_err());
        assert!(bincode::serde::decode_from_slice::<ObjectId, _>(&encode(&[7; 20]), config).is_ok());
    }

    struct RawBytes<'a>(&'a [u8]);
    impl Serialize for RawBytes<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }
}
