//! How far a scan of one shard is.

use smallvec::SmallVec;

use super::{
    Shard,
    connection::{SlotRef, Snapshot},
    selection::{Name, Selection, Source},
    table::Table,
};
use crate::{
    id::AppId,
    limits::{NAMED_AS_ONE, NAMES_LOOK, SCAN_CHUNK, SMALL_DELIVERIES},
    time_slice::TimeSlice,
};

/// Some slots of a shard.
pub(super) type Chunk = SmallVec<[u32; SCAN_CHUNK]>;

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
    /// that may be. Beyond [`SMALL_DELIVERIES`] in all they are only counted.
    pub(super) fn find_few(shard: &Shard, selection: &Selection, bound: &mut usize) -> Self {
        let mut search = Search::new(selection);
        while shard.lock(|table| {
            search.go_on(table, |found| {
                *bound += found;
                *bound <= SMALL_DELIVERIES
            })
        }) {}
        search.found
    }

    /// Looks up all that the source of `selection` names, and lets other tasks run between two holds of the lock.
    async fn find_all(shard: &Shard, selection: &Selection) -> Self {
        let (mut search, mut slice) = (Search::new(selection), TimeSlice::begin());
        while shard.lock(|table| search.go_on(table, |_| true)) {
            slice.rest().await;
        }
        search.found
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Looking up names, which takes several holds of the lock where they are many, or stand for many.
pub(super) struct Search<'s> {
    app: AppId,
    names: Box<dyn Iterator<Item = Name<'s>> + Send + 's>,
    found: Candidates,
    has_begun: bool,
}

impl<'s> Search<'s> {
    pub(super) fn new(selection: &'s Selection) -> Self {
        Self {
            app: selection.app,
            names: selection.source().names(),
            found: Candidates::default(),
            has_begun: false,
        }
    }

    /// Looks up the next names, for as long as one hold of the lock may take. `wants` is given for how many
    /// connections each stands, and says whether they are to be found. False at the end.
    pub(super) fn go_on(&mut self, table: &Table, mut wants: impl FnMut(usize) -> bool) -> bool {
        if !std::mem::replace(&mut self.has_begun, true) {
            // Before the first look: a change in between must make the candidates stale.
            self.found.as_of = table.changes;
        }

        let mut work = 0;
        while work < NAMES_LOOK {
            let Some(name) = self.names.next() else {
                return false;
            };
            let count = table.count(self.app, name);
            // A name costs a little, even if it stands for nobody.
            work += 1;
            if wants(count) {
                table.collect(self.app, name, &mut self.found.slots);
                work += count / NAMED_AS_ONE;
            }
        }

        true
    }
}

/// How far a scan of one shard is. It goes by slot number, so that nobody is met twice. The candidates of an index are
/// found at the start, and each is evaluated whole when it is reached if anything has changed since.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Everyone of the app, if absent.
    found: Option<Candidates>,
    next: u32,
}

impl Cursor {
    /// Begins with everyone whom `selection` may mean.
    pub(super) async fn open(shard: &Shard, selection: &Selection) -> Self {
        match selection.source() {
            Source::Everyone => Self::everyone(0),
            _ => Candidates::find_all(shard, selection).await.into(),
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
                for slot in table.next_member(selection.app, self.next).take(SCAN_CHUNK) {
                    chunk.push(slot);
                }
            }
            Some(found) => {
                for slot in found.slots.range(self.next..).take(SCAN_CHUNK) {
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
    ) -> Option<SmallVec<[(SlotRef, Snapshot); SCAN_CHUNK]>> {
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
