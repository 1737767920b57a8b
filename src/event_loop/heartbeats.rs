//! Which connections are to be pinged now, without a timer per connection.

use std::time::Duration;

use crate::{
    hub::SlotRef,
    limits::{Limits, TICK},
};

/// A wheel with one bucket per tick of a heartbeat. A connection stays in the bucket of the tick in which it came, so
/// its first ping is due one heartbeat later.
#[derive(Debug)]
pub(super) struct Heartbeats {
    buckets: Vec<Vec<SlotRef>>,
    wait: usize,
    now: usize,
}

/// Whose turn it is at a tick.
#[derive(Debug)]
pub(super) struct Turn {
    /// Those who are to be pinged now.
    pub(super) due: Vec<SlotRef>,
    /// Those who were pinged as long ago as an answer may take.
    pub(super) late: Vec<SlotRef>,
}

impl Heartbeats {
    pub(super) fn new(limits: &Limits) -> Self {
        // With one bucket, a ping would be looked for in the tick in which it is sent.
        let buckets = ticks(limits.heartbeat).max(2);
        let wait = ticks(limits.heartbeat_wait).clamp(1, buckets - 1);
        Self {
            buckets: vec![Vec::new(); buckets],
            wait,
            now: 0,
        }
    }

    /// Takes in a connection that came just now.
    pub(super) fn join(&mut self, at: SlotRef) {
        self.buckets[self.now].push(at);
    }

    /// Turns the wheel by one tick. Connections that are no longer `present` are forgotten.
    pub(super) fn turn(&mut self, present: impl Fn(SlotRef) -> bool) -> Turn {
        let buckets = self.buckets.len();
        self.now = (self.now + 1) % buckets;
        let due = &mut self.buckets[self.now];
        due.retain(|at| present(*at));
        Turn {
            due: due.clone(),
            late: self.buckets[(self.now + buckets - self.wait) % buckets].clone(),
        }
    }
}

fn ticks(duration: Duration) -> usize {
    (duration.as_millis() / TICK.as_millis()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_pinged_once_per_heartbeat_and_looked_at_after_the_wait() {
        let limits = Limits {
            heartbeat: TICK * 10,
            heartbeat_wait: TICK * 4,
            ..Limits::default()
        };
        let mut wheel = Heartbeats::new(&limits);
        let at = SlotRef {
            slot: 3,
            generation: 1,
        };
        for _ in 0..5 {
            wheel.turn(|_| true);
        }
        wheel.join(at);
        let turns: Vec<_> = (1..=24).map(|_| wheel.turn(|_| true)).collect();
        let when = |of: fn(&Turn) -> bool| {
            turns
                .iter()
                .enumerate()
                .filter(|(_, turn)| of(turn))
                .map(|(n, _)| n + 1)
                .collect::<Vec<_>>()
        };
        assert_eq!(when(|turn| !turn.due.is_empty()), [10, 20]);
        assert_eq!(
            when(|turn| !turn.late.is_empty()),
            [4, 14, 24],
            "the first finds nothing awaited"
        );
        for _ in 0..10 {
            wheel.turn(|_| false);
        }
        assert!(wheel.buckets.iter().all(Vec::is_empty));
    }
}
