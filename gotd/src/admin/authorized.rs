//! The lines that sshd(8) asks for: which keys and certificates lead to which user of a shared
//! account.
//!
//! sshd runs `gotctl authorized-keys` for each login, as a user of its own: the configuration is
//! parsed and nothing else is asked. Each line is built from parsed values: the forced command
//! names the user, and the key is its kind and its base64, whatever else stood beside it.

use libproto::names::UserName;

use crate::conf::model::{AccountUser, Config};

/// Restrictions of every line; the forced command is the one thing that remains.
const RESTRICT: &str = "restrict";

/// A path of gotsh that can stand in a forced command: sshd runs it by the account's shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShellPath(String);

impl ShellPath {
    /// `None` for a path that is not absolute, or has characters that mean something to a shell or
    /// to sshd.
    pub fn parse(path: &str) -> Option<ShellPath> {
        let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-' | b'+');
        (path.starts_with('/') && path.bytes().all(harmless)).then(|| ShellPath(path.to_owned()))
    }
}

/// Lines of authorized_keys for an account: all of them, or those of one key, given as its kind and
/// its base64 text.
pub fn keys(config: &Config, account: &str, key: Option<(&str, &str)>, gotsh: &ShellPath) -> String {
    let mut out = String::new();
    for user in users(config, account) {
        for own in &user.keys {
            if key.is_none_or(|(kind, base64)| own.kind == kind && own.base64 == base64) {
                let line = format!("{} {} {}\n", options(user, gotsh), own.kind, own.base64);
                out.push_str(&line);
            }
        }
    }
    out
}

/// Lines of an AuthorizedPrincipalsFile for an account.
pub fn principals(config: &Config, account: &str, gotsh: &ShellPath) -> String {
    let mut out = String::new();
    for user in users(config, account) {
        for principal in &user.principals {
            out.push_str(&format!("{} {}\n", options(user, gotsh), principal.name));
        }
    }
    out
}

fn users<'c>(config: &'c Config, account: &str) -> impl Iterator<Item = &'c AccountUser> {
    let index = UserName::parse(account.as_bytes())
        .ok()
        .and_then(|name| config.accounts.iter().position(|a| a.name == name))
        .and_then(|index| u32::try_from(index).ok());
    config.users.iter().filter(move |user| Some(user.account) == index)
}

fn options(user: &AccountUser, gotsh: &ShellPath) -> String {
    format!("{RESTRICT},command=\"{} --user {}\"", gotsh.0, user.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::source::Texts;

    const ALICE: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIJqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ";
    const BOB: &str = "AAAAC3NzaC1lZDI1NTE5AAAAIAqLw2rGDFW2GnsGF0Gzu0pBXSw6qgpWzKhK4tyYcJzZ";

    fn config() -> Config {
        let text = format!(
            "account git {{\n user alice key \"ssh-ed25519 {ALICE} \\\" command=x\"\n user bob {{\n  key \"ssh-ed25519 {BOB}\"\n  principal bob@x\n }}\n}}\n\
             account hg user carol principal bob@x\nrepository \"r\" {{\n path \"/r\"\n}}\n"
        );
        let parsed = crate::conf::parse("f", &mut Texts::one("f", text));
        assert_eq!(parsed.errors, []);
        parsed.config
    }

    #[test]
    fn a_key_leads_to_its_user_and_brings_nothing_else() {
        let (config, gotsh) = (config(), ShellPath::parse("/usr/bin/gotsh").unwrap());
        let alice = format!("restrict,command=\"/usr/bin/gotsh --user alice\" ssh-ed25519 {ALICE}\n");
        let bob = format!("restrict,command=\"/usr/bin/gotsh --user bob\" ssh-ed25519 {BOB}\n");
        assert_eq!(keys(&config, "git", None, &gotsh), format!("{alice}{bob}"));
        assert_eq!(keys(&config, "git", Some(("ssh-ed25519", BOB)), &gotsh), bob);
        assert_eq!(keys(&config, "git", Some(("ssh-rsa", BOB)), &gotsh), "");
        for account in ["hg", "nobody", "", "../git", "git\n"] {
            assert_eq!(keys(&config, account, None, &gotsh), "", "{account:?}");
        }
        assert_eq!(
            principals(&config, "git", &gotsh),
            "restrict,command=\"/usr/bin/gotsh --user bob\" bob@x\n"
        );
        assert!(principals(&config, "hg", &gotsh).contains("--user carol\" bob@x"));
    }

    #[test]
    fn paths_that_a_shell_would_read_otherwise_are_refused() {
        for bad in ["gotsh", "", "/a b", "/a\"b", "/a;b", "/a$b", "/a\nb", "/a'b", "/a`b"] {
            assert_eq!(ShellPath::parse(bad), None, "{bad:?}");
        }
    }
}
