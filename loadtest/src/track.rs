//! Loss, repetition and order of one stream on one connection.

/// Sequence numbers that were passed over and that may still come.
const GAPS_KEPT: usize = 1 << 16;

/// What has come of a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Track {
    next: u32,
    missing: Vec<u32>,
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

impl Track {
    /// Notes an arrival.
    pub(crate) fn note(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            let room = GAPS_KEPT.saturating_sub(self.missing.len());
            self.missing.extend((self.next..sequence).take(room));
            self.next = sequence + 1;
            return Arrival::New;
        }
        match self.missing.iter().position(|&missing| missing == sequence) {
            Some(at) => {
                self.missing.swap_remove(at);
                Arrival::Reordered
            }
            None => Arrival::Duplicate,
        }
    }

    /// How many of the first `sent` never came.
    pub(crate) fn lost(&self, sent: u32) -> u64 {
        self.missing_where(|missing| missing < sent) + u64::from(sent.saturating_sub(self.next))
    }

    /// How many came beyond the first `sent`.
    pub(crate) fn surplus(&self, sent: u32) -> u64 {
        u64::from(self.next.saturating_sub(sent)) - self.missing_where(|missing| missing >= sent)
    }

    fn missing_where(&self, counts: impl Fn(u32) -> bool) -> u64 {
        self.missing.iter().filter(|&&missing| counts(missing)).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::{Arrival::*, *};

    #[test]
    fn loss_repetition_and_order_are_told_apart() {
        let mut track = Track::default();
        let seen: Vec<_> = [0, 1, 4, 3, 3, 1, 5].map(|n| track.note(n)).to_vec();
        assert_eq!(seen, [New, New, New, Reordered, Duplicate, Duplicate, New]);
        assert_eq!(track.lost(6), 1, "2 never came");
        assert_eq!(track.lost(8), 3, "nor did the last two");
        assert_eq!((track.lost(1), track.surplus(1)), (0, 4), "1, 3, 4 and 5 were not for it");
    }
}
