//! An idempotency key holds over all nodes.

use std::{collections::BTreeSet, thread};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, all_get, event, nothing_more},
    support::{Answer, eventually},
};

fn once(node: &Node, key: &str, path: &str, body: &Value) -> Answer {
    node.request(
        "POST",
        path,
        &[("Idempotency-Key", key)],
        Some(body.to_string().as_bytes()),
    )
}

#[test]
fn a_repeat_on_another_node_gets_the_first_answer_and_sends_nothing() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let body = json!({"event": "paid", "data": 4711});
    let first = once(&cluster[0], "order-1", "/v1/broadcast", &body);
    assert_eq!(first.status, 200, "{first:?}");
    for node in &cluster.nodes {
        let again = once(node, "order-1", "/v1/broadcast", &body);
        assert_eq!((again.status, again.json()), (200, first.json()));
    }
    all_get(&mut clients, "paid");
    nothing_more(&cluster[1], &mut clients);
}

#[test]
fn an_answer_is_kept_no_longer_on_a_node_that_found_it_in_redis() {
    let cluster = Cluster::start();
    let body = json!({"event": "e"});
    let repeated = |node: &Node| {
        let answer = once(node, "k", "/v1/broadcast", &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.header("idempotency-replayed").is_some()
    };
    assert!(!repeated(&cluster[0]));
    assert!(repeated(&cluster[1]));

    // Its time is over there.
    let keys = cluster.redis.call(&["KEYS", "*once*"]).unwrap();
    for key in keys.items() {
        cluster.redis.call(&["DEL", &key.text()]).unwrap();
    }
    assert!(!repeated(&cluster[1]), "it is carried out again");
}

#[test]
fn the_same_key_with_another_body_is_refused_on_every_node() {
    let cluster = Cluster::start();
    assert_eq!(
        once(&cluster[0], "k", "/v1/broadcast", &json!({"event": "a"})).status,
        200
    );
    let other = once(&cluster[1], "k", "/v1/broadcast", &json!({"event": "b"}));
    assert_eq!(
        (other.status, other.code().as_str()),
        (422, "idempotency_key_reused")
    );
    let elsewhere = once(
        &cluster[1],
        "k",
        "/v1/send",
        &json!({"channel": "lobby", "event": "b"}),
    );
    assert_eq!(elsewhere.status, 200, "a key is scoped to its path");
}

#[test]
fn a_refusal_keeps_no_key() {
    let cluster = Cluster::start();
    let bad = once(
        &cluster[0],
        "k",
        "/v1/emit",
        &json!({"event": "e", "filter": "nonsense("}),
    );
    assert_eq!(bad.status, 400);
    assert_eq!(
        once(&cluster[1], "k", "/v1/emit", &json!({"event": "e"})).status,
        200
    );
}

#[test]
fn repeats_that_come_at_once_on_all_nodes_send_one_event() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    for round in 0..10 {
        let (key, body) = (
            format!("order-{round}"),
            json!({"event": "paid", "data": round}),
        );
        let ids: BTreeSet<String> = thread::scope(|scope| {
            let asked: Vec<_> = cluster
                .nodes
                .iter()
                .flat_map(|node| [node, node])
                .map(|node| {
                    let (key, body) = (&key, &body);
                    scope.spawn(move || once(node, key, "/v1/broadcast", body))
                })
                .collect();
            let id = |answer: Answer| {
                assert_eq!(answer.status, 200, "{answer:?}");
                answer.json()["id"].as_str().unwrap().to_owned()
            };
            asked
                .into_iter()
                .map(|asked| id(asked.join().unwrap()))
                .collect()
        });
        assert_eq!(ids.len(), 1, "{ids:?}");
        all_get(&mut clients, "paid");
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn a_batch_repeated_on_another_node_runs_what_failed() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let batch = |second: &str| json!({"items": [{"call": "broadcast", "event": "a"}, {"call": "emit", "event": "b", "filter": second}]});
    let first = once(
        &cluster[0],
        "k",
        "/v1/batch",
        &batch("user in params.missing"),
    )
    .json();
    let status = |answer: &Value, at: usize| answer["results"][at]["status"].clone();
    assert_eq!(
        (status(&first, 0), status(&first, 1)),
        (json!(200), json!(400)),
        "{first}"
    );
    let again = once(
        &cluster[1],
        "k",
        "/v1/batch",
        &batch("user in params.missing"),
    )
    .json();
    assert_eq!(again["results"][0], first["results"][0]);
    all_get(&mut clients, "a");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn a_claim_that_redis_did_not_answer_in_time_does_not_block_its_repeat() {
    let cluster = Cluster::start_with(
        |settings| settings.with("FANFARE_LIMIT_REDIS_TIMEOUT", "500ms"),
        |_| {},
    );
    let mut clients = cluster.users();
    let body = json!({"event": "paid"});
    cluster.redis.pause().unwrap();
    let first = once(&cluster[0], "order", "/v1/broadcast", &body);
    cluster.redis.resume().unwrap();
    assert_eq!(
        (first.status, first.code().as_str()),
        (503, "bus_down"),
        "{first:?}"
    );
    // A claim that nobody gives back holds for longer than this waits.
    let repeated = |node: &Node| {
        let answer = once(node, "order", "/v1/broadcast", &body);
        assert!(matches!(answer.status, 200 | 503), "{answer:?}");
        answer.status == 200
    };
    eventually("the repeat is carried out", || repeated(&cluster[1]));
    eventually("the other gets its answer", || repeated(&cluster[0]));
    for client in &mut clients {
        assert_eq!(event(client)["event"], "paid");
    }
    cluster.await_ready();
    nothing_more(&cluster[2], &mut clients);
}

#[test]
fn a_repeat_waits_for_the_first_only_so_long() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let body = json!({"event": "paid"});
    assert_eq!(
        once(&cluster[0], "order", "/v1/broadcast", &body).status,
        200
    );
    all_get(&mut clients, "paid");
    // As if it still ran.
    let keys = cluster.redis.call(&["KEYS", "*.once:*"]).unwrap();
    let key = keys.items()[0].text();
    assert_eq!(
        cluster
            .redis
            .call(&["HDEL", &key, "answer"])
            .unwrap()
            .number(),
        Some(1)
    );
    for node in &cluster.nodes[1..] {
        let refused = once(node, "order", "/v1/broadcast", &body);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (503, "idempotency_key_running")
        );
        assert!(refused.header("retry-after").is_some(), "{refused:?}");
    }
    assert_eq!(
        once(&cluster[0], "order", "/v1/broadcast", &body).status,
        200,
        "its own node has kept it"
    );
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn another_body_is_refused_on_every_node_while_the_first_request_runs() {
    let cluster = Cluster::start();
    let one = |event: &str| json!({"event": event});
    let batch = |event: &str| json!({"items": [{"call": "broadcast", "event": event}, {"call": "broadcast", "event": "b"}]});
    for (path, first, other) in [
        ("/v1/broadcast", one("a"), one("c")),
        ("/v1/batch", batch("a"), batch("c")),
    ] {
        assert_eq!(once(&cluster[0], "k", path, &first).status, 200);
        // As if it still ran.
        let keys = cluster.redis.call(&["KEYS", "*.once:*"]).unwrap();
        for key in keys.items() {
            cluster
                .redis
                .call(&["HDEL", &key.text(), "answer"])
                .unwrap();
        }
        for node in &cluster.nodes {
            let answer = once(node, "k", path, &other);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (422, "idempotency_key_reused"),
                "{path}"
            );
        }
    }
}

#[test]
fn a_batch_with_another_body_is_refused_on_every_node_and_sends_nothing() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let item = |name: &str| json!({"call": "broadcast", "event": name});
    let batch = |node: &Node, names: &[&str]| {
        let items: Vec<Value> = names.iter().map(|name| item(name)).collect();
        once(node, "k", "/v1/batch", &json!({"items": items}))
    };
    let first = batch(&cluster[0], &["a", "b"]);
    assert_eq!(first.status, 200, "{first:?}");
    for node in &cluster.nodes {
        for other in [&["a", "b", "c"][..], &["b", "a"], &["a"]] {
            let answer = batch(node, other);
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (422, "idempotency_key_reused"),
                "{other:?}"
            );
        }
        assert_eq!(batch(node, &["a", "b"]).json(), first.json());
    }
    all_get(&mut clients, "a");
    all_get(&mut clients, "b");
    nothing_more(&cluster[1], &mut clients);
}

#[test]
fn a_batch_of_which_nothing_succeeded_keeps_no_key() {
    let cluster = Cluster::start();
    let bad = json!({"items": [{"call": "emit", "event": "e", "filter": "nonsense("}]});
    let answer = once(&cluster[0], "k", "/v1/batch", &bad);
    assert_eq!(answer.json()["results"][0]["status"], 400);
    let good = json!({"items": [{"call": "emit", "event": "e"}]});
    let answer = once(&cluster[1], "k", "/v1/batch", &good);
    assert_eq!(answer.json()["results"][0]["status"], 200, "{answer:?}");
}
