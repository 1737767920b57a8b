//! The access rules of Redis that docs/guides/redis.md and docs/guides/dispatching.md give are enough, and no command that
//! they lack is ever tried.

use std::net::SocketAddr;

use fanfare::Dispatcher;
use serde_json::{Value, json};

use crate::{
    cluster::{Node, Settings, all_get, cluster_url, event},
    mesa,
    redis::{RedisCluster, RedisServer, Reply, Resp},
    support::{Client, Received, eventually, signed, unix_now},
};

/// The words of the rule for `user`, as they stand in the reference.
fn rule(user: &str) -> Vec<String> {
    let reference = reference();
    let (_, rest) = reference
        .split_once(&format!("\nACL SETUSER {user} "))
        .expect("the rule is there");
    let (rule, _) = rest.split_once("\n```").unwrap();
    let words = rule.split_whitespace().map(str::to_owned);
    ["ACL", "SETUSER", user]
        .map(str::to_owned)
        .into_iter()
        .chain(words)
        .collect()
}

/// The words in backquotes of the reference's line that begins with `start`.
fn more(start: &str) -> Vec<String> {
    let reference = reference();
    let line = reference
        .lines()
        .find(|line| line.starts_with(start))
        .expect("the line is there");
    line.split('`')
        .nth(1)
        .unwrap()
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// The page on Redis, and that on publishing through it.
fn reference() -> String {
    let guides = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/guides");
    ["redis.md", "dispatching.md"]
        .map(|page| std::fs::read_to_string(format!("{guides}/{page}")).unwrap())
        .concat()
}

fn set(servers: &[RedisServer], words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    for server in servers {
        server.call(&words).unwrap();
        server.call(&["ACL", "LOG", "RESET"]).unwrap();
    }
}

fn expect_nothing_denied(servers: &[RedisServer]) {
    for server in servers {
        let log = server.call(&["ACL", "LOG"]).unwrap();
        let denied: Vec<Vec<String>> = log
            .items()
            .iter()
            .map(|entry| entry.items().iter().map(Reply::text).collect())
            .collect();
        assert!(denied.is_empty(), "{denied:#?}");
    }
}

fn once(node: &Node, body: &Value) -> Value {
    let answer = node.request(
        "POST",
        "/v1/broadcast",
        &[("Idempotency-Key", "k")],
        Some(body.to_string().as_bytes()),
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

/// Two nodes at `url` do all that nodes do with Redis, and one of them dies.
fn exercise(url: &str) {
    let settings = Settings::new(url).with("FANFARE_LIMIT_NODE_LEASE", "2s");
    let mut nodes = [Node::apart(&settings), Node::apart(&settings)];
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    let nobody = json!({"event": "nobody", "to": {"users": ["nobody"]}, "receipt": "cluster"});
    for node in &nodes {
        eventually("it knows the other", || {
            node.call("/v1/emit", &nobody)["nodes"] == 2
        });
    }
    let mut clients: Vec<Client> = ["u0", "u1"]
        .iter()
        .zip(&nodes)
        .map(|(user, node)| node.user(user))
        .collect();
    for client in &mut clients {
        client.join("room");
        client.watch("lobby");
    }
    for node in &nodes {
        eventually("both are listed", || {
            node.look("/v1/channels/lobby/members")["count"] == 2
        });
    }
    for client in &mut clients {
        client.pending();
    }
    // More than are kept, so that the oldest give way.
    for n in 0..1100 {
        nodes[n % 2].call(
            "/v1/send",
            &json!({"channel": "room", "event": "e", "data": n}),
        );
        for client in &mut clients {
            assert_eq!(event(client)["data"], n);
        }
    }
    assert_eq!(nodes[1].look("/v1/channels/room/history")["offset"], 1100);
    stored(&nodes);
    revoked(&nodes);
    let body = json!({"event": "once"});
    assert_eq!(once(&nodes[0], &body), once(&nodes[1], &body));
    let bad = json!({"event": "e", "filter": "nonsense("}).to_string();
    let refused = nodes[0].request(
        "POST",
        "/v1/emit",
        &[("Idempotency-Key", "b")],
        Some(bad.as_bytes()),
    );
    assert_eq!(refused.status, 400);
    all_get(&mut clients, "once");
    let moving = clients[1].id.clone();
    nodes[0].call(
        "/v1/join",
        &json!({"channel": "side", "to": {"connections": [moving]}}),
    );
    eventually("it is listed", || {
        nodes[0].look("/v1/channels/side/members")["count"] == 1
    });
    clients[0].pending();
    nodes[1].kill();
    eventually("the dead node's member has left", || {
        clients[0]
            .pending()
            .iter()
            .any(|notice| notice["kind"] == "left" && notice["member"]["id"] == moving)
    });
}

/// Tokens are revoked, and one revocation is over soon, and so is removed.
fn revoked(nodes: &[Node]) {
    let week = 7 * 24 * 3600;
    nodes[0].call("/v1/revoke", &json!({"user": "eve"}));
    let over = json!({"user": "old", "before": unix_now() - week - 4});
    nodes[1].call("/v1/revoke", &over);
    for node in nodes {
        let token = signed(&json!({"sub": "eve"}));
        assert_eq!(node.open(&format!("token={token}")).closed(), 4001);
        eventually("the other is forgotten", || {
            let token = signed(&json!({"sub": "old"}));
            let first = node.open(&format!("token={token}")).next();
            matches!(first, Received::Text(_))
        });
    }
}

/// Events of a user who is away come later, and once.
fn stored(nodes: &[Node]) {
    for n in 0..3 {
        nodes[0].call(
            "/v1/publish",
            &json!({"user": "ann", "event": "e", "data": n}),
        );
    }
    let mut ann = nodes[1].user("ann");
    (0..3).for_each(|n| assert_eq!(event(&mut ann)["data"], n));
    ann.pending();
    eventually("all is confirmed", || {
        nodes[0].user("ann").pending().is_empty()
    });
}

/// `redis://` or `redis+cluster://` as `user`.
fn url(user: &str, addresses: &[SocketAddr]) -> String {
    let scheme = if addresses.len() > 1 {
        "redis+cluster"
    } else {
        "redis"
    };
    let hosts = addresses
        .iter()
        .map(SocketAddr::to_string)
        .collect::<Vec<_>>()
        .join(",");
    format!("{scheme}://{user}:password@{hosts}")
}

#[test]
fn the_rule_for_nodes_is_enough_for_all_they_do() {
    let redis = [RedisServer::start().unwrap()];
    set(&redis, &rule("fanfare"));
    exercise(&url("fanfare", &[redis[0].address()]));
    expect_nothing_denied(&redis);
    let more = more("- for a database");
    set(&redis, &[rule("fanfare"), more].concat());
    let node = Node::here(&Settings::new(&format!(
        "{}/1",
        url("fanfare", &[redis[0].address()])
    )));
    eventually("it is ready", || node.is_ready());
    expect_nothing_denied(&redis);
}

#[test]
fn the_rule_for_nodes_is_enough_on_redis_cluster() {
    let redis = RedisCluster::start().unwrap();
    set(
        &redis.nodes,
        &[rule("fanfare"), more("- on Redis Cluster")].concat(),
    );
    exercise(&url("fanfare", &redis.addresses()));
    expect_nothing_denied(&redis.nodes);
}

/// All that nodes do for programs of Mesa.
#[test]
fn the_rule_for_nodes_is_enough_for_programs_of_mesa() {
    let redis = [RedisServer::start().unwrap()];
    let words = [rule("fanfare"), more("- for programs of [Mesa]")].concat();
    set(&redis, &words);
    let name = format!("fanfare-acl-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    let table = "[apps.default.protocols.mesa]\nsync = \"dispatcher\"\nportal = true\n";
    std::fs::write(&file, table).unwrap();
    let settings = Settings::new(&url("fanfare", &[redis[0].address()]))
        .with("FANFARE_CONFIG", file.to_str().unwrap())
        .with("FANFARE_LIMIT_NODE_LEASE", "2s");
    let mut nodes = [Node::apart(&settings), Node::apart(&settings)];
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    std::fs::remove_file(&file).unwrap();

    let mut other = Resp::connect(redis[0].address()).unwrap();
    let portal = r#"{"id":"p","ready":true}"#;
    other
        .call(&["PUBLISH", "available_portals_pool", portal])
        .unwrap();
    mesa::store(&mut other, "ann", &[json!(1)]);
    let mut ann = mesa::user(&nodes[0], "ann");
    assert_eq!(ann.json()["s"], 1);
    mesa::store(&mut other, "ann", &[json!(2)]);
    assert_eq!(ann.json()["d"], 2, "it looks again");
    mesa::publish(&mut other, &json!(3), &["ann", "bob"]);
    assert_eq!(ann.json()["d"], 3);
    let mut deaf = mesa::connect(&nodes[1]);
    deaf.answers_pings = false;
    mesa::store(&mut other, "bob", &[json!(4)]);
    mesa::authenticate(&mut deaf, "bob");
    assert_eq!(
        (&deaf.json()["op"], &deaf.json()["s"]),
        (&json!(22), &json!(1))
    );
    nodes[1].kill();
    eventually("the dead node's user is away", || {
        !mesa::is_connected(&mut other, "bob")
    });
    eventually("what had not been confirmed waits again", || {
        mesa::stored(&mut other, "bob").contains('4')
    });
    other.call(&["DEL", "connected_clients"]).unwrap();
    other
        .call(&["DEL", "fanfare:tests:default:all.mesa-nodes"])
        .unwrap();
    eventually("it is said again who is there", || {
        mesa::is_connected(&mut other, "ann")
    });
    drop(ann);
    eventually("she has gone", || !mesa::is_connected(&mut other, "ann"));
    mesa::publish(&mut other, &json!(5), &["ann"]);
    eventually("it is stored", || {
        mesa::stored(&mut other, "ann").contains('5')
    });
    expect_nothing_denied(&redis);
}

#[test]
fn the_rule_for_nodes_allows_nothing_that_harms_others() {
    let redis = [RedisServer::start().unwrap()];
    set(
        &redis,
        &[
            rule("fanfare"),
            more("- on Redis Cluster"),
            more("- for a database"),
        ]
        .concat(),
    );
    let mut fanfare = Resp::connect(redis[0].address()).unwrap();
    fanfare.call(&["AUTH", "fanfare", "password"]).unwrap();
    for words in [
        &["FLUSHALL"][..],
        &["KEYS", "*"],
        &["SCAN", "0"],
        &["CONFIG", "GET", "*"],
        &["CLIENT", "KILL", "TYPE", "pubsub"],
        &["SCRIPT", "FLUSH"],
        &["GET", "other"],
        &["PUBLISH", "other", "x"],
    ] {
        let refused = fanfare.call(words).unwrap_err().to_string();
        assert!(refused.starts_with("NOPERM"), "{words:?}: {refused}");
    }
}

#[test]
fn the_rules_for_programs_let_them_publish_and_nothing_else() {
    let redis = [RedisServer::start().unwrap()];
    let settings = Settings::new(&redis[0].url()).with("FANFARE_NAMESPACE", "default");
    let node = Node::here(&settings);
    eventually("it is ready", || node.is_ready());
    let mut client = [node.user("u0")];
    set(&redis, &rule("program"));
    let mut program = Resp::connect(redis[0].address()).unwrap();
    program.call(&["AUTH", "program", "password"]).unwrap();
    let message = json!({"event": "by hand", "recipients": ["u0"]}).to_string();
    let heard = program
        .call(&["PUBLISH", "fanfare:default:default:dispatch", &message])
        .unwrap();
    assert_eq!(heard.number(), Some(1));
    all_get(&mut client, "by hand");
    assert!(
        program
            .call(&["SUBSCRIBE", "fanfare:default:default:dispatch"])
            .is_err()
    );
    redis[0].call(&["ACL", "LOG", "RESET"]).unwrap();

    set(&redis, &rule("dispatcher"));
    dispatch(&url("dispatcher", &[redis[0].address()]));
    all_get(&mut client, "by a dispatcher");
    expect_nothing_denied(&redis);
    let mut dispatcher = Resp::connect(redis[0].address()).unwrap();
    dispatcher
        .call(&["AUTH", "dispatcher", "password"])
        .unwrap();
    for channel in [
        "fanfare:default:default:dispatch",
        "fanfare:default:default:all",
    ] {
        let refused = dispatcher
            .call(&["SUBSCRIBE", channel])
            .unwrap_err()
            .to_string();
        assert!(refused.starts_with("NOPERM"), "{refused}");
    }
}

#[test]
fn the_rule_for_dispatchers_is_enough_on_redis_cluster() {
    let redis = RedisCluster::start().unwrap();
    let node = Node::here(
        &Settings::new(&cluster_url(&redis.addresses())).with("FANFARE_NAMESPACE", "default"),
    );
    eventually("it is ready", || node.is_ready());
    let mut client = [node.user("u0")];
    set(&redis.nodes, &rule("dispatcher"));
    dispatch(&url("dispatcher", &redis.addresses()));
    all_get(&mut client, "by a dispatcher");
    expect_nothing_denied(&redis.nodes);
}

fn dispatch(url: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let dispatcher = loop {
            // It waits a second, in which a busy machine may not get far.
            if let Ok(dispatcher) = Dispatcher::connect(url).await {
                break dispatcher;
            }
        };
        assert_eq!(
            dispatcher
                .dispatch(&["u0"], &[], "by a dispatcher", ())
                .await
                .unwrap(),
            1
        );
    });
}
