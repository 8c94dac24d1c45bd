//! Why something was refused: a value to decide by, whose text is for the client and the log.
//!
//! Texts are those of C git and C gotd where these have the same refusal, byte by byte: clients and
//! sites look for them.
//!
//! **Invariant:** nobody finds out by a text what a refusal is about: the text may quote a client.

use std::fmt;

use libgit::{ObjectId, RefName};
use serde::{Deserialize, Serialize};

use crate::limits::{Counted, Limit};
use crate::names::{RepoName, escape};
use crate::request::daemon;
use crate::wire_error::WireError;

/// What `protect` forbids about a reference. Namespaces that nobody may write to are
/// [`Rule::Namespace`] too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Deleting it, or changing its history.
    Reference,
    /// This change to a reference in a protected namespace.
    Namespace,
    /// Creating references in this namespace.
    Creating,
    /// Deleting references in this namespace.
    Deleting,
    /// Merge commits on this branch.
    Merges,
}

/// What the owner of a repository has forbidden in its own `config`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnRule {
    /// `receive.denyDeletes`.
    Delete,
    /// `receive.denyNonFastForwards`.
    Rewrite,
    /// `receive.hideRefs` or `transfer.hideRefs`.
    Hidden,
}

impl fmt::Display for OwnRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // git's words, and the key.
        f.write_str(match self {
            OwnRule::Delete => "deletion prohibited (receive.denyDeletes in the repository)",
            OwnRule::Rewrite => "non-fast-forward (receive.denyNonFastForwards in the repository)",
            OwnRule::Hidden => "deny updating a hidden ref (hideRefs in the repository)",
        })
    }
}

/// Why a repository lacks objects that it would borrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lender {
    /// The client may not read the lender.
    Denied,
    /// The client may read it, but it does not exist.
    Absent,
}

impl fmt::Display for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lender::Denied => "the repository borrows from a repository you may not read",
            Lender::Absent => "the repository borrows from a repository that is not there",
        })
    }
}

/// Why a client sees no repository; told only with `connection informative errors`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unseen {
    /// There is none of this name.
    NoSuch,
    /// It lacks the file `git-daemon-export-ok`.
    NotExported,
    /// Its own `config` has it not served over git://.
    NotEnabled,
    /// No rule of its block is about the client.
    NotPermitted,
}

impl fmt::Display for Unseen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // git-daemon's words.
        f.write_str(match self {
            Unseen::NoSuch => "no such repository",
            Unseen::NotExported => "repository not exported",
            Unseen::NotEnabled => "service not enabled",
            Unseen::NotPermitted => "access denied or repository not exported",
        })
    }
}

/// Why a peer has no identity that a rule could permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NoIdentity {
    /// It is a member of more groups than are looked at.
    TooManyGroups,
    /// It claims to speak for a user that does not exist, or whose account it is not.
    NotThatAccount,
    /// It asks for self-service and has an account of its own.
    OwnAccount,
    /// The configuration is not there yet.
    NotConfigured,
}

impl fmt::Display for NoIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NoIdentity::TooManyGroups => "member of too many groups",
            NoIdentity::NotThatAccount => "no such user of this account",
            NoIdentity::OwnAccount => "commands other than git's are for users of a shared account",
            NoIdentity::NotConfigured => "not configured yet",
        })
    }
}

/// Why a repository that a push would make cannot have its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewName {
    /// It is too many directories deep.
    TooDeep,
    /// A component is too long.
    TooLong,
    /// A component starts with a dot.
    Dot,
    /// A directory would have the name of a repository.
    DotGit,
    /// It lies inside a repository.
    Inside,
    /// Something on the way is no directory.
    NoDirectory,
    /// It cannot be looked at: no descriptor is left.
    NoDescriptor,
}

impl fmt::Display for NewName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NewName::TooDeep => "too many directories in its name",
            NewName::TooLong => "too long a name",
            NewName::Dot => "a component of its name starts with a dot",
            NewName::DotGit => "a directory's name ends in .git",
            NewName::Inside => "its name lies inside a repository",
            NewName::NoDirectory => "its name leads through no directory",
            NewName::NoDescriptor => "no descriptor is left",
        })
    }
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No reference can have this name.
    FunnyName,
    /// Another command of the same push is about the same reference.
    Twice,
    /// Another command of the same push gives the same branch another value, one of them through a
    /// symbolic reference.
    Inconsistent,
    /// It is a symbolic reference that leads in a circle, too far, or to no name.
    BrokenAlias,
    /// It is a symbolic reference that leads to what is no branch.
    NoBranchAlias,
    /// Another command of the same atomic push was refused.
    Atomic,
    /// The pack that this command needs was refused.
    Unpacker,
    /// A rule of `protect`: about which reference or namespace, free of control bytes.
    Protected(Rule, String),
    /// `hide namespace`: the namespace.
    Hidden(String),
    /// The repository's own `config` forbids it.
    Own(OwnRule),
    /// HEAD names this branch, which is to be removed.
    CurrentBranch,
    /// HEAD names this branch, and its files are there.
    CheckedOut,
    /// The client asks to delete a reference that it says does not exist, and it exists.
    Exists,
    /// A branch can name nothing but a commit.
    NoCommit,
    /// The command brings a blob of so many bytes, where so many are permitted.
    BlobSize(u64, u64),
    /// The push has more commands than this limit.
    Commands(u64),
    /// No result of a command was reported.
    NoAnswer,
    /// A wanted object that is not there or that the client may not have, which must look the same.
    NotFound(ObjectId),
    /// An object that another one needs, or that a reference names, is not there.
    Missing(ObjectId),
    /// An object that is missing because the repository borrows, with the reason.
    Withheld(ObjectId, Lender),
    /// No reference has this name, or more than one.
    NoSuchRef(RefName),
    /// More of something than may be: what, and how many may be.
    TooMany(Counted, u64),
    /// HEAD is to name a branch of this name, and there is none.
    NoBranch(String),
    /// The new configuration is not in force: why.
    Reload(String),
    /// A limit of gotd.conf is reached: which, and how.
    Limit(Limit, String),
    /// The client takes or gives less than the minimum rate.
    TooSlow,
    /// The client broke the protocol: how. Holds the client's own words.
    Malformed(String),
    /// The client's connection failed while a pack was written.
    ClientGone,
    /// The client's connection failed.
    Connection(String),
    /// The repository process is no more.
    RepositoryEnded,
    /// What the reference transaction says.
    Reference(String),
    /// The error in the objects that the command needs.
    Objects(String),
    /// The error in the pack.
    Pack(String),
    /// Something in the repository makes no sense: which file, and how.
    Damaged(String),
    /// A process, or a system call of it, failed: a text that names it.
    Internal(String),
    /// The client went away before it asked for anything.
    NoRequest,
    /// It went away before its answer.
    ClientLeft,
    /// A client of git:// connected and said nothing.
    Silent,
    /// The client speaks another version of gotd's protocol than the daemon: that one, this one.
    Version(u16, u16),
    /// The name to speak for is none.
    UserName,
    /// There is no name to speak for, and the command needs one.
    NoUserName,
    /// The peer is nobody.
    NoIdentity(NoIdentity),
    /// The repository is not there, or must look so.
    NoRepository,
    /// The repository is not there, or must look so; the administrator wants the client told why.
    Unseen(Unseen, RepoName),
    /// Somebody who may know of the repository may not do this: C gotd's words.
    Denied(String),
    /// As `Denied`, but for the log: with the place of the rule.
    DeniedBy(String, String),
    /// The way to the repository is not one that may be walked: why, for the log.
    Unreached(String),
    /// The repository has no `git-daemon-export-ok`, for the log.
    Unmarked,
    /// The repository's own `config` has it not served over git://, for the log.
    NotDaemon,
    /// What has the name of a repository to be created is none, for the log.
    NameTaken,
    /// A repository to be created cannot have its name.
    NewName(NewName),
    /// A repository cannot be created, nor even tried.
    NotCreated,
    /// A push over git://.
    FetchOnly,
    /// A client of git:// asked for a push of this repository in its first words.
    NotEnabled(RepoName),
    /// A word of self-service that is none: how they are used.
    Usage(String),
    /// A client of Git's at a control socket.
    ControlAlone,
    /// A request to the daemon at a socket of clients: where such are taken.
    ControlElsewhere(String),
}

impl Refusal {
    /// The limit of gotd.conf that was reached.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Refusal::BlobSize(..) => Some(Limit::BlobSize),
            Refusal::Commands(_) => Some(Limit::Commands),
            Refusal::TooMany(counted, _) => counted.limit(),
            Refusal::Limit(limit, _) => Some(*limit),
            Refusal::TooSlow => Some(Limit::MinimumRate),
            _ => None,
        }
    }

    /// Whether C gotd refuses this too, by the same rule of `protect`: Game of Trees' client
    /// expects it as an `ERR` packet.
    pub fn is_protected(&self) -> bool {
        matches!(self, Refusal::Protected(Rule::Reference | Rule::Namespace, _))
    }

    /// Whether the text says which reference or namespace it is about.
    fn names_reference(&self) -> bool {
        matches!(self, Refusal::Protected(..) | Refusal::Hidden(_))
    }

    /// The same, about a reference that the text does not name yet.
    #[must_use]
    pub fn about(self, reference: &str) -> Refusal {
        if self.names_reference() {
            return self;
        }
        let said = format!("{reference}: {}", Said(&self));
        match self.limit() {
            Some(limit) => Refusal::Limit(limit, said),
            None => Refusal::Reference(said),
        }
    }

    /// The same with its text escaped and cut to `most` bytes. It is escaped once more on its way
    /// to a client.
    #[must_use]
    pub fn bounded(self, most: usize) -> Refusal {
        self.map_text(|text| {
            let mut text = escape(text.as_bytes());
            text.truncate(text.floor_char_boundary(most));
            text
        })
    }

    /// The same with its free text passed through `change`: another process may have put anything
    /// into it.
    #[must_use]
    pub fn map_text(mut self, change: impl FnOnce(&str) -> String) -> Refusal {
        if let Refusal::Limit(_, text)
        | Refusal::Malformed(text)
        | Refusal::Connection(text)
        | Refusal::Reference(text)
        | Refusal::Objects(text)
        | Refusal::Pack(text)
        | Refusal::Damaged(text)
        | Refusal::Internal(text)
        | Refusal::Denied(text)
        | Refusal::DeniedBy(text, _)
        | Refusal::Unreached(text)
        | Refusal::Usage(text)
        | Refusal::ControlElsewhere(text)
        | Refusal::NoBranch(text)
        | Refusal::Reload(text)
        | Refusal::Protected(_, text)
        | Refusal::Hidden(text) = &mut self
        {
            *text = change(text);
        }
        self
    }

    /// The refusal inside an I/O error, if there is one: refusals travel so through code that knows
    /// only I/O errors.
    pub fn carried_by(error: &std::io::Error) -> Option<&Refusal> {
        error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>())
    }
}

impl std::error::Error for Refusal {}

impl From<Refusal> for std::io::Error {
    fn from(refusal: Refusal) -> std::io::Error {
        std::io::Error::other(refusal)
    }
}

impl From<&WireError> for Refusal {
    fn from(error: &WireError) -> Refusal {
        match error {
            WireError::Limit(what, most) => Refusal::TooMany(*what, *most),
            error => Refusal::Malformed(error.to_string()),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Said(self).fmt(f)?;
        // The line of gotd.conf that says so.
        self.limit().map_or(Ok(()), |limit| write!(f, " {}", limit.hint()))
    }
}

/// A refusal without the limit that it names.
struct Said<'a>(&'a Refusal);

impl fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Refusal::FunnyName => f.write_str("funny refname"),
            Refusal::Twice => f.write_str("multiple updates for ref"),
            Refusal::Inconsistent => f.write_str("inconsistent aliased update"),
            Refusal::BrokenAlias => f.write_str("broken symref"),
            Refusal::NoBranchAlias => f.write_str("is a symbolic reference that leads out of refs/heads/"),
            Refusal::Atomic => f.write_str("atomic push failure"),
            Refusal::Unpacker => f.write_str("unpacker error"),
            Refusal::Protected(rule, name) => {
                let rule = match rule {
                    Rule::Reference => "reference is protected",
                    Rule::Namespace => "reference namespace is protected",
                    Rule::Creating => "creating references is not permitted in this namespace",
                    Rule::Deleting => "deleting references is not permitted in this namespace",
                    Rule::Merges => "merge commits are not permitted on this branch",
                };
                write!(f, "{name}: {rule}")
            }
            Refusal::Hidden(namespace) => write!(f, "{namespace}: reference namespace is hidden"),
            Refusal::Own(rule) => rule.fmt(f),
            Refusal::CurrentBranch => f.write_str("deletion of the current branch prohibited"),
            Refusal::CheckedOut => f.write_str("branch is currently checked out"),
            Refusal::Exists => f.write_str("failed to update ref: it exists"),
            Refusal::NoCommit => f.write_str("invalid new value provided"),
            Refusal::BlobSize(bytes, most) => {
                write!(f, "blob of {bytes} bytes, at most {most} are permitted")
            }
            Refusal::Commands(most) => write!(f, "more than {most} references in one push"),
            Refusal::NoAnswer => f.write_str(
                "no answer from the repository process: look at the reference before you push again",
            ),
            Refusal::NotFound(id) => WireError::NotFound(*id).fmt(f),
            Refusal::Missing(id) => write!(f, "object {id}: missing"),
            Refusal::Withheld(id, lender) => write!(f, "object {id}: missing: {lender}"),
            Refusal::NoSuchRef(name) => WireError::NoSuchRef(name.clone()).fmt(f),
            Refusal::TooMany(what, most) => write!(f, "too many {what}: at most {most}"),
            Refusal::NoRequest => f.write_str("client went away before its request"),
            Refusal::ClientLeft => f.write_str("client went away"),
            Refusal::Silent => f.write_str("connected and said nothing"),
            Refusal::Version(theirs, ours) => write!(
                f,
                "client speaks version {theirs} of gotd's protocol, the daemon version {ours}: install the same \
                 version of both"
            ),
            Refusal::UserName => f.write_str("--user: not a user name"),
            Refusal::NoUserName => f.write_str("--user: no name"),
            Refusal::NoIdentity(why) => why.fmt(f),
            Refusal::NoRepository => f.write_str("no git repository found"),
            Refusal::Unseen(why, repo) => write!(f, "{why}: {}", daemon::path(repo)),
            Refusal::DeniedBy(text, rule) => write!(f, "{text} ({rule})"),
            Refusal::Unmarked => f.write_str("no git-daemon-export-ok"),
            Refusal::NotDaemon => f.write_str("daemon.uploadpack is false in the repository"),
            Refusal::NameTaken => {
                f.write_str("something that is no repository has the name of one to be created")
            }
            Refusal::NewName(why) => write!(f, "a repository to be created: {why}"),
            Refusal::NotCreated => f.write_str("the repository cannot be created"),
            Refusal::FetchOnly => f.write_str("git:// is for fetching only"),
            Refusal::NotEnabled(repo) => f.write_str(&daemon::not_enabled(repo)),
            Refusal::ControlAlone => f.write_str("a control socket serves gotctl alone"),
            Refusal::ControlElsewhere(sockets) => {
                write!(f, "control requests are taken at {sockets} alone")
            }
            Refusal::NoBranch(name) => write!(f, "{name}: no such branch"),
            Refusal::TooSlow => f.write_str("transfer is too slow"),
            Refusal::ClientGone => f.write_str("connection closed by client"),
            Refusal::Connection(text) => write!(f, "client's connection: {text}"),
            Refusal::RepositoryEnded => f.write_str("the repository process ended"),
            Refusal::Limit(_, text)
            | Refusal::Malformed(text)
            | Refusal::Reference(text)
            | Refusal::Objects(text)
            | Refusal::Pack(text)
            | Refusal::Damaged(text)
            | Refusal::Internal(text)
            | Refusal::Reload(text)
            | Refusal::Denied(text)
            | Refusal::Unreached(text)
            | Refusal::Usage(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What clients see, byte by byte, and the limit that counts.
    #[test]
    fn the_texts() {
        let id = ObjectId::from_hex(&[b'a'; 40]).expect("an id");
        let name = RefName::parse(b"refs/heads/x").expect("a name");
        let a = "a".repeat(40);
        let repo = || RepoName::parse(b"x.git").expect("a name");
        let text = |text: &str| text.to_owned();
        for (refusal, told, limit) in [
            (Refusal::FunnyName, text("funny refname"), None),
            (Refusal::Twice, text("multiple updates for ref"), None),
            (Refusal::Inconsistent, text("inconsistent aliased update"), None),
            (Refusal::BrokenAlias, text("broken symref"), None),
            (Refusal::NoBranchAlias, text("is a symbolic reference that leads out of refs/heads/"), None),
            (Refusal::Atomic, text("atomic push failure"), None),
            (Refusal::Unpacker, text("unpacker error"), None),
            (
                Refusal::NoAnswer,
                text("no answer from the repository process: look at the reference before you push again"),
                None,
            ),
            (Refusal::NotFound(id), format!("object {a} not found"), None),
            (Refusal::Missing(id), format!("object {a}: missing"), None),
            (
                Refusal::Withheld(id, Lender::Denied),
                format!("object {a}: missing: the repository borrows from a repository you may not read"),
                None,
            ),
            (
                Refusal::Withheld(id, Lender::Absent),
                format!("object {a}: missing: the repository borrows from a repository that is not there"),
                None,
            ),
            (Refusal::NoSuchRef(name), text("deepen-not is not a ref: refs/heads/x"), None),
            (
                Refusal::from(&WireError::Limit(Counted::PushOptions, 7)),
                text("too many push options: at most 7"),
                None,
            ),
            (
                Refusal::from(&WireError::Limit(Counted::Wants, 7)),
                text("too many wants: at most 7 (limit wants)"),
                Some(Limit::Wants),
            ),
            (
                Refusal::Limit(Limit::DiskReserve, text("disk: 1 bytes free, 2 are reserved")),
                text("disk: 1 bytes free, 2 are reserved (limit disk reserve)"),
                Some(Limit::DiskReserve),
            ),
            (
                Refusal::TooSlow,
                text("transfer is too slow (connection minimum rate)"),
                Some(Limit::MinimumRate),
            ),
            (Refusal::ClientGone, text("connection closed by client"), None),
            (Refusal::NoRequest, text("client went away before its request"), None),
            (Refusal::ClientLeft, text("client went away"), None),
            (Refusal::Silent, text("connected and said nothing"), None),
            (
                Refusal::Version(1, 2),
                text(
                    "client speaks version 1 of gotd's protocol, the daemon version 2: install the same version of both",
                ),
                None,
            ),
            (Refusal::UserName, text("--user: not a user name"), None),
            (Refusal::NoUserName, text("--user: no name"), None),
            (Refusal::NoIdentity(NoIdentity::TooManyGroups), text("member of too many groups"), None),
            (Refusal::NoIdentity(NoIdentity::NotThatAccount), text("no such user of this account"), None),
            (
                Refusal::NoIdentity(NoIdentity::OwnAccount),
                text("commands other than git's are for users of a shared account"),
                None,
            ),
            (Refusal::NoIdentity(NoIdentity::NotConfigured), text("not configured yet"), None),
            (Refusal::NoRepository, text("no git repository found"), None),
            (Refusal::Unseen(Unseen::NoSuch, repo()), text("no such repository: /x.git"), None),
            (Refusal::Unseen(Unseen::NotExported, repo()), text("repository not exported: /x.git"), None),
            (
                Refusal::Unseen(Unseen::NotPermitted, repo()),
                text("access denied or repository not exported: /x.git"),
                None,
            ),
            (Refusal::Denied(text("x: Permission denied")), text("x: Permission denied"), None),
            (
                Refusal::DeniedBy(text("x: Permission denied"), text("/etc/gotd.conf:7")),
                text("x: Permission denied (/etc/gotd.conf:7)"),
                None,
            ),
            (Refusal::Unmarked, text("no git-daemon-export-ok"), None),
            (
                Refusal::NameTaken,
                text("something that is no repository has the name of one to be created"),
                None,
            ),
            (
                Refusal::NewName(NewName::TooDeep),
                text("a repository to be created: too many directories in its name"),
                None,
            ),
            (
                Refusal::NewName(NewName::DotGit),
                text("a repository to be created: a directory's name ends in .git"),
                None,
            ),
            (Refusal::NotCreated, text("the repository cannot be created"), None),
            (Refusal::FetchOnly, text("git:// is for fetching only"), None),
            (
                Refusal::NotEnabled(repo()),
                text("service not enabled: /x.git: git:// is for fetching only"),
                None,
            ),
            (Refusal::ControlAlone, text("a control socket serves gotctl alone"), None),
            (
                Refusal::ControlElsewhere(text("/run/gotd.sock.ctl")),
                text("control requests are taken at /run/gotd.sock.ctl alone"),
                None,
            ),
            (Refusal::NoBranch(text("refs/heads/x")), text("refs/heads/x: no such branch"), None),
            (Refusal::Connection(text("broken pipe")), text("client's connection: broken pipe"), None),
            (Refusal::RepositoryEnded, text("the repository process ended"), None),
            (
                Refusal::BlobSize(9, 7),
                text("blob of 9 bytes, at most 7 are permitted (limit blob size)"),
                Some(Limit::BlobSize),
            ),
            (
                Refusal::BlobSize(9, 7).about("refs/heads/x"),
                text("refs/heads/x: blob of 9 bytes, at most 7 are permitted (limit blob size)"),
                Some(Limit::BlobSize),
            ),
            (
                Refusal::CheckedOut.about("refs/heads/x"),
                text("refs/heads/x: branch is currently checked out"),
                None,
            ),
            (
                Refusal::Protected(Rule::Namespace, text("refs/tags/")).about("refs/tags/v1"),
                text("refs/tags/: reference namespace is protected"),
                None,
            ),
        ] {
            assert_eq!((refusal.to_string(), refusal.limit()), (told, limit));
            let carried = std::io::Error::from(refusal.clone());
            assert_eq!(
                (Refusal::carried_by(&carried), carried.to_string()),
                (Some(&refusal), refusal.to_string())
            );
        }
        assert_eq!(Refusal::carried_by(&std::io::Error::other("x")), None);
    }

    /// A client's own words name a limit: that is no refusal by a limit.
    #[test]
    fn no_text_makes_a_limit() {
        let forged = WireError::Unknown("capability", "(limit packs total)".into());
        let refusal = Refusal::from(&forged);
        assert_eq!(refusal.to_string(), "unknown capability '(limit packs total)'");
        assert_eq!(refusal.limit(), None);
        assert_eq!(refusal.about("(limit wants)").limit(), None);
    }
}
