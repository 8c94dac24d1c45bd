//! What `parent` and `config` say to each other.

use serde::{Deserialize, Serialize};

use super::{Build, DirectoryId};

/// What the `config` process is to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadConfig {
    /// Absolute path of gotd.conf.
    pub path: Vec<u8>,
    /// Absolute path of the secrets file; empty: the default one, which need not exist.
    pub secrets: Vec<u8>,
}

crate::messages! {
    /// What `parent` tells `config`.
    pub enum ParentToConfig, ParentToConfigKind: "parent to config" {
        /// Read these files.
        1 => Load(LoadConfig),
        /// The same, and look at repositories too, for warnings.
        2 => Check(LoadConfig),
    }
}

/// A directory that a block is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnDirectory {
    /// The number of the block, in the order of the configuration.
    pub block: u32,
    /// Which it is.
    pub id: DirectoryId,
    /// It is the `.git` in the block's place, and not that itself.
    pub worktree: bool,
    /// The directory will not be replaced by another while the daemon runs: it is no mount point,
    /// not empty, and not behind a link.
    pub stays: bool,
}

/// Most directories in one message.
pub const OWN_BLOCKS_MAX: usize = 300;

crate::messages! {
    /// What `config` tells `parent`.
    pub enum ConfigToParent, ConfigToParentKind: "config to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// One item of the configuration, in order.
        2 => Item(Vec<u8>),
        /// A warning: `file:line:column: text`.
        3 => Warning(String),
        /// An error: `file:line:column: text`.
        4 => Error(String),
        /// All was sent: whether the configuration is good.
        5 => End(bool),
        /// Something about a place that an administrator may want to know; of a check alone.
        6 => Note(String),
    }
}
