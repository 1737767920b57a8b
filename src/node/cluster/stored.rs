//! Stored events of users that may have been missed: they are fetched, and handed over before anything newer.
//!
//! A connection that is in doubt gets nothing stored and confirms nothing until the store was asked after the doubt arose.
//! What comes for it in the meantime is held back; it is in the store, and so handed over in its place.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use smol_str::SmolStr;
use tokio::sync::Notify;

use super::{
    super::topic_locks::TopicLocks,
    Handles,
    missed::{Fetches, before_fetching_again},
};
use crate::{
    app::Apps,
    bus::{Bus, Gap, SubscriptionState, Topic},
    history::{History, HistoryError, Key, Waiting},
    hub::{Asked, CatchUp, Hub, Table},
    id::AppId,
    limits::RECOVER_USERS,
    log_limit::Line,
    time_slice::TimeSlice,
};

/// The thread of a shard, which alone may hand its connections what they have missed.
pub(crate) trait CatchUpHandler: Clone + 'static {
    /// Hands the connections of `user` that are in doubt what they have missed of `waiting`, which the store said when it
    /// was `asked`.
    async fn catch_up(&self, app: AppId, user: &str, waiting: &Waiting, asked: Asked) -> CatchUp;

    /// Gives up what the connections of `user` that are in doubt have missed: it waits for the next connection.
    async fn give_up(&self, app: AppId, user: &str);
}

/// Stored events of users that connections here may have missed.
///
/// It owns the number of the last doubt, and which shards have connections in doubt. Sessions ask it about a user who comes in,
/// the [`Replicator`](super::durable::Replicator) before it places an event for a user, and what is done about gaps (`missed.rs`)
/// puts connections in doubt by it. A task of each shard's own thread fetches.
#[derive(Debug)]
pub(crate) struct UserEventSync {
    bus: Arc<Bus>,
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    topic_locks: Arc<TopicLocks>,
    apps: Arc<Apps>,
    /// Reasons why stored events of users may have been missed, here or there.
    suspected_gaps: AtomicU64,
    /// By shard: some may have been.
    suspected: Box<[Notify]>,
}

impl UserEventSync {
    pub(super) fn new(handles: &Handles<'_>) -> Self {
        let shards = handles.hub.shards();
        Self {
            bus: handles.bus.clone(),
            hub: handles.hub.clone(),
            history: handles.history.clone(),
            topic_locks: handles.topic_locks.clone(),
            apps: handles.apps.clone(),
            suspected_gaps: AtomicU64::new(0),
            suspected: shards.iter().map(|_| Notify::new()).collect(),
        }
    }

    /// Notes that stored events may have been missed; returns the number of this doubt.
    fn new_suspected_gap(&self) -> u64 {
        self.suspected_gaps.fetch_add(1, SeqCst) + 1
    }

    /// Has what may have been missed fetched, for the connections of every shard.
    pub(crate) fn clear_suspected_gaps(&self) {
        for suspected in &self.suspected {
            suspected.notify_one();
        }
    }

    fn hears(&self, app: AppId, user: &SmolStr) -> bool {
        self.bus.interest().is_live(&Topic::User(app, user.clone()))
    }
    /// To be called before the store is asked what waits for `user`.
    pub(crate) fn subscription_state(&self, app: AppId, user: &SmolStr) -> SubscriptionState {
        self.bus.subscription_state(&Topic::User(app, user.clone()))
    }

    /// The number of the doubt that a connection is in that was given what the store held then, if it is in one: what was
    /// stored since may have been missed. `asked` is false where the store did not say.
    ///
    /// Call this under the lock of the connection's shard, under which it becomes reachable.
    /// [`UserEventSync::clear_suspected_gaps`] has to follow.
    pub(crate) fn suspect_since(
        &self,
        (app, user): (AppId, &SmolStr),
        subscription: SubscriptionState,
        asked: bool,
    ) -> Option<u64> {
        let is_sure = asked
            && subscription
                .lasts_until(self.bus.subscription_state(&Topic::User(app, user.clone())));
        (!is_sure).then(|| self.new_suspected_gap())
    }

    /// Puts the connections in doubt whose users' stored events may have been missed.
    pub(super) async fn suspect_stored(&self, gap: &Gap<'_>) {
        // Before any connection is in doubt: an answer of the store that was asked for before this
        // ends no doubt of now.
        let number = self.new_suspected_gap();
        if gap.partitions() == 0 {
            for topic in gap.topics() {
                if let Topic::User(app, user) = topic {
                    self.hub.suspect_user(*app, user, number).await;
                }
            }
            return self.clear_suspected_gaps();
        }

        let is_meant = |app: AppId, user: &SmolStr| gap.concerns(&Topic::User(app, user.clone()));
        let mut slice = TimeSlice::begin();
        for shard in self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.lock(|table| table.suspect_stored(number, from, is_meant));
                slice.rest().await;
            }
        }

        self.clear_suspected_gaps();
    }

    /// Puts the connections of `user` in doubt if something of theirs was missed. To be called before an event is placed for
    /// them that may come after that.
    pub(super) async fn suspect_before(&self, app: AppId, user: &SmolStr) {
        // The bus has noted its gap, which was not put in doubt here yet.
        if self.bus.gaps().is_missed(&Topic::User(app, user.clone())) {
            self.hub
                .suspect_user(app, user, self.new_suspected_gap())
                .await;
            self.clear_suspected_gaps();
        }
    }

    /// Fetches what the connections of `shard` may have missed of stored events whenever that is in doubt, until the
    /// runtime ends. Runs on the shard's own thread. A store that does not answer is asked again until it does.
    pub(crate) async fn run_user_catch_up<M: CatchUpHandler>(
        self: Arc<Self>,
        shard: usize,
        handler: M,
    ) {
        loop {
            self.suspected[shard].notified().await;
            while !self.recover_stored(shard, &handler).await {
                before_fetching_again().await;
            }
        }
    }

    /// Asks for every user who has a connection in doubt on `shard`, for [`RECOVER_USERS`] at the same time: one that gets
    /// no answer holds up no other. False if some of them are in doubt still.
    async fn recover_stored<M: CatchUpHandler>(
        self: &Arc<Self>,
        shard: usize,
        handler: &M,
    ) -> bool {
        let mut fetches = Fetches::new(RECOVER_USERS, &self.hub.context().metrics);
        // A user with several connections is asked for once.
        let mut next = Some(0);
        while let Some(from) = next {
            let (users, rest) = self
                .hub
                .shard(shard)
                .lock(|table: &mut Table| table.suspect(from));
            next = rest;
            for (app, user) in users.into_iter().collect::<BTreeSet<_>>() {
                let (sync, handler) = (self.clone(), handler.clone());
                fetches
                    .begin(async move { sync.recover_user(app, &user, &handler).await })
                    .await;
            }

            tokio::task::yield_now().await;
        }

        fetches.end().await
    }

    /// Fetches what `user` may have missed. False if that is not known yet.
    ///
    /// The store is asked without the user's lock, as it may take long to answer, and others wait for the lock. Only
    /// if something came in the meantime is it asked once more, under the lock.
    async fn recover_user<M: CatchUpHandler>(
        &self,
        app: AppId,
        user: &SmolStr,
        handler: &M,
    ) -> bool {
        let key = Key::user(app, user.clone());
        for in_turn in [false, true] {
            // Until it is so, what comes next could be missed too.
            if !self.hears(app, user) {
                return false;
            }

            let turn = if in_turn {
                Some(self.topic_locks.lock(&key).await)
            } else {
                None
            };

            // Before the store is asked: a doubt that arises while it answers stays.
            let seen = self.suspected_gaps.load(SeqCst);
            let waiting = match self.history.waiting(&key).await {
                Ok(waiting) => waiting,
                Err(error @ (HistoryError::Unavailable | HistoryError::Unanswered)) => {
                    tracing::debug!(%error, "stored events that were missed could not be fetched yet");
                    return false;
                }
                Err(error) => {
                    if let Some(others) = self.hub.context().lines.note(Line::StoredUnsure) {
                        tracing::warn!(others, %error, "stored events that were missed wait for the next connection");
                    }
                    handler.give_up(app, user).await;
                    return true;
                }
            };

            let _topic_lock = match turn {
                Some(turn) => turn,
                None => self.topic_locks.lock(&key).await,
            };

            let asked = Asked { seen, in_turn };
            let CatchUp {
                events,
                left,
                given_up,
            } = handler.catch_up(app, user, &waiting, asked).await;

            self.hub.context().metrics.bus_recovered.inc_by(events);
            self.apps.get(app).metrics.replayed.inc_by(events);
            if given_up > 0
                && let Some(others) = self.hub.context().lines.note(Line::StoredUnsure)
            {
                tracing::warn!(
                    others,
                    connections = given_up,
                    "stored events may have been missed, and it is not known which; they wait for the next connection"
                );
            }

            if left == 0 {
                return true;
            }
        }

        false
    }
}
