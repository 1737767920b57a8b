//! The Redis servers and the proxy that other tests rely on do what they say.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use crate::redis::*;

fn set(server: &RedisServer, value: &str) {
    server.call(&["SET", "key", value]).unwrap();
}

fn get(server: &RedisServer) -> String {
    server.call(&["GET", "key"]).unwrap().text()
}

#[test]
fn a_server_comes_back_on_its_port_empty_or_with_all_it_had() {
    for (server, kept) in [
        (RedisServer::start(), ""),
        (RedisServer::start_durable(), "value"),
    ] {
        let mut server = server.unwrap();
        set(&server, "value");
        let (address, id) = (server.address(), server.id());
        server.kill().unwrap();
        assert!(TcpStream::connect(address).is_err() && server.id().is_none());
        server.restart().unwrap();
        assert!(server.address() == address && server.id() != id);
        assert_eq!(get(&server), kept);
        server.stop().unwrap();
        assert!(TcpStream::connect(address).is_err());
    }
}

#[test]
fn a_server_is_gone_with_its_owner() {
    let server = RedisServer::start().unwrap();
    let address = server.address();
    drop(server);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_paused_server_keeps_connections_and_answers_when_it_goes_on() {
    let server = RedisServer::start().unwrap();
    let mut connection = Resp::connect(server.address()).unwrap();
    server.pause().unwrap();
    connection.send(&[b"PING"]).unwrap();
    assert!(matches!(connection.read(), Err(error) if error.kind() == ErrorKind::WouldBlock));
    server.resume().unwrap();
    assert_eq!(connection.read().unwrap().text(), "PONG");
}

#[test]
fn connections_are_killed_by_kind() {
    let server = RedisServer::start().unwrap();
    let mut plain = Resp::connect(server.address()).unwrap();
    plain.call(&["PING"]).unwrap();
    let mut subscribed = Resp::connect(server.address()).unwrap();
    subscribed.call(&["SUBSCRIBE", "topic"]).unwrap();
    assert_eq!(server.kill_clients("pubsub").unwrap(), 1);
    assert!(subscribed.read().is_err());
    assert_eq!(plain.call(&["PING"]).unwrap().text(), "PONG");
    assert!(server.kill_clients("normal").unwrap() >= 1);
    assert!(plain.call(&["PING"]).is_err());
}

#[test]
fn a_server_without_memory_refuses_what_it_would_have_to_keep() {
    let server = RedisServer::start().unwrap();
    server.set("maxmemory-policy", "noeviction").unwrap();
    server.set("maxmemory", "1").unwrap();
    let refused = server.call(&["SET", "key", "value"]).unwrap_err();
    assert!(refused.to_string().starts_with("OOM "), "{refused}");
    server.set("maxmemory", "0").unwrap();
    set(&server, "value");
}

#[test]
fn a_replica_that_is_detached_hears_nothing_on_connections_that_are_healthy() {
    let servers = Replicated::start().unwrap();
    let mut subscriber = Resp::connect(servers.replica.address()).unwrap();
    subscriber.call(&["SUBSCRIBE", "topic"]).unwrap();
    servers
        .primary
        .call(&["PUBLISH", "topic", "heard"])
        .unwrap();
    assert_eq!(subscriber.read().unwrap().items()[2].text(), "heard");
    servers.replica.detach().unwrap();
    servers
        .primary
        .call(&["PUBLISH", "topic", "unheard"])
        .unwrap();
    subscriber.send(&[b"PING"]).unwrap();
    assert_eq!(
        subscriber.read().unwrap().items()[0].text(),
        "pong",
        "nothing came before it"
    );
}

#[test]
fn a_cluster_serves_all_slots_and_a_replica_takes_over() {
    let mut cluster = RedisCluster::start().unwrap();
    assert_eq!(cluster.addresses().len(), 6);
    let served = |cluster: &RedisCluster, channel: &str| {
        let mut alive = cluster.nodes.iter().filter(|node| node.id().is_some());
        alive.any(|node| {
            node.is_primary().unwrap() && node.call(&["SPUBLISH", channel, "message"]).is_ok()
        })
    };
    for channel in ["a", "b", "c", "d", "e", "f"] {
        assert!(served(&cluster, channel), "{channel}");
    }
    let mut subscriber = Resp::connect(cluster.nodes[1].address()).unwrap();
    let is_here = |name: &String| subscriber_accepts(&cluster.nodes[1], name);
    let name = (0..1000).map(|n| n.to_string()).find(is_here).unwrap();
    subscriber.call(&["SSUBSCRIBE", &name]).unwrap();
    assert_eq!(cluster.busiest().unwrap(), 1);
    cluster.fail_over(1).unwrap();
    assert!(cluster.nodes[4].is_primary().unwrap());
    for channel in ["a", "b", "c", "d", "e", "f", &name] {
        assert!(served(&cluster, channel), "{channel}");
    }
    cluster.hand_over(0).unwrap();
    wait_until("the former primary follows", || cluster.nodes[0].follows()).unwrap();
}

fn subscriber_accepts(node: &RedisServer, name: &str) -> bool {
    node.call(&["SPUBLISH", name, "message"]).is_ok()
}

#[test]
fn sentinels_make_the_replica_the_primary() {
    let mut redis = Sentinels::start().unwrap();
    assert_eq!(
        redis.primary().unwrap(),
        redis.servers.primary.address().to_string()
    );
    set(&redis.servers.primary, "value");
    redis.fail_over().unwrap();
    assert_eq!(
        redis.primary().unwrap(),
        redis.servers.replica.address().to_string()
    );
    set(&redis.servers.replica, "other");
}

/// A connection through a proxy to a server that sends back what it gets.
fn echo() -> (Proxy, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap()).unwrap();
    thread::spawn(move || {
        for socket in listener.incoming() {
            let mut socket = socket.unwrap();
            thread::spawn(move || {
                let mut buffer = [0; 100];
                while let Ok(n @ 1..) = socket.read(&mut buffer) {
                    socket.write_all(&buffer[..n]).unwrap();
                }
            });
        }
    });
    let socket = connect(&proxy);
    (proxy, socket)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let socket = TcpStream::connect(proxy.address()).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    socket
}

fn comes_back(socket: &mut TcpStream, text: &[u8]) {
    let mut buffer = vec![0; text.len()];
    socket.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, text);
}

fn is_silent(socket: &mut TcpStream) {
    socket
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let silent = socket.read(&mut [0]).unwrap_err();
    assert_eq!(
        silent.kind(),
        ErrorKind::WouldBlock,
        "open, and nothing comes"
    );
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
}

#[test]
fn a_frozen_proxy_keeps_connections_open_and_forwards_nothing_until_it_thaws() {
    let (proxy, mut socket) = echo();
    socket.write_all(b"before").unwrap();
    comes_back(&mut socket, b"before");
    assert_eq!((proxy.connections(), proxy.received()), (1, 6));
    proxy.freeze();
    socket.write_all(b"frozen").unwrap();
    is_silent(&mut socket);
    let mut new = connect(&proxy);
    new.write_all(b"new").unwrap();
    is_silent(&mut new);
    proxy.thaw();
    comes_back(&mut socket, b"frozen");
    comes_back(&mut new, b"new");
}

#[test]
fn only_open_connections_may_freeze() {
    let (proxy, mut old) = echo();
    old.write_all(b"before").unwrap();
    comes_back(&mut old, b"before");
    proxy.freeze_open();
    old.write_all(b"frozen").unwrap();
    let mut new = connect(&proxy);
    new.write_all(b"new").unwrap();
    comes_back(&mut new, b"new");
    is_silent(&mut old);
}

#[test]
fn who_comes_later_is_connected_to_where_the_proxy_points() {
    let (one, other) = (RedisServer::start().unwrap(), RedisServer::start().unwrap());
    set(&one, "one");
    set(&other, "other");
    let proxy = Proxy::start(one.address()).unwrap();
    let mut first = Resp::connect(proxy.address()).unwrap();
    assert_eq!(first.call(&["GET", "key"]).unwrap().text(), "one");
    proxy.point_to(other.address());
    let mut second = Resp::connect(proxy.address()).unwrap();
    assert_eq!(second.call(&["GET", "key"]).unwrap().text(), "other");
    assert_eq!(
        first.call(&["GET", "key"]).unwrap().text(),
        "one",
        "who was there stays"
    );
    drop(proxy);
    assert!(first.call(&["GET", "key"]).is_err() && second.call(&["GET", "key"]).is_err());
}
