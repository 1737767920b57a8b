//! Which program a server is, and whether it can be started here.

use std::{
    io,
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
};

use clap::ValueEnum;

use super::{centrifugo, fanfare, node, plain, pusher};
use crate::{
    cli::{Kind, Place, Target},
    error::{Doing, Result, failed},
};

/// What starts the server that the command line names, so that it listens on `address`.
pub(crate) fn command(target: &Target, address: SocketAddr) -> Result<Command> {
    let (kind, place) = (target.kind(), target.place());
    if let Err(why) = available(kind, place) {
        return failed(format!("{} cannot be started: {why}", kind.name()));
    }
    match kind {
        Kind::Fanfare | Kind::FanfareSocketIo | Kind::FanfareMesa => {
            Ok(fanfare::command(target, address))
        }
        Kind::Floor => floor(address),
        Kind::Ws => Ok(node::command("ws", target, address)),
        Kind::SocketIo => Ok(node::command("socket.io", target, address)),
        Kind::Mesa => Ok(node::command("mesa", target, address)),
        Kind::Centrifugo => Ok(centrifugo::command(target, address)),
        Kind::Sockudo => pusher::command(target, address),
        Kind::Plain => Ok(plain::command(target, address)),
    }
}

/// What starts the floor on `address`.
pub(crate) fn floor(address: SocketAddr) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().doing("cannot find this program")?);
    command.args(["floor", "--listen", &address.to_string()]);
    Ok(command)
}

/// Whether a server of this kind can be started from `place`; if not, what is missing.
pub(crate) fn available(kind: Kind, place: Place<'_>) -> std::result::Result<(), String> {
    match kind {
        Kind::Fanfare | Kind::FanfareSocketIo | Kind::FanfareMesa => {
            runs(place.program_or(fanfare::PROGRAM), "--version")
        }
        Kind::Ws => node::available("ws", place),
        Kind::SocketIo => node::available("socket.io", place),
        Kind::Mesa => node::available("mesa", place),
        Kind::Sockudo => runs(place.program_or(pusher::PROGRAM), "--version"),
        Kind::Centrifugo => runs(place.program_or(centrifugo::PROGRAM), "version"),
        Kind::Floor if place.program.is_some() => {
            Err("the floor is a part of this program: leave out --server-binary".into())
        }
        Kind::Plain if place.program.is_none() => {
            Err("name its program by --server-binary, or one that runs by --url".into())
        }
        Kind::Floor | Kind::Plain => Ok(()),
    }
}

/// Prints every kind of server, and whether it can be started here.
pub(crate) fn list() {
    for kind in Kind::value_variants() {
        let lacks = available(*kind, Place::default());
        println!(
            "{:18}{}",
            kind.name(),
            lacks.map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned())
        );
    }
}

/// Whether `program` can be started: it is, with an argument that lets it end at once.
pub(super) fn runs(program: &Path, argument: &str) -> std::result::Result<(), String> {
    let name = program.display();
    let mut command = Command::new(program);
    command
        .arg(argument)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{name} {argument}` fails: {status}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!(
            "cannot start {name}: there is no such program; name one by --server-binary"
        )),
        Err(error) => Err(format!("cannot start {name}: {error}")),
    }
}
