//! Connections that were lost a short time ago, and may come back to their channels.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use smol_str::SmolStr;

use super::{
    connection::{Connection, Snapshot},
    sweep::Spent,
};
use crate::{
    id::ConnectionId,
    limits::SWEEP_STRIDE,
    predicate::{Judged, Value, Verdict},
};

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
    /// Which loss the first of `in_order` is, counted since the start.
    first: u64,
}

/// What became of taking a lost connection out of a channel.
#[derive(Debug)]
enum Left {
    /// It was in the channel, and is not any more.
    Done,
    /// It has changed since it was looked at.
    Changed(Snapshot),
    /// It has come back, or its time is over.
    Gone,
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

    /// Takes `channel` from those lost ones in it for which `is_meant` says [`Verdict::Match`], and gives each to `left` as
    /// it was; returns how many.
    ///
    /// Connections are judged as snapshots and outside the lock, which shards wait for; the thread turns to other work
    /// between two slices.
    pub(crate) async fn leave(
        &self,
        channel: &str,
        is_meant: impl Fn(&Connection) -> Judged,
        mut left: impl FnMut(&Snapshot),
    ) -> u64 {
        let (mut from, mut count) = (0, 0);
        let mut spent = Spent::default();
        while let Some(some) = self.some(&mut from) {
            for mut lost in some {
                while lost.is_in(channel) {
                    let Judged { verdict, work } = is_meant(&lost);
                    if spent.add(work) {
                        tokio::task::yield_now().await;
                        spent = Spent::default();
                    }
                    if verdict != Verdict::Match {
                        break;
                    }
                    match self.take_out(&lost, channel) {
                        Left::Done => {
                            left(&lost);
                            count += 1;
                            break;
                        }
                        Left::Changed(now) => lost = now,
                        Left::Gone => break,
                    }
                }
            }
            tokio::task::yield_now().await;
            spent = Spent::default();
        }
        count
    }

    /// Up to [`SWEEP_STRIDE`] of those who were lost, from loss number `from` on, which then is the next one's. `None` at
    /// the end.
    fn some(&self, from: &mut u64) -> Option<Vec<Snapshot>> {
        let ones = self.lost.lock();
        let skipped = usize::try_from(from.saturating_sub(ones.first)).ok()?;
        let ids = ones.in_order.iter().skip(skipped).take(SWEEP_STRIDE);
        if ids.len() == 0 {
            return None;
        }
        *from = ones.first + (skipped + ids.len()) as u64;
        let lost = ids.filter_map(|(_, id)| ones.by_id.get(id));
        Some(lost.map(|lost| lost.connection.clone()).collect())
    }

    /// Takes a lost connection out of `channel`, unless it is no longer what it was when it was looked at.
    fn take_out(&self, seen: &Snapshot, channel: &str) -> Left {
        let mut ones = self.lost.lock();
        let Some(lost) = ones.by_id.get_mut(&seen.id()) else {
            return Left::Gone;
        };
        if !Arc::ptr_eq(&lost.connection, seen) {
            return Left::Changed(lost.connection.clone());
        }
        let rest = lost
            .connection
            .channel_names()
            .filter(|name| ***name != *channel);
        let rest = rest.map(|name| Value::String(name.clone())).collect();
        Arc::make_mut(&mut lost.connection).attributes.channels = Value::List(rest);
        Left::Done
    }

    /// Those who may come back. The thread turns to other work between two slices.
    pub(crate) async fn all(&self) -> Vec<Snapshot> {
        let (mut from, mut all) = (0, Vec::new());
        while let Some(some) = self.some(&mut from) {
            all.extend(some);
            tokio::task::yield_now().await;
        }
        all
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
            ones.first += 1;
            lapsed.extend(ones.by_id.remove(&id));
        }
        lapsed
    }
}
