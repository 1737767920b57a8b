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
        .all(|node| node.info("pubsubshard_channels").parse::<u32>().is_ok_and(|channels| channels > 20));
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
    assert!(one.gaps > 0);

    // It comes back as a replica.
    cluster.nodes[killed].start_again();
    eventually("the killed node is a replica", || cluster.nodes[killed].info("role") == "slave");
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
    let replica = cluster.nodes.iter().find(|node| node.info("role") == "slave").unwrap();
    replica.ask(&["CLUSTER", "FAILOVER"]);
    eventually("it is primary", || replica.info("role") == "master");
    eventually("the subscriber has moved", || one.metrics.bus.reconnects.get() > reconnects);
    one.is_up();
    two.is_up();
    for topic in &topics {
        two.reaches(&mut one, topic).await;
    }
    assert!(one.gaps > 0);
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
    eventually("the thawed node is a replica", || frozen.info("role") == "slave");
    one.is_up();
    for topic in &topics {
        two.reaches(&mut one, topic).await;
    }
    assert!(one.gaps > 0);
}

#[tokio::test]
async fn a_slot_that_moves_takes_its_subscriptions_along() {
    let cluster = Cluster::start();
    let (mut one, two) = (Node::up(&cluster.url()), Node::up(&cluster.url()));
    let topic = user("ann");
    one.joins(topic.clone()).await;
    let slot = one.bus.cx.names.slot(one.bus.cx.names.partition(&topic)).to_string();
    let primaries = cluster.nodes.iter().filter(|node| node.info("role") == "master").collect::<Vec<_>>();
    let channel = String::from_utf8(one.bus.channel(&topic)).unwrap();
    let hears =
        |node: &server::Server| node.ask(&["PUBSUB", "SHARDCHANNELS", &channel]) != Value::Array(Vec::new());
    let to = primaries.iter().find(|node| !hears(node)).unwrap();
    let Value::BulkString(id) = to.ask(&["CLUSTER", "MYID"]) else { panic!() };
    let id = String::from_utf8(id).unwrap();
    for node in &primaries {
        node.ask(&["CLUSTER", "SETSLOT", &slot, "NODE", &id]);
    }
    eventually("the subscription has moved", || hears(to) && one.bus.interest().is_live(&topic));
    two.reaches(&mut one, &topic).await;
    one.is_up();
    assert!(one.gaps > 0);
}
