//! May this identity do this to that repository, and which line of the configuration says so.
//!
//! The decision is a pure function of the configuration, the kernel's word about the peer and the
//! name in the request.
//!
//! **Invariant:** nothing here sees a descriptor or a repository; a name is looked up in tables and
//! never joined to a path.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libproto::command::Service;
use libproto::names::{RepoName, UserName};
use libproto::refusal::NoIdentity;

use crate::access::places::Places;
use crate::conf::limits::Limit;
use crate::conf::model::{Access, Action, Config, Position, Repository, RepositoryKind, Rule, Who};
use crate::conf::resolve::NO_ID;
use crate::fairness::owners::Owners;

/// Most groups that a peer may be in; with more it is refused, because a truncated list would evade
/// `deny :group`.
pub const GROUPS_MAX: usize = 1024;

/// The identity of a client. Tagged, never a bare name, so that a name of one kind cannot stand for
/// a name of another kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// A Unix user, by the kernel's word.
    UnixUser {
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
    /// A user of a shared account: index into [`Config::users`]. Made by [`AccessTable::identify`]
    /// only for a peer that has the account's uid.
    AccountUser(u32),
    /// A git:// client.
    Anonymous,
}

/// How a name led to a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NameMatch {
    /// The block is that one repository.
    Configured,
    /// The block is a directory, and this is the name below it, `.git` as in the request.
    Below(RepoName),
}

/// A permission.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Index into [`Config::repositories`].
    pub block: usize,
    /// How it was found.
    pub found: NameMatch,
    /// What the deciding rule permits; at least what was asked for.
    pub access: Access,
    /// Only where the marker file of git-daemon stands (`export-ok`); else the answer is as for
    /// [`Verdict::NotFound`].
    pub needs_export_marker: bool,
    /// Index of the deciding rule in the block.
    pub rule: usize,
    /// Where it stands.
    pub at: Position,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Granted(Grant),
    /// There is no such repository. Anonymous clients get this answer too where they must not learn
    /// that there is one.
    NotFound,
    /// No rule of the named block is about the client. A client cannot tell this from `NotFound`,
    /// unless the administrator enables informative errors.
    NoRule,
    /// A rule matched and denies the access.
    Denied {
        /// The repository's name, as the client is told.
        name: RepoName,
        /// Where the rule stands.
        at: Position,
    },
}

impl Verdict {
    /// The text for the client, if it is refused; C gotd's words.
    pub fn refusal(&self) -> Option<String> {
        match self {
            Verdict::Granted(_) => None,
            Verdict::NotFound | Verdict::NoRule => Some("no git repository found".to_owned()),
            Verdict::Denied { name, .. } => Some(format!("{name}: Permission denied")),
        }
    }
}

/// The last rule that is about an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deciding<'c> {
    /// Its index in the block.
    pub index: usize,
    /// The rule.
    pub rule: &'c Rule,
    /// Whether a group matched only by its members at the time when the configuration was loaded.
    pub by_membership_at_load: bool,
}

/// A configuration with its tables of names. A decision takes time in proportion to the rules of
/// one block at most.
#[derive(Debug)]
pub struct AccessTable {
    config: Config,
    /// Names without `.git`.
    repositories: HashMap<Vec<u8>, usize>,
    /// Names with `.git`, where a later block has the same name without it.
    with_suffix: HashMap<Vec<u8>, usize>,
    /// Prefixes; the empty one for all names.
    prefixes: HashMap<Vec<u8>, usize>,
    users: HashMap<UserName, u32>,
    account_uids: HashSet<u32>,
    user_names: HashMap<u32, UserName>,
    owners: Owners,
    places: Places,
}

impl AccessTable {
    /// Builds the tables. Of several blocks with one name the first counts; the parser lets none
    /// through.
    pub fn new(config: Config) -> AccessTable {
        let (mut repositories, mut prefixes) = (HashMap::<Vec<u8>, usize>::new(), HashMap::new());
        let mut with_suffix = HashMap::new();
        for (index, block) in config.repositories.iter().enumerate() {
            let name = block.name.as_ref();
            match block.kind {
                RepositoryKind::One => {
                    let key = name.map(|n| n.without_suffix().to_vec()).unwrap_or_default();
                    let bare = name.is_some_and(|n| n.as_bytes() == key);
                    let before = repositories.get(&key).and_then(|&i| config.repositories.get(i));
                    let longer = before.and_then(|block| block.name.as_ref()).filter(|n| n.as_bytes() != key);
                    // Of `x.git` and a later `x`, each is asked for by its own name.
                    if let (true, Some(longer)) = (bare, longer)
                        && let Some(before) = repositories.insert(key.clone(), index)
                    {
                        with_suffix.entry(longer.as_bytes().to_vec()).or_insert(before);
                    }
                    repositories.entry(key).or_insert(index);
                }
                RepositoryKind::Below { .. } => {
                    let key = name.map(|n| n.as_bytes().to_vec()).unwrap_or_default();
                    prefixes.entry(key).or_insert(index);
                }
            }
        }
        let users = (0..).zip(&config.users).map(|(index, user)| (user.name.clone(), index)).collect();
        let account_uids = config.accounts.iter().filter_map(|a| a.uid).collect();
        let user_names = config.unix_users.iter().map(|u| (u.uid, u.name.clone())).collect();
        let places = Places::new(&config.repositories);
        let owners = Owners::new(&config.subordinates);
        AccessTable {
            config,
            repositories,
            with_suffix,
            prefixes,
            users,
            account_uids,
            user_names,
            owners,
            places,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The block that a name belongs to, and how: a configured repository first, with or without
    /// `.git`, then the longest prefix.
    pub fn find(&self, name: &RepoName) -> Option<(usize, NameMatch)> {
        let own = self.with_suffix.get(name.as_bytes());
        if let Some(&index) = own.or_else(|| self.repositories.get(name.without_suffix())) {
            return Some((index, NameMatch::Configured));
        }
        let bytes = name.as_bytes();
        let slashes = bytes.iter().enumerate().rev().filter(|&(_, &b)| b == b'/').map(|(i, _)| i);
        for cut in slashes {
            if let Some(&index) = self.prefixes.get(&bytes[..cut]) {
                let rest = RepoName::parse(&bytes[cut + 1..]).ok()?;
                return Some((index, NameMatch::Below(rest)));
            }
        }
        self.prefixes.get(&b""[..]).map(|&index| (index, NameMatch::Below(name.clone())))
    }

    /// Identifies a peer of a unix socket: as the user of a shared account that it claims to be, if
    /// it has that account's uid, else as the Unix user.
    ///
    /// # Errors
    /// A claim that the peer has no right to, or too many groups.
    pub fn identify(
        &self,
        uid: u32,
        gid: u32,
        groups: &[u32],
        claim: Option<&UserName>,
    ) -> Result<Identity, NoIdentity> {
        if groups.len() > GROUPS_MAX {
            return Err(NoIdentity::TooManyGroups);
        }
        let Some(claim) = claim else {
            return Ok(Identity::UnixUser { uid, gid, groups: groups.to_vec() });
        };
        let index = *self.users.get(claim).ok_or(NoIdentity::NotThatAccount)?;
        let account =
            self.config.users.get(index as usize).and_then(|u| self.config.accounts.get(u.account as usize));
        match account.and_then(|a| a.uid) {
            Some(owner) if owner == uid && !self.is_overflow_uid(uid) => Ok(Identity::AccountUser(index)),
            _ => Err(NoIdentity::NotThatAccount),
        }
    }

    /// The name of an identity for the log: `alice`, `git/bob`, `anonymous`, or `uid 1234`.
    pub fn display(&self, identity: &Identity) -> String {
        match identity {
            Identity::UnixUser { uid, .. } => {
                self.user_names.get(uid).map_or_else(|| format!("uid {uid}"), ToString::to_string)
            }
            Identity::AccountUser(index) => {
                let user = self.config.users.get(*index as usize);
                let account = user.and_then(|u| self.config.accounts.get(u.account as usize));
                match (user, account) {
                    (Some(user), Some(account)) => format!("{}/{}", account.name, user.name),
                    _ => "unknown".to_owned(),
                }
            }
            Identity::Anonymous => crate::conf::model::ANONYMOUS.to_owned(),
        }
    }

    /// The identity that limits count: for a subordinate uid, its owner.
    pub fn counted(&self, identity: &Identity) -> Identity {
        match identity {
            Identity::UnixUser { uid, gid, groups } => {
                Identity::UnixUser { uid: self.owners.of(*uid), gid: *gid, groups: groups.clone() }
            }
            other => other.clone(),
        }
    }

    /// Connections that an identity may have at a time, and the limit that says so: `limit user`,
    /// else the default for users; for anonymous clients only a `limit user anonymous` counts, and
    /// `None` says that there is none.
    pub fn connection_limit(&self, identity: &Identity) -> Option<(u64, Limit)> {
        let own = |limit: &&crate::conf::model::UserLimit| match (limit.who, identity) {
            (Who::Uid(a), Identity::UnixUser { uid, .. })
            | (Who::Anonymous(Some(a)), Identity::UnixUser { uid, .. }) => a == *uid,
            (Who::AccountUser(a), Identity::AccountUser(b)) => a == *b,
            (Who::Anonymous(_), Identity::Anonymous) => true,
            _ => false,
        };
        if let Some(limit) = self.config.user_limits.iter().rev().find(own) {
            return Some((u64::from(limit.connections), Limit::ConnectionsOfUser));
        }
        let limit = Limit::ConnectionsPerUser;
        (*identity != Identity::Anonymous).then(|| (self.config.limits.get(limit), limit))
    }

    /// The last rule of a block that is about this identity.
    pub fn deciding<'c>(&'c self, block: &'c Repository, identity: &Identity) -> Option<Deciding<'c>> {
        let person = Person::new(self, identity)?;
        block.rules.iter().enumerate().rev().find_map(|(index, rule)| {
            let by_membership_at_load = match person.matches(self, rule) {
                Match::No => return None,
                Match::Now => false,
                Match::AtLoad => true,
            };
            Some(Deciding { index, rule, by_membership_at_load })
        })
    }

    /// Whether a directory, by its path as walked, belongs to this block: no other one has a longer
    /// place that contains it.
    pub fn holds(&self, block: usize, walked: &Path) -> bool {
        self.places.of(walked).contains(&block)
    }

    /// The blocks that a directory belongs to, by its path as walked.
    pub fn blocks_of(&self, walked: &Path) -> impl Iterator<Item = &Repository> {
        self.places.of(walked).iter().filter_map(|&block| self.config.repositories.get(block))
    }

    /// Decides.
    pub fn decide(&self, identity: &Identity, name: &RepoName, service: Service) -> Verdict {
        let Some((index, found)) = self.find(name) else {
            return Verdict::NotFound;
        };
        let Some(block) = self.config.repositories.get(index) else {
            return Verdict::NotFound;
        };
        let Some(deciding) = self.deciding(block, identity) else {
            return Verdict::NoRule;
        };
        let anonymous = *identity == Identity::Anonymous;
        let (access, needs_export_marker) = match deciding.rule.action {
            // Whatever a rule says, git:// never writes: nobody has proven anything there.
            Action::Permit(_) if anonymous => (Some(Access::Read), false),
            Action::Permit(access) => (Some(access), false),
            Action::PermitExported => (Some(Access::Read), true),
            Action::Deny => (None, false),
        };
        let at = deciding.rule.at;
        match (access, service) {
            (Some(access), Service::UploadPack) | (Some(access @ Access::Write), Service::ReceivePack) => {
                Verdict::Granted(Grant {
                    block: index,
                    found,
                    access,
                    needs_export_marker,
                    rule: deciding.index,
                    at,
                })
            }
            // An anonymous client is not told what exists, unless the administrator wants it.
            _ if anonymous
                && !self.config.informative_errors
                && (access.is_none() || needs_export_marker) =>
            {
                Verdict::NotFound
            }
            _ => {
                let configured = block.name.as_ref().filter(|_| found == NameMatch::Configured);
                Verdict::Denied { name: configured.unwrap_or(name).clone(), at }
            }
        }
    }

    /// Whether a push that is granted may make its repository. Not where a block of its own is
    /// about that place, or one within or around it: the new repository would have rules that
    /// nobody wrote for it.
    pub fn may_create(&self, grant: &Grant) -> bool {
        let (Some(block), NameMatch::Below(name)) = (self.config.repositories.get(grant.block), &grant.found)
        else {
            return false;
        };
        if block.kind != (RepositoryKind::Below { create: true }) || grant.access != Access::Write {
            return false;
        }
        let root = Path::new(block.place());
        let paths = [name.without_suffix(), &name.with_suffix()].map(|n| root.join(OsStr::from_bytes(n)));
        !self.config.repositories.iter().any(|other| {
            let other = Path::new(other.place());
            let within_root = other != root && other.starts_with(root);
            paths.iter().any(|path| other.starts_with(path) || within_root && path.starts_with(other))
        })
    }

    fn is_overflow_uid(&self, uid: u32) -> bool {
        uid == NO_ID || uid == self.config.overflow_uid
    }
}

enum Match {
    No,
    Now,
    AtLoad,
}

/// An identity, prepared for many rules.
enum Person {
    Unix { uid: u32, groups: Vec<u32> },
    Account(u32),
    Anonymous,
}

impl Person {
    /// `None` for an identity that no rule can be about.
    fn new(table: &AccessTable, identity: &Identity) -> Option<Person> {
        match identity {
            Identity::Anonymous => Some(Person::Anonymous),
            Identity::AccountUser(index) => Some(Person::Account(*index)),
            Identity::UnixUser { uid, gid, groups } => {
                // The overflow uid (any unmapped uid) and the uid of a shared account identify
                // nobody.
                if table.is_overflow_uid(*uid)
                    || table.account_uids.contains(uid)
                    || groups.len() > GROUPS_MAX
                {
                    return None;
                }
                let mut groups: Vec<u32> = groups.iter().copied().chain([*gid]).collect();
                groups.retain(|&gid| gid != NO_ID && gid != table.config.overflow_gid);
                groups.sort_unstable();
                Some(Person::Unix { uid: *uid, groups })
            }
        }
    }

    fn matches(&self, table: &AccessTable, rule: &Rule) -> Match {
        let now = match (self, rule.who) {
            (Person::Unix { uid, .. }, Who::Uid(other) | Who::Anonymous(Some(other))) => *uid == other,
            (Person::Unix { groups, .. }, Who::Gid(gid)) => groups.binary_search(&gid).is_ok(),
            (Person::Account(user), Who::AccountUser(other)) => *user == other,
            (Person::Account(user), Who::AccountGroup(group)) => {
                let group = table.config.groups.get(group as usize);
                group.is_some_and(|g| g.members.binary_search(user).is_ok())
            }
            (Person::Anonymous, Who::Anonymous(_)) => true,
            _ => false,
        };
        if now {
            return Match::Now;
        }
        if let (Person::Unix { uid, .. }, Who::Gid(gid), Action::Deny) = (self, rule.who, rule.action) {
            let members = table.config.denied_members.get(&gid);
            if members.is_some_and(|members| members.binary_search(uid).is_ok()) {
                return Match::AtLoad;
            }
        }
        Match::No
    }
}
