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
//! One node decides: the one that leads, as with the dispatch channel of programs. Without sync nothing is stored, and every
//! node delivers what it hears.

mod arriving;
mod delivering;
mod giving_back;
mod known;
mod portals;
mod quota;
mod script;
mod maintenance;

use ahash::{AHashMap, AHashSet};
use bytes::Bytes;
use parking_lot::Mutex;
use smallvec::SmallVec;
use smol_str::{SmolStr, format_smolstr};

pub(crate) use self::{
    arriving::{MesaArrival, MesaTake},
    delivering::{MesaError, Settled},
    portals::PortalNews,
};
use self::{giving_back::GivingBack, maintenance::Looks, portals::Portals};
use super::{Cluster, Node};
use crate::{
    bus::{Bus, Topic},
    config::{MesaConfig, MesaSync},
    id::{AppId, ConnectionId, NodeId},
    protocol::frame::Frame,
};

/// What a node knows of the clients and programs of Mesa of one app.
#[derive(Debug)]
pub(crate) struct MesaApp {
    pub(crate) config: MesaConfig,
    app: AppId,
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
    fn new(app: AppId, config: &MesaConfig) -> Self {
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

/// The apps that serve clients of Mesa, by app.
#[derive(Debug, Default)]
pub(crate) struct MesaApps(Vec<Option<MesaApp>>);

impl MesaApps {
    pub(super) fn new<'c>(configs: impl Iterator<Item = Option<&'c MesaConfig>>) -> Self {
        let apps = configs.enumerate().map(|(at, config)| {
            let app = AppId(at as u16);
            config.map(|config| MesaApp::new(app, config))
        });
        Self(apps.collect())
    }

    /// The app, if it serves clients of Mesa.
    pub(crate) fn get(&self, app: AppId) -> Option<&MesaApp> {
        self.0.get(usize::from(app.0))?.as_ref()
    }

    /// Whether no app serves them.
    pub(crate) fn is_empty(&self) -> bool {
        self.all().next().is_none()
    }

    fn all(&self) -> impl Iterator<Item = &MesaApp> {
        self.0.iter().flatten()
    }

    /// All channels of Redis that this node listens to for them.
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
}

impl Node {
    /// The app, if it serves clients of Mesa and there is a Redis by which programs reach them.
    fn mesa_in_redis(&self, app: AppId) -> Option<(&MesaApp, &Cluster)> {
        Some((self.mesa.get(app)?, self.cluster.as_ref()?))
    }

    /// The name of this node in Redis.
    fn mesa_name(&self) -> Bytes {
        self.id().to_string().into()
    }
}

impl Cluster {
    fn mesa_keys(&self, app: AppId) -> Keys<'_> {
        Keys {
            bus: &self.bus,
            home: Topic::App(app),
        }
    }
}

/// A user or a message as an argument of a script.
fn arg(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
