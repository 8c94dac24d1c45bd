//! Counts, rates, and the rule about who gives way, the last one played through.

use super::*;

fn address(text: &str) -> [u8; 16] {
    match text.parse().expect("an address") {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}

const LIMIT: PerAddress = PerAddress { connections: 4, rate: 100 };

#[test]
fn an_address_has_a_number_of_places() {
    let (mut strangers, now) = (Strangers::default(), Instant::now());
    for _ in 0..4 {
        assert_eq!(strangers.admit(address("192.0.2.1"), LIMIT, now), Ok(()));
    }
    assert_eq!(strangers.admit(address("192.0.2.1"), LIMIT, now), Err(Refused::Connections));
    assert_eq!(strangers.admit(address("192.0.2.2"), LIMIT, now), Ok(()));
    strangers.leave(address("192.0.2.1"));
    assert_eq!(strangers.of_address(address("192.0.2.1")), 3);
    assert_eq!(strangers.admit(address("192.0.2.1"), LIMIT, now), Ok(()));
}

#[test]
fn ipv6_is_counted_by_three_networks() {
    let (mut strangers, now) = (Strangers::default(), Instant::now());
    let mut admitted = |format: &dyn Fn(u32) -> String, tries: u32| {
        (0..tries).filter(|n| strangers.admit(address(&format(*n)), LIMIT, now).is_ok()).count()
    };
    // Every address of one /64 is the same stranger.
    assert_eq!(admitted(&|n| format!("2001:db8:1:100::{n:x}"), 50), 4);
    // The other /64 of this /56 have as many again together.
    assert_eq!(admitted(&|n| format!("2001:db8:1:1{n:02x}::1"), 200), 4);
    // And the other /56 of this /48 as many as both.
    assert_eq!(admitted(&|n| format!("2001:db8:1:{n:02x}00::1"), 200), 8);
    // Another /48 has nothing to do with it.
    assert_eq!(admitted(&|n| format!("2001:db8:2:{n:02x}00::1"), 200), 16);
}

#[test]
fn an_address_has_a_rate() {
    let (mut strangers, start) = (Strangers::default(), Instant::now());
    let limit = PerAddress { connections: 1000, rate: 10 };
    let mut admitted = |ms: u64| {
        let now = start + Duration::from_millis(ms);
        (0..50).filter(|_| strangers.admit(address("192.0.2.1"), limit, now).is_ok()).count()
    };
    assert_eq!(admitted(0), 10);
    assert_eq!(admitted(50), 0);
    assert_eq!(admitted(200), 2);
    assert_eq!(admitted(60_000), 10);
}

#[test]
fn who_is_gone_is_forgotten() {
    let (mut strangers, now) = (Strangers::default(), Instant::now());
    for n in 0..100u8 {
        strangers.admit(address(&format!("192.0.2.{n}")), LIMIT, now).expect("a place");
        if n > 0 {
            strangers.leave(address(&format!("192.0.2.{n}")));
        }
    }
    strangers.forget(now);
    assert_eq!(strangers.networks.len(), 100);
    strangers.forget(now + Duration::from_secs(2));
    assert_eq!(strangers.networks.len(), 1);
}

/// A server of a few places, as `listen` keeps it.
struct Places {
    strangers: Strangers,
    taken: Vec<Candidate>,
    /// Ids of those that are being served and cannot be ended.
    served: Vec<u64>,
    limit: PerAddress,
    most: usize,
    now: Instant,
    last: u64,
}

impl Places {
    fn new(most: usize, connections: u32) -> Places {
        let limit = PerAddress { connections, rate: 1_000_000 };
        let (taken, served) = (Vec::new(), Vec::new());
        Places { strangers: Strangers::default(), taken, served, limit, most, now: Instant::now(), last: 0 }
    }

    /// Somebody comes; the id of the place, if there is one.
    fn come(&mut self, from: &str, standing: Standing) -> Option<u64> {
        self.now += Duration::from_millis(1);
        if self.taken.len() >= self.most {
            let served = &self.served;
            let candidates = self.taken.iter().copied().filter(|c| !served.contains(&c.id));
            let victim = self.strangers.gives_way(candidates, address(from))?;
            assert!(!self.served.contains(&victim.id), "a session that is served was ended");
            self.taken.retain(|c| c.id != victim.id);
            self.strangers.leave(victim.address);
        }
        self.strangers.admit(address(from), self.limit, self.now).ok()?;
        self.last += 1;
        self.taken.push(Candidate { id: self.last, address: address(from), standing, since: self.now });
        Some(self.last)
    }

    fn has(&self, id: u64) -> bool {
        self.taken.iter().any(|c| c.id == id)
    }
}

#[test]
fn the_busiest_gives_way_to_whoever_has_less() {
    let mut places = Places::new(20, 16);
    let flood: Vec<u64> = (0..16).filter_map(|_| places.come("192.0.2.66", Standing::Waiting)).collect();
    let others: Vec<u64> =
        (1..5).filter_map(|n| places.come(&format!("192.0.2.{n}"), Standing::Waiting)).collect();
    assert_eq!((flood.len(), others.len()), (16, 4));
    // The flood cannot push out anybody, itself included, but everybody else pushes it back: the
    // last to come goes first.
    assert_eq!(places.come("192.0.2.66", Standing::Silent), None);
    for n in 5..15 {
        assert!(places.come(&format!("192.0.2.{n}"), Standing::Waiting).is_some());
    }
    assert_eq!(flood.iter().filter(|id| places.has(**id)).count(), 6);
    assert!(flood[..6].iter().all(|id| places.has(*id)) && others.iter().all(|id| places.has(*id)));
}

#[test]
fn a_wide_network_counts_as_one() {
    let mut places = Places::new(12, 4);
    // Twelve different /64 of one /48, one connection each, against nobody.
    for n in 0..12 {
        assert!(places.come(&format!("2001:db8:1:{n:x}00::1"), Standing::Waiting).is_some());
    }
    for n in 0..6 {
        assert!(places.come(&format!("198.51.100.{n}"), Standing::Waiting).is_some(), "{n}");
    }
    assert!(places.come("2001:db8:1:ff00::1", Standing::Silent).is_none());
}

#[test]
fn silent_ones_go_first_and_the_longest_silent_of_them() {
    let mut places = Places::new(4, 16);
    let first = places.come("192.0.2.1", Standing::Silent);
    let second = places.come("192.0.2.1", Standing::Silent);
    let waiting = places.come("192.0.2.1", Standing::Waiting);
    let slow = places.come("192.0.2.1", Standing::Slow);
    for (gone, n) in [(first, 2), (second, 3), (waiting, 4)] {
        assert!(places.come(&format!("192.0.2.{n}"), Standing::Waiting).is_some());
        assert!(!places.has(gone.expect("a place")), "{n}");
    }
    // One each: nobody has more than the newcomer would have.
    assert!(places.has(slow.expect("a place")));
    assert_eq!(places.come("192.0.2.5", Standing::Waiting), None);
}

#[test]
fn among_equals_only_a_silent_one_gives_way() {
    let mut places = Places::new(2, 16);
    let silent = places.come("192.0.2.1", Standing::Silent).expect("a place");
    let waiting = places.come("192.0.2.2", Standing::Waiting).expect("a place");
    assert!(places.come("192.0.2.3", Standing::Waiting).is_some());
    assert!(!places.has(silent) && places.has(waiting));
    assert_eq!(places.come("192.0.2.4", Standing::Waiting), None);
}

/// A thousand connections from few addresses, a hundred honest clients among them, each of an
/// address of its own: every honest one gets a place, none of those that are served is ended, and
/// the bound holds throughout.
#[test]
fn a_flood_played_through() {
    let mut places = Places::new(64, 16);
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let mut honest = 0;
    for round in 0..1100u32 {
        if round % 11 == 10 {
            let id = places.come(&format!("198.51.100.{}", round / 11), Standing::Waiting);
            places.served.push(id.unwrap_or_else(|| panic!("refused in round {round}")));
            honest += 1;
            // Honest clients are served and go.
            if places.served.len() > 10 {
                let done = places.served.remove(0);
                let at = places.taken.iter().position(|c| c.id == done).expect("was not ended");
                let candidate = places.taken.remove(at);
                places.strangers.leave(candidate.address);
            }
        } else {
            let standing = [Standing::Silent, Standing::Waiting, Standing::Slow][random(3) as usize];
            places.come(&format!("192.0.2.{}", random(8)), standing);
        }
        assert!(places.taken.len() <= 64);
        let of = |n: u64| places.strangers.of_address(address(&format!("192.0.2.{n}")));
        assert!((0..8).all(|n| of(n) <= 16));
    }
    assert_eq!(honest, 100);
}
