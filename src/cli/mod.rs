//! The command line: one file per command, or per kind of command, and beside them what several share.
//!
//! `serve` and `check` are about the server itself, and `manual` about these commands. The others are clients of a
//! server: all they know of it is its HTTP API and the client protocol, so they work against any node, local or far.

mod address;
mod channels;
mod check;
mod configuration;
mod connections;
mod data;
mod emit;
mod event;
mod explain;
mod failure;
mod identity;
mod init;
mod json;
mod listen;
mod log_lines;
mod logging;
mod manual;
mod output;
mod paging;
mod publish;
mod reload;
mod remote;
mod serve;
mod steer;
mod table;
mod target;
mod token;
mod variables;

use std::process::ExitCode;

use clap::{
    CommandFactory, Parser, Subcommand,
    error::{ContextKind, ContextValue, ErrorKind},
};

use self::{failure::Failure, variables::Variables};

/// Realtime event server for code that cannot hold connections: one HTTP request reaches every client for which a
/// filter is true.
#[derive(Debug, Parser)]
#[command(
    name = "fanfare",
    version = env!("BUILD_VERSION"),
    arg_required_else_help = true,
    max_term_width = 110
)]
#[command(after_help = "\
Exit codes: 0 done; 1 refused, failed or not reached; 2 wrong arguments or configuration.
Every command explains itself: fanfare COMMAND --help

Try it, in three terminals:
  fanfare serve
  fanfare listen --user ann --claims '{\"email\":\"ann@example.com\"}'
  fanfare publish ann alert --text Hello")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients and the HTTP API
    Serve(Box<serve::Serve>),
    /// Say whether a configuration would be served, and what it means
    Check(Box<check::Check>),
    /// Check, compact, print or restore the data directory of a server that does not run
    Data(data::Data),
    /// Connect as a client, and print events as they come
    Listen(Box<listen::Listen>),
    /// Send an event to every connection for which a filter is true
    Emit(Box<emit::Emit>),
    /// Send an event to a user
    Publish(Box<publish::Publish>),
    /// Send an event to a channel
    Send(Box<publish::Send>),
    /// Send an event to every connection
    Broadcast(Box<publish::Broadcast>),
    /// List connections, or show one
    Connections(Box<connections::Connections>),
    /// Say whether a user is online
    User(Box<connections::User>),
    /// List channels
    Channels(Box<channels::Channels>),
    /// List the members of a channel
    Members(Box<channels::Members>),
    /// List the stored events of a channel
    History(Box<channels::History>),
    /// Put connections into a channel
    Join(Box<steer::Join>),
    /// Take connections out of a channel
    Leave(Box<steer::Leave>),
    /// Close connections
    Disconnect(Box<steer::Disconnect>),
    /// Refuse the tokens that users have now
    Revoke(Box<identity::Revoke>),
    /// Replace the claims of a user's connections
    Auth(Box<identity::Auth>),
    /// Show how a filter is answered, and which connections match it
    Explain(Box<explain::Explain>),
    /// Sign a client token
    Token(Box<token::Token>),
    /// Write an example that runs as it is
    Init(init::Init),
    /// Print a script for a shell that completes these commands
    Completions(manual::Completions),
    /// Print a page for man
    Man(manual::Man),
}

/// Runs the command that the process was started with, prints what went wrong, and says how the process is to end:
/// 0 done; 1 refused, failed or not reached; 2 wrong arguments or configuration.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = with_tip(error);
            // If this fails, nobody is left to read it.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };

    let variables = Variables::read();
    let done = match cli.command {
        // It reports a failure by itself, since stderr may be stuck.
        Command::Serve(serve) => return serve.run(),
        Command::Check(check) => check.run(),
        Command::Data(data) => data.run(),
        Command::Listen(listen) => blocking(listen.run(&variables)),
        Command::Emit(emit) => blocking(emit.run(&variables)),
        Command::Publish(publish) => blocking(publish.run(&variables)),
        Command::Send(send) => blocking(send.run(&variables)),
        Command::Broadcast(broadcast) => blocking(broadcast.run(&variables)),
        Command::Connections(connections) => blocking(connections.run(&variables)),
        Command::User(user) => blocking(user.run(&variables)),
        Command::Channels(channels) => blocking(channels.run(&variables)),
        Command::Members(members) => blocking(members.run(&variables)),
        Command::History(history) => blocking(history.run(&variables)),
        Command::Join(join) => blocking(join.run(&variables)),
        Command::Leave(leave) => blocking(leave.run(&variables)),
        Command::Disconnect(disconnect) => blocking(disconnect.run(&variables)),
        Command::Revoke(revoke) => blocking(revoke.run(&variables)),
        Command::Auth(auth) => blocking(auth.run(&variables)),
        Command::Explain(explain) => blocking(explain.run(&variables)),
        Command::Token(token) => blocking(token.run(&variables)),
        Command::Init(init) => init.run(),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
    };

    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

/// Flags that other servers have for where they listen.
const LISTEN_FLAGS: [&str; 7] = [
    "--port",
    "-p",
    "--bind",
    "--addr",
    "--address",
    "--host",
    "--hostname",
];

/// The same, with what was probably meant where clap cannot know it.
fn with_tip(mut error: clap::Error) -> clap::Error {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    };

    let (arg, value) = (
        text(ContextKind::InvalidArg),
        text(ContextKind::InvalidValue),
    );
    // clap says in no other way that the flag came before any command.
    let is_for_command = matches!(
        error.get(ContextKind::Usage),
        Some(ContextValue::StyledStr(usage)) if usage.to_string().contains("<COMMAND>")
    );
    let is_of_serve = || {
        let serve = Cli::command();
        let serve = serve.find_subcommand("serve");
        let long = arg.strip_prefix("--").unwrap_or_default();
        serve.is_some_and(|serve| {
            serve
                .get_arguments()
                .any(|one| one.get_long() == Some(long))
        })
    };

    let tip = match error.kind() {
        ErrorKind::UnknownArgument if LISTEN_FLAGS.contains(&arg.as_str()) => {
            // The usage would be that of a flag which only looks like it.
            error.remove(ContextKind::Usage);
            "say where to listen with '--listen 7080', or with an address, '--listen 0.0.0.0:7080'"
                .to_owned()
        }
        ErrorKind::UnknownArgument if is_for_command && is_of_serve() => {
            format!("it is a flag of a command: fanfare serve {arg}")
        }
        ErrorKind::InvalidValue
            if arg.starts_with("--client-auth")
                && ["none", "no", "false", "disabled"].contains(&value.as_str()) =>
        {
            "without tokens is '--client-auth off'".to_owned()
        }
        _ => return error,
    };

    error.remove(ContextKind::SuggestedArg);
    error.insert(
        ContextKind::Suggested,
        ContextValue::StyledStrs(vec![tip.into()]),
    );
    error
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
    use super::*;
    use crate::id::ConnectionId;

    #[test]
    fn the_commands_are_well_formed() {
        Cli::command().debug_assert();
    }

    /// The words of a line of shell, up to a redirection or a pipe; without variables that are set before the command.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for char in line.chars() {
            match (quote, char) {
                (Some(open), _) if open == char => quote = None,
                (None, '"' | '\'') => {
                    quote = Some(char);
                    word.get_or_insert_default();
                }
                (None, ' ') => words.extend(word.take()),
                (None, '|' | '>' | '<' | '&') => break,
                _ => word.get_or_insert_default().push(char),
            }
        }
        words.extend(word);
        let before = words.iter().position(|word| word == "fanfare");
        words.split_off(before.unwrap_or(words.len()))
    }

    #[test]
    fn every_example_can_be_run() {
        let docs = include_str!("../../docs/reference/command-line.md").to_owned();
        let helps = Cli::command();
        let helps = helps
            .get_subcommands()
            .chain([&helps])
            .filter_map(|command| Some(command.get_after_help()?.to_string()));
        let mut count = 0;
        for text in helps.chain([docs]) {
            let lines = text.lines().map(str::trim);
            let is_example =
                |line: &&str| line.starts_with("fanfare ") || line.starts_with("FANFARE_");
            for line in lines.filter(is_example) {
                let parsed = Cli::try_parse_from(words(line));
                assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
                count += 1;
            }
        }
        assert!(count > 60, "{count}");
    }

    #[test]
    fn the_reference_names_every_command() {
        let docs = include_str!("../../docs/reference/command-line.md");
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            for part in [
                format!("\n### `fanfare {name}`\n"),
                format!("\nfanfare {name}"),
                format!("[`{name}`](#fanfare-{name})"),
            ] {
                assert!(docs.contains(&part), "{part}");
            }
        }
    }

    #[test]
    fn only_what_names_the_server_stands_under_its_heading() {
        for command in Cli::command().get_subcommands() {
            for arg in command.get_arguments() {
                let is_of_server = arg.get_help_heading() == Some("Server");
                let name = arg.get_long().unwrap_or_default();
                let names_server = ["url", "key"].contains(&name);
                assert_eq!(
                    is_of_server,
                    names_server,
                    "{} --{name}",
                    command.get_name()
                );
            }
        }
    }

    #[test]
    fn ids_in_examples_look_like_ids() {
        let mut found = 0;
        for command in Cli::command().get_subcommands_mut() {
            let help = command.render_long_help().to_string();
            let words = help.split(|c: char| !c.is_ascii_alphanumeric());
            for word in words.filter(|word| word.len() == ConnectionId::TEXT_LEN) {
                assert!(word.parse::<ConnectionId>().is_ok(), "{word}");
                found += 1;
            }
            assert!(!help.contains("0192f0c1"), "{help}");
        }
        assert!(found >= 2, "{found}");
    }
}
