//! Who is there: each node renews a lease in Redis, by Redis' clock, and learns the others' by the same step.

use std::{
    sync::{Arc, LazyLock, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::{Cluster, Node, order::Order, roster::Gone};
use crate::{
    broker::{BusError, Script, Topic},
    id::{AppId, NodeId},
    limits::ROSTER_OUTLIVES,
};

static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

/// Gives the lease up, and leaves word of it for an hour. Another node takes away what is left of this one's members, as if it had
/// crashed.
static GIVE_UP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
         local time = redis.call('TIME')
         redis.call('HSET', KEYS[7], ARGV[2], time[1] * 1000)
         redis.call('PEXPIRE', KEYS[7], 3600000)
         return redis.call('ZREM', KEYS[1], ARGV[1])",
    )
});

/// Forgets a node that was reaped.
static REAPED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('HSET', KEYS[6], ARGV[1], 1)
         redis.call('PEXPIRE', KEYS[6], 3600000)
         redis.call('HDEL', KEYS[4], ARGV[1])
         return redis.call('SREM', KEYS[3], ARGV[1])",
    )
});

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) name: Arc<str>,
}

/// The other nodes that hold leases, by their ids.
#[derive(Debug, Default)]
pub(super) struct Peers {
    others: Mutex<Vec<Peer>>,
    /// Until when this node acts for all of them, if it does.
    leads: Mutex<Option<Instant>>,
    /// Those with the name of this one: since when, until it was told.
    namesakes: Mutex<AHashMap<NodeId, Option<Instant>>>,
}

impl Peers {
    pub(super) fn all(&self) -> Vec<Peer> {
        self.others.lock().clone()
    }

    /// Whether this node alone acts for all now.
    pub(super) fn leads(&self) -> bool {
        self.leads
            .lock()
            .is_some_and(|until| Instant::now() < until)
    }

    /// What people call the node `id`.
    pub(super) fn names(&self) -> Vec<String> {
        self.others
            .lock()
            .iter()
            .map(|peer| peer.name.to_string())
            .collect()
    }
}

impl Node {
    /// Renews this node's lease, and learns who else is there, until the runtime ends.
    pub(super) async fn keep_lease(self: &Arc<Self>, cluster: &Cluster) {
        let limits = &self.config.limits;
        let mut ticks = tokio::time::interval(limits.node_lease / 5);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut again = "0";
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = cluster.renew.notified() => {}
            }
            if cluster.has_left.load(SeqCst) {
                return;
            }
            let began = Instant::now();
            let args = vec![
                self.lease_name(),
                millis(limits.node_lease),
                again.into(),
                millis(ROSTER_OUTLIVES),
            ];
            let renewed = cluster.bus.eval(&RENEW, &Topic::Nodes, keys(cluster), args);
            let (renewed, ()) = tokio::join!(renewed, self.renew_list(cluster));
            match renewed {
                Ok(leases) => {
                    again = "1";
                    cluster.renewal.succeeded(began);
                    self.note_peers(cluster, &leases, began);
                    if !cluster.belongs.load(SeqCst) {
                        self.greet(cluster).await;
                    }
                }
                Err(error) => cluster.renewal.failed(&error, &self.metrics),
            }
        }
    }

    /// Tells the others of this node, so that they need not find out.
    async fn greet(&self, cluster: &Cluster) {
        let told = self.tell_nodes(cluster, AppId(0), &Order::Hello).await;
        cluster.belongs.store(told.is_ok(), SeqCst);
    }

    /// Gives the lease up, so that the others need not wait for its end.
    pub(crate) async fn depart(&self) {
        let Some(cluster) = &self.cluster else { return };
        cluster.has_left.store(true, SeqCst);
        *cluster.peers.leads.lock() = None;
        let args = vec![self.lease_name(), self.id().to_string().into()];
        let given = cluster
            .bus
            .eval(&GIVE_UP, &Topic::Nodes, keys(cluster), args)
            .await;
        if let Err(error) = given {
            tracing::debug!(%error, "lease not given up; it ends by itself");
        }
    }

    /// Notes that nothing is left of a node that has gone without a word.
    pub(super) async fn reaped(&self, cluster: &Cluster, dead: NodeId) -> Result<(), BusError> {
        let args = vec![dead.to_string().into()];
        cluster
            .bus
            .eval(&REAPED, &Topic::Nodes, keys(cluster), args)
            .await
            .map(|_| ())
    }

    fn lease_name(&self) -> Bytes {
        format!("{} {}", self.id(), self.name).into()
    }

    fn note_peers(self: &Arc<Self>, cluster: &Cluster, leases: &redis::Value, began: Instant) {
        let leases =
            redis::from_redis_value_ref::<(String, Vec<String>, Vec<String>, bool, Vec<String>)>(
                leases,
            );
        let Ok((leader, leases, dead, lapsed, left)) = leases else {
            tracing::error!(
                "the nodes' leases in Redis cannot be read; does another program use their names?"
            );
            return;
        };
        if lapsed {
            // Its members may have been told to have left.
            cluster.relist();
            self.announce_members();
        }

        let leads = leader.as_bytes() == self.lease_name();
        *cluster.peers.leads.lock() = (leads && !cluster.has_left.load(SeqCst))
            .then(|| began + self.config.limits.node_lease);
        let mut peers: Vec<Peer> = leases.iter().filter_map(|lease| read(lease)).collect();
        peers.retain(|peer| peer.id != self.id());
        peers.sort_by_key(|peer| peer.id.0);
        let was = std::mem::replace(&mut *cluster.peers.others.lock(), peers.clone());

        // By id, each with the time at which it left.
        let left: AHashSet<&str> = left.iter().step_by(2).map(String::as_str).collect();
        for id in &dead {
            let Ok(node) = id.parse::<NodeId>() else {
                continue;
            };
            let known = was.iter().find(|peer| peer.id == node);
            let gone = Gone {
                id: node,
                name: known.map_or_else(|| id.as_str().into(), |peer| peer.name.clone()),
                is_planned: left.contains(id.as_str()),
            };
            tokio::spawn(self.clone().reap(gone));
        }

        for peer in peers.iter().filter(|peer| !was.contains(peer)) {
            tracing::info!(node = %peer.name, "another node is there");
            self.tell_rules(cluster, peer.id);
        }
        for peer in was.iter().filter(|peer| !peers.contains(peer)) {
            if left.contains(&*peer.id.to_string()) {
                tracing::info!(node = %peer.name, "a node has left");
            } else {
                tracing::warn!(node = %peer.name, "a node has gone, or its lease is over");
            }
        }
        self.note_namesakes(cluster, &peers);
        self.metrics.peers.set(peers.len() as i64);
    }

    /// Warns of nodes with the name of this one. One that was here before this one was started, and ended without a word, is there
    /// until its lease ends.
    fn note_namesakes(&self, cluster: &Cluster, peers: &[Peer]) {
        let mut namesakes = cluster.peers.namesakes.lock();
        namesakes.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        let mut is_news = false;
        for peer in peers.iter().filter(|peer| *peer.name == *self.name) {
            let since = namesakes
                .entry(peer.id)
                .or_insert_with(|| Some(Instant::now()));
            let lease = self.config.limits.node_lease;
            if since.is_some_and(|since| since.elapsed() > lease) {
                *since = None;
                is_news = true;
            }
        }
        drop(namesakes);
        if is_news {
            tracing::warn!(
                node = %self.name,
                "another node has the same name, so nobody can tell which of them is missing from an answer; set node_name to another one for each"
            );
        }
    }
}

fn read(lease: &str) -> Option<Peer> {
    let (id, name) = lease.split_once(' ')?;
    Some(Peer {
        id: id.parse().ok()?,
        name: name.into(),
    })
}

fn keys(cluster: &Cluster) -> Vec<Vec<u8>> {
    [
        "leases", "leader", "nodes", "reaping", "grace", "reaped", "left",
    ]
    .map(|suffix| cluster.bus.key(&Topic::Nodes, suffix))
    .into()
}

pub(super) fn millis(time: Duration) -> Bytes {
    time.as_millis().to_string().into()
}
