//! The store of one node, in memory.
//!
//! One lock guards everything, so that each call is atomic. Under it nothing is waited for; the longest it is held is
//! for encoding one frame, or copying [`HISTORY_COPIED`] entries. A longer run is copied under several holds, and
//! from its beginning again if some of it was removed in between: what a reader gets is the run as it was at one
//! moment.

mod accounting;
mod log;
#[cfg(test)]
mod model;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

pub(super) use self::log::{Confirmed, Run, weight};
use self::{log::Copied, store::MemoryStore};
use super::{
    Appended, Entry, History, HistoryFuture, Key, New, Page, Position, Reader, Recovery, Retention,
    Topic, Waiting,
};
use crate::{
    id::AppId,
    limits::{HISTORY_COPIED, HISTORY_COPY_TRIES, HISTORY_EXPIRE_SLICE, HISTORY_QUIET_TOPICS},
    metrics::{AppMetrics, Metrics},
    time_slice::TimeSlice,
};

/// Stores events for as long as the process lives.
#[derive(Debug)]
pub(crate) struct Memory {
    store: Mutex<MemoryStore>,
    born: Instant,
}

impl Memory {
    /// Stores up to `max_bytes` of all topics together: frames, and an allowance for each event. Beyond that the app
    /// that stores most gives up its oldest, so one that stores no more than an equal share loses nothing to others.
    /// `apps` by `AppId`. The numbering of a channel lives at least as long as `is_occupied` says that someone is in
    /// it.
    pub(crate) fn new(
        max_bytes: usize,
        metrics: Arc<Metrics>,
        apps: Vec<Arc<AppMetrics>>,
        is_occupied: Occupied,
    ) -> Self {
        Self {
            store: Mutex::new(MemoryStore::new(
                (max_bytes, HISTORY_QUIET_TOPICS),
                metrics,
                apps,
                is_occupied,
            )),
            born: Instant::now(),
        }
    }

    /// The same with how many bytes each app may store, by `AppId`.
    pub(crate) fn with_quotas(mut self, quotas: &[Option<usize>]) -> Self {
        let shares = &mut self.store.get_mut().accounting.shares;
        for (share, quota) in shares.iter_mut().zip(quotas) {
            share.quota = *quota;
        }
        self
    }

    #[cfg(test)]
    pub(super) fn with_two_apps(max_bytes: usize) -> Self {
        let metrics = Arc::new(Metrics::new());
        let apps = ["a", "b"].map(|name| Arc::new(metrics.app(name)));
        Self::new(max_bytes, metrics, apps.into(), Occupied::by(|_, _| false))
    }

    /// What `begin` reads of a topic, and a copy of the entries that it says.
    async fn copy<T>(
        &self,
        key: &Key,
        begin: impl Fn(&mut MemoryStore, Now) -> (T, Option<Run>),
    ) -> (T, Vec<Entry>) {
        let (mut entries, mut slice) = (Vec::new(), TimeSlice::begin());
        for attempt in 1.. {
            // Each attempt begins from nothing: what was copied before has lost its beginning.
            entries.clear();
            // A busy topic could lose its oldest event during every attempt. The last one takes it
            // whole, under one hold.
            let most = if attempt < HISTORY_COPY_TRIES {
                HISTORY_COPIED
            } else {
                usize::MAX
            };

            let (answer, mut run) = self.with(|store, now| {
                let (answer, mut run) = begin(store, now);
                let copied = run
                    .as_mut()
                    .map(|run| store.copy(key, run, most, &mut entries));
                (answer, run.filter(|_| copied == Some(Copied::More)))
            });

            while let Some(rest) = &mut run {
                slice.rest().await;
                match self.with(|store, _| store.copy(key, rest, most, &mut entries)) {
                    Copied::More => {}
                    Copied::All => run = None,
                    Copied::Removed => break,
                }
            }

            if run.is_none() {
                return (answer, entries);
            }
        }

        unreachable!("the last attempt takes one hold")
    }

    /// Runs `act` under the lock. The time is taken there, so that it never goes back from one act to the next.
    fn with<T>(&self, act: impl FnOnce(&mut MemoryStore, Now) -> T) -> T {
        let mut store = self.store.lock();
        let unix = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        act(
            &mut store,
            Now {
                age: self.born.elapsed(),
                unix_ms: unix.as_millis() as u64,
            },
        )
    }
}

impl History for Memory {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        new: New,
    ) -> HistoryFuture<'a, Appended> {
        Box::pin(async move {
            self.with(|store, now| {
                // Before the event gets an offset, since numbers have no gaps.
                store.make_room(key.app, now)?;
                Ok(store.append(key, retention, new, now))
            })
        })
    }

    fn position<'a>(
        &'a self,
        key: &'a Key,
        _retention: &'a Retention,
    ) -> HistoryFuture<'a, Position> {
        Box::pin(async move { Ok(self.with(|store, now| store.position(key, now))) })
    }

    fn since<'a>(
        &'a self,
        key: &'a Key,
        _retention: &'a Retention,
        epoch: Option<&'a str>,
        offset: u64,
    ) -> HistoryFuture<'a, Recovery> {
        Box::pin(async move {
            let begin = |store: &mut MemoryStore, now| store.since(key, epoch, offset, now);
            let (recovery, entries) = self.copy(key, begin).await;
            Ok(Recovery {
                entries,
                ..recovery
            })
        })
    }

    fn page<'a>(
        &'a self,
        key: &'a Key,
        after: u64,
        limit: usize,
    ) -> HistoryFuture<'a, Option<Page>> {
        Box::pin(async move { Ok(self.with(|store, now| store.page(key, after, limit, now))) })
    }

    fn waiting<'a>(&'a self, key: &'a Key) -> HistoryFuture<'a, Waiting> {
        Box::pin(async move {
            let (waiting, entries) = self.copy(key, |store, now| store.waiting(key, now)).await;
            Ok(Waiting { entries, ..waiting })
        })
    }

    fn confirm(&self, key: &Key, offset: u64, reader: &Reader<'_>) {
        self.with(|store, now| store.confirm(key, offset, reader, now));
    }

    fn expire(&self) -> bool {
        self.with(|store, now| store.expire(HISTORY_EXPIRE_SLICE, now))
    }
}

type IsOccupied = dyn Fn(AppId, &str) -> bool + Send + Sync;

/// Says whether anyone is in a channel of an app. It is asked under the store's lock, so it must not call the store.
pub(crate) struct Occupied(Box<IsOccupied>);

impl Occupied {
    pub(crate) fn by(is_occupied: impl Fn(AppId, &str) -> bool + Send + Sync + 'static) -> Self {
        Self(Box::new(is_occupied))
    }

    pub(super) fn has(&self, key: &Key) -> bool {
        match &key.topic {
            Topic::Channel(channel) => (self.0)(key.app, channel),
            Topic::User(_) => false,
        }
    }
}

impl fmt::Debug for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Occupied")
    }
}

/// One moment by two clocks: ages must not follow when somebody sets the clock, and people want to read it.
#[derive(Clone, Copy, Debug)]
struct Now {
    /// Since the store was made.
    age: Duration,
    unix_ms: u64,
}
