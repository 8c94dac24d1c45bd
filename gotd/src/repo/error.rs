//! Why the repository process ends with a failure.

use std::fmt;

use crate::os::error::{SystemError, carries_system_error};

/// Why it ends. What is wrong with a repository is told the parent instead.
#[derive(Debug)]
pub enum RepoError {
    /// A system call of this process failed.
    System(SystemError),
    /// A grant to write without its rules.
    NoRules,
    /// A push in a process that waited for git://.
    FetchOnly,
}

impl fmt::Display for RepoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RepoError::System(e) => e.fmt(f),
            RepoError::NoRules => f.write_str("rules: none"),
            RepoError::FetchOnly => f.write_str("git:// is for fetching only"),
        }
    }
}

carries_system_error!(RepoError);
