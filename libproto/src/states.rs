//! Who exists, who may talk to whom, and which messages are allowed now: tables, in one place.

use serde::{Deserialize, Serialize};

/// The process roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Starts every other process and keeps the table of sessions.
    Parent,
    /// Binds and unlinks the configured sockets.
    Sockets,
    /// Accepts connections and hands them to waiting sessions.
    Listen,
    /// Decides who may do what.
    Auth,
    /// Speaks Git's protocol with one client.
    Session,
    /// Waits to become `repo_read` or `repo_write`.
    Repository,
    /// Indexes and checks an incoming pack.
    Verify,
    /// Makes a repository.
    Create,
    /// Finds the repositories in a directory.
    List,
    /// Reads the configuration.
    Config,
}

impl Role {
    /// All roles that are started by `parent`.
    pub const STARTED: [Role; 9] = [
        Role::Sockets,
        Role::Listen,
        Role::Auth,
        Role::Session,
        Role::Repository,
        Role::Verify,
        Role::Create,
        Role::List,
        Role::Config,
    ];

    /// The word for the process, its file, its log prefix and its place in the manual.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Parent => "parent",
            Role::Sockets => "sockets",
            Role::Listen => "listen",
            Role::Auth => "auth",
            Role::Session => "session",
            Role::Repository => "repository",
            Role::Verify => "verify",
            Role::Create => "create",
            Role::List => "list",
            Role::Config => "config",
        }
    }

    /// The role of that name, of those that can be started.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::STARTED.into_iter().find(|role| role.name() == name)
    }
}

/// The graph of who may talk to whom; each pair has one link.
pub const LINKS: &[(Role, Role)] = &[
    (Role::Parent, Role::Sockets),
    (Role::Parent, Role::Listen),
    (Role::Parent, Role::Auth),
    (Role::Parent, Role::Session),
    (Role::Parent, Role::Repository),
    (Role::Parent, Role::Verify),
    (Role::Parent, Role::Create),
    (Role::Parent, Role::List),
    (Role::Parent, Role::Config),
    (Role::Listen, Role::Session),
    (Role::Listen, Role::Repository),
    (Role::Session, Role::Repository),
    (Role::Session, Role::Verify),
    (Role::Repository, Role::Verify),
];

/// How far a session is, as `parent` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// Started; has not greeted.
    Starting,
    /// Greeted; waits for a connection.
    Waiting,
    /// The client's greeting was forwarded, or there is none to come.
    Greeted,
    /// A Git request was forwarded: `auth` and the repository process are asked.
    Asked,
    /// A control request was forwarded.
    Control,
    /// A request of self-service was forwarded.
    Shell,
    /// Granted: client and repository process are at work.
    Granted,
    /// The session has reported its end.
    Finished,
}

/// Which messages of a session are allowed in which state, by their type number.
/// A message outside this table ends the session.
pub const SESSION_TO_PARENT: &[(SessionState, &[u16])] = &[
    (SessionState::Starting, &[1]),
    (SessionState::Waiting, &[2, 5, 6]),
    (SessionState::Greeted, &[3, 4, 5, 7]),
    (SessionState::Asked, &[5]),
    (SessionState::Control, &[5]),
    (SessionState::Shell, &[5]),
    (SessionState::Granted, &[5, 8]),
    (SessionState::Finished, &[]),
];

/// How far a repository process is, as `parent` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoState {
    /// Started; has not greeted.
    Starting,
    /// Waits to be told its repository.
    Waiting,
    /// Was told; looks for it.
    Opening,
    /// Asked what it may borrow from; waits for the answer.
    Borrowing,
    /// Found nothing; waits while it is made.
    Absent,
    /// Serves its session.
    Serving,
    /// Has reported its end.
    Finished,
}

/// Which messages of a repository process are allowed in which state, by their type number.
pub const REPO_TO_PARENT: &[(RepoState, &[u16])] = &[
    (RepoState::Starting, &[1]),
    (RepoState::Waiting, &[]),
    (RepoState::Opening, &[2, 3, 10, 11]),
    (RepoState::Borrowing, &[]),
    (RepoState::Absent, &[]),
    (RepoState::Serving, &[4, 5, 6, 7, 8, 9, 12, 13]),
    (RepoState::Finished, &[]),
];

/// How far a verify, create or list process is, as `parent` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Started; has not greeted.
    Starting,
    /// At work.
    Working,
    /// Has reported its end.
    Finished,
}

/// Which messages of a verify process are allowed in which state, by their type number.
pub const VERIFY_TO_PARENT: &[(JobState, &[u16])] =
    &[(JobState::Starting, &[1, 2]), (JobState::Working, &[2, 3, 4]), (JobState::Finished, &[])];

/// Which messages of a create process are allowed in which state, by their type number.
pub const CREATE_TO_PARENT: &[(JobState, &[u16])] =
    &[(JobState::Starting, &[1]), (JobState::Working, &[2]), (JobState::Finished, &[])];

/// Which messages of a list process are allowed in which state, by their type number.
pub const LIST_TO_PARENT: &[(JobState, &[u16])] =
    &[(JobState::Starting, &[1]), (JobState::Working, &[2, 3]), (JobState::Finished, &[])];

/// Whether `kind` stands in `table` for `state`.
pub fn allowed<S: Copy + PartialEq>(table: &[(S, &[u16])], state: S, kind: u16) -> bool {
    table.iter().any(|(s, kinds)| *s == state && kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_found_by_the_name_they_print() {
        for role in Role::STARTED {
            assert_eq!(Role::from_name(role.name()), Some(role));
        }
        assert_eq!(Role::from_name("parent"), None);
    }

    #[test]
    fn nothing_is_allowed_before_the_greeting_or_after_the_end() {
        for kind in 0..20 {
            assert_eq!(allowed(SESSION_TO_PARENT, SessionState::Starting, kind), kind == 1);
            assert!(!allowed(SESSION_TO_PARENT, SessionState::Finished, kind));
            assert_eq!(allowed(REPO_TO_PARENT, RepoState::Starting, kind), kind == 1);
            assert!(!allowed(REPO_TO_PARENT, RepoState::Finished, kind));
        }
    }

    #[test]
    fn a_repository_process_that_waits_for_an_answer_says_nothing() {
        for kind in 0..40 {
            assert!(!allowed(REPO_TO_PARENT, RepoState::Borrowing, kind));
            assert!(!allowed(REPO_TO_PARENT, RepoState::Absent, kind));
        }
    }

    #[test]
    fn a_granted_session_cannot_ask_again() {
        assert!(!allowed(SESSION_TO_PARENT, SessionState::Granted, 3));
        assert!(!allowed(SESSION_TO_PARENT, SessionState::Granted, 2));
    }

    #[test]
    fn who_a_connection_is_from_is_said_once() {
        for state in [SessionState::Greeted, SessionState::Asked, SessionState::Granted] {
            assert!(!allowed(SESSION_TO_PARENT, state, 2) && !allowed(SESSION_TO_PARENT, state, 6));
        }
    }

    #[test]
    fn every_process_talks_to_the_parent_and_auth_to_nobody_else() {
        for role in Role::STARTED {
            assert!(LINKS.contains(&(Role::Parent, role)));
        }
        assert_eq!(LINKS.iter().filter(|(a, b)| *a == Role::Auth || *b == Role::Auth).count(), 1);
    }
}
