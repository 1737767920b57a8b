//! A Fanfare process that can be killed, paused, and started again.

use std::{
    fs::File,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
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

/// How long a node may take to drain and end: what it may by default, and some.
const DRAINED: Duration = Duration::from_secs(35);

/// How a node is started.
#[derive(Clone, Debug)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    /// How Redis is named to it.
    pub(super) redis: String,
    /// Where it logs to, if anywhere.
    pub(super) log: Option<PathBuf>,
    /// Further arguments.
    pub(super) more: Vec<String>,
}

/// A node; killed when dropped.
#[derive(Debug)]
pub(super) struct Node {
    child: Child,
    pub(super) address: SocketAddr,
    start: Start,
    /// How often it was started.
    starts: usize,
}

impl Node {
    pub(super) fn start(start: Start) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().doing("no port is free")?));
        let child = launch(&start, address, 0)?;
        Ok(Self {
            child,
            address,
            start,
            starts: 1,
        })
    }

    /// Starts it again at the same address, with these arguments besides.
    pub(super) fn start_again(&mut self, more: &[&str]) -> Result<()> {
        self.start.more.extend(more.iter().map(ToString::to_string));
        self.child = launch(&self.start, self.address, self.starts)?;
        self.starts += 1;
        Ok(())
    }

    /// Lets it drain and end, and waits for that.
    pub(super) fn drain(&mut self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).doing("cannot end a node")?;
        let until = Instant::now() + DRAINED;
        while self
            .child
            .try_wait()
            .doing("cannot wait for a node")?
            .is_none()
        {
            if Instant::now() > until {
                return failed(format!("a node has not drained within {DRAINED:?}"));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
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

/// Starts the process, and waits until it listens.
fn launch(start: &Start, address: SocketAddr, starts: usize) -> Result<Child> {
    let name = start.program.display();
    let mut command = command(start, address, starts)?;
    let mut child = command.spawn().doing(format!("cannot start {name}"))?;
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(address).is_err() {
        if let Ok(Some(status)) = child.try_wait() {
            return failed(format!(
                "{name} ended at once: {status}; --logs DIR keeps what it said"
            ));
        }
        if Instant::now() > until {
            // Fails only if it has ended.
            let _ = child.kill();
            let _ = child.wait();
            return failed(format!("{name} does not listen on {address}"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(child)
}

fn command(start: &Start, address: SocketAddr, starts: usize) -> Result<Command> {
    let mut command = Command::new(&start.program);
    command.args([
        "serve",
        "--listen",
        &address.to_string(),
        "--redis",
        &start.redis,
        "--namespace",
        "failures",
    ]);
    command.args([
        "--token-secret",
        SECRET,
        "--channel-history",
        &format!("{KEPT}=10000"),
    ]);
    command.args(&start.more);
    command
        .env("FANFARE_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    if let Some(path) = &start.log {
        let path = if starts == 0 {
            path.clone()
        } else {
            path.with_extension(format!("{starts}.log"))
        };
        let (stdout, stderr) = log_at(&path)?;
        command.stdout(stdout).stderr(stderr);
    }
    Ok(command)
}

fn log_at(path: &Path) -> Result<(File, File)> {
    let shown = path.display();
    let file = File::create(path).doing(format!("cannot write {shown}"))?;
    let other = file.try_clone().doing(format!("cannot write {shown}"))?;
    Ok((file, other))
}
