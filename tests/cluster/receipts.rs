//! A receipt of the cluster counts all nodes, and names those that do not answer.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, all_get},
    support::{Client, eventually},
};

/// How long a receipt may take that waits for a node which does not answer.
const BOUND: Duration = Duration::from_secs(10);

fn counted(node: &Node, path: &str, body: &Value) -> Value {
    let mut body = body.clone();
    body["receipt"] = json!("cluster");
    node.call(path, &body)
}

#[test]
fn a_receipt_counts_the_connections_of_every_node() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    clients.extend(cluster.members("lobby"));
    cluster.await_receipts();
    for node in &cluster.nodes {
        for (path, body, expected) in [
            ("/v1/broadcast", json!({"event": "e"}), 6),
            ("/v1/send", json!({"channel": "lobby", "event": "e"}), 6),
            (
                "/v1/publish",
                json!({"user": "u1", "event": "e", "store": false}),
                2,
            ),
            (
                "/v1/emit",
                json!({"event": "e", "filter": "user == 'u2'"}),
                2,
            ),
            (
                "/v1/emit",
                json!({"event": "e", "to": {"connections": [clients[4].id]}}),
                1,
            ),
            (
                "/v1/broadcast",
                json!({"event": "e", "except": {"users": ["u0"]}}),
                4,
            ),
            (
                "/v1/publish",
                json!({"user": "nobody", "event": "e", "store": false}),
                0,
            ),
        ] {
            let receipt = counted(node, path, &body);
            assert_eq!(receipt["matched"], expected, "{path} {body}: {receipt}");
            assert_eq!(
                (&receipt["queued"], &receipt["dropped"]),
                (&json!(expected), &json!(0)),
                "{receipt}"
            );
            assert_eq!(
                (&receipt["nodes"], &receipt["missing_nodes"]),
                (&json!(3), &json!([])),
                "{receipt}"
            );
        }
    }
}

#[test]
fn a_node_that_is_ready_is_counted_by_the_others() {
    let mut cluster = Cluster::start();
    let node = Node::here(&cluster.settings);
    eventually("it is ready", || node.is_ready());
    cluster.nodes.push(node);
    let _clients = cluster.users();
    for node in &cluster.nodes {
        let receipt = counted(node, "/v1/broadcast", &json!({"event": "e"}));
        assert_eq!(
            (&receipt["matched"], &receipt["nodes"]),
            (&json!(4), &json!(4)),
            "{receipt}"
        );
    }
}

#[test]
fn errors_of_a_filter_are_counted_over_all_nodes() {
    let cluster = Cluster::start();
    let _clients = cluster.users();
    cluster.await_receipts();
    let receipt = counted(
        &cluster[0],
        "/v1/emit",
        &json!({"event": "e", "filter": "auth.age >= 18"}),
    );
    assert_eq!(
        (&receipt["matched"], &receipt["filter_errors"]),
        (&json!(0), &json!(3)),
        "{receipt}"
    );
}

#[test]
fn without_being_asked_a_receipt_counts_the_node_that_answers() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let receipt = cluster[0].call("/v1/broadcast", &json!({"event": "e"}));
    assert_eq!(
        (&receipt["matched"], &receipt["nodes"]),
        (&json!(1), &json!(1)),
        "{receipt}"
    );
    assert_eq!(receipt["missing_nodes"], json!([]));
    all_get(&mut clients, "e");
}

#[test]
fn each_item_of_a_batch_has_a_receipt_of_its_own() {
    let cluster = Cluster::start();
    let _clients = cluster.members("lobby");
    cluster.await_receipts();
    let items = json!({"items": [
        {"call": "send", "channel": "lobby", "event": "e", "receipt": "cluster"},
        {"call": "publish", "user": "u1", "event": "e", "receipt": "cluster", "store": false},
    ]});
    let answer = cluster[0].call("/v1/batch", &items);
    let matched = |at: usize| answer["results"][at]["result"]["matched"].clone();
    assert_eq!((matched(0), matched(1)), (json!(3), json!(1)), "{answer}");
}

/// Asks for a receipt, which must come in time.
fn in_time(node: &Node) -> Value {
    let start = Instant::now();
    let receipt = counted(node, "/v1/broadcast", &json!({"event": "e"}));
    assert!(
        start.elapsed() < BOUND,
        "after {:?}: {receipt}",
        start.elapsed()
    );
    receipt
}

/// Expects that the third node is named as long as it is counted on, and then is not waited for.
fn expect_missing(cluster: &Cluster, lost: &str) {
    let receipt = in_time(&cluster[0]);
    assert_eq!(
        (&receipt["matched"], &receipt["missing_nodes"]),
        (&json!(2), &json!([lost])),
        "{receipt}"
    );
    assert_eq!(receipt["nodes"], 2, "{receipt}");
    eventually("it is given up", || {
        in_time(&cluster[1])["missing_nodes"] == json!([])
    });
    let receipt = in_time(&cluster[0]);
    assert_eq!(
        (&receipt["matched"], &receipt["nodes"]),
        (&json!(2), &json!(2)),
        "{receipt}"
    );
}

/// Three processes that know each other, a client on each, and the third one's id.
fn three() -> (Cluster, Vec<Client>, String) {
    let cluster = Cluster::apart();
    let clients = cluster.users();
    cluster.await_receipts();
    let third = cluster[2].id(&clients[2]);
    (cluster, clients, third)
}

#[test]
fn a_node_that_was_killed_is_named_and_then_forgotten() {
    let (mut cluster, _clients, third) = three();
    cluster.nodes[2].kill();
    expect_missing(&cluster, &third);
}

#[test]
fn a_node_that_is_paused_is_named_and_counted_again_when_it_goes_on() {
    let (cluster, mut clients, third) = three();
    cluster[2].pause();
    expect_missing(&cluster, &third);
    cluster[2].resume();
    eventually("it is ready again", || cluster[2].is_ready());
    cluster.await_receipts();
    eventually("its clients are counted again", || {
        in_time(&cluster[0])["matched"] == 3
    });
    clients[2].pending();
    let publish = json!({"user": "u2", "event": "again", "store": false});
    cluster[0].call("/v1/publish", &publish);
    all_get(&mut clients[2..], "again");
}
