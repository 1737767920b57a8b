//! This node's connections as data: who is there, what matches them, and what waits for their sockets.
//!
//! A shard is a locked [table](table::Table) and a thread. Any thread places under the shard's lock; only the
//! shard's own thread takes outboxes out and writes them. No socket and no network is known here, no lock is held
//! across an await, and no two shards are ever locked at once.

mod connection;
mod cursor;
mod flushing;
pub(crate) mod gate;
mod holds;
mod inbox;
mod index;
mod limbo;
mod log;
mod membership;
mod outbox;
mod pace;
mod placing;
mod presence;
mod returning;
mod scans;
mod selection;
mod stored;
mod sweep;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod wave;

use std::{
    marker::PhantomData,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

pub use connection::Connection;
pub(crate) use connection::{SlotRef, Snapshot, State};
pub(crate) use flushing::{Batch, Load, Outcome, Progress, Work};
pub use gate::Busy;
pub(crate) use gate::Ticket;
#[cfg(feature = "holds")]
pub(crate) use holds::take_longest;
pub(crate) use limbo::{Limbo, Lost};
pub(crate) use membership::{About, Joining};
pub(crate) use outbox::Replay;
pub(crate) use placing::SlowConsumer;
pub(crate) use presence::{
    Bulletin, Change, Coming, Count, Notice, Presence, Register, Tidings, Watching,
};
pub(crate) use scans::{ScanPermit, Scans};
pub(crate) use selection::{Closure, Except, Named, Selection, channel_key, user_key};
pub(crate) use stored::{Asked, Mended, StoredReplay};
pub(crate) use sweep::{Counts, Looked, Reach, Rest};
pub(crate) use table::{AppContext, Context, Table, Tally};

use crate::{
    id::{AppId, ConnectionId},
    limits::{Limits, SHED_LOOK},
};

/// The right to take outboxes out, and to block them. The thread that writes a shard's sockets has the only one.
///
/// It is borrowed from the taking of a batch to its settling. So no outbox becomes blocked while its frames are out: what a
/// socket refused always goes in front of everything that was placed meanwhile.
#[derive(Debug)]
pub(crate) struct Owner(PhantomData<*const ()>);

#[cfg(test)]
impl Owner {
    /// The right of a test that plays the shard's thread.
    pub(crate) fn for_tests() -> Self {
        Self(PhantomData)
    }
}

/// One locked table, and the bell of the thread that writes its sockets.
#[derive(Debug)]
pub(crate) struct Shard {
    is_owned: AtomicBool,
    table: Mutex<Table>,
    waves: wave::Waves,
    bell: Notify,
    awake: AtomicBool,
    began: Instant,
    /// Milliseconds after `began` when the thread was last seen at work.
    pulse: AtomicU64,
}

impl Shard {
    /// Runs `f` under the shard's lock, then wakes the owner if an outbox waits and it sleeps.
    ///
    /// `f` must neither block nor touch another shard.
    pub(crate) fn with<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let (result, waiting) = {
            let _hold = holds::Hold::begin();
            let result = f(&mut table);
            table.trim();
            (result, table.is_waiting())
        };
        drop(table);
        self.wake(waiting);
        result
    }

    /// Runs `f` as [`Shard::with`] does, for a sweep that takes the lock again immediately: a thread that waits for the
    /// lock gets it first.
    pub(crate) fn with_fair<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let (result, waiting) = {
            let _hold = holds::Hold::begin();
            let result = f(&mut table);
            table.trim();
            (result, table.is_waiting())
        };
        MutexGuard::unlock_fair(table);
        self.wake(waiting);
        result
    }

    fn wake(&self, waiting: bool) {
        if waiting && !self.awake.swap(true, SeqCst) {
            self.bell.notify_one();
        }
    }

    /// Runs `f` under the lock for the owner itself, who needs no waking.
    pub(crate) fn own<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let _hold = holds::Hold::begin();
        f(&mut table)
    }

    /// The right of the thread that owns the shard.
    ///
    /// # Panics
    /// When it has been given out before.
    pub(crate) fn owner(&self) -> Owner {
        assert!(!self.is_owned.swap(true, SeqCst), "a shard has one owner");
        Owner(PhantomData)
    }

    /// Sleeps until an outbox waits. Only the owner calls this; what is placed meanwhile is never missed.
    pub(crate) async fn sleep(&self) {
        self.awake.store(false, SeqCst);
        if self.own(|table| table.is_waiting()) {
            self.awake.store(true, SeqCst);
            return;
        }
        self.bell.notified().await;
    }

    /// Looks at the table with `look` until that finds something, or until `end`; only the owner calls this. What is placed
    /// after a look leads to the next one. Cancel-safe.
    pub(crate) async fn look_until<T>(
        &self,
        end: tokio::time::Instant,
        mut look: impl FnMut(&mut Table) -> Option<T>,
    ) -> Option<T> {
        loop {
            // Before the look: whatever is placed from here on rings the bell.
            self.awake.store(false, SeqCst);
            let found = self.own(&mut look);
            let is_over = found.is_some()
                || tokio::time::timeout_at(end, self.bell.notified())
                    .await
                    .is_err();
            self.awake.store(true, SeqCst);
            if is_over {
                return found.or_else(|| self.own(look));
            }
        }
    }

    /// Wakes the owner, whether or not something waits.
    pub(crate) fn ring(&self) {
        if !self.awake.swap(true, SeqCst) {
            self.bell.notify_one();
        }
    }

    /// Notes that the thread is at work.
    pub(crate) fn beat(&self) {
        self.pulse
            .store(self.began.elapsed().as_millis() as u64, Relaxed);
    }

    /// How long the thread was not seen at work; readiness looks at it.
    pub(crate) fn silence(&self) -> Duration {
        self.began
            .elapsed()
            .saturating_sub(Duration::from_millis(self.pulse.load(Relaxed)))
    }
}

/// All shards of a node, and the gate before them.
#[derive(Debug)]
pub(crate) struct Hub {
    shards: Box<[Arc<Shard>]>,
    gate: Arc<gate::Gate>,
    long_steps: Arc<Scans>,
    context: Arc<Context>,
    shedding: AtomicBool,
    /// The shard and slot at which [`Hub::shed`] goes on.
    shed_from: Mutex<(usize, u32)>,
}

/// A connection whose socket refused.
#[derive(Debug)]
struct Held {
    /// What waits for it.
    bytes: usize,
    /// It will be gone soon, and only loses what waits.
    is_closing: bool,
    shard: usize,
    at: SlotRef,
}

impl Hub {
    pub(crate) fn new(shards: usize, context: Arc<Context>) -> Self {
        let shard = |at: usize| {
            let table = Mutex::new(Table::new(at as u8, context.clone()));
            Arc::new(Shard {
                is_owned: AtomicBool::new(false),
                table,
                waves: wave::Waves::default(),
                bell: Notify::new(),
                awake: AtomicBool::new(false),
                began: Instant::now(),
                pulse: AtomicU64::new(0),
            })
        };
        let gate = gate::Gate::new(&context.limits, context.metrics.clone());
        Self {
            shards: (0..shards).map(shard).collect(),
            gate,
            long_steps: Scans::new(shards),
            context,
            shedding: AtomicBool::new(false),
            shed_from: Mutex::default(),
        }
    }

    pub(crate) fn shard(&self, at: usize) -> &Arc<Shard> {
        &self.shards[at]
    }

    pub(crate) fn shards(&self) -> &[Arc<Shard>] {
        &self.shards
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.context.limits
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    /// Permits for steps that take long and are not filters: as many as there are threads.
    pub(crate) fn long_steps(&self) -> &Arc<Scans> {
        &self.long_steps
    }

    /// Whether large publications wait for room at the gate.
    pub(crate) fn is_full(&self) -> bool {
        self.gate.is_full()
    }

    /// Notes that a shard has sockets that wait for large publications, or none any more.
    pub(crate) fn note_writing(&self, writing: bool) {
        self.gate.note_writing(writing);
    }

    /// Notes that `written` of `waiting` such sockets of a shard were written.
    pub(crate) fn note_written(&self, written: usize, waiting: usize) {
        self.gate.note_written(written, waiting);
    }

    /// Who is in which channel of `app`.
    pub(crate) fn presence(&self, app: AppId) -> &Presence {
        &self.context.app(app).presence
    }

    /// Open connections of `app` on this node.
    pub(crate) fn members(&self, app: AppId) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.own(|table| table.members(app)))
            .sum()
    }

    /// The open connection of `app` with this id.
    pub(crate) fn find(&self, app: AppId, id: &ConnectionId) -> Option<Snapshot> {
        let shard = self.shards.get(usize::from(id.shard))?;
        shard.own(|table| {
            table
                .find(app, id)
                .and_then(|slot| table.open_connection(slot).cloned())
        })
    }

    /// Brings the gauges of refused bytes up to date.
    pub(crate) fn note_queues(&self) {
        self.context
            .metrics
            .refused_bytes
            .set(self.context.refused.load(Relaxed) as i64);
    }

    /// Closes connections that hold many refused bytes until the node is within its bound, the largest first among
    /// [`SHED_LOOK`] of them. Before any is closed, those that are closing already lose what waits for them.
    ///
    /// One caller at a time does the work; the others go on.
    pub(crate) fn shed(&self) {
        let bound = self.context.limits.refused_bytes;
        let refused = self.context.refused.load(Relaxed);
        self.context.metrics.refused_bytes.set(refused as i64);
        if refused <= bound || self.shedding.swap(true, SeqCst) {
            return;
        }
        let found = self.some_backlogs();
        let open = found.iter().filter(|held| !held.is_closing);
        let mean = open.clone().map(|held| held.bytes).sum::<usize>() / open.count().max(1);
        for held in found {
            let Held {
                bytes, shard, at, ..
            } = held;
            // Larger ones may stand further on: those are closed when it is their turn to be looked at.
            let is_spared = !held.is_closing && bytes < mean;
            if is_spared || self.context.refused.load(Relaxed) <= bound {
                break;
            }
            self.shards[shard]
                .with(|table| table.close_slow(at, "the node is over its bound of refused bytes"));
        }
        self.shedding.store(false, SeqCst);
    }

    /// Up to [`SHED_LOOK`] connections whose sockets refused: those that are closing, then the others, the largest backlog first.
    /// Goes on where the last call ended.
    fn some_backlogs(&self) -> Vec<Held> {
        let mut found = Vec::new();
        let mut next = *self.shed_from.lock();
        for _ in 0..=self.shards.len() {
            let (shard, from) = next;
            let room = SHED_LOOK - found.len();
            let (some, rest) = self.shards[shard].own(|table| table.backlogs(from, room));
            found.extend(some.into_iter().map(|(bytes, at, is_closing)| Held {
                bytes,
                is_closing,
                shard,
                at,
            }));
            next = match rest {
                Some(slot) => (shard, slot),
                None => ((shard + 1) % self.shards.len(), 0),
            };
            if found.len() == SHED_LOOK {
                break;
            }
        }
        *self.shed_from.lock() = next;

        // A whole round comes back to where it began.
        found.sort_unstable_by_key(|held| {
            let size = std::cmp::Reverse(held.bytes);
            (!held.is_closing, size, held.shard, held.at)
        });
        found.dedup_by_key(|held| (held.shard, held.at));
        found
    }
}
