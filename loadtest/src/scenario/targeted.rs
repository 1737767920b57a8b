//! `targeted`: one HTTP request to one user after another.

use super::{Setting, add_memory};
use crate::{
    cli::Targeted,
    error::Result,
    publisher::{Aim, Lane, Pace},
    report::Findings,
    server::Server,
};

/// Runs `targeted`.
pub(crate) fn targeted(args: &Targeted) -> Result<Findings> {
    let common = &args.common;
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("bytes", common.bytes.to_string()),
        ("under way", args.depth.to_string()),
        (
            "rate",
            args.rate
                .map_or("as answered".to_owned(), |rate| rate.to_string()),
        ),
    ];
    let mut findings = Findings::new("targeted", common, settings);
    let server = Server::open(common)?;
    let mut setting = Setting::new(common.repeat.into())?;
    let fleets = setting.connect(common, &server, args.connections, false)?;
    let lanes = [Lane {
        name: "single events",
        aim: Aim::EachInTurn,
        pace: args.rate.map_or(Pace::OnAnswer, Pace::PerSecond),
        callers: usize::from(args.depth),
        bytes: common.bytes,
        api: server.api.clone(),
        fleets,
    }];
    setting.warm_up(&lanes)?;
    for _ in 0..common.repeat {
        let outcome =
            setting.measure("", &lanes, (server.process, common.duration), &mut findings)?;
        let lane = &outcome.lanes[0];
        findings.add("events a second", "", lane.sent as f64 / outcome.seconds);
        if let Some(micros) = outcome.cpu_micros_per(lane.sent) {
            findings.add("server CPU per event", "µs", micros);
        }
        findings.add_latencies("request to arrival", &lane.deliveries);
        findings.add_latencies("request to answer", &lane.answers);
        findings.add_latencies("sent late by", &lane.lateness);
        add_memory(&mut findings, "", &outcome);
    }
    Ok(findings)
}
