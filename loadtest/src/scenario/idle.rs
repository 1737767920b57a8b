//! `idle`: memory and handshakes of connections that do nothing.
//!
//! The process is warm before the baseline: connections have come, had an event and gone. Those that are measured
//! have had an event too, and are proven to be there afterwards by another.

use std::{ops::Range, time::Instant};

use super::Setting;
use crate::{
    cli::Idle,
    error::{Result, failed},
    fleets::Limits,
    publisher::Outcome,
    report::Findings,
    server::Server,
};

/// Connections that warm the server up.
const WARM_UP: usize = 1000;

/// Runs `idle`; a server that is started here is started anew for each repetition.
pub(crate) fn idle(args: &Idle) -> Result<Findings> {
    let common = &args.common;
    let settings = vec![
        ("connections", args.connections.to_string()),
        ("settle", format!("{:?}", args.settle)),
    ];
    let mut findings = Findings::new("idle", common, settings);
    for _ in 0..common.repeat {
        let server = Server::open(common)?;
        let mut setting = Setting::new(1)?;
        let fleets = setting.fleets.start(args.connections, false)?;
        once(args, &server, &mut setting, &fleets, &mut findings)?;
        if !server.is_ours() {
            break;
        }
    }
    Ok(findings)
}

fn once(
    args: &Idle,
    server: &Server,
    setting: &mut Setting,
    fleets: &Range<usize>,
    findings: &mut Findings,
) -> Result<()> {
    let Some(process) = server.process else {
        return failed("idle measures a process: name it by --pid, or start it by --server-binary");
    };
    setting.reconnect(
        &args.common,
        server,
        fleets,
        Limits {
            connections: Some(WARM_UP),
            ..Limits::default()
        },
    )?;
    check(&setting.exercise(server, fleets)?, findings)?;
    setting.fleets.disconnect(fleets)?;
    setting.progress.sleep("settling", args.settle);
    let before = process.memory()?;
    let (cpu, began) = (process.cpu()?, Instant::now());
    setting.reconnect(&args.common, server, fleets, Limits::default())?;
    let seconds = began.elapsed().as_secs_f64();
    let cpu = process.cpu()?.saturating_sub(cpu);
    check(&setting.exercise(server, fleets)?, findings)?;
    setting.progress.sleep("settling", args.settle);
    let after = process.memory()?;
    check(&setting.exercise(server, fleets)?, findings)?;
    setting.fleets.disconnect(fleets)?;
    let each = |bytes: u64| bytes as f64 / args.connections as f64;
    let grown = |before: u64, after: u64| each(after.saturating_sub(before));
    findings.add(
        "anonymous memory per connection",
        "bytes",
        grown(before.anonymous, after.anonymous),
    );
    findings.add(
        "resident memory per connection",
        "bytes",
        grown(before.resident, after.resident),
    );
    findings.add(
        "anonymous memory before",
        "KiB",
        before.anonymous as f64 / 1024.0,
    );
    findings.add(
        "server CPU per handshake",
        "µs",
        cpu.as_secs_f64() * 1e6 / args.connections as f64,
    );
    findings.add(
        "handshakes a second (paced)",
        "",
        args.connections as f64 / seconds,
    );
    Ok(())
}

fn check(outcome: &Outcome, findings: &mut Findings) -> Result<()> {
    findings.blame(outcome);
    if outcome.lanes[0].sent == 0 {
        return failed("the server did not take the event that every connection is tested by");
    }
    Ok(())
}
