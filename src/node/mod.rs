//! The centre: what a publication, a look-up or a disconnect means on this node.
//!
//! Every verb of every edge becomes a publication with a [`Target`] here, and takes the same way: select, encode once,
//! admit, place.

mod background;
mod channels;
mod cluster;
mod identity;
mod look;
mod mesa;
mod presence;
mod protocols;
mod publish;
mod receipt;
mod recoveries;
pub(crate) mod show;
mod target;
#[cfg(test)]
mod tests;
mod topic_locks;

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
};

use arc_swap::{ArcSwap, Guard};
use background::Background;
pub use channels::Joins;
pub(crate) use channels::{MembersQuery, PageBounds, read_cursor, write_cursor};
use cluster::Handles;
pub(crate) use cluster::{
    CatchUpHandler, Cluster, ClusterScope, IdempotencyClaim, IdempotentCall, ListedChannels,
    NoticeBuffer, PageStart, Program, ResumeChannel, ResumeState, SubscriptionState, UserEventSync,
    hear,
};
pub(crate) use identity::REVOKED;
pub use identity::{ReplaceReceipt, RevokeReceipt};
use mesa::MesaHandles;
pub(crate) use mesa::{
    Mesa, MesaApp, MesaArrival, MesaChannel, MesaError, MesaTake, NotSettled as MesaNotSettled,
    PortalNews, Progress as MesaProgress, Settled as MesaSettled,
};
pub(crate) use presence::LocalResume;
pub(crate) use protocols::{Protocols, ServedProtocol};
pub(crate) use publish::{Author, Begun, Prepared, Publication};
pub use receipt::{Placement, Receipt};
pub(crate) use recoveries::{Named, Standing, first_name};
pub use target::{Target, To};
pub(crate) use target::{check_name, check_names};
pub(crate) use topic_locks::TopicGuard;
use topic_locks::TopicLocks;

pub use crate::protocol::event::Exceptions;
use crate::{
    app::{App, Apps, RuntimeConfig, SetupError, filter_share},
    auth::{Revocations, SignError, TooManyRevocations},
    bus::{Bus, Inbox},
    calls::Calls,
    config::Config,
    connection_limiter::IpPermit,
    filter::FilterError,
    history::{self, Disk, History, HistoryError, Memory, Occupied, RedisHistory},
    hub::{Busy, Context, Forms, Hub, NoticeQueue, Register, ResumeTable},
    id::{AppId, NodeId},
    limits::{CHANGES_WAITING, DATA_SPARE_BYTES, LOGGED_LOOK, TARGET_NAMES, TOKEN_LEEWAY},
    log_limit::Lines,
    metrics::Metrics,
    protocol::event::EventError,
    rates::Rates,
    refusals::Refusals,
    supervisor::Supervisor,
};

/// Why a publication, a look-up or a disconnect was refused. Nothing was delivered.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The filter cannot be compiled or bound; the text is kept for the excerpt.
    #[error("{error}")]
    Filter {
        /// What is wrong, and where.
        error: FilterError,
        /// The filter.
        source_text: String,
    },
    /// The node has accepted as much as it may.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// A list of the target is too long.
    #[error("\"{list}\" names {count} ids; at most {TARGET_NAMES} fit one call")]
    TooManyNames {
        /// The list.
        list: &'static str,
        /// Its length.
        count: usize,
    },
    /// A name is longer than any user, device or connection has.
    #[error("\"{list}\" has a name of {length} bytes; at most {most} fit")]
    NameTooLong {
        /// The list.
        list: &'static str,
        /// Bytes of the name.
        length: usize,
        /// Bytes that it may have.
        most: usize,
    },
    /// The event, or the name of a channel, breaks a rule.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The event is to be stored, and its target is not one for which events are stored.
    #[error(
        "this event cannot be stored: the target must be a single channel with history, or a list of users whose events are stored, without a filter{hint}"
    )]
    CannotStore {
        /// What to set, where the target would be right.
        hint: &'static str,
    },
    /// The call would store more than one may.
    #[error(
        "this call would store {bytes} bytes, an event of {event} bytes for {copies} users or channels; at most {most} fit one call (limits.stored_publication_bytes); split it, send less data, or set \"store\" to false"
    )]
    TooMuchToStore {
        /// Bytes of all copies together.
        bytes: usize,
        /// Bytes of the largest copy.
        event: usize,
        /// How often it would be stored.
        copies: usize,
        /// Bytes that one call may store.
        most: usize,
    },
    /// The store of events is out of reach, full, or refuses.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The other nodes are out of reach.
    #[error("the other nodes cannot be reached: {reason}")]
    Away {
        /// What is wrong with the bus.
        reason: Arc<str>,
    },
    /// Users are meant where clients cannot authenticate.
    #[error("client authentication is off, so there are no users to publish to")]
    NoUsers,
    /// A name that no user has.
    #[error("a user's name must not be empty")]
    EmptyName,
    /// Tokens are to be revoked that are yet to be issued.
    #[error(
        "\"before\" is more than {} seconds ahead of this node's clock; only tokens that have been issued can be revoked",
        TOKEN_LEEWAY.as_secs()
    )]
    Later,
    /// As many revocations are stored as may be.
    #[error(transparent)]
    Revocations(#[from] TooManyRevocations),
    /// Claims that no token could bring.
    #[error(transparent)]
    Claims(#[from] SignError),
    /// Claims that take too much memory, or have too many entries in an index; says which.
    #[error("\"claims\": {0}")]
    UnfitClaims(String),
    /// The task that placed the event ended early; a defect of the server.
    #[error("placing the event failed")]
    Failed,
}

impl NodeError {
    /// The stable code, which callers see in problem documents and clients in errors.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Filter { error, .. } => error.code(),
            Self::Busy(_) => "busy",
            Self::TooManyNames { .. } => "too_many_names",
            Self::NameTooLong { .. } => "name_too_long",
            Self::TooMuchToStore { .. } => "too_much_to_store",
            Self::Event(error) => error.code(),
            Self::CannotStore { .. } => "cannot_store",
            Self::History(HistoryError::OverQuota { .. }) => "history_over_quota",
            Self::History(_) => "history_unavailable",
            Self::Away { .. } => "bus_down",
            Self::NoUsers => "no_users",
            Self::EmptyName | Self::Later => "bad_field",
            Self::Revocations(_) => "revocations_full",
            Self::Claims(_) | Self::UnfitClaims(_) => "bad_claims",
            Self::Failed => "internal",
        }
    }
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Serving.
    Serving,
    /// Asked to leave: readiness fails, and all else goes on.
    Leaving,
    /// Sending its clients away.
    Draining,
}

/// The phase of a node, as its parts have it. It only moves on.
#[derive(Debug, Default)]
struct CurrentPhase(AtomicU8);

impl CurrentPhase {
    fn get(&self) -> Phase {
        match self.0.load(Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Leaving,
            _ => Phase::Draining,
        }
    }

    fn enter(&self, phase: Phase) {
        // A phase never gives way to an earlier one, whoever is the last to set it.
        self.0.fetch_max(phase as u8, Relaxed);
    }
}

/// One node: its apps, its hub, its numbers. It publishes, queries, and keeps channels; what it is among other nodes has
/// [`Cluster`].
///
/// Its methods stand in the files of their subjects:
///
/// | subject | file |
/// | --- | --- |
/// | setting up, reloading, phases | this one |
/// | publications, on this node and over the bus | `publish`, `publish/durability`, `target` |
/// | work that takes long | `background` |
/// | channels, and what clients learn of members | `channels`, `presence` |
/// | tokens and claims | `identity`; on all nodes, `cluster/revoked` |
/// | looking and disconnecting | `look`; what other nodes ask for, `cluster/handle_request`; on all nodes, `cluster/gather` |
/// | whether there are other nodes, who leads, and leaving them | `cluster/mod` |
///
/// What concerns clients and programs of Mesa has [`Mesa`].
#[derive(Debug)]
pub(crate) struct Node {
    /// As it was at the start. What a reload may change is in [`Node::runtime_config`].
    pub(crate) config: Config,
    pub(crate) name: Arc<str>,
    pub(crate) apps: Arc<Apps>,
    runtime_config: ArcSwap<RuntimeConfig>,
    pub(crate) hub: Arc<Hub>,
    background: Background,
    pub(crate) history: Arc<dyn History>,
    /// The same, if it is in a data directory.
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) topic_locks: Arc<TopicLocks>,
    /// How much clients may send.
    pub(crate) rates: Rates,
    /// Whose tokens are refused.
    pub(crate) revocations: Arc<Revocations>,
    /// What concerns clients and programs of Mesa.
    pub(crate) mesa: Arc<Mesa>,
    /// The protocols of other systems that are served.
    pub(crate) protocols: Protocols,
    /// The way to other nodes, if there may be any.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The functions of the embedding program.
    pub(crate) calls: Calls,
    pub(crate) metrics: Arc<Metrics>,
    /// Notices when a task of the server ends.
    pub(crate) supervisor: Supervisor,
    phase: Arc<CurrentPhase>,
    /// Sockets that are or are about to be connections.
    pub(crate) occupied: AtomicUsize,
}

/// The configured apps, each under its place in the configuration.
fn apps_of(config: &Config, metrics: &Metrics) -> Result<Apps, SetupError> {
    let share = filter_share(config);
    let apps = config.apps.iter().enumerate();
    let apps = apps.map(|(at, (name, app))| App::new(AppId(at as u16), name, app, share, metrics));
    Ok(Apps::new(apps.collect::<Result<_, _>>()?))
}

/// What the shards of a node share.
fn context_of(
    config: &Config,
    id: NodeId,
    apps: &[App],
    metrics: &Arc<Metrics>,
    (bus, register): (Option<&Arc<Bus>>, Option<&Register>),
    forms: Arc<Forms>,
) -> Context {
    let notices = Arc::new(NoticeQueue::default());
    let app_context = |app: &App| app.context(&config.limits, notices.clone(), register.cloned());
    let rules = config.apps.values().flat_map(|app| &app.channels);

    Context {
        node: id,
        limits: config.limits.clone(),
        metrics: metrics.clone(),

        refusals: Refusals::new(
            metrics.clone(),
            apps.iter().map(|app| app.name.clone()).collect(),
            config.is_development(),
        ),

        lines: Arc::default(),
        apps: apps.iter().map(app_context).collect(),
        refused: Arc::default(),

        resume_table: ResumeTable::new(
            apps.len(),
            config.limits.resume_window,
            rules.map(|rule| rule.leave_after),
        ),

        interest: bus.map(|bus| bus.interest().clone()),
        forms,
        notices,
    }
}

/// What people call the node: its id, if it has no other name.
fn name_of(config: &Config, id: NodeId) -> Arc<str> {
    let name = config.node_name.as_deref();
    name.map_or_else(|| id.to_string().into(), Into::into)
}

/// Where events are stored, and the same if it is a data directory.
type Stores = (Arc<dyn History>, Option<Arc<Disk>>);

/// Where events are stored: in Redis for all nodes, in this node's data directory, or in its memory.
fn history_of(
    config: &Config,
    apps: &[App],
    bus: Option<&Arc<Bus>>,
    hub: &Arc<Hub>,
) -> Result<Stores, SetupError> {
    let metrics = hub.context().metrics.clone();
    let app_metrics = apps.iter().map(|app| app.metrics.clone()).collect();
    let quotas: Vec<_> = config
        .apps
        .values()
        .map(|app| app.max_stored_bytes)
        .collect();

    if let Some(bus) = bus {
        let redis = RedisHistory::new(bus.clone(), metrics, app_metrics, &quotas);
        return Ok((Arc::new(redis), None));
    }

    let members = hub.clone();
    let is_occupied =
        move |app: AppId, channel: &str| members.presence(app).count(channel).connections > 0;
    let is_occupied = Occupied::by(is_occupied);

    let Some(data) = &config.data else {
        let max_bytes = config.limits.history_bytes;
        let memory = Memory::new(max_bytes, metrics, app_metrics, is_occupied);
        return Ok((Arc::new(memory.with_quotas(&quotas)), None));
    };

    let stored = |(app, quota): (&App, &Option<usize>)| history::StoredApp {
        name: app.name.to_string(),
        metrics: app.metrics.clone(),
        quota: quota.map(|quota| quota as u64),
    };

    let disk = Arc::new(Disk::open(history::Setup {
        config: data.clone(),
        metrics,
        apps: apps.iter().zip(&quotas).map(stored).collect(),
        is_occupied: Arc::new(is_occupied),
        spare_bytes: DATA_SPARE_BYTES,
    })?);

    Ok((disk.clone(), Some(disk)))
}

/// The revocations that the data directory remembers.
fn revocations_of(apps: &[App], disk: Option<&Disk>) -> Revocations {
    let revocations = Revocations::new(apps.len());
    let remembered = disk.map(Disk::take_revoked).unwrap_or_default();
    for (at, revoked) in remembered.iter().enumerate() {
        revocations.note(AppId(at as u16), revoked);
    }
    revocations
}

impl Node {
    /// Sets up the apps and an empty hub of `shards` shards; and, where Redis is configured, the bus that joins it with
    /// other nodes, with what comes from there. Waits for nothing.
    ///
    /// # Errors
    /// [`SetupError`] names the app whose settings cannot be used.
    pub(crate) fn new(
        config: Config,
        shards: usize,
    ) -> Result<(Arc<Self>, Option<Inbox>), SetupError> {
        let metrics = Arc::new(Metrics::new());
        let id = NodeId::random();
        let apps = Arc::new(apps_of(&config, &metrics)?);
        let supervisor = Supervisor::default();
        let (bus, inbox) = cluster::start_bus(&config, id, &apps, &metrics, &supervisor)?.unzip();
        let (register, changes) = bus.as_ref().map(|_| Register::new(CHANGES_WAITING)).unzip();
        let runtime_config = RuntimeConfig::new(config.clone(), &apps, None)
            // An error lists one problem at least. A start reports the first, and a reload all of
            // them.
            .map_err(|mut errors| errors.swap_remove(0))?;

        // Protocols add their forms before these are shared with the shards.
        let mut forms = Forms::default();
        let protocols = Protocols::new(&config, &apps, &mut forms);
        let forms = Arc::new(forms);

        let others = (bus.as_ref(), register.as_ref());
        let context = context_of(&config, id, &apps, &metrics, others, forms);
        let hub = Arc::new(Hub::new(shards, Arc::new(context)));
        let (history, disk) = history_of(&config, &apps, bus.as_ref(), &hub)?;

        let name = name_of(&config, id);
        let topic_locks = Arc::new(TopicLocks::new());
        let revocations = Arc::new(revocations_of(&apps, disk.as_deref()));

        let cluster = bus.map(|bus| Handles {
            bus,
            hub: &hub,
            apps: &apps,
            revocations: &revocations,
            history: &history,
            topic_locks: &topic_locks,
            name: &name,
            config: &config,
        });
        let cluster = cluster.zip(register.zip(changes));
        let cluster = cluster.map(|(handles, notes)| Arc::new(Cluster::new(handles, notes)));

        let phase = Arc::<CurrentPhase>::default();
        let mesa = Arc::new(Mesa::new(&MesaHandles {
            cluster: cluster.as_deref(),
            hub: &hub,
            apps: &apps,
            history: &history,
            phase: &phase,
            config: &config,
        }));

        let node = Self {
            name,
            history,
            disk,
            cluster,
            protocols,
            mesa,
            topic_locks,
            rates: Rates::new(apps.len()),
            revocations,
            hub,
            background: Background::new(),
            calls: Calls::default(),
            apps,
            runtime_config: ArcSwap::from_pointee(runtime_config),
            metrics,
            supervisor,
            phase,
            occupied: AtomicUsize::new(0),

            config,
        };

        Ok((Arc::new(node), inbox))
    }

    /// The configuration as it holds now. Hold it briefly: over an await, take [`Node::runtime_config_owned`].
    pub(crate) fn runtime_config(&self) -> Guard<Arc<RuntimeConfig>> {
        self.runtime_config.load()
    }

    /// The same for as long as the caller likes.
    pub(crate) fn runtime_config_owned(&self) -> Arc<RuntimeConfig> {
        self.runtime_config.load_full()
    }

    /// Puts `config` in the place of the one that holds. Calls for it must come one after another.
    ///
    /// # Errors
    /// Everything in it that cannot be used; then nothing has changed.
    pub(crate) fn reload(&self, config: Config) -> Result<(), Vec<SetupError>> {
        let runtime_config = RuntimeConfig::new(config, &self.apps, Some(&self.runtime_config()))?;
        self.refusals()
            .set_development(runtime_config.config.is_development());
        self.runtime_config.store(Arc::new(runtime_config));
        Ok(())
    }

    /// What is said about those that are turned away.
    pub(crate) fn refusals(&self) -> &Refusals {
        &self.hub.context().refusals
    }

    /// Kinds of lines that clients and callers can cause, and that are logged sparingly.
    pub(crate) fn lines(&self) -> &Lines {
        &self.hub.context().lines
    }

    /// Logs, until the server ends, how many were turned away, and how many lines were not written.
    pub(crate) async fn log_counts(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOGGED_LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.refusals().log_due();
            self.lines().log_due();
        }
    }

    /// Connections, and sockets about to be.
    pub(crate) fn occupied(&self) -> usize {
        self.occupied.load(Relaxed)
    }

    pub(crate) fn app(&self, app: AppId) -> &App {
        self.apps.get(app)
    }

    /// The app named `name`.
    pub(crate) fn app_named(&self, name: &str) -> Option<&App> {
        self.apps.id_of(name).map(|app| self.app(app))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.enter(phase);
    }
}

/// Places among those for connections that the node may hold; given back when dropped.
#[derive(Debug)]
pub(crate) struct Occupancy {
    node: Arc<Node>,
    count: u32,
    /// The place among those of the client's address.
    address: Option<IpPermit>,
}

impl Occupancy {
    /// A place for one more connection, if there is one.
    pub(crate) fn take(node: &Arc<Node>) -> Option<Self> {
        Self::take_some(node, 1)
    }

    /// `count` places, if there are so many: for a connection with several descriptors.
    pub(crate) fn take_some(node: &Arc<Node>, count: u32) -> Option<Self> {
        let max = node.runtime_config().config.limits.connections;
        // The bound is compared and taken in one step, since threads accept at the same time.
        let taken = node.occupied.fetch_update(Relaxed, Relaxed, |now| {
            let after = now + count as usize;
            (after <= max).then_some(after)
        });
        taken.ok().map(|_| Self {
            node: node.clone(),
            count,
            address: None,
        })
    }

    /// The same place, together with one among those of the client's address.
    pub(crate) fn at(mut self, place: IpPermit) -> Self {
        self.address = Some(place);
        self
    }
}

impl Drop for Occupancy {
    fn drop(&mut self) {
        self.node.occupied.fetch_sub(self.count as usize, Relaxed);
    }
}
