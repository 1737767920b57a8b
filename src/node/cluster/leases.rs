//! Who is there: each node renews a lease in Redis, by Redis' clock, and learns the others' by the same step.
//!
//! [`Membership`] has all of it. How renewals go is in [`super::renewal`], and which node leads an app in [`super::leadership`].

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{
            AtomicBool, AtomicU8,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{
    Handles,
    leadership::{Leadership, Renewed, Statement},
    removed::Ended,
    renewal::Renewal,
    unreadable,
};
use crate::{
    app::Apps,
    bus::{Bus, BusError, Script, Topic, jitter},
    id::{AppId, NodeId},
    limits::{LEASE_AGAIN, ROSTER_OUTLIVES},
    metrics::Metrics,
    protocol::envelope::{OLDEST, VERSION},
};

static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("renew.lua")));

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
    /// What each of them states.
    statements: Mutex<AHashMap<NodeId, Statement>>,
    /// The newest version that all of them and this node read; 0 while that is not known.
    version: AtomicU8,
    /// The apps that this node leads.
    lead: Leadership,
    /// Those with the name of this one: since when, until it was logged.
    namesakes: Mutex<AHashMap<NodeId, Option<Instant>>>,
}

impl Peers {
    pub(super) fn all(&self) -> Vec<Peer> {
        self.others.lock().clone()
    }

    /// Those that serve `app`, and those of which that is not known.
    pub(super) fn serving(&self, app: AppId) -> Vec<Peer> {
        let mut serving = self.all();
        serving.retain(|peer| self.serves(peer.id, app));
        serving
    }

    /// Their ids.
    pub(super) fn serving_ids(&self, app: AppId) -> Vec<NodeId> {
        let serving = self.serving(app).into_iter();
        serving.map(|peer| peer.id).collect()
    }

    /// Whether a node serves `app`, or that is not known.
    pub(super) fn serves(&self, node: NodeId, app: AppId) -> bool {
        let statements = self.statements.lock();
        let statement = statements.get(&node);
        statement.is_none_or(|statement| statement.may_serve(app))
    }

    /// Whether this node leads `app` now.
    pub(super) fn leads(&self, app: AppId) -> bool {
        self.lead.has(app)
    }

    /// The version in which this node writes, so that every node that is there can read it.
    pub(super) fn version(&self) -> u8 {
        self.version.load(Relaxed).max(OLDEST)
    }

    /// What people call those that serve `app`.
    pub(super) fn names(&self, app: AppId) -> Vec<String> {
        let serving = self.serving(app).into_iter();
        serving.map(|peer| peer.name.to_string()).collect()
    }
}

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
    pub(super) fn note_greeted(&self, is_told: bool) {
        self.belongs.store(is_told, SeqCst);
    }

    /// Why the other nodes do not count on this one, if that is so.
    pub(super) fn fault(&self) -> Option<String> {
        self.renewal.fault(self.lease).or_else(|| {
            (!self.belongs()).then(|| "the other nodes do not know of this one yet".to_owned())
        })
    }

    /// What keeps the lease; there is one at a time.
    pub(super) fn renewals(&self) -> Renewals<'_> {
        Renewals {
            membership: self,
            began: None,
            failures: 0,
            is_stated: false,
            known: Known::default(),
        }
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

/// The renewals of a lease, one after another: what each hands to the next.
#[derive(Debug)]
pub(super) struct Renewals<'m> {
    membership: &'m Membership,
    /// When the last one began.
    began: Option<Instant>,
    /// How many have failed in sequence.
    failures: u32,
    /// Redis knows which apps this node serves.
    is_stated: bool,
    known: Known,
}

impl Renewals<'_> {
    /// Waits until the lease is to be renewed. False once it was given up.
    pub(super) async fn is_due(&mut self) -> bool {
        let membership = self.membership;
        let wait = self.began.map_or(Duration::ZERO, |began| {
            until_renewal(membership.lease, self.failures).saturating_sub(began.elapsed())
        });
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = membership.is_due.notified() => {}
        }
        // From before it is sent, so that a slow answer does not put off the next renewal.
        self.began = Some(Instant::now());
        !membership.has_left()
    }

    /// Renews the lease.
    pub(super) async fn renew(&self) -> RenewalAnswer {
        let membership = self.membership;
        let args = vec![
            membership.lease_name(),
            millis(membership.lease),
            millis(ROSTER_OUTLIVES),
            VERSION.to_string().into(),
            if self.is_stated {
                Bytes::new()
            } else {
                membership.apps_stated()
            },
            millis(membership.resume_window),
            self.known.digest.clone().into(),
        ];

        let since = self.known.since_renewed(Instant::now());
        let args = [args, since].concat();
        let bus = &membership.bus;
        let said = bus.eval(&RENEW, &Topic::Nodes, keys(bus), args).await;

        RenewalAnswer {
            said,
            ended: Instant::now(),
        }
    }

    /// Notes how that went. Returns the leases of all nodes, if Redis has them in a form that can be read.
    ///
    /// # Errors
    /// The lease was not renewed.
    pub(super) fn note(
        &mut self,
        RenewalAnswer { said, ended }: RenewalAnswer,
    ) -> Result<Option<Leases>, BusError> {
        let membership = self.membership;
        let began = self.began.unwrap_or(ended);
        let renewed = said.inspect_err(|error| {
            self.failures += 1;
            membership.renewal.failed(error, &membership.metrics);
        })?;

        self.failures = 0;
        membership.renewal.succeeded(began);
        let Ok(parts) = redis::from_redis_value(renewed) else {
            tracing::error!(
                "the nodes' leases in Redis cannot be read; does another program use their names?"
            );
            self.is_stated = true;
            return Ok(None);
        };

        Ok(Some(Leases::new(parts, began, ended)))
    }

    /// Takes over what a renewal has returned, and returns how the other nodes differ.
    pub(super) async fn take_over(&mut self, leases: Leases) -> PeerChanges {
        let (membership, known) = (self.membership, &mut self.known);
        let peers = &membership.peers;
        known.take_in(leases.digest, leases.held, leases.left, leases.stated);
        let Renewed { now, ended, .. } = leases.renewed;
        known.renewed = Some(LastRenewal {
            at: now,
            grace: leases.grace,
            ended,
        });

        let own = membership.node;
        let held = known.held.iter().map(|lease| read(lease));
        let stated = known.stated.iter().map(|text| Statement::read(text));

        let mut statements: AHashMap<NodeId, Statement> = held
            .zip(stated)
            .filter_map(|(peer, stated)| {
                Some((peer?.id, stated.unwrap_or_else(Statement::nothing)))
            })
            .collect();

        let learned = membership.learn_apps(&mut statements).await;
        if let Err(error) = &learned {
            tracing::debug!(%error, "which apps other nodes serve is not known yet");
        }

        if leases.leader != BY_APP {
            peers.lead.give_up();
        } else if learned.is_ok() && !membership.has_left() {
            membership.take_lead(&statements, leases.renewed);
        }

        for app in membership.apps.iter() {
            app.metrics.leader.set(peers.leads(app.id).into());
        }

        let version = statements.values().map(|stated| stated.version).min();
        membership.note_version(version.unwrap_or(VERSION).min(VERSION));
        statements.remove(&own);
        *peers.statements.lock() = statements;

        let mut others: Vec<Peer> = known.held.iter().filter_map(|lease| read(lease)).collect();
        others.retain(|peer| peer.id != own);
        let changes = membership.note_peers(others, &leases.dead, &known.left);
        self.is_stated = !leases.is_unstated;
        if !self.is_stated {
            // Redis has lost what this node states of itself, and the next renewal states it again.
            membership.renew_now();
        }

        changes
    }
}

/// What Redis has said of a renewal.
#[derive(Debug)]
pub(super) struct RenewalAnswer {
    said: Result<redis::Value, BusError>,
    /// When it had.
    ended: Instant,
}

/// What a renewal has returned; `renew.lua` says what each is.
#[derive(Debug)]
pub(super) struct Leases {
    leader: String,
    held: Vec<String>,
    dead: Vec<String>,
    /// This node's own lease was over, so that its members may have been reported as left.
    pub(super) is_lapsed: bool,
    left: Vec<String>,
    stated: Vec<String>,
    is_unstated: bool,
    digest: String,
    renewed: Renewed,
    /// Until when nobody is taken for dead.
    grace: u64,
}

impl Leases {
    fn new(parts: RenewalReply, began: Instant, ended: Instant) -> Self {
        let (leader, held, dead, is_lapsed, left, stated, now, is_unstated, digest, grace) = parts;
        Self {
            leader,
            held,
            dead,
            is_lapsed,
            left,
            stated,
            is_unstated,
            digest,
            renewed: Renewed { began, ended, now },
            grace,
        }
    }
}

/// What `renew.lua` returns, in its order.
type RenewalReply = (
    String,
    Vec<String>,
    Vec<String>,
    bool,
    Vec<String>,
    Vec<String>,
    u64,
    bool,
    String,
    u64,
);

/// What renewals have returned of the nodes, which the next one leaves out if it is the same.
#[derive(Debug, Default)]
struct Known {
    digest: String,
    held: Vec<String>,
    left: Vec<String>,
    stated: Vec<String>,
    renewed: Option<LastRenewal>,
}

/// The last renewal that has succeeded.
#[derive(Clone, Copy, Debug)]
struct LastRenewal {
    /// What Redis' clock showed, in ms.
    at: u64,
    /// Until when nobody was taken for dead.
    grace: u64,
    /// When it had ended here.
    ended: Instant,
}

impl Known {
    /// What Redis' clock showed at the last renewal, how many ms have passed since by the clock of this node, and until when nobody
    /// was taken for dead then. So the script sees whether the clock of Redis has jumped.
    fn since_renewed(&self, now: Instant) -> Vec<Bytes> {
        let since = |last: LastRenewal| {
            let passed = now.saturating_duration_since(last.ended);
            let [at, grace] = [last.at, last.grace].map(|time| time.to_string().into());
            vec![at, millis(passed), grace]
        };
        self.renewed.map(since).unwrap_or_default()
    }

    fn take_in(
        &mut self,
        digest: String,
        held: Vec<String>,
        left: Vec<String>,
        stated: Vec<String>,
    ) {
        if digest != self.digest {
            *self = Self {
                digest,
                held,
                left,
                stated,
                renewed: self.renewed,
            };
        }
    }
}

/// In place of the leader where no node of version 1 leads.
const BY_APP: &str = "by-app";

/// Where the apps of each node are.
const SERVES: &str = "serves";

/// How long after the last renewal began the next is due: a fifth of the lease, and less after the first few that failed in
/// sequence.
fn until_renewal(lease: Duration, failures: u32) -> Duration {
    let every = lease / 5;
    if failures == 0 {
        return every;
    }
    let again = LEASE_AGAIN.saturating_mul(1 << (failures - 1).min(16));
    let again = again.min(every);
    // All nodes that Redis did not answer ask again.
    again / 2 + jitter(again / 2)
}

fn read(lease: &str) -> Option<Peer> {
    let (id, name) = lease.split_once(' ')?;
    Some(Peer {
        id: id.parse().ok()?,
        name: name.into(),
    })
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_that_failed_is_tried_again_soon_and_then_less_often() {
        let lease = Duration::from_secs(5);
        let every = lease / 5;
        assert_eq!(until_renewal(lease, 0), every);
        for failures in 1..100 {
            let most = every.min(LEASE_AGAIN * (1 << (failures - 1).min(8)));
            let wait = until_renewal(lease, failures);
            assert!((most / 2..=most).contains(&wait), "{failures}: {wait:?}");
        }
        assert!(until_renewal(lease, 1) < every);
        assert!(until_renewal(lease, 50) >= every / 2);
    }
}
