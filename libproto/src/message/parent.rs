//! Between `parent` and every other process.
//!
//! Each process has a file, and all jobs have one together; types that several of them use are
//! here. The header's `peer` field is the session number wherever a message is about one session.

mod auth;
mod config;
mod jobs;
mod listen;
mod places;
mod repository;
mod session;
mod spawner;

use serde::{Deserialize, Serialize};

pub use auth::*;
pub use config::*;
pub use jobs::*;
pub use listen::*;
pub use places::*;
pub use repository::*;
pub use session::*;
pub use spawner::*;

/// The peer of a connection, by the kernel's word.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// `SO_PEERCRED` and `SO_PEERGROUPS`, or `getpeereid`.
    Unix {
        /// Process id of the client, 0 when the system does not tell.
        pid: i32,
        /// Effective user id.
        uid: u32,
        /// Effective group id.
        gid: u32,
        /// Supplementary groups; at most 1,024, a peer with more is refused.
        groups: Vec<u32>,
    },
    /// The address of a TCP connection.
    Tcp {
        /// IPv6, or IPv4 mapped into it.
        address: [u8; 16],
        /// Port number.
        port: u16,
    },
}

/// Most supplementary groups of a peer.
pub const MAX_GROUPS: usize = 1024;

/// First message of every process: proves that parent and child are the same build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The child's build id.
    pub id: String,
}
