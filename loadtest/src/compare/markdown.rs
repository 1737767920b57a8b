//! A summary for readers.

use std::fmt::Write;

use super::{
    contender::Contender,
    goals,
    numbers::{spread, whole, with_interval},
    setup::Setup,
    summary::{Against, Row, Summary, Table, Trouble},
};

/// The whole page.
pub(super) fn page(summary: &Summary) -> String {
    let mut page = String::new();
    heading(&mut page, summary);
    goals::section(
        &mut page,
        &summary.goals,
        summary.setup.connections_divided_by,
    );
    baseline(&mut page, &summary.baseline);
    for table in &summary.families {
        family(&mut page, table);
    }
    skipped(&mut page, &summary.setup);
    page.push_str("\n## Faults\n\n");
    troubles(
        &mut page,
        &summary.faults,
        "None: every event came once, in order, and every connection stayed.\n",
    );
    if !summary.shortfalls.is_empty() {
        page.push_str(
            "\nLess load than was meant, which a server has said or shown, and which is no fault:\n\n",
        );
        troubles(&mut page, &summary.shortfalls, "");
    }
    repeat(&mut page, &summary.setup);
    page
}

/// Adds a line; writing to a string cannot fail.
fn line(page: &mut String, text: &str) {
    page.push_str(text);
    page.push('\n');
}

fn heading(page: &mut String, summary: &Summary) {
    let setup = &summary.setup;
    let _ = writeln!(page, "# Comparison of {}\n", setup.date());
    if setup.connections_divided_by > 1 {
        line(
            page,
            "**A quick one, to see that it works. Its figures mean nothing.**\n",
        );
    }
    if summary.measurements < setup.planned {
        let (measured, planned) = (whole(summary.measurements), whole(setup.planned));
        let _ = writeln!(
            page,
            "**Ended early: {measured} of {planned} measurements.**\n"
        );
    }
    let _ = writeln!(
        page,
        "{}, loopback, without TLS and compression; server, callers and clients share the cores, so compare ratios.  ",
        setup.machine.words()
    );
    let others = setup
        .servers
        .iter()
        .any(|present| !present.server.is_core());
    let others = if others {
        format!(
            " (the first {} with all servers)",
            setup.other_rounds.min(setup.rounds)
        )
    } else {
        String::new()
    };
    let _ = writeln!(
        page,
        "Rounds: {}{others}; in each, every load with one server directly after another, {} s each, in fresh processes.\n",
        setup.rounds, setup.duration_seconds
    );
    let versions: Vec<_> = setup
        .servers
        .iter()
        .map(|present| {
            let version = present.version.as_deref().unwrap_or("of unknown version");
            match (present.server, &setup.commit) {
                (Contender::Fanfare, Some(commit)) => {
                    format!("Fanfare {version} (commit {commit})")
                }
                (server, _) => format!("{} {version}", server.title()),
            }
        })
        .collect();
    let _ = writeln!(page, "{}.", versions.join(", "));
    line(
        page,
        "The bare loop is one `send` per connection and event with the frame ready-made, and nothing else.",
    );
}

fn baseline(page: &mut String, all: &[Against]) {
    if all.is_empty() {
        return;
    }
    line(page, "\n## Fanfare over the earlier one\n");
    line(
        page,
        "Medians over rounds of the ratio within a round, with their [intervals]; below 1 the newer one has less.\n",
    );
    line(page, "| load | figure | new over old |");
    line(page, "| --- | --- | --- |");
    for against in all {
        let ratio = with_interval(&against.spread, against.interval.as_ref());
        let _ = writeln!(page, "| {} | {} | {ratio} |", against.phase, against.figure);
    }
}

fn family(page: &mut String, table: &Table) {
    let _ = writeln!(page, "\n## {}\n", table.title);
    if !table.note.is_empty() {
        let _ = writeln!(page, "{}\n", table.note);
    }
    let Some(first) = table.rows.first() else {
        return;
    };
    let heads: Vec<_> = first.figures.iter().map(|figure| figure.column).collect();
    let numbered = first.case.parse::<usize>().is_ok();
    let head = if numbered { "connections" } else { "case" };
    let _ = writeln!(page, "| {head} | server | {} | rounds |", heads.join(" | "));
    let _ = writeln!(page, "| --- | --- |{} --- |", " ---: |".repeat(heads.len()));
    for row in &table.rows {
        let case = if numbered {
            whole(row.connections)
        } else {
            row.case.to_owned()
        };
        let figures = row
            .figures
            .iter()
            .map(|figure| figure.spread.as_ref().map_or("—".to_owned(), spread));
        let figures: Vec<_> = figures.collect();
        let mark = if row.faulty { " †" } else { "" };
        let server = row.server.title();
        let _ = writeln!(
            page,
            "| {case} | {server}{mark} | {} | {} |",
            figures.join(" | "),
            rounds(row)
        );
    }
    if table.rows.iter().any(|row| row.faulty) {
        line(page, "\n† All of its measurements had faults: see below.");
    }
}

/// How many rounds a row is made of, and how many there were.
fn rounds(row: &Row) -> String {
    let used = row
        .figures
        .first()
        .and_then(|figure| figure.spread)
        .map_or(0, |spread| spread.count);
    if used == row.rounds {
        used.to_string()
    } else {
        format!("{used} of {}", row.rounds)
    }
}

fn skipped(page: &mut String, setup: &Setup) {
    line(page, "\n## Skipped\n");
    if setup.skipped.is_empty() {
        line(page, "Nothing.");
    }
    for skipped in &setup.skipped {
        let _ = writeln!(
            page,
            "- {}: {}",
            skipped.what,
            skipped.why.replace('\n', " ")
        );
    }
}

fn troubles(page: &mut String, troubles: &[Trouble], none: &str) {
    if troubles.is_empty() {
        page.push_str(none);
    }
    for Trouble {
        phase,
        server,
        rounds,
        what,
    } in troubles
    {
        let numbers: Vec<_> = rounds.iter().map(ToString::to_string).collect();
        let rounds = if rounds.len() == 1 { "round" } else { "rounds" };
        let what = what.replace('\n', " ");
        let _ = writeln!(
            page,
            "- {phase}, {}, {rounds} {}: {what}",
            server.title(),
            numbers.join(", ")
        );
    }
}

fn repeat(page: &mut String, setup: &Setup) {
    let _ = writeln!(
        page,
        "\n## How to repeat\n\n    {}\n\nThe tables above again from the raw data: `fanfare-loadtest summarize` with this \
         folder. Figures are medians, with (the least–the most).",
        setup.command
    );
}
