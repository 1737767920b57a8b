//! What goes to one Redis server: a queue that anyone may append to, in the order of the calls.

use std::{
    cell::Cell,
    collections::VecDeque,
    sync::Arc,
    thread::{self, ThreadId},
};

use parking_lot::Mutex;
use redis::{Cmd, Script, Value};
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::{Duration, Instant},
};

use super::{BusError, batch::Call, connection::Address};
use crate::{
    limits::{self, Limits},
    metrics::{Metrics, Sent},
};

/// What Redis made of a command.
pub(super) type CommandResult = Result<Value, BusError>;

/// What is sent.
pub(super) enum Payload {
    Command(Cmd),
    /// A call of a script that takes several together.
    Call(Box<Call>),
}

/// A script that is to run.
#[derive(Clone, Copy)]
pub(super) struct ScriptAt {
    pub(super) script: &'static Script,
    /// The partition that it is for.
    pub(super) partition: u16,
}

/// Pipelines that went to Redis before the one that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Earlier {
    MayBeUnderWay,
    HaveEnded,
}

impl Earlier {
    /// How many of the permits for pipelines the one that is made needs: with all of them, no other is under way.
    pub(super) fn permits(self) -> u32 {
        match self {
            Self::MayBeUnderWay => 1,
            Self::HaveEnded => limits::BUS_PIPELINES as u32,
        }
    }
}

/// A command on its way.
pub(super) struct QueuedCommand {
    pub(super) payload: Payload,
    pub(super) bytes: usize,
    /// What EVALSHA names, where the command is one.
    pub(super) script: Option<ScriptAt>,
    /// Whether Redis did not know the script once already.
    pub(super) again: bool,
    pub(super) deadline: Instant,
    answer: oneshot::Sender<CommandResult>,
}

/// The way to one Redis server.
pub(super) struct CommandQueue {
    pub(super) address: Address,
    state: Mutex<State>,
    /// Wakes the publisher when the queue is no longer empty.
    pub(super) wake: Notify,
    /// Wakes the subscriber of this server when canaries can fly.
    pub(super) opened: Notify,
    /// Asks the publisher to look again which server it talks to.
    pub(super) recheck: Notify,
    timeout: Duration,
    commands: usize,
    bytes: usize,
    metrics: Arc<Metrics>,
}

struct State {
    /// Why nothing can be sent now.
    away: Option<Arc<str>>,
    items: VecDeque<QueuedCommand>,
    bytes: usize,
    /// Items that were taken out and have no answer.
    under_way: usize,
    /// The thread that has yet to wake the publisher, when it has run its other tasks.
    wake_owed_by: Option<ThreadId>,
}

/// How the publisher learns of an item that was queued.
enum WakeUp {
    /// It is awake, or about to be.
    Unneeded,
    Now,
    /// By a task of this runtime.
    Later(Handle),
}

impl State {
    /// How the publisher learns of the item that was just queued. It takes all that waits, so only the first has to wake it.
    fn wake_up(&mut self) -> WakeUp {
        if self.items.len() == 1 {
            let runtime = runtime_that_sends_together();
            self.wake_owed_by = runtime.is_some().then(|| thread::current().id());
            return runtime.map_or(WakeUp::Now, WakeUp::Later);
        }

        // Nobody else waits for a thread that may be busy for long, or hang.
        let owed_by_another = self
            .wake_owed_by
            .take_if(|by| *by != thread::current().id());
        owed_by_another.map_or(WakeUp::Unneeded, |_| WakeUp::Now)
    }
}

/// Items whose calls are further apart than this part of the deadline go in pipelines of their own, since a pipeline
/// has the deadline of its first.
const SPREAD: u32 = 10;

impl CommandQueue {
    pub(super) fn new(address: Address, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        // Shut until the publisher has connected, so that a call fails immediately instead of
        // waiting for a server that may not be there.
        let away = Some("not connected yet".into());
        Self {
            address,
            state: Mutex::new(State {
                away,
                items: VecDeque::new(),
                bytes: 0,
                under_way: 0,
                wake_owed_by: None,
            }),

            wake: Notify::new(),
            opened: Notify::new(),
            recheck: Notify::new(),
            timeout: limits.redis_timeout,
            commands: limits.bus_queue_commands,
            bytes: limits.bus_queue_bytes,

            metrics,
        }
    }

    /// Queues a command of about `bytes`; what comes of it can be waited for.
    ///
    /// # Errors
    /// [`BusError::Away`] and [`BusError::Full`]; nothing is sent then.
    pub(super) fn send(
        self: &Arc<Self>,
        payload: Payload,
        bytes: usize,
        script: Option<ScriptAt>,
    ) -> Result<oneshot::Receiver<CommandResult>, BusError> {
        let (answer, receiver) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let wake_up = {
            let mut state = self.state.lock();
            if let Some(reason) = &state.away {
                let error = BusError::Away {
                    reason: reason.clone(),
                };
                self.metrics.bus.sent(Sent::Away, 1);
                return Err(error);
            }

            if state.items.len() >= self.commands || state.bytes + bytes > self.bytes {
                self.metrics.bus.sent(Sent::Full, 1);
                return Err(BusError::Full);
            }

            state.bytes += bytes;
            state.items.push_back(QueuedCommand {
                payload,
                bytes,
                script,
                again: false,
                deadline,
                answer,
            });

            state.wake_up()
        };

        match wake_up {
            WakeUp::Unneeded => {}
            WakeUp::Now => self.wake.notify_one(),
            WakeUp::Later(runtime) => {
                let owed = OwedWakeUp {
                    queue: self.clone(),
                    by: thread::current().id(),
                };
                // A runtime that ends drops the task, which wakes as well.
                runtime.spawn(async move { drop(owed) });
            }
        }
        Ok(receiver)
    }

    /// Commands are taken from now on.
    pub(super) fn open(&self) {
        self.state.lock().away = None;
        self.opened.notify_one();
    }

    /// No commands are taken from now on, and what waits is answered: it was not sent.
    pub(super) fn shut(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let items = {
            let mut state = self.state.lock();
            // Under the lock in which `send` looks at it, so nothing can be queued after the items
            // are taken.
            state.away = Some(reason.clone());
            state.bytes = 0;
            std::mem::take(&mut state.items)
        };

        self.metrics.bus.sent(Sent::Away, items.len() as u64);
        for item in items {
            let _ = item.answer.send(Err(BusError::Away {
                reason: reason.clone(),
            }));
        }
    }

    /// No commands are taken until the publisher has made sure that the server is still a primary.
    pub(super) fn ask_recheck(&self, reason: &str) {
        self.shut(reason);
        self.recheck.notify_one();
    }

    /// Whether more than half of the room is taken.
    pub(super) fn is_crowded(&self) -> bool {
        let state = self.state.lock();
        state.items.len() > self.commands / 2 || state.bytes > self.bytes / 2
    }

    /// When the oldest item that waits has to be answered.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.state.lock().items.front().map(|item| item.deadline)
    }

    /// Whether everything has its answer.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.items.is_empty() && state.under_way == 0
    }

    /// Answers what has waited too long: it was not sent.
    pub(super) fn expire(&self, now: Instant) {
        let late = {
            let mut state = self.state.lock();
            // All wait equally long, so those that are late are in front.
            let count = state
                .items
                .iter()
                .take_while(|item| item.deadline <= now)
                .count();
            let late = state.items.drain(..count).collect::<Vec<_>>();
            state.bytes -= late.iter().map(|item| item.bytes).sum::<usize>();
            late
        };

        self.metrics.bus.sent(Sent::Away, late.len() as u64);
        for item in late {
            let _ = item.answer.send(Err(BusError::away(
                "Redis is too slow: the command waited its time unsent",
            )));
        }
    }

    /// Takes out what goes in the next pipeline. Nothing if that was put back and there are `earlier` pipelines under way, which may
    /// put back more that comes before all that waits.
    pub(super) fn take(&self, now: Instant, earlier: Earlier) -> Option<Vec<QueuedCommand>> {
        self.expire(now);
        let mut state = self.state.lock();
        // The publisher is awake, and looks for more before it sleeps.
        state.wake_owed_by = None;
        let was_put_back = state.items.front().is_some_and(|item| item.again);
        if was_put_back && earlier == Earlier::MayBeUnderWay {
            return None;
        }

        let mut batch = Vec::with_capacity(state.items.len().min(limits::BUS_PIPELINE_COMMANDS));
        let mut bytes = 0;

        let last = state
            .items
            .front()
            .map(|item| item.deadline + self.timeout / SPREAD);
        while batch.len() < limits::BUS_PIPELINE_COMMANDS && bytes < limits::BUS_PIPELINE_BYTES {
            let fits = state
                .items
                .front()
                .is_some_and(|item| last.is_some_and(|last| item.deadline <= last));
            let Some(item) = state.items.pop_front_if(|_| fits) else {
                break;
            };
            bytes += item.bytes;
            batch.push(item);
        }

        state.bytes -= bytes;
        state.under_way += batch.len();
        Some(batch)
    }

    /// Answers what [`Self::take`] took out.
    pub(super) fn settle(&self, items: impl IntoIterator<Item = (QueuedCommand, CommandResult)>) {
        let (mut answered, mut refused, mut unanswered, mut count) = (0, 0, 0, 0);
        for (item, answer) in items {
            count += 1;
            match &answer {
                Ok(_) => answered += 1,
                Err(BusError::Unanswered) => unanswered += 1,
                Err(_) => refused += 1,
            }
            // The caller may have gone.
            let _ = item.answer.send(answer);
        }

        // After the answers were sent: the bus ends when its queues are idle, and would lose them.
        self.state.lock().under_way -= count;
        let metrics = &self.metrics.bus;
        metrics.sent(Sent::Answered, answered);
        metrics.sent(Sent::Refused, refused);
        metrics.sent(Sent::Unanswered, unanswered);
    }

    /// Puts back what Redis refused because it has forgotten a script, before everything that waits. What several pipelines put back
    /// keeps their order.
    pub(super) fn put_back(&self, items: Vec<QueuedCommand>) {
        if items.is_empty() {
            return;
        }

        let mut state = self.state.lock();
        state.under_way -= items.len();
        // All that waited was answered when the queue was shut, and so must these be.
        if let Some(reason) = &state.away {
            let error = BusError::Away {
                reason: reason.clone(),
            };
            drop(state);
            self.metrics.bus.sent(Sent::Away, items.len() as u64);
            for item in items {
                let _ = item.answer.send(Err(error.clone()));
            }
            return;
        }

        // After those that another pipeline has put back: it was sent earlier.
        let put_back = state.items.iter().take_while(|item| item.again).count();
        let later = state.items.split_off(put_back);
        for item in items {
            state.bytes += item.bytes;
            state.items.push_back(QueuedCommand {
                again: true,
                ..item
            });
        }

        state.items.extend(later);
        drop(state);
        self.wake.notify_one();
    }
}

/// Wakes the publisher when it is dropped, unless that was done in the meantime.
struct OwedWakeUp {
    queue: Arc<CommandQueue>,
    by: ThreadId,
}

impl Drop for OwedWakeUp {
    fn drop(&mut self) {
        let owed = {
            let mut state = self.queue.state.lock();
            state.wake_owed_by.take_if(|by| *by == self.by)
        };
        if owed.is_some() {
            self.queue.wake.notify_one();
        }
    }
}

thread_local! {
    static SENDS_TOGETHER: Cell<bool> = const { Cell::new(false) };
}

/// Has the tasks of this thread wake a publisher together. The thread must do nothing but run its runtime.
pub(crate) fn send_together_from_this_thread() {
    SENDS_TOGETHER.set(true);
}

/// The runtime of a thread of the server. It wakes a publisher after the other tasks that are due there, and what these send goes
/// in the same pipeline. To wake another thread, and a pipeline, cost more than a command.
fn runtime_that_sends_together() -> Option<Handle> {
    let runtime = || Handle::try_current().ok();
    SENDS_TOGETHER.get().then(runtime).flatten()
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use super::*;

    fn queue(limits: &Limits) -> Arc<CommandQueue> {
        let metrics = Arc::new(Metrics::new());
        Arc::new(CommandQueue::new(Address::new("h", 1), limits, metrics))
    }

    fn command(text: &str) -> Payload {
        let mut command = Cmd::new();
        command.arg(text);
        Payload::Command(command)
    }

    fn packed(payload: &Payload) -> Vec<u8> {
        match payload {
            Payload::Command(command) => command.get_packed_command(),
            Payload::Call(_) => panic!("a call"),
        }
    }

    fn texts(items: &[QueuedCommand]) -> Vec<Vec<u8>> {
        items.iter().map(|item| packed(&item.payload)).collect()
    }

    #[test]
    fn a_queue_that_is_shut_answers_at_once() {
        let queue = queue(&Limits::default());
        let Err(BusError::Away { reason }) = queue.send(command("A"), 1, None) else {
            panic!()
        };
        assert_eq!(&*reason, "not connected yet");
        queue.open();
        let mut waits = queue.send(command("B"), 1, None).unwrap();
        queue.shut("gone");
        assert!(
            matches!(waits.try_recv(), Ok(Err(BusError::Away { reason })) if &*reason == "gone")
        );
        assert!(queue.is_idle());
    }

    fn is_woken(queue: &CommandQueue) -> bool {
        let mut woken = pin!(queue.wake.notified());
        let mut cx = Context::from_waker(Waker::noop());
        woken.as_mut().poll(&mut cx).is_ready()
    }

    #[tokio::test]
    async fn tasks_that_are_due_together_wake_the_publisher_once_for_all() {
        let queue = queue(&Limits::default());
        queue.open();
        drop(queue.send(command("A"), 1, None));
        assert!(is_woken(&queue), "whoever calls from elsewhere wakes it");
        queue.take(Instant::now(), Earlier::HaveEnded);

        send_together_from_this_thread();
        drop(queue.send(command("B"), 1, None));
        assert!(!is_woken(&queue), "others may send more");
        tokio::task::yield_now().await;
        assert!(is_woken(&queue));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_thread_that_sent_before() {
        let queue = queue(&Limits::default());
        queue.open();
        send_together_from_this_thread();
        drop(queue.send(command("A"), 1, None));
        drop(queue.send(command("B"), 1, None));
        assert!(!is_woken(&queue), "this thread may send more");

        // This thread hangs, and others send.
        let send = |text| {
            thread::scope(|scope| {
                scope.spawn(|| drop(queue.send(command(text), 1, None)));
            });
        };
        send("C");
        assert!(is_woken(&queue));
        send("D");
        assert!(!is_woken(&queue), "it is awake already");

        queue.take(Instant::now(), Earlier::HaveEnded);
        tokio::task::yield_now().await;
        assert!(!is_woken(&queue), "nothing was sent after it was woken");
    }

    #[test]
    fn a_thread_that_ends_wakes_the_publisher() {
        let queue = queue(&Limits::default());
        queue.open();
        send_together_from_this_thread();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.unwrap();
        let sent = runtime.block_on(async { queue.send(command("A"), 1, None) });
        assert!(!is_woken(&queue));
        drop((runtime, sent));
        assert!(is_woken(&queue));
    }

    #[test]
    fn the_queue_is_bounded_and_in_order() {
        let limits = Limits {
            bus_queue_commands: 2,
            bus_queue_bytes: 100,
            ..Limits::default()
        };
        let queue = queue(&limits);
        queue.open();
        assert!(!queue.is_crowded());
        let _first = queue.send(command("A"), 60, None).unwrap();
        assert!(queue.is_crowded());
        assert!(matches!(
            queue.send(command("B"), 60, None),
            Err(BusError::Full)
        ));
        let _second = queue.send(command("C"), 40, None).unwrap();
        assert!(matches!(
            queue.send(command("D"), 0, None),
            Err(BusError::Full)
        ));
        let batch = queue.take(Instant::now(), Earlier::HaveEnded).unwrap();
        assert_eq!(texts(&batch), texts_of(&["A", "C"]));
        let _third = queue.send(command("E"), 100, None).unwrap();
        queue.put_back(batch);
        assert_eq!(
            texts(&queue.take(Instant::now(), Earlier::HaveEnded).unwrap()),
            texts_of(&["A", "C", "E"])
        );
        assert!(!queue.is_idle());
    }

    #[test]
    fn what_pipelines_put_back_goes_in_their_order_before_the_rest() {
        let queue = queue(&Limits::default());
        queue.open();
        let mut pipelines = Vec::new();
        for texts in [["A", "B"], ["C", "D"]] {
            for text in texts {
                drop(queue.send(command(text), 1, None));
            }
            pipelines.push(queue.take(Instant::now(), Earlier::HaveEnded).unwrap());
        }
        drop(queue.send(command("E"), 1, None));
        for items in pipelines {
            queue.put_back(items);
        }
        assert_eq!(
            texts(&queue.take(Instant::now(), Earlier::HaveEnded).unwrap()),
            texts_of(&["A", "B", "C", "D", "E"])
        );
    }

    #[test]
    fn what_was_put_back_waits_until_earlier_pipelines_have_ended() {
        let queue = queue(&Limits::default());
        queue.open();
        let mut pipelines = Vec::new();
        for text in ["A", "B"] {
            drop(queue.send(command(text), 1, None));
            let taken = queue.take(Instant::now(), Earlier::MayBeUnderWay);
            pipelines.push(taken.unwrap());
        }
        drop(queue.send(command("C"), 1, None));

        for items in pipelines {
            queue.put_back(items);
            let taken = queue.take(Instant::now(), Earlier::MayBeUnderWay);
            assert!(taken.is_none(), "B would come after C");
        }
        let taken = queue.take(Instant::now(), Earlier::HaveEnded).unwrap();
        assert_eq!(texts(&taken), texts_of(&["A", "B", "C"]));
    }

    fn texts_of(texts: &[&str]) -> Vec<Vec<u8>> {
        texts.iter().map(|text| packed(&command(text))).collect()
    }

    #[test]
    fn what_waited_too_long_was_not_sent() {
        let queue = queue(&Limits::default());
        queue.open();
        let mut late = queue.send(command("A"), 1, None).unwrap();
        assert!(
            queue
                .take(Instant::now() + Duration::from_secs(2), Earlier::HaveEnded)
                .unwrap()
                .is_empty()
        );
        assert!(matches!(late.try_recv(), Ok(Err(BusError::Away { .. }))));
    }

    #[test]
    fn a_pipeline_is_bounded() {
        let queue = queue(&Limits::default());
        queue.open();
        for _ in 0..=limits::BUS_PIPELINE_COMMANDS {
            drop(queue.send(command("A"), 1, None));
        }
        let first = queue.take(Instant::now(), Earlier::HaveEnded).unwrap();
        assert_eq!(first.len(), limits::BUS_PIPELINE_COMMANDS);
        queue.settle(first.into_iter().map(|item| (item, Ok(Value::Nil))));
        assert_eq!(
            queue
                .take(Instant::now(), Earlier::HaveEnded)
                .unwrap()
                .len(),
            1
        );
    }
}
