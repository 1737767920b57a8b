//! What a client that joins a durable channel gets: the position it begins at, and what it has missed.

use super::{super::replays::Joining, Replicator};
use crate::{
    bus::SubscriptionState,
    history::{Key, Position, Recovery, Retention},
    node::{NodeError, topic_locks::TopicGuard},
    protocol::native::Since,
};

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

impl Replicator {
    /// Takes the lock of a durable channel for a client that joins it.
    pub(in crate::node) async fn lock_to_join<'a>(&'a self, key: &Key) -> JoinLock<'a> {
        // This comes before the lock, so that its holder sees that others wait for the same answer.
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
        // It is read before the history is asked: a gap that opens in between must not count as
        // seen.
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
                // Rare, and large: every client that waits to join would have room for it.
                Box::pin(self.catch_up(key, at, position.offset, None)).await?;
            }
            _ => {}
        }
        self.watermarks.begin(key, position, subscription);
        Ok(())
    }
}
