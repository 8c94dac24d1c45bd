//! The repository process: it waits, opens the one repository of its session, and becomes
//! `repo_read` or `repo_write`. Beside it what `create` and `list` know of repositories too.

pub mod borrowing;
pub mod describe;
pub mod error;
pub mod find;
pub mod hidden;
pub mod lacking;
pub mod made_by;
pub mod opened;
pub mod own_rules;
pub mod read;
pub mod role;
pub mod walk_repositories;
pub mod write;
