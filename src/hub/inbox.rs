//! What one connection has been given of its user's stored events, and whether that is all there is.

use std::collections::VecDeque;

use crate::history::{Epoch, Position, Waiting};

/// What one connection has been given of its user's stored events.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// The numbering of what it was given; none where the user had none.
    epoch: Option<Epoch>,
    /// Offset up to which everything was placed that is for it.
    placed: u64,
    /// The offsets after which the pings that are out were placed, in order.
    asked: VecDeque<u64>,
    /// Pings that no pong has come for. There are more of them than offsets where what they asked for was forgotten in the meantime.
    unanswered: usize,
    /// An event was thrown away, or nobody can say whether one was missed: nothing after it may be confirmed.
    broken: bool,
    suspected_gap: Option<SuspectedGap>,
}

/// Events may be missing after what was placed. Nothing more is placed until the store was asked.
#[derive(Clone, Copy, Debug)]
struct SuspectedGap {
    /// Which of the node's doubts it is, the last where there are several. What the store said before it is no answer to it.
    number: u64,
    /// Newest offset that was held back.
    held: u64,
}

/// What becomes of an event that has just come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is the next.
    Next,
    /// It was placed before.
    Before,
    /// Something is missing before it: it is handed over with that.
    Later,
}

/// What a connection has missed, by what the store said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is not in doubt.
    Nothing,
    /// What is stored after this offset; and whether that is all.
    After(u64, bool),
    /// Nobody knows.
    Unknown,
}

impl Inbox {
    /// Notes that an event was thrown away before it was written.
    pub(super) fn lose(&mut self) {
        self.broken = true;
        self.suspected_gap = None;
    }

    /// Notes that events may be missing from now on. Of a broken one nothing is confirmed anyway, and all that is missing
    /// waits for the next connection.
    pub(super) fn suspected_gap(&mut self, number: u64) {
        if !self.broken {
            let held = self
                .suspected_gap
                .map_or(0, |suspected_gap| suspected_gap.held);
            self.suspected_gap = Some(SuspectedGap { number, held });
        }
    }

    /// Whether nothing more is placed until the store was asked.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspected_gap.is_some()
    }

    /// Whether what is asked may be confirmed.
    pub(super) fn is_sure(&self) -> bool {
        !self.broken && self.suspected_gap.is_none()
    }

    /// Decides about a live event, and notes it. With `may_ask`, one that does not follow what was placed is held back.
    pub(super) fn receive(&mut self, position: Position, may_ask: bool) -> Turn {
        let Position { epoch, offset } = position;
        // Held back, but not lost: the store is asked for it, and for what is missing before it.
        if let Some(suspected_gap) = &mut self.suspected_gap {
            suspected_gap.held = suspected_gap.held.max(offset);
            return Turn::Later;
        }

        let is_same = self.epoch == Some(epoch);
        if offset <= self.placed {
            // Of another numbering, nobody can say whether it was given.
            self.broken |= !is_same;
            return Turn::Before;
        }

        // Over several nodes an event may come before an older one, or the older one was missed.
        if may_ask && is_same && offset > self.placed + 1 && !self.broken {
            self.suspected_gap = Some(SuspectedGap {
                // No doubt of the node's: any answer of the store that has the event ends it.
                number: 0,
                held: offset,
            });
            return Turn::Later;
        }

        (self.epoch, self.placed) = (Some(epoch), offset);
        Turn::Next
    }

    /// Judges what the store said after doubt number `seen`. `in_turn`: nothing can have come in the meantime.
    pub(super) fn judge(&self, waiting: &Waiting, seen: u64, in_turn: bool) -> Missing {
        let Some(suspected_gap) = self.suspected_gap else {
            return Missing::Nothing;
        };

        let is_proven = match (waiting.position, self.epoch) {
            (Some(now), Some(epoch)) => now.epoch == epoch && now.offset >= self.placed,
            (Some(_), None) => self.placed == 0,
            // Where there is nothing at all, nothing can be missing that is to be had.
            (None, _) => waiting.entries.is_empty(),
        };

        let has_held = waiting
            .position
            .is_none_or(|now| now.offset >= suspected_gap.held);
        if !is_proven || (in_turn && !has_held) {
            return Missing::Unknown;
        }
        Missing::After(self.placed, has_held && suspected_gap.number <= seen)
    }

    /// Goes on from where the store stands, and is no longer in doubt if that `is_all`. True if pings were out then: what they
    /// asked for is to be asked for again, as they may have been answered in vain.
    pub(super) fn go_on(&mut self, waiting: &Waiting, is_all: bool) -> bool {
        self.stand(waiting);
        if !is_all {
            return false;
        }
        self.suspected_gap = None;
        let was_asked = !self.asked.is_empty();
        // The pings may have been answered while nothing could be confirmed.
        self.asked.clear();
        was_asked
    }

    /// Gives up what is missing until the next connection; what is live goes on.
    pub(super) fn give_up(&mut self, position: Option<Position>) {
        self.lose();
        if let Some(now) = position {
            (self.epoch, self.placed) = (Some(now.epoch), now.offset);
        }
    }

    /// Notes that everything was placed that waits.
    pub(super) fn stand(&mut self, waiting: &Waiting) {
        let last = waiting.entries.last().map_or(0, |last| last.offset);
        if let Some(now) = waiting.position {
            self.epoch = Some(now.epoch);
            self.placed = self.placed.max(now.offset);
        }
        self.placed = self.placed.max(last);
    }

    /// Notes that `offset` was placed; true if its confirmation is to be asked for now.
    pub(super) fn asks(&mut self, offset: u64) -> bool {
        self.placed = self.placed.max(offset);
        let asks = self.asked.is_empty() && self.is_sure();
        if asks {
            self.ask(self.placed);
        }
        asks
    }

    /// Notes that a ping goes out after `offset`.
    pub(super) fn ask(&mut self, offset: u64) {
        self.asked.push_back(offset);
        self.unanswered += 1;
    }

    /// Takes note of a pong, whatever it answers; false if no ping was out for it.
    pub(super) fn hear_pong(&mut self) -> bool {
        let was_asked = self.unanswered > 0;
        self.unanswered = self.unanswered.saturating_sub(1);
        was_asked
    }

    /// Offset up to which everything was placed.
    pub(super) fn placed(&self) -> u64 {
        self.placed
    }

    /// The newest offset that a ping is out for and that may be confirmed.
    pub(super) fn open_question(&self) -> Option<u64> {
        self.asked.back().copied().filter(|_| self.is_sure())
    }

    /// Takes the answer to the ping after `offset`: false if that confirms nothing.
    pub(super) fn answered(&mut self, offset: u64) -> bool {
        let known = self
            .asked
            .iter()
            .position(|asked| *asked == offset)
            .filter(|_| self.is_sure());
        // A client that answers one has had those before it, and need not answer them (RFC 6455, section 5.5.3).
        let answered = known.map(|known| self.asked.drain(..=known)).is_some();
        if answered {
            self.unanswered = self.unanswered.min(self.asked.len());
        }
        answered
    }

    /// Whether a ping is out.
    pub(super) fn is_asked(&self) -> bool {
        !self.asked.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, offset: u64) -> Position {
        Position {
            epoch: Epoch::of(epoch),
            offset,
        }
    }

    fn store(position: Option<Position>) -> Waiting {
        Waiting {
            position,
            entries: Vec::new(),
        }
    }

    /// One that stands at offset 5 of epoch 1.
    fn inbox() -> Inbox {
        let mut inbox = Inbox::default();
        inbox.stand(&store(Some(at(1, 5))));
        inbox
    }

    #[test]
    fn what_comes_next_is_placed_what_came_is_not_and_what_came_too_early_waits() {
        let mut inbox = inbox();
        assert_eq!(inbox.receive(at(1, 5), true), Turn::Before);
        assert_eq!(inbox.receive(at(1, 6), true), Turn::Next);
        assert!(inbox.asks(6) && !inbox.asks(6));
        assert_eq!(inbox.receive(at(1, 8), true), Turn::Later);
        assert_eq!(inbox.receive(at(1, 9), true), Turn::Later);
        assert!(!inbox.answered(6), "nobody knows yet what is missing");
        assert_eq!(
            inbox.judge(&store(Some(at(1, 8))), 0, false),
            Missing::After(6, false)
        );
        assert_eq!(
            inbox.judge(&store(Some(at(1, 8))), 0, true),
            Missing::Unknown,
            "it has lost 9"
        );
        assert_eq!(
            inbox.judge(&store(Some(at(1, 9))), 0, false),
            Missing::After(6, true)
        );
        assert!(!inbox.go_on(&store(Some(at(1, 8))), false) && inbox.is_suspect());
        assert!(inbox.go_on(&store(Some(at(1, 9))), true), "6 was asked for");
        assert_eq!(inbox.receive(at(1, 10), true), Turn::Next);
        assert!(inbox.asks(10) && inbox.answered(10) && !inbox.answered(6));
    }

    #[test]
    fn a_pong_is_asked_for_once_whatever_it_confirms() {
        let mut inbox = inbox();
        for offset in [6, 7, 8] {
            inbox.ask(offset);
        }
        inbox.suspected_gap(1);
        assert!(inbox.hear_pong() && !inbox.answered(6), "it is in doubt");
        assert!(inbox.go_on(&store(Some(at(1, 9))), true));
        assert!(inbox.hear_pong() && inbox.hear_pong(), "7 and 8");
        assert!(!inbox.hear_pong());

        for offset in [10, 11, 12] {
            inbox.ask(offset);
        }
        assert!(inbox.hear_pong() && inbox.answered(11));
        assert!(
            inbox.hear_pong() && inbox.answered(12),
            "10 needs no answer"
        );
        assert!(!inbox.hear_pong());
    }

    #[test]
    fn where_nobody_fetches_nothing_waits_for_it() {
        assert_eq!(inbox().receive(at(1, 8), false), Turn::Next);
    }

    #[test]
    fn an_answer_from_before_a_gap_says_nothing_of_it() {
        let mut inbox = inbox();
        inbox.suspected_gap(3);
        assert_eq!(
            inbox.judge(&store(Some(at(1, 6))), 2, true),
            Missing::After(5, false)
        );
        assert_eq!(
            inbox.judge(&store(Some(at(1, 6))), 3, true),
            Missing::After(5, true)
        );
    }

    #[test]
    fn another_numbering_proves_nothing() {
        let mut inbox = inbox();
        inbox.suspected_gap(1);
        for unproven in [at(2, 9), at(1, 4)] {
            assert_eq!(
                inbox.judge(&store(Some(unproven)), 1, false),
                Missing::Unknown,
                "{unproven:?}"
            );
        }
        assert_eq!(
            inbox.judge(&store(None), 1, false),
            Missing::After(5, true),
            "nothing is kept"
        );
        inbox.give_up(Some(at(2, 9)));
        assert_eq!(inbox.receive(at(2, 9), true), Turn::Before);
        assert_eq!(inbox.receive(at(2, 10), true), Turn::Next);
        assert!(!inbox.asks(10), "what is behind a loss is not asked for");
        inbox.suspected_gap(2);
        assert!(!inbox.is_suspect(), "there is nothing to find out");
    }

    #[test]
    fn a_user_who_had_nothing_gets_all_of_the_first_numbering() {
        let mut inbox = Inbox::default();
        inbox.stand(&store(None));
        inbox.suspected_gap(1);
        assert_eq!(
            inbox.judge(&store(Some(at(1, 9))), 1, false),
            Missing::After(0, true)
        );
        let mut other = Inbox::default();
        assert_eq!(
            other.receive(at(1, 7), true),
            Turn::Next,
            "a numbering may begin anywhere"
        );
        assert_eq!(
            other.receive(at(2, 9), true),
            Turn::Next,
            "and so may the one after it"
        );
        assert_eq!(other.receive(at(3, 9), true), Turn::Before);
        assert!(!other.is_sure(), "nobody knows whether that was it");
    }
}
