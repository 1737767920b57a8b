//! Durable events over the bus: every node places them in the order of their offsets, and notices what it has not heard.
//!
//! For each durable channel that someone here is in, the node knows how far it has placed (its watermark). What comes again is
//! dropped. What is missing, by a message lost or a bus that was away, is fetched from the history and placed first.
//!
//! An event is placed under its topic's lock. The task that takes messages from the bus does so itself if nobody has
//! the lock and nothing has to be fetched. Otherwise the event goes to the topic's queue.

mod appending;
mod catching_up;
mod joining;

use std::sync::Arc;

use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::Notify;
use uuid::Uuid;

use self::appending::Awaited;
pub(in crate::node) use self::{
    appending::{Appending, EchoTimeout},
    joining::JoinLock,
};
use super::{
    super::topic_locks::TopicLocks,
    Handles, Task,
    arrivals::{Arrivals, Arrived},
    receive::Recent,
    replays::Replays,
    stored::UserEventSync,
    watermarks::Watermarks,
};
use crate::{
    app::Apps,
    bus::{Bus, SubscriptionState, Topic},
    history::{Epoch, History, Key, Position, Topic as HistoryTopic},
    hub::{Counts, Hub, Permit, Reach, Selection},
    log_limit::Line,
    protocol::frame::Frame,
    time_slice::TimeSlice,
};

/// Places durable events of all nodes here, in the order of their offsets, and stores those of this node for all.
///
/// It owns how far each channel is placed ([`Watermarks`]), the events that wait for their topic's lock ([`Arrivals`]),
/// who waits for an event of their own ([`Awaited`]), what clients are handed who join at the same time ([`Replays`]), and what
/// became of publications whose senders will ask.
///
/// The task that hears the bus gives it what comes from other nodes. [`Node`](super::super::Node) stores by it, and
/// asks it for the position of a channel for a client that joins. What is done about gaps (`missed.rs`) taints its
/// watermarks.
#[derive(Debug)]
pub(in crate::node) struct Replicator {
    bus: Arc<Bus>,
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    topic_locks: Arc<TopicLocks>,
    apps: Arc<Apps>,
    stored: Arc<UserEventSync>,
    watermarks: Watermarks,
    awaited: Awaited,
    arrivals: Arrivals,
    replays: Replays,
    /// What became of publications whose senders will ask.
    counted: Mutex<Recent<Counts>>,
    /// A channel is tainted.
    is_behind: Notify,
}

impl Replicator {
    pub(super) fn new(handles: &Handles<'_>, stored: &Arc<UserEventSync>) -> Self {
        Self {
            bus: handles.bus.clone(),
            hub: handles.hub.clone(),
            history: handles.history.clone(),
            topic_locks: handles.topic_locks.clone(),
            apps: handles.apps.clone(),
            stored: stored.clone(),
            watermarks: Watermarks::default(),
            awaited: Awaited::default(),
            arrivals: Arrivals::default(),
            replays: Replays::default(),
            counted: Mutex::default(),

            is_behind: Notify::new(),
        }
    }

    /// What it does until the runtime ends, by name.
    pub(super) fn tasks(self: &Arc<Self>) -> [(&'static str, Task); 1] {
        [("missed events", Box::pin(self.clone().run_catch_up()))]
    }

    /// The events that wait for their topic's lock.
    pub(super) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// Notes that something may have been missed of the durable channels that `is_meant` names, and has it fetched.
    pub(super) async fn taint(&self, is_meant: impl Fn(&Key) -> bool) {
        // A client that joins in the meantime is not misled: its join sees the gap by itself
        // (`SubscriptionState`), and asks the history.
        let mut slice = TimeSlice::begin();
        for stripe in self.watermarks.stripes() {
            stripe.taint(&is_meant);
            slice.rest().await;
        }
        self.is_behind.notify_one();
    }

    /// Adds what became of a publication here, for its sender.
    pub(super) fn note_counts(&self, id: Uuid, counts: Counts) {
        let mut counted = self.counted.lock();
        // To several users it came as several messages.
        let before = counted.get(&id).copied().unwrap_or_default();
        counted.insert(id, before + counts);
    }

    /// What became of a publication here, if it is one of the last.
    pub(super) fn counts_of(&self, id: Uuid) -> Option<Counts> {
        self.counted.lock().get(&id).copied()
    }

    /// What this node hears of a durable topic now.
    fn subscription_state_of(&self, key: &Key) -> SubscriptionState {
        self.bus.subscription_state(&topic(key))
    }

    /// Whether an event can be placed without asking the history. To be called under the topic's lock.
    fn can_place(&self, arrived: &Arrived) -> bool {
        match (&arrived.key.topic, arrived.position) {
            (HistoryTopic::Channel(_), Some(position)) => {
                let at = self.watermarks.get(&arrived.key);
                at.is_none_or(|at| Step::of(at, position) != Step::Beyond)
            }
            _ => true,
        }
    }
    /// Places an event that came over the bus if nothing waits for its topic and nothing has to be fetched before it.
    /// Otherwise it has to wait.
    pub(super) async fn arrive(self: &Arc<Self>, arrived: Arrived) {
        // Not past those that wait, which came first.
        if !self.arrivals.is_waiting(&arrived.key)
            && let Some(_topic_lock) = self.topic_locks.try_lock(&arrived.key)
            && self.can_place(&arrived)
        {
            return self.place_arrived(arrived).await;
        }

        let key = arrived.key.clone();
        let pushed = self.arrivals.push(arrived);
        if pushed.is_dropped {
            self.bus.gaps().note_dropped(&topic(&key));
            self.hub.context().metrics.bus.dropped.inc();
            if let Some(others) = self.hub.context().lines.note(Line::ArrivalsOverflow) {
                tracing::warn!(others, topic = ?key.topic, "an event of a busy channel was dropped, to be fetched later");
            }
        }

        if pushed.begins {
            tokio::task::spawn_local(self.clone().place_waiting(key));
        }
    }

    /// Places what waits for a topic, in order, until nothing does.
    async fn place_waiting(self: Arc<Self>, key: Key) {
        let mut slice = TimeSlice::begin();
        loop {
            let turn = self.topic_locks.lock(&key).await;
            loop {
                let Some(arrived) = self.arrivals.next(&key) else {
                    return;
                };
                let asked = arrived.receipt.then_some(arrived.id);
                self.place_arrived(arrived).await;
                asked.inspect(|id| self.arrivals.note_placed(*id));
                // Clients that join wait for the lock too.
                if slice.is_spent() {
                    break;
                }
            }

            drop(turn);
            slice.rest().await;
        }
    }

    /// Places an event under its topic's lock, after whatever of the channel is missing before it.
    async fn place_arrived(&self, arrived: Arrived) {
        let (id, key) = (arrived.id, arrived.key.clone());
        let is_counted = arrived.receipt;
        let counts = match (&key.topic, arrived.position) {
            (HistoryTopic::User(user), Some(position)) => {
                // The history notices by it when Redis has gone back to before this.
                self.history.saw(&key, position);
                Some(self.place_for_user(user, position, &arrived).await)
            }
            (HistoryTopic::Channel(channel), Some(position)) => {
                self.history.saw(&key, position);
                self.place_in_channel(channel, position, &arrived).await
            }
            (_, None) => Some(self.place_live(&arrived).await),
        };

        if let Some(counts) = counts
            && is_counted
        {
            self.note_counts(id, counts);
        }

        let counts = counts.or_else(|| self.counts_of(id));
        self.awaited.came(id, &key, counts.unwrap_or_default());
    }

    /// Places a stored event of a user.
    async fn place_for_user(
        &self,
        user: &SmolStr,
        position: Position,
        arrived: &Arrived,
    ) -> Counts {
        let Arrived {
            selection, frame, ..
        } = arrived;

        // Before the event is placed, or it would be taken for the next one.
        self.stored.suspect_before(arrived.key.app, user).await;
        let (_, permit) = self.hub.admit_in_time(selection, frame.len()).await;
        let mut slice = TimeSlice::begin();

        let placed = self
            .hub
            .place_stored((selection, user), frame, position, &permit, &mut slice)
            .await;
        self.hub.settle_permit(&permit, placed.counts.queued);
        if placed.is_held {
            self.stored.clear_suspected_gaps();
        }

        placed.counts
    }

    /// Places an event of a durable channel as the next, fetches what is missing before it, or drops it as a repetition. Returns
    /// nothing if it was fetched, and so counted, or may be later.
    async fn place_in_channel(
        &self,
        channel: &SmolStr,
        position: Position,
        arrived: &Arrived,
    ) -> Option<Counts> {
        let key = &arrived.key;
        let Some(at) = self.watermarks.get(key) else {
            // Those who are in a channel that is not durable by this node's own rule, or was not when they came, get it as it
            // comes: while a rule is rolled out, nodes differ.
            return Some(self.place_live(arrived).await);
        };

        match Step::of(at, position) {
            Step::Before => return Some(Counts::default()),
            Step::Next => {
                let counts = self.place_live(arrived).await;
                self.watermarks.advance(key, position);
                return Some(counts);
            }
            Step::Beyond => {}
        }

        let came = Some(position);
        if let Err(error) = self.catch_up(key, at, u64::MAX, came).await {
            if let Some(others) = self.hub.context().lines.note(Line::NotFetched) {
                tracing::warn!(others, %error, %channel, "events that were missed could not be fetched yet");
            }
            self.watermarks.fetch_later(key);
            self.is_behind.notify_one();
            return Some(Counts::default());
        }

        let now = self.watermarks.get(key);
        if let Some(now) = now.filter(|now| now.epoch != position.epoch) {
            // Of a numbering that has ended: the node that stored it may have lost it.
            self.notify_epoch(key.app, channel, now, false).await;
        }

        None
    }

    /// Places an event of another node, for whom it means here.
    pub(super) async fn place_from_bus(
        &self,
        selection: &Selection,
        reach: Reach,
        frame: &Frame,
        permit: &Permit,
    ) -> Counts {
        let scan_permit = self.hub.permit_to_reach(selection, &reach).await;
        let counts = self.hub.place_reach(selection, reach, frame, permit).await;
        drop(scan_permit);
        let metrics = &self.apps.get(selection.app).metrics;
        metrics.filter_errors.inc_by(counts.scan.errors);
        counts
    }

    async fn place_live(&self, arrived: &Arrived) -> Counts {
        let Arrived {
            selection, frame, ..
        } = arrived;
        let (reach, permit) = self.hub.admit_in_time(selection, frame.len()).await;
        self.place_from_bus(selection, reach, frame, &permit).await
    }

    fn has_members(&self, key: &Key) -> bool {
        match &key.topic {
            HistoryTopic::Channel(channel) => {
                self.hub.presence(key.app).count(channel).connections > 0
            }
            HistoryTopic::User(_) => false,
        }
    }
}

/// How an event compares with what is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It is placed already.
    Before,
    /// It is the next.
    Next,
    /// Something is missing before it, or it is of another numbering.
    Beyond,
}

impl Step {
    fn of(at: Position, position: Position) -> Self {
        if at.epoch != position.epoch || at.offset + 1 < position.offset {
            Self::Beyond
        } else if at.offset < position.offset {
            Self::Next
        } else {
            Self::Before
        }
    }
}

/// The topic of the bus on which the events of `key` come.
pub(super) fn topic(key: &Key) -> Topic {
    match &key.topic {
        HistoryTopic::User(user) => Topic::User(key.app, user.clone()),
        HistoryTopic::Channel(channel) => Topic::Channel(key.app, channel.clone()),
    }
}

/// The position that a message of the bus names.
pub(super) fn position(epoch: u64, offset: u64) -> Position {
    Position {
        epoch: Epoch::of(epoch),
        offset,
    }
}
