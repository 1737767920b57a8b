//! The short table that a README carries.

use std::{fmt::Write, path::Path};

use super::{
    contender::Contender,
    numbers::{percent, short, whole, with_interval},
    phases::Phase,
    raw::Measurement,
    results::Results,
    setup::Setup,
    statistics::{interval, spread},
};

/// A line of the table: what it is about, the phase, and the figure.
type Line = (&'static str, &'static str, &'static str);

const PER_DELIVERY: &str = "server CPU per delivery";
const P99: &str = "request to arrival p99";

const LINES: &[Line] = &[
    (
        "flood of 128 B, CPU per delivery, µs",
        "flood/5000",
        PER_DELIVERY,
    ),
    ("flood of 128 B, p99, ms", "flood/5000", P99),
    (
        "one event at a time, CPU per delivery, µs",
        "serial/5000",
        PER_DELIVERY,
    ),
    (
        "to one connection, CPU per event, µs",
        "targeted/5000",
        "server CPU per event",
    ),
    (
        "CPU per handshake, µs",
        "handshakes/15000",
        "server CPU per handshake",
    ),
    (
        "memory per idle connection, bytes",
        "idle/15000",
        "resident memory per connection",
    ),
];

/// The servers of the table. The summary has the others.
const SHOWN: [Contender; 5] = [
    Contender::Fanfare,
    Contender::UWebSockets,
    Contender::SocketIo,
    Contender::Sockudo,
    Contender::Centrifugo,
];

/// Stands where nothing was measured.
const NOTHING: &str = "—";

/// Stands behind figures of measurements that had faults.
const MARK: &str = "†";

/// The table, of those who were there.
pub(super) fn table(setup: &Setup, measurements: &[Measurement], folder: &Path) -> String {
    let results = Results::new(measurements);
    let there: Vec<_> = SHOWN
        .into_iter()
        .filter(|server| {
            setup
                .servers
                .iter()
                .any(|present| present.server == *server)
        })
        .collect();
    let mut table = String::from("| load | connections |");
    for server in &there {
        let _ = write!(table, " {} |", server.title());
    }
    let _ = writeln!(
        table,
        " Fanfare over uWebSockets |\n| --- | ---: |{} --- |",
        " ---: |".repeat(there.len())
    );
    let mut levels = Vec::new();
    for (text, name, figure) in LINES {
        let Some(phase) = Phase::find(name) else {
            continue;
        };
        let cells: Vec<_> = there
            .iter()
            .map(|&server| cell(&results, phase, server, figure))
            .collect();
        if cells.iter().all(|cell| cell == NOTHING) {
            continue;
        }
        let _ = write!(
            table,
            "| {text} | {} |",
            whole(phase.case.connections / setup.connections_divided_by.max(1))
        );
        let ratios = results.ratios(phase, figure, Contender::UWebSockets);
        let (middle, interval) = (spread(&ratios), interval(&ratios));
        levels.extend(interval.map(|interval| (ratios.len(), interval.level)));
        let ratio = middle.map_or(NOTHING.to_owned(), |middle| {
            with_interval(&middle, interval.as_ref())
        });
        let _ = writeln!(table, " {} | {ratio} |", cells.join(" | "));
    }
    let marked = table.contains(MARK);
    let _ = writeln!(table, "\n{}", below(setup, levels, folder));
    if marked {
        let _ = writeln!(table, "{MARK}: every measurement had faults.");
    }
    table
}

fn cell(results: &Results<'_>, phase: Phase, server: Contender, figure: &str) -> String {
    let (values, faulty) = results.values(phase, server, figure);
    spread(&values).map_or(NOTHING.to_owned(), |spread| {
        if faulty {
            format!("{} {MARK}", short(spread.median))
        } else {
            short(spread.median)
        }
    })
}

/// What the figures are, and where all of them are.
fn below(setup: &Setup, mut levels: Vec<(usize, f64)>, folder: &Path) -> String {
    levels.sort_by_key(|(rounds, _)| std::cmp::Reverse(*rounds));
    levels.dedup_by_key(|(rounds, _)| *rounds);
    let levels: Vec<_> = levels
        .iter()
        .map(|(rounds, level)| format!("{} of {rounds} rounds", percent(*level)))
        .collect();
    let intervals = if levels.is_empty() {
        String::new()
    } else {
        format!(" with [intervals] ({})", levels.join(", "))
    };
    format!(
        "Medians, and medians of ratios within a round{intervals}; {}, {}. All of it: [summary]({}/summary.md).",
        setup.machine.words(),
        setup.date(),
        folder.display()
    )
}
