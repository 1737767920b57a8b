//! `flood` and `serial`: events to everyone, so many under way at once.

use super::{Setting, WARM_UP, lasting};
use crate::{
    cli::{Common, Until},
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
    until: Until,
) -> Result<Findings> {
    let settings = vec![
        ("connections", connections.to_string()),
        ("bytes", common.bytes.to_string()),
        ("under way", depth.to_string()),
        ("until", format!("{until:?}").to_lowercase()),
    ];
    let mut findings = Findings::new(scenario, settings);
    let server = Server::open(common)?;
    let mut setting = Setting::new()?;
    let fleets = setting.connect(common, &server, connections, false)?;
    let lane = Lane {
        aim: Aim::Everyone,
        pace: if until == Until::Delivered { Pace::OnDelivery } else { Pace::OnAnswer },
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
