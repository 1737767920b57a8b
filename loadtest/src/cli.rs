//! The command line.

mod target;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use self::target::{Kind, PLAIN_CONNECT, PLAIN_EMIT, PLAIN_USER, Place, Target};
use crate::{
    abuse::{Abuse, AttackArgs},
    compare::{Compare, Summarize},
    failures::Failures,
    filter::{By, Share},
    reconnect::Reconnect,
    scale::Scale,
    soak::Soak,
};

/// Load tests for Fanfare: what an event costs the server, and how long it takes, with losses counted.
///
/// Everything runs on this machine and ends by itself. The exit code is 1 if an event was lost, repeated or out of
/// order, or a connection ended; 2 if a test could not be carried out.
#[derive(Debug, Parser)]
#[command(name = "fanfare-loadtest", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Memory and handshakes of connections that do nothing
    Idle(Idle),
    /// Events to everyone, several at once: CPU per delivery, latency
    Flood(Flood),
    /// Events to everyone, one at a time: the next when all have it
    Serial(Serial),
    /// Events to everyone at a fixed rate: CPU per delivery, latency from when each was due
    Paced(Paced),
    /// Events through a filter, one at a time, beside as many connections by themselves: what filtering costs
    Filtered(Filtered),
    /// Events to single users, one HTTP request each: CPU per event, latency
    Targeted(Targeted),
    /// Events to single users, with and without a filter beside them that scans everyone
    Mixed(Mixed),
    /// Events to everyone at a fixed rate, while other connections come and go in storms: handshakes, latency
    Churn(Churn),
    /// New connections at a fixed rate, while thousands of others drop at once: handshakes, latency
    Drops(Drops),
    /// Events to everyone at a fixed rate, while some stop reading: latency of the others, memory, closes
    Slow(Slow),
    /// Events to everyone over three nodes that share a Redis, and on one node: CPU per delivery, latency
    Cluster(Cluster),
    /// Let one thing after another go wrong in a cluster of three nodes: what is lost, and what comes back when
    Failures(Failures),
    /// Measure what each operation costs Redis and the nodes in clusters of more and more nodes
    Scale(Scale),
    /// End one of three nodes: when all of its clients are back on the others, and what they have missed
    Reconnect(Reconnect),
    /// Attack a server in one way after another: what others wait, what memory is taken, and whether all is well afterwards
    Abuse(Abuse),
    /// Do everything that clients and functions do, for hours: whether memory grows, and whether the counters balance
    Soak(Soak),
    /// Serve as the floor does: one send per connection and event, and nothing else
    Floor {
        /// Where
        #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT")]
        listen: SocketAddr,
    },
    /// Say which servers can be measured on this machine, and what the others lack
    Servers,
    /// Measure all servers in turn, and write what came of it as a published comparison
    Compare(Compare),
    /// Make a comparison's summary again from its raw data
    Summarize(Summarize),
    /// An attacking process; started by abuse
    #[command(hide = true)]
    Attack(AttackArgs),
    /// A client process; started by the others
    #[command(hide = true)]
    Fleet {
        /// Goes before everything else
        #[arg(long)]
        first: bool,
    },
}

/// What every scenario takes.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    #[command(flatten)]
    pub(crate) target: Target,
    /// Handshakes a second, at most; a server's own default refuses more than 10,000
    #[arg(long, default_value_t = 8000, value_name = "RATE", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) connect_rate: u32,
    /// Measure so often; the report has medians
    #[arg(long, default_value_t = 3, value_name = "TIMES", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) repeat: u16,
    /// How long each measurement sends
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub(crate) duration: Duration,
    /// Length of an event's data
    #[arg(long, default_value_t = 128, value_name = "BYTES")]
    pub(crate) bytes: usize,
    /// Write the report as an HTML page too, which needs nothing but itself
    #[arg(long, value_name = "PATH")]
    pub(crate) report: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Common {
    /// The same, with one more flag for a Fanfare that is started here.
    pub(crate) fn with_server_arg(&self, arg: &str) -> Self {
        let mut common = self.clone();
        if common.target.kind().is_fanfare() && common.target.url.is_none() {
            common.target.server_arg.push(arg.to_owned());
        }
        common
    }
}

#[cfg(test)]
impl Common {
    /// The defaults, and the floor.
    pub(crate) fn for_tests() -> Self {
        match Cli::parse_from(["fanfare-loadtest", "serial", "--floor"]).command {
            Command::Serial(serial) => serial.common,
            other => unreachable!("{other:?}"),
        }
    }
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections, each with a token of three claims
    #[arg(short = 'n', long, default_value_t = 15_000)]
    pub(crate) connections: usize,
    /// Time for the server's allocator to give back what it can, before each look at its memory
    #[arg(long, default_value = "12s", value_name = "DURATION", value_parser = duration)]
    pub(crate) settle: Duration,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Flood {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(short = 'n', long, default_value_t = 1000)]
    pub(crate) connections: usize,
    /// Events under way at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
    /// Until when an event is under way
    #[arg(long, value_enum, default_value_t = Until::Answered)]
    pub(crate) until: Until,
}

/// Until when an event is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Until {
    /// Until the server has answered; what it has not written by then is up to its own bounds
    Answered,
    /// Until every connection has it
    Delivered,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Serial {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(short = 'n', long, default_value_t = 1000)]
    pub(crate) connections: usize,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Paced {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(short = 'n', long, default_value_t = 1000)]
    pub(crate) connections: usize,
    /// Events a second
    #[arg(long, default_value_t = 50.0, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Filtered {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections
    #[arg(short = 'n', long, default_value_t = 15_000)]
    pub(crate) connections: usize,
    /// Percentage of them that the filter matches
    #[arg(long = "match", value_enum, default_value_t = Share::One, value_name = "PERCENT")]
    pub(crate) share: Share,
    /// How the server is to find them; it is asked whether it does
    #[arg(long, value_enum, default_value_t = By::Index)]
    pub(crate) by: By,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Targeted {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections, one per user
    #[arg(short = 'n', long, default_value_t = 5000)]
    pub(crate) connections: usize,
    /// Requests under way at once
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
    /// Send so many a second instead of as many as the server answers
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Mixed {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections that each scan reaches
    #[arg(short = 'n', long, default_value_t = 15_000)]
    pub(crate) connections: usize,
    /// How many of them the single events go to; they have a client process of their own, which is not busy with
    /// the scan's events
    #[arg(long, default_value_t = 500)]
    pub(crate) probes: usize,
    /// Single events a second
    #[arg(long, default_value_t = 1000.0, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: f64,
    /// Scans a second, at most; without it one follows the other
    #[arg(long, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) scan_rate: Option<f64>,
    /// Do not ask the system to run the callers and the single events' clients before everything else
    #[arg(long)]
    pub(crate) ordinary_priority: bool,
    /// Leave out the same with two floor servers, one for each kind of event, which shows the harness's own noise
    #[arg(long)]
    pub(crate) no_calibration: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Churn {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections that stay
    #[arg(short = 'n', long, default_value_t = 1000)]
    pub(crate) connections: usize,
    /// Connections that come all at once, within --connect-rate, and go all at once, again and again
    #[arg(long, default_value_t = 1000, value_name = "CONNECTIONS")]
    pub(crate) storm: usize,
    /// Events a second
    #[arg(long, default_value_t = 20.0, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: f64,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Drops {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections that drop at once; each is a member of a channel, and half of them hear who comes and goes there
    #[arg(short = 'n', long, default_value_t = 5000)]
    pub(crate) connections: usize,
    /// Channels that they are spread over
    #[arg(long, default_value_t = 20, value_name = "CHANNELS", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) channels: u16,
    /// New connections a second, each dialed when it is due
    #[arg(long, default_value_t = 500, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=5000))]
    pub(crate) rate: u32,
    /// How they drop
    #[arg(long, value_enum, default_value_t = DropBy::Reset)]
    pub(crate) by: DropBy,
    /// How long the server waits for those that dropped to come back (its `resume_window`), before it tells others that
    /// they have left
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub(crate) resume_window: Duration,
    /// Make the server a node of a cluster, with a Redis that is started for it
    #[arg(long, conflicts_with = "url")]
    pub(crate) redis: bool,
    /// Do not ask the system to run the new connections' clients before everything else
    #[arg(long)]
    pub(crate) ordinary_priority: bool,
}

/// How connections drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum DropBy {
    /// The clients reset them
    Reset,
    /// The clients' process is killed, and the kernel closes them
    Kill,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Cluster {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections, on one node or in equal parts on three
    #[arg(short = 'n', long, default_value_t = 3000)]
    pub(crate) connections: usize,
    /// Events under way at once, on all nodes together
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) depth: u16,
}

// Events are larger here by default, so that what is not read piles up in time.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("bytes", |arg| arg.default_value("4096")))]
pub(crate) struct Slow {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Connections that read
    #[arg(short = 'n', long, default_value_t = 300)]
    pub(crate) connections: usize,
    /// Connections beside them that stop reading
    #[arg(long = "slow", default_value_t = 30, value_name = "CONNECTIONS")]
    pub(crate) stalled: usize,
    /// How long they do not read; so long lasts the measurement with them
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration)]
    pub(crate) stall: Duration,
    /// Time between their end and the last look at the server's memory
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub(crate) settle: Duration,
    /// Events a second
    #[arg(long, default_value_t = 50.0, value_name = "PER_SECOND", value_parser = rate)]
    pub(crate) rate: f64,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("a duration is such as 10s or 500ms: {error}"))
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("a rate is a number from 0.001 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
