//! What `parent` and `places` say to each other.

use serde::{Deserialize, Serialize};

use super::{Build, OwnDirectory};

/// Where a block's path leads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledPlace {
    /// The number of the block, in the order of the configuration.
    pub block: u32,
    /// The path as walked; of what is not there, the part that is and the rest.
    pub place: String,
}

crate::messages! {
    /// What `parent` tells `places`.
    pub enum ParentToPlaces, ParentToPlacesKind: "parent to places" {
        /// Items of the configuration, in order; the last one completes it.
        1 => Item(Vec<u8>),
    }
}

crate::messages! {
    /// What `places` tells `parent`.
    pub enum PlacesToParent, PlacesToParentKind: "places to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// Where a block's path leads.
        2 => Place(SettledPlace),
        /// The directories that blocks are about, as far as they are there; at most
        /// [`OWN_BLOCKS_MAX`](super::OWN_BLOCKS_MAX) of them.
        3 => OwnBlocks(Vec<OwnDirectory>),
        /// Something about a place that an administrator may want to know.
        4 => Note(String),
        /// A warning: `file:line:column: text`.
        5 => Warning(String),
        /// An error: `file:line:column: text`.
        6 => Error(String),
        /// All was said: whether nothing was wrong.
        7 => End(bool),
    }
}
