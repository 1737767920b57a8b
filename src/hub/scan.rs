//! Going through the connections of a selection, shard by shard and slice by slice.

#[cfg(test)]
mod tests;

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use smallvec::SmallVec;

use super::{
    Hub,
    admission::{Busy, Permit},
    connection::{PageCursor, SlotRef, Snapshot, State},
    cursor::{Candidates, Cursor},
    scan_limit::ScanPermit,
    selection::{Closure, Selection},
    table::{AppCounts, Table},
};
use crate::{
    filter::{Judged, Verdict},
    id::AppId,
    limits::{BACKPRESSURE_DELAY, BACKPRESSURE_STEP, SCAN_CHUNK, SCAN_WORK, SMALL_DELIVERIES},
    protocol::frame::Frame,
    time_slice::TimeSlice,
};

/// What a scan saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ScanStats {
    /// Connections evaluated.
    pub(crate) evaluated: u64,
    /// Connections that matched.
    pub(crate) matched: u64,
    /// Evaluations that ended in an error, and so did not match.
    pub(crate) errors: u64,
}

/// What became of a publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) scan: ScanStats,
    pub(crate) queued: u64,
}

impl std::ops::Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let scan = ScanStats {
            evaluated: self.scan.evaluated + other.scan.evaluated,
            matched: self.scan.matched + other.scan.matched,
            errors: self.scan.errors + other.scan.errors,
        };
        Self {
            scan,
            queued: self.queued + other.queued,
        }
    }
}

/// How many connections a selection may mean.
#[derive(Debug)]
pub(crate) enum Reach {
    /// There are at most [`SMALL_DELIVERIES`], which are these, by shard.
    Small(Few),
    /// There are more, and at most this many.
    Large(usize),
}

impl Reach {
    /// The upper bound.
    pub(crate) fn bound(&self) -> usize {
        match self {
            Self::Small(few) => few.iter().map(|(_, cursor)| cursor.bound()).sum(),
            Self::Large(bound) => *bound,
        }
    }
}

/// Few candidates, by shard.
pub(crate) type Few = SmallVec<[(usize, Cursor); 4]>;

/// A small publication whose filter took more work than one turn of the thread is for: who is yet to be looked at.
#[derive(Debug)]
pub(crate) struct RemainingScan {
    few: Few,
    /// Which of them is next.
    next: usize,
    counts: Counts,
}

type Refs = SmallVec<[SlotRef; SCAN_CHUNK]>;

/// The work that was done in one go: under one hold of a lock, or in one turn of a thread.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Spent(u32);

impl Spent {
    /// Adds what one step cost; true if another one like it would go beyond [`SCAN_WORK`].
    #[inline]
    pub(super) fn add(&mut self, work: u32) -> bool {
        self.0 = self.0.saturating_add(work);
        self.0.saturating_add(work) > SCAN_WORK
    }
}

/// What one stride came to.
#[derive(Debug)]
struct ScannedChunk {
    /// Whether nothing is left.
    is_through: bool,
    spent: Spent,
}

/// Goes on with one shard for one stride: [`SCAN_CHUNK`] connections, or fewer where the filter, and what `visit` does to
/// those that match, take [`SCAN_WORK`].
///
/// What a visit costs the table itself knows: closing a connection that is in a hundred channels takes as long as placing for
/// ten thousand.
fn scan_chunk(
    table: &mut Table,
    selection: &Selection,
    cursor: &mut Cursor,
    scan: &mut ScanStats,
    visit: &mut impl FnMut(&mut Table, u32),
) -> ScannedChunk {
    let mut spent = Spent::default();
    // It is asked once for the stride: nothing changes under this hold except by `visit` itself.
    let stale = cursor.is_stale(table);
    let chunk = cursor.next(table, selection);
    if chunk.is_empty() {
        let is_through = true;
        return ScannedChunk { is_through, spent };
    }

    // What others have done under holds of their own.
    table.take_work();
    for slot in chunk {
        let Some((connection, auth)) = table.open_tenant(slot) else {
            continue;
        };

        // A slot that has changed hands may be another app's by now.
        if stale && connection.app != selection.app {
            continue;
        }

        scan.evaluated += 1;
        let Judged { verdict, mut work } = if stale {
            selection.still_admits(connection)
        } else {
            selection.admits(connection, auth)
        };

        match verdict {
            Verdict::Match => {
                scan.matched += 1;
                visit(table, slot);
                work = work.saturating_add(table.take_work());
            }
            Verdict::NoMatch => {}
            Verdict::Error => scan.errors += 1,
        }

        if spent.add(work) {
            cursor.go_back_to(slot);
            break;
        }
    }

    let is_through = cursor.is_at_end();
    ScannedChunk { is_through, spent }
}

impl Hub {
    /// How many connections `selection` may mean at most; if few, which, so that they are looked up once.
    pub(crate) fn reach(&self, selection: &Selection) -> Reach {
        let mut bound = 0;
        let mut few = Few::new();
        for (at, shard) in self.shards().iter().enumerate() {
            let found = Candidates::find_few(shard, selection, &mut bound);
            if !found.is_empty() {
                few.push((at, found.into()));
            }
        }

        if bound <= SMALL_DELIVERIES {
            Reach::Small(few)
        } else {
            Reach::Large(bound)
        }
    }

    /// Waits for admission to admit a frame of `bytes` for `reach` in `app`; before that, where it is large, for the app's sockets,
    /// see [`BACKPRESSURE_DELAY`].
    ///
    /// # Errors
    /// [`Busy`] when admission stays full; nothing was placed.
    pub(crate) async fn admit(
        &self,
        app: AppId,
        reach: &Reach,
        bytes: usize,
    ) -> Result<Permit, Busy> {
        if matches!(reach, Reach::Large(_)) && self.is_congested(app) {
            self.context().metrics.backpressure_waits.inc();
            // A short delay slows a flood down to what its sockets take. It does not refuse
            // anything.
            let until = Instant::now() + BACKPRESSURE_DELAY;
            while self.is_congested(app) && Instant::now() < until {
                tokio::time::sleep(BACKPRESSURE_STEP).await;
            }
        }
        self.admission.admit(reach.bound(), bytes).await
    }

    /// Waits for admission as long as it takes: for what has been accepted, and is bounded already.
    pub(crate) async fn admit_in_time(
        &self,
        selection: &Selection,
        bytes: usize,
    ) -> (Reach, Permit) {
        loop {
            // They are looked up again each time, since connections come and go while this waits.
            let reach = self.reach(selection);
            if let Ok(permit) = self.admit(selection.app, &reach, bytes).await {
                return (reach, permit);
            }
        }
    }

    /// Whether more than half of the app's sockets refuse, and not just a few. Takes no lock, since each publication that waits
    /// looks every millisecond.
    pub(super) fn is_congested(&self, app: AppId) -> bool {
        let AppCounts { open, blocked } = &self.context().app(app).counts;
        let blocked = blocked.load(Relaxed);
        blocked > SMALL_DELIVERIES && blocked * 2 > open.load(Relaxed)
    }

    /// Waits for a permit to run `selection`, if it takes one.
    ///
    /// # Errors
    /// [`Busy`] when its app runs as many as it may.
    pub(crate) async fn permit(&self, selection: &Selection) -> Result<Option<ScanPermit>, Busy> {
        if selection.is_scan() || selection.is_heavy() {
            self.permit_to_scan(selection.app).await.map(Some)
        } else {
            Ok(None)
        }
    }

    /// Does what [`Hub::permit`] does, for a publication that reaches `reach`: a light filter that looks at few takes
    /// none.
    ///
    /// # Errors
    /// As [`Hub::permit`].
    pub(crate) async fn permit_to_reach(
        &self,
        selection: &Selection,
        reach: &Reach,
    ) -> Result<Option<ScanPermit>, Busy> {
        match reach {
            Reach::Small(_) if !selection.is_heavy() => Ok(None),
            _ => self.permit(selection).await,
        }
    }

    /// Waits for a permit to look at every connection of `app`.
    ///
    /// # Errors
    /// As [`Hub::permit`].
    pub(crate) async fn permit_to_scan(&self, app: AppId) -> Result<ScanPermit, Busy> {
        self.admission.scan(app).await
    }

    /// Places a small publication immediately, without yielding, unless its filter is heavy: then only as far as one
    /// turn of the thread goes.
    ///
    /// # Errors
    /// The rest, for [`Hub::place_rest`].
    pub(crate) fn place_small(
        &self,
        selection: &Selection,
        few: Few,
        frame: &Frame,
        permit: &Permit,
    ) -> Result<Counts, Box<RemainingScan>> {
        self.context().forms.prepare(selection.app, frame);
        let mut rest = RemainingScan {
            few,
            next: 0,
            counts: Counts::default(),
        };
        if self.place_some(selection, &mut rest, frame, permit) {
            Ok(self.placed(rest.counts, permit))
        } else {
            Err(Box::new(rest))
        }
    }

    /// Places the rest of a small publication, slice by slice, yielding between slices.
    ///
    /// Not cancel-safe, as [`Hub::place_large`].
    pub(crate) async fn place_rest(
        &self,
        selection: &Selection,
        mut rest: Box<RemainingScan>,
        frame: &Frame,
        permit: &Permit,
    ) -> Counts {
        loop {
            tokio::task::yield_now().await;
            if self.place_some(selection, &mut rest, frame, permit) {
                return self.placed(rest.counts, permit);
            }
        }
    }

    /// Goes on with a small publication until its filter has taken [`SCAN_WORK`]; true at the end.
    fn place_some(
        &self,
        selection: &Selection,
        RemainingScan { few, next, counts }: &mut RemainingScan,
        frame: &Frame,
        permit: &Permit,
    ) -> bool {
        let mut work = 0;
        while let Some((at, cursor)) = few.get_mut(*next) {
            if work >= SCAN_WORK {
                return false;
            }
            let Counts { scan, queued } = &mut *counts;
            let chunk = self.shard(*at).lock_and_wake(|table| {
                scan_chunk(table, selection, cursor, scan, &mut |table, slot| {
                    *queued += u64::from(table.place(slot, frame, permit));
                })
            });
            *next += usize::from(chunk.is_through);
            work = chunk.spent.0.saturating_add(work);
        }

        true
    }

    /// Places a large publication, slice by slice, yielding between slices.
    ///
    /// Not cancel-safe: dropped half-way it has reached some connections and not others; run it in a task.
    pub(crate) async fn place_large(
        &self,
        selection: &Selection,
        frame: &Frame,
        permit: &Permit,
    ) -> Counts {
        self.context().forms.prepare(selection.app, frame);
        if selection.is_for_all() {
            return self.place_for_all(selection, frame, permit).await;
        }
        let mut queued = 0;
        let scan = self
            .scan(selection, |table, slot| {
                queued += u64::from(table.place(slot, frame, permit));
            })
            .await;
        self.placed(Counts { scan, queued }, permit)
    }

    /// Places a publication for whom [`Hub::reach`] found.
    ///
    /// Not cancel-safe, as [`Hub::place_large`].
    pub(crate) async fn place_reach(
        &self,
        selection: &Selection,
        reach: Reach,
        frame: &Frame,
        permit: &Permit,
    ) -> Counts {
        match reach {
            Reach::Small(few) => match self.place_small(selection, few, frame, permit) {
                Ok(counts) => counts,
                Err(rest) => self.place_rest(selection, rest, frame, permit).await,
            },
            Reach::Large(_) => self.place_large(selection, frame, permit).await,
        }
    }

    pub(super) fn placed(&self, counts: Counts, permit: &Permit) -> Counts {
        self.settle_permit(permit, counts.queued);
        counts
    }

    /// Gives back what `permit` holds beyond what was `queued`, and keeps the node within its bound of refused bytes.
    pub(crate) fn settle_permit(&self, permit: &Permit, queued: u64) {
        permit.correct(queued as usize);
        self.shed();
    }

    /// Visits every connection of `selection`, each once, yielding between slices.
    pub(crate) async fn scan(
        &self,
        selection: &Selection,
        mut visit: impl FnMut(&mut Table, u32),
    ) -> ScanStats {
        let mut scan = ScanStats::default();
        let mut slice = TimeSlice::begin();
        for shard in self.shards() {
            let mut cursor = Cursor::open(shard, selection).await;
            // The lock is let go after every stride, so that a small publication need not wait for a slice.
            loop {
                let chunk = shard.lock_fairly_and_wake(|table| {
                    scan_chunk(table, selection, &mut cursor, &mut scan, &mut visit)
                });
                slice.rest().await;
                if chunk.is_through {
                    break;
                }
            }
        }

        scan
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
        permit: &Permit,
    ) -> Counts {
        self.context().forms.prepare(selection.app, frame);
        let mut counts = Counts::default();
        let mut slice = TimeSlice::begin();
        for shard in self.shards() {
            let mut cursor = Cursor::open(shard, selection).await;
            while let Some(chunk) = shard.lock(|table| cursor.snapshots(table, selection)) {
                // Whoever is found, and picked: also where that is nobody, the thread has other tasks.
                slice.rest().await;
                let mut picked = Refs::new();
                for (at, connection) in chunk {
                    if is_picked(&connection, closure, &mut counts.scan) {
                        picked.push(at);
                    }
                    // How long a program's closure takes is up to the program.
                    slice.rest().await;
                }

                let mut picked = picked.into_iter();
                while picked.len() > 0 {
                    counts.queued += shard
                        .lock_and_wake(|table| place_picked(table, &mut picked, frame, permit));
                    slice.rest().await;
                }
            }
        }

        self.placed(counts, permit)
    }

    /// A page of `app`'s connections in the order of shards and slots, from `from` on; and where the next begins.
    pub(crate) async fn page(
        &self,
        selection: &Selection,
        from: PageCursor,
        limit: usize,
    ) -> (Vec<Snapshot>, Option<PageCursor>) {
        let mut page = Vec::new();
        let mut spent = Spent::default();
        for (at, shard) in self.shards().iter().enumerate().skip(from.shard) {
            let mut cursor = Cursor::everyone(if at == from.shard { from.slot } else { 0 });
            loop {
                // Judged outside the lock: this runs the whole filter, which may be heavy.
                let mut found: SmallVec<[Snapshot; SCAN_CHUNK]> = SmallVec::new();
                let more = shard.lock(|table| {
                    let chunk = cursor.next(table, selection);
                    found.extend(
                        chunk
                            .iter()
                            .filter_map(|&slot| table.open_connection(slot).cloned()),
                    );
                    !chunk.is_empty()
                });

                for connection in found {
                    let Judged { verdict, work } = selection.judge_whole(&connection);
                    if spent.add(work) {
                        tokio::task::yield_now().await;
                        spent = Spent::default();
                    }

                    if verdict != Verdict::Match {
                        continue;
                    }
                    if page.len() == limit {
                        let next = PageCursor {
                            shard: at,
                            slot: connection.id().slot,
                        };
                        return (page, Some(next));
                    }

                    page.push(connection);
                }

                if !more {
                    break;
                }

                tokio::task::yield_now().await;
                spent = Spent::default();
            }
        }

        (page, None)
    }
}

/// Places for those of `picked` that are still open, for as long as one hold may take. Returns for how many.
fn place_picked(
    table: &mut Table,
    picked: &mut impl Iterator<Item = SlotRef>,
    frame: &Frame,
    permit: &Permit,
) -> u64 {
    let (mut queued, mut spent) = (0, Spent::default());
    table.take_work();
    for at in picked {
        if table.state(at) == State::Open {
            queued += u64::from(table.place(at.slot, frame, permit));
        }
        if spent.add(table.take_work()) {
            break;
        }
    }
    queued
}

fn is_picked(connection: &Snapshot, closure: &Closure, seen: &mut ScanStats) -> bool {
    seen.evaluated += 1;
    // The closure gets a snapshot, so a panic leaves nothing of the hub half changed.
    let judged = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| closure(connection)));
    let is_meant = judged.unwrap_or_else(|_| {
        seen.errors += 1;
        false
    });
    seen.matched += u64::from(is_meant);
    is_meant
}
