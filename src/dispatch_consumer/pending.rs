//! What was heard of an app and is yet to be done by the node that leads it.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::limits::{DISPATCHES_PENDING, DISPATCHES_PENDING_BYTES, DISPATCHES_PENDING_FOR};

/// How long it is remembered that a message was done which was not heard yet: the two come by different ways. Over a Redis Cluster
/// it may come first that a part of it was done.
const EARLY: Duration = Duration::from_secs(5);

/// A message of a program, of which something has to be done once.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) text: Bytes,
    /// The digest by which the nodes name it.
    pub(super) digest: String,
    /// How much of it is done: for so many of those whom it names, the first of them.
    pub(super) done: usize,
    heard: Instant,
}

impl Message {
    pub(super) fn new(text: Bytes, digest: String, heard: Instant) -> Self {
        Self {
            text,
            digest,
            done: 0,
            heard,
        }
    }
}

/// Messages in the order in which they were heard, until someone has done them, or their time is over.
#[derive(Debug, Default)]
pub(super) struct PendingDispatches {
    messages: VecDeque<Message>,
    bytes: usize,
    early: VecDeque<Early>,
}

/// What was done of a message that was not heard yet.
#[derive(Debug)]
struct Early {
    since: Instant,
    digest: String,
    done: Done,
}

#[derive(Clone, Copy, Debug)]
enum Done {
    /// For so many of those whom it names.
    InPart(usize),
    Wholly,
}

impl PendingDispatches {
    /// Holds `message`, unless it was done before it was heard; returns those that there is no longer room for.
    pub(super) fn hold(&mut self, mut message: Message) -> Vec<Message> {
        let now = message.heard;
        while self
            .early
            .front()
            .is_some_and(|early| now.duration_since(early.since) > EARLY)
        {
            self.early.pop_front();
        }

        match self.take_early(&message.digest) {
            Some(Done::Wholly) => return Vec::new(),
            Some(Done::InPart(count)) => message.done = count,
            None => {}
        }

        self.bytes += message.text.len();
        self.messages.push_back(message);
        let mut lost = Vec::new();
        while self.messages.len() > DISPATCHES_PENDING || self.bytes > DISPATCHES_PENDING_BYTES {
            lost.extend(self.next());
        }

        lost
    }

    /// Notes that a message was done, by any node. One of several that are alike stands for the others.
    pub(super) fn done(&mut self, digest: String, now: Instant) {
        match self
            .messages
            .iter()
            .position(|message| message.digest == digest)
        {
            Some(at) => {
                self.bytes -= self
                    .messages
                    .remove(at)
                    .map_or(0, |message| message.text.len());
            }
            None => self.done_early(digest, Done::Wholly, now),
        }
    }

    /// Notes that a part of a message was done, for its first `count` users. Of several that are alike it is the oldest.
    pub(super) fn done_in_part(&mut self, digest: String, count: usize, now: Instant) {
        let mut messages = self.messages.iter_mut();
        match messages.find(|message| message.digest == digest) {
            Some(message) => message.done = count,
            None => self.done_early(digest, Done::InPart(count), now),
        }
    }

    /// Remembers what was done of a message that was not heard yet. All that follows a part is of the same message.
    fn done_early(&mut self, digest: String, done: Done, now: Instant) {
        let mut early = self.early.iter_mut();
        let begun = early.find(|one| one.digest == digest && matches!(one.done, Done::InPart(_)));
        if let Some(begun) = begun {
            begun.done = done;
        } else if self.early.len() < DISPATCHES_PENDING {
            // A message for which there is no room is done a second time. Anyone who can publish could fill an unbounded
            // list.
            self.early.push_back(Early {
                since: now,
                digest,
                done,
            });
        }
    }

    /// Takes what was remembered of the message. It is used up: the same text that is heard once more is another message.
    fn take_early(&mut self, digest: &str) -> Option<Done> {
        let at = self.early.iter().position(|early| early.digest == digest)?;
        self.early.remove(at).map(|early| early.done)
    }

    /// Holds a message again that was the oldest.
    pub(super) fn put_back(&mut self, message: Message) {
        self.bytes += message.text.len();
        self.messages.push_front(message);
    }

    /// Takes the oldest.
    pub(super) fn next(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.text.len();
        Some(message)
    }

    /// Takes the oldest if its time is over.
    pub(super) fn next_late(&mut self, now: Instant) -> Option<Message> {
        let heard = self.messages.front()?.heard;
        (now.duration_since(heard) > DISPATCHES_PENDING_FOR)
            .then(|| self.next())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str, heard: Instant) -> Message {
        Message::new(Bytes::from_static(text.as_bytes()), text.to_owned(), heard)
    }

    fn rest(pending: &mut PendingDispatches) -> Vec<String> {
        std::iter::from_fn(|| pending.next())
            .map(|message| message.digest)
            .collect()
    }

    #[test]
    fn what_was_done_is_held_no_more_and_the_rest_in_order() {
        let now = Instant::now();
        let mut pending = PendingDispatches::default();
        for text in ["a", "b", "a", "c"] {
            assert!(pending.hold(message(text, now)).is_empty());
        }
        pending.done("a".to_owned(), now);
        pending.done("c".to_owned(), now);
        assert_eq!(rest(&mut pending), ["b", "a"]);
        assert_eq!(pending.bytes, 0);
    }

    #[test]
    fn what_is_done_before_it_is_heard_is_not_held_then() {
        let now = Instant::now();
        let mut pending = PendingDispatches::default();
        pending.done("a".to_owned(), now);
        pending.hold(message("a", now));
        pending.hold(message("a", now));
        assert_eq!(rest(&mut pending), ["a"], "the second is another one");
        pending.done("b".to_owned(), now);
        pending.hold(message("b", now + EARLY + Duration::from_secs(1)));
        assert_eq!(rest(&mut pending), ["b"], "so late it is another one");
    }

    #[test]
    fn what_is_done_in_part_goes_on_from_there_and_stays_the_oldest() {
        let now = Instant::now();
        let mut pending = PendingDispatches::default();
        for text in ["a", "b", "b"] {
            pending.hold(message(text, now));
        }
        let first = pending.next().unwrap();
        pending.done_in_part("b".to_owned(), 500, now);
        pending.done_in_part("gone".to_owned(), 500, now);
        pending.put_back(first);
        assert_eq!(pending.bytes, 3);
        let all = std::iter::from_fn(|| pending.next());
        let done: Vec<_> = all.map(|one| (one.digest, one.done)).collect();
        let expected = [("a", 0), ("b", 500), ("b", 0)];
        assert_eq!(
            done,
            expected.map(|(digest, done)| (digest.to_owned(), done))
        );
    }

    #[test]
    fn what_is_done_in_part_before_it_is_heard_goes_on_from_there() {
        let now = Instant::now();
        let mut pending = PendingDispatches::default();
        pending.done_in_part("a".to_owned(), 500, now);
        pending.done_in_part("a".to_owned(), 1000, now);
        pending.hold(message("a", now));
        pending.hold(message("a", now));
        let done: Vec<_> = pending.messages.iter().map(|one| one.done).collect();
        assert_eq!(done, [1000, 0], "the second is another one");

        pending.done_in_part("b".to_owned(), 500, now);
        pending.done("b".to_owned(), now);
        pending.hold(message("b", now));
        pending.hold(message("b", now));
        assert_eq!(rest(&mut pending), ["a", "a", "b"], "one of both is done");
    }

    #[test]
    fn there_is_room_and_time_for_so_many() {
        let now = Instant::now();
        let mut pending = PendingDispatches::default();
        let lost: usize = (0..DISPATCHES_PENDING + 3)
            .map(|_| pending.hold(message("a", now)).len())
            .sum();
        assert_eq!(lost, 3);
        assert!(pending.next_late(now).is_none());
        assert!(
            pending
                .next_late(now + DISPATCHES_PENDING_FOR * 2)
                .is_some()
        );
        let mut pending = PendingDispatches::default();
        let large = Bytes::from(vec![b' '; DISPATCHES_PENDING_BYTES]);
        assert!(pending.hold(message("a", now)).is_empty());
        let lost = pending.hold(Message::new(large, String::new(), now));
        assert_eq!(lost.len(), 1, "the oldest goes");
    }
}
