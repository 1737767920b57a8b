//! How the harness's own servers for Node are started: `node DIR/server.js PORT`.

use std::{net::SocketAddr, process::Command};

use super::program::runs;
use crate::cli::{Place, Target};

/// Node's program, unless another is named.
const PROGRAM: &str = "node";

/// What starts the server `name` on the port of `address`.
pub(super) fn command(name: &str, target: &Target, address: SocketAddr) -> Command {
    let place = target.place();
    let mut command = Command::new(place.program_or(PROGRAM));
    let script = place.peers.join(name).join("server.js");
    command
        .args(&target.server_arg)
        .arg(script)
        .arg(address.port().to_string());
    command
}

/// Whether the server `name` can be started; if not, what is missing.
pub(super) fn available(name: &str, place: Place<'_>) -> Result<(), String> {
    let directory = place.peers.join(name);
    if !directory.join("server.js").is_file() {
        return Err(format!(
            "{} has no server.js: name its parent by --peers",
            directory.display()
        ));
    }
    runs(place.program_or(PROGRAM), "--version")?;
    if !directory.join("node_modules").is_dir() {
        return Err(format!(
            "its packages are not there: run npm ci --prefix {}",
            directory.display()
        ));
    }
    Ok(())
}
