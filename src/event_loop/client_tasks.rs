//! The tasks of a thread's clients, in a queue of their own.
//!
//! Thousands of clients may send something at the same moment. In the same queue, each step of an event would wait for all
//! of them: the call that publishes it, its arrival from another node, its way to the sockets. So clients take turns with the
//! thread's other tasks: some of them run, then what else is ready, then the next ones.
//!
//! A turn of the clients lasts a part of the time that the others took since the one before. Thousands of HTTP requests may be
//! ready at the same moment too, and a few clients after all of them would be too few to answer everyone in time.

use std::{
    cell::{Cell, RefCell},
    fmt,
    future::{pending, poll_fn},
    pin::pin,
    rc::{Rc, Weak},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};
use tokio::task::{LocalSet, yield_now};

use crate::limits::{CLIENTS_SHARE, CLIENTS_TURN};

/// Where the tasks of clients are started.
#[derive(Default)]
pub(super) struct ClientTasks {
    /// They live as long as the future of [`ClientTasks::work`], which owns them.
    tasks: RefCell<Weak<LocalSet>>,
    turn: Rc<Cell<u32>>,
}

impl fmt::Debug for ClientTasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClientTasks").finish_non_exhaustive()
    }
}

impl ClientTasks {
    /// The task that runs the others, which lives as long as the thread's runtime.
    pub(super) fn work(&self) -> impl Future<Output = ()> + use<> + 'static {
        let tasks = Rc::new(LocalSet::new());
        // They hold the thread's event loop, which has this: neither would ever be freed if this owned them.
        self.tasks.replace(Rc::downgrade(&tasks));
        take_turns(tasks, self.turn.clone())
    }

    /// Starts a task, unless the thread has ended.
    pub(super) fn start(&self, task: impl Future<Output = ()> + 'static) {
        if let Some(tasks) = self.tasks.borrow().upgrade() {
            tasks.spawn_local(task);
        }
    }

    /// The number of the turn that runs, or of the last one. The first is 1.
    pub(super) fn turn(&self) -> u32 {
        self.turn.get()
    }
}

/// Runs `tasks` in turns with the other tasks of the thread, until it is dropped. Counts them in `turn`.
async fn take_turns(tasks: Rc<LocalSet>, turn: Rc<Cell<u32>>) {
    let mut tasks = pin!(tasks.run_until(pending::<()>()));
    let mut turns: Option<Arc<Turns>> = None;
    // When the last turn ended, if there was more to do.
    let mut ended = None;

    loop {
        poll_fn(|cx| {
            let turns = match &mut turns {
                Some(turns) if turns.task.will_wake(cx.waker()) => turns,
                other => other.insert(Turns::of(cx.waker())),
            };

            turn.set(turn.get().wrapping_add(1));
            let waker = Waker::from(turns.clone());
            let mut cx = Context::from_waker(&waker);
            // How long the others took is of interest only if clients waited for them.
            let begun = ended.take().map(|ended| (worked(), ended));
            let length = begun.map_or(Duration::ZERO, |(begun, ended)| {
                (begun.saturating_sub(ended) / CLIENTS_SHARE).min(CLIENTS_TURN)
            });

            loop {
                turns.begin();
                // Never ready. A call runs 61 tasks at most, and wakes the waker if that was not all.
                let _ = tasks.as_mut().poll(&mut cx);
                if !turns.end() {
                    return Poll::Pending;
                }

                let now = worked();
                if begun.is_none_or(|(begun, _)| now.saturating_sub(begun) >= length) {
                    ended = Some(now);
                    return Poll::Ready(());
                }
            }
        })
        .await;

        // Until the thread has looked at its sockets. Woken immediately, this task would run before what has come there.
        yield_now().await;
    }
}

/// How long this thread has worked. Time in which it rested, or other threads had its core, is no one's turn.
fn worked() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // It is never negative.
    Duration::try_from(time).unwrap_or_default()
}

/// No client's task runs. If one has something to do, `take_turns` is woken.
const RESTING: u8 = 0;

/// Some run.
const RUNNING: u8 = 1;

/// Some run, and others are to run after them: in the same turn, or in the next one, which begins by itself.
const HAS_MORE: u8 = 2;

/// Wakes the task of [`take_turns`] while no client has something to do. Otherwise it only notes that there is more.
///
/// ```text
///              begin             woken
///    RESTING ---------> RUNNING --------> HAS_MORE
///       ^  \_            |  ^                |
///       |    woken: task  |  |     begin      |
///       +-----------------+  +----------------+
///               end
/// ```
struct Turns {
    task: Waker,
    state: AtomicU8,
}

impl Turns {
    fn of(task: &Waker) -> Arc<Self> {
        Arc::new(Self {
            task: task.clone(),
            state: AtomicU8::new(RESTING),
        })
    }

    fn begin(&self) {
        self.state.store(RUNNING, SeqCst);
    }

    /// Whether there is more to do. Then nothing wakes the task until `begin`: woken during its pause, it would end that
    /// before the thread has looked at its sockets.
    fn end(&self) -> bool {
        self.state
            .compare_exchange(RUNNING, RESTING, SeqCst, SeqCst)
            .is_err()
    }
}

impl Wake for Turns {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In one step: other threads wake it too, and one of them may do so just when the turn ends.
        let noted = self
            .state
            .compare_exchange(RUNNING, HAS_MORE, SeqCst, SeqCst);
        if noted == Err(RESTING) {
            self.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::{sync::Notify, task::spawn_local};

    use super::*;

    /// More clients than run in one turn.
    const MANY: usize = 1000;

    /// A client that always has something to do, and counts how often it ran.
    fn busy(ran: &Rc<Cell<usize>>) -> impl Future<Output = ()> + use<> {
        let ran = ran.clone();
        poll_fn(move |cx| {
            ran.set(ran.get() + 1);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    #[tokio::test]
    async fn what_else_is_ready_goes_between_some_of_the_clients() {
        let all = async {
            let clients = ClientTasks::default();
            spawn_local(clients.work());
            let ran = Rc::new(Cell::new(0));
            for _ in 0..MANY {
                clients.start(busy(&ran));
            }

            let mut turns = Vec::new();
            for _ in 0..99 {
                let before = ran.get();
                yield_now().await;
                turns.push(ran.get() - before);
            }
            turns
        };

        // Not each of them: the machine may hold the others up, and clients have more time then.
        let mut turns = LocalSet::new().run_until(all).await;
        turns.sort_unstable();
        let median = turns[turns.len() / 2];
        assert!((1..MANY).contains(&median), "{turns:?}");
    }

    #[tokio::test]
    async fn clients_have_their_part_of_the_time_however_long_the_others_take() {
        const ROUNDS: usize = 10;

        let all = async {
            let clients = ClientTasks::default();
            spawn_local(clients.work());
            let ran = Rc::new(Cell::new(0));
            for _ in 0..MANY {
                clients.start(busy(&ran));
            }

            for _ in 0..ROUNDS {
                let begun = worked();
                while worked() < begun + Duration::from_millis(2) {}
                yield_now().await;
            }
            ran.get()
        };

        // A client runs for some tenths of a microsecond.
        let ran = LocalSet::new().run_until(all).await;
        assert!(ran > ROUNDS * 61 * 4, "{ran}");
    }

    #[tokio::test]
    async fn a_client_that_is_woken_does_not_end_the_pause_between_two_turns() {
        let all = async {
            let clients = ClientTasks::default();
            spawn_local(clients.work());
            let waiting: Vec<_> = (0..50).map(|_| Rc::new(Notify::new())).collect();
            for woken in &waiting {
                let woken = woken.clone();
                clients.start(async move { woken.notified().await });
            }

            let ran = Rc::new(Cell::new(0));
            for _ in 0..MANY {
                clients.start(busy(&ran));
            }

            yield_now().await;

            // These are wakes from outside of a turn, and the thread does not look at its sockets between them.
            let first = clients.turn();
            let mut waiting = waiting.into_iter();
            let waking = spawn_local(poll_fn(move |cx| {
                let Some(woken) = waiting.next() else {
                    return Poll::Ready(());
                };
                woken.notify_one();
                cx.waker().wake_by_ref();
                Poll::Pending
            }));
            waking.await.unwrap();
            clients.turn() - first
        };

        // Two, if it looked at them in the middle.
        let turns = LocalSet::new().run_until(all).await;
        assert!(turns <= 2, "{turns}");
    }

    #[tokio::test]
    async fn a_client_that_another_thread_wakes_runs() {
        let all = async {
            let clients = ClientTasks::default();
            spawn_local(clients.work());
            for n in 0..100 {
                let (sender, receiver) = tokio::sync::oneshot::channel();
                let (done, heard) = tokio::sync::oneshot::channel();
                clients.start(async move {
                    let _ = done.send(receiver.await);
                });
                let waking = std::thread::spawn(move || sender.send(n));
                assert_eq!(heard.await, Ok(Ok(n)));
                waking.join().unwrap().unwrap();
            }
        };
        LocalSet::new().run_until(all).await;
    }

    #[tokio::test]
    async fn tasks_end_with_the_one_that_runs_them() {
        let held = Rc::new(());
        let clients = Rc::new(ClientTasks::default());
        let (task, own) = (held.clone(), clients.clone());
        let set = LocalSet::new();
        set.spawn_local(clients.work());
        clients.start(async move {
            let _held = (task, own);
            pending::<()>().await;
        });
        set.run_until(yield_now()).await;
        assert_eq!(Rc::strong_count(&held), 2);
        drop(set);
        assert_eq!(
            (Rc::strong_count(&held), Rc::strong_count(&clients)),
            (1, 1)
        );
        clients.start(pending());
    }
}
