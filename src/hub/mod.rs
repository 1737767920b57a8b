//! This node's connections as data: who is there, what matches them, and what waits for their sockets.
//!
//! A shard is a locked [table](table::Table) and a thread. Any thread places under the shard's lock; only the
//! shard's own thread takes outboxes out and writes them. No socket and no network is known here, no lock is held
//! across an await, and no two shards are ever locked at the same time.

mod connection;
mod cursor;
mod flushing;
mod forms;
pub(crate) mod admission;
mod holds;
mod inbox;
mod index;
mod resume_table;
mod log;
mod membership;
mod outbox;
mod pace;
mod placing;
mod presence;
mod returning;
mod scan_limit;
mod selection;
mod stored;
mod scan;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod broadcast;

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

pub use admission::Busy;
pub(crate) use admission::Permit;
pub use connection::Connection;
pub(crate) use connection::{PageCursor, SlotRef, Snapshot, State};
pub(crate) use flushing::{Batch, Load, Outcome, Progress, Settled, WaitingLists, Work};
pub(crate) use forms::Forms;
#[cfg(feature = "holds")]
pub(crate) use holds::take_longest;
pub(crate) use membership::{About, Joining};
pub(crate) use outbox::Replay;
pub(crate) use placing::SlowConsumer;
pub(crate) use presence::{
    Change, Count, DueNotices, JoinKind, Listing, Notice, NoticeBatch, NoticeQueue, Presence,
    Register, Watching,
};
pub(crate) use resume_table::{ClientKey, Detached, LostChannel, ResumeTable, has_room};
pub(crate) use returning::with_channels;
pub(crate) use scan::{Counts, Reach, RemainingScan, ScanStats};
pub(crate) use scan_limit::{LongStep, ScanPermit, Scans};
pub(crate) use selection::{Closure, Except, Recipients, Selection, channel_key, user_key};
pub(crate) use stored::{Asked, CatchUp, StoredReplay};
pub(crate) use table::{AppContext, AppCounts, Context, Table};

use scan::Spent;

use crate::{
    id::{AppId, ConnectionId},
    limits::{Limits, SCAN_CHUNK, SHED_LOOK, SHED_SHARED},
};

/// The right to take outboxes out, and to block them. The thread that writes a shard's sockets has the only one.
///
/// It is borrowed from the taking of a batch to its settling. So no outbox becomes blocked while its frames are out:
/// what a socket refused always goes in front of everything that was placed in the meantime.
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
    broadcasts: broadcast::BroadcastBatcher,
    wake: Notify,
    awake: AtomicBool,
    began: Instant,
    /// Milliseconds after `began` when the thread was last seen at work.
    pulse: AtomicU64,
}

impl Shard {
    /// Runs `f` under the shard's lock, then wakes the owner if an outbox waits and it sleeps.
    ///
    /// `f` must neither block nor touch another shard.
    pub(crate) fn lock_and_wake<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.lock();
        let (result, waiting) = {
            let _hold = holds::Hold::begin();
            let result = f(&mut table);
            table.trim();
            (result, table.is_waiting())
        };
        // The lock is let go first: the owner needs it as soon as it wakes.
        drop(table);
        self.wake(waiting);
        result
    }

    /// Runs `f` as [`Shard::lock_and_wake`] does, for a scan that takes the lock again immediately: a thread that waits for the
    /// lock gets it first.
    pub(crate) fn lock_fairly_and_wake<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
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
        // Only the first one rings, which spares a system call for each placing.
        if waiting && !self.awake.swap(true, SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Runs `f` under the lock without waking the owner: for a look, and for what the owner does itself.
    pub(crate) fn lock<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
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

    /// Sleeps until an outbox waits. Only the owner calls this; what is placed in the meantime is never
    /// missed.
    pub(crate) async fn sleep(&self) {
        self.awake.store(false, SeqCst);
        // After `awake` is false: what is placed from here on rings the bell.
        if self.lock(|table| table.is_waiting()) {
            self.awake.store(true, SeqCst);
            return;
        }
        self.wake.notified().await;
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
            let found = self.lock(&mut look);
            let is_over = found.is_some()
                || tokio::time::timeout_at(end, self.wake.notified())
                    .await
                    .is_err();
            self.awake.store(true, SeqCst);
            if is_over {
                // Once more, since something may have come just before the end.
                return found.or_else(|| self.lock(look));
            }
        }
    }

    /// Wakes the owner, whether or not something waits.
    pub(crate) fn ring(&self) {
        if !self.awake.swap(true, SeqCst) {
            self.wake.notify_one();
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

/// All shards of a node, and admission before them.
#[derive(Debug)]
pub(crate) struct Hub {
    shards: Box<[Arc<Shard>]>,
    admission: Arc<admission::Admission>,
    /// By [`LongStep`].
    long_steps: [Arc<Scans>; 3],
    context: Arc<Context>,
    shedding: Mutex<Shedding>,
}

/// A connection whose socket refused.
#[derive(Debug)]
struct Held {
    /// About how much the node holds for it alone.
    share: usize,
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
                broadcasts: broadcast::BroadcastBatcher::default(),
                wake: Notify::new(),
                awake: AtomicBool::new(false),
                began: Instant::now(),
                pulse: AtomicU64::new(0),
            })
        };

        let admission = admission::Admission::new(&context.limits, context.metrics.clone());
        Self {
            shards: (0..shards).map(shard).collect(),
            admission,
            long_steps: std::array::from_fn(|_| Scans::new(shards)),
            context,
            shedding: Mutex::default(),
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

    /// Permits for steps that take long and are not filters: of each kind as many as there are threads.
    pub(crate) fn long_steps(&self, step: LongStep) -> &Arc<Scans> {
        &self.long_steps[step as usize]
    }

    /// Waits until one step of `app` may run that takes a shard's thread longer than a slice, such as a page of
    /// members.
    ///
    /// Of each kind one goes on in each round of the thread's tasks, and apps are served one after the other. So
    /// whatever else is ready waits for a few such steps, and not for as many as clients and callers have asked for;
    /// and no kind waits for another. Costs one round where nothing waits. Cancel-safe.
    pub(crate) async fn queue_long_step(&self, app: AppId, step: LongStep) {
        let permit = self.long_steps(step).wait(app).await;
        // A step that is asked for in this round finds the permit taken, and goes on in a later one.
        tokio::task::yield_now().await;
        drop(permit);
    }

    /// Whether large publications wait for room at admission.
    pub(crate) fn is_full(&self) -> bool {
        self.admission.is_full()
    }

    /// Notes that a shard has sockets that wait for large publications, or none any longer.
    pub(crate) fn note_writing(&self, writing: bool) {
        self.admission.note_writing(writing);
    }

    /// Notes that `written` of `waiting` such sockets of a shard were written.
    pub(crate) fn note_written(&self, written: usize, waiting: usize) {
        self.admission.note_written(written, waiting);
    }

    /// Who is in which channel of `app`.
    pub(crate) fn presence(&self, app: AppId) -> &Presence {
        &self.context.app(app).presence
    }

    /// Open connections of `app` on this node.
    pub(crate) fn members(&self, app: AppId) -> usize {
        self.shards
            .iter()
            .map(|shard| shard.lock(|table| table.members(app)))
            .sum()
    }

    /// The open connection of `app` with this id.
    pub(crate) fn find(&self, app: AppId, id: &ConnectionId) -> Option<Snapshot> {
        let shard = self.shards.get(usize::from(id.shard))?;
        shard.lock(|table| {
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

    /// Closes connections that hold many refused bytes, as long as the node is over its bound of them: those first that hold most
    /// by themselves. Before any is closed, those that are closing already lose what waits for them.
    ///
    /// What waits for many sockets is freed only with the last of them. Its readers are spared until a whole round over all
    /// connections has found nobody else. Someone holds at least the mean of what the node does, so there is always someone.
    ///
    /// Does a slice's work. True if it is to be called again for the rest. One caller at a time does the work; the others go on.
    pub(crate) fn shed(&self) -> bool {
        let bound = self.context.limits.refused_bytes;
        let refused = || self.context.refused.load(Relaxed);
        let all = refused();
        self.context.metrics.refused_bytes.set(all as i64);
        if all <= bound {
            return false;
        }
        // Another thread is at it, and all would look at the same connections.
        let Some(mut shedding) = self.shedding.try_lock() else {
            return false;
        };

        let apps = self.context.apps.iter();
        let blocked: usize = apps.map(|app| app.counts.blocked.load(Relaxed)).sum();
        let from = shedding.next;
        let found = self.some_backlogs(&mut shedding.next);
        let (scan, mut closed, mut spent) = (found.len(), 0, Spent::default());

        for held in found {
            if !shedding.means(&held, all / blocked.max(1)) {
                continue;
            }

            let work = self.shards[held.shard].lock_and_wake(|table| {
                table.take_work();
                closed += usize::from(table.close_slow(held.at, OVER_BOUND));
                table.take_work()
            });

            // Nobody more than needed is closed.
            if refused() <= bound {
                break;
            }

            if spent.add(work) {
                // The others of these are next.
                shedding.next = from;
                break;
            }
        }

        if refused() <= bound {
            let next = shedding.next;
            *shedding = Shedding {
                next,
                ..Shedding::default()
            };
            return false;
        }

        shedding.note(closed, scan, blocked)
    }

    /// Up to [`SHED_LOOK`] connections whose sockets refused: those that are closing, then the others, those first that hold most.
    /// Begins at `next`, which then is where the next ones begin.
    fn some_backlogs(&self, next: &mut PageCursor) -> Vec<Held> {
        let (mut found, mut shards) = (Vec::new(), 0);
        // A whole round comes back to the shard where it began.
        while found.len() < SHED_LOOK && shards <= self.shards.len() {
            let PageCursor { shard, slot: from } = *next;
            let room = SCAN_CHUNK.min(SHED_LOOK - found.len());
            let (some, rest) = self.shards[shard].lock(|table| table.backlogs(from, room));
            found.extend(some);
            *next = match rest {
                Some(slot) => PageCursor { shard, slot },
                None => PageCursor {
                    shard: (shard + 1) % self.shards.len(),
                    slot: 0,
                },
            };
            shards += usize::from(rest.is_none());
        }

        found.sort_unstable_by_key(|held| {
            let size = std::cmp::Reverse(held.share);
            (!held.is_closing, size, held.shard, held.at)
        });

        found.dedup_by_key(|held| (held.shard, held.at));
        found
    }
}

/// Why connections are closed that may have kept their own bounds.
const OVER_BOUND: &str = "the node is over its bound of refused bytes";

/// How far shedding has come.
#[derive(Debug, Default)]
struct Shedding {
    /// Where it goes on.
    next: PageCursor,
    /// Connections looked at since one was closed.
    in_vain: usize,
    /// A whole round has found nobody who holds much alone.
    spares_none: bool,
}

impl Shedding {
    /// Whether this one is to lose what waits for it, where connections hold `mean` bytes each.
    fn means(&self, held: &Held, mean: usize) -> bool {
        let is_alone = held.share.saturating_mul(SHED_SHARED) >= held.bytes;
        // Half of it, since shares are estimates: so someone is always found.
        held.is_closing || ((is_alone || self.spares_none) && held.share >= mean / 2)
    }

    /// Notes that `scan` of `blocked` connections were looked at, and `closed` of them closed. False once a round that has
    /// spared none was in vain.
    fn note(&mut self, closed: usize, scan: usize, blocked: usize) -> bool {
        if closed > 0 {
            self.in_vain = 0;
            return true;
        }
        self.in_vain += scan.max(1);
        if self.in_vain < blocked {
            return true;
        }
        self.in_vain = 0;
        self.spares_none = !self.spares_none;
        self.spares_none
    }
}
