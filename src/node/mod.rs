//! The centre: what a publication, a look-up or a disconnect means on this node.
//!
//! Every verb of every edge becomes a publication with a [`Target`] here, and takes the same way: select, encode once,
//! admit, place.

mod aside;
mod channels;
mod cluster;
mod identity;
mod look;
mod presence;
mod publish;
mod receipt;
pub(crate) mod show;
mod target;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
};

use arc_swap::{ArcSwap, Guard};
use aside::Aside;
pub use channels::Joins;
pub(crate) use channels::{Cursor, MembersQuery, read_cursor, write_cursor};
pub(crate) use cluster::{
    Capture, Claimed, Cluster, Extent, Former, FormerChannel, Hearing, Mender, Once, PageStart,
    Program,
};
pub(crate) use identity::REVOKED;
pub use identity::{ReplaceReceipt, RevokeReceipt};
pub(crate) use presence::Recalled;
pub(crate) use publish::{Author, Prepared, Publication};
pub use receipt::{Placement, Receipt};
pub use target::{Target, To};
pub(crate) use target::{check_name, check_names};
use turns::Turns;

pub use crate::protocol::event::Exceptions;
use crate::{
    app::{App, Live, SetupError, filter_share},
    auth::{Revocations, SignError, TooManyRevocations},
    broker::Inbox,
    config::Config,
    door::Place,
    history::{History, HistoryError, Memory, Occupied, RedisHistory},
    hub::{Bulletin, Busy, Context, Hub, Limbo},
    id::{AppId, NodeId},
    limits::{LOGGED_LOOK, TARGET_NAMES, TOKEN_LEEWAY},
    log_limit::Lines,
    metrics::Metrics,
    predicate::FilterError,
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
    /// The event is to be kept, and its target is none that anything can be kept for.
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
    /// What is kept is out of reach.
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
    /// As many revocations are kept as may be.
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
    /// Told to leave: readiness fails, and all else goes on.
    Leaving,
    /// Sending its clients away.
    Draining,
}

/// One node: its apps, its hub, its numbers.
#[derive(Debug)]
pub(crate) struct Node {
    /// As it was at the start. What a reload may change is in [`Node::live`].
    pub(crate) config: Config,
    pub(crate) name: Arc<str>,
    pub(crate) apps: Vec<App>,
    live: ArcSwap<Live>,
    pub(crate) hub: Arc<Hub>,
    aside: Aside,
    pub(crate) history: Arc<dyn History>,
    pub(crate) turns: Turns,
    /// How much clients may send.
    pub(crate) rates: Rates,
    /// Whose tokens are refused.
    pub(crate) revocations: Revocations,
    /// The way to other nodes, if there may be any.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) metrics: Arc<Metrics>,
    /// Notices when a task of the server ends.
    pub(crate) supervisor: Supervisor,
    phase: AtomicU8,
    /// Sockets that are or are about to be connections.
    pub(crate) occupied: AtomicUsize,
}

/// What the shards of a node share.
fn context_of(
    config: &Config,
    id: NodeId,
    apps: &[App],
    metrics: &Arc<Metrics>,
    cluster: Option<&Cluster>,
) -> Context {
    let bulletin = Arc::new(Bulletin::default());
    let register = cluster.map(Cluster::register);
    let app_context = |app: &App| app.context(&config.limits, bulletin.clone(), register.clone());
    let rules = config.apps.values().flat_map(|app| &app.channels);
    Context {
        node: id,
        limits: config.limits.clone(),
        metrics: metrics.clone(),
        refusals: Refusals::new(
            metrics.clone(),
            apps.iter().map(|app| app.name.clone()).collect(),
        ),
        lines: Lines::default(),
        apps: apps.iter().map(app_context).collect(),
        refused: Arc::default(),
        limbo: Limbo::new(
            apps.len(),
            config.limits.resume_window,
            rules.map(|rule| rule.leave_after),
        ),
        interest: cluster.map(|cluster| cluster.bus.interest().clone()),
        bulletin,
    }
}

/// Where events are kept: in Redis for all nodes, or in this node's memory.
fn history_of(
    config: &Config,
    apps: &[App],
    cluster: Option<&Cluster>,
    hub: &Arc<Hub>,
) -> Arc<dyn History> {
    let metrics = hub.context().metrics.clone();
    let app_metrics = apps.iter().map(|app| app.metrics.clone()).collect();
    if let Some(cluster) = cluster {
        return Arc::new(RedisHistory::new(cluster.bus.clone(), metrics, app_metrics));
    }

    let members = hub.clone();
    let is_occupied =
        move |app: AppId, channel: &str| members.presence(app).count(channel).connections > 0;
    Arc::new(Memory::new(
        config.limits.history_bytes,
        metrics,
        app_metrics,
        Occupied::by(is_occupied),
    ))
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
        let mut apps = Vec::new();
        let share = filter_share(&config);
        for (at, (name, app)) in config.apps.iter().enumerate() {
            apps.push(App::new(AppId(at as u16), name, app, share, &metrics)?);
        }
        let supervisor = Supervisor::default();
        let (cluster, inbox) =
            Cluster::join(&config, id, shards, &apps, &metrics, &supervisor)?.unzip();
        let live =
            Live::new(config.clone(), &apps, None).map_err(|mut errors| errors.swap_remove(0))?;
        let context = context_of(&config, id, &apps, &metrics, cluster.as_ref());
        let hub = Arc::new(Hub::new(shards, Arc::new(context)));
        let history = history_of(&config, &apps, cluster.as_ref(), &hub);
        let node = Self {
            name: config
                .node_name
                .as_deref()
                .map_or_else(|| id.to_string().into(), Into::into),
            history,
            cluster,
            turns: Turns::new(),
            rates: Rates::new(apps.len()),
            revocations: Revocations::new(apps.len()),
            hub,
            aside: Aside::new(),
            apps,
            live: ArcSwap::from_pointee(live),
            metrics,
            supervisor,
            phase: AtomicU8::new(Phase::Serving as u8),
            occupied: AtomicUsize::new(0),
            config,
        };
        Ok((Arc::new(node), inbox))
    }

    /// The configuration as it holds now. To be held briefly: over an await, [`Node::live_for_long`].
    pub(crate) fn live(&self) -> Guard<Arc<Live>> {
        self.live.load()
    }

    /// The same for as long as the caller likes.
    pub(crate) fn live_for_long(&self) -> Arc<Live> {
        self.live.load_full()
    }

    /// Puts `config` in the place of the one that holds. Calls for it must come one after another.
    ///
    /// # Errors
    /// Everything in it that cannot be used; then nothing has changed.
    pub(crate) fn reload(&self, config: Config) -> Result<(), Vec<SetupError>> {
        let live = Live::new(config, &self.apps, Some(&self.live()))?;
        self.live.store(Arc::new(live));
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
    pub(crate) async fn tell_counts(self: Arc<Self>) {
        let mut looks = tokio::time::interval(LOGGED_LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.refusals().tell();
            self.lines().tell();
        }
    }

    /// Connections, and sockets about to be.
    pub(crate) fn occupied(&self) -> usize {
        self.occupied.load(Relaxed)
    }

    pub(crate) fn app(&self, app: AppId) -> &App {
        &self.apps[app.0 as usize]
    }

    /// The app named `name`.
    pub(crate) fn app_named(&self, name: &str) -> Option<&App> {
        self.apps.iter().find(|app| &*app.name == name)
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.phase.load(Relaxed) {
            0 => Phase::Serving,
            1 => Phase::Leaving,
            _ => Phase::Draining,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Relaxed);
    }
}

/// A connection's place among those that the node may hold; given back when dropped.
#[derive(Debug)]
pub(crate) struct Occupancy(Arc<Node>, Option<Place>);

impl Occupancy {
    /// A place for one more connection, if there is one.
    pub(crate) fn take(node: &Arc<Node>) -> Option<Self> {
        let max = node.live().config.limits.connections;
        let taken = node
            .occupied
            .fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1));
        taken.ok().map(|_| Self(node.clone(), None))
    }
}

impl Occupancy {
    /// The same place, together with one among those of the client's address.
    pub(crate) fn at(mut self, place: Place) -> Self {
        self.1 = Some(place);
        self
    }
}

impl Drop for Occupancy {
    fn drop(&mut self) {
        self.0.occupied.fetch_sub(1, Relaxed);
    }
}
