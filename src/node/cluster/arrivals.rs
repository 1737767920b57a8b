//! Durable events that have come over the bus and wait for their topic's lock.
//!
//! The task that takes messages from the bus waits for no topic: an event whose topic is busy goes to the topic's
//! queue, which a task of its own places, in order. A queue exists for as long as that task works. An event that does
//! not fit is dropped, and its topic noted in [`Gaps`](crate::bus::Gaps) as one of which something was missed.

use std::collections::VecDeque;

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    history::{Key, Position},
    hub::Selection,
    limits::{ARRIVALS, ARRIVALS_BYTES},
    protocol::frame::Frame,
};

/// An event of a topic that came over the bus.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) key: Key,
    /// Its place there; nothing if it is not stored.
    pub(super) position: Option<Position>,
    pub(super) id: Uuid,
    pub(super) selection: Selection,
    pub(super) frame: Frame,
    /// Its sender will ask what became of it.
    pub(super) receipt: bool,
}

/// The queues of all topics that wait.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    queues: Mutex<Queues>,
    /// An event whose sender will ask has left its queue.
    placed: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    of: AHashMap<Key, VecDeque<Arrived>>,
    bytes: usize,
    /// Publications whose senders will ask, and how many events of each wait.
    asked: AHashMap<Uuid, usize>,
}

/// What became of an event that was to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    /// It is the first: a task has to place what waits.
    pub(super) begins: bool,
    /// There was no room for it.
    pub(super) is_dropped: bool,
}

impl Arrivals {
    /// Whether what comes for the topic has to wait.
    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        self.queues.lock().of.contains_key(key)
    }

    /// Has an event wait, if there is room.
    pub(super) fn push(&self, arrived: Arrived) -> Pushed {
        let queues = &mut *self.queues.lock();
        // Also if the event is dropped: the task that begins finds the queue empty, and removes it.
        let begins = !queues.of.contains_key(&arrived.key);
        let queue = queues.of.entry(arrived.key.clone()).or_default();
        let bytes = queues.bytes + arrived.frame.len();
        // The sender does not learn of it: a stored event is fetched later, from the gap that is
        // noted.
        let is_dropped = queue.len() >= ARRIVALS || bytes > ARRIVALS_BYTES;

        if !is_dropped {
            queues.bytes = bytes;
            if arrived.receipt {
                *queues.asked.entry(arrived.id).or_default() += 1;
            }
            queue.push_back(arrived);
        }

        Pushed { begins, is_dropped }
    }

    /// Takes the next event of a topic's queue, which is gone if there is none. Call this under the topic's lock.
    pub(super) fn next(&self, key: &Key) -> Option<Arrived> {
        let queues = &mut *self.queues.lock();
        let arrived = queues.of.get_mut(key)?.pop_front();
        match &arrived {
            // Its room is free although it is not placed yet: the task holds one event at a time.
            Some(arrived) => queues.bytes -= arrived.frame.len(),
            // Under the topic's lock, so what comes after this is placed directly, and still in its
            // order.
            None => drop(queues.of.remove(key)),
        }
        arrived
    }

    /// Notes that an event that waited, and whose sender will ask, was placed.
    pub(super) fn note_placed(&self, id: Uuid) {
        let mut queues = self.queues.lock();
        let Some(waiting) = queues.asked.get_mut(&id) else {
            return;
        };
        *waiting -= 1;
        if *waiting == 0 {
            queues.asked.remove(&id);
            drop(queues);
            self.placed.notify_waiters();
        }
    }

    /// Waits until no event of the publication waits.
    pub(super) async fn settled(&self, id: Uuid) {
        loop {
            // Heard from here on, before it is looked whether it is still needed.
            let placed = self.placed.notified();
            if !self.queues.lock().asked.contains_key(&id) {
                return;
            }
            placed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::{
        history::Epoch,
        id::AppId,
        protocol::event::{Data, Event, Marks},
    };

    fn arrived(key: &Key, offset: u64) -> Arrived {
        let draft = Event::new("e", Data::Bytes(Cow::Borrowed(b"1")))
            .unwrap()
            .draft(&Marks::default());
        Arrived {
            key: key.clone(),
            position: Some(Position {
                epoch: Epoch::of(1),
                offset,
            }),
            id: Uuid::from_u128(offset.into()),
            selection: Selection::everyone(AppId(0)),
            frame: draft.finish(Some(offset)),
            receipt: true,
        }
    }

    fn next(arrivals: &Arrivals, key: &Key) -> Option<u64> {
        let arrived = arrivals.next(key)?;
        arrivals.note_placed(arrived.id);
        arrived.position.map(|position| position.offset)
    }

    #[tokio::test]
    async fn what_overflows_a_queue_is_dropped_and_others_have_room() {
        let arrivals = Arrivals::default();
        let busy = Key::channel(AppId(0), "busy".into());
        let calm = Key::channel(AppId(0), "calm".into());
        for n in 1..=ARRIVALS as u64 + 5 {
            let pushed = arrivals.push(arrived(&busy, n));
            let expected = (n == 1, n > ARRIVALS as u64);
            assert_eq!((pushed.begins, pushed.is_dropped), expected, "{n}");
        }
        let pushed = arrivals.push(arrived(&calm, 10_000));
        assert!(pushed.begins && !pushed.is_dropped);
        for n in 1..=ARRIVALS as u64 {
            assert_eq!(next(&arrivals, &busy), Some(n));
        }
        assert_eq!(next(&arrivals, &busy), None);
        assert!(!arrivals.is_waiting(&busy) && arrivals.is_waiting(&calm));

        let id = Uuid::from_u128(10_000);
        arrivals.settled(Uuid::from_u128(1)).await;
        let settled = arrivals.settled(id);
        let mut settled = std::pin::pin!(settled);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(settled.as_mut().poll(&mut cx).is_pending());
        assert_eq!(next(&arrivals, &calm), Some(10_000));
        settled.await;
        assert_eq!(arrivals.queues.lock().bytes, 0);
    }
}
