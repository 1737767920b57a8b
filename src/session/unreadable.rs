//! Messages that cannot be read at all.

use crate::{
    limits::{UNREADABLE_FORGOTTEN, UNREADABLE_ROW},
    rates::Moment,
};

/// Counts messages in a row that cannot be read. One is forgotten now and then: so a library whose heartbeat is the
/// text `ping` learns that this is not a message, and stays.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    row: u8,
    last: Moment,
}

impl Unreadable {
    /// Notes one; true if there were too many.
    pub(super) fn note(&mut self) -> bool {
        self.note_at(Moment::now())
    }

    /// Notes that a message could be read.
    pub(super) fn end_row(&mut self) {
        self.row = 0;
    }

    fn note_at(&mut self, now: Moment) -> bool {
        let waited = u128::from(now.since(self.last));
        let forgotten = waited / UNREADABLE_FORGOTTEN.as_millis();
        self.row = self
            .row
            .saturating_sub(u8::try_from(forgotten).unwrap_or(u8::MAX))
            .saturating_add(1);
        self.last = now;
        self.row >= UNREADABLE_ROW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_too_much_and_a_heartbeat_or_a_good_message_between_is_not() {
        let now = Moment::now();
        let mut unreadable = Unreadable::default();
        for n in 1..UNREADABLE_ROW {
            assert!(!unreadable.note_at(now), "{n}");
        }
        assert!(unreadable.note_at(now));

        unreadable.end_row();
        for n in 1..UNREADABLE_ROW {
            assert!(!unreadable.note_at(now), "{n}");
        }

        let mut heartbeat = Unreadable::default();
        let every = UNREADABLE_FORGOTTEN.as_millis() as u32;
        for n in 0..1000 {
            assert!(!heartbeat.note_at(now.later(n * every)), "{n}");
        }
    }
}
