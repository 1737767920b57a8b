//! Connections that may come back within one time, in the order in which they were lost.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;

use super::{ClientKey, Detached, Left};
use crate::{
    hub::connection::Snapshot,
    id::ConnectionId,
    limits::{LAPSED_CHANNELS, SCAN_CHUNK},
};

/// Connections that may come back within one time.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) window: Duration,
    pub(super) lost: Mutex<DetachedConnections>,
}

impl Queue {
    /// What `of` says of up to [`SCAN_CHUNK`] of those who may come back, from loss number `from` on, which then is the next
    /// one's. `None` at the end.
    pub(super) fn some<T>(&self, from: &mut u64, of: impl Fn(&Detached) -> T) -> Option<Vec<T>> {
        let detached = self.lost.lock();
        // The front may have lapsed since the last piece, so that `from` is before the first.
        let skipped = usize::try_from(from.saturating_sub(detached.first)).ok()?;
        let ids = detached.in_order.iter().skip(skipped).take(SCAN_CHUNK);
        if ids.len() == 0 {
            return None;
        }
        *from = detached.first + (skipped + ids.len()) as u64;
        let lost = ids.filter_map(|(_, id)| detached.by_id.get(id));
        Some(lost.map(of).collect())
    }

    /// Takes a lost connection out of `channel`, unless it is no longer what it was when it was looked at.
    pub(super) fn take_out(&self, seen: &Snapshot, channel: &str) -> Left {
        let mut detached = self.lost.lock();
        let Some(lost) = detached.by_id.get(&seen.id()) else {
            return Left::Gone;
        };
        // Whoever judged it holds the snapshot, so that a change in the meantime has made a new
        // one.
        if !Arc::ptr_eq(&lost.connection, seen) {
            return Left::Changed(lost.connection.clone());
        }
        detached.take_out(&seen.id(), channel);
        Left::Done
    }

    pub(super) fn take_lapsed(&self) -> Vec<Detached> {
        let mut detached = self.lost.lock();
        let (mut lapsed, mut channels) = (Vec::new(), 0);
        while let Some((since, id)) = detached.in_order.front().copied() {
            let is_full = lapsed.len() == SCAN_CHUNK || channels >= LAPSED_CHANNELS;
            if since.elapsed() < self.window || is_full {
                break;
            }
            // Its client may have come back. The number stays in the order until now, since numbers
            // are places in it.
            let one = detached.remove(&id);
            detached.in_order.pop_front();
            detached.first += 1;
            channels += one
                .as_ref()
                .map_or(0, |one| one.connection.channels().count());
            lapsed.extend(one);
        }

        lapsed
    }
}

#[derive(Debug, Default)]
pub(super) struct DetachedConnections {
    pub(super) by_id: AHashMap<ConnectionId, Detached>,
    /// By `AppId`, how many of them are an app's.
    pub(super) of_apps: Box<[usize]>,
    pub(super) in_order: VecDeque<(Instant, ConnectionId)>,
    /// Which loss the first of `in_order` is, counted since the start.
    pub(super) first: u64,
    /// Where closed ones wait, whose clients come back without saying in whose place: a hash of client and channel, and the
    /// number of the loss. Any number of them may be of one client, and wait in one channel.
    pub(super) places: BTreeSet<(u64, u64)>,
    pub(super) hasher: RandomState,
}

impl DetachedConnections {
    fn place(&self, client: ClientKey<'_>, channel: &str) -> u64 {
        self.hasher.hash_one((client, channel))
    }

    /// The oldest one of `client` that waits in `channel`.
    pub(super) fn waiting_in(&self, client: ClientKey<'_>, channel: &str) -> Option<ConnectionId> {
        let place = self.place(client, channel);
        let mut waiting = self.places.range((place, 0)..=(place, u64::MAX));
        // Of two places with the same hash, the other one's are passed over.
        waiting.find_map(|(_, number)| {
            let (_, id) = self.in_order.get((number - self.first) as usize)?;
            let one = &self.by_id.get(id)?.connection;
            (one.client() == client && one.is_in(channel)).then_some(*id)
        })
    }

    pub(super) fn insert(&mut self, mut lost: Detached, is_closed: bool) {
        lost.number = self.first + self.in_order.len() as u64;
        let connection = &lost.connection;
        if is_closed {
            for channel in connection.channels() {
                let place = self.place(connection.client(), channel);
                self.places.insert((place, lost.number));
            }
        }
        self.of_apps[usize::from(connection.app.0)] += 1;
        self.in_order.push_back((Instant::now(), connection.id()));
        self.by_id.insert(connection.id(), lost);
    }

    pub(super) fn remove(&mut self, id: &ConnectionId) -> Option<Detached> {
        let lost = self.by_id.remove(id)?;
        self.of_apps[usize::from(lost.connection.app.0)] -= 1;
        // Most apps have no channels in which closed ones wait.
        if !self.places.is_empty() {
            for channel in lost.connection.channels() {
                let place = self.place(lost.connection.client(), channel);
                self.places.remove(&(place, lost.number));
            }
        }
        Some(lost)
    }

    /// Takes the one with `id` out of `channel`.
    pub(super) fn take_out(&mut self, id: &ConnectionId, channel: &str) {
        let Some(lost) = self.by_id.get_mut(id) else {
            return;
        };
        let client = lost.connection.client();
        let place = self.hasher.hash_one((client, channel));
        self.places.remove(&(place, lost.number));
        lost.take_out(channel);
    }
}
