//! Who may do what, and where: places, borrowed objects, hidden references, users of a shared
//! account.

mod accounts;
mod borrowing;
mod hidden;
mod links;
mod mounts;
mod places;
mod self_service;
mod user_queue;
