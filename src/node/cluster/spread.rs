//! Sending a publication to the other nodes: to which topics, and what comes back of it.

use std::{collections::BTreeMap, future::Future, pin::Pin};

use ahash::AHashSet;
use bytes::Bytes;
use serde_json::value::to_raw_value;
use uuid::Uuid;

use super::{
    super::{Node, NodeError, Receipt, Target, To},
    order::{Order, Part},
};
use crate::{
    broker::{BusError, Topic},
    id::{AppId, ConnectionId, NodeId},
    limits::TOPICS_APART,
    log_limit::Line,
    protocol::{
        envelope::{self, Aim, Header, Names},
        event::Draft,
        frame::Frame,
    },
};

/// Whose connections a call means, and whose counts it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Cluster,
    Node,
}

/// What of a publication goes to the other nodes.
#[derive(Debug)]
pub(crate) enum Message {
    /// It is nowhere kept, and goes to these topics.
    Live {
        id: Uuid,
        topics: Vec<(Topic, Bytes)>,
        /// Its caller wants to know what became of it everywhere.
        receipt: bool,
    },
    /// The history sends it as it keeps it.
    Kept(Box<Header<'static>>),
}

type Published = Pin<Box<dyn Future<Output = Result<u64, BusError>> + Send>>;

/// A publication on its way.
pub(crate) struct Sent {
    id: Uuid,
    published: Vec<Published>,
    receipt: bool,
}

impl Target {
    /// The same for another node, without what is `own` to leave out of it.
    pub(super) fn aim(&self, own: Option<ConnectionId>) -> Aim {
        let to = self.to.as_ref().map(|to| Names {
            users: to.users.clone(),
            channels: to.channels.clone(),
            connections: to.connections.clone(),
        });
        let mut except = self.except.clone();
        except.connections.extend(own.map(|id| id.to_string()));
        Aim {
            to,
            filter: self.filter.clone(),
            // A value came from JSON, and goes back to it.
            params: self
                .params
                .as_ref()
                .and_then(|params| to_raw_value(params).ok()),
            except,
        }
    }
}

impl Node {
    /// What the other nodes are to get of a publication, if anything.
    ///
    /// # Errors
    /// [`NodeError::Away`] while they are out of reach: nothing was sent, and nothing may be delivered.
    pub(in super::super) fn message(
        &self,
        app: AppId,
        target: &Target,
        (id, draft, is_kept): (Uuid, &Draft, bool),
        own: Option<ConnectionId>,
        (scope, receipt): (Extent, Extent),
    ) -> Result<Option<Message>, NodeError> {
        if scope == Extent::Node {
            return Ok(None);
        }
        if self.cluster_up()?.is_none() {
            return Ok(None);
        }
        let receipt = receipt == Extent::Cluster;
        let header = Header {
            origin: self.id().0,
            id,
            app: self.app(app).name.to_string().into(),
            aim: target.aim(own),
            many: false,
            receipt,
        };
        if is_kept {
            return Ok(Some(Message::Kept(Box::new(header))));
        }
        Ok(Some(Message::Live {
            id,
            topics: self.topics(app, target, header, &draft.finish(None)),
            receipt,
        }))
    }

    /// One envelope for each topic on which the target's connections can be reached.
    fn topics(
        &self,
        app: AppId,
        target: &Target,
        header: Header<'_>,
        frame: &Frame,
    ) -> Vec<(Topic, Bytes)> {
        let one = |topic: Topic, header: &Header<'_>| (topic, envelope::event(header, frame));
        let to = |names: Names| Header {
            aim: Aim {
                to: Some(names),
                ..header.aim.clone()
            },
            ..header.clone()
        };
        match &target.to {
            None => vec![one(Topic::App(app), &header)],
            Some(to) if to.users.len() + to.channels.len() > TOPICS_APART => {
                vec![one(Topic::App(app), &header)]
            }
            Some(To {
                users,
                channels,
                connections,
            }) if channels.is_empty() && connections.is_empty() => {
                let user = |user: String| {
                    let topic = Topic::User(app, user.as_str().into());
                    one(
                        topic,
                        &to(Names {
                            users: vec![user],
                            ..Names::default()
                        }),
                    )
                };
                distinct(users).map(user).collect()
            }
            Some(To {
                users,
                channels,
                connections,
            }) if users.is_empty() && channels.is_empty() => {
                let node = |(node, connections)| {
                    one(
                        Topic::Node(node),
                        &to(Names {
                            connections,
                            ..Names::default()
                        }),
                    )
                };
                self.by_node(connections).into_iter().map(node).collect()
            }
            Some(To {
                users,
                channels,
                connections,
            }) => {
                let users = distinct(users).map(|user| Topic::User(app, user.into()));
                let channels =
                    distinct(channels).map(|channel| Topic::Channel(app, channel.into()));
                let nodes = self.by_node(connections).into_keys().map(Topic::Node);
                let topics: Vec<Topic> = users.chain(channels).chain(nodes).collect();
                let header = Header {
                    many: topics.len() > 1,
                    ..header
                };
                let message = envelope::event(&header, frame);
                topics
                    .into_iter()
                    .map(|topic| (topic, message.clone()))
                    .collect()
            }
        }
    }

    /// Connections of other nodes, by the node that each id names.
    fn by_node(&self, connections: &[String]) -> BTreeMap<NodeId, Vec<String>> {
        let mut nodes: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for text in connections {
            if let Ok(id) = text.parse::<ConnectionId>()
                && id.node != self.id()
            {
                nodes.entry(id.node).or_default().push(text.clone());
            }
        }
        nodes
    }

    /// Puts a message on its way at once: what is sent after it comes after it.
    pub(in super::super) fn send(&self, message: Message) -> Option<Sent> {
        let bus = &self.cluster.as_ref()?.bus;
        let Message::Live {
            id,
            topics,
            receipt,
        } = message
        else {
            return None;
        };
        let publish = |(topic, message): (Topic, Bytes)| -> Published {
            Box::pin(bus.publish(&topic, message))
        };
        Some(Sent {
            id,
            published: topics.into_iter().map(publish).collect(),
            receipt,
        })
    }

    /// Waits until Redis has the message, and, where its caller wants that, for the other nodes' counts. Nodes that it
    /// may not have reached are named in the receipt.
    pub(in super::super) async fn sent(
        &self,
        app: AppId,
        sent: Option<Sent>,
        receipt: &mut Receipt,
    ) {
        let (Some(sent), Some(cluster)) = (sent, &self.cluster) else {
            return;
        };
        let mut lost = None;
        for published in sent.published {
            if let Err(error) = published.await {
                lost = Some(error);
            }
        }
        if let Some(error) = lost {
            if let Some(others) = self.lines().note(Line::NotReached) {
                tracing::warn!(others, %error, id = %sent.id, "a publication may not have reached the other nodes");
            }
            receipt.missing_nodes = cluster.peers.names();
            return;
        }
        if sent.receipt {
            self.add_others(app, sent.id, receipt).await;
        }
    }

    /// Adds what became of the publication `id` on the other nodes.
    pub(in super::super) async fn add_others(&self, app: AppId, id: Uuid, receipt: &mut Receipt) {
        let Some(cluster) = &self.cluster else { return };
        let gathered = self.ask_all(cluster, app, &Order::Receipt { id }).await;
        for said in &gathered.said {
            match serde_json::from_str::<Part>(said.result.get()) {
                Ok(part) => receipt.add_part(part.matched, part.queued, part.filter_errors),
                Err(error) => {
                    if let Some(others) = self.lines().note(Line::BadReceipt) {
                        tracing::warn!(others, %error, "another node's receipt cannot be read");
                    }
                }
            }
        }
        receipt.nodes += gathered.said.len() as u32;
        receipt.missing_nodes = gathered.missing;
    }
}

/// Each name once.
fn distinct(names: &[String]) -> impl Iterator<Item = String> {
    let mut seen = AHashSet::new();
    names
        .iter()
        .filter(move |name| seen.insert(name.as_str()))
        .cloned()
}
