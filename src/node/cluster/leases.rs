//! Who is there: each node renews a lease in Redis, by Redis' clock, and learns the others' by the same step.
//!
//! [`Membership`] has all of it. How renewals go is in [`super::renewal`], and which node leads an app in [`super::leadership`].

mod peers;
mod renewing;

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicBool,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use tokio::sync::Notify;

pub(super) use self::peers::{Peer, Peers};
use super::{
    Handles,
    leadership::{Renewed, Statement},
    removed::Ended,
    renewal::Renewal,
    unreadable,
};
use crate::{
    app::Apps,
    bus::{Bus, BusError, Script, Topic},
    id::{AppId, NodeId},
    metrics::Metrics,
};

/// Gives the lease up, and leaves word of it for an hour. Another node takes away what is left of this one's members, as if it had
/// crashed.
static GIVE_UP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local time = redis.call('TIME')
         redis.call('HSET', KEYS[7], ARGV[2], time[1] * 1000 + math.floor(time[2] / 1000))
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

/// Another node whose lease is over, and which this node is to reap.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) id: NodeId,
    /// Its id, where nobody here knew it.
    pub(super) name: Arc<str>,
    /// It has said so.
    pub(super) is_planned: bool,
}

/// How the other nodes differ from what the renewal before has returned.
#[derive(Debug)]
pub(super) struct PeerChanges {
    /// To be reaped by this node.
    pub(super) dead: Vec<Gone>,
    pub(super) came: Vec<Peer>,
    pub(super) went: Vec<Peer>,
}

/// This node's lease in Redis, and what it has learned by it of the others: who they are, what they state, and which apps
/// this node leads.
///
/// [`Cluster::run_lease`](super::Cluster::run_lease) renews the lease and acts on what has changed. The other components
/// only ask who is there, and may have the lease renewed sooner. It calls none of them.
#[derive(Debug)]
pub(in crate::node) struct Membership {
    bus: Arc<Bus>,
    node: NodeId,
    name: Arc<str>,
    apps: Arc<Apps>,
    metrics: Arc<Metrics>,
    /// How long the lease lasts.
    lease: Duration,
    /// How long clients may come back.
    resume_window: Duration,
    peers: Peers,
    /// The lease is to be renewed now.
    is_due: Notify,
    /// How that went.
    renewal: Renewal,
    /// It was given up.
    has_left: AtomicBool,
    /// It is about to be.
    departs: AtomicBool,
    /// It was taken, and the others know.
    belongs: AtomicBool,
    /// When another node has ended.
    ended: Ended,
}

impl Membership {
    pub(super) fn new(handles: &Handles<'_>) -> Self {
        let (context, limits) = (handles.hub.context(), &handles.config.limits);
        Self {
            bus: handles.bus.clone(),
            node: context.node,
            name: handles.name.clone(),
            apps: handles.apps.clone(),
            metrics: context.metrics.clone(),
            lease: limits.node_lease,
            resume_window: limits.resume_window,
            peers: Peers::default(),
            is_due: Notify::new(),
            renewal: Renewal::default(),
            has_left: AtomicBool::new(false),
            departs: AtomicBool::new(false),
            belongs: AtomicBool::new(false),

            ended: Ended::default(),
        }
    }

    /// The other nodes that hold leases.
    pub(super) fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Their ids.
    pub(in crate::node) fn alive(&self) -> impl Iterator<Item = NodeId> + use<> {
        self.peers.all().into_iter().map(|peer| peer.id)
    }

    /// Whether this node acts for all in what concerns `app`: at most one does at a time.
    pub(in crate::node) fn leads(&self, app: AppId) -> bool {
        self.peers.leads(app)
    }

    /// When another node has ended.
    pub(super) fn ended(&self) -> &Ended {
        &self.ended
    }

    /// Has the lease renewed now, to learn of a node that has just come, or of what was missed.
    pub(super) fn renew_now(&self) {
        self.is_due.notify_one();
    }

    /// Whether this node has given its lease up. Other nodes see to what it has left from then on.
    pub(super) fn has_left(&self) -> bool {
        self.has_left.load(SeqCst)
    }

    /// Whether it is about to do so. What lost connections had is in the list of members from then on, and nowhere else.
    pub(super) fn departs(&self) -> bool {
        self.departs.load(SeqCst)
    }

    /// Notes that this node is about to give its lease up.
    pub(super) fn begin_to_depart(&self) {
        self.departs.store(true, SeqCst);
    }

    /// Whether the lease was taken, and the other nodes know.
    pub(super) fn belongs(&self) -> bool {
        self.belongs.load(SeqCst)
    }

    /// Notes whether the other nodes were notified of this one.
    pub(super) fn note_greeted(&self, is_greeted: bool) {
        self.belongs.store(is_greeted, SeqCst);
    }

    /// Why the other nodes do not count on this one, if that is so.
    pub(super) fn fault(&self) -> Option<String> {
        self.renewal.fault(self.lease).or_else(|| {
            (!self.belongs()).then(|| "the other nodes do not know of this one yet".to_owned())
        })
    }

    /// Adds which apps nodes serve, which does not change while they live.
    async fn learn_apps(
        &self,
        statements: &mut AHashMap<NodeId, Statement>,
    ) -> Result<(), BusError> {
        let mut unknown = Vec::new();
        {
            let before = self.peers.statements.lock();
            for (node, statement) in &mut *statements {
                statement.apps = before.get(node).and_then(|before| before.apps.clone());
                let is_stated = statement.version > 1 && *node != self.node;
                if is_stated && statement.apps.is_none() {
                    unknown.push(*node);
                }
            }
        }

        if unknown.is_empty() {
            return Ok(());
        }

        let mut get = redis::cmd("HMGET");
        get.arg(self.bus.key(&Topic::Nodes, SERVES));
        for node in &unknown {
            get.arg(node.to_string());
        }

        let answer = self.bus.command(&Topic::Nodes, get).await?;
        let lists: Vec<Option<String>> =
            redis::from_redis_value(answer).map_err(|error| unreadable(&error))?;
        let mut is_whole = true;

        for (node, list) in unknown.into_iter().zip(lists) {
            let Some(list) = list else {
                is_whole = false;
                continue;
            };
            let mut serves = vec![false; self.apps.len()];
            let known = list.split(' ').filter_map(|name| self.apps.id_of(name));
            known.for_each(|app| serves[usize::from(app.0)] = true);
            if let Some(statement) = statements.get_mut(&node) {
                statement.apps = Some(serves.into());
            }
        }

        // A node states them again with its next renewal.
        is_whole.then_some(()).ok_or(BusError::Unanswered)
    }

    /// Learns which apps this node leads.
    fn take_lead(&self, statements: &AHashMap<NodeId, Statement>, renewed: Renewed) {
        let own = self.node;
        let Some(stated) = statements.get(&own) else {
            return;
        };
        // Those of version 1 lead only by the key of their own.
        let others = statements
            .iter()
            .filter(|(node, other)| **node != own && other.version > 1);
        let others: Vec<_> = others.map(|(node, other)| (*node, other)).collect();
        let apps = self.apps.iter().map(|app| &*app.name);
        let lead = &self.peers.lead;
        lead.take(apps, (own, stated), &others, renewed, self.lease);
    }

    /// Notes the newest version that all nodes read.
    fn note_version(&self, version: u8) {
        let before = self.peers.version.swap(version, Relaxed);
        self.metrics.bus_version.set(version.into());
        if before > 0 && before != version {
            tracing::info!(
                version,
                "messages and records are written in this version, which every node reads"
            );
        }
    }

    /// The names of the apps here, as they are stated.
    fn apps_stated(&self) -> Bytes {
        let names: Vec<&str> = self.apps.iter().map(|app| &*app.name).collect();
        names.join(" ").into()
    }

    /// Gives the lease up, so that the others need not wait for its end.
    pub(in crate::node) async fn give_up_lease(&self) {
        // First: another node may lead as soon as Redis has dropped the lease.
        self.has_left.store(true, SeqCst);
        self.peers.lead.give_up();
        let args = vec![self.lease_name(), self.node.to_string().into()];
        let given = self
            .bus
            .eval(&GIVE_UP, &Topic::Nodes, keys(&self.bus), args)
            .await;
        if let Err(error) = given {
            tracing::debug!(%error, "lease not given up; it ends by itself");
        }
    }

    /// Notes that nothing is left of a node that has gone without a word.
    pub(super) async fn reaped(&self, dead: NodeId) -> Result<(), BusError> {
        let args = vec![dead.to_string().into()];
        self.bus
            .eval(&REAPED, &Topic::Nodes, keys(&self.bus), args)
            .await
            .map(|_| ())
    }

    fn lease_name(&self) -> Bytes {
        format!("{} {}", self.node, self.name).into()
    }

    /// Takes over who is there, and returns what that changes.
    fn note_peers(&self, mut peers: Vec<Peer>, dead: &[String], left: &[String]) -> PeerChanges {
        peers.sort_by_key(|peer| peer.id.0);
        let was = std::mem::replace(&mut *self.peers.others.lock(), peers.clone());

        // By id, each with the time at which it left.
        let left: AHashSet<&str> = left.iter().step_by(2).map(String::as_str).collect();
        let gone = |id: &String| {
            let node = id.parse::<NodeId>().ok()?;
            let known = was.iter().find(|peer| peer.id == node);
            Some(Gone {
                id: node,
                name: known.map_or_else(|| id.as_str().into(), |peer| peer.name.clone()),
                is_planned: left.contains(id.as_str()),
            })
        };

        let dead = dead.iter().filter_map(gone).collect();

        self.note_namesakes(&peers);
        self.metrics.peers.set(peers.len() as i64);
        let (mut came, mut went) = (peers.clone(), was.clone());
        came.retain(|peer| !was.contains(peer));
        went.retain(|peer| !peers.contains(peer));
        for peer in &came {
            tracing::info!(node = %peer.name, "another node is there");
        }

        self.ended.note(!went.is_empty(), left.iter().copied());
        for peer in &went {
            if left.contains(&*peer.id.to_string()) {
                tracing::info!(node = %peer.name, "a node has left");
            } else {
                tracing::warn!(node = %peer.name, "a node has gone, or its lease is over");
            }
        }

        PeerChanges { dead, came, went }
    }

    /// Warns of nodes with the name of this one. One that was here before this one was started, and ended without a word, is there
    /// until its lease ends.
    fn note_namesakes(&self, peers: &[Peer]) {
        let mut namesakes = self.peers.namesakes.lock();
        namesakes.retain(|id, _| peers.iter().any(|peer| peer.id == *id));
        let mut is_news = false;

        for peer in peers.iter().filter(|peer| *peer.name == *self.name) {
            let since = namesakes
                .entry(peer.id)
                .or_insert_with(|| Some(Instant::now()));
            if since.is_some_and(|since| since.elapsed() > self.lease) {
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

/// Where the apps of each node are.
const SERVES: &str = "serves";

fn keys(bus: &Bus) -> Vec<Vec<u8>> {
    [
        "leases", "leader", "nodes", "reaping", "renewals", "reaped", "left", "stated", SERVES,
    ]
    .map(|suffix| bus.key(&Topic::Nodes, suffix))
    .into()
}

pub(super) fn millis(time: Duration) -> Bytes {
    time.as_millis().to_string().into()
}
