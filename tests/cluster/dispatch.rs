//! Any program acts straight through Redis: `PUBLISH fanfare:<namespace>:<app>:dispatch` with a message of JSON.

use std::{process::Command, time::Duration};

use serde_json::{Value, json};

use crate::{
    MALFORMED,
    cluster::{Cluster, NAMESPACE, Node, Settings, all_get, event, nothing_more},
    redis::{Proxy, RedisServer, Resp},
    support::{Received, eventually},
};

fn channel(app: &str) -> String {
    format!("fanfare:{NAMESPACE}:{app}:dispatch")
}

/// Publishes `message`; it must have been heard by every node.
fn publish(cluster: &Cluster, message: &[u8]) {
    let channel = channel("default");
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let heard = redis
        .call_bytes(&[b"PUBLISH", channel.as_bytes(), message])
        .unwrap();
    assert_eq!(heard.number(), Some(3), "three nodes listen");
}

fn publish_json(cluster: &Cluster, message: &Value) {
    publish(cluster, message.to_string().as_bytes());
}

#[test]
fn redis_cli_reaches_users_on_all_nodes() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let message =
        r#"{"event":"STATUS_UPDATE","data":{"status":"online"},"recipients":["u0","u1"]}"#;
    let port = cluster.redis.address().port().to_string();
    let output = Command::new("redis-cli")
        .args(["-p", &port, "PUBLISH", &channel("default"), message])
        .output();
    let output = output.expect("redis-cli runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "3",
        "{output:?}"
    );
    for client in &mut clients[..2] {
        let got = event(client);
        assert_eq!(
            (&got["event"], &got["data"]),
            (&json!("STATUS_UPDATE"), &json!({"status": "online"}))
        );
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn an_asterisk_is_everyone_less_the_exceptions() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    clients.push(cluster[1].connect(""));
    publish_json(
        &cluster,
        &json!({"event": "GLOBAL_ALERT", "data": 1, "recipients": ["*"]}),
    );
    all_get(&mut clients, "GLOBAL_ALERT");
    publish_json(
        &cluster,
        &json!({"event": "NEW_MESSAGE", "recipients": ["*"], "except": ["u1"]}),
    );
    all_get(&mut clients[..1], "NEW_MESSAGE");
    all_get(&mut clients[2..], "NEW_MESSAGE");
    publish_json(
        &cluster,
        &json!({"event": "NEW", "recipients": ["u0", "u1", "u2"], "except": ["u0"]}),
    );
    all_get(&mut clients[1..3], "NEW");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn data_passes_byte_for_byte_and_bytes_as_bytes() {
    let cluster = Cluster::start();
    let mut client = cluster[2].user("ann");
    let data = r#"{"b": 1.0,"a":  [1e3, 12345678901234567890]}"#;
    publish(
        &cluster,
        format!(r#"{{"event":"e","data":{data},"recipients":["*"]}}"#).as_bytes(),
    );
    let text = client.text();
    assert!(text.contains(data), "{text}");
    publish_json(
        &cluster,
        &json!({"event": "e", "data_base64": "AP8=", "recipients": ["*"]}),
    );
    let Received::Binary(bytes) = client.message() else {
        panic!("expected bytes")
    };
    assert!(bytes.ends_with(&[0, 255]), "{bytes:?}");
}

#[test]
fn every_call_of_a_batch_can_be_named() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    for message in [
        json!({"call": "broadcast", "event": "e"}),
        json!({"call": "send", "channel": "lobby", "event": "e"}),
        json!({"call": "emit", "event": "e", "filter": "user in params.u", "params": {"u": ["u0", "u1", "u2"]}}),
        json!({"call": "publish", "users": ["u0", "u1", "u2"], "event": "e"}),
        json!({"call": "dispatch", "recipients": ["*"], "event": "e"}),
    ] {
        publish_json(&cluster, &message);
        all_get(&mut clients, "e");
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn disconnect_closes_on_every_node() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    publish_json(
        &cluster,
        &json!({"call": "disconnect", "to": {"users": ["u0", "u2"]}, "reason": "banned"}),
    );
    for at in [0, 2] {
        assert_eq!(
            clients[at].message(),
            Received::Close(4010, "banned".into())
        );
    }
    nothing_more(&cluster[0], &mut clients[1..2]);
}

#[test]
fn what_is_malformed_is_counted_and_harmless() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let deep = "[".repeat(100_000);
    let bad: [&[u8]; 12] = [
        b"",
        b"\0\xff\xfe",
        b"{",
        b"[]",
        b"null",
        deep.as_bytes(),
        br#"{"event":"e"}"#,
        br#"{"recipients":["*"]}"#,
        br#"{"event":"e","recipients":"*"}"#,
        br#"{"event":"e","recipients":["*"],"nonsense":1}"#,
        br#"{"call":"nonsense","event":"e","recipients":["*"]}"#,
        br#"{"call":"emit","event":"e","filter":"nonsense("}"#,
    ];
    let before: Vec<u64> = cluster
        .nodes
        .iter()
        .map(|node| node.count(MALFORMED, ""))
        .collect();
    for message in bad {
        publish(&cluster, message);
    }
    publish_json(
        &cluster,
        &json!({"event": "fanfare:reserved", "recipients": ["*"]}),
    );
    publish_json(
        &cluster,
        &json!({"event": "disconnect", "recipients": ["u0"]}),
    );
    assert_eq!(
        event(&mut clients[0])["event"],
        "disconnect",
        "a name like any other"
    );
    for (node, before) in cluster.nodes.iter().zip(before) {
        eventually("each bad one is counted", || {
            node.count(MALFORMED, "") - before == bad.len() as u64 + 1
        });
    }
    nothing_more(&cluster[0], &mut clients);
    cluster.await_ready();
}

#[test]
fn a_message_may_be_as_long_as_the_body_of_a_call() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let message = |bytes: usize| {
        let empty = json!({"event": "e", "data": "", "recipients": ["*"]}).to_string();
        let data = "x".repeat(bytes - empty.len());
        json!({"event": "e", "data": data, "recipients": ["*"]})
    };
    let most = 256 * 1024;
    publish_json(&cluster, &message(most + 1));
    publish_json(&cluster, &message(most));
    for node in &cluster.nodes {
        eventually("the longer one is counted", || {
            node.count(MALFORMED, "") == 1
        });
    }
    all_get(&mut clients, "e");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn an_app_that_is_not_there_has_nobody_to_hear() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let message = json!({"event": "e", "recipients": ["*"]}).to_string();
    for app in ["other", "*", "default:dispatch"] {
        let heard = cluster
            .redis
            .call(&["PUBLISH", &channel(app), &message])
            .unwrap();
        assert_eq!(heard.number(), Some(0), "{app}");
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn what_is_sent_to_a_channel_with_history_is_stored_once() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    for n in 1..=5 {
        publish_json(
            &cluster,
            &json!({"call": "send", "channel": "room", "event": "e", "data": n}),
        );
    }
    for member in &mut members {
        for n in 1..=5 {
            let got = event(member);
            assert_eq!(
                (&got["data"], &got["offset"]),
                (&json!(n), &json!(n)),
                "{got}"
            );
        }
    }
    let history = cluster[0].look("/v1/channels/room/history");
    assert_eq!(
        (
            &history["offset"],
            history["events"].as_array().unwrap().len()
        ),
        (&json!(5), 5),
        "{history}"
    );
    nothing_more(&cluster[0], &mut members);
}

#[test]
fn what_is_dispatched_to_a_user_who_is_away_is_stored_once() {
    let cluster = Cluster::start();
    let _others = cluster.users();
    for n in 0..3 {
        publish_json(
            &cluster,
            &json!({"event": "e", "data": n, "recipients": ["away"]}),
        );
    }
    // One node stores, and says so by nothing that could be waited for; the user comes until all is there. What it has not
    // confirmed before it goes comes again, by the same id; what two nodes had stored would have two.
    let mut got: Vec<(Value, Value)> = Vec::new();
    eventually("all that was stored comes", || {
        let mut away = cluster[1].user("away");
        for event in away.pending() {
            if got.iter().all(|(id, _)| *id != event["id"]) {
                got.push((event["id"].clone(), event["data"].clone()));
            }
        }
        got.len() >= 3
    });
    let data: Vec<&Value> = got.iter().map(|(_, data)| data).collect();
    assert_eq!(data, [0, 1, 2], "each stored once, and in order");
}

/// The place of the node that leads.
fn leader(cluster: &Cluster) -> usize {
    let mut at = None;
    eventually("one leads", || {
        let leads = |node: &Node| node.count("fanfare_leader", "default") == 1;
        let leaders: Vec<usize> = (0..3).filter(|&at| leads(&cluster[at])).collect();
        at = leaders.first().copied();
        leaders.len() == 1
    });
    at.unwrap()
}

#[test]
fn what_programs_say_while_no_node_leads_is_kept_by_the_next_that_does() {
    let mut cluster = Cluster::apart();
    let mut clients = cluster.users();
    let dead = leader(&cluster);
    let (next, last) = ((dead + 1) % 3, (dead + 2) % 3);
    for at in [next, last] {
        clients[at].join("room");
    }
    let say = |n: u32| {
        let message =
            json!({"call": "send", "channel": "room", "event": "e", "data": n}).to_string();
        cluster
            .redis
            .call(&["PUBLISH", &channel("default"), &message])
            .unwrap();
    };
    (0..5).for_each(say);
    for at in [next, last] {
        assert_eq!(
            (0..5)
                .map(|_| event(&mut clients[at])["data"].clone())
                .collect::<Vec<_>>(),
            [0, 1, 2, 3, 4]
        );
    }
    cluster.nodes[dead].kill();
    let say = |n: u32| {
        let message =
            json!({"call": "send", "channel": "room", "event": "e", "data": n}).to_string();
        cluster
            .redis
            .call(&["PUBLISH", &channel("default"), &message])
            .unwrap();
    };
    (5..40).for_each(say);
    for at in [next, last] {
        // The one that was killed may not have said that it was done with the last.
        let mut came = std::iter::repeat_with(|| event(&mut clients[at])["data"].as_u64().unwrap());
        let first = came.find(|&n| n >= 5).unwrap();
        let rest: Vec<u64> = std::iter::once(first).chain(came.take(34)).collect();
        assert_eq!(rest, (5..40).collect::<Vec<_>>(), "all, and in order");
    }
    let lost: u64 = [next, last]
        .iter()
        .map(|&at| cluster[at].count("fanfare_dispatch_lost_total", ""))
        .sum();
    assert_eq!(lost, 0);
}

#[test]
fn what_redis_refuses_to_keep_is_counted() {
    let cluster = Cluster::start();
    cluster.redis.set("maxmemory-policy", "noeviction").unwrap();
    cluster.redis.set("maxmemory", "1").unwrap();
    publish_json(
        &cluster,
        &json!({"call": "send", "channel": "room", "event": "e"}),
    );
    let lost = || {
        cluster
            .nodes
            .iter()
            .map(|node| node.count("fanfare_dispatch_lost_total", ""))
            .sum::<u64>()
    };
    eventually("it is counted", || lost() > 0);
    cluster.redis.set("maxmemory", "0").unwrap();
}

#[test]
fn what_comes_fast_is_stored_without_waiting_for_each() {
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let node = Node::here(&Settings::new(&proxy.url()));
    eventually("it is ready", || node.is_ready());
    eventually("it leads", || node.count("fanfare_leader", "default") == 1);
    let mut client = node.user("ann");
    client.join("room");

    let mut tap = Resp::connect(redis.address()).unwrap();
    tap.call(&["SUBSCRIBE", "fanfare:tests::nodes"]).unwrap();
    proxy.delay(Duration::from_millis(20));
    let mut program = Resp::connect(redis.address()).unwrap();
    let channel = channel("default");
    for n in 0..500 {
        let message = json!({"call": "send", "channel": "room", "event": "e", "data": n});
        let message = message.to_string();
        program
            .call_bytes(&[b"PUBLISH", channel.as_bytes(), message.as_bytes()])
            .unwrap();
    }
    for n in 0..500 {
        let got = event(&mut client);
        assert_eq!((&got["data"], &got["offset"]), (&json!(n), &json!(n + 1)));
    }

    // What ends together is told together, so each told alone would have been stored alone.
    let (mut done, mut messages) = (0, 0);
    while done < 500 {
        let told = tap.read().unwrap().items()[2].text();
        let digests = told.split_once("done_together").map_or(0, |(_, digests)| {
            digests.split('"').filter(|part| part.len() > 20).count()
        });
        done += digests;
        messages += usize::from(digests > 0);
    }
    // How many end together, the machine decides.
    assert!(messages < 500, "{messages} for 500 events");
}
