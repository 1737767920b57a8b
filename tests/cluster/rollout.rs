//! What runs while one version, or one configuration, replaces another: nodes of both beside each other.
//!
//! `tests/data/wire` has what each version has written: `vN/bus.jsonl` the messages between two nodes, `vN/keys.jsonl` what they left
//! in Redis. A version that has come to write more has further files, such as `vN/keys.2.jsonl`. To record a new version, raise
//! `protocol::envelope::VERSION` and run `cargo test --test cluster -- --ignored rollout::record`. What was recorded stays.

use std::{env, fs, path::PathBuf};

use fanfare::config::{AppConfig, Config};
use serde_json::{Value, json};

use crate::{
    UNKNOWN_VERSION,
    cluster::{Node, Settings, event},
    redis::{RedisServer, Reply, Resp},
    support::{Answer, Client, KEY, SECRET, api_key, eventually, token_key},
};

/// The version in which a node writes.
const VERSION: &str = "fanfare_bus_version";
/// Messages of the bus that a node could not use.
const SKIPPED: &str = "fanfare_bus_skipped_total";
/// A program of the version before, for what needs one.
const OLD_PROGRAM: &str = "OLD_PROGRAM";

#[expect(
    clippy::disallowed_methods,
    reason = "it is for this test, and no setting"
)]
fn variable(name: &str) -> Option<String> {
    env::var(name).ok()
}

fn key(suffix: &str) -> String {
    format!("fanfare:tests::nodes.{suffix}")
}

fn dispatch(redis: &RedisServer, app: &str, message: &Value) {
    let channel = format!("fanfare:tests:{app}:dispatch");
    let heard = redis.call(&["PUBLISH", &channel, &message.to_string()]);
    assert!(heard.unwrap().number() > Some(0));
}

/// Messages of the bus from now on.
struct Tap(Resp);

/// A channel of the bus, and what was published there.
type Message = (String, Vec<u8>);

impl Tap {
    fn new(redis: &RedisServer) -> Self {
        let mut tap = Resp::connect(redis.address()).unwrap();
        tap.call(&["PSUBSCRIBE", "*"]).unwrap();
        Self(tap)
    }

    /// What has come until now, canaries aside.
    fn messages(mut self, redis: &RedisServer) -> Vec<Message> {
        redis.call(&["PUBLISH", "last", "last"]).unwrap();
        let mut messages = Vec::new();
        loop {
            let message = self.0.read().unwrap();
            let Reply::Bytes(payload) = &message.items()[3] else {
                panic!("{message:?}")
            };
            let channel = message.items()[2].text();
            if channel == "last" {
                return messages;
            }
            if !channel.contains("canary") {
                messages.push((channel, payload.clone()));
            }
        }
    }
}

/// A node of version 1 that only holds a lease, and leads.
struct OldNode<'a>(&'a RedisServer);

impl<'a> OldNode<'a> {
    const LEASE: &'static str = "zvpvxvr old";

    fn come(redis: &'a RedisServer) -> Self {
        let keys = [
            "leases", "leader", "nodes", "reaping", "renewals", "reaped", "left",
        ]
        .map(key);
        let mut words = vec!["EVAL", include_str!("../data/wire/v1/renew.lua"), "7"];
        words.extend(keys.iter().map(String::as_str));
        words.extend([Self::LEASE, "600000", "86400000"]);
        redis.call(&words).unwrap();
        Self(redis)
    }

    fn leads(&self) -> bool {
        let leader = self.0.call(&["GET", &key("leader")]).unwrap();
        leader.text().ends_with(Self::LEASE)
    }

    fn leave(self) {
        if self.leads() {
            self.0.call(&["DEL", &key("leader")]).unwrap();
        }
        self.0.call(&["ZREM", &key("leases"), Self::LEASE]).unwrap();
    }
}

fn until_all_write(nodes: &[Node], version: u64) {
    for node in nodes {
        eventually("it writes that version", || {
            node.count(VERSION, "") == version
        });
    }
}

fn watcher(node: &Node) -> Client {
    let mut watcher = node.user("watcher");
    watcher.watch("lobby");
    watcher
}

/// Waits for the next notice of `user`.
fn expect_notice(watcher: &mut Client, kind: &str, user: &str) {
    // Counts may come at any time, while nodes learn of each other.
    let notice = std::iter::repeat_with(|| watcher.json()).find(|told| told["op"] == "member");
    let notice = notice.unwrap();
    assert_eq!(
        (&notice["kind"], &notice["member"]["user"]),
        (&json!(kind), &json!(user)),
        "{notice}"
    );
}

#[test]
fn the_older_version_is_written_while_an_old_node_is_there() {
    let redis = RedisServer::start().unwrap();
    let old = OldNode::come(&redis);
    let settings = Settings::new(&redis.url());
    let nodes = [Node::here(&settings), Node::here(&settings)];
    until_all_write(&nodes, 1);
    let mut watcher = watcher(&nodes[0]);

    let tap = Tap::new(&redis);
    let mut bob = nodes[1].user("bob");
    bob.join("lobby");
    expect_notice(&mut watcher, "joined", "bob");
    let messages = tap.messages(&redis);
    assert!(messages.iter().all(|(_, message)| message[0] == 1));
    let is_notice = |(_, message): &&Message| message[1] == 5;
    let notices: Vec<&str> = messages
        .iter()
        .filter(is_notice)
        .map(|(channel, _)| channel.as_str())
        .collect();
    let both = [
        "fanfare:tests:default:channel:lobby",
        "fanfare:tests:default:watch:lobby",
    ];
    assert!(
        both.iter().all(|channel| notices.contains(channel)),
        "{notices:?}"
    );

    // The old node leads, so no other one stores this until it has gone.
    assert!(old.leads());
    bob.join("room");
    let said = json!({"call": "send", "channel": "room", "event": "stored"});
    dispatch(&redis, "default", &said);
    old.leave();
    assert_eq!(event(&mut bob)["offset"], 1);
    until_all_write(&nodes, 2);

    let tap = Tap::new(&redis);
    bob.acked(&json!({"op": "leave", "channel": "lobby"}));
    expect_notice(&mut watcher, "left", "bob");
    let messages = tap.messages(&redis);
    let notices: Vec<&Message> = messages.iter().filter(is_notice).collect();
    assert_eq!(notices.len(), 1, "{messages:?}");
    assert!(notices[0].0.ends_with(":watch:lobby") && notices[0].1[0] == 2);

    let _old = OldNode::come(&redis);
    until_all_write(&nodes, 1);
    for node in &nodes {
        assert_eq!(node.count(UNKNOWN_VERSION, ""), 0);
    }
}

#[test]
fn what_a_node_does_not_know_or_serve_is_refused() {
    let redis = RedisServer::start().unwrap();
    let node = Node::here(&Settings::new(&redis.url()));
    eventually("it is ready", || node.is_ready());
    let client = node.user("ann");
    let channel = format!("fanfare:tests::node:{}", node.id(&client));
    let mut answers = Resp::connect(redis.address()).unwrap();
    answers
        .call(&["SUBSCRIBE", "fanfare:tests::node:zvpvxvr"])
        .unwrap();
    for (app, order, says) in [
        ("default", json!({"brand_new": {}}), "is not known here"),
        (
            "absent",
            json!({"count": {"channel": "lobby"}}),
            "is not served here",
        ),
    ] {
        let request = json!({"origin": 0xfeed_beef_u32, "id": 7, "app": app, "order": order});
        let request = [&[1, 3], request.to_string().as_bytes()].concat();
        let mut redis = Resp::connect(redis.address()).unwrap();
        redis
            .call_bytes(&[b"PUBLISH", channel.as_bytes(), &request])
            .unwrap();
        let answer = answers.read().unwrap().items()[2].text();
        assert!(answer.contains(says), "{answer}");
    }
}

#[test]
fn an_app_is_led_by_a_node_that_serves_it() {
    let redis = RedisServer::start().unwrap();
    let settings = Settings::new(&redis.url());
    let with_key = |config: &mut Config| {
        config.drain_delay = Some(std::time::Duration::ZERO);
        let own = config.apps.values_mut().next().unwrap();
        own.keys
            .push(api_key("all", KEY, fanfare::config::Scopes::ALL));
    };
    let mut nodes: Vec<Node> = (0..3)
        .map(|_| Node::here_with(&settings, with_key))
        .collect();
    let serve_more = |config: &mut Config| {
        with_key(config);
        let own = config.apps.values_mut().next().unwrap();
        let rules = own.channels.clone();
        for n in 0..8 {
            let app = AppConfig {
                tokens: vec![token_key(SECRET)],
                keys: vec![api_key(
                    "all",
                    &format!("{KEY}-{n}"),
                    fanfare::config::Scopes::ALL,
                )],
                channels: rules.clone(),
                ..AppConfig::default()
            };
            config.apps.insert(format!("new-{n}"), app);
        }
    };
    nodes.push(Node::here_with(&settings, serve_more));
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }

    for n in 0..8 {
        let app = format!("new-{n}");
        let can = json!({"can": {"join": ["*"]}});
        let mut ann = nodes[3].user_with("ann", &can, &format!("app={app}"));
        ann.join("room");
        for offset in 1..=3 {
            let said = json!({"call": "send", "channel": "room", "event": "e"});
            dispatch(&redis, &app, &said);
            assert_eq!(event(&mut ann)["offset"], offset);
        }
        // Nodes that do not serve it are not asked, and refuse what is asked of them.
        let authorization = format!("Bearer {KEY}-{n}");
        let of_app = [("Authorization", authorization.as_str())];
        let body = json!({"event": "e", "receipt": "cluster"}).to_string();
        let call =
            |node: &Node| node.request("POST", "/v1/broadcast", &of_app, Some(body.as_bytes()));
        let receipt = call(&nodes[3]);
        assert_eq!(receipt.status, 200, "{receipt:?}");
        let receipt = receipt.json();
        assert_eq!(
            (&receipt["nodes"], &receipt["missing_nodes"]),
            (&json!(1), &json!([])),
            "{receipt}"
        );
        let refused = nodes[2].request("GET", "/v1/channels", &of_app, None);
        assert_eq!(refused.status, 401, "{refused:?}");
        let path = format!("/v1/connect?app={app}");
        let refused = Client::open(nodes[0].address(), &path, &[]);
        assert_eq!(refused.err().map(|answer| answer.status), Some(404));
    }
    eventually("it says that it leads", || {
        nodes[3].count("fanfare_leader", "new-") == 8
    });
    // Each node says it with its next renewal.
    eventually("one leads what all serve", || {
        let leads = nodes
            .iter()
            .map(|node| node.count("fanfare_leader", "default"));
        leads.sum::<u64>() == 1
    });
}

#[test]
fn a_rule_that_is_rolled_out_loses_nothing() {
    let redis = RedisServer::start().unwrap();
    let new = Settings::new(&redis.url());
    let old = new.clone().with("FANFARE_CHANNEL_HISTORY", "other*=10");
    let mut nodes = vec![Node::here(&old), Node::here(&new)];
    let is_met = |node: &Node| node.count("fanfare_peers", "") == 1;
    for node in &nodes {
        eventually("each knows the other", || is_met(node));
    }
    let mut members: Vec<Client> = nodes.iter().map(|node| node.user("ann")).collect();
    for member in &mut members {
        member.join("room");
    }
    let send = |node: &Node, n: usize| {
        node.call(
            "/v1/send",
            &json!({"channel": "room", "event": "e", "data": n}),
        );
    };
    for n in 0..20 {
        send(&nodes[n % 2], n);
        for member in &mut members {
            assert_eq!(event(member)["data"], n, "both rules' members get all");
        }
    }

    // The old node makes way for another one with the new rule, which has what was stored under it.
    drop(members.remove(0));
    drop(nodes.remove(0));
    let next = Node::here(&new);
    eventually("it is ready", || next.is_ready() && is_met(&next));
    let stored = next.look("/v1/channels/room/history");
    let stored = stored["events"].as_array().unwrap();
    let stored: Vec<u64> = stored
        .iter()
        .map(|event| event["data"].as_u64().unwrap())
        .collect();
    assert_eq!(stored, (0..20).filter(|n| n % 2 == 1).collect::<Vec<_>>());
    send(&next, 20);
    assert_eq!(event(&mut members[0])["data"], 20);
    for node in nodes.iter().chain([&next]) {
        assert_eq!(node.count(SKIPPED, ""), 0);
    }
}

fn folder(version: u64) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/data/wire/v{version}"))
}

/// Bytes as a text with one character for each.
fn text_of(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn bytes_of(text: &Value) -> Vec<u8> {
    let bytes = text.as_str().unwrap().chars();
    bytes.map(|byte| u8::try_from(byte).unwrap()).collect()
}

fn lines(version: u64, file: &str) -> Vec<Vec<Vec<u8>>> {
    let text = fs::read_to_string(folder(version).join(file)).unwrap();
    let read = |line: &str| -> Vec<Vec<u8>> {
        let parts: Vec<Value> = serde_json::from_str(line).unwrap();
        parts.iter().map(bytes_of).collect()
    };
    text.lines().map(read).collect()
}

/// The files of one name that a version has: `keys.jsonl`, `keys.2.jsonl`, and so on.
fn files(version: u64, name: &'static str) -> impl Iterator<Item = String> {
    let file = move |n: u32| match n {
        1 => format!("{name}.jsonl"),
        n => format!("{name}.{n}.jsonl"),
    };
    (1..)
        .map(file)
        .take_while(move |file| folder(version).join(file).exists())
}

/// Every version that was recorded, with each file of what was left in Redis.
fn recorded_keys() -> impl Iterator<Item = (u64, String)> {
    versions().flat_map(|version| files(version, "keys").map(move |file| (version, file)))
}

/// Every version that was recorded.
fn versions() -> impl Iterator<Item = u64> {
    (1..).take_while(|version| folder(*version).exists())
}

#[test]
fn messages_of_every_version_are_understood() {
    let newest = versions().count() as u64;
    assert!(newest >= 2);
    for version in versions() {
        let redis = RedisServer::start().unwrap();
        // Without history what was stored elsewhere comes as it is.
        let settings = Settings::new(&redis.url())
            .with("FANFARE_CHANNEL_HISTORY", "other*=1")
            .with("FANFARE_STORE_USER_EVENTS", "false");
        let node = Node::here(&settings);
        eventually("it is ready", || node.is_ready());
        assert_eq!(node.count(VERSION, ""), newest, "the newest is recorded");
        let mut bob = node.user("bob");
        let id = node.id(&bob);
        for channel in ["lobby", "room"] {
            bob.join(channel);
        }
        let mut watcher = watcher(&node);

        let messages = lines(version, "bus.jsonl");
        let mut resp = Resp::connect(redis.address()).unwrap();
        for message in &messages {
            let channel = String::from_utf8(message[0].clone()).unwrap();
            if channel.ends_with(":dispatch") {
                // No node said that. What one made of it comes by itself.
                continue;
            }
            let channel = match channel.rsplit_once(":node:") {
                Some((start, _)) => format!("{start}:node:{id}"),
                None => channel,
            };
            resp.call_bytes(&[b"PUBLISH", channel.as_bytes(), &message[1]])
                .unwrap();
        }
        let mut told = Vec::new();
        eventually("all comes", || {
            told.extend(watcher.pending());
            let of = |name: &str| told.iter().any(|told| told["event"] == name);
            of("the-last")
        });
        let told: Vec<&Value> = told.iter().filter(|told| told["op"] == "member").collect();
        let about = |kind: &str, user: &str| {
            told.iter()
                .any(|told| told["kind"] == kind && told["member"]["user"] == user)
        };
        assert!(
            about("joined", "ann") && about("left", "ann"),
            "version {version}: {told:?}"
        );
        let mut events: Vec<String> = Vec::new();
        while events.last().is_none_or(|last| last != "the-last") {
            events.extend(bob.json()["event"].as_str().map(ToOwned::to_owned));
        }
        assert_eq!(
            events,
            [
                "to-all",
                "to-lobby",
                "to-bob",
                "to-room",
                "to-filter",
                "from-program",
                "the-last"
            ],
            "version {version}"
        );
        assert_eq!(node.count(UNKNOWN_VERSION, ""), 0);
        assert_eq!(node.count(SKIPPED, ""), 0);
    }
}

/// Puts what was recorded in a file of a version into Redis, as if it had been written just now.
fn load(redis: &RedisServer, version: u64, file: &str) {
    let now = crate::support::unix_now() * 1000;
    let later = (now + 3_600_000).to_string().into_bytes();
    let mut resp = Resp::connect(redis.address()).unwrap();
    for record in lines(version, file) {
        let (key, kind, mut parts) = (&record[0], &record[1][..], record[2..].to_vec());
        // Moments at which something is over.
        let is_state = key.ends_with(b".state:room") || key.windows(6).any(|at| at == b".state");
        for at in 0..parts.len().saturating_sub(1) {
            let is_moment = parts[at] == b"x" || (is_state && parts[at] == b"d");
            if is_moment && parts[at + 1].iter().all(u8::is_ascii_digit) {
                parts[at + 1].clone_from(&later);
            }
        }
        if key.ends_with(b"revoked") {
            // "<before> <until>", in seconds.
            for value in &mut parts {
                let text = String::from_utf8_lossy(value).into_owned();
                if let Some((before, until)) = text.split_once(' ')
                    && until.parse::<u64>().is_ok()
                {
                    *value = format!("{before} {}", now / 1000 + 3600).into_bytes();
                }
            }
        }
        let mut command: Vec<&[u8]> = match kind {
            b"hash" => vec![b"HSET", key],
            b"set" => vec![b"SADD", key],
            b"zset" => vec![b"ZADD", key],
            b"string" => vec![b"SET", key],
            b"stream" => vec![b"XADD", key],
            _ => panic!("{record:?}"),
        };
        command.extend(parts.iter().map(Vec::as_slice));
        resp.call_bytes(&command).unwrap();
    }
}

#[test]
fn records_of_every_version_are_read() {
    for (version, file) in recorded_keys() {
        let redis = RedisServer::start().unwrap();
        load(&redis, version, &file);
        let node = Node::here(&Settings::new(&redis.url()));
        eventually("it is ready", || node.is_ready());

        let history = node.look("/v1/channels/room/history");
        let events = history["events"].as_array().unwrap();
        let names: Vec<&str> = events
            .iter()
            .map(|event| event["event"].as_str().unwrap())
            .collect();
        assert_eq!(
            names,
            ["to-room", "from-program"],
            "version {version}: {history}"
        );
        // Whom an event leaves out is kept with it.
        let mut ann = node.user("ann");
        let since = json!({"offset": 0});
        let missed = ann.ask_amid(&json!({"op": "join", "channel": "room", "since": since}));
        assert!(!format!("{missed:?}{:?}", ann.pending()).contains("to-room"));
        let mut away = node.user("away");
        assert_eq!(event(&mut away)["event"], "to-away", "version {version}");

        let token = crate::support::signed(&json!({"sub": "mallory", "iat": 1_000_000}));
        let refused = node.open(&format!("token={token}")).closed();
        assert_eq!(refused, 4001, "version {version}: it was revoked");
        let repeated = post_once(&node);
        assert_eq!(
            repeated.header("idempotency-replayed"),
            Some("true"),
            "version {version}"
        );
        assert_eq!(node.count("fanfare_history_unreadable_total", ""), 0);
    }
}

/// Clients come back to what the recorded list of members of their node has, as soon as lists say to whom a connection belongs.
#[test]
fn lists_of_members_of_every_version_are_read() {
    let mut with_version = 0;
    for (version, file) in recorded_keys() {
        let redis = RedisServer::start().unwrap();
        let lists = lines(version, &file).into_iter();
        let mut lists =
            lists.filter(|record| record[0].windows(13).any(|at| at == b":node.members"));
        let of_bob = lists
            .find(|list| {
                list[2..]
                    .iter()
                    .any(|part| part.ends_with(b"{\"user\":\"bob\"}"))
            })
            .expect("bob is listed");
        let mut command: Vec<&[u8]> = vec![b"HSET", &of_bob[0]];
        command.extend(of_bob[2..].iter().map(Vec::as_slice));
        let mut resp = Resp::connect(redis.address()).unwrap();
        resp.call_bytes(&command).unwrap();
        let fields: Vec<_> = of_bob[2..].iter().step_by(2).collect();
        let has_version = fields.iter().any(|field| *field == b"version");
        with_version += u32::from(has_version);

        let node = Node::here(&Settings::new(&redis.url()));
        eventually("it is ready", || node.is_ready());
        let place = fields
            .iter()
            .find(|field| field.starts_with(b"default lobby "));
        let place = String::from_utf8_lossy(place.unwrap()).into_owned();
        let old = place.rsplit(' ').next().unwrap();
        let token = crate::support::signed(&json!({"sub": "bob", "can": {"join": ["*"]}}));
        let mut bob = node.open(&format!("token={token}&resume={old}"));
        let welcome = bob.json();
        assert_eq!(
            welcome["resumed"], has_version,
            "{version} {file}: {welcome}"
        );
        if has_version {
            let mut channels = [bob.json(), bob.json()].map(|told| told["channel"].to_string());
            channels.sort();
            assert_eq!(channels, ["\"lobby\"", "\"room\""], "{version} {file}");
        }
    }
    assert!(with_version > 0, "lists with a version are recorded");
}

fn post_once(node: &Node) -> Answer {
    let body = json!({"event": "once", "to": {"users": ["nobody"]}}).to_string();
    let once = [("Idempotency-Key", "order-1")];
    let answer = node.request("POST", "/v1/emit", &once, Some(body.as_bytes()));
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// Two nodes of `program` that say everything to each other that nodes say.
fn everything_is_said(redis: &RedisServer, program: &str) -> Vec<Message> {
    let settings = Settings::new(&redis.url());
    let mut nodes = [
        Node::of_program(program, &settings),
        Node::of_program(program, &settings),
    ];
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
        eventually("it knows the other", || {
            node.count("fanfare_peers", "") == 1
        });
    }
    let mut watcher = watcher(&nodes[0]);
    let mut bob = nodes[1].user("bob");
    bob.join("lobby");
    bob.join("room");
    expect_notice(&mut watcher, "joined", "bob");

    let tap = Tap::new(redis);
    let mut ann = nodes[1].user("ann");
    ann.acked(&json!({"op": "update", "data": {"name": "Ann"}}));
    ann.join("lobby");
    expect_notice(&mut watcher, "joined", "ann");
    for (path, body) in [
        ("broadcast", json!({"event": "to-all", "data": [1.0, "é"]})),
        ("send", json!({"channel": "lobby", "event": "to-lobby"})),
        ("publish", json!({"user": "bob", "event": "to-bob"})),
        ("publish", json!({"user": "away", "event": "to-away"})),
        (
            "send",
            json!({"channel": "room", "event": "to-room", "except": {"users": ["ann"]}}),
        ),
        (
            "emit",
            json!({"event": "to-filter", "filter": "user == params.u", "params": {"u": "bob"}, "receipt": "cluster"}),
        ),
    ] {
        nodes[0].call(&format!("/v1/{path}"), &body);
    }
    for name in ["to-all", "to-lobby", "to-bob", "to-room", "to-filter"] {
        assert_eq!(
            std::iter::repeat_with(|| bob.json())
                .find(|told| told["event"].is_string())
                .unwrap()["event"],
            name
        );
    }
    let said = json!({"call": "send", "channel": "room", "event": "from-program"});
    dispatch(redis, "default", &said);
    assert_eq!(event(&mut bob)["event"], "from-program");
    for path in [
        "channels",
        "channels/lobby",
        "channels/lobby/members",
        "users/ann",
        "connections",
    ] {
        nodes[0].look(&format!("/v1/{path}"));
    }
    nodes[0].call("/v1/revoke", &json!({"user": "mallory"}));
    post_once(&nodes[0]);
    ann.ask_amid(&json!({"op": "leave", "channel": "lobby"}));
    let left = std::iter::repeat_with(|| watcher.json()).find(|told| told["kind"] == "left");
    assert_eq!(left.unwrap()["member"]["user"], "ann");
    nodes[0].call("/v1/broadcast", &json!({"event": "the-last"}));
    assert_eq!(event(&mut bob)["event"], "the-last");

    // Ended without a word, so that their lists of members stay.
    let messages = tap.messages(redis);
    nodes.iter_mut().for_each(Node::kill);
    messages
}

/// What is in Redis: of each key its name, its type, and what a command needs to write it.
fn keys(redis: &RedisServer) -> Vec<Vec<Vec<u8>>> {
    fn flat(reply: &Reply, out: &mut Vec<Vec<u8>>) {
        match reply {
            Reply::Bytes(bytes) => out.push(bytes.clone()),
            other => other.items().iter().for_each(|item| flat(item, out)),
        }
    }
    let all = redis.call(&["KEYS", "*"]).unwrap();
    let mut all: Vec<String> = all.items().iter().map(Reply::text).collect();
    all.sort();
    let mut records = Vec::new();
    for key in all {
        let kind = redis.call(&["TYPE", &key]).unwrap().text();
        let words: &[&str] = match kind.as_str() {
            "hash" => &["HGETALL", &key],
            "set" => &["SMEMBERS", &key],
            "zset" => &["ZRANGE", &key, "0", "-1", "WITHSCORES"],
            "string" => &["GET", &key],
            "stream" => &["XRANGE", &key, "-", "+"],
            _ => panic!("{key} is a {kind}"),
        };
        let content = redis.call(words).unwrap();
        let entries = if kind == "stream" {
            content.items().to_vec()
        } else {
            vec![content]
        };
        for entry in &entries {
            let mut parts = Vec::new();
            flat(entry, &mut parts);
            if kind == "zset" {
                // ZADD takes the score first.
                parts.chunks_mut(2).for_each(|pair| pair.swap(0, 1));
            }
            let head = [key.clone().into_bytes(), kind.clone().into_bytes()];
            records.push(head.into_iter().chain(parts).collect());
        }
    }
    records
}

/// Records what nodes of this version write, or of the program and version that the environment names
/// (`RECORD=1:path/to/fanfare`), in files beside those that are there.
#[test]
#[ignore = "writes test data"]
fn record() {
    let this = format!("2:{}", env!("CARGO_BIN_EXE_fanfare"));
    let of = variable("RECORD").unwrap_or(this);
    let (version, program) = of.split_once(':').unwrap();
    let redis = RedisServer::start().unwrap();
    let messages = everything_is_said(&redis, program);
    let folder = folder(version.parse().unwrap());
    fs::create_dir_all(&folder).unwrap();
    let number: u64 = version.parse().unwrap();
    let write = |name: &'static str, records: Vec<Vec<Vec<u8>>>| {
        let file = match files(number, name).count() {
            0 => format!("{name}.jsonl"),
            n => format!("{name}.{}.jsonl", n + 1),
        };
        let line = |record: &Vec<Vec<u8>>| {
            let parts: Vec<String> = record.iter().map(|part| text_of(part)).collect();
            serde_json::to_string(&parts).unwrap() + "\n"
        };
        fs::write(
            folder.join(file),
            records.iter().map(line).collect::<String>(),
        )
        .unwrap();
    };
    let pair = |(channel, message): Message| vec![channel.into_bytes(), message];
    write("bus", messages.into_iter().map(pair).collect());
    write("keys", keys(&redis));
}

/// A node of the version before beside one of this version, each with watchers, members and callers.
#[test]
#[ignore = "needs a program of the version before, OLD_PROGRAM"]
fn nodes_of_two_versions_are_one_server() {
    let program = variable(OLD_PROGRAM).expect("OLD_PROGRAM names a program");
    let redis = RedisServer::start().unwrap();
    let settings = Settings::new(&redis.url());
    let mut old = Node::of_program(&program, &settings);
    let new = Node::apart(&settings);
    for node in [&old, &new] {
        eventually("it is ready", || node.is_ready());
        eventually("it knows the other", || {
            node.count("fanfare_peers", "") == 1
        });
    }
    eventually("it writes the older version", || {
        new.count(VERSION, "") == 1
    });

    // Members, and notices of them.
    let mut watchers = [watcher(&old), watcher(&new)];
    assert_eq!(watchers[0].json()["kind"], "joined");
    let mut members = [old.user("ann"), new.user("bob")];
    for (member, user) in members.iter_mut().zip(["ann", "bob"]) {
        member.join("lobby");
        member.join("room");
        for watcher in &mut watchers {
            expect_notice(watcher, "joined", user);
        }
    }
    for node in [&old, &new] {
        let channel = node.look("/v1/channels/lobby");
        assert_eq!(
            (&channel["connections"], &channel["users"]),
            (&json!(4), &json!(3))
        );
        let page = node.look("/v1/channels/lobby/members");
        assert_eq!(page["members"].as_array().map(Vec::len), Some(4), "{page}");
        assert_eq!(node.look("/v1/users/ann")["connections"], 1);
        let channels = node.look("/v1/channels");
        assert_eq!(
            channels["channels"].as_array().map(Vec::len),
            Some(2),
            "{channels}"
        );
    }

    // Events, live and stored, in both directions; and of programs.
    let mut offset = 0;
    for node in [&old, &new, &old, &new] {
        let receipt = node.call(
            "/v1/send",
            &json!({"channel": "lobby", "event": "e", "receipt": "cluster"}),
        );
        assert_eq!(
            (&receipt["matched"], &receipt["nodes"]),
            (&json!(4), &json!(2)),
            "{receipt}"
        );
        node.call("/v1/send", &json!({"channel": "room", "event": "kept"}));
        node.call("/v1/publish", &json!({"user": "bob", "event": "stored"}));
        let said = json!({"call": "send", "channel": "room", "event": "said"});
        dispatch(&redis, "default", &said);
        for member in &mut members {
            assert_eq!(event(member)["event"], "e");
        }
        offset += 2;
        for (at, member) in members.iter_mut().enumerate() {
            let mut names: Vec<String> = (0..2 + at)
                .map(|_| event(member)["event"].as_str().unwrap().to_owned())
                .collect();
            names.sort();
            assert_eq!(
                names,
                if at == 0 {
                    vec!["kept", "said"]
                } else {
                    vec!["kept", "said", "stored"]
                }
            );
        }
        let history = new.look("/v1/channels/room/history");
        assert_eq!(history["offset"], offset, "each is stored once: {history}");
        for watcher in &mut watchers {
            let event = std::iter::repeat_with(|| watcher.json()).find(|told| told["op"].is_null());
            assert_eq!(event.unwrap()["event"], "e");
        }
    }

    // The old one makes way.
    drop((members, watchers));
    old.leave();
    eventually("it writes the newer version", || {
        new.count(VERSION, "") == 2
    });
    let mut ann = new.user("ann");
    ann.join("room");
    let said = json!({"call": "send", "channel": "room", "event": "said"});
    dispatch(&redis, "default", &said);
    assert_eq!(event(&mut ann)["offset"], offset + 1);
    assert_eq!(new.count(UNKNOWN_VERSION, ""), 0);
    assert_eq!(new.count(SKIPPED, ""), 0);
}
