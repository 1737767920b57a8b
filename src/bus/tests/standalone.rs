//! One server.

use std::sync::LazyLock;

use super::{server::Server, *};

#[tokio::test]
async fn nodes_hear_each_other() {
    let server = Server::start(&[]);
    works(&server.url()).await;
    works(&format!("{}/3", server.url())).await;
}

#[tokio::test]
async fn nothing_is_lost_while_interest_comes_and_goes() {
    let server = Server::start(&[]);
    let (mut one, two) = (Node::up(&server.url()), Node::up(&server.url()));
    let topics = users(500);
    let flapping = tokio::task::spawn_blocking({
        let (interest, topics) = (one.bus.interest().clone(), topics.clone());
        move || {
            for round in 0..20 {
                for topic in &topics {
                    interest.add(topic.clone());
                }
                // Not always in the same order.
                for topic in topics.iter().skip(round).chain(topics.iter().take(round)) {
                    interest.remove(topic);
                }
                // What nobody needs is let go at once here, as if a second had passed.
                interest.sweep(Instant::now() + limits::BUS_UNSUBSCRIBE_DELAY);
            }
        }
    });
    let mut expected = Vec::new();
    for topic in &topics {
        one.joins(topic.clone()).await;
        for n in 0..3 {
            let payload = Bytes::from(format!("{n}"));
            assert_eq!(
                two.bus.publish(topic, payload.clone()).await,
                Ok(1),
                "{topic:?}"
            );
            expected.push((topic.clone(), payload));
        }
    }
    flapping.await.unwrap();
    for message in expected {
        assert_eq!(one.message().await, message);
    }
    for topic in &topics {
        one.bus.interest().remove(topic);
    }
    eventually("nothing is subscribed but the canaries", || {
        one.metrics.bus.topics.get() == 0 && server.info("pubsub_channels") == "2"
    });
    assert_eq!(one.gaps(), 0);
}

#[tokio::test]
async fn publications_of_a_node_keep_their_order_under_load() {
    let server = Server::start(&[]);
    let (mut one, two) = (Node::up(&server.url()), Node::up(&server.url()));
    one.joins(user("ann")).await;
    let sent = (0..20_000).map(|n| two.bus.publish(&user("ann"), Bytes::from(format!("{n}"))));
    let sent = sent.collect::<Vec<_>>();
    for n in 0..20_000 {
        assert_eq!(
            one.message().await,
            (user("ann"), Bytes::from(format!("{n}")))
        );
    }
    for answer in sent {
        assert_eq!(answer.await, Ok(1));
    }
    assert_eq!(two.metrics.bus.count(crate::metrics::Sent::Refused), 0);
}

#[tokio::test]
async fn a_redis_that_comes_back_finds_everything_as_it_was() {
    let mut server = Server::start(&[]);
    let (mut one, two) = (Node::up(&server.url()), Node::up(&server.url()));
    let topics = users(2000);
    for topic in &topics {
        one.bus.interest().add(topic.clone());
    }
    for topic in &topics {
        one.bus.interest().live(topic, PATIENCE).await.unwrap();
    }
    server.kill();
    one.is_down("Redis at");
    two.is_down("Redis at");
    assert!(!one.bus.interest().is_live(&topics[0]));
    // What was written before the end of the connection was seen may have been read.
    while two.bus.publish(&topics[0], "lost".into()).await == Err(BusError::Unanswered) {}
    let refused = at_once(two.bus.publish(&topics[0], "lost".into())).await;
    assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    server.start_again();
    one.is_up();
    two.is_up();
    for topic in &topics {
        assert!(one.bus.interest().is_live(topic));
        assert_eq!(two.bus.publish(topic, "back".into()).await, Ok(1));
        assert_eq!(one.message().await, (topic.clone(), "back".into()));
    }
    assert!(one.gaps() > 0);
    assert!(one.metrics.bus.reconnects.get() > 0);
}

#[tokio::test]
async fn a_redis_that_is_not_there_at_first_is_found() {
    let port = server::free_port();
    let node = Node::start(&format!("redis://127.0.0.1:{port}"));
    node.is_down("cannot connect");
    let refused = node.bus.publish(&Topic::Nodes, "lost".into()).await;
    assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    let _server = Server::start_on(port, &[]);
    node.is_up();
    assert_eq!(node.bus.publish(&Topic::Nodes, "x".into()).await, Ok(0));
}

#[tokio::test]
async fn cut_connections_are_made_again() {
    let server = Server::start(&[]);
    let (mut one, two) = (Node::up(&server.url()), Node::up(&server.url()));
    one.joins(user("ann")).await;
    for kind in ["pubsub", "normal", "pubsub"] {
        let before = one.metrics.bus.reconnects.get();
        server.ask(&["CLIENT", "KILL", "TYPE", kind]);
        if kind == "pubsub" {
            eventually("the connection is made again", || {
                one.metrics.bus.reconnects.get() > before
            });
        }
        eventually("the subscription is back", || {
            one.bus.interest().is_live(&user("ann"))
        });
        two.reaches(&mut one, &user("ann")).await;
        one.is_up();
        two.is_up();
    }
    assert!(one.gaps() >= 2);
}

#[tokio::test]
async fn a_frozen_redis_is_noticed_and_found_again() {
    let server = Server::start(&[]);
    let (mut one, two) = (Node::hasty(&server.url()), Node::hasty(&server.url()));
    one.joins(user("ann")).await;
    server.freeze();
    let start = Instant::now();
    let result = two.bus.publish(&user("ann"), "frozen".into()).await;
    assert_eq!(result, Err(BusError::Unanswered));
    assert!(start.elapsed() < PATIENCE, "{:?}", start.elapsed());
    one.is_down("Redis at");
    eventually(
        "it is given up",
        || matches!(one.bus.health(), Health::Down { reason, .. } if reason.contains("does not answer")),
    );
    let refused = at_once(one.bus.publish(&user("ann"), "away".into())).await;
    assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    server.thaw();
    one.is_up();
    two.is_up();
    two.reaches(&mut one, &user("ann")).await;
    assert!(one.gaps() > 0);
}

#[tokio::test]
async fn a_replica_is_no_bus() {
    let (primary, other) = (Server::start(&[]), Server::start(&[]));
    let node = Node::up(&other.url());
    node.bus.interest().add(user("ann"));
    other.ask(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    node.is_down("is a replica");
    // Also where it is one from the start.
    Node::start(&other.url()).is_down("is a replica");
    let refused = node.bus.publish(&user("ann"), "x".into()).await;
    assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    other.ask(&["REPLICAOF", "NO", "ONE"]);
    node.is_up();
    assert!(node.bus.interest().is_live(&user("ann")));
}

#[tokio::test]
async fn a_script_that_redis_forgot_is_loaded_again() {
    static SCRIPT: LazyLock<Script> =
        LazyLock::new(|| Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])"));
    let server = Server::start(&[]);
    let node = Node::up(&server.url());
    let key = node.bus.key(&Topic::Nodes, "count");
    let run = || {
        node.bus
            .eval(&SCRIPT, &Topic::Nodes, vec![key.clone()], vec!["2".into()])
    };
    let both = (run(), run());
    assert_eq!(
        (both.0.await, both.1.await),
        (Ok(Value::Int(2)), Ok(Value::Int(4)))
    );
    server.ask(&["SCRIPT", "FLUSH"]);
    let both = (run(), run());
    // Both ran once; only their order is not promised then.
    let both = [both.0.await, both.1.await];
    assert!(
        both.contains(&Ok(Value::Int(6))) && both.contains(&Ok(Value::Int(8))),
        "{both:?}"
    );
    assert_eq!(run().await, Ok(Value::Int(10)));
}

#[tokio::test]
async fn a_refusal_says_why() {
    static FULL: LazyLock<Script> =
        LazyLock::new(|| Script::new("return redis.call('SET', KEYS[1], ARGV[1])"));
    let server = Server::start(&[]);
    let node = Node::up(&server.url());
    server.ask(&["CONFIG", "SET", "maxmemory", "1"]);
    let key = node.bus.key(&Topic::Nodes, "x");
    let refused = node
        .bus
        .eval(&FULL, &Topic::Nodes, vec![key], vec!["1".into()])
        .await;
    assert!(
        matches!(&refused, Err(BusError::Refused { code, .. }) if code == "OOM"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn an_address_that_does_not_fit_is_told() {
    let cluster_node = Server::start(&["--cluster-enabled", "yes"]);
    Node::start(&cluster_node.url()).is_down("write its address as redis+cluster://");
    let alone = Server::start(&[]);
    Node::start(&format!("redis+cluster://127.0.0.1:{}", alone.port))
        .is_down("write its address as one redis://");
    Node::start(&format!("redis+sentinel://127.0.0.1:{}/m", alone.port)).is_down("not a Sentinel");
    Node::start(&format!(
        "redis://127.0.0.1:{}",
        Server::sentinel(alone.port).port
    ))
    .is_down("Redis at");
}

#[test]
fn the_thread_ends() {
    let server = Server::start(&[]);
    let mut node = Node::up(&server.url());
    let sent = node.bus.publish(&Topic::Nodes, "last".into());
    node.bus.stop();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    // What was queued went out first.
    assert_eq!(runtime.block_on(sent), Ok(0));
    assert_eq!(runtime.block_on(node.inbox.next()), None);
    let refused = runtime.block_on(node.bus.publish(&Topic::Nodes, "late".into()));
    assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    assert_eq!(server.info("connected_clients"), "1");
}

#[tokio::test]
async fn a_write_to_a_server_that_has_become_a_replica_was_not_done() {
    let (server, other) = (Server::start(&[]), Server::start(&[]));
    let node = Node::up(&server.url());
    let set = || {
        let mut set = Cmd::new();
        set.arg("SET").arg(node.bus.key(&Topic::Nodes, "x")).arg(1);
        node.bus.command(&Topic::Nodes, set)
    };
    assert!(set().await.is_ok());
    server.ask(&["REPLICAOF", "127.0.0.1", &other.port.to_string()]);
    let refused = set().await;
    assert!(
        matches!(&refused, Err(BusError::Away { .. })),
        "{refused:?}"
    );
    node.is_down("");
    server.ask(&["REPLICAOF", "NO", "ONE"]);
    node.is_up();
    assert!(set().await.is_ok());
}
