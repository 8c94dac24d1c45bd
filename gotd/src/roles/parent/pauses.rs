//! Pauses between waiting sessions that do not live.

use std::time::{Duration, Instant};

use libproto::message::parent::Pool;

/// The pause after the first waiting session that did not live until it could be offered; each
/// further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause of a control socket's: root may want to know what the matter is.
const LONGEST_OF_CONTROL: Duration = Duration::from_millis(200);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// After so long without a loss the next pause is a short one again.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Keeps the parent from starting processes as fast as they die: where none can live, as on a
/// system whose C library needs a call that the sandbox refuses, it would do nothing else and fill
/// the log.
#[derive(Debug)]
pub struct Pause {
    longest: Duration,
    until: Option<Instant>,
    /// Pauses, less the sessions that have served somebody since.
    losses: u32,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause { longest: LONGEST_PAUSE, until: None, losses: 0 }
    }
}

/// A pause for each kind of waiting sessions: strangers of git:// hold up no user, and neither
/// holds up root.
#[derive(Debug)]
pub struct Pauses {
    unix: Pause,
    tcp: Pause,
    control: Pause,
}

impl Default for Pauses {
    fn default() -> Pauses {
        let control = Pause { longest: LONGEST_OF_CONTROL, ..Pause::default() };
        Pauses { unix: Pause::default(), tcp: Pause::default(), control }
    }
}

impl Pauses {
    /// The pause of a kind.
    pub fn of(&mut self, pool: Pool) -> &mut Pause {
        match pool {
            Pool::Unix => &mut self.unix,
            Pool::Tcp => &mut self.tcp,
            Pool::Control => &mut self.control,
        }
    }

    /// Time until the first pause ends.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        [&self.unix, &self.tcp, &self.control].into_iter().filter_map(|pause| pause.left(now)).min()
    }
}

impl Pause {
    /// A waiting session has ended before it served a client. Sessions that end together cause one
    /// pause.
    pub fn lost(&mut self, now: Instant) {
        if self.is_on(now) {
            return;
        }
        if self.until.is_some_and(|until| now.saturating_duration_since(until) > FORGOTTEN) {
            self.losses = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.losses.min(10)).min(self.longest);
        self.losses = self.losses.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// A client has taken a session. An offered session does not count: it can still be lost, and a
    /// pause that is forgotten with each offer never grows. A served client makes up for one pause
    /// and no more. Otherwise a client that connects as fast as it can would keep the pauses short
    /// while the other sessions die.
    pub fn served(&mut self) {
        self.losses = self.losses.saturating_sub(1);
    }

    /// Whether it is not over.
    pub fn is_on(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// The rest of the pause.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_shrink_with_those_that_serve() {
        let mut now = Instant::now();
        let mut pause = Pause::default();
        assert!(!pause.is_on(now));
        let mut lengths = Vec::new();
        for _ in 0..12 {
            for _ in 0..16 {
                pause.lost(now);
            }
            let left = pause.left(now).expect("a pause");
            lengths.push(left.as_millis());
            now += left;
        }
        pause.lost(now);
        assert_eq!(lengths[..4], [20, 40, 80, 160]);
        assert_eq!(lengths.last(), Some(&5000));
        assert!(pause.is_on(now) && !pause.is_on(now + LONGEST_PAUSE));
        // One that serves makes up for one pause.
        now += LONGEST_PAUSE;
        (0..pause.losses).for_each(|_| pause.served());
        pause.lost(now);
        assert_eq!(pause.left(now), Some(FIRST_PAUSE));
        // So does time for all of them.
        for _ in 0..12 {
            now += pause.left(now).unwrap_or_default();
            pause.lost(now);
        }
        now += LONGEST_PAUSE + FORGOTTEN + FIRST_PAUSE;
        pause.lost(now);
        assert_eq!(pause.left(now), Some(FIRST_PAUSE));
    }
}
