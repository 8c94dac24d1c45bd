//! gotd-secrets.conf(5): credentials for notifications, one in a line, in C gotd's format.
//!
//! Words are separated by blanks; quotes of either kind and backslashes work inside words, as in a
//! shell; a `#` is a comment only at the start of a line.

use super::error::ConfigError;
use super::model::Secret;

/// Most secrets in a file.
pub const SECRETS_MAX: usize = 10_000;
/// Largest file, in bytes.
pub const SECRETS_FILE_MAX: usize = 1 << 20;
/// Longest word, in bytes.
const WORD_MAX: usize = 4000;

/// Parses the file. All errors are reported, none of them shows a secret.
pub fn parse(path: &str, text: &[u8]) -> Result<Vec<Secret>, Vec<ConfigError>> {
    if text.len() > SECRETS_FILE_MAX {
        return Err(vec![ConfigError::whole(path, format!("larger than {SECRETS_FILE_MAX} bytes"))]);
    }
    // C gotd reads bytes, comments in Latin-1 among them.
    let text = String::from_utf8_lossy(text);
    let mut secrets: Vec<Secret> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut errors = Vec::new();
    for (number, line) in (1_u32..).zip(text.lines()) {
        let trimmed = line.trim_start_matches([' ', '\t']);
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let fail = |(column, message): (u32, String)| ConfigError {
            file: path.to_owned(),
            line: number,
            column,
            message,
        };
        let parsed = parse_line(line).and_then(|secret| {
            let fresh = seen.insert((matches!(secret, Secret::Auth { .. }), secret.label().to_owned()));
            if fresh {
                Ok(secret)
            } else {
                Err((1, format!("the label \"{}\" is already in use", secret.label())))
            }
        });
        match parsed {
            Ok(_) if secrets.len() >= SECRETS_MAX => {
                errors.push(fail((1, format!("more than {SECRETS_MAX} secrets"))));
                break;
            }
            Ok(secret) => secrets.push(secret),
            Err(error) if errors.len() < 100 => errors.push(fail(error)),
            Err(_) => break,
        }
    }
    if errors.is_empty() { Ok(secrets) } else { Err(errors) }
}

type Wrong = (u32, String);

fn parse_line(line: &str) -> Result<Secret, Wrong> {
    let mut rest = Words { chars: line.chars().collect(), next: 0 };
    let kind = rest.word("auth or hmac")?;
    let secret = match kind.as_str() {
        "auth" => {
            let label = rest.word("a label")?;
            rest.keyword("user")?;
            let user = rest.word("a user")?;
            rest.keyword("password")?;
            Secret::Auth { label, user, password: rest.word("a password")? }
        }
        "hmac" => Secret::Hmac { label: rest.word("a label")?, secret: rest.word("a secret")? },
        _ => return Err((rest.first_column(), "expected auth or hmac".to_owned())),
    };
    rest.skip_blanks();
    match rest.chars.get(rest.next) {
        None => Ok(secret),
        Some(_) => Err((rest.column(), "expected the end of the line".to_owned())),
    }
}

struct Words {
    chars: Vec<char>,
    next: usize,
}

impl Words {
    fn column(&self) -> u32 {
        u32::try_from(self.next).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn first_column(&self) -> u32 {
        let blanks = self.chars.iter().take_while(|c| matches!(c, ' ' | '\t')).count();
        u32::try_from(blanks).unwrap_or(u32::MAX).saturating_add(1)
    }

    fn skip_blanks(&mut self) {
        while matches!(self.chars.get(self.next), Some(' ' | '\t')) {
            self.next += 1;
        }
    }

    fn keyword(&mut self, keyword: &str) -> Result<(), Wrong> {
        self.skip_blanks();
        let at = self.column();
        let what = format!("\"{keyword}\"");
        if self.word(&what)? == keyword { Ok(()) } else { Err((at, format!("expected {what}"))) }
    }

    fn word(&mut self, what: &str) -> Result<String, Wrong> {
        self.skip_blanks();
        let at = self.column();
        if self.chars.get(self.next).is_none() {
            return Err((at, format!("expected {what}, found the end of the line")));
        }
        let (mut word, mut quote, mut escaped) = (String::new(), None, false);
        while let Some(&c) = self.chars.get(self.next) {
            self.next += 1;
            if escaped {
                escaped = false;
                word.push(c);
            } else if c == '\\' {
                escaped = true;
            } else if quote == Some(c) {
                quote = None;
            } else if c == '"' || c == '\'' {
                // As for C gotd, a quote of the other kind inside quotes takes over.
                quote = Some(c);
            } else if quote.is_none() && matches!(c, ' ' | '\t') {
                break;
            } else {
                word.push(c);
            }
        }
        if quote.is_some() {
            return Err((at, "no closing quote".to_owned()));
        }
        if escaped {
            return Err((self.column().saturating_sub(1), "unterminated escape at end of line".to_owned()));
        }
        if word.len() > WORD_MAX || word.contains(|c: char| c.is_control() && c != '\t') {
            return Err((
                at,
                format!("expected {what} of at most {WORD_MAX} bytes without control characters"),
            ));
        }
        Ok(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(label: &str, user: &str, password: &str) -> Secret {
        Secret::Auth { label: label.into(), user: user.into(), password: password.into() }
    }

    #[test]
    fn secrets_as_c_gotd_reads_them() {
        let text = "# comment\n  # another\n\nhmac mochi MWZJ/o=\n\tauth \"mochi\" user fl\"a\"'n' password \"hello world\"' !'\n\
                    auth mochi2 user flan password hello\\ world\\ \\\"!\n";
        let expected = [
            Secret::Hmac { label: "mochi".into(), secret: "MWZJ/o=".into() },
            auth("mochi", "flan", "hello world !"),
            auth("mochi2", "flan", "hello world \"!"),
        ];
        assert_eq!(parse("s", text.as_bytes()).unwrap(), expected);
        assert_eq!(parse("s", b"").unwrap(), []);
        assert_eq!(parse("s", b"# J\xf6rg\nhmac a \"b\tc\"\n").unwrap().len(), 1);
    }

    #[test]
    fn errors_name_the_place_and_never_the_secret() {
        for (text, error) in [
            ("auth a user b password \"topsecret", "s:1:24: no closing quote"),
            ("hmac a topsecret\\", "s:1:17: unterminated escape at end of line"),
            ("\n hmc a b", "s:2:2: expected auth or hmac"),
            ("hmac a", "s:1:7: expected a secret, found the end of the line"),
            ("auth a topsecret", "s:1:8: expected \"user\""),
            ("hmac a b topsecret", "s:1:10: expected the end of the line"),
            ("hmac a b\nhmac a c", "s:2:1: the label \"a\" is already in use"),
        ] {
            let errors = parse("s", text.as_bytes()).unwrap_err();
            assert_eq!(errors.len(), 1);
            assert_eq!(errors[0].to_string(), error);
        }
        assert!(!format!("{:?}", auth("l", "u", "topsecret")).contains("topsecret"));
    }
}
