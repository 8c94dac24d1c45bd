//! The messages between `parent` and `listen`, and those of `listen` to a waiting session.

use serde::{Deserialize, Serialize};

use super::{Build, Peer};
use crate::limits::Limit;

/// Which waiting sessions a connection may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pool {
    /// Connections of the daemon's unix socket.
    Unix,
    /// git:// connections.
    Tcp,
    /// Connections of a control socket, which root and the user who started the daemon may use.
    Control,
}

/// The settings that `listen` needs before it accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenLimits {
    /// Uids of those who may control the daemon.
    pub controllers: Vec<u32>,
    /// Connections at once, waiting ones included.
    pub connections: u32,
    /// New connections per second, over all.
    pub rate: u32,
    /// Unix connections of one uid at once, unless [`UserLimits`] say otherwise.
    pub per_user: u32,
    /// How many more of such a uid may wait until it has fewer.
    pub user_queue: u32,
    /// For how long, in milliseconds.
    pub user_queue_ms: u32,
    /// New sessions per second of one uid.
    pub rate_per_user: u32,
    /// How long a connection may wait for a session before it is refused, in milliseconds.
    pub queue_ms: u32,
    /// How many connections may wait for a session.
    pub queue: u32,
    /// git:// connections at once, silent and waiting ones included.
    pub git: u32,
    /// git:// connections at once from one address.
    pub per_address: u32,
    /// New connections per second from one address.
    pub rate_per_address: u32,
    /// How long a connection may send nothing, in milliseconds.
    pub silent_ms: u32,
    /// Bytes per second that a session's client must take.
    pub minimum_rate: u32,
    /// Bytes per second that one address may take; 0: any number.
    pub bandwidth: u64,
}

/// Most uids in one [`UserLimits`].
pub const BATCH_USERS: usize = 500;

/// Unix connections of some uids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserLimits {
    /// What these uids may have at once.
    pub connections: Vec<(u32, u32)>,
    /// Uids of shared accounts, which have no number.
    pub accounts: Vec<u32>,
}

/// Most ranges in one message.
pub const BATCH_RANGES: usize = 500;

/// A range of uids that count as another uid: a user may use them for the processes of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UidRange {
    /// The lowest.
    pub first: u32,
    /// The highest.
    pub last: u32,
    /// The uid that they count as.
    pub owner: u32,
}

/// Why a connection got no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NoSession {
    /// All places are taken.
    Total,
    /// All new connections of this second have been served.
    Rate,
    /// No session was free for too long.
    Queue,
    /// As many as may wait for a session do.
    QueueLength,
    /// Its user has all the connections that they may have.
    PerUser,
    /// Its user has all the connections that a `limit user` line allows them.
    OwnPerUser,
    /// As many connections of its user wait until the user has fewer as may.
    UserQueueLength,
    /// Its user had all the connections that they may have for too long.
    UserQueueTimeout,
    /// Its user had too many new sessions for too long.
    RatePerUser,
    /// Its network has all the connections that it may have.
    PerAddress,
    /// Its network opened too many connections in a short time.
    RatePerAddress,
    /// All places of git:// are taken by others that do not give way.
    GitTotal,
    /// A user who does not control the daemon used a control socket.
    NotController,
    /// As many as may control the daemon at a time do.
    Controls,
    /// The kernel does not say which user it is, or the user is in too many groups for the rules.
    Groups,
    /// It said nothing for too long.
    FirstRequest,
    /// It went without having said anything: its own doing.
    Silent,
    /// It was accepted, and ended for a connection of a network that has fewer.
    GaveWay,
}

impl NoSession {
    /// The limit of gotd.conf that says so, if one does.
    pub fn limit(self) -> Option<Limit> {
        match self {
            NoSession::Total => Some(Limit::ConnectionsTotal),
            NoSession::Rate => Some(Limit::RateTotal),
            NoSession::Queue => Some(Limit::QueueTimeout),
            NoSession::QueueLength => Some(Limit::QueueLength),
            NoSession::PerUser => Some(Limit::ConnectionsPerUser),
            NoSession::OwnPerUser => Some(Limit::ConnectionsOfUser),
            NoSession::UserQueueLength => Some(Limit::UserQueueLength),
            NoSession::UserQueueTimeout => Some(Limit::UserQueueTimeout),
            NoSession::RatePerUser => Some(Limit::RatePerUser),
            NoSession::PerAddress => Some(Limit::ConnectionsPerAddress),
            NoSession::RatePerAddress => Some(Limit::RatePerAddress),
            NoSession::GitTotal | NoSession::GaveWay => Some(Limit::ConnectionsGit),
            NoSession::FirstRequest => Some(Limit::FirstRequest),
            NoSession::NotController | NoSession::Controls | NoSession::Groups | NoSession::Silent => None,
        }
    }

    /// The same in words, for client and log.
    pub fn text(self) -> String {
        let text = match self {
            NoSession::GaveWay => "gave way to another address (connection limit git total)",
            NoSession::NotController => "only root and who started the daemon may control it",
            NoSession::Controls => "too many control requests at a time",
            NoSession::Groups => "in more than 1024 groups, or in none that the system tells",
            other => {
                return other.limit().map_or_else(|| "left without a word".to_owned(), Limit::directive);
            }
        };
        text.to_owned()
    }
}

/// git:// connections, for the counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitCounts {
    /// Accepted since the start.
    pub accepted: u64,
    /// There at this moment, and have not sent a request.
    pub silent: u32,
    /// There, and wait for a session.
    pub waiting: u32,
    /// Connections that have a session.
    pub served: u32,
}

/// Connections that got no session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// How many.
    pub connections: u32,
    /// Why.
    pub why: NoSession,
    /// Over which kind of socket they came.
    pub pool: Pool,
    /// From where; `None`: from several addresses, or over the unix socket.
    pub address: Option<[u8; 16]>,
    /// The uid of the connections; `None`: several users, or TCP.
    pub uid: Option<u32>,
}

crate::messages! {
    /// What `parent` tells `listen`.
    pub enum ParentToListen, ParentToListenKind: "parent to listen" {
        /// Limits, before the first listener. With them the users and ranges that came before are
        /// in force.
        1 => Limits(ListenLimits),
        /// A listening socket; the header's peer is its number, which never repeats.
        2 => Listener(Pool) with 1,
        /// A session that waits for a client of a unix or control socket; the header's peer is its
        /// number, the descriptor is `listen`'s end of their link.
        3 => Waiting(Pool) with 1,
        /// A session that was offered is over: all its processes have been reaped.
        4 => Over(()),
        /// Accept no more.
        5 => Drain(()),
        /// The waiting session of the header's peer must not be given a client any more.
        6 => Recall(()),
        /// Close the listening socket of this number once its backlog is accepted.
        7 => Close(()),
        /// What some users may have, ahead of the limits.
        8 => Users(UserLimits),
        /// A waiting session for git:// (the header's peer): as above, and the same for its
        /// repository process, which is given the connection too.
        9 => WaitingGit(()) with 2,
        /// The process that had the connection is gone, and its client may know; the session still
        /// counts.
        10 => Gone(()),
        /// Ranges of uids that count as another uid; sent ahead of the limits, in order, without
        /// overlaps.
        11 => Ranges(Vec<UidRange>),
        /// Whether the git:// client of this session has been silent, in its turn, for
        /// [`super::SessionStart::long_silence`].
        12 => Silent(bool),
    }
}

crate::messages! {
    /// What `listen` tells `parent`.
    pub enum ListenToParent, ListenToParentKind: "listen to parent" {
        /// The greeting.
        1 => Hello(Build),
        /// The session of the header's peer was handed a connection from this client.
        2 => Accepted(Peer),
        /// Connections were refused since the last word.
        3 => Refused(Refusals),
        /// The session of the header's peer could not be handed its connection; it must end.
        4 => HandoverFailed(String),
        /// The session of the header's peer was taken from the waiting ones; it never had a client.
        5 => Recalled(()),
        /// No git:// client can come any more: the last git:// socket is closed, and none of its
        /// connections waits for a session.
        6 => Deserted(()),
        /// The git:// connections, when something has changed; at most once a second.
        7 => Git(GitCounts),
        /// All places are taken, and a connection waits. The number is how many sessions its user
        /// has (0 for a shared account). A user who has more may have to give way.
        8 => Full(u32),
        /// The session of the header's peer ends with connections of this uid, and never has a
        /// client.
        9 => EndsWith(u32),
    }
}

crate::messages! {
    /// Messages of `listen` to a waiting session: a connection (over git:// to its repository
    /// process, too), or several connections to close.
    pub enum ListenToSession, ListenToSessionKind: "listen to session" {
        /// The accepted connection.
        1 => Connection(Pool) with 1,
        /// Instead of a client's: a connection to end with, one of several. Nothing is to be done
        /// with it.
        2 => EndWith(()) with 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Message;

    #[test]
    fn the_largest_batch_fits_into_a_frame() {
        let users = UserLimits {
            connections: vec![(u32::MAX, u32::MAX); BATCH_USERS],
            accounts: vec![u32::MAX; BATCH_USERS],
        };
        ParentToListen::Users(users).encode_body(&mut Vec::new()).expect("fits");
        let range = UidRange { first: u32::MAX, last: u32::MAX, owner: u32::MAX };
        ParentToListen::Ranges(vec![range; BATCH_RANGES]).encode_body(&mut Vec::new()).expect("fits");
    }
}
