//! What `parent` and its spawners say to each other.
//!
//! The header's `peer` field is the number of a process: the parent gives each one that never
//! repeats while the daemon runs.

use serde::{Deserialize, Serialize};

use super::Build;
use crate::states::{Account, PLAIN_JOBS, Role};

/// Most supplementary groups of a spawner's account.
pub const SPAWNER_GROUPS_MAX: usize = 1024;

/// User and groups that a spawner takes on before anything else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User id; never 0.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Supplementary groups; the parent sends at most [`SPAWNER_GROUPS_MAX`].
    pub groups: Vec<u32>,
}

/// What a spawner is told at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnerStart {
    /// Whose processes it starts.
    pub account: Account,
    /// What it becomes; `None`: the daemon was started by an ordinary user and has one uid.
    pub credentials: Option<Credentials>,
    /// `sandbox best-effort`.
    pub best_effort: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// With this status.
    Exit(i32),
    /// By this signal.
    Signal(i32),
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Exit(status) => write!(f, "exit {status}"),
            Ending::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

crate::messages! {
    /// What `parent` tells a spawner. An order carries the new process's standard error, its link
    /// to the parent, and then the descriptors of its role.
    pub enum ParentToSpawner, ParentToSpawnerKind: "parent to spawn" {
        /// The first message, and no order.
        1 => Begin(SpawnerStart),
        /// Kill the process of this number; one that has ended is none.
        2 => Kill(()),
        /// Start `listen`.
        3 => Listen(()) with 2,
        /// Start `auth`.
        4 => Auth(()) with 2,
        /// Start `config`.
        5 => Config(()) with 2,
        /// Start `session` for a unix socket.
        6 => Session(()) with 9,
        /// Start `session` for git://.
        7 => SessionGit(()) with 4,
        /// Start `repository` for a unix socket.
        8 => Repository(()) with 7,
        /// Start `repository` for git://.
        9 => RepositoryGit(()) with 4,
        /// Start `verify`.
        10 => Verify(()) with 4,
        /// Start a job of [`PLAIN_JOBS`]. For any other role this is no order.
        11 => Job(Role) with 2,
        /// Start `places`.
        12 => Places(()) with 2,
        /// Kill all processes, and end.
        13 => Stop(()),
        /// Start `commit_refs`.
        14 => CommitRefs(()) with 3,
    }
}

crate::messages! {
    /// What a spawner tells `parent`.
    pub enum SpawnerToParent, SpawnerToParentKind: "spawn to parent" {
        /// It has its account and its sandbox.
        1 => Hello(Build),
        /// The process of this number was started, with this process id.
        2 => Started(i32),
        /// It could not be started, for this reason: an errno.
        3 => Failed(i32),
        /// It was started, and has ended.
        4 => Ended(Ending),
    }
}

/// Which process an order is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Its role.
    pub role: Role,
    /// It is to wait for a client of git://.
    pub git: bool,
}

/// Each order but those of [`PLAIN_JOBS`], the process that it starts, and whose spawner alone
/// takes it.
pub const ORDERS: &[(ParentToSpawner, Order, Account)] = &[
    (ParentToSpawner::Listen(()), Order::of(Role::Listen), Account::Daemon),
    (ParentToSpawner::Auth(()), Order::of(Role::Auth), Account::Daemon),
    (ParentToSpawner::Config(()), Order::of(Role::Config), Account::Daemon),
    (ParentToSpawner::Session(()), Order::of(Role::Session), Account::Client),
    (ParentToSpawner::SessionGit(()), Order::git(Role::Session), Account::Client),
    (ParentToSpawner::Repository(()), Order::of(Role::Repository), Account::Repositories),
    (ParentToSpawner::RepositoryGit(()), Order::git(Role::Repository), Account::Repositories),
    (ParentToSpawner::Verify(()), Order::of(Role::Verify), Account::Repositories),
    (ParentToSpawner::CommitRefs(()), Order::of(Role::CommitRefs), Account::Repositories),
    (ParentToSpawner::Places(()), Order::of(Role::Places), Account::Repositories),
];

impl Order {
    /// A process that is not for git:// alone.
    pub const fn of(role: Role) -> Order {
        Order { role, git: false }
    }

    /// One that is.
    pub const fn git(role: Role) -> Order {
        Order { role, git: true }
    }

    /// The message that orders it, and the account whose spawner takes it; `None`: no spawner
    /// starts such a process.
    pub fn message(self) -> Option<(ParentToSpawner, Account)> {
        let job = PLAIN_JOBS.iter().find(|(role, _)| Order::of(*role) == self);
        let job = job.map(|(role, account)| (ParentToSpawner::Job(*role), *account));
        let order = ORDERS.iter().find(|(_, order, _)| *order == self);
        job.or_else(|| order.map(|(message, _, account)| (message.clone(), *account)))
    }
}

impl ParentToSpawner {
    /// The process that this message orders from the spawner of an account; `None`: it is no order,
    /// or not one for that account.
    pub fn order(&self, account: Account) -> Option<Order> {
        if let ParentToSpawner::Job(role) = self {
            return PLAIN_JOBS.contains(&(*role, account)).then(|| Order::of(*role));
        }
        ORDERS.iter().find(|(message, _, of)| message == self && *of == account).map(|(_, order, _)| *order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Message;

    #[test]
    fn every_message_but_three_orders_one_process_of_one_account() {
        let accounts = [Account::Daemon, Account::Client, Account::Repositories];
        let jobs = PLAIN_JOBS.iter().map(|(role, of)| (ParentToSpawner::Job(*role), Order::of(*role), *of));
        for (message, order, account) in ORDERS.iter().cloned().chain(jobs) {
            let (message, account) = (&message, &account);
            assert_eq!(order.message(), Some((message.clone(), *account)));
            assert_eq!(message.order(*account), Some(order));
            let takers = accounts.iter().filter(|account| message.order(**account).is_some());
            assert_eq!(takers.collect::<Vec<_>>(), [account]);
        }
        // Begin, Kill and Stop order nothing; Job orders each of its table.
        assert_eq!(ORDERS.len(), ParentToSpawner::KINDS.len() - 4);
        for role in Role::STARTED.iter().chain([&Role::Parent]) {
            let plain = PLAIN_JOBS.iter().any(|(job, _)| job == role);
            let taken = accounts.iter().any(|account| ParentToSpawner::Job(*role).order(*account).is_some());
            assert_eq!(taken, plain, "{role:?}");
        }
        assert_eq!(Order::git(Role::Verify).message(), None);
        assert_eq!(Order::of(Role::Sockets).message(), None);
        assert_eq!(ParentToSpawner::Kill(()).order(Account::Client), None);
    }
}
