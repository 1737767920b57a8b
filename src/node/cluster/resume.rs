//! Coming back to another node than the one that was lost: that one hands the channels over.

use std::{collections::VecDeque, sync::Arc};

use ahash::AHashSet;
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use smol_str::SmolStr;

use super::{
    super::{Node, Recalled},
    Cluster,
    order::Order,
};
use crate::{
    broker::{BusError, Topic},
    hub::Snapshot,
    id::{AppId, ConnectionId, NodeId},
    limits::{HANDED_OVER, LEFT_AGAIN, LEFT_TRIES},
    log_limit::Line,
    predicate::Value,
    protocol::{
        envelope::{self, Notices, Told},
        native::MemberKind,
    },
};

/// What a lost connection had, as its node says it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Former {
    /// Its profile as JSON; `null` if none.
    profile: Box<RawValue>,
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

/// What a node says that let go of a lost connection's places.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Settled {
    /// The channels in which it still had its place. It was taken out of the others.
    Claimed(Vec<String>),
    /// False: its time was over, and it has left them all. True is what a node of an earlier version says.
    Held(bool),
}

/// The channels of another node's lost connection, on their way to the one here that takes its place. Their members are
/// told that the lost one has left those that were not taken when this is dropped: its own node says nothing any more.
#[derive(Debug)]
pub(crate) struct Takeover {
    node: Arc<Node>,
    app: AppId,
    lost: ConnectionId,
    user: Option<SmolStr>,
    profile: Box<RawValue>,
    channels: VecDeque<FormerChannel>,
}

impl Takeover {
    /// The next channel.
    pub(crate) fn next(&self) -> Option<FormerChannel> {
        self.channels.front().cloned()
    }

    /// Notes that the next channel was taken over.
    pub(crate) fn taken(&mut self) {
        self.channels.pop_front();
    }

    /// Keeps the channels in which the lost connection still had its place. Returns those that it has left since its time was
    /// over.
    fn keep(&mut self, settled: &Settled) -> Vec<String> {
        let claimed: AHashSet<&str> = match settled {
            Settled::Claimed(claimed) => claimed.iter().map(String::as_str).collect(),
            Settled::Held(true) => return Vec::new(),
            Settled::Held(false) => AHashSet::new(),
        };
        let limbo = &self.node.hub.context().limbo;
        let all = std::mem::take(&mut self.channels);
        let (kept, gone): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|channel| claimed.contains(&*channel.name));
        self.channels = kept.into();
        for channel in &gone {
            limbo.give_up(&self.lost, &channel.name);
        }
        let gone = gone.into_iter().map(|channel| channel.name);
        match settled {
            Settled::Held(_) => gone.collect(),
            // As on its own node: a channel that it was taken out of does not come back.
            Settled::Claimed(_) => Vec::new(),
        }
    }

    /// Gives the next channel up.
    pub(crate) fn give_up(&mut self) {
        let Some(FormerChannel { name, .. }) = self.channels.pop_front() else {
            return;
        };
        // It may have been claimed, or taken out of the channel: its members are told here all the same.
        self.node.hub.context().limbo.give_up(&self.lost, &name);
        let user: Vec<String> = self.user.iter().map(ToString::to_string).collect();
        let tally = self
            .node
            .hub
            .presence(self.app)
            .tallies(&name, &user)
            .first()
            .copied()
            .unwrap_or(0);
        let notices = |tally: u64| Notices {
            origin: self.node.id().0,
            app: self.node.app(self.app).name.to_string(),
            channel: name.clone(),
            members: vec![Told {
                kind: MemberKind::Left,
                id: self.lost.to_string(),
                user: user.first().cloned(),
                data: (self.profile.get() != "null").then(|| self.profile.clone()),
                previous: None,
                tally,
            }],
            changes: None,
        };
        // This node's own watchers hear it as if another one said so, which adds what is here by itself.
        if self
            .node
            .cluster
            .as_ref()
            .is_some_and(|cluster| !cluster.mail.push(notices(0)))
        {
            self.node.metrics.bus_skipped.inc();
        }
        let (topic, payload) = (
            Topic::Channel(self.app, name.as_str().into()),
            envelope::notices(&notices(tally)),
        );
        let node = self.node.clone();
        tokio::spawn(async move {
            let Some(cluster) = &node.cluster else { return };
            if let Err(error) = tell_left(cluster, &topic, &payload).await
                && let Some(others) = node.lines().note(Line::LeftUntold)
            {
                tracing::warn!(others, %error, "members elsewhere do not know that a lost connection has left");
            }
        });
    }
}

impl Drop for Takeover {
    fn drop(&mut self) {
        while !self.channels.is_empty() {
            self.give_up();
        }
    }
}

/// Publishes a notice, again for as long as it certainly did not go out: nobody else will ever tell it.
async fn tell_left(
    cluster: &Cluster,
    topic: &Topic,
    payload: &bytes::Bytes,
) -> Result<(), BusError> {
    for _ in 1..LEFT_TRIES {
        match cluster.bus.publish(topic, payload.clone()).await {
            Err(BusError::Away { .. } | BusError::Full) => tokio::time::sleep(LEFT_AGAIN).await,
            told => return told.map(|_| ()),
        }
    }
    cluster
        .bus
        .publish(topic, payload.clone())
        .await
        .map(|_| ())
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
        let order = Order::Recall {
            id: id.to_string(),
            user,
            device,
        };
        let said = self.ask_one(cluster, app, id.node, &order).await?;
        serde_json::from_str::<Option<Former>>(said.get())
            .ok()
            .flatten()
    }

    /// Tells the node of the lost connection `id` which channels its client is about to come back to here, as `own`; the others
    /// are left. Returns the channels to come back to, and the names of those that it comes too late for.
    pub(crate) async fn settle_elsewhere(
        self: &Arc<Self>,
        own: &Snapshot,
        id: ConnectionId,
        former: Former,
    ) -> (Takeover, Vec<String>) {
        let app = own.app;
        let names = former.channels.iter().map(|channel| &channel.name);
        let taken: Vec<String> = names.cloned().collect();
        let mut takeover = Takeover {
            node: self.clone(),
            app,
            lost: id,
            user: own.user_name().cloned(),
            profile: former.profile,
            channels: former.channels.into(),
        };
        let Some(cluster) = &self.cluster else {
            return (takeover, Vec::new());
        };

        // Before that node lets go of the places: whoever takes connections out of the channel finds them there or here.
        let mut lost = own.clone();
        Arc::make_mut(&mut lost).attributes.connection.id = id;
        let places: Vec<SmolStr> = taken.iter().map(SmolStr::from).collect();
        self.hub.context().limbo.expect(&lost, &places);

        let order = Order::Settle {
            id: id.to_string(),
            taken,
        };
        let said = self.ask_one(cluster, app, id.node, &order).await;
        let settled = said.and_then(|said| serde_json::from_str::<Settled>(said.get()).ok());
        let gone = if let Some(settled) = settled {
            takeover.keep(&settled)
        } else {
            // It may have crashed; its client is not to lose its channels for that.
            tracing::debug!(connection = %id, "its node did not say that it handed its channels over");
            Vec::new()
        };
        (takeover, gone)
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
        let profile = to_raw_value(&profile).ok()?;
        let channel = |(name, watched): &(SmolStr, bool)| FormerChannel {
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
            let unsettled = node
                .cluster
                .as_ref()
                .and_then(|cluster| cluster.handed.lock().remove(&id));
            drop(unsettled);
        });
        Some(Former { profile, channels })
    }

    /// Lets go of what was handed out to the node `to`, where its client takes the places in the channels `taken`.
    pub(super) fn settle(&self, id: &str, taken: &[String], to: NodeId) -> Settled {
        let handed = self.cluster.as_ref().and_then(|cluster| {
            let id = id.parse::<ConnectionId>().ok()?;
            let recalled: Recalled = cluster.handed.lock().remove(&id)?;
            Some((cluster, recalled))
        });
        let Some((cluster, mut recalled)) = handed else {
            return Settled::Held(false);
        };
        let (app, taken) = (recalled.lost.app, taken.iter().map(String::as_str));
        let taken: AHashSet<&str> = taken.collect();
        let mut claimed = Vec::new();
        while let Some((channel, _)) = recalled.next() {
            if !taken.contains(&*channel) {
                recalled.give_up();
                continue;
            }
            // Before the place is gone from here: whoever does not find it any more learns where it went.
            cluster.moved.note(app, &channel, to);
            if recalled.hand_over() {
                claimed.push(channel.to_string());
            }
        }
        Settled::Claimed(claimed)
    }
}
