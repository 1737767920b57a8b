//! A channel with history over several nodes: one order, and nothing missed by who comes back elsewhere.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Stop, event, nothing_more},
    kept::Caller,
    support::{Client, Received, eventually},
};

fn send(node: &Node, data: impl Into<Value>) -> Value {
    node.call(
        "/v1/send",
        &json!({"channel": "room", "event": "e", "data": data.into()}),
    )
}

/// Comes to the room with `since`; the ack.
fn come_back(client: &mut Client, epoch: &Value, offset: u64) -> Value {
    client.send(
        &json!({"op": "join", "id": 1, "channel": "room", "since": {"epoch": epoch, "offset": offset}}),
    );
    let ack = client.json();
    assert_eq!(
        (&ack["op"], &ack["id"]),
        (&json!("ack"), &json!(1)),
        "{ack}"
    );
    ack
}

#[test]
fn an_app_that_stores_as_much_as_it_may_is_refused_on_every_node() {
    let cluster = Cluster::start_with(
        |settings| settings,
        |config| {
            for app in config.apps.values_mut() {
                app.max_stored_bytes = Some(20_000);
            }
        },
    );
    let body = json!({"channel": "room", "event": "e", "data": "x".repeat(5_000)}).to_string();
    let send = |node: &Node| {
        let answer = node.request("POST", "/v1/send", &[], Some(body.as_bytes()));
        let is_refused = answer.status == 503;
        assert!(is_refused || answer.status == 200, "{answer:?}");
        assert!(
            !is_refused || answer.code() == "history_over_quota",
            "{answer:?}"
        );
        is_refused
    };
    for node in &cluster.nodes {
        eventually("it is refused", || send(node));
    }
}

#[test]
fn every_member_on_every_node_sees_one_order() {
    const EACH: u64 = 150;
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    thread::scope(|scope| {
        for (by, node) in cluster.nodes.iter().enumerate() {
            scope.spawn(move || {
                let mut caller = Caller::new(node.address());
                for n in 0..EACH {
                    let data = json!({"by": by, "n": n});
                    let receipt = caller.call(
                        "/v1/send",
                        &json!({"channel": "room", "event": "e", "data": data}),
                    );
                    assert_eq!(receipt["stored"], 1, "{receipt}");
                }
            });
        }
    });
    let seen: Vec<Vec<Value>> = members
        .iter_mut()
        .map(|member| (0..EACH * 3).map(|_| event(member)).collect())
        .collect();
    for (at, first) in seen[0].iter().enumerate() {
        assert_eq!(first["offset"], at + 1);
    }
    assert!(
        seen.iter().all(|other| *other == seen[0]),
        "the same events at the same offsets"
    );
    for by in 0..3 {
        let of: Vec<&Value> = seen[0]
            .iter()
            .filter(|e| e["data"]["by"] == by)
            .map(|e| &e["data"]["n"])
            .collect();
        assert!(
            of.iter()
                .copied()
                .eq((0..EACH).map(Value::from).collect::<Vec<_>>().iter()),
            "{of:?}"
        );
    }
    nothing_more(&cluster[0], &mut members);
}

/// Scripts that Redis has run.
fn scripts(cluster: &Cluster) -> u64 {
    let stats = cluster.redis.call(&["INFO", "commandstats"]).unwrap();
    let stats = stats.text();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

#[test]
fn the_stored_items_of_a_batch_keep_the_order_of_each_channel() {
    const ITEMS: usize = 100;
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    for member in &mut members {
        member.join("room-b");
    }

    // Between them are items that are stored nowhere, for several channels, and wrong.
    let item = |n: usize| match n % 10 {
        3 => json!({"call": "send", "channel": "room", "event": "e", "data": n, "store": false}),
        5 => json!({"call": "send", "channels": ["room", "lobby"], "event": "e", "data": n}),
        7 => json!({"call": "send", "channel": "room", "event": 1}),
        even if even % 2 == 0 => {
            json!({"call": "send", "channel": "room", "event": "e", "data": n})
        }
        _ => json!({"call": "send", "channel": "room-b", "event": "e", "data": n}),
    };
    let items: Vec<Value> = (0..ITEMS).map(item).collect();
    let answer = cluster[1].call("/v1/batch", &json!({ "items": items }));
    let results = answer["results"].as_array().unwrap();

    let is_wrong = |n: usize| n % 10 == 7;
    let is_in_b = |n: usize| n % 10 == 1 || n % 10 == 9;
    let expected = |of_b: bool| {
        let right = (0..ITEMS).filter(|n| !is_wrong(*n));
        right.filter(move |n| is_in_b(*n) == of_b)
    };
    for (n, result) in results.iter().enumerate() {
        let status = if is_wrong(n) { 400 } else { 200 };
        assert_eq!(result["status"], status, "{n}: {result}");
    }

    for member in &mut members {
        let events: Vec<Value> = (0..ITEMS - ITEMS / 10).map(|_| event(member)).collect();
        for (channel, of_b) in [("room", false), ("room-b", true)] {
            let of_channel = events.iter().filter(|event| event["channel"] == channel);
            let (mut seen, mut last) = (Vec::new(), 0);
            for event in of_channel {
                let n = event["data"].as_u64().unwrap() as usize;
                seen.push(n);
                // What is not stored has no offset.
                let Some(offset) = event["offset"].as_u64() else {
                    assert_eq!(n % 10, 3);
                    continue;
                };
                last += 1;
                assert_eq!(offset, last, "{event}");
                let placed = results[n]["result"]["publications"].as_array().unwrap();
                let placed = placed.iter().find(|it| it["channel"] == channel);
                assert_eq!(placed.unwrap()["offset"], offset, "{}", results[n]);
            }
            assert_eq!(seen, expected(of_b).collect::<Vec<_>>());
        }
    }
    nothing_more(&cluster[0], &mut members);
}

#[test]
fn the_stored_items_of_a_batch_go_to_redis_together() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    send(&cluster[0], 0);
    let items: Vec<Value> = (1..=100)
        .map(|n| json!({"call": "send", "channel": "room", "event": "e", "data": n}))
        .collect();

    let before = scripts(&cluster);
    Caller::new(cluster[0].address()).batches(&items);
    let ran = scripts(&cluster) - before;
    // Nodes have scripts of their own meanwhile.
    assert!(ran < 75, "{ran} scripts for 100 events");
    for member in &mut members {
        (0..=100).for_each(|n| assert_eq!(event(member)["data"], n));
    }
}

#[test]
fn clients_and_callers_share_the_numbering() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    let first = send(&cluster[0], 1)["publications"][0].clone();
    for member in &mut members {
        assert_eq!(event(member)["offset"], 1);
    }
    let (mut own, ack) =
        members[1].ask_amid(&json!({"op": "send", "channel": "room", "event": "e", "data": 2}));
    assert_eq!(
        (&ack["offset"], &ack["epoch"]),
        (&json!(2), &first["epoch"]),
        "{ack}"
    );
    if own.is_empty() {
        own.push(event(&mut members[1]));
    }
    assert_eq!(own[0]["offset"], 2);
    for at in [0, 2] {
        assert_eq!(event(&mut members[at])["offset"], 2);
    }
    assert_eq!(send(&cluster[2], 3)["publications"][0]["offset"], 3);
}

#[test]
fn joins_on_every_node_tell_the_same_epoch_and_offset() {
    let cluster = Cluster::start();
    let before: BTreeSet<String> = cluster
        .nodes
        .iter()
        .map(|node| node.connect("").join("room")["epoch"].to_string())
        .collect();
    assert_eq!(
        before.len(),
        1,
        "nodes agree on an epoch before the first event: {before:?}"
    );
    send(&cluster[1], 1);
    for node in &cluster.nodes {
        let mut client = node.connect("");
        let ack = client.join("room");
        assert!(before.contains(&ack["epoch"].to_string()), "{ack}");
        // A node answers from what it has placed: the event may be on its way, and then it comes to who has joined.
        if ack["offset"] != 1 {
            assert_eq!(
                (&ack["offset"], &event(&mut client)["offset"]),
                (&json!(0), &json!(1))
            );
        }
    }
}

#[test]
fn what_was_missed_is_replayed_on_another_node() {
    let cluster = Cluster::start();
    let mut member = cluster[0].connect("");
    let epoch = member.join("room")["epoch"].clone();
    send(&cluster[1], 1);
    assert_eq!(event(&mut member)["offset"], 1);
    drop(member);
    send(&cluster[0], 2);
    cluster[1].call(
        "/v1/send",
        &json!({"channel": "room", "event": "e", "data_base64": "AP8="}),
    );
    send(&cluster[2], 4);
    for node in &cluster.nodes {
        let mut back = node.connect("");
        let ack = come_back(&mut back, &epoch, 1);
        assert_eq!(
            (&ack["recovered"], &ack["offset"]),
            (&json!(true), &json!(4)),
            "{ack}"
        );
        assert_eq!(
            event(&mut back),
            json!({"event": "e", "channel": "room", "data": 2, "offset": 2})
        );
        let Received::Binary(bytes) = back.message() else {
            panic!("expected bytes")
        };
        assert!(bytes.ends_with(&[0, 255]), "{bytes:?}");
        assert_eq!(event(&mut back)["offset"], 4);
        back.expect_nothing();
    }
}

#[test]
fn coming_back_while_all_nodes_publish_leaves_no_gap_and_no_overlap() {
    // Fewer than are kept, so that nothing is too old.
    const EACH: u64 = 300;
    let cluster = Cluster::start();
    let is_over = AtomicBool::new(false);
    let joined = cluster[0].connect("").join("room");
    let (epoch, mut offset) = (&joined["epoch"], 0);
    thread::scope(|scope| {
        for node in &cluster.nodes {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut caller = Caller::new(node.address());
                let mut left = EACH;
                while left > 0 && !is_over.load(Relaxed) {
                    caller.call("/v1/send", &json!({"channel": "room", "event": "e"}));
                    left -= 1;
                }
            });
        }
        let _stop = Stop(&is_over);
        for turn in 0..15 {
            let mut client = cluster[turn % 3].connect("");
            let ack = come_back(&mut client, epoch, offset);
            assert_eq!(ack["recovered"], true, "{ack}");
            let until = (ack["offset"].as_u64().unwrap() + 3).min(EACH * 3);
            while offset < until {
                assert_eq!(event(&mut client)["offset"], offset + 1);
                offset += 1;
            }
        }
    });
    assert!(offset > 0);
}

#[test]
fn what_cannot_be_proven_is_not_recovered_on_any_node() {
    let cluster = Cluster::start_with(
        |settings| settings.with("FANFARE_CHANNEL_HISTORY", "room*=3"),
        |_| {},
    );
    for n in 1..=5 {
        send(&cluster[n % 3], n);
    }
    let epoch = cluster[0].connect("").join("room")["epoch"].clone();
    for node in &cluster.nodes {
        for (epoch, offset, recovered, replayed) in [
            (&epoch, 5, true, 0),
            (&epoch, 2, true, 3),
            (&epoch, 1, false, 3),
            (&json!("0000000000000"), 5, false, 3),
        ] {
            let mut client = node.connect("");
            let ack = come_back(&mut client, epoch, offset);
            assert_eq!(ack["recovered"], recovered, "{epoch} {offset}: {ack}");
            let events = client.pending();
            assert_eq!(events.len(), replayed, "{epoch} {offset}: {events:?}");
        }
        assert_eq!(
            come_back(&mut node.connect(""), &epoch, 9)["recovered"],
            false,
            "ahead of the channel"
        );
    }
}

#[test]
fn the_stored_events_are_listed_by_every_node() {
    let cluster = Cluster::start();
    (1..=5).for_each(|n| drop(send(&cluster[n % 3], n)));
    let first = cluster[0].look("/v1/channels/room/history");
    assert_eq!(
        (&first["offset"], first["events"].as_array().unwrap().len()),
        (&json!(5), 5),
        "{first}"
    );
    for node in &cluster.nodes {
        assert_eq!(node.look("/v1/channels/room/history"), first);
        let page = node.look("/v1/channels/room/history?after=2&limit=2");
        let offsets: Vec<&Value> = page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| &e["offset"])
            .collect();
        assert_eq!(
            (offsets, &page["cursor"]),
            (vec![&json!(3), &json!(4)], &json!(4)),
            "{page}"
        );
    }
}

#[test]
fn who_was_excepted_gets_no_replay_on_another_node() {
    let cluster = Cluster::start();
    let body = json!({"channel": "room", "event": "e", "data": 1, "except": {"users": ["ann"]}});
    cluster[0].call("/v1/send", &body);
    let mut bob = cluster[0].user_with("bob", &json!({}), "device=d1");
    bob.acked(&json!({"op": "send", "channel": "room", "event": "e", "data": 2, "echo": false}));
    let epoch = cluster[1].connect("").join("room")["epoch"].clone();
    let replayed = |user: &str, device: &str| {
        let mut client = cluster[2].user_with(user, &json!({}), &format!("device={device}"));
        assert_eq!(come_back(&mut client, &epoch, 0)["recovered"], true);
        client
            .pending()
            .iter()
            .map(|event| event["data"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(replayed("ann", "d2"), [2]);
    assert_eq!(replayed("bob", "d1"), [1]);
    assert_eq!(replayed("eve", "d3"), [1, 2]);
}

#[test]
fn several_channels_of_one_send_are_numbered_apart() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room-b");
    for member in &mut members {
        member.join("room-a");
    }
    send(&cluster[0], 0);
    cluster[1].call("/v1/send", &json!({"channel": "room-a", "event": "e"}));
    for member in &mut members {
        assert_eq!(event(member)["offset"], 1);
    }
    let body = json!({"channels": ["room-a", "room-b", "lobby"], "event": "e"});
    let receipt = cluster[2].call("/v1/send", &body);
    assert_eq!(receipt["stored"], 2, "{receipt}");
    let expected = BTreeSet::from([("room-a".to_owned(), 2), ("room-b".to_owned(), 1)]);
    for member in &mut members {
        let got: BTreeSet<(String, u64)> = (0..2)
            .map(|_| event(member))
            .map(|e| {
                (
                    e["channel"].as_str().unwrap().to_owned(),
                    e["offset"].as_u64().unwrap(),
                )
            })
            .collect();
        assert_eq!(got, expected);
    }
}
