//! The scenarios: each one is lanes, an order of measurements, and the figures that come of them.

mod churn;
mod cluster;
mod drops;
mod fan_out;
mod filtered;
mod idle;
mod mixed;
mod slow;
mod targeted;

use std::{ops::Range, time::Duration};

pub(crate) use self::{
    churn::churn,
    cluster::cluster,
    drops::drops,
    fan_out::{flood, paced, serial},
    filtered::filtered,
    idle::idle,
    mixed::mixed,
    slow::slow,
    targeted::targeted,
};
use crate::{
    cli::Common,
    error::Result,
    fleets::{Fleets, Limits},
    process::Process,
    progress::Progress,
    publisher::{Aim, Bound, Lane, Outcome, Pace, drive},
    report::Findings,
    server::Server,
};

/// How long what is not measured runs first.
const WARM_UP: Duration = Duration::from_millis(500);

/// HTTP connections of events to everyone at a rate; enough that a slow answer does not delay what is due next.
const PACED_CALLERS: usize = 8;

/// Servers, fleets and lanes of one run.
#[derive(Debug)]
struct Setting {
    fleets: Fleets,
    round: u16,
    progress: Progress,
}

impl Setting {
    /// Of a test of so many measurements.
    fn new(measurements: usize) -> Result<Self> {
        Ok(Self {
            fleets: Fleets::new()?,
            round: 0,
            progress: Progress::new(measurements),
        })
    }

    /// Starts client processes for `connections`, which go before all others with `first`, and connects them.
    fn connect(
        &mut self,
        common: &Common,
        server: &Server,
        connections: usize,
        first: bool,
    ) -> Result<Range<usize>> {
        let which = self.fleets.start(connections, first)?;
        self.reconnect(common, server, &which, Limits::default())?;
        Ok(which)
    }

    /// Connects the fleets `which` to `server`.
    fn reconnect(
        &mut self,
        common: &Common,
        server: &Server,
        which: &Range<usize>,
        limits: Limits,
    ) -> Result<()> {
        let to = (&server.api, common.connect_rate);
        self.fleets
            .connect(which.clone(), to, limits, &self.progress)
    }

    /// Lets the lanes work for a moment that nobody measures.
    fn warm_up(&mut self, lanes: &[Lane]) -> Result<()> {
        self.progress
            .begin("warming up", WARM_UP.as_millis() as u64);
        self.drive(lanes, lasting(WARM_UP), None).map(|_| ())
    }

    /// Lets the lanes work, and waits until everything has come.
    fn drive(&mut self, lanes: &[Lane], bound: Bound, server: Option<Process>) -> Result<Outcome> {
        self.round += 1;
        drive(
            &mut self.fleets,
            lanes,
            bound,
            server,
            self.round,
            &self.progress,
        )
    }

    /// Runs one measurement that the report shows as `name`, on the `server` for so long, and keeps all of it.
    fn measure(
        &mut self,
        name: &str,
        lanes: &[Lane],
        (server, duration): (Option<Process>, Duration),
        findings: &mut Findings,
    ) -> Result<Outcome> {
        self.progress.begin_measurement(duration);
        let outcome = self.drive(lanes, lasting(duration), server)?;
        findings.keep(name, &outcome);
        Ok(outcome)
    }

    /// One event to everyone on `server`; all must have it when this returns.
    fn exercise(&mut self, server: &Server, which: &Range<usize>) -> Result<Outcome> {
        self.progress.begin("testing every connection", 1);
        let lane = Lane {
            name: "test",
            aim: Aim::Everyone,
            pace: Pace::OnDelivery,
            callers: 1,
            bytes: 0,
            api: server.api.clone(),
            fleets: which.clone(),
        };
        self.drive(
            &[lane],
            Bound {
                duration: Duration::from_secs(10),
                events: 1,
            },
            None,
        )
    }
}

/// The bound of a measurement: time alone.
fn lasting(duration: Duration) -> Bound {
    Bound {
        duration,
        events: u64::MAX,
    }
}

/// Adds the server's memory at the end of the measurement `name`.
fn add_memory(findings: &mut Findings, name: &str, outcome: &Outcome) {
    if let Some(memory) = outcome.memory {
        findings.add(
            titled(name, "server memory at the end"),
            "MiB",
            memory.resident as f64 / 1_048_576.0,
        );
    }
}

/// A figure of the measurement `name`, if it needs telling from others.
fn titled(name: &str, figure: &str) -> String {
    if name.is_empty() {
        figure.to_owned()
    } else {
        format!("{name}, {figure}")
    }
}
