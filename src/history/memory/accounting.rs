//! What all topics share: sums, the order of ages, and what is removed and counted for them.

use std::{sync::Arc, time::Duration};

use ahash::RandomState;

use super::{
    Now,
    log::{Held, Log},
};
use crate::{
    history::{Entry, Key, Reader, Topic, ages::Ages},
    metrics::{AppMetrics, DropReason, Metrics},
};

/// What all topics share: order of ages, sums, counters.
#[derive(Debug)]
pub(super) struct Accounting {
    /// By `AppId`.
    pub(super) shares: Vec<Share>,
    /// Those of all shares.
    pub(super) bytes: usize,
    /// Held by all shares.
    pub(super) events: usize,
    pub(super) metrics: Arc<Metrics>,
    /// For readers.
    pub(super) hasher: RandomState,
}

/// What is stored of one app.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) ages: Ages,
    /// As `max_bytes` counts them.
    pub(super) bytes: usize,
    /// How many there may be before more events are refused.
    pub(super) quota: Option<usize>,
    pub(super) metrics: Arc<AppMetrics>,
}

impl Share {
    fn show(&self) {
        if self.quota.is_some() {
            self.metrics.stored_bytes.set(self.bytes as i64);
        }
    }
}

impl Accounting {
    pub(super) fn new(metrics: Arc<Metrics>, apps: Vec<Arc<AppMetrics>>) -> Self {
        let share = |metrics| Share {
            ages: Ages::new(),
            bytes: 0,
            quota: None,
            metrics,
        };

        Self {
            shares: apps.into_iter().map(share).collect(),
            bytes: 0,
            events: 0,
            metrics,
            hasher: RandomState::new(),
        }
    }

    /// Appends `entry` to `log`.
    ///
    /// A log whose events are to be stored for a shorter time than before gives up the older ones with the new: what
    /// is stored is a run.
    pub(super) fn add(&mut self, key: &Key, log: &mut Log, entry: Entry, ttl: Duration, now: Now) {
        let until = now.age.saturating_add(ttl);
        // Ends are in the order of offsets, so that the first which is no later ends the search.
        for older in log
            .entries
            .iter_mut()
            .rev()
            .take_while(|older| older.until > until)
        {
            older.until = until;
        }

        let share = &mut self.shares[usize::from(key.app.0)];
        let held = Held {
            bytes: entry.bytes(),
            entry,
            until,
            place: share.ages.add(key, now.age, ttl),
        };

        log.bytes += held.bytes;
        share.bytes += held.weight();
        share.show();
        self.bytes += held.weight();
        self.events += 1;
        log.entries.push_back(held);
        self.show();
    }

    /// Removes the oldest event of `log`, which was not confirmed: of a user that is a loss, and counted.
    pub(super) fn remove_oldest(&mut self, key: &Key, log: &mut Log, reason: DropReason) {
        let Some(held) = log.entries.pop_front() else {
            return;
        };
        // A reader that has seen less than this has missed an event for good.
        log.lost_to = held.entry.offset;
        if let Topic::User(_) = key.topic {
            let metrics = &self.shares[usize::from(key.app.0)].metrics;
            metrics.dropped(reason, 1);
        }
        log.bytes -= held.bytes;
        self.strike(key, held);
        log.trim();
        self.show();
    }

    /// Removes what is stored of `log` up to `offset` and is for `reader`, which has it. Older ones may stay that are
    /// not.
    pub(super) fn confirm(&mut self, key: &Key, log: &mut Log, offset: u64, reader: &Reader<'_>) {
        let who = self.hasher.hash_one(reader);
        let confirmed = log.gather_confirmed(offset, (reader, who));
        if confirmed.is_empty() {
            return;
        }
        for held in log.entries.drain(confirmed) {
            log.bytes -= held.bytes;
            self.strike(key, held);
        }
        log.trim();
        self.show();
    }

    /// Takes an event that was removed out of the sums.
    fn strike(&mut self, key: &Key, held: Held) {
        self.bytes -= held.weight();
        self.events -= 1;
        let share = &mut self.shares[usize::from(key.app.0)];
        share.bytes -= held.weight();
        share.show();
        share.ages.remove(held.place);
    }

    /// Removes what is past its time.
    pub(super) fn age(&mut self, key: &Key, log: &mut Log, now: Now) {
        while log
            .entries
            .front()
            .is_some_and(|held| held.until <= now.age)
        {
            self.remove_oldest(key, log, DropReason::StoredExpired);
        }
    }

    /// The topic of the oldest event of the app that stores most.
    pub(super) fn most(&self) -> Option<&Key> {
        self.shares
            .iter()
            .max_by_key(|share| share.bytes)?
            .ages
            .oldest()
    }

    /// The topic of an event that is past its time, in the app `from` or a later one, which `from` is then.
    pub(super) fn expired(&self, from: &mut usize, now: Now) -> Option<&Key> {
        while let Some(share) = self.shares.get(*from) {
            if let Some(key) = share.ages.expired(now.age) {
                return Some(key);
            }
            *from += 1;
        }
        None
    }

    fn show(&self) {
        self.metrics.history_events.set(self.events as i64);
        self.metrics.history_bytes.set(self.bytes as i64);
    }
}
