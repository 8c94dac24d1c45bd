//! Who has used how much processor time before anything was granted.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libproto::message::parent::Peer;

use crate::fairness::{Network, networks};

/// For how long used time is remembered, in minutes.
const MINUTES: usize = 10;
/// Most clients with an account of their own; all further clients share one.
const MOST: usize = 50_000;

/// The client, or group of clients, that time is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A user who came by ssh, as limits count.
    User(String),
    /// A network of git:// clients.
    Network(Network),
    /// All clients that there was no room for.
    Others,
}

/// Milliseconds in each of the last ten minutes.
#[derive(Debug, Default, Clone, Copy)]
struct Used([u32; MINUTES]);

impl Used {
    fn total(&self) -> u64 {
        self.0.iter().map(|ms| u64::from(*ms)).sum()
    }
}

/// How much time each client has used.
#[derive(Debug)]
pub struct Spent {
    clients: HashMap<Client, Used>,
    /// When the present minute began, and which slot it has.
    minute: Instant,
    slot: usize,
    /// Since the start of the daemon, in milliseconds.
    pub total: u64,
}

impl Default for Spent {
    fn default() -> Spent {
        Spent { clients: HashMap::new(), minute: Instant::now(), slot: 0, total: 0 }
    }
}

/// The clients that a session's time is counted for, each with the factor by which its budget is
/// larger.
pub(super) fn clients(peer: Option<&Peer>, identity: Option<&str>) -> Vec<(Client, u64)> {
    match (peer, identity) {
        (Some(Peer::Tcp { address, .. }), _) => networks(*address)
            .map(|(network, factor)| (Client::Network(network), u64::from(factor)))
            .collect(),
        (Some(Peer::Unix { .. }), Some(identity)) => vec![(Client::User(identity.to_owned()), 1)],
        _ => Vec::new(),
    }
}

impl Spent {
    /// Forgets time that was used more than ten minutes ago.
    fn advance(&mut self, now: Instant) {
        let mut passed = now.saturating_duration_since(self.minute).as_secs() / 60;
        if passed == 0 {
            return;
        }
        self.minute += Duration::from_secs(passed.saturating_mul(60));
        passed = passed.min(MINUTES as u64);
        for _ in 0..passed {
            self.slot = (self.slot + 1) % MINUTES;
            for used in self.clients.values_mut() {
                used.0[self.slot] = 0;
            }
        }
        self.clients.retain(|_, used| used.total() > 0);
    }

    /// Notes used time.
    pub(super) fn add(&mut self, clients: Vec<(Client, u64)>, ms: u32, now: Instant) {
        self.advance(now);
        self.total = self.total.saturating_add(ms.into());
        if ms == 0 {
            return;
        }
        for (client, _) in clients {
            let client = if self.clients.len() < MOST || self.clients.contains_key(&client) {
                client
            } else {
                Client::Others
            };
            let slot = &mut self.clients.entry(client).or_default().0[self.slot];
            *slot = slot.saturating_add(ms);
        }
    }

    /// Milliseconds that are left of `limit`.
    pub(super) fn left(&mut self, clients: &[(Client, u64)], limit: u64, now: Instant) -> u64 {
        self.advance(now);
        let used = |client: &Client| self.clients.get(client).map(Used::total);
        let left = clients.iter().map(|(client, factor)| {
            // Clients that found no room share one budget.
            let full = || (self.clients.len() >= MOST).then(|| used(&Client::Others)).flatten();
            let (used, factor) = match used(client) {
                Some(used) => (used, *factor),
                None => (full().unwrap_or(0), 1),
            };
            limit.saturating_mul(factor).saturating_sub(used)
        });
        left.min().unwrap_or(limit).min(limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Vec<(Client, u64)> {
        vec![(Client::User(name.into()), 1)]
    }

    fn address(last: [u8; 2]) -> Vec<(Client, u64)> {
        let address = std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, u16::from_be_bytes(last), 0, 0, 0, 1);
        networks(address.octets()).map(|(n, factor)| (Client::Network(n), factor.into())).collect()
    }

    #[test]
    fn time_is_counted_by_client_and_forgotten_after_ten_minutes() {
        let mut spent = Spent::default();
        let start = spent.minute;
        let at = |seconds| start + Duration::from_secs(seconds);
        spent.add(user("a"), 4_000, at(1));
        spent.add(user("a"), 3_000, at(200));
        assert_eq!(spent.left(&user("a"), 10_000, at(201)), 3_000);
        assert_eq!(spent.left(&user("b"), 10_000, at(201)), 10_000);
        assert_eq!(spent.left(&user("a"), 5_000, at(201)), 0);
        assert_eq!(spent.left(&user("a"), 10_000, at(601)), 7_000);
        assert_eq!(spent.left(&user("a"), 10_000, at(802)), 10_000);
        assert!(spent.clients.is_empty());
        assert_eq!(spent.total, 7_000);
        spent.add(user("a"), 1, at(100_000));
        assert_eq!(spent.left(&user("a"), 10, at(100_001)), 9);
    }

    #[test]
    fn the_networks_around_an_address_have_limits_of_their_own() {
        let mut spent = Spent::default();
        let now = spent.minute;
        for last in 0..4 {
            spent.add(address([0, last]), 10, now);
        }
        assert_eq!(spent.left(&address([0, 0]), 10, now), 0, "this /64");
        assert_eq!(spent.left(&address([0, 9]), 10, now), 0, "its /56 has used 40 of 20, its /48 40 of 40");
        assert_eq!(spent.left(&address([0, 9]), 21, now), 2, "42 - 40");
        assert_eq!(spent.left(&address([7, 0]), 21, now), 21);
    }

    #[test]
    fn there_are_never_more_clients_than_there_is_room_for() {
        let mut spent = Spent::default();
        let now = spent.minute;
        for n in 0..MOST + 10 {
            spent.add(user(&n.to_string()), 1, now);
        }
        assert_eq!(spent.clients.len(), MOST + 1);
        assert_eq!(spent.left(&user("new"), 100, now), 90);
        assert_eq!(spent.left(&user("1"), 100, now), 99);
    }
}
