//! The one register of what this node needs from others, and how far its subscriptions are.
//!
//! It has a stripe with a lock for every partition. A change is noted in the stripe's queue; the subscriber that serves the
//! partition takes it out and looks, under the lock, at what is wanted *then*. So however often a topic comes and goes, the
//! last command on the wire is the one that fits, and no order of events loses a subscription.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::timeout_at};

use super::{BusError, Topic, name::Names};
use crate::limits;

/// How many local connections need each topic, and what Redis has confirmed of it.
#[derive(Debug)]
pub(crate) struct Interest {
    names: Arc<Names>,
    stripes: Vec<Mutex<Stripe>>,
}

#[derive(Debug, Default)]
struct Stripe {
    topics: AHashMap<Topic, State>,
    /// What the subscriber has to look at, oldest first; each topic once.
    changed: VecDeque<Topic>,
    /// Topics that nobody needed at some moment, oldest first; each once.
    idle: VecDeque<(Instant, Topic)>,
    /// The connection that serves the partition now.
    server: Option<Server>,
    /// Whether one has before.
    was_served: bool,
    /// The number of the last subscription that was confirmed.
    subscriptions: u64,
}

#[derive(Debug)]
struct Server {
    generation: u64,
    wake: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    /// Local connections that need it.
    count: usize,
    /// Whether it is in [`Stripe::changed`], and in [`Stripe::idle`].
    is_changed: bool,
    is_idle: bool,
    /// Since when nobody needs it.
    idle_since: Option<Instant>,
    /// Whether the last command sent about it on this connection subscribes.
    subscribed: bool,
    /// Commands sent about it on this connection that are not confirmed.
    subscribing: u32,
    unsubscribing: u32,
    /// Which of the stripe's subscriptions it is, once it is confirmed.
    subscription: u64,
    /// Wakes those that wait for it.
    waiting: Option<Arc<Notify>>,
}

impl State {
    /// Redis carries out the commands of a connection in order, so the last confirmation shows the state.
    fn is_confirmed(&self) -> bool {
        self.subscribed && self.subscribing == 0 && self.unsubscribing == 0
    }

    fn is_forgotten(&self) -> bool {
        self.count == 0
            && !self.subscribed
            && !self.is_changed
            && !self.is_idle
            && self.subscribing == 0
            && self.unsubscribing == 0
    }

    fn wake(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            waiting.notify_waiters();
        }
    }
}

impl Stripe {
    fn note(&mut self, topic: Topic) {
        self.changed.push_back(topic);
        if let Some(server) = &self.server {
            server.wake.notify_one();
        }
    }

    fn is_served_by(&self, generation: u64) -> bool {
        self.server
            .as_ref()
            .is_some_and(|server| server.generation == generation)
    }

    fn forget(&mut self, topic: &Topic) {
        if let Some(mut state) = self.topics.remove(topic) {
            state.wake();
        }
    }
}

/// What to ask of Redis for a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Subscribe,
    Unsubscribe,
}

impl Change {
    /// The command that makes it, for a sharded channel or another.
    pub(super) fn word(self, is_sharded: bool) -> &'static [u8] {
        match (self, is_sharded) {
            (Self::Subscribe, false) => b"SUBSCRIBE",
            (Self::Subscribe, true) => b"SSUBSCRIBE",
            (Self::Unsubscribe, false) => b"UNSUBSCRIBE",
            (Self::Unsubscribe, true) => b"SUNSUBSCRIBE",
        }
    }
}

impl Interest {
    pub(super) fn new(names: Arc<Names>) -> Self {
        let stripes = (0..names.partitions()).map(|_| Mutex::default()).collect();
        Self { names, stripes }
    }

    fn stripe(&self, topic: &Topic) -> &Mutex<Stripe> {
        &self.stripes[usize::from(self.names.partition(topic))]
    }

    /// One more needs `topic`; the first one has it subscribed. Costs one short lock, and never waits.
    pub(crate) fn add(&self, topic: Topic) {
        let mut stripe = self.stripe(&topic).lock();
        let state = stripe.topics.entry(topic.clone()).or_default();
        state.count += 1;
        if state.count > 1 {
            return;
        }
        state.idle_since = None;
        // Where it has changed already, the subscriber is about to look at it.
        if !state.subscribed && !state.is_changed {
            state.is_changed = true;
            stripe.note(topic);
        }
    }

    /// One less needs `topic`; when it was the last, it is unsubscribed unless someone comes within about a second.
    pub(crate) fn remove(&self, topic: &Topic) {
        let mut stripe = self.stripe(topic).lock();
        let Some(state) = stripe.topics.get_mut(topic).filter(|state| state.count > 0) else {
            debug_assert!(false, "{topic:?} was not added");
            return;
        };

        state.count -= 1;
        if state.count > 0 {
            return;
        }

        let now = Instant::now();
        state.idle_since = Some(now);
        if !std::mem::replace(&mut state.is_idle, true) {
            stripe.idle.push_back((now, topic.clone()));
        }
    }

    /// Whether what is published to `topic` from now on comes here, as far as this node knows.
    pub(crate) fn is_live(&self, topic: &Topic) -> bool {
        self.subscription(topic).is_some()
    }

    /// The number of the subscription that brings what is published to `topic`; nothing if none does. As long as it is the same,
    /// all of it has come, except for what [`Gaps`](super::Gaps) notes.
    pub(crate) fn subscription(&self, topic: &Topic) -> Option<u64> {
        let stripe = self.stripe(topic).lock();
        // What the last connection confirmed is worth nothing once it has ended.
        stripe.server.as_ref()?;
        let state = stripe.topics.get(topic)?;
        state.is_confirmed().then_some(state.subscription)
    }

    /// Resolves once Redis has confirmed `topic` on the connection that serves it now: what is published afterwards comes
    /// here, in order, except for what [`Gaps`](super::Gaps) notes. Immediately if it is so already.
    ///
    /// May be dropped at any time.
    ///
    /// # Errors
    /// [`BusError::Away`] when it is not so `within` this time, or nobody needs the topic.
    pub(crate) async fn live(&self, topic: &Topic, within: Duration) -> Result<(), BusError> {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            let notified = {
                let mut stripe = self.stripe(topic).lock();
                let served = stripe.server.is_some();
                let Some(state) = stripe.topics.get_mut(topic) else {
                    return Err(BusError::away("nobody here needs the topic any longer"));
                };
                if served && state.is_confirmed() {
                    return Ok(());
                }

                // It is made under the lock, so that no confirmation comes before it.
                state
                    .waiting
                    .get_or_insert_default()
                    .clone()
                    .notified_owned()
            };

            if timeout_at(deadline, notified).await.is_err() {
                return Err(BusError::away(
                    "Redis has not confirmed the subscription in time",
                ));
            }
        }
    }

    /// Gives a partition to a new connection, on which nothing is subscribed: everything that is needed counts as
    /// changed. Returns whether the partition was served before, so that something may have been missed.
    pub(super) fn attach(&self, partition: u16, generation: u64, wake: Arc<Notify>) -> bool {
        let mut stripe = self.stripes[usize::from(partition)].lock();
        let stripe = &mut *stripe;
        stripe.changed.clear();

        for (topic, state) in &mut stripe.topics {
            (state.subscribed, state.subscribing, state.unsubscribing) = (false, 0, 0);
            state.is_changed = state.count > 0;
            if state.is_changed {
                stripe.changed.push_back(topic.clone());
            }
        }

        stripe.topics.retain(|_, state| !state.is_forgotten());
        stripe.server = Some(Server { generation, wake });
        std::mem::replace(&mut stripe.was_served, true)
    }

    /// Nothing of the partition is live from now on, if `generation` still serves it.
    pub(super) fn detach(&self, partition: u16, generation: u64) {
        let mut stripe = self.stripes[usize::from(partition)].lock();
        if stripe.is_served_by(generation) {
            stripe.server = None;
        }
    }

    /// Takes up to `most` changes of a partition into `to`, as sent.
    pub(super) fn drain(
        &self,
        partition: u16,
        generation: u64,
        most: usize,
        to: &mut Vec<(Topic, Change)>,
    ) {
        let mut stripe = self.stripes[usize::from(partition)].lock();
        if !stripe.is_served_by(generation) {
            return;
        }

        while to.len() < most {
            let Some(topic) = stripe.changed.pop_front() else {
                break;
            };
            let Some(state) = stripe.topics.get_mut(&topic) else {
                continue;
            };

            state.is_changed = false;
            if state.count > 0 && !state.subscribed {
                (state.subscribed, state.subscribing) = (true, state.subscribing + 1);
                to.push((topic, Change::Subscribe));
            } else if state.count == 0 && state.subscribed {
                (state.subscribed, state.unsubscribing) = (false, state.unsubscribing + 1);
                to.push((topic, Change::Unsubscribe));
            } else if state.is_forgotten() {
                stripe.forget(&topic);
            }
        }
    }

    /// Redis has carried out a change. `false` where none was asked for on this connection.
    pub(super) fn confirm(&self, topic: &Topic, generation: u64, change: Change) -> bool {
        let mut stripe = self.stripe(topic).lock();
        if !stripe.is_served_by(generation) {
            // It answers a connection that was replaced by now.
            return true;
        }

        let stripe = &mut *stripe;
        let Some(state) = stripe.topics.get_mut(topic) else {
            return false;
        };

        let waiting = match change {
            Change::Subscribe => &mut state.subscribing,
            Change::Unsubscribe => &mut state.unsubscribing,
        };

        if *waiting == 0 {
            return false;
        }

        *waiting -= 1;
        if state.is_confirmed() {
            // A new number even if the topic was subscribed to before: what was published between
            // the two did not come here.
            stripe.subscriptions += 1;
            state.subscription = stripe.subscriptions;
            state.wake();
        } else if state.is_forgotten() {
            stripe.forget(topic);
        }

        true
    }

    /// Notes what has been idle long enough at `now` to be unsubscribed; returns how many topics there are.
    pub(super) fn sweep(&self, now: Instant) -> usize {
        let stripes = self.stripes.iter().map(|stripe| {
            let mut stripe = stripe.lock();
            while stripe
                .idle
                .front()
                .is_some_and(|(at, _)| now.duration_since(*at) >= limits::BUS_UNSUBSCRIBE_DELAY)
            {
                let Some((_, topic)) = stripe.idle.pop_front() else {
                    break;
                };
                let Some(state) = stripe.topics.get_mut(&topic) else {
                    continue;
                };

                match state.idle_since.filter(|_| state.count == 0) {
                    // Someone needed it in between, so its time has begun again.
                    Some(since) if now.duration_since(since) < limits::BUS_UNSUBSCRIBE_DELAY => {
                        stripe.idle.push_back((since, topic));
                        continue;
                    }
                    _ => state.is_idle = false,
                }

                if state.is_forgotten() {
                    stripe.forget(&topic);
                } else if state.count == 0 && state.subscribed && !state.is_changed {
                    state.is_changed = true;
                    stripe.note(topic);
                }
            }

            stripe.topics.len()
        });

        stripes.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AppId;

    const NOW: Duration = Duration::ZERO;

    fn register() -> Interest {
        Interest::new(Arc::new(Names::new("ns", vec!["default".into()], false)))
    }

    fn topic() -> Topic {
        Topic::User(AppId(0), "ann".into())
    }

    fn changes(interest: &Interest, generation: u64) -> Vec<Change> {
        let mut to = Vec::new();
        for partition in 0..interest.names.partitions() {
            interest.drain(partition, generation, 100, &mut to);
        }
        to.into_iter()
            .map(|(of, change)| (assert_eq!(of, topic()), change).1)
            .collect()
    }

    fn attach(interest: &Interest, generation: u64) -> bool {
        interest.attach(
            interest.names.partition(&topic()),
            generation,
            Arc::default(),
        )
    }

    fn later() -> Instant {
        Instant::now() + limits::BUS_UNSUBSCRIBE_DELAY
    }

    #[tokio::test]
    async fn a_topic_is_live_once_confirmed_and_until_the_connection_goes() {
        let interest = register();
        assert!(!attach(&interest, 1));
        interest.add(topic());
        interest.add(topic());
        assert!(interest.live(&topic(), NOW).await.is_err());
        assert_eq!(changes(&interest, 1), [Change::Subscribe]);
        assert!(!interest.is_live(&topic()));
        assert!(interest.confirm(&topic(), 1, Change::Subscribe));
        assert!(interest.is_live(&topic()) && interest.live(&topic(), NOW).await.is_ok());
        let first = interest.subscription(&topic());
        interest.detach(interest.names.partition(&topic()), 1);
        assert!(!interest.is_live(&topic()));
        assert!(attach(&interest, 2));
        assert!(!interest.is_live(&topic()));
        // The old connection's words are of no meaning any more.
        assert!(interest.confirm(&topic(), 1, Change::Subscribe));
        assert_eq!(changes(&interest, 1), []);
        assert!(!interest.is_live(&topic()));
        assert_eq!(changes(&interest, 2), [Change::Subscribe]);
        assert!(interest.confirm(&topic(), 2, Change::Subscribe) && interest.is_live(&topic()));
        assert_ne!(interest.subscription(&topic()), first);
    }

    #[test]
    fn who_comes_back_in_time_costs_nothing() {
        let interest = register();
        attach(&interest, 1);
        interest.add(topic());
        assert_eq!(changes(&interest, 1), [Change::Subscribe]);
        interest.confirm(&topic(), 1, Change::Subscribe);
        interest.remove(&topic());
        interest.sweep(Instant::now());
        interest.add(topic());
        assert!(interest.is_live(&topic()));
        assert_eq!(interest.sweep(later()), 1);
        assert_eq!(changes(&interest, 1), []);
        interest.remove(&topic());
        interest.sweep(later());
        assert_eq!(changes(&interest, 1), [Change::Unsubscribe]);
        assert!(interest.confirm(&topic(), 1, Change::Unsubscribe));
        assert_eq!(interest.sweep(later()), 0);
        assert!(!interest.confirm(&topic(), 1, Change::Unsubscribe));
    }

    #[test]
    fn live_waits_for_the_last_command_on_the_wire() {
        let interest = register();
        attach(&interest, 1);
        interest.add(topic());
        assert_eq!(changes(&interest, 1), [Change::Subscribe]);
        interest.remove(&topic());
        interest.sweep(later());
        assert_eq!(changes(&interest, 1), [Change::Unsubscribe]);
        interest.add(topic());
        assert_eq!(changes(&interest, 1), [Change::Subscribe]);
        for (change, live) in [
            (Change::Subscribe, false),
            (Change::Unsubscribe, false),
            (Change::Subscribe, true),
        ] {
            assert!(interest.confirm(&topic(), 1, change));
            assert_eq!(interest.is_live(&topic()), live, "{change:?}");
        }
    }

    #[test]
    fn a_topic_that_comes_back_before_it_is_sent_stays_subscribed() {
        let interest = register();
        attach(&interest, 1);
        interest.add(topic());
        assert_eq!(changes(&interest, 1), [Change::Subscribe]);
        interest.confirm(&topic(), 1, Change::Subscribe);
        interest.remove(&topic());
        interest.sweep(later());
        interest.add(topic());
        assert_eq!(changes(&interest, 1), []);
        assert!(interest.is_live(&topic()));
    }

    #[test]
    fn nothing_is_kept_of_what_nobody_needs() {
        let interest = register();
        for _ in 0..3 {
            interest.add(topic());
            interest.remove(&topic());
        }
        assert_eq!(interest.sweep(later() + limits::BUS_UNSUBSCRIBE_DELAY), 1);
        attach(&interest, 1);
        assert_eq!(changes(&interest, 1), []);
        assert_eq!(interest.sweep(later()), 0);
        attach(&interest, 2);
        interest.add(topic());
        assert_eq!(changes(&interest, 2), [Change::Subscribe]);
        interest.remove(&topic());
        interest.sweep(later());
        attach(&interest, 3);
        assert_eq!(
            (changes(&interest, 3), interest.sweep(later())),
            (vec![], 0)
        );
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let interest = Arc::new(register());
        attach(&interest, 1);
        interest.add(topic());
        let waits = tokio::spawn({
            let interest = interest.clone();
            async move { interest.live(&topic(), Duration::from_secs(20)).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(changes(&interest, 1), [Change::Subscribe]);
        interest.confirm(&topic(), 1, Change::Subscribe);
        assert!(waits.await.unwrap().is_ok());
    }
}
