//! A lost connection is taken up again on another node.

use std::{thread, time::Duration};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, event, nothing_more},
    kept::{cut, reset},
    redis::Reply,
    support::{Client, eventually, signed},
};

/// A connection of ann on `node` that takes up `old`, and whether there was something to take up.
fn come_back(node: &Node, old: &str, device: &str) -> (Client, bool) {
    let token = signed(&json!({"sub": "ann"}));
    let mut client = node.open(&format!("token={token}&device={device}&resume={old}"));
    let welcome = client.json();
    assert_eq!(welcome["op"], "welcome", "{welcome}");
    client.id = welcome["connection"].as_str().unwrap().into();
    (
        client,
        welcome["resumed"]
            .as_bool()
            .unwrap_or_else(|| panic!("{welcome}")),
    )
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
    assert_eq!(
        (&updated["kind"], &updated["previous"]),
        (&json!("updated"), &json!(lost)),
        "{updated}"
    );
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

/// A client comes back to the second node of these, and its welcome is lost. It comes back to the third by the connection that it
/// knows of, which was on the first.
fn comes_back_after_a_lost_welcome(first: usize, second: usize, third: usize) {
    let cluster = Cluster::start();
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("lobby");
    let mut old = ann(&cluster[first]);
    old.join("lobby");
    assert_eq!(watcher.json()["kind"], "joined");
    let lost = old.id.clone();
    cut(&old);
    let token = signed(&json!({"sub": "ann"}));
    let unheard = cluster[second].open(&format!("token={token}&device=d1&resume={lost}"));
    let updated = watcher.json();
    assert_eq!(updated["previous"], json!(lost), "{updated}");

    let unheard_id = updated["member"]["id"].as_str().unwrap();
    drop(unheard);
    eventually("the node knows", || {
        let path = format!("/v1/connections/{unheard_id}");
        cluster[second].get(&path).status == 404
    });
    let (mut new, resumed) = come_back(&cluster[third], &lost, "d1");
    assert!(resumed);
    assert_eq!(new.json(), json!({"op": "joined", "channel": "lobby"}));
    let updated = watcher.json();
    assert_eq!(updated["previous"], json!(unheard_id), "{updated}");
    nothing_more(&cluster[0], &mut [new, watcher]);
}

#[test]
fn a_client_whose_welcome_was_lost_on_another_node_comes_back_to_that_node() {
    comes_back_after_a_lost_welcome(0, 1, 1);
}

#[test]
fn a_client_whose_welcome_was_lost_on_another_node_comes_back_to_a_third_one() {
    comes_back_after_a_lost_welcome(0, 1, 2);
}

#[test]
fn a_client_whose_welcome_was_lost_on_another_node_comes_back_to_the_first_one() {
    comes_back_after_a_lost_welcome(0, 1, 0);
}

#[test]
fn a_client_whose_welcome_was_lost_on_its_own_node_comes_back_to_another_one() {
    comes_back_after_a_lost_welcome(0, 0, 1);
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
    let token = signed(&json!({"sub": "bob"}));
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
        cluster[2].call(
            "/v1/send",
            &json!({"channel": "room", "event": "e", "data": n}),
        );
    }
    let (mut new, resumed) = come_back(&cluster[1], &old.id.clone(), "d1");
    assert!(resumed);
    let told = new.json();
    assert_eq!(
        (&told["op"], &told["offset"]),
        (&json!("joined"), &json!(3)),
        "{told}"
    );
    let since = json!({"epoch": joined["epoch"], "offset": joined["offset"]});
    let ack = new.acked(&json!({"op": "join", "channel": "room", "since": since}));
    assert_eq!(ack["recovered"], true, "{ack}");
    for n in 1..=3 {
        assert_eq!(event(&mut new)["offset"], n);
    }
    new.expect_nothing();
}

/// Three nodes, of which the second lets a client be in one channel only.
fn with_a_narrow_one() -> Cluster {
    let mut cluster = Cluster::start();
    cluster.settings = cluster
        .settings
        .clone()
        .with("FANFARE_LIMIT_CHANNELS_PER_CONNECTION", "1");
    cluster.nodes[1] = Node::here(&cluster.settings);
    cluster.await_ready();
    cluster.await_receipts();
    cluster
}

/// The next notice of each watcher is that `lost` of ann has left, and that no connection of ann's is there any more.
fn expect_left(watchers: &mut [Client], lost: &str) {
    for watcher in watchers {
        let notice = notice_of(watcher, lost);
        let member = json!({"id": lost, "user": "ann", "data": {"status": "here"}});
        assert_eq!(
            (&notice["op"], &notice["kind"]),
            (&json!("member"), &json!("left")),
            "{notice}"
        );
        assert_eq!(
            (&notice["member"], &notice["user_connections"]),
            (&member, &json!(0)),
            "{notice}"
        );
    }
}

/// The next notice about the connection `id`. One that was on the page already may be told once more before it.
fn notice_of(watcher: &mut Client, id: &str) -> Value {
    loop {
        let notice = watcher.json();
        assert_eq!(notice["op"], "member", "{notice}");
        if notice["member"]["id"] == id {
            return notice;
        }
    }
}

/// A client on each node that hears of the others in `channel`.
fn watchers(cluster: &Cluster, channel: &str) -> Vec<Client> {
    let mut watchers = cluster.users();
    for at in 0..watchers.len() {
        watchers[at].watch(channel);
        let id = watchers[at].id.clone();
        for earlier in &mut watchers[..at] {
            assert_eq!(notice_of(earlier, &id)["kind"], "joined");
        }
    }
    watchers
}

#[test]
fn members_hear_that_who_finds_no_room_on_another_node_has_left() {
    let cluster = with_a_narrow_one();
    let mut watchers = watchers(&cluster, "second");
    let mut old = ann(&cluster[0]);
    old.acked(&json!({"op": "update", "data": {"status": "here"}}));
    old.join("first");
    old.join("second");
    for watcher in &mut watchers {
        assert_eq!(notice_of(watcher, &old.id)["kind"], "joined");
    }
    cut(&old);
    let (mut new, resumed) = come_back(&cluster[1], &old.id.clone(), "d1");
    assert!(resumed);
    assert_eq!(new.json()["channel"], "first");
    let refused = new.json();
    assert_eq!(
        (&refused["op"], &refused["code"]),
        (&json!("error"), &json!("too_many_channels")),
        "{refused}"
    );
    expect_left(&mut watchers, &old.id);
    assert_eq!(cluster[2].look("/v1/channels/second")["connections"], 3);
    watchers.push(new);
    nothing_more(&cluster[0], &mut watchers);
}

#[test]
fn members_hear_that_who_cannot_join_again_for_want_of_history_has_left() {
    let cluster = Cluster::start();
    // Nobody is in the channel on the node to which the client comes back: it has to ask how far the history is.
    let mut watchers = cluster.users();
    watchers.remove(1);
    watchers[0].watch("room");
    watchers[1].watch("room");
    watchers[0].json();
    let mut old = ann(&cluster[0]);
    old.acked(&json!({"op": "update", "data": {"status": "here"}}));
    old.join("room");
    for watcher in &mut watchers {
        assert_eq!(notice_of(watcher, &old.id)["kind"], "joined");
    }
    cut(&old);
    // What the store keeps of the channel is nothing that it can read.
    let keys = cluster.redis.call(&["KEYS", "*room*"]).unwrap();
    let key = keys
        .items()
        .iter()
        .map(Reply::text)
        .find(|key| key.contains("state"))
        .expect("it is kept");
    cluster.redis.call(&["SET", &key, "broken"]).unwrap();
    let (mut new, resumed) = come_back(&cluster[1], &old.id.clone(), "d1");
    assert!(resumed);
    assert_eq!(new.json()["code"], "history_unavailable");
    expect_left(&mut watchers, &old.id);
    watchers.push(new);
    nothing_more(&cluster[0], &mut watchers);
}

#[test]
fn members_hear_of_each_client_that_goes_away_again_while_it_comes_back() {
    let cluster = Cluster::start_with(
        |settings| settings.with("FANFARE_LIMIT_RESUME_WINDOW", "500ms"),
        |_| {},
    );
    let mut watcher = cluster[2].user("watcher");
    watcher.watch("lobby");
    for round in 0..10 {
        let mut old = ann(&cluster[0]);
        old.join("lobby");
        assert_eq!(watcher.json()["kind"], "joined");
        cut(&old);
        let token = signed(&json!({"sub": "ann"}));
        let again = cluster[1].open(&format!("token={token}&device=d1&resume={}", old.id));
        // At another moment each time.
        thread::sleep(Duration::from_micros(round * 300));
        reset(again);
        let mut present: Vec<Value> = vec![json!(old.id)];
        while !present.is_empty() {
            let notice = watcher.json();
            let id = notice["member"]["id"].clone();
            if notice["kind"] == "left" {
                present.retain(|other| *other != id);
            } else {
                present.retain(|other| *other != notice["previous"]);
                present.push(id);
            }
        }
    }
    nothing_more(&cluster[0], &mut [watcher]);
}

#[test]
fn who_was_taken_out_of_a_channel_does_not_come_back_to_it_on_another_node() {
    let cluster = Cluster::start();
    let leave = json!({"channel": "lobby", "to": {"users": ["ann"]}});
    for round in 0..90 {
        let (lost_on, back_on, asked) = (&cluster[0], &cluster[1], &cluster[1 + round % 2]);
        let mut old = ann(lost_on);
        old.join("lobby");
        cut(&old);

        // At another moment of the way back each time.
        let (mut new, left) = thread::scope(|scope| {
            let back = scope.spawn(|| come_back(back_on, &old.id, "d1").0);
            thread::sleep(Duration::from_micros(round as u64 / 2 * 100));
            let left = asked.call("/v1/leave", &leave);
            (back.join().unwrap(), left)
        });

        // What it sends is read once it is in all of its channels.
        new.ask_amid(&json!({"op": "update", "data": null}));
        for node in &cluster.nodes {
            let lobby = node.look("/v1/channels/lobby");
            assert_eq!(lobby["connections"], 0, "round {round}: {left}");
        }
        assert_eq!(left["missing_nodes"], Value::Null, "{left}");
        assert!(left["left"].as_u64() >= Some(1), "round {round}: {left}");
    }
}
