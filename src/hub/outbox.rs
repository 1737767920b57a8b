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

use super::{gate::Ticket, log::Log};
use crate::protocol::frame::Frame;

/// A frame that no socket was offered yet, and the admission it came by (none for the protocol's own frames).
#[derive(Clone, Debug)]
pub(crate) struct Queued {
    pub(crate) frame: Frame,
    #[expect(dead_code, reason = "held until the frame is offered, not read")]
    pub(crate) ticket: Option<Ticket>,
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
    pub(super) fn extend(&mut self, number: u64, frame: &Frame, ticket: &Ticket, log: &mut Log) {
        match self {
            Self::Empty => {
                log.start(number);
                *self = Self::Run { first: number, end: number + 1 };
            }
            Self::Run { end, .. } if *end == number => *end += 1,
            _ => self.push(Queued { frame: frame.clone(), ticket: Some(ticket.clone()) }, log),
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
}

/// Frames that a socket refused, and those that came behind them.
///
/// Only the thread that owns the socket takes from the front; any thread may append. While the owner writes, the
/// frames it holds stay in place, and what another thread wants thrown away waits for it.
#[derive(Debug)]
pub(super) struct Backlog {
    frames: VecDeque<Frame>,
    /// Bytes of the first frame that the socket has taken.
    written: usize,
    /// Bytes not yet taken.
    bytes: usize,
    /// Frames at the front that the owner is writing now.
    in_flight: usize,
    /// Whole unwritten frames are to be thrown away as soon as the owner has written.
    discard: bool,
    /// When the socket first refused.
    pub(super) since: Instant,
    /// Bytes refused on the whole node, shared bytes once.
    total: Arc<AtomicUsize>,
}

impl Backlog {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self {
            frames: VecDeque::new(),
            written: 0,
            bytes: 0,
            in_flight: 0,
            discard: false,
            since: Instant::now(),
            total,
        }
    }

    pub(super) fn push(&mut self, frame: Frame) {
        self.bytes += frame.len();
        if frame.note_refused() {
            self.total.fetch_add(frame.len(), Relaxed);
        }
        self.frames.push_back(frame);
    }

    /// Notes that the socket took `written` bytes of the first frame before it refused.
    pub(super) fn begun(&mut self, written: usize) {
        self.bytes -= written;
        self.written = written;
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Hands up to `max` frames to the owner for one write, with the bytes of the first that are written already.
    pub(super) fn lend(&mut self, max: usize, to: &mut Vec<Frame>) -> usize {
        to.clear();
        to.extend(self.frames.iter().take(max).cloned());
        self.in_flight = to.len();
        self.written
    }

    /// Takes back what was lent, of which the socket took `taken` bytes; answers how many events went out whole,
    /// and how many were thrown away because someone asked in the meantime.
    pub(super) fn advance(&mut self, mut taken: usize) -> (u64, u64) {
        self.in_flight = 0;
        self.bytes -= taken;
        let mut events = 0;
        while let Some(first) = self.frames.front() {
            let left = first.len() - self.written;
            if taken < left {
                self.written += taken;
                break;
            }
            taken -= left;
            self.written = 0;
            events += u64::from(first.is_event());
            self.pop_front();
        }
        let dropped = if mem::take(&mut self.discard) { self.discard_rest() } else { 0 };
        (events, dropped)
    }

    /// Throws whole unwritten frames away, now or when the owner has written; answers how many events went now.
    pub(super) fn discard(&mut self) -> u64 {
        if self.in_flight > 0 {
            self.discard = true;
            return 0;
        }
        self.discard_rest()
    }

    /// Throws away the oldest whole frames that are not being written until the backlog keeps the bounds.
    pub(super) fn discard_oldest(&mut self, max_bytes: usize, max_frames: usize) -> u64 {
        let keep = self.in_flight.max(usize::from(self.written > 0));
        let mut events = 0;
        while self.frames.len() > keep + 1 && (self.bytes > max_bytes || self.frames.len() > max_frames) {
            let Some(frame) = self.frames.remove(keep) else { break };
            self.bytes -= frame.len();
            events += u64::from(frame.is_event());
            self.forget(&frame);
        }
        events
    }

    /// Events that wait.
    pub(super) fn events(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.is_event())).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Close frames that were appended behind the discarded ones are kept: they are no events.
    fn discard_rest(&mut self) -> u64 {
        let begun = usize::from(self.written > 0);
        let mut dropped = 0;
        let mut kept = VecDeque::with_capacity(2);
        for (at, frame) in mem::take(&mut self.frames).into_iter().enumerate() {
            if at < begun || frame.is_close() {
                kept.push_back(frame);
                continue;
            }
            dropped += u64::from(frame.is_event());
            self.bytes -= frame.len();
            self.forget(&frame);
        }
        self.frames = kept;
        dropped
    }

    fn pop_front(&mut self) {
        if let Some(frame) = self.frames.pop_front() {
            self.forget(&frame);
        }
    }

    fn forget(&self, frame: &Frame) {
        if frame.forget_refused() {
            self.total.fetch_sub(frame.len(), Relaxed);
        }
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

    #[test]
    fn refused_bytes_are_counted_once_however_many_sockets_refused_them() {
        let total = Arc::new(AtomicUsize::new(0));
        let shared = frame(98);
        let mut boxes: Vec<Backlog> = (0..3).map(|_| Backlog::new(total.clone())).collect();
        for backlog in &mut boxes {
            backlog.push(shared.clone());
        }
        assert_eq!(total.load(Relaxed), 100);
        boxes.truncate(1);
        assert_eq!(total.load(Relaxed), 100);
        assert_eq!(boxes[0].advance(100), (1, 0));
        assert_eq!(total.load(Relaxed), 0);
    }

    #[test]
    fn a_frame_begun_is_finished_and_the_rest_is_thrown_away() {
        let mut backlog = Backlog::new(Arc::default());
        (0..3).for_each(|_| backlog.push(frame(98)));
        backlog.begun(10);
        let mut lent = Vec::new();
        assert_eq!(backlog.lend(limits::WRITE_VECTORS, &mut lent), 10);
        assert_eq!(backlog.discard(), 0, "the owner is writing");
        backlog.push(Frame::close(&Close::new(4101, "too slow")));
        assert_eq!(
            backlog.advance(95),
            (1, 1),
            "the second frame was begun by this write, the third was not"
        );
        assert_eq!((backlog.len(), backlog.bytes()), (2, 95 + 12));
        assert_eq!(backlog.advance(95 + 12), (1, 0));
        assert!(backlog.is_empty());
    }

    #[test]
    fn the_oldest_go_first_where_that_is_the_policy() {
        let mut backlog = Backlog::new(Arc::default());
        (0..5).for_each(|_| backlog.push(frame(98)));
        backlog.begun(1);
        assert_eq!(backlog.discard_oldest(250, 1000), 3);
        assert_eq!((backlog.len(), backlog.bytes()), (2, 199));
    }
}
