//! What waits for one connection's socket.

use std::{
    collections::VecDeque,
    mem,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Instant,
};

use super::{admission::Permit, forms::Wire, log::Log};
use crate::{limits::SHED_FRAMES, protocol::frame::Frame};

/// A frame that no socket was offered yet, and the admission it came by (none for the protocol's own frames).
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) frame: Frame,
    #[expect(dead_code, reason = "held until the frame is offered, not read")]
    pub(crate) permit: Option<Permit>,
}

/// The frames of one connection, in order.
#[derive(Debug, Default)]
pub(super) enum Outbox {
    /// Nothing waits.
    #[default]
    Empty,
    /// The log's frames `first..end`; the usual case under load, without allocation.
    Run {
        /// Number of the first frame.
        first: u64,
        /// One past the last.
        end: u64,
    },
    /// One frame of its own; the usual case of a targeted event.
    One(Queued),
    /// Frames that are no run of the log.
    Queue(VecDeque<Queued>),
    /// The socket refused.
    Blocked(Box<Backlog>),
}

impl Outbox {
    /// Appends the log's newest frame, `number`.
    pub(super) fn extend(&mut self, number: u64, frame: &Frame, permit: &Permit, log: &mut Log) {
        match self {
            Self::Empty => {
                log.start(number);
                *self = Self::Run {
                    first: number,
                    end: number + 1,
                };
            }
            Self::Run { end, .. } if *end == number => *end += 1,
            _ => self.push(
                Queued {
                    frame: frame.clone(),
                    permit: Some(permit.clone()),
                },
                log,
            ),
        }
    }

    /// Appends the log's `count` frames from `first` on; false, and nothing is appended, where that makes no run.
    pub(super) fn extend_run(&mut self, first: u64, count: usize, log: &mut Log) -> bool {
        let end = first + count as u64;
        match self {
            Self::Empty => {
                log.start(first);
                *self = Self::Run { first, end };
                true
            }
            Self::Run { end: last, .. } if *last == first => {
                *last = end;
                true
            }
            _ => false,
        }
    }

    /// Appends a frame of its own.
    pub(super) fn push(&mut self, queued: Queued, log: &mut Log) {
        match self {
            Self::Empty => *self = Self::One(queued),
            Self::Queue(queue) => queue.push_back(queued),
            Self::Blocked(backlog) => backlog.push(queued.frame),
            Self::Run { .. } | Self::One(_) => {
                let mut queue = self.take_queue(log);
                queue.push_back(queued);
                *self = Self::Queue(queue);
            }
        }
    }

    /// Empties an outbox that is not blocked into a queue; a run's place in the log is given up.
    pub(super) fn take_queue(&mut self, log: &mut Log) -> VecDeque<Queued> {
        match mem::take(self) {
            Self::Empty => VecDeque::new(),
            Self::One(queued) => VecDeque::from([queued]),
            Self::Queue(queue) => queue,
            Self::Run { first, end } => {
                let queue = log.queued(first, end).collect();
                log.finish(first, 1);
                queue
            }
            Self::Blocked(backlog) => {
                *self = Self::Blocked(backlog);
                VecDeque::new()
            }
        }
    }

    /// Frames that wait to be offered.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty | Self::Blocked(_) => 0,
            Self::Run { first, end } => (end - first) as usize,
            Self::One(_) => 1,
            Self::Queue(queue) => queue.len(),
        }
    }

    /// The backlog, if the socket refused.
    pub(super) fn backlog(&mut self) -> Option<&mut Backlog> {
        match self {
            Self::Blocked(backlog) => Some(backlog),
            _ => None,
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        matches!(self, Self::Blocked(_))
    }

    /// Whether over `bytes` wait that are no run of the log. Costs one look at each frame, up to the bound.
    pub(super) fn is_over(&self, bytes: usize) -> bool {
        match self {
            Self::Empty | Self::Run { .. } => false,
            Self::One(queued) => queued.frame.len() > bytes,
            Self::Queue(queue) => {
                let mut left = bytes;
                queue.iter().any(|queued| {
                    let rest = left.checked_sub(queued.frame.len());
                    left = rest.unwrap_or(0);
                    rest.is_none()
                })
            }
            Self::Blocked(backlog) => backlog.all_bytes() > bytes,
        }
    }
}

/// Frames that a socket refused, or that are replayed to it, and those that came after them.
///
/// Only the thread that owns the socket takes from the front; any thread may append. While the owner writes, the
/// frames it holds stay in place, and what another thread wants thrown away waits for it.
#[derive(Debug)]
pub(super) struct Backlog {
    frames: VecDeque<Waiting>,
    /// Bytes of the first frame that the socket has taken.
    written: usize,
    /// Bytes not yet taken, without replayed ones.
    bytes: usize,
    /// Frames that are not replayed.
    counted: usize,
    /// Bytes of replayed frames not yet taken.
    replayed_bytes: usize,
    /// Frames at the front that are known to be replayed, or to carry no event: what is thrown away comes after them.
    settled: usize,
    /// What the owner is writing now, at the front.
    in_flight: InFlight,
    /// Whole unwritten frames are to be thrown away as soon as the owner has written.
    discard: bool,
    /// The socket refused; until it does, nobody can be called slow.
    refused: bool,
    /// When the socket first refused.
    pub(super) since: Instant,
    /// Bytes refused on the whole node, shared bytes once.
    total: Arc<AtomicUsize>,
    /// The form of its connection, if that is not the native one. Every frame here is in it.
    wire: Option<Wire>,
}

/// What the owner of a backlog is writing.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    frames: usize,
    /// Those not yet taken.
    bytes: usize,
}

/// How many events have gone when lent frames came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Advanced {
    /// Went out whole.
    pub(super) written: u64,
    /// Were thrown away because someone asked in the meantime.
    pub(super) dropped: u64,
}

/// Frames out of a history, ready to be handed over: there may be thousands, and the shard's lock is not held in the
/// meantime.
///
/// They count as refused bytes of the node from now on.
#[derive(Debug)]
pub(crate) struct Replay(Backlog);

impl Replay {
    /// `frames`, counted in `total`, in the form that `wire` writes, if any.
    pub(crate) fn new(
        total: Arc<AtomicUsize>,
        wire: Option<Wire>,
        frames: impl IntoIterator<Item = Frame>,
    ) -> Self {
        let mut backlog = Backlog::of_willing(total, wire);
        for frame in frames {
            let frame = match &backlog.wire {
                Some(wire) => wire.replayed(&frame),
                None => frame,
            };

            // The client's protocol has no word for it.
            if frame.is_empty() {
                continue;
            }

            backlog.replayed_bytes += frame.len();
            backlog.wait(Waiting {
                frame,
                replayed: true,
            });
        }

        Self(backlog)
    }

    /// Whether there is nothing to hand over.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug)]
struct Waiting {
    frame: Frame,
    /// Handed out of a history: no fault of a slow consumer, however many there are.
    replayed: bool,
}

impl Backlog {
    /// An empty one of a socket that has refused. `wire` writes the form of its connection.
    pub(super) fn of_refusing(total: Arc<AtomicUsize>, wire: Option<Wire>) -> Self {
        let mut backlog = Self::of_willing(total, wire);
        backlog.refused = true;
        backlog
    }

    /// An empty one of a socket that is about to be offered a replay.
    pub(super) fn of_willing(total: Arc<AtomicUsize>, wire: Option<Wire>) -> Self {
        Self {
            frames: VecDeque::new(),
            written: 0,
            bytes: 0,
            counted: 0,
            replayed_bytes: 0,
            settled: 0,
            in_flight: InFlight::default(),
            discard: false,
            refused: false,
            since: Instant::now(),
            total,
            wire,
        }
    }

    /// Sets what writes the form of its connection from now on.
    pub(super) fn set_wire(&mut self, wire: Option<Wire>) {
        self.wire = wire;
    }

    /// `frame` in the form of the connection; `None` if that has no word for it.
    fn in_form(&self, frame: Frame) -> Option<Frame> {
        match &self.wire {
            Some(wire) => Some(wire.frame(&frame)).filter(|frame| !frame.is_empty()),
            None => Some(frame),
        }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        let Some(frame) = self.in_form(frame) else {
            return;
        };
        self.bytes += frame.len();
        self.counted += 1;
        self.wait(Waiting {
            frame,
            replayed: false,
        });
    }

    /// Appends frames out of a history, which the bounds of the connection do not count.
    pub(super) fn append(&mut self, mut replay: Replay) {
        self.replayed_bytes += mem::take(&mut replay.0.replayed_bytes);
        self.frames.append(&mut replay.0.frames);
    }

    fn wait(&mut self, waiting: Waiting) {
        // The bytes of a frame are shared, its place in this queue is not.
        let mut bytes = size_of::<Waiting>();
        if waiting.frame.note_refused() {
            bytes += waiting.frame.len();
        }
        self.total.fetch_add(bytes, Relaxed);
        self.frames.push_back(waiting);
    }

    /// Notes that the socket took `written` bytes of the first frame before it refused.
    pub(super) fn begun(&mut self, written: usize) {
        self.take_bytes(written);
        self.written = written;
    }

    /// All bytes that wait.
    pub(super) fn all_bytes(&self) -> usize {
        self.bytes + self.replayed_bytes
    }

    /// About how many bytes of the node it stands for: of a frame that waits for several sockets only its part. All backlogs
    /// together stand for what the node holds.
    pub(super) fn share(&self) -> usize {
        // At most so many frames are looked at, since this runs under the lock.
        let apart = self.frames.len().div_ceil(SHED_FRAMES).max(1);
        let (mut all, mut shares) = (0, 0);
        for Waiting { frame, .. } in self.frames.iter().step_by(apart) {
            all += frame.len();
            shares += frame.len().div_ceil(frame.refusals().max(1));
        }
        let of_frames = (self.all_bytes() as u128 * shares as u128 / all.max(1) as u128) as usize;
        // Its places in this queue are its own.
        of_frames + self.frames.len() * size_of::<Waiting>()
    }

    /// Whether frames out of a history still wait.
    pub(super) fn is_replaying(&self) -> bool {
        self.replayed_bytes > 0
    }

    /// Notes that the socket takes nothing more for now.
    pub(super) fn note_refusal(&mut self) {
        self.refused = true;
    }

    /// Frames that count towards the connection's bound.
    pub(super) fn counted(&self) -> usize {
        self.counted
    }

    /// Whether the connection waits for more than its bounds allow, by its own fault.
    pub(super) fn is_over(&self, max_bytes: usize, max_frames: usize) -> bool {
        self.refused && (self.bytes > max_bytes || self.counted > max_frames)
    }

    /// Hands up to `max` frames to the owner for one write, with the bytes of the first that are written already.
    pub(super) fn lend(&mut self, max: usize, to: &mut Vec<Frame>) -> usize {
        to.clear();
        to.extend(
            self.frames
                .iter()
                .take(max)
                .map(|waiting| waiting.frame.clone()),
        );
        self.in_flight = InFlight {
            frames: to.len(),
            bytes: to.iter().map(Frame::len).sum::<usize>() - self.written,
        };
        self.written
    }

    /// Takes back what was lent, of which the socket took `taken` bytes.
    pub(super) fn advance(&mut self, mut taken: usize) -> Advanced {
        let lent = mem::take(&mut self.in_flight);
        // Whatever it left has been refused, so the client may be slow from now on.
        self.refused |= taken < lent.bytes;
        let mut written = 0;

        while let Some(first) = self.frames.front() {
            let left = first.frame.len() - self.written;
            if taken < left {
                self.take_bytes(taken);
                self.written += taken;
                break;
            }
            written += u64::from(first.frame.is_event());
            taken -= left;
            self.take_bytes(left);
            self.written = 0;
            self.pop_front();
        }

        let dropped = if mem::take(&mut self.discard) {
            self.discard_rest()
        } else {
            0
        };

        Advanced { written, dropped }
    }

    /// Throws whole unwritten frames away, now or when the owner has written; answers how many events went now.
    pub(super) fn discard(&mut self) -> u64 {
        // The owner writes them now, without the lock, and would lose its place.
        if self.in_flight.frames > 0 {
            self.discard = true;
            return 0;
        }
        self.discard_rest()
    }

    /// Throws away the oldest whole events that are neither being written nor replayed until the backlog keeps the
    /// bounds, or none is left.
    pub(super) fn discard_oldest(&mut self, max_bytes: usize, max_frames: usize) -> u64 {
        // What is being written must stay whole, and so must a frame whose beginning was sent.
        let begun = self.in_flight.frames.max(usize::from(self.written > 0));
        let mut at = begun.max(self.settled);
        let mut events = 0;

        // The newest stays: a client that gets nothing would be behind for good.
        while at + 1 < self.frames.len() && self.is_over(max_bytes, max_frames) {
            if self.frames[at].replayed || !self.frames[at].frame.is_event() {
                // The next event to be placed need not walk over them again: a replay may have thousands.
                self.settled += usize::from(at == self.settled);
                at += 1;
                continue;
            }

            let Some(Waiting { frame, .. }) = self.frames.remove(at) else {
                break;
            };

            self.bytes -= frame.len();
            self.counted -= 1;
            events += 1;
            self.forget(&frame);
        }

        events
    }

    /// Events that wait.
    pub(super) fn events(&self) -> u64 {
        self.frames
            .iter()
            .map(|waiting| u64::from(waiting.frame.is_event()))
            .sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Close frames that were appended after the discarded ones are kept: they are no events.
    fn discard_rest(&mut self) -> u64 {
        let begun = usize::from(self.written > 0);
        let mut dropped = 0;
        let mut left = VecDeque::with_capacity(2);

        for (at, waiting) in mem::take(&mut self.frames).into_iter().enumerate() {
            if at < begun || waiting.frame.is_close() {
                left.push_back(waiting);
                continue;
            }

            dropped += u64::from(waiting.frame.is_event());
            if waiting.replayed {
                self.replayed_bytes -= waiting.frame.len();
            } else {
                self.bytes -= waiting.frame.len();
                self.counted -= 1;
            }

            self.forget(&waiting.frame);
        }

        self.frames = left;
        self.settled = 0;
        dropped
    }

    /// Notes that the socket took `bytes` of the first frame.
    fn take_bytes(&mut self, bytes: usize) {
        if self.frames.front().is_some_and(|first| first.replayed) {
            self.replayed_bytes -= bytes;
        } else {
            self.bytes -= bytes;
        }
    }

    fn pop_front(&mut self) {
        if let Some(Waiting { frame, replayed }) = self.frames.pop_front() {
            self.counted -= usize::from(!replayed);
            self.settled = self.settled.saturating_sub(1);
            self.forget(&frame);
        }
    }

    fn forget(&self, frame: &Frame) {
        let mut bytes = size_of::<Waiting>();
        if frame.forget_refused() {
            bytes += frame.len();
        }
        self.total.fetch_sub(bytes, Relaxed);
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        while !self.frames.is_empty() {
            self.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{close::Close, limits};

    fn frame(n: usize) -> Frame {
        Frame::event_text(&[&vec![0; n]])
    }

    fn advanced(written: u64, dropped: u64) -> Advanced {
        Advanced { written, dropped }
    }

    #[test]
    fn refused_bytes_are_counted_once_however_many_sockets_refused_them() {
        let total = Arc::new(AtomicUsize::new(0));
        let shared = frame(98);
        let mut boxes: Vec<Backlog> = (0..3)
            .map(|_| Backlog::of_refusing(total.clone(), None))
            .collect();
        for backlog in &mut boxes {
            backlog.push(shared.clone());
        }
        // Each has a place of its own in each queue.
        assert_eq!(total.load(Relaxed), 100 + 3 * size_of::<Waiting>());
        boxes.truncate(1);
        assert_eq!(total.load(Relaxed), 100 + size_of::<Waiting>());
        assert_eq!(boxes[0].advance(100), advanced(1, 0));
        assert_eq!(total.load(Relaxed), 0);
    }

    #[test]
    fn a_frame_begun_is_finished_and_the_rest_is_thrown_away() {
        let mut backlog = Backlog::of_refusing(Arc::default(), None);
        (0..3).for_each(|_| backlog.push(frame(98)));
        backlog.begun(10);
        let mut lent = Vec::new();
        assert_eq!(backlog.lend(limits::WRITE_VECTORS, &mut lent), 10);
        assert_eq!(backlog.discard(), 0, "the owner is writing");
        backlog.push(Frame::close(&Close::new(4101, "too slow")));
        assert_eq!(
            backlog.advance(95),
            advanced(1, 1),
            "the second frame was begun by this write, the third was not"
        );
        assert_eq!((backlog.counted(), backlog.bytes), (2, 95 + 12));
        assert_eq!(backlog.advance(95 + 12), advanced(1, 0));
        assert!(backlog.is_empty());
    }

    #[test]
    fn the_oldest_go_first_where_that_is_the_policy() {
        let mut backlog = Backlog::of_refusing(Arc::default(), None);
        (0..5).for_each(|_| backlog.push(frame(98)));
        backlog.begun(1);
        assert_eq!(backlog.discard_oldest(250, 1000), 3);
        assert_eq!((backlog.counted(), backlog.bytes), (2, 199));
    }

    #[test]
    fn what_is_thrown_away_stands_after_a_replay_however_often_one_looks() {
        let total = Arc::new(AtomicUsize::new(0));
        let mut backlog = Backlog::of_refusing(total.clone(), None);
        backlog.append(Replay::new(total, None, (0..3).map(|_| frame(98))));
        backlog.push(Frame::ping(b""));
        for _ in 0..4 {
            backlog.push(frame(98));
            backlog.discard_oldest(250, 1000);
        }
        assert_eq!(backlog.settled, 4, "three replayed frames and a ping");
        assert_eq!((backlog.frames.len(), backlog.counted()), (6, 3));

        // What the owner writes from the front moves the mark along.
        let mut lent = Vec::new();
        backlog.lend(2, &mut lent);
        backlog.advance(200);
        assert_eq!(backlog.settled, 2);
        backlog.push(frame(98));
        assert_eq!(backlog.discard_oldest(250, 1000), 1);
        backlog.lend(16, &mut lent);
        backlog.advance(usize::MAX / 2);
        assert!(backlog.is_empty());
    }

    #[test]
    fn a_replay_is_no_fault_of_its_reader_and_what_comes_behind_it_only_once_the_socket_refused() {
        let total = Arc::new(AtomicUsize::new(0));
        let mut backlog = Backlog::of_willing(total.clone(), None);
        backlog.append(Replay::new(total, None, (0..5).map(|_| frame(98))));
        (0..3).for_each(|_| backlog.push(frame(98)));
        assert_eq!(
            (backlog.counted(), backlog.bytes, backlog.all_bytes()),
            (3, 300, 800)
        );
        assert!(
            !backlog.is_over(100, 1),
            "the socket was offered nothing yet"
        );
        let mut lent = Vec::new();
        assert_eq!(backlog.lend(2, &mut lent), 0);
        assert_eq!(backlog.advance(200), advanced(2, 0));
        assert!(
            !backlog.is_over(100, 1),
            "the socket took all that it was offered"
        );
        backlog.lend(2, &mut lent);
        assert_eq!(backlog.advance(150), advanced(1, 0));
        assert!(backlog.is_over(100, 1) && !backlog.is_over(300, 3));
        assert_eq!(backlog.discard_oldest(100, 1), 2, "what is replayed stays");
        assert_eq!((backlog.counted(), backlog.all_bytes()), (1, 100 + 150));
        backlog.lend(8, &mut lent);
        assert_eq!(backlog.advance(250), advanced(3, 0));
        assert!(backlog.is_empty());
        assert_eq!(
            (backlog.bytes, backlog.replayed_bytes, backlog.counted()),
            (0, 0, 0)
        );
    }
}
