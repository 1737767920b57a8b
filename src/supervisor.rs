//! The tasks and threads that a server cannot do without. One that ends or panics ends the server.
//!
//! tokio catches a panic and lets the other tasks go on. A server whose writer is gone would then accept clients and
//! events forever, and deliver nothing. So each of these tasks is run by [`Supervisor::run`], which notices its end.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::Poll,
};

use tokio::sync::watch;

/// A task or a thread of the server has ended, although the server was to go on. The server has stopped for it.
///
/// This is a defect of Fanfare, or the system had no memory or no threads left. The program may start another server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{task} {end}; the server has stopped")]
pub struct TaskFailed {
    task: Arc<str>,
    end: End,
}

impl TaskFailed {
    /// What the task is called, such as `flush of shard 0`.
    pub fn task(&self) -> &str {
        &self.task
    }
}

/// How a task ended that should not have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Panicked(Arc<str>),
    Returned,
    NotStarted(Arc<str>),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(message) => write!(f, "has panicked: {message}"),
            Self::Returned => f.write_str("has ended"),
            Self::NotStarted(why) => write!(f, "did not start: {why}"),
        }
    }
}

/// Notices when a task of one server ends. Clones are of the same server.
#[derive(Clone, Default)]
pub(crate) struct Supervisor(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// The first failure.
    failure: watch::Sender<Option<TaskFailed>>,
    /// Tasks may end now.
    is_ending: AtomicBool,
    /// Stops the server.
    stop: OnceLock<Box<dyn Fn() + Send + Sync>>,
    #[cfg(test)]
    sabotage: sabotage::Sabotage,
}

impl fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Supervisor").field(&self.failure()).finish()
    }
}

impl Supervisor {
    /// Runs `future` as the task called `task`, whose end before [`Supervisor::end`] is a failure. A task that is
    /// dropped before its end, with its runtime, is not a failure.
    pub(crate) fn run<F: Future<Output = ()> + 'static>(
        &self,
        task: &str,
        future: F,
    ) -> impl Future<Output = ()> + use<F> + 'static {
        let (this, task) = (self.clone(), Arc::<str>::from(task));
        let watched = self.run_to_end(&task, future);
        async move {
            watched.await;
            // A panic was noted already, and only the first failure counts.
            if !this.0.is_ending.load(SeqCst) {
                this.fail(task, End::Returned);
            }
        }
    }

    /// The same for a task that may end: only a panic is a failure.
    pub(crate) fn run_to_end<F: Future<Output = ()> + 'static>(
        &self,
        task: &str,
        future: F,
    ) -> impl Future<Output = ()> + use<F> + 'static {
        let (this, task) = (self.clone(), Arc::<str>::from(task));
        #[cfg(test)]
        let future = self.0.sabotage.expose(task.clone(), future);
        async move {
            let mut future = pin!(future);
            let panicked = std::future::poll_fn(|cx| {
                // Nothing of a task that has panicked is looked at again: it is dropped, and the server ends.
                match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
                    Ok(poll) => poll.map(|()| None),
                    Err(payload) => Poll::Ready(Some(payload)),
                }
            });
            if let Some(payload) = panicked.await {
                this.fail(task, End::Panicked(message(&*payload).into()));
            }
        }
    }

    /// Notes that `task` could not even be started.
    pub(crate) fn not_started(&self, task: &str, why: &impl fmt::Display) {
        self.fail(task.into(), End::NotStarted(why.to_string().into()));
    }

    fn fail(&self, task: Arc<str>, end: End) {
        let failed = TaskFailed { task, end };
        let is_first = self.0.failure.send_if_modified(|failure| {
            let is_first = failure.is_none();
            failure.get_or_insert_with(|| failed.clone());
            is_first
        });
        if is_first {
            tracing::error!("{failed}");
            self.stop();
        }
    }

    /// What is to be done at the first failure; done immediately if that was before. Called once.
    pub(crate) fn on_failure(&self, stop: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.stop.set(Box::new(stop));
        // A failure that came before this found nothing to call.
        if self.failure().is_some() {
            self.stop();
        }
    }

    fn stop(&self) {
        if let Some(stop) = self.0.stop.get() {
            stop();
        }
    }

    /// The server ends, so tasks may end from now on.
    pub(crate) fn end(&self) {
        self.0.is_ending.store(true, SeqCst);
    }

    /// The first failure, if there was one.
    pub(crate) fn failure(&self) -> Option<TaskFailed> {
        self.0.failure.borrow().clone()
    }

    /// Waits for the first failure. Cancel-safe.
    pub(crate) async fn failed(&self) -> TaskFailed {
        let mut failure = self.0.failure.subscribe();
        loop {
            let failed = failure.borrow_and_update().clone();
            if let Some(failed) = failed {
                return failed;
            }
            // The sender is in `self`.
            let _ = failure.changed().await;
        }
    }
}

/// What a panic says.
fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Making tasks panic: for tests, and not there otherwise.
#[cfg(test)]
pub(crate) mod sabotage {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::watch;

    use super::Supervisor;

    #[derive(Default)]
    pub(super) struct Sabotage {
        tasks: Mutex<Vec<Arc<str>>>,
        victim: watch::Sender<Option<(Arc<str>, How)>>,
    }

    /// What becomes of a task.
    #[derive(Clone, Copy)]
    enum How {
        Panic,
        Hang,
    }

    impl Sabotage {
        pub(super) fn expose<F: Future<Output = ()>>(
            &self,
            task: Arc<str>,
            future: F,
        ) -> impl Future<Output = ()> + use<F> {
            self.tasks.lock().push(task.clone());
            let mut victim = self.victim.subscribe();
            async move {
                let chosen = async {
                    let is_chosen = |victim: &Option<(Arc<str>, How)>| matches!(victim, Some((name, _)) if *name == task);
                    let victim = victim.wait_for(is_chosen).await;
                    victim
                        .ok()
                        .and_then(|victim| victim.as_ref().map(|victim| victim.1))
                };

                tokio::select! {
                    biased;
                    Some(how) = chosen => match how {
                        How::Panic => panic!("made to panic by a test"),
                        How::Hang => std::future::pending().await,
                    },
                    () = future => {}
                }
            }
        }
    }

    impl Supervisor {
        /// The tasks that have been started.
        pub(crate) fn tasks(&self) -> Vec<Arc<str>> {
            self.0.sabotage.tasks.lock().clone()
        }

        /// Makes `task` panic at its next step.
        pub(crate) fn make_panic(&self, task: &str) {
            let victim = Some((task.into(), How::Panic));
            self.0.sabotage.victim.send_replace(victim);
        }

        /// Makes `task` go no further from its next step on.
        pub(crate) fn make_hang(&self, task: &str) {
            let victim = Some((task.into(), How::Hang));
            self.0.sabotage.victim.send_replace(victim);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn supervised() -> (Supervisor, Arc<AtomicUsize>) {
        let (supervisor, stops) = (Supervisor::default(), Arc::new(AtomicUsize::new(0)));
        let counted = stops.clone();
        supervisor.on_failure(move || {
            counted.fetch_add(1, SeqCst);
        });
        (supervisor, stops)
    }

    #[tokio::test]
    async fn a_task_that_panics_or_ends_is_named_and_stops_the_server_once() {
        let (supervisor, stops) = supervised();
        supervisor.run("a", async { panic!("index {}", 7) }).await;
        supervisor.run("b", async {}).await;
        let failed = supervisor.failed().await;
        assert_eq!(
            failed.to_string(),
            "a has panicked: index 7; the server has stopped"
        );
        assert_eq!((failed.task(), stops.load(SeqCst)), ("a", 1));

        let (supervisor, stops) = supervised();
        supervisor.run_to_end("c", async {}).await;
        assert_eq!(supervisor.failure(), None, "it may end");
        supervisor.run("b", async {}).await;
        let failed = supervisor.failure().unwrap().to_string();
        assert_eq!(failed, "b has ended; the server has stopped");
        assert_eq!(stops.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn tasks_may_end_with_the_server_but_not_panic() {
        let (supervisor, stops) = supervised();
        supervisor.end();
        supervisor.run("a", async {}).await;
        assert_eq!(supervisor.failure(), None);
        supervisor.run("b", async { panic!("late") }).await;
        assert_eq!(supervisor.failure().unwrap().task(), "b");
        assert_eq!(stops.load(SeqCst), 1);
    }

    #[tokio::test]
    async fn a_task_that_is_dropped_has_not_failed() {
        let (supervisor, stops) = supervised();
        drop(supervisor.run("a", std::future::pending()));
        assert_eq!(supervisor.failure(), None);
        supervisor.not_started("thread", &"no memory");
        let failed = supervisor.failure().unwrap().to_string();
        assert_eq!(
            failed,
            "thread did not start: no memory; the server has stopped"
        );
        assert_eq!(stops.load(SeqCst), 1);
    }
}
