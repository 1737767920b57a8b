//! Clients of Socket.IO come back by the name that they got with their first connection, whichever nodes they were at since.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings},
    kept::cut,
    redis::RedisServer,
    support::{Client, eventually, signed},
};

fn with_socketio(settings: Settings) -> Settings {
    settings
        .with("FANFARE_PROTOCOL", "socketio")
        .with("FANFARE_LIMIT_RESUME_WINDOW", "1m")
}

/// A client on `node` that is let in with this `auth`, and the name by which it is to come back.
fn connect(node: &Node, auth: &Value) -> (Client, String) {
    connect_with(node, auth, &[])
}

fn connect_with(node: &Node, auth: &Value, headers: &[(&str, &str)]) -> (Client, String) {
    let path = "/socket.io/?EIO=4&transport=websocket";
    let mut client = Client::open(node.address(), path, headers).unwrap();
    assert!(client.text().starts_with("0{"));
    client.frame(0x81, format!("40{auth}").as_bytes());
    let answer = client.text();
    let connected: Value = serde_json::from_str(&answer[2..]).unwrap();
    client.id = connected["sid"].as_str().unwrap().into();
    (client, connected["pid"].as_str().unwrap().to_owned())
}

/// One of ann in `lobby`.
fn ann(node: &Node) -> (Client, String) {
    let token = signed(&json!({"sub": "ann"}));
    let (mut client, name) = connect(node, &json!({"token": token, "channels": ["lobby"]}));
    expect_joined(&mut client);
    (client, name)
}

fn expect_joined(client: &mut Client) {
    assert_eq!(client.text(), r#"42["fanfare:joined",{"channel":"lobby"}]"#);
}

/// The client of ann comes back to `node`, and is in its channel.
fn comes_back(node: &Node, name: &str) -> Client {
    let token = signed(&json!({"sub": "ann"}));
    let (mut client, kept) = connect(node, &json!({"token": token, "pid": name}));
    assert_eq!(kept, name, "it is recovered");
    expect_joined(&mut client);
    client
}

#[test]
fn a_client_is_recovered_as_often_as_it_comes_back_to_whichever_node() {
    let cluster = Cluster::start_with(with_socketio, |_| {});
    let (mut client, name) = ann(&cluster[0]);
    // Each time the node of its last connection is another one, or the same.
    for at in [0, 1, 2, 2, 0, 1, 0, 0] {
        cut(&client);
        client = comes_back(&cluster[at], &name);
    }
}

#[test]
fn a_client_is_recovered_in_a_rollout_of_several_nodes() {
    let mut cluster =
        Cluster::apart_set(|settings| with_socketio(settings).with("FANFARE_DRAIN_TIMEOUT", "10s"));
    let (mut client, name) = ann(&cluster[0]);
    for at in [1, 2] {
        cluster.nodes[at - 1].ask_to_leave();
        client.closed();
        // Else the node waits for its answer.
        cut(&client);
        cluster.nodes[at - 1].await_end();
        client = comes_back(&cluster[at], &name);
    }
}

#[test]
fn nobody_but_who_has_the_whole_name_comes_back_by_it() {
    let cluster = Cluster::start_with(with_socketio, |_| {});
    let (client, name) = ann(&cluster[0]);
    cut(&client);
    let client = comes_back(&cluster[1], &name);
    cut(&client);
    let token = signed(&json!({"sub": "ann"}));
    let first = name.split('.').next().unwrap();
    for wrong in [format!("{first}.guessed"), format!("{}.x", client.id)] {
        let (_, given) = connect(&cluster[2], &json!({"token": token, "pid": wrong}));
        assert_ne!(given, wrong);
    }
    comes_back(&cluster[2], &name);
}

#[test]
fn redis_keeps_a_name_for_as_long_as_its_client_may_come_back() {
    let cluster = Cluster::start_with(with_socketio, |_| {});
    let (client, name) = ann(&cluster[0]);
    cut(&client);
    let client = comes_back(&cluster[1], &name);
    let left = || {
        let keys = cluster.redis.call(&["KEYS", "*user.recovery:*"]).unwrap();
        let [key] = keys.items() else {
            return None;
        };
        let left = cluster.redis.call(&["TTL", &key.text()]).unwrap();
        left.number()
    };
    eventually("it is kept for days", || left() > Some(24 * 3600));
    cut(&client);
    eventually("it is kept for minutes", || {
        left().is_some_and(|left| left < 3600)
    });
}

/// Whether ann is recovered who comes back to `node` with this position, and has been in `channel` alone.
fn is_recovered(node: &Node, channel: &str, position: &str) -> bool {
    let token = signed(&json!({"sub": "ann"}));
    let (mut client, name) = connect(node, &json!({"token": token, "channels": [channel]}));
    assert!(client.text().contains("fanfare:joined"));
    cut(&client);
    let auth = json!({"token": token, "pid": name, "offset": position});
    let (mut client, kept) = connect(node, &auth);
    assert!(client.text().contains("fanfare:joined"));
    kept == name
}

#[test]
fn a_client_is_recovered_if_the_history_has_what_it_missed() {
    let cluster = Cluster::start_with(
        |settings| with_socketio(settings).with("FANFARE_CHANNEL_HISTORY", "room*=2"),
        |_| {},
    );
    for n in 1..=5 {
        let event = json!({"channel": "room1", "event": "e", "data": n});
        cluster[0].call("/v1/send", &event);
    }
    let recovered: Vec<bool> = (1..=7)
        .map(|last| is_recovered(&cluster[last % 3], "room1", &format!("{last}@room1")))
        .collect();
    // Of five events the last two are kept.
    assert_eq!(recovered, [false, false, true, true, true, false, false]);
    assert!(is_recovered(&cluster[0], "room2", "0@room2"));
    let far = format!("{}@room1", u64::MAX);
    assert!(!is_recovered(&cluster[0], "room1", &far));
}

#[test]
fn a_position_in_a_channel_that_the_client_is_not_in_says_nothing() {
    let cluster = Cluster::start_with(with_socketio, |_| {});
    let event = json!({"channel": "room-secret", "event": "e"});
    cluster[0].call("/v1/send", &event);
    for offset in [0, 1, 2] {
        let position = format!("{offset}@room-secret");
        assert!(is_recovered(&cluster[1], "lobby", &position), "{position}");
        assert!(!is_recovered(&cluster[1], "room1", &position), "{position}");
    }
}

/// What a process has in memory.
fn resident_bytes(node: &Node) -> usize {
    let file = format!("/proc/{}/status", node.pid().as_raw_nonzero());
    let status = std::fs::read_to_string(file).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kib = line.unwrap().split_whitespace().nth(1).unwrap();
    kib.parse::<usize>().unwrap() * 1024
}

#[test]
fn a_client_keeps_no_memory_by_what_it_says_once() {
    const CLIENTS: usize = 400;
    const SAID: usize = 30_000;
    let redis = RedisServer::start().unwrap();
    let settings = with_socketio(Settings::new(&redis.url()))
        .with("FANFARE_API_KEY", "a-key-that-nobody-uses-here")
        .with("FANFARE_ORIGIN", "*")
        .with("FANFARE_DRAIN_DELAY", "0s");
    let node = Node::apart(&settings);
    eventually("the node is ready", || node.is_ready());
    let long = "x".repeat(SAID);
    let origin = format!("http://{long}.example");
    let page = &[("Origin", &*origin)][..];
    let auths = [
        (json!({}), &[][..]),
        (json!({}), &[][..]),
        (json!({"pid": format!("a.{long}")}), &[]),
        (json!({"offset": format!("1@{long}")}), &[]),
        (json!({}), page),
    ];
    let mut all = Vec::new();
    let each: Vec<usize> = auths
        .iter()
        .map(|(auth, headers)| {
            let before = resident_bytes(&node);
            all.extend((0..CLIENTS).map(|_| connect_with(&node, auth, headers)));
            resident_bytes(&node).saturating_sub(before) / CLIENTS
        })
        .collect();
    assert!(each[1..].iter().all(|each| *each < SAID / 2), "{each:?}");
}
