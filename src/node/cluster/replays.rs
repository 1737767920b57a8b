//! What the history said of missed events, shared by the clients that join a channel at the same time.

use ahash::AHashMap;
use parking_lot::Mutex;

use crate::{
    history::{Key, Position, Recovery},
    protocol::native::Since,
};

/// The last answer for each channel that clients are about to join, for as long as there are such.
#[derive(Debug, Default)]
pub(super) struct Replays(Mutex<AHashMap<Key, Shared>>);

#[derive(Debug, Default)]
struct Shared {
    joining: usize,
    last: Option<(Since, Recovery)>,
}

/// A client that is about to join a channel; it is no longer when this is dropped.
#[derive(Debug)]
pub(super) struct Joining<'a> {
    replays: &'a Replays,
    key: Key,
}

impl Replays {
    pub(super) fn join(&self, key: &Key) -> Joining<'_> {
        self.0.lock().entry(key.clone()).or_default().joining += 1;
        Joining {
            replays: self,
            key: key.clone(),
        }
    }

    /// What the history would say of what came after `since` in a channel that is `at` this position, if the client has
    /// missed nothing, or if the history has just said it to another client that missed as much, or more.
    pub(super) fn find(&self, key: &Key, since: &Since, at: Position) -> Option<Recovery> {
        // This is the usual case after a short break. It needs no look at the store.
        if is_present(since, at) && since.offset == at.offset {
            return Some(Recovery {
                position: at,
                recovered: true,
                shared: at.offset,
                entries: Vec::new(),
            });
        }

        let shared = self.0.lock();
        let (asked, answer) = shared.get(key)?.last.as_ref()?;
        // Events were stored since, which this client has missed too.
        if answer.position != at {
            return None;
        }
        if asked == since {
            return Some(answer.clone());
        }

        // A client that missed more was given all that this one missed.
        let is_part = answer.recovered
            && asked.epoch == since.epoch
            && is_present(since, at)
            && (asked.offset..=at.offset).contains(&since.offset);

        is_part.then(|| Recovery {
            shared: since.offset,
            entries: answer
                .entries
                .iter()
                .filter(|entry| entry.offset > since.offset)
                .cloned()
                .collect(),
            ..*answer
        })
    }

    /// Notes what the history said, for the others who are about to join.
    pub(super) fn note(&self, key: &Key, since: &Since, answer: &Recovery) {
        // Alone, the client would leave an answer in memory that nobody asks for.
        if let Some(shared) = self.0.lock().get_mut(key).filter(|now| now.joining > 1) {
            shared.last = Some((since.clone(), answer.clone()));
        }
    }
}

/// Whether `since` counts in the epoch of `at`.
fn is_present(since: &Since, at: Position) -> bool {
    let epoch = since.epoch.as_ref();
    epoch.is_none_or(|epoch| epoch.parse() == Ok(at.epoch))
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        let mut shared = self.replays.0.lock();
        let Some(one) = shared.get_mut(&self.key) else {
            return;
        };
        one.joining -= 1;
        if one.joining == 0 {
            shared.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use uuid::Uuid;

    use super::*;
    use crate::{
        history::{Entry, Epoch},
        id::AppId,
        protocol::event::{Data, Event, Marks},
    };

    fn entry(offset: u64) -> Entry {
        let draft = Event::new("e", Data::Bytes(Cow::Borrowed(b"1")))
            .unwrap()
            .draft(&Marks::default());
        Entry {
            offset,
            id: Uuid::now_v7(),
            frame: draft.finish(Some(offset)),
            omit: None,
            at_ms: 0,
        }
    }

    #[test]
    fn an_answer_is_shared_with_who_missed_as_much_or_less_while_it_holds() {
        let key = Key::channel(AppId(0), "c".into());
        let at = |offset| Position {
            epoch: Epoch::of(7),
            offset,
        };
        let since = |epoch: Option<u64>, offset| Since {
            epoch: epoch.map(|epoch| Epoch::of(epoch).to_string()),
            offset,
        };
        let answer = Recovery {
            position: at(5),
            recovered: true,
            shared: 2,
            entries: (3..=5).map(entry).collect(),
        };
        let replays = Replays::default();
        let first = replays.join(&key);
        replays.note(&key, &since(Some(7), 2), &answer);
        assert!(
            replays.find(&key, &since(Some(7), 2), at(5)).is_none(),
            "nobody else joins"
        );
        let second = replays.join(&key);
        replays.note(&key, &since(Some(7), 2), &answer);
        let found = |since: &Since, at| {
            let found = replays.find(&key, since, at)?;
            let offsets: Vec<u64> = found.entries.iter().map(|entry| entry.offset).collect();
            Some((found.recovered, found.shared, offsets))
        };
        assert_eq!(
            found(&since(Some(7), 2), at(5)),
            Some((true, 2, vec![3, 4, 5]))
        );
        assert_eq!(found(&since(Some(7), 4), at(5)), Some((true, 4, vec![5])));
        assert_eq!(found(&since(Some(7), 5), at(5)), Some((true, 5, vec![])));
        for (since, at) in [
            (since(Some(7), 1), at(5)),
            (since(Some(7), 6), at(5)),
            (since(Some(8), 3), at(5)),
            (since(None, 3), at(5)),
            (since(Some(7), 2), at(6)),
        ] {
            assert_eq!(found(&since, at), None, "{since:?} {at:?}");
        }
        drop((first, second));
        assert_eq!(found(&since(Some(7), 4), at(5)), None);
        assert_eq!(
            found(&since(Some(7), 5), at(5)),
            Some((true, 5, vec![])),
            "it has missed nothing"
        );
        assert!(replays.0.lock().is_empty());
    }
}
