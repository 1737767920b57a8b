//! Nodes that share a Redis: of this process, or processes of their own where one is to be killed or paused.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may end at once")]

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpStream},
    ops::Index,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use fanfare::{
    Server,
    config::{Config, ServeArgs},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    redis::{RedisServer, SERVICE, free_port, pause_process},
    support::{Answer, Client, SECRET, TestServer, eventually, request, signed, sum},
};

/// The namespace of tests that need no other.
pub const NAMESPACE: &str = "tests";

/// What a node is set up with: variables, which mean the same to a node of this process and to one of its own.
#[derive(Clone, Debug, Default)]
pub struct Settings(Vec<(String, String)>);

impl Settings {
    /// Of a node that joins others by the Redis at `url`. Clients may come without a token. Channels called `room…` keep a thousand events.
    pub fn new(url: &str) -> Self {
        Self::default()
            .with("FANFARE_REDIS", url)
            .with("FANFARE_NAMESPACE", NAMESPACE)
            .with("FANFARE_TOKEN_SECRET", SECRET)
            .with("FANFARE_CLIENT_AUTH", "optional")
            .with("FANFARE_CHANNEL_HISTORY", "room*=1000")
            .with("FANFARE_STORE_USER_EVENTS", "true")
            .with("FANFARE_DRAIN_TIMEOUT", "1s")
            .with("FANFARE_LIMIT_MESSAGES_PER_SECOND", "1000000")
            .with("FANFARE_LIMIT_MESSAGE_BURST", "1000000")
            .with("FANFARE_SHARDS", "2")
    }

    /// The same, with `name` set to `value`.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.retain(|(other, _)| other != name);
        self.0.push((name.to_owned(), value.to_owned()));
        self
    }

    fn config(&self) -> Config {
        let mut config =
            Config::load(&ServeArgs::default(), self.0.clone()).expect("the settings are good");
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config
    }
}

/// One node.
pub struct Node {
    held: Held,
    address: SocketAddr,
}

enum Held {
    Here(TestServer),
    Apart(Child),
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Apart(child) = self {
            // Fails only if it has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Node {
    /// A node of this process.
    pub fn here(settings: &Settings) -> Self {
        Self::here_with(settings, |_| {})
    }

    /// The same, configured further by `change`.
    pub fn here_with(settings: &Settings, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = settings.config();
        change(&mut config);
        let server = TestServer(Server::start(config).expect("the node starts"));
        Self {
            address: server.address(),
            held: Held::Here(server),
        }
    }

    /// A process, which can be killed and paused.
    pub fn apart(settings: &Settings) -> Self {
        Self::apart_into(settings, Stdio::inherit())
    }

    /// A process of another `program`.
    pub fn of_program(program: &str, settings: &Settings) -> Self {
        Self::process(program, settings, Stdio::inherit())
    }

    /// The same, with its log going to `log`.
    pub fn apart_into(settings: &Settings, log: Stdio) -> Self {
        Self::process(env!("CARGO_BIN_EXE_fanfare"), settings, log)
    }

    fn process(program: &str, settings: &Settings, log: Stdio) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port().expect("a port is free")));
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", &address.to_string()])
            .envs(settings.0.iter().cloned());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the node starts");
        let mut held = Held::Apart(child);
        eventually("the node listens", || {
            let Held::Apart(child) = &mut held else {
                return true;
            };
            assert!(
                matches!(child.try_wait(), Ok(None)),
                "the node ended at once"
            );
            TcpStream::connect(address).is_ok()
        });
        Self { held, address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends a process at once, as a crash does.
    pub fn kill(&mut self) {
        let Held::Apart(child) = &mut self.held else {
            panic!("a node of this process cannot be killed")
        };
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops a process: its connections stay open, and nothing is answered.
    pub fn pause(&self) {
        pause_process(self.pid()).unwrap();
    }

    /// Goes on after [`Node::pause`].
    pub fn resume(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Has a process leave.
    pub fn ask_to_leave(&self) {
        kill_process(self.pid(), Signal::TERM).unwrap();
    }

    /// Has a process leave, and waits until it has.
    pub fn leave(&mut self) {
        self.ask_to_leave();
        self.await_end();
    }

    /// Waits until a process has ended well.
    pub fn await_end(&mut self) {
        let Held::Apart(child) = &mut self.held else {
            return;
        };
        assert!(child.wait().unwrap().success());
    }

    pub fn pid(&self) -> Pid {
        let Held::Apart(child) = &self.held else {
            panic!("a node of this process cannot be paused")
        };
        Pid::from_child(child)
    }

    pub fn request(
        &self,
        method: &str,
        path: &str,
        more: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Answer {
        request(self.address, method, path, more, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, &[], None)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &[], Some(body.to_string().as_bytes()))
    }

    /// Gets and expects 200.
    pub fn look(&self, path: &str) -> Value {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }

    /// Posts and expects 200.
    pub fn call(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path} {body}: {answer:?}");
        answer.json()
    }

    pub fn is_ready(&self) -> bool {
        self.get("/readyz").status == 200
    }

    /// Why it is not ready, in one text; empty while it is.
    pub fn reasons(&self) -> String {
        let answer = self.get("/readyz");
        if answer.status == 200 {
            return String::new();
        }
        assert_eq!(answer.status, 503, "{answer:?}");
        let reasons = answer.json()["reasons"].clone();
        let reasons = reasons
            .as_array()
            .unwrap_or_else(|| panic!("no reasons: {answer:?}"))
            .iter();
        reasons
            .map(|reason| reason.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// The sum of a metric's lines whose labels contain `labels`.
    pub fn count(&self, name: &str, labels: &str) -> u64 {
        sum(&self.get("/metrics").text, name, labels) as u64
    }

    /// A client of `user` that has had its welcome.
    pub fn user(&self, user: &str) -> Client {
        self.user_with(user, &json!({}), "")
    }

    /// The same, with further claims and more of a query.
    pub fn user_with(&self, user: &str, claims: &Value, query: &str) -> Client {
        let mut claims = claims.clone();
        claims["sub"] = json!(user);
        self.connect(&format!("token={}&{query}", signed(&claims)))
    }

    /// A client with `query` that has had its welcome.
    pub fn connect(&self, query: &str) -> Client {
        let mut client = self.open(query);
        let welcome = client.json();
        assert_eq!(welcome["op"], "welcome", "{welcome}");
        client.id = welcome["connection"].as_str().unwrap().into();
        client
    }

    /// A client that has had nothing yet.
    pub fn open(&self, query: &str) -> Client {
        Client::open(self.address, &format!("/v1/connect?{query}"), &[])
            .expect("the handshake succeeds")
    }

    /// The id by which this node is named, given a client of it.
    pub fn id(&self, client: &Client) -> String {
        let connection = self.look(&format!("/v1/connections/{}", client.id));
        connection["node"].as_str().unwrap().to_owned()
    }
}

/// Nodes, and the Redis that joins them.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub settings: Settings,
    pub redis: RedisServer,
}

impl Cluster {
    /// Three nodes of this process that are ready.
    pub fn start() -> Self {
        Self::start_with(|settings| settings, |_| {})
    }

    /// The same, with settings changed, and each configured further.
    pub fn start_with(
        settings: impl FnOnce(Settings) -> Settings,
        change: impl FnMut(&mut Config),
    ) -> Self {
        Self::of(3, settings, change)
    }

    /// The same with so many nodes.
    pub fn of(
        nodes: usize,
        settings: impl FnOnce(Settings) -> Settings,
        mut change: impl FnMut(&mut Config),
    ) -> Self {
        let redis = RedisServer::start().expect("redis-server starts");
        let settings = settings(Settings::new(&redis.url()));
        let nodes = (0..nodes)
            .map(|_| Node::here_with(&settings, &mut change))
            .collect();
        Self {
            nodes,
            settings,
            redis,
        }
        .acquainted()
    }

    /// Three processes that are ready.
    pub fn apart() -> Self {
        Self::apart_with(RedisServer::start().expect("redis-server starts"))
    }

    /// The same with settings changed.
    pub fn apart_set(settings: impl FnOnce(Settings) -> Settings) -> Self {
        let redis = RedisServer::start().expect("redis-server starts");
        let settings = settings(Settings::new(&redis.url()));
        let nodes = (0..3).map(|_| Node::apart(&settings)).collect();
        Self {
            nodes,
            settings,
            redis,
        }
        .acquainted()
    }

    /// The same over `redis`.
    pub fn apart_with(redis: RedisServer) -> Self {
        let settings = Settings::new(&redis.url());
        let nodes = (0..3).map(|_| Node::apart(&settings)).collect();
        Self {
            nodes,
            settings,
            redis,
        }
        .acquainted()
    }

    /// The same once each node is ready and knows the others.
    fn acquainted(self) -> Self {
        self.await_ready();
        self.await_receipts();
        self
    }

    /// Waits until every node is ready.
    pub fn await_ready(&self) {
        for (at, node) in self.nodes.iter().enumerate() {
            eventually(&format!("node {at} is ready"), || node.is_ready());
        }
    }

    /// A client on each node, in their order: `u0`, `u1`, `u2`.
    pub fn users(&self) -> Vec<Client> {
        self.nodes
            .iter()
            .enumerate()
            .map(|(at, node)| node.user(&format!("u{at}")))
            .collect()
    }

    /// The same, each a member of `channel`.
    pub fn members(&self, channel: &str) -> Vec<Client> {
        let mut users = self.users();
        for user in &mut users {
            user.join(channel);
        }
        users
    }

    /// Waits until a receipt of every node counts all of them.
    pub fn await_receipts(&self) {
        let nobody = json!({"event": "nobody", "to": {"users": ["nobody"]}, "receipt": "cluster"});
        for node in &self.nodes {
            let counts = || {
                let receipt = node.call("/v1/emit", &nobody);
                receipt["nodes"] == self.nodes.len() && receipt["missing_nodes"] == json!([])
            };
            eventually("a receipt counts every node", counts);
        }
    }
}

impl Index<usize> for Cluster {
    type Output = Node;

    fn index(&self, at: usize) -> &Node {
        &self.nodes[at]
    }
}

/// Says that it is over when it is dropped, be it by a failure, to those who work beside a test.
pub struct Stop<'a>(pub &'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// How a Redis Cluster is named to a node.
pub fn cluster_url(addresses: &[SocketAddr]) -> String {
    format!("redis+cluster://{}", listed(addresses))
}

/// How a service under sentinels is named to a node.
pub fn sentinel_url(addresses: &[SocketAddr]) -> String {
    format!("redis+sentinel://{}/{SERVICE}", listed(addresses))
}

fn listed(addresses: &[SocketAddr]) -> String {
    addresses
        .iter()
        .map(SocketAddr::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// A path's last part with every byte but letters and digits percent-encoded.
pub fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").unwrap();
        }
        encoded
    })
}

/// The next message that is not counts without changes, which come again when a node has come back.
pub fn next_notice(watcher: &mut Client) -> Value {
    loop {
        let notice = watcher.json();
        if notice["op"] != "members" {
            return notice;
        }
        let changes = ["joined", "left", "updated"].map(|kind| notice[kind].as_u64());
        assert_eq!(changes, [0, 0, 0].map(Some), "{notice}");
    }
}

/// The next message, which is an event; pings aside.
pub fn event(client: &mut Client) -> Value {
    let message = client.json();
    assert!(
        message["event"].is_string(),
        "expected an event, got {message}"
    );
    message
}

/// Expects the event `name` next, on every one of these clients.
pub fn all_get(clients: &mut [Client], name: &str) {
    for client in clients {
        assert_eq!(event(client)["event"], name);
    }
}

/// Expects that nothing more comes to any of these clients: an event that was sent behind all others, over the whole
/// cluster, is the next that each has.
pub fn nothing_more(node: &Node, clients: &mut [Client]) {
    node.call("/v1/broadcast", &json!({"event": "the end"}));
    all_get(clients, "the end");
    clients.iter_mut().for_each(Client::expect_nothing);
}
