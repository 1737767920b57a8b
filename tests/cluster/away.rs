//! Redis is away: what cannot reach the cluster is refused before anything was delivered, readiness says why, and all
//! works again by itself when Redis is back.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, all_get, event, nothing_more},
    redis::{Proxy, RedisServer, free_port},
    support::{Answer, Client, eventually},
};

/// How long an answer may take while Redis does not answer.
const BOUND: Duration = Duration::from_secs(10);

/// Every publishing call, each meaning all clients that are called u0, u1, u2 and are in `lobby`.
fn calls() -> [(&'static str, Value); 5] {
    [
        ("/v1/broadcast", json!({"event": "e"})),
        ("/v1/emit", json!({"event": "e", "filter": "user != null"})),
        ("/v1/send", json!({"channel": "lobby", "event": "e"})),
        (
            "/v1/publish",
            json!({"users": ["u0", "u1", "u2"], "event": "e", "store": false}),
        ),
        ("/v1/dispatch", json!({"recipients": ["*"], "event": "e"})),
    ]
}

fn expect_refused(answer: &Answer) {
    assert_eq!(answer.status, 503, "{answer:?}");
    let wait = answer
        .header("retry-after")
        .and_then(|wait| wait.parse::<u32>().ok());
    assert!(wait.is_some_and(|wait| wait >= 1), "{answer:?}");
    assert!(!answer.code().is_empty());
}

/// Sends until `node` takes it; the refused ones must be refused well.
fn publish_when_possible(node: &Node, path: &str, body: &Value) {
    eventually("it is taken", || {
        let answer = node.post(path, body);
        if answer.status == 200 {
            return answer.json()["missing_nodes"] == json!([]);
        }
        expect_refused(&answer);
        false
    });
}

/// Has every node publish until what it publishes reaches all clients; from then on nothing may be missing.
fn expect_delivery(cluster: &Cluster, clients: &mut [Client]) {
    for (at, node) in cluster.nodes.iter().enumerate() {
        let mut has_it = vec![false; clients.len()];
        eventually(&format!("what node {at} publishes reaches all"), || {
            let answer = node.post("/v1/broadcast", &json!({"event": "again", "data": at}));
            if answer.status != 200 {
                expect_refused(&answer);
            }
            for (client, has_it) in clients.iter_mut().zip(&mut has_it) {
                *has_it |= client
                    .pending()
                    .iter()
                    .any(|got| got["event"] == "again" && got["data"] == at);
            }
            has_it.iter().all(|&has_it| has_it)
        });
    }
    cluster.await_ready();
    // Of each node more may be on its way that was published above.
    for node in &cluster.nodes {
        node.call("/v1/broadcast", &json!({"event": "from here on"}));
    }
    for client in &mut *clients {
        for _ in &cluster.nodes {
            while client.json()["event"] != "from here on" {}
        }
    }
    for node in &cluster.nodes {
        node.call("/v1/broadcast", &json!({"event": "to all"}));
        all_get(clients, "to all");
    }
    nothing_more(&cluster[0], clients);
}

#[test]
fn without_redis_at_the_start_a_node_says_so_and_serves_its_own() {
    let port = free_port().unwrap();
    let url = format!("redis://{}", SocketAddr::from(([127, 0, 0, 1], port)));
    // Events stored for users would be out of reach, and so those users.
    let node = Node::here(&Settings::new(&url).with("FANFARE_STORE_USER_EVENTS", "false"));
    assert_eq!(node.get("/healthz").status, 200);
    let reasons = node.reasons();
    assert!(reasons.to_lowercase().contains("redis"), "{reasons:?}");
    let mut client = node.user("u0");
    for (path, body) in calls() {
        let start = Instant::now();
        expect_refused(&node.post(path, &body));
        assert!(start.elapsed() < BOUND, "{path} took {:?}", start.elapsed());
        client.expect_nothing();
        let mut near = body.clone();
        near["scope"] = json!("node");
        if path != "/v1/send" {
            assert_eq!(node.call(path, &near)["matched"], 1);
            assert_eq!(event(&mut client)["event"], "e");
        }
    }
    let batch = node.call(
        "/v1/batch",
        &json!({"items": [{"call": "broadcast", "event": "e"}]}),
    );
    assert_eq!(batch["results"][0]["status"], 503, "{batch}");
    for message in [
        json!({"op": "broadcast", "event": "e"}),
        json!({"op": "publish", "users": ["u0"], "event": "e"}),
    ] {
        assert_eq!(
            client.ask(&message)["op"],
            "error",
            "nothing is said to be sent that is not"
        );
    }
    client.expect_nothing();
}

/// A node that is kept from the others is fit for what is its own, and says what is wrong.
fn expect_fit_alone(node: &Node) {
    let answer = node.get("/readyz?scope=node");
    let body = answer.json();
    assert_eq!(
        (answer.status, &body["ready"], &body["reasons"]),
        (200, &json!(true), &Value::Null),
        "{body}"
    );
    assert!(
        body["warnings"][0]
            .as_str()
            .unwrap()
            .to_lowercase()
            .contains("redis"),
        "{body}"
    );
}

#[test]
fn a_node_that_started_without_redis_joins_when_it_comes() {
    let redis = RedisServer::start().unwrap();
    let settings = Settings::new(&redis.url()).with("FANFARE_STORE_USER_EVENTS", "false");
    let mut cluster = Cluster {
        nodes: Vec::new(),
        settings,
        redis,
    };
    cluster.redis.kill().unwrap();
    cluster.nodes = (0..3).map(|_| Node::here(&cluster.settings)).collect();
    let mut clients = cluster.users();
    assert_eq!(cluster[0].get("/readyz").status, 503);
    expect_fit_alone(&cluster[0]);
    cluster.redis.restart().unwrap();
    expect_delivery(&cluster, &mut clients);
}

#[test]
fn redis_goes_and_comes_back() {
    let mut cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    cluster.redis.kill().unwrap();
    for node in &cluster.nodes {
        eventually("readiness fails", || !node.is_ready());
        assert!(
            node.reasons().to_lowercase().contains("redis"),
            "{}",
            node.reasons()
        );
        expect_fit_alone(node);
    }
    for (path, body) in calls() {
        expect_refused(&cluster[0].post(path, &body));
    }
    let near = json!({"channel": "lobby", "event": "near", "scope": "node"});
    assert_eq!(cluster[0].call("/v1/send", &near)["matched"], 1);
    all_get(&mut clients[..1], "near");
    clients.iter_mut().for_each(Client::expect_nothing);
    cluster.redis.restart().unwrap();
    expect_delivery(&cluster, &mut clients);
    cluster[1].call(
        "/v1/send",
        &json!({"channel": "lobby", "event": "to the lobby"}),
    );
    all_get(&mut clients, "to the lobby");
    cluster[2].call(
        "/v1/publish",
        &json!({"user": "u0", "event": "to one", "store": false}),
    );
    all_get(&mut clients[..1], "to one");
    nothing_more(&cluster[0], &mut clients);
}

#[test]
fn redis_stands_still_and_goes_on() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    cluster.redis.pause().unwrap();
    for (path, body) in calls() {
        let start = Instant::now();
        let answer = cluster[0].post(path, &body);
        assert!(
            start.elapsed() < BOUND,
            "{path} took {:?}: {answer:?}",
            start.elapsed()
        );
        match answer.status {
            200 => assert_ne!(answer.json()["missing_nodes"], json!([]), "{answer:?}"),
            _ => expect_refused(&answer),
        }
    }
    eventually("readiness fails", || !cluster[0].is_ready());
    cluster.redis.resume().unwrap();
    expect_delivery(&cluster, &mut clients);
}

#[test]
fn every_connection_to_redis_is_cut() {
    let cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    for _ in 0..3 {
        for kind in ["normal", "pubsub"] {
            assert!(
                cluster.redis.kill_clients(kind).unwrap() >= 3,
                "each node has one"
            );
        }
        expect_delivery(&cluster, &mut clients);
        cluster[1].call(
            "/v1/send",
            &json!({"channel": "lobby", "event": "to the lobby"}),
        );
        all_get(&mut clients, "to the lobby");
    }
}

#[test]
fn topics_taken_up_while_redis_was_away_are_heard_when_it_is_back() {
    let mut cluster = Cluster::start();
    let mut clients = cluster.users();
    cluster.redis.kill().unwrap();
    eventually("readiness fails", || !cluster[0].is_ready());
    // Whether it may join now or is told to try again, it is not deaf to it later.
    let (_, answer) = clients[0].ask_amid(&json!({"op": "join", "channel": "lobby"}));
    cluster.redis.restart().unwrap();
    cluster.await_ready();
    if answer["op"] == "error" {
        clients[0].ask_amid(&json!({"op": "join", "channel": "lobby"}));
    }
    publish_when_possible(
        &cluster[1],
        "/v1/send",
        &json!({"channel": "lobby", "event": "lobby"}),
    );
    all_get(&mut clients[..1], "lobby");
}

#[test]
fn a_channel_with_history_is_refused_while_redis_is_full_and_then_goes_on() {
    let cluster = Cluster::start();
    let mut members = cluster.members("room");
    let send = json!({"channel": "room", "event": "e"});
    assert_eq!(
        cluster[0].call("/v1/send", &send)["publications"][0]["offset"],
        1
    );
    all_get(&mut members, "e");
    cluster.redis.set("maxmemory-policy", "noeviction").unwrap();
    cluster.redis.set("maxmemory", "1").unwrap();
    for node in &cluster.nodes {
        let answer = node.post("/v1/send", &send);
        expect_refused(&answer);
        assert_eq!(answer.code(), "history_unavailable");
    }
    members.iter_mut().for_each(Client::expect_nothing);
    cluster.redis.set("maxmemory", "0").unwrap();
    eventually("it is taken again", || {
        cluster[1].post("/v1/send", &send).status == 200
    });
    for member in &mut members {
        assert_eq!(
            event(member)["offset"],
            2,
            "the refused ones have no number"
        );
    }
    nothing_more(&cluster[0], &mut members);
}

#[test]
fn what_is_kept_is_out_of_reach_while_redis_is_away() {
    let mut cluster = Cluster::start();
    let mut client = cluster[0].user("ann");
    cluster.redis.kill().unwrap();
    eventually("readiness fails", || !cluster[0].is_ready());
    let history = cluster[0].get("/v1/channels/room/history");
    assert_eq!(
        (history.status, history.code().as_str()),
        (503, "history_unavailable")
    );
    let send = cluster[0].post("/v1/send", &json!({"channel": "room", "event": "e"}));
    expect_refused(&send);
    let join = client.ask(&json!({"op": "join", "channel": "room"}));
    assert_eq!(
        (&join["op"], &join["code"]),
        (&json!("error"), &json!("history_unavailable")),
        "{join}"
    );
}

#[test]
fn a_history_that_survives_is_recovered_and_one_that_does_not_is_told() {
    for is_durable in [true, false] {
        let redis = if is_durable {
            RedisServer::start_durable()
        } else {
            RedisServer::start()
        };
        let mut cluster = Cluster {
            settings: Settings::default(),
            nodes: Vec::new(),
            redis: redis.unwrap(),
        };
        cluster.settings = Settings::new(&cluster.redis.url());
        cluster.nodes = (0..3).map(|_| Node::here(&cluster.settings)).collect();
        cluster.await_ready();
        let mut member = cluster[0].connect("");
        let joined = member.join("room");
        for n in 1..=3 {
            cluster[n % 3].call(
                "/v1/send",
                &json!({"channel": "room", "event": "e", "data": n}),
            );
        }
        (1..=3).for_each(|n| assert_eq!(event(&mut member)["offset"], n));
        cluster.redis.kill().unwrap();
        cluster.redis.restart().unwrap();
        cluster.await_ready();
        publish_when_possible(
            &cluster[1],
            "/v1/send",
            &json!({"channel": "room", "event": "e", "data": 4}),
        );
        let mut back = cluster[2].connect("");
        let since = json!({"epoch": joined["epoch"], "offset": 1});
        let ack = back.acked(&json!({"op": "join", "channel": "room", "since": since}));
        assert_eq!(ack["recovered"], is_durable, "{ack}");
        assert_ne!(
            ack["epoch"], joined["epoch"],
            "Redis might have lost what it accepted"
        );
        if is_durable {
            (2..=4).for_each(|n| assert_eq!(event(&mut back)["offset"], n));
            let told = member.json();
            assert_eq!(
                (&told["recovered"], &told["offset"]),
                (&json!(true), &json!(3)),
                "{told}"
            );
            assert_eq!(
                event(&mut member)["offset"],
                4,
                "who stayed has missed nothing either"
            );
        }
    }
}

/// Two nodes, of which the second has its Redis behind a proxy, and a client on each.
pub(crate) fn two_and_a_proxy() -> (Proxy, Cluster, Vec<Client>) {
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let settings = Settings::new(&redis.url());
    let far = settings.clone().with("FANFARE_REDIS", &proxy.url());
    let nodes = vec![Node::here(&settings), Node::here(&far)];
    let cluster = Cluster {
        nodes,
        settings,
        redis,
    };
    cluster.await_ready();
    let clients = cluster.members("lobby");
    (proxy, cluster, clients)
}

#[test]
fn a_peer_that_froze_is_noticed_although_every_connection_is_open() {
    let (proxy, cluster, mut clients) = two_and_a_proxy();
    proxy.freeze();
    eventually("readiness fails", || !cluster[1].is_ready());
    assert!(
        cluster[1].reasons().to_lowercase().contains("redis"),
        "{}",
        cluster[1].reasons()
    );
    assert!(cluster[0].is_ready(), "{}", cluster[0].reasons());
    proxy.thaw();
    expect_delivery(&cluster, &mut clients);
}

#[test]
fn connections_that_froze_are_replaced_by_new_ones() {
    let (proxy, cluster, mut clients) = two_and_a_proxy();
    proxy.freeze_open();
    // Nobody thaws them.
    eventually("they are given up", || {
        cluster[1].count("fanfare_bus_reconnects_total", "") > 0
    });
    expect_delivery(&cluster, &mut clients);
    cluster[0].call(
        "/v1/send",
        &json!({"channel": "lobby", "event": "to the lobby"}),
    );
    all_get(&mut clients, "to the lobby");
}

#[test]
fn a_subscriber_on_a_replica_that_was_detached_is_noticed() {
    let (old, new) = (RedisServer::start().unwrap(), RedisServer::start().unwrap());
    let proxy = Proxy::start(old.address()).unwrap();
    let settings = Settings::new(&proxy.url());
    let nodes = (0..2).map(|_| Node::here(&settings)).collect();
    let cluster = Cluster {
        nodes,
        settings,
        redis: old,
    };
    cluster.await_ready();
    let mut clients = cluster.members("lobby");
    // Another server takes over: whoever connects comes to it, and who is subscribed stays with the old one, where
    // everything arrives by replication.
    new.follow(cluster.redis.address()).unwrap();
    new.detach().unwrap();
    proxy.point_to(new.address());
    cluster.redis.follow(new.address()).unwrap();
    cluster.redis.kill_clients("normal").unwrap();
    expect_delivery(&cluster, &mut clients);
    // Then it is cut off. Its connections are as healthy as ever.
    cluster.redis.detach().unwrap();
    expect_delivery(&cluster, &mut clients);
}

#[test]
fn a_node_ends_in_time_while_redis_stands_still() {
    let mut cluster = Cluster::start();
    let mut clients = cluster.members("lobby");
    cluster.redis.pause().unwrap();
    let start = Instant::now();
    let leaving = cluster.nodes.pop().unwrap();
    let ending = std::thread::spawn(move || drop(leaving));
    let bye = clients[2].json();
    assert_eq!(
        (&bye["op"], &bye["code"]),
        (&json!("bye"), &json!(4200)),
        "{bye}"
    );
    assert_eq!(clients[2].closed(), 4200);
    ending.join().unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "it took {:?}",
        start.elapsed()
    );
    cluster.redis.resume().unwrap();
}

#[test]
fn connections_end_at_once_while_redis_stands_still() {
    let cluster = Cluster::start();
    let clients = cluster.members("lobby");
    cluster.redis.pause().unwrap();
    drop(clients);
    for node in &cluster.nodes {
        let open = || node.count("fanfare_connections", "") == 0;
        eventually("its sockets are closed", open);
    }
    cluster.redis.resume().unwrap();
    let gone = || cluster[0].look("/v1/channels/lobby")["connections"] == 0;
    eventually("and the cluster knows", || cluster[0].is_ready() && gone());
}
