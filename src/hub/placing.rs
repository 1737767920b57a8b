//! Placing frames in outboxes, and closing: what any thread may do under the shard's lock.

use std::time::Duration;

use smol_str::SmolStr;

use super::{
    Held,
    admission::Permit,
    connection::{SlotRef, Snapshot, State},
    membership::Departing,
    outbox::{Backlog, Outbox, Queued},
    table::{Dirty, Table},
};
use crate::{
    close::{self, Close},
    config,
    limits::{CHANNEL_WORK, DISCARD_WORK, SLOW_LOGGED},
    metrics::DropReason,
    protocol::frame::Frame,
};

/// A consumer that was closed because it reads too slowly.
#[derive(Debug)]
pub(crate) struct SlowConsumer {
    pub(crate) connection: Snapshot,
    /// What waited for it.
    pub(crate) bytes: usize,
    pub(crate) frames: usize,
    /// How long ago its socket first refused.
    pub(crate) stalled: Duration,
    pub(crate) why: &'static str,
}

/// Consumers that were closed as slow, for the log.
#[derive(Debug, Default)]
pub(crate) struct SlowConsumers {
    pub(crate) some: Vec<SlowConsumer>,
    /// How many there were besides.
    pub(crate) more: u64,
}

impl Table {
    /// Appends a publication's frame for an open connection; true if it was queued, false if it was dropped.
    ///
    /// A small publication goes in by reference and is flushed by the small list; a large one extends the
    /// connection's run of the log.
    pub(crate) fn place(&mut self, slot: u32, frame: &Frame, permit: &Permit) -> bool {
        let entry = &mut self.slots[slot as usize];
        if entry.outbox.is_blocked() {
            return self.place_blocked(slot, frame);
        }

        if permit.is_small() {
            entry.outbox.push(
                Queued {
                    frame: frame.clone(),
                    permit: Some(permit.clone()),
                },
                &mut self.log,
            );
            self.mark(slot, Dirty::Small);
        } else {
            let number = self.log.number(frame, permit);
            entry.outbox.extend(number, frame, permit, &mut self.log);
            self.mark(slot, Dirty::Bulk);
        }

        true
    }

    /// Appends one of the protocol's own frames. False if the connection is gone, closing, or now too slow.
    pub(crate) fn place_own(&mut self, at: SlotRef, frame: Frame) -> bool {
        // A client that is on its way out gets nothing more: its close frame is the last.
        match self.state(at) {
            State::Free | State::Closing => false,
            State::Open | State::Pending if self.slots[at.slot as usize].outbox.is_blocked() => {
                self.place_blocked(at.slot, &frame)
            }
            State::Open | State::Pending => {
                self.append(at.slot, frame);
                true
            }
        }
    }

    fn append(&mut self, slot: u32, frame: Frame) {
        let entry = &mut self.slots[slot as usize];
        entry.outbox.push(
            Queued {
                frame,
                permit: None,
            },
            &mut self.log,
        );
        if !entry.outbox.is_blocked() {
            self.mark(slot, Dirty::Small);
        }
    }

    /// A refused connection's events wait within bounds; past them the app's policy decides. False if it was closed.
    pub(super) fn place_blocked(&mut self, slot: u32, frame: &Frame) -> bool {
        let entry = &mut self.slots[slot as usize];
        let at = SlotRef {
            slot,
            generation: entry.generation,
        };
        let Some(backlog) = entry.outbox.backlog() else {
            return false;
        };
        backlog.push(frame.clone());
        self.enforce(at);
        self.state(at) != State::Closing
    }

    /// Applies the outbox bounds to what waits for a socket that refused.
    pub(super) fn enforce(&mut self, at: SlotRef) {
        let (max_bytes, max_frames) = (
            self.context.limits.outbox_bytes,
            self.context.limits.outbox_frames,
        );
        let Some(entry) = self.slots.get_mut(at.slot as usize) else {
            return;
        };

        let app = self.context.app(entry.app);
        let Some(backlog) = entry.outbox.backlog() else {
            return;
        };
        if !backlog.is_over(max_bytes, max_frames) {
            return;
        }

        match app.slow_consumer {
            config::SlowConsumer::Disconnect => {
                self.close_slow(at, "over the outbox bound");
            }
            config::SlowConsumer::DropOldest => {
                let lost = backlog.discard_oldest(max_bytes, max_frames);
                app.metrics.dropped(DropReason::Oldest, lost);
                // Frames without events cannot be thrown away.
                let is_over = backlog.is_over(max_bytes, max_frames);
                // What it loses here was stored, and must not count as received.
                if let Some(inbox) = entry.inbox.as_mut().filter(|_| lost > 0) {
                    inbox.lose();
                }
                if is_over {
                    self.close_slow(at, "over the outbox bound, and no event to throw away");
                }
            }
        }
    }

    /// Puts `slot` on the flush list of its class. A small event takes the whole outbox along, so that order holds
    /// and a huge broadcast does not hold it up; its entry on the bulk list is then passed over.
    pub(super) fn mark(&mut self, slot: u32, class: Dirty) {
        let entry = &mut self.slots[slot as usize];
        match (entry.dirty, class) {
            (Dirty::No, Dirty::Bulk) => {
                entry.dirty = Dirty::Bulk;
                self.bulk.push_back(slot);
            }
            (Dirty::No | Dirty::Bulk, Dirty::Small) => {
                entry.dirty = Dirty::Small;
                self.small.push_back(slot);
            }
            _ => {}
        }
    }

    /// Ends a connection: nothing more is placed; what waits is written, then `bye` and the close frame.
    ///
    /// True if it was open or pending. The owner resets the socket if the client does not answer in time.
    pub(crate) fn close(&mut self, at: SlotRef, bye: Option<Frame>, close: &Close) -> bool {
        self.end(at, bye, close, Departing::Left)
    }

    /// Ends a connection that is slow or silent: as [`Table::close`], but its client may come back to its channels.
    pub(crate) fn close_lost(&mut self, at: SlotRef, close: &Close) -> bool {
        self.end(at, None, close, Departing::Lost)
    }

    /// Sends a client away from a node that leaves: it may come back to its channels, here or on another node.
    pub(crate) fn send_away(&mut self, at: SlotRef, bye: Frame, close: &Close) -> bool {
        self.end(at, Some(bye), close, Departing::Lost)
    }

    fn end(
        &mut self,
        at: SlotRef,
        bye: Option<Frame>,
        close: &Close,
        departing: Departing<'_>,
    ) -> bool {
        match self.state(at) {
            State::Open => self.depart(at.slot, departing),
            // It was reached by nothing yet, so no index has it.
            State::Pending => {}
            State::Closing | State::Free => return false,
        }

        let entry = &mut self.slots[at.slot as usize];
        entry.state = State::Closing;
        entry.close_code = close.code;
        if let Some(bye) = bye {
            self.append(at.slot, bye);
        }

        self.append(at.slot, Frame::close(close));
        // The owner resets the socket if the client does not answer in time.
        self.closing.push(at);
        true
    }

    /// Answers a client's own close frame: as [`Table::close`], without counting as the server's doing. In the channels of
    /// `waiting` it is still counted for a while, in case its page was only loaded again.
    pub(crate) fn close_answer(
        &mut self,
        at: SlotRef,
        close: &Close,
        waiting: &[(SmolStr, Duration)],
    ) {
        if self.end(at, None, close, Departing::Closed(waiting)) {
            self.slots[at.slot as usize].close_code = 0;
        }
    }

    /// Ends a connection whose socket has failed: nothing more is placed, and its client may come back to its channels.
    pub(crate) fn lose(&mut self, at: SlotRef) {
        match self.state(at) {
            State::Open => self.depart(at.slot, Departing::Lost),
            State::Pending => {}
            State::Closing | State::Free => return,
        }
        let entry = &mut self.slots[at.slot as usize];
        entry.state = State::Closing;
        entry.close_code = 0;
        self.closing.push(at);
    }

    /// Ends a connection whose client has come back by another one: its channels wait for that.
    pub(crate) fn close_replaced(&mut self, at: SlotRef) {
        self.end(
            at,
            None,
            &Close::new(close::REPLACED, "resumed by another connection"),
            Departing::Lost,
        );
    }

    /// Ends a connection that reads too slowly: whole unwritten frames are thrown away and counted, a frame begun
    /// is finished, and the close frame follows it.
    ///
    /// True if it was open, or lost anything.
    pub(crate) fn close_slow(&mut self, at: SlotRef, why: &'static str) -> bool {
        let Some(entry) = self.slot(at) else {
            return false;
        };

        let app = entry.app;
        let Some(backlog) = entry.outbox.backlog() else {
            return false;
        };

        let (bytes, frames, since) = (
            backlog.all_bytes(),
            backlog.counted(),
            backlog.since.elapsed(),
        );

        let dropped = backlog.discard();
        // Before it is closed, which takes it out of its channels.
        let connection = entry.connection.clone();
        let is_closing = entry.state == State::Closing;

        self.context
            .app(app)
            .metrics
            .dropped(DropReason::Slow, dropped);
        self.charge(DISCARD_WORK.saturating_mul(frames as u32));
        if is_closing {
            return dropped > 0;
        }

        // The owner logs it, without the lock: the reader of the log may be slow as well.
        match connection {
            Some(connection) if self.slow.some.len() < SLOW_LOGGED => {
                self.slow.some.push(SlowConsumer {
                    connection,
                    bytes,
                    frames,
                    stalled: since,
                    why,
                });
            }
            _ => self.slow.more += 1,
        }

        self.charge(CHANNEL_WORK);
        self.close_lost(at, &Close::new(close::TOO_SLOW, "too slow"))
    }

    /// The backlog of `slot`, made of what waits for it where it has none yet.
    pub(super) fn backlog_of(&mut self, slot: u32) -> &mut Backlog {
        let entry = &mut self.slots[slot as usize];
        if !entry.outbox.is_blocked() {
            let wire = self.context.wire(entry.form);
            let mut backlog = Box::new(Backlog::of_willing(self.context.refused.clone(), wire));
            for queued in entry.outbox.take_queue(&mut self.log) {
                backlog.push(queued.frame);
            }
            self.block(slot, backlog);
        }

        match &mut self.slots[slot as usize].outbox {
            Outbox::Blocked(backlog) => backlog,
            _ => unreachable!("it was made so above"),
        }
    }

    /// Up to `most` connections whose sockets refused, from slot `from` on; and where the next ones begin, if there are more.
    pub(super) fn backlogs(&mut self, from: u32, most: usize) -> (Vec<Held>, Option<u32>) {
        let mut found = Vec::new();
        let mut rest = self.blocked.range(from..);
        while found.len() < most {
            let Some(slot) = rest.next() else {
                return (found, None);
            };

            let entry = &mut self.slots[slot as usize];
            let at = SlotRef {
                slot,
                generation: entry.generation,
            };

            let is_closing = entry.state == State::Closing;
            let backlog = entry.outbox.backlog();
            found.extend(backlog.map(|backlog| Held {
                share: backlog.share(),
                bytes: backlog.all_bytes(),
                is_closing,
                shard: self.shard.into(),
                at,
            }));
        }

        (found, rest.next())
    }

    /// The connections that began to close since the last call.
    pub(crate) fn take_closing(&mut self) -> Vec<SlotRef> {
        std::mem::take(&mut self.closing)
    }

    /// The consumers that were closed as slow since the last call, for the log.
    pub(crate) fn take_slow(&mut self) -> SlowConsumers {
        std::mem::take(&mut self.slow)
    }

    /// Blocks the outbox of `slot` with `backlog`, in front of which nothing waits.
    pub(super) fn block(&mut self, slot: u32, backlog: Box<Backlog>) {
        let entry = &mut self.slots[slot as usize];
        entry.dirty = Dirty::No;
        entry.outbox = Outbox::Blocked(backlog);
        self.note_blocked(slot);
    }
}
