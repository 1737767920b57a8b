//! A Redis that has lost what it accepted: a replica that lagged took over, or an older copy was loaded. Offsets may be
//! given out once more then; nobody takes one event for another, and who missed something is told.

use std::ops::RangeInclusive;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, sentinel_url},
    redis::{RedisServer, Reply, Sentinels},
    support::{Client, eventually},
};

fn body(data: &str) -> Value {
    json!({"channel": "room", "event": "e", "data": data})
}

fn send(node: &Node, data: &str) -> Value {
    node.call("/v1/send", &body(data))["publications"][0].clone()
}

/// Sends several at `nodes` in turn; where the last one stands.
fn send_all(nodes: &[Node], kind: &str, numbers: RangeInclusive<usize>) -> Value {
    let mut last = Value::Null;
    for n in numbers {
        last = send(&nodes[n % nodes.len()], &format!("{kind} {n}"));
    }
    last
}

/// Sends it as often as it takes until it is accepted; where it stands.
fn send_when_possible(node: &Node, data: &str) -> Value {
    let mut accepted = Value::Null;
    eventually("it is taken", || {
        let answer = node.post("/v1/send", &body(data));
        assert!(answer.status == 200 || answer.status == 503, "{answer:?}");
        if answer.status == 200 {
            accepted = answer.json()["publications"][0].clone();
        }
        answer.status == 200
    });
    accepted
}

/// What whoever comes to the room at `node` with `since` is told, and the offsets of what is replayed.
fn back(node: &Node, epoch: &Value, offset: u64) -> (bool, Vec<u64>) {
    let mut client = node.connect("");
    client.send(
        &json!({"op": "join", "id": 1, "channel": "room", "since": {"epoch": epoch, "offset": offset}}),
    );
    let ack = client.json();
    let replayed = client
        .pending()
        .iter()
        .map(|event| event["offset"].as_u64().unwrap())
        .collect();
    (
        ack["recovered"]
            .as_bool()
            .unwrap_or_else(|| panic!("{ack}")),
        replayed,
    )
}

/// What comes to a member up to the event with `data`.
fn up_to(member: &mut Client, data: &str) -> Vec<Value> {
    let mut all = Vec::new();
    while all.last().is_none_or(|last: &Value| last["data"] != data) {
        all.push(member.json());
    }
    all
}

fn offsets(events: &[Value]) -> Vec<u64> {
    events
        .iter()
        .map(|event| {
            event["offset"]
                .as_u64()
                .unwrap_or_else(|| panic!("{event}"))
        })
        .collect()
}

fn is_ready(nodes: &[Node]) {
    for node in nodes {
        eventually("it is ready", || node.is_ready());
    }
}

#[test]
fn what_is_accepted_after_an_older_copy_was_loaded_reaches_who_was_further() {
    const ANEW: usize = 30;
    let mut cluster = Cluster::start();
    let mut member = cluster[0].connect("channel=room");
    assert_eq!(member.json()["op"], "joined");
    send_all(&cluster.nodes[1..2], "old", 1..=5);
    cluster.redis.call(&["SAVE"]).unwrap();
    let seen = send_all(&cluster.nodes[2..], "old", 6..=10);
    assert_eq!(
        offsets(&up_to(&mut member, "old 10")),
        (1..=10).collect::<Vec<_>>()
    );
    cluster.redis.restart().unwrap();
    // The node that numbers first has no member, and has not seen what was lost.
    let anew: Vec<Value> = (1..=ANEW)
        .map(|n| send_when_possible(&cluster[1], &format!("new {n}")))
        .collect();
    let got = up_to(&mut member, &format!("new {ANEW}"));
    let events: Vec<Value> = got
        .iter()
        .filter(|got| got["event"] == "e")
        .map(|got| got["data"].clone())
        .collect();
    assert_eq!(
        events,
        (1..=ANEW)
            .map(|n| json!(format!("new {n}")))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        (&got[0]["op"], &got[0]["recovered"]),
        (&json!("joined"), &json!(false)),
        "{}",
        got[0]
    );
    assert!(
        anew.iter()
            .all(|stands| stands["epoch"] == got[0]["epoch"] && stands["epoch"] != seen["epoch"])
    );
    // Each node finds Redis again by itself.
    cluster.await_ready();
    for node in &cluster.nodes {
        assert!(!back(node, &seen["epoch"], 10).0, "10 was another event");
        let last = anew.last().unwrap();
        assert!(back(node, &last["epoch"], last["offset"].as_u64().unwrap() - 1).0);
    }
}

#[test]
fn who_comes_back_after_a_failover_to_a_replica_that_lagged_is_told_what_holds() {
    let mut redis = Sentinels::start().unwrap();
    let settings = Settings::new(&sentinel_url(&redis.addresses()));
    let nodes: Vec<Node> = (0..2).map(|_| Node::here(&settings)).collect();
    is_ready(&nodes);
    send_all(&nodes[1..], "old", 1..=5);
    redis.servers.cut_off().unwrap();
    // Nobody is in the channel, so only the node that publishes them knows of these.
    let lost = send_all(&nodes[..1], "lost", 6..=10);
    assert_eq!(lost["offset"], 10);
    redis.fail_over().unwrap();
    let anew: Vec<Value> = (1..=8)
        .map(|n| send_when_possible(&nodes[1], &format!("new {n}")))
        .collect();
    is_ready(&nodes);
    let epoch = &lost["epoch"];
    let newest = anew.last().unwrap()["offset"].as_u64().unwrap();
    assert!(
        newest > 10,
        "the offsets of what was lost are passed: {newest}"
    );
    assert_eq!(back(&nodes[1], epoch, 10), (false, (1..=newest).collect()));
    assert_eq!(back(&nodes[1], epoch, 5), (true, (6..=newest).collect()));
    assert_eq!(back(&nodes[1], epoch, 3), (true, (4..=newest).collect()));
    // This one knows that events are missing, and from then on the other one does.
    for node in &nodes {
        assert_eq!(back(node, epoch, 5), (false, (1..=newest).collect()));
        assert_eq!(
            back(node, &anew[0]["epoch"], 10),
            (true, (11..=newest).collect())
        );
    }
}

#[test]
fn a_restart_without_loss_is_told_and_costs_nobody_anything() {
    let mut redis = RedisServer::start_durable().unwrap();
    let settings = Settings::new(&redis.url());
    let nodes: Vec<Node> = (0..3).map(|_| Node::here(&settings)).collect();
    is_ready(&nodes);
    let mut members: Vec<Client> = nodes
        .iter()
        .map(|node| node.connect("channel=room"))
        .collect();
    for member in &mut members {
        assert_eq!(member.json()["op"], "joined");
    }
    let before = send_all(&nodes, "old", 1..=5);
    for member in &mut members {
        assert_eq!(offsets(&up_to(member, "old 5")), [1, 2, 3, 4, 5]);
    }
    redis.restart().unwrap();
    eventually("nodes have noticed", || {
        nodes
            .iter()
            .all(|node| node.count("fanfare_bus_reconnects_total", "") > 0)
    });
    is_ready(&nodes);
    assert_eq!(
        back(&nodes[0], &before["epoch"], 4),
        (true, vec![5]),
        "before anything came"
    );
    let after = send_all(&nodes, "new", 6..=9);
    for member in &mut members {
        let got = up_to(member, "new 9");
        let told = json!({"op": "joined", "channel": "room", "epoch": after["epoch"], "offset": 5, "recovered": true});
        assert_eq!(got[0], told);
        assert_eq!(offsets(&got[1..]), [6, 7, 8, 9]);
    }
    for node in &nodes {
        assert_eq!(
            back(node, &before["epoch"], 3),
            (true, vec![4, 5, 6, 7, 8, 9])
        );
        assert_eq!(back(node, &after["epoch"], 7), (true, vec![8, 9]));
    }
}

#[test]
fn a_numbering_that_never_had_an_event_may_be_forgotten_and_who_listens_misses_nothing() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    let keys = cluster
        .redis
        .call(&["KEYS", "*channel.state:room"])
        .unwrap();
    let keys: Vec<String> = keys.items().iter().map(Reply::text).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    cluster.redis.call(&["DEL", &keys[0]]).unwrap();

    // The node knows where the channel stands, and tells nobody of another numbering.
    assert_eq!(cluster[2].connect("").join("room")["offset"], 0);
    members.iter_mut().for_each(Client::expect_nothing);
    let stands = send_all(&cluster.nodes[1..2], "first", 1..=2);
    for member in &mut members {
        let got = up_to(member, "first 2");
        assert_eq!(
            (&got[0]["op"], &got[0]["recovered"]),
            (&json!("joined"), &json!(true)),
            "{}",
            got[0]
        );
        assert_eq!(
            (&got[0]["epoch"], &got[0]["offset"]),
            (&stands["epoch"], &json!(0)),
            "{}",
            got[0]
        );
        assert_eq!(offsets(&got[1..]), [1, 2]);
    }
}

#[test]
fn a_numbering_that_redis_has_forgotten_is_followed_by_one_of_which_members_are_told_first() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    let before = send_all(&cluster.nodes[..1], "first", 1..=3);
    for member in &mut members {
        assert_eq!(offsets(&up_to(member, "first 3")), [1, 2, 3]);
    }

    // As it does an hour after the last event was over its time.
    for suffix in ["state", "events"] {
        let pattern = format!("*channel.{suffix}:room");
        let keys = cluster.redis.call(&["KEYS", &pattern]).unwrap();
        let keys: Vec<String> = keys.items().iter().map(Reply::text).collect();
        assert_eq!(keys.len(), 1, "{keys:?}");
        cluster.redis.call(&["DEL", &keys[0]]).unwrap();
    }
    assert_eq!(
        back(&cluster[2], &before["epoch"], 3),
        (true, vec![]),
        "a node with members knows that nothing came"
    );
    let after = send_all(&cluster.nodes[1..2], "second", 1..=2);
    assert_ne!(after["epoch"], before["epoch"]);
    for member in &mut members {
        let got = up_to(member, "second 2");
        let told = &got[0];
        assert_eq!(
            (&told["op"], &told["epoch"], &told["recovered"]),
            (&json!("joined"), &after["epoch"], &json!(true)),
            "{told}"
        );

        // What comes next follows on what they were told.
        let next = told["offset"].as_u64().unwrap() + 1;
        assert!(next > 3, "{told}");
        assert_eq!(offsets(&got[1..]), [next, next + 1]);
    }
}
