//! What a comparison found: made from its raw data alone, and so made again at any time.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    contender::{ALL, Contender},
    phases::{FAMILIES, Family, Phase},
    raw::Measurement,
    results::Results,
    setup::Setup,
    statistics::{Interval, Spread, Verdict, interval, judge, spread},
};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) setup: Setup,
    /// How many measurements there are; fewer than planned if it was interrupted.
    pub(super) measurements: usize,
    pub(super) goals: Vec<Judged>,
    /// Ours beside an earlier Fanfare, where one takes part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) baseline: Vec<Against>,
    pub(super) families: Vec<Table>,
    pub(super) faults: Vec<Trouble>,
    /// Less load than was meant: no fault, but to be known.
    pub(super) shortfalls: Vec<Trouble>,
}

/// A goal in one phase.
#[derive(Debug, Serialize)]
pub(super) struct Judged {
    pub(super) family: &'static str,
    pub(super) case: &'static str,
    pub(super) goal: &'static str,
    pub(super) at_most: f64,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) unit: &'static str,
    /// One number a round.
    pub(super) values: Vec<f64>,
    pub(super) spread: Option<Spread>,
    pub(super) interval: Option<Interval>,
    pub(super) verdict: Verdict,
}

/// A figure of ours over that of an earlier Fanfare.
#[derive(Debug, Serialize)]
pub(super) struct Against {
    pub(super) phase: String,
    pub(super) figure: &'static str,
    /// One number a round.
    pub(super) values: Vec<f64>,
    pub(super) spread: Spread,
    pub(super) interval: Option<Interval>,
}

/// All that was measured of one family.
#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) family: &'static str,
    pub(super) title: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(super) note: &'static str,
    pub(super) rows: Vec<Row>,
}

/// One server in one phase.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) case: &'static str,
    pub(super) connections: usize,
    pub(super) server: Contender,
    /// How many measurements there are.
    pub(super) rounds: usize,
    /// Whether each of them had faults; those with faults are left out otherwise.
    pub(super) faulty: bool,
    pub(super) figures: Vec<Shown>,
}

/// One figure.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    pub(super) name: &'static str,
    #[serde(skip)]
    pub(super) column: &'static str,
    pub(super) unit: String,
    pub(super) spread: Option<Spread>,
}

/// The same thing wrong in some rounds of one server in one phase.
#[derive(Debug, Serialize)]
pub(super) struct Trouble {
    pub(super) phase: String,
    pub(super) server: Contender,
    pub(super) rounds: Vec<usize>,
    pub(super) what: String,
}

/// Counts of the scenarios' reports that are no faults.
const SHORTFALLS: &[(&str, &str)] = &[
    ("refused", "refused (503)"),
    ("unsent", "due and never sent"),
];

impl Summary {
    pub(super) fn new(setup: Setup, measurements: &[Measurement]) -> Self {
        let results = Results::new(measurements);
        let divisor = setup.connections_divided_by.max(1);
        Self {
            goals: FAMILIES
                .iter()
                .flat_map(|family| goals(family, &results))
                .collect(),
            baseline: against_baseline(&results),
            families: FAMILIES
                .iter()
                .filter_map(|family| table(family, &results, divisor))
                .collect(),
            faults: faults(measurements),
            shortfalls: shortfalls(measurements),
            measurements: measurements.len(),
            setup,
        }
    }
}

fn phases(family: &'static Family) -> impl Iterator<Item = Phase> {
    family.cases.iter().map(move |case| Phase { family, case })
}

fn goals(family: &'static Family, results: &Results<'_>) -> Vec<Judged> {
    let pairs = family
        .goals
        .iter()
        .flat_map(|goal| phases(family).map(move |phase| (goal, phase)));
    // What was not called for is neither met nor missed.
    let measured = |phase: Phase| {
        ALL.iter()
            .any(|&server| results.of(phase, server).next().is_some())
    };
    pairs
        .filter(|(goal, phase)| goal.is_about(phase.case) && measured(*phase))
        .map(|(goal, phase)| {
            let values = results.bounded(phase, goal);
            Judged {
                family: family.name,
                case: phase.case.label,
                goal: goal.text,
                at_most: goal.at_most,
                unit: goal.unit,
                spread: spread(&values),
                interval: interval(&values),
                verdict: judge(&values, goal.at_most),
                values,
            }
        })
        .collect()
}

fn against_baseline(results: &Results<'_>) -> Vec<Against> {
    let phases = FAMILIES.iter().flat_map(phases);
    let figures = phases.flat_map(|phase| phase.family.figures.iter().map(move |of| (phase, of)));
    let against = figures.filter_map(|(phase, figure)| {
        let values = results.ratios(phase, figure.name, Contender::Baseline);
        Some(Against {
            phase: phase.name(),
            figure: figure.name,
            spread: spread(&values)?,
            interval: interval(&values),
            values,
        })
    });
    against.collect()
}

fn table(family: &'static Family, results: &Results<'_>, divisor: usize) -> Option<Table> {
    let rows: Vec<_> = phases(family)
        .flat_map(|phase| {
            ALL.iter()
                .filter_map(move |&server| row(phase, server, results, divisor))
        })
        .collect();
    let Family {
        name, title, note, ..
    } = *family;
    (!rows.is_empty()).then_some(Table {
        family: name,
        title,
        note,
        rows,
    })
}

fn row(phase: Phase, server: Contender, results: &Results<'_>, divisor: usize) -> Option<Row> {
    let rounds = results.of(phase, server).count();
    let mut faulty = false;
    let shown = phase.family.figures.iter().map(|figure| {
        let (values, all_faulty) = results.values(phase, server, figure.name);
        faulty |= all_faulty && !values.is_empty();
        let unit = results
            .of(phase, server)
            .find_map(|measurement| measurement.unit(figure.name));
        let unit = unit.unwrap_or_default().to_owned();
        Shown {
            name: figure.name,
            column: figure.column,
            unit,
            spread: spread(&values),
        }
    });
    let figures = shown.collect();
    let (case, connections) = (phase.case.label, phase.case.connections / divisor);
    (rounds > 0).then_some(Row {
        case,
        connections,
        server,
        rounds,
        faulty,
        figures,
    })
}

/// One thing wrong in one measurement, so many times; 0 where there is nothing to count.
type Wrong<'m> = (&'m Measurement, String, u64);

/// What ended measurements or was wrong in them, and figures that are missing where nothing was.
fn faults(measurements: &[Measurement]) -> Vec<Trouble> {
    let mut wrong: Vec<Wrong<'_>> = Vec::new();
    for measurement in measurements {
        let counted = measurement.counted();
        let faults = counted
            .iter()
            .filter(|(name, _)| SHORTFALLS.iter().all(|(other, _)| other != name));
        let before = wrong.len();
        wrong.extend(faults.map(|(name, count)| (measurement, name.replace('_', " "), *count)));
        match &measurement.error {
            Some(error) if wrong.len() == before => wrong.push((measurement, error.clone(), 0)),
            Some(_) => {}
            None => wrong.extend(missing(measurement).map(|what| (measurement, what, 0))),
        }
    }
    gather(wrong)
}

/// A figure that the findings should have had.
fn missing(measurement: &Measurement) -> Option<String> {
    let Some(phase) = Phase::find(&measurement.phase) else {
        return Some("a phase that is not in the table of phases any more".to_owned());
    };
    let mut figures = phase.family.figures.iter().map(|figure| figure.name);
    figures
        .find(|name| measurement.figure(name).is_none())
        .map(|name| format!("no figure “{name}”"))
}

fn shortfalls(measurements: &[Measurement]) -> Vec<Trouble> {
    let words = |name: &str| {
        SHORTFALLS
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, words)| *words)
    };
    let all = measurements.iter().flat_map(|measurement| {
        let counted = measurement.counted().into_iter();
        counted.filter_map(move |(name, count)| Some((measurement, words(name)?.to_owned(), count)))
    });
    gather(all.collect())
}

/// Puts together what happened in several rounds.
fn gather(wrong: Vec<Wrong<'_>>) -> Vec<Trouble> {
    let mut by = BTreeMap::<_, (Vec<usize>, u64)>::new();
    for (measurement, what, count) in wrong {
        let (rounds, sum) = by
            .entry((measurement.phase.clone(), measurement.server, what))
            .or_default();
        rounds.push(measurement.round);
        *sum += count;
    }
    let trouble = |((phase, server, what), (rounds, sum))| {
        let what = if sum > 0 {
            format!("{sum} {what}")
        } else {
            what
        };
        Trouble {
            phase,
            server,
            rounds,
            what,
        }
    };
    by.into_iter().map(trouble).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::results::tests::measured, *};

    #[test]
    fn faults_of_several_rounds_are_one_line() {
        let mut all: Vec<_> = (1..=3)
            .map(|round| {
                measured(
                    round,
                    "handshakes/15000",
                    Contender::Ws,
                    "server CPU per handshake",
                    1.0,
                )
            })
            .collect();
        for measurement in &mut all[..2] {
            measurement.error = Some("faults".to_owned());
            measurement.findings.as_mut().unwrap()["faults"] =
                serde_json::json!({ "lost": 4, "connections_ended": 0, "refused": 5 });
        }
        all[2].error = Some("it hung".to_owned());
        let said = |troubles: Vec<Trouble>| -> Vec<_> {
            troubles
                .into_iter()
                .map(|trouble| (trouble.rounds, trouble.what))
                .collect()
        };
        assert_eq!(
            said(faults(&all)),
            [(vec![3], "it hung".into()), (vec![1, 2], "8 lost".into())]
        );
        assert_eq!(
            said(shortfalls(&all)),
            [(vec![1, 2], "10 refused (503)".to_owned())]
        );
    }

    #[test]
    fn a_figure_that_is_missing_is_a_fault() {
        let all = [measured(
            1,
            "handshakes/15000",
            Contender::Ws,
            "another name",
            1.0,
        )];
        assert_eq!(faults(&all)[0].what, "no figure “server CPU per handshake”");
    }
}
