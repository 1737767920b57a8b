//! Where a sweep of one shard stands.

use smallvec::SmallVec;

use super::{
    Shard,
    connection::{SlotRef, Snapshot},
    selection::{Selection, Source},
    table::Table,
};
use crate::limits::{NAMES_LOOK, SMALL_DELIVERIES, SWEEP_STRIDE};

/// Some slots of a shard.
pub(super) type Chunk = SmallVec<[u32; SWEEP_STRIDE]>;

/// The connections that a source named on one shard, each once and in the order of slots.
///
/// A set of slots takes a few microseconds to make, however many they are: an index has it nearly ready. A slot may have
/// another tenant by the time it is reached.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    slots: roaring::RoaringBitmap,
    /// The table's count of changes then: once it moves, any of them may have left what it was found by.
    as_of: u64,
}

impl Candidates {
    /// Looks up what the source of `selection` names, a few names under each hold of the lock, and adds to `bound` how many
    /// that may be. Beyond [`SMALL_DELIVERIES`] in all, with `only_few`, they are only counted.
    pub(super) fn find(
        shard: &Shard,
        selection: &Selection,
        only_few: bool,
        bound: &mut usize,
    ) -> Self {
        let mut found = Self::default();
        let mut names = selection.source().names();
        let mut is_first = true;
        loop {
            let looked = shard.own(|table| {
                if std::mem::take(&mut is_first) {
                    found.as_of = table.changes;
                }
                let mut looked = 0;
                for name in names.by_ref().take(NAMES_LOOK) {
                    looked += 1;
                    *bound += table.count(selection.app, name);
                    if !only_few || *bound <= SMALL_DELIVERIES {
                        table.collect(selection.app, name, &mut found.slots);
                    }
                }
                looked
            });
            if looked < NAMES_LOOK {
                return found;
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Where a sweep of one shard stands. It goes by slot number, so that nobody is met twice. The candidates of an index are
/// found at the start, and each is evaluated whole when it is reached if anything has changed since.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Everyone of the app, if absent.
    found: Option<Candidates>,
    next: u32,
}

impl Cursor {
    /// Begins with everyone whom `selection` may mean.
    pub(super) fn open(shard: &Shard, selection: &Selection) -> Self {
        match selection.source() {
            Source::Everyone => Self::everyone(0),
            _ => Candidates::find(shard, selection, false, &mut 0).into(),
        }
    }

    /// Begins with everyone of the app from slot `next` on.
    pub(super) fn everyone(next: u32) -> Self {
        Self { found: None, next }
    }

    /// The next slots; empty at the end. Some may be free by now.
    pub(super) fn next(&mut self, table: &Table, selection: &Selection) -> Chunk {
        let mut chunk = Chunk::new();
        // Not by `extend`: a bitmap's iterator counts all that is left when it is asked for its length.
        match &self.found {
            None => {
                for slot in table
                    .next_member(selection.app, self.next)
                    .take(SWEEP_STRIDE)
                {
                    chunk.push(slot);
                }
            }
            Some(found) => {
                for slot in found.slots.range(self.next..).take(SWEEP_STRIDE) {
                    chunk.push(slot);
                }
            }
        }
        self.next = chunk.last().map_or(self.next, |last| last + 1);
        chunk
    }

    /// Goes back to right after `slot`, which is one of the last chunk.
    pub(super) fn go_back_to(&mut self, slot: u32) {
        self.next = slot + 1;
    }

    /// An upper bound of how many are left.
    pub(super) fn bound(&self) -> usize {
        self.found.as_ref().map_or(usize::MAX, |found| {
            found.slots.range_cardinality(self.next..) as usize
        })
    }

    /// Whether nothing is left, as far as that is known without looking at the table.
    pub(super) fn is_at_end(&self) -> bool {
        self.found
            .as_ref()
            .is_some_and(|found| found.slots.range(self.next..).next().is_none())
    }

    /// Whether the candidates were found before the table's last change.
    pub(super) fn is_stale(&self, table: &Table) -> bool {
        self.found
            .as_ref()
            .is_some_and(|found| found.as_of != table.changes)
    }

    /// The next open connections as snapshots; `None` at the end.
    pub(super) fn snapshots(
        &mut self,
        table: &Table,
        selection: &Selection,
    ) -> Option<SmallVec<[(SlotRef, Snapshot); SWEEP_STRIDE]>> {
        let chunk = self.next(table, selection);
        let found = chunk
            .iter()
            .filter_map(|&slot| table.open_snapshot(slot))
            .filter(|(_, connection)| connection.app == selection.app)
            .collect();
        (!chunk.is_empty()).then_some(found)
    }
}

impl From<Candidates> for Cursor {
    fn from(found: Candidates) -> Self {
        Self {
            found: Some(found),
            next: 0,
        }
    }
}
