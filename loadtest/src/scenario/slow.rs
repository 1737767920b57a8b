//! `slow`: events for connections that read, beside others that have stopped reading.

use std::ops::Range;

use super::{PACED_CALLERS, Setting, titled};
use crate::{
    cli::Slow,
    client::Heard,
    error::{Result, failed},
    fleets::Limits,
    inspect::{self, Slowness},
    publisher::{Aim, Lane, Outcome, Pace},
    report::Findings,
    server::Server,
};

/// The kernel keeps about this much of what a slow connection has not read, in bytes.
const RECEIVE_BUFFER: usize = 4096;

const WITHOUT: &str = "without slow ones";
const WITH: &str = "with slow ones";

/// Runs `slow`.
pub(crate) fn slow(args: &Slow) -> Result<Findings> {
    if args.stalled == 0 {
        return failed("--slow must be at least 1");
    }
    let common = &args.common;
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("slow", args.stalled.to_string()),
        ("stall", humantime::format_duration(args.stall).to_string()),
        ("rate", args.rate.to_string()),
        ("bytes", common.bytes.to_string()),
    ];
    let mut findings = Findings::new("slow", common, settings);
    let mut setting = Setting::new(usize::from(common.repeat) * 2)?;
    // It warns of each one that it closes.
    let server = Server::open(&common.with_server_arg("--log=error"))?;
    let good = setting.connect(common, &server, args.connections, false)?;
    let slow = setting.fleets.start(args.stalled, false)?;
    setting.fleets.set_aside(&slow);
    let lanes = [Lane {
        name: "events",
        aim: Aim::Everyone,
        pace: Pace::PerSecond(args.rate),
        callers: PACED_CALLERS,
        bytes: common.bytes,
        api: server.api.clone(),
        fleets: good,
    }];
    setting.warm_up(&lanes)?;
    for _ in 0..common.repeat {
        let without = setting.measure(
            WITHOUT,
            &lanes,
            (server.process, common.duration),
            &mut findings,
        )?;
        let without = note(&mut findings, WITHOUT, &without);
        let with = stall(args, &mut setting, &server, (&lanes, &slow), &mut findings)?;
        findings.add(
            "p99 with slow ones over p99 without",
            "times",
            with / without,
        );
    }
    Ok(findings)
}

/// Measures with slow ones, from their connecting until the server has got over them; answers the others' p99.
fn stall(
    args: &Slow,
    setting: &mut Setting,
    server: &Server,
    (lanes, slow): (&[Lane], &Range<usize>),
    findings: &mut Findings,
) -> Result<f64> {
    let common = &args.common;
    let memory = || match server.process {
        Some(process) => process.memory().map(|memory| Some(memory.resident)),
        None => Ok(None),
    };
    let counts = common.target.kind().is_fanfare();
    let slowness = || {
        if counts {
            inspect::slowness(&server.api).map(Some)
        } else {
            Ok(None)
        }
    };
    let limits = Limits {
        receive_buffer: Some(RECEIVE_BUFFER),
        ..Limits::default()
    };
    setting.reconnect(common, server, slow, limits)?;
    let (before, counted) = (memory()?, slowness()?);
    setting.fleets.deafen(slow)?;
    let outcome = setting.measure(WITH, lanes, (server.process, args.stall), findings)?;
    setting.progress.begin("hearing the slow ones", 1);
    let heard = setting
        .fleets
        .undeafen(slow, setting.round, &outcome.sent)?;
    let counted = counted.zip(slowness()?);
    setting.fleets.disconnect(slow)?;
    setting.progress.sleep("settling", args.settle);
    let p99 = note(findings, WITH, &outcome);
    let peak = outcome.samples.iter().map(|sample| sample.resident).max();
    for (when, bytes) in [
        ("before", before),
        ("at its peak", peak),
        ("after", memory()?),
    ] {
        if let Some(bytes) = bytes {
            findings.add(
                format!("server memory {when}"),
                "MiB",
                bytes as f64 / 1_048_576.0,
            );
        }
    }
    note_heard(findings, &heard, counted);
    Ok(p99)
}

/// Adds what the slow ones saw and, where it tells, what the server has counted.
fn note_heard(findings: &mut Findings, all: &[Heard], counted: Option<(Slowness, Slowness)>) {
    let sum = |count: fn(&Heard) -> u64| all.iter().map(count).sum::<u64>() as f64;
    let mut add = |name: String, count: f64| findings.add(name, "", count);
    let mut codes: Vec<u16> = all
        .iter()
        .flat_map(|heard| heard.closed.keys().copied())
        .collect();
    codes.sort_unstable();
    codes.dedup();
    for code in codes {
        let closed = all
            .iter()
            .filter_map(|heard| heard.closed.get(&code))
            .sum::<u64>();
        add(
            format!("slow ones that saw close code {code}"),
            closed as f64,
        );
    }
    add(
        "slow ones that saw an end without a close frame".to_owned(),
        sum(|heard| heard.cut),
    );
    add(
        "slow ones still open, with all events".to_owned(),
        sum(|heard| heard.complete),
    );
    add(
        "slow ones still open, with a loss nobody told".to_owned(),
        sum(|heard| heard.untold),
    );
    if let Some((before, after)) = counted {
        let closed = after.closed.saturating_sub(before.closed);
        add(
            "slow ones closed with 4101, as the server counts".to_owned(),
            closed as f64,
        );
        let dropped = after.dropped.saturating_sub(before.dropped);
        add(
            "events dropped for them, as the server counts".to_owned(),
            dropped as f64,
        );
    }
}

/// Adds the figures of one measurement; answers the p99.
fn note(findings: &mut Findings, name: &str, outcome: &Outcome) -> f64 {
    let lane = &outcome.lanes[0];
    if let Some(micros) = outcome.cpu_micros_per(outcome.report.deliveries) {
        findings.add(titled(name, "server CPU per delivery"), "µs", micros);
    }
    findings.add_latencies(&titled(name, "request to arrival"), &lane.deliveries);
    let late = lane.lateness.value_at_quantile(0.99) as f64 / 1e6;
    findings.add(titled(name, "sent late by p99"), "ms", late);
    lane.deliveries.value_at_quantile(0.99) as f64
}
