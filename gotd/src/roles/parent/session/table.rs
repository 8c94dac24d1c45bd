//! The table of sessions.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libproto::message::parent::Pool;

use super::Session;

/// How long a first answer takes, generously.
const FIRST_ANSWER: Duration = Duration::from_millis(15);

/// All sessions by number.
#[derive(Debug, Default)]
pub struct SessionTable {
    sessions: HashMap<u64, Session>,
    last: u64,
}

impl SessionTable {
    /// A number that was never used.
    pub fn next_number(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// Adds a session.
    pub fn insert(&mut self, session: Session) {
        self.sessions.insert(session.number, session);
    }

    /// The session of that number.
    pub fn get(&mut self, number: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&number)
    }

    /// Takes a session out.
    pub fn remove(&mut self, number: u64) -> Option<Session> {
        self.sessions.remove(&number)
    }

    /// All sessions, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values()
    }

    /// Sessions of a pool that can still be handed a connection.
    pub fn free(&self, pool: Pool) -> usize {
        self.iter().filter(|s| s.pool == pool && s.is_free()).count()
    }

    /// Sessions of all pools that can still be handed a connection.
    pub fn waiting(&self) -> usize {
        self.iter().filter(|s| s.is_free()).count()
    }

    /// Whether a client was accepted a moment ago, so that its first answer is still being made.
    pub fn is_anybody_waiting(&self) -> bool {
        self.iter().any(|s| {
            s.accepted().is_some_and(|at| at.elapsed() < FIRST_ANSWER) && s.session.running().is_some()
        })
    }

    /// Sessions that an identity has at this moment, those included of which a process is still
    /// there. A session that has just reported its end leaves room for the next one, so that a user
    /// who runs one command after the other is not refused for a process that is about to end.
    pub fn of_identity(&self, identity: &str) -> usize {
        let now = Instant::now();
        self.iter().filter(|s| s.counted() == Some(identity) && !s.has_just_ended(now)).count()
    }
}
