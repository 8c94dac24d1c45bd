//! What a `.gitmodules` file may say (CVE-2018-17456, CVE-2020-5260, CVE-2020-11008): git's
//! configuration syntax, read for the settings that have sunk clients.

use super::check::{self, Message, Policy, Problem};

/// Checks the content of a `.gitmodules` file. What follows a mistake in the syntax is not read, as
/// git does not read it either.
pub(super) fn check(policy: &Policy, data: &[u8]) -> Result<(), Problem> {
    let mut parser = Parser { rest: data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data), section: Vec::new() };
    while let Some((name, key, value)) = parser.next() {
        if !good_name(&name) {
            check::report(policy, Message::GitmodulesName, "disallowed submodule name")?;
        }
        let Some(value) = value else { continue };
        match key.as_slice() {
            b"url" if !good_url(&value) => {
                check::report(policy, Message::GitmodulesUrl, "disallowed submodule url")?;
            }
            b"path" if value.starts_with(b"-") => {
                check::report(policy, Message::GitmodulesPath, "disallowed submodule path")?;
            }
            b"update" if value.starts_with(b"!") => {
                check::report(policy, Message::GitmodulesUpdate, "disallowed submodule update setting")?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// A submodule's name becomes a path below `.git/modules`.
fn good_name(name: &[u8]) -> bool {
    !name.is_empty() && !name.split(|byte| matches!(byte, b'/' | b'\\')).any(|component| component == b"..")
}

fn good_url(url: &[u8]) -> bool {
    if url.starts_with(b"-") {
        return false;
    }
    if after_dots(url, 1).is_some() || after_dots(url, 2).is_some() || url.starts_with(b"git://") {
        return !decodes_to_newline(url) && !escapes_its_root(url);
    }
    match curl_url(url) {
        Some(url) => good_curl_url(url),
        None => true,
    }
}

/// What follows so many dots and a separator of directories, of any system: a backslash is one too.
fn after_dots(url: &[u8], dots: usize) -> Option<&[u8]> {
    let (start, rest) = url.split_at_checked(dots)?;
    let rest = rest.strip_prefix(b"/").or_else(|| rest.strip_prefix(b"\\"))?;
    start.iter().all(|&byte| byte == b'.').then_some(rest)
}

/// `../../:x` and `..//x` would replace the host of the URL that they are resolved against.
fn escapes_its_root(url: &[u8]) -> bool {
    let (mut rest, mut ups) = (url, false);
    loop {
        if let Some(after) = after_dots(rest, 2) {
            (rest, ups) = (after, true);
        } else if let Some(after) = after_dots(rest, 1) {
            rest = after;
        } else {
            return ups && matches!(rest.first(), Some(b':' | b'/'));
        }
    }
}

/// The URL that git would hand to curl.
fn curl_url(url: &[u8]) -> Option<&[u8]> {
    for scheme in ["http", "https", "ftp", "ftps"] {
        let Some(rest) = url.strip_prefix(scheme.as_bytes()) else { continue };
        if let Some(inner) = rest.strip_prefix(b"::") {
            return Some(inner);
        }
        if rest.starts_with(b"://") {
            return Some(url);
        }
    }
    None
}

/// Whether git's normalization would take the URL (a scheme, a host, a sane port, well-formed
/// escapes, no `..` above the root), and there is no line feed in what becomes of it.
fn good_curl_url(url: &[u8]) -> bool {
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-');
    let length = url.iter().take_while(|byte| is_scheme(byte)).count();
    let (scheme, rest) = url.split_at(length);
    let Some(rest) = rest.strip_prefix(b"://") else { return false };
    if !scheme.first().is_some_and(u8::is_ascii_alphabetic) {
        return false;
    }
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (user, authority) = match authority.iter().position(|&byte| byte == b'@') {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (&[][..], authority),
    };
    good_text(user) && good_authority(authority, scheme.eq_ignore_ascii_case(b"file")) && good_path(rest)
}

/// Host and port. The host may be missing only where a file is named.
fn good_authority(authority: &[u8], file: bool) -> bool {
    let colon = authority.iter().rposition(|byte| matches!(byte, b':' | b']'));
    let (host, port) = match colon.filter(|&at| authority[at] == b':') {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (authority, &[][..]),
    };
    // A host that begins with a colon is none.
    if matches!(host.first(), None | Some(b':')) && !(file && port.is_empty()) {
        return false;
    }
    let zeros = port.iter().take_while(|&&byte| byte == b'0').count();
    let number = port[zeros..].iter().try_fold(0_u32, |number, byte| {
        let next = number * 10 + u32::from(byte.is_ascii_digit().then(|| byte - b'0')?);
        (next <= 65_535).then_some(next)
    });
    let port_ok = port.is_empty() || number.is_some_and(|number| number > 0);
    port_ok && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:".contains(byte))
}

/// The path, and what follows it. A component that a later `..` takes away is not looked at
/// further.
fn good_path(rest: &[u8]) -> bool {
    let end = rest.iter().position(|byte| matches!(byte, b'?' | b'#')).unwrap_or(rest.len());
    let (path, query) = rest.split_at(end);
    let mut kept: Vec<Vec<u8>> = Vec::new();
    for component in path.strip_prefix(b"/").unwrap_or(path).split(|&byte| byte == b'/') {
        let Some(component) = unescaped(component) else { return false };
        match component.as_slice() {
            b"." => {}
            b".." if kept.pop().is_none() => return false,
            b".." => {}
            _ => kept.push(component),
        }
    }
    !kept.iter().any(|component| component.contains(&b'\n')) && good_text(query)
}

/// Whether the escapes are well-formed and none of the characters is a line feed.
fn good_text(text: &[u8]) -> bool {
    unescaped(text).is_some_and(|text| !text.contains(&b'\n'))
}

/// The bytes with their escapes decoded; `None` if an escape is none.
fn unescaped(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            out.push(hex_byte(digits)?);
            rest = after;
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    match digits {
        &[high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    }
}

/// Whether the URL holds a line feed once its escapes are decoded: it would forge a line of the
/// credential protocol. What stands before the first colon is no part that git decodes.
fn decodes_to_newline(url: &[u8]) -> bool {
    let colon = url.iter().position(|&byte| byte == b':').unwrap_or(0);
    url.contains(&b'\n') || url[colon..].windows(3).any(|part| part.eq_ignore_ascii_case(b"%0a"))
}

/// A setting below `[submodule "name"]`: the name, the key in lower case, the value if it has one.
type Setting = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

struct Parser<'a> {
    rest: &'a [u8],
    /// What the variables of this section begin with: `submodule.name.`.
    section: Vec<u8>,
}

/// Takes a variable apart as git does, which keeps it as a C string: `submodule`, the name up to
/// the last dot, and the key. `[submodule.x "y"]` is about `x.y`.
fn of_submodule(section: &[u8], key: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let variable = c_string([section, key].concat());
    let rest = variable.strip_prefix(b"submodule.")?;
    let dot = rest.iter().rposition(|&byte| byte == b'.')?;
    Some((rest[..dot].to_vec(), rest[dot + 1..].to_vec()))
}

/// What git takes for blank: not a form feed.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

impl Parser<'_> {
    /// The next setting of a submodule; `None` at the end and at the first mistake.
    fn next(&mut self) -> Option<Setting> {
        loop {
            match self.byte()? {
                b'#' | b';' => self.comment(),
                byte if is_blank(byte) => {}
                b'[' => self.section = self.section()?,
                byte if byte.is_ascii_alphabetic() => {
                    let (key, value) = self.setting(byte)?;
                    if let Some((name, key)) = of_submodule(&self.section, &key) {
                        return Some((name, key, value.map(c_string)));
                    }
                }
                _ => return None,
            }
        }
    }

    /// The next byte, a carriage return before a line feed skipped.
    fn byte(&mut self) -> Option<u8> {
        if self.rest.starts_with(b"\r\n") {
            self.rest = &self.rest[1..];
        }
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn comment(&mut self) {
        while self.byte().is_some_and(|byte| byte != b'\n') {}
    }

    /// After the bracket: what the variables of the section begin with, with a dot at the end.
    fn section(&mut self) -> Option<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            match self.byte()? {
                b']' if name.is_empty() => return None,
                b']' => break,
                byte if is_blank(byte) => {
                    let sub = self.quoted_section(byte)?;
                    name.push(b'.');
                    name.extend_from_slice(&sub);
                    break;
                }
                byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.') => {
                    name.push(byte.to_ascii_lowercase());
                }
                _ => return None,
            }
        }
        name.push(b'.');
        Some(name)
    }

    fn quoted_section(&mut self, blank: u8) -> Option<Vec<u8>> {
        let mut byte = blank;
        while is_blank(byte) {
            if byte == b'\n' {
                return None;
            }
            byte = self.byte()?;
        }
        if byte != b'"' {
            return None;
        }
        let mut name = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return None,
                b'"' => return (self.byte()? == b']').then_some(name),
                b'\\' => match self.byte()? {
                    b'\n' => return None,
                    byte => name.push(byte),
                },
                byte => name.push(byte),
            }
        }
    }

    fn setting(&mut self, first: u8) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let mut key = vec![first.to_ascii_lowercase()];
        let mut byte = self.byte();
        while let Some(more) = byte.filter(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
            key.push(more.to_ascii_lowercase());
            byte = self.byte();
        }
        while matches!(byte, Some(b' ' | b'\t')) {
            byte = self.byte();
        }
        match byte {
            None | Some(b'\n') => Some((key, None)),
            Some(b'=') => Some((key, Some(self.value()?))),
            Some(_) => None,
        }
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let (mut value, mut keep, mut quoted) = (Vec::new(), 0, false);
        loop {
            match self.byte() {
                None | Some(b'\n') if quoted => return None,
                None | Some(b'\n') => break,
                Some(byte) if is_blank(byte) && !quoted => {
                    // Blanks at the start and the end do not count.
                    if !value.is_empty() {
                        value.push(byte);
                    }
                    continue;
                }
                Some(b'#' | b';') if !quoted => {
                    self.comment();
                    break;
                }
                Some(b'\\') => match self.byte()? {
                    b'\n' => {}
                    b't' => value.push(b'\t'),
                    b'b' => value.push(8),
                    b'n' => value.push(b'\n'),
                    byte @ (b'\\' | b'"') => value.push(byte),
                    _ => return None,
                },
                Some(b'"') => quoted = !quoted,
                Some(byte) => value.push(byte),
            }
            keep = value.len();
        }
        value.truncate(keep);
        Some(value)
    }
}

/// git handles names and values as C strings.
fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str) -> Option<Message> {
        check(&Policy::default(), text.as_bytes()).err().map(|problem| problem.message)
    }

    #[test]
    fn good_files_pass() {
        for text in [
            "",
            "[submodule \"lib/a\"]\n\tpath = lib/a\n\turl = https://example.org/a.git\n\tupdate = rebase\n",
            "[submodule \"a\"]\n\turl = ../a.git\n[submodule \"b\"]\nurl = git@example.org:b.git ; c\n",
            "[other]\n\turl = -x\n",
            "\u{feff}# c\r\n[submodule \"a\"]\r\n\turl = https://u:p@example.org:8080/x?y#z\r\n",
        ] {
            assert_eq!(verdict(text), None, "{text}");
        }
    }

    #[test]
    fn bad_settings_are_named() {
        use Message::*;
        for (text, message) in [
            ("[submodule \"../../x\"]\n\turl = a\n", GitmodulesName),
            ("[submodule \"a\\\\..\\\\x\"]\n\turl = a\n", GitmodulesName),
            ("[submodule \"\"]\n\turl = a\n", GitmodulesName),
            ("[submodule.a/..]\n", GitmodulesName),
            ("[submodule \"a\"]\n\turl = -oProxyCommand=x\n", GitmodulesUrl),
            ("[Submodule \"a\"]\n\tURL = \"-o\"\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = \\\n-o\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = https://example.org/%0ahost=x\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = ./%0ahost=x\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = ../../:x\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = ..//x\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = http::x\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\turl = https:///x\n", GitmodulesUrl),
            ("[submodule \"a\"]\n\tpath = -x\n", GitmodulesPath),
            ("[submodule \"a\"]\n\tupdate = !rm\n", GitmodulesUpdate),
        ] {
            let want = (!text.starts_with("[submodule.a")).then_some(message);
            assert_eq!(verdict(text), want, "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in "(\\[submodule \"a\"\\]\n)?[ -~\n\\\\\"]{0,80}") {
            let _ = check(&Policy::default(), text.as_bytes());
        }
    }
}
