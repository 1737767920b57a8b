//! Stored events that a node did not hear: it fetches them, and open connections get them in order, once, and confirm
//! them as they do others.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    away::two_and_a_proxy,
    cluster::{Cluster, Node, Settings, Stop, event},
    redis::RedisServer,
    support::{Client, eventually, signed},
};

fn body(users: &[&str], data: impl Into<Value>) -> Value {
    json!({"users": users, "event": "e", "data": data.into()})
}

fn publish(node: &Node, data: impl Into<Value>) {
    let receipt = node.call("/v1/publish", &body(&["ann"], data));
    assert_eq!(receipt["stored"], 1, "{receipt}");
}

/// Publishes as soon as it is taken.
fn publish_when_possible(node: &Node, users: &[&str], data: impl Into<Value>) {
    let body = body(users, data);
    eventually("it is taken", || {
        let answer = node.post("/v1/publish", &body);
        assert!(
            answer.status == 503 || answer.json()["stored"] == users.len(),
            "{answer:?}"
        );
        answer.status == 200
    });
}

fn expect(client: &mut Client, data: impl IntoIterator<Item = u32>) {
    for data in data {
        assert_eq!(event(client)["data"], data);
    }
}

/// What waits for `user`, as one sees who confirms none of it.
fn waiting(node: &Node, user: &str) -> Vec<Value> {
    let mut looking = node.open(&format!("token={}", signed(&json!({ "sub": user }))));
    looking.answers_pings = false;
    assert_eq!(looking.json()["op"], "welcome");
    let waiting = looking.pending();
    waiting
        .into_iter()
        .map(|event| event["data"].clone())
        .collect()
}

/// Expects that the open connection's pongs remove everything.
fn expect_confirmed(client: &mut Client, node: &Node, user: &str) {
    eventually("all is confirmed", || {
        client.expect_nothing();
        waiting(node, user).is_empty()
    });
}

#[test]
fn what_is_published_while_a_connection_to_redis_is_deaf_comes_and_is_confirmed() {
    let (proxy, cluster, _lobby) = two_and_a_proxy();
    let mut ann = cluster[1].user("ann");
    publish(&cluster[0], 0);
    expect(&mut ann, [0]);
    expect_confirmed(&mut ann, &cluster[0], "ann");
    proxy.freeze_open();
    (1..4).for_each(|n| publish(&cluster[0], n));
    expect(&mut ann, 1..4);
    expect_confirmed(&mut ann, &cluster[0], "ann");
    (4..8).for_each(|n| publish(&cluster[0], n));
    expect(&mut ann, 4..8);
    expect_confirmed(&mut ann, &cluster[0], "ann");
    assert!(cluster[1].count("fanfare_bus_recovered_total", "") >= 3);
}

#[test]
fn each_of_many_users_gets_what_was_missed_and_who_declines_does_not() {
    let (proxy, cluster, _lobby) = two_and_a_proxy();
    let names: Vec<String> = (0..80).map(|n| format!("user{n}")).collect();
    let mut users: Vec<Client> = names.iter().map(|name| cluster[1].user(name)).collect();
    let mut declining = cluster[1].user_with("user0", &json!({}), "store=false");
    proxy.freeze_open();
    for n in 0..2 {
        cluster[0].call(
            "/v1/publish",
            &json!({"users": names, "event": "e", "data": n}),
        );
    }
    for user in &mut users {
        expect(user, 0..2);
    }
    cluster.await_ready();
    cluster[0].call(
        "/v1/publish",
        &json!({"users": names, "event": "e", "data": 2}),
    );
    for user in &mut users {
        expect(user, [2]);
        user.expect_nothing();
    }
    expect(&mut declining, [2]);
}

#[test]
fn nothing_is_lost_repeated_or_out_of_order_while_subscriptions_are_cut_again_and_again() {
    let cluster = Cluster::start();
    // One user each: what one connection of a user has confirmed is not fetched for another.
    let users = ["u0", "u1", "u2"];
    let mut clients = cluster.users();
    let done = AtomicBool::new(false);
    let mut published = 0;
    let mut got = vec![Vec::new(); clients.len()];
    thread::scope(|scope| {
        scope.spawn(|| {
            let _stop = Stop(&done);
            let mut cut = 0;
            eventually("each was cut several times", || {
                // One after another as they come back, at any moment of that.
                cut += cluster.redis.kill_clients("pubsub").unwrap();
                thread::sleep(Duration::from_millis(150));
                cut >= 15
            });
        });
        while !done.load(Relaxed) {
            publish_when_possible(&cluster[published % 3], &users, published);
            published += 1;
            for (client, got) in clients.iter_mut().zip(&mut got) {
                got.extend(client.pending());
            }
        }
    });
    cluster.await_ready();
    publish_when_possible(&cluster[0], &users, published);
    let expected: Vec<Value> = (0..=published).map(Value::from).collect();
    for (client, got) in clients.iter_mut().zip(&mut got) {
        while got.len() < expected.len() {
            got.push(event(client));
        }
        assert_eq!(
            got.iter()
                .map(|event| event["data"].clone())
                .collect::<Vec<_>>(),
            expected
        );
    }
    for (client, user) in clients.iter_mut().zip(users) {
        expect_confirmed(client, &cluster[0], user);
    }
}

/// Nodes over a Redis that keeps what it has when it is restarted.
fn durable() -> Cluster {
    let redis = RedisServer::start_durable().unwrap();
    let settings = Settings::new(&redis.url());
    let nodes = (0..2).map(|_| Node::here(&settings)).collect();
    let cluster = Cluster {
        nodes,
        settings,
        redis,
    };
    cluster.await_ready();
    cluster
}

#[test]
fn what_is_published_when_redis_is_back_comes_to_all_and_is_confirmed() {
    let mut cluster = durable();
    let users = ["u0", "u1"];
    let mut clients = cluster.users();
    publish_when_possible(&cluster[0], &users, 0);
    for client in &mut clients {
        expect(client, [0]);
    }
    for n in 1..3 {
        cluster.redis.kill().unwrap();
        eventually("readiness fails", || !cluster[0].is_ready());
        cluster.redis.restart().unwrap();
        publish_when_possible(&cluster[n as usize % 2], &users, n);
        for client in &mut clients {
            expect(client, [n]);
        }
    }
    for (client, user) in clients.iter_mut().zip(users) {
        expect_confirmed(client, &cluster[0], user);
    }
}

#[test]
fn who_comes_while_redis_is_away_gets_what_waits_when_it_is_back() {
    let mut cluster = durable();
    (0..3).for_each(|n| publish(&cluster[0], n));
    cluster.redis.kill().unwrap();
    eventually("readiness fails", || !cluster[1].is_ready());
    let mut ann = cluster[1].user("ann");
    ann.expect_nothing();
    cluster.redis.restart().unwrap();
    expect(&mut ann, 0..3);
    publish_when_possible(&cluster[0], &["ann"], 3);
    expect(&mut ann, [3]);
    expect_confirmed(&mut ann, &cluster[0], "ann");
}

#[test]
fn of_another_numbering_nothing_is_confirmed_until_the_client_comes_again() {
    let (proxy, cluster, _lobby) = two_and_a_proxy();
    let mut ann = cluster[1].user("ann");
    publish(&cluster[0], "before");
    assert_eq!(event(&mut ann)["data"], "before");
    let gaps = || cluster[1].count("fanfare_bus_gaps_total", "");
    let before = gaps();
    proxy.freeze_open();
    cluster.redis.call(&["FLUSHALL"]).unwrap();
    publish(&cluster[0], "missed");
    eventually("it is found out", || gaps() > before);
    let mut live = Vec::new();
    eventually("what is live comes again", || {
        publish_when_possible(&cluster[0], &["ann"], "live");
        live.extend(ann.pending());
        !live.is_empty()
    });
    assert!(live.iter().all(|event| event["data"] == "live"), "{live:?}");
    // Answers every ping that there is.
    (0..3).for_each(|_| drop(ann.pending()));
    assert_eq!(waiting(&cluster[0], "ann").first(), Some(&json!("missed")));
    let mut again = cluster[1].user("ann");
    assert_eq!(event(&mut again)["data"], "missed");
    eventually("the new one confirms it", || {
        again.pending();
        waiting(&cluster[0], "ann").is_empty()
    });
}
