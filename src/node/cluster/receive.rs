//! What comes from the bus: events are placed here in the order in which each node sent them, orders are carried out.

use std::{collections::VecDeque, hash::Hash, sync::Arc};

use ahash::AHashMap;
use bytes::Bytes;
use serde_json::value::to_raw_value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};
use uuid::Uuid;

use super::{
    super::{Node, NodeError, Target, To},
    Cluster,
    kept::{self, Arrived},
    order::{Order, Part, Refusal},
    room::Room,
};
use crate::{
    broker::{Inbox, Incoming, Topic},
    history::{Key, Position},
    hub::{Counts, Reach, Selection, Ticket},
    id::{AppId, NodeId},
    limits::{PROGRAM_BYTES, RECENT_PUBLICATIONS},
    log_limit::Line,
    predicate::Value,
    protocol::{
        envelope::{Aim, Envelope, EnvelopeError, Header, Names, Request},
        event::Draft,
        frame::Frame,
    },
    time_slice::TimeSlice,
};

/// The newest few of something, by id.
#[derive(Debug)]
pub(super) struct Recent<T, K = Uuid> {
    order: VecDeque<K>,
    kept: AHashMap<K, T>,
}

impl<T, K> Default for Recent<T, K> {
    fn default() -> Self {
        Self {
            order: VecDeque::new(),
            kept: AHashMap::new(),
        }
    }
}

impl<T, K: Hash + Eq + Copy> Recent<T, K> {
    /// Keeps `value`, and forgets the oldest beyond [`RECENT_PUBLICATIONS`]; false if the id was there.
    pub(super) fn insert(&mut self, id: K, value: T) -> bool {
        if self.kept.insert(id, value).is_some() {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > RECENT_PUBLICATIONS
            && let Some(oldest) = self.order.pop_front()
        {
            self.kept.remove(&oldest);
        }
        true
    }

    pub(super) fn get(&self, id: &K) -> Option<&T> {
        self.kept.get(id)
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
        room: OwnedSemaphorePermit,
    },
    /// A program says more than a body may have bytes.
    TooLong { app: AppId, bytes: usize },
    /// Another node has done what one was to do of the message with this digest.
    Done { digest: String },
}

/// What hears the bus: its tasks run on one thread.
struct Ear {
    node: Arc<Node>,
    /// Events for everyone that are being placed: in order among each other, and before whatever comes next.
    to_everyone: JoinSet<()>,
    orders: Room,
    programs: mpsc::Sender<Program>,
    /// For the bytes of programs' messages that wait.
    room: Arc<Semaphore>,
}

impl Node {
    /// Takes what comes from the bus until that ends. Messages of programs that act straight through Redis go on to
    /// `programs`. Runs on a `LocalSet`.
    pub(crate) async fn hear(self: Arc<Self>, mut inbox: Inbox, programs: mpsc::Sender<Program>) {
        let orders = Room::new(self.apps.len());
        let mut ear = Ear {
            node: self,
            to_everyone: JoinSet::new(),
            orders,
            programs,
            room: Arc::new(Semaphore::new(PROGRAM_BYTES)),
        };
        let mut slice = TimeSlice::begin();
        while let Some(incoming) = inbox.next().await {
            slice.rest().await;
            match incoming {
                Incoming::Message {
                    topic: Topic::Dispatch(app),
                    payload,
                } => ear.said(app, payload),
                Incoming::Message { payload, .. } => ear.message(&payload).await,
                Incoming::Gap => {
                    tracing::warn!(
                        "events of other nodes may have been missed; kept ones are fetched"
                    );
                    if let Some(cluster) = &ear.node.cluster {
                        ear.node.doubt_stored(cluster).await;
                        cluster.relist();
                        cluster.mail.lose();
                        cluster.behind.notify_one();
                        // Readiness waits for a lease that was not renewed meanwhile.
                        cluster.renew.notify_one();
                    }
                }
            }
        }
    }

    /// Understands what another node says of whom it means.
    pub(super) fn target_of(aim: Aim) -> Result<Target, NodeError> {
        let params = |params: Box<serde_json::value::RawValue>| {
            // It was written from a value.
            Value::from_json(&mut params.get().as_bytes().to_vec(), None)
                .map_err(|_| NodeError::Failed)
        };
        Ok(Target {
            to: aim.to.map(|to| To {
                users: to.users,
                channels: to.channels,
                connections: to.connections,
            }),
            filter: aim.filter,
            params: aim.params.map(params).transpose()?,
            except: aim.except,
        })
    }

    pub(super) async fn selection_of(&self, app: AppId, aim: Aim) -> Result<Selection, NodeError> {
        let target = Self::target_of(aim)?;
        let bound = self.compile_aside_of_bus(app, &target).await?;
        self.select(app, target, bound)
    }

    /// Waits for the gate as long as it takes: for what has been accepted, and is bounded already.
    pub(in super::super) async fn admit_in_time(
        &self,
        selection: &Selection,
        bytes: usize,
    ) -> (Reach, Ticket) {
        loop {
            let reach = self.hub.reach(selection);
            if let Ok(ticket) = self.hub.admit(selection.app, &reach, bytes).await {
                return (reach, ticket);
            }
        }
    }
}

impl Ear {
    async fn message(&mut self, payload: &[u8]) {
        let node = self.node.clone();
        let Some(cluster) = &node.cluster else { return };
        let envelope = Envelope::read(payload);
        if let Ok(envelope) = &envelope {
            cluster.silent.heard(NodeId(envelope.origin()));
        }
        match envelope {
            Ok(Envelope::Event { header, frame }) => self.event(cluster, header, frame).await,
            Ok(Envelope::Kept {
                epoch,
                offset,
                header,
                draft,
            }) => {
                self.kept(cluster, kept::position(epoch, offset), header, &draft)
                    .await;
            }
            Ok(Envelope::Request(request)) => self.request(cluster, &request).await,
            Ok(Envelope::Notices(notices)) => {
                if notices.origin != node.id().0 && !cluster.mail.push(notices) {
                    self.skip("too many notices of members wait");
                }
            }
            Ok(Envelope::Answer(answer)) => cluster.asked.answered(&answer),
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
            aim,
            many,
            receipt,
        } = header;
        if NodeId(origin) == self.node.id() || (many && !cluster.delivered.lock().insert(id, ())) {
            return;
        }
        let Some(app) = cluster.app_named(&app) else {
            return self.skip("its app is not served here");
        };
        let selection = match self.node.selection_of(app, aim).await {
            Ok(selection) => selection,
            Err(error) => return self.skip(&error.to_string()),
        };
        let for_all = selection.is_for_all();
        if !for_all {
            self.settle().await;
        }
        let (reach, ticket) = self.node.admit_in_time(&selection, frame.len()).await;
        let node = self.node.clone();
        let place = async move {
            let counts = node
                .place_from_bus(&selection, reach, &frame, &ticket)
                .await;
            if let (true, Some(cluster)) = (receipt, &node.cluster) {
                cluster.count(id, counts);
            }
        };
        if for_all {
            self.to_everyone.spawn_local(place);
            while self.to_everyone.try_join_next().is_some() {}
        } else {
            place.await;
        }
    }

    async fn kept(
        &mut self,
        cluster: &Cluster,
        position: Position,
        header: Header<'_>,
        draft: &Draft,
    ) {
        let Header {
            id,
            app,
            aim,
            receipt,
            ..
        } = header;
        let Some(app) = cluster.app_named(&app) else {
            return self.skip("its app is not served here");
        };
        let (key, numbered) = match &aim.to {
            Some(Names {
                users, channels, ..
            }) => match (&users[..], &channels[..]) {
                ([user], []) => (Key::user(app, user.as_str().into()), None),
                ([], [channel]) => (
                    Key::channel(app, channel.as_str().into()),
                    Some(position.offset),
                ),
                _ => return self.skip("it is kept, and not for one channel or user"),
            },
            None => return self.skip("it is kept, and for everyone"),
        };
        let selection = match self.node.selection_of(app, aim).await {
            Ok(selection) => selection,
            Err(error) => return self.skip(&error.to_string()),
        };
        self.settle().await;
        let frame = draft.finish(numbered);
        let arrived = Arrived {
            key: key.clone(),
            position,
            id,
            selection,
            frame,
            receipt,
        };
        let counts = self.node.arrive(arrived).await;
        cluster.placed.came(id, &key, counts);
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

    async fn request(&mut self, cluster: &Cluster, request: &Request<'_>) {
        let from = NodeId(request.origin);
        if from == self.node.id() {
            return;
        }
        let order = match serde_json::from_str::<Order>(request.order.get()) {
            Ok(order) => order,
            Err(error) => return self.skip(&format!("its request cannot be read: {error}")),
        };
        if let Order::Hello = order {
            cluster.renew.notify_one();
            return;
        }
        if let Order::Rules { node, apps } = order {
            return self.node.compare_rules(&node, &apps);
        }
        // What follows is about an app, and nodes need not have the same.
        let Some(app) = cluster.app_named(&request.app) else {
            return;
        };
        let (id, node) = (request.id, self.node.clone());
        if let Order::Done { digest } = order {
            return self.program(Program::Done { digest });
        }
        if let Order::Receipt { id: publication } = order {
            // What it asks about came before it, and must be placed to be counted.
            self.settle().await;
            let part = Part::of(
                cluster
                    .counted
                    .lock()
                    .get(&publication)
                    .copied()
                    .unwrap_or_default(),
            );
            let Ok(result) = to_raw_value(&part) else {
                return;
            };
            tokio::task::spawn_local(async move {
                if let Some(cluster) = &node.cluster {
                    node.answer(cluster, from, id, &result).await;
                }
            });
            return;
        }
        let permit = self.orders.take(app, &order);
        tokio::task::spawn_local(async move {
            let Some(cluster) = &node.cluster else { return };
            let result = match permit {
                Some(_permit) => node.obey(app, from, order).await,
                None => to_raw_value(&Refusal {
                    error: "too many requests at once".to_owned(),
                }),
            };
            if let Ok(result) = result {
                node.answer(cluster, from, id, &result).await;
            }
        });
    }

    /// Takes in what a program says, if it is no longer than the body of a call may be.
    fn said(&self, app: AppId, message: Bytes) {
        let bytes = message.len();
        if bytes > self.node.live().config.limits.body_bytes {
            return self.program(Program::TooLong { app, bytes });
        }
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        match self.room.clone().try_acquire_many_owned(permits) {
            Ok(room) => self.program(Program::Said { app, message, room }),
            Err(_) => self.drop_program(),
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

impl Part {
    fn of(counts: Counts) -> Self {
        Self {
            matched: counts.looked.matched,
            queued: counts.queued,
            filter_errors: counts.looked.errors,
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
        assert_eq!(recent.kept.len(), RECENT_PUBLICATIONS);
    }
}
