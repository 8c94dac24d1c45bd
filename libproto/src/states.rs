//! The tables of roles, of their links, and of the messages that each state allows.

use serde::{Deserialize, Serialize};

use crate::message::parent::{
    CommitToParentKind as Commit, CreateToParentKind as Create, ListToParentKind as List,
    RepoToParentKind as Repo, SessionToParentKind as Session, VerifyToParentKind as Verify,
};

/// Which types of message are allowed in which state. A message outside its table ends its sender.
pub type StateTable<S, K> = [(S, &'static [K])];

/// Declares the roles: each once, with its name.
macro_rules! roles {
    ($($(#[$doc:meta])* $role:ident = $name:literal,)+) => {
        /// The process roles.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Role {
            /// Starts every other process and keeps the table of sessions.
            Parent,
            $($(#[$doc])* $role,)+
        }

        impl Role {
            /// All roles that are started by `parent`.
            pub const STARTED: &'static [Role] = &[$(Role::$role),+];

            /// The word for the process, its file, its log prefix and its place in the manual.
            pub const fn name(self) -> &'static str {
                match self {
                    Role::Parent => "parent",
                    $(Role::$role => $name,)+
                }
            }
        }
    };
}

roles! {
    /// Binds and unlinks the configured sockets.
    Sockets = "sockets",
    /// Accepts connections and hands them to waiting sessions.
    Listen = "listen",
    /// Decides who may do what.
    Auth = "auth",
    /// Speaks Git's protocol with one client.
    Session = "session",
    /// Waits to become `repo_read` or `repo_write`.
    Repository = "repository",
    /// Indexes and checks an incoming pack.
    Verify = "verify",
    /// Changes packed-refs, and the log of HEAD.
    CommitRefs = "commit_refs",
    /// Makes a repository.
    Create = "create",
    /// Finds the repositories in a directory.
    List = "list",
    /// Reads the configuration.
    Config = "config",
    /// Walks to the places that the configuration names.
    Places = "places",
    /// Starts the processes of one account.
    Spawner = "spawn",
}

/// The jobs that are given nothing but their link to the parent, and whose account each works
/// under.
pub const PLAIN_JOBS: &[(Role, Account)] =
    &[(Role::Create, Account::Repositories), (Role::List, Account::Repositories)];

/// An account of the system that processes work under.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Account {
    /// Of `parent`, `listen`, `auth` and `config`.
    Daemon,
    /// Of `session`, and of nothing else.
    Client,
    /// Of the processes that open repositories: it owns them.
    Repositories,
}

impl Account {
    /// All of them.
    pub const ALL: [Account; 3] = [Account::Daemon, Account::Client, Account::Repositories];

    /// The word for it, in the log and in `gotctl info`.
    pub const fn name(self) -> &'static str {
        match self {
            Account::Daemon => "daemon",
            Account::Client => "client",
            Account::Repositories => "repositories",
        }
    }
}

impl Role {
    /// The started role of this name; `None` for any other name.
    pub fn from_name(name: &str) -> Option<Role> {
        Role::STARTED.iter().copied().find(|role| role.name() == name)
    }
}

/// The state of a session, as `parent` sees it.
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

/// Which messages of a session are allowed in which state.
pub const SESSION_TO_PARENT: &StateTable<SessionState, Session> = &[
    (SessionState::Starting, &[Session::Hello]),
    (SessionState::Waiting, &[Session::Client, Session::Remote, Session::Finished]),
    (SessionState::Greeted, &[Session::Git, Session::Control, Session::Shell, Session::Finished]),
    (SessionState::Asked, &[Session::Finished]),
    (SessionState::Control, &[Session::Finished]),
    (SessionState::Shell, &[Session::Finished]),
    (SessionState::Granted, &[Session::Begins, Session::Silent, Session::Finished]),
    (SessionState::Finished, &[]),
];

/// The state of a repository process, as `parent` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepoState {
    /// Started; has not greeted.
    Starting,
    /// Waits to be told its repository.
    Waiting,
    /// Was told; looks for it.
    Opening,
    /// Has asked which places it may borrow from; waits for the answer.
    Borrowing,
    /// Found nothing; waits while it is made.
    Absent,
    /// Serves its session.
    Serving,
    /// Has reported its end.
    Finished,
}

/// Which messages of a repository process are allowed in which state.
pub const REPO_TO_PARENT: &StateTable<RepoState, Repo> = &[
    (RepoState::Starting, &[Repo::Hello]),
    (RepoState::Waiting, &[]),
    (RepoState::Opening, &[Repo::Found, Repo::Borrow, Repo::Own, Repo::Opened, Repo::OpenFailed]),
    (RepoState::Borrowing, &[]),
    (RepoState::Absent, &[]),
    (
        RepoState::Serving,
        &[
            Repo::Finished,
            Repo::Ref,
            Repo::NeedCommit,
            Repo::NeedPack,
            Repo::PackStalled,
            Repo::PackCopied,
            Repo::PackDone,
            Repo::NeedTurn,
            Repo::Info,
        ],
    ),
    (RepoState::Finished, &[]),
];

/// The state of a job's process, as `parent` sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobState {
    /// Started; has not greeted.
    Starting,
    /// At work.
    Working,
    /// Has reported its end.
    Finished,
}

/// Which messages of a verify process are allowed in which state.
pub const VERIFY_TO_PARENT: &StateTable<JobState, Verify> = &[
    (JobState::Starting, &[Verify::Hello, Verify::Finished]),
    (JobState::Working, &[Verify::Finished, Verify::NeedTurn, Verify::Stalled]),
    (JobState::Finished, &[]),
];

/// Which messages of a `commit_refs` process are allowed in which state.
pub const COMMIT_TO_PARENT: &StateTable<JobState, Commit> = &[
    (JobState::Starting, &[Commit::Hello, Commit::Done]),
    (JobState::Working, &[Commit::Done]),
    (JobState::Finished, &[]),
];

/// Which messages of a create process are allowed in which state.
pub const CREATE_TO_PARENT: &StateTable<JobState, Create> = &[
    (JobState::Starting, &[Create::Hello]),
    (JobState::Working, &[Create::Done]),
    (JobState::Finished, &[]),
];

/// Which messages of a list process are allowed in which state.
pub const LIST_TO_PARENT: &StateTable<JobState, List> = &[
    (JobState::Starting, &[List::Hello]),
    (JobState::Working, &[List::Names, List::Done]),
    (JobState::Finished, &[]),
];

/// Whether `kind` stands in `table` for `state`.
pub fn allowed<S: PartialEq, K: PartialEq + 'static>(table: &StateTable<S, K>, state: S, kind: K) -> bool {
    table.iter().any(|(s, kinds)| *s == state && kinds.contains(&kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Message;
    use crate::message::parent::{RepoToParent, SessionToParent};

    #[test]
    fn roles_are_found_by_the_name_they_print() {
        for role in Role::STARTED {
            assert_eq!(Role::from_name(role.name()), Some(*role));
        }
        assert_eq!(Role::from_name("parent"), None);
    }

    #[test]
    fn nothing_is_allowed_before_the_greeting_or_after_the_end() {
        for &kind in SessionToParent::KINDS {
            let greets = kind == Session::Hello;
            assert_eq!(allowed(SESSION_TO_PARENT, SessionState::Starting, kind), greets);
            assert!(!allowed(SESSION_TO_PARENT, SessionState::Finished, kind));
        }
        for &kind in RepoToParent::KINDS {
            assert_eq!(allowed(REPO_TO_PARENT, RepoState::Starting, kind), kind == Repo::Hello);
            assert!(!allowed(REPO_TO_PARENT, RepoState::Finished, kind));
        }
    }

    #[test]
    fn a_repository_process_that_waits_for_an_answer_says_nothing() {
        for &kind in RepoToParent::KINDS {
            assert!(!allowed(REPO_TO_PARENT, RepoState::Borrowing, kind));
            assert!(!allowed(REPO_TO_PARENT, RepoState::Absent, kind));
        }
    }

    #[test]
    fn a_granted_session_cannot_ask_again() {
        for kind in [Session::Git, Session::Client, Session::Control, Session::Shell] {
            assert!(!allowed(SESSION_TO_PARENT, SessionState::Granted, kind));
        }
    }

    #[test]
    fn who_a_connection_is_from_is_said_once() {
        for state in [SessionState::Greeted, SessionState::Asked, SessionState::Granted] {
            assert!(!allowed(SESSION_TO_PARENT, state, Session::Client));
            assert!(!allowed(SESSION_TO_PARENT, state, Session::Remote));
        }
    }
}
