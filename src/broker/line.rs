//! What goes to one Redis server: a queue that anyone may append to, in the order of the calls.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use redis::{Cmd, Script, Value};
use tokio::{
    sync::{Notify, oneshot},
    time::{Duration, Instant},
};

use super::{BusError, link::Address};
use crate::{
    limits::{self, Limits},
    metrics::{Metrics, Sent},
};

/// What Redis made of a command.
pub(super) type Answer = Result<Value, BusError>;

/// A command on its way.
pub(super) struct Item {
    pub(super) command: Cmd,
    bytes: usize,
    /// What EVALSHA names, where the command is one.
    pub(super) script: Option<&'static Script>,
    /// The partition that the script is for, where the command is one.
    pub(super) scripted: Option<u16>,
    /// Whether Redis did not know the script once already.
    pub(super) again: bool,
    /// Whether another server sent it here, to which its slot is about to move.
    pub(super) is_asking: bool,
    pub(super) deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// The way to one Redis server.
pub(super) struct Line {
    pub(super) address: Address,
    queue: Mutex<Queue>,
    /// Tells the publisher that the queue is not empty any more.
    pub(super) wake: Notify,
    /// Tells the subscriber of this server that canaries can fly.
    pub(super) opened: Notify,
    /// Tells the publisher to look again whom it talks to.
    pub(super) doubted: Notify,
    timeout: Duration,
    commands: usize,
    bytes: usize,
    metrics: Arc<Metrics>,
}

struct Queue {
    /// Why nothing can be sent now.
    away: Option<Arc<str>>,
    items: VecDeque<Item>,
    bytes: usize,
    /// Items that were taken out and have no answer.
    under_way: usize,
}

/// Items whose calls lie further apart than this part of the deadline go in pipelines of their own, since a pipeline has the
/// deadline of its first.
const SPREAD: u32 = 10;

impl Line {
    pub(super) fn new(address: Address, limits: &Limits, metrics: Arc<Metrics>) -> Self {
        let away = Some("not connected yet".into());
        Self {
            address,
            queue: Mutex::new(Queue {
                away,
                items: VecDeque::new(),
                bytes: 0,
                under_way: 0,
            }),
            wake: Notify::new(),
            opened: Notify::new(),
            doubted: Notify::new(),
            timeout: limits.redis_timeout,
            commands: limits.bus_queue_commands,
            bytes: limits.bus_queue_bytes,
            metrics,
        }
    }

    /// Queues a command of about `bytes`; what comes of it can be waited for. A script comes with its partition.
    ///
    /// # Errors
    /// [`BusError::Away`] and [`BusError::Full`]; nothing is sent then.
    pub(super) fn send(
        &self,
        command: Cmd,
        bytes: usize,
        script: Option<(&'static Script, u16)>,
    ) -> Result<oneshot::Receiver<Answer>, BusError> {
        let (answer, receiver) = oneshot::channel();
        let deadline = Instant::now() + self.timeout;
        let was_empty = {
            let mut queue = self.queue.lock();
            if let Some(reason) = &queue.away {
                let error = BusError::Away {
                    reason: reason.clone(),
                };
                self.metrics.bus.sent(Sent::Away, 1);
                return Err(error);
            }
            if queue.items.len() >= self.commands || queue.bytes + bytes > self.bytes {
                self.metrics.bus.sent(Sent::Full, 1);
                return Err(BusError::Full);
            }
            queue.bytes += bytes;
            let (script, scripted) = script.unzip();
            queue.items.push_back(Item {
                command,
                bytes,
                script,
                scripted,
                again: false,
                is_asking: false,
                deadline,
                answer,
            });
            queue.items.len() == 1
        };
        if was_empty {
            self.wake.notify_one();
        }
        Ok(receiver)
    }

    /// Commands are taken from now on.
    pub(super) fn open(&self) {
        self.queue.lock().away = None;
        self.opened.notify_one();
    }

    /// No commands are taken from now on, and what waits is answered: it was not sent.
    pub(super) fn shut(&self, reason: &str) {
        let reason: Arc<str> = reason.into();
        let items = {
            let mut queue = self.queue.lock();
            queue.away = Some(reason.clone());
            queue.bytes = 0;
            std::mem::take(&mut queue.items)
        };
        self.metrics.bus.sent(Sent::Away, items.len() as u64);
        for item in items {
            let _ = item.answer.send(Err(BusError::Away {
                reason: reason.clone(),
            }));
        }
    }

    /// No commands are taken until the publisher has made sure that the server is still a primary.
    pub(super) fn doubt(&self, reason: &str) {
        self.shut(reason);
        self.doubted.notify_one();
    }

    /// When the oldest item that waits has to be answered.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.lock().items.front().map(|item| item.deadline)
    }

    /// Whether everything has its answer.
    pub(super) fn is_idle(&self) -> bool {
        let queue = self.queue.lock();
        queue.items.is_empty() && queue.under_way == 0
    }

    /// Answers what has waited too long: it was not sent.
    pub(super) fn expire(&self, now: Instant) {
        let late = {
            let mut queue = self.queue.lock();
            let count = queue
                .items
                .iter()
                .take_while(|item| item.deadline <= now)
                .count();
            let late = queue.items.drain(..count).collect::<Vec<_>>();
            queue.bytes -= late.iter().map(|item| item.bytes).sum::<usize>();
            late
        };
        self.metrics.bus.sent(Sent::Away, late.len() as u64);
        for item in late {
            let _ = item.answer.send(Err(BusError::away(
                "Redis is too slow: the command waited its time unsent",
            )));
        }
    }

    /// Takes out what goes in the next pipeline.
    pub(super) fn take(&self, now: Instant) -> Vec<Item> {
        self.expire(now);
        let mut queue = self.queue.lock();
        let mut batch = Vec::with_capacity(queue.items.len().min(limits::BUS_PIPELINE_COMMANDS));
        let mut bytes = 0;
        let last = queue
            .items
            .front()
            .map(|item| item.deadline + self.timeout / SPREAD);
        while batch.len() < limits::BUS_PIPELINE_COMMANDS && bytes < limits::BUS_PIPELINE_BYTES {
            let fits = queue
                .items
                .front()
                .is_some_and(|item| last.is_some_and(|last| item.deadline <= last));
            let Some(item) = queue.items.pop_front_if(|_| fits) else {
                break;
            };
            bytes += item.bytes;
            batch.push(item);
        }
        queue.bytes -= bytes;
        queue.under_way += batch.len();
        batch
    }

    /// Answers what [`Self::take`] took out.
    pub(super) fn settle(&self, items: impl IntoIterator<Item = (Item, Answer)>) {
        let (mut answered, mut refused, mut unanswered, mut count) = (0, 0, 0, 0);
        for (item, answer) in items {
            count += 1;
            match &answer {
                Ok(_) => answered += 1,
                Err(BusError::Unanswered) => unanswered += 1,
                Err(_) => refused += 1,
            }
            // Who called may have gone.
            let _ = item.answer.send(answer);
        }
        self.queue.lock().under_way -= count;
        let metrics = &self.metrics.bus;
        metrics.sent(Sent::Answered, answered);
        metrics.sent(Sent::Refused, refused);
        metrics.sent(Sent::Unanswered, unanswered);
    }

    /// Takes over what the server of line `from` has sent here, not carried out; behind all that waits. What has no room is
    /// answered.
    pub(super) fn take_over(&self, item: Item, from: &Self) {
        from.queue.lock().under_way -= 1;
        let error = {
            let mut queue = self.queue.lock();
            if let Some(reason) = &queue.away {
                BusError::Away {
                    reason: reason.clone(),
                }
            } else if queue.items.len() >= self.commands || queue.bytes + item.bytes > self.bytes {
                BusError::Full
            } else {
                queue.bytes += item.bytes;
                queue.items.push_back(Item {
                    is_asking: true,
                    ..item
                });
                drop(queue);
                self.wake.notify_one();
                return;
            }
        };
        self.metrics.bus.sent(
            if error == BusError::Full {
                Sent::Full
            } else {
                Sent::Away
            },
            1,
        );
        // Who called may have gone.
        let _ = item.answer.send(Err(error));
    }

    /// Puts back what Redis refused because it has forgotten a script, before everything that waits.
    pub(super) fn put_back(&self, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        queue.under_way -= items.len();
        if let Some(reason) = &queue.away {
            let error = BusError::Away {
                reason: reason.clone(),
            };
            drop(queue);
            self.metrics.bus.sent(Sent::Away, items.len() as u64);
            for item in items {
                let _ = item.answer.send(Err(error.clone()));
            }
            return;
        }
        for item in items.into_iter().rev() {
            queue.bytes += item.bytes;
            queue.items.push_front(Item {
                again: true,
                ..item
            });
        }
        drop(queue);
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(limits: &Limits) -> Line {
        Line::new(Address::new("h", 1), limits, Arc::new(Metrics::new()))
    }

    fn command(text: &str) -> Cmd {
        let mut command = Cmd::new();
        command.arg(text);
        command
    }

    fn texts(items: &[Item]) -> Vec<Vec<u8>> {
        items
            .iter()
            .map(|item| item.command.get_packed_command())
            .collect()
    }

    #[test]
    fn a_line_that_is_shut_answers_at_once() {
        let line = line(&Limits::default());
        let Err(BusError::Away { reason }) = line.send(command("A"), 1, None) else {
            panic!()
        };
        assert_eq!(&*reason, "not connected yet");
        line.open();
        let mut waits = line.send(command("B"), 1, None).unwrap();
        line.shut("gone");
        assert!(
            matches!(waits.try_recv(), Ok(Err(BusError::Away { reason })) if &*reason == "gone")
        );
        assert!(line.is_idle());
    }

    #[test]
    fn the_queue_is_bounded_and_in_order() {
        let limits = Limits {
            bus_queue_commands: 2,
            bus_queue_bytes: 100,
            ..Limits::default()
        };
        let line = line(&limits);
        line.open();
        let _first = line.send(command("A"), 60, None).unwrap();
        assert!(matches!(
            line.send(command("B"), 60, None),
            Err(BusError::Full)
        ));
        let _second = line.send(command("C"), 40, None).unwrap();
        assert!(matches!(
            line.send(command("D"), 0, None),
            Err(BusError::Full)
        ));
        let batch = line.take(Instant::now());
        assert_eq!(texts(&batch), texts_of(&["A", "C"]));
        let _third = line.send(command("E"), 100, None).unwrap();
        line.put_back(batch);
        assert_eq!(
            texts(&line.take(Instant::now())),
            texts_of(&["A", "C", "E"])
        );
        assert!(!line.is_idle());
    }

    fn texts_of(texts: &[&str]) -> Vec<Vec<u8>> {
        texts
            .iter()
            .map(|text| command(text).get_packed_command())
            .collect()
    }

    #[test]
    fn what_waited_too_long_was_not_sent() {
        let line = line(&Limits::default());
        line.open();
        let mut late = line.send(command("A"), 1, None).unwrap();
        assert!(
            line.take(Instant::now() + Duration::from_secs(2))
                .is_empty()
        );
        assert!(matches!(late.try_recv(), Ok(Err(BusError::Away { .. }))));
    }

    #[test]
    fn a_pipeline_is_bounded() {
        let line = line(&Limits::default());
        line.open();
        for _ in 0..=limits::BUS_PIPELINE_COMMANDS {
            drop(line.send(command("A"), 1, None));
        }
        let first = line.take(Instant::now());
        assert_eq!(first.len(), limits::BUS_PIPELINE_COMMANDS);
        line.settle(first.into_iter().map(|item| (item, Ok(Value::Nil))));
        assert_eq!(line.take(Instant::now()).len(), 1);
    }
}
