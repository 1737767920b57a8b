//! Permits for work that takes long, such as heavy filters: bounded over the node, and shared fairly between apps.
//!
//! An app that has none running starts immediately, so that no app waits for another one. Further ones start while fewer than
//! a bound run, and apps whose further ones wait are served one after the other.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::id::AppId;

/// Which heavy filters run, or what else takes long, and which wait.
#[derive(Debug)]
pub(crate) struct Scans {
    max: usize,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    running: usize,
    /// By [`AppId`].
    apps: Vec<Queue>,
    /// The app that is asked first whether it has one to start.
    turn: usize,
}

#[derive(Debug, Default)]
struct Queue {
    running: usize,
    /// First come, first served. A caller that has given up is passed over.
    waiting: VecDeque<oneshot::Sender<ScanPermit>>,
}

/// Kinds of steps that take a shard's thread longer than a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LongStep {
    /// Of a client: a page of members, a replay, a long profile or message. Each client has one at a time.
    Client,
    /// A long body of a caller.
    Body,
    /// A token that a client renews, which must not come too late.
    Token,
}

/// Allows one heavy filter, or one other piece of long work, to run, until dropped.
#[derive(Debug)]
pub(crate) struct ScanPermit {
    scans: Arc<Scans>,
    app: AppId,
}

impl Drop for ScanPermit {
    fn drop(&mut self) {
        self.scans.end(self.app);
    }
}

impl Scans {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            queues: Mutex::default(),
        })
    }

    /// Waits up to `wait` for a permit of `app`; `None` after that.
    ///
    /// Cancel-safe: dropped while it waits, it has taken nothing.
    pub(super) async fn take(self: &Arc<Self>, app: AppId, wait: Duration) -> Option<ScanPermit> {
        match self.ask(app) {
            Ok(permit) => Some(permit),
            Err(granted) => tokio::time::timeout(wait, granted).await.ok()?.ok(),
        }
    }

    /// Waits for a permit of `app`, however long that takes.
    ///
    /// Cancel-safe, as [`Scans::take`].
    pub(crate) async fn wait(self: &Arc<Self>, app: AppId) -> Option<ScanPermit> {
        match self.ask(app) {
            Ok(permit) => Some(permit),
            // Its sender is dropped only with all of this.
            Err(granted) => granted.await.ok(),
        }
    }

    /// A permit of `app`, or where it will come.
    fn ask(self: &Arc<Self>, app: AppId) -> Result<ScanPermit, oneshot::Receiver<ScanPermit>> {
        let granted = {
            let mut queues = self.queues.lock();
            let queue = queues.of(app);

            // Those that have given up are at the front where all wait equally long: so the queue stays short.
            while queue
                .waiting
                .front()
                .is_some_and(oneshot::Sender::is_closed)
            {
                queue.waiting.pop_front();
            }

            // Not before those that wait, even if it may start: they came first.
            if queue.waiting.is_empty() && queues.may_start(app.0.into(), self.max) {
                queues.start(app.0.into());
                None
            } else {
                let (grant, granted) = oneshot::channel();
                queues.of(app).waiting.push_back(grant);
                Some(granted)
            }
        };

        granted.map_or_else(|| Ok(self.permit(app)), Err)
    }

    fn permit(self: &Arc<Self>, app: AppId) -> ScanPermit {
        let scans = self.clone();
        ScanPermit { scans, app }
    }

    fn end(self: &Arc<Self>, app: AppId) {
        let mut queues = self.queues.lock();
        queues.running -= 1;
        queues.of(app).running -= 1;
        while let Some((app, grant)) = queues.next(self.max) {
            // One that has just given up drops the permit, which must find the lock free.
            drop(queues);
            let _ = grant.send(self.permit(app));
            queues = self.queues.lock();
        }
    }
}

impl Queues {
    fn of(&mut self, app: AppId) -> &mut Queue {
        let at = usize::from(app.0);
        if self.apps.len() <= at {
            self.apps.resize_with(at + 1, Queue::default);
        }
        &mut self.apps[at]
    }

    fn may_start(&self, app: usize, max: usize) -> bool {
        // An app that has none running always starts one, so the bound may be exceeded by as many
        // as there are apps.
        self.running < max || self.apps[app].running == 0
    }

    fn start(&mut self, app: usize) {
        self.running += 1;
        self.apps[app].running += 1;
    }

    /// Starts the next one that may: of the app that is next, or else of the one after it.
    fn next(&mut self, max: usize) -> Option<(AppId, oneshot::Sender<ScanPermit>)> {
        let apps = self.apps.len();
        for app in (self.turn..self.turn + apps).map(|at| at % apps) {
            if !self.may_start(app, max) {
                continue;
            }
            while let Some(grant) = self.apps[app].waiting.pop_front() {
                if !grant.is_closed() {
                    self.start(app);
                    self.turn = app + 1;
                    return Some((AppId(app as u16), grant));
                }
            }
        }

        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: AppId = AppId(0);
    const B: AppId = AppId(1);
    const C: AppId = AppId(2);
    const WAIT: Duration = Duration::from_mins(1);

    /// Asks for a permit; one that is there at once is not waited for.
    async fn now(scans: &Arc<Scans>, app: AppId) -> Option<ScanPermit> {
        scans.take(app, Duration::ZERO).await
    }

    #[tokio::test]
    async fn an_app_starts_at_once_however_many_another_one_runs() {
        let scans = Scans::new(2);
        let mut of_a = vec![now(&scans, A).await.unwrap(), now(&scans, A).await.unwrap()];
        assert!(now(&scans, A).await.is_none(), "as many as may be");
        let of_b = now(&scans, B).await.unwrap();
        assert!(now(&scans, B).await.is_none(), "one is beyond the bound");
        drop(of_b);
        assert!(now(&scans, B).await.is_some(), "and may be always");
        of_a.pop();
        assert!(now(&scans, A).await.is_some());
    }

    #[tokio::test]
    async fn apps_take_turns_with_what_is_left() {
        let scans = Scans::new(2);
        let mut running = Vec::new();
        for app in [A, A, B, C] {
            running.push(now(&scans, app).await.unwrap());
        }
        let order = Mutex::new(Vec::new());
        let wait = async |app: AppId| {
            let permit = scans.take(app, WAIT).await.unwrap();
            order.lock().push(app);
            permit
        };
        let (a1, a2, a3) = (wait(A), wait(A), wait(A));
        let (b, c) = (wait(B), wait(C));
        let end_all = async {
            tokio::task::yield_now().await;
            running.clear();
        };
        let _permits = tokio::join!(
            async { drop(a1.await) },
            async { drop(a2.await) },
            async { drop(a3.await) },
            async { drop(b.await) },
            async { drop(c.await) },
            end_all
        );
        let order = order.into_inner();
        let place = |app| order.iter().position(|one| *one == app).unwrap();
        assert!(place(B) < 3 && place(C) < 3, "{order:?}");
    }

    #[tokio::test]
    async fn those_who_gave_up_are_passed_over_and_leave_nothing_behind() {
        let scans = Scans::new(1);
        let held = now(&scans, A).await.unwrap();
        for _ in 0..1000 {
            assert!(now(&scans, A).await.is_none());
        }
        assert!(scans.queues.lock().apps[0].waiting.len() <= 1);
        let next = scans.take(A, WAIT);
        let end = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        let (next, ()) = tokio::join!(next, end);
        assert!(next.is_some());
        drop(next);
        assert_eq!(scans.queues.lock().running, 0);
    }
}
