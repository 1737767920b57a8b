//! `mixed`: single events at a fixed rate, with and without a filter beside them that scans everyone.

use std::ops::Range;

use super::{Setting, add_memory};
use crate::{
    cli::Mixed,
    driver,
    error::{Result, failed},
    filter::Filter,
    priority::First,
    process::Process,
    publisher::{Aim, Lane, Outcome, Pace},
    report::Findings,
    server::Server,
};

/// HTTP connections of the single events; enough that one of them is always idle.
const CALLERS: usize = 32;

/// Runs `mixed`.
pub(crate) fn mixed(args: &Mixed) -> Result<Findings> {
    driver::need_filters(&args.common.target)?;
    if args.probes == 0 || args.probes >= args.connections {
        return failed("--probes must be at least 1, and fewer than --connections");
    }
    let first = !args.ordinary_priority && First::ask().is_some();
    let priority = match (first, args.ordinary_priority) {
        (true, _) => "before all other processes",
        (false, true) => "ordinary",
        (false, false) => {
            "ordinary, since the system permits no other (root, or ulimit -r 50, would)"
        }
    };
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("probes", args.probes.to_string()),
        ("rate", args.rate.to_string()),
        (
            "scans",
            args.scan_rate
                .map_or("one after another".to_owned(), |rate| format!("{rate}/s")),
        ),
        ("bytes", args.common.bytes.to_string()),
        ("priority of callers and probes", priority.to_owned()),
    ];
    let mut findings = Findings::new("mixed", &args.common, settings);
    if !args.no_calibration {
        calibrate(args, first, &mut findings)?;
    }
    let server = Server::open(&args.common)?;
    let mut setting = Setting::new(usize::from(args.common.repeat) * 2)?;
    let probes = setting.connect(&args.common, &server, args.probes, first)?;
    let bulk = setting.connect(&args.common, &server, args.connections - args.probes, false)?;
    let lanes = [
        single(args, &server, probes.clone()),
        scan(args, &server, probes.start..bulk.end),
    ];
    measure(
        args,
        first,
        &mut setting,
        &lanes,
        ("", server.process),
        &mut findings,
    )?;
    Ok(findings)
}

/// The same clients and callers, but the single events and the scan's go by way of two bare servers, so that neither
/// waits for the other: what is seen is the processors shared between the harness's own processes.
fn calibrate(args: &Mixed, first: bool, findings: &mut Findings) -> Result<()> {
    let (for_single, for_scan) = (Server::floor()?, Server::floor()?);
    let mut setting = Setting::new(usize::from(args.common.repeat) * 2)?;
    let probes = setting.connect(&args.common, &for_single, args.probes, first)?;
    let bulk = setting.connect(
        &args.common,
        &for_scan,
        args.connections - args.probes,
        false,
    )?;
    let lanes = [
        single(args, &for_single, probes),
        scan(args, &for_scan, bulk),
    ];
    // Neither of the two would say anything by itself.
    measure(
        args,
        first,
        &mut setting,
        &lanes,
        ("floor: ", None),
        findings,
    )
}

fn single(args: &Mixed, server: &Server, fleets: Range<usize>) -> Lane {
    Lane {
        name: "single events",
        aim: Aim::EachInTurn,
        pace: Pace::PerSecond(args.rate),
        callers: CALLERS.min(args.probes),
        bytes: args.common.bytes,
        api: server.api.clone(),
        fleets,
    }
}

fn scan(args: &Mixed, server: &Server, fleets: Range<usize>) -> Lane {
    Lane {
        name: "scans",
        aim: Aim::Matching(Filter::SCAN_ALL),
        pace: args.scan_rate.map_or(Pace::OnDelivery, Pace::PerSecond),
        callers: 1,
        bytes: args.common.bytes,
        api: server.api.clone(),
        fleets,
    }
}

fn measure(
    args: &Mixed,
    first: bool,
    setting: &mut Setting,
    lanes: &[Lane; 2],
    (prefix, server): (&str, Option<Process>),
    findings: &mut Findings,
) -> Result<()> {
    // From here on: what was started before is to stay ordinary.
    let _first = first.then(First::ask);
    setting.warm_up(lanes)?;
    for _ in 0..args.common.repeat {
        let mut p99 = |with: bool, findings: &mut Findings| -> Result<f64> {
            let (lanes, name) = if with {
                (&lanes[..], "with scans")
            } else {
                (&lanes[..1], "alone")
            };
            let name = format!("{prefix}{name}");
            let outcome =
                setting.measure(&name, lanes, (server, args.common.duration), findings)?;
            Ok(note(findings, &name, &outcome))
        };
        let alone = p99(false, findings)?;
        let with = p99(true, findings)?;
        findings.add(
            format!("{prefix}p99 with scans over p99 alone"),
            "times",
            with / alone,
        );
    }
    Ok(())
}

/// Adds the figures of one measurement; answers the single events' p99.
fn note(findings: &mut Findings, name: &str, outcome: &Outcome) -> f64 {
    let single = &outcome.lanes[0];
    findings.add_latencies(&format!("{name}, request to arrival"), &single.deliveries);
    findings.add_latencies(&format!("{name}, request to answer"), &single.answers);
    let late = single.lateness.value_at_quantile(0.99) as f64 / 1e6;
    findings.add(format!("{name}, sent late by p99"), "ms", late);
    if let Some(scans) = outcome.lanes.get(1) {
        findings.add(
            format!("{name}, scans a second"),
            "",
            scans.sent as f64 / outcome.seconds,
        );
        let p99 = scans.deliveries.value_at_quantile(0.99) as f64 / 1e6;
        findings.add(format!("{name}, scan to arrival p99"), "ms", p99);
    }
    add_memory(findings, name, outcome);
    single.deliveries.value_at_quantile(0.99) as f64
}
