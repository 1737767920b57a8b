//! When places at admission come back: in step with the writing, not in bunches.
//!
//! Publications that were placed together are through together. Let in again together, they would go round as one
//! bunch for as long as the load lasts, and one that comes just after it would wait a whole round for the next: twice
//! the latency for the same depth. So what they give back is lent out again a part at a time, as fast as sockets are
//! written.

use parking_lot::Mutex;

use crate::limits::ADMISSION_STEPS;

/// Holds back places that were given back. Nothing is held while no shard writes.
#[derive(Debug)]
pub(super) struct Pace {
    all: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Places that were given back and may not be taken yet.
    held: usize,
    /// How many of them the writing done since has earned. A few sockets of very many earn less than one.
    earned: f64,
    /// Shards with sockets that wait for large publications.
    writing: usize,
}

impl State {
    fn release(&mut self, step: usize) -> usize {
        // Nothing is being written that could earn them, so nobody would ever give them back.
        if self.writing == 0 {
            self.earned = 0.0;
            return std::mem::take(&mut self.held);
        }
        // In steps: a place at a time would wake a waiter for each.
        if self.earned < step as f64 {
            return 0;
        }
        let released = self.held.min(self.earned as usize);
        self.held -= released;
        self.earned -= released as f64;
        released
    }
}

impl Pace {
    /// Returns the pace of a pool of `all` places.
    pub(super) fn new(all: usize) -> Self {
        Self {
            all,
            state: Mutex::default(),
        }
    }

    fn step(&self) -> usize {
        self.all.div_ceil(ADMISSION_STEPS)
    }

    /// Takes `places` back; answers how many may be taken again now.
    #[must_use]
    pub(super) fn give_back(&self, places: usize) -> usize {
        let mut state = self.state.lock();
        state.held += places;
        state.release(self.step())
    }

    /// Notes that `written` of the `waiting` sockets of a shard were written; answers how many places may be taken again
    /// now.
    #[must_use]
    pub(super) fn written(&self, written: usize, waiting: usize) -> usize {
        let mut state = self.state.lock();
        let part = written as f64 / waiting.max(1) as f64;
        state.earned += self.all as f64 * part / state.writing.max(1) as f64;
        let released = state.release(self.step());
        // What was earned while nothing was held is no leave for a bunch.
        state.earned = state.earned.min(self.step() as f64);
        released
    }

    /// Notes that a shard begins to write, or has nothing left to write; answers how many places may be taken again now.
    #[must_use]
    pub(super) fn turn(&self, writing: bool) -> usize {
        let mut state = self.state.lock();
        if writing {
            state.writing += 1;
        } else {
            state.writing -= 1;
        }
        state.release(self.step())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: usize = 64_000;
    const STEP: usize = ALL / ADMISSION_STEPS;

    #[test]
    fn nothing_is_held_back_while_nobody_writes() {
        let pace = Pace::new(ALL);
        assert_eq!(pace.give_back(3), 3);
        assert_eq!(pace.turn(true), 0);
        assert_eq!(pace.give_back(40), 0);
        assert_eq!(pace.turn(false), 40, "who rests gives everything back");
        assert_eq!(pace.give_back(5), 5);
    }

    #[test]
    fn a_bunch_comes_back_in_steps_over_one_round_of_writing() {
        let pace = Pace::new(ALL);
        assert_eq!(pace.turn(true), 0);
        assert_eq!(pace.give_back(ALL), 0);
        let released: Vec<usize> = (0..100)
            .map(|_| pace.written(10, 1000))
            .filter(|&n| n > 0)
            .collect();
        assert_eq!(released, [STEP; ADMISSION_STEPS]);
    }

    #[test]
    fn a_few_sockets_of_a_million_earn_their_part() {
        let pace = Pace::new(ALL);
        assert_eq!((pace.turn(true), pace.give_back(ALL)), (0, 0));
        let released: usize = (0..125_000).map(|_| pace.written(8, 1_000_000)).sum();
        assert!(released >= ALL - STEP, "{released} of {ALL}");
    }

    #[test]
    fn what_was_earned_while_nothing_was_held_is_worth_one_step() {
        let pace = Pace::new(ALL);
        assert_eq!(pace.turn(true), 0);
        for _ in 0..10 {
            assert_eq!(pace.written(1000, 1000), 0);
        }
        assert_eq!(pace.give_back(ALL), STEP);
    }

    #[test]
    fn shards_that_write_at_once_share_the_pace() {
        let pace = Pace::new(ALL);
        assert_eq!((pace.turn(true), pace.turn(true)), (0, 0));
        assert_eq!(pace.give_back(ALL), 0);
        assert_eq!(pace.written(500, 1000) + pace.written(500, 1000), 2 * STEP);
        assert_eq!(pace.turn(false), 0);
        assert_eq!(pace.turn(false), ALL - 2 * STEP);
    }

    #[test]
    fn a_shard_that_writes_all_at_once_earns_all() {
        let pace = Pace::new(ALL);
        assert_eq!((pace.turn(true), pace.give_back(ALL)), (0, 0));
        assert_eq!(pace.written(3, 3), ALL);
    }
}
