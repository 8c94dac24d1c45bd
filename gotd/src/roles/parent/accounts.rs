//! The accounts that the daemon's processes work under: whose they are, and with which groups.

use std::os::unix::fs::MetadataExt;

use libproto::message::parent::{Credentials, SPAWNER_GROUPS_MAX};
use libproto::states::Account;

use super::error::StartupError;
use crate::conf::model::{self, Config};
use crate::conf::resolve::NameService;
use crate::os::passwd::{System, groups_of};

/// Who each account is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accounts {
    /// Of each account of [`Account::ALL`], in that order; `None`: nobody has anything to drop.
    all: Option<[Credentials; 3]>,
    /// Why there is only one uid, if there is.
    pub one: Option<String>,
}

impl Accounts {
    /// From the configuration, as root; an ordinary user's daemon has one uid and drops nothing.
    ///
    /// # Errors
    /// A user that the configuration names and that does not exist, is root, or is named twice.
    pub fn of(config: &Config, files: &[&str]) -> Result<Accounts, StartupError> {
        if !nix::unistd::geteuid().is_root() {
            let one = Some("started by an ordinary user: all processes have one uid".to_owned());
            return Ok(Accounts { all: None, one });
        }
        let owner = owner(config)?;
        let named = [&config.client, &config.daemon];
        let names = [model::DEFAULT_CLIENT, model::DEFAULT_DAEMON];
        let mut found = Vec::with_capacity(2);
        for (named, default) in named.into_iter().zip(names) {
            let name = named.as_ref().map_or(default, |user| user.name.as_str());
            match (user(name), named) {
                (Some(user), _) => found.push(not_root(user, name)?),
                (None, Some(_)) => return Err(StartupError::NoUser(name.to_owned())),
                (None, None) => {
                    let one = Some(format!(
                        "{name}: no such user: all processes have the uid of {}; see `user` in gotd.conf(5)",
                        config.user_name()
                    ));
                    // Only processes that open repositories need more than the one group.
                    let client = Credentials { groups: Vec::new(), ..owner.clone() };
                    let mut daemon = Credentials { groups: vec![owner.gid], ..owner.clone() };
                    daemon.groups.extend(files.iter().filter_map(|file| reading_group(file)));
                    return Ok(Accounts { all: Some([daemon, client, owner]), one });
                }
            }
        }
        let [client, mut daemon]: [Credentials; 2] = found.try_into().map_err(|_| StartupError::SameUsers)?;
        if client.uid == daemon.uid || [client.uid, daemon.uid].contains(&owner.uid) {
            return Err(StartupError::SameUsers);
        }
        daemon.groups.extend(files.iter().filter_map(|file| reading_group(file)));
        daemon.groups.sort_unstable();
        daemon.groups.dedup();
        let client = Credentials { groups: Vec::new(), ..client };
        Ok(Accounts { all: Some([daemon, client, owner]), one: None })
    }

    /// Who an account is; `None`: there is nothing to drop.
    pub fn get(&self, account: Account) -> Option<&Credentials> {
        let at = Account::ALL.iter().position(|other| *other == account)?;
        self.all.as_ref()?.get(at)
    }
}

/// Who owns the repositories: gotd.conf's `user`.
fn owner(config: &Config) -> Result<Credentials, StartupError> {
    let name = config.user_name();
    if let Some(user) = user(name) {
        return not_root(user, name);
    }
    // Role `config` has found a number.
    let ids = config.user.as_ref().and_then(|user| user.ids);
    let (uid, gid) = ids.ok_or_else(|| StartupError::NoUser(name.to_owned()))?;
    not_root(Credentials { uid, gid, groups: vec![gid] }, name)
}

fn not_root(credentials: Credentials, name: &str) -> Result<Credentials, StartupError> {
    if credentials.uid == 0 { Err(StartupError::RootUser(name.to_owned())) } else { Ok(credentials) }
}

/// A user of the system with all groups.
fn user(name: &str) -> Option<Credentials> {
    let user = System.user(name)?;
    let mut groups = groups_of(&user);
    // Root's own group opens too much.
    groups.retain(|group| *group != 0);
    groups.truncate(SPAWNER_GROUPS_MAX);
    Some(Credentials { uid: user.uid, gid: user.gid, groups })
}

/// The group by which alone a file of the configuration can be read: a reload needs it.
fn reading_group(file: &str) -> Option<u32> {
    let meta = std::fs::metadata(file).ok()?;
    (meta.mode() & 0o044 == 0o040 && meta.gid() != 0).then_some(meta.gid())
}
