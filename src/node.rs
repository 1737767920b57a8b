//! The centre: what a publication, a look-up or a disconnect means on this node.
//!
//! Every verb of every edge becomes a [`Target`] and an [`Event`] here, and takes the same way: select, encode once,
//! admit, place.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use serde::Serialize;
use uuid::Uuid;

use crate::{
    app::{App, ClientKeys, SetupError},
    auth::ApiKeys,
    close::Close,
    config::Config,
    door::Place,
    hub::{
        AppContext, Busy, Closure, Context, Counts, Except, Hub, Looked, Named, Reach, Selection, Snapshot,
        Table, user_key,
    },
    id::{AppId, ConnectionId, NodeId},
    limits::{self, TARGET_NAMES},
    metrics::Metrics,
    predicate::{Bound, FilterError, Value},
    protocol::{event::Event, frame::Frame},
};

pub use crate::protocol::event::Exceptions;

/// Which connections an event is for, as a caller says it.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The union of what is named; `None` is everyone.
    pub to: Option<To>,
    /// Narrows it.
    pub filter: Option<String>,
    /// Bound as `params.*` in the filter.
    pub params: Option<Value>,
    /// Taken out last.
    pub except: Exceptions,
}

/// Connections named one by one or by their users.
#[derive(Clone, Debug, Default)]
pub struct To {
    /// All connections of these users.
    pub users: Vec<String>,
    /// These connections.
    pub connections: Vec<String>,
}

/// What became of a publication.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// Names the publication; a UUID of version 7.
    pub id: Uuid,
    /// Connections meant, after exceptions: `queued` and `dropped` together.
    pub matched: u64,
    /// Connections that have it in their outbox, or on their wire.
    pub queued: u64,
    /// Connections that were too slow to be given it.
    pub dropped: u64,
    /// For how many channels or users it was kept.
    pub stored: u64,
    /// Connections for which the filter ended in an error.
    pub filter_errors: u64,
    /// Nodes counted here.
    pub nodes: u32,
    /// Nodes that did not answer in time.
    pub missing_nodes: Vec<String>,
}

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
    #[error("{list} names {count} ids; at most {TARGET_NAMES} fit one call")]
    TooManyNames {
        /// The list.
        list: &'static str,
        /// Its length.
        count: usize,
    },
    /// Users are meant where clients cannot authenticate.
    #[error("client authentication is off, so there are no users to publish to")]
    NoUsers,
    /// The task that placed the event ended early; a defect of the server.
    #[error("placing the event failed")]
    Failed,
}

/// How a filter would be answered.
#[derive(Debug)]
pub(crate) struct Explanation {
    /// The compiled filter with its plan.
    pub(crate) bound: Arc<Bound>,
    /// What the sweep saw.
    pub(crate) looked: Looked,
    /// Some of the connections that match.
    pub(crate) sample: Vec<ConnectionId>,
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
    pub(crate) config: Config,
    pub(crate) name: Arc<str>,
    pub(crate) keys: ApiKeys,
    pub(crate) client_keys: ClientKeys,
    pub(crate) apps: Vec<App>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Arc<Metrics>,
    phase: AtomicU8,
    /// Sockets that are or are about to be connections.
    pub(crate) occupied: AtomicUsize,
}

impl Node {
    /// Sets up the apps and an empty hub of `shards` shards. Opens no socket.
    ///
    /// # Errors
    /// [`SetupError`] names the app whose settings cannot be used.
    pub(crate) fn new(config: Config, shards: usize) -> Result<Arc<Self>, SetupError> {
        let metrics = Arc::new(Metrics::new());
        let id = NodeId::random();
        let mut apps = Vec::new();
        for (at, (name, app)) in config.apps.iter().enumerate() {
            apps.push(App::new(AppId(at as u16), name, app, &config, &metrics)?);
        }
        let context = Context {
            node: id,
            limits: config.limits.clone(),
            metrics: metrics.clone(),
            apps: apps.iter().map(super::app::App::context).collect::<Vec<AppContext>>(),
            refused: Arc::default(),
        };
        Ok(Arc::new(Self {
            name: config.node_name.as_deref().map_or_else(|| id.to_string().into(), Into::into),
            keys: ApiKeys::new(&config.apps),
            client_keys: ClientKeys::new(&config.apps),
            hub: Arc::new(Hub::new(shards, Arc::new(context))),
            apps,
            metrics,
            phase: AtomicU8::new(Phase::Serving as u8),
            occupied: AtomicUsize::new(0),
            config,
        }))
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

    /// Delivers `event` to the connections of `app` that `target` means.
    ///
    /// The event is encoded once. When this returns, every connection that matched has it in its outbox, so what the
    /// same caller publishes next comes after it. Small targets are placed at once; large ones, past admission, in a
    /// task of their own, which a caller that goes away does not stop.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was delivered then.
    pub(crate) async fn publish(
        &self,
        app: AppId,
        event: &Event<'_>,
        target: Target,
    ) -> Result<Receipt, NodeError> {
        let selection = self.select(app, target)?;
        let frame = self.encode(app, event);
        self.deliver(selection, frame).await
    }

    fn encode(&self, app: AppId, event: &Event<'_>) -> Frame {
        self.app(app).metrics.encodings.inc();
        event.encode()
    }

    async fn deliver(&self, selection: Selection, frame: Frame) -> Result<Receipt, NodeError> {
        let app = selection.app;
        let filtered = selection.filter.is_some();
        let reach = self.hub.reach(&selection);
        let leave = match &reach {
            Reach::Large(_) if selection.is_scan() => Some(self.hub.leave_to_scan().await?),
            _ => None,
        };
        let ticket = self.hub.admit(&reach, frame.len()).await?;
        self.app(app).metrics.accepted.inc();
        let began = Instant::now();
        let counts = match reach {
            Reach::Small(lists) => self.hub.place_small(&selection, lists, &frame, &ticket),
            Reach::Large(_) => {
                let hub = self.hub.clone();
                let placing = tokio::spawn(async move {
                    let counts = hub.place_large(&selection, &frame, &ticket).await;
                    drop(leave);
                    counts
                });
                placing.await.map_err(|_| NodeError::Failed)?
            }
        };
        if filtered {
            self.metrics.filter_evaluate.observe(began.elapsed().as_secs_f64());
        }
        Ok(self.receipt(app, counts))
    }

    /// Delivers `event` to the connections for which a Rust closure is true; see [`Hub::place_where`].
    ///
    /// # Errors
    /// [`NodeError::Busy`]; nothing was delivered then.
    pub(crate) async fn publish_where(
        &self,
        app: AppId,
        event: &Event<'_>,
        closure: Closure,
    ) -> Result<Receipt, NodeError> {
        let frame = self.encode(app, event);
        let leave = self.hub.leave_to_scan().await?;
        let ticket = self.hub.admit(&Reach::Large(self.hub.members(app)), frame.len()).await?;
        self.app(app).metrics.accepted.inc();
        let hub = self.hub.clone();
        let placing = tokio::spawn(async move {
            let counts = hub.place_where(&Selection::everyone(app), &closure, &frame, &ticket).await;
            drop(leave);
            counts
        });
        let counts = placing.await.map_err(|_| NodeError::Failed)?;
        Ok(self.receipt(app, counts))
    }

    fn receipt(&self, app: AppId, counts: Counts) -> Receipt {
        let Counts { looked, queued } = counts;
        self.app(app).metrics.filter_errors.inc_by(looked.errors);
        Receipt {
            id: Uuid::now_v7(),
            matched: looked.matched,
            queued,
            dropped: looked.matched - queued,
            stored: 0,
            filter_errors: looked.errors,
            nodes: 1,
            missing_nodes: Vec::new(),
        }
    }

    /// Resolves a target: compiles the filter through the app's cache, binds its params, reads the ids.
    ///
    /// An id of a connection that is no id at all names nobody, as does the id of one that has gone.
    ///
    /// # Errors
    /// [`NodeError::Filter`] and [`NodeError::TooManyNames`].
    pub(crate) fn select(&self, app: AppId, target: Target) -> Result<Selection, NodeError> {
        let Target { to, filter, params, except } = target;
        if let Some(to) = &to {
            few("to.users", &to.users)?;
            few("to.connections", &to.connections)?;
        }
        few("except.users", &except.users)?;
        few("except.connections", &except.connections)?;
        few("except.devices", &except.devices)?;
        Ok(Selection {
            app,
            named: to.map(|to| Named {
                users: to.users.iter().map(String::as_str).map(user_key).collect(),
                connections: to.connections.iter().filter_map(|id| id.parse().ok()).collect(),
            }),
            filter: filter.map(|text| self.compile(app, text, params)).transpose()?,
            except: Except {
                users: except.users.into_iter().map(Into::into).collect(),
                connections: except.connections.iter().filter_map(|id| id.parse().ok()).collect(),
                devices: except.devices.into_iter().map(Into::into).collect(),
            },
        })
    }

    fn compile(&self, app: AppId, text: String, params: Option<Value>) -> Result<Arc<Bound>, NodeError> {
        match self.app(app).compile(&text, params, &self.metrics) {
            Ok(bound) => Ok(bound),
            Err(error) => Err(NodeError::Filter { error, source_text: text }),
        }
    }

    /// How `filter` would be answered, and by whom. Looks at connections as an emit would, and sends nothing.
    ///
    /// # Errors
    /// [`NodeError::Filter`] and [`NodeError::Busy`].
    pub(crate) async fn explain(
        &self,
        app: AppId,
        filter: String,
        params: Option<Value>,
    ) -> Result<Explanation, NodeError> {
        let bound = self.compile(app, filter, params)?;
        let selection = Selection { filter: Some(bound.clone()), ..Selection::everyone(app) };
        let _leave = self.hub.leave_to_scan().await?;
        let mut sample = Vec::new();
        let looked = self
            .hub
            .sweep(&selection, |table, slot| {
                if sample.len() < limits::EXPLAIN_SAMPLE
                    && let Some(connection) = table.open_connection(slot)
                {
                    sample.push(connection.id());
                }
            })
            .await;
        Ok(Explanation { bound, looked, sample })
    }

    /// Closes the connections that `target` means; answers how many.
    ///
    /// What was placed for them before is still written. It is carried out in a task of its own, which a caller that
    /// goes away does not stop.
    ///
    /// # Errors
    /// As [`Node::select`], and [`NodeError::Busy`].
    pub(crate) async fn disconnect(
        &self,
        app: AppId,
        target: Target,
        close: Close,
    ) -> Result<u64, NodeError> {
        let selection = self.select(app, target)?;
        let leave = if selection.is_scan() { Some(self.hub.leave_to_scan().await?) } else { None };
        let hub = self.hub.clone();
        let closing = tokio::spawn(async move {
            let mut closed = 0;
            let close_one = |table: &mut Table, slot| {
                if let Some(at) = table.reference(slot) {
                    closed += u64::from(table.close(at, None, &close));
                }
            };
            hub.sweep(&selection, close_one).await;
            drop(leave);
            closed
        });
        closing.await.map_err(|_| NodeError::Failed)
    }

    /// A page of the connections that `filter` matches, and where the next one begins.
    ///
    /// # Errors
    /// [`NodeError::Filter`] and [`NodeError::Busy`].
    pub(crate) async fn connections(
        &self,
        app: AppId,
        target: Target,
        from: (usize, u32),
        limit: usize,
    ) -> Result<(Vec<Snapshot>, Option<(usize, u32)>), NodeError> {
        let selection = self.select(app, target)?;
        let _leave = self.hub.leave_to_scan().await?;
        Ok(self.hub.page(&selection, from, limit).await)
    }

    /// The open connections of `user` on this node.
    pub(crate) fn user_connections(&self, app: AppId, user: &str) -> usize {
        let named = Named { users: vec![user_key(user)], connections: Vec::new() };
        self.hub.reach(&Selection { named: Some(named), ..Selection::everyone(app) }).bound()
    }
}

fn few(list: &'static str, names: &[String]) -> Result<(), NodeError> {
    if names.len() > TARGET_NAMES {
        return Err(NodeError::TooManyNames { list, count: names.len() });
    }
    Ok(())
}

/// A connection's place among those that the node may hold; given back when dropped.
#[derive(Debug)]
pub(crate) struct Occupancy(Arc<Node>, Option<Place>);

impl Occupancy {
    /// A place for one more connection, if there is one.
    pub(crate) fn take(node: &Arc<Node>) -> Option<Self> {
        let max = node.config.limits.connections;
        let taken = node.occupied.fetch_update(Relaxed, Relaxed, |now| (now < max).then_some(now + 1));
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
