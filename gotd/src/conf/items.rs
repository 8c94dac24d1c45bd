//! The encoding in which a configuration travels: from `config` to `parent`, and from there to
//! `auth`.
//!
//! A configuration is a sequence of small [`ConfigItem`]s, packed into batches that each fit into
//! one message. The receiver does not trust the sender: [`Assembler`] checks order, ranges,
//! references between items and names again.

use libproto::codec::{self, CodecError};
use libproto::message::parent::UidRange;
use libproto::names::{RepoName, UserName};
use serde::{Deserialize, Serialize};

use super::accounts::{KEYS_MAX, USERS_MAX, parse_key};
use super::limits::Limit;
use super::model::{
    Account, AccountUser, Borrow, Config, Group, Hidden, Key, LimitOverride, ListenAddress, Listener, LogTo,
    NotifyReference, NotifyTarget, Position, Principal, Protection, Repository, RepositoryKind,
    RepositoryOptions, Rule, SOCKET_PATH_MAX, Sandbox, Secret, Tolerated, UnixUser, User, UserLimit, Who,
    branch_name, namespace,
};
use super::parser::{PATH_MAX, REPOSITORIES_MAX, RULES_MAX};
use super::repository_blocks::{ALL_REFERENCES, ENTRIES_MAX, FSCK_KINDS};
use super::resolve::{MEMBERS_MAX, UNIX_USERS_MAX};
use super::secrets::SECRETS_MAX;
use super::source::FILES_MAX;
use crate::fairness::owners;
use crate::roles::sockets::ask;

/// Version of the items; both ends are the same build, so this only guards against mistakes.
const VERSION: u32 = 1;
/// Most bytes of one batch.
pub const BATCH_MAX: usize = 15_000;
/// Ids or users in one item.
const CHUNK: usize = 100;
/// Longest text in an item, in bytes.
const TEXT_MAX: usize = 8_000;

/// A piece of a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ConfigItem {
    /// The first, with the version.
    Begin(u32),
    /// A file, in the order of the model.
    File(String),
    /// What there is once.
    Globals(Globals),
    /// `listen on`
    Listener(Listener),
    /// A limit that was set.
    Limit(LimitOverride),
    /// `limit user`
    UserLimit(UserLimit),
    /// `account`
    Account(Account),
    /// A user of an account, without keys and principals.
    User(AccountUser),
    /// A key of the last user.
    Key(Key),
    /// A principal of the last user.
    Principal(Principal),
    /// `group`, without members.
    Group(Group),
    /// Members of the last group.
    GroupMembers(Vec<u32>),
    /// `repository` or `repositories`; what follows is about it until the next one.
    Repository(RepositoryHead),
    /// An access rule.
    Rule(Rule),
    /// `protect`
    Protection(Protection),
    /// `hide`
    Hidden(Hidden),
    /// `borrow`
    Borrow(Borrow),
    /// `fsck ignore`
    Tolerated(Tolerated),
    /// `limit` of a repository
    RepositoryLimit(LimitOverride),
    /// `notify branch`, `notify reference namespace`
    NotifyReference(NotifyReference),
    /// `notify email`, `notify url`
    NotifyTarget(NotifyTarget),
    /// Some users of the system.
    UnixUsers(Vec<UnixUser>),
    /// Some members of a Unix group that a rule denies.
    Denied(u32, Vec<u32>),
    /// Some ranges of subordinate uids.
    Subordinates(Vec<UidRange>),
    /// A secret.
    Secret(Secret),
    /// The last, with the number of items before it.
    End(u64),
}

/// What there is once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Globals {
    user: Option<User>,
    client: Option<User>,
    daemon: Option<User>,
    sandbox: Sandbox,
    log_verbose: bool,
    log_to: LogTo,
    informative_errors: bool,
    overflow_uid: u32,
    overflow_gid: u32,
}

/// The beginning of a repository block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RepositoryHead {
    name: Option<RepoName>,
    kind: RepositoryKind,
    path: String,
    place: String,
    options: RepositoryOptions,
    at: Position,
}

/// The receiver of a configuration, which gets only the parts that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// All of it.
    Notify,
    /// `parent` and `auth`: no keys, secrets nor targets of notifications.
    Parent,
}

/// Sends a configuration as batches of at most [`BATCH_MAX`] bytes.
///
/// # Errors
/// What `sink` returns, and [`CodecError::TooLarge`] for an item that the parser's limits exclude.
pub fn send<E: From<CodecError>>(
    config: &Config,
    audience: Audience,
    sink: &mut dyn FnMut(Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let mut batch = Vec::new();
    let mut count = 0_u64;
    let mut put = |item: ConfigItem| -> Result<(), E> {
        let kept = audience == Audience::Notify
            || !matches!(
                item,
                ConfigItem::Secret(_)
                    | ConfigItem::Key(_)
                    | ConfigItem::Principal(_)
                    | ConfigItem::NotifyTarget(_)
                    | ConfigItem::NotifyReference(_)
            );
        if !kept {
            return Ok(());
        }
        let item = match item {
            ConfigItem::End(_) => ConfigItem::End(count),
            other => other,
        };
        count = count.saturating_add(1);
        let mut bytes = Vec::new();
        codec::encode(&item, &mut bytes)?;
        let length = u16::try_from(bytes.len()).map_err(|_| CodecError::TooLarge)?;
        if bytes.len() + 2 > BATCH_MAX {
            return Err(CodecError::TooLarge.into());
        }
        if batch.len() + bytes.len() + 2 > BATCH_MAX {
            sink(std::mem::take(&mut batch))?;
        }
        batch.extend_from_slice(&length.to_le_bytes());
        batch.extend_from_slice(&bytes);
        if matches!(item, ConfigItem::End(_)) {
            sink(std::mem::take(&mut batch))?;
        }
        Ok(())
    };
    items(config, &mut put)
}

/// All items of a configuration, in order.
pub fn items<E>(config: &Config, put: &mut dyn FnMut(ConfigItem) -> Result<(), E>) -> Result<(), E> {
    put(ConfigItem::Begin(VERSION))?;
    config.files.iter().try_for_each(|f| put(ConfigItem::File(f.clone())))?;
    put(ConfigItem::Globals(Globals {
        user: config.user.clone(),
        client: config.client.clone(),
        daemon: config.daemon.clone(),
        sandbox: config.sandbox,
        log_verbose: config.log_verbose,
        log_to: config.log_to,
        informative_errors: config.informative_errors,
        overflow_uid: config.overflow_uid,
        overflow_gid: config.overflow_gid,
    }))?;
    config.listeners.iter().try_for_each(|l| put(ConfigItem::Listener(l.clone())))?;
    config
        .limits
        .changed()
        .try_for_each(|(limit, value, at)| put(ConfigItem::Limit(LimitOverride { limit, value, at })))?;
    config.accounts.iter().try_for_each(|a| put(ConfigItem::Account(a.clone())))?;
    for user in &config.users {
        put(ConfigItem::User(AccountUser { keys: Vec::new(), principals: Vec::new(), ..user.clone() }))?;
        user.keys.iter().try_for_each(|k| put(ConfigItem::Key(k.clone())))?;
        user.principals.iter().try_for_each(|p| put(ConfigItem::Principal(p.clone())))?;
    }
    for group in &config.groups {
        put(ConfigItem::Group(Group { members: Vec::new(), ..group.clone() }))?;
        group.members.chunks(CHUNK).try_for_each(|m| put(ConfigItem::GroupMembers(m.to_vec())))?;
    }
    config.user_limits.iter().try_for_each(|l| put(ConfigItem::UserLimit(l.clone())))?;
    config.unix_users.chunks(CHUNK).try_for_each(|u| put(ConfigItem::UnixUsers(u.to_vec())))?;
    for (gid, members) in &config.denied_members {
        put(ConfigItem::Denied(*gid, Vec::new()))?;
        members.chunks(CHUNK).try_for_each(|m| put(ConfigItem::Denied(*gid, m.to_vec())))?;
    }
    config.subordinates.chunks(CHUNK).try_for_each(|r| put(ConfigItem::Subordinates(r.to_vec())))?;
    for block in &config.repositories {
        repository_items(block, put)?;
    }
    config.secrets.iter().try_for_each(|s| put(ConfigItem::Secret(s.clone())))?;
    put(ConfigItem::End(0))
}

fn repository_items<E>(
    block: &Repository,
    put: &mut dyn FnMut(ConfigItem) -> Result<(), E>,
) -> Result<(), E> {
    put(ConfigItem::Repository(RepositoryHead {
        name: block.name.clone(),
        kind: block.kind,
        path: block.path.clone(),
        place: block.place.clone(),
        options: block.options,
        at: block.at,
    }))?;
    block.rules.iter().try_for_each(|r| put(ConfigItem::Rule(r.clone())))?;
    block.protections.iter().try_for_each(|p| put(ConfigItem::Protection(p.clone())))?;
    block.hidden.iter().try_for_each(|h| put(ConfigItem::Hidden(h.clone())))?;
    block.borrows.iter().try_for_each(|b| put(ConfigItem::Borrow(b.clone())))?;
    block.tolerated.iter().try_for_each(|t| put(ConfigItem::Tolerated(t.clone())))?;
    block.limits.iter().try_for_each(|l| put(ConfigItem::RepositoryLimit(*l)))?;
    block.notify.references.iter().try_for_each(|r| put(ConfigItem::NotifyReference(r.clone())))?;
    block.notify.targets.iter().try_for_each(|t| put(ConfigItem::NotifyTarget(t.clone())))
}

/// Why a sequence of items is not a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The bytes are not items.
    Malformed,
    /// An item where it has no place.
    Order,
    /// Too many of something.
    TooMany,
    /// A value, name or reference to another item that the parser would not have made.
    Invalid(&'static str),
}

impl std::fmt::Display for WireError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            WireError::Malformed => f.write_str("configuration item: malformed"),
            WireError::Order => f.write_str("configuration item: out of order"),
            WireError::TooMany => f.write_str("configuration item: too many"),
            WireError::Invalid(what) => write!(f, "configuration item: invalid {what}"),
        }
    }
}

impl std::error::Error for WireError {}

/// Puts a configuration together from batches, once.
#[derive(Debug, Default)]
pub struct Assembler {
    config: Config,
    count: u64,
    rules: usize,
    state: AssemblerState,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum AssemblerState {
    #[default]
    Empty,
    Begun,
    Complete,
    Broken,
}

fn check(good: bool, what: &'static str) -> Result<(), WireError> {
    if good { Ok(()) } else { Err(WireError::Invalid(what)) }
}

fn room(length: usize, most: usize) -> Result<(), WireError> {
    if length < most { Ok(()) } else { Err(WireError::TooMany) }
}

fn text(value: &str) -> bool {
    value.len() <= TEXT_MAX && !value.contains(|c: char| c.is_control() && c != '\t')
}

fn path(value: &str) -> bool {
    value.starts_with('/') && value.len() <= PATH_MAX && text(value) && !value.split('/').any(|c| c == "..")
}

impl Assembler {
    /// Takes one batch. Returns the configuration when this was the last one.
    ///
    /// # Errors
    /// After any error, and after the last batch, the assembler takes nothing more.
    pub fn item(&mut self, batch: &[u8]) -> Result<Option<Config>, WireError> {
        let taken = self.take_batch(batch);
        if taken.is_err() {
            self.state = AssemblerState::Broken;
        }
        taken?;
        Ok((self.state == AssemblerState::Complete).then(|| {
            self.state = AssemblerState::Broken;
            std::mem::take(&mut self.config)
        }))
    }

    fn take_batch(&mut self, mut bytes: &[u8]) -> Result<(), WireError> {
        if bytes.is_empty() || bytes.len() > BATCH_MAX {
            return Err(WireError::Malformed);
        }
        while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
            let length = usize::from(u16::from_le_bytes(*length));
            let Some((item, rest)) = rest.split_at_checked(length) else {
                return Err(WireError::Malformed);
            };
            self.one(codec::decode(item).map_err(|_| WireError::Malformed)?)?;
            bytes = rest;
        }
        if bytes.is_empty() { Ok(()) } else { Err(WireError::Malformed) }
    }

    /// Takes one item.
    fn one(&mut self, item: ConfigItem) -> Result<(), WireError> {
        match (self.state, &item) {
            (AssemblerState::Empty, ConfigItem::Begin(VERSION)) => self.state = AssemblerState::Begun,
            (AssemblerState::Begun, ConfigItem::End(count)) if *count == self.count => {
                check(!self.config.files.is_empty(), "end without a file")?;
                check(!self.config.repositories.is_empty(), "end without a repository")?;
                self.state = AssemblerState::Complete;
            }
            (AssemblerState::Begun, ConfigItem::Begin(_) | ConfigItem::End(_)) => {
                return Err(WireError::Order);
            }
            (AssemblerState::Begun, _) => self.take_item(item)?,
            _ => return Err(WireError::Order),
        }
        self.count = self.count.saturating_add(1);
        Ok(())
    }

    fn place(&self, at: Position) -> Result<(), WireError> {
        let known = usize::try_from(at.file).is_ok_and(|file| file < self.config.files.len());
        check(at == Position::default() || (known && at.line > 0 && at.column > 0), "position")
    }

    fn who(&self, who: Who) -> Result<(), WireError> {
        let good = match who {
            Who::AccountUser(i) => (i as usize) < self.config.users.len(),
            Who::AccountGroup(i) => (i as usize) < self.config.groups.len(),
            Who::Uid(id) => id != self.config.overflow_uid && id != u32::MAX,
            Who::Gid(id) => id != self.config.overflow_gid && id != u32::MAX,
            Who::Anonymous(uid) => uid != Some(u32::MAX),
            Who::Nobody => true,
        };
        check(good, "subject")
    }

    fn take_item(&mut self, item: ConfigItem) -> Result<(), WireError> {
        match item {
            ConfigItem::Begin(_) | ConfigItem::End(_) => Err(WireError::Order),
            ConfigItem::File(file) => {
                room(self.config.files.len(), FILES_MAX)?;
                check(!file.is_empty() && text(&file), "file")?;
                self.config.files.push(file);
                Ok(())
            }
            ConfigItem::Globals(globals) => self.globals(globals),
            ConfigItem::Listener(listener) => self.listener(listener),
            ConfigItem::Limit(o) => {
                self.place(o.at)?;
                check(self.config.limits.set(o.limit, o.value, o.at), "limit")
            }
            ConfigItem::UserLimit(limit) => {
                room(self.config.user_limits.len(), 100_000)?;
                self.place(limit.at)?;
                self.who(limit.who)?;
                let range = Limit::ConnectionsOfUser.row();
                check(!limit.subject.group && range.allows(u64::from(limit.connections)), "limit of a user")?;
                self.config.user_limits.push(limit);
                Ok(())
            }
            ConfigItem::Account(account) => {
                room(self.config.accounts.len(), 1000)?;
                self.place(account.at)?;
                self.config.accounts.push(account);
                Ok(())
            }
            ConfigItem::User(_) | ConfigItem::Key(_) | ConfigItem::Principal(_) => self.user_item(item),
            ConfigItem::Group(_) | ConfigItem::GroupMembers(_) => self.group_item(item),
            ConfigItem::UnixUsers(users) => {
                check(!users.is_empty(), "empty list")?;
                room(self.config.unix_users.len() + users.len(), UNIX_USERS_MAX + 1)?;
                self.config.unix_users.extend(users);
                Ok(())
            }
            ConfigItem::Denied(gid, ids) => {
                room(self.config.denied_members.len(), USERS_MAX)?;
                let members = self.config.denied_members.entry(gid).or_default();
                extend_sorted(members, &ids, MEMBERS_MAX)
            }
            ConfigItem::Subordinates(ranges) => {
                check(!ranges.is_empty(), "empty list")?;
                room(self.config.subordinates.len() + ranges.len(), owners::RANGES_MAX + 1)?;
                self.config.subordinates.extend(ranges);
                check(owners::are_in_order(&self.config.subordinates), "order of uids")
            }
            ConfigItem::Secret(secret) => {
                room(self.config.secrets.len(), SECRETS_MAX)?;
                self.config.secrets.push(secret);
                Ok(())
            }
            ConfigItem::Repository(head) => self.repository(head),
            other => self.repository_item(other),
        }
    }

    fn globals(&mut self, globals: Globals) -> Result<(), WireError> {
        let Globals {
            user,
            client,
            daemon,
            sandbox,
            log_verbose,
            log_to,
            informative_errors,
            overflow_uid,
            overflow_gid,
        } = globals;
        for user in [&user, &client, &daemon].into_iter().flatten() {
            self.place(user.at)?;
            check(UserName::parse(user.name.as_bytes()).is_ok(), "user")?;
        }
        let config = std::mem::take(&mut self.config);
        self.config = Config {
            user,
            client,
            daemon,
            sandbox,
            log_verbose,
            log_to,
            informative_errors,
            overflow_uid,
            overflow_gid,
            ..config
        };
        Ok(())
    }

    fn listener(&mut self, listener: Listener) -> Result<(), WireError> {
        room(self.config.listeners.len(), 64)?;
        self.place(listener.at)?;
        let good = match &listener.address {
            ListenAddress::Unix(p) => path(p) && p.len() <= SOCKET_PATH_MAX && !ask::is_control(p.as_bytes()),
            ListenAddress::Git(_, port) => *port > 0,
        };
        check(good, "listener")?;
        self.config.listeners.push(listener);
        Ok(())
    }

    fn user_item(&mut self, item: ConfigItem) -> Result<(), WireError> {
        match item {
            ConfigItem::User(user) => {
                room(self.config.users.len(), USERS_MAX)?;
                self.place(user.at)?;
                check((user.account as usize) < self.config.accounts.len(), "account of a user")?;
                check(user.keys.is_empty() && user.principals.is_empty(), "user with keys")?;
                self.config.users.push(user);
            }
            ConfigItem::Key(key) => {
                self.place(key.at)?;
                let again = parse_key(&format!("{} {}", key.kind, key.base64), key.at);
                check(again.as_ref() == Ok(&key), "key")?;
                let user = self.config.users.last_mut().ok_or(WireError::Order)?;
                room(user.keys.len(), KEYS_MAX)?;
                user.keys.push(key);
            }
            ConfigItem::Principal(principal) => {
                self.place(principal.at)?;
                let user = self.config.users.last_mut().ok_or(WireError::Order)?;
                room(user.principals.len(), KEYS_MAX)?;
                user.principals.push(principal);
            }
            _ => return Err(WireError::Order),
        }
        Ok(())
    }

    fn group_item(&mut self, item: ConfigItem) -> Result<(), WireError> {
        match item {
            ConfigItem::Group(group) => {
                room(self.config.groups.len(), USERS_MAX)?;
                self.place(group.at)?;
                check(group.members.is_empty(), "group with members")?;
                self.config.groups.push(group);
                Ok(())
            }
            ConfigItem::GroupMembers(ids) => {
                let users = self.config.users.len();
                check(!ids.is_empty() && ids.iter().all(|&i| (i as usize) < users), "members of a group")?;
                let group = self.config.groups.last_mut().ok_or(WireError::Order)?;
                extend_sorted(&mut group.members, &ids, USERS_MAX)
            }
            _ => Err(WireError::Order),
        }
    }

    fn repository(&mut self, head: RepositoryHead) -> Result<(), WireError> {
        room(self.config.repositories.len(), REPOSITORIES_MAX)?;
        self.place(head.at)?;
        check(path(&head.path), "path of a repository")?;
        check(head.place.is_empty() || path(&head.place), "place of a repository")?;
        check(head.name.is_some() || head.kind != RepositoryKind::One, "repository without a name")?;
        let mut block = Repository::new(head.name, head.kind, head.at);
        block.path = head.path;
        block.place = head.place;
        block.options = head.options;
        self.config.repositories.push(block);
        Ok(())
    }

    fn repository_item(&mut self, item: ConfigItem) -> Result<(), WireError> {
        match &item {
            ConfigItem::Rule(rule) => {
                self.place(rule.at)?;
                self.who(rule.who)?;
                self.rules = self.rules.saturating_add(1);
                room(self.rules, RULES_MAX)?;
            }
            ConfigItem::Protection(Protection { at, .. })
            | ConfigItem::Hidden(Hidden { at, .. })
            | ConfigItem::Borrow(Borrow { at, .. })
            | ConfigItem::Tolerated(Tolerated { at, .. })
            | ConfigItem::RepositoryLimit(LimitOverride { at, .. })
            | ConfigItem::NotifyReference(NotifyReference { at, .. })
            | ConfigItem::NotifyTarget(NotifyTarget { at, .. }) => self.place(*at)?,
            _ => return Err(WireError::Order),
        }
        let block = self.config.repositories.last_mut().ok_or(WireError::Order)?;
        match item {
            ConfigItem::Rule(rule) => block.rules.push(rule),
            ConfigItem::Protection(protection) => {
                room(block.protections.len(), ENTRIES_MAX)?;
                let canonical = match protection.kind.is_namespace() {
                    true => namespace(&protection.name),
                    false => branch_name(&protection.name),
                };
                check(canonical.as_ref() == Some(&protection.name), "protected name")?;
                block.protections.push(protection);
            }
            ConfigItem::Hidden(hidden) => {
                room(block.hidden.len(), ENTRIES_MAX)?;
                let good = namespace(&hidden.namespace).as_ref() == Some(&hidden.namespace);
                check(good && hidden.namespace != ALL_REFERENCES, "hidden namespace")?;
                block.hidden.push(hidden);
            }
            ConfigItem::Borrow(borrow) => {
                room(block.borrows.len(), ENTRIES_MAX)?;
                check(!block.is_itself(&borrow.name), "borrowed repository")?;
                block.borrows.push(borrow);
            }
            ConfigItem::Tolerated(tolerated) => {
                room(block.tolerated.len(), FSCK_KINDS.len())?;
                check(FSCK_KINDS.contains(&tolerated.kind.as_str()), "tolerated finding")?;
                block.tolerated.push(tolerated);
            }
            ConfigItem::RepositoryLimit(o) => {
                room(block.limits.len(), ENTRIES_MAX)?;
                check(o.limit.row().allows(o.value), "limit of a repository")?;
                block.limits.push(o);
            }
            ConfigItem::NotifyReference(reference) => {
                room(block.notify.references.len(), ENTRIES_MAX)?;
                block.notify.references.push(reference);
            }
            ConfigItem::NotifyTarget(target) => {
                room(block.notify.targets.len(), ENTRIES_MAX)?;
                block.notify.targets.push(target);
            }
            _ => return Err(WireError::Order),
        }
        Ok(())
    }
}

/// Appends ids that must be greater than those before them: lookups are binary searches.
fn extend_sorted(list: &mut Vec<u32>, more: &[u32], most: usize) -> Result<(), WireError> {
    for &id in more {
        room(list.len(), most)?;
        check(list.last().is_none_or(|&last| last < id), "order of ids")?;
        list.push(id);
    }
    Ok(())
}
