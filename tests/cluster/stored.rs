//! Events stored for users: whoever was away gets them on whichever node, and once they are confirmed nobody does.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, event},
    redis::Reply,
    support::{Client, eventually},
};

fn publish(node: &Node, data: impl Into<Value>) -> Value {
    node.call(
        "/v1/publish",
        &json!({"user": "ann", "event": "e", "data": data.into()}),
    )
}

fn data(events: &[Value]) -> Vec<Value> {
    events.iter().map(|event| event["data"].clone()).collect()
}

/// Has everything that was sent to `client` confirmed: the pong behind it is answered by a later round trip.
fn confirm(client: &mut Client) {
    client.pending();
    client.pending();
}

#[test]
fn what_was_published_on_one_node_comes_on_another_in_order() {
    let cluster = Cluster::start();
    for n in 0..6 {
        let receipt = publish(&cluster[n % 3], n);
        assert_eq!(
            (&receipt["stored"], &receipt["matched"]),
            (&json!(1), &json!(0)),
            "{receipt}"
        );
    }
    let mut ann = cluster[1].user("ann");
    let ids: Vec<Value> = (0..6)
        .map(|n| {
            let got = event(&mut ann);
            assert_eq!(got["data"], n);
            got["id"].clone()
        })
        .collect();
    assert!(ids.iter().all(Value::is_string), "{ids:?}");
    publish(&cluster[0], "live");
    assert_eq!(event(&mut ann)["data"], "live");
}

#[test]
fn what_was_confirmed_on_one_node_is_not_sent_again_by_another() {
    let cluster = Cluster::start();
    (0..3).for_each(|n| drop(publish(&cluster[0], n)));
    let mut ann = cluster[1].user("ann");
    (0..3).for_each(|n| assert_eq!(event(&mut ann)["data"], n));
    confirm(&mut ann);
    eventually("it is removed everywhere", || {
        cluster
            .nodes
            .iter()
            .all(|node| node.user("ann").pending().is_empty())
    });
}

#[test]
fn what_was_not_confirmed_comes_again_on_another_node() {
    let cluster = Cluster::start();
    let mut ann = cluster[0].user("ann");
    ann.answers_pings = false;
    (0..3).for_each(|n| drop(publish(&cluster[1], n)));
    let first: Vec<Value> = (0..3).map(|_| event(&mut ann)).collect();
    assert_eq!(data(&first), [0, 1, 2]);
    drop(ann);
    let mut again = cluster[2].user("ann");
    let second: Vec<Value> = (0..3).map(|_| event(&mut again)).collect();
    assert_eq!(second, first, "the same, with the same ids");
}

#[test]
fn connections_on_all_nodes_get_what_is_live_once() {
    let cluster = Cluster::start();
    let mut same: Vec<Client> = cluster.nodes.iter().map(|node| node.user("ann")).collect();
    for n in 0..30 {
        publish(&cluster[n % 3], n);
    }
    for client in &mut same {
        for n in 0..30 {
            assert_eq!(event(client)["data"], n);
        }
        assert_eq!(client.pending(), Vec::<Value>::new());
    }
}

#[test]
fn who_declines_gets_only_what_is_live_and_confirms_nothing() {
    let cluster = Cluster::start();
    publish(&cluster[0], "before");
    let mut declining = cluster[1].user_with("ann", &json!({}), "store=false");
    publish(&cluster[2], "live");
    assert_eq!(event(&mut declining)["data"], "live");
    confirm(&mut declining);
    let mut ann = cluster[2].user("ann");
    assert_eq!(event(&mut ann)["data"], "before");
    assert_eq!(event(&mut ann)["data"], "live");
}

/// More users than one publication stores at once.
fn many() -> Vec<String> {
    (0..80).map(|n| format!("user{n:02}")).collect()
}

#[test]
fn one_publication_for_many_users_counts_all_and_comes_before_the_callers_next() {
    let cluster = Cluster::start();
    let users = many();
    let mut here: Vec<Client> = (0..60).map(|n| cluster[n % 3].user(&users[n])).collect();
    for n in 0..5 {
        let body = json!({"users": users, "event": "e", "data": n, "receipt": "cluster"});
        let receipt = cluster[n % 3].call("/v1/publish", &body);
        let counts =
            ["stored", "matched", "queued", "dropped", "nodes"].map(|name| receipt[name].clone());
        assert_eq!(counts, [80, 60, 60, 0, 3], "{receipt}");
        assert_eq!(receipt["missing_nodes"], json!([]), "{receipt}");
    }
    for client in &mut here {
        (0..5).for_each(|n| assert_eq!(event(client)["data"], n));
        client.expect_nothing();
    }
    let mut away = cluster[0].user("user79");
    (0..5).for_each(|n| assert_eq!(event(&mut away)["data"], n));
}

#[test]
fn what_is_kept_for_some_of_many_users_is_said_and_for_none_is_an_error() {
    let cluster = Cluster::start();
    let users = many();
    let body = json!({"users": users, "event": "e"});
    cluster[0].call("/v1/publish", &json!({"user": "user10", "event": "first"}));
    // What the store keeps of one user is nothing that it can read.
    let keys = cluster.redis.call(&["KEYS", "*user10*"]).unwrap();
    let key = keys
        .items()
        .iter()
        .map(Reply::text)
        .find(|key| key.contains("state"))
        .expect("it is kept");
    cluster.redis.call(&["SET", &key, "broken"]).unwrap();
    let receipt = cluster[0].call("/v1/publish", &body);
    let names = receipt["missing_nodes"].as_array().unwrap();
    assert_eq!(
        names.len(),
        3,
        "nobody is certain to have the rest: {receipt}"
    );
    let has_it = |user: &String| cluster[1].user(user).pending().len() as u64;
    let kept: u64 = users
        .iter()
        .filter(|user| *user != "user10")
        .map(has_it)
        .sum();
    assert!(
        receipt["stored"] == kept && (1..79).contains(&kept),
        "{kept} have it: {receipt}"
    );
    let answer = cluster[0].post("/v1/publish", &json!({"users": ["user10"], "event": "e"}));
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "history_unavailable")
    );
    cluster.redis.set("maxmemory-policy", "noeviction").unwrap();
    cluster.redis.set("maxmemory", "1").unwrap();
    let answer = cluster[0].post(
        "/v1/publish",
        &json!({"users": &users[20..], "event": "refused"}),
    );
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (503, "history_unavailable"),
        "{answer:?}"
    );
    cluster.redis.set("maxmemory", "0").unwrap();
    let got = |user: &String| cluster[1].user(user).pending();
    assert!(
        users[20..]
            .iter()
            .all(|user| got(user).iter().all(|event| event["event"] != "refused"))
    );
}

/// How many lists of stored events Redis holds.
fn stored_lists(cluster: &Cluster) -> usize {
    let keys = cluster.redis.call(&["KEYS", "*user.events*"]).unwrap();
    keys.items().len()
}

#[test]
fn one_call_cannot_fill_redis_with_events_for_users_who_need_not_exist() {
    let cluster = Cluster::start();
    cluster.redis.set("maxmemory", "64mb").unwrap();
    let before = stored_lists(&cluster);
    let users = |count: usize| {
        (0..count)
            .map(|n| format!("made-up-{n}"))
            .collect::<Vec<_>>()
    };
    let data = "x".repeat(20_000);
    let body = json!({"users": users(3000), "event": "e", "data": data});
    let refused = cluster[0].post("/v1/publish", &body);
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (413, "too_much_to_store"),
        "{refused:?}"
    );

    // The same from a client: its message fits, and what would be stored of it does not.
    let claims = json!({"can": {"publish": true}});
    let mut client = cluster[1].user_with("mallory", &claims, "");
    let message =
        json!({"op": "publish", "id": 1, "users": users(2000), "event": "e", "data": data});
    client.send(&message);
    let answer = client.json();
    assert_eq!(answer["code"], "too_much_to_store", "{answer}");
    assert_eq!(stored_lists(&cluster), before, "all or nothing");

    // Others go on.
    let body = json!({"users": users(50), "event": "e", "data": data});
    assert_eq!(cluster[2].call("/v1/publish", &body)["stored"], 50);
    assert_eq!(stored_lists(&cluster), before + 50);
}

#[test]
fn names_that_an_event_leaves_out_count_for_what_its_channel_keeps() {
    let cluster = Cluster::start_with(
        |settings| settings,
        |config| {
            for app in config.apps.values_mut() {
                for rule in &mut app.channels {
                    rule.history_bytes = 100_000;
                }
            }
        },
    );
    let names: Vec<String> = (0..200).map(|n| format!("{n:0>250}")).collect();
    for _ in 0..10 {
        let body = json!({"channel": "room", "event": "e", "except": {"users": names}});
        cluster[0].call("/v1/send", &body);
    }
    let page = cluster[1].look("/v1/channels/room/history");
    assert_eq!(page["events"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["offset"], 10);
}
