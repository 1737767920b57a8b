//! What starts each server, and what is missing where one cannot be started.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::AtomicBool,
    time::{Duration, SystemTime},
};

use super::{
    args::Compare,
    child::{self, Ended},
    contender::{ALL, Contender},
    plan::is_wanted,
    setup::Skipped,
};
use crate::{
    cli::Place,
    error::{Doing, Result, failed},
};

/// How long a program may take to say its version, and a first small load.
const PATIENCE: Duration = Duration::from_mins(1);

/// The key that Fanfare is told to want, and its callers to show.
const API_KEY: &str = "load-test-key-0123456789abcdef";

/// A server that can be measured.
#[derive(Debug)]
pub(super) struct Starter {
    pub(super) server: Contender,
    /// What tells a scenario to start it.
    pub(super) arguments: Vec<String>,
    pub(super) version: Option<String>,
    program: Option<(PathBuf, Option<Stamp>)>,
}

/// Tells two builds of a program apart.
type Stamp = (u64, SystemTime);

/// Those that serve ten clients here, and why the others do not, of all that take part in what is called for.
pub(super) fn enlist(args: &Compare, stop: &AtomicBool) -> Result<(Vec<Starter>, Vec<Skipped>)> {
    let (mut starters, mut skipped) = (Vec::new(), Vec::new());
    for &server in ALL.iter().filter(|server| is_wanted(**server, &args.only)) {
        match Starter::new(server, args, stop)? {
            Ok(starter) => starters.push(starter),
            Err(why) => skipped.push(Skipped {
                what: server.name().to_owned(),
                why,
            }),
        }
    }
    Ok((starters, skipped))
}

impl Starter {
    fn new(
        server: Contender,
        args: &Compare,
        stop: &AtomicBool,
    ) -> Result<std::result::Result<Self, String>> {
        let program = args.program(server);
        if !server.is_core() && args.extent().other_rounds == 0 {
            return Ok(Err("it takes part in no round: --other-rounds is 0".into()));
        }
        if server == Contender::UWebSockets && program.is_none() {
            return Ok(Err(
                "build peers/uwebsockets/server.cpp, and name the program by --uwebsockets".into(),
            ));
        }
        if server == Contender::Baseline && program.is_none() {
            return Ok(Err("name an earlier fanfare by --baseline".into()));
        }
        let arguments = arguments(server, program);
        if let Some(why) = trial(server, &arguments, stop)? {
            return Ok(Err(why));
        }
        let place = Place {
            program,
            ..Place::default()
        };
        let version = match args.named_version(server) {
            Some(version) => Some(version.to_owned()),
            None => version(server, place, stop),
        };
        let watched = match server {
            Contender::Floor => Some(this_program()?),
            _ => program.map(Path::to_owned),
        };
        let program = watched.map(|path| (path.clone(), stamp(&path)));
        Ok(Ok(Self {
            server,
            arguments,
            version,
            program,
        }))
    }

    /// An error if the program is another than it was: figures of two builds are no figures.
    pub(super) fn check(&self) -> Result<()> {
        match &self.program {
            Some((path, before)) if *before != stamp(path) => failed(format!(
                "{} has changed since the comparison began",
                path.display()
            )),
            _ => Ok(()),
        }
    }
}

/// What names its program here.
fn flag(server: Contender) -> &'static str {
    match server {
        Contender::UWebSockets => "--uwebsockets",
        Contender::Sockudo => "--sockudo",
        Contender::Centrifugo => "--centrifugo",
        Contender::Baseline => "--baseline",
        _ => "--server-binary",
    }
}

/// What `--server` calls it.
fn kind(server: Contender) -> &'static str {
    match server {
        Contender::UWebSockets => "plain",
        Contender::Baseline => Contender::Fanfare.name(),
        _ => server.name(),
    }
}

fn arguments(server: Contender, program: Option<&Path>) -> Vec<String> {
    let mut arguments = vec!["--server".to_owned(), kind(server).to_owned()];
    if let Some(program) = program {
        arguments.extend(["--server-binary".to_owned(), program.display().to_string()]);
    }
    match server {
        // It is stopped when nothing is measured any more: taking leave of clients would only take time.
        Contender::Fanfare
        | Contender::Baseline
        | Contender::FanfareSocketIo
        | Contender::FanfareMesa => {
            let leave = [
                "--server-arg=--drain-delay=0s",
                "--server-arg=--drain-timeout=100ms",
            ];
            arguments.extend(
                ["--api-key", API_KEY]
                    .into_iter()
                    .chain(leave)
                    .map(str::to_owned),
            );
        }
        Contender::UWebSockets => {
            arguments.extend(["--server-arg".to_owned(), "{port}".to_owned()]);
        }
        _ => {}
    }
    arguments
}

/// Lets the server serve ten clients; says why it does not.
fn trial(server: Contender, arguments: &[String], stop: &AtomicBool) -> Result<Option<String>> {
    let mut command = Command::new(this_program()?);
    command
        .args(["serial", "-n", "10", "--duration", "100ms", "--repeat", "1"])
        .args(arguments);
    let run = child::run(command, PATIENCE, stop)?;
    Ok(match run.ended {
        Ended::Exited(0) => None,
        Ended::Exited(1) => {
            Some("events to ten clients are lost, repeated or out of order".to_owned())
        }
        Ended::TooLate => Some(format!("it does not serve ten clients in {PATIENCE:?}")),
        _ => {
            let why = run.reason();
            let known = format!("{} cannot be started: ", kind(server));
            let why = why.strip_prefix(&known).unwrap_or(why);
            Some(why.replace("--server-binary", flag(server)))
        }
    })
}

/// This program, which runs the scenarios too.
pub(super) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().doing("cannot find this program")
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// What a server says of itself, if it can.
fn version(server: Contender, place: Place<'_>, stop: &AtomicBool) -> Option<String> {
    let program = |default: &'static str| place.program.unwrap_or(Path::new(default)).to_owned();
    match server {
        Contender::Fanfare
        | Contender::Baseline
        | Contender::FanfareSocketIo
        | Contender::FanfareMesa => says(&program("fanfare"), "--version", stop),
        Contender::Floor => Some(env!("CARGO_PKG_VERSION").to_owned()),
        Contender::UWebSockets => None,
        Contender::Ws => on_node("ws", "ws", place, stop),
        Contender::SocketIo => on_node("socket.io", "socket.io", place, stop),
        Contender::Mesa => on_node("mesa", "@cryb/mesa", place, stop),
        Contender::Sockudo => says(&program("sockudo"), "--version", stop),
        Contender::Centrifugo => says(&program("centrifugo"), "version", stop),
    }
}

/// The first line that a program says, without its own name.
fn says(program: &Path, argument: &str, stop: &AtomicBool) -> Option<String> {
    let mut command = Command::new(program);
    command.arg(argument);
    let run = child::run(command, PATIENCE, stop)
        .ok()
        .filter(|run| run.ended == Ended::Exited(0))?;
    let line = run.output.lines().next()?.trim();
    let name = program.file_name()?.to_str()?;
    let named = line
        .get(..name.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(name));
    Some(
        if named {
            line[name.len()..].trim()
        } else {
            line
        }
        .to_owned(),
    )
}

/// The versions of a package and of Node.
fn on_node(peer: &str, package: &str, place: Place<'_>, stop: &AtomicBool) -> Option<String> {
    let file = place
        .peers
        .join(peer)
        .join("node_modules")
        .join(package)
        .join("package.json");
    let package: serde_json::Value = serde_json::from_str(&fs::read_to_string(file).ok()?).ok()?;
    let version = package["version"].as_str()?;
    let node = says(Path::new("node"), "--version", stop)?;
    Some(format!(
        "{version} on Node {}",
        node.trim_start_matches('v')
    ))
}

/// The commit of the sources around `program`, and whether they are changed.
pub(super) fn commit(program: Option<&Path>, stop: &AtomicBool) -> Option<String> {
    let folder = program?.canonicalize().ok()?.parent()?.to_owned();
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(&folder).args(arguments);
        let run = child::run(command, PATIENCE, stop)
            .ok()
            .filter(|run| run.ended == Ended::Exited(0))?;
        Some(run.output.trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_none_or(|list| !list.is_empty());
    Some(if changed {
        format!("{commit}, with changes")
    } else {
        commit
    })
}
