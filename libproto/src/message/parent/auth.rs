//! What `parent` and `auth` say to each other.

use serde::{Deserialize, Serialize};

use super::{Build, CreateRules, FetchRules, Lend, Peer, RepoAddress};
use crate::command::Service;
use crate::message::rules::PushRules;
use crate::names::{RepoName, UserName};
use crate::refusal::NoIdentity;

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The kernel's word.
    pub peer: Peer,
    /// Whom the client was told to speak for; believed only from an account's uid.
    pub told_user: Option<UserName>,
}

/// Which of these may this user see?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Who asks.
    pub who: Who,
    /// The place of the `repositories` directory that they are in.
    pub place: Vec<u8>,
    /// Names as a request has them, and as they are there; at most [`SEEN_MAX`](super::SEEN_MAX).
    pub names: Vec<(RepoName, RepoName)>,
}

/// Asks whether a found repository belongs to the block that permitted it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceQuestion {
    /// What was permitted.
    pub question: Question,
    /// Its path as walked.
    pub path: Vec<u8>,
}

/// The answer of `auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placed {
    /// It does.
    Here,
    /// It does not: the reason, for the log.
    Elsewhere(String),
}

/// A repository that a user may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Its name in a request.
    pub name: RepoName,
    /// The user may write too.
    pub write: bool,
}

/// A directory of repositories that a user may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRoot {
    /// Absolute path from the configuration.
    pub path: Vec<u8>,
    /// The path without links at which the walk must end; anything else is refused.
    pub place: Vec<u8>,
    /// The prefix of the names of the repositories in it.
    pub prefix: Option<RepoName>,
}

/// The end of what a configuration has for a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overview {
    /// The client is a user of a shared account.
    Known {
        /// The identity for limits and logs.
        identity: String,
        /// Connections at once of this identity.
        connections: u32,
        /// `limit user` says so, and not `limit per user`.
        own_connections: bool,
    },
    /// No answer under this identity: the reason.
    NoIdentity(NoIdentity),
}

/// May this client do this to that repository?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The kernel's word.
    pub peer: Peer,
    /// Whom the client was told to speak for; believed only from an account's uid.
    pub told_user: Option<UserName>,
    /// What it wants.
    pub service: Service,
    /// Where.
    pub repository: RepoName,
}

/// From which of these may be borrowed?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BorrowAsk {
    /// Who asks.
    pub who: Who,
    /// The repository that was asked for, whose alternates these are.
    pub repository: RepoName,
    /// Paths of objects directories, as walked; at most [`BORROW_PLACES`](super::BORROW_PLACES).
    pub places: Vec<Vec<u8>>,
}

/// The answer of `auth`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Granted.
    Granted(Permit),
    /// No such repository, or no rule matched, which must look the same unless the administrator
    /// wants it told.
    NotFound {
        /// Whom logs name.
        identity: String,
        /// The name leads to a block, but no rule of it is about them.
        no_rule: bool,
    },
    /// A rule matched and says no.
    Denied {
        /// Whom logs name.
        identity: String,
        /// For the client.
        text: String,
        /// `file:line` of the rule.
        rule: String,
    },
    /// No answer under this identity: the reason.
    NoIdentity(NoIdentity),
}

/// What was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// The identity in the log: `alice`, `git/bob`, `anonymous`, `uid 1234`.
    pub identity: String,
    /// The identity that limits count, in the same form: for a subordinate uid, its owner.
    pub counted: String,
    /// Connections at once of this identity.
    pub connections: u32,
    /// `limit user` says so, and not `limit per user`.
    pub own_connections: bool,
    /// `file:line` of the rule that decided.
    pub rule: String,
    /// Where the repository is.
    pub repository: RepoAddress,
    /// What fetches may ask for.
    pub fetch: FetchRules,
    /// Packs that may be made of the repository at a time.
    pub packs: u32,
    /// Pushes to the repository that may be indexed at a time.
    pub pushes: u32,
    /// Hidden reference namespaces.
    pub hidden: Vec<Vec<u8>>,
    /// Rules of a push; `None`: reading.
    pub push_rules: Option<Box<PushRules>>,
    /// The rule that decided permits writing.
    pub write: bool,
    /// The push may make the repository, if these hold.
    pub create: Option<CreateRules>,
}

crate::messages! {
    /// What `parent` tells `auth`.
    pub enum ParentToAuth, ParentToAuthKind: "parent to auth" {
        /// One item of the configuration, in order; the last one completes it.
        1 => Config(Vec<u8>),
        /// A question about the session of the header's peer.
        2 => Ask(Question),
        /// What is there for the user of the session of the header's peer? Answered by any number
        /// of `Seen` and `Root`, and one `Overview`.
        3 => Overview(Who),
        /// Which of these? Answered by one `Seen`.
        4 => Filter(Filter),
        /// Where the repository of the session of the header's peer was found. Answered by one
        /// `Placed`.
        5 => Place(PlaceQuestion),
        /// From which of these may be borrowed? Answered by one `Lent`.
        6 => Borrow(BorrowAsk),
    }
}

crate::messages! {
    /// What `auth` tells `parent`.
    pub enum AuthToParent, AuthToParentKind: "auth to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The configuration is complete and in force.
        2 => Configured(()),
        /// The answer about the session of the header's peer.
        3 => Verdict(Verdict),
        /// A request type that this process does not know.
        4 => NotSupported(u16),
        /// Repositories that the user may read; at most [`SEEN_MAX`](super::SEEN_MAX).
        5 => Seen(Vec<Seen>),
        /// A directory of repositories that the user may read.
        6 => Root(SeenRoot),
        /// That was all of the configuration.
        7 => Overview(Overview),
        /// Whether the repository of the session of the header's peer is where it was permitted.
        8 => Placed(Placed),
        /// What may be borrowed from, in the order of the question.
        9 => Lent(Vec<Lend>),
    }
}
