//! The outcomes for people: a table for the terminal, and the page of the documentation.

use std::fmt::{self, Write as _};

use super::{
    attack::MIB,
    outcome::{FLOOR, LONGEST_FLOOR, NEWCOMER_FLOOR, Outcome, RATIO},
};
use crate::report::Machine;

/// A table for a terminal.
pub(super) struct Table<'o>(pub(super) &'o [Outcome]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.0.iter().map(Outcome::cells).collect();
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let width = |at: usize| {
            let cells = rows.iter().map(|row| row[at].1.chars().count());
            cells.max().unwrap_or(0).max(first[at].0.chars().count())
        };
        let widths: Vec<usize> = (0..first.len()).map(width).collect();
        let mut line = |cells: Vec<&str>| {
            let mut text = String::new();
            for (cell, width) in cells.iter().zip(&widths) {
                let _ = write!(text, "{cell:<width$}  ");
            }
            writeln!(f, "{}", text.trim_end())
        };
        line(first.iter().map(|(name, _)| *name).collect())?;
        for row in &rows {
            line(row.iter().map(|(_, cell)| &**cell).collect())?;
        }
        for outcome in self.0.iter().filter(|outcome| !outcome.is_green()) {
            writeln!(f, "{}: {}", outcome.attack, outcome.wrong.join("; "))?;
        }
        Ok(())
    }
}

/// The page `docs/internals/abuse.md`.
pub(super) fn markdown(outcomes: &[Outcome], machine: &Machine, seconds: [u64; 2]) -> String {
    let [duration, settle] = seconds;
    let mut page = String::from(
        "# What attacks do to others\n\n\
         Each row is one attack on a server, by processes that give way to all others. A witness looks on, with clients and callers of its \
         own. This page is written by:\n\n\
         ```sh,not-run\n\
         fanfare-loadtest abuse --server-binary target/release/fanfare --markdown docs/internals/abuse.md\n\
         ```\n\n\
         `fanfare-loadtest abuse NAME` repeats one row.\n\n",
    );
    table(&mut page, outcomes);
    let _ = write!(
        page,
        "\n*Waits*: 50 times a second each, the witness sends a ping, has a function send its client an event, and asks `/healthz`. Each wait \
         counts from when it was due. The worst of the three is shown. *Control*: the same waits at the same server while the same attack hits \
         another Fanfare process on this machine. *Ratios*: the waits over those of the control, where p99 counts as {FLOOR} ms at least and \
         the longest as {LONGEST_FLOOR} ms, since scheduling alone makes as much. *MiB*: resident memory of the server before the attack, at \
         its peak, and {settle} s after it, or as soon as all but 1 MiB is back. *Other app*: a second app of the same server, which sends an event through a filter 50 times a \
         second, with an `Idempotency-Key`.\n\n\
         A row is green if both ratios are at most {RATIO}, the memory stays within what the row allows, the other app is never refused and \
         waits at most {RATIO} times as long, new clients get in (in {NEWCOMER_FLOOR} ms, or {RATIO} times the control), and afterwards a new \
         client gets its event, the counters balance, `/readyz` is 200, and SIGTERM ends the server in time.\n\n\
         Each attack lasts {duration} s. Attackers, server and witness share the machine's processors. So a row cannot show what an attack \
         costs the processor: an attack that makes the server work takes that work from the witness's server in one case, and from \
         another one in the control. It shows whether others wait for what they have no part in.\n\n"
    );
    for outcome in outcomes {
        item(&mut page, outcome);
    }
    let Machine {
        cpu,
        cores,
        kernel,
        date,
    } = machine;
    let day = date.get(..10).unwrap_or(date);
    let _ = write!(
        page,
        "\nMeasured on {day} on {cores} cores ({cpu}), {kernel}. One run of each.\n"
    );
    page
}

fn table(page: &mut String, outcomes: &[Outcome]) {
    let Some(first) = outcomes.first() else {
        return;
    };
    let mut line = |cells: Vec<String>| {
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    };
    let names = first.cells().map(|(name, _)| name.to_owned());
    line(names.to_vec());
    line(vec!["---".to_owned(); names.len()]);
    for outcome in outcomes {
        line(outcome.cells().map(|(_, cell)| cell).to_vec());
    }
}

/// What one attack is, and what it may add.
fn item(page: &mut String, outcome: &Outcome) {
    let [peak, after] = [outcome.peak_allowed, outcome.after_allowed].map(|bytes| bytes / MIB);
    let [why, why_after] = outcome.why;
    let verdict = if outcome.is_green() {
        String::new()
    } else {
        format!(" **{}.**", outcome.wrong.join("; "))
    };
    let _ = writeln!(
        page,
        "- `{}`: {}. Against: {}. Allowed: {peak} MiB ({why}), afterwards {after} MiB ({why_after}).{verdict}",
        outcome.attack, outcome.does, outcome.against
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abuse::attack::Attack;

    #[test]
    fn tables_have_a_line_for_each_attack_and_say_what_is_wrong() {
        let good = Outcome::new(&Attack {
            name: "good",
            ..Attack::PLAIN
        });
        let bad = Outcome::impossible(
            &Attack {
                name: "bad",
                ..Attack::PLAIN
            },
            "it fell over".to_owned(),
        );
        let outcomes = [good, bad];
        let text = Table(&outcomes).to_string();
        assert_eq!(text.lines().count(), 4, "{text}");
        assert!(text.contains("bad: it fell over"), "{text}");

        let page = markdown(&outcomes, &Machine::here(), [4, 20]);
        assert!(
            page.contains("| good |") && page.contains("| bad |"),
            "{page}"
        );
        assert!(page.contains("**it fell over.**"), "{page}");
        assert!(
            page.contains("fanfare-loadtest abuse --server-binary"),
            "{page}"
        );
    }
}
