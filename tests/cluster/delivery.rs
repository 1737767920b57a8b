//! Events reach whom they are for, on whichever node, once and in order.

use std::thread;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, all_get, event, nothing_more},
    kept::Caller,
    support::{Client, Received},
};

/// What a client gets from now on: the numbers of each publisher, in the order of their coming, up to `total`.
fn numbers(client: &mut Client, publishers: usize, total: usize) -> Vec<Vec<u64>> {
    let mut seen = vec![Vec::new(); publishers];
    for _ in 0..total {
        let event = event(client);
        let number = |name: &str| {
            event["data"][name]
                .as_u64()
                .unwrap_or_else(|| panic!("{event}"))
        };
        seen[number("by") as usize].push(number("n"));
    }
    seen
}

/// Publishes on every node at once, by a caller each: `path`, and `body` with `data` that says who and which.
fn publish_on_all(cluster: &Cluster, count: u64, path: &str, body: &Value) {
    thread::scope(|scope| {
        for (by, node) in cluster.nodes.iter().enumerate() {
            let mut body = body.clone();
            scope.spawn(move || {
                let mut caller = Caller::new(node.address());
                for n in 0..count {
                    body["data"] = json!({"by": by, "n": n});
                    caller.call(path, &body);
                }
            });
        }
    });
}

#[test]
fn a_user_on_another_node_gets_what_is_published() {
    let cluster = Cluster::start();
    let mut users = cluster.users();
    for (from, node) in cluster.nodes.iter().enumerate() {
        for (to, user) in users.iter_mut().enumerate() {
            let publish = json!({"user": format!("u{to}"), "event": "alert", "data": [from, to]});
            node.call("/v1/publish", &publish);
            let got = event(user);
            assert_eq!(
                (&got["event"], &got["data"]),
                (&json!("alert"), &json!([from, to]))
            );
            assert!(got.get("from").is_none(), "{got}");
        }
    }
    nothing_more(&cluster[0], &mut users);
}

#[test]
fn all_connections_of_a_user_on_all_nodes_get_it() {
    let cluster = Cluster::start();
    let mut same: Vec<Client> = cluster
        .nodes
        .iter()
        .flat_map(|node| [node.user("ann"), node.user("ann")])
        .collect();
    let mut other = vec![cluster[1].user("bob")];
    cluster[2].call(
        "/v1/publish",
        &json!({"users": ["ann", "nobody"], "event": "alert"}),
    );
    all_get(&mut same, "alert");
    nothing_more(&cluster[0], &mut other);
}

#[test]
fn a_large_event_to_many_users_goes_out_once_and_reaches_each() {
    let cluster = Cluster::start();
    let mut same = vec![
        cluster[1].user("far-700"),
        cluster[0].user("far-3"),
        cluster[2].user("far-1499"),
    ];
    let mut others = vec![cluster[1].user("near")];
    let users: Vec<String> = (0..1500).map(|n| format!("far-{n}")).collect();
    let data = "x".repeat(200_000);
    for n in 0..3 {
        let publish =
            json!({"users": users, "event": format!("e{n}"), "data": data, "store": false});
        let receipt = cluster[0].call("/v1/publish", &publish);
        assert_eq!(receipt["missing_nodes"], json!([]), "{receipt}");
        // To one of them alone it comes after that.
        let publish = json!({"user": "far-700", "event": "after", "store": false});
        cluster[0].call("/v1/publish", &publish);
        all_get(&mut same, &format!("e{n}"));
        all_get(&mut same[..1], "after");
    }
    let users: Vec<&str> = users.iter().map(String::as_str).chain(["far-3"]).collect();
    let emit =
        json!({"event": "e", "to": {"users": users, "channels": ["nobody"]}, "receipt": "cluster"});
    let receipt = cluster[2].call("/v1/emit", &emit);
    assert_eq!(receipt["matched"], 3, "{receipt}");
    all_get(&mut same, "e");
    nothing_more(&cluster[0], &mut others);
}

#[test]
fn an_emit_with_a_filter_reaches_who_matches_on_every_node() {
    let cluster = Cluster::start();
    let client = |at: usize, user: &str, tenant: &str| {
        cluster[at].user_with(user, &json!({"tenant": tenant}), "")
    };
    let mut wanted = vec![
        client(0, "a", "acme"),
        client(1, "b", "acme"),
        client(2, "c", "acme"),
    ];
    let mut others = vec![
        client(0, "d", "other"),
        client(1, "e", "other"),
        client(2, "muted", "acme"),
    ];
    for node in &cluster.nodes {
        let filter = "auth.tenant == params.t && !(user in params.muted)";
        let params = json!({"t": "acme", "muted": ["muted"]});
        node.call(
            "/v1/emit",
            &json!({"event": "alert", "data": 1, "filter": filter, "params": params}),
        );
        all_get(&mut wanted, "alert");
    }
    nothing_more(&cluster[1], &mut others);
}

#[test]
fn a_filter_is_narrowed_from_users_and_channels_alike() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    let to = json!({"channels": ["lobby"], "users": ["u0"]});
    let body = json!({"event": "alert", "to": to, "filter": "user != params.not", "params": {"not": "u1"}});
    cluster[1].call("/v1/emit", &body);
    all_get(&mut clients[..1], "alert");
    all_get(&mut clients[2..], "alert");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn members_on_all_nodes_get_each_event_once_and_in_the_order_of_its_publisher() {
    const EACH: u64 = 200;
    let cluster = Cluster::start();
    let mut members = cluster.members("lobby");
    members.extend(cluster.members("lobby"));
    publish_on_all(
        &cluster,
        EACH,
        "/v1/send",
        &json!({"channel": "lobby", "event": "e"}),
    );
    for member in &mut members {
        for seen in numbers(member, 3, 3 * EACH as usize) {
            assert!(seen.iter().copied().eq(0..EACH), "{seen:?}");
        }
    }
    nothing_more(&cluster[0], &mut members);
}

#[test]
fn everyone_on_all_nodes_gets_a_broadcast_once_and_in_order() {
    const EACH: u64 = 100;
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    clients.extend(cluster.nodes.iter().map(|node| node.connect("")));
    publish_on_all(&cluster, EACH, "/v1/broadcast", &json!({"event": "e"}));
    for client in &mut clients {
        for seen in numbers(client, 3, 3 * EACH as usize) {
            assert!(seen.iter().copied().eq(0..EACH), "{seen:?}");
        }
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn what_one_caller_sends_by_different_verbs_keeps_its_order() {
    let cluster = Cluster::start();
    let mut member = cluster[1].user("ann");
    member.join("lobby");
    let items: Vec<Value> = (0..90)
        .map(|n| match n % 3 {
            0 => json!({"call": "send", "channel": "lobby", "event": "e", "data": n}),
            1 => json!({"call": "publish", "user": "ann", "event": "e", "data": n, "store": false}),
            _ => json!({"call": "broadcast", "event": "e", "data": n}),
        })
        .collect();
    Caller::new(cluster[0].address()).batches(&items);
    for n in 0..90 {
        assert_eq!(event(&mut member)["data"], n);
    }
}

#[test]
fn with_scope_node_only_the_node_that_answers_delivers() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    let calls = [
        ("/v1/broadcast", json!({"event": "near"})),
        ("/v1/send", json!({"channel": "lobby", "event": "near"})),
        (
            "/v1/publish",
            json!({"users": ["u0", "u1", "u2"], "event": "near", "store": false}),
        ),
        (
            "/v1/emit",
            json!({"event": "near", "filter": "user != null"}),
        ),
        (
            "/v1/dispatch",
            json!({"recipients": ["*"], "event": "near"}),
        ),
    ];
    for (path, body) in calls {
        let mut body = body;
        body["scope"] = json!("node");
        let receipt = cluster[1].call(path, &body);
        assert_eq!(
            (&receipt["matched"], &receipt["nodes"]),
            (&json!(1), &json!(1)),
            "{path} {receipt}"
        );
        assert_eq!(event(&mut clients[1])["event"], "near");
    }
    nothing_more(&cluster[1], &mut clients);
}

#[test]
fn a_connection_that_is_named_several_times_gets_one_event_once() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    for client in &mut clients {
        client.join("den");
    }
    let ids: Vec<&str> = clients.iter().map(|client| client.id.as_str()).collect();
    let to = json!({"channels": ["lobby", "den"], "users": ["u0", "u1", "u2"], "connections": ids});
    for node in &cluster.nodes {
        node.call("/v1/emit", &json!({"event": "once", "to": to}));
        all_get(&mut clients, "once");
    }
    nothing_more(&cluster[2], &mut clients);
}

#[test]
fn connections_are_reached_by_id_on_any_node() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    for node in &cluster.nodes {
        for client in &mut clients {
            node.call(
                "/v1/emit",
                &json!({"event": "you", "to": {"connections": [client.id]}}),
            );
            assert_eq!(event(client)["event"], "you");
        }
    }
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn who_is_excepted_gets_nothing_on_any_node() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    let mut devices: Vec<Client> = cluster
        .nodes
        .iter()
        .map(|node| node.user_with("dan", &json!({}), "device=laptop"))
        .collect();
    let excepts = [
        json!({"users": ["u0", "dan"]}),
        json!({"connections": [clients[0].id], "users": ["dan"]}),
        json!({"devices": ["laptop"], "users": ["u0"]}),
    ];
    for except in excepts {
        for node in &cluster.nodes {
            node.call(
                "/v1/broadcast",
                &json!({"event": "not for all", "except": except}),
            );
            node.call(
                "/v1/send",
                &json!({"channel": "lobby", "event": "nor this", "except": except}),
            );
            for name in ["not for all", "nor this"] {
                all_get(&mut clients[1..], name);
            }
        }
    }
    clients.append(&mut devices);
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn the_recipients_of_a_dispatch_are_on_all_nodes() {
    let cluster = Cluster::start();
    let mut clients = cluster.users();
    cluster[0].call(
        "/v1/dispatch",
        &json!({"recipients": ["u0", "u2"], "event": "some", "store": false}),
    );
    all_get(&mut clients[..1], "some");
    all_get(&mut clients[2..], "some");
    cluster[0].call(
        "/v1/dispatch",
        &json!({"recipients": ["*"], "except": ["u2"], "event": "most"}),
    );
    all_get(&mut clients[..2], "most");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn data_crosses_nodes_byte_for_byte() {
    let cluster = Cluster::start();
    let mut member = cluster[1].user("ann");
    member.join("lobby");
    let data = r#"{"b": 1.0,"a":  [1e3, 12345678901234567890, "é\u0041\/"],"b":null}"#;
    let body = format!(r#"{{"channel":"lobby","event":"e","data":{data}}}"#);
    assert_eq!(
        cluster[0]
            .request("POST", "/v1/send", &[], Some(body.as_bytes()))
            .status,
        200
    );
    let text = member.text();
    assert!(text.contains(data), "{text}");
    cluster[0].call(
        "/v1/send",
        &json!({"channel": "lobby", "event": "e", "data_base64": "AP8="}),
    );
    let Received::Binary(bytes) = member.message() else {
        panic!("expected bytes")
    };
    assert!(bytes[0] == 1 && bytes.ends_with(&[0, 255]), "{bytes:?}");
}
