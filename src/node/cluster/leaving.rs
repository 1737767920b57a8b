//! Taking connections out of a channel on every node, also those that move from node to node in the meantime, and those
//! of nodes that have ended.

use std::sync::Arc;

use super::{
    super::{Node, NodeError, Target},
    Cluster,
    gather::Overall,
    leases::Peer,
    relocations::{FOLLOWED_AT_MOST, FollowedRelocations},
    rpc::Called,
    rpc_request::{Leavers, Request},
};
use crate::{
    bus::{BusError, Topic},
    id::{AppId, NodeId},
    limits::REMOVAL_ROUNDS,
};

/// A call that takes connections out of a channel.
pub(super) struct Leaving<'c> {
    node: &'c Arc<Node>,
    cluster: &'c Cluster,
    app: AppId,
    channel: String,
    target: Target,
    request: Request,
    overall: Overall<u64>,
    followed: FollowedRelocations,
    /// Nodes that have seen to all of their own connections.
    done: Vec<NodeId>,
}

impl<'c> Leaving<'c> {
    pub(super) fn new(
        node: &'c Arc<Node>,
        cluster: &'c Cluster,
        (app, channel, target): (AppId, String, Target),
    ) -> Self {
        let request = Request::Leave {
            channel: channel.clone(),
            wire_target: target.wire_target(None),
        };

        Self {
            node,
            cluster,
            app,
            channel,
            target,
            request,

            overall: Overall {
                value: 0,
                missing: Vec::new(),
            },

            followed: FollowedRelocations::default(),
            done: Vec::new(),
        }
    }

    /// Leaves a record for those who are connected nowhere, of all nodes except for these.
    pub(super) async fn note(&self, done: impl Iterator<Item = NodeId>) -> Result<(), BusError> {
        let channel = (self.app, &*self.channel);
        let wire_target = self.target.wire_target(None);
        let records = &self.cluster.removals;
        records.note_removal(channel, &wire_target, done).await
    }

    /// Asks this node and `peers`. If one of them departs or does not answer, its clients may be about to come to another one, which
    /// is asked again once there is a record of that.
    ///
    /// # Errors
    /// Those of [`Node::leave_all`]; nobody was taken out then.
    pub(super) async fn run(mut self, mut peers: Vec<Peer>) -> Result<Overall<u64>, NodeError> {
        let mut expected: Vec<NodeId> = peers.iter().map(|peer| peer.id).collect();
        expected.push(self.node.id());
        for round in 0..REMOVAL_ROUNDS {
            self.done.clear();
            match self.here().await {
                // What this node handed over before the others are asked, they find. Of each other it is not known.
                Ok(said) => self.add(self.node.id(), &said),
                Err(error) if round == 0 => return Err(error),
                Err(_) => self
                    .overall
                    .missing
                    .extend(self.node.name_of(self.node.id())),
            }

            self.ask(peers.clone()).await;
            self.follow().await;

            expected.retain(|node| !self.done.contains(node));
            let window = self.node.config.limits.resume_window;
            if expected.is_empty() || window.is_zero() {
                break;
            }

            if let Err(error) = self.note(self.done.iter().copied()).await {
                tracing::debug!(%error, "clients of a node that has ended may come back to a channel that they were taken out of");
                let names = expected.iter().filter_map(|node| self.node.name_of(*node));
                self.overall.missing.extend(names);
                break;
            }

            // Those that were reached are asked again: before there was a record, clients of the others may have come to them.
            peers.retain(|peer| self.done.contains(&peer.id));
            expected.clone_from(&self.done);
        }

        self.overall.missing.sort();
        self.overall.missing.dedup();
        Ok(self.overall)
    }

    async fn here(&self) -> Result<Leavers, NodeError> {
        let (channel, target) = (self.channel.clone(), self.target.clone());
        self.node.leave_local(self.app, channel, target).await
    }

    async fn ask(&mut self, peers: Vec<Peer>) {
        let all = Called {
            topic: &Topic::Nodes,
            nodes: peers,
        };
        let patience = self.node.config.limits.node_call_timeout;
        let asked = self
            .cluster
            .rpc
            .call_within(self.app, all, &self.request, patience);
        let gathered = asked.await;
        for (node, said) in gathered.read_named::<Leavers>() {
            self.add(node, &said);
            self.followed.add(node, &said.moved);
        }
        self.overall.missing.extend(gathered.missing);
    }

    /// Asks the nodes that have got places of the channel in the meantime: a client that came to one after this call
    /// did, from one that it had yet to reach, was on neither of them.
    async fn follow(&mut self) {
        for _ in 0..FOLLOWED_AT_MOST {
            let next = self.followed.take_next();
            if next.is_empty() {
                return;
            }

            for node in next {
                let said = if node == self.node.id() {
                    self.here().await.ok()
                } else {
                    let asked = self.cluster.rpc.call_one(self.app, node, &self.request);
                    let said = asked.await;
                    said.and_then(|said| serde_json::from_str(said.get()).ok())
                };

                if let Some(said) = said {
                    self.add(node, &said);
                    self.followed.add(node, &said.moved);
                } else {
                    // It has got places since it was asked, and could not be asked for them.
                    self.done.retain(|done| *done != node);
                    self.overall.missing.extend(self.node.name_of(node));
                }
            }
        }
    }

    fn add(&mut self, node: NodeId, said: &Leavers) {
        self.overall.value += said.n;
        self.done.retain(|done| *done != node);
        if !said.departs {
            self.done.push(node);
        }
    }
}
