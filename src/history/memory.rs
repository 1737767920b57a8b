//! The store of one node, in memory.
//!
//! One lock guards everything, so that each call is atomic. Under it nothing is waited for; the longest it is held is
//! for encoding one frame, or copying [`HISTORY_COPIED`] entries. A longer run is copied under several holds, and
//! from its beginning again if some of it was removed in between: what a reader gets is the run as it was at one
//! moment.

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ahash::{AHashMap, RandomState};
use parking_lot::Mutex;

use super::{
    Appended, Entry, Epoch, History, HistoryError, HistoryFuture, Key, New, Omit, Page, Position,
    Reader, Recovery, Retention, Topic, Waiting,
    ages::{AgePlace, Ages},
};
use crate::{
    id::AppId,
    limits::{
        HISTORY_CONFIRMERS, HISTORY_COPIED, HISTORY_COPY_TRIES, HISTORY_EVENT_BYTES,
        HISTORY_EXPIRE_SLICE, HISTORY_NAME_BYTES, HISTORY_QUIET, HISTORY_QUIET_LOOKS,
        HISTORY_QUIET_TOPICS,
    },
    metrics::{AppMetrics, DropReason, Metrics},
    time_slice::TimeSlice,
};

/// Keeps events for as long as the process lives.
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

    /// The same with how many bytes each app may keep, by `AppId`.
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

/// A stored event, and how it is found by age.
#[derive(Debug)]
struct Held {
    entry: Entry,
    /// [`Entry::bytes`], which takes a look at every name.
    bytes: usize,
    /// When it is past its time, as an age of the store; in a log never earlier than of one before it.
    until: Duration,
    place: AgePlace,
}

/// A topic: its numbering, and the newest run of its events.
#[derive(Debug)]
struct Log {
    epoch: Epoch,
    newest: u64,
    /// The highest offset that was removed unconfirmed.
    lost_to: u64,
    entries: VecDeque<Held>,
    /// As [`Entry::bytes`] counts them.
    bytes: usize,
    /// Its place in [`MemoryStore::quiet`] while nothing of it is stored.
    quiet: Option<u64>,
    /// Readers from whom some of what is stored is withheld.
    confirmed: Vec<Confirmed>,
}

/// How far a reader has confirmed from whom some of what is stored is withheld. What is stored up to there is for others, and is
/// not looked at again for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmed {
    /// The reader, by a hash.
    pub(super) who: u64,
    pub(super) offset: u64,
}

impl Log {
    /// Begins a numbering after `offset`.
    fn after(offset: u64) -> Self {
        Self {
            epoch: Epoch::random(),
            newest: offset,
            lost_to: offset,
            entries: VecDeque::new(),
            bytes: 0,
            quiet: None,
            confirmed: Vec::new(),
        }
    }

    fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.newest,
        }
    }

    /// Gives back room. A crowd of users who once had much waiting must not hold the room for it ever after.
    fn trim(&mut self) {
        if self.entries.is_empty() {
            self.confirmed = Vec::new();
        }
        if self.entries.capacity() > 16 + 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// The run that is stored now after `offset`.
    fn run_after(&self, offset: u64) -> Run {
        Run {
            epoch: self.epoch,
            // Nothing is stored up to what was removed unconfirmed.
            after: offset.max(self.lost_to),
            end: self.newest,
        }
    }

    /// The entries that are stored after `offset`.
    fn later(&self, offset: u64) -> impl ExactSizeIterator<Item = &Entry> {
        let seen = self
            .entries
            .partition_point(|held| held.entry.offset <= offset);
        self.entries.range(seen..).map(|held| &held.entry)
    }

    /// The entries up to `offset` that are to be looked at when the reader `who` confirms them.
    fn unconfirmed(&self, offset: u64, who: u64) -> Range<usize> {
        let up_to = |offset| {
            let is_before = |held: &Held| held.entry.offset <= offset;
            self.entries.partition_point(is_before)
        };
        let known = self.confirmed.iter().find(|known| known.who == who);
        let start = known.map_or(0, |known| up_to(known.offset));
        start..up_to(offset).max(start)
    }

    /// Moves what `reader` confirms up to `offset` after what stays up to there. Returns its range.
    fn gather_confirmed(&mut self, offset: u64, (reader, who): (&Reader<'_>, u64)) -> Range<usize> {
        let Range { start, end } = self.unconfirmed(offset, who);
        let mut first = start;
        for at in start..end {
            if !self.entries[at].entry.is_for(reader) {
                self.entries.swap(first, at);
                first += 1;
            }
        }

        // From most readers nothing is withheld, and nothing has to be remembered. An older confirmation says nothing new.
        if first > 0 && end > start {
            self.confirmed.retain(|known| known.who != who);
            if self.confirmed.len() == HISTORY_CONFIRMERS {
                self.confirmed.remove(0);
            }
            // A client may confirm what is yet to come, which says nothing of it.
            self.confirmed.push(Confirmed {
                who,
                offset: offset.min(self.newest),
            });
        }

        first..end
    }

    /// Whether nothing but what was confirmed is missing after `offset` of `epoch`.
    fn proves(&self, epoch: Option<&str>, offset: u64) -> bool {
        let same = epoch.is_none_or(|epoch| epoch.parse() == Ok(self.epoch));
        same && (self.lost_to..=self.newest).contains(&offset)
    }
}

/// Entries of a topic that are being copied: those stored now with offsets after `after`, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) epoch: Epoch,
    pub(super) after: u64,
    pub(super) end: u64,
}

/// How far copying a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    All,
    More,
    /// Some of it were removed before they were copied.
    Removed,
}

/// What all topics share: order of ages, sums, counters.
#[derive(Debug)]
struct Accounting {
    /// By `AppId`.
    shares: Vec<Share>,
    /// Those of all shares.
    bytes: usize,
    /// Held by all shares.
    events: usize,
    metrics: Arc<Metrics>,
    /// For readers.
    hasher: RandomState,
}

/// What is stored of one app.
#[derive(Debug)]
struct Share {
    ages: Ages,
    /// As `max_bytes` counts them.
    bytes: usize,
    /// How many there may be before more events are refused.
    quota: Option<usize>,
    metrics: Arc<AppMetrics>,
}

impl Share {
    fn show(&self) {
        if self.quota.is_some() {
            self.metrics.stored_bytes.set(self.bytes as i64);
        }
    }
}

/// What an event of `bytes` counts for against the bound on all topics, with whom it leaves out.
pub(super) fn weight(bytes: usize, omit: Option<&Omit>) -> usize {
    bytes + HISTORY_EVENT_BYTES + omit.map_or(0, Omit::names) * HISTORY_NAME_BYTES
}

impl Held {
    fn weight(&self) -> usize {
        weight(self.bytes, self.entry.omit.as_deref())
    }
}

impl Accounting {
    fn new(metrics: Arc<Metrics>, apps: Vec<Arc<AppMetrics>>) -> Self {
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
    fn add(&mut self, key: &Key, log: &mut Log, entry: Entry, ttl: Duration, now: Now) {
        let until = now.age.saturating_add(ttl);
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
    fn remove_oldest(&mut self, key: &Key, log: &mut Log, reason: DropReason) {
        let Some(held) = log.entries.pop_front() else {
            return;
        };
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
    fn confirm(&mut self, key: &Key, log: &mut Log, offset: u64, reader: &Reader<'_>) {
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
    fn age(&mut self, key: &Key, log: &mut Log, now: Now) {
        while log
            .entries
            .front()
            .is_some_and(|held| held.until <= now.age)
        {
            self.remove_oldest(key, log, DropReason::StoredExpired);
        }
    }

    /// The topic of the oldest event of the app that stores most.
    fn most(&self) -> Option<&Key> {
        self.shares
            .iter()
            .max_by_key(|share| share.bytes)?
            .ages
            .oldest()
    }

    /// The topic of an event that is past its time, in the app `from` or a later one, which `from` is then.
    fn expired(&self, from: &mut usize, now: Now) -> Option<&Key> {
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

#[derive(Debug)]
struct MemoryStore {
    topics: AHashMap<Key, Log>,
    accounting: Accounting,
    max_bytes: usize,
    /// Topics of which nothing is stored, with the age at which they were last used, oldest use first.
    quiet: BTreeMap<u64, (Duration, Key)>,
    max_quiet: usize,
    /// Places ever given in `quiet`.
    quieted: u64,
    is_occupied: Occupied,
    /// The highest offset of a user's numbering that was forgotten. Later ones begin after it, so that a confirmation
    /// that is still under way for the former cannot confirm what nobody has seen.
    users_begin_after: u64,
}

impl MemoryStore {
    fn new(
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
    fn make_room(&mut self, app: AppId, now: Now) -> Result<(), HistoryError> {
        for _ in 0..HISTORY_EXPIRE_SLICE {
            let share = &self.accounting.shares[usize::from(app.0)];
            let Some(quota) = share.quota.filter(|quota| share.bytes >= *quota) else {
                return Ok(());
            };

            let Some(key) = share.ages.expired(now.age).cloned() else {
                share.metrics.storage_refused.inc();
                return Err(HistoryError::OverQuota {
                    kept: share.bytes as u64,
                    quota: quota as u64,
                });
            };

            self.remove_oldest(&key, DropReason::StoredExpired, now);
        }

        Ok(())
    }

    fn append(&mut self, key: &Key, retention: &Retention, new: New, now: Now) -> Appended {
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

    fn position(&mut self, key: &Key, now: Now) -> Position {
        self.read_or_begin(key, now, Log::position)
    }

    /// What someone has missed who saw `offset` of `epoch`, and where the entries are that belong to it.
    fn since(
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

    fn page(&mut self, key: &Key, after: u64, limit: usize, now: Now) -> Option<Page> {
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
    fn waiting(&mut self, key: &Key, now: Now) -> (Waiting, Option<Run>) {
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
    fn copy(&self, key: &Key, run: &mut Run, most: usize, to: &mut Vec<Entry>) -> Copied {
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

    fn confirm(&mut self, key: &Key, offset: u64, reader: &Reader<'_>, now: Now) {
        let Some(log) = self.topics.get_mut(key) else {
            return;
        };
        self.accounting.age(key, log, now);
        self.accounting.confirm(key, log, offset, reader);
        self.settle(key, now);
    }

    /// Removes up to `most` events and topics that are past their time; whether there may be more.
    fn expire(&mut self, most: usize, now: Now) -> bool {
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
