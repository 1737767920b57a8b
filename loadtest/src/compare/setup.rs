//! What a comparison was made with: written before the first measurement.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

use super::{contender::Contender, machine::Machine, paths::Hidden};
use crate::error::{Doing, Result};

/// Its name in a comparison's folder.
const NAME: &str = "setup.json";

/// All that the figures do not say themselves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    /// When it began, in UTC.
    pub(super) at: String,
    pub(super) machine: Machine,
    /// What does the same again.
    pub(super) command: String,
    /// The commit of the sources around the Fanfare that was measured, if they are known.
    pub(super) commit: Option<String>,
    pub(super) servers: Vec<Present>,
    pub(super) skipped: Vec<Skipped>,
    pub(super) rounds: usize,
    pub(super) other_rounds: usize,
    pub(super) duration_seconds: f64,
    /// More than 1 in a quick comparison, which nothing can be learned from.
    pub(super) connections_divided_by: usize,
    /// How many measurements there are, unless it is interrupted.
    pub(super) planned: usize,
}

/// A server that takes part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Present {
    pub(super) server: Contender,
    pub(super) version: Option<String>,
}

/// A server or a phase that takes no part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Skipped {
    pub(super) what: String,
    pub(super) why: String,
}

impl Setup {
    /// Writes it into `folder`.
    pub(super) fn write(&self, folder: &Path, hidden: &Hidden) -> Result<()> {
        let json = serde_json::to_string_pretty(self)
            .map_err(std::io::Error::from)
            .doing("cannot write JSON")?;
        fs::write(folder.join(NAME), hidden.in_text(&json) + "\n")
            .doing(format!("cannot write {NAME}"))
    }

    /// Reads it from `folder`.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let text = fs::read_to_string(&path).doing(format!("cannot read {}", path.display()))?;
        serde_json::from_str(&text)
            .map_err(std::io::Error::from)
            .doing(format!("{} is no set-up", path.display()))
    }

    /// The date that it began on.
    pub(super) fn date(&self) -> &str {
        self.at.get(..10).unwrap_or(&self.at)
    }
}
