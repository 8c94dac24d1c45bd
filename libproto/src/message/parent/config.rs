//! What `parent` and `config` say to each other.

use serde::{Deserialize, Serialize};

use super::Build;

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
    pub enum ParentToConfig: "parent to config" {
        /// Read these files.
        1 => Load(LoadConfig),
    }
}

/// Most repositories in one message.
pub const OWN_BLOCKS_MAX: usize = 500;

crate::messages! {
    /// What `config` tells `parent`.
    pub enum ConfigToParent: "config to parent" {
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
        /// Device and inode of repositories that have a block of their own; at most [`OWN_BLOCKS_MAX`] of them.
        6 => OwnBlocks(Vec<(u64, u64)>),
    }
}
