//! Sending a publication to the other nodes: to which topics, and what comes back of it.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use ahash::AHashSet;
use bytes::Bytes;
use uuid::Uuid;

use super::{
    super::{NodeError, Receipt, Target, To},
    Handles, check_reach,
    leases::Membership,
    rpc::Rpc,
    rpc_request::{ReceiptPart, Request},
};
use crate::{
    app::Apps,
    bus::{Bus, BusError, Topic},
    id::{AppId, ConnectionId, NodeId},
    limits::TOPICS_APART,
    log_limit::{Line, Lines},
    protocol::{
        envelope::{self, Header, Names, WireTarget},
        event::Draft,
        frame::Frame,
    },
};

/// Whose connections a call means, and whose counts it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClusterScope {
    Cluster,
    Node,
}

/// What of a publication goes to the other nodes.
#[derive(Debug)]
pub(crate) enum Message {
    /// It is stored nowhere, and goes to these topics.
    Live {
        id: Uuid,
        topics: Vec<(Topic, Bytes)>,
        /// Its caller wants to know what became of it everywhere.
        receipt: bool,
    },
    /// The history sends it as it stores it.
    Durable(Box<Header<'static>>),
}

/// A publication that is yet to be made a message.
#[derive(Clone, Copy, Debug)]
pub(in crate::node) struct Outgoing<'d> {
    pub(in crate::node) id: Uuid,
    pub(in crate::node) draft: &'d Draft,
    /// It is stored, in the history of all nodes.
    pub(in crate::node) is_durable: bool,
    /// The connection that it is from, if that does not get it.
    pub(in crate::node) own: Option<ConnectionId>,
}

type Published = Pin<Box<dyn Future<Output = Result<u64, BusError>> + Send>>;

/// A publication on its way.
pub(crate) struct Sent {
    id: Uuid,
    published: Vec<Published>,
    receipt: bool,
}

impl Sent {
    /// How many messages it is.
    pub(in crate::node) fn messages(&self) -> usize {
        self.published.len()
    }
}

/// Sends publications of this node to the other nodes.
///
/// It owns nothing but its handles: a publication on its way is its caller's. [`Node`](super::super::Node) calls it when it
/// publishes. What is stored goes out by [`Replicator::append_over_bus`](super::durable::Replicator::append_over_bus) instead.
#[derive(Debug)]
pub(in crate::node) struct EnvelopeSender {
    bus: Arc<Bus>,
    node: NodeId,
    apps: Arc<Apps>,
    membership: Arc<Membership>,
    rpc: Arc<Rpc>,
    lines: Arc<Lines>,
}

impl EnvelopeSender {
    pub(super) fn new(handles: &Handles<'_>, membership: &Arc<Membership>, rpc: &Arc<Rpc>) -> Self {
        let context = handles.hub.context();
        Self {
            bus: handles.bus.clone(),
            node: context.node,
            apps: handles.apps.clone(),
            membership: membership.clone(),
            rpc: rpc.clone(),
            lines: context.lines.clone(),
        }
    }

    /// What the other nodes are to get of a publication.
    ///
    /// # Errors
    /// [`NodeError::Away`] while what brings it to them is out of reach: nothing was sent, and nothing may be delivered.
    pub(in crate::node) fn message(
        &self,
        app: AppId,
        target: &Target,
        outgoing: &Outgoing<'_>,
        receipt: ClusterScope,
    ) -> Result<Message, NodeError> {
        let Outgoing {
            id,
            draft,
            is_durable,
            own,
        } = *outgoing;
        let receipt = receipt == ClusterScope::Cluster;
        let header = Header {
            origin: self.node.0,
            id,
            app: self.apps.get(app).name.to_string().into(),
            wire_target: target.wire_target(own),
            many: false,
            receipt,
        };

        if is_durable {
            let to = target.to.iter();
            let users = to.clone().flat_map(|to| &to.users);
            let users = users.map(|user| Topic::User(app, user.as_str().into()));
            let channels = to.flat_map(|to| &to.channels);
            let channels = channels.map(|channel| Topic::Channel(app, channel.as_str().into()));
            let topics: Vec<Topic> = users.chain(channels).collect();
            check_reach(&self.bus, &topics)?;
            return Ok(Message::Durable(Box::new(header)));
        }

        let topics = self.topics(app, target, header, &draft.finish(None));
        check_reach(&self.bus, topics.iter().map(|(topic, _)| topic))?;
        Ok(Message::Live {
            id,
            topics,
            receipt,
        })
    }

    /// One envelope for each topic on which the target's connections can be reached.
    fn topics(
        &self,
        app: AppId,
        target: &Target,
        header: Header<'_>,
        frame: &Frame,
    ) -> Vec<(Topic, Bytes)> {
        let to_all = || vec![(Topic::App(app), envelope::event(&header, frame))];
        let Some(to) = &target.to else {
            return to_all();
        };

        let To {
            users,
            channels,
            connections,
        } = to;

        // Each topic gets the names that are its own.
        let one = |topic: Topic, names: Names| {
            let wire_target = WireTarget {
                to: Some(names),
                ..header.wire_target.clone()
            };
            let header = Header {
                wire_target,
                ..header.clone()
            };
            (topic, envelope::event(&header, frame))
        };

        match (&users[..], &channels[..], &connections[..]) {
            // So many messages would cost more than one to all nodes, which each looks at.
            _ if users.len() + channels.len() > TOPICS_APART => to_all(),
            (users, [], []) => distinct(users)
                .map(|user| {
                    let topic = Topic::User(app, user.as_str().into());
                    let users = vec![user];
                    one(
                        topic,
                        Names {
                            users,
                            ..Names::default()
                        },
                    )
                })
                .collect(),
            ([], [], connections) => self
                .by_node(connections)
                .into_iter()
                .map(|(node, connections)| {
                    let names = Names {
                        connections,
                        ..Names::default()
                    };
                    one(Topic::Node(node), names)
                })
                .collect(),
            _ => self.topics_of_several(app, to, header, frame),
        }
    }

    /// The same envelope for each topic of a target that names several kinds.
    fn topics_of_several(
        &self,
        app: AppId,
        to: &To,
        header: Header<'_>,
        frame: &Frame,
    ) -> Vec<(Topic, Bytes)> {
        let users = distinct(&to.users).map(|user| Topic::User(app, user.into()));
        let channels = distinct(&to.channels).map(|channel| Topic::Channel(app, channel.into()));
        let nodes = self.by_node(&to.connections).into_keys().map(Topic::Node);
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

    /// Connections of other nodes, by the node that each id names.
    fn by_node(&self, connections: &[String]) -> BTreeMap<NodeId, Vec<String>> {
        let mut nodes: BTreeMap<NodeId, Vec<String>> = BTreeMap::new();
        for text in connections {
            // Connections of this node were found here already, and what is no id names none.
            if let Ok(id) = text.parse::<ConnectionId>()
                && id.node != self.node
            {
                nodes.entry(id.node).or_default().push(text.clone());
            }
        }
        nodes
    }

    /// Puts a message on its way immediately: what is sent after it comes after it.
    pub(in crate::node) fn send(&self, message: Message) -> Option<Sent> {
        let Message::Live {
            id,
            topics,
            receipt,
        } = message
        else {
            return None;
        };

        // The message is queued when its future is made, so polling the futures later changes no
        // order.
        let publish = |(topic, message): (Topic, Bytes)| -> Published {
            Box::pin(self.bus.publish(&topic, message))
        };

        Some(Sent {
            id,
            published: topics.into_iter().map(publish).collect(),
            receipt,
        })
    }

    /// Whether all messages go by one server, which keeps their order.
    pub(in crate::node) fn has_one_server(&self) -> bool {
        self.bus.has_one_server()
    }

    /// Whether more than half of the room for messages that wait to be sent is taken, where all go by one server.
    pub(in crate::node) fn is_crowded(&self) -> bool {
        self.bus.is_crowded(&Topic::Nodes)
    }

    /// Waits until Redis has the message, and, where its caller wants that, for the other nodes' counts. Nodes that it
    /// may not have reached are named in the receipt.
    pub(in crate::node) async fn sent(&self, app: AppId, sent: Sent, receipt: &mut Receipt) {
        let mut lost = None;
        for published in sent.published {
            if let Err(error) = published.await {
                lost = Some(error);
            }
        }

        if let Some(error) = lost {
            if let Some(others) = self.lines.note(Line::NotReached) {
                tracing::warn!(others, %error, id = %sent.id, "a publication may not have reached the other nodes");
            }
            // Which of them have it is not known, so all of them are named.
            receipt.missing_nodes = self.membership.peers().names(app);
            return;
        }

        if sent.receipt {
            self.add_others(app, sent.id, receipt).await;
        }
    }

    /// Adds what became of the publication `id` on the other nodes.
    pub(in crate::node) async fn add_others(&self, app: AppId, id: Uuid, receipt: &mut Receipt) {
        let responses = self.rpc.call_all(app, &Request::Receipt { id }).await;
        for said in &responses.received {
            match serde_json::from_str::<ReceiptPart>(said.result.get()) {
                Ok(part) => receipt.add_part(part.matched, part.queued, part.filter_errors),
                Err(error) => {
                    if let Some(others) = self.lines.note(Line::BadReceipt) {
                        tracing::warn!(others, %error, "another node's receipt cannot be read");
                    }
                }
            }
        }

        receipt.nodes += responses.received.len() as u32;
        receipt.missing_nodes = responses.missing;
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
