//! gotd: a Git server of many small processes.
//!
//! What is where:
//!
//! | folder | what it is |
//! |---|---|
//! | [`roles`] | one file or folder for each process role, and the table from a role's name to its entry; [`roles::parent`] has all others started |
//! | [`session`] | the role `session`: the conversation with one client, in Git's protocol |
//! | [`repo`] | the repository process: waiting, then `repo_read` or `repo_write` |
//! | [`access`], [`fairness`] | who may do what, and who gets a place: rules without a descriptor or a clock |
//! | [`conf`] | gotd.conf: its text, its typed form, and how that travels |
//! | [`admin`] | what `gotctl` and `gotd -n` answer without the daemon |
//! | [`error`] | the error that all others become, and its exit status |
//! | [`os`] | what the system is asked for; the only `unsafe` code of the crate |
//!
//! A role is a file with its duty, its sandbox and its loop. What roles say to each other is in
//! `libproto::message`, and which message is allowed when in `libproto::states`.

pub mod access;
pub mod admin;
pub mod conf;
pub mod error;
#[cfg(feature = "escapes")]
pub mod escapes;
pub mod fairness;
pub mod os;
pub mod repo;
pub mod roles;
pub mod session;

/// The version, for people.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// What parent and child compare at their greeting: they must be the same build. A number of all
/// sources, see build.rs.
pub const BUILD: &str = concat!(env!("CARGO_PKG_VERSION"), "-", env!("GOTD_BUILD"));
