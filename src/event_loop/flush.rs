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
    EventLoop, LocalSocket, SocketEntry,
    deadlines::Due,
    write::{Cut, PreparedWrite, PreparedWrites, Sink, Unwritten, buffers, events, split, write},
};
use crate::{
    close,
    hub::{
        Batch, Load, Outcome, Progress, Settled, SlotRef, SlowConsumer, Table, WaitingLists, Work,
    },
    id::AppId,
    limits::{
        CLOSE_GRACE, COALESCE_DELAY, COALESCE_PART, SLICE, SLICE_BESIDE_SMALL, SLICE_STRIDE,
        SMALL_EXPECTED, SMALL_SLICES_PER_BULK, WRITE_STRIDE, WRITE_VECTORS,
    },
    log_limit::Line,
    metrics::DropReason,
    protocol::frame::Frame,
    time_slice::TimeSlice,
};

impl EventLoop {
    /// Writes what is placed, until the thread ends. Sleeps when nothing waits.
    pub(super) async fn flush(self: Rc<Self>) {
        let mut batch = Batch::default();
        let mut write = PreparedWrites::default();
        let mut outcome = Outcome::default();
        let mut delivered = vec![0u64; self.hub.context().apps.len()];
        let mut small_in_a_row = 0;
        let mut writing = false;
        let mut small_expected = Instant::now();

        // This was spent on small ones since the last slice for many.
        let mut small_time = Duration::ZERO;
        loop {
            self.flushes.set(self.flushes.get().wrapping_add(1));
            self.note_closing();
            let WaitingLists { small, bulk } = self.shard.lock(|table| table.waiting());

            if bulk != writing {
                writing = bulk;
                self.hub.note_writing(bulk);
            }

            if !small && !bulk {
                batch.window.release();
                write.release();
                if self.hub.shed() {
                    tokio::task::yield_now().await;
                } else {
                    self.shard.sleep().await;
                }
                continue;
            }

            let small = small || (bulk && self.linger().await);
            // Small ones go first, but after some slices the others get one, or they would starve.
            let small = small && (!bulk || small_in_a_row < SMALL_SLICES_PER_BULK);
            small_in_a_row = if small { small_in_a_row + 1 } else { 0 };
            let begun = Instant::now();
            if small {
                small_expected = begun + SMALL_EXPECTED;
            }

            let Stretch { length, stride } = stretch_of(small, begun < small_expected, small_time);

            let slice = Slice {
                small,
                stride,
                until: begun + length,
            };
            self.slice(slice, &mut batch, &mut write, &mut outcome, &mut delivered);
            small_time = if small {
                small_time + begun.elapsed()
            } else {
                Duration::ZERO
            };

            // Sessions, HTTP and all else on this thread run between two slices.
            tokio::task::yield_now().await;
        }
    }

    /// Waits where admission is full for a batch that is worth its system calls, but not for long; true if a small
    /// publication has come in the meantime.
    ///
    /// Another shard lags then: what little could be written now would cost as many system calls as all that comes
    /// within the millisecond, and take the processor from the shards that lag.
    async fn linger(&self) -> bool {
        if self.hub.shards().len() == 1 {
            return false;
        }
        let worth = self.hub.limits().bulk_publications / COALESCE_PART;
        let end = tokio::time::Instant::now() + COALESCE_DELAY;
        let look = |table: &mut Table| {
            let (front, small) = (table.front(), table.waiting().small);
            (small || front >= worth || !self.hub.is_full()).then_some(small)
        };
        self.shard.look_until(end, look).await.unwrap_or(false)
    }

    /// Works a flush list off for one slice. A batch is taken, written and settled
    /// before the next one is taken, so that no frame can overtake another of its connection.
    fn slice(
        self: &Rc<Self>,
        Slice {
            small,
            stride,
            until,
        }: Slice,
        batch: &mut Batch,
        write: &mut PreparedWrites,
        outcome: &mut Outcome,
        delivered: &mut [u64],
    ) {
        let waiting = self.shard.lock(|table| table.bulk_len());
        write.note_waiting(waiting);
        let mut written = 0;

        loop {
            // Borrowed from the taking to the settling: nothing else of this thread may touch what is out.
            let mut owner = self.owner.borrow_mut();
            let take = |table: &mut Table| table.take(&mut owner, small, stride, batch);
            if !self.shard.lock(take) {
                break;
            }

            written += batch.works.len();
            self.write_batch(batch, write, outcome, delivered);
            let Settled { blocked, failed } =
                self.shard.lock(|table| table.settle(&mut owner, outcome));
            drop(owner);

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
        shared: &mut PreparedWrites,
        outcome: &mut Outcome,
        delivered: &mut [u64],
    ) {
        let Batch { works, window } = batch;
        let forms = &self.hub.context().forms;
        let sockets = self.sockets.borrow();

        // All before the first write: memory that was not touched for a while is waited for once, not once a write.
        let batch: SmallVec<[Option<Sink<'_>>; WRITE_STRIDE]> = works
            .iter()
            .map(|work| SocketEntry::of(&sockets, work.at).map(|socket| Sink::new(&socket.stream)))
            .collect();

        for (work, sink) in works.drain(..).zip(batch) {
            let (one, queue): (Frame, Vec<Frame>);
            let own;
            let (frames, write) = match &work.load {
                Load::Run { first, end } => {
                    // Even before it is written: what the socket refuses goes to a backlog, and no
                    // longer counts as a run.
                    outcome.finish(*first);
                    let frames = window.run(*first, *end);
                    shared.select_run(work.form, forms, *first..*end, frames)
                }
                Load::One(queued) => {
                    let frames = if work.form.is_native() {
                        std::slice::from_ref(&queued.frame)
                    } else {
                        one = forms.frame(work.form, &queued.frame);
                        std::slice::from_ref(&one)
                    };
                    own = PreparedWrite::of(frames);
                    (frames, &own)
                }
                Load::Queue(waiting) => {
                    let frames = waiting.iter().map(|queued| &queued.frame);
                    queue = frames.map(|frame| forms.frame(work.form, frame)).collect();
                    own = PreparedWrite::of(&queue);
                    (queue.as_slice(), &own)
                }
            };

            match sink {
                Some(sink) => {
                    delivered[work.app.0 as usize] +=
                        self.offer(&work, sink, frames, write, outcome);
                }
                None => self.lost(work.app, frames),
            }
        }
    }

    /// Writes one connection's frames as far as its socket takes them; returns how many events went out whole.
    fn offer(
        &self,
        work: &Work,
        sink: Sink<'_>,
        frames: &[Frame],
        write: &PreparedWrite,
        outcome: &mut Outcome,
    ) -> u64 {
        match write.write(sink, frames) {
            Ok(taken) if taken == write.bytes => {
                if work.closing {
                    sink.finish();
                    if let Some(socket) = self.socket_of(work.at) {
                        socket.has_said_all();
                    }
                }
                write.events
            }
            Ok(taken) => {
                let Cut { whole, begun } = split(frames, taken);
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
        let Some(socket) = self.socket_of(at) else {
            return;
        };

        socket.stalled.set(Some(Instant::now()));
        self.watch_stalled(&socket, self.hub.limits().outbox_age);
        self.hub.context().metrics.blocked.inc();

        let this = self.clone();
        tokio::task::spawn_local(async move {
            let ended = this.drain(&socket).await;
            if socket.stalled.take().is_some() {
                this.hub.context().metrics.blocked.dec();
            }
            if ended.is_err() {
                this.broken(at);
            }
        });
    }

    async fn drain(&self, socket: &LocalSocket) -> io::Result<()> {
        let mut frames = Vec::new();
        let mut slice = TimeSlice::begin();
        loop {
            // Without tokio's budget: one that is used up would be taken for a socket that refuses.
            let look = poll_fn(|cx| Poll::Ready(socket.stream.poll_write_ready(cx).is_ready()));
            if !tokio::task::coop::unconstrained(look).await {
                self.shard.lock(|table| table.note_refusal(socket.at));
            }

            socket.stream.writable().await?;
            slice.rest().await;

            let mut owner = self.owner.borrow_mut();
            let lend =
                |table: &mut Table| table.lend(&mut owner, socket.at, WRITE_VECTORS, &mut frames);
            let Some(skip) = self.shard.lock(lend) else {
                return Ok(());
            };

            let left = frames.iter().map(Frame::len).sum::<usize>() - skip;
            let sink = Sink::new(&socket.stream);
            let unwritten = Unwritten { skip, left };
            let result = write(sink, &frames, unwritten, &buffers(&frames, skip));
            frames.clear();
            let taken = *result.as_ref().unwrap_or(&0);
            let progress = self
                .shard
                .lock(|table| table.advance(&mut owner, socket.at, taken));
            drop(owner);

            match progress {
                Progress::Blocked => {}
                Progress::Done { closing } => {
                    if closing {
                        sink.finish();
                        socket.has_said_all();
                    }
                    return Ok(());
                }
                Progress::Gone => return Ok(()),
            }

            // Only now: what was taken before the failure had to be settled.
            result?;
            if taken > 0 && socket.stalled.get().is_some() {
                socket.stalled.set(Some(Instant::now()));
            }
        }
    }

    /// A socket failed: its reader is woken and ends the connection. What the session waits for before it reads on is over
    /// as well, since nobody will ever read what is in the way.
    fn broken(&self, at: SlotRef) {
        if let Some(socket) = self.socket_of(at) {
            socket.reset();
            self.shard.lock_and_wake(|table| table.lose(at));
        }
    }

    /// Gives every connection that began to close its time to answer.
    pub(super) fn note_closing(&self) {
        let (closing, slow) = self
            .shard
            .lock(|table| (table.take_closing(), table.take_slow()));
        let mut deadlines = self.deadlines.borrow_mut();
        for at in closing {
            let grace = self
                .socket_of(at)
                .map_or(CLOSE_GRACE, |socket| socket.close_grace());
            deadlines.push(grace, at, Due::Reset);
        }

        let lines = &self.hub.context().lines;
        for one in slow.some {
            if let Some(others) = lines.note(Line::SlowConsumer) {
                self.log_slow(&one, others);
            }
        }

        lines.add(Line::SlowConsumer, slow.more);
    }

    fn log_slow(&self, one: &SlowConsumer, others: u64) {
        let connection = &one.connection;
        tracing::warn!(
            others,
            app = %self.hub.context().app(connection.app).name,
            connection = %connection.id(),
            user = connection.user().unwrap_or(""),
            ip = %connection.attributes.connection.ip,
            code = close::TOO_SLOW,
            waiting_bytes = one.bytes,
            waiting_frames = one.frames,
            stalled_ms = one.stalled.as_millis() as u64,
            "slow consumer closed: {}",
            one.why
        );
    }
}

/// What is worked off a flush list before other tasks of the thread continue.
#[derive(Clone, Copy, Debug)]
struct Slice {
    /// Whether it is from the list of small publications.
    small: bool,
    /// Connections at a time.
    stride: usize,
    /// About when it ends.
    until: Instant,
}

/// How long to write at a stretch, and to how many connections between two looks at the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stretch {
    length: Duration,
    stride: usize,
}

/// How to write from the list of small publications or the other, and whether small ones come.
///
/// `small_time` was spent on small ones since the last slice for many.
fn stretch_of(small: bool, small_expected: bool, small_time: Duration) -> Stretch {
    // Small ones are written as fast as they are placed, or they would pile up before admission.
    if small || !small_expected {
        return Stretch {
            length: SLICE,
            stride: WRITE_STRIDE,
        };
    }
    // Small ones that fill their slices leave a fifth of the thread to those for many.
    let share = small_time / SMALL_SLICES_PER_BULK as u32;
    Stretch {
        length: share.clamp(SLICE_BESIDE_SMALL, SLICE),
        stride: SLICE_STRIDE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_writing_to_many_is_cut_short_for_single_events() {
        let none = Duration::ZERO;
        let of = |length, stride| Stretch { length, stride };
        assert_eq!(
            stretch_of(false, true, none),
            of(SLICE_BESIDE_SMALL, SLICE_STRIDE)
        );
        assert_eq!(
            [(true, true), (true, false), (false, false)]
                .map(|(small, come)| stretch_of(small, come, none)),
            [of(SLICE, WRITE_STRIDE); 3]
        );
    }

    #[test]
    fn writing_to_many_gets_a_fifth_of_the_thread_however_many_single_events_come() {
        let all = SLICE * SMALL_SLICES_PER_BULK as u32;
        assert_eq!(stretch_of(false, true, all).length, SLICE);
        assert_eq!(stretch_of(false, true, all / 2).length, SLICE / 2);
        assert_eq!(stretch_of(false, true, all * 9).length, SLICE);
    }
}
