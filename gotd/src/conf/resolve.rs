//! From names to ids, and the checks that need the system's users and groups.

use std::collections::{BTreeMap, HashMap, HashSet};

use libproto::names::UserName;

use super::error::ConfigError;
use super::model::{
    ANONYMOUS, Action, Config, DEFAULT_USER, NotifyVia, Position, Secret, Subject, UnixUser, User, Who,
};

/// Most users of the system that are taken along for their names.
pub const UNIX_USERS_MAX: usize = 100_000;
/// Most members of one group.
pub const MEMBERS_MAX: usize = 100_000;
/// The id that no process can have, and that the kernel's calls take for "unchanged".
pub const NO_ID: u32 = u32::MAX;

/// A Unix group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixGroup {
    /// Group id.
    pub gid: u32,
    /// Login names of its members, without users whose primary group it is.
    pub members: Vec<String>,
}

/// Asks the system for users and groups.
pub trait NameService {
    /// The user with this login name.
    fn user(&mut self, name: &str) -> Option<UnixUser>;
    /// The uid of a user whose name need not be a [`UserName`].
    fn uid(&mut self, name: &str) -> Option<u32> {
        self.user(name).map(|user| user.uid)
    }
    /// The group with this name.
    fn group(&mut self, name: &str) -> Option<UnixGroup>;
    /// The group with this number.
    fn group_by_id(&mut self, gid: u32) -> Option<UnixGroup>;
    /// All users, as far as the system lists them; at most [`UNIX_USERS_MAX`].
    fn users(&mut self) -> Vec<UnixUser>;
}

/// Users and groups in memory, for tests and for machines without any.
#[derive(Debug, Clone, Default)]
pub struct FixedNames {
    /// Users.
    pub users: Vec<UnixUser>,
    /// Groups by name.
    pub groups: BTreeMap<String, UnixGroup>,
}

impl NameService for FixedNames {
    fn user(&mut self, name: &str) -> Option<UnixUser> {
        self.users.iter().find(|u| u.name.as_str() == name).cloned()
    }
    fn group(&mut self, name: &str) -> Option<UnixGroup> {
        self.groups.get(name).cloned()
    }
    fn group_by_id(&mut self, gid: u32) -> Option<UnixGroup> {
        self.groups.values().find(|g| g.gid == gid).cloned()
    }
    fn users(&mut self) -> Vec<UnixUser> {
        self.users.clone()
    }
}

/// What resolving found wrong.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The configuration cannot be used.
    pub errors: Vec<ConfigError>,
    /// Rules that match nobody, and the like.
    pub warnings: Vec<ConfigError>,
}

/// Fills in every id of a parsed configuration.
///
/// An unknown user or group in a rule is a warning, and the rule matches nobody, as for C gotd. A
/// name that is of two kinds (a user of an account and a Unix user) is an error, because a rule
/// about it would be about both.
pub fn resolve(config: &mut Config, names: &mut dyn NameService) -> Findings {
    let mut resolver = Resolver {
        names,
        findings: Findings::default(),
        users: HashMap::new(),
        groups: HashMap::new(),
        account_users: HashMap::new(),
        account_groups: HashMap::new(),
        denied: HashSet::new(),
    };
    resolver.run(config);
    resolver.findings
}

struct Resolver<'n> {
    names: &'n mut dyn NameService,
    findings: Findings,
    users: HashMap<UserName, (Who, Option<UnixUser>)>,
    groups: HashMap<UserName, Who>,
    account_users: HashMap<UserName, u32>,
    account_groups: HashMap<UserName, u32>,
    denied: HashSet<u32>,
}

/// A complaint at a place of the configuration.
pub fn complaint(config: &Config, at: Position, message: String) -> ConfigError {
    let file = usize::try_from(at.file).ok().and_then(|i| config.files.get(i)).cloned();
    ConfigError { file: file.unwrap_or_default(), line: at.line, column: at.column, message }
}

impl Resolver<'_> {
    fn run(&mut self, config: &mut Config) {
        self.daemon_user(config);
        self.accounts(config);
        let mut repositories = std::mem::take(&mut config.repositories);
        for block in &mut repositories {
            block.rules.retain_mut(|rule| {
                rule.who = self.who(config, &rule.subject, rule.at);
                if let (Action::Deny, Who::Gid(gid)) = (rule.action, rule.who) {
                    self.denied.insert(gid);
                }
                by_number(config, &mut rule.subject, rule.who)
            });
        }
        config.repositories = repositories;
        let mut limits = std::mem::take(&mut config.user_limits);
        limits.retain_mut(|limit| {
            let said = self.findings.warnings.len();
            limit.who = self.who(config, &limit.subject, limit.at);
            if limit.who == Who::Nobody && !self.is_known(config, &limit.subject.name) {
                // The error says all.
                self.findings.warnings.truncate(said);
                let message = format!("{}: no such user", shown(config, &limit.subject.name));
                self.findings.errors.push(complaint(config, limit.at, message));
            }
            by_number(config, &mut limit.subject, limit.who)
        });
        config.user_limits = limits;
        config.odd_names.clear();
        self.secrets(config);
        self.unix_users(config);
        self.findings.errors.sort();
        self.findings.errors.dedup();
    }

    fn daemon_user(&mut self, config: &mut Config) {
        let mut user = config.user.take().unwrap_or_else(|| User {
            name: DEFAULT_USER.to_owned(),
            ids: None,
            at: Position::default(),
        });
        let numeric = user.name.parse::<u32>().ok().filter(|&id| id != NO_ID);
        let known = self.names.user(&user.name);
        // A number without an account: the group with the same number, for want of a better one.
        user.ids = known.map(|u| (u.uid, u.gid)).or(numeric.map(|id| (id, id)));
        if user.ids.is_none() && user.at.line > 0 {
            let message = format!("{}: no such user", user.name);
            self.findings.warnings.push(complaint(config, user.at, message));
        }
        config.user = Some(user);
    }

    fn accounts(&mut self, config: &mut Config) {
        let mut accounts = std::mem::take(&mut config.accounts);
        for account in &mut accounts {
            account.uid = self.names.user(account.name.as_str()).map(|u| u.uid);
            if account.uid.is_none() {
                let message = format!("{}: no such Unix account, nobody can log in to it", account.name);
                self.findings.warnings.push(complaint(config, account.at, message));
            }
        }
        config.accounts = accounts;
        for (index, user) in (0..).zip(&config.users) {
            self.account_users.insert(user.name.clone(), index);
            if self.names.user(user.name.as_str()).is_some() {
                let message = format!("user \"{}\": there is a Unix account of that name", user.name);
                self.findings.errors.push(complaint(config, user.at, message));
            }
        }
        for (index, group) in (0..).zip(&config.groups) {
            self.account_groups.insert(group.name.clone(), index);
            if self.names.group(group.name.as_str()).is_some() {
                let message = format!("group \"{}\": there is a Unix group of that name", group.name);
                self.findings.errors.push(complaint(config, group.at, message));
            }
        }
    }

    fn who(&mut self, config: &Config, subject: &Subject, at: Position) -> Who {
        if subject.group {
            self.group(config, &subject.name, at)
        } else {
            self.user(config, &subject.name, at)
        }
    }

    fn user(&mut self, config: &Config, name: &UserName, at: Position) -> Who {
        if let Some((who, _)) = self.users.get(name) {
            return *who;
        }
        let odd = config.odd_names.get(name);
        let known = if odd.is_some() { None } else { self.names.user(name.as_str()) };
        let found = match odd {
            Some(odd) => self.names.uid(odd),
            None => known.as_ref().map(|u| u.uid).or_else(|| number(name.as_str())),
        };
        let uid = found.filter(|&uid| uid != NO_ID);
        let name_shown = shown(config, name);
        let who = if name.as_str() == ANONYMOUS {
            Who::Anonymous(uid.filter(|&uid| uid != config.overflow_uid))
        } else if let Some(&index) = self.account_users.get(name) {
            Who::AccountUser(index)
        } else {
            match uid {
                Some(uid) if uid == config.overflow_uid => {
                    self.warn(
                        config,
                        at,
                        format!("{name_shown}: uid {uid} stands for unknown users and matches nobody"),
                    );
                    Who::Nobody
                }
                Some(uid) => Who::Uid(uid),
                None => {
                    self.warn(config, at, format!("{name_shown}: no such user, this matches nobody"));
                    Who::Nobody
                }
            }
        };
        self.users.insert(name.clone(), (who, known));
        who
    }

    /// Whether the system, or an account of the file, has a user of this name or with this number.
    fn is_known(&mut self, config: &Config, name: &UserName) -> bool {
        let text = config.odd_names.get(name).map_or(name.as_str(), String::as_str);
        self.names.uid(text).or_else(|| number(text)).is_some_and(|uid| uid != NO_ID)
    }

    fn group(&mut self, config: &Config, name: &UserName, at: Position) -> Who {
        if let Some(who) = self.groups.get(name) {
            return *who;
        }
        let who = if let Some(&index) = self.account_groups.get(name) {
            Who::AccountGroup(index)
        } else {
            let (odd, name_shown) = (config.odd_names.get(name), shown(config, name));
            let found = self.names.group(odd.map_or(name.as_str(), String::as_str)).map(|g| g.gid);
            let gid = found.or_else(|| if odd.is_some() { None } else { number(name.as_str()) });
            match gid.filter(|&gid| gid != NO_ID) {
                Some(gid) if gid == config.overflow_gid => {
                    self.warn(
                        config,
                        at,
                        format!(":{name_shown}: gid {gid} stands for unknown groups and matches nobody"),
                    );
                    Who::Nobody
                }
                Some(gid) => Who::Gid(gid),
                None => {
                    self.warn(config, at, format!(":{name_shown}: no such group, this matches nobody"));
                    Who::Nobody
                }
            }
        };
        self.groups.insert(name.clone(), who);
        who
    }

    fn warn(&mut self, config: &Config, at: Position, message: String) {
        if self.findings.warnings.len() < 200 {
            self.findings.warnings.push(complaint(config, at, message));
        }
    }

    /// The labels in `notify` must exist, as for C gotd.
    fn secrets(&mut self, config: &Config) {
        let known: HashSet<(bool, &str)> =
            config.secrets.iter().map(|s| (matches!(s, Secret::Auth { .. }), s.label())).collect();
        for target in config.repositories.iter().flat_map(|r| &r.notify.targets) {
            let NotifyVia::Url { auth, hmac, .. } = &target.via else { continue };
            for (kind, wanted) in [("auth", auth), ("hmac", hmac)] {
                if let Some(wanted) =
                    wanted.as_ref().filter(|w| !known.contains(&(kind == "auth", w.as_str())))
                {
                    let message = format!("no {kind} secret \"{wanted}\" in gotd-secrets.conf");
                    let complaint = complaint(config, target.at, message);
                    // C gotd asks for these only where it has no secrets at all.
                    if kind == "hmac" && !config.secrets.is_empty() {
                        self.findings.warnings.push(complaint);
                    } else {
                        self.findings.errors.push(complaint);
                    }
                }
            }
        }
    }

    /// Resolves names for the log, and the members of groups that rules deny. A process's own list
    /// of groups may be shorter, because a user namespace lets anybody drop groups.
    fn unix_users(&mut self, config: &mut Config) {
        let mut all: BTreeMap<u32, UnixUser> = BTreeMap::new();
        let listed = self.names.users();
        let named = self.users.values().filter_map(|(_, user)| user.clone());
        for user in listed.into_iter().chain(named).take(UNIX_USERS_MAX) {
            all.entry(user.uid).or_insert(user);
        }
        let uids: HashMap<&str, u32> = all.values().map(|u| (u.name.as_str(), u.uid)).collect();
        for &gid in &self.denied {
            let by_number = self.names.group_by_id(gid);
            let mut members: Vec<u32> = all.values().filter(|u| u.gid == gid).map(|u| u.uid).collect();
            for name in by_number.iter().flat_map(|g| &g.members).take(MEMBERS_MAX) {
                members.extend(uids.get(name.as_str()).copied().or_else(|| self.names.uid(name)));
            }
            members.sort_unstable();
            members.dedup();
            members.truncate(MEMBERS_MAX);
            config.denied_members.insert(gid, members);
        }
        config.unix_users = all.into_values().collect();
    }
}

/// A name as the file has it.
fn shown(config: &Config, name: &UserName) -> String {
    match config.odd_names.get(name) {
        Some(odd) => libproto::names::escape(odd.as_bytes()),
        None => name.to_string(),
    }
}

/// Puts the number of a user or group in the place of a name that is no [`UserName`]. False: there
/// is neither user nor group of that name, and the rule is about nobody.
fn by_number(config: &Config, subject: &mut Subject, who: Who) -> bool {
    if !config.odd_names.contains_key(&subject.name) {
        return true;
    }
    let (Who::Uid(id) | Who::Gid(id)) = who else { return false };
    match UserName::parse(id.to_string().as_bytes()) {
        Ok(number) => subject.name = number,
        Err(_) => return false,
    }
    true
}

fn number(digits: &str) -> Option<u32> {
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}
