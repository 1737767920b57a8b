//! The other nodes: who is there, which apps each serves, and what all of them can read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::{
    id::{AppId, NodeId},
    node::cluster::leadership::{Leadership, Statement},
    protocol::envelope::OLDEST,
};

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::node::cluster) struct Peer {
    pub(in crate::node::cluster) id: NodeId,
    pub(in crate::node::cluster) name: Arc<str>,
}

/// The other nodes that hold leases, by their ids.
#[derive(Debug, Default)]
pub(in crate::node::cluster) struct Peers {
    pub(super) others: Mutex<Vec<Peer>>,
    /// What each of them states.
    pub(super) statements: Mutex<AHashMap<NodeId, Statement>>,
    /// The newest version that all of them and this node read; 0 while that is not known.
    pub(super) version: AtomicU8,
    /// The apps that this node leads.
    pub(super) lead: Leadership,
    /// Those with the name of this one: since when, until it was logged.
    pub(super) namesakes: Mutex<AHashMap<NodeId, Option<Instant>>>,
}

impl Peers {
    pub(in crate::node::cluster) fn all(&self) -> Vec<Peer> {
        self.others.lock().clone()
    }

    /// Those that serve `app`, and those of which that is not known.
    pub(in crate::node::cluster) fn serving(&self, app: AppId) -> Vec<Peer> {
        let mut serving = self.all();
        serving.retain(|peer| self.serves(peer.id, app));
        serving
    }

    /// Their ids.
    pub(in crate::node::cluster) fn serving_ids(&self, app: AppId) -> Vec<NodeId> {
        let serving = self.serving(app).into_iter();
        serving.map(|peer| peer.id).collect()
    }

    /// Whether a node serves `app`, or that is not known.
    pub(in crate::node::cluster) fn serves(&self, node: NodeId, app: AppId) -> bool {
        let statements = self.statements.lock();
        let statement = statements.get(&node);
        statement.is_none_or(|statement| statement.may_serve(app))
    }

    /// Whether this node leads `app` now.
    pub(in crate::node::cluster) fn leads(&self, app: AppId) -> bool {
        self.lead.has(app)
    }

    /// The version in which this node writes, so that every node that is there can read it.
    pub(in crate::node::cluster) fn version(&self) -> u8 {
        self.version.load(Relaxed).max(OLDEST)
    }

    /// What people call those that serve `app`.
    pub(in crate::node::cluster) fn names(&self, app: AppId) -> Vec<String> {
        let serving = self.serving(app).into_iter();
        serving.map(|peer| peer.name.to_string()).collect()
    }
}
