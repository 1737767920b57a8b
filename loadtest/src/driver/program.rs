//! Which program a server is, and whether it can be started here.

use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use clap::ValueEnum;

use super::{fanfare, plain};
use crate::{
    cli::{Kind, Target},
    error::{Doing, Result, failed},
};

/// What starts the server that the command line names, so that it listens on `address`.
pub(crate) fn command(target: &Target, address: SocketAddr) -> Result<Command> {
    let kind = target.kind();
    if let Err(why) = available(kind, target.program()) {
        return failed(format!("{} cannot be started: {why}", kind.name()));
    }
    let Some(program) = target.program() else { return floor(address) };
    let mut command = Command::new(program);
    match kind {
        Kind::Fanfare | Kind::Floor => fanfare::configure(&mut command, target, address),
        Kind::Plain => plain::configure(&mut command, target, address),
    }
    Ok(command)
}

/// What starts the floor on `address`.
pub(crate) fn floor(address: SocketAddr) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().doing("cannot find this program")?);
    command.args(["floor", "--listen", &address.to_string()]);
    Ok(command)
}

/// Whether a server of this kind can be started here, from `program` if one is named; if not, what is missing.
pub(crate) fn available(kind: Kind, program: Option<&Path>) -> std::result::Result<(), String> {
    match (kind, program) {
        (Kind::Floor, Some(_)) => {
            Err("the floor is this program itself, so --server-binary has no use".into())
        }
        (Kind::Fanfare, Some(program)) => runs(program.as_os_str(), "--version"),
        (Kind::Floor, None) | (Kind::Plain, Some(_)) => Ok(()),
        (Kind::Fanfare | Kind::Plain, None) => {
            Err("name its program by --server-binary, or one that runs by --url".into())
        }
    }
}

/// Prints every kind of server, and whether it can be started here.
pub(crate) fn list() {
    for kind in Kind::value_variants() {
        let lacks = available(*kind, None);
        println!(
            "{:12}{}",
            kind.name(),
            lacks.map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned())
        );
    }
}

/// Whether `program` can be started: it is, with an argument that lets it end at once.
fn runs(program: &OsStr, argument: &str) -> std::result::Result<(), String> {
    let name = program.to_string_lossy();
    let mut command = Command::new(program);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{name} {argument}` fails: {status}")),
        Err(error) => Err(format!("cannot start {name}: {error}")),
    }
}
