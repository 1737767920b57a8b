//! What a failure did, and what of that must not be.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{checker::Counts, failure::Failure, figure::Figure, presence::Presence, truth::Truth};

/// Seconds within which delivery must work again once Redis is back.
pub(super) const RECOVERY: f64 = 5.0;

/// Seconds in which a node may not know yet that something is broken.
pub(super) const NOTICE: f64 = 3.0;

/// Seconds for which a member may be listed after it has gone: a node's lease, and a look.
pub(super) const GHOSTS: f64 = 5.5;

/// Seconds for which someone may take a client for a member after it has gone without a word: the lease of its node, the time in which
/// it may come back, and a look.
pub(super) const MISLED: f64 = 10.5;

/// One failure's results.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Outcome {
    pub(super) failure: String,
    pub(super) description: String,
    /// Seconds from when what failed was back until every event of every node reached everyone in time, for good.
    pub(super) recovered_after: Option<f64>,
    /// Channels that keep their events.
    pub(super) kept: Counts,
    /// Channels that keep nothing.
    pub(super) live: Counts,
    /// Events that two subscribers saw at one place of a channel.
    pub(super) disagreements: u64,
    /// Requests to publish, by what became of them.
    pub(super) accepted: usize,
    pub(super) incomplete: usize,
    pub(super) refused: usize,
    pub(super) unanswered: usize,
    pub(super) truth: Truth,
    pub(super) presence: Presence,
    /// How often a subscriber was told that a member has left, and how often of that it was connected.
    pub(super) leaves: (usize, usize),
    /// Figures of this failure alone.
    pub(super) figures: Vec<Figure>,
    /// What must never be, in words.
    pub(super) wrong: Vec<String>,
    /// What took longer than its goal, in words. A busy machine alone can cause it.
    pub(super) late: Vec<String>,
}

impl Outcome {
    /// That of a failure which could not be carried out, and why.
    pub(super) fn impossible(failure: Failure, why: String) -> Self {
        let (failure, description) = (failure.name(), failure.description());
        Self {
            failure,
            description,
            wrong: vec![why],
            ..Self::default()
        }
    }

    /// Whether nothing is wrong and nothing was late.
    pub(super) fn is_met(&self) -> bool {
        self.wrong.is_empty() && self.late.is_empty()
    }

    /// All that is wrong and all that was late, in words.
    fn complaints(&self) -> String {
        [&self.wrong[..], &self.late].concat().join("; ")
    }

    /// Holds the figures against the goals.
    pub(super) fn judge(&mut self, failure: Failure) {
        let mut wrong = Vec::new();
        if self.recovered_after.is_none() {
            wrong.push("delivery never works again".to_owned());
        }
        self.judge_counts(failure, &mut wrong);
        if self.accepted == 0 {
            wrong.push("no event was taken".to_owned());
        }
        wrong.extend(self.figures.iter().filter_map(Figure::wrong));
        self.wrong = wrong;
        self.late = self.judge_times(failure);
    }

    /// Holds the times against their goals.
    fn judge_times(&self, failure: Failure) -> Vec<String> {
        let mut late = Vec::new();
        if let Some(seconds) = self.recovered_after
            && seconds > RECOVERY
        {
            late.push(format!(
                "delivery works again after {seconds:.1} s, not {RECOVERY} s"
            ));
        }
        if self.presence.ghost_seconds > GHOSTS {
            let seconds = self.presence.ghost_seconds;
            late.push(format!(
                "a member that had gone was listed for {seconds:.1} s, not {GHOSTS} s at most"
            ));
        }

        if self.presence.misled_seconds > MISLED {
            let seconds = self.presence.misled_seconds;
            late.push(format!(
                "a subscriber took someone for a member who had gone for {seconds:.1} s, not {MISLED} s at most"
            ));
        }
        late.extend(self.figures.iter().filter_map(Figure::late));

        let refusing = if failure.may_refuse_some() {
            0.0
        } else {
            self.truth.ready_while_refusing
        };
        for (seconds, what) in [
            (self.truth.ready_while_deaf, "lost events"),
            (refusing, "refused events"),
        ] {
            if seconds > NOTICE {
                late.push(format!(
                    "nodes said for {seconds:.1} s that they were ready, and {what}"
                ));
            }
        }
        late
    }

    /// Holds what must never happen against none.
    fn judge_counts(&self, failure: Failure, wrong: &mut Vec<String>) {
        let Self { kept, live, .. } = *self;
        for (count, what) in [
            (
                kept.lost,
                "lost on channels that keep events, without a word",
            ),
            (kept.duplicated, "repeated on channels that keep events"),
            (kept.reordered, "out of order on channels that keep events"),
            (live.duplicated, "repeated"),
            (live.reordered, "out of order"),
            (
                kept.phantom,
                "delivered although refused, on channels that keep events",
            ),
            (live.phantom, "delivered although refused"),
            (
                self.disagreements,
                "at different places for different subscribers",
            ),
            (
                if failure == Failure::Calm {
                    live.lost
                } else {
                    0
                },
                "lost although nothing failed",
            ),
            (
                if failure.may_end_a_lease() {
                    0
                } else {
                    self.leaves.1 as u64
                },
                "times a member was said to have left, and was there",
            ),
            (
                self.presence.misled as u64,
                "members that a subscriber has wrong",
            ),
            (self.presence.ghosts as u64, "ghosts among the members"),
            (self.presence.unlisted as u64, "members not listed"),
            (
                self.presence.unanswered as u64,
                "lists of members not to be had",
            ),
        ] {
            if count > 0 {
                wrong.push(format!("{count} {what}"));
            }
        }
    }

    fn own_figures(&self) -> String {
        let figures = self.figures.iter().map(ToString::to_string);
        figures.collect::<Vec<_>>().join(", ")
    }

    /// Its cells in a table: text, and how each column is called.
    fn cells(&self) -> [(&'static str, String); 16] {
        let seconds = |value: Option<f64>| {
            value.map_or_else(|| "never".to_owned(), |value| format!("{value:.1} s"))
        };
        let Self {
            kept,
            live,
            truth,
            presence,
            ..
        } = self;
        [
            ("failure", self.failure.clone()),
            ("works again after", seconds(self.recovered_after)),
            ("lost, kept", kept.lost.to_string()),
            ("told, kept", kept.told.to_string()),
            (
                "lost, live",
                format!("{} of {}", live.lost + live.told, live.expected),
            ),
            ("repeated", (kept.duplicated + live.duplicated).to_string()),
            (
                "out of order",
                (kept.reordered + live.reordered).to_string(),
            ),
            (
                "refused",
                (self.refused + self.incomplete + self.unanswered).to_string(),
            ),
            (
                "ready while deaf",
                format!("{:.1} s", truth.ready_while_deaf),
            ),
            (
                "ready while refusing",
                format!("{:.1} s", truth.ready_while_refusing),
            ),
            ("ghosts for", format!("{:.1} s", presence.ghost_seconds)),
            (
                "unlisted for",
                format!("{:.1} s", presence.unlisted_seconds),
            ),
            ("misled for", format!("{:.1} s", presence.misled_seconds)),
            ("false leaves", self.leaves.1.to_string()),
            ("of its own", self.own_figures()),
            (
                "verdict",
                if self.is_met() {
                    "met".to_owned()
                } else {
                    "not met".to_owned()
                },
            ),
        ]
    }
}

/// A table for people.
pub(super) struct Table<'o>(pub(super) &'o [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.0.iter().map(Outcome::cells).collect();
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let width = |at: usize| {
            rows.iter()
                .map(|row| row[at].1.len())
                .max()
                .unwrap_or(0)
                .max(first[at].0.len())
        };
        let widths: Vec<usize> = (0..first.len()).map(width).collect();
        let mut line = String::new();
        for (at, (name, _)) in first.iter().enumerate() {
            write!(line, "{name:<0$}  ", widths[at])?;
        }
        writeln!(f, "{}", line.trim_end())?;
        for row in &rows {
            line.clear();
            for (at, (_, cell)) in row.iter().enumerate() {
                write!(line, "{cell:<0$}  ", widths[at])?;
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        for outcome in self.0.iter().filter(|outcome| !outcome.is_met()) {
            writeln!(f, "{}: {}", outcome.failure, outcome.complaints())?;
        }
        Ok(())
    }
}

/// The same for a page of the documentation, with the command that repeats each line.
pub(super) fn markdown(outcomes: &[Outcome]) -> String {
    let mut page = String::new();
    let Some(first) = outcomes.first() else {
        return page;
    };
    let names: Vec<&str> = first.cells().iter().map(|(name, _)| *name).collect();
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    page += &line(
        &names
            .iter()
            .map(|&name| name.to_owned())
            .collect::<Vec<_>>(),
    );
    page += &line(&vec!["---".to_owned(); names.len()]);
    for outcome in outcomes {
        page += &line(&outcome.cells().map(|(_, cell)| cell));
    }
    page += "\n";
    for outcome in outcomes {
        let Outcome {
            failure,
            description,
            ..
        } = outcome;
        let verdict = if outcome.is_met() {
            String::new()
        } else {
            format!(" **{}.**", outcome.complaints())
        };
        let command = format!("fanfare-loadtest failures --only {failure}");
        let _ = writeln!(page, "- `{failure}`: {description}.{verdict} `{command}`");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Outcome {
        Outcome {
            failure: Failure::Restart.name(),
            description: Failure::Restart.description(),
            recovered_after: Some(1.24),
            kept: Counts {
                expected: 100,
                ..Counts::default()
            },
            live: Counts {
                expected: 100,
                lost: 7,
                ..Counts::default()
            },
            disagreements: 0,
            accepted: 100,
            incomplete: 0,
            refused: 12,
            unanswered: 0,
            truth: Truth::default(),
            presence: Presence {
                ghost_seconds: 4.9,
                unlisted_seconds: 20.0,
                ..Presence::default()
            },
            leaves: (3, 0),
            figures: Vec::new(),
            wrong: Vec::new(),
            late: Vec::new(),
        }
    }

    fn wrong(failure: Failure, change: impl FnOnce(&mut Outcome)) -> Vec<String> {
        let mut outcome = good();
        change(&mut outcome);
        outcome.judge(failure);
        outcome.wrong
    }

    fn late(change: impl FnOnce(&mut Outcome)) -> Vec<String> {
        let mut outcome = good();
        change(&mut outcome);
        outcome.judge(Failure::Restart);
        assert_eq!(outcome.wrong, Vec::<String>::new());
        outcome.late
    }

    #[test]
    fn what_is_kept_nowhere_may_be_lost_while_something_fails() {
        assert_eq!(wrong(Failure::Restart, |_| {}), Vec::<String>::new());
        assert_eq!(wrong(Failure::Calm, |_| {}).len(), 1);
        let mut without_memory = good();
        without_memory.truth.ready_while_refusing = 5.0;
        without_memory.judge(Failure::Memory);
        assert!(without_memory.is_met());
        assert_eq!(
            wrong(Failure::NodePaused, |outcome| outcome.leaves = (1, 1)),
            Vec::<String>::new()
        );
    }

    #[test]
    fn whatever_must_not_be_is_named() {
        let changes: [fn(&mut Outcome); 15] = [
            |outcome| outcome.recovered_after = None,
            |outcome| outcome.kept.lost = 1,
            |outcome| outcome.kept.duplicated = 1,
            |outcome| outcome.kept.reordered = 1,
            |outcome| outcome.live.duplicated = 1,
            |outcome| outcome.live.reordered = 1,
            |outcome| outcome.kept.phantom = 1,
            |outcome| outcome.disagreements = 1,
            |outcome| outcome.presence.ghosts = 1,
            |outcome| outcome.presence.unlisted = 1,
            |outcome| outcome.live.phantom = 1,
            |outcome| outcome.accepted = 0,
            |outcome| outcome.leaves = (2, 1),
            |outcome| outcome.presence.misled = 1,
            |outcome| outcome.figures = vec![Figure::at_most("asked for in vain", 2, 1)],
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert_eq!(wrong(Failure::Restart, change).len(), 1, "change {at}");
        }
    }

    #[test]
    fn whatever_takes_too_long_is_named_apart() {
        let changes: [fn(&mut Outcome); 6] = [
            |outcome| outcome.recovered_after = Some(5.1),
            |outcome| outcome.presence.ghost_seconds = 6.1,
            |outcome| outcome.truth.ready_while_deaf = 3.1,
            |outcome| outcome.truth.ready_while_refusing = 3.1,
            |outcome| outcome.presence.misled_seconds = 10.6,
            |outcome| outcome.figures = vec![Figure::within("p99 elsewhere", 51.0, "ms", 50.0)],
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert_eq!(late(change).len(), 1, "change {at}");
        }
    }

    #[test]
    fn tables_have_a_line_for_each_failure_and_say_what_is_wrong() {
        let mut bad = good();
        bad.kept.lost = 3;
        bad.judge(Failure::Restart);
        let outcomes = [good(), bad];
        let text = Table(&outcomes).to_string();
        assert!(
            text.lines().count() == 4
                && text.contains("1.2 s")
                && text.contains("3 lost on channels"),
            "{text}"
        );
        let page = markdown(&outcomes);
        assert!(
            page.starts_with("| failure | works again after |"),
            "{page}"
        );
        assert!(
            page.contains("`fanfare-loadtest failures --only restart`")
                && page.contains("**3 lost"),
            "{page}"
        );
    }
}
