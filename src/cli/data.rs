//! `fanfare data`: what operators do with a data directory that no server has open.

use std::{
    io::{self, BufWriter, Write as _},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::{Failure, output};
use crate::history::data_tools as tools;

/// Arguments of `fanfare data`.
#[derive(Args, Debug)]
#[command(after_help = "\
The server must not run: a data directory serves one process at a time.

Examples:
  fanfare data check /var/lib/fanfare
  fanfare data dump /var/lib/fanfare | jq 'select(.channel == \"news\")'
  fanfare data restore /var/lib/fanfare")]
pub(super) struct Data {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read everything in the directory, and say what it holds and what is wrong
    Check(Directory),
    /// Rewrite the files without what was removed
    Compact(Directory),
    /// Print each stored event as a line of JSON
    Dump(Directory),
    /// Begin new epochs, in a copy or a backup, so that no client takes what is missing for received
    Restore(Directory),
}

#[derive(Args, Debug)]
struct Directory {
    /// The data directory
    #[arg(value_name = "DIR")]
    path: PathBuf,
}

impl Data {
    /// Does what is asked.
    ///
    /// # Errors
    /// The directory is not there, is in use, or is damaged.
    pub(super) fn run(self) -> Result<(), Failure> {
        match self.action {
            Action::Check(directory) => check(&directory),
            Action::Compact(Directory { path }) => {
                tools::compact(&path).map_err(|error| failed(&error))?;
                output::note(&format!("{} was compacted", path.display()));
                Ok(())
            }
            Action::Dump(Directory { path }) => {
                // Locked and buffered as a whole: a dump may have millions of lines.
                let mut out = BufWriter::new(io::stdout().lock());
                tools::dump(&path, &mut out).map_err(|error| failed(&error))?;
                out.flush().map_err(|error| failed(&error))
            }
            Action::Restore(Directory { path }) => {
                tools::restore(&path).map_err(|error| failed(&error))?;
                output::note(&format!(
                    "channels in {} go on in new epochs: clients that come back learn that events may be missing",
                    path.display()
                ));
                Ok(())
            }
        }
    }
}

fn check(Directory { path }: &Directory) -> Result<(), Failure> {
    let findings = tools::check(path).map_err(|error| failed(&error))?;
    output::print(&format!(
        "{}: {} events of {} channels and users, {} bytes; {} revocations and stored answers\n",
        path.display(),
        findings.events,
        findings.topics,
        findings.bytes,
        findings.facts
    ))?;

    // The counts were printed all the same. Problems go to stderr, and make the exit code 1.
    if findings.problems.is_empty() {
        return Ok(());
    }
    Err(failed(&findings.problems.join("\n")))
}

fn failed(error: &impl ToString) -> Failure {
    Failure::Data(error.to_string())
}
