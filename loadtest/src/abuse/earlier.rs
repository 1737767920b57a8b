//! What an earlier run found, as its JSON has it.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;

use super::{
    arms::Deeds,
    attack,
    outcome::{Memory, Outcome},
    waits::View,
};
use crate::error::{Doing, Result};

#[derive(Deserialize)]
struct Matrix {
    outcomes: Vec<Row>,
}

/// What of an outcome is not known from its attack.
#[derive(Deserialize)]
struct Row {
    attack: String,
    control: View,
    attacked: View,
    memory: Memory,
    deeds: Deeds,
    aftermath: Vec<String>,
}

/// The outcomes in the file at `path` that are green by the goals of today, by attack.
pub(super) fn green(path: &Path) -> Result<BTreeMap<&'static str, Outcome>> {
    let name = path.display();
    let text = fs::read_to_string(path).doing(format!("cannot read {name}"))?;
    let matrix: Matrix = serde_json::from_str(&text)
        .map_err(std::io::Error::from)
        .doing(format!("{name} is not what --json writes"))?;
    let judged = matrix.outcomes.into_iter().filter_map(|row| {
        let attack = attack::named(&row.attack)?;
        let mut outcome = Outcome {
            control: row.control,
            attacked: row.attacked,
            memory: row.memory,
            deeds: row.deeds,
            aftermath: row.aftermath,
            ..Outcome::new(&attack)
        };
        outcome.judge(&attack, true);
        outcome.is_green().then_some((attack.name, outcome))
    });
    Ok(judged.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_green_is_read_back_and_what_was_not_is_left_out() {
        let view = |p99: f64| {
            let seen = serde_json::json!({
                "count": 200, "median": 0.5, "p99": p99, "longest": p99, "refusals": {},
            });
            serde_json::json!({ "ping": seen, "other": seen })
        };
        let row = |attack: &str, p99: f64| {
            serde_json::json!({
                "attack": attack, "control": view(1.0), "attacked": view(p99),
                "memory": { "before": 1, "peak": 2, "after": 1 },
                "deeds": { "counts": { "calls": 3 }, "faults": [] }, "aftermath": [], "wrong": [],
            })
        };
        let matrix = serde_json::json!({
            "outcomes": [row("ping-flood", 2.0), row("pong-flood", 90.0), row("no-longer-there", 1.0)],
        });
        let path = std::env::temp_dir().join(format!("abuse-{}.json", std::process::id()));
        fs::write(&path, matrix.to_string()).unwrap();
        let green = green(&path).unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!(green.keys().copied().collect::<Vec<_>>(), ["ping-flood"]);
        assert_eq!(green["ping-flood"].deeds.counts["calls"], 3);
    }
}
