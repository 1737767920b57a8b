//! Latencies interval by interval, of all client processes together.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    client::{Seen, coarse, merge},
    clock,
    error::Result,
};

/// Lengths that an interval may have, in milliseconds.
const LENGTHS: [u64; 5] = [100, 250, 1000, 5000, 60_000];

/// Intervals that a measurement has at most; more would show nothing on a page.
const MOST: u64 = 300;

/// Arrivals of one lane over time.
#[derive(Debug)]
pub(crate) struct Timeline {
    interval: u64,
    began: u64,
    slots: BTreeMap<u64, Histogram<u64>>,
}

/// One interval; milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    /// Its end, in seconds after the measurement's beginning.
    pub(crate) seconds: f64,
    /// Arrivals.
    pub(crate) count: u64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// The length of an interval, in nanoseconds, for a measurement of this length.
pub(crate) fn interval(duration: Duration) -> u64 {
    let fits = |&length: &u64| clock::nanos(duration) <= length * 1_000_000 * MOST;
    LENGTHS
        .into_iter()
        .find(fits)
        .unwrap_or(LENGTHS[LENGTHS.len() - 1])
        * 1_000_000
}

impl Timeline {
    /// Nothing yet, of a measurement that began at a moment of [`clock::now`].
    pub(crate) fn new(interval: u64, began: u64) -> Self {
        Self {
            interval,
            began,
            slots: BTreeMap::new(),
        }
    }

    /// Adds what one process saw.
    pub(crate) fn merge(&mut self, seen: &Seen) -> Result<()> {
        for (slot, counted) in &seen.intervals {
            if !self.slots.contains_key(slot) {
                self.slots.insert(*slot, coarse()?);
            }
            if let Some(histogram) = self.slots.get_mut(slot) {
                merge(histogram, counted);
            }
        }
        Ok(())
    }

    /// The intervals in which something came.
    pub(crate) fn points(&self) -> Vec<Point> {
        let point = |(slot, histogram): (&u64, &Histogram<u64>)| {
            let ms = |nanos: u64| nanos as f64 / 1e6;
            Point {
                seconds: ((slot + 1) * self.interval).saturating_sub(self.began) as f64 / 1e9,
                count: histogram.len(),
                p50: ms(histogram.value_at_quantile(0.5)),
                p99: ms(histogram.value_at_quantile(0.99)),
                max: ms(histogram.max()),
            }
        };
        self.slots.iter().map(point).collect()
    }

    /// How many had come by `moment`, taking those of an interval as spread over it evenly.
    pub(crate) fn arrived_by(&self, moment: u64) -> f64 {
        let part = |slot: u64| {
            let passed = moment.saturating_sub(slot * self.interval) as f64;
            (passed / self.interval as f64).min(1.0)
        };
        self.slots
            .iter()
            .map(|(&slot, histogram)| histogram.len() as f64 * part(slot))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_share_intervals_and_those_count_from_the_beginning() {
        let ms = 1_000_000;
        let mut timeline = Timeline::new(100 * ms, 1050 * ms);
        let seen = |intervals: &[(u64, u64)]| Seen {
            all: Vec::new(),
            intervals: intervals
                .iter()
                .map(|&(slot, latency)| (slot, vec![(latency * ms, 2)]))
                .collect(),
        };
        timeline.merge(&seen(&[(10, 1), (12, 4)])).unwrap();
        timeline.merge(&seen(&[(10, 3)])).unwrap();
        let points = timeline.points();
        assert_eq!(points.len(), 2);
        assert_eq!((points[0].count, points[1].count), (4, 2));
        assert!((points[0].seconds - 0.05).abs() < 1e-9 && (points[1].seconds - 0.25).abs() < 1e-9);
        assert!((points[0].p50 - 1.0).abs() < 0.02 && (points[0].max - 3.0).abs() < 0.04);
        let arrived =
            [1000, 1050, 1100, 1250, 2000].map(|moment| timeline.arrived_by(moment * ms) as u64);
        assert_eq!(arrived, [0, 2, 4, 5, 6]);
    }

    #[test]
    fn long_measurements_have_long_intervals() {
        let seconds = [1, 30, 31, 120, 3600].map(|s| interval(Duration::from_secs(s)) / 1_000_000);
        assert_eq!(seconds, [100, 100, 250, 1000, 60_000]);
    }
}
