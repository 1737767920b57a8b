//! Programs of Mesa, which reach clients straight through Redis by names of their own.
//!
//! A dispatcher publishes a message with the ids of its recipients. One that stores messages for those who are away asks the
//! set of connected users first, and appends to a list of its own in the hash of undelivered messages. It reads the list,
//! appends and writes it back, so of several messages at the same time only the last stays.
//!
//! Here users are always in one of two places. Each node lists its users in Redis; everyone else is away. Three scripts change
//! or read that: a user comes and takes what is stored ([`script::ENTER`]), a user goes ([`script::LEAVE`]), and a message is
//! decided about ([`script::SETTLE`]): it is stored for those who are away, and published once more for the nodes where the
//! others are. Redis carries them out one after another, so a message is stored before a user comes, or it comes to the
//! node that the user has come to. It waits there until the user is let in ([`MesaArrival`]).
//!
//! One node decides: the one that leads, as with the dispatch channel of programs. Before it does, it takes the lead in Redis
//! ([`script::TAKE_LEAD`]), and waits until it hears that itself. By then it has heard of all that the node before has decided, and
//! what that node is late with does nothing. Without sync nothing is stored, and every node delivers what it hears.

mod arriving;
mod delivering;
mod giving_back;
mod known;
mod portals;
mod quota;
mod script;
mod maintenance;

use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use smol_str::{SmolStr, format_smolstr};
use tokio::{sync::watch, task::JoinSet};

pub(crate) use self::{
    arriving::{MesaArrival, MesaTake},
    delivering::{MesaError, NotSettled, Progress, Settled},
    portals::PortalNews,
};
use self::{giving_back::GivingBack, maintenance::Looks, portals::Portals};
use super::{
    CurrentPhase,
    cluster::{Cluster, Membership, Task},
};
use crate::{
    app::{App, Apps},
    bus::{Bus, Topic},
    config::{Config, MesaConfig, MesaSync},
    history::History,
    hub::Hub,
    id::{AppId, ConnectionId, NodeId},
    limits::Limits,
    log_limit::Lines,
    protocol::frame::Frame,
};

/// Clients and programs of Mesa, of all apps that serve them. [`super::Node`] has it, and it does not have the node.
///
/// It owns what this node knows of each of these apps ([`MesaApp`]): the users here and what is on its way to them, the portals,
/// and the messages that go back to Redis. It has what leads to Redis and to the other nodes ([`ClusterHandles`]). By the hub it
/// places messages and closes connections, by the history it knows whether an app may store more.
///
/// Sessions call it for clients that come, confirm and go, and with news for portals. The consumer of programs' messages gives it
/// what dispatchers and portals say, and the task that hears the bus asks which app that concerns. The node has it look how much is
/// stored, and has it leave before the node does. All else it does in tasks of its own, several for each app ([`Mesa::tasks`]).
#[derive(Debug)]
pub(crate) struct Mesa {
    served: Vec<Option<MesaApp>>,
    cluster: Option<ClusterHandles>,
    hub: Arc<Hub>,
    apps: Arc<Apps>,
    history: Arc<dyn History>,
    phase: Arc<CurrentPhase>,
}

/// What it is made of.
pub(super) struct MesaHandles<'a> {
    pub(super) cluster: Option<&'a Cluster>,
    pub(super) hub: &'a Arc<Hub>,
    pub(super) apps: &'a Arc<Apps>,
    pub(super) history: &'a Arc<dyn History>,
    pub(super) phase: &'a Arc<CurrentPhase>,
    pub(super) config: &'a Config,
}

/// What it has of the cluster, if a Redis is configured, by which programs reach this node.
#[derive(Debug)]
struct ClusterHandles {
    bus: Arc<Bus>,
    /// Who else is there, and who leads.
    membership: Arc<Membership>,
    /// Changes when Redis may have lost who is here, or this node which portals are there.
    missed: watch::Receiver<()>,
}

/// What a node knows of the clients and programs of Mesa of one app. [`Mesa`] alone changes it.
#[derive(Debug)]
pub(crate) struct MesaApp {
    pub(crate) config: MesaConfig,
    app: AppId,
    /// It may store only so many bytes.
    has_quota: bool,
    /// Where dispatchers publish.
    dispatch: Topic,
    /// Where it is published what was decided.
    settled: Topic,
    /// Where portals say that they come and go, which is also the name of the set of them.
    pool: Topic,
    /// Where portals hear.
    portal: Topic,
    connected: Vec<u8>,
    undelivered: Vec<u8>,
    users: Mutex<Users>,
    portals: Mutex<Portals>,
    giving_back: GivingBack,
}

/// The users of this node, and what is on its way to them.
#[derive(Debug, Default)]
struct Users {
    here: AHashMap<SmolStr, Here>,
    /// Connections that were given stored messages, and have not confirmed them.
    unconfirmed: AHashSet<ConnectionId>,
    /// Those of them that were given nothing, since Redis did not answer. It may have set something aside for them.
    unanswered: AHashSet<ConnectionId>,
    /// What may be set aside for those, and for connections that are gone, is to be stored again.
    owes: bool,
    /// Users for whom a dispatcher may still store something.
    looks: Looks,
    /// Counts what has changed.
    changes: u64,
}

/// A user with connections to this node.
#[derive(Debug, Default)]
struct Here {
    connections: u32,
    /// Those that are about to be let in.
    coming: SmallVec<[Coming; 1]>,
    /// Distinguishes this state of the user from any other.
    change: u64,
}

/// A connection that is about to be let in, and the messages for it that have come in the meantime.
#[derive(Debug)]
struct Coming {
    id: ConnectionId,
    captured: Vec<Captured>,
    bytes: usize,
}

/// A message in both its forms: as clients get it, and as it is stored.
#[derive(Clone, Debug)]
struct Captured {
    frame: Frame,
    /// A list of one message; nothing if it is not to be stored.
    list: Bytes,
}

impl Users {
    /// Whether the connection `id` of this node is there, and has what was set aside for it.
    fn has_stored(&self, id: ConnectionId) -> bool {
        self.unconfirmed.contains(&id) && !self.unanswered.contains(&id)
    }
}

impl MesaApp {
    fn new(app: AppId, config: &MesaConfig, has_quota: bool) -> Self {
        // Names that Mesa's programs use as well.
        let named = |name: &str| {
            config.namespace.as_ref().map_or_else(
                || SmolStr::from(name),
                |namespace| format_smolstr!("{name}_{namespace}"),
            )
        };

        let key = |name: &str| named(name).as_bytes().to_vec();
        Self {
            config: config.clone(),
            app,
            has_quota,
            dispatch: Topic::Raw(named("ws")),
            settled: Topic::Mesa(app),
            pool: Topic::Raw(named("available_portals_pool")),
            portal: Topic::Raw(named("portal")),
            connected: key("connected_clients"),
            undelivered: key("undelivered_messages"),
            users: Mutex::default(),
            portals: Mutex::default(),
            giving_back: GivingBack::default(),
        }
    }

    /// Whether messages for those who are away are stored at all.
    pub(crate) fn has_sync(&self) -> bool {
        self.config.sync != MesaSync::Off
    }

    /// Whether users who have once come count as connected from then on.
    fn is_full(&self) -> bool {
        self.config.sync == MesaSync::Full
    }

    /// What scripts get as who counts as connected: exactly those who are, or everyone whose messages are taken care
    /// of.
    fn exact(&self) -> Bytes {
        Bytes::from_static(if self.is_full() { b"0" } else { b"1" })
    }

    /// All channels of Redis that this node listens to for the app.
    fn topics(&self) -> impl Iterator<Item = &Topic> {
        let settled = self.has_sync().then_some(&self.settled);
        let pool = self.config.portal.then_some(&self.pool);
        [Some(&self.dispatch), settled, pool].into_iter().flatten()
    }
}

/// Names of the server's own keys for one app. They all live where the app's events go.
struct Keys<'b> {
    bus: &'b Bus,
    home: Topic,
}

impl Keys<'_> {
    fn named(&self, suffix: &str) -> Vec<u8> {
        self.bus.key(&self.home, suffix)
    }

    /// The nodes that have users.
    fn nodes(&self) -> Vec<u8> {
        self.named("mesa-nodes")
    }

    /// What was given to connections that have not confirmed it.
    fn aside(&self) -> Vec<u8> {
        self.named("mesa-aside")
    }

    /// Messages that have gone to nodes, and to which.
    fn sent(&self) -> Vec<u8> {
        self.named("mesa-sent")
    }

    /// Which node decides about messages.
    fn lead(&self) -> Vec<u8> {
        self.named("mesa-lead")
    }

    /// When each node was there last.
    fn seen(&self) -> Vec<u8> {
        self.named("mesa-seen")
    }

    /// Which batch a node has given back last.
    fn given_back(&self, node: NodeId) -> Vec<u8> {
        self.named(&format!("mesa-given-back.{node}"))
    }

    /// Users whom this cluster has put among the connected, where they stay.
    fn known(&self) -> Vec<u8> {
        self.named("mesa-known")
    }

    /// The connected, the known, the leases, and the mark that the known were left to dispatchers.
    fn of_known(&self, mesa: &MesaApp) -> Vec<Vec<u8>> {
        let leases = self.bus.key(&Topic::Nodes, "leases");
        let parked = self.named("mesa-parked");
        vec![mesa.connected.clone(), self.known(), leases, parked]
    }

    /// The users of a node.
    fn users(&self, node: NodeId) -> Vec<u8> {
        self.named(&format!("mesa-users.{node}"))
    }

    /// What the names of [`Keys::users`] begin with.
    fn prefix(&self) -> Bytes {
        self.named("mesa-users.").into()
    }

    /// What the names of marks begin with that users have just gone.
    fn gone(&self) -> Bytes {
        self.named("mesa-gone.").into()
    }
}

/// What is heard of Mesa's programs over Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MesaChannel {
    /// A dispatcher has published.
    Dispatched,
    /// It was decided about a message.
    Settled,
    /// A portal comes or goes.
    Portal,
}

impl ClusterHandles {
    fn keys(&self, app: AppId) -> Keys<'_> {
        Keys {
            bus: &self.bus,
            home: Topic::App(app),
        }
    }
}

impl Mesa {
    pub(super) fn new(handles: &MesaHandles<'_>) -> Self {
        let served = handles.config.apps.values().enumerate();
        let served = served.map(|(at, config)| {
            // Apps are numbered in the order of the configuration, here as everywhere.
            let app = AppId(at as u16);
            let mesa = config.protocols.mesa.as_ref();
            mesa.map(|mesa| MesaApp::new(app, mesa, config.max_stored_bytes.is_some()))
        });

        let cluster = handles.cluster.map(|cluster| ClusterHandles {
            bus: cluster.bus.clone(),
            membership: cluster.membership.clone(),
            missed: cluster.mesa_missed(),
        });

        Self {
            served: served.collect(),
            cluster,
            hub: handles.hub.clone(),
            apps: handles.apps.clone(),
            history: handles.history.clone(),
            phase: handles.phase.clone(),
        }
    }

    /// The app, if it serves clients of Mesa.
    pub(crate) fn get(&self, app: AppId) -> Option<&MesaApp> {
        self.served.get(usize::from(app.0))?.as_ref()
    }

    fn all(&self) -> impl Iterator<Item = &MesaApp> {
        self.served.iter().flatten()
    }

    /// The app, if it serves clients of Mesa and there is a Redis by which programs reach them.
    fn in_redis(&self, app: AppId) -> Option<(&MesaApp, &ClusterHandles)> {
        Some((self.get(app)?, self.cluster.as_ref()?))
    }

    /// All channels of Redis that this node listens to for Mesa's programs.
    pub(crate) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.all().flat_map(MesaApp::topics)
    }

    /// Whose channel `topic` is.
    pub(super) fn channel(&self, topic: &Topic) -> Option<(AppId, MesaChannel)> {
        self.all().find_map(|mesa| {
            let channel = match topic {
                topic if *topic == mesa.dispatch => MesaChannel::Dispatched,
                topic if *topic == mesa.settled => MesaChannel::Settled,
                topic if *topic == mesa.pool => MesaChannel::Portal,
                _ => return None,
            };
            Some((mesa.app, channel))
        })
    }

    /// What it does until the runtime ends, by name; nothing if no app serves Mesa's clients.
    pub(crate) fn tasks(self: &Arc<Self>) -> impl Iterator<Item = (&'static str, Task)> {
        let tasks: [(_, Task); 2] = [
            (
                "users of Mesa's programs",
                Box::pin(self.clone().run_maintenance()),
            ),
            (
                "messages of Mesa's programs",
                Box::pin(self.clone().run_giving_back()),
            ),
        ];
        let serves = self.all().next().is_some();
        tasks.into_iter().filter(move |_| serves)
    }

    /// The name of this node in Redis.
    fn node_name(&self) -> Bytes {
        self.id().to_string().into()
    }

    fn id(&self) -> NodeId {
        self.hub.context().node
    }

    fn limits(&self) -> &Limits {
        &self.hub.context().limits
    }

    fn lines(&self) -> &Lines {
        &self.hub.context().lines
    }

    fn app(&self, app: AppId) -> &App {
        self.apps.get(app)
    }
}

/// Runs a task for each app until the runtime ends. A panic in one of them is one of the caller. Runs on a `LocalSet`.
async fn run_all(apps: impl Iterator<Item = impl Future<Output = ()> + 'static>) {
    let mut tasks = JoinSet::new();
    for app in apps {
        tasks.spawn_local(app);
    }

    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            // As if all was one task, which the server cannot go on without.
            std::panic::resume_unwind(panic);
        }
    }

    // There is nothing to do for any app.
    std::future::pending::<()>().await;
}

/// A user or a message as an argument of a script.
fn arg(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
