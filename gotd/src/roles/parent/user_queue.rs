//! Requests that wait until their own user has fewer sessions (`connection user queue length`):
//! those of users of shared accounts, whose names `listen` does not know. The connections of other
//! users wait in `listen`, before a session is spent on them.
//!
//! A client that opens several connections at once, such as `git clone --recurse-submodules --jobs`,
//! is served one part after the other in place of being refused. A user with a `limit user` line
//! has no such queue.

use std::time::Instant;

use libproto::limits::Limit;
use libproto::message::parent::{Overview, Permit};
use libproto::refusal::Refusal;

use super::{Parent, too_many};
use crate::os::log::Level;

/// A user as limits count, and how many sessions it may have.
#[derive(Debug)]
pub(super) struct CountedUser {
    /// For the log.
    pub identity: String,
    /// For the count: for a subordinate uid, its owner.
    pub counted: String,
    pub limit: usize,
    /// A `limit user` line sets it.
    pub own: bool,
}

impl CountedUser {
    pub(super) fn of_permit(permit: &Permit) -> CountedUser {
        CountedUser {
            identity: permit.identity.clone(),
            counted: permit.counted.clone(),
            limit: usize::try_from(permit.connections).unwrap_or(usize::MAX),
            own: permit.own_connections,
        }
    }
}

/// What `auth` answered.
#[derive(Debug)]
pub(super) enum Answer {
    Permit(Permit),
    Overview(Overview),
}

/// A request that waits until its user has fewer sessions.
#[derive(Debug)]
pub struct WaitsForUser {
    user: CountedUser,
    answer: Answer,
    since: Instant,
}

impl Parent {
    /// Whether a user has as many sessions as it may have.
    pub(super) fn has_all_sessions(&self, user: &CountedUser) -> bool {
        self.table.of_identity(&user.counted) >= user.limit
    }

    /// Lets a request wait until its user has fewer sessions, or refuses it.
    pub(super) fn queue_for_user(&mut self, number: u64, user: CountedUser, answer: Answer) {
        let of_user = |other: &&WaitsForUser| other.user.counted == user.counted;
        let waiting = self.table.iter().filter_map(|s| s.user_queue.as_ref()).filter(of_user).count();
        let Some(session) = self.table.get(number) else { return };
        if !user.own && waiting < self.settings.user_queue {
            let fields: [(&str, &dyn std::fmt::Display); 3] =
                [("number", &number), ("who", &user.identity), ("before", &waiting)];
            self.log.line(Level::Debug, "waits for its user's other sessions", &fields);
            session.user_queue = Some(WaitsForUser { user, answer, since: Instant::now() });
            return;
        }
        let told = match self.settings.user_queue {
            _ if user.own => too_many(true),
            0 => too_many(false),
            _ => Refusal::Limit(Limit::UserQueueLength, "connection limit exceeded".into()),
        };
        session.refused = Some(told.clone().about(&user.identity));
        self.refuse(number, told);
    }

    /// Lets requests go on whose users have fewer sessions now, the first ones first, and refuses
    /// those that have waited too long.
    pub(super) fn serve_user_queues(&mut self) {
        let mut waiting: Vec<u64> = self
            .table
            .iter()
            .filter(|session| session.user_queue.is_some())
            .map(|session| session.number)
            .collect();
        waiting.sort_unstable();
        for number in waiting {
            let Some(session) = self.table.get(number) else { continue };
            // A client that has gone meanwhile waits for nothing.
            let here = session.is_under_way() && session.finished.is_none() && session.killed.is_none();
            let Some(waits) = session.user_queue.take().filter(|_| here) else { continue };
            if waits.since.elapsed() >= self.settings.user_queue_time {
                let told = Refusal::Limit(Limit::UserQueueTimeout, "connection limit exceeded".into());
                session.refused = Some(told.clone().about(&waits.user.identity));
                self.refuse(number, told);
            } else if !self.has_all_sessions(&waits.user) {
                match waits.answer {
                    Answer::Permit(permit) => self.granted(number, permit),
                    Answer::Overview(overview) => self.shell_told(number, overview),
                }
            } else if let Some(session) = self.table.get(number) {
                session.user_queue = Some(waits);
            }
        }
    }
}
