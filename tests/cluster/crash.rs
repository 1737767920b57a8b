//! A node crashes, pauses, leaves or comes: the others forget its members, and tell so.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Node, Settings, all_get, next_notice},
    redis::Reply,
    support::{Client, eventually},
};

/// The members that a node lists; `None` while it counts others than it lists.
fn listed(node: &Node) -> Option<BTreeSet<String>> {
    let page = node.look("/v1/channels/lobby/members");
    let members = page["members"].as_array().unwrap();
    let ids = members
        .iter()
        .map(|member| member["id"].as_str().unwrap().to_owned());
    (page["count"] == members.len()).then(|| ids.collect())
}

fn expect_listed(nodes: &[Node], clients: &[&Client]) {
    let expected: BTreeSet<String> = clients.iter().map(|client| client.id.clone()).collect();
    for node in nodes {
        eventually("the members are those who are there", || {
            listed(node).as_ref() == Some(&expected)
        });
    }
}

/// Three processes, a member on each, of whom the first two are told who comes and goes, and know all.
fn three() -> (Cluster, Vec<Client>) {
    let cluster = Cluster::apart();
    let mut members = cluster.users();
    members[2].join("lobby");
    members[..2]
        .iter_mut()
        .for_each(|member| drop(member.watch("lobby")));
    expect_listed(&cluster.nodes, &[&members[0], &members[1], &members[2]]);
    for member in &mut members {
        member.pending();
    }
    (cluster, members)
}

/// The next notice that is of `kind`.
fn next_of(client: &mut Client, kind: &str) -> Value {
    let notice = next_notice(client);
    assert_eq!(
        (&notice["op"], &notice["kind"]),
        (&json!("member"), &json!(kind)),
        "{notice}"
    );
    notice
}

#[test]
fn members_of_a_node_that_was_killed_leave_and_it_is_told() {
    let (mut cluster, mut members) = three();
    let third = members[2].id.clone();
    cluster.nodes[2].kill();
    for member in &mut members[..2] {
        let left = next_of(member, "left");
        assert_eq!(
            (&left["member"]["id"], &left["user_connections"]),
            (&json!(third), &json!(0)),
            "{left}"
        );
    }
    expect_listed(&cluster.nodes[..2], &[&members[0], &members[1]]);
    for node in &cluster.nodes[..2] {
        // It may learn a moment later than its watchers that a lease is over.
        eventually("no node is missing", || {
            node.look("/v1/users/u2") == json!({"online": false, "connections": 0})
        });
        assert_eq!(node.get(&format!("/v1/connections/{third}")).status, 404);
    }
}

#[test]
fn many_members_of_a_node_that_was_killed_are_told_as_a_number() {
    let mut cluster = Cluster::apart();
    let mut watcher = cluster[0].user("watcher");
    let mut many: Vec<Client> = (0..30)
        .map(|n| cluster[2].user(&format!("one-{n}")))
        .collect();
    for client in &mut many {
        client.join("lobby");
    }
    let known = || cluster[0].look("/v1/channels/lobby/members")["count"] == 30;
    eventually("they are counted", known);
    watcher.watch("lobby");
    watcher.pending();
    cluster.nodes[2].kill();
    // What was told of their coming may still be on its way.
    let told = std::iter::repeat_with(|| watcher.json())
        .find(|told| told["left"].as_u64() > Some(0))
        .unwrap();
    assert_eq!(
        (&told["op"], &told["left"], &told["count"]),
        (&json!("members"), &json!(30), &json!(1)),
        "{told}"
    );
}

#[test]
fn a_user_with_connections_elsewhere_stays_online_when_a_node_crashes() {
    let (mut cluster, _members) = three();
    let _here = cluster[0].user("ann");
    let _there = cluster[2].user("ann");
    eventually("both are counted", || {
        cluster[1].look("/v1/users/ann")["connections"] == 2
    });
    cluster.nodes[2].kill();
    eventually("one is", || {
        cluster[1].look("/v1/users/ann")["connections"] == 1
    });
    assert_eq!(cluster[1].look("/v1/users/ann")["online"], true);
}

#[test]
fn members_of_a_paused_node_are_back_when_it_goes_on() {
    let (cluster, mut members) = three();
    cluster[2].pause();
    expect_listed(&cluster.nodes[..2], &[&members[0], &members[1]]);
    let third = members[2].id.clone();
    for member in &mut members[..2] {
        assert_eq!(next_of(member, "left")["member"]["id"], third);
    }
    cluster[2].resume();
    expect_listed(&cluster.nodes, &[&members[0], &members[1], &members[2]]);
    for member in &mut members[..2] {
        assert_eq!(next_of(member, "joined")["member"]["id"], third);
    }
    cluster.await_ready();
    for member in &mut members {
        member.pending();
    }
    for node in &cluster.nodes {
        node.call("/v1/send", &json!({"channel": "lobby", "event": "again"}));
        all_get(&mut members, "again");
    }
}

#[test]
fn a_node_that_leaves_takes_its_members_with_it_at_once() {
    let mut cluster = Cluster::start();
    let mut members = cluster.users();
    members[2].join("lobby");
    members[0].watch("lobby");
    cluster.await_receipts();
    members[0].pending();
    let third = members[2].id.clone();
    drop(cluster.nodes.pop());
    assert_eq!(members[2].json()["op"], "bye");
    assert_eq!(next_of(&mut members[0], "left")["member"]["id"], third);
    expect_listed(&cluster.nodes, &[&members[0]]);
    cluster.await_receipts();
}

#[test]
fn many_members_of_a_node_that_leaves_are_all_told_before_it_goes() {
    // Of more changes than one in a second, those after it are told together once the second is over.
    let gathered = |settings: Settings| settings.with("FANFARE_LIMIT_PRESENCE_NOTICES", "1");
    let mut cluster = Cluster::start_with(gathered, |_| {});
    let mut watcher = cluster[0].user("watcher");
    let mut many: Vec<Client> = (0..30)
        .map(|n| cluster[2].user(&format!("one-{n}")))
        .collect();
    for client in &mut many {
        client.join("lobby");
    }
    let known = || cluster[0].look("/v1/channels/lobby/members")["count"] == 30;
    eventually("they are counted", known);
    watcher.watch("lobby");
    watcher.pending();

    // The node tells what it has gathered; what comes now waits for the next time, a second later.
    let (first, rest) = many.split_at_mut(3);
    let mut there = 30;
    for client in first {
        client.ask_amid(&json!({"op": "leave", "channel": "lobby"}));
    }
    while there > 27 {
        there -= left(&watcher.json());
    }
    for client in rest {
        client.ask_amid(&json!({"op": "leave", "channel": "lobby"}));
    }
    // Nobody else can tell of them any more.
    eventually("none is listed", || {
        let listed = in_redis(&cluster);
        !many.iter().any(|client| listed.contains(&client.id))
    });
    let node = cluster.nodes.pop();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(node));
        // All answer the close at once, so that the node need not wait for anyone.
        for client in &mut many {
            scope.spawn(|| {
                let code = client.closed();
                client.frame(0x88, &code.to_be_bytes());
            });
        }
    });
    while there > 0 {
        there -= left(&watcher.json());
    }
}

/// How many members have left by what a watcher is told.
fn left(told: &Value) -> u64 {
    match told["op"].as_str() {
        Some("member") => u64::from(told["kind"] == "left"),
        // What was told of their coming may still be on its way.
        Some("members") => told["left"].as_u64().unwrap(),
        _ => 0,
    }
}

/// What nodes have listed in Redis of their members, in one text.
fn in_redis(cluster: &Cluster) -> String {
    let keys = cluster.redis.call(&["KEYS", "*node.members:*"]).unwrap();
    let fields = |key: &Reply| cluster.redis.call(&["HKEYS", &key.text()]).unwrap();
    let lists = keys.items().iter().map(fields);
    lists
        .flat_map(|fields| fields.items().iter().map(Reply::text).collect::<Vec<_>>())
        .collect()
}

#[test]
fn a_node_that_comes_later_knows_all_and_is_counted() {
    let mut cluster = Cluster::start();
    let mut members = cluster.members("lobby");
    let node = Node::here(&cluster.settings);
    eventually("it is ready", || node.is_ready());
    cluster.nodes.push(node);
    let mut late = cluster[3].user("late");
    late.join("lobby");
    members.push(late);
    expect_listed(&cluster.nodes, &members.iter().collect::<Vec<_>>());
    cluster.await_receipts();
    for node in &cluster.nodes {
        node.call("/v1/send", &json!({"channel": "lobby", "event": "e"}));
        all_get(&mut members, "e");
    }
}

/// The keys in Redis, each with the milliseconds that it lives; negative where it stays for ever. Without which primary
/// keeps a partition: that must outlive what is kept there.
fn lives(cluster: &Cluster) -> Vec<(String, i64)> {
    let keys = cluster.redis.call(&["KEYS", "*"]).unwrap();
    let left = |key: String| {
        let left = cluster
            .redis
            .call(&["PTTL", &key])
            .unwrap()
            .number()
            .unwrap();
        (key, left)
    };
    // -2: it has gone meanwhile.
    let names = keys
        .items()
        .iter()
        .map(Reply::text)
        .filter(|key| !key.ends_with(":primary"));
    names.map(left).filter(|(_, left)| *left != -2).collect()
}

#[test]
fn almost_nothing_that_nodes_write_to_redis_stays_for_ever() {
    let (mut cluster, members) = three();
    let kept = json!({"channel": "room", "event": "e"});
    let stored = json!({"users": ["away"], "event": "e"});
    for (path, body) in [("/v1/send", kept), ("/v1/publish", stored)] {
        let (key, body) = (("Idempotency-Key", path), body.to_string());
        assert_eq!(
            cluster[0]
                .request("POST", path, &[key], Some(body.as_bytes()))
                .status,
            200
        );
    }
    let ends = |lives: &[(String, i64)]| lives.iter().all(|(_, left)| *left > 0);
    eventually("all keys have an end", || ends(&lives(&cluster)));
    let all = lives(&cluster);
    for name in [
        "nodes.leases",
        "nodes.nodes",
        "node.members:",
        "room",
        "away",
        "once",
    ] {
        assert!(
            all.iter().any(|(key, _)| key.contains(name)),
            "{name}: {all:?}"
        );
    }
    let lasting: Vec<&String> = all
        .iter()
        .map(|(key, _)| key)
        .filter(|key| key.contains(".nodes") || key.contains("node.members:"))
        .collect();
    for key in &lasting {
        cluster.redis.call(&["PEXPIRE", key, "60000"]).unwrap();
    }
    eventually("they live on as long as a node does", || {
        lives(&cluster)
            .iter()
            .filter(|(key, _)| lasting.contains(&key))
            .all(|(_, left)| *left > 3_600_000)
    });
    cluster.nodes[2].kill();
    expect_listed(&cluster.nodes[..2], &[&members[0], &members[1]]);
    eventually("those of who reaps, too", || {
        lives(&cluster)
            .iter()
            .any(|(key, _)| key.contains("reaped"))
            && ends(&lives(&cluster))
    });
}
