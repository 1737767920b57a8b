//! Redis stands still for longer than balancers need to notice: whoever is there stays, and newcomers are let in.

use std::{net::SocketAddr, thread};

use serde_json::json;

use super::{balancer::Balancer, came_and_went, client_address, connect, node_with, sources};
use crate::{
    redis::{Proxy, RedisServer},
    running::Served,
    support::{Answer, Client, KEY, Received, eventually, request},
};

/// Clients that are there all the time: enough for some on every node.
const STAYING: u8 = 9;

fn broadcast(to: SocketAddr, body: &serde_json::Value) -> Answer {
    let authorization = format!("Bearer {KEY}");
    let headers = [("Authorization", &*authorization)];
    request(
        to,
        "POST",
        "/v1/broadcast",
        &headers,
        Some(body.to_string().as_bytes()),
    )
}

fn is_ready(node: &Served) -> bool {
    request(node.address, "GET", "/readyz", &[], None).status == 200
}

/// A newcomer gets in, and what is for one node's clients works.
fn expect_served(balancer: &Balancer) {
    connect(balancer.address, came_and_went())
        .unwrap_or_else(|why| panic!("{why}; {}", balancer.log()));
    let near = broadcast(balancer.address, &json!({"event": "near", "scope": "node"}));
    assert_eq!(near.status, 200, "{near:?}; {}", balancer.log());
}

/// The same, again and again, until it `is_true` that something was noticed.
fn served_until(what: &str, balancer: &Balancer, mut is_true: impl FnMut() -> bool) {
    eventually(what, || {
        expect_served(balancer);
        is_true()
    });
}

/// Reads until `event`, past what newcomers' nodes told their own clients.
fn expect_event(client: &mut Client, event: &str) {
    loop {
        match client.message() {
            Received::Text(text) if text.contains(&format!("\"event\":\"{event}\"")) => return,
            Received::Text(text) if text.contains("\"event\":\"near\"") => {}
            other => panic!("no {event}: {other:?}"),
        }
    }
}

fn redis_away(start: impl FnOnce(&[SocketAddr]) -> Balancer, noticed: impl Fn(&str, bool) -> bool) {
    let redis = RedisServer::start().unwrap();
    let url = redis.url();
    let start_node = |name| node_with("127.0.0.1:0", name, &["--redis", &url]);
    let mut nodes: Vec<Served> = ["node-1", "node-2", "node-3"]
        .map(start_node)
        .into_iter()
        .collect();
    eventually("all nodes are ready", || nodes.iter().all(is_ready));
    let balancer = start(&nodes.iter().map(|node| node.address).collect::<Vec<_>>());
    let to = balancer.address;
    let mut clients: Vec<Client> = (0..STAYING)
        .map(|n| connect(to, client_address(n)).unwrap())
        .collect();
    expect_served(&balancer);

    redis.pause().unwrap();
    served_until("no node is ready", &balancer, || {
        !nodes.iter().any(is_ready)
    });
    served_until("the balancer knows", &balancer, || {
        noticed(&balancer.log(), false)
    });
    let far = broadcast(to, &json!({"event": "far"}));
    assert_eq!((far.status, &*far.code()), (503, "bus_down"), "{far:?}");
    assert!(far.header("retry-after").is_some());
    let body = json!({"event": "still", "scope": "node"});
    for node in &nodes {
        assert_eq!(broadcast(node.address, &body).status, 200);
    }
    for client in &mut clients {
        expect_event(client, "still");
    }

    // A node that leaves gets nobody sent that it would refuse.
    drop(clients);
    let leaving = nodes.remove(0);
    let leaving = thread::spawn(move || leaving.terminate());
    served_until("the node has left", &balancer, || leaving.is_finished());
    assert_eq!(leaving.join().unwrap().code, 0);
    expect_served(&balancer);

    let before = balancer.log().len();
    redis.resume().unwrap();
    served_until("the others are ready", &balancer, || {
        nodes.iter().all(is_ready)
    });
    served_until("the balancer knows", &balancer, || {
        noticed(&balancer.log()[before..], true)
    });
    let mut clients: Vec<Client> = (0..STAYING)
        .map(|n| connect(to, client_address(n)).unwrap())
        .collect();
    let again = broadcast(to, &json!({"event": "again", "receipt": "cluster"}));
    let answer = again.json();
    assert_eq!(
        (again.status, &answer["nodes"]),
        (200, &json!(2)),
        "{answer}"
    );
    for client in &mut clients {
        expect_event(client, "again");
    }
    assert!(!balancer.log().contains("token="), "a token was logged");
}

#[test]
fn haproxy_sends_nobody_to_a_node_that_is_cut_off() {
    let redis = RedisServer::start().unwrap();
    let proxy = Proxy::start(redis.address()).unwrap();
    let urls = [redis.url(), redis.url(), proxy.url()];
    let start_node = |n: usize| {
        node_with(
            "127.0.0.1:0",
            &format!("node-{n}"),
            &["--redis", &urls[n - 1]],
        )
    };
    let nodes = [1, 2, 3].map(start_node);
    eventually("all nodes are ready", || nodes.iter().all(is_ready));
    let balancer = Balancer::haproxy(&[nodes[0].address, nodes[1].address, nodes[2].address]);
    proxy.freeze();
    served_until("it is known to be cut off", &balancer, || {
        balancer.log().contains("Server nodes/node-3 is DOWN")
    });
    let clients = (0..STAYING).map(|n| connect(balancer.address, client_address(n)).unwrap());
    let clients: Vec<Client> = clients.collect();
    let held = [0, 1].map(|at| sources(nodes[at].address).len());
    assert!(held.iter().sum::<usize>() >= clients.len(), "{held:?}");
    let far = broadcast(balancer.address, &json!({"event": "far"}));
    assert_eq!(far.status, 200, "{far:?}");
    proxy.thaw();
    served_until("it is back", &balancer, || {
        balancer.log().contains("Server nodes/node-3 is UP")
    });
}

#[test]
fn haproxy_lets_clients_in_while_redis_is_away() {
    redis_away(Balancer::haproxy, |log, ready| {
        log.contains(if ready {
            " nodes/node-"
        } else {
            " nodes-alone/node-"
        })
    });
}

#[test]
fn nginx_lets_clients_in_while_redis_is_away() {
    // It asks nobody.
    redis_away(Balancer::nginx, |_, _| true);
}
