//! Many connections: of one user of a shared account, and of all when every place is taken.
//!
//! `listen` counts by uid, before a session is spent on anybody. This file adds what `listen`
//! cannot know: the name of a user of a shared account, which sessions have not asked for anything
//! yet, and whose clients are silent.

use std::time::{Duration, Instant};

use libproto::limits::Limit;
use libproto::message::parent::{ParentToListen, ParentToSession, Peer, Pool};
use libproto::states::SessionState;

use super::session::Session;
use super::session::table::SessionTable;
use super::settings::Settings;
use super::{LINGER, Parent, too_many};
use crate::os::log::Level;

/// A connection younger than this does not count as silent.
const SILENT: Duration = Duration::from_secs(1);
/// A session that is asked to give way has ended by then, or its client is not silent any more.
const ANSWERS: Duration = Duration::from_secs(2);
/// Words about its client's silence that a session has at once; each second brings two more. A
/// watchdog looks once a second. A session that was taken over could else keep the parent and
/// `listen` busy with nothing but these words.
const SILENCES: u64 = 8;
/// Why a session was ended for the one of somebody else.
const GAVE_WAY: &str = "gave way to another user (connection limit total)";

/// The user that connections are counted for: a Unix user by uid, or a user of a shared account by
/// uid and the name from the greeting.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Who(u32, Option<Vec<u8>>);

/// The properties of a session that decide which one gives way.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CountedSession {
    number: u64,
    who: Who,
    /// Since when it is silent, if nothing is lost with it.
    silent: Option<Instant>,
}

impl Parent {
    /// Refuses a user of a shared account who has far more connections than they can use. The
    /// kernel's word (the account) and the greeting (the name) must be known by then. Without this,
    /// connections that never ask for anything would take the places of the account's other users.
    pub(super) fn consider_user(&mut self, number: u64) {
        let Some(session) = self.table.get(number) else { return };
        let (Some(Peer::Unix { uid, .. }), Some(hello)) = (session.peer(), &session.hello) else { return };
        let Some(name) = hello.user.clone().filter(|_| self.settings.is_account(*uid)) else { return };
        let who = Who(*uid, Some(name));
        let Who(_, Some(name)) = &who else { return };
        let (limit, own) = self.settings.limit_of_name(&String::from_utf8_lossy(name));
        let places = self.table.places(&self.settings);
        if places.iter().filter(|place| place.who == who).count() > limit {
            self.refuse(number, too_many(own));
            if let Some(session) = self.table.get(number) {
                session.deadline = Some(Instant::now() + LINGER);
            }
        }
    }

    /// A session ends with connections of this uid that nobody else may close. It never has a
    /// client, and may take its time.
    pub(super) fn ends_with(&mut self, number: u64, uid: u32) {
        self.log.line(Level::Debug, "closed for listen", &[("number", &number), ("uid", &uid)]);
        let Some(session) = self.table.get(number) else { return };
        session.recall();
        if let Some(child) = session.repo.running() {
            child.end();
        }
    }

    /// A session says whether its client has been silent for long in its turn. `listen` is told of
    /// git:// clients, because it chooses the one that gives way to another of them.
    pub(super) fn client_is_silent(&mut self, number: u64, silent: bool) {
        let Some(session) = self.table.get(number) else { return };
        session.silences = session.silences.saturating_add(1);
        let time = session.accepted().map_or(Duration::ZERO, |at| at.elapsed());
        if u64::from(session.silences) > time.as_secs().saturating_mul(2).saturating_add(SILENCES) {
            return self.end_session(number, "session: says too often whether its client is silent");
        }
        session.silent = silent.then(Instant::now);
        (session.asked_to_give_way, session.gave_way) = (None, None);
        if session.pool == Pool::Tcp {
            self.listen_out.send(&self.listen.channel, number, &ParentToListen::Silent(silent));
        }
    }

    /// All places are taken, and somebody waits. The client that has been silent for longest, if
    /// that is long, gives way: strangers before users. Else a connection that has not asked for
    /// anything does, if its user has more than the newcomer.
    pub(super) fn make_room(&mut self, newcomer: u32) {
        let now = Instant::now();
        let asked = |session: &Session| {
            session.asked_to_give_way.is_some_and(|at| now.saturating_duration_since(at) < ANSWERS)
        };
        if self.table.iter().any(asked) {
            return;
        }
        let order = |session: &Session| Some((session.pool != Pool::Tcp, session.silent?, session.number));
        let fresh = self
            .table
            .iter()
            .filter(|session| session.asked_to_give_way.is_none() && session.killed.is_none());
        if let Some((_, _, number)) = fresh.filter_map(order).min()
            && let Some(session) = self.table.get(number)
            && let Some(child) = session.session.running()
            && child.channel.try_send(number, &ParentToSession::GiveWay(())).is_ok()
        {
            session.asked_to_give_way = Some(now);
            session.gave_way = Some(Limit::ConnectionsTotal);
            return;
        }
        let places = self.table.places(&self.settings);
        if let Some(number) = gives_way(&places, newcomer, now) {
            if let Some(session) = self.table.get(number) {
                session.gave_way = Some(Limit::ConnectionsTotal);
            }
            self.end_session(number, GAVE_WAY);
        }
    }
}

impl SessionTable {
    /// The places of unix connections.
    fn places(&self, settings: &Settings) -> Vec<CountedSession> {
        let place = |session: &Session| {
            let Some(&Peer::Unix { uid, .. }) = session.peer() else { return None };
            let name = session.hello.as_ref().and_then(|hello| hello.user.clone());
            let mute = matches!(session.state(), SessionState::Waiting | SessionState::Greeted);
            Some(CountedSession {
                number: session.number,
                who: Who(settings.owners.of(uid), name.filter(|_| settings.is_account(uid))),
                silent: session.accepted().filter(|_| mute && session.killed.is_none()),
            })
        };
        self.iter().filter(|session| session.pool == Pool::Unix).filter_map(place).collect()
    }
}

/// Picks the connection to end for a newcomer whose user has `newcomer` sessions: the longest
/// silent connection of the user with most sessions. `None`: no connection is ended, and the
/// newcomer waits.
fn gives_way(places: &[CountedSession], newcomer: u32, now: Instant) -> Option<u64> {
    let mut counts = std::collections::HashMap::new();
    for place in places {
        let count: &mut u32 = counts.entry(&place.who).or_default();
        *count = count.saturating_add(1);
    }
    let candidate = |place: &&CountedSession| {
        let since = place.silent.filter(|at| now.saturating_duration_since(*at) >= SILENT)?;
        let count = counts.get(&place.who).copied().unwrap_or(0);
        Some((count, std::cmp::Reverse((since, place.number))))
    };
    let (count, std::cmp::Reverse((_, number))) =
        places.iter().filter_map(|place| candidate(&place)).max()?;
    (count > newcomer).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_silent_one_gives_way_and_never_to_one_who_has_as_many() {
        let (start, now) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        let place = |number: u64, uid: u32, name: Option<&str>, silent: bool| CountedSession {
            number,
            who: Who(uid, name.map(|name| name.as_bytes().to_vec())),
            silent: silent.then_some(start + Duration::from_secs(number)),
        };
        let mut places = vec![place(1, 1, None, true), place(2, 2, None, true), place(3, 2, None, true)];
        assert_eq!(gives_way(&places, 0, now), Some(2));
        assert_eq!(gives_way(&places, 1, now), Some(2));
        assert_eq!(gives_way(&places, 2, now), None);
        // Who is served does not give way.
        places.extend((10..20).map(|number| place(number, 3, None, false)));
        assert_eq!(gives_way(&places, 0, now), Some(2));
        // Of one account the user with most connections does.
        places.extend((20..24).map(|number| place(number, 5, Some("alice"), true)));
        places.extend((30..36).map(|number| place(number, 5, Some("mallory"), true)));
        assert_eq!(gives_way(&places, 0, now), Some(30));
        // Nobody is silent who has just come.
        assert_eq!(gives_way(&places, 0, start + Duration::from_secs(1)), None);
    }
}
