//! Loss, repetition and order of streams, each on each connection.

use std::collections::HashMap;

/// Sequence numbers of one track that were passed over and that may still come.
const GAPS_KEPT: usize = 1 << 16;

/// What has come of each track; a track is a stream on a connection.
///
/// Four bytes each, since every event looks at one: gaps are rare, and kept elsewhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracks {
    /// By track: the number that should come next.
    next: Vec<u32>,
    /// By track: numbers below the next one that have not come.
    missing: HashMap<usize, Vec<u32>>,
}

/// What one arrival means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing is wrong, as far as is known.
    New,
    /// A later one came before it.
    Reordered,
    /// It came before.
    Duplicate,
}

impl Tracks {
    /// So many, of which nothing has come.
    pub(crate) fn new(count: usize) -> Self {
        Self {
            next: vec![0; count],
            missing: HashMap::new(),
        }
    }

    /// Notes an arrival.
    pub(crate) fn note(&mut self, track: usize, sequence: u32) -> Arrival {
        let next = &mut self.next[track];
        if sequence == *next {
            *next += 1;
            return Arrival::New;
        }
        self.note_gap(track, sequence)
    }

    #[cold]
    fn note_gap(&mut self, track: usize, sequence: u32) -> Arrival {
        let missing = self.missing.entry(track).or_default();
        let next = &mut self.next[track];
        if sequence >= *next {
            let room = GAPS_KEPT.saturating_sub(missing.len());
            missing.extend((*next..sequence).take(room));
            *next = sequence + 1;
            return Arrival::New;
        }
        match missing.iter().position(|&missing| missing == sequence) {
            Some(at) => {
                missing.swap_remove(at);
                Arrival::Reordered
            }
            None => Arrival::Duplicate,
        }
    }

    /// How many of the first `sent` never came.
    pub(crate) fn lost(&self, track: usize, sent: u32) -> u64 {
        let passed_over = self.missing_where(track, |missing| missing < sent);
        passed_over + u64::from(sent.saturating_sub(self.next[track]))
    }

    /// How many came beyond the first `sent`.
    pub(crate) fn surplus(&self, track: usize, sent: u32) -> u64 {
        let passed_over = self.missing_where(track, |missing| missing >= sent);
        u64::from(self.next[track].saturating_sub(sent)).saturating_sub(passed_over)
    }

    fn missing_where(&self, track: usize, counts: impl Fn(u32) -> bool) -> u64 {
        let missing = self.missing.get(&track);
        missing.map_or(0, |missing| {
            missing.iter().filter(|&&missing| counts(missing)).count() as u64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival::*, *};

    #[test]
    fn loss_repetition_and_order_are_told_apart() {
        let mut tracks = Tracks::new(2);
        let seen: Vec<_> = [0, 1, 4, 3, 3, 1, 5].map(|n| tracks.note(1, n)).to_vec();
        assert_eq!(seen, [New, New, New, Reordered, Duplicate, Duplicate, New]);
        assert_eq!(tracks.lost(1, 6), 1, "2 never came");
        assert_eq!(tracks.lost(1, 8), 3, "nor did the last two");
        assert_eq!(
            (tracks.lost(1, 1), tracks.surplus(1, 1)),
            (0, 4),
            "1, 3, 4 and 5 were not for it"
        );
        assert_eq!(
            (tracks.lost(0, 1), tracks.surplus(0, 0)),
            (1, 0),
            "the other is as it was"
        );
    }
}
