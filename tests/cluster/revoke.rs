//! What one node revokes, or replaces, holds on all of them.

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, event},
    redis::Reply,
    support::{Client, Received, eventually, signed},
};

/// What a client of `node` hears that connects with a token of `user` without `iat`.
fn heard(node: &Node, user: &str) -> Value {
    let token = signed(&json!({"sub": user}));
    match node.open(&format!("token={token}")).next() {
        Received::Text(text) => serde_json::from_str::<Value>(&text).unwrap()["op"].clone(),
        Received::Close(code, _) => json!(code),
        other => panic!("{other:?}"),
    }
}

fn of_each(cluster: &Cluster, user: &str) -> Vec<Client> {
    cluster.nodes.iter().map(|node| node.user(user)).collect()
}

/// The name of the list in Redis.
fn list(cluster: &Cluster) -> String {
    let keys = cluster.redis.call(&["KEYS", "fanfare:*revoked"]).unwrap();
    let keys: Vec<String> = keys.items().iter().map(Reply::text).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].clone()
}

#[test]
fn a_token_that_one_node_revokes_is_refused_by_all_and_by_one_that_starts_later() {
    let mut cluster = Cluster::start();
    let mut ann = of_each(&cluster, "ann");
    let mut bob = of_each(&cluster, "bob");
    let answer = cluster[0].call("/v1/revoke", &json!({"user": "ann"}));
    assert_eq!(
        (
            &answer["disconnected"],
            &answer["nodes"],
            answer.get("missing_nodes")
        ),
        (&json!(3), &json!(3), None)
    );
    for client in &mut ann {
        assert_eq!(client.closed(), 4001);
    }
    for node in &cluster.nodes {
        assert_eq!(
            (heard(node, "ann"), heard(node, "eve")),
            (json!(4001), json!("welcome"))
        );
    }

    let late = Node::here(&cluster.settings);
    eventually("it is ready", || late.is_ready());
    assert_eq!(
        (heard(&late, "ann"), heard(&late, "eve")),
        (json!(4001), json!("welcome"))
    );
    cluster.nodes.push(late);
    cluster.await_receipts();

    // What the last one revokes, the first ones know.
    let answer = cluster[3].call("/v1/revoke", &json!({"users": ["bob"]}));
    assert_eq!(
        (&answer["disconnected"], &answer["nodes"]),
        (&json!(3), &json!(4))
    );
    for client in &mut bob {
        assert_eq!(client.closed(), 4001);
    }
    assert_eq!(heard(&cluster[1], "bob"), 4001);
}

#[test]
fn a_node_that_missed_a_revocation_reads_it() {
    let cluster = Cluster::start();
    cluster[0].call("/v1/revoke", &json!({"user": "someone"}));
    let list = list(&cluster);
    let mut ann = of_each(&cluster, "ann");

    // As another node does that cannot be heard.
    let far = "99999999999";
    let revoked = format!("1000 {far}");
    let change = format!("{far} {far}");
    let stored = cluster
        .redis
        .call(&["HSET", &list, "default ann", &revoked, "", &change]);
    stored.unwrap();
    for client in &mut ann {
        assert_eq!(client.closed(), 4001);
    }
    for node in &cluster.nodes {
        assert_eq!(heard(node, "ann"), 4001);
    }

    // Numbers go on from there.
    cluster[1].call("/v1/revoke", &json!({"user": "bob"}));
    for node in &cluster.nodes {
        assert_eq!(heard(node, "bob"), 4001);
    }
}

#[test]
fn what_redis_loses_the_nodes_give_back() {
    let cluster = Cluster::start();
    cluster[0].call("/v1/revoke", &json!({"users": ["ann", "bob"]}));
    let list = list(&cluster);
    let fields = || cluster.redis.call(&["HKEYS", &list]).unwrap().items().len();
    assert_eq!(fields(), 3);
    cluster.redis.call(&["DEL", &list]).unwrap();
    eventually("it is there again", || fields() == 3);
    let late = Node::here(&cluster.settings);
    eventually("it is ready", || late.is_ready());
    assert_eq!(
        (heard(&late, "ann"), heard(&late, "bob")),
        (json!(4001), json!(4001))
    );
}

#[test]
fn revocations_that_are_over_leave_redis() {
    let cluster = Cluster::start();
    let week = 7 * 24 * 3600;
    let now = crate::support::unix_now();
    cluster[0].call("/v1/revoke", &json!({"user": "bob"}));
    // Tokens of its time end in a second or two.
    let over = json!({"user": "ann", "before": now - week - 4});
    cluster[1].call("/v1/revoke", &over);
    let list = list(&cluster);
    let has = |user: &str| {
        let field = format!("default {user}");
        let value = cluster.redis.call(&["HGET", &list, &field]).unwrap();
        !value.text().is_empty()
    };
    eventually("it is removed", || !has("ann"));
    assert!(has("bob"));
    assert_eq!(heard(&cluster[2], "ann"), "welcome");
    assert_eq!(heard(&cluster[2], "bob"), 4001);
}

#[test]
fn claims_are_replaced_on_every_node() {
    let cluster = Cluster::start();
    let mut ann = of_each(&cluster, "ann");
    for client in &mut ann {
        client.join("den");
    }
    let body = json!({"user": "ann", "claims": {"plan": "pro"}, "can": {"join": ["lobby"]}});
    let answer = cluster[2].call("/v1/auth", &body);
    assert_eq!(answer, json!({"connections": 3, "nodes": 3}));
    for client in &mut ann {
        assert_eq!(client.json(), json!({"op": "left", "channel": "den"}));
    }
    let emit = json!({"event": "e", "filter": "auth.plan == \"pro\"", "receipt": "cluster"});
    assert_eq!(cluster[0].call("/v1/emit", &emit)["matched"], 3);
    for client in &mut ann {
        assert_eq!(event(client)["event"], "e");
        client.send(&json!({"op": "join", "id": 1, "channel": "den"}));
        assert_eq!(client.json()["code"], "forbidden");
    }
}
