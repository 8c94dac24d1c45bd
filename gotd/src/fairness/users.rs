//! The users of the unix sockets: the rules of strangers, with the uid in the place of the network.
//!
//! 1. A uid has a largest number of sessions. Some connections beyond that number wait until it has
//!    fewer; one more than may wait is refused. A uid with a number of its own has no such queue:
//!    beyond the number it is refused at once.
//! 2. A uid has a largest rate of new sessions. Connections beyond that are not refused, they wait.
//! 3. The next connection served is that of the uid with the fewest sessions. On a tie, the longest
//!    waiting connection is next.
//! 4. When too many wait, the uid with most waiting loses its newest. The newcomer is counted too,
//!    so of equals the newcomer is refused.
//! 5. The uid of a shared account stands for many people, and only the greeting tells them apart.
//!    Such a uid has no number, no rate and no share here; in the queue each of its connections
//!    counts like the connection of a uid without sessions. Root has no rate.
//! 6. All accounts together get at most three quarters of the sessions, and of the places in the
//!    queue, while other uids want more than the rest. Otherwise one person of an account could
//!    keep everybody waiting.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::{Counts, TOKEN};

/// Most uids that are remembered; others are refused until some are forgotten. A range of
/// subordinate uids counts as one uid ([`super::owners`]), but not every range need be known.
const MOST_USERS: usize = 200_000;

/// The limits of one uid; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerUser {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Connections beyond that number that may wait.
    pub queue: u32,
    /// New sessions per second; as many may come at once after a rest.
    pub rate: Option<u32>,
}

impl PerUser {
    /// Whether the uid is a shared account: many people, not told apart yet.
    fn is_account(&self) -> bool {
        self.connections.is_none()
    }
}

/// Sessions of accounts that may begin in a row while another uid waits; also the quarters of the
/// line that accounts may fill.
const ACCOUNTS: usize = 3;
/// The parts that the line is divided into.
const PARTS: usize = 4;

/// A connection that waits for a session.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// The caller's number for it; of two the lower one came first.
    pub id: u64,
    /// Whose it is.
    pub uid: u32,
    /// What that uid may have.
    pub may: PerUser,
}

#[derive(Debug)]
struct User {
    /// Sessions, and tokens of the rate.
    counts: Counts,
    waiting: u32,
}

/// All uids that have a connection.
#[derive(Debug, Default)]
pub struct Users {
    all: HashMap<u32, User>,
    /// Sessions of accounts since the last one of another uid.
    in_a_row: usize,
}

impl Users {
    /// Counts a new connection, which waits for a session; returns whether it may. [`Users::serve`]
    /// or [`Users::give_up`] must follow.
    pub fn come(&mut self, uid: u32, may: PerUser, now: Instant) -> bool {
        if self.all.len() >= MOST_USERS && !self.all.contains_key(&uid) {
            return false;
        }
        let full = u64::from(may.rate.unwrap_or(0)).saturating_mul(TOKEN);
        let counts = Counts { connections: 0, tokens: full, since: now };
        let user = self.all.entry(uid).or_insert(User { counts, waiting: 0 });
        let has = user.counts.connections.saturating_add(user.waiting);
        let admitted = may.connections.is_none_or(|most| has < most.saturating_add(may.queue));
        if admitted {
            user.waiting = user.waiting.saturating_add(1);
        }
        admitted
    }

    /// A waiting connection has got a session. [`Users::over`] must follow at its end.
    pub fn serve(&mut self, uid: u32, may: PerUser) {
        self.in_a_row = if may.is_account() { self.in_a_row.saturating_add(1) } else { 0 };
        if let Some(user) = self.all.get_mut(&uid) {
            user.waiting = user.waiting.saturating_sub(1);
            user.counts.connections = user.counts.connections.saturating_add(1);
            user.counts.tokens = user.counts.tokens.saturating_sub(TOKEN);
        }
    }

    /// A session of this uid that was not waited for, whatever the limits.
    pub fn enter(&mut self, uid: u32) {
        if let Some(user) = self.all.get_mut(&uid) {
            user.counts.connections = user.counts.connections.saturating_add(1);
        } else {
            let counts = Counts { connections: 1, tokens: 0, since: Instant::now() };
            self.all.insert(uid, User { counts, waiting: 0 });
        }
    }

    /// A waiting connection has gone, or was refused.
    pub fn give_up(&mut self, uid: u32) {
        if let Some(user) = self.all.get_mut(&uid) {
            user.waiting = user.waiting.saturating_sub(1);
        }
    }

    /// A session of this uid is over.
    pub fn over(&mut self, uid: u32) {
        if let Some(user) = self.all.get_mut(&uid) {
            user.counts.connections = user.counts.connections.saturating_sub(1);
        }
    }

    /// Sessions that a uid may still begin by its number.
    pub fn free(&self, uid: u32, may: PerUser) -> u32 {
        may.connections.map_or(u32::MAX, |most| most.saturating_sub(self.sessions(uid)))
    }

    /// Sessions of a uid.
    pub fn sessions(&self, uid: u32) -> u32 {
        self.all.get(&uid).map_or(0, |user| user.counts.connections)
    }

    /// Whether a uid may have a new session by its rate.
    pub fn has_turn(&mut self, uid: u32, may: PerUser, now: Instant) -> bool {
        let (Some(rate), Some(user)) = (may.rate, self.all.get_mut(&uid)) else { return true };
        user.counts.refill(rate, now);
        user.counts.tokens >= TOKEN
    }

    /// Picks the connection to serve next.
    pub fn next(&mut self, waiting: impl Iterator<Item = Waiting>, now: Instant) -> Option<u64> {
        let accounts_go_last = self.in_a_row >= ACCOUNTS;
        let rank = |of: Waiting| {
            let account = of.may.is_account();
            let sessions = if account { 0 } else { self.sessions(of.uid) };
            let rank = (accounts_go_last && account, sessions, of.id);
            self.has_turn(of.uid, of.may, now).then_some(rank)
        };
        waiting.filter_map(rank).min().map(|(.., id)| id)
    }

    /// Picks the connection to refuse when the queue is too long. It may be the newcomer, which is
    /// the last in it.
    pub fn gives_way(&self, waiting: &[Waiting]) -> Option<u64> {
        let accounts = waiting.iter().filter(|of| of.may.is_account()).count();
        let too_many = accounts.saturating_mul(PARTS) > waiting.len().saturating_mul(ACCOUNTS);
        let load = |of: &&Waiting| self.all.get(&of.uid).map_or(0, |user| user.waiting);
        let candidates = waiting.iter().filter(|of| !too_many || of.may.is_account());
        candidates.max_by_key(|of| (load(of), of.id)).map(|of| of.id)
    }

    /// Forgets who has no connection and is owed nothing: after a second every bucket is full.
    pub fn forget(&mut self, now: Instant) {
        self.all.retain(|_, user| {
            let has = user.counts.connections > 0 || user.waiting > 0;
            has || now.saturating_duration_since(user.counts.since) < Duration::from_secs(1)
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORDINARY: PerUser = PerUser { connections: Some(16), queue: 0, rate: Some(20) };
    const ACCOUNT: PerUser = PerUser { connections: None, queue: 0, rate: None };

    fn waiting(id: u64, uid: u32) -> Waiting {
        Waiting { id, uid, may: ORDINARY }
    }

    #[test]
    fn a_uid_has_so_many_connections_and_others_as_many() {
        let (mut users, now) = (Users::default(), Instant::now());
        for _ in 0..16 {
            assert!(users.come(1, ORDINARY, now));
        }
        for _ in 0..1000 {
            assert!(!users.come(1, ORDINARY, now));
        }
        users.serve(1, ORDINARY);
        assert!(!users.come(1, ORDINARY, now), "one with a session counts");
        assert!(users.come(2, ORDINARY, now));
        users.over(1);
        assert!(users.come(1, ORDINARY, now));
        users.give_up(1);
        assert!(users.come(1, ORDINARY, now));
    }

    #[test]
    fn beyond_its_number_some_connections_of_a_uid_wait() {
        let (mut users, now) = (Users::default(), Instant::now());
        let may = PerUser { queue: 3, ..ORDINARY };
        let come = |users: &mut Users| (0..100).filter(|_| users.come(1, may, now)).count();
        assert_eq!(come(&mut users), 19);
        (0..16).for_each(|_| users.serve(1, may));
        assert_eq!((users.free(1, may), users.free(2, may), users.free(1, ACCOUNT)), (0, 16, u32::MAX));
        users.over(1);
        assert_eq!((users.free(1, may), come(&mut users)), (1, 1));
    }

    #[test]
    fn beyond_its_rate_a_uid_waits_and_others_do_not() {
        let (mut users, mut now) = (Users::default(), Instant::now());
        let may = PerUser { connections: Some(1000), queue: 0, rate: Some(20) };
        let mut queue: Vec<Waiting> = (0..100).map(|id| Waiting { id, uid: 1, may }).collect();
        queue.push(Waiting { id: 100, uid: 2, may });
        for of in &queue {
            assert!(users.come(of.uid, may, now));
        }
        let mut serve = |users: &mut Users, now| {
            let id = users.next(queue.iter().copied(), now)?;
            let at = queue.iter().position(|of| of.id == id)?;
            let of = queue.remove(at);
            users.serve(of.uid, may);
            Some(of.uid)
        };
        let mut served = Vec::new();
        while let Some(uid) = serve(&mut users, now) {
            served.push(uid);
        }
        assert_eq!(served.iter().filter(|uid| **uid == 1).count(), 20);
        assert_eq!(served[1], 2, "who has fewer sessions is next");
        now += Duration::from_millis(500);
        let later = std::iter::from_fn(|| serve(&mut users, now)).count();
        assert_eq!(later, 10);
    }

    #[test]
    fn of_a_full_line_the_busiest_gives_way_and_of_equals_the_newcomer() {
        let (mut users, now) = (Users::default(), Instant::now());
        let mut line: Vec<Waiting> = (0..5).map(|id| waiting(id, 1)).collect();
        line.push(waiting(5, 2));
        for of in &line {
            assert!(users.come(of.uid, ORDINARY, now));
        }
        assert_eq!(users.gives_way(&line), Some(4), "the last one of the busiest");
        let mut equals: Vec<Waiting> = (10..14).map(|n| waiting(n, u32::try_from(n).unwrap())).collect();
        for of in &equals {
            assert!(users.come(of.uid, ORDINARY, now));
        }
        equals.sort_by_key(|of| of.id);
        assert_eq!(users.gives_way(&equals), Some(13));
    }

    #[test]
    fn an_account_has_no_number_no_rate_and_no_share() {
        let (mut users, now) = (Users::default(), Instant::now());
        for _ in 0..500 {
            assert!(users.come(7, ACCOUNT, now));
            assert!(users.has_turn(7, ACCOUNT, now));
            users.serve(7, ACCOUNT);
        }
        assert!(users.come(8, ORDINARY, now));
        users.serve(8, ORDINARY);
        users.over(8);
        // Its 501st connection is served before a later one of a user without sessions.
        assert!(users.come(7, ACCOUNT, now) && users.come(8, ORDINARY, now));
        let line = [Waiting { id: 1, uid: 7, may: ACCOUNT }, waiting(2, 8)];
        assert_eq!(users.next(line.into_iter(), now), Some(1));
        // In a full line it counts with those that wait, not with those that are served.
        assert_eq!(users.gives_way(&line), Some(2));
    }

    /// One person of an account with a full line of connections, and users who have sessions
    /// already: each of these had a rank below all of the account's, and waited until their time
    /// was over.
    #[test]
    fn of_four_sessions_at_most_three_are_of_accounts_while_others_wait() {
        let (mut users, now) = (Users::default(), Instant::now());
        let may = PerUser { connections: Some(100), queue: 0, rate: None };
        users.enter(8);
        let mut line: Vec<Waiting> = (0..200).map(|id| Waiting { id, uid: 7, may: ACCOUNT }).collect();
        line.extend((200..210).map(|id| Waiting { id, uid: 8, may }));
        for of in &line {
            assert!(users.come(of.uid, of.may, now));
        }
        let mut served = Vec::new();
        while let Some(id) = users.next(line.iter().copied(), now) {
            let at = line.iter().position(|of| of.id == id).unwrap();
            let of = line.remove(at);
            users.serve(of.uid, of.may);
            served.push(of.uid);
        }
        assert_eq!(served.len(), 210, "an account that is alone gets all there is");
        assert_eq!(served[..40].iter().filter(|uid| **uid == 8).count(), 10);
        assert!(served[..40].chunks(4).all(|four| four == [7, 7, 7, 8]), "{served:?}");
        // Nobody else has a turn: nothing is kept back from the account.
        let slow = PerUser { connections: Some(100), queue: 0, rate: Some(1) };
        assert!(users.come(9, slow, now) && users.come(7, ACCOUNT, now));
        users.serve(9, slow);
        users.in_a_row = 100;
        let line = [Waiting { id: 1, uid: 9, may: slow }, Waiting { id: 2, uid: 7, may: ACCOUNT }];
        assert_eq!(users.next(line.into_iter(), now), Some(2));
    }

    #[test]
    fn of_a_line_the_last_quarter_is_of_no_account_while_others_come() {
        let (mut users, now) = (Users::default(), Instant::now());
        // As many accounts as there are places, each with one: none has more than a newcomer.
        let mut line: Vec<Waiting> =
            (0..8).map(|n| Waiting { id: n, uid: 100 + u32::try_from(n).unwrap(), may: ACCOUNT }).collect();
        for of in &line {
            assert!(users.come(of.uid, of.may, now));
        }
        let mut gone = Vec::new();
        for id in 8..12 {
            line.push(waiting(id, u32::try_from(id).unwrap()));
            assert!(users.come(line[8].uid, ORDINARY, now));
            let victim = users.gives_way(&line).unwrap();
            let at = line.iter().position(|of| of.id == victim).unwrap();
            users.give_up(line.remove(at).uid);
            gone.push(victim);
        }
        assert_eq!(gone, [7, 6, 10, 11], "two of eight places are not theirs; beyond that all are equal");
        // An account's newcomer does not get them either.
        line.push(Waiting { id: 12, uid: 112, may: ACCOUNT });
        assert!(users.come(112, ACCOUNT, now));
        assert_eq!(users.gives_way(&line), Some(12));
    }

    #[test]
    fn who_has_nothing_is_forgotten() {
        let (mut users, now) = (Users::default(), Instant::now());
        for uid in 0..1000 {
            assert!(users.come(uid, ORDINARY, now));
            users.give_up(uid);
        }
        assert!(users.come(1000, ORDINARY, now));
        users.forget(now + Duration::from_secs(2));
        assert_eq!(users.all.len(), 1);
    }
}
