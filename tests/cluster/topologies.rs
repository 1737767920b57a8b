//! The same over Redis Cluster and under sentinels, and over a change of who is primary.

use std::process::Command;

use serde_json::json;

use crate::{
    cluster::{NAMESPACE, Node, Settings, all_get, cluster_url, event, nothing_more, sentinel_url},
    redis::{RedisCluster, Reply, Sentinels},
    support::{Client, eventually},
};

/// Channels enough that every shard of a Redis Cluster has some.
const CHANNELS: usize = 12;

/// Three nodes that are ready, and a client on each that is in every channel, of which half keep their events.
fn nodes_at(url: &str) -> (Vec<Node>, Vec<Client>) {
    let nodes: Vec<Node> = (0..3).map(|_| Node::here(&Settings::new(url))).collect();
    for node in &nodes {
        eventually("it is ready", || node.is_ready());
    }
    let mut clients: Vec<Client> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| node.user(&format!("u{at}")))
        .collect();
    for client in &mut clients {
        (0..CHANNELS).for_each(|n| drop(client.join(&channel(n))));
    }
    (nodes, clients)
}

fn channel(n: usize) -> String {
    format!("{}-{n}", if n.is_multiple_of(2) { "room" } else { "lobby" })
}

/// Expects that events of every node reach everyone, in every channel, by user and by broadcast.
fn expect_all_works(nodes: &[Node], clients: &mut [Client]) {
    for (by, node) in nodes.iter().enumerate() {
        for n in 0..CHANNELS {
            node.call(
                "/v1/send",
                &json!({"channel": channel(n), "event": "e", "data": [by, n]}),
            );
            for client in &mut *clients {
                let got = event(client);
                assert_eq!(
                    (&got["channel"], &got["data"]),
                    (&json!(channel(n)), &json!([by, n]))
                );
            }
        }
        for to in 0..clients.len() {
            let publish = json!({"user": format!("u{to}"), "event": "you", "store": false});
            node.call("/v1/publish", &publish);
            all_get(&mut clients[to..=to], "you");
        }
        node.call("/v1/broadcast", &json!({"event": "all"}));
        all_get(clients, "all");
    }
}

/// Has every node publish to every channel until what it publishes reaches all, and then expects that all works.
fn expect_recovery(nodes: &[Node], clients: &mut [Client]) {
    for (by, node) in nodes.iter().enumerate() {
        for n in 0..CHANNELS {
            let mut has_it = vec![false; clients.len()];
            eventually(
                &format!("what node {by} sends to {} reaches all", channel(n)),
                || {
                    let body = json!({"channel": channel(n), "event": "again", "data": by});
                    let status = node.post("/v1/send", &body).status;
                    assert!(status == 200 || status == 503, "{status}");
                    for (client, has_it) in clients.iter_mut().zip(&mut has_it) {
                        let mut got = client.pending().into_iter();
                        *has_it |= got.any(|got| got["channel"] == channel(n) && got["data"] == by);
                    }
                    has_it.iter().all(|&has_it| has_it)
                },
            );
        }
    }
    for node in nodes {
        eventually("it is ready", || node.is_ready());
    }
    for node in nodes {
        node.call("/v1/broadcast", &json!({"event": "from here on"}));
        for client in &mut *clients {
            while client.json()["event"] != "from here on" {}
        }
    }
    expect_all_works(nodes, clients);
}

#[test]
fn all_works_over_redis_cluster_and_after_a_primary_has_died() {
    let mut redis = RedisCluster::start().unwrap();
    let (nodes, mut clients) = nodes_at(&cluster_url(&redis.addresses()));
    expect_all_works(&nodes, &mut clients);
    let busiest = redis.busiest().unwrap();
    redis.fail_over(busiest).unwrap();
    expect_recovery(&nodes, &mut clients);
}

#[test]
fn all_works_over_redis_cluster_after_a_primary_has_handed_over() {
    let redis = RedisCluster::start().unwrap();
    let (nodes, mut clients) = nodes_at(&cluster_url(&redis.addresses()));
    let busiest = redis.busiest().unwrap();
    redis.hand_over(busiest).unwrap();
    expect_recovery(&nodes, &mut clients);
}

/// The primary of `redis` that serves each channel, by its place, and whether it also serves what all nodes share.
fn homes(redis: &RedisCluster) -> (Vec<usize>, usize) {
    let names: Vec<Vec<String>> = redis.nodes[..3]
        .iter()
        .map(|node| {
            let names = node.call(&["PUBSUB", "SHARDCHANNELS"]).unwrap();
            names.items().iter().map(Reply::text).collect()
        })
        .collect();
    let home = |end: &str| {
        let mut places = names.iter();
        let found = places.position(|names| names.iter().any(|name| name.ends_with(end)));
        found.unwrap_or_else(|| panic!("nobody serves {end}: {names:?}"))
    };
    let channels = (0..CHANNELS).map(|n| home(&format!("channel:{}", channel(n))));
    (channels.collect(), home("nodes"))
}

#[test]
fn what_other_primaries_serve_goes_on_while_one_is_away() {
    let redis = RedisCluster::start_with_timeout(60_000).unwrap();
    let (nodes, mut clients) = nodes_at(&cluster_url(&redis.addresses()));
    let (homes, shared) = homes(&redis);
    let away = (0..3)
        .find(|at| *at != shared && homes.contains(at))
        .unwrap();
    redis.nodes[away].pause().unwrap();
    let send = |node: &Node, n: usize| {
        let body = json!({"channel": channel(n), "event": "e", "data": n});
        node.post("/v1/send", &body).status
    };
    let lost = homes.iter().position(|home| *home == away).unwrap();
    for node in &nodes {
        eventually("what it serves is refused", || send(node, lost) == 503);
    }

    for node in &nodes {
        for n in (0..CHANNELS).filter(|n| homes[*n] != away) {
            assert_eq!(send(node, n), 200, "{} is served", channel(n));
            for client in &mut clients {
                let mut got = event(client);
                while got["channel"] == channel(lost) {
                    got = event(client);
                }
                assert_eq!(
                    (&got["channel"], &got["data"]),
                    (&json!(channel(n)), &json!(n))
                );
            }
        }
        let answer = node.get("/readyz");
        assert_eq!(answer.status, 200, "{answer:?}");
        let warnings = answer.json()["warnings"].to_string();
        assert!(warnings.contains("a part of Redis"), "{answer:?}");
    }
    let newcomer = nodes[0].user("newcomer");
    drop(newcomer);
    redis.nodes[away].resume().unwrap();
    for node in &nodes {
        eventually("all is served", || {
            (0..CHANNELS).all(|n| send(node, n) == 200)
        });
    }
}

#[test]
fn sharded_subscriptions_are_used_on_redis_cluster() {
    let redis = RedisCluster::start().unwrap();
    let (nodes, mut clients) = nodes_at(&cluster_url(&redis.addresses()));
    expect_all_works(&nodes, &mut clients);
    let sharded: usize = redis.nodes[..3]
        .iter()
        .map(|node| {
            node.call(&["PUBSUB", "SHARDCHANNELS"])
                .unwrap()
                .items()
                .len()
        })
        .sum();
    assert!(
        sharded > 0,
        "plain subscriptions would send everything to every server"
    );
}

#[test]
fn what_programs_publish_on_any_primary_of_redis_cluster_comes_to_all_once() {
    let redis = RedisCluster::start().unwrap();
    let (nodes, mut clients) = nodes_at(&cluster_url(&redis.addresses()));
    let message = |n: usize| {
        json!({"call": "send", "channel": channel(0), "event": "by a program", "data": n})
            .to_string()
    };
    let dispatch = format!("fanfare:{NAMESPACE}:default:dispatch");
    for (at, primary) in redis.nodes[..3].iter().enumerate() {
        let port = primary.address().port().to_string();
        let words = ["-c", "-p", &port, "PUBLISH", &dispatch, &message(at)];
        assert!(
            Command::new("redis-cli")
                .args(words)
                .output()
                .expect("redis-cli runs")
                .status
                .success()
        );
        for client in &mut clients {
            let got = event(client);
            // The channel keeps its events: one node has numbered it.
            assert_eq!(
                (&got["data"], &got["offset"]),
                (&json!(at), &json!(at + 1)),
                "{got}"
            );
        }
    }
    nothing_more(&nodes[0], &mut clients);
}

#[test]
fn all_works_under_sentinels_and_after_they_have_changed_the_primary() {
    let mut redis = Sentinels::start().unwrap();
    let (nodes, mut clients) = nodes_at(&sentinel_url(&redis.addresses()));
    expect_all_works(&nodes, &mut clients);
    redis.fail_over().unwrap();
    expect_recovery(&nodes, &mut clients);
}
