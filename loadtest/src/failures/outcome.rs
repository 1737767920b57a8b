//! What a failure did, and what of that must not be.

use std::fmt::{self, Write as _};

use serde::Serialize;

use super::{checker::Counts, failure::Failure, presence::Presence, truth::Truth};

/// Seconds within which delivery must work again once Redis is back.
pub(super) const RECOVERY: f64 = 5.0;

/// Seconds in which a node may not know yet that something is broken.
pub(super) const NOTICE: f64 = 3.0;

/// Seconds for which a member may be listed after it has gone: a node's lease, and a look.
pub(super) const GHOSTS: f64 = 5.5;

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
    /// What must not be, in words.
    pub(super) wrong: Vec<String>,
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

    /// Holds the figures against the goals.
    pub(super) fn judge(&mut self, failure: Failure) {
        let mut wrong = Vec::new();
        match self.recovered_after {
            None => wrong.push("delivery never works again".to_owned()),
            Some(seconds) if seconds > RECOVERY => {
                wrong.push(format!(
                    "delivery works again after {seconds:.1} s, not {RECOVERY} s"
                ));
            }
            Some(_) => {}
        }
        self.judge_counts(failure, &mut wrong);

        // Without memory Redis keeps nothing, and that is refused; all else is delivered, so nodes may be ready.
        let refusing = if failure == Failure::Memory {
            0.0
        } else {
            self.truth.ready_while_refusing
        };
        if self.presence.ghost_seconds > GHOSTS {
            let seconds = self.presence.ghost_seconds;
            wrong.push(format!(
                "a member that had gone was listed for {seconds:.1} s, not {GHOSTS} s at most"
            ));
        }
        for (seconds, what) in [
            (self.truth.ready_while_deaf, "lost events"),
            (refusing, "refused events"),
        ] {
            if seconds > NOTICE {
                wrong.push(format!(
                    "nodes said for {seconds:.1} s that they were ready, and {what}"
                ));
            }
        }
        if self.accepted == 0 {
            wrong.push("no event was taken".to_owned());
        }
        self.wrong = wrong;
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

    /// Its cells in a table: text, and how each column is called.
    fn cells(&self) -> [(&'static str, String); 13] {
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
            (
                "verdict",
                if self.wrong.is_empty() {
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
        for outcome in self.0.iter().filter(|outcome| !outcome.wrong.is_empty()) {
            writeln!(f, "{}: {}", outcome.failure, outcome.wrong.join("; "))?;
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
    for Outcome {
        failure,
        description,
        wrong,
        ..
    } in outcomes
    {
        let verdict = if wrong.is_empty() {
            String::new()
        } else {
            format!(" **{}.**", wrong.join("; "))
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
            wrong: Vec::new(),
        }
    }

    fn wrong(failure: Failure, change: impl FnOnce(&mut Outcome)) -> Vec<String> {
        let mut outcome = good();
        change(&mut outcome);
        outcome.judge(failure);
        outcome.wrong
    }

    #[test]
    fn what_is_kept_nowhere_may_be_lost_while_something_fails() {
        assert_eq!(wrong(Failure::Restart, |_| {}), Vec::<String>::new());
        assert_eq!(wrong(Failure::Calm, |_| {}).len(), 1);
        assert_eq!(
            wrong(Failure::Memory, |outcome| outcome
                .truth
                .ready_while_refusing = 5.0),
            Vec::<String>::new()
        );
    }

    #[test]
    fn whatever_must_not_be_is_named() {
        let changes: [fn(&mut Outcome); 16] = [
            |outcome| outcome.recovered_after = None,
            |outcome| outcome.recovered_after = Some(5.1),
            |outcome| outcome.kept.lost = 1,
            |outcome| outcome.kept.duplicated = 1,
            |outcome| outcome.kept.reordered = 1,
            |outcome| outcome.live.duplicated = 1,
            |outcome| outcome.live.reordered = 1,
            |outcome| outcome.kept.phantom = 1,
            |outcome| outcome.disagreements = 1,
            |outcome| outcome.presence.ghosts = 1,
            |outcome| outcome.presence.unlisted = 1,
            |outcome| outcome.presence.ghost_seconds = 6.1,
            |outcome| outcome.live.phantom = 1,
            |outcome| outcome.truth.ready_while_deaf = 3.1,
            |outcome| outcome.truth.ready_while_refusing = 3.1,
            |outcome| outcome.accepted = 0,
        ];
        for (at, change) in changes.into_iter().enumerate() {
            assert_eq!(wrong(Failure::Restart, change).len(), 1, "change {at}");
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
