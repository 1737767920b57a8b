//! Taking dirty outboxes out and putting back what a socket refused: what only the shard's owner does.

use std::{collections::VecDeque, mem};

use super::{
    Owner,
    connection::{SlotRef, State},
    log::Log,
    outbox::{Advanced, Backlog, Outbox, Queued},
    table::{Dirty, Table},
};
use crate::{
    id::AppId,
    metrics::DropReason,
    protocol::{frame::Frame, wire::Form},
};

/// One connection's frames, taken out to be written once.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) at: SlotRef,
    pub(crate) app: AppId,
    /// The connection is closing: these are its last frames.
    pub(crate) closing: bool,
    /// In which form they are to be written.
    pub(crate) form: Form,
    pub(crate) load: Load,
}

/// What is to be written.
#[derive(Debug)]
pub(crate) enum Load {
    /// The window's frames `first..end`, by their numbers in the log.
    Run {
        first: u64,
        end: u64,
    },
    One(Queued),
    Queue(VecDeque<Queued>),
}

/// Outboxes taken out, and the log's frames that their runs name.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) works: Vec<Work>,
    pub(crate) window: Window,
}

/// A stretch of the log, copied so that it can be written outside the lock.
#[derive(Debug, Default)]
pub(crate) struct Window {
    first: u64,
    frames: Vec<Frame>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Runs written or refused.
    finished: Vec<FinishedRuns>,
    refused: Vec<RefusedWrite>,
    failed: Vec<SlotRef>,
}

/// Runs of the log that begin with the same number, and are dealt with.
#[derive(Debug)]
struct FinishedRuns {
    first: u64,
    count: u32,
}

/// What a socket has not taken.
#[derive(Debug)]
struct RefusedWrite {
    at: SlotRef,
    rest: Vec<Frame>,
    /// Bytes of the first frame that it took.
    written: usize,
}

/// What has become of the connections of a batch.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    /// Those that are blocked now.
    pub(crate) blocked: Vec<SlotRef>,
    /// Those whose sockets are broken.
    pub(crate) failed: Vec<SlotRef>,
}

/// Says on which flush lists outboxes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitingLists {
    pub(crate) small: bool,
    pub(crate) bulk: bool,
}

impl Window {
    /// The frames of a run.
    pub(crate) fn run(&self, first: u64, end: u64) -> &[Frame] {
        &self.frames[(first - self.first) as usize..(end - self.first) as usize]
    }

    /// Covers `first..end`, keeping the copy if it still serves, so that one serves many batches.
    fn cover(&mut self, first: u64, end: u64, log: &Log) {
        if first < self.first || end > self.first + self.frames.len() as u64 {
            self.frames.clear();
            self.first = first;
            self.frames.extend(log.frames(first, end).cloned());
        }
    }

    /// Lets go of the frames.
    pub(crate) fn release(&mut self) {
        self.frames.clear();
    }
}

impl Outcome {
    /// Notes that a run is dealt with.
    pub(crate) fn finish(&mut self, first: u64) {
        // Nearly all runs of a batch begin with the same number.
        match self.finished.last_mut() {
            Some(last) if last.first == first => last.count += 1,
            _ => self.finished.push(FinishedRuns { first, count: 1 }),
        }
    }

    /// Notes that the socket of `at` refused `rest`, after taking `written` bytes of its first frame.
    pub(crate) fn refuse(&mut self, at: SlotRef, rest: Vec<Frame>, written: usize) {
        self.refused.push(RefusedWrite { at, rest, written });
    }

    /// Notes that the socket of `at` is broken.
    pub(crate) fn fail(&mut self, at: SlotRef) {
        self.failed.push(at);
    }
}

impl Table {
    /// Takes up to `max` outboxes off a flush list; false if the list is empty.
    ///
    /// The same owner settles the batch before it does anything else.
    pub(crate) fn take(
        &mut self,
        _: &mut Owner,
        small: bool,
        max: usize,
        batch: &mut Batch,
    ) -> bool {
        let (mut first_needed, mut end_needed) = (u64::MAX, 0);
        let class = if small { Dirty::Small } else { Dirty::Bulk };
        while batch.works.len() < max {
            let list = if small {
                &mut self.small
            } else {
                &mut self.bulk
            };

            let Some(slot) = list.pop_front() else { break };
            let entry = &mut self.slots[slot as usize];
            // A small event has taken it along since, and put it on the other list.
            if entry.dirty != class {
                continue;
            }

            entry.dirty = Dirty::No;
            let load = match mem::take(&mut entry.outbox) {
                Outbox::Empty => continue,
                Outbox::Run { first, end } => {
                    first_needed = first_needed.min(first);
                    end_needed = end_needed.max(end);
                    Load::Run { first, end }
                }
                Outbox::One(queued) => Load::One(queued),
                Outbox::Queue(queue) => Load::Queue(queue),
                // It was blocked after it came onto the list. A task of its own writes it.
                blocked @ Outbox::Blocked(_) => {
                    entry.outbox = blocked;
                    continue;
                }
            };

            let at = SlotRef {
                slot,
                generation: entry.generation,
            };

            batch.works.push(Work {
                at,
                app: entry.app,
                closing: entry.state == State::Closing,
                form: entry.form,
                load,
            });
        }

        if end_needed > 0 {
            batch.window.cover(first_needed, end_needed, &self.log);
        }
        !batch.works.is_empty()
    }

    /// How many outboxes wait on the bulk list.
    pub(crate) fn bulk_len(&self) -> usize {
        self.bulk.len()
    }

    /// How many frames wait for the first connection of the bulk list.
    pub(crate) fn front(&self) -> usize {
        let outbox = self
            .bulk
            .front()
            .map(|&slot| &self.slots[slot as usize].outbox);
        outbox.map_or(0, Outbox::len)
    }

    /// Says on which flush lists outboxes wait.
    pub(crate) fn waiting(&self) -> WaitingLists {
        WaitingLists {
            small: !self.small.is_empty(),
            bulk: !self.bulk.is_empty(),
        }
    }

    /// Puts back what sockets refused and forgets what was written.
    pub(crate) fn settle(&mut self, _: &mut Owner, outcome: &mut Outcome) -> Settled {
        for FinishedRuns { first, count } in outcome.finished.drain(..) {
            self.log.finish(first, count);
        }
        let mut blocked = Vec::new();
        for RefusedWrite { at, rest, written } in outcome.refused.drain(..) {
            if self.put_back(at, rest, written) {
                blocked.push(at);
            }
        }
        self.context.metrics.log_frames.set(self.log.len() as i64);
        Settled {
            blocked,
            failed: mem::take(&mut outcome.failed),
        }
    }

    /// True if the connection has become blocked by this.
    fn put_back(&mut self, at: SlotRef, rest: Vec<Frame>, written: usize) -> bool {
        let total = self.context.refused.clone();
        let Some(form) = self.slot(at).map(|slot| slot.form) else {
            return false;
        };

        let wire = self.context.wire(form);
        let mut backlog = Box::new(Backlog::of_refusing(total, wire));
        for frame in rest {
            backlog.push(frame);
        }

        backlog.begun(written);
        // It was not blocked when it was taken out, and only the owner blocks: what it holds came later.
        let outbox = &mut self.slots[at.slot as usize].outbox;
        for queued in outbox.take_queue(&mut self.log) {
            backlog.push(queued.frame);
        }

        self.block(at.slot, backlog);

        if self.state(at) != State::Closing {
            // A client that leaves anyway is not closed as too slow.
            self.enforce(at);
        }
        true
    }

    /// Hands the owner up to `max` refused frames of `at`, and how much of the first is written.
    pub(crate) fn lend(
        &mut self,
        _: &mut Owner,
        at: SlotRef,
        max: usize,
        to: &mut Vec<Frame>,
    ) -> Option<usize> {
        self.slot(at)?
            .outbox
            .backlog()
            .map(|backlog| backlog.lend(max, to))
    }

    /// Notes that the socket of `at` takes nothing more for now: what waits counts from here on.
    pub(crate) fn note_refusal(&mut self, at: SlotRef) {
        if let Some(backlog) = self.slot(at).and_then(|slot| slot.outbox.backlog()) {
            backlog.note_refusal();
            self.enforce(at);
        }
    }

    /// Takes lent frames back, of which the socket took `taken` bytes.
    pub(crate) fn advance(&mut self, _: &mut Owner, at: SlotRef, taken: usize) -> Progress {
        let Some(entry) = self.slot(at) else {
            return Progress::Gone;
        };

        let (app, closing) = (entry.app, entry.state == State::Closing);
        let Some(backlog) = entry.outbox.backlog() else {
            return Progress::Gone;
        };

        let Advanced { written, dropped } = backlog.advance(taken);
        let empty = backlog.is_empty();
        if empty {
            entry.outbox = Outbox::Empty;
            self.note_unblocked(at.slot);
        }

        let metrics = &self.context.app(app).metrics;
        metrics.deliveries.inc_by(written);
        metrics.dropped(DropReason::Slow, dropped);
        if empty {
            return Progress::Done { closing };
        }

        if !closing {
            self.enforce(at);
        }
        Progress::Blocked
    }
}

/// The state of a refused connection after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Frames still wait.
    Blocked,
    /// Everything is written.
    Done {
        /// These were the last frames of a closing connection.
        closing: bool,
    },
    /// The connection is gone.
    Gone,
}
