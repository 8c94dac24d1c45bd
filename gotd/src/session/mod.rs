//! The session: the conversation with one client, in Git's protocol.

pub mod conversation;
pub mod error;
pub mod git_daemon;
pub mod packets;
pub mod pipes;
pub mod receive_pack;
pub mod role;
mod talk;
pub mod upload_pack;
