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
        reasons.contains("ACL LOG") && reasons.contains("docs/guides/redis.md")
    });
    redis.call(&["ACL", "SETUSER", "fan", "+time"]).unwrap();
    eventually("it is ready", || node.is_ready());
}

/// What a server of another kind or age lacks, taken from one that has it.
#[test]
fn a_server_that_lacks_a_command_is_refused_by_name_before_anything_is_sent_there() {
    let redis = RedisServer::start_with(&[
        "--rename-command",
        "XADD",
        "",
        "--rename-command",
        "ZADD",
        "",
    ])
    .unwrap();
    let node = Node::here(&Settings::new(&redis.url()));
    let lacks = format!(
        " at {} lacks ZADD, XADD; Fanfare needs Redis 7",
        redis.address()
    );
    eventually("it names what is lacking", || {
        node.reasons().contains(&lacks)
    });
    let keys = redis.call(&["DBSIZE"]).unwrap();
    assert_eq!(
        keys.number(),
        Some(0),
        "nothing is begun that cannot be ended"
    );
}

#[test]
fn a_server_without_scripts_is_refused_by_name() {
    for command in ["SCRIPT", "EVALSHA"] {
        let redis = RedisServer::start_with(&["--rename-command", command, ""]).unwrap();
        let node = Node::here(&Settings::new(&redis.url()));
        eventually("it names what is lacking", || {
            node.reasons().contains(&format!(" lacks {command}"))
        });
    }
}

/// Only a Redis Cluster needs sharded messages.
#[test]
fn a_server_by_itself_may_lack_what_only_a_cluster_needs() {
    let redis = RedisServer::start_with(&["--rename-command", "SPUBLISH", ""]).unwrap();
    let node = Node::here(&Settings::new(&redis.url()));
    eventually("it is ready", || node.is_ready());
}

#[test]
fn a_look_at_what_a_server_has_leaves_no_errors_in_its_statistics() {
    let redis = RedisServer::start().unwrap();
    let node = Node::here(&Settings::new(&redis.url()));
    eventually("it is ready", || node.is_ready());
    assert_eq!(redis.info("total_error_replies").unwrap(), "0");
}
