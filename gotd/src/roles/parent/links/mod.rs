//! What the processes say that the parent talks to: a file for each link, which takes its messages
//! apart and hands each to what it is about.

mod auth;
mod listen;
mod repository;
mod session;
