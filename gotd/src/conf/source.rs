//! Where the text of the configuration comes from.

use std::collections::BTreeMap;

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
    /// be had, in words that follow `PATH: `.
    fn load(&mut self, path: &str) -> Result<Vec<u8>, String>;

    /// The paths that match a pattern whose last component may hold `*` and `?`, sorted by name, at
    /// most [`FILES_MAX`]. No match is an empty list, not an error.
    fn expand(&mut self, pattern: &str) -> Result<Vec<String>, String>;
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
    fn load(&mut self, path: &str) -> Result<Vec<u8>, String> {
        self.0.get(path).cloned().ok_or_else(|| "no such file".to_owned())
    }

    fn expand(&mut self, pattern: &str) -> Result<Vec<String>, String> {
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
