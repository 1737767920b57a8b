//! `compare`: ours and theirs in one run, one after another, and what came of it as a published comparison.
//!
//! What is measured is a table (`phases.rs`); a summary is made from the raw data alone (`summary.rs`), so that an old
//! run can be summarized anew.

mod args;
mod child;
mod contender;
mod folder;
mod goals;
mod headline;
mod machine;
mod markdown;
mod numbers;
mod paths;
mod phases;
mod plan;
mod progress;
mod raw;
mod results;
mod run;
mod setup;
mod starter;
mod statistics;
mod summary;

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use signal_hook::consts::{SIGINT, SIGTERM};

pub(crate) use self::args::{Compare, Summarize};
use self::{
    contender::{ALL, Contender},
    machine::Machine,
    paths::Hidden,
    plan::Step,
    raw::Writer,
    setup::{Present, Setup, Skipped},
    starter::Starter,
    summary::Summary,
};
use crate::error::{Doing, Result, failed};

/// Runs `compare`; false if a measurement failed or found faults.
pub(crate) fn compare(args: &Compare) -> Result<bool> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))
            .doing("cannot listen for signals")?;
    }
    let hidden = hidden(args)?;
    let (starters, mut skipped) = starter::enlist(args, &stop)?;
    if stop.load(Ordering::Relaxed) {
        return failed("interrupted before the first measurement");
    }
    let present: Vec<Contender> = starters.iter().map(|starter| starter.server).collect();
    let (steps, without_servers) = plan::plan(args.extent(), &present, &args.only)?;
    skipped.extend(without_servers);
    for Skipped { what, why } in &skipped {
        eprintln!("skipped: {what}: {why}");
    }
    if steps.is_empty() {
        return failed("there is nothing to measure: see what is skipped, and why");
    }
    let setup = setup(args, &steps, &starters, skipped, &stop);
    let name = args
        .name
        .clone()
        .unwrap_or_else(|| setup.machine.short_name());
    let folder = folder::create(&args.into, &format!("{}-{name}", setup.date()))?;
    setup.write(&folder, &hidden)?;
    let mut raw = Writer::new(&folder, hidden)?;
    let ended = run::run(&steps, args.extent(), &starters, &mut raw, &stop);
    // However it ended: what was measured is not to be lost.
    let clean = write_summary(&folder)?;
    eprintln!("see {}", folder.join(SUMMARY_PAGE).display());
    ended?;
    if stop.load(Ordering::Relaxed) {
        return failed("interrupted; what was measured until then is summarized");
    }
    Ok(clean)
}

/// Runs `summarize`.
pub(crate) fn summarize(args: &Summarize) -> Result<bool> {
    if args.headline {
        print!(
            "{}",
            headline::table(
                &Setup::read(&args.folder)?,
                &raw::read(&args.folder)?,
                &args.folder
            )
        );
        return Ok(true);
    }
    write_summary(&args.folder).map(|_| true)
}

const SUMMARY: &str = "summary.json";
const SUMMARY_PAGE: &str = "summary.md";

/// Makes the summary of what is in `folder`; answers whether no measurement had faults.
fn write_summary(folder: &Path) -> Result<bool> {
    let summary = Summary::new(Setup::read(folder)?, &raw::read(folder)?);
    let json = serde_json::to_string_pretty(&summary)
        .map_err(std::io::Error::from)
        .doing("cannot write JSON")?;
    for (name, text) in [
        (SUMMARY, json + "\n"),
        (SUMMARY_PAGE, markdown::page(&summary)),
    ] {
        fs::write(folder.join(name), text).doing(format!("cannot write {name}"))?;
    }
    Ok(summary.faults.is_empty())
}

/// What is not to be published: where things are on this machine.
fn hidden(args: &Compare) -> Result<Hidden> {
    let mut hidden = Hidden::default();
    hidden.program(&starter::this_program()?);
    for program in ALL.iter().filter_map(|&server| args.program(server)) {
        hidden.program(program);
    }
    hidden.folder(&std::env::current_dir().doing("there is no working directory")?);
    Ok(hidden)
}

fn setup(
    args: &Compare,
    steps: &[Step],
    starters: &[Starter],
    skipped: Vec<Skipped>,
    stop: &AtomicBool,
) -> Setup {
    let extent = args.extent();
    let present = |starter: &Starter| Present {
        server: starter.server,
        version: starter.version.clone(),
    };
    Setup {
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        machine: Machine::this(),
        command: args.words(),
        commit: starter::commit(args.program(Contender::Fanfare), stop),
        servers: starters.iter().map(present).collect(),
        skipped,
        rounds: extent.rounds,
        other_rounds: extent.other_rounds,
        duration_seconds: extent.duration.as_secs_f64(),
        connections_divided_by: extent.divisor,
        planned: steps.len(),
    }
}
