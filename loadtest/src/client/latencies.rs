//! Latencies of one lane as a client process sees them: all together, and interval by interval.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::error::{Result, failed};

/// Nanoseconds, and how often they were seen.
pub(crate) type Counted = Vec<(u64, u64)>;

/// What one process saw of a lane.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// All of it, exact to a thousandth.
    pub(crate) all: Counted,
    /// By interval of arrival, numbered from the clock's zero, exact to a hundredth.
    pub(crate) intervals: Vec<(u64, Counted)>,
}

/// A histogram of nanoseconds, exact to a thousandth, from 1 ns to 10 minutes.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    with_digits(3)
}

/// The same for one interval: exact to a hundredth.
pub(crate) fn coarse() -> Result<Histogram<u64>> {
    with_digits(2)
}

fn with_digits(digits: u8) -> Result<Histogram<u64>> {
    Histogram::new_with_bounds(1, 600_000_000_000, digits)
        .or_else(|error| failed(error.to_string()))
}

/// Puts counted latencies into `into`.
pub(crate) fn merge(into: &mut Histogram<u64>, counted: &[(u64, u64)]) {
    for &(value, count) in counted {
        into.saturating_record_n(value, count);
    }
}

/// Counts arrivals. One is one entry in one histogram; what that means for the whole is worked out once an interval.
#[derive(Debug)]
pub(super) struct Latencies {
    interval: u64,
    /// When the interval that is being counted ends.
    ends: u64,
    current: Histogram<u64>,
    coarse: Histogram<u64>,
    all: Histogram<u64>,
    intervals: Vec<(u64, Counted)>,
}

impl Latencies {
    /// Nothing yet; intervals are `interval` nanoseconds long.
    pub(super) fn new(interval: u64) -> Result<Self> {
        Ok(Self {
            interval: interval.max(1),
            ends: 0,
            current: histogram()?,
            coarse: coarse()?,
            all: histogram()?,
            intervals: Vec::new(),
        })
    }

    /// Counts what arrived `now` and was due `at`.
    pub(super) fn note(&mut self, at: u64, now: u64) {
        if now >= self.ends {
            self.close();
            self.ends = (now / self.interval + 1) * self.interval;
        }
        self.current
            .saturating_record(now.saturating_sub(at).max(1));
    }

    /// All that was counted.
    pub(super) fn take(&mut self) -> Seen {
        self.close();
        let seen = Seen {
            all: counted(&self.all),
            intervals: std::mem::take(&mut self.intervals),
        };
        self.all.reset();
        seen
    }

    fn close(&mut self) {
        if self.current.is_empty() {
            return;
        }
        let exact = counted(&self.current);
        merge(&mut self.all, &exact);
        self.coarse.reset();
        merge(&mut self.coarse, &exact);
        self.intervals
            .push((self.ends / self.interval - 1, counted(&self.coarse)));
        self.current.reset();
    }
}

/// What a histogram has counted.
pub(super) fn counted(latencies: &Histogram<u64>) -> Counted {
    latencies
        .iter_recorded()
        .map(|seen| (seen.value_iterated_to(), seen.count_at_value()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_is_exact_and_each_interval_has_its_own() {
        let mut latencies = Latencies::new(100).unwrap();
        for (at, now) in [(1, 151), (100, 199), (190, 200), (0, 523_456)] {
            latencies.note(at, now);
        }
        let seen = latencies.take();
        assert_eq!(seen.all, [(10, 1), (99, 1), (150, 1), (523_519, 1)]);
        let numbers: Vec<u64> = seen.intervals.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 2, 5234]);
        assert_eq!(seen.intervals[0].1, [(99, 1), (150, 1)]);
        assert!(latencies.take().all.is_empty(), "it begins anew");
    }

    #[test]
    fn what_processes_saw_is_added_up() {
        let mut all = histogram().unwrap();
        merge(&mut all, &[(10, 2), (20, 1)]);
        merge(&mut all, &[(20, 4)]);
        assert_eq!((all.len(), all.count_at(20), all.max()), (7, 5, 20));
    }
}
