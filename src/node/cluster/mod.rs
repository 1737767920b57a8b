//! This node among others: what goes over the bus, what comes from it, and who is there.
//!
//! Without a bus nothing of this exists, and the node is the whole cluster.

mod ask;
mod attend;
mod capture;
mod gather;
mod kept;
mod leases;
mod moved;
mod notices;
mod obey;
mod once;
mod order;
mod receive;
mod renewal;
mod resume;
mod revoked;
mod room;
mod roster;
mod rules;
mod silent;
mod spread;
mod stored;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use self::{
    ask::Asked, capture::Captures, kept::Placed, leases::Peers, notices::Mail, receive::Recent,
    renewal::Renewal,
};
pub(crate) use self::{
    capture::Capture,
    gather::PageStart,
    once::{Claimed, Once},
    receive::Program,
    resume::{Former, FormerChannel},
    spread::Extent,
    stored::{Hearing, Mender},
};
pub(super) use self::{
    kept::{Appending, Patience},
    spread::Message,
};
use super::{Node, NodeError, Recalled};
use crate::{
    app::{App, SetupError},
    broker::{Bus, BusError, Health, Inbox, Topic},
    config::Config,
    hub::{Change, Counts, Register},
    id::{AppId, ConnectionId, NodeId},
    limits::CHANGES_WAITING,
    metrics::Metrics,
    supervisor::Supervisor,
};

/// What a node knows of the others, and what it waits for from them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) bus: Arc<Bus>,
    peers: Peers,
    /// The lease is to be renewed at once, to learn of a node that has just come.
    renew: Notify,
    /// How that went.
    renewal: Renewal,
    /// It was given up.
    has_left: AtomicBool,
    /// Whether it was taken, and the others know.
    belongs: AtomicBool,
    asked: Asked,
    /// Nodes that notices do not wait for.
    silent: silent::Silent,
    /// Publications that came by several topics, and were delivered.
    delivered: Mutex<Recent<()>>,
    /// What became of publications whose senders will ask.
    counted: Mutex<Recent<Counts>>,
    placed: Placed,
    /// Kept events may have been missed.
    behind: Notify,
    /// Gaps of the bus.
    gaps: AtomicU64,
    /// Reasons why stored events of users may have been missed, here or there.
    doubts: AtomicU64,
    /// By shard: some may have been.
    doubted: Box<[Notify]>,
    /// Which revocations this node knows of those in Redis.
    revoked: revoked::Known,
    /// Lost connections whose clients came back to other nodes, which are about to say to what.
    handed: Mutex<AHashMap<ConnectionId, Recalled>>,
    /// Where their places in channels went.
    moved: moved::Moved,
    /// Changes of who is in which channel here, on their way to the node's list in Redis.
    register: Register,
    changes: Mutex<Option<mpsc::Receiver<Change>>>,
    /// The list has to be written anew.
    is_stale: AtomicBool,
    relist: Notify,
    /// What other nodes say of their members, for those who watch here.
    mail: Mail,
    /// Notices for those who wait for a page of members.
    pub(super) captures: Captures,
    /// The apps of this node by name.
    apps: AHashMap<Arc<str>, AppId>,
}

impl Cluster {
    /// Starts the bus, if one is configured. Does not wait for it.
    ///
    /// # Errors
    /// [`SetupError::Redis`].
    pub(in super::super) fn join(
        config: &Config,
        node: NodeId,
        shards: usize,
        apps: &[App],
        metrics: &Arc<Metrics>,
        supervisor: &Supervisor,
    ) -> Result<Option<(Self, Inbox)>, SetupError> {
        let Some(redis) = &config.redis else {
            return Ok(None);
        };
        let names = apps.iter().map(|app| app.name.clone()).collect();
        let (bus, inbox) = Bus::start(
            redis,
            &config.namespace,
            names,
            node,
            &config.limits,
            metrics.clone(),
            supervisor.clone(),
        )?;
        let apps = apps.iter().map(|app| (app.name.clone(), app.id)).collect();
        Ok(Some((Self::new(bus, apps, shards), inbox)))
    }

    fn new(bus: Arc<Bus>, apps: AHashMap<Arc<str>, AppId>, shards: usize) -> Self {
        let (register, changes) = Register::new(CHANGES_WAITING);
        Self {
            register,
            changes: Mutex::new(Some(changes)),
            is_stale: AtomicBool::new(false),
            relist: Notify::new(),
            mail: Mail::new(),
            captures: Captures::default(),
            bus,
            peers: Peers::default(),
            renew: Notify::new(),
            renewal: Renewal::default(),
            has_left: AtomicBool::new(false),
            belongs: AtomicBool::new(false),
            asked: Asked::default(),
            silent: silent::Silent::default(),
            delivered: Mutex::default(),
            counted: Mutex::default(),
            placed: Placed::default(),
            behind: Notify::new(),
            gaps: AtomicU64::new(0),
            doubts: AtomicU64::new(0),
            doubted: (0..shards).map(|_| Notify::new()).collect(),
            revoked: revoked::Known::default(),
            handed: Mutex::default(),
            moved: moved::Moved::default(),
            apps,
        }
    }

    /// Where every change of who is in a channel goes.
    pub(crate) fn register(&self) -> Register {
        self.register.clone()
    }

    /// Has the list of members written anew: it may have been lost.
    fn relist(&self) {
        self.is_stale.store(true, SeqCst);
        self.relist.notify_one();
    }

    /// Whether that is due; it is the caller's to do then.
    fn relist_due(&self) -> bool {
        self.is_stale.swap(false, SeqCst) | self.register.has_lost()
    }

    fn app_named(&self, name: &str) -> Option<AppId> {
        self.apps.get(name).copied()
    }

    fn count(&self, id: Uuid, counts: Counts) {
        let mut counted = self.counted.lock();
        // To several users it came as several messages.
        let before = counted.get(&id).copied().unwrap_or_default();
        counted.insert(id, before + counts);
    }
}

/// Redis answered what no node has written.
fn unreadable(error: &redis::ParsingError) -> BusError {
    BusError::Refused {
        code: "unreadable".to_owned(),
        message: error.to_string(),
    }
}

impl Node {
    /// The other nodes, unless this one is alone by configuration.
    ///
    /// # Errors
    /// [`NodeError::Away`] while the bus does not reach them: nothing was sent.
    pub(super) fn cluster_up(&self) -> Result<Option<&Cluster>, NodeError> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        match cluster.bus.health() {
            Health::Up => Ok(Some(cluster)),
            Health::Down { reason, .. } => Err(NodeError::Away { reason }),
        }
    }

    /// Takes part: holds this node's lease, tells of what it listens to, and keeps up with revoked tokens, until the runtime
    /// ends.
    pub(crate) async fn belong(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let interest = cluster.bus.interest();
        interest.add(Topic::Nodes);
        interest.add(Topic::Node(self.id()));
        for app in &self.apps {
            interest.add(Topic::Dispatch(app.id));
        }
        tokio::join!(self.keep_lease(cluster), self.keep_revoked(cluster));
    }

    /// Whether this node acts for all where one has to: at most one does at a time.
    pub(crate) fn leads(&self) -> bool {
        self.cluster
            .as_ref()
            .is_none_or(|cluster| cluster.peers.leads())
    }

    /// Why this node does not reach the others, or they are about to take it for gone, if that is so.
    pub(crate) fn apart(&self) -> Option<String> {
        let cluster = self.cluster.as_ref()?;
        match cluster.bus.health() {
            Health::Down { since, reason } => Some(format!(
                "Redis has been out of reach for {} s: {reason}",
                since.elapsed().as_secs()
            )),
            Health::Up => cluster
                .renewal
                .fault(self.config.limits.node_lease)
                .or_else(|| {
                    let is_known = cluster.belongs.load(SeqCst);
                    (!is_known).then(|| "the other nodes do not know of this one yet".to_owned())
                })
                .or_else(|| {
                    let lacks = Self::lacks_revoked(cluster);
                    lacks.then(|| "this node has not read yet which tokens were revoked".to_owned())
                }),
        }
    }

    /// Its random id.
    pub(crate) fn id(&self) -> NodeId {
        self.hub.context().node
    }
}
