//! Kept events over the bus: every node places them in the order of their offsets, and notices what it has not heard.
//!
//! For each kept channel that someone here is in, the node knows how far it has placed. What comes again is dropped; where
//! something is missing, by a message lost or a bus that was away, it is fetched from the history and placed first.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{
    super::{Node, NodeError},
    Cluster,
};
use crate::{
    broker::Topic,
    history::{Answer, Appended, Entry, Epoch, Keep, Key, New, Position, Topic as Kept},
    hub::{Counts, Named, Selection},
    id::AppId,
    limits::{FORGET_PLACED, RECOVER_AGAIN},
    log_limit::Line,
    protocol::{
        envelope::{Names, Tails},
        frame::Frame,
        native,
    },
    time_slice::TimeSlice,
};

/// How far this node has placed each kept channel that someone here is in, and who waits for an event of their own.
#[derive(Debug, Default)]
pub(super) struct Placed {
    at: Mutex<AHashMap<Key, Mark>>,
    awaited: Mutex<AHashMap<(Uuid, Key), oneshot::Sender<Counts>>>,
}

/// How far a channel is placed.
#[derive(Clone, Copy, Debug)]
struct Mark {
    position: Position,
    /// Gaps of the bus before the history was asked: if there was none since, nothing was missed since.
    gaps: u64,
}

impl Placed {
    /// Waits for this node's own publication to come back over the bus, by this topic.
    fn expect(&self, id: Uuid, key: &Key) -> oneshot::Receiver<Counts> {
        let (sender, receiver) = oneshot::channel();
        self.awaited.lock().insert((id, key.clone()), sender);
        receiver
    }

    /// Gives up waiting.
    fn forget(&self, id: Uuid, key: &Key) {
        self.awaited.lock().remove(&(id, key.clone()));
    }

    pub(super) fn came(&self, id: Uuid, key: &Key, counts: Counts) {
        let awaited = self.awaited.lock().remove(&(id, key.clone()));
        if let Some(sender) = awaited {
            // Fails only if nobody waits any more.
            let _ = sender.send(counts);
        }
    }

    fn mark(&self, key: &Key) -> Option<Mark> {
        self.at.lock().get(key).copied()
    }

    fn get(&self, key: &Key) -> Option<Position> {
        self.mark(key).map(|mark| mark.position)
    }

    /// Notes what the history says; `gaps` are those before it was asked.
    fn begin(&self, key: &Key, position: Position, gaps: u64) {
        self.at.lock().insert(key.clone(), Mark { position, gaps });
    }

    /// Notes what came by the bus.
    fn set(&self, key: &Key, position: Position) {
        if let Some(mark) = self.at.lock().get_mut(key) {
            mark.position = position;
        }
    }

    fn keys(&self) -> Vec<Key> {
        self.at.lock().keys().cloned().collect()
    }

    fn remove(&self, key: &Key) {
        self.at.lock().remove(key);
    }
}

/// An event on its way into the history, and back from there.
pub(in super::super) struct Appending<'a> {
    placed: &'a Placed,
    id: Uuid,
    key: &'a Key,
    answer: Answer<'a, Appended>,
    /// What becomes of it here; none where nobody here is in its topic, since it does not come back then.
    counts: Option<oneshot::Receiver<Counts>>,
}

impl Appending<'_> {
    /// Waits until the event is kept, and until this node has placed it.
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(in super::super) async fn end(
        mut self,
        within: &mut Patience,
    ) -> Result<(Position, Counts), NodeError> {
        let position = (&mut self.answer).await?.position;
        let counts = match self.counts.take() {
            Some(counts) => within.wait(counts).await.unwrap_or_default(),
            None => Counts::default(),
        };
        Ok((position, counts))
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.placed.forget(self.id, self.key);
    }
}

/// How long a caller waits for what it has kept to come back over the bus: anew for each event, until one has not come.
pub(in super::super) struct Patience(Duration);

impl Patience {
    pub(in super::super) fn new(within: Duration) -> Self {
        Self(within)
    }

    async fn wait(&mut self, counts: oneshot::Receiver<Counts>) -> Option<Counts> {
        let came = tokio::time::timeout(self.0, counts).await;
        if came.is_err() {
            self.0 = Duration::ZERO;
        }
        came.ok()?.ok()
    }
}

/// A kept event that came over the bus.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) key: Key,
    pub(super) position: Position,
    pub(super) id: Uuid,
    pub(super) selection: Selection,
    pub(super) frame: Frame,
    /// Its sender will ask what became of it.
    pub(super) receipt: bool,
}

impl Node {
    /// Brings the members of a kept channel up to `position`, of which the caller has just learned under the channel's
    /// turn: whoever joins now begins behind it, and what the bus brings up to it is dropped.
    ///
    /// # Errors
    /// [`NodeError::History`] where what is missing cannot be had.
    pub(crate) async fn advance(&self, key: &Key, position: Position) -> Result<(), NodeError> {
        let Some(cluster) = &self.cluster else {
            return Ok(());
        };
        match cluster.placed.get(key) {
            Some(at) if at.epoch == position.epoch && at.offset >= position.offset => return Ok(()),
            // What is newer comes to all of them by the bus, the one who joins included.
            Some(at) if self.has_members(key) => {
                self.catch_up(key, at, position.offset, None).await?;
            }
            _ => {}
        }
        let gaps = cluster
            .placed
            .mark(key)
            .map_or_else(|| cluster.gaps.load(SeqCst), |mark| mark.gaps);
        cluster.placed.begin(key, position, gaps);
        Ok(())
    }

    /// Appends an event, which the same step sends to every node that has use for it. It has its place in the order of all
    /// that this node appends when this returns.
    ///
    /// # Errors
    /// [`NodeError::Failed`] without a bus.
    pub(in super::super) fn append_over_bus<'a>(
        &'a self,
        key: &'a Key,
        keep: &'a Keep,
        mut new: New,
        tails: &Tails<'_>,
    ) -> Result<Appending<'a>, NodeError> {
        let Some(cluster) = &self.cluster else {
            return Err(NodeError::Failed);
        };
        let (topic, to) = match &key.topic {
            Kept::User(user) => {
                let to = Names {
                    users: vec![user.to_string()],
                    ..Names::default()
                };
                (Topic::User(key.app, user.clone()), Some(to))
            }
            Kept::Channel(channel) => (Topic::Channel(key.app, channel.clone()), None),
        };
        // Of a list of users each event names its own.
        new.tail = Some(tails.tail(to.as_ref()));
        let id = new.id;
        let comes_back = cluster.bus.interest().is_live(&topic);
        let counts = comes_back.then(|| cluster.placed.expect(id, key));
        let answer = self.history.append(key, keep, new);
        Ok(Appending {
            placed: &cluster.placed,
            id,
            key,
            answer,
            counts,
        })
    }

    /// Places a kept event under its topic's turn, after whatever of the channel is missing before it.
    pub(super) async fn arrive(&self, arrived: Arrived) -> Counts {
        let Some(cluster) = &self.cluster else {
            return Counts::default();
        };
        let Arrived {
            key,
            position,
            id,
            selection,
            frame,
            receipt,
        } = arrived;
        let note = |counts: Counts| {
            if receipt {
                cluster.count(id, counts);
            }
            counts
        };
        let _turn = self.turns.take(&key).await;
        self.history.saw(&key, position);
        let channel = match &key.topic {
            Kept::Channel(channel) => channel,
            Kept::User(user) => {
                let (_, ticket) = self.admit_in_time(&selection, frame.len()).await;
                let mut slice = TimeSlice::begin();
                let placed = self
                    .hub
                    .place_stored((&selection, user), &frame, position, &ticket, &mut slice)
                    .await;
                self.hub.settle_ticket(&ticket, placed.counts.queued);
                if placed.is_held {
                    cluster.clear_doubts();
                }
                return note(placed.counts);
            }
        };
        match cluster.placed.get(&key) {
            // Nobody here is in it.
            None => return Counts::default(),
            Some(at) if at.epoch == position.epoch && at.offset >= position.offset => {
                return Counts::default();
            }
            Some(at) if at.epoch == position.epoch && at.offset + 1 == position.offset => {}
            Some(at) => {
                let came = Some(position);
                if let Err(error) = self.catch_up(&key, at, u64::MAX, came).await {
                    if let Some(others) = self.lines().note(Line::NotFetched) {
                        tracing::warn!(others, %error, %channel, "events that were missed could not be fetched yet");
                    }
                    cluster.behind.notify_one();
                    return Counts::default();
                }
                if let Some(now) = cluster
                    .placed
                    .get(&key)
                    .filter(|now| now.epoch != position.epoch)
                {
                    // Of a numbering that has ended: who kept it may have lost it.
                    self.tell_epoch(key.app, channel, now, false).await;
                }
                // It was among them.
                return cluster.counted.lock().get(&id).copied().unwrap_or_default();
            }
        }
        let (reach, ticket) = self.admit_in_time(&selection, frame.len()).await;
        let counts = self
            .place_from_bus(&selection, reach, &frame, &ticket)
            .await;
        cluster.placed.set(&key, position);
        note(counts)
    }

    /// Fetches what was missed of kept channels, whenever something may have been, until the runtime ends. What cannot be
    /// had is tried again until it can.
    pub(crate) async fn keep_up(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        let mut ticks = tokio::time::interval(FORGET_PLACED);
        loop {
            tokio::select! {
                () = cluster.behind.notified() => {}
                _ = ticks.tick() => {
                    self.forget_left(cluster).await;
                    continue;
                }
            }
            while !self.recover(cluster).await {
                tokio::time::sleep(RECOVER_AGAIN).await;
            }
        }
    }

    /// Fetches what was missed of every kept channel that someone here is in; what is certain to be missing is told.
    /// False if some of it could not be had.
    async fn recover(&self, cluster: &Cluster) -> bool {
        let mut is_whole = true;
        for key in cluster.placed.keys() {
            let _turn = self.turns.take(&key).await;
            if !self.has_members(&key) {
                cluster.placed.remove(&key);
                continue;
            }
            let Some(at) = cluster.placed.get(&key) else {
                continue;
            };
            if let Err(error) = self.catch_up(&key, at, u64::MAX, None).await {
                tracing::debug!(%error, "events that were missed could not be fetched yet");
                is_whole = false;
            }
        }
        is_whole
    }

    /// Forgets how far channels were placed that nobody here is in any more.
    async fn forget_left(&self, cluster: &Cluster) {
        for key in cluster.placed.keys() {
            if !self.has_members(&key) {
                // Whoever joins just now holds the turn until they are in.
                let _turn = self.turns.take(&key).await;
                if !self.has_members(&key) {
                    cluster.placed.remove(&key);
                }
            }
        }
    }

    fn has_members(&self, key: &Key) -> bool {
        match &key.topic {
            Kept::Channel(channel) => self.count(key.app, channel).connections > 0,
            Kept::User(_) => false,
        }
    }

    /// Places what came after `at`, up to the offset `until`. The members are told first where it is of another epoch, and
    /// where not all of it is there any more. `came` is the event by which the bus told of it, if it did.
    async fn catch_up(
        &self,
        key: &Key,
        at: Position,
        until: u64,
        came: Option<Position>,
    ) -> Result<(), NodeError> {
        let (Some(cluster), Kept::Channel(channel)) = (&self.cluster, &key.topic) else {
            return Ok(());
        };
        let Some(keep) = self.app(key.app).rule(channel).keep else {
            return Ok(());
        };
        let gaps = cluster.gaps.load(SeqCst);
        let epoch = at.epoch.to_string();
        let mut recovery = self
            .history
            .since(key, &keep, Some(&epoch), at.offset)
            .await?;
        // A numbering that never had an event is soon forgotten, and whoever listened all the time knows that it had none.
        let has_listened = cluster
            .placed
            .mark(key)
            .is_some_and(|mark| mark.gaps == gaps);
        let is_all = recovery.entries.len() as u64 == recovery.position.offset;
        recovery.recovered |= at.offset == 0 && has_listened && is_all;

        // Nor is anything lost where Redis has forgotten a numbering, as it does when nothing was sent for long: who listened
        // all the time has the whole of the former one, and this is the first event of the one that follows.
        let has_first = came.is_some_and(|came| {
            let first = recovery.entries.first();
            came.epoch == recovery.position.epoch
                && first.is_some_and(|first| first.offset <= came.offset)
        });
        recovery.recovered |=
            came.is_some_and(|came| came.epoch != at.epoch) && has_listened && has_first;
        let missed = recovery
            .entries
            .iter()
            .filter(|entry| entry.offset > recovery.shared);
        if !recovery.recovered || recovery.position.epoch != at.epoch {
            let first = missed
                .clone()
                .next()
                .map_or(recovery.position.offset, |entry| entry.offset - 1);
            let from = Position {
                offset: first,
                ..recovery.position
            };
            self.tell_epoch(key.app, channel, from, recovery.recovered)
                .await;
        }
        for entry in missed.filter(|entry| entry.offset <= until) {
            let counts = self.place_entry(key.app, channel, entry).await;
            cluster.count(entry.id, counts);
            cluster.placed.came(entry.id, key, counts);
        }
        self.metrics
            .bus_recovered
            .inc_by(recovery.entries.len() as u64);
        cluster.placed.begin(key, recovery.position, gaps);
        Ok(())
    }

    /// Tells the members of `channel` the position that what comes goes on from, and whether they have all before it:
    /// `joined`.
    async fn tell_epoch(&self, app: AppId, channel: &SmolStr, position: Position, recovered: bool) {
        let position = native::Position {
            epoch: position.epoch.to_string().into(),
            offset: position.offset,
        };
        let told = native::goes_on(channel, &position, recovered);
        let selection = of_channel(app, channel);
        self.hub
            .sweep(&selection, |table, slot| {
                if let Some(at) = table.reference(slot) {
                    table.place_own(at, told.clone());
                }
            })
            .await;
    }

    /// Places a kept event for the members of its channel that it is for.
    async fn place_entry(&self, app: AppId, channel: &SmolStr, entry: &Entry) -> Counts {
        let selection = of_channel(app, channel);
        let (_, ticket) = self.admit_in_time(&selection, entry.frame.len()).await;
        let mut counts = Counts::default();
        self.hub
            .sweep(&selection, |table, slot| {
                let Some(connection) = table.open_connection(slot) else {
                    return;
                };
                counts.looked.at += 1;
                if entry.is_for(&connection.reader()) {
                    counts.looked.matched += 1;
                    counts.queued += u64::from(table.place(slot, &entry.frame, &ticket));
                }
            })
            .await;
        self.hub.settle_ticket(&ticket, counts.queued);
        counts
    }
}

fn of_channel(app: AppId, channel: &str) -> Selection {
    Selection {
        named: Some(Named::channel(channel)),
        ..Selection::everyone(app)
    }
}

/// The position that a message of the bus names.
pub(super) fn position(epoch: u64, offset: u64) -> Position {
    Position {
        epoch: Epoch::of(epoch),
        offset,
    }
}
