//! A node of a cluster that a measurement starts, and what runs beside it on a thread of its own.

use std::{
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    error::{Doing, Result, failed},
    process::Process,
    redis::free_port,
    socket,
};

/// How long a node may take to be ready. Many start at the same time, and each needs processor time to begin with.
const READY: Duration = Duration::from_mins(1);

/// A node; killed when dropped.
pub(crate) struct Node {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Node {
    pub(crate) fn start(program: &Path, configuration: &Path, redis: &str) -> Result<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().doing("no port is free")?));
        let name = program.display();
        let child = Command::new(program)
            .args(["serve", "--listen", &address.to_string(), "--redis", redis])
            .arg("--config")
            .arg(configuration)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .doing(format!("cannot start {name}"))?;
        Ok(Self { child, address })
    }

    pub(crate) fn await_ready(&self) -> Result<()> {
        let until = Instant::now() + READY;
        while TcpStream::connect(self.address).is_err()
            || !matches!(socket::get(self.address, "/readyz", READY), Ok((200, _)))
        {
            if Instant::now() > until {
                return failed(format!("the node at {} is not ready", self.address));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn process(&self) -> Process {
        Process(self.child.id())
    }

    /// Ends it immediately, as a crash does.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().doing("cannot kill a node")
    }

    /// Has it drain. Does not wait for that.
    pub(crate) fn drain(&self) -> Result<()> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).doing("cannot have a node drain")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What runs on a thread of its own until it is stopped.
pub(crate) struct Task {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Task {
    /// Does `act` again and again, until this is dropped or `act` returns false.
    pub(crate) fn start(mut act: impl FnMut() -> bool + Send + 'static) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let run = move || while !over.load(Relaxed) && act() {};
        Self {
            is_over,
            thread: Some(thread::spawn(run)),
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            let _ = thread.join();
        }
    }
}
