//! Why something was refused: a value to decide by, whose text is for the client and the log.
//!
//! Texts are those of C git and C gotd where these have the same refusal, byte by byte: clients and sites look for
//! them. **Invariant:** nobody finds out by a text what a refusal is about.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::Limit;

/// What `protect` forbids about a reference. Namespaces that nobody may write to are [`Rule::Namespace`] too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// Deleting it, or changing its history.
    Reference,
    /// What would be done in this namespace.
    Namespace,
    /// Creating references in this namespace.
    Creating,
    /// Deleting references in this namespace.
    Deleting,
    /// Merge commits on this branch.
    Merges,
}

/// Why something was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No reference can have this name.
    FunnyName,
    /// Another command of the same push is about the same reference.
    Twice,
    /// Another command of the same atomic push was refused.
    Atomic,
    /// The pack that this command needs was refused.
    Unpacker,
    /// A rule of `protect`: about which reference or namespace, free of control bytes.
    Protected(Rule, String),
    /// `hide namespace`: the namespace.
    Hidden(String),
    /// HEAD names this branch, which is to be removed.
    CurrentBranch,
    /// HEAD names this branch, and its files are there.
    CheckedOut,
    /// What is to be removed, and was not there for the client, is there.
    Exists,
    /// A branch can name nothing but a commit.
    NoCommit,
    /// The command brings a blob of so many bytes, where so many are permitted.
    BlobSize(u64, u64),
    /// The push has more commands than this limit.
    Commands(u64),
    /// What the reference transaction says.
    Reference(String),
    /// What is wrong with the objects that the command needs.
    Objects(String),
    /// What is wrong with the pack.
    Pack(String),
    /// Something in the repository makes no sense: which file, and how.
    Damaged(String),
    /// A process, or what it needs of the system, failed: which, and how.
    Internal(String),
}

impl Refusal {
    /// The limit of gotd.conf that was reached.
    pub fn limit(&self) -> Option<Limit> {
        match self {
            Refusal::BlobSize(..) => Some(Limit::BlobSize),
            Refusal::Commands(_) => Some(Limit::Commands),
            _ => None,
        }
    }

    /// Whether C gotd refuses this too, by the same rule of `protect`: Game of Trees' client expects it as an `ERR` packet.
    pub fn is_protected(&self) -> bool {
        matches!(self, Refusal::Protected(Rule::Reference | Rule::Namespace, _))
    }

    /// Whether the text says which reference or namespace it is about.
    pub fn names_reference(&self) -> bool {
        matches!(self, Refusal::Protected(..) | Refusal::Hidden(_))
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where a limit is named: the line of gotd.conf that sets it.
        let hint = self.limit().map(|limit| format!(" {}", limit.hint())).unwrap_or_default();
        match self {
            Refusal::FunnyName => f.write_str("funny refname"),
            Refusal::Twice => f.write_str("multiple updates for ref"),
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
            Refusal::CurrentBranch => f.write_str("deletion of the current branch prohibited"),
            Refusal::CheckedOut => f.write_str("branch is currently checked out"),
            Refusal::Exists => f.write_str("failed to update ref: it exists"),
            Refusal::NoCommit => f.write_str("invalid new value provided"),
            Refusal::BlobSize(bytes, most) => {
                write!(f, "blob of {bytes} bytes, at most {most} are permitted{hint}")
            }
            Refusal::Commands(most) => write!(f, "more than {most} references in one push{hint}"),
            Refusal::Reference(text)
            | Refusal::Objects(text)
            | Refusal::Pack(text)
            | Refusal::Damaged(text)
            | Refusal::Internal(text) => f.write_str(text),
        }
    }
}
