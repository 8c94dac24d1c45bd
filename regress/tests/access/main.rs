//! Who may do what, and where: places, borrowed objects, hidden references, what a repository
//! itself forbids, users of a shared account.

mod accounts;
mod borrowing;
mod hidden;
mod links;
mod mounts;
mod own_config;
mod places;
mod self_service;
mod user_queue;
