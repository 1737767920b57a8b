//! This node's connections as data: who is there, what matches them, and what waits for their sockets.
//!
//! A shard is a locked [table](table::Table) and a thread. Any thread places under the shard's lock; only the
//! shard's own thread takes outboxes out and writes them. No socket and no network is known here, no lock is held
//! across an await, and no two shards are ever locked at once.

mod connection;
mod flushing;
pub(crate) mod gate;
mod inbox;
mod index;
mod limbo;
mod log;
mod membership;
mod outbox;
mod pace;
mod placing;
mod presence;
mod selection;
mod stored;
mod sweep;
mod table;
#[cfg(test)]
pub(crate) mod tests;
mod wave;

use std::{
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
pub(crate) use limbo::{Limbo, Lost};
pub(crate) use membership::Joining;
pub(crate) use presence::{
    Bulletin, Change, Coming, Count, Notice, Presence, Register, Tidings, Watching,
};
pub(crate) use selection::{Closure, Except, Named, Selection, channel_key, user_key};
pub(crate) use stored::Mended;
pub(crate) use sweep::{Counts, Looked, Reach};
pub(crate) use table::{AppContext, Context, Table};

use crate::{
    id::{AppId, ConnectionId},
    limits::Limits,
};

/// One locked table, and the bell of the thread that writes its sockets.
#[derive(Debug)]
pub(crate) struct Shard {
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
        let result = f(&mut table);
        table.trim();
        let waiting = table.is_waiting();
        // Whoever waits gets the lock now: a sweep that takes it again at once would keep them out.
        MutexGuard::unlock_fair(table);
        if waiting && !self.awake.swap(true, SeqCst) {
            self.bell.notify_one();
        }
        result
    }

    /// Runs `f` under the lock for the owner itself, who needs no waking.
    pub(crate) fn own<T>(&self, f: impl FnOnce(&mut Table) -> T) -> T {
        f(&mut self.table.lock())
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

    /// Waits until something more is placed, or something was since the last look; only the owner calls this.
    /// Cancel-safe.
    pub(crate) async fn placed(&self) {
        self.awake.store(false, SeqCst);
        self.bell.notified().await;
        self.awake.store(true, SeqCst);
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
    context: Arc<Context>,
    shedding: AtomicBool,
}

impl Hub {
    pub(crate) fn new(shards: usize, context: Arc<Context>) -> Self {
        let shard = |at: usize| {
            let table = Mutex::new(Table::new(at as u8, context.clone()));
            Arc::new(Shard {
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
            context,
            shedding: AtomicBool::new(false),
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

    /// Open connections of all apps on this node.
    fn all_members(&self) -> usize {
        (0..self.context.apps.len())
            .map(|app| self.members(AppId(app as u16)))
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

    /// Closes the connections that hold the most refused bytes until the node is within its bound.
    ///
    /// One caller at a time does the work; the others go on.
    pub(crate) fn shed(&self) {
        let bound = self.context.limits.refused_bytes;
        let refused = self.context.refused.load(Relaxed);
        self.context.metrics.refused_bytes.set(refused as i64);
        if refused <= bound || self.shedding.swap(true, SeqCst) {
            return;
        }
        let mut found: Vec<(usize, usize, SlotRef)> = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            found.extend(
                shard
                    .own(Table::backlogs)
                    .into_iter()
                    .map(|(bytes, slot)| (bytes, at, slot)),
            );
        }
        found.sort_unstable_by_key(|&(bytes, ..)| std::cmp::Reverse(bytes));
        for (_, shard, at) in found {
            if self.context.refused.load(Relaxed) <= bound {
                break;
            }
            self.shards[shard]
                .with(|table| table.close_slow(at, "the node is over its bound of refused bytes"));
        }
        self.shedding.store(false, SeqCst);
    }
}
