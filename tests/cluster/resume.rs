//! A lost connection is taken up again on another node.

use serde_json::json;

use crate::{
    cluster::{Cluster, Node, event, nothing_more},
    kept::cut,
    support::Client,
};

/// A connection of ann on `node` that takes up `old`, and whether there was something to take up.
fn come_back(node: &Node, old: &str, device: &str) -> (Client, bool) {
    let token = crate::support::signed(&json!({"sub": "ann"}));
    let mut client = node.open(&format!("token={token}&device={device}&resume={old}"));
    let welcome = client.json();
    assert_eq!(welcome["op"], "welcome", "{welcome}");
    client.id = welcome["connection"].as_str().unwrap().into();
    (client, welcome["resumed"].as_bool().unwrap_or_else(|| panic!("{welcome}")))
}

fn ann(node: &Node) -> Client {
    node.user_with("ann", &json!({}), "device=d1")
}

#[test]
fn channels_and_profile_come_back_on_another_node() {
    let cluster = Cluster::start();
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("lobby");
    let mut old = ann(&cluster[0]);
    old.join("lobby");
    assert_eq!(watcher.json()["kind"], "joined");
    old.acked(&json!({"op": "update", "data": {"status": "here"}}));
    assert_eq!(watcher.json()["kind"], "updated");
    let lost = old.id.clone();
    cut(&old);
    let (mut new, resumed) = come_back(&cluster[1], &lost, "d1");
    assert!(resumed);
    assert_eq!(new.json(), json!({"op": "joined", "channel": "lobby"}));
    let updated = watcher.json();
    assert_eq!((&updated["kind"], &updated["previous"]), (&json!("updated"), &json!(lost)), "{updated}");
    let member = json!({"id": new.id, "user": "ann", "data": {"status": "here"}});
    assert_eq!(updated["member"], member);
    cluster[0].call("/v1/send", &json!({"channel": "lobby", "event": "e"}));
    assert_eq!(event(&mut new)["event"], "e");
    assert_eq!(event(&mut watcher)["event"], "e");
    nothing_more(&cluster[0], &mut [new, watcher]);
}

#[test]
fn a_connection_whose_end_was_not_noticed_is_taken_over() {
    let cluster = Cluster::start();
    let mut old = ann(&cluster[0]);
    old.join("lobby");
    let (mut new, resumed) = come_back(&cluster[1], &old.id.clone(), "d1");
    assert!(resumed);
    assert_eq!(new.json()["channel"], "lobby");
    assert_eq!(old.closed(), 4011);
    let receipt = json!({"channel": "lobby", "event": "e"});
    cluster[2].call("/v1/send", &receipt);
    assert_eq!(event(&mut new)["event"], "e");
    nothing_more(&cluster[0], &mut [new]);
}

#[test]
fn nobody_else_takes_it_up_from_another_node() {
    let cluster = Cluster::start();
    let mut old = ann(&cluster[0]);
    old.join("lobby");
    let lost = old.id.clone();
    let (mut other_device, resumed) = come_back(&cluster[1], &lost, "d2");
    assert!(!resumed);
    other_device.expect_nothing();
    let token = crate::support::signed(&json!({"sub": "bob"}));
    let mut bob = cluster[1].open(&format!("token={token}&device=d1&resume={lost}"));
    assert_eq!(bob.json()["resumed"], false);
    bob.expect_nothing();
    old.expect_nothing();
    let (_, resumed) = come_back(&cluster[2], "nobody", "d1");
    assert!(!resumed);
}

#[test]
fn a_channel_with_history_is_filled_up_after_resuming_on_another_node() {
    let cluster = Cluster::start();
    let mut old = ann(&cluster[0]);
    let joined = old.join("room");
    cut(&old);
    for n in 1..=3 {
        cluster[2].call("/v1/send", &json!({"channel": "room", "event": "e", "data": n}));
    }
    let (mut new, resumed) = come_back(&cluster[1], &old.id.clone(), "d1");
    assert!(resumed);
    let told = new.json();
    assert_eq!((&told["op"], &told["offset"]), (&json!("joined"), &json!(3)), "{told}");
    let since = json!({"epoch": joined["epoch"], "offset": joined["offset"]});
    let ack = new.acked(&json!({"op": "join", "channel": "room", "since": since}));
    assert_eq!(ack["recovered"], true, "{ack}");
    for n in 1..=3 {
        assert_eq!(event(&mut new)["offset"], n);
    }
    new.expect_nothing();
}
