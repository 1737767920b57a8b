//! What a node may have missed costs what it must: dropped messages and lost connections concern their topics alone.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, cluster_url, event},
    redis::RedisCluster,
    support::{Client, eventually},
};

/// Times that what was missed of a channel or a user was fetched.
const FETCHES: &str = "fanfare_bus_fetches_total";

fn answered(node: &Node) -> u64 {
    node.count(FETCHES, r#"result="answered""#)
}

/// Commands of this name that Redis has carried out.
fn calls(cluster: &Cluster, command: &str) -> u64 {
    let stats = cluster.redis.call(&["INFO", "commandstats"]).unwrap();
    let (stats, start) = (stats.text(), format!("cmdstat_{command}:calls="));
    let line = stats.lines().find_map(|line| line.strip_prefix(&start));
    let calls = line.and_then(|line| line.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Events in a burst.
const BURST: u32 = 20;

/// Nodes that take in one event of a burst from each other, and the next once that is taken.
fn narrow() -> Cluster {
    let narrow = |settings: Settings| settings.with("FANFARE_LIMIT_BUS_INBOX_MESSAGES", "1");
    Cluster::of(2, narrow, |_| {})
}

fn dropped(node: &Node) -> u64 {
    node.count("fanfare_bus_dropped_total", "")
}

/// Has `node` publish `item` as many times as are in a burst, each with its number.
fn burst(node: &Node, item: &Value) {
    let numbered = |n: u32| {
        let mut item = item.clone();
        item["data"] = json!({"n": n, "long": "x".repeat(10_000)});
        item
    };
    let items: Vec<Value> = (0..BURST).map(numbered).collect();
    let batch = node.call("/v1/batch", &json!({ "items": items }));
    let results = batch["results"].as_array().unwrap();
    assert!(results.iter().all(|it| it["status"] == 200), "{batch}");
}

fn users(node: &Node, n: usize) -> Vec<Client> {
    (0..n).map(|n| node.user(&format!("user-{n}"))).collect()
}

#[test]
fn what_is_too_much_and_not_stored_is_not_looked_for() {
    let cluster = narrow();
    let _users = users(&cluster[1], 200);
    let mut member = cluster[1].connect("");
    (0..50).for_each(|n| drop(member.join(&format!("room-{n}"))));
    let written = calls(&cluster, "rename");
    let scripts = calls(&cluster, "evalsha");
    let nobody = json!({"call": "emit", "event": "e", "filter": "user == 'nobody'"});
    eventually("the inbox overflows many times", || {
        burst(&cluster[0], &nobody);
        dropped(&cluster[1]) > 50
    });
    // Messages are taken in order, so what was to be done about those before it has begun.
    eventually("all are taken", || {
        cluster[0].call("/v1/broadcast", &json!({"event": "last"}));
        member.pending().iter().any(|got| got["event"] == "last")
    });
    let ran = calls(&cluster, "evalsha") - scripts;
    // Leases and revocations are looked at meanwhile.
    assert!(ran < 150, "{ran} scripts for 200 users and 50 channels");
    assert_eq!(calls(&cluster, "rename"), written);
    assert_eq!(answered(&cluster[1]), 0);
}

#[test]
fn a_stored_event_that_is_too_much_is_fetched_for_its_user_or_channel_alone() {
    let cluster = narrow();
    let mut ann = cluster[1].user("ann");
    ann.join("room");
    let mut users = users(&cluster[1], 100);
    let mut member = cluster[1].connect("");
    (0..100).for_each(|n| drop(member.join(&format!("room-{n}"))));
    for item in [
        json!({"call": "publish", "user": "ann", "event": "e"}),
        json!({"call": "send", "channel": "room", "event": "e"}),
    ] {
        let (were_dropped, before) = (dropped(&cluster[1]), answered(&cluster[1]));
        eventually("the inbox overflows", || {
            burst(&cluster[0], &item);
            for n in 0..BURST {
                assert_eq!(event(&mut ann)["data"]["n"], n);
            }
            dropped(&cluster[1]) > were_dropped
        });
        // One who is in doubt gets nothing new before what was missed is fetched.
        for (n, user) in users.iter_mut().enumerate() {
            let body = json!({"user": format!("user-{n}"), "event": "e", "data": n});
            cluster[0].call("/v1/publish", &body);
            assert_eq!(event(user)["data"], n);
        }
        let fetched = answered(&cluster[1]) - before;
        assert!(fetched < 50, "{fetched} fetches for one user or channel");
    }
}

#[test]
fn a_lost_connection_concerns_what_it_served() {
    const USERS: usize = 90;
    let redis = RedisCluster::start().unwrap();
    let node = Node::here(&Settings::new(&cluster_url(&redis.addresses())));
    eventually("it is ready", || node.is_ready());
    let mut users = users(&node, USERS);
    // What was there before the first connection has nothing to fetch.
    let before = answered(&node);
    redis.nodes[0].kill_clients("pubsub").unwrap();
    eventually("what it served is fetched", || answered(&node) > before);
    eventually("it is ready again", || node.is_ready());
    for n in 0..USERS {
        let body = json!({"user": format!("user-{n}"), "event": "e", "data": n});
        node.call("/v1/publish", &body);
    }
    for (n, user) in users.iter_mut().enumerate() {
        assert_eq!(event(user)["data"], n);
    }
    let fetched = answered(&node) - before;
    assert!(fetched < USERS as u64, "{fetched} fetches");
}

#[test]
fn only_what_could_not_be_fetched_is_fetched_again() {
    const ROOMS: usize = 60;
    let cluster = Cluster::start();
    let mut member = cluster[1].connect("");
    for n in 0..ROOMS {
        let channel = format!("room-{n}");
        member.join(&channel);
        cluster[0].call("/v1/send", &json!({"channel": channel, "event": "e"}));
        assert_eq!(event(&mut member)["offset"], 1);
    }
    let keys = cluster.redis.call(&["KEYS", "*state*:room-7"]).unwrap();
    let state = keys.items()[0].text();
    cluster.redis.call(&["DEL", &state]).unwrap();
    cluster.redis.call(&["SET", &state, "no hash"]).unwrap();

    let before = answered(&cluster[1]);
    cluster.redis.kill_clients("pubsub").unwrap();
    let failed = || cluster[1].count(FETCHES, r#"result="failed""#);
    eventually("the others are fetched", || {
        answered(&cluster[1]) >= before + ROOMS as u64 - 1
    });
    let some = failed();
    eventually("it is tried several times", || failed() > some + 5);
    let fetched = answered(&cluster[1]) - before;
    assert!(fetched < 3 * ROOMS as u64, "{fetched} fetches");
    cluster.redis.call(&["DEL", &state]).unwrap();
    let some = answered(&cluster[1]);
    eventually("it is fetched", || answered(&cluster[1]) > some);
}

/// The ids of members that a node has listed in Redis, and how often lists were written as a whole.
fn listed(cluster: &Cluster) -> (String, u64) {
    let keys = cluster.redis.call(&["KEYS", "*node.members:*"]).unwrap();
    let mut listed = String::new();
    for key in keys.items() {
        let fields = cluster.redis.call(&["HKEYS", &key.text()]).unwrap();
        for field in fields.items() {
            listed = listed + &field.text() + "\n";
        }
    }
    (listed, calls(cluster, "rename"))
}

#[test]
fn a_list_of_members_is_written_again_only_if_redis_has_lost_it() {
    let cluster = Cluster::of(1, |settings| settings, |_| {});
    // A user of whom something may have been missed shows that the gap was seen to.
    let mut ann = cluster[0].user("ann");
    ann.join("lobby");
    let is_listed = |client: &Client| listed(&cluster).0.contains(&client.id);
    eventually("she is listed", || is_listed(&ann));
    let (_, written) = listed(&cluster);
    for lost in [false, true] {
        let before = answered(&cluster[0]);
        if lost {
            cluster.redis.call(&["FLUSHALL"]).unwrap();
        }
        cluster.redis.kill_clients("pubsub").unwrap();
        eventually("the gap is seen to", || answered(&cluster[0]) > before);
        // Changes come after what is done about the list.
        let mut bob = cluster[0].user("bob");
        bob.join("lobby");
        eventually("both are listed", || is_listed(&ann) && is_listed(&bob));
        assert_eq!(listed(&cluster).1 > written, lost);
    }
}
