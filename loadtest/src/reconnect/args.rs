//! The command line of `reconnect`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};

use crate::cli::duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Reconnect {
    /// Start the nodes from this program
    #[arg(long, value_name = "PROGRAM", default_value = "fanfare")]
    pub(super) server_binary: PathBuf,
    /// Clients of the node that ends
    #[arg(short = 'n', long, default_value_t = 5000, value_parser = clients)]
    pub(super) connections: usize,
    /// Channels with history that they are spread over; each is also put into one that all are in
    #[arg(long, default_value_t = 100, value_name = "CHANNELS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) channels: u16,
    /// Events a second, in turn to these channels
    #[arg(long, default_value_t = 100, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) rate: u32,
    /// How the node ends
    #[arg(long, value_enum, default_value_t = By::Kill)]
    pub(super) by: By,
    /// How long all are watched after the node's end
    #[arg(long, default_value = "12s", value_name = "DURATION", value_parser = duration)]
    pub(super) watch: Duration,
    /// Do it so often, each time with new nodes
    #[arg(long, default_value_t = 1, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(super) repeat: u16,
    /// Print all that was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// How a node ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum By {
    /// It is killed
    Kill,
    /// It is told to drain
    Drain,
}

fn clients(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=18_000).contains(&count) => Ok(count),
        _ => Err("1 to 18000 clients: one process has their sockets".to_owned()),
    }
}
