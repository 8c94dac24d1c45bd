//! The processor time that clients use before they get a pack: for lists of references, wants,
//! haves and cuts of history.
//!
//! Each answer costs its client next to nothing to ask for, and the repository process a walk. So
//! it adds up what the kernel says that it has used, asks for a turn, as for a pack, once that is
//! much, and says it here with that and at its end. Used time is counted by user, or by address and
//! the networks around it, for ten minutes. Making packs and indexing pushes have limits of their
//! own and do not count.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use libproto::message::parent::{Negotiation, ParentToRepo, Peer};
use libproto::refusal::Refusal;
use libproto::states::RepoState;

use super::Parent;
use super::queue::Work;
use super::session::Session;
use crate::conf::limits::Limit;
use crate::fairness::{Network, networks};
use crate::repo::read::budget::over;

/// For how long used time is remembered, in minutes.
const MINUTES: usize = 10;
/// Most clients with an account of their own; all further clients share one.
const MOST: usize = 50_000;

/// The client, or group of clients, that time is counted for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Client {
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
fn clients(peer: Option<&Peer>, identity: Option<&str>) -> Vec<(Client, u64)> {
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

    fn add(&mut self, clients: Vec<(Client, u64)>, ms: u32, now: Instant) {
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
    fn left(&mut self, clients: &[(Client, u64)], limit: u64, now: Instant) -> u64 {
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

impl Session {
    fn spenders(&self) -> Vec<(Client, u64)> {
        clients(self.peer(), self.permit().map(|permit| permit.counted.as_str()))
    }
}

impl Parent {
    /// The budget of a session's negotiation, which depends on its user. The error is the client's
    /// refusal. Only a fetch negotiates.
    pub(super) fn negotiation(&mut self, number: u64, identity: &str) -> Result<Negotiation, Refusal> {
        let Some(session) = self.table.get(number) else { return Ok(Negotiation::default()) };
        if session.is_push() || session.shell().is_some() {
            return Ok(Negotiation::default());
        }
        let clients = clients(session.peer(), Some(identity));
        self.left_for(&clients)
    }

    fn left_for(&mut self, clients: &[(Client, u64)]) -> Result<Negotiation, Refusal> {
        let limit = |limit| self.settings.limits.get(limit).saturating_mul(1000);
        let (connection, per_client) = (limit(Limit::NegotiationCpu), limit(Limit::NegotiationCpuPerClient));
        let left = self.spent.left(clients, per_client, Instant::now());
        if left == 0 {
            return Err(over(Limit::NegotiationCpuPerClient, per_client));
        }
        let ms = |ms: u64| u32::try_from(ms).unwrap_or(u32::MAX);
        Ok(Negotiation { connection: ms(connection), left: ms(left), per_client: ms(per_client) })
    }

    /// Counts a session's negotiation, which has used `total` milliseconds so far.
    pub(super) fn spend(&mut self, number: u64, total: u32) {
        let Some(session) = self.table.get(number) else { return };
        let Some(grant) = session.grant_mut() else { return };
        let more = total.saturating_sub(grant.negotiated);
        grant.negotiated = grant.negotiated.max(total);
        let spenders = session.spenders();
        self.spent.add(spenders, more, Instant::now());
    }

    /// Counts the time of a repository process that is about to be killed and cannot report it.
    /// Unless it makes a pack, all its time was for negotiation, up to the budget: no client gets a
    /// walk for nothing by hanging up.
    pub(super) fn spend_at_end(&mut self, number: u64) {
        let most = self.settings.limits.get(Limit::NegotiationCpu).saturating_mul(1000);
        let Some(session) = self.table.get(number) else { return };
        let negotiates =
            session.repo_state == RepoState::Serving && !session.is_push() && session.turn().is_none();
        let child = session.repo.running().filter(|_| negotiates);
        if let Some(time) = child.and_then(|child| crate::os::system::cpu_time_of(child.pid)) {
            let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).min(most);
            self.spend(number, u32::try_from(ms).unwrap_or(u32::MAX));
        }
    }

    /// A repository process has used much time, and waits for a turn to use more.
    pub(super) fn negotiation_turn(&mut self, number: u64, total: u32) {
        self.spend(number, total);
        let spenders = self.table.get(number).map(|session| session.spenders()).unwrap_or_default();
        match self.left_for(&spenders) {
            Ok(_) => self.need_turn(number, Work::Pack, 0),
            Err(refusal) => self.send_to_repo(number, &ParentToRepo::NoPack(refusal)),
        }
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
