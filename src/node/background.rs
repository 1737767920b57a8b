//! Work that takes long, so arranged that the clients of a shard's thread do not wait for all of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{Node, NodeError, Target};
use crate::{
    filter::Bound,
    hub::{LongStep, ScanPermit, Scans},
    id::AppId,
};

/// Work that waits for the thread. Each app has one at a time there. The caller does the work itself if there is no place.
const WAITING: usize = 256;

/// How long the thread waits for more work.
const REST: Duration = Duration::from_secs(2);

/// Work for the thread beside the shards.
type Job = Box<dyn FnOnce() + Send>;

/// One thread that serves no client. It begins with the first work, and ends when there was none for [`REST`].
///
/// One is enough, and it keeps memory low: each thread has a heap of its own, and what is built here is freed elsewhere, which
/// the heap learns of only with more work or with the thread's end.
#[derive(Debug)]
pub(super) struct Background {
    jobs: Jobs,
    turns: Arc<Scans>,
}

/// Where the thread takes work, while there is one. Work is handed over under the lock, under which the thread ends as well.
type Jobs = Arc<Mutex<Option<SyncSender<Job>>>>;

impl Background {
    pub(super) fn new() -> Self {
        Self {
            jobs: Arc::default(),
            turns: Scans::new(1),
        }
    }

    /// Hands `job` to the thread; gives it back if there is none to be had, or it has too much to do.
    fn push(&self, job: Job) -> Result<(), Job> {
        // Under the lock, under which the thread ends as well: work never goes to a thread that has
        // just ended.
        let mut jobs = self.jobs.lock();
        if jobs.is_none() {
            *jobs = begin(self.jobs.clone());
        }
        let Some(jobs) = &*jobs else {
            return Err(job);
        };
        jobs.try_send(job).map_err(|unsent| match unsent {
            TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
        })
    }
}

/// Begins the thread; nothing if the system has no more of them.
fn begin(jobs: Jobs) -> Option<SyncSender<Job>> {
    let (sender, waiting) = mpsc::sync_channel::<Job>(WAITING);
    let work = move || {
        loop {
            match waiting.recv_timeout(REST) {
                Ok(job) => {
                    // A caller that waits for it learns of a panic by getting nothing.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let mut jobs = jobs.lock();
                    // Work is handed over under the same lock, so none comes between this look and
                    // the end.
                    let Ok(job) = waiting.try_recv() else {
                        *jobs = None;
                        return;
                    };
                    drop(jobs);
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            }
        }
    };

    let thread = thread::Builder::new()
        .name("fanfare-work".to_owned())
        .spawn(work);
    thread.is_ok().then_some(sender)
}

impl Node {
    /// Waits until one step of `app` may run that takes a shard's thread longer than a slice; see
    /// [`Hub::queue_long_step`](crate::hub::Hub::queue_long_step).
    pub(crate) async fn queue_long_step(&self, app: AppId, step: LongStep) {
        self.hub.queue_long_step(app, step).await;
    }

    /// Does `work` of `app` on a thread that serves no client; `None` if it panicked. Apps are served one after the other.
    ///
    /// Cancel-safe, except for the work, which is done to its end once it has begun.
    pub(crate) async fn run_in_background<T: Send + 'static>(
        &self,
        app: AppId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.background.turns.wait(app).await;
        self.aside_with(permit, work).await
    }

    /// The same without waiting for other apps, for a caller that has one piece of work at a time for all apps.
    async fn aside_with<T: Send + 'static>(
        &self,
        permit: Option<ScanPermit>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (done, waiting) = oneshot::channel();
        let job = Box::new(move || {
            // It fails if nobody waits any longer.
            let _ = done.send(work());
            drop(permit);
        });
        if let Err(job) = self.background.push(job) {
            // A panic means nothing here, as in `begin`.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
        waiting.await.ok()
    }

    /// Compiles a filter with regular expressions aside, and binds it: each may take a millisecond. Returns nothing, immediately,
    /// where there are none or the app's cache has them, and so [`Node::select`] takes no time.
    ///
    /// # Errors
    /// [`NodeError::Filter`], as [`Node::select`].
    pub(crate) async fn compile_aside(
        &self,
        app: AppId,
        target: &Target,
    ) -> Result<Option<Arc<Bound>>, NodeError> {
        if self.is_compiled(app, target) {
            return Ok(None);
        }
        let permit = self.background.turns.wait(app).await;
        self.compile_now(app, target, permit).await
    }

    /// The same for events of other nodes, which come one after another for all apps: they do not wait for what the
    /// callers of one app have brought.
    ///
    /// # Errors
    /// As [`Node::compile_aside`].
    pub(super) async fn compile_aside_of_bus(
        &self,
        app: AppId,
        target: &Target,
    ) -> Result<Option<Arc<Bound>>, NodeError> {
        if self.is_compiled(app, target) {
            return Ok(None);
        }
        self.compile_now(app, target, None).await
    }

    fn is_compiled(&self, app: AppId, target: &Target) -> bool {
        let params = target.params.as_ref();
        let is_compiled = |filter: &String| self.app(app).is_compiled(filter, params);
        target.filter.as_ref().is_none_or(is_compiled)
    }

    async fn compile_now(
        &self,
        app: AppId,
        target: &Target,
        permit: Option<ScanPermit>,
    ) -> Result<Option<Arc<Bound>>, NodeError> {
        let (filter, params) = (target.filter.clone(), target.params.clone());
        let filter = filter.unwrap_or_default();
        let metrics = self.metrics.clone();
        let work = self.app(app).compiling(filter.clone(), params, metrics);
        match self.aside_with(permit, work).await {
            Some(Err(error)) => Err(NodeError::Filter {
                error,
                source_text: filter,
            }),
            Some(Ok(bound)) => Ok(Some(bound)),
            // The work has panicked. The caller's `select` then compiles the filter by itself.
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_ends_neither_the_thread_nor_what_comes_after_it() {
        let background = Background::new();
        let (said, heard) = mpsc::sync_channel(1);
        assert!(
            background
                .push(Box::new(|| panic!("as it is meant to")))
                .is_ok()
        );
        let say = Box::new(move || {
            said.send(thread::current().name().map(ToOwned::to_owned))
                .unwrap();
        });
        assert!(background.push(say).is_ok());
        assert_eq!(heard.recv().unwrap().as_deref(), Some("fanfare-work"));
    }
}
