//! What a test found: figures by name, each measured several times, and what went wrong.

mod curves;
mod machine;
mod measurement;
mod page;
mod plot;
mod text;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use self::measurement::{Measurement, Use};
pub(crate) use self::{
    machine::{Machine, command_line},
    page::page,
};
use crate::{cli::Common, client, publisher::Outcome};

/// One scenario's findings.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    /// The scenario.
    pub(crate) scenario: &'static str,
    /// The command line, without secrets.
    pub(crate) command: Vec<String>,
    /// Where it was run, and when.
    pub(crate) machine: Machine,
    /// How often, and how long each time.
    pub(crate) measured: String,
    /// What it was run with.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// In the order of their first mention.
    pub(crate) figures: Vec<Figure>,
    /// What went wrong.
    pub(crate) faults: Faults,
    /// What the figures were made of.
    pub(crate) measurements: Vec<Measurement>,
}

/// One quantity, as often as it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) median: f64,
    pub(crate) values: Vec<f64>,
}

/// What must be zero, and what the server had no room for.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) reordered: u64,
    pub(crate) misdirected: u64,
    pub(crate) stray: u64,
    pub(crate) connections_ended: u64,
    /// How many of them the server closed with which code, such as `closed_with_4101`, or without any.
    #[serde(flatten)]
    pub(crate) endings: BTreeMap<String, u64>,
    /// Gone for the client, and not for the server.
    pub(crate) connections_left: u64,
    /// 503: said, so no fault, but figures of less load than meant.
    pub(crate) refused: u64,
    /// Due at a rate that the server did not keep up with, and never sent: said likewise.
    pub(crate) unsent: u64,
}

impl Figure {
    /// A value of it for people; counts have no decimals.
    fn text(&self, value: f64) -> String {
        let is_count = self.unit.is_empty() && self.values.iter().all(|value| value.fract() == 0.0);
        if is_count {
            format!("{value:.0}")
        } else {
            text::number(value)
        }
    }

    /// The least and the greatest value.
    fn range(&self) -> (f64, f64) {
        let widen = |(least, most): (f64, f64), &value: &f64| (least.min(value), most.max(value));
        self.values.iter().fold((f64::MAX, f64::MIN), widen)
    }
}

impl Findings {
    /// Nothing yet.
    pub(crate) fn new(
        scenario: &'static str,
        common: &Common,
        settings: Vec<(&'static str, String)>,
    ) -> Self {
        Self {
            scenario,
            command: machine::command_line(),
            machine: Machine::here(),
            measured: format!(
                "{} times {}",
                common.repeat,
                humantime::format_duration(common.duration)
            ),
            settings,
            figures: Vec::new(),
            faults: Faults::default(),
            measurements: Vec::new(),
        }
    }

    /// Keeps all of one measurement, and counts what went wrong in it. Without a name it is what the scenario is about.
    pub(crate) fn keep(&mut self, name: &str, outcome: &Outcome) {
        self.blame(outcome);
        let name = if name.is_empty() { self.scenario } else { name };
        let before = self
            .measurements
            .iter()
            .filter(|measurement| measurement.name == name)
            .count();
        self.measurements
            .push(Measurement::new(name, before + 1, outcome));
    }

    /// Adds one measurement of `name`.
    pub(crate) fn add(&mut self, name: impl Into<String>, unit: &'static str, value: f64) {
        let name = name.into();
        let at = self
            .figures
            .iter()
            .position(|figure| figure.name == name)
            .unwrap_or_else(|| {
                self.figures.push(Figure {
                    name,
                    unit,
                    median: 0.0,
                    values: Vec::new(),
                });
                self.figures.len() - 1
            });
        let figure = &mut self.figures[at];
        figure.values.push(value);
        figure.median = median(&figure.values);
    }

    /// Adds percentiles and the maximum of nanoseconds, in milliseconds.
    pub(crate) fn add_latencies(&mut self, name: &str, latencies: &Histogram<u64>) {
        if latencies.is_empty() {
            return;
        }
        for (label, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let value = latencies.value_at_quantile(quantile) as f64 / 1e6;
            self.add(format!("{name} {label}"), "ms", value);
        }
        self.add(format!("{name} max"), "ms", latencies.max() as f64 / 1e6);
    }

    /// Counts what went wrong in one measurement.
    pub(crate) fn blame(&mut self, outcome: &Outcome) {
        let client::Report {
            lost,
            duplicates,
            reordered,
            misdirected,
            stray,
            ended,
            ref ended_by,
            ..
        } = outcome.report;
        self.faults.lost += lost;
        self.faults.duplicates += duplicates;
        self.faults.reordered += reordered;
        self.faults.misdirected += misdirected;
        self.faults.stray += stray;
        // The counts go on from one measurement to the next, until the clients connect again.
        self.faults.connections_ended = self.faults.connections_ended.max(ended);
        for (code, &count) in ended_by {
            let name = match code {
                0 => "ended_without_a_close_frame".to_owned(),
                code => format!("closed_with_{code}"),
            };
            let most = self.faults.endings.entry(name).or_default();
            *most = count.max(*most);
        }
        self.faults.refused += outcome.lanes.iter().map(|lane| lane.refused).sum::<u64>();
        self.faults.unsent += outcome.lanes.iter().map(|lane| lane.unsent).sum::<u64>();
    }

    /// Whether every event came once, in order, to connections that stayed.
    pub(crate) fn is_clean(&self) -> bool {
        let Faults {
            lost,
            duplicates,
            reordered,
            misdirected,
            stray,
            ..
        } = self.faults;
        let Faults {
            connections_ended,
            connections_left,
            ..
        } = self.faults;
        lost + duplicates + reordered + misdirected + stray + connections_ended + connections_left
            == 0
    }
}

/// The middle of `values`.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (length, middle) if length % 2 == 1 => sorted[middle],
        (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_are_told_by_their_close_codes_once_for_the_same_clients() {
        let mut findings = Findings::new("test", &Common::for_tests(), Vec::new());
        let report = client::Report {
            ended: 3,
            ended_by: BTreeMap::from([(0, 1), (4101, 2)]),
            ..client::Report::default()
        };
        for _ in 0..2 {
            findings.blame(&Outcome {
                began: 0,
                seconds: 1.0,
                samples: Vec::new(),
                memory: None,
                sent: Vec::new(),
                report: report.clone(),
                lanes: Vec::new(),
            });
        }
        let faults = serde_json::to_value(&findings.faults).unwrap();
        assert_eq!(faults["connections_ended"], 3);
        assert_eq!(faults["closed_with_4101"], 2);
        assert_eq!(faults["ended_without_a_close_frame"], 1);
        assert!(
            findings
                .faults
                .to_string()
                .ends_with("; 2 closed with 4101; 1 ended without a close frame")
        );
    }

    #[test]
    fn a_figure_is_the_median_of_its_measurements() {
        let mut findings = Findings::new("test", &Common::for_tests(), Vec::new());
        for value in [3.0, 1.0, 2.0] {
            findings.add("a", "ms", value);
        }
        for value in [4.0, 1.0] {
            findings.add("b", "ms", value);
        }
        assert_eq!(
            findings
                .figures
                .iter()
                .map(|figure| figure.median)
                .collect::<Vec<_>>(),
            [2.0, 2.5]
        );
        assert!(findings.is_clean());
    }
}
