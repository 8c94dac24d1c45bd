//! What a `.gitmodules` file may say (CVE-2018-17456, CVE-2020-5260, CVE-2020-11008): git's
//! configuration syntax, read for the settings that have sunk clients.

use super::check::{self, Message, Policy, Problem};

/// Checks the content of a `.gitmodules` file. What follows a mistake in the syntax is not read, as
/// git does not read it either.
pub(super) fn check(policy: &Policy, data: &[u8]) -> Result<(), Problem> {
    let mut parser = Parser { rest: data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data), section: None };
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
    if url.starts_with(b"./") || url.starts_with(b"../") || url.starts_with(b"git://") {
        return !decodes_to_newline(url) && !escapes_its_root(url);
    }
    match curl_url(url) {
        Some(url) => good_curl_url(url),
        None => true,
    }
}

/// `../../:x` and `..//x` would replace the host of the URL that they are resolved against.
fn escapes_its_root(url: &[u8]) -> bool {
    let (mut rest, mut ups) = (url, false);
    loop {
        if let Some(after) = rest.strip_prefix(b"../") {
            (rest, ups) = (after, true);
        } else if let Some(after) = rest.strip_prefix(b"./") {
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

/// Whether git's normalization would take the URL: a scheme, a host, a sane port, well-formed
/// escapes, and no line feed.
fn good_curl_url(url: &[u8]) -> bool {
    let is_scheme = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'-');
    let length = url.iter().take_while(|byte| is_scheme(byte)).count();
    let Some(rest) = url[length..].strip_prefix(b"://") else { return false };
    if length == 0 || !url[0].is_ascii_alphabetic() || !good_escapes(url) {
        return false;
    }
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let host = rest[..end].rsplit(|&byte| byte == b'@').next().unwrap_or(&[]);
    let (host, port) = match host.iter().rposition(|&byte| byte == b':') {
        Some(colon) if !host.ends_with(b"]") => (&host[..colon], &host[colon + 1..]),
        _ => (host, &[][..]),
    };
    let host_ok = host.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_[]:%".contains(byte));
    let port_ok = port.len() <= 5 && port.iter().all(u8::is_ascii_digit);
    !host.is_empty() && host_ok && port_ok && !decodes_to_newline(url)
}

fn good_escapes(url: &[u8]) -> bool {
    let mut rest = url;
    while let Some(at) = rest.iter().position(|&byte| byte == b'%') {
        match rest.get(at + 1..at + 3) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) && digits != b"00" => {
                rest = &rest[at + 3..]
            }
            _ => return false,
        }
    }
    true
}

/// Whether the URL holds a line feed once its escapes are decoded: it would forge a line of the
/// credential protocol.
fn decodes_to_newline(url: &[u8]) -> bool {
    url.contains(&b'\n') || url.windows(3).any(|part| part.eq_ignore_ascii_case(b"%0a"))
}

/// A setting below `[submodule "name"]`: the name, the key in lower case, the value if it has one.
type Setting = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

struct Parser<'a> {
    rest: &'a [u8],
    /// The submodule's name while inside of its section.
    section: Option<Vec<u8>>,
}

impl Parser<'_> {
    /// The next setting of a submodule; `None` at the end and at the first mistake.
    fn next(&mut self) -> Option<Setting> {
        loop {
            match self.byte()? {
                b'#' | b';' => self.comment(),
                byte if byte.is_ascii_whitespace() => {}
                b'[' => self.section = self.section()?,
                byte if byte.is_ascii_alphabetic() => {
                    let (key, value) = self.setting(byte)?;
                    if let Some(name) = &self.section {
                        return Some((c_string(name.clone()), key, value.map(c_string)));
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

    /// After the bracket: the submodule's name, or inner `None` for another section.
    fn section(&mut self) -> Option<Option<Vec<u8>>> {
        let mut name = Vec::new();
        loop {
            match self.byte()? {
                b']' => {
                    let submodule = name.strip_prefix(b"submodule.").map(<[u8]>::to_vec);
                    return Some(submodule);
                }
                byte if byte.is_ascii_whitespace() => {
                    let sub = self.quoted_section()?;
                    return Some((name == b"submodule").then_some(sub));
                }
                byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.') => {
                    name.push(byte.to_ascii_lowercase());
                }
                _ => return None,
            }
        }
    }

    fn quoted_section(&mut self) -> Option<Vec<u8>> {
        let mut byte = self.byte()?;
        while byte.is_ascii_whitespace() {
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
                Some(byte) if byte.is_ascii_whitespace() && !quoted => {
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
                    b'\n' => continue,
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
