//! All topics: what each call of the history does, under the lock of [`Memory`](super::Memory).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ahash::AHashMap;

use super::{
    Now, Occupied,
    accounting::Accounting,
    log::{Copied, Log, Run},
};
use crate::{
    history::{
        Appended, Entry, HistoryError, Key, New, Page, Position, Reader, Recovery, Retention,
        Topic, Waiting,
    },
    id::AppId,
    limits::{HISTORY_EXPIRE_SLICE, HISTORY_QUIET, HISTORY_QUIET_LOOKS},
    metrics::{AppMetrics, DropReason, Metrics},
};

#[derive(Debug)]
pub(super) struct MemoryStore {
    pub(super) topics: AHashMap<Key, Log>,
    pub(super) accounting: Accounting,
    pub(super) max_bytes: usize,
    /// Topics of which nothing is stored, with the age at which they were last used, oldest use first.
    pub(super) quiet: BTreeMap<u64, (Duration, Key)>,
    pub(super) max_quiet: usize,
    /// Places ever given in `quiet`.
    pub(super) quieted: u64,
    pub(super) is_occupied: Occupied,
    /// The highest offset of a user's numbering that was forgotten. Later ones begin after it, so that a confirmation
    /// that is still under way for the former cannot confirm what nobody has seen.
    pub(super) users_begin_after: u64,
}

impl MemoryStore {
    pub(super) fn new(
        (max_bytes, max_quiet): (usize, usize),
        metrics: Arc<Metrics>,
        apps: Vec<Arc<AppMetrics>>,
        is_occupied: Occupied,
    ) -> Self {
        Self {
            topics: AHashMap::new(),
            accounting: Accounting::new(metrics, apps),
            max_bytes,
            quiet: BTreeMap::new(),
            max_quiet,
            quieted: 0,
            is_occupied,
            users_begin_after: 0,
        }
    }

    /// Makes sure that the app may store one more event. Events past their time make room for it, a slice of them
    /// per call.
    pub(super) fn make_room(&mut self, app: AppId, now: Now) -> Result<(), HistoryError> {
        // It is bounded, since a caller waits for it and the others wait for the lock.
        for _ in 0..HISTORY_EXPIRE_SLICE {
            let share = &self.accounting.shares[usize::from(app.0)];
            let Some(quota) = share.quota.filter(|quota| share.bytes >= *quota) else {
                return Ok(());
            };

            let Some(key) = share.ages.expired(now.age).cloned() else {
                share.metrics.storage_refused.inc();
                return Err(HistoryError::OverQuota {
                    stored: share.bytes as u64,
                    quota: quota as u64,
                });
            };

            self.remove_oldest(&key, DropReason::StoredExpired, now);
        }

        Ok(())
    }

    pub(super) fn append(
        &mut self,
        key: &Key,
        retention: &Retention,
        new: New,
        now: Now,
    ) -> Appended {
        let begin_after = self.begin_after(key);
        let log = self
            .topics
            .entry(key.clone())
            .or_insert_with(|| Log::after(begin_after));
        // First, so that events past their time are counted as expired, and not as over the bounds.
        self.accounting.age(key, log, now);
        log.newest += 1;
        let offset = log.newest;
        let frame = new
            .draft
            .finish(matches!(key.topic, Topic::Channel(_)).then_some(offset));

        let entry = Entry {
            offset,
            id: new.id,
            frame: frame.clone(),
            omit: new.omit,
            at_ms: now.unix_ms,
        };

        self.accounting.add(key, log, entry, retention.ttl, now);
        // That may be the new event itself, which is delivered all the same.
        while log.entries.len() > retention.events || log.bytes > retention.bytes {
            self.accounting
                .remove_oldest(key, log, DropReason::StoredOver);
        }

        let position = log.position();
        self.settle(key, now);
        // Last: the topic's own bounds may have made the room.
        self.shed(now);

        Appended { position, frame }
    }

    pub(super) fn position(&mut self, key: &Key, now: Now) -> Position {
        self.read_or_begin(key, now, Log::position)
    }

    /// What someone has missed who saw `offset` of `epoch`, and where the entries are that belong to it.
    pub(super) fn since(
        &mut self,
        key: &Key,
        epoch: Option<&str>,
        offset: u64,
        now: Now,
    ) -> (Recovery, Option<Run>) {
        self.read_or_begin(key, now, |log| {
            let recovered = log.proves(epoch, offset);
            let shared = if recovered { offset } else { 0 };
            let recovery = Recovery {
                position: log.position(),
                recovered,
                shared,
                entries: Vec::new(),
            };
            (recovery, Some(log.run_after(shared)))
        })
    }

    pub(super) fn page(&mut self, key: &Key, after: u64, limit: usize, now: Now) -> Option<Page> {
        self.read(key, now, |log| {
            let later = log.later(after);
            let more = later.len() > limit;
            Page {
                position: log.position(),
                entries: later.take(limit).cloned().collect(),
                more,
            }
        })
    }

    /// What waits for a user, and where the entries are that belong to it.
    pub(super) fn waiting(&mut self, key: &Key, now: Now) -> (Waiting, Option<Run>) {
        let all = |log: &Log| {
            let waiting = Waiting {
                position: Some(log.position()),
                entries: Vec::new(),
            };
            (waiting, Some(log.run_after(0)))
        };
        self.read(key, now, all).unwrap_or_default()
    }

    /// Adds up to `most` entries of `run`, which then begins after them. Events whose time has passed since the run
    /// began still belong to it, unless they were removed.
    pub(super) fn copy(
        &self,
        key: &Key,
        run: &mut Run,
        most: usize,
        to: &mut Vec<Entry>,
    ) -> Copied {
        // Another epoch, or a loss after where the copy is, means that the run has a hole.
        let log = self.topics.get(key);
        let Some(log) = log.filter(|log| log.epoch == run.epoch && log.lost_to <= run.after) else {
            return Copied::Removed;
        };

        let mut rest = log
            .later(run.after)
            .take_while(|entry| entry.offset <= run.end);
        let before = to.len();
        to.extend(rest.by_ref().take(most).cloned());
        if let Some(last) = to[before..].last() {
            run.after = last.offset;
        }

        if rest.next().is_some() {
            Copied::More
        } else {
            Copied::All
        }
    }

    pub(super) fn confirm(&mut self, key: &Key, offset: u64, reader: &Reader<'_>, now: Now) {
        let Some(log) = self.topics.get_mut(key) else {
            return;
        };
        self.accounting.age(key, log, now);
        self.accounting.confirm(key, log, offset, reader);
        self.settle(key, now);
    }

    /// Removes up to `most` events and topics that are past their time; whether there may be more.
    pub(super) fn expire(&mut self, most: usize, now: Now) -> bool {
        let mut app = 0;
        for _ in 0..most {
            if let Some(key) = self.accounting.expired(&mut app, now).cloned() {
                self.remove_oldest(&key, DropReason::StoredExpired, now);
            } else if self
                .quiet
                .first_key_value()
                .is_some_and(|(_, (used, _))| is_over(*used, now))
            {
                self.look_at_quietest(now);
            } else {
                return false;
            }
        }

        true
    }

    /// Removes the oldest events of the app that stores most until all are within their bound.
    fn shed(&mut self, now: Now) {
        while self.accounting.bytes > self.max_bytes
            && let Some(key) = self.accounting.most().cloned()
        {
            self.remove_oldest(&key, DropReason::StoredOver, now);
        }
    }

    fn remove_oldest(&mut self, key: &Key, reason: DropReason, now: Now) {
        if let Some(log) = self.topics.get_mut(key) {
            self.accounting.remove_oldest(key, log, reason);
        }
        self.settle(key, now);
    }

    /// Reads a topic that is known, without what is past its time.
    fn read<T>(&mut self, key: &Key, now: Now, read: impl FnOnce(&Log) -> T) -> Option<T> {
        let log = self.topics.get_mut(key)?;
        self.accounting.age(key, log, now);
        let answer = read(log);
        self.settle(key, now);
        Some(answer)
    }

    /// Reads as [`MemoryStore::read`] does, beginning the topic's numbering if it has none.
    fn read_or_begin<T>(&mut self, key: &Key, now: Now, read: impl FnOnce(&Log) -> T) -> T {
        let begin_after = self.begin_after(key);
        let log = self
            .topics
            .entry(key.clone())
            .or_insert_with(|| Log::after(begin_after));
        self.accounting.age(key, log, now);
        let answer = read(log);
        self.settle(key, now);
        answer
    }

    /// The offset after which a numbering of `key` begins.
    fn begin_after(&self, key: &Key) -> u64 {
        if matches!(key.topic, Topic::User(_)) {
            self.users_begin_after
        } else {
            0
        }
    }

    /// Notes that a topic was used, after which nothing of it may be stored: then it is the last quiet one.
    fn settle(&mut self, key: &Key, now: Now) {
        let Some(log) = self.topics.get_mut(key) else {
            return;
        };

        if let Some(place) = log.quiet.take() {
            self.quiet.remove(&place);
        }

        if log.entries.is_empty() {
            self.rest(key.clone(), now);
        }

        // Where most of them are occupied, a few looks at each use still find the others in time: the list has at most a
        // seventh more than what is occupied.
        for _ in 0..HISTORY_QUIET_LOOKS {
            if self.quiet.len() <= self.max_quiet {
                break;
            }
            self.look_at_quietest(now);
        }
    }

    /// Makes a topic of which nothing is stored the last quiet one.
    fn rest(&mut self, key: Key, now: Now) {
        if let Some(log) = self.topics.get_mut(&key) {
            self.quieted += 1;
            log.quiet = Some(self.quieted);
            self.quiet.insert(self.quieted, (now.age, key));
        }
    }

    /// Ends the numbering of the topic that is quiet for longest, unless someone is in it: a member who is not
    /// notified of another numbering would drop its first events as seen. Such a topic counts as used now.
    fn look_at_quietest(&mut self, now: Now) {
        let Some((_, (_, key))) = self.quiet.pop_first() else {
            return;
        };
        if self.is_occupied.has(&key) {
            return self.rest(key, now);
        }
        if let Some(log) = self.topics.remove(&key)
            && matches!(key.topic, Topic::User(_))
        {
            self.users_begin_after = self.users_begin_after.max(log.newest);
        }
    }
}

/// Whether a topic that was last used at `used` has been quiet for as long as its numbering is known.
fn is_over(used: Duration, now: Now) -> bool {
    used.saturating_add(HISTORY_QUIET) <= now.age
}
