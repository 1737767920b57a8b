//! Stored events of users that may have been missed: they are fetched, and handed over before anything newer.
//!
//! A connection that is in doubt gets nothing stored and confirms nothing until the store was asked after the doubt arose.
//! What comes for it meanwhile is held back; it is in the store, and so handed over in its place.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use smol_str::SmolStr;
use tokio::task::JoinSet;

use super::{super::Node, Cluster};
use crate::{
    broker::Topic,
    history::{HistoryError, Key, Waiting},
    hub::{Asked, Mended, Table},
    id::AppId,
    limits::{RECOVER_AGAIN, RECOVER_USERS},
    log_limit::Line,
    time_slice::TimeSlice,
};

/// The thread of a shard, which alone may hand its connections what they have missed.
pub(crate) trait Mender: Clone + 'static {
    /// Hands the connections of `user` that are in doubt what they have missed of `waiting`, which the store said when it
    /// was `asked`.
    async fn mend(&self, app: AppId, user: &str, waiting: &Waiting, asked: Asked) -> Mended;

    /// Gives up what the connections of `user` that are in doubt have missed: it waits for the next connection.
    async fn give_up(&self, app: AppId, user: &str);
}

/// What a node heard of a user when it was asked what waits for them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hearing {
    /// Gaps of the bus up to then.
    gaps: u64,
    /// What is stored afterwards comes here.
    is_live: bool,
}

impl Cluster {
    /// Notes that stored events may have been missed; answers the number of this doubt.
    fn new_doubt(&self) -> u64 {
        self.doubts.fetch_add(1, SeqCst) + 1
    }

    /// Has what may have been missed fetched, for the connections of every shard.
    pub(super) fn clear_doubts(&self) {
        for doubted in &self.doubted {
            doubted.notify_one();
        }
    }

    fn hears(&self, app: AppId, user: &SmolStr) -> bool {
        self.bus.interest().is_live(&Topic::User(app, user.clone()))
    }
}

impl Node {
    /// To be called before the store is asked what waits for `user`.
    pub(crate) fn hearing(&self, app: AppId, user: &SmolStr) -> Hearing {
        self.cluster.as_ref().map_or(
            Hearing {
                gaps: 0,
                is_live: true,
            },
            |cluster| Hearing {
                gaps: cluster.gaps.load(SeqCst),
                is_live: cluster.hears(app, user),
            },
        )
    }

    /// The number of the doubt that a connection is in that was given what the store held then, if it is in one: what was
    /// stored since may have been missed. `asked` is false where the store did not say.
    ///
    /// To be called under the lock of the connection's shard, under which it becomes reachable. [`Node::clear_doubts`] has
    /// to follow.
    pub(crate) fn doubt_since(&self, hearing: Hearing, asked: bool) -> Option<u64> {
        let cluster = self.cluster.as_ref()?;
        let is_sure = asked && hearing.is_live && cluster.gaps.load(SeqCst) == hearing.gaps;
        (!is_sure).then(|| cluster.new_doubt())
    }

    /// Has what may have been missed fetched.
    pub(crate) fn clear_doubts(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.clear_doubts();
        }
    }

    /// Puts every connection in doubt. Nothing that came after the gap may be placed before this returns.
    pub(super) async fn doubt_stored(&self, cluster: &Cluster) {
        // Counted first: a client that comes in meanwhile sees it, or is found below.
        cluster.gaps.fetch_add(1, SeqCst);
        let number = cluster.new_doubt();
        let mut slice = TimeSlice::begin();
        for shard in self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                next = shard.own(|table| table.doubt_stored(number, from));
                slice.rest().await;
            }
        }
        cluster.clear_doubts();
    }

    /// Fetches what the connections of `shard` may have missed of stored events whenever that is in doubt, until the
    /// runtime ends. Runs on the shard's own thread. A store that does not answer is asked again until it does.
    pub(crate) async fn keep_stored<M: Mender>(self: Arc<Self>, shard: usize, mender: M) {
        let Some(cluster) = &self.cluster else { return };
        loop {
            cluster.doubted[shard].notified().await;
            while !self.recover_stored(shard, &mender).await {
                tokio::time::sleep(RECOVER_AGAIN).await;
            }
        }
    }

    /// Asks for every user who has a connection in doubt on `shard`, for [`RECOVER_USERS`] at the same time: one that gets
    /// no answer holds up no other. False if some of them are in doubt still.
    async fn recover_stored<M: Mender>(self: &Arc<Self>, shard: usize, mender: &M) -> bool {
        let mut under_way = JoinSet::new();
        let mut is_whole = true;
        let mut next = Some(0);
        while let Some(from) = next {
            let (users, rest) = self
                .hub
                .shard(shard)
                .own(|table: &mut Table| table.doubted(from));
            next = rest;
            for (app, user) in users.into_iter().collect::<BTreeSet<_>>() {
                if under_way.len() >= RECOVER_USERS {
                    is_whole &= under_way
                        .join_next()
                        .await
                        .is_none_or(|done| done.unwrap_or(false));
                }
                let (node, mender) = (self.clone(), mender.clone());
                under_way.spawn_local(async move { node.recover_user(app, &user, &mender).await });
            }
            tokio::task::yield_now().await;
        }

        while let Some(done) = under_way.join_next().await {
            is_whole &= done.unwrap_or(false);
        }
        is_whole
    }

    /// Fetches what `user` may have missed. False if that is not known yet.
    ///
    /// The store is asked without the user's turn, as it may take long to answer, and others wait for the turn. Only if
    /// something came meanwhile is it asked once more, in the turn.
    async fn recover_user<M: Mender>(&self, app: AppId, user: &SmolStr, mender: &M) -> bool {
        let Some(cluster) = &self.cluster else {
            return true;
        };
        let key = Key::user(app, user.clone());
        for in_turn in [false, true] {
            // Until it is so, what comes next could be missed too; and a gap is told when it is.
            if !cluster.hears(app, user) {
                return false;
            }
            let turn = if in_turn {
                Some(self.turns.take(&key).await)
            } else {
                None
            };
            let seen = cluster.doubts.load(SeqCst);
            let waiting = match self.history.waiting(&key).await {
                Ok(waiting) => waiting,
                Err(error @ (HistoryError::Unavailable | HistoryError::Unanswered)) => {
                    tracing::debug!(%error, "stored events that were missed could not be fetched yet");
                    return false;
                }
                Err(error) => {
                    if let Some(others) = self.lines().note(Line::StoredUnsure) {
                        tracing::warn!(others, %error, "stored events that were missed wait for the next connection");
                    }
                    mender.give_up(app, user).await;
                    return true;
                }
            };

            let _turn = match turn {
                Some(turn) => turn,
                None => self.turns.take(&key).await,
            };
            let asked = Asked { seen, in_turn };
            let Mended {
                events,
                left,
                given_up,
            } = mender.mend(app, user, &waiting, asked).await;
            self.metrics.bus_recovered.inc_by(events);
            self.app(app).metrics.replayed.inc_by(events);
            if given_up > 0
                && let Some(others) = self.lines().note(Line::StoredUnsure)
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
