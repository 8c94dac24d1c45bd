//! The rate at which a client takes its pack.

use std::io;
use std::time::Duration;

use libproto::refusal::Refusal;

/// The bytes that the client took, against the time that we waited for it. Our own work does not
/// count. The watchdog bounds each single write; this bounds their sum.
pub(super) struct Pace {
    rate: u64,
    window: Duration,
    bytes: u64,
    waited: Duration,
}

impl Pace {
    pub(super) fn new(rate: u32, window: u32) -> Pace {
        Pace {
            rate: rate.into(),
            window: Duration::from_secs(window.into()),
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    pub(super) fn sent(&mut self, bytes: usize, waited: Duration) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.waited = self.waited.saturating_add(waited);
        if self.waited < self.window {
            return Ok(());
        }
        let least = self.waited.as_secs().saturating_mul(self.rate);
        let slow = self.bytes < least;
        (self.bytes, self.waited) = (0, Duration::ZERO);
        if slow { Err(Refusal::TooSlow.into()) } else { Ok(()) }
    }
}
