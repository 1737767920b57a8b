//! `flood`, `serial` and `paced`: events to everyone, as fast as they are taken or at a rate.

use super::{PACED_CALLERS, Setting, add_memory};
use crate::{
    cli::{Common, Flood, Paced, Serial, Until},
    error::Result,
    publisher::{Aim, Lane, Outcome, Pace},
    report::Findings,
    server::Server,
};

/// Runs `flood`.
pub(crate) fn flood(args: &Flood) -> Result<Findings> {
    let pace = if args.until == Until::Delivered {
        Pace::OnDelivery
    } else {
        Pace::OnAnswer
    };
    let settings = vec![
        ("under way", args.depth.to_string()),
        ("until", format!("{:?}", args.until).to_lowercase()),
    ];
    run(
        "flood",
        &args.common,
        args.connections,
        (pace, usize::from(args.depth)),
        settings,
    )
}

/// Runs `serial`.
pub(crate) fn serial(args: &Serial) -> Result<Findings> {
    let settings = vec![
        ("under way", "1".to_owned()),
        ("until", "delivered".to_owned()),
    ];
    run(
        "serial",
        &args.common,
        args.connections,
        (Pace::OnDelivery, 1),
        settings,
    )
}

/// Runs `paced`.
pub(crate) fn paced(args: &Paced) -> Result<Findings> {
    let settings = vec![("rate", args.rate.to_string())];
    run(
        "paced",
        &args.common,
        args.connections,
        (Pace::PerSecond(args.rate), PACED_CALLERS),
        settings,
    )
}

fn run(
    scenario: &'static str,
    common: &Common,
    connections: usize,
    (pace, callers): (Pace, usize),
    more: Vec<(&'static str, String)>,
) -> Result<Findings> {
    let mut settings = vec![
        ("connections", connections.to_string()),
        ("bytes", common.bytes.to_string()),
    ];
    settings.extend(more);
    let mut findings = Findings::new(scenario, common, settings);
    let server = Server::open(common)?;
    let mut setting = Setting::new(common.repeat.into())?;
    let fleets = setting.connect(common, &server, connections, false)?;
    let lane = Lane {
        name: "events",
        aim: Aim::Everyone,
        pace,
        callers,
        bytes: common.bytes,
        api: server.api.clone(),
        fleets,
    };
    let lanes = [lane];
    setting.warm_up(&lanes)?;
    for _ in 0..common.repeat {
        let outcome =
            setting.measure("", &lanes, (server.process, common.duration), &mut findings)?;
        note(&mut findings, &outcome);
    }
    Ok(findings)
}

/// Adds the figures of one measurement.
fn note(findings: &mut Findings, outcome: &Outcome) {
    let (lane, deliveries) = (&outcome.lanes[0], outcome.report.deliveries);
    if let Some(micros) = outcome.cpu_micros_per(deliveries) {
        findings.add("server CPU per delivery", "µs", micros);
    }
    findings.add(
        "deliveries a second",
        "",
        deliveries as f64 / outcome.seconds,
    );
    findings.add("events a second", "", lane.sent as f64 / outcome.seconds);
    findings.add_latencies("request to arrival", &lane.deliveries);
    findings.add_latencies("request to answer", &lane.answers);
    findings.add_latencies("sent late by", &lane.lateness);
    add_memory(findings, "", outcome);
}
