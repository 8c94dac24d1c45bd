//! The grammar of `account` and `group`: people who share one Unix account and are known by their
//! keys.

use std::fmt;

use libproto::names::UserName;

use super::keywords::{either, nearest};
use super::model::{ANONYMOUS, Account, AccountUser, Group, Key, Position, Principal};
use super::parser::{Outcome, Parser, Word};

/// Most users of shared accounts, and most groups.
pub const USERS_MAX: usize = 200_000;
/// Most keys, and most principals, of one user.
pub const KEYS_MAX: usize = 100;
/// Longest key in base64, in bytes: RSA with 16,384 bits has some 2,800.
pub const KEY_MAX: usize = 4096;

/// Kinds of SSH keys that may log in.
pub const KEY_KINDS: &[&str] = &[
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "ssh-rsa",
];

impl Parser<'_> {
    pub(super) fn account(&mut self, at: Position) -> Outcome {
        let name = self.user_name("the name of a Unix account")?;
        let same = self.config.accounts.iter().position(|a| a.name == name);
        let index = match same {
            Some(index) => index,
            None if self.config.accounts.len() >= 1000 => return self.fail(at, "more than 1000 accounts"),
            None => {
                self.config.accounts.push(Account { name, uid: None, at });
                self.config.accounts.len() - 1
            }
        };
        let account = u32::try_from(index).unwrap_or(u32::MAX);
        self.block_or_item(&mut |p| p.account_user(account))
    }

    fn account_user(&mut self, account: u32) -> Outcome {
        let at = self.peek().at;
        self.keyword(&["user"], &either(&["user"]))?;
        let name = self.user_name("the name of a user")?;
        if let Some(&same) = self.user_names.get(&name) {
            let place =
                self.config.users.get(same as usize).map(|u| self.config.place(u.at)).unwrap_or_default();
            self.error_at(at, format!("user \"{name}\": the same name is already in {place}"));
        } else if name.as_str() == ANONYMOUS || name.as_str().bytes().all(|b| b.is_ascii_digit()) {
            self.error_at(
                at,
                format!("user \"{name}\": expected a name that is not \"{ANONYMOUS}\" nor a number"),
            );
        }
        if self.config.users.len() >= USERS_MAX {
            return self.fail(at, format!("more than {USERS_MAX} users"));
        }
        let mut user =
            AccountUser { name: name.clone(), account, keys: Vec::new(), principals: Vec::new(), at };
        self.block_or_item(&mut |p| p.user_item(&mut user))?;
        let index = u32::try_from(self.config.users.len()).unwrap_or(u32::MAX);
        self.user_names.entry(name).or_insert(index);
        self.config.users.push(user);
        Ok(())
    }

    fn user_item(&mut self, user: &mut AccountUser) -> Outcome {
        let at = self.peek().at;
        if user.keys.len().max(user.principals.len()) >= KEYS_MAX {
            return self.fail(at, format!("more than {KEYS_MAX} keys of one user"));
        }
        let kind = self.keyword(&["key", "principal"], &either(&["key", "principal"]))?;
        if kind == "principal" {
            let name = self.user_name("the principal of a certificate")?;
            let key = format!("{} {name}", user.account);
            if let Some(&before) = self.keys.get(&key) {
                let place = self.config.place(before);
                return self.fail(at, format!("principal \"{name}\": the same name is already in {place}"));
            }
            self.keys.insert(key, at);
            user.principals.push(Principal { name, at });
            return Ok(());
        }
        if self.accept("file") {
            let path = self.word("an absolute path")?;
            self.check_path(&path)?;
            return self.key_file(user, &path);
        }
        let word = self.word("a public key in quotes, or file and a path")?;
        match parse_key(&word.text, at) {
            Ok(key) => self.push_key(user, key),
            Err(error) => self.fail(word.at, error.to_string()),
        }
    }

    fn push_key(&mut self, user: &mut AccountUser, key: Key) -> Outcome {
        // sshd would take the first of two lines with one key, whichever user was meant.
        if let Some(&before) = self.keys.get(&key.base64) {
            let place = self.config.place(before);
            return self.fail(key.at, format!("the same key is already in {place}"));
        }
        self.keys.insert(key.base64.clone(), key.at);
        if user.keys.len() >= KEYS_MAX {
            return self.fail(key.at, format!("more than {KEYS_MAX} keys of one user"));
        }
        user.keys.push(key);
        Ok(())
    }

    /// A file of public keys, one in a line, with comments.
    fn key_file(&mut self, user: &mut AccountUser, path: &Word) -> Outcome {
        let text = match self.load_aside(&path.text) {
            Ok(text) => text,
            Err(message) => return self.fail(path.at, format!("{}: {message}", path.text)),
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match parse_key(line, path.at) {
                Ok(key) => self.push_key(user, key)?,
                Err(message) => {
                    return self.fail(path.at, format!("{}:{}: {message}", path.text, number + 1));
                }
            }
        }
        Ok(())
    }

    pub(super) fn group(&mut self, at: Position) -> Outcome {
        let name = self.user_name("the name of a group")?;
        if let Some(&same) = self.group_names.get(&name) {
            let place =
                self.config.groups.get(same as usize).map(|g| self.config.place(g.at)).unwrap_or_default();
            self.error_at(at, format!("group \"{name}\": the same name is already in {place}"));
        }
        if self.config.groups.len() >= USERS_MAX {
            return self.fail(at, format!("more than {USERS_MAX} groups"));
        }
        let mut members: Vec<(UserName, Position)> = Vec::new();
        self.block("{ on the same line", &mut |parser| {
            let at = parser.peek().at;
            let member = parser.user_name("the name of a user")?;
            if members.len() >= USERS_MAX {
                return parser.fail(at, format!("more than {USERS_MAX} members of one group"));
            }
            members.push((member, at));
            Ok(())
        })?;
        let index = u32::try_from(self.config.groups.len()).unwrap_or(u32::MAX);
        self.group_names.entry(name.clone()).or_insert(index);
        self.group_members.push(members);
        self.config.groups.push(Group { name, members: Vec::new(), at });
        Ok(())
    }

    /// Groups may be written before the users in them: their members are looked up at the end.
    pub(super) fn resolve_group_members(&mut self) {
        for (index, members) in std::mem::take(&mut self.group_members).into_iter().enumerate() {
            let mut found = Vec::with_capacity(members.len());
            for (name, at) in members {
                match self.user_names.get(&name) {
                    Some(&user) => found.push(user),
                    None => {
                        // Looking for it takes a while, so only as long as errors are shown.
                        let most = if self.shows_errors() { usize::MAX } else { 0 };
                        let known = self.user_names.keys().map(UserName::as_str).take(most);
                        let hint = nearest(name.as_str(), known);
                        let hint = hint.map_or(String::new(), |near| format!(": did you mean \"{near}\"?"));
                        self.error_at(at, format!("\"{name}\" is not a user of an \"account\"{hint}"));
                    }
                }
            }
            found.sort_unstable();
            found.dedup();
            if let Some(group) = self.config.groups.get_mut(index) {
                group.members = found;
            }
        }
    }
}

/// What is wrong with a public key; of the wrong kind or of this kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// There is none.
    NoKey,
    /// No key is of this kind.
    Kind(String),
    /// What follows the kind is no base64, or too long.
    Base64(String),
    /// The decoded data are no key of the kind that stands before them.
    Data(String),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::NoKey => f.write_str("expected a public key"),
            KeyError::Kind(kind) => write!(
                f,
                "expected a public key that starts with {}, found \"{}\"",
                either(KEY_KINDS),
                libproto::names::escape(kind.as_bytes())
            ),
            KeyError::Base64(kind) => write!(f, "expected the key in base64 after {kind}"),
            KeyError::Data(kind) => write!(f, "the key's data are not those of a key of kind {kind}"),
        }
    }
}

impl std::error::Error for KeyError {}

/// Checks a public key as in an authorized_keys file without options: kind, base64, and a comment
/// that is dropped.
pub fn parse_key(text: &str, at: Position) -> Result<Key, KeyError> {
    let mut words = text.split_ascii_whitespace();
    let (Some(kind), base64) = (words.next(), words.next()) else {
        return Err(KeyError::NoKey);
    };
    if !KEY_KINDS.contains(&kind) {
        return Err(KeyError::Kind(kind.to_owned()));
    }
    let blob = base64.filter(|b| b.len() <= KEY_MAX).and_then(decode_base64);
    let Some(blob) = blob else {
        return Err(KeyError::Base64(kind.to_owned()));
    };
    // The blob repeats the kind, as a string with its length before it (RFC 4253, section 6.6).
    let length = u32::try_from(kind.len()).unwrap_or(u32::MAX).to_be_bytes();
    let rest = blob.strip_prefix(&length).and_then(|rest| rest.strip_prefix(kind.as_bytes()));
    if rest.is_none_or(|rest| rest.len() < 32) {
        return Err(KeyError::Data(kind.to_owned()));
    }
    Ok(Key { kind: kind.to_owned(), base64: base64.unwrap_or_default().to_owned(), at })
}

/// Strict base64 with padding; `None` for anything else.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_end_matches('=');
    if text.is_empty() || !text.len().is_multiple_of(4) || text.len() - body.len() > 2 {
        return None;
    }
    let (mut out, mut bits, mut held) = (Vec::with_capacity(body.len()), 0_u32, 0_u32);
    for byte in body.bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        held = (held << 6 | u32::from(digit)) & 0xffff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((held >> bits & 0xff) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ alice@desk";

    #[test]
    fn keys_are_checked() {
        let key = parse_key(GOOD, Position::default()).unwrap();
        assert_eq!((key.kind.as_str(), key.base64.len()), ("ssh-ed25519", 68));
        for bad in [
            "",
            "ssh-ed25519",
            "ssh-dss AAAA",
            "ssh-ed25519 AAAA",
            "ssh-ed25519 !!!!",
            "command=\"sh\" ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ",
            "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ",
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ=",
        ] {
            assert!(parse_key(bad, Position::default()).is_err(), "{bad}");
        }
        assert!(parse_key(&format!("ssh-rsa {}", "A".repeat(8192)), Position::default()).is_err());
    }

    #[test]
    fn base64() {
        assert_eq!(decode_base64("YWJj").as_deref(), Some(&b"abc"[..]));
        assert_eq!(decode_base64("YWI=").as_deref(), Some(&b"ab"[..]));
        assert_eq!(decode_base64("YQ==").as_deref(), Some(&b"a"[..]));
        assert_eq!(decode_base64("Y==="), None);
        assert_eq!(decode_base64("Y=Jj"), None);
    }
}
