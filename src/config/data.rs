//! Where a node without Redis keeps what has to outlive it.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use serde::Deserialize;

use super::problems::Problems;

/// The table `[data]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// The directory, which is made if it is not there. It serves one process at a time.
    pub dir: PathBuf,
    /// When what is written is made to survive a power loss.
    pub sync: DataSync,
    /// How often that is with [`DataSync::Interval`].
    #[serde(with = "crate::limits::duration")]
    pub sync_interval: Duration,
    /// Most bytes of all events together, each with an allowance; beyond them the oldest events of the app that keeps most are
    /// removed.
    #[serde(with = "crate::limits::size")]
    pub max_bytes: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            dir: PathBuf::new(),
            sync: DataSync::default(),
            sync_interval: Duration::from_secs(1),
            max_bytes: 10 * 1024 * 1024 * 1024,
        }
    }
}

impl DataConfig {
    /// Adds what does not make sense to `problems`. `has_redis`: nodes are joined by Redis, which
    /// then keeps everything.
    pub(super) fn check(&self, has_redis: bool, problems: &mut Problems) {
        if self.dir.as_os_str().is_empty() {
            problems.pair(
                "data.dir",
                "[data] is set without data.dir; give --data or FANFARE_DATA".to_owned(),
            );
        }

        if has_redis {
            problems.pair(
                "data.dir",
                "data.dir and redis are both set; with Redis, Redis keeps everything for all nodes. Set only one"
                    .to_owned(),
            );
        }

        if self.sync == DataSync::Interval && self.sync_interval.is_zero() {
            problems.value(
                "data.sync_interval",
                "data.sync_interval = \"0s\" is not an interval; write data.sync = \"always\" instead"
                    .to_owned(),
            );
        }
    }

    /// What a failure can lose, in words.
    pub(super) fn loss(&self) -> String {
        match self.sync {
            DataSync::Always => "a power loss loses nothing (data.sync = \"always\")".to_owned(),
            DataSync::Interval => format!(
                "a power loss may lose the last {} (data.sync = \"interval\")",
                humantime::format_duration(self.sync_interval)
            ),
            DataSync::Never => {
                "a power loss may lose what the system has not written yet (data.sync = \"never\")"
                    .to_owned()
            }
        }
    }
}

/// When what is written is made to survive a power loss. The end of the process alone loses nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum DataSync {
    /// Before it is answered.
    Always,
    /// Every [`DataConfig::sync_interval`].
    #[default]
    Interval,
    /// When the system likes.
    Never,
}
