//! Looking and steering over all nodes: this node's part, the others' answers, and who did not answer.

mod counts;
mod pages;

use std::{sync::Arc, time::Instant};

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

pub(crate) use self::pages::PageStart;
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

impl Responses {
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

    /// The same after this node has done its part: those that cannot be asked any longer are named as
    /// missing.
    pub(super) async fn call_remote_if_up(&self, app: AppId, request: &Request) -> Responses {
        let names = || {
            self.cluster
                .as_ref()
                .map(|cluster| cluster.membership.peers().names(app))
                .unwrap_or_default()
        };
        let responses = self.call_remote(app, request).await;
        responses.unwrap_or_else(|_| Responses {
            missing: names(),
            ..Responses::default()
        })
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

        // First, so that nothing is done here if the others cannot be asked.
        self.cluster_up()?;
        let here = self.disconnect(app, target, close).await?;
        let responses = self.call_remote_if_up(app, &request).await;
        let there: u64 = responses.read::<Number>().map(|number| number.n).sum();

        Ok(Overall {
            value: here + there,
            missing: responses.missing,
        })
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

        // First, as above.
        self.cluster_up()?;
        let mut joins = self.join_all(app, channel, target).await?;
        let responses = self.call_remote_if_up(app, &request).await;

        for Joined {
            joined,
            already,
            full,
        } in responses.read()
        {
            joins.joined += joined;
            joins.already += already;
            joins.full += full;
        }

        Ok(Overall {
            value: joins,
            missing: responses.missing,
        })
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
        let responses = self
            .call_remote(
                app,
                &Request::User {
                    user: user.to_owned(),
                },
            )
            .await?;

        let there: u64 = responses.read::<Number>().map(|number| number.n).sum();
        Ok(Overall {
            value: self.user_connections(app, user) as u64 + there,
            missing: responses.missing,
        })
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
