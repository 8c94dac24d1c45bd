//! The typed form of a configuration.
//!
//! Plain data, with the place in the files where each part stands, so that a refusal and `gotctl
//! explain` can name the line. Names are typed; ids are filled in by [`super::resolve`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use libproto::message::parent::UidRange;
pub use libproto::message::rules::{ProtectionKind, branch_name, namespace};
use libproto::names::{RepoName, UserName};
use serde::{Deserialize, Serialize};

use super::limits::{ConfiguredLimits, Limit};
pub use super::position::Position;

/// The owner of the repositories when the file does not say.
pub const DEFAULT_USER: &str = "_gotd";
/// The user that sessions run as when the file does not say.
pub const DEFAULT_CLIENT: &str = "_gotd_client";
/// The user that the processes without a repository run as when the file does not say.
pub const DEFAULT_DAEMON: &str = "_gotd_daemon";
/// The unix socket when the file has no `listen on`.
pub const DEFAULT_SOCKET: &str = "/var/run/gotd.sock";
/// The port of `listen on git` when the line does not say.
pub const DEFAULT_GIT_PORT: u16 = 9418;
/// The identity of git:// clients, and of a Unix account of that name.
pub const ANONYMOUS: &str = "anonymous";

/// A whole configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// The files it came from, as they were named; the first is the main file.
    pub files: Vec<String>,
    /// `user`: name or number; [`DEFAULT_USER`] when absent.
    pub user: Option<User>,
    /// `user … client NAME`; [`DEFAULT_CLIENT`] when absent.
    pub client: Option<User>,
    /// `user … daemon NAME`; [`DEFAULT_DAEMON`] when absent.
    pub daemon: Option<User>,
    /// `listen on`; without one it is [`DEFAULT_SOCKET`].
    pub listeners: Vec<Listener>,
    /// `sandbox`.
    pub sandbox: Sandbox,
    /// `log verbose`.
    pub log_verbose: bool,
    /// `log to`.
    pub log_to: LogTo,
    /// `connection informative errors`: anonymous clients are told "permission denied" too.
    pub informative_errors: bool,
    /// `connection` and `limit`: numbers, with their defaults.
    pub limits: ConfiguredLimits,
    /// `connection limit user`.
    pub user_limits: Vec<UserLimit>,
    /// `account`.
    pub accounts: Vec<Account>,
    /// `user` in an `account`.
    pub users: Vec<AccountUser>,
    /// `group`.
    pub groups: Vec<Group>,
    /// `repository` and `repositories`, in the order of the files.
    pub repositories: Vec<Repository>,
    /// The Unix users of the system, as far as they are known: names for the log, and for `deny
    /// :group`.
    pub unix_users: Vec<UnixUser>,
    /// Users (by uid, sorted) of each Unix group (by gid) that a `deny` rule names, as the system
    /// said when the configuration was loaded.
    pub denied_members: BTreeMap<u32, Vec<u32>>,
    /// Subordinate uids, as the system had them when the configuration was loaded: in order, and
    /// none in two ranges.
    pub subordinates: Vec<UidRange>,
    /// Contents of gotd-secrets.conf(5).
    pub secrets: Vec<Secret>,
    /// Names in rules and limits that are no [`UserName`], by the made-up name that stands for each
    /// until it is resolved: then there is a number in its place, or the rule is gone.
    pub odd_names: BTreeMap<UserName, String>,
    /// The uid that stands for ids that the kernel cannot express; it matches no rule.
    pub overflow_uid: u32,
    /// The gid that stands for ids that the kernel cannot express; it matches no rule.
    pub overflow_gid: u32,
}

/// `user NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Name or number.
    pub name: String,
    /// Its uid and gid, once resolved.
    pub ids: Option<(u32, u32)>,
    /// Where it stands.
    pub at: Position,
}

/// `listen on`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// What to bind.
    pub address: ListenAddress,
    /// Where it stands.
    pub at: Position,
}

/// What a listener binds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListenAddress {
    /// A unix socket with this absolute path, at most [`SOCKET_PATH_MAX`] bytes.
    Unix(String),
    /// TCP, for git://.
    Git(IpAddr, u16),
}

/// Longest path of a unix socket that every system can bind, in bytes.
pub const SOCKET_PATH_MAX: usize = 99;

/// `sandbox`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sandbox {
    /// Refuse to start without enforcement.
    #[default]
    Required,
    /// Use what the kernel has, with a warning.
    BestEffort,
}

/// `log to`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTo {
    /// Standard error in the foreground, else syslog.
    #[default]
    Auto,
    /// Standard error.
    Stderr,
    /// syslog(3), facility `daemon`.
    Syslog,
}

/// The subject of a rule or limit, as written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Whether it was written with a colon.
    pub group: bool,
    /// Name or number.
    pub name: UserName,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.group { ":" } else { "" }, self.name.as_str())
    }
}

/// The subject of a rule or limit, resolved to uids and gids.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// Nobody: unknown, or not resolved yet.
    #[default]
    Nobody,
    /// The Unix user with this uid.
    Uid(u32),
    /// Members of the Unix group with this gid.
    Gid(u32),
    /// The user with this index in [`Config::users`].
    AccountUser(u32),
    /// Members of the group with this index in [`Config::groups`].
    AccountGroup(u32),
    /// git:// clients, and the Unix account `anonymous` if there is one (its uid).
    Anonymous(Option<u32>),
}

/// `limit user NAME N`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLimit {
    /// As written; never a group.
    pub subject: Subject,
    /// Resolved.
    pub who: Who,
    /// Connections at a time.
    pub connections: u32,
    /// Where it stands.
    pub at: Position,
}

/// `account NAME { … }`: a Unix account that many people share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// The Unix account.
    pub name: UserName,
    /// Its uid, once resolved.
    pub uid: Option<u32>,
    /// Where it stands.
    pub at: Position,
}

/// A user of a shared account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountUser {
    /// Unique among all identities.
    pub name: UserName,
    /// Index into [`Config::accounts`].
    pub account: u32,
    /// Keys that log in as this user.
    pub keys: Vec<Key>,
    /// Principals of SSH certificates that log in as this user.
    pub principals: Vec<Principal>,
    /// Where it stands.
    pub at: Position,
}

/// An SSH public key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    /// `ssh-ed25519` and the like.
    pub kind: String,
    /// The key blob in base64.
    pub base64: String,
    /// Where it stands.
    pub at: Position,
}

/// A principal of SSH certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// Its name.
    pub name: UserName,
    /// Where it stands.
    pub at: Position,
}

/// `group NAME { … }`: users of shared accounts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Unique among all groups.
    pub name: UserName,
    /// Indexes into [`Config::users`], sorted.
    pub members: Vec<u32>,
    /// Where it stands.
    pub at: Position,
}

/// A user of the system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixUser {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Login name.
    pub name: UserName,
}

/// One `repository` or `repositories` block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// The name that clients use; for `repositories` the prefix, `None` for all names.
    pub name: Option<RepoName>,
    /// One repository, or all below a directory.
    pub kind: RepositoryKind,
    /// Absolute path, as written.
    pub path: String,
    /// The path as walked when the configuration was loaded, without links; empty: it was not
    /// walked.
    pub place: String,
    /// Access rules in order; the last that matches decides.
    pub rules: Vec<Rule>,
    /// What a push may not do.
    pub protections: Vec<Protection>,
    /// Hidden namespaces, with a slash at the end.
    pub hidden: Vec<Hidden>,
    /// Repositories that it may borrow objects from, for all its readers.
    pub borrows: Vec<Borrow>,
    /// Kinds of fsck findings that a push may have.
    pub tolerated: Vec<Tolerated>,
    /// Switches.
    pub options: RepositoryOptions,
    /// Limits of its own.
    pub limits: Vec<LimitOverride>,
    /// `notify`.
    pub notify: Notify,
    /// Where it stands.
    pub at: Position,
}

/// One repository or many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RepositoryKind {
    /// `repository`.
    One,
    /// `repositories`; whether a permitted push creates what does not exist.
    Below {
        /// `create`
        create: bool,
    },
}

/// Switches of a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryOptions {
    /// Object filters (partial clones), and therefore wants of any object.
    pub partial_clone: bool,
    /// What may be wanted.
    pub wants: Wants,
    /// Whether pushes write reflogs.
    pub reflog: bool,
    /// Whether pushed objects are checked as git's `fsckObjects` does.
    pub fsck_off: bool,
}

/// Which objects a client may want by id.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wants {
    /// What the advertised references name.
    Advertised,
    /// What can be reached from the advertised references.
    #[default]
    Reachable,
    /// Any object that is there.
    Any,
}

/// `permit` or `deny`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it says.
    pub action: Action,
    /// Its subject, as written.
    pub subject: Subject,
    /// Its subject, resolved.
    pub who: Who,
    /// Where it stands.
    pub at: Position,
}

/// What a rule says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// `permit ro`, `permit rw`.
    Permit(Access),
    /// `export-ok`: reading, where the marker file of git-daemon stands.
    PermitExported,
    /// `deny`.
    Deny,
}

/// What is permitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// `ro`: fetch.
    Read,
    /// `rw`: fetch and push.
    Write,
}

impl Access {
    /// The word in gotd.conf.
    pub fn word(self) -> &'static str {
        match self {
            Access::Read => "ro",
            Access::Write => "rw",
        }
    }
}

/// One thing that pushes to a repository may not do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protection {
    /// What is forbidden.
    pub kind: ProtectionKind,
    /// A full reference name, or a namespace with a slash at its end.
    pub name: String,
    /// Where it stands.
    pub at: Position,
}

/// `hide namespace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden {
    /// With a slash at its end.
    pub namespace: String,
    /// Where it stands.
    pub at: Position,
}

/// `borrow`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Borrow {
    /// A repository of this configuration, or the prefix of a `repositories` block for all that is
    /// in it.
    pub name: RepoName,
    /// Where it stands.
    pub at: Position,
}

/// `fsck ignore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tolerated {
    /// Git's name of the finding, as git-fsck(1) spells it.
    pub kind: String,
    /// Where it stands.
    pub at: Position,
}

/// `limit` in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitOverride {
    /// Which.
    pub limit: Limit,
    /// In the limit's unit.
    pub value: u64,
    /// Where it stands.
    pub at: Position,
}

/// `notify`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notify {
    /// Branches by full name, and namespaces with a slash at the end; all references when empty.
    pub references: Vec<NotifyReference>,
    /// Where to.
    pub targets: Vec<NotifyTarget>,
}

/// `branch` or `reference namespace` in `notify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyReference {
    /// A full reference name, or a namespace with a slash at its end.
    pub name: String,
    /// Where it stands.
    pub at: Position,
}

/// `email` or `url` in `notify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTarget {
    /// What to send.
    pub via: NotifyVia,
    /// Where it stands.
    pub at: Position,
}

/// How to notify.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotifyVia {
    /// SMTP.
    Email {
        /// From.
        sender: Option<String>,
        /// To.
        recipient: String,
        /// Reply-To.
        responder: Option<String>,
        /// SMTP server; the loopback address when absent.
        relay: Option<String>,
        /// Its port or service name; 25 when absent.
        port: Option<String>,
    },
    /// HTTP POST.
    Url {
        /// `http://` or `https://`.
        url: String,
        /// Label of credentials for basic authentication.
        auth: Option<String>,
        /// Whether these may go over plain HTTP.
        insecure: bool,
        /// Label of the secret that signs the body.
        hmac: Option<String>,
    },
}

/// An entry of gotd-secrets.conf(5).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Secret {
    /// Credentials for HTTP basic authentication.
    Auth {
        /// The name that gotd.conf uses.
        label: String,
        /// User.
        user: String,
        /// Password.
        password: String,
    },
    /// A shared secret for signatures.
    Hmac {
        /// The name that gotd.conf uses.
        label: String,
        /// The secret, as written.
        secret: String,
    },
}

impl Secret {
    /// The name that gotd.conf uses.
    pub fn label(&self) -> &str {
        match self {
            Secret::Auth { label, .. } | Secret::Hmac { label, .. } => label,
        }
    }
}

/// Never shows the secret.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self {
            Secret::Auth { .. } => "auth",
            Secret::Hmac { .. } => "hmac",
        };
        write!(f, "Secret({kind} {:?})", self.label())
    }
}

impl Repository {
    /// An empty block.
    pub fn new(name: Option<RepoName>, kind: RepositoryKind, at: Position) -> Repository {
        Repository {
            name,
            kind,
            path: String::new(),
            place: String::new(),
            rules: Vec::new(),
            protections: Vec::new(),
            hidden: Vec::new(),
            borrows: Vec::new(),
            tolerated: Vec::new(),
            options: RepositoryOptions::default(),
            limits: Vec::new(),
            notify: Notify::default(),
            at,
        }
    }

    /// The name or prefix as text for messages; `/` for all names.
    pub fn display_name(&self) -> String {
        self.name.as_ref().map_or_else(|| "/".to_owned(), ToString::to_string)
    }

    /// What its repositories are known by: a path without links.
    pub fn place(&self) -> &str {
        if self.place.is_empty() { &self.path } else { &self.place }
    }

    /// Whether a name is the name of this block's single repository.
    pub fn is_itself(&self, name: &RepoName) -> bool {
        let own = self.name.as_ref().filter(|_| self.kind == RepositoryKind::One);
        own.is_some_and(|own| own.without_suffix() == name.without_suffix())
    }

    /// The value of a limit for this block: its own, else that of the whole configuration.
    pub fn limit(&self, limit: Limit, global: &ConfiguredLimits) -> u64 {
        self.limits.iter().rev().find(|o| o.limit == limit).map_or_else(|| global.get(limit), |o| o.value)
    }
}

impl Config {
    /// A configuration with nothing but defaults.
    pub fn empty() -> Config {
        Config { overflow_uid: 65534, overflow_gid: 65534, ..Config::default() }
    }

    /// `file:line` of a place, for messages; `default` when it is none.
    pub fn place(&self, at: Position) -> String {
        match usize::try_from(at.file).ok().and_then(|i| self.files.get(i)) {
            Some(file) if at.line > 0 => format!("{}:{}", libproto::names::escape(file.as_bytes()), at.line),
            _ => "default".to_owned(),
        }
    }

    /// The login name of a uid, or the number where it has none.
    pub fn name_of(&self, uid: u32) -> String {
        let user = self.unix_users.iter().find(|user| user.uid == uid);
        user.map_or_else(|| uid.to_string(), |user| user.name.to_string())
    }

    /// The owner of the repositories: name or number.
    pub fn user_name(&self) -> &str {
        self.user.as_ref().map_or(DEFAULT_USER, |u| &u.name)
    }

    /// The user that sessions run as.
    pub fn client_name(&self) -> &str {
        self.client.as_ref().map_or(DEFAULT_CLIENT, |u| &u.name)
    }

    /// The user that the processes without a repository run as.
    pub fn daemon_name(&self) -> &str {
        self.daemon.as_ref().map_or(DEFAULT_DAEMON, |u| &u.name)
    }
}
