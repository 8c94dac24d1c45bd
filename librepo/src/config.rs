//! The few keys of a repository's own `config` that are read (`git-config`, "CONFIGURATION FILE";
//! `gitrepository-layout`, "repository version").
//!
//! The whole file must be well formed, but nothing else in it has an effect beside what makes
//! something stricter ([`safeguards`](crate::safeguards)), and `include` is not followed: a user
//! who can write a repository's configuration must not be able to make the server do anything.

use libgit::HashKind;

use crate::error::{Error, Result};

/// The permissions of new files in a repository (`core.sharedRepository`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shared {
    /// As the umask has it.
    #[default]
    Umask,
    /// The group may write.
    Group,
    /// The group may write and everybody read.
    All,
    /// Exactly this mode of files.
    Mode(u32),
}

/// What a repository says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// The algorithm of the ids.
    pub hash: HashKind,
    /// `core.bare`, if it is set.
    pub bare: Option<bool>,
    /// `core.sharedRepository`.
    pub shared: Shared,
    /// Whether objects may be missing, because a promisor remote has them
    /// (`extensions.partialClone`, `remote.*.promisor`, `remote.*.partialCloneFilter`).
    pub partial_clone: bool,
    /// `extensions.preciousObjects`: nothing may ever be deleted.
    pub precious_objects: bool,
    /// `extensions.worktreeConfig`: `config.worktree` is read too, and `core.bare` is most often
    /// there.
    pub worktree_config: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            hash: HashKind::Sha1,
            bare: None,
            shared: Shared::Umask,
            partial_clone: false,
            precious_objects: false,
            worktree_config: false,
        }
    }
}

impl Config {
    /// Parses a repository's `config`, and refuses what is not known: a format version above 1, an
    /// extension (where the version makes extensions count), a reference storage other than files.
    pub fn parse(text: &[u8]) -> Result<Config> {
        let mut config = Config::default();
        let mut version = 0;
        let mut only_in_1 = None;
        let mut unknown = None;
        for variable in Variables::new(text) {
            let variable = variable.map_err(|line| Error::Invalid(format!("config: bad line {line}")))?;
            let bool = || variable.bool().ok_or_else(|| bad_value(&variable));
            // Another subsection ("extensions.x.y") is never one of ours.
            if variable.subsection.is_some() {
                if variable.section == b"remote" {
                    config.partial_clone |= match &variable.key[..] {
                        b"promisor" => bool()?,
                        b"partialclonefilter" => true,
                        _ => false,
                    };
                }
                continue;
            }
            match (&variable.section[..], &variable.key[..]) {
                (b"core", b"repositoryformatversion") => {
                    version = variable.number().ok_or_else(|| bad_value(&variable))?;
                }
                (b"core", b"bare") => config.bare = Some(bool()?),
                (b"core", b"sharedrepository") => {
                    config.shared = shared(&variable).ok_or_else(|| bad_value(&variable))?;
                }
                (b"extensions", key) => match key {
                    b"noop" => {}
                    b"preciousobjects" => config.precious_objects = bool()?,
                    b"partialclone" => config.partial_clone = true,
                    b"worktreeconfig" => config.worktree_config = bool()?,
                    b"noop-v1" | b"relativeworktrees" | b"submodulepathconfig" => {
                        only_in_1 = Some(key.to_vec())
                    }
                    b"objectformat" => {
                        only_in_1 = Some(key.to_vec());
                        config.hash = match variable.value.as_deref() {
                            Some(b"sha1") => HashKind::Sha1,
                            Some(b"sha256") => HashKind::Sha256,
                            _ => return Err(unsupported(&variable)),
                        };
                    }
                    // Names in a second algorithm would have to be kept up to date.
                    b"compatobjectformat" => return Err(unsupported(&variable)),
                    b"refstorage" => {
                        only_in_1 = Some(key.to_vec());
                        if variable.value.as_deref() != Some(b"files") {
                            return Err(unsupported(&variable));
                        }
                    }
                    _ => unknown = Some(Error::Unsupported(format!("extension {}", escaped(key)))),
                },
                _ => {}
            }
        }
        match (version, unknown, only_in_1) {
            (0, _, Some(key)) => {
                Err(Error::Unsupported(format!("extension {} in format version 0", escaped(&key))))
            }
            // Version 0 lets a repository have extensions that nobody knows.
            (0, _, None) => Ok(config),
            (1, None, _) => Ok(config),
            (1, Some(unknown), _) => Err(unknown),
            (version, ..) => Err(Error::Unsupported(format!("format version {version}"))),
        }
    }

    /// Takes `core.bare` from a `config.worktree`.
    pub fn parse_worktree(&mut self, text: &[u8]) -> Result<()> {
        for variable in Variables::new(text) {
            let variable =
                variable.map_err(|line| Error::Invalid(format!("config.worktree: bad line {line}")))?;
            if variable.section == b"core" && variable.subsection.is_none() && variable.key == b"bare" {
                self.bare = Some(variable.bool().ok_or_else(|| bad_value(&variable))?);
            }
        }
        Ok(())
    }
}

fn escaped(bytes: &[u8]) -> String {
    bytes.escape_ascii().take(80).map(char::from).collect()
}

fn bad_value(variable: &Variable) -> Error {
    let value = variable.value.as_deref().unwrap_or_default();
    let (section, key) = (escaped(&variable.section), escaped(&variable.key));
    Error::Invalid(format!("config: {section}.{key}: bad value '{}'", escaped(value)))
}

fn unsupported(variable: &Variable) -> Error {
    let value = variable.value.as_deref().unwrap_or_default();
    Error::Unsupported(format!("extension {} {}", escaped(&variable.key), escaped(value)))
}

/// `core.sharedRepository` has words, truth values and octal modes.
fn shared(variable: &Variable) -> Option<Shared> {
    let Some(value) = variable.value.as_deref() else { return Some(Shared::Group) };
    match value {
        b"umask" => return Some(Shared::Umask),
        b"group" => return Some(Shared::Group),
        b"all" | b"world" | b"everybody" => return Some(Shared::All),
        _ => {}
    }
    let octal =
        value.len() <= 7 && !value.is_empty() && value.iter().all(|digit| (b'0'..=b'7').contains(digit));
    if !octal {
        return variable.bool().map(|on| if on { Shared::Group } else { Shared::Umask });
    }
    match value.iter().fold(0, |mode, digit| (mode << 3) | u32::from(digit - b'0')) {
        0 => Some(Shared::Umask),
        1 => Some(Shared::Group),
        2 => Some(Shared::All),
        // The owner must be able to read and write, as C git has it.
        mode if mode & 0o600 == 0o600 => Some(Shared::Mode(mode & 0o666)),
        _ => None,
    }
}

/// One assignment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variable {
    /// The section, in lower case; empty before the first.
    pub section: Vec<u8>,
    /// The subsection, as written.
    pub subsection: Option<Vec<u8>>,
    /// The key, in lower case.
    pub key: Vec<u8>,
    /// The value; none for a key that stands alone, which means true.
    pub value: Option<Vec<u8>>,
}

impl Variable {
    /// The value as a truth value.
    pub fn bool(&self) -> Option<bool> {
        let Some(value) = &self.value else { return Some(true) };
        match &value.to_ascii_lowercase()[..] {
            b"true" | b"yes" | b"on" => Some(true),
            b"false" | b"no" | b"off" | b"" => Some(false),
            _ => self.number().map(|number| number != 0),
        }
    }

    /// The value as a whole number, with C git's suffixes.
    pub fn number(&self) -> Option<i64> {
        let value = std::str::from_utf8(self.value.as_deref()?).ok()?.trim();
        let (digits, unit) = match value.as_bytes().last()?.to_ascii_lowercase() {
            b'k' => (&value[..value.len() - 1], 1 << 10),
            b'm' => (&value[..value.len() - 1], 1 << 20),
            b'g' => (&value[..value.len() - 1], 1 << 30),
            _ => (value, 1),
        };
        digits.parse::<i64>().ok()?.checked_mul(unit)
    }
}

/// The assignments of a file in the syntax of `git-config`. After an error, which is a line's
/// number, it ends.
#[derive(Debug)]
pub struct Variables<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
    section: Vec<u8>,
    subsection: Option<Vec<u8>>,
}

impl<'a> Variables<'a> {
    /// Reads a file's content.
    pub fn new(text: &'a [u8]) -> Variables<'a> {
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        Variables { text, at: 0, line: 1, section: Vec::new(), subsection: None }
    }

    /// The next byte; a carriage return before a line feed is none.
    fn next_byte(&mut self) -> Option<u8> {
        if self.text[self.at..].starts_with(b"\r\n") {
            self.at += 1;
        }
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        if byte == b'\n' {
            self.line += 1;
        }
        Some(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip_line(&mut self) {
        while self.next_byte().is_some_and(|byte| byte != b'\n') {}
    }

    /// What follows `[`.
    fn header(&mut self) -> Option<()> {
        self.section.clear();
        self.subsection = None;
        loop {
            match self.next_byte()? {
                b']' => break,
                b' ' | b'\t' => {
                    self.subsection = Some(self.quoted_name()?);
                    break;
                }
                byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.') => {
                    self.section.push(byte.to_ascii_lowercase());
                }
                _ => return None,
            }
        }
        // The old form [section.subsection], without case.
        if self.subsection.is_none()
            && let Some(dot) = self.section.iter().position(|&byte| byte == b'.')
        {
            self.subsection = Some(self.section[dot + 1..].to_vec());
            self.section.truncate(dot);
        }
        Some(())
    }

    /// A subsection in double quotes, up to `]`.
    fn quoted_name(&mut self) -> Option<Vec<u8>> {
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        if self.next_byte()? != b'"' {
            return None;
        }
        let mut name = Vec::new();
        loop {
            match self.next_byte()? {
                b'\n' => return None,
                b'"' => break,
                b'\\' => match self.next_byte()? {
                    b'\n' => return None,
                    byte => name.push(byte),
                },
                byte => name.push(byte),
            }
        }
        (self.next_byte()? == b']').then_some(name)
    }

    /// A key that begins with `first`, and its value.
    fn variable(&mut self, first: u8) -> Option<Variable> {
        let mut key = vec![first.to_ascii_lowercase()];
        while let Some(byte) = self.peek().filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
            key.push(byte.to_ascii_lowercase());
            self.at += 1;
        }
        while matches!(self.peek(), Some(b' ' | b'\t')) {
            self.at += 1;
        }
        let value = match self.next_byte() {
            None | Some(b'\n') => None,
            Some(b'=') => Some(self.value()?),
            Some(b'#' | b';') => {
                self.skip_line();
                None
            }
            Some(_) => return None,
        };
        Some(Variable { section: self.section.clone(), subsection: self.subsection.clone(), key, value })
    }

    /// What follows `=`, up to the end of the line.
    fn value(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        // How much of it is not white space at the end, which only quotes keep.
        let mut kept = 0;
        let mut quoted = false;
        loop {
            match self.next_byte() {
                None | Some(b'\n') if quoted => return None,
                None | Some(b'\n') => break,
                Some(b'#' | b';') if !quoted => {
                    self.skip_line();
                    break;
                }
                Some(b'"') => {
                    quoted = !quoted;
                    kept = value.len();
                    continue;
                }
                Some(b'\\') => {
                    match self.next_byte()? {
                        b'\n' => continue,
                        b't' => value.push(b'\t'),
                        b'b' => value.push(8),
                        b'n' => value.push(b'\n'),
                        byte @ (b'\\' | b'"') => value.push(byte),
                        _ => return None,
                    }
                    kept = value.len();
                    continue;
                }
                Some(byte) if byte.is_ascii_whitespace() && !quoted => {
                    if !value.is_empty() {
                        value.push(byte);
                    }
                    continue;
                }
                Some(byte) => value.push(byte),
            }
            kept = value.len();
        }
        value.truncate(kept);
        Some(value)
    }
}

impl Iterator for Variables<'_> {
    type Item = std::result::Result<Variable, usize>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let line = self.line;
            let found = match self.next_byte()? {
                byte if byte.is_ascii_whitespace() => continue,
                b'#' | b';' => {
                    self.skip_line();
                    continue;
                }
                b'[' => self.header().map(|()| None),
                byte if byte.is_ascii_alphabetic() => self.variable(byte).map(Some),
                _ => None,
            };
            match found {
                Some(None) => {}
                Some(Some(variable)) => return Some(Ok(variable)),
                None => {
                    self.at = self.text.len();
                    return Some(Err(line));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_file() {
        let config =
            Config::parse(b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n")
                .unwrap();
        assert_eq!((config.bare, config.hash, config.shared), (Some(true), HashKind::Sha1, Shared::Umask));
    }

    #[test]
    fn versions_and_extensions() {
        let hash =
            |text: &str| Config::parse(text.as_bytes()).map(|config| config.hash).map_err(|e| e.to_string());
        let v1 = "[core]\nrepositoryformatversion=1\n[extensions]\n";
        assert_eq!(hash(&format!("{v1}objectFormat = sha256")), Ok(HashKind::Sha256));
        assert_eq!(hash(&format!("{v1}objectformat = sha1\nnoop\nworktreeConfig=yes")), Ok(HashKind::Sha1));
        for (text, why) in [
            (format!("{v1}frotz = 1"), "repository not supported: extension frotz"),
            (format!("{v1}refstorage = reftable"), "repository not supported: extension refstorage reftable"),
            (format!("{v1}objectformat = md5"), "repository not supported: extension objectformat md5"),
            (
                "[extensions]\nobjectformat=sha256".to_owned(),
                "repository not supported: extension objectformat in format version 0",
            ),
            ("[core]\nrepositoryformatversion = 2".to_owned(), "repository not supported: format version 2"),
            (
                "[core]\nrepositoryformatversion = -1".to_owned(),
                "repository not supported: format version -1",
            ),
            (
                "[core]\nrepositoryformatversion = x".to_owned(),
                "config: core.repositoryformatversion: bad value 'x'",
            ),
            ("[core\nbare = true".to_owned(), "config: bad line 1"),
            ("[core]\n\n= true".to_owned(), "config: bad line 3"),
        ] {
            assert_eq!(hash(&text).unwrap_err(), why);
        }
        assert_eq!(
            hash("[extensions]\nfrotz = 1"),
            Ok(HashKind::Sha1),
            "version 0 ignores what it does not know"
        );
        assert_eq!(hash("[extensions \"x\"]\nobjectformat=md5\n[extensions.y]\nfrotz=1"), Ok(HashKind::Sha1));
    }

    #[test]
    fn sharing() {
        for (value, want) in [
            ("= group", Some(Shared::Group)),
            ("", Some(Shared::Group)),
            ("= true", Some(Shared::Group)),
            ("= 0", Some(Shared::Umask)),
            ("= all", Some(Shared::All)),
            ("= 0660", Some(Shared::Mode(0o660))),
            ("= 0777", Some(Shared::Mode(0o666))),
            ("= 0070", None),
            ("= perhaps", None),
        ] {
            let text = format!("[core]\nsharedRepository {value}\n");
            assert_eq!(Config::parse(text.as_bytes()).ok().map(|config| config.shared), want, "{value}");
        }
    }

    /// Every well-formed file means to C git what it means here.
    #[test]
    fn syntax_is_git_s() {
        for text in [
            "[a]b=c",
            "[A]\nB = c d  e  ; comment",
            "[a \"B c\"]\n\tx = \"  y # z \" w\\\n  more\n",
            "[a \"q\\\"\\\\\\x\"]x=\"a\\tb\\nc\\\\\" # d",
            "[a.B]\nc\nd=\ne = # nothing\n; comment\n",
            "\u{feff}[a]\r\nb = c\r\n\r\n",
            "[a] b = c\n  d2-x=e",
            "[a]\nb = \"x\"y\"z\"  \n",
            "[a]\nb c",
            "[a]\nb = \"x",
            "[a]\nb = \\q",
            "[a b]\nc=d",
            "x = y",
            "[a]\n2=3",
            "[a_b]\nc=d",
            "[a]\nb",
            "[include]\npath = other\n[a]\nb=1",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("config");
            std::fs::write(&file, text).unwrap();
            let git = std::process::Command::new("git")
                .args(["config", "--no-includes", "-z", "--list", "--file"])
                .arg(&file)
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("HOME", dir.path())
                .output()
                .unwrap();
            let ours: std::result::Result<Vec<_>, usize> = Variables::new(text.as_bytes()).collect();
            let Ok(ours) = ours else {
                assert!(!git.status.success(), "git takes {text:?}");
                continue;
            };
            assert!(git.status.success(), "git refuses {text:?}");
            let mut printed = Vec::new();
            for variable in ours {
                printed.extend(&variable.section);
                if let Some(subsection) = &variable.subsection {
                    printed.push(b'.');
                    printed.extend(subsection);
                }
                if !variable.section.is_empty() {
                    printed.push(b'.');
                }
                printed.extend(&variable.key);
                if let Some(value) = &variable.value {
                    printed.push(b'\n');
                    printed.extend(value);
                }
                printed.push(0);
            }
            assert_eq!(printed.escape_ascii().to_string(), git.stdout.escape_ascii().to_string(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "[\\[\\]a-c=\"\\\\ \n\r;#.0-2]{0,60}") {
            let _ = Config::parse(text.as_bytes());
        }
    }

    #[test]
    fn a_partial_clone_is_known_by_its_extension_or_its_remote() {
        for (text, partial) in [
            ("[extensions]\npartialClone = origin\n", true),
            ("[remote \"origin\"]\npromisor = true\n", true),
            ("[remote \"a.b\"]\npromisor\n", true),
            ("[remote \"origin\"]\npartialCloneFilter = blob:none\n", true),
            ("[remote \"origin\"]\npromisor = false\nurl = x\n", false),
            ("[branch \"main\"]\npromisor = true\n", false),
        ] {
            assert_eq!(Config::parse(text.as_bytes()).unwrap().partial_clone, partial, "{text}");
        }
        assert!(Config::parse(b"[remote \"origin\"]\npromisor = perhaps\n").is_err());
    }
}
