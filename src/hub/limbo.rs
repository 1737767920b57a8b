//! Connections that were lost a short time ago, and may come back to their channels.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::connection::{Connection, Snapshot};
use crate::{id::ConnectionId, limits::SWEEP_STRIDE, predicate::Value};

/// A connection that its client did not close, and that was not sent away, with the channels it may come back to.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) connection: Snapshot,
    /// The channels in which it heard of the others.
    pub(crate) watched: Vec<SmolStr>,
}

/// Connections that were lost a short time ago.
#[derive(Debug)]
pub(crate) struct Limbo {
    window: Duration,
    lost: Mutex<LostOnes>,
}

#[derive(Debug, Default)]
struct LostOnes {
    by_id: AHashMap<ConnectionId, Lost>,
    in_order: VecDeque<(Instant, ConnectionId)>,
}

impl Limbo {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window,
            lost: Mutex::default(),
        }
    }

    /// Whether a connection like this one could ever come back: someone must be able to prove to be its client.
    pub(super) fn admits(&self, connection: &Connection) -> bool {
        !self.window.is_zero() && (connection.user().is_some() || connection.device().is_some())
    }

    pub(super) fn insert(&self, lost: Lost) {
        let mut ones = self.lost.lock();
        let id = lost.connection.id();
        ones.in_order.push_back((Instant::now(), id));
        ones.by_id.insert(id, lost);
    }

    /// Takes the lost connection `id` out for a client who proves to be its own.
    pub(crate) fn take(
        &self,
        id: &ConnectionId,
        proof: impl FnOnce(&Connection) -> bool,
    ) -> Option<Lost> {
        let mut ones = self.lost.lock();
        proof(&ones.by_id.get(id)?.connection)
            .then(|| ones.by_id.remove(id))
            .flatten()
    }

    /// Takes `channel` from those lost ones in it for which `is_meant` is true; answers them as they were.
    pub(crate) fn leave(
        &self,
        channel: &str,
        is_meant: impl Fn(&Connection) -> bool,
    ) -> Vec<Snapshot> {
        let mut ones = self.lost.lock();
        let mut left = Vec::new();
        for lost in ones.by_id.values_mut() {
            if !lost.connection.is_in(channel) || !is_meant(&lost.connection) {
                continue;
            }
            left.push(lost.connection.clone());
            let rest = lost
                .connection
                .channel_names()
                .filter(|name| ***name != *channel);
            let rest = rest.map(|name| Value::String(name.clone())).collect();
            Arc::make_mut(&mut lost.connection).attributes.channels = Value::List(rest);
        }
        left
    }

    /// Those who may come back.
    pub(crate) fn all(&self) -> Vec<Snapshot> {
        self.lost
            .lock()
            .by_id
            .values()
            .map(|lost| lost.connection.clone())
            .collect()
    }

    /// Those whose time to come back is over, or the first of them: [`SWEEP_STRIDE`] at most.
    pub(crate) fn take_lapsed(&self) -> Vec<Lost> {
        let mut ones = self.lost.lock();
        let mut lapsed = Vec::new();
        while let Some((since, id)) = ones.in_order.front().copied() {
            if since.elapsed() < self.window || lapsed.len() == SWEEP_STRIDE {
                break;
            }
            ones.in_order.pop_front();
            lapsed.extend(ones.by_id.remove(&id));
        }
        lapsed
    }
}
