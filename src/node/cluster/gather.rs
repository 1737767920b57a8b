//! Looking and steering over all nodes: this node's part, the others' answers, and who did not answer.

mod counts;
mod pages;

use std::{sync::Arc, time::Instant};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

pub(crate) use self::{counts::ListedChannels, pages::PageStart};
use super::{
    super::{Joins, Node, NodeError, Target},
    leases::{Peer, Peers},
    leaving::Leaving,
    rpc::Responses,
    rpc_request::{Joined, Number, Request},
};
use crate::{
    close::Close,
    id::{AppId, ConnectionId, NodeId},
    log_limit::Limited,
};

/// Lines about answers of nodes that cannot be read.
static UNREADABLE: Limited = Limited::new();

/// An answer of the cluster, and the nodes that are missing from it.
#[derive(Clone, Debug)]
pub(crate) struct Overall<T> {
    pub(crate) value: T,
    /// Nodes that hold a lease, and did not answer in time.
    pub(crate) missing: Vec<String>,
}

/// What has become of a call on all nodes.
#[derive(Debug)]
pub(super) struct Everywhere<T> {
    /// What has become of it on this node.
    pub(super) here: T,
    pub(super) others: Responses,
}

impl Responses {
    /// `value` as the answer of this node and of these.
    pub(super) fn overall<T>(self, value: T) -> Overall<T> {
        Overall {
            value,
            missing: self.missing,
        }
    }

    /// The numbers that the nodes said, together.
    pub(super) fn sum(&self) -> u64 {
        self.read::<Number>().map(|number| number.n).sum()
    }

    /// What the nodes said, as far as it can be read.
    pub(super) fn read<T: DeserializeOwned>(&self) -> impl Iterator<Item = T> {
        self.read_named().map(|(_, said)| said)
    }

    /// The same, each with the node that said it.
    pub(super) fn read_named<T: DeserializeOwned>(&self) -> impl Iterator<Item = (NodeId, T)> {
        self.received.iter().filter_map(|said| {
            let read = serde_json::from_str(said.result.get()).ok();
            if read.is_none()
                && let Some(others) = UNREADABLE.note(Instant::now())
            {
                // An answer may be large, and it may hold names.
                let bytes = said.result.get().len();
                tracing::warn!(others, node = %said.node, bytes, "a node's answer cannot be read");
            }
            Some((said.node, read?))
        })
    }
}

impl Node {
    /// Asks all others, unless this node is alone.
    async fn call_remote(&self, app: AppId, request: &Request) -> Result<Responses, NodeError> {
        Ok(match self.cluster_up()? {
            Some(cluster) => cluster.rpc.call_all(app, request).await,
            None => Responses::default(),
        })
    }

    /// Asks all others, and then looks `here`.
    ///
    /// # Errors
    /// [`NodeError::Away`] while the others cannot be asked.
    pub(super) async fn look_everywhere<T>(
        &self,
        app: AppId,
        request: &Request,
        here: impl Future<Output = T>,
    ) -> Result<Everywhere<T>, NodeError> {
        let others = self.call_remote(app, request).await?;
        // Last, so that this node's part is no older than the others'.
        let here = here.await;
        Ok(Everywhere { here, others })
    }

    /// Acts `here`, and then has all others do what `request` makes of that. Nodes that cannot be asked any longer by then are
    /// missing.
    ///
    /// # Errors
    /// Those of acting here, and [`NodeError::Away`] while the others cannot be asked; no other node has done anything then.
    pub(super) async fn act_everywhere<T>(
        &self,
        app: AppId,
        here: impl Future<Output = Result<T, NodeError>>,
        request: impl FnOnce(&T) -> Request,
    ) -> Result<Everywhere<T>, NodeError> {
        // First, so that nothing is done here if the others cannot be asked.
        self.cluster_up()?;
        let here = here.await?;
        let others = match self.call_remote(app, &request(&here)).await {
            Ok(others) => others,
            Err(_) => Responses {
                missing: self.peer_names(app),
                ..Responses::default()
            },
        };

        Ok(Everywhere { here, others })
    }

    /// The names of the other nodes that serve `app`.
    fn peer_names(&self, app: AppId) -> Vec<String> {
        let cluster = self.cluster.as_ref();
        cluster.map_or_else(Vec::new, |cluster| cluster.membership.peers().names(app))
    }

    /// Closes the connections that `target` means, on every node; see [`Node::disconnect`].
    ///
    /// # Errors
    /// Those of [`Node::disconnect`], and [`NodeError::Away`]; nobody was disconnected then.
    pub(crate) async fn cluster_disconnect(
        self: &Arc<Self>,
        app: AppId,
        target: Target,
        close: Close,
    ) -> Result<Overall<u64>, NodeError> {
        let (wire_target, code, reason) = (
            target.wire_target(None),
            close.code,
            close.reason.to_string(),
        );

        let request = Request::Disconnect {
            wire_target,
            code,
            reason,
        };

        let here = self.disconnect(app, target, close);
        let Everywhere { here, others } = self.act_everywhere(app, here, |_| request).await?;
        let sum = here + others.sum();
        Ok(others.overall(sum))
    }

    /// Puts the connections that `target` means into `channel`, on every node; see [`Node::join_all`].
    ///
    /// # Errors
    /// Those of [`Node::join_all`], and [`NodeError::Away`]; nobody was joined then.
    pub(crate) async fn cluster_join(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Overall<Joins>, NodeError> {
        let request = Request::Join {
            channel: channel.clone(),
            wire_target: target.wire_target(None),
        };

        let here = self.join_all(app, channel, target);
        let Everywhere { here, others } = self.act_everywhere(app, here, |_| request).await?;
        let mut joins = here;
        for Joined {
            joined,
            already,
            full,
        } in others.read()
        {
            joins.joined += joined;
            joins.already += already;
            joins.full += full;
        }

        Ok(others.overall(joins))
    }

    /// Takes the connections that `target` means out of `channel`, on every node; see [`Node::leave_all`]. Those whose nodes have
    /// ended do not come back to it.
    ///
    /// # Errors
    /// Those of [`Node::leave_all`], and [`NodeError::Away`]; nobody was taken out then.
    pub(crate) async fn cluster_leave(
        self: &Arc<Self>,
        app: AppId,
        channel: String,
        target: Target,
    ) -> Result<Overall<u64>, NodeError> {
        let Some(cluster) = self.cluster_up()? else {
            let here = self.leave_local(app, channel, target).await?;
            return Ok(Overall {
                value: here.n,
                missing: Vec::new(),
            });
        };

        let peers = cluster.membership.peers().serving(app);
        let leaving = Leaving::new(self, cluster, (app, channel, target));
        if cluster.removals.may_await() {
            // Each node that is asked sees to its own connections. The record is for those that no
            // node has.
            let all = peers.iter().map(|peer| peer.id).chain([self.id()]);
            leaving.note(all).await.map_err(|error| NodeError::Away {
                reason: error.to_string().into(),
            })?;
        }

        leaving.run(peers).await
    }

    /// How often `user` is connected, on every node.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn cluster_user(
        &self,
        app: AppId,
        user: &str,
    ) -> Result<Overall<u64>, NodeError> {
        let request = Request::User {
            user: user.to_owned(),
        };

        let here = async { self.user_connections(app, user) as u64 };
        let Everywhere { here, others } = self.look_everywhere(app, &request, here).await?;
        let sum = here + others.sum();
        Ok(others.overall(sum))
    }

    /// A connection as it is shown, wherever it is.
    ///
    /// # Errors
    /// [`NodeError::Away`].
    pub(crate) async fn remote_connection(
        &self,
        app: AppId,
        id: &ConnectionId,
    ) -> Result<Option<Box<RawValue>>, NodeError> {
        if id.node == self.id() {
            return Ok(None);
        }
        let Some(cluster) = self.cluster_up()? else {
            return Ok(None);
        };

        if !cluster
            .membership
            .peers()
            .serving_ids(app)
            .contains(&id.node)
        {
            // Its node has gone, and the connection with it.
            return Ok(None);
        }

        let said = cluster
            .rpc
            .call_one(app, id.node, &Request::Connection { id: id.to_string() })
            .await;
        let said = said.ok_or_else(|| NodeError::Away {
            reason: "the connection's node does not answer".into(),
        })?;
        Ok(Some(said).filter(|said| said.get() != "null"))
    }

    /// The names of the nodes that serve `app`, this one's too.
    pub(in crate::node) fn serving_names(&self, app: AppId) -> Vec<String> {
        self.nodes(|peers| peers.serving(app))
            .into_iter()
            .map(|(_, name)| name)
            .collect()
    }

    /// What people call a node that is there.
    pub(super) fn name_of(&self, id: NodeId) -> Option<String> {
        let mut nodes = self.nodes(Peers::all).into_iter();
        nodes.find(|(node, _)| *node == id).map(|(_, name)| name)
    }

    /// This node and those `of` the others, by their ids, with their names.
    fn nodes(&self, of: impl Fn(&Peers) -> Vec<Peer>) -> Vec<(NodeId, String)> {
        let cluster = self.cluster.as_ref();
        let peers = cluster
            .map(|cluster| of(cluster.membership.peers()))
            .unwrap_or_default();
        let mut nodes: Vec<_> = peers
            .into_iter()
            .map(|peer| (peer.id, peer.name.to_string()))
            .collect();
        nodes.push((self.id(), self.name.to_string()));
        nodes.sort();
        nodes
    }
}
