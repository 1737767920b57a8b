//! Events of this node on their way into the history, and back over the bus.

use std::time::{Duration, Instant};

use ahash::AHashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::Replicator;
use crate::{
    bus::Topic,
    history::{Appended, HistoryFuture, Key, New, Position, Retention, Topic as HistoryTopic},
    hub::Counts,
    node::NodeError,
    protocol::envelope::{Names, Tails},
};

/// The callers that wait for an event of their own to come back over the bus.
#[derive(Debug, Default)]
pub(super) struct Awaited(Mutex<AHashMap<(Uuid, Key), oneshot::Sender<Counts>>>);

impl Awaited {
    /// Waits for this node's own publication to come back over the bus, by this topic.
    fn expect(&self, id: Uuid, key: &Key) -> oneshot::Receiver<Counts> {
        let (sender, receiver) = oneshot::channel();
        self.0.lock().insert((id, key.clone()), sender);
        receiver
    }

    /// Gives up waiting.
    fn forget(&self, id: Uuid, key: &Key) {
        self.0.lock().remove(&(id, key.clone()));
    }

    pub(super) fn came(&self, id: Uuid, key: &Key, counts: Counts) {
        let awaited = self.0.lock().remove(&(id, key.clone()));
        if let Some(sender) = awaited {
            // Fails only if nobody waits any longer.
            let _ = sender.send(counts);
        }
    }
}

/// An event on its way into the history, and back from there.
pub(in crate::node) struct Appending<'a> {
    awaited: &'a Awaited,
    id: Uuid,
    key: &'a Key,
    answer: HistoryFuture<'a, Appended>,
    began: Instant,
    /// What becomes of it here; none where nobody here is in its topic, since it does not come back then.
    counts: Option<oneshot::Receiver<Counts>>,
}

impl Appending<'_> {
    /// Waits until the event is stored, and until this node has placed it.
    ///
    /// # Errors
    /// [`NodeError::History`].
    pub(in crate::node) async fn end(
        mut self,
        within: &mut EchoTimeout,
    ) -> Result<(Position, Counts), NodeError> {
        let position = (&mut self.answer).await?.position;
        let counts = match self.counts.take() {
            Some(counts) => within.wait(self.began, counts).await.unwrap_or_default(),
            None => Counts::default(),
        };
        Ok((position, counts))
    }
}

impl Drop for Appending<'_> {
    fn drop(&mut self) {
        // A caller may be dropped while it waits, and nobody else would remove the entry.
        self.awaited.forget(self.id, self.key);
    }
}

/// How long a caller waits for the events of a publication to come back over the bus, each from when it was sent, until
/// one has not come.
pub(in crate::node) struct EchoTimeout(Duration);

impl EchoTimeout {
    pub(in crate::node) fn new(within: Duration) -> Self {
        Self(within)
    }

    async fn wait(&mut self, began: Instant, counts: oneshot::Receiver<Counts>) -> Option<Counts> {
        let came = tokio::time::timeout_at((began + self.0).into(), counts).await;
        if came.is_err() {
            // The bus may be away, or the topic busy. A publication for many users waits for that
            // once.
            self.0 = Duration::ZERO;
        }
        came.ok()?.ok()
    }
}

impl Replicator {
    /// Appends an event, which the same step sends to every node that has use for it. It has its place in the order of all
    /// that this node appends when this returns.
    pub(in crate::node) fn append_over_bus<'a>(
        &'a self,
        key: &'a Key,
        retention: &'a Retention,
        mut new: New,
        tails: &Tails<'_>,
    ) -> Appending<'a> {
        let (topic, to) = match &key.topic {
            HistoryTopic::User(user) => {
                let to = Names {
                    users: vec![user.to_string()],
                    ..Names::default()
                };
                (Topic::User(key.app, user.clone()), Some(to))
            }
            HistoryTopic::Channel(channel) => (Topic::Channel(key.app, channel.clone()), None),
        };

        // Of a list of users each event names its own.
        new.tail = Some(tails.tail(to.as_ref()));
        let id = new.id;
        let comes_back = self.bus.interest().is_live(&topic);
        // Before it is appended: it may be back before the answer.
        let counts = comes_back.then(|| self.awaited.expect(id, key));
        let answer = self.history.append(key, retention, new);

        Appending {
            awaited: &self.awaited,
            id,
            key,
            answer,
            began: Instant::now(),
            counts,
        }
    }
}
