//! Topics of which messages may have been missed.
//!
//! It is the one mechanism for that, for channels, users and everything else on the bus. A topic is in one of these states:
//!
//! ```text
//!           a message was dropped, or the connection that brings them was lost
//!   heard ──────────────────────────────────────────────────────────────────────► missed
//!     ▲                                                                             │
//!     │                                            once a second at most, the node  │
//!     │                                            takes all that is missed         │
//!     │   what is stored was asked for after that,                                  ▼
//!     └────────────── and placed ────────────────────────────────────────────── doubted
//! ```
//!
//! - **Heard**: all that was published since the node's [`SubscriptionState`] has come, or is on its way in the inbox. So a channel's
//!   watermark says how far it is placed, and stored events of a user are placed and confirmed.
//! - **Missed**: noted here by the thread of the bus, before anything newer of the topic can be taken out of the inbox. The
//!   node's hearing of the topic is another one from then on. Stored events of a user are held back, those of a channel are
//!   distinguished by their offsets.
//! - **Doubted**: nothing is noted here any longer. A channel is tainted (`node::cluster::watermarks`), and each connection of a
//!   user is in doubt (`hub::inbox`), as each has been given other events. Both are asked for until the store answers.
//!
//! What is not stored cannot be had again, so a topic that has nothing stored is heard again as soon as it was taken.
//!
//! A dropped message concerns its topic alone, and a lost connection the partitions that it served. Noting costs one entry
//! for each topic, however many messages are dropped: what overflows does not feed itself.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use ahash::{AHashMap, AHashSet};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Topic, name::Names};
use crate::{limits::GAP_TOPICS, metrics::Metrics};

/// What a node hears of a topic. To be noted before the store is asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SubscriptionState {
    /// The last gap up to then.
    gap: u64,
    /// The subscription that brings what is published afterwards; nothing if none does.
    subscription: Option<u64>,
}

impl SubscriptionState {
    /// What a node hears of a topic that nothing brings.
    pub(crate) const NOTHING: Self = Self {
        gap: 0,
        subscription: None,
    };

    pub(crate) fn new(gap: u64, subscription: Option<u64>) -> Self {
        Self { gap, subscription }
    }

    /// Whether all that was published between this and `now` has come.
    pub(crate) fn lasts_until(self, now: Self) -> bool {
        self.subscription.is_some() && self == now
    }
}

/// The topics of which messages may have been missed, until they are taken by [`Gaps::next`].
#[derive(Debug)]
pub(crate) struct Gaps {
    names: Arc<Names>,
    metrics: Arc<Metrics>,
    state: Mutex<State>,
    /// Whether there is any. It is asked for each stored event of a user.
    is_open: AtomicBool,
    due: Notify,
}

#[derive(Debug)]
struct State {
    /// The number of the last gap.
    last: u64,
    /// The number of the last gap that concerned all of a partition, by partition.
    partitions: Box<[u64]>,
    /// The number of the last gap of each topic that had one of its own.
    topics: AHashMap<Topic, u64>,
    /// Noted, and not taken yet.
    noted: Missed,
    /// Taken, and not doubted yet.
    taken: Arc<Missed>,
}

/// What may have been missed.
#[derive(Debug, Default)]
struct Missed {
    partitions: BTreeSet<u16>,
    topics: AHashSet<Topic>,
    /// Partitions that are served for the first time. Nothing was heard of them that could have been missed, but someone may have
    /// come before.
    begun: BTreeSet<u16>,
    /// A connection was lost.
    is_loss: bool,
}

impl Missed {
    fn is_empty(&self) -> bool {
        self.partitions.is_empty() && self.topics.is_empty() && self.begun.is_empty()
    }

    fn holds(&self, names: &Names, topic: &Topic) -> bool {
        // Except over Redis Cluster, one server serves all partitions, so no topic needs to be
        // hashed.
        let is_whole = self.partitions.len() == usize::from(names.partitions());
        is_whole
            || self.topics.contains(topic)
            || (!self.partitions.is_empty() && self.partitions.contains(&names.partition(topic)))
    }
}

impl Gaps {
    pub(super) fn new(names: Arc<Names>, metrics: Arc<Metrics>) -> Self {
        let partitions = vec![0; usize::from(names.partitions())].into();
        Self {
            names,
            metrics,
            state: Mutex::new(State {
                last: 0,
                partitions,
                topics: AHashMap::new(),
                noted: Missed::default(),
                taken: Arc::default(),
            }),
            is_open: AtomicBool::new(false),
            due: Notify::new(),
        }
    }

    /// Notes that a message of `topic` was dropped. To be called before anything newer of it is handed on.
    pub(crate) fn note_dropped(&self, topic: &Topic) {
        let mut state = self.state.lock();
        let state = &mut *state;
        state.last += 1;

        // Past so many topics, their partitions are noted in their place.
        if state.topics.len() >= GAP_TOPICS && !state.topics.contains_key(topic) {
            for (topic, number) in state.topics.drain() {
                let whole = &mut state.partitions[usize::from(self.names.partition(&topic))];
                *whole = number.max(*whole);
            }
        }

        state.topics.insert(topic.clone(), state.last);
        let noted = &mut state.noted;
        // It counts once until it is taken, however many topics it has.
        if noted.topics.is_empty() {
            self.metrics.bus.gaps.inc();
        }

        if noted.topics.len() >= GAP_TOPICS && !noted.topics.contains(topic) {
            let whole = noted.topics.drain();
            noted
                .partitions
                .extend(whole.map(|topic| self.names.partition(&topic)));
        }

        noted.topics.insert(topic.clone());
        self.is_open.store(true, SeqCst);
        self.due.notify_one();
    }

    /// Notes that the connection was lost that served `partitions`. Their missed messages are due once they are served
    /// again: [`Gaps::note_served`].
    pub(super) fn note_lost(&self, partitions: &[u16]) {
        self.metrics.bus.gaps.inc();
        let mut state = self.state.lock();
        state.number(partitions);
        state.noted.partitions.extend(partitions);
        state.noted.is_loss = true;
        self.is_open.store(true, SeqCst);
    }

    /// Notes that all topics of `partitions` are subscribed to on a new connection: what was published before may have been missed,
    /// if anyone needed it. `is_return` says whether one was lost before.
    pub(super) fn note_served(&self, partitions: &[u16], is_return: bool) {
        let mut state = self.state.lock();
        state.number(partitions);
        if is_return {
            state.noted.partitions.extend(partitions);
            state.noted.is_loss = true;
        } else {
            state.noted.begun.extend(partitions);
        }
        self.is_open.store(true, SeqCst);
        self.due.notify_one();
    }

    /// The number of the last gap that concerned `topic`.
    pub(super) fn last_of(&self, topic: &Topic) -> u64 {
        let state = self.state.lock();
        let whole = state.partitions[usize::from(self.names.partition(topic))];
        let own = state.topics.get(topic).copied().unwrap_or_default();
        whole.max(own)
    }

    /// Whether something of `topic` may have been missed, and what depends on it is not in doubt yet.
    pub(crate) fn is_missed(&self, topic: &Topic) -> bool {
        if !self.is_open.load(SeqCst) {
            return false;
        }
        let state = self.state.lock();
        [&state.noted, &*state.taken]
            .into_iter()
            .any(|missed| missed.holds(&self.names, topic))
    }

    /// Waits until something may have been missed, and takes all that is.
    pub(crate) async fn next(&self) -> Gap<'_> {
        self.due.notified().await;
        let mut state = self.state.lock();
        let missed = Arc::new(std::mem::take(&mut state.noted));
        // Missed until the caller has put in doubt what depends on it.
        state.taken = missed.clone();
        Gap { gaps: self, missed }
    }
}

impl State {
    /// Gives the partitions the number of a new gap.
    fn number(&mut self, partitions: &[u16]) {
        self.last += 1;
        for partition in partitions {
            self.partitions[usize::from(*partition)] = self.last;
        }
    }
}

/// What was missed up to now. When it is dropped, all that depends on it has to be in doubt.
#[derive(Debug)]
pub(crate) struct Gap<'a> {
    gaps: &'a Gaps,
    missed: Arc<Missed>,
}

impl Gap<'_> {
    /// Whether something of `topic` may have been missed.
    pub(crate) fn concerns(&self, topic: &Topic) -> bool {
        self.missed.holds(&self.gaps.names, topic)
    }

    /// Whether `topic` is served for the first time.
    pub(crate) fn begins(&self, topic: &Topic) -> bool {
        let partition = self.gaps.names.partition(topic);
        self.missed.begun.contains(&partition)
    }

    /// Whether the server that keeps what belongs to `topic` may be another one now.
    pub(crate) fn has_lost_server_of(&self, topic: &Topic) -> bool {
        let partition = self.gaps.names.partition(topic);
        self.missed.partitions.contains(&partition)
    }

    /// How many partitions were missed as a whole.
    pub(crate) fn partitions(&self) -> usize {
        self.missed.partitions.len()
    }

    /// The topics of which messages were dropped.
    pub(crate) fn topics(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.missed.topics.iter()
    }

    /// Whether a connection was lost. Otherwise one was made for the first time, or messages were dropped.
    pub(crate) fn is_loss(&self) -> bool {
        self.missed.is_loss
    }
}

impl Drop for Gap<'_> {
    fn drop(&mut self) {
        let mut state = self.gaps.state.lock();
        state.taken = Arc::default();
        // Under the lock, as when it is set: otherwise a gap that is noted now could be closed with
        // this one.
        self.gaps.is_open.store(!state.noted.is_empty(), SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::AppId;

    fn gaps() -> Gaps {
        let names = Arc::new(Names::new("ns", vec!["default".into()], false));
        Gaps::new(names, Arc::new(Metrics::new()))
    }

    fn user(name: &str) -> Topic {
        Topic::User(AppId(0), name.into())
    }

    /// Topics of different partitions.
    fn two(gaps: &Gaps) -> (Topic, Topic) {
        let one = user("0");
        let at = gaps.names.partition(&one);
        let other = (1..).map(|n| user(&n.to_string()));
        let mut other = other.filter(|other| gaps.names.partition(other) != at);
        (one, other.next().unwrap())
    }

    fn is_due(gaps: &Gaps) -> bool {
        let mut next = std::pin::pin!(gaps.next());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        next.as_mut().poll(&mut cx).is_ready()
    }

    #[tokio::test]
    async fn a_dropped_message_concerns_its_topic_until_what_depends_on_it_is_in_doubt() {
        let gaps = gaps();
        let (one, other) = two(&gaps);
        assert!(!gaps.is_missed(&one));
        let before = (gaps.last_of(&one), gaps.last_of(&other));
        for _ in 0..1000 {
            gaps.note_dropped(&one);
        }
        assert_eq!(gaps.metrics.bus.gaps.get(), 1);
        assert!(gaps.is_missed(&one) && !gaps.is_missed(&other));

        let gap = gaps.next().await;
        assert!(gap.concerns(&one) && !gap.concerns(&other));
        assert_eq!(
            (gap.topics().len(), gap.partitions(), gap.is_loss()),
            (1, 0, false)
        );
        assert!(gaps.is_missed(&one), "it is not in doubt yet");
        gaps.note_dropped(&other);
        drop(gap);
        assert!(!gaps.is_missed(&one) && gaps.is_missed(&other));
        drop(gaps.next().await);
        assert!(!gaps.is_missed(&other) && !is_due(&gaps));
        // Whoever noted what it heard before sees that it has missed something.
        assert_ne!(gaps.last_of(&one), before.0);
        assert_ne!(gaps.last_of(&other), before.1);
    }

    #[tokio::test]
    async fn a_lost_connection_concerns_its_partitions_and_is_due_when_they_are_served_again() {
        let gaps = gaps();
        let (one, other) = two(&gaps);
        let partition = gaps.names.partition(&one);
        gaps.note_lost(&[partition]);
        assert!(gaps.is_missed(&one) && !gaps.is_missed(&other) && !is_due(&gaps));
        let lost = gaps.last_of(&one);
        gaps.note_served(&[partition], true);
        assert_ne!(gaps.last_of(&one), lost);
        assert_eq!(gaps.last_of(&other), 0);
        let gap = gaps.next().await;
        assert!(gap.is_loss() && gap.has_lost_server_of(&one) && !gap.concerns(&other));
        drop(gap);

        // A first connection has lost nothing.
        gaps.note_served(&[gaps.names.partition(&other)], false);
        assert!(!gaps.is_missed(&other) && gaps.last_of(&other) > 0);
        let gap = gaps.next().await;
        assert!(gap.begins(&other) && !gap.begins(&one) && !gap.concerns(&other));
        assert!(!gap.is_loss());
    }

    #[tokio::test]
    async fn more_topics_than_can_be_remembered_are_their_partitions() {
        let gaps = gaps();
        let names: Vec<Topic> = (0..=GAP_TOPICS).map(|n| user(&n.to_string())).collect();
        for topic in &names {
            gaps.note_dropped(topic);
        }
        assert!(gaps.state.lock().topics.len() <= GAP_TOPICS);
        assert!(gaps.state.lock().noted.topics.len() <= GAP_TOPICS);
        let gap = gaps.next().await;
        for topic in &names {
            assert!(gap.concerns(topic) && gaps.last_of(topic) > 0, "{topic:?}");
        }
    }
}
