//! Redis Cluster, with sharded channels.

use super::{server::Cluster, *};

#[tokio::test]
async fn a_failover_moves_its_partitions_only() {
    let mut cluster = Cluster::start();
    works(&cluster.url()).await;
    let (mut one, two) = (Node::up(&cluster.url()), Node::up(&cluster.url()));
    let topics = users(300);
    for topic in &topics {
        one.joins(topic.clone()).await;
    }
    let busy = cluster
        .nodes
        .iter()
        .filter(|node| node.info("role") == "master")
        .all(|node| {
            node.info("pubsubshard_channels")
                .parse::<u32>()
                .is_ok_and(|channels| channels > 20)
        });
    assert!(busy, "every primary has its share");

    let killed = cluster.primary();
    cluster.nodes[killed].kill();
    one.is_down("");
    one.is_up();
    two.is_up();
    for topic in &topics {
        assert!(one.bus.interest().is_live(topic));
        two.reaches(&mut one, topic).await;
    }
    assert!(one.gaps() > 0);

    // It comes back as a replica.
    cluster.nodes[killed].start_again();
    eventually("the killed node is a replica", || {
        cluster.nodes[killed].info("role") == "slave"
    });
    two.is_up();
    for topic in &topics {
        two.reaches(&mut one, topic).await;
    }
}

#[tokio::test]
async fn a_failover_without_a_lost_connection_is_noticed() {
    let cluster = Cluster::start();
    let (mut one, two) = (Node::up(&cluster.url()), Node::up(&cluster.url()));
    let topics = users(200);
    for topic in &topics {
        one.joins(topic.clone()).await;
    }
    let reconnects = one.metrics.bus.reconnects.get();
    let replica = cluster
        .nodes
        .iter()
        .find(|node| node.info("role") == "slave")
        .unwrap();
    replica.ask(&["CLUSTER", "FAILOVER"]);
    eventually("it is primary", || replica.info("role") == "master");
    eventually("the subscriber has moved", || {
        one.metrics.bus.reconnects.get() > reconnects
    });
    one.is_up();
    two.is_up();
    for topic in &topics {
        two.reaches(&mut one, topic).await;
    }
    assert!(one.gaps() > 0);
}

#[tokio::test]
async fn a_primary_that_freezes_and_wakes_as_a_replica_is_left() {
    let cluster = Cluster::start();
    let (mut one, two) = (Node::hasty(&cluster.url()), Node::hasty(&cluster.url()));
    let topics = users(200);
    for topic in &topics {
        one.joins(topic.clone()).await;
    }
    let frozen = &cluster.nodes[cluster.primary()];
    let before = frozen.info("connected_slaves");
    assert_eq!(before, "1");
    frozen.freeze();
    one.is_down("");
    one.is_up();
    two.is_up();
    for topic in &topics {
        two.reaches(&mut one, topic).await;
    }
    frozen.thaw();
    eventually("the thawed node is a replica", || {
        frozen.info("role") == "slave"
    });
    one.is_up();
    for topic in &topics {
        two.reaches(&mut one, topic).await;
    }
    assert!(one.gaps() > 0);
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_subscriptions_along() {
    let cluster = Cluster::start();
    let (mut one, two) = (Node::up(&cluster.url()), Node::up(&cluster.url()));
    let topic = user("ann");
    one.joins(topic.clone()).await;
    let slot = one
        .bus
        .cx
        .names
        .slot(one.bus.cx.names.partition(&topic))
        .to_string();
    let primaries = cluster
        .nodes
        .iter()
        .filter(|node| node.info("role") == "master")
        .collect::<Vec<_>>();
    let channel = String::from_utf8(one.bus.channel(&topic)).unwrap();
    let hears = |node: &server::Server| {
        node.ask(&["PUBSUB", "SHARDCHANNELS", &channel]) != Value::Array(Vec::new())
    };
    let to = primaries.iter().find(|node| !hears(node)).unwrap();
    let Value::BulkString(id) = to.ask(&["CLUSTER", "MYID"]) else {
        panic!()
    };
    let id = String::from_utf8(id).unwrap();
    for node in &primaries {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
    }
    eventually("the subscription has moved", || {
        hears(to) && one.bus.interest().is_live(&topic)
    });
    two.reaches(&mut one, &topic).await;
    one.is_up();
    assert!(one.gaps() > 0);
}

#[tokio::test]
async fn what_programs_publish_on_any_node_comes_once() {
    let mut cluster = Cluster::start();
    let mut one = Node::up(&cluster.url());
    let topic = Topic::Dispatch(APP);
    one.joins(topic.clone()).await;
    let channel = String::from_utf8(one.bus.channel(&topic)).unwrap();
    for (at, node) in cluster.nodes.iter().enumerate() {
        for n in 0..3 {
            node.ask(&["PUBLISH", &channel, &format!("{at} {n}")]);
        }
    }
    // Those of one come in order; those of several need not.
    let mut got = Vec::new();
    for _ in 0..cluster.nodes.len() * 3 {
        got.push(one.message().await);
    }
    let hears = |node: &server::Server| {
        node.ask(&["PUBSUB", "NUMSUB", &channel])
            == Value::Array(vec![
                Value::BulkString(channel.clone().into()),
                Value::Int(1),
            ])
    };
    let homes = (0..cluster.nodes.len())
        .filter(|at| hears(&cluster.nodes[*at]))
        .collect::<Vec<_>>();
    assert_eq!(homes.len(), 1, "one connection listens");
    // By the server that it listens to, so it comes behind all that was passed on before.
    cluster.nodes[homes[0]].ask(&["PUBLISH", &channel, "the end"]);
    assert_eq!(one.message().await, (topic.clone(), "the end".into()));
    for at in 0..cluster.nodes.len() {
        let of = got
            .iter()
            .filter(|(_, text)| text.starts_with(at.to_string().as_bytes()));
        let of = of.map(|(_, text)| text.clone()).collect::<Vec<_>>();
        assert_eq!(
            of,
            (0..3)
                .map(|n| Bytes::from(format!("{at} {n}")))
                .collect::<Vec<_>>()
        );
    }

    cluster.nodes[homes[0]].kill();
    one.is_down("");
    one.is_up();
    for (at, node) in cluster
        .nodes
        .iter()
        .enumerate()
        .filter(|(at, _)| *at != homes[0])
    {
        node.ask(&["PUBLISH", &channel, &format!("again {at}")]);
        assert_eq!(
            one.message().await,
            (topic.clone(), format!("again {at}").into())
        );
    }
}

#[tokio::test]
async fn servers_that_are_well_are_not_crowded_while_one_is_away() {
    let mut cluster = Cluster::start();
    let nodes = [Node::up(&cluster.url()), Node::up(&cluster.url())];
    for node in &cluster.nodes {
        node.ask(&["CONFIG", "SET", "cluster-replica-no-failover", "yes"]);
    }
    let killed = cluster.primary();
    cluster.nodes[killed].kill();
    for node in &nodes {
        node.is_down("");
    }
    let start = Instant::now();
    let count = |node: &server::Server| {
        node.info("total_connections_received")
            .parse::<u32>()
            .unwrap()
    };
    let others = (0..cluster.nodes.len())
        .filter(|at| *at != killed)
        .collect::<Vec<_>>();
    let before = others
        .iter()
        .map(|at| count(&cluster.nodes[*at]))
        .collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (at, before) in others.iter().zip(before) {
        let made = count(&cluster.nodes[*at]) - before;
        // A look of either node takes one connection to a server at most.
        let looks = start.elapsed().as_secs_f64() / limits::BUS_TOPOLOGY_TROUBLE.as_secs_f64();
        assert!(
            f64::from(made) <= looks.ceil() * 2.0 + 2.0,
            "{made} connections in {looks} looks"
        );
    }
}

#[tokio::test]
async fn what_is_about_a_key_that_moves_before_its_slot_is_refused_until_the_slot_has_moved() {
    static SET: std::sync::LazyLock<Script> =
        std::sync::LazyLock::new(|| Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])"));
    let cluster = Cluster::start();
    let one = Node::up(&cluster.url());
    let topic = user("ann");
    let slot = one.bus.cx.names.slot(one.bus.cx.names.partition(&topic));
    let primaries = cluster
        .nodes
        .iter()
        .filter(|node| node.info("role") == "master")
        .collect::<Vec<_>>();
    let line = one.bus.cx.routes.read()[usize::from(one.bus.cx.names.partition(&topic))]
        .clone()
        .unwrap();
    let (from, to): (Vec<_>, Vec<_>) = primaries
        .iter()
        .partition(|node: &&&server::Server| node.port == line.address.port);
    let id = |node: &server::Server| {
        let Value::BulkString(id) = node.ask(&["CLUSTER", "MYID"]) else {
            panic!()
        };
        String::from_utf8(id).unwrap()
    };
    let (slot, from_id, to_id) = (slot.to_string(), id(from[0]), id(to[0]));
    to[0].ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    from[0].ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    let key = one.bus.key(&topic, "count");
    let add = || {
        let keys = vec![key.clone()];
        one.bus.eval(&SET, &topic, keys, vec!["1".into()])
    };
    // The key is not there any more, or not yet: whoever serves the slot next is listened to when it has moved.
    for _ in 0..3 {
        let refused = add().await;
        assert!(matches!(refused, Err(BusError::Away { .. })), "{refused:?}");
    }
    for node in [to[0], from[0]] {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    let start = Instant::now();
    loop {
        match add().await {
            Ok(count) => break assert_eq!(count, Value::Int(1), "nothing was done before"),
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
