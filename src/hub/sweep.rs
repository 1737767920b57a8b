//! Going through the connections of a selection, shard by shard and slice by slice.

use std::time::Instant;

use smallvec::SmallVec;

use super::{
    Hub,
    connection::{SlotRef, Snapshot, State},
    gate::{Busy, Ticket},
    selection::{Closure, Selection, Source},
    table::Table,
};
use crate::{
    limits::{EASE, EASE_STEP, SLICE, SMALL_DELIVERIES, SWEEP_STRIDE},
    predicate::Verdict,
    protocol::frame::Frame,
};

/// What a sweep saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// Connections evaluated.
    pub(crate) at: u64,
    /// Connections that matched.
    pub(crate) matched: u64,
    /// Evaluations that ended in an error, and so did not match.
    pub(crate) errors: u64,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) looked: Looked,
    pub(crate) queued: u64,
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let looked = Looked {
            at: self.looked.at + other.looked.at,
            matched: self.looked.matched + other.looked.matched,
            errors: self.looked.errors + other.looked.errors,
        };
        Self {
            looked,
            queued: self.queued + other.queued,
        }
    }
}

/// How many connections a selection may mean.
#[derive(Debug)]
pub(crate) enum Reach {
    /// At most [`SMALL_DELIVERIES`]: these, by shard.
    Small(SmallVec<[(usize, Candidates); 4]>),
    /// More: this many at most.
    Large(usize),
}

impl Reach {
    /// The upper bound.
    pub(crate) fn bound(&self) -> usize {
        match self {
            Self::Small(lists) => lists.iter().map(|(_, list)| list.slots.len()).sum(),
            Self::Large(bound) => *bound,
        }
    }
}

/// Who a source gave on one shard.
#[derive(Debug)]
pub(crate) struct Candidates {
    slots: Vec<SlotRef>,
    /// The table's count of changes then: once it moves, any of them may have left what it was found by.
    as_of: u64,
}

impl Candidates {
    fn of(table: &Table, selection: &Selection, source: Source<'_>) -> Self {
        Self {
            slots: table.candidates(selection.app, source),
            as_of: table.changes,
        }
    }
}

/// Where a sweep of one shard stands. Everyone is gone through by slot number, so that nobody is met twice; the
/// candidates of an index are fixed at the start, and each is evaluated again when it is reached.
enum Cursor {
    Members { next: u32 },
    List { found: Candidates, at: usize },
}

type Chunk = SmallVec<[u32; SWEEP_STRIDE]>;
type Refs = SmallVec<[SlotRef; SWEEP_STRIDE]>;

impl Cursor {
    fn open(table: &Table, selection: &Selection) -> Self {
        match selection.source() {
            Source::Everyone => Self::Members { next: 0 },
            source => Self::List {
                found: Candidates::of(table, selection, source),
                at: 0,
            },
        }
    }

    /// The next open connections; empty at the end.
    fn next(&mut self, table: &mut Table, selection: &Selection) -> Chunk {
        let mut chunk = Chunk::new();
        match self {
            Self::Members { next } => {
                // Not by `extend`: a bitmap's iterator counts all that is left when it is asked for its length.
                for slot in table.next_member(selection.app, *next).take(SWEEP_STRIDE) {
                    chunk.push(slot);
                }
                *next = chunk.last().map_or(*next, |last| last + 1);
            }
            Self::List { found, at } => {
                while chunk.is_empty() && *at < found.slots.len() {
                    let end = found.slots.len().min(*at + SWEEP_STRIDE);
                    let present = found.slots[*at..end]
                        .iter()
                        .filter(|&&slot| table.slot(slot).is_some());
                    chunk.extend(present.map(|slot| slot.slot));
                    *at = end;
                }
            }
        }
        chunk
    }

    /// Whether the candidates were found before the table's last change.
    fn is_stale(&self, table: &Table) -> bool {
        matches!(self, Self::List { found, .. } if found.as_of != table.changes)
    }

    /// The next open connections as snapshots; `None` at the end.
    fn snapshots(
        &mut self,
        table: &mut Table,
        selection: &Selection,
    ) -> Option<SmallVec<[(SlotRef, Snapshot); SWEEP_STRIDE]>> {
        let chunk = self.next(table, selection);
        let found = chunk
            .iter()
            .filter_map(|&slot| table.open_snapshot(slot))
            .collect();
        (!chunk.is_empty()).then_some(found)
    }
}

/// Goes on with one shard for one stride, or to its end where `until_end`; true when it is through.
fn stride(
    table: &mut Table,
    selection: &Selection,
    cursor: &mut Cursor,
    until_end: bool,
    looked: &mut Looked,
    visit: &mut impl FnMut(&mut Table, u32),
) -> bool {
    loop {
        let stale = cursor.is_stale(table);
        let chunk = cursor.next(table, selection);
        if chunk.is_empty() {
            return true;
        }
        for slot in chunk {
            let Some((connection, auth)) = table.open_tenant(slot) else {
                continue;
            };
            looked.at += 1;
            let verdict = if stale {
                selection.still_admits(connection)
            } else {
                selection.admits(connection, auth)
            };
            match verdict {
                Verdict::Match => {
                    looked.matched += 1;
                    visit(table, slot);
                }
                Verdict::NoMatch => {}
                Verdict::Error => looked.errors += 1,
            }
        }
        if !until_end {
            return false;
        }
    }
}

impl Hub {
    /// How many connections `selection` may mean at most; if few, which, so that they are looked up once.
    pub(crate) fn reach(&self, selection: &Selection) -> Reach {
        let source = selection.source();
        let mut bound = 0;
        let mut lists = SmallVec::new();
        for (at, shard) in self.shards().iter().enumerate() {
            let list = shard.own(|table| {
                bound += table.count(selection.app, source);
                (bound <= SMALL_DELIVERIES).then(|| Candidates::of(table, selection, source))
            });
            lists.extend(
                list.filter(|list| !list.slots.is_empty())
                    .map(|list| (at, list)),
            );
        }
        if bound <= SMALL_DELIVERIES {
            Reach::Small(lists)
        } else {
            Reach::Large(bound)
        }
    }

    /// Waits for the gate to admit a frame of `bytes` for `reach`; before that, where it is large, for the sockets, see
    /// [`EASE`].
    ///
    /// # Errors
    /// [`Busy`] when the gate stays full; nothing was placed.
    pub(crate) async fn admit(&self, reach: &Reach, bytes: usize) -> Result<Ticket, Busy> {
        if matches!(reach, Reach::Large(_)) && self.is_congested() {
            self.context().metrics.eased.inc();
            let until = Instant::now() + EASE;
            while self.is_congested() && Instant::now() < until {
                tokio::time::sleep(EASE_STEP).await;
            }
        }
        self.gate.admit(reach.bound(), bytes).await
    }

    /// Whether more than half of the node's sockets refuse, and not just a few.
    fn is_congested(&self) -> bool {
        let blocked = self.context().metrics.blocked.get() as usize;
        blocked > SMALL_DELIVERIES && blocked * 2 > self.all_members()
    }

    /// Waits for leave to scan every connection.
    ///
    /// # Errors
    /// [`Busy`] when too many scans run.
    pub(crate) async fn leave_to_scan(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Busy> {
        self.gate.scan().await
    }

    /// Places a small publication at once, without yielding.
    pub(crate) fn place_small(
        &self,
        selection: &Selection,
        lists: SmallVec<[(usize, Candidates); 4]>,
        frame: &Frame,
        ticket: &Ticket,
    ) -> Counts {
        let mut counts = Counts::default();
        for (at, found) in lists {
            let mut cursor = Cursor::List { found, at: 0 };
            let Counts { looked, queued } = &mut counts;
            self.shard(at).with(|table| {
                stride(
                    table,
                    selection,
                    &mut cursor,
                    true,
                    looked,
                    &mut |table, slot| {
                        *queued += u64::from(table.place(slot, frame, ticket));
                    },
                )
            });
        }
        self.placed(counts, ticket)
    }

    /// Places a large publication, slice by slice, yielding between slices.
    ///
    /// Not cancel-safe: dropped half-way it has reached some connections and not others; run it in a task.
    pub(crate) async fn place_large(
        &self,
        selection: &Selection,
        frame: &Frame,
        ticket: &Ticket,
    ) -> Counts {
        if selection.is_for_all() {
            return self.place_for_all(selection, frame, ticket).await;
        }
        let mut queued = 0;
        let looked = self
            .sweep(selection, |table, slot| {
                queued += u64::from(table.place(slot, frame, ticket));
            })
            .await;
        self.placed(Counts { looked, queued }, ticket)
    }

    /// Places a publication for whom [`Hub::reach`] found.
    ///
    /// Not cancel-safe, as [`Hub::place_large`].
    pub(crate) async fn place_reach(
        &self,
        selection: &Selection,
        reach: Reach,
        frame: &Frame,
        ticket: &Ticket,
    ) -> Counts {
        match reach {
            Reach::Small(lists) => self.place_small(selection, lists, frame, ticket),
            Reach::Large(_) => self.place_large(selection, frame, ticket).await,
        }
    }

    pub(super) fn placed(&self, counts: Counts, ticket: &Ticket) -> Counts {
        self.settle_ticket(ticket, counts.queued);
        counts
    }

    /// Gives back what `ticket` holds beyond what was `queued`, and keeps the node within its bound of refused bytes.
    pub(crate) fn settle_ticket(&self, ticket: &Ticket, queued: u64) {
        ticket.correct(queued as usize);
        self.shed();
    }

    /// Visits every connection of `selection`, each once, yielding between slices.
    pub(crate) async fn sweep(
        &self,
        selection: &Selection,
        mut visit: impl FnMut(&mut Table, u32),
    ) -> Looked {
        let mut looked = Looked::default();
        for shard in self.shards() {
            let mut cursor = shard.own(|table| Cursor::open(table, selection));
            let mut until = Instant::now() + SLICE;
            // The lock is let go after every stride, so that a small publication need not wait for a slice.
            while !shard.with(|table| {
                stride(
                    table,
                    selection,
                    &mut cursor,
                    false,
                    &mut looked,
                    &mut visit,
                )
            }) {
                if Instant::now() >= until {
                    tokio::task::yield_now().await;
                    until = Instant::now() + SLICE;
                }
            }
        }
        looked
    }

    /// Places a publication for the connections that a Rust closure picks from `selection`.
    ///
    /// The closure runs on snapshots, outside every lock; if it panics for a connection, that counts as an error
    /// of this connection. Not cancel-safe, as [`Hub::place_large`].
    pub(crate) async fn place_where(
        &self,
        selection: &Selection,
        closure: &Closure,
        frame: &Frame,
        ticket: &Ticket,
    ) -> Counts {
        let mut counts = Counts::default();
        for shard in self.shards() {
            let mut cursor = shard.own(|table| Cursor::open(table, selection));
            let mut until = Instant::now() + SLICE;
            while let Some(chunk) = shard.own(|table| cursor.snapshots(table, selection)) {
                let picked = pick(chunk, closure, &mut counts);
                counts.queued += shard.with(|table| {
                    let mut queued = 0;
                    for at in picked
                        .into_iter()
                        .filter(|&at| table.state(at) == State::Open)
                        .collect::<Refs>()
                    {
                        queued += u64::from(table.place(at.slot, frame, ticket));
                    }
                    queued
                });
                if Instant::now() >= until {
                    tokio::task::yield_now().await;
                    until = Instant::now() + SLICE;
                }
            }
        }
        self.placed(counts, ticket)
    }

    /// A page of `app`'s connections in the order of shards and slots, from `from` on; and where the next begins.
    pub(crate) async fn page(
        &self,
        selection: &Selection,
        from: (usize, u32),
        limit: usize,
    ) -> (Vec<Snapshot>, Option<(usize, u32)>) {
        let mut page = Vec::new();
        for (at, shard) in self.shards().iter().enumerate().skip(from.0) {
            let mut cursor = Cursor::Members {
                next: if at == from.0 { from.1 } else { 0 },
            };
            loop {
                let mut found: SmallVec<[Snapshot; SWEEP_STRIDE]> = SmallVec::new();
                let more = shard.own(|table| {
                    let chunk = cursor.next(table, selection);
                    found.extend(
                        chunk
                            .iter()
                            .filter_map(|&slot| table.open_connection(slot).cloned()),
                    );
                    !chunk.is_empty()
                });
                for connection in found {
                    if !selection.matches_whole(&connection) {
                        continue;
                    }
                    if page.len() == limit {
                        return (page, Some((at, connection.id().slot)));
                    }
                    page.push(connection);
                }
                if !more {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        (page, None)
    }
}

fn pick(
    chunk: SmallVec<[(SlotRef, Snapshot); SWEEP_STRIDE]>,
    closure: &Closure,
    counts: &mut Counts,
) -> Refs {
    let mut picked = Refs::new();
    for (at, connection) in chunk {
        counts.looked.at += 1;
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| closure(&connection))) {
            Ok(true) => {
                counts.looked.matched += 1;
                picked.push(at);
            }
            Ok(false) => {}
            Err(_) => counts.looked.errors += 1,
        }
    }
    picked
}
