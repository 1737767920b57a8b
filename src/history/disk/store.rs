//! What the thread of a data directory does with it. Each call is part of a group, which [`Store::commit`] ends.
//!
//! Topics that were used lately are in memory without their frames, in two halves: a topic that is used moves to the
//! younger half, and when that is full the older one is dropped. Everything else is only on disk.

mod clock;
mod due;
mod shares;
mod snapshot;

use std::{mem, sync::Arc};

use ahash::{AHashMap, RandomState};

pub(super) use self::snapshot::Snapshot;
use self::{clock::Clock, shares::Share};
use super::{
    Setup,
    database::{DataError, Fault, Survives, Tables},
    journal::Left,
    lives::Lives,
    log::{Log, Stub},
    record::{self, Name, event_key},
};
use crate::{
    history::{
        Appended, Entry, Epoch, Key, New, Occupied, Position, Reader, Retention, Run, Topic,
    },
    limits::{DATA_LEAP, DATA_STUBS, DATA_TOPIC_BYTES, DATA_TOPICS, HISTORY_QUIET},
    metrics::{DropReason, Metrics},
};

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

    pub(super) fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    pub(super) fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    fn name_of(&self, key: &Key) -> Name {
        let (is_user, text) = match &key.topic {
            Topic::Channel(name) => (false, name.clone()),
            Topic::User(name) => (true, name.clone()),
        };
        let app = self.number_of(key.app);
        Name { app, is_user, text }
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
    pub(super) fn stored(
        &mut self,
        key: &Key,
        after: u64,
    ) -> Result<Option<Read<Position>>, Fault> {
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

    /// Whether the group has writes.
    pub(super) fn has_writes(&self) -> bool {
        self.tables.has_writes()
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

    /// Notes that nothing is lost by the end that comes now.
    pub(super) fn close(&mut self) -> Result<(), Fault> {
        Lives::end(&mut self.tables);
        self.commit(Survives::PowerLoss)
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
