//! How far this node has placed the durable channels that someone here is in.
//!
//! They are in stripes, each under a lock of its own: what concerns all channels goes from stripe to stripe, and rests between two.

use std::time::{Duration, Instant};

use ahash::{AHashMap, AHashSet, RandomState};
use parking_lot::Mutex;

use crate::{
    bus::SubscriptionState,
    history::{Key, Position},
    limits::WATERMARK_STRIPES,
};

/// The watermarks, and the channels of which something may have been missed.
#[derive(Debug)]
pub(super) struct Watermarks {
    stripes: Box<[Stripe]>,
    hasher: RandomState,
}

/// Some of them.
#[derive(Debug, Default)]
pub(super) struct Stripe(Mutex<Marks>);

#[derive(Debug, Default)]
struct Marks {
    of: AHashMap<Key, Watermark>,
    /// Channels whose missed events are to be fetched.
    tainted: AHashSet<Key>,
}

/// How far a channel is placed.
#[derive(Clone, Copy, Debug)]
struct Watermark {
    position: Position,
    /// What the node heard of the channel when the history was asked: if it hears the same now, nothing was missed since.
    subscription: SubscriptionState,
    /// When the history last learned that the numbering is in use.
    remembered: Option<Instant>,
}

impl Default for Watermarks {
    fn default() -> Self {
        Self {
            stripes: (0..WATERMARK_STRIPES).map(|_| Stripe::default()).collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Watermarks {
    /// How far the channel is placed, if that is known.
    pub(super) fn get(&self, key: &Key) -> Option<Position> {
        self.stripe(key)
            .lock()
            .of
            .get(key)
            .map(|mark| mark.position)
    }

    /// The same, if nothing can have been missed of what was published before `subscription`: what this node has yet
    /// to place comes to it, and so to a client that joins now.
    pub(super) fn current(&self, key: &Key, subscription: SubscriptionState) -> Option<Position> {
        let marks = self.stripe(key).lock();
        let mark = marks.of.get(key)?;
        let is_current =
            mark.subscription.lasts_until(subscription) && !marks.tainted.contains(key);
        is_current.then_some(mark.position)
    }

    /// Whether nothing was missed since the history was asked, except for what waits to be fetched.
    pub(super) fn has_listened(&self, key: &Key, subscription: SubscriptionState) -> bool {
        let marks = self.stripe(key).lock();
        marks
            .of
            .get(key)
            .is_some_and(|mark| mark.subscription.lasts_until(subscription))
    }

    /// Notes what the history says; `subscription` is from before it was asked.
    pub(super) fn begin(&self, key: &Key, position: Position, subscription: SubscriptionState) {
        let mark = Watermark {
            position,
            subscription,
            remembered: None,
        };
        self.stripe(key).lock().of.insert(key.clone(), mark);
    }

    /// Notes what came over the bus, as the next after what was placed.
    pub(super) fn advance(&self, key: &Key, position: Position) {
        if let Some(mark) = self.stripe(key).lock().of.get_mut(key) {
            mark.position = position;
        }
    }

    /// Notes that what was missed of the channel has yet to be fetched.
    pub(super) fn fetch_later(&self, key: &Key) {
        self.stripe(key).lock().tainted.insert(key.clone());
    }

    /// Whether the history is to learn that the numbering is in use, as it was not for this `time`; it is the caller's to do then.
    pub(super) fn is_to_be_remembered(&self, key: &Key, time: Duration) -> bool {
        let mut marks = self.stripe(key).lock();
        let Some(mark) = marks.of.get_mut(key) else {
            return false;
        };
        let is_due = mark.remembered.is_none_or(|at| at.elapsed() >= time);
        // Noted before it is done, so that of several who ask at the same time only one does it.
        if is_due {
            mark.remembered = Some(Instant::now());
        }
        is_due
    }

    /// Forgets a channel that nobody here is in.
    pub(super) fn remove(&self, key: &Key) {
        let mut marks = self.stripe(key).lock();
        marks.of.remove(key);
        marks.tainted.remove(key);
    }

    /// All of them, in parts that are looked at under one hold of a lock each. The caller rests between two.
    pub(super) fn stripes(&self) -> impl Iterator<Item = &Stripe> {
        self.stripes.iter()
    }

    fn stripe(&self, key: &Key) -> &Mutex<Marks> {
        let at = self.hasher.hash_one(key) as usize % self.stripes.len();
        &self.stripes[at].0
    }
}

impl Stripe {
    /// Notes that something may have been missed of those channels that `is_meant` names.
    pub(super) fn taint(&self, is_meant: impl Fn(&Key) -> bool) {
        let marks = &mut *self.0.lock();
        let meant = marks.of.keys().filter(|key| is_meant(key));
        marks.tainted.extend(meant.cloned());
    }

    /// Takes the channels whose missed events are to be fetched.
    pub(super) fn take_tainted(&self) -> AHashSet<Key> {
        std::mem::take(&mut self.0.lock().tainted)
    }

    /// The channels that have a watermark.
    pub(super) fn keys(&self) -> Vec<Key> {
        // A copy: what is done with each of them waits, which nobody may under the lock.
        self.0.lock().of.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::Epoch, id::AppId};

    #[test]
    fn a_mark_is_current_while_the_node_hears_the_same_and_nothing_was_dropped() {
        let marks = Watermarks::default();
        let (key, other) = (
            Key::channel(AppId(0), "c".into()),
            Key::channel(AppId(0), "d".into()),
        );
        let at = Position {
            epoch: Epoch::of(1),
            offset: 3,
        };
        let heard = |gaps, subscription| SubscriptionState::new(gaps, subscription);
        marks.begin(&key, at, heard(1, Some(7)));
        marks.begin(&other, at, heard(1, None));
        assert_eq!(marks.current(&key, heard(1, Some(7))), Some(at));
        for later in [heard(2, Some(7)), heard(1, Some(8)), heard(1, None)] {
            assert_eq!(marks.current(&key, later), None, "{later:?}");
        }
        assert_eq!(marks.current(&other, heard(1, None)), None);

        let taint = |key: &Key| {
            marks
                .stripes()
                .for_each(|some| some.taint(|meant| meant == key));
        };
        let take_tainted = || {
            marks
                .stripes()
                .map(|some| some.take_tainted().len())
                .sum::<usize>()
        };
        taint(&other);
        assert_eq!(marks.current(&key, heard(1, Some(7))), Some(at));
        taint(&key);
        assert_eq!(marks.current(&key, heard(1, Some(7))), None);
        assert_eq!((take_tainted(), take_tainted()), (2, 0));
        assert_eq!(marks.current(&key, heard(1, Some(7))), Some(at));
    }

    #[test]
    fn a_gap_looks_at_a_small_part_of_the_channels_under_one_hold_of_a_lock() {
        let marks = Watermarks::default();
        let at = Position {
            epoch: Epoch::of(1),
            offset: 3,
        };
        for n in 0..100_000 {
            let key = Key::channel(AppId(0), n.to_string().into());
            marks.begin(&key, at, SubscriptionState::NOTHING);
        }
        let scan = std::cell::Cell::new(0);
        let mut all = 0;
        for stripe in marks.stripes() {
            scan.set(0);
            stripe.taint(|_| {
                scan.set(scan.get() + 1);
                true
            });
            let (scan, tainted) = (scan.get(), stripe.take_tainted().len());
            assert!(scan < 1000, "{scan} under one hold");
            assert_eq!((scan, scan), (tainted, stripe.keys().len()));
            all += scan;
        }
        assert_eq!(all, 100_000);
    }
}
