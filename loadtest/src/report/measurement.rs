//! One measurement in full: what its figures were made of.

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::publisher::{LaneOutcome, Outcome, Point, Sample};

/// What one measurement saw.
#[derive(Debug, Serialize)]
pub(crate) struct Measurement {
    /// What was measured, where a scenario measures several things.
    pub(crate) name: String,
    /// Which repetition of it, from 1 on.
    pub(crate) repetition: usize,
    /// How long it took.
    pub(crate) seconds: f64,
    /// Microseconds of the server's processor time, per delivery.
    pub(crate) micros_per_delivery: Option<f64>,
    pub(crate) lanes: Vec<LaneView>,
    /// The server over time; empty where its process is not known.
    pub(crate) server: Vec<Use>,
}

/// One lane of it.
#[derive(Debug, Serialize)]
pub(crate) struct LaneView {
    pub(crate) name: &'static str,
    /// Events that the server took, had no room for, and was not sent.
    pub(crate) sent: u64,
    pub(crate) refused: u64,
    pub(crate) unsent: u64,
    pub(crate) deliveries: u64,
    /// From when an event was due to its arrival, by time of arrival.
    pub(crate) timeline: Vec<Point>,
    /// The same for all together: which part of the arrivals took at most how many milliseconds.
    pub(crate) percentiles: Vec<(f64, f64)>,
}

/// What the server used in the time before a moment.
#[derive(Debug, Serialize)]
pub(crate) struct Use {
    /// The moment, in seconds after the measurement's beginning.
    pub(crate) seconds: f64,
    /// Processors that it kept busy.
    pub(crate) processors: f64,
    /// Microseconds of a processor, per delivery that arrived in that time.
    pub(crate) micros_per_delivery: Option<f64>,
    /// Its resident memory, in bytes.
    pub(crate) resident: u64,
}

impl Measurement {
    pub(super) fn new(name: &str, repetition: usize, outcome: &Outcome) -> Self {
        let deliveries = outcome.report.deliveries;
        Self {
            name: name.to_owned(),
            repetition,
            seconds: outcome.seconds,
            micros_per_delivery: outcome
                .cpu_micros_per(deliveries)
                .filter(|_| deliveries > 0),
            lanes: outcome.lanes.iter().map(LaneView::new).collect(),
            server: outcome
                .samples
                .windows(2)
                .map(|two| Use::between(two[0], two[1], outcome))
                .collect(),
        }
    }
}

impl LaneView {
    fn new(lane: &LaneOutcome) -> Self {
        Self {
            name: lane.name,
            sent: lane.sent,
            refused: lane.refused,
            unsent: lane.unsent,
            deliveries: lane.deliveries.len(),
            timeline: lane.timeline.points(),
            percentiles: percentiles(&lane.deliveries),
        }
    }
}

impl Use {
    fn between(before: Sample, after: Sample, outcome: &Outcome) -> Self {
        let cpu = after.cpu.saturating_sub(before.cpu).as_secs_f64();
        let arrived = |moment| {
            outcome
                .lanes
                .iter()
                .map(|lane| lane.timeline.arrived_by(moment))
                .sum::<f64>()
        };
        let deliveries = arrived(after.at) - arrived(before.at);
        Self {
            seconds: after.at.saturating_sub(outcome.began) as f64 / 1e9,
            processors: cpu * 1e9 / after.at.saturating_sub(before.at).max(1) as f64,
            micros_per_delivery: (deliveries >= 1.0).then(|| cpu * 1e6 / deliveries),
            resident: after.resident,
        }
    }
}

/// Five steps for each halving of what is left, until nothing is.
fn percentiles(latencies: &Histogram<u64>) -> Vec<(f64, f64)> {
    let step = |value: hdrhistogram::iterators::IterationValue<u64>| {
        (
            value.quantile_iterated_to(),
            value.value_iterated_to() as f64 / 1e6,
        )
    };
    latencies
        .iter_quantiles(5)
        .map(step)
        .filter(|&(quantile, _)| quantile > 0.0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_reach_from_the_middle_to_the_last() {
        let mut latencies = Histogram::<u64>::new(3).unwrap();
        (1..=1000u64).for_each(|ms| latencies.record(ms * 1_000_000).unwrap());
        let percentiles = percentiles(&latencies);
        let at = |quantile: f64| percentiles.iter().find(|(q, _)| *q >= quantile).unwrap().1;
        assert!((at(0.5) - 500.0).abs() < 2.0 && (at(0.99) - 990.0).abs() < 6.0);
        assert!((percentiles.last().unwrap().1 - 1000.0).abs() < 2.0);
        assert!(
            percentiles
                .windows(2)
                .all(|two| two[0].0 <= two[1].0 && two[0].1 <= two[1].1)
        );
    }
}
