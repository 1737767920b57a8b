//! `churn`: events for connections that stay, while others come and go in storms.
//!
//! Every other connection of a storm goes with a close frame, the rest by a reset.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{PACED_CALLERS, Setting, add_memory, titled};
use crate::{
    cli::Churn,
    client::{Stormed, histogram, merge},
    error::{Result, failed},
    inspect,
    process::Process,
    publisher::{Aim, Lane, Outcome, Pace},
    report::Findings,
    server::Server,
};

/// How long the server may take to forget connections; one that was reset may be kept for its client's return.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `churn`.
pub(crate) fn churn(args: &Churn) -> Result<Findings> {
    if args.storm == 0 {
        return failed("--storm must be at least 1");
    }
    let common = &args.common;
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("storm", args.storm.to_string()),
        (
            "at most",
            format!("{} handshakes a second", common.connect_rate),
        ),
        ("rate", args.rate.to_string()),
        ("bytes", common.bytes.to_string()),
    ];
    let mut findings = Findings::new("churn", common, settings);
    let mut setting = Setting::new(usize::from(common.repeat) * 3)?;
    let server = Server::open(common)?;
    let stable = setting.connect(common, &server, args.connections, false)?;
    let stormy = setting.fleets.start(args.storm, false)?;
    setting.fleets.set_aside(&stormy);
    let lanes = [Lane {
        name: "events",
        aim: Aim::Everyone,
        pace: Pace::PerSecond(args.rate),
        callers: PACED_CALLERS,
        bytes: common.bytes,
        api: server.api.clone(),
        fleets: stable,
    }];
    setting.warm_up(&lanes)?;
    let before = connections(args, &server)?;
    let mut churning = Churning {
        args,
        setting,
        server,
        stormy,
    };
    let on = (churning.server.process, common.duration);
    for _ in 0..common.repeat {
        let calm = churning
            .setting
            .measure("calm", &lanes, on, &mut findings)?;
        let calm = note(&mut findings, "calm", &calm);
        churning.storm("storm alone", &[], &mut findings)?;
        let with = churning.storm("with storms", &lanes, &mut findings)?;
        let with = note(&mut findings, "with storms", &with);
        findings.add("p99 with storms over p99 calm", "times", with / calm);
    }
    let Some(before) = before else {
        return Ok(findings);
    };
    let left = churning.left_over(before)?;
    findings.faults.connections_left = left;
    Ok(findings)
}

struct Churning<'a> {
    args: &'a Churn,
    setting: Setting,
    server: Server,
    stormy: Range<usize>,
}

impl Churning<'_> {
    /// Measures while storms come and go; the processor time is that of the storms to their end.
    fn storm(&mut self, name: &str, lanes: &[Lane], findings: &mut Findings) -> Result<Outcome> {
        let Self {
            args,
            setting,
            server,
            stormy,
        } = self;
        let common = &args.common;
        let cpu = || server.process.map(Process::cpu).transpose();
        let before = cpu()?;
        setting
            .fleets
            .storm(stormy, (&server.api, common.connect_rate))?;
        let outcome = setting.measure(name, lanes, (server.process, common.duration), findings)?;
        let stormed = setting.fleets.calm(stormy)?;
        let cpu = before
            .zip(cpu()?)
            .map(|(before, after)| after.saturating_sub(before));
        // Beside events the processor time is not that of handshakes alone.
        note_storms(findings, name, &stormed, cpu.filter(|_| lanes.is_empty()))?;
        Ok(outcome)
    }

    /// How many connections the server counts that were not there before, once nothing changes any more.
    fn left_over(&mut self, before: u64) -> Result<u64> {
        self.setting.progress.begin("waiting for the server", 1);
        let until = Instant::now() + PATIENCE;
        loop {
            let now = connections(self.args, &self.server)?.unwrap_or(before);
            if now == before || Instant::now() > until {
                return Ok(now.abs_diff(before));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What the server counts, if it is Fanfare.
fn connections(args: &Churn, server: &Server) -> Result<Option<u64>> {
    let counts = args.common.target.kind().is_fanfare();
    if counts {
        inspect::connections(&server.api).map(Some)
    } else {
        Ok(None)
    }
}

fn note_storms(
    findings: &mut Findings,
    name: &str,
    all: &[Stormed],
    cpu: Option<Duration>,
) -> Result<()> {
    let mut welcomes = histogram()?;
    let (mut handshakes, mut rate) = (0, 0.0);
    for stormed in all {
        merge(&mut welcomes, &stormed.welcomes);
        handshakes += stormed.handshakes;
        rate += stormed.handshakes as f64 / stormed.seconds;
        findings.faults.connections_ended += stormed.cut;
    }
    findings.add(titled(name, "handshakes a second"), "", rate);
    if let Some(cpu) = cpu {
        let micros = cpu.as_secs_f64() * 1e6 / handshakes.max(1) as f64;
        findings.add(titled(name, "server CPU per handshake"), "µs", micros);
    }
    findings.add_latencies(&titled(name, "dial to welcome"), &welcomes);
    Ok(())
}

/// Adds the figures of one measurement; answers the events' p99.
fn note(findings: &mut Findings, name: &str, outcome: &Outcome) -> f64 {
    let lane = &outcome.lanes[0];
    findings.add_latencies(&titled(name, "request to arrival"), &lane.deliveries);
    let late = lane.lateness.value_at_quantile(0.99) as f64 / 1e6;
    findings.add(titled(name, "sent late by p99"), "ms", late);
    add_memory(findings, name, outcome);
    lane.deliveries.value_at_quantile(0.99) as f64
}
