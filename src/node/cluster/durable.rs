//! Durable events over the bus: every node places them in the order of their offsets, and notices what it has not heard.
//!
//! For each durable channel that someone here is in, the node knows how far it has placed (its watermark). What comes again is
//! dropped. What is missing, by a message lost or a bus that was away, is fetched from the history and placed first.
//!
//! An event is placed under its topic's lock. The task that takes messages from the bus does so itself if nobody has
//! the lock and nothing has to be fetched. Otherwise the event goes to the topic's queue.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::{
    super::{
        NodeError,
        topic_locks::{TopicGuard, TopicLocks},
    },
    Handles, Task,
    arrivals::{Arrivals, Arrived},
    missed::{Fetches, before_fetching_again},
    receive::Recent,
    replays::{Joining, Replays},
    stored::UserEventSync,
    watermarks::{Stripe, Watermarks},
};
use crate::{
    app::Apps,
    bus::{Bus, SubscriptionState, Topic},
    history::{
        Appended, Entry, Epoch, History, HistoryFuture, Key, New, Position, Recovery, Retention,
        Topic as HistoryTopic,
    },
    hub::{Counts, Hub, Permit, Reach, Recipients, Selection},
    id::AppId,
    limits::{FORGET_PLACED, HISTORY_QUIET, RECOVER_CHANNELS},
    log_limit::Line,
    protocol::{
        envelope::{Names, Tails},
        frame::Frame,
        native::{self, Since},
    },
    time_slice::TimeSlice,
};

/// The callers that wait for an event of their own to come back over the bus.
#[derive(Debug, Default)]
struct Awaited(Mutex<AHashMap<(Uuid, Key), oneshot::Sender<Counts>>>);

impl Awaited {
    /// Waits for this node's own publication to come back over the bus, by this topic.
    fn expect(&self, id: Uuid, key: &Key) -> oneshot::Receiver<Counts> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert((id, key.clone()), sender);
        receiver
    }

    /// Gives up waiting.
    fn forget(&self, id: Uuid, key: &Key) {
        self.0.lock().remove(&(id, key.clone()));
    }

    fn came(&self, id: Uuid, key: &Key, counts: Counts) {
        let awaited = self.0.lock().remove(&(id, key.clone()));
        if let Some(sender) = awaited {
            // Fails only if nobody waits any longer.
            let _ = sender.send(counts);
        }
    }
}

/// The lock of a durable channel that someone joins. What was missed is shared with others who are about to join.
pub(crate) struct JoinLock<'a> {
    _topic_lock: TopicGuard<'a>,
    _joining: Option<Joining<'a>>,
}

impl<'a> JoinLock<'a> {
    /// That of a node without others, which shares nothing.
    pub(in crate::node) fn alone(turn: TopicGuard<'a>) -> Self {
        Self {
            _topic_lock: turn,
            _joining: None,
        }
    }
}

/// An event on its way into the history, and back from there.
pub(in crate::node) struct Appending<'a> {
    awaited: &'a Awaited,
    id: Uuid,
    key: &'a Key,
    answer: HistoryFuture<'a, Appended>,
    began: Instant,
    /// What becomes of it here; none where nobody here is in its topic, since it does not come back then.
    counts: Option<oneshot::Receiver<Counts>>,
}

impl Appending<'_> {
    /// Waits until the event is stored, and until this node has placed it.
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(in crate::node) async fn end(
        mut self,
        within: &mut EchoTimeout,
    ) -> Result<(Position, Counts), NodeError> {
        let position = (&mut self.answer).await?.position;
        let counts = match self.counts.take() {
            Some(counts) => within.wait(self.began, counts).await.unwrap_or_default(),
            None => Counts::default(),
        };
        Ok((position, counts))
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        self.awaited.forget(self.id, self.key);
    }
}

/// How long a caller waits for the events of a publication to come back over the bus, each from when it was sent, until
/// one has not come.
pub(in crate::node) struct EchoTimeout(Duration);

impl EchoTimeout {
    pub(in crate::node) fn new(within: Duration) -> Self {
        Self(within)
    }

    async fn wait(&mut self, began: Instant, counts: oneshot::Receiver<Counts>) -> Option<Counts> {
        let came = tokio::time::timeout_at((began + self.0).into(), counts).await;
        if came.is_err() {
            // The bus may be away, or the topic busy. A publication for many users waits for that
            // once.
            self.0 = Duration::ZERO;
        }
        came.ok()?.ok()
    }
}

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
    /// Takes the lock of a durable channel for a client that joins it.
    pub(in crate::node) async fn lock_to_join<'a>(&'a self, key: &Key) -> JoinLock<'a> {
        let joining = self.replays.join(key);
        JoinLock {
            _topic_lock: self.topic_locks.lock(key).await,
            _joining: Some(joining),
        }
    }

    /// The position of a durable channel for a client that joins now, under its lock: what is newer comes to it. The
    /// history is asked only if this node does not know.
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(in crate::node) async fn standing(
        &self,
        key: &Key,
        retention: &Retention,
    ) -> Result<Position, NodeError> {
        let subscription = self.subscription_state_of(key);
        if let Some(at) = self.watermarks.current(key, subscription) {
            return Ok(at);
        }
        let position = self.history.position(key, retention).await?;
        self.advance(key, position, subscription).await?;
        Ok(position)
    }

    /// What a client has missed that joins a durable channel now, under its lock: what is newer comes to it. The
    /// history is asked once for those who join at the same time and have missed the same.
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(in crate::node) async fn missed_since(
        &self,
        key: &Key,
        retention: &Retention,
        since: &Since,
    ) -> Result<Recovery, NodeError> {
        let asked = || {
            let epoch = since.epoch.as_deref();
            self.history.since(key, retention, epoch, since.offset)
        };

        let subscription = self.subscription_state_of(key);
        if let Some(at) = self.watermarks.current(key, subscription)
            && let Some(recovery) = self.replays.find(key, since, at)
        {
            return Ok(recovery);
        }

        let recovery = asked().await?;
        self.advance(key, recovery.position, subscription).await?;
        self.replays.note(key, since, &recovery);

        Ok(recovery)
    }

    /// Brings the members of a durable channel up to `position`, of which the caller has just learned under the
    /// channel's lock: a client that joins now begins after it, and what the bus brings up to it is dropped.
    async fn advance(
        &self,
        key: &Key,
        position: Position,
        subscription: SubscriptionState,
    ) -> Result<(), NodeError> {
        match self.watermarks.get(key) {
            // The history was asked before an event that has been placed since.
            Some(at) if at.epoch == position.epoch && at.offset > position.offset => return Ok(()),
            // What is newer comes to all of them over the bus, the one who joins included.
            Some(at) if at != position && self.has_members(key) => {
                self.catch_up(key, at, position.offset, None).await?;
            }
            _ => {}
        }
        self.watermarks.begin(key, position, subscription);
        Ok(())
    }

    /// Appends an event, which the same step sends to every node that has use for it. It has its place in the order of all
    /// that this node appends when this returns.
    pub(in crate::node) fn append_over_bus<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        mut new: New,
        tails: &Tails<'_>,
    ) -> Appending<'a> {
        let (topic, to) = match &key.topic {
            HistoryTopic::User(user) => {
                let to = Names {
                    users: vec![user.to_string()],
                    ..Names::default()
                };
                (Topic::User(key.app, user.clone()), Some(to))
            }
            HistoryTopic::Channel(channel) => (Topic::Channel(key.app, channel.clone()), None),
        };

        // Of a list of users each event names its own.
        new.tail = Some(tails.tail(to.as_ref()));
        let id = new.id;
        let comes_back = self.bus.interest().is_live(&topic);
        // Before it is appended: it may be back before the answer.
        let counts = comes_back.then(|| self.awaited.expect(id, key));
        let answer = self.history.append(key, retention, new);

        Appending {
            awaited: &self.awaited,
            id,
            key,
            answer,
            began: Instant::now(),
            counts,
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

    /// Fetches what was missed of durable channels, whenever something may have been, until the runtime ends. What cannot be
    /// had is tried again until it can.
    pub(super) async fn run_catch_up(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(FORGET_PLACED);
        loop {
            tokio::select! {
                () = self.is_behind.notified() => {}
                _ = ticks.tick() => {
                    self.forget_left().await;
                    self.remember_numberings().await;
                    continue;
                }
            }
            while !self.recover().await {
                before_fetching_again().await;
            }
        }
    }

    /// Fetches what was missed of every tainted channel, of several at the same time; what is certain to be missing is
    /// reported. False if some of it could not be had.
    async fn recover(self: &Arc<Self>) -> bool {
        let mut fetches = Fetches::new(RECOVER_CHANNELS, &self.hub.context().metrics);
        let stripes = self.watermarks.stripes();
        for key in stripes.flat_map(Stripe::take_tainted) {
            let replicator = self.clone();
            let fetch = async move {
                let _topic_lock = replicator.topic_locks.lock(&key).await;
                replicator.fetch_missed(&key).await
            };
            fetches.begin(fetch).await;
        }
        fetches.end().await
    }

    /// Fetches what was missed of a channel, under its lock. False if it could not be had; the channel is tainted then.
    async fn fetch_missed(&self, key: &Key) -> bool {
        if !self.has_members(key) {
            self.watermarks.remove(key);
            return true;
        }
        let Some(at) = self.watermarks.get(key) else {
            return true;
        };

        if let Err(error) = self.catch_up(key, at, u64::MAX, None).await {
            tracing::debug!(%error, "events that were missed could not be fetched yet");
            self.watermarks.fetch_later(key);
            return false;
        }

        true
    }

    /// Forgets how far channels were placed that nobody here is in any longer.
    async fn forget_left(&self) {
        let mut slice = TimeSlice::begin();
        for key in self.watermarks.stripes().flat_map(Stripe::keys) {
            slice.rest().await;
            if !self.has_members(&key) {
                // A client that joins just now holds the lock until it is in.
                let _topic_lock = self.topic_locks.lock(&key).await;
                // Looked again, since it was let in while this waited.
                if !self.has_members(&key) {
                    self.watermarks.remove(&key);
                }
            }
        }
    }

    /// Has the history know the numberings of channels that someone here is in, however long nothing comes: members who connect
    /// again have missed nothing then.
    async fn remember_numberings(&self) {
        let mut slice = TimeSlice::begin();
        for key in self.watermarks.stripes().flat_map(Stripe::keys) {
            slice.rest().await;
            if self.watermarks.is_to_be_remembered(&key, HISTORY_QUIET / 2)
                && let Err(error) = self.history.remember(&key).await
            {
                tracing::debug!(%error, "a numbering may be forgotten");
                return;
            }
        }
    }

    fn has_members(&self, key: &Key) -> bool {
        match &key.topic {
            HistoryTopic::Channel(channel) => {
                self.hub.presence(key.app).count(channel).connections > 0
            }
            HistoryTopic::User(_) => false,
        }
    }

    /// Places what came after `at`, up to the offset `until`. The members are notified first if it is of another
    /// epoch, or if not all of it is there any longer. `came` is the event by which it became known over the bus,
    /// if it did.
    async fn catch_up(
        &self,
        key: &Key,
        at: Position,
        until: u64,
        came: Option<Position>,
    ) -> Result<(), NodeError> {
        let HistoryTopic::Channel(channel) = &key.topic else {
            return Ok(());
        };
        let Some(retention) = self.apps.get(key.app).rule(channel).retention else {
            return Ok(());
        };

        let subscription = self.subscription_state_of(key);
        let epoch = at.epoch.to_string();
        let mut recovery = self
            .history
            .since(key, &retention, Some(&epoch), at.offset)
            .await?;

        // Redis forgets a numbering after a while without events. A node that has listened all the time has the whole of it, and
        // the first event of the one that follows is among what was fetched: nothing is lost.
        let is_next = |came: Position| {
            let first = recovery.entries.first();
            came.epoch == recovery.position.epoch
                && first.is_some_and(|first| first.offset <= came.offset)
        };

        recovery.recovered |= recovery.position.epoch != at.epoch
            && self.watermarks.has_listened(key, subscription)
            && came.is_none_or(is_next);

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
            self.notify_epoch(key.app, channel, from, recovery.recovered)
                .await;
        }

        for entry in missed.filter(|entry| entry.offset <= until) {
            let counts = self.place_entry(key.app, channel, entry).await;
            self.note_counts(entry.id, counts);
            self.awaited.came(entry.id, key, counts);
        }

        self.hub
            .context()
            .metrics
            .bus_recovered
            .inc_by(recovery.entries.len() as u64);

        // Last: if anything failed before, the same is fetched again.
        self.watermarks.begin(key, recovery.position, subscription);
        Ok(())
    }

    /// Sends the members of `channel` the position that what comes goes on from, and whether they have all before it:
    /// `joined`.
    async fn notify_epoch(
        &self,
        app: AppId,
        channel: &SmolStr,
        position: Position,
        recovered: bool,
    ) {
        let position = native::Position {
            epoch: position.epoch.to_string().into(),
            offset: position.offset,
        };

        let told = native::goes_on(channel, &position, recovered);
        let selection = of_channel(app, channel);
        self.hub
            .scan(&selection, |table, slot| {
                if let Some(at) = table.reference(slot) {
                    table.place_own(at, told.clone());
                }
            })
            .await;
    }

    /// Places a stored event for the members of its channel that it is for.
    async fn place_entry(&self, app: AppId, channel: &SmolStr, entry: &Entry) -> Counts {
        let selection = of_channel(app, channel);
        let (_, permit) = self.hub.admit_in_time(&selection, entry.frame.len()).await;
        let mut counts = Counts::default();

        self.hub
            .scan(&selection, |table, slot| {
                let Some(connection) = table.open_connection(slot) else {
                    return;
                };
                counts.scan.evaluated += 1;
                if entry.is_for(&connection.reader()) {
                    counts.scan.matched += 1;
                    counts.queued += u64::from(table.place(slot, &entry.frame, &permit));
                }
            })
            .await;

        self.hub.settle_permit(&permit, counts.queued);
        counts
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

fn of_channel(app: AppId, channel: &str) -> Selection {
    Selection {
        recipients: Some(Recipients::channel(channel)),
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
