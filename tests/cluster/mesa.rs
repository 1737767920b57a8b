//! Mesa's dispatchers, straight through Redis: what is stored for users who are away, while they come and go, over several nodes,
//! and when a node dies. The packages themselves are run by tests/clients/mesa.

use std::{collections::BTreeSet, thread};

use fanfare::config::{AppConfig, MesaConfig, MesaSync};
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings},
    redis::{Proxy, RedisServer, Resp},
    support::{Client, Received, SECRET, eventually, signed, token_key},
};

const UNDELIVERED: &str = "undelivered_messages";
const CONNECTED: &str = "connected_clients";

/// Three nodes that serve Mesa's clients.
fn start(sync: MesaSync) -> Cluster {
    start_with_lease(sync, "2s")
}

/// Three nodes of which one leads throughout, also on a busy machine: a node that is taken for gone has its messages stored again.
fn start_calm(sync: MesaSync) -> Cluster {
    start_with_lease(sync, "10s")
}

fn start_with_lease(sync: MesaSync, lease: &str) -> Cluster {
    Cluster::start_with(
        |settings| settings.with("FANFARE_LIMIT_NODE_LEASE", lease),
        |config| {
            let app = config.apps.get_mut("default").unwrap();
            app.protocols.mesa = Some(MesaConfig {
                sync,
                ..MesaConfig::default()
            });
        },
    )
}

/// A client of Mesa that has had its hello.
pub(crate) fn connect(node: &Node) -> Client {
    let mut client = Client::open(node.address(), "/mesa", &[]).expect("the handshake succeeds");
    assert_eq!(client.json()["op"], 10);
    client
}

pub(crate) fn authenticate(client: &mut Client, user: &str) {
    let token = signed(&json!({"sub": user}));
    client.send(&json!({"op": 2, "d": {"token": token, "shouldSync": true}}));
}

/// One that is authenticated as `user`.
pub(crate) fn user(node: &Node, user: &str) -> Client {
    let mut client = connect(node);
    authenticate(&mut client, user);
    let answer = client.json();
    assert_eq!(
        (&answer["op"], &answer["d"]["id"]),
        (&json!(22), &json!(user))
    );
    client
}

fn message(data: &Value) -> Value {
    json!({"op": 0, "d": data, "t": "T"})
}

/// Publishes as a dispatcher does.
pub(crate) fn publish(redis: &mut Resp, data: &Value, recipients: &[&str]) {
    let text = json!({"message": message(data), "recipients": recipients}).to_string();
    redis.call(&["PUBLISH", "ws", &text]).unwrap();
}

/// Stores as a dispatcher does that found the user away.
pub(crate) fn store(redis: &mut Resp, user: &str, all: &[Value]) {
    let list: Vec<Value> = all.iter().map(message).collect();
    let list = serde_json::to_string(&list).unwrap();
    redis.call(&["HSET", UNDELIVERED, user, &list]).unwrap();
}

pub(crate) fn is_connected(redis: &mut Resp, user: &str) -> bool {
    let found = redis.call(&["SISMEMBER", CONNECTED, user]).unwrap();
    found.number() == Some(1)
}

pub(crate) fn stored(redis: &mut Resp, user: &str) -> String {
    redis.call(&["HGET", UNDELIVERED, user]).unwrap().text()
}

fn number(text: &str) -> u64 {
    let message: Value = serde_json::from_str(text).unwrap();
    message["d"].as_u64().unwrap_or_else(|| panic!("{message}"))
}

#[test]
fn no_message_is_lost_while_its_user_comes_and_goes() {
    const MESSAGES: u64 = 2000;
    let cluster = start(MesaSync::Full);
    let mut got = BTreeSet::new();
    let mut rounds = 0;
    thread::scope(|scope| {
        let address = cluster.redis.address();
        scope.spawn(move || {
            let mut redis = Resp::connect(address).unwrap();
            for n in 0..MESSAGES {
                publish(&mut redis, &json!(n), &["ann"]);
            }
        });
        // Each time at another node, and gone again after some messages. What comes before the end has come.
        while got.len() < MESSAGES as usize {
            let mut client = user(&cluster[rounds % 3], "ann");
            for _ in 0..rounds % 4 {
                client.frame(0x89, b"all so far");
                while let Received::Text(text) = client.message() {
                    got.insert(number(&text));
                }
            }
            client.frame(0x88, &1000_u16.to_be_bytes());
            loop {
                match client.message() {
                    Received::Text(text) => drop(got.insert(number(&text))),
                    Received::Close(..) => break,
                    other => panic!("{other:?}"),
                }
            }
            let missing = (0..MESSAGES).find(|n| !got.contains(n));
            assert!(rounds < 20_000, "{missing:?} has not come; stored is {}", {
                stored(&mut Resp::connect(address).unwrap(), "ann")
            });
            rounds += 1;
        }
    });
    assert_eq!(got.len() as u64, MESSAGES);
    assert!(rounds > 10, "{rounds}");
}

#[test]
fn what_is_stored_for_those_who_are_away_counts_towards_what_an_app_may_keep() {
    let cluster = Cluster::start_with(
        |settings| settings,
        |config| {
            let app = config.apps.get_mut("default").unwrap();
            app.max_stored_bytes = Some(50_000);
            app.protocols.mesa = Some(MesaConfig {
                sync: MesaSync::Full,
                ..MesaConfig::default()
            });
        },
    );
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let long = json!("x".repeat(4_000));
    let refused = |node: &Node| node.count("fanfare_storage_refused_total", "");
    let mut users = 0;
    eventually("no more is stored", || {
        users += 1;
        publish(&mut redis, &long, &[&format!("user{users}")]);
        cluster.nodes.iter().map(refused).sum::<u64>() > 0
    });
    // Nothing else of the app is stored either, on any node.
    let send = |node: &Node| {
        let body = json!({"channel": "room", "event": "e"}).to_string();
        node.request("POST", "/v1/send", &[], Some(body.as_bytes()))
    };
    for node in &cluster.nodes {
        eventually("it is refused", || send(node).status == 503);
        assert_eq!(send(node).code(), "history_over_quota");
    }

    // As if all had come.
    redis.call(&["DEL", UNDELIVERED]).unwrap();
    for node in &cluster.nodes {
        eventually("there is room", || send(node).status == 200);
    }
    publish(&mut redis, &json!("short"), &["eve"]);
    eventually("it is stored", || {
        let of_eve = redis.call(&["HEXISTS", UNDELIVERED, "eve"]).unwrap();
        of_eve.number() == Some(1)
    });
}

#[test]
fn a_message_comes_once_to_who_stays() {
    let cluster = start_calm(MesaSync::Full);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let mut all: Vec<Client> = cluster.nodes.iter().map(|node| user(node, "ann")).collect();
    let mut native = cluster[1].user("bob");
    for n in 0..300 {
        publish(&mut redis, &json!(n), &["ann", "bob", "eve"]);
    }
    for client in &mut all {
        for n in 0..300 {
            assert_eq!(client.json()["d"], n);
        }
        client.expect_nothing();
    }
    for n in 0..300 {
        assert_eq!(native.json()["data"], n);
    }
    let list: Vec<Value> = serde_json::from_str(&stored(&mut redis, "eve")).unwrap();
    assert_eq!(list.len(), 300, "who is away has it stored");
    assert_eq!(stored(&mut redis, "ann"), "");
}

#[test]
fn what_was_stored_comes_first_then_what_came_meanwhile_then_the_rest() {
    let cluster = start_calm(MesaSync::Full);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    for round in 0..30_u64 {
        let name = format!("u{round}");
        store(&mut redis, &name, &[json!(0), json!(1), json!(2)]);
        let mut client = connect(&cluster[round as usize % 3]);
        authenticate(&mut client, &name);
        for n in 3..40 {
            publish(&mut redis, &json!(n), &[&name]);
        }
        assert_eq!(client.json()["op"], 22);
        let mut numbered = 0;
        for n in 0..40_u64 {
            let message = client.json();
            assert_eq!(message["d"], n, "{message}");
            if let Some(s) = message.get("s") {
                numbered += 1;
                assert_eq!(s, numbered, "{message}");
            }
        }
        assert!(numbered >= 3);
        client.expect_nothing();
    }
}

#[test]
fn what_its_client_has_not_confirmed_waits_again() {
    let cluster = start(MesaSync::Full);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    store(&mut redis, "ann", &[json!(1), json!(2)]);
    let before = stored(&mut redis, "ann");
    let mut deaf = connect(&cluster[0]);
    deaf.answers_pings = false;
    authenticate(&mut deaf, "ann");
    assert_eq!(deaf.json()["op"], 22);
    assert_eq!(
        (&deaf.json()["s"], &deaf.json()["s"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(stored(&mut redis, "ann"), "", "one client at a time has it");
    drop(deaf);
    eventually("it waits again, byte for byte", || {
        stored(&mut redis, "ann") == before
    });
    let mut client = user(&cluster[1], "ann");
    assert_eq!(
        (&client.json()["s"], &client.json()["s"]),
        (&json!(1), &json!(2))
    );
    client.expect_nothing();
    drop(client);
    let mut again = user(&cluster[2], "ann");
    again.expect_nothing();
}

#[test]
fn what_waits_again_comes_to_where_its_user_is_meanwhile() {
    let cluster = start(MesaSync::Full);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    store(&mut redis, "ann", &[json!(1), json!(2)]);
    let mut deaf = connect(&cluster[0]);
    deaf.answers_pings = false;
    authenticate(&mut deaf, "ann");
    assert_eq!(deaf.json()["op"], 22);
    let mut other = user(&cluster[1], "ann");
    other.expect_nothing();
    drop(deaf);
    assert_eq!(
        (&other.json()["d"], &other.json()["d"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(stored(&mut redis, "ann"), "");
}

#[test]
fn what_a_dispatcher_stores_for_who_has_just_come_is_delivered_once() {
    let cluster = start(MesaSync::Full);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    store(&mut redis, "ann", &[json!("old")]);
    let mut client = user(&cluster[0], "ann");
    assert_eq!(client.json()["d"], "old");
    // It had read the list before that was taken.
    store(&mut redis, "ann", &[json!("old"), json!("new")]);
    let late = client.json();
    assert_eq!((&late["d"], late.get("s")), (&json!("new"), None));
    client.expect_nothing();
    assert_eq!(stored(&mut redis, "ann"), "");
}

#[test]
fn with_a_dispatchers_sync_the_connected_are_those_of_all_nodes() {
    let cluster = start(MesaSync::Dispatcher);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let mut clients: Vec<Client> = cluster.nodes.iter().map(|node| user(node, "ann")).collect();
    clients.push(cluster[0].user("bob"));
    assert!(is_connected(&mut redis, "ann") && is_connected(&mut redis, "bob"));
    clients.pop();
    eventually("a native client has gone", || {
        !is_connected(&mut redis, "bob")
    });
    while clients.len() > 1 {
        clients.pop();
        publish(&mut redis, &json!("still"), &["ann"]);
        assert_eq!(clients[0].json()["d"], "still");
        assert!(is_connected(&mut redis, "ann"));
    }
    clients.pop();
    eventually("the last has gone", || !is_connected(&mut redis, "ann"));
    // A dispatcher had asked before.
    publish(&mut redis, &json!("on its way"), &["ann", "stranger"]);
    eventually("it is stored", || {
        stored(&mut redis, "ann").contains("on its way")
    });
    assert_eq!(
        stored(&mut redis, "stranger"),
        "",
        "nobody had found that one connected"
    );
}

#[test]
fn redis_learns_again_who_is_here() {
    let cluster = start(MesaSync::Dispatcher);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let mut client = user(&cluster[0], "ann");
    redis.call(&["FLUSHALL"]).unwrap();
    eventually("it knows", || is_connected(&mut redis, "ann"));
    publish(&mut redis, &json!(1), &["ann"]);
    assert_eq!(client.json()["d"], 1);
}

#[test]
fn users_of_a_node_that_dies_are_away_and_what_they_had_not_confirmed_waits() {
    let name = format!("fanfare-mesa-{}.toml", std::process::id());
    let file = std::env::temp_dir().join(name);
    std::fs::write(
        &file,
        "[apps.default.protocols.mesa]\nsync = \"dispatcher\"\n",
    )
    .unwrap();
    let mut cluster = Cluster::apart_set(|settings: Settings| {
        settings
            .with("FANFARE_CONFIG", file.to_str().unwrap())
            .with("FANFARE_LIMIT_NODE_LEASE", "2s")
    });
    std::fs::remove_file(&file).unwrap();
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    store(&mut redis, "ann", &[json!(1)]);
    let before = stored(&mut redis, "ann");
    let mut deaf = connect(&cluster[0]);
    deaf.answers_pings = false;
    authenticate(&mut deaf, "ann");
    assert_eq!(
        (&deaf.json()["op"], &deaf.json()["s"]),
        (&json!(22), &json!(1))
    );
    let both = [user(&cluster[0], "bob"), user(&cluster[1], "bob")];
    cluster.nodes[0].kill();
    eventually("the dead node's user is away", || {
        !is_connected(&mut redis, "ann")
    });
    eventually("what had not been confirmed waits again", || {
        stored(&mut redis, "ann") == before
    });
    assert!(is_connected(&mut redis, "bob"), "he has another connection");
    let [_, mut bob] = both;
    eventually("another node leads", || {
        publish(&mut redis, &json!("live"), &["bob"]);
        matches!(bob.next(), Received::Text(text) if text.contains("live"))
    });
    let mut ann = user(&cluster[2], "ann");
    assert_eq!(ann.json()["s"], 1);
}

/// Two nodes, by themselves, that serve Mesa's clients with this sync.
fn two_nodes(redis: &RedisServer, sync: &str) -> [Node; 2] {
    let name = format!(
        "fanfare-mesa-{}-{}.toml",
        std::process::id(),
        redis.address().port()
    );
    let file = std::env::temp_dir().join(name);
    let table = format!("[apps.default.protocols.mesa]\nsync = \"{sync}\"\n");
    std::fs::write(&file, table).unwrap();
    let settings = Settings::new(&format!("redis://{}", redis.address()))
        .with("FANFARE_CONFIG", file.to_str().unwrap())
        .with("FANFARE_LIMIT_NODE_LEASE", "2s");
    let nodes = [Node::apart(&settings), Node::apart(&settings)];
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    std::fs::remove_file(&file).unwrap();
    nodes
}

#[test]
fn users_who_are_away_are_left_to_dispatchers_while_no_node_is_there() {
    let server = RedisServer::start().unwrap();
    let mut redis = Resp::connect(server.address()).unwrap();
    redis.call(&["SADD", CONNECTED, "of another"]).unwrap();
    let [mut one, mut two] = two_nodes(&server, "full");
    drop(user(&one, "ann"));
    one.leave();
    assert!(is_connected(&mut redis, "ann"), "another node stores");
    two.leave();
    assert!(!is_connected(&mut redis, "ann"));
    assert!(is_connected(&mut redis, "of another"));

    // What a dispatcher has stored meanwhile is there when she comes.
    store(&mut redis, "ann", &[json!("meanwhile")]);
    let [mut one, mut two] = two_nodes(&server, "full");
    eventually("nodes store again", || is_connected(&mut redis, "ann"));
    assert_eq!(user(&two, "ann").json()["d"], "meanwhile");
    thread::scope(|scope| {
        scope.spawn(|| one.leave());
        scope.spawn(|| two.leave());
    });
    assert!(!is_connected(&mut redis, "ann"), "both left together");
}

#[test]
fn only_those_who_are_connected_stay_so_once_sync_is_no_longer_full() {
    let server = RedisServer::start().unwrap();
    let mut redis = Resp::connect(server.address()).unwrap();
    redis.call(&["SADD", CONNECTED, "of another"]).unwrap();
    let [mut one, mut two] = two_nodes(&server, "full");
    drop(user(&one, "ann"));
    drop(user(&two, "bob"));
    // Nobody is left who could take them out.
    one.kill();
    two.kill();
    assert!(is_connected(&mut redis, "ann") && is_connected(&mut redis, "bob"));

    let [_one, two] = two_nodes(&server, "dispatcher");
    let _bob = user(&two, "bob");
    eventually("she is away", || !is_connected(&mut redis, "ann"));
    eventually("nobody is known any more", || {
        let key = "fanfare:tests:default:all.mesa-known";
        redis.call(&["EXISTS", key]).unwrap().number() == Some(0)
    });
    assert!(is_connected(&mut redis, "bob") && is_connected(&mut redis, "of another"));
}

#[test]
fn what_went_to_a_node_that_was_dying_is_stored() {
    let mut cluster = Cluster::apart_set(|settings: Settings| {
        settings
            .with("FANFARE_PROTOCOL", "mesa")
            .with("FANFARE_LIMIT_NODE_LEASE", "2s")
    });
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let ann = user(&cluster[0], "ann");
    let mut both = [user(&cluster[0], "bob"), user(&cluster[1], "bob")];
    cluster.nodes[0].kill();
    drop(ann);
    for n in 0..50 {
        publish(&mut redis, &json!(n), &["ann", "bob"]);
    }
    for n in 0..50 {
        assert_eq!(both[1].json()["d"], n, "he has another connection");
    }
    eventually("all is stored", || stored(&mut redis, "ann").contains("49"));
    let mut ann = user(&cluster[2], "ann");
    for n in 0..50 {
        assert_eq!(ann.json()["d"], n);
    }
    both[1].expect_nothing();
    assert_eq!(stored(&mut redis, "bob"), "");
}

/// Has Redis know a node that has gone, and a message that went there for ann.
fn leave_behind(redis: &mut Resp, app: &str) {
    let key = |name: &str| format!("fanfare:tests:{app}:all.{name}");
    let gone = "0000008";
    let held = json!([["ann", [format!("{gone}:1")]]]).to_string();
    let list = json!([message(&json!(app))]).to_string();
    let sent = ["XADD", &key("mesa-sent"), "*", "held", &held, "list", &list];
    redis.call(&sent).unwrap();
    redis.call(&["SADD", &key("mesa-nodes"), gone]).unwrap();
}

#[test]
fn an_app_whose_messages_redis_refuses_holds_up_no_other() {
    let server = RedisServer::start().unwrap();
    let mut redis = Resp::connect(server.address()).unwrap();
    // What is stored of the first app is not what it should be.
    redis
        .call(&["SET", "undelivered_messages_one", "1"])
        .unwrap();
    for app in ["one", "two"] {
        leave_behind(&mut redis, app);
    }
    let settings = Settings::new(&server.url()).with("FANFARE_LIMIT_NODE_LEASE", "2s");
    let node = Node::here_with(&settings, |config| {
        for app in ["one", "two"] {
            let mut served = AppConfig {
                tokens: vec![token_key(SECRET)],
                ..AppConfig::default()
            };
            served.protocols.mesa = Some(MesaConfig {
                path: format!("/mesa-{app}"),
                namespace: Some(app.into()),
                ..MesaConfig::default()
            });
            config.apps.insert(app.to_owned(), served);
        }
    });
    eventually("it is ready", || node.is_ready());

    eventually("the other app's message is stored", || {
        let list = redis.call(&["HGET", "undelivered_messages_two", "ann"]);
        list.unwrap().text().contains("two")
    });
}

/// A node that reaches Redis through a proxy.
fn behind_a_proxy(redis: &RedisServer) -> (Node, Proxy) {
    let proxy = Proxy::start(redis.address()).unwrap();
    let settings = Settings::new(&proxy.url()).with("FANFARE_PROTOCOL", "mesa");
    let node = Node::here(&settings);
    eventually("the node is ready", || node.is_ready());
    (node, proxy)
}

/// Two nodes that reach Redis through a proxy each, which of them leads, and with it the other. A node that hears nothing notices
/// that late.
fn leader_and_follower(redis: &RedisServer) -> [(Node, Proxy); 2] {
    let start = || {
        let proxy = Proxy::start(redis.address()).unwrap();
        let settings = Settings::new(&proxy.url())
            .with("FANFARE_PROTOCOL", "mesa")
            .with("FANFARE_LIMIT_BUS_CANARY_TIMEOUT", "1m")
            .with("FANFARE_LIMIT_NODE_LEASE", "2s");
        let node = Node::apart(&settings);
        eventually("the node is ready", || node.is_ready());
        (node, proxy)
    };
    let mut nodes = [start(), start()];
    for (node, _) in &nodes {
        eventually("each knows the other", || {
            node.count("fanfare_peers", "") == 1
        });
    }
    eventually("one of them leads", || {
        let leads = nodes.each_ref().map(|(node, _)| leads(node));
        leads[0] != leads[1]
    });
    if leads(&nodes[1].0) {
        nodes.reverse();
    }
    nodes
}

fn leads(node: &Node) -> bool {
    node.count("fanfare_leader", "") == 1
}

/// As many messages as they are stored, numbered from 0.
fn first_messages(count: u32) -> Value {
    (0..count).map(|n| message(&json!(n))).collect()
}

/// What is stored for eve, who is away.
fn stored_for_eve(redis: &mut Resp) -> Value {
    serde_json::from_str(&stored(redis, "eve")).unwrap_or_default()
}

#[test]
fn a_node_that_is_late_to_hear_what_was_decided_does_not_decide_again() {
    let server = RedisServer::start().unwrap();
    let mut redis = Resp::connect(server.address()).unwrap();
    let [(mut first, _first_proxy), (next, proxy)] = leader_and_follower(&server);
    proxy.freeze_messages();
    for n in 0..20 {
        publish(&mut redis, &json!(n), &["eve"]);
    }
    eventually("all are stored", || {
        stored_for_eve(&mut redis) == first_messages(20)
    });

    first.kill();
    eventually("the other one leads", || leads(&next));
    // It hears the messages, and then that it was decided about them.
    proxy.thaw();
    publish(&mut redis, &json!(20), &["eve"]);
    eventually("the last is stored", || {
        stored(&mut redis, "eve").contains("20")
    });
    assert_eq!(stored_for_eve(&mut redis), first_messages(21));
}

#[test]
fn a_node_whose_decision_is_late_does_not_decide_after_the_next_one() {
    let server = RedisServer::start().unwrap();
    let mut redis = Resp::connect(server.address()).unwrap();
    let [(first, proxy), (next, _next_proxy)] = leader_and_follower(&server);
    // All scripts are known, and the node has taken the lead.
    publish(&mut redis, &json!(0), &["eve"]);
    eventually("it is stored", || stored(&mut redis, "eve").contains('0'));

    // It hears the next ones and decides about them, which does not come to Redis.
    proxy.freeze_scripts();
    for n in 1..20 {
        publish(&mut redis, &json!(n), &["eve"]);
    }
    eventually("the other one leads", || leads(&next));
    eventually("all are stored", || {
        stored_for_eve(&mut redis) == first_messages(20)
    });

    proxy.thaw();
    // What it says comes after what was late.
    eventually("it is ready again", || first.is_ready());
    publish(&mut redis, &json!(20), &["eve"]);
    eventually("the last is stored", || {
        stored(&mut redis, "eve").contains("20")
    });
    assert_eq!(stored_for_eve(&mut redis), first_messages(21));
}

/// What a look for ann alone ends with: what is stored, and then whom it is for.
const LOOK: &[u8] = b"undelivered_messages\r\n$3\r\nann\r\n";

/// A dispatcher stores something for ann, who is there, and the answer to the look that takes it is lost. Nothing is forwarded
/// then.
fn lose_a_look(redis: &RedisServer, proxy: &Proxy) {
    let mut late = Resp::connect(redis.address()).unwrap();
    proxy.freeze();
    store(&mut late, "ann", &[json!(1), json!(2)]);
    proxy.lose_answer(LOOK);
    proxy.thaw();
    // It looks at everyone again, if it has done that already.
    redis.kill_clients("pubsub").unwrap();
    eventually("an answer is lost", || proxy.lost() == 1);
}

/// Nothing is set aside any more.
fn nothing_aside(redis: &mut Resp) {
    eventually("nothing is set aside", || {
        let keys = redis.call(&["KEYS", "*mesa-aside"]).unwrap();
        keys.items().is_empty()
    });
}

#[test]
fn what_a_look_has_taken_is_delivered_once_though_its_answer_is_lost() {
    let redis = RedisServer::start().unwrap();
    let (node, proxy) = behind_a_proxy(&redis);
    let mut ann = user(&node, "ann");
    lose_a_look(&redis, &proxy);
    proxy.thaw();
    assert_eq!((&ann.json()["d"], &ann.json()["d"]), (&json!(1), &json!(2)));
    let mut direct = Resp::connect(redis.address()).unwrap();
    nothing_aside(&mut direct);
    ann.expect_nothing();
    assert_eq!(stored(&mut direct, "ann"), "");
}

#[test]
fn what_a_look_has_taken_waits_again_if_its_user_goes() {
    let redis = RedisServer::start().unwrap();
    let (node, proxy) = behind_a_proxy(&redis);
    let ann = user(&node, "ann");
    lose_a_look(&redis, &proxy);
    drop(ann);
    eventually("the node knows", || {
        node.count("fanfare_connections", "") == 0
    });
    proxy.thaw();
    let mut direct = Resp::connect(redis.address()).unwrap();
    nothing_aside(&mut direct);
    let mut ann = user(&node, "ann");
    assert_eq!((&ann.json()["d"], &ann.json()["d"]), (&json!(1), &json!(2)));
    ann.expect_nothing();
}

#[test]
fn what_a_look_has_taken_waits_again_if_its_node_dies() {
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let settings = |url: &str| {
        Settings::new(url)
            .with("FANFARE_PROTOCOL", "mesa")
            .with("FANFARE_LIMIT_NODE_LEASE", "2s")
    };
    let mut node = Node::apart(&settings(&proxy.url()));
    let other = Node::here(&settings(&redis.url()));
    for node in [&node, &other] {
        eventually("the node is ready", || node.is_ready());
    }
    let _ann = user(&node, "ann");
    lose_a_look(&redis, &proxy);
    node.kill();
    let mut direct = Resp::connect(redis.address()).unwrap();
    eventually("it waits again", || {
        stored(&mut direct, "ann").contains('2')
    });
    let mut ann = user(&other, "ann");
    assert_eq!((&ann.json()["d"], &ann.json()["d"]), (&json!(1), &json!(2)));
}

#[test]
fn lists_that_programs_write_with_white_space_are_kept() {
    let cluster = start(MesaSync::Full);
    let mut redis = Resp::connect(cluster.redis.address()).unwrap();
    let spaced = format!(" [ {} , {} ]\n", message(&json!(1)), message(&json!(2)));
    for (user, list) in [("ann", &*spaced), ("bob", "[ ]"), ("eve", "\n")] {
        redis.call(&["HSET", UNDELIVERED, user, list]).unwrap();
    }
    publish(&mut redis, &json!(3), &["ann", "bob", "eve"]);
    for user in ["ann", "bob", "eve"] {
        eventually("it is stored", || stored(&mut redis, user).contains('3'));
    }

    let mut ann = user(&cluster[0], "ann");
    let got = [ann.json(), ann.json(), ann.json()].map(|message| message["d"].clone());
    assert_eq!(got, [json!(1), json!(2), json!(3)]);
    for name in ["bob", "eve"] {
        assert_eq!(user(&cluster[1], name).json()["d"], 3, "{name}");
    }
}

/// Where ann is at her only node, as messages are addressed to her; nothing if she is away.
fn place(redis: &mut Resp) -> Option<String> {
    let keys = redis.call(&["KEYS", "*mesa-users.*"]).unwrap();
    let key = keys.items().first()?.text();
    let (_, node) = key.rsplit_once("mesa-users.").unwrap();
    let stay = redis.call(&["HGET", &key, "ann"]).unwrap().text();
    (!stay.is_empty()).then(|| format!("{node}:{stay}"))
}

/// Publishes a message for ann as it was decided about while she was at `place`.
fn settle(redis: &mut Resp, place: &str, data: u64) {
    let to = json!([["ann", [place]]]);
    let message = json!({"message": message(&json!(data)), "recipients": []});
    let text = format!("{{\"by\":\"another\"}}\n{to}\n{message}");
    let heard = redis.call(&["PUBLISH", "fanfare:tests:default:mesa", &text]);
    assert_eq!(heard.unwrap().number(), Some(1));
}

/// The node has taken ann's place out of Redis, and what it says to Redis from now on does not come there.
fn ann_goes(node: &Node, proxy: &Proxy, redis: &mut Resp) -> String {
    let ann = user(node, "ann");
    let place = place(redis).expect("she is there");
    drop(ann);
    eventually("she is away", || self::place(redis).is_none());
    proxy.freeze_scripts();
    place
}

#[test]
fn messages_for_who_has_just_gone_are_stored_in_order_once_redis_is_there_again() {
    let mut server = RedisServer::start_durable().unwrap();
    let (node, proxy) = behind_a_proxy(&server);
    let mut redis = Resp::connect(server.address()).unwrap();
    let place = ann_goes(&node, &proxy, &mut redis);
    for n in 0..50 {
        settle(&mut redis, &place, n);
    }
    // What was on its way is lost with the server.
    let skipped = node.count("fanfare_bus_skipped_total", "");
    server.kill().unwrap();
    proxy.thaw();
    server.restart().unwrap();

    let mut redis = Resp::connect(server.address()).unwrap();
    let all: Vec<Value> = (0..50).map(|n| message(&json!(n))).collect();
    eventually("all are stored, each once", || {
        let list = stored(&mut redis, "ann");
        !list.is_empty() && serde_json::from_str::<Vec<Value>>(&list).unwrap() == all
    });
    assert_eq!(node.count("fanfare_dispatch_lost_total", ""), 0);
    assert_eq!(node.count("fanfare_bus_skipped_total", ""), skipped);
    let mut ann = user(&node, "ann");
    for n in 0..50 {
        assert_eq!(ann.json()["d"], n);
    }
}

#[test]
fn a_message_for_who_has_just_gone_is_stored_once_though_the_answer_to_that_is_lost() {
    let server = RedisServer::start().unwrap();
    let (node, proxy) = behind_a_proxy(&server);
    let mut redis = Resp::connect(server.address()).unwrap();
    let place = ann_goes(&node, &proxy, &mut redis);
    proxy.thaw();
    proxy.lose_answer(place.as_bytes());
    settle(&mut redis, &place, 1);
    eventually("the answer is lost", || proxy.lost() == 1);
    settle(&mut redis, &place, 2);
    proxy.thaw();

    // The second is given back after the first.
    eventually("both are stored", || {
        stored(&mut redis, "ann").contains('2')
    });
    let list: Value = serde_json::from_str(&stored(&mut redis, "ann")).unwrap();
    assert_eq!(list, json!([message(&json!(1)), message(&json!(2))]));
}

#[test]
fn a_message_comes_to_who_has_come_back_before_it_could_be_stored() {
    let mut server = RedisServer::start_durable().unwrap();
    let (node, proxy) = behind_a_proxy(&server);
    let mut redis = Resp::connect(server.address()).unwrap();
    let place = ann_goes(&node, &proxy, &mut redis);
    settle(&mut redis, &place, 1);
    server.kill().unwrap();
    proxy.thaw();
    // She comes in while Redis is away.
    let mut ann = user(&node, "ann");
    server.restart().unwrap();
    assert_eq!(ann.json()["d"], 1);
    ann.expect_nothing();
    let mut redis = Resp::connect(server.address()).unwrap();
    eventually("nothing is stored", || stored(&mut redis, "ann").is_empty());
}

#[test]
fn what_was_stored_comes_late_if_the_answer_to_who_comes_is_lost() {
    let redis = RedisServer::start().unwrap();
    let (node, proxy) = behind_a_proxy(&redis);
    let mut direct = Resp::connect(redis.address()).unwrap();
    store(&mut direct, "ann", &[json!(1), json!(2)]);
    // Only that names the connected before what is stored.
    proxy.lose_answer(b"connected_clients\r\n$20\r\nundelivered_messages\r\n");
    let mut ann = connect(&node);
    authenticate(&mut ann, "ann");
    eventually("an answer is lost", || proxy.lost() == 1);
    proxy.thaw();
    assert_eq!(ann.json()["op"], 22);
    assert_eq!((&ann.json()["d"], &ann.json()["d"]), (&json!(1), &json!(2)));
    nothing_aside(&mut direct);
    ann.expect_nothing();
}

#[test]
fn a_node_that_is_cut_off_while_it_forgets_a_dead_one_leaves_nothing_to_begin_again_with() {
    let redis = RedisServer::start().unwrap();
    let settings = |url: &str| {
        Settings::new(url)
            .with("FANFARE_PROTOCOL", "mesa")
            .with("FANFARE_LIMIT_NODE_LEASE", "2s")
    };
    let proxy = Proxy::start(redis.address()).unwrap();
    let mut node = Node::apart(&settings(&redis.url()));
    let other = Node::here(&settings(&proxy.url()));
    for node in [&node, &other] {
        eventually("the node is ready", || node.is_ready());
    }
    let _ann = user(&node, "ann");
    let mut direct = Resp::connect(redis.address()).unwrap();
    let keys = direct.call(&["KEYS", "*mesa-nodes"]).unwrap();
    let nodes = keys.items()[0].text();
    let listed = direct.call(&["SMEMBERS", &nodes]).unwrap();
    let [dead] = listed.items() else {
        panic!("{listed:?}")
    };

    // What it has seen last is forgotten by this command. A node that is listed without that is stored for from the beginning.
    proxy.lose_answer(b"\r\nHDEL\r\n");
    node.kill();
    eventually("the answer is lost", || proxy.lost() == 1);
    let listed = direct.call(&["SISMEMBER", &nodes, &dead.text()]);
    assert_eq!(listed.unwrap().number(), Some(0));
}
