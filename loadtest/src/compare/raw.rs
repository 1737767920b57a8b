//! What was measured: one JSON text a line, written as it comes.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{contender::Contender, paths::Hidden};
use crate::error::{Doing, Result, failed};

/// Its name in a comparison's folder.
const NAME: &str = "raw.jsonl";

/// One scenario run in a process of its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Measurement {
    /// From 1 on.
    pub(super) round: usize,
    pub(super) phase: String,
    pub(super) server: Contender,
    /// When it began, in UTC.
    pub(super) at: String,
    /// How long it took, with all that is not measured.
    pub(super) seconds: f64,
    /// What this program was called with.
    pub(super) arguments: Vec<String>,
    /// The whole report of the scenario, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) findings: Option<Value>,
    /// Why there is none, or what is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl Measurement {
    /// A figure by the name that it has in the report.
    pub(super) fn figure(&self, name: &str) -> Option<f64> {
        let figures = self.findings.as_ref()?.get("figures")?.as_array()?;
        figures.iter().find(|figure| figure["name"] == name)?["median"].as_f64()
    }

    /// The unit of a figure.
    pub(super) fn unit(&self, name: &str) -> Option<&str> {
        let figures = self.findings.as_ref()?.get("figures")?.as_array()?;
        figures.iter().find(|figure| figure["name"] == name)?["unit"].as_str()
    }

    /// What the report counts under "faults", where it is not zero.
    pub(super) fn counted(&self) -> Vec<(&str, u64)> {
        let faults = self
            .findings
            .as_ref()
            .and_then(|findings| findings.get("faults")?.as_object());
        let counts = faults.into_iter().flatten();
        counts
            .filter_map(|(name, count)| Some((name.as_str(), count.as_u64().filter(|&n| n > 0)?)))
            .collect()
    }
}

/// The file that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    hidden: Hidden,
}

impl Writer {
    /// A new file in `folder`.
    pub(super) fn new(folder: &Path, hidden: Hidden) -> Result<Self> {
        let file = File::create_new(folder.join(NAME)).doing(format!("cannot write {NAME}"))?;
        Ok(Self { file, hidden })
    }

    /// Adds one; it is in the file when this returns.
    pub(super) fn add(&mut self, measurement: &Measurement) -> Result<()> {
        let line = serde_json::to_string(measurement)
            .map_err(std::io::Error::from)
            .doing("cannot write JSON")?;
        writeln!(self.file, "{}", self.hidden.in_text(&line)).doing(format!("cannot write {NAME}"))
    }
}

/// All that is in `folder`. A last line that was cut short is left out.
pub(super) fn read(folder: &Path) -> Result<Vec<Measurement>> {
    let path = folder.join(NAME);
    let text = fs::read_to_string(&path).doing(format!("cannot read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let parse = |(number, line)| match serde_json::from_str(line) {
        Ok(measurement) => Ok(measurement),
        Err(error) => failed(format!("{}:{}: {error}", path.display(), number + 1)),
    };
    whole.lines().enumerate().map(parse).collect()
}
