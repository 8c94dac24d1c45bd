//! The accounts that the daemon's processes work under: their users and groups.

use std::os::unix::fs::MetadataExt;

use libproto::message::parent::{Credentials, SPAWNER_GROUPS_MAX};
use libproto::states::Account;
use nix::unistd::{Uid, User};

use super::passwd::{System, groups_of};
use crate::conf::model::Config;
use crate::conf::resolve::NameService;

/// Why the daemon cannot run under the accounts of its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountsError {
    /// A user does not exist.
    NoUser(String),
    /// A user is root.
    Root(String),
    /// Two of the users are the same.
    Same,
}

impl std::fmt::Display for AccountsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AccountsError::NoUser(name) => {
                write!(f, "user {name}: no such user; see `user` in gotd.conf(5)")
            }
            AccountsError::Root(name) => {
                write!(f, "user {name}: gotd does not run as root; see `user` in gotd.conf(5)")
            }
            AccountsError::Same => {
                f.write_str("user: expected three different users; see `user` in gotd.conf(5)")
            }
        }
    }
}

impl std::error::Error for AccountsError {}

/// The user and the groups of each account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// For each account of [`Account::ALL`], in that order; `None`: there is no privilege to drop.
    all: Option<[Credentials; 3]>,
    /// Why there is only one uid, if there is.
    pub one: Option<String>,
}

impl Accounts {
    /// From the configuration, as root; an ordinary user's daemon has one uid and drops nothing.
    ///
    /// # Errors
    /// A user that the configuration names and that does not exist, is root, or is named twice.
    pub fn of(config: &Config, files: &[&str]) -> Result<Accounts, AccountsError> {
        if !nix::unistd::geteuid().is_root() {
            let one = Some("started by an ordinary user: all processes have one uid".to_owned());
            return Ok(Accounts { all: None, one });
        }
        let owner = owner(config)?;
        let mut others = Vec::with_capacity(2);
        for (named, name) in [(&config.client, config.client_name()), (&config.daemon, config.daemon_name())]
        {
            match user(name) {
                Some(user) => others.push(not_root(user, name)?),
                None if named.is_some() => return Err(AccountsError::NoUser(name.to_owned())),
                None => {
                    let one = Some(format!(
                        "{name}: no such user: all processes have the uid of {}; see `user` in gotd.conf(5)",
                        config.user_name()
                    ));
                    // Only processes that open repositories need more than the one group.
                    let daemon = Credentials { groups: vec![owner.gid], ..owner.clone() };
                    return Ok(Accounts::with([daemon, owner.clone(), owner], files, one));
                }
            }
        }
        let [client, daemon]: [Credentials; 2] = others.try_into().map_err(|_| AccountsError::Same)?;
        if client.uid == daemon.uid || [client.uid, daemon.uid].contains(&owner.uid) {
            return Err(AccountsError::Same);
        }
        Ok(Accounts::with([daemon, client, owner], files, None))
    }

    /// The daemon's account gets the groups that can read the configuration's files, and the
    /// client's has none.
    fn with(all: [Credentials; 3], files: &[&str], one: Option<String>) -> Accounts {
        let [mut daemon, client, mut owner] = all;
        daemon.groups.extend(files.iter().filter_map(|file| reading_group(file)));
        daemon.groups.sort_unstable();
        daemon.groups.dedup();
        for account in [&mut daemon, &mut owner] {
            account.groups.truncate(SPAWNER_GROUPS_MAX);
        }
        Accounts { all: Some([daemon, Credentials { groups: Vec::new(), ..client }, owner]), one }
    }

    /// The user and groups of an account; `None`: there is nothing to drop.
    pub fn get(&self, account: Account) -> Option<&Credentials> {
        let at = Account::ALL.iter().position(|other| *other == account)?;
        self.all.as_ref()?.get(at)
    }
}

/// The owner of the repositories: gotd.conf's `user`.
fn owner(config: &Config) -> Result<Credentials, AccountsError> {
    let name = config.user_name();
    if let Some(user) = user(name) {
        return not_root(user, name);
    }
    // Role `config` has found a number.
    let ids = config.user.as_ref().and_then(|user| user.ids);
    let (uid, gid) = ids.ok_or_else(|| AccountsError::NoUser(name.to_owned()))?;
    let known = User::from_uid(Uid::from_raw(uid)).ok().flatten().and_then(|known| user(&known.name));
    not_root(known.unwrap_or_else(|| Credentials { uid, gid, groups: vec![gid] }), name)
}

fn not_root(credentials: Credentials, name: &str) -> Result<Credentials, AccountsError> {
    if credentials.uid == 0 { Err(AccountsError::Root(name.to_owned())) } else { Ok(credentials) }
}

/// A user of the system with all groups.
fn user(name: &str) -> Option<Credentials> {
    let user = System.user(name)?;
    let mut groups = groups_of(&user);
    // Root's own group opens too much.
    groups.retain(|group| *group != 0);
    Some(Credentials { uid: user.uid, gid: user.gid, groups })
}

/// The group by which alone a file of the configuration can be read: a reload needs it.
fn reading_group(file: &str) -> Option<u32> {
    let meta = std::fs::metadata(file).ok()?;
    (meta.mode() & 0o044 == 0o040 && meta.gid() != 0).then_some(meta.gid())
}
