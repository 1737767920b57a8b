//! What the pages in docs/migrating list, as the systems named there show it, over three nodes.

use std::collections::BTreeMap;

use fanfare::Dispatcher;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, all_get, event, nothing_more},
    support::{Client, eventually},
};

/// Expects this event from the server next.
fn expect(client: &mut Client, name: &str, data: &Value) {
    let got = event(client);
    assert_eq!((&got["event"], &got["data"]), (&json!(name), data));
    assert!(got.get("from").is_none(), "{got}");
}

#[test]
fn zexcore_publish_reaches_a_user_on_another_node() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    let publish = json!({"user": "u2", "event": "alert", "data": "Hello from server!"});
    cluster[0].call("/v1/publish", &publish);
    expect(&mut clients[2], "alert", &json!("Hello from server!"));
    let publish =
        json!({"op": "publish", "users": ["u2"], "event": "alert", "data": ["Hello", "again"]});
    clients[1].acked(&publish);
    let got = event(&mut clients[2]);
    assert_eq!(
        (&got["data"], &got["from"]["user"]),
        (&json!(["Hello", "again"]), &json!("u1")),
        "{got}"
    );
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn zexcore_emit_with_a_predicate_reaches_who_matches_on_every_node() {
    let cluster = Cluster::start();
    let someone = json!({"email": "someone@example.com"});
    let other = json!({"email": "other@example.com"});
    let of = |claims: &Value| -> Vec<Client> {
        cluster
            .nodes
            .iter()
            .map(|node| node.user_with("uuid", claims, ""))
            .collect()
    };
    let (mut matching, mut others) = (of(&someone), of(&other));
    others.push(cluster[2].connect(""));
    for node in &cluster.nodes {
        node.call(
            "/v1/broadcast",
            &json!({"event": "alert", "data": "Hello from server!"}),
        );
        all_get(&mut matching, "alert");
        all_get(&mut others, "alert");
        let receipt = node.call(
            "/v1/emit",
            &json!({
                "event": "alert",
                "filter": "auth.email == params.email",
                "params": {"email": "someone@example.com"},
                "data": "Hello, client!",
                "receipt": "cluster",
            }),
        );
        assert_eq!(
            (&receipt["matched"], &receipt["nodes"]),
            (&json!(3), &json!(3)),
            "{receipt}"
        );
        for client in &mut matching {
            assert_eq!(event(client)["data"], "Hello, client!");
        }
    }
    matching.append(&mut others);
    nothing_more(&cluster[0], &mut matching);
}

/// Three more nodes over the Redis of `cluster`, in a namespace of their own, that are ready.
fn beside(cluster: &Cluster, namespace: &str) -> Vec<Node> {
    let settings = cluster
        .settings
        .clone()
        .with("FANFARE_NAMESPACE", namespace);
    let nodes: Vec<Node> = (0..3).map(|_| Node::here(&settings)).collect();
    for node in &nodes {
        eventually("a node of the other namespace is ready", || node.is_ready());
    }
    nodes
}

/// Clients `0`, `1` and `2`, one on each node.
fn three(nodes: &[Node]) -> Vec<Client> {
    nodes
        .iter()
        .enumerate()
        .map(|(at, node)| node.user(&at.to_string()))
        .collect()
}

#[test]
fn mesa_a_dispatch_reaches_all_nodes_of_its_namespace_and_none_of_another() {
    let plain = Cluster::start();
    let api = beside(&plain, "api");
    let (mut plain_clients, mut api_clients) = (three(&plain.nodes), three(&api));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let dispatcher = runtime
        .block_on(Dispatcher::connect_to(&plain.redis.url(), "api", "default"))
        .unwrap();
    let dispatch = |recipients: &[&str], except: &[&str], name: &str, data: Value| {
        let heard = runtime
            .block_on(dispatcher.dispatch(recipients, except, name, &data))
            .unwrap();
        assert_eq!(heard, 3, "the three nodes of the namespace listen");
    };
    dispatch(
        &["0", "1"],
        &[],
        "STATUS_UPDATE",
        json!({"status": "online"}),
    );
    for client in &mut api_clients[..2] {
        expect(client, "STATUS_UPDATE", &json!({"status": "online"}));
    }
    dispatch(
        &["0", "1", "2"],
        &["1"],
        "NEW_MESSAGE",
        json!({"content": "Hello", "author": "1"}),
    );
    all_get(&mut api_clients[..1], "NEW_MESSAGE");
    all_get(&mut api_clients[2..], "NEW_MESSAGE");
    dispatch(
        &["*"],
        &[],
        "GLOBAL_ALERT",
        json!({"alert": true, "content": "Hello World"}),
    );
    all_get(&mut api_clients, "GLOBAL_ALERT");
    // The other way round, by plain PUBLISH.
    let message = json!({"recipients": ["*"], "event": "GLOBAL_ALERT"}).to_string();
    let heard = plain
        .redis
        .call(&["PUBLISH", "fanfare:tests:default:dispatch", &message])
        .unwrap();
    assert_eq!(heard.number(), Some(3));
    all_get(&mut plain_clients, "GLOBAL_ALERT");
    let closed = runtime.block_on(dispatcher.disconnect(&["2"])).unwrap();
    assert_eq!(closed, 3, "nodes that heard it");
    assert_eq!(api_clients.pop().unwrap().closed(), 4010);
    nothing_more(&plain[0], &mut plain_clients);
    nothing_more(&api[0], &mut api_clients);
}

#[test]
fn agnost_get_members_has_those_of_all_nodes() {
    const CHANNEL: &str = "technology-chat";
    let cluster = Cluster::start();
    let mut members = cluster.members(CHANNEL);
    let profiles = [
        json!({"username": "Luke Skywalker", "status": "Available"}),
        json!({"username": "Darth Vader", "status": "Talking to Darth Sidious"}),
        Value::Null,
    ];
    for (member, profile) in members.iter_mut().zip(&profiles[..2]) {
        member.acked(&json!({"op": "update", "data": profile}));
    }
    let by_id = |page: &Value| -> BTreeMap<String, (Value, Value)> {
        let listed = page["members"]
            .as_array()
            .unwrap_or_else(|| panic!("no members: {page}"))
            .iter();
        listed
            .map(|m| {
                (
                    m["id"].as_str().unwrap().into(),
                    (m["user"].clone(), m["data"].clone()),
                )
            })
            .collect()
    };
    let expected: BTreeMap<_, _> = members
        .iter()
        .zip(profiles)
        .enumerate()
        .map(|(at, (member, profile))| (member.id.clone(), (json!(format!("u{at}")), profile)))
        .collect();
    for at in 0..3 {
        let mut page = Value::Null;
        eventually(
            "every node lists the members of all, with their profiles",
            || {
                page = cluster[at].look(&format!("/v1/channels/{CHANNEL}/members"));
                by_id(&page) == expected
            },
        );
        assert_eq!(
            (&page["count"], &page["users"]),
            (&json!(3), &json!(3)),
            "{page}"
        );
        let shown = members[at].acked(&json!({"op": "members", "channel": CHANNEL}));
        assert_eq!(
            by_id(&shown),
            expected,
            "a client of node {at} sees the same"
        );
    }
    let message = json!({"username": "Luke Skywalker", "message": "Let's have a Juma juice?"});
    cluster[1].call(
        "/v1/send",
        &json!({"channel": CHANNEL, "event": "chat-message", "data": message}),
    );
    for member in &mut members {
        let got = event(member);
        assert_eq!(
            (&got["channel"], &got["data"]),
            (&json!(CHANNEL), &message),
            "{got}"
        );
    }
}
