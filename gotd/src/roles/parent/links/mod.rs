//! The parent's links: a file for each kind of process that it talks to, which dispatches that
//! process's messages.

mod auth;
mod listen;
mod repository;
mod session;
