//! The processor time of one connection's negotiation, as the kernel counts it.

use std::time::Duration;

use libproto::limits::Limit;
use libproto::message::parent::Negotiation;
use libproto::refusal::Refusal;

use crate::os::{system, watchdog};

/// Processor time after which the process waits for another turn. Most clients use a tenth of it in
/// all.
const TURN: Duration = Duration::from_millis(250);

/// The refusal for a client that has used `ms` milliseconds.
pub fn over(limit: Limit, ms: u64) -> Refusal {
    let within = if limit == Limit::NegotiationCpuPerClient { " in 10 minutes" } else { "" };
    Refusal::Limit(limit, format!("negotiation: more than {} seconds of processor time{within}", ms / 1000))
}

/// Time used, and how much may be. All that the process uses counts, taking questions and sending
/// answers too, but not making packs.
#[derive(Debug)]
pub(super) struct Budget {
    allowed: Duration,
    /// The refusal beyond it.
    refusal: Refusal,
    /// The process's time that does not count: before the first question, and for packs.
    free: Duration,
    /// What was used before the last turn.
    turned: Duration,
}

/// The limit that a negotiation reaches first, and its refusal.
pub(crate) fn first_reached(negotiation: &Negotiation) -> (Duration, Refusal) {
    let Negotiation { connection, left, per_client } = *negotiation;
    let (ms, refusal) = if left < connection {
        (left, over(Limit::NegotiationCpuPerClient, per_client.into()))
    } else {
        (connection, over(Limit::NegotiationCpu, connection.into()))
    };
    (Duration::from_millis(ms.into()), refusal)
}

impl Budget {
    pub(super) fn new(negotiation: &Negotiation) -> Budget {
        let (allowed, refusal) = first_reached(negotiation);
        Budget { allowed, refusal, free: system::cpu_time(), turned: Duration::ZERO }
    }

    /// What negotiating has used.
    pub(super) fn used(&self) -> Duration {
        system::cpu_time().saturating_sub(self.free)
    }

    /// The refusal, if `used` has reached the limit.
    pub(super) fn spent(&self, used: Duration) -> Option<&Refusal> {
        (used >= self.allowed).then_some(&self.refusal)
    }

    /// Whether it is time to wait for a turn.
    pub(super) fn needs_turn(&self, used: Duration) -> bool {
        used.saturating_sub(self.turned) >= TURN
    }

    /// A turn was given.
    pub(super) fn turn(&mut self, used: Duration) {
        self.turned = used;
    }

    /// Does something that counts. The watchdog ends it when all that is left is used up.
    pub(super) fn begin(&self) {
        watchdog::cpu_limit(Some(self.free.saturating_add(self.allowed)));
    }

    /// It is done.
    pub(super) fn end(&self) {
        watchdog::cpu_limit(None);
    }

    /// What was used since then does not count.
    pub(super) fn spare_since(&mut self, used: Duration) {
        self.free = self.free.saturating_add(self.used().saturating_sub(used));
    }
}

/// Milliseconds, for the parent.
pub(crate) fn milliseconds(used: Duration) -> u32 {
    u32::try_from(used.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(connection: u32, left: u32) -> Negotiation {
        Negotiation { connection, left, per_client: 60_000 }
    }

    #[test]
    fn the_limit_that_is_reached_first_is_the_one_that_is_told() {
        let text = |connection, left| {
            let (time, refusal) = first_reached(&rules(connection, left));
            (time, refusal.to_string())
        };
        assert_eq!(
            text(10_000, 60_000),
            (
                Duration::from_secs(10),
                "negotiation: more than 10 seconds of processor time (limit negotiation cpu)".into()
            )
        );
        assert_eq!(
            text(10_000, 2_500),
            (
                Duration::from_millis(2_500),
                "negotiation: more than 60 seconds of processor time in 10 minutes (limit negotiation cpu per client)"
                    .into()
            )
        );
    }

    #[test]
    fn used_time_asks_for_turns_and_ends() {
        let mut budget = Budget::new(&rules(1_000, 60_000));
        let ms = Duration::from_millis;
        assert!(!budget.needs_turn(ms(249)) && budget.needs_turn(ms(250)));
        budget.turn(ms(251));
        assert!(!budget.needs_turn(ms(500)) && budget.needs_turn(ms(501)));
        assert!(budget.spent(ms(999)).is_none());
        assert!(
            budget.spent(ms(1_000)).is_some_and(|refusal| refusal.limit() == Some(Limit::NegotiationCpu))
        );
    }

    #[test]
    fn packs_do_not_count() {
        let mut budget = Budget::new(&rules(10_000, 60_000));
        let burn = || {
            let start = system::cpu_time();
            while system::cpu_time() < start + Duration::from_millis(20) {}
        };
        burn();
        let used = budget.used();
        assert!(used >= Duration::from_millis(20), "{used:?}");
        let before = budget.free;
        burn();
        budget.spare_since(used);
        assert!(budget.free >= before + Duration::from_millis(20));
    }
}
