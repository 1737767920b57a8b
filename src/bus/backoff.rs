//! How long to wait before the next attempt to connect.

use std::time::{Duration, Instant};

use crate::limits;

/// Waits that grow up to a bound, each a random part of it, so that nodes that lost one server do not come back together.
/// The first wait is zero.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The next wait. `since` is when the last connection was made that now is lost, if one was: one that held long
    /// enough was a good one, and all begins again.
    pub(super) fn next(&mut self, since: Option<Instant>) -> Duration {
        if since.is_some_and(|since| since.elapsed() > limits::BUS_BACKOFF_MAX) {
            self.attempts = 0;
        }
        let attempt = self.attempts;
        self.attempts = attempt.saturating_add(1);
        let Some(doublings) = attempt.checked_sub(1) else {
            return Duration::ZERO;
        };
        // 16 doublings pass every bound, and a shift by more than 31 bits would overflow.
        let bound = limits::BUS_BACKOFF_MIN
            .saturating_mul(1 << doublings.min(16))
            .min(limits::BUS_BACKOFF_MAX);
        some(bound)
    }
}

/// A random part of `bound`.
pub(crate) fn some(bound: Duration) -> Duration {
    bound.mul_f64(f64::from(uuid::Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_begin_anew() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(None), Duration::ZERO);
        for attempt in 0..40 {
            let bound = limits::BUS_BACKOFF_MIN * (1 << attempt.min(8));
            assert!(backoff.next(None) <= bound.min(limits::BUS_BACKOFF_MAX));
        }
        let all = (0..100)
            .map(|_| backoff.next(Some(Instant::now())))
            .collect::<Vec<_>>();
        assert!(all.iter().max() > all.iter().min());
        let long_ago = Instant::now()
            .checked_sub(limits::BUS_BACKOFF_MAX * 2)
            .unwrap();
        assert_eq!(backoff.next(Some(long_ago)), Duration::ZERO);
    }
}
