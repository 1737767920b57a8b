//! Measures: one scenario after another, each in a process of its own.

use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use super::{
    args::Extent,
    child::{self, Ended, Run},
    plan::Step,
    progress::Progress,
    raw::{Measurement, Writer},
    starter::{Starter, this_program},
};
use crate::error::Result;

/// How long a measurement may take without what it is told to last.
const PATIENCE: Duration = Duration::from_mins(4);

/// Carries out `steps`, and keeps what comes; ends early when `stop` is set.
pub(super) fn run(
    steps: &[Step],
    extent: Extent,
    starters: &[Starter],
    raw: &mut Writer,
    stop: &AtomicBool,
) -> Result<()> {
    let mut progress = Progress::new(steps, extent);
    eprintln!("{}", progress.begin());
    let mut done = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let Some(starter) = starters
            .iter()
            .find(|starter| starter.server == step.server)
        else {
            continue;
        };
        starter.check()?;
        let measurement = measure(step, extent, starter, &done, stop)?;
        if stop.load(Ordering::Relaxed) {
            break;
        }
        raw.add(&measurement)?;
        eprintln!("{}", progress.done(at, &measurement));
        done.push(measurement);
    }
    Ok(())
}

fn measure(
    step: &Step,
    extent: Extent,
    starter: &Starter,
    done: &[Measurement],
    stop: &AtomicBool,
) -> Result<Measurement> {
    let began = Instant::now();
    let mut measurement = Measurement {
        round: step.round,
        phase: step.phase.name(),
        server: step.server,
        at: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        seconds: 0.0,
        arguments: Vec::new(),
        findings: None,
        error: None,
    };
    match rate(step, done) {
        Ok(rate) => {
            measurement.arguments = arguments(step, extent, starter, rate);
            let mut command = Command::new(this_program()?);
            command.args(&measurement.arguments);
            let run = child::run(command, PATIENCE + extent.duration * 10, stop)?;
            (measurement.findings, measurement.error) = judge(&run);
        }
        Err(why) => measurement.error = Some(why),
    }
    measurement.seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    Ok(measurement)
}

/// The rate that another one of this round has set, if that is how this one is paced.
fn rate(step: &Step, done: &[Measurement]) -> std::result::Result<Option<f64>, String> {
    let Some((phase, pacemaker)) = step.phase.pacemaker() else {
        return Ok(None);
    };
    let found = done.iter().rev().find(|other| {
        other.round == step.round && other.server == pacemaker.server && other.phase == phase.name()
    });
    let rate = found
        .and_then(|found| found.figure(pacemaker.figure))
        .filter(|rate| *rate > 0.0);
    let missing = || {
        format!(
            "{} with {} gave no rate",
            phase.name(),
            pacemaker.server.name()
        )
    };
    rate.map(Some).ok_or_else(missing)
}

fn arguments(step: &Step, extent: Extent, starter: &Starter, rate: Option<f64>) -> Vec<String> {
    let (family, case) = (step.phase.family, step.phase.case);
    let fewer = |count: usize| (count / extent.divisor).to_string();
    let mut arguments = vec![
        family.scenario.to_owned(),
        "-n".to_owned(),
        fewer(case.connections),
    ];
    arguments.extend(
        family
            .arguments
            .iter()
            .chain(case.arguments)
            .map(|&argument| argument.to_owned()),
    );
    if extent.divisor > 1 {
        arguments.extend(
            family
                .when_quick
                .iter()
                .map(|&argument| argument.to_owned()),
        );
    }
    for &(flag, count) in case.parts {
        arguments.extend([flag.to_owned(), fewer(count)]);
    }
    if let Some(rate) = rate {
        arguments.extend(["--rate".to_owned(), format!("{rate:.3}")]);
    }
    let duration = humantime::format_duration(extent.duration).to_string();
    arguments.extend(["--duration".to_owned(), duration.replace(' ', "")]);
    arguments.extend(["--repeat", "1", "--json"].map(str::to_owned));
    arguments.extend(starter.arguments.iter().cloned());
    arguments
}

/// What a scenario has found, and what was wrong.
fn judge(run: &Run) -> (Option<serde_json::Value>, Option<String>) {
    let findings = serde_json::from_str(&run.output).ok();
    let said = run.reason();
    let error = match &run.ended {
        Ended::Exited(0) if findings.is_some() => None,
        Ended::Exited(0) => Some("it printed no report".to_owned()),
        Ended::Exited(1) => Some("faults".to_owned()),
        Ended::Exited(_) => Some(said.to_owned()),
        Ended::Killed(signal) => Some(format!("it was ended by signal {signal}; {said}")),
        Ended::TooLate => Some(format!("it hung, and was ended; {said}")),
        Ended::Stopped => Some("it was called off".to_owned()),
    };
    (findings, error)
}
