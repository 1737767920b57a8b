//! What the measurements say, phase by phase, server by server, and goal by goal.

use std::collections::BTreeMap;

use super::{
    contender::Contender,
    phases::{Goal, Phase, Quantity},
    raw::Measurement,
};

/// All measurements of a comparison.
#[derive(Debug)]
pub(super) struct Results<'m> {
    by: BTreeMap<String, BTreeMap<(Contender, usize), &'m Measurement>>,
}

impl<'m> Results<'m> {
    pub(super) fn new(measurements: &'m [Measurement]) -> Self {
        let mut by = BTreeMap::<_, BTreeMap<_, _>>::new();
        for measurement in measurements {
            let phase = by.entry(measurement.phase.clone()).or_default();
            phase.insert((measurement.server, measurement.round), measurement);
        }
        Self { by }
    }

    /// Those of one phase and server, by round.
    pub(super) fn of(
        &self,
        phase: Phase,
        server: Contender,
    ) -> impl Iterator<Item = &'m Measurement> {
        let of_phase = self.by.get(&phase.name()).into_iter().flatten();
        of_phase
            .filter(move |((other, _), _)| *other == server)
            .map(|(_, measurement)| *measurement)
    }

    /// A figure of every measurement in which nothing was wrong. Where there is none, of every one that has it: a
    /// server that always loses events is shown too, but is marked.
    pub(super) fn values(&self, phase: Phase, server: Contender, figure: &str) -> (Vec<f64>, bool) {
        let values = |clean: bool| {
            let of = self
                .of(phase, server)
                .filter(|measurement| !clean || measurement.error.is_none());
            of.filter_map(|measurement| measurement.figure(figure))
                .collect::<Vec<_>>()
        };
        let clean = values(true);
        if clean.is_empty() {
            (values(false), true)
        } else {
            (clean, false)
        }
    }

    /// Our figure over theirs, round by round, where both are without a fault.
    pub(super) fn ratios(&self, phase: Phase, figure: &str, other: Contender) -> Vec<f64> {
        let rounds = self.rounds(phase, Contender::Fanfare);
        rounds
            .filter_map(|round| self.ratio(phase, round, figure, [Contender::Fanfare, other]))
            .collect()
    }

    /// What a goal bounds in one of its phases, round by round.
    pub(super) fn bounded(&self, phase: Phase, goal: &Goal) -> Vec<f64> {
        let ours = match goal.quantity {
            Quantity::ByProtocol(_, ours, _) => ours,
            Quantity::Ours(_) | Quantity::Over(..) | Quantity::GrowthOver(..) => Contender::Fanfare,
        };
        let at = |round: usize| match goal.quantity {
            Quantity::Ours(figure) => self.clean(phase, ours, round, figure),
            Quantity::Over(figure, other) | Quantity::ByProtocol(figure, _, other) => {
                self.ratio(phase, round, figure, [ours, other])
            }
            Quantity::GrowthOver(figure, other) => {
                let first = Phase {
                    family: phase.family,
                    case: phase.family.cases.first()?,
                };
                let (before, after) = (
                    self.ratio(first, round, figure, [ours, other])?,
                    self.ratio(phase, round, figure, [ours, other])?,
                );
                quotient(after, before)
            }
        };
        self.rounds(phase, ours).filter_map(at).collect()
    }

    fn rounds(&self, phase: Phase, server: Contender) -> impl Iterator<Item = usize> {
        self.of(phase, server).map(|measurement| measurement.round)
    }

    fn clean(&self, phase: Phase, server: Contender, round: usize, figure: &str) -> Option<f64> {
        let mut all = self.of(phase, server);
        all.find(|other| other.round == round && other.error.is_none())?
            .figure(figure)
    }

    /// The figure of the first server over that of the second.
    fn ratio(
        &self,
        phase: Phase,
        round: usize,
        figure: &str,
        [ours, theirs]: [Contender; 2],
    ) -> Option<f64> {
        let ours = self.clean(phase, ours, round, figure)?;
        quotient(ours, self.clean(phase, theirs, round, figure)?)
    }
}

/// `over` `under`, if that is a number to reckon with: short measurements may use no time that the kernel counts.
fn quotient(over: f64, under: f64) -> Option<f64> {
    (over > 0.0 && under > 0.0).then(|| over / under)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A measurement with one figure.
    pub(in super::super) fn measured(
        round: usize,
        phase: &str,
        server: Contender,
        figure: &str,
        value: f64,
    ) -> Measurement {
        let findings = serde_json::json!({
            "figures": [{ "name": figure, "unit": "µs", "median": value, "values": [value] }],
            "faults": { "lost": 0, "refused": 0 },
        });
        Measurement {
            round,
            phase: phase.to_owned(),
            server,
            at: "2026-01-02T03:04:05Z".to_owned(),
            seconds: 3.1,
            arguments: Vec::new(),
            findings: Some(findings),
            error: None,
        }
    }

    const COST: &str = "server CPU per delivery";

    fn goal(phase: Phase, text: &str) -> &'static Goal {
        phase
            .family
            .goals
            .iter()
            .find(|goal| goal.text.contains(text))
            .unwrap()
    }

    #[test]
    fn ratios_are_of_the_same_round_and_without_faults() {
        let mut all = Vec::new();
        for (round, ours, theirs) in [(1, 1.0, 2.0), (2, 3.0, 3.0), (3, 5.0, 4.0), (4, 9.0, 0.0)] {
            all.push(measured(
                round,
                "flood/1000",
                Contender::Fanfare,
                COST,
                ours,
            ));
            all.push(measured(
                round,
                "flood/1000",
                Contender::UWebSockets,
                COST,
                theirs,
            ));
        }
        all.push(measured(5, "flood/1000", Contender::Fanfare, COST, 1.0));
        all[4].error = Some("faults".to_owned());
        let phase = Phase::find("flood/1000").unwrap();
        let results = Results::new(&all);
        assert_eq!(results.bounded(phase, goal(phase, "CPU")), [0.5, 1.0]);
        assert_eq!(
            results.values(phase, Contender::Fanfare, COST),
            (vec![1.0, 3.0, 9.0, 1.0], false)
        );
    }

    #[test]
    fn a_protocol_is_held_against_the_server_that_it_is_from() {
        let all: Vec<_> = [
            (1, Contender::Fanfare, 9.0),
            (1, Contender::FanfareSocketIo, 1.0),
            (1, Contender::SocketIo, 20.0),
            (2, Contender::FanfareSocketIo, 3.0),
            (2, Contender::SocketIo, 30.0),
        ]
        .map(|(round, server, value)| measured(round, "protocols/1000", server, COST, value))
        .into();
        let phase = Phase::find("protocols/1000").unwrap();
        assert_eq!(
            Results::new(&all).bounded(phase, goal(phase, "Socket.IO")),
            [0.05, 0.1]
        );
    }

    #[test]
    fn a_server_that_always_has_faults_is_shown_and_marked() {
        let mut one = measured(1, "flood/1000", Contender::Ws, COST, 7.0);
        one.error = Some("faults".to_owned());
        let all = [one];
        let phase = Phase::find("flood/1000").unwrap();
        assert_eq!(
            Results::new(&all).values(phase, Contender::Ws, COST),
            (vec![7.0], true)
        );
    }

    #[test]
    fn growth_is_from_the_first_case_to_the_last() {
        let all: Vec<_> = [
            ("serial/1000", Contender::Fanfare, 2.0),
            ("serial/1000", Contender::Floor, 2.0),
            ("serial/15000", Contender::Fanfare, 6.0),
            ("serial/15000", Contender::Floor, 4.0),
        ]
        .map(|(phase, server, value)| measured(1, phase, server, COST, value))
        .into();
        let phase = Phase::find("serial/15000").unwrap();
        assert_eq!(
            Results::new(&all).bounded(phase, goal(phase, "growth")),
            [1.5]
        );
    }
}
