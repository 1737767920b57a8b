//! `filtered`: events to those of many connections that a filter matches, and beside it the same number of
//! connections by themselves on a server of their own, with events to everyone: what the filter costs.

use std::ops::Range;

use super::{Setting, add_memory};
use crate::{
    cli::{Common, Filtered, Kind},
    driver::need_filters,
    error::{Result, failed},
    filter::{By, Filter, INDEXED},
    inspect,
    publisher::{Aim, Lane, Pace},
    report::Findings,
    server::Server,
};

/// What one measurement says of the costs of an event.
struct Costs {
    cpu_micros: Option<f64>,
    p50: f64,
    p99: f64,
}

/// Runs `filtered`; without the reference where the server is not started here.
pub(crate) fn filtered(args: &Filtered) -> Result<Findings> {
    need_filters(&args.common.target)?;
    if args.common.target.kind() == Kind::Floor {
        return failed(
            "the floor knows no filters; what it costs to send to N is `serial --floor -n N`",
        );
    }
    let filter = Filter {
        by: args.by,
        share: args.share,
    };
    let matching = (0..args.connections)
        .filter(|&user| filter.matches(user))
        .count();
    if matching == 0 {
        return failed("the filter matches none of so few connections: -n must be at least 100");
    }
    // For a scan too: both kinds then have the same server.
    let common = args.common.with_server_arg(&format!("--index={INDEXED}"));
    let sides = if common.target.url.is_none() { 2 } else { 1 };
    let mut setting = Setting::new(usize::from(common.repeat) * sides)?;
    let server = Server::open(&common)?;
    let fleets = setting.connect(&common, &server, args.connections, false)?;
    check(&server, filter, matching)?;
    let mut sides = vec![(
        "filtered",
        lane(&common, &server, Aim::Matching(filter), fleets),
        server,
    )];
    if common.target.url.is_none() {
        let server = Server::open(&common)?;
        let fleets = setting.connect(&common, &server, matching, false)?;
        sides.push((
            "alone",
            lane(&common, &server, Aim::Everyone, fleets),
            server,
        ));
    }
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("matching", matching.to_string()),
        ("by", format!("{:?}", args.by).to_lowercase()),
        ("bytes", common.bytes.to_string()),
        ("filter", filter.summary()),
    ];
    let mut findings = Findings::new("filtered", &common, settings);
    for (_, lane, _) in &sides {
        setting.warm_up(std::slice::from_ref(lane))?;
    }
    for _ in 0..common.repeat {
        let mut costs = Vec::new();
        for side in &sides {
            costs.push(measure(&mut setting, &common, side, &mut findings)?);
        }
        if let [filtered, alone] = &costs[..] {
            compare(filtered, alone, &mut findings);
        }
    }
    Ok(findings)
}

/// Makes sure that the server finds whom it should, in the way it should.
fn check(server: &Server, filter: Filter, matching: usize) -> Result<()> {
    let explained = inspect::explain(&server.api, &filter.text())?;
    let wanted = if filter.by == By::Index {
        "index"
    } else {
        "scan"
    };
    if explained.plan.access != wanted {
        let hint = if wanted == "index" {
            format!("; start it with --index {INDEXED}")
        } else {
            String::new()
        };
        return failed(format!(
            "the server answers {} otherwise than by {wanted}: {}{hint}",
            filter.text(),
            explained.plan.description
        ));
    }
    if explained.matched != matching {
        let found = explained.matched;
        return failed(format!(
            "{} matches {found} connections instead of {matching}",
            filter.text()
        ));
    }
    Ok(())
}

fn lane(common: &Common, server: &Server, aim: Aim, fleets: Range<usize>) -> Lane {
    Lane {
        name: "events",
        aim,
        pace: Pace::OnDelivery,
        callers: 1,
        bytes: common.bytes,
        api: server.api.clone(),
        fleets,
    }
}

fn measure(
    setting: &mut Setting,
    common: &Common,
    (name, lane, server): &(&str, Lane, Server),
    findings: &mut Findings,
) -> Result<Costs> {
    let outcome = setting.measure(
        name,
        std::slice::from_ref(lane),
        (server.process, common.duration),
        findings,
    )?;
    let lane = &outcome.lanes[0];
    let cpu_micros = outcome.cpu_micros_per(lane.sent);
    if let Some(micros) = cpu_micros {
        findings.add(format!("{name}, server CPU per event"), "µs", micros);
    }
    if let Some(micros) = outcome.cpu_micros_per(outcome.report.deliveries) {
        findings.add(format!("{name}, server CPU per delivery"), "µs", micros);
    }
    findings.add(
        format!("{name}, events a second"),
        "",
        lane.sent as f64 / outcome.seconds,
    );
    findings.add_latencies(&format!("{name}, request to arrival"), &lane.deliveries);
    findings.add_latencies(&format!("{name}, request to answer"), &lane.answers);
    add_memory(findings, name, &outcome);
    Ok(Costs {
        cpu_micros,
        p50: lane.deliveries.value_at_quantile(0.5) as f64,
        p99: lane.deliveries.value_at_quantile(0.99) as f64,
    })
}

fn compare(filtered: &Costs, alone: &Costs, findings: &mut Findings) {
    if let (Some(filtered), Some(alone)) = (filtered.cpu_micros, alone.cpu_micros) {
        findings.add(
            "CPU per event, filtered over alone",
            "times",
            filtered / alone,
        );
    }
    findings.add(
        "p50 to arrival, filtered over alone",
        "times",
        filtered.p50 / alone.p50,
    );
    findings.add(
        "p99 to arrival, filtered over alone",
        "times",
        filtered.p99 / alone.p99,
    );
}
