//! The command line of the soak.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use crate::cli::duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Soak {
    /// Start the server from this program
    #[arg(long, value_name = "PROGRAM", default_value = "fanfare")]
    pub(super) server_binary: PathBuf,
    /// How long it lasts
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    pub(super) duration: Duration,
    /// Clients that stay from the beginning to the end
    #[arg(short = 'n', long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=2000))]
    pub(super) connections: u16,
    /// Keep what the server logs in this file
    #[arg(long, value_name = "PATH")]
    pub(super) log: Option<PathBuf>,
    /// Write the summary as Markdown too
    #[arg(long, value_name = "PATH")]
    pub(super) markdown: Option<PathBuf>,
    /// Print all that was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}
