//! Connections that must not be closed here.
//!
//! A descriptor that a client has sent is closed by whoever closes the connection last, received or not, and closing a file
//! of a hostile file system, or a socket that lingers, can take for ever. Where the kernel refuses descriptors
//! (`SO_PASSRIGHTS`, Linux 6.16) there is nothing to do. Elsewhere `listen` never lets go of the last reference to a client's
//! connection, nor to a listening socket that some have come to: they go to a waiting session, many at once, that ends with
//! them. It counts as a session of their user until it has been reaped.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Connections that go to one process.
const AT_ONCE: usize = 64;
/// Fewer wait so long for others.
const PATIENCE: Duration = Duration::from_secs(5);
/// Processes of one uid at a time: one that hangs must not keep all others of its user here.
const AT_A_TIME: usize = 4;
/// With so many here nobody else is accepted.
const MOST: usize = if cfg!(test) { 200 } else { 4096 };

#[derive(Debug)]
struct Grave {
    connections: Vec<OwnedFd>,
    since: Instant,
}

/// All of them, by the uid that connected.
#[derive(Debug, Default)]
pub struct Graves {
    all: HashMap<u32, Grave>,
    count: usize,
    /// Sessions that end with some of them.
    burials: HashMap<u64, u32>,
}

impl Graves {
    /// A connection is over for us.
    pub fn add(&mut self, uid: u32, connection: OwnedFd, now: Instant) {
        let grave = self.all.entry(uid).or_insert(Grave { connections: Vec::new(), since: now });
        grave.connections.push(connection);
        self.count = self.count.saturating_add(1);
    }

    /// A session is over.
    pub fn over(&mut self, number: u64) {
        self.burials.remove(&number);
    }

    /// Whose connections go now.
    pub fn due(&self, now: Instant) -> Option<u32> {
        let due = |(uid, grave): &(&u32, &Grave)| {
            let under_way = self.burials.values().filter(|other| other == uid).count();
            let late = now.saturating_duration_since(grave.since) >= PATIENCE;
            under_way < AT_A_TIME && (late || grave.connections.len() >= AT_ONCE)
        };
        self.all.iter().find(due).map(|(uid, _)| *uid)
    }

    /// Those that go to the session of that number.
    pub fn take(&mut self, uid: u32, number: u64) -> Vec<OwnedFd> {
        let Some(mut grave) = self.all.remove(&uid) else { return Vec::new() };
        let rest = grave.connections.split_off(AT_ONCE.min(grave.connections.len()));
        self.count = self.count.saturating_sub(grave.connections.len());
        self.burials.insert(number, uid);
        if !rest.is_empty() {
            self.all.insert(uid, Grave { connections: rest, since: grave.since });
        }
        grave.connections
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
        let (mut graves, now) = (Graves::default(), Instant::now());
        for _ in 0..AT_ONCE - 1 {
            graves.add(1, connection(), now);
        }
        assert_eq!(graves.due(now), None, "more may come");
        assert_eq!(graves.due(now + PATIENCE), Some(1));
        graves.add(1, connection(), now);
        assert_eq!(graves.due(now), Some(1));
        assert_eq!(graves.take(1, 8).len(), AT_ONCE);
        assert!(graves.is_empty());
        for number in 9..9 + AT_A_TIME as u64 {
            graves.add(1, connection(), now);
            assert_eq!(graves.due(now + PATIENCE).is_some(), number < 8 + AT_A_TIME as u64);
            graves.take(1, number);
        }
        graves.add(1, connection(), now);
        graves.add(2, connection(), now);
        assert_eq!(graves.due(now + PATIENCE), Some(2), "the first one's hang");
        graves.over(8);
        graves.over(9);
        graves.take(2, 20);
        assert_eq!(graves.due(now + PATIENCE), Some(1));
    }

    #[test]
    fn there_is_an_end_to_those_that_are_kept() {
        let (mut graves, now) = (Graves::default(), Instant::now());
        let one = connection();
        for _ in 0..MOST {
            assert!(!graves.is_full());
            graves.add(3, one.try_clone().expect("a copy"), now);
        }
        assert!(graves.is_full());
        graves.take(3, 1);
        assert!(!graves.is_full());
    }
}
