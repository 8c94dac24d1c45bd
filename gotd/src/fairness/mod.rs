//! Places for strangers: counts and rates by network address, and the choice of the connection that
//! gives way when all places are taken. Pure: no descriptor, no clock of its own. The users of unix
//! sockets have the same rules with other names: [`users`].
//!
//! An IPv4 address is one stranger. An IPv6 /64 is one too. The owner of a /64 easily has a whole
//! /56 or /48, so these are counted as well: a /56 may have twice, a /48 four times as much as a
//! single /64.
//!
//! **When all places are taken** and somebody new comes:
//! 1. If clients have been silent in their turn for a minute or more, the longest silent one gives
//!    way, whatever network it comes from.
//! 2. Otherwise only connections whose end costs little are ended: silent ones (no request yet),
//!    waiting ones (for a session, or for the beginning of its answer), and slow ones. A peer is
//!    slow if it reads our pending output below the minimum rate or, with none pending, reads
//!    nothing and sends below that rate. No other connection is ended.
//! 3. The network with most connections gives way: first the IPv4 address or /48 with most of them
//!    is chosen, in it the /56, in that the /64.
//! 4. Within one network the order is: silent connections, the longest silent first; then waiting
//!    ones, the newest first; then slow ones.
//! 5. The newcomer is counted too. If its network would have more than the network that is to give
//!    way, the newcomer is refused; if they are equal, only a silent one gives way to it.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{Duration, Instant};

pub mod owners;
pub mod users;

/// Most networks that are remembered; strangers from others are refused until some are forgotten.
const MOST_NETWORKS: usize = 200_000;
/// Tokens of a bucket for one connection.
const TOKEN: u64 = 1_000_000;

/// A network whose connections are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first bits of an IPv6 address, and how many.
    V6(u64, u8),
}

/// The networks of an address, the widest first, each with the factor by which its limits are
/// larger.
pub(crate) fn networks(address: [u8; 16]) -> impl DoubleEndedIterator<Item = (Network, u32)> {
    let ip = std::net::Ipv6Addr::from(address);
    let list = match ip.to_ipv4_mapped() {
        Some(v4) => [Some((Network::V4(v4.octets()), 1)), None, None],
        None => {
            let bits = u64::try_from(ip.to_bits() >> 64).unwrap_or(0);
            let v6 = |length: u8, factor| {
                let mask = u64::MAX << (64 - length);
                Some((Network::V6(bits & mask, length), factor))
            };
            [v6(48, 4), v6(56, 2), v6(64, 1)]
        }
    };
    list.into_iter().flatten()
}

/// The limits of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerAddress {
    /// Connections at a time.
    pub connections: u32,
    /// New connections per second; as many may come at once after a rest.
    pub rate: u32,
}

/// Why a connection gets no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its network has as many connections as it may have.
    Connections,
    /// Too many new connections in a short time.
    Rate,
    /// More networks than can be counted.
    Networks,
}

#[derive(Debug)]
struct Counts {
    connections: u32,
    tokens: u64,
    since: Instant,
}

/// The states in which a connection may be ended, in the order in which they give way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It takes, or is idle and sends, less than the minimum rate.
    Slow,
    /// Its request has arrived, at least in part; it waits for a session or for the answer.
    Waiting,
    /// It has not sent its request.
    Silent,
    /// It has been silent for long in its turn, by its session's word.
    Thinking,
}

/// A connection that could be ended.
#[derive(Debug, Clone, Copy)]
pub struct Candidate {
    /// The caller's number for it; of two that came at the same time the lower one came first.
    pub id: u64,
    /// Its address.
    pub address: [u8; 16],
    /// How far it is.
    pub standing: Standing,
    /// When it came. For a thinking connection, when its session said so.
    pub since: Instant,
}

/// All strangers that have a place.
#[derive(Debug, Default)]
pub struct Strangers {
    networks: HashMap<Network, Counts>,
}

impl Strangers {
    /// Gives a place to a connection from this address, which must [`Strangers::leave`] it one day.
    pub fn admit(&mut self, address: [u8; 16], limit: PerAddress, now: Instant) -> Result<(), Refused> {
        if self.networks.len() >= MOST_NETWORKS {
            return Err(Refused::Networks);
        }
        for (network, factor) in networks(address) {
            let Some(counts) = self.networks.get_mut(&network) else { continue };
            counts.refill(limit.rate.saturating_mul(factor), now);
            if counts.connections >= limit.connections.saturating_mul(factor) {
                return Err(Refused::Connections);
            }
            if counts.tokens < TOKEN {
                return Err(Refused::Rate);
            }
        }
        for (network, factor) in networks(address) {
            let full = u64::from(limit.rate.saturating_mul(factor)).saturating_mul(TOKEN);
            let counts =
                self.networks.entry(network).or_insert(Counts { connections: 0, tokens: full, since: now });
            counts.connections = counts.connections.saturating_add(1);
            counts.tokens = counts.tokens.saturating_sub(TOKEN);
        }
        Ok(())
    }

    /// Counts a connection that was taken back by [`Strangers::leave`] once more, whatever the
    /// limits.
    pub fn enter(&mut self, address: [u8; 16]) {
        for (network, _) in networks(address) {
            if let Some(counts) = self.networks.get_mut(&network) {
                counts.connections = counts.connections.saturating_add(1);
            }
        }
    }

    /// Whether two addresses are one stranger.
    pub fn are_one(a: [u8; 16], b: [u8; 16]) -> bool {
        let narrowest = |address| networks(address).next_back().map(|(network, _)| network);
        narrowest(a) == narrowest(b)
    }

    /// A connection from this address is over.
    pub fn leave(&mut self, address: [u8; 16]) {
        for (network, _) in networks(address) {
            if let Some(counts) = self.networks.get_mut(&network) {
                counts.connections = counts.connections.saturating_sub(1);
            }
        }
    }

    /// Forgets who has no connection and is owed nothing: after a second every bucket is full.
    pub fn forget(&mut self, now: Instant) {
        self.networks.retain(|_, counts| {
            counts.connections > 0 || now.saturating_duration_since(counts.since) < Duration::from_secs(1)
        });
    }

    /// Connections of an address's networks, the widest network first. `and` are counted with them.
    fn load(&self, address: [u8; 16], and: u32) -> [u32; 3] {
        let mut load = [0; 3];
        for (slot, (network, _)) in load.iter_mut().zip(networks(address)) {
            *slot = self.networks.get(&network).map_or(0, |counts| counts.connections).saturating_add(and);
        }
        load
    }

    /// Connections of this very address, or /64.
    pub fn of_address(&self, address: [u8; 16]) -> u32 {
        let narrowest = networks(address).next_back();
        narrowest.and_then(|(network, _)| self.networks.get(&network)).map_or(0, |counts| counts.connections)
    }

    /// Picks the connection that gives way to a newcomer; `None`: the newcomer is refused.
    pub fn gives_way(
        &self,
        candidates: impl Iterator<Item = Candidate>,
        newcomer: [u8; 16],
    ) -> Option<Candidate> {
        let candidates: Vec<Candidate> = candidates.collect();
        let thinks = |candidate: &&Candidate| candidate.standing == Standing::Thinking;
        if let Some(thinker) = candidates.iter().filter(thinks).min_by_key(|c| (c.since, c.id)) {
            return Some(*thinker);
        }
        let rank = |candidate: &Candidate| {
            let age = match candidate.standing {
                Standing::Silent | Standing::Thinking => {
                    (Some(Reverse((candidate.since, candidate.id))), None)
                }
                Standing::Waiting | Standing::Slow => (None, Some((candidate.since, candidate.id))),
            };
            (self.load(candidate.address, 0), candidate.standing, age)
        };
        let busiest = candidates.into_iter().max_by_key(rank)?;
        let (theirs, own) = (self.load(busiest.address, 0)[0], self.load(newcomer, 1)[0]);
        let yields = theirs > own || theirs == own && busiest.standing == Standing::Silent;
        yields.then_some(busiest)
    }
}

/// New connections per second, over all: as many may come at once after a rest.
#[derive(Debug, Default)]
pub struct Bucket(Option<Counts>);

impl Bucket {
    /// Whether there is one left.
    pub fn has(&mut self, rate: u32, now: Instant) -> bool {
        let full = u64::from(rate).saturating_mul(TOKEN);
        let counts = self.0.get_or_insert(Counts { connections: 0, tokens: full, since: now });
        counts.refill(rate, now);
        counts.tokens >= TOKEN
    }

    /// Takes one.
    pub fn take(&mut self) {
        if let Some(counts) = &mut self.0 {
            counts.tokens = counts.tokens.saturating_sub(TOKEN);
        }
    }
}

impl Counts {
    fn refill(&mut self, rate: u32, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        let micros = u64::try_from(passed.as_micros()).unwrap_or(u64::MAX);
        let full = u64::from(rate).saturating_mul(TOKEN);
        self.tokens = self.tokens.saturating_add(micros.saturating_mul(rate.into())).min(full);
        self.since = now;
    }
}

#[cfg(test)]
mod tests;
