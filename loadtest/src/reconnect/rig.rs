//! Nodes over one Redis, somebody who sends, and somebody who watches.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::args::By;
use crate::{
    error::{Doing, Result, failed},
    process::Process,
    redis::free_port,
    socket::{self, Caller, Heard, WebSocket},
    token::Signer,
};

const PATIENCE: Duration = Duration::from_secs(20);

pub(super) const SECRET: &str = "a-secret-of-the-reconnect-test-that-is-long-enough";

/// What every node is configured with.
const CONFIGURATION: &str = r#"
namespace = "reconnect"
drain_delay = "0s"
[[apps.default.tokens]]
alg = "HS256"
secret = "SECRET"
[[apps.default.channels]]
pattern = "room-*"
history_size = 10000
"#;

pub(super) fn write_configuration(folder: &Path) -> Result<std::path::PathBuf> {
    let path = folder.join("fanfare.toml");
    fs::write(&path, CONFIGURATION.replace("SECRET", SECRET))
        .doing("cannot write the configuration")?;
    Ok(path)
}

/// A node; killed when dropped.
pub(super) struct Node {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Node {
    pub(super) fn start(program: &Path, configuration: &Path, redis: &str) -> Result<Self> {
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

    pub(super) fn await_ready(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).is_err()
            || !matches!(socket::get(self.address, "/readyz", PATIENCE), Ok((200, _)))
        {
            if Instant::now() > until {
                return failed(format!("the node at {} is not ready", self.address));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(super) fn process(&self) -> Process {
        Process(self.child.id())
    }

    pub(super) fn end(&mut self, by: By) -> Result<()> {
        match by {
            By::Kill => self.child.kill().doing("cannot kill a node"),
            By::Drain => kill_process(Pid::from_child(&self.child), Signal::TERM)
                .doing("cannot have a node drain"),
        }
    }

    /// Calls it, and expects 200.
    pub(super) fn call(&self, path: &str, body: &Value) -> Result<Value> {
        let mut caller = Caller::new(self.address, PATIENCE);
        let (status, answer) = caller
            .post(path, &body.to_string())
            .doing(format!("{path} is not answered"))?;
        if status != 200 {
            let answer = String::from_utf8_lossy(&answer);
            return failed(format!("{path} was answered with {status}: {answer}"));
        }
        serde_json::from_slice(&answer).doing(format!("{path} has no JSON for an answer"))
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
struct Task {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Task {
    fn start(mut act: impl FnMut() -> bool + Send + 'static) -> Self {
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

/// Sends events to channels in turn.
pub(super) struct Sender {
    refused: Arc<AtomicU64>,
    task: Task,
}

impl Sender {
    pub(super) fn start(to: SocketAddr, rate: u32, channels: Vec<String>) -> Self {
        let refused = Arc::<AtomicU64>::default();
        let mut caller = Caller::new(to, PATIENCE);
        let (counted, began, mut sent) = (refused.clone(), Instant::now(), 0_u32);
        let task = Task::start(move || {
            let due = began + Duration::from_secs(1) * sent / rate;
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let channel = &channels[sent as usize % channels.len()];
            let event = json!({"channel": channel, "event": "e", "data": "x".repeat(100)});
            if !matches!(caller.post("/v1/send", &event.to_string()), Ok((200, _))) {
                counted.fetch_add(1, Relaxed);
            }
            sent += 1;
            true
        });
        Self { refused, task }
    }

    /// Stops; returns how many events were refused.
    pub(super) fn stop(self) -> u64 {
        drop(self.task);
        self.refused.load(Relaxed)
    }
}

/// What a member of a channel hears of the others.
#[derive(Debug, Default)]
pub(super) struct Noticed {
    pub(super) joined: AtomicU64,
    pub(super) left: AtomicU64,
    pub(super) updated: AtomicU64,
}

/// A member of a channel that hears of the others.
pub(super) struct Watcher {
    noticed: Arc<Noticed>,
    _task: Task,
}

impl Watcher {
    pub(super) fn start(to: SocketAddr, number: usize, channel: &str) -> Result<Self> {
        let path = format!("/v1/connect?token={}", Signer::new(SECRET).sign(number));
        let mut socket =
            WebSocket::open(to, &path, PATIENCE).doing("the watcher cannot connect")?;
        let join = json!({"op": "join", "id": 1, "channel": channel, "members": true});
        socket
            .send(&join.to_string())
            .doing("the watcher cannot send")?;
        let noticed = Arc::<Noticed>::default();
        let counted = noticed.clone();
        let task = Task::start(move || {
            match socket.next() {
                Heard::Text(text) => counted.hear(&text),
                Heard::Nothing => {}
                Heard::Ended => return false,
            }
            true
        });
        Ok(Self {
            noticed,
            _task: task,
        })
    }

    /// How many joined, left and were updated since the last call.
    pub(super) fn take(&self) -> [u64; 3] {
        let Noticed {
            joined,
            left,
            updated,
        } = &*self.noticed;
        [joined, left, updated].map(|count| count.swap(0, Relaxed))
    }
}

impl Noticed {
    fn hear(&self, text: &[u8]) {
        let Ok(message) = serde_json::from_slice::<Value>(text) else {
            return;
        };
        let all = [
            ("joined", &self.joined),
            ("left", &self.left),
            ("updated", &self.updated),
        ];
        for (name, count) in all {
            let n = match message["op"].as_str() {
                Some("member") => u64::from(message["kind"] == name),
                Some("members") => message[name].as_u64().unwrap_or(0),
                _ => 0,
            };
            count.fetch_add(n, Relaxed);
        }
    }
}
