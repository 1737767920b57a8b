//! The store of one node, in a data directory.
//!
//! One thread has the files. Calls wait for it in a bounded queue, and it takes those that wait as one group, which
//! is written together: an answer is sent when its group is as safe as [`crate::config::DataSync`] says. So nothing
//! that serves clients waits for a disk. A disk that is too slow fills the queue, and then calls are refused.

mod database;
mod facts;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod formats;
mod journal;
mod lives;
mod log;
mod record;
mod store;
#[cfg(test)]
mod tests;
pub(crate) mod tools;
mod worker;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

pub use self::database::DataError;
pub(crate) use self::facts::StoredAnswer;
use self::{
    store::Store,
    worker::{Job, Reply, Worker},
};
use super::{
    Appended, History, HistoryError, HistoryFuture, Key, New, Occupied, OwnedReader, Page,
    Position, Reader, Recovery, Retention, Waiting,
};
use crate::{
    auth::Revoked,
    config::DataConfig,
    id::AppId,
    limits::{DATA_QUEUE, DATA_QUEUE_BYTES},
    metrics::{AppMetrics, Metrics},
};

/// An app whose events are stored.
#[derive(Clone)]
pub(crate) struct StoredApp {
    /// The name under which the directory knows it.
    pub(crate) name: String,
    pub(crate) metrics: Arc<AppMetrics>,
    /// Most bytes of its events, as [`DataConfig::max_bytes`] counts them.
    pub(crate) quota: Option<u64>,
}

/// What a store in a data directory is made for.
pub(crate) struct Setup {
    pub(crate) config: DataConfig,
    pub(crate) metrics: Arc<Metrics>,
    /// By `AppId`.
    pub(crate) apps: Vec<StoredApp>,
    pub(crate) is_occupied: Arc<Occupied>,
    /// Free bytes that the disk must have.
    pub(crate) spare_bytes: u64,
}

/// Stores events in a data directory.
pub(crate) struct Disk {
    jobs: SyncSender<Job>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Revocations that were there when the directory was opened, by `AppId`.
    revoked: Mutex<Vec<Vec<Revoked>>>,
}

/// What callers and the thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes of events in the queue.
    queued_bytes: AtomicUsize,
    /// Why the files cannot be used at present.
    trouble: Mutex<Option<Arc<str>>>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Disk").field(&self.shared).finish()
    }
}

impl Disk {
    /// Opens the directory, which is made if it is not there, and begins its thread.
    ///
    /// # Errors
    /// [`DataError`].
    pub(crate) fn open(setup: Setup) -> Result<Self, DataError> {
        // On the caller's thread, so that a directory that cannot be used stops the server from
        // starting.
        let mut store = Store::open(&setup)?;
        let apps = (0..setup.apps.len()).map(|at| AppId(at as u16));
        let revoked = apps.map(|app| store.revoked(app));
        let revoked = revoked
            .collect::<Result<_, _>>()
            .map_err(|fault| DataError::of(&setup.config.dir, fault))?;
        let (jobs, waiting) = sync_channel(DATA_QUEUE);
        let shared = Arc::<Shared>::default();
        let path = setup.config.dir.clone();
        let worker = Worker::new(store, setup, waiting, shared.clone());
        let thread = thread::Builder::new()
            .name("fanfare-data".to_owned())
            .spawn(move || worker.run());
        let thread = thread.map_err(|error| DataError::Io { path, error })?;

        Ok(Self {
            jobs,
            shared,
            thread: Mutex::new(Some(thread)),
            revoked: Mutex::new(revoked),
        })
    }

    /// Why the files cannot be used at present; absent if all is well.
    pub(crate) fn trouble(&self) -> Option<Arc<str>> {
        self.shared.trouble.lock().clone()
    }

    fn push(&self, job: Job) -> Result<(), HistoryError> {
        // Never waits, since its callers are on threads that serve clients.
        self.jobs.try_send(job).map_err(|unsent| match unsent {
            TrySendError::Full(_) => HistoryError::Behind,
            TrySendError::Disconnected(_) => HistoryError::Unavailable,
        })
    }

    /// Hands a job to the thread, and waits for its answer.
    async fn ask<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, HistoryError> {
        let (reply, answer) = oneshot::channel();
        self.push(job(reply))?;
        match answer.await {
            Ok(answer) => answer,
            Err(_) => Err(self
                .trouble()
                .map_or(HistoryError::Unanswered, HistoryError::Disk)),
        }
    }
}

impl Disk {
    /// The revocations that were there when the directory was opened, by `AppId`; once.
    pub(crate) fn take_revoked(&self) -> Vec<Vec<Revoked>> {
        std::mem::take(&mut self.revoked.lock())
    }

    /// Remembers revocations until they end. Returns when that is as safe as everything else.
    pub(crate) async fn revoke(
        &self,
        app: AppId,
        revoked: Vec<Revoked>,
    ) -> Result<(), HistoryError> {
        self.ask(|reply| Job::Revoke {
            app,
            revoked,
            reply,
        })
        .await
    }

    /// Stores for `window` what was answered to the first request with the key that `name` stands for.
    pub(crate) async fn keep_answer(
        &self,
        app: AppId,
        name: &str,
        stored: StoredAnswer,
        window: Duration,
    ) -> Result<(), HistoryError> {
        let name = name.into();
        self.ask(|reply| Job::KeepAnswer {
            app,
            name,
            stored,
            window,
            reply,
        })
        .await
    }

    /// What was answered to the first request with that key.
    pub(crate) async fn answer(
        &self,
        app: AppId,
        name: &str,
    ) -> Result<Option<StoredAnswer>, HistoryError> {
        let name = name.into();
        self.ask(|reply| Job::Answer { app, name, reply }).await
    }

    /// Waits until all that was asked for is written and the files are closed. Nothing is done after that.
    pub(crate) fn close(&self) {
        let Some(thread) = self.thread.lock().take() else {
            return;
        };
        // It fails if the thread has panicked, which was reported where it happened, and so would waiting for it.
        let _ = self.jobs.send(Job::Close);
        let _ = thread.join();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.close();
    }
}

/// Room in the queue for an event's bytes, until the thread has taken it.
#[derive(Debug)]
struct Room {
    bytes: usize,
    shared: Arc<Shared>,
}

impl Room {
    fn take(shared: &Arc<Shared>, bytes: usize) -> Result<Self, HistoryError> {
        // Counted before it is checked, so that two callers cannot both take the last of it.
        let before = shared.queued_bytes.fetch_add(bytes, Relaxed);
        let room = Self {
            bytes,
            shared: shared.clone(),
        };
        // One event fits an empty queue whatever its size, since nothing would ever make more room
        // for it.
        if before > 0 && before + bytes > DATA_QUEUE_BYTES {
            return Err(HistoryError::Behind);
        }
        Ok(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.queued_bytes.fetch_sub(self.bytes, Relaxed);
    }
}

impl History for Disk {
    fn append<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        new: New,
    ) -> HistoryFuture<'a, Appended> {
        Box::pin(async move {
            let names = new.omit.as_deref().map_or(0, super::Omit::bytes);
            // Bytes are bounded apart from calls, since events may be large.
            let room = Room::take(&self.shared, new.draft.len() + names)?;
            let (key, retention) = (key.clone(), *retention);
            self.ask(|reply| Job::Append {
                key,
                retention,
                new,
                room,
                reply,
            })
            .await
        })
    }

    fn position<'a>(
        &'a self,
        key: &'a Key,
        _retention: &'a Retention,
    ) -> HistoryFuture<'a, Position> {
        Box::pin(async move {
            let key = key.clone();
            self.ask(|reply| Job::Position { key, reply }).await
        })
    }

    fn since<'a>(
        &'a self,
        key: &'a Key,
        _retention: &'a Retention,
        epoch: Option<&'a str>,
        offset: u64,
    ) -> HistoryFuture<'a, Recovery> {
        Box::pin(async move {
            let (key, epoch) = (key.clone(), epoch.map(Into::into));
            let job = |reply| Job::Since {
                key,
                epoch,
                offset,
                reply,
            };
            self.ask(job).await
        })
    }

    fn page<'a>(
        &'a self,
        key: &'a Key,
        after: u64,
        limit: usize,
    ) -> HistoryFuture<'a, Option<Page>> {
        Box::pin(async move {
            let key = key.clone();
            let job = |reply| Job::Page {
                key,
                after,
                limit,
                reply,
            };
            self.ask(job).await
        })
    }

    fn waiting<'a>(&'a self, key: &'a Key) -> HistoryFuture<'a, Waiting> {
        Box::pin(async move {
            let key = key.clone();
            self.ask(|reply| Job::Waiting { key, reply }).await
        })
    }

    /// One that finds no room in the queue is left out: what it names is delivered once more then.
    fn confirm(&self, key: &Key, offset: u64, reader: &Reader<'_>) {
        let job = Job::Confirm {
            key: key.clone(),
            offset,
            reader: OwnedReader::of(reader),
        };
        if self.push(job).is_err() {
            tracing::debug!("a confirmation found no room in the queue of the data directory");
        }
    }

    /// Nothing: the thread does this itself.
    fn expire(&self) -> bool {
        false
    }
}
