//! Redis answers, and refuses what this node has to write: readiness says so, and why.

use crate::{
    cluster::{Cluster, Node, Settings},
    redis::RedisServer,
    support::eventually,
};

/// Counts renewals of leases that Redis refused.
const REFUSED: &str = "fanfare_lease_renewals_refused_total";

#[test]
fn a_redis_that_refuses_writes_makes_nodes_unready_until_it_takes_them() {
    let cluster = Cluster::start();
    assert!(
        cluster
            .nodes
            .iter()
            .all(|node| node.count(REFUSED, "") == 0)
    );
    cluster.redis.set("min-replicas-to-write", "1").unwrap();
    for node in &cluster.nodes {
        eventually("it says why it is not ready", || {
            let reasons = node.reasons();
            reasons.contains("lease")
                && reasons.contains("NOREPLICAS")
                && reasons.contains("min-replicas-to-write")
        });
        assert!(node.count(REFUSED, "") > 0);
    }
    cluster.redis.set("min-replicas-to-write", "0").unwrap();
    cluster.await_ready();
}

#[test]
fn a_user_that_lacks_one_command_is_told_so() {
    let redis = RedisServer::start().unwrap();
    redis
        .call(&[
            "ACL", "SETUSER", "fan", "on", ">secret", "~*", "&*", "+@all", "-time",
        ])
        .unwrap();
    let address = redis.address();
    let node = Node::here(&Settings::new(&format!("redis://fan:secret@{address}")));
    eventually("it says why it is not ready", || {
        let reasons = node.reasons();
        reasons.contains("ACL LOG") && reasons.contains("docs/cluster.md")
    });
    redis.call(&["ACL", "SETUSER", "fan", "+time"]).unwrap();
    eventually("it is ready", || node.is_ready());
}
