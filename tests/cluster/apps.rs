//! Namespaces and apps share a Redis and nothing else.

use fanfare::config::{AppConfig, Config, UserEvents};
use serde_json::json;

use crate::{
    cluster::{Node, Settings, event},
    redis::{RedisServer, Reply},
    support::{Client, KEY, SECRET, api_key, eventually, token_key},
};

/// Expects that only those of `own` get what is sent on `node` in every way.
fn expect_apart(node: &Node, own: &mut [Client], others: &mut [Client]) {
    let ids: Vec<&str> = own
        .iter()
        .chain(others.iter())
        .map(|client| client.id.as_str())
        .collect();
    let calls = [
        ("/v1/broadcast", json!({"event": "ours"})),
        ("/v1/send", json!({"channel": "lobby", "event": "ours"})),
        (
            "/v1/publish",
            json!({"user": "ann", "event": "ours", "store": false}),
        ),
        (
            "/v1/emit",
            json!({"event": "ours", "filter": "user == 'ann'"}),
        ),
        (
            "/v1/emit",
            json!({"event": "ours", "to": {"connections": ids}}),
        ),
        (
            "/v1/dispatch",
            json!({"recipients": ["*"], "event": "ours"}),
        ),
    ];
    for (path, body) in calls {
        let mut body = body;
        body["receipt"] = json!("cluster");
        let receipt = node.call(path, &body);
        assert_eq!(receipt["matched"], own.len(), "{path}: {receipt}");
        for client in &mut *own {
            assert_eq!(event(client)["event"], "ours");
        }
    }
    others.iter_mut().for_each(Client::expect_nothing);
}

/// Two nodes of each of two namespaces, and a client in `lobby` on each.
fn two_namespaces(redis: &RedisServer) -> (Vec<Node>, Vec<Client>) {
    let of = |namespace: &str| Settings::new(&redis.url()).with("FANFARE_NAMESPACE", namespace);
    let nodes: Vec<Node> = ["one", "one", "two", "two"]
        .iter()
        .map(|namespace| Node::here(&of(namespace)))
        .collect();
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    let mut clients: Vec<Client> = nodes.iter().map(|node| node.user("ann")).collect();
    for client in &mut clients {
        client.join("lobby");
    }
    let nobody = json!({"event": "nobody", "to": {"users": ["nobody"]}, "receipt": "cluster"});
    for node in &nodes {
        eventually("each counts two nodes", || {
            node.call("/v1/emit", &nobody)["nodes"] == 2
        });
    }
    (nodes, clients)
}

#[test]
fn one_namespace_reaches_nothing_of_another() {
    let redis = RedisServer::start().unwrap();
    let (nodes, mut clients) = two_namespaces(&redis);
    let (one, two) = clients.split_at_mut(2);
    expect_apart(&nodes[0], one, two);
    expect_apart(&nodes[3], two, one);
    for node in &nodes {
        assert_eq!(node.look("/v1/channels/lobby")["connections"], 2);
        assert_eq!(node.look("/v1/users/ann")["connections"], 2);
    }
    nodes[0].call("/v1/disconnect", &json!({"to": {"users": ["ann"]}}));
    clients[..2]
        .iter_mut()
        .for_each(|client| assert_eq!(client.closed(), 4010));
    clients[2..].iter_mut().for_each(Client::expect_nothing);
}

#[test]
fn histories_of_namespaces_are_apart() {
    let redis = RedisServer::start().unwrap();
    let (nodes, _clients) = two_namespaces(&redis);
    for n in 1..=3 {
        let receipt = nodes[n % 2].call("/v1/send", &json!({"channel": "room", "event": "e"}));
        assert_eq!(receipt["publications"][0]["offset"], n, "{receipt}");
    }
    let other = nodes[2].call("/v1/send", &json!({"channel": "room", "event": "e"}));
    assert_eq!(other["publications"][0]["offset"], 1, "{other}");
}

#[test]
fn one_app_reaches_nothing_of_another() {
    let redis = RedisServer::start().unwrap();
    let two_apps = |config: &mut Config| {
        config.drain_delay = Some(std::time::Duration::ZERO);
        let own = config.apps.values_mut().next().unwrap();
        own.keys
            .push(api_key("all", KEY, fanfare::config::Scopes::ALL));
        let other = AppConfig {
            tokens: vec![token_key(SECRET)],
            ..AppConfig::default()
        };
        config.apps.insert("other".to_owned(), other);
    };
    let settings = Settings::new(&redis.url());
    let nodes: Vec<Node> = (0..2)
        .map(|_| Node::here_with(&settings, two_apps))
        .collect();
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    let can = json!({"can": {"join": ["*"], "broadcast": true, "publish": true, "send": ["*"]}});
    let client = |node: &Node, app: &str| {
        let mut client = node.user_with("ann", &can, &format!("app={app}"));
        client.join("lobby");
        client
    };
    let mut own: Vec<Client> = nodes.iter().map(|node| client(node, "default")).collect();
    let mut others: Vec<Client> = nodes.iter().map(|node| client(node, "other")).collect();
    let authorization = format!("Bearer {KEY}");
    for (path, body) in [
        ("/v1/broadcast", json!({"event": "ours"})),
        ("/v1/send", json!({"channel": "lobby", "event": "ours"})),
        (
            "/v1/publish",
            json!({"user": "ann", "event": "ours", "store": false}),
        ),
    ] {
        let body = body.to_string();
        let answer = nodes[0].request(
            "POST",
            path,
            &[("Authorization", &authorization)],
            Some(body.as_bytes()),
        );
        assert_eq!(answer.status, 200, "{answer:?}");
        for client in &mut own {
            assert_eq!(event(client)["event"], "ours");
        }
    }
    for message in [
        json!({"op": "broadcast", "event": "theirs", "echo": false}),
        json!({"op": "send", "channel": "lobby", "event": "theirs", "echo": false}),
        json!({"op": "publish", "users": ["ann"], "event": "theirs", "echo": false}),
    ] {
        others[0].acked(&message);
        assert_eq!(event(&mut others[1])["event"], "theirs");
    }
    own.iter_mut()
        .chain(&mut others)
        .for_each(Client::expect_nothing);
}

#[test]
fn a_node_that_does_not_serve_an_app_yet_is_missing_from_no_answer() {
    let redis = RedisServer::start().unwrap();
    let settings = Settings::new(&redis.url());
    let with_other = |config: &mut Config| {
        config.drain_delay = Some(std::time::Duration::ZERO);
        let other = AppConfig {
            keys: vec![api_key("all", KEY, fanfare::config::Scopes::ALL)],
            tokens: vec![token_key(SECRET)],
            user_events: Some(UserEvents::default()),
            ..AppConfig::default()
        };
        config.apps.insert("other".to_owned(), other);
    };
    // As in a rollout of an app: the one node has it, the other not yet.
    let nodes = [
        Node::here_with(&settings, with_other),
        Node::here(&settings),
    ];
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    let nobody = json!({"event": "nobody", "to": {"users": ["nobody"]}, "receipt": "cluster"});
    for node in &nodes {
        eventually("it knows the other", || {
            node.count("fanfare_peers", "") == 1
        });
    }
    let can = json!({"can": {"join": ["*"]}});
    let mut client = nodes[0].user_with("ann", &can, "app=other");
    client.join("lobby");
    let authorization = format!("Bearer {KEY}");
    let ask = |method: &str, path: &str, body: Option<&[u8]>| {
        let answer = nodes[0].request(method, path, &[("Authorization", &authorization)], body);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    };
    let receipt = ask("POST", "/v1/emit", Some(nobody.to_string().as_bytes()));
    assert_eq!(
        (&receipt["nodes"], &receipt["missing_nodes"]),
        (&json!(1), &json!([])),
        "{receipt}"
    );
    for path in [
        "/v1/channels",
        "/v1/channels/lobby",
        "/v1/channels/lobby/members",
        "/v1/users/ann",
        "/v1/connections",
    ] {
        let found = ask("GET", path, None);
        let missing = &found["missing_nodes"];
        assert!(
            missing.is_null() || missing == &json!([]),
            "{path}: {found}"
        );
    }

    // An event that is stored for some of its users names whom it may not have reached: nobody but those who serve the app.
    let publish = |users: &[String]| {
        let body = json!({"users": users, "event": "e"}).to_string();
        ask("POST", "/v1/publish", Some(body.as_bytes()))
    };
    let users: Vec<String> = (0..80).map(|n| format!("user{n:02}")).collect();
    publish(&users[10..11]);
    let keys = redis.call(&["KEYS", "*user10*"]).unwrap();
    let key = keys
        .items()
        .iter()
        .map(Reply::text)
        .find(|key| key.contains("state"))
        .expect("it is kept");
    redis.call(&["SET", &key, "broken"]).unwrap();
    let receipt = publish(&users);
    assert_eq!(
        receipt["missing_nodes"].as_array().unwrap().len(),
        1,
        "{receipt}"
    );
}
