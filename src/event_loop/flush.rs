//! Writing: a slice of dirty outboxes at a time, one vectored write each.

use std::{
    future::poll_fn,
    io,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    EventLoop, Seat, SeatEntry,
    deadlines::Due,
    write::{Sink, Volley, buffers, events, split, write},
};
use crate::{
    hub::{Batch, Load, Outcome, Progress, SlotRef, Table, Work},
    id::AppId,
    limits::{
        CLOSE_GRACE, LINGER, LINGER_PART, SLICE, SLICE_BESIDE_SMALL, SLICE_STRIDE, SMALL_EXPECTED,
        SMALL_SLICES_PER_BULK, WRITE_STRIDE, WRITE_VECTORS,
    },
    metrics::DropReason,
    protocol::frame::Frame,
};

impl EventLoop {
    /// Writes what is placed, until the thread ends. Sleeps when nothing waits.
    pub(super) async fn flush(self: Rc<Self>) {
        let mut batch = Batch::default();
        let mut volley = Volley::default();
        let mut outcome = Outcome::default();
        let mut delivered = vec![0u64; self.hub.context().apps.len()];
        let mut small_in_a_row = 0;
        let mut writing = false;
        let mut small_expected = Instant::now();
        loop {
            self.note_closing();
            let ((small, bulk), replays) = self
                .shard
                .own(|table| (table.waiting(), table.take_replays()));
            for at in replays {
                self.block(at);
            }
            if bulk != writing {
                writing = bulk;
                self.hub.note_writing(bulk);
            }
            if !small && !bulk {
                batch.window.release();
                self.shard.sleep().await;
                continue;
            }
            let small = small || (bulk && self.linger().await);
            let small = small && (!bulk || small_in_a_row < SMALL_SLICES_PER_BULK);
            small_in_a_row = if small { small_in_a_row + 1 } else { 0 };
            let begun = Instant::now();
            if small {
                small_expected = begun + SMALL_EXPECTED;
            }
            let (length, stride) = slice_for(small, begun < small_expected);
            let slice = (small, stride, begun + length);
            self.slice(slice, &mut batch, &mut volley, &mut outcome, &mut delivered);
            tokio::task::yield_now().await;
        }
    }

    /// Waits where the gate is full for a batch that is worth its system calls, but not for long; true if a small
    /// publication has come meanwhile.
    ///
    /// Another shard is behind then: what little could be written now would cost as many system calls as all that comes
    /// within the millisecond, and take the processor from those behind.
    async fn linger(&self) -> bool {
        if self.hub.shards().len() == 1 {
            return false;
        }
        let worth = self.hub.limits().bulk_publications / LINGER_PART;
        let until = tokio::time::Instant::now() + LINGER;
        loop {
            let (front, small) = self.shard.own(|table| (table.front(), table.waiting().0));
            if small || front >= worth || !self.hub.is_full() {
                return small;
            }
            if tokio::time::timeout_at(until, self.shard.placed())
                .await
                .is_err()
            {
                return false;
            }
        }
    }

    /// Works a flush list off until about `until`, `stride` connections at a time. A batch is taken, written and settled
    /// before the next one is taken, so that no frame can overtake another of its connection.
    fn slice(
        self: &Rc<Self>,
        (small, stride, until): (bool, usize, Instant),
        batch: &mut Batch,
        volley: &mut Volley,
        outcome: &mut Outcome,
        delivered: &mut [u64],
    ) {
        let waiting = self.shard.own(|table| table.bulk_len());
        volley.note_waiting(waiting);
        let mut written = 0;
        loop {
            if !self.shard.own(|table| table.take(small, stride, batch)) {
                break;
            }
            written += batch.works.len();
            self.write_batch(batch, volley, outcome, delivered);
            let (blocked, failed) = self.shard.own(|table| table.settle(outcome));
            for at in blocked {
                self.block(at);
            }
            for at in failed {
                self.broken(at);
            }
            if Instant::now() >= until {
                break;
            }
        }
        for (app, count) in self.hub.context().apps.iter().zip(delivered) {
            app.metrics.deliveries.inc_by(std::mem::take(count));
        }
        if !small {
            self.hub.note_written(written, waiting);
        }
        self.hub.shed();
    }

    fn write_batch(
        &self,
        batch: &mut Batch,
        shared: &mut Volley,
        outcome: &mut Outcome,
        delivered: &mut [u64],
    ) {
        let Batch { works, window } = batch;
        let seats = self.seats.borrow();
        // All before the first write: memory that was not touched for a while is waited for once, not once a write.
        let batch: SmallVec<[Option<Sink<'_>>; WRITE_STRIDE]> = works
            .iter()
            .map(|work| SeatEntry::of(&seats, work.at).map(|seat| Sink::new(&seat.socket)))
            .collect();
        for (work, sink) in works.drain(..).zip(batch) {
            let queue: Vec<Frame>;
            let own;
            let (frames, volley) = match &work.load {
                Load::Run { first, end } => {
                    outcome.finish(*first);
                    let frames = window.run(*first, *end);
                    shared.aim(*first, *end, frames);
                    (frames, &*shared)
                }
                Load::One(queued) => {
                    let frames = std::slice::from_ref(&queued.frame);
                    own = Volley::of(frames);
                    (frames, &own)
                }
                Load::Queue(waiting) => {
                    queue = waiting.iter().map(|queued| queued.frame.clone()).collect();
                    own = Volley::of(&queue);
                    (queue.as_slice(), &own)
                }
            };
            match sink {
                Some(sink) => {
                    delivered[work.app.0 as usize] +=
                        self.offer(&work, sink, frames, volley, outcome);
                }
                None => self.lost(work.app, frames),
            }
        }
    }

    /// Writes one connection's frames as far as its socket takes them; answers how many events went out whole.
    fn offer(
        &self,
        work: &Work,
        sink: Sink<'_>,
        frames: &[Frame],
        volley: &Volley,
        outcome: &mut Outcome,
    ) -> u64 {
        match volley.write(sink, frames) {
            Ok(taken) if taken == volley.bytes => {
                if work.closing {
                    sink.finish();
                }
                volley.events
            }
            Ok(taken) => {
                let (whole, begun) = split(frames, taken);
                outcome.refuse(work.at, frames[whole..].to_vec(), begun);
                events(&frames[..whole])
            }
            Err(error) => {
                tracing::debug!(%error, "write failed");
                self.lost(work.app, frames);
                outcome.fail(work.at);
                0
            }
        }
    }

    /// The socket is gone, and these frames with it.
    fn lost(&self, app: AppId, frames: &[Frame]) {
        self.hub
            .context()
            .app(app)
            .metrics
            .dropped(DropReason::Gone, events(frames));
    }

    /// A socket refused, or a replay waits for it: a task of its own writes the rest as the socket takes it, and ends
    /// with the backlog.
    pub(crate) fn block(self: &Rc<Self>, at: SlotRef) {
        let Some(seat) = self.seat_of(at) else { return };
        self.stalled.borrow_mut().insert(at, Instant::now());
        self.hub.context().metrics.blocked.inc();
        let this = self.clone();
        tokio::task::spawn_local(async move {
            let ended = this.drain(&seat).await;
            if this.stalled.borrow_mut().remove(&at).is_some() {
                this.hub.context().metrics.blocked.dec();
            }
            if ended.is_err() {
                this.broken(at);
            }
        });
    }

    async fn drain(&self, seat: &Seat) -> io::Result<()> {
        let mut frames = Vec::new();
        loop {
            if !poll_fn(|cx| Poll::Ready(seat.socket.poll_write_ready(cx).is_ready())).await {
                self.shard.own(|table| table.note_refusal(seat.at));
            }
            seat.socket.writable().await?;
            let Some(skip) = self
                .shard
                .own(|table| table.lend(seat.at, WRITE_VECTORS, &mut frames))
            else {
                return Ok(());
            };
            let left = frames.iter().map(Frame::len).sum::<usize>() - skip;
            let sink = Sink::new(&seat.socket);
            let result = write(sink, &frames, (skip, left), &buffers(&frames, skip));
            frames.clear();
            let taken = *result.as_ref().unwrap_or(&0);
            match self.shard.own(|table| table.advance(seat.at, taken)) {
                Progress::Blocked => {}
                Progress::Done { closing } => {
                    if closing {
                        sink.finish();
                    }
                    return Ok(());
                }
                Progress::Gone => return Ok(()),
            }
            result?;
            if taken > 0
                && let Some(since) = self.stalled.borrow_mut().get_mut(&seat.at)
            {
                *since = Instant::now();
            }
        }
    }

    /// A socket failed: its reader is woken and ends the connection.
    fn broken(&self, at: SlotRef) {
        if let Some(seat) = self.seat_of(at) {
            seat.reset();
        }
    }

    /// Gives every connection that began to close its time to answer.
    pub(super) fn note_closing(&self) {
        for at in self.shard.own(Table::take_closing) {
            self.deadlines
                .borrow_mut()
                .push(CLOSE_GRACE, at, Due::Reset);
        }
    }
}

/// How long to write at a stretch, and to how many between two looks at the clock: from the list of small publications or
/// the other, and whether small ones come.
fn slice_for(small: bool, small_expected: bool) -> (Duration, usize) {
    // Small ones are written as fast as they are placed, or they would pile up before the gate.
    if small_expected && !small {
        (SLICE_BESIDE_SMALL, SLICE_STRIDE)
    } else {
        (SLICE, WRITE_STRIDE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writing_to_many_is_cut_short_for_single_events() {
        assert_eq!(slice_for(false, true), (SLICE_BESIDE_SMALL, SLICE_STRIDE));
        assert_eq!(
            [(true, true), (true, false), (false, false)]
                .map(|(small, come)| slice_for(small, come)),
            [(SLICE, WRITE_STRIDE); 3]
        );
    }
}
