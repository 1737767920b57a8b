//! Placing what is for everyone: publications that wait for the same shard go through its table together.
//!
//! They are in the log one after the other then, so that the runs of all connections are the same one, and each
//! connection is looked at once for all of them. Placed among each other they would break every run.

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use smallvec::SmallVec;

use super::{
    Hub, Shard,
    admission::Permit,
    connection::State,
    outbox::Queued,
    scan::{Counts, ScanStats, Spent},
    selection::{Except, Selection},
    table::{Dirty, Table},
};
use crate::{id::AppId, limits::SCAN_CHUNK, protocol::frame::Frame, time_slice::TimeSlice};

/// A publication that waits for one shard.
#[derive(Debug)]
struct PendingBroadcast {
    app: AppId,
    except: Except,
    frame: Frame,
    permit: Permit,
    placed: OnceLock<Counts>,
}

impl PendingBroadcast {
    fn queued(&self) -> Queued {
        Queued {
            frame: self.frame.clone(),
            permit: Some(self.permit.clone()),
        }
    }
}

type BroadcastBatch = SmallVec<[Arc<PendingBroadcast>; 16]>;

/// The publications that wait for a shard, and the lock of the one that carries them.
#[derive(Debug, Default)]
pub(super) struct BroadcastBatcher {
    waiting: Mutex<Vec<Arc<PendingBroadcast>>>,
    running: tokio::sync::Mutex<()>,
}

impl BroadcastBatcher {
    /// Takes the publications of `app`, in the order in which they came.
    fn take(&self, app: AppId) -> BroadcastBatch {
        let mut batch = BroadcastBatch::new();
        self.waiting.lock().retain(|pending| {
            if pending.app == app {
                batch.push(pending.clone());
            }
            pending.app != app
        });
        batch
    }
}

/// What a batch has done so far.
#[derive(Debug)]
struct BatchProgress {
    /// Where it goes on.
    next: u32,
    /// Connections met.
    met: u64,
    /// Connections that took the whole batch.
    whole: u64,
    /// Those that took a publication and not the whole batch, by publication.
    single: SmallVec<[u64; 16]>,
    /// Those that a publication leaves out, by publication.
    excepted: SmallVec<[u64; 16]>,
}

impl BatchProgress {
    fn new(batch: &BroadcastBatch) -> Self {
        let none = || batch.iter().map(|_| 0).collect();
        Self {
            next: 0,
            met: 0,
            whole: 0,
            single: none(),
            excepted: none(),
        }
    }

    fn of(&self, pending: usize) -> Counts {
        let scan = ScanStats {
            evaluated: self.met,
            matched: self.met - self.excepted[pending],
            errors: 0,
        };
        Counts {
            scan,
            queued: self.whole + self.single[pending],
        }
    }
}

impl Table {
    /// Places a batch for the next connections of its app; false at the end.
    fn place_batch(&mut self, batch: &BroadcastBatch, progress: &mut BatchProgress) -> bool {
        // Collected one by one: a bitmap's iterator counts all that is left when it is asked for its length.
        let mut chunk: SmallVec<[u32; SCAN_CHUNK]> = SmallVec::new();
        for slot in self
            .next_member(batch[0].app, progress.next)
            .take(SCAN_CHUNK)
        {
            chunk.push(slot);
        }

        let Some(last) = chunk.last() else {
            return false;
        };

        progress.next = last + 1;
        let mut spent = Spent::default();
        self.take_work();
        let mut first = self.enlog(batch);
        // Looked up one time for the batch: most have no exceptions.
        let excepting = batch.iter().any(|pending| !pending.except.is_empty());

        for slot in chunk {
            let entry = &mut self.slots[slot as usize];
            let (State::Open, Some(connection)) = (entry.state, &entry.connection) else {
                continue;
            };

            progress.met += 1;
            let excepted = excepting && batch.iter().any(|pending| pending.except.has(connection));
            if !excepted && entry.outbox.extend_run(first, batch.len(), &mut self.log) {
                progress.whole += 1;
                self.mark(slot, Dirty::Bulk);
            } else {
                self.place_singly(slot, batch, progress);
                // A run that became a queue has let go of its frames, and with them, perhaps, of the batch's.
                first = self.enlog(batch);
                // One that is closed as too slow may be in many channels.
                if spent.add(self.take_work()) {
                    progress.next = slot + 1;
                    break;
                }
            }
        }

        true
    }

    /// Where the batch begins in the log.
    fn enlog(&mut self, batch: &BroadcastBatch) -> u64 {
        // They are appended once: as long as they are its last frames, the log returns the same
        // number.
        self.log.append(
            batch
                .iter()
                .map(|pending| (&pending.frame, &pending.permit)),
        )
    }

    /// Places a batch for a connection that one of its events leaves out, or whose outbox is not a run that goes
    /// on.
    fn place_singly(&mut self, slot: u32, batch: &BroadcastBatch, progress: &mut BatchProgress) {
        for (at, pending) in batch.iter().enumerate() {
            let entry = &mut self.slots[slot as usize];
            if entry.state != State::Open {
                // Closed as too slow by the one before; nothing may come after its close frame.
                break;
            }

            if entry
                .connection
                .as_ref()
                .is_some_and(|connection| pending.except.has(connection))
            {
                progress.excepted[at] += 1;
            } else if entry.outbox.is_blocked() {
                progress.single[at] += u64::from(self.place_blocked(slot, &pending.frame));
            } else {
                entry.outbox.push(pending.queued(), &mut self.log);
                self.mark(slot, Dirty::Bulk);
                progress.single[at] += 1;
            }
        }
    }
}

impl Shard {
    /// Places a publication for everyone in this shard, with all that wait for it too; where admission `is_full`, also
    /// with those that it let in at the same time.
    async fn submit(
        &self,
        is_full: bool,
        selection: &Selection,
        frame: &Frame,
        permit: &Permit,
    ) -> Counts {
        let pending = Arc::new(PendingBroadcast {
            app: selection.app,
            except: selection.except.clone(),
            frame: frame.clone(),
            permit: permit.clone(),
            placed: OnceLock::new(),
        });

        // Noted before the lock is asked for, so that the next to have it carries this one too.
        self.broadcasts.waiting.lock().push(pending.clone());
        // Those that were let in together get the chance to be in one batch.
        if is_full {
            tokio::task::yield_now().await;
        }

        let _turn = self.broadcasts.running.lock().await;
        // The one that had the turn before may have carried this one too.
        if pending.placed.get().is_none() {
            self.run(&self.broadcasts.take(pending.app)).await;
        }
        pending.placed.get().copied().unwrap_or_default()
    }

    async fn run(&self, batch: &BroadcastBatch) {
        let mut progress = BatchProgress::new(batch);
        let mut slice = TimeSlice::begin();
        // The lock is let go after every stride, so that a small publication need not wait for a slice.
        while self.lock_fairly_and_wake(|table| table.place_batch(batch, &mut progress)) {
            slice.rest().await;
        }
        for (at, pending) in batch.iter().enumerate() {
            // Nobody else sets it: the one that carries a publication has taken it from those that wait.
            let _ = pending.placed.set(progress.of(at));
        }
    }
}

/// Places publications as one batch, without waiting for anyone.
#[cfg(test)]
pub(super) fn place_at_once(
    table: &mut Table,
    publications: Vec<(Frame, Permit, Except)>,
) -> Vec<Counts> {
    let pending = |(frame, permit, except)| {
        let app = super::tests::APP;
        Arc::new(PendingBroadcast {
            app,
            except,
            frame,
            permit,
            placed: OnceLock::new(),
        })
    };

    let batch: BroadcastBatch = publications.into_iter().map(pending).collect();
    let mut progress = BatchProgress::new(&batch);
    while table.place_batch(&batch, &mut progress) {}

    (0..batch.len()).map(|at| progress.of(at)).collect()
}

impl Hub {
    /// Places a publication for everyone, less its exceptions, slice by slice, yielding between slices.
    ///
    /// Not cancel-safe, as [`Hub::place_large`].
    pub(super) async fn place_for_all(
        &self,
        selection: &Selection,
        frame: &Frame,
        permit: &Permit,
    ) -> Counts {
        let mut counts = Counts::default();
        for shard in self.shards() {
            let Counts { scan, queued } =
                shard.submit(self.is_full(), selection, frame, permit).await;
            counts.scan.evaluated += scan.evaluated;
            counts.scan.matched += scan.matched;
            counts.queued += queued;
        }
        self.placed(counts, permit)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{JoinKind, Outcome, Owner, Watching, tests::*},
        *,
    };
    use crate::{config::SlowConsumer, filter::Value, limits::Limits};

    #[test]
    fn a_hold_that_closes_slow_consumers_ends_by_what_that_takes() {
        let limits = Limits {
            outbox_frames: 1,
            ..Limits::default()
        };
        let hub = Hub::new(1, context(limits, &[], SlowConsumer::Disconnect));
        let frame = Frame::event_text(&[b"x"]);
        hub.shard(0).lock(|table| {
            let mut outcome = Outcome::default();
            for n in 0..SCAN_CHUNK {
                let at = connect(table, &n.to_string(), Value::Null);
                for channel in 0..100 {
                    table.join(at, &channel.to_string(), Watching::No, JoinKind::New);
                }
                outcome.refuse(at, vec![frame.clone()], 0);
            }
            table.settle(&mut Owner::for_tests(), &mut outcome);
        });

        let permit = hub.admission.try_admit(SCAN_CHUNK, frame.len()).unwrap();
        let pending = PendingBroadcast {
            app: APP,
            except: Except::default(),
            frame,
            permit,
            placed: OnceLock::new(),
        };
        let batch: BroadcastBatch = [Arc::new(pending)].into_iter().collect();
        let mut progress = BatchProgress::new(&batch);
        let (mut met, mut goes_on) = (0, true);
        while goes_on {
            goes_on = hub
                .shard(0)
                .lock(|table| table.place_batch(&batch, &mut progress));
            assert!(progress.met - met <= 2, "{progress:?}");
            met = progress.met;
        }
        assert_eq!((met, progress.of(0).queued), (SCAN_CHUNK as u64, 0));
    }

    #[tokio::test]
    async fn publications_that_wait_at_once_are_placed_together_each_with_its_own_counts() {
        let hub = Hub::new(2, context(Limits::default(), &[], SlowConsumer::Disconnect));
        for shard in 0..2 {
            hub.shard(shard).lock(|table| {
                for n in 0..100 {
                    connect(table, &format!("u{}", n % 50), Value::Null);
                }
            });
        }
        let everyone = Selection::everyone(APP);
        let mut but_two = everyone.clone();
        but_two.except.users.insert("u7".into());
        let held = hub.shard(0).broadcasts.running.lock().await;
        let frames: Vec<Frame> = (0..3u8).map(|n| Frame::event_text(&[&[n]])).collect();
        let place = async |n: usize, selection: &Selection| {
            let permit = hub.admission.try_admit(200, 3).unwrap();
            hub.place_large(selection, &frames[n], &permit).await
        };
        let all =
            async { tokio::join!(place(0, &everyone), place(1, &but_two), place(2, &everyone)) };
        let release = async {
            while hub.shard(0).broadcasts.waiting.lock().len() < 3 {
                tokio::task::yield_now().await;
            }
            drop(held);
        };
        let ((first, second, third), ()) = tokio::join!(all, release);
        assert_eq!([first.queued, second.queued, third.queued], [200, 196, 200]);
        assert_eq!((second.scan.evaluated, second.scan.matched), (200, 196));
        // They are placed one after the other, not one per slice: two shards' logs hold three
        // frames each.
        let lengths = [0, 1].map(|shard| hub.shard(shard).lock(|table| table.log.len()));
        assert_eq!(lengths, [3, 3]);
    }
}
