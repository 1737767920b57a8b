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
    history::{HistoryError, Key},
    hub::{Mended, Table},
    id::AppId,
    limits::{RECOVER_AGAIN, RECOVER_USERS},
};

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
            cluster.doubted.notify_one();
        }
    }

    /// Puts every connection in doubt.
    pub(super) fn doubt_stored(&self, cluster: &Cluster) {
        // Counted first: whoever comes in meanwhile sees it, or is found below.
        cluster.gaps.fetch_add(1, SeqCst);
        let number = cluster.new_doubt();
        for shard in self.hub.shards() {
            shard.own(|table| table.doubt_stored(number));
        }
        cluster.doubted.notify_one();
    }

    /// Fetches what was missed of stored events whenever that is in doubt, until the runtime ends. Where the store does
    /// not answer it is asked again until it does.
    pub(crate) async fn keep_stored(self: Arc<Self>) {
        let Some(cluster) = &self.cluster else { return };
        loop {
            cluster.doubted.notified().await;
            while !self.recover_stored().await {
                tokio::time::sleep(RECOVER_AGAIN).await;
            }
        }
    }

    /// Asks for every user who has a connection in doubt, for [`RECOVER_USERS`] at once: one that gets no answer holds up
    /// no other. False if some of them are in doubt still.
    async fn recover_stored(self: &Arc<Self>) -> bool {
        let mut under_way = JoinSet::new();
        let mut is_whole = true;
        for shard in self.hub.shards() {
            let mut next = Some(0);
            while let Some(from) = next {
                let (users, rest) = shard.own(|table: &mut Table| table.doubted(from));
                next = rest;
                for (app, user) in users.into_iter().collect::<BTreeSet<_>>() {
                    if under_way.len() >= RECOVER_USERS {
                        is_whole &= under_way
                            .join_next()
                            .await
                            .is_none_or(|done| done.unwrap_or(false));
                    }
                    let node = self.clone();
                    under_way.spawn_local(async move { node.recover_user(app, &user).await });
                }
                tokio::task::yield_now().await;
            }
        }
        while let Some(done) = under_way.join_next().await {
            is_whole &= done.unwrap_or(false);
        }
        is_whole
    }

    /// Fetches what `user` may have missed. False if that is not known yet.
    ///
    /// The store is asked without the user's turn, as it may be long in answering, and others wait for the turn. Only where
    /// something came meanwhile is it asked once more, in the turn.
    async fn recover_user(&self, app: AppId, user: &SmolStr) -> bool {
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
                    tracing::warn!(%error, "stored events that were missed wait for the next connection");
                    self.hub.give_up_stored(app, user);
                    return true;
                }
            };
            let _turn = match turn {
                Some(turn) => turn,
                None => self.turns.take(&key).await,
            };
            let Mended {
                events,
                left,
                given_up,
            } = self.hub.mend_stored((app, user), &waiting, (seen, in_turn));
            self.metrics.bus_recovered.inc_by(events);
            self.app(app).metrics.replayed.inc_by(events);
            if given_up > 0 {
                tracing::warn!(
                    connections = given_up,
                    "stored events may have been missed, and nobody can say which; they wait for the next connection"
                );
            }
            if left == 0 {
                return true;
            }
        }
        false
    }
}
