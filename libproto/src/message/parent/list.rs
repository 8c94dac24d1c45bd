//! What `parent` and `list` say to each other.

use serde::{Deserialize, Serialize};

use super::Build;
use crate::names::RepoName;

/// Most repositories that one answer lists.
pub const MOST_LISTED: usize = 10_000;
/// Most names in one message.
pub const SEEN_MAX: usize = 24;

/// What a `list` process is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStart {
    /// Absolute path of the `repositories` directory.
    pub path: Vec<u8>,
}

/// A repository that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedRepository {
    /// Its name below the directory.
    pub name: RepoName,
    /// Device number of its directory.
    pub device: u64,
    /// Inode number of its directory.
    pub inode: u64,
}

crate::messages! {
    /// What `parent` tells `list`.
    pub enum ParentToList: "parent to list" {
        /// The one directory of this process.
        1 => Start(ListStart),
    }
}

crate::messages! {
    /// What `list` tells `parent`.
    pub enum ListToParent: "list to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// Repositories, at most [`SEEN_MAX`].
        2 => Names(Vec<ListedRepository>),
        /// That was all: whether nothing was left out.
        3 => Done(bool),
    }
}
