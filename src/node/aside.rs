//! Work that takes long, so arranged that the clients of a shard's thread do not wait for all of it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        mpsc::{self, TrySendError},
    },
    thread,
};

use tokio::sync::oneshot;

use super::{Node, NodeError, Target};
use crate::{hub::Scans, id::AppId};

/// Work that waits for the thread. Each app has one at a time there; what finds no place is done by who brings it.
const WAITING: usize = 256;

/// Work for the thread beside the shards.
type Job = Box<dyn FnOnce() + Send>;

/// One thread that serves no client, begun with its first work. It ends with the node.
///
/// One is enough, and it keeps memory low: each thread has a heap of its own, and what is built here is freed elsewhere.
#[derive(Debug)]
pub(super) struct Aside {
    jobs: OnceLock<Option<mpsc::SyncSender<Job>>>,
    turns: Arc<Scans>,
}

impl Aside {
    pub(super) fn new() -> Self {
        Self {
            jobs: OnceLock::new(),
            turns: Scans::new(1),
        }
    }

    /// Hands `job` to the thread; gives it back if there is none to be had, or it has too much to do.
    fn push(&self, job: Job) -> Result<(), Job> {
        match self.jobs.get_or_init(begin) {
            Some(jobs) => jobs.try_send(job).map_err(|unsent| match unsent {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => job,
            }),
            None => Err(job),
        }
    }
}

/// Begins the thread; nothing if the system has no more of them.
fn begin() -> Option<mpsc::SyncSender<Job>> {
    let (jobs, waiting) = mpsc::sync_channel::<Job>(WAITING);
    let work = move || {
        for job in waiting {
            // Whoever waits for it learns of a panic by getting nothing.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    };
    let thread = thread::Builder::new()
        .name("fanfare-aside".to_owned())
        .spawn(work);
    thread.is_ok().then_some(jobs)
}

impl Node {
    /// Waits for the turn of one step of `app` that takes a shard's thread longer than a slice, such as a page of members.
    ///
    /// Of those that wait, one goes on in each round of the thread's tasks, and apps take turns. So whatever else is ready
    /// waits for one such step, and not for as many as clients and callers have asked for. Costs one round where nothing waits.
    /// Cancel-safe.
    pub(crate) async fn queue_long_step(&self, app: AppId) {
        let permit = self.hub.long_steps().wait(app).await;
        // Whoever asks in this round finds the permit taken, and goes on in a later one.
        tokio::task::yield_now().await;
        drop(permit);
    }

    /// Does `work` of `app` on a thread that serves no client; `None` if it panicked. Apps take turns.
    ///
    /// Cancel-safe, but for the work: that is done to its end once it has begun.
    pub(crate) async fn aside<T: Send + 'static>(
        &self,
        app: AppId,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let permit = self.aside.turns.wait(app).await;
        let (done, waiting) = oneshot::channel();
        let job = Box::new(move || {
            // It fails if nobody waits any longer.
            let _ = done.send(work());
            drop(permit);
        });
        if let Err(job) = self.aside.push(job) {
            job();
        }
        waiting.await.ok()
    }

    /// Compiles the regular expressions of a filter aside, so that [`Node::select`] finds them compiled: each may take a
    /// millisecond. Returns immediately where there are none, or the app's cache has them.
    ///
    /// # Errors
    /// [`NodeError::Filter`], as [`Node::select`].
    pub(crate) async fn compile_aside(&self, app: AppId, target: &Target) -> Result<(), NodeError> {
        let Some(filter) = &target.filter else {
            return Ok(());
        };
        let of_app = self.app(app);
        if of_app.is_compiled(filter, target.params.as_ref()) {
            return Ok(());
        }
        let work = of_app.compiling(filter.clone(), target.params.clone(), self.metrics.clone());
        match self.aside(app, work).await {
            Some(Err(error)) => Err(NodeError::Filter {
                error,
                source_text: filter.clone(),
            }),
            Some(Ok(())) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_panics_ends_neither_the_thread_nor_what_comes_after_it() {
        let aside = Aside::new();
        let (said, heard) = mpsc::sync_channel(1);
        assert!(aside.push(Box::new(|| panic!("as it is meant to"))).is_ok());
        let say = Box::new(move || {
            said.send(thread::current().name().map(ToOwned::to_owned))
                .unwrap();
        });
        assert!(aside.push(say).is_ok());
        assert_eq!(heard.recv().unwrap().as_deref(), Some("fanfare-aside"));
    }
}
