//! What was heard and is yet to be done by the node that leads.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::{
    id::AppId,
    limits::{PROGRAMS_HELD, PROGRAMS_HELD_BYTES, PROGRAMS_HELD_FOR},
};

/// How long it is remembered that a message was done which was not heard yet: the two come by different ways.
const EARLY: Duration = Duration::from_secs(5);

/// A message of a program, of which something has to be done once.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) app: AppId,
    pub(super) text: Bytes,
    /// By which the nodes name it.
    pub(super) digest: String,
    heard: Instant,
}

impl Message {
    pub(super) fn new(app: AppId, text: Bytes, digest: String, heard: Instant) -> Self {
        Self {
            app,
            text,
            digest,
            heard,
        }
    }
}

/// Messages in the order in which they were heard, until someone has done them, or their time is over.
#[derive(Debug, Default)]
pub(super) struct Held {
    messages: VecDeque<Message>,
    bytes: usize,
    early: VecDeque<(Instant, String)>,
}

impl Held {
    /// Holds `message`, unless it was done before it was heard; answers those that there is no room for any more.
    pub(super) fn hold(&mut self, message: Message) -> Vec<Message> {
        let now = message.heard;
        while self
            .early
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) > EARLY)
        {
            self.early.pop_front();
        }
        if let Some(at) = self
            .early
            .iter()
            .position(|(_, digest)| *digest == message.digest)
        {
            self.early.remove(at);
            return Vec::new();
        }
        self.bytes += message.text.len();
        self.messages.push_back(message);
        let mut lost = Vec::new();
        while self.messages.len() > PROGRAMS_HELD || self.bytes > PROGRAMS_HELD_BYTES {
            lost.extend(self.next());
        }
        lost
    }

    /// Notes that a message was done, by whomever. One of several that are alike stands for the others.
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
            None if self.early.len() < PROGRAMS_HELD => self.early.push_back((now, digest)),
            None => {}
        }
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
        (now.duration_since(heard) > PROGRAMS_HELD_FOR)
            .then(|| self.next())
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str, heard: Instant) -> Message {
        Message::new(
            AppId(0),
            Bytes::from_static(text.as_bytes()),
            text.to_owned(),
            heard,
        )
    }

    fn rest(held: &mut Held) -> Vec<String> {
        std::iter::from_fn(|| held.next())
            .map(|message| message.digest)
            .collect()
    }

    #[test]
    fn what_was_done_is_held_no_more_and_the_rest_in_order() {
        let now = Instant::now();
        let mut held = Held::default();
        for text in ["a", "b", "a", "c"] {
            assert!(held.hold(message(text, now)).is_empty());
        }
        held.done("a".to_owned(), now);
        held.done("c".to_owned(), now);
        assert_eq!(rest(&mut held), ["b", "a"]);
        assert_eq!(held.bytes, 0);
    }

    #[test]
    fn what_is_done_before_it_is_heard_is_not_held_then() {
        let now = Instant::now();
        let mut held = Held::default();
        held.done("a".to_owned(), now);
        held.hold(message("a", now));
        held.hold(message("a", now));
        assert_eq!(rest(&mut held), ["a"], "the second is another one");
        held.done("b".to_owned(), now);
        held.hold(message("b", now + EARLY + Duration::from_secs(1)));
        assert_eq!(rest(&mut held), ["b"], "so late it is another one");
    }

    #[test]
    fn there_is_room_and_time_for_so_many() {
        let now = Instant::now();
        let mut held = Held::default();
        let lost: usize = (0..PROGRAMS_HELD + 3)
            .map(|_| held.hold(message("a", now)).len())
            .sum();
        assert_eq!(lost, 3);
        assert!(held.next_late(now).is_none());
        assert!(held.next_late(now + PROGRAMS_HELD_FOR * 2).is_some());
        let mut held = Held::default();
        let large = Bytes::from(vec![b' '; PROGRAMS_HELD_BYTES]);
        assert!(held.hold(message("a", now)).is_empty());
        let lost = held.hold(Message::new(AppId(0), large, String::new(), now));
        assert_eq!(lost.len(), 1, "the oldest goes");
    }
}
