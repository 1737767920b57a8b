//! HTTP connections that take too long: one look per tick at all of them, without a timer per request.
//!
//! A head must arrive in one time, short, so that nobody holds sockets by dribbling; between requests a connection
//! may rest longer than any load balancer keeps one open, so that none is closed under a request.

use std::{
    cell::RefCell,
    fmt, io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{net::TcpStream, sync::Notify};

use crate::{
    limits::{Limits, SCAN_CHUNK, TICK},
    time_slice::TimeSlice,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waiting for the rest of a request's head; the first is due from the moment of accepting.
    Head,
    /// A request is being answered; bodies and calls have bounds of their own.
    Busy,
    /// Between requests.
    Idle,
    /// A WebSocket's handshake is granted: the answer is held back, to go out with the first frame.
    Upgrading,
}

/// How far one connection is. Its own thread changes it; the one that accepts looks at it.
#[derive(Debug)]
pub(crate) struct ConnectionTimer {
    phase: Mutex<(Phase, Instant)>,
    /// Whether a request on it has shown an API key.
    is_known: AtomicBool,
    /// Requests that were answered on it.
    answered: AtomicU32,
    /// Its socket had nothing more to read since the last request began.
    has_waited: AtomicBool,
    /// Since when its socket takes nothing of an answer; nothing while it does.
    stalled: Mutex<Option<Instant>>,
    /// The answer that someone waits for, if there is one.
    expected: Mutex<Option<Expected>>,
    /// Sockets of the node whose requests wait on behalf of connections that have places of their own.
    lent: Arc<AtomicUsize>,
    end: Notify,
}

/// What is to be known of an answer once it is on its way: the code that gave it learns that all of it was written, or is dropped
/// with the connection.
pub(crate) trait OnAnswered: Send {
    /// The socket has taken all of it.
    fn written(self: Box<Self>);
}

/// An answer that someone waits for.
struct Expected {
    answering: Box<dyn OnAnswered>,
    /// Bytes of its body that have yet to be written.
    left: usize,
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected")
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

/// A socket does not count among those of HTTP as long as this is held: a client's place stands for it.
#[derive(Debug)]
pub(crate) struct UncountedSocket(Arc<AtomicUsize>);

impl Drop for UncountedSocket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl ConnectionTimer {
    /// Of a socket that was just accepted; `lent` counts those that are [`UncountedSocket`].
    pub(crate) fn new(lent: Arc<AtomicUsize>) -> Self {
        Self {
            phase: Mutex::new((Phase::Head, Instant::now())),
            is_known: AtomicBool::new(false),
            answered: AtomicU32::new(0),
            has_waited: AtomicBool::new(true),
            stalled: Mutex::new(None),
            expected: Mutex::new(None),
            lent,
            end: Notify::new(),
        }
    }

    fn enter(&self, phase: Phase) {
        *self.phase.lock() = (phase, Instant::now());
    }

    /// A request's head is complete.
    pub(crate) fn busy(&self) {
        // The moment stays as it is, since a busy connection has no deadline.
        self.phase.lock().0 = Phase::Busy;
    }

    /// The request is answered.
    pub(crate) fn idle(&self) {
        // Only the connection's own thread counts.
        let answered = self.answered.load(Relaxed).saturating_add(1);
        self.answered.store(answered, Relaxed);
        self.enter(Phase::Idle);
    }

    /// Whether its socket had nothing more to read since the last request began. False for a request that came right
    /// after it.
    pub(crate) fn begins_after_a_rest(&self) -> bool {
        self.has_waited.swap(false, Relaxed)
    }

    /// How many requests were answered on it.
    pub(crate) fn answered(&self) -> u32 {
        self.answered.load(Relaxed)
    }

    /// The request is answered by an upgrade.
    pub(crate) fn upgrading(&self) {
        self.enter(Phase::Upgrading);
    }

    /// A request has shown an API key.
    pub(crate) fn know(&self) {
        self.is_known.store(true, Relaxed);
    }

    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Relaxed)
    }

    /// Since when it waits for a request, or for the rest of one's head; nothing while one is being answered.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        let (phase, since) = *self.phase.lock();
        matches!(phase, Phase::Head | Phase::Idle).then_some(since)
    }

    /// Takes the socket out of those that HTTP may have, while a request on it waits for a client that has a place for that.
    pub(crate) fn lend(&self) -> UncountedSocket {
        self.lent.fetch_add(1, Relaxed);
        UncountedSocket(self.lent.clone())
    }

    /// Lets `answering` know when the answer that is about to be given, with a body of so many bytes, is written.
    pub(crate) fn expect(&self, answering: Box<dyn OnAnswered>, body: usize) {
        *self.expected.lock() = Some(Expected {
            answering,
            left: body,
        });
    }

    fn is_expected(&self) -> bool {
        self.expected.lock().is_some()
    }

    /// Notes what the socket took, or that it takes nothing.
    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        let mut stalled = self.stalled.lock();
        match written {
            Poll::Pending => {
                stalled.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => *stalled = None,
        }
        drop(stalled);
        if let (Poll::Ready(Ok(bytes)), Some(expected)) = (written, &mut *self.expected.lock()) {
            expected.left = expected.left.saturating_sub(*bytes);
        }
    }

    /// Notes that nothing of what was given is unwritten.
    fn note_flush(&self) {
        // The head is counted with the body, so `left` reaches 0 early. Only after a flush hyper
        // holds nothing back.
        let written = self.expected.lock().take_if(|expected| expected.left == 0);
        if let Some(expected) = written {
            expected.answering.written();
        }
    }

    /// Ends the connection.
    pub(crate) fn end(&self) {
        self.end.notify_one();
    }

    /// Waits until the connection is to end: it has taken too long, or makes room for another. Cancel-safe.
    pub(crate) async fn over(&self) {
        self.end.notified().await;
    }

    fn is_over(&self, now: Instant, timers: &ConnectionTimers) -> bool {
        let stalled = *self.stalled.lock();
        if stalled.is_some_and(|since| now.saturating_duration_since(since) >= timers.stall) {
            return true;
        }
        let (phase, since) = *self.phase.lock();
        let age = now.saturating_duration_since(since);
        match phase {
            Phase::Head | Phase::Upgrading => age >= timers.head,
            Phase::Busy => false,
            Phase::Idle => age >= timers.idle,
        }
    }
}

/// The HTTP connections of one thread.
#[derive(Debug)]
pub(crate) struct ConnectionTimers {
    timers: RefCell<Vec<Weak<ConnectionTimer>>>,
    head: Duration,
    idle: Duration,
    stall: Duration,
}

impl ConnectionTimers {
    pub(crate) fn new(limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            timers: RefCell::default(),
            head: limits.handshake,
            idle: limits.http_idle,
            stall: limits.outbox_age,
        })
    }

    /// Puts a socket under watch.
    pub(crate) fn over(&self, socket: TcpStream, timer: Arc<ConnectionTimer>) -> TimedSocket {
        self.timers.borrow_mut().push(Arc::downgrade(&timer));
        TimedSocket {
            io: TokioIo::new(socket),
            timer,
            held: Vec::new(),
        }
    }

    /// Looks at all connections once per tick, until the server ends.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await.into_std();
            let mut slice = TimeSlice::begin();
            let mut at = 0;
            // Connections that come in the meantime are appended, and have time.
            while self.look_at_some(&mut at, now) {
                slice.rest().await;
            }
        }
    }

    /// Looks at a few connections from the one at `at` on; false at the end.
    fn look_at_some(&self, at: &mut usize, now: Instant) -> bool {
        let mut timers = self.timers.borrow_mut();
        for _ in 0..SCAN_CHUNK {
            let Some(timer) = timers.get(*at) else {
                return false;
            };
            match timer.upgrade() {
                Some(timer) if !timer.is_over(now, self) => *at += 1,
                over => {
                    over.inspect(|timer| timer.end());
                    // The one that comes in its place is looked at next.
                    timers.swap_remove(*at);
                }
            }
        }

        true
    }
}

/// A socket whose reads are noticed, and which holds back the answer to a handshake: written by itself, it would cost a
/// system call, and wake the client, for nothing.
#[derive(Debug)]
pub(crate) struct TimedSocket {
    io: TokioIo<TcpStream>,
    timer: Arc<ConnectionTimer>,
    held: Vec<u8>,
}

impl TimedSocket {
    /// The socket alone, and what was held back.
    pub(crate) fn into_socket(self) -> (TcpStream, Vec<u8>) {
        (self.io.into_inner(), self.held)
    }

    /// Refuses to write an answer that someone waits for to a client that has hung up: it would count as read.
    fn expect_reader(&self) -> io::Result<()> {
        if !self.timer.is_expected() {
            return Ok(());
        }
        let mut polled = [PollFd::new(self.io.inner(), PollFlags::RDHUP)];
        let ended = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        // Fails only if the socket is broken, which the write then shows.
        let _ = poll(&mut polled, Some(&Timespec::default()));
        if polled[0].revents().intersects(ended) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    fn holds(&self) -> bool {
        self.timer.phase.lock().0 == Phase::Upgrading
    }
}

impl Read for TimedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_pending() {
            self.timer.has_waited.store(true, Relaxed);
        }
        // The time of a head begins with its first byte.
        if read.is_ready() && self.timer.phase.lock().0 == Phase::Idle {
            self.timer.enter(Phase::Head);
        }
        read
    }
}

impl Write for TimedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.holds() {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        self.expect_reader()?;
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        self.timer.note_write(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() {
            self.timer.note_flush();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.holds() {
            for buf in bufs {
                self.held.extend_from_slice(buf);
            }
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        self.expect_reader()?;
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.timer.note_write(&written);
        written
    }
}
