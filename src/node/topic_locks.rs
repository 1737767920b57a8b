//! The locks of topics that are stored: one publishes to a topic at a time, first come, first served.

use std::sync::Arc;

use ahash::{AHashMap, RandomState};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::history::Key;

/// Topics share this many locks, each held for a moment to find a topic's lock.
const STRIPES: usize = 64;

/// The locks of all topics. An event that is appended under a lock is placed everywhere before the lock is let go, so
/// every member sees one order, and a client that joins under it misses nothing.
///
/// A topic has one for as long as someone holds it, or waits for it. No two topics share one: a lock may be held for
/// as long as Redis takes to answer.
#[derive(Debug)]
pub(crate) struct TopicLocks {
    stripes: Box<[Stripe]>,
    hasher: RandomState,
}

/// The locks of some topics.
type Stripe = parking_lot::Mutex<AHashMap<Key, Arc<Mutex<()>>>>;

/// The lock of a topic; the next one's when it is dropped.
#[derive(Debug)]
pub(crate) struct TopicGuard<'a> {
    /// Let go before the place.
    _held: OwnedMutexGuard<()>,
    _holder: Holder<'a>,
}

/// A place among those who have the lock of a topic, or wait for it.
#[derive(Debug)]
struct Holder<'a> {
    topic_locks: &'a TopicLocks,
    key: Key,
    lock: Arc<Mutex<()>>,
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        let mut stripe = self.topic_locks.stripe(&self.key).lock();
        // Places are made under the stripe's lock alone: this is the last, beside what the stripe has.
        if Arc::strong_count(&self.lock) == 2 {
            stripe.remove(&self.key);
        }
    }
}

impl TopicLocks {
    pub(crate) fn new() -> Self {
        Self {
            stripes: (0..STRIPES)
                .map(|_| parking_lot::Mutex::default())
                .collect(),
            hasher: RandomState::new(),
        }
    }

    /// Waits for the lock of `key`. Nobody may wait for a second while holding one. May be dropped at any time.
    pub(crate) async fn lock(&self, key: &Key) -> TopicGuard<'_> {
        // The place is taken before the wait: so the lock is not removed while somebody waits for
        // it.
        let holder = self.holder(key);
        TopicGuard {
            _held: holder.lock.clone().lock_owned().await,
            _holder: holder,
        }
    }

    /// The lock of `key`, if nobody has it and nobody waits for it.
    pub(crate) fn try_lock(&self, key: &Key) -> Option<TopicGuard<'_>> {
        let holder = self.holder(key);
        let held = holder.lock.clone().try_lock_owned().ok()?;
        Some(TopicGuard {
            _held: held,
            _holder: holder,
        })
    }

    fn holder(&self, key: &Key) -> Holder<'_> {
        let mut stripe = self.stripe(key).lock();
        Holder {
            topic_locks: self,
            key: key.clone(),
            lock: stripe.entry(key.clone()).or_default().clone(),
        }
    }

    fn stripe(&self, key: &Key) -> &Stripe {
        &self.stripes[self.hasher.hash_one(key) as usize % STRIPES]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AppId;

    fn key(n: usize) -> Key {
        Key::channel(AppId(0), n.to_string().into())
    }

    fn known(topic_locks: &TopicLocks) -> usize {
        topic_locks
            .stripes
            .iter()
            .map(|stripe| stripe.lock().len())
            .sum()
    }

    #[test]
    fn no_topic_waits_for_the_turn_of_another() {
        let topic_locks = TopicLocks::new();
        let held: Vec<Option<TopicGuard<'_>>> =
            (0..2000).map(|n| topic_locks.try_lock(&key(n))).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(topic_locks.try_lock(&key(0)).is_none());
        drop(held);
        assert_eq!(known(&topic_locks), 0);
    }

    #[tokio::test]
    async fn turns_are_given_on_in_order_and_whoever_stops_waiting_leaves_nothing() {
        let (topic_locks, key) = (TopicLocks::new(), key(0));
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let first = topic_locks.lock(&key).await;
        let mut second = Box::pin(topic_locks.lock(&key));
        let mut third = Box::pin(topic_locks.lock(&key));
        assert!(second.as_mut().poll(&mut cx).is_pending());
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop(first);
        assert!(topic_locks.try_lock(&key).is_none(), "others wait for it");
        assert!(third.as_mut().poll(&mut cx).is_pending());
        drop(second);
        drop(third.await);
        assert_eq!(known(&topic_locks), 0);
    }
}
