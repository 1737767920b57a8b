//! The command line of `scale`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::cli::duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Scale {
    /// Start the nodes from this program
    #[arg(long, value_name = "PROGRAM", default_value = "fanfare")]
    pub(super) server_binary: PathBuf,
    /// Measure with so many nodes, in turn; each is a process
    #[arg(long, value_delimiter = ',', value_name = "COUNT", default_values_t = [3, 9, 27, 50], value_parser = nodes)]
    pub(super) nodes: Vec<usize>,
    /// Do each operation so often
    #[arg(long, default_value_t = 200, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) repeat: u32,
    /// Time between two operations
    #[arg(long, default_value = "10ms", value_name = "DURATION", value_parser = duration)]
    pub(super) pause: Duration,
    /// How long what an operation causes may take after it
    #[arg(long, default_value = "2s", value_name = "DURATION", value_parser = duration)]
    pub(super) settle: Duration,
    /// Use a Redis Cluster of three primaries and three replicas
    #[arg(long)]
    pub(super) redis_cluster: bool,
    /// Write the tables for the documentation too
    #[arg(long, value_name = "PATH")]
    pub(super) markdown: Option<PathBuf>,
    /// Print all that was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn nodes(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (2..=200).contains(&count) => Ok(count),
        _ => Err("2 to 200 nodes".to_owned()),
    }
}
