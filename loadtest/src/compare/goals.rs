//! The goals of a summary, for readers.

use std::fmt::Write;

use super::{
    numbers::{percent, short, whole, with_interval},
    statistics::Verdict,
    summary::Judged,
};

/// Adds the section.
pub(super) fn section(page: &mut String, goals: &[Judged], divisor: usize) {
    page.push_str("\n## Goals\n\n");
    let count = |verdict| goals.iter().filter(|goal| goal.verdict == verdict).count();
    let (met, by_median, missed) = (
        count(Verdict::Met),
        count(Verdict::MetByMedian),
        count(Verdict::Missed),
    );
    let unmeasured = match count(Verdict::Unmeasured) {
        0 => String::new(),
        n => format!(", {n} not measured"),
    };
    let _ = writeln!(
        page,
        "Of {}: {met} met, {by_median} met by the median, {missed} missed{unmeasured}.\n\n\
         Measured is the median over rounds, with its [interval]; a ratio is ours over theirs in the same round. *Met*: \
         all of the interval is at most the goal. *Met by the median*: the median is.{}",
        goals.len(),
        levels(goals)
    );
    let (wide, single): (Vec<_>, Vec<_>) =
        same(goals).into_iter().partition(|cases| cases.len() > 1);
    for alike in wide.chunk_by(|one, other| labels(one).eq(labels(other))) {
        by_case(page, alike, divisor);
    }
    one_by_one(page, &single);
}

/// The same goal in all its cases stands together.
fn same(goals: &[Judged]) -> Vec<&[Judged]> {
    goals
        .chunk_by(|one, other| (one.family, one.goal) == (other.family, other.goal))
        .collect()
}

fn labels(cases: &[Judged]) -> impl Iterator<Item = &'static str> {
    cases.iter().map(|goal| goal.case)
}

/// Goals that several cases have: a line each, with a column for each case. All have the same cases.
fn by_case(page: &mut String, wide: &[&[Judged]], divisor: usize) {
    let Some(first) = wide.first() else { return };
    let head = |case: &str| match case.parse::<usize>() {
        Ok(connections) => format!("N = {}", whole(connections / divisor)),
        Err(_) => case.to_owned(),
    };
    let heads: Vec<_> = first.iter().map(|goal| head(goal.case)).collect();
    let _ = writeln!(page, "\n| load | goal | at most | {} |", heads.join(" | "));
    let _ = writeln!(page, "| --- | --- | --- |{}", " --- |".repeat(heads.len()));
    for cases in wide {
        let cells: Vec<_> = cases
            .iter()
            .map(|goal| format!("{}, {}", measured(goal), verdict(goal.verdict)))
            .collect();
        let _ = writeln!(page, "{} {} |", start(&cases[0]), cells.join(" | "));
    }
}

fn one_by_one(page: &mut String, single: &[&[Judged]]) {
    if single.is_empty() {
        return;
    }
    page.push_str(
        "\n| load | goal | at most | measured | verdict |\n| --- | --- | --- | --- | --- |\n",
    );
    for goal in single.iter().copied().flatten() {
        let _ = writeln!(
            page,
            "{} {} | {} |",
            start(goal),
            measured(goal),
            verdict(goal.verdict)
        );
    }
}

/// The first three cells of a line.
fn start(goal: &Judged) -> String {
    let at_most = format!("{} {}", short(goal.at_most), goal.unit);
    format!("| {} | {} | {} |", goal.family, goal.goal, at_most.trim())
}

fn measured(goal: &Judged) -> String {
    goal.spread.map_or_else(
        || "—".to_owned(),
        |spread| with_interval(&spread, goal.interval.as_ref()),
    )
}

fn verdict(verdict: Verdict) -> String {
    match verdict {
        Verdict::Missed => format!("**{}**", verdict.words()),
        _ => verdict.words().to_owned(),
    }
}

/// How sure the intervals are: it depends on how many rounds they are made of.
fn levels(goals: &[Judged]) -> String {
    let made = goals
        .iter()
        .filter_map(|goal| Some((goal.spread?.count, goal.interval?.level)));
    let mut made: Vec<_> = made.collect();
    made.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    made.dedup_by_key(|(count, _)| *count);
    let words: Vec<_> = made
        .iter()
        .map(|(count, level)| format!("{} where it is made of {count} rounds", percent(*level)))
        .collect();
    if words.is_empty() {
        return " There are no intervals: these are too few rounds.".to_owned();
    }
    format!(
        " An interval holds the true median with {}.",
        words.join(", ")
    )
}
