//! The `fanfare-loadtest` command; see its README.

mod abuse;
mod cli;
mod client;
mod clock;
mod compare;
mod driver;
mod error;
mod failures;
mod filter;
mod fleets;
mod floor;
mod http;
mod inspect;
mod node;
mod priority;
mod process;
mod progress;
mod publisher;
mod reconnect;
#[path = "../../tests/support/redis/mod.rs"]
mod redis;
mod report;
mod scale;
mod scenario;
mod server;
mod soak;
mod socket;
mod stamp;
mod token;
mod track;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Command, Common},
    error::{Doing, Result},
    report::Findings,
};

fn main() -> ExitCode {
    match run(&Cli::parse().command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// True if nothing went wrong that a test looks for.
fn run(command: &Command) -> Result<bool> {
    let (findings, common) = match command {
        Command::Fleet { first } => return client::run(*first).map(|()| true),
        Command::Floor { listen } => return floor::run(*listen).map(|()| true),
        Command::Servers => {
            driver::list();
            return Ok(true);
        }
        Command::Failures(args) => return failures::failures(args),
        Command::Scale(args) => return scale::scale(args),
        Command::Reconnect(args) => return reconnect::reconnect(args),
        Command::Abuse(args) => return abuse::abuse(args),
        Command::Attack(args) => return abuse::attack(args),
        Command::Soak(args) => return soak::soak(args),
        Command::Compare(args) => return compare::compare(args),
        Command::Summarize(args) => return compare::summarize(args),
        Command::Idle(args) => (scenario::idle(args)?, &args.common),
        Command::Flood(args) => (scenario::flood(args)?, &args.common),
        Command::Serial(args) => (scenario::serial(args)?, &args.common),
        Command::Paced(args) => (scenario::paced(args)?, &args.common),
        Command::Filtered(args) => (scenario::filtered(args)?, &args.common),
        Command::Churn(args) => (scenario::churn(args)?, &args.common),
        Command::Drops(args) => (scenario::drops(args)?, &args.common),
        Command::Cluster(args) => (scenario::cluster(args)?, &args.common),
        Command::Slow(args) => (scenario::slow(args)?, &args.common),
        Command::Targeted(args) => (scenario::targeted(args)?, &args.common),
        Command::Mixed(args) => (scenario::mixed(args)?, &args.common),
    };
    print(&findings, common)?;
    Ok(findings.is_clean())
}

/// Prints the findings, and writes their page if one is wanted.
fn print(findings: &Findings, common: &Common) -> Result<()> {
    if common.json {
        let json = serde_json::to_string_pretty(findings).map_err(std::io::Error::from);
        println!("{}", json.doing("cannot write JSON")?);
    } else {
        print!("{findings}");
    }
    if let Some(path) = &common.report {
        let shown = path.display();
        std::fs::write(path, report::page(findings)?).doing(format!("cannot write {shown}"))?;
        if !common.json {
            println!("  report: {shown}");
        }
    }
    Ok(())
}
