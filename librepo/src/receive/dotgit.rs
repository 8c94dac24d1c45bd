//! Names that some file system takes for `.git`, `.gitmodules` or `.gitattributes` (CVE-2014-9390,
//! CVE-2018-11235).
//!
//! HFS+ ignores case and some invisible characters. NTFS ignores case, trailing dots and blanks,
//! and everything behind a colon; it has short names such as `GIT~1`. Rules and short names are
//! those of git's `path.c` and `utf8.c`.

/// Whether a name needs the closer look below. Almost none does.
#[inline]
pub(super) fn suspicious(name: &[u8]) -> bool {
    matches!(name.first(), Some(b'.' | b'g' | b'G' | 0xe2 | 0xef))
        || name.iter().fold(false, |found, &byte| found | (byte == b'\\'))
}

/// Whether HFS+ or NTFS takes this name for `.git`.
pub(super) fn is_dotgit(name: &[u8]) -> bool {
    hfs_dot(name, b"git") || after_each_backslash(name).any(ntfs_dotgit)
}

/// Whether git reads a file of this name as `.gitmodules` somewhere.
pub(super) fn is_gitmodules(name: &[u8]) -> bool {
    hfs_dot(name, b"gitmodules")
        || after_each_backslash(name).any(|name| ntfs_dot(name, b"gitmodules", b"gi7eba"))
}

/// Whether git reads a file of this name as `.gitattributes` somewhere.
pub(super) fn is_gitattributes(name: &[u8]) -> bool {
    hfs_dot(name, b"gitattributes") || ntfs_dot(name, b"gitattributes", b"gi7d29")
}

/// The name, and what follows each backslash in it, which separates directories on NTFS.
fn after_each_backslash(name: &[u8]) -> impl Iterator<Item = &[u8]> {
    let starts = name.iter().enumerate().filter(|(_, byte)| **byte == b'\\').map(|(at, _)| at + 1);
    std::iter::once(0).chain(starts).map(|at| &name[at..])
}

fn ntfs_dotgit(name: &[u8]) -> bool {
    let rest = match name {
        [b'.', g, i, t, rest @ ..] if [*g, *i, *t].eq_ignore_ascii_case(b"git") => rest,
        [g, i, t, b'~', b'1', rest @ ..] if [*g, *i, *t].eq_ignore_ascii_case(b"git") => rest,
        _ => return false,
    };
    let end = rest.iter().find(|byte| !matches!(byte, b'.' | b' '));
    matches!(end, None | Some(b'\\' | b'/' | b':'))
}

fn ntfs_dot(name: &[u8], dotgit: &[u8], short: &[u8; 6]) -> bool {
    let only_ignored = |rest: &[u8]| {
        let end = rest.iter().find(|byte| !matches!(byte, b'.' | b' '));
        matches!(end, None | Some(b':'))
    };
    if let [b'.', rest @ ..] = name
        && let Some((start, rest)) = rest.split_at_checked(dotgit.len())
        && start.eq_ignore_ascii_case(dotgit)
    {
        return only_ignored(rest);
    }
    let Some((start, rest)) = name.split_at_checked(8) else { return false };
    if start[..6].eq_ignore_ascii_case(&dotgit[..6]) && start[6] == b'~' && matches!(start[7], b'1'..=b'4') {
        return only_ignored(rest);
    }
    fallback_short(start, short) && only_ignored(rest)
}

/// The short names that NTFS makes up from a hash once `~4` is taken: up to six characters of the
/// prefix, a tilde, digits.
fn fallback_short(start: &[u8], short: &[u8; 6]) -> bool {
    let Some(tilde) = start.iter().position(|&byte| byte == b'~') else { return false };
    let digits = &start[tilde + 1..];
    tilde <= 6
        && start[..tilde].eq_ignore_ascii_case(&short[..tilde])
        && matches!(digits.first(), Some(b'1'..=b'9'))
        && digits.iter().all(u8::is_ascii_digit)
}

/// Whether HFS+ would take the name for `.` and `rest`.
fn hfs_dot(name: &[u8], rest: &[u8]) -> bool {
    let mut chars = HfsChars(name);
    chars.next() == Some('.')
        && rest.iter().all(|&want| chars.next().is_some_and(|c| c.to_ascii_lowercase() == char::from(want)))
        && matches!(chars.next(), None | Some('/'))
}

/// The characters of a name without those that HFS+ ignores. Ends at the first malformed one, as
/// git's reader does.
struct HfsChars<'a>(&'a [u8]);

impl Iterator for HfsChars<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        loop {
            let length = match self.0.first()? {
                0..=0x7f => 1,
                0xc0..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            let (bytes, rest) = self.0.split_at_checked(length)?;
            let c = std::str::from_utf8(bytes).ok()?.chars().next()?;
            self.0 = rest;
            let ignored = matches!(c,
                '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}');
            if !ignored {
                return Some(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disguises_of_dot_git() {
        for name in [
            ".git",
            ".GIT",
            ".Git",
            ".git.",
            ".git ",
            ".git...",
            ".git ::",
            ".git::$INDEX_ALLOCATION",
            "git~1",
            "GIT~1",
            "git~1 .",
            "a\\.git",
            "a\\git~1\\b",
            ".git\\x",
            ".gi\u{200c}t",
            "\u{feff}.git",
            ".g\u{206f}it\u{202e}",
        ] {
            assert!(suspicious(name.as_bytes()) && is_dotgit(name.as_bytes()), "{name:?}");
        }
        for name in [".gitx", "git", "git~2", ".gi", "x.git", ".git-x", "gitmodules", ".github", "git~1x"] {
            assert!(!is_dotgit(name.as_bytes()), "{name:?}");
        }
    }

    #[test]
    fn disguises_of_gitmodules() {
        for name in [
            ".gitmodules",
            ".GITMODULES",
            ".gitmodules ",
            ".gitmodules . .",
            ".gitmodules::$DATA",
            "GITMOD~1",
            "gitmod~4",
            "GI7EBA~1",
            "gi7eba~9",
            "GI7EB~10",
            "~1000000",
            "~9999999",
            "gi7e~123 ",
            "a\\.gitmodules",
            ".gitm\u{200c}odules",
        ] {
            assert!(is_gitmodules(name.as_bytes()), "{name:?}");
        }
        for name in [
            "gitmodules",
            ".gitmodule",
            ".gitmodulesx",
            "gitmod~5",
            "gitmod~0",
            "GI7EBA~0",
            "GI7EBA~x",
            "GI7EBA1~",
            "~000000",
            "GI7EBA~",
            "GI7D29~1",
            "gi7eba",
        ] {
            assert!(!is_gitmodules(name.as_bytes()), "{name:?}");
        }
        assert!(
            is_gitattributes(b".gitattributes")
                && is_gitattributes(b"GI7D29~1")
                && !is_gitattributes(b"GI7EBA~1")
        );
    }
}
