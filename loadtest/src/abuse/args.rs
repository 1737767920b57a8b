//! The command lines of the attacks.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use crate::cli::duration;

#[derive(Args, Clone, Debug)]
pub(crate) struct Abuse {
    /// Only these attacks, one after another
    #[arg(value_name = "ATTACK")]
    pub(super) only: Vec<String>,
    /// Say which attacks there are, and start nothing
    #[arg(long)]
    pub(super) list: bool,
    /// Start the servers from this program
    #[arg(long, value_name = "PROGRAM", default_value = "fanfare")]
    pub(super) server_binary: PathBuf,
    /// How long each attack lasts
    #[arg(long, default_value = "4s", value_name = "DURATION", value_parser = duration)]
    pub(super) duration: Duration,
    /// How long after it the memory is looked at
    #[arg(long, default_value = "20s", value_name = "DURATION", value_parser = duration)]
    pub(super) settle: Duration,
    /// Few connections and half a second, and nothing that depends on time is judged
    #[arg(long)]
    pub(super) small: bool,
    /// Keep what the servers log in this folder
    #[arg(long, value_name = "DIR")]
    pub(super) logs: Option<PathBuf>,
    /// Take what was green in this file, which --json wrote, and carry out the rest
    #[arg(long, value_name = "PATH", conflicts_with_all = ["only", "small"])]
    pub(super) again: Option<PathBuf>,
    /// Write the page for the documentation too
    #[arg(long, value_name = "PATH")]
    pub(super) markdown: Option<PathBuf>,
    /// Print all that was found as JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// What an attacking process is told.
#[derive(Args, Clone, Debug)]
pub(crate) struct Attack {
    pub(super) name: String,
    #[arg(long)]
    pub(super) address: SocketAddr,
    #[arg(long)]
    pub(super) admin: SocketAddr,
    /// The process of the server
    #[arg(long)]
    pub(super) pid: u32,
    #[arg(long, value_parser = duration)]
    pub(super) duration: Duration,
    #[arg(long)]
    pub(super) small: bool,
}
