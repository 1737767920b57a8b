//! Events stored for users: whoever was away gets them on whichever node, and once they are confirmed nobody does.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, event},
    support::{Client, eventually},
};

fn publish(node: &Node, data: impl Into<Value>) -> Value {
    node.call("/v1/publish", &json!({"user": "ann", "event": "e", "data": data.into()}))
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
        assert_eq!((&receipt["stored"], &receipt["matched"]), (&json!(1), &json!(0)), "{receipt}");
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
        cluster.nodes.iter().all(|node| node.user("ann").pending().is_empty())
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
