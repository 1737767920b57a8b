//! How far this node has seen the numberings of topics.

use quick_cache::sync::Cache;

use crate::history::{Key, Position};

/// The position of a topic, and when its numbering was born: a later one has a later birth, whatever Redis' clock
/// says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) position: Position,
    pub(super) born: u64,
}

/// The marks of the topics used last. Losing one only makes this node believe Redis.
#[derive(Debug)]
pub(super) struct Seen(Cache<Key, Mark>);

impl Seen {
    pub(super) fn new(topics: usize) -> Self {
        Self(Cache::new(topics))
    }

    pub(super) fn mark(&self, key: &Key) -> Option<Mark> {
        self.0.get(key)
    }

    /// Takes what Redis has answered. Answers may come in another order than they were given.
    pub(super) fn note(&self, key: &Key, mark: Mark) {
        let is_news = self.0.get(key).is_none_or(|known| {
            if known.position.epoch == mark.position.epoch {
                known.position.offset < mark.position.offset
            } else {
                known.born < mark.born
            }
        });
        // Not one step with the look above. An older mark that wins this race costs as little as
        // one that is lost.
        if is_news {
            self.0.insert(key.clone(), mark);
        }
    }

    /// Takes a position that another node published. Its epoch says nothing of which came first, so only a known one
    /// moves on.
    pub(super) fn note_published(&self, key: &Key, position: Position) {
        if let Some(known) = self
            .0
            .get(key)
            .filter(|known| known.position.epoch == position.epoch)
        {
            self.note(key, Mark { position, ..known });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{history::Epoch, id::AppId};

    #[test]
    fn a_mark_only_moves_on() {
        let seen = Seen::new(10);
        let key = Key::channel(AppId(0), "c".into());
        let (first, second) = (Epoch::random(), Epoch::random());
        let mark = |epoch, offset, born| Mark {
            position: Position { epoch, offset },
            born,
        };
        seen.note_published(
            &key,
            Position {
                epoch: first,
                offset: 1,
            },
        );
        assert_eq!(
            seen.mark(&key),
            None,
            "of what is unknown, nothing can be said"
        );
        for (noted, expected) in [
            (mark(first, 5, 100), mark(first, 5, 100)),
            (mark(first, 4, 100), mark(first, 5, 100)),
            (mark(first, 6, 100), mark(first, 6, 100)),
            (mark(second, 3, 101), mark(second, 3, 101)),
            (mark(first, 9, 100), mark(second, 3, 101)),
        ] {
            seen.note(&key, noted);
            assert_eq!(seen.mark(&key), Some(expected));
        }
        seen.note_published(
            &key,
            Position {
                epoch: second,
                offset: 8,
            },
        );
        seen.note_published(
            &key,
            Position {
                epoch: second,
                offset: 7,
            },
        );
        seen.note_published(
            &key,
            Position {
                epoch: first,
                offset: 90,
            },
        );
        assert_eq!(seen.mark(&key), Some(mark(second, 8, 101)));
    }
}
