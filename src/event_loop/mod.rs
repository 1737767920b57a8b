//! A shard's thread: its sockets, the writing of what was placed, and the watch over heartbeats and deadlines.
//!
//! Everything here belongs to one thread and is reached through `Rc`; other threads reach the shard's
//! [table](crate::hub) only.

mod deadlines;
mod flush;
mod heartbeats;
mod leaving;
mod pages;
mod stored;
mod unfinished;
mod watch;
mod write;

use std::{
    cell::{Cell, RefCell},
    io::{self, Read},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use deadlines::{Deadlines, Due, until};
use heartbeats::Heartbeats;
use leaving::Leaving;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::{io::Interest, net::TcpStream, task::spawn_local};

pub(crate) use self::unfinished::{GivenUp, Unfinished, UnfinishedMessage};
use crate::{
    hub::{Hub, Owner, Shard, SlotRef, Table},
    limits::{EXPIRED_SPREAD, HELD_BYTES, READ_BUFFER, TICK, UNFINISHED_BYTES},
    supervisor::Supervisor,
};

/// A connection's socket, on the thread that owns it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) socket: TcpStream,
    pub(crate) at: SlotRef,
    /// A ping was sent, and nothing has come since.
    awaiting: Cell<bool>,
    /// How many pings were sent.
    pings: Cell<u32>,
    /// A deadline is out for the answer to one that left the socket late.
    waits: Cell<bool>,
    /// When the socket last took a byte, if it refuses.
    stalled: Cell<Option<Instant>>,
    /// A deadline is out for a socket that refuses.
    is_watched: Cell<bool>,
    /// A ping was sent, and no pong has come since.
    pub(crate) pinged: Cell<bool>,
    /// Its client has shown a good token, and waits to be let in.
    vouched: Cell<bool>,
    /// When its token ends, in Unix seconds; [`NEVER`] if it does not.
    expiry: Cell<u32>,
    /// The end for which a deadline is out; [`NEVER`] if none is.
    expected: Cell<u32>,
}

/// What stands in the place of one slot: who is seated there now, if anyone.
///
/// The generation is here, not in the seat alone: to find a socket, a write touches this entry, and of the seat only the
/// cache line that holds the descriptor. So the size of tokio's socket, which depends on the features that the embedding
/// program chose, does not matter.
#[derive(Clone, Debug, Default)]
struct SeatEntry {
    generation: u32,
    seat: Option<Rc<Seat>>,
}

// Four to a cache line: publications for many go through all of them.
const _: () = assert!(size_of::<SeatEntry>() <= 16);

impl SeatEntry {
    /// The seat of `at`, unless its slot has another tenant or none.
    fn of(seats: &[Self], at: SlotRef) -> Option<&Rc<Seat>> {
        let entry = seats.get(at.slot as usize)?;
        entry
            .seat
            .as_ref()
            .filter(|_| entry.generation == at.generation)
    }
}

/// The second, in 2106, that no deadline is set for.
const NEVER: u32 = u32::MAX;

impl Seat {
    /// Notes that the client gave a sign of life.
    pub(crate) fn heard(&self) {
        self.awaiting.set(false);
    }

    /// Notes that the client has authenticated, even if it has to wait before it is let in.
    pub(crate) fn vouch(&self) {
        self.vouched.set(true);
    }

    /// Whether the kernel holds bytes for the client that it has not sent yet: the client's side takes them too slowly.
    fn has_unsent(&self) -> bool {
        let socket = socket2::SockRef::from(&self.socket);
        // With this mark the kernel calls a socket writable only while fewer unsent bytes than the mark wait in it.
        if socket.set_tcp_notsent_lowat(1).is_err() {
            return false;
        }
        let mut polled = [PollFd::new(&self.socket, PollFlags::OUT)];
        let polled = poll(&mut polled, Some(&Timespec::default()));
        // Fails only if the socket is broken; the reader will see that.
        let _ = socket.set_tcp_notsent_lowat(0);
        matches!(polled, Ok(0))
    }

    /// Lets the kernel end the connection once the client's side has acknowledged nothing for `wait`.
    fn end_if_silent_for(&self, wait: Duration) {
        let socket = socket2::SockRef::from(&self.socket);
        // Without it a client that reads nothing more is found as soon as its socket refuses.
        let _ = socket.set_tcp_user_timeout(Some(wait));
    }

    /// Ends the socket in both directions, so that whoever waits on it wakes up; unsent bytes are thrown away.
    pub(crate) fn reset(&self) {
        let socket = socket2::SockRef::from(&self.socket);
        // Both fail only if the peer is gone already, which is what is wanted.
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }
}

/// One shard's thread.
#[derive(Debug)]
pub(crate) struct EventLoop {
    hub: Arc<Hub>,
    shard: Arc<Shard>,
    index: usize,
    /// By slot.
    seats: RefCell<Vec<SeatEntry>>,
    deadlines: RefCell<Deadlines>,
    /// Borrowed while a batch is out, and by what places a replay.
    owner: RefCell<Owner>,
    buffer: RefCell<Box<[u8]>>,
    heartbeats: RefCell<Heartbeats>,
    leaving: Leaving,
    unfinished: Unfinished,
    /// What came behind messages that have yet to be done.
    held: Unfinished,
    /// How often the writer went round.
    flushes: Cell<u64>,
}

impl EventLoop {
    pub(crate) fn new(hub: Arc<Hub>, index: usize) -> Rc<Self> {
        let heartbeats = Heartbeats::new(hub.limits());
        let unfinished_bytes = UNFINISHED_BYTES / hub.shards().len();
        Rc::new(Self {
            shard: hub.shard(index).clone(),
            seats: RefCell::default(),
            deadlines: RefCell::new(Deadlines::new()),
            owner: RefCell::new(hub.shard(index).owner()),
            index,
            buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            heartbeats: RefCell::new(heartbeats),
            leaving: Leaving::default(),
            unfinished: Unfinished::new(unfinished_bytes),
            held: Unfinished::new(HELD_BYTES / hub.shards().len()),
            hub,
            flushes: Cell::new(0),
        })
    }

    /// Starts the tasks that write and watch; they live as long as the thread's runtime.
    pub(crate) fn start(self: &Rc<Self>, supervisor: &Supervisor) {
        let named = |task: &str| format!("{task} of shard {}", self.index);
        spawn_local(supervisor.run(&named("leaving"), self.leaving.work()));
        spawn_local(supervisor.run(&named("flush"), self.clone().flush()));
        spawn_local(supervisor.run(&named("watch"), self.clone().watch()));
    }

    pub(crate) fn shard(&self) -> &Arc<Shard> {
        &self.shard
    }

    /// Runs `f` under the shard's lock, as [`Shard::with`] does, with the owner's right to place what blocks a socket.
    pub(crate) fn with_owner<T>(&self, f: impl FnOnce(&mut Table, &mut Owner) -> T) -> T {
        let mut owner = self.owner.borrow_mut();
        self.shard.with(|table| f(table, &mut owner))
    }

    /// Seats a socket for the connection in `at`.
    pub(crate) fn seat(&self, socket: TcpStream, at: SlotRef) -> Rc<Seat> {
        let seat = Rc::new(Seat {
            socket,
            at,
            awaiting: Cell::new(false),
            pings: Cell::new(0),
            waits: Cell::new(false),
            stalled: Cell::new(None),
            is_watched: Cell::new(false),
            pinged: Cell::new(false),
            vouched: Cell::new(false),
            expiry: Cell::new(NEVER),
            expected: Cell::new(NEVER),
        });
        let mut seats = self.seats.borrow_mut();
        if seats.len() <= at.slot as usize {
            seats.resize(at.slot as usize + 1, SeatEntry::default());
        }
        seats[at.slot as usize] = SeatEntry {
            generation: at.generation,
            seat: Some(seat.clone()),
        };
        self.heartbeats.borrow_mut().join(at);
        seat
    }

    /// Does `last` when it is the turn of a connection that has ended: in the order of the calls, and in slices.
    pub(crate) fn see_off(&self, last: impl FnOnce() + 'static) {
        self.leaving.push(Box::new(last));
    }

    /// Forgets the seat of `at`. A task that still drains it is woken and ends.
    pub(crate) fn leave(&self, at: SlotRef) {
        let seat = self
            .seats
            .borrow_mut()
            .get_mut(at.slot as usize)
            .and_then(|entry| entry.seat.take());
        if let Some(seat) = seat
            && seat.stalled.take().is_some()
        {
            self.hub.context().metrics.blocked.dec();
            seat.reset();
        }
    }

    fn seat_of(&self, at: SlotRef) -> Option<Rc<Seat>> {
        SeatEntry::of(&self.seats.borrow(), at).cloned()
    }

    /// The messages of this thread's clients that have begun and not ended.
    pub(crate) fn unfinished(&self) -> &Unfinished {
        &self.unfinished
    }

    /// What this thread's clients have sent behind a message that has yet to be done. It is bounded like unfinished messages,
    /// and may wait for as long as that takes.
    pub(crate) fn held(&self) -> &Unfinished {
        &self.held
    }

    /// Reads once into the thread's buffer and hands `each` what came; returns the number of bytes, 0 at the end of the
    /// stream.
    ///
    /// # Errors
    /// Those of the socket.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        seat: &Seat,
        each: impl FnOnce(&mut [u8]),
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(seat.socket.poll_read_ready(cx))?;
            let mut buffer = self.buffer.borrow_mut();
            match read_once(&seat.socket, &mut buffer) {
                Ok(n) => {
                    each(&mut buffer[..n]);
                    return Poll::Ready(Ok(n));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Closes `at` with 4001 if it has not authenticated within `wait`.
    pub(crate) fn expect_authentication(&self, at: SlotRef, wait: Duration) {
        self.deadlines
            .borrow_mut()
            .push(wait, at, Due::Authentication);
    }

    /// Closes `at` with 4005 when its token ends, unless it was renewed by then.
    pub(crate) fn expect_expiry(&self, at: SlotRef, unix: u64) {
        let Some(seat) = self.seat_of(at) else { return };
        seat.expiry.set(u32::try_from(unix).unwrap_or(NEVER));
        self.note_expiry(&seat);
    }

    /// Notes when the token of `seat` ends if that is before its next heartbeat; if it is later, that heartbeat looks again.
    fn note_expiry(&self, seat: &Seat) {
        let second = seat.expiry.get();
        // A deadline that is out and comes no later will look again: a client that renews in a loop adds nothing.
        if second >= seat.expected.get() {
            return;
        }
        let wait = until(u64::from(second));
        if wait > self.hub.limits().heartbeat + 2 * TICK {
            return;
        }
        seat.expected.set(second);
        self.deadlines
            .borrow_mut()
            .push(wait + spread(seat.at), seat.at, Due::Expiry(second));
    }
}

/// Reads what a socket has that is said to be readable.
///
/// A read that does not fill the buffer has emptied the socket, as tokio assumes in its own `poll_read`: so the socket
/// counts as unreadable from then on, without a system call that finds nothing.
fn read_once(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut emptied = None;
    let read = socket.try_io(Interest::READABLE, || {
        let n = (&*socket2::SockRef::from(socket)).read(buffer)?;
        if n > 0 && n < buffer.len() {
            emptied = Some(n);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(n)
    });
    emptied.map_or(read, Ok)
}

/// How long after its token's end a connection is closed, at most [`EXPIRED_SPREAD`]: tokens that were signed together end
/// together.
fn spread(at: SlotRef) -> Duration {
    // Slots are given out one after another; so those of one second are spread evenly.
    let part = at.slot.wrapping_mul(0x9E37_79B1);
    EXPIRED_SPREAD.mul_f64(f64::from(part) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
