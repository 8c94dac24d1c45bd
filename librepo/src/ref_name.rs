//! Names of references, by the rules of `git check-ref-format`, as a type that cannot hold anything else.
//!
//! A name from a client becomes a path below the repository and a line in somebody's terminal, so the type also bounds the
//! length of the whole and of each component (file systems refuse longer ones, and half-way through a transaction is too late).

use std::fmt;

/// Longest name accepted, in bytes: `<name>.lock` and the reflog's path must stay below PATH_MAX.
pub const MAX_NAME: usize = 2048;
/// Longest component accepted, in bytes: NAME_MAX less the length of `.lock`.
pub const MAX_COMPONENT: usize = 250;

/// A reference's full name: below `refs/`, at least three components deep or `refs/x`, as `git check-ref-format` allows it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefName(Vec<u8>);

impl RefName {
    /// Accepts a name that may be updated by a push: it starts with `refs/` and is well formed.
    pub fn new(name: &[u8]) -> Result<Self, RefNameError> {
        if !name.starts_with(b"refs/") {
            return Err(RefNameError::Outside);
        }
        check_format(name)?;
        Ok(Self(name.to_vec()))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this name and `other` cannot exist side by side as files, because one would be a directory on the way to the other.
    pub fn conflicts_with(&self, other: &RefName) -> bool {
        is_directory_of(&self.0, &other.0) || is_directory_of(&other.0, &self.0)
    }
}

impl AsRef<[u8]> for RefName {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for RefName {
    /// The name as text; bytes that are not UTF-8 become U+FFFD. Control bytes cannot occur.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefName({self})")
    }
}

/// Why a name is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefNameError {
    /// It does not start with `refs/`.
    Outside,
    /// It breaks a rule of `git check-ref-format`.
    Format,
    /// It is longer than [`MAX_NAME`] bytes.
    TooLong(usize),
    /// One component is longer than [`MAX_COMPONENT`] bytes.
    ComponentTooLong(usize),
}

impl fmt::Display for RefNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outside => f.write_str("reference name does not start with refs/"),
            Self::Format => f.write_str("reference name is not well formed"),
            Self::TooLong(n) => write!(f, "reference name of {n} bytes exceeds the limit of {MAX_NAME}"),
            Self::ComponentTooLong(n) => {
                write!(f, "reference name component of {n} bytes exceeds the limit of {MAX_COMPONENT}")
            }
        }
    }
}

impl std::error::Error for RefNameError {}

/// Checks a name by the rules of git-check-ref-format(1) (without `--allow-onelevel`) and the two lengths.
pub fn check_format(name: &[u8]) -> Result<(), RefNameError> {
    if name.len() > MAX_NAME {
        return Err(RefNameError::TooLong(name.len()));
    }
    let mut count = 0;
    for component in name.split(|&b| b == b'/') {
        check_component(component)?;
        count += 1;
    }
    if count < 2 || name.ends_with(b".") {
        return Err(RefNameError::Format);
    }
    Ok(())
}

fn check_component(component: &[u8]) -> Result<(), RefNameError> {
    let bad_byte = |b: &u8| matches!(*b, 0..=0x20 | 0x7f | b'~' | b'^' | b':' | b'?' | b'*' | b'[' | b'\\');
    let bad_pair = |pair: &[u8]| pair == b".." || pair == b"@{";
    if component.is_empty()
        || component.starts_with(b".")
        || component.ends_with(b".lock")
        || component.iter().any(bad_byte)
        || component.windows(2).any(bad_pair)
    {
        return Err(RefNameError::Format);
    }
    if component.len() > MAX_COMPONENT {
        return Err(RefNameError::ComponentTooLong(component.len()));
    }
    Ok(())
}

/// Whether `dir` names a directory on the way to `name`.
pub(crate) fn is_directory_of(dir: &[u8], name: &[u8]) -> bool {
    name.len() > dir.len() && name.starts_with(dir) && name.get(dir.len()) == Some(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    const NAMES: &[&[u8]] = &[
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

    #[test]
    fn agrees_with_git_check_ref_format() {
        for name in NAMES {
            let git = std::process::Command::new("git")
                .args([OsStr::new("check-ref-format"), OsStr::from_bytes(name)])
                .status()
                .expect("git runs")
                .success();
            assert_eq!(check_format(name).is_ok(), git, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn only_below_refs_and_bounded() {
        assert_eq!(RefName::new(b"HEAD"), Err(RefNameError::Outside));
        assert_eq!(RefName::new(b"config/x"), Err(RefNameError::Outside));
        assert_eq!(RefName::new(b"refs/heads/a\0b"), Err(RefNameError::Format));
        let long = [b"refs/heads/".as_slice(), &[b'a'; 300]].concat();
        assert_eq!(RefName::new(&long), Err(RefNameError::ComponentTooLong(300)));
        let deep = [b"refs".as_slice(), &b"/a".repeat(1200)].concat();
        assert_eq!(RefName::new(&deep), Err(RefNameError::TooLong(2404)));
    }

    #[test]
    fn directory_conflicts() {
        let name = |n: &str| RefName::new(n.as_bytes()).expect("valid");
        assert!(name("refs/heads/a").conflicts_with(&name("refs/heads/a/b")));
        assert!(name("refs/heads/a/b").conflicts_with(&name("refs/heads/a")));
        assert!(!name("refs/heads/a").conflicts_with(&name("refs/heads/ab")));
        assert!(!name("refs/heads/a").conflicts_with(&name("refs/heads/a")));
    }
}
