//! Coming back to another node than the one that was lost: that one hands the channels over.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{
    super::{Node, Recalled},
    order::Order,
};
use crate::{
    id::{AppId, ConnectionId},
    limits::HANDED_OVER,
    predicate::Value,
};

/// What a lost connection had, as its node says it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Former {
    /// Its profile as JSON; `null` if none.
    profile: Box<serde_json::value::RawValue>,
    pub(crate) channels: Vec<FormerChannel>,
}

/// A channel that it was in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct FormerChannel {
    pub(crate) name: String,
    /// It heard of the others.
    pub(crate) watched: bool,
    /// Its rights allowed it to join by itself.
    pub(crate) was_allowed: bool,
}

impl Former {
    /// Its profile.
    pub(crate) fn profile(&self) -> Option<Value> {
        let profile = Value::from_json(&mut self.profile.get().as_bytes().to_vec(), None).ok()?;
        (!profile.is_null()).then_some(profile)
    }
}

impl Node {
    /// Finds the channels of the connection `id` of another node for a client who proves to be the same by user and
    /// device. That node holds them for [`HANDED_OVER`]: they are settled by [`Node::settle_elsewhere`], or left.
    pub(crate) async fn recall_elsewhere(
        &self,
        app: AppId,
        id: &ConnectionId,
        user: Option<&str>,
        device: Option<&str>,
    ) -> Option<Former> {
        let cluster = self.cluster.as_ref()?;
        if id.node == self.id() || !cluster.peers.all().iter().any(|peer| peer.id == id.node) {
            return None;
        }
        let (user, device) = (user.map(ToOwned::to_owned), device.map(ToOwned::to_owned));
        let order = Order::Recall { id: id.to_string(), user, device };
        let said = self.ask_one(cluster, app, id.node, &order).await?;
        serde_json::from_str::<Option<Former>>(said.get()).ok().flatten()
    }

    /// Tells the node of the lost connection `id` which channels its client is about to come back to here; the others are
    /// left.
    pub(crate) async fn settle_elsewhere(&self, app: AppId, id: &ConnectionId, taken: Vec<String>) {
        let Some(cluster) = &self.cluster else { return };
        let order = Order::Settle { id: id.to_string(), taken };
        if self.ask_one(cluster, app, id.node, &order).await.is_none() {
            tracing::debug!(connection = %id, "its node did not say that it handed its channels over");
        }
    }

    /// Hands out what this node has of a lost connection.
    pub(super) fn hand_out(
        self: &Arc<Self>,
        app: AppId,
        id: &str,
        user: Option<&str>,
        device: Option<&str>,
    ) -> Option<Former> {
        let cluster = self.cluster.as_ref()?;
        let id: ConnectionId = id.parse().ok()?;
        let recalled = self.recall(app, &id, user, device)?;
        let profile = recalled.lost.profile();
        let profile = serde_json::value::to_raw_value(&profile).ok()?;
        let channel = |(name, watched): &(Arc<str>, bool)| FormerChannel {
            name: name.to_string(),
            watched: *watched,
            was_allowed: recalled.lost.rights.may_join(name),
        };
        let channels = recalled.left().map(channel).collect();
        cluster.handed.lock().insert(id, recalled);
        let node = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(HANDED_OVER).await;
            // Whatever is not settled by now is left.
            let unsettled = node.cluster.as_ref().and_then(|cluster| cluster.handed.lock().remove(&id));
            drop(unsettled);
        });
        Some(Former { profile, channels })
    }

    /// Lets go of what was handed out; true if it was still held.
    pub(super) fn settle(&self, id: &str, taken: &[String]) -> bool {
        let Some(cluster) = &self.cluster else { return false };
        let Some(id) = id.parse::<ConnectionId>().ok() else { return false };
        let recalled: Option<Recalled> = cluster.handed.lock().remove(&id);
        let Some(mut recalled) = recalled else { return false };
        while let Some((channel, _)) = recalled.next() {
            if taken.iter().any(|taken| **taken == *channel) {
                self.hub.presence(recalled.lost.app).moved(&channel, &recalled.lost);
                recalled.taken();
            } else {
                recalled.give_up();
            }
        }
        true
    }
}
