//! `gotctl explain USER REPOSITORY`: the verdict, and the line of the configuration that decides.

use std::fmt;

use libproto::command::Service;
use libproto::names::{NameError, RepoName, UserName};

use crate::access::table::{AccessTable, Identity, NameMatch, Verdict};
use crate::conf::model::{ANONYMOUS, Access, UnixUser};
use crate::conf::resolve::NameService;

/// The access of a user to a repository. Displays as one line: `permit rw /etc/gotd.conf:12`, `deny
/// /etc/gotd.conf:13` or `deny (no rule matches)`, with notes in parentheses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What is permitted, `None` for nothing.
    pub access: Option<Access>,
    /// `file:line` of the rule that decides, if one does.
    pub place: Option<String>,
    /// Notes, which stand in parentheses.
    pub notes: Vec<String>,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.access {
            Some(access) => write!(f, "permit {}", access.word())?,
            None => f.write_str("deny")?,
        }
        if let Some(place) = &self.place {
            write!(f, " {place}")?;
        }
        self.notes.iter().try_for_each(|note| write!(f, " ({note})"))
    }
}

/// Why there is nothing to explain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExplainError {
    /// Nobody has this name.
    NoUser(String),
    /// No repository can have this name.
    Name(String, NameError),
}

impl fmt::Display for ExplainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExplainError::NoUser(user) => {
                write!(f, "{}: no such user", libproto::names::escape(user.as_bytes()))
            }
            ExplainError::Name(repository, e) => write!(f, "{repository}: {e}"),
        }
    }
}

impl std::error::Error for ExplainError {}

/// Explains what `user` may do with `repository`, both as an administrator types them. A user is a
/// Unix user's name or number, the name of a user of an account (`alice` or `git/alice`), or
/// `anonymous` for git:// clients.
///
/// `groups` gives the groups that a login would give a Unix user.
///
/// # Errors
/// A user that is not known, or a name that no repository can have.
pub fn explain(
    table: &AccessTable,
    user: &str,
    repository: &str,
    names: &mut dyn NameService,
    groups: &dyn Fn(&UnixUser) -> Vec<u32>,
) -> Result<Explanation, ExplainError> {
    let identity = identity(table, user, names, groups)?;
    let name =
        RepoName::parse(repository.as_bytes()).map_err(|e| ExplainError::Name(repository.to_owned(), e))?;
    Ok(verdict(table, &identity, &name))
}

fn identity(
    table: &AccessTable,
    user: &str,
    names: &mut dyn NameService,
    groups: &dyn Fn(&UnixUser) -> Vec<u32>,
) -> Result<Identity, ExplainError> {
    if user == ANONYMOUS {
        return Ok(Identity::Anonymous);
    }
    let unknown = || ExplainError::NoUser(user.to_owned());
    let (account, name) = match user.split_once('/') {
        Some((account, name)) => (Some(account), name),
        None => (None, user),
    };
    let config = table.config();
    let found = (0..).zip(&config.users).find(|(_, candidate)| {
        let of = config.accounts.get(candidate.account as usize);
        candidate.name.as_str() == name && account.is_none_or(|a| of.is_some_and(|of| of.name.as_str() == a))
    });
    match (found, account) {
        (Some((index, _)), _) => return Ok(Identity::AccountUser(index)),
        (None, Some(_)) => return Err(unknown()),
        (None, None) => {}
    }
    let known = names.user(name).or_else(|| {
        let uid = name.parse().ok()?;
        let by_number = config.unix_users.iter().find(|u| u.uid == uid).cloned();
        by_number.or(Some(UnixUser { uid, gid: uid, name: UserName::parse(name.as_bytes()).ok()? }))
    });
    let known = known.ok_or_else(unknown)?;
    Ok(Identity::UnixUser { uid: known.uid, gid: known.gid, groups: groups(&known) })
}

fn verdict(table: &AccessTable, identity: &Identity, name: &RepoName) -> Explanation {
    let config = table.config();
    let nothing = |note: &str| Explanation { access: None, place: None, notes: vec![note.to_owned()] };
    let Some((index, found)) = table.find(name) else {
        return nothing("no such repository");
    };
    let Some(block) = config.repositories.get(index) else {
        return nothing("no such repository");
    };
    let mut notes = Vec::new();
    if let NameMatch::Below(rest) = &found {
        notes.push(format!("{rest} below {}", libproto::names::escape(block.path.as_bytes())));
    }
    let Some(deciding) = table.deciding(block, identity) else {
        let account = |uid: &u32| config.accounts.iter().any(|a| a.uid == Some(*uid));
        let shared = matches!(identity, Identity::UnixUser { uid, .. } if account(uid));
        let mut why =
            nothing(if shared { "a shared account is nobody by itself" } else { "no rule matches" });
        why.notes.extend(notes);
        return why;
    };
    let access = [Service::ReceivePack, Service::UploadPack].into_iter().find_map(|service| {
        match table.decide(identity, name, service) {
            Verdict::Granted(grant) => Some(grant),
            Verdict::NotFound | Verdict::NoRule | Verdict::Denied { .. } => None,
        }
    });
    if deciding.by_membership_at_load {
        let group = &deciding.rule.subject;
        notes.insert(0, format!("member of {group} when the configuration was loaded"));
    }
    if access.as_ref().is_some_and(|grant| grant.needs_export_marker) {
        notes.insert(0, "if git-daemon-export-ok is there".to_owned());
    }
    let place = Some(config.place(deciding.rule.at));
    Explanation { access: access.map(|grant| grant.access), place, notes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conf::parse;
    use crate::conf::resolve::{FixedNames, UnixGroup, resolve};
    use crate::conf::source::Texts;

    #[test]
    fn the_verdict_and_its_line() {
        let unix =
            |name: &str, uid| UnixUser { uid, gid: uid, name: UserName::parse(name.as_bytes()).unwrap() };
        let mut names = FixedNames {
            users: vec![unix("flan", 1000), unix("porter", 1001), unix("git", 1002)],
            groups: [("porters".to_owned(), UnixGroup { gid: 50, members: vec!["porter".to_owned()] })]
                .into(),
        };
        let text = concat!(
            "account git {\n user alice { }\n}\n",
            "repository \"src\" {\n path \"/src\"\n permit ro flan\n permit rw alice\n deny :porters\n}\n",
            "repositories \"pub\" {\n path \"/pub\"\n permit rw flan\n permit rw anonymous\n export-ok\n}\n",
        );
        let mut config = parse("f", &mut Texts::one("f", text)).config;
        assert_eq!(resolve(&mut config, &mut names).errors, []);
        let table = AccessTable::new(config);
        let mut ask =
            |user: &str, repository: &str| match explain(&table, user, repository, &mut names, &|_| vec![]) {
                Ok(explanation) => explanation.to_string(),
                Err(error) => error.to_string(),
            };
        for (user, repository, line) in [
            ("flan", "src", "permit ro f:6"),
            ("1000", "/src.git", "permit ro f:6"),
            ("alice", "src", "permit rw f:7"),
            ("git/alice", "src", "permit rw f:7"),
            ("hg/alice", "src", "hg/alice: no such user"),
            ("git", "src", "deny (a shared account is nobody by itself)"),
            ("porter", "src", "deny f:8 (member of :porters when the configuration was loaded)"),
            ("flan", "none", "deny (no such repository)"),
            ("4711", "src", "deny (no rule matches)"),
            ("flan", "pub/x", "permit rw f:12 (x below /pub)"),
            ("anonymous", "pub/x", "permit ro f:14 (if git-daemon-export-ok is there) (x below /pub)"),
            ("anonymous", "src", "deny (no rule matches)"),
            ("carol", "src", "carol: no such user"),
            ("flan", "../x", "../x: forbidden component in name"),
        ] {
            assert_eq!(ask(user, repository), line, "{user} {repository}");
        }
    }
}
