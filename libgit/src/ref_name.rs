//! Names of references.
//!
//! A name from a client becomes a path below the repository and a line in somebody's terminal. So
//! there is one rule, git's, and one limit of length, for every process and both directions.

use std::fmt;

use smallvec::SmallVec;

use crate::{as_checked_bytes, escape};

/// Longest reference name, in bytes: the reference's lock and its reflog have longer paths, which
/// must stay below the system's limit of 4096.
pub const REF_NAME_MAX: usize = 2048;
/// Longest component of a reference that is to be written, in bytes: a file name with room for
/// `.lock`. A longer one can only lie in packed-refs.
pub const REF_COMPONENT_MAX: usize = 250;
/// A reference name of at most this many bytes is kept without an allocation.
const REF_NAME_USUAL: usize = 40;

/// The name of a reference: `HEAD`, or `refs/…` by the rules of git-check-ref-format(1). Any bytes
/// that those rules allow, not only UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(SmallVec<[u8; REF_NAME_USUAL]>);

impl RefName {
    /// Checks a name as git-check-ref-format(1) with `--allow-onelevel` does.
    ///
    /// # Errors
    /// Also for a leading `-`, and for names of more than [`REF_NAME_MAX`] bytes.
    pub fn parse(name: &[u8]) -> Result<RefName, RefNameError> {
        if name.len() > REF_NAME_MAX {
            return Err(RefNameError::TooLong);
        }
        if name.is_empty() || name[0] == b'-' || name == b"@" || name.ends_with(b".") {
            return Err(RefNameError::Format);
        }
        // The beginning counts as the end of a component before it.
        let mut last = b'/';
        for (at, &b) in name.iter().enumerate() {
            match b {
                0..=0x20 | 0x7f | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\' => {
                    return Err(RefNameError::Format);
                }
                b'.' if last == b'.' || last == b'/' => return Err(RefNameError::Format),
                b'{' if last == b'@' => return Err(RefNameError::Format),
                b'/' if last == b'/' || name[..at].ends_with(b".lock") => return Err(RefNameError::Format),
                _ => last = b,
            }
        }
        if last == b'/' || name.ends_with(b".lock") {
            return Err(RefNameError::Format);
        }
        Ok(RefName(SmallVec::from_slice(name)))
    }

    /// A name that a push may create, change or delete, see [`RefName::check_update`].
    ///
    /// # Errors
    /// The errors of [`RefName::parse`] and of [`RefName::check_update`].
    pub fn parse_for_update(name: &[u8]) -> Result<RefName, RefNameError> {
        let name = RefName::parse(name)?;
        name.check_update()?;
        Ok(name)
    }

    /// Whether this reference may be written: it lies below `refs/`, and every component is short
    /// enough for a lock file beside it.
    ///
    /// # Errors
    /// [`RefNameError::Outside`] and [`RefNameError::ComponentTooLong`].
    pub fn check_update(&self) -> Result<(), RefNameError> {
        if !self.is_below_refs() {
            return Err(RefNameError::Outside);
        }
        match self.0.split(|&b| b == b'/').any(|component| component.len() > REF_COMPONENT_MAX) {
            true => Err(RefNameError::ComponentTooLong),
            false => Ok(()),
        }
    }

    /// Whether the name lies below `refs/`.
    pub fn is_below_refs(&self) -> bool {
        self.0.starts_with(b"refs/")
    }

    /// The name's bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

as_checked_bytes!(RefName, RefName::parse, "a reference name");

impl fmt::Display for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(self.as_bytes()))
    }
}

impl fmt::Debug for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", escape(self.as_bytes()))
    }
}

/// Why a name is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefNameError {
    /// It breaks a rule of git-check-ref-format(1), or starts with a dash.
    Format,
    /// It is longer than [`REF_NAME_MAX`] bytes.
    TooLong,
    /// It is to be written, and is not below `refs/`.
    Outside,
    /// It is to be written, and a component is longer than [`REF_COMPONENT_MAX`] bytes.
    ComponentTooLong,
}

impl fmt::Display for RefNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format => f.write_str("reference name is not well formed"),
            Self::TooLong => write!(f, "reference name of more than {REF_NAME_MAX} bytes"),
            Self::Outside => f.write_str("reference name does not start with refs/"),
            Self::ComponentTooLong => {
                write!(f, "reference name with a component of more than {REF_COMPONENT_MAX} bytes")
            }
        }
    }
}

impl std::error::Error for RefNameError {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
            let git = std::process::Command::new("git")
                .args(["check-ref-format", "--allow-onelevel"])
                .arg(std::ffi::OsStr::from_bytes(&name))
                .status()
                .expect("git runs");
            assert_eq!(RefName::parse(&name).is_ok(), git.success(), "{}", crate::escape(&name));
            compared += 1;
        }
    }

    #[test]
    fn agrees_with_git_about_names_below_refs() {
        use std::os::unix::ffi::OsStrExt;
        let names: [&[u8]; 36] = [
            b"refs/heads/main",
            b"refs/heads/a/b/c",
            b"refs/x",
            b"refs/",
            b"refs//x",
            b"refs/heads/",
            b"/refs/heads/x",
            b"refs/heads/.x",
            b"refs/heads/x.",
            b"refs/heads/x./y",
            b"refs/heads/x..y",
            b"refs/heads/../../config",
            b"refs/heads/x.lock",
            b"refs/heads/x.lock/y",
            b"refs/heads/.lock",
            b"refs/heads/x.locked",
            b"refs/heads/@{0}",
            b"refs/heads/x@{y",
            b"refs/heads/@",
            b"refs/heads/{x}",
            b"refs/heads/a b",
            b"refs/heads/a\tb",
            b"refs/heads/a\x7fb",
            b"refs/heads/a\x01b",
            b"refs/heads/a~1",
            b"refs/heads/a^1",
            b"refs/heads/a:b",
            b"refs/heads/a?b",
            b"refs/heads/a*b",
            b"refs/heads/a[b",
            b"refs/heads/a\\b",
            b"refs/heads/-x",
            b"refs/heads/\xc3\xa4",
            b"refs/heads/\xff",
            b"HEAD",
            b"@",
        ];
        for name in names {
            let git = std::process::Command::new("git")
                .arg("check-ref-format")
                .arg(std::ffi::OsStr::from_bytes(name))
                .status()
                .expect("git runs")
                .success();
            assert_eq!(RefName::parse_for_update(name).is_ok(), git, "{}", escape(name));
        }
    }

    #[test]
    fn only_references_below_refs_are_updated() {
        assert!(RefName::parse_for_update(b"refs/heads/main").is_ok());
        assert!(RefName::parse_for_update(b"refs/stash").is_ok());
        for outside in [&b"HEAD"[..], b"refs", b"config", b"config/x", b"logs/refs/heads/x"] {
            assert_eq!(RefName::parse_for_update(outside), Err(RefNameError::Outside));
        }
        for bad in [&b"refs/heads/../../config"[..], b"refs/heads/a\0b"] {
            assert_eq!(RefName::parse_for_update(bad), Err(RefNameError::Format));
        }
    }

    #[test]
    fn one_limit_for_the_name_and_one_for_what_is_written() {
        let of = |length: usize| {
            let mut name = b"refs/heads".to_vec();
            while name.len() < length {
                let more = (length - name.len() - 1).min(200);
                name.push(b'/');
                name.resize(name.len() + more, b'a');
            }
            name
        };
        assert_eq!(RefName::parse_for_update(&of(REF_NAME_MAX)).map(|n| n.as_bytes().len()), Ok(2048));
        assert_eq!(RefName::parse_for_update(&of(REF_NAME_MAX + 1)), Err(RefNameError::TooLong));
        assert_eq!(RefName::parse(&of(REF_NAME_MAX + 1)), Err(RefNameError::TooLong));
        let component = |length| [b"refs/heads/".as_slice(), &vec![b'x'; length]].concat();
        assert!(RefName::parse_for_update(&component(250)).is_ok());
        assert_eq!(RefName::parse_for_update(&component(251)), Err(RefNameError::ComponentTooLong));
        assert!(RefName::parse(&component(251)).is_ok(), "packed-refs may have it");
    }

    #[test]
    fn messages_bring_back_only_names_that_parse() {
        let config = bincode::config::standard().with_limit::<16384>();
        let encode = |bytes: &[u8]| bincode::encode_to_vec(bytes.to_vec(), config).unwrap();
        let good = encode(b"refs/heads/main");
        let (name, used): (RefName, usize) = bincode::serde::decode_from_slice(&good, config).unwrap();
        assert_eq!((name.as_bytes(), used), (&b"refs/heads/main"[..], good.len()));
        assert_eq!(bincode::serde::encode_to_vec(&name, config).unwrap(), good);
        for bad in [&b"refs/../x"[..], b"", b"refs/a\nb", &[b'x'; REF_NAME_MAX + 1]] {
            assert!(bincode::serde::decode_from_slice::<RefName, _>(&encode(bad), config).is_err());
        }
    }

    proptest! {
        #[test]
        fn what_parses_has_no_byte_that_it_must_not_have(name in "[/.a~@{lock\\-\\x00\\x7f]{0,12}") {
            if let Ok(name) = RefName::parse(name.as_bytes()) {
                assert!(!name.as_bytes().iter().any(|b| *b <= b' ' || *b == 0x7f));
                assert!(!name.as_bytes().windows(2).any(|w| w == b".."));
                assert_eq!(RefName::parse(name.as_bytes()), Ok(name));
            }
        }
    }
}
