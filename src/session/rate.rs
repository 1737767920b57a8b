//! How many messages a client may send.

use std::time::Instant;

use crate::limits::{Limits, RATE_LIMIT_STRIKES};

/// Whether a client may send one more message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Go,
    Refused,
    /// Refused so often in a row that the client is closed.
    Strike,
}

/// A token bucket in 24 bytes.
#[derive(Debug)]
pub(super) struct Rate {
    level: f32,
    strikes: u32,
    since: Instant,
}

impl Rate {
    pub(super) fn new(burst: u32) -> Self {
        Self {
            level: burst as f32,
            strikes: 0,
            since: Instant::now(),
        }
    }

    pub(super) fn take(&mut self, limits: &Limits, now: Instant) -> Allowance {
        let gained =
            now.duration_since(self.since).as_secs_f32() * limits.messages_per_second as f32;
        self.level = (self.level + gained).min(limits.message_burst as f32);
        self.since = now;
        if self.level >= 1.0 {
            self.level -= 1.0;
            self.strikes = 0;
            return Allowance::Go;
        }
        self.strikes += 1;
        if self.strikes > RATE_LIMIT_STRIKES {
            Allowance::Strike
        } else {
            Allowance::Refused
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_holds_then_the_client_is_closed() {
        let limits = Limits {
            messages_per_second: 10,
            message_burst: 5,
            ..Limits::default()
        };
        let mut rate = Rate::new(limits.message_burst);
        let start = Instant::now();
        assert!((0..5).all(|_| rate.take(&limits, start) == Allowance::Go));
        assert_eq!(rate.take(&limits, start), Allowance::Refused);
        let later = start + Duration::from_millis(250);
        assert!((0..2).all(|_| rate.take(&limits, later) == Allowance::Go));
        assert!((0..RATE_LIMIT_STRIKES).all(|_| rate.take(&limits, later) == Allowance::Refused));
        assert_eq!(rate.take(&limits, later), Allowance::Strike);
    }
}
