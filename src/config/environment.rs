//! Variables to settings: each goes through the flag of the same name, so that the two cannot differ.

use std::error::Error as _;

use clap::{
    Arg, Args as _, Command, FromArgMatches as _,
    error::{ContextKind, ContextValue},
};

use super::{
    Problem, ServeArgs,
    args::{LimitSetting, named},
    error::nearest,
};

const PREFIX: &str = "FANFARE_";
const LIMIT: &str = "LIMIT_";

/// The variable by which platforms say where to listen; the only one without the prefix.
pub(super) const PORT: &str = "PORT";

/// Variables that the other commands read.
const CLIENT_VARIABLES: [&str; 2] = ["FANFARE_URL", "FANFARE_TOKEN"];

/// The variables of the process that are Fanfare's: the only look at the environment in this crate.
///
/// A value that is not UTF-8 comes with its bad bytes replaced, and so fails where it is parsed.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| {
            (
                name.to_string_lossy().into_owned(),
                value.to_string_lossy().into_owned(),
            )
        })
        .filter(|(name, _)| name.starts_with(PREFIX) || name == PORT)
}

/// What the environment says.
#[derive(Debug)]
pub(super) struct Variables {
    /// They count as if they were given by flags.
    pub(super) args: ServeArgs,
    /// `PORT`, as it is written.
    pub(super) port: Option<String>,
}

/// Reads Fanfare's variables as if they were flags; what is wrong goes to `problems`.
pub(super) fn read(
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &mut Vec<Problem>,
) -> Variables {
    let command = ServeArgs::augment_args(Command::new("fanfare").no_binary_name(true));
    let flags: Vec<&str> = command
        .get_arguments()
        .filter_map(Arg::get_long)
        // Each bound has a variable of its own, and its name is part of that.
        .filter(|flag| *flag != "limit")
        .collect();

    let mut line = Vec::new();
    let mut limits = Vec::new();
    let mut port = None;

    for (variable, value) in environment {
        if variable == PORT {
            port = Some(value).filter(|value| !value.is_empty());
            continue;
        }
        let Some(name) = variable.strip_prefix(PREFIX) else {
            continue;
        };

        // Compose files and charts pass on what is not set as an empty variable.
        if value.is_empty()
            || CLIENT_VARIABLES.contains(&&*variable)
            || is_service_link(name, &value)
        {
            continue;
        }

        if let Some(limit) = name.strip_prefix(LIMIT) {
            limits.push(LimitSetting {
                name: limit.to_lowercase(),
                value,
            });
        } else if let Some(flag) = flags.iter().find(|flag| named(PREFIX, flag) == variable) {
            // Each is parsed by itself, so that a problem names its own variable.
            let word = format!("--{flag}={value}");
            match command.clone().try_get_matches_from([&word]) {
                Ok(_) => line.push(word),
                Err(error) => problems.push(Problem::Value {
                    place: variable,
                    message: cause(&error),
                }),
            }
        } else {
            problems.push(unknown(variable, &flags));
        }
    }

    let read = command
        .try_get_matches_from(line)
        .and_then(|matches| ServeArgs::from_arg_matches(&matches));
    let mut args = read.unwrap_or_else(|error| {
        // Each is right by itself, so two of them exclude each other.
        problems.push(Problem::Value {
            place: "environment".to_owned(),
            message: cause(&error),
        });
        ServeArgs::default()
    });
    args.limits = limits;
    Variables { args, port }
}

fn unknown(variable: String, flags: &[&str]) -> Problem {
    if variable == "FANFARE_PORT" {
        return Problem::Value {
            place: "environment".to_owned(),
            message: format!("unknown variable \"{variable}\"; set FANFARE_LISTEN, or {PORT}"),
        };
    }

    let known: Vec<String> = flags.iter().map(|flag| named(PREFIX, flag)).collect();
    let nearest = nearest(&variable, known.iter().map(String::as_str));
    Problem::Unknown {
        place: "environment".to_owned(),
        kind: "variable",
        name: variable,
        nearest,
    }
}

/// What clap says, without its mention of a flag that nobody gave.
fn cause(error: &clap::Error) -> String {
    match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(source), _) => source.to_string(),
        (None, Some(ContextValue::Strings(valid))) => {
            format!("it must be one of {}", valid.join(", "))
        }
        (None, _) => error.kind().to_string(),
    }
}

/// Kubernetes gives every pod the addresses of all services in variables: those of a service called `fanfare`, such
/// as `FANFARE_PORT=tcp://10.0.0.1:80`, look like ours, and must not keep the server from starting.
fn is_service_link(name: &str, value: &str) -> bool {
    name.ends_with("SERVICE_HOST")
        || name.contains("SERVICE_PORT")
        || (name.starts_with("PORT") || name.contains("_PORT"))
            && (value.contains("://")
                || ["_PROTO", "_PORT", "_ADDR"]
                    .iter()
                    .any(|end| name.ends_with(end)))
}
