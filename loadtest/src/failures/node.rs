//! A Fanfare process that can be killed and paused.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::plan::{KEPT, SECRET};
use crate::{
    error::{Doing, Result, failed},
    redis::{free_port, pause_process},
};

/// How long a node may take to listen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node; killed when dropped.
#[derive(Debug)]
pub(super) struct Node {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Node {
    /// Starts `program` with its Redis at `url`; what it logs goes to the file `log`, if there is one.
    pub(super) fn start(program: &Path, url: &str, log: Option<&Path>) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().doing("no port is free")?));
        let mut command = Command::new(program);
        command.args([
            "serve",
            "--listen",
            &address.to_string(),
            "--redis",
            url,
            "--namespace",
            "failures",
        ]);
        command.args([
            "--token-secret",
            SECRET,
            "--channel-history",
            &format!("{KEPT}=10000"),
        ]);
        command
            .env("FANFARE_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(path) = log {
            let shown = path.display();
            let file = File::create(path).doing(format!("cannot write {shown}"))?;
            command
                .stdout(file.try_clone().doing(format!("cannot write {shown}"))?)
                .stderr(file);
        }
        let name = program.display();
        let child = command.spawn().doing(format!("cannot start {name}"))?;
        let mut node = Self { child, address };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            if let Ok(Some(status)) = node.child.try_wait() {
                return failed(format!(
                    "{name} ended at once: {status}; --logs DIR keeps what it said"
                ));
            }
            if Instant::now() > until {
                return failed(format!("{name} does not listen on {address}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(node)
    }

    /// Ends it at once, as a crash does.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map(|_| ())
            .doing("cannot kill a node")
    }

    /// Stops its execution.
    pub(super) fn pause(&self) -> Result<()> {
        pause_process(Pid::from_child(&self.child)).doing("cannot pause a node")
    }

    /// Goes on.
    pub(super) fn resume(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::CONT).doing("cannot let a node go on")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
