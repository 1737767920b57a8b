//! What the thread of a data directory does with it. Each call is part of a group, which [`Store::commit`] ends.
//!
//! Topics that were used lately are in memory without their frames, in two halves: a topic that is used moves to the
//! younger half, and when that is full the older one is dropped. Everything else is only on disk.

use std::{
    mem,
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ahash::{AHashMap, RandomState};

use super::{
    Setup,
    database::{DataError, Fault, Survives, Tables},
    journal::Left,
    lives::Lives,
    log::{Log, Stub},
    record::{self, Due, Name, due_key, event_key},
};
use crate::{
    history::{
        Appended, Entry, Epoch, HistoryError, Key, New, Occupied, Position, Reader, Retention, Run,
        Topic,
    },
    id::AppId,
    limits::{DATA_DUE_SLICE, DATA_LEAP, DATA_STUBS, DATA_TOPIC_BYTES, DATA_TOPICS, HISTORY_QUIET},
    metrics::{AppMetrics, DropReason, Metrics},
};

/// Length of a piece of time in the table of what is due.
const MINUTE: u64 = 60_000;

/// What is on disk of one app.
struct Share {
    /// Its number there.
    number: u32,
    bytes: u64,
    events: u64,
    /// The sums differ from those on disk.
    is_changed: bool,
    /// Absent for an app that the configuration no longer names.
    served: Option<(AppId, Arc<AppMetrics>)>,
    quota: Option<u64>,
}

/// An open data directory, and what is known of it in memory.
pub(super) struct Store {
    tables: Tables,
    younger: AHashMap<Name, Log>,
    older: AHashMap<Name, Log>,
    /// Events of the younger half.
    stubs: usize,
    /// Topics to be written with the group.
    changed: Vec<Name>,
    shares: Vec<Share>,
    /// Places in `shares`, by `AppId`.
    served: Vec<usize>,
    max_bytes: u64,
    /// The next topic's number.
    next_topic: u64,
    lives: Lives,
    /// The highest offset of a user's numbering that was forgotten; later ones begin after it.
    users_begin_after: u64,
    is_occupied: Arc<Occupied>,
    metrics: Arc<Metrics>,
    hasher: RandomState,
    clock: Clock,
}

/// The time of the store, which never goes back.
struct Clock {
    unix_ms: u64,
    since: Instant,
}

impl Clock {
    /// Begins at the system's time, or at `last_ms` if that is later.
    fn after(last_ms: u64) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            unix_ms: (unix.unwrap_or_default().as_millis() as u64).max(last_ms),
            since: Instant::now(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.unix_ms + self.since.elapsed().as_millis() as u64
    }
}

/// What was read of a topic, and where the entries are that belong to it.
pub(super) struct Read<T> {
    pub(super) answer: T,
    pub(super) topic: TopicOnDisk,
    pub(super) run: Run,
}

/// Which events are a topic's, and of which kind it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct TopicOnDisk {
    /// Names its events.
    pub(super) id: u64,
    pub(super) is_user: bool,
}

/// A topic that a call works on, out of the cache for as long.
type Taken = (Name, Log);

impl Store {
    /// Opens the directory.
    ///
    /// # Errors
    /// [`DataError`].
    pub(super) fn open(setup: &Setup) -> Result<Self, DataError> {
        Self::open_left(setup, Left::Ended)
    }

    /// The same, for a directory that was left like this.
    ///
    /// # Errors
    /// [`DataError`].
    pub(super) fn open_left(setup: &Setup, left: Left) -> Result<Self, DataError> {
        let mut tables = Tables::open_left(&setup.config.dir, left)?;
        let damaged = |fault: Fault| DataError::of(&setup.config.dir, fault);
        let lives = Lives::begin(&mut tables, setup.config.sync).map_err(damaged)?;
        let number = |name: &str| tables.number(name).map_err(|error| damaged(error.into()));
        let (next_topic, users_begin_after) = (number("topics")?, number("users")?);
        let clock = Clock::after(number("time")?.unwrap_or_default());

        let mut store = Self {
            younger: AHashMap::new(),
            older: AHashMap::new(),
            stubs: 0,
            changed: Vec::new(),
            shares: Vec::new(),
            served: Vec::new(),
            max_bytes: setup.config.max_bytes as u64,
            next_topic: next_topic.unwrap_or(1),
            lives,
            users_begin_after: users_begin_after.unwrap_or_default(),
            is_occupied: setup.is_occupied.clone(),
            metrics: setup.metrics.clone(),
            hasher: RandomState::new(),
            clock,

            tables,
        };

        store.find_apps(setup).map_err(damaged)?;
        // Synced: what is noted of this life must be on disk before anything is written in it.
        store.commit(Survives::PowerLoss).map_err(damaged)?;
        store.show();

        Ok(store)
    }

    /// Reads the numbers and sums of all apps on disk, and gives numbers to those that are new.
    fn find_apps(&mut self, setup: &Setup) -> Result<(), Fault> {
        let mut served = AHashMap::new();
        for (at, app) in setup.apps.iter().enumerate() {
            served.insert(app.name.clone(), (AppId(at as u16), app.metrics.clone()));
        }

        let quota = |app: AppId| setup.apps[usize::from(app.0)].quota;
        self.served = vec![0; served.len()];
        for (number, name) in self.tables.apps()? {
            let sum = |what: &str| self.tables.number(format!("{what}:{number}"));
            let served = served.remove(&name);
            let share = Share {
                number,
                bytes: sum("bytes")?.unwrap_or_default(),
                events: sum("events")?.unwrap_or_default(),
                is_changed: false,
                quota: served.as_ref().and_then(|(app, _)| quota(*app)),
                served,
            };

            if let Some((app, _)) = share.served {
                self.served[usize::from(app.0)] = self.shares.len();
            }

            self.shares.push(share);
        }

        // Numbers are never used again, since records of an app that is no longer served have its
        // number.
        let numbers = self.shares.iter().map(|share| share.number + 1);
        let first = numbers.max().unwrap_or(0);
        for (number, (name, (app, metrics))) in (first..).zip(served) {
            self.tables
                .set_number(format!("app:{name}"), u64::from(number));
            self.served[usize::from(app.0)] = self.shares.len();
            self.shares.push(Share {
                number,
                bytes: 0,
                events: 0,
                is_changed: false,
                served: Some((app, metrics)),
                quota: quota(app),
            });
        }

        Ok(())
    }

    pub(super) fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// The number of an app on disk.
    pub(super) fn number_of(&self, app: AppId) -> u32 {
        self.shares[self.served[usize::from(app.0)]].number
    }

    fn name_of(&self, key: &Key) -> Name {
        let (is_user, text) = match &key.topic {
            Topic::Channel(name) => (false, name.clone()),
            Topic::User(name) => (true, name.clone()),
        };
        let app = self.number_of(key.app);
        Name { app, is_user, text }
    }

    fn share(&mut self, app: u32) -> Option<&mut Share> {
        self.shares.iter_mut().find(|share| share.number == app)
    }

    /// Takes a topic out of the cache, or reads it; absent if it has no numbering.
    fn take(&mut self, name: &Name) -> Result<Option<Log>, Fault> {
        if let Some(log) = self.younger.remove(name) {
            self.stubs -= log.stubs.len();
            return Ok(Some(log));
        }
        if let Some(log) = self.older.remove(name) {
            return Ok(Some(log));
        }

        let Some(record) = self.tables.topics.get(name.key())? else {
            return Ok(None);
        };
        let Some(mut log) = record::decode_log(&record) else {
            return Err(Fault::Damage("a topic's record cannot be read".into()));
        };

        let first = event_key(log.id, log.lost_to.saturating_add(1));
        for guard in self
            .tables
            .events
            .range(first..=event_key(log.id, u64::MAX))
        {
            let (key, event) = guard.into_inner()?;
            let offset = record::offset_of(&key).unwrap_or_default();
            let Some(stub) = record::decode_stub(offset, name.is_user, &event) else {
                return Err(Fault::Damage("an event's record cannot be read".into()));
            };
            log.push(stub);
        }

        // Reading it changed nothing that would have to be written.
        log.is_changed = false;
        if let Some(keeps_parent) = self.lives.since(log.generation) {
            log.fork(name.is_user, DATA_LEAP, keeps_parent);
        }

        log.generation = self.lives.generation();
        Ok(Some(log))
    }

    /// The same, beginning a numbering if there is none.
    fn take_or_begin(&mut self, key: &Key) -> Result<Taken, Fault> {
        let name = self.name_of(key);
        if let Some(log) = self.take(&name)? {
            return Ok((name, log));
        }

        let offset = if name.is_user {
            self.users_begin_after
        } else {
            0
        };

        let mut log = Log::new(self.next_topic, Epoch::random(), offset);
        log.generation = self.lives.generation();
        log.is_changed = true;
        // Written with the group: a number that was given out must not be given to another topic
        // after a restart.
        self.next_topic += 1;
        self.tables.set_number("topics", self.next_topic);
        self.add(name.app, DATA_TOPIC_BYTES as i64, 0);

        Ok((name, log))
    }

    /// Puts a topic back into the cache, and what has changed of it into the group.
    fn put(&mut self, (name, mut log): Taken) {
        let now_ms = self.clock.now_ms();
        if log.stubs.is_empty() {
            // Writing each use would cost a write for each client that joins.
            if now_ms.saturating_sub(log.used_ms) > HISTORY_QUIET.as_millis() as u64 / 8 {
                log.used_ms = now_ms;
                log.is_changed = true;
            }
            if log.due == 0 {
                let until_ms = log.used_ms + HISTORY_QUIET.as_millis() as u64;
                self.note_due(&name, &mut log, until_ms);
            }
        } else {
            log.used_ms = now_ms;
        }

        if mem::take(&mut log.is_changed) {
            let topics = self.tables.topics.clone();
            self.tables
                .insert(&topics, &name.key(), &record::encode_log(&log));
            self.changed.push(name.clone());
        }

        self.stubs += log.stubs.len();
        self.younger.insert(name, log);
    }

    /// Notes that something of the topic is past its time at `until_ms`.
    fn note_due(&mut self, name: &Name, log: &mut Log, until_ms: u64) {
        let minute = (until_ms / MINUTE + 1).min(u64::from(u32::MAX)) as u32;
        if log.due != minute {
            log.due = minute;
            let due = self.tables.due.clone();
            self.tables.insert(&due, &name.due_key(minute), &[]);
        }
    }

    /// Notes that a fact is past its time at `until_ms`.
    pub(super) fn note_fact_due(&mut self, kind: u8, (app, name): (u32, &[u8]), until_ms: u64) {
        let minute = (until_ms / MINUTE + 1).min(u64::from(u32::MAX)) as u32;
        let due = self.tables.due.clone();
        self.tables
            .insert(&due, &due_key(app, minute, kind, name), &[]);
    }

    /// Adds to the sums of an app.
    pub(super) fn add(&mut self, app: u32, bytes: i64, events: i64) {
        if let Some(share) = self.share(app) {
            share.bytes = share.bytes.saturating_add_signed(bytes);
            share.events = share.events.saturating_add_signed(events);
            share.is_changed = true;
        }
    }

    /// Removes an event's record and takes it out of the sums.
    fn strike(&mut self, name: &Name, log: &Log, stub: &Stub) {
        let events = self.tables.events.clone();
        self.tables.remove(&events, &event_key(log.id, stub.offset));
        self.add(name.app, -(stub.weight() as i64), -1);
    }

    /// Removes the oldest event, which was not confirmed: of a user that is a loss, and counted.
    fn remove_oldest(&mut self, name: &Name, log: &mut Log, reason: DropReason) {
        let Some(stub) = log.pop_lost() else {
            return;
        };
        self.strike(name, log, &stub);
        if name.is_user
            && let Some(Share {
                served: Some((_, metrics)),
                ..
            }) = self.share(name.app)
        {
            metrics.dropped(reason, 1);
        }
    }

    /// Removes what is past its time.
    fn age(&mut self, name: &Name, log: &mut Log) {
        let now_ms = self.clock.now_ms();
        while log
            .stubs
            .front()
            .is_some_and(|stub| stub.until_ms <= now_ms)
        {
            self.remove_oldest(name, log, DropReason::StoredExpired);
        }
    }

    /// Makes sure that the app may keep one more event.
    ///
    /// # Errors
    /// [`HistoryError::OverQuota`].
    pub(super) fn check_quota(&self, app: AppId) -> Result<(), HistoryError> {
        let share = &self.shares[self.served[usize::from(app.0)]];
        let Some(quota) = share.quota.filter(|quota| share.bytes >= *quota) else {
            return Ok(());
        };
        if let Some((_, metrics)) = &share.served {
            metrics.storage_refused.inc();
        }
        Err(HistoryError::OverQuota {
            kept: share.bytes,
            quota,
        })
    }

    /// See [`crate::history::History::append`].
    pub(super) fn append(
        &mut self,
        key: &Key,
        retention: &Retention,
        new: &New,
    ) -> Result<Appended, Fault> {
        let (name, mut log) = self.take_or_begin(key)?;
        self.age(&name, &mut log);
        log.position.offset += 1;
        let offset = log.position.offset;
        let frame = new.draft.finish((!name.is_user).then_some(offset));
        let now_ms = self.clock.now_ms();
        let ttl_ms = retention.ttl.as_millis().min(u128::from(u64::MAX)) as u64;
        let until_ms = now_ms.saturating_add(ttl_ms);

        let entry = Entry {
            offset,
            id: new.id,
            frame: frame.clone(),
            omit: new.omit.clone(),
            at_ms: now_ms,
        };

        let events = self.tables.events.clone();
        let record = record::encode_event(new, now_ms, until_ms);
        self.tables
            .insert(&events, &event_key(log.id, offset), &record);
        let stub = Stub::new(&entry, until_ms);
        self.add(name.app, stub.weight() as i64, 1);
        log.push(stub);
        self.note_due(&name, &mut log, until_ms);
        while log.stubs.len() > retention.events || log.bytes > retention.bytes as u64 {
            self.remove_oldest(&name, &mut log, DropReason::StoredOver);
        }

        let position = log.position;
        self.put((name, log));
        Ok(Appended { position, frame })
    }

    /// See [`crate::history::History::position`].
    pub(super) fn position(&mut self, key: &Key) -> Result<Position, Fault> {
        let (name, mut log) = self.take_or_begin(key)?;
        self.age(&name, &mut log);
        let position = log.position;
        self.put((name, log));
        Ok(position)
    }

    /// See [`crate::history::History::since`]. Returns the position, and whether what was seen up to `offset` is certain.
    pub(super) fn since(
        &mut self,
        key: &Key,
        epoch: Option<&str>,
        offset: u64,
    ) -> Result<Read<(Position, bool)>, Fault> {
        let (name, mut log) = self.take_or_begin(key)?;
        self.age(&name, &mut log);
        let is_recovered = log.proves(epoch, offset);
        let read = Read {
            answer: (log.position, is_recovered),
            topic: TopicOnDisk {
                id: log.id,
                is_user: name.is_user,
            },
            run: log.run_after(if is_recovered { offset } else { 0 }),
        };
        self.put((name, log));
        Ok(read)
    }

    /// The position of a topic and what is stored of it after `after`; absent if it has no numbering.
    pub(super) fn kept(&mut self, key: &Key, after: u64) -> Result<Option<Read<Position>>, Fault> {
        let name = self.name_of(key);
        let Some(mut log) = self.take(&name)? else {
            return Ok(None);
        };

        self.age(&name, &mut log);
        let read = Read {
            answer: log.position,
            topic: TopicOnDisk {
                id: log.id,
                is_user: name.is_user,
            },
            run: log.run_after(after),
        };

        self.put((name, log));
        Ok(Some(read))
    }

    /// See [`crate::history::History::confirm`].
    pub(super) fn confirm(
        &mut self,
        key: &Key,
        offset: u64,
        reader: &Reader<'_>,
    ) -> Result<(), Fault> {
        let name = self.name_of(key);
        let Some(mut log) = self.take(&name)? else {
            return Ok(());
        };
        self.age(&name, &mut log);
        let who = self.hasher.hash_one(reader);
        for stub in log.confirm(offset, reader, who) {
            self.strike(&name, &log, &stub);
        }
        self.put((name, log));
        Ok(())
    }

    /// Removes some of what is past its time; true if there may be more.
    pub(super) fn expire(&mut self) -> Result<bool, Fault> {
        let minute = (self.clock.now_ms() / MINUTE) as u32;
        let mut left = DATA_DUE_SLICE;
        for at in 0..self.shares.len() {
            let app = self.shares[at].number;
            for key in self.due(app, minute, left)? {
                left -= 1;
                self.look_at_due(&key)?;
            }
            if left == 0 {
                return Ok(true);
            }
        }

        Ok(false)
    }

    /// Up to `most` keys of `app` in the table of what is due, up to `minute`, earliest first.
    fn due(&self, app: u32, minute: u32, most: usize) -> Result<Vec<fjall::UserKey>, Fault> {
        let bound = |minute: u32| {
            let mut key = app.to_be_bytes().to_vec();
            key.extend(minute.to_be_bytes());
            key
        };
        let end = minute.checked_add(1).map(bound);
        let range = match end {
            Some(end) => self.tables.due.range(bound(0)..end),
            None => self.tables.due.prefix(app.to_be_bytes()),
        };
        let keys = range.take(most).map(fjall::Guard::key);
        Ok(keys.collect::<fjall::Result<_>>()?)
    }

    /// Removes what is past its time of a topic that is due, and the topic itself if it was quiet for long enough.
    fn look_at_due(&mut self, key: &[u8]) -> Result<(), Fault> {
        let due = self.tables.due.clone();
        // Taken out first: what is still to come is noted under a later minute.
        self.tables.remove(&due, key);
        let Some(due) = Due::read(key) else {
            return Ok(());
        };
        let Some(name) = due.topic() else {
            return self.forget_fact(due.kind, due.app, due.name);
        };
        let Some(mut log) = self.take(&name)? else {
            return Ok(());
        };

        log.due = 0;
        self.age(&name, &mut log);
        if log.stubs.is_empty() && self.is_over(&name, &mut log) {
            self.forget(&name, &log);
        } else {
            // By then all of its events are past their time. Until then, each use of the topic
            // removes those that are.
            if let Some(stub) = log.stubs.back() {
                let until_ms = stub.until_ms;
                self.note_due(&name, &mut log, until_ms);
            }
            self.put((name, log));
        }

        Ok(())
    }

    /// Whether a topic without events was quiet for as long as its numbering is known. One that somebody is in counts
    /// as used now: a member who is not notified of another numbering would drop its first events as seen.
    fn is_over(&self, name: &Name, log: &mut Log) -> bool {
        let now_ms = self.clock.now_ms();
        if self.is_occupied(name) {
            log.used_ms = now_ms;
            log.is_changed = true;
        }
        log.used_ms.saturating_add(HISTORY_QUIET.as_millis() as u64) <= now_ms
    }

    /// Whether somebody is in the channel.
    fn is_occupied(&self, name: &Name) -> bool {
        let share = self.shares.iter().find(|share| share.number == name.app);
        let served = share.and_then(|share| share.served.as_ref());
        served.is_some_and(|(app, _)| {
            !name.is_user && self.is_occupied.has(&Key::channel(*app, name.text.clone()))
        })
    }

    /// Ends the numbering of a topic that has no events.
    fn forget(&mut self, name: &Name, log: &Log) {
        // As in memory: a confirmation of the old numbering may still be under way.
        if name.is_user && log.position.offset > self.users_begin_after {
            self.users_begin_after = log.position.offset;
            self.tables.set_number("users", self.users_begin_after);
        }
        let topics = self.tables.topics.clone();
        self.tables.remove(&topics, &name.key());
        self.add(name.app, -(DATA_TOPIC_BYTES as i64), 0);
    }

    /// Removes some of the oldest events of the app that stores most, if more is stored than may be; true if there may be more to
    /// remove. Begins its group.
    pub(super) fn shed(&mut self) -> Result<bool, Fault> {
        let most = self.shares.iter().max_by_key(|share| share.bytes);
        let Some(app) = most.map(|share| share.number) else {
            return Ok(false);
        };
        if self.bytes() <= self.max_bytes {
            return Ok(false);
        }

        // What is due first is about what is oldest, and the table finds it without a look at every
        // topic.
        let keys = self.due(app, u32::MAX, DATA_DUE_SLICE)?;
        let is_some = !keys.is_empty();
        for key in keys {
            if self.bytes() <= self.max_bytes {
                break;
            }
            self.shed_topic(&key)?;
        }

        Ok(is_some)
    }

    /// Removes events of a topic that are due with it, oldest first, and a topic without events that nobody is in.
    fn shed_topic(&mut self, key: &[u8]) -> Result<(), Fault> {
        let Some(due) = Due::read(key) else {
            return Ok(());
        };

        // Facts stay: they were promised to be remembered, whatever else is stored.
        let Some(name) = due.topic() else {
            return Ok(());
        };

        let table = self.tables.due.clone();
        self.tables.remove(&table, key);
        let Some(mut log) = self.take(&name)? else {
            return Ok(());
        };

        // Only those of this minute. The topic's next come in their order among those of other
        // topics.
        let end_ms = u64::from(due.minute) * MINUTE;
        while self.bytes() > self.max_bytes
            && log.stubs.front().is_some_and(|stub| stub.until_ms < end_ms)
        {
            self.remove_oldest(&name, &mut log, DropReason::StoredOver);
        }

        if log.stubs.is_empty() && self.bytes() > self.max_bytes && !self.is_occupied(&name) {
            self.forget(&name, &log);
            return Ok(());
        }

        log.due = 0;
        if let Some(stub) = log.stubs.front() {
            let until_ms = stub.until_ms;
            self.note_due(&name, &mut log, until_ms);
        }

        self.put((name, log));
        Ok(())
    }

    /// Whether more is stored than may be.
    pub(super) fn is_over_bound(&self) -> bool {
        self.bytes() > self.max_bytes
    }

    /// Whether the group has writes.
    pub(super) fn has_writes(&self) -> bool {
        self.tables.has_writes()
    }

    fn bytes(&self) -> u64 {
        self.shares.iter().map(|share| share.bytes).sum()
    }

    /// Whether the group has changes of this topic.
    pub(super) fn is_changed(&self, key: &Key) -> bool {
        let name = self.name_of(key);
        self.changed.contains(&name)
    }

    /// Ends the group: all of it is written, or nothing.
    pub(super) fn commit(&mut self, survives: Survives) -> Result<(), Fault> {
        for share in &mut self.shares {
            if mem::take(&mut share.is_changed) {
                let number = share.number;
                self.tables
                    .set_number(format!("bytes:{number}"), share.bytes);
                self.tables
                    .set_number(format!("events:{number}"), share.events);
            }
        }

        // So that the time does not go back over a restart, which would bring expired events back.
        if self.tables.has_writes() {
            self.tables.set_number("time", self.clock.now_ms());
        }

        self.tables.commit(survives)?;
        self.changed.clear();
        // Half of the cache is dropped together, which costs less than knowing each topic's last
        // use.
        if self.younger.len() > DATA_TOPICS || self.stubs > DATA_STUBS {
            self.older = mem::take(&mut self.younger);
            self.stubs = 0;
        }

        self.show();
        Ok(())
    }

    /// Lets all that was written survive a power loss.
    pub(super) fn sync(&self) -> Result<(), Fault> {
        Ok(self.tables.sync()?)
    }

    /// What was committed by now, for reading.
    pub(super) fn snapshot(&self) -> Snapshot {
        Snapshot {
            events: self.tables.events.clone(),
            snapshot: self.tables.snapshot(),
        }
    }

    /// Notes that nothing is lost by the end that comes now.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        Lives::end(&mut self.tables);
        self.commit(Survives::PowerLoss)
    }

    fn show(&self) {
        let events: u64 = self.shares.iter().map(|share| share.events).sum();
        self.metrics.history_events.set(events as i64);
        self.metrics.history_bytes.set(self.bytes() as i64);
        for share in &self.shares {
            if let Some((_, metrics)) = &share.served {
                metrics.stored_bytes.set(share.bytes as i64);
            }
        }
    }
}

/// The events of one moment.
pub(super) struct Snapshot {
    events: fjall::Keyspace,
    snapshot: fjall::Snapshot,
}

impl Snapshot {
    /// Adds up to `most` events of `run` of a topic, which then begins after them; true if there may be more.
    pub(super) fn copy(
        &self,
        TopicOnDisk { id, is_user }: TopicOnDisk,
        run: &mut Run,
        most: usize,
        to: &mut Vec<Entry>,
    ) -> Result<bool, Fault> {
        use fjall::Readable as _;
        if run.after >= run.end {
            return Ok(false);
        }

        let range = event_key(id, run.after + 1)..=event_key(id, run.end);
        let mut count = 0;
        for guard in self.snapshot.range(&self.events, range).take(most) {
            let (key, event) = guard.into_inner()?;
            let offset = record::offset_of(&key).unwrap_or_default();
            let Some((entry, _)) = record::decode_event(offset, is_user, &event) else {
                return Err(Fault::Damage("an event's record cannot be read".into()));
            };
            run.after = offset;
            to.push(entry);
            count += 1;
        }

        Ok(count == most)
    }
}

/// How much is on disk.
#[cfg(test)]
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OnDisk {
    pub(super) events: usize,
    pub(super) topics: usize,
}

#[cfg(test)]
impl Store {
    /// Lets time pass.
    pub(super) fn pass(&mut self, time: std::time::Duration) {
        self.clock.unix_ms += time.as_millis() as u64;
    }

    /// What is on disk.
    pub(super) fn counts(&self) -> OnDisk {
        let tables = &self.tables;
        OnDisk {
            events: tables.events.len().unwrap(),
            topics: tables.topics.len().unwrap(),
        }
    }
}
