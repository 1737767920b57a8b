//! A node receives what someone on it can match, from the first moment on, and nothing else.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, Stop, event},
    redis::{Proxy, RedisServer},
    support::{Client, eventually},
};

fn send(node: &Node, channel: &str, data: impl Into<Value>) {
    node.call(
        "/v1/send",
        &json!({"channel": channel, "event": "e", "data": data.into()}),
    );
}

#[test]
fn after_the_ack_of_a_join_events_of_other_nodes_come() {
    let cluster = Cluster::start();
    for n in 0..50 {
        let channel = format!("lobby-{n}");
        let mut member = cluster[n % 3].connect("");
        member.join(&channel);
        send(&cluster[(n + 1) % 3], &channel, n);
        assert_eq!(event(&mut member)["data"], n);
    }
}

#[test]
fn after_the_welcome_events_of_other_nodes_come_to_a_user_and_to_everyone() {
    let cluster = Cluster::start();
    for n in 0..30 {
        let mut client = cluster[n % 3].user(&format!("new-{n}"));
        let other = &cluster[(n + 1) % 3];
        let publish = json!({"user": format!("new-{n}"), "event": "e", "data": n, "store": false});
        other.call("/v1/publish", &publish);
        assert_eq!(event(&mut client)["data"], n);
        other.call("/v1/broadcast", &json!({"event": "all", "data": n}));
        assert_eq!(event(&mut client)["event"], "all");
        other.call(
            "/v1/emit",
            &json!({"event": "you", "to": {"connections": [client.id]}}),
        );
        assert_eq!(event(&mut client)["event"], "you");
    }
}

#[test]
fn after_the_welcome_events_of_other_nodes_come_to_who_wants_nothing_stored() {
    let cluster = Cluster::start();
    for n in 0..30 {
        let user = format!("new-{n}");
        let mut client = cluster[n % 3].user_with(&user, &json!({}), "store=false");
        cluster[(n + 1) % 3].call(
            "/v1/publish",
            &json!({"user": user, "event": "e", "data": n}),
        );
        assert_eq!(event(&mut client)["data"], n);
    }
}

#[test]
fn joined_by_the_query_a_channel_is_heard_behind_its_joined() {
    let cluster = Cluster::start();
    for n in 0..20 {
        let mut member = cluster[0].connect(&format!("channel=lobby-{n}"));
        assert_eq!(member.json()["op"], "joined");
        send(&cluster[1], &format!("lobby-{n}"), n);
        assert_eq!(event(&mut member)["data"], n);
    }
}

#[test]
fn the_last_to_leave_and_the_first_to_come_race_and_nobody_is_deaf() {
    let cluster = Cluster::start();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in [&cluster[0], &cluster[0], &cluster[0]] {
            let is_over = &is_over;
            scope.spawn(move || {
                let mut client = node.connect("");
                while !is_over.load(Relaxed) {
                    client.join("lobby");
                    client.ask_amid(&json!({"op": "leave", "channel": "lobby"}));
                    client.pending();
                }
            });
        }
        let _stop = Stop(&is_over);
        for n in 0..100 {
            let mut member = cluster[0].connect("");
            member.join("lobby");
            send(&cluster[1], "lobby", n);
            assert_eq!(event(&mut member)["data"], n);
        }
    });
}

#[test]
fn who_comes_back_after_the_channel_was_empty_hears_again() {
    let cluster = Cluster::start();
    let mut member = cluster[0].connect("");
    // Longer than a topic is kept for one who comes back at once.
    for pause in [
        Duration::ZERO,
        Duration::from_millis(100),
        Duration::from_secs(3),
    ] {
        member.join("lobby");
        send(&cluster[1], "lobby", "first");
        assert_eq!(event(&mut member)["data"], "first");
        member.acked(&json!({"op": "leave", "channel": "lobby"}));
        thread::sleep(pause);
        send(&cluster[1], "lobby", "between");
        member.join("lobby");
        send(&cluster[1], "lobby", "second");
        // What was sent before it joined may still be on its way then.
        let mut next = event(&mut member);
        if next["data"] == "between" {
            next = event(&mut member);
        }
        assert_eq!(next["data"], "second");
        member.acked(&json!({"op": "leave", "channel": "lobby"}));
        member.expect_nothing();
    }
}

/// The bytes that come to a node in the time of `work`, and until a broadcast behind it has come.
fn received(proxy: &Proxy, witness: &mut Client, node: &Node, work: impl FnOnce()) -> u64 {
    let before = proxy.received();
    work();
    node.call("/v1/broadcast", &json!({"event": "behind"}));
    while event(witness)["event"] != "behind" {}
    proxy.received() - before
}

#[test]
fn a_node_receives_nothing_that_nobody_on_it_can_match() {
    const EVENTS: usize = 300;
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let settings = Settings::new(&redis.url());
    let near = Node::here(&settings);
    let far = Node::here(&settings.with("FANFARE_REDIS", &proxy.url()));
    for node in [&near, &far] {
        eventually("it is ready", || node.is_ready());
    }
    let mut members = [near.user("ann"), near.user("bob")];
    for member in &mut members {
        member.join("lobby");
    }
    let mut witness = far.user("eve");
    witness.join("elsewhere");
    let data = "x".repeat(1000);
    let others = received(&proxy, &mut witness, &near, || {
        for _ in 0..EVENTS {
            send(&near, "lobby", data.as_str());
            near.call(
                "/v1/publish",
                &json!({"user": "ann", "event": "e", "data": data, "store": false}),
            );
        }
    });
    let payload = (EVENTS * data.len()) as u64;
    assert!(
        others < payload / 5,
        "{others} bytes came, of {} that are for others",
        payload * 2
    );
    let own = received(&proxy, &mut witness, &near, || {
        (0..EVENTS).for_each(|_| send(&near, "elsewhere", data.as_str()));
    });
    assert!(
        own >= payload,
        "{own} bytes came, of {payload} that are for it: the measure measures nothing"
    );
}
