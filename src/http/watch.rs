//! HTTP connections that take too long: one look per tick at all of them, without a timer per request.
//!
//! A head must arrive in one time, short, so that nobody holds sockets by dribbling; between requests a connection
//! may rest longer than any load balancer keeps one open, so that none is closed under a request.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    rc::Rc,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::{net::TcpStream, sync::Notify};

use crate::{
    limits::{Limits, SWEEP_STRIDE, TICK},
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

/// Where one connection stands. Its own thread changes it; the one that accepts looks at it.
#[derive(Debug)]
pub(crate) struct Life {
    phase: Mutex<(Phase, Instant)>,
    /// Whether a request on it has shown an API key.
    is_known: AtomicBool,
    /// Requests that were answered on it.
    answered: AtomicU32,
    /// Its socket had nothing more to read since the last request began.
    has_waited: AtomicBool,
    end: Notify,
}

impl Life {
    /// Of a socket that was just accepted.
    pub(crate) fn new() -> Self {
        Self {
            phase: Mutex::new((Phase::Head, Instant::now())),
            is_known: AtomicBool::new(false),
            answered: AtomicU32::new(0),
            has_waited: AtomicBool::new(true),
            end: Notify::new(),
        }
    }

    fn enter(&self, phase: Phase) {
        *self.phase.lock() = (phase, Instant::now());
    }

    /// A request's head is complete.
    pub(crate) fn busy(&self) {
        self.phase.lock().0 = Phase::Busy;
    }

    /// The request is answered.
    pub(crate) fn idle(&self) {
        // Only the connection's own thread counts.
        let answered = self.answered.load(Relaxed).saturating_add(1);
        self.answered.store(answered, Relaxed);
        self.enter(Phase::Idle);
    }

    /// Whether others had their turn since the last request began: false for one that came right behind it.
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

    /// Ends the connection.
    pub(crate) fn end(&self) {
        self.end.notify_one();
    }

    /// Waits until the connection is to end: it has taken too long, or makes room for another. Cancel-safe.
    pub(crate) async fn over(&self) {
        self.end.notified().await;
    }

    fn is_over(&self, now: Instant, watch: &Watch) -> bool {
        let (phase, since) = *self.phase.lock();
        let age = now.saturating_duration_since(since);
        match phase {
            Phase::Head | Phase::Upgrading => age >= watch.head,
            Phase::Busy => false,
            Phase::Idle => age >= watch.idle,
        }
    }
}

/// The HTTP connections of one thread.
#[derive(Debug)]
pub(crate) struct Watch {
    lives: RefCell<Vec<Weak<Life>>>,
    head: Duration,
    idle: Duration,
}

impl Watch {
    pub(crate) fn new(limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            lives: RefCell::default(),
            head: limits.handshake,
            idle: limits.http_idle,
        })
    }

    /// Puts a socket under watch.
    pub(crate) fn over(&self, socket: TcpStream, life: Arc<Life>) -> Watched {
        self.lives.borrow_mut().push(Arc::downgrade(&life));
        Watched {
            io: TokioIo::new(socket),
            life,
            held: Vec::new(),
        }
    }

    /// Looks at all connections once per tick, for ever.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = ticks.tick().await.into_std();
            let mut slice = TimeSlice::begin();
            let mut at = 0;
            // What comes in meanwhile is appended, and has time.
            while self.look_at_some(&mut at, now) {
                slice.rest().await;
            }
        }
    }

    /// Looks at a few connections from the one at `at` on; false at the end.
    fn look_at_some(&self, at: &mut usize, now: Instant) -> bool {
        let mut lives = self.lives.borrow_mut();
        for _ in 0..SWEEP_STRIDE {
            let Some(life) = lives.get(*at) else {
                return false;
            };
            match life.upgrade() {
                Some(life) if !life.is_over(now, self) => *at += 1,
                over => {
                    over.inspect(|life| life.end());
                    lives.swap_remove(*at);
                }
            }
        }
        true
    }
}

/// A socket whose reads are noticed, and which holds back the answer to a handshake: written by itself, it would cost a
/// system call, and wake the client, for nothing.
#[derive(Debug)]
pub(crate) struct Watched {
    io: TokioIo<TcpStream>,
    life: Arc<Life>,
    held: Vec<u8>,
}

impl Watched {
    /// The socket alone, and what was held back.
    pub(crate) fn into_socket(self) -> (TcpStream, Vec<u8>) {
        (self.io.into_inner(), self.held)
    }

    fn holds(&self) -> bool {
        self.life.phase.lock().0 == Phase::Upgrading
    }
}

impl Read for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if read.is_pending() {
            self.life.has_waited.store(true, Relaxed);
        }
        if read.is_ready() && self.life.phase.lock().0 == Phase::Idle {
            self.life.enter(Phase::Head);
        }
        read
    }
}

impl Write for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.holds() {
            self.held.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
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
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }
}
