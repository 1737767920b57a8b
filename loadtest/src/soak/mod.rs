//! Everything that clients and functions do, at a moderate rate and for long: whether memory grows, and whether the counters
//! balance when all have left.

mod args;
mod clients;
mod functions;
mod ledger;
mod slope;
mod verdict;

use std::{
    fs,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

pub(crate) use self::args::Soak;
use self::{
    ledger::Ledger,
    verdict::{Summary, markdown},
};
use crate::{
    abuse::victim::{Metrics, SECRET, Setup, Victim},
    error::{Doing, Result, failed},
    process::Process,
    token::Signer,
};

/// How long the clients that stay may take to connect.
const START: Duration = Duration::from_mins(1);

/// How long the server may take until it has ended all and memory has had its time to return.
const SETTLE: Duration = Duration::from_secs(25);

/// Samples of a soak, whatever its length; at most one a second.
const SAMPLES: u32 = 720;

/// Seconds since 1970.
fn unix_now() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}

/// What all threads share.
struct Scene {
    address: SocketAddr,
    process: Process,
    signer: Signer,
    ledger: Ledger,
    is_over: AtomicBool,
    has_arrived: AtomicBool,
}

impl Scene {
    fn is_over(&self) -> bool {
        self.is_over.load(Relaxed)
    }

    /// Says that those who stay are connected.
    fn arrived(&self) {
        self.has_arrived.store(true, Relaxed);
    }

    /// Runs `body` once in `period` until all is over, with the number of the round. What is late is left out.
    fn every(&self, period: Duration, mut body: impl FnMut(u64)) {
        let mut due = Instant::now();
        let mut number = 0;
        while !self.is_over() {
            body(number);
            number += 1;
            due = (due + period).max(Instant::now());
            while Instant::now() < due && !self.is_over() {
                thread::sleep(
                    Duration::from_millis(20).min(due.saturating_duration_since(Instant::now())),
                );
            }
        }
    }
}

/// Ends all threads when it is dropped, be it by an error.
struct Curtain<'s>(&'s Scene);

impl Drop for Curtain<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Relaxed);
    }
}

/// One look at the server.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    /// Seconds since the beginning.
    at: f64,
    /// Resident memory, in bytes.
    resident: u64,
    /// Processor time that it has used, in seconds.
    cpu: f64,
    connections: u64,
    memberships: u64,
    history_bytes: u64,
    deliveries: u64,
}

/// Soaks a server; true if nothing grows and all balances.
pub(crate) fn soak(args: &Soak) -> Result<bool> {
    let setup = Setup {
        program: &args.server_binary,
        limits: &[],
        descriptors: None,
        is_log_unread: false,
        log: args.log.as_deref(),
    };
    let mut victim = Victim::start(setup)?;
    let before = victim.process().memory()?.resident;
    let scene = Scene {
        address: victim.address,
        process: victim.process(),
        signer: Signer::new(SECRET),
        ledger: Ledger::default(),
        is_over: AtomicBool::new(false),
        has_arrived: AtomicBool::new(false),
    };

    let samples = carry_out(args, &scene, &mut victim)?;
    let quiet = await_quiet(&victim)?;
    let after = victim.process().memory()?.resident;
    let summary = Summary::new(args, samples, &scene.ledger, &quiet, [before, after]);
    if args.json {
        let json = serde_json::to_string_pretty(&summary).map_err(std::io::Error::from);
        println!("{}", json.doing("cannot write JSON")?);
    } else {
        print!("{}", markdown(&summary));
    }
    if let Some(path) = &args.markdown {
        let page = markdown(&summary);
        fs::write(path, page).doing(format!("cannot write {}", path.display()))?;
    }
    Ok(summary.wrong.is_empty())
}

/// Lets everyone do what they do, and looks at the server meanwhile.
fn carry_out(args: &Soak, scene: &Scene, victim: &mut Victim) -> Result<Vec<Sample>> {
    let count = u64::from(args.connections);
    thread::scope(|scope| {
        let curtain = Curtain(scene);
        let staying = scope.spawn(move || clients::stay(scene, count));
        let until = Instant::now() + START;
        while !scene.has_arrived.load(Relaxed) {
            if staying.is_finished() || Instant::now() > until {
                return failed("the clients that stay cannot connect");
            }
            thread::sleep(Duration::from_millis(20));
        }
        for activity in [
            clients::come_and_go,
            clients::stall,
            clients::be_refused,
            functions::publish,
            functions::flood,
            functions::repeat,
            functions::look,
            functions::steer,
            functions::reload,
        ] {
            scope.spawn(move || activity(scene));
        }

        let samples = sample(args.duration, victim)?;
        drop(curtain);
        Ok(samples)
    })
}

/// Looks at the server again and again.
fn sample(duration: Duration, victim: &mut Victim) -> Result<Vec<Sample>> {
    let began = Instant::now();
    let period = (duration / SAMPLES).max(Duration::from_millis(500));
    let mut samples = Vec::new();
    while began.elapsed() < duration {
        thread::sleep(period);
        if let Some(status) = victim.ended() {
            return failed(format!("the server has ended: {status}"));
        }
        let metrics = victim.metrics()?;
        samples.push(Sample {
            at: began.elapsed().as_secs_f64(),
            resident: victim.process().memory()?.resident,
            cpu: victim.process().cpu()?.as_secs_f64(),
            connections: metrics.sum("fanfare_connections"),
            memberships: metrics.sum("fanfare_memberships"),
            history_bytes: metrics.sum("fanfare_history_bytes"),
            deliveries: metrics.sum("fanfare_deliveries_total"),
        });
    }
    Ok(samples)
}

/// What the server counts when all have left, and memory has had its time.
fn await_quiet(victim: &Victim) -> Result<Metrics> {
    thread::sleep(SETTLE);
    victim.metrics()
}
