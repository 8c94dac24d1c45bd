//! Pushes: of every kind, by every client, beside each other, on a full disk, and to repositories
//! that they make.

mod aliases;
mod clients;
mod create;
mod disk_full;
mod kinds;
mod many;
mod modes;
mod races;
mod turns;
mod worktrees;
