//! Whether and when to come back, as the ranges of close codes say; see [`crate::close`].

use std::time::Duration;

use crate::close;

/// The first pause, and the longest one.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The longest pause where everybody may come back at the same time.
const JITTER: Duration = Duration::from_secs(1);

/// A connection that lasted this long was a good one: the pauses start again from the shortest.
const GOOD: Duration = Duration::from_secs(10);

/// How to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Come back after this pause.
    After(Duration),
    /// Come back after a pause that grows from one failure to the next.
    Backoff,
}

/// What a close code means; `None` is for good. `refreshes` says that the next connection has a new token, and
/// `reconnect_in` is what the server's goodbye asked for.
pub(super) fn after(code: u16, refreshes: bool, reconnect_in: Option<Duration>) -> Option<Next> {
    match code {
        // A new token is fetched for the next connection.
        close::EXPIRED if refreshes => {
            Some(Next::After(reconnect_in.unwrap_or_else(|| jitter(JITTER))))
        }
        4200..=4299 => Some(Next::After(reconnect_in.unwrap_or_else(|| jitter(JITTER)))),
        4100..=4199 => Some(Next::Backoff),
        // The others below 3000 are accidents of the wire or the server; all that remain are somebody's decision.
        close::NORMAL | 3000.. => None,
        _ => Some(Next::Backoff),
    }
}

/// Pauses that double, each jittered by half, so that those who left together do not come back together.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Takes note of a connection that lasted for `time`.
    pub(super) fn note(&mut self, time: Duration) {
        if time >= GOOD {
            self.failures = 0;
        }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let pause = PAUSE
            .saturating_mul(1 << self.failures.min(10))
            .min(PAUSE_MAX);
        self.failures += 1;
        pause / 2 + jitter(pause / 2)
    }
}

fn jitter(longest: Duration) -> Duration {
    // The last 32 bits of a version 4 UUID are random.
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    longest.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_of_a_code_says_whether_to_come_back() {
        for code in [
            1000, 3000, 4000, 4001, 4003, 4005, 4009, 4010, 4099, 4300, 4999,
        ] {
            assert_eq!(after(code, false, None), None, "{code}");
        }
        for code in [
            1001, 1002, 1005, 1006, 1009, 1011, 1012, 1013, 4100, 4101, 4102, 4199,
        ] {
            assert_eq!(after(code, false, None), Some(Next::Backoff), "{code}");
        }
        for code in [4200, 4201, 4299] {
            assert!(
                matches!(after(code, false, None), Some(Next::After(pause)) if pause <= JITTER),
                "{code}"
            );
        }
        let asked = Duration::from_millis(1830);
        assert_eq!(
            after(close::DRAINING, false, Some(asked)),
            Some(Next::After(asked))
        );
    }

    #[test]
    fn who_has_a_new_token_comes_back_after_the_old_one_expired() {
        assert!(matches!(
            after(close::EXPIRED, true, None),
            Some(Next::After(_))
        ));
        assert_eq!(after(close::UNAUTHORIZED, true, None), None);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_begin_anew_after_a_good_connection() {
        let mut backoff = Backoff::default();
        let mut whole = PAUSE;
        for _ in 0..40 {
            let pause = backoff.next();
            assert!(
                pause >= whole / 2 && pause <= whole,
                "{pause:?} of {whole:?}"
            );
            whole = (whole * 2).min(PAUSE_MAX);
        }
        backoff.note(GOOD.mul_f64(0.99));
        assert!(backoff.next() >= PAUSE_MAX / 2);
        backoff.note(GOOD);
        assert!(backoff.next() <= PAUSE);
    }
}
