//! The command line: one command per file, and beside them what several share.
//!
//! `serve` and `check` speak of the server itself. The others are clients of one: all they know of it is its HTTP
//! API and the client protocol, so they work against any node, local or far.

mod address;
mod check;
mod configuration;
mod emit;
mod explain;
mod failure;
mod json;
mod listen;
mod logging;
mod output;
mod reload;
mod remote;
mod serve;
mod token;
mod variables;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::{failure::Failure, variables::Variables};

/// Realtime event server for code that cannot hold connections: one HTTP request reaches every client for which a
/// filter is true.
#[derive(Debug, Parser)]
#[command(
    name = "fanfare",
    version,
    arg_required_else_help = true,
    max_term_width = 110
)]
#[command(after_help = "\
Exit codes: 0 done; 1 refused, failed or not reached; 2 wrong arguments or configuration.

Try it, in two terminals:
  fanfare serve
  fanfare listen --user ann --claims '{\"email\":\"ann@example.com\"}'")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients and the HTTP API
    Serve(Box<serve::Serve>),
    /// Connect as a client, and print events as they come
    Listen(Box<listen::Listen>),
    /// Send an event to every client for which a filter is true
    Emit(Box<emit::Emit>),
    /// Sign a client token
    Token(Box<token::Token>),
    /// Show how a filter is answered, and who matches it
    Explain(Box<explain::Explain>),
    /// Say whether a configuration would be served, and what it means
    Check(Box<check::Check>),
}

/// Runs the command that the process was started with, prints what went wrong, and says how the process is to end:
/// 0 done; 1 refused, failed or not reached; 2 wrong arguments or configuration.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing is left to say it to if this fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let variables = Variables::read();
    let done = match cli.command {
        Command::Serve(serve) => return serve.run(),
        Command::Check(check) => check.run(),
        Command::Listen(listen) => blocking(listen.run(&variables)),
        Command::Emit(emit) => blocking(emit.run(&variables)),
        Command::Token(token) => blocking(token.run(&variables)),
        Command::Explain(explain) => blocking(explain.run(&variables)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Runs a client command on this thread.
fn blocking(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::Runtime)?
        .block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }
}
