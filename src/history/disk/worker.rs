//! The thread of a data directory: it makes groups of what waits, and answers when they are written.

use std::{
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use smol_str::SmolStr;
use tokio::sync::oneshot;

use super::{
    Room, Setup, Shared,
    database::{Fault, Survives},
    facts::StoredAnswer,
    journal::Left,
    store::{Read, Snapshot, Store, TopicOnDisk},
};
use crate::{
    auth::Revoked,
    config::{DataConfig, DataSync},
    history::{
        Appended, Entry, HistoryError, Key, New, OwnedReader, Page, Position, Recovery, Retention,
        Run, Waiting,
    },
    id::AppId,
    limits::{DATA_GROUP, DATA_REOPEN, DATA_TICK, HISTORY_COPIED},
};

/// Where an answer goes. It is of no use if nobody waits for it any longer.
pub(super) type Reply<T> = oneshot::Sender<Result<T, HistoryError>>;

/// What the thread is asked to do.
pub(super) enum Job {
    Append {
        key: Key,
        retention: Retention,
        new: New,
        room: Room,
        reply: Reply<Appended>,
    },
    Position {
        key: Key,
        reply: Reply<Position>,
    },
    Since {
        key: Key,
        epoch: Option<SmolStr>,
        offset: u64,
        reply: Reply<Recovery>,
    },
    Page {
        key: Key,
        after: u64,
        limit: usize,
        reply: Reply<Option<Page>>,
    },
    Waiting {
        key: Key,
        reply: Reply<Waiting>,
    },
    Confirm {
        key: Key,
        offset: u64,
        reader: OwnedReader,
    },
    KeepAnswer {
        app: AppId,
        name: Box<str>,
        stored: StoredAnswer,
        window: Duration,
        reply: Reply<()>,
    },
    Answer {
        app: AppId,
        name: Box<str>,
        reply: Reply<Option<StoredAnswer>>,
    },
    Revoke {
        app: AppId,
        revoked: Vec<Revoked>,
        reply: Reply<()>,
    },
    /// The last one.
    Close,
}

impl Job {
    /// Whether it stores something new.
    fn adds(&self) -> bool {
        matches!(
            self,
            Self::Append { .. } | Self::KeepAnswer { .. } | Self::Revoke { .. }
        )
    }

    /// The topic whose events it reads; they have to be on disk before.
    fn reads(&self) -> Option<&Key> {
        match self {
            Self::Since { key, .. } | Self::Page { key, .. } | Self::Waiting { key, .. } => {
                Some(key)
            }
            Self::Append { .. }
            | Self::Position { .. }
            | Self::Confirm { .. }
            | Self::KeepAnswer { .. }
            | Self::Answer { .. }
            | Self::Revoke { .. }
            | Self::Close => None,
        }
    }
}

/// Free bytes of the disk that `directory` is on; as many as there can be if that is not known.
fn free_bytes(directory: &Path) -> u64 {
    let disk = rustix::fs::statvfs(directory);
    // These are less what the system keeps for root.
    disk.map_or(u64::MAX, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// An answer that waits for its group.
enum Pending {
    Appended(Reply<Appended>, Appended),
    Position(Reply<Position>, Position),
    Absent(Reply<Option<Page>>),
    Nothing(Reply<Waiting>),
    Answer(Reply<Option<StoredAnswer>>, Option<StoredAnswer>),
    Done(Reply<()>),
}

impl Pending {
    fn send(self) {
        match self {
            Self::Appended(reply, answer) => drop(reply.send(Ok(answer))),
            Self::Position(reply, answer) => drop(reply.send(Ok(answer))),
            Self::Absent(reply) => drop(reply.send(Ok(None))),
            Self::Nothing(reply) => drop(reply.send(Ok(Waiting::default()))),
            Self::Answer(reply, answer) => drop(reply.send(Ok(answer))),
            Self::Done(reply) => drop(reply.send(Ok(()))),
        }
    }
}

/// Events that are read for an answer, some in each round.
struct Reading {
    snapshot: Snapshot,
    topic: TopicOnDisk,
    run: Run,
    entries: Vec<Entry>,
    purpose: Purpose,
}

/// What is answered with the events that are read.
enum Purpose {
    Since(Reply<Recovery>, Recovery),
    Page(Reply<Option<Page>>, Position, usize),
    Waiting(Reply<Waiting>, Position),
}

impl Purpose {
    /// Most events that are read for it.
    fn limit(&self) -> usize {
        match self {
            // One more shows whether there are more.
            Self::Page(_, _, limit) => limit.saturating_add(1),
            Self::Since(..) | Self::Waiting(..) => usize::MAX,
        }
    }

    fn send(self, mut entries: Vec<Entry>) {
        match self {
            Self::Since(reply, recovery) => drop(reply.send(Ok(Recovery {
                entries,
                ..recovery
            }))),
            Self::Page(reply, position, limit) => {
                let more = entries.len() > limit;
                entries.truncate(limit);
                drop(reply.send(Ok(Some(Page {
                    position,
                    entries,
                    more,
                }))));
            }
            Self::Waiting(reply, position) => {
                let position = Some(position);
                drop(reply.send(Ok(Waiting { position, entries })));
            }
        }
    }
}

/// The thread's state.
pub(super) struct Worker {
    /// Absent while the files cannot be used.
    store: Option<Store>,
    setup: Setup,
    jobs: Receiver<Job>,
    shared: Arc<Shared>,
    pending: Vec<Pending>,
    readings: Vec<Reading>,
    /// When what was written first since the last sync is to be synced.
    sync_at: Option<Instant>,
    tick_at: Instant,
    reopen_at: Instant,
    /// The disk has too little room for anything new.
    is_full: bool,
    is_closing: bool,
}

impl Worker {
    pub(super) fn new(
        store: Store,
        setup: Setup,
        jobs: Receiver<Job>,
        shared: Arc<Shared>,
    ) -> Self {
        let now = Instant::now();
        Self {
            store: Some(store),
            setup,
            jobs,
            shared,
            pending: Vec::new(),
            readings: Vec::new(),
            sync_at: None,
            tick_at: now + DATA_TICK,
            reopen_at: now,
            is_full: false,
            is_closing: false,
        }
    }

    /// Works until nothing can be asked for any longer, and closes the files.
    pub(super) fn run(mut self) {
        self.look_at_room();
        loop {
            // Readings under way go on without waiting for a job.
            let wait = if self.readings.is_empty() {
                self.rest()
            } else {
                Duration::ZERO
            };

            let ended = match self.jobs.recv_timeout(wait) {
                Ok(job) => {
                    self.group(job);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };

            self.read_on();
            self.tick();
            if (ended || self.is_closing) && self.readings.is_empty() {
                break;
            }
        }

        if let Some(store) = &mut self.store
            && let Err(fault) = store.close()
        {
            tracing::error!(%fault, "the data directory could not be closed properly");
        }
    }

    /// How long nothing has to be done if nothing is asked for.
    fn rest(&self) -> Duration {
        let until = self.sync_at.map_or(self.tick_at, |at| at.min(self.tick_at));
        until.saturating_duration_since(Instant::now())
    }

    /// Does `first` and what waits after it, as one group.
    fn group(&mut self, first: Job) {
        // The files may be usable again by now, and this job need not fail until the next tick.
        self.reopen();
        let mut next = Some(first);
        for _ in 0..DATA_GROUP {
            let Some(job) = next.take().or_else(|| self.jobs.try_recv().ok()) else {
                break;
            };

            // A caller learns of the trouble by getting nothing.
            let Some(store) = &mut self.store else {
                continue;
            };

            if self.is_full && job.adds() {
                continue;
            }

            // Events are read from a snapshot, which does not have the writes of this group.
            if job.reads().is_some_and(|key| store.is_changed(key)) {
                self.commit();
            }

            if let Err(fault) = self.act(job) {
                self.give_up(fault);
            }
        }

        self.commit();
    }

    /// Does a job; its answer waits for the group.
    fn act(&mut self, job: Job) -> Result<(), Fault> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };

        let pending = match job {
            Job::Append {
                key,
                retention,
                new,
                room,
                reply,
            } => {
                // It is out of the queue, whose bytes this bounds.
                drop(room);
                if let Err(error) = store.check_quota(key.app) {
                    // Events past their time make room.
                    self.tick_at = Instant::now();
                    let _ = reply.send(Err(error));
                    return Ok(());
                }
                Pending::Appended(reply, store.append(&key, &retention, &new)?)
            }
            Job::Position { key, reply } => Pending::Position(reply, store.position(&key)?),
            Job::Confirm {
                key,
                offset,
                reader,
            } => return store.confirm(&key, offset, &reader.borrowed()),
            Job::KeepAnswer {
                app,
                name,
                stored,
                window,
                reply,
            } => {
                store.keep_answer(app, &name, &stored, window.as_millis() as u64)?;
                Pending::Done(reply)
            }
            Job::Answer { app, name, reply } => Pending::Answer(reply, store.answer(app, &name)?),
            Job::Revoke {
                app,
                revoked,
                reply,
            } => {
                store.revoke(app, &revoked)?;
                Pending::Done(reply)
            }
            // What waits in the same group is still done.
            Job::Close => {
                self.is_closing = true;
                return Ok(());
            }
            reading => return self.act_on_reading(reading),
        };

        self.pending.push(pending);
        Ok(())
    }

    /// Does a job that reads events; they are read after the group.
    fn act_on_reading(&mut self, job: Job) -> Result<(), Fault> {
        let Some(store) = &mut self.store else {
            return Ok(());
        };

        match job {
            Job::Since {
                key,
                epoch,
                offset,
                reply,
            } => {
                let read = store.since(&key, epoch.as_deref(), offset)?;
                let (position, recovered) = read.answer;
                let recovery = Recovery {
                    position,
                    recovered,
                    shared: if recovered { offset } else { 0 },
                    entries: Vec::new(),
                };
                self.begin_reading(&read, Purpose::Since(reply, recovery));
            }
            Job::Page {
                key,
                after,
                limit,
                reply,
            } => match store.stored(&key, after)? {
                Some(read) => {
                    let purpose = Purpose::Page(reply, read.answer, limit);
                    self.begin_reading(&read, purpose);
                }
                None => self.pending.push(Pending::Absent(reply)),
            },
            Job::Waiting { key, reply } => match store.stored(&key, 0)? {
                Some(read) => {
                    let purpose = Purpose::Waiting(reply, read.answer);
                    self.begin_reading(&read, purpose);
                }
                None => self.pending.push(Pending::Nothing(reply)),
            },
            _ => {}
        }

        Ok(())
    }

    /// Begins to read the events of an answer, as they are now.
    fn begin_reading<T>(&mut self, read: &Read<T>, purpose: Purpose) {
        let Some(store) = &self.store else {
            return;
        };
        self.readings.push(Reading {
            snapshot: store.snapshot(),
            topic: read.topic,
            run: read.run,
            entries: Vec::new(),
            purpose,
        });
    }

    /// Reads some events for each answer that needs some, and sends those that have all.
    fn read_on(&mut self) {
        for mut reading in std::mem::take(&mut self.readings) {
            // A slice for each: one long history must not hold up the others, nor the next group.
            let left = reading.purpose.limit() - reading.entries.len();
            let most = left.min(HISTORY_COPIED);
            let Reading {
                snapshot,
                topic,
                run,
                entries,
                ..
            } = &mut reading;

            match snapshot.copy(*topic, run, most, entries) {
                Ok(true) if left > most => self.readings.push(reading),
                Ok(_) => reading.purpose.send(reading.entries),
                Err(fault) => return self.give_up(fault),
            }
        }
    }

    /// Writes the group, and answers all that waited for it.
    fn commit(&mut self) {
        let Some(store) = &mut self.store else {
            self.pending.clear();
            return;
        };

        let is_written = store.has_writes();
        // Nothing is answered before this: an answer promises that the write is as safe as
        // configured.
        let survives = match self.setup.config.sync {
            DataSync::Always => Survives::PowerLoss,
            DataSync::Interval | DataSync::Never => Survives::EndOfProcess,
        };
        if let Err(fault) = store.commit(survives) {
            return self.give_up(fault);
        }

        let DataConfig {
            sync,
            sync_interval,
            ..
        } = self.setup.config;

        // The timer runs from the first write that is not synced, so that no write waits longer
        // than the interval.
        if is_written && sync == DataSync::Interval {
            self.sync_at
                .get_or_insert_with(|| Instant::now() + sync_interval);
        }

        for pending in self.pending.drain(..) {
            pending.send();
        }
    }

    /// Looks whether the disk has room, and says so once when that changes.
    fn look_at_room(&mut self) {
        let free = free_bytes(&self.setup.config.dir);
        let is_full = free < self.setup.spare_bytes;
        if is_full == self.is_full {
            return;
        }

        self.is_full = is_full;
        let (path, mib) = (self.setup.config.dir.display(), free / (1024 * 1024));
        if is_full {
            let needed = self.setup.spare_bytes / (1024 * 1024);
            let why = format!("the disk is full: {mib} MiB are free, and {needed} MiB are needed");
            tracing::error!(%path, "{why}; nothing new is stored until there is room");
            *self.shared.trouble.lock() = Some(why.into());
        } else {
            tracing::info!(%path, "the disk has room again: {mib} MiB");
            *self.shared.trouble.lock() = None;
        }
    }

    /// Does what is due: syncing, and removing what is past its time or over the bound.
    fn tick(&mut self) {
        let now = Instant::now();
        self.reopen();
        if self.store.is_none() {
            self.tick_at = now + DATA_TICK;
            return;
        }

        // Only with each tick, as asking the system for every group would cost a call.
        if self.tick_at <= now {
            self.look_at_room();
        }

        let Some(store) = &mut self.store else {
            return;
        };

        if self.sync_at.is_some_and(|at| at <= now) {
            self.sync_at = None;
            if let Err(fault) = store.sync() {
                return self.give_up(fault);
            }
        }

        let is_over = store.is_over_bound();
        let is_due = self.tick_at <= now;
        if !is_over && !is_due {
            return;
        }

        let has_more = store.shed().and_then(|has_more| {
            let is_more = is_due && store.expire()?;
            Ok(has_more || is_more)
        });

        match has_more {
            Ok(has_more) => {
                self.commit();
                // The rest waits for one more group, so that callers wait for a slice at most.
                self.tick_at = if has_more { now } else { now + DATA_TICK };
            }
            Err(fault) => self.give_up(fault),
        }
    }

    /// Closes the files, which cannot be read or written, and everything in memory with them. A caller that waits
    /// gets no answer.
    fn give_up(&mut self, fault: Fault) {
        let path = self.setup.config.dir.display();
        tracing::error!(%path, %fault, "the data directory cannot be used; trying again");
        self.store = None;
        self.sync_at = None;
        *self.shared.trouble.lock() = Some(fault.why());
        self.pending.clear();
        self.readings.clear();
        self.reopen_at = Instant::now() + DATA_REOPEN;
    }

    /// Opens the files again, if that is due.
    fn reopen(&mut self) {
        if self.store.is_some() || Instant::now() < self.reopen_at {
            return;
        }

        // Opening writes to the files, which would fail again.
        if free_bytes(&self.setup.config.dir) < self.setup.spare_bytes {
            *self.shared.trouble.lock() = Some("the disk is full".into());
            self.reopen_at = Instant::now() + DATA_REOPEN;
            return;
        }

        match Store::open_left(&self.setup, Left::Failed) {
            Ok(store) => {
                let path = self.setup.config.dir.display();
                tracing::info!(%path, "the data directory can be used again");
                self.store = Some(store);
                self.is_full = false;
                *self.shared.trouble.lock() = None;
            }
            Err(error) => {
                *self.shared.trouble.lock() = Some(error.to_string().into());
                self.reopen_at = Instant::now() + DATA_REOPEN;
            }
        }
    }
}
