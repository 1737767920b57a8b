//! Nodes over one Redis, a client on each, and what is done to them.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    args::Scale,
    operation::{Cost, Operation},
    usage::{Held, Span},
};
use crate::{
    error::{Doing, Result, failed},
    node::{Node, Task},
    process::Process,
    redis::{Folder, RedisCluster, RedisServer},
    socket::{Caller, Heard, WebSocket},
    token::{Signer, name},
};

/// How long a client may take to get an answer, and a crashed node to be forgotten.
const PATIENCE: Duration = Duration::from_mins(1);

/// How many nodes are started together: each needs processor time to begin with.
const GROUP: usize = 8;

/// How long the idle cluster is watched, to know what it does by itself.
const IDLE: Duration = Duration::from_secs(10);

/// How long a crashed node's members may take to be taken away: its lease and what follows.
const REAPED: Duration = Duration::from_secs(12);

const SECRET: &str = "a-secret-of-the-scale-test-that-is-long-enough";

/// What every node is configured with. Clients act faster here than one client may, and each change of members is told: many
/// at once would be told as counts, which cost less.
const CONFIGURATION: &str = r#"
namespace = "scale"
shards = 1
drain_delay = "0s"
[limits]
messages_per_second = 10000
message_burst = 10000
presence_notices = 10000
[[apps.default.tokens]]
alg = "HS256"
secret = "SECRET"
[[apps.default.channels]]
pattern = "durable"
history_size = 1000
[[apps.default.channels]]
pattern = "counted"
presence = "count"
"#;

enum Redis {
    One(RedisServer),
    Cluster(RedisCluster),
}

impl Redis {
    fn start(is_cluster: bool) -> Result<Self> {
        if is_cluster {
            return RedisCluster::start()
                .map(Self::Cluster)
                .doing("cannot start a Redis Cluster");
        }
        RedisServer::start()
            .map(Self::One)
            .doing("cannot start Redis")
    }

    fn servers(&self) -> Vec<&RedisServer> {
        match self {
            Self::One(server) => vec![server],
            Self::Cluster(cluster) => cluster.nodes.iter().collect(),
        }
    }

    fn url(&self) -> String {
        match self {
            Self::One(server) => server.url(),
            Self::Cluster(cluster) => {
                let addresses = cluster.addresses();
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                format!("redis+cluster://{}", addresses.join(","))
            }
        }
    }
}

/// A client that only reads, on a thread of its own.
struct Listener {
    _task: Task,
}

impl Listener {
    fn start(mut socket: WebSocket) -> Self {
        Self {
            _task: Task::start(move || socket.next() != Heard::Ended),
        }
    }
}

/// A cluster at work.
pub(super) struct Rig {
    crew: Crew,
    /// What it uses by itself.
    idle: Span,
    redis: Redis,
}

/// The nodes and who acts on them.
struct Crew {
    program: PathBuf,
    configuration: PathBuf,
    redis: String,
    nodes: Vec<Node>,
    /// One client on each node, in every channel, watching where that is measured.
    listeners: Vec<Listener>,
    /// A client on the first node, which joins and leaves.
    mover: WebSocket,
    /// Calls the first node.
    caller: Caller,
    /// The node that starts and crashes, with its client.
    extra: Option<(Node, Listener)>,
    /// Holds the configuration.
    _folder: Folder,
}

impl Rig {
    /// Starts `count` nodes with a client on each.
    pub(super) fn start(args: &Scale, count: usize) -> Result<Self> {
        let redis = Redis::start(args.redis_cluster)?;
        let crew = Crew::start(&args.server_binary, redis.url(), count)?;
        thread::sleep(args.settle);
        let idle = Span::of(&redis.servers(), &crew.processes(), || {
            thread::sleep(IDLE);
            Ok(())
        })?;
        Ok(Self { crew, idle, redis })
    }

    /// Does `operation` as often as is wanted, and waits until what it causes is over.
    pub(super) fn measure(&mut self, operation: Operation, args: &Scale) -> Result<Cost> {
        if operation == Operation::Rest {
            return Ok(Cost::at_rest(&self.idle));
        }
        let times = if operation.is_rare() { 1 } else { args.repeat };
        let processes = self.crew.processes();
        let crew = &mut self.crew;
        let span = Span::of(&self.redis.servers(), &processes, || {
            for _ in 0..times {
                crew.act(operation)?;
                thread::sleep(args.pause);
            }
            thread::sleep(args.settle);
            Ok(())
        })?;
        Ok(Cost::of(&span, &self.idle, times))
    }

    /// What the nodes and Redis hold.
    pub(super) fn held(&self) -> Result<Held> {
        Held::now(&self.redis.servers(), &self.crew.processes())
    }
}

impl Crew {
    fn start(program: &Path, redis: String, count: usize) -> Result<Self> {
        let folder = Folder::new("scale").doing("cannot make a folder")?;
        let configuration = folder.path().join("fanfare.toml");
        let text = CONFIGURATION.replace("SECRET", SECRET);
        fs::write(&configuration, text).doing("cannot write the configuration")?;

        let (mut nodes, mut listeners) = (Vec::<Node>::new(), Vec::new());
        while nodes.len() < count {
            let first = nodes.len();
            for _ in first..count.min(first + GROUP) {
                nodes.push(Node::start(program, &configuration, &redis)?);
            }
            for (number, node) in nodes.iter().enumerate().skip(first) {
                node.await_ready()?;
                listeners.push(listen(node, number)?);
            }
        }
        Ok(Self {
            mover: connect(&nodes[0], count)?,
            caller: Caller::new(nodes[0].address, PATIENCE),
            program: program.to_owned(),
            configuration,
            redis,
            nodes,
            listeners,
            extra: None,
            _folder: folder,
        })
    }

    /// The processes of the nodes that stay.
    fn processes(&self) -> Vec<Process> {
        self.nodes.iter().map(Node::process).collect()
    }

    fn act(&mut self, operation: Operation) -> Result<()> {
        let event = |to: serde_json::Value| {
            let mut body = to;
            body["event"] = json!("e");
            body["data"] = json!("x".repeat(100));
            body.to_string()
        };
        let last = self.listeners.len() - 1;
        match operation {
            Operation::Rest => Ok(()),
            Operation::PublishToUser => {
                self.post("/v1/publish", &event(json!({ "user": name(last) })))
            }
            Operation::SendToChannel => {
                self.post("/v1/send", &event(json!({ "channel": "plain" })))
            }
            Operation::SendToDurable => {
                self.post("/v1/send", &event(json!({ "channel": "durable" })))
            }
            Operation::EmitToAll => self.post("/v1/emit", &event(json!({}))),
            Operation::JoinUnwatched => self.visit("plain"),
            Operation::JoinWatched => self.visit("watched"),
            Operation::JoinCounted => self.visit("counted"),
            Operation::MembersPage => self.get("/v1/channels/watched/members"),
            Operation::ChannelList => self.get("/v1/channels"),
            Operation::NodeStart => {
                let node = Node::start(&self.program, &self.configuration, &self.redis)?;
                node.await_ready()?;
                let listener = listen(&node, self.nodes.len() + 1)?;
                self.extra = Some((node, listener));
                Ok(())
            }
            Operation::NodeCrash => {
                drop(self.extra.take());
                thread::sleep(REAPED);
                Ok(())
            }
        }
    }

    fn post(&mut self, path: &str, body: &str) -> Result<()> {
        let answer = self.caller.post(path, body).doing("a call has failed")?;
        expect_ok(path, answer)
    }

    fn get(&mut self, path: &str) -> Result<()> {
        let answer = self.caller.get(path).doing("a call has failed")?;
        expect_ok(path, answer)
    }

    fn visit(&mut self, channel: &str) -> Result<()> {
        for op in ["join", "leave"] {
            ask(
                &mut self.mover,
                &json!({ "op": op, "id": 1, "channel": channel }),
            )?;
        }
        Ok(())
    }
}

fn expect_ok(path: &str, (status, body): (u16, Vec<u8>)) -> Result<()> {
    if status == 200 {
        return Ok(());
    }
    let body = String::from_utf8_lossy(&body);
    failed(format!("{path} was answered with {status}: {body}"))
}

/// A client of `node` that has had its welcome.
fn connect(node: &Node, number: usize) -> Result<WebSocket> {
    let signer = Signer::new(SECRET);
    let path = format!("/v1/connect?token={}", signer.sign(number));
    let mut socket =
        WebSocket::open(node.address, &path, PATIENCE).doing("a client cannot connect")?;
    await_text(&mut socket, "\"op\":\"welcome\"")?;
    Ok(socket)
}

/// A client of `node` in every channel, which reads on a thread of its own from then on.
fn listen(node: &Node, number: usize) -> Result<Listener> {
    let mut socket = connect(node, number)?;
    for (channel, members) in [
        ("plain", false),
        ("durable", false),
        ("watched", true),
        ("counted", true),
    ] {
        let join = json!({ "op": "join", "id": 1, "channel": channel, "members": members });
        ask(&mut socket, &join)?;
    }
    Ok(Listener::start(socket))
}

/// Sends a message, and waits for its ack.
fn ask(socket: &mut WebSocket, message: &serde_json::Value) -> Result<()> {
    socket
        .send(&message.to_string())
        .doing("a client cannot send")?;
    await_text(socket, "\"op\":\"ack\"")
}

/// Reads until a text has `part` in it.
fn await_text(socket: &mut WebSocket, part: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        match socket.next() {
            Heard::Text(text) => {
                let text = String::from_utf8_lossy(&text);
                if text.contains("\"op\":\"error\"") {
                    return failed(format!("a client was refused: {text}"));
                }
                if text.contains(part) {
                    return Ok(());
                }
            }
            Heard::Nothing => {}
            Heard::Ended => return failed("a client's connection has ended"),
        }
    }
    failed(format!("a client waits for {part}"))
}
