//! What the bus did not bring: it is fetched from the history, and placed before what comes next.

use std::sync::Arc;

use smol_str::SmolStr;

use super::{
    super::{
        missed::{Fetches, before_fetching_again},
        watermarks::Stripe,
    },
    Replicator,
};
use crate::{
    history::{Entry, Key, Position, Topic as HistoryTopic},
    hub::{Counts, Recipients, Selection},
    id::AppId,
    limits::{FORGET_PLACED, HISTORY_QUIET, RECOVER_CHANNELS},
    node::NodeError,
    protocol::native,
    time_slice::TimeSlice,
};

impl Replicator {
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

    /// Places what came after `at`, up to the offset `until`. The members are notified first if it is of another
    /// epoch, or if not all of it is there any longer. `came` is the event by which it became known over the bus,
    /// if it did.
    pub(super) async fn catch_up(
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

        // It is read before the history is asked: a gap that opens in between must not count as
        // seen.
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
    pub(super) async fn notify_epoch(
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

        let notice = native::goes_on(channel, &position, recovered);
        let selection = of_channel(app, channel);
        self.hub
            .scan(&selection, |table, slot| {
                if let Some(at) = table.reference(slot) {
                    table.place_own(at, notice.clone());
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

fn of_channel(app: AppId, channel: &str) -> Selection {
    Selection {
        recipients: Some(Recipients::channel(channel)),
        ..Selection::everyone(app)
    }
}
