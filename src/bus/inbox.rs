//! What came from other nodes and waits for this one.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Topic, gaps::Gaps};
use crate::{
    limits::{self, Limits},
    metrics::Metrics,
};

/// Someone published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Incoming {
    pub(crate) topic: Topic,
    pub(crate) payload: Bytes,
}

/// The receiving end: messages in the order in which each Redis server sent them.
///
/// It holds at most `limits.bus_inbox_messages` and `limits.bus_inbox_bytes`. A message beyond that is dropped and
/// counted, and its topic is noted in [`Gaps`] before anything newer comes in.
#[derive(Debug)]
pub(crate) struct Inbox {
    shared: Arc<Shared>,
    /// Taken out under one lock, and not handed over yet.
    batch: VecDeque<Incoming>,
}

/// The sending end.
#[derive(Clone, Debug)]
pub(super) struct Sender(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    filled: Notify,
    messages: usize,
    bytes: usize,
    gaps: Arc<Gaps>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Queue {
    incoming: VecDeque<Incoming>,
    bytes: usize,
    is_closed: bool,
}

/// An inbox and its sender.
pub(super) fn new(limits: &Limits, gaps: Arc<Gaps>, metrics: Arc<Metrics>) -> (Sender, Inbox) {
    let shared = Arc::new(Shared {
        queue: Mutex::default(),
        filled: Notify::new(),
        messages: limits.bus_inbox_messages,
        bytes: limits.bus_inbox_bytes,
        gaps,
        metrics,
    });

    (
        Sender(shared.clone()),
        Inbox {
            shared,
            batch: VecDeque::new(),
        },
    )
}

impl Inbox {
    /// The next, in order; `None` once the bus has stopped and everything was handed over.
    ///
    /// May be dropped at any time; nothing is lost by it.
    pub(crate) async fn next(&mut self) -> Option<Incoming> {
        loop {
            if let Some(incoming) = self.batch.pop_front() {
                return Some(incoming);
            }
            {
                let mut queue = self.shared.queue.lock();
                // What was taken out no longer counts against the bounds, so it is little.
                let count = queue.incoming.len().min(limits::BUS_INBOX_BATCH);
                self.batch.extend(queue.incoming.drain(..count));
                let bytes = self.batch.iter().map(|it| it.payload.len()).sum::<usize>();
                queue.bytes -= bytes;
                if count == 0 && queue.is_closed {
                    return None;
                }
            }

            if self.batch.is_empty() {
                // A push in between has left a permit, so it is not slept through.
                self.shared.filled.notified().await;
            }
        }
    }
}

impl Sender {
    /// Hands a message on, if there is room. Only one thread may call this. Returns whether the reader may sleep: it is to be
    /// woken, once for several messages, since it is on another thread.
    #[must_use]
    pub(super) fn push(&self, topic: Topic, payload: Bytes) -> bool {
        let shared = &*self.0;
        let mut queue = shared.queue.lock();
        let was_empty = queue.incoming.is_empty();
        let bytes = queue.bytes + payload.len();

        if queue.incoming.len() >= shared.messages || bytes > shared.bytes {
            // Only this thread pushes, so nothing newer comes in before the gap is noted.
            drop(queue);
            shared.metrics.bus.dropped.inc();
            shared.gaps.note_dropped(&topic);
            return false;
        }

        queue.bytes = bytes;
        queue.incoming.push_back(Incoming { topic, payload });
        was_empty
    }

    /// Wakes the reader.
    pub(super) fn wake(&self) {
        self.0.filled.notify_one();
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.0.queue.lock().is_closed = true;
        self.0.filled.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bus::name::Names, id::AppId};

    fn inbox(messages: usize, bytes: usize) -> (Sender, Inbox, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new());
        let limits = Limits {
            bus_inbox_messages: messages,
            bus_inbox_bytes: bytes,
            ..Limits::default()
        };
        let names = Arc::new(Names::new("ns", vec!["default".into()], false));
        let gaps = Arc::new(Gaps::new(names, metrics.clone()));
        let (sender, inbox) = new(&limits, gaps, metrics.clone());
        (sender, inbox, metrics)
    }

    fn message(payload: &'static str) -> Incoming {
        Incoming {
            topic: Topic::Nodes,
            payload: Bytes::from_static(payload.as_bytes()),
        }
    }

    async fn rest(mut inbox: Inbox) -> Vec<Incoming> {
        let mut all = Vec::new();
        while let Some(incoming) = inbox.next().await {
            all.push(incoming);
        }
        all
    }

    #[tokio::test]
    async fn what_does_not_fit_is_missed() {
        for (messages, bytes) in [(2, 100), (100, 2)] {
            let (sender, mut inbox, metrics) = inbox(messages, bytes);
            for text in ["a", "b"] {
                _ = sender.push(Topic::Nodes, text.into());
            }
            assert!(!sender.0.gaps.is_missed(&Topic::Nodes));
            for text in ["c", "d"] {
                _ = sender.push(Topic::Nodes, text.into());
            }
            assert!(sender.0.gaps.is_missed(&Topic::Nodes));
            assert!(!sender.0.gaps.is_missed(&Topic::App(AppId(0))));
            assert_eq!(inbox.next().await, Some(message("a")));
            _ = sender.push(Topic::Nodes, "e".into());
            sender.close();
            assert_eq!(rest(inbox).await, [message("b"), message("e")]);
            assert_eq!((metrics.bus.dropped.get(), metrics.bus.gaps.get()), (2, 1));
        }
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_once_for_all() {
        let (sender, mut inbox, _) = inbox(10, 10);
        let reader = tokio::spawn(async move { (inbox.next().await, rest(inbox).await) });
        tokio::task::yield_now().await;
        assert!(sender.push(Topic::Nodes, "a".into()));
        assert!(!sender.push(Topic::Nodes, "b".into()));
        tokio::task::yield_now().await;
        assert_eq!(sender.0.queue.lock().incoming.len(), 2, "it sleeps");

        sender.wake();
        tokio::task::yield_now().await;
        sender.close();
        let read = (Some(message("a")), vec![message("b")]);
        assert_eq!(reader.await.unwrap(), read);
    }
}
