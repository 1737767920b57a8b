//! The command line of the failure matrix.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::failure::Failure;
use crate::cli::duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Failures {
    /// Start the nodes from this program
    #[arg(long, value_name = "PROGRAM", default_value = "fanfare")]
    server_binary: PathBuf,
    /// Let only these happen, one after another
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAILURE")]
    pub(super) only: Vec<Failure>,
    /// Events a second that each of the three publishers sends, to all channels in turn
    #[arg(long, default_value_t = 60, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) rate: u32,
    /// Clients, in turn on the three nodes, each in every channel; a thread each
    #[arg(long, default_value_t = 9, value_name = "COUNT", value_parser = subscribers)]
    pub(super) subscribers: usize,
    /// How long all goes well first
    #[arg(long, default_value = "3s", value_name = "DURATION", value_parser = duration)]
    pub(super) before: Duration,
    /// How long is watched after what failed is back
    #[arg(long, default_value = "12s", value_name = "DURATION", value_parser = duration)]
    pub(super) after: Duration,
    /// How long the lists of members may take after that to be right
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    pub(super) presence: Duration,
    /// Keep what the nodes log in this folder, and which events did not come to whom
    #[arg(long, value_name = "DIR")]
    pub(super) logs: Option<PathBuf>,
    /// Write the table for the documentation too
    #[arg(long, value_name = "PATH")]
    pub(super) markdown: Option<PathBuf>,
    /// Print all that was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl Failures {
    pub(super) fn program(&self) -> PathBuf {
        self.server_binary.clone()
    }
}

fn subscribers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (3..=300).contains(&count) => Ok(count),
        _ => Err("3 to 300 subscribers".to_owned()),
    }
}
