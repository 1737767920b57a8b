//! One topic: its numbering, and the newest run of its events.

use std::{collections::VecDeque, ops::Range, time::Duration};

use crate::{
    history::{Entry, Epoch, Omit, Position, Reader, ages::AgePlace},
    limits::{HISTORY_CONFIRMERS, HISTORY_EVENT_BYTES, HISTORY_NAME_BYTES},
};

/// A stored event, and how it is found by age.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) entry: Entry,
    /// [`Entry::bytes`], which takes a look at every name.
    pub(super) bytes: usize,
    /// When it is past its time, as an age of the store; in a log never earlier than of one before it.
    pub(super) until: Duration,
    pub(super) place: AgePlace,
}

impl Held {
    pub(super) fn weight(&self) -> usize {
        weight(self.bytes, self.entry.omit.as_deref())
    }
}

/// What an event of `bytes` counts for against the bound on all topics, with whom it leaves out.
pub(in crate::history) fn weight(bytes: usize, omit: Option<&Omit>) -> usize {
    bytes + HISTORY_EVENT_BYTES + omit.map_or(0, Omit::names) * HISTORY_NAME_BYTES
}

/// A topic: its numbering, and the newest run of its events.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) epoch: Epoch,
    pub(super) newest: u64,
    /// The highest offset that was removed unconfirmed.
    pub(super) lost_to: u64,
    pub(super) entries: VecDeque<Held>,
    /// As [`Entry::bytes`] counts them.
    pub(super) bytes: usize,
    /// Its place in [`MemoryStore::quiet`](super::store::MemoryStore::quiet) while nothing of it is stored.
    pub(super) quiet: Option<u64>,
    /// Readers from whom some of what is stored is withheld.
    pub(super) confirmed: Vec<Confirmed>,
}

/// How far a reader has confirmed from whom some of what is stored is withheld. What is stored up to there is for others, and is
/// not looked at again for it.
#[derive(Clone, Copy, Debug)]
pub(in crate::history) struct Confirmed {
    /// The reader, by a hash.
    pub(in crate::history) who: u64,
    pub(in crate::history) offset: u64,
}

impl Log {
    /// Begins a numbering after `offset`.
    pub(super) fn after(offset: u64) -> Self {
        Self {
            epoch: Epoch::random(),
            newest: offset,
            lost_to: offset,
            entries: VecDeque::new(),
            bytes: 0,
            quiet: None,
            confirmed: Vec::new(),
        }
    }

    pub(super) fn position(&self) -> Position {
        Position {
            epoch: self.epoch,
            offset: self.newest,
        }
    }

    /// Gives back room. A crowd of users who once had much waiting must not hold the room for it ever after.
    pub(super) fn trim(&mut self) {
        if self.entries.is_empty() {
            self.confirmed = Vec::new();
        }
        // The two factors are apart, or a topic that grows and shrinks would be copied each time.
        if self.entries.capacity() > 16 + 4 * self.entries.len() {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// The run that is stored now after `offset`.
    pub(super) fn run_after(&self, offset: u64) -> Run {
        Run {
            epoch: self.epoch,
            // Nothing is stored up to what was removed unconfirmed.
            after: offset.max(self.lost_to),
            end: self.newest,
        }
    }

    /// The entries that are stored after `offset`.
    pub(super) fn later(&self, offset: u64) -> impl ExactSizeIterator<Item = &Entry> {
        let seen = self
            .entries
            .partition_point(|held| held.entry.offset <= offset);
        self.entries.range(seen..).map(|held| &held.entry)
    }

    /// The entries up to `offset` that are to be looked at when the reader `who` confirms them.
    pub(super) fn unconfirmed(&self, offset: u64, who: u64) -> Range<usize> {
        let up_to = |offset| {
            let is_before = |held: &Held| held.entry.offset <= offset;
            self.entries.partition_point(is_before)
        };
        let known = self.confirmed.iter().find(|known| known.who == who);
        let start = known.map_or(0, |known| up_to(known.offset));
        start..up_to(offset).max(start)
    }

    /// Moves what `reader` confirms up to `offset` after what stays up to there. Returns its range.
    pub(super) fn gather_confirmed(
        &mut self,
        offset: u64,
        (reader, who): (&Reader<'_>, u64),
    ) -> Range<usize> {
        let Range { start, end } = self.unconfirmed(offset, who);
        let mut first = start;
        for at in start..end {
            if !self.entries[at].entry.is_for(reader) {
                self.entries.swap(first, at);
                first += 1;
            }
        }

        // From most readers nothing is withheld, and nothing has to be remembered. An older confirmation says nothing new.
        if first > 0 && end > start {
            self.confirmed.retain(|known| known.who != who);
            if self.confirmed.len() == HISTORY_CONFIRMERS {
                self.confirmed.remove(0);
            }
            // A client may confirm what is yet to come, which says nothing of it.
            self.confirmed.push(Confirmed {
                who,
                offset: offset.min(self.newest),
            });
        }

        first..end
    }

    /// Whether nothing but what was confirmed is missing after `offset` of `epoch`.
    pub(super) fn proves(&self, epoch: Option<&str>, offset: u64) -> bool {
        // A client that names no epoch is taken to mean the present one.
        let same = epoch.is_none_or(|epoch| epoch.parse() == Ok(self.epoch));
        same && (self.lost_to..=self.newest).contains(&offset)
    }
}

/// Entries of a topic that are being copied: those stored now with offsets after `after`, up to `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::history) struct Run {
    pub(in crate::history) epoch: Epoch,
    pub(in crate::history) after: u64,
    pub(in crate::history) end: u64,
}

/// How far copying a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    All,
    More,
    /// Some of it were removed before they were copied.
    Removed,
}
