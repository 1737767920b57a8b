//! What is said while a comparison runs: how far it is, and when it will be done.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use super::{args::Extent, contender::Contender, plan::Step, raw::Measurement};

/// Handshakes a second, with what is around them.
const CONNECTS: f64 = 5000.0;

/// Knows how long measurements take, at first by guessing.
#[derive(Debug)]
pub(super) struct Progress<'s> {
    steps: &'s [Step],
    extent: Extent,
    /// How long the last one of its kind took.
    seen: HashMap<(String, Contender), f64>,
    /// How long all took, and how long they were guessed to take.
    took: (f64, f64),
}

impl<'s> Progress<'s> {
    pub(super) fn new(steps: &'s [Step], extent: Extent) -> Self {
        Self {
            steps,
            extent,
            seen: HashMap::new(),
            took: (0.0, 0.0),
        }
    }

    /// What is said first.
    pub(super) fn begin(&self) -> String {
        format!("{} measurements; {}", self.steps.len(), self.end(0))
    }

    /// What is said when the step `at` is done.
    pub(super) fn done(&mut self, at: usize, measurement: &Measurement) -> String {
        let step = &self.steps[at];
        self.took = (
            self.took.0 + measurement.seconds,
            self.took.1 + self.guess(step),
        );
        self.seen
            .insert((step.phase.name(), step.server), measurement.seconds);
        format!(
            "[{}/{}] round {}, {}, {}: {} ({:.1} s); {}",
            at + 1,
            self.steps.len(),
            step.round,
            step.phase.name(),
            step.server.name(),
            outcome(step, measurement),
            measurement.seconds,
            self.end(at + 1)
        )
    }

    /// When the steps from `at` on will be done.
    fn end(&self, at: usize) -> String {
        let left: f64 = self.steps[at..]
            .iter()
            .map(|step| self.expected(step))
            .sum();
        let left = Duration::from_secs(left.ceil() as u64);
        let end = humantime::format_rfc3339_seconds(SystemTime::now() + left).to_string();
        format!(
            "{} left, to {} UTC",
            humantime::format_duration(left),
            end.get(11..16).unwrap_or(&end)
        )
    }

    fn expected(&self, step: &Step) -> f64 {
        if let Some(&seconds) = self.seen.get(&(step.phase.name(), step.server)) {
            return seconds;
        }
        let (took, guessed) = self.took;
        self.guess(step) * if guessed > 0.0 { took / guessed } else { 1.0 }
    }

    fn guess(&self, step: &Step) -> f64 {
        let (fixed, durations) = step.phase.family.takes;
        let connecting = (step.phase.case.connections / self.extent.divisor) as f64 / CONNECTS;
        fixed + durations * self.extent.duration.as_secs_f64() + connecting
    }
}

/// The first and the last figure, or what went wrong.
fn outcome(step: &Step, measurement: &Measurement) -> String {
    let figures = step.phase.family.figures;
    let ends = figures
        .first()
        .into_iter()
        .chain(figures.last().filter(|_| figures.len() > 1));
    let shown = ends.filter_map(|figure| {
        let value = measurement.figure(figure.name)?;
        Some(format!(
            "{}: {}",
            figure.column,
            super::numbers::short(value)
        ))
    });
    let mut words: Vec<String> = shown.collect();
    words.extend(measurement.error.clone());
    words.join("; ")
}
