//! Messages from the bus: events are placed here in the order in which each node sent them, orders are carried out.

use std::{collections::VecDeque, hash::Hash, sync::Arc};

use ahash::AHashMap;
use bytes::Bytes;
use serde_json::value::to_raw_value;
use tokio::{sync::mpsc, task::JoinSet};
use uuid::Uuid;

use super::{
    super::{Node, mesa::MesaChannel},
    Cluster,
    arrivals::Arrived,
    call_limit::{CallLimit, ProgramBytes, ProgramRoom},
    durable,
    rpc_handler::handle_request,
    rpc_request::{ReceiptPart, Refusal, Request},
};
use crate::{
    bus::{Inbox, Incoming, Topic},
    history::{Key, Position, Topic as Durable},
    hub::Counts,
    id::{AppId, NodeId},
    limits::{PROGRAM_BYTES, RECENT_PUBLICATIONS},
    log_limit::Line,
    protocol::{
        envelope::{Envelope, EnvelopeError, Header, Names, WireRequest, WireTarget},
        event::Draft,
        frame::Frame,
    },
    time_slice::TimeSlice,
};

/// The newest few of something, by id.
#[derive(Debug)]
pub(super) struct Recent<T, K = Uuid> {
    order: VecDeque<K>,
    values: AHashMap<K, T>,
}

impl<T, K> Default for Recent<T, K> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            values: AHashMap::new(),
        }
    }
}

impl<T, K: Hash + Eq + Copy> Recent<T, K> {
    /// Keeps `value`, and forgets the oldest beyond [`RECENT_PUBLICATIONS`]; false if the id was there.
    pub(super) fn insert(&mut self, id: K, value: T) -> bool {
        if self.values.insert(id, value).is_some() {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > RECENT_PUBLICATIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.values.remove(&oldest);
        }
        true
    }

    pub(super) fn get(&self, id: &K) -> Option<&T> {
        self.values.get(id)
    }
}

/// What the bus brings of programs that act straight through Redis.
#[derive(Debug)]
pub(crate) enum Program {
    /// What a program says.
    Said {
        app: AppId,
        message: Bytes,
        /// Held while the message waits.
        room: ProgramBytes,
    },
    /// Something of Mesa's programs.
    Mesa {
        app: AppId,
        channel: MesaChannel,
        payload: Bytes,
        /// Held while it waits.
        room: ProgramBytes,
    },
    /// A program says more than a body may have bytes.
    TooLong { app: AppId, bytes: usize },
    /// Another node has done what one was to do of the messages with these digests.
    Done { app: AppId, digests: Vec<String> },
}

impl Program {
    /// The app that it is about.
    pub(crate) fn app(&self) -> AppId {
        match self {
            Self::Said { app, .. }
            | Self::Mesa { app, .. }
            | Self::TooLong { app, .. }
            | Self::Done { app, .. } => *app,
        }
    }
}

/// What hears the bus: its tasks run on one thread.
///
/// It has the whole node, and is the only part of the cluster that does: what other nodes request is carried out by the node
/// as its own calls are, and whom an event means is found as for its own publications. All else goes to the component that
/// it concerns.
struct BusReceiver {
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    /// Publications that came by several topics, and were delivered.
    delivered: Recent<()>,
    /// Events for everyone that are being placed: in order among each other, and before whatever comes next.
    to_everyone: JoinSet<()>,
    requests: CallLimit,
    programs: mpsc::Sender<Program>,
    /// Room for the bytes of programs' messages that wait.
    room: ProgramRoom,
}

/// Takes what comes from the bus until that ends. Messages of programs that act straight through Redis go on to `dispatch_consumer`. Runs
/// on a `LocalSet`.
pub(crate) async fn hear(
    node: Arc<Node>,
    cluster: Arc<Cluster>,
    mut inbox: Inbox,
    programs: mpsc::Sender<Program>,
) {
    let apps = node.apps.len();
    let mut receiver = BusReceiver {
        requests: CallLimit::new(apps),
        node,
        cluster,
        delivered: Recent::default(),
        to_everyone: JoinSet::new(),
        programs,
        room: ProgramRoom::new(PROGRAM_BYTES, apps),
    };

    let mut slice = TimeSlice::begin();
    while let Some(incoming) = inbox.next().await {
        slice.rest().await;
        let Incoming { topic, payload } = incoming;
        match topic {
            Topic::Dispatch(app) => receiver.said(app, payload),
            Topic::Raw(_) | Topic::Mesa(_) => receiver.mesa_said(&topic, payload),
            _ => {
                let is_to_one = matches!(topic, Topic::Node(_));
                receiver.message(&payload, is_to_one).await;
            }
        }
    }
}

/// Answers how many a publication has reached here, once it is placed.
fn answer_receipt(cluster: &Cluster, (from, id): (NodeId, u64), publication: Uuid) {
    let (rpc, replicator) = (cluster.rpc.clone(), cluster.replicator.clone());
    tokio::task::spawn_local(async move {
        replicator.arrivals().settled(publication).await;
        let counts = replicator.counts_of(publication);
        if let Ok(result) = to_raw_value(&ReceiptPart::of(counts.unwrap_or_default())) {
            rpc.answer(from, id, &result).await;
        }
    });
}

impl BusReceiver {
    /// Takes a message of another node. `is_to_one`: it went to this node alone.
    async fn message(&mut self, payload: &[u8], is_to_one: bool) {
        let (node, cluster) = (self.node.clone(), self.cluster.clone());
        match Envelope::read(payload) {
            Ok(Envelope::Event { header, frame }) => self.event(&cluster, header, frame).await,
            Ok(Envelope::Durable {
                epoch,
                offset,
                header,
                draft,
            }) => {
                self.receive_durable(&cluster, durable::position(epoch, offset), header, &draft)
                    .await;
            }
            Ok(Envelope::Request(request)) => self.request(&cluster, &request, is_to_one).await,
            Ok(Envelope::Notices(notices)) => {
                // A copy is for nodes of version 1.
                let is_for_this = notices.origin != node.id().0 && !notices.is_copy;
                if is_for_this && !cluster.notices.take_in_notices(notices) {
                    self.skip("too many notices of members wait");
                }
            }
            Ok(Envelope::Answer(answer)) => cluster.rpc.answered(&answer),
            Err(error @ EnvelopeError::Version(_)) => {
                node.metrics.bus_unknown_version.inc();
                tracing::debug!(%error, "a message of another node was skipped");
            }
            Err(error) => {
                node.metrics.bus_skipped.inc();
                tracing::debug!(%error, "a message of another node was skipped");
            }
        }
    }

    async fn event(&mut self, cluster: &Cluster, header: Header<'_>, frame: Frame) {
        let Header {
            origin,
            id,
            app,
            wire_target,
            many,
            receipt,
        } = header;

        // This node has placed its own where they were published.
        if NodeId(origin) == self.node.id() || (many && !self.delivered.insert(id, ())) {
            return;
        }
        let Some(app) = cluster.apps.id_of(&app) else {
            return self.skip("its app is not served here");
        };

        let key = topic_of(app, &wire_target);
        let selection = match self.node.selection_of(app, wire_target).await {
            Ok(selection) => selection,
            Err(error) => return self.skip(&error.to_string()),
        };

        // Several of them may be placed as one batch, in their order. Whatever else comes may be
        // for one of the same connections, and so waits for all of them.
        let for_all = selection.is_for_all();
        if !for_all {
            self.settle().await;
        }

        // Stored events of this topic were sent before it, and wait for the topic's lock.
        if let Some(key) = key.filter(|key| cluster.replicator.arrivals().is_waiting(key)) {
            let arrived = Arrived {
                key,
                position: None,
                id,
                selection,
                frame,
                receipt,
            };
            return cluster.replicator.arrive(arrived).await;
        }

        let (reach, permit) = self.node.hub.admit_in_time(&selection, frame.len()).await;
        let replicator = cluster.replicator.clone();
        let place = async move {
            let counts = replicator
                .place_from_bus(&selection, reach, &frame, &permit)
                .await;
            if receipt {
                replicator.note_counts(id, counts);
            }
        };

        if for_all {
            self.to_everyone.spawn_local(place);
            // Only forgets those that have ended.
            while self.to_everyone.try_join_next().is_some() {}
        } else {
            place.await;
        }
    }

    async fn receive_durable(
        &mut self,
        cluster: &Cluster,
        position: Position,
        header: Header<'_>,
        draft: &Draft,
    ) {
        let Header {
            id,
            app,
            wire_target,
            receipt,
            ..
        } = header;

        let Some(app) = cluster.apps.id_of(&app) else {
            return self.skip("its app is not served here");
        };
        let Some(key) = topic_of(app, &wire_target) else {
            return self.skip("it is stored, and not for one channel or user");
        };

        // Clients know the offsets of channels. Those of users are between the node and the store:
        // a client confirms by a pong.
        let numbered = matches!(key.topic, Durable::Channel(_)).then_some(position.offset);
        let selection = match self.node.selection_of(app, wire_target).await {
            Ok(selection) => selection,
            Err(error) => return self.skip(&error.to_string()),
        };

        self.settle().await;
        let frame = draft.finish(numbered);
        let arrived = Arrived {
            key,
            position: Some(position),
            id,
            selection,
            frame,
            receipt,
        };

        cluster.replicator.arrive(arrived).await;
    }

    fn skip(&self, reason: &str) {
        self.node.metrics.bus_skipped.inc();
        if let Some(others) = self.node.lines().note(Line::SkippedEvent) {
            tracing::warn!(others, reason, "an event of another node was skipped");
        }
    }

    /// Waits until what came before is placed.
    async fn settle(&mut self) {
        while self.to_everyone.join_next().await.is_some() {}
    }

    async fn request(&mut self, cluster: &Cluster, request: &WireRequest<'_>, is_to_one: bool) {
        let from = NodeId(request.origin);
        if from == self.node.id() {
            return;
        }

        let rpc = match serde_json::from_str::<Request>(request.order.get()) {
            Ok(rpc) => rpc,
            Err(error) => {
                // A newer node asks for something new, and need not wait.
                self.refuse(request, format!("the request is not known here: {error}"));
                return self.skip(&format!("its request cannot be read: {error}"));
            }
        };

        if let Request::Hello = rpc {
            cluster.membership.renew_now();
            return;
        }
        if let Request::LookAgain = rpc {
            return cluster.notices.lose();
        }
        if let Request::Rules { node, apps } = rpc {
            return cluster.rules.compare(&node, &apps);
        }

        // What follows is about an app, and nodes need not have the same.
        let Some(app) = cluster.apps.id_of(&request.app) else {
            // A request to all nodes goes to those that serve the app, and no answer is expected of the others.
            if is_to_one {
                self.refuse(request, "the app is not served here".to_owned());
            }
            return;
        };

        let id = request.id;
        match rpc {
            Request::Done { digest } => {
                let digests = vec![digest];
                self.program(Program::Done { app, digests });
            }
            Request::DoneTogether { digests } => self.program(Program::Done { app, digests }),
            Request::Receipt { id: publication } => {
                // What it asks about came before it, and must be placed to be counted.
                self.settle().await;
                answer_receipt(cluster, (from, id), publication);
            }
            rpc => self.carry_out(app, (from, id), rpc),
        }
    }

    /// Carries out a request about an app, and answers it, beside the loop: it may wait for Redis, and no event after it should.
    fn carry_out(&self, app: AppId, (from, id): (NodeId, u64), rpc: Request) {
        // All who may come back from a node that departs are asked for at the same time. These wait for its list, and do nothing.
        let is_of_list = matches!(rpc, Request::Recall { .. } | Request::Settle { .. });
        let permit = if is_of_list && self.cluster.membership.departs() {
            Some(None)
        } else {
            self.requests.take(app, &rpc).map(Some)
        };
        let (node, cluster) = (self.node.clone(), self.cluster.clone());
        tokio::task::spawn_local(async move {
            let result = match permit {
                Some(_permit) => handle_request(&node, &cluster, (app, from), rpc).await,
                None => to_raw_value(&Refusal {
                    error: "too many requests at the same time".to_owned(),
                }),
            };
            if let Ok(result) = result {
                cluster.rpc.answer(from, id, &result).await;
            }
        });
    }

    /// Answers a request that is not carried out, if an answer is expected.
    fn refuse(&self, request: &WireRequest<'_>, error: String) {
        let (from, id) = (NodeId(request.origin), request.id);
        if id == 0 {
            return;
        }
        let rpc = self.cluster.rpc.clone();
        tokio::task::spawn_local(async move {
            if let Ok(result) = to_raw_value(&Refusal { error }) {
                rpc.answer(from, id, &result).await;
            }
        });
    }

    /// Takes in what a program says, if it is no longer than the body of a call may be.
    fn said(&self, app: AppId, message: Bytes) {
        let bytes = message.len();
        if bytes > self.node.runtime_config().config.limits.body_bytes {
            return self.program(Program::TooLong { app, bytes });
        }
        match self.room.take(app, bytes) {
            Some(room) => self.program(Program::Said { app, message, room }),
            None => self.drop_program(),
        }
    }

    /// Takes in what is heard of Mesa's programs. What was decided about a message is a little longer than that.
    fn mesa_said(&self, topic: &Topic, payload: Bytes) {
        let Some((app, channel)) = self.node.mesa.channel(topic) else {
            return;
        };

        let bytes = payload.len();
        let is_long = bytes > self.node.runtime_config().config.limits.body_bytes;
        if is_long && channel != MesaChannel::Settled {
            return self.program(Program::TooLong { app, bytes });
        }

        match self.room.take(app, bytes) {
            Some(room) => self.program(Program::Mesa {
                app,
                channel,
                payload,
                room,
            }),
            None => self.drop_program(),
        }
    }

    fn program(&self, program: Program) {
        if self.programs.try_send(program).is_err() {
            self.drop_program();
        }
    }

    fn drop_program(&self) {
        self.node.metrics.bus_skipped.inc();
        if let Some(others) = self.node.lines().note(Line::ProgramsOverflow) {
            tracing::warn!(others, "a message of a program was dropped: too many wait");
        }
    }
}

/// The one user or channel that is meant, if it is one.
fn topic_of(app: AppId, wire_target: &WireTarget) -> Option<Key> {
    let Names {
        users,
        channels,
        connections,
    } = wire_target.to.as_ref()?;
    match (&users[..], &channels[..]) {
        ([user], []) if connections.is_empty() => Some(Key::user(app, user.as_str().into())),
        ([], [channel]) if connections.is_empty() => {
            Some(Key::channel(app, channel.as_str().into()))
        }
        _ => None,
    }
}

impl ReceiptPart {
    fn of(counts: Counts) -> Self {
        Self {
            matched: counts.scan.matched,
            queued: counts.queued,
            filter_errors: counts.scan.errors,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_few_are_known() {
        let mut recent = Recent::<usize, usize>::default();
        for id in 0..RECENT_PUBLICATIONS + 10 {
            assert!(recent.insert(id, id));
        }
        assert!(!recent.insert(10, 0));
        assert_eq!((recent.get(&9), recent.get(&10)), (None, Some(&0)));
        assert_eq!(recent.values.len(), RECENT_PUBLICATIONS);
    }
}
