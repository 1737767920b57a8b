//! What is past its time, or is more than may be stored: how it is found, and removed.

use super::{
    super::{
        database::Fault,
        log::Log,
        record::{Due, Name, due_key},
    },
    Store,
};
use crate::{
    history::Key,
    limits::{DATA_DUE_SLICE, DATA_TOPIC_BYTES, HISTORY_QUIET},
    metrics::DropReason,
};

/// Length of a piece of time in the table of what is due.
const MINUTE: u64 = 60_000;

impl Store {
    /// Notes that something of the topic is past its time at `until_ms`.
    pub(super) fn note_due(&mut self, name: &Name, log: &mut Log, until_ms: u64) {
        // It is rounded up, so that the whole minute has passed when it is looked at.
        let minute = (until_ms / MINUTE + 1).min(u64::from(u32::MAX)) as u32;
        // The key of an earlier minute stays, since its removal would cost as much as the look at
        // it.
        if log.due != minute {
            log.due = minute;
            let due = self.tables.due.clone();
            self.tables.insert(&due, &name.due_key(minute), &[]);
        }
    }

    /// Notes that a fact is past its time at `until_ms`.
    pub(in crate::history::disk) fn note_fact_due(
        &mut self,
        kind: u8,
        (app, name): (u32, &[u8]),
        until_ms: u64,
    ) {
        let minute = (until_ms / MINUTE + 1).min(u64::from(u32::MAX)) as u32;
        let due = self.tables.due.clone();
        self.tables
            .insert(&due, &due_key(app, minute, kind, name), &[]);
    }

    /// Removes what is past its time.
    pub(super) fn age(&mut self, name: &Name, log: &mut Log) {
        let now_ms = self.clock.now_ms();
        while log
            .stubs
            .front()
            .is_some_and(|stub| stub.until_ms <= now_ms)
        {
            self.remove_oldest(name, log, DropReason::StoredExpired);
        }
    }

    /// Removes some of what is past its time; true if there may be more.
    pub(in crate::history::disk) fn expire(&mut self) -> Result<bool, Fault> {
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
    pub(in crate::history::disk) fn shed(&mut self) -> Result<bool, Fault> {
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
}
