//! The checks of `gotd -n` and `gotctl reload -n` beyond the configuration's text: whether the
//! repositories' owner exists and can do in the repositories what the rules permit, and what the
//! repositories borrow.
//!
//! Only owner and mode are compared, no access control lists, so a finding is a warning. Nothing is
//! opened that a request would not open, and at most [`MOST_REPOSITORIES`] repositories are looked
//! at.
//!
//! **Invariant:** root runs this over directories of users, so after a walk no path is used again.
//! A directory's facts are those that the kernel has for the walk's descriptor: a file system that
//! a user mounts meanwhile, and whose server never answers, is asked nothing. Nothing behind a
//! mount point inside a repository is looked at.

use std::collections::HashSet;
use std::path::Path;

use libproto::states::Account;
use librepo::place::{self, Permissions};

use crate::access::places::Places;
use crate::admin::check_alternates::{self, Known};
use crate::conf::error::ConfigError;
use crate::conf::files::{Loaded, trust};
use crate::conf::model::{Access, Action, Config, Repository, RepositoryKind};
use crate::conf::resolve::complaint;
use crate::os::accounts::{Accounts, AccountsError};
use crate::repo::find::{FoundRepository, repository_at};
use crate::repo::walk_repositories::{Most, each_repository_of};

/// Repositories that are looked at, of all blocks.
const MOST_REPOSITORIES: usize = 1000;
/// Most directories, and names in them, that are read to find repositories: the owner of a
/// directory below a `repositories` block may have made any number.
const MOST: Most = Most { directories: 20_000, names: 1_000_000 };
/// Directories of a repository: a push writes in each of them.
const DIRECTORIES: [&str; 5] = ["", "objects", "objects/pack", "refs", "refs/heads"];
const READ: u32 = 0o5;
const WRITE: u32 = 0o3;

/// Adds its findings to the errors and warnings of a configuration that was read.
pub fn check(loaded: &mut Loaded) {
    let daemon = match daemon(&loaded.config) {
        Ok(daemon) => Some(daemon),
        Err(error) => {
            loaded.errors.push(error);
            None
        }
    };
    let config = &loaded.config;
    let mut looks = Looks {
        config,
        daemon,
        places: Places::new(&config.repositories),
        known: None,
        seen: HashSet::new(),
        most: MOST,
    };
    let mut warnings = Vec::new();
    for (index, block) in config.repositories.iter().enumerate().filter(|(_, b)| !b.path.is_empty()) {
        looks.block(index, block, &mut warnings);
    }
    let main = config.files.first().map_or("", String::as_str);
    let note = |text: String| ConfigError::whole(main, text);
    // First, because notes are bounded.
    if looks.seen.len() >= MOST_REPOSITORIES {
        loaded.notes.insert(0, note(format!("only {MOST_REPOSITORIES} repositories were looked at")));
    }
    if looks.most.is_used_up() {
        let Most { directories, names } = MOST;
        let text = format!(
            "only {directories} directories and {names} names in them were looked at: there may be more repositories"
        );
        loaded.notes.insert(0, note(text));
    }
    loaded.warnings.extend(warnings);
}

/// The user that opens repositories, with its groups.
struct Daemon {
    uid: u32,
    groups: Vec<u32>,
}

/// The user that opens repositories, gotd.conf's `user`.
///
/// # Errors
/// A daemon that root starts would not start.
fn daemon(config: &Config) -> Result<Daemon, ConfigError> {
    let me = nix::unistd::geteuid();
    if !me.is_root() {
        let groups = nix::unistd::getgroups().unwrap_or_default().into_iter();
        let groups = groups.chain([nix::unistd::getegid()]).map(nix::unistd::Gid::as_raw).collect();
        return Ok(Daemon { uid: me.as_raw(), groups });
    }
    let at = config.user.as_ref().map(|user| user.at).unwrap_or_default();
    let fail = |text: String| match at.line {
        0 => ConfigError::whole(config.files.first().map_or("", String::as_str), text),
        _ => complaint(config, at, text),
    };
    let accounts = Accounts::of(config, &[]).map_err(|e| match e {
        AccountsError::NoUser(name) => fail(format!(
            "user {name}: no such user, so that gotd does not start: make it, or name another one with \"user\""
        )),
        e => fail(e.to_string()),
    })?;
    let owner = accounts.get(Account::Repositories).map(|owner| (owner.uid, owner.groups.clone()));
    let (uid, groups) = owner.unwrap_or_else(|| (me.as_raw(), Vec::new()));
    Ok(Daemon { uid, groups })
}

impl Daemon {
    /// Whether all of these bits of a mode are set for it.
    fn may(&self, Permissions { uid, gid, mode }: Permissions, bits: u32) -> bool {
        let shift = match () {
            () if uid == self.uid => 6,
            () if self.groups.contains(&gid) => 3,
            () => 0,
        };
        mode >> shift & bits == bits
    }
}

struct Looks<'c> {
    config: &'c Config,
    daemon: Option<Daemon>,
    places: Places,
    /// Made when the first repository that borrows is found.
    known: Option<Known>,
    /// Repositories that were looked at: several blocks may have the same place.
    seen: HashSet<(usize, std::path::PathBuf)>,
    /// What may still be looked at.
    most: Most,
}

impl Looks<'_> {
    fn block(&mut self, index: usize, block: &Repository, warnings: &mut Vec<ConfigError>) {
        let Ok(walked) = place::walk(Path::new(&block.path), trust(self.config)) else { return };
        let mut troubles = Vec::new();
        let name = block.display_name();
        match block.kind {
            RepositoryKind::One => {
                troubles.extend(self.way(&walked.path, &walked.permissions()));
                if let Some(found) = repository_at(walked) {
                    let found = found.on_its_mount();
                    self.repository(index, block, &name, &found, &mut troubles, warnings);
                }
            }
            RepositoryKind::Below { create } => {
                let mut most = self.most;
                let bits = if create { READ | WRITE } else { READ };
                let permissions = walked.permissions();
                troubles.extend(self.way(&walked.path, &permissions));
                troubles.extend(permissions.first().and_then(|own| self.directory(&walked.path, *own, bits)));
                each_repository_of(&walked, &mut most, &mut |below| {
                    let name = match &block.name {
                        Some(prefix) => format!("{prefix}/{}", below.name),
                        None => below.name.to_string(),
                    };
                    let found = below.found.on_its_mount();
                    self.repository(index, block, &name, &found, &mut troubles, warnings);
                    self.seen.len() < MOST_REPOSITORIES
                });
                self.most = most;
            }
        }
        let Some(first) = troubles.first() else { return };
        let more = match troubles.len() {
            1 => String::new(),
            n => format!("; and {} more such places in this block", n - 1),
        };
        warnings.push(complaint(self.config, block.at, format!("{first}{more}")));
    }

    fn repository(
        &mut self,
        index: usize,
        block: &Repository,
        name: &str,
        found: &FoundRepository,
        troubles: &mut Vec<String>,
        warnings: &mut Vec<ConfigError>,
    ) {
        // A repository with a block of its own is checked for that block.
        let own = self.places.of(&found.path).contains(&index);
        if self.seen.len() >= MOST_REPOSITORIES || !own || !self.seen.insert((index, found.path.clone())) {
            return;
        }
        troubles.extend(self.in_repository(block, found));
        let more = check_alternates::warnings(self.config, &mut self.known, block, name, found);
        warnings.extend(more.into_iter().map(|text| complaint(self.config, block.at, text)));
    }

    /// What the daemon cannot do in a repository that the rules of its block permit.
    fn in_repository(&self, block: &Repository, found: &FoundRepository) -> Option<String> {
        let permits = |wanted: &dyn Fn(Action) -> bool| block.rules.iter().any(|rule| wanted(rule.action));
        let bits = match () {
            () if permits(&|action| action == Action::Permit(Access::Write)) => READ | WRITE,
            () if permits(&|action| action != Action::Deny) => READ,
            () => return None,
        };
        if let Some(trouble) = self.way(&found.path, &found.permissions) {
            return Some(trouble);
        }
        DIRECTORIES.iter().find_map(|name| {
            let permissions = match *name {
                "" => found.permissions.first().copied(),
                name => found.look.directory(&found.directory, name).ok(),
            };
            self.directory(&found.path.join(name), permissions?, bits)
        })
    }

    /// A directory on the way to a place that the daemon may not pass.
    fn way(&self, place: &Path, permissions: &[Permissions]) -> Option<String> {
        let daemon = self.daemon.as_ref()?;
        let mut above: Vec<_> = place.ancestors().zip(permissions.iter().copied()).skip(1).collect();
        above.reverse();
        above.into_iter().find_map(|(path, permissions)| {
            let passes = daemon.may(permissions, 0o1);
            (!passes).then(|| self.text(path, permissions, daemon, "pass through"))
        })
    }

    fn directory(&self, path: &Path, permissions: Permissions, bits: u32) -> Option<String> {
        let daemon = self.daemon.as_ref()?;
        let verb = match () {
            () if !daemon.may(permissions, bits & READ) => "read",
            () if !daemon.may(permissions, bits) => "write in",
            () => return None,
        };
        Some(self.text(path, permissions, daemon, verb))
    }

    fn text(&self, path: &Path, permissions: Permissions, daemon: &Daemon, verb: &str) -> String {
        let Permissions { uid, mode, .. } = permissions;
        let path: &Path = &path.components().collect::<std::path::PathBuf>();
        format!(
            "{}: the user {}, as whom gotd runs, cannot {verb} this directory (owner {}, mode {:04o}), though a line of the \
             block permits it",
            path.display(),
            self.config.name_of(daemon.uid),
            self.config.name_of(uid),
            mode,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_of_a_mode_counts_as_for_the_kernel() {
        let daemon = Daemon { uid: 7, groups: vec![8, 9] };
        for ((uid, gid, mode), bits, may) in [
            ((7, 1, 0o700), 0o7, true),
            ((7, 8, 0o077), 0o1, false),
            ((1, 9, 0o050), READ, true),
            ((1, 9, 0o707), READ, false),
            ((1, 1, 0o005), READ, true),
            ((1, 1, 0o005), WRITE, false),
            ((1, 1, 0o770), 0o1, false),
        ] {
            let permissions = Permissions { uid, gid, mode };
            assert_eq!(daemon.may(permissions, bits), may, "{permissions:?} {bits:o}");
        }
    }
}
