//! What `parent` and `create` say to each other.

use serde::{Deserialize, Serialize};

use super::Build;
use crate::names::RepoName;
use crate::refusal::Refusal;

/// What a `create` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateStart {
    /// Absolute path of the `repositories` directory, to be walked.
    pub path: Vec<u8>,
    /// Where that has to lead.
    pub place: Vec<u8>,
    /// The name below it.
    pub name: RepoName,
    /// Who makes it.
    pub who: String,
    /// Under which conditions.
    pub rules: CreateRules,
}

/// The conditions under which a repository is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateRules {
    /// Bytes of the disk that stay free.
    pub reserve: u64,
    /// Repositories that this user may have made in this directory, this one included; 0: any
    /// number.
    pub most: u64,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Created {
    /// It is there now.
    Made,
    /// Something has this name, or has got it meanwhile.
    Exists,
    /// No repository may get this name: the reason, for the log.
    Refused(Refusal),
    /// It could not be made: the reason, for client and log.
    Failed(Refusal),
}

crate::messages! {
    /// What `parent` tells `create`.
    pub enum ParentToCreate, ParentToCreateKind: "parent to create" {
        /// The one repository of this process.
        1 => Start(CreateStart),
    }
}

crate::messages! {
    /// What `create` tells `parent`.
    pub enum CreateToParent, CreateToParentKind: "create to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The work is over.
        2 => Done(Created),
    }
}
