//! What every node is configured with, how one is ended and called, somebody who sends, and somebody who watches.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::args::By;
use crate::{
    error::{Doing, Result, failed},
    node::{Node, Task},
    socket::{Caller, Heard, WebSocket},
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

/// Ends a node, or has it begin to end.
pub(super) fn end(node: &mut Node, by: By) -> Result<()> {
    match by {
        By::Kill => node.kill(),
        By::Drain => node.drain(),
    }
}

/// Calls a node, and expects 200.
pub(super) fn call(node: &Node, path: &str, body: &Value) -> Result<Value> {
    let mut caller = Caller::new(node.address, PATIENCE);
    let (status, answer) = caller
        .post(path, &body.to_string())
        .doing(format!("{path} is not answered"))?;
    if status != 200 {
        let answer = String::from_utf8_lossy(&answer);
        return failed(format!("{path} was answered with {status}: {answer}"));
    }
    serde_json::from_slice(&answer).doing(format!("{path} has no JSON for an answer"))
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
