//! A channel with history that has to wait, for Redis or for many who join it, delays nothing but itself.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, event, nothing_more},
    redis::{Proxy, RedisServer},
    support::Client,
};

/// How long a node waits for Redis in a test that has it wait.
const AS_LONG_AS_IT_TAKES: Duration = Duration::from_secs(30);

/// Two nodes, of which the second reaches Redis through a proxy, and waits `timeout` for it.
pub(crate) fn patient(timeout: Duration) -> (Proxy, Cluster) {
    patient_with(timeout, |settings| settings)
}

/// The same with other settings.
pub(crate) fn patient_with(
    timeout: Duration,
    with: impl Fn(Settings) -> Settings,
) -> (Proxy, Cluster) {
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let settings = with(Settings::new(&redis.url()))
        .with(
            "FANFARE_LIMIT_REDIS_TIMEOUT",
            &format!("{}s", timeout.as_secs()),
        )
        .with("FANFARE_LIMIT_BUS_CANARY_TIMEOUT", "60s")
        .with("FANFARE_LIMIT_NODE_LEASE", "60s");
    let far = settings.clone().with("FANFARE_REDIS", &proxy.url());
    let nodes = vec![Node::here(&settings), Node::here(&far)];
    let cluster = Cluster {
        nodes,
        settings,
        redis,
    };
    cluster.await_ready();
    cluster.await_receipts();
    (proxy, cluster)
}

fn send(node: &Node, channel: &str, data: impl Into<Value>) -> Value {
    let body = json!({"channel": channel, "event": "e", "data": data.into()});
    node.call("/v1/send", &body)["publications"][0].clone()
}

/// How many scripts Redis has run.
fn scripts(redis: &RedisServer) -> u64 {
    let stats = redis.call(&["INFO", "commandstats"]).unwrap().text();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

fn since(epoch: &Value, offset: u64) -> Value {
    json!({"op": "join", "id": 1, "channel": "room", "since": {"epoch": epoch, "offset": offset}})
}

/// Sends numbered events to the room, each followed by one to the lobby, until the first that waits while the lobby's passes.
/// Returns its number. A client that asks Redis in vain lets them wait, from when its node has read what it asks.
fn first_that_waits(node: &Node, room: &mut Client, lobby: &mut Client) -> u64 {
    for n in 1.. {
        send(node, "room", n);
        let passes = json!({"channel": "lobby", "event": "e", "data": "passes"});
        node.call("/v1/send", &passes);
        assert_eq!(event(lobby)["data"], "passes");
        let came = room.pending();
        if came.is_empty() {
            return n;
        }
        assert_eq!(came[0]["data"], n);
    }
    unreachable!("an event waits at last");
}

#[test]
fn events_of_other_channels_pass_one_that_waits_for_redis() {
    let (proxy, cluster) = patient(AS_LONG_AS_IT_TAKES);
    let mut room = cluster[1].connect("");
    let epoch = room.join("room")["epoch"].clone();
    send(&cluster[0], "room", 0);
    assert_eq!(event(&mut room)["data"], 0);
    let mut lobby = cluster[1].connect("");
    lobby.join("room-lobby");
    lobby.join("lobby");

    // What someone missed is asked of Redis, which does not answer; meanwhile an event comes for the room.
    proxy.freeze_scripts();
    let mut back = cluster[1].connect("");
    back.send(&since(&epoch, 0));
    back.send(&json!({"op": "ping"}));
    let first = first_that_waits(&cluster[0], &mut room, &mut lobby);
    send(&cluster[0], "room-lobby", "passes too");
    assert_eq!(event(&mut lobby)["data"], "passes too");
    // What came before them waits still.
    room.expect_nothing();

    proxy.thaw();
    assert_eq!(event(&mut room)["data"], first);
    let ack = back.json();
    assert_eq!(
        (&ack["op"], &ack["recovered"]),
        (&json!("ack"), &json!(true)),
        "{ack}"
    );
    for data in 0..=first {
        assert_eq!(event(&mut back)["data"], data);
    }
}

#[test]
fn what_comes_for_a_channel_that_waits_comes_in_order_and_is_counted() {
    let (proxy, cluster) = patient(AS_LONG_AS_IT_TAKES);
    let mut room = cluster[1].connect("");
    let epoch = room.join("room")["epoch"].clone();
    send(&cluster[0], "room", 0);
    assert_eq!(event(&mut room)["data"], 0);
    let mut lobby = cluster[1].connect("");
    lobby.join("lobby");
    proxy.freeze_scripts();
    let mut back = cluster[1].connect("");
    back.send(&since(&epoch, 0));

    // The last of them is not stored, and comes after those that are.
    let first = first_that_waits(&cluster[0], &mut room, &mut lobby);
    let last = first + 20;
    for n in first + 1..last {
        send(&cluster[0], "room", n);
    }
    room.expect_nothing();
    let body = json!({"channel": "room", "event": "e", "data": last, "store": false, "receipt": "cluster"});
    std::thread::scope(|scope| {
        let counted = scope.spawn(|| cluster[0].call("/v1/send", &body));
        std::thread::sleep(Duration::from_millis(100));
        proxy.thaw();
        let receipt = counted.join().unwrap();
        assert_eq!(
            (&receipt["nodes"], &receipt["missing_nodes"]),
            (&json!(2), &json!([])),
            "{receipt}"
        );
    });
    for n in first..=last {
        assert_eq!(event(&mut room)["data"], n);
    }
}

#[test]
fn many_who_join_one_channel_ask_redis_a_few_times() {
    const CLIENTS: usize = 500;
    let (proxy, cluster) = patient(AS_LONG_AS_IT_TAKES);
    let mut members = vec![cluster[1].connect("")];
    let epoch = members[0].join("room")["epoch"].clone();
    for n in 1..=3 {
        send(&cluster[0], "room", n);
        assert_eq!(event(&mut members[0])["data"], n);
    }
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| cluster[1].connect("")).collect();
    proxy.delay(Duration::from_millis(3));
    for asks_since in [false, true] {
        let before = scripts(&cluster.redis);
        for (at, client) in clients.iter_mut().enumerate() {
            if asks_since {
                client.send(&since(&epoch, (at % 3) as u64));
            } else {
                client.send(&json!({"op": "join", "id": 1, "channel": "room"}));
            }
        }
        for (at, client) in clients.iter_mut().enumerate() {
            let ack = client.json();
            assert_eq!(
                (&ack["op"], &ack["offset"]),
                (&json!("ack"), &json!(3)),
                "{ack}"
            );
            if asks_since {
                assert_eq!(ack["recovered"], true, "{ack}");
                for n in (at % 3) + 1..=3 {
                    assert_eq!(event(client)["data"], n);
                }
            }
        }
        // Leases, and what is asked of revoked tokens, are among them.
        let ran = scripts(&cluster.redis) - before;
        assert!(
            ran < CLIENTS as u64 / 10,
            "{ran} scripts for {CLIENTS} joins"
        );
    }
    send(&cluster[0], "room", 4);
    for client in members.iter_mut().chain(&mut clients) {
        assert_eq!(event(client)["offset"], 4);
    }
    nothing_more(&cluster[0], &mut members);
}

#[test]
fn a_stored_event_reaches_members_on_a_node_whose_rule_stores_nothing() {
    let redis = RedisServer::start().unwrap();
    let settings = Settings::new(&redis.url());
    // As in a rollout of a rule: the one node has it, the other not yet.
    let without = settings
        .clone()
        .with("FANFARE_CHANNEL_HISTORY", "other*=1000");
    let nodes = vec![Node::here(&settings), Node::here(&without)];
    let cluster = Cluster {
        nodes,
        settings,
        redis,
    };
    cluster.await_ready();
    cluster.await_receipts();
    let mut members = cluster.members("room");
    for n in 1..=5 {
        send(&cluster[0], "room", n);
        for member in &mut members {
            assert_eq!(event(member)["data"], n);
        }
    }
    cluster[1].call(
        "/v1/send",
        &json!({"channel": "room", "event": "e", "data": 6}),
    );
    for member in &mut members {
        assert_eq!(event(member)["data"], 6);
    }
}
