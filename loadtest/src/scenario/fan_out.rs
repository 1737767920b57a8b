//! `flood` and `serial`: events to everyone, each under way until every connection has it.

use super::{Setting, WARM_UP, lasting};
use crate::{
    cli::Common,
    error::Result,
    publisher::{Aim, Lane, Pace},
    report::Findings,
    server::Server,
};

/// Runs `flood` with `depth` events under way, or `serial` with one.
pub(crate) fn fan_out(
    scenario: &'static str,
    common: &Common,
    connections: usize,
    depth: u16,
) -> Result<Findings> {
    let settings = vec![
        ("connections", connections.to_string()),
        ("bytes", common.bytes.to_string()),
        ("under way", depth.to_string()),
    ];
    let mut findings = Findings::new(scenario, settings);
    let server = Server::open(common)?;
    let mut setting = Setting::new()?;
    let fleets = setting.connect(common, &server, connections)?;
    let lane = Lane {
        aim: Aim::Everyone,
        pace: Pace::OnDelivery,
        callers: usize::from(depth),
        bytes: common.bytes,
        api: server.api.clone(),
        fleets,
    };
    let lanes = [lane];
    setting.drive(&lanes, lasting(WARM_UP), None)?;
    for _ in 0..common.repeat {
        let outcome = setting.drive(&lanes, lasting(common.duration), server.process)?;
        findings.blame(&outcome);
        let deliveries = outcome.report.deliveries;
        if let Some(micros) = outcome.cpu_micros {
            findings.add("server CPU per delivery", "µs", micros as f64 / deliveries.max(1) as f64);
        }
        findings.add("deliveries a second", "", deliveries as f64 / outcome.seconds);
        findings.add("events a second", "", outcome.lanes[0].sent as f64 / outcome.seconds);
        findings.add_latencies("request to arrival", &outcome.lanes[0].deliveries);
        findings.add_latencies("request to answer", &outcome.lanes[0].answers);
    }
    Ok(findings)
}
