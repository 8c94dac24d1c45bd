//! Connections that `listen` must not close itself.
//!
//! A descriptor that a client has sent, received or not, is closed by the process that closes the
//! connection last. Closing a file of a hostile file system, or a socket that lingers, can take for
//! ever. Where the kernel refuses descriptors (`SO_PASSRIGHTS`, Linux 6.16) there is nothing to do.
//! Elsewhere `listen` never lets go of the last reference to a client's connection, nor to a
//! listening socket that some have come to: they go to a waiting session, many at once, that ends
//! with them. It counts as a session of their user until it has been reaped.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Connections that go to one process.
const AT_ONCE: usize = 64;
/// Fewer wait so long for others.
const PATIENCE: Duration = Duration::from_secs(5);
/// Processes that close connections of one uid at a time: if one hangs, the uid's other connections
/// must still be closed.
const AT_A_TIME: usize = 4;
/// With so many here nobody else is accepted.
const MOST: usize = if cfg!(test) { 200 } else { 4096 };

#[derive(Debug)]
struct Batch {
    connections: Vec<OwnedFd>,
    since: Instant,
}

/// Connections to close, by the uid that connected.
#[derive(Debug, Default)]
pub struct Reaper {
    all: HashMap<u32, Batch>,
    count: usize,
    /// The sessions that close some of them, with their uid.
    reaping: HashMap<u64, u32>,
}

impl Reaper {
    /// A connection is over for us.
    pub fn add(&mut self, uid: u32, connection: OwnedFd, now: Instant) {
        let batch = self.all.entry(uid).or_insert(Batch { connections: Vec::new(), since: now });
        batch.connections.push(connection);
        self.count = self.count.saturating_add(1);
    }

    /// A session is over.
    pub fn over(&mut self, number: u64) {
        self.reaping.remove(&number);
    }

    /// Whose connections go now.
    pub fn due(&self, now: Instant) -> Option<u32> {
        let due = |(uid, batch): &(&u32, &Batch)| {
            let under_way = self.reaping.values().filter(|other| other == uid).count();
            let late = now.saturating_duration_since(batch.since) >= PATIENCE;
            under_way < AT_A_TIME && (late || batch.connections.len() >= AT_ONCE)
        };
        self.all.iter().find(due).map(|(uid, _)| *uid)
    }

    /// Takes out the connections for the session of that number.
    pub fn take(&mut self, uid: u32, number: u64) -> Vec<OwnedFd> {
        let Some(mut batch) = self.all.remove(&uid) else { return Vec::new() };
        let rest = batch.connections.split_off(AT_ONCE.min(batch.connections.len()));
        self.count = self.count.saturating_sub(batch.connections.len());
        self.reaping.insert(number, uid);
        if !rest.is_empty() {
            self.all.insert(uid, Batch { connections: rest, since: batch.since });
        }
        batch.connections
    }

    /// Whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether there is no room for more.
    pub fn is_full(&self) -> bool {
        self.count >= MOST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> OwnedFd {
        std::os::unix::net::UnixStream::pair().expect("a pair").0.into()
    }

    #[test]
    fn they_go_many_at_once_and_one_that_hangs_does_not_keep_the_others() {
        let (mut reaper, now) = (Reaper::default(), Instant::now());
        for _ in 0..AT_ONCE - 1 {
            reaper.add(1, connection(), now);
        }
        assert_eq!(reaper.due(now), None, "more may come");
        assert_eq!(reaper.due(now + PATIENCE), Some(1));
        reaper.add(1, connection(), now);
        assert_eq!(reaper.due(now), Some(1));
        assert_eq!(reaper.take(1, 8).len(), AT_ONCE);
        assert!(reaper.is_empty());
        for number in 9..9 + AT_A_TIME as u64 {
            reaper.add(1, connection(), now);
            assert_eq!(reaper.due(now + PATIENCE).is_some(), number < 8 + AT_A_TIME as u64);
            reaper.take(1, number);
        }
        reaper.add(1, connection(), now);
        reaper.add(2, connection(), now);
        assert_eq!(reaper.due(now + PATIENCE), Some(2), "the first one's hang");
        reaper.over(8);
        reaper.over(9);
        reaper.take(2, 20);
        assert_eq!(reaper.due(now + PATIENCE), Some(1));
    }

    #[test]
    fn there_is_an_end_to_those_that_are_kept() {
        let (mut reaper, now) = (Reaper::default(), Instant::now());
        let one = connection();
        for _ in 0..MOST {
            assert!(!reaper.is_full());
            reaper.add(3, one.try_clone().expect("a copy"), now);
        }
        assert!(reaper.is_full());
        reaper.take(3, 1);
        assert!(!reaper.is_full());
    }
}
