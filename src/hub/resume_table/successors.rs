//! Which connections have taken the places of which others a short time ago.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use ahash::AHashMap;

use crate::{id::ConnectionId, limits::LOST_MAX};

/// Which connections have taken the places of which others a short time ago.
#[derive(Debug, Default)]
pub(super) struct Successors {
    pub(super) by_id: AHashMap<ConnectionId, ConnectionId>,
    pub(super) in_order: VecDeque<(Instant, ConnectionId)>,
}

impl Successors {
    /// Notes that `new` has taken the place of `old`. Forgets what was noted more than `window` ago, and the oldest beyond
    /// [`LOST_MAX`].
    pub(super) fn note(&mut self, old: ConnectionId, new: ConnectionId, window: Duration) {
        while let Some((since, first)) = self.in_order.front().copied()
            && (since.elapsed() > window || self.in_order.len() >= LOST_MAX)
        {
            self.in_order.pop_front();
            self.by_id.remove(&first);
        }

        // A connection that is noted twice stays at its first place, as `in_order` must name each
        // once.
        if self.by_id.insert(old, new).is_none() {
            self.in_order.push_back((Instant::now(), old));
        }
    }

    /// The last that has taken the place of `id`. Each is newer than the one before it, so that there is a last.
    pub(super) fn last(&mut self, id: &ConnectionId) -> Option<ConnectionId> {
        let mut last = *self.by_id.get(id)?;
        while let Some(next) = self.by_id.get(&last) {
            last = *next;
        }

        // The way is not gone again: a client may resume often, and ask for its first connection each time. Those on it are forgotten
        // before those that they are led past.
        let mut at = *id;
        while let Some(next) = self.by_id.get_mut(&at) {
            at = std::mem::replace(next, last);
        }
        Some(last)
    }
}
