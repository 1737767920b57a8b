//! What stands between a node and Redis, and lies.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
};

use super::{server::Server, *};

/// Hands connections on: those of subscribers to one port, all others to another. Its threads end with the test's process.
struct Proxy {
    port: u16,
    subscribers_to: Arc<AtomicU16>,
    /// While set, nothing is handed on from Redis to subscribers, and no end of a connection either.
    swallows: Arc<AtomicBool>,
}

impl Proxy {
    fn start(publishers_to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            subscribers_to: Arc::new(AtomicU16::new(publishers_to)),
            swallows: Arc::default(),
        };
        let (subscribers_to, swallows) = (proxy.subscribers_to.clone(), proxy.swallows.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (subscribers_to, swallows) = (subscribers_to.clone(), swallows.clone());
                std::thread::spawn(move || {
                    hand_on(client, publishers_to, &subscribers_to, swallows);
                });
            }
        });
        proxy
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

fn hand_on(mut client: TcpStream, to: u16, subscribers_to: &AtomicU16, swallows: Arc<AtomicBool>) {
    // The greeting comes in one piece, and names the connection.
    let mut first = [0; 4096];
    let Ok(length) = client.read(&mut first) else {
        return;
    };
    let is_subscriber = String::from_utf8_lossy(&first[..length]).contains(":subscriber");
    let port = if is_subscriber {
        subscribers_to.load(Ordering::Relaxed)
    } else {
        to
    };
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)) else {
        return;
    };
    let _ = server.write_all(&first[..length]);
    let (from_server, to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
    std::thread::spawn(move || pipe(from_server, to_client, is_subscriber.then_some(&*swallows)));
    pipe(client, server, None);
}

fn pipe(mut from: TcpStream, mut to: TcpStream, swallows: Option<&AtomicBool>) {
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = from.read(&mut buffer) {
        if length == 0 {
            break;
        }
        let swallowed = swallows.is_some_and(|swallows| swallows.load(Ordering::Relaxed));
        if !swallowed && to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[tokio::test]
async fn a_subscriber_behind_another_server_is_deaf() {
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let proxy = Proxy::start(server.port);
    proxy.subscribers_to.store(other.port, Ordering::Relaxed);
    let mut node = Node::start(&proxy.url());
    node.is_down("messages do not come back");
    proxy.subscribers_to.store(server.port, Ordering::Relaxed);
    node.is_up();
    node.joins(user("ann")).await;
    // The bus is up; now its next subscriber goes elsewhere.
    proxy.subscribers_to.store(other.port, Ordering::Relaxed);
    server.ask(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    node.is_down("messages do not come back");
    proxy.subscribers_to.store(server.port, Ordering::Relaxed);
    node.is_up();
    let bus = node.bus.clone();
    assert_eq!(bus.publish(&user("ann"), "x".into()).await, Ok(1));
    assert_eq!(node.message().await, (user("ann"), "x".into()));
    assert!(node.gaps() > 0);
}

#[tokio::test]
async fn a_connection_whose_other_side_is_lost_is_given_up() {
    let server = Server::start(&[]);
    let proxy = Proxy::start(server.port);
    let config = RedisConfig {
        url: proxy.url().parse().unwrap(),
        ..RedisConfig::default()
    };
    let limits = Limits {
        bus_canary_timeout: Duration::from_secs(2),
        ..patient()
    };
    let mut node = Node::with(&config, &limits);
    node.is_up();
    node.joins(user("ann")).await;
    proxy.swallows.store(true, Ordering::Relaxed);
    // Commands are answered as before; nothing but a canary or the silence of its own connection can tell.
    node.is_down("Redis at");
    proxy.swallows.store(false, Ordering::Relaxed);
    node.is_up();
    let bus = node.bus.clone();
    assert_eq!(bus.publish(&user("ann"), "x".into()).await, Ok(1));
    assert_eq!(node.message().await, (user("ann"), "x".into()));
    assert!(node.gaps() > 0);
}

#[tokio::test]
async fn a_flood_that_nobody_reads_ends_in_a_gap_and_not_in_memory() {
    let server = Server::start(&[]);
    let config = RedisConfig {
        url: server.url().parse().unwrap(),
        ..RedisConfig::default()
    };
    let limits = Limits {
        bus_inbox_messages: 100,
        ..patient()
    };
    let mut one = Node::with(&config, &limits);
    one.is_up();
    one.joins(user("ann")).await;
    let two = Node::up(&server.url());
    for n in 0..150 {
        assert_eq!(
            two.bus
                .publish(&user("ann"), Bytes::from(format!("{n}")))
                .await,
            Ok(1)
        );
    }
    eventually("all have come", || one.metrics.bus.received.get() == 150);
    for n in 0..100 {
        assert_eq!(
            one.message().await,
            (user("ann"), Bytes::from(format!("{n}")))
        );
    }
    assert_eq!((one.gaps(), one.metrics.bus.dropped.get()), (1, 50));
    assert!(one.bus.gaps().is_missed(&user("ann")) && !one.bus.gaps().is_missed(&user("bob")));
    assert_eq!(one.bus.health(), Health::Up);
    two.reaches(&mut one, &user("ann")).await;
}
