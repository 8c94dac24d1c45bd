//! What `parent` and `list` say to each other.

use serde::{Deserialize, Serialize};

use super::{Build, DirectoryId};
use crate::names::RepoName;

/// Most repositories that one answer lists.
pub const MOST_LISTED: usize = 10_000;
/// Most names in one message.
pub const SEEN_MAX: usize = 16;

/// What a `list` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStart {
    /// Absolute path of the `repositories` directory, to be walked.
    pub path: Vec<u8>,
    /// Where that has to lead.
    pub place: Vec<u8>,
}

/// A repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRepository {
    /// Its name in a request, below the directory.
    pub name: RepoName,
    /// The name that it has there.
    pub below: RepoName,
    /// Its directory, the one above it and so on, to the one at the top.
    pub directories: Vec<DirectoryId>,
}

crate::messages! {
    /// What `parent` tells `list`.
    pub enum ParentToList, ParentToListKind: "parent to list" {
        /// The one directory of this process.
        1 => Start(ListStart),
    }
}

crate::messages! {
    /// What `list` tells `parent`.
    pub enum ListToParent, ListToParentKind: "list to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// Repositories, at most [`SEEN_MAX`].
        2 => Names(Vec<ListedRepository>),
        /// That was all: whether nothing was left out.
        3 => Done(bool),
    }
}
